//! The bytes: the protocols of epmd, of the distribution handshake and of the tunnel between guards, and where TLS
//! begins, as pure functions over slices.
//!
//! Nothing here touches a socket, a clock or a file, so every decoder can be fuzzed and read alone.
//! Decoders are tri-state: `Ok(None)` asks for more bytes, `Ok(Some(..))` is a value,
//! `Err(Malformed)` can never become valid. A length is checked before anything waits for it.

pub mod dist;
pub mod epmd;
pub mod tls;
pub mod tunnel;
