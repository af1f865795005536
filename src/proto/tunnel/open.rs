//! The wish for a link: OPEN.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::frame::Malformed;
use super::reader::Reader;

/// The families of addresses in an OPEN.
const IPV4: u8 = 4;
const IPV6: u8 = 6;

/// The name of one link, drawn at random by the guard that dials. It is good only together with the identity of the
/// peer that opened it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkId(pub [u8; 16]);

impl fmt::Display for LinkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for LinkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LinkId({self})")
    }
}

/// What a link carries, and so what is read of it before it is let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// 1: plain distribution. Its handshake is read.
    Dist,
    /// 2: distribution over TLS. The beginning of the ClientHello is looked at.
    DistTls,
    /// 3: anything. Nothing is read.
    Tcp,
}

impl Kind {
    fn number(self) -> u8 {
        match self {
            Self::Dist => 1,
            Self::DistTls => 2,
            Self::Tcp => 3,
        }
    }
}

/// The wish for a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Open {
    /// How the link will be called when it is resumed.
    pub link: LinkId,
    /// What it will carry.
    pub kind: Kind,
    /// The port as the answering guard shows it to its peers, not the one behind it.
    pub port: u16,
    /// The node's end of the connection that the dialling guard took: for logs, never for decisions.
    pub source: SocketAddr,
    /// The dialling guard's number of the connection, so that both logs have one in common.
    pub trace: u64,
}

impl Open {
    /// Bytes of the body.
    pub(super) const LENGTH: usize = 16 + 1 + 2 + (1 + 16 + 2) + 8;

    pub(super) fn encode_into(&self, into: &mut Vec<u8>) {
        into.extend(self.link.0);
        into.push(self.kind.number());
        into.extend(self.port.to_be_bytes());
        match self.source.ip().to_canonical() {
            IpAddr::V4(ip) => {
                into.push(IPV4);
                into.extend(ip.octets());
                into.extend([0; 12]);
            }
            IpAddr::V6(ip) => {
                into.push(IPV6);
                into.extend(ip.octets());
            }
        }
        into.extend(self.source.port().to_be_bytes());
        into.extend(self.trace.to_be_bytes());
    }

    pub(super) fn decode(rest: &mut Reader<'_>) -> Result<Self, Malformed> {
        let link = LinkId(rest.array()?);
        let kind = match rest.u8()? {
            1 => Kind::Dist,
            2 => Kind::DistTls,
            3 => Kind::Tcp,
            other => return Err(Malformed::Kind(other)),
        };
        let port = rest.u16()?;
        if port == 0 {
            return Err(Malformed::Port);
        }
        let (family, address) = (rest.u8()?, rest.array::<16>()?);
        let ip = match (family, address) {
            (IPV4, [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]) => Ipv4Addr::new(a, b, c, d).into(),
            (IPV6, octets) => IpAddr::from(Ipv6Addr::from(octets)),
            _ => return Err(Malformed::Source),
        };
        // An IPv4 address has one way to be written.
        if family == IPV6 && ip.to_canonical() != ip {
            return Err(Malformed::Source);
        }
        let source = SocketAddr::new(ip, rest.u16()?);
        Ok(Self { link, kind, port, source, trace: rest.u64()? })
    }
}
