//! A question to epmd: read one bounded request, decide, and have it answered in our own words, by the
//! embedded epmd, by the one behind us, or by the guard of a peer, where its address stands for that.

mod alias;
mod answer;
mod behind;
mod embedded;
mod places;
#[cfg(test)]
mod tests;

pub(super) use answer::answer;

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, SemaphorePermit};

use super::close::{CloseReason, Outcome, Party};
use super::connection::Session;
use super::context::Context;
use super::snapshot::Snapshot;
use super::walk::pause;
use crate::config::EpmdBackend;
use crate::policy::{Admission, Denial, Permit, Standing};
use crate::proto::epmd::{
    Alive2Reply, MAX_REQUEST, Malformed, Opcode, PortReply, Request, StopReply, frame, opcode, wanted,
};
use crate::transport::{answer_and_close, keep_alive};

/// Serves one request. epmd answers one and closes, and so do we.
pub(super) async fn serve(mut stream: TcpStream, session: &Session, context: &Context) -> Outcome {
    let mut input = Vec::new();
    let read = tokio::select! {
        biased;
        () = context.stop.cancelled() => Err(CloseReason::Stopped),
        read = read_request(&mut stream, &mut input, session) => read,
        () = tokio::time::sleep(session.snapshot.request_timeout()) => Err(CloseReason::RequestTimeout),
    };
    if let Err(reason) = read {
        return reason.into();
    }
    let request = match frame(&input).map(Option::unwrap_or_default).and_then(Request::decode) {
        Ok(request) => request,
        Err(malformed) => return refuse_malformed(stream, &input, malformed, session).await,
    };
    let asked = describe_request(&request);
    let question = match Question::authorize(&request, session, context) {
        Ok(question) => question,
        Err(denial) => return refuse(stream, denial, session).await.asked(asked),
    };
    let served = match (&session.service.toward, question.snapshot.config.epmd.backend) {
        (Some(peer), _) => alias::serve(stream, &request, peer, &question).await,
        (None, EpmdBackend::Embedded) => embedded::serve(stream, &request, &question).await,
        (None, EpmdBackend::At(_)) => behind::serve(stream, &request, &question).await,
    };
    served.unwrap_or_else(|failed| failed).asked(asked)
}

/// A question that may be asked.
struct Question<'a> {
    session: &'a Session,
    context: &'a Context,
    snapshot: Arc<Snapshot>,
    /// That of `snapshot`.
    admission: Admission,
    permit: Permit,
}

/// What is told, and what it took to know it.
struct Told {
    /// The answer.
    bytes: Vec<u8>,
    /// So many bytes went to epmd.
    sent: u64,
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
        // What comes with the length is judged with it; once it is known, what follows the frame is not read,
        // as epmd does not read it (`epmd_srv.c:do_read`).
        let most = wanted(input).map_err(CloseReason::Malformed)?;
        let part = chunk.get_mut(..most.unwrap_or(MAX_REQUEST + 3)).unwrap_or_default();
        let count = stream.read(part).await.map_err(|_| CloseReason::NoRequest)?;
        if count == 0 {
            return Err(CloseReason::NoRequest);
        }
        input.extend_from_slice(part.get(..count).unwrap_or_default());
        if let Some(opcode) = opcode(input).map_err(CloseReason::Malformed)? {
            may_ask(session, opcode)?;
        }
        // A frame is never longer than MAX_REQUEST + 2 bytes and anything behind it is an error, so
        // the loop ends before `input` holds two chunks.
        if frame(input).map_err(CloseReason::Malformed)?.is_some() {
            return Ok(());
        }
    }
}

/// Whether the peer may ask that where it does.
fn may_ask(session: &Session, opcode: Opcode) -> Result<(), CloseReason> {
    if session.service.toward.is_some() {
        alias::may_be_asked(opcode)?;
    }
    session.snapshot.policy.may_ask(&session.admission, opcode).map_err(CloseReason::Refused)
}

/// epmd has an answer for a registration under a name that cannot be, and for throwing one out, and none for anything
/// else.
async fn refuse_malformed(
    stream: TcpStream,
    input: &[u8],
    malformed: Malformed,
    session: &Session,
) -> Outcome {
    let outcome = Outcome::from(CloseReason::Malformed(malformed));
    let Malformed::Name(_) = malformed else { return outcome };
    let answer = match (opcode(input), input) {
        (Ok(Some(Opcode::Alive2)), [_, _, _, _, _, _, _, h1, h2, ..]) => {
            Alive2Reply::refusal(u16::from_be_bytes([*h1, *h2])).encode()
        }
        (Ok(Some(Opcode::Stop)), _) => StopReply::NoExist.encode(),
        _ => return outcome,
    };
    finish(stream, &answer, outcome, session.snapshot.backend_timeout()).await.unwrap_or_else(|failed| failed)
}

/// Ends a connection whose request may not be asked.
async fn refuse(stream: TcpStream, denial: Denial, session: &Session) -> Outcome {
    let outcome = Outcome::from(CloseReason::Refused(denial));
    let answer = refusal(outcome.reason);
    if answer.is_empty() {
        return outcome;
    }
    finish(stream, &answer, outcome, session.snapshot.backend_timeout()).await.unwrap_or_else(|failed| failed)
}

/// A name that a peer may not reach is not there for it; whatever else is refused gets no answer.
fn refusal(reason: CloseReason) -> Vec<u8> {
    if reason == CloseReason::Refused(Denial::NotReachable) { not_found() } else { Vec::new() }
}

/// What epmd says of a name that it does not have.
fn not_found() -> Vec<u8> {
    PortReply::NotFound { result: 1 }.encode()
}

