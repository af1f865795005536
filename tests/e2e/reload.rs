//! Reloads: all of a new configuration or nothing, and no permitted link is cut.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use socket2::{Domain, Protocol, Socket, Type};

use crate::common::{Guarded, require};
use crate::support::daemon::{Daemon, Signal};
use crate::support::erlang::{Epmd, EpmdListen, Node};
use crate::support::eventually::eventually;
use crate::support::guard::{
    Guard, SOON, USER, admin_socket, ask_admin, configure, field, front, links, program,
};
use crate::support::handshake::{Initiator, Shaken, messages};
use crate::support::host::Host;
use crate::support::lab::Lab;
use crate::support::reloads::many;
use crate::support::wire::{Ended, ask, framed, read_to_close, send};

/// Everybody but the guarded host itself.
const PEERS: &[&str] = &["192.0.2.2", "192.0.2.3", "192.0.2.4"];

/// What a command printed and how it ended.
#[derive(Debug)]
struct Told {
    code: i32,
    out: String,
}

/// A guarded host `h1`, and how its guard is asked and told.
struct Ruled {
    h1: Guarded,
    socket: PathBuf,
    lab: Lab,
}

impl Ruled {
    fn new(hosts: &[&str], config: &str) -> Self {
        let lab = Lab::new(hosts);
        Self::on(lab, config)
    }

    fn on(lab: Lab, config: &str) -> Self {
        let ruled = Self::launch(lab, config);
        ruled.guard().wait_open(4369);
        ruled
    }

    /// For a guard that does not serve epmd on all addresses.
    fn launch(lab: Lab, config: &str) -> Self {
        let (host, socket) = (lab.host("h1"), admin_socket(&lab, &lab.host("h1")));
        let epmd = Epmd::start(&host, EpmdListen::Loopback);
        let guard = Guard::launch(&lab, &host, config);
        eventually("the guard can be asked", SOON, || UnixStream::connect(&socket).is_ok());
        Self { h1: Guarded { host, guard, epmd }, socket, lab }
    }

    fn guard(&self) -> &Guard {
        &self.h1.guard
    }

    fn host(&self) -> &Host {
        &self.h1.host
    }

    fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.host().v4().into(), port)
    }

    /// Writes the guard's file.
    fn write(&self, config: &str) -> PathBuf {
        configure(&self.lab, self.host(), config)
    }

    /// Writes the guard's file with something else in one place.
    fn change(&self, old: &str, new: &str) {
        drop(self.write(&front(PEERS).replace(old, new)));
    }

    /// Runs a command that asks the guard.
    fn tell(&self, arguments: &[&str]) -> Told {
        let (status, out) = self.begin(arguments).finish(SOON);
        Told { code: status.code().unwrap(), out }
    }

    fn begin(&self, arguments: &[&str]) -> Daemon {
        let mut command = self.host().command_as(USER, program(&self.lab));
        command.args(arguments).arg("--socket").arg(&self.socket);
        Daemon::spawn(arguments.join(" "), command)
    }

    /// Writes the guard's file and has it loaded.
    fn reload(&self, config: &str) -> Told {
        self.write(config);
        self.tell(&["reload"])
    }

    #[track_caller]
    fn reload_well(&self, config: &str) {
        let told = self.reload(config);
        assert_eq!(told.code, 0, "{}", told.out);
    }

    fn document(&self, command: &str) -> Value {
        let told = self.tell(&[command, "--json"]);
        serde_json::from_str(&told.out).unwrap_or_else(|error| panic!("{error}: {}", told.out))
    }

    fn generation(&self) -> u64 {
        self.document("status")["generation"].as_u64().unwrap()
    }

    /// The links that are up: the address of each peer by the id of its link.
    fn links(&self) -> BTreeMap<u64, IpAddr> {
        links(&self.socket)
    }

    fn metrics(&self) -> String {
        ask_admin(&self.socket, "GET", "/metrics").1
    }

    /// A node on `h1` whose port is open.
    fn node(&self, name: &str, port: u16) -> Node {
        self.h1.start(alone(name, self.host()).port(port))
    }

    fn peer(&self, host: &str) -> Node {
        alone("n", &self.lab.host(host)).start()
    }
}

/// Without `global`, which would disconnect healthy nodes when one pair cannot talk.
fn alone(name: &str, host: &Host) -> crate::support::erlang::NodeBuilder {
    Node::named(name, host).arg("-connect_all").arg("false")
}

/// Two or three peers with a link to the node on `h1`.
struct Linked {
    ruled: Ruled,
    node: Node,
    peers: Vec<Node>,
    ids: Vec<u64>,
}

impl Linked {
    fn new(hosts: &[&str], config: &str) -> Self {
        Self::with(Ruled::new(hosts, config), hosts)
    }

    fn with(ruled: Ruled, hosts: &[&str]) -> Self {
        let node = ruled.node("a", 9100);
        let peers: Vec<Node> = hosts[1..].iter().map(|host| ruled.peer(host)).collect();
        assert!(peers.iter().all(|peer| peer.ping(&node)));
        let links = ruled.links();
        let id_of = |host: &&str| {
            let ip = IpAddr::from(ruled.lab.host(host).v4());
            links.iter().find(|(_, peer)| **peer == ip).map(|(id, _)| *id).unwrap()
        };
        let ids = hosts[1..].iter().map(id_of).collect();
        Self { ruled, node, peers, ids }
    }

    /// The link of this peer is the one it was and carries.
    #[track_caller]
    fn lives(&self, peer: usize) {
        assert!(self.ruled.links().contains_key(&self.ids[peer]), "{:?}", self.ruled.links());
        let name = self.peers[peer].full_name();
        let there = format!("lists:member('{name}', nodes()) andalso rpc:call('{name}', erlang, node, []).");
        assert_eq!(self.node.eval(&there), format!("'{name}'"));
        assert!(self.ruled.links().contains_key(&self.ids[peer]), "{:?}", self.ruled.links());
        let closed = self.ruled.guard().events("closed");
        assert!(closed.iter().all(|event| event["id"].as_u64() != Some(self.ids[peer])), "{closed:?}");
    }

