//! epmd's protocol (OTP's `erts/epmd/src/epmd_srv.c`; see `docs/protocol.md`).
//!
//! A request is `length:16, body`, the first byte of the body being the opcode. A reply has no
//! frame: it ends with the connection, except for the answers to ALIVE2, whose length follows from
//! their first byte. All integers are big-endian. There is one request per connection.

mod name;
mod reply;
mod request;

pub use name::{AliveName, NameFault, NodeName};
pub use reply::{Alive2Reply, DumpEntry, DumpReply, Listed, NamesReply, PortReply, ReplyFault, StopReply};
pub use request::{Alive2, MAX_REQUEST, Malformed, Opcode, Request, frame, opcode, wanted};

/// The port epmd is registered for.
pub const DEFAULT_PORT: u16 = 4369;
