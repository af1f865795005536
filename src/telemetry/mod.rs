//! What operators see: the log. Event names and fields are listed in `docs/logs.md`.
//!
//! Never decides anything, and never makes a connection wait for whoever reads the log.

mod logs;
mod refusals;

pub use logs::{LogGuard, init};
pub use refusals::{Again, RefusalLog};
