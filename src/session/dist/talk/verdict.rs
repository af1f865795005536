//! What it means that an end goes before the link is up: above all, whether the node has found the proof wrong.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

use super::{Ended, Talk, ended};
use crate::policy::{Denial, Offence};
use crate::proto::dist::Phase;
use crate::session::close::CloseReason;
use crate::session::handshake_end::HandshakeEnd;
use crate::session::links::{Heard, Link};
use crate::transport::{How, Upstream, Wire};

/// How long a node's sockets may take to go after the first of them, and another link of the same name to come up.
const SETTLING: Duration = Duration::from_millis(250);

impl Talk<'_> {
    /// Why there is no link where the peer has gone. After its proof the node is heard first: who leaves at once
    /// would otherwise try cookies that nobody counts, and know a right one by an answer that is faster than a close.
    pub(super) async fn peer_gone(&mut self, upstream: &Upstream, until: Instant) -> Ended {
        if self.handshake.phase() != Phase::Ack {
            return ended(HandshakeEnd::Abandoned);
        }
        let gone = tokio::select! {
            biased;
            () = self.context.stop.cancelled() => return ended(CloseReason::Stopped),
            gone = self.up.read(upstream.wire()) => gone,
            () = tokio::time::sleep_until(until) => None,
        };
        match gone {
            Some(how) => match crate::session::tunnel::ending(upstream.wire()) {
                Some(outcome) => Box::new(outcome),
                None => ended(self.node_gone(how).await),
            },
            None => ended(HandshakeEnd::Abandoned),
        }
    }

    /// Why the node behind us closed before the link was up.
    pub(super) async fn node_gone(&mut self, how: How) -> HandshakeEnd {
        // The peer learns of it when it is settled, which also slows a guesser down.
        let said_nothing = self.up.is_empty() && how == How::Fin;
        tokio::time::sleep(SETTLING).await;
        if self.came_up_otherwise() {
            return HandshakeEnd::Superseded;
        }
        if !self.node_listens().await {
            return HandshakeEnd::NodeStopped;
        }
        if self.handshake.phase() != Phase::Ack {
            return HandshakeEnd::NodeClosed;
        }
        // What observe mode let pass has been counted already.
        let was_seen = self.overlooked == Some(Denial::WrongCookie);
        let is_wrong_cookie = said_nothing && !self.handshake.saw_alive();
        if !was_seen {
            self.offend(if is_wrong_cookie { Offence::WrongCookie } else { Offence::Unsettled });
        }
        if is_wrong_cookie {
            return HandshakeEnd::WrongCookie;
        }
        HandshakeEnd::NodeClosed
    }

    /// Whether a link of the same name to the same node has come up since: the node then leaves the older
    /// handshake (`net_kernel`, `accept_pending`).
    fn came_up_otherwise(&self) -> bool {
        let inside = self.session.service.inside;
        let is_it = |link: &Link| {
            let Heard::Nodes { peer, .. } = &link.heard else { return false };
            link.inside == inside && link.begun >= self.begun && Some(peer) == self.peer.as_ref()
        };
        self.context.links.find(|link| is_it(link).then_some(())).is_some()
    }

    /// Whether the node's port is still there. Where nobody can tell, it is.
    async fn node_listens(&self) -> bool {
        let Some(listener) = self.listener else { return true };
        let look = tokio::task::spawn_blocking(crate::transport::sockets::listening);
        let Ok(Ok(listening)) = look.await else { return true };
        listening.iter().any(|socket| socket.addr.port() == listener.port() && socket.covers(listener.ip()))
    }
}

/// Where the node of this connection listens, if that is an address of this host: a connection to one comes from the
/// same address, or from loopback. The socket tables here know nothing of nodes elsewhere, in a container for instance.
pub(super) fn listener_here(wire: &Wire) -> Option<SocketAddr> {
    let stream = wire.tcp()?;
    let (own, node) = (stream.local_addr().ok()?, stream.peer_addr().ok()?);
    (node.ip().is_loopback() || own.ip() == node.ip()).then_some(node)
}
