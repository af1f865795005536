//! Why a connection ended: one reason each, for one closing event.

use super::handshake_end::HandshakeEnd;
use crate::policy::Denial;
use crate::proto::epmd::{Malformed, Opcode};
use crate::proto::tunnel::LinkId;
use crate::transport::{Ended, How, Side, Wire};

/// The end that went first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Party {
    /// It dialled us.
    Downstream,
    /// It was dialled by us.
    Upstream,
}

/// Why a connection that was admitted ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseReason {
    /// The question was answered.
    Answered,
    /// The policy said no after the connection had been admitted.
    Refused(Denial),
    /// The request can be none.
    Malformed(Malformed),
    /// The request was not whole at the deadline.
    RequestTimeout,
    /// The peer closed or reset before its request was whole.
    NoRequest,
    /// The peer did not take the answer, or was gone.
    AnswerNotTaken,
    /// Nothing behind us could be connected.
    BackendDown,
    /// epmd did not answer in time.
    BackendTimeout,
    /// epmd closed without an answer: its way to refuse.
    BackendRefused,
    /// epmd's answer was none.
    BackendFault,
    /// The guard of the peer for whom the address stands could not be asked.
    NoWay,
    /// That is asked of the epmd of one's own host, and not at an address that stands for a peer.
    NotAtAlias(Opcode),
    /// epmd has that name already.
    NotRegistered,
    /// The name was thrown out, by STOP.
    Unregistered,
    /// The registration's connection ended, by FIN, RST or a byte that does not belong there.
    RegistrationEnded(Party),
    /// The handshake did not come to a link.
    Handshake(HandshakeEnd),
    /// An end of the link closed it.
    LinkClosed(Party),
    /// An end of the link reset it, or its socket failed.
    LinkReset(Party),
    /// One end had closed and the other one stayed silent.
    HalfClosed,
    /// A reload took the leave of the link away.
    Revoked(Denial),
    /// The tunnel lost its connection, and there was no other one in time.
    LegLost,
    /// A leg of a tunnel came to nothing, for this reason.
    LegFailed(&'static str),
    /// A leg was given to a link that had lost its own.
    LegTaken,
    /// A leg was to be given to a link that is not there.
    UnknownLink,
    /// The guard of the peer refused the link.
    RefusedByPeer,
    /// We were told to stop.
    Stopped,
}

impl CloseReason {
    /// The reason, as it stands in the log.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Refused(denial) => denial.label(),
            Self::Malformed(_) => "malformed",
            Self::RequestTimeout => "request_timeout",
            Self::NoRequest => "no_request",
            Self::AnswerNotTaken => "answer_not_taken",
            Self::BackendDown => "backend_down",
            Self::BackendTimeout => "backend_timeout",
            Self::BackendRefused => "backend_refused",
            Self::BackendFault => "backend_fault",
            Self::NoWay => "no_way",
            Self::NotAtAlias(_) => "not_at_alias",
            Self::NotRegistered => "not_registered",
            Self::Unregistered => "unregistered_by_stop",
            Self::RegistrationEnded(Party::Downstream) => "unregistered_by_node",
            Self::RegistrationEnded(Party::Upstream) => "unregistered_by_epmd",
            Self::Handshake(end) => end.label(),
            Self::LinkClosed(Party::Downstream) => "closed_by_downstream",
            Self::LinkClosed(Party::Upstream) => "closed_by_upstream",
            Self::LinkReset(Party::Downstream) => "reset_by_downstream",
            Self::LinkReset(Party::Upstream) => "reset_by_upstream",
            Self::HalfClosed => "half_closed",
            Self::Revoked(_) => "revoked",
            Self::LegLost => "leg_lost",
            Self::LegFailed(reason) => reason,
            Self::LegTaken => "leg_taken",
            Self::UnknownLink => "unknown_link",
            Self::RefusedByPeer => "refused_by_peer",
            Self::Stopped => "stopped",
        }
    }
}

impl CloseReason {
    /// What is known besides.
    fn detail(self) -> Option<String> {
        if let Self::Malformed(malformed) = self {
            Some(malformed.to_string())
        } else if let Self::Handshake(end) = self {
            end.detail()
        } else if let Self::NotAtAlias(opcode) = self {
            Some(format!(
                "{opcode} at an address that stands for a peer; names are registered, and epmd is told what to do, at \
                 127.0.0.1 or ::1"
            ))
        } else {
            None
        }
    }

    /// The refusal, where it is one of the policy's, or means the same.
    #[must_use]
    pub fn denial(self) -> Option<Denial> {
        if let Self::Refused(denial) | Self::Revoked(denial) = self {
            Some(denial)
        } else if let Self::Handshake(end) = self {
            end.denial()
        } else {
            None
        }
    }

    /// How the handshake ended, in the words of the metrics; `None`: there was none, or the link came up.
    #[must_use]
    pub fn handshake(self) -> Option<&'static str> {
        if let Self::Handshake(end) = self {
            Some(end.outcome())
        } else if let Self::Refused(denial) = self {
            Some(if denial == Denial::WrongCookie { "wrong_cookie" } else { "refused" })
        } else {
            None
        }
    }
}

impl From<HandshakeEnd> for CloseReason {
    fn from(end: HandshakeEnd) -> Self {
        Self::Handshake(end)
    }
}

impl From<Side> for Party {
    fn from(side: Side) -> Self {
        match side {
            Side::Downstream => Self::Downstream,
            Side::Upstream => Self::Upstream,
        }
    }
}

impl From<Ended> for CloseReason {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::By(side, How::Fin) => Self::LinkClosed(side.into()),
            Ended::By(side, How::Reset) => Self::LinkReset(side.into()),
            Ended::HalfClosedTooLong(_) => Self::HalfClosed,
            Ended::LegLost => Self::LegLost,
            Ended::Stopped => Self::Stopped,
        }
    }
}

/// How a connection ended and what it carried.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) reason: CloseReason,
    /// What was asked, made only of our own words and escaped names.
    pub(super) asked: Option<String>,
    /// The node that the peer said it is.
    pub(super) claimed: Option<String>,
    /// What went wrong, in words.
    pub(super) detail: Option<String>,
    /// What both guards call it, where it went through a tunnel.
    pub(super) link: Option<Box<LinkId>>,
    pub(super) bytes_up: u64,
    pub(super) bytes_down: u64,
}

impl From<CloseReason> for Outcome {
    fn from(reason: CloseReason) -> Self {
        let detail = reason.detail();
        Self { reason, asked: None, claimed: None, detail, link: None, bytes_up: 0, bytes_down: 0 }
    }
}

impl Outcome {
    pub(super) fn asked(mut self, asked: impl Into<String>) -> Self {
        self.asked = Some(asked.into());
        self
    }

    pub(super) fn claimed(mut self, claimed: impl Into<String>) -> Self {
        self.claimed = Some(claimed.into());
        self
    }

    pub(super) fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// It has gone through the tunnel that one of these is, if one is.
    pub(super) fn through<'a>(mut self, wires: impl IntoIterator<Item = &'a Wire>) -> Self {
        let tunnelled = wires.into_iter().find_map(Wire::tunnelled);
        self.link = tunnelled.map(|link| Box::new(link.id())).or(self.link);
        self
    }

    pub(super) fn moved(mut self, up: u64, down: u64) -> Self {
        (self.bytes_up, self.bytes_down) = (up, down);
        self
    }
}
