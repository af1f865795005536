//! Bytes that are no request: closed at once or at the deadline, told in the log, no effect on others.

use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use epmd_guard::proto::epmd::Opcode;

use crate::common::{EVERYBODY, Guarded, require};
use crate::support::eventually::eventually;
use crate::support::guard::{SOON, field, front};
use crate::support::lab::Lab;
use crate::support::wire::{Ended, ask, framed, read_to_close, send, send_slowly};

struct Setting {
    lab: Lab,
    h1: Guarded,
}

impl Setting {
    fn new(request_timeout: &str) -> Self {
        let lab = Lab::new(&["h1", "h2"]);
        let config = format!("{}[limits]\nrequest_timeout = \"{request_timeout}\"\n", front(EVERYBODY));
        let h1 = Guarded::with(&lab, "h1", &config);
        Self { lab, h1 }
    }

    fn connect(&self) -> TcpStream {
        self.lab.host("h2").connect(SocketAddr::new(self.h1.host.v4().into(), 4369)).unwrap()
    }

    /// Sends bytes that are no request and sees the connection end without an answer.
    fn refuses(&self, bytes: &[u8], reason: &str, detail: &str) {
        let stream = self.connect();
        send(&stream, bytes).unwrap();
        let outcome = read_to_close(&stream);
        assert_eq!(outcome.bytes, b"", "an answer to {bytes:?}");
        assert_ne!(outcome.ended, Ended::TimedOut, "still open after {bytes:?}");
        self.h1.guard.wait_event("closed", &[("reason", reason), ("detail", detail)]);
        assert_eq!(ask(&self.connect(), b"n"), b"\0\0\x11\x11", "others are served");
    }
}

#[test]
fn what_can_be_no_request_is_closed_at_once() {
    if !require() {
        return;
    }
    // A deadline that no test waits for: what closes, closes at once.
    let setting = Setting::new("60s");
    setting.refuses(b"\0\0", "malformed", "the request is empty");
    setting.refuses(&[0x0b, 0xf2], "malformed", "the request has 3058 bytes, 3057 is the most");
    setting.refuses(&[0xff; 70_000], "malformed", "the request has 65535 bytes, 3057 is the most");
    setting.refuses(b"\0\x01n\0\x01n", "malformed", "bytes follow the request");
    setting.refuses(b"\0\x01z", "malformed", "the name is empty");
    setting.refuses(b"\0\x03z\xff\xfe", "malformed", "the name is not UTF-8");
    setting.refuses(
        &framed(&[b"z".as_slice(), &[b'a'; 300]].concat()),
        "malformed",
        "the name has more than 254 characters",
    );
    setting.refuses(&framed(b"za\nname x"), "malformed", "the name has a character that no node name has");
    setting.refuses(b"GET / HTTP/1.1\r\n\r\n", "malformed", "the request has 18245 bytes, 3057 is the most");
}

#[test]
fn an_unknown_opcode_is_refused_before_the_rest_of_its_frame_has_come() {
    if !require() {
        return;
    }
    let setting = Setting::new("60s");
    for byte in [b'a', b'p', b'y', b'v', b'w', 0, 255] {
        let stream = setting.connect();
        send(&stream, &[0, 200, byte]).unwrap();
        assert_ne!(read_to_close(&stream).ended, Ended::TimedOut);
        setting
            .h1
            .guard
            .wait_event("refused", &[("reason", "unknown_opcode"), ("asked", &format!("opcode {byte}"))]);
    }
}

#[test]
fn a_local_command_of_a_peer_is_refused_before_the_rest_of_its_frame_has_come() {
    if !require() {
        return;
    }
    let setting = Setting::new("60s");
    for byte in *b"xdks" {
        let stream = setting.connect();
        send(&stream, &[0x0b, 0xf1, byte]).unwrap();
        assert_ne!(read_to_close(&stream).ended, Ended::TimedOut);
        let asked = Opcode::from_byte(byte).name();
        setting.h1.guard.wait_event("refused", &[("reason", "local_only"), ("asked", asked)]);
    }
}

#[test]
fn a_request_that_comes_byte_by_byte_is_served() {
    if !require() {
        return;
    }
    let setting = Setting::new("60s");
    let stream = setting.connect();
    send_slowly(&stream, &framed(b"n"), Duration::from_millis(50)).unwrap();
    assert_eq!(read_to_close(&stream).bytes, b"\0\0\x11\x11");
}

#[test]
fn a_request_that_is_not_whole_at_the_deadline_is_closed_however_busy_it_looks() {
    if !require() {
        return;
    }
    let setting = Setting::new("1s");
    let silent = setting.connect();
    let halting = setting.connect();
    send(&halting, b"\0\x10z").unwrap();
    // Bytes go on coming, each long before an idle timer would end: only the whole counts.
    let busy = setting.connect();
    drop(send_slowly(&busy, &framed(&[b"z".as_slice(), &[b'a'; 40]].concat()), Duration::from_millis(100)));
    for stream in [&silent, &halting, &busy] {
        let outcome = read_to_close(stream);
        assert_eq!(outcome.bytes, b"");
        assert_ne!(outcome.ended, Ended::TimedOut);
    }
    let closed = setting.h1.guard.wait_event("closed", &[("reason", "request_timeout")]);
    assert!(field(&closed, "peer").starts_with("192.0.2.2:"));
    let told = || {
        let closed = setting.h1.guard.events("closed");
        closed.iter().filter(|event| field(event, "reason") == "request_timeout").count()
    };
    eventually("all three are told", SOON, || told() == 3);
}

#[test]
fn a_peer_that_leaves_before_its_request_is_whole_is_told_as_such() {
    if !require() {
        return;
    }
    let setting = Setting::new("60s");
    let stream = setting.connect();
    send(&stream, b"\0\x10z").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_close(&stream).bytes, b"");
    setting.h1.guard.wait_event("closed", &[("reason", "no_request")]);
    // A half-close after a whole request is no reason not to answer it.
    let stream = setting.connect();
    send(&stream, &framed(b"n")).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_close(&stream).bytes, b"\0\0\x11\x11");
}

#[test]
fn nothing_of_a_name_reaches_the_log_unescaped() {
    if !require() {
        return;
    }
    let setting = Setting::new("60s");
    let name = "a\u{202e}b\u{9b}31m";
    assert_eq!(ask(&setting.connect(), format!("z{name}").as_bytes()), b"");
    let name = "a\u{202e}b";
    assert_eq!(ask(&setting.connect(), format!("z{name}").as_bytes()), b"w\x01");
    setting.h1.guard.wait_event("closed", &[("asked", "PORT_PLEASE2_REQ a\\u{202e}b")]);
    assert!(setting.h1.guard.daemon().lines().iter().all(|line| line.is_ascii()));
}

#[test]
fn a_registration_of_self_under_a_name_that_cannot_be_is_refused_as_epmd_refuses() {
    if !require() {
        return;
    }
    let setting = Setting::new("60s");
    let own = setting.h1.host.connect(SocketAddr::new(setting.h1.host.v4().into(), 4369)).unwrap();
    assert_eq!(ask(&own, b"x\x23\x8cM\0\0\x06\0\x05\0\x03a b\0\0"), b"v\x01\0\0\0\x63");
    setting.h1.guard.wait_event("closed", &[("reason", "malformed"), ("standing", "self")]);
    assert_eq!(setting.h1.epmd.names(), Vec::<String>::new());
}
