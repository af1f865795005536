//! A question of a peer's guard, which comes by a tunnel with many others and not on a connection of its own: decided
//! and answered as that of any peer.

use tokio::sync::OwnedSemaphorePermit;

use super::{Question, Told, behind, describe_request, embedded, length, may_ask, refusal};
use crate::config::EpmdBackend;
use crate::policy::{Carrier, Denial, Intake};
use crate::proto::epmd::{Malformed, Opcode, Request};
use crate::session::close::{CloseReason, Outcome};
use crate::session::connection::Session;
use crate::session::context::Context;

/// The longest answer that a tunnel carries. A guard's own list is never longer
/// ([`Registry`](crate::registry::Registry)), and that of an epmd is about 1.1 MB at most.
const MAX_CARRIED: usize = 4 * 1024 * 1024;

/// The answer to a question of a tunnel.
#[derive(Debug)]
pub(in crate::session) struct Answered {
    /// What epmd would send before it closes; empty where it would close without a byte.
    pub(in crate::session) bytes: Vec<u8>,
    /// What is to be told of it: the reason, and what was asked.
    pub(in crate::session) outcome: Outcome,
    /// Of a list, which may be long: kept until it has been sent, since there are few at a time.
    pub(in crate::session) place: Option<OwnedSemaphorePermit>,
}

/// Answers the body of a request to epmd, without its length. The session is that of the tunnel when it has been
/// identified. Whether it may ask is asked anew each time, since a tunnel lasts long.
pub(in crate::session) async fn answer(body: &[u8], session: &Session, context: &Context) -> Answered {
    let request = match decode(body, session) {
        Ok(request) => request,
        Err(reason) => return refused(reason.into()),
    };
    let mut answered = match authorize(&request, session, context) {
        Ok(question) => tell(&request, &question).await.unwrap_or_else(refused),
        Err(denial) => refused(CloseReason::Refused(denial).into()),
    };
    answered.outcome = answered.outcome.asked(describe_request(&request));
    answered
}

/// Of what a tunnel may ask: also who may register names may not by it, since a name lasts as long as a connection
/// of its own.
fn decode<'b>(body: &'b [u8], session: &Session) -> Result<Request<'b>, CloseReason> {
    let &first = body.first().ok_or(Malformed::Empty)?;
    let opcode = Opcode::from_byte(first);
    may_ask(session, opcode)?;
    match opcode {
        Opcode::PortPlease2 | Opcode::Names => Ok(Request::decode(body)?),
        Opcode::Unknown(_) | Opcode::Alive2 | Opcode::Dump | Opcode::Kill | Opcode::Stop => {
            Err(CloseReason::Refused(Denial::LocalOnly(opcode)))
        }
    }
}

/// Each question is something new of the peer's, as a connection with one would be. Bans are not asked about: a
/// `[[peer]]` has none.
fn authorize<'a>(
    request: &Request<'_>,
    session: &'a Session,
    context: &'a Context,
) -> Result<Question<'a>, Denial> {
    let question = Question::authorize(request, session, context)?;
    if question.admission.carrier() == Carrier::Plain {
        return Err(Denial::UnknownIdentity);
    }
    if question.snapshot.policy.intake() == Intake::Draining {
        return Err(Denial::Draining);
    }
    Ok(question)
}

