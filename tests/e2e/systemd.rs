//! The guard as a service of systemd: what it tells, and the sockets that it is given.
//!
//! The manager is a stand-in: a datagram socket that hears what the guard tells, and systemd's own
//! systemd-socket-activate, which listens as a socket unit does and becomes the guard when somebody connects.

use std::cell::RefCell;
use std::fs::{self, Permissions};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::{EVERYBODY, require};
use crate::support::daemon::Signal;
use crate::support::erlang::{Epmd, EpmdListen, Node};
use crate::support::eventually::eventually;
use crate::support::guard::{
    Guard, SOON, USER, admin_socket, ask_admin, configure, field, front, links, program,
};
use crate::support::handshake::Initiator;
use crate::support::host::Host;
use crate::support::lab::Lab;
use crate::support::wire::{ask, read_frame, send};

/// The end of the manager that the guard talks to.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
    heard: RefCell<Vec<String>>,
}

impl Manager {
    fn new(lab: &Lab) -> Self {
        let path = lab.dir().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        // Sending wants the right to write, which everybody has at systemd's own.
        fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
        Self { socket, path, heard: RefCell::default() }
    }

    /// The next message; none if none comes until `deadline`.
    fn hear(&self, deadline: Instant) -> Option<String> {
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        self.socket.set_read_timeout(Some(left)).unwrap();
        let mut bytes = [0; 1024];
        let length = self.socket.recv(&mut bytes).ok()?;
        let message = String::from_utf8(bytes[..length].to_vec()).unwrap();
        self.heard.borrow_mut().push(message.clone());
        Some(message)
    }

    /// Waits for a message that begins so.
    #[track_caller]
    fn wait(&self, begin: &str) -> String {
        let deadline = Instant::now() + SOON;
        loop {
            match self.hear(deadline) {
                Some(message) if message.starts_with(begin) => return message,
                Some(_) => {}
                None => panic!("no {begin}, only {:?}", self.heard.borrow()),
            }
        }
    }

    /// What else it has heard by now.
    fn rest(&self) -> Vec<String> {
        std::iter::from_fn(|| self.hear(Instant::now())).collect()
    }
}

/// A host with an epmd on loopback and a guard that a manager started.
fn managed(lab: &Lab, manager: &Manager) -> (Host, Epmd, Guard) {
    let host = lab.host("h1");
    let epmd = Epmd::start(&host, EpmdListen::Loopback);
    let mut command = host.command_as(USER, "sh");
    // A manager knows the id of its child before that runs.
    command.args(["-c", "WATCHDOG_PID=$$ exec \"$0\" \"$@\""]);
    command.arg(program(lab)).arg("run").arg("--config").arg(configure(lab, &host, &front(EVERYBODY)));
    command.env("NOTIFY_SOCKET", &manager.path).env("WATCHDOG_USEC", "2000000");
    let guard = Guard::adopt(&host, command);
    (host, epmd, guard)
}

#[test]
fn ready_is_told_when_the_ports_are_open_and_stopping_before_it_ends() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1"]);
    let manager = Manager::new(&lab);
    let (host, _epmd, guard) = managed(&lab, &manager);
    let first = manager.hear(Instant::now() + SOON).unwrap();
    assert!(first.starts_with("READY=1\nSTATUS="), "{first}");
    for ip in [IpAddr::from(host.v4()), host.v6().into()] {
        assert!(host.listeners().contains(&SocketAddr::new(ip, 4369)), "{:?}", host.listeners());
    }
    guard.stop();
    manager.wait("STOPPING=1\n");
    let rest = manager.rest();
    assert!(!rest.iter().any(|message| message.contains("READY=1")), "{rest:?}");
}

#[test]
fn a_reload_is_told_as_one() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1"]);
    let manager = Manager::new(&lab);
    let (_host, _epmd, guard) = managed(&lab, &manager);
    manager.wait("READY=1\n");
    guard.daemon().signal(Signal::HUP);
    let reloading = manager.wait("RELOADING=1\n");
    let usec = reloading.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC="));
    assert!(usec.is_some_and(|usec| usec.parse::<u64>().is_ok()), "{reloading}");
    manager.wait("READY=1\n");
    guard.stop();
}

