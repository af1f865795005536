//! What a listener serves.

use std::fmt;
use std::net::IpAddr;

/// What a listener serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Questions to epmd.
    Epmd,
    /// Links to the distribution port of the listener's number.
    Dist,
    /// Links to a port of TLS distribution, by `[[forward]]`.
    DistTls,
    /// Connections to any other port between nodes, by `[[forward]]`.
    Tcp,
    /// Mutual TLS with the guards of peers, which carries all of these.
    Tunnel,
}

impl Role {
    /// Whether links come up by a handshake that the guard follows.
    #[must_use]
    pub fn has_handshake(self) -> bool {
        match self {
            Self::Dist | Self::DistTls => true,
            Self::Epmd | Self::Tcp | Self::Tunnel => false,
        }
    }

    /// The role, as it stands in logs and metrics.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Epmd => "epmd",
            Self::Dist => "dist",
            Self::DistTls => "dist-tls",
            Self::Tcp => "tcp",
            Self::Tunnel => "tunnel",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// Whom a listener is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Audience {
    /// This host alone: the listener stands where only the host's own names lead.
    ItselfOnly,
    /// Peers too.
    Peers,
    /// Peers, and nobody is taken for this host there, whose other relays dial from its addresses (`self = "none"`).
    PeersOnly,
}

/// `self`: at which of our addresses this host itself is told from peers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum SelfAt {
    /// At all of them.
    #[default]
    Everywhere,
    /// At these; the empty list is "none".
    Only(Vec<IpAddr>),
}

impl SelfAt {
    /// Whether this host itself is known at a listener on this address.
    #[must_use]
    pub fn covers(&self, listener: IpAddr) -> bool {
        match self {
            Self::Everywhere => true,
            Self::Only(listeners) => listeners.contains(&listener),
        }
    }
}
