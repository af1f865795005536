//! The handshake of one link: read whole message by whole message, judged, and only then passed on.

mod verdict;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::policy::{Denial, Held, Offence, Overlooked, Permit, Proved, Source, Speech, Standing};
use crate::proto::dist::{
    AliveAnswer, Claim, Digest, FullName, Handshake, Learned, Malformed, Progress, Speaker, Status, Version,
};
use crate::session::account::{Refused, log_would_refuse};
use crate::session::close::{CloseReason, Outcome, Party};
use crate::session::connection::Session;
use crate::session::context::{Context, Slot};
use crate::session::handshake_end::{HandshakeEnd, Refusal};
use crate::session::inlet::Inlet;
use crate::session::links::Heard;
use crate::session::offend::offend;
use crate::session::snapshot::Snapshot;
use crate::session::tunnel;
use crate::transport::{Traffic, Upstream, Wire, hand_on};

/// What a node may take longer than its own timer says, so that it is the one to give up.
const GRACE: Duration = Duration::from_secs(1);

/// One handshake and what is known of its ends.
pub(super) struct Talk<'a> {
    session: &'a Session,
    context: &'a Context,
    downstream: &'a Wire,
    handshake: Handshake,
    down: Inlet,
    up: Inlet,
    /// The name by which the peer's node is known: that of its claim, or the one that it was given.
    peer: Option<FullName>,
    answered: Option<FullName>,
    /// Where the node listens, if that is on this host.
    listener: Option<SocketAddr>,
    /// The refusal that observe mode let pass first.
    overlooked: Option<Denial>,
    begun: Instant,
    traffic: Traffic,
}

/// A link that is up but for the last bytes of its handshake, which wait in its inlets.
pub(super) struct Ready {
    pub(super) upstream: Upstream,
    pub(super) heard: Heard,
    pub(super) down: Inlet,
    pub(super) up: Inlet,
    pub(super) traffic: Traffic,
    /// Given back when the link is entered.
    pub(super) half_open: Slot,
}

/// Why there will be no link.
pub(super) type Ended = Box<Outcome>;

fn ended(reason: impl Into<CloseReason>) -> Ended {
    Box::new(reason.into().into())
}

impl From<Denial> for Ended {
    fn from(denial: Denial) -> Self {
        ended(CloseReason::Refused(denial))
    }
}

impl<'a> Talk<'a> {
    pub(super) fn new(downstream: &'a Wire, session: &'a Session, context: &'a Context) -> Self {
        Self {
            session,
            context,
            downstream,
            handshake: Handshake::default(),
            down: Inlet::default(),
            up: Inlet::default(),
            peer: None,
            answered: None,
            listener: None,
            overlooked: None,
            begun: Instant::now(),
            traffic: Traffic::default(),
        }
    }

    /// Who the peer says it is, as far as it has said so.
    pub(super) fn claim(&self) -> Option<&Claim> {
        self.handshake.claim()
    }

    pub(super) fn overlooked(&self) -> Option<Denial> {
        self.overlooked
    }

    /// Bytes that were passed on, up and down.
    pub(super) fn moved(&self) -> (u64, u64) {
        (self.traffic.up.bytes(), self.traffic.down.bytes())
    }

    /// From the first byte to the last message.
    pub(super) async fn hold(&mut self) -> Result<Ready, Ended> {
        let half_open = self.context.take_half_open(&self.session.admission).map_err(Denial::HalfOpen)?;
        let first = match self.hear_claim().await? {
            Ok(len) => len,
            Err(malformed) => return self.go_on_unread(malformed, half_open).await,
        };
        self.wait_for_turn().await?;
        let (snapshot, permit) = self.authorize()?;
        let upstream = self.dial(&snapshot, &permit).await?;
        // A reload while it was being dialled may have taken the leave away.
        drop(self.authorize()?);
        self.down.approve(first);
        if let Err(why) = self.carry_messages(&upstream).await {
            if matches!(why.reason, CloseReason::Refused(_)) {
                tunnel::refuse(upstream.wire(), why.reason);
            }
            return Err(Box::new(why.through([upstream.wire()])));
        }
        Ok(self.ready(upstream, half_open))
    }

