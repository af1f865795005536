//! The bytes of one link on their way between a node's socket and a leg.

use super::answer::refuse;
use super::leg::{Leg, Lost};
use super::link::{LastWord, LinkState};
use super::pool::LARGE;
use super::renew::{Early, Renewal, Resumption};
use super::shown::LastShown;
use super::tunnelled::Parts;
use crate::proto::tunnel::flow::AckDue;
use crate::proto::tunnel::{ACK_AFTER, ACK_BYTES, DATA_HEADER, Detail, Event, Frame, Refusal};
use crate::transport::relay::{Ended, How, Side};
use crate::transport::reply::reset;
use crate::transport::traffic::Direction;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

/// No deadline: longer than a process lives.
const NEVER: Duration = Duration::from_hours(24 * 365);
/// What one ACK is said for at most.
const TOLD_TOGETHER: u64 = 4 * ACK_BYTES;

/// What moving bytes has come to.
pub(super) enum Step {
    /// The leg is of no use any more.
    Lost(Lost),
    /// The link is over.
    Over(Ended),
}

/// Whether what a node says can be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    Enough,
    /// The link holds as much as it may, or all links together do.
    Lacking,
}

/// Who has dialled for the link, and ends its last leg.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Caller {
    Us,
    OtherGuard,
}

/// Moves the bytes of one link.
pub(super) struct Mover<'t> {
    node: TcpStream,
    side: Side,
    /// From the node, and to it.
    outward: &'t Direction,
    inward: &'t Direction,
    pub(super) leg: Option<Leg>,
    pub(super) link: LinkState,
    shown: LastShown,
    /// Whether the node has closed, and whether it has been told that the other one has.
    node_closed: bool,
    node_shut: bool,
    /// Who closed first.
    first: Option<Side>,
    /// Since when one of them has.
    closing: Option<Instant>,
    /// When an ACK is due.
    ack_at: Option<Instant>,
    caller: Caller,
    /// Whether there was room for what the node says.
    room: Room,
    /// Whether the node did not take what came, so that the leg was not read.
    held_up: bool,
}

impl<'t> Mover<'t> {
    pub(super) fn new(
        parts: Parts,
        (node, side): (TcpStream, Side),
        (outward, inward): (&'t Direction, &'t Direction),
    ) -> (Self, Renewal, Option<Lost>) {
        let Parts { mut leg, link, renewal, shown, lost, .. } = parts;
        // While its handshake was done it was read only where that went on.
        leg.hear_again();
        let caller = match renewal {
            Renewal::Dial(_) => Caller::Us,
            Renewal::Answer(_) => Caller::OtherGuard,
        };
        let mover = Self {
            caller,
            node,
            side,
            outward,
            inward,
            leg: Some(leg),
            link,
            shown,
            node_closed: false,
            node_shut: false,
            first: None,
            closing: None,
            ack_at: None,
            room: Room::Enough,
            held_up: false,
        };
        (mover, renewal, lost)
    }

