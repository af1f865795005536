//! The guard as epmd: what it answers to raw bytes of its own host and of others, and how long a name lasts.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::ChildStdin;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::SockRef;

use crate::common::{EVERYBODY, require};
use crate::support::daemon::Daemon;
use crate::support::erlang::Node;
use crate::support::eventually::eventually;
use crate::support::guard::{Guard, SOON, admin_get, configure, embedded, field};
use crate::support::handshake::{self, Initiator};
use crate::support::host::Host;
use crate::support::lab::Lab;
use crate::support::said::told;
use crate::support::wire::{Ended, Outcome, ask, framed, read_to_close, send};

pub(crate) const LOOPBACK: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 4369);
/// NAMES when there is none.
const NO_NAMES: &[u8] = b"\0\0\x11\x11";
/// What a name is refused with, by version 6 and by version 5.
const REFUSED: &[u8] = b"v\x01\0\0\0\x63";
const REFUSED_NARROW: &[u8] = b"y\x01\0\x63";

/// A host whose epmd is the guard.
pub(crate) struct Mapped {
    pub(crate) guard: Guard,
    pub(crate) host: Host,
    pub(crate) lab: Lab,
}

impl Mapped {
    pub(crate) fn new(hosts: &[&str], config: &str) -> Self {
        let lab = Lab::new(hosts);
        let host = lab.host("h1");
        Self { guard: Guard::start(&lab, &host, config), host, lab }
    }

    /// Where peers reach it.
    pub(crate) fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.host.v4().into(), port)
    }

    /// The answer to a request from loopback.
    #[track_caller]
    pub(crate) fn ask(&self, request: &[u8]) -> Vec<u8> {
        ask(&self.host.connect(LOOPBACK).unwrap(), request)
    }

    /// The answer to a request of another host.
    #[track_caller]
    pub(crate) fn ask_from(&self, host: &str, request: &[u8]) -> Vec<u8> {
        ask(&self.lab.host(host).connect(self.at(4369)).unwrap(), request)
    }

    /// What NAMES says on loopback, without the port of epmd.
    #[track_caller]
    pub(crate) fn names(&self) -> String {
        String::from_utf8(self.ask(b"n").split_off(4)).unwrap()
    }

    #[track_caller]
    pub(crate) fn register(&self, name: &str, port: u16) -> Registered {
        register(&self.host, LOOPBACK, &Alive::new(name, port))
    }

    /// A counter, 0 where it has not begun.
    pub(crate) fn counted(&self, series: &str) -> u64 {
        let metrics = admin_get(&self.lab, &self.host, "/metrics");
        let mut lines = metrics.lines().filter_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        lines.next().map_or(0, |count| count.parse().unwrap())
    }

    fn closed(&self, reason: &str) -> u64 {
        self.counted(&format!("epmd_guard_connections_total{{role=\"epmd\",outcome=\"{reason}\"}}"))
    }

    fn refused(&self, reason: &str) -> u64 {
        self.counted(&format!("epmd_guard_refusals_total{{reason=\"{reason}\",stage=\"authorize\"}}"))
    }

    /// Sees a stream end without an answer, and this reason told and counted once more.
    #[track_caller]
    fn is_silent(&self, from: &Host, to: SocketAddr, sent: &[u8], (reason, detail): (&str, &str)) {
        let (before, log) = (self.closed(reason), self.guard.mark());
        let stream = from.connect(to).unwrap();
        send(&stream, sent).unwrap();
        if reason == "no_request" {
            stream.shutdown(Shutdown::Write).unwrap();
        }
        let outcome = read_to_close(&stream);
        assert_eq!(outcome.bytes, b"", "an answer to {sent:?}");
        assert_ne!(outcome.ended, Ended::TimedOut, "still open after {sent:?}");
        let fields = [("reason", reason), ("detail", detail)];
        self.guard.wait_event_after(log, "closed", &fields[..if detail.is_empty() { 1 } else { 2 }]);
        assert_eq!(self.closed(reason), before + 1, "{reason} of {sent:?}");
    }
}

/// A registration as it is sent.
#[derive(Clone)]
pub(crate) struct Alive<'a> {
    pub(crate) name: &'a [u8],
    pub(crate) port: u16,
    pub(crate) kind: u8,
    pub(crate) highest: u16,
    pub(crate) extra: &'a [u8],
}

impl<'a> Alive<'a> {
    pub(crate) fn new(name: &'a str, port: u16) -> Self {
        Self { name: name.as_bytes(), port, kind: b'M', highest: 6, extra: b"" }
    }

    /// The request without its length.
    pub(crate) fn request(&self) -> Vec<u8> {
        let mut bytes = vec![b'x'];
        bytes.extend(self.port.to_be_bytes());
        bytes.extend([self.kind, 0]);
        bytes.extend(self.highest.to_be_bytes());
        bytes.extend([0, 5]);
        for part in [self.name, self.extra] {
            bytes.extend((part.len() as u16).to_be_bytes());
            bytes.extend(part);
        }
        bytes
    }
}

/// A name for as long as the stream is kept.
#[derive(Debug)]
pub(crate) struct Registered {
    pub(crate) stream: TcpStream,
    pub(crate) creation: u32,
}

/// Registers, or says what came instead of an answer that it has been done.
pub(crate) fn try_register(from: &Host, to: SocketAddr, alive: &Alive<'_>) -> Result<Registered, Vec<u8>> {
    let stream = from.connect(to).unwrap();
    drop(send(&stream, &framed(&alive.request())));
    let mut reply = [0; 6];
    let reply = &mut reply[..if alive.highest < 6 { 4 } else { 6 }];
    if (&stream).read_exact(reply).is_err() {
        return Err(Vec::new());
    }
    match *reply {
        [b'v', 0, a, b, c, d] => Ok(Registered { stream, creation: u32::from_be_bytes([a, b, c, d]) }),
        [b'y', 0, a, b] => Ok(Registered { stream, creation: u16::from_be_bytes([a, b]).into() }),
        _ => Err(reply.to_vec()),
    }
}

