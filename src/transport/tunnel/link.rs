//! What is known of one link apart from the leg that carries it: plain data.

use super::leg::{Lost, SHORT};
use super::pool::{LARGE, Pool};
use super::replay::{Counted, Replay};
use crate::proto::tunnel::flow::{Fin, Incoming, Outgoing};
use crate::proto::tunnel::{Event, Frame, LinkId, Refusal};
use crate::transport::tls::Block;

/// One end of a link.
#[derive(Debug)]
pub(super) struct LinkState {
    pub(super) id: LinkId,
    /// What our node has said, as far as the other guard has not acknowledged it.
    pub(super) outgoing: Outgoing<Replay>,
    /// How far we have heard the other guard.
    pub(super) incoming: Incoming,
    /// What came and our node has not been given yet.
    pub(super) inbox: Block,
    /// Whether the node there has closed.
    pub(super) fin_came: bool,
    /// The last word of the other guard, if it has said one.
    pub(super) said: Option<LastWord>,
    /// Whether our wish for the link was granted; whoever answers grants it.
    pub(super) grant: Grant,
    pool: Pool,
    /// The memory of the inbox.
    counted: Counted,
}

/// Whether a link may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Grant {
    /// It may: the other guard has said so, or we have.
    Given,
    /// The other guard has not said yet.
    Awaited,
}

/// What ends a link at once, whatever has not arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum LastWord {
    /// The node there reset its connection, or the guard there did.
    Reset,
    /// The guard there refuses, and says why; the text is for people, and escaped.
    Refused(Refusal, String),
}

impl LinkState {
    pub(super) fn new(
        id: LinkId,
        grant: Grant,
        outgoing: Outgoing<Replay>,
        (pool, replay): (&Pool, &Replay),
    ) -> Self {
        Self {
            id,
            outgoing,
            incoming: Incoming::default(),
            inbox: Block::default(),
            fin_came: false,
            said: None,
            grant,
            pool: pool.clone(),
            counted: Counted::new(replay),
        }
    }

    /// The inbox holds no more memory than what is in it needs.
    pub(super) fn tidy(&mut self) {
        self.pool.take_all_but(&mut self.inbox, SHORT);
        self.counted.set(self.inbox.capacity());
    }

    /// How much may come at once: where links hold as much as they may, what is kept of it if our node takes nothing
    /// is to be little.
    pub(super) fn most(&self) -> usize {
        if self.counted.fits(LARGE) { usize::MAX } else { SHORT }
    }

    /// Whether more may be heard although our node does not take what has come: where it waits for room before it reads,
    /// the ACK that makes room is behind what it does not read.
    pub(super) fn may_hear_on(&self) -> bool {
        self.inbox.len() < self.outgoing.cap() && self.counted.fits(LARGE)
    }

    /// Takes what has come on its leg.
    pub(super) fn take(&mut self, event: Event<'_>) -> Result<(), Lost> {
        let frame = match event {
            Event::Data { offset, bytes } => {
                let fresh = self.incoming.accept(offset, bytes)?;
                // Mostly it is read where nothing waits, so that this holds what one read brings.
                if self.inbox.len() + fresh.len() > SHORT {
                    self.pool.lend(&mut self.inbox);
                }
                if self.inbox.len() > LARGE && self.inbox.room().len() < fresh.len() {
                    self.inbox.reserve(self.inbox.len());
                }
                self.inbox.append(fresh);
                self.counted.set(self.inbox.capacity());
                return Ok(());
            }
            Event::Frame(frame) => frame,
        };
        match frame {
            Frame::Ack { received } => Ok(self.outgoing.acknowledge(received)?),
            Frame::Fin { offset } => {
                let (Fin::New | Fin::Repeated) = self.incoming.finish(offset)?;
                self.fin_came = true;
                Ok(())
            }
            Frame::Ping | Frame::Hello(_) => Ok(()),
            Frame::Rst => {
                self.said.get_or_insert(LastWord::Reset);
                Ok(())
            }
            Frame::Refused { code, detail } => {
                self.said.get_or_insert(LastWord::Refused(code, detail.to_string()));
                Ok(())
            }
            Frame::Opened if self.grant == Grant::Awaited => {
                self.grant = Grant::Given;
                Ok(())
            }
            Frame::Opened
            | Frame::Open(_)
            | Frame::Resume { .. }
            | Frame::Resumed { .. }
            | Frame::Ask { .. }
            | Frame::Answer { .. } => Err(Lost::Unfit("a frame that does not belong to a link that is up")),
        }
    }

    /// The leg is gone, and what our node has not been given comes once more. How much it has been given.
    pub(super) fn rewind(&mut self) -> u64 {
        self.inbox.clear();
        self.tidy();
        let received = self.incoming.resume();
        self.fin_came = self.incoming.is_done();
        received
    }

    /// How far it has come, in both directions.
    pub(super) fn progress(&self) -> (u64, u64) {
        let said = self.outgoing.end() - self.outgoing.unacknowledged().min(self.outgoing.end());
        (said, self.incoming.received())
    }

    /// Whether the node there has closed and ours has been given all that it said.
    pub(super) fn is_heard_out(&self) -> bool {
        self.fin_came && self.inbox.is_empty()
    }
}
