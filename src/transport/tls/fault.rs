//! Why a TLS connection ended.

use std::fmt;

use rustls::{AlertDescription, CertificateError, Error, PeerIncompatible, PeerMisbehaved};

use super::cert_fault::CertFault;
use super::verify::take_refused;
use crate::config::one_line;

/// Why a TLS connection cannot go on. Whatever it is, what [`super::TlsEnd`] has for the other side is to be sent
/// before the connection is closed: it may be the alert that tells why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TlsFault {
    /// We refuse the other side's certificate.
    Certificate(CertFault),
    /// The other side refuses, and this alert says why.
    Alert(AlertDescription),
    /// It is no TLS at all.
    NotTls,
    /// The other side does not speak TLS 1.3.
    Version,
    /// The other side speaks none of our protocols (ALPN).
    Protocol,
    /// There is nothing that both sides can do: key exchange, cipher suite or signatures.
    Incompatible(String),
    /// The handshake is longer than any is.
    TooLong,
    /// What came was changed on its way, or is not meant for this connection.
    Undecryptable,
    /// The other side breaks the rules of TLS.
    Misbehaved(String),
    /// It was closed before.
    Closed,
    /// Our own side cannot: a fault in the configuration or in the program.
    Ours(String),
}

impl TlsFault {
    /// The word for it in logs.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Certificate(fault) => fault.label(),
            Self::Alert(_) => "tls_alert",
            Self::NotTls => "tls_none",
            Self::Version => "tls_version",
            Self::Protocol => "tls_protocol",
            Self::Incompatible(_) => "tls_incompatible",
            Self::TooLong => "tls_too_long",
            Self::Undecryptable => "tls_undecryptable",
            Self::Misbehaved(_) => "tls_misbehaved",
            Self::Closed => "tls_closed",
            Self::Ours(_) => "tls_internal",
        }
    }

    /// What rustls says.
    #[allow(
        clippy::wildcard_enum_match_arm,
        reason = "whatever else rustls tells is no doing of the other side's"
    )]
    pub(super) fn of(error: Error) -> Self {
        match error {
            Error::InvalidCertificate(why) => {
                Self::Certificate(take_refused().unwrap_or_else(|| by_rustls(&why)))
            }
            Error::NoCertificatesPresented => Self::Certificate(CertFault::None),
            Error::AlertReceived(alert) => Self::Alert(alert),
            Error::NoApplicationProtocol => Self::Protocol,
            Error::DecryptError => Self::Undecryptable,
            Error::PeerIncompatible(why) => incompatible(&why),
            // A client says so of a protocol that it did not offer, and of one that the server owes it.
            Error::PeerMisbehaved(
                PeerMisbehaved::SelectedUnofferedApplicationProtocol
                | PeerMisbehaved::UnsolicitedEncryptedExtension,
            ) => Self::Protocol,
            Error::PeerMisbehaved(_)
            | Error::InvalidMessage(_)
            | Error::InappropriateMessage { .. }
            | Error::InappropriateHandshakeMessage { .. }
            | Error::PeerSentOversizedRecord => Self::Misbehaved(told(&error)),
            other => Self::Ours(told(&other)),
        }
    }
}

/// rustls itself looks at a certificate only for its key.
fn by_rustls(why: &CertificateError) -> CertFault {
    CertFault::Malformed { why: one_line(&format!("{why:?}")) }
}

fn told(error: &Error) -> String {
    one_line(&error.to_string())
}

#[allow(clippy::wildcard_enum_match_arm, reason = "whatever else is missing is told by its name")]
fn incompatible(why: &PeerIncompatible) -> TlsFault {
    match why {
        PeerIncompatible::Tls12NotOffered
        | PeerIncompatible::Tls12NotOfferedOrEnabled
        | PeerIncompatible::ServerDoesNotSupportTls12Or13
        | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
        | PeerIncompatible::SupportedVersionsExtensionRequired => TlsFault::Version,
        other => TlsFault::Incompatible(one_line(&format!("{other:?}"))),
    }
}

impl fmt::Display for TlsFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Certificate(fault) => fault.fmt(f),
            Self::Alert(alert) => write!(f, "the other side refuses: {}", alert_name(*alert)),
            Self::NotTls => f.write_str("what came is not TLS"),
            Self::Version => f.write_str("the other side does not speak TLS 1.3"),
            Self::Protocol => f.write_str("the other side speaks no protocol of ours (ALPN)"),
            Self::Incompatible(why) => write!(f, "the two sides have nothing in common: {why}"),
            Self::TooLong => f.write_str("the handshake is longer than any is"),
            Self::Undecryptable => f.write_str("what came was changed on its way"),
            Self::Misbehaved(why) => write!(f, "the other side breaks the rules of TLS: {why}"),
            Self::Closed => f.write_str("the connection was closed before"),
            Self::Ours(why) => write!(f, "our own side cannot go on: {why}"),
        }
    }
}

impl std::error::Error for TlsFault {}

/// An alert by its name (RFC 8446 section 6).
#[allow(clippy::wildcard_enum_match_arm, reason = "the rest has a number")]
fn alert_name(alert: AlertDescription) -> String {
    let name = match alert {
        AlertDescription::CloseNotify => "close_notify",
        AlertDescription::UnexpectedMessage => "unexpected_message",
        AlertDescription::BadRecordMac => "bad_record_mac",
        AlertDescription::RecordOverflow => "record_overflow",
        AlertDescription::HandshakeFailure => "handshake_failure",
        AlertDescription::BadCertificate => "bad_certificate",
        AlertDescription::UnsupportedCertificate => "unsupported_certificate",
        AlertDescription::CertificateRevoked => "certificate_revoked",
        AlertDescription::CertificateExpired => "certificate_expired",
        AlertDescription::CertificateUnknown => "certificate_unknown",
        AlertDescription::IllegalParameter => "illegal_parameter",
        AlertDescription::UnknownCA => "unknown_ca",
        AlertDescription::AccessDenied => "access_denied",
        AlertDescription::DecodeError => "decode_error",
        AlertDescription::DecryptError => "decrypt_error",
        AlertDescription::ProtocolVersion => "protocol_version",
        AlertDescription::InsufficientSecurity => "insufficient_security",
        AlertDescription::InternalError => "internal_error",
        AlertDescription::InappropriateFallback => "inappropriate_fallback",
        AlertDescription::UserCanceled => "user_canceled",
        AlertDescription::MissingExtension => "missing_extension",
        AlertDescription::UnsupportedExtension => "unsupported_extension",
        AlertDescription::UnrecognisedName => "unrecognized_name",
        AlertDescription::BadCertificateStatusResponse => "bad_certificate_status_response",
        AlertDescription::UnknownPSKIdentity => "unknown_psk_identity",
        AlertDescription::CertificateRequired => "certificate_required",
        AlertDescription::NoApplicationProtocol => "no_application_protocol",
        other => return format!("alert {}", u8::from(other)),
    };
    name.to_owned()
}
