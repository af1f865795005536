//! A link to a distribution port.

use std::sync::Arc;

use tokio::net::TcpStream;

use super::close::{CloseReason, Outcome};
use super::connection::Session;
use super::context::Context;
use super::links::Link;
use super::snapshot::Snapshot;
use crate::policy::{Admission, Denial, LinkTarget, Permit};
use crate::telemetry::describe;
use crate::transport::reset;

/// Connects the peer to the port behind us that its own leads to, and carries the bytes.
pub(super) async fn serve(stream: TcpStream, session: &Session, context: &Context) -> Outcome {
    let asked = format!("port {}", session.arrival.local.port());
    let (snapshot, admission, permit) = match authorize(session, context) {
        Ok(authorized) => authorized,
        Err(denial) => return refuse(&stream, denial).asked(asked),
    };
    let upstream = match snapshot.dialer.dial(&permit).await {
        Ok(upstream) => upstream,
        Err(error) => {
            return Outcome::from(CloseReason::BackendDown).asked(asked).detail(describe(&error));
        }
    };
    // As the nodes do; a socket that is broken already cannot be set.
    stream.set_nodelay(true).unwrap_or_default();
    let link = Link::new(session, admission, snapshot.generation);
    let entered = context.links.enter(link, &context.metrics);
    // A reload while it was being dialled did not find it among the links.
    match authorize(session, context) {
        Ok((now, admission, _)) => entered.link.hold(admission, now.generation),
        Err(denial) => return refuse(&stream, denial).asked(asked),
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

/// As one that is turned away when it is accepted: by a reset.
fn refuse(stream: &TcpStream, denial: Denial) -> Outcome {
    reset(stream);
    CloseReason::Refused(denial).into()
}

/// The generation in force, and what it gives: the leave to be here and the permit to go there.
fn authorize(session: &Session, context: &Context) -> Result<(Arc<Snapshot>, Admission, Permit), Denial> {
    let (outside, service) = (session.arrival.local.port(), &session.service);
    // The port may have come to lead elsewhere since it was accepted, or to another node.
    let now = session.current.borrow().clone();
    if now.inside != service.inside {
        return Err(Denial::PortNotOffered(outside));
    }
    let service = &now;
    let target = LinkTarget { outside, inside: service.inside, node: service.node.as_ref() };
    let (snapshot, admission) = session.renew(context)?;
    let permit = snapshot.policy.authorize_link(&admission, &target)?;
    Ok((snapshot, admission, permit))
}
