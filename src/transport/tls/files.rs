//! Reading the files of `[tls]`.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use nix::unistd::Uid;
use rustix::fs::{FileType, Stat, fstat, stat};
use zeroize::Zeroizing;

use crate::config::secret::{self, Place, Reader, SERVICE_USER, kind_name, name_of};
use crate::config::{TlsFiles, one_line};

/// Bytes of a file that are read. A list of revoked certificates can be long.
const LARGEST: usize = 16 * 1024 * 1024;

/// What a file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// `cert`.
    Certificate,
    /// `key`.
    Key,
    /// `ca`.
    Ca,
    /// `crl`.
    Crl,
}

impl Purpose {
    /// The key of `[tls]` that names it.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Certificate => "cert",
            Self::Key => "key",
            Self::Ca => "ca",
            Self::Crl => "crl",
        }
    }
}

/// Something is wrong with a file of `[tls]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MaterialFault {
    /// What it is for.
    pub purpose: Purpose,
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub why: FileFault,
}

/// What is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileFault {
    /// Nothing is there.
    Missing,
    /// This user may not read it.
    Closed {
        /// The user.
        reader: String,
    },
    /// It is of another kind.
    NoFile(&'static str),
    /// Its mode lets others read the key, or its group change it.
    Exposed {
        /// The mode.
        mode: u32,
    },
    /// The key belongs to somebody who is neither root nor the one who reads it.
    Foreign {
        /// Who.
        owner: String,
        /// Who reads it.
        reader: String,
    },
    /// It has too many bytes.
    TooLarge,
    /// The system says no.
    Failed(String),
    /// It holds nothing of what it is for.
    Empty,
    /// What it holds cannot be used.
    Unusable(String),
    /// The list of revoked certificates is older than the one in force.
    Older {
        /// Which one it is.
        has: String,
        /// Which one is in force.
        in_force: String,
    },
    /// The key is not the one of the certificate.
    OfAnother,
    /// The certificate has no name that anybody could know us by.
    Nameless,
}

impl MaterialFault {
    pub(super) fn new(purpose: Purpose, path: &Path, why: FileFault) -> Self {
        Self { purpose, path: path.to_owned(), why }
    }

    /// What to do about it.
    #[must_use]
    pub fn help(&self) -> String {
        let path = one_line(&self.path.display().to_string());
        let user = service_user();
        match (&self.why, self.purpose) {
            (FileFault::Missing, Purpose::Crl) => {
                "make one with `epmd-guard certs revoke` without a name, take the file out of [tls] crl, \
                 or set crl_missing = \"accept\""
                    .to_owned()
            }
            (FileFault::Missing, _) => {
                "make it with `epmd-guard certs issue NAME`, or name another file".to_owned()
            }
            (FileFault::Exposed { .. }, _) => format!("chmod 0600 {path}"),
            (FileFault::Foreign { .. }, _) => format!("chown {user} {path}"),
            (FileFault::Closed { .. }, Purpose::Key) => format!("chown {user} {path} && chmod 0600 {path}"),
            (FileFault::Closed { .. }, _) => {
                format!("chmod a+r {path}, and let {user} enter its directories")
            }
            (FileFault::Older { .. }, _) => {
                "bring the newest list of its CA. If this one is meant, as where the CA was brought back from a copy, take \
                 the file out of [tls] crl, reload, put it in again, and reload"
                    .to_owned()
            }
            (FileFault::OfAnother, _) => "name the key that the certificate was issued for".to_owned(),
            (FileFault::Nameless, _) => {
                "issue one with the host's name as subjectAltName: `epmd-guard certs issue NAME`".to_owned()
            }
            (
                FileFault::Empty | FileFault::Unusable(_) | FileFault::NoFile(_) | FileFault::TooLarge,
                purpose,
            ) => {
                format!("name a file in PEM that holds {}", wanted(purpose))
            }
            (FileFault::Failed(_), _) => "mend that, or name another file".to_owned(),
        }
    }
}

fn service_user() -> String {
    let user = Uid::effective();
    if user.is_root() { SERVICE_USER.to_owned() } else { name_of(user.as_raw()) }
}

fn wanted(purpose: Purpose) -> &'static str {
    match purpose {
        Purpose::Certificate => "the certificate of this host, and those between it and the CA",
        Purpose::Key => "its private key, without a passphrase",
        Purpose::Ca => "the certificates of the CAs",
        Purpose::Crl => "a list of revoked certificates",
    }
}

/// One clause with the file.
impl fmt::Display for MaterialFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = one_line(&self.path.display().to_string());
        write!(f, "[tls] {}: {path} ", self.purpose.label())?;
        match &self.why {
            FileFault::Missing => f.write_str("is not there"),
            FileFault::Closed { reader } => write!(f, "cannot be read by the user {reader}"),
            FileFault::NoFile(kind) => write!(f, "is {kind}, and no regular file"),
            FileFault::Exposed { mode } => {
                write!(f, "has the mode {mode:04o}: others could read the key, or change it")
            }
            FileFault::Foreign { owner, reader } => {
                write!(
                    f,
                    "belongs to the user {owner}, and {reader} reads it: its owner could change the key"
                )
            }
            FileFault::TooLarge => write!(f, "has more than {LARGEST} bytes"),
            FileFault::Failed(why) => write!(f, "cannot be read: {why}"),
            FileFault::Empty => write!(f, "does not hold {}", wanted(self.purpose)),
            FileFault::Unusable(why) => write!(f, "cannot be used: {why}"),
            FileFault::Older { has, in_force } => write!(
                f,
                "holds an older list of revoked certificates than the one in force, so that what was revoked since would \
                 be good again: {has}; in force is {in_force}"
            ),
            FileFault::OfAnother => f.write_str("is not the key of the certificate"),
            FileFault::Nameless => f.write_str(
                "has no name (subjectAltName: DNS without wildcards, IP or URI) by which another guard could know this host",
            ),
        }
    }
}

