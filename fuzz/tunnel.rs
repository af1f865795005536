//! What must hold for any bytes of the tunnel: shared by the fuzz targets and by `tests/corpus.rs`, which replays the
//! committed corpus on stable.

use std::cell::Cell;
use std::rc::Rc;

use epmd_guard::proto::tunnel::flow::{Outgoing, Segments, Size};
use epmd_guard::proto::tunnel::{
    Answers, DATA_HEADER, Event, Frame, HEADER, Hello, MAX_DATA, Malformed, Parser, Text,
};

/// What comes of a stream, with the pieces of data that lie behind each other put together.
#[derive(Debug, PartialEq)]
enum Got {
    Frame(Frame<'static>),
    Data(u64, Vec<u8>),
}

/// A stream of frames. The lowest bit of the first byte says whether answers are taken, the others how long the pieces are
/// into which it is cut.
///
/// However it is cut, the same comes of it; and what comes of it is written as frames of which the same comes.
pub(crate) fn check_frames(input: &[u8]) {
    let Some((how, stream)) = input.split_first() else { return };
    let answers = if how & 1 == 1 { Answers::Taken } else { Answers::Refused };
    let all = parsed(stream, stream.len(), answers);
    for length in [1, 1 + usize::from(how >> 1)] {
        assert_eq!(parsed(stream, length, answers), all);
    }
    let whole = all.0;
    let mut again = Vec::new();
    for got in &whole {
        match got {
            Got::Frame(frame) => {
                let before = again.len();
                frame.encode_into(&mut again);
                assert_eq!(again[before], frame.kind().number());
            }
            Got::Data(offset, bytes) => {
                for (at, bytes) in bytes.chunks(MAX_DATA).enumerate() {
                    again.extend(data_header(offset + (at * MAX_DATA) as u64, bytes.len()));
                    again.extend(bytes);
                }
            }
        }
    }
    assert_eq!(parsed(&again, again.len(), answers), (whole, Ok(())));
}

/// As the specification has it.
fn data_header(offset: u64, length: usize) -> [u8; DATA_HEADER] {
    let mut header = [7; DATA_HEADER];
    header[1..4].fill(0);
    header[4..HEADER].copy_from_slice(&u32::try_from(8 + length).expect("a length").to_be_bytes());
    header[HEADER..].copy_from_slice(&offset.to_be_bytes());
    header
}

fn parsed(stream: &[u8], length: usize, answers: Answers) -> (Vec<Got>, Result<(), Malformed>) {
    let mut parser = Parser::new(answers);
    let mut got: Vec<Got> = Vec::new();
    for piece in stream.chunks(length.max(1)) {
        let mut rest = piece;
        while !rest.is_empty() {
            let (taken, event) = match parser.feed(rest) {
                Ok(fed) => fed,
                Err(fault) => {
                    assert_eq!(parser.feed(rest).err(), Some(fault));
                    return (got, Err(fault));
                }
            };
            assert!(event.is_some() || taken == rest.len());
            rest = &rest[taken..];
            match event {
                Some(Event::Frame(frame)) => {
                    let is_first = got.is_empty();
                    assert_eq!(matches!(frame, Frame::Hello(_)), is_first, "a HELLO is the first frame");
                    got.push(Got::Frame(frame.into_owned()));
                }
                Some(Event::Data { offset, bytes }) => match got.last_mut() {
                    Some(Got::Data(from, before)) if *from + before.len() as u64 == offset => {
                        before.extend(bytes)
                    }
                    _ => got.push(Got::Data(offset, bytes.to_vec())),
                },
                None => {}
            }
        }
    }
    (got, Ok(()))
}

/// Counts what it has given out.
#[derive(Clone, Default)]
struct Pool(Rc<Cell<usize>>);

/// It gives out no more than this.
const POOL: usize = 1 << 20;

impl Segments for Pool {
    type Memory = Box<[u8]>;

    fn take(&self, size: Size) -> Option<Box<[u8]>> {
        (self.0.get() + size.bytes() <= POOL).then(|| {
            self.0.set(self.0.get() + size.bytes());
            vec![0xee; size.bytes()].into_boxed_slice()
        })
    }

