//! What certificates and lists are, and what they may be used for, as documents.
//!
//! Everything here is of any CA. Texts in the documents are as others wrote them: whoever shows them escapes them.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rcgen::{KeyPair, PublicKeyData};
use serde::Serialize;

use super::authority::{CERTIFICATE, CRL};
use super::clock::written;
use super::error::Error;
use super::index::Index;
use super::read::{CrlFacts, Facts, Part, certificate, crl, parts};
use super::store::{LARGEST_CERTIFICATE, LARGEST_LIST, failed, read, read_with_mode};
use super::verify::{accepted, fingerprint};

/// The most files of a directory that are shown.
const MOST_FILES: usize = 10_000;

/// What is to be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// Everything in the directory.
    All,
    /// What the CA has issued for a name.
    Name(String),
    /// A file.
    File(PathBuf),
}

/// A certificate or a list of revoked ones.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Document {
    /// A certificate.
    Certificate(Box<CertificateDocument>),
    /// A list of revoked certificates.
    Crl(CrlDocument),
}

/// A certificate.
#[derive(Debug, Clone, Serialize)]
pub struct CertificateDocument {
    /// Its file.
    pub file: String,
    /// Whom it is for.
    pub subject: String,
    /// What it calls its holder: a guard compares these.
    pub names: Vec<NameDocument>,
    /// Who signed it.
    pub issuer: String,
    /// Its serial number, in hexadecimal digits.
    pub serial: String,
    /// When it begins (RFC 3339).
    pub not_before: String,
    /// When it ends (RFC 3339).
    pub not_after: String,
    /// Whether it is valid by its time.
    pub validity: Validity,
    /// Seconds until it ends, or begins if it has not; since it has ended they are below 0.
    pub remaining_seconds: f64,
    /// Whether it is that of a CA.
    pub authority: bool,
    /// How many CAs may stand between this one and a certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_length: Option<u32>,
    /// What its key may be used for (keyUsage); none: it does not say.
    pub key_usage: Vec<String>,
    /// What it may be presented for (extendedKeyUsage); none: it does not say.
    pub extended_key_usage: Vec<String>,
    /// Its key.
    pub key: KeyDocument,
    /// Whether it is revoked.
    pub revocation: RevocationState,
    /// When it was revoked (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revoked_at: Option<String>,
    /// SHA-256 of the certificate.
    pub fingerprint_sha256: String,
    /// Why no guard would take it from a peer; none: as far as can be seen from here, one would. Not for that of a CA.
    pub obstacles: Vec<String>,
    /// The CA that the obstacles were looked for with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checked_with: Option<String>,
}

/// A name in a certificate.
#[derive(Debug, Clone, Serialize)]
pub struct NameDocument {
    /// `DNS`, `IP`, `URI`, or one that guards do not look at.
    pub kind: &'static str,
    /// The name.
    pub value: String,
}

/// Whether a certificate is valid by its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Validity {
    /// It is.
    Valid,
    /// It was.
    Expired,
    /// It will be.
    NotYetValid,
}

/// Whether a certificate is revoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RevocationState {
    /// A list of its issuer is here, and it is not on it.
    Good,
    /// It is on a list of its issuer.
    Revoked,
    /// No list of its issuer is here.
    Unknown,
}

/// The key of a certificate.
#[derive(Debug, Clone, Serialize)]
pub struct KeyDocument {
    /// What kind of key it is.
    pub algorithm: String,
    /// Whether the private key is beside the certificate.
    pub state: KeyState,
    /// Its file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Why it cannot be read, or who else can.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// Whether a private key is beside a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyState {
    /// It is there, and belongs to it.
    Matches,
    /// It is there, and belongs to another one.
    Differs,
    /// None is there.
    Absent,
    /// It cannot be read.
    Unreadable,
}

/// A list of revoked certificates.
#[derive(Debug, Clone, Serialize)]
pub struct CrlDocument {
    /// Its file.
    pub file: String,
    /// Who signed it.
    pub issuer: String,
    /// Its number, which grows with each list.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub number: Option<u64>,
    /// When it was made (RFC 3339).
    pub this_update: String,
    /// Until when there is to be a new one (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_update: Option<String>,
    /// Seconds until then; since it is past they are below 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remaining_seconds: Option<f64>,
    /// What is revoked.
    pub revoked: Vec<Revoked>,
}

