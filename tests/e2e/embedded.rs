//! The embedded shape on real nodes: the guard is the host's epmd, and there is no other.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use crate::cluster::{join, lists};
use crate::common::{EVERYBODY, require};
use crate::registration::{LOOPBACK, Mapped};
use crate::support::daemon::Signal;
use crate::support::ejabberd::Ejabberd;
use crate::support::erlang::Node;
use crate::support::eventually::eventually;
use crate::support::guard::{Guard, SOON, embedded, field};
use crate::support::host::Host;
use crate::support::lab::Lab;
use crate::support::said::Said;
use crate::support::wire::ask;

/// A node that has lost its registration tries again after 2.0 s, then every 2.0 s.
const FIRST_RETRY: std::ops::Range<Duration> = Duration::from_millis(1900)..Duration::from_millis(3900);

/// The programs that run on the host.
fn programs(host: &Host) -> Vec<String> {
    let mut ip = std::process::Command::new("ip");
    ip.args(["netns", "pids", host.netns()]);
    let said = Said::by(ip);
    assert_eq!(said.code, 0, "{said:?}");
    let name = |pid: &str| std::fs::read_to_string(format!("/proc/{pid}/comm")).ok();
    said.out.lines().filter_map(name).map(|name| name.trim().to_owned()).collect()
}

/// Nobody but the guard serves epmd's port, and no epmd runs.
#[track_caller]
fn is_epmd_alone(guard: &Guard, host: &Host) {
    let mut ss = host.command("ss");
    ss.args(["-Htlnp", "sport", "=", ":4369"]);
    let said = Said::by(ss);
    let ours = format!("pid={},", guard.daemon().pid());
    assert!(said.out.lines().count() >= 4, "{said:?}");
    assert!(said.out.lines().all(|line| line.contains(&ours)), "not all are {ours} {said:?}");
    // One that `erl` starts beside it ends at once.
    eventually("no epmd runs", SOON, || {
        let programs = programs(host);
        if programs.iter().any(|name| name == "epmd") { Err(format!("{programs:?}")) } else { Ok(()) }
    });
}

fn epmd(host: &Host, arguments: &[&str]) -> Said {
    let mut epmd = host.command_as("nobody", "epmd");
    epmd.args(arguments);
    Said::by(epmd)
}

#[test]
fn three_ejabberd_nodes_join_work_stop_and_come_back_without_any_epmd() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1", "h2", "h3"]);
    let hosts = ["h1", "h2", "h3"].map(|name| lab.host(name));
    let allow = ["h1.test", "192.0.2.2", "192.0.2.3/32"];
    let guards = hosts.each_ref().map(|host| Guard::start(&lab, host, &embedded(&allow)));
    // One of them on any port.
    let nodes = std::thread::scope(|scope| {
        let builders = [
            Ejabberd::configure(&hosts[0]),
            Ejabberd::configure(&hosts[1]),
            Ejabberd::configure(&hosts[2]).random_ports(),
        ];
        builders.map(|builder| scope.spawn(|| builder.start())).map(|thread| thread.join().unwrap())
    });
    for node in &nodes {
        let (status, output) = node.ctl(&["status"]);
        assert!(status.success() && output.contains("is running"), "{output}");
    }
    let names = join(&nodes);
    for (guard, host) in guards.iter().zip(&hosts) {
        is_epmd_alone(guard, host);
        let said = epmd(host, &["-names"]);
        assert_eq!(said.code, 0, "{said:?}");
        assert!(
            said.out.starts_with("epmd: up and running on port 4369 with data:\nname ejabberd at port "),
            "{said:?}"
        );
    }

    // An operator stops one: its last step is `epmd -kill`, since no name is left.
    let log = guards[1].mark();
    nodes[1].stop();
    guards[1].wait_event_after(log, "closed", &[("asked", "KILL_REQ"), ("reason", "answered")]);
    guards[1].wait_closed(9100);
    lists(&nodes[0], &[names[0].clone(), names[2].clone()]);
    assert_eq!(guards[1].daemon().exit_status(), None, "the guard obeyed `epmd -kill`");
    is_epmd_alone(&guards[1], &hosts[1]);
    nodes[1].start();
    guards[1].wait_open(9100);
    for node in &nodes {
        lists(node, &names);
    }
    for (guard, host) in guards.iter().zip(&hosts) {
        is_epmd_alone(guard, host);
        is_quiet(guard);
    }
}

/// Nobody was refused, nothing was in the way, and no port was opened for a command-line tool.
#[track_caller]
fn is_quiet(guard: &Guard) {
    for event in ["refused", "port_taken", "node_exposed", "port_not_reachable", "port_not_own"] {
        assert!(guard.events(event).is_empty(), "{:?}", guard.events(event));
    }
    let mut helpers = guard.events("port_opened");
    helpers.retain(|event| field(event, "node").contains('-'));
    assert!(helpers.is_empty(), "{helpers:?}");
}