    fn give(&self, segment: Box<[u8]>) {
        self.0.set(self.0.get() - segment.len());
    }
}

/// The sending half of a link, beside all bytes that were ever written to it. After a byte for the cap, each step is a byte
/// and two more for a number.
///
/// What is sent are whole frames with the bytes that were written, each behind the one before; what is held is within the
/// cap and goes back.
pub(crate) fn check_flow(input: &[u8]) {
    let Some((cap, steps)) = input.split_first() else { return };
    let pool = Pool::default();
    let cap = 4096 + usize::from(*cap) * 8192;
    let mut model = Model::new(Outgoing::new(pool.clone(), cap));
    for step in steps.as_chunks::<3>().0 {
        let number = usize::from(u16::from_be_bytes([step[1], step[2]]));
        model.step(step[0], number);
        assert_eq!(model.outgoing.held(), pool.0.get());
        assert!(pool.0.get() <= cap);
    }
    model.end();
    assert_eq!(pool.0.get(), 0);
}

/// What is written at this offset.
fn byte_at(offset: usize) -> u8 {
    (offset as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()[0]
}

struct Model {
    outgoing: Outgoing<Pool>,
    written: Vec<u8>,
    /// How long the room is that was given and not committed.
    room: usize,
    closed: bool,
    acked: u64,
    sent: u64,
    highest: u64,
    /// What was handed out and not sent.
    piece: Option<Vec<u8>>,
}

impl Model {
    fn new(outgoing: Outgoing<Pool>) -> Self {
        let (written, piece) = (Vec::new(), None);
        Self { outgoing, written, room: 0, closed: false, acked: 0, sent: 0, highest: 0, piece }
    }

    fn step(&mut self, step: u8, number: usize) {
        match step % 9 {
            0 => self.write(number % 100),
            1 => self.write(number * 9),
            2 => self.give_room(number * 9),
            3 => self.send(),
            4 => drop(self.hand_out()),
            5 => {
                // Of a piece that was handed out all may have come, or a part.
                let known = self.end_of_piece();
                let received = self.acked + number as u64 % (known - self.acked + 1);
                self.outgoing.acknowledge(received).expect("it was sent");
                if self.piece.is_some() && received == known {
                    (self.piece, self.sent) = (None, known);
                }
                self.acked = received;
            }
            6 => {
                let received = self.acked + number as u64 % (self.highest - self.acked + 1);
                self.outgoing.resume_at(received).expect("it was sent");
                (self.acked, self.sent, self.piece) = (received, received, None);
            }
            7 => {
                let beyond = self.highest + 1 + number as u64;
                assert!(self.outgoing.acknowledge(beyond).is_err());
                assert!(self.outgoing.resume_at(beyond).is_err());
                if let Some(before) = self.acked.checked_sub(1 + number as u64) {
                    assert!(self.outgoing.acknowledge(before).is_err());
                    assert!(self.outgoing.resume_at(before).is_err());
                }
            }
            _ if number.is_multiple_of(16) => self.close(),
            _ => assert!(self.outgoing.unacknowledged() == self.total() - self.acked),
        }
    }

    /// The offset behind everything, the FIN included.
    fn total(&self) -> u64 {
        self.written.len() as u64 + u64::from(self.closed)
    }

    fn give_room(&mut self, most: usize) {
        let from = self.written.len();
        let Some(room) = self.outgoing.room(most) else { return };
        assert!(room.len() <= most && !self.closed);
        for (at, byte) in room.iter_mut().enumerate() {
            *byte = byte_at(from + at);
        }
        self.room = room.len();
    }

    fn write(&mut self, count: usize) {
        if self.room == 0 {
            self.give_room(count);
        }
        let (from, count) = (self.written.len(), count.min(self.room));
        self.written.extend((from..from + count).map(byte_at));
        self.outgoing.commit(count);
        self.room = 0;
        assert_eq!(self.outgoing.end(), self.written.len() as u64);
    }

    fn close(&mut self) {
        self.outgoing.finish();
        (self.closed, self.room) = (true, 0);
    }

    /// Takes a piece and looks at it. It is the same until it is sent.
    fn hand_out(&mut self) -> bool {
        let Some(piece) = self.outgoing.unsent().map(<[u8]>::to_vec) else {
            assert!(self.piece.is_none());
            return false;
        };
        if let Some(before) = &self.piece {
            assert_eq!(&piece, before);
        }
        let mut stream = Vec::new();
        Frame::Hello(Hello { capabilities: 0, software: Text::cut("") }).encode_into(&mut stream);
        stream.extend(&piece);
        let (got, end) = parsed(&stream, stream.len(), Answers::Refused);
        assert_eq!(end, Ok(()));
        let behind = match &got[..] {
            [_, Got::Data(offset, bytes)] => {
                let from = usize::try_from(*offset).expect("an offset");
                assert_eq!((*offset, &bytes[..]), (self.sent, &self.written[from..from + bytes.len()]));
                offset + bytes.len() as u64
            }
            [_, Got::Frame(Frame::Fin { offset })] => {
                assert_eq!((*offset, self.closed), (self.written.len() as u64, true));
                assert_eq!(*offset, self.sent);
                offset + 1
            }
            other => panic!("{other:?}"),
        };
        self.highest = self.highest.max(behind);
        self.piece = Some(piece);
        true
    }

    /// The offset behind what is handed out, or else behind what was sent.
    fn end_of_piece(&self) -> u64 {
        let piece = self.piece.clone().unwrap_or_default();
        let mut behind = self.sent;
        let mut rest = &piece[..];
        while let Some((header, more)) = rest.split_first_chunk::<DATA_HEADER>() {
            let [kind, _, _, _, length @ ..] = header.first_chunk::<HEADER>().expect("a header");
            let length = u32::from_be_bytes(*length) as usize - 8;
            behind += if *kind == 7 { length as u64 } else { 1 };
            rest = &more[length..];
        }
        behind
    }

    fn send(&mut self) {
        if self.hand_out() {
            self.sent = self.end_of_piece();
            self.piece = None;
            self.outgoing.sent();
        }
    }

    /// The rest arrives.
    fn end(&mut self) {
        self.close();
        while self.sent < self.total() {
            self.send();
        }
        assert_eq!(self.outgoing.unsent(), None);
        assert_eq!(self.outgoing.is_done(), self.acked == self.total());
        self.outgoing.acknowledge(self.total()).expect("all was sent");
        assert!(self.outgoing.is_done());
        assert_eq!(self.outgoing.held(), 0);
    }
}
