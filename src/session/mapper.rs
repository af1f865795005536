//! The embedded epmd: the table of names, shared by all connections, and those who follow it.
//!
//! A registration lives exactly as long as its [`Registration`], which its connection holds. Nobody waits
//! while the table is locked.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::policy::Permit;
use crate::proto::epmd::{Alive2, NodeName};
use crate::registry::{Entry, Lease, Refused, Registry, RegistryLimits};

/// Names that have gone and are remembered, as many as epmd remembers (`epmd_srv.c:node_reg2`).
const REMEMBERED: usize = 1001;

/// Ended registrations that are remembered for who follows; after more he compares everything.
const MOST_GONE: usize = 65_536;

/// Where the node of a registration is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// On this host, so that its port may be offered; and the user of the connection, where the kernel told it.
    Here {
        /// The user that registered the name.
        uid: Option<u32>,
    },
    /// At an address of `register_from`: what listens on this host's loopback is not that node.
    Elsewhere,
}

/// A name and where its node is, for those who follow the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leased {
    /// Whose registration it is.
    pub lease: Lease,
    /// The name.
    pub name: NodeName,
    /// The node's own port.
    pub port: u16,
    /// Where the node is.
    pub origin: Origin,
}

/// The table of names.
#[derive(Debug)]
pub struct Mapper {
    held: Mutex<Held>,
    /// Counts the registrations of this host that have come or gone.
    changes: watch::Sender<u64>,
    /// Up to which of them the distribution front has followed.
    followed: watch::Sender<u64>,
}

/// The table, and what else is known of its registrations.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) registry: Registry,
    terms: HashMap<Lease, Terms>,
    /// Registrations that have ended since somebody followed; `None`: nobody does, or there were too many.
    gone: Option<Vec<Lease>>,
    /// Whether names are taken: not by a process that ends.
    intake: Intake,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Intake {
    Open,
    Closed,
}

/// What a registration is besides its entry.
#[derive(Debug)]
struct Terms {
    origin: Origin,
    /// Ends the connection that holds it.
    ends: CancellationToken,
}

/// A name that is registered, until this is dropped.
#[derive(Debug)]
pub(super) struct Registration<'a> {
    mapper: &'a Mapper,
    lease: Lease,
    /// See [`crate::registry::Granted`].
    pub(super) creation: u32,
    /// The change that it was.
    change: u64,
    stopped: CancellationToken,
}

/// What is known of a name that was looked up.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) entry: Entry,
    pub(super) origin: Origin,
}

impl Mapper {
    /// An empty table for at most `names` names.
    #[must_use]
    pub fn new(names: u32) -> Self {
        let held = Held {
            registry: Registry::new(limits(names), 0),
            terms: HashMap::new(),
            gone: None,
            intake: Intake::Open,
        };
        Self { held: Mutex::new(held), changes: watch::Sender::new(0), followed: watch::Sender::new(0) }
    }

    /// Holds at most `names` names from now on; those above it stay.
    pub fn set_limit(&self, names: u32) {
        self.held().registry.set_limits(limits(names));
    }

    /// How many names are registered.
    #[must_use]
    pub fn count(&self) -> usize {
        self.held().registry.len()
    }

