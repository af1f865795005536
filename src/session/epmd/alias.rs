//! A question at an address of this host that stands for a peer: the guard of that peer is asked, and the port of its
//! node is opened here before the answer names it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::Instant;

use super::{Question, length, not_found};
use crate::proto::epmd::{AliveName, NamesReply, Opcode, PortReply, ReplyFault, Request};
use crate::session::AskError;
use crate::session::close::{CloseReason, Outcome};
use crate::session::ports::Reach;
use crate::telemetry::describe;

/// For the peer's whole answer. A node that looks a name up gives the whole set-up 7 s (`net_kernel:connecttime`), of
/// which opening the port may take 1 s more.
const ASKING: Duration = Duration::from_secs(4);

/// Whether it can be asked of a peer. Names are registered, and epmd is told what to do, on its own host.
pub(super) fn may_be_asked(opcode: Opcode) -> Result<(), CloseReason> {
    match opcode {
        // What is none is told as such.
        Opcode::PortPlease2 | Opcode::Names | Opcode::Unknown(_) => Ok(()),
        Opcode::Alive2 | Opcode::Dump | Opcode::Kill | Opcode::Stop => Err(CloseReason::NotAtAlias(opcode)),
    }
}

/// Asks the peer, and passes on what its answer means here.
pub(super) async fn serve(
    stream: TcpStream,
    request: &Request<'_>,
    peer: &Arc<str>,
    question: &Question<'_>,
) -> Result<Outcome, Outcome> {
    may_be_asked(request.opcode())?;
    let frame = request.encode();
    let body = frame.get(2..).unwrap_or_default();
    let received = ask(body, peer, question).await?;
    let sent = length(body);
    let not_an_answer = |fault| not_an_answer(peer, fault);
    if let Request::PortPlease2(_) = request {
        let entry = PortReply::decode(&received).map_err(not_an_answer)?;
        let answer = question.answer_at_alias(entry, peer).await;
        question.finish(stream, &answer, Outcome::from(CloseReason::Answered).moved(sent, 0)).await
    } else {
        let reply = names(&received, question.session.arrival.local.port()).map_err(not_an_answer)?;
        let outcome = question.finish_list(stream, || reply.encode()).await?;
        let down = outcome.bytes_down;
        Ok(outcome.moved(sent, down))
    }
}

/// The answer, within a time that leaves the node enough of its own for the rest.
async fn ask(body: &[u8], peer: &str, question: &Question<'_>) -> Result<Vec<u8>, Outcome> {
    let asking = question.context.ask_peer(&question.permit, &question.snapshot, body);
    let (reason, error) = match tokio::time::timeout(ASKING, asking).await {
        Ok(Ok(received)) => return Ok(received),
        // A refusal has a reason of its own, so that another one than before is told at once.
        Ok(Err(AskError::Refused { reason, why })) => (CloseReason::LegFailed(reason), why),
        Ok(Err(error)) => (CloseReason::NoWay, describe(&error)),
        Err(_) => (CloseReason::NoWay, format!("no answer within {}", humantime::format_duration(ASKING))),
    };
    Err(Outcome::from(reason).detail(format!("asking the guard of {peer}: {error}")))
}

fn not_an_answer(peer: &str, fault: ReplyFault) -> Outcome {
    match fault {
        ReplyFault::Silent => Outcome::from(CloseReason::BackendRefused)
            .detail(format!("the guard of {peer} gave no answer; its own log says why")),
        ReplyFault::WrongOpcode(_) | ReplyFault::BadFields => Outcome::from(CloseReason::BackendFault)
            .detail(format!("the answer of the guard of {peer}: {fault}")),
    }
}

/// The peer's list as it is, but for the port that was dialled: `erl_epmd` compares them.
fn names(received: &[u8], dialled: u16) -> Result<NamesReply<'_>, ReplyFault> {
    Ok(NamesReply { epmd_port: dialled.into(), ..NamesReply::decode(received)? })
}

/// The peer's answer with the port by which the node is reached here; where it is not, there is no such name.
fn reached(entry: PortReply<'_>, reach: Reach) -> Vec<u8> {
    match reach {
        Reach::Open(here) => entry.with_port(|_| here).encode(),
        Reach::Shut | Reach::NotOffered => not_found(),
    }
}

