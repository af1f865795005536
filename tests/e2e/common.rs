//! Hosts with epmd, a guard and nodes on them.

use crate::support::erlang::{Epmd, EpmdListen, Node, NodeBuilder};
use crate::support::guard::{Guard, front};
use crate::support::host::Host;
use crate::support::lab::Lab;
pub(crate) use crate::support::prerequisites::require;

/// The network of the lab, by both families.
pub(crate) const EVERYBODY: &[&str] = &["192.0.2.0/24", "2001:db8::/64"];

/// For clients of a test's own that ask as fast as they are answered.
pub(crate) const UNPACED: &str = "[limits]\nrate_per_address = 1000000\nrate_per_subnet = 1000000\n";

/// A host with an epmd on loopback and a guard in front.
pub(crate) struct Guarded {
    pub(crate) host: Host,
    pub(crate) guard: Guard,
    pub(crate) epmd: Epmd,
}

impl Guarded {
    pub(crate) fn new(lab: &Lab, name: &str, allow: &[&str]) -> Self {
        Self::with(lab, name, &front(allow))
    }

    pub(crate) fn with(lab: &Lab, name: &str, config: &str) -> Self {
        let host = lab.host(name);
        let epmd = Epmd::start(&host, EpmdListen::Loopback);
        let guard = Guard::start(lab, &host, config);
        Self { host, guard, epmd }
    }

    /// Starts a node whose port is 9100 and waits until the guard has opened it.
    pub(crate) fn node(&self, name: &str) -> Node {
        self.start(Node::named(name, &self.host).port(9100))
    }

    pub(crate) fn start(&self, builder: NodeBuilder) -> Node {
        let node = builder.start();
        self.guard.wait_open(node.port());
        node
    }
}

/// Two guarded hosts that let each other in, and a stranger's host `h3`.
pub(crate) fn two_hosts() -> (Lab, Guarded, Guarded) {
    let lab = Lab::new(&["h1", "h2", "h3"]);
    let allow = ["192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2"];
    let h1 = Guarded::new(&lab, "h1", &allow);
    let h2 = Guarded::new(&lab, "h2", &allow);
    (lab, h1, h2)
}
