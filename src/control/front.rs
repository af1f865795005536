//! Which of our ports are open: the ones that are configured and have something behind them.
//!
//! Owns the listeners. Looks at the kernel's table five times a second, and at once when a question asks
//! for it; an outside port opens when something listens behind it and closes when that goes, so that a
//! node that tries its own port before it starts finds it closed. Links live on when their port closes.
//! Nothing slow is awaited here: addresses and obstacles are looked into beside it.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::addresses::{Addresses, follow_interfaces, follow_own_names};
use super::obstacle::Obstacle;
use crate::config::{Config, ListenOn};
use crate::policy::Audience;
use crate::session::{Context, PortState, Post, Role, accept};
use crate::transport::{Dialer, Listener, sockets};

/// How often the table is read.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How long nothing must have been seen behind a port until it closes: one look may miss a socket, since
/// the kernel's table changes while it is told.
const MISSED_FOR: Duration = Duration::from_millis(150);
/// Obstacles that are looked into at one time.
const MEETINGS: usize = 8;

/// What the front needs to know.
#[derive(Debug)]
pub struct FrontSettings {
    /// The configuration.
    pub config: Config,
    /// Asks an epmd that holds our port.
    pub dialer: Dialer,
    /// Told of the distribution ports that something listens behind, after each look.
    pub ports: watch::Sender<HashMap<SocketAddr, PortState>>,
    /// Asks for a look at once.
    pub hurry: mpsc::Receiver<()>,
}

/// The open ports, and those that should be.
#[derive(Debug)]
pub struct Front {
    settings: FrontSettings,
    context: Arc<Context>,
    addresses: watch::Receiver<Addresses>,
    /// The accept loops and what follows the addresses.
    tasks: JoinSet<()>,
    open: HashMap<SocketAddr, Open>,
    obstacles: HashMap<SocketAddr, Obstacle>,
    /// Obstacles that are being looked into, and whose they are.
    meeting: JoinSet<(SocketAddr, Obstacle)>,
    met: HashSet<SocketAddr>,
    /// See [`Obstacle`].
    looks: Arc<Semaphore>,
}

/// What a port is to serve, and whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Wanted {
    role: Role,
    audience: Audience,
}

/// A port that is open.
#[derive(Debug)]
struct Open {
    role: Role,
    /// Tells its accept loop whom it serves.
    audience: watch::Sender<Audience>,
    /// Its accept loop, and what ends it.
    task: Id,
    stop: CancellationToken,
    /// Since when nothing has been seen behind it.
    missed_since: Option<Instant>,
}

impl Front {
    /// A front with nothing open yet.
    #[must_use]
    pub fn new(settings: FrontSettings, context: Arc<Context>) -> Self {
        let (known, addresses) = watch::channel(Addresses::default());
        let mut tasks = JoinSet::new();
        tasks.spawn(follow_interfaces(known.clone()));
        tasks.spawn(follow_own_names(known));
        Self {
            settings,
            context,
            addresses,
            tasks,
            open: HashMap::new(),
            obstacles: HashMap::new(),
            meeting: JoinSet::new(),
            met: HashSet::new(),
            looks: Arc::new(Semaphore::new(MEETINGS)),
        }
    }

