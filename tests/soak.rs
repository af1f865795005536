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
use support::guard::{Guard, SOON, front};
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
