//! Which ports answers name: those by which the nodes behind us are reached.

use std::net::SocketAddr;

use tokio::time::Instant;

use super::{Question, not_found};
use crate::policy::{Carrier, Withheld};
use crate::proto::epmd::{AliveName, NodeName, PortReply};
use crate::session::mapper::Origin;
use crate::session::ports::{Ports, Reach, Sighting};

impl<'a> Question<'a> {
    /// What is told of a name that was looked up and has this entry.
    pub(super) async fn answer_found(&self, entry: PortReply<'_>, origin: Origin) -> Vec<u8> {
        let PortReply::Found { name, port, .. } = entry else { return entry.encode() };
        match self.place_of(name, port, origin).await {
            Some(place) => entry.with_port(|_| place).encode(),
            None => not_found(),
        }
    }

    /// The port that the name is told to be at; `None`: there is no such name. No answer that names a port leaves
    /// before the port is open; where it cannot be opened the answer goes all the same, since a node on every
    /// address can be reached without us. Not by a tunnel, which leads to what is offered and to nothing else.
    async fn place_of(&self, name: AliveName<'_>, port: u16, origin: Origin) -> Option<u16> {
        let Self { session, context, snapshot, .. } = self;
        let Some(ports) = self.guarded_ports(port) else { return Some(port) };
        let ip = session.arrival.local.ip();
        let otherwise = match self.admission.carrier() {
            Carrier::Plain => self.unless_remapped(port),
            Carrier::Tunnel(_) => None,
        };
        let help = match snapshot.policy.offers(name.as_bytes(), port) {
            // The nodes of command-line tools are not to be dialled.
            Err(Withheld::Name) => return otherwise,
            // What listens on this host's loopback is another node, or none.
            Ok(()) | Err(_) if origin == Origin::Elsewhere => return otherwise,
            Err(Withheld::NotListed) => "add the port to [dist] ports, or have the node take one of them",
            Err(Withheld::OutOfRange) => {
                "the port is outside of [dist] range: widen it, or have the node take one within"
            }
            Ok(()) => {
                let sighting = Sighting { name: name.into(), port };
                match self.reach(ports, sighting).await {
                    Reach::Open(outside) => return Some(outside),
                    Reach::Shut => "see node_exposed, port_taken and port_not_opened in the log",
                    Reach::NotOffered => {
                        "nothing that may be offered listens there on [dist] backend (see port_not_own in the log), or no \
                         port of [dist] outside is left"
                    }
                }
            }
        };
        if context.reminders.is_due("port_not_reachable", port, Instant::now()) {
            let listener = SocketAddr::new(ip, port);
            tracing::warn!(name = name.to_string(), %listener, help, "port_not_reachable");
        }
        otherwise
    }

    /// The port at which a list shows a node; lists do not wait. `None`: it is not shown.
    pub(super) fn outside_of(&self, inside: u16, origin: Origin) -> Option<u16> {
        let Some(ports) = self.guarded_ports(inside) else { return Some(inside) };
        // A port of ours leads to nodes of this host alone.
        let place = if origin == Origin::Elsewhere { None } else { self.known_place(ports, inside) };
        place.or(self.unless_remapped(inside))
    }

    /// Has the node's port opened for who asks.
    async fn reach(&self, ports: &Ports, sighting: Sighting) -> Reach {
        match self.admission.carrier() {
            Carrier::Plain => {
                ports.reach(self.session.arrival.local.ip(), sighting, self.admission.standing()).await
            }
            Carrier::Tunnel(_) => self.place_by_tunnel(ports, sighting).await,
        }
    }

    /// The number that a tunnel calls the node's port by, for which no listener need be open.
    async fn place_by_tunnel(&self, ports: &Ports, sighting: Sighting) -> Reach {
        ports.post_for(sighting).await.map_or(Reach::NotOffered, Reach::Open)
    }

    /// The same port as it is known now.
    fn known_place(&self, ports: &Ports, inside: u16) -> Option<u16> {
        match self.admission.carrier() {
            Carrier::Plain => ports.outside_of(self.session.arrival.local.ip(), inside),
            Carrier::Tunnel(_) => ports.post_of(inside),
        }
    }

    /// The ports by which nodes are reached at the address where is asked; `None`: where they listen themselves, and
    /// where nobody guards them, they are at their own. A tunnel has no address of its own where they might.
    fn guarded_ports(&self, inside: u16) -> Option<&'a Ports> {
        let ip = self.session.arrival.local.ip();
        let is_plain = self.admission.carrier() == Carrier::Plain;
        let is_theirs = is_plain && self.snapshot.config.way_to(inside).backend.contains(&ip);
        self.context.ports.as_ref().filter(|_| !is_theirs)
    }

    /// A node's own number, for want of a place: where ports are remapped, it may be the place of another node.
    fn unless_remapped(&self, port: u16) -> Option<u16> {
        let policy = &self.snapshot.policy;
        let is_forwarded = policy.forwards().kind_at(port).is_some();
        (is_forwarded || !policy.dist().ports.is_remapped()).then_some(port)
    }

    /// Whether the name is there for who asks.
    pub(super) fn is_there(&self, name: &NodeName) -> bool {
        self.snapshot.policy.may_reach(&self.admission, Some(name)).is_ok()
    }
}
