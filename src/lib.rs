//! epmd-guard: lets an Erlang cluster's peers reach epmd and the distribution ports, and nobody else.
#![forbid(unsafe_code)]

pub mod policy;
pub mod proto;
