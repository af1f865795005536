//! Where to listen.

use std::fmt;
use std::net::IpAddr;

/// One place to listen at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ListenOn {
    /// `*`: each address of this host that is neither loopback nor link-local, one by one; an
    /// address that comes later is served when it comes. Never the wildcard address, which would
    /// take loopback from epmd.
    Everywhere,
    /// This address.
    Ip(IpAddr),
}

impl ListenOn {
    /// The address, where it is one.
    #[must_use]
    pub fn ip(self) -> Option<IpAddr> {
        match self {
            Self::Everywhere => None,
            Self::Ip(ip) => Some(ip),
        }
    }
}

impl fmt::Display for ListenOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Everywhere => f.write_str("*"),
            Self::Ip(ip) => ip.fmt(f),
        }
    }
}
