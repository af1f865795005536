//! What every connection needs, and what it holds while it lives.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Semaphore, SemaphorePermit, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::links::Links;
use super::ports::Ports;
use super::snapshot::{Snapshot, Snapshots};
use crate::policy::{Admission, Caps, Full, SlotTable, Standing};
use crate::telemetry::{Metrics, RefusalLog, Reminders};
use crate::transport::{BufferPool, Relay};

/// Shared by all connections of a guard.
#[derive(Debug)]
pub struct Context {
    snapshots: Snapshots,
    slots: Arc<Mutex<SlotTable>>,
    ids: AtomicU64,
    /// Refused addresses whose host name may explain the refusal.
    strangers: mpsc::Sender<IpAddr>,
    pub(super) ports: Ports,
    asking: Asking,
    buffers: BufferPool,
    /// The links that are up.
    pub links: Links,
    /// What was counted.
    pub metrics: Metrics,
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
    pub fn new(snapshots: Snapshots, caps: Caps, ports: Ports, strangers: mpsc::Sender<IpAddr>) -> Self {
        let asking = Asking { peers: Semaphore::new(ASKING_AT_ONCE), itself: Semaphore::new(ASKING_AT_ONCE) };
        Self {
            snapshots,
            slots: Arc::new(Mutex::new(SlotTable::new(caps))),
            ids: AtomicU64::new(1),
            strangers,
            ports,
            asking,
            buffers: BufferPool::default(),
            links: Links::default(),
            metrics: Metrics::new(),
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
        tokio::time::timeout(self.snapshot().backend_timeout(), places.acquire()).await.ok()?.ok()
    }

    /// The generation in force.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshots.current()
    }

    /// How a link that comes up now is carried.
    pub(super) fn relay(&self, snapshot: &Snapshot) -> Relay {
        let half_close_timeout = snapshot.config.limits.half_close_timeout;
        Relay { buffers: self.buffers.clone(), half_close_timeout }
    }

    /// The table of connections, while the value is held.
    pub fn slots(&self) -> MutexGuard<'_, SlotTable> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Connections at this moment.
    #[must_use]
    pub fn connections(&self) -> u32 {
        self.slots().in_use()
    }

    /// A number that no other connection of this process has.
    pub(super) fn next_id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::Relaxed)
    }

    /// Takes a place for the connection.
    pub(super) fn take_slot(&self, admission: &Admission) -> Result<Slot, Full> {
        let (standing, ip) = (admission.standing(), admission.peer().ip());
        self.slots().take(standing, ip)?;
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
