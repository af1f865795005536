//! The sending half by itself: where bytes lie, what memory it takes, and what it refuses.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::{Outgoing, OutsideReplay, Segments, Size};
use crate::proto::tunnel::{DATA_HEADER, Frame};

/// A pool that counts, and that has an end.
#[derive(Debug, Clone)]
pub(super) struct Pool {
    pub(super) out: Rc<Cell<usize>>,
    most: usize,
    taken: Rc<RefCell<Vec<Size>>>,
}

impl Pool {
    pub(super) fn of(most: usize) -> Self {
        Self { out: Rc::default(), most, taken: Rc::default() }
    }
}

impl Segments for Pool {
    type Memory = Box<[u8]>;

    fn take(&self, size: Size) -> Option<Box<[u8]>> {
        if self.out.get() + size.bytes() > self.most {
            return None;
        }
        self.out.set(self.out.get() + size.bytes());
        self.taken.borrow_mut().push(size);
        // What was there before must not matter.
        Some(vec![0xee; size.bytes()].into_boxed_slice())
    }

    fn give(&self, segment: Box<[u8]>) {
        assert!(Size::of(segment.len()).is_some());
        self.out.set(self.out.get() - segment.len());
    }
}

const MIB: usize = 1024 * 1024;

fn outgoing(cap: usize) -> (Outgoing<Pool>, Pool) {
    let pool = Pool::of(usize::MAX / 2);
    (Outgoing::new(pool.clone(), cap), pool)
}

fn write(outgoing: &mut Outgoing<Pool>, bytes: &[u8]) {
    let room = outgoing.room(bytes.len()).unwrap();
    assert_eq!(room.len(), bytes.len());
    room.copy_from_slice(bytes);
    outgoing.commit(bytes.len());
}

fn data(offset: u64, bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(8 + bytes.len()).unwrap();
    [&[7, 0, 0, 0][..], &length.to_be_bytes(), &offset.to_be_bytes(), bytes].concat()
}

fn fin(offset: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    Frame::Fin { offset }.encode_into(&mut bytes);
    bytes
}

/// All that is unsent, as one.
fn send(outgoing: &mut Outgoing<Pool>) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(piece) = outgoing.unsent() {
        assert!(!piece.is_empty());
        all.extend_from_slice(piece);
        outgoing.sent();
    }
    all
}

#[test]
fn what_is_read_while_nothing_is_sent_is_one_frame() {
    let (mut outgoing, _) = outgoing(MIB);
    write(&mut outgoing, b"ab");
    write(&mut outgoing, b"cd");
    assert_eq!(send(&mut outgoing), data(0, b"abcd"));
    write(&mut outgoing, b"e");
    assert_eq!(send(&mut outgoing), data(4, b"e"));
    assert_eq!((outgoing.end(), outgoing.unacknowledged()), (5, 5));
}

#[test]
fn what_is_handed_out_stays_until_it_is_sent() {
    let (mut outgoing, _) = outgoing(MIB);
    write(&mut outgoing, b"ab");
    let first = outgoing.unsent().unwrap().to_vec();
    write(&mut outgoing, b"cd");
    write(&mut outgoing, b"ef");
    assert_eq!(outgoing.unsent().unwrap(), first);
    // The peer tells of a part before we know that all is sealed.
    outgoing.acknowledge(1).unwrap();
    assert_eq!(outgoing.unsent().unwrap(), first);
    outgoing.sent();
    outgoing.sent();
    assert_eq!(send(&mut outgoing), data(2, b"cdef"));
}

#[test]
fn a_room_that_is_open_is_not_sent_and_not_lost() {
    let (mut outgoing, pool) = outgoing(MIB);
    write(&mut outgoing, b"ab");
    // It would make the frame longer, so that the frame waits for it.
    outgoing.room(2).unwrap().copy_from_slice(b"cd");
    assert_eq!(outgoing.unsent(), None);
    outgoing.commit(2);
    assert_eq!(send(&mut outgoing), data(0, b"abcd"));
    outgoing.room(3).unwrap().copy_from_slice(b"efg");
    outgoing.acknowledge(4).unwrap();
    outgoing.resume_at(4).unwrap();
    assert_eq!(outgoing.unsent(), None);
    outgoing.commit(3);
    outgoing.room(1).unwrap().copy_from_slice(b"h");
    outgoing.commit(1);
    assert_eq!(send(&mut outgoing), data(4, b"efgh"));
    outgoing.room(3).unwrap();
    outgoing.acknowledge(8).unwrap();
    assert_eq!(pool.out.get(), Size::Tiny.bytes());
    outgoing.commit(0);
    assert_eq!((pool.out.get(), outgoing.held()), (0, 0));
    outgoing.commit(5);
    assert_eq!((outgoing.end(), outgoing.unsent()), (8, None));
}

