//! The watcher against the list of all handshakes that there are, over messages in any order, cut and
//! interleaved, some of them spoiled.

use proptest::prelude::*;

use super::flags::Flags;
use super::handshake::{Handshake, Learned, Phase, Progress, Speaker};
use super::message::{AliveAnswer, Challenge, Claim, Malformed, Status, Version};
use super::name::Claimed;

/// All handshakes that end with a link, a letter for each message; see [`MESSAGES`]. Written down from
/// `dist_util`, not from the watcher.
const UP: [&str; 10] =
    ["NoCra", "NOCra", "NltCra", "DmCra", "noCpra", "nOCpra", "nltCpra", "nocra", "nOcra", "nltcra"];
/// All that end with a refusal.
const REFUSED: [&str; 14] = [
    "Nk", "Nx", "Nlf", "Dk", "Dx", "nk", "nx", "nlf", "noCprx", "nOCprx", "nltCprx", "nocrx", "nOcrx",
    "nltcrx",
];
/// What initiators say, in [`UP`] and [`REFUSED`].
const INITIATOR: &str = "NDntfpr";

/// The bodies. The two challenges of the initiator and the acceptor have no letter in common.
const MESSAGES: [(char, &[u8]); 16] = [
    ('N', b"N\0\0\0\x0d\x07\xdf\x7f\xbd\0\0\0\x01\0\x03a@h"),
    ('D', b"N\0\0\0\x0f\x07\xdf\x7f\xbc\0\0\0\0\0\x01h"),
    ('n', b"n\0\x05\x07\xdf\x7f\xbda@h"),
    ('t', b"strue"),
    ('f', b"sfalse"),
    ('p', b"c\0\0\0\x0d\0\0\0\x01"),
    ('r', b"r\0\0\0\x050123456789abcdef"),
    ('o', b"sok"),
    ('O', b"sok_simultaneous"),
    ('k', b"snok"),
    ('x', b"snot_allowed"),
    ('l', b"salive"),
    ('m', b"snamed:\0\x03X@h\0\0\0\x07"),
    ('C', b"N\0\0\0\x0d\x07\xdf\x7f\xbd\0\0\0\x09\0\0\0\x01\0\x03b@h"),
    ('c', b"n\0\x05\0\x03\x7f\xbd\0\0\0\x09b@h"),
    ('a', b"a0123456789abcdef"),
];

/// What is done to a message that shall not pass.
#[derive(Debug, Clone, Copy)]
enum Spoiled {
    /// Another first byte.
    Tag,
    /// One byte fewer than the message has, and the length says so.
    Short,
    /// A length of none.
    Empty,
    /// A length that none has.
    Long,
}

/// A message of one side, as it will be sent.
#[derive(Debug, Clone)]
struct Sent {
    /// `None`: it is no message.
    letter: Option<char>,
    bytes: Vec<u8>,
}

impl Sent {
    fn whole(letter: char) -> Self {
        Self { letter: Some(letter), bytes: framed(body(letter)) }
    }

    fn spoiled(letter: char, how: Spoiled) -> Self {
        let mut body = body(letter).to_vec();
        let bytes = match how {
            Spoiled::Tag => {
                body[0] = b'x';
                framed(&body)
            }
            Spoiled::Short => {
                // One name less is another name; without the `@` it is none.
                body.truncate(if "nc".contains(letter) { 4 } else { body.len() - 1 });
                framed(&body)
            }
            Spoiled::Empty => vec![0, 0],
            Spoiled::Long => [&[0x04, 0x01], &body[..]].concat(),
        };
        Self { letter: None, bytes }
    }
}

fn body(letter: char) -> &'static [u8] {
    MESSAGES.iter().find(|(known, _)| *known == letter).unwrap().1
}

fn framed(body: &[u8]) -> Vec<u8> {
    [&u16::try_from(body.len()).unwrap().to_be_bytes(), body].concat()
}

/// How a watcher ends.
#[derive(Debug, PartialEq)]
enum End {
    Up,
    Refused,
    Waits,
    Fault,
}