    /// The link of this peer has been ended by a reload, for this reason.
    #[track_caller]
    fn is_cut(&self, peer: usize, detail: &str) {
        let id = self.ids[peer].to_string();
        self.ruled.guard().wait_event(
            "closed",
            &[("role", "dist"), ("id", &id), ("reason", "revoked"), ("detail", detail)],
        );
        let name = self.peers[peer].full_name();
        eventually("the node sees the link go", SOON, || {
            self.node.eval(&format!("lists:member('{name}', nodes()).")) == "false"
        });
        assert!(!self.ruled.links().contains_key(&self.ids[peer]));
    }
}

#[test]
fn a_narrowed_allowlist_cuts_just_the_links_of_those_it_leaves_out_and_refuses_them() {
    if !require() {
        return;
    }
    let linked = Linked::new(&["h1", "h2", "h3", "h4"], &front(PEERS));
    let ruled = &linked.ruled;
    ruled.write(&front(&["192.0.2.2", "192.0.2.4"]));
    let told = ruled.tell(&["reload", "--yes"]);
    assert_eq!(told.code, 0, "{}", told.out);
    assert!(told.out.contains("generation 2 is in force"), "{}", told.out);
    assert!(told.out.contains("[cluster] allow: -192.0.2.3"), "{}", told.out);
    assert!(told.out.contains("1 link was cut:") && told.out.contains("192.0.2.3:"), "{}", told.out);
    linked.is_cut(1, "not_allowed");
    linked.lives(0);
    linked.lives(2);
    assert!(!linked.peers[1].ping(&linked.node));
    ruled.guard().wait_event("refused", &[("peer", "192.0.2.3:*"), ("reason", "not_allowed")]);
    ruled.guard().wait_event("reloaded", &[("generation", "2"), ("links_cut", "1")]);
    assert!(ruled.metrics().contains("\nepmd_guard_links_cut_total 1\n"), "{}", ruled.metrics());
    // Who is let in again may link again.
    ruled.reload_well(&front(PEERS));
    assert!(linked.peers[1].ping(&linked.node));
    linked.lives(0);
    linked.lives(2);
}

#[test]
fn without_a_yes_no_reload_cuts_more_links_than_reload_may_cut() {
    if !require() {
        return;
    }
    let linked = Linked::new(&["h1", "h2", "h3", "h4"], &front(PEERS));
    let ruled = &linked.ruled;
    let narrow = front(&["192.0.2.2", "192.0.2.4"]);
    let path = ruled.write(&narrow);
    let all_live = |generation| {
        assert_eq!(ruled.generation(), generation);
        for peer in 0..3 {
            linked.lives(peer);
        }
    };
    // What would happen is told before.
    let path = path.to_str().unwrap();
    let check = ruled.tell(&["check", "--against-running", "--config", path]);
    assert_eq!(check.code, 1, "{}", check.out);
    for words in ["would want --yes", "would cut 1 link", "[cluster] allow: -192.0.2.3", "192.0.2.3:"] {
        assert!(check.out.contains(words), "{}", check.out);
    }
    all_live(1);
    assert_eq!(ruled.document("status")["last_reload"], Value::Null);

    let told = ruled.tell(&["reload"]);
    assert_eq!(told.code, 1, "{}", told.out);
    for words in ["it would cut 1 of 3 links", "`epmd-guard reload --yes`", "192.0.2.3:"] {
        assert!(told.out.contains(words), "{}", told.out);
    }
    all_live(1);
    let log = ruled.guard().mark();
    ruled.guard().daemon().signal(Signal::HUP);
    let refused = ruled.guard().wait_event_after(log, "reload_refused", &[]);
    assert!(field(&refused, "problems").contains("it would cut 1 of 3 links"), "{refused}");
    assert!(field(&refused, "problems").contains("reload --yes"), "{refused}");
    all_live(1);

    // What the running configuration says counts, not what the new one would like.
    let socket = format!("[admin]\nsocket = {:?}\n", ruled.socket);
    let one = format!("{socket}reload_may_cut = 1\n");
    assert_eq!(ruled.reload(&format!("{narrow}{one}")).code, 1);
    all_live(1);
    ruled.reload_well(&format!("{}{one}", front(PEERS)));
    let check = ruled.tell(&["check", "--against-running", "--config", path]);
    assert_eq!(check.code, 0, "{}", check.out);
    all_live(2);
    let none = format!("{}{one}", front(&["192.0.2.4"]));
    assert!(ruled.reload(&none).out.contains("it would cut 2 of 3 links"));
    all_live(2);
    ruled.write(&format!("{narrow}{one}"));
    ruled.guard().daemon().signal(Signal::HUP);
    linked.is_cut(1, "not_allowed");
    linked.lives(0);
    linked.lives(2);
}

#[test]
fn an_added_deny_and_a_port_that_is_not_offered_any_more_cut_just_their_links() {
    if !require() {
        return;
    }
    let linked = Linked::new(&["h1", "h2", "h3"], &front(PEERS));
    let ruled = &linked.ruled;
    let second = ruled.node("b", 9105);
    assert!(linked.peers[0].ping(&second));
    let other = *ruled.links().keys().find(|id| !linked.ids.contains(id)).unwrap();

    let fewer = front(PEERS).replace("9100-9110", "9100-9104");
    let told = ruled.reload(&fewer);
    assert_eq!(told.code, 1, "{}", told.out);
    assert!(told.out.contains("[dist] ports: -9105-9110"), "{}", told.out);
    assert_eq!(ruled.tell(&["reload", "--yes"]).code, 0);
    ruled.guard().wait_event(
        "closed",
        &[("id", &other.to_string()), ("reason", "revoked"), ("detail", "port_not_offered")],
    );
    ruled.guard().wait_closed(9105);
    assert!(!linked.peers[0].ping(&second));
    linked.lives(0);
    linked.lives(1);

    let denied = fewer.replace("[dist]", "deny = [\"192.0.2.3\"]\n[dist]");
    let told = ruled.reload(&denied);
    assert_eq!(told.code, 1);
    assert!(told.out.contains("denied by "), "{}", told.out);
    linked.lives(1);
    assert_eq!(ruled.tell(&["reload", "--yes"]).code, 0);
    linked.is_cut(1, "denied");
    assert!(!linked.peers[1].ping(&linked.node));
    ruled.guard().wait_event("refused", &[("peer", "192.0.2.3:*"), ("reason", "denied")]);
    linked.lives(0);
}

/// Spoils the file of the guard, which is at this path.
type Spoil = fn(&Ruled, &Path);

