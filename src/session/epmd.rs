//! A question to epmd: read one bounded request, decide, ask in our own words, answer in our own.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::SemaphorePermit;
use tokio::time::Instant;

use super::close::{CloseReason, Outcome, Party};
use super::connection::Session;
use super::context::Context;
use super::ports::{Reach, Sighting};
use super::question::{MAX_ANSWER, QuestionError, ask};
use super::snapshot::Snapshot;
use crate::policy::{Permit, Withheld};
use crate::proto::epmd::{
    Alive2, Alive2Reply, DumpReply, MAX_REQUEST, Malformed, NamesReply, Opcode, PortReply, ReplyFault,
    Request, StopReply, frame, opcode,
};
use crate::telemetry::describe;
use crate::transport::{Upstream, answer_and_close};

/// Serves one request. epmd answers one and closes, and so do we.
pub(super) async fn serve(mut stream: TcpStream, session: &Session, context: &Context) -> Outcome {
    let mut input = Vec::new();
    let read = tokio::select! {
        read = read_request(&mut stream, &mut input, session) => read,
        () = tokio::time::sleep(session.snapshot.request_timeout()) => Err(CloseReason::RequestTimeout),
        () = context.stop.cancelled() => Err(CloseReason::Stopped),
    };
    if let Err(reason) = read {
        return reason.into();
    }
    let request = match frame(&input).map(Option::unwrap_or_default).and_then(Request::decode) {
        Ok(request) => request,
        Err(malformed) => return refuse_malformed(stream, &input, malformed, session).await,
    };
    let authorized = session.renew(context).and_then(|(snapshot, admission)| {
        let permit = snapshot.policy.authorize_request(&admission, &request)?;
        Ok((snapshot, permit))
    });
    let (snapshot, permit) = match authorized {
        Ok(authorized) => authorized,
        Err(denial) => return CloseReason::Refused(denial).into(),
    };
    let question = Question { session, context, snapshot, permit };
    let asked = describe_request(&request);
    let served = match request {
        Request::Alive2(alive) => register(stream, &alive, &question).await,
        Request::PortPlease2(_) | Request::Names | Request::Dump | Request::Stop(_) | Request::Kill => {
            answer(stream, &request, &question).await
        }
    };
    served.unwrap_or_else(|failed| failed).asked(asked)
}

/// What is told of where a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    /// At this port of ours.
    At(u16),
    /// That there is no such name.
    NotFound,
}

/// A question that may be asked.
struct Question<'a> {
    session: &'a Session,
    context: &'a Context,
    snapshot: Arc<Snapshot>,
    permit: Permit,
}

/// Reads until the frame is whole. Whether the peer may ask for it at all is decided when the opcode
/// has come, so that nobody may hold a connection for something that would be refused anyway.
async fn read_request(
    stream: &mut TcpStream,
    input: &mut Vec<u8>,
    session: &Session,
) -> Result<(), CloseReason> {
    let mut chunk = [0; MAX_REQUEST + 3];
    loop {
        let count = stream.read(&mut chunk).await.map_err(|_| CloseReason::NoRequest)?;
        if count == 0 {
            return Err(CloseReason::NoRequest);
        }
        input.extend_from_slice(chunk.get(..count).unwrap_or_default());
        if let Some(opcode) = opcode(input).map_err(CloseReason::Malformed)? {
            let allowed = session.snapshot.policy.may_ask(&session.admission, opcode);
            allowed.map_err(CloseReason::Refused)?;
        }
        // A frame is never longer than MAX_REQUEST + 2 bytes and anything behind it is an error, so
        // the loop ends before `input` holds two chunks.
        if frame(input).map_err(CloseReason::Malformed)?.is_some() {
            return Ok(());
        }
    }
}

/// epmd has an answer for a registration under a name that cannot be, and none for anything else.
async fn refuse_malformed(
    stream: TcpStream,
    input: &[u8],
    malformed: Malformed,
    session: &Session,
) -> Outcome {
    let outcome = Outcome::from(CloseReason::Malformed(malformed));
    let (Malformed::Name(_), Ok(Some(Opcode::Alive2))) = (malformed, opcode(input)) else { return outcome };
    let highest = match *input {
        [_, _, _, _, _, _, _, h1, h2, ..] => u16::from_be_bytes([h1, h2]),
        _ => return outcome,
    };
    let answer = Alive2Reply::refusal(highest).encode();
    match answer_and_close(stream, &answer, session.snapshot.backend_timeout()).await {
        Ok(()) => outcome.moved(0, length(&answer)),
        Err(error) => Outcome::from(CloseReason::AnswerNotTaken).detail(error.to_string()),
    }
}

