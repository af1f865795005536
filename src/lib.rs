//! epmd-guard stands in front of Erlang's port mapper (epmd) and the distribution ports, and lets in
//! a cluster's peers and nobody else.
//!
//! The modules have ranks: one uses its own rank or a lower one, never a higher, and the lowest two
//! are pure. `docs/architecture.md` tells the way of one connection through them, and
//! `tests/architecture.rs` holds the ranks.
//!
//! | rank | modules |
//! | --- | --- |
//! | 8 | [`cli`] |
//! | 7 | [`app`] |
//! | 6 | [`control`] |
//! | 5 | [`session`] |
//! | 4 | [`transport`] |
//! | 3 | [`telemetry`] |
//! | 2 | [`config`] |
//! | 1 | [`policy`] |
//! | 0 | [`proto`] |
#![forbid(unsafe_code)]

pub mod app;
pub mod cli;
pub mod config;
pub mod control;
pub mod policy;
pub mod proto;
pub mod session;
pub mod telemetry;
pub mod transport;
