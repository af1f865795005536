//! Each reason for which a certificate is refused, on both sides, and the alert that the other side gets.

use rcgen::{BasicConstraints, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose};
use rustls::AlertDescription;

use super::authority::*;
use super::*;
use crate::config::{CrlRules, OnCrl};

/// A good host, and the certificate that it is to refuse.
struct Case {
    good: Host,
    rules: CrlRules,
    bad: Issued,
    /// The CA that whoever has the bad one trusts, so that nothing else fails.
    ca: Authority,
}

impl Case {
    /// The good host trusts this CA, which has issued the bad one.
    fn of(leaf: &Leaf) -> Self {
        let ca = Authority::new("test CA");
        Self { good: good(&ca), rules: CrlRules::default(), bad: ca.issue(leaf), ca }
    }

    fn with_crl(mut self, pem: &str, rules: CrlRules) -> Self {
        (self.good, self.rules) = (self.good.with_crl(pem), rules);
        self
    }

    /// What the good host finds, dialled and dialling.
    fn faults(&self) -> [(CertFault, AlertDescription); 2] {
        let bad = clocked(&Host::new(&self.bad, &[&self.ca]));
        let good = self.good.credentials_by(self.rules).with_clock(at(TODAY));
        let mut dialled = Pair::new(bad.client("good"), good.server());
        let by_server = dialled.shake_hands();
        let told_client = open(&mut dialled.client, &mut dialled.to_client).unwrap_err();
        let mut dialling = Pair::new(good.client("bad"), bad.server());
        let by_client = dialling.shake_hands();
        let told_server =
            dialling.server.advance(&mut dialling.to_server, &mut dialling.to_client).unwrap_err();
        let found = |result, by: &str, told| match (result, told) {
            (Err((end, TlsFault::Certificate(fault))), TlsFault::Alert(alert)) if end == by => (fault, alert),
            other => panic!("{other:?}"),
        };
        [found(by_server, "server", told_client), found(by_client, "client", told_server)]
    }

    /// Both ways it is the same fault, told by this alert.
    fn is_refused(&self, label: &str, alert: AlertDescription, text: &str) {
        for (fault, told) in self.faults() {
            assert_eq!((fault.label(), told), (label, alert), "{fault}");
            assert!(fault.to_string().contains(text), "{fault}");
        }
    }
}

fn good(ca: &Authority) -> Host {
    Host::new(&ca.issue(&Leaf::new("h2.test", 12)), &[ca])
}

fn h1() -> Leaf {
    Leaf::new("h1.test", 0xabcd)
}

const H1: &str = "the certificate of CN=h1.test (serial ABCD)";

#[test]
fn one_whose_time_is_over() {
    let case = Case::of(&Leaf { from: TODAY - 9 * DAY, until: TODAY - DAY, ..h1() });
    let text = format!("{H1} was good until 2029-12-31T00:00:00Z, and it is 2030-01-01T00:00:00Z here");
    case.is_refused("certificate_expired", AlertDescription::CertificateExpired, &text);
}

#[test]
fn one_whose_time_has_not_come() {
    let case = Case::of(&Leaf { from: TODAY + DAY, ..h1() });
    let text = format!("{H1} is good from 2030-01-02T00:00:00Z, and it is 2030-01-01T00:00:00Z here");
    case.is_refused("certificate_not_yet_valid", AlertDescription::CertificateExpired, &text);
}

#[test]
fn one_of_a_ca_whose_time_is_over() {
    let ca = Authority::until("old CA", TODAY - 1);
    let bad = [ca.issue(&h1()).der];
    let fault = good(&ca).credentials().verifier().check(&bad, Usage::Server, at(TODAY)).unwrap_err();
    assert_eq!(fault.label(), "certificate_expired");
    let text = "the certificate of CN=old CA (serial 01) was good until 2029-12-31T23:59:59Z";
    assert!(fault.to_string().starts_with(text), "{fault}");
}

#[test]
fn one_that_is_revoked() {
    let case = Case::of(&h1());
    let crl = case.ca.revoke(&[5, 0xabcd], TODAY - DAY);
    let case = case.with_crl(&crl, CrlRules::default());
    case.is_refused("certificate_revoked", AlertDescription::CertificateRevoked, &format!("{H1} is revoked"));
}

#[test]
fn one_of_another_ca() {
    let (ca, foreign) = (Authority::new("test CA"), Authority::new("foreign CA"));
    let case = Case { good: good(&ca), rules: CrlRules::default(), bad: foreign.issue(&h1()), ca };
    let text = format!("{H1} was issued by CN=foreign CA, which [tls] ca does not have");
    case.is_refused("certificate_unknown_issuer", AlertDescription::UnknownCA, &text);
}

#[test]
fn one_of_another_ca_of_the_same_name() {
    let (ca, foreign) = (Authority::new("test CA"), Authority::new("test CA"));
    let case = Case { good: good(&ca), rules: CrlRules::default(), bad: foreign.issue(&h1()), ca };
    let text = format!("{H1} bears the name of CN=test CA, but not the signature");
    case.is_refused("certificate_bad_signature", AlertDescription::DecryptError, &text);
}

