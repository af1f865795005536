//! What the files of `[tls]` hold: our certificate and key, the CAs, and the lists of revoked certificates.
//!
//! Reads all of it, and finds all that is wrong with it at once. What has to do with the time of day is for the
//! self-check of `Credentials`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::Error;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::certificate::{About, hex, sha256};
use super::crl::{Crl, CrlFile};
use super::files::{FileFault, MaterialFault, Purpose, Stamp, read};
use crate::config::{CrlRules, OnCrl, TlsFiles};
use crate::policy::San;

/// How often files are read again that change while they are read.
const ATTEMPTS: usize = 3;
/// CAs in one file.
const MOST_CAS: usize = 64;

/// What the files of `[tls]` hold.
#[derive(Debug)]
pub struct Material {
    pub(super) own: Arc<CertifiedKey>,
    pub(super) about: About,
    pub(super) cas: Vec<(CertificateDer<'static>, About)>,
    pub(super) crls: Vec<Crl>,
    /// Files of `crl` that are not there, and need not be.
    pub(super) absent: Vec<PathBuf>,
    pub(super) rules: CrlRules,
    pub(super) wants_crl: OnCrl,
    prints: Prints,
    stamp: Stamp,
}

/// Fingerprints of what the files hold, by which a reload tells what is new.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prints {
    /// Of our certificate and those above it, and so of the key.
    pub certificate: String,
    /// Of the CAs, in any order.
    pub ca: String,
    /// Of the lists of revoked certificates, in any order.
    pub crl: String,
}

impl Prints {
    /// What is another than in `before`.
    #[must_use]
    pub fn changes(&self, before: &Self) -> Vec<Purpose> {
        let changed = [
            (Purpose::Certificate, self.certificate != before.certificate),
            (Purpose::Ca, self.ca != before.ca),
            (Purpose::Crl, self.crl != before.crl),
        ];
        changed.into_iter().filter_map(|(what, is_new)| is_new.then_some(what)).collect()
    }
}

impl Material {
    /// Reads the files. Those that change meanwhile are read again, so that what is read belongs together.
    ///
    /// # Errors
    /// All that is wrong with them.
    pub fn read(files: &TlsFiles, rules: CrlRules) -> Result<Self, Vec<MaterialFault>> {
        let mut attempt = 0;
        loop {
            let stamp = Stamp::of(files);
            let found = Self::read_once(files, rules, stamp.clone());
            attempt += 1;
            if attempt == ATTEMPTS || stamp == Stamp::of(files) {
                return found;
            }
        }
    }

    fn read_once(files: &TlsFiles, rules: CrlRules, stamp: Stamp) -> Result<Self, Vec<MaterialFault>> {
        let mut faults = Vec::new();
        let chain = or_note(certificates(Purpose::Certificate, &files.cert), &mut faults);
        let key = or_note(key(&files.key), &mut faults);
        let cas = or_note(certificates(Purpose::Ca, &files.ca), &mut faults).unwrap_or_default();
        let (crls, absent) = read_lists(&files.crl, rules, &mut faults);
        let own = chain.zip(key).and_then(|(chain, key)| or_note(pair(files, chain, &key), &mut faults));
        match own {
            Some((own, about)) if faults.is_empty() => {
                let prints = Prints {
                    certificate: print(own.cert.iter().map(AsRef::as_ref), Order::Counts),
                    ca: print(cas.iter().map(|(ca, _)| ca.as_ref()), Order::IsNothing),
                    crl: print(crls.iter().map(|(_, der)| der.as_slice()), Order::IsNothing),
                };
                let wants_crl =
                    if files.crl.is_empty() || !absent.is_empty() { OnCrl::Accept } else { rules.partial };
                let crls = crls.into_iter().map(|(crl, _)| crl).collect();
                Ok(Self { own: Arc::new(own), about, cas, crls, absent, rules, wants_crl, prints, stamp })
            }
            _ => Err(faults),
        }
    }

    /// Its fingerprints.
    #[must_use]
    pub fn prints(&self) -> &Prints {
        &self.prints
    }

    /// What the file system said of the files when they were read.
    #[must_use]
    pub fn stamp(&self) -> &Stamp {
        &self.stamp
    }
}

fn or_note<T>(found: Result<T, MaterialFault>, faults: &mut Vec<MaterialFault>) -> Option<T> {
    found.map_err(|fault| faults.push(fault)).ok()
}