/// What must come of it by the list alone: the messages that are taken, and the end. In each place only one
/// side has the word, and of it the next message counts.
fn expected(sent: &[Vec<Sent>; 2]) -> (String, End) {
    let mut word = String::new();
    let mut next = [0, 0];
    loop {
        if UP.contains(&word.as_str()) {
            return (word, End::Up);
        }
        if REFUSED.contains(&word.as_str()) {
            return (word, End::Refused);
        }
        let all = UP.iter().chain(&REFUSED).filter(|all| all.starts_with(&word));
        let due: Vec<char> = all.filter_map(|all| all.chars().nth(word.len())).collect();
        let side = usize::from(!INITIATOR.contains(due[0]));
        assert!(due.iter().all(|letter| usize::from(!INITIATOR.contains(*letter)) == side));
        let Some(message) = sent[side].get(next[side]) else { return (word, End::Waits) };
        next[side] += 1;
        match message.letter {
            Some(letter) if due.contains(&letter) => word.push(letter),
            _ => return (word, End::Fault),
        }
    }
}

/// What comes of it by the watcher, which gets the streams in pieces: so many bytes of one side each.
fn watched(sent: &[Vec<Sent>; 2], pieces: &[(usize, usize)]) -> (String, End) {
    let streams: [Vec<u8>; 2] =
        sent.each_ref().map(|messages| messages.iter().flat_map(|m| m.bytes.clone()).collect());
    let mut handshake = Handshake::default();
    let (mut heard, mut taken) = ([0usize; 2], [0usize; 2]);
    let mut word = String::new();
    let rest = [(0, usize::MAX), (1, usize::MAX)];
    for (side, count) in pieces.iter().chain(&rest) {
        heard[*side] = streams[*side].len().min(heard[*side].saturating_add(*count));
        while let Some(speaker) = handshake.turn() {
            let side = if speaker == Speaker::Initiator { 0 } else { 1 };
            match handshake.advance(speaker, &streams[side][taken[side]..heard[side]]) {
                Ok(Progress::Message(len, learned)) => {
                    taken[side] += len;
                    word.push(letter(&learned));
                }
                Ok(Progress::More) => break,
                Ok(other) => panic!("{other:?} in the turn of {speaker:?}"),
                Err(_) => return (word, End::Fault),
            }
        }
    }
    let end = match (handshake.turn(), handshake.phase()) {
        (Some(_), _) => End::Waits,
        (None, Phase::Up) => End::Up,
        (None, phase) => {
            assert_eq!(phase, Phase::Refused);
            End::Refused
        }
    };
    (word, end)
}

fn letter(learned: &Learned) -> char {
    match learned {
        Learned::Claim(Claim { claimed: Claimed::Dynamic(_), .. }) => 'D',
        Learned::Claim(Claim { version: Version::V6, .. }) => 'N',
        Learned::Claim(Claim { version: Version::V5, .. }) => 'n',
        Learned::Status(Status::Ok) => 'o',
        Learned::Status(Status::OkSimultaneous) => 'O',
        Learned::Status(Status::Nok) => 'k',
        Learned::Status(Status::NotAllowed) => 'x',
        Learned::Status(Status::Alive) => 'l',
        Learned::Status(Status::Named(..)) => 'm',
        Learned::AliveAnswer(AliveAnswer::True) => 't',
        Learned::AliveAnswer(AliveAnswer::False) => 'f',
        Learned::Challenge(Challenge { version: Version::V6, .. }) => 'C',
        Learned::Challenge(Challenge { version: Version::V5, .. }) => 'c',
        Learned::Complement(_) => 'p',
        Learned::Reply { .. } => 'r',
        Learned::Ack { .. } => 'a',
    }
}