async fn tell(request: &Request<'_>, question: &Question<'_>) -> Result<Answered, Outcome> {
    let (told, place) = match (request, question.snapshot.config.epmd.backend) {
        (Request::PortPlease2(name), EpmdBackend::Embedded) => {
            (Told { bytes: embedded::look_up(*name, question).await, sent: 0 }, None)
        }
        (Request::Names, EpmdBackend::Embedded) => {
            let place = question.place_to_list().await?;
            (Told { bytes: embedded::names(question), sent: 0 }, Some(place))
        }
        (Request::PortPlease2(_), EpmdBackend::At(_)) => (behind::tell(request, question).await?, None),
        (Request::Names, EpmdBackend::At(_)) => {
            let place = question.place_to_list().await?;
            (behind::tell(request, question).await?, Some(place))
        }
        (Request::Alive2(_) | Request::Dump | Request::Kill | Request::Stop(_), _) => {
            return Err(CloseReason::Refused(Denial::LocalOnly(request.opcode())).into());
        }
    };
    let Told { bytes, sent } = told;
    if bytes.len() > MAX_CARRIED {
        let detail = format!("the list of names is longer than {MAX_CARRIED} bytes");
        return Err(Outcome::from(CloseReason::BackendFault).detail(detail));
    }
    let outcome = Outcome::from(CloseReason::Answered).moved(sent, length(&bytes));
    Ok(Answered { bytes, outcome, place })
}

