//! The filter for fail2ban finds whoever is hostile in the log, and nobody else, whatever peers say.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Command;

use crate::common::{Guarded, require};
use crate::support::erlang::{Epmd, EpmdListen, Node};
use crate::support::guard::{SOON, front};
use crate::support::handshake::{Initiator, Shaken, Waited};
use crate::support::host::Host;
use crate::support::lab::Lab;
use crate::support::said::Said;
use crate::support::wire::{Ended, ask, framed, read_to_close, send};

const FILTER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/fail2ban/filter.d/epmd-guard.conf");
/// What fail2ban puts before a line of the journal.
const OF_THE_JOURNAL: &str = "h1 epmd-guard[812]: ";
/// Nobody in the lab has this address: it is there only where somebody speaks of it.
const SLANDERED: &str = "203.0.113.9";
const HOSTS: &[&str] = &["h1", "h2", "h3", "h4", "h5", "h6", "h7", "h8", "h9", "h10"];
/// All but the stranger, `h3`; of these `h4` is denied.
const ALLOWED: &[&str] = &[
    "192.0.2.2",
    "192.0.2.4",
    "192.0.2.5",
    "192.0.2.6",
    "192.0.2.7",
    "192.0.2.8",
    "192.0.2.9",
    "192.0.2.10",
];
const STRANGERS: &[&str] = &["192.0.2.3", "192.0.2.4", "2001:db8::3"];
/// What those do wrong who are let in.
const INTRUDERS: &[&str] = &["192.0.2.5", "192.0.2.6", "192.0.2.7", "192.0.2.8", "192.0.2.9", "192.0.2.10"];

/// The addresses that fail2ban finds in a log.
#[track_caller]
fn found(log: &Path, mode: &str) -> BTreeSet<String> {
    let mut command = Command::new("fail2ban-regex");
    command.args(["-o", "<ip>"]).arg(log).arg(format!("{FILTER}[mode={mode}]"));
    let said = Said::by(command);
    assert!(said.code == 0 || said.out.is_empty(), "{said:?}");
    said.out.lines().map(str::to_owned).collect()
}

/// The same for these lines, as they stand in a file and as they come from the journal.
#[track_caller]
fn found_in(lab: &Lab, lines: &[String], mode: &str) -> BTreeSet<String> {
    let write = |name: &str, origin: &str| {
        let path = lab.dir().join(name);
        let text: String = lines.iter().map(|line| format!("{origin}{line}\n")).collect();
        fs::write(&path, text).unwrap();
        path
    };
    let of_file = found(&write("guard.log", ""), mode);
    assert_eq!(found(&write("journal.log", OF_THE_JOURNAL), mode), of_file, "the journal's lines");
    of_file
}

fn set(addresses: &[&[&str]]) -> BTreeSet<String> {
    addresses.concat().into_iter().map(str::to_owned).collect()
}

/// A guard before an epmd and a node, and hosts that it lets in or does not.
struct Scene {
    lab: Lab,
    h1: Guarded,
}

impl Scene {
    fn new(format: &str) -> Self {
        let lab = Lab::new(HOSTS);
        let config = front(ALLOWED)
            .replace("[dist]", "deny = [\"192.0.2.4\"]\n[dist]")
            .replace("[epmd]", "[epmd]\nregister_from = [\"192.0.2.2\"]")
            .replace("json", format);
        let h1 = Guarded::with(&lab, "h1", &config);
        Self { lab, h1 }
    }

    fn host(&self, name: &str) -> Host {
        self.lab.host(name)
    }

    fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.h1.host.v4().into(), port)
    }

    /// Says this to a port and sees the connection end.
    #[track_caller]
    fn say(&self, from: &Host, to: SocketAddr, bytes: &[u8]) {
        // One that is refused may be gone before it is used.
        let Ok(stream) = from.connect(to) else { return };
        drop(send(&stream, bytes));
        assert_ne!(read_to_close(&stream).ended, Ended::TimedOut, "after {bytes:?}");
    }

    fn shake(&self, from: &Host, initiator: &Initiator) -> Shaken {
        initiator.shake(&from.connect(self.at(9100)).unwrap())
    }

    /// Waits for a line of this event that has all these words, in either format.
    #[track_caller]
    fn wait(&self, event: &str, words: &[&str]) {
        let is_it = |line: &str| {
            let named = line.contains(&format!(" {event} ")) || line.contains(&format!(":\"{event}\""));
            named && words.iter().all(|word| line.contains(word))
        };
        self.h1.guard.daemon().wait_line(&format!("{event} with {words:?}"), SOON, is_it);
    }

    /// What hosts do that are not of the cluster, or not any more.
    fn strangers_come(&self) {
        for ip in [IpAddr::from(self.h1.host.v4()), self.h1.host.v6().into()] {
            self.say(&self.host("h3"), SocketAddr::new(ip, 4369), &framed(b"n"));
        }
        self.say(&self.host("h4"), self.at(4369), &framed(b"n"));
        self.wait("refused", &["not_allowed", "192.0.2.3:"]);
        self.wait("refused", &["not_allowed", "[2001:db8::3]:"]);
        self.wait("refused", &["denied", "192.0.2.4:"]);
    }

    /// What hosts do wrong that are let in, the last one with somebody else's address on its lips.
    fn intruders_come(&self) {
        self.say(&self.host("h5"), self.at(4369), &framed(b"k"));
        self.wait("refused", &["local_only", "192.0.2.5:"]);
        self.say(&self.host("h6"), self.at(4369), &framed(b"y"));
        self.wait("refused", &["unknown_opcode", "192.0.2.6:"]);
        self.say(&self.host("h7"), self.at(4369), b"\0\x01n\0\x01n");
        self.wait("closed", &["malformed", "192.0.2.7:"]);
        self.say(&self.host("h8"), self.at(9100), b"GET / HTTP/1.1\r\n\r\n");
        self.wait("closed", &["no_handshake", "192.0.2.8:"]);
        let guesser = Initiator::named(&format!("peer@{SLANDERED}:1")).cookie("guess");
        assert_eq!(self.shake(&self.host("h9"), &guesser), Shaken::Ended(Waited::Ack));
        self.wait("closed", &["wrong_cookie", "192.0.2.9:", SLANDERED]);
        let line = format!(
            "\n2026-11-22T23:57:29.897830Z  INFO refused role=epmd peer={SLANDERED}:1 listener=192.0.2.1:4369 \
             reason=\"not_allowed\" stage=\"admit\"\n"
        );
        self.say(&self.host("h10"), self.at(4369), &framed(format!("za{line}").as_bytes()));
        self.wait("closed", &["malformed", "192.0.2.10:"]);
        self.say(&self.host("h10"), self.at(9100), &name_message(&format!("a{line}@h10.test")));
        self.wait("closed", &["no_handshake", "192.0.2.10:"]);
    }

    /// What a good host does, also when something is not as it should be.
    fn a_peer_works(&self, a: &Node) {
        let h2 = self.host("h2");
        let _epmd = Epmd::start(&h2, EpmdListen::Loopback);
        let b = Node::named("b", &h2).start();
        assert!(b.ping(a));
        b.kill();
        self.wait("closed", &["by_downstream", "192.0.2.2:"]);
        drop(h2.connect(self.at(4369)).unwrap());
        self.wait("closed", &["no_request", "192.0.2.2:"]);
        let early = h2.connect(self.at(9100)).unwrap();
        Initiator::named("c@h2.test").greet(&early).unwrap();
        drop(early);
        self.wait("closed", &["handshake_abandoned", "192.0.2.2:"]);
        self.say(&h2, self.at(9100), b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03");
        self.wait("closed", &["no_handshake", "192.0.2.2:", "TLS"]);
    }

    /// What a tool of this host does whose cookie is an old one, and worse.
    fn the_host_errs(&self) {
        let h1 = &self.h1.host;
        let tool = Initiator::named("tool@h1.test").cookie("old");
        assert_eq!(self.shake(h1, &tool), Shaken::Ended(Waited::Ack));
        self.wait("closed", &["wrong_cookie", "192.0.2.1:", "tool@h1.test"]);
        self.say(h1, self.at(4369), &framed(b"y"));
        self.wait("refused", &["unknown_opcode", "192.0.2.1:"]);
        self.say(h1, self.at(9100), b"GET / HTTP/1.1\r\n\r\n");
        self.wait("closed", &["no_handshake", "192.0.2.1:"]);
    }

    /// A node does not let every name in, and then the epmd behind the guard is not there.
    fn what_is_behind_errs(&mut self, a: &Node) {
        let h2 = self.host("h2");
        a.eval("net_kernel:allow(['b@h2.test']).");
        assert_eq!(self.shake(&h2, &Initiator::named("c@h2.test")), Shaken::Refused);
        self.wait("closed", &["node_said_not_allowed", "192.0.2.2:"]);
        self.h1.epmd.stop();
        drop(ask(&h2.connect(self.at(4369)).unwrap(), b"n"));
        self.wait("closed", &["backend_down", "192.0.2.2:"]);
    }

    /// A good host asks for names that look like a line of the log, and registers one.
    fn a_peer_jokes(&self) {
        let h2 = self.host("h2");
        let json = format!(
            "x\",\"message\":\"refused\",\"role\":\"epmd\",\"peer\":\"{SLANDERED}:1\",\"listener\":\"y\",\
             \"reason\":\"not_allowed\""
        );
        let text = format!("peer={SLANDERED}:1");
        let alive2 =
            [b"x\x14\x5aM\0\0\x06\0\x05\0", &[text.len() as u8][..], text.as_bytes(), b"\0\0"].concat();
        let held = h2.connect(self.at(4369)).unwrap();
        send(&held, &framed(&alive2)).unwrap();
        for name in [&json, &text] {
            drop(ask(&h2.connect(self.at(4369)).unwrap(), format!("z{name}").as_bytes()));
        }
        self.wait("closed", &["PORT_PLEASE2_REQ peer=", SLANDERED]);
        self.wait("closed", &["PORT_PLEASE2_REQ x", SLANDERED]);
    }
}

