//! Two nodes on two hosts, through a guard on each.

use std::time::Duration;

use crate::common::{Guarded, require, two_hosts};
use crate::support::erlang::Node;
use crate::support::eventually::eventually;
use crate::support::guard::{SOON, field};

/// Sends 100 MiB from one node to the other and checks every byte by its digest.
fn exchange(from: &Node, to: &Node) {
    let sum = from.eval(&format!(
        "Data = << <<(erlang:phash2(N)):32>> || N <- lists:seq(1, 1024 * 1024) >>, \
         Here = [erlang:md5([<<I:32>>, Data]) || I <- lists:seq(1, 25)], \
         There = [rpc:call('{to}', erlang, md5, [[<<I:32>>, Data]]) || I <- lists:seq(1, 25)], \
         {{Here =:= There, byte_size(Data) * 25}}.",
        to = to.full_name()
    ));
    assert_eq!(sum, "{true,104857600}");
}

fn ping_rpc_and_exchange(h1: &Guarded, h2: &Guarded, a: &Node, b: &Node) {
    assert!(a.ping(b));
    assert_eq!(b.eval("nodes()."), format!("['{}']", a.full_name()));
    assert_eq!(
        a.eval(&format!("rpc:call('{}', erlang, node, []).", b.full_name())),
        format!("'{}'", b.full_name())
    );
    exchange(a, b);
    exchange(b, a);
    h2.guard.wait_event("link_opened", &[("role", "dist")]);
    let log = h2.guard.mark();
    a.stop();
    let closed = h2.guard.wait_event_after(log, "closed", &[("role", "dist"), ("standing", "peer")]);
    for bytes in ["bytes_up", "bytes_down"] {
        let count: u64 = field(&closed, bytes).parse().unwrap();
        assert!(count > 100 * 1024 * 1024, "{bytes} is {count}");
    }
    assert!(h1.guard.events("link_opened").is_empty(), "the link went out past the guard of its own host");
}

#[test]
fn two_nodes_ping_rpc_and_exchange_100_mib_both_ways_over_ipv4() {
    if !require() {
        return;
    }
    let (_lab, h1, h2) = two_hosts();
    let (a, b) = (h1.node("a"), h2.node("b"));
    ping_rpc_and_exchange(&h1, &h2, &a, &b);
}

#[test]
fn two_nodes_ping_rpc_and_exchange_100_mib_both_ways_over_ipv6() {
    if !require() {
        return;
    }
    let (_lab, h1, h2) = two_hosts();
    let a = h1.start(Node::named("a", &h1.host).inet6().port(9100));
    let b = h2.start(Node::named("b", &h2.host).inet6().port(9100));
    ping_rpc_and_exchange(&h1, &h2, &a, &b);
    let opened = h2.guard.wait_event("link_opened", &[]);
    assert!(field(&opened, "peer").starts_with("[2001:db8::1]:"), "{opened}");
}

#[test]
fn a_hidden_node_links_and_stays_hidden() {
    if !require() {
        return;
    }
    let (_lab, h1, h2) = two_hosts();
    let a = h1.start(Node::named("a", &h1.host).hidden().port(9100));
    let b = h2.node("b");
    assert!(a.ping(&b));
    assert_eq!(b.eval("nodes()."), "[]");
    assert_eq!(b.eval("nodes(hidden)."), "['a@h1.test']");
}

#[test]
fn nodes_that_connect_to_each_other_at_the_same_time_end_with_one_link() {
    if !require() {
        return;
    }
    let (_lab, h1, h2) = two_hosts();
    // Without `global`, whose messages may connect two nodes again at once that were just disconnected.
    let alone = |of: &Guarded, name| {
        of.start(Node::named(name, &of.host).port(9100).arg("-connect_all").arg("false"))
    };
    let (a, b) = (alone(&h1, "a"), alone(&h2, "b"));
    for round in 0..20 {
        let (there, here) = std::thread::scope(|scope| {
            let there = scope.spawn(|| a.ping(&b));
            let here = scope.spawn(|| b.ping(&a));
            (there.join().unwrap(), here.join().unwrap())
        });
        assert!(there && here, "round {round}: {there} {here}");
        assert_eq!(a.eval("nodes()."), "['b@h2.test']");
        assert_eq!(a.eval("rpc:call('b@h2.test', erlang, nodes, [])."), "['a@h1.test']");
        assert_eq!(a.eval("erlang:disconnect_node('b@h2.test')."), "true");
        eventually("b sees the link go", SOON, || b.eval("nodes().") == "[]");
    }
}

#[test]
fn ticks_keep_an_idle_link_alive() {
    if !require() {
        return;
    }
    let (_lab, h1, h2) = two_hosts();
    let a = h1.start(Node::named("a", &h1.host).net_ticktime(4).port(9100));
    let b = h2.start(Node::named("b", &h2.host).net_ticktime(4).port(9100));
    assert!(a.ping(&b));
    // Three times as long as a silent link lives: 5 s at most at this tick time.
    let down = "net_kernel:monitor_nodes(true), receive {nodedown, N} -> N after 15000 -> still_up end.";
    assert_eq!(a.eval_within(Duration::from_secs(60), down), "still_up");
    assert_eq!(b.eval("nodes()."), "['a@h1.test']");
}

#[test]
fn a_local_tool_reaches_its_own_node_by_the_name_of_its_host() {
    if !require() {
        return;
    }
    let lab = crate::support::lab::Lab::new(&["h1"]);
    // Nobody but this host itself may connect.
    let h1 = Guarded::new(&lab, "h1", &[]);
    let node = h1.node("a");
    let tool = Node::named("tool", &h1.host).hidden().ports(9101, 9110).start();
    assert!(tool.ping(&node));
    let opened = h1.guard.wait_event("link_opened", &[("listener", "192.0.2.1:9100")]);
    assert!(field(&opened, "peer").starts_with("192.0.2.1:"), "{opened}");
}
