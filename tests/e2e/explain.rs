//! `explain` says what a real connection gets, and names the line that decides.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use crate::common::{Guarded, require};
use crate::support::erlang::Node;
use crate::support::eventually::eventually;
use crate::support::guard::{Guard, SOON, admin_socket, configure, field, front};
use crate::support::host::Host;
use crate::support::lab::Lab;
use crate::support::said::{Said, command, told};
use crate::support::wire::{ask, framed, read_frame, send};

/// Two looks at the mesh that find the same, and the 30 s between looks (`control::mesh`).
const MESH: Duration = Duration::from_secs(120);

/// What the guard of `h1` runs with, but for `[admin]`.
const CONFIG: &str = r#"[cluster]
allow = [
    "192.0.2.2",
    "192.0.2.64/26",
    "2001:db8::2",
]
deny = [
    "192.0.2.77",
]

[[peer]]
name = "h4"
addresses = ["192.0.2.4"]

[epmd]
backend = "127.0.0.1:4369"

[dist]
range = "9100-9200"

[limits]
connections = 1000
per_address = 4
request_timeout = "60s"

[log]
format = "json"
level = "debug"
"#;

/// One question: from where, to what; and the answer: what happens, at which stage, by which rule, and a text
/// that stands in the line of the file where that is.
struct Case(&'static str, &'static str, Verdict, &'static str, Option<&'static str>, Option<&'static str>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Yes,
    No,
}
use Verdict::{No, Yes};

/// What holds whether or not a guard runs.
const ALWAYS: &[Case] = &[
    Case("192.0.2.2", "9100", Yes, "admit", Some("192.0.2.2"), Some("\"192.0.2.2\"")),
    Case("2001:db8::2", "9100", Yes, "admit", Some("2001:db8::2"), Some("\"2001:db8::2\"")),
    Case("192.0.2.70", "9100", Yes, "admit", Some("192.0.2.64/26"), Some("192.0.2.64/26")),
    Case("192.0.2.4", "9100", Yes, "admit", Some("192.0.2.4"), Some("addresses =")),
    Case("192.0.2.77", "9100", No, "admit", Some("192.0.2.77"), Some("\"192.0.2.77\"")),
    Case("192.0.2.77", "a", No, "admit", Some("192.0.2.77"), Some("\"192.0.2.77\"")),
    Case("192.0.2.3", "9100", No, "admit", Some("[cluster] allow"), Some("allow =")),
    Case("192.0.2.3", "a", No, "admit", Some("[cluster] allow"), Some("allow =")),
    Case("192.0.2.2", "4369", Yes, "admit", Some("192.0.2.2"), Some("\"192.0.2.2\"")),
    Case("192.0.2.3", "4369", No, "admit", Some("[cluster] allow"), Some("allow =")),
    Case("192.0.2.1", "9100", Yes, "admit", None, None),
    Case("192.0.2.1", "4369", Yes, "admit", None, None),
    Case("192.0.2.2", "abc-ctl-a", No, "authorize", Some("!???-ctl-*"), None),
    Case("192.0.2.2", "9300", No, "authorize", Some("[dist] range"), Some("range =")),
];

/// What only a guard that runs knows.
const RUNNING: &[Case] = &[
    Case("192.0.2.2", "a", Yes, "admit", Some("192.0.2.2"), Some("\"192.0.2.2\"")),
    Case("192.0.2.2", "a@h1.test", Yes, "admit", Some("192.0.2.2"), Some("\"192.0.2.2\"")),
    Case("192.0.2.1", "a", Yes, "admit", None, None),
    Case("192.0.2.2", "nobody", No, "authorize", Some("[dist] range"), Some("range =")),
    Case("192.0.2.2", "high", No, "authorize", Some("[dist] range"), Some("range =")),
    Case("192.0.2.2", "9150", No, "authorize", Some("[dist] range"), Some("range =")),
];

struct Asked<'a> {
    lab: &'a Lab,
    h1: &'a Host,
    config: PathBuf,
    text: String,
}

