//! The handshake is read: who speaks is known, how it ended is told, and nothing else of a link changes.

use std::fs;
use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::common::{EVERYBODY, Guarded, require, two_hosts};
use crate::support::daemon::Signal;
use crate::support::erlang::Node;
use crate::support::eventually::eventually;
use crate::support::guard::{Guard, SOON, admin_get, field, front, registered};
use crate::support::handshake::{Initiator, Shaken, Waited, messages};
use crate::support::host::Host;
use crate::support::lab::Lab;
use crate::support::wire::{framed, send};

/// Where the guard of a host leads to its node at 9100.
fn at(to: &Guarded) -> SocketAddr {
    SocketAddr::new(to.host.v4().into(), 9100)
}

/// A handshake of a test's own from one host with the node at port 9100 of another.
fn shake(from: &Host, to: &Guarded, initiator: &Initiator) -> Shaken {
    initiator.shake(&from.connect(at(to)).unwrap())
}

/// A node without `global`, whose messages may connect two nodes again at once that were just disconnected.
fn alone(of: &Guarded, name: &str) -> Node {
    of.start(Node::named(name, &of.host).port(9100).arg("-connect_all").arg("false"))
}

/// A counter of the host's guard.
fn counted(lab: &Lab, host: &Host, series: &str) -> u64 {
    let metrics = admin_get(lab, host, "/metrics");
    let line = metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {series}:\n{metrics}")).parse().unwrap()
}

fn handshakes(lab: &Lab, host: &Host, outcome: &str) -> u64 {
    counted(lab, host, &format!("epmd_guard_handshakes_total{{outcome=\"{outcome}\"}}"))
}

/// Nobody has been taken for somebody who guesses a cookie.
#[track_caller]
fn nobody_offended(lab: &Lab, of: &[&Guarded]) {
    for Guarded { host, guard, .. } in of {
        assert_eq!(handshakes(lab, host, "wrong_cookie"), 0, "{}", host.name());
        for series in ["epmd_guard_slowed_total", "epmd_guard_banned_total"] {
            assert_eq!(counted(lab, host, series), 0, "{series} of {}", host.name());
        }
        for event in ["refused", "slowed_down", "banned"] {
            assert_eq!(guard.events(event), Vec::<serde_json::Value>::new(), "{}", host.name());
        }
    }
}

#[test]
fn a_link_is_told_with_the_names_of_both_its_nodes() {
    if !require() {
        return;
    }
    let (_lab, h1, h2) = two_hosts();
    let (a, b) = (h1.node("a"), h2.node("b"));
    assert!(a.ping(&b), "{:?}", h2.guard.events("closed"));
    let opened = h2.guard.wait_event("link_opened", &[("role", "dist")]);
    assert_eq!(field(&opened, "claimed"), "a@h1.test");
    assert_eq!(field(&opened, "answered"), "b@h2.test");
    let hidden = Node::named("c", &h1.host).hidden().start();
    assert!(hidden.ping(&b));
    h2.guard.wait_event("link_opened", &[("claimed", "c@h1.test")]);
}

#[test]
fn a_wrong_cookie_is_seen_without_knowing_the_right_one() {
    if !require() {
        return;
    }
    let (_lab, h1, h2) = two_hosts();
    let b = h2.node("b");
    let wrong = Node::named("w", &h1.host).cookie("wrong").start();
    assert!(!wrong.ping(&b));
    let closed = h2.guard.wait_event("closed", &[("reason", "wrong_cookie")]);
    assert_eq!(field(&closed, "claimed"), "w@h1.test");
    let guess = shake(&h1.host, &h2, &Initiator::named("x@h1.test").cookie("guess"));
    assert_eq!(guess, Shaken::Ended(Waited::Ack));
    h2.guard.wait_event("closed", &[("reason", "wrong_cookie"), ("claimed", "x@h1.test")]);
    assert_eq!(shake(&h1.host, &h2, &Initiator::named("x@h1.test")), Shaken::Up);
}