    fn ready(&mut self, upstream: Upstream, half_open: Slot) -> Ready {
        let heard = match (self.handshake.claim(), &self.peer, &self.answered) {
            (Some(claim), Some(peer), Some(answered)) => {
                Heard::Nodes { claim: claim.clone(), peer: peer.clone(), answered: answered.clone() }
            }
            _ => Heard::Unreadable,
        };
        let (down, up) = (std::mem::take(&mut self.down), std::mem::take(&mut self.up));
        let traffic = std::mem::take(&mut self.traffic);
        Ready { upstream, heard, down, up, traffic, half_open }
    }

    /// How long each step of this end may take.
    fn patience(&self, of: Speaker) -> Duration {
        let step = self.context.snapshot().config.limits.handshake_timeout;
        match of {
            Speaker::Initiator => step,
            Speaker::Acceptor => step + GRACE,
        }
    }

    /// Reads the first message. The length of it, or what it is instead.
    async fn hear_claim(&mut self) -> Result<Result<usize, Malformed>, Ended> {
        let deadline = self.begun + self.patience(Speaker::Initiator);
        loop {
            match self.handshake.advance(Speaker::Initiator, self.down.bytes()) {
                Ok(Progress::Message(len, _)) => {
                    self.peer = self.handshake.claim().and_then(|claim| claim.claimed.name().cloned());
                    return Ok(Ok(len));
                }
                Ok(Progress::More | Progress::NotYet | Progress::Over) => {}
                Err(malformed) => {
                    self.offend(Offence::Malformed);
                    return Ok(Err(malformed));
                }
            }
            tokio::select! {
                biased;
                () = self.context.stop.cancelled() => return Err(ended(CloseReason::Stopped)),
                gone = self.down.read(self.downstream) => if gone.is_some() {
                    let said = !self.down.is_empty();
                    return Err(if said { ended(HandshakeEnd::Abandoned) } else { ended(CloseReason::NoRequest) });
                },
                () = tokio::time::sleep_until(deadline) => {
                    return Err(ended(HandshakeEnd::TimedOut(Party::Downstream)));
                }
            }
        }
    }

    /// What cannot be read is let through in observe mode alone.
    async fn go_on_unread(&mut self, malformed: Malformed, half_open: Slot) -> Result<Ready, Ended> {
        let (snapshot, admission) = self.session.renew(self.context)?;
        let refused = ended(HandshakeEnd::Malformed(Party::Downstream, malformed));
        let Ok(leave) = self.session.authorize_link(&snapshot, &admission, Speech::Unreadable) else {
            return Err(refused);
        };
        self.tell_overlooked(leave.overlooked);
        let upstream = self.dial(&snapshot, &leave.permit).await?;
        Ok(self.ready(upstream, half_open))
    }

    fn source(&self) -> Source {
        self.session.source()
    }

    /// What bans and waits are kept by. All dynamic nodes of a host are one.
    fn name(&self) -> String {
        self.claim().map_or_else(String::new, |claim| claim.claimed.to_string())
    }

    /// The wait of those who have erred, before a node hears anything. Whoever is refused anyway does not wait.
    async fn wait_for_turn(&mut self) -> Result<(), Ended> {
        drop(self.authorize()?);
        let held = self.context.speakers.claim(&self.source(), &self.name());
        let wait = match held {
            Ok(wait) => wait,
            Err(held) => {
                let denial = match held {
                    Held::Slowed => Denial::Slowed,
                    Held::TooManyNames => {
                        self.offend(Offence::TooManyNames);
                        Denial::TooManyClaims
                    }
                    Held::TooManyNamesOfSubnet => Denial::TooManyClaims,
                };
                if let Err(refused) = self.overlook(denial) {
                    self.hold_back(denial).await?;
                    return Err(refused);
                }
                Duration::ZERO
            }
        };
        if wait.is_zero() {
            return Ok(());
        }
        if let Ok(overlooked) = self.context.snapshot().policy.overlook(Denial::Slowed) {
            self.tell_overlooked(Some(overlooked));
            return Ok(());
        }
        self.context.metrics.slowed();
        self.pause(wait).await
    }

