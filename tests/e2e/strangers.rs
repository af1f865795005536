//! Who is not of the cluster gets nothing, and the nodes do not notice.

use std::net::{IpAddr, SocketAddr};

use crate::common::{Guarded, require, two_hosts};
use crate::support::guard::field;
use crate::support::host::Host;
use crate::support::lab::Lab;
use crate::support::wire::{Ended, ask, framed, read_to_close, send};

const ALIVE2: &[u8] = b"x\x23\x8cM\0\0\x06\0\x05\0\x04evil\0\0";

/// The first message of an Erlang node that calls itself `evil@h3.test`.
fn send_name() -> Vec<u8> {
    let mut message = b"N\0\0\0\x0d\x07\xdf\x7f\xbd\0\0\0\x01\0\x0c".to_vec();
    message.extend_from_slice(b"evil@h3.test");
    framed(&message)
}

#[test]
fn a_stranger_is_refused_on_each_port_and_the_nodes_never_see_it() {
    if !require() {
        return;
    }
    let (lab, h1, h2) = two_hosts();
    let (a, b) = (h1.node("a"), h2.node("b"));
    let node_seen = h1.host.counter("lo", 9100);
    let stranger = lab.host("h3");
    // The guard itself asks epmd for its names now and then, so that one round may count a question that is no
    // stranger's; what a stranger could send on would be counted in each round.
    let rounds: Vec<u64> = (0..4).map(|_| try_everything(&stranger, &h1.host)).collect();
    assert_eq!(
        (rounds.iter().min(), node_seen.count()),
        (Some(&0), 0),
        "something went upstream: {rounds:?}"
    );
    let refused = h1.guard.wait_event("refused", &[("reason", "not_allowed"), ("role", "epmd")]);
    assert_eq!(field(&refused, "stage"), "admit");
    assert!(field(&refused, "peer").starts_with("192.0.2.3:"), "{refused}");
    // Peers go on undisturbed.
    assert!(b.ping(&a));
    assert_eq!(a.output(), Vec::<String>::new());
}

/// What a stranger may try; returns how many connections reached epmd meanwhile.
fn try_everything(stranger: &Host, on: &Host) -> u64 {
    let epmd_seen = on.counter("lo", 4369);
    for ip in [IpAddr::from(on.v4()), on.v6().into()] {
        for question in [&b"n"[..], b"za", b"d", b"k", b"sa", ALIVE2] {
            if let Ok(stream) = stranger.connect(SocketAddr::new(ip, 4369)) {
                assert_eq!(ask(&stream, question), b"", "an answer to {question:?}");
            }
        }
        for _ in 0..5 {
            if let Ok(stream) = stranger.connect(SocketAddr::new(ip, 9100)) {
                // The guard may have closed before we write.
                drop(send(&stream, &send_name()));
                assert_eq!(read_to_close(&stream).bytes, b"");
            }
        }
    }
    epmd_seen.count()
}

#[test]
fn a_peer_whose_address_differs_from_ours_in_one_bit_is_a_stranger() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1", "h2"]);
    let h1 = Guarded::new(&lab, "h1", &[]);
    let other = lab.host("h2");
    let target = SocketAddr::new(h1.host.v4().into(), 4369);
    // 192.0.2.1 with one of its lower bits turned over; bit 0 would be the network's address.
    for bit in 1..8 {
        let ip = IpAddr::from([192, 0, 2, 1 ^ (1 << bit)]);
        other.add_address(&format!("{ip}/24"));
        let stream = other.connect_from(ip, target);
        let answer = stream.map(|stream| ask(&stream, ALIVE2)).unwrap_or_default();
        assert_eq!(answer, b"", "{ip} was taken for this host");
        h1.guard.wait_event("refused", &[("peer", &format!("{ip}:*")), ("reason", "not_allowed")]);
    }
    assert_eq!(h1.epmd.names(), Vec::<String>::new());
    // This host itself may.
    let own = h1.host.connect(target).unwrap();
    assert_eq!(ask(&own, b"n"), b"\0\0\x11\x11");
}

#[test]
fn a_refused_connection_is_reset_at_once() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1", "h2"]);
    let h1 = Guarded::new(&lab, "h1", &[]);
    match lab.host("h2").connect(SocketAddr::new(h1.host.v4().into(), 4369)) {
        Ok(stream) => assert_eq!(read_to_close(&stream).ended, Ended::Reset),
        // Faster than the end of the connect.
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
    }
}

#[test]
fn the_first_refusal_is_told_and_a_flood_of_them_is_counted() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1", "h2"]);
    let config = crate::support::guard::front(&[]).replace("debug", "info");
    let h1 = Guarded::with(&lab, "h1", &config);
    let stranger = lab.host("h2");
    for _ in 0..200 {
        drop(stranger.connect(SocketAddr::new(h1.host.v4().into(), 4369)));
    }
    h1.guard.wait_event("refused", &[("reason", "not_allowed")]);
    assert_eq!(h1.guard.events("refused").len(), 1);
}
