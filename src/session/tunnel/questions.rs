//! Questions to the epmds of peers: those to one peer share a leg that stays, so that a look-up costs one round trip.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::policy::{Destination, PeerId, Permit};
use crate::session::snapshot::{Snapshot, Snapshots};
use crate::telemetry::describe;
use crate::transport::tls::{Credentials, TlsFault};
use crate::transport::tunnel::{Asking, Lost, Tunnels, Way};
use crate::transport::{DialError, Dialer};

/// Questions of one peer that may wait at one time.
const WAITING: usize = 256;
/// A question that has no answer for so long is asked again, on a fresh leg.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// How often it is asked.
const TRIES: u8 = 3;
/// A leg that nobody has asked anything by for so long is closed.
const IDLE: Duration = Duration::from_mins(10);

/// The ways to the guards of peers, for questions.
#[derive(Debug, Default)]
pub struct Ways {
    askers: Mutex<Askers>,
}

/// One asker for each peer, by a generation; and their owner, also of those of earlier ones.
#[derive(Debug, Default)]
struct Askers {
    by_peer: HashMap<PeerId, (u64, mpsc::Sender<Question>)>,
    running: JoinSet<()>,
}

/// Why a question to a peer has no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// No such peer, or none that has a way to it.
    #[error("there is no way to it")]
    NoWay,
    /// Too many ask at one time.
    #[error("{WAITING} questions wait already")]
    TooMany,
    /// The guard there does not answer, though it is there.
    #[error("it has not answered, asked {TRIES} times")]
    NoAnswer,
    /// It cannot be reached.
    #[error("{0}")]
    Unreachable(String),
    /// Nobody listens where its guard would be: there is none yet.
    #[error("{0}")]
    NoGuard(String),
    /// Its guard refuses ours, or ours refuses it.
    #[error("{why}")]
    Refused {
        /// The reason, as it stands in logs and metrics.
        reason: &'static str,
        /// The same in words.
        why: String,
    },
}

/// A question, and who waits for its answer.
#[derive(Debug)]
struct Question {
    body: Vec<u8>,
    reply: oneshot::Sender<Result<Vec<u8>, AskError>>,
    tries: u8,
    asked: Instant,
}

impl Ways {
    /// Asks the epmd of the peer to which the permit leads: the body of a request, without its length. The answer is as
    /// epmd would give it to a peer; an empty one is a refusal.
    ///
    /// # Errors
    /// The peer cannot be asked, or does not answer in time.
    pub(in crate::session) async fn ask(
        &self,
        permit: &Permit,
        body: &[u8],
        (snapshot, snapshots, tunnels): (&Snapshot, Snapshots, &Tunnels),
    ) -> Result<Vec<u8>, AskError> {
        let Destination::PeerEpmd(peer) = permit.destination() else { return Err(AskError::NoWay) };
        let way = snapshot.dialer.way(peer).ok_or(AskError::NoWay)?;
        if !snapshot.dialer.has_tunnel(way) {
            return ask_plain((&snapshot.dialer, tunnels), peer, body).await;
        }
        let (reply, answer) = oneshot::channel();
        let question = Question { body: body.to_vec(), reply, tries: 0, asked: Instant::now() };
        let asker = self.asker(way, snapshot.generation, (snapshots, tunnels));
        asker.try_send(question).map_err(|_| AskError::TooMany)?;
        match answer.await {
            Ok(Err(AskError::NoGuard(_))) if way.may_be_plain() => {
                ask_plain((&snapshot.dialer, tunnels), peer, body).await
            }
            Ok(answer) => answer,
            Err(_) => Err(AskError::NoWay),
        }
    }

    /// The asker of a peer, by the configuration that is in force. That of an earlier one ends when its questions are
    /// answered.
    fn asker(
        &self,
        way: &Way,
        generation: u64,
        (snapshots, tunnels): (Snapshots, &Tunnels),
    ) -> mpsc::Sender<Question> {
        let mut askers = self.askers();
        // Those that have ended.
        while askers.running.try_join_next().is_some() {}
        if let Some((of, asker)) = askers.by_peer.get(&way.id)
            && *of == generation
            && !asker.is_closed()
        {
            return asker.clone();
        }
        let (asker, questions) = mpsc::channel(WAITING);
        let peer = Arc::clone(&way.peer);
        let asks = Asker {
            peer,
            snapshots,
            tunnels: tunnels.clone(),
            questions,
            waiting: HashMap::new(),
            last: 0,
            by: Weak::new(),
        };
        askers.running.spawn(asks.run());
        askers.by_peer.insert(way.id, (generation, asker.clone()));
        asker
    }

