//! Asking the epmd behind us: in our own words, and answering in our own.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Question, Told, length};
use crate::proto::epmd::{
    Alive2, Alive2Reply, AliveName, DumpReply, NamesReply, PortReply, ReplyFault, Request, StopReply,
};
use crate::session::close::{CloseReason, Outcome, Party};
use crate::session::mapper::Origin;
use crate::session::question::{MAX_ANSWER, QuestionError, ask};
use crate::telemetry::describe;
use crate::transport::Upstream;

/// Asks epmd, and passes on what its answer means.
pub(super) async fn serve(
    stream: TcpStream,
    request: &Request<'_>,
    question: &Question<'_>,
) -> Result<Outcome, Outcome> {
    if let Request::Alive2(alive) = request {
        return register(stream, alive, question).await;
    }
    let Told { bytes, sent } = tell(request, question).await?;
    question.finish(stream, &bytes, Outcome::from(CloseReason::Answered).moved(sent, 0)).await
}

/// What is told of what epmd answers, to all but a registration.
pub(super) async fn tell(request: &Request<'_>, question: &Question<'_>) -> Result<Told, Outcome> {
    let timeout = question.snapshot.backend_timeout();
    // KILL ends nothing: epmd is asked whether it holds a name, which is what decides its answer.
    let sent = if let Request::Kill = request { Request::Names } else { *request }.encode();
    let place = question.place_to_ask().await?;
    let upstream = question.dial_epmd().await?;
    let received =
        ask(upstream.into_tcp().map_err(no_socket)?, &sent, timeout, MAX_ANSWER).await.map_err(|error| {
            let reason = match error {
                QuestionError::TimedOut(_) => CloseReason::BackendTimeout,
                QuestionError::Io(_) | QuestionError::TooLong(_) => CloseReason::BackendFault,
            };
            Outcome::from(reason).detail(describe(&error))
        })?;
    drop(place);
    // It does not tell who has registered a name.
    let origin = Origin::Here { uid: None };
    let answer = if let Request::PortPlease2(_) = request {
        match PortReply::decode(&received) {
            Ok(entry) => Ok(question.answer_found(entry, origin).await),
            Err(fault) => Err(fault),
        }
    } else {
        let view = View {
            port: question.session.arrival.local.port().into(),
            outside: |inside| question.outside_of(inside, origin),
            is_there: |name: AliveName<'_>| question.is_there(&name.into()),
        };
        reply_to(request, &received, view)
    };
    let bytes = answer.map_err(|fault| {
        let reason = match fault {
            ReplyFault::Silent => CloseReason::BackendRefused,
            ReplyFault::WrongOpcode(_) | ReplyFault::BadFields => CloseReason::BackendFault,
        };
        Outcome::from(reason).detail(fault.to_string())
    })?;
    Ok(Told { bytes, sent: length(&sent) })
}

/// It was permitted to go to the epmd behind us, where no tunnel leads.
fn no_socket(error: std::io::Error) -> Outcome {
    Outcome::from(CloseReason::BackendFault).detail(error.to_string())
}

impl Question<'_> {
    async fn dial_epmd(&self) -> Result<Upstream, Outcome> {
        self.snapshot.dialer.dial(&self.permit).await.map_err(|error| {
            let cure =
                "start epmd on loopback, for instance by starting a node with ERL_EPMD_ADDRESS=127.0.0.1";
            Outcome::from(CloseReason::BackendDown).detail(format!("{}; {cure}", describe(&error)))
        })
    }
}

/// What who asks is to see.
struct View<O, T> {
    /// The port that was dialled: `erl_epmd` compares them.
    port: u32,
    /// By which port of ours a node's own is reached; `None`: by none.
    outside: O,
    /// Which names are there.
    is_there: T,
}

