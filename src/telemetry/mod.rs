//! What operators see: the log and the metrics. Event names and fields are listed in `docs/logs.md`, series
//! in `docs/metrics.md`.
//!
//! Never decides anything, and never makes a connection wait for whoever reads the log.

mod logs;
mod metrics;
mod process;
mod refusals;
mod reminders;
mod syslog;

pub use logs::{DroppedLines, LevelHandle, LogGuard, Sink, init, log_panics};
pub use metrics::{
    HANDSHAKE_OUTCOMES, LastReload, Metrics, Observed, PeerObserved, Readiness, ReloadOutcome, TlsFilesState,
    TlsObserved, Totals, Traffic,
};
pub use process::{Process, process};
pub use refusals::{Again, RefusalLog};
pub use reminders::Reminders;

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
