//! epmd-guard is Erlang's port mapper (epmd), or stands in front of one, and stands in front of the
//! distribution ports. It lets in a cluster's peers and nobody else.
//!
//! The modules have ranks: one uses its own rank or a lower one, never a higher, and the lowest two
//! are pure. `docs/architecture.md` tells the way of one connection through them, and
//! `tests/architecture.rs` holds the ranks.
//!
//! | rank | modules |
//! | --- | --- |
//! | 8 | [`cli`] |
//! | 7 | [`app`], [`certs`], [`compat`] |
//! | 6 | [`control`] |
//! | 5 | [`session`] |
//! | 4 | [`transport`] |
//! | 3 | [`telemetry`] |
//! | 2 | [`config`] |
//! | 1 | [`policy`], [`registry`] |
//! | 0 | [`proto`] |
#![forbid(unsafe_code)]

pub mod app;
pub mod certs;
pub mod cli;
pub mod compat;
pub mod config;
pub mod control;
pub mod policy;
pub mod proto;
pub mod registry;
pub mod session;
pub mod telemetry;
pub mod transport;
