//! Why a connection, or what it asks, is refused.

use super::limits::Full;
use super::network::{PeerId, RuleId};
use crate::proto::epmd::Opcode;

/// Why not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denial {
    /// No rule of `allow` covers the address.
    NotAllowed,
    /// A rule of `deny` does.
    Denied(RuleId),
    /// A host name of `deny` has not been resolved yet, so that nobody can be told from it.
    DenyUnresolved,
    /// The listener is for this host alone.
    NotForPeers,
    /// The guard drains: nothing new of peers is taken.
    Draining,
    /// Too many connections.
    Full(Full),
    /// Only this host may ask that of epmd.
    LocalOnly(Opcode),
    /// Nobody may ask that of epmd.
    UnknownOpcode(u8),
    /// Names are not thrown out unless epmd is told to (`relaxed_command_check`).
    NotRelaxed,
    /// No more names fit into the embedded epmd.
    TooManyNames,
    /// `[[peer]] may_reach` leaves the node out for this peer.
    NotReachable,
    /// Neither `[dist] ports` nor a `[[forward]]` offers the port of this number, for what is served there.
    PortNotOffered(u16),
    /// The address is banned.
    Banned,
    /// Connections come too fast from the address, or from its /64.
    TooFast(Full),
    /// Too many handshakes that are not done.
    HalfOpen(Full),
    /// The node's name is none that may be claimed.
    NodeName,
    /// The node's name is that of another `[[peer]]`.
    NameOfPeer(PeerId),
    /// Hidden nodes are not let in.
    HiddenNode,
    /// Nodes that ask for a name are not let in.
    DynamicNode,
    /// The version of its handshake is too old.
    OldHandshake,
    /// It cannot do what is asked for.
    MissingFlags,
    /// The source has claimed too many names that never came to a link.
    TooManyClaims,
    /// Too many wrong proofs of this address and name, and too many tries that wait already.
    Slowed,
    /// The proof is not that of the cookie.
    WrongCookie,
    /// The node that answers is not the one that is registered at the port.
    WrongNode,
    /// The answering node's own proof is not that of the cookie.
    WrongAnswer,
    /// What was said is no handshake.
    NoHandshake,
    /// `tls = "required"`: the peer may come by a tunnel alone.
    TlsRequired,
    /// `tls = "off"`: the peer is to have no tunnel.
    TlsOff,
    /// No `[[peer]]` has a name of the certificate.
    UnknownIdentity,
    /// The certificate has names of more than one `[[peer]]`.
    SeveralIdentities,
    /// The certificate is that of this peer, and the address another one's.
    IdentityOfAnother(PeerId),
    /// The certificate of the peer's guard is revoked.
    CertificateRevoked,
}

impl Denial {
    /// The reason, as it stands in logs and metrics.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::NotAllowed => "not_allowed",
            Self::Denied(_) => "denied",
            Self::DenyUnresolved => "deny_unresolved",
            Self::NotForPeers => "not_for_peers",
            Self::Draining => "draining",
            Self::Full(Full::Total) => "too_many_connections",
            Self::Full(Full::Address) => "too_many_from_address",
            Self::Full(Full::Subnet) => "too_many_from_subnet",
            Self::LocalOnly(_) => "local_only",
            Self::UnknownOpcode(_) => "unknown_opcode",
            Self::NotRelaxed => "not_relaxed",
            Self::TooManyNames => "too_many_names",
            Self::NotReachable => "not_reachable",
            Self::PortNotOffered(_) => "port_not_offered",
            Self::Banned => "banned",
            Self::TooFast(Full::Total | Full::Address) => "too_fast_from_address",
            Self::TooFast(Full::Subnet) => "too_fast_from_subnet",
            Self::HalfOpen(Full::Total) => "too_many_half_open",
            Self::HalfOpen(Full::Address) => "too_many_half_open_from_address",
            Self::HalfOpen(Full::Subnet) => "too_many_half_open_from_subnet",
            Self::NodeName => "name_not_allowed",
            Self::NameOfPeer(_) => "name_of_another_peer",
            Self::HiddenNode => "hidden_node",
            Self::DynamicNode => "dynamic_node",
            Self::OldHandshake => "old_handshake",
            Self::MissingFlags => "missing_flags",
            Self::TooManyClaims => "too_many_claimed_names",
            Self::Slowed => "slowed_down",
            Self::WrongCookie => "wrong_cookie",
            Self::WrongNode => "wrong_node_answered",
            Self::WrongAnswer => "wrong_cookie_answered",
            Self::NoHandshake => "no_handshake",
            Self::TlsRequired => "tls_required",
            Self::TlsOff => "tls_off",
            Self::UnknownIdentity => "unknown_identity",
            Self::SeveralIdentities => "several_identities",
            Self::IdentityOfAnother(_) => "wrong_identity",
            Self::CertificateRevoked => "certificate_revoked",
        }
    }

    /// The stage of the walk that said no.
    #[must_use]
    pub fn stage(self) -> &'static str {
        match self {
            Self::NotAllowed
            | Self::Denied(_)
            | Self::DenyUnresolved
            | Self::NotForPeers
            | Self::Draining
            | Self::Banned
            | Self::TooFast(_)
            | Self::TlsRequired
            | Self::Full(_) => "admit",
            Self::TlsOff
            | Self::UnknownIdentity
            | Self::SeveralIdentities
            | Self::IdentityOfAnother(_)
            | Self::CertificateRevoked => "identify",
            Self::HalfOpen(_) | Self::NoHandshake => "inspect",
            Self::LocalOnly(_)
            | Self::UnknownOpcode(_)
            | Self::NotRelaxed
            | Self::TooManyNames
            | Self::NotReachable
            | Self::PortNotOffered(_)
            | Self::NodeName
            | Self::NameOfPeer(_)
            | Self::HiddenNode
            | Self::DynamicNode
            | Self::OldHandshake
            | Self::MissingFlags
            | Self::TooManyClaims
            | Self::Slowed => "authorize",
            Self::WrongCookie | Self::WrongNode | Self::WrongAnswer => "handshake",
        }
    }

    /// Whether it is of who speaks, and not of who may be here, of what or of how many: observe mode lets that
    /// pass.
    #[must_use]
    pub fn is_of_speaker(self) -> bool {
        match self {
            Self::NotAllowed
            | Self::Denied(_)
            | Self::DenyUnresolved
            | Self::NotForPeers
            | Self::Draining
            | Self::Full(_)
            | Self::TooFast(_)
            | Self::HalfOpen(_)
            | Self::LocalOnly(_)
            | Self::UnknownOpcode(_)
            | Self::NotRelaxed
            | Self::TooManyNames
            | Self::TlsRequired
            | Self::TlsOff
            | Self::UnknownIdentity
            | Self::SeveralIdentities
            | Self::IdentityOfAnother(_)
            | Self::CertificateRevoked
            | Self::PortNotOffered(_) => false,
            Self::Banned
            | Self::NotReachable
            | Self::NodeName
            | Self::NameOfPeer(_)
            | Self::HiddenNode
            | Self::DynamicNode
            | Self::OldHandshake
            | Self::MissingFlags
            | Self::TooManyClaims
            | Self::Slowed
            | Self::WrongCookie
            | Self::WrongNode
            | Self::WrongAnswer
            | Self::NoHandshake => true,
        }
    }
}
