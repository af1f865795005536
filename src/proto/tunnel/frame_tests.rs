//! Each frame both ways: against its bytes as `docs/tunnel.md` has them, with every length but its own, and at random.

use proptest::prelude::*;

use super::*;

/// The only event of these bytes, behind a HELLO.
fn read(bytes: &[u8]) -> Result<Option<Frame<'_>>, Malformed> {
    let mut parser = Parser::new(Answers::Taken);
    let mut rest = bytes;
    if bytes.first() != Some(&1) {
        parser.feed(&hello()).unwrap();
    }
    let (taken, event) = parser.feed(rest)?;
    rest = &rest[taken..];
    assert_eq!((rest, event.is_some() || bytes.is_empty()), (&b""[..], parser.is_between_frames()));
    match event {
        Some(Event::Frame(frame)) => Ok(Some(frame)),
        None => Ok(None),
        Some(Event::Data { .. }) => panic!("data"),
    }
}

fn written(frame: &Frame<'_>) -> Vec<u8> {
    // It is put behind what is there.
    let mut into = vec![0xff];
    frame.encode_into(&mut into);
    assert_eq!(into.remove(0), 0xff);
    into
}

fn hello() -> Vec<u8> {
    written(&Frame::Hello(Hello { capabilities: 0, software: Text::cut("") }))
}

fn open(source: &str) -> Frame<'static> {
    let link = LinkId(*b"\0\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f");
    let source = source.parse().unwrap();
    Frame::Open(Open { link, kind: Kind::DistTls, port: 9100, source, trace: 0x0102 })
}

/// All frames with their bytes.
fn all() -> Vec<(Frame<'static>, Vec<u8>)> {
    let frame = |kind: u8, body: &[u8]| {
        [&[kind, 0, 0, 0][..], &u32::try_from(body.len()).unwrap().to_be_bytes(), body].concat()
    };
    let id = b"\0\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f";
    let link = LinkId(*id);
    let hello = Hello { capabilities: 5, software: Text::cut("epmd-guard 0.1.0") };
    let v4 = b"\x02\x23\x8c\x04\x7f\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\0\x10\0\0\0\0\0\0\0\x01\x02";
    let v6 = b"\x02\x23\x8c\x06\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\x10\0\0\0\0\0\0\0\x01\x02";
    let count = b"\0\0\0\0\0\0\x10\0";
    vec![
        (Frame::Hello(hello), frame(1, b"\0\0\0\0\0\0\0\x05epmd-guard 0.1.0")),
        (open("127.0.0.1:4096"), frame(2, &[&id[..], v4].concat())),
        (open("[2001:db8::1]:4096"), frame(2, &[&id[..], v6].concat())),
        (Frame::Opened, frame(3, b"")),
        (
            Frame::Refused { code: Refusal::Denied, detail: Text::cut("node_not_allowed") },
            frame(4, b"\0\x01node_not_allowed"),
        ),
        (Frame::Resume { link, received: 4096 }, frame(5, &[&id[..], count].concat())),
        (Frame::Resumed { received: 4096 }, frame(6, count)),
        (Frame::Ack { received: 4096 }, frame(8, count)),
        (Frame::Fin { offset: 4096 }, frame(9, count)),
        (Frame::Rst, frame(10, b"")),
        (Frame::Ping, frame(11, b"")),
        (Frame::Ask { id: 7, request: Bytes::new(&b"n"[..]).unwrap() }, frame(12, b"\0\0\0\x07n")),
        (Frame::Answer { id: 7, reply: Bytes::new(&b"w\x01"[..]).unwrap() }, frame(13, b"\0\0\0\x07w\x01")),
        (Frame::Answer { id: 7, reply: Bytes::new(&b""[..]).unwrap() }, frame(13, b"\0\0\0\x07")),
    ]
}

#[test]
fn each_frame_is_its_bytes() {
    let mut kinds = Vec::new();
    for (frame, bytes) in all() {
        assert_eq!(written(&frame), bytes, "{frame:?}");
        assert_eq!(read(&bytes), Ok(Some(frame.clone())));
        assert_eq!(frame.kind().number(), bytes[0]);
        kinds.push(frame.kind());
    }
    let other = Type::ALL.into_iter().filter(|kind| !kinds.contains(kind));
    assert_eq!(other.collect::<Vec<_>>(), [Type::Data]);
    assert!(Type::ALL.iter().map(|kind| kind.number()).eq(1..=13));
}

#[test]
fn no_beginning_of_a_frame_is_one() {
    for (_, bytes) in all() {
        for cut in 0..bytes.len() {
            assert_eq!(read(&bytes[..cut]), Ok(None), "{bytes:?} cut at {cut}");
        }
    }
}

#[test]
fn a_body_of_another_length_is_refused_with_its_header() {
    for (frame, bytes) in all() {
        let own = bytes.len() - HEADER;
        let open = [
            (Type::Hello, 8, 72),
            (Type::Refused, 2, 257),
            (Type::Ask, 5, 1024),
            (Type::Answer, 4, 4 + (4 << 20)),
        ];
        let (_, shortest, longest) =
            open.into_iter().find(|(kind, ..)| *kind == frame.kind()).unwrap_or((frame.kind(), own, own));
        let of = |length: usize| {
            let length = u32::try_from(length).unwrap();
            let header = [&bytes[..4], &length.to_be_bytes()[..]].concat();
            (Malformed::Length { kind: frame.kind(), length }, header)
        };
        for wrong in [shortest.wrapping_sub(1), longest + 1, u32::MAX as usize] {
            if wrong != usize::MAX {
                let (fault, header) = of(wrong);
                assert_eq!(read(&header), Err(fault));
            }
        }
        for right in [shortest, longest] {
            assert!(read(&of(right).1).is_ok(), "{frame:?}, {right}");
        }
    }
    let data = |length: u32| read(&[&[7, 0, 0, 0][..], &length.to_be_bytes()].concat()).map(|_| ());
    for wrong in [0, 8, 8 + 512 * 1024 + 1] {
        assert_eq!(data(wrong), Err(Malformed::Length { kind: Type::Data, length: wrong }));
    }
    assert_eq!([data(9), data(8 + 512 * 1024)], [Ok(()), Ok(())]);
}

