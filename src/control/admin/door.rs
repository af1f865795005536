//! Where requests come in: the Unix socket and the loopback ports, kept open for as long as the guard runs.
//!
//! Owns the accept loops and the exchanges. Never reads a byte (`exchange`).

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::claim::{Claim, FOLDER_MODE, Folder};
use super::exchange::{Visitor, exchange};
use super::socket::{BoundSocket, Fault, OpenSocket};
use super::{Operations, Shared};
use crate::telemetry::{Reminders, describe};
use crate::transport::{Accepted, Listener};

/// How often a socket is looked after, and tried again if it is not open.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// How often a socket that stays shut for the same reason is told of again.
const REMIND_EVERY: Duration = Duration::from_secs(600);
/// Connections at one time, for each socket; more are closed at once. Who fills a loopback port, which any
/// user of the host can do, keeps nobody from the Unix socket.
const AT_ONCE: usize = 32;
/// The first wait when the kernel has no descriptor or memory to spare, doubled up to the longest.
const FIRST_WAIT: Duration = Duration::from_millis(5);
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// How long the first look for a group may take before the socket opens without it: it may come from a
/// directory that does not answer.
const GROUP_WITHIN: Duration = Duration::from_secs(3);
/// The same for each later look, while which nobody is let in.
const GROUP_AGAIN_WITHIN: Duration = Duration::from_millis(100);

/// The Unix socket.
pub(super) struct UnixDoor<O> {
    /// Before the claim, so that it is removed while nobody else may make one.
    socket: Option<OpenSocket>,
    claim: Claim,
    /// Who may use it besides its owner.
    group: Option<Group>,
    shared: Arc<Shared<O>>,
    exchanges: JoinSet<()>,
    teller: Teller,
    wait: Duration,
    reminders: Reminders,
}

/// `[admin] group`.
struct Group {
    name: String,
    /// A look that is under way. It keeps a thread, so that there is never another beside it.
    looking: Option<JoinHandle<io::Result<u32>>>,
    /// Whether the socket that is open is the group's, too.
    state: GroupState,
    teller: Teller,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum GroupState {
    Set,
    NotSet,
}

/// Why a socket is shut was told, and when.
#[derive(Debug, Default)]
struct Teller(Option<(String, Instant)>);

impl<O: Operations> UnixDoor<O> {
    pub(super) fn new(claim: Claim, group: Option<String>, shared: Arc<Shared<O>>) -> Self {
        Self {
            socket: None,
            claim,
            group: group.map(Group::new),
            shared,
            exchanges: JoinSet::new(),
            teller: Teller::default(),
            wait: FIRST_WAIT,
            reminders: Reminders::default(),
        }
    }

    /// Keeps the socket open until `stop`, and removes it then if it is still ours.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                // A panic is in the log, and ended nothing but its own exchange.
                Some(_) = self.exchanges.join_next() => {}
                _ = ticks.tick() => tokio::select! {
                    () = stop.cancelled() => return,
                    () = self.look() => {}
                },
                accepted = accept(self.socket.as_ref()) => self.take(accepted).await,
            }
        }
    }

    async fn look(&mut self) {
        let held = self.claim.hold();
        if held.is_ok()
            && let Some(socket) = self.socket.as_ref().filter(|socket| socket.is_in_place())
        {
            // A group may be made later, and the directory that knows it may answer later.
            if let Some(group) = self.group.as_mut().filter(|group| group.state == GroupState::NotSet)
                && let Some(found) = group.find(GROUP_AGAIN_WITHIN).await
            {
                group.note(&self.claim, found.and_then(|id| share(&self.claim, id, |id| socket.share(id))));
            }
            return;
        }
        // Requests that are under way on a socket that is gone are answered.
        self.socket = None;
        let opened = match held {
            Ok(()) => self.open().await,
            Err(fault) => Err(fault),
        };
        let path = self.claim.socket().display();
        match opened {
            Ok(socket) => {
                self.socket = Some(socket);
                self.teller.forget();
                tracing::info!(%path, "admin_opened");
            }
            Err(fault) => {
                let (error, help) = (describe(&fault), fault.help());
                if self.teller.is_due(&error) {
                    tracing::warn!(%path, error, help, "admin_not_opened");
                }
            }
        }
    }

    async fn open(&mut self) -> Result<OpenSocket, Fault> {
        let found = match &mut self.group {
            Some(group) => {
                let silent = || Err(io::Error::other("whoever knows the groups does not answer"));
                Some(group.find(GROUP_WITHIN).await.unwrap_or_else(silent))
            }
            None => None,
        };
        let socket = BoundSocket::bind(self.claim.socket()).await?;
        if let (Some(group), Some(found)) = (&mut self.group, found) {
            group.note(&self.claim, found.and_then(|id| share(&self.claim, id, |id| socket.share(id))));
        }
        socket.open()
    }

    async fn take(&mut self, accepted: io::Result<UnixStream>) {
        match accepted {
            Ok(stream) => {
                self.wait = FIRST_WAIT;
                if self.exchanges.len() >= AT_ONCE {
                    tracing::debug!(most = AT_ONCE, "admin_full");
                    return;
                }
                let (uid, pid) = stream.peer_cred().map_or((None, None), |who| (Some(who.uid()), who.pid()));
                let visitor = Visitor::Trusted { uid, pid };
                self.exchanges.spawn(exchange(stream, visitor, Arc::clone(&self.shared)));
            }
            Err(error) => {
                if self.reminders.is_due("accept_delayed", 0, Instant::now()) {
                    let help =
                        "descriptors or memory are used up: raise LimitNOFILE or lower [limits] connections";
                    tracing::warn!(listener = %self.claim.socket().display(), %error, help, "accept_delayed");
                }
                tokio::time::sleep(self.wait).await;
                self.wait = (self.wait * 2).min(LONGEST_WAIT);
            }
        }
    }
}