/// A certificate on a list.
#[derive(Debug, Clone, Serialize)]
pub struct Revoked {
    /// Its serial number, in hexadecimal digits.
    pub serial: String,
    /// When it was revoked (RFC 3339).
    pub at: String,
    /// The code of the reason (RFC 5280, section 5.3.1).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<u8>,
    /// What its files are called, where this CA's index is at hand.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// What is in the directory of a CA, or of a host, besides what is shown.
struct Around {
    authorities: Vec<Vec<u8>>,
    authority_file: Option<PathBuf>,
    lists: Vec<CrlFacts>,
    index: Option<Index>,
}

/// Reads what is to be shown. A directory need not have a CA in it.
pub fn show(directory: &Path, subject: &Subject, now: SystemTime) -> Result<Vec<Document>, Error> {
    let files = match subject {
        Subject::All => all(directory)?,
        Subject::File(path) => vec![path.clone()],
        Subject::Name(name) => {
            let stem = Index::read(directory)?.stem_of(name)?;
            vec![directory.join(format!("{stem}.crt"))]
        }
    };
    let mut documents = Vec::new();
    for file in files {
        // What belongs to a file stands beside it, or else in the directory.
        let beside = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let around = Around::read(&[beside, directory]);
        documents.extend(document(&file, &around, now)?);
    }
    Ok(documents)
}

/// The certificates and lists of a directory, the CA first.
fn all(directory: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = std::fs::read_dir(directory).map_err(failed(directory, "read"))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed(directory, "read"))?.path();
        let is_hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        let is_shown = path.extension().is_some_and(|ending| ending == "crt" || ending == "pem");
        if is_shown && !is_hidden && files.len() < MOST_FILES {
            files.push(path);
        }
    }
    let rank = |path: &PathBuf| !(path.ends_with(CERTIFICATE) || path.ends_with(CRL));
    files.sort_by_key(|path| (rank(path), path.clone()));
    if files.is_empty() {
        return Err(Error::NoAuthority { directory: directory.to_owned(), missing: CERTIFICATE });
    }
    Ok(files)
}

impl Around {
    /// What the first of these directories has of each kind. What cannot be read is not there.
    fn read(directories: &[&Path]) -> Self {
        let found = |name: &str| {
            directories.iter().map(|directory| directory.join(name)).find_map(|path| {
                let found = parts(&read(&path, LARGEST_LIST).ok()?).ok()?;
                Some((path, found))
            })
        };
        let of_certificates = |found: Vec<Part>| -> Vec<Vec<u8>> {
            let certificates = found.into_iter().filter_map(|part| match part {
                Part::Certificate(der) => Some(der),
                Part::Crl(_) | Part::Key(_) => None,
            });
            certificates.collect()
        };
        let (authority_file, authorities) =
            found(CERTIFICATE).map(|(path, found)| (Some(path), of_certificates(found))).unwrap_or_default();
        let lists = found(CRL).map(|(_, found)| lists(&found)).unwrap_or_default();
        let index = directories.iter().find_map(|directory| Index::read(directory).ok());
        Self { authorities, authority_file, lists, index }
    }
}

fn lists(found: &[Part]) -> Vec<CrlFacts> {
    let lists = found.iter().filter_map(|part| match part {
        Part::Crl(der) => crl(der).ok(),
        Part::Certificate(_) | Part::Key(_) => None,
    });
    lists.collect()
}