#[test]
fn its_status_tells_of_a_drain_and_of_a_reload_that_was_refused() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1"]);
    let manager = Manager::new(&lab);
    let (host, _epmd, guard) = managed(&lab, &manager);
    manager.wait("READY=1\n");
    let shows = |words: &str| {
        eventually(words, SOON, || {
            let status = manager.wait("STATUS=");
            if status.contains(words) { Ok(()) } else { Err(status) }
        });
    };
    let socket = admin_socket(&lab, &host);
    shows("port(s) open");
    guard.wait_event("admin_opened", &[]);
    assert_eq!(ask_admin(&socket, "POST", "/drain").0, 200);
    shows("DRAINING");
    drop(configure(&lab, &host, "alow = 1"));
    assert_eq!(ask_admin(&socket, "POST", "/reload").0, 409);
    // Both are so, and READY in between had other words.
    shows("DRAINING: nothing new of peers is let in, LAST RELOAD REFUSED");
    guard.stop();
}

#[test]
fn the_watchdog_is_fed() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1"]);
    let manager = Manager::new(&lab);
    let (_host, _epmd, guard) = managed(&lab, &manager);
    manager.wait("READY=1\n");
    for _ in 0..3 {
        manager.wait("WATCHDOG=1\n");
    }
    // A guard that hangs is found: nothing but its own loop gives the sign.
    guard.daemon().signal(Signal::STOP);
    manager.rest();
    assert_eq!(manager.hear(Instant::now() + Duration::from_secs(3)), None);
    guard.daemon().signal(Signal::CONT);
    manager.wait("WATCHDOG=1\n");
    guard.stop();
}

/// A guard that gets sockets as from socket units: each an address and its FileDescriptorName. It starts
/// when somebody connects to one of them.
fn activated(lab: &Lab, host: &Host, sockets: &[(&str, &str)]) -> Guard {
    let mut command: Command = host.command("systemd-socket-activate");
    let names: Vec<&str> = sockets.iter().map(|(_, name)| *name).collect();
    command.args(sockets.iter().map(|(addr, _)| format!("--listen={addr}")));
    command.arg(format!("--fdname={}", names.join(":")));
    command.args(["setpriv", &format!("--reuid={USER}"), &format!("--regid={USER}"), "--clear-groups", "--"]);
    command.arg(program(lab)).arg("run").arg("--config").arg(configure(lab, host, &front(EVERYBODY)));
    let guard = Guard::adopt(host, command);
    for (addr, _) in sockets {
        let addr: SocketAddr = addr.parse().unwrap();
        eventually("systemd listens", SOON, || host.listeners().contains(&addr));
    }
    guard
}

#[test]
fn sockets_of_systemd_are_served_by_their_names() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1", "h2"]);
    let (host, peer) = (lab.host("h1"), lab.host("h2"));
    let at = |port| SocketAddr::new(host.v4().into(), port);
    let _epmd = Epmd::start(&host, EpmdListen::Loopback);
    let guard = activated(&lab, &host, &[("192.0.2.1:4369", "epmd"), ("192.0.2.1:9100", "dist-a")]);
    // What connects before the guard runs starts it, and is answered.
    let early = peer.connect(at(4369)).unwrap();
    assert_eq!(ask(&early, b"n"), b"\0\0\x11\x11");
    for (role, listener) in [("epmd", "192.0.2.1:4369"), ("dist", "192.0.2.1:9100")] {
        guard.wait_event("port_opened", &[("role", role), ("listener", listener), ("audience", "peers")]);
    }
    // What systemd does not hold the guard opens itself.
    guard.wait_open(4369);
    let a = Node::named("a", &host).port(9100).start();
    let b = Node::named("b", &peer).hidden().port(9100).start();
    assert!(b.ping(&a));
    // The port stays open when its node goes, as nobody but systemd could close it.
    a.stop();
    let refused: TcpStream = peer.connect(at(9100)).unwrap();
    drop(send(&refused, &Initiator::named("c@h2.test").first_message()));
    read_frame(&refused).unwrap_err();
    guard.wait_event("closed", &[("role", "dist"), ("reason", "backend_down")]);
    assert!(guard.events("port_closed").iter().all(|event| event["listener"] != "192.0.2.1:9100"));
    guard.stop();
}

