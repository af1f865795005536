//! What is known of one connection.

use std::fmt;
use std::sync::Arc;

use super::accept::Service;
use super::context::{Context, Slot};
use super::snapshot::Snapshot;
use crate::policy::{Admission, Arrival, Denial};

/// What a listener serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Questions to epmd.
    Epmd,
    /// Links to the distribution port of the listener's number.
    Dist,
}

impl Role {
    /// The role, as it stands in logs and metrics.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Epmd => "epmd",
            Self::Dist => "dist",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// What is known of a connection while it lives.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) role: Role,
    pub(super) admission: Admission,
    /// The generation that admitted it.
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) arrival: Arrival,
    pub(super) service: Service,
    pub(super) id: u64,
    /// Held until the closing event.
    pub(super) slot: Slot,
}

impl Session {
    /// The generation in force and the leave that it gives: what was admitted before a reload is asked
    /// about again before a byte of it goes upstream.
    pub(super) fn renew(&self, context: &Context) -> Result<(Arc<Snapshot>, Admission), Denial> {
        let now = context.snapshot();
        if now.generation == self.snapshot.generation {
            return Ok((now, self.admission));
        }
        let admission = now.policy.admit(&self.arrival, self.service.audience)?;
        Ok((now, admission))
    }
}
