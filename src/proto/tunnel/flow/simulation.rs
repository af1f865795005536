//! One direction of a link over legs that break: each byte arrives once, in order, and the FIN behind the last one.

use proptest::prelude::*;

use super::outgoing_tests::Pool;
use super::{AckDue, Fin, Incoming, Outgoing};
use crate::proto::tunnel::{Answers, Event, Frame, Hello, Parser, Text};

/// What happens.
#[derive(Debug, Clone)]
enum Step {
    /// The node writes so many bytes, if there is room.
    Write(usize),
    /// So many pieces are sealed.
    Send(usize),
    /// So many bytes of the leg arrive.
    Arrive(usize),
    /// The node at the other end takes so many bytes.
    Take(usize),
    /// An ACK is sent, due or not.
    Ack,
    /// So many bytes of what the other guard sent arrive.
    ArriveBack(usize),
    /// The leg breaks and is replaced.
    Break,
    /// A read is begun, and ends only with the next write.
    Room(usize),
}

/// Two ends, and what lies between them.
struct Link {
    pool: Pool,
    cap: usize,
    outgoing: Outgoing<Pool>,
    incoming: Incoming,
    there: Vec<u8>,
    back: Vec<u8>,
    readers: [Parser; 2],
    /// Accepted and not yet taken by the node.
    waiting: Vec<u8>,
    fin_waits: bool,
    written: u64,
    room: usize,
    taken: u64,
    closed: bool,
}

