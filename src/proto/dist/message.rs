//! The messages of the handshake, each in both directions of the codec. A body is what follows `len:16`.

use super::flags::Flags;
use super::name::{Claimed, FullName, HostPart, NameFault};

/// Bytes of a digest (MD5).
pub const DIGEST_LEN: usize = 16;

/// The proof that the cookie is known: MD5 of the cookie and the challenge in decimal
/// (`dist_util:gen_digest`). It is nobody's to read, so that it is not shown.
#[derive(Clone, Copy, Eq)]
pub struct Digest(pub [u8; DIGEST_LEN]);

/// All bytes are compared, however early two differ: how long it takes tells a guesser nothing.
impl PartialEq for Digest {
    fn eq(&self, other: &Self) -> bool {
        let differ = self.0.iter().zip(other.0).fold(0, |differ, (one, two)| differ | (one ^ two));
        std::hint::black_box(differ) == 0
    }
}

impl std::fmt::Debug for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Digest(..)")
    }
}

/// The version of the handshake, as the initiator's first message tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// `n`: OTP up to 22; 23 and 24 where they know nothing of the other node.
    V5,
    /// `N`: OTP 23 and later.
    V6,
}

impl Version {
    /// The number.
    #[must_use]
    pub fn number(self) -> u16 {
        match self {
            Self::V5 => 5,
            Self::V6 => 6,
        }
    }
}

/// `send_name`: who dials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Whom it says it is.
    pub claimed: Claimed,
    /// What it can do. In version 5 the upper half is not known before its complement.
    pub flags: Flags,
    /// By which letter it said so.
    pub version: Version,
    /// The incarnation of the node; in version 5 it is not known before its complement.
    pub creation: Option<u32>,
}

/// `send_status`: what the acceptor says to the name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// Go on.
    Ok,
    /// Go on; it was dialling the same node and leaves that.
    OkSimultaneous,
    /// No: it is dialling the same node itself, or the name is none it takes.
    Nok,
    /// No: the name is not one it lets in, or flags are missing.
    NotAllowed,
    /// A node of that name is connected already: is this the same one?
    Alive,
    /// Go on, under this name and with this incarnation: the answer to a node that asked for a name.
    Named(FullName, u32),
}

/// What the initiator says to [`Status::Alive`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AliveAnswer {
    /// The old connection is dead: go on.
    True,
    /// It is not: forget this one.
    False,
}

/// `send_challenge`: who answers, and what the initiator must prove the cookie with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    /// The node that answers.
    pub name: FullName,
    /// What it can do. In version 5 the lower half alone.
    pub flags: Flags,
    /// By which letter it said so.
    pub version: Version,
    /// The number to be proved with.
    pub challenge: u32,
    /// Its incarnation; not told in version 5.
    pub creation: Option<u32>,
}

/// `send_complement`: what the first message of version 5 had no room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Complement {
    /// The upper half of its flags.
    pub flags_high: u32,
    /// Its incarnation.
    pub creation: u32,
}

/// `send_challenge_reply`: the initiator's proof, and its own challenge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proof {
    /// What the acceptor must prove in turn.
    pub challenge: u32,
    /// Of the acceptor's challenge.
    pub digest: Digest,
}

/// Why some bytes can be no message of the handshake, or not this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A frame without a body.
    #[error("a message of the handshake is empty")]
    Empty,
    /// A frame longer than any message of the handshake.
    #[error("a message of {0} bytes is longer than any of the handshake")]
    TooLong(usize),
    /// A TLS handshake where a plain one was expected.
    #[error("TLS was spoken to a port of plain distribution")]
    Tls,
    /// A message that does not belong here.
    #[error("the message does not belong here: its first byte is {0}")]
    Tag(u8),
    /// A body that ends too early, or does not end where it must.
    #[error("the message has a wrong length")]
    Length,
    /// A version of the handshake that never was.
    #[error("there is no version {0} of the handshake")]
    Version(u16),
    /// A name that is none.
    #[error("{0}")]
    Name(#[from] NameFault),
    /// A status that is none, or not the answer to what was asked.
    #[error("the status is none, or does not answer what was asked")]
    Status,
}

/// Reads a body from its start.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Malformed::Length)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        self.take(N)?.try_into().map_err(|_| Malformed::Length)
    }

    fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_be_bytes)
    }

    /// A name behind its length.
    fn sized(&mut self) -> Result<&'a [u8], Malformed> {
        let len = self.u16()?;
        self.take(usize::from(len))
    }

    fn end(&self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed::Length) }
    }
}

