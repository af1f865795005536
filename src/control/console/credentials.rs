//! What the running guard says of the credentials of its tunnels.

use std::time::SystemTime;

use super::{number, warn};
use crate::control::credentials::{
    CredentialFault, Keyring, Refused, certificate_time, help_for, shown_moment,
};
use crate::control::documents::{CertificateDocument, TlsDocument, TlsState, Warning};
use crate::session::Snapshot;
use crate::telemetry::{TlsFilesState, TlsObserved};
use crate::transport::tls::{Concern, Credentials};

/// What `status` shows; `None`: there is no `[tls] cert`.
pub(super) fn tls_document(snapshot: &Snapshot, keyring: &Keyring) -> Option<TlsDocument> {
    snapshot.config.tls.files.as_ref()?;
    let credentials = snapshot.credentials();
    let expires = credentials.map(|credentials| credentials.expires());
    let (cas, crls) = credentials.map(|credentials| credentials.counts()).unwrap_or_default();
    let (files, problems) = match keyring.refused() {
        None => (TlsState::InForce, Vec::new()),
        Some(Refused::Early(fault)) => (TlsState::Early, vec![told(&fault)]),
        Some(Refused::Faulty(faults)) => (TlsState::Refused, faults.iter().map(told).collect()),
    };
    Some(TlsDocument {
        certificate: credentials.map(|credentials| certificate_document(credentials)),
        cas: number(cas),
        cas_until: expires.map(|expires| shown_moment(expires.ca)),
        crls: number(crls),
        crls_until: expires.and_then(|expires| expires.crl).map(shown_moment),
        files,
        problems,
    })
}

fn told(fault: &CredentialFault) -> String {
    format!("{fault}: {}", fault.help())
}

fn certificate_document(credentials: &Credentials) -> CertificateDocument {
    let own = credentials.own();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    // To the second, which is exact in a float for longer than calendars last.
    #[allow(clippy::cast_precision_loss, reason = "seconds since 1970 are far below 2^52")]
    let not_after = own.not_after.as_secs() as f64;
    CertificateDocument {
        subject: own.subject,
        serial: own.serial,
        fingerprint: own.fingerprint,
        names: own.sans.iter().map(ToString::to_string).collect(),
        not_after: shown_moment(own.not_after),
        expires_in_seconds: not_after - now.as_secs_f64(),
    }
}

/// What the metrics tell; `None`: there is no `[tls] cert`.
pub(super) fn tls_observed(snapshot: &Snapshot, keyring: &Keyring) -> Option<TlsObserved> {
    snapshot.config.tls.files.as_ref()?;
    let mut ends = Vec::new();
    if let Some(expires) = snapshot.credentials().map(|credentials| credentials.expires()) {
        ends = vec![("certificate", expires.certificate.as_secs()), ("ca", expires.ca.as_secs())];
        ends.extend(expires.crl.map(|until| ("crl", until.as_secs())));
    }
    let files = if keyring.refused().is_some() { TlsFilesState::Refused } else { TlsFilesState::InForce };
    Some(TlsObserved { expires: ends, files })
}

/// Why tunnels are not made as the configuration asks for them.
pub(super) fn of_credentials(snapshot: &Snapshot, keyring: &Keyring) -> Option<String> {
    snapshot.config.tls.files.as_ref()?;
    match (snapshot.credentials(), keyring.refused()) {
        (Some(credentials), _) => {
            let fault = credentials.fault(certificate_time())?;
            Some(format!("other guards refuse the certificate of this one: {fault}"))
        }
        (None, Some(Refused::Early(fault))) => Some(format!("there are no tunnels yet: {}", told(&fault))),
        (None, Some(Refused::Faulty(faults))) => {
            let faults: Vec<String> = faults.iter().map(told).collect();
            Some(format!("there are no tunnels: {}", faults.join("; ")))
        }
        (None, None) => Some("there are no tunnels: [tls] cert is not in force".to_owned()),
    }
}

