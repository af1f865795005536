use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proptest::prelude::*;
use tempfile::TempDir;

use super::read::{Part, certificate, crl, parts};
use super::verify::accepted;
use super::*;

/// A moment like another.
fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn later(days: u32) -> SystemTime {
    now() + Duration::from_hours(24) * days
}

fn a_directory() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("certs");
    (folder, path)
}

/// A CA that was made now.
fn an_authority() -> (TempDir, PathBuf, Authority) {
    let (folder, path) = a_directory();
    let authority = init(&path, "prod", AUTHORITY_DAYS, now()).unwrap();
    (folder, path, authority)
}

fn request(names: &[&str]) -> Request {
    Request { names: names.iter().map(|name| Name::parse(name).unwrap()).collect(), days: HOST_DAYS }
}

fn issue(authority: &mut Authority, name: &str) -> Result<Vec<Issued>, Error> {
    authority.issue(&[request(&[name])], Existing::Stays, now())
}

fn names(all: &[&str]) -> Vec<String> {
    all.iter().map(|name| (*name).to_owned()).collect()
}

const NEW_KEYS: Renewal = Renewal { days: None, key: KeyChoice::New };
const SAME_KEYS: Renewal = Renewal { days: None, key: KeyChoice::Kept };

fn der(path: &PathBuf) -> Vec<u8> {
    match parts(&fs::read(path).unwrap()).unwrap().swap_remove(0) {
        Part::Certificate(der) | Part::Crl(der) => der,
        Part::Key(_) => panic!("a key"),
    }
}

/// The serial numbers of the list of a directory, and the list's number.
fn listed(directory: &std::path::Path) -> (Vec<String>, u64) {
    let facts = crl(&der(&directory.join("crl.pem"))).unwrap();
    (facts.revoked.into_iter().map(|revoked| revoked.serial).collect(), facts.number.unwrap())
}

fn shown_certificate(directory: &std::path::Path, subject: Subject, at: SystemTime) -> CertificateDocument {
    match show(directory, &subject, at).unwrap().swap_remove(0) {
        Document::Certificate(document) => *document,
        Document::Crl(_) => panic!("a list"),
    }
}

#[test]
fn a_certificate_has_what_both_ends_of_a_tunnel_need() {
    let (_folder, path, mut authority) = an_authority();
    let more = ["h2", "h2.example.net", "192.0.2.2", "2001:db8::2", "spiffe://example.org/h2"];
    let issued = authority.issue(&[request(&more)], Existing::Stays, now()).unwrap().swap_remove(0);
    let (leaf, root) = (der(&issued.certificate), vec![der(&path.join("ca.crt"))]);
    let facts = certificate(&leaf).unwrap();
    let kinds = ["DNS", "DNS", "IP", "IP", "URI"];
    let expected: Vec<_> = kinds.into_iter().zip(names(&more)).collect();
    assert_eq!(facts.names, expected);
    assert_eq!((facts.is_authority, facts.algorithm.as_str()), (false, "ECDSA P-256"));
    assert_eq!(facts.key_usage.unwrap(), ["digitalSignature"]);
    assert_eq!(facts.extended_usage.unwrap(), ["clientAuth", "serverAuth"]);
    assert_eq!(facts.serial.len(), 32);
    let authority = certificate(&root[0]).unwrap();
    assert_eq!((authority.is_authority, authority.path_length), (true, Some(0)));
    assert_eq!(authority.key_usage.unwrap(), ["keyCertSign", "cRLSign"]);
    assert!(authority.subject.starts_with("CN=prod CA "), "{}", authority.subject);

    // A clock that is behind by less than an hour takes it at once.
    for at in [now() - Duration::from_mins(59), now(), later(HOST_DAYS)] {
        assert_eq!(accepted(&leaf, &[], &root, at), Ok(()));
    }
    for at in [now() - Duration::from_mins(61), later(HOST_DAYS) + Duration::from_secs(1)] {
        assert!(accepted(&leaf, &[], &root, at).is_err());
    }
}

#[test]
fn two_cas_of_one_cluster_have_different_names() {
    let (first, second) = (an_authority(), an_authority());
    assert_ne!(first.2.subject(), second.2.subject());
}

