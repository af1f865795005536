//! Links between nodes in mutual TLS between their guards.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;

use crate::common::{EVERYBODY, require};
use crate::support::capture::{Capture, Captured, found};
use crate::support::ejabberd::{Ejabberd, EjabberdBuilder};
use crate::support::erlang::Node;
use crate::support::eventually::eventually;
use crate::support::guard::{Guard, SOON, admin_get, field, front};
use crate::support::lab::Lab;
use crate::support::said::{command, told};
use crate::support::sequence;
use crate::support::tunnel::{Scene, SceneBuilder, TunnelHost};

/// What both guards call the links that are up on this host.
pub(crate) fn links_on(scene: &Scene, at: &TunnelHost) -> BTreeSet<String> {
    let body = admin_get(&scene.lab, &at.host, "/links");
    let document: Value = serde_json::from_str(&body).unwrap();
    let links = document["links"].as_array().unwrap();
    links.iter().map(|link| field(link, "link")).collect()
}

/// Each dials the other one, the first time a, the second time b; both times it is one link, which both guards know by the
/// same name.
#[track_caller]
fn nodes_link_both_ways(shape: SceneBuilder) {
    let scene = shape.start();
    let [h1, h2] = &scene.hosts[..] else { panic!("two hosts") };
    let nodes = [h1.node("a").start(), h2.node("b").start()];
    for [from, to] in [[&nodes[0], &nodes[1]], [&nodes[1], &nodes[0]]] {
        links_once(&scene, from, to);
    }
    for at in &scene.hosts {
        let denied: Vec<_> = at.guard.events("refused").iter().map(|event| field(event, "reason")).collect();
        assert_eq!(denied, Vec::<String>::new(), "something of the cluster's was refused");
    }
}

#[track_caller]
fn links_once(scene: &Scene, from: &Node, to: &Node) {
    let [h1, h2] = &scene.hosts[..] else { panic!("two hosts") };
    assert!(from.ping(to), "{} does not reach {}", from.full_name(), to.full_name());
    assert_eq!(to.eval("nodes()."), format!("['{}']", from.full_name()));
    let asked = from.eval(&format!("rpc:call('{}', erlang, node, []).", to.full_name()));
    assert_eq!(asked, format!("'{}'", to.full_name()));
    let names = eventually("both guards have the link", SOON, || {
        let (one, two) = (links_on(scene, h1), links_on(scene, h2));
        if one == two && one.len() == 1 { Ok(one) } else { Err(format!("{one:?} and {two:?}")) }
    });
    assert_eq!(names.first().unwrap().len(), 32, "{names:?}");
    assert_eq!(from.eval(&format!("disconnect_node('{}').", to.full_name())), "true");
    eventually("no link is left", Duration::from_secs(30), || {
        let (one, two) = (links_on(scene, h1), links_on(scene, h2));
        if one.is_empty() && two.is_empty() { Ok(()) } else { Err(format!("{one:?} and {two:?}")) }
    });
}

#[test]
fn two_nodes_link_through_the_tunnel_whichever_dials() {
    if !require() {
        return;
    }
    nodes_link_both_ways(Scene::of(&["h1", "h2"]));
}

#[test]
fn two_nodes_link_through_the_tunnel_by_ipv6() {
    if !require() {
        return;
    }
    nodes_link_both_ways(Scene::of(&["h1", "h2"]).inet6());
}

/// What an ejabberd cluster of three says to each other that can be read where nobody hides it: names of nodes, questions and
/// answers of epmd, and the text of a message.
const READABLE: &[&str] = &["ejabberd@h", "ejabberd", "a-name-that-others-may-not-read"];

/// What is said on the first node is known on the last one.
#[track_caller]
fn say_something(nodes: &[Ejabberd]) {
    let (first, last) = (nodes.first().unwrap(), nodes.last().unwrap());
    let text = READABLE.last().unwrap();
    let (status, output) = first.ctl(&["register", text, "localhost", "secret"]);
    assert!(status.success(), "{output}");
    let (status, output) = last.ctl(&["check_account", text, "localhost"]);
    assert!(status.success(), "{output}");
}

/// Starts them, joins them, and gives what was seen on the switch meanwhile.
#[track_caller]
fn captured_cluster(lab: &Lab, builders: Vec<EjabberdBuilder>) -> Captured {
    let capture = Capture::start(lab, "cluster");
    let nodes: Vec<Ejabberd> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            builders.into_iter().map(|builder| scope.spawn(move || builder.start())).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    super::cluster::join(&nodes);
    say_something(&nodes);
    capture.finish(&lab.host("h1"), &lab.host("h2"))
}