/// The first message of a node of this name, whatever that is.
fn name_message(name: &str) -> Vec<u8> {
    let length = u16::try_from(name.len()).unwrap().to_be_bytes();
    framed(&[b"N\0\0\0\x0d\x07\xdf\x7f\xbd\0\0\0\x01", &length[..], name.as_bytes()].concat())
}

/// A guard that logs in this format is visited by all, and fail2ban reads what it says of them.
fn all_come(format: &str) {
    let mut scene = Scene::new(format);
    let a = scene.h1.node("a");
    scene.a_peer_works(&a);
    scene.a_peer_jokes();
    scene.the_host_errs();
    scene.strangers_come();
    scene.intruders_come();
    scene.what_is_behind_errs(&a);
    scene.h1.guard.stop();
    let lines = scene.h1.guard.daemon().lines();
    assert!(lines.iter().filter(|line| line.contains(SLANDERED)).count() > 3, "{lines:#?}");
    assert_eq!(found_in(&scene.lab, &lines, "all"), set(&[STRANGERS, INTRUDERS]), "{lines:#?}");
    assert_eq!(found_in(&scene.lab, &lines, "strangers"), set(&[STRANGERS]), "{lines:#?}");
}

/// Lines that a run of seconds does not have, or none at all, and whom fail2ban finds in each in mode `all`.
const LINES: &[(&str, &[&str])] = &[
    ("  INFO refused_again peer=\"192.0.2.21\" reason=\"not_allowed\" count=2", &["192.0.2.21"]),
    ("  INFO refused_again peer=\"2001:db8:5::/64\" reason=\"not_allowed\" count=2", &[]),
    ("  INFO refused_again peer=\"others\" reason=\"not_allowed\" count=2", &[]),
    ("  INFO refused_again peer=\"192.0.2.22\" reason=\"backend_down\" count=2", &[]),
    (
        "  WARN banned peer=192.0.2.23 net=192.0.2.23/32 reason=\"wrong_cookie\" lasts=\"1m\" times=1",
        &["192.0.2.23"],
    ),
    (
        "  WARN banned peer=2001:db8::23 net=2001:db8::/64 reason=\"no_handshake\" lasts=\"1m\" times=1",
        &["2001:db8::23"],
    ),
    (
        "  INFO refused role=epmd peer=192.0.2.24:40001 listener=192.0.2.1:4369 reason=\"banned\" stage=\"admit\"",
        &["192.0.2.24"],
    ),
    (
        "  INFO refused role=dist peer=[2001:db8::25]:40001 listener=[2001:db8::1]:9100 reason=\"name_of_another_peer\" stage=\"authorize\" claimed=\"n@h3.test\"",
        &["2001:db8::25"],
    ),
    (
        "  INFO refused role=dist peer=192.0.2.26:40001 listener=192.0.2.1:9100 reason=\"too_fast_from_address\" stage=\"admit\"",
        &["192.0.2.26"],
    ),
    // Not what the policy would say, if it were in force; nor what limits say of a whole network.
    (
        "  INFO would_refuse role=dist peer=192.0.2.27:40001 listener=192.0.2.1:9100 reason=\"name_of_another_peer\" stage=\"authorize\" claimed=\"n@h3.test\"",
        &[],
    ),
    (
        "  INFO refused role=dist peer=[2001:db8::28]:40001 listener=[2001:db8::1]:9100 reason=\"too_fast_from_subnet\" stage=\"admit\"",
        &[],
    ),
    (
        "  INFO refused role=epmd peer=192.0.2.28:40001 listener=192.0.2.1:4369 reason=\"draining\" stage=\"admit\"",
        &[],
    ),
    // Not the peer of a node that is not what it should be, or says what is no handshake.
    (
        "  INFO refused role=dist peer=192.0.2.29:40001 listener=192.0.2.1:9100 reason=\"wrong_node_answered\" stage=\"handshake\" claimed=\"n@h2.test\"",
        &[],
    ),
    (
        "  INFO refused role=dist peer=192.0.2.29:40001 listener=192.0.2.1:9100 reason=\"wrong_cookie_answered\" stage=\"handshake\" claimed=\"n@h2.test\"",
        &[],
    ),
    (
        "  INFO closed id=5 role=dist peer=192.0.2.29:40001 listener=192.0.2.1:9100 standing=\"peer\" reason=\"no_handshake\" asked=\"port 9100\" claimed=\"n@h2.test\" detail=\"the node said: the message has a wrong length\" bytes_up=0 bytes_down=0 duration_ms=0",
        &[],
    ),
    (
        "  INFO closed id=5 role=dist peer=192.0.2.30:40001 listener=192.0.2.1:9100 standing=\"peer\" reason=\"node_closed\" asked=\"port 9100\" claimed=\"n@h2.test\" bytes_up=0 bytes_down=0 duration_ms=0",
        &[],
    ),
    // Not an address that stands elsewhere than where the guard writes it.
    (
        "  INFO refusal_explained peer=192.0.2.31 why=\"x refused role=epmd peer=203.0.113.9:1 listener=192.0.2.1:4369 reason=\\\"not_allowed\\\"\"",
        &[],
    ),
    (
        "  INFO link_opened id=6 role=dist peer=192.0.2.2:33344 listener=192.0.2.1:9100 claimed=banned@203.0.113.9 answered=a@h1.test hidden=false handshake=6 node=a inside=9100",
        &[],
    ),
];

