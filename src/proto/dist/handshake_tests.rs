//! The watcher of a handshake: real ones in any segments, the paths that real ones do not show, and what is
//! none.

use super::handshake::{Handshake, Learned, MAX_BODY, Phase, Progress, Speaker};
use super::message::{AliveAnswer, Malformed, Status, Version};
use super::name::NameFault;
use super::recorded::{RECORDED, Recorded, bytes};

const A: Speaker = Speaker::Initiator;
const B: Speaker = Speaker::Acceptor;

fn frame(body: &[u8]) -> Vec<u8> {
    [&u16::try_from(body.len()).unwrap().to_be_bytes(), body].concat()
}

/// Shows whole messages, of which each must be taken, and gives what was learned.
fn play(handshake: &mut Handshake, messages: &[(Speaker, Vec<u8>)]) -> Vec<Learned> {
    let mut told = Vec::new();
    for (speaker, message) in messages {
        assert_eq!(handshake.turn(), Some(*speaker));
        match handshake.advance(*speaker, message) {
            Ok(Progress::Message(len, learned)) if len == message.len() => told.push(learned),
            other => panic!("{other:?} for {message:x?}"),
        }
    }
    told
}

/// A watcher that has seen the first so many messages.
fn after(recorded: &Recorded, count: usize) -> Handshake {
    let mut handshake = Handshake::default();
    play(&mut handshake, &recorded.messages()[..count]);
    handshake
}

/// Shows a message with this body.
fn show(handshake: &mut Handshake, speaker: Speaker, body: &[u8]) -> Result<Progress, Malformed> {
    handshake.advance(speaker, &frame(body))
}

#[test]
fn real_handshakes_are_followed_to_their_end() {
    for recorded in &RECORDED {
        let mut handshake = Handshake::default();
        assert_eq!(handshake.phase(), Phase::Name);
        let told = play(&mut handshake, &recorded.messages());
        assert_eq!(handshake.phase(), recorded.end, "{}", recorded.what);
        let Learned::Claim(claim) = &told[0] else { panic!("{told:?}") };
        assert_eq!(handshake.claim().map(|kept| &kept.claimed), Some(&claim.claimed));
        assert_eq!(handshake.saw_alive(), recorded.what.starts_with("a node whose old"));
        // What follows is none of the handshake's.
        if handshake.turn().is_none() {
            for (speaker, behind) in recorded.behind {
                assert_eq!(handshake.advance(speaker, &bytes(behind)), Ok(Progress::Over));
            }
        }
    }
}

#[test]
fn each_proof_is_told_with_the_number_that_it_is_of() {
    for what in ["a visible", "a node that asks", "a node whose old", "version 5 to OTP 27"] {
        let recorded = Recorded::of(what);
        let told = play(&mut Handshake::default(), &recorded.messages());
        let own = recorded.messages();
        let number =
            |at: usize, from: usize| u32::from_be_bytes(own[at].1[from..from + 4].try_into().unwrap());
        let [.., Learned::Reply { challenge, .. }, Learned::Ack { challenge: back, .. }] = &told[..] else {
            panic!("{told:?}")
        };
        let asked = told.iter().position(|learned| matches!(learned, Learned::Challenge(_))).unwrap();
        assert_eq!((*challenge, *back), (number(asked, 11), number(own.len() - 2, 3)), "{what}");
    }
}

#[test]
fn every_beginning_of_a_message_asks_for_more() {
    for recorded in &RECORDED {
        for (at, (speaker, message)) in recorded.messages().iter().enumerate() {
            let mut handshake = after(recorded, at);
            for cut in 0..message.len() {
                let so_far = handshake.advance(*speaker, &message[..cut]);
                assert_eq!(so_far, Ok(Progress::More), "{} of {at} of {}", cut, recorded.what);
            }
        }
    }
}

