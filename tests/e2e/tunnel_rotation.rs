//! Certificates, CAs and lists that change under load: what is still good goes on, and nothing else.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use epmd_guard::certs;

use crate::common::require;
use crate::support::erlang::Node;
use crate::support::eventually::eventually;
use crate::support::guard::{SOON, admin_get, admin_socket, ask_admin, field};
use crate::support::host::Way;
use crate::support::said::{Said, told};
use crate::support::tunnel::{Scene, TunnelHost, read};
use crate::tunnel_refusals::{DAY, lenient, other_ca, timed};

/// A node that counts the nodes that it has seen go, and one that asks it all the time.
struct Load {
    a: Node,
    b: Node,
}

impl Load {
    #[track_caller]
    fn start(scene: &Scene) -> Self {
        let (a, b) = (scene.hosts[0].node("a").start(), scene.hosts[1].node("b").start());
        assert!(b.ping(&a));
        for node in [&a, &b] {
            node.eval(
                "register(watch, spawn(fun() -> net_kernel:monitor_nodes(true), Watch = fun Watch(Down) -> \
                 put(down, Down), receive {nodedown, N} -> Watch([N | Down]); _ -> Watch(Down) end end, \
                 Watch([]) end)).",
            );
        }
        a.eval("register(echo, spawn(fun Echo() -> receive {From, N} -> From ! N, Echo() end end)).");
        b.eval(
            "register(client, spawn(fun() -> Ask = fun Ask(N) -> {echo, 'a@h1.test'} ! {self(), N}, \
             receive N -> put(count, N), Ask(N + 1) after 20000 -> silent end end, Ask(1) end)).",
        );
        let load = Self { a, b };
        load.goes_on();
        load
    }

    fn answered(&self) -> u64 {
        let count = of(&self.b, "client", "count");
        count.parse().unwrap_or(0)
    }

    /// More is answered, and neither node has seen the other one go.
    #[track_caller]
    fn goes_on(&self) {
        let before = self.answered();
        eventually("the load goes on", SOON, || self.answered() > before + 100);
        for node in [&self.a, &self.b] {
            assert_eq!(of(node, "watch", "down"), "[]", "{}", node.full_name());
        }
    }
}

fn of(node: &Node, process: &str, key: &str) -> String {
    node.eval(&format!(
        "{{dictionary, D}} = process_info(whereis({process}), dictionary), proplists:get_value({key}, D)."
    ))
}

#[track_caller]
fn reload(scene: &Scene, at: &TunnelHost) {
    let said = told(&scene.lab, &at.host, &["reload"]);
    assert_eq!(said.code, 0, "{said:?}");
}

/// Another pair of nodes can link: by what is in force now.
#[track_caller]
fn a_new_link_comes_up(scene: &Scene, name: &str) {
    let nodes = [&scene.hosts[0], &scene.hosts[1]].map(|at| at.node(name).hidden().start());
    assert!(nodes[0].ping(&nodes[1]), "no new link comes up");
}

#[test]
fn a_renewed_certificate_is_taken_by_a_reload_and_no_link_ends() {
    if !require() {
        return;
    }
    let scene = lenient(&["h1", "h2"]).start();
    let load = Load::start(&scene);
    scene.certs(&scene.ca(), "renew", &["--all"]);
    for at in &scene.hosts {
        at.put_certificate(&scene.ca(), &at.host.name());
        let mark = at.guard.mark();
        reload(&scene, at);
        let changed = at.guard.wait_event_after(mark, "credentials_changed", &[("changed", "cert")]);
        assert_eq!(field(&changed, "links_cut"), "0");
        load.goes_on();
    }
    a_new_link_comes_up(&scene, "n");
    // A link that is older than the certificates goes on over legs that are made by them.
    let marks = [0, 1].map(|number: usize| scene.hosts[number].guard.mark());
    let host = &scene.hosts[0].host;
    host.filter(Way::In, "tcp dport 4371 reject with tcp reset");
    scene.hosts[1].guard.wait_event_after(marks[1], "leg_lost", &[]);
    host.lift();
    for (at, mark) in scene.hosts.iter().zip(marks) {
        at.guard.wait_event_after(mark, "leg_resumed", &[]);
    }
    load.goes_on();
}

