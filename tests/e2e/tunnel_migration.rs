//! From plain links to tunnels without a flag day, and what a node meets while the guard of a peer is not there.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::common::require;
use crate::support::erlang::{Node, NodeBuilder};
use crate::support::eventually::eventually;
use crate::support::guard::{SOON, admin_socket, ask_admin, field, status};
use crate::support::host::Way;
use crate::support::tunnel::{Scene, TunnelHost};
use crate::tunnel_refusals::{lenient, unlink};

/// A node gives a handshake 7 s, and a look-up 10 s.
const PROMPT: Duration = Duration::from_secs(7);

/// A node of a host as it was before there were tunnels: it finds the others at their own addresses.
fn plain(at: &TunnelHost, name: &str) -> NodeBuilder {
    Node::named(name, &at.host)
}

/// Writes another mode for all peers, and has it reloaded.
#[track_caller]
fn turn(scene: &Scene, at: &TunnelHost, from: &str, to: &str) {
    let said =
        scene.reload(at, |text| text.replace(&format!("tls = \"{from}\""), &format!("tls = \"{to}\"")));
    assert_eq!(said.code, 0, "{said:?}");
}

/// Counts the nodes that it sees go from now on, and forgets those before.
const WATCH: &str = "case whereis(watch) of undefined -> ok; \
                     Old -> Ref = monitor(process, Old), exit(Old, kill), receive {'DOWN', Ref, _, _, _} -> ok end end, \
                     register(watch, spawn(fun() -> net_kernel:monitor_nodes(true), Watch = fun Watch(Down) -> \
                     put(down, Down), receive {nodedown, N} -> Watch([N | Down]); _ -> Watch(Down) end end, \
                     Watch([]) end)).";

fn down(node: &Node) -> String {
    node.eval("{dictionary, D} = process_info(whereis(watch), dictionary), proplists:get_value(down, D).")
}

/// All are linked with all.
#[track_caller]
fn mesh(nodes: &[Option<Node>]) {
    let nodes: Vec<&Node> = nodes.iter().flatten().collect();
    for (at, from) in nodes.iter().enumerate() {
        for to in nodes.iter().skip(at + 1) {
            eventually("a link", SOON, || from.ping(to));
        }
    }
}

#[test]
fn a_cluster_goes_from_plain_to_required_host_by_host_and_loses_no_link_that_nobody_restarted() {
    if !require() {
        return;
    }
    let scene = Scene::of(&["h1", "h2", "h3"]).mode("optional").start();
    // Where the operator has come to: all guards know of tunnels, and no node does.
    let mut nodes: Vec<Option<Node>> = scene
        .hosts
        .iter()
        .map(|at| Some(plain(at, "n").kernel("prevent_overlapping_partitions", "false").start()))
        .collect();
    mesh(&nodes);
    for (number, at) in scene.hosts.iter().enumerate() {
        for node in nodes
            .iter()
            .enumerate()
            .filter(|(other, _)| *other != number)
            .filter_map(|(_, node)| node.as_ref())
        {
            assert_eq!(node.eval(WATCH), "true");
        }
        let restarted = format!("'n@{}'", at.host.name());
        if let Some(node) = nodes[number].take() {
            node.stop();
        }
        nodes[number] = Some(at.node("n").kernel("prevent_overlapping_partitions", "false").start());
        mesh(&nodes);
        for node in nodes
            .iter()
            .enumerate()
            .filter(|(other, _)| *other != number)
            .filter_map(|(_, node)| node.as_ref())
        {
            assert_eq!(down(node), format!("[{restarted}]"), "{}", node.full_name());
        }
    }
    for node in nodes.iter().flatten() {
        assert_eq!(node.eval(WATCH), "true");
    }
    for at in &scene.hosts {
        turn(&scene, at, "optional", "required");
    }
    mesh(&nodes);
    for node in nodes.iter().flatten() {
        assert_eq!(down(node), "[]", "{}", node.full_name());
    }
}

