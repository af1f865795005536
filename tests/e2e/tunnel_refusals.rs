//! Whom a guard takes for nobody: certificates that are not good, or not those of who shows them, from both ends of a tunnel.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use epmd_guard::certs::{self, Authority, Existing, Name, Request};
use serde_json::Value;

use crate::common::require;
use crate::support::daemon::Mark;
use crate::support::erlang::Node;
use crate::support::eventually::eventually;
use crate::support::guard::{Guard, SOON, field};
use crate::support::said::Said;
use crate::support::tunnel::{Scene, SceneBuilder, TunnelHost, read};

/// A node gives a handshake 7 s: who is told no has not waited for that.
const PROMPT: Duration = Duration::from_secs(7);
pub(crate) const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Hosts whose guards do without lists of CAs that are not the scene's.
pub(crate) fn lenient(names: &[&str]) -> SceneBuilder {
    Scene::of(names).tls("crl_partial = \"accept\"")
}

/// Waits until a guard has said what has these words in one of its lines after `mark`.
#[track_caller]
pub(crate) fn wait_said(guard: &Guard, mark: Mark, words: &[&str]) -> Value {
    let line = guard.daemon().wait_line_after(mark, &format!("{words:?}"), SOON, |line| {
        words.iter().all(|word| line.contains(word))
    });
    serde_json::from_str(&line).unwrap_or_default()
}

/// Ends the link, and waits until the other node has seen it go.
#[track_caller]
pub(crate) fn unlink(from: &Node, to: &Node) {
    assert_eq!(from.eval(&format!("disconnect_node('{}').", to.full_name())), "true");
    eventually("the link is gone", SOON, || to.eval("nodes().") == "[]");
}

/// Two hosts, whose guards know each other, until `spoil` has changed what the second one shows.
struct Spoilt {
    scene: Scene,
    a: Node,
    b: Node,
    marks: [Mark; 2],
}

impl Spoilt {
    #[track_caller]
    fn new(shape: SceneBuilder, spoil: impl FnOnce(&mut Scene)) -> Self {
        let mut scene = shape.start();
        let (a, b) = (scene.hosts[0].node("a").start(), scene.hosts[1].node("b").start());
        for (from, to) in [(&a, &b), (&b, &a)] {
            assert!(from.ping(to), "{} does not reach {} before", from.full_name(), to.full_name());
            unlink(from, to);
        }
        let marks = [0, 1].map(|number: usize| scene.hosts[number].guard.mark());
        spoil(&mut scene);
        Self { scene, a, b, marks }
    }

    /// From neither side does a node reach the other one, and no guard dials any. The first guard says why, with this reason
    /// where it was dialled and where it has dialled, and the second one with what words it was told.
    #[track_caller]
    fn is_refused(&self, reason: &str, told: &str) {
        self.is_refused_by((reason, reason), (told, told));
    }

    /// The same, where the two sides have different words for it: that which was dialled, and that which has dialled.
    #[track_caller]
    fn is_refused_by(&self, (reason, dialling): (&str, &str), (told, told_by_dialling): (&str, &str)) {
        let [h1, h2, ..] = &self.scene.hosts[..] else { panic!("two hosts") };
        let dials = [(h1, &self.a), (h2, &self.b)].map(|(at, node)| at.host.counter("lo", node.port()));
        for (from, to) in [(&self.b, &self.a), (&self.a, &self.b)] {
            let begun = Instant::now();
            assert!(!from.ping(to), "{} reaches {}", from.full_name(), to.full_name());
            assert!(begun.elapsed() < PROMPT, "{:?}", begun.elapsed());
        }
        let [mark, other] = self.marks;
        let quoted = format!("\"reason\":\"{reason}\"");
        wait_said(&h1.guard, mark, &["\"role\":\"tunnel\"", &quoted]);
        // Where it dials: the look-up or the link, whichever comes first.
        let listener = "\"listener\":\"127.0.0.12:";
        let said = wait_said(&h1.guard, mark, &["\"message\":\"closed\"", listener, "\"level\":\"WARN\""]);
        let (why, detail) = (field(&said, "reason"), field(&said, "detail"));
        assert!(why == dialling || why == "no_way" && detail.contains("the certificate of"), "{said}");
        wait_said(&h2.guard, other, &["\"message\":\"closed\"", "\"listener\":\"127.0.0.11:", told]);
        wait_said(&h2.guard, other, &["\"message\":\"closed\"", "\"role\":\"tunnel\"", told_by_dialling]);
        assert_eq!(dials.map(|dialled| dialled.count()), [0, 0], "no node heard of it");
    }
}

#[track_caller]
fn reload(scene: &Scene, number: usize) {
    let said = scene.reload(&scene.hosts[number], |text| text);
    assert_eq!(said.code, 0, "{said:?}");
}

/// A CA of its own, with certificates for these names.
#[track_caller]
pub(crate) fn other_ca(scene: &Scene, name: &str, hosts: &[&str]) -> PathBuf {
    let dir = scene.lab.dir().join(name);
    scene.certs(&dir, "init", &["--name", name]);
    scene.certs(&dir, "issue", hosts);
    dir
}