#[test]
fn keys_are_for_their_owner_alone_and_so_is_the_directory() {
    let (_folder, path, mut authority) = an_authority();
    issue(&mut authority, "h2").unwrap();
    let mode = |name: &str| fs::metadata(path.join(name)).unwrap().mode() & 0o7777;
    assert_eq!(mode(""), 0o700);
    for name in ["ca.key", "h2.key", "issued.jsonl"] {
        assert_eq!(mode(name), 0o600, "{name}");
    }
    drop(authority);

    let set =
        |name: &str, mode| fs::set_permissions(path.join(name), fs::Permissions::from_mode(mode)).unwrap();
    set("ca.key", 0o640);
    assert!(matches!(Authority::open(&path, now()), Err(Error::OpenKey { mode: 0o640, .. })));
    set("ca.key", 0o600);
    set("", 0o750);
    assert!(matches!(Authority::open(&path, now()), Err(Error::OpenDirectory { mode: 0o750, .. })));
    set("", 0o700);
    Authority::open(&path, now()).unwrap();
}

#[test]
fn nothing_is_overwritten_that_is_to_stay() {
    let (_folder, path, mut authority) = an_authority();
    issue(&mut authority, "h2").unwrap();
    let before = fs::read(path.join("h2.key")).unwrap();
    assert!(matches!(issue(&mut authority, "h2"), Err(Error::Exists(_))));
    // A key without a certificate, and a link that leads nowhere, are there, too.
    fs::write(path.join("h3.key"), "mine").unwrap();
    symlink("/nonexistent/h4", path.join("h4.crt")).unwrap();
    for name in ["h3", "h4"] {
        assert!(matches!(issue(&mut authority, name), Err(Error::Exists(_))), "{name}");
    }
    assert_eq!(fs::read(path.join("h2.key")).unwrap(), before);
    assert_eq!(fs::read(path.join("h3.key")).unwrap(), b"mine");
    drop(authority);
    let again = init(&path, "prod", 1, now());
    assert!(matches!(again, Err(Error::AuthorityExists(_))), "{again:?}");
    // What an interrupted `init` has left is not taken for nothing.
    fs::remove_file(path.join("ca.crt")).unwrap();
    assert!(matches!(init(&path, "prod", 1, now()), Err(Error::AuthorityExists(_))));
}

#[test]
fn a_forced_certificate_follows_no_link_and_tells_of_the_one_before() {
    let (folder, path, mut authority) = an_authority();
    let first = issue(&mut authority, "h2").unwrap().swap_remove(0);
    let elsewhere = folder.path().join("elsewhere");
    fs::write(&elsewhere, "mine").unwrap();
    fs::remove_file(path.join("h2.key")).unwrap();
    symlink(&elsewhere, path.join("h2.key")).unwrap();
    let serial = certificate(&der(&first.certificate)).unwrap().serial;
    let second = authority.issue(&[request(&["h2"])], Existing::Replaced, now()).unwrap().swap_remove(0);
    assert_eq!(second.former, [(serial, later(HOST_DAYS))]);
    assert_eq!(fs::read(&elsewhere).unwrap(), b"mine");
    assert!(fs::symlink_metadata(path.join("h2.key")).unwrap().is_file());
    assert_eq!(shown_certificate(&path, Subject::Name("h2".into()), now()).key.state, KeyState::Matches);
}

#[test]
fn a_mistake_in_the_last_name_leaves_nothing_of_the_first() {
    let (_folder, path, mut authority) = an_authority();
    issue(&mut authority, "h2").unwrap();
    let before = fs::read_dir(&path).unwrap().count();
    let index = fs::read(path.join("issued.jsonl")).unwrap();
    for last in [request(&["h2"]), request(&["h1"])] {
        assert!(authority.issue(&[request(&["h1"]), last], Existing::Stays, now()).is_err());
    }
    assert!(authority.renew(&names(&["h2", "h3"]), NEW_KEYS, now()).is_err());
    assert!(authority.revoke(&names(&["h2", "h3"]), Others::Hinder, None, now()).is_err());
    assert!(authority.revoke(&names(&["h2", "h2"]), Others::Hinder, None, now()).is_err());
    assert_eq!(fs::read_dir(&path).unwrap().count(), before);
    assert_eq!(fs::read(path.join("issued.jsonl")).unwrap(), index);
}

