//! Who comes to the port of tunnels and does not speak as a guard does.

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::common::require;
use crate::support::guard::field;
use crate::support::tunnel::{Scene, TunnelHost};
use crate::support::wire::{Ended, read_to_close, send};
use crate::tunnel_refusals::lenient;

/// A handshake has 7 s for each of its steps.
const IN_TIME: Duration = Duration::from_secs(15);

fn port_of_tunnels(at: &TunnelHost) -> SocketAddr {
    SocketAddr::new(at.host.v4().into(), 4371)
}

#[test]
fn a_stranger_is_reset_at_the_port_of_tunnels_and_gets_no_byte() {
    if !require() {
        return;
    }
    let scene = lenient(&["h1", "h2", "h3"]).start();
    let [h1, _, h3] = &scene.hosts[..] else { panic!("three hosts") };
    let said = scene.reload(h1, |text| {
        let (head, tail) = text.split_once("[[peer]]\nname = \"h3\"").unwrap();
        let rest = tail.find("\n[").map_or("", |at| &tail[at..]);
        format!("{head}{rest}")
    });
    assert_eq!(said.code, 0, "{said:?}");
    match h3.host.connect(port_of_tunnels(h1)) {
        Ok(stream) => {
            let outcome = read_to_close(&stream);
            assert_eq!((outcome.bytes, outcome.ended), (Vec::new(), Ended::Reset));
        }
        // Before it could be used.
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
    }
    h1.guard.wait_event("refused", &[("role", "tunnel"), ("reason", "not_allowed"), ("peer", "192.0.2.3:*")]);
}

#[test]
fn who_says_nothing_at_the_port_of_tunnels_is_gone_in_time() {
    if !require() {
        return;
    }
    let scene = lenient(&["h1", "h2"]).start();
    let [h1, h2] = &scene.hosts[..] else { panic!("two hosts") };
    let begun = Instant::now();
    let silent: Vec<_> = (0..50).map(|_| h2.host.connect(port_of_tunnels(h1)).unwrap()).collect();
    for stream in &silent {
        let outcome = read_to_close(stream);
        assert!(outcome.bytes.is_empty() && outcome.ended != Ended::TimedOut, "{outcome:?}");
    }
    assert!(begun.elapsed() < IN_TIME, "{:?}", begun.elapsed());
    // They have kept nobody out.
    let (a, b) = (h1.node("a").start(), h2.node("b").start());
    assert!(b.ping(&a));
}

#[test]
fn what_is_no_tls_ends_at_once_and_makes_no_link() {
    if !require() {
        return;
    }
    let scene = lenient(&["h1", "h2"]).start();
    let [h1, h2] = &scene.hosts[..] else { panic!("two hosts") };
    // HTTP; the start of a handshake of Erlang's; bytes of no meaning.
    for said in [&b"GET / HTTP/1.1\r\nHost: h1.test\r\n\r\n"[..], b"\0\x15Na@h2.test-and-more", &[0xff; 4096]]
    {
        let stream = h2.host.connect(port_of_tunnels(h1)).unwrap();
        let begun = Instant::now();
        drop(send(&stream, said));
        let outcome = read_to_close(&stream);
        // At most an alert.
        assert!(outcome.bytes.len() <= 7 && outcome.ended != Ended::TimedOut, "{outcome:?}");
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    }
    assert_eq!(h1.guard.events("link_opened").len(), 0);
}

/// `openssl s_client` with the certificate of the second host, and what it is given to say behind the handshake: how long it
/// took the first one's guard to end it, and what it wrote.
#[track_caller]
fn speaks(scene: &Scene, alpn: &[&str], said: &[u8]) -> (Duration, String) {
    let [h1, h2] = &scene.hosts[..] else { panic!("two hosts") };
    let mut openssl = h2.host.command("timeout");
    openssl.args(["60", "openssl", "s_client", "-ign_eof", "-connect", &port_of_tunnels(h1).to_string()]);
    for (key, file) in [("-cert", "h2.test.crt"), ("-key", "h2.test.key")] {
        openssl.arg(key).arg(scene.ca().join(file));
    }
    openssl.args(alpn).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let begun = Instant::now();
    let mut child = openssl.spawn().unwrap();
    // It stays open, since a guard ends what says nothing, not what has ended.
    let mut input = child.stdin.take().unwrap();
    drop(input.write_all(said).and_then(|()| input.flush()));
    let output = child.wait_with_output().unwrap();
    drop(input);
    assert_ne!(output.status.code(), Some(124), "the guard does not end it");
    (begun.elapsed(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

const OURS: [&str; 2] = ["-alpn", "epmd-guard/1"];

#[test]
fn a_good_certificate_with_another_protocol_or_none_gets_no_frame() {
    if !require() {
        return;
    }
    let scene = lenient(&["h1", "h2"]).start();
    let (_, said) = speaks(&scene, &["-alpn", "h2"], b"");
    assert!(said.contains("no application protocol"), "{said}");
    let (_, said) = speaks(&scene, &[], b"");
    assert!(!said.contains("epmd-guard"), "{said}");
    // So that the others can fail.
    let (_, said) = speaks(&scene, &OURS, b"");
    assert!(said.contains("epmd-guard"), "{said}");
}

#[test]
fn a_good_certificate_that_asks_for_nothing_or_says_what_it_must_not_is_gone_in_time() {
    if !require() {
        return;
    }
    let scene = lenient(&["h1", "h2"]).start();
    let h1 = &scene.hosts[0];
    let mark = h1.guard.mark();
    let (took, _) = speaks(&scene, &OURS, b"");
    assert!(took < IN_TIME, "{took:?}");
    let closed = h1.guard.wait_event_after(mark, "closed", &[("role", "tunnel"), ("reason", "tunnel_*")]);
    assert_ne!(field(&closed, "reason"), "tunnel_closed", "{closed}");
    let mark = h1.guard.mark();
    // A line: openssl takes its first letter for a command where it is Q or R.
    let (took, _) = speaks(&scene, &OURS, b"what is this\n");
    assert!(took < Duration::from_secs(5), "{took:?}");
    h1.guard.wait_event_after(mark, "closed", &[("role", "tunnel"), ("reason", "tunnel_protocol")]);
    assert_eq!(h1.guard.events("link_opened").len(), 0);
}