/// What `openssl` says.
#[track_caller]
fn openssl(dir: &Path, args: &str) {
    let mut openssl = Command::new("openssl");
    openssl.current_dir(dir).args(args.split(' '));
    let said = Said::by(openssl);
    assert_eq!(said.code, 0, "openssl {args}: {said:?}");
}

/// RSA, a CA between the root and the hosts, and names that are URIs: as Vault, step or SPIRE have it.
#[test]
fn certificates_of_another_maker_with_a_ca_between_and_names_of_uris_work_the_same() {
    if !require() {
        return;
    }
    let scene = lenient(&["h1", "h2"]).start();
    let dir = scene.lab.dir().join("other");
    std::fs::create_dir(&dir).unwrap();
    let key = "req -newkey rsa:2048 -nodes -x509 -days 9";
    openssl(&dir, &format!("{key} -subj /CN=root -keyout root.key -out root.pem"));
    let ca = "-addext basicConstraints=critical,CA:TRUE,pathlen:0 -addext keyUsage=critical,keyCertSign";
    let by = "-CA root.pem -CAkey root.key";
    openssl(&dir, &format!("{key} -subj /CN=between {ca} {by} -keyout between.key -out between.pem"));
    for at in &scene.hosts {
        let name = at.host.short_name();
        let san = format!("-addext subjectAltName=URI:spiffe://cluster.test/{name}");
        let leaf = format!(
            "{san} -addext basicConstraints=critical,CA:FALSE -addext extendedKeyUsage=serverAuth,clientAuth"
        );
        let by = "-CA between.pem -CAkey between.key";
        openssl(&dir, &format!("{key} -subj /O=SPIRE {leaf} {by} -keyout {name}.key -out {name}.pem"));
        at.put(
            "host.crt",
            &[read(&dir.join(format!("{name}.pem"))), read(&dir.join("between.pem"))].concat(),
        );
        at.put("host.key", &read(&dir.join(format!("{name}.key"))));
        at.put("ca.crt", &read(&dir.join("root.pem")));
        let said = scene.reload(at, |text| {
            let other = if name == "h1" { "h2" } else { "h1" };
            text.replace("connect = ", &format!("identity = \"spiffe://cluster.test/{other}\"\nconnect = "))
        });
        assert_eq!(said.code, 0, "{said:?}");
    }
    let load = Load::start(&scene);
    a_new_link_comes_up(&scene, "n");
    load.goes_on();
}

#[test]
fn another_ca_takes_over_while_both_are_trusted_and_no_link_ends() {
    if !require() {
        return;
    }
    let scene = lenient(&["h1", "h2"]).start();
    let load = Load::start(&scene);
    let next = other_ca(&scene, "next", &["h1.test", "h2.test"]);
    let (old, new) = (read(&scene.ca().join("ca.crt")), read(&next.join("ca.crt")));
    for step in [
        &(|at: &TunnelHost| at.put("ca.crt", &[old.as_str(), new.as_str()].concat())) as &dyn Fn(&TunnelHost),
        &|at| at.put_certificate(&next, &at.host.name()),
        &|at| at.put("crl.pem", &[read(&scene.ca().join("crl.pem")), read(&next.join("crl.pem"))].concat()),
    ] {
        for at in &scene.hosts {
            step(at);
            reload(&scene, at);
            load.goes_on();
        }
        a_new_link_comes_up(&scene, "n");
    }
    load.goes_on();
}

/// What the CA has issued for the host.
fn issued(scene: &Scene, at: &TunnelHost) -> Vec<(&'static str, String)> {
    let (ca, name) = (scene.ca(), at.host.name());
    let file = |name: &str| read(&ca.join(name));
    vec![
        ("host.crt", file(&format!("{name}.crt"))),
        ("host.key", file(&format!("{name}.key"))),
        ("ca.crt", file("ca.crt")),
    ]
}