impl Question<'_> {
    /// What is told of a name for which the peer has this entry. Its port is open at the alias before.
    async fn answer_at_alias(&self, entry: PortReply<'_>, peer: &Arc<str>) -> Vec<u8> {
        let PortReply::Found { name, port, .. } = entry else { return entry.encode() };
        let Some(ports) = self.context.ports.as_ref().filter(|_| port != 0) else { return not_found() };
        let alias = self.session.arrival.local.ip();
        let reach = ports.open_way(alias, peer, port).await;
        let help = match reach {
            Reach::Open(_) => None,
            Reach::Shut => Some("see port_taken and port_not_opened in the log"),
            Reach::NotOffered => {
                Some("the port was not opened within 1 s, or so many are open for peers that no more are")
            }
        };
        if let Some(help) = help {
            self.warn_of(peer, name, SocketAddr::new(alias, port), help);
        }
        reached(entry, reach)
    }

    fn warn_of(&self, peer: &str, name: AliveName<'_>, listener: SocketAddr, help: &str) {
        if self.context.reminders.is_due("way_not_open", listener.port(), Instant::now()) {
            tracing::warn!(peer, name = name.to_string(), %listener, help, "way_not_open");
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::super::tests::{Guard, config, connection};
    use super::*;
    use crate::session::connection::Session;

    const FOUND: &[u8] = b"w\0\x23\x8c\x4d\0\0\x06\0\x05\0\x02n1\0\0";

    fn guard() -> Guard {
        Guard::new(config("[[peer]]\nname = \"h2\"\naddresses = [\"192.0.2.2\"]\n"))
    }

    /// What becomes of a request, which gets no answer.
    async fn unanswered(guard: &Guard, session: &Session, request: &[u8]) -> Outcome {
        let (mut node, stream) = connection().await;
        node.write_all(request).await.unwrap();
        let outcome = super::super::serve(stream, session, &guard.context).await;
        let mut answer = Vec::new();
        node.read_to_end(&mut answer).await.unwrap_or_default();
        assert_eq!(answer, b"");
        outcome
    }

    #[tokio::test]
    async fn a_peer_that_cannot_be_asked_is_a_close_at_once_and_a_reason() {
        let guard = guard();
        for request in [&b"\0\x03zn1"[..], b"\0\x01n"] {
            let outcome = unanswered(&guard, &guard.at_alias("h2"), request).await;
            assert_eq!(outcome.reason, CloseReason::NoWay);
            assert!(outcome.detail.unwrap().contains("h2"));
            assert!(outcome.asked.is_some());
        }
    }

    #[tokio::test]
    async fn what_is_for_the_epmd_of_this_host_is_refused_before_its_request_is_whole() {
        let guard = guard();
        for (opcode, name) in
            [(b'x', "ALIVE2_REQ"), (b'd', "DUMP_REQ"), (b'k', "KILL_REQ"), (b's', "STOP_REQ")]
        {
            let outcome = unanswered(&guard, &guard.at_alias("h2"), &[0, 99, opcode]).await;
            assert_eq!(outcome.reason.label(), "not_at_alias");
            let detail = outcome.detail.unwrap();
            assert!(detail.contains(name) && detail.contains("127.0.0.1"), "{detail}");
        }
        let outcome = unanswered(&guard, &guard.at_alias("h2"), &[0, 99, b'G']).await;
        assert_eq!(outcome.reason.label(), "unknown_opcode");
        assert_eq!(guard.context.mapper.count(), 0);
    }

    #[tokio::test]
    async fn a_peer_that_a_reload_took_out_or_put_elsewhere_is_not_asked() {
        let guard = guard();
        let session = guard.at_alias("h2");
        guard.reload(config(""));
        let outcome = unanswered(&guard, &session, b"\0\x01n").await;
        assert_eq!(outcome.reason.label(), "port_not_offered");
        let mut session = guard.at_alias("h2");
        session.service.toward = Some("h3".into());
        let outcome = unanswered(&guard, &session, b"\0\x01n").await;
        assert_eq!(outcome.reason.label(), "port_not_offered");
    }

    #[tokio::test]
    async fn a_name_whose_port_is_not_open_here_is_not_found() {
        let guard = guard();
        let session = guard.at_alias("h2");
        let asked = Request::Names;
        let question = Question::authorize(&asked, &session, &guard.context).unwrap();
        let peer = "h2".into();
        let entry = PortReply::decode(FOUND).unwrap();
        assert_eq!(question.answer_at_alias(entry, &peer).await, b"w\x01");
        let none = PortReply::NotFound { result: 3 };
        assert_eq!(question.answer_at_alias(none, &peer).await, b"w\x03");
        // A port 0 would be any.
        let zero = entry.with_port(|_| 0);
        assert_eq!(question.answer_at_alias(zero, &peer).await, b"w\x01");
    }

    #[test]
    fn the_answer_has_the_port_that_was_opened_here() {
        let entry = PortReply::decode(FOUND).unwrap();
        assert_eq!(reached(entry, Reach::Open(9100)), FOUND);
        assert_eq!(reached(entry, Reach::Open(9200)), entry.with_port(|_| 9200).encode());
        for none in [Reach::Shut, Reach::NotOffered] {
            assert_eq!(reached(entry, none), b"w\x01");
        }
    }

    #[test]
    fn the_list_is_the_peers_with_the_port_that_was_dialled() {
        let list = b"\0\0\x11\x13name b at port 9101\nname a at port 9100\n";
        let told = names(list, 4369).unwrap().encode();
        assert_eq!(told, b"\0\0\x11\x11name b at port 9101\nname a at port 9100\n");
        assert_eq!(names(b"", 4369), Err(ReplyFault::Silent));
    }

    #[test]
    fn what_is_no_answer_says_whose() {
        let refused = not_an_answer("h2", ReplyFault::Silent);
        assert_eq!(refused.reason, CloseReason::BackendRefused);
        assert!(refused.detail.unwrap().contains("h2"));
        let fault = not_an_answer("h2", ReplyFault::WrongOpcode(b'H'));
        assert_eq!(fault.reason, CloseReason::BackendFault);
        assert!(fault.detail.unwrap().contains("begins with 72"));
    }
}
