//! Tunnels: links and questions between guards, in mutual TLS.
//!
//! `serve` is what a peer's guard dials; [`dial()`] is the way out for a node of this host. Both hand an end of a link to
//! the walk that a connection of the same kind takes, and neither knows what is said there.

mod dial;
mod questions;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::close::{CloseReason, Outcome};
use super::connection::{LinkName, Session};
use super::context::Context;
use super::snapshot::Snapshot;
use super::{dist, epmd, forward};
use crate::policy::{Admission, Denial, Intake, LocalAddr, Role};
use crate::proto::tunnel::{DEAD_AFTER, Kind, Refusal};
use crate::telemetry::describe;
use crate::transport::Wire;
use crate::transport::tls::{Certified, UnixTime, Usage};
use crate::transport::tunnel::{Asked, Dialled, Lost, Opening, Shown, Wish};
pub(super) use dial::{dial, unreached};
pub use questions::{AskError, Ways};

/// Questions of one leg that are answered at one time.
const ANSWERED_AT_ONCE: usize = 64;

/// Serves the guard of a peer. The session becomes that of the link, where it is for one.
pub(super) async fn serve(stream: TcpStream, session: &mut Session, context: &Arc<Context>) -> Outcome {
    let served = tokio::select! {
        biased;
        () = context.stop.cancelled() => return CloseReason::Stopped.into(),
        heard = hear(stream, session, context) => heard,
    };
    match served {
        Ok((wish, snapshot)) => match wish {
            Wish::Open(opening) => open(*opening, &snapshot, session, context).await,
            Wish::Resume(resuming) => {
                let asked = format!("resume {}", resuming.link);
                // What it is for was long in coming.
                let (snapshot, admission) = match session.renew(context) {
                    Ok(renewed) => renewed,
                    Err(denial) => {
                        resuming.refuse(Refusal::Denied, denial.label());
                        return Outcome::from(CloseReason::Refused(denial)).asked(asked);
                    }
                };
                let peer = peer_name(&snapshot, &admission);
                let reason = match resuming.resume(&peer, &context.tunnels) {
                    Ok(()) => CloseReason::LegTaken,
                    Err(_) => CloseReason::UnknownLink,
                };
                Outcome::from(reason).asked(asked)
            }
            Wish::Ask(asked) => {
                session.slot = match context.take_slot(&session.admission) {
                    Ok(slot) => Some(Arc::new(slot)),
                    Err(full) => {
                        asked.refuse(Refusal::Busy, Denial::Full(full).label());
                        return CloseReason::Refused(Denial::Full(full)).into();
                    }
                };
                answer(*asked, session, context).await
            }
        },
        Err(outcome) => outcome,
    }
}

/// Up to where it is known whose leg it is, and what for.
async fn hear(
    stream: TcpStream,
    session: &mut Session,
    context: &Context,
) -> Result<(Wish, Arc<Snapshot>), Outcome> {
    let (snapshot, admission) =
        session.renew(context).map_err(|denial| Outcome::from(CloseReason::Refused(denial)))?;
    let place = context.take_half_open(&admission).map_err(Denial::HalfOpen);
    let place = place.map_err(|denial| Outcome::from(CloseReason::Refused(denial)))?;
    let Some(trust) = snapshot.trust() else { return Err(no_certificate()) };
    let patience = snapshot.config.limits.handshake_timeout;
    let deadline = Instant::now() + patience;
    let shaking = Dialled::shake_hands(stream, trust.credentials.server(), &context.tunnels);
    let dialled = in_time(deadline, patience, shaking).await?;
    let (snapshot, dialled) = identify(dialled, session, context)?;
    let replay = snapshot.replay_per_link();
    let wish = in_time(deadline, patience, dialled.hear(&context.tunnels, replay)).await?;
    drop(place);
    Ok((wish, snapshot))
}