#[test]
fn names_that_would_share_files_are_refused() {
    let (_folder, _path, mut authority) = an_authority();
    issue(&mut authority, "2001:db8::2").unwrap();
    for existing in [Existing::Stays, Existing::Replaced] {
        let other = authority.issue(&[request(&["2001-db8-2"])], existing, now());
        assert!(matches!(other, Err(Error::SameFiles { .. })), "{other:?}");
    }
    let pair = [request(&["x://a/b"]), request(&["x://a-b"])];
    assert!(matches!(authority.issue(&pair, Existing::Stays, now()), Err(Error::SameFiles { .. })));
}

#[test]
fn a_name_is_revoked_with_all_its_certificates_and_stays_so() {
    let (_folder, path, mut authority) = an_authority();
    assert_eq!(listed(&path), (vec![], 1));
    issue(&mut authority, "h2").unwrap();
    issue(&mut authority, "h3").unwrap();
    let serial = |name: &str| certificate(&der(&path.join(format!("{name}.crt")))).unwrap().serial;
    let first = serial("h2");
    authority.renew(&names(&["h2"]), NEW_KEYS, later(1)).unwrap();
    let second = serial("h2");
    assert_ne!(first, second);
    let done = authority.revoke(&names(&["h2"]), Others::Hinder, None, later(2)).unwrap();
    assert_eq!(done.revoked, [("h2".to_owned(), vec![first.clone(), second.clone()])]);
    let (serials, number) = listed(&path);
    assert_eq!((serials, number), (vec![first.clone(), second.clone()], done.number));

    // Again: nothing new, and the first moment stays.
    drop(authority);
    let mut authority = Authority::open(&path, later(3)).unwrap();
    let again = authority.revoke(&names(&["h2"]), Others::Hinder, Some(30), later(3)).unwrap();
    assert_eq!((&again.revoked[0].1, again.number), (&vec![], number + 1));
    let facts = crl(&der(&path.join("crl.pem"))).unwrap();
    assert!(facts.revoked.iter().all(|revoked| revoked.at == later(2)));
    assert_eq!(facts.until, Some(later(33)));
    assert!(matches!(authority.renew(&names(&["h2"]), NEW_KEYS, later(3)), Err(Error::Revoked { .. })));
    assert_eq!(authority.renewable(), ["h3"]);

    // Another certificate for the name is none of those that were revoked, and the time that was set stays.
    let forced = authority.issue(&[request(&["h2"])], Existing::Replaced, later(4)).unwrap();
    assert_eq!(forced[0].former, []);
    assert_eq!(crl(&der(&path.join("crl.pem"))).unwrap().until, Some(later(34)));
    assert_eq!(
        shown_certificate(&path, Subject::Name("h2".into()), later(4)).revocation,
        RevocationState::Good
    );
    let third = serial("h2");
    authority.revoke(&names(&["h2", "h3"]), Others::Hinder, None, later(5)).unwrap();
    assert_eq!(listed(&path).0, [first, second, serial("h3"), third]);
}

