//! Ports that follow the names at epmd: the default, with nodes whose ports the kernel chooses.

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cluster::{join, lists};
use crate::common::{EVERYBODY, Guarded, require};
use crate::support::ejabberd::Ejabberd;
use crate::support::erlang::{Node, NodeBuilder};
use crate::support::eventually::eventually;
use crate::support::guard::{SOON, admin_get, field, registered, status};
use crate::support::handshake::{Acceptor, Initiator};
use crate::support::host::Host;
use crate::support::lab::Lab;
use crate::support::wire::{Ended, ask, framed, read_to_close, send};

/// Where nodes that must be found at one number are offered.
const OUTSIDE: &str = "[dist]\noutside = \"9100-9101\"\n";

/// A lab of these hosts, whose first ones, `guarded` of them, have an epmd and a guard.
fn hosts<const N: usize>(names: &[&str], guarded: [&str; N], config: &str) -> (Lab, [Guarded; N]) {
    let lab = Lab::new(names);
    let config = format!("{}{config}", registered(EVERYBODY));
    let hosts = guarded.map(|name| Guarded::with(&lab, name, &config));
    (lab, hosts)
}

/// One guarded host and a peer without anything.
fn one_host(config: &str) -> (Lab, Guarded, Host) {
    let (lab, [h1]) = hosts(&["h1", "h2"], ["h1"], config);
    let peer = lab.host("h2");
    (lab, h1, peer)
}

fn node(name: &str, on: &Guarded) -> NodeBuilder {
    Node::named(name, &on.host)
}

/// The port that the guard of `of` tells `asker` for a name.
#[track_caller]
fn told(asker: &Host, of: &Host, name: &str) -> Option<u16> {
    let stream = asker.connect(SocketAddr::new(of.v4().into(), 4369)).unwrap();
    match *ask(&stream, &[b"z", name.as_bytes()].concat()) {
        [b'w', 0, high, low, ..] => Some(u16::from_be_bytes([high, low])),
        _ => None,
    }
}

/// What NAMES through the guard of `of` says, without the port of epmd.
#[track_caller]
fn listed(asker: &Host, of: &Host) -> String {
    let stream = asker.connect(SocketAddr::new(of.v4().into(), 4369)).unwrap();
    String::from_utf8(ask(&stream, b"n").split_off(4)).unwrap()
}

fn is_open(on: &Host, port: u16) -> bool {
    on.listeners().contains(&SocketAddr::new(on.v4().into(), port))
}

/// A name at the epmd of the host, for as long as the stream is kept.
fn register(host: &Host, name: &str, port: u16) -> TcpStream {
    let [high, low] = port.to_be_bytes();
    let head = [b'x', high, low, b'M', 0, 0, 6, 0, 5, 0, name.len() as u8];
    let epmd = SocketAddr::from((Ipv4Addr::LOCALHOST, 4369));
    let registration = host.connect(epmd).unwrap();
    send(&registration, &framed(&[&head, name.as_bytes(), &[0, 0]].concat())).unwrap();
    let mut reply = [1; 6];
    (&registration).read_exact(&mut reply).unwrap();
    assert_eq!(reply[..2], *b"v\0", "epmd registers {name}");
    registration
}

fn listen(host: &Host, ip: impl Into<IpAddr>, port: u16) -> TcpListener {
    host.listen(SocketAddr::new(ip.into(), port)).unwrap()
}

/// The warnings of `status` of this kind.
fn warnings(lab: &Lab, host: &Host, what: &str) -> Vec<Value> {
    let status = status(lab, host);
    let all = status["warnings"].as_array().unwrap();
    all.iter().filter(|warning| warning["what"] == what).cloned().collect()
}

/// Waits until the guard has asked epmd after this moment and has looked at the ports since: a marker that is
/// registered now is open.
#[track_caller]
fn wait_for_a_look(on: &Guarded) {
    let marker = listen(&on.host, Ipv4Addr::LOCALHOST, 0);
    let port = marker.local_addr().unwrap().port();
    let registration = register(&on.host, "marker", port);
    on.guard.wait_open(port);
    drop((registration, marker));
    on.guard.wait_closed(port);
}