#[test]
fn a_link_that_is_swapped_is_seen_without_a_reload_and_a_bad_file_changes_nothing() {
    if !require() {
        return;
    }
    let scene = lenient(&["h1", "h2"]).tls("look_every = \"1s\"").start();
    let h2 = &scene.hosts[1];
    h2.swap(1, &issued(&scene, h2));
    let load = Load::start(&scene);
    for number in [2, 3] {
        let mark = h2.guard.mark();
        scene.certs(&scene.ca(), "renew", &["h2.test"]);
        h2.swap(number, &issued(&scene, h2));
        h2.guard.wait_event_after(mark, "credentials_changed", &[("changed", "cert"), ("links_cut", "0")]);
        load.goes_on();
    }
    // The key of another certificate.
    let mark = h2.guard.mark();
    let mut files = issued(&scene, h2);
    files[1].1 = read(&scene.ca().join("h1.test.key"));
    h2.swap(4, &files);
    let fault = h2.guard.wait_event_after(mark, "credentials_not_changed", &[]);
    assert!(field(&fault, "problems").contains("key"), "{fault}");
    let said = told(&scene.lab, &h2.host, &["reload"]);
    assert_eq!(said.code, 1, "{said:?}");
    load.goes_on();
    a_new_link_comes_up(&scene, "n");
}

#[test]
fn a_revoked_certificate_ends_its_links_and_no_others() {
    if !require() {
        return;
    }
    let scene = lenient(&["h1", "h2", "h3"]).tls("look_every = \"1s\"").start();
    let load = Load::start(&scene);
    let c = scene.hosts[2].node("c").hidden().start();
    assert!(c.ping(&load.a));
    scene.certs(&scene.ca(), "revoke", &["h3.test"]);
    let h1 = &scene.hosts[0];
    let mark = h1.guard.mark();
    h1.put("crl.pem", &read(&scene.ca().join("crl.pem")));
    h1.guard.wait_event_after(mark, "credentials_changed", &[("changed", "crl"), ("links_cut", "1")]);
    h1.guard.wait_event_after(mark, "closed", &[("claimed", "c@h3.test"), ("reason", "revoked")]);
    scene.hosts[2].guard.wait_event("link_refused", &[("code", "revoked")]);
    eventually("the nodes see it", SOON, || c.eval("nodes(connected).") == "[]");
    assert!(!c.ping(&load.a), "a revoked one comes again");
    let down = of(&load.b, "watch", "down");
    assert!(!down.contains("a@h1.test"), "{down}");
    load.goes_on();
}

#[test]
fn another_ca_and_another_list_are_seen_without_a_reload() {
    if !require() {
        return;
    }
    let scene = lenient(&["h1", "h2"]).tls("look_every = \"1s\"").start();
    let load = Load::start(&scene);
    let next = other_ca(&scene, "next", &["h1.test", "h2.test"]);
    let both = |name: &str| [read(&scene.ca().join(name)), read(&next.join(name))].concat();
    for (changed, change) in [
        ("ca", &(|at: &TunnelHost| at.put("ca.crt", &both("ca.crt"))) as &dyn Fn(&TunnelHost)),
        ("crl", &|at| at.put("crl.pem", &both("crl.pem"))),
    ] {
        for at in &scene.hosts {
            let mark = at.guard.mark();
            change(at);
            at.guard.wait_event_after(
                mark,
                "credentials_changed",
                &[("changed", changed), ("links_cut", "0")],
            );
            load.goes_on();
        }
    }
    // By the CA that is trusted since.
    scene.hosts[1].put_certificate(&next, "h2.test");
    reload(&scene, &scene.hosts[1]);
    a_new_link_comes_up(&scene, "n");
    load.goes_on();
}

/// Certificates begin so far in the past.
const BACKDATED: Duration = Duration::from_secs(60 * 60);

#[test]
fn a_guard_whose_clock_is_behind_its_certificate_at_the_start_says_so_and_takes_it_when_it_has_begun() {
    if !require() {
        return;
    }
    let mut scene = lenient(&["h1", "h2"]).start();
    let early = scene.lab.dir().join("early");
    let now = SystemTime::now();
    drop(certs::init(&early, "early", 3650, now - DAY).unwrap());
    timed(&early, "h2.test", now + BACKDATED + Duration::from_secs(15), 30);
    let both = [read(&scene.ca().join("ca.crt")), read(&early.join("ca.crt"))].concat();
    for at in &scene.hosts {
        at.put("ca.crt", &both);
    }
    reload(&scene, &scene.hosts[0]);
    scene.hosts[1].guard.stop();
    scene.hosts[1].put_certificate(&early, "h2.test");
    scene.start_again(1);
    let [h1, h2] = &scene.hosts[..] else { panic!("two hosts") };
    let told = h2.guard.wait_event("certificate_not_yet_valid", &[("level", "WARN")]);
    assert!(field(&told, "help").contains("clock"), "{told}");
    let readyz = || ask_admin(&admin_socket(&scene.lab, &h2.host), "GET", "/readyz");
    let (code, body) = readyz();
    assert_eq!(code, 503, "{body}");
    let (a, b) = (h1.node("a").start(), h2.node("b").start());
    assert!(!a.ping(&b), "there is no tunnel yet");
    h2.guard.wait_event("credentials_changed", &[("changed", "cert*")]);
    assert_eq!(readyz().0, 200);
    eventually("they link", SOON, || a.ping(&b));
}