#[test]
fn no_certificate_with_a_name_that_is_revoked_stays_good_unseen() {
    let (_folder, path, mut authority) = an_authority();
    let mut issue = |names: &[&str], days| {
        authority.issue(&[Request { days, ..request(names) }], Existing::Stays, now()).unwrap();
    };
    issue(&["h2"], HOST_DAYS);
    issue(&["h2.example.net", "h2", "192.0.2.2"], HOST_DAYS);
    issue(&["short", "h2"], 9);
    issue(&["192.0.2.2"], HOST_DAYS);
    issue(&["h3"], HOST_DAYS);
    let before = fs::read(path.join("issued.jsonl")).unwrap();
    let mut refused = |names_of: &[&str], at| {
        let error = authority.revoke(&names(names_of), Others::Hinder, None, at).unwrap_err();
        assert_eq!(fs::read(path.join("issued.jsonl")).unwrap(), before);
        (error.to_string(), error.help())
    };
    let (told, help) = refused(&["h2"], now());
    for part in ["nothing is revoked", "h2.example.net has DNS h2, too (serial ", "short has DNS h2, too"] {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert!(!told.contains("h3") && !told.contains("192.0.2.2 has"), "{told}");
    assert!(help.contains("certs revoke h2 h2.example.net short`"), "{help}");
    // One that has ended is nobody's concern, and all names of what is revoked count.
    let (told, help) = refused(&["h2", "h2.example.net"], later(10));
    assert!(told.contains("192.0.2.2 has IP 192.0.2.2, too") && !told.contains("short"), "{told}");
    assert!(help.contains("certs revoke h2 h2.example.net 192.0.2.2`"), "{help}");

    let done = authority.revoke(&names(&["h2"]), Others::Stay, None, now()).unwrap();
    assert_eq!(done.revoked[0].1.len(), 1);
    // It is told also where the name itself has nothing left to revoke, and for names that nothing was issued by.
    assert!(matches!(
        authority.revoke(&names(&["h2"]), Others::Hinder, None, now()),
        Err(Error::StaysGood { .. })
    ));
    authority.issue(&[request(&["h4", "db"])], Existing::Stays, now()).unwrap();
    let error = authority.revoke(&names(&["db"]), Others::Hinder, None, now()).unwrap_err();
    assert!(error.to_string().contains("h4 has DNS db, too"), "{error}");
    assert!(error.help().contains("certs revoke h4`"), "{}", error.help());
    let all = names(&["h2", "h2.example.net", "short", "192.0.2.2"]);
    authority.revoke(&all, Others::Hinder, None, now()).unwrap();
    assert_eq!(listed(&path).0.len(), 4);
}

#[test]
fn a_list_is_written_anew_without_revoking_anything() {
    let (_folder, path, mut authority) = an_authority();
    issue(&mut authority, "h2").unwrap();
    authority.revoke(&names(&["h2"]), Others::Hinder, Some(30), now()).unwrap();
    let before = listed(&path);
    let done = authority.revoke(&[], Others::Hinder, None, later(20)).unwrap();
    assert_eq!((done.revoked, done.number, done.until), (vec![], before.1 + 1, later(50)));
    assert_eq!(listed(&path), (before.0, before.1 + 1));
    assert_eq!(crl(&der(&path.join("crl.pem"))).unwrap().until, Some(later(50)));
}

#[test]
fn the_library_of_the_guards_takes_the_list() {
    let (_folder, path, mut authority) = an_authority();
    for name in ["h2", "h3"] {
        issue(&mut authority, name).unwrap();
    }
    authority.revoke(&names(&["h2"]), Others::Hinder, None, now()).unwrap();
    let list = webpki::OwnedCertRevocationList::from_der(&der(&path.join("crl.pem"))).unwrap().into();
    let lists = [&list];
    let root = rustls::pki_types::CertificateDer::from(der(&path.join("ca.crt")));
    let anchors = [webpki::anchor_from_trusted_cert(&root).unwrap()];
    let verdict = |name: &str, at: SystemTime| {
        let leaf = rustls::pki_types::CertificateDer::from(der(&path.join(format!("{name}.crt"))));
        let leaf = webpki::EndEntityCert::try_from(&leaf).unwrap();
        let revocation = webpki::RevocationOptionsBuilder::new(&lists)
            .unwrap()
            .with_expiration_policy(webpki::ExpirationPolicy::Enforce)
            .build();
        let at = rustls::pki_types::UnixTime::since_unix_epoch(at.duration_since(UNIX_EPOCH).unwrap());
        let (all, usage) = (webpki::ALL_VERIFICATION_ALGS, webpki::KeyUsage::client_auth());
        leaf.verify_for_usage(all, &anchors, &[], at, usage, Some(revocation), None).map(drop)
    };
    assert_eq!(verdict("h2", now()), Err(webpki::Error::CertRevoked));
    // To the last day of the certificate the list that came with it is current.
    assert_eq!((verdict("h3", now()), verdict("h3", later(HOST_DAYS))), (Ok(()), Ok(())));
}

#[test]
fn what_is_on_the_list_and_not_in_the_index_stays_revoked_and_numbers_only_grow() {
    let (_folder, path, mut authority) = an_authority();
    issue(&mut authority, "h2").unwrap();
    issue(&mut authority, "h3").unwrap();
    let index = fs::read(path.join("issued.jsonl")).unwrap();
    authority.revoke(&names(&["h2"]), Others::Hinder, None, now()).unwrap();
    let before = listed(&path);
    drop(authority);
    // Somebody brings an old index back.
    fs::write(path.join("issued.jsonl"), index).unwrap();
    let mut authority = Authority::open(&path, now()).unwrap();
    authority.revoke(&names(&["h3"]), Others::Hinder, None, now()).unwrap();
    let after = listed(&path);
    assert_eq!((&after.0[..1], after.0.len(), after.1), (&before.0[..], 2, before.1 + 1));
    // Somebody loses the list.
    fs::remove_file(path.join("crl.pem")).unwrap();
    authority.revoke(&names(&["h2"]), Others::Hinder, None, now()).unwrap();
    assert_eq!((listed(&path).0.len(), listed(&path).1), (2, after.1 + 1));
    // Somebody puts another CA's there.
    let (_other, elsewhere, _ca) = an_authority();
    fs::copy(elsewhere.join("crl.pem"), path.join("crl.pem")).unwrap();
    let refused = authority.revoke(&names(&["h3"]), Others::Hinder, None, now()).unwrap_err();
    assert!(refused.to_string().contains("is the list of another CA"), "{refused}");
}

#[test]
fn a_renewed_certificate_has_the_names_and_the_time_of_the_one_before() {
    let (_folder, path, mut authority) = an_authority();
    let asked = Request { days: 30, ..request(&["h2", "192.0.2.2"]) };
    authority.issue(&[asked], Existing::Stays, now()).unwrap();
    let (key, public) = (path.join("h2.key"), || certificate(&der(&path.join("h2.crt"))).unwrap().public_key);
    let (text, first) = (fs::read(&key).unwrap(), public());
    let renewed = authority.renew(&names(&["h2"]), NEW_KEYS, later(20)).unwrap().swap_remove(0);
    assert_eq!((renewed.until, renewed.names.len(), renewed.key.as_ref()), (later(50), 2, Some(&key)));
    assert_ne!(fs::read(&key).unwrap(), text);
    let second = public();
    assert_ne!(second, first);

    // The key has gone to its host.
    fs::remove_file(&key).unwrap();
    let longer = Renewal { days: Some(60), ..SAME_KEYS };
    let renewed = authority.renew(&names(&["h2"]), longer, later(40)).unwrap().swap_remove(0);
    assert_eq!((renewed.until, renewed.key, renewed.former.len()), (later(100), None, 1));
    assert!(!key.exists());
    assert_eq!(public(), second);
    assert_eq!(shown_certificate(&path, Subject::Name("h2".into()), later(40)).key.state, KeyState::Absent);

    // A certificate that somebody put there is not signed anew.
    issue(&mut authority, "h3").unwrap();
    fs::copy(path.join("h3.crt"), path.join("h2.crt")).unwrap();
    assert!(matches!(authority.renew(&names(&["h2"]), SAME_KEYS, later(41)), Err(Error::BadFile { .. })));
}

#[test]
fn a_renewal_that_fails_leaves_the_keys_and_certificates_that_are_there() {
    let (_folder, path, mut authority) = an_authority();
    for name in ["h1", "h2"] {
        issue(&mut authority, name).unwrap();
    }
    let content =
        || ["h1.crt", "h1.key", "h2.crt", "h2.key"].map(|name| fs::read_to_string(path.join(name)).unwrap());
    let before = content();
    // The last file cannot be written.
    fs::create_dir(path.join(".h2.crt.new")).unwrap();
    for _ in 0..2 {
        assert!(matches!(authority.renew(&names(&["h1", "h2"]), NEW_KEYS, later(1)), Err(Error::Io { .. })));
        let forced = authority.issue(&[request(&["h1"]), request(&["h2"])], Existing::Replaced, later(1));
        assert!(matches!(forced, Err(Error::Io { .. })), "{forced:?}");
        assert_eq!(content(), before);
    }
    fs::remove_dir(path.join(".h2.crt.new")).unwrap();
    let left = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name());
    let left: Vec<_> = left.filter(|name| name.to_string_lossy().starts_with('.')).collect();
    assert!(left.is_empty(), "{left:?}");

    // The certificate that is there is not the last of the index, and its key is as good.
    let public = |name: &str| certificate(&der(&path.join(name))).unwrap().public_key;
    let key = public("h2.crt");
    authority.renew(&names(&["h1", "h2"]), SAME_KEYS, later(2)).unwrap();
    assert_eq!(public("h2.crt"), key);
    assert_eq!(content()[3], before[3]);
    // One that is revoked is signed anew for nobody, whatever the index has behind it.
    let revoked = fs::read(path.join("h2.crt")).unwrap();
    authority.revoke(&names(&["h2"]), Others::Hinder, None, later(3)).unwrap();
    authority.issue(&[request(&["h2"])], Existing::Replaced, later(3)).unwrap();
    fs::write(path.join("h2.crt"), revoked).unwrap();
    assert!(matches!(authority.renew(&names(&["h2"]), SAME_KEYS, later(4)), Err(Error::BadFile { .. })));
}

