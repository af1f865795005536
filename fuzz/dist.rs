//! What must hold for any bytes of the distribution handshake: shared by the fuzz targets and by
//! `tests/corpus.rs`, which replays the committed corpus on stable.

use std::fmt::Debug;

use epmd_guard::proto::dist::{
    AliveAnswer, Challenge, Claim, Claimed, Complement, Digest, Handshake, Learned, MAX_BODY, Malformed,
    Phase, Progress, Proof, Speaker, Status, Version,
};

/// All handshakes that there are, as the letters of [`letter`]: those that end with a link, and those that end
/// with a refusal. Written down from `dist_util`, not from the watcher.
const UP: [&str; 10] =
    ["NoCra", "NOCra", "NltCra", "DmCra", "noCpra", "nOCpra", "nltCpra", "nocra", "nOcra", "nltcra"];
const REFUSED: [&str; 14] = [
    "Nk", "Nx", "Nlf", "Dk", "Dx", "nk", "nx", "nlf", "noCprx", "nOCprx", "nltCprx", "nocrx", "nOcrx",
    "nltcrx",
];

/// What an initiator sends. The first byte chooses the message, the others are its body.
pub(crate) fn check_initiator(input: &[u8]) {
    let Some((which, body)) = input.split_first() else { return };
    match which % 4 {
        0 => check(body, Claim::decode, Claim::encode, |claim| tail_of(claim.version)),
        1 => check(body, AliveAnswer::decode, |answer, into| answer.encode(into), |_| Tail::Refused),
        2 => check(body, Complement::decode, |complement, into| complement.encode(into), |_| Tail::Refused),
        _ => check(body, Proof::decode, |proof, into| proof.encode(into), |_| Tail::Refused),
    }
}

/// What an acceptor sends. The first byte chooses the message, the others are its body.
pub(crate) fn check_acceptor(input: &[u8]) {
    let Some((which, body)) = input.split_first() else { return };
    match which % 3 {
        0 => check(body, Status::decode, Status::encode, |status| match status {
            Status::Named(..) => Tail::Ignored,
            Status::Ok | Status::OkSimultaneous | Status::Nok | Status::NotAllowed | Status::Alive => {
                Tail::Refused
            }
        }),
        1 => check(body, Challenge::decode, Challenge::encode, |challenge| tail_of(challenge.version)),
        _ => check(body, Digest::decode_ack, |digest, into| digest.encode_ack(into), |_| Tail::Refused),
    }
}

/// What becomes of bytes behind a message's own.
#[derive(PartialEq)]
enum Tail {
    Ignored,
    Refused,
    /// They are the end of the name.
    Name,
}

fn tail_of(version: Version) -> Tail {
    if version == Version::V6 { Tail::Ignored } else { Tail::Name }
}

/// What decodes is encoded to a frame that decodes the same, which is the beginning of what was decoded (but
/// for the number of version 5, of which later ones are taken too); what may follow it changes nothing, and
/// nothing of it may be missing.
fn check<T: Debug + PartialEq>(
    body: &[u8],
    decode: fn(&[u8]) -> Result<T, Malformed>,
    encode: fn(&T, &mut Vec<u8>),
    tail: fn(&T) -> Tail,
) {
    let Ok(message) = decode(body) else { return };
    let mut frame = vec![0xff];
    encode(&message, &mut frame);
    let (len, own) = frame[1..].split_first_chunk::<2>().expect("a length");
    assert_eq!(usize::from(u16::from_be_bytes(*len)), own.len());
    assert!(own.len() <= MAX_BODY);
    assert_eq!(decode(own).as_ref(), Ok(&message));
    let tail = tail(&message);
    if tail == Tail::Name {
        assert_eq!((own.len(), own[0], &own[3..]), (body.len(), body[0], &body[3..]));
        return;
    }
    assert!(body.starts_with(own));
    let more = [own, b"\0"].concat();
    if tail == Tail::Ignored {
        assert_eq!(decode(&more).as_ref(), Ok(&message));
    } else {
        assert!(decode(&more).is_err() && own == body);
    }
    // `ok` is the beginning of `ok_simultaneous`.
    for cut in (0..own.len()).filter(|cut| &own[..*cut] != b"sok") {
        assert!(decode(&own[..cut]).is_err(), "cut at {cut}");
    }
}

