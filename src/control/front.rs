//! Which of our ports are open: the ones that are configured and have something behind them.
//!
//! Owns the listeners. Looks at the kernel's table five times a second, and at once when a question asks
//! for it; an outside port opens when something listens behind it and closes when that goes, so that a
//! node that tries its own port before it starts finds it closed. Links live on when their port closes.
//! Nothing slow is awaited here: addresses, names and obstacles are looked into beside it.

mod exposed;
mod leases;
mod names;
mod nodes;
mod places;
mod posts;
mod tell;
mod view;
mod wanted;
mod ways;
mod wildcards;

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::Notifier;
use super::addresses::{Addresses, follow_interfaces, follow_own_names};
use super::obstacle::Obstacle;
use crate::config::{Config, EpmdBackend};
use crate::policy::{Audience, PortRule};
use crate::proto::epmd::NodeName;
use crate::session::{Context, Leased, PortsTeller, Role, Service, Sighting};
use crate::telemetry::describe;
use crate::transport::activation::{Inherited, Purpose};
use crate::transport::sockets::{Listening, in_the_way};
use crate::transport::{Listener, sockets};
pub(super) use exposed::cure;
pub use exposed::{CURE, Exposed};
use exposed::{ExposedNodes, find};
use leases::{Followed, Judged, Leases};
use names::NamesWatch;
use nodes::{Behind, Nodes, Offered, behind};
use places::{Open, leads_to_node};
use posts::OfferedPosts;
pub use view::{Blocked, FrontView, ListenerView};
use wanted::{Wanted, wanted};
use ways::AskedWays;
use wildcards::Wildcards;

/// How often the table is read.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// The least time between looks that questions ask for.
const BREATH: Duration = Duration::from_millis(20);
/// The least time between looks that registrations ask for: only who may register does, and waits for it.
const SHORT_BREATH: Duration = Duration::from_millis(2);
/// Obstacles that are looked into at one time.
const MEETINGS: usize = 8;

/// What the front listens to and whom it tells.
#[derive(Debug)]
pub struct FrontChannels {
    /// The ports, for those who answer questions.
    pub ports: PortsTeller,
    /// Told of everything, after each look.
    pub view: watch::Sender<FrontView>,
    /// The steps of a reload.
    pub orders: mpsc::Receiver<FrontOrder>,
    /// Told when the first look is done, and that the looks go on.
    pub notifier: Arc<Notifier>,
}

/// A step of a reload.
#[derive(Debug)]
pub enum FrontOrder {
    /// Bind what this configuration needs besides what is open, serve nothing there yet, and tell what could
    /// not be bound.
    /// `None`: the kernel does not tell which ports are in use, so that nothing was tried.
    Prepare(Arc<Config>, oneshot::Sender<Option<Vec<Unopened>>>),
    /// Follow the configuration that is in force now, and tell when that is done.
    Commit(oneshot::Sender<()>),
    /// Give back what was bound.
    Abort,
}

/// A port that could not be bound.
#[derive(Debug)]
pub struct Unopened {
    /// What it was to serve.
    pub role: Role,
    /// Where.
    pub addr: SocketAddr,
    /// The `[[peer]]` for whom the address stands, by its name, where it is an alias.
    pub toward: Option<Arc<str>>,
    /// Why not.
    pub error: io::Error,
    /// Whether the configuration in force does not want it too.
    pub is_new: bool,
}

/// The open ports, and those that should be.
#[derive(Debug)]
pub struct Front {
    channels: FrontChannels,
    context: Arc<Context>,
    addresses: watch::Receiver<Addresses>,
    /// The accept loops and what follows the addresses.
    tasks: JoinSet<()>,
    open: HashMap<SocketAddr, Open>,
    /// Bound for a configuration that is not in force yet.
    prepared: HashMap<SocketAddr, Listener>,
    obstacles: HashMap<SocketAddr, Obstacle>,
    /// Obstacles that are being looked into, and whose they are.
    meeting: JoinSet<(SocketAddr, Obstacle)>,
    met: HashSet<SocketAddr>,
    /// See [`Obstacle`].
    looks: Arc<Semaphore>,
    nodes: Nodes,
    names: NamesWatch,
    /// Told of names since the last look.
    sightings: Vec<Sighting>,
    /// The embedded epmd's registrations as far as they have been followed.
    leases: Leases,
    /// Changes with them.
    registrations: watch::Receiver<u64>,
    exposed: ExposedNodes,
    posts: OfferedPosts,
    /// The ports at aliases that were asked for.
    ways: AskedWays,
    /// Ports that must stay free at aliases.
    wildcards: Wildcards,
    /// Ports that systemd holds, which stand in for what would be bound here.
    inherited: Arc<[Inherited]>,
    /// When the service manager last heard that the looks go on; `None` before the first.
    last_sign: Option<Instant>,
    /// When the last look ended, and how long it took.
    looked: Instant,
    took: Duration,
}

