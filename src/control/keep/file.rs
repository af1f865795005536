//! The file that bans are kept in: lines of JSON, the first of which says what the file is and how many follow.
//!
//! It is replaced as a whole, so that no reader and no crash finds half of one, and no link that somebody puts in
//! its place is followed.

use std::cmp::Reverse;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::policy::{Ban, Moment, Offence, Record};

/// The longest file that is read, and that is written.
const LARGEST: usize = 16 * 1024 * 1024;
/// What the first line calls the file.
const FORMAT: &str = "epmd-guard bans";
/// The version of what follows it.
const VERSION: u32 = 1;

/// Why a file of bans cannot be taken in.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreadable {
    /// The kernel says why.
    #[error("the file cannot be read")]
    Io(#[source] io::Error),
    /// Somebody may have put it there to have another file read.
    #[error("it is a symbolic link, which is not followed")]
    Link,
    /// A directory, a pipe or a device.
    #[error("it is no regular file")]
    NoFile,
    /// No guard writes one as large.
    #[error("it has more than {LARGEST} bytes")]
    TooLarge,
    /// The first line does not say what it should.
    #[error("it does not begin as a file of bans")]
    Foreign,
    /// Another guard wrote it.
    #[error("it is of version {0}, and this guard knows version {VERSION}")]
    Version(u32),
    /// The line of this number.
    #[error("line {0} is no record")]
    Line(usize),
    /// Its end is missing, or something was put behind it.
    #[error("it has not as many records as its first line says")]
    Incomplete,
}

