//! A node of a test's own: it speaks the handshake as OTP's nodes do, and nothing after it.

use std::io;
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use epmd_guard::proto::dist::{
    AliveAnswer, Challenge, Claim, Claimed, Complement, Digest, Flags, FullName, HostPart, Proof, Status,
    Version,
};
use md5::Digest as _;

use super::wire::{framed, read_frame, send, send_slowly};

/// What a node of OTP 25 to 27 says that it can do (measured).
pub const OTP_25: Flags = Flags(0xd_07df_7fbd);
/// A test that reads for this long hangs.
const PATIENCE: Duration = Duration::from_secs(20);
/// The number that the node behind must prove the cookie with; any does.
const OWN_CHALLENGE: u32 = 0x0102_0304;

/// Who speaks, and how.
#[derive(Clone, Debug)]
pub struct Initiator {
    claim: Claim,
    cookie: String,
}

/// What came of a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shaken {
    /// The link is up: the node proved the cookie too.
    Up,
    /// The link is up, and the node's own proof was wrong.
    UpWithWrongProof,
    /// The node said no to the name.
    Refused,
    /// The connection ended before this was said.
    Ended(Waited),
}

/// What was waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waited {
    /// The word to the name.
    Status,
    /// The challenge.
    Challenge,
    /// The proof in turn.
    Ack,
}

impl Initiator {
    /// A visible node of this full name, with the cookie `secret`.
    ///
    /// # Panics
    ///
    /// When that is no node's name.
    #[must_use]
    pub fn named(name: &str) -> Self {
        let name = FullName::new(name.as_bytes()).expect("a node's name");
        let (claimed, flags) = (Claimed::Name(name), OTP_25);
        let claim = Claim { claimed, flags, version: Version::V6, creation: Some(7) };
        Self { claim, cookie: "secret".to_owned() }
    }

    /// A hidden node that asks for a name.
    ///
    /// # Panics
    ///
    /// When that is no host part.
    #[must_use]
    pub fn dynamic(host: &str) -> Self {
        let host = HostPart::new(host.as_bytes()).expect("a host part");
        let flags = Flags(OTP_25.0 & !Flags::PUBLISHED.0 | Flags::NAME_ME.0);
        let claim = Claim { claimed: Claimed::Dynamic(host), flags, version: Version::V6, creation: Some(7) };
        Self { claim, cookie: "secret".to_owned() }
    }

    /// Another cookie.
    #[must_use]
    pub fn cookie(mut self, cookie: &str) -> Self {
        cookie.clone_into(&mut self.cookie);
        self
    }

    /// Other flags.
    #[must_use]
    pub fn flags(mut self, flags: Flags) -> Self {
        self.claim.flags = flags;
        self
    }

    /// Not visible.
    #[must_use]
    pub fn hidden(self) -> Self {
        let flags = Flags(self.claim.flags.0 & !Flags::PUBLISHED.0);
        self.flags(flags)
    }

    /// Says its name in version 5 of the handshake.
    #[must_use]
    pub fn version_5(mut self) -> Self {
        self.claim.version = Version::V5;
        self
    }

    /// The first message, with its length.
    #[must_use]
    pub fn first_message(&self) -> Vec<u8> {
        let mut message = Vec::new();
        self.claim.encode(&mut message);
        message
    }

    /// Says its name, and reads up to the challenge.
    ///
    /// # Errors
    ///
    /// What came instead.
    ///
    /// # Panics
    ///
    /// When what comes is no message of the handshake.
    pub fn greet(&self, stream: &TcpStream) -> Result<Challenge, Shaken> {
        self.greet_by(stream, |bytes| send(stream, bytes))
    }

    fn greet_by(
        &self,
        stream: &TcpStream,
        say: impl Fn(&[u8]) -> io::Result<()>,
    ) -> Result<Challenge, Shaken> {
        // An end shows when the answer is read.
        drop(say(&self.first_message()));
        let status = read(stream, Waited::Status)?;
        match Status::decode(&status).expect("a status") {
            Status::Nok | Status::NotAllowed => return Err(Shaken::Refused),
            Status::Alive => {
                let mut answer = Vec::new();
                AliveAnswer::True.encode(&mut answer);
                drop(say(&answer));
            }
            Status::Ok | Status::OkSimultaneous | Status::Named(..) => {}
        }
        let challenge = read(stream, Waited::Challenge)?;
        Ok(Challenge::decode(&challenge).expect("a challenge"))
    }

    /// The whole handshake.
    ///
    /// # Panics
    ///
    /// When what comes is no message of the handshake.
    #[must_use]
    pub fn shake(&self, stream: &TcpStream) -> Shaken {
        self.shake_by(stream, |bytes| send(stream, bytes))
    }

    /// The whole handshake, byte by byte with a pause after each.
    ///
    /// # Panics
    ///
    /// When what comes is no message of the handshake.
    #[must_use]
    pub fn shake_slowly(&self, stream: &TcpStream, pause: Duration) -> Shaken {
        self.shake_by(stream, |bytes| send_slowly(stream, bytes, pause))
    }