fn refused(outcome: Outcome) -> Answered {
    let bytes = refusal(outcome.reason);
    let down = length(&bytes);
    Answered { bytes, outcome: outcome.moved(0, down), place: None }
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;

    use super::super::tests::{Guard, config, with_identity};
    use super::*;
    use crate::policy::TlsMode;
    use crate::proto::epmd::{NamesReply, PortReply};

    fn guard(more: &str) -> Guard {
        let peer = format!("[[peer]]\nname = \"h2\"\naddresses = [\"192.0.2.2\"]\n{more}");
        Guard::new(with_identity(config(&peer)))
    }

    async fn ask(guard: &Guard, body: &[u8]) -> (Vec<u8>, &'static str) {
        let session = guard.by_tunnel();
        let Answered { bytes, outcome, .. } = answer(body, &session, &guard.context).await;
        (bytes, outcome.reason.label())
    }

    fn port(answer: &[u8]) -> Option<u16> {
        match PortReply::decode(answer).unwrap() {
            PortReply::Found { port, .. } => Some(port),
            PortReply::NotFound { .. } => None,
        }
    }

    fn listed(answer: &[u8]) -> Vec<(String, u16)> {
        let reply = NamesReply::decode(answer).unwrap();
        reply.names.iter().map(|listed| (listed.name.to_string(), listed.port)).collect()
    }

    #[tokio::test]
    async fn names_are_found_and_listed_as_they_are_for_a_peer() {
        let guard = guard("may_reach = [\"a\", \"b\", \"nobody\"]\n");
        let _held = [("a", 9101), ("b", 9102), ("secret", 9103)].map(|(name, at)| guard.registered(name, at));
        guard.offer(9101, 9101);
        guard.offer(9102, 9202);
        let (found, reason) = ask(&guard, b"zb").await;
        assert_eq!((port(&found), reason), (Some(9202), "answered"));
        let (none, reason) = ask(&guard, b"znobody").await;
        assert_eq!((port(&none), reason), (None, "answered"));
        let (hidden, reason) = ask(&guard, b"zsecret").await;
        assert_eq!((port(&hidden), reason), (None, "not_reachable"));
        let (list, _) = ask(&guard, b"n").await;
        assert_eq!(listed(&list), [("b".to_owned(), 9202), ("a".to_owned(), 9101)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_no_tunnel_can_reach_is_not_found() {
        let guard = guard("");
        let _held = [("a", 9101), ("b", 9102)].map(|(name, at)| guard.registered(name, at));
        let (answer, reason) = ask(&guard, b"za").await;
        assert_eq!((port(&answer), reason), (None, "answered"));
        guard.offer(9101, 9101);
        assert_eq!(port(&ask(&guard, b"za").await.0), Some(9101));
    }

    #[tokio::test]
    async fn the_epmd_behind_us_is_asked_and_answers_the_same() {
        let epmd = Guard::new(config(""));
        let _held = [("a", 9101), ("b", 9102)].map(|(name, at)| epmd.registered(name, at));
        let stop = CancellationToken::new();
        let behind = epmd.serve(&stop);
        let guard = guard(&format!("[epmd]\nbackend = \"{behind}\"\n"));
        guard.offer(9101, 9201);
        let session = guard.by_tunnel();
        let answered = answer(b"za", &session, &guard.context).await;
        assert_eq!(port(&answered.bytes), Some(9201));
        let Outcome { asked, bytes_up, bytes_down, .. } = answered.outcome;
        assert_eq!((asked.unwrap().as_str(), bytes_up, bytes_down), ("PORT_PLEASE2_REQ a", 4, 15));
        let (list, _) = ask(&guard, b"n").await;
        assert_eq!(listed(&list), [("b".to_owned(), 9102), ("a".to_owned(), 9201)]);
        stop.cancel();
        epmd.context.sessions.close();
        epmd.context.sessions.wait().await;
        assert_eq!(ask(&guard, b"za").await, (Vec::new(), "backend_down"));
    }

    #[tokio::test]
    async fn nothing_else_may_be_asked_and_gets_no_answer() {
        let peer = "[epmd]\nregister_from = [\"192.0.2.2\"]\n";
        let guard = guard(peer);
        let alive = b"x\x23\x8c\x4d\0\0\x06\0\x05\0\x01a\0\0";
        for (body, reason) in [
            (&alive[..], "local_only"),
            (b"d", "local_only"),
            (b"k", "local_only"),
            (b"sa", "local_only"),
            (b"GET /", "unknown_opcode"),
            (b"", "malformed"),
            (b"z", "malformed"),
            (b"za b", "malformed"),
        ] {
            assert_eq!(ask(&guard, body).await, (Vec::new(), reason), "{body:?}");
        }
        assert_eq!(guard.context.mapper.count(), 0);
        assert!(!guard.context.killed.is_cancelled());
    }

    #[tokio::test]
    async fn what_has_no_leave_any_more_gets_no_answer() {
        let guard = guard("");
        let _held = guard.registered("a", 9101);
        let session = guard.by_tunnel();
        let ask = async || {
            let answered = answer(b"n", &session, &guard.context).await;
            (answered.bytes.is_empty(), answered.outcome.reason.label())
        };
        assert_eq!(ask().await, (false, "answered"));
        let file = guard.context.snapshot().config.as_ref().clone();

        guard.snapshots.set_intake(Intake::Draining);
        assert_eq!(ask().await, (true, "draining"));
        guard.snapshots.set_intake(Intake::Open);

        let mut off = file.clone();
        off.peers[0].tls = Some(TlsMode::Off);
        guard.reload(off);
        assert_eq!(ask().await, (true, "tls_off"));

        let mut renamed = file.clone();
        renamed.peers[0].identity.clear();
        guard.reload(renamed);
        assert_eq!(ask().await, (true, "unknown_identity"));

        guard.reload(config(""));
        assert_eq!(ask().await, (true, "not_allowed"));

        guard.reload(file);
        assert_eq!(ask().await, (false, "answered"));
    }

    #[tokio::test]
    async fn a_tunnel_that_was_not_identified_gets_no_answer() {
        let guard = guard("");
        let mut session = guard.by_tunnel();
        let policy = &session.snapshot.policy;
        session.admission = policy.admit(&session.arrival, session.role, session.service.audience).unwrap();
        let answered = answer(b"n", &session, &guard.context).await;
        assert_eq!(answered.outcome.reason.label(), "unknown_identity");
        assert!(answered.bytes.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_list_has_its_place_until_it_was_sent() {
        let guard = guard("");
        let session = guard.by_tunnel();
        let mut held = Vec::new();
        for _ in 0..16 {
            held.push(answer(b"n", &session, &guard.context).await);
        }
        assert!(held.iter().all(|answered| answered.outcome.reason == CloseReason::Answered));
        let late = answer(b"n", &session, &guard.context).await;
        assert_eq!((late.bytes.len(), late.outcome.reason), (0, CloseReason::BackendTimeout));
        held.pop();
        assert_eq!(answer(b"n", &session, &guard.context).await.outcome.reason, CloseReason::Answered);
    }
}
