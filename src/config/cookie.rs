//! Reading the files that hold cookies.
//!
//! Owns what such a file may be: it is read as OTP reads its own (`auth:read_cookie`, `auth:check_cookie`), must
//! be closed to others, and cannot keep who reads it. What was read is wiped.

use std::fmt;
use std::io;
use std::path::Path;

use nix::unistd::{Uid, User};
use rustix::fs::{FileType, Stat, fstat};

use super::secret::{self, CREDENTIALS, Place, Reader, SERVICE_USER, kind_name, name_of};
use super::text::one_line;
use crate::policy::Cookie;

/// Bytes that a cookie can have: it is an atom to OTP.
const LONGEST: usize = 255;
/// Bytes of the file that are looked at: the cookie, and room for line ends behind it.
const LARGEST: usize = 1024;

/// Whether the files that a configuration names are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Files {
    /// They are: a guard is to run with it.
    Read,
    /// They are, as far as they can be there before the guard runs.
    Foresee,
    /// They are not: it is another host's, or nothing but a part of it is asked for.
    Leave,
}

/// Why a file gives no cookie.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Nothing is there.
    Missing,
    /// Nothing is there yet: systemd makes it for the service.
    NotYet,
    /// This user may not read it.
    Closed { reader: String },
    /// It is of another kind.
    NoFile(&'static str),
    /// Its mode lets others have it, too.
    Exposed { mode: u32 },
    /// It belongs to somebody who is neither root nor the one who reads it.
    Foreign { owner: String, reader: String },
    /// Only root can read it, and the service does not run as root.
    OnlyRoots,
    /// It holds no cookie.
    Empty,
    /// It has a byte that no cookie has, or something behind the line of the cookie: counted from 1.
    OddByte(usize),
    /// The cookie has too many bytes.
    TooLong(usize),
    /// The file has too many bytes.
    TooLarge,
    /// The system says no.
    Failed(String),
}

/// A file that was read: its cookie, and what is odd about it all the same.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) cookie: Cookie,
    pub(super) oddity: Option<Fault>,
}

impl Fault {
    /// Whether the file may be as it is before the guard has been started.
    pub(super) fn is_forgiven(&self, files: Files) -> bool {
        *self == Self::NotYet && files == Files::Foresee
    }

    /// What to do about it.
    pub(super) fn help(&self, path: &Path) -> String {
        let shown = one_line(&path.display().to_string());
        match self {
            Self::Exposed { .. } => format!("chmod 0400 {shown}"),
            Self::NotYet => {
                let name =
                    path.file_name().map_or_else(String::new, |name| one_line(&name.to_string_lossy()));
                format!(
                    "systemd makes it when the service starts: write LoadCredential={name}:/var/lib/ejabberd/.erlang.cookie \
                     into the unit, under [Service]"
                )
            }
            Self::NoFile(_) | Self::Empty | Self::OddByte(_) | Self::TooLong(_) | Self::TooLarge => {
                "name a copy of the nodes' own .erlang.cookie, which is one line of printable ASCII"
                    .to_owned()
            }
            Self::Failed(_) => "mend that, or name another file".to_owned(),
            Self::Closed { .. } => format!("let it enter the directories of this path, and {}", copy(&shown)),
            Self::Foreign { owner, .. } if Uid::effective().is_root() => {
                format!("if the user {owner} runs the guard, check as that user; else {}", copy(&shown))
            }
            Self::Missing | Self::Foreign { .. } | Self::OnlyRoots => copy(&shown),
        }
    }
}

/// How the guard gets a copy that it may read.
fn copy(path: &str) -> String {
    let own = User::from_uid(Uid::effective()).ok().flatten().filter(|user| !user.uid.is_root());
    let user = own.map_or_else(|| SERVICE_USER.to_owned(), |user| one_line(&user.name));
    let path = if path.ends_with("/.erlang.cookie") { "/etc/epmd-guard/cookie" } else { path };
    format!(
        "give the guard a copy of its own: `install -m 0400 -o {user} /var/lib/ejabberd/.erlang.cookie {path}`; \
         or write LoadCredential=cookie:/var/lib/ejabberd/.erlang.cookie into its unit, and \
         \"{CREDENTIALS}/epmd-guard.service/cookie\" here"
    )
}

/// One clause that follows the path.
impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("is not there"),
            Self::NotYet => f.write_str("is not there yet"),
            Self::Closed { reader } => write!(f, "cannot be read by the user {reader}"),
            Self::NoFile(kind) => write!(f, "is {kind}, and no regular file"),
            Self::Exposed { mode } => {
                write!(f, "has the mode {mode:04o}: others than its owner could use it")
            }
            Self::Foreign { owner, reader } => {
                write!(
                    f,
                    "belongs to the user {owner}, and {reader} reads it: its owner could change what counts as the cookie"
                )
            }
            Self::OnlyRoots => write!(f, "can be read by root alone, and the service runs as {SERVICE_USER}"),
            Self::Empty => f.write_str("has no cookie in it"),
            Self::OddByte(at) => write!(f, "is no cookie: byte {at} can neither stand in one nor behind it"),
            Self::TooLong(bytes) => {
                write!(f, "is no cookie: {bytes} bytes are more than the {LONGEST} that are possible")
            }
            Self::TooLarge => write!(f, "is no cookie: it has more than {LARGEST} bytes"),
            Self::Failed(why) => write!(f, "cannot be read: {why}"),
        }
    }
}