    /// Registers a name for the connection whose descriptor is `fd`.
    pub(super) fn register(
        &self,
        _permit: &Permit,
        alive: &Alive2<'_>,
        fd: i32,
        origin: Origin,
    ) -> Result<Registration<'_>, Refused> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let stopped = CancellationToken::new();
        let mut held = self.held();
        if held.intake == Intake::Closed {
            return Err(Refused::Full);
        }
        let granted = held.registry.register(alive, fd, now)?;
        held.terms.insert(granted.lease, Terms { origin, ends: stopped.clone() });
        let change = self.count_change(origin);
        drop(held);
        Ok(Registration { mapper: self, lease: granted.lease, creation: granted.creation, change, stopped })
    }

    /// The registration of a name.
    pub(super) fn find(&self, _permit: &Permit, name: &[u8]) -> Option<Found> {
        let held = self.held();
        let (lease, entry) = held.registry.find(name)?;
        let origin = held.origin_of(lease)?;
        Some(Found { entry: entry.clone(), origin })
    }

    /// Looks at the whole table, which stands still meanwhile.
    pub(super) fn read<T>(&self, _permit: &Permit, look: impl FnOnce(&Held) -> T) -> T {
        look(&self.held())
    }

    /// Throws a name out, and ends the connection that holds it. Whether there was one.
    pub(super) fn stop(&self, _permit: &Permit, name: &[u8]) -> bool {
        let mut held = self.held();
        let Some((lease, _)) = held.registry.find(name) else { return false };
        self.release(&mut held, lease);
        true
    }

    /// Changes when a registration has come or gone.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Takes no name any more if none is left, and tells whether that is so.
    pub(super) fn close_when_empty(&self) -> bool {
        let mut held = self.held();
        if held.registry.is_empty() {
            held.intake = Intake::Closed;
        }
        held.intake == Intake::Closed
    }

    /// Takes into `known` what was registered since, which the first list tells, and out of it, into the second one,
    /// what has gone. The number is that of the last change, for [`Mapper::note_followed`]. One follows at most.
    pub fn follow(
        &self,
        known: &mut HashMap<Lease, Leased>,
        last: &mut Option<Lease>,
    ) -> (u64, Vec<Lease>, Vec<Leased>) {
        let mut held = self.held();
        let change = *self.changes.borrow();
        let gone = held.gone.replace(Vec::new()).unwrap_or_else(|| {
            known.keys().filter(|lease| held.registry.get(**lease).is_none()).copied().collect()
        });
        let mut came = Vec::new();
        for (lease, entry) in held.registry.since(*last) {
            *last = Some(lease);
            let Some(origin) = held.origin_of(lease) else { continue };
            let leased = Leased { lease, name: entry.name.clone(), port: entry.port, origin };
            known.insert(lease, leased);
            came.push(lease);
        }
        (change, came, gone.into_iter().filter_map(|lease| known.remove(&lease)).collect())
    }

    /// Tells that everything up to this change has been followed.
    pub fn note_followed(&self, change: u64) {
        self.followed.send_if_modified(|followed| {
            let is_later = change > *followed;
            *followed = change.max(*followed);
            is_later
        });
    }

    fn release(&self, held: &mut Held, lease: Lease) {
        held.registry.release(lease);
        held.gone = held.gone.take().filter(|gone| gone.len() < MOST_GONE);
        if let Some(gone) = &mut held.gone {
            gone.push(lease);
        }
        if let Some(Terms { origin, ends }) = held.terms.remove(&lease) {
            ends.cancel();
            self.count_change(origin);
        }
    }

    /// The number of the change. One of another host is none to those who follow: they have nothing to do for it.
    fn count_change(&self, origin: Origin) -> u64 {
        let mut count = 0;
        self.changes.send_if_modified(|changes| {
            let is_here = origin != Origin::Elsewhere;
            *changes += u64::from(is_here);
            count = *changes;
            is_here
        });
        count
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    /// Where the node of a registration is.
    pub(super) fn origin_of(&self, lease: Lease) -> Option<Origin> {
        self.terms.get(&lease).map(|terms| terms.origin)
    }
}

impl Registration<'_> {
    /// Waits until the distribution front has followed, `patience` at most.
    pub(super) async fn followed(&self, patience: Duration) {
        let mut followed = self.mapper.followed.subscribe();
        let reached = followed.wait_for(|followed| *followed >= self.change);
        // A front that is late opens the port all the same.
        drop(tokio::time::timeout(patience, reached).await);
    }

    /// Waits until the name is thrown out.
    pub(super) async fn stopped(&self) {
        self.stopped.cancelled().await;
    }
}

impl Drop for Registration<'_> {
    fn drop(&mut self) {
        // Nothing where it was thrown out before.
        self.mapper.release(&mut self.mapper.held(), self.lease);
    }
}