fn no_certificate() -> Outcome {
    Outcome::from(CloseReason::LegFailed("no_certificate"))
        .detail("[tls] has no certificate that can be used")
}

async fn in_time<T>(
    deadline: Instant,
    patience: Duration,
    doing: impl Future<Output = Result<T, Lost>>,
) -> Result<T, Outcome> {
    let done = tokio::time::timeout_at(deadline, doing).await;
    done.unwrap_or(Err(Lost::TimedOut(patience))).map_err(|lost| failed(&lost))
}

fn failed(lost: &Lost) -> Outcome {
    Outcome::from(CloseReason::LegFailed(lost.reason())).detail(describe(lost))
}

/// Whose certificate it is. rustls asks nobody where a session is resumed, so that it is asked here after each handshake,
/// by what is in force now.
fn identify(
    dialled: Dialled,
    session: &mut Session,
    context: &Context,
) -> Result<(Arc<Snapshot>, Dialled), Outcome> {
    // The handshake took its time.
    let (snapshot, admission) = match session.renew(context) {
        Ok(renewed) => renewed,
        Err(denial) => {
            dialled.refuse(Refusal::Denied, denial.label());
            return Err(CloseReason::Refused(denial).into());
        }
    };
    let Some(trust) = snapshot.trust() else { return Err(no_certificate()) };
    let chain = dialled.facts().map(|facts| facts.chain).unwrap_or_default();
    let certified = match trust.credentials.verifier().check(chain, Usage::Client, now()) {
        Ok(certified) => certified,
        Err(fault) => {
            dialled.refuse(Refusal::Identity, fault.label());
            return Err(Outcome::from(CloseReason::LegFailed(fault.label())).detail(fault.to_string()));
        }
    };
    match snapshot.policy.identify(&admission, &certified.sans) {
        Ok(admission) => {
            session.admission = admission;
            session.snapshot = Arc::clone(&snapshot);
            let shown = Shown::new(chain, &certified.sans, Usage::Client, &trust.credentials);
            let shown = shown.came_from(session.arrival.peer);
            session.sans = Arc::clone(&shown.sans);
            session.shown = Some(shown.clone());
            let mut dialled = dialled;
            dialled.know(shown);
            Ok((snapshot, dialled))
        }
        Err(denial) => {
            dialled.refuse(Refusal::Identity, denial.label());
            Err(Outcome::from(CloseReason::Refused(denial)).detail(told(&certified)))
        }
    }
}

fn told(certified: &Certified) -> String {
    let names: Vec<String> = certified.sans.iter().take(8).map(ToString::to_string).collect();
    format!("its certificate {} is for {}", certified.subject, names.join(", "))
}

fn peer_name(snapshot: &Snapshot, admission: &Admission) -> Arc<str> {
    let peer = snapshot.policy.peer_of(admission).and_then(|peer| snapshot.dialer.way(peer));
    peer.map_or_else(Arc::default, |way| Arc::clone(&way.peer))
}

