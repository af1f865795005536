//! Answering as the epmd that we are.

use tokio::net::TcpStream;
use tokio::task::spawn_blocking;

use super::{Question, descriptor, length, not_found};
use crate::policy::{Arrival, Denial, Standing};
use crate::proto::epmd::{
    Alive2, Alive2Reply, AliveName, DumpEntry, DumpReply, Listed, NamesReply, NodeName, Request, StopReply,
};
use crate::registry::Refused;
use crate::session::close::{CloseReason, Outcome};
use crate::session::context::OnKill;
use crate::session::mapper::Origin;
use crate::session::ports::PATIENCE;
use crate::transport::sockets;

/// Answers from the table of names.
pub(super) async fn serve(
    stream: TcpStream,
    request: &Request<'_>,
    question: &Question<'_>,
) -> Result<Outcome, Outcome> {
    match request {
        Request::Alive2(alive) => register(stream, alive, question).await,
        Request::PortPlease2(name) => {
            let answer = look_up(*name, question).await;
            question.finish(stream, &answer, CloseReason::Answered.into()).await
        }
        Request::Names => question.finish_list(stream, || names(question)).await,
        Request::Dump => question.finish_list(stream, || dump(question)).await,
        Request::Kill => kill(stream, question).await,
        Request::Stop(name) => {
            let stopped = question.context.mapper.stop(&question.permit, name.as_bytes());
            let reply = if stopped { StopReply::Stopped } else { StopReply::NoExist };
            question.finish(stream, &reply.encode(), CloseReason::Answered.into()).await
        }
    }
}

/// Registers a name for as long as its connection lasts. The answer goes when the node can be reached.
async fn register(
    mut stream: TcpStream,
    alive: &Alive2<'_>,
    question: &Question<'_>,
) -> Result<Outcome, Outcome> {
    let origin = origin(question).await;
    let mapper = &question.context.mapper;
    let registered = mapper.register(&question.permit, alive, descriptor(&stream), origin);
    let registration = match registered {
        Ok(registration) => registration,
        Err(refused) => {
            // epmd would keep the connection for ever; the node ignores its end.
            let reason = match refused {
                Refused::Taken => CloseReason::NotRegistered,
                Refused::Full => CloseReason::Refused(Denial::TooManyNames),
            };
            let answer = Alive2Reply::refusal(alive.highest).encode();
            return question.finish(stream, &answer, reason.into()).await;
        }
    };
    let is_offered = question.snapshot.policy.offers(alive.name.as_bytes(), alive.port).is_ok();
    if is_offered && origin != Origin::Elsewhere && question.context.ports.is_some() {
        registration.followed(PATIENCE).await;
    }
    let reply = Alive2Reply::success(alive.highest, registration.creation).encode();
    let stopped = async {
        registration.stopped().await;
        CloseReason::Unregistered
    };
    let held = question.hold(&mut stream, &reply, stopped).await;
    // Before the connection is closed: see `hold`.
    drop(registration);
    let reason = held?;
    Ok(Outcome::from(reason).moved(0, length(&reply)))
}

/// Where the node is that registers, and whose it is.
async fn origin(question: &Question<'_>) -> Origin {
    match question.admission.standing() {
        Standing::Itself if question.context.ports.is_some() => {
            let Arrival { peer, local } = question.session.arrival;
            let asking = spawn_blocking(move || sockets::owner(peer.socket(), local.socket()));
            // What the kernel does not tell in time is not known.
            let told = tokio::time::timeout(PATIENCE, asking).await;
            Origin::Here { uid: told.ok().and_then(Result::ok).and_then(Result::ok) }
        }
        // Nobody offers its port.
        Standing::Itself => Origin::Here { uid: None },
        Standing::NamedPeer(_) | Standing::NetworkPeer(_) | Standing::Registrant => Origin::Elsewhere,
    }
}

/// What is told of a name.
pub(super) async fn look_up(name: AliveName<'_>, question: &Question<'_>) -> Vec<u8> {
    let mapper = &question.context.mapper;
    let Some(found) = mapper.find(&question.permit, name.as_bytes()) else {
        return not_found();
    };
    question.answer_found(found.entry.port_reply(), found.origin).await
}

/// The list of the names, as who asks is to see it.
pub(super) fn names(question: &Question<'_>) -> Vec<u8> {
    // Only what is listed is taken while the table is locked: look-ups wait for it.
    let all: Vec<(NodeName, u16, Origin)> = question.context.mapper.read(&question.permit, |held| {
        let newest_first = held.registry.newest_first();
        newest_first
            .filter_map(|(lease, entry)| Some((entry.name.clone(), entry.port, held.origin_of(lease)?)))
            .collect()
    });
    let there = all.iter().filter(|(name, ..)| question.is_there(name));
    let listed = there.filter_map(|(name, port, origin)| {
        Some(Listed { name: name.as_alive(), port: question.outside_of(*port, *origin)? })
    });
    NamesReply { epmd_port: epmd_port(question), names: listed.collect(), skipped: 0 }.encode()
}

fn dump(question: &Question<'_>) -> Vec<u8> {
    question.context.mapper.read(&question.permit, |held| {
        let live = held.registry.newest_first().map(|(_, entry)| DumpEntry {
            active: true,
            name: entry.name.as_alive(),
            port: entry.port,
            fd: entry.fd,
        });
        let former = held.registry.former().map(|former| DumpEntry {
            active: false,
            name: former.name.as_alive(),
            port: former.port,
            fd: former.fd,
        });
        DumpReply { epmd_port: epmd_port(question), entries: live.chain(former).collect(), skipped: 0 }
            .encode()
    })
}

/// The port that was dialled: `erl_epmd` compares them.
fn epmd_port(question: &Question<'_>) -> u32 {
    question.session.arrival.local.port().into()
}

/// A daemon ends for nobody: tools ask for it whenever no name is left. Who was started as `epmd` ends as it does.
async fn kill(stream: TcpStream, question: &Question<'_>) -> Result<Outcome, Outcome> {
    let context = question.context;
    let (ends, is_granted) = match context.habits.on_kill {
        OnKill::GoOn => (false, context.mapper.count() == 0),
        // A name that came meanwhile would be lost without a word.
        OnKill::EndWhenEmpty => {
            let is_closed = context.mapper.close_when_empty();
            (is_closed, is_closed)
        }
        OnKill::End => (true, true),
    };
    let answer: &[u8] = if is_granted { b"OK" } else { b"NO" };
    if ends {
        // The answer still leaves: the process waits for what is under way.
        context.killed.cancel();
    }
    question.finish(stream, answer, CloseReason::Answered.into()).await
}