#[test]
fn a_frame_that_was_begun_again_at_its_end_is_not_empty() {
    let (mut outgoing, _) = outgoing(MIB);
    write(&mut outgoing, b"ab");
    send(&mut outgoing);
    // Unsent again, so that the next bytes are put behind; then it turns out that all had come.
    outgoing.resume_at(0).unwrap();
    outgoing.room(2).unwrap().copy_from_slice(b"cd");
    outgoing.resume_at(2).unwrap();
    assert_eq!(outgoing.unsent(), None);
    outgoing.resume_at(2).unwrap();
    outgoing.commit(2);
    assert_eq!(send(&mut outgoing), data(2, b"cd"));
    outgoing.resume_at(2).unwrap();
    outgoing.room(2).unwrap();
    outgoing.resume_at(4).unwrap();
    outgoing.commit(0);
    assert_eq!((outgoing.held(), outgoing.unsent()), (0, None));
}

#[test]
fn nothing_that_was_read_costs_nothing() {
    let (mut outgoing, pool) = outgoing(MIB);
    outgoing.room(usize::MAX).unwrap();
    outgoing.commit(0);
    assert_eq!((pool.out.get(), outgoing.held()), (0, 0));
    assert_eq!(outgoing.room(0), None);
    assert_eq!(outgoing.held(), Size::Tiny.bytes());
    outgoing.commit(0);
    drop(outgoing);
    assert_eq!(pool.out.get(), 0);
}

#[test]
fn a_tick_takes_the_smallest_segment_and_gives_it_back() {
    let (mut outgoing, pool) = outgoing(4 * MIB);
    for tick in 1..=50 {
        let room = outgoing.room(usize::MAX).unwrap();
        room[..4].fill(0);
        outgoing.commit(4);
        assert_eq!(outgoing.held(), Size::Tiny.bytes());
        send(&mut outgoing);
        outgoing.acknowledge(4 * tick).unwrap();
        assert_eq!(pool.out.get(), 0);
    }
    assert!(pool.taken.borrow().iter().all(|size| *size == Size::Tiny));
}

#[test]
fn a_busy_link_gets_the_largest_segments_and_a_calm_one_small_ones_again() {
    let (mut outgoing, pool) = outgoing(4 * MIB);
    while let Some(room) = outgoing.room(usize::MAX) {
        let length = room.len();
        // With its header each read fills whole records of TLS, but for the first of 4 KiB.
        assert!(length + DATA_HEADER == 4096 || (length + DATA_HEADER).is_multiple_of(16 * 1024));
        outgoing.commit(length);
    }
    assert!(outgoing.held() <= 4 * MIB && outgoing.held() > 3 * MIB);
    let sizes = [Size::Tiny, Size::Small, Size::Medium, Size::Large, Size::Large];
    assert_eq!(pool.taken.borrow()[..5], sizes);
    let mut pieces = 0;
    while outgoing.unsent().is_some() {
        outgoing.sent();
        pieces += 1;
    }
    assert_eq!(pieces, pool.taken.borrow().len());
    outgoing.acknowledge(outgoing.end()).unwrap();
    assert_eq!((outgoing.held(), pool.out.get()), (0, 0));
    pool.taken.borrow_mut().clear();
    for _ in 0..12 {
        outgoing.room(usize::MAX).unwrap();
        outgoing.commit(4);
        send(&mut outgoing);
        outgoing.acknowledge(outgoing.end()).unwrap();
    }
    // Once more, since all reads before were full.
    assert_eq!(pool.taken.borrow().iter().filter(|size| **size == Size::Large).count(), 1);
    assert_eq!(pool.taken.borrow().last(), Some(&Size::Tiny));
}

#[test]
fn a_full_link_takes_nothing_more_until_something_is_acknowledged() {
    let (mut outgoing, _) = outgoing(Size::Tiny.bytes());
    let most = outgoing.room(usize::MAX).unwrap().len();
    assert_eq!(most, Size::Tiny.bytes() - DATA_HEADER);
    outgoing.commit(most);
    assert!(!outgoing.has_room());
    assert_eq!(outgoing.room(1), None);
    send(&mut outgoing);
    assert_eq!(outgoing.room(1), None);
    outgoing.acknowledge(outgoing.end() - 1).unwrap();
    assert_eq!(outgoing.room(1), None);
    outgoing.acknowledge(outgoing.end()).unwrap();
    assert!(outgoing.has_room());
    assert_eq!(outgoing.held(), 0);
    assert!(outgoing.room(1).is_some());
}

