//! Each message both ways: against the bytes of real nodes, cut short, with more behind, and at random.

use proptest::prelude::*;

use super::flags::Flags;
use super::message::{AliveAnswer, Challenge, Claim, Complement, Digest, Malformed, Proof, Status, Version};
use super::name::{Claimed, FullName, HostPart, NameFault};
use super::recorded::{Recorded, bytes};

fn name(text: &str) -> FullName {
    FullName::new(text.as_bytes()).unwrap()
}

fn digest(hex: &str) -> Digest {
    Digest(bytes(hex).try_into().unwrap())
}

/// It decodes to that, and that is encoded to it.
fn both_ways<T: PartialEq + std::fmt::Debug>(
    body: &[u8],
    decode: fn(&[u8]) -> Result<T, Malformed>,
    encode: fn(&T, &mut Vec<u8>),
    meaning: T,
) {
    assert_eq!(decode(body), Ok(meaning));
    let mut frame = Vec::new();
    encode(&decode(body).unwrap(), &mut frame);
    assert_eq!(frame, [&u16::try_from(body.len()).unwrap().to_be_bytes(), body].concat());
}

fn encode_answer(answer: &AliveAnswer, into: &mut Vec<u8>) {
    answer.encode(into);
}

fn encode_complement(complement: &Complement, into: &mut Vec<u8>) {
    complement.encode(into);
}

fn encode_proof(proof: &Proof, into: &mut Vec<u8>) {
    proof.encode(into);
}

fn encode_ack(digest: &Digest, into: &mut Vec<u8>) {
    digest.encode_ack(into);
}

#[test]
fn the_names_that_real_initiators_say_are_read_and_written() {
    let visible = Claim {
        claimed: Claimed::Name(name("a@127.0.0.2")),
        flags: Flags(0xd_07df_7fbd),
        version: Version::V6,
        creation: Some(0xa5bf_9eff),
    };
    both_ways(&Recorded::of("a visible").body(0), Claim::decode, Claim::encode, visible);
    let hidden = Claim {
        claimed: Claimed::Name(name("h@127.0.0.2")),
        flags: Flags(0xd_07df_7fbc),
        version: Version::V6,
        creation: Some(0xf9b1_05be),
    };
    assert!(hidden.flags.is_hidden());
    both_ways(&Recorded::of("a hidden").body(0), Claim::decode, Claim::encode, hidden);
    let dynamic = Claim {
        claimed: Claimed::Dynamic(HostPart::new(b"127.0.0.2").unwrap()),
        flags: Flags(0xf_07df_7fbc),
        version: Version::V6,
        creation: Some(0),
    };
    both_ways(&Recorded::of("a node that asks").body(0), Claim::decode, Claim::encode, dynamic);
    let old = Claim {
        claimed: Claimed::Name(name("v@127.0.0.2")),
        flags: Flags(0x07df_7fbd),
        version: Version::V5,
        creation: None,
    };
    both_ways(&Recorded::of("version 5 to OTP 27").body(0), Claim::decode, Claim::encode, old);
}

#[test]
fn the_statuses_of_real_acceptors_are_read_and_written() {
    let named = Status::Named(name("3TQUOHYODZJRP@127.0.0.2"), 0xf715_50e5);
    for (what, status) in [
        ("a visible", Status::Ok),
        ("both dial, and the higher", Status::OkSimultaneous),
        ("both dial, and the lower", Status::Nok),
        ("a name that", Status::NotAllowed),
        ("a node whose old", Status::Alive),
        ("a node that asks", named),
    ] {
        both_ways(&Recorded::of(what).body(1), Status::decode, Status::encode, status);
    }
    let late = Recorded::of("version 5 to OTP 29").body(5);
    both_ways(&late, Status::decode, Status::encode, Status::NotAllowed);
}

#[test]
fn what_follows_a_status_of_real_nodes_is_read_and_written() {
    let alive = Recorded::of("a node whose old");
    both_ways(&alive.body(2), AliveAnswer::decode, encode_answer, AliveAnswer::True);
    both_ways(b"sfalse", AliveAnswer::decode, encode_answer, AliveAnswer::False);
    let challenge = Challenge {
        name: name("b@127.0.0.1"),
        flags: Flags(0xd_07df_7fbd),
        version: Version::V6,
        challenge: 0xdfcc_5632,
        creation: Some(0xdb41_06ae),
    };
    both_ways(&alive.body(3), Challenge::decode, Challenge::encode, challenge);
    let proof = Proof { challenge: 0xbbe4_80da, digest: digest("97cd25136acac6d8f799c2b552034fdc") };
    both_ways(&alive.body(4), Proof::decode, encode_proof, proof);
    let ack = digest("91097dcd0237632c187f661aeec1fd21");
    both_ways(&alive.body(5), Digest::decode_ack, encode_ack, ack);
    let complement = Complement { flags_high: 0xd, creation: 0x0102_0304 };
    let old = Recorded::of("version 5 to OTP 27");
    both_ways(&old.body(3), Complement::decode, encode_complement, complement);
    // As `dist_util:send_challenge` of OTP 22 writes it.
    let challenge = Challenge {
        name: name("b@h"),
        flags: Flags(0x3_7fbd),
        version: Version::V5,
        challenge: 0xffff_fffe,
        creation: None,
    };
    let body = b"n\x00\x05\x00\x03\x7f\xbd\xff\xff\xff\xfeb@h";
    both_ways(body, Challenge::decode, Challenge::encode, challenge);
}

