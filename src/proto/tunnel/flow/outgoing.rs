//! The sending half of a link: what the node has written and the other guard has not acknowledged.

use std::collections::VecDeque;

use super::segment::{Place, Segment, Segments, Size};
use crate::proto::tunnel::DATA_HEADER;
use crate::proto::tunnel::frame::fin_frame;

/// Segments for which a link without any keeps the list.
const KEPT_LIST: usize = 16;
/// Short reads after which smaller segments are taken.
const CALM: u8 = 4;

/// Bytes of a link from the node's socket to the leg, and kept until they are acknowledged.
///
/// ```text
///        acked            sent              end        end + 1
///   ... ---+----------------+----------------+-----------+
///  released|  kept, on its way |  kept, unsent  |  the FIN
/// ```
///
/// Data is read directly to where it is sealed from: [`room`](Self::room) gives memory behind the space of a frame's
/// header, [`commit`](Self::commit) makes a frame of it, and [`unsent`](Self::unsent) shows whole frames, headers
/// included. Nothing is copied, and nothing is sealed that is not kept.
///
/// Segments are taken when there is something to read and given back when they are acknowledged or when there was nothing
/// to read: a link at rest holds none. It never holds more than its cap; then there is no room, and the node has to wait.
#[derive(Debug)]
pub struct Outgoing<S: Segments> {
    pool: S,
    cap: usize,
    held: usize,
    segments: VecDeque<Segment<S::Memory>>,
    /// The first segment that may have something unsent.
    at: usize,
    acked: u64,
    sent: u64,
    end: u64,
    /// The highest offset that was ever handed out to be sent.
    highest: u64,
    /// The offset behind what is handed out and not yet sent.
    handed: Option<u64>,
    /// The room that was given and not yet committed.
    offer: Option<(Place, usize)>,
    /// The size of the next segment.
    size: Size,
    /// Short reads one after the other.
    calm: u8,
    /// The FIN's frame, once the node has closed.
    fin: Option<[u8; DATA_HEADER]>,
}

/// An offset that the other guard names and that is not among those that it can have received, or is not kept any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the offset {offset} is not within {from} to {to}, which is what is kept")]
pub struct OutsideReplay {
    /// What it said.
    pub offset: u64,
    /// The lowest that it could have said: what it has acknowledged before.
    pub from: u64,
    /// The highest: what was sent to it.
    pub to: u64,
}

impl<S: Segments> Outgoing<S> {
    /// For a link from its beginning, that never holds more than `cap` bytes; one segment of the smallest size in any case.
    pub fn new(pool: S, cap: usize) -> Self {
        Self {
            pool,
            cap: cap.max(Size::Tiny.bytes()),
            held: 0,
            segments: VecDeque::new(),
            at: 0,
            acked: 0,
            sent: 0,
            end: 0,
            highest: 0,
            handed: None,
            offer: None,
            size: Size::Tiny,
            calm: 0,
            fin: None,
        }
    }

    /// Memory to read at most so many bytes into, of which [`commit`](Self::commit) takes those that were read. Its content
    /// is whatever was in it.
    ///
    /// `None`: the cap is reached, or the pool gives nothing, and acknowledgements must come first; or
    /// the node has closed.
    pub fn room(&mut self, most: usize) -> Option<&mut [u8]> {
        if self.fin.is_some() {
            return None;
        }
        // A new segment is better than a short read at the end of one that is nearly full.
        if self.segments.back().is_none_or(|tail| tail.left() <= tail.size() / 4) {
            self.grow();
        }
        let tail = self.segments.back_mut()?;
        let (place, length) = (tail.place(), tail.left().min(most));
        if length == 0 {
            return None;
        }
        self.offer = Some((place, length));
        tail.room(place, length)
    }

    /// Whether [`room`](Self::room) would give any now. Whatever has been given without a [`commit`](Self::commit) is taken back.
    pub fn has_room(&mut self) -> bool {
        let has_room = self.room(1).is_some();
        self.commit(0);
        has_room
    }

    /// The first `read` bytes of the room are the link's now. With 0, or without a room, nothing is; a segment that was
    /// taken for nothing goes back. Each room must be committed before anything is acknowledged.
    pub fn commit(&mut self, read: usize) {
        let Some((place, length)) = self.offer.take() else { return };
        let read = read.min(length);
        let Some(tail) = self.segments.back_mut() else { return };
        if read > 0 {
            let was_whole = length == tail.left();
            tail.commit(place, read);
            self.end = tail.end();
            if was_whole && read == length {
                // There was more to read than room.
                (self.size, self.calm) = (self.size.larger(), 0);
            } else {
                self.calm_down(read);
            }
        }
        self.release();
    }

    /// The node has closed: behind what it has written comes a FIN. There is no more room.
    pub fn finish(&mut self) {
        self.commit(0);
        self.fin.get_or_insert(fin_frame(self.end));
    }

    /// Frames to be sealed and sent now, headers included: the unsent ones that lie together, at most one of the largest
    /// segments; at last the FIN. The same bytes until [`sent`](Self::sent) is called, whatever is committed or
    /// acknowledged meanwhile.
    pub fn unsent(&mut self) -> Option<&[u8]> {
        while self.at + 1 < self.segments.len() && self.segments.get(self.at).is_some_and(Segment::is_sent) {
            self.at += 1;
        }
        let is_tail = self.at + 1 == self.segments.len();
        let open = self.offer.map(|(place, _)| place).filter(|_| is_tail);
        let data = self.segments.get_mut(self.at).and_then(|segment| segment.hand_out(open));
        let (piece, end) = match (data, &self.fin) {
            (Some(data), _) => data,
            (None, Some(fin)) if self.sent == self.end => (&fin[..], self.end + 1),
            (None, _) => return None,
        };
        self.handed = Some(end);
        self.highest = self.highest.max(end);
        Some(piece)
    }

