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

use tokio::sync::{mpsc, watch};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::addresses::{Addresses, follow_interfaces, follow_own_names};
use super::obstacle::Obstacle;
use crate::config::{Config, ListenOn};
use crate::policy::Audience;
use crate::session::{Context, Post, Role, accept};
use crate::transport::{Dialer, Listener, sockets};

/// How often the table is read.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// After how many looks in a row without anything behind it a port closes: one look may miss a socket,
/// since the kernel's table changes while it is told.
const MISSED_LOOKS: u8 = 2;

/// What the front needs to know.
#[derive(Debug)]
pub struct FrontSettings {
    /// The configuration.
    pub config: Config,
    /// Asks an epmd that holds our port.
    pub dialer: Dialer,
    /// Told of the distribution ports that are open, after each look.
    pub open_ports: watch::Sender<HashSet<SocketAddr>>,
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
    /// Obstacles that are being looked into, one at a time.
    meeting: JoinSet<(SocketAddr, Obstacle)>,
}

/// A port that is open.
#[derive(Debug)]
struct Open {
    post: Post,
    /// Its accept loop, and what ends it.
    task: Id,
    stop: CancellationToken,
    /// Looks in a row at which nothing was behind it.
    missed: u8,
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
        if let Ok((addr, obstacle)) = met {
            self.obstacles.insert(addr, obstacle);
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
        for (addr, post) in wanted {
            if !self.open.contains_key(&addr) {
                self.try_open(addr, post);
            }
        }
        let dist = self.open.iter().filter(|(_, open)| open.post.role == Role::Dist).map(|(addr, _)| *addr);
        let now: HashSet<SocketAddr> = dist.collect();
        self.settings.open_ports.send_replace(now);
    }

    fn wanted(&self, listening: &[sockets::Listening]) -> HashMap<SocketAddr, Post> {
        let Config { epmd, dist, .. } = &self.settings.config;
        let mut wanted = HashMap::new();
        let mut want = |addr: SocketAddr, role: Role, audience: Audience| {
            let post = wanted.entry(addr).or_insert(Post { role, audience });
            // An address that is listed and is our own name's is for peers.
            post.audience = post.audience.max(audience);
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

    fn close_others(&mut self, wanted: &HashMap<SocketAddr, Post>) {
        self.obstacles.retain(|addr, _| wanted.contains_key(addr));
        self.open.retain(|addr, open| {
            let post = wanted.get(addr);
            open.missed = if post.is_some() { 0 } else { open.missed + 1 };
            // One that is to serve others than it does is opened anew.
            let keep = open.missed < MISSED_LOOKS && post.is_none_or(|post| *post == open.post);
            if !keep {
                open.stop.cancel();
                tracing::info!(role = %open.post.role, listener = %addr, "port_closed");
            }
            keep
        });
    }

    fn try_open(&mut self, addr: SocketAddr, post: Post) {
        if self.obstacles.get(&addr).is_some_and(|obstacle| !obstacle.is_due()) {
            return;
        }
        match Listener::bind(addr) {
            Ok(listener) => {
                self.obstacles.remove(&addr);
                let stop = CancellationToken::new();
                let task =
                    self.tasks.spawn(accept(listener, post, Arc::clone(&self.context), stop.clone())).id();
                self.open.insert(addr, Open { post, task, stop, missed: 0 });
                let audience = match post.audience {
                    Audience::Peers => "peers",
                    Audience::ItselfOnly => "self",
                };
                tracing::info!(role = %post.role, listener = %addr, audience, "port_opened");
            }
            // The others wait for their turn: looking into one may take a while.
            Err(_) if !self.meeting.is_empty() => {}
            Err(error) => {
                let known = self.obstacles.remove(&addr);
                let mut obstacle = known.unwrap_or_else(|| Obstacle::new(post.role, addr));
                let dialer = self.settings.dialer.clone();
                self.meeting.spawn(async move {
                    obstacle.meet(error, &dialer).await;
                    (addr, obstacle)
                });
            }
        }
    }
}