/// Why a file of bans is not written.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unwritable {
    /// The file beside it, which is to take its place.
    #[error("{} cannot be made", path.display())]
    Make {
        /// That file.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
    /// As [`Unwritable::Make`].
    #[error("{} cannot be written", path.display())]
    Write {
        /// That file.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
    /// It cannot take its place.
    #[error("{} cannot be replaced", path.display())]
    Replace {
        /// The file of bans.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
}

#[derive(Debug, Serialize, Deserialize)]
struct Header {
    format: String,
    version: u32,
    /// How many lines follow.
    records: usize,
}

/// A line. Moments are milliseconds since 1970.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Line {
    /// Ban
    Ban(BanLine),
    /// Good
    Good(GoodLine),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct BanLine {
    net: String,
    since: u64,
    until: u64,
    times: u32,
    offence: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct GoodLine {
    ip: IpAddr,
    at: u64,
}

/// The records of a file; `None`: there is no file.
pub(super) fn read(path: &Path) -> Result<Option<Vec<Record>>, Unreadable> {
    // A pipe must not keep us waiting for somebody who writes to it.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(None),
        Err(Errno::LOOP) => return Err(Unreadable::Link),
        opened => File::from(opened.map_err(|errno| Unreadable::Io(errno.into()))?),
    };
    if !file.metadata().map_err(Unreadable::Io)?.is_file() {
        return Err(Unreadable::NoFile);
    }
    let mut text = Vec::new();
    let most = u64::try_from(LARGEST).unwrap_or(u64::MAX).saturating_add(1);
    file.take(most).read_to_end(&mut text).map_err(Unreadable::Io)?;
    if text.len() > LARGEST {
        return Err(Unreadable::TooLarge);
    }
    parse(&text).map(Some)
}

/// Replaces the file, which only its owner can read.
pub(super) fn write(path: &Path, records: Vec<Record>) -> Result<(), Unwritable> {
    let text = render(records, LARGEST);
    let beside = with_ending(path, ".new");
    // Of a guard that ended while it wrote.
    if let Err(source) = std::fs::remove_file(&beside)
        && source.kind() != io::ErrorKind::NotFound
    {
        return Err(Unwritable::Make { path: beside, source });
    }
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let made = rustix::fs::open(&beside, flags, Mode::RUSR | Mode::WUSR);
    let mut file = match made {
        Ok(made) => File::from(made),
        Err(errno) => return Err(Unwritable::Make { path: beside, source: errno.into() }),
    };
    let written = file.write_all(&text).and_then(|()| file.sync_all());
    let replaced = match written {
        Ok(()) => std::fs::rename(&beside, path)
            .map_err(|source| Unwritable::Replace { path: path.to_owned(), source }),
        Err(source) => Err(Unwritable::Write { path: beside.clone(), source }),
    };
    if replaced.is_err() {
        // What is left of it is removed next time, if not now.
        std::fs::remove_file(&beside).unwrap_or_default();
    }
    replaced
}

/// Puts a file that cannot be taken in out of the way, in the place of an earlier one: where it is then.
pub(super) fn set_aside(path: &Path) -> io::Result<PathBuf> {
    let aside = with_ending(path, ".bad");
    std::fs::rename(path, &aside)?;
    Ok(aside)
}

fn parse(text: &[u8]) -> Result<Vec<Record>, Unreadable> {
    let mut lines = text.split_inclusive(|byte| *byte == b'\n');
    let first = lines.next().and_then(|line| line.strip_suffix(b"\n")).ok_or(Unreadable::Foreign)?;
    let Header { format, version, records } =
        serde_json::from_slice(first).map_err(|_| Unreadable::Foreign)?;
    if format != FORMAT {
        return Err(Unreadable::Foreign);
    }
    if version != VERSION {
        return Err(Unreadable::Version(version));
    }
    let mut found = Vec::new();
    for (number, line) in (2..).zip(lines) {
        let line = line.strip_suffix(b"\n").ok_or(Unreadable::Incomplete)?;
        found.push(record(line).ok_or(Unreadable::Line(number))?);
    }
    if found.len() == records { Ok(found) } else { Err(Unreadable::Incomplete) }
}

fn record(line: &[u8]) -> Option<Record> {
    Some(match serde_json::from_slice(line).ok()? {
        Line::Ban(BanLine { net, since, until, times, offence }) => Record::Ban(Ban {
            net: net.parse().ok()?,
            since: Moment(since),
            until: Moment(until),
            times,
            offence: Offence::from_label(&offence)?,
        }),
        Line::Good(GoodLine { ip, at }) => Record::Good { ip, at: Moment(at) },
    })
}

/// The text of a file. What does not fit into the `most` bytes that are read again is left out: first the good
/// addresses, the one whose link is oldest first, then the bans, the one that ends first.
fn render(mut records: Vec<Record>, most: usize) -> Vec<u8> {
    records.sort_unstable_by_key(|record| match record {
        Record::Ban(ban) => (0, Reverse(ban.until), ban.net.addr()),
        Record::Good { ip, at } => (1, Reverse(*at), *ip),
    });
    let mut body = Vec::new();
    let mut count = 0;
    // The longest first line that there can be, and more.
    let most = most.saturating_sub(128);
    for record in &records {
        let Ok(line) = serde_json::to_vec(&line(record)) else { continue };
        if body.len() + line.len() >= most {
            break;
        }
        body.extend_from_slice(&line);
        body.push(b'\n');
        count += 1;
    }
    let header = Header { format: FORMAT.to_owned(), version: VERSION, records: count };
    let mut text = serde_json::to_vec(&header).unwrap_or_default();
    text.push(b'\n');
    text.append(&mut body);
    text
}

fn line(record: &Record) -> Line {
    match record {
        Record::Ban(Ban { net, since, until, times, offence }) => Line::Ban(BanLine {
            net: net.to_string(),
            since: since.0,
            until: until.0,
            times: *times,
            offence: offence.label().to_owned(),
        }),
        Record::Good { ip, at } => Line::Good(GoodLine { ip: *ip, at: at.0 }),
    }
}

fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut path = OsString::from(path);
    path.push(ending);
    path.into()
}

impl Unreadable {
    /// What to do.
    pub(super) fn help(&self) -> &'static str {
        match self {
            Self::Io(_) => {
                "the guard began without the bans of before: see that its user can read the file, or name another one \
                 in [ban] file"
            }
            Self::Version(_) => {
                "the guard began without the bans of before: they were written by another version of it; remove the \
                 file that was set aside"
            }
            Self::Link | Self::NoFile | Self::TooLarge | Self::Foreign | Self::Line(_) | Self::Incomplete => {
                "the guard began without the bans of before: see what became of the file, and remove the one that was \
                 set aside; nobody but the guard should write to its directory"
            }
        }
    }
}

impl Unwritable {
    /// What to do.
    pub(super) fn help(&self) -> &'static str {
        let (Self::Make { source, .. } | Self::Write { source, .. } | Self::Replace { source, .. }) = self;
        let kind = source.kind();
        if kind == io::ErrorKind::NotFound {
            "bans would be forgotten by a restart, and this is tried again: make the directory for the guard's user \
             (StateDirectory= of its unit does), or set [ban] file, to \"\" if no ban is to be kept"
        } else if matches!(kind, io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem) {
            "bans would be forgotten by a restart, and this is tried again: let the guard's user write to the directory \
             (StateDirectory= of its unit does), or set [ban] file, to \"\" if no ban is to be kept"
        } else {
            "bans would be forgotten by a restart, and this is tried again: see what is wrong with the file system, or \
             set [ban] file, to \"\" if no ban is to be kept"
        }
    }
}

#[cfg(test)]
mod tests;
