//! The watcher of one handshake: it is shown what each side says and tells what follows from it.
//!
//! It keeps no bytes: whoever shows it a side's bytes keeps them until a message is whole, and passes it on
//! when it likes what it has learned. So at most one message of each side waits anywhere.

use super::flags::Flags;
use super::message::{AliveAnswer, Challenge, Claim, Complement, Digest, Malformed, Proof, Status, Version};
use super::name::Claimed;

/// The longest body of a message. Names end at 255 bytes; the rest is room for what later versions append.
pub const MAX_BODY: usize = 1024;

/// One of the two sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaker {
    /// `A`, which dialled.
    Initiator,
    /// `B`, which was dialled.
    Acceptor,
}

/// Which message comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The initiator's name.
    Name,
    /// The acceptor's word to it.
    Status,
    /// The initiator's answer to `alive`.
    AliveAnswer,
    /// The acceptor's challenge.
    Challenge,
    /// The rest of the initiator's first message, in version 5.
    Complement,
    /// The initiator's proof.
    Reply,
    /// The acceptor's proof.
    Ack,
    /// None: the link is up, and what follows is not the handshake's.
    Up,
    /// None: one side has said that there will be no link.
    Refused,
}

/// What a whole message has told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Learned {
    /// Who dials.
    Claim(Claim),
    /// What the acceptor says to it.
    Status(Status),
    /// Whether an old connection is to be replaced.
    AliveAnswer(AliveAnswer),
    /// Who answers.
    Challenge(Challenge),
    /// All flags of the initiator.
    Complement(Flags),
    /// The initiator's proof of the number that was its challenge.
    Reply {
        /// The acceptor's challenge.
        challenge: u32,
        /// The proof.
        digest: Digest,
    },
    /// The acceptor's proof of the number that was its challenge: the link is up.
    Ack {
        /// The initiator's challenge.
        challenge: u32,
        /// The proof.
        digest: Digest,
    },
}

/// What became of the bytes that were shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// They begin with a whole message of so many bytes, its length included.
    Message(usize, Learned),
    /// More of them are needed.
    More,
    /// It is not this side's turn: they belong to a later step.
    NotYet,
    /// The handshake is over: they are none of its.
    Over,
}

/// One handshake.
#[derive(Debug, Clone)]
pub struct Handshake {
    phase: Phase,
    claim: Option<Claim>,
    /// The challenge that the next proof is of.
    challenge: u32,
    alive: Alive,
}

/// Whether the acceptor had another connection of the claimed name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Alive {
    No,
    Yes,
}

impl Default for Handshake {
    fn default() -> Self {
        Self { phase: Phase::Name, claim: None, challenge: 0, alive: Alive::No }
    }
}

impl Handshake {
    /// Which message comes next.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Whose turn it is; `None`: the handshake is over.
    #[must_use]
    pub fn turn(&self) -> Option<Speaker> {
        match self.phase {
            Phase::Name | Phase::AliveAnswer | Phase::Complement | Phase::Reply => Some(Speaker::Initiator),
            Phase::Status | Phase::Challenge | Phase::Ack => Some(Speaker::Acceptor),
            Phase::Up | Phase::Refused => None,
        }
    }

    /// Who dialled, once it has said so.
    #[must_use]
    pub fn claim(&self) -> Option<&Claim> {
        self.claim.as_ref()
    }

    /// Whether the acceptor has said that it had another connection of that name.
    #[must_use]
    pub fn saw_alive(&self) -> bool {
        self.alive == Alive::Yes
    }

    /// Shows the bytes of one side that have not been taken for a message yet, from the first of them.
    ///
    /// # Errors
    /// They can never become the message that has to come here.
    pub fn advance(&mut self, speaker: Speaker, bytes: &[u8]) -> Result<Progress, Malformed> {
        match self.turn() {
            None => return Ok(Progress::Over),
            Some(turn) if turn != speaker => return Ok(Progress::NotYet),
            Some(_) => {}
        }
        let Some((len, rest)) = bytes.split_first_chunk::<2>() else { return Ok(Progress::More) };
        let len = usize::from(u16::from_be_bytes(*len));
        if self.phase == Phase::Name && *bytes.first_chunk::<2>().unwrap_or(&[0, 0]) == [0x16, 0x03] {
            return Err(Malformed::Tls);
        }
        if len == 0 {
            return Err(Malformed::Empty);
        }
        if len > MAX_BODY {
            return Err(Malformed::TooLong(len));
        }
        if let Some(tag) = rest.first().filter(|tag| !self.may_begin(**tag)) {
            return Err(Malformed::Tag(*tag));
        }
        let Some(body) = rest.get(..len) else { return Ok(Progress::More) };
        let learned = self.take(body)?;
        Ok(Progress::Message(len + 2, learned))
    }