    fn askers(&self) -> MutexGuard<'_, Askers> {
        self.askers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks the epmd of a peer that has no tunnel, as any node would.
async fn ask_plain(
    (dialer, tunnels): (&Dialer, &Tunnels),
    peer: PeerId,
    body: &[u8],
) -> Result<Vec<u8>, AskError> {
    let unreachable = |error: &dyn std::error::Error| AskError::Unreachable(describe(error));
    let stream = dialer.dial_epmd_of(peer, tunnels).await.map_err(|error: DialError| unreachable(&error))?;
    let length = u16::try_from(body.len()).map_err(|_| AskError::NoWay)?;
    let mut request = length.to_be_bytes().to_vec();
    request.extend_from_slice(body);
    let asked = crate::session::question::ask(stream, &request, AGAIN_AFTER * 3, crate::session::MAX_ANSWER);
    asked.await.map_err(|error| unreachable(&error))
}

/// Asks one peer, on one leg.
struct Asker {
    /// By its name: its number may be another one's after a reload.
    peer: Arc<str>,
    snapshots: Snapshots,
    tunnels: Tunnels,
    questions: mpsc::Receiver<Question>,
    /// Those that have no answer yet, by their number.
    waiting: HashMap<u32, Question>,
    last: u32,
    /// What the leg was made by.
    by: Weak<Credentials>,
}

impl Asker {
    async fn run(mut self) {
        let mut leg = None;
        while let Some(question) = self.next(&mut leg).await {
            if self.is_outdated() {
                leg = None;
            }
            self.enter(question);
            while !self.waiting.is_empty() {
                match self.turn(&mut leg).await {
                    Ok(()) => {}
                    // A server's alert comes when the handshake is done for the client: it has refused our certificate.
                    Err(Stuck::Leg(lost @ (Lost::Refused { .. } | Lost::Tls(TlsFault::Alert(_))))) => {
                        leg = None;
                        let why = describe(&lost);
                        self.answer_all(|| AskError::Refused { reason: lost.reason(), why: why.clone() });
                    }
                    // Once more on a fresh one, which is dialled at the next turn.
                    Err(Stuck::Leg(lost)) => {
                        tracing::debug!(peer = &*self.peer, error = describe(&lost), "question_leg_lost");
                        leg = None;
                        self.give_up();
                    }
                    Err(Stuck::Unreachable(error)) => {
                        leg = None;
                        self.answer_all(|| AskError::Unreachable(error.clone()));
                    }
                    Err(Stuck::NoGuard(error)) => {
                        leg = None;
                        self.answer_all(|| AskError::NoGuard(error.clone()));
                    }
                    Err(Stuck::Refused { reason, why }) => {
                        leg = None;
                        self.answer_all(|| AskError::Refused { reason, why: why.clone() });
                    }
                }
            }
        }
    }

    /// The next question; one that came at the last moment is heard, and nobody asks any more behind it.
    async fn next(&mut self, leg: &mut Option<Asking>) -> Option<Question> {
        if let Some(question) = self.wait(leg).await {
            return Some(question);
        }
        self.questions.close();
        self.questions.try_recv().ok()
    }

    /// Whether there are other credentials than when the leg was made. By them the peer might be refused now; and there is
    /// nothing to be lost.
    fn is_outdated(&self) -> bool {
        let snapshot = self.snapshots.current();
        snapshot.trust().is_some_and(|trust| !std::ptr::eq(self.by.as_ptr(), Arc::as_ptr(&trust.credentials)))
    }

    /// The next question, while the leg is kept; `None`: nobody will ask any more, or nobody has for long.
    async fn wait(&mut self, leg: &mut Option<Asking>) -> Option<Question> {
        let idle = Instant::now() + IDLE;
        loop {
            let Some(asking) = leg else {
                return tokio::time::timeout_at(idle, self.questions.recv()).await.ok().flatten();
            };
            let Ok(sign) = asking.keep() else {
                *leg = None;
                continue;
            };
            tokio::select! {
                biased;
                question = self.questions.recv() => return question,
                answer = asking.next() => if answer.is_err() {
                    *leg = None;
                },
                () = tokio::time::sleep_until(sign.min(idle)) => if Instant::now() >= idle {
                    return None;
                },
            }
        }
    }

    fn enter(&mut self, question: Question) -> u32 {
        self.last = self.last.wrapping_add(1);
        self.waiting.insert(self.last, question);
        self.last
    }