/// The documents of one file.
fn document(file: &Path, around: &Around, now: SystemTime) -> Result<Vec<Document>, Error> {
    let bad = |why| Error::BadFile { path: file.to_owned(), why };
    let found = parts(&read(file, LARGEST_LIST)?).map_err(bad)?;
    let certificates: Vec<Vec<u8>> = found
        .iter()
        .filter_map(|part| match part {
            Part::Certificate(der) => Some(der.clone()),
            Part::Crl(_) | Part::Key(_) => None,
        })
        .collect();
    let between = certificates.get(1..).unwrap_or_default();
    let own_lists = lists(&found);
    let mut documents = Vec::new();
    for part in &found {
        match part {
            Part::Certificate(der) => {
                let facts = certificate(der).map_err(bad)?;
                let mut document = describe(file, der, &facts, now);
                let is_first = certificates.first() == Some(der);
                if is_first {
                    document.key = key(file, &found, &facts);
                }
                let mut lists = own_lists.iter().chain(&around.lists);
                revocation(&mut document, &facts, &mut lists);
                if is_first && !facts.is_authority {
                    obstacles(&mut document, &facts);
                    check(&mut document, der, between, (around, now));
                }
                documents.push(Document::Certificate(Box::new(document)));
            }
            Part::Crl(der) => {
                let facts = crl(der).map_err(bad)?;
                documents.push(Document::Crl(list(file, facts, around.index.as_ref(), now)));
            }
            Part::Key(_) => {}
        }
    }
    if documents.is_empty() {
        return Err(bad("has neither a certificate nor a list of revoked certificates in it".to_owned()));
    }
    Ok(documents)
}

fn describe(file: &Path, der: &[u8], facts: &Facts, now: SystemTime) -> CertificateDocument {
    let (validity, remaining_seconds) = if now < facts.from {
        (Validity::NotYetValid, between(now, facts.from))
    } else if now > facts.until {
        (Validity::Expired, between(now, facts.until))
    } else {
        (Validity::Valid, between(now, facts.until))
    };
    let names = facts.names.iter().map(|(kind, value)| NameDocument { kind, value: value.clone() });
    CertificateDocument {
        file: file.display().to_string(),
        subject: facts.subject.clone(),
        names: names.collect(),
        issuer: facts.issuer.clone(),
        serial: facts.serial.clone(),
        not_before: written(facts.from),
        not_after: written(facts.until),
        validity,
        remaining_seconds,
        authority: facts.is_authority,
        path_length: facts.path_length,
        key_usage: facts.key_usage.iter().flatten().map(|usage| (*usage).to_owned()).collect(),
        extended_key_usage: facts.extended_usage.clone().unwrap_or_default(),
        key: KeyDocument {
            algorithm: facts.algorithm.clone(),
            state: KeyState::Absent,
            file: None,
            detail: None,
        },
        revocation: RevocationState::Unknown,
        revoked_at: None,
        fingerprint_sha256: fingerprint(der),
        obstacles: Vec::new(),
        checked_with: None,
    }
}

/// Seconds from a moment to another, below 0 if that is earlier.
fn between(from: SystemTime, to: SystemTime) -> f64 {
    match to.duration_since(from) {
        Ok(left) => left.as_secs_f64(),
        Err(error) => -error.duration().as_secs_f64(),
    }
}

/// The private key: in the same file, or in one beside it that is called as it is usual.
fn key(file: &Path, found: &[Part], facts: &Facts) -> KeyDocument {
    let document = |state, file: Option<&Path>, detail: Option<String>| KeyDocument {
        algorithm: facts.algorithm.clone(),
        state,
        file: file.map(|file| file.display().to_string()),
        detail,
    };
    let belongs =
        |der: &[u8]| KeyPair::try_from(der).map(|key| key.subject_public_key_info() == facts.public_key).ok();
    let judge = |found: &[Part], at: &Path, mode: u32| {
        let der = found.iter().find_map(|part| match part {
            Part::Key(der) => Some(der),
            Part::Certificate(_) | Part::Crl(_) => None,
        })?;
        let open = (mode & 0o007 != 0).then(|| format!("mode {mode:04o}: anybody on this host can use it"));
        Some(match belongs(der) {
            Some(true) => document(KeyState::Matches, Some(at), open),
            Some(false) => document(KeyState::Differs, Some(at), open),
            None => document(
                KeyState::Unreadable,
                Some(at),
                Some("it is of a kind that is not known here".into()),
            ),
        })
    };
    let own_mode = std::fs::metadata(file)
        .map(|about| std::os::unix::fs::MetadataExt::mode(&about) & 0o7777)
        .unwrap_or_default();
    if let Some(document) = judge(found, file, own_mode) {
        return document;
    }
    for path in candidates(file) {
        if std::fs::symlink_metadata(&path).is_err() {
            continue;
        }
        let unreadable = |why: String| document(KeyState::Unreadable, Some(&path), Some(why));
        return match read_with_mode(&path, LARGEST_CERTIFICATE) {
            Ok((bytes, mode)) => match parts(&bytes) {
                Ok(found) => {
                    judge(&found, &path, mode).unwrap_or_else(|| unreadable("no key is in it".into()))
                }
                Err(why) => unreadable(format!("it {why}")),
            },
            Err(Error::Io { source, .. }) => unreadable(source.to_string()),
            Err(error) => unreadable(error.to_string()),
        };
    }
    document(KeyState::Absent, None, None)
}

