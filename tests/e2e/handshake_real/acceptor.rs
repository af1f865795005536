//! We play acceptors, and a real node is the initiator.

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::thread;

use epmd_guard::proto::dist::{Claim, Claimed, Flags, Proof, Speaker};

use super::{Dice, FLAGS, NONE, PATIENCE, PORT, Player, SEED, Stricter, Told, Wire, digest, node, watch};
use crate::common::require;
use crate::support::erlang::Node;
use crate::support::host::Host;
use crate::support::lab::Lab;
use crate::support::wire::framed;

/// The number of handshakes that are played.
const ROUNDS: usize = 250;
/// Where the node finds whom it dials.
const WE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// What a played acceptor does differently from a real one.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Odd {
    Nothing,
    Hidden,
    /// Its flags have `NAME_ME`, as a real acceptor's have who gives a name.
    Naming,
    Simultaneous,
    Alive,
    TicksBehind,
    /// Another status.
    Status(&'static [u8]),
    /// Says nothing of the status.
    NoStatus,
    StatusTwice,
    /// The challenge in the segment of `alive`, before the answer.
    ChallengeTooEarly,
    /// Another name than the one that was dialled.
    Name(&'static [u8]),
    /// The length of the name is wrong by so much.
    NameLength(i16),
    BehindChallenge(usize),
    ShortChallenge(usize),
    /// The challenge of version 5.
    Version5,
    ChallengeTag(u8),
    Without(u64),
    Digest25,
    NoFlags,
    WrongDigest,
    BehindAck(usize),
    ShortAck(usize),
    AckTag(u8),
    /// A status in the place of the ack.
    LateStatus,
    Empty,
    TooLong,
    Junk,
}

const ODDITIES: [Odd; 47] = {
    use Odd::*;
    [
        Nothing,
        Hidden,
        Simultaneous,
        Alive,
        TicksBehind,
        Status(b"sok "),
        Status(b"s"),
        Status(b"sOK"),
        Status(b"xok"),
        Status(b"strue"),
        Status(b"sok\0"),
        Status(b"snot_allowed"),
        Status(b"snot_allowed_"),
        Status(b"snamed:\0\x0bx@127.0.0.1\0\0\0\x09"),
        Status(b"snamed:"),
        Status(b"N"),
        Status(b"\0\0"),
        NoStatus,
        StatusTwice,
        ChallengeTooEarly,
        Name(b"c@127.0.0.3"),
        Name(b"a@127.0.0.1"),
        Name(b""),
        Name(b"b"),
        Name(b"b@h\n"),
        NameLength(-1),
        NameLength(-3),
        NameLength(1),
        BehindChallenge(1),
        BehindChallenge(900),
        BehindChallenge(1500),
        ShortChallenge(1),
        ShortChallenge(20),
        Version5,
        ChallengeTag(b'M'),
        Without(0x4),
        Without(0x100_0000),
        Digest25,
        NoFlags,
        WrongDigest,
        BehindAck(1),
        ShortAck(1),
        AckTag(b'r'),
        LateStatus,
        Junk,
        Empty,
        TooLong,
    ]
};

impl Player<'_> {
    /// Plays an acceptor. Whether the proof was the right one, in a handshake that went so far.
    fn accept(&mut self, name: &[u8], odd: Odd) -> io::Result<bool> {
        let claim = Claim::decode(&self.hear()?).expect("a real node's name");
        assert!(matches!(claim.claimed, Claimed::Name(_)), "{claim:?}");
        match odd {
            Odd::Empty => self.say(&[0, 0]),
            Odd::TooLong => self.say(&[0xff, 0xff, b's']),
            Odd::Junk => self.say(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
            Odd::NoStatus => {}
            Odd::Simultaneous => self.say(&framed(b"sok_simultaneous")),
            Odd::Alive => self.say(&framed(b"salive")),
            Odd::ChallengeTooEarly => self.say(&[framed(b"salive"), challenge(name, odd)].concat()),
            Odd::StatusTwice => self.say(&framed(b"sok").repeat(2)),
            Odd::Status(status) => self.say(&framed(status)),
            _ => self.say(&framed(b"sok")),
        }
        if matches!(odd, Odd::Alive | Odd::ChallengeTooEarly) {
            assert_eq!(self.hear()?, b"strue");
        }
        if odd != Odd::ChallengeTooEarly {
            self.say(&challenge(name, odd));
        }
        // It says nothing after what it does not take.
        let proof = Proof::decode(&self.hear()?).expect("a real node's reply");
        let mut ack = [&b"a"[..], &digest(self.node, proof.challenge).0].concat();
        match odd {
            Odd::WrongDigest => ack[9] ^= 1,
            Odd::BehindAck(count) => ack.extend(vec![0; count]),
            Odd::ShortAck(count) => ack.truncate(ack.len() - count),
            Odd::AckTag(tag) => ack[0] = tag,
            Odd::LateStatus => ack = b"snot_allowed".to_vec(),
            _ => {}
        }
        let ticks: &[u8] = if odd == Odd::TicksBehind { &[0; 12] } else { b"" };
        self.say(&[&framed(&ack), ticks].concat());
        Ok(odd != Odd::WrongDigest)
    }

    /// Plays an acceptor of a node that asks for a name.
    fn give_name(&mut self, status: &[u8], challenge: &[u8]) -> io::Result<()> {
        let claim = Claim::decode(&self.hear()?).expect("a real node's name");
        assert!(matches!(claim.claimed, Claimed::Dynamic(_)), "{claim:?}");
        self.say(&framed(status));
        self.say(challenge);
        let proof = Proof::decode(&self.hear()?).expect("a real node's reply");
        self.say(&framed(&[&b"a"[..], &digest(self.node, proof.challenge).0].concat()));
        Ok(())
    }
}

/// The challenge of an acceptor, with its length.
fn challenge(name: &[u8], odd: Odd) -> Vec<u8> {
    let flags = match odd {
        Odd::Hidden => FLAGS & !Flags::PUBLISHED.0,
        Odd::Naming => FLAGS & !Flags::PUBLISHED.0 | Flags::NAME_ME.0,
        Odd::Without(flag) => FLAGS & !flag,
        Odd::Digest25 => Flags::MANDATORY_25_DIGEST.0,
        Odd::NoFlags => 0,
        _ => FLAGS,
    };
    let name = if let Odd::Name(other) = odd { other } else { name };
    let len = match odd {
        Odd::NameLength(wrong) => name.len().checked_add_signed(wrong.into()).unwrap(),
        _ => name.len(),
    };
    let len = u16::try_from(len).unwrap().to_be_bytes();
    let mut body = [b"N", &flags.to_be_bytes()[..], &[0, 0, 0, 7, 0, 0, 0, 9], &len, name].concat();
    match odd {
        Odd::BehindChallenge(count) => body.extend(vec![b'x'; count]),
        Odd::ShortChallenge(count) => body.truncate(body.len() - count),
        Odd::ChallengeTag(tag) => body[0] = tag,
        Odd::Version5 => {
            let flags = u32::try_from(FLAGS & 0xffff_ffff).unwrap().to_be_bytes();
            body = [b"n\0\x05", &flags[..], &[0, 0, 0, 7], name].concat();
        }
        _ => {}
    }
    framed(&body)
}

/// What came of one handshake.
struct Played {
    wire: Wire,
    linked: bool,
    proved: bool,
}

/// Accepts the node's connection.
fn met<'a>(node: &'a Node, listener: &TcpListener, dice: &'a mut Dice) -> Player<'a> {
    let (stream, _) = listener.accept().expect("the node dials");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    Player { node, we: Speaker::Acceptor, stream, wire: Wire::new(), dice }
}

/// Has the node dial us under `name`, and plays with it.
fn dialled(node: &Node, listener: &TcpListener, dice: &mut Dice, name: &str, odd: Odd) -> Played {
    let dial = format!("net_kernel:connect_node('{name}').");
    thread::scope(|scope| {
        let dialling = scope.spawn(|| node.eval(&dial));
        let mut player = met(node, listener, dice);
        let proved = player.accept(name.as_bytes(), odd);
        if proved.is_err() {
            player.finish();
        }
        // We hold the connection until the node has made up its mind.
        let linked = dialling.join().unwrap() == "true";
        Played { wire: player.wire, linked, proved: proved.unwrap_or(false) }
    })
}

fn listen(host: &Host) -> TcpListener {
    host.listen((WE, PORT).into()).expect("the address is ours")
}

#[test]
fn the_watcher_says_up_when_a_real_initiator_links_and_only_then() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1"]);
    let host = lab.host("h1");
    let listener = listen(&host);
    let node = node("a@127.0.0.1", &host);
    let mut dice = Dice(SEED);
    let (mut ups, mut stricter, mut impostors) = (0, Vec::new(), 0);
    for round in 0..ROUNDS {
        // Each oddity once, then those that are none a third of the time, and any.
        let odd = ODDITIES.get(round).copied().unwrap_or_else(|| {
            if round.is_multiple_of(3) { dice.one_of(&ODDITIES[..5]) } else { dice.one_of(&ODDITIES) }
        });
        let played = dialled(&node, &listener, &mut dice, &format!("b{round}@{WE}"), odd);
        match (watch(&played.wire), played.linked) {
            (Told::Up, true) => ups += 1,
            // Without the cookie nobody can tell that the last proof is wrong: the initiator closes.
            (Told::Up, false) if !played.proved => impostors += 1,
            (Told::Fault(fault), true) => {
                let why = Stricter::of(fault);
                stricter.push(
                    why.unwrap_or_else(|| panic!("{odd:?} is taken, but {fault:?}: {:x?}", played.wire)),
                );
            }
            (Told::Refused | Told::Waits | Told::Fault(_), false) => {}
            (told, linked) => panic!("{odd:?}: {told:?}, really {linked}, round {round}: {:x?}", played.wire),
        }
    }
    assert!(ups > 60 && impostors > 0, "{ups} links, {impostors} wrong proofs");
    assert!(stricter.iter().all(|why| *why == Stricter::LongMessage) && !stricter.is_empty(), "{stricter:?}");
}

