//! The parser over streams of frames, cut anywhere.

use proptest::prelude::*;

use super::frame_tests::frames;
use super::*;

/// What came, with the pieces of data put together.
#[derive(Debug, PartialEq, Clone)]
enum Got {
    Frame(Frame<'static>),
    Data(u64, Vec<u8>),
}

/// All that comes of these pieces, and how it ends.
fn parsed(pieces: &[&[u8]], answers: Answers) -> (Vec<Got>, Result<(), Malformed>) {
    let mut parser = Parser::new(answers);
    let mut got: Vec<Got> = Vec::new();
    for piece in pieces {
        let mut rest = *piece;
        while !rest.is_empty() {
            let (taken, event) = match parser.feed(rest) {
                Ok(fed) => fed,
                Err(fault) => {
                    assert_eq!(parser.feed(b"\x0b").err(), Some(fault), "it goes on after a fault");
                    return (got, Err(fault));
                }
            };
            assert!(event.is_some() || taken == rest.len(), "it stopped for nothing");
            rest = &rest[taken..];
            match event {
                Some(Event::Frame(frame)) => got.push(Got::Frame(frame.into_owned())),
                Some(Event::Data { offset, bytes }) => {
                    assert!(!bytes.is_empty());
                    match got.last_mut() {
                        Some(Got::Data(from, before)) if *from + before.len() as u64 == offset => {
                            before.extend(bytes);
                        }
                        _ => got.push(Got::Data(offset, bytes.to_vec())),
                    }
                }
                None => {}
            }
        }
    }
    (got, Ok(()))
}

fn bytes_of(frames: &[Frame<'_>]) -> Vec<u8> {
    let mut into = Vec::new();
    frames.iter().for_each(|frame| frame.encode_into(&mut into));
    into
}

fn hello() -> Frame<'static> {
    Frame::Hello(Hello { capabilities: 0, software: Text::cut("test") })
}

fn data(offset: u64, bytes: &[u8]) -> Vec<u8> {
    [&frame::data_header(offset, bytes.len())[..], bytes].concat()
}

#[test]
fn a_hello_is_the_first_frame_and_no_other() {
    for first in Type::ALL {
        let mut bytes = data(0, b"x");
        bytes[0] = first.number();
        let fault = parsed(&[&bytes], Answers::Taken).1;
        if ![Type::Hello, Type::Data].contains(&first) {
            assert!(fault.is_err(), "{first:?}");
        }
        let ping = [first.number(), 0, 0, 0, 0, 0, 0, 0];
        if [Type::Opened, Type::Rst, Type::Ping].contains(&first) {
            assert_eq!(parsed(&[&ping], Answers::Taken).1, Err(Malformed::NoHello(first.number())));
        }
    }
    assert_eq!(parsed(&[&data(0, b"x")], Answers::Taken).1, Err(Malformed::NoHello(7)));
    // Not even one that may be skipped.
    assert_eq!(parsed(&[b"\x63\x01\0\0\0\0\0\0"], Answers::Taken).1, Err(Malformed::NoHello(0x63)));
    let twice = bytes_of(&[hello(), hello()]);
    let (got, end) = parsed(&[&twice], Answers::Taken);
    assert_eq!((got, end), (vec![Got::Frame(hello())], Err(Malformed::SecondHello)));
}

#[test]
fn an_answer_is_taken_only_by_who_asks() {
    let answer = Frame::Answer { id: 1, reply: Bytes::new(vec![7; MAX_ANSWER]).unwrap() };
    let bytes = bytes_of(&[hello(), answer.clone()]);
    let pieces: Vec<&[u8]> = bytes.chunks(100_000).collect();
    let (got, end) = parsed(&pieces, Answers::Taken);
    assert_eq!((got, end), (vec![Got::Frame(hello()), Got::Frame(answer)], Ok(())));
    // Before a byte of it is kept.
    let head = bytes_of(&[hello()]).len() + HEADER;
    assert_eq!(parsed(&[&bytes[..head]], Answers::Refused).1, Err(Malformed::Answer));
}

#[test]
fn what_may_be_skipped_is_skipped_whatever_its_length() {
    for length in [0u32, 1, 300, 512 * 1024] {
        let skipped = [b"\x63\x01\0\0", &length.to_be_bytes()[..], &vec![1; length as usize]].concat();
        let all = [bytes_of(&[hello()]), skipped, bytes_of(&[Frame::Ping])].concat();
        let expected = vec![Got::Frame(hello()), Got::Frame(Frame::Ping)];
        assert_eq!(parsed(&[&all], Answers::Refused), (expected.clone(), Ok(())));
        let pieces: Vec<&[u8]> = all.chunks(7).collect();
        assert_eq!(parsed(&pieces, Answers::Refused), (expected, Ok(())));
    }
    let long = [&bytes_of(&[hello()])[..], b"\x63\x01\0\0\0\x08\0\x01"].concat();
    assert_eq!(parsed(&[&long], Answers::Refused).1, Err(Malformed::Skipped(512 * 1024 + 1)));
    // A frame that is known is read, with the flag too.
    let ping = [&bytes_of(&[hello()])[..], b"\x0b\x01\0\0\0\0\0\0"].concat();
    assert_eq!(parsed(&[&ping], Answers::Refused).0.len(), 2);
}

#[test]
fn data_is_shown_where_it_stands() {
    let stream = [bytes_of(&[hello()]), data(7, b"hello"), data(12, b"!")].concat();
    let mut parser = Parser::new(Answers::Refused);
    let (mut at, _) = parser.feed(&stream).unwrap();
    for (offset, part) in [(7, &b"he"[..]), (9, b"llo"), (12, b"!")] {
        let until = at + if offset == 9 { 3 } else { DATA_HEADER + part.len() };
        let (taken, event) = parser.feed(&stream[at..until]).unwrap();
        let Some(Event::Data { offset: told, bytes }) = event else { panic!("{event:?}") };
        assert_eq!((told, bytes, taken), (offset, part, until - at));
        assert!(std::ptr::eq(bytes.as_ptr(), &raw const stream[until - part.len()]), "it was copied");
        at = until;
    }
    assert!(parser.is_between_frames());
}

#[test]
fn bytes_beyond_the_last_that_can_be_counted_are_refused() {
    let of = |offset| {
        let stream = [bytes_of(&[hello()]), data(offset, b"ab")].concat();
        parsed(&[&stream], Answers::Refused).1
    };
    // The FIN behind them has an offset, and one is behind that.
    assert_eq!(of(u64::MAX - 3), Ok(()));
    for offset in [u64::MAX - 2, u64::MAX - 1, u64::MAX] {
        assert_eq!(of(offset), Err(Malformed::Offset(offset)));
    }
}

proptest! {
    #[test]
    fn however_a_stream_is_cut_the_same_comes_of_it(
        sent in proptest::collection::vec(
            prop_oneof![
                3 => frames().prop_map(Got::Frame),
                2 => (0..1u64 << 40, proptest::collection::vec(any::<u8>(), 1..2000))
                    .prop_map(|(offset, bytes)| Got::Data(offset, bytes)),
            ],
            0..12,
        ),
        spoiled in proptest::option::weighted(0.3, (any::<prop::sample::Index>(), any::<u8>())),
        lengths in proptest::collection::vec(1usize..600, 1..40),
    ) {
        let mut stream = bytes_of(&[hello()]);
        for sent in &sent {
            match sent {
                Got::Frame(frame) => frame.encode_into(&mut stream),
                Got::Data(offset, bytes) => stream.extend(data(*offset, bytes)),
            }
        }
        if let Some((at, byte)) = spoiled {
            let at = at.index(stream.len());
            stream[at] = byte;
        }
        let whole = parsed(&[&stream], Answers::Taken);
        let mut pieces = Vec::new();
        let mut rest = &stream[..];
        for length in lengths.iter().cycle() {
            let (piece, left) = rest.split_at((*length).min(rest.len()));
            pieces.push(piece);
            rest = left;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(&parsed(&pieces, Answers::Taken), &whole);
        let dripped: Vec<&[u8]> = stream.chunks(1).collect();
        prop_assert_eq!(&parsed(&dripped, Answers::Taken), &whole);
        if spoiled.is_none() {
            // Data that follows data is put together.
            let frames = |got: &[Got]| got.iter().filter(|got| matches!(got, Got::Frame(_))).count();
            prop_assert_eq!(frames(&whole.0), 1 + frames(&sent));
            prop_assert_eq!(whole.1, Ok(()));
        }
    }
}
