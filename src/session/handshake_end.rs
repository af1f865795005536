//! How a handshake ended that did not come to a link, and that the policy had not refused.

use super::close::Party;
use crate::policy::Denial;
use crate::proto::dist::Malformed;
use crate::proto::tls::NotTls;

/// How a handshake ended that did not come to a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandshakeEnd {
    /// The node behind us closed after the peer's proof, as it does when that is of another cookie.
    WrongCookie,
    /// The node behind us said no to the claimed name.
    Refused(Refusal),
    /// The node behind us closed, and said nothing to it.
    NodeClosed,
    /// The node behind us stopped.
    NodeStopped,
    /// The node behind us left this handshake for another one of the same name that came up.
    Superseded,
    /// The peer closed or reset.
    Abandoned,
    /// This end did not take its step in time.
    TimedOut(Party),
    /// What this end said can be no handshake.
    Malformed(Party, Malformed),
    /// What the peer said at a port of TLS distribution can be no handshake of TLS.
    NotTls(NotTls),
}

/// What the node behind us said to a claimed name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// `nok`: it dials the same node itself.
    Nok,
    /// `not_allowed`: the name is not of those that it lets in, or flags are missing.
    NotAllowed,
    /// `alive`: it has a connection of that name, and the peer left it at that.
    Alive,
}

impl HandshakeEnd {
    /// The reason, as it stands in the log.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::WrongCookie => "wrong_cookie",
            Self::Refused(Refusal::Nok) => "node_said_nok",
            Self::Refused(Refusal::NotAllowed) => "node_said_not_allowed",
            Self::Refused(Refusal::Alive) => "node_said_alive",
            Self::NodeClosed => "node_closed",
            Self::NodeStopped => "node_stopped",
            Self::Superseded => "superseded",
            Self::Abandoned => "handshake_abandoned",
            Self::TimedOut(_) => "handshake_timeout",
            Self::Malformed(Party::Downstream, _) | Self::NotTls(_) => "no_handshake",
            Self::Malformed(Party::Upstream, _) => "node_no_handshake",
        }
    }

    /// The same, as metrics and `status` count it.
    #[must_use]
    pub fn outcome(self) -> &'static str {
        match self {
            Self::WrongCookie => "wrong_cookie",
            Self::Refused(_) | Self::NodeClosed => "refused_by_node",
            Self::NodeStopped | Self::Superseded | Self::Abandoned => "abandoned",
            Self::TimedOut(_) => "timed_out",
            Self::Malformed(..) | Self::NotTls(_) => "malformed",
        }
    }

    /// The refusal that means the same.
    #[must_use]
    pub fn denial(self) -> Option<Denial> {
        match self {
            Self::WrongCookie => Some(Denial::WrongCookie),
            Self::Malformed(Party::Downstream, _) | Self::NotTls(_) => Some(Denial::NoHandshake),
            Self::Refused(_)
            | Self::NodeClosed
            | Self::NodeStopped
            | Self::Superseded
            | Self::Abandoned
            | Self::TimedOut(_)
            | Self::Malformed(Party::Upstream, _) => None,
        }
    }

    /// What is known besides.
    #[must_use]
    pub fn detail(self) -> Option<String> {
        match self {
            Self::Malformed(party, malformed) => Some(format!("{} said: {malformed}", shown(party))),
            Self::NotTls(no) => Some(no.to_string()),
            Self::TimedOut(party) => Some(format!("{} was silent", shown(party))),
            Self::WrongCookie
            | Self::Refused(_)
            | Self::NodeClosed
            | Self::NodeStopped
            | Self::Superseded
            | Self::Abandoned => None,
        }
    }
}

fn shown(party: Party) -> &'static str {
    match party {
        Party::Downstream => "the peer",
        Party::Upstream => "the node",
    }
}
