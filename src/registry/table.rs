//! The table itself: registrations, the names that have gone, and what the next creation is.

use super::creation::Count;
use super::roll::{Named, Roll};
use crate::proto::epmd::{Alive2, NodeName, PortReply};

/// What NAMES tells is never longer, whatever the names: everybody who asks is sent a copy of his own.
const MOST_TEXT: usize = 4 << 20;

/// How much a registry holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RegistryLimits {
    /// Registered names at one time.
    pub names: usize,
    /// Names that have gone and are remembered, so that their next creation follows the last.
    pub remembered: usize,
}

/// One registration, for as long as its connection lasts. Never given twice by one registry; a later
/// registration has a greater one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lease(u64);

/// A registered name. Its memory is bounded by what an ALIVE2 can hold: 254 characters of name, 1020
/// bytes of extra.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name.
    pub name: NodeName,
    /// The distribution port, as registered. 0 is possible.
    pub port: u16,
    /// As registered, unchecked.
    pub node_type: u8,
    /// As registered, unchecked.
    pub protocol: u8,
    /// Highest distribution version, as registered.
    pub highest: u16,
    /// Lowest distribution version, as registered.
    pub lowest: u16,
    /// As registered; real nodes leave it empty.
    pub extra: Box<[u8]>,
    /// The descriptor of the connection, which DUMP shows.
    pub fd: i32,
    /// The creation that the node was given.
    pub creation: u32,
}

/// A name that has gone and is remembered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Former {
    /// The name.
    pub name: NodeName,
    /// The port that it had.
    pub port: u16,
    /// The descriptor that its connection had, which DUMP shows.
    pub fd: i32,
    /// The last creation that it was given.
    pub creation: u32,
}

/// What a registration got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Granted {
    /// To be given back when the connection ends.
    pub lease: Lease,
    /// What the node is told, never 0 to 3.
    pub creation: u32,
}

/// Why a name was not registered. Nothing has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The name is registered by another connection, byte for byte.
    #[error("the name is registered already")]
    Taken,
    /// As many names are registered as there may be.
    #[error("as many names are registered as the limit allows")]
    Full,
}

/// The table of names of an epmd.
///
/// A name that is not remembered begins at the time (`now + 1`, as epmd does), one that is remembered
/// continues where it was, whatever the clock says. A name has no creation twice, also where it was
/// forgotten and the clock was set back meanwhile: the table keeps the highest creation that it has
/// forgotten, one number for all names, and a name that begins does so above it. So a name may begin
/// later than the time says. Only all 2^32 - 4 creations going by brings one back.
///
/// Looking a name up costs the same with one name and with 10,000; registering and releasing one
/// grow with the logarithm of that number.
#[derive(Debug)]
pub struct Registry {
    limits: RegistryLimits,
    /// Bytes of what NAMES tells of the names.
    text: usize,
    live: Roll<Live>,
    gone: Roll<Gone>,
    /// Nothing that begins may have this count or a lower one.
    forgotten: Count,
}

#[derive(Debug)]
struct Live {
    entry: Entry,
    count: Count,
}

#[derive(Debug)]
struct Gone {
    former: Former,
    count: Count,
}

impl Named for Live {
    fn name(&self) -> &NodeName {
        &self.entry.name
    }
}

impl Named for Gone {
    fn name(&self) -> &NodeName {
        &self.former.name
    }
}

impl Registry {
    /// An empty table. No creation that it gives is `floor` or below, until all have gone by: 0, or
    /// what a table before this one has given.
    #[must_use]
    pub fn new(limits: RegistryLimits, floor: u32) -> Self {
        Self { limits, text: 0, live: Roll::new(), gone: Roll::new(), forgotten: Count::of(floor) }
    }

    /// Other limits from now on. Registered names above them stay; former names above them are forgotten.
    pub fn set_limits(&mut self, limits: RegistryLimits) {
        self.limits = limits;
        self.forget_what_is_too_much();
    }

    /// Registers a name for a connection.
    ///
    /// `fd` is the descriptor that DUMP shows, `now` is in seconds since 1970, whatever the clock says.
    ///
    /// # Errors
    /// The name is taken (which is looked at first), or the table is full. Nothing has changed then.
    pub fn register(&mut self, alive: &Alive2<'_>, fd: i32, now: u64) -> Result<Granted, Refused> {
        let bytes = alive.name.as_bytes();
        if self.live.find(bytes).is_some() {
            return Err(Refused::Taken);
        }
        if self.live.len() >= self.limits.names || self.text + text_of(bytes) > MOST_TEXT {
            return Err(Refused::Full);
        }
        self.text += text_of(bytes);
        let (name, count) = match self.gone.remove_named(bytes) {
            Some(gone) => (gone.former.name, gone.count.next()),
            None => (alive.name.into(), Count::at(now).max(self.forgotten.next())),
        };
        let creation = count.creation();
        let lease = Lease(self.live.push(Live { entry: Entry::new(name, alive, fd, creation), count }));
        Ok(Granted { lease, creation })
    }

