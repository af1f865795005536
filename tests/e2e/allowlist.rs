//! Who is let in.

use std::net::{IpAddr, SocketAddr};

use crate::common::{Guarded, require};
use crate::support::daemon::Daemon;
use crate::support::eventually::eventually;
use crate::support::guard::{SOON, front};
use crate::support::host::Host;
use crate::support::lab::Lab;
use crate::support::wire::ask;

const EMPTY: &[u8] = b"\0\0\x11\x11";

fn is_served(peer: &Host, from: &str, guarded: &Guarded) -> bool {
    let from: IpAddr = from.parse().unwrap();
    let to = if from.is_ipv4() { IpAddr::from(guarded.host.v4()) } else { guarded.host.v6().into() };
    let stream = peer.connect_from(from, SocketAddr::new(to, 4369));
    stream.is_ok_and(|stream| ask(&stream, b"n") == EMPTY)
}

#[test]
fn addresses_and_networks_let_in_and_deny_goes_first() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1", "h2"]);
    let config = front(&["192.0.2.0/25", "2001:db8::2"])
        .replace("[dist]", "deny = [\"192.0.2.64/26\", \"192.0.2.2\"]\n[dist]");
    let h1 = Guarded::with(&lab, "h1", &config);
    let peer = lab.host("h2");
    for (from, served) in [
        ("192.0.2.3", true),
        ("192.0.2.63", true),
        ("192.0.2.64", false),
        ("192.0.2.127", false),
        ("192.0.2.128", false),
        ("2001:db8::3", false),
    ] {
        let length = if from.contains(':') { 64 } else { 24 };
        peer.add_address(&format!("{from}/{length}"));
        assert_eq!(is_served(&peer, from, &h1), served, "{from}");
    }
    assert!(!is_served(&peer, "192.0.2.2", &h1));
    assert!(is_served(&peer, "2001:db8::2", &h1));
    let refused =
        h1.guard.wait_event("refused", &[("peer", "192.0.2.2:*"), ("reason", "denied"), ("stage", "admit")]);
    assert_eq!(refused["rule"], "deny 192.0.2.2 (line 3)");
}

#[test]
fn a_host_name_lets_in_what_it_means_now_and_keeps_its_answer_when_it_fails() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1", "h2"]);
    let host = lab.host("h1");
    host.write_hosts(&[("192.0.2.2".parse().unwrap(), "moving.test")]);
    let config = front(&["moving.test"]).replace("[dist]", "resolve_every = \"1s\"\n[dist]");
    let h1 = Guarded::with(&lab, "h1", &config);
    let peer = lab.host("h2");
    peer.add_address("192.0.2.9/24");
    h1.guard.wait_event("name_resolved", &[("name", "moving.test"), ("new", "[192.0.2.2]")]);
    assert!(is_served(&peer, "192.0.2.2", &h1));
    assert!(!is_served(&peer, "192.0.2.9", &h1));

    let replace = |new: &'static str| {
        host.replace_hosts(|line| {
            Some(if line.contains("moving.test") { new.to_owned() } else { line.to_owned() })
        });
    };
    replace("192.0.2.9 moving.test");
    h1.guard.wait_event("name_resolved", &[("old", "[192.0.2.2]"), ("new", "[192.0.2.9]")]);
    assert!(is_served(&peer, "192.0.2.9", &h1));
    assert!(!is_served(&peer, "192.0.2.2", &h1));

    // Loopback is nobody's peer, and no answer is no reason to forget the last one.
    replace("127.0.0.1 moving.test");
    h1.guard.wait_event("name_not_resolved", &[("name", "moving.test")]);
    assert!(is_served(&peer, "192.0.2.9", &h1));
}

#[test]
fn the_refusal_of_a_host_whose_other_address_is_allowed_says_so() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1", "h2"]);
    let host = lab.host("h1");
    // A name server of our own: forward it knows one address of h2, backward both.
    let mut dns = host.command("dnsmasq");
    dns.args([
        "--no-daemon",
        "--no-resolv",
        "--no-hosts",
        "--listen-address=127.0.0.53",
        "--bind-interfaces",
    ]);
    dns.args(["--address=/peer.example/192.0.2.2", "--ptr-record=2.2.0.192.in-addr.arpa,peer.example"]);
    dns.args([
        "--ptr-record=9.2.0.192.in-addr.arpa,peer.example",
        "--ptr-record=10.2.0.192.in-addr.arpa,other.example",
    ]);
    dns.args(["--address=/other.example/192.0.2.33", "--address=/other.example/192.0.2.10"]);
    // Anybody may give his address this name; it does not lead back to it.
    dns.args(["--ptr-record=11.2.0.192.in-addr.arpa,forged.example", "--address=/forged.example/192.0.2.33"]);
    let _dns = Daemon::spawn("dnsmasq", dns);
    let server: SocketAddr = "127.0.0.53:53".parse().unwrap();
    eventually("dnsmasq serves", SOON, || host.listeners().contains(&server));
    let h1 = Guarded::new(&lab, "h1", &["peer.example", "192.0.2.33"]);
    let peer = lab.host("h2");
    peer.add_address("192.0.2.9/24");
    h1.guard.wait_event("name_resolved", &[("new", "[192.0.2.2]")]);
    assert!(is_served(&peer, "192.0.2.2", &h1));
    assert!(!is_served(&peer, "192.0.2.9", &h1));
    h1.guard.wait_event(
        "refusal_explained",
        &[
            ("peer", "192.0.2.9"),
            ("why", "192.0.2.9 is not among the addresses of peer.example (192.0.2.2)*"),
        ],
    );
    // The same where the rule is an address.
    peer.add_address("192.0.2.10/24");
    assert!(!is_served(&peer, "192.0.2.10", &h1));
    h1.guard.wait_event(
        "refusal_explained",
        &[
            ("peer", "192.0.2.10"),
            ("why", "192.0.2.10 is not allowed, though 192.0.2.33 of the same host other.example is"),
        ],
    );
    // A reverse name that does not lead back to its address explains nothing.
    peer.add_address("192.0.2.11/24");
    assert!(!is_served(&peer, "192.0.2.11", &h1));
    peer.add_address("192.0.2.12/24");
    assert!(!is_served(&peer, "192.0.2.12", &h1));
    h1.guard.wait_event("refused", &[("peer", "192.0.2.12:*")]);
    let explained = h1.guard.events("refusal_explained");
    assert!(explained.iter().all(|event| event["peer"] != "192.0.2.11"), "{explained:?}");
}

#[test]
fn no_peer_is_let_in_before_the_names_of_deny_are_known() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1", "h2"]);
    let host = lab.host("h1");
    let config = front(&["192.0.2.0/24"])
        .replace("[dist]", "deny = [\"banned.example\"]\nresolve_every = \"1s\"\n[dist]");
    // Nobody answers at the name server of the lab.
    let h1 = Guarded::with(&lab, "h1", &config);
    let peer = lab.host("h2");
    assert!(!is_served(&peer, "192.0.2.2", &h1));
    h1.guard.wait_event("refused", &[("reason", "deny_unresolved"), ("stage", "admit")]);
    let told = h1.guard.wait_event("name_not_resolved", &[("name", "banned.example")]);
    assert!(told["help"].as_str().unwrap().contains("no peer is let in"), "{told}");
    host.write_hosts(&[("192.0.2.9".parse().unwrap(), "banned.example")]);
    eventually("the peer is served", SOON, || is_served(&peer, "192.0.2.2", &h1));
    peer.add_address("192.0.2.9/24");
    assert!(!is_served(&peer, "192.0.2.9", &h1));
}