/// `tls.key` beside `tls.crt`, and `svid_key.pem` or `host-key.pem` beside `svid.pem` and `host.pem`.
fn candidates(file: &Path) -> Vec<PathBuf> {
    let Some(stem) = file.file_stem().and_then(|stem| stem.to_str()) else { return Vec::new() };
    let names = [format!("{stem}.key"), format!("{stem}_key.pem"), format!("{stem}-key.pem")];
    names.into_iter().map(|name| file.with_file_name(name)).collect()
}

fn revocation(document: &mut CertificateDocument, facts: &Facts, lists: &mut dyn Iterator<Item = &CrlFacts>) {
    for list in lists.filter(|list| list.issuer_der == facts.issuer_der) {
        match list.revoked.iter().find(|revoked| revoked.serial == facts.serial) {
            Some(revoked) => {
                document.revocation = RevocationState::Revoked;
                document.revoked_at = Some(written(revoked.at));
                return;
            }
            None => document.revocation = RevocationState::Good,
        }
    }
}

/// Why no guard would take the certificate, by what it says itself.
fn obstacles(document: &mut CertificateDocument, facts: &Facts) {
    let mut found = Vec::new();
    match document.validity {
        Validity::Valid => {}
        Validity::Expired => found.push("it has expired".to_owned()),
        Validity::NotYetValid => found.push("it is not valid yet".to_owned()),
    }
    if document.revocation == RevocationState::Revoked {
        found.push("it is revoked".to_owned());
    }
    if !facts.names.iter().any(|(kind, _)| ["DNS", "IP", "URI"].contains(kind)) {
        found.push("it has no DNS, IP or URI name that a [[peer]] could be known by".to_owned());
    }
    if let Some(usage) = &facts.extended_usage {
        let missing =
            ["clientAuth", "serverAuth"].into_iter().filter(|wanted| !usage.iter().any(|has| has == wanted));
        found.extend(missing.map(|wanted| format!("it is not for {wanted} (extendedKeyUsage)")));
    }
    if document.key.state == KeyState::Differs {
        found.push("the key beside it is that of another certificate".to_owned());
    }
    document.obstacles = found;
}

/// Has the library of the guards look at it, with the CA that is here.
fn check(
    document: &mut CertificateDocument,
    der: &[u8],
    between: &[Vec<u8>],
    (around, now): (&Around, SystemTime),
) {
    let Some(file) = &around.authority_file else { return };
    document.checked_with = Some(file.display().to_string());
    if document.obstacles.is_empty()
        && let Err(why) = accepted(der, between, &around.authorities, now)
    {
        document.obstacles.push(format!("{} does not vouch for it: {why}", file.display()));
    }
}

fn list(file: &Path, facts: CrlFacts, index: Option<&Index>, now: SystemTime) -> CrlDocument {
    let name = |serial: &str| {
        let known = index?.records.iter().find(|record| record.serial == serial)?;
        Some(known.stem.clone())
    };
    let revoked = facts.revoked.iter().map(|revoked| Revoked {
        serial: revoked.serial.clone(),
        at: written(revoked.at),
        reason: revoked.reason,
        name: name(&revoked.serial),
    });
    CrlDocument {
        file: file.display().to_string(),
        issuer: facts.issuer.clone(),
        number: facts.number,
        this_update: written(facts.from),
        next_update: facts.until.map(written),
        remaining_seconds: facts.until.map(|until| between(now, until)),
        revoked: revoked.collect(),
    }
}
