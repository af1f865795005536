//! Connecting to what is behind us.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::net::{TcpSocket, TcpStream};

use crate::config::Forward;
use crate::policy::{Destination, Errand, Permit};

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
}

/// A connection that a [`Permit`] led to. Nothing else makes one, so what takes an `Upstream` carries
/// only what was permitted.
#[derive(Debug)]
pub struct Upstream(TcpStream);

impl Upstream {
    /// The socket, for what is said before a relay takes over.
    #[must_use]
    pub fn stream(&self) -> &TcpStream {
        &self.0
    }

    /// The socket, taken out.
    #[must_use]
    pub fn into_stream(self) -> TcpStream {
        self.0
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
}

impl Dialer {
    /// A dialer to these backends, that waits so long for each address.
    #[must_use]
    pub fn new(backends: Backends, timeout: Duration) -> Self {
        Self { backends, timeout }
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
            Destination::Forward(port) => {
                let forward = self.backends.forwards.iter().find(|forward| forward.ports.contains(port));
                let backend = forward.map_or(&[][..], |forward| &forward.backend);
                backend.iter().map(|ip| SocketAddr::new(*ip, port)).collect()
            }
        };
        let mut last = DialError::NoBackend;
        for addr in addresses {
            match self.connect(addr).await {
                Ok(stream) => return Ok(Upstream(stream)),
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

async fn connect(addr: SocketAddr) -> io::Result<TcpStream> {
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
