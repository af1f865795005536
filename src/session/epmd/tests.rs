//! A guard without a front, whose connections are made by hand: for the tests of what is answered.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::policy::{Arrival, Audience, Caps, Role, San, TlsMode};
use crate::proto::epmd::{Alive2, AliveName, Request};
use crate::session::accept::{Post, Service, accept};
use crate::session::connection::Session;
use crate::session::context::{Context, ContextParts, Habits};
use crate::session::mapper::{Origin, Registration};
use crate::session::ports::{Offer, PortState, Ports, PortsTeller};
use crate::session::snapshot::{Snapshot, Snapshots};
use crate::transport::Listener;

/// The address of ours that peers dial.
const OURS: &str = "192.0.2.1";

pub(super) struct Guard {
    pub(super) context: Arc<Context>,
    pub(super) snapshots: Snapshots,
    teller: PortsTeller,
}

pub(super) fn config(text: &str) -> Config {
    crate::config::from_text("test", text, &Default::default()).unwrap().config
}

/// With a name for the certificate of the first peer.
pub(super) fn with_identity(mut config: Config) -> Config {
    let peer = config.peers.first_mut().unwrap();
    peer.identity = vec![h2()];
    peer.tls = Some(TlsMode::Optional);
    config
}

fn h2() -> San {
    San::Dns("h2.test".to_owned())
}

impl Guard {
    pub(super) fn new(config: Config) -> Self {
        let (ports, teller) = Ports::new(8);
        let snapshots = Snapshots::new(Snapshot::new(1, Arc::new(config)));
        let context = Context::new(ContextParts {
            snapshots: snapshots.clone(),
            caps: Caps { total: 99, reserve: 9, per_address: 99, per_subnet: 99 },
            ports: Some(ports),
            strangers: mpsc::channel(1).0,
            habits: Habits::default(),
        });
        Self { context: Arc::new(context), snapshots, teller }
    }

    /// Puts another configuration in force.
    pub(super) fn reload(&self, config: Config) {
        self.snapshots.publish(|before| Snapshot::new(before.generation + 1, Arc::new(config)));
    }

    /// A node's port is open for peers, as the one of this number.
    pub(super) fn offer(&self, inside: u16, outside: u16) {
        let offer = Offer { outside, state: PortState::Open(Audience::Peers) };
        let ip: IpAddr = OURS.parse().unwrap();
        self.teller.offers.send_modify(|offers| offers.extend([((ip, inside), offer)]));
        let service = Service { audience: Audience::PeersOnly, inside, nodes: Arc::default(), toward: None };
        let post = Post { role: Role::Dist, service: watch::channel(service).1 };
        self.teller.posts.send_modify(|posts| Arc::make_mut(posts).extend([(outside, post)]));
    }

    /// Answers at an address of its own until told to stop.
    pub(super) fn serve(&self, stop: &CancellationToken) -> SocketAddr {
        let listener = Listener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let addr = listener.local_addr();
        let service =
            Service { audience: Audience::Peers, inside: addr.port(), nodes: Arc::default(), toward: None };
        let post = Post { role: Role::Epmd, service: watch::channel(service).1 };
        self.context.sessions.spawn(accept(listener, post, Arc::clone(&self.context), stop.clone()));
        addr
    }

    /// A node that has registered a name.
    pub(super) fn registered(&self, name: &str, port: u16) -> Registration<'_> {
        let name = AliveName::new(name.as_bytes()).unwrap();
        let alive = Alive2 { port, node_type: 77, protocol: 0, highest: 6, lowest: 5, name, extra: b"" };
        let session = self.at("127.0.0.1", "127.0.0.1:4369", None);
        let policy = &session.snapshot.policy;
        let permit = policy.authorize_request(&session.admission, &Request::Names).unwrap();
        self.context.mapper.register(&permit, &alive, 7, Origin::Here { uid: None }).unwrap()
    }

    /// A tunnel of h2's guard, which has been identified.
    pub(super) fn by_tunnel(&self) -> Session {
        let mut session = self.session(Role::Tunnel, "192.0.2.2", &format!("{OURS}:4371"), None);
        session.sans = [h2()].into();
        let policy = &session.snapshot.policy;
        session.admission = policy.identify(&session.admission, &session.sans).unwrap();
        session
    }

    /// A question of this host at an address that stands for a peer.
    pub(super) fn at_alias(&self, peer: &str) -> Session {
        self.at("127.0.0.1", "127.0.0.12:4369", Some(peer))
    }

    fn at(&self, from: &str, to: &str, toward: Option<&str>) -> Session {
        self.session(Role::Epmd, from, to, toward)
    }

    fn session(&self, role: Role, from: &str, to: &str, toward: Option<&str>) -> Session {
        let from = SocketAddr::new(from.parse().unwrap(), 40000);
        let to: SocketAddr = to.parse().unwrap();
        let arrival = Arrival { peer: from.into(), local: to.into() };
        let audience = if toward.is_some() { Audience::ItselfOnly } else { Audience::Peers };
        let snapshot = self.context.snapshot();
        let admission = snapshot.policy.admit(&arrival, role, audience).unwrap();
        let service =
            Service { audience, inside: 4369, nodes: Arc::default(), toward: toward.map(Into::into) };
        let current = watch::channel(service.clone()).1;
        let slot = self.context.take_slot(&admission).unwrap();
        let (sans, id) = (Arc::default(), 1);
        Session {
            role,
            admission,
            snapshot,
            arrival,
            service,
            current,
            sans,
            shown: None,
            id,
            slot: Some(Arc::new(slot)),
            link: None,
        }
    }
}

/// Both ends of a connection: of who asks, and of who is asked.
pub(super) async fn connection() -> (TcpStream, TcpStream) {
    let mut listener = Listener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let guard = Guard::new(config(&format!("[epmd]\nbackend = \"{}\"\n", listener.local_addr())));
    let session = guard.at("127.0.0.1", "127.0.0.1:4369", None);
    let snapshot = &session.snapshot;
    let permit = snapshot.policy.authorize_request(&session.admission, &Request::Names).unwrap();
    let (asks, asked) = tokio::join!(snapshot.dialer.dial(&permit), listener.accept());
    (asks.unwrap().into_tcp().unwrap(), asked.stream)
}
