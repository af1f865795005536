//! A real ejabberd cluster behind a guard on each host.

use std::time::Duration;

use crate::common::require;
use crate::support::ejabberd::Ejabberd;
use crate::support::eventually::eventually;
use crate::support::guard::{Guard, field, front};
use crate::support::lab::Lab;

/// An ejabberd of Debian joins in about 5 s on an idle machine.
const JOINED: Duration = Duration::from_secs(120);

/// Waits until the node lists all of these and no other.
#[track_caller]
pub(crate) fn lists(node: &Ejabberd, expected: &[String]) {
    eventually(&format!("{} lists {expected:?}", node.node_name()), JOINED, || {
        let (status, output) = node.ctl(&["list_cluster"]);
        let mut found: Vec<_> = output.lines().map(|line| line.trim_matches('\'').to_owned()).collect();
        found.sort();
        if status.success() && found == expected { Ok(()) } else { Err(format!("{status}: {output}")) }
    });
}

/// Makes a cluster of these, sees that all of them list all and that an account made on the first is known on the last,
/// which goes over their links, and tells their names in order.
#[track_caller]
pub(crate) fn join(nodes: &[Ejabberd]) -> Vec<String> {
    let (first, others) = nodes.split_first().unwrap();
    for node in others {
        let (status, output) = node.ctl(&["join_cluster", &first.node_name()]);
        assert!(status.success(), "{output}");
    }
    let mut names: Vec<_> = nodes.iter().map(Ejabberd::node_name).collect();
    names.sort();
    for node in nodes {
        lists(node, &names);
    }
    let (status, output) = first.ctl(&["register", "alice", "localhost", "secret"]);
    assert!(status.success(), "{output}");
    let (status, output) = nodes.last().unwrap().ctl(&["check_account", "alice", "localhost"]);
    assert!(status.success(), "{output}");
    names
}

#[test]
fn three_ejabberd_nodes_join_work_stop_and_come_back_through_their_guards() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1", "h2", "h3"]);
    let hosts = ["h1", "h2", "h3"].map(|name| lab.host(name));
    let allow = ["h1.test", "192.0.2.2", "192.0.2.3/32"];
    let guards = hosts.each_ref().map(|host| Guard::start(&lab, host, &front(&allow)));
    // Each starts its own epmd, on loopback, with the guard already in front.
    let nodes = std::thread::scope(|scope| {
        hosts
            .each_ref()
            .map(|host| scope.spawn(|| Ejabberd::configure(host).start()))
            .map(|thread| thread.join().unwrap())
    });
    for (node, guard) in nodes.iter().zip(&guards) {
        guard.wait_open(9100);
        let (status, output) = node.ctl(&["status"]);
        assert!(status.success() && output.contains("is running"), "{output}");
    }
    let names = join(&nodes);

    // An operator stops one: its last step is `epmd -kill`, which ends the real epmd and not the guard.
    let epmd: std::net::SocketAddr = "127.0.0.1:4369".parse().unwrap();
    assert!(hosts[2].listeners().contains(&epmd));
    nodes[2].stop();
    assert!(!hosts[2].listeners().contains(&epmd), "`epmd -kill` did not end epmd");
    guards[2].wait_closed(9100);
    lists(&nodes[0], &names[..2]);
    assert_eq!(guards[2].daemon().exit_status(), None, "the guard went with epmd");
    nodes[2].start();
    guards[2].wait_open(9100);
    for node in &nodes {
        lists(node, &names);
    }
    for guard in &guards {
        let denied: Vec<_> = guard.events("refused").iter().map(|event| field(event, "reason")).collect();
        assert_eq!(denied, Vec::<String>::new(), "something of the cluster's was refused");
    }
}

#[test]
fn an_ejabberd_cluster_joins_through_a_single_port_without_epmd() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1", "h2"]);
    let hosts = ["h1", "h2"].map(|name| lab.host(name));
    let guards = hosts.each_ref().map(|host| Guard::launch(&lab, host, super::single_port::CONFIG));
    let nodes = std::thread::scope(|scope| {
        hosts
            .each_ref()
            .map(|host| scope.spawn(|| Ejabberd::configure(host).single_port(5210).start()))
            .map(|thread| thread.join().unwrap())
    });
    for guard in &guards {
        guard.wait_open(5210);
    }
    join(&nodes);
    assert!(hosts.iter().all(|host| host.listeners().iter().all(|addr| addr.port() != 4369)));
}
