//! The files of the CA: how they are read and written.
//!
//! Owns that nothing is overwritten that is to stay, that no key can be read by others at any moment, that no crash
//! leaves half a file, and that one command at a time is at work.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FlockOperation, Mode, OFlags, RenameFlags, flock, renameat_with};
use rustix::io::Errno;
use zeroize::Zeroizing;

use super::error::Error;

/// The longest certificate or key that is read, in bytes.
pub(super) const LARGEST_CERTIFICATE: usize = 256 * 1024;
/// The longest list or index that is read, in bytes: some 50,000 certificates. Guards read lists as long.
pub(super) const LARGEST_LIST: usize = 16 * 1024 * 1024;

/// Who may read a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kept {
    /// Its owner alone.
    Private,
    /// Whoever may enter the directory.
    Public,
}

/// What becomes of a file that is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Former {
    /// It stays, and the new one is not written.
    Stays,
    /// It is replaced.
    Goes,
}

/// The directory of a CA, with no other command at work in it.
#[derive(Debug)]
pub(super) struct Store {
    path: PathBuf,
    /// Open, and locked for as long.
    directory: File,
}

impl Store {
    /// Makes the directory where it is not there, closed to others, and takes it.
    pub(super) fn create(path: &Path) -> Result<Self, Error> {
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            fs::create_dir_all(parent).map_err(failed(parent, "made"))?;
        }
        match DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(failed(path, "made")(error)),
            _ => Self::open(path),
        }
    }

    /// Takes the directory, which only its owner may enter.
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::open(path, flags, Mode::empty());
        let directory = File::from(opened.map_err(|errno| failed(path, "opened")(errno.into()))?);
        let about = directory.metadata().map_err(failed(path, "opened"))?;
        let own = rustix::process::geteuid().as_raw();
        if about.uid() != own {
            return Err(Error::ForeignDirectory(path.to_owned()));
        }
        if about.mode() & 0o077 != 0 {
            return Err(Error::OpenDirectory { path: path.to_owned(), mode: about.mode() & 0o7777 });
        }
        match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { path: path.to_owned(), directory }),
            Err(Errno::WOULDBLOCK) => Err(Error::Busy(path.to_owned())),
            Err(errno) => Err(failed(path, "locked")(errno.into())),
        }
    }

    /// Where the directory is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Where a file in it is.
    pub(super) fn place(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Whether anything has this name, be it a link that leads nowhere.
    pub(super) fn has(&self, name: &str) -> bool {
        fs::symlink_metadata(self.place(name)).is_ok()
    }

    /// Writes a file: as a whole, or not at all.
    pub(super) fn write(&self, name: &str, bytes: &[u8], kept: Kept, former: Former) -> Result<(), Error> {
        self.stage(name, bytes, kept)?.put(former)?;
        self.settle()
    }

    /// Writes a file beside its place, down to the disk.
    pub(super) fn stage(&self, name: &str, bytes: &[u8], kept: Kept) -> Result<Staged, Error> {
        let path = self.place(name);
        let beside = self.place(&format!(".{name}.new"));
        // Of a command that was interrupted.
        if let Err(error) = fs::remove_file(&beside)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(failed(&beside, "removed")(error));
        }
        let mode = match kept {
            Kept::Private => Mode::RUSR | Mode::WUSR,
            Kept::Public => Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::ROTH,
        };
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = rustix::fs::open(&beside, flags, mode);
        let mut file = File::from(made.map_err(|errno| failed(&beside, "made")(errno.into()))?);
        let staged = Staged { path, beside };
        let written = file.write_all(bytes).and_then(|()| file.sync_all());
        written.map_err(failed(&staged.beside, "written"))?;
        Ok(staged)
    }

    /// Has on the disk, too, what was put in its place.
    pub(super) fn settle(&self) -> Result<(), Error> {
        self.directory.sync_all().map_err(failed(&self.path, "written"))
    }
}

/// A file that is written beside its place. It is removed if it is not put there.
#[derive(Debug)]
pub(super) struct Staged {
    path: PathBuf,
    beside: PathBuf,
}

impl Staged {
    /// Puts it in its place. Which that is.
    pub(super) fn put(self, former: Former) -> Result<PathBuf, Error> {
        put(&self.beside, &self.path, former).map(|()| self.path.clone())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // Nothing is there any more where it was put in its place. What cannot be removed now is removed next time.
        fs::remove_file(&self.beside).unwrap_or_default();
    }
}

/// Puts a file that is written in its place.
fn put(beside: &Path, path: &Path, former: Former) -> Result<(), Error> {
    let renamed = match former {
        Former::Goes => fs::rename(beside, path),
        Former::Stays => match renameat_with(CWD, beside, CWD, path, RenameFlags::NOREPLACE) {
            // A file system that does not know how. Nobody else is at work here.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) if fs::symlink_metadata(path).is_err() => {
                fs::rename(beside, path)
            }
            renamed => renamed.map_err(io::Error::from),
        },
    };
    renamed.map_err(|error| {
        if error.kind() == io::ErrorKind::AlreadyExists {
            return Error::Exists(path.to_owned());
        }
        failed(path, "written")(error)
    })
}

/// Reads a file that has no more than `most` bytes.
pub(super) fn read(path: &Path, most: usize) -> Result<Vec<u8>, Error> {
    read_with_mode(path, most).map(|(bytes, _)| bytes.to_vec())
}

/// Reads a key, which only its owner may.
pub(super) fn read_key(path: &Path) -> Result<Zeroizing<Vec<u8>>, Error> {
    let (bytes, mode) = read_with_mode(path, LARGEST_CERTIFICATE)?;
    if mode & 0o077 != 0 {
        return Err(Error::OpenKey { path: path.to_owned(), mode });
    }
    Ok(bytes)
}

/// Reads a file, and tells its permission bits.
pub(super) fn read_with_mode(path: &Path, most: usize) -> Result<(Zeroizing<Vec<u8>>, u32), Error> {
    // A pipe must not keep us waiting for somebody who writes to it.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = rustix::fs::open(path, flags, Mode::empty());
    let file = File::from(opened.map_err(|errno| failed(path, "read")(errno.into()))?);
    let about = file.metadata().map_err(failed(path, "read"))?;
    if !about.is_file() {
        return Err(Error::BadFile { path: path.to_owned(), why: "is no regular file".to_owned() });
    }
    // Grown only as far as the file is long, so that no copy of a key is left behind.
    let length = usize::try_from(about.len()).unwrap_or(usize::MAX).min(most);
    let mut bytes = Zeroizing::new(Vec::with_capacity(length.saturating_add(1)));
    let bound = u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1);
    file.take(bound).read_to_end(&mut bytes).map_err(failed(path, "read"))?;
    if bytes.len() > most {
        return Err(Error::BadFile { path: path.to_owned(), why: format!("has more than {most} bytes") });
    }
    Ok((bytes, about.mode() & 0o7777))
}

/// An error of the system about a file.
pub(super) fn failed(path: &Path, done: &'static str) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { path, done, source }
}