#[track_caller]
pub(crate) fn register(from: &Host, to: SocketAddr, alive: &Alive<'_>) -> Registered {
    let name = String::from_utf8_lossy(alive.name);
    try_register(from, to, alive).unwrap_or_else(|reply| panic!("{name} is not registered: {reply:?}"))
}

/// Whether a registration goes on: its stream is silent.
fn lives(registered: &Registered) -> bool {
    registered.stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let read = (&registered.stream).read(&mut [0; 1]);
    read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

/// Seconds of Unix time.
fn now() -> u32 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as u32
}

fn listen(host: &Host) -> (TcpListener, u16) {
    let listener = host.listen(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// The middle one of some durations: a busy machine delays some, a slow program most.
fn median(mut took: Vec<Duration>) -> Duration {
    took.sort();
    took[took.len() / 2]
}

/// A way to end a registration.
type End = fn(&TcpStream);

const ENDS: [(&str, End); 4] = [
    ("both directions closed", |stream| stream.shutdown(Shutdown::Both).unwrap()),
    ("one direction closed", |stream| stream.shutdown(Shutdown::Write).unwrap()),
    ("a reset", |stream| SockRef::from(stream).set_linger(Some(Duration::ZERO)).unwrap()),
    ("one byte too many", |stream| send(stream, b"x").unwrap()),
];

#[test]
fn a_registration_lives_exactly_as_long_as_its_connection() {
    if !require() {
        return;
    }
    let mapped = Mapped::new(&["h1"], &embedded(&[]));
    for (how, end) in ENDS {
        let before = mapped.closed("unregistered_by_node");
        let registered = mapped.register("a", 9100);
        assert_eq!(mapped.names(), "name a at port 9100\n", "{how}");
        assert!(lives(&registered), "{how}");
        end(&registered.stream);
        // What has a linger time of zero is reset when it is closed.
        let kept = (how != "a reset").then_some(registered);
        eventually(&format!("the name goes with {how}"), SOON, || mapped.names().is_empty());
        assert_eq!(mapped.ask(b"za"), b"w\x01", "{how}");
        eventually("it is counted", SOON, || mapped.closed("unregistered_by_node") == before + 1);
        drop(kept);
    }
    // The one of another name goes on meanwhile.
    let (a, b) = (mapped.register("a", 9100), mapped.register("b", 9101));
    drop(a);
    eventually("a goes", SOON, || mapped.names() == "name b at port 9101\n");
    assert!(lives(&b));
}

/// Who sees the end of his registration may register again.
#[test]
fn a_name_is_free_when_the_guard_closes_its_registration() {
    if !require() {
        return;
    }
    let mapped = Mapped::new(&["h1"], &embedded(&[]));
    for round in 0..200 {
        for (how, end) in [ENDS[1], ENDS[3]] {
            let registered = mapped.register("a", 0);
            end(&registered.stream);
            assert_eq!(read_to_close(&registered.stream).bytes, b"");
            let again = try_register(&mapped.host, LOOPBACK, &Alive::new("a", 0));
            assert!(again.is_ok(), "round {round}, {how}: {again:?}");
            end(&again.unwrap().stream);
            eventually("the name is free", SOON, || mapped.names().is_empty());
        }
    }
}

#[test]
fn creations_follow_each_other_begin_above_3_and_are_others_after_a_restart() {
    if !require() {
        return;
    }
    let mapped = Mapped::new(&["h1"], &embedded(&[]));
    let begun = now();
    let first = mapped.register("a", 9100).creation;
    assert!((begun..begun + 60).contains(&first), "{first} is not the time, {begun}");
    let mut given = vec![first];
    for _ in 0..3 {
        eventually("the name is free", SOON, || mapped.names().is_empty());
        given.push(mapped.register("a", 9100).creation);
    }
    assert_eq!(given, [first, first + 1, first + 2, first + 3]);
    assert!(mapped.register("b", 9101).creation >= 4);
    // The creation of version 5 has two bits.
    eventually("the name is free", SOON, || mapped.names().is_empty());
    let narrow = Alive { highest: 5, ..Alive::new("a", 9100) };
    let creation = register(&mapped.host, LOOPBACK, &narrow).creation;
    assert!((1..=3).contains(&creation), "{creation}");
    given.push(first + 4);

    // A name that registers more often than once a second runs ahead of the time.
    eventually("the time has caught up", SOON, || given.iter().all(|creation| *creation < now()));
    mapped.guard.stop();
    let _guard = Guard::start(&mapped.lab, &mapped.host, &embedded(&[]));
    let after = mapped.register("a", 9100).creation;
    assert!(after >= 4 && !given.contains(&after), "{after} again: {given:?}");
}

#[test]
fn a_port_is_open_for_a_permitted_peer_before_the_registration_is_answered() {
    if !require() {
        return;
    }
    let mapped = Mapped::new(&["h1", "h2"], &embedded(&["192.0.2.2"]));
    let peer = mapped.lab.host("h2");
    let mut closed = Vec::new();
    for round in 0..100 {
        let (listener, port) = listen(&mapped.host);
        let registered = mapped.register("a", port);
        let link = peer.connect(mapped.at(port));
        let link = link.unwrap_or_else(|error| panic!("round {round}, port {port}: {error}"));
        drop(handshake::link(&link, &listener, &Initiator::named("b@h2.test"), "a@h1.test"));
        // The name goes, and what listened there stays.
        drop(registered);
        let begun = Instant::now();
        let is_closed = || !mapped.host.listeners().contains(&mapped.at(port));
        eventually("the port closes", SOON, is_closed);
        closed.push(begun.elapsed());
        eventually("the name is free", SOON, || mapped.names().is_empty());
        drop(listener);
    }
    let closed = median(closed);
    assert!(closed < Duration::from_secs(1), "closed after {closed:?}");
    assert!(mapped.guard.events("port_not_reachable").is_empty());
}

#[test]
fn a_link_outlives_the_registration_of_its_node() {
    if !require() {
        return;
    }
    let mapped = Mapped::new(&["h1", "h2"], &embedded(&["192.0.2.2"]));
    let (listener, port) = listen(&mapped.host);
    let registered = mapped.register("a", port);
    let link = mapped.lab.host("h2").connect(mapped.at(port)).unwrap();
    let mut node = handshake::link(&link, &listener, &Initiator::named("b@h2.test"), "a@h1.test");
    drop(registered);
    mapped.guard.wait_closed(port);
    send(&link, b"hello").unwrap();
    let mut hello = [0; 5];
    node.read_exact(&mut hello).unwrap();
    assert_eq!(&hello, b"hello");
}

/// Registers as an unprivileged user of the host, for as long as both values are kept.
fn register_as_nobody(mapped: &Mapped, name: &str, port: u16) -> (Daemon, ChildStdin) {
    let mut socat = mapped.host.command_as("nobody", "socat");
    socat.args(["-", &format!("TCP4:{LOOPBACK}")]);
    let (socat, mut stdin) = Daemon::spawn_with_input("socat", socat);
    stdin.write_all(&framed(&Alive::new(name, port).request())).unwrap();
    eventually("the name is registered", SOON, || mapped.names().contains(&format!("name {name} ")));
    (socat, stdin)
}

#[test]
fn a_name_opens_no_port_that_another_user_of_the_host_listens_at() {
    if !require() {
        return;
    }
    let mapped = Mapped::new(&["h1", "h2"], &embedded(&["192.0.2.2"]));
    let peer = mapped.lab.host("h2");
    // Root's, such as a database that only this host is to reach.
    let (database, port) = listen(&mapped.host);
    let _evil = register_as_nobody(&mapped, "evil", port);
    mapped.guard.wait_event("port_not_own", &[("name", "evil"), ("owner", "65534"), ("listener", "0")]);
    assert!(peer.connect(mapped.at(port)).is_err());
    // Nor does it open for who looks the name up.
    for _ in 0..2 {
        drop(mapped.ask_from("h2", b"zevil"));
        assert!(peer.connect(mapped.at(port)).is_err(), "the port of another user was opened");
    }
    let (_listener, own) = listen(&mapped.host);
    let _own = mapped.register("own", own);
    assert!(peer.connect(mapped.at(own)).is_ok());
    assert!(peer.connect(mapped.at(port)).is_err());
    database.set_nonblocking(true).unwrap();
    assert!(database.accept().is_err());
}

#[test]
fn a_port_closes_when_another_user_comes_to_listen_at_its_number_too() {
    if !require() {
        return;
    }
    let mapped = Mapped::new(&["h1", "h2"], &embedded(&["192.0.2.2"]));
    let peer = mapped.lab.host("h2");
    // A name and a listener of one user, but on ::1 alone: 127.0.0.1, which is dialled first, is free.
    let port = { listen(&mapped.host).1 };
    let mut socat = mapped.host.command_as("nobody", "socat");
    socat.args([&format!("TCP6-LISTEN:{port},bind=[::1],fork"), "OPEN:/dev/null"]);
    let _lured = Daemon::spawn("socat", socat);
    let _name = register_as_nobody(&mapped, "lure", port);
    eventually("the port opens", SOON, || peer.connect(mapped.at(port)).is_ok());
    let database = mapped.host.listen(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port)).unwrap();
    mapped
        .guard
        .wait_event("port_not_own", &[("name", "lure"), ("owner", "65534"), ("listener", "0, 65534")]);
    eventually("the port closes", SOON, || peer.connect(mapped.at(port)).is_err());
    for _ in 0..20 {
        drop(mapped.ask_from("h2", b"zlure"));
        assert!(peer.connect(mapped.at(port)).is_err());
    }
    drop(database);
    eventually("the port opens again", SOON, || peer.connect(mapped.at(port)).is_ok());
}

#[test]
fn who_registers_and_closes_at_once_owns_nothing() {
    if !require() {
        return;
    }
    let mapped = Mapped::new(&["h1", "h2"], &embedded(&["192.0.2.2"]));
    let (_database, port) = listen(&mapped.host);
    // Of what a process has closed the kernel says that it is root's, who may have any port offered.
    let mut attack = mapped.host.command_as("nobody", "sh");
    let request = framed(&Alive::new("evil", port).request());
    let bytes: String = request.iter().map(|byte| format!("\\{byte:03o}")).collect();
    attack.args([
        "-c",
        &format!("for i in $(seq 300); do printf '{bytes}' | socat -u - TCP4:{LOOPBACK} & done; wait"),
    ]);
    assert!(attack.stderr(std::process::Stdio::null()).status().unwrap().success());
    eventually("all names are gone", SOON, || mapped.names().is_empty());
    assert_eq!(
        mapped.guard.events("port_opened").iter().filter(|event| field(event, "role") == "dist").count(),
        0
    );
}

#[test]
fn a_port_stays_open_while_another_name_is_registered_there() {
    if !require() {
        return;
    }
    let mapped = Mapped::new(&["h1", "h2"], &embedded(&["192.0.2.2"]));
    let peer = mapped.lab.host("h2");
    let (_listener, port) = listen(&mapped.host);
    let mut kept = mapped.register("n0", port);
    for number in 1..20 {
        let next = mapped.register(&format!("n{number}"), port);
        drop(std::mem::replace(&mut kept, next));
        eventually("one name is left", SOON, || mapped.names().lines().count() == 1);
        assert!(peer.connect(mapped.at(port)).is_ok(), "round {number}");
    }
    assert!(mapped.guard.events("port_closed").is_empty());
}

#[test]
fn what_was_registered_is_told_as_it_was() {
    if !require() {
        return;
    }
    let mapped = Mapped::new(&["h1", "h2"], &embedded(EVERYBODY));
    let alive = Alive { kind: b'h', highest: 5, extra: b"more\0 of it\n", ..Alive::new("c", 9100) };
    let registered = register(&mapped.host, LOOPBACK, &alive);
    assert!((1..=3).contains(&registered.creation), "{registered:?}");
    let expected = b"w\0\x23\x8ch\0\0\x05\0\x05\0\x01c\0\x0cmore\0 of it\n";
    assert_eq!(mapped.ask(b"zc"), expected);
    // One zero byte at the end belongs to no name.
    assert_eq!(mapped.ask(b"zc\0"), expected);
    assert_eq!(mapped.ask_from("h2", b"zc"), expected);
    assert_eq!(mapped.ask(b"zC"), b"w\x01");
    assert_eq!(mapped.ask(b"znone"), b"w\x01");
    // Over IPv6 too, where `inet6_tcp` registers.
    let v6 = SocketAddr::new(Ipv6Addr::LOCALHOST.into(), 4369);
    let _d = register(&mapped.host, v6, &Alive::new("d", 0));
    assert!(mapped.ask(b"zd").starts_with(b"w\0\0\0M"));
    assert_eq!(ask(&mapped.host.connect(v6).unwrap(), b"zc"), expected);
    // The longest name there is.
    let long = "l".repeat(254);
    let _long = mapped.register(&long, 1);
    assert!(mapped.ask(format!("z{long}").as_bytes()).ends_with(format!("{long}\0\0").as_bytes()));
}

#[test]
fn a_name_that_is_taken_is_refused_and_then_closed_and_the_first_stays() {
    if !require() {
        return;
    }
    let mapped = Mapped::new(&["h1"], &embedded(&[]));
    let first = mapped.register("a", 9100);
    let again = Alive::new("a", 9101);
    assert_eq!(mapped.ask(&again.request()), REFUSED);
    assert_eq!(mapped.ask(&Alive { highest: 5, ..again }.request()), REFUSED_NARROW);
    mapped.guard.wait_event("closed", &[("reason", "not_registered"), ("asked", "ALIVE2_REQ a port 9101")]);
    eventually("both are counted", SOON, || mapped.closed("not_registered") == 2);
    assert_eq!(mapped.names(), "name a at port 9100\n");
    assert!(lives(&first));
    let _other_case = mapped.register("A", 9102);
}

#[test]
fn a_name_that_no_node_has_is_refused_and_not_listed() {
    if !require() {
        return;
    }
    let mapped = Mapped::new(&["h1"], &embedded(&[]));
    let wide = "l".repeat(255);
    let names: [&[u8]; 7] =
        [b"x at port 1\nname evil", b"a b", b"a@h1.test", b"a\tb", wide.as_bytes(), b"\xff\xfe", b""];
    for name in names {
        let alive = Alive { name, extra: b"x", ..Alive::new("", 9100) };
        let before = mapped.closed("malformed");
        assert_eq!(mapped.ask(&alive.request()), REFUSED, "{name:?}");
        assert_eq!(mapped.ask(&Alive { highest: 5, ..alive }.request()), REFUSED_NARROW, "{name:?}");
        eventually("both are counted", SOON, || mapped.closed("malformed") == before + 2);
        assert_eq!(mapped.ask(b"n"), NO_NAMES, "{name:?}");
    }
    assert!(mapped.guard.daemon().lines().iter().all(|line| line.is_ascii()));
}

#[test]
fn names_are_listed_newest_first_with_the_port_that_was_dialled() {
    if !require() {
        return;
    }
    let config = format!("{}[epmd]\nlisten = [\"*\", \"*:5369\"]\n", embedded(EVERYBODY));
    let mapped = Mapped::new(&["h1", "h2"], &config);
    mapped.guard.wait_open(5369);
    let kept = ["a", "c", "b"].map(|name| mapped.register(name, 9100));
    let listed = "name b at port 9100\nname c at port 9100\nname a at port 9100\n";
    let peer = mapped.lab.host("h2");
    for (port, word) in [(4369, b"\0\0\x11\x11"), (5369, b"\0\0\x14\xf9")] {
        let answer = [word, listed.as_bytes()].concat();
        for ip in [IpAddr::from(mapped.host.v4()), mapped.host.v6().into()] {
            assert_eq!(ask(&peer.connect(SocketAddr::new(ip, port)).unwrap(), b"n"), answer);
        }
        for ip in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
            assert_eq!(ask(&mapped.host.connect(SocketAddr::new(ip, port)).unwrap(), b"n"), answer);
        }
        let dumped = ask(&mapped.host.connect(mapped.at(port)).unwrap(), b"d");
        assert_eq!(dumped[..4], word[..]);
    }
    let [a, c, _b] = kept;
    drop(c);
    eventually("c goes", SOON, || mapped.names() == "name b at port 9100\nname a at port 9100\n");
    let _c = mapped.register("c", 9101);
    assert!(mapped.names().starts_with("name c at port 9101\nname b "));
    drop(a);
}

