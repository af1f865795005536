//! What is known of the files of `[tls]` besides the credentials in force, and telling of both.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Mutex as AsyncMutex;
use tokio::time::Instant;

use super::{CredentialFault, Early, Found, certificate_time, changed_purposes, shown_moment};
use crate::config::{Applies, Change};
use crate::session::{Context, Snapshot};
use crate::transport::tls::{Concern, Credentials, Purpose};

/// How often the same end of a certificate is told.
const AGAIN: Duration = Duration::from_hours(24);
/// Concerns that are remembered as told; with more, all are told anew.
const TOLD: usize = 256;

/// What is known of the files, for all generations.
#[derive(Debug, Default)]
pub struct Keyring {
    /// Held while credentials or the configuration are being changed: one at a time.
    pub(in crate::control) turn: AsyncMutex<()>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// What the files hold waits for its time.
    early: Option<Early>,
    /// What the last look has found wrong with them.
    faults: Vec<CredentialFault>,
    told: HashMap<String, Instant>,
}

/// What the files hold, where that is not in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// Its time has not come.
    Early(CredentialFault),
    /// It cannot be used.
    Faulty(Vec<CredentialFault>),
}

/// What a reload makes of the files.
#[derive(Debug)]
pub(in crate::control) struct Judged {
    /// What it goes on with.
    pub(in crate::control) credentials: Option<Arc<Credentials>>,
    /// What is to be told of it.
    pub(in crate::control) warning: Option<String>,
    files: Files,
}

/// Whether the files hold what a reload goes on with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Files {
    InForce,
    /// They hold what is waited for.
    Waiting,
}

impl Judged {
    /// Those that are in force already.
    pub(in crate::control) fn keeping(credentials: Option<&Arc<Credentials>>) -> Self {
        Self { credentials: credentials.cloned(), warning: None, files: Files::InForce }
    }
}

impl Keyring {
    /// That of a guard that starts with these, and what is in force then.
    #[must_use]
    pub fn begin(found: Found) -> (Self, Option<Arc<Credentials>>) {
        let keyring = Self::default();
        let credentials = match found {
            Found::None => None,
            Found::Same(credentials) | Found::New(credentials) => Some(credentials),
            Found::Early(early) => {
                keyring.wait_for(early);
                None
            }
            Found::Unfit(fault) => {
                keyring.start_without(fault);
                None
            }
        };
        (keyring, credentials)
    }

    /// What the files hold, where that is not in force.
    #[must_use]
    pub fn refused(&self) -> Option<Refused> {
        let state = self.state();
        if !state.faults.is_empty() {
            return Some(Refused::Faulty(state.faults.clone()));
        }
        state.early.as_ref().map(|early| Refused::Early(early.fault.clone()))
    }

    fn waits_for(&self, early: &Early) -> bool {
        self.state().early.as_ref().is_some_and(|known| known.prints == early.prints)
    }

    /// Whether something waits for its time.
    pub(super) fn waits(&self) -> bool {
        self.state().early.is_some()
    }

    /// Whether the files are read at each look, however they look from outside: what is wrong with them may be mended by a
    /// mode or an owner.
    pub(super) fn is_restless(&self) -> bool {
        let state = self.state();
        state.early.is_some() || !state.faults.is_empty()
    }

    /// Waits for the time of a certificate, and tells of it once.
    pub(super) fn wait_for(&self, early: Early) {
        let mut state = self.state();
        state.faults.clear();
        if state.early.as_ref().is_some_and(|known| known.prints == early.prints) {
            return;
        }
        let (problem, help) = (early.fault.to_string(), early.fault.help());
        tracing::warn!(problem, help, "certificate_not_yet_valid");
        state.early = Some(early);
    }

    /// Tells of what a guard starts with that other guards would refuse. That is no reason to let a host do without the
    /// guard: a renewed certificate, a younger list or a clock that is set right are waited for.
    fn start_without(&self, fault: CredentialFault) {
        let (problem, help) = (fault.to_string(), fault.help());
        tracing::error!(problem, help, "credentials_unfit");
        self.state().faults = vec![fault];
    }

    /// Whether the guard has started with this, or has found it since.
    fn knows(&self, fault: &CredentialFault) -> bool {
        matches!(self.state().faults.as_slice(), [known] if known.is_as(fault))
    }

    /// Keeps what is wrong with the files. Whether it is news.
    pub(super) fn fault(&self, faults: Vec<CredentialFault>) -> bool {
        let mut state = self.state();
        state.early = None;
        let is_known = state.faults.len() == faults.len()
            && state.faults.iter().zip(&faults).all(|(known, fault)| known.is_as(fault));
        if is_known {
            state.faults = faults;
            return false;
        }
        let problems: Vec<String> = faults.iter().map(ToString::to_string).collect();
        let help: Vec<String> = faults.iter().map(CredentialFault::help).collect();
        tracing::error!(problems = problems.join("; "), help = help.join("; "), "credentials_not_changed");
        state.faults = faults;
        true
    }

    /// What the files hold is in force, or there are none.
    pub(super) fn settle(&self) {
        let mut state = self.state();
        (state.early, state.faults) = (None, Vec::new());
    }