impl Asked<'_> {
    fn explain(&self, from: &str, to: &str, more: &[&str]) -> Said {
        command(self.lab, self.h1, [&["explain", "--from", from, "--to", to][..], more].concat())
    }

    fn offline(&self, from: &str, to: &str) -> Said {
        self.explain(from, to, &["--json", "--config", &self.config.display().to_string()])
    }

    fn running(&self, from: &str, to: &str) -> Said {
        let socket = admin_socket(self.lab, self.h1).display().to_string();
        self.explain(from, to, &["--json", "--running", "--socket", &socket])
    }

    /// Where a text stands, as `FILE:LINE`.
    fn place(&self, text: &str) -> String {
        let line = 1 + self.text.lines().position(|line| line.contains(text)).unwrap();
        format!("{}:{line}", self.config.display())
    }

    /// What a running guard says; without one, whether something listens is not known.
    fn check(&self, said: &Said, case: &Case) {
        self.check_as("yes", said, case);
    }

    fn check_as(&self, yes: &str, said: &Said, Case(from, to, verdict, stage, rule, marker): &Case) {
        let what = format!("{from} to {to}: {said:?}");
        let explanation = said.json();
        let word = if *verdict == Yes { "yes" } else { "no" };
        assert_eq!(
            (said.code, field(&explanation, "verdict").as_str()),
            (i32::from(*verdict == No), if *verdict == Yes { yes } else { word }),
            "{what}"
        );
        let stages = explanation["stages"].as_array().unwrap();
        // What lets in is told by the first stage, what keeps out by the last.
        let decides = if *verdict == Yes { stages.first() } else { stages.last() }.unwrap();
        assert_eq!(
            (field(decides, "stage").as_str(), field(decides, "verdict").as_str()),
            (*stage, word),
            "{what}"
        );
        match rule {
            Some(rule) => assert!(field(decides, "rule").contains(rule), "{rule}: {what}"),
            None => assert_eq!(decides["rule"], Value::Null, "{what}"),
        }
        match (marker, rule) {
            (Some(marker), _) => assert_eq!(field(decides, "place"), self.place(marker), "{what}"),
            (None, Some(_)) => assert_eq!(field(decides, "place"), "the default", "{what}"),
            (None, None) => assert_eq!(decides["place"], Value::Null, "{what}"),
        }
    }
}

/// What a connection from `ip` of this host gets in earnest: an answer of the node or of epmd, or none.
fn really(from: &Host, ip: &str, to: &str, h1: &Host) -> Verdict {
    let ip: IpAddr = ip.parse().unwrap();
    let target = if ip.is_ipv4() { IpAddr::from(h1.v4()) } else { h1.v6().into() };
    let dial = |port| from.connect_from(ip, SocketAddr::new(target, port));
    let port = match to.parse() {
        Ok(4369) => {
            let answer = dial(4369).map(|stream| ask(&stream, b"n")).unwrap_or_default();
            return if answer.is_empty() { No } else { Yes };
        }
        Ok(port) => port,
        Err(_) => {
            let name = to.split('@').next().unwrap();
            let question = [b"z", name.as_bytes()].concat();
            let answer = dial(4369).map(|stream| ask(&stream, &question)).unwrap_or_default();
            let [b'w', 0, high, low, ..] = answer[..] else { return No };
            u16::from_be_bytes([high, low])
        }
    };
    let Ok(stream) = dial(port) else { return No };
    // The first message of a node, which another one answers with a frame.
    let mut message = b"N\0\0\0\x0d\x07\xdf\x7f\xbd\0\0\0\x01\0\x0c".to_vec();
    message.extend_from_slice(b"peer@h2.test");
    drop(send(&stream, &framed(&message)));
    if read_frame(&stream).is_ok() { Yes } else { No }
}

/// The host of an address, which has it from now on.
fn owner(lab: &Lab, ip: &str) -> Host {
    let hosts = ["h1", "h2", "h3", "h4"].map(|name| lab.host(name));
    let has = |host: &&Host| ip == host.v4().to_string() || ip == host.v6().to_string();
    hosts.iter().find(has).unwrap_or(&hosts[1]).clone()
}

