//! Bans and good addresses outlive the process: they are kept in `[ban] file`.
//!
//! Owns when the file is read and written. Nothing waits for it: a file that cannot be read is set aside, one that
//! cannot be written is tried again, and the guard guards without either. One thread at a time is at it, so that a
//! file system that hangs takes no other.

mod file;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{JoinError, JoinHandle, spawn_blocking};
use tokio_util::sync::CancellationToken;

use self::file::{Unreadable, Unwritable};
use crate::policy::{Moment, Record};
use crate::session::Context;
use crate::telemetry::describe;

/// How often what has changed is written.
const EVERY: Duration = Duration::from_secs(10);
/// How long the file may take to be read before ports open without it.
const FIRST_READ: Duration = Duration::from_secs(2);
/// How long it may take to be written when the guard ends.
const LAST_WRITE: Duration = Duration::from_secs(1);

/// Takes in what an earlier guard has kept; to be called before ports open. Ends within 2 s.
pub async fn recall_bans(context: &Context) {
    let Some(path) = file_of(context) else { return };
    if tokio::time::timeout(FIRST_READ, recall(context, path.clone())).await.is_err() {
        let help = "the guard began without the bans of before: see what is wrong with the file system, or name a \
                    file on another one in [ban] file";
        tell_unread(&path, format!("it was not read within {} s", FIRST_READ.as_secs()), None, help);
    }
}

async fn recall(context: &Context, path: PathBuf) {
    let from = path.clone();
    let fault = match spawn_blocking(move || file::read(&from)).await {
        Ok(Ok(None)) => return,
        Ok(Ok(Some(records))) => return restore(context, &path, records),
        Ok(Err(fault)) => fault,
        Err(error) => Unreadable::Io(error.into()),
    };
    let from = path.clone();
    // Where even that does not work, the next write puts a new file in its place.
    let aside = spawn_blocking(move || file::set_aside(&from)).await.ok().and_then(Result::ok);
    tell_unread(&path, describe(&fault), aside, fault.help());
}

fn restore(context: &Context, path: &std::path::Path, records: Vec<Record>) {
    let now = context.speakers.now();
    let (bans, good) = {
        let mut offenders = context.speakers.offenders();
        offenders.restore(records, now);
        (offenders.bans(now).len(), offenders.good())
    };
    if bans + good > 0 {
        tracing::info!(file = %path.display(), bans, good, "bans_recalled");
    }
}

fn tell_unread(path: &std::path::Path, error: String, aside: Option<PathBuf>, help: &str) {
    let aside = aside.map(|aside| aside.display().to_string());
    tracing::warn!(file = %path.display(), error, aside, help, "bans_not_read");
}

/// Writes what has changed every 10 s, and once more when `stop` says so, which takes 1 s at most.
pub async fn keep_bans(context: Arc<Context>, stop: CancellationToken) {
    let mut keeper = Keeper::new(&context);
    while stop.run_until_cancelled(tokio::time::sleep(EVERY)).await.is_some() {
        stop.run_until_cancelled(keeper.keep(&context)).await.unwrap_or_default();
    }
    if tokio::time::timeout(LAST_WRITE, keeper.keep(&context)).await.is_err() {
        keeper.tell_late();
    }
}

/// What of the bans is in which file.
#[derive(Debug)]
struct Keeper {
    kept: Option<Kept>,
    writing: Option<(Kept, JoinHandle<Result<(), Unwritable>>)>,
    /// The file that is known not to be writable.
    told: Option<PathBuf>,
}

/// The file, and the number of the last change that is in it ([`Offenders::changed`](crate::policy::Offenders)).
#[derive(Debug, Clone, PartialEq, Eq)]
struct Kept {
    path: PathBuf,
    changed: u64,
}

impl Keeper {
    /// Where nothing has been recalled and nothing has happened yet, there is nothing to write.
    fn new(context: &Context) -> Self {
        let kept = file_of(context).map(|path| Kept { path, changed: 0 });
        Self { kept, writing: None, told: None }
    }

    /// Writes what has changed. It may be given up at any time, and goes on when it is called again.
    async fn keep(&mut self, context: &Context) {
        self.finish().await;
        let Some(path) = file_of(context) else {
            self.kept = None;
            return;
        };
        let now = context.speakers.now();
        let Some((kept, records)) = self.news(context, path, now) else { return };
        let to = kept.path.clone();
        self.writing = Some((kept, spawn_blocking(move || file::write(&to, records))));
        self.finish().await;
    }

    /// What is not in the file, if anything is.
    fn news(&self, context: &Context, path: PathBuf, now: Moment) -> Option<(Kept, Vec<Record>)> {
        let offenders = context.speakers.offenders();
        let next = Kept { path, changed: offenders.changed() };
        let records = || {
            let all = offenders.records(now).into_iter();
            all.filter(|record| !context.speakers.is_only_told(record)).collect()
        };
        (self.kept.as_ref() != Some(&next)).then(|| (next, records()))
    }

    /// Waits for what is being written.
    async fn finish(&mut self) {
        let Some((_, writing)) = &mut self.writing else { return };
        let written = writing.await;
        let Some((kept, _)) = self.writing.take() else { return };
        match written {
            Ok(Ok(())) => (self.kept, self.told) = (Some(kept), None),
            Ok(Err(fault)) => self.tell(kept.path, &describe(&fault), fault.help()),
            Err(error) => self.tell(
                kept.path,
                &describe_panic(&error),
                "this is a fault of the guard: please report it",
            ),
        }
    }

    /// Once for each file, until it was written.
    fn tell(&mut self, path: PathBuf, error: &str, help: &str) {
        if self.told.as_ref() != Some(&path) {
            tracing::warn!(file = %path.display(), error, help, "bans_not_kept");
            self.told = Some(path);
        }
    }

    fn tell_late(&mut self) {
        if let Some(path) = self.writing.take().map(|(kept, _)| kept.path) {
            let error = format!("it was not written within {} s", LAST_WRITE.as_secs());
            let help = "the next guard may not know the latest bans: see what is wrong with the file system, or name \
                        a file on another one in [ban] file";
            self.tell(path, &error, help);
        }
    }
}

fn describe_panic(error: &JoinError) -> String {
    format!("writing it has failed: {error}")
}

/// Where they are kept as the configuration has it now.
fn file_of(context: &Context) -> Option<PathBuf> {
    context.snapshot().config.ban.file.clone()
}

#[cfg(test)]
mod tests;
