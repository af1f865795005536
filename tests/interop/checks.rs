//! What holds between this machine's OTP and another release, in each shape and whichever of the two dials.

use serde_json::Value;

use crate::pair::{Pair, Placed, Shape, Side, both_ways, disconnect};
use crate::support::eventually::eventually;
use crate::support::guard::{SOON, admin_get, cookie_file, field, knowing, status};

/// Makes the link, and sees that it comes in through the other's guard, which knows who speaks and counts it.
#[track_caller]
pub(crate) fn link(pair: &Pair, from: &Placed, to: &Placed, peer: &str) {
    let (left, log) = (from.side.guard.mark(), to.side.guard.mark());
    let before = handshakes(pair, to.side, "up");
    assert!(from.node.ping(&to.node), "{} does not reach {}", from.name(), to.name());
    let told = [("role", "dist"), ("peer", peer), ("claimed", from.name()), ("answered", to.name())];
    let came = to.side.guard.wait_event_after(log, "link_opened", &told);
    assert_eq!(handshakes(pair, to.side, "up"), before + 1);
    let links: Value =
        serde_json::from_str(&admin_get(&pair.lab, &to.side.host, "/links")).expect("a document");
    let ends = |link: &Value| [field(link, "peer_node"), field(link, "answered_by")];
    let links: Vec<_> = links["links"].as_array().expect("a list").iter().map(ends).collect();
    assert!(links.contains(&[from.name().to_owned(), to.name().to_owned()]), "{links:?}");
    if to.side.shape == Shape::Tunnel {
        let told = [("role", "dist"), ("toward", to.side.host.short_name()), ("claimed", from.name())];
        let left = from.side.guard.wait_event_after(left, "link_opened", &told);
        assert_eq!((field(&left, "link").len(), field(&left, "link")), (32, field(&came, "link")), "{left}");
    }
}

/// How many handshakes have ended so at a side's guard, as `status --json` says.
#[track_caller]
fn handshakes(pair: &Pair, side: &Side, outcome: &str) -> u64 {
    let status = status(&pair.lab, &side.host);
    status["speakers"]["handshakes"][outcome].as_u64().unwrap_or(0)
}

/// How the guards see a host.
pub(crate) fn peer(of: &Placed) -> String {
    format!("{}:*", of.side.host.v4())
}

pub(crate) fn nodes_link_and_call_each_other(pair: &Pair) {
    let nodes = pair.nodes(|node| node);
    // They are what they are said to be.
    let releases = nodes.each_ref().map(|placed| placed.node.eval("erlang:system_info(otp_release)."));
    assert_eq!(releases[1], format!("{:?}", pair.release.number()));
    assert_ne!(releases[0], releases[1]);
    both_ways(&nodes, |from, to| {
        link(pair, from, to, &peer(from));
        for (one, another) in [(from, to), (to, from)] {
            let name = another.name();
            assert_eq!(one.node.eval("nodes()."), format!("['{name}']"));
            // By a message to a server there, and by a request to spawn a process.
            for module in ["rpc", "erpc"] {
                let call = format!("{module}:call('{name}', erlang, node, []).");
                assert_eq!(one.node.eval(&call), format!("'{name}'"));
            }
        }
    });
}

pub(crate) fn a_node_with_another_cookie_does_not_link(pair: &Pair) {
    let here = pair.here.listening(pair.here.named("a"));
    let other = pair.other.listening(pair.other.named("b").cookie("wrong"));
    for (from, to) in [(&here, &other), (&other, &here)] {
        let log = to.node.daemon().mark();
        let before = handshakes(pair, to.side, "wrong_cookie");
        assert!(!from.node.ping(&to.node), "{} links to {}", from.name(), to.name());
        let told = [("reason", "wrong_cookie"), ("claimed", from.name())];
        to.side.guard.wait_event("closed", &told);
        assert_eq!(handshakes(pair, to.side, "wrong_cookie"), before + 1);
        for node in [&from.node, &to.node] {
            assert_eq!(node.eval("nodes(connected)."), "[]");
        }
        // It was the cookie, and nothing before it.
        to.node.daemon().wait_line_after(log, "the node says why", SOON, |line| {
            line.contains("rejected. Invalid challenge reply")
        });
    }
    // A wrong try is no reason to refuse a right one.
    assert_eq!(other.node.eval("erlang:set_cookie(secret)."), "true");
    assert!(here.node.ping(&other.node));
}

