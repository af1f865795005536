//! The way out: what a node of this host dials at an alias goes to the guard of the peer that the alias stands for.

use std::sync::Arc;

use crate::policy::{Destination, Permit, Role};
use crate::proto::tunnel::Kind;
use crate::session::close::{CloseReason, Outcome};
use crate::session::connection::Session;
use crate::session::context::Context;
use crate::session::snapshot::Snapshot;
use crate::telemetry::describe;
use crate::transport::tunnel::{Redial, Wanted};
use crate::transport::{DialError, Upstream};

/// Connects to where the permit leads: behind us, or to a peer.
///
/// # Errors
/// It cannot be reached.
pub(in crate::session) async fn dial(
    permit: &Permit,
    snapshot: &Snapshot,
    session: &Session,
    context: &Context,
) -> Result<Upstream, DialError> {
    let Destination::Peer(peer, _) = permit.destination() else {
        return snapshot.dialer.dial(permit).await;
    };
    let name = snapshot.dialer.way(peer).map(|way| Arc::clone(&way.peer)).unwrap_or_default();
    let wanted = Wanted {
        kind: kind_of(session.role),
        source: session.arrival.peer.socket(),
        trace: session.id,
        redial: redial(name, context),
        replay: snapshot.replay_per_link(),
    };
    snapshot.dialer.dial_peer(permit, wanted, &context.tunnels).await
}

/// How a connection ends that leads nowhere.
pub(in crate::session) fn unreached(error: &DialError) -> Outcome {
    let reason = match error {
        DialError::Leg(leg) => leg.reason().map_or(CloseReason::NoWay, CloseReason::LegFailed),
        DialError::Connect { .. } | DialError::TimedOut { .. } | DialError::NoBackend => {
            CloseReason::BackendDown
        }
    };
    Outcome::from(reason).detail(describe(error))
}

/// Another leg, by the generation that is in force when it is needed.
fn redial(peer: Arc<str>, context: &Context) -> Redial {
    let (snapshots, tunnels) = (context.snapshots(), context.tunnels.clone());
    Box::new(move |link, received| {
        let (snapshots, tunnels, peer) = (snapshots.clone(), tunnels.clone(), Arc::clone(&peer));
        Box::pin(async move { snapshots.current().dialer.resume(&peer, (link, received), &tunnels).await })
    })
}

fn kind_of(role: Role) -> Kind {
    match role {
        Role::Dist | Role::Epmd | Role::Tunnel => Kind::Dist,
        Role::DistTls => Kind::DistTls,
        Role::Tcp => Kind::Tcp,
    }
}