fn describe_request(request: &Request<'_>) -> String {
    let opcode = request.opcode();
    match request {
        Request::PortPlease2(name) | Request::Stop(name) => format!("{opcode} {name}"),
        Request::Alive2(alive) => format!("{opcode} {} port {}", alive.name, alive.port),
        Request::Names | Request::Dump | Request::Kill => opcode.to_string(),
    }
}

impl<'a> Question<'a> {
    /// Asks the generation in force whether the request may go where the listener leads.
    fn authorize(request: &Request<'_>, session: &'a Session, context: &'a Context) -> Result<Self, Denial> {
        let (snapshot, admission) = session.renew(context)?;
        let toward = &session.service.toward;
        // A reload may have taken the peer out since the connection was accepted, or put another one there.
        let has_gone = Denial::PortNotOffered(session.arrival.local.port());
        if session.current.borrow().toward != *toward {
            return Err(has_gone);
        }
        let policy = &snapshot.policy;
        let permit = match toward {
            None => policy.authorize_request(&admission, request)?,
            Some(peer) => {
                policy.authorize_way(&admission, snapshot.peer_called(peer).ok_or(has_gone)?, None)?
            }
        };
        Ok(Self { session, context, snapshot, admission, permit })
    }

    async fn place_to_ask(&self) -> Result<SemaphorePermit<'a>, Outcome> {
        let place = self.context.place_to_ask(self.admission.standing()).await;
        place.ok_or_else(|| {
            Outcome::from(CloseReason::BackendTimeout).detail("too many questions at one time")
        })
    }

    /// Sends a list, which may be long, and whoever asks slow to take it: few at a time.
    async fn finish_list(
        &self,
        stream: TcpStream,
        list: impl FnOnce() -> Vec<u8>,
    ) -> Result<Outcome, Outcome> {
        let place = self.place_to_list().await?;
        let mut stream = stream;
        pause(self.context.habits.delay_write).await;
        let bytes = list();
        let written = tokio::time::timeout(self.snapshot.backend_timeout(), stream.write_all(&bytes)).await;
        drop(place);
        if !matches!(written, Ok(Ok(()))) {
            return Err(CloseReason::AnswerNotTaken.into());
        }
        let outcome = Outcome::from(CloseReason::Answered).moved(0, length(&bytes));
        drop(bytes);
        // What is left is to close so that it arrives.
        finish(stream, &[], outcome, self.snapshot.backend_timeout()).await
    }

    async fn place_to_list(&self) -> Result<OwnedSemaphorePermit, Outcome> {
        let place = self.context.place_to_list(self.admission.standing()).await;
        place.ok_or_else(|| {
            Outcome::from(CloseReason::BackendTimeout).detail("too many lists are asked for at one time")
        })
    }

    /// Sends the last answer of a connection.
    async fn finish(&self, stream: TcpStream, bytes: &[u8], outcome: Outcome) -> Result<Outcome, Outcome> {
        pause(self.context.habits.delay_write).await;
        finish(stream, bytes, outcome, self.snapshot.backend_timeout()).await
    }

    /// Tells a node that its name is registered, and keeps the connection for as long as the name is to be:
    /// whatever comes on it ends that, as it does in epmd, and so does `ended`. The caller releases the name
    /// before it closes: who sees the close may register again.
    async fn hold(
        &self,
        stream: &mut TcpStream,
        reply: &[u8],
        ended: impl Future<Output = CloseReason>,
    ) -> Result<CloseReason, Outcome> {
        if self.admission.standing() != Standing::Itself {
            // Nothing tells of the end of a host that is gone.
            keep_alive(stream);
        }
        pause(self.context.habits.delay_write).await;
        let written = tokio::time::timeout(self.snapshot.backend_timeout(), stream.write_all(reply)).await;
        if !matches!(written, Ok(Ok(()))) {
            return Err(CloseReason::AnswerNotTaken.into());
        }
        let mut byte = [0; 1];
        Ok(tokio::select! {
            _ = stream.read(&mut byte) => CloseReason::RegistrationEnded(Party::Downstream),
            reason = ended => reason,
            denial = self.revoked() => CloseReason::Revoked(denial),
            () = self.context.stop.cancelled() => CloseReason::Stopped,
            () = self.context.disown.cancelled() => CloseReason::Stopped,
        })
    }

    /// Waits until a reload takes the right to hold a name away.
    async fn revoked(&self) -> Denial {
        if self.admission.standing() == Standing::Itself {
            return std::future::pending().await;
        }
        let mut generations = self.context.generations();
        loop {
            let now = Arc::clone(&generations.borrow_and_update());
            if let Err(denial) = now.policy.keeps_name(&self.admission) {
                return denial;
            }
            if generations.changed().await.is_err() {
                // Nobody changes anything any more.
                std::future::pending::<()>().await;
            }
        }
    }
}

/// Sends the last answer of a connection, and closes.
async fn finish(
    stream: TcpStream,
    bytes: &[u8],
    outcome: Outcome,
    timeout: Duration,
) -> Result<Outcome, Outcome> {
    match answer_and_close(stream, bytes, timeout).await {
        Ok(()) => {
            let (up, down) = (outcome.bytes_up, outcome.bytes_down);
            Ok(outcome.moved(up, down + length(bytes)))
        }
        Err(error) => Err(Outcome::from(CloseReason::AnswerNotTaken).detail(error.to_string())),
    }
}

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

/// The number that DUMP tells.
fn descriptor(stream: &TcpStream) -> i32 {
    stream.as_raw_fd()
}

impl From<Malformed> for CloseReason {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}