/// A ping of `to` at a time of the day, in milliseconds.
fn ping_at(from: &Node, to: &Node, when: u128) -> bool {
    let wait = format!("timer:sleep(max(0, {when} - erlang:system_time(millisecond)))");
    from.eval(&format!("{wait}, net_adm:ping('{}').", to.full_name())) == "pong"
}

/// So many milliseconds from now.
fn soon(wait: u128) -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() + wait
}

#[test]
fn nodes_that_call_each_other_at_once_link_each_time_and_their_handshakes_are_no_wrong_cookies() {
    if !require() {
        return;
    }
    let (lab, h1, h2) = two_hosts();
    let (a, b) = (alone(&h1, "a"), alone(&h2, "b"));
    for round in 0..50 {
        let when = soon(30);
        let (there, here) = std::thread::scope(|scope| {
            let there = scope.spawn(|| ping_at(&a, &b, when));
            let here = scope.spawn(|| ping_at(&b, &a, when));
            (there.join().unwrap(), here.join().unwrap())
        });
        assert!(there && here, "round {round}: {there} {here}");
        // The later of two handshakes is over by then.
        let (first, last) = if round % 2 == 0 { (&a, &b) } else { (&b, &a) };
        assert_eq!(first.eval(&format!("erlang:disconnect_node('{}').", last.full_name())), "true");
        eventually("the other one sees the link go", SOON, || last.eval("nodes().") == "[]");
    }
    let up = handshakes(&lab, &h1.host, "up") + handshakes(&lab, &h2.host, "up");
    let ends = |of: &Guarded| {
        ["refused_by_node", "abandoned"].iter().map(|end| handshakes(&lab, &of.host, end)).sum::<u64>()
    };
    let crossed = ends(&h1) + ends(&h2);
    assert!(up >= 50 && crossed > 0, "{up} links, and {crossed} handshakes that met another one");
    nobody_offended(&lab, &[&h1, &h2]);
}

#[test]
fn a_node_that_is_believed_to_be_linked_is_asked_and_takes_its_place_over() {
    if !require() {
        return;
    }
    let (lab, h1, h2) = two_hosts();
    let (a, b) = (alone(&h1, "a"), alone(&h2, "b"));
    assert!(a.ping(&b));
    h2.guard.wait_event("link_opened", &[("claimed", "a@h1.test")]);
    // One that says no leaves the link as it is.
    let says = Initiator::named("a@h1.test");
    let asked = h1.host.connect(at(&h2)).unwrap();
    send(&asked, &says.first_message()).unwrap();
    assert_eq!(messages(&asked, 1), framed(b"salive"));
    send(&asked, &framed(b"sfalse")).unwrap();
    h2.guard.wait_event("closed", &[("reason", "node_said_alive"), ("claimed", "a@h1.test")]);
    assert_eq!(a.eval("nodes()."), "['b@h2.test']");
    // One that says yes takes its place, and the other one does so in its turn.
    let log = h2.guard.mark();
    let taking = h1.host.connect(at(&h2)).unwrap();
    assert_eq!(says.shake(&taking), Shaken::Up);
    h2.guard.wait_event_after(log, "closed", &[("reason", "closed_by_upstream"), ("claimed", "a@h1.test")]);
    eventually("a sees its link go", SOON, || a.eval("nodes().") == "[]");
    assert!(a.ping(&b));
    drop(taking);
    assert_eq!(b.eval("nodes()."), "['a@h1.test']");
    nobody_offended(&lab, &[&h1, &h2]);
}

/// Drops all packets of the connection from this port of the host, both ways, for good.
fn cut_off(host: &Host, port: u16) {
    let mut nft = host.command("nft");
    nft.arg(format!(
        "add table inet cut; \
         add chain inet cut out {{ type filter hook output priority 0; }}; \
         add rule inet cut out oifname eth0 tcp sport {port} drop; \
         add chain inet cut in {{ type filter hook input priority 0; }}; \
         add rule inet cut in iifname eth0 tcp dport {port} drop"
    ));
    assert!(nft.status().unwrap().success());
}

