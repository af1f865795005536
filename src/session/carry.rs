//! A link that is up, until it ends.

use std::sync::Arc;

use super::close::{CloseReason, Outcome, Party};
use super::connection::Session;
use super::context::{Context, Slot};
use super::handshake_end::HandshakeEnd;
use super::inlet::Inlet;
use super::links::{Heard, Link};
use super::snapshot::Snapshot;
use super::tunnel;
use crate::policy::{Admission, Denial};
use crate::proto::tunnel::Refusal;
use crate::transport::{Traffic, Upstream, Wire, hand_on};

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
    ends: (Wire, Upstream),
    link: Link,
    rest: Rest,
    session: &Session,
    context: &Context,
) -> Outcome {
    let Rest { inlets, place } = rest;
    let mut link = link;
    if let Some(tunnelled) = [&ends.0, ends.1.wire()].into_iter().find_map(Wire::tunnelled) {
        (link.tunnel, link.shown) = (Some(tunnelled.id()), tunnelled.shown());
    }
    let name = link.tunnel;
    let entered = context.links.enter(link, &context.metrics);
    let link = Arc::clone(&entered.link);
    let moved = || (link.traffic.up.bytes(), link.traffic.down.bytes());
    let ended = |reason: CloseReason| {
        for end in [&ends.0, ends.1.wire()] {
            end.reset();
            tunnel::refuse(end, reason);
        }
        let (up, down) = moved();
        Outcome { link: name.map(Box::new), ..Outcome::from(reason).moved(up, down) }
    };
    // A reload while it came up did not find it among the links.
    let authorized = authorize(session, context, &link.heard).and_then(|authorized| {
        link.judge_peer(&authorized.0)?;
        Ok(authorized)
    });
    let snapshot = match authorized {
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
            denial = revocation(&link, context) => {
                revoked = Some(denial);
                Refusal::Revoked
            }
            () = context.stop.cancelled() => Refusal::Draining,
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
    Outcome { link: name.map(Box::new), ..outcome.moved(up, down) }
}

/// Until the link is not permitted any more.
async fn revocation(link: &Link, context: &Context) -> Denial {
    loop {
        tokio::select! {
            denial = link.revoked() => return denial,
            // A leg that took the place of another one was judged by what was in force when it was dialled.
            () = link.shown.changed() => if let Err(denial) = link.judge_again(&context.snapshot()) {
                return denial;
            },
        }
    }
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
    (stream, upstream): &(Wire, Upstream),
    Inlets { down, up }: Inlets,
    traffic: &Traffic,
    snapshot: &Snapshot,
) -> Result<(), CloseReason> {
    let patience = snapshot.config.limits.handshake_timeout;
    for (to, inlet, moved, party) in [
        (stream, up, &traffic.down, Party::Downstream),
        (upstream.wire(), down, &traffic.up, Party::Upstream),
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
        listener = %session.arrival.local, link = link.tunnel.map(display), toward = session.service.toward.as_deref(),
        claimed = peer.map(display), answered = answered.map(display),
        hidden, handshake, node = link.node.as_ref().map(display), inside = link.inside, "link_opened"
    );
}