#[test]
fn where_the_pool_has_little_a_smaller_segment_does() {
    let pool = Pool::of(Size::Medium.bytes());
    let mut outgoing = Outgoing::new(pool.clone(), MIB);
    let mut written = 0;
    while let Some(room) = outgoing.room(usize::MAX) {
        written += room.len();
        let read = room.len();
        outgoing.commit(read);
    }
    assert!(written > Size::Medium.bytes() * 9 / 10, "{written} of {:?}", pool.taken);
}

#[test]
fn after_a_lost_leg_it_goes_on_at_the_exact_byte() {
    let (mut outgoing, _) = outgoing(MIB);
    for frame in [&b"abc"[..], b"defg", b"h"] {
        write(&mut outgoing, frame);
        send(&mut outgoing);
    }
    let after: [Vec<u8>; 9] = [
        [data(0, b"abc"), data(3, b"defg"), data(7, b"h")].concat(),
        [data(1, b"bc"), data(3, b"defg"), data(7, b"h")].concat(),
        [data(2, b"c"), data(3, b"defg"), data(7, b"h")].concat(),
        [data(3, b"defg"), data(7, b"h")].concat(),
        [data(4, b"efg"), data(7, b"h")].concat(),
        [data(5, b"fg"), data(7, b"h")].concat(),
        [data(6, b"g"), data(7, b"h")].concat(),
        data(7, b"h"),
        vec![],
    ];
    for (received, expected) in after.iter().enumerate() {
        // Twice, the second time after a part was sent.
        outgoing.resume_at(received as u64).unwrap();
        outgoing.unsent();
        outgoing.resume_at(received as u64).unwrap();
        assert_eq!(&send(&mut outgoing), expected, "from {received}");
    }
    assert_eq!(outgoing.held(), 0);
}

#[test]
fn the_fin_is_sent_last_and_again_and_is_acknowledged() {
    let (mut outgoing, _) = outgoing(MIB);
    write(&mut outgoing, b"ab");
    outgoing.finish();
    outgoing.finish();
    assert_eq!(outgoing.room(1), None);
    assert_eq!(outgoing.unsent().unwrap(), data(0, b"ab"));
    outgoing.sent();
    assert_eq!(outgoing.unsent().unwrap(), fin(2));
    outgoing.sent();
    assert_eq!(outgoing.unsent(), None);
    outgoing.acknowledge(2).unwrap();
    assert_eq!((outgoing.unacknowledged(), outgoing.is_done()), (1, false));
    outgoing.resume_at(2).unwrap();
    assert_eq!(send(&mut outgoing), fin(2));
    outgoing.acknowledge(3).unwrap();
    assert!(outgoing.is_done());
    outgoing.resume_at(3).unwrap();
    assert_eq!(outgoing.unsent(), None);
}

#[test]
fn an_offset_that_cannot_be_is_refused() {
    let (mut outgoing, _) = outgoing(MIB);
    write(&mut outgoing, b"abcdef");
    let outside = |offset, from, to| Err(OutsideReplay { offset, from, to });
    assert_eq!(outgoing.acknowledge(1), outside(1, 0, 0));
    assert_eq!(outgoing.resume_at(1), outside(1, 0, 0));
    send(&mut outgoing);
    assert_eq!(outgoing.acknowledge(7), outside(7, 0, 6));
    outgoing.acknowledge(3).unwrap();
    assert_eq!(outgoing.acknowledge(2), outside(2, 3, 6));
    assert_eq!(outgoing.resume_at(2), outside(2, 3, 6));
    assert_eq!(outgoing.resume_at(7), outside(7, 3, 6));
    outgoing.resume_at(4).unwrap();
    // Not sent on this leg yet.
    assert_eq!(outgoing.acknowledge(5), outside(5, 4, 4));
    // What the leg before carried may have come all the same.
    outgoing.resume_at(6).unwrap();
    outgoing.finish();
    assert_eq!(outgoing.resume_at(7), outside(7, 6, 6));
}

#[test]
fn a_link_that_ends_gives_everything_back() {
    let (mut outgoing, pool) = outgoing(4 * MIB);
    for _ in 0..6 {
        let read = outgoing.room(usize::MAX).unwrap().len();
        outgoing.commit(read);
    }
    outgoing.room(1);
    assert_eq!(pool.out.get(), outgoing.held());
    drop(outgoing);
    assert_eq!(pool.out.get(), 0);
}
