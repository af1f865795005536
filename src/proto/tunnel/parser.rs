//! Takes a stream of frames apart, however it is cut.

use super::frame::{Frame, Header, Malformed, Type};
use super::{DATA_HEADER, HEADER};

/// Whether the one who reads has asked anything, and so takes answers: they are long, and kept until they are whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answers {
    /// The leg carries our questions.
    Taken,
    /// It does not: an ANSWER is malformed.
    Refused,
}

/// What has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event<'a> {
    /// A whole frame.
    Frame(Frame<'a>),
    /// Some bytes of a DATA frame, as they stand in what was fed.
    Data {
        /// The offset of the first of them in the link.
        offset: u64,
        /// At least one byte.
        bytes: &'a [u8],
    },
}

/// Reads one direction of a leg. It holds a header, and the body of a frame that has come in part: 1 KiB at most, or one
/// answer where it takes them. Data is never held.
#[derive(Debug)]
pub struct Parser {
    state: State,
    greeted: bool,
    answers: Answers,
    fault: Option<Malformed>,
}

#[derive(Debug)]
enum State {
    /// A part of a header, and with DATA of the offset behind it.
    Head { held: [u8; DATA_HEADER], have: usize },
    /// A part of a body of so many bytes.
    Body { kind: Type, length: usize, held: Vec<u8> },
    /// Within data: the offset of the next byte, and how many are missing.
    Data { offset: u64, left: usize },
    /// Within a frame that is skipped: how many bytes are missing.
    Skip { left: usize },
}

impl State {
    const START: Self = Self::Head { held: [0; DATA_HEADER], have: 0 };
}

impl Parser {
    /// For a leg from its beginning: the first frame must be a HELLO, and no other may be.
    #[must_use]
    pub fn new(answers: Answers) -> Self {
        Self { state: State::START, greeted: false, answers, fault: None }
    }

    /// Takes bytes up to the end of the next event, or all of them where there is none: how many, and the event. What was
    /// not taken is to be fed again, until nothing is left.
    ///
    /// # Errors
    /// They are no frames; found as early as the bytes tell. The leg is of no use any more: every further call
    /// fails the same.
    pub fn feed<'a>(&mut self, bytes: &'a [u8]) -> Result<(usize, Option<Event<'a>>), Malformed> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        let mut rest = bytes;
        match self.next(&mut rest) {
            Ok(event) => Ok((bytes.len() - rest.len(), event)),
            Err(fault) => {
                self.fault = Some(fault);
                Err(fault)
            }
        }
    }

    /// Whether the last frame is whole, so that a leg that ends here has lost nothing of one.
    #[must_use]
    pub fn is_between_frames(&self) -> bool {
        matches!(self.state, State::Head { have: 0, .. })
    }

    fn next<'a>(&mut self, rest: &mut &'a [u8]) -> Result<Option<Event<'a>>, Malformed> {
        while !rest.is_empty() {
            let event = match &mut self.state {
                State::Head { .. } => self.head(rest)?.map(Event::Frame),
                State::Body { .. } => self.body(rest)?.map(Event::Frame),
                State::Data { offset, left } => {
                    let bytes = take(rest, *left);
                    let event = Event::Data { offset: *offset, bytes };
                    *left -= bytes.len();
                    *offset = offset.saturating_add(bytes.len() as u64);
                    if *left == 0 {
                        self.state = State::START;
                    }
                    Some(event)
                }
                State::Skip { left } => {
                    *left -= take(rest, *left).len();
                    if *left == 0 {
                        self.state = State::START;
                    }
                    None
                }
            };
            if event.is_some() {
                return Ok(event);
            }
        }
        Ok(None)
    }

    /// Goes on with a header. A frame without a body is whole with it.
    fn head(&mut self, rest: &mut &[u8]) -> Result<Option<Frame<'static>>, Malformed> {
        let State::Head { held, have } = &mut self.state else { return Ok(None) };
        fill(held, have, HEADER, rest);
        let Some(header) = held.first_chunk::<HEADER>().filter(|_| *have >= HEADER) else { return Ok(None) };
        let header = Header::decode(*header)?;
        match header {
            Header::Known(Type::Data, length) if self.greeted => {
                fill(held, have, DATA_HEADER, rest);
                let Some(offset) = held.last_chunk().filter(|_| *have == DATA_HEADER) else {
                    return Ok(None);
                };
                let (offset, left) = (u64::from_be_bytes(*offset), length.saturating_sub(8));
                // The FIN behind the last byte has an offset too.
                let end = offset.checked_add(left as u64).filter(|end| *end < u64::MAX);
                end.ok_or(Malformed::Offset(offset))?;
                self.state = State::Data { offset, left };
                return Ok(None);
            }
            Header::Known(Type::Hello, _) if self.greeted => return Err(Malformed::SecondHello),
            Header::Known(Type::Hello, _) => self.greeted = true,
            _ if !self.greeted => return Err(Malformed::NoHello(held.first().copied().unwrap_or_default())),
            Header::Known(Type::Answer, _) if self.answers == Answers::Refused => {
                return Err(Malformed::Answer);
            }
            Header::Known(..) | Header::Skipped(_) => {}
        }
        self.state = match header {
            Header::Skipped(0) | Header::Known(_, 0) => State::START,
            Header::Skipped(left) => State::Skip { left },
            Header::Known(kind, length) => State::Body { kind, length, held: Vec::new() },
        };
        match header {
            Header::Known(kind, 0) => Frame::decode(kind, &[]).map(Some),
            Header::Known(..) | Header::Skipped(_) => Ok(None),
        }
    }

    /// Goes on with a body. One that lies there whole is read where it is.
    fn body<'a>(&mut self, rest: &mut &'a [u8]) -> Result<Option<Frame<'a>>, Malformed> {
        let State::Body { kind, length, held } = &mut self.state else { return Ok(None) };
        let (kind, length) = (*kind, *length);
        let taken = take(rest, length - held.len());
        let frame = if taken.len() == length {
            Frame::decode(kind, taken)?
        } else {
            held.extend_from_slice(taken);
            if held.len() < length {
                return Ok(None);
            }
            Frame::decode(kind, held)?.into_owned()
        };
        self.state = State::START;
        Ok(Some(frame))
    }
}

/// The next `most` bytes, or as many as there are.
fn take<'a>(rest: &mut &'a [u8], most: usize) -> &'a [u8] {
    let (taken, left) = rest.split_at_checked(most).unwrap_or((rest, &[]));
    *rest = left;
    taken
}

/// Fills `held` up to `until`.
fn fill(held: &mut [u8], have: &mut usize, until: usize, rest: &mut &[u8]) {
    let bytes = take(rest, until.saturating_sub(*have));
    if let Some(room) = held.get_mut(*have..*have + bytes.len()) {
        room.copy_from_slice(bytes);
        *have += bytes.len();
    }
}