/// A mistake, how to make it, and what is said of it.
const MISTAKES: [(&str, Spoil, &[&str]); 11] = [
    ("syntax", |ruled, _| ruled.change("allow =", "allow"), &["h1.toml:2:", "^"]),
    ("unknown key", |ruled, _| ruled.change("ports", "prots"), &["h1.toml:4:1", "prots", "^^^^^"]),
    ("a value", |ruled, _| ruled.change("192.0.2.3", "192.0.2.333"), &["192.0.2.333", "^"]),
    ("missing", |_, path| fs::remove_file(path).unwrap(), &["cannot read", "h1.toml"]),
    (
        "unreadable",
        |_, path| fs::set_permissions(path, fs::Permissions::from_mode(0o000)).unwrap(),
        &["cannot read", "Permission denied", "let the user that epmd-guard runs as read"],
    ),
    ("not UTF-8", |_, path| fs::write(path, b"# one\n# \xff\n").unwrap(), &["not UTF-8", "line 2"]),
    (
        "log format",
        |ruled, _| ruled.change("\"json\"", "\"text\""),
        &["[log] format", "json → text", "needs a restart"],
    ),
    (
        "admin socket",
        |ruled, _| ruled.change("[log]", "[admin]\nsocket = \"/run/other.sock\"\n[log]"),
        &["[admin] socket", "/run/other.sock", "needs a restart"],
    ),
    (
        "a port that is taken",
        |ruled, _| ruled.change("[epmd]", "[epmd]\nlisten = [\"192.0.2.1\", \"192.0.2.1:4370\"]"),
        &["epmd cannot be served on 192.0.2.1:4370", "in use"],
    ),
    (
        "a new name in allow",
        |ruled, _| ruled.change("\"192.0.2.3\"", "\"nowhere.example\""),
        &["nowhere.example could not be resolved", "write its address"],
    ),
    (
        "a new name in deny",
        |ruled, _| ruled.change("[dist]", "deny = [\"nowhere.example\"]\n[dist]"),
        &["nowhere.example could not be resolved"],
    ),
];

/// The reload that came last was refused with these words, and generation 1 is in force as before.
#[track_caller]
fn nothing_has_changed(linked: &Linked, mistake: &str, words: &str) {
    let ruled = &linked.ruled;
    let status = ruled.document("status");
    assert_eq!(status["generation"], 1, "{mistake}");
    assert_eq!(status["last_reload"]["result"], "refused", "{mistake}");
    assert!(field(&status["last_reload"], "detail").contains(words), "{mistake}: {status}");
    let metrics = ruled.metrics();
    for line in ["\nepmd_guard_last_reload_success 0\n", "\nepmd_guard_config_generation 1\n"] {
        assert!(metrics.contains(line), "{mistake}: {metrics}");
    }
    let question = ruled.lab.host("h2").connect(ruled.at(4369)).unwrap();
    assert!(ask(&question, b"n").starts_with(b"\0\0\x11\x11"), "{mistake}");
    linked.lives(0);
}

#[test]
fn a_reload_with_any_mistake_changes_nothing_and_says_what_and_where() {
    if !require() {
        return;
    }
    let linked = Linked::new(&["h1", "h2"], &front(PEERS));
    let ruled = &linked.ruled;
    let _somebody = ruled.host().listen(ruled.at(4370)).unwrap();
    for (mistake, spoil, words) in MISTAKES {
        let path = ruled.write(&front(PEERS));
        spoil(ruled, &path);
        let log = ruled.guard().mark();
        let told = ruled.tell(&["reload"]);
        assert_eq!(told.code, 1, "{mistake}: {}", told.out);
        assert!(words.iter().all(|words| told.out.contains(words)), "{mistake}: {}", told.out);
        assert!(told.out.contains("nothing has changed: generation 1 stays in force"), "{}", told.out);
        let refused = ruled.guard().wait_event_after(log, "reload_refused", &[]);
        assert!(field(&refused, "problems").contains(words[0]), "{mistake}: {refused}");
        nothing_has_changed(&linked, mistake, words[0]);
        let log = ruled.guard().mark();
        ruled.guard().daemon().signal(Signal::HUP);
        ruled.guard().wait_event_after(log, "reload_refused", &[]);
        nothing_has_changed(&linked, mistake, words[0]);
        drop(fs::remove_file(&path));
    }
    let told = ruled.reload(&front(PEERS));
    assert_eq!(told.code, 0, "{}", told.out);
    assert!(told.out.contains("nothing changes"), "{}", told.out);
    assert!(ruled.metrics().contains("\nepmd_guard_last_reload_success 1\n"));
    linked.lives(0);
}

#[test]
fn a_refusal_names_all_that_is_wrong_and_what_would_change_and_be_cut() {
    if !require() {
        return;
    }
    let linked = Linked::new(&["h1", "h2"], &front(PEERS));
    let ruled = &linked.ruled;
    let _somebody = ruled.host().listen(ruled.at(4370)).unwrap();
    let spoilt = front(&["192.0.2.9"])
        .replace("\"json\"", "\"text\"")
        .replace("[epmd]", "[epmd]\nlisten = [\"192.0.2.1\", \"192.0.2.1:4370\"]");
    let told = ruled.reload(&spoilt);
    assert_eq!(told.code, 1, "{}", told.out);
    for words in
        ["needs a restart", "192.0.2.1:4370: ", "[cluster] allow: ", "1 link would be cut:", "not_allowed"]
    {
        assert!(told.out.contains(words), "{words}: {}", told.out);
    }
    // Who may see the status need not be who may see the file.
    ruled.write("[cluster]\nallow = [\"192.0.2.333\"] # a secret\n");
    let told = ruled.tell(&["reload"]);
    assert!(told.out.contains("a secret"), "{}", told.out);
    let status = ruled.document("status");
    let detail = field(&status["last_reload"], "detail");
    assert!(detail.contains("192.0.2.333") && detail.contains("h1.toml:2:10)"), "{detail}");
    assert!(!detail.contains("a secret") && !detail.contains('\n'), "{detail}");
    assert!(!ask_admin(&ruled.socket, "GET", "/readyz").1.contains("a secret"));
    assert_eq!(status.to_string().matches("192.0.2.333").count(), 1, "{status}");
    linked.lives(0);
}