#[test]
fn dump_tells_self_the_names_that_are_and_those_that_were() {
    if !require() {
        return;
    }
    let mapped = Mapped::new(&["h1"], &embedded(&[]));
    assert_eq!(mapped.ask(b"d"), NO_NAMES);
    let was = mapped.register("was", 9102);
    let _a = mapped.register("a", 9100);
    let _b = mapped.register("b", 9101);
    drop(was);
    eventually("one goes", SOON, || !mapped.names().contains("was"));
    let answer = mapped.ask(b"d");
    let text = String::from_utf8(answer[4..].to_vec()).unwrap();
    let lines: Vec<_> = text.split_terminator('\0').collect();
    let is = |line: &str, head: &str, tail: &str| {
        let number = line.strip_prefix(head).and_then(|rest| rest.strip_suffix(tail));
        assert!(number.is_some_and(|number| number.parse::<i32>().is_ok()), "{line:?} is not {head:?}");
    };
    assert!(text.ends_with('\0') && lines.len() == 3, "{text:?}");
    is(lines[0], "active name     <b> at port 9101, fd = ", "\n");
    is(lines[1], "active name     <a> at port 9100, fd = ", "\n");
    is(lines[2], "old/unused name <was>, port = 9102, fd = ", " \n");
    assert!(mapped.ask(b"zwas") == b"w\x01");
}

