//! One connection, one request, one answer: its bounds in size and time, and its line in the log.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};

use super::routes::answer;
use super::{Operations, Shared};
use crate::policy::PeerAddr;
use crate::telemetry::describe;

/// For the request line and all headers.
const HEAD_WITHIN: Duration = Duration::from_secs(5);
/// For everything.
const ALL_WITHIN: Duration = Duration::from_secs(30);
/// Bytes of the request line and all headers.
const HEAD_BYTES: usize = 16 << 10;
const HEADERS: usize = 64;
/// What is read ahead of a body.
const BUFFER: usize = 64 << 10;

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub(super) enum Visitor {
    /// Somebody whom the mode of the Unix socket let in. The kernel says who; `None`: it does not.
    Trusted { uid: Option<u32>, pid: Option<i32> },
    /// Anybody on this host, or a web page in a browser on it.
    Anybody(PeerAddr),
}

impl Visitor {
    pub(super) fn uid(self) -> Option<u32> {
        match self {
            Self::Trusted { uid, .. } => uid,
            Self::Anybody(_) => None,
        }
    }

    pub(super) fn pid(self) -> Option<i32> {
        match self {
            Self::Trusted { pid, .. } => pid,
            Self::Anybody(_) => None,
        }
    }

    pub(super) fn peer(self) -> Option<PeerAddr> {
        match self {
            Self::Trusted { .. } => None,
            Self::Anybody(peer) => Some(peer),
        }
    }
}

/// Answers one request; whatever comes after it is not read.
pub(super) async fn exchange<S, O>(stream: S, visitor: Visitor, shared: Arc<Shared<O>>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
    O: Operations,
{
    let service = service_fn(|request| {
        let shared = Arc::clone(&shared);
        async move { Ok::<_, Infallible>(answer(request, visitor, &shared).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .max_headers(HEADERS)
        .max_header_size(HEAD_BYTES)
        .max_buf_size(BUFFER)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    let failed = match tokio::time::timeout(ALL_WITHIN, connection).await {
        Ok(Ok(())) => return,
        Ok(Err(error)) => describe(&error),
        Err(_) => "it took longer than 30 s".to_owned(),
    };
    let peer = visitor.peer().map(tracing::field::display);
    tracing::debug!(uid = visitor.uid(), pid = visitor.pid(), peer, error = failed, "admin_request_failed");
}