/// Reads the cookie of a file.
pub(super) fn read(path: &Path, files: Files) -> Result<Found, Fault> {
    let at = Place::of(path);
    let reader = Reader::of_this_process();
    let file = secret::open(path).map_err(|error| match error {
        error if error.kind() == io::ErrorKind::NotFound && at == Place::Credentials => Fault::NotYet,
        error if error.kind() == io::ErrorKind::NotFound => Fault::Missing,
        error if error.kind() == io::ErrorKind::PermissionDenied => {
            Fault::Closed { reader: name_of(reader.uid) }
        }
        error => Fault::Failed(error.to_string()),
    })?;
    // Of what was opened: the path may lead elsewhere by now.
    let about = fstat(&file).map_err(|error| Fault::Failed(io::Error::from(error).to_string()))?;
    check(&about, at, &reader)?;
    let bytes = secret::contents(&file, LARGEST).map_err(|error| Fault::Failed(error.to_string()))?;
    let cookie = cookie_in(&bytes)?;
    let only_roots =
        files == Files::Foresee && at == Place::Elsewhere && reader.is_root_beside_the_service(&about);
    Ok(Found { cookie, oddity: only_roots.then_some(Fault::OnlyRoots) })
}

fn check(about: &Stat, at: Place, reader: &Reader) -> Result<(), Fault> {
    let kind = FileType::from_raw_mode(about.st_mode);
    if kind != FileType::RegularFile {
        return Err(Fault::NoFile(kind_name(kind)));
    }
    let mode = about.st_mode & 0o7777;
    let closed_to = if at == Place::Credentials { 0o037 } else { 0o077 };
    if mode & closed_to != 0 {
        return Err(Fault::Exposed { mode });
    }
    if about.st_uid != 0 && about.st_uid != reader.uid && Some(about.st_uid) != reader.service {
        return Err(Fault::Foreign { owner: name_of(about.st_uid), reader: name_of(reader.uid) });
    }
    Ok(())
}

