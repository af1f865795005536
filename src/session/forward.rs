//! A connection to a port of `[[forward]]`: TLS distribution, or anything else over TCP.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::account::{Refused, log_would_refuse};
use super::carry::{Rest, carry};
use super::close::{CloseReason, Outcome, Party};
use super::connection::Session;
use super::context::{Context, Slot};
use super::handshake_end::HandshakeEnd;
use super::links::{Heard, Link};
use super::offend::offend;
use super::snapshot::Snapshot;
use super::tunnel;
use crate::policy::{Admission, Denial, Offence, Overlooked, Permit, Role, Speech};
use crate::proto::tls::{Began, LONGEST_FIRST, NotTls, Records, first_record};
use crate::transport::{How, Opened, Side, Upstream, Verdict, Wire, close_after, hand_on, open};

/// What a peer has said before anything was dialled, and its place among the handshakes that are not done.
#[derive(Debug)]
struct Hello {
    place: Slot,
    bytes: Vec<u8>,
}

/// A generation and what it gives: the leave to be here and the permit to go there.
type Authorized = (Arc<Snapshot>, Admission, Permit);

/// Connects the peer to the port behind us that its own leads to, and carries the bytes.
pub(super) async fn serve(stream: Wire, session: &Session, context: &Context) -> Outcome {
    let asked = format!("port {}", session.arrival.local.port());
    let served = link(stream, session, context).await;
    served.unwrap_or_else(|ended| ended).asked(asked)
}

/// Either way the outcome; the error is that of a connection that never became a link.
async fn link(stream: Wire, session: &Session, context: &Context) -> Result<Outcome, Outcome> {
    let refused = |denial| refuse(&stream, denial);
    let mut authorized = authorize(session, context).map_err(refused)?;
    let mut hello = None;
    if session.role == Role::DistTls {
        hello = Some(hear(&stream, &authorized, (session, context)).await?);
        // It took its time.
        authorized = authorize(session, context).map_err(refused)?;
    }
    let (snapshot, admission, permit) = authorized;
    let upstream = match tunnel::dial(&permit, &snapshot, session, context).await {
        Ok(upstream) => upstream,
        Err(error) => {
            let unreached = tunnel::unreached(&error);
            tunnel::refuse(&stream, unreached.reason);
            return Err(unreached);
        }
    };
    stream.set_nodelay();
    let link = Link::new(session, admission, snapshot.generation, Heard::Closed);
    let stream = match hello {
        Some(hello) => {
            let step = snapshot.config.limits.handshake_timeout;
            tokio::select! {
                biased;
                () = context.stop.cancelled() => return Err(CloseReason::Stopped.into()),
                shaken = shake_hands(stream, &upstream, &link, hello, step) => {
                    let (up, down) = (link.traffic.up.bytes(), link.traffic.down.bytes());
                    shaken.map_err(|outcome| outcome.moved(up, down).through([upstream.wire()]))?
                }
            }
        }
        None => stream,
    };
    Ok(carry((stream, upstream), link, Rest::default(), session, context).await)
}

/// Takes a place among the handshakes that are not done, and reads the whole ClientHello: a node of OTP 27 makes only
/// as many TLS handshakes at one time as it has schedulers, and waits 7 s for each that says nothing
/// (`inet_tls_dist:accept_loop`), so that it must not hear of who says nothing.
async fn hear(
    stream: &Wire,
    authorized: &Authorized,
    (session, context): (&Session, &Context),
) -> Result<Hello, Outcome> {
    let (snapshot, admission, _) = authorized;
    let place = context.take_half_open(admission).map_err(|full| refuse(stream, Denial::HalfOpen(full)))?;
    let reading = read_hello(stream);
    let told = tokio::select! {
        biased;
        () = context.stop.cancelled() => {
            tunnel::refuse(stream, CloseReason::Stopped);
            return Err(CloseReason::Stopped.into());
        }
        told = tokio::time::timeout(snapshot.config.limits.handshake_timeout, reading) => told,
    };
    match told {
        Ok(Ok(bytes)) => Ok(Hello { place, bytes }),
        Ok(Err(reason)) => {
            if let CloseReason::Handshake(HandshakeEnd::NotTls(_)) = reason {
                offend(context, session, "", Offence::Malformed);
            }
            Err(cut(stream, reason))
        }
        Err(_) => Err(cut(stream, HandshakeEnd::TimedOut(Party::Downstream))),
    }
}