#[test]
fn plain_from_a_peer_is_refused_where_it_is_required_and_self_still_works() {
    if !require() {
        return;
    }
    let scene = lenient(&["h1", "h2"]).start();
    let [h1, h2] = &scene.hosts[..] else { panic!("two hosts") };
    let (a, b) = (h1.node("a").start(), plain(h2, "b").start());
    let dials = h1.host.counter("lo", a.port());
    assert!(!b.ping(&a));
    h1.guard.wait_event("refused", &[("reason", "tls_required"), ("stage", "admit")]);
    assert_eq!(dials.count(), 0);
    let tool = h1.node("tool").hidden().start();
    assert!(tool.ping(&a), "a tool of this host does not reach its node");
}

#[test]
fn a_node_that_can_be_reached_around_the_guard_is_named_in_log_status_and_readyz() {
    if !require() {
        return;
    }
    let scene = lenient(&["h1", "h2"]).start();
    let h1 = &scene.hosts[0];
    let a = h1.node("a").anywhere().start();
    let port = a.port().to_string();
    h1.guard.wait_event("node_exposed", &[("node", "a"), ("port", &port)]);
    let document = status(&scene.lab, &h1.host);
    assert!(
        document.to_string().contains("node_exposed") || document["exposed"].to_string().contains(&port),
        "{document}"
    );
    let (code, body) = ask_admin(&admin_socket(&scene.lab, &h1.host), "GET", "/readyz");
    assert_eq!(code, 503, "{body}");
    assert!(body.contains(&port), "{body}");
}

/// A node on each of two hosts, which have been linked: their guards know the way.
#[track_caller]
fn unlinked_nodes(scene: &Scene) -> [Node; 2] {
    let [a, b] = [(0, "a"), (1, "b")].map(|(at, name): (usize, _)| scene.hosts[at].node(name).start());
    assert!(a.ping(&b));
    unlink(&a, &b);
    [a, b]
}

/// Neither a node that looks a peer up nor one that dials it waits for longer than it would for a handshake.
#[track_caller]
fn is_told_in_time(from: &Node, to: &str) {
    let begun = Instant::now();
    assert_eq!(from.eval(&format!("net_adm:ping('{to}').")), "pang");
    assert!(begun.elapsed() < PROMPT, "after {:?}", begun.elapsed());
}

#[test]
fn a_node_is_refused_at_once_while_the_guard_of_a_peer_is_away_and_links_again_when_it_is_back() {
    if !require() {
        return;
    }
    let mut scene = lenient(&["h1", "h2"]).start();
    let [a, b] = unlinked_nodes(&scene);
    scene.hosts[1].guard.stop();
    is_told_in_time(&a, b.full_name());
    let said = scene.hosts[0].guard.wait_event("closed", &[("reason", "no_way")]);
    assert!(field(&said, "detail").contains("192.0.2.2:4371"), "{said}");
    scene.start_again(1);
    eventually("they link again", SOON, || a.ping(&b));
}

#[test]
fn a_node_is_told_in_time_while_the_guard_of_a_peer_is_stopped() {
    if !require() {
        return;
    }
    let scene = lenient(&["h1", "h2"]).start();
    let [a, b] = unlinked_nodes(&scene);
    scene.hosts[1].guard.daemon().signal(Signal::STOP);
    is_told_in_time(&a, b.full_name());
    scene.hosts[1].guard.daemon().signal(Signal::CONT);
    eventually("they link again", SOON, || a.ping(&b));
}

#[test]
fn a_node_is_told_in_time_while_nothing_comes_from_the_guard_of_a_peer() {
    if !require() {
        return;
    }
    let scene = lenient(&["h1", "h2"]).start();
    let [a, b] = unlinked_nodes(&scene);
    scene.hosts[1].host.filter(Way::In, "tcp dport 4371 drop");
    is_told_in_time(&a, b.full_name());
    is_told_in_time(&a, "nobody@h2.test");
    scene.hosts[1].host.lift();
    eventually("they link again", SOON, || a.ping(&b));
}
