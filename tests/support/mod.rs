//! Test hosts: several hosts on one machine, with real Erlang nodes on them.
//!
//! A [`lab::Lab`] is a set of network namespaces joined by a bridge. On its [`host::Host`]s run real
//! programs, each a [`daemon::Daemon`]; [`erlang`] and [`ejabberd`] know how to start and command real nodes,
//! and [`wire`] speaks to epmd and to distribution ports byte by byte. Nothing outside the lab is ever
//! dialled, and a lab takes everything it made with it, also when the test panics.

// A helper's failure is the test's failure, so it panics with a message; clippy's exemption for tests does
// not reach the helpers of an integration test.
#![allow(clippy::expect_used, clippy::panic, clippy::print_stderr)]

pub mod capture;
pub mod daemon;
pub mod ejabberd;
pub mod ends;
pub mod epmd;
pub mod erlang;
pub mod eventually;
pub mod flood;
pub mod guard;
pub mod handshake;
pub mod host;
pub mod lab;
pub mod otp;
pub mod prerequisites;
pub mod reloads;
pub mod said;
pub mod sequence;
pub mod tunnel;
pub mod wire;
