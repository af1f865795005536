//! The aliases of peers: what a node of this host finds there, how it is led there, and what must not lead there.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener};

use crate::common::require;
use crate::support::erlang::Node;
use crate::support::guard::{admin_get, field};
use crate::support::tunnel::{Family, TunnelHost, alias};
use crate::support::wire::ask;
use crate::tunnel_refusals::lenient;

/// What stands for the second host on the first one.
fn second() -> IpAddr {
    alias(2, Family::Inet)
}

/// The port that the epmd of an alias says that a name of the second host has.
#[track_caller]
fn port_of(h1: &TunnelHost, name: &str) -> u16 {
    let stream = h1.host.connect(SocketAddr::new(second(), 4369)).unwrap();
    let answer = ask(&stream, format!("z{name}").as_bytes());
    // PORT2_RESP: 119, no error, the port.
    let [119, 0, high, low, ..] = answer[..] else { panic!("{name}: {answer:?}") };
    u16::from_be_bytes([high, low])
}

fn at_alias(h1: &TunnelHost) -> Vec<u16> {
    h1.host.listeners().iter().filter(|addr| addr.ip() == second()).map(SocketAddr::port).collect()
}

#[test]
fn the_port_of_a_peers_node_is_open_at_its_alias_before_the_answer_that_names_it() {
    if !require() {
        return;
    }
    let scene = lenient(&["h1", "h2"]).start();
    let [h1, h2] = &scene.hosts[..] else { panic!("two hosts") };
    let nodes = ["a", "b", "c"].map(|name| h2.node(name).start());
    for (name, node) in ["a", "b", "c"].iter().zip(&nodes) {
        assert!(!at_alias(h1).contains(&node.port()));
        let mark = h1.guard.mark();
        assert_eq!(port_of(h1, name), node.port());
        h1.host.connect(SocketAddr::new(second(), node.port())).unwrap();
        let listener = format!("{}:{}", second(), node.port());
        h1.guard.wait_event_after(mark, "port_opened", &[("listener", &listener), ("toward", "h2")]);
    }
    assert_eq!(
        ask(&h1.host.connect(SocketAddr::new(second(), 4369)).unwrap(), b"znobody"),
        b"w\x01",
        "who is not there is told as epmd does"
    );
}

#[test]
fn an_alias_answers_at_another_port_where_a_node_of_this_host_has_the_number_on_every_address() {
    if !require() {
        return;
    }
    let scene = lenient(&["h1", "h2"]).mode("optional").start();
    let [h1, h2] = &scene.hosts[..] else { panic!("two hosts") };
    let everywhere = h1.node("everywhere").port(9100).anywhere().start();
    let b = h2.node("b").port(9100).start();
    let other = port_of(h1, "b");
    assert_ne!(other, 9100);
    let listener = format!("{}:{other}", second());
    let opened = h1.guard.wait_event("port_opened", &[("listener", &listener), ("toward", "h2")]);
    assert_eq!(field(&opened, "inside"), "9100");
    for node in [&everywhere, &h1.node("a").start()] {
        assert!(node.ping(&b), "{} does not reach b", node.full_name());
    }
    // The other way the number is free.
    assert!(b.ping(&everywhere));
}

#[test]
fn a_single_port_that_a_node_has_on_every_address_is_an_error_that_names_the_cure() {
    if !require() {
        return;
    }
    let mut scene = lenient(&["h1", "h2"]).sections("[epmd]\nlisten = []\n[dist]\nports = 5210\n").start();
    scene.hosts[0].guard.stop();
    let everywhere = scene.hosts[0].node("everywhere").single_port(5210).anywhere().start();
    scene.start_again(0);
    let listener = format!("{}:5210", second());
    let [h1, h2] = &scene.hosts[..] else { panic!("two hosts") };
    let taken = h1.guard.wait_event("port_taken", &[("listener", &listener), ("toward", "h2")]);
    let help = field(&taken, "help");
    assert!(help.contains("inet_dist_use_interface") && help.contains("h2"), "{help}");
    // What it says helps.
    everywhere.kill();
    let a = h1.node("a").single_port(5210).start();
    let b = h2.node("b").single_port(5210).start();
    h1.guard.wait_event("port_opened", &[("listener", &listener)]);
    assert!(a.ping(&b));
}

/// An IPv6 address that nobody has given to the host.
#[test]
fn an_alias_that_this_host_does_not_have_is_told_with_the_line_that_adds_it_and_served_when_it_is_there() {
    if !require() {
        return;
    }
    let scene = lenient(&["h1", "h2"]).start();
    let [h1, h2] = &scene.hosts[..] else { panic!("two hosts") };
    let said = scene.reload(h1, |text| text.replace("\"127.0.0.12\"", "[\"127.0.0.12\", \"fd00::99\"]"));
    assert_eq!(said.code, 0, "{said:?}");
    let told = h1.guard.wait_event("port_not_opened", &[("listener", "[fd00::99]:4369"), ("toward", "h2")]);
    let help = field(&told, "help");
    assert!(help.contains("`ip addr add fd00::99/128 dev lo`"), "{help}");
    assert!(!help.contains("  "), "{help}");
    h1.host.add_loopback("fd00::99/128");
    h1.guard.wait_event("port_opened", &[("listener", "[fd00::99]:4369"), ("toward", "h2")]);
    let b = h2.node("b").start();
    let stream = h1.host.connect("[fd00::99]:4369".parse().unwrap()).unwrap();
    assert_eq!(ask(&stream, b"zb")[2..4], b.port().to_be_bytes());
    h1.host.connect(SocketAddr::new("fd00::99".parse().unwrap(), b.port())).unwrap();
}

