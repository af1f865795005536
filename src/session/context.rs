//! What every connection needs, and what it holds while it lives.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::links::Links;
use super::mapper::Mapper;
use super::ports::Ports;
use super::snapshot::{Snapshot, Snapshots, memory};
use super::speakers::{Speakers, half_open_caps};
use super::tunnel::{AskError, Ways};
use crate::policy::{Admission, Caps, Full, Permit, SlotTable, Standing};
use crate::telemetry::{Metrics, RefusalLog, Reminders};
use crate::transport::tunnel::Tunnels;
use crate::transport::{BufferPool, Relay};

/// Shared by all connections of a guard.
#[derive(Debug)]
pub struct Context {
    snapshots: Snapshots,
    slots: Arc<Mutex<SlotTable>>,
    /// The handshakes that are not done.
    half_open: Arc<Mutex<SlotTable>>,
    /// What is remembered of those who speak.
    pub speakers: Speakers,
    ids: AtomicU64,
    /// Refused addresses whose host name may explain the refusal.
    strangers: mpsc::Sender<IpAddr>,
    /// The distribution ports; `None`: they are nobody's concern here.
    pub(super) ports: Option<Ports>,
    /// The embedded epmd.
    pub mapper: Mapper,
    pub(super) habits: Habits,
    /// A KILL was obeyed.
    pub killed: CancellationToken,
    /// Ends registrations, and nothing else: their nodes look for another epmd then.
    pub disown: CancellationToken,
    asking: Asking,
    buffers: BufferPool,
    /// The links that are up.
    pub links: Links,
    /// The ways to the guards of peers.
    pub ways: Ways,
    /// What all tunnels share.
    pub tunnels: Tunnels,
    /// What was counted.
    pub metrics: Metrics,
    /// What was refused lately.
    pub refusals: RefusalLog,
    /// What would have been, if it were not only observed.
    pub would_refuse: RefusalLog,
    /// What else was told lately.
    pub reminders: Reminders,
    /// The owner of all sessions.
    pub sessions: TaskTracker,
    /// Ends links and registrations.
    pub stop: CancellationToken,
}

/// What a context is made of.
#[derive(Debug)]
pub struct ContextParts {
    /// The generations.
    pub snapshots: Snapshots,
    /// How many connections there may be.
    pub caps: Caps,
    /// The distribution ports, where they are guarded.
    pub ports: Option<Ports>,
    /// Takes addresses that were refused.
    pub strangers: mpsc::Sender<IpAddr>,
    /// What is peculiar to this process.
    pub habits: Habits,
}

/// What is peculiar to a process that was started as `epmd`; the default is the daemon's.
#[derive(Debug, Clone, Copy, Default)]
pub struct Habits {
    /// What KILL does.
    pub on_kill: OnKill,
    /// `-delay_accept`: how long a new connection is left alone. A test aid.
    pub delay_accept: Duration,
    /// `-delay_write`: how long each answer is held back. A test aid.
    pub delay_write: Duration,
}

/// What KILL does to the process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnKill {
    /// Nothing; it is answered by whether a name is left.
    #[default]
    GoOn,
    /// It ends it when no name is left.
    EndWhenEmpty,
    /// It ends it (`relaxed_command_check`).
    End,
}

/// How many may ask epmd at one time, peers and self apart: epmd has about 1,019 slots for all its
/// connections, those of registered nodes included, and some versions end when they run out.
#[derive(Debug)]
struct Asking {
    peers: Semaphore,
    itself: Semaphore,
    /// Lists of the embedded epmd, each of which may be some megabytes.
    lists_of_peers: Arc<Semaphore>,
    lists_of_itself: Arc<Semaphore>,
}

/// See [`Asking`]. More than this only makes epmd, which has one thread, switch more often.
const ASKING_AT_ONCE: usize = 64;
/// A list is made and handed to the kernel in much less than a millisecond where there are some hundred names.
const LISTS_AT_ONCE: usize = 16;

/// A connection's place among the connections; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Slot {
    slots: Arc<Mutex<SlotTable>>,
    standing: Standing,
    ip: IpAddr,
}