    /// Whoever is told at once comes again at once, until the rate of its address is used up, and good nodes there are
    /// refused for it.
    async fn hold_back(&self, denial: Denial) -> Result<(), Ended> {
        if denial != Denial::Slowed {
            return Ok(());
        }
        self.pause(self.context.snapshot().config.ban.rules.slow_first).await
    }

    async fn pause(&self, wait: Duration) -> Result<(), Ended> {
        tokio::select! {
            () = self.context.stop.cancelled() => Err(ended(CloseReason::Stopped)),
            () = tokio::time::sleep(wait) => Ok(()),
        }
    }

    /// What the generation in force says to the claim.
    fn authorize(&mut self) -> Result<(Arc<Snapshot>, Permit), Ended> {
        let (snapshot, admission) = self.session.renew(self.context)?;
        let speech = self.handshake.claim().map_or(Speech::Unreadable, Speech::Claim);
        let leave = self.session.authorize_link(&snapshot, &admission, speech)?;
        self.tell_overlooked(leave.overlooked);
        Ok((snapshot, leave.permit))
    }

    async fn dial(&mut self, snapshot: &Snapshot, permit: &Permit) -> Result<Upstream, Ended> {
        let upstream = tunnel::dial(permit, snapshot, self.session, self.context).await;
        let upstream = upstream.map_err(|error| Box::new(tunnel::unreached(&error)))?;
        self.listener = verdict::listener_here(upstream.wire());
        Ok(upstream)
    }

    /// Takes each side's messages in their turn, until the acceptor's proof is there. That one stays in its
    /// inlet. Messages that came together go on together, as they would without a guard.
    async fn carry_messages(&mut self, upstream: &Upstream) -> Result<(), Ended> {
        let mut deadline = None;
        loop {
            let Some(turn) = self.handshake.turn() else { return self.pass_on(upstream).await };
            let inlet = if turn == Speaker::Initiator { &self.down } else { &self.up };
            match self.handshake.advance(turn, inlet.bytes()) {
                Ok(Progress::Message(len, learned)) => {
                    if self.take(upstream, learned, len).await? == Next::Up {
                        return self.pass_on(upstream).await;
                    }
                    deadline = None;
                    continue;
                }
                Ok(Progress::More | Progress::NotYet | Progress::Over) => {}
                Err(malformed) => return Err(self.misspoke(turn, malformed)),
            }
            self.pass_on(upstream).await?;
            let until = *deadline.get_or_insert_with(|| Instant::now() + self.patience(turn));
            self.hear_more(upstream, turn, until).await?;
        }
    }

    async fn hear_more(&mut self, upstream: &Upstream, turn: Speaker, until: Instant) -> Result<(), Ended> {
        let gone = tokio::select! {
            biased;
            () = self.context.stop.cancelled() => return Err(ended(CloseReason::Stopped)),
            gone = self.up.read(upstream.wire()), if self.up.has_room() => gone.map(|how| (Party::Upstream, how)),
            gone = self.down.read(self.downstream), if self.down.has_room() => {
                gone.map(|how| (Party::Downstream, how))
            }
            () = tokio::time::sleep_until(until) => {
                let party = if turn == Speaker::Initiator { Party::Downstream } else { Party::Upstream };
                return Err(ended(HandshakeEnd::TimedOut(party)));
            }
        };
        match gone {
            None => Ok(()),
            Some((Party::Downstream, _)) => {
                let said = tunnel::ending(self.downstream);
                if let Some(outcome) = said.filter(|said| said.reason == CloseReason::RefusedByPeer) {
                    return Err(Box::new(outcome));
                }
                Err(self.peer_gone(upstream, until).await)
            }
            Some((Party::Upstream, how)) => {
                if let Some(outcome) = tunnel::ending(upstream.wire()) {
                    return Err(Box::new(outcome));
                }
                Err(ended(self.node_gone(how).await))
            }
        }
    }