#[test]
fn nodes_on_any_port_link_through_their_guards_and_each_port_goes_with_its_node() {
    if !require() {
        return;
    }
    let (_lab, [h1, h2]) = hosts(&["h1", "h2"], ["h1", "h2"], "");
    let (a, b) = (h1.start(node("a", &h1)), h2.start(node("b", &h2)));
    for (of, node, name) in [(&h1, &a, "a"), (&h2, &b, "b")] {
        let (port, listener) = (node.port().to_string(), SocketAddr::new(of.host.v4().into(), node.port()));
        let fields = [("listener", listener.to_string()), ("node", name.to_owned()), ("inside", port)];
        let fields = fields.each_ref().map(|(field, value)| (*field, value.as_str()));
        of.guard.wait_event("port_opened", &fields);
    }
    assert!(a.ping(&b));
    assert_eq!(b.eval("nodes()."), "['a@h1.test']");
    let opened = h2.guard.wait_event("link_opened", &[("node", "b")]);
    assert!(field(&opened, "peer").starts_with("192.0.2.1:"), "{opened}");
    assert_eq!(a.eval("erlang:disconnect_node('b@h2.test')."), "true");
    assert!(b.ping(&a));
    h1.guard.wait_event("link_opened", &[("node", "a")]);
    let port = b.port();
    b.stop();
    h2.guard.wait_closed(port);
    let listener = SocketAddr::new(h2.host.v4().into(), port).to_string();
    h2.guard.wait_event("port_closed", &[("listener", &listener)]);
    assert!(is_open(&h1.host, a.port()), "the port of a node that runs was closed");
}

/// The promise is a second. The fastest of five rounds is held against it, so that a busy machine cannot
/// break it but a slower look can.
#[test]
fn a_port_follows_its_node_within_a_second() {
    if !require() {
        return;
    }
    let (_lab, h1, _peer) = one_host("");
    let (mut opened, mut closed) = (SOON, SOON);
    for _ in 0..5 {
        let behind = listen(&h1.host, Ipv4Addr::LOCALHOST, 0);
        let port = behind.local_addr().unwrap().port();
        let registration = register(&h1.host, "a", port);
        let begun = Instant::now();
        h1.guard.wait_open(port);
        opened = opened.min(begun.elapsed());
        drop((registration, behind));
        let begun = Instant::now();
        h1.guard.wait_closed(port);
        closed = closed.min(begun.elapsed());
        eventually("the name is free", SOON, || h1.epmd.names().is_empty());
    }
    let second = Duration::from_secs(1);
    assert!(opened < second && closed < second, "opened after {opened:?}, closed after {closed:?}");
}

#[test]
fn nodes_on_the_ipv6_loopback_link_through_their_guards() {
    if !require() {
        return;
    }
    let (_lab, [h1, h2]) = hosts(&["h1", "h2"], ["h1", "h2"], "");
    let (a, b) = (h1.start(node("a", &h1).inet6()), h2.start(node("b", &h2).inet6()));
    assert!(a.ping(&b));
    let opened = h2.guard.wait_event("link_opened", &[("node", "b")]);
    assert!(field(&opened, "peer").starts_with("[2001:db8::1]:"), "{opened}");
}

#[test]
fn a_node_that_is_looked_up_while_it_starts_is_never_refused_at_the_port_that_is_told() {
    if !require() {
        return;
    }
    let (_lab, h1, peer) = one_host("");
    for round in 0..10 {
        let nodes = std::thread::scope(|scope| {
            let starting = ["a", "b", "c"].map(|name| {
                let asking = scope.spawn({
                    let (peer, h1) = (&peer, &h1);
                    move || {
                        let port =
                            eventually(&format!("{name} is found"), SOON, || told(peer, &h1.host, name));
                        let dialled = peer.connect(SocketAddr::new(h1.host.v4().into(), port));
                        assert!(dialled.is_ok(), "round {round}, {name} at {port}: {dialled:?}");
                        port
                    }
                });
                (scope.spawn(|| node(name, &h1).start()), asking)
            });
            starting.map(|(node, asking)| (node.join().unwrap(), asking.join().unwrap()))
        });
        for (node, port) in &nodes {
            assert_eq!(node.port(), *port);
            node.kill();
        }
        for (_, port) in nodes {
            h1.guard.wait_closed(port);
        }
    }
    assert!(h1.guard.events("port_not_reachable").is_empty());
}

