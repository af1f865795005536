//! Where unacknowledged bytes lie: pieces of memory that are filled with whole DATA frames, one behind the other.

use std::fmt::Debug;
use std::ops::DerefMut;

use crate::proto::tunnel::frame::data_header;
use crate::proto::tunnel::{DATA_HEADER, HEADER};

/// The sizes of segments. A link begins with the smallest, and a busy one comes to the largest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Size {
    /// 4 KiB: ticks and short messages.
    Tiny,
    /// 16 KiB: one TLS record.
    Small,
    /// 64 KiB.
    Medium,
    /// 512 KiB: what is read and sealed at once under load.
    Large,
}

impl Size {
    /// From the smallest to the largest.
    pub const ALL: [Self; 4] = [Self::Tiny, Self::Small, Self::Medium, Self::Large];

    /// How many bytes a segment of this size has.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            Self::Tiny => 4 * 1024,
            Self::Small => 16 * 1024,
            Self::Medium => 64 * 1024,
            Self::Large => 512 * 1024,
        }
    }

    /// The size of a segment that has so many bytes; `None`: it is none of ours.
    #[must_use]
    pub fn of(bytes: usize) -> Option<Self> {
        Self::ALL.into_iter().find(|size| size.bytes() == bytes)
    }

    /// The next larger one, or the largest.
    pub(super) const fn larger(self) -> Self {
        match self {
            Self::Tiny => Self::Small,
            Self::Small => Self::Medium,
            Self::Medium | Self::Large => Self::Large,
        }
    }

    /// The next smaller one.
    pub(super) const fn smaller(self) -> Option<Self> {
        match self {
            Self::Tiny => None,
            Self::Small => Some(Self::Tiny),
            Self::Medium => Some(Self::Small),
            Self::Large => Some(Self::Medium),
        }
    }
}

/// Where segments come from and go back to: a pool that all links share, which bounds the memory of all of them. Cheap to
/// clone, so that each link has it.
pub trait Segments {
    /// A piece of memory.
    type Memory: DerefMut<Target = [u8]> + Debug;

    /// A segment of [`Size::bytes`] bytes, whose content is whatever was in it. `None`: the links hold as much as they may;
    /// a smaller one may be asked for then.
    fn take(&self, size: Size) -> Option<Self::Memory>;

    /// One of the smallest size, for a link that holds none: that can be given beyond what links may hold together, so that
    /// each of them goes on, however slowly.
    fn take_only(&self) -> Option<Self::Memory> {
        self.take(Size::Tiny)
    }

    /// Takes a segment back.
    fn give(&self, segment: Self::Memory);
}

/// One piece of memory with its frames.
///
/// ```text
/// | not any more | header data | header data | ... | free |
///                ^ start       ^ sent        ^ last  ^ filled
/// ```
#[derive(Debug)]
pub(super) struct Segment<M> {
    bytes: M,
    /// The offset in the link of the first byte that is kept here.
    from: u64,
    /// The offset behind the last one.
    end: u64,
    /// Where the header of the first frame begins.
    start: usize,
    /// Up to where frames have been sent.
    sent: usize,
    /// Up to where frames have been handed out to be sent.
    handed: usize,
    /// The offset behind these.
    handed_end: u64,
    /// Where the header of the last frame begins.
    last: usize,
    /// Up to where there are frames.
    filled: usize,
}

/// Where new data goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Behind the data of the last frame, which has not been handed out yet.
    Joined,
    /// Behind a header of its own.
    Fresh,
}

impl<M: DerefMut<Target = [u8]>> Segment<M> {
    /// An empty one, for what comes from this offset on.
    pub(super) fn new(bytes: M, from: u64) -> Self {
        Self { bytes, from, end: from, start: 0, sent: 0, handed: 0, handed_end: from, last: 0, filled: 0 }
    }

    /// All its memory.
    pub(super) fn size(&self) -> usize {
        self.bytes.len()
    }

    /// The offset behind its last byte.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// Whether it has no byte.
    pub(super) fn is_empty(&self) -> bool {
        self.from == self.end
    }