#[test]
fn a_real_node_that_asks_for_a_name_takes_one_of_its_own_host_and_no_other() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1"]);
    let host = lab.host("h1");
    let listener = listen(&host);
    let node = node("undefined@127.0.0.1", &host);
    let mut dice = Dice(SEED);
    const NOT: &str = "false nonode@nohost";
    let named: &[u8] = b"snamed:\0\x0bX@127.0.0.1\0\0\0\x09more";
    let cases: [(&[u8], Odd, Told, &str); 7] = [
        (b"snamed:\0\x0bX@127.0.0.3\0\0\0\x09", Odd::Naming, Told::Fault(NONE), NOT),
        (b"sok", Odd::Naming, Told::Fault(NONE), NOT),
        (b"salive", Odd::Naming, Told::Fault(NONE), NOT),
        (b"snok", Odd::Naming, Told::Refused, NOT),
        (b"snot_allowed", Odd::Naming, Told::Refused, NOT),
        // The node stumbles over its own missing flag once all is said (`dist_util:do_setnode`).
        (named, Odd::Nothing, Told::Up, NOT),
        (named, Odd::Naming, Told::Up, "true 'X@127.0.0.1'"),
    ];
    for (round, (status, odd, told, linked)) in cases.into_iter().enumerate() {
        let name = format!("b{round}@{WE}");
        let (wire, really) = thread::scope(|scope| {
            let dialling = scope.spawn(|| node.eval(&format!("net_kernel:connect_node('{name}').")));
            let mut player = met(&node, &listener, &mut dice);
            if player.give_name(status, &challenge(name.as_bytes(), odd)).is_err() {
                player.finish();
            }
            // It has its name for as long as we hold the link.
            let linked = dialling.join().unwrap();
            (player.wire, format!("{linked} {}", node.eval("node().")))
        });
        assert_eq!((watch(&wire), &*really), (told, linked), "{}: {wire:x?}", status.escape_ascii());
    }
}
