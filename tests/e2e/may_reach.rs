//! `[[peer]] may_reach`: a node that a peer may not use does not exist for it.

use std::io::Read as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use crate::common::require;
use crate::registration::{LOOPBACK, Mapped};
use crate::support::erlang::{Epmd, EpmdListen, Node, NodeBuilder};
use crate::support::eventually::eventually;
use crate::support::guard::{Guard, SOON, admin_socket, configure, embedded, links, registered};
use crate::support::handshake::{self, Initiator};
use crate::support::host::Host;
use crate::support::lab::Lab;
use crate::support::said::told;
use crate::support::wire::{Ended, ask, read_to_close, send};

const HOSTS: &[&str] = &["h1", "h2", "h3"];
/// What `h2` may do; `h3` may do all.
const WEB_ALONE: &str = "[[peer]]\nname = \"h2\"\naddresses = [\"192.0.2.2\"]\nmay_reach = [\"web\"]\n";
const ALL: &str = "[[peer]]\nname = \"h2\"\naddresses = [\"192.0.2.2\"]\n";

fn alone(name: &str, host: &Host) -> NodeBuilder {
    Node::named(name, host).arg("-connect_all").arg("false")
}

/// A node of the host that the test plays.
fn says(host: &Host) -> Initiator {
    Initiator::named(&format!("n@{}", host.name()))
}

fn listen(host: &Host, port: u16) -> TcpListener {
    host.listen(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port)).unwrap()
}

/// Sees the guard end what the peer dials, before or after it says something.
#[track_caller]
fn is_shut(host: &Host, to: SocketAddr) {
    match host.connect(to) {
        Ok(link) => {
            drop(send(&link, &says(host).first_message()));
            let outcome = read_to_close(&link);
            assert_eq!(outcome.bytes, b"", "something answered");
            assert_ne!(outcome.ended, Ended::TimedOut);
        }
        Err(error) => {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "it is open and turns away")
        }
    }
}

fn not_reachable(mapped: &Mapped, role: &str) -> u64 {
    let series = "epmd_guard_refusals_total{reason=\"not_reachable\",stage=\"authorize\"}";
    let outcome = format!("epmd_guard_connections_total{{role=\"{role}\",outcome=\"not_reachable\"}}");
    assert!(mapped.counted(series) >= mapped.counted(&outcome));
    mapped.counted(&outcome)
}

/// What `h2` and `h3` see of the nodes `web` and `db`, which run.
fn only_web_exists_for_h2(mapped: &Mapped) {
    let web = alone("web", &mapped.host).port(9100).start();
    let db = alone("db", &mapped.host).port(9101).start();
    for port in [9100, 9101] {
        mapped.guard.wait_open(port);
    }
    let sees = |host: &str| {
        let mut lines: Vec<_> =
            mapped.ask_from(host, b"n")[4..].split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
        lines.sort();
        lines.retain(|line| !line.is_empty());
        lines
    };
    assert_eq!(sees("h2"), [b"name web at port 9100"]);
    assert_eq!(sees("h3"), [b"name db at port 9101".to_vec(), b"name web at port 9100".to_vec()]);
    let before = not_reachable(mapped, "epmd");
    assert_eq!(mapped.ask_from("h2", b"zdb"), b"w\x01");
    assert_eq!(mapped.ask_from("h2", b"znone"), b"w\x01", "as a name that nobody has");
    mapped
        .guard
        .wait_event("refused", &[("peer", "192.0.2.2:*"), ("reason", "not_reachable"), ("role", "epmd")]);
    eventually("it is counted", SOON, || not_reachable(mapped, "epmd") > before);
    assert!(mapped.ask_from("h2", b"zweb").starts_with(b"w\0\x23\x8c"));
    for name in [&b"zdb"[..], b"zweb"] {
        assert!(mapped.ask_from("h3", name).starts_with(b"w\0"), "h3 asks {name:?}");
    }

    let [h2, h3] = ["h2", "h3"].map(|name| alone("n", &mapped.lab.host(name)).start());
    assert!(h2.ping(&web) && !h2.ping(&db));
    assert!(h3.ping(&web) && h3.ping(&db));
    // Nor does the port lead there for who knows its number.
    let reached = mapped.host.counter("lo", 9101);
    is_shut(&mapped.lab.host("h2"), mapped.at(9101));
    mapped
        .guard
        .wait_event("refused", &[("peer", "192.0.2.2:*"), ("reason", "not_reachable"), ("role", "dist")]);
    assert_eq!(reached.count(), 0);
    // Self sees all.
    assert_eq!(mapped.names().lines().count(), 2);
}

#[test]
fn a_node_that_a_peer_may_not_reach_does_not_exist_for_it() {
    if !require() {
        return;
    }
    let mapped = Mapped::new(HOSTS, &format!("{}{WEB_ALONE}", embedded(&["192.0.2.3"])));
    only_web_exists_for_h2(&mapped);
}

