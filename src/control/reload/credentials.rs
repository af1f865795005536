//! The credentials of tunnels in a reload: which ones it goes on with, and telling of them.

use std::sync::Arc;

use super::{Ending, Reason, Reloader};
use crate::config::Delta;
use crate::control::credentials::{CredentialFault, Found, Judged, changes, tell_changed};
use crate::policy::Denial;
use crate::session::Snapshot;
use crate::telemetry::ReloadOutcome;

impl Reloader {
    /// The credentials that the new configuration goes on with: where they are refused, those in force.
    pub(super) fn judge(
        &self,
        found: Result<Found, Vec<CredentialFault>>,
        before: &Snapshot,
        (delta, reasons, warnings): (&mut Delta, &mut Vec<Reason>, &mut Vec<String>),
    ) -> Judged {
        let in_force = before.credentials();
        match found.and_then(|found| self.parts.keyring.judge(found, in_force)) {
            Ok(judged) => {
                warnings.extend(judged.warning.clone());
                let held = judged.credentials.as_deref().map(|next| changes(in_force, next));
                delta.changes.extend(held.unwrap_or_default());
                judged
            }
            Err(faults) => {
                reasons.extend(faults.iter().map(|fault| format!("{fault}: {}", fault.help()).into()));
                Judged::keeping(in_force)
            }
        }
    }

    /// Tells of other credentials, where a reload has brought them.
    pub(super) fn tell_credentials(&self, before: &Snapshot, judged: &Judged, cut: &[Ending]) {
        self.parts.keyring.follow(judged);
        let Some(next) = &judged.credentials else { return };
        if before.credentials().is_some_and(|before| Arc::ptr_eq(before, next)) {
            return;
        }
        self.context.metrics.credentials(ReloadOutcome::Applied);
        let revoked = cut.iter().filter(|ending| ending.cut.denial == Denial::CertificateRevoked).count();
        tell_changed(before.credentials(), next, revoked);
    }
}
