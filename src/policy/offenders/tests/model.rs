//! The same by lists of all that ever happened.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::*;

/// What a step does.
#[derive(Debug, Clone)]
enum Step {
    Offend(usize, usize, Offence),
    Claim(usize, usize),
    Commend(usize, usize),
    Pardon(usize),
    Wait(u64),
}

/// The steps of a cluster with some addresses of each kind.
fn step() -> impl Strategy<Value = Step> {
    let offence = prop_oneof![4 => Just(Offence::WrongCookie), 2 => Just(Offence::Malformed), 1 => Just(Offence::TooManyNames)];
    let wait = prop_oneof![6 => 0u64..3_000, 2 => 3_000u64..80_000, 1 => Just(25 * 3_600_000u64)];
    prop_oneof![
        12 => (0..WHO.len(), 0..7usize, offence).prop_map(|(who, name, what)| Step::Offend(who, name, what)),
        8 => (0..WHO.len(), 0..7usize).prop_map(|(who, name)| Step::Claim(who, name)),
        1 => (0..WHO.len(), 0..7usize).prop_map(|(who, name)| Step::Commend(who, name)),
        1 => (0..NETS.len()).prop_map(Step::Pardon),
        6 => wait.prop_map(Step::Wait),
    ]
}

const WHO: [(&str, char); 12] = [
    ("192.0.2.1", '='),
    ("192.0.2.2", 'n'),
    ("192.0.2.3", 'p'),
    ("192.0.2.4", '.'),
    ("192.0.2.5", '.'),
    ("2001:db8::1", '.'),
    ("2001:db8::2", '.'),
    ("2001:db8::3", '.'),
    ("2001:db8::4", '.'),
    ("2001:db8::5", '.'),
    ("2001:db8::6", 'n'),
    ("2001:db8:0:1::1", '.'),
];
const NETS: [&str; 6] =
    ["192.0.2.4", "192.0.2.0/24", "2001:db8::1", "2001:db8::/64", "2001:db8::/32", "::/0"];

fn who(at: usize) -> Source {
    let (ip, kind) = WHO[at];
    match kind {
        '=' => Source { standing: Standing::Itself, ..source(ip) },
        'n' => named(ip),
        'p' => Source { is_peer: IsPeer::Yes, ..source(ip) },
        _ => source(ip),
    }
}

fn small() -> BanRules {
    BanRules {
        slow_after: 2,
        slow_first: Duration::from_millis(700),
        slow_most: Duration::from_millis(2500),
        after: 3,
        within: 10 * SECOND,
        first: 5 * SECOND,
        most: 60 * SECOND,
        names: 3,
        names_within: 20 * SECOND,
        entries: 1000,
    }
}

#[derive(Debug, Default)]
struct Model {
    counted: Vec<(IpNet, Moment)>,
    bans: HashMap<IpNet, (Moment, u32)>,
    claims: Vec<(IpNet, usize, Moment)>,
    links: Vec<(IpAddr, usize, Moment)>,
    /// Wrong proofs so far, the last one, and the next turn.
    slow: HashMap<(IpAddr, usize), (u32, Moment, Moment)>,
}

impl Model {
    fn is_good(&self, ip: IpAddr, now: Moment) -> bool {
        self.links.iter().any(|(good, _, at)| *good == ip && now.since(*at) < GOOD_FOR)
    }

    fn is_proven(&self, ip: IpAddr, name: usize, now: Moment) -> bool {
        // A name is known for as long as its address is good without a break.
        let links = self.links.iter().filter(|(good, _, _)| *good == ip).collect::<Vec<_>>();
        let Some(from) = links.iter().position(|(_, proven, _)| *proven == name) else { return false };
        (from..links.len()).rev().any(|from| {
            let chain = links[from..].iter().map(|link| link.2).chain([now]).collect::<Vec<_>>();
            links[from].1 == name && chain.windows(2).all(|pair| pair[1].since(pair[0]) < GOOD_FOR)
        })
    }

    fn is_exempt(&self, who: &Source, now: Moment) -> bool {
        !matches!(who.standing, Standing::NetworkPeer(_))
            || who.is_peer == IsPeer::Yes
            || self.is_good(who.ip, now)
    }