    /// What a reload makes of what it has found. A certificate that is waited for already is no reason to keep anybody from
    /// changing something else, and neither is one that has ended, while it was in force or before the guard started.
    pub(in crate::control) fn judge(
        &self,
        found: Found,
        in_force: Option<&Arc<Credentials>>,
    ) -> Result<Judged, Vec<CredentialFault>> {
        match found {
            Found::None => Ok(Judged::keeping(None)),
            Found::New(credentials) => Ok(Judged::keeping(Some(&credentials))),
            Found::Same(credentials) => {
                let fault = credentials.fault(certificate_time());
                let warning = fault.map(|fault| format!("other guards refuse [tls] cert now: {fault}"));
                Ok(Judged { warning, ..Judged::keeping(Some(&credentials)) })
            }
            Found::Early(early) if self.waits_for(&early) => {
                let warning = Some(format!("{}: {}", early.fault, early.fault.help()));
                Ok(Judged { warning, files: Files::Waiting, ..Judged::keeping(in_force) })
            }
            Found::Unfit(fault) if in_force.is_none() && self.knows(&fault) => {
                let warning = Some(format!("{fault}: {}", fault.help()));
                Ok(Judged { warning, files: Files::Waiting, ..Judged::keeping(None) })
            }
            Found::Early(Early { fault, .. }) | Found::Unfit(fault) => Err(vec![fault]),
        }
    }

    /// A reload has put this in force.
    pub(in crate::control) fn follow(&self, judged: &Judged) {
        if judged.files == Files::InForce {
            self.settle();
        }
    }

    /// Tells what is weak in the credentials in force, or soon ends: each once a day.
    pub fn remind(&self, snapshot: &Snapshot) {
        let Some(credentials) = snapshot.credentials() else { return };
        let mut state = self.state();
        if state.told.len() >= TOLD {
            state.told.clear();
        }
        let now = Instant::now();
        for concern in credentials.concerns(certificate_time(), snapshot.config.tls.warn_before) {
            let problem = concern.to_string();
            if state.told.get(&problem).is_some_and(|last| now.duration_since(*last) < AGAIN) {
                continue;
            }
            let (reason, help) = (concern.label(), help_for(&concern));
            match &concern {
                Concern::Ends { .. } | Concern::CaEnds { .. } => {
                    tracing::warn!(reason, problem, help, "certificate_expires");
                }
                Concern::CrlAbsent { .. } | Concern::CrlStale { .. } | Concern::CrlPartial { .. } => {
                    tracing::warn!(reason, problem, help, "revocation_unsure");
                }
            }
            state.told.insert(problem, now);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What to do about a concern.
pub(in crate::control) fn help_for(concern: &Concern) -> &'static str {
    match concern {
        Concern::Ends { .. } => {
            "renew it where the CA is (`epmd-guard certs renew NAME`), and put the new one in the place of [tls] cert and key"
        }
        Concern::CaEnds { .. } => {
            "add its successor to [tls] ca on all hosts, then issue certificates by that one, then take it out"
        }
        Concern::CrlAbsent { .. } => {
            "write it (`epmd-guard certs revoke` without a name), or take it out of [tls] crl"
        }
        Concern::CrlStale { .. } => {
            "get a list that is younger: `epmd-guard certs revoke` without a name writes one, and revokes nothing"
        }
        Concern::CrlPartial { .. } => "add the list of this CA to [tls] crl",
    }
}

/// Tells that other credentials are in force since now, in the place of `before`. So many links ended, whose peers have
/// shown a certificate that is revoked.
pub(in crate::control) fn tell_changed(
    before: Option<&Arc<Credentials>>,
    next: &Credentials,
    links_cut: usize,
) {
    let changed = words(&changed_purposes(before, next));
    let own = next.own();
    let not_after = shown_moment(own.not_after);
    tracing::info!(
        changed,
        subject = own.subject,
        serial = own.serial,
        not_after,
        links_cut,
        "credentials_changed"
    );
}

fn words(purposes: &[Purpose]) -> String {
    let words: Vec<&str> = purposes.iter().map(|purpose| purpose.label()).collect();
    words.join(" ")
}

/// What a reload reports of credentials that it takes: one change for each file that holds something else.
pub(in crate::control) fn changes(before: Option<&Arc<Credentials>>, next: &Credentials) -> Vec<Change> {
    let own = next.own();
    let (cas, lists) = next.counts();
    let change = |purpose: Purpose| {
        let what = match purpose {
            Purpose::Certificate | Purpose::Key => format!(
                "holds another certificate: {} (serial {}), good until {}",
                own.subject,
                own.serial,
                shown_moment(own.not_after)
            ),
            Purpose::Ca => format!("holds other CAs: {cas}"),
            Purpose::Crl => format!("holds other lists of revoked certificates: {lists}"),
        };
        Change { key: format!("[tls] {}", purpose.label()), what, applies: Applies::AtOnce }
    };
    match before {
        Some(_) => changed_purposes(before, next).into_iter().map(change).collect(),
        // That there are files now is told by their keys.
        None => Vec::new(),
    }
}

/// Ends the links whose peers have shown a certificate that is revoked by the credentials in force.
pub(super) fn end_revoked(context: &Context) -> usize {
    let cut = context.links.follow_credentials(&context.snapshot()).len();
    context.metrics.links_cut(u64::try_from(cut).unwrap_or(u64::MAX));
    cut
}