impl std::error::Error for MaterialFault {}

/// Reads a file. A key must be closed to others; its group may read it, as with `LoadCredential=` and with the volumes
/// of Kubernetes.
pub(super) fn read(purpose: Purpose, path: &Path) -> Result<Zeroizing<Vec<u8>>, MaterialFault> {
    let fault = |why| MaterialFault::new(purpose, path, why);
    let reader = Reader::of_this_process();
    let file = secret::open(path).map_err(|error| match error {
        error if error.kind() == io::ErrorKind::NotFound => fault(FileFault::Missing),
        error if error.kind() == io::ErrorKind::PermissionDenied => {
            fault(FileFault::Closed { reader: name_of(reader.uid) })
        }
        error => fault(FileFault::Failed(error.to_string())),
    })?;
    // Of what was opened: the path may lead elsewhere by now.
    let about = fstat(&file).map_err(|error| fault(FileFault::Failed(io::Error::from(error).to_string())))?;
    check(purpose, &about, (Place::of(path), &reader)).map_err(fault)?;
    let size = usize::try_from(about.st_size).unwrap_or(LARGEST).min(LARGEST);
    let bytes = secret::contents(&file, size).map_err(|error| fault(FileFault::Failed(error.to_string())))?;
    match bytes.len() {
        length if length > LARGEST => Err(fault(FileFault::TooLarge)),
        length if length > size => Err(fault(FileFault::Failed("it grew while it was read".to_owned()))),
        _ => Ok(bytes),
    }
}

fn check(purpose: Purpose, about: &Stat, (at, reader): (Place, &Reader)) -> Result<(), FileFault> {
    let kind = FileType::from_raw_mode(about.st_mode);
    if kind != FileType::RegularFile {
        return Err(FileFault::NoFile(kind_name(kind)));
    }
    if purpose != Purpose::Key {
        return Ok(());
    }
    let mode = about.st_mode & 0o7777;
    // What systemd passes shows the mask of an access list in the place of the group's.
    let closed_to = if at == Place::Credentials { 0o007 } else { 0o037 };
    if mode & closed_to != 0 {
        return Err(FileFault::Exposed { mode });
    }
    if about.st_uid != 0 && about.st_uid != reader.uid && Some(about.st_uid) != reader.service {
        return Err(FileFault::Foreign { owner: name_of(about.st_uid), reader: name_of(reader.uid) });
    }
    Ok(())
}

/// What the file system says of the files of `[tls]`: another stamp means that somebody has touched them. A symbolic
/// link counts by what it leads to, so that a swap of links, as Kubernetes does it, is seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp(Vec<Option<Seen>>);

/// Device, inode, size, and the moment of the last change in seconds and nanoseconds.
type Seen = (u64, u64, i64, i64, i64);

impl Stamp {
    /// What it says now. What cannot be looked at is nothing, and another stamp when it can be.
    #[must_use]
    pub fn of(files: &TlsFiles) -> Self {
        let paths = [&files.cert, &files.key, &files.ca].into_iter().chain(&files.crl);
        Self(paths.map(|path| stat(path).ok().as_ref().map(seen)).collect())
    }
}

#[allow(clippy::useless_conversion, reason = "the width of these differs between platforms")]
fn seen(about: &Stat) -> Seen {
    let nanoseconds = i64::try_from(about.st_mtime_nsec).unwrap_or_default();
    (about.st_dev.into(), about.st_ino.into(), about.st_size.into(), about.st_mtime.into(), nanoseconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(mode: u32, uid: u32, at: Place) -> Result<(), FileFault> {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut about = stat(file.path()).unwrap();
        (about.st_mode, about.st_uid) = (about.st_mode & !0o7777 | mode, uid);
        check(Purpose::Key, &about, (at, &Reader { uid: 990, service: None }))
    }

    #[test]
    fn a_key_is_closed_to_others_and_its_group_may_read_it() {
        for mode in [0o400, 0o600, 0o440, 0o640] {
            assert_eq!(key(mode, 990, Place::Elsewhere), Ok(()), "{mode:o}");
            assert_eq!(key(mode, 0, Place::Elsewhere), Ok(()), "{mode:o}");
        }
        for mode in [0o644, 0o660, 0o604, 0o602, 0o610] {
            assert_eq!(key(mode, 990, Place::Elsewhere), Err(FileFault::Exposed { mode }));
        }
        assert_eq!(key(0o460, 0, Place::Credentials), Ok(()));
        assert!(matches!(key(0o600, 4_242_991, Place::Elsewhere), Err(FileFault::Foreign { .. })));
    }

    #[test]
    fn a_swap_of_links_gives_another_stamp() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for version in ["1", "2"] {
            std::fs::create_dir(at(version)).unwrap();
            std::fs::write(at(version).join("cert"), "same").unwrap();
        }
        std::os::unix::fs::symlink(at("1"), at("data")).unwrap();
        std::os::unix::fs::symlink(at("data").join("cert"), at("cert")).unwrap();
        let files = TlsFiles { cert: at("cert"), key: at("key"), ca: at("ca"), crl: vec![at("crl")] };
        let before = Stamp::of(&files);
        assert_eq!(before, Stamp::of(&files));
        std::os::unix::fs::symlink(at("2"), at("new")).unwrap();
        std::fs::rename(at("new"), at("data")).unwrap();
        let swapped = Stamp::of(&files);
        assert_ne!(before, swapped);
        std::fs::write(at("crl"), "").unwrap();
        assert_ne!(swapped, Stamp::of(&files));
    }
}
