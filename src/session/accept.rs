//! The accept loop: admit or refuse, at once.
//!
//! Nothing of a peer's is awaited here, so that one cannot keep another out.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::account::log_refusal;
use super::connection::Session;
use super::context::{Context, Slot};
use super::snapshot::Snapshot;
use super::walk::walk;
use crate::policy::{Admission, Arrival, Audience, Denial, Role};
use crate::proto::epmd::NodeName;
use crate::transport::{Accepted, Listener, reset};

/// What a listener serves, and whom.
#[derive(Debug, Clone)]
pub struct Post {
    /// What it serves.
    pub role: Role,
    /// Whom it is for and where it leads, which may change while it stands.
    pub service: watch::Receiver<Service>,
}

/// Whom a listener is for, and where it leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Whom it is for.
    pub audience: Audience,
    /// The port behind us; for epmd it means nothing.
    pub inside: u16,
    /// The node behind it, where its name is known.
    pub node: Option<NodeName>,
}

/// Serves `listener` until `stop`. Sessions live on when it ends.
pub async fn accept(mut listener: Listener, post: Post, context: Arc<Context>, stop: CancellationToken) {
    let Post { role, service: current } = post;
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let arrival = accepted.arrival;
        let service = current.borrow().clone();
        match admit(&context, &arrival, role, service.audience) {
            Ok((snapshot, admission, slot)) => {
                let id = context.next_id();
                let current = current.clone();
                let session = Session { role, admission, snapshot, arrival, service, current, id, slot };
                context.sessions.spawn(walk(accepted.stream, session, Arc::clone(&context)));
            }
            Err(denial) => refuse(&context, accepted, role, denial),
        }
    }
}

fn admit(
    context: &Context,
    arrival: &Arrival,
    role: Role,
    audience: Audience,
) -> Result<(Arc<Snapshot>, Admission, Slot), Denial> {
    let snapshot = context.snapshot();
    let admission = snapshot.policy.admit(arrival, role, audience)?;
    let slot = context.take_slot(&admission).map_err(Denial::Full)?;
    Ok((snapshot, admission, slot))
}

fn refuse(context: &Context, accepted: Accepted, role: Role, denial: Denial) {
    let Accepted { stream, arrival } = accepted;
    reset(&stream);
    drop(stream);
    log_refusal(context, arrival, role, denial);
    if denial == Denial::NotAllowed {
        context.explain_stranger(arrival.peer.ip());
    }
}
