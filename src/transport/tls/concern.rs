//! What is in force, and yet to be told of: it weakens what certificates are checked for, or soon ends.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use rustls::pki_types::UnixTime;

use super::certificate::{Named, date};
use super::credentials::Credentials;
use crate::config::one_line;

/// Something about the credentials in force that an operator should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Concern {
    /// A file of `crl` is not there, and `crl_missing` accepts that.
    CrlAbsent {
        /// The file.
        path: PathBuf,
    },
    /// A list is older than it should be.
    CrlStale {
        /// Its file.
        path: PathBuf,
        /// Until when it was good.
        next_update: UnixTime,
    },
    /// No list is of this CA.
    CrlPartial {
        /// The CA.
        ca: Named,
    },
    /// Our certificate ends soon, or has ended.
    Ends {
        /// It.
        cert: Named,
        /// When.
        not_after: UnixTime,
    },
    /// A CA ends soon, or has ended.
    CaEnds {
        /// It.
        ca: Named,
        /// When.
        not_after: UnixTime,
    },
}

impl Concern {
    /// The word for it in logs.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::CrlAbsent { .. } => "crl_missing",
            Self::CrlStale { .. } => "crl_stale",
            Self::CrlPartial { .. } => "crl_partial",
            Self::Ends { .. } => "certificate_ends",
            Self::CaEnds { .. } => "ca_ends",
        }
    }
}

/// One clause with the facts.
impl fmt::Display for Concern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CrlAbsent { path } => {
                write!(f, "the list of revoked certificates {} is not there", shown(path))
            }
            Self::CrlStale { path, next_update } => {
                write!(
                    f,
                    "the list of revoked certificates {} was good until {}",
                    shown(path),
                    date(*next_update)
                )
            }
            Self::CrlPartial { ca } => write!(f, "no list of revoked certificates is of {}", ca.subject),
            Self::Ends { cert, not_after } | Self::CaEnds { ca: cert, not_after } => {
                write!(f, "{cert} ends at {}", date(*not_after))
            }
        }
    }
}

fn shown(path: &std::path::Path) -> String {
    one_line(&path.display().to_string())
}

impl Credentials {
    /// What to tell of the credentials in force. `warn_before` is how long before the end of a certificate.
    #[must_use]
    pub fn concerns(&self, now: UnixTime, warn_before: Duration) -> Vec<Concern> {
        let (material, verifier) = (self.material(), self.verifier());
        let crls = &verifier.revocation().crls;
        let ends =
            |not_after: UnixTime| not_after.as_secs() <= now.as_secs().saturating_add(warn_before.as_secs());
        let absent = material.absent.iter().map(|path| Concern::CrlAbsent { path: path.clone() });
        let stale = crls
            .iter()
            .filter(|crl| crl.next_update <= now)
            .map(|crl| Concern::CrlStale { path: crl.path.clone(), next_update: crl.next_update });
        let silent = verifier
            .anchors()
            .iter()
            .filter(|anchor| anchor.lists.is_empty() && !crls.is_empty())
            .map(|anchor| Concern::CrlPartial { ca: anchor.about.named.clone() });
        let own = std::iter::once(&material.about)
            .filter(|about| ends(about.not_after))
            .map(|about| Concern::Ends { cert: about.named.clone(), not_after: about.not_after });
        let cas = material
            .cas
            .iter()
            .filter(|(_, about)| ends(about.not_after))
            .map(|(_, about)| Concern::CaEnds { ca: about.named.clone(), not_after: about.not_after });
        absent.chain(stale).chain(silent).chain(own).chain(cas).collect()
    }
}