    /// Ends a registration and says which name has gone. `None`: it had ended already.
    pub fn release(&mut self, lease: Lease) -> Option<NodeName> {
        let Live { entry, count } = self.live.remove(lease.0)?;
        let Entry { name, port, fd, creation, .. } = entry;
        self.text = self.text.saturating_sub(text_of(name.as_bytes()));
        self.gone.push(Gone { former: Former { name: name.clone(), port, fd, creation }, count });
        self.forget_what_is_too_much();
        Some(name)
    }

    /// The registration of a name, compared byte by byte.
    #[must_use]
    pub fn find(&self, name: &[u8]) -> Option<(Lease, &Entry)> {
        self.live.find(name).map(leased)
    }

    /// What was registered, while it is.
    #[must_use]
    pub fn get(&self, lease: Lease) -> Option<&Entry> {
        self.live.get(lease.0).map(|live| &live.entry)
    }

    /// The registered names, newest first: the order of NAMES and of DUMP.
    pub fn newest_first(&self) -> impl Iterator<Item = (Lease, &Entry)> {
        self.live.iter().rev().map(leased)
    }

    /// The names that were registered later than `after` and still are, oldest first; all for `None`.
    /// `after` itself may have ended.
    pub fn since(&self, after: Option<Lease>) -> impl Iterator<Item = (Lease, &Entry)> {
        self.live.after(after.map_or(0, |lease| lease.0)).map(leased)
    }

    /// The names that have gone and are remembered, the one that went first at the head: the order of
    /// DUMP (measured on OTP 25).
    pub fn former(&self) -> impl Iterator<Item = &Former> {
        self.gone.iter().map(|(_, gone)| &gone.former)
    }

    /// Registered names.
    #[must_use]
    pub fn len(&self) -> usize {
        self.live.len()
    }

    /// Whether no name is registered, which KILL asks.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn forget_what_is_too_much(&mut self) {
        while self.gone.len() > self.limits.remembered {
            let Some(gone) = self.gone.pop_first() else { return };
            self.forgotten = self.forgotten.max(gone.count);
        }
    }
}

fn leased((number, live): (u64, &Live)) -> (Lease, &Entry) {
    (Lease(number), &live.entry)
}

impl Entry {
    fn new(name: NodeName, alive: &Alive2<'_>, fd: i32, creation: u32) -> Self {
        let Alive2 { port, node_type, protocol, highest, lowest, name: _, extra } = *alive;
        Self { name, port, node_type, protocol, highest, lowest, extra: extra.into(), fd, creation }
    }

    /// The answer to who looks it up.
    #[must_use]
    pub fn port_reply(&self) -> PortReply<'_> {
        PortReply::Found {
            port: self.port,
            node_type: self.node_type,
            protocol: self.protocol,
            highest: self.highest,
            lowest: self.lowest,
            name: self.name.as_alive(),
            extra: &self.extra,
        }
    }
}

