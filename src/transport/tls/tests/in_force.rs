//! What is asked of credentials after they were taken.

use super::authority::{Authority, DAY, Host, Leaf, TODAY, at};
use super::*;

#[test]
fn a_revoked_chain_is_found_whatever_its_time_and_that_of_the_list() {
    let ca = Authority::new("ca");
    let issued = ca.issue(&Leaf { until: TODAY + DAY, ..Leaf::new("h2.test", 2) });
    let own = ca.issue(&Leaf::new("h1.test", 1));
    let chain = [issued.der];
    let revoked = |host: &Host| {
        let credentials = host.credentials();
        let found =
            [Usage::Client, Usage::Server].map(|usage| credentials.verifier().revoked_since(&chain, usage));
        assert_eq!(found[0], found[1]);
        found[0].as_ref().map(|named| named.serial.clone())
    };
    assert_eq!(revoked(&Host::new(&own, &[&ca])), None, "there is no list");
    assert_eq!(revoked(&Host::new(&own, &[&ca]).with_crl(&ca.revoke(&[3], TODAY))), None);
    let by_its_ca = Host::new(&own, &[&ca]).with_crl(&ca.revoke(&[2], TODAY - 90 * DAY));
    assert_eq!(revoked(&by_its_ca), Some("02".to_owned()));
    let credentials = by_its_ca.credentials();
    let fault = credentials.verifier().check(&chain, Usage::Client, at(TODAY + 9 * DAY)).unwrap_err();
    assert_eq!(fault.label(), "certificate_expired", "the time comes first where a handshake is judged");
    assert!(credentials.verifier().revoked_since(&[], Usage::Client).is_none());
    // A CA that was taken out revokes nothing, and another one of its name cannot.
    let other = Authority::new("ca");
    let foreign = Host::new(&other.issue(&Leaf::new("h1.test", 1)), &[&other]);
    assert_eq!(revoked(&foreign.with_crl(&other.revoke(&[2], TODAY))), None);
}

#[test]
fn a_chain_is_revoked_with_the_one_that_vouches_for_it() {
    let root = Authority::new("root");
    let between = root.vouch("between");
    let leaf = between.issue(&Leaf::new("h2.test", 7));
    let chain = [leaf.der, between.issuer.der().clone()];
    let own = root.issue(&Leaf::new("h1.test", 2));
    let host = Host::new(&own, &[&root]).with_crl(&root.revoke(&[1], TODAY));
    assert!(host.credentials().verifier().revoked_since(&chain, Usage::Client).is_some());
}

#[test]
fn credentials_tell_what_they_are_and_whether_others_would_take_them() {
    let ca = Authority::new("ca");
    let host = Host::new(&ca.issue(&Leaf::new("h1.test", 0xab)), &[&ca]);
    let credentials = host.credentials();
    assert_eq!(credentials.own().serial, "AB");
    assert_eq!(credentials.own().not_after, credentials.expires().certificate);
    assert_eq!(credentials.counts(), (1, 0));
    assert_eq!(credentials.fault(at(TODAY)), None);
    let fault = credentials.fault(at(TODAY + 91 * DAY)).unwrap();
    assert_eq!(fault.label(), "certificate_expired");
}
