//! The table against a naive one over random lives of a host, and a long day of a large one.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::{Granted, Lease, Refused, Registry, RegistryLimits};
use crate::proto::epmd::{Alive2, AliveName};

const NAMES: [&str; 7] = ["a", "b", "A", "ab", "größe", "my-app_1", "n1"];

/// What happens to a host.
#[derive(Debug, Clone)]
enum Step {
    Register {
        name: usize,
        port: u16,
    },
    /// The connection of one of the leases given so far ends, perhaps not for the first time.
    Release(prop::sample::Index),
    /// STOP.
    Stop {
        name: usize,
    },
    /// The clock ticks, is set forward or is set back.
    Clock(u64),
    Limits(RegistryLimits),
}

/// The same table as plain lists, which are scanned and from which nothing is thrown away.
#[derive(Default)]
struct Naive {
    floor: u64,
    live: Vec<Life>,
    /// In the order in which they went.
    over: Vec<(Life, Fate)>,
}

#[derive(Clone, PartialEq, Debug)]
struct Life {
    lease: Lease,
    name: usize,
    port: u16,
    fd: i32,
    /// The creation without an end at 2^32.
    count: u64,
}

/// What has become of a registration that is over.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Fate {
    Remembered,
    Forgotten,
    /// The name came back while it was remembered.
    Followed,
}

impl Naive {
    fn with(&self, fate: Fate) -> impl Iterator<Item = &Life> {
        self.over.iter().filter(move |(_, f)| *f == fate).map(|(life, _)| life)
    }

    /// What a registration has to answer: the creation, before 2^32 is taken into account.
    fn expects(&self, limits: RegistryLimits, name: usize, now: u64) -> Result<u64, Refused> {
        if self.live.iter().any(|life| life.name == name) {
            return Err(Refused::Taken);
        }
        if self.live.len() >= limits.names {
            return Err(Refused::Full);
        }
        if let Some(before) = self.with(Fate::Remembered).find(|life| life.name == name) {
            return Ok(before.count + 1);
        }
        let highest = self.with(Fate::Forgotten).map(|life| life.count).fold(self.floor, u64::max);
        let clock = if now >= u64::from(u32::MAX) { u64::from(u32::MAX) } else { now + 1 };
        Ok([4, clock, highest + 1].into_iter().max().unwrap())
    }

    fn begins(&mut self, life: Life) {
        for (over, fate) in &mut self.over {
            if over.name == life.name && *fate == Fate::Remembered {
                *fate = Fate::Followed;
            }
        }
        self.live.push(life);
    }

    fn ends(&mut self, lease: Lease, limits: RegistryLimits) -> Option<usize> {
        let at = self.live.iter().position(|life| life.lease == lease)?;
        let life = self.live.remove(at);
        let name = life.name;
        self.over.push((life, Fate::Remembered));
        self.trim(limits);
        Some(name)
    }

    fn trim(&mut self, limits: RegistryLimits) {
        while self.with(Fate::Remembered).count() > limits.remembered {
            let oldest = self.over.iter_mut().find(|(_, fate)| *fate == Fate::Remembered);
            oldest.unwrap().1 = Fate::Forgotten;
        }
    }
}

fn on_the_wire(count: u64) -> u32 {
    let last = u64::from(u32::MAX);
    u32::try_from(if count > last { count - last + 3 } else { count }).unwrap()
}

/// Both tables, driven alike.
struct Host {
    table: Registry,
    naive: Naive,
    limits: RegistryLimits,
    now: u64,
    leases: Vec<Lease>,
    given: HashMap<usize, HashSet<u32>>,
}

