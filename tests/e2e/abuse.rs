//! What permitted peers can do to each other and to the nodes by handshakes that lead nowhere: little.

use std::io::{self, Read as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use epmd_guard::proto::dist::Status;
use serde_json::Value;
use socket2::SockRef;

use crate::common::{EVERYBODY, Guarded, require};
use crate::handshake_ends::{Ends, PORT};
use crate::support::daemon::Signal;
use crate::support::ends::Ends as Stop;
use crate::support::erlang::Node;
use crate::support::eventually::{eventually, within};
use crate::support::guard::{SOON, admin_get, field, front};
use crate::support::handshake::{Initiator, Shaken, link, messages};
use crate::support::host::Host;
use crate::support::lab::Lab;
use crate::support::wire::{Ended, framed, read_to_close, send};

/// What a node gives each step of a handshake (`net_kernel:connecttime`).
const STEP: Duration = Duration::from_secs(7);

/// How many handshakes are not done.
fn half_open(lab: &Lab, host: &Host) -> u64 {
    let status: Value = serde_json::from_str(&admin_get(lab, host, "/status")).unwrap();
    status["speakers"]["half_open"].as_u64().unwrap()
}

/// Nobody has offended.
#[track_caller]
fn nobody_offended(h1: &Guarded) {
    for event in ["slowed_down", "banned"] {
        assert_eq!(h1.guard.events(event), Vec::<Value>::new());
    }
}

/// Whether the other side has ended it, whatever it said before.
fn has_ended(mut stream: &TcpStream) -> bool {
    loop {
        match stream.read(&mut [0; 512]) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() != io::ErrorKind::WouldBlock,
        }
    }
}

/// Those who begin handshakes from several addresses of a host, and do not end them.
struct Crowd<'a> {
    host: &'a Host,
    to: SocketAddr,
    addresses: Vec<IpAddr>,
    /// Connections of each of the addresses: every other one says a name.
    each: usize,
    names: AtomicU64,
}

impl Crowd<'_> {
    /// Opens all of them, and again what was ended, until it is told to end; what it then has.
    fn press(&self, end: &AtomicBool) -> Vec<TcpStream> {
        let count = self.addresses.len() * self.each;
        let mut slots: Vec<Option<TcpStream>> = (0..count).map(|_| None).collect();
        while within(Duration::ZERO, || end.load(Ordering::Relaxed)).is_err() {
            for (index, slot) in slots.iter_mut().enumerate() {
                if slot.as_ref().is_none_or(has_ended) {
                    *slot = self.open(index).ok();
                }
            }
        }
        slots.into_iter().flatten().collect()
    }

    fn open(&self, index: usize) -> io::Result<TcpStream> {
        let from = self.addresses[index / self.each];
        let stream = self.host.connect_from(from, self.to)?;
        if index.is_multiple_of(2) {
            let name = format!("f{}@h3.test", self.names.fetch_add(1, Ordering::Relaxed));
            send(&stream, &Initiator::named(&name).first_message())?;
        }
        stream.set_nonblocking(true)?;
        Ok(stream)
    }
}

#[test]
fn handshakes_that_nobody_ends_keep_no_named_peer_out_and_not_this_host() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1", "h2", "h3"]);
    let [host, peer, crowded] = ["h1", "h2", "h3"].map(|name| lab.host(name));
    // More names than there will be, and no bans, so that it is not these that end it.
    let rules = "[limits]\nhalf_open = 512\nhalf_open_per_address = 64\n[ban]\nafter = 0\nnames = 1000000\n";
    let config = format!("{}{rules}", front(&["192.0.2.0/24", "192.0.2.2"]));
    let config = config.replace("\"debug\"", "\"info\"");
    let h1 = Guarded::with(&lab, "h1", &config);
    let alone = |name: &str, host: &Host| Node::named(name, host).arg("-connect_all").arg("false");
    let b = h1.start(alone("b", &host).port(9100));
    let (named, own) = (alone("n", &peer).start(), alone("own", &host).start());
    let addresses: Vec<IpAddr> = (101..=110).map(|last| IpAddr::from([192, 0, 2, last])).collect();
    addresses.iter().for_each(|address| crowded.add_address(&format!("{address}/24")));
    let to = SocketAddr::new(host.v4().into(), 9100);
    let crowd = Crowd { host: &crowded, to, addresses, each: 80, names: AtomicU64::new(0) };
    let end = AtomicBool::new(false);
    let held = thread::scope(|scope| {
        let pressing = scope.spawn(|| crowd.press(&end));
        let _end = Stop(&end);
        for reason in ["too_many_half_open_from_address", "too_many_half_open"] {
            h1.guard
                .wait_event("refused", &[("reason", reason), ("peer", "192.0.2.1*"), ("stage", "inspect")]);
        }
        for round in 0..10 {
            // Those that end all at one time come again at once.
            eventually("the crowd presses", SOON, || half_open(&lab, &host) >= 300);
            for node in [&named, &own] {
                let begun = Instant::now();
                assert!(node.ping(&b), "round {round}: {} is kept out", node.full_name());
                assert!(begun.elapsed() < STEP, "round {round}: {:?}", begun.elapsed());
                node.eval("erlang:disconnect_node('b@h1.test').");
            }
        }
        end.store(true, Ordering::Relaxed);
        pressing.join().unwrap()
    });
    // They hold what they have, and get nothing for it.
    assert!(held.len() > 300, "{}", held.len());
    eventually("their places are free again", SOON, || {
        let count = half_open(&lab, &host);
        if count == 0 { Ok(()) } else { Err(count) }
    });
    let says = Initiator::named("late@h3.test");
    assert_eq!(says.shake(&crowded.connect_from(crowd.addresses[0], to).unwrap()), Shaken::Up);
}

