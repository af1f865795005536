//! The frames, each in both directions of the codec. A body is what follows the header of [`HEADER`] bytes. All numbers
//! are big-endian.

use std::ops::RangeInclusive;

use super::bounded::{Bytes, Text};
use super::open::{LinkId, Open};
use super::reader::Reader;
use super::refusal::Refusal;
use super::{DATA_HEADER, HEADER, MAX_ANSWER, MAX_ASK, MAX_CONTROL, MAX_DATA, MAX_DETAIL, MAX_SOFTWARE};

/// The bit of the flags that lets a receiver skip a frame of a type that it does not know.
const IGNORABLE: u8 = 1;
/// The types of frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Type {
    /// 1.
    Hello,
    /// 2.
    Open,
    /// 3.
    Opened,
    /// 4.
    Refused,
    /// 5.
    Resume,
    /// 6.
    Resumed,
    /// 7.
    Data,
    /// 8.
    Ack,
    /// 9.
    Fin,
    /// 10.
    Rst,
    /// 11.
    Ping,
    /// 12.
    Ask,
    /// 13.
    Answer,
}

impl Type {
    /// All of them, in the order of their numbers, which begin at 1.
    pub const ALL: [Self; 13] = [
        Self::Hello,
        Self::Open,
        Self::Opened,
        Self::Refused,
        Self::Resume,
        Self::Resumed,
        Self::Data,
        Self::Ack,
        Self::Fin,
        Self::Rst,
        Self::Ping,
        Self::Ask,
        Self::Answer,
    ];

    /// The number in the header.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Hello => 1,
            Self::Open => 2,
            Self::Opened => 3,
            Self::Refused => 4,
            Self::Resume => 5,
            Self::Resumed => 6,
            Self::Data => 7,
            Self::Ack => 8,
            Self::Fin => 9,
            Self::Rst => 10,
            Self::Ping => 11,
            Self::Ask => 12,
            Self::Answer => 13,
        }
    }

    /// How many bytes its body may have.
    fn lengths(self) -> RangeInclusive<usize> {
        match self {
            Self::Hello => 8..=8 + MAX_SOFTWARE,
            Self::Open => Open::LENGTH..=Open::LENGTH,
            Self::Opened | Self::Rst | Self::Ping => 0..=0,
            Self::Refused => 2..=2 + MAX_DETAIL,
            Self::Resume => 24..=24,
            Self::Resumed | Self::Ack | Self::Fin => 8..=8,
            Self::Data => 9..=8 + MAX_DATA,
            Self::Ask => 5..=MAX_CONTROL,
            Self::Answer => 4..=4 + MAX_ANSWER,
        }
    }
}

/// The name of the software in a HELLO, for people.
pub type Software<'a> = Text<'a, MAX_SOFTWARE>;
/// What a refusal says more, for people.
pub type Detail<'a> = Text<'a, MAX_DETAIL>;
/// A request to epmd without its length: the opcode and what follows.
pub type AskBody<'a> = Bytes<'a, MAX_ASK>;
/// What epmd answers, up to where it closes.
pub type AnswerBody<'a> = Bytes<'a, MAX_ANSWER>;

/// The first frame of both sides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello<'a> {
    /// What the sender can do beyond this version, a bit each. None is given yet: a sender of this version sends 0, and a
    /// receiver ignores bits that it does not know.
    pub capabilities: u64,
    /// Its name and version.
    pub software: Software<'a>,
}

/// Any frame but DATA, of which the [`Parser`](super::Parser) shows pieces and [`flow::Outgoing`](super::flow::Outgoing)
/// writes the header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame<'a> {
    /// Who speaks, and what it can do.
    Hello(Hello<'a>),
    /// A link is wished for. The answer is [`Frame::Opened`] or [`Frame::Refused`].
    Open(Open),
    /// The link is there.
    Opened,
    /// No; or the end of a link, with its reason.
    Refused {
        /// Why.
        code: Refusal,
        /// The same for people, or the label of a denial.
        detail: Detail<'a>,
    },
    /// A link shall go on on this leg. The answer is [`Frame::Resumed`] or [`Frame::Refused`].
    Resume {
        /// Which.
        link: LinkId,
        /// How many bytes of it the sender has received.
        received: u64,
    },
    /// The link goes on here.
    Resumed {
        /// How many bytes of it the sender has received.
        received: u64,
    },
    /// Bytes of the link that need not be kept any more.
    Ack {
        /// How many the sender has received; one more once it has received the FIN too.
        received: u64,
    },
    /// The node has closed its direction.
    Fin {
        /// How many bytes it had written.
        offset: u64,
    },
    /// The node's connection was reset: the link is over in both directions, whatever has not arrived.
    Rst,
    /// The leg lives.
    Ping,
    /// A question to the epmd of the answering guard's host.
    Ask {
        /// The asking guard's number of it.
        id: u32,
        /// The request.
        request: AskBody<'a>,
    },
    /// The answer to a question.
    Answer {
        /// The question's number.
        id: u32,
        /// The reply; empty where there is none, as epmd refuses.
        reply: AnswerBody<'a>,
    },
}

