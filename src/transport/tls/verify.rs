//! Whether a certificate is good: its chain, its time, its use, and whether it was revoked.
//!
//! The same `check` answers rustls in a handshake and whoever asks after it: rustls asks nobody when a session is
//! resumed, and a certificate may have been revoked since. It knows no peer: whose a name is, `policy` says.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible, SignatureScheme};
use webpki::{
    CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage, RevocationOptions,
    RevocationOptionsBuilder, UnknownStatusPolicy,
};

use super::cert_fault::CertFault;
use super::certificate::{About, Certified, sha256};
use super::crl::Crl;
use crate::config::{CrlRules, OnCrl};

/// Certificates in one chain that are looked at. A chain has one or two beside the CA's.
const LONGEST_CHAIN: usize = 8;
/// Chains that are remembered as good.
const REMEMBERED: usize = 1024;

/// What a certificate is used as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Usage {
    /// That of who dials (clientAuth).
    Client,
    /// That of who is dialled (serverAuth).
    Server,
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Client => "dialling (clientAuth)",
            Self::Server => "being dialled (serverAuth)",
        })
    }
}

impl Usage {
    pub(super) fn key_usage(self) -> KeyUsage {
        match self {
            Self::Client => KeyUsage::client_auth(),
            Self::Server => KeyUsage::server_auth(),
        }
    }
}

/// A CA that is trusted, and its lists of revoked certificates.
#[derive(Debug)]
pub(super) struct Anchor {
    pub(super) trust: TrustAnchor<'static>,
    pub(super) about: About,
    /// Of those of the verifier, newest first; behind them those of issuers that are not in the file.
    pub(super) lists: Vec<usize>,
}

/// What the lists of revoked certificates are, and what they do that do not say all.
#[derive(Debug)]
pub(super) struct Revocation {
    pub(super) crls: Vec<Crl>,
    pub(super) rules: CrlRules,
    /// `crl` is set: without a list there is no telling.
    pub(super) wanted: OnCrl,
}

/// What certificates are checked by.
pub struct Verifier {
    anchors: Vec<Anchor>,
    revocation: Revocation,
    algorithms: WebPkiSupportedAlgorithms,
    good: Mutex<HashMap<Vec<u8>, Good>>,
}

/// A chain that was found good, and when that holds. Nothing else that it depends on can change in one verifier.
#[derive(Debug, Clone)]
struct Good {
    certified: Arc<Certified>,
    from: UnixTime,
    until: UnixTime,
}

thread_local! {
    /// Why the verifier has refused a certificate in the step of a handshake that this thread is in. rustls' error has
    /// no place for it that does not change the alert.
    static REFUSED: RefCell<Option<CertFault>> = const { RefCell::new(None) };
}

/// Why the last certificate was refused on this thread.
pub(super) fn take_refused() -> Option<CertFault> {
    REFUSED.take()
}

impl Verifier {
    pub(super) fn new(
        anchors: Vec<Anchor>,
        revocation: Revocation,
        algorithms: WebPkiSupportedAlgorithms,
    ) -> Self {
        Self { anchors, revocation, algorithms, good: Mutex::default() }
    }

    /// Whether the certificate at the front of a chain is good now: after every handshake, resumed or not.
    ///
    /// # Errors
    /// It is not.
    pub fn check(
        &self,
        chain: &[CertificateDer<'_>],
        usage: Usage,
        now: UnixTime,
    ) -> Result<Arc<Certified>, CertFault> {
        let (leaf, others) = chain.split_first().ok_or(CertFault::None)?;
        if chain.len() > LONGEST_CHAIN {
            let why = format!("its chain has {} certificates, and {LONGEST_CHAIN} are the most", chain.len());
            return Err(CertFault::Malformed { why });
        }
        let key = key_of(chain, usage);
        if let Some(good) = self.good().get(&key).filter(|good| good.from <= now && now <= good.until) {
            return Ok(good.certified.clone());
        }
        let about = About::read(leaf).map_err(|why| CertFault::Malformed { why })?;
        let anchor = self.verify(leaf, others, &about, (usage, now))?;
        let certified = Arc::new(about.clone().certified(leaf));
        self.remember(key, &certified, &about, (others, anchor));
        Ok(certified)
    }

    fn good(&self) -> std::sync::MutexGuard<'_, HashMap<Vec<u8>, Good>> {
        self.good.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The CA that vouches for it.
    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        about: &About,
        (usage, now): (Usage, UnixTime),
    ) -> Result<&Anchor, CertFault> {
        let malformed = |why| CertFault::Malformed { why };
        let cert = EndEntityCert::try_from(leaf).map_err(|fault| malformed(format!("{fault:?}")))?;
        if about.signs_nothing {
            let why = "its keyUsage does not have digitalSignature".to_owned();
            return Err(CertFault::WrongUse { cert: about.named.clone(), usage, why });
        }
        let mut worst = unknown(about);
        for anchor in &self.anchors {
            match self.verify_by(anchor, &cert, others, (usage, now)) {
                Ok(()) => match self.find_fault(anchor, about, now) {
                    None => return Ok(anchor),
                    Some(fault) => worst = heavier(worst, fault),
                },
                Err(error) => {
                    let case = Case { about, others, anchor, usage, now };
                    worst = heavier(worst, self.fault(&error, &case));
                }
            }
        }
        Err(worst)
    }