#[test]
fn whoever_is_silent_in_the_handshake_of_a_real_node_is_given_up_and_the_node_links_on() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1", "h2"]);
    let peer = lab.host("h2");
    let config = format!("{}[limits]\nhandshake_timeout = \"1s\"\n", front(EVERYBODY));
    let h1 = Guarded::with(&lab, "h1", &config);
    let b = h1.node("b");
    let at = SocketAddr::new(h1.host.v4().into(), 9100);
    let dial = || peer.connect(at).unwrap();
    let ends = |stream: &TcpStream, claimed: &str, silent: &str| {
        assert_eq!(read_to_close(stream).ended, Ended::Reset, "{claimed:?} {silent}");
        let told = [("reason", "handshake_timeout"), ("claimed", claimed), ("detail", silent)];
        let closed = h1.guard.wait_event("closed", &told);
        let took = closed["duration_ms"].as_u64().unwrap();
        assert!((1000..6000).contains(&took), "{closed}");
    };
    ends(&dial(), "", "the peer was silent");
    let challenged = dial();
    Initiator::named("c@h2.test").greet(&challenged).unwrap();
    ends(&challenged, "c@h2.test", "the peer was silent");
    b.daemon().signal(Signal::STOP);
    let named = dial();
    send(&named, &Initiator::named("n@h2.test").first_message()).unwrap();
    ends(&named, "n@h2.test", "the node was silent");
    b.daemon().signal(Signal::CONT);
    assert!(Node::named("a", &peer).start().ping(&b));
    nobody_offended(&h1);
}

/// Connects so many times as fast as it can.
fn storm(from: &Host, of: &[IpAddr], to: SocketAddr, count: usize) {
    for index in 0..count {
        drop(from.connect_from(of[index % of.len()], to));
    }
}

#[test]
fn who_connects_too_fast_is_refused_and_nobody_else_is() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1", "h2", "h3"]);
    let [host, fast, calm] = ["h1", "h2", "h3"].map(|name| lab.host(name));
    // So slow that the storm is faster on any machine.
    let rates = "[limits]\nrate_per_address = 2\nrate_per_subnet = 3\n[ban]\nafter = 0\n";
    let config = format!("{}{rates}", front(&["192.0.2.0/24", "2001:db8::/32"]));
    let h1 = Guarded::with(&lab, "h1", &config);
    let _b = h1.node("b");
    let (v4, v6) = (SocketAddr::new(host.v4().into(), 9100), SocketAddr::new(host.v6().into(), 9100));
    let links = |from: &Host, name: &str, to: SocketAddr| {
        let shaken = from.connect(to).map(|stream| Initiator::named(name).shake(&stream));
        matches!(shaken, Ok(Shaken::Up))
    };
    let refused = |reason: &str| {
        let told = [("reason", reason), ("stage", "admit"), ("role", "dist")];
        field(&h1.guard.wait_event("refused", &told), "peer")
    };
    storm(&fast, &[fast.v4().into()], v4, 40);
    assert!(refused("too_fast_from_address").starts_with("192.0.2.2:"));
    assert!(links(&calm, "calm@h3.test", v4), "another address is refused");
    // This host itself may.
    storm(&host, &[host.v4().into()], v4, 40);
    assert!(links(&host, "own@h1.test", v4));
    // One host has all of a /64.
    let of: Vec<IpAddr> = (0x11..0x1b).map(|last| format!("2001:db8::{last:x}").parse().unwrap()).collect();
    of.iter().for_each(|address| fast.add_address(&format!("{address}/64")));
    storm(&fast, &of, v6, 40);
    assert!(refused("too_fast_from_subnet").starts_with("[2001:db8::1"));
    let elsewhere: IpAddr = "2001:db8:0:1::3".parse().unwrap();
    calm.add_address(&format!("{elsewhere}/64"));
    host.add_address("2001:db8:0:1::1/64");
    let stream = calm.connect_from(elsewhere, v6).unwrap();
    assert_eq!(Initiator::named("six@h3.test").shake(&stream), Shaken::Up);
    let of_whom = h1.guard.events("refused").iter().map(|event| field(event, "peer")).collect::<Vec<_>>();
    let is_theirs = |peer: &String| peer.starts_with("192.0.2.2:") || peer.starts_with("[2001:db8::1");
    assert!(of_whom.iter().all(is_theirs), "{of_whom:?}");
    // It passes by itself.
    eventually("it may connect again", SOON, || links(&fast, "fast@h2.test", v4));
}