    fn is_banned(&self, who: &Source, now: Moment) -> bool {
        let nets = [Some(IpNet::from(who.ip)), subnet(who.ip)];
        let bans = nets.into_iter().flatten().filter_map(|net| self.bans.get(&net));
        !self.is_exempt(who, now) && bans.into_iter().any(|(until, _)| *until > now)
    }

    fn slow_of(&self, ip: IpAddr, name: usize, now: Moment) -> (u32, Moment, Moment) {
        let slow = self.slow.get(&(ip, name)).copied().unwrap_or_default();
        if now.since(slow.1) < small().within { slow } else { Default::default() }
    }

    fn cost(wrong: u32) -> Duration {
        if wrong <= 2 {
            Duration::ZERO
        } else {
            (small().slow_first * 2u32.pow((wrong - 3).min(9))).min(small().slow_most)
        }
    }

    fn claim(&mut self, who: &Source, name: usize, now: Moment) -> Result<Duration, Held> {
        if who.standing == Standing::Itself {
            return Ok(Duration::ZERO);
        }
        let (wrong, last, turn) = self.slow_of(who.ip, name, now);
        if turn.since(now) > small().slow_most {
            return Err(Held::Slowed);
        }
        if !self.is_proven(who.ip, name, now) {
            let of_subnet = subnet(who.ip).filter(|_| !self.is_exempt(who, now));
            let nets = [(Some(IpNet::from(who.ip)), 3), (of_subnet, 12)];
            let nets: Vec<_> = nets.into_iter().filter_map(|(net, most)| Some((net?, most))).collect();
            for (net, most) in &nets {
                let live = self
                    .claims
                    .iter()
                    .filter(|(of, _, at)| of == net && now.since(*at) < small().names_within);
                let names: HashSet<usize> = live.map(|(_, name, _)| *name).collect();
                if !names.contains(&name) && names.len() >= *most {
                    let is_of_subnet = Some(*net) == of_subnet;
                    return Err(if is_of_subnet { Held::TooManyNamesOfSubnet } else { Held::TooManyNames });
                }
            }
            self.claims.extend(nets.into_iter().map(|(net, _)| (net, name, now)));
        }
        if wrong > 0 {
            self.slow.insert((who.ip, name), (wrong, last, turn.max(now).after(Self::cost(wrong))));
        }
        Ok(turn.since(now))
    }

    fn offend(&mut self, who: &Source, name: usize, what: Offence, now: Moment) -> Consequence {
        if who.standing == Standing::Itself || self.is_banned(who, now) {
            return Consequence::None;
        }
        let mut wait = Duration::ZERO;
        if what == Offence::WrongCookie {
            let (wrong, _, turn) = self.slow_of(who.ip, name, now);
            let turn = turn.max(now.after(Self::cost(wrong + 1)));
            self.slow.insert((who.ip, name), (wrong + 1, now, turn));
            wait = turn.since(now);
        }
        let mut led = Vec::new();
        if !self.is_exempt(who, now) {
            for (net, after) in [(Some(IpNet::from(who.ip)), 3), (subnet(who.ip), 12)] {
                led.extend(net.and_then(|net| self.count(net, after, now)));
            }
        }
        match led.into_iter().max() {
            Some((until, times)) => Consequence::Banned(until.since(now), times),
            None if wait.is_zero() => Consequence::None,
            None => Consequence::Slowed(wait),
        }
    }

    fn count(&mut self, net: IpNet, after: usize, now: Moment) -> Option<(Moment, u32)> {
        self.counted.push((net, now));
        let part = |at: Moment| at.0 / 1250;
        let count = self.counted.iter().filter(|(of, at)| *of == net && part(*at) + 8 >= part(now)).count();
        if count < after {
            return None;
        }
        self.counted.retain(|(of, _)| *of != net);
        let before = self.bans.get(&net).filter(|(until, _)| now.since(*until) <= small().most);
        let times = before.map_or(1, |(_, times)| times + 1);
        let ban = (now.after((small().first * 4u32.pow(times.min(9) - 1)).min(small().most)), times);
        self.bans.insert(net, ban);
        Some(ban)
    }