#[test]
fn lookups_of_a_name_that_nobody_listens_for_do_not_delay_a_node_that_starts() {
    if !require() {
        return;
    }
    let (_lab, h1, peer) = one_host("");
    // Nothing listens there, so that each answer waits for its second.
    let _ghost = register(&h1.host, "ghost", 40000);
    let epmd = SocketAddr::new(h1.host.v4().into(), 4369);
    let waiting: Vec<_> = (0..300)
        .map(|_| {
            let stream = peer.connect(epmd).unwrap();
            send(&stream, &framed(b"zghost")).unwrap();
            stream
        })
        .collect();
    let started = std::thread::scope(|scope| {
        let starting = scope.spawn(|| node("a", &h1).start());
        let port = eventually("a is found", SOON, || told(&peer, &h1.host, "a"));
        let dialled = peer.connect(SocketAddr::new(h1.host.v4().into(), port));
        assert!(dialled.is_ok(), "{dialled:?}");
        starting.join().unwrap()
    });
    for stream in waiting {
        assert!(read_to_close(&stream).bytes.starts_with(b"w\0\x9c\x40"));
    }
    drop(started);
}

#[test]
fn an_epmd_that_restarts_closes_no_port_and_cuts_no_link_and_its_names_are_found_again() {
    if !require() {
        return;
    }
    let (_lab, [h1, mut h2]) = hosts(&["h1", "h2"], ["h1", "h2"], "");
    let (a, b) = (h1.start(node("a", &h1)), h2.start(node("b", &h2)));
    assert!(a.ping(&b));
    let log = h2.guard.mark();
    h2.epmd.restart();
    assert_eq!(told(&h1.host, &h2.host, "b"), None, "epmd knew the name at once");
    assert!(is_open(&h2.host, b.port()));
    eventually("b is found again", SOON, || told(&h1.host, &h2.host, "b"));
    assert_eq!(a.eval("nodes()."), "['b@h2.test']");
    assert!(is_open(&h2.host, b.port()));
    let closed = h2.guard.daemon().find_line_after(log, Duration::ZERO, |line| line.contains("port_closed"));
    assert!(closed.is_err(), "{closed:?}");
    assert_eq!(a.eval("erlang:disconnect_node('b@h2.test')."), "true");
    assert!(a.ping(&b));
    // A node that comes now is found as well.
    let c = h2.start(node("c", &h2));
    assert!(a.ping(&c));
}

#[test]
fn an_epmd_that_is_gone_for_long_closes_no_port_of_a_node_that_runs() {
    if !require() {
        return;
    }
    let (lab, mut h1, peer) = one_host("");
    let a = h1.start(node("a", &h1));
    h1.epmd.stop();
    eventually("the guard sees that no epmd answers", SOON, || {
        !warnings(&lab, &h1.host, "epmd_silent").is_empty()
    });
    assert!(is_open(&h1.host, a.port()));
    h1.epmd.restart();
    assert_eq!(eventually("a is found again", SOON, || told(&peer, &h1.host, "a")), a.port());
    assert!(!h1.guard.events("port_closed").iter().any(|event| event["role"] == "dist"));
}

#[test]
fn helpers_of_command_line_tools_open_no_port() {
    if !require() {
        return;
    }
    let (_lab, h1, peer) = one_host("");
    let helpers = ["abc-ctl-ejabberd", "rabbitmqcli-1-rabbit"].map(|name| node(name, &h1).start());
    let a = h1.start(node("a", &h1));
    wait_for_a_look(&h1);
    for helper in &helpers {
        let name = helper.full_name().split('@').next().unwrap();
        // It can be looked up, as at epmd; that nobody can dial it is no fault to tell of.
        assert_eq!(told(&peer, &h1.host, name), Some(helper.port()));
        assert!(!is_open(&h1.host, helper.port()), "{name} has a port");
    }
    assert!(is_open(&h1.host, a.port()));
    assert!(h1.guard.events("port_not_reachable").is_empty());
    // They reach the nodes of their own host, which is what they are for.
    assert!(helpers[0].ping(&a));
}

