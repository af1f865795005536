//! What is known of one connection.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::watch;

use super::accept::Service;
use super::context::{Context, Slot};
use super::snapshot::Snapshot;
use crate::policy::{
    Admission, Arrival, Carrier, Denial, Intake, Leave, LinkTarget, Role, San, Source, Speech,
};
use crate::proto::tunnel::LinkId;
use crate::transport::tunnel::Shown;

/// What is known of a connection while it lives.
#[derive(Debug, Clone)]
pub(super) struct Session {
    pub(super) role: Role,
    pub(super) admission: Admission,
    /// The generation that admitted it.
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) arrival: Arrival,
    /// What its listener served when it was accepted, and what it serves now.
    pub(super) service: Service,
    pub(super) current: watch::Receiver<Service>,
    /// The names of its certificate, where it comes by a tunnel.
    pub(super) sans: Arc<[San]>,
    /// That certificate, with those above it.
    pub(super) shown: Option<Shown>,
    pub(super) id: u64,
    /// Held until the closing event; a tunnel has none until it is known what it is for.
    pub(super) slot: Option<Arc<Slot>>,
    /// What the link is called between the guards, where it comes by a tunnel.
    pub(super) link: Option<LinkName>,
}

/// What a link is called between two guards.
#[derive(Debug, Clone)]
pub(super) struct LinkName {
    pub(super) id: LinkId,
    /// The node's end of the connection that the other guard took.
    pub(super) source: SocketAddr,
    /// The other guard's number of it.
    pub(super) trace: u64,
}

impl Session {
    /// The generation in force and the leave that it gives: what was admitted before a reload is asked
    /// about again before a byte of it goes upstream.
    pub(super) fn renew(&self, context: &Context) -> Result<(Arc<Snapshot>, Admission), Denial> {
        let now = context.snapshot();
        if let Some(shown) = &self.shown {
            now.still_trusts(shown)?;
        }
        // The listener may have come to be for this host alone.
        let audience = self.current.borrow().audience;
        if now.generation == self.snapshot.generation && audience == self.service.audience {
            return Ok((now, self.admission));
        }
        let admission = match self.admission.carrier() {
            Carrier::Plain => now.policy.admit(&self.arrival, self.role, audience)?,
            Carrier::Tunnel(_) => {
                if self.role != Role::Tunnel && now.policy.intake() == Intake::Draining {
                    return Err(Denial::Draining);
                }
                let admission = now.policy.admit(&self.arrival, Role::Tunnel, audience)?;
                now.policy.identify(&admission, &self.sans)?
            }
        };
        Ok((now, admission))
    }

    /// The leave to make the link, as the listener leads and the node is called now.
    pub(super) fn authorize_link(
        &self,
        snapshot: &Snapshot,
        admission: &Admission,
        speech: Speech<'_>,
    ) -> Result<Leave, Denial> {
        let (outside, inside) = (self.arrival.local.port(), self.service.inside);
        let now = self.current.borrow();
        if now.toward != self.service.toward {
            return Err(Denial::PortNotOffered(outside));
        }
        if let Some(peer) = &now.toward {
            let peer = snapshot.peer_called(peer).ok_or(Denial::PortNotOffered(outside))?;
            let permit = snapshot.policy.authorize_way(admission, peer, Some(inside))?;
            return Ok(Leave { permit, overlooked: None });
        }
        // The port may have come to lead elsewhere since the connection was accepted.
        if now.inside != inside {
            return Err(Denial::PortNotOffered(outside));
        }
        let target =
            LinkTarget { role: self.role, outside, inside, nodes: &now.nodes, speech, sans: &self.sans };
        snapshot.policy.authorize_link(admission, &target)
    }

    /// Who it is, as far as offences are concerned.
    pub(super) fn source(&self) -> Source {
        source(&self.snapshot, &self.admission)
    }
}

/// The source of a connection that this generation has admitted.
pub(super) fn source(snapshot: &Snapshot, admission: &Admission) -> Source {
    let is_peer = snapshot.policy.peer_of(admission).into();
    Source { ip: admission.peer().ip(), standing: admission.standing(), is_peer }
}
