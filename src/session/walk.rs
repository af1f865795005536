//! The walk of one admitted connection, and its closing event.

use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::time::Instant;

use super::accept::{Role, log_refusal};
use super::close::{CloseReason, Outcome};
use super::context::{Context, Slot};
use super::{dist, epmd};
use crate::policy::{Admission, Arrival, Standing};

/// What is known of a connection while it lives.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) role: Role,
    pub(super) admission: Admission,
    pub(super) arrival: Arrival,
    pub(super) id: u64,
    /// Held until the closing event.
    pub(super) slot: Slot,
}

/// identify: an address, at this rank; inspect, authorize and relay: by role; then account.
pub(super) async fn walk(stream: TcpStream, session: Session, context: Arc<Context>) {
    let begun = Instant::now();
    let outcome = match session.role {
        Role::Epmd => epmd::serve(stream, &session, &context).await,
        Role::Dist => dist::serve(stream, &session, &context).await,
    };
    account(&context, &session, &outcome, begun);
    drop(session.slot);
}

fn account(context: &Context, session: &Session, outcome: &Outcome, begun: Instant) {
    let Session { role, admission, arrival, id, .. } = session;
    let standing = match admission.standing() {
        Standing::Itself => "self",
        Standing::NamedPeer(_) | Standing::NetworkPeer(_) => "peer",
    };
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
