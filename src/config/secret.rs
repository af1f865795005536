//! Opening the files that hold secrets: who reads them, where they lie, and how nothing of them is left behind.

use std::io;
use std::path::{Component, Path};

use nix::unistd::{Uid, User};
use rustix::fd::OwnedFd;
use rustix::fs::{FileType, Mode, OFlags, Stat};
use zeroize::Zeroizing;

use super::text::one_line;

/// Who runs the guard where the package's unit does.
pub(crate) const SERVICE_USER: &str = "epmd-guard";
/// Where systemd puts what `LoadCredential=` names. Nobody but root can make files there.
pub(crate) const CREDENTIALS: &str = "/run/credentials";

/// Where a file lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// Where systemd puts credentials. The mode shows the mask of an access list there, in the place of the group's.
    Credentials,
    /// Anywhere else.
    Elsewhere,
}

impl Place {
    pub(crate) fn of(path: &Path) -> Self {
        let climbs = path.components().any(|part| part == Component::ParentDir);
        if path.starts_with(CREDENTIALS) && !climbs { Self::Credentials } else { Self::Elsewhere }
    }
}

/// Who reads.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader {
    pub(crate) uid: u32,
    /// The user of the package's unit, where root reads and there is one.
    pub(crate) service: Option<u32>,
}

impl Reader {
    pub(crate) fn of_this_process() -> Self {
        let uid = Uid::effective();
        let service = || Some(User::from_name(SERVICE_USER).ok().flatten()?.uid.as_raw());
        Self { uid: uid.as_raw(), service: uid.is_root().then(service).flatten() }
    }

    /// Whether the service could not read what root can here.
    pub(crate) fn is_root_beside_the_service(&self, about: &Stat) -> bool {
        self.service.is_some_and(|service| service != about.st_uid)
    }
}

/// Opens a file to read it.
pub(crate) fn open(path: &Path) -> io::Result<OwnedFd> {
    // It must neither wait for who writes to a pipe nor make a terminal ours.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// What a file is that is no regular one.
pub(crate) fn kind_name(kind: FileType) -> &'static str {
    match kind {
        FileType::Directory => "a folder",
        FileType::Fifo => "a pipe",
        FileType::Socket => "a socket",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        FileType::RegularFile | FileType::Symlink | FileType::Unknown => "something else",
    }
}

/// The name of a user, or the number of one that has none.
pub(crate) fn name_of(uid: u32) -> String {
    let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
    user.map_or_else(|| uid.to_string(), |user| one_line(&user.name))
}

/// The beginning of a file, one byte more than `largest` at most. It is never moved, so that wiping it leaves nothing.
pub(crate) fn contents(file: &OwnedFd, largest: usize) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(vec![0; largest + 1]);
    let mut filled = 0;
    while let Some(room) = bytes.get_mut(filled..).filter(|room| !room.is_empty()) {
        match rustix::io::read(file, room) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}
