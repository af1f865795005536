//! What the guard promises, on real nodes: each test is one promise and bears its name.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a failed test panics"
)]

#[path = "../support/mod.rs"]
#[allow(dead_code, unreachable_pub, reason = "shared with the demo and the long runs")]
mod support;

mod abuse;
mod admin;
mod allowlist;
mod bad_input;
mod bans;
mod claims;
mod cluster;
mod common;
mod cookie_files;
mod cookies;
mod dropin;
mod embedded;
mod epmd;
mod explain;
mod fail2ban;
mod flood;
mod forwards;
mod handshake;
mod handshake_ends;
mod handshake_real;
mod learn;
mod limits;
mod log;
mod may_reach;
mod names;
mod nodes;
mod ports;
mod registration;
mod reload;
mod single_port;
mod stop;
mod strangers;
mod systemd;
mod taken;
mod tools;
mod tunnel;
mod tunnel_abuse;
mod tunnel_alias;
mod tunnel_legs;
mod tunnel_links;
mod tunnel_migration;
mod tunnel_refusals;
mod tunnel_rotation;
