//! Issuing and renewing.
//!
//! Everything is asked and made before anything is written, so that a mistake in the last name leaves nothing behind
//! of the first.

use std::path::PathBuf;
use std::time::SystemTime;

use rcgen::{KeyPair, SubjectPublicKeyInfo};
use zeroize::Zeroizing;

use super::authority::Authority;
use super::clock::{days_later, written};
use super::error::Error;
use super::index::Record;
use super::make::{self, Span};
use super::name::Name;
use super::read::{Part, certificate, parts};
use super::store::{Former, Kept, LARGEST_CERTIFICATE, Staged, read};
use super::verify::accepted;

/// A certificate that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Its names; the first is the one that its files are called by.
    pub names: Vec<Name>,
    /// How long it is to be valid, in days.
    pub days: u32,
}

/// What becomes of files that are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// They stay, and nothing is issued.
    Stays,
    /// They are replaced.
    Replaced,
}

/// Which key a renewed certificate is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyChoice {
    /// A new one, which is written beside it.
    New,
    /// That of the certificate that is renewed, which need not be here.
    Kept,
}

/// How certificates are renewed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Renewal {
    /// How long they are to be valid, in days; `None`: as long as those before.
    pub days: Option<u32>,
    /// Their keys.
    pub key: KeyChoice,
}

/// A certificate that was issued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// Its file.
    pub certificate: PathBuf,
    /// The file of its key, if one was written.
    pub key: Option<PathBuf>,
    /// Its names.
    pub names: Vec<Name>,
    /// When it ends.
    pub until: SystemTime,
    /// It ends with the CA, before the time that was asked for.
    pub cut_short: bool,
    /// Serial numbers and ends of earlier certificates for the same name that are neither expired nor revoked.
    pub former: Vec<(String, SystemTime)>,
}

/// A certificate that is made and not written.
struct Draft {
    record: Record,
    text: String,
    key: Option<Zeroizing<KeyPair>>,
    cut_short: bool,
}

impl Authority {
    /// Issues certificates with new keys.
    pub fn issue(
        &mut self,
        requests: &[Request],
        existing: Existing,
        now: SystemTime,
    ) -> Result<Vec<Issued>, Error> {
        let mut drafts: Vec<Draft> = Vec::new();
        for request in requests {
            let Some(name) = request.names.first() else { continue };
            let stem = name.stem();
            if drafts.iter().any(|draft| draft.record.names.first() == Some(name)) {
                return Err(Error::Twice(name.to_string()));
            }
            if let Some(other) = self.other_of(&stem, name, &drafts) {
                return Err(Error::SameFiles { name: name.to_string(), stem, other });
            }
            let there = files(&stem).into_iter().find(|file| self.store.has(file));
            if let (Some(file), Existing::Stays) = (there, existing) {
                return Err(Error::Exists(self.store.place(&file)));
            }
            drafts.push(self.draft(&stem, request, None, now)?);
        }
        let former = match existing {
            Existing::Stays => Former::Stays,
            Existing::Replaced => Former::Goes,
        };
        self.put(drafts, former, now)
    }

    /// Issues certificates for the names of earlier ones. The names are those of the certificates or of their files.
    pub fn renew(&mut self, names: &[String], how: Renewal, now: SystemTime) -> Result<Vec<Issued>, Error> {
        let mut drafts = Vec::new();
        for stem in self.stems(names)? {
            let Some(last) = self.index.of_stem(&stem).next_back() else { continue };
            if let Some(at) = last.revoked {
                let name = last.names.first().map(Name::to_string).unwrap_or(stem);
                return Err(Error::Revoked { name, at: written(at) });
            }
            let request = Request { names: last.names.clone(), days: how.days.unwrap_or(last.days) };
            let kept = match how.key {
                KeyChoice::New => None,
                KeyChoice::Kept => Some(self.public_key(&stem)?),
            };
            drafts.push(self.draft(&stem, &request, kept, now)?);
        }
        self.put(drafts, Former::Goes, now)
    }

    /// What the files of all certificates are called of which the last one is not revoked.
    #[must_use]
    pub fn renewable(&self) -> Vec<String> {
        let mut last: Vec<&Record> = Vec::new();
        for record in &self.index.records {
            last.retain(|other| other.stem != record.stem);
            last.push(record);
        }
        last.retain(|record| record.revoked.is_none());
        last.into_iter().map(|record| record.stem.clone()).collect()
    }

    /// Another name whose files are, or are about to be, called so.
    fn other_of(&self, stem: &str, name: &Name, drafts: &[Draft]) -> Option<String> {
        let made = drafts.iter().map(|draft| &draft.record).filter(|record| record.stem == stem);
        let known = self.index.of_stem(stem).chain(made).filter_map(|record| record.names.first());
        known.into_iter().find(|other| *other != name).map(Name::to_string)
    }