#[test]
fn an_address_that_a_reload_adds_is_opened_and_one_that_it_removes_is_closed_and_its_links_stay() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1", "h2", "h3"]);
    let (host, peer) = (lab.host("h1"), lab.host("h2"));
    host.add_address("192.0.2.101/24");
    // This peer knows the host by its other address.
    peer.replace_hosts(|line| Some(line.replace("192.0.2.1 ", "192.0.2.101 ")));
    let listen = |on: &str| front(PEERS).replace("[epmd]", &format!("[epmd]\nlisten = [{on}]"));
    let ruled = Ruled::launch(lab, &listen("\"192.0.2.1\""));
    let is_open = |addr: &str| ruled.host().listeners().contains(&addr.parse().unwrap());
    eventually("the guard serves", SOON, || is_open("192.0.2.1:4369"));
    let node = alone("a", ruled.host()).port(9100).start();
    eventually("the port opens", SOON, || is_open("192.0.2.1:9100"));
    assert!(!is_open("192.0.2.101:4369") && !is_open("192.0.2.101:9100"));
    let (near, far) = (ruled.peer("h3"), ruled.peer("h2"));
    assert!(near.ping(&node) && !far.ping(&node));

    ruled.reload_well(&listen("\"192.0.2.1\", \"192.0.2.101\", \"192.0.2.1:4370\""));
    for addr in ["192.0.2.101:4369", "192.0.2.101:9100", "192.0.2.1:4370"] {
        // One look at the kernel's table may miss what listens behind a port.
        eventually(&format!("{addr} opens"), SOON, || is_open(addr));
    }
    assert!(far.ping(&node));
    assert!(
        ask(&peer.connect("192.0.2.1:4370".parse().unwrap()).unwrap(), b"n").starts_with(b"\0\0\x11\x12")
    );
    let before = ruled.links();
    assert_eq!(before.len(), 2);

    ruled.reload_well(&listen("\"192.0.2.1\""));
    for addr in ["192.0.2.101:4369", "192.0.2.101:9100", "192.0.2.1:4370"] {
        eventually(&format!("{addr} closes"), SOON, || !is_open(addr));
    }
    assert!(is_open("192.0.2.1:4369") && is_open("192.0.2.1:9100"));
    assert_eq!(ruled.links(), before);
    assert!(far.ping(&node) && near.ping(&node));
    // A reload that comes later does not find fault with it either.
    ruled.reload_well(&listen("\"192.0.2.1\"").replace("debug", "info"));
    assert_eq!(ruled.links(), before);
    assert!(far.ping(&node));
}

#[test]
fn a_link_by_a_host_name_stays_when_the_name_means_something_else_and_goes_with_the_name() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1", "h2"]);
    let host = lab.host("h1");
    host.write_hosts(&[("192.0.2.2".parse().unwrap(), "moving.test")]);
    let config = front(&["moving.test", "192.0.2.77"]).replace("[dist]", "resolve_every = \"1s\"\n[dist]");
    let linked = Linked::with(Ruled::on(lab, &config), &["h1", "h2"]);
    let ruled = &linked.ruled;
    host.replace_hosts(|line| Some(line.replace("192.0.2.2 moving.test", "192.0.2.9 moving.test")));
    ruled.guard().wait_event("name_resolved", &[("old", "[192.0.2.2]"), ("new", "[192.0.2.9]")]);
    let peer = ruled.lab.host("h2");
    let is_served = || peer.connect(ruled.at(4369)).is_ok_and(|stream| !ask(&stream, b"n").is_empty());
    assert!(!is_served(), "the name does not mean this host any more");
    for (at, change) in
        [("192.0.2.77", "192.0.2.78"), ("debug", "trace"), ("\"moving.test\", ", "")].iter().enumerate()
    {
        let (old, new) = change;
        if at < 2 {
            ruled.reload_well(&config.replace(old, new));
            linked.lives(0);
        } else {
            let named = format!(
                "{}[[peer]]\nname = \"h2\"\naddresses = [\"moving.test\"]\n",
                config.replace(old, new)
            );
            ruled.reload_well(&named);
            linked.lives(0);
        }
    }
    assert!(!is_served());
    ruled.write(&front(&["192.0.2.77"]));
    assert_eq!(ruled.tell(&["reload"]).code, 1);
    linked.lives(0);
    assert_eq!(ruled.tell(&["reload", "--yes"]).code, 0);
    linked.is_cut(0, "not_allowed");
}

#[test]
fn limits_and_the_level_of_the_log_follow_a_reload() {
    if !require() {
        return;
    }
    let config = format!("{}[limits]\nper_address = 2\n", front(PEERS).replace("\"debug\"", "\"info\""));
    let ruled = Ruled::new(&["h1", "h2"], &config);
    let peer = ruled.lab.host("h2");
    let hold = || {
        let stream = peer.connect(ruled.at(4369)).unwrap();
        send(&stream, b"\0").unwrap();
        stream
    };
    let connections = |count: u64| {
        eventually(&format!("{count} connections"), SOON, || {
            ruled.document("status")["connections"].as_u64() == Some(count)
        });
    };
    // A refusal may be faster than the end of the connect.
    let is_refused = || {
        let stream = peer.connect(ruled.at(4369));
        stream.map_or(true, |stream| read_to_close(&stream).ended == Ended::Reset)
    };
    let mut held = vec![hold(), hold()];
    connections(2);
    assert!(is_refused());
    assert_eq!(ruled.guard().events("closed").len(), 0);

    ruled.reload_well(&config.replace("per_address = 2", "per_address = 3").replace("\"info\"", "\"debug\""));
    held.push(hold());
    connections(3);
    assert!(is_refused());
    // A lower limit ends nothing.
    ruled.reload_well(&config.replace("per_address = 2", "per_address = 1").replace("\"info\"", "\"debug\""));
    connections(3);
    held.truncate(1);
    connections(1);
    assert!(is_refused());
    drop(held);
    connections(0);
    assert_eq!(ask(&peer.connect(ruled.at(4369)).unwrap(), b"n"), b"\0\0\x11\x11");
    ruled.guard().wait_event("closed", &[("reason", "answered"), ("level", "DEBUG")]);

    ruled.reload_well(&config);
    let log = ruled.guard().events("closed").len();
    assert_eq!(ask(&peer.connect(ruled.at(4369)).unwrap(), b"n"), b"\0\0\x11\x11");
    ruled.guard().stop();
    ruled.guard().wait_event("stopped", &[]);
    assert_eq!(ruled.guard().events("closed").len(), log);
}

