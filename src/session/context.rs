//! What every connection needs, and what it holds while it lives.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::ports::Ports;
use crate::policy::{Admission, Caps, Full, Policy, SlotTable, Standing};
use crate::telemetry::{RefusalLog, Reminders};
use crate::transport::{BufferPool, Dialer, Relay};

/// Deadlines and caps.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// For one whole epmd request.
    pub request_timeout: Duration,
    /// For epmd's whole answer, and for a peer to take it.
    pub backend_timeout: Duration,
    /// For the silence of the remaining direction of a half-closed link.
    pub half_close_timeout: Duration,
    /// How many connections there may be.
    pub caps: Caps,
}

/// Shared by all connections of a guard.
#[derive(Debug)]
pub struct Context {
    policy: watch::Receiver<Arc<Policy>>,
    slots: Arc<Mutex<SlotTable>>,
    ids: AtomicU64,
    /// Refused addresses whose host name may explain the refusal.
    strangers: mpsc::Sender<IpAddr>,
    pub(super) settings: Settings,
    pub(super) ports: Ports,
    asking: Asking,
    pub(super) dialer: Dialer,
    pub(super) relay: Relay,
    /// What was refused lately.
    pub refusals: RefusalLog,
    /// What else was told lately.
    pub reminders: Reminders,
    /// The owner of all sessions.
    pub sessions: TaskTracker,
    /// Ends links and registrations.
    pub stop: CancellationToken,
}

/// How many may ask epmd at one time, peers and self apart: epmd has about 1,019 slots for all its
/// connections, those of registered nodes included, and some versions end when they run out.
#[derive(Debug)]
struct Asking {
    peers: Semaphore,
    itself: Semaphore,
}

/// See [`Asking`]. More than this only makes epmd, which has one thread, switch more often.
const ASKING_AT_ONCE: usize = 64;

/// A connection's place among the connections; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Slot {
    slots: Arc<Mutex<SlotTable>>,
    standing: Standing,
    ip: IpAddr,
}

impl Context {
    /// A context whose refused addresses are handed to `strangers`.
    #[must_use]
    pub fn new(
        policy: watch::Receiver<Arc<Policy>>,
        settings: Settings,
        dialer: Dialer,
        ports: Ports,
        strangers: mpsc::Sender<IpAddr>,
    ) -> Self {
        let relay = Relay { buffers: BufferPool::default(), half_close_timeout: settings.half_close_timeout };
        let asking = Asking { peers: Semaphore::new(ASKING_AT_ONCE), itself: Semaphore::new(ASKING_AT_ONCE) };
        Self {
            policy,
            slots: Arc::new(Mutex::new(SlotTable::new(settings.caps))),
            ids: AtomicU64::new(1),
            strangers,
            settings,
            ports,
            asking,
            dialer,
            relay,
            refusals: RefusalLog::default(),
            reminders: Reminders::default(),
            sessions: TaskTracker::new(),
            stop: CancellationToken::new(),
        }
    }

    /// A place among those who ask epmd, for as long as it is kept. `None`: none was free in time.
    pub(super) async fn place_to_ask(&self, standing: Standing) -> Option<SemaphorePermit<'_>> {
        let places = match standing {
            Standing::Itself => &self.asking.itself,
            Standing::NamedPeer(_) | Standing::NetworkPeer(_) => &self.asking.peers,
        };
        tokio::time::timeout(self.settings.backend_timeout, places.acquire()).await.ok()?.ok()
    }

    /// The rules as they are now.
    #[must_use]
    pub fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.policy.borrow())
    }

    /// Connections at this moment.
    #[must_use]
    pub fn connections(&self) -> u32 {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner).in_use()
    }

    /// A number that no other connection of this process has.
    pub(super) fn next_id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::Relaxed)
    }

    /// Takes a place for the connection.
    pub(super) fn take_slot(&self, admission: &Admission) -> Result<Slot, Full> {
        let (standing, ip) = (admission.standing(), admission.peer().ip());
        self.slots.lock().unwrap_or_else(PoisonError::into_inner).take(standing, ip)?;
        Ok(Slot { slots: Arc::clone(&self.slots), standing, ip })
    }

    /// Asks for an explanation of why this address was refused. Dropped when there are too many:
    /// strangers must not make us work.
    pub(super) fn explain_stranger(&self, ip: IpAddr) {
        if self.strangers.try_send(ip).is_err() {
            tracing::trace!(peer = %ip, "not_explained");
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner).give_back(self.standing, self.ip);
    }
}