impl Host {
    fn new(limits: RegistryLimits, floor: u32, now: u64) -> Self {
        let naive = Naive { floor: floor.into(), ..Naive::default() };
        let table = Registry::new(limits, floor);
        Self { table, naive, limits, now, leases: Vec::new(), given: HashMap::new() }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Register { name, port } => self.register(name, port),
            Step::Release(which) => {
                if !self.leases.is_empty() {
                    self.release(*which.get(&self.leases));
                }
            }
            Step::Stop { name } => {
                let found = self.table.find(NAMES[name].as_bytes()).map(|(lease, _)| lease);
                let expected = self.naive.live.iter().find(|life| life.name == name).map(|life| life.lease);
                assert_eq!(found, expected);
                if let Some(lease) = found {
                    self.release(lease);
                }
            }
            Step::Clock(now) => self.now = now,
            Step::Limits(limits) => {
                self.limits = limits;
                self.naive.trim(limits);
                self.table.set_limits(limits);
            }
        }
        self.compare();
    }

    fn register(&mut self, name: usize, port: u16) {
        let fd = i32::try_from(self.leases.len()).unwrap();
        let request = Alive2 {
            port,
            node_type: 77,
            protocol: 0,
            highest: 6,
            lowest: 5,
            name: AliveName::new(NAMES[name].as_bytes()).unwrap(),
            extra: b"x",
        };
        let answer = self.table.register(&request, fd, self.now);
        let expected = self.naive.expects(self.limits, name, self.now);
        assert_eq!(answer.map(|granted| granted.creation), expected.map(on_the_wire));
        let (Ok(Granted { lease, creation }), Ok(count)) = (answer, expected) else { return };
        assert!(self.leases.last().is_none_or(|&last| lease > last), "{lease:?} is not new");
        assert!(creation > 3);
        assert!(self.given.entry(name).or_default().insert(creation), "{creation} came twice");
        self.leases.push(lease);
        self.naive.begins(Life { lease, name, port, fd, count });
    }

    fn release(&mut self, lease: Lease) {
        let gone = self.table.release(lease);
        let expected = self.naive.ends(lease, self.limits);
        assert_eq!(gone.as_ref().map(|name| name.as_bytes()), expected.map(|name| NAMES[name].as_bytes()));
    }

    fn compare(&self) {
        let Self { table, naive, .. } = self;
        let mut newest_first: Vec<_> = table.newest_first().map(|(lease, _)| lease).collect();
        assert_eq!((table.len(), table.is_empty()), (naive.live.len(), naive.live.is_empty()));
        for (name, text) in NAMES.iter().enumerate() {
            let expected = naive.live.iter().find(|life| life.name == name);
            let found = table.find(text.as_bytes());
            assert_eq!(found.map(|(lease, _)| lease), expected.map(|life| life.lease));
            let Some((life, (lease, entry))) = expected.zip(found) else { continue };
            assert_eq!(table.get(lease), Some(entry));
            assert_eq!(
                (entry.name.as_bytes(), entry.port, entry.fd, entry.creation),
                (text.as_bytes(), life.port, life.fd, on_the_wire(life.count))
            );
        }
        let former: Vec<_> = table.former().map(|f| (f.name.as_bytes(), f.port, f.fd, f.creation)).collect();
        let expected: Vec<_> = naive
            .with(Fate::Remembered)
            .map(|l| (NAMES[l.name].as_bytes(), l.port, l.fd, on_the_wire(l.count)))
            .collect();
        assert_eq!(former, expected);
        assert!(former.len() <= self.limits.remembered);
        newest_first.reverse();
        assert_eq!(newest_first, naive.live.iter().map(|life| life.lease).collect::<Vec<_>>());
        for after in self.leases.iter().copied().map(Some).chain([None]) {
            let later: Vec<_> = table.since(after).map(|(lease, _)| lease).collect();
            let expected: Vec<_> =
                newest_first.iter().copied().filter(|&lease| Some(lease) > after).collect();
            assert_eq!(later, expected, "since {after:?}");
        }
    }
}

fn limits() -> impl Strategy<Value = RegistryLimits> {
    (0usize..9, 0usize..7).prop_map(|(names, remembered)| RegistryLimits { names, remembered })
}

fn steps(clock: impl Strategy<Value = u64> + 'static) -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (0..NAMES.len(), any::<u16>()).prop_map(|(name, port)| Step::Register { name, port }),
        5 => any::<prop::sample::Index>().prop_map(Step::Release),
        2 => (0..NAMES.len()).prop_map(|name| Step::Stop { name }),
        2 => clock.prop_map(Step::Clock),
        1 => limits().prop_map(Step::Limits),
    ];
    prop::collection::vec(step, 0..120)
}