/// When the guard's certificate ends, as its metric says, in seconds since 1970.
#[track_caller]
fn ends(scene: &Scene, at: &TunnelHost) -> f64 {
    let metrics = admin_get(&scene.lab, &at.host, "/metrics");
    let series = "epmd_guard_certificate_expires_seconds{what=\"certificate\"} ";
    let value = metrics.lines().find_map(|line| line.strip_prefix(series));
    value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("{metrics}"))
}

#[test]
fn a_certificate_that_ends_soon_is_told_of_and_measured_and_no_more_when_it_was_renewed() {
    if !require() {
        return;
    }
    let scene = lenient(&["h1", "h2"]).start();
    let h2 = &scene.hosts[1];
    let in_days = |days: f64| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        (ends(&scene, h2) - now) / DAY.as_secs_f64() - days
    };
    assert!(in_days(21.0) > 0.0, "{}", in_days(0.0));
    assert_eq!(h2.guard.events("certificate_expires").len(), 0);
    timed(&scene.ca(), "h2.test", SystemTime::now(), 5);
    h2.put_certificate(&scene.ca(), "h2.test");
    reload(&scene, h2);
    let told =
        h2.guard.wait_event("certificate_expires", &[("reason", "certificate_ends"), ("level", "WARN")]);
    assert!(field(&told, "help").contains("certs renew"), "{told}");
    assert!(in_days(5.0).abs() < 0.1, "{}", in_days(0.0));
    let said = told_by(&scene, h2);
    assert!(said.contains("CN=h2.test"), "{said}");
    scene.certs(&scene.ca(), "renew", &["--days", "90", "h2.test"]);
    h2.put_certificate(&scene.ca(), "h2.test");
    reload(&scene, h2);
    assert!(in_days(90.0).abs() < 0.1, "{}", in_days(0.0));
    let said = told_by(&scene, h2);
    assert!(!said.contains("CN=h2.test"), "{said}");
}

/// What `status` warns of.
#[track_caller]
fn told_by(scene: &Scene, at: &TunnelHost) -> String {
    told(&scene.lab, &at.host, &["status"]).out.lines().filter(|line| line.starts_with("warning")).collect()
}

#[test]
fn a_guard_whose_certificate_has_ended_starts_without_tunnels_and_has_them_with_a_good_one() {
    if !require() {
        return;
    }
    let mut scene = lenient(&["h1", "h2"]).start();
    let old = scene.lab.dir().join("old");
    let now = SystemTime::now();
    drop(certs::init(&old, "old", 3650, now - 9 * DAY).unwrap());
    timed(&old, "h2.test", now - 9 * DAY, 5);
    let h2 = &scene.hosts[1];
    h2.guard.stop();
    h2.put("ca.crt", &[read(&scene.ca().join("ca.crt")), read(&old.join("ca.crt"))].concat());
    h2.put_certificate(&old, "h2.test");
    scene.start_again(1);
    let h2 = &scene.hosts[1];
    let said = h2.guard.wait_event("credentials_unfit", &[("level", "ERROR")]);
    assert!(field(&said, "problem").contains("host.crt"), "{said}");
    assert!(field(&said, "help").contains("certs renew"), "{said}");
    let (a, b) = (scene.hosts[0].node("a").start(), h2.node("b").start());
    assert!(!a.ping(&b), "it has a tunnel");
    assert_eq!(ask_admin(&admin_socket(&scene.lab, &h2.host), "GET", "/readyz").0, 503);
    h2.put_certificate(&scene.ca(), "h2.test");
    reload(&scene, h2);
    eventually("they link", SOON, || a.ping(&b));
    assert_eq!(ask_admin(&admin_socket(&scene.lab, &h2.host), "GET", "/readyz").0, 200);
}