#[test]
fn what_is_glued_behind_a_message_is_left_alone() {
    for recorded in &RECORDED {
        let messages = recorded.messages();
        for (at, (speaker, message)) in messages.iter().enumerate() {
            let of_same = messages[at + 1..].iter().filter(|(who, _)| who == speaker);
            let mut stream = message.clone();
            stream.extend(of_same.flat_map(|(_, later)| later));
            stream
                .extend(recorded.behind.iter().filter(|(who, _)| who == speaker).flat_map(|(_, b)| bytes(b)));
            let (mut glued, mut alone) = (after(recorded, at), after(recorded, at));
            assert_eq!(glued.advance(*speaker, &stream), alone.advance(*speaker, message));
            assert_eq!(glued.phase(), alone.phase());
        }
    }
}

#[test]
fn who_speaks_out_of_turn_has_to_wait() {
    for recorded in &RECORDED {
        for (at, (speaker, _)) in recorded.messages().iter().enumerate() {
            let mut handshake = after(recorded, at);
            let phase = handshake.phase();
            let other = if *speaker == A { B } else { A };
            for early in [&b""[..], b"\0", b"\0\0\0\0", b"\xff\xff\xff", &frame(b"sok"), &[0x16, 3, 1, 2, 0]]
            {
                assert_eq!(handshake.advance(other, early), Ok(Progress::NotYet));
            }
            assert_eq!(handshake.phase(), phase);
        }
    }
}

#[test]
fn what_cannot_become_the_next_message_is_told_as_soon_as_it_shows() {
    for recorded in RECORDED.iter().filter(|recorded| recorded.end == Phase::Up) {
        for (at, (speaker, _)) in recorded.messages().iter().enumerate() {
            let mut handshake = after(recorded, at);
            let mut fault = |bytes: &[u8]| handshake.advance(*speaker, bytes).unwrap_err();
            assert_eq!(fault(&[0, 0]), Malformed::Empty);
            assert_eq!(fault(&[0, 0, b'x']), Malformed::Empty);
            assert_eq!(fault(&[4, 1]), Malformed::TooLong(MAX_BODY + 1));
            assert_eq!(fault(&[0xff, 0xff, b'N']), Malformed::TooLong(0xffff));
            assert_eq!(fault(&[4, 0, b'x']), Malformed::Tag(b'x'));
            let tls = if at == 0 { Malformed::Tls } else { Malformed::TooLong(0x1603) };
            assert_eq!(fault(&[0x16, 3, 1]), tls);
        }
    }
}

#[test]
fn only_the_message_that_is_due_may_begin() {
    let may_come = |recorded: &Recorded, at: usize| {
        let handshake = after(recorded, at);
        let speaker = handshake.turn().unwrap();
        let begins = |tag: &u8| handshake.clone().advance(speaker, &[0, 99, *tag]) == Ok(Progress::More);
        String::from_utf8((0..=0xff).filter(begins).collect()).unwrap()
    };
    let tags = |what: &str| {
        let recorded = Recorded::of(what);
        (0..recorded.turns.len()).map(|at| may_come(recorded, at)).collect::<Vec<_>>()
    };
    assert_eq!(tags("a visible"), ["Nn", "s", "N", "r", "a"]);
    assert_eq!(tags("a node whose old"), ["Nn", "s", "s", "N", "r", "a"]);
    assert_eq!(tags("version 5 to OTP 29"), ["Nn", "s", "Nn", "c", "r", "as"]);
}

#[test]
fn a_fault_changes_nothing() {
    for (at, body) in [(0, &b"N"[..]), (1, b"sno"), (2, b"N"), (3, b"r"), (4, b"a")] {
        let recorded = Recorded::of("a visible");
        let mut handshake = after(recorded, at);
        let speaker = handshake.turn().unwrap();
        let phase = handshake.phase();
        assert!(show(&mut handshake, speaker, body).is_err());
        assert_eq!(handshake.phase(), phase);
        play(&mut handshake, &recorded.messages()[at..]);
        assert_eq!(handshake.phase(), Phase::Up);
    }
}