/// The byte at this offset, whatever the frames.
fn byte(offset: u64) -> u8 {
    (offset.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

fn greeted() -> Parser {
    let mut parser = Parser::new(Answers::Refused);
    let mut hello = Vec::new();
    Frame::Hello(Hello { capabilities: 0, software: Text::cut("") }).encode_into(&mut hello);
    parser.feed(&hello).unwrap();
    parser
}

impl Link {
    fn new(cap: usize) -> Self {
        let pool = Pool::of(2 * cap);
        Self {
            outgoing: Outgoing::new(pool.clone(), cap),
            pool,
            cap: cap.max(4096),
            incoming: Incoming::default(),
            there: Vec::new(),
            back: Vec::new(),
            readers: [greeted(), greeted()],
            waiting: Vec::new(),
            fin_waits: false,
            written: 0,
            room: 0,
            taken: 0,
            closed: false,
        }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Room(most) => self.give_room(*most),
            Step::Write(count) => {
                if self.room == 0 {
                    self.give_room(*count);
                }
                self.outgoing.commit(self.room.min(*count));
                self.written += self.room.min(*count) as u64;
                self.room = 0;
            }
            Step::Send(pieces) => self.send(*pieces),
            Step::Arrive(count) => self.arrive(*count),
            Step::Take(count) => self.take(*count),
            Step::Ack => {
                let received = self.incoming.acknowledge();
                assert_eq!((received, self.incoming.due()), (self.incoming.received(), AckDue::No));
                Frame::Ack { received }.encode_into(&mut self.back);
            }
            Step::ArriveBack(count) => self.arrive_back(*count),
            Step::Break => self.replace_leg(),
        }
        assert_eq!((self.outgoing.held(), self.outgoing.end()), (self.pool.out.get(), self.written));
        assert!(self.outgoing.held() <= self.cap);
    }

    fn give_room(&mut self, most: usize) {
        if let Some(room) = self.outgoing.room(most) {
            self.room = room.len();
            let from = self.written;
            room.iter_mut().zip(from..).for_each(|(into, offset)| *into = byte(offset));
        }
    }

    fn send(&mut self, pieces: usize) {
        for _ in 0..pieces {
            let Some(piece) = self.outgoing.unsent() else { return };
            self.there.extend_from_slice(piece);
            self.outgoing.sent();
        }
    }

    fn arrive(&mut self, count: usize) {
        let arrived: Vec<u8> = self.there.drain(..count.min(self.there.len())).collect();
        let mut rest = &arrived[..];
        while !rest.is_empty() {
            let (taken, event) = self.readers[0].feed(rest).unwrap();
            rest = &rest[taken..];
            match event {
                Some(Event::Data { offset, bytes }) => {
                    self.waiting.extend(self.incoming.accept(offset, bytes).unwrap());
                }
                Some(Event::Frame(Frame::Fin { offset })) => {
                    assert_eq!(self.incoming.finish(offset), Ok(Fin::New));
                    self.fin_waits = true;
                }
                other => assert_eq!(other, None),
            }
        }
        let waiting = self.waiting.len() as u64 + u64::from(self.fin_waits);
        assert_eq!(self.incoming.undelivered(), waiting);
    }

    fn take(&mut self, count: usize) {
        for got in self.waiting.drain(..count.min(self.waiting.len())) {
            assert_eq!(got, byte(self.taken), "at {}", self.taken);
            assert!(!self.closed);
            self.incoming.delivered(1);
            self.taken += 1;
        }
        if self.fin_waits && self.waiting.is_empty() && count > 0 {
            self.incoming.delivered(1);
            self.fin_waits = false;
            self.closed = true;
            assert_eq!((self.taken, self.incoming.due()), (self.written, AckDue::Now));
        }
    }

    fn arrive_back(&mut self, count: usize) {
        let arrived: Vec<u8> = self.back.drain(..count.min(self.back.len())).collect();
        let mut rest = &arrived[..];
        while !rest.is_empty() {
            let (taken, event) = self.readers[1].feed(rest).unwrap();
            rest = &rest[taken..];
            match event {
                Some(Event::Frame(Frame::Ack { received })) => self.outgoing.acknowledge(received).unwrap(),
                other => assert_eq!(other, None),
            }
        }
    }

    /// What was on the way is lost, in both directions, from any byte on.
    fn replace_leg(&mut self) {
        self.there.clear();
        self.back.clear();
        self.readers = [greeted(), greeted()];
        self.waiting.clear();
        self.fin_waits = false;
        let received = self.incoming.resume();
        self.outgoing.resume_at(received).unwrap();
    }

    /// The node closes, and the last leg holds.
    fn finish(&mut self) {
        self.step(&Step::Write(0));
        self.outgoing.finish();
        for _ in 0..3 {
            self.send(usize::MAX);
            self.arrive(usize::MAX);
            self.take(usize::MAX);
            self.step(&Step::Ack);
            self.arrive_back(usize::MAX);
        }
        assert!(self.closed && self.incoming.is_done() && self.outgoing.is_done());
        assert_eq!((self.taken, self.outgoing.held(), self.pool.out.get()), (self.written, 0, 0));
    }
}

fn steps() -> impl Strategy<Value = Step> {
    let count = || prop_oneof![0usize..40, 0usize..5000, 0usize..600_000];
    prop_oneof![
        8 => count().prop_map(Step::Write),
        6 => (1usize..4).prop_map(Step::Send),
        8 => count().prop_map(Step::Arrive),
        8 => count().prop_map(Step::Take),
        3 => Just(Step::Ack),
        3 => count().prop_map(Step::ArriveBack),
        2 => Just(Step::Break),
        1 => count().prop_map(Step::Room),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn each_byte_arrives_once_whatever_breaks(
        cap in prop_oneof![Just(4096usize), Just(100_000), Just(4 << 20)],
        steps in proptest::collection::vec(steps(), 1..120),
        closes_early: bool,
    ) {
        let mut link = Link::new(cap);
        for step in &steps {
            link.step(step);
        }
        if closes_early {
            // The FIN too may be lost, at any of its bytes.
            link.step(&Step::Write(0));
            link.outgoing.finish();
            for step in &steps {
                if !matches!(step, Step::Write(_) | Step::Room(_)) {
                    link.step(step);
                }
            }
        }
        link.finish();
    }
}

#[test]
fn a_leg_that_breaks_at_every_byte_loses_none() {
    let mut link = Link::new(1 << 20);
    for cut in 0..200 {
        link.step(&Step::Write(7));
        link.step(&Step::Write(90));
        link.send(1);
        link.step(&Step::Write(30));
        link.send(1);
        link.step(&Step::Arrive(cut));
        link.step(&Step::Take(cut / 2));
        link.step(&Step::Break);
    }
    link.finish();
    assert_eq!(link.taken, 200 * 127);
}
