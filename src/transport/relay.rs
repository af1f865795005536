//! Carrying the bytes of an established link, both ways, as if the two ends were joined.
//!
//! One direction is written once and run twice. A FIN is passed on when the bytes before it have
//! been; a reset is passed on as a reset; a side that does not read stops the other one. There is no
//! timeout as long as both directions are open.

use std::io;
use std::pin::{Pin, pin};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::buffers::BufferPool;
use super::dialer::Upstream;
use super::reply::reset;
use super::traffic::{Direction, Traffic};
use super::wire::Wire;
use crate::proto::tunnel::Refusal;

/// One of the two ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Dialled us.
    Downstream,
    /// Was dialled by us.
    Upstream,
}

/// How an end went away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// FIN: it closed.
    Fin,
    /// RST, or any other error of its socket.
    Reset,
}

/// Why a relay ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// This end went first.
    By(Side, How),
    /// One direction had ended and the other one moved no byte for too long.
    HalfClosedTooLong(Side),
    /// The tunnel lost its leg, and there was no other one in time.
    LegLost,
    /// We were told to stop.
    Stopped,
}

/// Why a direction cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Broken {
    /// The socket of this end failed.
    Socket(Side),
    /// This end has closed, and the other one takes nothing of what is left.
    Stuck(Side),
}

impl From<Broken> for Ended {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Socket(side) => Self::By(side, How::Reset),
            Broken::Stuck(side) => Self::HalfClosedTooLong(side),
        }
    }
}

/// How links are carried.
#[derive(Debug, Clone)]
pub struct Relay {
    /// Where buffers come from.
    pub buffers: BufferPool,
    /// For the silence of the remaining direction once the other has ended.
    pub half_close_timeout: Duration,
    /// How long a link within a tunnel waits for another leg.
    pub resume_for: Duration,
}

impl Relay {
    /// Carries bytes between the ends until both directions have ended, one end breaks, or `stop`
    /// says so; what it has carried is told to `traffic` all along.
    ///
    /// Dropping the future closes both sockets; no byte is held anywhere but in it.
    pub async fn run(
        &self,
        (down, up): (Wire, Upstream),
        traffic: &Traffic,
        stop: impl Future<Output = Refusal>,
    ) -> Ended {
        match (down, up.into_wire()) {
            (Wire::Tcp(down), Wire::Tcp(up)) => self.join((down, up), traffic, stop).await,
            (Wire::Tunnel(link), Wire::Tcp(node)) => {
                self.carry(*link, (node, Side::Upstream), traffic, stop).await
            }
            (Wire::Tcp(node), Wire::Tunnel(link)) => {
                self.carry(*link, (node, Side::Downstream), traffic, stop).await
            }
            // No permit leads from one tunnel into another: only what this host dials has one to a peer.
            (Wire::Tunnel(one), Wire::Tunnel(other)) => {
                one.reset();
                other.reset();
                Ended::Stopped
            }
        }
    }

    /// Between two sockets.
    async fn join(
        &self,
        (down, up): (TcpStream, TcpStream),
        traffic: &Traffic,
        stop: impl Future<Output = Refusal>,
    ) -> Ended {
        let Traffic { up: to_up, down: to_down } = traffic;
        let ended = {
            let (down, up) = ((&down, Side::Downstream), (&up, Side::Upstream));
            let mut upward = pin!(self.pump(down, up, to_up));
            let mut downward = pin!(self.pump(up, down, to_down));
            let both = async {
                tokio::select! {
                    first = &mut upward => match first {
                        Err(broken) => broken.into(),
                        Ok(()) => self.finish(Side::Downstream, downward, to_down).await,
                    },
                    first = &mut downward => match first {
                        Err(broken) => broken.into(),
                        Ok(()) => self.finish(Side::Upstream, upward, to_up).await,
                    },
                }
            };
            tokio::select! {
                ended = both => ended,
                _ = stop => Ended::Stopped,
            }
        };
        match ended {
            // Bytes may be lost, so that no end must take it for a close in good order.
            Ended::By(_, How::Reset) | Ended::HalfClosedTooLong(_) | Ended::LegLost => {
                reset(&down);
                reset(&up);
            }
            Ended::By(_, How::Fin) | Ended::Stopped => {}
        }
        ended
    }