/// A handshake with a few messages left out, put in or spoiled, so that most of it is right.
fn conversations() -> impl Strategy<Value = [Vec<Sent>; 2]> {
    let spoiled =
        prop_oneof![Just(Spoiled::Tag), Just(Spoiled::Short), Just(Spoiled::Empty), Just(Spoiled::Long),];
    let change = (0usize..8, 0usize..4, 0..MESSAGES.len(), spoiled);
    let all: Vec<&str> = UP.into_iter().chain(REFUSED).collect();
    (proptest::sample::select(all), proptest::collection::vec(change, 0..3)).prop_map(|(word, changes)| {
        let mut messages: Vec<(char, Sent)> = word.chars().map(|l| (l, Sent::whole(l))).collect();
        for (at, what, other, how) in changes {
            let at = at.min(messages.len());
            let other = MESSAGES[other].0;
            match (what, messages.get(at).map(|(letter, _)| *letter)) {
                (0, _) => messages.insert(at, (other, Sent::whole(other))),
                (1, Some(_)) => drop(messages.remove(at)),
                (2, Some(letter)) => messages[at] = (letter, Sent::spoiled(letter, how)),
                (3, Some(_)) => messages[at] = (other, Sent::whole(other)),
                _ => {}
            }
        }
        let of = |is_initiator: bool| {
            let side = messages.iter().filter(|(letter, _)| INITIATOR.contains(*letter) == is_initiator);
            side.map(|(_, sent)| sent.clone()).collect()
        };
        [of(true), of(false)]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn it_tells_what_the_list_of_handshakes_tells(
        sent in conversations(),
        pieces in proptest::collection::vec((0usize..2, 1usize..40), 0..30),
    ) {
        prop_assert_eq!(watched(&sent, &pieces), expected(&sent));
    }
}

#[test]
fn each_handshake_of_the_list_is_followed_byte_by_byte() {
    for (words, end) in [(&UP[..], End::Up), (&REFUSED[..], End::Refused)] {
        for word in words {
            let of = |is_initiator: bool| {
                let letters = word.chars().filter(|l| INITIATOR.contains(*l) == is_initiator);
                letters.map(Sent::whole).collect::<Vec<_>>()
            };
            let sent = [of(true), of(false)];
            let dripping: Vec<_> = (0..200).flat_map(|_| [(1, 1), (0, 1)]).collect();
            assert_eq!(expected(&sent).1, end);
            assert_eq!(watched(&sent, &dripping), expected(&sent), "{word}");
        }
    }
}

#[test]
fn every_order_of_all_messages_is_told_rightly() {
    // Depth first over all words up to the first fault: what the watcher takes next is what the list has next.
    let mut words = vec![(String::new(), Handshake::default())];
    let mut ends = 0;
    while let Some((word, handshake)) = words.pop() {
        let end = handshake.turn().is_none();
        assert_eq!(UP.contains(&word.as_str()), handshake.phase() == Phase::Up);
        assert_eq!(REFUSED.contains(&word.as_str()), handshake.phase() == Phase::Refused);
        ends += usize::from(end);
        for (letter, body) in MESSAGES {
            let speaker = if INITIATOR.contains(letter) { Speaker::Initiator } else { Speaker::Acceptor };
            let mut next = handshake.clone();
            let longer = format!("{word}{letter}");
            let listed = UP.iter().chain(&REFUSED).any(|all| all.starts_with(&longer));
            match next.advance(speaker, &framed(body)) {
                Ok(Progress::Message(_, learned)) => {
                    assert!(listed, "{longer}");
                    assert_eq!(self::letter(&learned), letter);
                    words.push((longer, next));
                }
                Ok(Progress::NotYet | Progress::Over) | Err(Malformed::Tag(_) | Malformed::Status) => {
                    assert!(!listed, "{longer}");
                }
                other => panic!("{other:?} for {longer}"),
            }
        }
    }
    assert_eq!(ends, UP.len() + REFUSED.len());
}

#[test]
fn the_messages_of_the_list_have_the_flags_that_they_should() {
    let claim = |letter| Claim::decode(body(letter)).unwrap();
    assert!(claim('D').flags.has(Flags::NAME_ME) && !claim('N').flags.has(Flags::NAME_ME));
    assert!(claim('n').flags.has(Flags::HANDSHAKE_23));
}