/// The next connection, for which a socket that is shut waits for ever. Cancel-safe.
async fn accept(socket: Option<&OpenSocket>) -> io::Result<UnixStream> {
    match socket {
        Some(socket) => socket.accept().await,
        None => std::future::pending().await,
    }
}

/// Lets a group in; a directory that we made lets nobody but its owner's group through.
fn share(claim: &Claim, group: u32, socket: impl FnOnce(u32) -> io::Result<()>) -> io::Result<()> {
    if let (Folder::Made, Some(folder)) = (claim.folder(), claim.socket().parent()) {
        std::os::unix::fs::lchown(folder, None, Some(group))?;
        // The umask has taken the group's part away.
        std::fs::set_permissions(folder, std::fs::Permissions::from_mode(FOLDER_MODE))?;
    }
    socket(group)
}

impl Group {
    fn new(name: String) -> Self {
        Self { name, looking: None, state: GroupState::NotSet, teller: Teller::default() }
    }

    /// Its number. `None`: the look takes longer; it goes on, and is asked for its outcome the next time.
    async fn find(&mut self, within: Duration) -> Option<io::Result<u32>> {
        let name = self.name.clone();
        let mut looking =
            self.looking.take().unwrap_or_else(|| tokio::task::spawn_blocking(move || find_group(&name)));
        match tokio::time::timeout(within, &mut looking).await {
            Ok(Ok(found)) => Some(found),
            Ok(Err(panic)) => Some(Err(panic.into())),
            Err(_) => {
                self.looking = Some(looking);
                None
            }
        }
    }

    /// Notes whether the socket is the group's now, and tells if it is not.
    fn note(&mut self, claim: &Claim, shared: io::Result<()>) {
        let (path, group) = (claim.socket().display(), &self.name);
        match shared {
            Ok(()) => {
                self.state = GroupState::Set;
                self.teller.forget();
                tracing::debug!(%path, group, "admin_group_set");
            }
            Err(error) => {
                self.state = GroupState::NotSet;
                let help = "the socket is open for its owner alone, and this is tried again: make the group, and make \
                            the guard's user a member of it, which counts after a restart of the guard";
                if self.teller.is_due(&error.to_string()) {
                    tracing::warn!(%path, group, %error, help, "admin_group_not_set");
                }
            }
        }
    }
}

fn find_group(name: &str) -> io::Result<u32> {
    match nix::unistd::Group::from_name(name)? {
        Some(group) => Ok(group.gid.as_raw()),
        None => Err(io::Error::other("there is no such group")),
    }
}

/// Keeps a loopback port open until `stop`.
pub(super) async fn keep_loopback_open<O: Operations>(
    addr: SocketAddr,
    shared: Arc<Shared<O>>,
    stop: CancellationToken,
) {
    let mut teller = Teller::default();
    loop {
        match bind_loopback(addr) {
            Ok(listener) => {
                tracing::info!(listener = %listener.local_addr(), "admin_opened");
                return serve_loopback(listener, shared, stop).await;
            }
            Err(error) => {
                let help =
                    "name a loopback address and a port that is free in [admin] listen; it is tried again";
                if teller.is_due(&error.to_string()) {
                    tracing::warn!(listener = %addr, %error, help, "admin_not_opened");
                }
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

/// What is told there is for this host alone, whatever the configuration let pass.
pub(super) fn bind_loopback(addr: SocketAddr) -> io::Result<Listener> {
    if !addr.ip().to_canonical().is_loopback() {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it is no loopback address"));
    }
    Listener::bind(addr)
}

pub(super) async fn serve_loopback<O: Operations>(
    mut listener: Listener,
    shared: Arc<Shared<O>>,
    stop: CancellationToken,
) {
    let mut exchanges = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            Some(_) = exchanges.join_next() => {}
            Accepted { stream, arrival } = listener.accept() => {
                if exchanges.len() >= AT_ONCE {
                    tracing::debug!(most = AT_ONCE, "admin_full");
                    continue;
                }
                let visitor = Visitor::Anybody(arrival.peer);
                exchanges.spawn(exchange(stream, visitor, Arc::clone(&shared)));
            }
        }
    }
}

impl Teller {
    /// Whether the reason is worth a line: when it is new, and now and then.
    fn is_due(&mut self, why: &str) -> bool {
        let known = self.0.as_ref().is_some_and(|(told, at)| told == why && at.elapsed() < REMIND_EVERY);
        if !known {
            self.0 = Some((why.to_owned(), Instant::now()));
        }
        !known
    }

    fn forget(&mut self) {
        self.0 = None;
    }
}