/// What speaks something else, or nothing that makes sense, and what is told of it.
fn foreign() -> Vec<(Vec<u8>, &'static str)> {
    let hello = b"\x16\x03\x01\0\x05\x01\0\0\x01\x03";
    let random: Vec<u8> = (0..200u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 11) as u8 | 0x80).collect();
    vec![
        (hello.to_vec(), "TLS was spoken to a port of plain distribution"),
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), "a message of 18245 bytes is longer than any of the handshake"),
        (random, "a message of * bytes is longer than any of the handshake"),
        (framed(&vec![b'N'; 65_535]), "a message of 65535 bytes is longer than any of the handshake"),
        (framed(b""), "a message of the handshake is empty"),
        (framed(b"\x8f\x01"), "the message does not belong here: its first byte is 143"),
        (framed(b"sok"), "the message does not belong here: its first byte is 115"),
        (framed(b"N\0\0"), "the message has a wrong length"),
        (framed(b"n\0\x04\0\0\0\0a@h"), "there is no version 4 of the handshake"),
    ]
}

#[test]
fn what_is_no_handshake_is_ended_with_a_word_and_the_node_never_hears_of_it() {
    if !require() {
        return;
    }
    let ends = Ends::new("[ban]\nafter = 0\n");
    ends.behind.set_nonblocking(true).unwrap();
    let heard = ends.h1.host.counter("lo", PORT);
    for (said, detail) in foreign() {
        let log = ends.h1.guard.mark();
        let stream = ends.dial();
        // It may be ended before all is sent.
        drop(send(&stream, &said));
        let outcome = read_to_close(&stream);
        assert_eq!((outcome.bytes, outcome.ended), (Vec::new(), Ended::Reset), "{detail}");
        let closed = ends.h1.guard.wait_event_after(log, "closed", &[("reason", "no_handshake")]);
        let told = field(&closed, "detail");
        let (head, tail) = detail.split_once('*').unwrap_or((detail, ""));
        let fits = told
            .strip_prefix("the peer said: ")
            .is_some_and(|told| told.starts_with(head) && told.ends_with(tail));
        assert!(fits, "{told}, not {detail}");
    }
    assert_eq!(heard.count(), 0, "the node was dialled");
    assert!(ends.behind.accept().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock));
}

#[test]
fn a_probe_that_connects_and_closes_is_told_once_a_minute_and_is_no_offence() {
    if !require() {
        return;
    }
    /// More than offences lead to a ban.
    const PROBES: usize = 30;
    let ends = Ends::new("");
    let heard = ends.h1.host.counter("lo", PORT);
    for _ in 0..PROBES {
        drop(ends.dial());
    }
    let probed = || {
        let closed = ends.h1.guard.events("closed");
        closed.into_iter().filter(|event| field(event, "reason") == "no_request").collect::<Vec<_>>()
    };
    eventually("all are told", SOON, || probed().len() == PROBES);
    assert_eq!(heard.count(), 0, "the node was dialled");
    for _ in 0..PROBES {
        drop(ends.h1.host.connect(ends.at()).unwrap());
    }
    eventually("those of this host too", SOON, || probed().len() == 2 * PROBES);
    for standing in ["peer", "self"] {
        let probed = probed();
        let shown = probed.iter().filter(|event| field(event, "standing") == standing);
        let shown = shown.filter(|event| field(event, "level") == "INFO").count();
        assert_eq!(shown, 1, "of {standing}");
    }
    nobody_offended(&ends.h1);
    drop(link(&ends.dial(), &ends.behind, &ends.says, "b@h1.test"));
}

