//! How the guard ends.

use std::net::{SocketAddr, TcpListener, TcpStream};

use crate::common::{EVERYBODY, Guarded, require, two_hosts};
use crate::support::daemon::Signal;
use crate::support::guard::{Guard, SOON, admin_socket, front};
use crate::support::host::Host;
use crate::support::lab::Lab;
use crate::support::wire::{Ended, framed, read_frame, read_to_close, send};

#[test]
fn sigterm_and_sigint_end_it_well_and_its_ports_are_free() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1"]);
    for signal in [Signal::TERM, Signal::INT] {
        let h1 = Guarded::new(&lab, "h1", EVERYBODY);
        h1.guard.daemon().signal(signal);
        assert!(h1.guard.daemon().wait_exit(SOON).success());
        h1.guard.wait_event("stopped", &[]);
        assert!(!admin_socket(&lab, &h1.host).exists());
        assert!(!h1.host.listeners().contains(&SocketAddr::new(h1.host.v4().into(), 4369)));
    }
}

#[test]
fn links_that_end_with_the_guard_are_told_with_what_they_carried() {
    if !require() {
        return;
    }
    let (_lab, h1, h2) = two_hosts();
    let (a, b) = (h1.node("a"), h2.node("b"));
    assert!(a.ping(&b));
    h2.guard.stop();
    let closed = h2.guard.wait_event("closed", &[("role", "dist"), ("reason", "stopped")]);
    assert!(
        closed["bytes_up"].as_u64().unwrap() > 40 && closed["bytes_down"].as_u64().unwrap() > 40,
        "{closed}"
    );
}

/// A host whose epmd is played by the test, a guard in front of it, and a question that is under way.
struct Asked {
    host: Host,
    guard: Guard,
    peer: TcpStream,
    epmd: TcpStream,
    lab: Lab,
}

impl Asked {
    fn new() -> Self {
        let lab = Lab::new(&["h1", "h2"]);
        let host = lab.host("h1");
        let epmd = host.listen("127.0.0.1:4368".parse().unwrap()).unwrap();
        let config = front(EVERYBODY).replace("127.0.0.1:4369", "127.0.0.1:4368");
        let guard = Guard::start(&lab, &host, &config);
        let peer = lab.host("h2").connect(SocketAddr::new(host.v4().into(), 4369)).unwrap();
        send(&peer, &framed(b"za")).unwrap();
        let epmd = Self::question(&epmd);
        Self { host, guard, peer, epmd, lab }
    }

    /// The guard has questions of its own, for all names.
    fn question(epmd: &TcpListener) -> TcpStream {
        let asked = epmd.incoming().map(Result::unwrap).find(|asked| read_frame(asked).unwrap() == b"za");
        asked.unwrap()
    }

    fn wait_stopping(&self) {
        self.guard.daemon().signal(Signal::TERM);
        self.guard.wait_event("stopping", &[("cause", "SIGTERM")]);
    }
}

#[test]
fn a_question_that_is_under_way_when_the_guard_is_told_to_end_is_answered_and_nothing_new_is_taken() {
    if !require() {
        return;
    }
    let asked = Asked::new();
    asked.wait_stopping();
    asked.guard.wait_closed(4369);
    let late = asked.lab.host("h2").connect(SocketAddr::new(asked.host.v4().into(), 4369));
    assert!(late.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused));
    send(&asked.epmd, b"w\x01").unwrap();
    drop(asked.epmd);
    let answer = read_to_close(&asked.peer);
    assert_eq!((answer.bytes.as_slice(), answer.ended), (&b"w\x01"[..], Ended::Fin));
    drop(asked.peer);
    assert!(asked.guard.daemon().wait_exit(SOON).success());
    asked.guard.wait_event("closed", &[("reason", "answered"), ("asked", "PORT_PLEASE2_REQ a")]);
    asked.guard.wait_event("stopped", &[]);
    assert_eq!(asked.guard.events("connections_abandoned").len(), 0);
}

#[test]
fn a_question_that_epmd_does_not_answer_delays_the_end_by_the_grace_and_not_after_a_second_signal() {
    if !require() {
        return;
    }
    for second in [None, Some(Signal::TERM), Some(Signal::INT)] {
        let asked = Asked::new();
        asked.wait_stopping();
        if let Some(signal) = second {
            asked.guard.daemon().signal(signal);
        }
        let (status, output) = asked.guard.daemon().finish(SOON);
        assert!(status.success(), "{status}");
        // Without a second one the grace passes first.
        assert_eq!(output.contains("\"connections_abandoned\""), second.is_none(), "{output}");
        assert_eq!(read_to_close(&asked.peer).bytes, b"");
    }
}
