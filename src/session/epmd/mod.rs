//! A question to epmd: read one bounded request, decide, and have it answered in our own words, by the
//! embedded epmd or by the one behind us.

mod behind;
mod embedded;

use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::SemaphorePermit;
use tokio::time::Instant;

use super::close::{CloseReason, Outcome, Party};
use super::connection::Session;
use super::context::Context;
use super::mapper::Origin;
use super::ports::{Ports, Reach, Sighting};
use super::snapshot::Snapshot;
use super::walk::pause;
use crate::config::EpmdBackend;
use crate::policy::{Admission, Denial, Permit, Standing, Withheld};
use crate::proto::epmd::{
    Alive2Reply, AliveName, MAX_REQUEST, Malformed, NodeName, Opcode, PortReply, Request, StopReply, frame,
    opcode, wanted,
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
    let authorized = session.renew(context).and_then(|(snapshot, admission)| {
        let permit = snapshot.policy.authorize_request(&admission, &request)?;
        Ok((snapshot, admission, permit))
    });
    let (snapshot, admission, permit) = match authorized {
        Ok(authorized) => authorized,
        Err(denial) => return refuse(stream, denial, session).await.asked(asked),
    };
    let backend = snapshot.config.epmd.backend;
    let question = Question { session, context, snapshot, admission, permit };
    let served = match backend {
        EpmdBackend::Embedded => embedded::serve(stream, &request, &question).await,
        EpmdBackend::At(_) => behind::serve(stream, &request, &question).await,
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

/// A name that a peer may not reach is not there for it; whatever else is refused gets no answer.
async fn refuse(stream: TcpStream, denial: Denial, session: &Session) -> Outcome {
    let outcome = Outcome::from(CloseReason::Refused(denial));
    if denial != Denial::NotReachable {
        return outcome;
    }
    let answer = PortReply::NotFound { result: 1 }.encode();
    finish(stream, &answer, outcome, session.snapshot.backend_timeout()).await.unwrap_or_else(|failed| failed)
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
    /// What is told of a name that was looked up and has this entry.
    async fn answer_found(&self, entry: PortReply<'_>, origin: Origin) -> Vec<u8> {
        let PortReply::Found { name, port, .. } = entry else { return entry.encode() };
        match self.place_of(name, port, origin).await {
            Some(place) => entry.with_port(|_| place).encode(),
            None => PortReply::NotFound { result: 1 }.encode(),
        }
    }

    /// The port that the name is told to be at; `None`: there is no such name. No answer that names a port leaves
    /// before the port is open; where it cannot be opened the answer goes all the same, since a node on every
    /// address can be reached without us.
    async fn place_of(&self, name: AliveName<'_>, port: u16, origin: Origin) -> Option<u16> {
        let Self { session, context, snapshot, .. } = self;
        let Some(ports) = self.guarded_ports(port) else { return Some(port) };
        let ip = session.arrival.local.ip();
        let otherwise = self.unless_remapped(port);
        let help = match snapshot.policy.offers(name.as_bytes(), port) {
            // The nodes of command-line tools are not to be dialled.
            Err(Withheld::Name) => return otherwise,
            // What listens on this host's loopback is another node, or none.
            Ok(()) | Err(_) if origin == Origin::Elsewhere => return otherwise,
            Err(Withheld::NotListed) => "add the port to [dist] ports, or have the node take one of them",
            Err(Withheld::OutOfRange) => {
                "the port is outside of [dist] range: widen it, or have the node take one within"
            }
            Ok(()) => {
                let sighting = Sighting { name: name.into(), port };
                match ports.reach(ip, sighting, self.admission.standing()).await {
                    Reach::Open(outside) => return Some(outside),
                    Reach::Shut => "see node_exposed, port_taken and port_not_opened in the log",
                    Reach::NotOffered => {
                        "nothing that may be offered listens there on [dist] backend (see port_not_own in the log), or no \
                         port of [dist] outside is left"
                    }
                }
            }
        };
        if context.reminders.is_due("port_not_reachable", port, Instant::now()) {
            let listener = SocketAddr::new(ip, port);
            tracing::warn!(name = name.to_string(), %listener, help, "port_not_reachable");
        }
        otherwise
    }

    /// The port at which a list shows a node; lists do not wait. `None`: it is not shown.
    fn outside_of(&self, inside: u16, origin: Origin) -> Option<u16> {
        let Some(ports) = self.guarded_ports(inside) else { return Some(inside) };
        // A port of ours leads to nodes of this host alone.
        let place = if origin == Origin::Elsewhere {
            None
        } else {
            ports.outside_of(self.session.arrival.local.ip(), inside)
        };
        place.or(self.unless_remapped(inside))
    }

    /// The ports by which nodes are reached at the address where is asked; `None`: where they listen themselves, and
    /// where nobody guards them, they are at their own.
    fn guarded_ports(&self, inside: u16) -> Option<&'a Ports> {
        let is_theirs =
            self.snapshot.config.way_to(inside).backend.contains(&self.session.arrival.local.ip());
        self.context.ports.as_ref().filter(|_| !is_theirs)
    }

    /// A node's own number, for want of a place: where ports are remapped, it may be the place of another node.
    fn unless_remapped(&self, port: u16) -> Option<u16> {
        let policy = &self.snapshot.policy;
        let is_forwarded = policy.forwards().kind_at(port).is_some();
        (is_forwarded || !policy.dist().ports.is_remapped()).then_some(port)
    }

    /// Whether the name is there for who asks.
    fn is_there(&self, name: &NodeName) -> bool {
        self.snapshot.policy.may_reach(&self.admission, Some(name)).is_ok()
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

    async fn place_to_list(&self) -> Result<SemaphorePermit<'a>, Outcome> {
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
