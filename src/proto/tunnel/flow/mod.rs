//! The bytes of a link, apart from the leg that carries them: how far each direction has come, what must be kept until the
//! other guard has it, and what has come already.
//!
//! Each direction counts its bytes from 0. The FIN behind the last one takes an offset too, as in TCP, so that it is
//! acknowledged and sent again as bytes are: after `n` bytes and a FIN, `n + 1` are received.

mod incoming;
mod outgoing;
mod segment;

#[cfg(test)]
mod outgoing_tests;
#[cfg(test)]
mod simulation;

pub use incoming::{AckDue, Fin, Incoming, Misplaced};
pub use outgoing::{Outgoing, OutsideReplay};
pub use segment::{Segments, Size};