/// What one look has found.
struct Look {
    listening: Vec<Listening>,
    behind: Behind,
    /// Ports of names whose user does not listen there.
    foreign: Vec<u16>,
    offered: Vec<Offered>,
    wanted: HashMap<SocketAddr, Wanted>,
}

impl Front {
    /// A front with nothing open yet.
    #[must_use]
    pub fn new(channels: FrontChannels, context: Arc<Context>, inherited: Arc<[Inherited]>) -> Self {
        let (known, addresses) = watch::channel(Addresses::of_interfaces());
        let registrations = context.mapper.subscribe();
        let mut tasks = JoinSet::new();
        tasks.spawn(follow_interfaces(known.clone()));
        tasks.spawn(follow_own_names(known));
        Self {
            channels,
            context,
            addresses,
            tasks,
            open: HashMap::new(),
            prepared: HashMap::new(),
            obstacles: HashMap::new(),
            meeting: JoinSet::new(),
            met: HashSet::new(),
            looks: Arc::new(Semaphore::new(MEETINGS)),
            nodes: Nodes::default(),
            names: NamesWatch::new(),
            sightings: Vec::new(),
            leases: Leases::default(),
            registrations,
            exposed: ExposedNodes::default(),
            posts: OfferedPosts::default(),
            ways: AskedWays::default(),
            wildcards: Wildcards::default(),
            inherited,
            last_sign: None,
            looked: Instant::now(),
            took: Duration::ZERO,
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
                Some(order) = self.channels.orders.recv() => self.obey(order).await,
                Ok(()) = self.addresses.changed() => self.turn().await,
                Some(listed) = self.names.next() => {
                    self.sightings.extend(listed);
                    self.turn().await;
                }
                Ok(()) = self.registrations.changed() => {
                    // Looks that take long must not follow each other without a pause.
                    tokio::time::sleep_until(self.looked + SHORT_BREATH.max(self.took)).await;
                    self.turn().await;
                }
                Some(way) = self.channels.ports.ways.recv() => self.open_ways(way).await,
                Some(sighting) = self.channels.ports.seen.recv() => {
                    self.sightings.push(sighting);
                    self.turn_soon().await;
                }
                _ = ticks.tick() => self.turn().await,
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

    async fn obey(&mut self, order: FrontOrder) {
        match order {
            FrontOrder::Prepare(config, reply) => {
                let unopened = self.prepare(&config).await;
                if reply.send(unopened).is_err() {
                    self.prepared.clear();
                }
            }
            FrontOrder::Commit(reply) => {
                self.look().await;
                self.prepared.clear();
                // Whoever ordered it may have gone; it is done all the same.
                reply.send(()).unwrap_or_default();
            }
            FrontOrder::Abort => self.prepared.clear(),
        }
    }

    async fn prepare(&mut self, config: &Config) -> Option<Vec<Unopened>> {
        self.prepared.clear();
        // This configuration may never be in force, so that nothing that it says of the nodes is remembered.
        let remembered = (self.nodes.clone(), self.sightings.clone());
        let look = self.find_out(config).await;
        (self.nodes, self.sightings) = remembered;
        let look = look?;
        let mut unopened = Vec::new();
        let exposed = self.find_exposed(config, &look);
        for (addr, wanted) in &look.wanted {
            let (addr, role) = (*addr, wanted.role);
            let of_systemd = self.inherited.iter().any(|inherited| inherited.local_addr() == addr);
            let of_node = is_held_by_node(addr, wanted, &exposed, &look.listening);
            if of_systemd || of_node || self.open.contains_key(&addr) {
                continue;
            }
            match Listener::bind(addr) {
                Ok(listener) => drop(self.prepared.insert(addr, listener)),
                Err(error) => {
                    let is_new = !self.obstacles.contains_key(&addr) && !self.met.contains(&addr);
                    let toward = wanted.service.toward.clone();
                    unopened.push(Unopened { role, addr, toward, error, is_new });
                }
            }
        }
        Some(unopened)
    }

    /// A look that a question asks for. Those that come at once share one, or a peer could have us look all
    /// the time.
    async fn turn_soon(&mut self) {
        tokio::time::sleep_until(self.looked + BREATH.max(self.took)).await;
        while let Ok(sighting) = self.channels.ports.seen.try_recv() {
            self.sightings.push(sighting);
        }
        self.turn().await;
    }

    /// A look, and word of it to the service manager: of the first that the guard does its work, of the others
    /// now and then that it still does. Whatever hangs here is found by systemd's watchdog.
    async fn turn(&mut self) {
        let begun = Instant::now();
        self.look().await;
        (self.looked, self.took) = (Instant::now(), begun.elapsed());
        let notifier = &self.channels.notifier;
        let now = Instant::now();
        match (self.last_sign, notifier.watchdog_every()) {
            (None, _) => notifier.ready(&format!("{} port(s) open", self.open.len())),
            (Some(last), Some(every)) if now.duration_since(last) >= every => notifier.alive(),
            (Some(_), _) => return,
        }
        self.last_sign = Some(now);
    }

    async fn look(&mut self) {
        let snapshot = self.context.snapshot();
        let config = &snapshot.config;
        let Followed { change, gone } = self.leases.follow(&self.context.mapper);
        for Leased { name, port, .. } in &gone {
            self.nodes.forget(name, *port);
        }
        let Some(mut look) = self.find_out(config).await else {
            self.close_left(config, &gone);
            return;
        };
        self.want_ways(config, &mut look.wanted);
        self.tell_left_out(config);
        let is_served = !config.epmd.listen.is_empty();
        let counts = is_served || matches!(config.dist.rules.ports, PortRule::Registered { .. });
        if let Some(epmd) = config.epmd.backend.addr().filter(|_| counts) {
            self.names.ask_if_due(&look.behind, epmd, &snapshot.dialer);
        }
        let left = gone.iter().map(|leased| leased.port).chain(look.foreign.iter().copied()).collect();
        self.close_others(&look.wanted, &left);
        let exposed = self.find_exposed(config, &look);
        self.exposed.note(&exposed, Instant::now());
        self.wildcards.note_nodes(&exposed);
        let mut shut: Vec<(&SocketAddr, &Wanted)> =
            look.wanted.iter().filter(|(addr, _)| !self.open.contains_key(addr)).collect();
        // epmd's port goes before all others: until it is ours, any `erl` may take it.
        shut.sort_by_key(|(addr, wanted)| (wanted.role != Role::Epmd, **addr));
        let held: HashSet<SocketAddr> = shut
            .iter()
            .filter(|(addr, wanted)| is_held_by_node(**addr, wanted, &exposed, &look.listening))
            .map(|(addr, _)| **addr)
            .collect();
        for (addr, wanted) in shut.into_iter().filter(|(addr, _)| !held.contains(addr)) {
            self.try_open(*addr, wanted);
        }
        self.tell_offers(&look.wanted, &exposed);
        self.posts.follow(&look.offered, |port| config.way_to(port).role, &left, Instant::now());
        self.posts.tell(&self.channels.ports.posts);
        self.context.mapper.note_followed(change);
        self.tell_view(&look, &held);
    }

    /// Reads the kernel's table and concludes what should be open. `None`: it cannot be read, so that
    /// nothing new is opened and nothing is closed.
    async fn find_out(&mut self, config: &Config) -> Option<Look> {
        let listening = match tokio::task::spawn_blocking(sockets::listening).await {
            Ok(Ok(listening)) => listening,
            Ok(Err(error)) => {
                self.note_blindness(&describe(&error));
                return None;
            }
            Err(panic) => {
                self.note_blindness(&describe(&panic));
                return None;
            }
        };
        let ours = |addr: &SocketAddr| {
            let of_systemd = || self.inherited.iter().any(|inherited| inherited.local_addr() == *addr);
            self.open.contains_key(addr) || self.prepared.contains_key(addr) || of_systemd()
        };
        let behind = behind(&listening, |port| config.way_to(port).backend, ours);
        self.nodes.keep(&behind, Instant::now());
        if config.epmd.backend == EpmdBackend::Embedded {
            // Our own table says what is registered, and by whom; a sighting only asks for a look.
            self.sightings.clear();
        }
        for seen in self.sightings.drain(..) {
            self.nodes.learn(&seen, &behind, &config.dist.rules);
        }
        let Judged { own, foreign } = self.leases.judge((&listening, &behind), &self.context.reminders);
        for Sighting { name, port } in &foreign {
            self.nodes.forget(name, *port);
        }
        for seen in &own {
            if !self.nodes.knows(&seen.name, seen.port) {
                self.nodes.learn(seen, &behind, &config.dist.rules);
            }
        }
        let foreign = foreign.into_iter().map(|seen| seen.port).collect();
        let mut offered = self.nodes.offered(&config.dist.rules, &behind);
        for forward in &config.forwards {
            offered.extend(self.nodes.listed(&forward.ports, &behind));
        }
        let theirs = listening.iter().filter(|socket| !ours(&socket.addr));
        self.wildcards.note(theirs.clone());
        // Who has it on every address is down, and is to find it free when it comes back.
        let is_left_alone = |addr: SocketAddr| {
            let mut in_the_way = in_the_way(&listening, addr);
            self.wildcards.has(addr.port()) && !in_the_way.any(|socket| !ours(&socket.addr))
        };
        let mut wanted = wanted(config, &self.addresses.borrow(), &offered, is_left_alone);
        self.want_inherited(config, &mut wanted);
        Some(Look { listening, behind, foreign, offered, wanted })
    }

    /// Adds the ports that systemd holds.
    fn want_inherited(&self, config: &Config, wanted: &mut HashMap<SocketAddr, Wanted>) {
        // systemd holds them whether or not something listens behind them, so that the kernel takes
        // connections there anyway. Whoever closes one does it in its socket unit.
        for inherited in self.inherited.iter() {
            let addr = inherited.local_addr();
            let (role, inside) = match inherited.purpose() {
                Purpose::Epmd => (Role::Epmd, config.epmd.backend.addr().map_or(0, |epmd| epmd.port())),
                Purpose::Dist => (config.way_to(addr.port()).role, addr.port()),
            };
            let self_at = match role {
                Role::Epmd => &config.epmd.self_at,
                Role::Dist | Role::DistTls | Role::Tcp | Role::Tunnel => &config.dist.self_at,
            };
            let audience = if self_at.covers(addr.ip()) { Audience::Peers } else { Audience::PeersOnly };
            let service = Service { audience, inside, nodes: self.nodes.names_at(inside), toward: None };
            let place = wanted.entry(addr).or_insert(Wanted { role, service });
            if place.service.toward.is_none() {
                place.service.audience = audience;
            }
        }
    }

    fn note_blindness(&mut self, error: &str) {
        if self.context.reminders.is_due("sockets_unreadable", 0, Instant::now()) {
            let help = "the guard needs netlink (AF_NETLINK) or /proc/net to see which ports are in use";
            tracing::error!(error, help, "sockets_unreadable");
        }
        // What epmd tells meanwhile it tells again.
        self.sightings.clear();
        self.channels.view.send_modify(|view| view.is_blind = true);
    }

    fn find_exposed(&self, config: &Config, look: &Look) -> Vec<Exposed> {
        let rules = &config.dist.rules;
        let mut ports: HashMap<u16, Option<NodeName>> =
            look.offered.iter().map(|offer| (offer.inside, offer.node.clone())).collect();
        let listed = match &rules.ports {
            PortRule::Listed(listed) => Some(listed),
            PortRule::Registered { .. } => None,
        };
        let is_listed = |port: &u16| {
            listed.is_some_and(|listed| listed.contains(*port)) || config.forward_at(*port).is_some()
        };
        ports.extend(look.behind.ports_elsewhere().filter(is_listed).map(|port| (port, None)));
        ports.extend(self.nodes.that_may_be_named(rules).map(|(port, name)| (port, Some(name))));
        find(&look.listening, &ports, |port| config.way_to(port), &look.behind)
    }
}

/// Whether the port cannot be opened because its own node has it on every address, which is told as that.
fn is_held_by_node(addr: SocketAddr, wanted: &Wanted, exposed: &[Exposed], listening: &[Listening]) -> bool {
    leads_to_node(wanted.role, &wanted.service)
        && exposed.iter().any(|exposed| {
            let mut ways = in_the_way(listening, addr);
            exposed.port == addr.port() && ways.any(|socket| socket.addr == exposed.socket)
        })
}

fn replace<T: PartialEq>(told: &watch::Sender<T>, now: T) {
    told.send_if_modified(|known| {
        let changed = *known != now;
        *known = now;
        changed
    });
}