    /// What the files are called of the certificates that these texts mean.
    pub(super) fn stems(&self, names: &[String]) -> Result<Vec<String>, Error> {
        let mut stems = Vec::new();
        for name in names {
            let stem = self.index.stem_of(name)?;
            if stems.contains(&stem) {
                return Err(Error::Twice(name.clone()));
            }
            stems.push(stem);
        }
        Ok(stems)
    }

    /// The public key of the certificate that is there. It need not be the last one of the index, which may have never
    /// come to be a file, but it must be one of them.
    fn public_key(&self, stem: &str) -> Result<SubjectPublicKeyInfo, Error> {
        let path = self.store.place(&certificate_file(stem));
        let bad = |why: String| Error::BadFile { path: path.clone(), why };
        let found = parts(&read(&path, LARGEST_CERTIFICATE)?).map_err(bad)?;
        let Some(Part::Certificate(der)) = found.first() else {
            return Err(bad("does not begin with a certificate".to_owned()));
        };
        let facts = certificate(der).map_err(bad)?;
        let is_it = |record: &Record| record.serial == facts.serial && record.revoked.is_none();
        if !self.index.of_stem(stem).any(is_it) {
            return Err(bad(
                "is no certificate that this CA has issued for this name and not revoked".to_owned()
            ));
        }
        Ok(SubjectPublicKeyInfo::from_der(&facts.public_key)?)
    }

    /// Makes a certificate, and sees that a guard would take it.
    fn draft(
        &self,
        stem: &str,
        request: &Request,
        kept: Option<SubjectPublicKeyInfo>,
        now: SystemTime,
    ) -> Result<Draft, Error> {
        let asked = days_later(now, request.days)?;
        let until = asked.min(self.until());
        let (span, serial, issuer) = (Span { now, until }, make::serial()?, self.issuer()?);
        let (made, key) = match kept {
            Some(key) => (make::host(&request.names, &serial, span, &key, &issuer)?, None),
            None => {
                let key = make::key()?;
                (make::host(&request.names, &serial, span, &*key, &issuer)?, Some(key))
            }
        };
        accepted(made.der(), &[], std::slice::from_ref(&self.der), now)
            .map_err(|why| Error::Unfit { name: stem.to_owned(), why })?;
        let record = Record {
            stem: stem.to_owned(),
            names: request.names.clone(),
            serial,
            issued: now,
            until,
            days: request.days,
            revoked: None,
        };
        Ok(Draft { record, text: made.pem(), key, cut_short: until < asked })
    }

    /// Writes what was made: the index first, so that there is no certificate that it does not have. What is there is
    /// replaced when all that takes its place is on the disk, so that no key is gone before there is another to use.
    fn put(&mut self, drafts: Vec<Draft>, former: Former, now: SystemTime) -> Result<Vec<Issued>, Error> {
        let is_open = |record: &&Record| record.revoked.is_none() && record.until > now;
        let earlier: Vec<Vec<(String, SystemTime)>> = drafts
            .iter()
            .map(|draft| {
                let open = self.index.of_stem(&draft.record.stem).filter(is_open);
                open.map(|record| (record.serial.clone(), record.until)).collect()
            })
            .collect();
        self.index.records.extend(drafts.iter().map(|draft| draft.record.clone()));
        self.publish(now)?;
        let staged = drafts.iter().map(|draft| self.stage(draft)).collect::<Result<Vec<_>, _>>()?;
        let mut issued = Vec::new();
        for ((draft, (certificate, key)), former_ones) in drafts.into_iter().zip(staged).zip(earlier) {
            let key = key.map(|key| key.put(former)).transpose()?;
            let certificate = certificate.put(former)?;
            self.store.settle()?;
            let Draft { record, cut_short, .. } = draft;
            issued.push(Issued {
                certificate,
                key,
                names: record.names,
                until: record.until,
                cut_short,
                former: former_ones,
            });
        }
        Ok(issued)
    }

    /// Writes a certificate, and its key if there is a new one, beside their places.
    fn stage(&self, draft: &Draft) -> Result<(Staged, Option<Staged>), Error> {
        let [certificate, key_file] = files(&draft.record.stem);
        let key = draft
            .key
            .as_ref()
            .map(|key| self.store.stage(&key_file, make::key_text(key).as_bytes(), Kept::Private));
        let key = key.transpose()?;
        Ok((self.store.stage(&certificate, draft.text.as_bytes(), Kept::Public)?, key))
    }
}

fn certificate_file(stem: &str) -> String {
    format!("{stem}.crt")
}

/// The files of a certificate and of its key.
fn files(stem: &str) -> [String; 2] {
    [certificate_file(stem), format!("{stem}.key")]
}
