//! Connecting to what is behind us.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpSocket, TcpStream};

use super::tunnel::{Asking, LegError, ResumeError, Resumption, Trust, Tunnels, Wanted, Way};
use super::wire::Wire;
use crate::config::Forward;
use crate::policy::{Destination, Errand, PeerId, Permit, TlsMode};
use crate::proto::tunnel::LinkId;

/// How long one try to replace a leg may take: the next one may find another address.
const RESUME_TRY: Duration = Duration::from_secs(3);

/// Where the destinations of permits are.
#[derive(Debug, Clone)]
pub struct Backends {
    /// epmd; `None`: the guard is the epmd.
    pub epmd: Option<SocketAddr>,
    /// The addresses on which nodes listen, in the order in which they are tried.
    pub dist: Vec<IpAddr>,
    /// `[[forward]]`: the ports that have addresses of their own.
    pub forwards: Vec<Forward>,
}

/// The only way out: it connects where a [`Permit`] leads and nowhere else.
#[derive(Debug, Clone)]
pub struct Dialer {
    backends: Backends,
    timeout: Duration,
    /// To peers, in the order of their ids.
    ways: Arc<[Way]>,
    /// By what tunnels are made; `None`: there are none.
    trust: Option<Trust>,
    /// Whether `[tls]` has a certificate, one that cannot be used now included.
    is_certified: bool,
}

/// A connection that a [`Permit`] led to. Nothing else makes one, so what takes an `Upstream` carries
/// only what was permitted.
#[derive(Debug)]
pub struct Upstream(Wire);

impl Upstream {
    /// The connection, for what is said before a relay takes over.
    #[must_use]
    pub fn wire(&self) -> &Wire {
        &self.0
    }

    /// The connection, taken out.
    #[must_use]
    pub fn into_wire(self) -> Wire {
        self.0
    }