/// The letter and what is behind it.
fn open(body: &[u8]) -> Result<(u8, Reader<'_>), Malformed> {
    body.split_first().map(|(tag, rest)| (*tag, Reader(rest))).ok_or(Malformed::Empty)
}

/// Writes `len:16` and the body that `write` makes. A body is far shorter than 65,536 bytes.
fn frame(into: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let start = into.len();
    into.extend([0, 0]);
    write(into);
    let len = u16::try_from(into.len() - start - 2).unwrap_or(u16::MAX).to_be_bytes();
    for (place, byte) in into.iter_mut().skip(start).zip(len) {
        *place = byte;
    }
}

fn sized(into: &mut Vec<u8>, text: &str) {
    into.extend(u16::try_from(text.len()).unwrap_or(u16::MAX).to_be_bytes());
    into.extend(text.as_bytes());
}

fn low_half(flags: Flags) -> u32 {
    u32::try_from(flags.0 & 0xffff_ffff).unwrap_or(0)
}

impl Claim {
    /// Reads the body of the initiator's first message. What follows the name in version 6 is ignored, as OTP does.
    ///
    /// # Errors
    /// It is none.
    pub fn decode(body: &[u8]) -> Result<Self, Malformed> {
        match open(body)? {
            (b'N', mut rest) => {
                let (flags, creation) = (Flags(rest.u64()?), rest.u32()?);
                let name = rest.sized()?;
                let claimed = if flags.0 & Flags::NAME_ME.0 != 0 {
                    Claimed::Dynamic(HostPart::new(name)?)
                } else {
                    Claimed::Name(FullName::new(name)?)
                };
                Ok(Self { claimed, flags, version: Version::V6, creation: Some(creation) })
            }
            (b'n', mut rest) => {
                let version = rest.u16()?;
                if version < Version::V5.number() {
                    return Err(Malformed::Version(version));
                }
                let flags = Flags(rest.u32()?.into());
                let claimed = Claimed::Name(FullName::new(rest.0)?);
                Ok(Self { claimed, flags, version: Version::V5, creation: None })
            }
            (tag, _) => Err(Malformed::Tag(tag)),
        }
    }

    /// Writes it with its length.
    pub fn encode(&self, into: &mut Vec<u8>) {
        frame(into, |into| match self.version {
            Version::V6 => {
                into.push(b'N');
                into.extend(self.flags.0.to_be_bytes());
                into.extend(self.creation.unwrap_or(0).to_be_bytes());
                sized(into, self.claimed.as_str());
            }
            Version::V5 => {
                into.push(b'n');
                into.extend(Version::V5.number().to_be_bytes());
                into.extend(low_half(self.flags).to_be_bytes());
                into.extend(self.claimed.as_str().as_bytes());
            }
        });
    }
}

impl Status {
    const NAMED: &[u8] = b"named:";

    /// Reads the body of the acceptor's status.
    ///
    /// # Errors
    /// It is none.
    pub fn decode(body: &[u8]) -> Result<Self, Malformed> {
        let (b's', rest) = open(body)? else {
            return Err(Malformed::Tag(body.first().copied().unwrap_or(0)));
        };
        match rest.0 {
            b"ok" => Ok(Self::Ok),
            b"ok_simultaneous" => Ok(Self::OkSimultaneous),
            b"nok" => Ok(Self::Nok),
            b"not_allowed" => Ok(Self::NotAllowed),
            b"alive" => Ok(Self::Alive),
            text => {
                let mut named = Reader(text.strip_prefix(Self::NAMED).ok_or(Malformed::Status)?);
                let name = FullName::new(named.sized()?)?;
                Ok(Self::Named(name, named.u32()?))
            }
        }
    }

    /// Writes it with its length.
    pub fn encode(&self, into: &mut Vec<u8>) {
        frame(into, |into| {
            into.push(b's');
            match self {
                Self::Ok => into.extend(b"ok"),
                Self::OkSimultaneous => into.extend(b"ok_simultaneous"),
                Self::Nok => into.extend(b"nok"),
                Self::NotAllowed => into.extend(b"not_allowed"),
                Self::Alive => into.extend(b"alive"),
                Self::Named(name, creation) => {
                    into.extend(Self::NAMED);
                    sized(into, name.as_str());
                    into.extend(creation.to_be_bytes());
                }
            }
        });
    }
}