    fn commend(&mut self, who: &Source, name: usize, now: Moment) {
        if who.standing == Standing::Itself {
            return;
        }
        let (address, subnet) = (IpNet::from(who.ip), subnet(who.ip));
        self.links.push((who.ip, name, now));
        self.claims.retain(|(net, claimed, _)| *claimed != name || (*net != address && Some(*net) != subnet));
        self.slow.remove(&(who.ip, name));
        self.bans.remove(&address);
        self.counted.retain(|(net, _)| *net != address);
    }

    fn pardon(&mut self, net: IpNet, now: Moment) -> usize {
        let is_meant = |known: &IpNet| net.contains(known) || known.contains(&net);
        let lifted = self.bans.iter().filter(|(net, (until, _))| is_meant(net) && *until > now).count();
        self.bans.retain(|net, _| !is_meant(net));
        self.counted.retain(|(net, _)| !is_meant(net));
        self.claims.retain(|(net, _, _)| !is_meant(net));
        self.slow.retain(|(ip, _), _| !is_meant(&IpNet::from(*ip)));
        lifted
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn it_does_as_one_who_remembers_everything(steps in proptest::collection::vec(step(), 0..250)) {
        let (mut table, mut model, mut now) = (offenders(small()), Model::default(), THEN);
        for step in steps {
            let name = |name: usize| format!("n{name}@h");
            match step {
                Step::Wait(milliseconds) => now = now.after(Duration::from_millis(milliseconds)),
                Step::Offend(at, of, what) => {
                    prop_assert_eq!(table.offend(&who(at), &name(of), what, now), model.offend(&who(at), of, what, now));
                }
                Step::Claim(at, of) => {
                    prop_assert_eq!(table.claim(&who(at), &name(of), now), model.claim(&who(at), of, now));
                }
                Step::Commend(at, of) => {
                    table.commend(&who(at), &name(of), now);
                    model.commend(&who(at), of, now);
                }
                Step::Pardon(at) => prop_assert_eq!(table.pardon(net(NETS[at]), now), model.pardon(net(NETS[at]), now)),
            }
            let banned: HashSet<IpNet> = table.bans(now).iter().map(|ban| ban.net).collect();
            let known: HashSet<IpNet> = model.bans.iter().filter(|(_, (until, _))| *until > now).map(|(net, _)| *net).collect();
            prop_assert_eq!(banned, known);
            for at in 0..WHO.len() {
                prop_assert_eq!(table.ban_of(&who(at), now).is_some(), model.is_banned(&who(at), now));
            }
        }
    }

    #[test]
    fn its_size_is_bounded_whatever_happens(
        entries in 1u32..6,
        steps in proptest::collection::vec(step(), 0..250),
    ) {
        let rules = BanRules { entries, ..small() };
        let (mut table, mut now) = (offenders(rules), THEN);
        for step in steps {
            let name = |name: usize| format!("n{name}@h");
            match step {
                Step::Wait(milliseconds) => now = now.after(Duration::from_millis(milliseconds)),
                Step::Offend(at, of, what) => drop(table.offend(&who(at), &name(of), what, now)),
                Step::Claim(at, of) => {
                    let wait = table.claim(&who(at), &name(of), now).unwrap_or_default();
                    prop_assert!(wait <= rules.slow_most);
                }
                Step::Commend(at, of) => table.commend(&who(at), &name(of), now),
                Step::Pardon(at) => {
                    table.pardon(net(NETS[at]), now);
                    prop_assert!(table.bans(now).iter().all(|ban| !net(NETS[at]).contains(&ban.net)));
                }
            }
            prop_assert!(table.len() <= entries as usize && table.good() <= entries as usize);
            prop_assert!((0..3).all(|at| table.ban_of(&who(at), now).is_none()));
            prop_assert!(table.indexes_are_whole());
        }
        let records = table.records(now);
        let mut restored = offenders(rules);
        restored.restore(records.clone(), now);
        prop_assert_eq!(restored.bans(now), table.bans(now));
        prop_assert_eq!(restored.good(), records.iter().filter(|record| matches!(record, Record::Good { .. })).count());
    }
}

impl Offenders {
    /// Whether each record stands once in the order of those that go first.
    fn indexes_are_whole(&self) -> bool {
        self.table.is_whole() && self.good.is_whole()
    }
}
