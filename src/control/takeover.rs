//! An epmd that took our port while we were away.
//!
//! Any starting `erl` starts an epmd on every address if nobody serves 4369. One that holds no name
//! can go without harm; one with names is somebody's cluster.

use std::net::SocketAddr;

use crate::policy::Policy;
use crate::proto::epmd::{NamesReply, Request};
use crate::session::ask;
use crate::transport::Dialer;

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Takeover {
    /// Whoever holds the port does not speak as an epmd.
    NotEpmd,
    /// It holds these names, which their nodes would lose.
    HoldsNames(Vec<String>),
    /// It said that it ends.
    Ending,
    /// It was asked to end and did not agree.
    Refused,
}

/// Asks the epmd that is reached at `addr`, our own address, to end if it holds no name. KILL itself
/// is refused by an epmd with names, so a name that comes in between is not lost, unless epmd runs
/// with `-relaxed_command_check`.
pub(super) async fn take_over(addr: SocketAddr, dialer: &Dialer, timeout: std::time::Duration) -> Takeover {
    let Some(answer) = converse(addr, Request::Names, dialer, timeout).await else {
        return Takeover::NotEpmd;
    };
    match NamesReply::decode(&answer) {
        Ok(reply) if reply.epmd_port == u32::from(addr.port()) => {
            if !reply.names.is_empty() || reply.skipped > 0 {
                return Takeover::HoldsNames(
                    reply.names.iter().map(|listed| listed.name.to_string()).collect(),
                );
            }
        }
        Ok(_) | Err(_) => return Takeover::NotEpmd,
    }
    match converse(addr, Request::Kill, dialer, timeout).await.as_deref() {
        Some(b"OK") => Takeover::Ending,
        _ => Takeover::Refused,
    }
}

async fn converse(
    addr: SocketAddr,
    request: Request<'_>,
    dialer: &Dialer,
    timeout: std::time::Duration,
) -> Option<Vec<u8>> {
    let permit = Policy::own_errand(addr);
    let stream = dialer.dial(&permit).await.ok()?;
    ask(stream, &request.encode(), timeout).await.ok()
}
