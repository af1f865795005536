//! What a certificate says of itself, once it has been found good or when it is refused.

use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
use rustls::pki_types::{CertificateDer, UnixTime};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::time::ASN1Time;
use x509_parser::x509::X509Name;

use crate::config::one_line;
use crate::policy::San;

/// Characters of a subject that are told: it is up to whoever wrote the certificate.
const SHOWN: usize = 120;
/// Names of one certificate that are looked at.
const MOST_NAMES: usize = 256;

/// A certificate that was found good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certified {
    /// Whose it is.
    pub sans: Vec<San>,
    /// The last second for which it is good.
    pub not_after: UnixTime,
    /// Its serial number, in hexadecimal, as `openssl x509 -serial` prints it.
    pub serial: String,
    /// Its subject, such as `CN=h2.example.net`, escaped and cut.
    pub subject: String,
    /// SHA-256 of the whole of it, in hexadecimal.
    pub fingerprint: String,
}

/// How a certificate is told of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// Its subject, escaped and cut.
    pub subject: String,
    /// Its serial number, in hexadecimal.
    pub serial: String,
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the certificate of {} (serial {})", self.subject, self.serial)
    }
}

/// What a certificate says.
#[derive(Debug, Clone)]
pub(super) struct About {
    pub(super) named: Named,
    pub(super) issuer: String,
    pub(super) not_before: UnixTime,
    pub(super) not_after: UnixTime,
    pub(super) sans: Vec<San>,
    /// Its subject is its issuer.
    pub(super) self_issued: bool,
    pub(super) is_ca: bool,
    /// It has a list of what its key may do, and signing is not in it.
    pub(super) signs_nothing: bool,
}

impl About {
    /// Reads a certificate.
    ///
    /// # Errors
    /// What is wrong with it, in a few words.
    pub(super) fn read(der: &[u8]) -> Result<Self, String> {
        let (behind, x509) =
            X509Certificate::from_der(der).map_err(|_| "it is no X.509 certificate".to_owned())?;
        if !behind.is_empty() {
            return Err("something follows the certificate".to_owned());
        }
        let usage = x509.key_usage().map_err(|_| "its key usage cannot be read".to_owned())?;
        Ok(Self {
            named: Named { subject: name(x509.subject()), serial: serial(x509.raw_serial()) },
            issuer: name(x509.issuer()),
            not_before: moment(x509.validity().not_before),
            not_after: moment(x509.validity().not_after),
            sans: sans(&x509)?,
            self_issued: x509.subject().as_raw() == x509.issuer().as_raw(),
            is_ca: x509.is_ca(),
            signs_nothing: usage.is_some_and(|usage| !usage.value.digital_signature()),
        })
    }

    /// What is told of it when it is good.
    pub(super) fn certified(self, der: &CertificateDer<'_>) -> Certified {
        let Named { subject, serial } = self.named;
        Certified {
            sans: self.sans,
            not_after: self.not_after,
            serial,
            subject,
            fingerprint: hex(&sha256(der)),
        }
    }
}

fn sans(x509: &X509Certificate<'_>) -> Result<Vec<San>, String> {
    let unreadable = || "its names (subjectAltName) cannot be read".to_owned();
    let Some(extension) = x509.subject_alternative_name().map_err(|_| unreadable())? else {
        return Ok(Vec::new());
    };
    let names = &extension.value.general_names;
    if names.len() > MOST_NAMES {
        return Err(format!("it has {} names, and {MOST_NAMES} are the most", names.len()));
    }
    let mut sans = Vec::new();
    for name in names {
        match name {
            GeneralName::DNSName(name) => sans.push(San::Dns(name.to_ascii_lowercase())),
            GeneralName::URI(uri) => sans.push(San::Uri((*uri).to_owned())),
            GeneralName::IPAddress(bytes) => sans.push(San::Ip(address(bytes).ok_or_else(unreadable)?)),
            GeneralName::Invalid(..) => return Err(unreadable()),
            GeneralName::OtherName(..)
            | GeneralName::RFC822Name(_)
            | GeneralName::X400Address(_)
            | GeneralName::DirectoryName(_)
            | GeneralName::EDIPartyName(_)
            | GeneralName::RegisteredID(_) => {}
        }
    }
    Ok(sans)
}

/// Four bytes or sixteen. An IPv4 address in IPv6 clothes is the IPv4 address, as everywhere else.
fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    let v6 = || <[u8; 16]>::try_from(bytes).map(|bytes| IpAddr::from(bytes).to_canonical());
    v4.or_else(|_| v6()).ok()
}

/// The name of an issuer or subject, fit for a log.
pub(super) fn name(name: &X509Name<'_>) -> String {
    let whole = name.to_string();
    let whole = if whole.is_empty() { "an empty subject".to_owned() } else { whole };
    match whole.char_indices().nth(SHOWN) {
        Some((cut, _)) => format!("{}…", one_line(whole.get(..cut).unwrap_or_default())),
        None => one_line(&whole),
    }
}

/// A moment of a certificate; whatever is before 1970 is 1970.
pub(super) fn moment(time: ASN1Time) -> UnixTime {
    let seconds = u64::try_from(time.timestamp()).unwrap_or(0);
    UnixTime::since_unix_epoch(Duration::from_secs(seconds))
}

/// A moment for people: `2026-11-23T12:00:00Z`.
pub(super) fn date(moment: UnixTime) -> impl fmt::Display {
    // What is beyond the year 9999 cannot be written.
    let last = 253_402_300_799;
    let since = Duration::from_secs(moment.as_secs().min(last));
    humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + since)
}

/// SHA-256, by the library that does all other cryptography here.
pub(super) fn sha256(bytes: &[u8]) -> Vec<u8> {
    let suite = TLS13_AES_128_GCM_SHA256.tls13();
    suite.map(|suite| suite.common.hash_provider.hash(bytes).as_ref().to_vec()).unwrap_or_default()
}

/// A serial number without the byte that only says that it is not negative.
fn serial(bytes: &[u8]) -> String {
    match bytes {
        [0, number @ ..] if !number.is_empty() => hex(number),
        number => hex(number),
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    use fmt::Write;
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        write!(text, "{byte:02X}").unwrap_or_default();
    }
    text
}
