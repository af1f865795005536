//! The credentials of tunnels: reading the files of `[tls]` and checking what they hold, as a start, a reload and a timed
//! look do it, and `check`.
//!
//! Owns which credentials are taken and which are not. Whatever is wrong leaves those in force where they are.

mod keyring;
mod lookout;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::documents::{time_of, timestamp};
use crate::config::{Config, Tls, TlsFiles, one_line};
use crate::policy::Moment;
use crate::proto::tunnel::ALPN;
use crate::transport::tls::{
    CertFault, Credentials, Material, MaterialFault, Prints, Purpose, SelfCheckFault, TlsFault, UnixTime,
};

pub(super) use keyring::{Judged, changes, help_for, tell_changed};
pub use keyring::{Keyring, Refused};
pub use lookout::Lookout;

/// Why credentials are not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CredentialFault {
    /// A file.
    File(MaterialFault),
    /// What the files hold does not work.
    Unfit {
        /// The file of the certificate.
        cert: String,
        /// Why.
        why: SelfCheckFault,
    },
    /// The files cannot be read in time.
    Hang(Duration),
}

impl CredentialFault {
    fn unfit(files: &TlsFiles, why: SelfCheckFault) -> Self {
        Self::Unfit { cert: one_line(&files.cert.display().to_string()), why }
    }

    /// Whether it is the same, whatever our clock says by now.
    fn is_as(&self, other: &Self) -> bool {
        match (self, other) {
            (
                Self::Unfit { cert, why: SelfCheckFault::Certificate(fault) },
                Self::Unfit { cert: before, why: SelfCheckFault::Certificate(known) },
            ) => cert == before && fault.is_as(known),
            _ => self == other,
        }
    }

    /// The key of `[tls]` that it is about.
    #[must_use]
    pub fn purpose(&self) -> Purpose {
        match self {
            Self::File(fault) => fault.purpose,
            Self::Unfit { .. } | Self::Hang(_) => Purpose::Certificate,
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn help(&self) -> String {
        let help = match self {
            Self::File(fault) => return fault.help(),
            Self::Hang(_) => "see whether the file system of [tls] cert, key, ca and crl hangs",
            Self::Unfit { why: SelfCheckFault::Handshake(_), .. } => {
                "issue another certificate, with a key of ECDSA P-256: `epmd-guard certs issue NAME --force`"
            }
            Self::Unfit { why: SelfCheckFault::Certificate(fault), .. } => cure(fault),
        };
        help.to_owned()
    }
}

fn cure(fault: &CertFault) -> &'static str {
    match fault {
        CertFault::Expired { .. } => "issue it anew, where the CA is: `epmd-guard certs renew NAME`",
        CertFault::NotYetValid { .. } => "set the clock of this host, or wait until then",
        CertFault::Revoked { .. } => "issue another one: `epmd-guard certs issue NAME --force`",
        CertFault::SelfSigned { .. } | CertFault::UnknownIssuer { .. } | CertFault::BadSignature { .. } => {
            "add the CA that has issued it to [tls] ca, or those between them to [tls] cert"
        }
        CertFault::WrongUse { .. } => {
            "issue one for both sides of a connection (clientAuth and serverAuth), as `epmd-guard certs issue` does"
        }
        CertFault::NoCrl { .. } => {
            "add the list of its issuer to [tls] crl (`epmd-guard certs revoke` without a name writes it), or set \
             crl_partial = \"accept\""
        }
        CertFault::StaleCrl { .. } => {
            "get a list that is not older than it may be (`epmd-guard certs revoke` without a name writes one), or set \
             crl_stale = \"accept\""
        }
        CertFault::Malformed { .. } | CertFault::None => {
            "issue another one: `epmd-guard certs issue NAME --force`"
        }
    }
}

/// One clause with the file.
impl fmt::Display for CredentialFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(fault) => write!(f, "{fault}"),
            Self::Unfit { cert, why } => write!(f, "[tls] cert: {cert}: {why}"),
            Self::Hang(after) => {
                let after = humantime::format_duration(*after);
                write!(f, "[tls] cert, key, ca and crl could not be read within {after}")
            }
        }
    }
}

