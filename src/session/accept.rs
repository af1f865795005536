//! The accept loop: admit or refuse, at once.
//!
//! Nothing of a peer's is awaited here, so that one cannot keep another out.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::account::{Refused, log_refusal, log_would_refuse};
use super::connection::{Session, source};
use super::context::{Context, Slot};
use super::snapshot::Snapshot;
use super::walk::walk;
use crate::policy::{Admission, Arrival, Audience, Denial, Mode, Role};
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
    /// The names of the node behind it, the one that is shown first; empty where none is known, or more than
    /// are kept, so that they are not all known.
    pub nodes: Arc<[NodeName]>,
    /// The `[[peer]]` for whom the listener stands, by its name, where it is an alias of one; `None`: it leads
    /// to what is behind us.
    pub toward: Option<Arc<str>>,
}

impl Service {
    /// The name that is shown.
    #[must_use]
    pub fn node(&self) -> Option<&NodeName> {
        self.nodes.first()
    }

    /// Whether a node that calls itself so, before the '@', may be the one behind it: one of the names is that, or
    /// none is known.
    #[must_use]
    pub fn is_called(&self, alive: &str) -> bool {
        self.nodes.is_empty() || self.nodes.iter().any(|name| name.as_bytes() == alive.as_bytes())
    }
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
                let session = Session {
                    role,
                    admission,
                    snapshot,
                    arrival,
                    service,
                    current,
                    sans: Arc::default(),
                    shown: None,
                    id,
                    slot: slot.map(Arc::new),
                    link: None,
                };
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
) -> Result<(Arc<Snapshot>, Admission, Option<Slot>), Denial> {
    let snapshot = context.snapshot();
    let admission = snapshot.policy.admit(arrival, role, audience)?;
    if snapshot.policy.mode() == Mode::Enforce {
        context.speakers.take_back();
    }
    if context.speakers.ban_of(&source(&snapshot, &admission)).is_some() {
        let denial = snapshot.policy.overlook(Denial::Banned)?.denial();
        log_would_refuse(context, &Refused { arrival: *arrival, role, denial, claimed: None, detail: None });
    }
    context.speakers.pace(&admission).map_err(Denial::TooFast)?;
    // Up to where it is known what a tunnel is for it has a place among the handshakes that are not done.
    let slot = match role {
        Role::Tunnel => None,
        Role::Epmd | Role::Dist | Role::DistTls | Role::Tcp => {
            Some(context.take_slot(&admission).map_err(Denial::Full)?)
        }
    };
    Ok((snapshot, admission, slot))
}

fn refuse(context: &Context, accepted: Accepted, role: Role, denial: Denial) {
    let Accepted { stream, arrival } = accepted;
    reset(&stream);
    drop(stream);
    log_refusal(context, &Refused { arrival, role, denial, claimed: None, detail: None });
    if denial == Denial::NotAllowed {
        context.explain_stranger(arrival.peer.ip());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::epmd::AliveName;

    #[test]
    fn a_node_is_called_by_each_of_its_names_and_one_of_none_may_have_any() {
        let called = |names: &[&str]| {
            let nodes = names.iter().map(|name| AliveName::new(name.as_bytes()).unwrap().into()).collect();
            let service = Service { audience: Audience::Peers, inside: 1, nodes, toward: None };
            (service.node().map(ToString::to_string), service.is_called("web"), service.is_called("web2"))
        };
        assert_eq!(called(&["db", "web"]), (Some("db".to_owned()), true, false));
        assert_eq!(called(&["db"]), (Some("db".to_owned()), false, false));
        assert_eq!(called(&[]), (None, true, true));
    }
}