impl Context {
    /// A context of a guard that begins.
    #[must_use]
    pub fn new(parts: ContextParts) -> Self {
        let ContextParts { snapshots, caps, ports, strangers, habits } = parts;
        let first = snapshots.current();
        let names = caps.names(first.config.limits.names);
        let speakers = Speakers::new(&first.config.limits, first.config.ban.rules);
        let [peers, itself] = [ASKING_AT_ONCE; 2].map(Semaphore::new);
        let [lists_of_peers, lists_of_itself] = [LISTS_AT_ONCE; 2].map(|most| Arc::new(Semaphore::new(most)));
        let asking = Asking { peers, itself, lists_of_peers, lists_of_itself };
        Self {
            snapshots,
            slots: Arc::new(Mutex::new(SlotTable::new(caps))),
            half_open: Arc::new(Mutex::new(SlotTable::new(half_open_caps(&first)))),
            speakers,
            ids: AtomicU64::new(1),
            strangers,
            ports,
            mapper: Mapper::new(names),
            habits,
            killed: CancellationToken::new(),
            disown: CancellationToken::new(),
            asking,
            buffers: BufferPool::default(),
            links: Links::default(),
            ways: Ways::default(),
            tunnels: Tunnels::new(memory(first.config.limits.replay)),
            metrics: Metrics::new(),
            refusals: RefusalLog::default(),
            would_refuse: RefusalLog::default(),
            reminders: Reminders::default(),
            sessions: TaskTracker::new(),
            stop: CancellationToken::new(),
        }
    }

    /// A place among those who ask epmd, for as long as it is kept. `None`: none was free in time.
    pub(super) async fn place_to_ask(&self, standing: Standing) -> Option<SemaphorePermit<'_>> {
        let places = match standing {
            Standing::Itself => &self.asking.itself,
            Standing::NamedPeer(_) | Standing::NetworkPeer(_) | Standing::Registrant => &self.asking.peers,
        };
        tokio::time::timeout(self.snapshot().backend_timeout(), places.acquire()).await.ok()?.ok()
    }

    /// The same for a list of the embedded epmd, for as long as it is not sent.
    pub(super) async fn place_to_list(&self, standing: Standing) -> Option<OwnedSemaphorePermit> {
        let places = match standing {
            Standing::Itself => &self.asking.lists_of_itself,
            Standing::NamedPeer(_) | Standing::NetworkPeer(_) | Standing::Registrant => {
                &self.asking.lists_of_peers
            }
        };
        let place = Arc::clone(places).acquire_owned();
        tokio::time::timeout(self.snapshot().backend_timeout(), place).await.ok()?.ok()
    }

    /// The generation in force.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshots.current()
    }

    /// The generations, to be asked for the one in force later.
    pub(super) fn snapshots(&self) -> Snapshots {
        self.snapshots.clone()
    }

    /// Asks the epmd of a peer; as [`Ways`] do.
    ///
    /// # Errors
    /// The peer cannot be asked, or does not answer in time.
    pub async fn ask_peer(
        &self,
        permit: &Permit,
        snapshot: &Snapshot,
        body: &[u8],
    ) -> Result<Vec<u8>, AskError> {
        self.ways.ask(permit, body, (snapshot, self.snapshots(), &self.tunnels)).await
    }

    /// Changes with the generation in force.
    pub(super) fn generations(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshots.subscribe()
    }

    /// How a link that comes up now is carried.
    pub(super) fn relay(&self, snapshot: &Snapshot) -> Relay {
        let half_close_timeout = snapshot.config.limits.half_close_timeout;
        Relay {
            buffers: self.buffers.clone(),
            half_close_timeout,
            resume_for: snapshot.config.tls.resume_for,
        }
    }

    /// The table of connections, while the value is held.
    pub fn slots(&self) -> MutexGuard<'_, SlotTable> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The table of handshakes that are not done, while the value is held.
    pub fn half_open(&self) -> MutexGuard<'_, SlotTable> {
        self.half_open.lock().unwrap_or_else(PoisonError::into_inner)
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
        Slot::take(&self.slots, self.speakers.rank(admission), admission.peer().ip())
    }

    /// Takes a place for its handshake.
    pub(super) fn take_half_open(&self, admission: &Admission) -> Result<Slot, Full> {
        Slot::take(&self.half_open, self.speakers.rank(admission), admission.peer().ip())
    }

    /// Asks for an explanation of why this address was refused. Dropped when there are too many:
    /// strangers must not make us work.
    pub(super) fn explain_stranger(&self, ip: IpAddr) {
        if self.strangers.try_send(ip).is_err() {
            tracing::trace!(peer = %ip, "not_explained");
        }
    }
}

impl Slot {
    fn take(slots: &Arc<Mutex<SlotTable>>, standing: Standing, ip: IpAddr) -> Result<Self, Full> {
        slots.lock().unwrap_or_else(PoisonError::into_inner).take(standing, ip)?;
        Ok(Self { slots: Arc::clone(slots), standing, ip })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner).give_back(self.standing, self.ip);
    }
}