fn four_hosts() -> (Lab, Guarded) {
    let lab = Lab::new(&["h1", "h2", "h3", "h4"]);
    for ip in ["192.0.2.70/24", "192.0.2.77/24"] {
        lab.host("h2").add_address(ip);
    }
    let h1 = Guarded::with(&lab, "h1", CONFIG);
    (lab, h1)
}

fn asked<'a>(lab: &'a Lab, h1: &'a Host) -> Asked<'a> {
    let config = configure(lab, h1, CONFIG);
    let text = std::fs::read_to_string(&config).unwrap();
    Asked { lab, h1, config, text }
}

#[test]
fn the_verdict_is_what_a_real_connection_gets_with_the_rule_and_its_line() {
    if !require() {
        return;
    }
    let (lab, h1) = four_hosts();
    let _a = h1.node("a");
    // A helper, as ejabberdctl starts one, and a node outside of the range.
    let _helper = Node::named("abc-ctl-a", &h1.host).hidden().port(9101).start();
    let _high = Node::named("high", &h1.host).hidden().port(9300).start();
    let asked = asked(&lab, &h1.host);
    eventually("the names are known", SOON, || h1.epmd.names().len() == 3);
    for case in ALWAYS {
        // That epmd is served is known without a guard.
        let yes = if case.1 == "4369" { "yes" } else { "unknown" };
        asked.check_as(yes, &asked.offline(case.0, case.1), case);
    }
    for case in ALWAYS.iter().chain(RUNNING) {
        asked.check(&asked.running(case.0, case.1), case);
        let Case(from, to, verdict, ..) = case;
        assert_eq!(really(&owner(&lab, from), from, to, &h1.host), *verdict, "in earnest: {from} to {to}");
    }
    let port = asked.running("192.0.2.2", "a").json();
    let last = port["stages"].as_array().unwrap().last().unwrap();
    assert_eq!(
        field(last, "why"),
        "192.0.2.1:9100 is open and leads to a at port 9100",
        "where a peer arrives"
    );
    let port = asked.running("2001:db8::2", "a").json();
    let last = port["stages"].as_array().unwrap().last().unwrap();
    assert_eq!(field(last, "why"), "[2001:db8::1]:9100 is open and leads to a at port 9100");
}

#[test]
fn it_reads_well_and_says_what_is_wrong_with_the_question() {
    if !require() {
        return;
    }
    let (lab, h1) = four_hosts();
    let _a = h1.node("a");
    let asked = asked(&lab, &h1.host);
    let socket = admin_socket(&lab, &h1.host).display().to_string();
    let config = asked.config.display().to_string();
    let (offline, running) = (["--config", &config], ["--running", "--socket", &socket]);
    let mode = |is_running| if is_running { &running[..] } else { &offline[..] };
    for is_running in [false, true] {
        let said = asked.explain("192.0.2.4", "a", &[&["--as", "b@h4.test"], mode(is_running)].concat());
        assert_eq!(said.code, 0, "{said:?}");
        assert!(said.out.contains("\"b@h4.test\" may be claimed"), "{said:?}");
        let end = if is_running { "is let through to a\n" } else { "may be let through to a\n" };
        assert!(said.out.ends_with(&format!("192.0.2.4 {end}")), "{said:?}");
        let place = asked.place("addresses =");
        assert_eq!(said.out.matches(&place).count(), 1, "{said:?}");
        assert!(!said.out.contains("(line "), "the line is told once: {said:?}");
        for (from, to, wrong) in [
            ("h4.test", "a", "\"h4.test\" is no IP address"),
            ("192.0.2.4", "0", "\"0\" is neither a port nor a node's name"),
            ("192.0.2.4", "99100", "\"99100\" is neither a port nor a node's name"),
            ("192.0.2.4", "a b", "\"a b\" is neither a port nor a node's name"),
        ] {
            let said = asked.explain(from, to, mode(is_running));
            assert!(said.code == 1 && said.out.is_empty() && said.err.contains(wrong), "{said:?}");
        }
    }
    let denied = asked.explain("192.0.2.77", "9100", &running);
    assert!(
        denied.code == 1 && denied.out.ends_with("192.0.2.77 is refused on its way to port 9100\n"),
        "{denied:?}"
    );
}

