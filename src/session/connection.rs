//! What is known of one connection.

use std::sync::Arc;

use tokio::sync::watch;

use super::accept::Service;
use super::context::{Context, Slot};
use super::snapshot::Snapshot;
use crate::policy::{Admission, Arrival, Denial, Role};

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
}
