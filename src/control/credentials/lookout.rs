//! The timed look at the files of `[tls]`: what renews a certificate need not tell the guard of it.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::Instant;

use super::keyring::{end_revoked, tell_changed};
use super::{CredentialFault, Found, Keyring, certificate_time, read_credentials};
use crate::config::{CrlRules, Tls, TlsFiles};
use crate::session::{Context, Snapshots};
use crate::telemetry::ReloadOutcome;
use crate::transport::tls::{Credentials, Stamp};

/// For reading the files, which may lie on a file system that hangs.
const READING: Duration = Duration::from_secs(10);
/// How often a certificate is tried again whose time has not come, and whatever is there while nothing is in force: the
/// clock may be set at any moment, and a list fetched.
const EARLY: Duration = Duration::from_secs(10);
/// How often it is asked whether a certificate is to be told of.
const REMIND: Duration = Duration::from_hours(1);

/// Looks after the files.
#[derive(Debug)]
pub struct Lookout {
    snapshots: Snapshots,
    context: Arc<Context>,
    keyring: Arc<Keyring>,
    /// What was looked at last.
    seen: Option<Seen>,
    /// The last reading. One that hangs keeps a thread, so that there is no other beside it.
    reading: Option<JoinHandle<Looked>>,
}

/// What the files are, how lists are taken, and what the file system says of them.
type Seen = (TlsFiles, CrlRules, Stamp);
/// What was found; `None`: nothing has changed.
type Looked = Option<(Seen, Result<Found, Vec<CredentialFault>>)>;

impl Lookout {
    /// A lookout that has seen nothing.
    #[must_use]
    pub fn new(snapshots: Snapshots, context: Arc<Context>, keyring: Arc<Keyring>) -> Self {
        Self { snapshots, context, keyring, seen: None, reading: None }
    }

    /// Looks from time to time, and reminds of what ends.
    pub async fn run(mut self) {
        let mut generations = self.snapshots.subscribe();
        let (mut looked, mut reminded) = (Instant::now(), Instant::now());
        self.keyring.remind(&self.snapshots.current());
        loop {
            let look_at = self.every().map(|every| looked + every);
            let remind_at = reminded + REMIND;
            let next = look_at.map_or(remind_at, |at| at.min(remind_at));
            tokio::select! {
                () = tokio::time::sleep_until(next) => {
                    if look_at == Some(next) {
                        self.look().await;
                        looked = Instant::now();
                    }
                }
                // Other credentials, or another `look_every`.
                changed = generations.changed() => if changed.is_err() {
                    return;
                },
            }
            self.keyring.remind(&self.snapshots.current());
            reminded = Instant::now();
        }
    }

    /// How often it looks; `None`: only a reload does.
    pub(super) fn every(&self) -> Option<Duration> {
        let snapshot = self.snapshots.current();
        let Tls { files, look_every, .. } = &snapshot.config.tls;
        files.as_ref()?;
        let is_without = snapshot.credentials().is_none() && self.keyring.is_restless();
        if self.keyring.waits() || is_without {
            return Some(look_every.map_or(EARLY, |every| every.min(EARLY)));
        }
        *look_every
    }

    /// Reads the files if they have changed, and takes what they hold if that can be used.
    pub(super) async fn look(&mut self) {
        let keyring = Arc::clone(&self.keyring);
        let _turn = keyring.turn.lock().await;
        let snapshot = self.snapshots.current();
        let tls = snapshot.config.tls.clone();
        let before = snapshot.credentials().cloned();
        let Some(looked) = self.read(tls, before.clone()).await else { return };
        let (seen, found) = looked;
        self.seen = seen;
        match found {
            Ok(Found::None | Found::Same(_)) => keyring.settle(),
            Ok(Found::Early(early)) => keyring.wait_for(early),
            Ok(Found::New(credentials)) => self.take(before.as_ref(), credentials),
            Ok(Found::Unfit(fault)) => self.refuse(vec![fault]),
            Err(faults) => self.refuse(faults),
        }
    }

    fn refuse(&self, faults: Vec<CredentialFault>) {
        if self.keyring.fault(faults) {
            self.context.metrics.credentials(ReloadOutcome::Refused);
        }
    }

    /// `None`: nothing has changed.
    async fn read(
        &mut self,
        tls: Tls,
        before: Option<Arc<Credentials>>,
    ) -> Option<(Option<Seen>, Result<Found, Vec<CredentialFault>>)> {
        let hang = (None, Err(vec![CredentialFault::Hang(READING)]));
        if self.reading.as_ref().is_some_and(|reading| !reading.is_finished()) {
            return Some(hang);
        }
        let seen = if self.keyring.is_restless() { None } else { self.seen.clone() };
        let reading = self.reading.insert(spawn_blocking(move || read_if_changed(&tls, seen, before)));
        match tokio::time::timeout(READING, reading).await {
            Ok(looked) => {
                self.reading = None;
                // A panic is in the log.
                let (seen, found) = looked.ok().flatten()?;
                Some((Some(seen), found))
            }
            Err(_) => Some(hang),
        }
    }

    fn take(&self, before: Option<&Arc<Credentials>>, credentials: Arc<Credentials>) {
        self.snapshots.set_credentials(Some(Arc::clone(&credentials)));
        self.keyring.settle();
        let cut = end_revoked(&self.context);
        self.context.metrics.credentials(ReloadOutcome::Applied);
        tell_changed(before, &credentials, cut);
    }
}

fn read_if_changed(tls: &Tls, last: Option<Seen>, before: Option<Arc<Credentials>>) -> Looked {
    let files = tls.files.as_ref()?;
    // Before they are read: what changes meanwhile is another stamp at the next look.
    let seen = (files.clone(), tls.crl, Stamp::of(files));
    if last.as_ref() == Some(&seen) {
        return None;
    }
    let found = read_credentials(tls, before.as_ref(), certificate_time());
    Some((seen, found))
}