#[test]
fn a_node_that_went_without_a_word_comes_back_in_the_place_of_its_old_link() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1", "h2"]);
    let h1 = Guarded::new(&lab, "h1", EVERYBODY);
    let config = format!("{}[limits]\nhalf_close_timeout = \"1s\"\n", front(EVERYBODY));
    let h2 = Guarded::with(&lab, "h2", &config);
    let (a, b) = (alone(&h1, "a"), alone(&h2, "b"));
    assert!(a.ping(&b));
    let opened = h2.guard.wait_event("link_opened", &[("claimed", "a@h1.test")]);
    let from: SocketAddr = field(&opened, "peer").parse().unwrap();
    cut_off(&h1.host, from.port());
    a.kill();
    h1.guard.wait_closed(9100);
    drop(a);
    let a = alone(&h1, "a");
    assert_eq!(b.eval("nodes()."), "['a@h1.test']", "it was told");
    let log = h2.guard.mark();
    assert!(a.ping(&b));
    h2.guard.wait_event_after(log, "link_opened", &[("claimed", "a@h1.test")]);
    // Nobody takes the end of the old one.
    h2.guard.wait_event_after(log, "closed", &[("reason", "half_closed"), ("id", &field(&opened, "id"))]);
    assert_eq!(a.eval("rpc:call('b@h2.test', erlang, nodes, [])."), "['a@h1.test']");
    nobody_offended(&lab, &[&h1, &h2]);
}

/// Waits until something waits to be read by what listens at 127.0.0.1:9100 of the host.
fn wait_unread(host: &Host) {
    eventually("bytes wait for the node", SOON, || {
        let table = host.inside(|| fs::read_to_string("/proc/thread-self/net/tcp").unwrap());
        table.lines().skip(1).any(|line| {
            let fields: Vec<_> = line.split_whitespace().collect();
            let established = fields[1] == "0100007F:238C" && fields[3] == "01";
            established && !fields[4].ends_with(":00000000")
        })
    });
}

/// Stops a VM where it stands. Its threads run on for a moment after the signal.
fn stop(node: &Node) {
    node.daemon().signal(Signal::STOP);
    let threads = format!("/proc/{}/task", node.daemon().pid());
    eventually("the VM stands still", SOON, || {
        fs::read_dir(&threads).unwrap().all(|thread| {
            let stat = fs::read_to_string(thread.unwrap().path().join("stat")).unwrap();
            // The name of the program, which may have spaces, is in brackets (proc_pid_stat(5)).
            stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T'))
        })
    });
}

#[test]
fn a_node_that_is_killed_in_mid_handshake_has_not_seen_a_wrong_cookie() {
    if !require() {
        return;
    }
    let (lab, h1, h2) = two_hosts();
    let says = Initiator::named("x@h1.test");
    let greeted = || {
        let stream = h1.host.connect(at(&h2)).unwrap();
        let challenge = says.greet(&stream).unwrap();
        (stream, challenge)
    };
    // Before the proof.
    let b = h2.node("b");
    let (stream, challenge) = greeted();
    b.kill();
    drop(send(&stream, &says.reply_to(&challenge)));
    h2.guard.wait_event("closed", &[("reason", "node_stopped"), ("claimed", "x@h1.test")]);
    h2.guard.wait_closed(9100);
    drop((stream, b));
    // Behind it.
    let b = h2.node("b");
    let (stream, challenge) = greeted();
    stop(&b);
    send(&stream, &says.reply_to(&challenge)).unwrap();
    wait_unread(&h2.host);
    b.kill();
    h2.guard.wait_event("closed", &[("reason", "node_stopped"), ("claimed", "x@h1.test")]);
    h2.guard.wait_closed(9100);
    drop((stream, b));
    let _b = h2.node("b");
    assert_eq!(shake(&h1.host, &h2, &says), Shaken::Up);
    nobody_offended(&lab, &[&h2]);
}