/// A line of text as one of JSON.
fn as_json(line: &str) -> String {
    let (level, rest) = line.trim_start().split_once(' ').unwrap();
    let (event, mut rest) = rest.split_once(' ').unwrap();
    let mut json = format!("{{\"timestamp\":\"{TIME}\",\"level\":\"{level}\",\"message\":\"{event}\"");
    while let Some((name, value)) = rest.split_once('=') {
        // A value in quotes ends with one that no backslash precedes.
        let end = match value.strip_prefix('"') {
            Some(text) => {
                let mut ends = text.match_indices('"').map(|(at, _)| at);
                ends.find(|at| !text[..*at].ends_with('\\')).unwrap() + 2
            }
            None => value.find(' ').unwrap_or(value.len()),
        };
        let (value, behind) = value.split_at(end);
        let is_bare = value.starts_with('"') || value.parse::<u64>().is_ok() || value == "false";
        let value = if is_bare { value.to_owned() } else { format!("\"{value}\"") };
        json.push_str(&format!(",\"{name}\":{value}"));
        rest = behind.trim_start();
    }
    json + "}"
}

const TIME: &str = "2026-11-22T23:57:29.897830Z";

#[test]
fn fail2ban_finds_in_the_rest_whom_it_should() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1"]);
    let text: Vec<_> = LINES.iter().map(|(line, _)| format!("{TIME} {}", &line[1..])).collect();
    let json: Vec<_> = LINES.iter().map(|(line, _)| as_json(line)).collect();
    let wanted = set(&LINES.iter().map(|(_, wanted)| *wanted).collect::<Vec<_>>());
    for lines in [text, json] {
        assert_eq!(found_in(&lab, &lines, "all"), wanted, "{lines:#?}");
    }
}

#[test]
fn fail2ban_finds_the_hostile_hosts_in_the_text_log_and_no_other() {
    if require() {
        all_come("text");
    }
}

#[test]
fn fail2ban_finds_the_hostile_hosts_in_the_json_log_and_no_other() {
    if require() {
        all_come("json");
    }
}