#[test]
fn the_names_that_get_a_port_are_the_operators_to_choose() {
    if !require() {
        return;
    }
    let (_lab, h1, peer) = one_host("[dist]\nnames = [\"app*\", \"abc-ctl-ejabberd\", \"!*-test\"]\n");
    let [app, helper] = ["app1", "abc-ctl-ejabberd"].map(|name| h1.start(node(name, &h1)));
    let [other, test] = ["other", "app-test"].map(|name| node(name, &h1).start());
    assert_eq!(told(&peer, &h1.host, "app1"), Some(app.port()));
    for left_out in ["other", "app-test"] {
        assert!(told(&peer, &h1.host, left_out).is_some());
    }
    // The guard asks epmd again after each change, and has done so when a port of a later node is open.
    let later = h1.start(node("app2", &h1));
    let open = [&app, &helper, &later, &other, &test].map(|node| is_open(&h1.host, node.port()));
    assert_eq!(open, [true, true, true, false, false]);
}

#[test]
fn a_port_outside_of_the_range_is_not_opened_and_told_of() {
    if !require() {
        return;
    }
    let (_lab, h1, peer) = one_host("[dist]\nrange = \"9100-9110\"\n");
    let within = h1.start(node("within", &h1).port(9100));
    let beyond = node("beyond", &h1).port(9200).start();
    wait_for_a_look_within(&h1, 9105);
    assert_eq!(told(&peer, &h1.host, "within"), Some(within.port()));
    assert_eq!(told(&peer, &h1.host, "beyond"), Some(beyond.port()));
    let told =
        h1.guard.wait_event("port_not_reachable", &[("name", "beyond"), ("listener", "192.0.2.1:9200")]);
    assert!(field(&told, "help").contains("[dist] range"), "{told}");
    assert!(!is_open(&h1.host, 9200));
}

/// [`wait_for_a_look`] with a port of one's own.
#[track_caller]
fn wait_for_a_look_within(on: &Guarded, port: u16) {
    let marker = listen(&on.host, Ipv4Addr::LOCALHOST, port);
    let _registration = register(&on.host, "marker", port);
    on.guard.wait_open(port);
    drop(marker);
}

#[test]
fn a_service_below_the_range_is_not_opened_whatever_is_registered_there() {
    if !require() {
        return;
    }
    let (_lab, h1, peer) = one_host("");
    let _service = listen(&h1.host, Ipv4Addr::LOCALHOST, 80);
    let _registration = register(&h1.host, "x", 80);
    wait_for_a_look(&h1);
    assert_eq!(told(&peer, &h1.host, "x"), Some(80));
    h1.guard.wait_event("port_not_reachable", &[("name", "x"), ("listener", "192.0.2.1:80")]);
    wait_for_a_look(&h1);
    assert!(!is_open(&h1.host, 80));
    assert!(peer.connect(SocketAddr::new(h1.host.v4().into(), 80)).is_err());
}

#[test]
fn the_port_of_epmd_is_never_a_nodes_whatever_is_registered_there() {
    if !require() {
        return;
    }
    let (_lab, h1, peer) = one_host("");
    let _registration = register(&h1.host, "x", 4369);
    assert_eq!(told(&peer, &h1.host, "x"), Some(4369));
    wait_for_a_look(&h1);
    // The guard still answers there, and as itself: a bare relay would let the peer register.
    let refused = ask(&peer.connect(SocketAddr::new(h1.host.v4().into(), 4369)).unwrap(), b"d");
    assert_eq!(refused, b"");
}

#[test]
fn a_program_that_takes_the_port_of_a_node_that_is_gone_is_not_offered() {
    if !require() {
        return;
    }
    let (_lab, h1, peer) = one_host("");
    for _ in 0..5 {
        let a = h1.start(node("a", &h1));
        let port = a.port();
        a.kill();
        let taker = listen(&h1.host, Ipv4Addr::LOCALHOST, port);
        h1.guard.wait_closed(port);
        wait_for_a_look(&h1);
        assert!(!is_open(&h1.host, port));
        assert!(peer.connect(SocketAddr::new(h1.host.v4().into(), port)).is_err());
        taker.set_nonblocking(true).unwrap();
        assert!(taker.accept().is_err(), "it was connected to");
    }
}

