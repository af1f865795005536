//! What the watcher adds to the set-up of a link: a whole handshake, every message of it.
//!
//! `--count N` plays N handshakes and measures nothing, so that another program can count instructions.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a benchmark that cannot run panics"
)]

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group};
use epmd_guard::proto::dist::{
    AliveAnswer, Challenge, Claim, Claimed, Complement, Digest, Flags, FullName, Handshake, Phase, Progress,
    Proof, Speaker, Status, Version,
};

/// Messages with their lengths, in the order of the turns.
type Messages = Vec<(Speaker, Vec<u8>)>;

fn written(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = Vec::new();
    write(&mut bytes);
    bytes
}

fn claim(version: Version) -> Vec<u8> {
    let name = FullName::new(b"ejabberd@h1.example.net").unwrap();
    let claim = Claim {
        claimed: Claimed::Name(name),
        flags: Flags(0xd_07df_7fbd),
        version,
        creation: Some(0xa5bf_9eff),
    };
    written(|into| claim.encode(into))
}

fn challenge() -> Vec<u8> {
    let challenge = Challenge {
        name: FullName::new(b"ejabberd@h2.example.net").unwrap(),
        flags: Flags(0xd_07df_7fbd),
        version: Version::V6,
        challenge: 0xbd47_fad9,
        creation: Some(0xadce_e3f3),
    };
    written(|into| challenge.encode(into))
}

fn status(status: &Status) -> Vec<u8> {
    written(|into| status.encode(into))
}

fn proofs() -> Messages {
    let proof = Proof { challenge: 0x72bb_56c9, digest: Digest([7; 16]) };
    vec![
        (Speaker::Initiator, written(|into| proof.encode(into))),
        (Speaker::Acceptor, written(|into| Digest([9; 16]).encode_ack(into))),
    ]
}

/// What nearly every link begins with.
fn usual() -> Messages {
    let mut messages = vec![
        (Speaker::Initiator, claim(Version::V6)),
        (Speaker::Acceptor, status(&Status::Ok)),
        (Speaker::Acceptor, challenge()),
    ];
    messages.extend(proofs());
    messages
}

/// The longest that there is: version 5, and an old connection to be replaced.
fn longest() -> Messages {
    let complement = Complement { flags_high: 0xd, creation: 7 };
    let mut messages = vec![
        (Speaker::Initiator, claim(Version::V5)),
        (Speaker::Acceptor, status(&Status::Alive)),
        (Speaker::Initiator, written(|into| AliveAnswer::True.encode(into))),
        (Speaker::Acceptor, challenge()),
        (Speaker::Initiator, written(|into| complement.encode(into))),
    ];
    messages.extend(proofs());
    messages
}

/// One handshake, each message in a segment of its own.
#[inline(never)]
fn in_messages(messages: &Messages) {
    let mut handshake = Handshake::default();
    for (speaker, bytes) in messages {
        let progress = handshake.advance(*speaker, black_box(bytes));
        assert!(matches!(black_box(progress), Ok(Progress::Message(..))));
    }
    assert_eq!(handshake.phase(), Phase::Up);
}

/// The same in segments of a byte each, the worst that a peer can do.
#[inline(never)]
fn in_bytes(messages: &Messages) {
    let mut handshake = Handshake::default();
    for (speaker, bytes) in messages {
        for end in 1..=bytes.len() {
            drop(black_box(handshake.advance(*speaker, black_box(&bytes[..end]))));
        }
    }
    assert_eq!(handshake.phase(), Phase::Up);
}

fn handshakes(c: &mut Criterion) {
    let mut group = c.benchmark_group("handshake");
    for (name, messages) in [("usual", usual()), ("longest", longest())] {
        group.bench_with_input(BenchmarkId::new("in messages", name), &messages, |b, messages| {
            b.iter(|| in_messages(messages));
        });
        group.bench_with_input(BenchmarkId::new("in bytes", name), &messages, |b, messages| {
            b.iter(|| in_bytes(messages));
        });
    }
    group.finish();
}

criterion_group!(benches, handshakes);

fn main() {
    let mut arguments = std::env::args().skip_while(|argument| argument != "--count").skip(1);
    let Some(count) = arguments.next() else {
        benches();
        Criterion::default().configure_from_args().final_summary();
        return;
    };
    let messages = usual();
    for _ in 0..count.parse::<u64>().expect("a number") {
        in_messages(&messages);
    }
}