#[test]
fn a_message_that_ends_too_early_is_none() {
    let all: fn(&[u8]) -> [bool; 7] = |body| {
        [
            Claim::decode(body).is_ok(),
            Status::decode(body).is_ok(),
            AliveAnswer::decode(body).is_ok(),
            Challenge::decode(body).is_ok(),
            Complement::decode(body).is_ok(),
            Proof::decode(body).is_ok(),
            Digest::decode_ack(body).is_ok(),
        ]
    };
    for recorded in &super::recorded::RECORDED {
        for at in 0..recorded.turns.len() {
            let body = recorded.body(at);
            assert!(all(&body).contains(&true), "{} of {}", at, recorded.what);
            for cut in 0..body.len() {
                let part = &body[..cut];
                // The name of version 5 goes to the end of its message, and one status begins another.
                let begun = part == b"sok" || (part.starts_with(b"n") && cut > b"n..flagv@".len());
                assert_eq!(all(part).contains(&true), begun, "{} of {} at {cut}", at, recorded.what);
            }
        }
    }
}

#[test]
fn more_behind_a_message_is_ignored_where_otp_ignores_it() {
    let more = |body: Vec<u8>| [&body[..], b"more"].concat();
    let visible = Recorded::of("a visible");
    assert_eq!(Claim::decode(&more(visible.body(0))), Claim::decode(&visible.body(0)));
    assert_eq!(Challenge::decode(&more(visible.body(2))), Challenge::decode(&visible.body(2)));
    let named = Recorded::of("a node that asks").body(1);
    assert_eq!(Status::decode(&more(named.clone())), Status::decode(&named));
    assert_eq!(Status::decode(&more(visible.body(1))), Err(Malformed::Status));
    assert_eq!(AliveAnswer::decode(b"struer"), Err(Malformed::Status));
    assert_eq!(Proof::decode(&more(visible.body(3))), Err(Malformed::Length));
    assert_eq!(Digest::decode_ack(&more(visible.body(4))), Err(Malformed::Length));
    let complement = Recorded::of("version 5 to OTP 27").body(3);
    assert_eq!(Complement::decode(&more(complement)), Err(Malformed::Length));
}

#[test]
fn a_body_says_what_is_wrong_with_it() {
    let decode = |body: &[u8]| Claim::decode(body).unwrap_err();
    assert_eq!(decode(b""), Malformed::Empty);
    assert_eq!(decode(b"s"), Malformed::Tag(b's'));
    assert_eq!(decode(b"N12345678"), Malformed::Length);
    assert_eq!(decode(b"N12345678cccc\xff\xffn@h"), Malformed::Length);
    assert_eq!(decode(b"n\x00\x04flagn@h"), Malformed::Version(4));
    assert_eq!(decode(b"n\x00\x05flagn"), Malformed::Name(NameFault::Form));
    assert_eq!(decode(b"N12345678cccc\0\x04n@h@"), Malformed::Name(NameFault::Form));
    // With NAME_ME (bit 33) there must be no `@`, whatever else the name is.
    assert_eq!(decode(b"N\0\0\0\x020000cccc\0\x03n@h"), Malformed::Name(NameFault::Form));
    assert!(Claim::decode(b"N\0\0\0\x020000cccc\0\x01h").is_ok());
    assert_eq!(Status::decode(b"r"), Err(Malformed::Tag(b'r')));
    assert_eq!(Status::decode(b"sok\0"), Err(Malformed::Status));
    assert_eq!(Status::decode(b"snamed:"), Err(Malformed::Length));
    assert_eq!(Status::decode(b"snamed:\0\x03n@h123"), Err(Malformed::Length));
    assert_eq!(Status::decode(b"snamed:\0\x01n1234"), Err(Malformed::Name(NameFault::Form)));
    assert_eq!(AliveAnswer::decode(b"c"), Err(Malformed::Tag(b'c')));
    for neither in [&b"syes"[..], b"s", b"sTrue", b"strue\0", b"sok"] {
        assert_eq!(AliveAnswer::decode(neither), Err(Malformed::Status));
    }
    assert_eq!(Challenge::decode(b"n\0\x04flagchaln@h"), Err(Malformed::Version(4)));
    assert_eq!(Challenge::decode(b"c"), Err(Malformed::Tag(b'c')));
    assert_eq!(Complement::decode(b"r"), Err(Malformed::Tag(b'r')));
    assert_eq!(Proof::decode(b"a"), Err(Malformed::Tag(b'a')));
    assert_eq!(Digest::decode_ack(b"r"), Err(Malformed::Tag(b'r')));
}

