//! Mutual TLS with the guards of peers: what the files hold, what is checked, and one end of a connection.
//!
//! Knows no socket and no peer. Time is an argument.

mod block;
mod cert_fault;
mod certificate;
mod concern;
mod credentials;
mod crl;
mod end;
mod fault;
mod files;
mod in_force;
mod material;
mod records;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod verify;

pub use block::Block;
pub use cert_fault::CertFault;
pub use certificate::{Certified, Named};
pub use concern::Concern;
pub use credentials::{Credentials, Expiry, SelfCheckFault};
pub use end::{Ending, Facts, Opened, RECORD, RECORD_OVERHEAD, Stage, TlsEnd, sealed_len};
pub use fault::TlsFault;
pub use files::{FileFault, MaterialFault, Purpose, Stamp};
pub use material::{Material, Prints};
pub use rustls::pki_types::{CertificateDer, UnixTime};
pub use verify::{Usage, Verifier};