#[test]
fn what_only_self_may_ask_is_refused_to_a_peer_without_a_word() {
    if !require() {
        return;
    }
    let config = format!("{}[epmd]\nrelaxed_command_check = true\n", embedded(EVERYBODY));
    let mapped = Mapped::new(&["h1", "h2"], &config);
    let _a = mapped.register("a", 9100);
    let local = [Alive::new("b", 9101).request(), b"d".to_vec(), b"k".to_vec(), b"sa".to_vec()];
    for (count, request) in (1..).zip(&local) {
        assert_eq!(mapped.ask_from("h2", request), b"", "{request:?}");
        mapped.guard.wait_event("refused", &[("reason", "local_only"), ("peer", "192.0.2.2:*")]);
        eventually("it is counted", SOON, || mapped.refused("local_only") == count);
        assert_eq!(mapped.closed("local_only"), count);
    }
    assert_eq!(mapped.names(), "name a at port 9100\n");
    // A peer's questions are answered.
    assert_eq!(mapped.ask_from("h2", b"n"), b"\0\0\x11\x11name a at port 9100\n");
    assert!(mapped.ask_from("h2", b"za").starts_with(b"w\0"));
    // The same of self.
    let _b = register(&mapped.host, mapped.at(4369), &Alive::new("b", 9101));
    let own = |request: &[u8]| ask(&mapped.host.connect(mapped.at(4369)).unwrap(), request);
    assert!(own(b"d").len() > 4);
    assert_eq!(own(b"k"), b"NO");
    assert_eq!(own(b"sa"), b"STOPPED");
}