/// Our own bytes for what epmd answered, where that says all: a name that was looked up also has a place.
fn reply_to(
    request: &Request<'_>,
    received: &[u8],
    view: View<impl Fn(u16) -> Option<u16>, impl Fn(AliveName<'_>) -> bool>,
) -> Result<Vec<u8>, ReplyFault> {
    let View { port, outside, is_there } = view;
    Ok(match request {
        Request::PortPlease2(_) => PortReply::decode(received)?.encode(),
        Request::Names => {
            let mut reply = NamesReply { epmd_port: port, ..NamesReply::decode(received)? };
            reply.names.retain(|listed| is_there(listed.name));
            reply.names.retain_mut(|listed| outside(listed.port).map(|port| listed.port = port).is_some());
            reply.encode()
        }
        Request::Dump => DumpReply { epmd_port: port, ..DumpReply::decode(received)? }.encode(),
        Request::Stop(_) => StopReply::decode(received)?.encode(),
        Request::Kill => match NamesReply::decode(received)? {
            NamesReply { names, skipped: 0, .. } if names.is_empty() => b"OK".to_vec(),
            NamesReply { .. } => b"NO".to_vec(),
        },
        // Not a question: its answer comes while its connection stays open.
        Request::Alive2(_) => Alive2Reply::decode(received)?.ok_or(ReplyFault::BadFields)?.encode(),
    })
}

/// Registers a local node's name at epmd for as long as both connections last.
async fn register(
    mut stream: TcpStream,
    alive: &Alive2<'_>,
    question: &Question<'_>,
) -> Result<Outcome, Outcome> {
    let timeout = question.snapshot.backend_timeout();
    let place = question.place_to_ask().await?;
    let mut upstream = question.dial_epmd().await?.into_tcp().map_err(no_socket)?;
    let sent = Request::Alive2(*alive).encode();
    let reply = tokio::time::timeout(timeout, exchange_alive(&mut upstream, &sent)).await;
    let reply = reply.map_err(|_| Outcome::from(CloseReason::BackendTimeout))??;
    drop(place);
    let bytes = reply.encode();
    if !reply.is_registered() {
        // epmd would keep the connection for ever; the node ignores its end.
        let outcome = Outcome::from(CloseReason::NotRegistered).moved(length(&sent), 0);
        return question.finish(stream, &bytes, outcome).await;
    }
    let mut byte = [0; 1];
    let ended = async {
        // Whatever comes there ends the registration: there is nothing to be said any more.
        drop(upstream.read(&mut byte).await);
        CloseReason::RegistrationEnded(Party::Upstream)
    };
    let reason = question.hold(&mut stream, &bytes, ended).await?;
    Ok(Outcome::from(reason).moved(length(&sent), length(&bytes)))
}

async fn exchange_alive(upstream: &mut TcpStream, sent: &[u8]) -> Result<Alive2Reply, Outcome> {
    let fault = |detail: String| Outcome::from(CloseReason::BackendFault).detail(detail);
    upstream.write_all(sent).await.map_err(|error| fault(error.to_string()))?;
    let mut received = Vec::with_capacity(6);
    loop {
        match Alive2Reply::decode(&received) {
            Ok(Some(reply)) => return Ok(reply),
            Ok(None) => {}
            Err(wrong) => return Err(fault(wrong.to_string())),
        }
        // Byte by byte, so that nothing behind the answer is taken: whatever comes there is the end of the
        // registration.
        let mut byte = [0; 1];
        match upstream.read(&mut byte).await {
            Ok(0) if received.is_empty() => return Err(CloseReason::BackendRefused.into()),
            Ok(0) => return Err(fault(ReplyFault::BadFields.to_string())),
            Ok(_) => received.extend_from_slice(&byte),
            Err(error) => return Err(fault(error.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn same(port: u32) -> View<impl Fn(u16) -> Option<u16>, impl Fn(AliveName<'_>) -> bool> {
        View { port, outside: Some, is_there: |_: AliveName<'_>| true }
    }

    #[test]
    fn kill_is_answered_by_what_epmd_holds_and_never_sent() {
        assert_eq!(reply_to(&Request::Kill, b"\0\0\x11\x11", same(4369)), Ok(b"OK".to_vec()));
        assert_eq!(
            reply_to(&Request::Kill, b"\0\0\x11\x11name a at port 1\n", same(4369)),
            Ok(b"NO".to_vec())
        );
        // A name that cannot be read is a name all the same.
        assert_eq!(
            reply_to(&Request::Kill, b"\0\0\x11\x11name a b at port 1\n", same(4369)),
            Ok(b"NO".to_vec())
        );
    }

    #[test]
    fn names_and_dump_carry_the_port_that_was_dialled() {
        assert_eq!(
            reply_to(&Request::Names, b"\0\0\x11\x11name a at port 1\n", same(5000)).unwrap(),
            b"\0\0\x13\x88name a at port 1\n"
        );
        assert_eq!(reply_to(&Request::Dump, b"\0\0\x11\x11", same(5000)).unwrap(), b"\0\0\x13\x88");
    }

    #[test]
    fn an_answer_of_another_kind_is_not_passed_on() {
        let name = crate::proto::epmd::AliveName::new(b"a").unwrap();
        assert_eq!(
            reply_to(&Request::PortPlease2(name), b"HTTP/1.0", same(1)),
            Err(ReplyFault::WrongOpcode(b'H'))
        );
        assert_eq!(reply_to(&Request::Stop(name), b"", same(1)), Err(ReplyFault::Silent));
    }

    #[test]
    fn a_name_that_is_not_there_is_not_listed() {
        let is_there = |name: AliveName<'_>| name.as_bytes() != b"b";
        let view = View { port: 4369, outside: Some, is_there };
        let listed = b"\0\0\x11\x11name b at port 1\nname a at port 5\n";
        assert_eq!(reply_to(&Request::Names, listed, view).unwrap(), b"\0\0\x11\x11name a at port 5\n");
    }

    #[test]
    fn a_node_that_is_offered_at_another_port_is_listed_there_and_one_without_a_place_is_not() {
        let outside = |port| (port != 7).then_some(if port == 43211 { 9100 } else { port });
        let seen = |port| View { port, outside, is_there: |_: AliveName<'_>| true };
        let listed = b"\0\0\x11\x11name b at port 43211\nname c at port 7\nname a at port 5\n";
        assert_eq!(
            reply_to(&Request::Names, listed, seen(4369)).unwrap(),
            b"\0\0\x11\x11name b at port 9100\nname a at port 5\n"
        );
    }
}
