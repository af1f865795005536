//! The distribution handshake: what two nodes say to each other before they are linked.
//!
//! `A` dialled (the initiator), `B` was dialled (the acceptor). Every message is `len:16, body[len]`, and the
//! same letter means different things in different directions. Read in OTP's `dist_util`.

mod flags;
mod handshake;
mod message;
mod name;

#[cfg(test)]
mod handshake_tests;
#[cfg(test)]
mod interleaved;
#[cfg(test)]
mod message_tests;
#[cfg(test)]
mod recorded;

pub use flags::{Flags, UnknownFlag};
pub use handshake::{Handshake, Learned, MAX_BODY, Phase, Progress, Speaker};
pub use message::{
    AliveAnswer, Challenge, Claim, Complement, DIGEST_LEN, Digest, Malformed, Proof, Status, Version,
};
pub use name::{Claimed, FullName, HostPart, NameFault};