#[test]
fn kill_is_answered_by_whether_a_name_is_left_and_ends_nothing() {
    if !require() {
        return;
    }
    for relaxed in [false, true] {
        let config = format!("{}[epmd]\nrelaxed_command_check = {relaxed}\n", embedded(&[]));
        let mapped = Mapped::new(&["h1"], &config);
        assert_eq!(mapped.ask(b"k"), b"OK");
        let registered = mapped.register("a", 9100);
        if !relaxed {
            assert_eq!(mapped.ask(b"k"), b"NO");
        }
        assert!(lives(&registered));
        assert_eq!(mapped.names(), "name a at port 9100\n");
        drop(registered);
        eventually("the name goes", SOON, || mapped.names().is_empty());
        assert_eq!(mapped.ask(b"k"), b"OK");
        assert_eq!(mapped.ask(b"n"), NO_NAMES);
        assert_eq!(mapped.guard.daemon().exit_status(), None);
    }
}

#[test]
fn stop_is_refused_without_a_word_unless_the_check_is_relaxed() {
    if !require() {
        return;
    }
    let mapped = Mapped::new(&["h1"], &embedded(&[]));
    let registered = mapped.register("a", 9100);
    for (count, name) in (1..).zip([b"sa".as_slice(), b"snone"]) {
        assert_eq!(mapped.ask(name), b"");
        eventually("it is counted", SOON, || mapped.refused("not_relaxed") == count);
    }
    mapped.guard.wait_event("refused", &[("reason", "not_relaxed"), ("asked", "STOP_REQ")]);
    assert!(lives(&registered));
    assert_eq!(mapped.names(), "name a at port 9100\n");
}

#[test]
fn stop_throws_a_name_out_when_the_check_is_relaxed_and_its_node_registers_again() {
    if !require() {
        return;
    }
    let config = format!("{}[epmd]\nrelaxed_command_check = true\n", embedded(&[]));
    let mapped = Mapped::new(&["h1"], &config);
    assert_eq!(mapped.ask(b"snone"), b"NOEXISTSTOPPED");
    let registered = mapped.register("a", 9100);
    assert_eq!(mapped.ask(b"sa"), b"STOPPED");
    assert_eq!(mapped.names(), "");
    assert_eq!(read_to_close(&registered.stream), Outcome { bytes: Vec::new(), ended: Ended::Fin });
    mapped.guard.wait_event(
        "closed",
        &[("reason", "unregistered_by_stop"), ("standing", "self"), ("asked", "ALIVE2_REQ a port 9100")],
    );
    assert_eq!(mapped.closed("unregistered_by_stop"), 1);
    assert_eq!(mapped.ask(b"sa"), b"NOEXISTSTOPPED");

    let node = Node::named("n", &mapped.host).port(9100).start();
    mapped.guard.wait_open(9100);
    let begun = Instant::now();
    assert_eq!(mapped.ask(b"sn"), b"STOPPED");
    mapped.guard.wait_closed(9100);
    eventually("the node registers again", SOON, || mapped.names() == "name n at port 9100\n");
    let took = begun.elapsed();
    // Its first retry is after 2 s, its second after 4 s.
    assert!((Duration::from_millis(1900)..Duration::from_millis(3900)).contains(&took), "{took:?}");
    mapped.guard.wait_open(9100);
    assert_eq!(node.eval("node()."), "'n@h1.test'");
}

