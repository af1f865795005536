//! epmd behind the guard: what peers and this host may ask, and what happens when it goes.

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::common::{EVERYBODY, Guarded, require, two_hosts};
use crate::support::daemon::Daemon;
use crate::support::erlang::{Epmd, EpmdListen, Node};
use crate::support::eventually::eventually;
use crate::support::guard::{Guard, SOON, field, front};
use crate::support::lab::Lab;
use crate::support::wire::{Ended, ask, framed, read_frame, read_to_close, send};

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn alive2(name: &str) -> Vec<u8> {
    let mut request = b"x\x23\x8cM\0\0\x06\0\x05".to_vec();
    request.extend_from_slice(&(name.len() as u16).to_be_bytes());
    request.extend_from_slice(name.as_bytes());
    request.extend_from_slice(b"\0\0");
    request
}

#[test]
fn alive2_dump_kill_and_stop_of_a_permitted_peer_are_refused_though_a_bare_relay_lets_them_through() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1", "h2"]);
    let host = lab.host("h1");
    let mut epmd = Epmd::start_with(&host, EpmdListen::Loopback, 4369, &["-relaxed_command_check"]);
    let guard = Guard::start(&lab, &host, &front(&["192.0.2.2"]));
    let node = Node::named("a", &host).port(9100).start();
    let peer = lab.host("h2");
    let guarded = SocketAddr::new(host.v4().into(), 4369);
    let ask_guard = |request: &[u8]| ask(&peer.connect(guarded).unwrap(), request);

    // What a peer may ask is answered, so that the refusals are no accident.
    assert_eq!(ask_guard(b"n"), b"\0\0\x11\x11name a at port 9100\n");
    assert!(ask_guard(b"za").starts_with(b"w\0\x23\x8c"));
    for (request, opcode) in [
        (alive2("evil"), "ALIVE2_REQ"),
        (b"d".to_vec(), "DUMP_REQ"),
        (b"k".to_vec(), "KILL_REQ"),
        (b"sa".to_vec(), "STOP_REQ"),
    ] {
        assert_eq!(ask_guard(&request), b"", "{opcode}");
        let closed = guard.wait_event("closed", &[("reason", "local_only"), ("standing", "peer")]);
        assert!(field(&closed, "peer").starts_with("192.0.2.2:"), "{closed}");
    }
    guard.wait_event("refused", &[("reason", "local_only"), ("stage", "authorize"), ("asked", "ALIVE2_REQ")]);
    for asked in ["DUMP_REQ", "KILL_REQ", "STOP_REQ"] {
        guard.wait_event("refused", &[("reason", "local_only"), ("asked", asked)]);
    }
    assert_eq!(epmd.names(), ["name a at port 9100"]);

    // The same, through a relay that knows nothing of epmd.
    let mut relay = host.command("socat");
    relay.args(["TCP4-LISTEN:5369,bind=192.0.2.1,fork,reuseaddr", "TCP4:127.0.0.1:4369"]);
    let _relay = Daemon::spawn("socat", relay);
    let relayed = SocketAddr::new(host.v4().into(), 5369);
    eventually("socat listens", SOON, || host.listeners().contains(&relayed));
    let registration = peer.connect(relayed).unwrap();
    send(&registration, &framed(&alive2("evil"))).unwrap();
    let mut reply = [1; 2];
    (&registration).read_exact(&mut reply).unwrap();
    assert_eq!(reply, *b"v\0", "a bare relay lets a stranger register");
    assert_eq!(epmd.names(), ["name evil at port 9100", "name a at port 9100"]);
    assert!(
        String::from_utf8_lossy(&ask(&peer.connect(relayed).unwrap(), b"d")).contains("active name     <a>")
    );
    assert_eq!(ask(&peer.connect(relayed).unwrap(), b"sa"), b"STOPPED");
    assert_eq!(ask(&peer.connect(relayed).unwrap(), b"k"), b"OK");
    epmd.stop();
    drop(node);
}

