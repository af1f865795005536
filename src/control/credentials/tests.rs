//! Real certificates in real files, by the clock of this host.

use std::os::unix::fs::{PermissionsExt, symlink};

use tokio::sync::mpsc;

use super::*;
use crate::config::OnCrl;
use crate::control::credentials::keyring::Judged;
use crate::policy::Caps;
use crate::session::{Context, ContextParts, Habits, Snapshot, Snapshots};
use crate::transport::tls::testing::{Ca, DAY, Host};

fn now() -> UnixTime {
    certificate_time()
}

fn new(tls: &Tls) -> Arc<Credentials> {
    match read_credentials(tls, None, now()) {
        Ok(Found::New(credentials)) => credentials,
        other => panic!("{other:?}"),
    }
}

fn faults(tls: &Tls) -> Vec<CredentialFault> {
    read_credentials(tls, None, now()).unwrap_err()
}

/// What other guards would refuse.
fn unfit(tls: &Tls) -> CredentialFault {
    match read_credentials(tls, None, now()) {
        Ok(Found::Unfit(fault)) => fault,
        other => panic!("{other:?}"),
    }
}

/// A guard with this `[tls]`, and who looks after it.
struct Watched {
    snapshots: Snapshots,
    context: Arc<Context>,
    keyring: Arc<Keyring>,
    lookout: Lookout,
}

impl Watched {
    fn new(tls: &Tls) -> Self {
        let mut config = crate::config::from_text("test", "", &Default::default()).unwrap().config;
        config.tls = tls.clone();
        let (keyring, credentials) = Keyring::begin(read_credentials(tls, None, now()).unwrap());
        let first = Snapshot::new(1, Arc::new(config)).with_credentials(credentials);
        let snapshots = Snapshots::new(first);
        let context = Arc::new(Context::new(ContextParts {
            snapshots: snapshots.clone(),
            caps: Caps { total: 9, reserve: 1, per_address: 9, per_subnet: 9 },
            ports: None,
            strangers: mpsc::channel(1).0,
            habits: Habits::default(),
        }));
        let keyring = Arc::new(keyring);
        let lookout = Lookout::new(snapshots.clone(), Arc::clone(&context), Arc::clone(&keyring));
        Self { snapshots, context, keyring, lookout }
    }

    fn serial(&self) -> Option<String> {
        self.snapshots.current().credentials().map(|credentials| credentials.own().serial)
    }

    fn counted(&self, result: &str) -> bool {
        let metrics = &self.context.metrics;
        let traffic = metrics.traffic([]);
        let observed = crate::telemetry::Observed {
            version: "",
            generation: 1,
            last_reload: None,
            readiness: crate::telemetry::Readiness::Ready,
            intake: crate::policy::Intake::Open,
            mode: crate::policy::Mode::Enforce,
            tls: None,
            half_open: 0,
            bans: 0,
            connections: 0,
            links: 0,
            traffic,
            peers: Vec::new(),
            tables: Vec::new(),
            ports_open: Vec::new(),
            nodes_exposed: 0,
            process: crate::telemetry::process(),
            log_lines_dropped: 0,
        };
        let line = format!("epmd_guard_credential_changes_total{{result=\"{result}\"}} 1\n");
        metrics.render(&observed).contains(&line)
    }
}

#[test]
fn what_the_files_hold_is_taken_once_and_then_stays_the_same() {
    let ca = Ca::new("ca");
    let host = Host::new(&ca.issue("h1.test", 7, (-DAY, 90 * DAY)), &ca);
    assert!(matches!(read_credentials(&Tls::default(), None, now()), Ok(Found::None)));
    let first = new(&host.tls);
    assert_eq!(first.own().serial, "07");
    assert_eq!(first.counts(), (1, 0));
    let Ok(Found::Same(again)) = read_credentials(&host.tls, Some(&first), now()) else { panic!() };
    assert!(Arc::ptr_eq(&first, &again), "sessions would not be resumed");
    // Another rule makes others of the same files.
    let host = host.with_crl(&ca.revoke(&[], (-DAY, DAY)));
    let with_crl = new(&host.tls);
    assert_eq!(changed_purposes(Some(&first), &with_crl), [Purpose::Crl]);
    let mut strict = host.tls.clone();
    strict.crl.stale = OnCrl::Refuse;
    assert!(matches!(read_credentials(&strict, Some(&with_crl), now()), Ok(Found::New(_))));
}