/// ALIVE2 of a node `late` at port 9109.
const ALIVE2: &[u8] = b"x\x23\x95M\0\0\x06\0\x05\0\x04late\0\0";

#[test]
fn a_drain_refuses_what_is_new_of_peers_and_nothing_else_until_it_is_off() {
    if !require() {
        return;
    }
    let linked = Linked::new(&["h1", "h2", "h3"], &front(PEERS));
    let ruled = &linked.ruled;
    let late = alone("late", &ruled.lab.host("h3")).start();
    let peer = ruled.lab.host("h2");
    assert_eq!(ask_admin(&ruled.socket, "GET", "/readyz").0, 200);
    let told = ruled.tell(&["drain"]);
    assert_eq!((told.code, told.out.starts_with("draining:")), (0, true), "{}", told.out);
    ruled.guard().wait_event("draining", &[("links", "2")]);

    let drains = || {
        for port in [4369, 9100] {
            let log = ruled.guard().mark();
            if let Ok(stream) = peer.connect(ruled.at(port)) {
                drop(send(&stream, &framed(b"n")));
                assert_eq!(read_to_close(&stream).bytes, b"");
            }
            let listener = ruled.at(port).to_string();
            let event = [("reason", "draining"), ("listener", &*listener), ("peer", "192.0.2.2:*")];
            ruled.guard().wait_event_after(log, "refused", &event);
        }
        linked.lives(0);
        linked.lives(1);
        let (status, body) = ask_admin(&ruled.socket, "GET", "/readyz");
        assert!(status == 503 && body.contains("drains") && body.contains("drain --off"), "{status} {body}");
        assert_eq!(ruled.document("status")["state"], "draining");
        assert!(ruled.metrics().contains("\nepmd_guard_draining 1\n"));
    };
    drains();
    assert!(!late.ping(&linked.node));

    // This host goes on: it registers, finds and reaches.
    let own = ruled.host().connect(ruled.at(4369)).unwrap();
    send(&own, &framed(ALIVE2)).unwrap();
    let mut answer = [0; 2];
    (&own).read_exact(&mut answer).unwrap();
    assert!(answer[1] == 0 && [b'y', b'v'].contains(&answer[0]), "{answer:?}");
    assert!(ruled.h1.epmd.names().contains(&"name late at port 9109".to_owned()));
    let tool = ruled.node("b", 9101);
    assert!(tool.ping(&linked.node));
    for ip in [IpAddr::from(ruled.host().v4()), ruled.host().v6().into()] {
        assert!(ruled.host().listeners().contains(&SocketAddr::new(ip, 4369)), "4369 is not ours any more");
    }

    // A reload opens nothing.
    ruled.reload_well(&front(&["192.0.2.0/24"]));
    ruled.guard().daemon().signal(Signal::HUP);
    eventually("the second reload", SOON, || ruled.generation() == 3);
    drains();
    // Draining twice is draining.
    assert_eq!(ruled.tell(&["drain"]).code, 0);
    drains();

    assert_eq!(ruled.tell(&["drain", "--off"]).code, 0);
    ruled.guard().wait_event("drain_ended", &[]);
    assert_eq!(ask_admin(&ruled.socket, "GET", "/readyz").0, 200);
    assert!(ruled.metrics().contains("\nepmd_guard_draining 0\n"));
    assert!(late.ping(&linked.node));
    assert!(!ask(&peer.connect(ruled.at(4369)).unwrap(), b"n").is_empty());
    linked.lives(0);
}

#[test]
fn a_storm_of_sighups_is_taken_one_at_a_time_and_cuts_nothing() {
    if !require() {
        return;
    }
    let linked = Linked::new(&["h1", "h2", "h3"], &front(PEERS));
    let ruled = &linked.ruled;
    let path = ruled.write(&front(&["192.0.2.0/24"]));
    thread::scope(|scope| {
        let hangups = scope.spawn(|| {
            for _ in 0..50 {
                ruled.guard().daemon().signal(Signal::HUP);
            }
        });
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..10 {
                    let (status, body) = ask_admin(&ruled.socket, "POST", "/reload");
                    assert_eq!(status, 200, "{body}");
                }
            });
        }
        let path = path.to_str().unwrap();
        let check = ruled.tell(&["check", "--against-running", "--config", path]);
        assert_eq!(check.code, 0, "{}", check.out);
        hangups.join().unwrap();
    });
    // Those that were asked for last are done when this one is.
    ruled.reload_well(&front(PEERS));
    let generations: Vec<u64> =
        ruled.guard().events("reloaded").iter().map(|event| event["generation"].as_u64().unwrap()).collect();
    let expected: Vec<u64> = (2..2 + generations.len() as u64).collect();
    assert_eq!(generations, expected, "a reload overtook another");
    assert!(generations.len() > 21, "{generations:?}");
    assert_eq!(ruled.guard().events("reload_refused").len(), 0);
    linked.lives(0);
    linked.lives(1);
    assert!(linked.peers[0].ping(&linked.node));
}

#[test]
fn the_report_of_a_reload_names_the_peers_whose_links_it_cut() {
    if !require() {
        return;
    }
    let peer = |name: &str, ip: &str| format!("[[peer]]\nname = {name:?}\naddresses = [{ip:?}]\n");
    let (first, second) = (peer("first", "192.0.2.2"), peer("second", "192.0.2.3"));
    let linked = Linked::new(&["h1", "h2", "h3"], &format!("{}{first}{second}", front(&[])));
    let ruled = &linked.ruled;
    ruled.write(&format!("{}{second}", front(&[])));
    for arguments in [&["reload", "--json"][..], &["reload", "--yes", "--json"]] {
        let told = ruled.tell(arguments);
        let report: Value = serde_json::from_str(&told.out).unwrap();
        let cut = report["cut"].as_array().unwrap();
        assert_eq!(cut.len(), 1, "{report}");
        assert_eq!(cut[0]["id"].as_u64(), Some(linked.ids[0]), "{report}");
        assert_eq!(cut[0]["peer_name"], "first", "{report}");
        assert!(field(&cut[0], "rule").contains("192.0.2.2"), "{report}");
        assert_eq!(cut[0]["why"], "not_allowed", "{report}");
    }
    linked.is_cut(0, "not_allowed");
    linked.lives(1);
    assert_eq!(ruled.document("links")["links"][0]["peer_name"], "second");
}

