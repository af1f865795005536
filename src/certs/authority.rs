//! The CA: made once, opened for each command.

use std::path::Path;
use std::time::SystemTime;

use rcgen::{Issuer, KeyPair, PublicKeyData};
use rustls::pki_types::CertificateDer;
use zeroize::Zeroizing;

use super::LONGEST_CLUSTER;
use super::clock::{days_later, written};
use super::error::Error;
use super::index::{self, Index};
use super::make::{self, Span};
use super::read::{Facts, Part, RevokedFact, certificate, crl, parts};
use super::store::{Former, Kept, LARGEST_CERTIFICATE, LARGEST_LIST, Store, read, read_key};

/// The certificate of the CA.
pub(super) const CERTIFICATE: &str = "ca.crt";
/// Its key.
pub(super) const KEY: &str = "ca.key";
/// The list of revoked certificates.
pub(super) const CRL: &str = "crl.pem";

/// A CA, with no other command at work in its directory.
#[derive(Debug)]
pub struct Authority {
    pub(super) store: Store,
    pub(super) index: Index,
    pub(super) der: Vec<u8>,
    pub(super) facts: Facts,
    pub(super) key_id: Vec<u8>,
    key: Zeroizing<KeyPair>,
}

/// Makes a CA in a directory, which is made, too, where it is not there. Nothing that is there is overwritten.
pub fn init(directory: &Path, cluster: &str, days: u32, now: SystemTime) -> Result<Authority, Error> {
    let length = cluster.chars().count();
    if cluster.trim() != cluster
        || !(1..=LONGEST_CLUSTER).contains(&length)
        || cluster.contains(char::is_control)
    {
        return Err(Error::Cluster(cluster.to_owned()));
    }
    let store = Store::create(directory)?;
    if let Some(there) = [CERTIFICATE, KEY, CRL, index::FILE].iter().find(|name| store.has(name)) {
        return Err(Error::AuthorityExists(store.place(there)));
    }
    let key = make::key()?;
    let text = make::authority(cluster, Span { now, until: days_later(now, days)? }, &key)?;
    store.write(KEY, make::key_text(&key).as_bytes(), Kept::Private, Former::Stays)?;
    Index::new().write(&store, Former::Stays)?;
    // Last: what has a certificate is a CA.
    store.write(CERTIFICATE, text.as_bytes(), Kept::Public, Former::Stays)?;
    let mut authority = Authority::of(store, now)?;
    authority.publish(now)?;
    Ok(authority)
}

impl Authority {
    /// Opens the CA of a directory.
    pub fn open(directory: &Path, now: SystemTime) -> Result<Self, Error> {
        if std::fs::symlink_metadata(directory)
            .is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
        {
            return Err(Error::NoAuthority { directory: directory.to_owned(), missing: CERTIFICATE });
        }
        let store = Store::open(directory)?;
        Self::of(store, now)
    }

    fn of(store: Store, now: SystemTime) -> Result<Self, Error> {
        if let Some(missing) = [CERTIFICATE, KEY, index::FILE].into_iter().find(|name| !store.has(name)) {
            return Err(Error::NoAuthority { directory: store.path().to_owned(), missing });
        }
        let path = store.place(CERTIFICATE);
        let bad = |why| Error::BadFile { path: path.clone(), why };
        let found = parts(&read(&path, LARGEST_CERTIFICATE)?).map_err(bad)?;
        let der = match found.as_slice() {
            [Part::Certificate(der)] => der.clone(),
            _ => return Err(bad("has something else in it than one certificate".to_owned())),
        };
        let facts = certificate(&der).map_err(bad)?;
        if !facts.is_authority {
            return Err(bad("is not the certificate of a CA".to_owned()));
        }
        let key = parse_key(&store, &facts)?;
        if now > facts.until {
            return Err(Error::AuthorityExpired { path, until: written(facts.until) });
        }
        if now < facts.from {
            return Err(Error::AuthorityNotYetValid { path, from: written(facts.from), now: written(now) });
        }
        let Some(key_id) = facts.key_id.clone() else {
            return Err(bad("does not name its key (subjectKeyIdentifier)".to_owned()));
        };
        let index = Index::read(store.path())?;
        Ok(Self { store, index, der, facts, key_id, key })
    }

    /// The name of the CA, as its certificates have it.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.facts.subject
    }

    /// When the CA ends.
    #[must_use]
    pub fn until(&self) -> SystemTime {
        self.facts.until
    }

    pub(super) fn issuer(&self) -> Result<Issuer<'static, &KeyPair>, Error> {
        Ok(Issuer::from_ca_cert_der(&CertificateDer::from(self.der.as_slice()), &*self.key)?)
    }

    /// Writes the list of revoked certificates anew: those that the index has, and those on the list that is there.
    /// When it ceases to be current.
    pub(super) fn publish(&mut self, now: SystemTime) -> Result<SystemTime, Error> {
        let (former, number) = self.former_crl()?;
        let recorded = self.index.records.iter().filter_map(|record| {
            Some(RevokedFact { serial: record.serial.clone(), at: record.revoked?, reason: None })
        });
        let mut revoked: Vec<RevokedFact> = former;
        let listed: std::collections::HashSet<String> =
            revoked.iter().map(|revoked| revoked.serial.clone()).collect();
        revoked.extend(recorded.filter(|revoked| !listed.contains(&revoked.serial)));
        let number = number.max(self.index.crl_number).checked_add(1).ok_or_else(|| Error::BadFile {
            path: self.store.place(CRL),
            why: "has the highest number that there is".to_owned(),
        })?;
        let until = days_later(now, self.index.crl_days)?;
        let text = make::crl(number, &revoked, Span { now, until }, &self.key_id, &self.issuer()?)?;
        // Its number counts from here on, whether or not the list is written.
        self.index.crl_number = number;
        self.index.write(&self.store, Former::Goes)?;
        self.store.write(CRL, text.as_bytes(), Kept::Public, Former::Goes)?;
        Ok(until)
    }

    /// What is on the list that is there, and its number.
    fn former_crl(&self) -> Result<(Vec<RevokedFact>, u64), Error> {
        if !self.store.has(CRL) {
            return Ok((Vec::new(), 0));
        }
        let path = self.store.place(CRL);
        let bad = |why| Error::BadFile { path: path.clone(), why };
        let found = parts(&read(&path, LARGEST_LIST)?).map_err(bad)?;
        let [Part::Crl(der)] = found.as_slice() else {
            return Err(bad("has something else in it than one list of revoked certificates".to_owned()));
        };
        let facts = crl(der).map_err(bad)?;
        if facts.issuer_der != self.facts.subject_der {
            return Err(bad(format!("is the list of another CA, {}", facts.issuer)));
        }
        let number = facts.number.ok_or_else(|| bad("has no number that can be counted on".to_owned()))?;
        Ok((facts.revoked, number))
    }
}

/// The key of the CA, which belongs to its certificate.
fn parse_key(store: &Store, facts: &Facts) -> Result<Zeroizing<KeyPair>, Error> {
    let path = store.place(KEY);
    let bad = |why: &str| Error::BadFile { path: path.clone(), why: why.to_owned() };
    let text = read_key(&path)?;
    let found = parts(&text).map_err(|why| bad(&why))?;
    let [Part::Key(der)] = found.as_slice() else {
        return Err(bad("has something else in it than one private key"));
    };
    let key = KeyPair::try_from(der.as_slice()).map_err(|_| bad("has a key that cannot be read"))?;
    let key = Zeroizing::new(key);
    if key.subject_public_key_info() != facts.public_key {
        return Err(bad("is not the key of ca.crt"));
    }
    Ok(key)
}