#[test]
fn a_digest_is_compared_and_never_shown() {
    let one = digest("91097dcd0237632c187f661aeec1fd21");
    for at in 0..one.0.len() {
        let mut other = one;
        other.0[at] ^= 0x40;
        assert_ne!(one, other, "at {at}");
    }
    assert_eq!(one, digest("91097dcd0237632c187f661aeec1fd21"));
    assert_eq!(format!("{one:?}"), "Digest(..)");
}

fn names() -> impl Strategy<Value = FullName> {
    "[A-Za-z0-9_-]{1,54}@[A-Za-z0-9._:-]{1,200}".prop_map(|text| name(&text))
}

fn claims() -> impl Strategy<Value = Claim> {
    let hosts = "[A-Za-z0-9._:-]{1,200}".prop_map(|text| HostPart::new(text.as_bytes()).unwrap());
    let name_me = Flags::NAME_ME.0;
    prop_oneof![
        (names(), any::<u64>(), any::<u32>()).prop_map(move |(name, flags, creation)| Claim {
            claimed: Claimed::Name(name),
            flags: Flags(flags & !name_me),
            version: Version::V6,
            creation: Some(creation),
        }),
        (hosts, any::<u64>(), any::<u32>()).prop_map(move |(host, flags, creation)| Claim {
            claimed: Claimed::Dynamic(host),
            flags: Flags(flags | name_me),
            version: Version::V6,
            creation: Some(creation),
        }),
        (names(), any::<u32>()).prop_map(|(name, flags)| Claim {
            claimed: Claimed::Name(name),
            flags: Flags(flags.into()),
            version: Version::V5,
            creation: None,
        }),
    ]
}

fn challenges() -> impl Strategy<Value = Challenge> {
    prop_oneof![
        (names(), any::<(u64, u32, u32)>()).prop_map(|(name, (flags, challenge, creation))| Challenge {
            name,
            flags: Flags(flags),
            version: Version::V6,
            challenge,
            creation: Some(creation),
        }),
        (names(), any::<(u32, u32)>()).prop_map(|(name, (flags, challenge))| Challenge {
            name,
            flags: Flags(flags.into()),
            version: Version::V5,
            challenge,
            creation: None,
        }),
    ]
}

fn written<T>(message: &T, encode: fn(&T, &mut Vec<u8>)) -> Vec<u8> {
    // It is put behind what is there.
    let mut into = vec![0xff];
    encode(message, &mut into);
    assert_eq!(into.remove(0), 0xff);
    let body = into.split_off(2);
    assert_eq!(into, u16::try_from(body.len()).unwrap().to_be_bytes());
    assert!(body.len() <= super::MAX_BODY);
    body
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(
        claim in claims(),
        challenge in challenges(),
        (named, creation) in (names(), any::<u32>()),
        (number, high) in any::<(u32, u32)>(),
        digest in any::<[u8; 16]>(),
    ) {
        prop_assert_eq!(Claim::decode(&written(&claim, Claim::encode)), Ok(claim));
        prop_assert_eq!(Challenge::decode(&written(&challenge, Challenge::encode)), Ok(challenge));
        let status = Status::Named(named, creation);
        prop_assert_eq!(Status::decode(&written(&status, Status::encode)), Ok(status));
        let complement = Complement { flags_high: high, creation };
        prop_assert_eq!(Complement::decode(&written(&complement, encode_complement)), Ok(complement));
        let proof = Proof { challenge: number, digest: Digest(digest) };
        prop_assert_eq!(Proof::decode(&written(&proof, encode_proof)), Ok(proof));
        let ack = Digest(digest);
        prop_assert_eq!(Digest::decode_ack(&written(&ack, encode_ack)), Ok(ack));
    }

    #[test]
    fn no_body_makes_a_decoder_panic(body in proptest::collection::vec(any::<u8>(), 0..64), tag in "[Nnscra]") {
        let body = [tag.as_bytes(), &body].concat();
        drop((Claim::decode(&body), Status::decode(&body), AliveAnswer::decode(&body)));
        drop((Challenge::decode(&body), Complement::decode(&body)));
        prop_assert!(Proof::decode(&body).is_err() || body.len() == 21);
        prop_assert!(Digest::decode_ack(&body).is_err() || body.len() == 17);
    }
}