fn describe_request(request: &Request<'_>) -> String {
    let opcode = request.opcode();
    match request {
        Request::PortPlease2(name) | Request::Stop(name) => format!("{opcode} {name}"),
        Request::Alive2(alive) => format!("{opcode} {} port {}", alive.name, alive.port),
        Request::Names | Request::Dump | Request::Kill => opcode.to_string(),
    }
}

/// Asks epmd, and passes on what its answer means.
async fn answer(
    stream: TcpStream,
    request: &Request<'_>,
    question: &Question<'_>,
) -> Result<Outcome, Outcome> {
    let Question { session, context, snapshot, .. } = question;
    let timeout = snapshot.backend_timeout();
    // KILL ends nothing: epmd is asked whether it holds a name, which is what decides its answer.
    let sent = if let Request::Kill = request { Request::Names } else { *request }.encode();
    let place = question.place_to_ask().await?;
    let upstream = question.dial_epmd().await?;
    let received = ask(upstream.into_stream(), &sent, timeout, MAX_ANSWER).await.map_err(|error| {
        let reason = match error {
            QuestionError::TimedOut(_) => CloseReason::BackendTimeout,
            QuestionError::Io(_) | QuestionError::TooLong(_) => CloseReason::BackendFault,
        };
        Outcome::from(reason).detail(describe(&error))
    })?;
    drop(place);
    let local = session.arrival.local;
    let told = question.offered_port(request, &received).await;
    let received =
        if told == Some(Told::NotFound) { PortReply::NotFound { result: 1 }.encode() } else { received };
    let outside = |inside| match told {
        Some(Told::At(port)) => port,
        Some(Told::NotFound) | None => context.ports.outside_of(local.ip(), inside).unwrap_or(inside),
    };
    let bytes = reply_to(request, &received, local.port().into(), outside).map_err(|fault| {
        let reason = match fault {
            ReplyFault::Silent => CloseReason::BackendRefused,
            ReplyFault::WrongOpcode(_) | ReplyFault::BadFields => CloseReason::BackendFault,
        };
        Outcome::from(reason).detail(fault.to_string())
    })?;
    let moved = (length(&sent), length(&bytes));
    match answer_and_close(stream, &bytes, timeout).await {
        Ok(()) => Ok(Outcome::from(CloseReason::Answered).moved(moved.0, moved.1)),
        Err(error) => Err(Outcome::from(CloseReason::AnswerNotTaken).detail(error.to_string())),
    }
}

impl<'a> Question<'a> {
    /// The port that the name is told to be at. No answer that names a port leaves before the port is open;
    /// where it cannot be opened the answer goes all the same, since a node on every address can be reached
    /// without us. Where ports are remapped, the node's own number may be another node's on the outside.
    async fn offered_port(&self, request: &Request<'_>, received: &[u8]) -> Option<Told> {
        let Request::PortPlease2(name) = request else { return None };
        let Ok(PortReply::Found { port, .. }) = PortReply::decode(received) else { return None };
        let Self { session, context, snapshot, .. } = self;
        let ip = session.arrival.local.ip();
        let rules = snapshot.policy.dist();
        let otherwise = if rules.ports.is_remapped() { Told::NotFound } else { Told::At(port) };
        let help = match rules.offers(name.as_bytes(), port) {
            // The nodes of command-line tools are not to be dialled.
            Err(Withheld::Name) => return Some(otherwise),
            Err(Withheld::NotListed) => "add the port to [dist] ports, or have the node take one of them",
            Err(Withheld::OutOfRange) => {
                "the port is outside of [dist] range: widen it, or have the node take one within"
            }
            Ok(()) => {
                let sighting = Sighting { name: (*name).into(), port };
                match context.ports.reach(ip, sighting, session.admission.standing()).await {
                    Reach::Open(outside) => return Some(Told::At(outside)),
                    Reach::Shut => "see node_exposed, port_taken and port_not_opened in the log",
                    Reach::NotOffered => {
                        "nothing listens there on [dist] backend, or no port of [dist] outside is left"
                    }
                }
            }
        };
        if context.reminders.is_due("port_not_reachable", port, Instant::now()) {
            let listener = SocketAddr::new(ip, port);
            tracing::warn!(name = name.to_string(), %listener, help, "port_not_reachable");
        }
        Some(otherwise)
    }

    async fn place_to_ask(&self) -> Result<SemaphorePermit<'a>, Outcome> {
        let place = self.context.place_to_ask(self.session.admission.standing()).await;
        place.ok_or_else(|| {
            Outcome::from(CloseReason::BackendTimeout).detail("too many questions wait for epmd")
        })
    }

    async fn dial_epmd(&self) -> Result<Upstream, Outcome> {
        self.snapshot.dialer.dial(&self.permit).await.map_err(|error| {
            let cure =
                "start epmd on loopback, for instance by starting a node with ERL_EPMD_ADDRESS=127.0.0.1";
            Outcome::from(CloseReason::BackendDown).detail(format!("{}; {cure}", describe(&error)))
        })
    }
}