#[test]
fn no_certificate_outlives_its_ca_and_no_ca_issues_out_of_its_time() {
    let (_folder, path) = a_directory();
    let mut authority = init(&path, "prod", 30, now()).unwrap();
    let issued = issue(&mut authority, "h2").unwrap().swap_remove(0);
    assert_eq!((issued.until, issued.cut_short), (later(30), true));
    drop(authority);
    let early = Authority::open(&path, now() - Duration::from_hours(2));
    assert!(matches!(early, Err(Error::AuthorityNotYetValid { .. })));
    assert!(matches!(Authority::open(&path, later(31)), Err(Error::AuthorityExpired { .. })));
}

#[test]
fn one_command_at_a_time_is_at_work() {
    let (_folder, path, authority) = an_authority();
    assert!(matches!(Authority::open(&path, now()), Err(Error::Busy(_))));
    // Looking is always possible.
    assert_eq!(show(&path, &Subject::All, now()).unwrap().len(), 2);
    drop(authority);
    Authority::open(&path, now()).unwrap();
}

#[test]
fn a_ca_that_is_not_whole_is_refused_with_what_is_missing() {
    let (_folder, path, authority) = an_authority();
    drop(authority);
    let (_other, elsewhere, _ca) = an_authority();
    for name in ["ca.crt", "ca.key", "issued.jsonl"] {
        let kept = fs::read(path.join(name)).unwrap();
        fs::remove_file(path.join(name)).unwrap();
        let refused = Authority::open(&path, now()).unwrap_err();
        assert!(refused.to_string().contains(name), "{refused}");
        fs::write(path.join(name), "nonsense").unwrap();
        fs::set_permissions(path.join(name), fs::Permissions::from_mode(0o600)).unwrap();
        let refused = Authority::open(&path, now()).unwrap_err();
        assert!(matches!(refused, Error::BadFile { .. }), "{refused}");
        fs::write(path.join(name), kept).unwrap();
    }
    Authority::open(&path, now()).unwrap();
    fs::copy(elsewhere.join("ca.key"), path.join("ca.key")).unwrap();
    let refused = Authority::open(&path, now()).unwrap_err();
    assert!(refused.to_string().ends_with("is not the key of ca.crt"), "{refused}");
    let nowhere = Authority::open(&path.join("nowhere"), now()).unwrap_err();
    assert!(matches!(nowhere, Error::NoAuthority { missing: "ca.crt", .. }), "{nowhere}");
    for cluster in ["", " prod", "a\nb", &"x".repeat(49)] {
        assert!(matches!(init(&path.join("new"), cluster, 1, now()), Err(Error::Cluster(_))), "{cluster:?}");
    }
    assert!(!path.join("new").exists());
}

