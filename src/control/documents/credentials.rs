//! What tunnels are made by.

use serde::{Deserialize, Serialize};

/// What tunnels are made by, and whether it is what the files hold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TlsDocument {
    /// What is in force; `None`: nothing is, and there are no tunnels.
    pub certificate: Option<CertificateDocument>,
    /// How many CAs are trusted.
    pub cas: u64,
    /// When the first of them ends; see [`timestamp`](super::timestamp).
    pub cas_until: Option<String>,
    /// How many lists of revoked certificates there are.
    pub crls: u64,
    /// Until when the first of them is good.
    pub crls_until: Option<String>,
    /// Whether the files of `[tls]` hold what is in force.
    pub files: TlsState,
    /// Why not, one clause each, with what to do about it.
    pub problems: Vec<String>,
}

/// The certificate of this guard.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CertificateDocument {
    /// Its subject.
    pub subject: String,
    /// Its serial number, in hexadecimal.
    pub serial: String,
    /// SHA-256 of the whole of it, in hexadecimal.
    pub fingerprint: String,
    /// Its names.
    pub names: Vec<String>,
    /// Until when it is good; see [`timestamp`](super::timestamp).
    pub not_after: String,
    /// For how long that is; below 0 when it has ended.
    pub expires_in_seconds: f64,
}

/// Whether the files of `[tls]` hold what is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TlsState {
    /// They do.
    InForce,
    /// They hold what will be in force when its time comes.
    Early,
    /// They hold what cannot be used.
    Refused,
}
