//! Ports that somebody else has: who, and what to do.

use std::net::SocketAddr;

use crate::common::{EVERYBODY, Guarded, require};
use crate::support::daemon::{Daemon, Signal};
use crate::support::erlang::{Epmd, EpmdListen, Node};
use crate::support::eventually::eventually;
use crate::support::guard::{Guard, SOON, admin_socket, field, front};
use crate::support::lab::Lab;
use crate::support::wire::ask;

#[test]
fn a_node_on_every_address_is_named_with_the_change_that_cures_it() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1"]);
    let h1 = Guarded::new(&lab, "h1", EVERYBODY);
    let node = Node::named("a", &h1.host).port(9100).anywhere().start();
    let told = h1.guard.wait_event("node_exposed", &[("node", "a"), ("port", "9100")]);
    // The guard runs as another user, so that the process itself cannot be seen.
    assert!(field(&told, "holder").contains("0.0.0.0:9100 of uid 65534"), "{told}");
    let help = field(&told, "help");
    assert!(help.contains("inet_dist_use_interface {127,0,0,1}"), "{told}");
    assert!(help.contains("INET_DIST_INTERFACE=127.0.0.1"), "{told}");
    // One line, not one for each address that the guard would have.
    assert_eq!(h1.guard.events("node_exposed").len(), 1);
    assert!(!h1.guard.events("port_taken").iter().any(|event| event["role"] == "dist"));
    // The cure, applied.
    node.stop();
    h1.node("a");
    h1.guard.wait_event("node_covered", &[("node", "a")]);
}

#[test]
fn an_epmd_that_holds_no_name_is_taken_over_from() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1", "h2"]);
    let host = lab.host("h1");
    let _epmd = Epmd::start(&host, EpmdListen::Everywhere);
    let guard = Guard::start(&lab, &host, &front(EVERYBODY));
    let took = guard.wait_event("took_over_from_idle_epmd", &[]);
    assert!(field(&took, "help").contains("ERL_EPMD_ADDRESS=127.0.0.1"), "{took}");
    let told = guard.wait_event("port_taken", &[("role", "epmd")]);
    assert!(field(&told, "help").contains("asked to end when it has held none for 10 s"), "{told}");
    // The next node starts an epmd on loopback, behind the guard.
    let _node = Node::named("a", &host).port(9100).start();
    let stream = lab.host("h2").connect(SocketAddr::new(host.v4().into(), 4369)).unwrap();
    assert_eq!(ask(&stream, b"n"), b"\0\0\x11\x11name a at port 9100\n");
}

#[test]
fn an_epmd_with_names_is_left_alone_and_named_with_them_and_its_port_is_tried_for() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1"]);
    let host = lab.host("h1");
    let mut epmd = Epmd::start(&host, EpmdListen::Everywhere);
    let node = Node::named("important", &host).port(9100).start();
    let guard = Guard::launch(&lab, &host, &front(EVERYBODY));
    let taken = guard.wait_event("port_taken", &[("role", "epmd"), ("listener", "192.0.2.1:4369")]);
    assert!(field(&taken, "holder").contains("uid 65534 (nobody)"), "{taken}");
    let help = field(&taken, "help");
    assert!(help.contains("1 name(s) (important)") && help.contains("ERL_EPMD_ADDRESS=127.0.0.1"), "{taken}");
    assert_eq!(epmd.names(), ["name important at port 9100"]);
    // The operator follows the advice; the guard has the port without a restart.
    epmd.stop();
    guard.wait_open(4369);
    drop(node);
}

#[test]
fn something_else_on_the_port_is_named_with_the_command_that_shows_it() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1"]);
    let host = lab.host("h1");
    // As systemd does for Debian's epmd.socket: root's, dual-stack, and no epmd answers (yet).
    let mut socat = host.command("socat");
    socat.args(["-u", "TCP6-LISTEN:4369,ipv6only=0,fork", "OPEN:/dev/null"]);
    let holder = Daemon::spawn("socat", socat);
    let wildcard: SocketAddr = "[::]:4369".parse().unwrap();
    eventually("socat listens", SOON, || host.listeners().contains(&wildcard));
    let guard = Guard::launch(&lab, &host, &front(EVERYBODY));
    let taken = guard.wait_event("port_taken", &[("listener", "192.0.2.1:4369")]);
    assert!(field(&taken, "holder").contains("[::]:4369 of uid 0 (root)"), "{taken}");
    assert!(field(&taken, "holder").contains("ss -ltnp 'sport = :4369'"), "{taken}");
    drop(holder);
    guard.wait_open(4369);
    eventually("it says that it serves", SOON, || !guard.events("port_opened").is_empty());
}

#[test]
fn a_second_guard_names_the_first_by_its_socket_and_ends() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1"]);
    let h1 = Guarded::new(&lab, "h1", EVERYBODY);
    let second = Guard::launch(&lab, &h1.host, &front(EVERYBODY));
    let socket = admin_socket(&lab, &h1.host).display().to_string();
    let named = second.daemon().wait_line("the first one", SOON, |line| line.contains("runs already"));
    assert!(named.contains(&socket) && named.contains("the process "), "{named}");
    assert_eq!(second.daemon().wait_exit(SOON).code(), Some(75));
    // The first one is none the worse.
    assert_eq!(
        ask(&h1.host.connect(SocketAddr::new(h1.host.v4().into(), 4369)).unwrap(), b"n"),
        b"\0\0\x11\x11"
    );
}

#[test]
fn a_second_guard_with_a_socket_of_its_own_is_told_who_has_the_port() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1"]);
    let h1 = Guarded::new(&lab, "h1", EVERYBODY);
    let config = format!("{}[admin]\nsocket = \"\"\n", front(EVERYBODY));
    let second = Guard::launch(&lab, &h1.host, &config);
    let taken = second.wait_event("port_taken", &[("listener", "192.0.2.1:4369")]);
    assert!(field(&taken, "holder").contains("epmd-guard (pid "), "{taken}");
    assert!(field(&taken, "help").contains("another epmd-guard"), "{taken}");
}

#[test]
fn an_epmd_that_hangs_for_a_while_is_asked_again_and_taken_over_from() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1"]);
    let host = lab.host("h1");
    let epmd = Epmd::start(&host, EpmdListen::Everywhere);
    let signal = |signal| {
        let pid = rustix::process::Pid::from_raw(i32::try_from(epmd.pid()).unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    };
    signal(Signal::STOP);
    let guard = Guard::launch(&lab, &host, &front(EVERYBODY));
    let taken = guard.wait_event("port_taken", &[("role", "epmd")]);
    assert!(field(&taken, "help").contains("it is asked again"), "{taken}");
    signal(Signal::CONT);
    guard.wait_event("took_over_from_idle_epmd", &[]);
    guard.wait_open(4369);
}