/// A link to what the port leads to, in the walk of its kind.
async fn open(
    opening: Opening,
    snapshot: &Snapshot,
    session: &mut Session,
    context: &Arc<Context>,
) -> Outcome {
    let wish = opening.open;
    let asked = format!("port {}", wish.port);
    if context.snapshot().policy.intake() == Intake::Draining {
        opening.refuse(Refusal::Draining, Denial::Draining.label());
        return Outcome::from(CloseReason::Refused(Denial::Draining)).asked(asked);
    }
    let peer = peer_name(snapshot, &session.admission);
    let post = context.ports.as_ref().and_then(|ports| ports.posts.borrow().get(&wish.port).cloned());
    let Some(post) = post.filter(|post| post.role == role_of(wish.kind)) else {
        let denial = Denial::PortNotOffered(wish.port);
        opening.refuse(Refusal::NothingThere, denial.label());
        return Outcome::from(CloseReason::Refused(denial)).asked(asked);
    };
    // A leg that only takes the place of another one needs no place among the connections: its link has one.
    session.slot = match context.take_slot(&session.admission) {
        Ok(slot) => Some(Arc::new(slot)),
        Err(full) => {
            opening.refuse(Refusal::Busy, Denial::Full(full).label());
            return Outcome::from(CloseReason::Refused(Denial::Full(full))).asked(asked);
        }
    };
    let Some((_resumable, renewal)) = context.tunnels.enter(wish.link, &peer) else {
        opening.refuse(Refusal::Protocol, "there is a link of that name");
        return Outcome::from(CloseReason::LegFailed("tunnel_protocol")).asked(asked);
    };
    session.role = post.role;
    session.service = post.service.borrow().clone();
    session.current = post.service;
    // It is as if the port had been dialled.
    let local: SocketAddr = SocketAddr::new(session.arrival.local.ip(), wish.port);
    session.arrival.local = LocalAddr::from(local);
    session.link = Some(LinkName { id: wish.link, source: wish.source, trace: wish.trace });
    let wire = match opening.grant(renewal) {
        Ok(wire) => wire,
        Err(lost) => return failed(&lost).asked(asked),
    };
    walk(wire, session, context).await
}

async fn walk(wire: Wire, session: &Session, context: &Context) -> Outcome {
    match session.role {
        Role::Dist => Box::pin(dist::serve(wire, session, context)).await,
        Role::DistTls | Role::Tcp => Box::pin(forward::serve(wire, session, context)).await,
        // No post is of these.
        Role::Epmd | Role::Tunnel => CloseReason::LegFailed("tunnel_protocol").into(),
    }
}

fn role_of(kind: Kind) -> Role {
    match kind {
        Kind::Dist => Role::Dist,
        Kind::DistTls => Role::DistTls,
        Kind::Tcp => Role::Tcp,
    }
}

/// An answer, the number of its question, and its place among those of which there are few at a time.
type Answer = (u32, Vec<u8>, Option<OwnedSemaphorePermit>);

/// Answers questions for as long as they come.
async fn answer(asked: Asked, session: &Session, context: &Arc<Context>) -> Outcome {
    let mut asked = asked;
    let mut answering: JoinSet<Answer> = JoinSet::new();
    let mut unsent = Unsent::default();
    let mut questions: u64 = 0;
    let asker = Arc::new(session.clone());
    let mut generations = context.generations();
    let mut minutes = tokio::time::interval(Duration::from_mins(1));
    let lost = loop {
        let next_sign = match asked.keep() {
            Ok(at) => at,
            Err(lost) => break lost,
        };
        unsent.look_at(&asked);
        let (at_work, has_room) = (answering.len(), asked.has_room());
        tokio::select! {
            biased;
            () = context.stop.cancelled() => return CloseReason::Stopped.into(),
            // Nothing is lost by its end, so that a certificate must be good all along.
            Ok(()) = generations.changed() => if let Err(outcome) = check_again(&asker, context) {
                return outcome;
            },
            _ = minutes.tick() => if let Err(outcome) = check_again(&asker, context) {
                return outcome;
            },
            Some(answered) = answering.join_next(), if has_room => {
                // One that panicked is in the log, and is asked again by whoever asked.
                let Ok((id, reply, place)) = answered else { continue };
                unsent.places.extend(place);
                if let Err(lost) = asked.answer(id, reply) {
                    break lost;
                }
            }
            question = hear_question(&mut asked, at_work, &unsent) => {
                let (id, body) = match question {
                    Ok(Some(question)) => question,
                    Ok(None) => continue,
                    Err(lost) => break lost,
                };
                questions += 1;
                let (asker, context) = (Arc::clone(&asker), Arc::clone(context));
                answering.spawn(async move {
                    let (reply, place) = reply_to(&body, &asker, &context).await;
                    (id, reply, place)
                });
            }
            () = tokio::time::sleep_until(next_sign) => {}
        }
    };
    let told = format!("{questions} questions");
    if let Lost::Closed = lost {
        Outcome::from(CloseReason::Answered).asked(told)
    } else {
        failed(&lost).asked(told)
    }
}