    /// Waits for the remaining direction after `first` has sent its FIN. A VM answers a FIN by
    /// closing at once (`dist_util`); an end that neither closes nor sends would hold the link for
    /// ever.
    async fn finish(
        &self,
        first: Side,
        mut rest: Pin<&mut impl Future<Output = Result<(), Broken>>>,
        moved: &Direction,
    ) -> Ended {
        moved.touch();
        loop {
            let deadline = moved.last() + self.half_close_timeout;
            tokio::select! {
                end = &mut rest => return match end {
                    Ok(()) => Ended::By(first, How::Fin),
                    Err(broken) => broken.into(),
                },
                () = tokio::time::sleep_until(deadline) => {
                    if moved.last() + self.half_close_timeout <= Instant::now() {
                        return Ended::HalfClosedTooLong(first);
                    }
                }
            }
        }
    }

    /// One direction, until its source ends. A buffer is taken when there is something to read and given
    /// back before the next wait for it.
    async fn pump(&self, from: End<'_>, to: End<'_>, moved: &Direction) -> Result<(), Broken> {
        let (source, side) = from;
        loop {
            source.readable().await.map_err(|_| Broken::Socket(side))?;
            let mut buffer = self.buffers.take();
            let drained = self.drain(from, to, moved, &mut buffer).await;
            self.buffers.put(buffer);
            if let Drained::Fin = drained? {
                // All bytes before the FIN are in the kernel's hands. Where this fails the sink is gone
                // already, which the other direction finds.
                if let Err(error) = SockRef::from(to.0).shutdown(std::net::Shutdown::Write) {
                    tracing::trace!(%error, "shutdown_failed");
                }
                return Ok(());
            }
        }
    }

    /// Moves what is there.
    async fn drain(
        &self,
        from: End<'_>,
        to: End<'_>,
        moved: &Direction,
        buffer: &mut [u8],
    ) -> Result<Drained, Broken> {
        loop {
            let count = match from.0.try_read(buffer) {
                Ok(0) => return Ok(Drained::Fin),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Drained::Dry),
                Err(_) => return Err(Broken::Socket(from.1)),
            };
            let mut rest = buffer.get(..count).unwrap_or_default();
            while !rest.is_empty() {
                match to.0.try_write(rest) {
                    Ok(written) => {
                        moved.add(written);
                        rest = rest.get(written..).unwrap_or_default();
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        let _blocked = moved.note_blocked();
                        self.wait_for_room(from, to).await?;
                    }
                    Err(_) => return Err(Broken::Socket(to.1)),
                }
            }
            // A link that always has bytes must let the others have their turn.
            tokio::task::coop::consume_budget().await;
        }
    }

    /// Waits until `to` takes bytes again. `from` is not being read meanwhile, so that its reset must be
    /// listened for here; and where it has closed, nobody is left who could give up waiting.
    async fn wait_for_room(&self, from: End<'_>, to: End<'_>) -> Result<(), Broken> {
        let mut had_closed = false;
        loop {
            tokio::select! {
                ready = to.0.writable() => return ready.map_err(|_| Broken::Socket(to.1)),
                _ = from.0.ready(Interest::ERROR) => return Err(Broken::Socket(from.1)),
                () = tokio::time::sleep(self.half_close_timeout) => {
                    // Seen twice, it has been so for the whole time between.
                    if std::mem::replace(&mut had_closed, has_closed(from.0).await) {
                        return Err(Broken::Stuck(from.1));
                    }
                }
            }
        }
    }
}

/// A socket and which end it leads to.
type End<'a> = (&'a TcpStream, Side);

/// What [`Relay::drain`] came to.
enum Drained {
    /// Nothing is left for now.
    Dry,
    /// The source's FIN, after its last byte.
    Fin,
}

/// Whether the FIN of a socket that has bytes to be read has come.
async fn has_closed(socket: &TcpStream) -> bool {
    tokio::select! {
        biased;
        ready = socket.ready(Interest::READABLE) => ready.is_ok_and(|ready| ready.is_read_closed()),
        () = std::future::ready(()) => false,
    }
}
