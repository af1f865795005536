//! Being `epmd`: its arguments, what it asks a running epmd, and how it leaves the terminal.
//!
//! Owns what a program says and does that is called `epmd`, where `docs/epmd-compatibility.md` does not tell a
//! difference. It never reads the environment and never writes to the terminal: both are for `cli`.

pub mod arguments;
pub mod daemon;
pub mod interactive;
mod listeners;
mod meaning;
mod serve;

pub use serve::{Surroundings, serve};
