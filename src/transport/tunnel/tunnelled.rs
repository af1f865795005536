//! A link within a tunnel while its handshake is read: an end like that of a socket.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::leg::{Leg, Lost, SHORT};
use super::link::{LastWord, LinkState};
use super::renew::Renewal;
use super::shown::LastShown;
use crate::proto::tunnel::flow::AckDue;
use crate::proto::tunnel::{ACK_AFTER, Detail, Frame, LinkId, Refusal};

/// One end of a link, on the leg on which it came up. As long as its handshake is not done a leg that breaks ends
/// it: the node begins anew, and nothing is lost but that.
pub struct Tunnelled {
    parts: Arc<Mutex<Option<Parts>>>,
    id: LinkId,
    shown: LastShown,
    /// Keeps the leg alive, also while nobody asks this end for anything: a handshake waits for many things.
    _keeper: JoinSet<()>,
}

/// What a link consists of.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) leg: Leg,
    pub(super) link: LinkState,
    /// Where another leg comes from when this one breaks.
    pub(super) renewal: Renewal,
    /// What the other guard has shown with its last leg.
    pub(super) shown: LastShown,
    pub(super) lost: Option<Lost>,
    /// How it ends when it is dropped.
    pub(super) end: OnDrop,
    /// When an ACK is due; and what the keeper is told when there is one.
    ack_at: Option<Instant>,
    news: Arc<Notify>,
}

/// What the other guard is told when the link is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OnDrop {
    Finish,
    Reset,
    /// It has been told.
    Nothing,
}

impl fmt::Debug for Tunnelled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tunnelled({})", self.id)
    }
}

impl Tunnelled {
    pub(super) fn new(leg: Leg, link: LinkState, renewal: Renewal) -> Self {
        let (id, shown) = (link.id, LastShown::default());
        shown.set(leg.shown());
        let news = Arc::new(Notify::new());
        let parts = Parts {
            leg,
            link,
            renewal,
            shown: shown.clone(),
            lost: None,
            end: OnDrop::Finish,
            ack_at: None,
            news: Arc::clone(&news),
        };
        let parts = Arc::new(Mutex::new(Some(parts)));
        let mut keeper = JoinSet::new();
        keeper.spawn(keep(Arc::downgrade(&parts), news));
        Self { parts, id, shown, _keeper: keeper }
    }

    /// The certificate of the other guard, as it was shown with the last leg, also when this end has been taken apart.
    #[must_use]
    pub fn shown(&self) -> LastShown {
        self.shown.clone()
    }

    /// How both guards call it.
    #[must_use]
    pub fn id(&self) -> LinkId {
        self.id
    }

    /// Why the other guard has ended it, where it has said so.
    #[must_use]
    pub fn refusal(&self) -> Option<(Refusal, String)> {
        match &self.lock().as_ref()?.link.said {
            Some(LastWord::Refused(code, detail)) => Some((*code, detail.clone())),
            Some(LastWord::Reset) | None => None,
        }
    }

    /// Why its leg is of no use any more, where it is not.
    #[must_use]
    pub fn lost(&self) -> Option<String> {
        let parts = self.lock();
        let parts = parts.as_ref().filter(|parts| !parts.link.fin_came)?;
        parts.lost.as_ref().map(|lost| crate::telemetry::describe(lost))
    }

    pub(super) fn into_parts(self) -> Option<Parts> {
        self.lock().take()
    }

    /// See [`Wire::readable`](crate::transport::Wire::readable).
    pub(in crate::transport) async fn readable(&self) -> io::Result<()> {
        std::future::poll_fn(|cx| self.poll(cx, Parts::poll_readable)).await
    }

    pub(in crate::transport) async fn writable(&self) -> io::Result<()> {
        std::future::poll_fn(|cx| self.poll(cx, Parts::poll_writable)).await
    }

