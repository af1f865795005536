//! What two guards say to each other inside TLS: frames, and the offsets by which a link outlives the connection that
//! carries it. `docs/tunnel.md` is the specification.
//!
//! A *leg* is one TLS connection between two guards. A *link* is what one of them carries: the bytes of one connection
//! between two nodes, both ways. A leg that breaks is replaced, and the link goes on at the exact byte:
//! [`flow::Outgoing`] keeps what the other guard has not acknowledged, [`flow::Incoming`] drops what comes twice.
//!
//! [`Parser`] takes frames apart however the bytes are cut, [`Frame::encode_into`] writes them, and
//! [`flow::Outgoing`] writes those of data where the bytes are.

mod bounded;
pub mod flow;
mod frame;
mod open;
mod parser;
mod reader;
mod refusal;

#[cfg(test)]
mod frame_tests;
#[cfg(test)]
mod parser_tests;

use std::time::Duration;

pub use bounded::{Bytes, Text};
pub use frame::{AnswerBody, AskBody, Detail, Frame, Hello, Malformed, Software, Type};
pub use open::{Kind, LinkId, Open};
pub use parser::{Answers, Event, Parser};
pub use refusal::Refusal;

/// What the guards agree on by ALPN: this protocol, in this version. A guard offers its own version and the one
/// before, newest first; this one is the first.
pub const ALPN: &[u8] = b"epmd-guard/1";

/// Bytes before each frame's body: type, flags, two bytes that are zero, and the length of the body.
pub const HEADER: usize = 8;
/// Bytes before the data of a DATA frame: the header, and the offset of the first byte.
pub const DATA_HEADER: usize = 16;
/// The longest body of any frame but DATA, ANSWER and those that may be skipped, in bytes.
pub const MAX_CONTROL: usize = 1024;
/// The most data in one DATA frame, in bytes.
pub const MAX_DATA: usize = 512 * 1024;
/// The longest request in an ASK: with its id it fills [`MAX_CONTROL`]. The longest look-up of epmd has 1,017 bytes.
pub const MAX_ASK: usize = MAX_CONTROL - 4;
/// The longest reply in an ANSWER, in bytes.
pub const MAX_ANSWER: usize = 4 * 1024 * 1024;
/// The longest name of the software in a HELLO, in bytes.
pub const MAX_SOFTWARE: usize = 64;
/// The longest detail of a refusal, in bytes.
pub const MAX_DETAIL: usize = 255;

/// A side that has said nothing for so long says PING.
pub const PING_EVERY: Duration = Duration::from_secs(5);
/// A leg from which nothing has come for so long, while it was being read, is dead: two pings are missing.
pub const DEAD_AFTER: Duration = Duration::from_secs(12);
/// An ACK is due at once for so many bytes.
pub const ACK_BYTES: u64 = 256 * 1024;
/// An ACK for fewer bytes is due so long after the first of them.
pub const ACK_AFTER: Duration = Duration::from_millis(100);
/// How long it is tried to resume a link, unless the configuration says otherwise.
pub const RESUME_FOR: Duration = Duration::from_secs(40);