#[test]
fn what_is_shown_says_why_no_guard_would_take_it() {
    let (_folder, path, mut authority) = an_authority();
    let issued = issue(&mut authority, "h2").unwrap().swap_remove(0);
    issue(&mut authority, "h3").unwrap();
    let h2 = || Subject::Name("h2".into());
    let good = shown_certificate(&path, h2(), now());
    assert_eq!(
        (good.obstacles.len(), good.validity, good.key.state),
        (0, Validity::Valid, KeyState::Matches)
    );
    assert_eq!(good.remaining_seconds, 86_400.0 * f64::from(HOST_DAYS));
    assert_eq!(good.checked_with, Some(path.join("ca.crt").display().to_string()));
    let obstacle = |at, what: &str| {
        let found = shown_certificate(&path, h2(), at).obstacles;
        assert!(found.len() == 1 && found[0].contains(what), "{what}: {found:?}");
    };
    obstacle(later(400), "it has expired");
    obstacle(now() - Duration::from_hours(2), "it is not valid yet");
    let key = fs::read(path.join("h2.key")).unwrap();
    fs::copy(path.join("h3.key"), path.join("h2.key")).unwrap();
    obstacle(now(), "that of another certificate");
    fs::write(path.join("h2.key"), key).unwrap();
    authority.revoke(&names(&["h2"]), Others::Hinder, None, now()).unwrap();
    obstacle(now(), "it is revoked");

    // The same file where another CA is trusted, and where none is.
    let (other, elsewhere, _ca) = an_authority();
    let file = elsewhere.join("foreign.crt");
    fs::copy(&issued.certificate, &file).unwrap();
    let foreign = shown_certificate(&elsewhere, Subject::File(file), now());
    assert!(foreign.obstacles[0].contains("does not vouch for it"), "{:?}", foreign.obstacles);
    assert_eq!(foreign.revocation, RevocationState::Unknown);
    let file = other.path().join("alone.pem");
    fs::copy(&issued.certificate, &file).unwrap();
    let alone = shown_certificate(&other.path().join("nowhere"), Subject::File(file), now());
    assert_eq!((alone.obstacles.len(), alone.checked_with, alone.key.state), (0, None, KeyState::Absent));
}