    pub(in crate::transport) fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.lock().as_mut().ok_or(io::ErrorKind::NotConnected)?.try_read(buffer)
    }

    pub(in crate::transport) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.lock().as_mut().ok_or(io::ErrorKind::NotConnected)?.try_write(bytes)
    }

    /// Has the other guard reset its node's connection when this is dropped.
    pub(in crate::transport) fn reset(&self) {
        if let Some(parts) = self.lock().as_mut()
            && parts.end == OnDrop::Finish
        {
            parts.end = OnDrop::Reset;
        }
    }

    /// Tells the other guard why it ends.
    pub(in crate::transport) fn refuse(&self, code: Refusal, why: &str) {
        if let Some(parts) = self.lock().as_mut()
            && parts.end != OnDrop::Nothing
        {
            let frame = Frame::Refused { code, detail: Detail::cut(why.to_owned()) };
            // Where it cannot be said any more, the close says it.
            parts.leg.say(&frame).unwrap_or_default();
            parts.end = OnDrop::Nothing;
        }
    }

    /// Says that our node has closed, and waits until the one there has as well: it is to hear what ours said last.
    pub(in crate::transport) async fn finish(self, timeout: Duration) {
        if let Some(parts) = self.lock().as_mut() {
            parts.link.outgoing.finish();
            parts.lost = parts.send_unsent().err();
        }
        let closing = async {
            let mut thrown_away = vec![0; SHORT];
            loop {
                self.readable().await?;
                match self.try_read(&mut thrown_away) {
                    Ok(0) => return Ok(()),
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error),
                }
            }
        };
        if let Ok(Ok(())) = tokio::time::timeout(timeout, closing).await
            && let Some(Parts { link, leg, .. }) = self.lock().as_mut()
        {
            link.incoming.delivered(1);
            // Where it cannot be said any more, the other guard finds out by itself.
            leg.say(&Frame::Ack { received: link.incoming.acknowledge() }).unwrap_or_default();
        }
    }

    fn poll(
        &self,
        cx: &mut Context<'_>,
        poll: impl FnOnce(&mut Parts, &mut Context<'_>) -> Poll<Result<(), Lost>>,
    ) -> Poll<io::Result<()>> {
        let mut parts = self.lock();
        let Some(parts) = parts.as_mut() else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        if parts.lost.is_some() {
            return Poll::Ready(Ok(()));
        }
        if let Err(lost) = ready!(poll(parts, cx)) {
            parts.lost = Some(lost);
        }
        Poll::Ready(Ok(()))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Parts>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// As long as the link is not carried.
async fn keep(parts: Weak<Mutex<Option<Parts>>>, news: Arc<Notify>) {
    loop {
        let next = {
            let Some(parts) = parts.upgrade() else { return };
            let mut parts = parts.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(next) = parts.as_mut().and_then(Parts::keep) else { return };
            next
        };
        tokio::select! {
            () = tokio::time::sleep_until(next) => {}
            () = news.notified() => {}
        }
    }
}

impl Parts {
    /// Says that the leg lives, and what has been taken, where it is time to; and tells when to ask again. `None`: nothing is
    /// to be said any more.
    fn keep(&mut self) -> Option<Instant> {
        if self.lost.is_some() || self.link.said.is_some() || self.end == OnDrop::Nothing {
            return None;
        }
        let now = Instant::now();
        self.ack_at = match self.link.incoming.due() {
            AckDue::No => None,
            AckDue::Soon => Some(self.ack_at.unwrap_or(now + ACK_AFTER)),
            AckDue::Now => Some(now),
        };
        self.leg.flush_now();
        if !self.leg.is_flushed() {
            return Some(now + ACK_AFTER);
        }
        // What fails is found when the end is used.
        if self.ack_at.is_some_and(|at| at <= now) {
            self.ack_at = None;
            self.leg.say(&Frame::Ack { received: self.link.incoming.acknowledge() }).ok()?;
        }
        if self.leg.ping_at() <= now {
            self.leg.say(&Frame::Ping).ok()?;
        }
        self.leg.flush_now();
        Some(self.ack_at.map_or(self.leg.ping_at(), |at| at.min(self.leg.ping_at())))
    }

    /// Until there is something to read, or nothing will ever be.
    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Lost>> {
        loop {
            if let Poll::Ready(Err(lost)) = self.poll_flush(cx) {
                return Poll::Ready(Err(lost));
            }
            if !self.link.inbox.is_empty() || self.link.said.is_some() || self.link.fin_came {
                return Poll::Ready(Ok(()));
            }
            let link = &mut self.link;
            ready!(self.leg.poll_receive(cx, |event| link.take(event)))?;
        }
    }

    /// Until there is room for what is to be written, or nothing will ever be sent. The ACK that makes room may lie behind
    /// what nobody reads just now.
    fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Lost>> {
        loop {
            ready!(self.poll_flush(cx))?;
            if self.link.said.is_some() || self.link.outgoing.has_room() {
                return Poll::Ready(Ok(()));
            }
            if self.link.inbox.len() >= self.link.outgoing.cap() {
                // Whoever writes has a deadline.
                return Poll::Pending;
            }
            let link = &mut self.link;
            ready!(self.leg.poll_receive(cx, |event| link.take(event)))?;
        }
    }

    /// Where nothing can be sent any more, what the other guard has said before it closed counts.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Lost>> {
        let link = &mut self.link;
        let flushed = self.leg.poll_flush_or_hear(cx, |event| link.take(event));
        if link.said.is_some() && flushed.is_ready() { Poll::Ready(Ok(())) } else { flushed }
    }

    fn try_read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let waiting = self.link.inbox.filled();
        let count = waiting.len().min(buffer.len());
        if count > 0 {
            let (Some(to), Some(from)) = (buffer.get_mut(..count), waiting.get(..count)) else {
                return Ok(0);
            };
            to.copy_from_slice(from);
            self.link.inbox.consume(count);
            self.link.tidy();
            self.link.incoming.delivered(count as u64);
            if self.ack_at.is_none() {
                self.news.notify_one();
            }
            return Ok(count);
        }
        if self.link.said.is_some() {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        // The leg may end together with the FIN.
        match (self.link.fin_came, &self.lost) {
            (true, _) => Ok(0),
            (false, Some(_)) => Err(io::ErrorKind::ConnectionReset.into()),
            (false, None) => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.link.said.is_some() || self.lost.is_some() {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        if !self.leg.is_flushed() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let Some(room) = self.link.outgoing.room(bytes.len()) else {
            return Err(io::ErrorKind::WouldBlock.into());
        };
        let count = room.len().min(bytes.len());
        if let (Some(to), Some(from)) = (room.get_mut(..count), bytes.get(..count)) {
            to.copy_from_slice(from);
        }
        self.link.outgoing.commit(count);
        if let Err(lost) = self.send_unsent() {
            self.lost = Some(lost);
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        Ok(count)
    }

    fn send_unsent(&mut self) -> Result<(), Lost> {
        while let Some(piece) = self.link.outgoing.unsent() {
            self.leg.seal(piece)?;
            self.link.outgoing.sent();
        }
        self.leg.flush_now();
        Ok(())
    }
}

impl Drop for Tunnelled {
    fn drop(&mut self) {
        let parts = self.lock().take();
        let Some(mut parts) = parts else { return };
        if parts.lost.is_some() {
            return;
        }
        let frame = match parts.end {
            OnDrop::Finish => {
                parts.link.outgoing.finish();
                // What cannot be said any more is said by the close.
                parts.send_unsent().unwrap_or_default();
                None
            }
            OnDrop::Reset => Some(Frame::Rst),
            OnDrop::Nothing => None,
        };
        if let Some(frame) = frame {
            parts.leg.say(&frame).unwrap_or_default();
        }
        parts.leg.close();
    }
}
