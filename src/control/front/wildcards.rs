//! Ports that programs of this host have on every address, those that are down just now included.

use std::collections::HashSet;

use super::exposed::Exposed;
use crate::policy::Role;
use crate::transport::sockets::Listening;

/// Whoever listens on every address cannot come back to a number that was opened at an alias meanwhile: bind(2) says
/// EADDRINUSE for the wildcard, whatever the socket options are. So such a number is left alone.
#[derive(Debug, Default)]
pub(super) struct Wildcards {
    ports: HashSet<u16>,
    /// Whether some node was seen that listens so, whatever its number will be next time.
    of_nodes: bool,
}

impl Wildcards {
    /// Notes who listens on every address. One that is seen on an address of its own only has been cured.
    pub(super) fn note<'l>(&mut self, theirs: impl Iterator<Item = &'l Listening> + Clone) {
        let is_wild = |socket: &&Listening| socket.addr.ip().is_unspecified();
        for socket in theirs.clone().filter(|socket| !is_wild(socket)) {
            self.ports.remove(&socket.addr.port());
        }
        self.ports.extend(theirs.filter(is_wild).map(|socket| socket.addr.port()));
    }

    /// Notes the nodes among them.
    pub(super) fn note_nodes(&mut self, exposed: &[Exposed]) {
        self.of_nodes |=
            exposed.iter().any(|node| node.role == Role::Dist && node.socket.ip().is_unspecified());
    }

    /// Whether somebody has, or had, this number on every address.
    pub(super) fn has(&self, port: u16) -> bool {
        self.ports.contains(&port)
    }

    /// Whether a node of this host may want any number on every address.
    pub(super) fn of_nodes(&self) -> bool {
        self.of_nodes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(addr: &str) -> Listening {
        Listening { addr: addr.parse().unwrap(), uid: 0, inode: 1, only_v6: false }
    }

    #[test]
    fn a_number_is_remembered_until_its_program_is_seen_elsewhere() {
        let mut wild = Wildcards::default();
        wild.note([socket("0.0.0.0:9100"), socket("[::]:5370"), socket("127.0.0.1:9101")].iter());
        assert_eq!([9100, 5370, 9101].map(|port| wild.has(port)), [true, true, false]);
        wild.note([].iter());
        assert!(wild.has(9100), "it may come back");
        wild.note([socket("127.0.0.1:9100"), socket("127.0.0.1:5370"), socket("[::]:5370")].iter());
        assert_eq!([9100, 5370].map(|port| wild.has(port)), [false, true]);
    }
}