#[test]
fn nodes_are_reached_at_their_outside_ports_and_told_to_be_there() {
    if !require() {
        return;
    }
    let (lab, [h1, h2]) = hosts(&["h1", "h2", "h3"], ["h1", "h2"], OUTSIDE);
    let (a, b) = (node("a", &h1).start(), node("b", &h2).start());
    h1.guard.wait_open(9100);
    h2.guard.wait_open(9100);
    for (of, name) in [(&h1, "a"), (&h2, "b")] {
        assert_eq!(told(&lab.host("h3"), &of.host, name), Some(9100));
        assert_eq!(listed(&lab.host("h3"), &of.host), format!("name {name} at port 9100\n"));
    }
    // What is on this host itself is told the same, since it dials the guard too.
    assert_eq!(told(&h1.host, &h1.host, "a"), Some(9100));
    assert!(a.ping(&b));
    let inside = b.port().to_string();
    let opened = h2.guard.wait_event("link_opened", &[("node", "b"), ("listener", "192.0.2.2:9100")]);
    assert_eq!(field(&opened, "inside"), inside);
    let own = [&a, &b].map(Node::port);
    assert!(!is_open(&h1.host, own[0]) && !is_open(&h2.host, own[1]), "a port of a node's own is open");
    // A second node of the host, and one that has nothing to do with epmd.
    let c = node("c", &h2).start();
    assert!(a.ping(&c));
    assert_eq!(told(&h1.host, &h2.host, "c"), Some(9101));
}

#[test]
fn a_node_that_restarts_is_found_at_the_same_outside_port() {
    if !require() {
        return;
    }
    let (_lab, [h1, h2]) = hosts(&["h1", "h2"], ["h1", "h2"], OUTSIDE);
    let mut b = node("b", &h2).start();
    h2.guard.wait_open(9100);
    let _c = node("c", &h2).start();
    h2.guard.wait_open(9101);
    let a = node("a", &h1).start();
    for _ in 0..5 {
        let before = b.port();
        b.kill();
        b = node("b", &h2).start();
        assert_ne!(b.port(), before, "the kernel gives another port");
        assert_eq!(told(&h1.host, &h2.host, "b"), Some(9100));
        assert!(a.ping(&b));
    }
    assert_eq!(told(&h1.host, &h2.host, "c"), Some(9101));
}

/// As when a node restarts faster than the guard looks: the new listener and name are there before the guard
/// has missed the old one for long.
#[test]
fn a_name_that_moves_at_once_keeps_its_outside_port() {
    if !require() {
        return;
    }
    let (_lab, h1, peer) = one_host(OUTSIDE);
    let start = || {
        let behind = listen(&h1.host, Ipv4Addr::LOCALHOST, 0);
        let port = behind.local_addr().unwrap().port();
        (behind, register(&h1.host, "a", port), port)
    };
    let mut old = start();
    for round in 0..6 {
        assert_eq!(told(&peer, &h1.host, "a"), Some(9100), "round {round}");
        let before = old.2;
        drop(old);
        eventually("the name is free", SOON, || h1.epmd.names().is_empty());
        old = start();
        assert_ne!(old.2, before);
    }
    // When the guard has forgotten what was.
    wait_for_a_look_outside(&h1);
    assert_eq!(told(&peer, &h1.host, "a"), Some(9100));
}

/// [`wait_for_a_look`] where the second outside port is free.
#[track_caller]
fn wait_for_a_look_outside(on: &Guarded) {
    let marker = listen(&on.host, Ipv4Addr::LOCALHOST, 0);
    let registration = register(&on.host, "marker", marker.local_addr().unwrap().port());
    on.guard.wait_open(9101);
    drop((registration, marker));
    on.guard.wait_closed(9101);
}

