//! The accept loop: admit or refuse, at once.
//!
//! Nothing of a peer's is awaited here, so that one cannot keep another out.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::account::log_refusal;
use super::connection::{Role, Session};
use super::context::{Context, Slot};
use super::walk::walk;
use crate::policy::{Admission, Arrival, Audience, Denial};
use crate::transport::{Accepted, Listener, reset};

/// What a listener serves, and whom.
#[derive(Debug, Clone)]
pub struct Post {
    /// What it serves.
    pub role: Role,
    /// Whom it is for, which may change while it stands.
    pub audience: watch::Receiver<Audience>,
}

/// Serves `listener` until `stop`. Sessions live on when it ends.
pub async fn accept(mut listener: Listener, post: Post, context: Arc<Context>, stop: CancellationToken) {
    let Post { role, audience } = post;
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let audience = *audience.borrow();
        match admit(&context, &accepted.arrival, audience) {
            Ok((admission, slot)) => {
                let session =
                    Session { role, admission, arrival: accepted.arrival, id: context.next_id(), slot };
                context.sessions.spawn(walk(accepted.stream, session, Arc::clone(&context)));
            }
            Err(denial) => refuse(&context, accepted, role, denial),
        }
    }
}

fn admit(context: &Context, arrival: &Arrival, audience: Audience) -> Result<(Admission, Slot), Denial> {
    let admission = context.policy().admit(arrival, audience)?;
    let slot = context.take_slot(&admission).map_err(Denial::Full)?;
    Ok((admission, slot))
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