#[test]
fn a_port_that_is_taken_already_does_not_keep_a_reload_from_closing_another_hole() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1", "h2"]);
    let host = lab.host("h1");
    let taken: SocketAddr = "192.0.2.1:4370".parse().unwrap();
    let somebody = host.listen(taken).unwrap();
    let config = front(PEERS).replace("[epmd]", "[epmd]\nlisten = [\"192.0.2.1\", \"192.0.2.1:4370\"]");
    let ruled = Ruled::launch(lab, &config);
    ruled.guard().wait_event("port_taken", &[("listener", "192.0.2.1:4370")]);
    let told =
        ruled.reload(&config.replace("[dist]", "[dist]\nnames = [\"*\"]").replace("192.0.2.2", "192.0.2.9"));
    assert_eq!(told.code, 0, "{}", told.out);
    assert!(told.out.contains("warning: epmd cannot be served on 192.0.2.1:4370"), "{}", told.out);
    let peer = ruled.lab.host("h2");
    assert!(!peer.connect(ruled.at(4369)).is_ok_and(|stream| !ask(&stream, b"n").is_empty()));
    // Another one that is taken too is new.
    let _other = host.listen(ruled.at(4371)).unwrap();
    let told = ruled.reload(&config.replace("4370", "4370\", \"192.0.2.1:4371"));
    assert_eq!(told.code, 1, "{}", told.out);
    assert!(told.out.contains("epmd cannot be served on 192.0.2.1:4371"), "{}", told.out);
    drop(somebody);
    eventually("the port is opened when it is free", SOON, || {
        host.connect(taken).is_ok_and(|stream| !ask(&stream, b"n").is_empty())
    });
}

#[test]
fn a_check_moves_no_node_to_another_port() {
    if !require() {
        return;
    }
    let with = |outside: &str| {
        front(PEERS)
            .replace("ports = \"9100-9110\"", &format!("ports = \"registered\"\noutside = {outside:?}"))
    };
    let ruled = Ruled::new(&["h1"], &with("9200-9205"));
    let places = || -> BTreeMap<String, u64> {
        let status = ruled.document("status");
        let dist = status["listeners"].as_array().unwrap().iter().filter(|of| of["role"] == "dist");
        let place =
            |of: &Value| (of["listener"].as_str().unwrap().to_owned(), of["inside"].as_u64().unwrap());
        dist.map(place).collect()
    };
    // In the order of their coming, which is not that of their names.
    let _second = alone("b", ruled.host()).port(9102).start();
    ruled.guard().wait_open(9200);
    let _first = alone("a", ruled.host()).port(9101).start();
    ruled.guard().wait_open(9201);
    let before = places();
    assert_eq!((before["192.0.2.1:9200"], before["192.0.2.1:9201"]), (9102, 9101));
    let path = ruled.write(&with("9300-9305"));
    let check = ruled.tell(&["check", "--against-running", "--config", path.to_str().unwrap()]);
    assert_eq!(check.code, 0, "{}", check.out);
    // When a reload is done, the ports have been looked at.
    ruled.reload_well(&with("9200-9205"));
    assert_eq!(places(), before);
}

/// A port on loopback that takes no connection until it is told to, so that who dials it waits.
struct Busy {
    socket: TcpListener,
    filler: TcpStream,
}

impl Busy {
    fn new(host: &Host, port: u16) -> Self {
        let at = SocketAddr::from(([127, 0, 0, 1], port));
        let socket = host.inside(|| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
            socket.set_reuse_address(true).unwrap();
            socket.bind(&at.into()).unwrap();
            // One connection fills the queue of those that are not accepted yet; SYNs are dropped then.
            socket.listen(0).unwrap();
            TcpListener::from(socket)
        });
        let filler = host.connect(at).unwrap();
        Self { socket, filler }
    }

    /// Waits until somebody dials, and waits.
    fn wait_dialled(&self, host: &Host) {
        let port = self.socket.local_addr().unwrap().port();
        let (there, syn_sent) = (format!(":{port:04X}"), "02");
        eventually("somebody dials", SOON, || {
            let table = host.inside(|| fs::read_to_string("/proc/thread-self/net/tcp").unwrap());
            table.lines().skip(1).any(|line| {
                let mut fields = line.split_whitespace().skip(2);
                fields.next().is_some_and(|remote| remote.ends_with(&there))
                    && fields.next() == Some(syn_sent)
            })
        });
    }

    /// Takes who waits, and gives what it heard.
    fn take(&self) -> TcpStream {
        drop(self.socket.accept().unwrap());
        let (stream, _) = self.socket.accept().unwrap();
        drop(self.filler.shutdown(std::net::Shutdown::Both));
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream
    }
}

#[test]
fn a_link_that_comes_up_while_a_reload_takes_its_leave_away_does_not_come_up() {
    if !require() {
        return;
    }
    let ruled = Ruled::new(&["h1", "h2"], &front(PEERS));
    let (peer, says) = (ruled.lab.host("h2"), Initiator::named("n@h2.test"));
    for (config, reason) in [
        (front(&["192.0.2.3"]), "not_allowed"),
        (front(PEERS).replace("[dist]", "deny = [\"192.0.2.2\"]\n[dist]"), "denied"),
        (front(PEERS).replace("9100-9110", "9101-9110"), "port_not_offered"),
    ] {
        let busy = Busy::new(ruled.host(), 9100);
        ruled.guard().wait_open(9100);
        let log = ruled.guard().mark();
        let stream = peer.connect(ruled.at(9100)).unwrap();
        send(&stream, &says.first_message()).unwrap();
        busy.wait_dialled(ruled.host());
        ruled.reload_well(&config);
        let node = busy.take();
        assert_eq!(read_to_close(&node).bytes, b"", "{reason}: a byte went upstream");
        assert_eq!(read_to_close(&stream).bytes, b"");
        ruled.guard().wait_event_after(log, "closed", &[("role", "dist"), ("reason", reason)]);
        assert_eq!(ruled.guard().events("link_opened").len(), 0, "{reason}");
        assert!(ruled.links().is_empty());
        drop(busy);
        ruled.guard().wait_closed(9100);
        ruled.reload_well(&front(PEERS));
    }
    // A reload that leaves it its leave does not disturb it.
    let busy = Busy::new(ruled.host(), 9100);
    ruled.guard().wait_open(9100);
    let stream = peer.connect(ruled.at(9100)).unwrap();
    send(&stream, &says.first_message()).unwrap();
    busy.wait_dialled(ruled.host());
    ruled.reload_well(&front(&["192.0.2.0/24"]));
    assert_eq!(messages(&busy.take(), 1), says.first_message());
}