/// Why some bytes can be no frame, or not here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A type that is not known and may not be skipped.
    #[error("there is no frame of type {0}")]
    Type(u8),
    /// A flag that is not known.
    #[error("the flags of a frame are {0}, and only {IGNORABLE} is known")]
    Flags(u8),
    /// The two bytes that must be zero.
    #[error("two bytes of a header are {0}, and must be zero")]
    Reserved(u16),
    /// A length that no frame of this type has.
    #[error("a frame {kind:?} has {length} bytes")]
    Length {
        /// The type.
        kind: Type,
        /// The length of the body.
        length: u32,
    },
    /// A frame that may be skipped, but is longer than any.
    #[error("a frame to be skipped has {0} bytes")]
    Skipped(u32),
    /// The first frame is no HELLO.
    #[error("the first frame is of type {0}, and must be a HELLO")]
    NoHello(u8),
    /// A HELLO that is not the first frame.
    #[error("there is a second HELLO")]
    SecondHello,
    /// An ANSWER to somebody who does not ask.
    #[error("an answer came where nothing was asked")]
    Answer,
    /// A text that is not UTF-8.
    #[error("a text is not UTF-8")]
    Text,
    /// A kind of link that is not known.
    #[error("there is no link of kind {0}")]
    Kind(u8),
    /// A port 0.
    #[error("a link to port 0 is wished for")]
    Port,
    /// An address that is none.
    #[error("the address of a source is none")]
    Source,
    /// Bytes beyond the last that can be counted.
    #[error("the offset {0} leaves no room for what follows")]
    Offset(u64),
}

/// What a header tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Header {
    /// A known frame, and the length of its body.
    Known(Type, usize),
    /// A frame to be skipped, and the length of its body.
    Skipped(usize),
}

impl Header {
    /// Reads the header of a frame, and checks the length by the type.
    pub(super) fn decode(bytes: [u8; HEADER]) -> Result<Self, Malformed> {
        let [number, flags, one, two, length @ ..] = bytes;
        let reserved = u16::from_be_bytes([one, two]);
        let length = u32::from_be_bytes(length);
        let known = Type::ALL.into_iter().find(|kind| kind.number() == number);
        if known.is_none() && flags & IGNORABLE == 0 {
            return Err(Malformed::Type(number));
        }
        if flags & !IGNORABLE != 0 {
            return Err(Malformed::Flags(flags));
        }
        if reserved != 0 {
            return Err(Malformed::Reserved(reserved));
        }
        let size = usize::try_from(length).unwrap_or(usize::MAX);
        match known {
            Some(kind) if kind.lengths().contains(&size) => Ok(Self::Known(kind, size)),
            Some(kind) => Err(Malformed::Length { kind, length }),
            None if size <= MAX_DATA => Ok(Self::Skipped(size)),
            None => Err(Malformed::Skipped(length)),
        }
    }

    fn encode(kind: Type, length: usize) -> [u8; HEADER] {
        // No frame that can be made is longer than its type allows.
        let [a, b, c, d] = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
        [kind.number(), 0, 0, 0, a, b, c, d]
    }
}

/// What stands before `length` bytes of data, of which the first has this offset.
pub(super) fn data_header(offset: u64, length: usize) -> [u8; DATA_HEADER] {
    offset_header(Type::Data, offset, length)
}

/// A whole FIN.
pub(super) fn fin_frame(offset: u64) -> [u8; DATA_HEADER] {
    offset_header(Type::Fin, offset, 0)
}

fn offset_header(kind: Type, offset: u64, length: usize) -> [u8; DATA_HEADER] {
    let mut bytes = [0; DATA_HEADER];
    let (header, rest) = bytes.split_at_mut(HEADER);
    header.copy_from_slice(&Header::encode(kind, 8 + length));
    rest.copy_from_slice(&offset.to_be_bytes());
    bytes
}