    /// Whether all its frames have been sent.
    pub(super) fn is_sent(&self) -> bool {
        self.sent == self.filled
    }

    /// The memory, to be given back.
    pub(super) fn into_bytes(self) -> M {
        self.bytes
    }

    /// Where the next data goes.
    pub(super) fn place(&self) -> Place {
        if self.last < self.filled && self.handed <= self.last { Place::Joined } else { Place::Fresh }
    }

    /// How many bytes of data fit in.
    pub(super) fn left(&self) -> usize {
        self.size().min(Size::Large.bytes()).saturating_sub(self.data_at(self.place()))
    }

    /// The memory for the next data.
    pub(super) fn room(&mut self, place: Place, length: usize) -> Option<&mut [u8]> {
        let at = self.data_at(place);
        self.bytes.get_mut(at..at + length)
    }

    fn data_at(&self, place: Place) -> usize {
        match place {
            Place::Joined => self.filled,
            Place::Fresh => self.filled + DATA_HEADER,
        }
    }

    /// Makes a frame of what was written into the room, or the last frame longer.
    pub(super) fn commit(&mut self, place: Place, length: usize) {
        if place == Place::Fresh {
            self.last = self.filled;
        }
        self.filled = self.data_at(place) + length;
        self.end += length as u64;
        let data = self.filled.saturating_sub(self.last + DATA_HEADER);
        self.write_header(self.last, self.end - data as u64, data);
    }

    /// The frames that have not been sent, but for the last one where it is about to become longer. What has been handed
    /// out stays the same until it is sent. With the offset behind it.
    pub(super) fn hand_out(&mut self, open: Option<Place>) -> Option<(&[u8], u64)> {
        if self.handed == self.sent {
            (self.handed, self.handed_end) = match open {
                Some(Place::Joined) => (self.last, self.end - self.data_of(self.last)),
                Some(Place::Fresh) | None => (self.filled, self.end),
            };
        }
        let piece = self.bytes.get(self.sent..self.handed).filter(|piece| !piece.is_empty())?;
        Some((piece, self.handed_end))
    }

    /// What was handed out has been sent.
    pub(super) fn sent(&mut self) {
        self.sent = self.handed;
    }

    /// Begins anew with the byte at this offset: what is before it need not be kept, and nothing has been sent.
    ///
    /// The header goes directly before that byte, over what need not be kept, so that data stays where it is.
    /// An empty frame is left only where it is about to become longer.
    pub(super) fn restart(&mut self, offset: u64, open: Option<Place>) {
        let skipped = offset.clamp(self.from, self.end) - self.from;
        let (mut at, mut skip) = (self.start, skipped);
        while at < self.last && skip >= self.data_of(at) {
            skip -= self.data_of(at);
            at += DATA_HEADER + to_usize(self.data_of(at));
        }
        self.from += skipped;
        if self.is_empty() && open != Some(Place::Joined) {
            self.start = self.filled;
            self.last = self.filled;
        } else if skip > 0 {
            let length = self.data_of(at) - skip;
            self.start = at + to_usize(skip);
            self.last = self.last.max(self.start);
            self.write_header(self.start, self.from, to_usize(length));
        } else {
            self.start = at;
        }
        self.sent = self.start;
        self.handed = self.start;
    }

    /// How many bytes of data the frame has whose header begins there.
    fn data_of(&self, at: usize) -> u64 {
        let length = self.bytes.get(at + 4..at + HEADER).and_then(|length| length.first_chunk());
        length.map_or(0, |length| u64::from(u32::from_be_bytes(*length))).saturating_sub(8)
    }

    fn write_header(&mut self, at: usize, offset: u64, length: usize) {
        if let Some(header) = self.bytes.get_mut(at..at + DATA_HEADER) {
            header.copy_from_slice(&data_header(offset, length));
        }
    }
}

/// A length that was a `usize` before.
fn to_usize(length: u64) -> usize {
    usize::try_from(length).unwrap_or(usize::MAX)
}