#[test]
fn a_node_of_an_epmd_behind_the_guard_does_not_exist_for_who_may_not_reach_it() {
    if !require() {
        return;
    }
    let lab = Lab::new(HOSTS);
    let host = lab.host("h1");
    let _epmd = Epmd::start(&host, EpmdListen::Loopback);
    let guard = Guard::start(&lab, &host, &format!("{}{WEB_ALONE}", registered(&["192.0.2.3"])));
    only_web_exists_for_h2(&Mapped { guard, host, lab });
}

#[test]
fn no_byte_of_a_peer_arrives_at_a_node_that_it_may_not_reach() {
    if !require() {
        return;
    }
    let mapped = Mapped::new(HOSTS, &format!("{}{WEB_ALONE}", embedded(&["192.0.2.3"])));
    let db = listen(&mapped.host, 9101);
    let _db = mapped.register("db", 9101);
    is_shut(&mapped.lab.host("h2"), mapped.at(9101));
    mapped
        .guard
        .wait_event("closed", &[("role", "dist"), ("reason", "not_reachable"), ("asked", "port 9101")]);
    assert_eq!(not_reachable(&mapped, "dist"), 1);
    // The first that arrives is who may.
    let h3 = mapped.lab.host("h3");
    let link = h3.connect(mapped.at(9101)).unwrap();
    drop(handshake::link(&link, &db, &says(&h3), "db@h1.test"));
}

#[test]
fn a_node_whose_name_is_not_known_is_not_there_for_who_may_reach_some_only() {
    if !require() {
        return;
    }
    let config = format!("{}[dist]\nports = \"9100-9110\"\n{WEB_ALONE}", embedded(&["192.0.2.3"]));
    let mapped = Mapped::new(HOSTS, &config);
    let node = listen(&mapped.host, 9100);
    mapped.guard.wait_open(9100);
    let arrives = |host: &str, answering: &str| {
        let host = mapped.lab.host(host);
        let link = host.connect(mapped.at(9100)).unwrap();
        drop(handshake::link(&link, &node, &says(&host), answering));
    };
    is_shut(&mapped.lab.host("h2"), mapped.at(9100));
    mapped
        .guard
        .wait_event("refused", &[("role", "dist"), ("reason", "not_reachable"), ("peer", "192.0.2.2:*")]);
    arrives("h3", "web@h1.test");
    // The name makes it known, and another one unknown again.
    let web = mapped.register("web", 9100);
    arrives("h2", "web@h1.test");
    drop(web);
    eventually("the name goes", SOON, || mapped.names().is_empty());
    let _other = mapped.register("other", 9100);
    is_shut(&mapped.lab.host("h2"), mapped.at(9100));
    arrives("h3", "other@h1.test");
}

#[test]
fn a_link_that_came_before_the_name_was_known_stays_when_its_peer_is_bound_to_that_name() {
    if !require() {
        return;
    }
    let ports = "[dist]\nports = \"9100-9110\"\n";
    let config = |peer: &str| format!("{}{ports}{peer}", embedded(&["192.0.2.3"]));
    let mapped = Mapped::new(HOSTS, &config(ALL));
    let node = listen(&mapped.host, 9100);
    mapped.guard.wait_open(9100);
    let h2 = mapped.lab.host("h2");
    let link = h2.connect(mapped.at(9100)).unwrap();
    let mut carried = handshake::link(&link, &node, &says(&h2), "web@h1.test");
    let socket = admin_socket(&mapped.lab, &mapped.host);
    eventually("the link is up", SOON, || links(&socket).len() == 1);
    // The listener learns the name before the registration is answered.
    let _web = mapped.register("web", 9100);
    let reload = |peer: &str| {
        drop(configure(&mapped.lab, &mapped.host, &config(peer)));
        told(&mapped.lab, &mapped.host, &["reload"])
    };
    let said = reload(WEB_ALONE);
    assert_eq!(said.code, 0, "{said:?}");
    send(&link, b"on").unwrap();
    let mut said = [0; 2];
    carried.read_exact(&mut said).unwrap();
    assert_eq!((&said, links(&socket).len()), (b"on", 1));
    // Bound to another name it would be cut, which wants a yes.
    let said = reload(&WEB_ALONE.replace("\"web\"", "\"db\""));
    assert!(said.code == 1 && said.err.contains("would cut 1 of 1 links"), "{said:?}");
}

