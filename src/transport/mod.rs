//! Sockets: listening, dialling, carrying bytes, and what the kernel says of them.
//!
//! Never decides who may connect (`policy`) and knows nothing of epmd's or the nodes' protocols.

mod buffers;
mod dialer;
pub mod holder;
pub mod host;
mod listener;
mod relay;
mod reply;
pub mod sockets;

pub use buffers::BufferPool;
pub use dialer::{Backends, DialError, Dialer};
pub use listener::{Accepted, Listener};
pub use relay::{Ended, How, Relay, Relayed, Side};
pub use reply::{answer_and_close, reset};

/// An error and its causes in one line.
#[must_use]
pub fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
