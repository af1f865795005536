//! A link to a distribution port: its handshake is read and judged, then its bytes are carried.

mod talk;

use super::carry::{Inlets, Rest, carry};
use super::close::{CloseReason, Outcome};
use super::connection::Session;
use super::context::Context;
use super::handshake_end::HandshakeEnd;
use super::links::Link;
use super::tunnel;
use crate::policy::{Denial, Seen, Standing};
use crate::transport::Wire;
use talk::{Ready, Talk};

/// Connects the peer to the port behind us that its own leads to, and carries the bytes.
pub(super) async fn serve(stream: Wire, session: &Session, context: &Context) -> Outcome {
    let asked = format!("port {}", session.arrival.local.port());
    stream.set_nodelay();
    let mut talk = Talk::new(&stream, session, context);
    let held = talk.hold().await;
    let (claim, overlooked, moved) = (talk.claim().cloned(), talk.overlooked(), talk.moved());
    let claimed = claim.as_ref().map(|claim| claim.claimed.to_string());
    let note = |denial: Option<Denial>, how: Seen| {
        // What this host itself does needs no rule.
        if let Some(claim) = claim.as_ref().filter(|_| session.admission.standing() != Standing::Itself) {
            context.speakers.observe(session.arrival.peer.ip(), claim, denial, how);
        }
    };
    let outcome = match held {
        Ok(ready) => {
            note(overlooked, Seen::Up);
            let Ready { upstream, heard, down, up, traffic, half_open } = ready;
            let mut link = Link::new(session, session.admission, session.snapshot.generation, heard);
            link.traffic = traffic;
            let rest = Rest { inlets: Some(Inlets { down, up }), place: Some(half_open) };
            carry((stream, upstream), link, rest, session, context).await
        }
        Err(outcome) => {
            note(outcome.reason.denial().or(overlooked), Seen::Failed);
            end(&stream, *outcome, moved)
        }
    };
    let outcome = outcome.asked(asked);
    match claimed {
        Some(claimed) => outcome.claimed(claimed),
        None => outcome,
    }
}

/// Ends a connection that became no link: what we refuse by a reset, as one that is turned away when it is
/// accepted, and what its ends ended as they did.
fn end(stream: &Wire, outcome: Outcome, moved: (u64, u64)) -> Outcome {
    if let CloseReason::Refused(_)
    | CloseReason::Handshake(HandshakeEnd::Malformed(..) | HandshakeEnd::TimedOut(_)) = outcome.reason
    {
        stream.reset();
        tunnel::refuse(stream, outcome.reason);
    }
    // The other guard must not take it for a close of the node, which would mean a wrong cookie.
    if let CloseReason::BackendDown | CloseReason::Stopped = outcome.reason {
        tunnel::refuse(stream, outcome.reason);
    }
    outcome.moved(moved.0, moved.1)
}