#[test]
fn a_node_for_which_no_outside_port_is_left_gets_none_and_a_warning() {
    if !require() {
        return;
    }
    let (lab, h1, peer) = one_host(OUTSIDE);
    let mut placed = Vec::new();
    for (name, port) in [("x", 9100), ("y", 9101)] {
        placed.push(node(name, &h1).start());
        h1.guard.wait_open(port);
    }
    let third = node("a", &h1).start();
    let warning = eventually("the warning", SOON, || warnings(&lab, &h1.host, "no_outside_port").pop());
    assert_eq!((&warning["node"], &warning["port"]), (&"a".into(), &third.port().into()));
    assert!(field(&warning, "help").contains("[dist] outside"), "{warning}");
    assert!(admin_get(&lab, &h1.host, "/readyz").contains("no port of [dist] outside is left for a"));
    // Its own number may be another node's on the outside, so that it is told to be nowhere.
    assert_eq!(told(&peer, &h1.host, "a"), None);
    let event = h1.guard.wait_event("port_not_reachable", &[("name", "a")]);
    assert!(field(&event, "help").contains("[dist] outside"), "{event}");
    assert!(!is_open(&h1.host, third.port()));
    assert_eq!(["x", "y"].map(|name| told(&peer, &h1.host, name)), [Some(9100), Some(9101)]);
    // A place that gets free is the third one's.
    placed.remove(0).stop();
    assert_eq!(eventually("a has a place", SOON, || told(&peer, &h1.host, "a").filter(|p| *p == 9100)), 9100);
    eventually("the warning goes", SOON, || warnings(&lab, &h1.host, "no_outside_port").is_empty());
}

/// Starts the node, waits until it is told of, and applies the cure.
fn is_told_of_until_it_is_cured(config: &str, exposed: impl Fn(NodeBuilder) -> NodeBuilder, at: &str) {
    if !require() {
        return;
    }
    let (lab, h1, _peer) = one_host(config);
    let a = exposed(node("a", &h1)).start();
    let port = a.port().to_string();
    let told = h1.guard.wait_event("node_exposed", &[("node", "a"), ("port", &port)]);
    let help = field(&told, "help");
    for cure in ["inet_dist_use_interface {127,0,0,1}", "INET_DIST_INTERFACE=127.0.0.1", "advanced.config"] {
        assert!(help.contains(cure), "{told}");
    }
    assert!(field(&told, "holder").starts_with(&format!("{at}:{port} of uid ")), "{told}");
    let warning = eventually("status warns", SOON, || warnings(&lab, &h1.host, "node_exposed").pop());
    assert_eq!((&warning["node"], &warning["port"]), (&"a".into(), &a.port().into()));
    assert_eq!(field(&warning, "help"), help);
    let ready = admin_get(&lab, &h1.host, "/readyz");
    assert!(ready.contains("around the guard") && ready.contains("inet_dist_use_interface"), "{ready}");
    a.stop();
    let _cured = node("a", &h1).start();
    h1.guard.wait_event("node_covered", &[("node", "a")]);
    eventually("status is quiet", SOON, || warnings(&lab, &h1.host, "node_exposed").is_empty());
    assert!(!admin_get(&lab, &h1.host, "/readyz").contains("around the guard"));
    assert_eq!(h1.guard.events("node_exposed").len(), 1);
}

#[test]
fn a_node_on_every_address_is_told_of_by_name_with_its_cure_until_it_is_cured() {
    is_told_of_until_it_is_cured("", NodeBuilder::anywhere, "0.0.0.0");
}

#[test]
fn a_node_on_every_address_is_told_of_where_it_is_offered_at_another_port_too() {
    is_told_of_until_it_is_cured(OUTSIDE, NodeBuilder::anywhere, "0.0.0.0");
}

#[test]
fn a_node_on_the_hosts_own_address_is_told_of_by_name_too() {
    is_told_of_until_it_is_cured("", |node| node.interface(Ipv4Addr::new(192, 0, 2, 1).into()), "192.0.2.1");
}

#[test]
fn a_node_on_every_address_outside_of_the_range_is_told_of_too() {
    is_told_of_until_it_is_cured("[dist]\nrange = \"1024-1030\"\n", NodeBuilder::anywhere, "0.0.0.0");
}