    /// Whether a message that begins so may come now.
    fn may_begin(&self, tag: u8) -> bool {
        let tags: &[u8] = match self.phase {
            Phase::Name => b"Nn",
            Phase::Status | Phase::AliveAnswer => b"s",
            Phase::Challenge if self.version() == Version::V6 => b"N",
            Phase::Challenge => b"Nn",
            Phase::Complement => b"c",
            Phase::Reply => b"r",
            Phase::Ack if self.version() == Version::V6 => b"a",
            Phase::Ack => b"as",
            Phase::Up | Phase::Refused => b"",
        };
        tags.contains(&tag)
    }

    fn version(&self) -> Version {
        self.claim.as_ref().map_or(Version::V6, |claim| claim.version)
    }

    fn take(&mut self, body: &[u8]) -> Result<Learned, Malformed> {
        match self.phase {
            Phase::Name => {
                let claim = Claim::decode(body)?;
                self.claim = Some(claim.clone());
                self.phase = Phase::Status;
                Ok(Learned::Claim(claim))
            }
            Phase::Status => self.status(Status::decode(body)?),
            Phase::AliveAnswer => {
                let answer = AliveAnswer::decode(body)?;
                self.phase = if answer == AliveAnswer::True { Phase::Challenge } else { Phase::Refused };
                Ok(Learned::AliveAnswer(answer))
            }
            Phase::Challenge => self.challenged(Challenge::decode(body)?),
            Phase::Complement => {
                let Complement { flags_high, creation } = Complement::decode(body)?;
                let claim = self.claim.as_mut().ok_or(Malformed::Status)?;
                claim.flags = claim.flags.with_high(flags_high);
                claim.creation = Some(creation);
                self.phase = Phase::Reply;
                Ok(Learned::Complement(claim.flags))
            }
            Phase::Reply => {
                let Proof { challenge, digest } = Proof::decode(body)?;
                let proved = std::mem::replace(&mut self.challenge, challenge);
                self.phase = Phase::Ack;
                Ok(Learned::Reply { challenge: proved, digest })
            }
            Phase::Ack if body.first() == Some(&b's') => self.refused_late(Status::decode(body)?),
            Phase::Ack => {
                let digest = Digest::decode_ack(body)?;
                self.phase = Phase::Up;
                Ok(Learned::Ack { challenge: self.challenge, digest })
            }
            Phase::Up | Phase::Refused => Err(Malformed::Status),
        }
    }

    /// A node that asked for a name is given one of its own host or turned away, and no other node is given
    /// one (`dist_util:recv_status`).
    fn status(&mut self, status: Status) -> Result<Learned, Malformed> {
        let claimed = self.claim.as_ref().map(|claim| &claim.claimed);
        self.phase = match (&status, claimed) {
            (Status::Ok | Status::OkSimultaneous, Some(Claimed::Name(_))) => Phase::Challenge,
            (Status::Named(name, _), Some(Claimed::Dynamic(host))) if name.host() == host.as_str() => {
                Phase::Challenge
            }
            (Status::Alive, Some(Claimed::Name(_))) => {
                self.alive = Alive::Yes;
                Phase::AliveAnswer
            }
            (Status::Nok | Status::NotAllowed, _) => Phase::Refused,
            (Status::Ok | Status::OkSimultaneous | Status::Alive | Status::Named(..), _) => {
                return Err(Malformed::Status);
            }
        };
        Ok(Learned::Status(status))
    }

    /// An initiator of version 5 that could speak version 6 tells the rest when it learns that the acceptor
    /// does (`dist_util:send_complement`).
    fn challenged(&mut self, challenge: Challenge) -> Result<Learned, Malformed> {
        let owes_the_rest = self.version() == Version::V5 && challenge.version == Version::V6;
        self.phase = if owes_the_rest { Phase::Complement } else { Phase::Reply };
        self.challenge = challenge.challenge;
        Ok(Learned::Challenge(challenge))
    }

    /// What version 5 told too late may be a reason to refuse (`snot_allowed` in the place of the ack).
    fn refused_late(&mut self, status: Status) -> Result<Learned, Malformed> {
        if status != Status::NotAllowed {
            return Err(Malformed::Status);
        }
        self.phase = Phase::Refused;
        Ok(Learned::Status(status))
    }
}
