//! Lists of revoked certificates: whose they are, and what they say.

use std::path::PathBuf;

use rustls::pki_types::{CertificateDer, UnixTime};
use webpki::{CertRevocationList, EndEntityCert, OwnedCertRevocationList};
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

use super::certificate::{date, moment, name};

/// Bits of a list's number that count (RFC 5280, section 5.2.3).
const MOST_BITS: u64 = 160;

/// A list of revoked certificates, as a file has it.
#[derive(Debug, Clone)]
pub(super) struct CrlFile {
    pub(super) path: PathBuf,
    pub(super) der: Vec<u8>,
}

/// A list that was read.
#[derive(Debug)]
pub(super) struct Crl {
    pub(super) path: PathBuf,
    pub(super) list: CertRevocationList<'static>,
    pub(super) this_update: UnixTime,
    /// From then on it is stale.
    pub(super) next_update: UnixTime,
    /// Of which line of lists it is one: the issuer, its key, and what part of its certificates they are of, each as DER
    /// has it. Within a line numbers grow (RFC 5280, section 5.2.3).
    line: Vec<Vec<u8>>,
    /// Which one of them, in big-endian bytes without leading zeros.
    number: Option<Vec<u8>>,
    /// How it is told of.
    pub(super) shown: String,
    signed: Vec<u8>,
    signature: Vec<u8>,
}

impl Crl {
    /// Reads a list.
    ///
    /// # Errors
    /// What is wrong with it, in a few words.
    pub(super) fn read(file: &CrlFile) -> Result<Self, String> {
        let list = OwnedCertRevocationList::from_der(&file.der).map_err(|fault| unusable(&fault))?;
        let (_, x509) = CertificateRevocationList::from_der(&file.der)
            .map_err(|_| "it is no list of revoked certificates".to_owned())?;
        let next_update = x509.next_update().ok_or("it does not say until when it is good (nextUpdate)")?;
        let number = x509.crl_number().filter(|number| number.bits() <= MOST_BITS);
        let told = number.map_or_else(String::new, |number| format!("number {number} "));
        let this_update = moment(x509.last_update());
        Ok(Self {
            path: file.path.clone(),
            list: list.into(),
            line: line(&x509),
            number: number.map(|number| number.to_bytes_be()),
            shown: format!("{told}of {}, from {}", name(x509.issuer()), date(this_update)),
            this_update,
            next_update: moment(next_update),
            signed: x509.tbs_cert_list.as_ref().to_vec(),
            signature: x509.signature_value.data.to_vec(),
        })
    }

    /// Whether the other one is of the same line.
    pub(super) fn is_in_line_with(&self, other: &Self) -> bool {
        self.line == other.line
    }

    /// Whether it was made before the other one, of the same line. Where both have a number and it is not the same, that
    /// says it; or else their date.
    pub(super) fn is_older_than(&self, other: &Self) -> bool {
        let size = |number: &Option<Vec<u8>>| number.clone().map(|bytes| (bytes.len(), bytes));
        match (size(&self.number), size(&other.number)) {
            (Some(own), Some(other)) if own != other => own < other,
            _ => self.this_update < other.this_update,
        }
    }

    /// Whether this CA has signed it. Two CAs can have one name: while one takes over from the other, they mostly do.
    pub(super) fn is_signed_by(&self, ca: &CertificateDer<'_>) -> bool {
        let Ok(ca) = EndEntityCert::try_from(ca) else { return false };
        ca.subject() == self.list.issuer()
            && webpki::ALL_VERIFICATION_ALGS
                .iter()
                .any(|with| ca.verify_signature(*with, &self.signed, &self.signature).is_ok())
    }
}

fn line(x509: &CertificateRevocationList<'_>) -> Vec<Vec<u8>> {
    let tells = |extension: &ParsedExtension<'_>| {
        matches!(
            extension,
            ParsedExtension::AuthorityKeyIdentifier(_) | ParsedExtension::IssuingDistributionPoint(_)
        )
    };
    let told = x509.extensions().iter().filter(|extension| tells(extension.parsed_extension()));
    let mut line: Vec<Vec<u8>> = told.map(|extension| extension.value.to_vec()).collect();
    line.sort_unstable();
    line.insert(0, x509.issuer().as_raw().to_vec());
    line
}

#[allow(clippy::wildcard_enum_match_arm, reason = "whatever else is wrong with it is told by its name")]
fn unusable(fault: &webpki::Error) -> String {
    match fault {
        webpki::Error::UnsupportedCrlVersion => "it is of version 1, and 2 is wanted".to_owned(),
        webpki::Error::UnsupportedDeltaCrl => "it tells changes alone (a delta CRL)".to_owned(),
        webpki::Error::UnsupportedIndirectCrl => "it speaks for others (an indirect CRL)".to_owned(),
        other => format!("it is no list of revoked certificates ({other:?})"),
    }
}
