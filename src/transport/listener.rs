//! Accepting connections.
//!
//! Owns a bound socket and its back-off. Never decides who may connect and never reads a byte.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use crate::policy::Arrival;

/// Connections that the kernel completes before we accept them; the kernel lowers it to
/// `net.core.somaxconn`.
const BACKLOG: i32 = 4096;
/// The first wait when the kernel has no descriptor or memory to spare, doubled up to the longest.
const FIRST_WAIT: Duration = Duration::from_millis(5);
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// How often waits are told of.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// A bound socket.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    addr: SocketAddr,
    wait: Duration,
    told: Option<Instant>,
}

/// A connection, just accepted.
#[derive(Debug)]
pub struct Accepted {
    /// The socket.
    pub stream: TcpStream,
    /// From where to where.
    pub arrival: Arrival,
}

impl Listener {
    /// Listens on exactly `addr`: an IPv6 socket takes no IPv4 connections.
    ///
    /// # Errors
    /// The kernel's: `AddrInUse` where somebody has the port, `AddrNotAvailable` where the host does
    /// not have the address (yet).
    pub fn bind(addr: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
        if addr.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        // Lets a restarted guard have its port back while old connections are in TIME_WAIT. It does
        // not let two sockets listen on one port (Linux).
        socket.set_reuse_address(true)?;
        socket.bind(&addr.into())?;
        socket.listen(BACKLOG)?;
        Self::from_std(socket.into())
    }

    /// Takes over a socket that listens already.
    ///
    /// # Errors
    /// `InvalidInput` where it does not listen, or the kernel's.
    pub fn from_std(socket: std::net::TcpListener) -> io::Result<Self> {
        check_listens(&socket)?;
        // One of systemd's blocks unless its unit says otherwise, and tokio does not see to it.
        socket.set_nonblocking(true)?;
        let socket = TcpListener::from_std(socket)?;
        let addr = socket.local_addr()?;
        Ok(Self { socket, addr, wait: FIRST_WAIT, told: None })
    }

    /// The address that it listens on.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// The next connection. Errors of one connection are passed over; where the kernel is out of
    /// descriptors or memory it waits, 5 ms at first and 1 s at most, and goes on: the listener
    /// never ends by itself. Cancel-safe: a connection is taken from the kernel only on return.
    pub async fn accept(&mut self) -> Accepted {
        loop {
            match self.socket.accept().await {
                Ok((stream, peer)) => {
                    self.wait = FIRST_WAIT;
                    // Only where it listens on all addresses the kernel must be asked which one it was. A peer that
                    // has reset by now leaves a socket without one.
                    let bound = Some(self.addr).filter(|addr| !addr.ip().is_unspecified());
                    if let Some(local) = bound.or_else(|| stream.local_addr().ok()) {
                        let arrival = Arrival { peer: peer.into(), local: local.into() };
                        return Accepted { stream, arrival };
                    }
                }
                Err(error) if is_per_connection(&error) => {
                    tracing::debug!(listener = %self.addr, %error, "accept_failed");
                }
                Err(error) => {
                    if self.told.is_none_or(|told| told.elapsed() > TELL_EVERY) {
                        self.told = Some(Instant::now());
                        tracing::warn!(
                            listener = %self.addr, %error,
                            help = "descriptors or memory are used up: raise LimitNOFILE or lower [limits] connections",
                            "accept_delayed"
                        );
                    }
                    tokio::time::sleep(self.wait).await;
                    self.wait = (self.wait * 2).min(LONGEST_WAIT);
                }
            }
        }
    }
}

/// The type of a `TcpListener` that was made from a descriptor promises nothing.
pub(super) fn check_listens(socket: &std::net::TcpListener) -> io::Result<()> {
    if getsockopt(socket, sockopt::AcceptConn)? {
        Ok(())
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "the socket does not listen"))
    }
}

/// Errors of one aborted connection, which say nothing about the listener (accept(2)). Whatever else
/// there may be would come again at once, so that it is waited out.
fn is_per_connection(error: &io::Error) -> bool {
    use rustix::io::Errno;
    matches!(
        Errno::from_io_error(error),
        Some(
            Errno::CONNABORTED
                | Errno::INTR
                | Errno::PROTO
                | Errno::NETDOWN
                | Errno::NOPROTOOPT
                | Errno::HOSTDOWN
                | Errno::NONET
                | Errno::HOSTUNREACH
                | Errno::OPNOTSUPP
                | Errno::NETUNREACH
        )
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_one_connection_did_is_passed_over_at_once() {
        // EMFILE, ENFILE, ENOBUFS, ENOMEM, EINVAL, EPERM, EBADF.
        for errno in [24, 23, 105, 12, 22, 1, 9] {
            assert!(!is_per_connection(&io::Error::from_raw_os_error(errno)), "{errno}");
        }
        // ECONNABORTED, EPROTO, EHOSTUNREACH, EINTR.
        for errno in [103, 71, 113, 4] {
            assert!(is_per_connection(&io::Error::from_raw_os_error(errno)), "{errno}");
        }
    }
}