#[test]
fn a_node_that_stands_still_in_mid_handshake_is_given_up_and_has_not_seen_a_wrong_cookie() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1", "h2"]);
    let h1 = lab.host("h1");
    let config = format!("{}[limits]\nhandshake_timeout = \"1s\"\n", front(EVERYBODY));
    let h2 = Guarded::with(&lab, "h2", &config);
    let b = h2.node("b");
    let [asks, proves] = ["asks@h1.test", "proves@h1.test"].map(Initiator::named);
    let proving = h1.connect(at(&h2)).unwrap();
    let challenge = proves.greet(&proving).unwrap();
    stop(&b);
    send(&proving, &proves.reply_to(&challenge)).unwrap();
    let asking = h1.connect(at(&h2)).unwrap();
    send(&asking, &asks.first_message()).unwrap();
    for claimed in ["asks@h1.test", "proves@h1.test"] {
        let fields =
            [("reason", "handshake_timeout"), ("claimed", claimed), ("detail", "the node was silent")];
        h2.guard.wait_event("closed", &fields);
    }
    b.daemon().signal(Signal::CONT);
    // Not by a name that the node still believes to be in mid-handshake.
    assert_eq!(shake(&h1, &h2, &Initiator::named("later@h1.test")), Shaken::Up);
    nobody_offended(&lab, &[&h2]);
}

/// Nodes on two hosts, each of which is to have a link to each of the other host.
struct Storm {
    lab: Lab,
    sides: [(Guarded, Vec<Node>); 2],
}

impl Storm {
    const EACH: usize = 10;

    fn new() -> Self {
        let lab = Lab::new(&["h1", "h2"]);
        let sides = ["h1", "h2"].map(|name| {
            let side = Guarded::with(&lab, name, &registered(EVERYBODY));
            let node = |number| {
                let node = Node::named(&format!("n{number}"), &side.host).arg("-connect_all").arg("false");
                side.start(node.arg("+S").arg("1:1"))
            };
            let nodes = (0..Self::EACH).map(node).collect();
            (side, nodes)
        });
        Self { lab, sides }
    }

    fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.sides.iter().flat_map(|(_, nodes)| nodes)
    }

    /// All call all of the other host at the same moment, and again until they are linked.
    #[track_caller]
    fn link(&self) {
        let when = soon(500);
        let call = |from: &Node, to: &[Node]| {
            let names: Vec<_> = to.iter().map(|node| format!("'{}'", node.full_name())).collect();
            let names = names.join(",");
            from.eval(&format!(
                "timer:sleep(max(0, {when} - erlang:system_time(millisecond))), Own = self(), \
                 [spawn(fun() -> net_adm:ping(N), Own ! N end) || N <- [{names}]], \
                 [receive N -> N end || N <- [{names}]], length(nodes())."
            ))
        };
        let [(_, here), (_, there)] = &self.sides;
        std::thread::scope(|scope| {
            for (from, to) in
                here.iter().map(|node| (node, there)).chain(there.iter().map(|node| (node, here)))
            {
                scope.spawn(move || {
                    eventually("all are linked", SOON, || {
                        let linked = call(from, to);
                        if linked == Self::EACH.to_string() { Ok(()) } else { Err(linked) }
                    });
                });
            }
        });
    }
}

#[test]
fn a_storm_of_links_that_come_back_at_once_is_nobodys_fault() {
    if !require() {
        return;
    }
    let mut storm = Storm::new();
    storm.link();
    for round in 0..3 {
        if round == 1 {
            // The guards go, and every link with them.
            for (side, _) in &mut storm.sides {
                side.guard.stop();
                side.guard = Guard::start(&storm.lab, &side.host, &registered(EVERYBODY));
            }
            for (side, nodes) in &storm.sides {
                nodes.iter().for_each(|node| side.guard.wait_open(node.port()));
            }
        } else {
            let (_, here) = &storm.sides[0];
            for node in here {
                node.eval("[erlang:disconnect_node(N) || N <- nodes()].");
            }
        }
        for node in storm.nodes() {
            eventually("its links are gone", SOON, || {
                let linked = node.eval("length(nodes()).");
                if linked == "0" { Ok(()) } else { Err(linked) }
            });
        }
        storm.link();
        let [(h1, _), (h2, _)] = &storm.sides;
        nobody_offended(&storm.lab, &[h1, h2]);
    }
}