type Certificates = Vec<(CertificateDer<'static>, About)>;

/// The certificates of a file, with what they say.
fn certificates(purpose: Purpose, path: &Path) -> Result<Certificates, MaterialFault> {
    let fault = |why| MaterialFault::new(purpose, path, why);
    let bytes = read(purpose, path)?;
    let mut found = Vec::new();
    for (der, number) in CertificateDer::pem_slice_iter(&bytes).zip(1..) {
        let unusable = |why: String| fault(FileFault::Unusable(format!("certificate {number} of it: {why}")));
        let der = der.map_err(|error| unusable(error.to_string()))?;
        let about = About::read(&der).map_err(unusable)?;
        if purpose == Purpose::Ca && (!about.is_ca || webpki::anchor_from_trusted_cert(&der).is_err()) {
            return Err(unusable(format!("{} is that of no CA", about.named)));
        }
        if found.len() == MOST_CAS {
            return Err(fault(FileFault::Unusable(format!("it has more than {MOST_CAS} certificates"))));
        }
        found.push((der, about));
    }
    if found.is_empty() { Err(fault(FileFault::Empty)) } else { Ok(found) }
}

#[allow(clippy::wildcard_enum_match_arm, reason = "whatever else is wrong with PEM is told in its words")]
fn key(path: &Path) -> Result<PrivateKeyDer<'static>, MaterialFault> {
    let fault = |why| MaterialFault::new(Purpose::Key, path, why);
    let bytes = read(Purpose::Key, path)?;
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| match error {
        rustls::pki_types::pem::Error::NoItemsFound => fault(FileFault::Empty),
        other => fault(FileFault::Unusable(other.to_string())),
    })
}

/// Our certificate with its key.
fn pair(
    files: &TlsFiles,
    chain: Certificates,
    key: &PrivateKeyDer<'static>,
) -> Result<(CertifiedKey, About), MaterialFault> {
    let of_key = |why| MaterialFault::new(Purpose::Key, &files.key, why);
    let of_cert = |why| MaterialFault::new(Purpose::Certificate, &files.cert, why);
    let about = chain.first().map(|(_, about)| about.clone()).ok_or_else(|| of_cert(FileFault::Empty))?;
    // A wildcard means nobody.
    let is_meant = |san: &San| !matches!(san, San::Dns(name) if name.contains('*'));
    if !about.sans.iter().any(is_meant) {
        return Err(of_cert(FileFault::Nameless));
    }
    let signer = any_supported_type(key).map_err(|error| of_key(FileFault::Unusable(error.to_string())))?;
    let own = CertifiedKey::new(chain.into_iter().map(|(der, _)| der).collect(), signer);
    match own.keys_match() {
        Ok(()) => Ok((own, about)),
        Err(Error::InconsistentKeys(_)) => Err(of_key(FileFault::OfAnother)),
        Err(other) => Err(of_cert(FileFault::Unusable(other.to_string()))),
    }
}

/// The lists of revoked certificates, with their bytes, and the files that are not there.
fn read_lists(
    paths: &[PathBuf],
    rules: CrlRules,
    faults: &mut Vec<MaterialFault>,
) -> (Vec<(Crl, Vec<u8>)>, Vec<PathBuf>) {
    let (mut crls, mut absent) = (Vec::new(), Vec::new());
    for path in paths {
        match read(Purpose::Crl, path) {
            Err(fault) if fault.why == FileFault::Missing && rules.missing == OnCrl::Accept => {
                absent.push(path.clone());
            }
            Err(fault) => faults.push(fault),
            Ok(bytes) => crls.extend(or_note(lists(path, &bytes), faults).unwrap_or_default()),
        }
    }
    (crls, absent)
}

/// The lists of a file: in PEM, or one in DER, as CAs hand them out.
fn lists(path: &Path, bytes: &[u8]) -> Result<Vec<(Crl, Vec<u8>)>, MaterialFault> {
    let fault = |why| MaterialFault::new(Purpose::Crl, path, why);
    let ders: Vec<Vec<u8>> = if bytes.first() == Some(&SEQUENCE) {
        vec![bytes.to_vec()]
    } else {
        CertificateRevocationListDer::pem_slice_iter(bytes)
            .map(|der| der.map(|der| der.to_vec()))
            .collect::<Result<_, _>>()
            .map_err(|error| fault(FileFault::Unusable(error.to_string())))?
    };
    if ders.is_empty() {
        return Err(fault(FileFault::Empty));
    }
    ders.into_iter()
        .map(|der| {
            let crl = Crl::read(&CrlFile { path: path.to_owned(), der: der.clone() });
            crl.map(|crl| (crl, der)).map_err(|why| fault(FileFault::Unusable(why)))
        })
        .collect()
}

/// The first byte of anything in DER that is a structure.
const SEQUENCE: u8 = 0x30;

/// Whether an order counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Counts,
    IsNothing,
}

fn print<'a>(parts: impl Iterator<Item = &'a [u8]>, order: Order) -> String {
    let mut prints: Vec<Vec<u8>> = parts.map(sha256).collect();
    if order == Order::IsNothing {
        prints.sort_unstable();
        prints.dedup();
    }
    hex(&sha256(&prints.concat()))
}