#[test]
fn what_can_be_no_request_is_closed_without_a_word_and_counted_also_for_self() {
    if !require() {
        return;
    }
    let config = format!("{}[limits]\nrequest_timeout = \"60s\"\n", embedded(EVERYBODY));
    let mapped = Mapped::new(&["h1", "h2"], &config);
    let own = Alive::new("a", 9100).request();
    let short_name = {
        let mut bytes = own.clone();
        bytes[10] = 9;
        framed(&bytes)
    };
    let nul = framed(&Alive { name: b"a\0b", ..Alive::new("", 9100) }.request());
    let longest = [&[0x0b, 0xf1, b'z'], vec![b'a'; 3056].as_slice()].concat();
    let both: [(&[u8], &str, &str); 14] = [
        (b"\0\0", "malformed", "the request is empty"),
        (b"\x0b\xf2", "malformed", "the request has 3058 bytes, 3057 is the most"),
        (b"\xff\xff", "malformed", "the request has 65535 bytes, 3057 is the most"),
        (b"\0\x01n\0\x01n", "malformed", "bytes follow the request"),
        (b"\0\x01nn", "malformed", "bytes follow the request"),
        (b"\0\x01z", "malformed", "the name is empty"),
        (b"\0\x02z\0", "malformed", "the name is empty"),
        (b"\0\x04za\0b", "malformed", "the name has a character that no node name has"),
        (b"\0\x04za\0\0", "malformed", "the name has a character that no node name has"),
        (b"\0\x03z\xff\xfe", "malformed", "the name is not UTF-8"),
        (&longest, "malformed", "the name has more than 254 characters"),
        (b"\0\x05za", "no_request", ""),
        (b"\0", "no_request", ""),
        (b"", "no_request", ""),
    ];
    let peer = mapped.lab.host("h2");
    for (sent, reason, detail) in both {
        mapped.is_silent(&peer, mapped.at(4369), sent, (reason, detail));
        mapped.is_silent(&mapped.host, LOOPBACK, sent, (reason, detail));
    }
    for opcode in [b'a', b'p', b'y', b'v', b'w', 0, 255] {
        mapped.is_silent(&peer, mapped.at(4369), &[0, 1, opcode], ("unknown_opcode", ""));
        mapped.is_silent(&mapped.host, LOOPBACK, &[0, 1, opcode], ("unknown_opcode", ""));
    }
    assert_eq!(mapped.refused("unknown_opcode"), 14);
    for sent in [&framed(&own[..13]), &short_name, &nul, &framed(b"x")] {
        mapped.is_silent(&mapped.host, LOOPBACK, sent, ("malformed", ""));
    }
    assert_eq!(mapped.ask(b"n"), NO_NAMES, "nothing was registered");
    // Half closed behind a whole request is none of these, and bytes behind one do not destroy its answer.
    let stream = mapped.host.connect(LOOPBACK).unwrap();
    send(&stream, &framed(b"n")).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_close(&stream).bytes, NO_NAMES);
    assert_eq!(mapped.ask(b"n and more of it"), NO_NAMES);
}

#[test]
fn a_full_table_refuses_the_next_name_and_the_others_live_on() {
    if !require() {
        return;
    }
    let config = format!("{}[limits]\nnames = 2\n", embedded(EVERYBODY));
    let mapped = Mapped::new(&["h1", "h2"], &config);
    let (a, b) = (mapped.register("a", 9100), mapped.register("b", 9101));
    assert_eq!(mapped.ask(&Alive::new("c", 9102).request()), REFUSED);
    assert_eq!(mapped.ask(&Alive { highest: 5, ..Alive::new("c", 9102) }.request()), REFUSED_NARROW);
    mapped.guard.wait_event("refused", &[("reason", "too_many_names")]);
    mapped.guard.wait_event("closed", &[("reason", "too_many_names"), ("asked", "ALIVE2_REQ c port 9102")]);
    eventually("it is counted", SOON, || mapped.refused("too_many_names") == 2);
    // One that is taken is refused as that.
    assert_eq!(mapped.ask(&Alive::new("a", 9102).request()), REFUSED);
    eventually("it is counted", SOON, || mapped.closed("not_registered") == 1);
    assert!(lives(&a) && lives(&b));
    assert_eq!(mapped.ask_from("h2", b"n"), b"\0\0\x11\x11name b at port 9101\nname a at port 9100\n");
    drop(a);
    eventually("a place is free", SOON, || {
        try_register(&mapped.host, LOOPBACK, &Alive::new("c", 9102)).map_err(|reply| format!("{reply:?}"))
    });
    assert!(lives(&b));
}

#[test]
fn a_reload_changes_how_many_names_fit_and_ends_no_registration() {
    if !require() {
        return;
    }
    let limit = |names: u32| format!("{}[limits]\nnames = {names}\n", embedded(&[]));
    let mapped = Mapped::new(&["h1"], &limit(3));
    let kept = ["a", "b"].map(|name| mapped.register(name, 0));
    let reload = |names: u32| {
        drop(configure(&mapped.lab, &mapped.host, &limit(names)));
        let said = told(&mapped.lab, &mapped.host, &["reload"]);
        assert_eq!(said.code, 0, "{said:?}");
    };
    reload(1);
    assert_eq!(mapped.ask(&Alive::new("c", 0).request()), REFUSED);
    assert!(kept.iter().all(lives));
    reload(3);
    let _c = mapped.register("c", 0);
    assert_eq!(mapped.ask(&Alive::new("d", 0).request()), REFUSED);
    assert!(kept.iter().all(lives));
}

/// A relay on the host that knows nothing of epmd, and dials from the host's own address.
fn relay(mapped: &Mapped, port: u16, to: SocketAddr) -> Daemon {
    let mut socat = mapped.host.command("socat");
    socat.arg(format!("TCP4-LISTEN:{port},bind=192.0.2.1,fork,reuseaddr")).arg(format!("TCP4:{to}"));
    let relay = Daemon::spawn("socat", socat);
    eventually("socat listens", SOON, || mapped.host.listeners().contains(&mapped.at(port)));
    relay
}

