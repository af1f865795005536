//! One generation of everything that a reload may change.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::config::{Config, Peer};
use crate::policy::{Denial, HostAnswers, Intake, Mode, PeerId, Policy};
use crate::transport::tls::Credentials;
use crate::transport::tunnel::{Shown, Trust, Way};
use crate::transport::{Backends, Dialer};

/// One generation. Readers take it as a whole and keep it for as long as they decide by it.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Counts the configurations that were in force, from 1.
    pub generation: u64,
    /// The configuration.
    pub config: Arc<Config>,
    /// What follows from it for connections, with what the resolver last said.
    pub policy: Arc<Policy>,
    /// To what it has behind us.
    pub dialer: Dialer,
}

impl Snapshot {
    /// The generation that `config` makes, with no host name resolved yet.
    #[must_use]
    pub fn new(generation: u64, config: Arc<Config>) -> Self {
        let backends = Backends {
            epmd: config.epmd.backend.addr(),
            dist: config.dist.backend.clone(),
            forwards: config.forwards.clone(),
        };
        let policy = Policy::new(config.rules());
        let dialer = Dialer::new(backends, config.limits.backend_timeout).with_ways(ways(&config), None);
        let dialer = if config.tls.files.is_some() { dialer.certified() } else { dialer };
        Self { generation, config, policy: Arc::new(policy), dialer }
    }

    /// The same with what tunnels are made by; `None`: there are none.
    #[must_use]
    pub fn with_credentials(self, credentials: Option<Arc<Credentials>>) -> Self {
        let identities = Arc::clone(self.policy.shared_identities());
        let trust = credentials.map(|credentials| Trust { credentials, identities });
        let dialer = self.dialer.with_ways(ways(&self.config), trust);
        Self { dialer, ..self }
    }

    /// What tunnels are made by; `None`: there are none.
    #[must_use]
    pub fn trust(&self) -> Option<&Trust> {
        self.dialer.trust()
    }

    /// What tunnels are made by and certificates are checked by; `None`: there are no tunnels.
    #[must_use]
    pub fn credentials(&self) -> Option<&Arc<Credentials>> {
        self.trust().map(|trust| &trust.credentials)
    }

    /// Whether a certificate that was found good is not revoked since. Where there are no credentials any more, nothing
    /// says that it is.
    pub(super) fn still_trusts(&self, shown: &Shown) -> Result<(), Denial> {
        match self.trust() {
            Some(trust) if shown.is_revoked(&trust.credentials) => Err(Denial::CertificateRevoked),
            Some(_) | None => Ok(()),
        }
    }

    /// The `[[peer]]` of this name.
    pub(super) fn peer_called(&self, name: &str) -> Option<PeerId> {
        let mut peers = self.config.peers.iter().zip((0..).map(PeerId));
        peers.find_map(|(peer, id)| (peer.name == name).then_some(id))
    }

    /// Bytes that a link in a tunnel may keep until the other guard has them.
    pub(super) fn replay_per_link(&self) -> usize {
        memory(self.config.limits.replay_per_link)
    }

    /// For one whole epmd request.
    pub(super) fn request_timeout(&self) -> Duration {
        self.config.limits.request_timeout
    }

    /// For epmd's whole answer, and for a peer to take it.
    pub(super) fn backend_timeout(&self) -> Duration {
        self.config.limits.backend_timeout
    }

    /// The same with another policy, which decides by the same rules.
    fn with_policy(&self, policy: Policy) -> Self {
        Self { policy: Arc::new(policy), ..self.clone() }
    }
}

/// So many bytes of memory, or as many as there can be.
pub(super) fn memory(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// Where epmd is where nothing else is said.
const EPMD: u16 = 4369;

/// The way to each peer, in the order of their ids.
fn ways(config: &Config) -> Arc<[Way]> {
    let aliases: Arc<[IpAddr]> = config.peers.iter().flat_map(|peer| peer.alias.iter().copied()).collect();
    let way = |(peer, id): (&Peer, PeerId)| Way {
        id,
        peer: peer.name.as_str().into(),
        mode: peer.tls.unwrap_or(config.tls.default),
        connect: peer.connect.clone(),
        aliases: Arc::clone(&aliases),
        epmd: config.epmd.listen.first().map_or(EPMD, |(_, port)| *port),
    };
    config.peers.iter().zip((0..).map(PeerId)).map(way).collect()
}

/// The generation in force, to be read and to be replaced.
#[derive(Debug, Clone)]
pub struct Snapshots(Arc<watch::Sender<Arc<Snapshot>>>);

impl Snapshots {
    /// With the first generation in force.
    #[must_use]
    pub fn new(first: Snapshot) -> Self {
        Self(Arc::new(watch::Sender::new(Arc::new(first))))
    }

    /// The one in force.
    #[must_use]
    pub fn current(&self) -> Arc<Snapshot> {
        Arc::clone(&self.0.borrow())
    }

    /// Puts the next generation in force; `make` is given the one before, which nothing replaces meanwhile.
    pub fn publish(&self, make: impl FnOnce(&Snapshot) -> Snapshot) {
        self.0.send_modify(|current| *current = Arc::new(make(current)));
    }

    /// Takes what the resolver says; `answers` is given the policy whose names were asked for, and that
    /// does not change meanwhile.
    pub fn answer(&self, answers: impl FnOnce(&Policy) -> HostAnswers) {
        self.publish(|current| current.with_policy(current.policy.with_answers(answers(&current.policy))));
    }

    /// Takes new connections of peers, or no more.
    pub fn set_intake(&self, intake: Intake) {
        self.publish(|current| current.with_policy(current.policy.with_intake(intake)));
    }

    /// Has this mode in the place of the configured one; `None`: that one again.
    pub fn set_mode(&self, mode: Option<Mode>) {
        self.publish(|current| current.with_policy(current.policy.with_mode(mode)));
    }

    /// Makes tunnels by these from now on; the number stays.
    pub fn set_credentials(&self, credentials: Option<Arc<Credentials>>) {
        self.publish(|current| current.clone().with_credentials(credentials));
    }

    /// Ends when another one is in force, or the same with other answers.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.0.subscribe()
    }
}