/// All that goes between the hosts goes by tunnels, and nothing of it can be read.
#[track_caller]
fn nothing_can_be_read(scene: &Scene, each: impl Fn(EjabberdBuilder) -> EjabberdBuilder) -> Captured {
    let builders =
        scene.hosts.iter().map(|at| each(Ejabberd::configure(&at.host).inetrc(&at.inetrc()))).collect();
    let captured = captured_cluster(&scene.lab, builders);
    assert!(captured.bytes.len() > 100_000, "only {} bytes were captured", captured.bytes.len());
    assert_eq!(found(&captured.bytes, READABLE), Vec::<&str>::new());
    assert_eq!(captured.packets("tcp and not port 4371"), Vec::<String>::new());
    for at in &scene.hosts {
        let denied: Vec<_> = at.guard.events("refused").iter().map(|event| field(event, "reason")).collect();
        assert_eq!(denied, Vec::<String>::new(), "something of the cluster's was refused");
    }
    captured
}

#[test]
fn nothing_of_an_ejabberd_cluster_can_be_read_between_its_hosts() {
    if !require() {
        return;
    }
    let scene = Scene::of(&["h1", "h2", "h3"]).start();
    let captured = nothing_can_be_read(&scene, |node| node);
    assert_ne!(captured.packets("ip and tcp port 4371"), Vec::<String>::new());
}

#[test]
fn nothing_of_an_ejabberd_cluster_can_be_read_between_its_hosts_by_ipv6() {
    if !require() {
        return;
    }
    let scene = Scene::of(&["h1", "h2", "h3"]).inet6().start();
    let captured = nothing_can_be_read(&scene, EjabberdBuilder::inet6);
    assert_ne!(captured.packets("ip6 and tcp port 4371"), Vec::<String>::new());
    assert_eq!(captured.packets("ip and tcp port 4371"), Vec::<String>::new());
}

#[test]
fn nothing_of_an_ejabberd_cluster_without_epmd_can_be_read_between_its_hosts() {
    if !require() {
        return;
    }
    let sections = "[epmd]\nlisten = []\n[dist]\nports = 5210\n";
    let scene = Scene::of(&["h1", "h2", "h3"]).sections(sections).start();
    let captured = nothing_can_be_read(&scene, |node| node.single_port(5210));
    assert_ne!(captured.packets("ip and tcp port 4371"), Vec::<String>::new());
    assert!(scene.hosts.iter().all(|at| at.host.listeners().iter().all(|addr| addr.port() != 4369)));
}

/// So that the test above can fail.
#[test]
fn without_a_tunnel_all_of_an_ejabberd_cluster_can_be_read_between_its_hosts() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1", "h2", "h3"]);
    let hosts = ["h1", "h2", "h3"].map(|name| lab.host(name));
    let _guards = hosts.each_ref().map(|host| Guard::start(&lab, host, &front(EVERYBODY)));
    let builders = hosts.iter().map(Ejabberd::configure).collect();
    let captured = captured_cluster(&lab, builders);
    assert_eq!(found(&captured.bytes, READABLE), READABLE);
    assert_ne!(captured.packets("tcp port 4369"), Vec::<String>::new());
}

#[test]
fn two_nodes_link_through_the_tunnel_by_one_port_without_any_epmd() {
    if !require() {
        return;
    }
    let scene = Scene::of(&["h1", "h2"]).sections("[epmd]\nlisten = []\n[dist]\nports = 5210\n").start();
    let [h1, h2] = &scene.hosts[..] else { panic!("two hosts") };
    let nodes = [h1, h2].map(|at| at.node("n").single_port(5210).start());
    for at in &scene.hosts {
        at.guard.wait_open(5210);
    }
    links_once(&scene, &nodes[0], &nodes[1]);
    links_once(&scene, &nodes[1], &nodes[0]);
    assert!([h1, h2].iter().all(|at| at.host.listeners().iter().all(|addr| addr.port() != 4369)));
}

#[test]
fn two_nodes_link_through_the_tunnel_with_the_epmds_of_their_guards() {
    if !require() {
        return;
    }
    nodes_link_both_ways(Scene::of(&["h1", "h2"]).sections(""));
}

#[test]
fn two_nodes_link_through_the_tunnel_by_outside_ports() {
    if !require() {
        return;
    }
    let sections = "[epmd]\nbackend = \"127.0.0.1:4369\"\n[dist]\noutside = \"20000-20009\"\n";
    let scene = Scene::of(&["h1", "h2"]).sections(sections).start();
    let [h1, h2] = &scene.hosts[..] else { panic!("two hosts") };
    let nodes = [h1.node("a").start(), h2.node("b").start()];
    for (at, from, to) in [(h1, &nodes[0], &nodes[1]), (h2, &nodes[1], &nodes[0])] {
        links_once(&scene, from, to);
        let opened = at.guard.wait_event("link_opened", &[("listener", "127.0.0.*"), ("toward", "h*")]);
        assert!(field(&opened, "listener").ends_with(":20000"), "{opened}");
    }
}