/// The second way: all of the host is led to the alias, not the VM alone.
#[test]
fn a_line_in_the_hosts_file_leads_nodes_to_an_alias_too() {
    if !require() {
        return;
    }
    let scene = lenient(&["h1", "h2"]).start();
    let [h1, h2] = &scene.hosts[..] else { panic!("two hosts") };
    for (at, other, alias) in [(h1, h2, second()), (h2, h1, alias(1, Family::Inet))] {
        let name = other.host.name();
        at.host.replace_hosts(|line| (!line.contains(&name)).then(|| line.to_owned()));
        at.host.write_hosts(&[(alias, &name)]);
    }
    let (a, b) = (Node::named("a", &h1.host).start(), Node::named("b", &h2.host).start());
    assert!(a.ping(&b));
    for at in [h1, h2] {
        let links: serde_json::Value =
            serde_json::from_str(&admin_get(&scene.lab, &at.host, "/links")).unwrap();
        let link = field(&links["links"][0], "link");
        assert_eq!(link.len(), 32, "it is no tunnel: {links}");
    }
}

#[test]
fn a_name_of_the_configuration_that_leads_to_an_alias_is_an_error_and_lets_nobody_in() {
    if !require() {
        return;
    }
    let scene = lenient(&["h1", "h2"]).start();
    let [h1, h2] = &scene.hosts[..] else { panic!("two hosts") };
    h1.host.write_hosts(&[(second(), "allowed.test"), (second(), "connected.test")]);
    let said = scene.reload(h1, |text| {
        let text = text.replace("connect = \"192.0.2.2:4371\"", "connect = \"connected.test:4371\"");
        format!("[cluster]\nallow = [\"allowed.test\"]\n{text}")
    });
    assert_eq!(said.code, 0, "{said:?}");
    for name in ["allowed.test", "connected.test"] {
        let told = h1.guard.wait_event("resolves_to_alias", &[("name", name), ("peer", "h2")]);
        assert_eq!(
            (field(&told, "level"), field(&told, "address")),
            ("ERROR".to_owned(), second().to_string())
        );
        assert!(field(&told, "help").contains("ERL_INETRC"), "{told}");
    }
    // Neither a way to itself nor any other.
    let (a, b) = (h1.node("a").start(), h2.node("b").start());
    assert!(!a.ping(&b));
    let closed = h1.guard.wait_event("closed", &[("reason", "no_way")]);
    assert!(field(&closed, "detail").contains("connected.test leads to no address"), "{closed}");
}

/// Says back what it hears, with its own mark before it, to one after another.
fn echo(listener: TcpListener, mark: u8) {
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut heard = [0; 5];
            if stream.read_exact(&mut heard).is_ok() {
                drop(stream.write_all(&[&[mark][..], &heard].concat()));
            }
        }
    });
}

#[test]
fn the_ports_of_forwards_answer_at_an_alias_too() {
    if !require() {
        return;
    }
    let sections = "[epmd]\nbackend = \"127.0.0.1:4369\"\n[[forward]]\nkind = \"tcp\"\nports = 7777\n";
    let scene = lenient(&["h1", "h2"]).sections(sections).start();
    for (at, mark) in scene.hosts.iter().zip([b'1', b'2']) {
        echo(at.host.listen("127.0.0.1:7777".parse().unwrap()).unwrap(), mark);
        at.guard.wait_open(7777);
    }
    let heard: Vec<_> = [(&scene.hosts[0], second()), (&scene.hosts[1], alias(1, Family::Inet))]
        .into_iter()
        .map(|(at, alias)| {
            let mut stream = at.host.connect(SocketAddr::new(alias, 7777)).unwrap();
            stream.write_all(b"hello").unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            answer
        })
        .collect();
    assert_eq!(heard, ["2hello", "1hello"]);
    for at in &scene.hosts {
        at.guard.wait_event("link_opened", &[("role", "tcp"), ("peer", "127.0.0.*")]);
    }
}

#[test]
fn the_names_of_a_peer_are_told_at_its_alias_as_its_epmd_tells_them() {
    if !require() {
        return;
    }
    let scene = lenient(&["h1", "h2"]).start();
    let [h1, h2] = &scene.hosts[..] else { panic!("two hosts") };
    let nodes = ["b", "c"].map(|name| (name, h2.node(name).start()));
    let answer = ask(&h1.host.connect(SocketAddr::new(second(), 4369)).unwrap(), b"n");
    let (port, told) = answer.split_at(4);
    assert_eq!(port, 4369_u32.to_be_bytes());
    let mut lines: Vec<_> = std::str::from_utf8(told).unwrap().lines().map(str::to_owned).collect();
    lines.sort();
    let expected = nodes.each_ref().map(|(name, node)| format!("name {name} at port {}", node.port()));
    assert_eq!(lines, expected);
    // What a node asks before it chooses whom to dial.
    let a = h1.node("a").start();
    let found = a.eval("{ok, Names} = net_adm:names('h2.test'), lists:sort([Name || {Name, _} <- Names]).");
    assert_eq!(found, "[\"b\",\"c\"]");
}

/// Nobody but this host reaches an alias, and nothing that commands an epmd is taken there.
#[test]
fn what_commands_an_epmd_is_refused_at_an_alias() {
    if !require() {
        return;
    }
    let scene = lenient(&["h1", "h2"]).start();
    let h1 = &scene.hosts[0];
    // KILL_REQ and DUMP_REQ.
    for request in [b"k", b"d"] {
        let stream = h1.host.connect(SocketAddr::new(second(), 4369)).unwrap();
        assert_eq!(ask(&stream, request), b"", "{request:?}");
    }
    h1.guard.wait_event("closed", &[("reason", "not_at_alias")]);
}