/// Two streams, cut and interleaved: each record is a byte, whose highest bit is the side and whose others are
/// the length, and so many bytes.
///
/// However they are cut, the watcher tells the same; and it tells that the link is up, or refused, after one of
/// the handshakes that there are.
pub(crate) fn check_handshake(input: &[u8]) {
    let records = records(input);
    let mut cut = Watched::default();
    let mut whole = Watched::default();
    let mut dripped = Watched::default();
    for (speaker, bytes) in &records {
        cut.hear(*speaker, bytes);
        cut.watch();
        whole.hear(*speaker, bytes);
        for byte in *bytes {
            dripped.hear(*speaker, &[*byte]);
            dripped.watch();
        }
    }
    whole.watch();
    assert_eq!(cut.told, whole.told);
    assert_eq!(cut.told, dripped.told);
    assert_eq!((cut.fault, &cut.left), (whole.fault, &whole.left));
    assert_eq!((cut.fault, &cut.left), (dripped.fault, &dripped.left));
    let phase = cut.handshake.phase();
    let word: String = cut.told.iter().map(letter).collect();
    match phase {
        Phase::Up => assert!(UP.contains(&word.as_str()), "up after {word}"),
        Phase::Refused => assert!(REFUSED.contains(&word.as_str()), "refused after {word}"),
        Phase::Name
        | Phase::Status
        | Phase::AliveAnswer
        | Phase::Challenge
        | Phase::Complement
        | Phase::Reply
        | Phase::Ack => {
            let begun = |all: &&str| all.len() > word.len() && all.starts_with(&word);
            assert!(UP.iter().any(begun), "waits after {word}");
        }
    }
    assert_eq!(cut.handshake.saw_alive(), word.contains('l'));
    assert_eq!(cut.handshake.claim().is_some(), !word.is_empty());
}

/// The records of [`check_handshake`].
fn records(mut input: &[u8]) -> Vec<(Speaker, &[u8])> {
    let mut records = Vec::new();
    while let Some((head, rest)) = input.split_first() {
        let speaker = if head & 0x80 == 0 { Speaker::Initiator } else { Speaker::Acceptor };
        let (bytes, rest) = rest.split_at(rest.len().min(usize::from(head & 0x7f)));
        records.push((speaker, bytes));
        input = rest;
    }
    records
}

/// A watcher, what it has not taken yet, and what it has told.
#[derive(Default)]
struct Watched {
    handshake: Handshake,
    left: [Vec<u8>; 2],
    told: Vec<Learned>,
    fault: Option<Malformed>,
}

impl Watched {
    fn hear(&mut self, speaker: Speaker, bytes: &[u8]) {
        self.left[side(speaker)].extend(bytes);
    }

    /// Lets it take what it can.
    fn watch(&mut self) {
        while let (None, Some(speaker)) = (self.fault, self.handshake.turn()) {
            let bytes = &self.left[side(speaker)];
            let before = self.handshake.clone();
            match self.handshake.advance(speaker, bytes) {
                Ok(Progress::Message(len, learned)) => {
                    assert!((3..=MAX_BODY + 2).contains(&len) && len <= bytes.len());
                    for cut in 0..len {
                        assert_eq!(before.clone().advance(speaker, &bytes[..cut]), Ok(Progress::More));
                    }
                    self.left[side(speaker)].drain(..len);
                    self.told.push(learned);
                }
                Ok(Progress::More) => {
                    assert!(bytes.len() < MAX_BODY + 2, "it waits for more than a message has");
                    break;
                }
                Ok(other @ (Progress::NotYet | Progress::Over)) => {
                    panic!("{other:?} at the side whose turn it is")
                }
                Err(fault) => {
                    assert_eq!(self.handshake.phase(), before.phase());
                    self.fault = Some(fault);
                }
            }
        }
        let after = if self.handshake.turn().is_some() { Progress::NotYet } else { Progress::Over };
        for speaker in [Speaker::Initiator, Speaker::Acceptor] {
            if self.handshake.turn() != Some(speaker) {
                let bytes = &self.left[side(speaker)];
                assert_eq!(self.handshake.advance(speaker, bytes).as_ref(), Ok(&after));
            }
        }
    }
}

fn side(speaker: Speaker) -> usize {
    match speaker {
        Speaker::Initiator => 0,
        Speaker::Acceptor => 1,
    }
}

/// The letter of a message in [`UP`] and [`REFUSED`].
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