/// What a stranger registers through a relay to the host's own address.
fn relayed(self_at: &str) -> (Mapped, Result<Registered, Vec<u8>>) {
    let mapped = Mapped::new(&["h1", "h3"], &format!("{}[epmd]\nself = {self_at}\n", embedded(&[])));
    let relay = relay(&mapped, 5369, mapped.at(4369));
    let stranger = mapped.lab.host("h3");
    let registered = try_register(&stranger, mapped.at(5369), &Alive::new("evil", 9100));
    drop(relay);
    (mapped, registered)
}

#[test]
fn a_relay_on_the_host_makes_a_stranger_look_like_self_unless_self_is_none() {
    if !require() {
        return;
    }
    let (_mapped, registered) = relayed("\"all\"");
    assert!(registered.is_ok(), "this is what the setting is for: {registered:?}");

    let (mapped, registered) = relayed("\"none\"");
    assert_eq!(registered.unwrap_err(), b"");
    mapped
        .guard
        .wait_event("refused", &[("peer", "192.0.2.1:*"), ("reason", "not_allowed"), ("stage", "admit")]);
    assert!(!mapped.host.listeners().contains(&LOOPBACK), "nobody could be served there");
}

#[test]
fn self_may_be_known_on_loopback_alone() {
    if !require() {
        return;
    }
    let (mapped, registered) = relayed("[\"127.0.0.1\", \"::1\"]");
    assert_eq!(registered.unwrap_err(), b"");
    for (name, ip) in [("a", IpAddr::from(Ipv4Addr::LOCALHOST)), ("b", Ipv6Addr::LOCALHOST.into())] {
        let own = SocketAddr::new(ip, 4369);
        let registered = register(&mapped.host, own, &Alive::new(name, 9100));
        assert_eq!(ask(&mapped.host.connect(own).unwrap(), b"k"), b"NO");
        drop(registered);
    }
    let own = read_to_close(&mapped.host.connect(mapped.at(4369)).unwrap());
    assert_eq!((own.bytes, own.ended), (Vec::new(), Ended::Reset));
    mapped.guard.wait_event("refused", &[("peer", "192.0.2.1:*"), ("reason", "not_allowed")]);
}

#[test]
fn where_self_is_not_known_the_host_s_own_address_is_a_peer_like_any_other() {
    if !require() {
        return;
    }
    let own = "[epmd]\nself = [\"127.0.0.1\", \"::1\"]\n";
    let mapped = Mapped::new(&["h1"], &format!("{}{own}", embedded(&["192.0.2.1"])));
    let ask_own = |request: &[u8]| ask(&mapped.host.connect(mapped.at(4369)).unwrap(), request);
    let _a = mapped.register("a", 9100);
    assert_eq!(ask_own(b"n"), b"\0\0\x11\x11name a at port 9100\n");
    for request in [Alive::new("b", 9101).request(), b"d".to_vec(), b"k".to_vec()] {
        assert_eq!(ask_own(&request), b"", "{request:?}");
    }
    eventually("it is counted", SOON, || mapped.refused("local_only") == 3);
}

#[test]
fn where_self_is_not_known_no_relay_leads_to_a_distribution_port() {
    if !require() {
        return;
    }
    for (self_at, is_reached) in [("\"all\"", true), ("[\"127.0.0.1\", \"::1\"]", false)] {
        let mapped = Mapped::new(&["h1", "h3"], &format!("{}[epmd]\nself = {self_at}\n", embedded(&[])));
        let (listener, port) = listen(&mapped.host);
        let _a = mapped.register("a", port);
        mapped.guard.wait_open(port);
        let _relay = relay(&mapped, 5369, mapped.at(port));
        let link = mapped.lab.host("h3").connect(mapped.at(5369)).unwrap();
        let stranger = Initiator::named("evil@h3.test");
        if is_reached {
            drop(handshake::link(&link, &listener, &stranger, "a@h1.test"));
            continue;
        }
        drop(send(&link, &stranger.first_message()));
        assert_eq!(read_to_close(&link).bytes, b"");
        let fields = [("role", "dist"), ("peer", "192.0.2.1:*"), ("reason", "not_allowed")];
        mapped.guard.wait_event("refused", &fields);
        listener.set_nonblocking(true).unwrap();
        let reached = listener.accept();
        assert!(reached.is_err(), "a stranger reached the node");
    }
}

/// A guard that takes names from `h2`, and from no other host.
fn lets_register() -> Mapped {
    Mapped::new(
        &["h1", "h2", "h3"],
        &format!(
            "{}[epmd]\nrelaxed_command_check = true\nregister_from = [\"192.0.2.2/32\"]\n",
            embedded(&["192.0.2.3"])
        ),
    )
}

#[test]
fn a_host_of_register_from_registers_names_and_may_do_nothing_else_than_ask_for_them() {
    if !require() {
        return;
    }
    let mapped = lets_register();
    let h2 = mapped.lab.host("h2");
    let _own = mapped.register("own", 9200);
    let registered = register(&h2, mapped.at(4369), &Alive::new("far", 9100));
    let listed = "name far at port 9100\nname own at port 9200\n";
    assert_eq!(mapped.names(), listed);
    for from in ["h2", "h3"] {
        assert_eq!(mapped.ask_from(from, b"n")[4..], *listed.as_bytes(), "{from}");
        assert!(mapped.ask_from(from, b"zfar").starts_with(b"w\0\x23\x8cM"), "{from}");
    }
    assert_eq!(mapped.ask_from("h2", &Alive::new("own", 1).request()), REFUSED);
    for (count, request) in (1..).zip([&b"d"[..], b"k", b"sown", b"sfar"]) {
        assert_eq!(mapped.ask_from("h2", request), b"", "{request:?}");
        eventually("it is counted", SOON, || mapped.refused("local_only") == count);
    }
    mapped.guard.wait_event("closed", &[("standing", "registrant"), ("reason", "local_only")]);
    // A peer that is let in is no one who registers.
    assert_eq!(mapped.ask_from("h3", &Alive::new("x", 1).request()), b"");
    assert_eq!(mapped.names(), listed);
    drop(registered);
    eventually("the name goes", SOON, || mapped.names() == "name own at port 9200\n");
    let closed = [("standing", "registrant"), ("reason", "unregistered_by_node")];
    mapped.guard.wait_event("closed", &closed);
}