#[test]
fn each_fault_names_its_file_and_what_to_do() {
    let ca = Ca::new("ca");
    let host = Host::new(&ca.issue("h1.test", 7, (-9 * DAY, -DAY)), &ca);
    let expired = unfit(&host.tls);
    let text = expired.to_string();
    let path = host.path("cert.pem").display().to_string();
    assert!(text.starts_with(&format!("[tls] cert: {path}: other guards would refuse")), "{text}");
    assert!(text.contains("was good until") && expired.help().contains("certs renew"), "{text}");
    assert_eq!(expired.purpose(), Purpose::Certificate);

    host.show(&Ca::new("other").issue("h1.test", 7, (-DAY, DAY)));
    assert!(unfit(&host.tls).help().contains("[tls] ca"));
    host.show(&ca.issue("h1.test", 7, (-DAY, DAY)));
    let host = host.with_crl(&ca.revoke(&[7], (-DAY, DAY)));
    assert!(unfit(&host.tls).to_string().contains("is revoked"));
    std::fs::remove_file(host.path("crl.pem")).unwrap();
    std::fs::remove_file(host.path("key.pem")).unwrap();
    let both = faults(&host.tls);
    let purposes: Vec<Purpose> = both.iter().map(CredentialFault::purpose).collect();
    assert_eq!(purposes, [Purpose::Key, Purpose::Crl]);
    assert!(both.iter().all(|fault| !fault.help().is_empty()));
}

#[tokio::test]
async fn a_rotated_certificate_is_taken_at_the_next_look_and_the_number_stays() {
    let ca = Ca::new("ca");
    let host = Host::new(&ca.issue("h1.test", 1, (-DAY, DAY)), &ca);
    let mut watched = Watched::new(&host.tls);
    watched.lookout.look().await;
    assert_eq!(watched.serial().unwrap(), "01");
    host.show(&ca.issue("h1.test", 2, (-DAY, DAY)));
    watched.lookout.look().await;
    assert_eq!(watched.serial().unwrap(), "02");
    assert_eq!(watched.snapshots.current().generation, 1);
    assert!(watched.counted("ok"));
    // Written anew, and the same.
    let before = watched.snapshots.current().credentials().cloned().unwrap();
    let pem = std::fs::read_to_string(host.path("cert.pem")).unwrap();
    host.write("cert.pem", &pem);
    watched.lookout.look().await;
    assert!(Arc::ptr_eq(&before, watched.snapshots.current().credentials().unwrap()));
    // Nothing was touched: nothing is read.
    assert!(watched.keyring.refused().is_none());
}

#[tokio::test]
async fn a_swap_of_links_is_a_rotation() {
    let ca = Ca::new("ca");
    let host = Host::new(&ca.issue("unused.test", 9, (-DAY, DAY)), &ca);
    for (version, serial) in [("..1", 1), ("..2", 2)] {
        std::fs::create_dir(host.path(version)).unwrap();
        let issued = ca.issue("h1.test", serial, (-DAY, DAY));
        host.write(&format!("{version}/key.pem"), &issued.key);
        host.write(&format!("{version}/cert.pem"), &issued.cert);
    }
    symlink("..1", host.path("..data")).unwrap();
    for name in ["cert.pem", "key.pem"] {
        std::fs::remove_file(host.path(name)).unwrap();
        symlink(format!("..data/{name}"), host.path(name)).unwrap();
    }
    let mut watched = Watched::new(&host.tls);
    watched.lookout.look().await;
    assert_eq!(watched.serial().unwrap(), "01");
    symlink("..2", host.path("..new")).unwrap();
    std::fs::rename(host.path("..new"), host.path("..data")).unwrap();
    watched.lookout.look().await;
    assert_eq!(watched.serial().unwrap(), "02");
}

