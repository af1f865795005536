//! The certificate that the guard at the other end has shown, kept for as long as a link lasts: it may be revoked.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::Notify;

use crate::policy::{PeerAddr, San};
use crate::transport::tls::{CertificateDer, Credentials, Usage};

/// A certificate that was found good in the handshake of a leg.
#[derive(Clone)]
pub struct Shown {
    /// It, and those between it and the CA, as they were shown.
    pub chain: Arc<[CertificateDer<'static>]>,
    /// Its names.
    pub sans: Arc<[San]>,
    /// What it was used as.
    pub usage: Usage,
    /// From where the leg came, where the other guard has dialled.
    pub from: Option<PeerAddr>,
    /// What it was checked by last, and whether it was revoked. They are not kept alive: they have a key in them.
    checked: Arc<Mutex<(Weak<Credentials>, IsRevoked)>>,
}

/// Whether a certificate is revoked.
type IsRevoked = bool;

impl Shown {
    /// What these credentials have found good.
    #[must_use]
    pub fn new(chain: &[CertificateDer<'static>], sans: &[San], usage: Usage, by: &Arc<Credentials>) -> Self {
        let checked = Arc::new(Mutex::new((Arc::downgrade(by), false)));
        Self { chain: chain.into(), sans: sans.into(), usage, from: None, checked }
    }

    /// The same of a leg that came from there.
    #[must_use]
    pub fn came_from(self, peer: PeerAddr) -> Self {
        Self { from: Some(peer), ..self }
    }

    /// Whether it is revoked by what these credentials know. Those that found it good have looked already.
    #[must_use]
    pub fn is_revoked(&self, credentials: &Arc<Credentials>) -> bool {
        let mut checked = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        let (by, is_revoked) = &mut *checked;
        if !std::ptr::eq(by.as_ptr(), Arc::as_ptr(credentials)) {
            *is_revoked = credentials.verifier().revoked_since(&self.chain, self.usage).is_some();
            *by = Arc::downgrade(credentials);
        }
        *is_revoked
    }
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shown").field("sans", &self.sans).field("usage", &self.usage).finish_non_exhaustive()
    }
}

/// What was shown last on the legs of one link. A guard whose certificate is rotated shows the new one with the next leg.
#[derive(Debug, Clone, Default)]
pub struct LastShown(Arc<Last>);

#[derive(Debug, Default)]
struct Last {
    shown: Mutex<Option<Shown>>,
    changed: Notify,
}

impl LastShown {
    /// It; `None`: the link goes through no tunnel.
    #[must_use]
    pub fn get(&self) -> Option<Shown> {
        self.0.shown.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until another leg has shown something; of several, the last one counts. For one who waits.
    pub async fn changed(&self) {
        self.0.changed.notified().await;
    }

    /// Takes what the next leg has shown.
    pub fn set(&self, shown: Option<Shown>) {
        if shown.is_some() {
            *self.0.shown.lock().unwrap_or_else(PoisonError::into_inner) = shown;
            self.0.changed.notify_one();
        }
    }
}