    fn shake_by(&self, stream: &TcpStream, say: impl Fn(&[u8]) -> io::Result<()>) -> Shaken {
        let challenge = match self.greet_by(stream, &say) {
            Ok(challenge) => challenge,
            Err(shaken) => return shaken,
        };
        drop(say(&self.reply_to(&challenge)));
        match read(stream, Waited::Ack) {
            Ok(ack) => {
                let proof = Digest::decode_ack(&ack).expect("an ack");
                if proof == digest(&self.cookie, OWN_CHALLENGE) {
                    Shaken::Up
                } else {
                    Shaken::UpWithWrongProof
                }
            }
            Err(shaken) => shaken,
        }
    }

    /// What it says to a challenge: its proof, behind what version 5 still owes.
    #[must_use]
    pub fn reply_to(&self, challenge: &Challenge) -> Vec<u8> {
        let mut said = Vec::new();
        if self.claim.version == Version::V5 && challenge.version == Version::V6 {
            let flags_high = u32::try_from(self.claim.flags.0 >> 32).expect("the upper half");
            Complement { flags_high, creation: 7 }.encode(&mut said);
        }
        let digest = digest(&self.cookie, challenge.challenge);
        Proof { challenge: OWN_CHALLENGE, digest }.encode(&mut said);
        said
    }
}

/// The proof that a cookie is known (`dist_util:gen_digest`).
#[must_use]
pub fn digest(cookie: &str, challenge: u32) -> Digest {
    Digest(md5::Md5::digest(format!("{cookie}{challenge}")).into())
}

fn read(stream: &TcpStream, waited: Waited) -> Result<Vec<u8>, Shaken> {
    read_frame(stream).map_err(|error: io::Error| {
        // A test that hangs must not pass for one that was refused.
        let ended = [io::ErrorKind::UnexpectedEof, io::ErrorKind::ConnectionReset, io::ErrorKind::BrokenPipe];
        assert!(ended.contains(&error.kind()), "waiting for {waited:?}: {error}");
        Shaken::Ended(waited)
    })
}

/// The node behind the guard, played by the test: it says yes to every name, and takes every proof.
#[derive(Clone, Debug)]
pub struct Acceptor(FullName);

impl Acceptor {
    /// A visible node of this full name.
    ///
    /// # Panics
    ///
    /// When that is no node's name.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self(FullName::new(name.as_bytes()).expect("a node's name"))
    }

    /// What it asks of the other one.
    #[must_use]
    pub fn challenge(&self) -> Challenge {
        let name = self.0.clone();
        Challenge { name, flags: OTP_25, version: Version::V6, challenge: 42, creation: Some(9) }
    }

    /// What it says to a name, with the lengths: its word and its challenge.
    #[must_use]
    pub fn greeting(&self) -> Vec<u8> {
        let mut said = Vec::new();
        Status::Ok.encode(&mut said);
        self.challenge().encode(&mut said);
        said
    }

    /// Takes the connection that the guard makes for this name, which is all that it has said so far.
    ///
    /// # Panics
    ///
    /// When it does not, or says another name.
    #[must_use]
    #[track_caller]
    pub fn take(&self, listener: &TcpListener, initiator: &Initiator) -> TcpStream {
        let (up, _) = listener.accept().expect("the guard dials");
        up.set_read_timeout(Some(PATIENCE)).expect("a deadline can be set");
        up.set_nodelay(true).expect("Nagle's algorithm can be switched off");
        assert_eq!(framed(&read_frame(&up).expect("the name")), initiator.first_message());
        up
    }

    /// Reads the proof of the other one, and gives its own, with its length.
    ///
    /// # Panics
    ///
    /// When what comes is no proof of the cookie.
    #[must_use]
    #[track_caller]
    pub fn ack(&self, up: &TcpStream, initiator: &Initiator) -> Vec<u8> {
        let proof = Proof::decode(&read_frame(up).expect("the proof")).expect("a proof");
        assert_eq!(proof.digest, digest(&initiator.cookie, self.challenge().challenge));
        let mut ack = Vec::new();
        digest(&initiator.cookie, proof.challenge).encode_ack(&mut ack);
        ack
    }
}

/// Reads so many messages, and gives them with their lengths.
///
/// # Panics
///
/// When they do not come.
#[must_use]
#[track_caller]
pub fn messages(stream: &TcpStream, count: usize) -> Vec<u8> {
    (0..count).flat_map(|_| framed(&read_frame(stream).expect("a message"))).collect()
}

/// Makes a link of two ends that are the test's own: `down` has dialled, and `listener` is where the guard dials. The
/// node behind calls itself `answering`. Its end of the link.
///
/// # Panics
///
/// When the guard does not let the handshake through.
#[must_use]
#[track_caller]
pub fn link(down: &TcpStream, listener: &TcpListener, initiator: &Initiator, answering: &str) -> TcpStream {
    let acceptor = Acceptor::named(answering);
    send(down, &initiator.first_message()).expect("the name is sent");
    let up = acceptor.take(listener, initiator);
    send(&up, &acceptor.greeting()).expect("the challenge is sent");
    assert_eq!(messages(down, 2), acceptor.greeting());
    send(down, &initiator.reply_to(&acceptor.challenge())).expect("the proof is sent");
    let ack = acceptor.ack(&up, initiator);
    send(&up, &ack).expect("the proof in turn is sent");
    assert_eq!(messages(down, 1), ack);
    up
}
