//! Carrying the first bytes of a link under somebody's eyes, until there is no more to see and the relay takes over.

use std::io;
use std::time::Duration;

use tokio::time::Instant;

use super::dialer::Upstream;
use super::relay::{How, Side};
use super::traffic::{Direction, Traffic};
use super::wire::Wire;

/// The most that is held at one time: a record of TLS at most, and never more of what is on its way.
const BUFFER: usize = 16 * 1024;

/// What is to become of bytes that are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict<R> {
    /// They go on, and the next ones are shown too.
    GoOn,
    /// The same, and they are a step: the time for the next one begins.
    Step,
    /// They go on, and no more is shown.
    Enough,
    /// They do not go on, and nothing else does.
    Refuse(R),
}

/// How an opening ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opened<R> {
    /// What was to be seen has been; whatever was read has gone on.
    Seen,
    /// This end went.
    By(Side, How),
    /// The step was not made in time.
    TooLate,
    /// Bytes were refused.
    Refused(R),
}

/// Carries bytes both ways and shows them first. Each step may take as long as `step`, and the time for the first
/// one begins now.
///
/// Both sockets stay as they are when it ends, for the relay or to be closed.
pub async fn open<R: Copy>(
    (down, up): (&Wire, &Upstream),
    traffic: &Traffic,
    step: Duration,
    mut show: impl FnMut(Side, &[u8]) -> Verdict<R>,
) -> Opened<R> {
    let up = up.wire();
    let mut buffer = vec![0; BUFFER];
    let mut deadline = Instant::now() + step;
    loop {
        let (side, ready) = tokio::select! {
            ready = down.readable() => (Side::Downstream, ready),
            ready = up.readable() => (Side::Upstream, ready),
            () = tokio::time::sleep_until(deadline) => return Opened::TooLate,
        };
        let (from, to, moved) = match side {
            Side::Downstream => (down, (up, Side::Upstream), &traffic.up),
            Side::Upstream => (up, (down, Side::Downstream), &traffic.down),
        };
        let count = match ready.and_then(|()| from.try_read(&mut buffer)) {
            Ok(0) => return Opened::By(side, How::Fin),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(_) => return Opened::By(side, How::Reset),
        };
        let bytes = buffer.get(..count).unwrap_or_default();
        let verdict = show(side, bytes);
        if let Verdict::Refuse(why) = verdict {
            return Opened::Refused(why);
        }
        match tokio::time::timeout_at(deadline, hand_on(bytes, to.0, moved)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Opened::By(to.1, How::Reset),
            Err(_) => return Opened::TooLate,
        }
        match verdict {
            Verdict::Enough => return Opened::Seen,
            Verdict::Step => deadline = Instant::now() + step,
            Verdict::GoOn | Verdict::Refuse(_) => {}
        }
    }
}

/// Sends bytes that were read before there was anybody to hand them to, as the first of a direction.
///
/// # Errors
/// The socket failed.
pub async fn hand_on(bytes: &[u8], to: &Wire, moved: &Direction) -> io::Result<()> {
    let mut rest = bytes;
    while !rest.is_empty() {
        to.writable().await?;
        match to.try_write(rest) {
            Ok(written) => {
                moved.add(written);
                rest = rest.get(written..).unwrap_or_default();
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