#[test]
fn self_may_ask_epmd_everything_through_the_guard_and_kill_ends_nothing() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1"]);
    let host = lab.host("h1");
    let epmd = Epmd::start_with(&host, EpmdListen::Loopback, 4369, &["-relaxed_command_check"]);
    let guard = Guard::start(&lab, &host, &front(&[]));
    let guarded = SocketAddr::new(host.v4().into(), 4369);
    let ask_guard = |request: &[u8]| ask(&host.connect(guarded).unwrap(), request);

    assert_eq!(ask_guard(b"k"), b"OK");
    let registration = host.connect(guarded).unwrap();
    send(&registration, &framed(&alive2("a"))).unwrap();
    let mut reply = [1; 6];
    (&registration).read_exact(&mut reply).unwrap();
    assert_eq!(reply[..2], *b"v\0");
    assert_eq!(ask_guard(b"n"), b"\0\0\x11\x11name a at port 9100\n");
    assert!(String::from_utf8_lossy(&ask_guard(b"d")).contains("active name     <a> at port 9100, fd = "));
    assert_eq!(ask_guard(b"k"), b"NO");
    // A name that is taken is refused as epmd refuses it, and the connection ends.
    assert_eq!(ask_guard(&alive2("a")), b"v\x01\0\0\0\x63");
    guard.wait_event("closed", &[("reason", "not_registered")]);
    // It lives exactly as long as its connection.
    drop(registration);
    guard.wait_event("closed", &[("reason", "unregistered_by_node")]);
    eventually("the name goes", SOON, || epmd.names().is_empty());
    let registration = host.connect(guarded).unwrap();
    send(&registration, &framed(&alive2("b"))).unwrap();
    eventually("the name comes", SOON, || epmd.names() == ["name b at port 9100"]);
    assert_eq!(ask_guard(b"snone"), b"NOEXISTSTOPPED");
    assert_eq!(ask_guard(b"sb"), b"STOPPED");
    guard.wait_event("closed", &[("reason", "unregistered_by_epmd")]);
    assert_eq!(ask_guard(b"n"), b"\0\0\x11\x11");
}

#[test]
fn names_carries_the_port_that_was_dialled() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1", "h2"]);
    let host = lab.host("h1");
    let _epmd = Epmd::start(&host, EpmdListen::Loopback);
    let config = front(EVERYBODY).replace("[epmd]", "[epmd]\nlisten = [\"*:5369\"]");
    let guard = Guard::launch(&lab, &host, &config);
    guard.wait_open(5369);
    let _node = Node::named("a", &host).port(9100).start();
    for ip in [IpAddr::from(host.v4()), host.v6().into()] {
        let stream = lab.host("h2").connect(SocketAddr::new(ip, 5369)).unwrap();
        assert_eq!(ask(&stream, b"n"), b"\0\0\x14\xf9name a at port 9100\n");
    }
    // What a real node makes of it: it answers {error,address} when the port is another.
    let asker =
        Node::named("b", &lab.host("h2")).arg("-epmd_port").arg("5369").env("ERL_EPMD_PORT", "5369").start();
    assert_eq!(asker.eval("erl_epmd:names({192,0,2,1})."), "{ok,[{\"a\",9100}]}");
}

#[test]
fn an_epmd_that_restarts_behind_the_guard_is_found_again_and_links_stay() {
    if !require() {
        return;
    }
    let (_lab, h1, mut h2) = two_hosts();
    let (a, b) = (h1.node("a"), h2.node("b"));
    assert!(a.ping(&b));
    let log = h2.guard.mark();
    h2.epmd.restart();
    // Nodes register again after 2 s; until then the name is not known, though its port stays open.
    let question = SocketAddr::new(h2.host.v4().into(), 4369);
    eventually("b is found through the guard", SOON, || {
        ask(&h1.host.connect(question).unwrap(), b"zb").starts_with(b"w\0")
    });
    assert_eq!(a.eval("nodes()."), "['b@h2.test']");
    assert!(
        h2.guard.daemon().find_line_after(log, Duration::ZERO, |line| line.contains("port_closed")).is_err()
    );
    assert_eq!(a.eval("erlang:disconnect_node('b@h2.test')."), "true");
    assert!(a.ping(&b));
}

#[test]
fn a_guard_that_restarts_in_front_of_epmd_serves_at_once_and_nodes_link_again() {
    if !require() {
        return;
    }
    let (lab, h1, h2) = two_hosts();
    let (a, b) = (h1.node("a"), h2.node("b"));
    assert!(a.ping(&b));
    h2.guard.stop();
    eventually("a sees the link go", SOON, || a.eval("nodes().") == "[]");
    let guard = Guard::start(&lab, &h2.host, &front(EVERYBODY));
    guard.wait_open(9100);
    assert!(a.ping(&b));
    assert_eq!(h2.epmd.names(), ["name b at port 9100"]);
}