fn limits(names: u32) -> RegistryLimits {
    RegistryLimits { names: usize::try_from(names).unwrap_or(usize::MAX), remembered: REMEMBERED }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Arrival, Audience, Policy, Role};
    use crate::proto::epmd::{AliveName, Request};

    const HERE: Origin = Origin::Here { uid: Some(7) };

    fn permit() -> Permit {
        let config = crate::config::from_text("test", "", &Default::default()).unwrap().config;
        let policy = Policy::new(config.rules());
        let loopback = || std::net::SocketAddr::from(([127, 0, 0, 1], 4369));
        let arrival = Arrival { peer: loopback().into(), local: loopback().into() };
        let admission = policy.admit(&arrival, Role::Epmd, Audience::ItselfOnly).unwrap();
        policy.authorize_request(&admission, &Request::Names).unwrap()
    }

    fn alive(name: &[u8]) -> Alive2<'_> {
        let name = AliveName::new(name).unwrap();
        Alive2 { port: 9100, node_type: 77, protocol: 0, highest: 6, lowest: 5, name, extra: b"" }
    }

    #[test]
    fn a_name_is_there_as_long_as_its_registration_and_no_longer() {
        let (mapper, permit) = (Mapper::new(9), permit());
        let held = mapper.register(&permit, &alive(b"a"), 5, HERE).unwrap();
        assert_eq!(mapper.register(&permit, &alive(b"a"), 6, HERE).unwrap_err(), Refused::Taken);
        assert_eq!(mapper.find(&permit, b"a").unwrap().origin, HERE);
        drop(held);
        assert!(mapper.find(&permit, b"a").is_none());
        assert_eq!((mapper.count(), mapper.held().terms.len()), (0, 0));
    }

    #[tokio::test]
    async fn a_name_that_is_thrown_out_ends_its_holder_and_leaves_the_next_one_alone() {
        let (mapper, permit) = (Mapper::new(9), permit());
        let first = mapper.register(&permit, &alive(b"a"), 5, HERE).unwrap();
        assert!(mapper.stop(&permit, b"a") && !mapper.stop(&permit, b"a"));
        first.stopped().await;
        let second = mapper.register(&permit, &alive(b"a"), 5, HERE).unwrap();
        assert_eq!(second.creation, first.creation + 1);
        drop(first);
        assert!(mapper.find(&permit, b"a").is_some());
        drop(second);
    }

    #[test]
    fn who_follows_learns_of_each_that_came_and_each_that_went() {
        let (mapper, permit) = (Mapper::new(9), permit());
        let (mut known, mut last) = (HashMap::new(), None);
        let a = mapper.register(&permit, &alive(b"a"), 5, HERE).unwrap();
        let short = mapper.register(&permit, &alive(b"short"), 5, HERE).unwrap();
        drop(short);
        let (change, came, gone) = mapper.follow(&mut known, &mut last);
        assert_eq!((change, came.len(), gone.len(), known.len()), (3, 1, 0, 1));
        let b = mapper.register(&permit, &alive(b"b"), 5, HERE).unwrap();
        drop(a);
        let (_, _, gone) = mapper.follow(&mut known, &mut last);
        let names = |leased: Vec<&Leased>| leased.iter().map(|one| one.name.to_string()).collect::<Vec<_>>();
        assert_eq!(
            (names(gone.iter().collect()), names(known.values().collect())),
            (vec!["a".to_owned()], vec!["b".to_owned()])
        );
        drop(b);
    }

    #[test]
    fn a_name_of_another_host_wakes_nobody_who_follows() {
        let (mapper, permit) = (Mapper::new(9), permit());
        let mut changes = mapper.subscribe();
        drop(mapper.register(&permit, &alive(b"far"), 5, Origin::Elsewhere).unwrap());
        assert!(!changes.has_changed().unwrap());
        drop(mapper.register(&permit, &alive(b"near"), 5, HERE).unwrap());
        assert!(changes.has_changed().unwrap());
        assert_eq!(*changes.borrow_and_update(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_registration_waits_until_it_is_followed_and_not_for_ever() {
        let (mapper, permit) = (Mapper::new(9), permit());
        let registration = mapper.register(&permit, &alive(b"a"), 5, HERE).unwrap();
        let begun = tokio::time::Instant::now();
        registration.followed(Duration::from_secs(1)).await;
        assert_eq!(begun.elapsed(), Duration::from_secs(1));
        mapper.note_followed(1);
        // What is told late takes nothing back.
        mapper.note_followed(0);
        registration.followed(Duration::from_secs(1)).await;
        assert_eq!(begun.elapsed(), Duration::from_secs(1));
    }
}