/// Printable ASCII is the cookie, spaces too, up to the first byte that is none; from there on only line ends and
/// spaces may follow.
fn cookie_in(bytes: &[u8]) -> Result<Cookie, Fault> {
    if bytes.len() > LARGEST {
        return Err(Fault::TooLarge);
    }
    let is_of_cookie = |byte: &u8| (b' '..=b'~').contains(byte);
    let end = bytes.iter().position(|byte| !is_of_cookie(byte)).unwrap_or(bytes.len());
    let (cookie, behind) = bytes.split_at_checked(end).unwrap_or((bytes, &[]));
    if let Some(odd) = behind.iter().position(|byte| !b"\r\n ".contains(byte)) {
        return Err(Fault::OddByte(end + odd + 1));
    }
    match cookie.len() {
        0 => Err(Fault::Empty),
        1..=LONGEST => Ok(Cookie::new(cookie.to_vec())),
        bytes => Err(Fault::TooLong(bytes)),
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::Mode;

    use super::*;

    fn stat(mode: u32, uid: u32) -> Stat {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cookie");
        std::fs::write(&path, "x").unwrap();
        let mut about = rustix::fs::stat(&path).unwrap();
        (about.st_mode, about.st_uid) = (about.st_mode & !0o7777 | mode, uid);
        about
    }

    #[test]
    fn a_file_is_read_as_otp_reads_it() {
        let good: [(&[u8], &str); 7] = [
            (b"secret", "secret"),
            (b"secret\n", "secret"),
            (b"secret\r\n \n", "secret"),
            (b"secret \n", "secret "),
            (b" a b~", " a b~"),
            (b"  \n", "  "),
            (b"a\r", "a"),
        ];
        for (bytes, cookie) in good {
            assert_eq!(cookie_in(bytes).unwrap(), Cookie::new(cookie.into()), "{bytes:?}");
        }
        let bad: [(&[u8], Fault); 8] = [
            (b"", Fault::Empty),
            (b"\n", Fault::Empty),
            (b"\r\n ", Fault::Empty),
            (b"a\tb", Fault::OddByte(2)),
            (b"a\nb", Fault::OddByte(3)),
            (b"se\xc3\xa4", Fault::OddByte(3)),
            (b"a\n\0", Fault::OddByte(3)),
            (b"\x7f", Fault::OddByte(1)),
        ];
        for (bytes, fault) in bad {
            assert_eq!(cookie_in(bytes).unwrap_err(), fault, "{bytes:?}");
        }
        assert!(cookie_in(&[b'x'; 255]).is_ok());
        assert_eq!(cookie_in(&[b'x'; 256]).unwrap_err(), Fault::TooLong(256));
        let mut padded = vec![b'\n'; LARGEST];
        padded[0] = b'x';
        assert!(cookie_in(&padded).is_ok());
        padded.push(b'\n');
        assert_eq!(cookie_in(&padded).unwrap_err(), Fault::TooLarge);
    }

    #[test]
    fn a_file_is_its_readers_or_roots_and_nobody_elses() {
        let reader = Reader { uid: 990, service: None };
        let judged = |mode, uid| check(&stat(mode, uid), Place::Elsewhere, &reader);
        for uid in [0, 990] {
            for mode in [0o400, 0o600, 0o700] {
                assert_eq!(judged(mode, uid), Ok(()), "{mode:o} {uid}");
            }
            for mode in [0o440, 0o404, 0o644, 0o620, 0o601, 0o777] {
                assert_eq!(judged(mode, uid), Err(Fault::Exposed { mode }), "{mode:o} {uid}");
            }
        }
        let foreign = Err(Fault::Foreign { owner: "4242991".into(), reader: "990".into() });
        let reader = Reader { uid: 4_242_990, service: None };
        let told = check(&stat(0o400, 4_242_991), Place::Elsewhere, &reader);
        assert_eq!(
            told.map_err(|fault| fault.to_string().replace("4242990", "990")),
            foreign.map_err(|fault: Fault| fault.to_string())
        );
        // Root may look at what is the service's.
        let root = Reader { uid: 0, service: Some(990) };
        assert_eq!(check(&stat(0o400, 990), Place::Elsewhere, &root), Ok(()));
        assert!(matches!(check(&stat(0o400, 991), Place::Elsewhere, &root), Err(Fault::Foreign { .. })));
        assert!(
            root.is_root_beside_the_service(&stat(0o400, 0))
                && !root.is_root_beside_the_service(&stat(0o400, 990))
        );
    }

    #[test]
    fn the_mask_of_an_access_list_is_forgiven_where_systemd_puts_credentials() {
        let reader = Reader { uid: 990, service: None };
        let judged = |mode| check(&stat(mode, 0), Place::Credentials, &reader);
        assert_eq!((judged(0o440), judged(0o400)), (Ok(()), Ok(())));
        for mode in [0o444, 0o460, 0o450, 0o644] {
            assert_eq!(judged(mode), Err(Fault::Exposed { mode }), "{mode:o}");
        }
        let place = |path: &str| Place::of(Path::new(path));
        assert_eq!(place("/run/credentials/epmd-guard.service/cookie"), Place::Credentials);
        for elsewhere in ["/run/credentials/../../tmp/x", "/run/credentialsx/a", "/etc/run/credentials/x"] {
            assert_eq!(place(elsewhere), Place::Elsewhere, "{elsewhere}");
        }
    }

    #[test]
    fn what_systemd_has_yet_to_make_is_forgiven_to_who_looks_ahead_alone() {
        let missing = read(Path::new("/run/credentials/no-such.service/cookie"), Files::Foresee).unwrap_err();
        assert_eq!(missing, Fault::NotYet);
        assert!(missing.is_forgiven(Files::Foresee) && !missing.is_forgiven(Files::Read));
        assert!(!Fault::Missing.is_forgiven(Files::Foresee));
    }

    #[test]
    fn nothing_but_a_file_is_read_and_nothing_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let fault = |path: &Path| read(path, Files::Read).unwrap_err();
        assert_eq!(fault(&at("none")), Fault::Missing);
        assert_eq!(fault(folder.path()), Fault::NoFile("a folder"));
        rustix::fs::mknodat(rustix::fs::CWD, at("pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        assert_eq!(fault(&at("pipe")), Fault::NoFile("a pipe"));
        assert_eq!(fault(Path::new("/dev/null")), Fault::NoFile("a device"));
        std::os::unix::fs::symlink(at("loop"), at("loop")).unwrap();
        assert!(matches!(fault(&at("loop")), Fault::Failed(_)));
    }

    #[test]
    fn a_link_leads_to_a_file_whose_own_mode_counts() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("cookie"), folder.path().join("link"));
        std::fs::write(&file, "secret\n").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let set = |mode| {
            std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        };
        set(0o400);
        assert_eq!(read(&link, Files::Read).unwrap().cookie, Cookie::new(b"secret".to_vec()));
        set(0o644);
        assert_eq!(read(&link, Files::Read).unwrap_err(), Fault::Exposed { mode: 0o644 });
    }

    #[test]
    fn no_fault_tells_what_the_file_holds() {
        let fault = cookie_in(b"secret\x01word").unwrap_err();
        let told = format!("{fault} {fault:?} {}", fault.help(Path::new("/x")));
        assert!(!told.contains("secret") && !told.contains("word"), "{told}");
    }
}
