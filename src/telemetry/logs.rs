//! The log's writer.

use std::io::{self, IsTerminal};

use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::fmt;

use crate::config::{Log, LogFormat};

/// Lines that wait for a slow reader; more are dropped, so that no connection ever waits.
const QUEUED_LINES: usize = 16 * 1024;

/// Writes out what is queued when it is dropped.
#[must_use]
#[derive(Debug)]
pub struct LogGuard {
    _worker: WorkerGuard,
}

/// Sends events to standard error, from a thread of its own. The first call in a process counts.
pub fn init(log: &Log) -> LogGuard {
    let (writer, worker) = NonBlockingBuilder::default()
        .buffered_lines_limit(QUEUED_LINES)
        .lossy(true)
        .thread_name("log")
        .finish(io::stderr());
    let base = fmt().with_writer(writer).with_max_level(log.level).with_target(false);
    let outcome = match log.format {
        LogFormat::Text => {
            let subscriber = base.with_ansi(io::stderr().is_terminal()).finish();
            tracing::subscriber::set_global_default(subscriber)
        }
        LogFormat::Json => {
            let subscriber = base.json().flatten_event(true).with_current_span(false).with_span_list(false);
            tracing::subscriber::set_global_default(subscriber.finish())
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, "log_already_open");
    }
    LogGuard { _worker: worker }
}

/// Has panics logged as events. One ends the connection that it happens in and nothing else; its slot
/// returns while it unwinds.
pub fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string);
        let text = panic.payload_as_str().unwrap_or("no text").escape_default().to_string();
        tracing::error!(place, text, help = "this is a fault of the guard: please report it", "panicked");
    }));
}
