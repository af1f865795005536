//! What takes minutes: run on demand by `make soak`, not by `cargo test`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a failed test panics"
)]

#[path = "support/mod.rs"]
#[allow(dead_code, unreachable_pub, reason = "shared with the other tests")]
mod support;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use support::erlang::{Epmd, EpmdListen, Node};
use support::eventually::eventually;
use support::guard::{Guard, SOON, embedded, front};
use support::host::Host;
use support::lab::Lab;
use support::reloads::many;
use support::{prerequisites, wire};

const MINUTES: u64 = 10;

struct Guarded {
    host: Host,
    guard: Guard,
    _epmd: Epmd,
}

fn guarded(lab: &Lab, name: &str) -> Guarded {
    let host = lab.host(name);
    let epmd = Epmd::start(&host, EpmdListen::Loopback);
    let config = front(&["192.0.2.1", "192.0.2.2"]).replace("debug", "info");
    let guard = Guard::start(lab, &host, &config);
    Guarded { host, guard, _epmd: epmd }
}

/// Without `global`, whose messages may connect two nodes again at once that were just disconnected.
fn node(of: &Guarded, name: &str) -> Node {
    let node = Node::named(name, &of.host).port(9100).arg("-connect_all").arg("false").start();
    of.guard.wait_open(9100);
    node
}

#[test]
fn ticks_keep_an_idle_link_alive_for_ten_minutes_at_the_default_tick_time() {
    assert!(prerequisites::require(), "a soak needs its hosts");
    let lab = Lab::new(&["h1", "h2"]);
    let (h1, h2) = (guarded(&lab, "h1"), guarded(&lab, "h2"));
    let (a, b) = (node(&h1, "a"), node(&h2, "b"));
    assert!(a.ping(&b));
    assert_eq!(a.eval("net_kernel:get_net_ticktime()."), "60");
    let watch = format!(
        "net_kernel:monitor_nodes(true), receive {{nodedown, N}} -> {{down, N}} after {} -> still_up end.",
        MINUTES * 60_000
    );
    assert_eq!(a.eval_within(Duration::from_secs(MINUTES * 60 + 60), &watch), "still_up");
    assert_eq!(b.eval("nodes()."), "['a@h1.test']");
}

/// One round of what happens to a guard in front of a busy cluster with a stranger about.
fn round(peer: &Host, stranger: &Host, target: &Host, a: &Node, b: &Node) {
    let epmd = SocketAddr::new(target.v4().into(), 4369);
    for _ in 0..20 {
        assert!(wire::ask(&peer.connect(epmd).unwrap(), b"zb").starts_with(b"w\0"));
        drop(stranger.connect(epmd));
        drop(wire::ask(&peer.connect(epmd).unwrap(), b"k"));
        // One that begins and leaves.
        drop(peer.connect(epmd));
    }
    assert!(a.ping(b));
    assert_eq!(
        a.eval(&format!("byte_size(rpc:call('{}', binary, copy, [<<0>>, 5000000])).", b.full_name())),
        "5000000"
    );
    assert_eq!(a.eval(&format!("erlang:disconnect_node('{}').", b.full_name())), "true");
    eventually("b sees the link go", SOON, || b.eval("nodes().") == "[]");
}

#[test]
fn ten_minutes_of_links_lookups_and_strangers_leave_nothing_behind() {
    assert!(prerequisites::require(), "a soak needs its hosts");
    let lab = Lab::new(&["h1", "h2", "h3"]);
    let (h1, h2) = (guarded(&lab, "h1"), guarded(&lab, "h2"));
    let (a, b) = (node(&h1, "a"), node(&h2, "b"));
    let stranger = lab.host("h3");
    for _ in 0..20 {
        round(&h1.host, &stranger, &h2.host, &a, &b);
    }
    let before = h2.guard.size();
    let (begun, mut rounds) = (Instant::now(), 0);
    while begun.elapsed() < Duration::from_secs(MINUTES * 60) {
        round(&h1.host, &stranger, &h2.host, &a, &b);
        rounds += 1;
    }
    let after = eventually("the descriptors are as before", SOON, || {
        let after = h2.guard.size();
        if after.0 <= before.0 + 2 { Ok(after) } else { Err(format!("{before:?} became {after:?}")) }
    });
    eprintln!(
        "{rounds} rounds; descriptors {} -> {}, resident KiB {} -> {}",
        before.0, after.0, before.1, after.1
    );
    assert!(after.1 < before.1 + 4096, "memory grew: {before:?} became {after:?}");
}

#[test]
fn twenty_thousand_reloads_under_load_lose_no_permitted_link_and_nothing_grows() {
    assert!(prerequisites::require(), "a soak needs its hosts");
    eprintln!("{:?}", many(100, 20_000));
}

/// The keepalive of the kernel needs about two minutes.
#[test]
fn the_name_of_another_host_goes_when_that_host_is_gone_without_a_word() {
    assert!(prerequisites::require(), "a soak needs its hosts");
    let lab = Lab::new(&["h1", "h2"]);
    let (h1, h2) = (lab.host("h1"), lab.host("h2"));
    let guard =
        Guard::start(&lab, &h1, &format!("{}[epmd]\nregister_from = [\"192.0.2.2\"]\n", embedded(&[])));
    let loopback = SocketAddr::from(([127, 0, 0, 1], 4369));
    let names = || String::from_utf8(wire::ask(&h1.connect(loopback).unwrap(), b"n").split_off(4)).unwrap();
    let register = |from: &Host, to: SocketAddr, name: u8| {
        let registration = from.connect(to).unwrap();
        let alive = [b'x', 0x23, 0x8c, b'M', 0, 0, 6, 0, 5, 0, 1, name, 0, 0];
        wire::send(&registration, &wire::framed(&alive)).unwrap();
        eventually("it is registered", SOON, || names().contains(&format!("name {} ", char::from(name))));
        registration
    };
    let _own = register(&h1, loopback, b'o');
    let _far = register(&h2, SocketAddr::new(h1.v4().into(), 4369), b'f');
    assert_eq!(names().lines().count(), 2);
    let begun = Instant::now();
    let mut ip = h2.command("ip");
    assert!(ip.args(["link", "set", "eth0", "down"]).status().unwrap().success());
    eventually("the name goes", Duration::from_secs(240), || names() == "name o at port 9100\n");
    let took = begun.elapsed();
    assert!(took > Duration::from_secs(55), "it was no keepalive that ended it: {took:?}");
    guard.wait_event("closed", &[("reason", "unregistered_by_node"), ("standing", "registrant")]);
    eprintln!("the name went after {took:?}");
}