#[test]
fn a_reload_that_forwards_a_socket_of_systemd_no_longer_is_refused_by_name_and_changes_nothing() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1", "h2"]);
    let (host, peer) = (lab.host("h1"), lab.host("h2"));
    let at = |port| SocketAddr::new(host.v4().into(), port);
    let _epmd = Epmd::start(&host, EpmdListen::Loopback);
    let guard = activated(&lab, &host, &[("192.0.2.1:4369", "epmd"), ("192.0.2.1:9100", "dist-a")]);
    assert_eq!(ask(&peer.connect(at(4369)).unwrap(), b"n"), b"\0\0\x11\x11");
    guard.wait_open(4369);
    guard.wait_event("admin_opened", &[]);
    let a = Node::named("a", &host).port(9100).start();
    let b = Node::named("b", &peer).hidden().port(9100).start();
    assert!(b.ping(&a));
    let socket = admin_socket(&lab, &host);
    let ids: Vec<u64> = links(&socket).into_keys().collect();
    assert_eq!(ids.len(), 1);
    let passed = "systemd passed a distribution socket for 192.0.2.1:9100, and [dist] ports ";
    for (ports, words) in [
        ("\"9101-9110\"", ["does not list port 9100", "add the port to [dist] ports"]),
        ("\"registered\"", ["is \"registered\"", "list the port in [dist] ports"]),
    ] {
        let log = guard.mark();
        drop(configure(&lab, &host, &front(EVERYBODY).replace("\"9100-9110\"", ports)));
        // That links may be cut is no leave for this.
        let (status, body) = ask_admin(&socket, "POST", "/reload?yes=1");
        assert_eq!(status, 409, "{body}");
        let refused = guard.wait_event_after(log, "reload_refused", &[]);
        let problems = field(&refused, "problems");
        for words in [passed, words[0], words[1]] {
            assert!(problems.contains(words), "{words}: {problems}");
        }
        let report: Value = serde_json::from_str(&ask_admin(&socket, "GET", "/status").1).unwrap();
        assert_eq!(report["generation"], 1, "{report}");
        assert_eq!(report["last_reload"]["result"], "refused", "{report}");
        assert!(field(&report["last_reload"], "detail").contains(passed), "{report}");
        // The port is open and the link is the one that it was.
        assert_eq!(links(&socket).into_keys().collect::<Vec<_>>(), ids);
        assert_eq!(b.eval("rpc:call('a@h1.test', erlang, node, [])."), "'a@h1.test'");
        assert_eq!(links(&socket).into_keys().collect::<Vec<_>>(), ids);
        assert!(guard.events("port_closed").is_empty(), "{:?}", guard.events("port_closed"));
    }
    let c = Node::named("c", &peer).hidden().port(9101).start();
    assert!(c.ping(&a), "nothing new is let in on the port");
    assert_eq!(links(&socket).len(), 2);
    guard.stop();
}

#[test]
fn a_socket_with_another_name_or_on_every_address_is_refused_with_its_cure() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1", "h2"]);
    let (host, peer) = (lab.host("h1"), lab.host("h2"));
    let cases = [
        (("192.0.2.1:4369", "epmd-guard.socket"), "FileDescriptorName=epmd"),
        (("0.0.0.0:4369", "epmd"), "ListenStream=192.0.2.1:4369"),
        (("[::]:4369", "epmd"), "ListenStream=192.0.2.1:4369"),
        (("192.0.2.1:22", "dist"), "[dist] ports"),
        (("127.0.0.1:4369", "epmd"), "leave loopback to epmd"),
    ];
    for (socket, cure) in cases {
        let guard = activated(&lab, &host, &[socket]);
        let addr: SocketAddr = socket.0.parse().unwrap();
        let from = if addr.ip().is_loopback() { &host } else { &peer };
        let ip = if addr.ip().is_loopback() { addr.ip() } else { host.v4().into() };
        // The guard may have ended before the connection is looked at.
        drop(from.connect(SocketAddr::new(ip, addr.port())));
        let (status, output) = guard.daemon().finish(SOON);
        assert_eq!(status.code(), Some(78), "{output}");
        assert!(output.contains(cure), "{output}");
    }
}