#[tokio::test]
async fn a_bad_file_changes_nothing_is_told_once_and_mended_without_being_written() {
    let ca = Ca::new("ca");
    let host = Host::new(&ca.issue("h1.test", 1, (-DAY, DAY)), &ca);
    let mut watched = Watched::new(&host.tls);
    let next = ca.issue("h1.test", 2, (-DAY, DAY));
    host.write("cert.pem", &next.cert);
    watched.lookout.look().await;
    // The key is still the one before.
    let Some(Refused::Faulty(first)) = watched.keyring.refused() else { panic!() };
    assert_eq!(first[0].purpose(), Purpose::Key);
    assert_eq!(watched.serial().unwrap(), "01");
    assert!(watched.counted("refused"));
    watched.lookout.look().await;
    assert!(watched.counted("refused"), "it is told again");
    host.write("key.pem", &next.key);
    let open = |mode| {
        std::fs::set_permissions(host.path("key.pem"), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    open(0o644);
    watched.lookout.look().await;
    let Some(Refused::Faulty(second)) = watched.keyring.refused() else { panic!() };
    assert!(second[0].help().starts_with("chmod 0600"));
    assert_eq!(watched.serial().unwrap(), "01");
    open(0o600);
    watched.lookout.look().await;
    assert!(watched.keyring.refused().is_none());
    assert_eq!(watched.serial().unwrap(), "02");
}

#[tokio::test]
async fn a_certificate_whose_time_has_not_come_is_waited_for() {
    let ca = Ca::new("ca");
    let host = Host::new(&ca.issue("h1.test", 1, (DAY, 9 * DAY)), &ca);
    let mut watched = Watched::new(&host.tls);
    assert_eq!(watched.serial(), None);
    assert!(watched.keyring.waits() && watched.keyring.is_restless());
    let Some(Refused::Early(fault)) = watched.keyring.refused() else { panic!() };
    assert!(fault.help().contains("clock"));
    watched.lookout.look().await;
    assert_eq!(watched.serial(), None);

    // A reload of something else may go on; one that brings another such certificate may not.
    let judged: Judged =
        watched.keyring.judge(read_credentials(&host.tls, None, now()).unwrap(), None).unwrap();
    assert!(judged.credentials.is_none() && judged.warning.unwrap().contains("is good from"));
    host.show(&ca.issue("h1.test", 2, (2 * DAY, 9 * DAY)));
    let found = read_credentials(&host.tls, None, now()).unwrap();
    assert!(watched.keyring.judge(found, None).is_err());

    // Its time comes: the clock of this host is another one's.
    let later = UnixTime::since_unix_epoch(Duration::from_secs(now().as_secs() + 3 * 86_400));
    assert!(matches!(read_credentials(&host.tls, None, later), Ok(Found::New(_))));
    host.show(&ca.issue("h1.test", 3, (-DAY, 9 * DAY)));
    watched.lookout.look().await;
    assert_eq!(watched.serial().unwrap(), "03");
    assert!(!watched.keyring.is_restless());
    // While one is in force, the next one is waited for beside it.
    host.show(&ca.issue("h1.test", 4, (DAY, 9 * DAY)));
    watched.lookout.look().await;
    assert_eq!(watched.serial().unwrap(), "03");
    assert!(watched.keyring.waits());
}

#[test]
fn a_certificate_that_has_ended_in_force_keeps_no_reload_from_anything_else() {
    let ca = Ca::new("ca");
    let host = Host::new(&ca.issue("h1.test", 1, (-9 * DAY, -DAY)), &ca);
    let then = UnixTime::since_unix_epoch(Duration::from_secs(now().as_secs() - 2 * 86_400));
    let Ok(Found::New(old)) = read_credentials(&host.tls, None, then) else { panic!() };
    let found = read_credentials(&host.tls, Some(&old), now()).unwrap();
    let judged = Keyring::default().judge(found, Some(&old)).unwrap();
    assert!(Arc::ptr_eq(&judged.credentials.unwrap(), &old));
    assert!(judged.warning.unwrap().contains("was good until"));
}

#[tokio::test]
async fn a_guard_starts_without_tunnels_where_others_would_refuse_its_certificate_and_takes_the_next_one() {
    let ca = Ca::new("ca");
    let host = Host::new(&ca.issue("h1.test", 1, (-9 * DAY, -DAY)), &ca);
    let mut watched = Watched::new(&host.tls);
    assert_eq!(watched.serial(), None);
    let Some(Refused::Faulty(first)) = watched.keyring.refused() else { panic!() };
    assert!(first[0].to_string().contains("was good until"), "{first:?}");
    // The clock goes on, and it is no other fault for that.
    watched.lookout.look().await;
    assert!(!watched.counted("refused"), "it is told again");
    assert!(watched.keyring.is_restless());

    // It keeps nobody from changing something else; another one that cannot be used is refused.
    let judged = watched.keyring.judge(read_credentials(&host.tls, None, now()).unwrap(), None).unwrap();
    assert!(judged.credentials.is_none() && judged.warning.as_ref().unwrap().contains("was good until"));
    watched.keyring.follow(&judged);
    assert!(watched.keyring.refused().is_some(), "it is forgotten");
    host.show(&ca.issue("h1.test", 2, (-9 * DAY, -DAY)));
    let found = read_credentials(&host.tls, None, now()).unwrap();
    assert!(watched.keyring.judge(found, None).is_err());

    host.show(&ca.issue("h1.test", 3, (-DAY, 9 * DAY)));
    watched.lookout.look().await;
    assert_eq!(watched.serial().unwrap(), "03");
    assert!(watched.keyring.refused().is_none());
}

#[tokio::test]
async fn a_list_that_is_stale_at_the_start_is_waited_for() {
    let ca = Ca::new("ca");
    let mut host =
        Host::new(&ca.issue("h1.test", 1, (-DAY, DAY)), &ca).with_crl(&ca.revoke(&[], (-9 * DAY, -DAY)));
    host.tls.crl.stale = OnCrl::Refuse;
    host.tls.look_every = None;
    let mut watched = Watched::new(&host.tls);
    assert_eq!(watched.serial(), None);
    // Also where nobody wants files to be looked at while something is in force.
    assert!(watched.lookout.every().is_some());
    host.write("crl.pem", &ca.revoke(&[], (-DAY, DAY)));
    watched.lookout.look().await;
    assert_eq!(watched.serial().unwrap(), "01");
    assert_eq!(watched.lookout.every(), None);
}

#[tokio::test]
async fn a_fault_that_differs_by_what_the_clock_says_is_told_once() {
    let ca = Ca::new("ca");
    let host = Host::new(&ca.issue("h1.test", 1, (-9 * DAY, -DAY)), &ca);
    let at = |ago: u64| {
        let moment = UnixTime::since_unix_epoch(Duration::from_secs(now().as_secs() - ago));
        match read_credentials(&host.tls, None, moment) {
            Ok(Found::Unfit(fault)) => fault,
            other => panic!("{other:?}"),
        }
    };
    let keyring = Keyring::default();
    let last = vec![at(0)];
    assert!(keyring.fault(vec![at(60)]));
    assert!(!keyring.fault(last.clone()));
    assert_eq!(keyring.refused(), Some(Refused::Faulty(last)));
}

#[tokio::test]
async fn an_older_list_makes_nothing_good_again_that_is_revoked() {
    let (ca, other) = (Ca::new("ca"), Ca::new("ca"));
    let good = (-2 * DAY, 9 * DAY);
    let host = Host::new(&ca.issue("h1.test", 1, (-DAY, DAY)), &ca).with_crl(&ca.list(300, &[7], good));
    let mut watched = Watched::new(&host.tls);
    // A number of fewer bytes, whatever its date; the same number of an earlier day.
    for (older, told) in [
        (ca.list(9, &[], (-DAY, 9 * DAY)), "number 9 of"),
        (ca.list(300, &[], (-3 * DAY, DAY)), "number 300 of"),
    ] {
        host.write("crl.pem", &older);
        watched.lookout.look().await;
        let Some(Refused::Faulty(faults)) = watched.keyring.refused() else { panic!() };
        let text = faults[0].to_string();
        assert!(text.starts_with(&format!("[tls] crl: {}", host.path("crl.pem").display())), "{text}");
        assert!(text.contains(told) && text.contains("in force is number 300 of CN=ca"), "{text}");
        assert!(faults[0].help().contains("take the file out of [tls] crl"));
        let in_force = watched.snapshots.current().credentials().cloned().unwrap();
        assert!(read_credentials(&host.tls, Some(&in_force), now()).is_err(), "a reload takes it");
    }
    // What comes later counts, whatever it lacks, and where an old one lies beside it.
    host.write("crl.pem", &[ca.list(9, &[], good), ca.list(301, &[], good)].concat());
    watched.lookout.look().await;
    assert!(watched.keyring.refused().is_none());
    // Another CA of the same name counts for itself.
    host.write("crl.pem", &[ca.list(301, &[], good), other.list(1, &[], good)].concat());
    watched.lookout.look().await;
    assert!(watched.keyring.refused().is_none());
    host.write("ca.pem", &(ca.pem() + &other.pem()));
    host.show(&other.issue("h1.test", 1, (-DAY, DAY)));
    host.write("crl.pem", &other.list(2, &[], good));
    watched.lookout.look().await;
    assert!(watched.keyring.refused().is_none());
}