#[test]
fn the_epmd_program_lists_stops_and_kills_as_at_an_epmd_and_the_guard_goes_on() {
    if !require() {
        return;
    }
    let mapped = Mapped::new(&["h1"], &format!("{}[epmd]\nrelaxed_command_check = true\n", embedded(&[])));
    let names = |lines: &str| {
        let said = epmd(&mapped.host, &["-names"]);
        assert_eq!(
            (said.code, said.out),
            (0, format!("epmd: up and running on port 4369 with data:\n{lines}"))
        );
    };
    names("");
    let node = Node::named("a", &mapped.host).port(9100).start();
    names("name a at port 9100\n");
    let killed = epmd(&mapped.host, &["-kill"]);
    assert_eq!(killed.code, 1, "{killed:?}");
    let stopped = epmd(&mapped.host, &["-stop", "a"]);
    assert_eq!(stopped.out.trim(), "STOPPED", "{stopped:?}");
    eventually("the node registers again", SOON, || mapped.names() == "name a at port 9100\n");
    node.stop();
    eventually("the name goes", SOON, || mapped.names().is_empty());
    let killed = epmd(&mapped.host, &["-kill"]);
    assert_eq!((killed.code, killed.out.trim()), (0, "Killed"), "{:?}", killed.err);
    names("");
    assert_eq!(mapped.guard.daemon().exit_status(), None);
}

#[test]
fn an_erl_that_would_start_an_epmd_finds_the_guard_and_goes_on() {
    if !require() {
        return;
    }
    let mapped = Mapped::new(&["h1"], &embedded(&[]));
    // By itself a node starts one that listens everywhere.
    let everywhere = |name| Node::named(name, &mapped.host).env("ERL_EPMD_ADDRESS", "").start();
    let (a, b) = (everywhere("a"), everywhere("b"));
    assert!(a.ping(&b));
    is_epmd_alone(&mapped.guard, &mapped.host);
    let said = epmd(&mapped.host, &["-daemon"]);
    assert_eq!((said.code, said.out.as_str()), (0, ""), "{said:?}");
    is_epmd_alone(&mapped.guard, &mapped.host);
    assert_eq!(mapped.names().lines().count(), 2);
}

#[test]
fn nodes_on_two_hosts_link_over_ipv4_and_ipv6_and_each_port_goes_with_its_node() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1", "h2"]);
    let hosts = ["h1", "h2"].map(|name| lab.host(name));
    let guards = hosts.each_ref().map(|host| Guard::start(&lab, host, &embedded(EVERYBODY)));
    let [v4, v6] = [false, true].map(|inet6| {
        hosts.each_ref().map(|host| {
            let node = Node::named(if inet6 { "six" } else { "four" }, host);
            if inet6 { node.inet6().start() } else { node.start() }
        })
    });
    assert!(v4[0].ping(&v4[1]) && v6[0].ping(&v6[1]));
    for (node, peer) in [("four", "192.0.2.1:*"), ("six", "[2001:db8::1]:*")] {
        guards[1].wait_event("link_opened", &[("node", node), ("peer", peer)]);
    }
    for [node, _] in [&v4, &v6] {
        let port = node.port();
        node.kill();
        guards[0].wait_closed(port);
    }
    is_epmd_alone(&guards[0], &hosts[0]);
}

#[test]
fn a_node_that_is_looked_up_while_it_starts_is_never_refused() {
    if !require() {
        return;
    }
    let mapped = Mapped::new(&["h1", "h2"], &embedded(&["192.0.2.2"]));
    let (host, peer, at) = (&mapped.host, &mapped.lab.host("h2"), |port| mapped.at(port));
    let at = &at;
    let found = |name: &str| match *ask(&peer.connect(at(4369)).unwrap(), format!("z{name}").as_bytes()) {
        [b'w', 0, high, low, ..] => Some(u16::from_be_bytes([high, low])),
        _ => None,
    };
    for round in 0..5 {
        let nodes = std::thread::scope(|scope| {
            let starting = ["a", "b", "c"].map(|name| {
                let asking = scope.spawn(move || {
                    let port = eventually(&format!("{name} is found"), SOON, || found(name));
                    let dialled = peer.connect(at(port));
                    assert!(dialled.is_ok(), "round {round}, {name} at {port}: {dialled:?}");
                    port
                });
                (scope.spawn(move || Node::named(name, host).start()), asking)
            });
            starting.map(|(node, asking)| (node.join().unwrap(), asking.join().unwrap()))
        });
        for (node, port) in &nodes {
            assert_eq!(node.port(), *port);
            node.kill();
        }
        for (_, port) in nodes {
            mapped.guard.wait_closed(port);
        }
    }
    assert!(mapped.guard.events("port_not_reachable").is_empty());
}

