//! Lists of revoked certificates, what is resumed, and one CA after another.

use super::authority::*;
use super::*;
use crate::config::{CrlRules, OnCrl};

const ACCEPT: CrlRules = CrlRules { missing: OnCrl::Accept, stale: OnCrl::Accept, partial: OnCrl::Accept };

fn check(by: &Credentials, chain: &[CertificateDer<'_>]) -> Result<String, &'static str> {
    let checked = by.verifier().check(chain, Usage::Client, at(TODAY));
    checked.map(|good| good.subject.clone()).map_err(|fault| fault.label())
}

#[test]
fn a_session_that_rustls_resumes_is_refused_by_what_is_in_force() {
    let ca = Authority::new("test CA");
    let one = clocked(&Host::new(&ca.issue(&Leaf::new("h1.test", 11)), &[&ca]));
    let host = Host::new(&ca.issue(&Leaf::new("h2.test", 12)), &[&ca]);
    let before = clocked(&host);
    let resume = |server: &Credentials| {
        let mut pair = Pair::new(one.client("h2"), server.server());
        pair.shake_hands().unwrap();
        open(&mut pair.client, &mut pair.to_client).unwrap();
        pair
    };
    assert!(!resume(&before).server.facts().unwrap().resumed);
    let host = host.with_crl(&ca.revoke(&[11], TODAY - DAY));
    let now = clocked(&host);
    assert_eq!(now.prints().changes(before.prints()), [Purpose::Crl]);
    let pair = resume(&before);
    let facts = pair.server.facts().unwrap();
    assert!(facts.resumed, "rustls asks nobody");
    assert_eq!(check(&before, facts.chain), Ok("CN=h1.test".to_owned()));
    assert_eq!(check(&now, facts.chain), Err("certificate_revoked"));
    // What is new knows none of the old sessions, and asks.
    let mut pair = Pair::new(one.client("h2"), now.server());
    assert!(matches!(pair.shake_hands(), Err(("server", TlsFault::Certificate(CertFault::Revoked { .. })))));
}

#[test]
fn another_ca_ends_what_the_old_one_has_vouched_for() {
    let (old, new) = (Authority::new("test CA"), Authority::new("test CA"));
    let leaf = old.issue(&Leaf::new("h1.test", 11));
    let by = |cas: &[&Authority]| Host::new(&old.issue(&Leaf::new("h2.test", 12)), cas).credentials();
    let (before, both, after) = (by(&[&old]), by(&[&new, &old]), by(&[&new]));
    assert_eq!(both.prints().changes(before.prints()), [Purpose::Certificate, Purpose::Ca]);
    let chain = [leaf.der];
    assert_eq!(check(&before, &chain), Ok("CN=h1.test".to_owned()));
    assert_eq!(check(&both, &chain), Ok("CN=h1.test".to_owned()));
    assert_eq!(check(&after, &chain), Err("certificate_bad_signature"));
}

#[test]
fn two_cas_of_one_name_have_a_list_each() {
    let (old, new) = (Authority::new("test CA"), Authority::new("test CA"));
    let leaf = |ca: &Authority, serial| [ca.issue(&Leaf::new("h1.test", serial)).der];
    let (of_old, of_new) = (leaf(&old, 11), leaf(&new, 11));
    let host = |cas: &[&Authority]| Host::new(&old.issue(&Leaf::new("h2.test", 12)), cas);
    let (of_old_list, of_new_list) = (old.revoke(&[11], TODAY - DAY), new.revoke(&[], TODAY - DAY));
    for lists in [[&of_old_list, &of_new_list], [&of_new_list, &of_old_list]] {
        let both = host(&[&old, &new]).with_crl(lists[0]).with_crl(lists[1]).credentials();
        assert_eq!(check(&both, &of_old), Err("certificate_revoked"));
        assert_eq!(check(&both, &of_new), Ok("CN=h1.test".to_owned()));
    }
    // A list of the one that has gone is none of the one that has come.
    let after = host(&[&new]).with_crl(&of_old_list).credentials();
    assert_eq!(check(&after, &of_new), Err("certificate_no_crl"));
}

#[test]
fn the_newest_list_of_a_ca_counts() {
    let ca = Authority::new("test CA");
    let leaf = [ca.issue(&Leaf::new("h1.test", 11)).der];
    let (old, new) = (ca.revoke(&[], TODAY - 2 * DAY), ca.revoke(&[11], TODAY - DAY));
    let host = || Host::new(&ca.issue(&Leaf::new("h2.test", 12)), &[&ca]);
    for text in [format!("{old}{new}"), format!("{new}{old}")] {
        assert_eq!(check(&host().with_crl(&text).credentials(), &leaf), Err("certificate_revoked"));
    }
}

#[test]
fn an_issuer_in_between_is_checked_like_a_host() {
    let root = Authority::new("root CA");
    let between = root.vouch("sub CA");
    let chain = [between.issue(&Leaf::new("h1.test", 11)).der, between.issuer.der().clone()];
    let own = root.issue(&Leaf::new("h2.test", 12));
    let by = |lists: &[String], rules| {
        let host = lists.iter().fold(Host::new(&own, &[&root]), |host, list| host.with_crl(list));
        check(&host.credentials_by(rules), &chain)
    };
    let (of_root, of_between) = (root.revoke(&[], TODAY - DAY), between.revoke(&[], TODAY - DAY));
    let good = Ok("CN=h1.test".to_owned());
    assert_eq!(by(&[], CrlRules::default()), good);
    assert_eq!(by(&[of_root.clone(), of_between.clone()], CrlRules::default()), good);
    assert_eq!(by(std::slice::from_ref(&of_root), CrlRules::default()), Err("certificate_no_crl"));
    assert_eq!(by(std::slice::from_ref(&of_between), CrlRules::default()), Err("certificate_no_crl"));
    assert_eq!(by(std::slice::from_ref(&of_root), ACCEPT), good);
    assert_eq!(
        by(&[root.revoke(&[1], TODAY - DAY), of_between], CrlRules::default()),
        Err("certificate_revoked")
    );
    assert_eq!(by(&[of_root, between.revoke(&[11], TODAY - DAY)], ACCEPT), Err("certificate_revoked"));
    let host = Host::new(&own, &[&root]).with_crl(&root.revoke(&[1], TODAY - DAY));
    let fault = host.credentials_by(ACCEPT).verifier().check(&chain, Usage::Client, at(TODAY)).unwrap_err();
    assert!(fault.to_string().starts_with("the certificate of CN=sub CA"), "{fault}");
}

#[test]
fn what_lists_do_that_do_not_say_all_is_configuration() {
    let (ca, other) = (Authority::new("test CA"), Authority::new("other CA"));
    let leaf = [ca.issue(&Leaf::new("h1.test", 11)).der];
    let host = || Host::new(&ca.issue(&Leaf::new("h2.test", 12)), &[&ca]);
    let good = Ok("CN=h1.test".to_owned());
    // Stale: accepted by default, and what it says still counts.
    let stale = ca.revoke(&[], TODAY - 30 * DAY);
    assert_eq!(check(&host().with_crl(&stale).credentials(), &leaf), good);
    let revoked = host().with_crl(&ca.revoke(&[11], TODAY - 30 * DAY)).credentials();
    assert_eq!(check(&revoked, &leaf), Err("certificate_revoked"));
    // Partial: refused by default.
    let partial = || host().with_crl(&other.revoke(&[], TODAY - DAY));
    assert_eq!(check(&partial().credentials(), &leaf), Err("certificate_no_crl"));
    assert_eq!(check(&partial().credentials_by(ACCEPT), &leaf), good);
    // Missing: refused by default. Where it is accepted, the missing one could have been that of any issuer.
    let missing = || {
        let mut host = host();
        host.files.crl.push(host.path("nowhere"));
        host
    };
    assert_eq!(missing().material(CrlRules::default()).unwrap_err()[0].why, FileFault::Missing);
    let accepted = CrlRules { missing: OnCrl::Accept, ..CrlRules::default() };
    assert_eq!(check(&missing().credentials_by(accepted), &leaf), good);
}

#[test]
fn what_was_found_good_is_looked_at_again_when_its_time_is_over() {
    let ca = Authority::new("test CA");
    let leaf = [ca.issue(&Leaf::new("h1.test", 11)).der];
    let rules = CrlRules { stale: OnCrl::Refuse, ..CrlRules::default() };
    let host = Host::new(&ca.issue(&Leaf::new("h2.test", 12)), &[&ca]);
    let by = host.with_crl(&ca.revoke(&[], TODAY - DAY)).credentials_by(rules);
    let at = |day| {
        let checked = by.verifier().check(&leaf, Usage::Client, authority::at(TODAY + day * DAY));
        checked.map(|_| ()).map_err(|fault| fault.label())
    };
    assert_eq!((at(0), at(1)), (Ok(()), Ok(())));
    assert_eq!(at(6), Err("certificate_stale_crl"));
    assert_eq!(at(91), Err("certificate_expired"));
    assert_eq!(at(2), Ok(()));
    let of_server = by.verifier().check(&leaf, Usage::Server, authority::at(TODAY));
    assert_eq!(of_server.unwrap().subject, "CN=h1.test");
}

#[test]
fn what_ends_soon_or_is_weak_is_told() {
    let (ca, other) = (Authority::new("test CA"), Authority::until("other CA", TODAY + 10 * DAY));
    let host =
        Host::new(&ca.issue(&Leaf { until: TODAY + 20 * DAY, ..Leaf::new("h2.test", 12) }), &[&ca, &other]);
    let mut host = host.with_crl(&ca.revoke(&[], TODAY - 30 * DAY));
    host.files.crl.push(host.path("nowhere"));
    let credentials = host.credentials_by(ACCEPT);
    let concerns = |days| {
        let before = std::time::Duration::from_secs(days * DAY);
        credentials.concerns(at(TODAY), before).iter().map(Concern::label).collect::<Vec<_>>()
    };
    assert_eq!(concerns(21), ["crl_missing", "crl_stale", "crl_partial", "certificate_ends", "ca_ends"]);
    assert_eq!(concerns(15), ["crl_missing", "crl_stale", "crl_partial", "ca_ends"]);
    assert_eq!(concerns(1), ["crl_missing", "crl_stale", "crl_partial"]);
    let told = credentials.concerns(at(TODAY), std::time::Duration::from_secs(21 * DAY));
    assert_eq!(told[3].to_string(), "the certificate of CN=h2.test (serial 0C) ends at 2030-01-21T00:00:00Z");
    assert_eq!(told[2].to_string(), "no list of revoked certificates is of CN=other CA");
    let expires = credentials.expires();
    assert_eq!((expires.certificate, expires.ca), (at(TODAY + 20 * DAY), at(TODAY + 10 * DAY)));
    assert_eq!(expires.crl, Some(at(TODAY - 23 * DAY)));
}