/// A certificate that began and ends when it is said, by a CA that is as old as it needs to be.
pub(crate) fn timed(dir: &Path, name: &str, begins: SystemTime, days: u32) {
    let mut ca = match Authority::open(dir, SystemTime::now()) {
        Ok(ca) => ca,
        Err(_) => certs::init(dir, "timed", 3650, begins).unwrap(),
    };
    let request = Request { names: vec![Name::parse(name).unwrap()], days };
    drop(ca.issue(&[request], Existing::Replaced, begins).unwrap());
}

#[test]
fn a_certificate_of_another_ca_is_refused_from_both_ends() {
    if !require() {
        return;
    }
    let spoilt = Spoilt::new(lenient(&["h1", "h2"]), |scene| {
        let foreign = other_ca(scene, "foreign", &["h2.test"]);
        let h2 = &scene.hosts[1];
        h2.put_certificate(&foreign, "h2.test");
        h2.put("ca.crt", &[read(&scene.ca().join("ca.crt")), read(&foreign.join("ca.crt"))].concat());
        reload(scene, 1);
    });
    spoilt.is_refused("certificate_unknown_issuer", "unknown_ca");
}

#[test]
fn a_revoked_certificate_is_refused_from_both_ends_where_a_session_could_be_resumed() {
    if !require() {
        return;
    }
    // The guards have spoken with each other before, so that both have tickets.
    let spoilt = Spoilt::new(lenient(&["h1", "h2"]), |scene| {
        scene.certs(&scene.ca(), "revoke", &["h2.test"]);
        scene.hosts[0].put("crl.pem", &read(&scene.ca().join("crl.pem")));
        reload(scene, 0);
    });
    spoilt.is_refused("certificate_revoked", "certificate_revoked");
}

#[test]
fn a_certificate_whose_time_is_over_is_refused_from_both_ends() {
    if !require() {
        return;
    }
    let spoilt = Spoilt::new(lenient(&["h1", "h2"]), |scene| {
        // In force while its guard takes it, and over soon after.
        let dir = scene.lab.dir().join("old");
        let (now, lasts) = (SystemTime::now(), Duration::from_secs(4));
        drop(certs::init(&dir, "old", 3650, now - 2 * DAY).unwrap());
        timed(&dir, "h2.test", now - DAY + lasts, 1);
        let both = [read(&scene.ca().join("ca.crt")), read(&dir.join("ca.crt"))].concat();
        scene.hosts[1].put_certificate(&dir, "h2.test");
        for number in [0, 1] {
            scene.hosts[number].put("ca.crt", &both);
            reload(scene, number);
        }
        eventually("the certificate has ended", SOON, || {
            SystemTime::now() > now + lasts + Duration::from_secs(1)
        });
    });
    spoilt.is_refused("certificate_expired", "certificate_expired");
}

#[test]
fn a_certificate_that_is_nobodys_is_refused_from_both_ends() {
    if !require() {
        return;
    }
    let spoilt = Spoilt::new(lenient(&["h1", "h2"]), |scene| {
        scene.certs(&scene.ca(), "issue", &["h9.test"]);
        scene.hosts[1].put_certificate(&scene.ca(), "h9.test");
        reload(scene, 1);
    });
    spoilt.is_refused_by(("unknown_identity", "wrong_identity"), ("unknown_identity", "wrong_identity"));
}

#[test]
fn a_certificate_of_another_peer_is_refused_from_both_ends() {
    if !require() {
        return;
    }
    let spoilt = Spoilt::new(lenient(&["h1", "h2", "h3"]), |scene| {
        scene.hosts[1].put_certificate(&scene.ca(), "h3.test");
        reload(scene, 1);
    });
    spoilt.is_refused("wrong_identity", "wrong_identity");
}

/// A certificate of a peer's name that openssl makes: one that has vouched for itself.
#[track_caller]
fn self_signed(scene: &Scene, name: &str) -> PathBuf {
    let dir = scene.lab.dir().join("self");
    std::fs::create_dir_all(&dir).unwrap();
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]);
    openssl.args(["-days", "9", "-subj", &format!("/CN={name}"), "-addext"]);
    openssl.args([&format!("subjectAltName=DNS:{name}"), "-addext", "basicConstraints=critical,CA:FALSE"]);
    openssl
        .arg("-out")
        .arg(dir.join(format!("{name}.crt")))
        .arg("-keyout")
        .arg(dir.join(format!("{name}.key")));
    let said = Said::by(openssl);
    assert_eq!(said.code, 0, "{said:?}");
    dir
}

/// `openssl s_client` from one host to the guard of another.
#[track_caller]
fn client(from: &TunnelHost, to: &TunnelHost, args: &[&str]) -> Said {
    let mut openssl = from.host.command("timeout");
    openssl.args(["20", "openssl", "s_client", "-connect", &format!("{}:4371", to.host.v4())]);
    openssl.args(["-alpn", "epmd-guard/1", "-ign_eof", "-msg"]).args(args);
    Said::by(openssl)
}

