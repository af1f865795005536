//! The single-port shape: no epmd, one fixed distribution port.

use std::net::SocketAddr;

use crate::common::require;
use crate::support::erlang::Node;
use crate::support::guard::Guard;
use crate::support::lab::Lab;

pub(crate) const CONFIG: &str = "[cluster]\nallow = [\"192.0.2.0/24\", \"2001:db8::/64\"]\n[epmd]\nlisten = []\n\
     [dist]\nports = 5210\n[log]\nformat = \"json\"\nlevel = \"debug\"\n";

#[test]
fn two_nodes_link_through_one_port_without_any_epmd() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1", "h2"]);
    let hosts = ["h1", "h2"].map(|name| lab.host(name));
    let guards = hosts.each_ref().map(|host| Guard::launch(&lab, host, CONFIG));
    let nodes = hosts.each_ref().map(|host| Node::named("n", host).single_port(5210).start());
    for guard in &guards {
        guard.wait_open(5210);
    }
    assert!(nodes[0].ping(&nodes[1]));
    assert_eq!(nodes[1].eval("nodes()."), "['n@h1.test']");
    for host in &hosts {
        let open = host.listeners();
        assert!(!open.iter().any(|addr| addr.port() == 4369), "somebody serves epmd: {open:?}");
        assert!(open.contains(&SocketAddr::new(host.v4().into(), 5210)));
    }
}