/// Our own bytes for what epmd answered. The port of NAMES and DUMP is the one that was dialled:
/// `erl_epmd` compares them. `outside` tells by which port of ours a node's own is reached.
fn reply_to(
    request: &Request<'_>,
    received: &[u8],
    port: u32,
    outside: impl Fn(u16) -> u16,
) -> Result<Vec<u8>, ReplyFault> {
    Ok(match request {
        Request::PortPlease2(_) => PortReply::decode(received)?.with_port(outside).encode(),
        Request::Names => {
            let mut reply = NamesReply { epmd_port: port, ..NamesReply::decode(received)? };
            for listed in &mut reply.names {
                listed.port = outside(listed.port);
            }
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
    let mut upstream = question.dial_epmd().await?.into_stream();
    let sent = Request::Alive2(*alive).encode();
    let reply = tokio::time::timeout(timeout, exchange_alive(&mut upstream, &sent)).await;
    let reply = reply.map_err(|_| Outcome::from(CloseReason::BackendTimeout))??;
    drop(place);
    let bytes = reply.encode();
    let moved = (length(&sent), length(&bytes));
    if !reply.is_registered() {
        // epmd would keep the connection for ever; the node ignores its end.
        return match answer_and_close(stream, &bytes, timeout).await {
            Ok(()) => Ok(Outcome::from(CloseReason::NotRegistered).moved(moved.0, moved.1)),
            Err(error) => Err(Outcome::from(CloseReason::AnswerNotTaken).detail(error.to_string())),
        };
    }
    let written = tokio::time::timeout(timeout, stream.write_all(&bytes)).await;
    if !matches!(written, Ok(Ok(()))) {
        return Err(CloseReason::AnswerNotTaken.into());
    }
    // Whatever comes on either connection ends the registration, as it does in epmd: there is
    // nothing to be said any more.
    let (mut down_byte, mut up_byte) = ([0; 1], [0; 1]);
    let reason = tokio::select! {
        _ = stream.read(&mut down_byte) => CloseReason::RegistrationEnded(Party::Downstream),
        _ = upstream.read(&mut up_byte) => CloseReason::RegistrationEnded(Party::Upstream),
        () = question.context.stop.cancelled() => CloseReason::Stopped,
    };
    Ok(Outcome::from(reason).moved(moved.0, moved.1))
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

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

impl From<Malformed> for CloseReason {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn same(port: u16) -> u16 {
        port
    }

    #[test]
    fn kill_is_answered_by_what_epmd_holds_and_never_sent() {
        assert_eq!(reply_to(&Request::Kill, b"\0\0\x11\x11", 4369, same), Ok(b"OK".to_vec()));
        assert_eq!(
            reply_to(&Request::Kill, b"\0\0\x11\x11name a at port 1\n", 4369, same),
            Ok(b"NO".to_vec())
        );
        // A name that cannot be read is a name all the same.
        assert_eq!(
            reply_to(&Request::Kill, b"\0\0\x11\x11name a b at port 1\n", 4369, same),
            Ok(b"NO".to_vec())
        );
    }

    #[test]
    fn names_and_dump_carry_the_port_that_was_dialled() {
        assert_eq!(
            reply_to(&Request::Names, b"\0\0\x11\x11name a at port 1\n", 5000, same).unwrap(),
            b"\0\0\x13\x88name a at port 1\n"
        );
        assert_eq!(reply_to(&Request::Dump, b"\0\0\x11\x11", 5000, same).unwrap(), b"\0\0\x13\x88");
    }

    #[test]
    fn an_answer_of_another_kind_is_not_passed_on() {
        let name = crate::proto::epmd::AliveName::new(b"a").unwrap();
        assert_eq!(
            reply_to(&Request::PortPlease2(name), b"HTTP/1.0", 1, same),
            Err(ReplyFault::WrongOpcode(b'H'))
        );
        assert_eq!(reply_to(&Request::Stop(name), b"", 1, same), Err(ReplyFault::Silent));
    }

    #[test]
    fn a_node_that_is_offered_at_another_port_is_told_to_be_there() {
        let outside = |port| if port == 43211 { 9100 } else { port };
        let found = |port: &[u8]| [b"w\0", port, b"\x4d\0\0\x06\0\x05\0\x01a\0\0"].concat();
        let name = crate::proto::epmd::AliveName::new(b"a").unwrap();
        let told = reply_to(&Request::PortPlease2(name), &found(b"\xa8\xcb"), 1, outside);
        assert_eq!(told.unwrap(), found(b"\x23\x8c"));
        let listed = b"\0\0\x11\x11name b at port 43211\nname a at port 5\n";
        assert_eq!(
            reply_to(&Request::Names, listed, 4369, outside).unwrap(),
            b"\0\0\x11\x11name b at port 9100\nname a at port 5\n"
        );
    }
}
