//! One event for each connection that ends, and one for each that is refused.

use tokio::time::Instant;

use super::close::{CloseReason, Outcome, Party};
use super::connection::Session;
use super::context::Context;
use super::handshake_end::HandshakeEnd;
use super::offend::offend;
use crate::policy::{Arrival, Denial, Offence, Role, Standing};

/// Tells how a connection ended and what it carried.
pub(super) fn account(context: &Context, session: &Session, outcome: &Outcome, begun: Instant) {
    let Session { role, admission, arrival, id, .. } = session;
    let standing = match admission.standing() {
        Standing::Itself => "self",
        Standing::NamedPeer(_) | Standing::NetworkPeer(_) => "peer",
        Standing::Registrant => "registrant",
    };
    context.metrics.connection(role.label(), outcome.reason.label());
    if let Some(ended) = outcome.reason.handshake().filter(|_| role.has_handshake()) {
        context.metrics.handshake(ended);
    }
    // Whoever holds places of handshakes and does not go on takes them from others.
    if let CloseReason::Handshake(HandshakeEnd::TimedOut(Party::Downstream)) = outcome.reason {
        offend(context, session, outcome.claimed.as_deref().unwrap_or_default(), Offence::Stalled);
    }
    let duration_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    macro_rules! closed {
        ($level:ident) => {
            tracing::$level!(
                id, role = %role, peer = %arrival.peer, listener = %arrival.local, standing,
                reason = outcome.reason.label(), asked = outcome.asked, claimed = outcome.claimed, detail = outcome.detail,
                bytes_up = outcome.bytes_up, bytes_down = outcome.bytes_down, duration_ms, "closed"
            )
        };
    }
    match outcome.reason {
        // Each wrong cookie is told: it is what a guesser does, and the guard makes that rare.
        CloseReason::Refused(Denial::WrongCookie) | CloseReason::Handshake(HandshakeEnd::WrongCookie) => {
            context.metrics.refusal(Denial::WrongCookie.label(), Denial::WrongCookie.stage());
            closed!(warn);
        }
        CloseReason::Refused(denial) => {
            let (claimed, detail) = (outcome.claimed.as_deref(), outcome.detail.as_deref());
            log_refusal(context, &Refused { arrival: *arrival, role: *role, denial, claimed, detail });
            closed!(debug);
        }
        // What works is not news; what a peer does wrong is told once a minute.
        CloseReason::Answered => closed!(debug),
        CloseReason::LinkClosed(_)
        | CloseReason::LinkReset(_)
        | CloseReason::HalfClosed
        | CloseReason::RegistrationEnded(_)
        | CloseReason::Unregistered
        | CloseReason::Revoked(_)
        | CloseReason::Stopped => closed!(info),
        CloseReason::BackendDown | CloseReason::BackendTimeout | CloseReason::BackendFault => {
            throttled(context, session, outcome, || closed!(warn), || closed!(debug))
        }
        CloseReason::BackendRefused
        | CloseReason::Malformed(_)
        | CloseReason::RequestTimeout
        | CloseReason::NoRequest
        | CloseReason::AnswerNotTaken
        | CloseReason::Handshake(_)
        | CloseReason::NotRegistered => {
            throttled(context, session, outcome, || closed!(info), || closed!(debug));
        }
    }
}

fn throttled(context: &Context, session: &Session, outcome: &Outcome, first: impl Fn(), again: impl Fn()) {
    if context.refusals.note(session.arrival.peer.ip(), outcome.reason.label(), Instant::now()) {
        first();
    } else {
        again();
    }
}

/// A connection that is refused, or would be.
pub(super) struct Refused<'a> {
    pub(super) arrival: Arrival,
    pub(super) role: Role,
    pub(super) denial: Denial,
    /// The node that the peer said it is.
    pub(super) claimed: Option<&'a str>,
    /// What is known besides.
    pub(super) detail: Option<&'a str>,
}

impl Refused<'_> {
    /// What was asked, in our own words.
    fn asked(&self) -> Option<String> {
        match self.denial {
            Denial::LocalOnly(opcode) => Some(opcode.to_string()),
            Denial::UnknownOpcode(byte) => Some(format!("opcode {byte}")),
            Denial::PortNotOffered(port) => Some(format!("port {port}")),
            Denial::NotRelaxed => Some(crate::proto::epmd::Opcode::Stop.to_string()),
            Denial::NotAllowed
            | Denial::Denied(_)
            | Denial::DenyUnresolved
            | Denial::NotForPeers
            | Denial::Draining
            | Denial::Full(_)
            | Denial::TooManyNames
            | Denial::NotReachable
            | Denial::Banned
            | Denial::TooFast(_)
            | Denial::HalfOpen(_)
            | Denial::NodeName
            | Denial::NameOfPeer(_)
            | Denial::HiddenNode
            | Denial::DynamicNode
            | Denial::OldHandshake
            | Denial::MissingFlags
            | Denial::TooManyClaims
            | Denial::Slowed
            | Denial::WrongCookie
            | Denial::WrongNode
            | Denial::WrongAnswer
            | Denial::NoHandshake => None,
        }
    }

    /// The rule that says so, where one does.
    fn rule(&self, context: &Context) -> Option<String> {
        let snapshot = context.snapshot();
        if let Denial::NameOfPeer(owner) = self.denial {
            let peer = snapshot.config.peers.get(usize::from(owner.0))?;
            return Some(format!("[[peer]] {} nodes (line {})", peer.name, peer.line));
        }
        snapshot.policy.rule_of(self.denial).map(ToString::to_string)
    }
}

/// One line for the first refusal of a source and reason in a minute; the others are DEBUG.
pub(super) fn log_refusal(context: &Context, refused: &Refused<'_>) {
    let Refused { arrival, role, denial, claimed, detail } = refused;
    context.metrics.refusal(denial.label(), denial.stage());
    let (rule, asked) = (refused.rule(context), refused.asked());
    macro_rules! refused {
        ($level:ident) => {
            tracing::$level!(
                role = %role, peer = %arrival.peer, listener = %arrival.local, reason = denial.label(),
                stage = denial.stage(), rule, asked, claimed, detail, "refused"
            )
        };
    }
    if context.refusals.note(arrival.peer.ip(), denial.label(), Instant::now()) {
        refused!(info);
    } else {
        refused!(debug);
    }
}

/// The same for what observe mode lets pass.
pub(super) fn log_would_refuse(context: &Context, refused: &Refused<'_>) {
    let Refused { arrival, role, denial, claimed, detail } = refused;
    context.metrics.would_refuse(denial.label(), denial.stage());
    let (rule, asked) = (refused.rule(context), refused.asked());
    macro_rules! would_refuse {
        ($level:ident) => {
            tracing::$level!(
                role = %role, peer = %arrival.peer, listener = %arrival.local, reason = denial.label(),
                stage = denial.stage(), rule, asked, claimed, detail, "would_refuse"
            )
        };
    }
    if context.would_refuse.note(arrival.peer.ip(), denial.label(), Instant::now()) {
        would_refuse!(info);
    } else {
        would_refuse!(debug);
    }
}
