//! Why a certificate is refused.

use std::fmt;
use std::time::Duration;

use rustls::pki_types::UnixTime;
use rustls::{CertificateError, Error};

use super::certificate::{Named, date};
use super::verify::Usage;

/// Why a certificate is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CertFault {
    /// There is none.
    None,
    /// It cannot be read, or breaks the rules of X.509.
    Malformed {
        /// What is wrong with it.
        why: String,
    },
    /// It has vouched for itself, and is none of our CAs.
    SelfSigned {
        /// It.
        cert: Named,
    },
    /// None of our CAs has issued it, nor one of those that came with it.
    UnknownIssuer {
        /// It.
        cert: Named,
        /// Who has, as it says.
        issuer: String,
    },
    /// It bears the name of an issuer that has not signed it.
    BadSignature {
        /// It.
        cert: Named,
        /// The issuer.
        issuer: String,
    },
    /// Its time has not come, by our clock.
    NotYetValid {
        /// It, or the one of an issuer of it.
        cert: Named,
        /// When it comes.
        not_before: UnixTime,
        /// What our clock says.
        now: UnixTime,
    },
    /// Its time is over, by our clock.
    Expired {
        /// It, or the one of an issuer of it.
        cert: Named,
        /// When it ended.
        not_after: UnixTime,
        /// What our clock says.
        now: UnixTime,
    },
    /// Its issuer has revoked it.
    Revoked {
        /// It, or the one of an issuer of it.
        cert: Named,
    },
    /// It was not issued for this.
    WrongUse {
        /// It.
        cert: Named,
        /// What it was to be used as.
        usage: Usage,
        /// What speaks against it.
        why: String,
    },
    /// No list of revoked certificates says anything of it.
    NoCrl {
        /// It.
        cert: Named,
        /// Whose list is wanted.
        issuer: String,
    },
    /// The list of revoked certificates that it would stand on is too old.
    StaleCrl {
        /// It.
        cert: Named,
        /// Until when the list was good.
        next_update: UnixTime,
        /// What our clock says.
        now: UnixTime,
    },
}

impl CertFault {
    /// The word for it in logs.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::None => "certificate_none",
            Self::Malformed { .. } => "certificate_malformed",
            Self::SelfSigned { .. } => "certificate_self_signed",
            Self::UnknownIssuer { .. } => "certificate_unknown_issuer",
            Self::BadSignature { .. } => "certificate_bad_signature",
            Self::NotYetValid { .. } => "certificate_not_yet_valid",
            Self::Expired { .. } => "certificate_expired",
            Self::Revoked { .. } => "certificate_revoked",
            Self::WrongUse { .. } => "certificate_wrong_use",
            Self::NoCrl { .. } => "certificate_no_crl",
            Self::StaleCrl { .. } => "certificate_stale_crl",
        }
    }

    /// Whether it is the same, whatever our clock says by now.
    #[must_use]
    pub fn is_as(&self, other: &Self) -> bool {
        let some_time = UnixTime::since_unix_epoch(Duration::ZERO);
        self.clone().seen_at(some_time) == other.clone().seen_at(some_time)
    }

    fn seen_at(mut self, moment: UnixTime) -> Self {
        if let Self::NotYetValid { now, .. } | Self::Expired { now, .. } | Self::StaleCrl { now, .. } =
            &mut self
        {
            *now = moment;
        }
        self
    }

    /// How specific it is: of two issuers that could be meant, the better reason is told.
    pub(super) fn weight(&self) -> u8 {
        match self {
            Self::UnknownIssuer { .. } | Self::SelfSigned { .. } | Self::None => 0,
            Self::BadSignature { .. } => 1,
            Self::NoCrl { .. } | Self::StaleCrl { .. } | Self::Malformed { .. } | Self::WrongUse { .. } => 2,
            Self::NotYetValid { .. } | Self::Expired { .. } => 3,
            Self::Revoked { .. } => 4,
        }
    }
}

/// What makes rustls send the alert that fits.
impl From<&CertFault> for Error {
    fn from(fault: &CertFault) -> Self {
        let error = match fault {
            CertFault::None => return Self::NoCertificatesPresented,
            CertFault::Malformed { .. } => CertificateError::BadEncoding,
            CertFault::SelfSigned { .. } | CertFault::UnknownIssuer { .. } => CertificateError::UnknownIssuer,
            CertFault::BadSignature { .. } => CertificateError::BadSignature,
            CertFault::NotYetValid { .. } => CertificateError::NotValidYet,
            CertFault::Expired { .. } => CertificateError::Expired,
            CertFault::Revoked { .. } => CertificateError::Revoked,
            CertFault::WrongUse { .. } => CertificateError::InvalidPurpose,
            CertFault::NoCrl { .. } => CertificateError::UnknownRevocationStatus,
            CertFault::StaleCrl { .. } => CertificateError::ExpiredRevocationList,
        };
        error.into()
    }
}

/// One clause with the facts.
impl fmt::Display for CertFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("there is no certificate"),
            Self::Malformed { why } => write!(f, "the certificate is malformed: {why}"),
            Self::SelfSigned { cert } => {
                write!(f, "{cert} is signed by itself, and [tls] ca does not have it")
            }
            Self::UnknownIssuer { cert, issuer } => {
                write!(f, "{cert} was issued by {issuer}, which [tls] ca does not have")
            }
            Self::BadSignature { cert, issuer } => {
                write!(f, "{cert} bears the name of {issuer}, but not the signature of the one in [tls] ca")
            }
            Self::NotYetValid { cert, not_before, now } => {
                write!(f, "{cert} is good from {}, and it is {} here", date(*not_before), date(*now))
            }
            Self::Expired { cert, not_after, now } => {
                write!(f, "{cert} was good until {}, and it is {} here", date(*not_after), date(*now))
            }
            Self::Revoked { cert } => write!(f, "{cert} is revoked"),
            Self::WrongUse { cert, usage, why } => write!(f, "{cert} is not for {usage}: {why}"),
            Self::NoCrl { cert, issuer } => {
                write!(f, "{cert} may be revoked: [tls] crl has no list of {issuer}")
            }
            Self::StaleCrl { cert, next_update, now } => write!(
                f,
                "{cert} may be revoked: the list of its issuer was good until {}, and it is {} here",
                date(*next_update),
                date(*now)
            ),
        }
    }
}

impl std::error::Error for CertFault {}