pub(crate) fn a_guard_that_knows_the_cookie_links_nodes_and_keeps_a_wrong_one_from_them(pair: &Pair) {
    pair.reconfigure(|host, config| knowing(&cookie_file(host, "cookie", "secret"), config));
    let nodes = pair.nodes(|node| node);
    both_ways(&nodes, |from, to| link(pair, from, to, &peer(from)));
    both_ways(&nodes, |from, to| {
        // The first one on the way that knows the cookie.
        let judge = if to.side.shape == Shape::Tunnel { from.side } else { to.side };
        let log = judge.guard.mark();
        let noticed = to.node.output();
        assert_eq!(from.node.eval("erlang:set_cookie(wrong)."), "true");
        assert!(!from.node.ping(&to.node), "{} links to {}", from.name(), to.name());
        let told = [("reason", "wrong_cookie"), ("claimed", from.name())];
        judge.guard.wait_event_after(log, "closed", &told);
        assert_eq!(to.node.output(), noticed);
        assert_eq!(handshakes(pair, judge, "wrong_cookie"), 1);
        assert_eq!(from.node.eval("erlang:set_cookie(secret)."), "true");
        link(pair, from, to, &peer(from));
    });
}

pub(crate) fn nodes_that_connect_to_each_other_at_the_same_time_end_with_one_link(pair: &Pair) {
    let [a, b] = &pair.nodes(|node| node);
    for round in 0..20 {
        let (there, here) = std::thread::scope(|scope| {
            let there = scope.spawn(|| a.node.ping(&b.node));
            let here = scope.spawn(|| b.node.ping(&a.node));
            (there.join().unwrap(), here.join().unwrap())
        });
        assert!(there && here, "round {round}: {there} {here}");
        assert_eq!(a.node.eval("nodes()."), "['b@h2.test']");
        assert_eq!(a.node.eval("rpc:call('b@h2.test', erlang, nodes, [])."), "['a@h1.test']");
        disconnect(&a.node, &b.node);
    }
}

pub(crate) fn a_message_of_8_mib_arrives_whole_and_so_does_its_answer(pair: &Pair) {
    let nodes = pair.nodes(|node| node);
    both_ways(&nodes, |from, to| {
        link(pair, from, to, &peer(from));
        // There in one message, and what is not the same back in one.
        let sums = from.node.eval(&format!(
            "Data = crypto:strong_rand_bytes(8388608), Mask = crypto:strong_rand_bytes(8388608), \
             There = rpc:call('{to}', erlang, md5, [Data]), \
             Back = rpc:call('{to}', crypto, exor, [Data, Mask]), \
             {{byte_size(Back), There =:= erlang:md5(Data), \
             erlang:md5(Back) =:= erlang:md5(crypto:exor(Data, Mask))}}.",
            to = to.name()
        ));
        assert_eq!(sums, "{8388608,true,true}");
    });
}

pub(crate) fn a_hidden_node_that_does_not_listen_links_and_stays_hidden(pair: &Pair) {
    for (from, to) in pair.ways() {
        let node = to.listening(to.named("node"));
        // As a shell on another node, or a tool, has itself started.
        let tool = from.named("tool").hidden().arg("-dist_listen").arg("false").start();
        assert!(tool.ping(&node.node));
        assert_eq!(tool.eval("nodes(connected)."), format!("['{}']", node.name()));
        assert_eq!(node.node.eval("nodes()."), "[]");
        assert_eq!(node.node.eval("nodes(hidden)."), format!("['{}']", tool.full_name()));
        let call = format!("rpc:call('{}', erlang, node, []).", node.name());
        assert_eq!(tool.eval(&call), format!("'{}'", node.name()));
    }
}

pub(crate) fn a_node_without_a_name_is_given_one(pair: &Pair) {
    for (from, to) in pair.ways() {
        let node = to.listening(to.named("node"));
        // The node that it dials chooses what stands before the @ (NAME_ME).
        let host = from.host.name();
        let nameless = from.named(&format!("undefined@{host}")).start();
        assert_eq!(nameless.eval("node()."), "nonode@nohost");
        let connect = format!("net_kernel:connect_node('{}').", node.name());
        assert_eq!(nameless.eval(&connect), "true");
        let name = nameless.eval("node().");
        assert!(name.ends_with(&format!("@{host}'")), "{name}");
        assert_eq!(node.node.eval("nodes(hidden)."), format!("[{name}]"));
        assert_eq!(node.node.eval(&format!("erpc:call({name}, erlang, node, []).")), name);
        nameless.kill();
        eventually("the link goes", SOON, || node.node.eval("nodes(connected).") == "[]");
    }
}
