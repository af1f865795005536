//! Many links and questions through tunnels at one time, and guards that go and come back.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::common::require;
use crate::support::erlang::{Node, NodeBuilder};
use crate::support::eventually::eventually;
use crate::support::guard::{SOON, cookie_file, field, knowing};
use crate::support::host::Way;
use crate::support::said::Said;
use crate::support::sequence;
use crate::support::tunnel::{Scene, TunnelHost};
use crate::tunnel::links_on;
use crate::tunnel_refusals::{lenient, unlink};

/// A node gives a handshake 7 s.
const PROMPT: Duration = Duration::from_secs(7);
/// Nodes on each host, each of which is linked with each of the other one.
const NODES: usize = 4;

#[track_caller]
fn both_have(scene: &Scene, count: usize) {
    eventually(&format!("both guards have {count} links"), SOON, || {
        let [one, two] = [0, 1].map(|number: usize| links_on(scene, &scene.hosts[number]));
        if one == two && one.len() == count {
            Ok(())
        } else {
            Err(format!("{} and {}", one.len(), two.len()))
        }
    });
}

/// Nodes of a host, started side by side.
fn nodes(at: &TunnelHost) -> Vec<Node> {
    std::thread::scope(|scope| {
        let starting: Vec<_> = (0..NODES)
            .map(|number| {
                let builder = at.node(&format!("n{number}"));
                scope.spawn(move || builder.start())
            })
            .collect();
        starting.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// Each of these dials all of those, all at the same time.
#[track_caller]
fn link_all(from: &[Node], to: &[Node]) {
    let names: Vec<String> = to.iter().map(|node| format!("'{}'", node.full_name())).collect();
    let dial = format!(
        "Self = self(), [spawn(fun() -> Self ! net_kernel:connect_node(N) end) || N <- [{names}]], \
         [receive Linked -> Linked after 30000 -> silent end || _ <- [{names}]].",
        names = names.join(",")
    );
    let all = format!("[{}]", vec!["true"; to.len()].join(","));
    std::thread::scope(|scope| {
        let dialling: Vec<_> = from.iter().map(|node| scope.spawn(|| node.eval(&dial))).collect();
        for (thread, node) in dialling.into_iter().zip(from) {
            assert_eq!(thread.join().unwrap(), all, "{}", node.full_name());
        }
    });
}

/// Waits until each of these has seen all of those go since it began to watch, long before the 45 s after which a node misses
/// the ticks of another one.
#[track_caller]
fn all_see_go(nodes: &[Node], others: &[Node]) {
    for node in nodes {
        eventually("a node sees all the others go", Duration::from_secs(15), || {
            let seen = sequence::seen(node);
            let gone = |other: &Node| seen.contains(&format!("{{nodedown,'{}'}}", other.full_name()));
            if others.iter().all(gone) { Ok(()) } else { Err(seen) }
        });
    }
}

#[test]
fn many_nodes_link_with_each_other_at_one_time_and_again_when_the_guard_of_one_side_was_restarted() {
    if !require() {
        return;
    }
    let mut scene = lenient(&["h1", "h2"]).start();
    let [here, there] = [0, 1].map(|number: usize| nodes(&scene.hosts[number]));
    for (from, to) in [(&here, &there), (&there, &here)] {
        // Who has registered at an epmd that has restarted is there as soon as it is asked for.
        eventually("the names are there", SOON, || from[0].ping(&to[0]));
        link_all(from, to);
        both_have(&scene, NODES * NODES);
        for node in here.iter().chain(&there) {
            sequence::watch(node);
        }
        // Once that which was dialled, once that which has dialled.
        scene.hosts[1].guard.stop();
        all_see_go(&here, &there);
        all_see_go(&there, &here);
        scene.start_again(1);
        for node in here.iter().chain(&there) {
            assert_eq!(node.eval("exit(whereis(watch), kill)."), "true");
        }
    }
    eventually("the names are there", SOON, || here[0].ping(&there[0]));
    link_all(&here, &there);
    both_have(&scene, NODES * NODES);
}

/// A guard that has no time to say anything ends.
#[track_caller]
fn is_killed_and_comes_back(number: usize) {
    // The guard that was dialled keeps the old link for so long: it cannot know that nobody will ask for it.
    let mut scene = lenient(&["h1", "h2"]).tls("resume_for = \"10s\"").start();
    let (a, b) = (scene.hosts[0].node("a").start(), scene.hosts[1].node("b").start());
    assert!(a.ping(&b));
    for node in [&a, &b] {
        sequence::watch(node);
    }
    let killed = Instant::now();
    scene.hosts[number].guard.daemon().kill();
    scene.start_again(number);
    eventually("they link again", SOON, || a.ping(&b));
    for (node, other) in [(&a, &b), (&b, &a)] {
        let [down, up] = ["nodedown", "nodeup"].map(|word| format!("{{{word},'{}'}}", other.full_name()));
        eventually("a node sees the other one go and come", SOON, || {
            let seen = sequence::seen(node);
            if seen == format!("[{down},{up}]") { Ok(()) } else { Err(seen) }
        });
    }
    assert!(killed.elapsed() < Duration::from_secs(15), "{:?}", killed.elapsed());
    let call =
        |from: &Node, to: &Node| from.eval(&format!("rpc:call('{}', erlang, node, []).", to.full_name()));
    assert_eq!((call(&a, &b), call(&b, &a)), ("'b@h2.test'".to_owned(), "'a@h1.test'".to_owned()));
    both_have(&scene, 1);
}

#[test]
fn a_guard_that_is_killed_and_comes_back_ends_the_links_that_it_had() {
    if !require() {
        return;
    }
    is_killed_and_comes_back(1);
}

#[test]
fn a_guard_that_has_dialled_and_is_killed_and_comes_back_links_anew() {
    if !require() {
        return;
    }
    is_killed_and_comes_back(0);
}

/// Each of some links has a MiB in each direction at a time, and all together may keep one.
#[test]
fn links_that_share_little_room_all_go_on() {
    if !require() {
        return;
    }
    let sections =
        "[epmd]\nbackend = \"127.0.0.1:4369\"\n[limits]\nreplay_per_link = \"1MiB\"\nreplay = \"1MiB\"\n";
    let scene = lenient(&["h1", "h2"]).sections(sections).start();
    let [here, there] = [0, 1].map(|number: usize| nodes(&scene.hosts[number]));
    link_all(&here, &there);
    let pour = |to: &[Node]| {
        let names: Vec<String> = to.iter().map(|node| format!("'{}'", node.full_name())).collect();
        format!(
            "Self = self(), Data = crypto:strong_rand_bytes(4194304), Sum = erlang:md5(Data), \
             Say = fun(N) -> Sum =:= rpc:call(N, erlang, md5, [Data]) end, \
             [spawn(fun() -> Self ! Say(N) end) || N <- [{names}]], \
             [receive Same -> Same after 100000 -> silent end || _ <- [{names}]].",
            names = names.join(",")
        )
    };
    let all = format!("[{}]", ["true"; NODES].join(","));
    std::thread::scope(|scope| {
        let [forth, back] = [pour(&there), pour(&here)];
        let pouring: Vec<_> = (here.iter().map(|node| (node, forth.clone())))
            .chain(there.iter().map(|node| (node, back.clone())))
            .map(|(node, what)| scope.spawn(move || node.eval_within(Duration::from_secs(120), &what)))
            .collect();
        for thread in pouring {
            assert_eq!(thread.join().unwrap(), all);
        }
    });
    both_have(&scene, NODES * NODES);
}

#[test]
fn links_and_legs_that_come_and_go_leave_nothing_behind() {
    if !require() {
        return;
    }
    let scene = lenient(&["h1", "h2"]).start();
    let [h1, h2] = &scene.hosts[..] else { panic!("two hosts") };
    let (a, b) = (h1.node("a").start(), h2.node("b").start());
    let round = |from: &Node, to: &Node, rounds: usize| {
        let name = to.full_name();
        let done = from.eval_within(
            Duration::from_secs(120),
            &format!(
                "Round = fun Round(0) -> done; Round(N) -> pong = net_adm:ping('{name}'), \
                 true = disconnect_node('{name}'), Round(N - 1) end, Round({rounds})."
            ),
        );
        assert_eq!(done, "done");
        both_have(&scene, 0);
    };
    // What is kept for good is there after some.
    round(&a, &b, 50);
    round(&b, &a, 50);
    let sizes = || [h1, h2].map(|at| at.guard.size());
    let before = sizes();
    round(&a, &b, 200);
    round(&b, &a, 200);
    assert!(a.ping(&b));
    for _ in 0..4 {
        let marks = [h1, h2].map(|at| at.guard.mark());
        h2.host.filter(Way::In, "tcp dport 4371 reject with tcp reset");
        h1.guard.wait_event_after(marks[0], "leg_lost", &[]);
        h2.host.lift();
        for (at, mark) in [h1, h2].iter().zip(marks) {
            at.guard.wait_event_after(mark, "leg_resumed", &[]);
        }
    }
    unlink(&a, &b);
    both_have(&scene, 0);
    eventually("what was taken is given back", SOON, || {
        let after = sizes();
        let same = before
            .iter()
            .zip(&after)
            .all(|(before, after)| after.0 <= before.0 + 1 && after.1 < before.1 + 2 * 1024);
        if same { Ok(()) } else { Err(format!("{before:?} and {after:?}")) }
    });
}

/// A question to the epmd of the other host, and how long its answer took.
#[track_caller]
fn look_up(from: &Node, port: u16) -> Duration {
    let begun = Instant::now();
    let found = from.eval("erl_epmd:port_please(\"b\", \"h2.test\", 10000).");
    assert!(found.starts_with(&format!("{{port,{port},")), "{found}");
    begun.elapsed()
}

#[test]
fn questions_to_a_peer_share_one_leg_and_one_without_an_answer_is_asked_again_on_a_fresh_one() {
    if !require() {
        return;
    }
    let scene = lenient(&["h1", "h2"]).start();
    let [h1, h2] = &scene.hosts[..] else { panic!("two hosts") };
    let (a, b) = (h1.node("a").start(), h2.node("b").start());
    let port = b.port();
    // The first one makes the leg, unless the guard has had something to ask before.
    assert!(look_up(&a, port) < PROMPT);
    let legs = h2.host.counter("eth0", 4371);
    let begun = h1.guard.events("question_leg_lost").len();
    // A leg is given up after a second without an answer, which may be for want of a processor.
    let lost = || (h1.guard.events("question_leg_lost").len() - begun) as u64;
    for _ in 0..20 {
        assert!(look_up(&a, port) < PROMPT);
    }
    assert_eq!(legs.count(), lost(), "a question had a leg of its own");
    // That leg goes silent, and nothing else: what comes from its port is dropped.
    let answered = h2.guard.events("question_answered");
    let last = answered.iter().rev().find(|event| field(event, "role") == "tunnel").unwrap();
    let source: SocketAddr = field(last, "peer").parse().unwrap();
    h2.host.filter(Way::In, &format!("tcp dport 4371 tcp sport {} drop", source.port()));
    let before = lost();
    let took = look_up(&a, port);
    assert!(took >= Duration::from_secs(1) && took < PROMPT, "{took:?}");
    assert!(lost() > before, "it was not asked again on a fresh leg");
    for _ in 0..20 {
        assert!(look_up(&a, port) < PROMPT);
    }
    assert_eq!(legs.count(), lost(), "a question had a leg of its own");
}

#[test]
fn a_guard_that_knows_the_cookie_keeps_a_wrong_one_from_the_tunnel() {
    if !require() {
        return;
    }
    let scene = lenient(&["h1", "h2"]).start();
    let [h1, h2] = &scene.hosts[..] else { panic!("two hosts") };
    let (a, b) = (h1.node("a").start(), h2.node("b").start());
    let secret = cookie_file(&h2.host, "cookie", "secret");
    let said = scene.reload(h2, |text| knowing(&secret, &text));
    assert_eq!(said.code, 0, "{said:?}");
    assert!(a.ping(&b));
    unlink(&a, &b);
    let noticed = b.output();
    assert_eq!(a.eval("erlang:set_cookie(wrong)."), "true");
    assert!(!a.ping(&b));
    h2.guard.wait_event("closed", &[("claimed", "a@h1.test"), ("reason", "wrong_cookie")]);
    h1.guard.wait_event("closed", &[("claimed", "a@h1.test"), ("listener", "127.0.0.12:*")]);
    assert_eq!(b.output(), noticed, "the node heard of it");
    assert_eq!(a.eval("erlang:set_cookie(secret)."), "true");
    assert!(a.ping(&b));
}

#[test]
fn a_reload_that_leaves_a_peer_without_tunnels_ends_its_links_and_no_others() {
    if !require() {
        return;
    }
    let scene = lenient(&["h1", "h2", "h3"]).start();
    let nodes: Vec<Node> = scene.hosts.iter().map(|at| at.node("n").start()).collect();
    for node in &nodes[1..] {
        assert!(node.ping(&nodes[0]));
        sequence::watch(node);
    }
    let h1 = &scene.hosts[0];
    let narrower = |text: String| {
        let (head, tail) = text.split_once("name = \"h3\"").unwrap();
        format!("{head}name = \"h3\"{}", tail.replace("tls = \"required\"", "tls = \"off\""))
    };
    let said = scene.reload(h1, narrower);
    assert_eq!(said.code, 0, "{said:?}");
    h1.guard.wait_event("closed", &[("claimed", "n@h3.test"), ("reason", "revoked")]);
    eventually("the node sees it", SOON, || {
        let seen = sequence::seen(&nodes[2]);
        if seen == "[{nodedown,'n@h1.test'}]" { Ok(()) } else { Err(seen) }
    });
    assert_eq!(sequence::seen(&nodes[1]), "[]");
    assert!(!nodes[2].ping(&nodes[0]));
    h1.guard.wait_event("refused", &[("reason", "tls_off"), ("stage", "identify")]);
}

/// Nodes whose distribution is in TLS of their own.
#[test]
fn nodes_with_distribution_over_tls_link_through_the_tunnel() {
    if !require() {
        return;
    }
    let sections = "[epmd]\nbackend = \"127.0.0.1:4369\"\n[dist]\nports = []\n\
                    [[forward]]\nkind = \"dist-tls\"\nports = \"9100-9110\"\n";
    let scene = lenient(&["h1", "h2"]).sections(sections).start();
    let nodes: Vec<Node> = scene.hosts.iter().map(|at| over_tls(&scene, at).start()).collect();
    for (from, to, at) in [(0, 1, &scene.hosts[1]), (1, 0, &scene.hosts[0])] {
        let mark = at.guard.mark();
        eventually("the port of the other one is open", SOON, || nodes[from].ping(&nodes[to]));
        at.guard.wait_event_after(mark, "link_opened", &[("role", "dist-tls"), ("peer", "192.0.2.*")]);
        both_have(&scene, 1);
        unlink(&nodes[from], &nodes[to]);
    }
}

/// A node that shows the certificate that its guard has.
fn over_tls(scene: &Scene, at: &TunnelHost) -> NodeBuilder {
    let dir = at.host.dir_of("nobody", "tls-of-node");
    let name = at.host.name();
    for file in [format!("{name}.crt"), format!("{name}.key"), "ca.crt".to_owned()] {
        std::fs::copy(scene.ca().join(&file), dir.join(&file)).unwrap();
    }
    let path = |file: &str| dir.join(file).display().to_string();
    let both = format!(
        "{{certfile,{:?}}},{{keyfile,{:?}}},{{cacertfile,{:?}}},{{verify,verify_peer}}",
        path(&format!("{name}.crt")),
        path(&format!("{name}.key")),
        path("ca.crt")
    );
    let text = format!("[{{server,[{both},{{fail_if_no_peer_cert,true}}]}},{{client,[{both}]}}].\n");
    std::fs::write(dir.join("options"), text).unwrap();
    let said = Said::by({
        let mut chown = std::process::Command::new("chown");
        chown.args(["--recursive", "nobody"]).arg(&dir);
        chown
    });
    assert_eq!(said.code, 0, "{said:?}");
    at.node("n").port(9100).arg("-proto_dist").arg("inet_tls").arg("-ssl_dist_optfile").arg(&path("options"))
}
