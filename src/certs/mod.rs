//! The cluster's own certificate authority (CA): it is made here, issues a certificate for each host, and revokes it.
//!
//! Owns the directory that the CA lives in, and what its certificates and lists say. It opens no socket and knows
//! nothing of the guard that runs: that one reads certificates of any CA, and needs none of this.
//!
//! The moment is an argument to all of it.

mod authority;
mod clock;
mod error;
mod index;
mod issuing;
mod make;
mod name;
mod read;
mod revoking;
mod show;
mod store;
mod verify;

pub use authority::{Authority, init};
pub use error::Error;
pub use issuing::{Existing, Issued, KeyChoice, Renewal, Request};
pub use name::{BadName, Name};
pub use revoking::{Others, Revocation};
pub use show::{
    CertificateDocument, CrlDocument, Document, KeyDocument, KeyState, NameDocument, RevocationState,
    Revoked, Subject, Validity, show,
};

/// Where the CA is, unless another directory is named.
pub const DIRECTORY: &str = "/etc/epmd-guard/certs";
/// How long a CA is valid, in days, unless another time is named.
pub const AUTHORITY_DAYS: u32 = 3650;
/// How long the certificate of a host is valid, in days, unless another time is named.
pub const HOST_DAYS: u32 = 365;
/// How long a list of revoked certificates counts as current, in days, unless another time is named. Longer than a
/// certificate lives: each new certificate comes with a new list, so who renews in time has a current one.
pub const CRL_DAYS: u32 = 400;
/// The longest time that can be named, in days.
pub const MOST_DAYS: u32 = 36_500;
/// The longest name of a cluster, in characters: with what is put behind it, it fits into the 64 that a common name
/// may have (RFC 5280, appendix A.1, ub-common-name).
pub const LONGEST_CLUSTER: usize = 48;

#[cfg(test)]
mod tests;