#[test]
fn no_link_of_a_host_that_is_left_out_survives_however_fast_it_dials() {
    if !require() {
        return;
    }
    let ruled = Ruled::new(&["h1", "h2", "h3"], &front(PEERS));
    let node = ruled.node("a", 9100);
    let (stranger, ip) = (ruled.lab.host("h3"), IpAddr::from(ruled.lab.host("h3").v4()));
    let friend = ruled.peer("h2");
    assert!(friend.ping(&node));
    let id = *ruled.links().keys().next().unwrap();
    let end = AtomicBool::new(false);
    let at = ruled.at(9100);
    thread::scope(|scope| {
        for thread in 0..2 {
            let (end, stranger) = (&end, &stranger);
            scope.spawn(move || {
                let mut held = Vec::new();
                // Each of them takes the place of the one that it had before.
                let names = (0..20).map(|number| format!("n{number}-{thread}@h3.test")).cycle();
                for name in names.take_while(|_| !end.load(Ordering::Relaxed)) {
                    let Ok(stream) = stranger.connect(at) else { continue };
                    if Initiator::named(&name).hidden().shake(&stream) == Shaken::Up {
                        held.push(stream);
                    }
                    if held.len() > 20 {
                        held.clear();
                    }
                }
            });
        }
        for _ in 0..20 {
            eventually("it has links", SOON, || ruled.links().values().any(|peer| *peer == ip));
            ruled.write(&front(&["192.0.2.2"]));
            assert_eq!(ask_admin(&ruled.socket, "POST", "/reload?yes=1").0, 200);
            // Each was ended by the reload, or refused before it was one.
            eventually("it has none", SOON, || !ruled.links().values().any(|peer| *peer == ip));
            let log = ruled.guard().mark();
            ruled.guard().wait_event_after(
                log,
                "refused",
                &[("peer", "192.0.2.3:*"), ("reason", "not_allowed")],
            );
            assert!(!ruled.links().values().any(|peer| *peer == ip), "{:?}", ruled.links());
            ruled.write(&front(PEERS));
            assert_eq!(ask_admin(&ruled.socket, "POST", "/reload").0, 200);
        }
        end.store(true, Ordering::Relaxed);
    });
    assert!(ruled.links().contains_key(&id), "the friend's link was cut");
    // What a reload ends in mid-handshake is nobody's fault.
    let wrong_cookies = "\nepmd_guard_handshakes_total{outcome=\"wrong_cookie\"} 0\n";
    assert!(ruled.metrics().contains(wrong_cookies), "{}", ruled.metrics());
}

/// A name server that answers for `*.example` only when it is told to, always with the address of `h2`.
struct NameServer {
    /// The first parts of the names, one for each question.
    asked: Arc<Mutex<Vec<String>>>,
    open: Arc<AtomicBool>,
    end: Arc<AtomicBool>,
}

impl NameServer {
    fn new(host: &Host) -> Self {
        // glibc asks once and waits for as long as it can be told to.
        let resolver = "nameserver 127.0.0.53\noptions timeout:30 attempts:1\n";
        fs::write(Path::new("/etc/netns").join(host.netns()).join("resolv.conf"), resolver).unwrap();
        let socket = host.inside(|| UdpSocket::bind("127.0.0.53:53").unwrap());
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let server = Self { asked: Arc::default(), open: Arc::default(), end: Arc::default() };
        let (asked, open, end) =
            (Arc::clone(&server.asked), Arc::clone(&server.open), Arc::clone(&server.end));
        thread::spawn(move || {
            let mut waiting: Vec<(Vec<u8>, SocketAddr)> = Vec::new();
            let mut buffer = [0; 512];
            while !end.load(Ordering::Relaxed) {
                if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                    let query = buffer[..length].to_vec();
                    if query.windows(8).any(|bytes| bytes == b"\x07example") {
                        let name = &query[13..13 + usize::from(query[12])];
                        asked.lock().unwrap().push(String::from_utf8_lossy(name).into_owned());
                        waiting.push((query, from));
                    } else {
                        drop(socket.send_to(&Self::answer(&query, 3), from));
                    }
                }
                if open.load(Ordering::Relaxed) {
                    for (query, from) in waiting.drain(..) {
                        drop(socket.send_to(&Self::answer(&query, 0), from));
                    }
                }
            }
        });
        server
    }

    /// RFC 1035, 4.1: the question again, and for one about IPv4 the address.
    fn answer(query: &[u8], code: u8) -> Vec<u8> {
        let end = 12 + query[12..].iter().position(|byte| *byte == 0).unwrap() + 5;
        let is_v4 = query[end - 4..end - 2] == [0, 1];
        let answers = u8::from(code == 0 && is_v4);
        let mut answer = vec![query[0], query[1], 0x81, 0x80 | code, 0, 1, 0, answers, 0, 0, 0, 0];
        answer.extend_from_slice(&query[12..end]);
        if answers == 1 {
            answer.extend_from_slice(b"\xc0\x0c\0\x01\0\x01\0\0\0\x01\0\x04\xc0\0\x02\x02");
        }
        answer
    }

    fn wait_asked(&self) {
        eventually("a name is asked for", SOON, || !self.asked.lock().unwrap().is_empty());
    }

    /// How often this name was asked for.
    fn count(&self, name: &str) -> usize {
        self.asked.lock().unwrap().iter().filter(|asked| *asked == name).count()
    }

    fn open(&self) {
        self.open.store(true, Ordering::Relaxed);
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_reload_goes_on_when_its_client_leaves_and_a_drain_meanwhile_and_a_reload_behind_it_both_count() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1", "h2"]);
    let names = NameServer::new(&lab.host("h1"));
    let linked = Linked::with(Ruled::on(lab, &front(PEERS)), &["h1", "h2"]);
    let ruled = &linked.ruled;
    ruled.write(&front(&["late.example"]));
    let client = ruled.begin(&["reload"]);
    names.wait_asked();
    client.kill();
    assert_eq!(ask_admin(&ruled.socket, "POST", "/drain").0, 200);
    let behind = ruled.begin(&["reload"]);
    ruled.guard().daemon().signal(Signal::HUP);
    // The one before is in force until then.
    assert_eq!(ruled.generation(), 1);
    names.open();
    let (status, told) = behind.finish(SOON);
    assert!(status.success(), "{told}");
    eventually("all three are done", SOON, || ruled.generation() == 4);
    let status = ruled.document("status");
    assert_eq!((&status["state"], &status["last_reload"]["result"]), (&"draining".into(), &"ok".into()));
    linked.lives(0);
    assert_eq!(ask_admin(&ruled.socket, "POST", "/drain?off=1").0, 200);
    assert!(!ask(&ruled.lab.host("h2").connect(ruled.at(4369)).unwrap(), b"n").is_empty());
}

