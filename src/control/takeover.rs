//! An epmd that took our port while we were away.
//!
//! Any starting `erl` starts an epmd on every address if nobody serves 4369. One that holds no name can
//! go without harm; one with names is somebody's cluster. An epmd may be empty for a moment only: its
//! node is about to register, or it has just restarted and its nodes come back after 2 s. So it must be
//! seen empty for a while before it is asked to end.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

use super::converse::converse;
use crate::proto::epmd::{NamesReply, Request};
use crate::session::MAX_ANSWER;
use crate::transport::Dialer;

/// How long an epmd must have been seen without a name: longer than a VM takes to start and register,
/// and than the 2 s after which nodes register again (`erl_epmd`, RECONNECT_TIME).
const EMPTY_FOR: Duration = Duration::from_secs(10);
/// For a whole conversation: epmd is on this host.
const TIMEOUT: Duration = Duration::from_secs(1);

/// What is known of whoever holds the port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Squatter {
    /// It does not speak as an epmd.
    NotEpmd,
    /// It did not answer this time.
    Silent,
    /// It holds these names, which their nodes would lose.
    HoldsNames(Vec<String>),
    /// It has held no name since then.
    Empty(Instant),
    /// It said that it ends.
    Ending,
    /// It was asked to end and did not agree.
    Refused,
}

/// Asks the epmd that is reached at `addr`, our own address, and ends it when it has been empty for long
/// enough. `before` is what was known of the same socket. KILL itself is refused by an epmd with names,
/// so a name that comes in between is not lost, unless epmd runs with `-relaxed_command_check`.
pub(super) async fn take_over(addr: SocketAddr, before: Option<Squatter>, dialer: &Dialer) -> Squatter {
    if let Some(known @ (Squatter::Ending | Squatter::Refused | Squatter::NotEpmd)) = before {
        return known;
    }
    let Ok(answer) = converse(addr, Request::Names, dialer, (TIMEOUT, MAX_ANSWER)).await else {
        return Squatter::Silent;
    };
    match NamesReply::decode(&answer) {
        Ok(reply) if reply.epmd_port == u32::from(addr.port()) => {
            if !reply.names.is_empty() || reply.skipped > 0 {
                return Squatter::HoldsNames(
                    reply.names.iter().map(|listed| listed.name.to_string()).collect(),
                );
            }
        }
        Ok(_) | Err(_) => return Squatter::NotEpmd,
    }
    let since = if let Some(Squatter::Empty(since)) = before { since } else { Instant::now() };
    if since.elapsed() < EMPTY_FOR {
        return Squatter::Empty(since);
    }
    match converse(addr, Request::Kill, dialer, (TIMEOUT, MAX_ANSWER)).await.as_deref() {
        Ok(b"OK") => Squatter::Ending,
        _ => Squatter::Refused,
    }
}
