//! The right to the Unix socket: one guard at a time has it.
//!
//! Owns the lock file beside the socket. The kernel gives the lock back when its process ends, however that
//! comes; the file stays, because who removes a lock file may remove one that somebody else has just locked.

use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, OFlags, flock, fstat};
use rustix::io::Errno;
use rustix::process::geteuid;
use socket2::{Domain, SockAddr, Socket, Type};

use super::socket::Fault;

/// How often a lock file that is exchanged under our hands is opened again.
const TRIES: usize = 8;
/// How long whoever listens at the socket may take to show that it does.
const ALIVE_WITHIN: Duration = Duration::from_millis(500);
/// Only the guard's user and whoever `[admin] group` names.
pub(super) const FOLDER_MODE: u32 = 0o750;

/// The right to open the Unix socket, for as long as this lives.
#[derive(Debug)]
pub struct Claim {
    socket: PathBuf,
    /// `None`: there is no lock to be had yet, such as where the directory is missing.
    lock: Option<OwnedFd>,
    folder: Folder,
}

/// Whose the directory of the socket is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Folder {
    /// It was there.
    Found,
    /// We made it, so its group is ours to set.
    Made,
}

/// Why there is no claim.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// Another guard has it.
    #[error("another guard runs with the admin socket {}", socket.display())]
    Held {
        /// The socket; the other guard may answer there.
        socket: PathBuf,
    },
}

/// Claims the Unix socket, before anything else is begun. A lock that cannot be had for any other reason than
/// that a guard has it is no error: [`serve`](super::serve) tells of it and tries again.
///
/// # Errors
/// Another guard has claimed it.
pub fn claim(socket: &Path) -> Result<Claim, ClaimError> {
    let mut claim = Claim { socket: socket.to_owned(), lock: None, folder: Folder::Found };
    match claim.hold() {
        Err(Fault::Held { .. }) => Err(ClaimError::Held { socket: socket.to_owned() }),
        Err(fault) => {
            tracing::debug!(path = %socket.display(), %fault, "admin_not_claimed");
            Ok(claim)
        }
        Ok(()) => Ok(claim),
    }
}

impl Claim {
    /// The socket that is claimed.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    pub(super) fn folder(&self) -> Folder {
        self.folder
    }

    /// Takes the lock, unless it is held and is still the one that others would ask for: a directory that was
    /// removed and made again has a new lock file.
    pub(super) fn hold(&mut self) -> Result<(), Fault> {
        let path = self.lock_path();
        if self.lock.as_ref().is_some_and(|lock| is_at(lock, &path)) {
            return Ok(());
        }
        self.lock = None;
        self.make_folder()?;
        self.lock = match lock(&path) {
            // We cannot see the lock of another user's guard, but its socket answers.
            Err(Fault::Foreign { .. }) if answers(&self.socket) => return Err(Fault::Held { path }),
            locked => Some(locked?),
        };
        Ok(())
    }

    fn lock_path(&self) -> PathBuf {
        let mut path = OsString::from(&self.socket);
        path.push(".lock");
        path.into()
    }

    /// Makes the directory, but not the one that it is in: what is that much off is a mistake in the path.
    fn make_folder(&mut self) -> Result<(), Fault> {
        let Some(folder) = self.socket.parent().filter(|folder| !folder.as_os_str().is_empty()) else {
            return Ok(());
        };
        match DirBuilder::new().mode(FOLDER_MODE).create(folder) {
            Ok(()) => self.folder = Folder::Made,
            // Without a right to the directory around it, it may be there all the same.
            Err(_) if folder.is_dir() => {}
            Err(source) => return Err(Fault::Folder { path: folder.to_owned(), source }),
        }
        Ok(())
    }
}

fn lock(path: &Path) -> Result<OwnedFd, Fault> {
    let fault = |errno: Errno| Fault::Lock { path: path.to_owned(), source: errno.into() };
    // No one else can open what we make, so no one else can lock it to keep guards from running.
    let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    for _ in 0..TRIES {
        let file = match rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR) {
            Err(Errno::ACCESS) => return Err(foreign(path).unwrap_or_else(|| fault(Errno::ACCESS))),
            opened => opened.map_err(fault)?,
        };
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => return Err(held(path, &file)),
            locked => locked.map_err(fault)?,
        }
        // What was locked may have been removed since it was opened.
        if is_at(&file, path) {
            return Ok(file);
        }
    }
    Err(fault(Errno::AGAIN))
}

/// Who has locked the file: another guard, or somebody who made the file before any guard did. Whoever may
/// write to the directory could, and must not keep guards from running.
fn held(path: &Path, file: &OwnedFd) -> Fault {
    let path = path.to_owned();
    let folder = path.parent().and_then(|folder| fs::metadata(folder).ok()).map(|folder| folder.uid());
    match fstat(file).map(|file| file.st_uid) {
        Ok(owner) if owner != geteuid().as_raw() && owner != 0 && Some(owner) != folder => {
            Fault::Stranger { path, owner }
        }
        Ok(_) | Err(_) => Fault::Held { path },
    }
}

/// The lock file that we may not open, if it is another user's.
fn foreign(path: &Path) -> Option<Fault> {
    let owner = fs::symlink_metadata(path).ok()?.uid();
    (owner != geteuid().as_raw()).then(|| Fault::Foreign { path: path.to_owned(), owner })
}

/// Whether something listens at the socket.
fn answers(socket: &Path) -> bool {
    let asked = SockAddr::unix(socket)
        .and_then(|addr| Socket::new(Domain::UNIX, Type::STREAM, None)?.connect_timeout(&addr, ALIVE_WITHIN));
    // A queue that is full is one that somebody has.
    asked.map_or_else(
        |error| matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut),
        |()| true,
    )
}

/// Whether the open file is the one that has this name now.
fn is_at(file: &OwnedFd, path: &Path) -> bool {
    let named = fs::symlink_metadata(path).map(|named| (named.dev(), named.ino()));
    let open = fstat(file).map_err(io::Error::from).map(|open| (open.st_dev, open.st_ino));
    matches!((named, open), (Ok(named), Ok(open)) if named == open)
}
