//! Connecting to what is behind us.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::net::{TcpSocket, TcpStream};

use crate::policy::{Destination, Permit};

/// Where the destinations of permits are.
#[derive(Debug, Clone)]
pub struct Backends {
    /// epmd.
    pub epmd: SocketAddr,
    /// The addresses on which nodes listen, in the order in which they are tried.
    pub dist: Vec<IpAddr>,
}

/// The only way out: it connects where a [`Permit`] leads and nowhere else.
#[derive(Debug, Clone)]
pub struct Dialer {
    backends: Backends,
    timeout: Duration,
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

    /// The addresses of a destination.
    #[must_use]
    pub fn addresses(&self, destination: Destination) -> Vec<SocketAddr> {
        match destination {
            Destination::Epmd => vec![self.backends.epmd],
            Destination::ForeignEpmd(addr) => vec![addr],
            Destination::Dist(port) => {
                self.backends.dist.iter().map(|ip| SocketAddr::new(*ip, port)).collect()
            }
        }
    }

    /// Connects to the first address that answers, with TCP_NODELAY.
    ///
    /// # Errors
    /// That of the last address, when none does.
    pub async fn dial(&self, permit: &Permit) -> Result<TcpStream, DialError> {
        let mut last = DialError::NoBackend;
        for addr in self.addresses(permit.destination()) {
            match tokio::time::timeout(self.timeout, connect(addr)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(source)) => last = DialError::Connect { addr, source },
                Err(_) => last = DialError::TimedOut { addr, timeout: self.timeout },
            }
        }
        Err(last)
    }
}

async fn connect(addr: SocketAddr) -> io::Result<TcpStream> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_nodelay(true)?;
    socket.connect(addr).await
}
