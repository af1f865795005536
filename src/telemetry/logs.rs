//! The log's writer.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tracing::{Dispatch, Level};
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::{self, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{Registry, reload};

use super::syslog::Syslog;
use crate::config::{Log, LogFormat};

/// Lines that wait for a slow reader; more are dropped, so that no connection ever waits.
const QUEUED_LINES: usize = 16 * 1024;

/// Writes out what is queued when it is dropped.
#[must_use]
#[derive(Debug)]
pub struct LogGuard {
    _worker: WorkerGuard,
    dropped: DroppedLines,
    level: LevelHandle,
}

/// Counts the lines that are lost: those that were dropped since nobody read them in time, and those that could not be
/// written, as where the disk is full.
#[derive(Debug, Clone)]
pub struct DroppedLines {
    queue: ErrorCounter,
    unwritten: Arc<AtomicU64>,
}

/// Counts the lines that could not be written. Whoever writes goes on with the next.
#[derive(Debug)]
struct Counting<W> {
    writer: W,
    unwritten: Arc<AtomicU64>,
}

/// Changes the level from which on events are logged.
#[derive(Debug, Clone)]
pub struct LevelHandle(reload::Handle<LevelFilter, Registry>);

impl LogGuard {
    /// The count of dropped lines.
    #[must_use]
    pub fn dropped_lines(&self) -> DroppedLines {
        self.dropped.clone()
    }

    /// The means to change the level.
    #[must_use]
    pub fn level(&self) -> LevelHandle {
        self.level.clone()
    }
}

impl DroppedLines {
    /// How many, since the start.
    #[must_use]
    pub fn count(&self) -> u64 {
        let dropped = u64::try_from(self.queue.dropped_lines()).unwrap_or(u64::MAX);
        dropped.saturating_add(self.unwritten.load(Ordering::Relaxed))
    }
}

impl<W: Write> Write for Counting<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer.write(bytes)
    }

    /// One line.
    fn write_all(&mut self, line: &[u8]) -> io::Result<()> {
        let written = self.writer.write_all(line);
        if written.is_err() {
            self.unwritten.fetch_add(1, Ordering::Relaxed);
        }
        written
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

impl LevelHandle {
    /// From now on, events of this level and of more important ones are logged.
    pub fn set(&self, level: Level) {
        // It fails only where another log was open before this one: then this one has no events.
        if let Err(error) = self.0.reload(LevelFilter::from_level(level)) {
            tracing::debug!(%error, "log_level_not_set");
        }
    }
}

/// Where events go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sink {
    /// Standard error.
    StandardError,
    /// The system's log, or nowhere where there is none: for a process that has left the terminal.
    Syslog,
}

/// Sends events where they are to go, from a thread of its own. The first call in a process counts.
pub fn init(log: &Log, sink: Sink) -> LogGuard {
    let unwritten = Arc::new(AtomicU64::new(0));
    let (writer, worker) = NonBlockingBuilder::default()
        .buffered_lines_limit(QUEUED_LINES)
        .lossy(true)
        .thread_name("log")
        .finish(Counting { writer: open(sink), unwritten: Arc::clone(&unwritten) });
    let dropped = DroppedLines { queue: writer.error_counter(), unwritten };
    let (dispatch, level) = dispatch(log, writer);
    if let Err(error) = tracing::dispatcher::set_global_default(dispatch) {
        tracing::debug!(%error, "log_already_open");
    }
    LogGuard { _worker: worker, dropped, level }
}

fn open(sink: Sink) -> Box<dyn Write + Send> {
    match sink {
        Sink::StandardError => Box::new(io::stderr()),
        Sink::Syslog => Box::new(Syslog::open("/dev/log")),
    }
}