#[test]
fn no_port_of_this_host_opens_for_a_name_that_another_host_registers() {
    if !require() {
        return;
    }
    let mapped = lets_register();
    let (h2, h3) = (mapped.lab.host("h2"), mapped.lab.host("h3"));
    // What listens at the number of another host's node is somebody else's, a database for instance.
    let (database, port) = listen(&mapped.host);
    let _far = register(&h2, mapped.at(4369), &Alive::new("far", port));
    assert!(mapped.ask_from("h3", b"zfar").starts_with(b"w\0"));
    // A look of the front later: a port that is opened for a name of this host says that there was one.
    let (marker, marked) = listen(&mapped.host);
    let _marker = mapped.register("marker", marked);
    assert!(h3.connect(mapped.at(marked)).is_ok());
    assert!(!mapped.host.listeners().contains(&mapped.at(port)));
    assert!(h3.connect(mapped.at(port)).is_err());
    // Nor may who registers use a port that is open for others.
    let link = h2.connect(mapped.at(marked)).and_then(|mut link| link.read(&mut [0; 1]));
    assert!(link.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::ConnectionReset), "{link:?}");
    mapped
        .guard
        .wait_event("refused", &[("role", "dist"), ("peer", "192.0.2.2:*"), ("reason", "not_allowed")]);
    database.set_nonblocking(true).unwrap();
    assert!(database.accept().is_err());
    drop(marker);
}

/// The timers of the guard's connections whose other end is `peer`.
fn timers(mapped: &Mapped, peer: SocketAddr) -> String {
    let mut ss = mapped.host.command("ss");
    ss.args(["-Htno", "state", "established", "sport", "=", ":4369", "and", "dport", "="]);
    let output = ss.arg(format!(":{}", peer.port())).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.lines().count(), 1, "{peer}: {text:?}");
    text
}

#[test]
fn the_kernel_watches_the_registrations_of_other_hosts_and_no_others() {
    if !require() {
        return;
    }
    let mapped = lets_register();
    let far = register(&mapped.lab.host("h2"), mapped.at(4369), &Alive::new("far", 9100));
    let own = mapped.register("own", 9101);
    let timer = timers(&mapped, far.stream.local_addr().unwrap());
    assert!(timer.contains("timer:(keepalive"), "{timer}");
    let timer = timers(&mapped, own.stream.local_addr().unwrap());
    assert!(!timer.contains("keepalive"), "{timer}");
}

/// Lets this process have as many descriptors as a test with many ends needs.
fn raise_descriptors() {
    const ENOUGH: u64 = 16_384;
    let before = getrlimit(Resource::Nofile);
    if before.current.is_some_and(|limit| limit < ENOUGH) {
        setrlimit(Resource::Nofile, Rlimit { current: Some(ENOUGH), maximum: before.maximum })
            .expect("a hard limit on open files of 16,384 at least: ulimit -Hn");
    }
}

#[test]
fn ten_thousand_names_or_as_many_as_the_machine_carries_are_registered_found_and_listed() {
    if !require() {
        return;
    }
    /// So many wait for their answers at one time.
    const AT_ONCE: usize = 500;
    raise_descriptors();
    let mapped = Mapped::new(&["h1", "h2"], &embedded(EVERYBODY).replace("debug", "info"));
    // Where the machine does not give so many descriptors, as many as it does.
    let started = mapped.guard.wait_event("started", &[]);
    let carried: usize = field(&started, "names").parse().unwrap();
    let count = carried.min(10_000);
    assert!(count > 1019, "no more than epmd has: {started}");
    let name = |number: usize| format!("node{number:05}");
    let begun = Instant::now();
    let mut kept: Vec<TcpStream> = Vec::with_capacity(count);
    for first in (0..count).step_by(AT_ONCE) {
        for number in first..count.min(first + AT_ONCE) {
            let stream = mapped.host.connect(LOOPBACK).unwrap();
            let port = 10_000 + number as u16;
            send(&stream, &framed(&Alive::new(&name(number), port).request())).unwrap();
            kept.push(stream);
        }
        for (number, mut stream) in (first..).zip(&kept[first..]) {
            let mut reply = [1; 6];
            stream.read_exact(&mut reply).unwrap_or_else(|error| panic!("{number}: {error}"));
            assert_eq!(reply[..2], *b"v\0", "{number}");
        }
    }
    let registered = begun.elapsed();
    for number in [0, count / 2, count - 1] {
        let [high, low] = (10_000 + number as u16).to_be_bytes();
        let question = format!("z{}", name(number)).into_bytes();
        for answer in [mapped.ask(&question), mapped.ask_from("h2", &question)] {
            assert!(answer.starts_with(&[b'w', 0, high, low, b'M']), "{number}: {answer:?}");
        }
    }
    // Those that came at one time are in any order.
    let listed = mapped.names();
    let mut lines: Vec<_> = listed.lines().collect();
    lines.sort_unstable();
    let line = |number: usize| format!("name {} at port {}", name(number), 10_000 + number);
    assert!(
        lines.iter().copied().eq((0..count).map(line).collect::<Vec<_>>().iter()),
        "{} lines",
        lines.len()
    );
    let begun = Instant::now();
    drop(kept);
    eventually("all go", SOON, || {
        let left = mapped.names().lines().count();
        if left == 0 { Ok(()) } else { Err(format!("{left} names are left")) }
    });
    let gone = begun.elapsed();
    // A bound for what grows with the square of the names, on a busy machine; no measure.
    let bound = Duration::from_secs(30);
    assert!(registered < bound && gone < bound, "registered within {registered:?}, gone within {gone:?}");
    println!("{count} names: registered within {registered:?}, gone within {gone:?}");
}