#[test]
fn a_guard_that_is_stopped_while_it_reloads_ends_at_once_and_well() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1", "h2"]);
    let names = NameServer::new(&lab.host("h1"));
    let ruled = Ruled::on(lab, &front(PEERS));
    ruled.write(&front(&["late.example"]));
    ruled.guard().daemon().signal(Signal::HUP);
    let _client = ruled.begin(&["reload"]);
    names.wait_asked();
    ruled.guard().stop();
    ruled.guard().wait_event("stopped", &[]);
    for event in ["reloaded", "connections_abandoned", "guard_crippled"] {
        assert_eq!(ruled.guard().events(event).len(), 0, "{event}");
    }
}

#[test]
fn a_name_that_is_a_rule_already_and_has_no_answer_yet_takes_no_other_rule_its_own_answer_away() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1", "h2"]);
    let host = lab.host("h1");
    let _names = NameServer::new(&host);
    host.write_hosts(&[("192.0.2.2".parse().unwrap(), "known.test")]);
    let config = front(&["known.test", "slow.example"]);
    let peer = "[[peer]]\nname = \"h2\"\naddresses = [\"192.0.2.2\"]\n";
    let linked = Linked::with(Ruled::on(lab, &format!("{config}{peer}")), &["h1", "h2"]);
    linked.ruled.reload_well(&config);
    linked.lives(0);
    let served = linked.ruled.lab.host("h2").connect(linked.ruled.at(4369)).unwrap();
    assert!(!ask(&served, b"n").is_empty());
}

#[test]
fn a_name_that_deny_gains_is_new_even_where_allow_had_it() {
    if !require() {
        return;
    }
    let config = front(&["192.0.2.2", "nowhere.example"]);
    let linked = Linked::new(&["h1", "h2"], &config);
    let ruled = &linked.ruled;
    let told = ruled.reload(&front(&["192.0.2.2"]).replace("[dist]", "deny = [\"nowhere.example\"]\n[dist]"));
    assert_eq!(told.code, 1, "{}", told.out);
    assert!(told.out.contains("nowhere.example could not be resolved"), "{}", told.out);
    assert!(!ask(&ruled.lab.host("h2").connect(ruled.at(4369)).unwrap(), b"n").is_empty());
    linked.lives(0);
}

#[test]
fn a_name_of_a_configuration_that_was_not_put_in_force_is_not_asked_for_any_more() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1", "h2"]);
    let names = NameServer::new(&lab.host("h1"));
    names.open();
    let config = front(&["known.example"]).replace("[dist]", "resolve_every = \"1s\"\n[dist]");
    let ruled = Ruled::on(lab, &config);
    let other = |name: &str| config.replace("known.example", &format!("known.example\", \"{name}.example"));
    let path = ruled.write(&other("checked"));
    let check = ruled.tell(&["check", "--against-running", "--config", path.to_str().unwrap()]);
    assert_eq!(check.code, 0, "{}", check.out);
    assert_eq!(ruled.reload(&other("refused").replace("\"json\"", "\"text\"")).code, 1);
    let _somebody = ruled.host().listen(ruled.at(4370)).unwrap();
    let taken = "[epmd]\nlisten = [\"192.0.2.1\", \"192.0.2.1:4370\"]";
    assert_eq!(ruled.reload(&other("taken").replace("[epmd]", taken)).code, 1);
    assert!(names.count("checked") > 0 && names.count("taken") > 0);
    let count = || ["checked", "refused", "taken"].map(|name| names.count(name));
    let (before, known) = (count(), names.count("known"));
    eventually("the name in force is asked for again and again", SOON, || names.count("known") >= known + 6);
    assert_eq!(count(), before);
    assert!(!ask(&ruled.lab.host("h2").connect(ruled.at(4369)).unwrap(), b"n").is_empty());
}

#[test]
fn a_file_that_hangs_holds_one_reload_up_and_no_other() {
    if !require() {
        return;
    }
    let linked = Linked::new(&["h1", "h2"], &front(PEERS));
    let ruled = &linked.ruled;
    let path = ruled.write(&front(PEERS));
    // Opening it waits for somebody who writes.
    let pipe = ruled.lab.dir().join("pipe");
    assert!(std::process::Command::new("mkfifo").args(["-m", "644"]).arg(&pipe).status().unwrap().success());
    fs::remove_file(&path).unwrap();
    fs::hard_link(&pipe, &path).unwrap();
    let told = ruled.tell(&["reload"]);
    assert!(told.code == 1 && told.out.contains("does its file system hang?"), "{}", told.out);
    // Each that waited would keep a thread.
    for _ in 0..20 {
        let (status, body) = ask_admin(&ruled.socket, "POST", "/reload");
        assert!(status == 409 && body.contains("is still being read"), "{status} {body}");
    }
    linked.lives(0);
    drop(fs::File::options().write(true).open(&pipe).unwrap());
    fs::remove_file(&path).unwrap();
    ruled.write(&front(&["192.0.2.0/24"]));
    eventually("it can be reloaded again", SOON, || ask_admin(&ruled.socket, "POST", "/reload").0 == 200);
    linked.lives(0);
}

#[test]
fn a_thousand_reloads_under_load_lose_no_permitted_link_and_nothing_grows() {
    if !require() {
        return;
    }
    eprintln!("{:?}", many(100, 1000));
}