#[test]
fn something_else_at_a_nodes_number_is_no_fault_of_the_node() {
    if !require() {
        return;
    }
    let (lab, h1, peer) = one_host("");
    let (other, a) = beside(&h1, h1.host.v4());
    let port = a.port();
    let listener = format!("192.0.2.1:{port}");
    let taken =
        h1.guard.wait_event("port_taken", &[("role", "dist"), ("listener", &listener), ("node", "a")]);
    assert!(field(&taken, "holder").starts_with(&format!("{listener} of uid 0 (root)")), "{taken}");
    assert_eq!(told(&peer, &h1.host, "a"), Some(port));
    h1.guard.wait_event("port_not_reachable", &[("name", "a")]);
    assert_eq!(warnings(&lab, &h1.host, "node_exposed"), Vec::<Value>::new());
    assert_eq!(warnings(&lab, &h1.host, "port_taken").len(), 1);
    drop(other);
    h1.guard.wait_open(port);
    eventually("status is quiet", SOON, || warnings(&lab, &h1.host, "port_taken").is_empty());
}

#[test]
fn a_number_that_a_connection_of_this_host_has_is_told_of_with_what_helps() {
    if !require() {
        return;
    }
    let (lab, h1, peer) = one_host("");
    let far = listen(&peer, peer.v4(), 0);
    let connection = h1.host.connect_from(h1.host.v4().into(), far.local_addr().unwrap()).unwrap();
    let port = connection.local_addr().unwrap().port();
    let _a = node("a", &h1).port(port).start();
    let listener = format!("192.0.2.1:{port}");
    let taken =
        h1.guard.wait_event("port_taken", &[("role", "dist"), ("listener", &listener), ("node", "a")]);
    assert!(field(&taken, "help").contains("inet_dist_listen_min"), "{taken}");
    assert_eq!(warnings(&lab, &h1.host, "port_taken").len(), 1);
    // It is open as soon as that has gone.
    socket2::SockRef::from(&connection).set_linger(Some(Duration::ZERO)).unwrap();
    drop(connection);
    h1.guard.wait_open(port);
}

#[test]
fn nodes_of_two_products_behind_one_epmd_are_reached_each_at_its_own_port() {
    if !require() {
        return;
    }
    let (_lab, [h1, h2]) = hosts(&["h1", "h2"], ["h1", "h2"], "");
    let ejabberd = Ejabberd::configure(&h1.host).random_ports().start();
    let rabbit = h1.start(node("rabbit", &h1));
    let peer = h2.start(node("peer", &h2));
    let ports = ["ejabberd", "rabbit"].map(|name| told(&h2.host, &h1.host, name).unwrap());
    assert_ne!(ports[0], ports[1]);
    assert_eq!(ports[1], rabbit.port());
    assert!(ports.iter().all(|port| is_open(&h1.host, *port)));
    assert!(peer.ping(&rabbit));
    assert_eq!(peer.eval(&format!("net_adm:ping('{}').", ejabberd.node_name())), "pong");
    for name in ["ejabberd", "rabbit"] {
        h1.guard.wait_event("link_opened", &[("node", name), ("peer", "192.0.2.2:*")]);
    }
    for _ in 0..3 {
        let (status, output) = ejabberd.ctl(&["status"]);
        assert!(status.success() && output.contains("is running"), "{output}");
    }
    let opened = h1.guard.events("port_opened");
    let strange: Vec<_> = opened
        .iter()
        .filter(|event| event["role"] == "dist")
        .filter(|event| !["ejabberd", "rabbit"].contains(&field(event, "node").as_str()))
        .collect();
    assert!(strange.is_empty(), "{strange:?}");
}

#[test]
fn an_ejabberd_cluster_without_any_setting_of_ports_joins_through_guards_without_any_either() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1", "h2"]);
    let hosts = ["h1", "h2"].map(|name| lab.host(name));
    let config = registered(EVERYBODY);
    let guards = hosts.each_ref().map(|host| crate::support::guard::Guard::start(&lab, host, &config));
    let nodes = std::thread::scope(|scope| {
        hosts
            .each_ref()
            .map(|host| scope.spawn(|| Ejabberd::configure(host).random_ports().start()))
            .map(|thread| thread.join().unwrap())
    });
    let names = join(&nodes);
    // One stops and comes back, at another port.
    nodes[1].stop();
    lists(&nodes[0], &names[..1]);
    nodes[1].start();
    for node in &nodes {
        lists(node, &names);
    }
    for guard in &guards {
        for event in ["refused", "port_taken", "node_exposed", "port_not_reachable"] {
            assert!(guard.events(event).is_empty(), "{:?}", guard.events(event));
        }
        let helpers: Vec<_> = guard
            .events("port_opened")
            .into_iter()
            .filter(|event| field(event, "node").contains('-'))
            .collect();
        assert!(helpers.is_empty(), "{helpers:?}");
    }
}

