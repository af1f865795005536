//! The accept loop: admit or refuse, at once.
//!
//! Nothing of a peer's is awaited here, so that one cannot keep another out.

use std::fmt;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::context::{Context, Slot};
use super::walk::{Session, walk};
use crate::policy::{Admission, Arrival, Audience, Denial};
use crate::transport::{Accepted, Listener, reset};

/// What a listener serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Questions to epmd.
    Epmd,
    /// Links to the distribution port of the listener's number.
    Dist,
}

/// What a listener serves, and whom.
#[derive(Debug, Clone)]
pub struct Post {
    /// What it serves.
    pub role: Role,
    /// Whom it is for, which may change while it stands.
    pub audience: watch::Receiver<Audience>,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Epmd => "epmd",
            Self::Dist => "dist",
        })
    }
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

/// One line for the first refusal of a source and reason in a minute; the others are DEBUG.
pub(super) fn log_refusal(context: &Context, arrival: Arrival, role: Role, denial: Denial) {
    let ip = arrival.peer.ip();
    let rule = match denial {
        Denial::Denied(id) => context.policy().rule(id).map(ToString::to_string),
        Denial::NotAllowed
        | Denial::DenyUnresolved
        | Denial::NotForPeers
        | Denial::Full(_)
        | Denial::LocalOnly(_)
        | Denial::UnknownOpcode(_) => None,
    };
    let asked = match denial {
        Denial::LocalOnly(opcode) => Some(opcode.to_string()),
        Denial::UnknownOpcode(byte) => Some(format!("opcode {byte}")),
        Denial::NotAllowed
        | Denial::Denied(_)
        | Denial::DenyUnresolved
        | Denial::NotForPeers
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