#[test]
fn one_that_has_signed_itself() {
    for is_ca in [IsCa::NoCa, IsCa::ExplicitNoCa, IsCa::Ca(BasicConstraints::Unconstrained)] {
        let ca = Authority::new("test CA");
        let bad = vouch_for_itself(&Leaf { is_ca, ..h1() });
        let case = Case { good: good(&ca), rules: CrlRules::default(), bad, ca };
        let text = format!("{H1} is signed by itself");
        case.is_refused("certificate_self_signed", AlertDescription::UnknownCA, &text);
    }
}

#[test]
fn one_that_is_for_something_else() {
    let mail = Leaf { uses: vec![ExtendedKeyUsagePurpose::EmailProtection], ..h1() };
    let text = format!("{H1} is not for");
    Case::of(&mail).is_refused("certificate_wrong_use", AlertDescription::UnsupportedCertificate, &text);
    let encipher = Leaf { usage: vec![KeyUsagePurpose::KeyEncipherment], ..h1() };
    let text = "its keyUsage does not have digitalSignature";
    Case::of(&encipher).is_refused("certificate_wrong_use", AlertDescription::UnsupportedCertificate, text);
    let ca = Leaf { is_ca: IsCa::Ca(BasicConstraints::Unconstrained), ..h1() };
    Case::of(&ca).is_refused(
        "certificate_wrong_use",
        AlertDescription::UnsupportedCertificate,
        "that of a CA",
    );
}

#[test]
fn one_for_one_side_alone() {
    let client = Case::of(&Leaf { uses: vec![ExtendedKeyUsagePurpose::ClientAuth], ..h1() });
    let bad = Host::new(&client.bad, &[&client.ca]).credentials();
    let checked = |usage| {
        client
            .good
            .credentials()
            .verifier()
            .check(std::slice::from_ref(&client.bad.der), usage, at(TODAY))
            .map(|_| ())
    };
    assert_eq!(checked(Usage::Client), Ok(()));
    let fault = checked(Usage::Server).unwrap_err();
    assert_eq!(
        fault.to_string(),
        format!("{H1} is not for being dialled (serverAuth): its extendedKeyUsage does not have it")
    );
    assert!(bad.self_check(at(TODAY)).is_err(), "a guard both dials and is dialled");
    let silent = Case::of(&Leaf { uses: Vec::new(), usage: Vec::new(), ..h1() });
    for usage in [Usage::Client, Usage::Server] {
        silent
            .good
            .credentials()
            .verifier()
            .check(std::slice::from_ref(&silent.bad.der), usage, at(TODAY))
            .unwrap();
    }
}

#[test]
fn one_of_which_no_list_says_anything() {
    let other = Authority::new("other CA").revoke(&[], TODAY - DAY);
    let case = Case::of(&h1()).with_crl(&other, CrlRules::default());
    let text = format!("{H1} may be revoked: [tls] crl has no list of CN=test CA");
    case.is_refused("certificate_no_crl", AlertDescription::UnknownCA, &text);
}

#[test]
fn one_whose_list_is_too_old() {
    let rules = CrlRules { stale: OnCrl::Refuse, ..CrlRules::default() };
    let case = Case::of(&h1());
    let crl = case.ca.revoke(&[], TODAY - 7 * DAY);
    let text = format!("{H1} may be revoked: the list of its issuer was good until 2030-01-01T00:00:00Z");
    case.with_crl(&crl, rules).is_refused("certificate_stale_crl", AlertDescription::UnknownCA, &text);
}

#[test]
fn none_and_what_is_none() {
    let good = good(&Authority::new("test CA")).credentials();
    let check =
        |chain: &[CertificateDer<'_>]| good.verifier().check(chain, Usage::Client, at(TODAY)).unwrap_err();
    assert_eq!(check(&[]), CertFault::None);
    let whole = Authority::new("test CA").issue(&h1()).der;
    assert_eq!(check(&vec![whole.clone(); 9]).label(), "certificate_malformed");
    for length in 0..whole.len() {
        let fault = check(&[CertificateDer::from(whole[..length].to_vec())]);
        assert_eq!(fault.label(), "certificate_malformed", "{length}: {fault}");
    }
    let mut longer = whole.to_vec();
    longer.push(0);
    assert_eq!(check(&[CertificateDer::from(longer)]).label(), "certificate_malformed");
    for at in 0..whole.len() {
        let mut other = whole.to_vec();
        other[at] ^= 0x41;
        // Whatever byte of it is another, nobody has signed that.
        let fault = check(&[CertificateDer::from(other)]);
        assert!(!fault.to_string().contains('\n'), "{fault}");
    }
}

#[test]
fn a_name_that_is_odd_does_not_break_a_log() {
    let ca = Authority::new("test CA");
    let mut params = Leaf::new("h1.test", 7).params();
    params.distinguished_name.push(rcgen::DnType::CommonName, "a\nb\u{1b}[31m".repeat(60));
    let key = rcgen::KeyPair::generate().unwrap();
    let cert = params.signed_by(&key, &ca.issuer).unwrap();
    let good = good(&ca).credentials();
    let certified = good.verifier().check(&[cert.der().clone()], Usage::Client, at(TODAY)).unwrap();
    assert!(!certified.subject.contains(['\n', '\u{1b}']) && certified.subject.ends_with('…'));
}