#[test]
fn a_guard_that_starts_after_the_nodes_opens_their_ports() {
    if !require() {
        return;
    }
    let (lab, h1, peer) = one_host("");
    let a = h1.start(node("a", &h1));
    h1.guard.stop();
    let guard = crate::support::guard::Guard::start(&lab, &h1.host, &registered(EVERYBODY));
    guard.wait_open(a.port());
    assert_eq!(told(&peer, &h1.host, "a"), Some(a.port()));
}

#[test]
fn a_node_that_shares_its_number_with_another_program_goes_when_it_goes() {
    if !require() {
        return;
    }
    let (_lab, h1, _peer) = one_host("");
    let (other, a) = beside(&h1, Ipv6Addr::LOCALHOST);
    let port = a.port();
    h1.guard.wait_open(port);
    a.kill();
    h1.guard.wait_closed(port);
    wait_for_a_look(&h1);
    assert!(!is_open(&h1.host, port));
    drop(other);
}

/// A node on 127.0.0.1, and something else at its number on another address of the host.
#[track_caller]
fn beside(on: &Guarded, ip: impl Into<IpAddr>) -> (TcpListener, Node) {
    let ip = ip.into();
    eventually("a node at the number of something else", SOON, || {
        let other = listen(&on.host, ip, 0);
        let port = other.local_addr().unwrap().port();
        node("a", on).port(port).try_start().map(|node| (other, node))
    })
}

#[test]
fn nothing_of_a_registered_name_is_told_unescaped() {
    if !require() {
        return;
    }
    let (lab, h1, peer) = one_host("");
    // An override of the direction of writing, with which a terminal shows another text than there is.
    let name = "a\u{202e}b";
    let listener = listen(&h1.host, Ipv4Addr::UNSPECIFIED, 0);
    let port = listener.local_addr().unwrap().port();
    let registration = register(&h1.host, name, port);
    let told_of = "a\\u{202e}b";
    h1.guard.wait_event("node_exposed", &[("node", told_of)]);
    drop(listener);
    let listener = listen(&h1.host, Ipv4Addr::LOCALHOST, port);
    h1.guard.wait_event("port_opened", &[("node", told_of)]);
    h1.guard.wait_open(port);
    let dial = || peer.connect(SocketAddr::new(h1.host.v4().into(), port)).unwrap();
    // No node of that name can answer, since a node's name has no such character.
    let (down, says, answers) = (dial(), Initiator::named("c@h2.test"), Acceptor::named("a@h1.test"));
    send(&down, &says.first_message()).unwrap();
    let up = answers.take(&listener, &says);
    send(&up, &answers.greeting()).unwrap();
    assert_eq!(read_to_close(&down).ended, Ended::Reset);
    h1.guard.wait_event("closed", &[("reason", "wrong_node_answered"), ("claimed", "c@h2.test")]);
    // Nor can one of such a name ask.
    let down = dial();
    let claim = [&b"N\0\0\0\x0d\x07\xdf\x7f\xbd\0\0\0\x01\0\x0d"[..], name.as_bytes(), b"@h2.test"].concat();
    send(&down, &framed(&claim)).unwrap();
    assert_eq!(read_to_close(&down).bytes, b"");
    h1.guard.wait_event("closed", &[("reason", "no_handshake")]);
    assert_eq!(told(&peer, &h1.host, name), Some(port), "on the wire it stays what it is");
    for path in ["/readyz", "/status", "/links", "/metrics"] {
        assert!(admin_get(&lab, &h1.host, path).is_ascii(), "{path}");
    }
    assert!(h1.guard.daemon().lines().iter().all(|line| line.is_ascii()));
    drop(registration);
}