/// What an operator should see to.
pub(super) fn credential_warnings(snapshot: &Snapshot, keyring: &Keyring) -> Vec<Warning> {
    let mut warnings = Vec::new();
    let nowhere = (None, None);
    match keyring.refused() {
        // While nothing is in force it keeps the guard from being ready, which is told as that.
        Some(_) if snapshot.credentials().is_none() => {}
        Some(Refused::Faulty(faults)) => warnings.extend(faults.iter().map(|fault| {
            let message = format!("what the files of [tls] hold is not in force: {fault}");
            warn("credentials_not_changed", message, fault.help(), nowhere.clone())
        })),
        Some(Refused::Early(fault)) => {
            let message = format!("what the files of [tls] hold is not in force yet: {fault}");
            warnings.push(warn("certificate_not_yet_valid", message, fault.help(), nowhere.clone()));
        }
        None => {}
    }
    let Some(credentials) = snapshot.credentials() else { return warnings };
    for concern in credentials.concerns(certificate_time(), snapshot.config.tls.warn_before) {
        let what = match &concern {
            Concern::Ends { .. } | Concern::CaEnds { .. } => "certificate_expires",
            Concern::CrlAbsent { .. } | Concern::CrlStale { .. } | Concern::CrlPartial { .. } => {
                "revocation_unsure"
            }
        };
        warnings.push(warn(what, concern.to_string(), help_for(&concern).to_owned(), nowhere.clone()));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::control::credentials::read_credentials;
    use crate::transport::tls::testing::{Ca, DAY, Host};

    /// What a guard with this certificate, good from and until so many days from now, says of it.
    fn guard(days: (i64, i64)) -> (Snapshot, Keyring) {
        let ca = Ca::new("ca");
        let host = Host::new(&ca.issue("h1.test", 1, (days.0 * DAY, days.1 * DAY)), &ca)
            .with_crl(&ca.revoke(&[], (-DAY, DAY)));
        let mut config = crate::config::from_text("test", "", &Default::default()).unwrap().config;
        config.tls = host.tls.clone();
        let found = read_credentials(&host.tls, None, certificate_time()).unwrap();
        let (keyring, credentials) = Keyring::begin(found);
        (Snapshot::new(1, Arc::new(config)).with_credentials(credentials), keyring)
    }

    #[test]
    fn a_certificate_that_is_good_is_told_with_its_end_and_that_of_what_it_is_checked_by() {
        let (snapshot, keyring) = guard((-1, 300));
        assert_eq!(of_credentials(&snapshot, &keyring), None);
        assert_eq!(credential_warnings(&snapshot, &keyring), []);
        let document = tls_document(&snapshot, &keyring).unwrap();
        let own = document.certificate.unwrap();
        assert_eq!((own.subject.as_str(), own.names.as_slice()), ("CN=h1.test", &["h1.test".to_owned()][..]));
        assert!((299.0..301.0).contains(&(own.expires_in_seconds / 86_400.0)), "{}", own.expires_in_seconds);
        assert_eq!((document.cas, document.crls, document.files), (1, 1, TlsState::InForce));
        assert!(document.cas_until.is_some() && document.crls_until.is_some());
        let observed = tls_observed(&snapshot, &keyring).unwrap();
        let what: Vec<&str> = observed.expires.iter().map(|(what, _)| *what).collect();
        assert_eq!(what, ["certificate", "ca", "crl"]);
        assert_eq!(observed.files, TlsFilesState::InForce);
    }

    #[test]
    fn one_that_ends_soon_is_a_warning_and_one_whose_time_has_not_come_keeps_the_guard_from_being_ready() {
        let (snapshot, keyring) = guard((-1, 9));
        assert_eq!(of_credentials(&snapshot, &keyring), None);
        assert_eq!(credential_warnings(&snapshot, &keyring)[0].what, "certificate_expires");
        let (snapshot, keyring) = guard((1, 300));
        let why = of_credentials(&snapshot, &keyring).unwrap();
        assert!(why.starts_with("there are no tunnels yet: ") && why.contains("clock"), "{why}");
        let document = tls_document(&snapshot, &keyring).unwrap();
        assert_eq!((document.certificate, document.files), (None, TlsState::Early));
        assert_eq!(tls_observed(&snapshot, &keyring).unwrap().expires, []);
    }

    #[test]
    fn one_that_had_ended_when_the_guard_started_is_told_once_with_what_to_do() {
        let (snapshot, keyring) = guard((-9, -1));
        let why = of_credentials(&snapshot, &keyring).unwrap();
        assert!(why.starts_with("there are no tunnels: ") && why.contains("was good until"), "{why}");
        assert!(why.contains("certs renew"), "{why}");
        assert_eq!(credential_warnings(&snapshot, &keyring), []);
        assert_eq!(tls_document(&snapshot, &keyring).unwrap().files, TlsState::Refused);
        assert_eq!(tls_observed(&snapshot, &keyring).unwrap().files, TlsFilesState::Refused);
    }

    #[test]
    fn one_that_has_ended_keeps_the_guard_from_being_ready() {
        let ca = Ca::new("ca");
        let host = Host::new(&ca.issue("h1.test", 1, (-9 * DAY, -DAY)), &ca);
        let mut config = crate::config::from_text("test", "", &Default::default()).unwrap().config;
        config.tls = host.tls.clone();
        let then = std::time::Duration::from_secs(certificate_time().as_secs() - 2 * 86_400);
        let then = crate::transport::tls::UnixTime::since_unix_epoch(then);
        let (keyring, credentials) = Keyring::begin(read_credentials(&host.tls, None, then).unwrap());
        let snapshot = Snapshot::new(1, Arc::new(config)).with_credentials(credentials);
        let why = of_credentials(&snapshot, &keyring).unwrap();
        assert!(why.starts_with("other guards refuse") && why.contains("was good until"), "{why}");
        assert!(tls_document(&snapshot, &keyring).unwrap().certificate.unwrap().expires_in_seconds < 0.0);
    }
}
