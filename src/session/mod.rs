//! One connection, from accept to its closing event.
//!
//! Read it top to bottom: [`accept()`] admits in the accept loop, before a byte is read;
//! `walk` identifies, inspects, authorizes and relays; `account` tells how it ended, for one of the
//! reasons in `close`. What may be done
//! is decided by `policy`; how bytes move is known to `transport`.

mod accept;
mod account;
mod carry;
mod close;
mod connection;
mod context;
mod dist;
mod epmd;
mod forward;
mod handshake_end;
mod inlet;
mod links;
mod mapper;
mod offend;
mod ports;
mod question;
mod snapshot;
mod speakers;
mod tunnel;
mod walk;

pub use crate::policy::Role;
pub use accept::{Post, Service, accept};
pub use close::{CloseReason, Party};
pub use context::{Context, ContextParts, Habits, OnKill};
pub use handshake_end::{HandshakeEnd, Refusal};
pub use links::{Cut, Heard, Link, Links};
pub use mapper::{Leased, Mapper, Origin};
pub use ports::{Offer, Offers, PortState, Ports, PortsTeller, Posts, Sighting, WayAsked};
pub use question::{MAX_ANSWER, QuestionError, ask};
pub use snapshot::{Snapshot, Snapshots};
pub use speakers::{Speakers, half_open_caps};
pub use tunnel::{AskError, Ways};