    /// Asks what has not been asked on this leg, and takes the next answer.
    async fn turn(&mut self, leg: &mut Option<Asking>) -> Result<(), Stuck> {
        let asking = match leg {
            Some(asking) => asking,
            None => {
                let snapshot = self.snapshots.current();
                self.by =
                    snapshot.trust().map(|trust| Arc::downgrade(&trust.credentials)).unwrap_or_default();
                let way = snapshot.dialer.way_to(&self.peer);
                let way =
                    way.ok_or_else(|| Stuck::Unreachable("there is no such [[peer]] now".to_owned()))?;
                let dialled = snapshot.dialer.ask_by_tunnel(way.id, &self.tunnels).await;
                let mut asking = dialled.map_err(Stuck::of)?;
                for (id, question) in &mut self.waiting {
                    (question.tries, question.asked) = (question.tries + 1, Instant::now());
                    asking.ask(*id, &question.body).map_err(Stuck::Leg)?;
                }
                leg.insert(asking)
            }
        };
        for (id, question) in self.waiting.iter_mut().filter(|(_, question)| question.tries == 0) {
            (question.tries, question.asked) = (1, Instant::now());
            asking.ask(*id, &question.body).map_err(Stuck::Leg)?;
        }
        let again = self.again()?;
        let sign = asking.keep().map_err(Stuck::Leg)?;
        tokio::select! {
            biased;
            answer = asking.next() => {
                let (id, reply) = answer.map_err(Stuck::Leg)?;
                if let Some(question) = self.waiting.remove(&id) {
                    question.answer(Ok(reply));
                }
            }
            Some(question) = self.questions.recv(), if self.waiting.len() < WAITING => {
                self.enter(question);
            }
            () = tokio::time::sleep_until(again) => {
                return Err(Stuck::Leg(Lost::TimedOut(AGAIN_AFTER)));
            }
            () = tokio::time::sleep_until(sign) => {}
        }
        Ok(())
    }

    /// When the oldest question is asked again.
    ///
    /// # Errors
    /// That is now. It is asked here and not of the timer alone: answers that nobody waits for would keep that from its turn.
    fn again(&self) -> Result<Instant, Stuck> {
        let now = Instant::now();
        let again = self.waiting.values().map(|question| question.asked).min().unwrap_or(now) + AGAIN_AFTER;
        if again <= now { Err(Stuck::Leg(Lost::TimedOut(AGAIN_AFTER))) } else { Ok(again) }
    }

    fn answer_all(&mut self, why: impl Fn() -> AskError) {
        for (_, question) in self.waiting.drain() {
            question.answer(Err(why()));
        }
    }

    /// Whoever has asked often enough is told that there is no answer.
    fn give_up(&mut self) {
        let over: Vec<u32> =
            self.waiting.iter().filter(|(_, question)| question.tries >= TRIES).map(|(id, _)| *id).collect();
        for question in over.into_iter().filter_map(|id| self.waiting.remove(&id)) {
            question.answer(Err(AskError::NoAnswer));
        }
    }
}

impl Question {
    fn answer(self, answer: Result<Vec<u8>, AskError>) {
        // Whoever asked may have gone.
        self.reply.send(answer).unwrap_or_default();
    }
}

/// Why there is no answer on this leg.
enum Stuck {
    Leg(Lost),
    Unreachable(String),
    NoGuard(String),
    Refused { reason: &'static str, why: String },
}

impl Stuck {
    fn of(error: DialError) -> Self {
        let told = describe(&error);
        match error {
            DialError::Leg(leg) if leg.is_refused_connection() => Self::NoGuard(told),
            DialError::Leg(leg) => match leg.reason().filter(|_| leg.is_refusal()) {
                Some(reason) => Self::Refused { reason, why: told },
                None => Self::Unreachable(told),
            },
            DialError::Connect { .. } | DialError::TimedOut { .. } | DialError::NoBackend => {
                Self::Unreachable(told)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_question_that_is_overdue_is_asked_again_whatever_else_comes() {
        let config = crate::config::from_text("test", "", &Default::default()).unwrap().config;
        let mut asker = Asker {
            peer: "h2".into(),
            snapshots: Snapshots::new(Snapshot::new(1, Arc::new(config))),
            tunnels: Tunnels::new(1 << 20),
            questions: mpsc::channel(1).1,
            waiting: HashMap::new(),
            last: 0,
            by: Weak::new(),
        };
        let enter = |asker: &mut Asker| {
            let question =
                Question { body: vec![b'n'], reply: oneshot::channel().0, tries: 1, asked: Instant::now() };
            asker.enter(question)
        };
        let first = enter(&mut asker);
        tokio::time::advance(AGAIN_AFTER / 2).await;
        enter(&mut asker);
        assert!(asker.again().is_ok_and(|again| again == Instant::now() + AGAIN_AFTER / 2));
        tokio::time::advance(AGAIN_AFTER / 2).await;
        assert!(matches!(asker.again(), Err(Stuck::Leg(Lost::TimedOut(AGAIN_AFTER)))));
        asker.waiting.remove(&first);
        assert!(asker.again().is_ok());
    }
}