    /// Judges what a whole message has told, and lets it pass.
    async fn take(&mut self, upstream: &Upstream, learned: Learned, len: usize) -> Result<Next, Ended> {
        match learned {
            Learned::Claim(_) | Learned::AliveAnswer(AliveAnswer::True) => self.down.approve(len),
            Learned::AliveAnswer(AliveAnswer::False) => {
                self.down.approve(len);
                self.pass_on(upstream).await?;
                return Err(ended(HandshakeEnd::Refused(Refusal::Alive)));
            }
            Learned::Status(status) => {
                self.up.approve(len);
                if let Some(refusal) = self.take_status(status)? {
                    self.pass_on(upstream).await?;
                    return Err(ended(HandshakeEnd::Refused(refusal)));
                }
            }
            Learned::Challenge(challenge) => {
                self.check_answering(&challenge.name)?;
                self.check_old_flags(challenge.version)?;
                self.answered = Some(challenge.name);
                self.up.approve(len);
            }
            Learned::Complement(_) => {
                drop(self.authorize()?);
                self.down.approve(len);
            }
            Learned::Reply { challenge, digest } => {
                // The last word that makes a link of it: what a reload has said meanwhile counts.
                drop(self.authorize()?);
                self.check_proof(challenge, &digest, Denial::WrongCookie)?;
                self.down.approve(len);
            }
            Learned::Ack { challenge, digest } => {
                self.check_proof(challenge, &digest, Denial::WrongAnswer)?;
                return Ok(Next::Up);
            }
        }
        Ok(Next::Message)
    }

    /// The refusal that a status is, if it is one.
    fn take_status(&mut self, status: Status) -> Result<Option<Refusal>, Ended> {
        match status {
            Status::Ok | Status::OkSimultaneous | Status::Alive => Ok(None),
            Status::Named(name, _) => {
                self.check_given(&name)?;
                self.peer = Some(name);
                Ok(None)
            }
            Status::Nok => Ok(Some(Refusal::Nok)),
            Status::NotAllowed => Ok(Some(Refusal::NotAllowed)),
        }
    }

    /// A dynamic node chooses its host part, and with it what its name may become.
    fn check_given(&mut self, name: &FullName) -> Result<(), Ended> {
        let (snapshot, admission) = self.session.renew(self.context)?;
        if admission.standing() == Standing::Itself {
            return Ok(());
        }
        let judged = snapshot.policy.nodes().judge_given(snapshot.policy.peer_of(&admission), name);
        judged.or_else(|denial| self.overlook(denial))
    }

    /// Two nodes of version 5 never tell the upper half of their flags, so that what is asked for of it is missing.
    fn check_old_flags(&mut self, answered: Version) -> Result<(), Ended> {
        let (snapshot, admission) = self.session.renew(self.context)?;
        let asked = self.claim().is_some_and(|claim| claim.version == Version::V5 && answered == Version::V5)
            && admission.standing() != Standing::Itself
            && snapshot.policy.nodes().required.0 >> 32 != 0;
        if asked { self.overlook(Denial::MissingFlags) } else { Ok(()) }
    }

    /// The node that answers is the one whose name led here: an epmd entry that points elsewhere, or a port that
    /// another node has taken, must not be taken for it.
    fn check_answering(&mut self, name: &FullName) -> Result<(), Ended> {
        if let Some(peer) = &self.session.service.toward {
            return self.check_answering_of(&Arc::clone(peer), name);
        }
        if self.session.current.borrow().is_called(name.alive()) {
            return Ok(());
        }
        self.overlook(Denial::WrongNode).map_err(|mut ended| {
            ended.detail = Some(format!("the node there says that it is {name}"));
            ended
        })
    }