#[test]
fn a_guard_that_drains_or_is_full_says_so_and_does_so() {
    if !require() {
        return;
    }
    let (lab, h1) = four_hosts();
    let _a = h1.node("a");
    let asked = asked(&lab, &h1.host);
    let h2 = lab.host("h2");
    let epmd = SocketAddr::new(h1.host.v4().into(), 4369);
    // The address has four connections, as many as it may have.
    let held: Vec<_> = (0..4).map(|_| h2.connect(epmd).unwrap()).collect();
    held.iter().for_each(|stream| send(stream, b"\0").unwrap());
    let full = Case("192.0.2.2", "9100", No, "admit", Some("[limits] per_address"), Some("per_address ="));
    eventually("they are held", SOON, || asked.running("192.0.2.2", "9100").code == 1);
    asked.check(&asked.running("192.0.2.2", "9100"), &full);
    assert_eq!(really(&h2, "192.0.2.2", "9100", &h1.host), No);
    let other = Case("192.0.2.70", "9100", Yes, "admit", Some("192.0.2.64/26"), Some("192.0.2.64/26"));
    asked.check(&asked.running("192.0.2.70", "9100"), &other);
    assert_eq!(really(&h2, "192.0.2.70", "9100", &h1.host), Yes);
    drop(held);
    eventually("there is room again", SOON, || asked.running("192.0.2.2", "9100").code == 0);

    assert_eq!(told(&lab, &h1.host, &["drain"]).code, 0);
    for (from, verdict) in [("192.0.2.2", No), ("192.0.2.3", No), ("192.0.2.1", Yes)] {
        let draining = Case(from, "9100", verdict, "admit", None, None);
        let said = asked.running(from, "9100");
        asked.check(&said, &draining);
        assert_eq!(really(&owner(&lab, from), from, "9100", &h1.host), verdict);
        assert_eq!(said.out.contains("the guard drains"), verdict == No, "{said:?}");
    }
    // What the file says is another matter.
    assert_eq!(asked.offline("192.0.2.2", "9100").code, 0);
}

#[test]
fn listed_ports_are_told_by_their_list_and_a_blocked_one_as_blocked() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1", "h2", "h3", "h4"]);
    let h1 = Guarded::new(&lab, "h1", &["192.0.2.2"]);
    let config = configure(&lab, &h1.host, &front(&["192.0.2.2"]));
    let text = std::fs::read_to_string(&config).unwrap();
    let asked = Asked { lab: &lab, h1: &h1.host, config, text };
    let _a = h1.node("a");
    // Another one, whose port somebody has on the address where peers would arrive, but not where its own host does.
    let _taken = h1.host.listen(SocketAddr::new(h1.host.v4().into(), 9102)).unwrap();
    let _b = Node::named("b", &h1.host).hidden().port(9102).start();
    let _c = Node::named("c", &h1.host).hidden().port(9300).start();
    eventually("the guard has looked at it", SOON, || {
        asked.running("192.0.2.2", "b").out.contains("is not open")
    });
    let ports = ("[dist] ports", "ports =");
    for case in [
        Case("192.0.2.2", "9100", Yes, "admit", Some("192.0.2.2"), Some("allow =")),
        Case("192.0.2.2", "a", Yes, "admit", Some("192.0.2.2"), Some("allow =")),
        Case("192.0.2.2", "9300", No, "authorize", Some(ports.0), Some(ports.1)),
        Case("192.0.2.2", "c", No, "authorize", Some(ports.0), Some(ports.1)),
        Case("192.0.2.2", "9105", No, "authorize", Some(ports.0), Some(ports.1)),
        Case("192.0.2.2", "9102", No, "authorize", Some(ports.0), Some(ports.1)),
        Case("192.0.2.2", "b", No, "authorize", Some(ports.0), Some(ports.1)),
    ] {
        asked.check(&asked.running(case.0, case.1), &case);
        let Case(from, to, verdict, ..) = case;
        let earnest =
            if to == "9102" || to == "b" { No } else { really(&lab.host("h2"), from, to, &h1.host) };
        assert_eq!(earnest, verdict, "in earnest: {from} to {to}");
    }
    let blocked = asked.running("192.0.2.2", "9102");
    assert!(blocked.out.contains("192.0.2.1:9102 is not open"), "{blocked:?}");
}

