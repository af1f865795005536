//! Why the CA does not do what it was told, and what to do about it.

use std::io;
use std::path::PathBuf;

use super::name::BadName;

/// Why the CA does not do what it was told.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A name that no certificate can have.
    #[error(transparent)]
    Name(#[from] BadName),
    /// The cluster cannot be called so.
    #[error("{0:?} is no name for a cluster")]
    Cluster(String),
    /// Names besides the one that a certificate is called by, and several certificates.
    #[error("the same --dns, --ip or --uri for several certificates would be several hosts with one name")]
    SharedNames,
    /// A name stands twice on the command line.
    #[error("{0} is named twice")]
    Twice(String),
    /// Files of this name belong to a certificate for another one.
    #[error("the files of {name} would be called {stem}, as those of {other} are")]
    SameFiles {
        /// The name on the command line.
        name: String,
        /// What its files would be called.
        stem: String,
        /// Whose files they are.
        other: String,
    },
    /// Something is there already, and would be overwritten.
    #[error("{} is there already", .0.display())]
    Exists(PathBuf),
    /// A CA is there already, or part of one.
    #[error("{} is there already, and a CA is never replaced", .0.display())]
    AuthorityExists(PathBuf),
    /// There is no CA in the directory.
    #[error("there is no CA in {}: {missing} is not there", directory.display())]
    NoAuthority {
        /// The directory.
        directory: PathBuf,
        /// The file that is missing.
        missing: &'static str,
    },
    /// Others than its owner could change or use what is in the directory.
    #[error("the directory {} has the mode {mode:04o}: others than its owner could enter it", path.display())]
    OpenDirectory {
        /// The directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The directory belongs to another user.
    #[error("the directory {} belongs to another user, who could change what is in it", .0.display())]
    ForeignDirectory(PathBuf),
    /// Others than its owner could use the key.
    #[error("{} has the mode {mode:04o}: others than its owner could use the key", path.display())]
    OpenKey {
        /// The key.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Another command is at work in the directory.
    #[error("another command is at work in {}", .0.display())]
    Busy(PathBuf),
    /// The system says no.
    #[error("{} cannot be {done}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What cannot be done with it, as a participle.
        done: &'static str,
        /// The kernel's reason.
        source: io::Error,
    },
    /// A file is not what it should be.
    #[error("{} {why}", path.display())]
    BadFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The CA is not valid now.
    #[error("the CA {} was valid until {until}", path.display())]
    AuthorityExpired {
        /// Its certificate.
        path: PathBuf,
        /// When it ended.
        until: String,
    },
    /// The CA is not valid yet.
    #[error("the CA {} is valid from {from}, and this host's clock says {now}", path.display())]
    AuthorityNotYetValid {
        /// Its certificate.
        path: PathBuf,
        /// When it begins.
        from: String,
        /// The clock.
        now: String,
    },
    /// No certificate of this name was issued here.
    #[error("this CA has issued no certificate for {0}")]
    Unknown(String),
    /// A certificate that is revoked is not renewed.
    #[error("the certificate of {name} was revoked at {at}")]
    Revoked {
        /// Its name.
        name: String,
        /// When.
        at: String,
    },
    /// Certificates would stay good that have a name which is revoked.
    #[error("nothing is revoked, as a guard would go on taking others for the same names: {}", others.join("; "))]
    StaysGood {
        /// They.
        others: Vec<String>,
        /// What to name so that they are revoked, too.
        command: Vec<String>,
    },
    /// What was made is not what a guard would take.
    #[error("the certificate for {name} would not be taken by a guard: {why}")]
    Unfit {
        /// Its name.
        name: String,
        /// Why not.
        why: String,
    },
    /// The library that makes certificates refuses.
    #[error("the certificate cannot be made")]
    Make(#[from] rcgen::Error),
    /// A moment that no certificate can have.
    #[error("the clock of this host, or the time that was asked for, is out of range")]
    Clock,
    /// No random numbers are to be had.
    #[error("the system gives no random numbers")]
    Random,
}

impl Error {
    /// What to do.
    #[must_use]
    pub fn help(&self) -> String {
        match self {
            Self::Name(_) => {
                "give the name of a host such as h2.example.net, an address, or a URI such as \
                 spiffe://example.org/h2"
                    .to_owned()
            }
            Self::Cluster(_) => {
                format!("give it 1 to {} printable characters", super::LONGEST_CLUSTER)
            }
            Self::SharedNames => "issue them one by one".to_owned(),
            Self::Twice(_) => "name it once".to_owned(),
            Self::SameFiles { .. } => "call one of them by another of its names, and give this one with --dns, \
                                       --ip or --uri"
                .to_owned(),
            Self::Exists(_) => "`epmd-guard certs renew NAME` makes a new one for the same names; \
                                `epmd-guard certs issue --force` replaces it, and does not revoke the one that is \
                                there"
                .to_owned(),
            Self::AuthorityExists(path) if path.ends_with("ca.crt") => {
                "use this one, or make another in a directory of its own (--dir)".to_owned()
            }
            Self::AuthorityExists(_) => "make the CA in a directory of its own (--dir). If this is what an `init` \
                                         left behind that was interrupted, and no ca.crt is there, remove it and \
                                         try again"
                .to_owned(),
            Self::NoAuthority { directory, missing: "ca.crt" } => {
                format!("name its directory with --dir, or make one: epmd-guard certs init --dir {}", directory.display())
            }
            Self::NoAuthority { .. } => "do this where the whole CA is (--dir), or bring the file back from a copy"
                .to_owned(),
            Self::OpenDirectory { path, .. } => format!("chmod 0700 {}", path.display()),
            Self::ForeignDirectory(_) => "run the command as that user, or name another directory (--dir)".to_owned(),
            Self::OpenKey { path, .. } => format!(
                "chmod 0600 {}, and ask yourself who may have read it: a CA whose key others have is to be replaced",
                path.display()
            ),
            Self::Busy(_) => "try again when it is done".to_owned(),
            Self::Io { source, .. } => help_of(source.kind()).to_owned(),
            Self::BadFile { .. } => "bring it back from a copy, or name another file or directory".to_owned(),
            Self::AuthorityExpired { .. } => {
                "make a new CA in another directory, and have the guards trust both until every host has a \
                 certificate of the new one"
                    .to_owned()
            }
            Self::AuthorityNotYetValid { .. } => "correct the clock".to_owned(),
            Self::Unknown(name) => format!(
                "`epmd-guard certs show` lists those that are here; `epmd-guard certs issue {name}` issues one"
            ),
            Self::Revoked { name, .. } => {
                format!("`epmd-guard certs issue {name} --force` issues another one, with a new key")
            }
            Self::StaysGood { command, .. } => help_for_others(command),
            Self::Unfit { .. } => "see what this CA may issue: `epmd-guard certs show ca.crt`".to_owned(),
            Self::Make(_) => "see what this CA is: `epmd-guard certs show`".to_owned(),
            Self::Clock => "correct the clock, or ask for fewer days".to_owned(),
            Self::Random => "see what is wrong with this host before you make keys on it".to_owned(),
        }
    }
}

fn help_for_others(command: &[String]) -> String {
    format!(
        "name them all: `epmd-guard certs revoke {}`; where the others are another host's, revoke the rest alone with \
         --only",
        command.join(" ")
    )
}

fn help_of(kind: io::ErrorKind) -> &'static str {
    if kind == io::ErrorKind::NotFound {
        "see that the path is right (--dir names the directory of the CA)"
    } else if kind == io::ErrorKind::PermissionDenied {
        "run the command as the user whom the directory of the CA belongs to"
    } else {
        "see what is wrong with the file system; nothing was overwritten"
    }
}