    /// Opens and closes ports until `stop`, then closes all.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Some(ended) = self.tasks.join_next_with_id() => self.note_end(ended),
                Some(met) = self.meeting.join_next() => self.take_back(met),
                Ok(()) = self.addresses.changed() => self.look().await,
                Some(()) = self.settings.hurry.recv() => self.look().await,
                _ = ticks.tick() => self.look().await,
            }
        }
    }

    /// An accept loop ends when it is told to, and anything else only by a panic: a listener is opened
    /// anew, without the addresses there is no going on.
    fn note_end(&mut self, ended: Result<(Id, ()), JoinError>) {
        let (id, panic) = match ended {
            Ok((id, ())) => (id, None),
            Err(error) => (error.id(), error.try_into_panic().ok()),
        };
        let listener = self.open.iter().find(|(_, open)| open.task == id).map(|(addr, _)| *addr);
        match (listener, panic) {
            (Some(addr), _) => {
                let help = "this is a fault of the guard: please report it";
                tracing::error!(listener = %addr, help, "listener_died");
                self.open.remove(&addr);
            }
            (None, Some(panic)) => std::panic::resume_unwind(panic),
            (None, None) => {}
        }
    }

    fn take_back(&mut self, met: Result<(SocketAddr, Obstacle), JoinError>) {
        match met {
            Ok((addr, obstacle)) => {
                self.met.remove(&addr);
                self.obstacles.insert(addr, obstacle);
            }
            // A panic does not say whose it was; the others come back by themselves.
            Err(_) => self.met.clear(),
        }
    }

    async fn look(&mut self) {
        let listening = match tokio::task::spawn_blocking(sockets::listening).await {
            Ok(Ok(listening)) => listening,
            // Without the table nothing new is opened and nothing is closed.
            Ok(Err(error)) => {
                if self.context.reminders.is_due("sockets_unreadable", 0, Instant::now()) {
                    let help =
                        "the guard needs netlink (AF_NETLINK) or /proc/net to see which ports are in use";
                    tracing::error!(%error, help, "sockets_unreadable");
                }
                return;
            }
            Err(_) => return,
        };
        let wanted = self.wanted(&listening);
        self.close_others(&wanted);
        let mut shut: Vec<(&SocketAddr, &Wanted)> =
            wanted.iter().filter(|(addr, _)| !self.open.contains_key(addr)).collect();
        // epmd's port goes before all others: until it is ours, any `erl` may take it.
        shut.sort_by_key(|(addr, wanted)| (wanted.role != Role::Epmd, **addr));
        for (addr, wanted) in shut {
            self.try_open(*addr, *wanted);
        }
        self.tell_ports(&wanted);
    }

    fn tell_ports(&self, wanted: &HashMap<SocketAddr, Wanted>) {
        let dist = wanted.iter().filter(|(_, wanted)| wanted.role == Role::Dist);
        let state = |(addr, wanted): (&SocketAddr, &Wanted)| {
            let is_open = self.open.contains_key(addr);
            (*addr, if is_open { PortState::Open(wanted.audience) } else { PortState::Blocked })
        };
        let now = dist.map(state).collect();
        self.settings.ports.send_if_modified(|known| {
            let changed = *known != now;
            *known = now;
            changed
        });
    }

    fn wanted(&self, listening: &[sockets::Listening]) -> HashMap<SocketAddr, Wanted> {
        let Config { epmd, dist, .. } = &self.settings.config;
        let mut wanted = HashMap::new();
        let mut want = |addr: SocketAddr, role: Role, audience: Audience| {
            let place = wanted.entry(addr).or_insert(Wanted { role, audience });
            // An address that is listed and is our own name's is for peers.
            place.audience = place.audience.max(audience);
        };
        for (on, port) in &epmd.listen {
            for (ip, audience) in self.reachable(*on) {
                let addr = SocketAddr::new(ip, *port);
                if addr != epmd.backend {
                    want(addr, Role::Epmd, audience);
                }
            }
        }
        let behind = sockets::ports_of(listening, &dist.backend);
        for port in behind.into_iter().filter(|port| dist.ports.contains(*port)) {
            for (ip, audience) in dist.listen.iter().flat_map(|on| self.reachable(*on)) {
                if !dist.backend.contains(&ip) {
                    want(SocketAddr::new(ip, port), Role::Dist, audience);
                }
            }
        }
        wanted
    }

    /// The addresses that are listed, for peers, and the ones of this host's own names, for itself.
    fn reachable(&self, on: ListenOn) -> Vec<(IpAddr, Audience)> {
        let addresses = self.addresses.borrow();
        let listed = match on {
            ListenOn::Everywhere => addresses.interfaces.clone(),
            ListenOn::Ip(ip) => vec![ip],
        };
        // Where epmd and the nodes are.
        let loopbacks = [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)];
        let own = addresses.own_names.iter().filter(|ip| !loopbacks.contains(ip));
        let peers = listed.into_iter().map(|ip| (ip, Audience::Peers));
        peers.chain(own.map(|ip| (*ip, Audience::ItselfOnly))).collect()
    }

    fn close_others(&mut self, wanted: &HashMap<SocketAddr, Wanted>) {
        self.obstacles.retain(|addr, _| wanted.contains_key(addr));
        let now = Instant::now();
        self.open.retain(|addr, open| {
            let Some(place) = wanted.get(addr) else {
                let since = *open.missed_since.get_or_insert(now);
                let keep = now.duration_since(since) < MISSED_FOR;
                if !keep {
                    open.stop.cancel();
                    tracing::info!(role = %open.role, listener = %addr, "port_closed");
                }
                return keep;
            };
            open.missed_since = None;
            if *open.audience.borrow() != place.audience {
                let audience = name_of(place.audience);
                tracing::info!(role = %open.role, listener = %addr, audience, "audience_changed");
                open.audience.send_replace(place.audience);
            }
            true
        });
    }

    fn try_open(&mut self, addr: SocketAddr, wanted: Wanted) {
        let Wanted { role, audience } = wanted;
        if self.obstacles.get(&addr).is_some_and(|obstacle| !obstacle.is_due()) {
            return;
        }
        match Listener::bind(addr) {
            Ok(listener) => {
                self.obstacles.remove(&addr);
                let stop = CancellationToken::new();
                let (sender, receiver) = watch::channel(audience);
                let post = Post { role, audience: receiver };
                let task =
                    self.tasks.spawn(accept(listener, post, Arc::clone(&self.context), stop.clone())).id();
                self.open.insert(addr, Open { role, audience: sender, task, stop, missed_since: None });
                tracing::info!(%role, listener = %addr, audience = name_of(audience), "port_opened");
            }
            // The others wait for their turn.
            Err(_) if self.meeting.len() >= MEETINGS || self.met.contains(&addr) => {}
            Err(error) => {
                self.met.insert(addr);
                let known = self.obstacles.remove(&addr);
                let mut obstacle =
                    known.unwrap_or_else(|| Obstacle::new(role, addr, Arc::clone(&self.looks)));
                let dialer = self.settings.dialer.clone();
                self.meeting.spawn(async move {
                    obstacle.meet(error, &dialer).await;
                    (addr, obstacle)
                });
            }
        }
    }
}

fn name_of(audience: Audience) -> &'static str {
    match audience {
        Audience::Peers => "peers",
        Audience::ItselfOnly => "self",
    }
}