#[test]
fn epmd_that_is_not_served_is_part_of_the_answer() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1", "h2", "h3", "h4"]);
    let host = lab.host("h1");
    let taken = host.listen(SocketAddr::new(host.v4().into(), 4369)).unwrap();
    let epmd = crate::support::erlang::Epmd::start(&host, crate::support::erlang::EpmdListen::Loopback);
    let guard = Guard::launch(&lab, &host, CONFIG);
    guard.wait_event("port_taken", &[("role", "epmd"), ("listener", "192.0.2.1:4369")]);
    let _a = Node::named("a", &host).port(9100).start();
    guard.wait_open(9100);
    let asked = asked(&lab, &host);
    for to in ["a", "4369"] {
        let said = asked.running("192.0.2.2", to);
        assert!(said.code == 1 && said.out.contains("192.0.2.1:4369 is not open"), "{to}: {said:?}");
    }
    // Who knows the port needs no epmd.
    assert_eq!(asked.running("192.0.2.2", "9100").code, 0);
    drop((taken, epmd));
    guard.wait_open(4369);
    eventually("it is served", SOON, || asked.running("192.0.2.2", "a").code == 0);
}

/// A front that knows its peer by name and lets others in besides.
fn with_peer(allow: &[&str], peer: &str, addresses: &str) -> String {
    format!("{}[[peer]]\nname = {peer:?}\naddresses = [{addresses:?}]\n", front(allow))
}

#[test]
fn a_pair_that_cannot_talk_is_told_and_so_is_its_cure() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1", "h2", "h3"]);
    let h1 = Guarded::with(&lab, "h1", &with_peer(&[], "h2", "192.0.2.2"));
    let h2 = Guarded::with(&lab, "h2", &with_peer(&[], "h3", "192.0.2.3"));
    let line = |log: &str, fields: &[(&str, &str)]| {
        let is = |line: &str| {
            let event: Value = serde_json::from_str(line).unwrap_or_default();
            event["message"] == log && fields.iter().all(|(name, value)| event[*name] == *value)
        };
        serde_json::from_str::<Value>(&h1.guard.daemon().wait_line(log, MESH, is)).unwrap()
    };
    let gap = line("mesh_gap", &[("peer", "h2")]);
    assert_eq!(field(&gap, "pair"), "this host and h2");
    let status = told(&lab, &h1.host, &["status"]);
    let warning = "warning: this host and h2 would split the cluster: its guard does not let this host in\n   help: let this host's";
    assert!(status.code == 0 && status.out.contains(warning), "{}", status.out);
    // The operator follows the advice.
    drop(configure(&lab, &h2.host, &with_peer(&["192.0.2.1"], "h3", "192.0.2.3")));
    assert_eq!(told(&lab, &h2.host, &["reload"]).code, 0);
    line("mesh_gap_closed", &[("peer", "h2")]);
    let status = told(&lab, &h1.host, &["status"]);
    assert!(!status.out.contains("warning") && status.out.contains("open both ways"), "{}", status.out);
    assert_eq!(h1.guard.events("mesh_gap").len(), 1);
}

