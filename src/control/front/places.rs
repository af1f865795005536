//! Opening and closing: each port has an accept loop, and what cannot be opened an obstacle.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::Id;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::field::display;

use super::nodes::MISSED_FOR;
use super::wanted::Wanted;
use super::{Front, MEETINGS, Obstacle, replace};
use crate::config::Config;
use crate::policy::{Audience, PortRule};
use crate::session::{Leased, Post, Role, Service, accept};
use crate::transport::Listener;

/// A port that is open.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) role: Role,
    /// Tells its accept loop whom it serves and where it leads.
    pub(super) service: watch::Sender<Service>,
    /// Its accept loop, and what ends it.
    pub(super) task: Id,
    stop: CancellationToken,
    /// Since when nothing has been seen behind it.
    missed_since: Option<Instant>,
}

impl Open {
    /// Whether a port of a node behind us is what it leads to.
    fn leads_to_node(&self) -> bool {
        leads_to_node(self.role, &self.service.borrow())
    }

    pub(super) fn close(&self, addr: SocketAddr) {
        self.stop.cancel();
        tracing::info!(role = %self.role, listener = %addr, "port_closed");
    }
}

impl Front {
    /// `left` are the ports of names whose registration has ended, or that are not their users'.
    pub(super) fn close_others(&mut self, wanted: &HashMap<SocketAddr, Wanted>, left: &HashSet<u16>) {
        self.obstacles.retain(|addr, _| wanted.contains_key(addr));
        let now = Instant::now();
        self.open.retain(|addr, open| {
            let place = wanted.get(addr);
            let Some(Wanted { service, .. }) = place.filter(|place| place.role == open.role) else {
                let since = *open.missed_since.get_or_insert(now);
                let inside = open.service.borrow().inside;
                let is_left = open.leads_to_node() && left.contains(&inside);
                // An address that serves something else now does so at once.
                let keep = place.is_none() && !is_left && now.duration_since(since) < MISSED_FOR;
                if !keep {
                    open.close(*addr);
                }
                return keep;
            };
            open.missed_since = None;
            if open.service.borrow().audience != service.audience {
                let audience = name_of(service.audience);
                tracing::info!(role = %open.role, listener = %addr, audience, "audience_changed");
            }
            replace(&open.service, service.clone());
            true
        });
    }

    /// Closes the ports of names that have gone where the sockets cannot be looked at: who binds such a port next
    /// must not be reached by it.
    pub(super) fn close_left(&mut self, config: &Config, gone: &[Leased]) {
        if !matches!(config.dist.rules.ports, PortRule::Registered { .. }) {
            return;
        }
        let ports = gone.iter().map(|leased| leased.port);
        let left: HashSet<u16> = ports
            .filter(|port| !self.leases.has_name_at(*port) && config.forward_at(*port).is_none())
            .collect();
        self.open.retain(|addr, open| {
            let is_left = open.role == Role::Dist
                && open.leads_to_node()
                && left.contains(&open.service.borrow().inside);
            if is_left {
                open.close(*addr);
            }
            !is_left
        });
        self.channels.ports.offers.send_if_modified(|offers| {
            let before = offers.len();
            offers.retain(|(ip, inside), _| !left.contains(inside) || config.stands_for(*ip).is_some());
            offers.len() != before
        });
        self.posts.forget(&left);
        self.posts.tell(&self.channels.ports.posts);
    }

    pub(super) fn try_open(&mut self, addr: SocketAddr, wanted: &Wanted) {
        let Wanted { role, service } = wanted;
        let is_due = self.obstacles.get(&addr).is_none_or(Obstacle::is_due);
        let of_systemd = self.inherited.iter().find(|inherited| inherited.local_addr() == addr);
        let bound = match (of_systemd, self.prepared.remove(&addr)) {
            (Some(inherited), _) if is_due => inherited.listener(),
            (None, Some(listener)) => Ok(listener),
            (None, None) if is_due => Listener::bind(addr),
            (Some(_), _) | (None, None) => return,
        };
        match bound {
            Ok(listener) => {
                self.obstacles.remove(&addr);
                self.serve(listener, addr, wanted);
            }
            // The others wait for their turn.
            Err(_) if self.meeting.len() >= MEETINGS || self.met.contains(&addr) => {}
            Err(error) => {
                self.met.insert(addr);
                let known = self.obstacles.remove(&addr);
                let service = service.clone();
                let mut obstacle =
                    known.unwrap_or_else(|| Obstacle::new(*role, addr, Arc::clone(&self.looks)));
                let snapshot = self.context.snapshot();
                self.meeting.spawn(async move {
                    obstacle.meet(error, &service, &snapshot).await;
                    (addr, obstacle)
                });
            }
        }
    }

