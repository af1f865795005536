//! The embedded epmd's registrations, as the front follows them: a node's port is open as long as its name is
//! registered, and only where the node's own user listens.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use tokio::time::Instant;

use super::nodes::Behind;
use crate::registry::Lease;
use crate::session::{Leased, Mapper, Origin, Sighting};
use crate::telemetry::Reminders;
use crate::transport::sockets::Listening;

/// The registrations that have been followed.
#[derive(Debug, Default)]
pub(super) struct Leases {
    known: HashMap<Lease, Leased>,
    /// Those of nodes of this host, so that a look costs by what listens and not by what is registered.
    by_port: HashMap<u16, BTreeSet<Lease>>,
    last: Option<Lease>,
}

/// What has happened since the front last looked.
#[derive(Debug)]
pub(super) struct Followed {
    /// Up to which change.
    pub(super) change: u64,
    /// Registrations that have ended.
    pub(super) gone: Vec<Leased>,
}

/// What follows for the ports of registered names from who listens there now.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Judged {
    /// Names that lead to a port of their own user, in the order in which they were registered.
    pub(super) own: Vec<Sighting>,
    /// Names that do not, or not any more.
    pub(super) foreign: Vec<Sighting>,
}

impl Leases {
    pub(super) fn follow(&mut self, mapper: &Mapper) -> Followed {
        let (change, came, gone) = mapper.follow(&mut self.known, &mut self.last);
        for lease in came {
            if let Some(Leased { port, origin: Origin::Here { .. }, .. }) = self.known.get(&lease) {
                self.by_port.entry(*port).or_default().insert(lease);
            }
        }
        for Leased { lease, port, .. } in &gone {
            if let Entry::Occupied(mut leases) = self.by_port.entry(*port) {
                leases.get_mut().remove(lease);
                if leases.get().is_empty() {
                    leases.remove();
                }
            }
        }
        Followed { change, gone }
    }

    /// Whether a name of this host is registered at this port.
    pub(super) fn has_name_at(&self, port: u16) -> bool {
        self.by_port.contains_key(&port)
    }

    /// Judges each name whose port something listens at, at each look anew: who may register could otherwise have
    /// somebody else's port offered to peers, a database's for instance, which need not be there when he registers.
    pub(super) fn judge(
        &self,
        (listening, behind): (&[Listening], &Behind),
        reminders: &Reminders,
    ) -> Judged {
        let mut listeners: BTreeMap<u16, BTreeSet<u32>> = BTreeMap::new();
        for socket in listening.iter().filter(|socket| behind.may_be_a_nodes(socket)) {
            listeners.entry(socket.addr.port()).or_default().insert(socket.uid);
        }
        let mut judged = Judged::default();
        for (port, uids) in &listeners {
            let leases = self.by_port.get(port).into_iter().flatten();
            for Leased { name, port, origin, .. } in leases.filter_map(|lease| self.known.get(lease)) {
                let Origin::Here { uid } = *origin else { continue };
                let seen = Sighting { name: name.clone(), port: *port };
                if owns(uid, uids) {
                    judged.own.push(seen);
                } else {
                    tell_foreign(&seen, uid, uids, reminders);
                    judged.foreign.push(seen);
                }
            }
        }
        judged
    }
}

fn tell_foreign(seen: &Sighting, uid: Option<u32>, listeners: &BTreeSet<u32>, reminders: &Reminders) {
    let Sighting { name, port } = seen;
    if !reminders.is_due("port_not_own", *port, Instant::now()) {
        return;
    }
    let listener = listeners.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
    let (owner, help) = match uid {
        Some(uid) => (
            uid.to_string(),
            "the port is not offered to peers: a name leads to a port only where the same user registers and listens; \
             run the node as one user, or list the port in [dist] ports (for peers without may_reach)",
        ),
        None => (
            "unknown".to_owned(),
            "the port is not offered to peers: the kernel did not tell who registered the name, since the connection was \
             gone by then, or since the guard may use neither netlink nor /proc/net; list the port in [dist] ports (for peers without may_reach)",
        ),
    };
    tracing::warn!(%name, port, owner, listener, help, "port_not_own");
}

/// Whether who registered may have this port offered. Root may all; a user that is not known owns nothing.
fn owns(uid: Option<u32>, listeners: &BTreeSet<u32>) -> bool {
    uid.is_some_and(|uid| uid == 0 || listeners.iter().all(|listener| *listener == uid))
}

#[cfg(test)]
mod tests {
    use super::super::nodes::behind;
    use super::*;
    use crate::proto::epmd::{Alive2, AliveName};
    use crate::registry::{Registry, RegistryLimits};

    fn leased(registry: &mut Registry, name: &str, port: u16, origin: Origin) -> Leased {
        let name = AliveName::new(name.as_bytes()).unwrap();
        let alive = Alive2 { port, node_type: 77, protocol: 0, highest: 6, lowest: 5, name, extra: b"" };
        let granted = registry.register(&alive, 5, 1).unwrap();
        Leased { lease: granted.lease, name: name.into(), port, origin }
    }

    fn socket(addr: &str, uid: u32, inode: u64) -> Listening {
        Listening { addr: addr.parse().unwrap(), uid, inode, only_v6: false }
    }

    #[test]
    fn a_name_opens_the_port_of_its_own_user_alone() {
        let mut registry = Registry::new(RegistryLimits { names: 9, remembered: 9 }, 0);
        let here = |uid| Origin::Here { uid };
        let all = [
            leased(&mut registry, "own", 40001, here(Some(7))),
            leased(&mut registry, "other", 40002, here(Some(7))),
            leased(&mut registry, "root", 40003, here(Some(0))),
            leased(&mut registry, "nobody", 40004, here(None)),
            leased(&mut registry, "far", 40005, Origin::Elsewhere),
            // On ::1 the own user listens, on 127.0.0.1, which is dialled first, somebody else.
            leased(&mut registry, "half", 40006, here(Some(7))),
            leased(&mut registry, "silent", 40007, here(Some(7))),
        ];
        let mut leases = Leases::default();
        for leased in all {
            leases.by_port.entry(leased.port).or_default().insert(leased.lease);
            leases.known.insert(leased.lease, leased);
        }
        let listening = [
            socket("127.0.0.1:40001", 7, 1),
            socket("127.0.0.1:40002", 8, 2),
            socket("127.0.0.1:40003", 8, 3),
            socket("127.0.0.1:40004", 7, 4),
            socket("127.0.0.1:40005", 7, 5),
            socket("127.0.0.1:40006", 8, 6),
            socket("[::1]:40006", 7, 7),
        ];
        let backends = ["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()];
        let behind = behind(&listening, |_| &backends[..], |_| false);
        let shown = |judged: &[Sighting]| judged.iter().map(|seen| seen.name.to_string()).collect::<Vec<_>>();
        let judged = leases.judge((&listening, &behind), &Reminders::default());
        assert_eq!(shown(&judged.own), ["own", "root"]);
        assert_eq!(shown(&judged.foreign), ["other", "nobody", "half"]);
        // Somebody else comes to listen at the number of a name that was well.
        let joined = [&listening[..], &[socket("[::1]:40001", 8, 8)]].concat();
        let behind = super::super::nodes::behind(&joined, |_| &backends[..], |_| false);
        let judged = leases.judge((&joined, &behind), &Reminders::default());
        assert_eq!(shown(&judged.own), ["root"]);
    }
}