    /// The socket, taken out.
    ///
    /// # Errors
    /// It is none: it leads through a tunnel.
    pub fn into_tcp(self) -> io::Result<TcpStream> {
        match self.0 {
            Wire::Tcp(stream) => Ok(stream),
            Wire::Tunnel(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

/// Why nothing was connected.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The last address that was tried answered with an error.
    #[error("connecting to {addr}")]
    Connect {
        /// The address.
        addr: SocketAddr,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The last address that was tried did not answer in time: its listen queue is full, or packets
    /// are dropped.
    #[error("{addr} did not answer within {}", humantime::format_duration(*.timeout))]
    TimedOut {
        /// The address.
        addr: SocketAddr,
        /// How long was waited.
        timeout: Duration,
    },
    /// The configuration has no address for it.
    #[error("no backend address is configured")]
    NoBackend,
    /// The guard of a peer.
    #[error(transparent)]
    Leg(#[from] LegError),
}

impl Dialer {
    /// A dialer to these backends, that waits so long for each address.
    #[must_use]
    pub fn new(backends: Backends, timeout: Duration) -> Self {
        Self { backends, timeout, ways: Arc::default(), trust: None, is_certified: false }
    }

    /// The same with ways to peers.
    #[must_use]
    pub fn with_ways(self, ways: Arc<[Way]>, trust: Option<Trust>) -> Self {
        let is_certified = self.is_certified || trust.is_some();
        Self { ways, trust, is_certified, ..self }
    }

    /// The same where `[tls]` has a certificate that may not be usable yet, or any more.
    #[must_use]
    pub fn certified(self) -> Self {
        Self { is_certified: true, ..self }
    }

    /// By what tunnels are made; `None`: there are none.
    #[must_use]
    pub fn trust(&self) -> Option<&Trust> {
        self.trust.as_ref()
    }

    /// The way to a peer.
    #[must_use]
    pub fn way(&self, peer: PeerId) -> Option<&Way> {
        self.ways.get(usize::from(peer.0))
    }

    /// The same by its name.
    #[must_use]
    pub fn way_to(&self, peer: &str) -> Option<&Way> {
        self.ways.iter().find(|way| *way.peer == *peer)
    }

    /// Connects to a port of a peer, for a node of this host: by a tunnel where there is one, or where nothing else is
    /// permitted.
    ///
    /// # Errors
    /// The peer cannot be reached so.
    pub async fn dial_peer(
        &self,
        permit: &Permit,
        wanted: Wanted,
        tunnels: &Tunnels,
    ) -> Result<Upstream, DialError> {
        let Destination::Peer(peer, port) = permit.destination() else { return Err(DialError::NoBackend) };
        let way = self.way(peer).ok_or(DialError::NoBackend)?;
        let opened = match (way.mode, &self.trust) {
            (TlsMode::Off, _) => return self.dial_plain(way, port, tunnels).await,
            (TlsMode::Optional, None) if !self.is_certified => {
                return self.dial_plain(way, port, tunnels).await;
            }
            // Ours cannot be used now. What went plain for that would stay so for as long as the link lives.
            (TlsMode::Optional | TlsMode::Required, None) => Err(LegError::NoCredentials),
            (TlsMode::Optional | TlsMode::Required, Some(trust)) => {
                way.open(trust, port, wanted, (self.timeout, tunnels)).await
            }
        };
        match opened {
            Ok(wire) => Ok(Upstream(wire)),
            // There is no guard yet, which is not the same as one that is not the peer's.
            Err(error) if way.mode == TlsMode::Optional && error.is_refused_connection() => {
                self.dial_plain(way, port, tunnels).await
            }
            Err(error) => Err(DialError::Leg(error)),
        }
    }

    async fn dial_plain(&self, way: &Way, port: u16, tunnels: &Tunnels) -> Result<Upstream, DialError> {
        let mut last = DialError::NoBackend;
        for addr in way.addresses(self.timeout, &tunnels.names).await.map_err(DialError::Leg)? {
            match self.connect(SocketAddr::new(addr.ip(), port)).await {
                Ok(stream) => return Ok(Upstream(stream.into())),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Whether a peer is reached by a tunnel, where it has one.
    #[must_use]
    pub fn has_tunnel(&self, way: &Way) -> bool {
        match way.mode {
            TlsMode::Off => false,
            TlsMode::Optional => self.trust.is_some() || self.is_certified,
            TlsMode::Required => true,
        }
    }

    /// A leg for questions to the epmd of a peer.
    ///
    /// # Errors
    /// There is none.
    pub async fn ask_by_tunnel(&self, peer: PeerId, tunnels: &Tunnels) -> Result<Asking, DialError> {
        let way = self.way(peer).ok_or(DialError::NoBackend)?;
        let trust = self.trust.as_ref().ok_or(DialError::Leg(LegError::NoCredentials))?;
        Ok(way.ask(trust, (self.timeout.min(RESUME_TRY), tunnels)).await?)
    }

    /// A connection to the epmd of a peer, as any node would make one.
    ///
    /// # Errors
    /// There is none.
    pub async fn dial_epmd_of(&self, peer: PeerId, tunnels: &Tunnels) -> Result<TcpStream, DialError> {
        let way = self.way(peer).ok_or(DialError::NoBackend)?;
        let upstream = self.dial_plain(way, way.epmd, tunnels).await?;
        upstream.into_tcp().map_err(|_| DialError::NoBackend)
    }

    /// Another leg for a link to a peer of this name, of which so much has been received.
    ///
    /// # Errors
    /// There is none now, or there will be none.
    pub async fn resume(
        &self,
        peer: &str,
        link: (LinkId, u64),
        tunnels: &Tunnels,
    ) -> Result<Resumption, ResumeError> {
        let forbidden = |why: &str| ResumeError::Forbidden(why.to_owned());
        let way = self.way_to(peer).ok_or_else(|| forbidden("there is no such [[peer]] any more"))?;
        if way.mode == TlsMode::Off {
            return Err(forbidden("its tls is \"off\" now"));
        }
        let trust = self.trust.as_ref().ok_or_else(|| forbidden("[tls] has no certificate any more"))?;
        way.resume(trust, link, (self.timeout.min(RESUME_TRY), tunnels)).await
    }

    /// Connects to the first address of the permit's destination that answers, with TCP_NODELAY.
    ///
    /// # Errors
    /// That of the last address, when none does.
    pub async fn dial(&self, permit: &Permit) -> Result<Upstream, DialError> {
        let addresses: Vec<SocketAddr> = match permit.destination() {
            Destination::Epmd => self.backends.epmd.into_iter().collect(),
            Destination::Dist(port) => {
                self.backends.dist.iter().map(|ip| SocketAddr::new(*ip, port)).collect()
            }
            Destination::PeerEpmd(_) | Destination::Peer(..) => Vec::new(),
            Destination::Forward(port) => {
                let forward = self.backends.forwards.iter().find(|forward| forward.ports.contains(port));
                let backend = forward.map_or(&[][..], |forward| &forward.backend);
                backend.iter().map(|ip| SocketAddr::new(*ip, port)).collect()
            }
        };
        let mut last = DialError::NoBackend;
        for addr in addresses {
            match self.connect(addr).await {
                Ok(stream) => return Ok(Upstream(stream.into())),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Connects for an errand of our own.
    ///
    /// # Errors
    /// The epmd cannot be reached.
    pub async fn run_errand(&self, errand: &Errand) -> Result<TcpStream, DialError> {
        self.connect(errand.epmd()).await
    }

    async fn connect(&self, addr: SocketAddr) -> Result<TcpStream, DialError> {
        match tokio::time::timeout(self.timeout, connect(addr)).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(source)) => Err(DialError::Connect { addr, source }),
            Err(_) => Err(DialError::TimedOut { addr, timeout: self.timeout }),
        }
    }
}

/// Nothing else makes a connection: the caller has a [`Permit`], or an errand, or a way that a permit led to.
pub(super) async fn connect(addr: SocketAddr) -> io::Result<TcpStream> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_nodelay(true)?;
    let stream = socket.connect(addr).await?;
    // Where nobody listens on a port that the kernel also gives to those who dial, a socket may be given
    // the port that it dials, and is then connected to itself.
    if stream.local_addr()? == addr {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    Ok(stream)
}