/// The first record, and what came with it; never more than the longest that there is.
async fn read_hello(stream: &Wire) -> Result<Vec<u8>, CloseReason> {
    let mut buffer = vec![0; LONGEST_FIRST];
    let mut have = 0;
    loop {
        stream.readable().await.map_err(|_| HandshakeEnd::Abandoned)?;
        match stream.try_read(buffer.get_mut(have..).unwrap_or_default()) {
            Ok(0) if have == 0 => return Err(CloseReason::NoRequest),
            Ok(0) => return Err(HandshakeEnd::Abandoned.into()),
            Ok(count) => have += count,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
            Err(_) => return Err(HandshakeEnd::Abandoned.into()),
        }
        let bytes = buffer.get(..have).unwrap_or_default();
        if first_record(bytes).map_err(HandshakeEnd::NotTls)?.is_some() {
            buffer.truncate(have);
            return Ok(buffer);
        }
    }
}

/// Passes the ClientHello on and carries the rest of the handshake. It is done when the peer sends data after the
/// node has answered: it has the keys then, and the node is not waiting for it any more. The place is given back here.
async fn shake_hands(
    stream: Wire,
    upstream: &Upstream,
    link: &Link,
    hello: Hello,
    step: Duration,
) -> Result<Wire, Outcome> {
    let Hello { place, bytes } = hello;
    let mut records = Records::default();
    // What came with the ClientHello is looked at as well; data that was sent before the answer tells nothing.
    records.feed(&bytes).map_err(|no| cut(&stream, HandshakeEnd::NotTls(no)))?;
    let passed = hand_on(&bytes, upstream.wire(), &link.traffic.up);
    match tokio::time::timeout_at(Instant::now() + step, passed).await {
        Ok(Ok(())) => {}
        Ok(Err(_)) => return Err(cut(&stream, HandshakeEnd::NodeClosed)),
        Err(_) => return Err(cut(&stream, HandshakeEnd::TimedOut(Party::Upstream))),
    }
    drop(bytes);
    let mut silent = Party::Upstream;
    let show = |side: Side, bytes: &[u8]| match (side, silent) {
        (Side::Upstream, Party::Upstream) => {
            silent = Party::Downstream;
            Verdict::Step
        }
        (Side::Upstream, Party::Downstream) => Verdict::GoOn,
        (Side::Downstream, party) => match records.feed(bytes) {
            Err(no) => Verdict::Refuse(no),
            Ok(Began::Data) if party == Party::Downstream => Verdict::Enough,
            Ok(Began::Data | Began::Handshake) => Verdict::GoOn,
        },
    };
    let opened: Opened<NotTls> = open((&stream, upstream), &link.traffic, step, show).await;
    drop(place);
    match opened {
        Opened::Seen => Ok(stream),
        Opened::By(Side::Upstream, How::Fin) => {
            // Its last words are an alert that says why, which must arrive.
            close_after(stream, step).await;
            Err(CloseReason::from(HandshakeEnd::NodeClosed).into())
        }
        Opened::By(Side::Upstream, How::Reset) => Err(cut(&stream, HandshakeEnd::NodeClosed)),
        Opened::By(Side::Downstream, _) => Err(cut(&stream, HandshakeEnd::Abandoned)),
        Opened::TooLate => Err(cut(&stream, HandshakeEnd::TimedOut(silent))),
        Opened::Refused(no) => Err(cut(&stream, HandshakeEnd::NotTls(no))),
    }
}

/// As one that is turned away when it is accepted: by a reset.
fn refuse(stream: &Wire, denial: Denial) -> Outcome {
    cut(stream, CloseReason::Refused(denial))
}

fn cut(stream: &Wire, reason: impl Into<CloseReason>) -> Outcome {
    let reason = reason.into();
    stream.reset();
    tunnel::refuse(stream, reason);
    reason.into()
}

/// The generation in force, and what it gives.
fn authorize(session: &Session, context: &Context) -> Result<Authorized, Denial> {
    let (snapshot, admission) = session.renew(context)?;
    let leave = session.authorize_link(&snapshot, &admission, Speech::Closed)?;
    if let Some(denial) = leave.overlooked.map(Overlooked::denial) {
        let Session { arrival, role, .. } = session;
        let refused = Refused { arrival: *arrival, role: *role, denial, claimed: None, detail: None };
        log_would_refuse(context, &refused);
    }
    Ok((snapshot, admission, leave.permit))
}