impl AliveAnswer {
    /// Reads the body of the initiator's answer to `alive`.
    ///
    /// # Errors
    /// It is none.
    pub fn decode(body: &[u8]) -> Result<Self, Malformed> {
        match open(body)? {
            (b's', Reader(b"true")) => Ok(Self::True),
            (b's', Reader(b"false")) => Ok(Self::False),
            (b's', _) => Err(Malformed::Status),
            (tag, _) => Err(Malformed::Tag(tag)),
        }
    }

    /// Writes it with its length.
    pub fn encode(self, into: &mut Vec<u8>) {
        let text: &[u8] = if self == Self::True { b"strue" } else { b"sfalse" };
        frame(into, |into| into.extend(text));
    }
}

impl Challenge {
    /// Reads the body of the acceptor's challenge. What follows the name in version 6 is ignored, as OTP does.
    ///
    /// # Errors
    /// It is none.
    pub fn decode(body: &[u8]) -> Result<Self, Malformed> {
        match open(body)? {
            (b'N', mut rest) => {
                let (flags, challenge, creation) = (Flags(rest.u64()?), rest.u32()?, rest.u32()?);
                let name = FullName::new(rest.sized()?)?;
                Ok(Self { name, flags, version: Version::V6, challenge, creation: Some(creation) })
            }
            (b'n', mut rest) => {
                let version = rest.u16()?;
                if version < Version::V5.number() {
                    return Err(Malformed::Version(version));
                }
                let (flags, challenge) = (Flags(rest.u32()?.into()), rest.u32()?);
                let name = FullName::new(rest.0)?;
                Ok(Self { name, flags, version: Version::V5, challenge, creation: None })
            }
            (tag, _) => Err(Malformed::Tag(tag)),
        }
    }

    /// Writes it with its length.
    pub fn encode(&self, into: &mut Vec<u8>) {
        frame(into, |into| match self.version {
            Version::V6 => {
                into.push(b'N');
                into.extend(self.flags.0.to_be_bytes());
                into.extend(self.challenge.to_be_bytes());
                into.extend(self.creation.unwrap_or(0).to_be_bytes());
                sized(into, self.name.as_str());
            }
            Version::V5 => {
                into.push(b'n');
                into.extend(Version::V5.number().to_be_bytes());
                into.extend(low_half(self.flags).to_be_bytes());
                into.extend(self.challenge.to_be_bytes());
                into.extend(self.name.as_str().as_bytes());
            }
        });
    }
}

impl Complement {
    /// Reads the body of the initiator's complement.
    ///
    /// # Errors
    /// It is none.
    pub fn decode(body: &[u8]) -> Result<Self, Malformed> {
        let (tag, mut rest) = open(body)?;
        if tag != b'c' {
            return Err(Malformed::Tag(tag));
        }
        let complement = Self { flags_high: rest.u32()?, creation: rest.u32()? };
        rest.end().map(|()| complement)
    }

    /// Writes it with its length.
    pub fn encode(self, into: &mut Vec<u8>) {
        frame(into, |into| {
            into.push(b'c');
            into.extend(self.flags_high.to_be_bytes());
            into.extend(self.creation.to_be_bytes());
        });
    }
}

impl Proof {
    /// Reads the body of the initiator's reply to the challenge.
    ///
    /// # Errors
    /// It is none.
    pub fn decode(body: &[u8]) -> Result<Self, Malformed> {
        let (tag, mut rest) = open(body)?;
        if tag != b'r' {
            return Err(Malformed::Tag(tag));
        }
        let proof = Self { challenge: rest.u32()?, digest: Digest(rest.array()?) };
        rest.end().map(|()| proof)
    }

    /// Writes it with its length.
    pub fn encode(self, into: &mut Vec<u8>) {
        frame(into, |into| {
            into.push(b'r');
            into.extend(self.challenge.to_be_bytes());
            into.extend(self.digest.0);
        });
    }
}

impl Digest {
    /// Reads the body of the acceptor's last message, `a`: its proof in turn.
    ///
    /// # Errors
    /// It is none.
    pub fn decode_ack(body: &[u8]) -> Result<Self, Malformed> {
        let (tag, mut rest) = open(body)?;
        if tag != b'a' {
            return Err(Malformed::Tag(tag));
        }
        let digest = Self(rest.array()?);
        rest.end().map(|()| digest)
    }

    /// Writes it as the acceptor's last message, with its length.
    pub fn encode_ack(self, into: &mut Vec<u8>) {
        frame(into, |into| {
            into.push(b'a');
            into.extend(self.0);
        });
    }
}