#[test]
fn a_port_that_passes_from_one_node_to_another_is_reached_by_who_may_reach_the_other() {
    if !require() {
        return;
    }
    let mapped = Mapped::new(HOSTS, &format!("{}{WEB_ALONE}", embedded(&["192.0.2.3"])));
    let h2 = mapped.lab.host("h2");
    let mut node = listen(&mapped.host, 9100);
    for name in ["web", "db", "web", "db"] {
        let registered = mapped.register(name, 9100);
        if name == "web" {
            let link = h2.connect(mapped.at(9100)).unwrap();
            drop(handshake::link(&link, &node, &says(&h2), "web@h1.test"));
        } else {
            is_shut(&h2, mapped.at(9100));
        }
        drop((registered, node));
        mapped.guard.wait_closed(9100);
        node = listen(&mapped.host, 9100);
    }
}

#[test]
fn a_reload_that_takes_a_node_away_wants_a_yes_and_cuts_just_the_links_to_it() {
    if !require() {
        return;
    }
    let allow = &["192.0.2.3"];
    let mapped = Mapped::new(HOSTS, &format!("{}{ALL}", embedded(allow)));
    let web = alone("web", &mapped.host).port(9100).start();
    let db = alone("db", &mapped.host).port(9101).start();
    let [h2, h3] = ["h2", "h3"].map(|name| alone("n", &mapped.lab.host(name)).start());
    for peer in [&h2, &h3] {
        assert!(peer.ping(&web) && peer.ping(&db));
    }
    let socket = admin_socket(&mapped.lab, &mapped.host);
    let before = links(&socket);
    assert_eq!(before.len(), 4, "{before:?}");
    drop(configure(&mapped.lab, &mapped.host, &format!("{}{WEB_ALONE}", embedded(allow))));
    let said = told(&mapped.lab, &mapped.host, &["reload"]);
    assert_eq!(said.code, 1, "{said:?}");
    let words = format!("{}{}", said.out, said.err);
    assert!(words.contains("it would cut 1 of 4 links") && words.contains("reload --yes"), "{said:?}");
    assert_eq!(links(&socket), before);

    let said = told(&mapped.lab, &mapped.host, &["reload", "--yes"]);
    assert_eq!(said.code, 0, "{said:?}");
    mapped.guard.wait_event(
        "closed",
        &[("role", "dist"), ("reason", "revoked"), ("detail", "not_reachable"), ("peer", "192.0.2.2:*")],
    );
    eventually("h2 sees the link go", SOON, || h2.eval("nodes().") == "['web@h1.test']");
    let after = links(&socket);
    assert_eq!(after.len(), 3);
    assert!(after.iter().all(|link| before.get(link.0) == Some(link.1)), "{before:?} {after:?}");
    assert_eq!(web.eval("length(nodes())."), "2");
    assert_eq!(db.eval("nodes()."), "['n@h3.test']");
    assert!(!h2.ping(&db) && h2.ping(&web) && h3.ping(&db));
    // What is given back may be used again.
    drop(configure(&mapped.lab, &mapped.host, &format!("{}{ALL}", embedded(allow))));
    assert_eq!(told(&mapped.lab, &mapped.host, &["reload"]).code, 0);
    assert!(h2.ping(&db));
}

#[test]
fn an_empty_list_leaves_a_peer_nothing_and_self_everything() {
    if !require() {
        return;
    }
    let nothing = WEB_ALONE.replace("[\"web\"]", "[]");
    let mapped = Mapped::new(HOSTS, &format!("{}{nothing}", embedded(&[])));
    let _behind = listen(&mapped.host, 9100);
    let _web = mapped.register("web", 9100);
    assert_eq!(mapped.ask_from("h2", b"n"), b"\0\0\x11\x11");
    assert_eq!(mapped.ask_from("h2", b"zweb"), b"w\x01");
    assert!(ask(&mapped.host.connect(mapped.at(4369)).unwrap(), b"zweb").starts_with(b"w\0"));
    assert!(ask(&mapped.host.connect(LOOPBACK).unwrap(), b"zweb").starts_with(b"w\0"));
}

#[test]
fn a_port_of_two_names_is_there_only_for_who_may_reach_both() {
    if !require() {
        return;
    }
    let mapped = Mapped::new(HOSTS, &format!("{}{WEB_ALONE}", embedded(&["192.0.2.3"])));
    let node = listen(&mapped.host, 9100);
    let arrives = |host: &str| {
        let host = mapped.lab.host(host);
        let link = host.connect(mapped.at(9100)).unwrap();
        drop(handshake::link(&link, &node, &says(&host), "web@h1.test"));
    };
    // Whichever of them is shown first.
    for (first, second) in [("web", "db"), ("db", "web")] {
        let first = mapped.register(first, 9100);
        let second = mapped.register(second, 9100);
        is_shut(&mapped.lab.host("h2"), mapped.at(9100));
        arrives("h3");
        drop((first, second));
        eventually("the names go", SOON, || mapped.names().is_empty());
        mapped.guard.wait_closed(9100);
    }
    let _web = mapped.register("web", 9100);
    arrives("h2");
}
