//! Addresses in the one form that rules are written for.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// The address that a peer connected from, with IPv4-mapped IPv6 folded to IPv4.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PeerAddr(SocketAddr);

/// The address that a connection arrived on, with IPv4-mapped IPv6 folded to IPv4.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LocalAddr(SocketAddr);

macro_rules! folded {
    ($name:ident) => {
        impl From<SocketAddr> for $name {
            fn from(addr: SocketAddr) -> Self {
                Self(SocketAddr::new(addr.ip().to_canonical(), addr.port()))
            }
        }

        impl $name {
            /// The address without its port.
            #[must_use]
            pub fn ip(&self) -> IpAddr {
                self.0.ip()
            }

            /// Both.
            #[must_use]
            pub fn socket(&self) -> SocketAddr {
                self.0
            }

            /// The port.
            #[must_use]
            pub fn port(&self) -> u16 {
                self.0.port()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

folded!(PeerAddr);
folded!(LocalAddr);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapped_address_is_the_ipv4_address() {
        let mapped: SocketAddr = "[::ffff:192.0.2.1]:4369".parse().unwrap();
        assert_eq!(PeerAddr::from(mapped).to_string(), "192.0.2.1:4369");
        assert_eq!(LocalAddr::from(mapped).ip(), "192.0.2.1".parse::<IpAddr>().unwrap());
        assert_eq!(LocalAddr::from(mapped).port(), 4369);
    }
}