    /// Behind the guard of a peer answers a node that this peer may be.
    fn check_answering_of(&mut self, peer: &str, name: &FullName) -> Result<(), Ended> {
        let snapshot = self.context.snapshot();
        let peer = snapshot.peer_called(peer).ok_or(Denial::PortNotOffered(self.session.service.inside))?;
        let judged = snapshot.policy.nodes().judge_answering(peer, name);
        judged.or_else(|denial| self.overlook(denial)).map_err(|mut ended| {
            ended.detail = Some(format!("the node there says that it is {name}"));
            ended
        })
    }

    /// Whether a proof is that of the cookie, where that is known.
    fn check_proof(&mut self, challenge: u32, digest: &Digest, denial: Denial) -> Result<(), Ended> {
        let snapshot = self.context.snapshot();
        let (Some(peer), Some(answered)) = (&self.peer, &self.answered) else { return Err(denial.into()) };
        match snapshot.config.cookies.shared_by(peer, answered).map(|cookie| cookie.check(challenge, digest))
        {
            None | Some(Proved::Yes) => return Ok(()),
            Some(Proved::No) => {}
        }
        if denial == Denial::WrongCookie {
            self.offend(Offence::WrongCookie);
        }
        self.overlook(denial).map_err(|mut ended| {
            ended.detail = Some("its proof is not of the cookie that this guard was given".to_owned());
            ended
        })
    }

    /// What a side said is no message of a handshake, or none that belongs here.
    fn misspoke(&mut self, speaker: Speaker, malformed: Malformed) -> Ended {
        let party = match speaker {
            Speaker::Initiator => {
                self.offend(Offence::Malformed);
                Party::Downstream
            }
            Speaker::Acceptor => Party::Upstream,
        };
        ended(HandshakeEnd::Malformed(party, malformed))
    }

    fn offend(&self, what: Offence) {
        offend(self.context, self.session, &self.name(), what);
    }

    /// Lets a refusal pass in observe mode.
    fn overlook(&mut self, denial: Denial) -> Result<(), Ended> {
        let overlooked = self.context.snapshot().policy.overlook(denial)?;
        self.tell_overlooked(Some(overlooked));
        Ok(())
    }

    /// The same refusal is told once.
    fn tell_overlooked(&mut self, overlooked: Option<Overlooked>) {
        let Some(denial) = overlooked.map(Overlooked::denial) else { return };
        if self.overlooked == Some(denial) {
            return;
        }
        self.overlooked.get_or_insert(denial);
        let claimed = self.claim().map(|claim| claim.claimed.to_string());
        let Session { arrival, role, .. } = self.session;
        let refused =
            Refused { arrival: *arrival, role: *role, denial, claimed: claimed.as_deref(), detail: None };
        log_would_refuse(self.context, &refused);
    }

    /// Hands over what may pass, of both ends.
    async fn pass_on(&mut self, upstream: &Upstream) -> Result<(), Ended> {
        if !self.up.approved().is_empty() {
            self.pass_down().await?;
        }
        if !self.down.approved().is_empty() {
            self.pass_up(upstream).await?;
        }
        Ok(())
    }

    async fn pass_up(&mut self, upstream: &Upstream) -> Result<(), Ended> {
        let patience = self.patience(Speaker::Acceptor);
        let passed = hand_on(self.down.approved(), upstream.wire(), &self.traffic.up);
        match tokio::time::timeout(patience, passed).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(ended(HandshakeEnd::NodeClosed)),
            Err(_) => return Err(ended(HandshakeEnd::TimedOut(Party::Upstream))),
        }
        self.down.pass();
        Ok(())
    }

    async fn pass_down(&mut self) -> Result<(), Ended> {
        let patience = self.patience(Speaker::Initiator);
        let passed = hand_on(self.up.approved(), self.downstream, &self.traffic.down);
        match tokio::time::timeout(patience, passed).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(ended(HandshakeEnd::Abandoned)),
            Err(_) => return Err(ended(HandshakeEnd::TimedOut(Party::Downstream))),
        }
        self.up.pass();
        Ok(())
    }
}

/// What comes after a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// Another one.
    Message,
    /// The link.
    Up,
}