    fn verify_by(
        &self,
        anchor: &Anchor,
        cert: &EndEntityCert<'_>,
        others: &[CertificateDer<'_>],
        (usage, now): (Usage, UnixTime),
    ) -> Result<(), webpki::Error> {
        let lists: Vec<&CertRevocationList<'_>> =
            anchor.lists.iter().filter_map(|at| self.revocation.crls.get(*at)).map(|crl| &crl.list).collect();
        let trusted = std::slice::from_ref(&anchor.trust);
        let revocation = self.revocation.options(&lists);
        cert.verify_for_usage(self.algorithms.all, trusted, others, now, usage.key_usage(), revocation, None)
            .map(|_| ())
    }

    /// What webpki does not look at: the time of the CA itself, and that there are no lists at all.
    fn find_fault(&self, anchor: &Anchor, about: &About, now: UnixTime) -> Option<CertFault> {
        let cert = anchor.about.named.clone();
        if now < anchor.about.not_before {
            return Some(CertFault::NotYetValid { cert, not_before: anchor.about.not_before, now });
        }
        if now > anchor.about.not_after {
            return Some(CertFault::Expired { cert, not_after: anchor.about.not_after, now });
        }
        let silent = anchor.lists.is_empty() && self.revocation.wanted == OnCrl::Refuse;
        silent.then(|| CertFault::NoCrl { cert: about.named.clone(), issuer: about.issuer.clone() })
    }

    #[allow(
        clippy::wildcard_enum_match_arm,
        reason = "whatever else breaks a rule of X.509 is told by its name"
    )]
    fn fault(&self, error: &webpki::Error, case: &Case<'_>) -> CertFault {
        let (cert, issuer) = (case.about.named.clone(), case.about.issuer.clone());
        let (usage, now) = (case.usage, case.now);
        match error {
            webpki::Error::CertExpired { not_after, .. } => CertFault::Expired {
                cert: case.named_by(|about| about.not_after == *not_after),
                not_after: *not_after,
                now,
            },
            webpki::Error::CertNotValidYet { not_before, .. } => {
                let cert = case.named_by(|about| about.not_before == *not_before);
                CertFault::NotYetValid { cert, not_before: *not_before, now }
            }
            webpki::Error::CertRevoked => CertFault::Revoked { cert: self.revoked(case) },
            webpki::Error::UnknownIssuer => unknown(case.about),
            webpki::Error::InvalidSignatureForPublicKey => CertFault::BadSignature { cert, issuer },
            webpki::Error::UnknownRevocationStatus
            | webpki::Error::InvalidCrlSignatureForPublicKey
            | webpki::Error::IssuerNotCrlSigner => CertFault::NoCrl { cert, issuer },
            webpki::Error::CrlExpired { next_update, .. } => {
                CertFault::StaleCrl { cert, next_update: *next_update, now }
            }
            webpki::Error::CaUsedAsEndEntity if case.about.self_issued && !self.is_anchor(case.about) => {
                CertFault::SelfSigned { cert }
            }
            webpki::Error::CaUsedAsEndEntity => {
                CertFault::WrongUse { cert, usage, why: "it is that of a CA".to_owned() }
            }
            webpki::Error::RequiredEkuNotFoundContext(_) => {
                CertFault::WrongUse { cert, usage, why: "its extendedKeyUsage does not have it".to_owned() }
            }
            webpki::Error::NameConstraintViolation => {
                CertFault::WrongUse { cert, usage, why: "its CA may not vouch for its names".to_owned() }
            }
            webpki::Error::EndEntityUsedAsCa | webpki::Error::PathLenConstraintViolated => {
                CertFault::WrongUse { cert, usage, why: "its issuer may not issue it".to_owned() }
            }
            other => CertFault::Malformed { why: format!("{cert}: {other:?}") },
        }
    }

    fn is_anchor(&self, about: &About) -> bool {
        self.anchors.iter().any(|anchor| anchor.about.named == about.named)
    }

    /// Which of a chain the lists have.
    fn revoked(&self, case: &Case<'_>) -> super::Named {
        let is_listed = |der: &CertificateDer<'_>| {
            let Ok(cert) = EndEntityCert::try_from(der) else { return false };
            let mut crls = case.anchor.lists.iter().filter_map(|at| self.revocation.crls.get(*at));
            crls.any(|crl| {
                crl.list.issuer() == cert.issuer()
                    && matches!(crl.list.find_serial(cert.serial()), Ok(Some(_)))
            })
        };
        let issuer = case.others.iter().find(|other| is_listed(other)).and_then(|der| About::read(der).ok());
        issuer.map_or_else(|| case.about.named.clone(), |about| about.named)
    }

    /// How long it holds that a chain is good: as long as all of it is.
    fn remember(
        &self,
        key: Vec<u8>,
        certified: &Arc<Certified>,
        about: &About,
        (others, anchor): (&[CertificateDer<'_>], &Anchor),
    ) {
        let (mut from, mut until) =
            (about.not_before.max(anchor.about.not_before), about.not_after.min(anchor.about.not_after));
        for other in others {
            let Ok(other) = About::read(other) else { return };
            (from, until) = (from.max(other.not_before), until.min(other.not_after));
        }
        if self.revocation.rules.stale == OnCrl::Refuse {
            let lists = anchor.lists.iter().filter_map(|at| self.revocation.crls.get(*at));
            let ends = lists.map(|crl| crl.next_update.as_secs().saturating_sub(1)).min();
            let ends = ends.map(|ends| UnixTime::since_unix_epoch(std::time::Duration::from_secs(ends)));
            until = ends.map_or(until, |ends| until.min(ends));
        }
        let mut good = self.good();
        if good.len() >= REMEMBERED {
            good.clear();
        }
        good.insert(key, Good { certified: certified.clone(), from, until });
    }

    pub(super) fn anchors(&self) -> &[Anchor] {
        &self.anchors
    }

    pub(super) fn revocation(&self) -> &Revocation {
        &self.revocation
    }

    /// Checks for rustls, and keeps the reason.
    fn answer(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        (usage, now): (Usage, UnixTime),
    ) -> Result<(), Error> {
        let chain: Vec<CertificateDer<'_>> = std::iter::once(leaf).chain(others).cloned().collect();
        self.check(&chain, usage, now).map(|_| ()).map_err(|fault| {
            let error = Error::from(&fault);
            REFUSED.set(Some(fault));
            error
        })
    }

    /// Checks that the other side has the key of its certificate.
    fn answer_for_key(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        REFUSED.set(None);
        verify_tls13_signature(message, cert, signature, &self.algorithms)
    }
}

impl Revocation {
    /// `None`: nothing is checked. Where there should be lists and are none, `find_fault` says no.
    fn options<'a>(&self, lists: &'a [&'a CertRevocationList<'a>]) -> Option<RevocationOptions<'a>> {
        let unknown = match self.wanted {
            OnCrl::Refuse => UnknownStatusPolicy::Deny,
            OnCrl::Accept => UnknownStatusPolicy::Allow,
        };
        let stale = match self.rules.stale {
            OnCrl::Refuse => ExpirationPolicy::Enforce,
            OnCrl::Accept => ExpirationPolicy::Ignore,
        };
        let options = RevocationOptionsBuilder::new(lists).ok()?;
        Some(options.with_status_policy(unknown).with_expiration_policy(stale).build())
    }
}