#[test]
fn a_peer_without_an_epmd_or_without_a_guard_is_no_gap() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1", "h2", "h3"]);
    // h2 lets everybody of the cluster in and has no epmd yet, since no node runs; on h3 is nothing at all.
    let h2 = lab.host("h2");
    let _guard = Guard::start(&lab, &h2, &front(&["192.0.2.1"]));
    let peers = format!(
        "{}[[peer]]\nname = \"h3\"\naddresses = [\"192.0.2.3\"]\n",
        with_peer(&[], "h2", "192.0.2.2")
    );
    let h1 = Guarded::with(&lab, "h1", &peers);
    let mesh = |name: &str| {
        let status = told(&lab, &h1.host, &["status", "--json"]).json();
        let peers = status["peers"].as_array().unwrap().clone();
        peers.iter().find(|peer| peer["name"] == name).map(|peer| field(peer, "mesh")).unwrap()
    };
    eventually("it has looked", MESH, || mesh("h3") == "not reached");
    assert_eq!(mesh("h2"), "let in, but no epmd answers there");
    let status = told(&lab, &h1.host, &["status"]);
    assert!(status.code == 0 && !status.out.contains("warning"), "{}", status.out);
    assert_eq!(h1.guard.events("mesh_gap"), Vec::<Value>::new());
}

#[test]
fn check_finds_the_pair_that_would_split_the_cluster_before_anything_runs() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1", "h2"]);
    let (h1, h2) = (lab.host("h1"), lab.host("h2"));
    let own = configure(&lab, &h1, &with_peer(&[], "h2", "192.0.2.2")).display().to_string();
    let check = |text: &str| {
        let theirs = configure(&lab, &h2, text).display().to_string();
        command(&lab, &h1, ["check", "--config", &own, "--mesh", &format!("h2={theirs}")])
    };
    // By IPv4 alone, as most clusters are: that this host has an IPv6 address too is no gap.
    let full = check(&with_peer(&[], "h1", "192.0.2.1"));
    assert!(full.code == 0 && full.out.contains("2 hosts let each other in"), "{full:?}");
    for (text, why) in [
        (front(&["192.0.2.3"]), "h2 does not let 192.0.2.1 of this host in, for want of a rule"),
        (
            front(&["192.0.2.0/24"]).replace("[dist]", "deny = [\"192.0.2.1\"]\n[dist]"),
            "by its deny 192.0.2.1 (line 3)",
        ),
    ] {
        let split = check(&text);
        assert!(split.code == 1, "{split:?}");
        assert!(
            split.err.contains("h2 and this host would split the cluster") && split.err.contains(why),
            "{split:?}"
        );
    }
    // What cannot be known is not passed over.
    let by_network = configure(&lab, &h1, &with_peer(&[], "h2", "192.0.2.0/29")).display().to_string();
    let theirs = configure(&lab, &h2, &front(&["192.0.2.1"])).display().to_string();
    let unknown = command(&lab, &h1, ["check", "--config", &by_network, "--mesh", &format!("h2={theirs}")]);
    assert!(unknown.code == 1 && unknown.err.contains("no single address of h2 is known"), "{unknown:?}");
    let nobody = command(&lab, &h1, ["check", "--config", &own, "--mesh", "h9=/dev/null"]);
    assert!(nobody.code == 1 && nobody.err.contains("h9 is no [[peer]]"), "{nobody:?}");
}

#[test]
fn check_says_that_a_denied_peer_splits_the_cluster() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1"]);
    let h1 = lab.host("h1");
    let text = with_peer(&[], "h2", "192.0.2.2").replace("[dist]", "deny = [\"192.0.2.0/24\"]\n[dist]");
    let path = configure(&lab, &h1, &text).display().to_string();
    let said = command(&lab, &h1, ["check", "--config", &path]);
    assert_eq!(said.code, 0, "it is valid: {said:?}");
    let warning = "[[peer]] h2 addresses: 192.0.2.2 can never match: 192.0.2.0/24 is denied (line 3)";
    assert!(said.err.contains(warning), "{said:?}");
    assert!(said.err.contains("this host and h2 would split the cluster"), "{said:?}");
}