#[test]
fn a_frame_says_what_is_wrong_with_it() {
    let spoiled = |frame: &Frame<'_>, at: usize, byte: u8| {
        let mut bytes = written(frame);
        bytes[at] = byte;
        read(&bytes).map(|_| ()).unwrap_err()
    };
    assert_eq!(spoiled(&Frame::Ping, 0, 14), Malformed::Type(14));
    assert_eq!(spoiled(&Frame::Ping, 0, 0), Malformed::Type(0));
    assert_eq!(spoiled(&Frame::Ping, 1, 2), Malformed::Flags(2));
    assert_eq!(spoiled(&Frame::Ping, 1, 0x81), Malformed::Flags(0x81));
    assert_eq!(spoiled(&Frame::Ping, 2, 1), Malformed::Reserved(0x100));
    assert_eq!(spoiled(&Frame::Ping, 3, 1), Malformed::Reserved(1));
    let v4 = open("127.0.0.1:4096");
    assert_eq!(spoiled(&v4, HEADER + 16, 0), Malformed::Kind(0));
    assert_eq!(spoiled(&v4, HEADER + 16, 4), Malformed::Kind(4));
    assert_eq!(spoiled(&v4, HEADER + 19, 5), Malformed::Source);
    assert_eq!(spoiled(&v4, HEADER + 35, 1), Malformed::Source);
    let mut bytes = written(&v4);
    bytes[HEADER + 17..HEADER + 19].fill(0);
    assert_eq!(read(&bytes), Err(Malformed::Port));
    // An IPv4 address that is written as one of IPv6.
    let mut bytes = written(&open("[::1]:4096"));
    bytes[HEADER + 30..HEADER + 32].fill(0xff);
    assert_eq!(read(&bytes), Err(Malformed::Source));
    let refused = Frame::Refused { code: Refusal::Busy, detail: Text::cut("x") };
    assert_eq!(spoiled(&refused, HEADER + 2, 0xff), Malformed::Text);
    let hello = Frame::Hello(Hello { capabilities: 0, software: Text::cut("x") });
    assert_eq!(spoiled(&hello, HEADER + 8, 0xff), Malformed::Text);
    // There must be an offset behind the FIN.
    let fin = Frame::Fin { offset: u64::MAX };
    assert_eq!(read(&written(&fin)), Err(Malformed::Offset(u64::MAX)));
    assert!(read(&written(&Frame::Fin { offset: u64::MAX - 1 })).is_ok());
}

#[test]
fn the_source_is_written_in_one_way() {
    let mapped = open("[::ffff:192.0.2.7]:4096");
    assert_eq!(written(&mapped), written(&open("192.0.2.7:4096")));
}

#[test]
fn the_header_of_data_and_the_fin_are_those_of_the_specification() {
    let header = frame::data_header(0x0102, 3);
    assert_eq!(header, *b"\x07\0\0\0\0\0\0\x0b\0\0\0\0\0\0\x01\x02");
    assert_eq!(frame::fin_frame(4096).to_vec(), written(&Frame::Fin { offset: 4096 }));
}

/// Frames of every type, with any content.
pub(super) fn frames() -> impl Strategy<Value = Frame<'static>> {
    let id = any::<[u8; 16]>().prop_map(LinkId);
    let kind = prop_oneof![Just(Kind::Dist), Just(Kind::DistTls), Just(Kind::Tcp)];
    let source = any::<(std::net::IpAddr, u16)>()
        .prop_map(|(ip, port)| std::net::SocketAddr::new(ip.to_canonical(), port));
    let bytes = |most| proptest::collection::vec(any::<u8>(), 1..most);
    prop_oneof![
        (id.clone(), kind, 1u16.., source, any::<u64>())
            .prop_map(|(link, kind, port, source, trace)| Open { link, kind, port, source, trace })
            .prop_map(Frame::Open),
        Just(Frame::Opened),
        (any::<u16>(), ".{0,300}")
            .prop_map(|(code, detail)| Frame::Refused { code: Refusal::of(code), detail: Text::cut(detail) }),
        (id, any::<u64>()).prop_map(|(link, received)| Frame::Resume { link, received }),
        any::<u64>().prop_map(|received| Frame::Resumed { received }),
        any::<u64>().prop_map(|received| Frame::Ack { received }),
        (0..u64::MAX).prop_map(|offset| Frame::Fin { offset }),
        Just(Frame::Rst),
        Just(Frame::Ping),
        (any::<u32>(), bytes(MAX_ASK))
            .prop_map(|(id, request)| Frame::Ask { id, request: Bytes::new(request).unwrap() }),
        (any::<u32>(), bytes(3000))
            .prop_map(|(id, reply)| Frame::Answer { id, reply: Bytes::new(reply).unwrap() }),
    ]
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(frame in frames(), capabilities: u64, software in ".{0,80}") {
        let bytes = written(&frame);
        prop_assert_eq!(read(&bytes), Ok(Some(frame)));
        let hello = Frame::Hello(Hello { capabilities, software: Text::cut(software) });
        let bytes = written(&hello);
        prop_assert_eq!(read(&bytes), Ok(Some(hello)));
    }
}