/// A certificate and what it was checked by.
struct Case<'a> {
    about: &'a About,
    others: &'a [CertificateDer<'a>],
    anchor: &'a Anchor,
    usage: Usage,
    now: UnixTime,
}

impl Case<'_> {
    /// The one of the chain that this is said of.
    fn named_by(&self, is_it: impl Fn(&About) -> bool) -> super::Named {
        if is_it(self.about) {
            return self.about.named.clone();
        }
        let mut others = self.others.iter().filter_map(|der| About::read(der).ok());
        others.find(is_it).map_or_else(|| self.about.named.clone(), |about| about.named)
    }
}

fn unknown(about: &About) -> CertFault {
    let (cert, issuer) = (about.named.clone(), about.issuer.clone());
    if about.self_issued { CertFault::SelfSigned { cert } } else { CertFault::UnknownIssuer { cert, issuer } }
}

fn heavier(one: CertFault, other: CertFault) -> CertFault {
    if other.weight() > one.weight() { other } else { one }
}

fn key_of(chain: &[CertificateDer<'_>], usage: Usage) -> Vec<u8> {
    let mut all = vec![u8::from(usage == Usage::Server)];
    for cert in chain {
        all.extend_from_slice(&cert.len().to_be_bytes());
        all.extend_from_slice(cert);
    }
    sha256(&all)
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("anchors", &self.anchors.len()).finish_non_exhaustive()
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.answer(leaf, others, (Usage::Server, now)).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.answer_for_key(message, cert, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Verifier {
    /// None: who has not shown a certificate yet need not know whom we trust.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.answer(leaf, others, (Usage::Client, now)).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.answer_for_key(message, cert, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
