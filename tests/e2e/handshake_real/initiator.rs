//! We play initiators, and a real node is the acceptor.

use std::io;
use std::net::Ipv4Addr;

use epmd_guard::proto::dist::{Challenge, Flags, Speaker, Status};

use super::{Dice, FLAGS, PORT, Player, SEED, Stricter, Told, Wire, digest, node, wait_linked, watch};
use crate::common::require;
use crate::support::erlang::Node;
use crate::support::lab::Lab;
use crate::support::wire::framed;

/// The number of handshakes that are played.
const ROUNDS: usize = 400;

/// What a played initiator does differently from a real one.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Odd {
    Nothing,
    Hidden,
    /// Asks for a name.
    Dynamic,
    /// Asks for a name, with a host of so many bytes.
    DynamicHost(usize),
    /// Has an up connection of the same name, and says that it is dead.
    Alive,
    /// The same, and says that it lives.
    AliveFalse,
    AliveMaybe,
    /// Says its name as version 5 does, which OTP 25.2 does not take.
    Version5,
    Name(&'static [u8]),
    LongName(usize),
    /// The length of the name is wrong by so much.
    NameLength(i16),
    /// The frame is longer than the name, by bytes that mean nothing.
    BehindName(usize),
    /// The length of the name's frame is wrong by so much.
    NameFrame(i16),
    /// One of the flags is missing.
    Without(u64),
    /// All mandatory flags but by their shorthand.
    Digest25,
    /// Another first byte than the name's.
    Tag(u8),
    NameTwice,
    /// Answers a question that nobody asked.
    AnswersUnasked,
    /// Sends the reply, to whatever challenge, with the name.
    RepliesFirst,
    ComplementUnasked,
    WrongDigest,
    BehindReply(usize),
    ShortReply(usize),
    ReplyTag(u8),
    /// Ticks behind the reply, in the same segment.
    TicksBehind,
    /// Ends after the challenge.
    NoReply,
    Empty,
    /// Not the handshake at all.
    Junk(&'static [u8]),
}

/// Each at least once in a run.
const ODDITIES: [Odd; 68] = {
    use Odd::*;
    [
        Nothing,
        Hidden,
        Dynamic,
        Alive,
        AliveFalse,
        AliveMaybe,
        Version5,
        TicksBehind,
        NoReply,
        Empty,
        Name(b"a.b@h"),
        Name(b"a b@h"),
        Name(b"@h"),
        Name(b"a@"),
        Name(b"a"),
        Name(b"a@b@h"),
        Name(b"a@h h"),
        Name(b"a@h\n"),
        Name(b"\xe4@h"),
        Name(b"a@\xe4"),
        Name(b"a@h%eth0"),
        Name(b"a@::1"),
        Name(b"A_b-1@h.x-y"),
        Name(b"a\0@h"),
        Name(b"a@h\0"),
        Name(b"b@127.0.0.1"),
        Name(b""),
        Name(b"@"),
        Name(b"a!@h"),
        Name(b"a@h/../"),
        LongName(254),
        LongName(255),
        LongName(256),
        LongName(300),
        NameLength(1),
        NameLength(-1),
        NameLength(-9),
        NameLength(200),
        BehindName(1),
        BehindName(7),
        BehindName(900),
        BehindName(1500),
        NameFrame(1),
        NameFrame(-1),
        NameFrame(300),
        NameFrame(2000),
        Without(0x4),
        Without(0x10),
        Without(0x100_0000),
        Without(0x2000),
        Without(FLAGS),
        Digest25,
        Tag(b'M'),
        Tag(b's'),
        Tag(0),
        NameTwice,
        AnswersUnasked,
        RepliesFirst,
        ComplementUnasked,
        WrongDigest,
        BehindReply(1),
        ShortReply(1),
        ShortReply(20),
        ReplyTag(b'a'),
        DynamicHost(200),
        DynamicHost(201),
        Junk(b"GET / HTTP/1.1\r\n\r\n"),
        Junk(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
    ]
};

impl Player<'_> {
    /// Plays an initiator. Whether the node has sent its proof: it is the last that it does before the link is up.
    fn initiate(&mut self, name: &[u8], odd: Odd) -> io::Result<bool> {
        let first = name_message(name, odd);
        // A real node waits for the rest of a frame, and nobody says it.
        let whole =
            first.len() >= 2 && first.len() >= 2 + usize::from(u16::from_be_bytes([first[0], first[1]]));
        self.say(&first);
        if !whole {
            return Ok(false);
        }
        match odd {
            Odd::NameTwice => self.say(&first),
            Odd::AnswersUnasked => self.say(&framed(b"strue")),
            Odd::RepliesFirst => self.say(&framed(b"r12340123456789abcdef")),
            _ => {}
        }
        let mut status = self.hear()?;
        if status == b"salive" {
            let answer: &[u8] = match odd {
                Odd::AliveFalse => b"sfalse",
                Odd::AliveMaybe => b"smaybe",
                _ => b"strue",
            };
            self.say(&framed(answer));
            status = b"sok".to_vec();
        }
        if !status.starts_with(b"sok") && !status.starts_with(b"snamed:") {
            return Ok(false);
        }
        let challenge = Challenge::decode(&self.hear()?).expect("a real node's challenge");
        if odd == Odd::NoReply {
            return Ok(false);
        }
        let mut reply = [&b"r\0\0\0\x07"[..], &digest(self.node, challenge.challenge).0].concat();
        match odd {
            Odd::WrongDigest => reply[9] ^= 1,
            Odd::BehindReply(count) => reply.extend(vec![0; count]),
            Odd::ShortReply(count) => reply.truncate(reply.len() - count),
            Odd::ReplyTag(tag) => reply[0] = tag,
            Odd::ComplementUnasked => self.say(&framed(b"c\0\0\0\x0d\0\0\0\x01")),
            _ => {}
        }
        let ticks: &[u8] = if odd == Odd::TicksBehind { &[0; 12] } else { b"" };
        self.say(&[&framed(&reply), ticks].concat());
        let ack = self.hear()?;
        Ok(ack.len() == 17 && ack[0] == b'a')
    }
}

/// The first message of an initiator, with its length.
fn name_message(name: &[u8], odd: Odd) -> Vec<u8> {
    let flags = match odd {
        Odd::Hidden => FLAGS & !Flags::PUBLISHED.0,
        Odd::Dynamic | Odd::DynamicHost(_) => FLAGS & !Flags::PUBLISHED.0 | Flags::NAME_ME.0,
        Odd::Without(flag) => FLAGS & !flag,
        Odd::Digest25 => Flags::MANDATORY_25_DIGEST.0,
        _ => FLAGS,
    };
    let len = match odd {
        Odd::NameLength(wrong) => name.len().checked_add_signed(wrong.into()).unwrap(),
        _ => name.len(),
    };
    let len = u16::try_from(len).unwrap().to_be_bytes();
    let mut body = [b"N", &flags.to_be_bytes()[..], &[0, 0, 0, 9], &len, name].concat();
    match odd {
        Odd::Version5 => {
            body =
                [b"n\0\x05", &u32::try_from(FLAGS & 0xffff_ffff).unwrap().to_be_bytes()[..], name].concat();
        }
        Odd::BehindName(count) => body.extend(vec![b'x'; count]),
        Odd::Tag(tag) => body[0] = tag,
        Odd::Empty => body.clear(),
        Odd::Junk(junk) => return junk.to_vec(),
        _ => {}
    }
    let mut frame = framed(&body);
    if let Odd::NameFrame(wrong) = odd {
        let len = u16::try_from(body.len()).unwrap().checked_add_signed(wrong).unwrap();
        frame[..2].copy_from_slice(&len.to_be_bytes());
    }
    frame
}

/// The name in the first message.
fn name_of(round: usize, odd: Odd) -> Vec<u8> {
    match odd {
        Odd::Name(name) => name.to_vec(),
        Odd::Dynamic => b"h1.test".to_vec(),
        Odd::DynamicHost(len) => vec![b'h'; len],
        Odd::LongName(len) => [format!("n{round}@").into_bytes(), vec![b'h'; len]].concat()[..len].to_vec(),
        _ => format!("n{round}@h1.test").into_bytes(),
    }
}

/// A connection of a played initiator.
fn dial<'a>(node: &'a Node, dice: &'a mut Dice) -> Player<'a> {
    let stream = node.host().connect((Ipv4Addr::LOCALHOST, PORT).into()).expect("the node listens");
    Player { node, we: Speaker::Initiator, stream, wire: Wire::new(), dice }
}

/// The name under which the node knows a link that is up.
fn known_as(wire: &Wire, name: &[u8], odd: Odd) -> Vec<u8> {
    match (Status::decode(&wire[1].1[2..]), odd) {
        (Ok(Status::Named(given, _)), _) => given.as_str().into(),
        // A length that is too short makes a shorter name.
        (_, Odd::NameLength(wrong)) => name[..name.len() - usize::from(wrong.unsigned_abs())].to_vec(),
        _ => name.to_vec(),
    }
}

/// Plays one handshake. What went over the wire, and whether the node is linked.
fn played(node: &Node, dice: &mut Dice, name: &[u8], odd: Odd) -> (Wire, bool) {
    let mut dice_of_old = Dice(dice.next());
    let _old = matches!(odd, Odd::Alive | Odd::AliveFalse | Odd::AliveMaybe).then(|| {
        let mut old = dial(node, &mut dice_of_old);
        assert!(old.initiate(name, Odd::Nothing).unwrap());
        wait_linked(node, name);
        old
    });
    let mut player = dial(node, dice);
    let acked = player.initiate(name, odd).unwrap_or(false);
    if acked {
        wait_linked(node, &known_as(&player.wire, name, odd));
    } else {
        player.finish();
    }
    (player.wire, acked)
}

#[test]
fn the_watcher_says_up_when_a_real_acceptor_links_and_only_then() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1"]);
    let node = node("b@127.0.0.1", &lab.host("h1"));
    let mut dice = Dice(SEED);
    let (mut ups, mut stricter) = (0, Vec::new());
    for round in 0..ROUNDS {
        let odd = oddity(round, &mut dice);
        let name = name_of(round, odd);
        let (wire, linked) = played(&node, &mut dice, &name, odd);
        match (watch(&wire), linked) {
            (Told::Up, true) => ups += 1,
            (Told::Fault(fault), true) => {
                let why = Stricter::of(fault);
                let why = why.unwrap_or_else(|| panic!("{odd:?} is taken, but {fault:?}: {wire:x?}"));
                // A real node does look at what is before the `@`.
                assert!(why != Stricter::HostCharacters || name.starts_with(b"a@"), "{odd:?}");
                stricter.push(why);
            }
            (Told::Refused | Told::Waits | Told::Fault(_), false) => {}
            (told, linked) => panic!("{odd:?}: {told:?}, really {linked}, in round {round}: {wire:x?}"),
        }
    }
    assert!(ups > 100, "{ups} links");
    for why in [Stricter::HostCharacters, Stricter::LongHost, Stricter::LongMessage] {
        assert!(stricter.contains(&why), "{why:?} was not met");
    }
}

/// Each oddity once, then those that are none a third of the time, and any.
fn oddity(round: usize, dice: &mut Dice) -> Odd {
    ODDITIES.get(round).copied().unwrap_or_else(|| {
        if round.is_multiple_of(3) { dice.one_of(&ODDITIES[..4]) } else { dice.one_of(&ODDITIES) }
    })
}
