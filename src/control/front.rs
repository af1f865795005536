//! Which of our ports are open: the ones that are configured and have something behind them.
//!
//! Owns the listeners. Looks at the kernel's tables five times a second; an outside port opens when
//! something listens behind it and closes when that goes, so that a node that tries its own port
//! before it starts finds it closed. Links live on when their port closes.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::advice::advise;
use super::takeover::{Takeover, take_over};
use crate::config::{Config, ListenOn};
use crate::session::{Context, Role, accept};
use crate::transport::holder::{self, Holder};
use crate::transport::{Dialer, Listener, describe, host, sockets};

/// How often the tables are read.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// After how many looks in a row without anything behind it a port closes: one look may miss a socket,
/// since the kernel's table changes while it is told.
const MISSED_LOOKS: u8 = 2;
/// How often our own addresses and names are looked up.
const ADDRESSES_EVERY: Duration = Duration::from_secs(5);
/// How long a port that could not be opened is left alone, doubled up to the longest.
const FIRST_RETRY: Duration = Duration::from_millis(200);
const LONGEST_RETRY: Duration = Duration::from_secs(5);
/// How long whoever holds epmd's port may take to answer: it is on this host.
const TAKEOVER_TIMEOUT: Duration = Duration::from_secs(1);
/// How often a port that stays taken is told of again.
const REMIND_EVERY: Duration = Duration::from_secs(600);

/// What the front needs to know.
#[derive(Debug)]
pub struct FrontSettings {
    /// The configuration.
    pub config: Config,
    /// Asks an epmd that holds our port.
    pub dialer: Dialer,
}

/// The open ports, and those that should be.
#[derive(Debug)]
pub struct Front {
    settings: FrontSettings,
    context: Arc<Context>,
    /// The owner of the accept loops.
    loops: TaskTracker,
    open: HashMap<Place, Open>,
    closed: HashMap<Place, Failing>,
    outside: Vec<IpAddr>,
    own_names: Vec<IpAddr>,
    addresses_due: Instant,
}

type Place = (Role, SocketAddr);

/// Why a place could not be opened.
#[derive(Debug, Default)]
struct Cause {
    error: String,
    /// The kernel's numbers of the sockets in the way.
    sockets: Vec<u64>,
    holder: String,
    help: String,
}

/// A place that is open.
#[derive(Debug)]
struct Open {
    /// Ends its accept loop.
    stop: CancellationToken,
    /// Looks in a row at which nothing was behind it.
    missed: u8,
}

/// A place that could not be opened.
#[derive(Debug)]
struct Failing {
    retry_at: Instant,
    wait: Duration,
    told: Option<(Cause, Instant)>,
    /// What the holder of this socket said when it was asked to end; it is asked once, unless names
    /// kept it.
    asked: Option<(u64, Takeover)>,
}

impl Front {
    /// A front with nothing open yet.
    #[must_use]
    pub fn new(settings: FrontSettings, context: Arc<Context>) -> Self {
        Self {
            settings,
            context,
            loops: TaskTracker::new(),
            open: HashMap::new(),
            closed: HashMap::new(),
            outside: Vec::new(),
            own_names: Vec::new(),
            addresses_due: Instant::now(),
        }
    }

