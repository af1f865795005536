//! Sockets: listening, dialling, carrying bytes, and what the kernel says of them.
//!
//! Never decides who may connect (`policy`) and knows nothing of epmd's or the nodes' protocols.

pub mod activation;
mod buffers;
pub mod cores;
mod dialer;
pub mod holder;
pub mod host;
mod listener;
mod memory;
mod opening;
mod relay;
mod reply;
pub mod sockets;
pub mod tls;
mod traffic;
pub mod tunnel;
mod wire;

pub use buffers::BufferPool;
pub use dialer::{Backends, DialError, Dialer, Upstream};
pub use listener::{Accepted, Listener};
pub use memory::Memory;
pub use opening::{Opened, Verdict, hand_on, open};
pub use relay::{Ended, How, Relay, Side};
pub use reply::{answer_and_close, close_after, keep_alive, reset};
pub use traffic::{Direction, Traffic};
pub use wire::Wire;