    /// What [`unsent`](Self::unsent) showed has been sealed, all of it.
    pub fn sent(&mut self) {
        let Some(end) = self.handed.take() else { return };
        self.sent = end;
        if let Some(segment) = self.segments.get_mut(self.at) {
            segment.sent();
        }
    }

    /// The other guard has received so many bytes (ACK): what held only such bytes goes back to the pool.
    ///
    /// # Errors
    /// It cannot have: fewer than it said before, or more than were sent. The link is broken.
    pub fn acknowledge(&mut self, received: u64) -> Result<(), OutsideReplay> {
        self.check(received, self.handed.unwrap_or(self.sent))?;
        // It has come, so it was sent.
        if self.handed.is_some_and(|end| end <= received) {
            self.sent();
        }
        self.acked = received;
        self.release();
        Ok(())
    }

    /// The leg was lost, and on the next one the other guard says that it has received so many bytes (RESUME, RESUMED):
    /// everything behind them is unsent again, to the byte.
    ///
    /// # Errors
    /// It cannot have received so many, or has acknowledged more. The link is broken.
    pub fn resume_at(&mut self, received: u64) -> Result<(), OutsideReplay> {
        self.check(received, self.highest)?;
        self.handed = None;
        self.acked = received;
        self.sent = received;
        self.release();
        let open = self.offer.map(|(place, _)| place);
        let tail = self.segments.len().saturating_sub(1);
        for (at, segment) in self.segments.iter_mut().enumerate() {
            segment.restart(received, open.filter(|_| at == tail));
        }
        self.at = 0;
        Ok(())
    }

    /// Bytes of memory that it may hold.
    pub fn cap(&self) -> usize {
        self.cap
    }

    /// Bytes of memory that it holds, used or not.
    pub fn held(&self) -> usize {
        self.held
    }

    /// How many bytes the node has written.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// How many bytes, the FIN included, are acknowledged.
    pub fn acknowledged(&self) -> u64 {
        self.acked
    }

    /// How many bytes, the FIN included, are not acknowledged.
    pub fn unacknowledged(&self) -> u64 {
        self.end + u64::from(self.fin.is_some()) - self.acked
    }

    /// Whether everything has arrived, the FIN too: this direction needs no leg any more.
    pub fn is_done(&self) -> bool {
        self.fin.is_some() && self.unacknowledged() == 0
    }

    fn check(&self, offset: u64, to: u64) -> Result<(), OutsideReplay> {
        let from = self.acked;
        if (from..=to).contains(&offset) { Ok(()) } else { Err(OutsideReplay { offset, from, to }) }
    }

    /// Takes another segment, a smaller one where there is no room for what would be best.
    fn grow(&mut self) {
        let mut size = Some(self.size);
        while let Some(wanted) = size {
            let fits = self.held + wanted.bytes() <= self.cap;
            if let Some(bytes) = if fits { self.pool.take(wanted) } else { None } {
                self.held += bytes.len();
                self.segments.push_back(Segment::new(bytes, self.end));
                return;
            }
            size = wanted.smaller();
        }
        if self.segments.is_empty()
            && let Some(bytes) = self.pool.take_only()
        {
            self.held += bytes.len();
            self.segments.push_back(Segment::new(bytes, self.end));
        }
    }

    /// Comes to smaller segments where there is always little to read.
    fn calm_down(&mut self, read: usize) {
        let Some(smaller) = self.size.smaller() else { return };
        self.calm = if read < smaller.bytes() / 2 { self.calm + 1 } else { 0 };
        if self.calm >= CALM {
            (self.size, self.calm) = (smaller, 0);
        }
    }

    /// Gives back what holds nothing that is needed.
    fn release(&mut self) {
        // The room that was given is in the last one.
        let kept = usize::from(self.offer.is_some());
        while self.segments.len() > kept
            && self.segments.front().is_some_and(|front| front.end() <= self.acked)
        {
            self.drop_front();
        }
        if kept == 0
            && self.segments.back().is_some_and(Segment::is_empty)
            && let Some(segment) = self.segments.pop_back()
        {
            self.give(segment);
        }
        if self.segments.is_empty() {
            // Where less was read than could be, what comes next may be a tick. Where all of it was full, the other guard
            // has only acknowledged in time.
            if self.calm > 0 {
                self.size = self.size.min(Size::Medium);
            }
            if self.segments.capacity() > KEPT_LIST {
                self.segments = VecDeque::new();
            }
        }
    }

    fn drop_front(&mut self) {
        if let Some(segment) = self.segments.pop_front() {
            self.at = self.at.saturating_sub(1);
            self.give(segment);
        }
    }

    fn give(&mut self, segment: Segment<S::Memory>) {
        let bytes = segment.into_bytes();
        self.held = self.held.saturating_sub(bytes.len());
        self.pool.give(bytes);
    }
}

/// All that it holds goes back to the pool.
impl<S: Segments> Drop for Outgoing<S> {
    fn drop(&mut self) {
        while let Some(segment) = self.segments.pop_front() {
            self.give(segment);
        }
    }
}
