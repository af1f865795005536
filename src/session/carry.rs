//! A link that is up, until it ends.

use std::sync::Arc;

use tokio::net::TcpStream;

use super::close::{CloseReason, Outcome, Party};
use super::connection::Session;
use super::context::{Context, Slot};
use super::handshake_end::HandshakeEnd;
use super::inlet::Inlet;
use super::links::{Heard, Link};
use super::snapshot::Snapshot;
use crate::policy::{Admission, Denial};
use crate::transport::{Traffic, Upstream, hand_on, reset};

/// What is left of how a link came up.
#[derive(Debug, Default)]
pub(super) struct Rest {
    /// The last message of the handshake, and what came behind it, for the peer; and what the peer sent meanwhile.
    pub(super) inlets: Option<Inlets>,
    /// Its place among the handshakes that are not done, given back when it is among the links.
    pub(super) place: Option<Slot>,
}

/// What both ends have said and the other one has not been told.
#[derive(Debug)]
pub(super) struct Inlets {
    pub(super) down: Inlet,
    pub(super) up: Inlet,
}

/// Takes the link in, passes on what is left of its handshake, and relays until it ends.
pub(super) async fn carry(
    ends: (TcpStream, Upstream),
    link: Link,
    rest: Rest,
    session: &Session,
    context: &Context,
) -> Outcome {
    let Rest { inlets, place } = rest;
    let entered = context.links.enter(link, &context.metrics);
    let link = Arc::clone(&entered.link);
    let moved = || (link.traffic.up.bytes(), link.traffic.down.bytes());
    let ended = |reason: CloseReason| {
        reset(&ends.0);
        reset(ends.1.stream());
        let (up, down) = moved();
        Outcome::from(reason).moved(up, down)
    };
    // A reload while it came up did not find it among the links.
    let snapshot = match authorize(session, context, &link.heard) {
        Ok((snapshot, admission)) => {
            link.hold(admission, snapshot.generation);
            snapshot
        }
        Err(denial) => return ended(CloseReason::Refused(denial)),
    };
    drop(place);
    tell_opened(session, context, &link);
    if let Some(inlets) = inlets
        && let Err(reason) = pass_on(&ends, inlets, &link.traffic, &snapshot).await
    {
        return ended(reason);
    }
    let mut revoked = None;
    let stop = async {
        tokio::select! {
            denial = link.revoked() => revoked = Some(denial),
            () = context.stop.cancelled() => {}
        }
    };
    let relayed = context.relay(&snapshot).run(ends, &link.traffic, stop).await;
    let outcome = match revoked {
        Some(denial) => Outcome::from(CloseReason::Revoked(denial)).detail(denial.label()),
        None => {
            // It was good up to now, however long ago it came up.
            commend(session, context, &link.heard);
            CloseReason::from(relayed).into()
        }
    };
    let (up, down) = moved();
    outcome.moved(up, down)
}

/// Its address and its name are good, from now on for a day. A dynamic node is known by its host, since its name is
/// another one each time.
fn commend(session: &Session, context: &Context, heard: &Heard) {
    if let Heard::Nodes { claim, .. } = heard {
        context.speakers.commend(&session.source(), &claim.claimed.to_string());
    }
}

/// What the generation in force says to a link that is about to be up.
fn authorize(
    session: &Session,
    context: &Context,
    heard: &Heard,
) -> Result<(Arc<Snapshot>, Admission), Denial> {
    let (snapshot, admission) = session.renew(context)?;
    session.authorize_link(&snapshot, &admission, heard.speech())?;
    Ok((snapshot, admission))
}

/// The node's proof, and what came behind it in the same segment. Bytes that are lost here would be lost unseen, so
/// that the link ends where they cannot be handed on.
async fn pass_on(
    (stream, upstream): &(TcpStream, Upstream),
    Inlets { down, up }: Inlets,
    traffic: &Traffic,
    snapshot: &Snapshot,
) -> Result<(), CloseReason> {
    let patience = snapshot.config.limits.handshake_timeout;
    for (to, inlet, moved, party) in [
        (stream, up, &traffic.down, Party::Downstream),
        (upstream.stream(), down, &traffic.up, Party::Upstream),
    ] {
        match tokio::time::timeout(patience, hand_on(inlet.bytes(), to, moved)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(CloseReason::LinkReset(party)),
            Err(_) => return Err(HandshakeEnd::TimedOut(party).into()),
        }
    }
    Ok(())
}

/// The link is up.
fn tell_opened(session: &Session, context: &Context, link: &Link) {
    if session.role.has_handshake() && link.heard != Heard::Unreadable {
        context.metrics.handshake("up");
    }
    commend(session, context, &link.heard);
    let (peer, answered, hidden, handshake) = match &link.heard {
        Heard::Nodes { claim, peer, answered } => {
            (Some(peer), Some(answered), Some(claim.flags.is_hidden()), Some(claim.version.number()))
        }
        Heard::Closed | Heard::Unreadable => (None, None, None, None),
    };
    tracing::info!(
        id = session.id, role = %session.role, peer = %session.arrival.peer,
        listener = %session.arrival.local, claimed = peer.map(display), answered = answered.map(display),
        hidden, handshake, node = link.node.as_ref().map(display), inside = link.inside, "link_opened"
    );
}
