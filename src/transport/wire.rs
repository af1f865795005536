//! One end of a connection: a socket, or a link within a tunnel.

use std::io;

use tokio::net::TcpStream;

use super::reply;
use super::tunnel::Tunnelled;
use crate::proto::tunnel::Refusal;

/// What bytes are read from and written to. Both kinds are used alike while a handshake is read; the relay then takes
/// them apart.
#[derive(Debug)]
pub enum Wire {
    /// A socket.
    Tcp(TcpStream),
    /// A link within a tunnel.
    Tunnel(Box<Tunnelled>),
}

impl From<TcpStream> for Wire {
    fn from(stream: TcpStream) -> Self {
        Self::Tcp(stream)
    }
}

impl Wire {
    /// The socket, where it is one.
    #[must_use]
    pub fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Tcp(stream) => Some(stream),
            Self::Tunnel(_) => None,
        }
    }

    /// The link within a tunnel, where it is one.
    #[must_use]
    pub fn tunnelled(&self) -> Option<&Tunnelled> {
        match self {
            Self::Tcp(_) => None,
            Self::Tunnel(link) => Some(link),
        }
    }

    /// Waits until there is something to read, which may be the end.
    ///
    /// # Errors
    /// The socket failed.
    pub async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.readable().await,
            Self::Tunnel(link) => link.readable().await,
        }
    }

    /// Reads what is there; 0: the other end has closed.
    ///
    /// # Errors
    /// `WouldBlock`: nothing is there. Anything else: it failed, or was reset.
    pub fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_read(buffer),
            Self::Tunnel(link) => link.try_read(buffer),
        }
    }

    /// Waits until it takes bytes.
    ///
    /// # Errors
    /// The socket failed.
    pub async fn writable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.writable().await,
            Self::Tunnel(link) => link.writable().await,
        }
    }

    /// Writes what it takes.
    ///
    /// # Errors
    /// `WouldBlock`: it takes nothing now. Anything else: it failed, or was reset.
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_write(bytes),
            Self::Tunnel(link) => link.try_write(bytes),
        }
    }

    /// As the nodes do. A socket that is broken already cannot be set, and need not be.
    pub fn set_nodelay(&self) {
        match self {
            Self::Tcp(stream) => stream.set_nodelay(true).unwrap_or_default(),
            Self::Tunnel(_) => {}
        }
    }

    /// Makes the coming close a reset.
    pub fn reset(&self) {
        match self {
            Self::Tcp(stream) => reply::reset(stream),
            Self::Tunnel(link) => link.reset(),
        }
    }

    /// Says why before the close, where the other end is a guard. To a node it says nothing.
    pub fn refuse(&self, code: Refusal, why: &str) {
        match self {
            Self::Tcp(_) => {}
            Self::Tunnel(link) => link.refuse(code, why),
        }
    }
}