#[test]
fn a_peer_that_pings_a_node_as_soon_as_it_is_found_is_answered() {
    if !require() {
        return;
    }
    let mapped = Mapped::new(&["h1", "h2"], &embedded(&["192.0.2.2"]));
    // Alone: `global` may connect two nodes again at once.
    let alone = |name: &str, host: &Host| Node::named(name, host).arg("-connect_all").arg("false");
    let _other = Guard::start(&mapped.lab, &mapped.lab.host("h2"), &embedded(&[]));
    let peer = alone("p", &mapped.lab.host("h2")).start();
    // As fast as it can: a name that is found is a node that answers.
    let ask = "Find = fun Find() -> case erl_epmd:port_please(\"a\", {192,0,2,1}) of {port, _, _} -> \
               net_adm:ping('a@h1.test'); _ -> Find() end end, Find().";
    for round in 0..5 {
        let (node, answer) = std::thread::scope(|scope| {
            let asking = scope.spawn(|| peer.eval(ask));
            (alone("a", &mapped.host).start(), asking.join().unwrap())
        });
        assert_eq!(answer, "pong", "round {round}");
        node.kill();
        eventually("the name goes", SOON, || mapped.names().is_empty());
        eventually("the link goes", SOON, || peer.eval("nodes().") == "[]");
    }
}

/// Its port is what it was before: open to everybody, and told by name and number.
#[test]
fn a_node_on_every_address_is_found_at_once_and_told_by_name_and_port() {
    if !require() {
        return;
    }
    let mapped = Mapped::new(&["h1", "h2"], &embedded(&["192.0.2.2"]));
    let node = Node::named("a", &mapped.host).port(9100).anywhere().start();
    mapped.guard.wait_event("node_exposed", &[("node", "a"), ("port", "9100")]);
    let begun = Instant::now();
    for _ in 0..20 {
        assert!(mapped.ask_from("h2", b"za").starts_with(b"w\0\x23\x8c"));
    }
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    let peer = Node::named("p", &mapped.lab.host("h2")).start();
    assert!(peer.ping(&node));
    assert!(!mapped.guard.events("port_taken").iter().any(|event| event["role"] == "dist"));
}

/// A guard that ends and one that takes its place.
fn is_followed_at_the_first_retry(end: impl FnOnce(&Guard)) {
    let Mapped { guard, host, lab } = Mapped::new(&["h1", "h2"], &embedded(&["192.0.2.2"]));
    let nodes = [("a", 9100), ("b", 9101)].map(|(name, port)| Node::named(name, &host).port(port).start());
    let _other = Guard::start(&lab, &lab.host("h2"), &embedded(&[]));
    let peer = Node::named("p", &lab.host("h2")).start();
    assert!(peer.ping(&nodes[0]));
    let begun = Instant::now();
    end(&guard);
    let mapped = Mapped { guard: Guard::start(&lab, &host, &embedded(&["192.0.2.2"])), host, lab };
    eventually("both names are back", SOON, || {
        let names = mapped.names();
        if names.lines().count() == 2 { Ok(()) } else { Err(names) }
    });
    let took = begun.elapsed();
    assert!(FIRST_RETRY.contains(&took), "the names were back after {took:?}");
    for (node, port) in nodes.iter().zip([9100, 9101]) {
        mapped.guard.wait_open(port);
        assert!(peer.ping(node), "{}", node.full_name());
    }
    is_epmd_alone(&mapped.guard, &mapped.host);
}

#[test]
fn names_come_back_by_themselves_at_the_first_retry_after_a_restart_of_the_guard() {
    if !require() {
        return;
    }
    is_followed_at_the_first_retry(Guard::stop);
}

#[test]
fn names_come_back_by_themselves_at_the_first_retry_after_the_guard_was_killed() {
    if !require() {
        return;
    }
    is_followed_at_the_first_retry(|guard| {
        guard.daemon().signal(Signal::KILL);
        guard.daemon().wait_exit(SOON);
    });
}

#[test]
fn epmd_is_served_on_loopback_and_where_the_host_is_reached() {
    if !require() {
        return;
    }
    let mapped = Mapped::new(&["h1"], &embedded(&[]));
    let (v4, v6): (IpAddr, IpAddr) = (mapped.host.v4().into(), mapped.host.v6().into());
    for ip in [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into(), v4, v6] {
        let at = SocketAddr::new(ip, LOOPBACK.port());
        assert_eq!(ask(&mapped.host.connect(at).unwrap(), b"n"), b"\0\0\x11\x11", "{at}");
    }
    let everywhere = |at: &SocketAddr| at.ip().is_unspecified();
    assert!(!mapped.host.listeners().iter().any(everywhere), "{:?}", mapped.host.listeners());
}