/// What was answered and has not left.
#[derive(Debug, Default)]
struct Unsent {
    places: Vec<OwnedSemaphorePermit>,
    /// Since when there is so much of it that nothing is added.
    since: Option<Instant>,
}

impl Unsent {
    fn look_at(&mut self, asked: &Asked) {
        if asked.has_room() {
            *self = Self::default();
        } else {
            self.since.get_or_insert_with(Instant::now);
        }
    }
}

/// The next question, once there is a place for it; `None`: what was answered has left.
async fn hear_question(
    asked: &mut Asked,
    at_work: usize,
    unsent: &Unsent,
) -> Result<Option<(u32, Vec<u8>)>, Lost> {
    if let Some(since) = unsent.since {
        // Whoever takes no answers keeps others from theirs.
        let sent = tokio::time::timeout_at(since + DEAD_AFTER, asked.flush()).await;
        return sent.map_err(|_| Lost::TimedOut(DEAD_AFTER))?.map(|()| None);
    }
    if at_work < ANSWERED_AT_ONCE {
        return asked.next().await.map(Some);
    }
    asked.flush().await?;
    std::future::pending().await
}

/// Whether whoever asks would be let in now.
fn check_again(asker: &Session, context: &Context) -> Result<(), Outcome> {
    let (snapshot, _) = asker.renew(context).map_err(|denial| Outcome::from(CloseReason::Revoked(denial)))?;
    let (Some(trust), Some(shown)) = (snapshot.trust(), &asker.shown) else { return Err(no_certificate()) };
    match trust.credentials.verifier().check(&shown.chain, shown.usage, now()) {
        Ok(_) => Ok(()),
        Err(fault) => Err(Outcome::from(CloseReason::LegFailed(fault.label())).detail(fault.to_string())),
    }
}

/// Each question counts as a connection with one would.
async fn reply_to(
    body: &[u8],
    asker: &Session,
    context: &Context,
) -> (Vec<u8>, Option<OwnedSemaphorePermit>) {
    if let Err(full) = context.speakers.pace(&asker.admission) {
        let outcome = Outcome::from(CloseReason::Refused(Denial::TooFast(full)));
        super::account::log_answered(context, asker, &outcome);
        return (Vec::new(), None);
    }
    let answered = epmd::answer(body, asker, context).await;
    super::account::log_answered(context, asker, &answered.outcome);
    (answered.bytes, answered.place)
}

/// The clock that certificates are read by.
fn now() -> UnixTime {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    UnixTime::since_unix_epoch(since)
}

/// Tells the guard at the other end of a tunnel why a connection became no link. A node is told nothing.
pub(super) fn refuse(wire: &Wire, reason: CloseReason) {
    let code = if matches!(reason, CloseReason::Stopped | CloseReason::Refused(Denial::Draining)) {
        Refusal::Draining
    } else if matches!(reason, CloseReason::Refused(Denial::HalfOpen(_))) {
        Refusal::Busy
    } else if reason == CloseReason::BackendDown {
        Refusal::NothingThere
    } else if matches!(reason, CloseReason::Handshake(_) | CloseReason::NoRequest) {
        Refusal::Handshake
    } else {
        Refusal::Denied
    };
    wire.refuse(code, reason.label());
}

/// Why a tunnel ended before its link was up, where the other guard has said so or the leg is lost.
pub(super) fn ending(wire: &Wire) -> Option<Outcome> {
    let link = wire.tunnelled()?;
    if let Some((code, detail)) = link.refusal() {
        let said = if detail.is_empty() { code.label().to_owned() } else { detail };
        return Some(Outcome::from(CloseReason::RefusedByPeer).detail(said));
    }
    link.lost().map(|lost| Outcome::from(CloseReason::LegLost).detail(lost))
}