impl<'a> Frame<'a> {
    /// Its type.
    #[must_use]
    pub fn kind(&self) -> Type {
        match self {
            Self::Hello(_) => Type::Hello,
            Self::Open(_) => Type::Open,
            Self::Opened => Type::Opened,
            Self::Refused { .. } => Type::Refused,
            Self::Resume { .. } => Type::Resume,
            Self::Resumed { .. } => Type::Resumed,
            Self::Ack { .. } => Type::Ack,
            Self::Fin { .. } => Type::Fin,
            Self::Rst => Type::Rst,
            Self::Ping => Type::Ping,
            Self::Ask { .. } => Type::Ask,
            Self::Answer { .. } => Type::Answer,
        }
    }

    /// Writes it with its header behind what is there.
    pub fn encode_into(&self, into: &mut Vec<u8>) {
        let start = into.len();
        into.extend([0; HEADER]);
        match self {
            Self::Hello(hello) => {
                into.extend(hello.capabilities.to_be_bytes());
                into.extend(hello.software.as_str().as_bytes());
            }
            Self::Open(open) => open.encode_into(into),
            Self::Opened | Self::Rst | Self::Ping => {}
            Self::Refused { code, detail } => {
                into.extend(code.number().to_be_bytes());
                into.extend(detail.as_str().as_bytes());
            }
            Self::Resume { link, received } => {
                into.extend(link.0);
                into.extend(received.to_be_bytes());
            }
            Self::Resumed { received: count }
            | Self::Ack { received: count }
            | Self::Fin { offset: count } => {
                into.extend(count.to_be_bytes());
            }
            Self::Ask { id, request } => {
                into.extend(id.to_be_bytes());
                into.extend(request.as_slice());
            }
            Self::Answer { id, reply } => {
                into.extend(id.to_be_bytes());
                into.extend(reply.as_slice());
            }
        }
        let length = into.len() - start - HEADER;
        if let Some(header) = into.get_mut(start..start + HEADER) {
            header.copy_from_slice(&Header::encode(self.kind(), length));
        }
    }

    /// Reads the body of a frame that is not DATA.
    pub(super) fn decode(kind: Type, body: &'a [u8]) -> Result<Self, Malformed> {
        let mut rest = Reader::of(kind, body);
        let frame = match kind {
            Type::Hello => {
                let capabilities = rest.u64()?;
                let software = Text::of(rest.all()).ok_or(Malformed::Text)?;
                Self::Hello(Hello { capabilities, software })
            }
            Type::Open => Self::Open(Open::decode(&mut rest)?),
            Type::Opened => Self::Opened,
            Type::Refused => {
                let code = Refusal::of(rest.u16()?);
                Self::Refused { code, detail: Text::of(rest.all()).ok_or(Malformed::Text)? }
            }
            Type::Resume => Self::Resume { link: LinkId(rest.array()?), received: rest.u64()? },
            Type::Resumed => Self::Resumed { received: rest.u64()? },
            Type::Ack => Self::Ack { received: rest.u64()? },
            Type::Fin => Self::Fin { offset: rest.countable()? },
            Type::Rst => Self::Rst,
            Type::Ping => Self::Ping,
            Type::Ask => Self::Ask { id: rest.u32()?, request: rest.bytes()? },
            Type::Answer => Self::Answer { id: rest.u32()?, reply: rest.bytes()? },
            Type::Data => return Err(rest.fault()),
        };
        rest.end().map(|()| frame)
    }

    /// The same frame, independent of what it was read from.
    #[must_use]
    pub fn into_owned(self) -> Frame<'static> {
        match self {
            Self::Hello(Hello { capabilities, software }) => {
                Frame::Hello(Hello { capabilities, software: software.into_owned() })
            }
            Self::Open(open) => Frame::Open(open),
            Self::Opened => Frame::Opened,
            Self::Refused { code, detail } => Frame::Refused { code, detail: detail.into_owned() },
            Self::Resume { link, received } => Frame::Resume { link, received },
            Self::Resumed { received } => Frame::Resumed { received },
            Self::Ack { received } => Frame::Ack { received },
            Self::Fin { offset } => Frame::Fin { offset },
            Self::Rst => Frame::Rst,
            Self::Ping => Frame::Ping,
            Self::Ask { id, request } => Frame::Ask { id, request: request.into_owned() },
            Self::Answer { id, reply } => Frame::Answer { id, reply: reply.into_owned() },
        }
    }
}