    pub(super) fn serve(&mut self, listener: Listener, addr: SocketAddr, wanted: &Wanted) {
        let Wanted { role, service } = wanted;
        let stop = CancellationToken::new();
        let (sender, receiver) = watch::channel(service.clone());
        let post = Post { role: *role, service: receiver };
        let task = self.tasks.spawn(accept(listener, post, Arc::clone(&self.context), stop.clone())).id();
        self.open.insert(addr, Open { role: *role, service: sender, task, stop, missed_since: None });
        let (inside, node) = (service.inside, service.node().map(display));
        let (audience, toward) = (name_of(service.audience), service.toward.as_deref());
        match role {
            Role::Epmd | Role::Tunnel => {
                tracing::info!(%role, listener = %addr, audience, toward, "port_opened");
            }
            Role::Dist | Role::DistTls | Role::Tcp => {
                tracing::info!(%role, listener = %addr, audience, toward, node, inside, "port_opened");
            }
        }
    }
}

/// Whether a port of a node behind us is what it leads to.
pub(super) fn leads_to_node(role: Role, service: &Service) -> bool {
    match role {
        Role::Epmd | Role::Tunnel => false,
        Role::Dist | Role::DistTls | Role::Tcp => service.toward.is_none(),
    }
}

fn name_of(audience: Audience) -> &'static str {
    match audience {
        Audience::Peers => "peers",
        Audience::ItselfOnly => "self",
        Audience::PeersOnly => "peers_only",
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::time::Duration;

    use tokio::sync::mpsc;

    use super::super::FrontChannels;
    use super::*;
    use crate::config::ListenOn;
    use crate::control::Notifier;
    use crate::policy::Caps;
    use crate::proto::epmd::{Alive2, AliveName};
    use crate::registry::{Registry, RegistryLimits};
    use crate::session::{
        Context, ContextParts, Habits, Offer, Origin, PortState, Ports, Snapshot, Snapshots, WayAsked,
    };

    fn a_front() -> Front {
        front_of(crate::config::from_text("test", "", &Default::default()).unwrap().config)
    }

    fn front_of(config: Config) -> Front {
        let parts = ContextParts {
            snapshots: Snapshots::new(Snapshot::new(1, Arc::new(config))),
            caps: Caps { total: 9, reserve: 0, per_address: 9, per_subnet: 9 },
            ports: None,
            strangers: mpsc::channel(1).0,
            habits: Habits::default(),
        };
        let channels = FrontChannels {
            ports: Ports::new(1).1,
            view: watch::Sender::default(),
            orders: mpsc::channel(1).1,
            notifier: Arc::new(Notifier::new(&Default::default())),
        };
        Front::new(channels, Arc::new(Context::new(parts)), Arc::new([]))
    }

    fn leased(port: u16) -> Leased {
        let name = AliveName::new(b"a").unwrap();
        let alive = Alive2 { port, node_type: 77, protocol: 0, highest: 6, lowest: 5, name, extra: b"" };
        let mut registry = Registry::new(RegistryLimits { names: 1, remembered: 1 }, 0);
        let lease = registry.register(&alive, 5, 1).unwrap().lease;
        Leased { lease, name: name.into(), port, origin: Origin::Here { uid: None } }
    }

    #[tokio::test]
    async fn the_port_of_a_name_that_has_gone_closes_also_while_the_sockets_cannot_be_seen() {
        let mut front = a_front();
        for inside in [40001, 40002] {
            let listener = Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
            let addr = listener.local_addr();
            let service = Service { audience: Audience::Peers, inside, nodes: Arc::default(), toward: None };
            front.serve(listener, addr, &Wanted { role: Role::Dist, service });
            let offer = Offer { outside: addr.port(), state: PortState::Open(Audience::Peers) };
            front.channels.ports.offers.send_modify(|offers| offers.extend([((addr.ip(), inside), offer)]));
        }
        let left = |front: &Front| {
            let open = front.open.values().map(|open| open.service.borrow().inside).collect::<Vec<_>>();
            let offered =
                front.channels.ports.offers.borrow().keys().map(|(_, inside)| *inside).collect::<Vec<_>>();
            (open, offered)
        };
        // Ports that are listed are not the names'.
        let forwarded = "[[forward]]\nkind = \"dist\"\nports = 40001\n";
        for listed in ["dist.ports = 40001", forwarded] {
            let config = crate::config::from_text("test", listed, &Default::default()).unwrap().config;
            front.close_left(&config, &[leased(40001)]);
            assert_eq!(front.open.len(), 2, "{listed}");
        }
        let config = front.context.snapshot().config.clone();
        front.close_left(&config, &[leased(40001)]);
        assert_eq!(left(&front), (vec![40002], vec![40002]));
    }

    /// A host whose peer h2 has an alias. `file` begins the configuration, and epmd is served on `epmd`.
    fn with_alias(file: &str, alias: IpAddr, epmd: Option<u16>) -> Config {
        let peer = "[[peer]]\nname = \"h2\"\naddresses = [\"192.0.2.2\"]\n";
        let file = format!("[dist]\n{file}{peer}");
        let mut config = crate::config::from_text("test", &file, &Default::default()).unwrap().config;
        config.epmd.listen =
            epmd.map(|port| (ListenOn::Ip([127, 0, 0, 1].into()), port)).into_iter().collect();
        config.dist.listen.clear();
        config.peers[0].alias = vec![alias];
        config
    }

    fn free_port() -> u16 {
        Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap().local_addr().port()
    }

    fn way(alias: IpAddr, port: u16) -> WayAsked {
        WayAsked { alias, peer: "h2".into(), port }
    }

    fn offered(front: &Front, alias: IpAddr, port: u16) -> Option<(u16, PortState)> {
        front.channels.ports.offers.borrow().get(&(alias, port)).map(|offer| (offer.outside, offer.state))
    }

    const OPEN: PortState = PortState::Open(Audience::ItselfOnly);

    #[tokio::test]
    async fn a_port_of_a_peer_opens_at_its_alias_by_its_own_number_or_another_and_goes_when_unused() {
        let alias: IpAddr = "127.83.0.12".parse().unwrap();
        let everywhere = Listener::bind("0.0.0.0:0".parse().unwrap()).unwrap();
        let (taken, free) = (everywhere.local_addr().port(), free_port());
        let file = format!("ports = {taken}\n");
        let mut front = front_of(with_alias(&file, alias, Some(free_port())));
        front.look().await;
        // A node of this host has the number everywhere: that is its business, and nobody has asked yet.
        assert_eq!(offered(&front, alias, taken), None);
        assert_eq!(front.channels.ports.posts.borrow().keys().copied().collect::<Vec<_>>(), [taken]);
        for port in [taken, free] {
            assert!(front.ways.note(way(alias, port), Instant::now()));
        }
        front.look().await;
        let (other, state) = offered(&front, alias, free).unwrap();
        assert!(
            other != free && state == OPEN,
            "a node that has one number everywhere may take any: {other}"
        );
        let (other, state) = offered(&front, alias, taken).unwrap();
        assert!(other != taken && state == OPEN, "{other}");
        let service = front.open[&SocketAddr::new(alias, other)].service.borrow().clone();
        assert_eq!((service.inside, service.toward.as_deref()), (taken, Some("h2")));
        // Our own listeners there are neither nodes nor in the way.
        front.look().await;
        assert_eq!(offered(&front, alias, taken), Some((other, OPEN)), "it keeps its number");
        assert_eq!(front.channels.ports.posts.borrow().len(), 1);
        let aliases = |front: &Front| front.open.keys().filter(|addr| addr.ip() == alias).count();
        assert_eq!(aliases(&front), 3, "epmd's too");
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(61)).await;
        front.look().await;
        assert_eq!((offered(&front, alias, taken), offered(&front, alias, free)), (None, None));
        assert_eq!(aliases(&front), 3, "who has just been told of one still finds it");
        tokio::time::advance(MISSED_FOR).await;
        front.look().await;
        assert_eq!(aliases(&front), 1);
    }

    #[tokio::test]
    async fn a_port_of_a_peer_opens_by_its_own_number_where_no_node_here_is_on_every_address() {
        let alias: IpAddr = "127.83.3.12".parse().unwrap();
        let mut front = front_of(with_alias("", alias, Some(free_port())));
        let port = free_port();
        front.ways.note(way(alias, port), Instant::now());
        front.look().await;
        assert_eq!(offered(&front, alias, port), Some((port, OPEN)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_program_that_is_on_every_address_finds_its_number_free_when_it_comes_back() {
        let alias: IpAddr = "127.83.4.12".parse().unwrap();
        let everywhere = Listener::bind("0.0.0.0:0".parse().unwrap()).unwrap();
        let addr = everywhere.local_addr();
        let file = format!("ports = 1\n[[forward]]\nkind = \"tcp\"\nports = {}\n", addr.port());
        let mut front = front_of(with_alias(&file, alias, None));
        front.look().await;
        drop(everywhere);
        for _ in 0..3 {
            tokio::time::advance(Duration::from_secs(30)).await;
            front.look().await;
        }
        assert!(!front.open.contains_key(&SocketAddr::new(alias, addr.port())));
        drop(Listener::bind(addr).unwrap());
        // One that listens on loopback alone is in nobody's way.
        let _cured = Listener::bind(SocketAddr::from(([127, 0, 0, 1], addr.port()))).unwrap();
        front.look().await;
        assert!(front.open.contains_key(&SocketAddr::new(alias, addr.port())));
    }

    #[tokio::test(start_paused = true)]
    async fn without_an_epmd_fixed_ports_are_open_at_an_alias_and_one_that_is_taken_is_told_of() {
        let alias: IpAddr = "127.83.1.12".parse().unwrap();
        let everywhere = Listener::bind("0.0.0.0:0".parse().unwrap()).unwrap();
        let (taken, free) = (everywhere.local_addr().port(), free_port());
        let file = format!("ports = [{taken}, {free}]\n");
        let mut front = front_of(with_alias(&file, alias, None));
        let blocked = SocketAddr::new(alias, taken);
        for _ in 0..3 {
            front.look().await;
            let met = front.meeting.join_next().await.unwrap();
            front.take_back(met);
            tokio::time::advance(Duration::from_secs(5)).await;
        }
        let told = front.obstacles.get(&blocked).and_then(Obstacle::summary).unwrap();
        assert_eq!(offered(&front, alias, free), Some((free, OPEN)));
        assert_eq!(offered(&front, alias, taken), Some((taken, PortState::Blocked)));
        for part in ["no node of this host reaches h2", "inet_dist_use_interface {127,0,0,1}"] {
            assert!(told.contains(part), "{told}");
        }
    }

    #[tokio::test]
    async fn the_port_of_a_name_that_has_gone_stays_open_where_it_is_a_peers() {
        let alias: IpAddr = "127.83.2.12".parse().unwrap();
        let mut front = front_of(with_alias("", alias, Some(free_port())));
        let port = free_port();
        front.ways.note(way(alias, port), Instant::now());
        front.look().await;
        let config = front.context.snapshot().config.clone();
        front.close_left(&config, &[leased(port)]);
        assert_eq!(offered(&front, alias, port), Some((port, OPEN)));
        front.close_others(&HashMap::new(), &HashSet::from([port]));
        assert!(front.open.contains_key(&SocketAddr::new(alias, port)));
    }
}