impl std::error::Error for CredentialFault {}

/// What the files of `[tls]` hold.
#[derive(Debug)]
pub enum Found {
    /// There are none.
    None,
    /// What is in force: the same, so that sessions are resumed.
    Same(Arc<Credentials>),
    /// Something else, that works.
    New(Arc<Credentials>),
    /// Something that will work, when our clock says so.
    Early(Early),
    /// Something that is whole, but other guards would refuse it now: it has ended, is revoked, or what would say that
    /// it is not is too old. Always [`CredentialFault::Unfit`].
    Unfit(CredentialFault),
}

/// A certificate whose time has not come. The clock of a host may be behind when it boots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Early {
    /// By which it is known.
    prints: Prints,
    /// When it comes.
    pub fault: CredentialFault,
}

/// Reads the files of `[tls]` and checks them as peers would. `before` are the credentials in force.
///
/// # Errors
/// All that is wrong with them, whatever the time and whatever the CA says of them.
pub fn read_credentials(
    tls: &Tls,
    before: Option<&Arc<Credentials>>,
    now: UnixTime,
) -> Result<Found, Vec<CredentialFault>> {
    let Some(files) = &tls.files else { return Ok(Found::None) };
    let material = Material::read(files, tls.crl)
        .map_err(|faults| faults.into_iter().map(CredentialFault::File).collect::<Vec<_>>())?;
    if let Some(before) = before.filter(|before| before.are_of(&material)) {
        return Ok(Found::Same(Arc::clone(before)));
    }
    let older = before.map(|before| before.older_lists(&material)).unwrap_or_default();
    if !older.is_empty() {
        return Err(older.into_iter().map(CredentialFault::File).collect());
    }
    let prints = material.prints().clone();
    let unfit = |why| CredentialFault::unfit(files, why);
    let made = Credentials::new(material, &[ALPN]);
    let made = made.map_err(|fault: TlsFault| vec![unfit(SelfCheckFault::Handshake(fault))])?;
    match made.self_check(now) {
        Ok(_) => Ok(Found::New(Arc::new(made))),
        Err(why @ SelfCheckFault::Certificate(CertFault::NotYetValid { .. })) => {
            Ok(Found::Early(Early { prints, fault: unfit(why) }))
        }
        Err(why @ SelfCheckFault::Certificate(_)) => Ok(Found::Unfit(unfit(why))),
        Err(why) => Err(vec![unfit(why)]),
    }
}

/// Whether our own certificate is that of a peer, as where the files of two hosts were mixed up; what to say of it, and what
/// to do.
#[must_use]
pub fn is_of_a_peer(config: &Config, credentials: &Credentials) -> Option<(String, &'static str)> {
    let own = credentials.own();
    let (peer, name) = config.peers.iter().find_map(|peer| {
        let name = own.sans.iter().find(|name| peer.identity.contains(name))?;
        Some((&peer.name, name))
    })?;
    let message =
        format!("[tls] cert: has the name {name}, by which the [[peer]] {peer} is known: is it that host's?");
    Some((message, "give each host a certificate of its own, with names that no other host has"))
}

/// Whether a guard of this configuration holds what no core dump may have in it.
#[must_use]
pub fn has_secrets(config: &Config) -> bool {
    !config.cookies.is_empty() || config.tls.files.is_some()
}

/// The time of day, as certificates are read by.
#[must_use]
pub fn certificate_time() -> UnixTime {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    UnixTime::since_unix_epoch(since)
}

/// A moment of a certificate as documents and the log write it.
#[must_use]
pub fn shown_moment(moment: UnixTime) -> String {
    timestamp(time_of(Moment(moment.as_secs().saturating_mul(1000))))
}

/// What differs between the credentials in force and those that take their place.
#[must_use]
pub fn changed_purposes(before: Option<&Arc<Credentials>>, next: &Credentials) -> Vec<Purpose> {
    match before {
        Some(before) => next.prints().changes(before.prints()),
        None => vec![Purpose::Certificate, Purpose::Ca, Purpose::Crl],
    }
}