#[test]
fn an_epmd_that_is_down_shows_as_a_close_and_in_the_log_and_the_guard_stays_up() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1", "h2"]);
    let mut h1 = Guarded::new(&lab, "h1", EVERYBODY);
    h1.epmd.stop();
    let guarded = SocketAddr::new(h1.host.v4().into(), 4369);
    for question in [&b"n"[..], b"za"] {
        assert_eq!(ask(&lab.host("h2").connect(guarded).unwrap(), question), b"");
    }
    assert_eq!(ask(&h1.host.connect(guarded).unwrap(), &alive2("a")), b"");
    let closed = h1.guard.wait_event("closed", &[("reason", "backend_down"), ("level", "WARN")]);
    let detail = field(&closed, "detail");
    assert!(detail.contains("127.0.0.1:4369") && detail.contains("ERL_EPMD_ADDRESS=127.0.0.1"), "{detail}");
    h1.epmd.restart();
    assert_eq!(ask(&lab.host("h2").connect(guarded).unwrap(), b"n"), b"\0\0\x11\x11");
}

/// Something that stands where epmd should be; a mock, since a real epmd does none of this.
fn odd_epmd(answer: &'static [u8]) -> (Lab, Guard) {
    let lab = Lab::new(&["h1", "h2"]);
    let host = lab.host("h1");
    let listener = host.listen(SocketAddr::new(LOOPBACK, 4369)).unwrap();
    std::thread::spawn(move || {
        let mut held = Vec::new();
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            drop(read_frame(&stream).unwrap());
            if answer == b"(silence)" {
                held.push(stream);
            } else {
                send(&stream, answer).unwrap();
            }
        }
    });
    let config = format!("{}[limits]\nbackend_timeout = \"500ms\"\n", front(EVERYBODY));
    let guard = Guard::start(&lab, &host, &config);
    (lab, guard)
}

fn ask_odd_epmd(answer: &'static [u8], reason: &str) {
    if !require() {
        return;
    }
    let (lab, guard) = odd_epmd(answer);
    let guarded = SocketAddr::new(lab.host("h1").v4().into(), 4369);
    assert_eq!(ask(&lab.host("h2").connect(guarded).unwrap(), b"za"), b"");
    guard.wait_event("closed", &[("reason", reason), ("asked", "PORT_PLEASE2_REQ a")]);
    assert_eq!(ask(&lab.host("h1").connect(guarded).unwrap(), &alive2("a")), b"");
    guard.wait_event("closed", &[("reason", reason), ("asked", "ALIVE2_REQ a port 9100")]);
}

#[test]
fn an_epmd_that_does_not_answer_is_given_up_at_the_deadline() {
    ask_odd_epmd(b"(silence)", "backend_timeout");
}

#[test]
fn an_answer_that_is_not_epmds_is_not_passed_on() {
    ask_odd_epmd(b"HTTP/1.1 400 Bad Request\r\n\r\n", "backend_fault");
}

#[test]
fn an_epmd_that_closes_without_an_answer_has_refused() {
    ask_odd_epmd(b"", "backend_refused");
}

#[test]
fn a_peer_that_does_not_take_its_answer_is_closed_at_the_deadline() {
    if !require() {
        return;
    }
    // 9 MiB of names in an answer of at most 4 MiB would be refused; 3 MiB are more than the kernel holds
    // for a peer that does not read.
    static NAMES: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(|| {
        let mut names = b"\0\0\x11\x11".to_vec();
        while names.len() < 3 * 1024 * 1024 {
            names.extend_from_slice(b"name abcdefghijklmnopqrstuvwxyz at port 9100\n");
        }
        names
    });
    let (lab, guard) = odd_epmd(&NAMES);
    let host = lab.host("h1");
    let peer = lab.host("h2");
    // A small window is announced from the start.
    let mut command = peer.command("sysctl");
    command.args(["-qw", "net.ipv4.tcp_rmem=4096 4096 4096"]);
    assert!(command.status().unwrap().success());
    let stream = peer.connect(SocketAddr::new(host.v4().into(), 4369)).unwrap();
    send(&stream, &framed(b"n")).unwrap();
    guard.wait_event("closed", &[("reason", "answer_not_taken"), ("asked", "NAMES_REQ")]);
    assert_ne!(read_to_close(&stream).ended, Ended::TimedOut);
}

#[test]
fn names_prints_what_epmd_prints() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1", "h2"]);
    let h1 = Guarded::new(&lab, "h1", EVERYBODY);
    let _a = h1.node("a");
    let _b = Node::named("b", &h1.host).port(9101).start();
    let run = |host: &crate::support::host::Host, program: &std::path::Path, arguments: &[&str]| {
        let output = host.command_as("nobody", program).args(arguments).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let ours = crate::support::guard::program(&lab);
    let expected = run(&h1.host, "epmd".as_ref(), &["-names"]);
    assert_eq!(run(&lab.host("h2"), &ours, &["names", "h1.test"]), expected);
    assert_eq!(run(&h1.host, &ours, &["names"]), expected);
    assert!(expected.1.contains("name a at port 9100"), "{expected:?}");
}