/// The arguments that have it show the certificate of a name in a directory.
fn showing(dir: &Path, name: &str) -> [String; 4] {
    let file = |end: &str| dir.join(format!("{name}.{end}")).display().to_string();
    ["-cert".to_owned(), file("crt"), "-key".to_owned(), file("key")]
}

/// Bytes of the application that came: there is a record of them, or the line of openssl that shows one.
fn application_bytes(said: &Said) -> bool {
    said.out.contains("<<< TLS 1.3, ApplicationData") || said.out.contains("HELLO")
}

/// The guard of the first host tells no one who shows this from the second one; openssl, with `alert`, and the log, with
/// `reason`, say why.
#[track_caller]
fn stranger_is_refused(scene: &Scene, shown: &[String], reason: &str, alert: &str) {
    let [h1, h2] = &scene.hosts[..] else { panic!("two hosts") };
    let mark = h1.guard.mark();
    let said = client(h2, h1, &shown.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(format!("{}{}", said.out, said.err).contains(alert), "{alert}: {said:?}");
    assert!(!application_bytes(&said), "{said:?}");
    let reason = format!("\"reason\":\"{reason}\"");
    wait_said(&h1.guard, mark, &["\"message\":\"closed\"", "\"role\":\"tunnel\"", &reason]);
}

#[test]
fn who_shows_no_certificate_gets_an_alert_and_no_byte_of_the_protocol() {
    if !require() {
        return;
    }
    let scene = lenient(&["h1", "h2"]).start();
    stranger_is_refused(&scene, &[], "certificate_none", "alert certificate required");
}

#[test]
fn who_speaks_no_newer_tls_than_1_2_is_refused() {
    if !require() {
        return;
    }
    let scene = lenient(&["h1", "h2"]).start();
    let shown = [&showing(&scene.ca(), "h2.test")[..], &["-tls1_2".to_owned()]].concat();
    stranger_is_refused(&scene, &shown, "tls_version", "alert protocol version");
}

#[test]
fn a_certificate_that_vouches_for_itself_is_refused() {
    if !require() {
        return;
    }
    let scene = lenient(&["h1", "h2"]).start();
    let own = self_signed(&scene, "h2.test");
    stranger_is_refused(&scene, &showing(&own, "h2.test"), "certificate_self_signed", "alert unknown ca");
}

#[test]
fn a_certificate_whose_time_has_not_come_is_refused() {
    if !require() {
        return;
    }
    let scene = lenient(&["h1", "h2"]).start();
    let dir = scene.lab.dir().join("early");
    let now = SystemTime::now();
    drop(certs::init(&dir, "early", 3650, now - DAY).unwrap());
    timed(&dir, "h2.test", now + DAY, 30);
    let both = [read(&scene.ca().join("ca.crt")), read(&dir.join("ca.crt"))].concat();
    scene.hosts[0].put("ca.crt", &both);
    reload(&scene, 0);
    // rustls has one alert for both.
    let shown = showing(&dir, "h2.test");
    stranger_is_refused(&scene, &shown, "certificate_not_yet_valid", "alert certificate expired");
}

#[test]
fn a_name_that_the_certificates_peer_may_not_claim_makes_no_atom() {
    if !require() {
        return;
    }
    let scene = lenient(&["h1", "h2"]).start();
    let [h1, h2] = &scene.hosts[..] else { panic!("two hosts") };
    let said = scene.reload(h1, |text| text.replace("connect = ", "nodes = [\"b@h2.test\"]\nconnect = "));
    assert_eq!(said.code, 0, "{said:?}");
    let (a, b, evil) = (h1.node("a").start(), h2.node("b").start(), h2.node("evil").start());
    assert!(b.ping(&a));
    let dials = h1.host.counter("lo", a.port());
    assert!(!evil.ping(&a));
    let refused = h1.guard.wait_event("refused", &[("claimed", "evil@h2.test"), ("stage", "authorize")]);
    let reason = field(&refused, "reason");
    assert_eq!(reason, "name_not_allowed", "{refused}");
    h2.guard.wait_event(
        "closed",
        &[("claimed", "evil@h2.test"), ("reason", "refused_by_peer"), ("detail", &reason)],
    );
    assert_eq!(dials.count(), 0, "the node heard of it");
}

#[test]
fn a_node_that_answers_with_a_name_of_another_host_is_refused_by_the_guard_that_has_dialled() {
    if !require() {
        return;
    }
    let scene = lenient(&["h1", "h2"]).start();
    let [h1, h2] = &scene.hosts[..] else { panic!("two hosts") };
    let inetrc = h1.host.dir().join("inetrc");
    let more = read(&inetrc).replace("[\"h2.test\"", "[\"elsewhere.test\", \"h2.test\"");
    std::fs::write(&inetrc, more).unwrap();
    let (a, other) = (h1.node("a").start(), h2.node("b@elsewhere.test").start());
    assert!(!a.ping(&other));
    h1.guard.wait_event("closed", &[("claimed", "a@h1.test"), ("reason", "wrong_node_answered")]);
    assert_eq!(other.eval("nodes()."), "[]");
    h2.guard.wait_event("closed", &[("claimed", "a@h1.test"), ("reason", "refused_by_peer")]);
}