    /// Opens and closes ports until `stop`, then closes all and waits for the accept loops.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = ticks.tick() => self.look().await,
            }
        }
        for (_, open) in self.open.drain() {
            open.stop.cancel();
        }
        self.loops.close();
        self.loops.wait().await;
    }

    async fn look(&mut self) {
        self.learn_addresses().await;
        let listening = match tokio::task::spawn_blocking(sockets::listening).await {
            Ok(Ok(listening)) => listening,
            // Without the tables nothing new is opened and nothing is closed.
            Ok(Err(error)) => {
                return tracing::error!(%error, help = "/proc must be mounted", "tables_unreadable");
            }
            Err(_) => return,
        };
        let wanted = self.wanted(&listening);
        self.close_others(&wanted);
        let missing: Vec<Place> = wanted.into_iter().filter(|place| !self.open.contains_key(place)).collect();
        for place in missing {
            self.try_open(place).await;
        }
    }

    /// The host's addresses and the ones of its own names. A resolver that does not answer keeps the
    /// last ones.
    async fn learn_addresses(&mut self) {
        if Instant::now() < self.addresses_due {
            return;
        }
        self.addresses_due = Instant::now() + ADDRESSES_EVERY;
        let looked = tokio::task::spawn_blocking(|| (host::addresses(), host::addresses_of_own_names()));
        if let Ok(Ok((outside, own_names))) = tokio::time::timeout(ADDRESSES_EVERY, looked).await {
            match outside {
                Ok(outside) => self.outside = outside,
                Err(error) => tracing::warn!(%error, "addresses_unreadable"),
            }
            if let Ok(own_names) = own_names {
                self.own_names = own_names;
            }
        }
    }

    fn wanted(&self, listening: &[sockets::Listening]) -> HashSet<Place> {
        let Config { epmd, dist, .. } = &self.settings.config;
        let mut wanted = HashSet::new();
        for (on, port) in &epmd.listen {
            let places = self.addresses(*on).map(|ip| (Role::Epmd, SocketAddr::new(ip, *port)));
            wanted.extend(places.filter(|(_, addr)| *addr != epmd.backend));
        }
        let behind = sockets::ports_of(listening, &dist.backend);
        for port in behind.into_iter().filter(|port| dist.ports.contains(*port)) {
            for on in &dist.listen {
                let places = self.addresses(*on).map(|ip| (Role::Dist, SocketAddr::new(ip, port)));
                wanted.extend(places.filter(|(_, addr)| !dist.backend.contains(&addr.ip())));
            }
        }
        wanted
    }

    /// The addresses to listen at, and for self the ones of this host's own names.
    fn addresses(&self, on: ListenOn) -> impl Iterator<Item = IpAddr> {
        let chosen = match on {
            ListenOn::Everywhere => self.outside.clone(),
            ListenOn::Ip(ip) => vec![ip],
        };
        // 127.0.0.1 and ::1 are where epmd and the nodes are.
        let is_backend = |ip: &IpAddr| {
            *ip == IpAddr::from([127, 0, 0, 1]) || *ip == IpAddr::from(std::net::Ipv6Addr::LOCALHOST)
        };
        let own: Vec<IpAddr> = self.own_names.iter().copied().filter(|ip| !is_backend(ip)).collect();
        chosen.into_iter().chain(own)
    }

    fn close_others(&mut self, wanted: &HashSet<Place>) {
        self.closed.retain(|place, _| wanted.contains(place));
        self.open.retain(|place, open| {
            open.missed = if wanted.contains(place) { 0 } else { open.missed + 1 };
            let keep = open.missed < MISSED_LOOKS;
            if !keep {
                open.stop.cancel();
                tracing::info!(role = %place.0, listener = %place.1, "port_closed");
            }
            keep
        });
    }

    async fn try_open(&mut self, place: Place) {
        let (role, addr) = place;
        if self.closed.get(&place).is_some_and(|failing| Instant::now() < failing.retry_at) {
            return;
        }
        match Listener::bind(addr) {
            Ok(listener) => {
                self.closed.remove(&place);
                let stop = CancellationToken::new();
                self.open.insert(place, Open { stop: stop.clone(), missed: 0 });
                self.loops.spawn(accept(listener, role, Arc::clone(&self.context), stop));
                tracing::info!(role = %role, listener = %addr, "port_opened");
            }
            Err(error) => self.put_off(place, &error).await,
        }
    }

    /// Says why a port cannot be opened, once for each cause, and when it is tried again.
    async fn put_off(&mut self, place: Place, error: &io::Error) {
        let (role, addr) = place;
        let mut failing = self.closed.remove(&place).unwrap_or_else(Failing::new);
        let mut cause = Cause { error: describe(error), ..Cause::default() };
        if error.kind() == io::ErrorKind::AddrInUse {
            let holders = tokio::task::spawn_blocking(move || holder::of(addr)).await.unwrap_or_default();
            let takeover = self.ask_to_end(place, &holders, &mut failing).await;
            cause.sockets = holders.iter().map(|holder| holder.socket.inode).collect();
            cause.holder = holders.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
            cause.help = advise(role, addr, &holders, takeover.as_ref());
        } else if error.kind() == io::ErrorKind::AddrNotAvailable {
            "this host does not have the address (yet); it is served when it comes"
                .clone_into(&mut cause.help);
        }
        failing.tell(place, cause);
        failing.retry_at = Instant::now() + failing.wait;
        failing.wait = (failing.wait * 2).min(LONGEST_RETRY);
        self.closed.insert(place, failing);
    }

    /// An epmd that holds no name is asked to end, once.
    async fn ask_to_end(
        &self,
        (role, addr): Place,
        holders: &[Holder],
        failing: &mut Failing,
    ) -> Option<Takeover> {
        let holder = holders.first()?;
        if role != Role::Epmd || holder.is_likely("epmd-guard") {
            return None;
        }
        let inode = holder.socket.inode;
        if let Some((asked, answer)) = &failing.asked
            && *asked == inode
            && !matches!(answer, Takeover::HoldsNames(_))
        {
            return Some(answer.clone());
        }
        let takeover = take_over(addr, &self.settings.dialer, TAKEOVER_TIMEOUT).await;
        failing.asked = Some((inode, takeover.clone()));
        if takeover == Takeover::Ending {
            // The port is free in a moment.
            failing.wait = FIRST_RETRY;
            tracing::warn!(
                listener = %addr, holder = %holder,
                help = "set ERL_EPMD_ADDRESS=127.0.0.1 for whatever starts epmd on this host",
                "took_over_from_idle_epmd"
            );
        }
        Some(takeover)
    }
}

impl Failing {
    fn new() -> Self {
        Self { retry_at: Instant::now(), wait: FIRST_RETRY, told: None, asked: None }
    }

    /// Tells of a new cause, and of an old one now and then. What is gone within three tries, such as an
    /// epmd that ends, is not worth a word.
    fn tell(&mut self, (role, addr): Place, cause: Cause) {
        let known = self.told.as_ref().is_some_and(|(told, at)| {
            told.error == cause.error && told.sockets == cause.sockets && at.elapsed() < REMIND_EVERY
        });
        if known || self.wait < FIRST_RETRY * 4 {
            return;
        }
        let Cause { error, holder, help, .. } = &cause;
        tracing::warn!(role = %role, listener = %addr, error, holder, help, "port_taken");
        self.told = Some((cause, Instant::now()));
    }
}