#[test]
fn certificates_of_other_cas_are_shown_with_what_they_lack() {
    let (folder, _path) = a_directory();
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec![]).unwrap();
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    let made = params.self_signed(&key).unwrap();
    // As SPIFFE helpers and cert-manager lay them down: the key in a file beside it, or in the same one.
    let (file, beside) = (folder.path().join("svid.pem"), folder.path().join("svid_key.pem"));
    fs::write(&file, made.pem()).unwrap();
    fs::write(&beside, key.serialize_pem()).unwrap();
    fs::set_permissions(&beside, fs::Permissions::from_mode(0o644)).unwrap();
    let shown = shown_certificate(folder.path(), Subject::File(file.clone()), now());
    let expected = [
        "it has no DNS, IP or URI name that a [[peer]] could be known by",
        "it is not for clientAuth (extendedKeyUsage)",
    ];
    assert_eq!(shown.obstacles, expected);
    assert_eq!(shown.key.state, KeyState::Matches);
    assert!(shown.key.detail.unwrap().contains("mode 0644"));
    fs::write(&file, key.serialize_pem() + &made.pem()).unwrap();
    fs::remove_file(&beside).unwrap();
    let shown = shown_certificate(folder.path(), Subject::File(file.clone()), now());
    assert_eq!((shown.key.state, shown.key.file), (KeyState::Matches, Some(file.display().to_string())));
    // In DER.
    fs::write(&file, made.der()).unwrap();
    assert_eq!(shown_certificate(folder.path(), Subject::File(file.clone()), now()).obstacles, expected);
    fs::write(&file, "nonsense").unwrap();
    assert!(matches!(show(folder.path(), &Subject::File(file), now()), Err(Error::BadFile { .. })));
}

proptest! {
    #[test]
    fn no_file_makes_reading_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        end in any::<prop::sample::Index>(),
        list in any::<bool>(),
    ) {
        static MADE: std::sync::OnceLock<(Vec<u8>, Vec<u8>)> = std::sync::OnceLock::new();
        let (leaf, crl_der) = MADE.get_or_init(|| {
            let (_folder, path, mut authority) = an_authority();
            let issued = authority.issue(
                &[request(&["h2", "192.0.2.2", "spiffe://example.org/h2"])], Existing::Stays, now(),
            ).unwrap();
            authority.revoke(&names(&["h2"]), Others::Hinder, None, now()).unwrap();
            (der(&issued[0].certificate), der(&path.join("crl.pem")))
        });
        let mut bytes = if list { crl_der.clone() } else { leaf.clone() };
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.truncate(end.index(bytes.len()) + 1);
        drop((certificate(&bytes), crl(&bytes), parts(&bytes), accepted(&bytes, &[], &[], now())));
    }
}
