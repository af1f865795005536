//! Ending a connection: an answer that must arrive, or a refusal that must cost nothing.

use std::io;
use std::mem::MaybeUninit;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::wire::Wire;

/// How much of what a peer still sends is thrown away, and for how long, before we close over it.
const DISCARD_BYTES: usize = 64 * 1024;
const DISCARD_TIME: Duration = Duration::from_secs(2);

/// Sends `answer` in one write, then closes so that it arrives: close() with unread input would send
/// an RST, which may overtake the answer in the peer's kernel and destroy it.
///
/// # Errors
/// The peer is gone, or did not take the answer within `timeout`.
pub async fn answer_and_close(stream: TcpStream, answer: &[u8], timeout: Duration) -> io::Result<()> {
    let mut stream = stream;
    tokio::time::timeout(timeout, stream.write_all(answer)).await??;
    // The kernel itself is asked: tokio may not have heard yet of what has come.
    if !matches!(SockRef::from(&stream).peek(&mut [MaybeUninit::uninit()]), Ok(1..)) {
        return Ok(());
    }
    stream.shutdown().await?;
    let mut scratch = [0; 1024];
    let discard = async {
        let mut left = DISCARD_BYTES;
        while left > 0 {
            match stream.read(&mut scratch).await {
                Ok(0) | Err(_) => return,
                Ok(count) => left = left.saturating_sub(count),
            }
        }
    };
    // Time is up or not, the answer has left; what follows is the peer's own affair.
    tokio::time::timeout(DISCARD_TIME, discard).await.unwrap_or_default();
    Ok(())
}

/// Has the kernel find out when the other host is gone, about two minutes after it went silent: for connections on
/// which nothing is ever said.
pub fn keep_alive(stream: &TcpStream) {
    let probes = TcpKeepalive::new()
        .with_time(Duration::from_secs(60))
        .with_interval(Duration::from_secs(15))
        .with_retries(4);
    // A socket that is broken already cannot be set, and need not be.
    SockRef::from(stream).set_tcp_keepalive(&probes).unwrap_or_default();
}

/// Makes the coming close of `stream` send an RST: the peer learns at once, and the kernel keeps no
/// TIME_WAIT for it, so that a flood of refused connections leaves nothing behind.
pub fn reset(stream: &TcpStream) {
    // A socket that is broken already cannot be set, and need not be.
    SockRef::from(stream).set_linger(Some(Duration::ZERO)).unwrap_or_default();
}

/// Closes so that what was sent last arrives; see [`answer_and_close`].
pub async fn close_after(wire: Wire, timeout: Duration) {
    match wire {
        // Whoever does not take it has gone, which is what was to come of it.
        Wire::Tcp(stream) => answer_and_close(stream, &[], timeout).await.unwrap_or_default(),
        Wire::Tunnel(link) => link.finish(timeout).await,
    }
}
