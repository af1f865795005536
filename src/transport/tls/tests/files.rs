//! Files of `[tls]` that cannot be used, and what is told of them.

use std::os::unix::fs::PermissionsExt;

use super::authority::*;
use super::*;
use crate::config::CrlRules;

/// A good host, of which something is spoilt.
fn faults(spoil: impl FnOnce(&mut Host)) -> Vec<(Purpose, String)> {
    let ca = Authority::new("test CA");
    let mut host = Host::new(&ca.issue(&Leaf::new("h1.test", 11)), &[&ca]);
    spoil(&mut host);
    let faults = host.material(CrlRules::default()).map(|_| ()).unwrap_err();
    let folder = host.folder.path().display().to_string();
    for fault in &faults {
        assert!(!fault.help().is_empty() && !fault.to_string().contains('\n'));
    }
    faults.iter().map(|fault| (fault.purpose, fault.to_string().replace(&folder, "D"))).collect()
}

fn fault(spoil: impl FnOnce(&mut Host)) -> String {
    let faults = faults(spoil);
    assert_eq!(faults.len(), 1, "{faults:?}");
    faults[0].1.clone()
}

#[test]
fn all_that_is_wrong_is_told_at_once() {
    let faults = faults(|host| {
        std::fs::remove_file(host.path("cert")).unwrap();
        std::fs::set_permissions(host.path("key"), std::fs::Permissions::from_mode(0o644)).unwrap();
        write(&host.path("ca"), "nothing");
        host.files.crl.push(host.path("crl"));
    });
    let told: Vec<_> = faults.into_iter().map(|(_, text)| text).collect();
    assert_eq!(
        told,
        [
            "[tls] cert: D/cert is not there",
            "[tls] key: D/key has the mode 0644: others could read the key, or change it",
            "[tls] ca: D/ca does not hold the certificates of the CAs",
            "[tls] crl: D/crl is not there",
        ]
    );
}

#[test]
fn a_key_is_the_key_of_the_certificate() {
    let other = Authority::new("other CA").issue(&Leaf::new("h2.test", 12));
    let told = fault(|host| write(&host.path("key"), &other.key));
    assert_eq!(told, "[tls] key: D/key is not the key of the certificate");
    let told = fault(|host| write(&host.path("key"), &other.cert));
    assert_eq!(told, "[tls] key: D/key does not hold its private key, without a passphrase");
}

#[test]
fn a_certificate_has_a_name_and_a_ca_is_one() {
    let named = |names: Vec<rcgen::SanType>| {
        move |host: &mut Host| {
            let mut params = Leaf::new("h1.test", 11).params();
            params.subject_alt_names.clone_from(&names);
            let key = rcgen::KeyPair::from_pem(&std::fs::read_to_string(host.path("key")).unwrap()).unwrap();
            write(&host.path("cert"), &params.self_signed(&key).unwrap().pem());
        }
    };
    let wildcard = rcgen::SanType::DnsName("*.test".try_into().unwrap());
    for names in [vec![], vec![wildcard]] {
        assert!(fault(named(names)).starts_with("[tls] cert: D/cert has no name (subjectAltName"));
    }
    let own_as_ca = |host: &mut Host| {
        std::fs::copy(host.path("cert"), host.path("ca")).unwrap();
    };
    assert_eq!(
        fault(own_as_ca),
        "[tls] ca: D/ca cannot be used: certificate 1 of it: the certificate of CN=h1.test (serial 0B) is that of no CA"
    );
}

#[test]
fn what_is_no_file_and_what_is_no_list_is_told() {
    let told = fault(|host| {
        std::fs::remove_file(host.path("ca")).unwrap();
        std::fs::create_dir(host.path("ca")).unwrap();
    });
    assert_eq!(told, "[tls] ca: D/ca is a folder, and no regular file");
    let cut = "-----BEGIN X509 CRL-----\nMAAw\n-----END X509 CRL-----\n";
    let told = fault(|host| {
        write(&host.path("crl"), cut);
        host.files.crl.push(host.path("crl"));
    });
    assert!(told.starts_with("[tls] crl: D/crl cannot be used: it is no list"), "{told}");
}

#[test]
fn a_list_may_be_in_der() {
    let ca = Authority::new("test CA");
    let issued = ca.issue(&Leaf::new("h1.test", 11));
    let pem = ca.revoke(&[11], TODAY - DAY);
    let mut host = Host::new(&issued, &[&ca]);
    let der = {
        use rustls::pki_types::pem::PemObject;
        rustls::pki_types::CertificateRevocationListDer::from_pem_slice(pem.as_bytes()).unwrap()
    };
    std::fs::write(host.path("crl.der"), der).unwrap();
    host.files.crl.push(host.path("crl.der"));
    let fault = host.credentials().verifier().check(&[issued.der], Usage::Client, at(TODAY)).unwrap_err();
    assert_eq!(fault.label(), "certificate_revoked");
}

#[test]
fn prints_tell_what_is_new_and_not_how_it_is_written() {
    let (ca, next) = (Authority::new("test CA"), Authority::new("next CA"));
    let one = ca.issue(&Leaf::new("h1.test", 11));
    let prints = |issued: &Issued, cas: &[&Authority]| {
        Host::new(issued, cas).material(CrlRules::default()).unwrap().prints().clone()
    };
    let before = prints(&one, &[&ca, &next]);
    assert_eq!(prints(&one, &[&next, &ca]).changes(&before), []);
    assert_eq!(prints(&one, &[&ca]).changes(&before), [Purpose::Ca]);
    let renewed = prints(&ca.issue(&Leaf::new("h1.test", 13)), &[&ca, &next]);
    assert_eq!(renewed.changes(&before), [Purpose::Certificate]);
}
