//! What is asked of credentials after they were taken: what they are, whether they still hold, and whether a certificate
//! that was good when its link came up was revoked since.

use rustls::pki_types::{CertificateDer, UnixTime};
use webpki::{
    ALL_VERIFICATION_ALGS, CertRevocationList, EndEntityCert, ExpirationPolicy, RevocationOptionsBuilder,
    UnknownStatusPolicy,
};

use super::cert_fault::CertFault;
use super::certificate::{About, Certified, Named};
use super::credentials::Credentials;
use super::crl::Crl;
use super::files::{FileFault, MaterialFault, Purpose};
use super::material::Material;
use super::verify::{Anchor, Usage, Verifier};

impl Credentials {
    /// Our certificate.
    #[must_use]
    pub fn own(&self) -> Certified {
        let material = self.material();
        let der = material.own.cert.first().cloned().unwrap_or_else(|| Vec::new().into());
        material.about.clone().certified(&der)
    }

    /// How many CAs, and how many lists of revoked certificates, there are.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        (self.material().cas.len(), self.verifier().revocation().crls.len())
    }

    /// Why other guards with these CAs and lists would refuse us now; `None`: they would take us.
    #[must_use]
    pub fn fault(&self, now: UnixTime) -> Option<CertFault> {
        let check = |usage| self.verifier().check(&self.material().own.cert, usage, now).err();
        [Usage::Client, Usage::Server].into_iter().find_map(check)
    }

    /// The lists of this material that were made before those in force, and so might lack what was revoked since: one
    /// fault each. A file that was brought from an older copy must not make a stolen key good again unseen.
    #[must_use]
    pub fn older_lists(&self, material: &Material) -> Vec<MaterialFault> {
        let crls = &self.verifier().revocation().crls;
        let is_of_ours =
            |at: &usize| self.verifier().anchors().iter().any(|anchor| anchor.lists.contains(at));
        let of_ours: Vec<&Crl> =
            crls.iter().enumerate().filter(|(at, _)| is_of_ours(at)).map(|(_, crl)| crl).collect();
        let in_force = of_ours.iter().filter(|crl| {
            let mut others = of_ours.iter().filter(|other| crl.is_in_line_with(other));
            !others.any(|other| crl.is_older_than(other))
        });
        let fault = |in_force: &&Crl| {
            let mut next = material.crls.iter().filter(|crl| crl.is_in_line_with(in_force));
            let newest = next.next()?;
            let newest = next.fold(newest, |a, b| if a.is_older_than(b) { b } else { a });
            newest.is_older_than(in_force).then(|| {
                let why = FileFault::Older { has: newest.shown.clone(), in_force: in_force.shown.clone() };
                MaterialFault::new(Purpose::Crl, &newest.path, why)
            })
        };
        in_force.filter_map(fault).collect()
    }

    /// Whether this material would make the same credentials. Sessions are resumed then, as they were.
    #[must_use]
    pub fn are_of(&self, material: &Material) -> bool {
        let own = self.material();
        own.prints() == material.prints()
            && own.rules == material.rules
            && own.wants_crl == material.wants_crl
            && own.absent == material.absent
    }
}

impl Verifier {
    /// Which certificate of a chain that was found good once is revoked, if one is. Nothing else is looked at: neither
    /// whether it has expired since, nor how old the lists are, nor whether they say anything of it.
    #[must_use]
    pub fn revoked_since(&self, chain: &[CertificateDer<'_>], usage: Usage) -> Option<Named> {
        let (leaf, others) = chain.split_first()?;
        let cert = EndEntityCert::try_from(leaf).ok()?;
        // Some moment at which all of it was good; what is not needed for the path may be younger than all of it.
        let moments: Vec<UnixTime> =
            chain.iter().filter_map(|der| Some(About::read(der).ok()?.not_before)).collect();
        let is_revoked = |anchor: &Anchor| {
            moments.iter().any(|when| self.is_revoked_by(anchor, &cert, (others, usage, *when)))
        };
        if !self.anchors().iter().any(is_revoked) {
            return None;
        }
        About::read(leaf).ok().map(|about| about.named)
    }

    fn is_revoked_by(
        &self,
        anchor: &Anchor,
        cert: &EndEntityCert<'_>,
        (others, usage, when): (&[CertificateDer<'_>], Usage, UnixTime),
    ) -> bool {
        let crls = &self.revocation().crls;
        let lists: Vec<&CertRevocationList<'_>> =
            anchor.lists.iter().filter_map(|at| crls.get(*at)).map(|crl| &crl.list).collect();
        let Ok(options) = RevocationOptionsBuilder::new(&lists) else { return false };
        let options = options
            .with_status_policy(UnknownStatusPolicy::Allow)
            .with_expiration_policy(ExpirationPolicy::Ignore)
            .build();
        let trusted = std::slice::from_ref(&anchor.trust);
        let key_usage = usage.key_usage();
        let verified = cert.verify_for_usage(
            ALL_VERIFICATION_ALGS,
            trusted,
            others,
            when,
            key_usage,
            Some(options),
            None,
        );
        matches!(verified, Err(webpki::Error::CertRevoked))
    }
}
