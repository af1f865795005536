//! What a stream of bytes asks of epmd, by the rules of `docs/protocol.md`: independent of the code under test.

use std::ops::Range;

/// The longest body of a frame.
pub(crate) const LONGEST: usize = 3057;
/// What epmd reads at most in one go (its buffer but one byte).
pub(crate) const ONE_READ: usize = 3059;

/// What was sent on a connection, and how.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stream {
    pub(crate) bytes: Vec<u8>,
    /// How many bytes had been sent when the segment ended that completed the length.
    with_length: usize,
    pub(crate) half_closed: bool,
}

/// What a stream asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// Nothing yet.
    Nothing,
    /// The length is 0 or too long.
    BadLength,
    /// More than the frame came together with its length.
    Trailing,
    /// To register, with fields that fit.
    Alive2 {
        name: Vec<u8>,
        extra: usize,
    },
    /// To register, with fields that do not fit: a silent close.
    BadAlive2,
    /// To look up, the terminator stripped.
    PortPlease2(Vec<u8>),
    Names,
    Dump,
    Kill,
    /// To throw out; the name ends at the first NUL.
    Stop(Vec<u8>),
    /// None of these.
    Unknown(u8),
}

impl Stream {
    pub(crate) fn sent(&mut self, segment: &[u8]) {
        let known = self.bytes.len() >= 2;
        self.bytes.extend_from_slice(segment);
        if !known {
            self.with_length = self.bytes.len();
        }
    }

    fn length(&self) -> Option<usize> {
        self.bytes.first_chunk::<2>().map(|prefix| u16::from_be_bytes(*prefix).into())
    }

    /// The opcode, once it is known; there is none behind a length that is refused.
    pub(crate) fn opcode(&self) -> Option<u8> {
        self.length().filter(|length| (1..=LONGEST).contains(length))?;
        self.bytes.get(2).copied()
    }

    /// Where the body is, once it is whole.
    fn body(&self) -> Option<Range<usize>> {
        let end = 2 + self.length().filter(|length| (1..=LONGEST).contains(length))?;
        (self.bytes.len() >= end).then_some(2..end)
    }

    pub(crate) fn asked(&self) -> Asked {
        let Some(length) = self.length() else { return Asked::Nothing };
        if !(1..=LONGEST).contains(&length) {
            return Asked::BadLength;
        }
        if self.with_length.min(ONE_READ) > 2 + length {
            return Asked::Trailing;
        }
        match self.body() {
            Some(range) => request(&self.bytes[range]),
            None => Asked::Nothing,
        }
    }

    /// Whether the program must do something visible, and if so what ends the wait for it.
    pub(crate) fn awaits(&self) -> Awaits {
        if self.half_closed {
            return Awaits::End;
        }
        match self.asked() {
            Asked::Nothing => Awaits::Nothing,
            Asked::Alive2 { .. } if self.bytes.len() == 2 + self.length().unwrap_or(0) => {
                Awaits::Registration
            }
            Asked::BadLength
            | Asked::Trailing
            | Asked::Alive2 { .. }
            | Asked::BadAlive2
            | Asked::PortPlease2(_)
            | Asked::Names
            | Asked::Dump
            | Asked::Kill
            | Asked::Stop(_)
            | Asked::Unknown(_) => Awaits::End,
        }
    }

    /// Whether epmd may close before it has read all, in which case the kernel resets the connection.
    pub(crate) fn may_be_unread(&self) -> bool {
        let decided = match self.length() {
            Some(length) if (1..=LONGEST).contains(&length) => 2 + length,
            _ => 2,
        };
        let in_one_read = self.with_length == self.bytes.len() && self.bytes.len() <= ONE_READ;
        self.bytes.len() > decided && !in_one_read
    }
}

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Awaits {
    Nothing,
    /// The answer to a registration, or a close.
    Registration,
    End,
}

fn request(body: &[u8]) -> Asked {
    let (opcode, rest) = (body[0], &body[1..]);
    match opcode {
        b'x' => alive2(body),
        b'z' => Asked::PortPlease2(rest.strip_suffix(&[0]).unwrap_or(rest).to_vec()),
        b'n' => Asked::Names,
        b'd' => Asked::Dump,
        b'k' => Asked::Kill,
        b's' => Asked::Stop(rest.split(|byte| *byte == 0).next().unwrap_or_default().to_vec()),
        other => Asked::Unknown(other),
    }
}

fn alive2(body: &[u8]) -> Asked {
    let number = |at: usize| body.get(at..at + 2).map(|two| usize::from(two[0]) << 8 | usize::from(two[1]));
    let fields = || {
        let name = number(9)?;
        let extra = number(11 + name)?;
        let fits = body.len() >= 14 && 13 + name + extra <= body.len();
        let name = body.get(11..11 + name).filter(|name| !name.contains(&0))?;
        fits.then(|| Asked::Alive2 { name: name.to_vec(), extra })
    };
    fields().unwrap_or(Asked::BadAlive2)
}

impl Asked {
    /// For the counts and for people.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::Nothing => "no whole request",
            Self::BadLength => "length 0 or too long",
            Self::Trailing => "more than one frame in the first read",
            Self::Alive2 { .. } => "ALIVE2",
            Self::BadAlive2 => "ALIVE2 whose fields do not fit",
            Self::PortPlease2(_) => "PORT_PLEASE2",
            Self::Names => "NAMES",
            Self::Dump => "DUMP",
            Self::Kill => "KILL",
            Self::Stop(_) => "STOP",
            Self::Unknown(_) => "unknown opcode",
        }
    }
}
