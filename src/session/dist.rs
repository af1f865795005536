//! A link to a distribution port.

use std::sync::Arc;

use tokio::net::TcpStream;

use super::close::{CloseReason, Outcome};
use super::connection::Session;
use super::context::Context;
use super::links::Link;
use super::snapshot::Snapshot;
use crate::policy::{Admission, Denial, Permit};
use crate::telemetry::describe;

/// Connects the peer to the port behind us that its own leads to, and carries the bytes.
pub(super) async fn serve(stream: TcpStream, session: &Session, context: &Context) -> Outcome {
    let asked = format!("port {}", session.arrival.local.port());
    let (snapshot, admission, permit) = match authorize(session, context) {
        Ok(authorized) => authorized,
        Err(denial) => return Outcome::from(CloseReason::Refused(denial)).asked(asked),
    };
    let upstream = match snapshot.dialer.dial(&permit).await {
        Ok(upstream) => upstream,
        Err(error) => {
            return Outcome::from(CloseReason::BackendDown).asked(asked).detail(describe(&error));
        }
    };
    let link = Link::new(session, admission, snapshot.generation);
    let entered = context.links.enter(link, &context.metrics);
    // A reload while it was being dialled did not find it among the links.
    match authorize(session, context) {
        Ok((now, admission, _)) => entered.link.hold(admission, now.generation),
        Err(denial) => return Outcome::from(CloseReason::Refused(denial)).asked(asked),
    }
    tracing::info!(
        id = session.id, role = %session.role, peer = %session.arrival.peer,
        listener = %session.arrival.local, node = session.service.node.as_ref().map(display),
        inside = session.service.inside, "link_opened"
    );
    let link = Arc::clone(&entered.link);
    let mut revoked = None;
    let stop = async {
        tokio::select! {
            denial = link.revoked() => revoked = Some(denial),
            () = context.stop.cancelled() => {}
        }
    };
    let ended = context.relay(&snapshot).run((stream, upstream), &link.traffic, stop).await;
    let outcome = match revoked {
        Some(denial) => Outcome::from(CloseReason::Revoked(denial)).detail(denial.label()),
        None => CloseReason::from(ended).into(),
    };
    outcome.asked(asked).moved(link.traffic.up.bytes(), link.traffic.down.bytes())
}

/// The generation in force, and what it gives: the leave to be here and the permit to go there.
fn authorize(session: &Session, context: &Context) -> Result<(Arc<Snapshot>, Admission, Permit), Denial> {
    let (outside, inside) = (session.arrival.local.port(), session.service.inside);
    let (snapshot, admission) = session.renew(context)?;
    let permit = snapshot.policy.authorize_link(&admission, outside, inside)?;
    Ok((snapshot, admission, permit))
}