/// How the node behind ends a handshake after the proof, in a way that may have other reasons than a wrong cookie.
#[derive(Clone, Copy, Debug)]
enum End {
    WithAByte,
    ByReset,
    AfterAlive,
}

impl End {
    /// Goes up to the proof, and ends as this says.
    fn reach(self, ends: &Ends) {
        let (down, up) = match self {
            Self::WithAByte | Self::ByReset => ends.greeted(),
            Self::AfterAlive => asked_alive(ends),
        };
        send(&down, &ends.proof()).unwrap();
        drop(ends.answers.ack(&up, &ends.says));
        match self {
            Self::WithAByte => send(&up, b"\0").unwrap(),
            Self::ByReset => SockRef::from(&up).set_linger(Some(Duration::ZERO)).unwrap(),
            Self::AfterAlive => {}
        }
        drop(up);
        assert_ne!(read_to_close(&down).ended, Ended::TimedOut, "{self:?}");
    }
}

/// Up to the challenge, where the node has another connection of that name, and the peer says that it is dead.
fn asked_alive(ends: &Ends) -> (TcpStream, TcpStream) {
    let down = ends.dial();
    send(&down, &ends.says.first_message()).unwrap();
    let up = ends.answers.take(&ends.behind, &ends.says);
    let mut asked = Vec::new();
    Status::Alive.encode(&mut asked);
    send(&up, &asked).unwrap();
    assert_eq!(messages(&down, 1), asked);
    send(&down, &framed(b"strue")).unwrap();
    assert_eq!(messages(&up, 1), framed(b"strue"));
    let mut challenge = Vec::new();
    ends.answers.challenge().encode(&mut challenge);
    send(&up, &challenge).unwrap();
    assert_eq!(messages(&down, 1), challenge);
    (down, up)
}

#[test]
fn a_node_that_ends_after_the_proof_for_another_reason_has_seen_no_wrong_cookie_and_slows_down() {
    if !require() {
        return;
    }
    let rules = "[ban]\nafter = 2\nslow_after = 1\nslow_first = \"10ms\"\nslow_most = \"10ms\"\n";
    for end in [End::WithAByte, End::ByReset, End::AfterAlive] {
        let ends = Ends::new(rules);
        for _ in 0..5 {
            let log = ends.h1.guard.mark();
            end.reach(&ends);
            let told = [("reason", "node_closed"), ("claimed", "a@h2.test")];
            ends.h1.guard.wait_event_after(log, "closed", &told);
        }
        let slowed = ends.h1.guard.wait_event("slowed_down", &[("peer", "192.0.2.2")]);
        assert_eq!(field(&slowed, "reason"), "closed_after_proof", "{end:?}");
        assert_eq!(ends.h1.guard.events("banned"), Vec::<Value>::new(), "{end:?}");
        let metrics = admin_get(&ends.lab, &ends.h1.host, "/metrics");
        let wrong = "epmd_guard_handshakes_total{outcome=\"wrong_cookie\"} 0\n";
        assert!(metrics.contains(wrong), "{end:?}: {metrics}");
        drop(link(&ends.dial(), &ends.behind, &ends.says, "b@h1.test"));
    }
}

#[test]
fn a_handshake_that_the_node_leaves_for_another_one_of_that_name_is_superseded() {
    if !require() {
        return;
    }
    let ends = Ends::new("");
    let (down, up) = ends.greeted();
    send(&down, &ends.proof()).unwrap();
    drop(ends.answers.ack(&up, &ends.says));
    let second = ends.dial();
    let linked = link(&second, &ends.behind, &ends.says, "b@h1.test");
    ends.h1.guard.wait_event("link_opened", &[("claimed", "a@h2.test")]);
    drop(up);
    assert_eq!(field(&ends.closed("superseded"), "claimed"), "a@h2.test");
    assert_ne!(read_to_close(&down).ended, Ended::TimedOut);
    nobody_offended(&ends.h1);
    send(&second, b"on").unwrap();
    let mut said = [0; 2];
    (&linked).read_exact(&mut said).unwrap();
    assert_eq!(&said, b"on");
}