#[test]
fn a_name_that_is_none_ends_it() {
    let mut handshake = Handshake::default();
    let body = b"N12345678cccc\0\x04n@h\n";
    assert_eq!(show(&mut handshake, A, body), Err(Malformed::Name(NameFault::BadCharacter)));
    assert_eq!(show(&mut handshake, A, b"n\0\x04flagn@h"), Err(Malformed::Version(4)));
    assert_eq!(show(&mut handshake, A, b"N12345678cccc\0\x09n@h"), Err(Malformed::Length));
    assert!(handshake.claim().is_none());
}

#[test]
fn an_old_connection_that_lives_ends_the_new_one() {
    let mut handshake = after(Recorded::of("a node whose old"), 2);
    assert!(handshake.saw_alive());
    assert_eq!(show(&mut handshake, A, b"smaybe"), Err(Malformed::Status));
    let answer = Learned::AliveAnswer(AliveAnswer::False);
    assert_eq!(show(&mut handshake, A, b"sfalse"), Ok(Progress::Message(8, answer)));
    assert_eq!(handshake.phase(), Phase::Refused);
    assert_eq!(handshake.advance(A, b"\0"), Ok(Progress::Over));
}

#[test]
fn only_who_asks_for_a_name_is_given_one_and_of_its_own_host() {
    let named: &[u8] = b"snamed:\0\x0bX@127.0.0.2\0\0\0\x01";
    let elsewhere: &[u8] = b"snamed:\0\x0bX@127.0.0.3\0\0\0\x01";
    let asks = after(Recorded::of("a node that asks"), 1);
    for wrong in [&b"sok"[..], b"sok_simultaneous", b"salive", elsewhere] {
        assert_eq!(show(&mut asks.clone(), B, wrong), Err(Malformed::Status));
    }
    for no in [&b"snok"[..], b"snot_allowed"] {
        let mut asks = asks.clone();
        assert!(show(&mut asks, B, no).is_ok());
        assert_eq!(asks.phase(), Phase::Refused);
    }
    let mut given = asks.clone();
    assert!(show(&mut given, B, named).is_ok());
    assert_eq!(given.phase(), Phase::Challenge);
    let mut has_one = after(Recorded::of("a visible"), 1);
    assert_eq!(show(&mut has_one, B, named), Err(Malformed::Status));
}

#[test]
fn a_complement_completes_the_claim() {
    let recorded = Recorded::of("version 5 to OTP 27");
    let before = after(recorded, 3);
    let claim = before.claim().unwrap();
    assert_eq!((claim.version, claim.flags.0, claim.creation), (Version::V5, 0x07df_7fbd, None));
    let completed = after(recorded, 4);
    let claim = completed.claim().unwrap();
    assert_eq!((claim.flags.0, claim.creation), (0xd_07df_7fbd, Some(0x0102_0304)));
}

#[test]
fn an_acceptor_of_version_5_gets_no_complement() {
    let recorded = Recorded::of("version 5 to OTP 27");
    let mut handshake = after(recorded, 2);
    assert!(show(&mut handshake, B, b"n\0\x05\0\x03\x7f\xbd\0\0\0\x07b@h").is_ok());
    assert_eq!(handshake.phase(), Phase::Reply);
    play(&mut handshake, &recorded.messages()[4..]);
    assert_eq!(handshake.phase(), Phase::Up);
}

#[test]
fn in_the_place_of_the_ack_version_5_may_be_refused_and_nothing_else() {
    let mut old = after(Recorded::of("version 5 to OTP 29"), 5);
    for wrong in [&b"sok"[..], b"snok", b"salive", b"s"] {
        assert_eq!(show(&mut old, B, wrong), Err(Malformed::Status));
    }
    let late = Learned::Status(Status::NotAllowed);
    assert_eq!(show(&mut old, B, b"snot_allowed"), Ok(Progress::Message(14, late)));
    assert_eq!(old.phase(), Phase::Refused);
    let mut new = after(Recorded::of("a visible"), 4);
    assert_eq!(show(&mut new, B, b"snot_allowed"), Err(Malformed::Tag(b's')));
}