    /// Moves what can be moved. `None`: the clock has to be looked at.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, sleep: Pin<&mut Sleep>) -> Poll<Option<Step>> {
        loop {
            let moved = match self.poll_all(cx) {
                Ok(moved) => moved,
                // The other guard closes when it knows that we know all; it may have nothing more to wait for.
                Err(Step::Lost(Lost::Closed)) if self.is_all_delivered() => {
                    return Poll::Ready(Some(Step::Over(self.over())));
                }
                // However it broke: each side has had the last word of the other one, and ours is the last leg.
                Err(Step::Lost(_)) if self.caller == Caller::Us && self.is_done() => {
                    return Poll::Ready(Some(Step::Over(self.over())));
                }
                Err(step) => return Poll::Ready(Some(self.last_word().map_or(step, Step::Over))),
            };
            if self.caller == Caller::Us && self.is_done() {
                return Poll::Ready(Some(Step::Over(self.over())));
            }
            if !moved {
                break;
            }
        }
        // The timer is only set again where something is due before it fires.
        let deadline = sleep.deadline();
        let is_clear = self.leg.as_ref().is_some_and(Leg::is_flushed);
        let is_due_before = |at: Option<Instant>| is_clear && at.is_some_and(|at| at < deadline);
        let ping_at = self.leg.as_ref().map(Leg::ping_at);
        if is_due_before(self.ack_at) || is_due_before(ping_at) || sleep.poll(cx).is_ready() {
            return Poll::Ready(None);
        }
        Poll::Pending
    }

    pub(super) fn poll_all(&mut self, cx: &mut Context<'_>) -> Result<bool, Step> {
        let was_clear = self.leg.as_ref().is_none_or(Leg::is_flushed);
        let out = self.poll_outward(cx)?;
        let inward = self.poll_inward(cx)?;
        if let Some(ended) = self.last_word() {
            return Err(Step::Over(ended));
        }
        // Where more has come already one ACK does for several reads: each wakes the other guard.
        if !inward || self.link.incoming.untold() >= TOLD_TOGETHER {
            self.acknowledge()?;
        }
        let sent = self.send()?;
        let flushed = match self.leg.as_mut().map(|leg| leg.poll_flush(cx)) {
            Some(Poll::Ready(Err(lost))) => return Err(Step::Lost(lost)),
            Some(Poll::Ready(Ok(()))) | None => true,
            Some(Poll::Pending) => false,
        };
        // What waits to be sent goes on by itself when the socket takes it. What waited for that was not even asked: the
        // node, and an ACK.
        Ok((flushed && (out || sent || !was_clear)) || inward)
    }

    /// From the node to where it is kept. Whether there may be more.
    pub(super) fn poll_outward(&mut self, cx: &mut Context<'_>) -> Result<bool, Step> {
        let is_clear = self.leg.as_ref().is_none_or(Leg::is_flushed);
        if self.node_closed || !is_clear {
            return Ok(false);
        }
        let Some(room) = self.link.outgoing.room(LARGE - DATA_HEADER) else {
            // It holds something that was not acknowledged, so that an ACK wakes it.
            self.room = Room::Lacking;
            return Ok(false);
        };
        self.room = Room::Enough;
        let mut buffer = ReadBuf::new(room);
        let polled = Pin::new(&mut self.node).poll_read(cx, &mut buffer);
        let count = buffer.filled().len();
        self.link.outgoing.commit(count);
        match polled {
            Poll::Pending => Ok(false),
            Poll::Ready(Err(_)) => Err(Step::Over(Ended::By(self.side, How::Reset))),
            Poll::Ready(Ok(())) if count == 0 => {
                self.node_closed = true;
                self.link.outgoing.finish();
                self.note_closed(self.side);
                Ok(true)
            }
            Poll::Ready(Ok(())) => {
                self.outward.add(count);
                Ok(true)
            }
        }
    }

    /// From the leg to the node. Whether there may be more.
    pub(super) fn poll_inward(&mut self, cx: &mut Context<'_>) -> Result<bool, Step> {
        let mut moved = self.poll_deliver(cx)?;
        let Self { leg: Some(leg), link, room, .. } = self else { return Ok(moved) };
        let hears_on = *room == Room::Lacking && link.may_hear_on();
        if !link.inbox.is_empty() && !hears_on {
            self.held_up = true;
            return Ok(moved);
        }
        if std::mem::take(&mut self.held_up) {
            leg.hear_again();
        }
        match leg.poll_receive_some(cx, link.most(), |event| link.take(event)) {
            Poll::Pending => return Ok(moved),
            Poll::Ready(Err(lost)) => return Err(Step::Lost(lost)),
            Poll::Ready(Ok(())) => moved = true,
        }
        self.poll_deliver(cx)?;
        Ok(moved)
    }

    /// What has come, to the node; then that there is no more. Whether anything went.
    pub(super) fn poll_deliver(&mut self, cx: &mut Context<'_>) -> Result<bool, Step> {
        let broken = |_: io::Error| Step::Over(Ended::By(self.side, How::Reset));
        let mut moved = false;
        while !self.link.inbox.is_empty() {
            let waiting = self.link.inbox.filled();
            match Pin::new(&mut self.node).poll_write(cx, waiting) {
                Poll::Pending => {
                    self.link.tidy();
                    return Ok(moved);
                }
                Poll::Ready(written) => {
                    let count = written.map_err(broken)?;
                    self.link.inbox.consume(count);
                    self.link.incoming.delivered(count as u64);
                    self.inward.add(count);
                    moved = true;
                }
            }
        }
        self.link.tidy();
        if self.link.is_heard_out() && !self.node_shut {
            self.node_shut = true;
            self.link.incoming.delivered(1);
            self.note_closed(other(self.side));
            // Where this fails the node is gone already, which is found when it is read.
            socket2::SockRef::from(&self.node).shutdown(std::net::Shutdown::Write).unwrap_or_default();
            moved = true;
        }
        Ok(moved)
    }

    /// While there is no leg: the node is heard as far as its words can be kept, and given what came. Ends only where
    /// the node breaks.
    pub(super) fn poll_node(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        loop {
            let moved = self.poll_outward(cx).and_then(|out| Ok(self.poll_deliver(cx)? || out));
            match moved {
                Ok(true) => {}
                Ok(false) => return Poll::Pending,
                Err(Step::Over(ended)) => return Poll::Ready(ended),
                Err(Step::Lost(_)) => return Poll::Pending,
            }
        }
    }

    pub(super) fn note_closed(&mut self, side: Side) {
        self.first.get_or_insert(side);
        self.closing.get_or_insert_with(Instant::now);
    }

    pub(super) fn acknowledge(&mut self) -> Result<(), Step> {
        let now = match self.link.incoming.due() {
            AckDue::No => {
                self.ack_at = None;
                return Ok(());
            }
            AckDue::Now => true,
            AckDue::Soon => match self.ack_at {
                Some(at) => at <= Instant::now(),
                None => {
                    self.ack_at = Some(Instant::now() + ACK_AFTER);
                    false
                }
            },
        };
        // It can wait for what is being sent.
        if let Some(leg) = self.leg.as_mut().filter(|leg| now && leg.is_flushed()) {
            let received = self.link.incoming.acknowledge();
            self.ack_at = None;
            leg.say(&Frame::Ack { received }).map_err(Step::Lost)?;
        }
        Ok(())
    }

    /// Seals what has not been sent. Whether there was any: then there may be more.
    pub(super) fn send(&mut self) -> Result<bool, Step> {
        let Self { leg: Some(leg), link, .. } = self else { return Ok(false) };
        let mut sent = false;
        while leg.has_room()
            && let Some(piece) = link.outgoing.unsent()
        {
            leg.seal(piece).map_err(Step::Lost)?;
            link.outgoing.sent();
            sent = true;
        }
        Ok(sent)
    }

    /// When the clock has to be looked at.
    pub(super) fn due(&self, half_close_timeout: Duration) -> Instant {
        let far = Instant::now() + NEVER;
        // What waits to be sent goes before whatever could be said, and the socket tells when it takes it.
        let is_clear = self.leg.as_ref().is_some_and(Leg::is_flushed);
        let said = |at: Option<Instant>| at.filter(|_| is_clear).unwrap_or(far);
        let dead = self.leg.as_ref().map_or(far, Leg::dead_at);
        let closing = self.closing.map_or(far, |_| self.last_moved() + half_close_timeout);
        dead.min(closing).min(said(self.leg.as_ref().map(Leg::ping_at))).min(said(self.ack_at))
    }

    pub(super) fn last_moved(&self) -> Instant {
        let moved = self.outward.last().max(self.inward.last());
        self.closing.map_or(moved, |since| since.max(moved))
    }

    /// What has become of the node, which is not read as long as nothing of it can be kept or sent.
    pub(super) fn look_at_the_node(&mut self) -> Option<Step> {
        let ready = {
            let asked = pin!(self.node.ready(Interest::READABLE | Interest::ERROR));
            match asked.poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(Ok(ready)) => ready,
                Poll::Ready(Err(_)) | Poll::Pending => return None,
            }
        };
        if ready.is_error() {
            return Some(Step::Over(Ended::By(self.side, How::Reset)));
        }
        if ready.is_read_closed() {
            self.note_closed(self.side);
        }
        None
    }

    pub(super) fn look_at_the_clock(&mut self, half_close_timeout: Duration) -> Option<Step> {
        // Of a node that has said all and heard all nothing more can be learned.
        let is_over = self.has_last_word();
        if !is_over && let Some(step) = self.look_at_the_node() {
            return Some(step);
        }
        let now = Instant::now();
        if self.closing.is_some() && self.last_moved() + half_close_timeout <= now {
            if is_over {
                return Some(Step::Over(self.over()));
            }
            return Some(Step::Over(Ended::HalfClosedTooLong(self.first.unwrap_or(self.side))));
        }
        let leg = self.leg.as_mut()?;
        if self.held_up {
            leg.hear_again();
        } else if leg.dead_at() <= now {
            return Some(Step::Lost(Lost::Silent));
        }
        if leg.ping_at() <= now
            && leg.is_flushed()
            && let Err(lost) = leg.say(&Frame::Ping)
        {
            return Some(Step::Lost(lost));
        }
        None
    }

    /// Goes on where the other guard has heard us last.
    pub(super) fn go_on(&mut self, resumption: Resumption) -> Result<(), Step> {
        let Resumption { mut leg, received, early, answer } = resumption;
        self.leg = None;
        let ours = self.link.rewind();
        if let Err(outside) = self.link.outgoing.resume_at(received) {
            refuse(leg, Refusal::UnknownOffset, "");
            return Err(Step::Over(self.tell_breach(&outside.into())));
        }
        leg.hear_again();
        self.shown.set(leg.shown());
        let leg = self.leg.insert(leg);
        if answer {
            leg.say(&Frame::Resumed { received: ours }).map_err(Step::Lost)?;
        }
        for early in early {
            let taken = self.link.take(match early {
                Early::Frame(frame) => Event::Frame(frame),
                Early::Data(offset, ref bytes) => Event::Data { offset, bytes },
            });
            taken.map_err(Step::Lost)?;
        }
        // Nothing could move meanwhile.
        self.closing = self.closing.map(|_| Instant::now());
        Ok(())
    }

    /// How the other guard has ended it, where it has.
    pub(super) fn last_word(&self) -> Option<Ended> {
        match self.link.said.as_ref()? {
            LastWord::Reset => {}
            LastWord::Refused(code, detail) => {
                tracing::info!(link = %self.link.id, code = code.label(), detail, "link_refused");
            }
        }
        Some(Ended::By(other(self.side), How::Reset))
    }

    /// How it has ended, where no other leg could change that. Whoever dials may have lost our last ACK with the leg, and
    /// comes once more to hear it.
    pub(super) fn outcome(&self) -> Option<Ended> {
        let is_over = self.caller == Caller::Us && self.is_done();
        self.last_word().or_else(|| is_over.then(|| self.over()))
    }

    fn has_last_word(&self) -> bool {
        self.is_all_delivered() && self.link.outgoing.is_done()
    }

    /// The other guard does not keep to the protocol, and has no link any more.
    pub(super) fn refuse(&mut self, breach: &Lost, code: Refusal) -> Ended {
        if let Some(leg) = self.leg.take() {
            refuse(leg, code, breach.label());
        }
        self.tell_breach(breach)
    }

    /// The other guard may not know the link, so that there is nothing to resume.
    pub(super) fn never_began(&self, lost: &Lost) -> Ended {
        let (link, error) = (self.link.id, crate::telemetry::describe(lost));
        tracing::warn!(%link, error, "link_not_resumed");
        Ended::LegLost
    }

    pub(super) fn tell_breach(&self, breach: &Lost) -> Ended {
        let (link, error) = (self.link.id, crate::telemetry::describe(breach));
        tracing::warn!(%link, reason = breach.label(), error, "leg_lost");
        Ended::By(other(self.side), How::Reset)
    }

    /// Whether both ends have closed and each guard knows that the other one knows.
    pub(super) fn is_done(&self) -> bool {
        self.is_all_delivered()
            && self.link.outgoing.is_done()
            && self.link.incoming.due() == AckDue::No
            && self.leg.as_ref().is_none_or(Leg::is_flushed)
    }

    /// Whether both ends have closed, and our node has heard all.
    pub(super) fn is_all_delivered(&self) -> bool {
        self.node_closed && self.node_shut && self.link.outgoing.unacknowledged() <= 1
    }

    pub(super) fn over(&self) -> Ended {
        Ended::By(self.first.unwrap_or(self.side), How::Fin)
    }

    /// Tells both ends, and the other guard why, where ours has ended it.
    pub(super) fn end(self, ended: Ended, why: Option<Refusal>) {
        let Self { node, leg, side, .. } = self;
        let is_orderly = match ended {
            Ended::By(_, How::Fin) => true,
            Ended::By(_, How::Reset) | Ended::HalfClosedTooLong(_) | Ended::LegLost | Ended::Stopped => false,
        };
        if !is_orderly {
            reset(&node);
        }
        let Some(mut leg) = leg else { return };
        if !is_orderly && ended != Ended::By(other(side), How::Reset) {
            // Where it cannot be said any more, the link is not resumed.
            let word = why.map_or(Frame::Rst, |code| Frame::Refused { code, detail: Detail::cut("") });
            leg.say(&word).unwrap_or_default();
        }
        leg.close();
    }
}

fn other(side: Side) -> Side {
    match side {
        Side::Downstream => Side::Upstream,
        Side::Upstream => Side::Downstream,
    }
}
