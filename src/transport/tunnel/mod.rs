//! Links in mutual TLS between two guards.
//!
//! A [`Leg`] is one TLS connection; a link outlives it. [`Tunnelled`] is an end of a link, like that of a socket, while its
//! handshake is read; then the relay takes it apart and carries it (`carry`), over another leg where one breaks.
//!
//! Knows what a leg is and how a link goes on. Never decides who may have one.

mod answer;
mod carry;
mod dial;
mod leg;
mod link;
mod mover;
mod names;
mod pool;
mod renew;
mod replay;
mod shelf;
mod shown;
mod tunnelled;
mod tunnels;

#[cfg(test)]
mod tests;

pub use answer::{Asked, Dialled, Opening, Resuming, Wish};
pub use dial::{Asking, LegError, Trust, Wanted, Way};
pub use leg::{Leg, Lost};
pub use pool::Pool;
pub use renew::{Redial, Redialling, Renewal, ResumeError, Resumption};
pub use replay::Replay;
pub use shown::{LastShown, Shown};
pub use tunnelled::Tunnelled;
pub use tunnels::{Resumable, Tunnels};