/// Sends so many blocks of a MiB each way at the same time; each end says what the other end has sent.
#[track_caller]
fn bulk(scene: &Scene, mib: u64) {
    let [h1, h2] = &scene.hosts[..] else { panic!("two hosts") };
    let (a, b) = (h1.node("a").start(), h2.node("b").start());
    assert!(a.ping(&b));
    for node in [&a, &b] {
        let done = node.eval(
            "register(hear, spawn(fun() -> Loop = fun Loop(C, N) -> receive {block, B} -> Loop(erlang:md5_update(C, B), N + byte_size(B)); \
               {done, From} -> From ! {sum, N, erlang:md5_final(C)} end end, Loop(erlang:md5_init(), 0) end)), ok.",
        );
        assert_eq!(done, "ok");
    }
    // Each block is random, so that no two are alike.
    let say = |to: &Node| {
        format!(
            "To = {{hear, '{}'}}, Loop = fun Loop(0, C) -> erlang:md5_final(C); \
               Loop(N, C) -> B = crypto:strong_rand_bytes(1048576), To ! {{block, B}}, Loop(N - 1, erlang:md5_update(C, B)) end, \
             Sum = Loop({mib}, erlang:md5_init()), To ! {{done, self()}}, \
             receive {{sum, N, Sum}} -> {{same, N}}; {{sum, N, _}} -> {{other, N}} after 1200000 -> stuck end.",
            to.full_name()
        )
    };
    let same = format!("{{same,{}}}", mib * 1024 * 1024);
    let long = Duration::from_secs(1300);
    std::thread::scope(|scope| {
        let back = scope.spawn(|| b.eval_within(long, &say(&a)));
        assert_eq!(a.eval_within(long, &say(&b)), same);
        assert_eq!(back.join().unwrap(), same);
    });
}

#[test]
fn what_is_sent_both_ways_at_once_arrives_as_it_was() {
    if !require() {
        return;
    }
    bulk(&Scene::of(&["h1", "h2"]).start(), mebibytes());
}

/// `make soak` sends a GiB.
#[expect(clippy::disallowed_methods, reason = "how much is in the environment")]
fn mebibytes() -> u64 {
    std::env::var("EPMD_GUARD_TUNNEL_MIB").ok().and_then(|mib| mib.parse().ok()).unwrap_or(64)
}

#[test]
fn nodes_that_dial_each_other_at_the_same_time_have_one_link() {
    if !require() {
        return;
    }
    let scene = Scene::of(&["h1", "h2"]).start();
    let [h1, h2] = &scene.hosts[..] else { panic!("two hosts") };
    let (a, b) = (h1.node("a").start(), h2.node("b").start());
    for _ in 0..10 {
        std::thread::scope(|scope| {
            let back = scope.spawn(|| b.ping(&a));
            assert!(a.ping(&b), "a does not reach b");
            assert!(back.join().unwrap(), "b does not reach a");
        });
        assert_eq!(
            (a.eval("nodes()."), b.eval("nodes().")),
            ("['b@h2.test']".to_owned(), "['a@h1.test']".to_owned())
        );
        assert_eq!(a.eval("disconnect_node('b@h2.test')."), "true");
        eventually("b has seen the end of the link", SOON, || b.eval("nodes().") == "[]");
    }
}

#[test]
fn a_node_that_dies_is_gone_for_the_other_one_at_once() {
    if !require() {
        return;
    }
    let scene = Scene::of(&["h1", "h2"]).start();
    let [h1, h2] = &scene.hosts[..] else { panic!("two hosts") };
    let (a, b) = (h1.node("a").start(), h2.node("b").start());
    assert!(a.ping(&b));
    sequence::watch(&a);
    b.kill();
    // Not after the 45 s and more of a link that is silent.
    eventually("a hears of it", Duration::from_secs(5), || sequence::seen(&a) == "[{nodedown,'b@h2.test'}]");
}

#[test]
fn an_alias_that_the_hosts_own_name_leads_to_is_told_by_log_status_and_check() {
    if !require() {
        return;
    }
    let scene = Scene::of(&["h1", "h2"]).start();
    let TunnelHost { host, guard, .. } = &scene.hosts[0];
    let own_name_at = |from: &str, to: &str| {
        host.replace_hosts(|line| Some(line.replace(&format!("{from} "), &format!("{to} "))));
    };
    let alias = "127.0.0.12";
    // The keys of the guard's own file are not for whoever runs this.
    let file = host.dir().join("check.toml");
    let peer =
        "[[peer]]\nname = \"h2\"\naddresses = [\"192.0.2.2\"]\nconnect = \"192.0.2.2\"\ntls = \"off\"\n";
    std::fs::write(&file, format!("{peer}alias = {alias:?}\n")).unwrap();
    let check = || command(&scene.lab, host, ["check".as_ref(), "--config".as_ref(), file.as_os_str()]);
    let words = format!("this host's own name leads to {alias}, which stands for h2");
    let ready = || told(&scene.lab, host, &["status"]).out;
    let said = check();
    assert!(said.code == 0 && !said.err.contains(&words), "{said:?}");
    let mark = guard.mark();
    // As a lab has it, and Debian: the name of the machine is at 127.0.1.1.
    own_name_at("127.0.1.1", alias);
    guard.wait_event_after(mark, "own_name_at_alias", &[("address", alias), ("peer", "h2")]);
    eventually("status says it", SOON, || ready().contains(&words));
    let said = check();
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.err.contains(&words) && said.err.contains("give h2 another alias"), "{said:?}");
    own_name_at(alias, "127.0.1.1");
    eventually("status says it no more", SOON, || !ready().contains(&words));
}