fn dispatch<W>(log: &Log, writer: W) -> (Dispatch, LevelHandle)
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let (filter, handle) = reload::Layer::new(LevelFilter::from_level(log.level));
    let events = tracing_subscriber::registry().with(filter);
    let base = fmt::layer().with_writer(writer).with_target(false);
    let dispatch = match log.format {
        LogFormat::Text => events.with(base.with_ansi(io::stderr().is_terminal())).into(),
        LogFormat::Json => {
            let lines = base.json().flatten_event(true).with_current_span(false).with_span_list(false);
            events.with(lines).into()
        }
    };
    (dispatch, LevelHandle(handle))
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

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, mpsc};

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn log(format: LogFormat) -> Log {
        Log { format, level: Level::INFO }
    }

    #[test]
    fn the_level_can_be_changed_while_it_runs() {
        let written = Written::default();
        let writer = {
            let written = written.clone();
            move || written.clone()
        };
        let (dispatch, level) = dispatch(&log(LogFormat::Text), writer);
        let all = || {
            for step in 1..=3 {
                match step {
                    1 => tracing::debug!(step, "quiet"),
                    2 => tracing::info!(step, "usual"),
                    _ => tracing::warn!(step, "loud"),
                }
            }
        };
        tracing::dispatcher::with_default(&dispatch, || {
            all();
            level.clone().set(Level::DEBUG);
            all();
            level.set(Level::WARN);
            all();
        });
        let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        let events: Vec<_> = text.lines().map(|line| line.split_whitespace().nth(2).unwrap()).collect();
        assert_eq!(events, ["usual", "loud", "quiet", "usual", "loud", "loud"], "{text}");
    }

    #[test]
    fn a_json_line_has_the_event_and_its_fields_at_the_top() {
        let written = Written::default();
        let writer = {
            let written = written.clone();
            move || written.clone()
        };
        let (dispatch, _level) = dispatch(&log(LogFormat::Json), writer);
        tracing::dispatcher::with_default(&dispatch, || {
            let _span = tracing::info_span!("outer").entered();
            tracing::info!(count = 2, "told");
        });
        let line: serde_json::Value = serde_json::from_slice(&written.0.lock().unwrap()).unwrap();
        let fields: Vec<_> = line.as_object().unwrap().keys().collect();
        assert_eq!(fields, ["count", "level", "message", "timestamp"], "{line}");
    }

    #[test]
    fn a_level_for_a_log_that_is_not_in_use_changes_nothing() {
        let (dispatch, level) = dispatch(&log(LogFormat::Text), io::sink);
        drop(dispatch);
        level.set(Level::TRACE);
    }

    /// Stands for a standard error that nobody reads, until its sender is dropped.
    struct Stuck(mpsc::Receiver<()>);

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.iter().for_each(drop);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_that_nobody_reads_are_counted() {
        let (release, stuck) = mpsc::channel();
        let (mut writer, _worker) =
            NonBlockingBuilder::default().buffered_lines_limit(1).lossy(true).finish(Stuck(stuck));
        let dropped = DroppedLines { queue: writer.error_counter(), unwritten: Arc::default() };
        assert_eq!(dropped.count(), 0);
        for _ in 0..10 {
            writer.write_all(b"line\n").unwrap();
        }
        // One is with the writer at most, and one is queued.
        assert!((8..10).contains(&dropped.clone().count()), "{dropped:?}");
        drop(release);
    }

    /// Stands for a disk that is full.
    struct Full;

    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted() {
        let unwritten = Arc::<AtomicU64>::default();
        let full = Counting { writer: Full, unwritten: Arc::clone(&unwritten) };
        let (mut writer, worker) = NonBlockingBuilder::default().finish(full);
        let dropped = DroppedLines { queue: writer.error_counter(), unwritten };
        for _ in 0..10 {
            writer.write_all(b"line\n").unwrap();
        }
        drop(worker);
        assert_eq!(dropped.count(), 10);
    }

    #[test]
    fn the_handles_can_go_anywhere() {
        fn anywhere<T: Send + Sync + Clone + std::fmt::Debug + 'static>() {}
        anywhere::<DroppedLines>();
        anywhere::<LevelHandle>();
    }
}
