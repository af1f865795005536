//! Nodes that peers and strangers can reach around the guard, because they listen on more than loopback.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

use super::nodes::Behind;
use crate::config::Way;
use crate::policy::Role;
use crate::proto::epmd::NodeName;
use crate::transport::sockets::Listening;

/// How long it must have been so until it is told: a node may be on its way out.
const TOLD_AFTER: Duration = Duration::from_millis(600);
/// How often it is told again.
const REMIND_EVERY: Duration = Duration::from_secs(600);

/// A node that can be reached around the guard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exposed {
    /// The node's name, where epmd told it.
    pub node: Option<NodeName>,
    /// What its port is to serve.
    pub role: Role,
    /// Its port.
    pub port: u16,
    /// Where it listens.
    pub socket: SocketAddr,
    /// The user that it runs as.
    pub uid: u32,
}

/// The change that cures it, for a node.
pub const CURE: &str = "the node listens on more than loopback, so that whoever reaches this host reaches it around the guard: \
     start it with `-kernel inet_dist_use_interface {127,0,0,1}` (ejabberd: INET_DIST_INTERFACE=127.0.0.1 in \
     ejabberdctl.cfg; RabbitMQ: {kernel,[{inet_dist_use_interface,{127,0,0,1}}]} in advanced.config)";

/// The same for what is no node.
const CURE_OF_ANOTHER: &str = "what listens at this port of a [[forward]] listens on more than loopback, so that whoever reaches this host reaches \
     it around the guard: have it listen on 127.0.0.1";

impl Exposed {
    /// The change that cures it.
    #[must_use]
    pub fn cure(&self) -> &'static str {
        cure(self.role)
    }
}

/// The change that cures it, by what the port is to serve.
pub(in crate::control) fn cure(role: Role) -> &'static str {
    match role {
        Role::Epmd | Role::Dist | Role::DistTls => CURE,
        Role::Tcp | Role::Tunnel => CURE_OF_ANOTHER,
    }
}

/// Those that were seen, and when they were told of.
#[derive(Debug, Default)]
pub(super) struct ExposedNodes {
    seen: HashMap<(u16, SocketAddr), Seen>,
}

#[derive(Debug)]
struct Seen {
    node: Option<NodeName>,
    role: Role,
    uid: u32,
    since: Instant,
    told: Option<Instant>,
}

/// The sockets of the nodes at `ports` that more than this host reaches; `way` tells where they are meant to be.
pub(super) fn find<'c>(
    listening: &[Listening],
    ports: &HashMap<u16, Option<NodeName>>,
    way: impl Fn(u16) -> Way<'c>,
    behind: &Behind,
) -> Vec<Exposed> {
    let open = |socket: &&Listening| {
        let ip = socket.addr.ip().to_canonical();
        let backend = way(socket.addr.port()).backend;
        !ip.is_loopback() && !backend.contains(&ip) && behind.may_be_a_nodes(socket)
    };
    let exposed = |socket: &Listening| {
        let node = ports.get(&socket.addr.port())?.clone();
        let (port, socket, uid) = (socket.addr.port(), socket.addr, socket.uid);
        Some(Exposed { node, role: way(port).role, port, socket, uid })
    };
    listening.iter().filter(open).filter_map(exposed).collect()
}

impl ExposedNodes {
    /// Takes what was found now, and tells of what is new or lasts.
    pub(super) fn note(&mut self, found: &[Exposed], now: Instant) {
        self.seen.retain(|(port, socket), seen| {
            let stays = found.iter().any(|exposed| exposed.port == *port && exposed.socket == *socket);
            if !stays && seen.told.is_some() {
                tracing::info!(node = seen.node.as_ref().map(display), port, holder = %socket, "node_covered");
            }
            stays
        });
        for exposed in found {
            let Exposed { node, role, port, socket, uid } = exposed;
            let fresh = || Seen { node: node.clone(), role: *role, uid: *uid, since: now, told: None };
            let seen = self.seen.entry((*port, *socket)).or_insert_with(fresh);
            seen.node.clone_from(node);
            seen.role = *role;
            let is_due = match seen.told {
                None => now.duration_since(seen.since) >= TOLD_AFTER,
                Some(told) => now.duration_since(told) >= REMIND_EVERY,
            };
            if is_due {
                seen.told = Some(now);
                let holder = format!("{socket} of uid {uid}");
                tracing::warn!(
                    node = node.as_ref().map(display),
                    port,
                    holder,
                    help = exposed.cure(),
                    "node_exposed"
                );
            }
        }
    }

    /// Those that were told of, in the order of their ports.
    pub(super) fn told(&self) -> Vec<Exposed> {
        let mut told: Vec<Exposed> = self
            .seen
            .iter()
            .filter(|(_, seen)| seen.told.is_some())
            .map(|((port, socket), seen)| Exposed {
                node: seen.node.clone(),
                role: seen.role,
                port: *port,
                socket: *socket,
                uid: seen.uid,
            })
            .collect();
        told.sort_by_key(|exposed| (exposed.port, exposed.socket));
        told
    }
}

#[cfg(test)]
mod tests {
    use super::super::nodes::behind;
    use super::*;
    use crate::proto::epmd::AliveName;

    fn socket(addr: &str, inode: u64) -> Listening {
        Listening { addr: addr.parse().unwrap(), uid: 0, inode, only_v6: false }
    }

    #[test]
    fn what_more_than_this_host_reaches_is_found_and_what_is_no_nodes_is_not() {
        let sockets = [
            socket("0.0.0.0:43211", 1),
            socket("127.0.0.1:43212", 2),
            // Somebody else's: the node at this number is on loopback.
            socket("192.0.2.1:43212", 3),
            socket("192.0.2.7:43213", 4),
            socket("0.0.0.0:22", 5),
            socket("10.0.0.5:43214", 6),
            // Our own.
            socket("192.0.2.1:43215", 7),
            socket("127.0.1.1:43216", 8),
        ];
        let ports = (43211..=43216).map(|port| (port, Some(AliveName::new(b"a").unwrap().into()))).collect();
        let backends = ["127.0.0.1".parse().unwrap(), "10.0.0.5".parse().unwrap()];
        let behind = behind(&sockets, |_| &backends[..], |addr| addr.to_string() == "192.0.2.1:43215");
        let way = |_| Way { role: Role::Dist, listen: &[], backend: &backends };
        let found = find(&sockets, &ports, way, &behind);
        let shown: Vec<_> = found.iter().map(|exposed| exposed.socket.to_string()).collect();
        assert_eq!(shown, ["0.0.0.0:43211", "192.0.2.7:43213"]);
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_told_when_it_lasts_and_gone_when_it_goes() {
        let mut nodes = ExposedNodes::default();
        let start = Instant::now();
        let found =
            [Exposed { node: None, role: Role::Dist, port: 1, socket: "0.0.0.0:1".parse().unwrap(), uid: 0 }];
        nodes.note(&found, start);
        assert_eq!(nodes.told(), []);
        nodes.note(&found, start + TOLD_AFTER);
        assert_eq!(nodes.told(), found);
        nodes.note(&[], start + TOLD_AFTER);
        assert_eq!(nodes.told(), []);
    }
}