/// Clocks that are wrong by up to a century, but not so late that the creations begin again.
fn clock_before_the_end() -> impl Strategy<Value = u64> {
    prop_oneof![0u64..6, 1_795_408_973u64..1_795_408_990, 0u64..4_294_960_000]
}

/// Clocks around the end of the creations and far behind it.
fn clock_at_the_end() -> impl Strategy<Value = u64> {
    let end = u64::from(u32::MAX);
    prop_oneof![
        3_000_000_000..end,
        end - 6..end + 6,
        Just(u64::MAX),
        any::<u64>().prop_map(move |t| t.max(end))
    ]
}

proptest! {
    #[test]
    fn it_answers_as_plain_lists_would(start in limits(), floor in prop_oneof![Just(0u32), 0u32..8, 0u32..2_000_000_000], steps in steps(clock_before_the_end())) {
        let mut host = Host::new(start, floor, 1_795_408_973);
        for step in steps {
            host.take(step);
        }
    }

    #[test]
    fn it_answers_as_plain_lists_would_where_the_creations_begin_again(start in limits(), floor in 3_000_000_000u32.., steps in steps(clock_at_the_end())) {
        let mut host = Host::new(start, floor, u32::MAX.into());
        for step in steps {
            host.take(step);
        }
    }
}

/// A host of 10,000 names with its nodes restarting, tools that come for one command, a clock that
/// is set, and a program that wants every name there is. A table that scans its names needs minutes
/// for it.
#[test]
fn a_host_of_ten_thousand_names_lives_for_long() {
    const NODES: usize = 10_000;
    let limits = RegistryLimits { names: NODES + 10, remembered: 1000 };
    let mut table = Registry::new(limits, 0);
    let mut now = 1_795_408_973;
    let mut draw = Draw(0x9e37_79b9_7f4a_7c15);
    let mut held: Vec<_> = (0..NODES).map(|node| register(&mut table, &format!("node{node}"), now)).collect();
    for round in 0..100_000 {
        let node = draw.below(NODES);
        let before = held[node];
        assert_eq!(table.release(before.lease).unwrap().as_bytes(), format!("node{node}").as_bytes());
        assert!(table.find(format!("node{node}").as_bytes()).is_none());
        let tool = register(&mut table, &format!("{round}-ctl-node{node}"), now);
        let after = register(&mut table, &format!("node{node}"), now);
        assert_eq!(after.creation, before.creation + 1, "node{node} in round {round}");
        held[node] = after;
        assert!(table.release(tool.lease).is_some());
        assert!(table.release(tool.lease).is_none());
        let (lease, entry) = table.find(format!("node{node}").as_bytes()).unwrap();
        assert_eq!((lease, entry.creation), (after.lease, after.creation));
        assert_eq!(table.newest_first().next().map(|(lease, _)| lease), Some(after.lease));
        assert_eq!(table.since(Some(tool.lease)).count(), 1);
        assert_eq!(table.len(), NODES);
        if round % 100 == 0 {
            assert_eq!(table.former().count(), (round + 1).min(1000));
        }
        now = match draw.below(1000) {
            0 => now.saturating_sub(86_400),
            1 => now + 3600,
            _ => now + 1,
        };
    }
    assert_eq!(table.former().count(), 1000);
    let greedy = (0..NODES).filter(|n| table.register(&request(&format!("greedy{n}")), 7, now).is_ok());
    assert_eq!(greedy.count(), 10);
    let mut order: Vec<_> = held.iter().map(|granted| granted.lease).collect();
    order.sort_unstable();
    assert!(table.newest_first().skip(10).map(|(lease, _)| lease).eq(order.iter().rev().copied()));
    for lease in order {
        assert!(table.release(lease).is_some());
    }
    assert_eq!((table.len(), table.former().count()), (10, 1000));
}

fn register(table: &mut Registry, name: &str, now: u64) -> Granted {
    table.register(&request(name), 7, now).unwrap()
}

fn request(name: &str) -> Alive2<'_> {
    let name = AliveName::new(name.as_bytes()).unwrap();
    Alive2 { port: 9100, node_type: 77, protocol: 0, highest: 6, lowest: 5, name, extra: b"" }
}

/// The same numbers in every run (xorshift).
struct Draw(u64);

impl Draw {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(end).unwrap()).unwrap()
    }
}