/// The length of the line that NAMES has for a name, with the longest port.
fn text_of(name: &[u8]) -> usize {
    name.len() + "name  at port 65535\n".len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::epmd::AliveName;

    const NOW: u64 = 1_795_408_973;
    const THEN: u32 = 1_795_408_974;

    fn limits(names: usize, remembered: usize) -> RegistryLimits {
        RegistryLimits { names, remembered }
    }

    fn registry() -> Registry {
        Registry::new(limits(8, 8), 0)
    }

    fn alive(name: &str, port: u16) -> Alive2<'_> {
        Alive2 {
            port,
            node_type: 77,
            protocol: 0,
            highest: 6,
            lowest: 5,
            name: AliveName::new(name.as_bytes()).unwrap(),
            extra: b"",
        }
    }

    #[test]
    fn what_names_tells_is_bounded_whatever_the_names() {
        let mut registry = Registry::new(limits(1_000_000, 8), 0);
        let name = |number: usize| format!("{number:0254}");
        let most = MOST_TEXT / text_of(name(0).as_bytes());
        let leases: Vec<Lease> =
            (0..most).map(|number| add(&mut registry, &name(number), NOW).lease).collect();
        assert_eq!(registry.register(&alive(&name(most), 1), 7, NOW).unwrap_err(), Refused::Full);
        registry.release(leases[0]);
        assert_eq!(registry.release(leases[0]), None);
        add(&mut registry, &name(most), NOW);
        assert_eq!(
            registry.register(&alive("a", 1), 7, NOW).is_ok(),
            MOST_TEXT % text_of(name(0).as_bytes()) >= 21
        );
    }

    fn add(registry: &mut Registry, name: &str, now: u64) -> Granted {
        registry.register(&alive(name, 9100), 7, now).unwrap()
    }

    /// Registers a name, lets it go, and says which creation it had.
    fn live_once(registry: &mut Registry, name: &str, now: u64) -> u32 {
        let granted = add(registry, name, now);
        assert!(registry.release(granted.lease).is_some());
        granted.creation
    }

    fn listed(registry: &Registry) -> Vec<String> {
        registry.newest_first().map(|(_, entry)| entry.name.to_string()).collect()
    }

    fn remembered(registry: &Registry) -> Vec<String> {
        registry.former().map(|former| former.name.to_string()).collect()
    }

    #[test]
    fn a_registration_is_found_with_all_that_its_request_had() {
        let mut registry = registry();
        let request = Alive2 {
            node_type: 104,
            protocol: 1,
            highest: 7,
            lowest: 4,
            extra: b"extra",
            ..alive("größe", 9100)
        };
        let Granted { lease, creation } = registry.register(&request, 12, NOW).unwrap();
        let (found, entry) = registry.find("größe".as_bytes()).unwrap();
        assert_eq!(found, lease);
        assert_eq!(registry.get(lease), Some(entry));
        assert_eq!((entry.fd, entry.creation, creation), (12, THEN, THEN));
        assert_eq!(
            entry.port_reply(),
            PortReply::Found {
                port: 9100,
                node_type: 104,
                protocol: 1,
                highest: 7,
                lowest: 4,
                name: request.name,
                extra: b"extra",
            }
        );
        let bytes = entry.port_reply().encode();
        assert_eq!(PortReply::decode(&bytes), Ok(entry.port_reply()));
    }

    #[test]
    fn a_taken_name_is_refused_and_nothing_changes_by_it() {
        let mut registry = registry();
        let first = add(&mut registry, "a", NOW);
        assert_eq!(registry.register(&alive("a", 9999), 8, NOW + 50), Err(Refused::Taken));
        assert_eq!(registry.get(first.lease).map(|entry| (entry.port, entry.fd)), Some((9100, 7)));
        assert_eq!((registry.len(), registry.former().count()), (1, 0));
        registry.release(first.lease);
        assert_eq!(add(&mut registry, "a", NOW + 50).creation, first.creation + 1);
    }

    #[test]
    fn names_are_told_apart_by_their_bytes() {
        let mut registry = registry();
        for name in ["a", "A", "\u{e4}", "a\u{308}", "aa"] {
            add(&mut registry, name, NOW);
        }
        assert_eq!(registry.len(), 5);
        assert_eq!(registry.find(b""), None);
        assert_eq!(registry.find(b"a\0"), None);
        assert_eq!(registry.find(b"\xff"), None);
    }

    #[test]
    fn a_full_table_refuses_and_keeps_what_it_has_and_what_it_remembers() {
        let mut registry = Registry::new(limits(2, 8), 0);
        let former = live_once(&mut registry, "c", NOW);
        let a = add(&mut registry, "a", NOW);
        add(&mut registry, "b", NOW);
        assert_eq!(registry.register(&alive("c", 1), 7, NOW), Err(Refused::Full));
        assert_eq!(registry.register(&alive("a", 1), 7, NOW), Err(Refused::Taken));
        assert_eq!(
            (listed(&registry), remembered(&registry)),
            (vec!["b".into(), "a".into()], vec!["c".into()])
        );
        registry.release(a.lease);
        assert_eq!(add(&mut registry, "c", NOW).creation, former + 1);
    }

    #[test]
    fn a_registration_ends_once() {
        let mut registry = registry();
        let first = add(&mut registry, "a", NOW);
        assert_eq!(registry.release(first.lease).unwrap().as_bytes(), b"a");
        assert_eq!(registry.release(first.lease), None);
        let second = add(&mut registry, "a", NOW);
        assert!(second.lease > first.lease);
        assert_eq!(registry.release(first.lease), None, "the lease of an earlier registration");
        assert_eq!(registry.get(first.lease), None);
        assert_eq!(listed(&registry), ["a"]);
    }

    #[test]
    fn a_new_name_begins_at_the_time_and_a_remembered_one_follows_itself() {
        let mut registry = registry();
        assert_eq!(live_once(&mut registry, "a", NOW), THEN);
        assert_eq!(live_once(&mut registry, "a", NOW + 1000), THEN + 1, "the clock went on");
        assert_eq!(live_once(&mut registry, "a", 0), THEN + 2, "the clock was set back");
        assert_eq!(live_once(&mut registry, "b", NOW + 1000), THEN + 1000);
    }

    #[test]
    fn a_name_that_is_forgotten_has_no_creation_again_though_the_clock_is_set_back() {
        for rest in [0, 1] {
            let mut registry = Registry::new(limits(8, rest), 0);
            let first = live_once(&mut registry, "a", NOW);
            let second = live_once(&mut registry, "a", NOW);
            assert!(second > first);
            live_once(&mut registry, "b", NOW - 5000);
            assert!(!remembered(&registry).contains(&"a".into()));
            assert!(live_once(&mut registry, "a", NOW - 5000) > second, "{rest} remembered");
        }
    }

    #[test]
    fn a_name_that_begins_takes_the_time_where_that_is_later_than_all_that_was_forgotten() {
        let mut registry = Registry::new(limits(8, 0), 0);
        live_once(&mut registry, "a", NOW);
        assert_eq!(live_once(&mut registry, "a", NOW + 60), THEN + 60);
    }

    #[test]
    fn creations_begin_above_the_floor() {
        for (floor, now, creation) in [
            (0, 0, 4),
            (3, 0, 4),
            (4, 0, 5),
            (THEN, NOW, THEN + 1),
            (THEN - 1, NOW, THEN),
            (u32::MAX, NOW, 4),
        ] {
            let mut registry = Registry::new(limits(8, 8), floor);
            assert_eq!(add(&mut registry, "a", now).creation, creation, "floor {floor}, now {now}");
        }
    }

    #[test]
    fn after_the_last_creation_a_name_goes_on_at_four_remembered_or_not() {
        for remembered in [0, 8] {
            let mut registry = Registry::new(limits(8, remembered), u32::MAX - 2);
            let given: Vec<_> = (0..4).map(|_| live_once(&mut registry, "a", NOW)).collect();
            assert_eq!(given, [u32::MAX - 1, u32::MAX, 4, 5], "{remembered} remembered");
        }
    }

    #[test]
    fn names_are_listed_newest_first_and_a_name_that_comes_back_is_the_newest() {
        let mut registry = registry();
        let a = add(&mut registry, "a", NOW);
        add(&mut registry, "b", NOW);
        let c = add(&mut registry, "c", 0);
        assert_eq!(listed(&registry), ["c", "b", "a"]);
        registry.release(a.lease);
        add(&mut registry, "a", NOW);
        assert_eq!(listed(&registry), ["a", "c", "b"]);
        let later: Vec<_> = registry.since(Some(a.lease)).map(|(_, entry)| entry.name.to_string()).collect();
        assert_eq!(later, ["b", "c", "a"], "also where the lease has ended");
        assert_eq!(registry.since(Some(c.lease)).count(), 1);
        assert_eq!(registry.since(None).count(), 3);
    }

    /// As an OTP 25 epmd dumped the same registrations.
    #[test]
    fn former_names_are_in_the_order_in_which_they_went_and_one_that_returns_leaves_them() {
        let mut registry = registry();
        let leases: Vec<_> = ["a", "b", "c", "d"].map(|name| add(&mut registry, name, NOW).lease).into();
        for at in [1, 3, 0, 2] {
            registry.release(leases[at]);
        }
        assert_eq!(remembered(&registry), ["b", "d", "a", "c"]);
        let back = registry.register(&alive("a", 99), 11, NOW).unwrap();
        assert_eq!(remembered(&registry), ["b", "d", "c"]);
        registry.release(back.lease);
        assert_eq!(remembered(&registry), ["b", "d", "c", "a"]);
        let last = registry.former().last().unwrap();
        assert_eq!((last.port, last.fd, last.creation), (99, 11, THEN + 1));
    }

    #[test]
    fn the_name_that_went_first_is_forgotten_first() {
        let mut registry = Registry::new(limits(8, 2), 0);
        for name in ["a", "b", "c"] {
            live_once(&mut registry, name, NOW);
        }
        assert_eq!(remembered(&registry), ["b", "c"]);
    }

    #[test]
    fn narrower_limits_keep_the_registered_and_forget_the_oldest_former() {
        let mut registry = registry();
        for name in ["a", "b", "c"] {
            live_once(&mut registry, name, NOW);
        }
        let d = add(&mut registry, "d", NOW);
        add(&mut registry, "e", NOW);
        registry.set_limits(limits(1, 1));
        assert_eq!(
            (listed(&registry), remembered(&registry)),
            (vec!["e".into(), "d".into()], vec!["c".into()])
        );
        registry.release(d.lease);
        assert_eq!(registry.register(&alive("f", 1), 7, NOW), Err(Refused::Full));
        registry.set_limits(limits(2, 1));
        add(&mut registry, "f", NOW);
        assert_eq!(add_after_forgetting(&mut registry), THEN + 1, "above what was forgotten");
    }

    fn add_after_forgetting(registry: &mut Registry) -> u32 {
        registry.set_limits(limits(3, 1));
        add(registry, "a", 0).creation
    }
}
