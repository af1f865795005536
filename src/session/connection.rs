//! What is known of one connection.

use std::sync::Arc;

use tokio::sync::watch;

use super::accept::Service;
use super::context::{Context, Slot};
use super::snapshot::Snapshot;
use crate::policy::{Admission, Arrival, Denial, Leave, LinkTarget, Role, Source, Speech};

/// What is known of a connection while it lives.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) role: Role,
    pub(super) admission: Admission,
    /// The generation that admitted it.
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) arrival: Arrival,
    /// What its listener served when it was accepted, and what it serves now.
    pub(super) service: Service,
    pub(super) current: watch::Receiver<Service>,
    pub(super) id: u64,
    /// Held until the closing event.
    pub(super) slot: Slot,
}

impl Session {
    /// The generation in force and the leave that it gives: what was admitted before a reload is asked
    /// about again before a byte of it goes upstream.
    pub(super) fn renew(&self, context: &Context) -> Result<(Arc<Snapshot>, Admission), Denial> {
        let now = context.snapshot();
        // The listener may have come to be for this host alone.
        let audience = self.current.borrow().audience;
        if now.generation == self.snapshot.generation && audience == self.service.audience {
            return Ok((now, self.admission));
        }
        let admission = now.policy.admit(&self.arrival, self.role, audience)?;
        Ok((now, admission))
    }

    /// The leave to make the link, as the listener leads and the node is called now.
    pub(super) fn authorize_link(
        &self,
        snapshot: &Snapshot,
        admission: &Admission,
        speech: Speech<'_>,
    ) -> Result<Leave, Denial> {
        let (outside, inside) = (self.arrival.local.port(), self.service.inside);
        let now = self.current.borrow();
        // The port may have come to lead elsewhere since the connection was accepted.
        if now.inside != inside {
            return Err(Denial::PortNotOffered(outside));
        }
        let target = LinkTarget { role: self.role, outside, inside, nodes: &now.nodes, speech };
        snapshot.policy.authorize_link(admission, &target)
    }

    /// Who it is, as far as offences are concerned.
    pub(super) fn source(&self) -> Source {
        source(&self.snapshot, &self.admission)
    }
}

/// The source of a connection that this generation has admitted.
pub(super) fn source(snapshot: &Snapshot, admission: &Admission) -> Source {
    let is_peer = snapshot.policy.peer_of(admission).into();
    Source { ip: admission.peer().ip(), standing: admission.standing(), is_peer }
}
