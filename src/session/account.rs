//! One event for each connection that ends, and one for each that is refused.

use tokio::time::Instant;

use super::close::{CloseReason, Outcome};
use super::connection::Session;
use super::context::Context;
use crate::policy::{Arrival, Denial, Role, Standing};

/// Tells how a connection ended and what it carried.
pub(super) fn account(context: &Context, session: &Session, outcome: &Outcome, begun: Instant) {
    let Session { role, admission, arrival, id, .. } = session;
    let standing = match admission.standing() {
        Standing::Itself => "self",
        Standing::NamedPeer(_) | Standing::NetworkPeer(_) => "peer",
        Standing::Registrant => "registrant",
    };
    context.metrics.connection(role.label(), outcome.reason.label());
    let duration_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    macro_rules! closed {
        ($level:ident) => {
            tracing::$level!(
                id, role = %role, peer = %arrival.peer, listener = %arrival.local, standing,
                reason = outcome.reason.label(), asked = outcome.asked, detail = outcome.detail,
                bytes_up = outcome.bytes_up, bytes_down = outcome.bytes_down, duration_ms, "closed"
            )
        };
    }
    match outcome.reason {
        CloseReason::Refused(denial) => {
            log_refusal(context, *arrival, *role, denial);
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

/// One line for the first refusal of a source and reason in a minute; the others are DEBUG.
pub(super) fn log_refusal(context: &Context, arrival: Arrival, role: Role, denial: Denial) {
    let ip = arrival.peer.ip();
    context.metrics.refusal(denial.label(), denial.stage());
    let rule = context.snapshot().policy.rule_of(denial).map(ToString::to_string);
    let asked = match denial {
        Denial::LocalOnly(opcode) => Some(opcode.to_string()),
        Denial::UnknownOpcode(byte) => Some(format!("opcode {byte}")),
        Denial::PortNotOffered(port) => Some(format!("port {port}")),
        Denial::NotRelaxed => Some(crate::proto::epmd::Opcode::Stop.to_string()),
        Denial::NotAllowed
        | Denial::Denied(_)
        | Denial::TooManyNames
        | Denial::NotReachable
        | Denial::DenyUnresolved
        | Denial::NotForPeers
        | Denial::Draining
        | Denial::Full(_) => None,
    };
    macro_rules! refused {
        ($level:ident) => {
            tracing::$level!(
                role = %role, peer = %arrival.peer, listener = %arrival.local, reason = denial.label(),
                stage = denial.stage(), rule, asked, "refused"
            )
        };
    }
    if context.refusals.note(ip, denial.label(), Instant::now()) {
        refused!(info);
    } else {
        refused!(debug);
    }
}
