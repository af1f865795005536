//! Legs that break, and the links that go on over others.

use std::time::{Duration, Instant};

use crate::common::require;
use crate::support::daemon::{Mark, Signal};
use crate::support::erlang::Node;
use crate::support::eventually::eventually;
use crate::support::guard::{Guard, SOON, field};
use crate::support::host::Way;
use crate::support::said::told;
use crate::support::sequence;
use crate::support::tunnel::{Scene, SceneBuilder};

/// Two nodes that send each other numbered messages, through guards one of whose legs is about to break.
struct Loaded {
    a: Node,
    b: Node,
    scene: Scene,
}

impl Loaded {
    #[track_caller]
    fn start(shape: SceneBuilder) -> Self {
        let scene = shape.start();
        let (a, b) = (scene.hosts[0].node("a").start(), scene.hosts[1].node("b").start());
        assert!(a.ping(&b));
        for node in [&a, &b] {
            sequence::watch(node);
            sequence::receive(node);
        }
        sequence::send(&a, &b);
        sequence::send(&b, &a);
        let loaded = Self { a, b, scene };
        loaded.moves_on();
        loaded
    }

    fn guards(&self) -> [&Guard; 2] {
        [&self.scene.hosts[0].guard, &self.scene.hosts[1].guard]
    }

    /// Messages arrive both ways.
    #[track_caller]
    fn moves_on(&self) {
        sequence::wait_more(&self.a, 200);
        sequence::wait_more(&self.b, 200);
    }

    /// The legs are reset on their way to the second host, and replaced.
    #[track_caller]
    fn reset_legs(&self) {
        let host = &self.scene.hosts[1].host;
        let marks = self.guards().map(Guard::mark);
        host.filter(Way::In, "tcp dport 4371 reject with tcp reset");
        self.guards()[0].wait_event_after(marks[0], "leg_lost", &[]);
        host.lift();
        self.goes_on_by_other_legs(marks);
    }

    /// Since these marks each guard has got another leg, and messages arrive by it.
    #[track_caller]
    fn goes_on_by_other_legs(&self, marks: [Mark; 2]) {
        for (guard, mark) in self.guards().iter().zip(marks) {
            guard.wait_event_after(mark, "leg_resumed", &[]);
        }
        self.moves_on();
    }

    /// All that was sent has come once, and no node has noticed anything.
    #[track_caller]
    fn nothing_was_lost(&self) {
        for (from, to) in [(&self.a, &self.b), (&self.b, &self.a)] {
            let sent = sequence::stop(from);
            sequence::all_came(to, sent);
        }
        for node in [&self.a, &self.b] {
            assert_eq!(sequence::seen(node), "[]", "{} saw nodes come or go", node.full_name());
        }
        for guard in self.guards() {
            assert_eq!(
                guard.events("closed").iter().filter(|event| field(event, "role") == "dist").count(),
                0
            );
        }
    }
}

#[test]
fn a_leg_that_is_reset_is_replaced_and_no_node_notices() {
    if !require() {
        return;
    }
    let loaded = Loaded::start(Scene::of(&["h1", "h2"]));
    for _ in 0..3 {
        loaded.reset_legs();
    }
    loaded.nothing_was_lost();
}

#[test]
fn a_guard_that_drains_keeps_its_links_though_a_leg_breaks_and_takes_no_new_ones() {
    if !require() {
        return;
    }
    let loaded = Loaded::start(Scene::of(&["h1", "h2"]));
    let h2 = &loaded.scene.hosts[1];
    let said = told(&loaded.scene.lab, &h2.host, &["drain"]);
    assert_eq!(said.code, 0, "{said:?}");
    loaded.reset_legs();
    let other = loaded.scene.hosts[0].node("other").start();
    assert!(!other.ping(&loaded.b), "a new link came up");
    h2.guard.wait_event("refused", &[("reason", "draining")]);
    loaded.nothing_was_lost();
}

#[test]
fn both_guards_call_a_link_by_one_name() {
    if !require() {
        return;
    }
    let scene = Scene::of(&["h1", "h2"]).start();
    let [h1, h2] = &scene.hosts[..] else { panic!("two hosts") };
    let (a, b) = (h1.node("a").start(), h2.node("b").start());
    assert!(a.ping(&b));
    let _ = a.stop();
    let link = [("role", "dist"), ("claimed", "a@h1.test")];
    let [dialled, answered] = [h1, h2].map(|at| at.guard.wait_event("closed", &link));
    assert!(!field(&dialled, "link").is_empty());
    assert_eq!(field(&dialled, "link"), field(&answered, "link"));
    assert_eq!(field(&dialled, "peer"), field(&answered, "source"));
    assert_eq!(dialled["id"], answered["trace"]);
}

/// For 20 s the second host drops what goes these ways between the guards.
#[track_caller]
fn dead_for_twenty_seconds(ways: &[Way]) {
    let loaded = Loaded::start(Scene::of(&["h1", "h2"]));
    let host = &loaded.scene.hosts[1].host;
    let marks = loaded.guards().map(Guard::mark);
    for &way in ways {
        host.filter(way, "tcp dport 4371 drop");
        host.filter(way, "tcp sport 4371 drop");
    }
    let dead = Instant::now();
    loaded.guards()[0].wait_event_after(marks[0], "leg_lost", &[("reason", "silent")]);
    eventually("20 s are over", SOON, || dead.elapsed() >= Duration::from_secs(20));
    host.lift();
    loaded.goes_on_by_other_legs(marks);
    loaded.nothing_was_lost();
}

#[test]
fn a_network_that_is_dead_for_twenty_seconds_costs_no_link() {
    if !require() {
        return;
    }
    dead_for_twenty_seconds(&[Way::In, Way::Out]);
}

#[test]
fn a_network_that_is_dead_from_the_side_that_dials_for_twenty_seconds_costs_no_link() {
    if !require() {
        return;
    }
    dead_for_twenty_seconds(&[Way::In]);
}

#[test]
fn a_network_that_is_dead_towards_the_side_that_dials_for_twenty_seconds_costs_no_link() {
    if !require() {
        return;
    }
    dead_for_twenty_seconds(&[Way::Out]);
}

/// Has the host of this number leave its addresses for another one, which its name leads to then.
#[track_caller]
fn moves(number: usize) {
    let resolve = "[cluster]\nresolve_every = \"1s\"\n[epmd]\nbackend = \"127.0.0.1:4369\"\n";
    let loaded = Loaded::start(Scene::of(&["h1", "h2"]).by_name().sections(resolve));
    let hosts = [0, 1].map(|at| &loaded.scene.hosts[at].host);
    let marks = loaded.guards().map(Guard::mark);
    // Legs that go by IPv6 lose their address too, and find no other.
    for host in hosts {
        host.replace_hosts(|line| (!line.starts_with("2001:db8:")).then(|| line.to_owned()));
    }
    let moving = hosts[number];
    moving.remove_address(&format!("{}/64", moving.v6()));
    moving.remove_address(&format!("{}/24", moving.v4()));
    moving.add_address("192.0.2.77/24");
    let old = format!("{} ", moving.v4());
    for host in hosts {
        host.replace_hosts(|line| Some(line.replace(&old, "192.0.2.77 ")));
    }
    loaded.guards()[0].wait_event_after(marks[0], "leg_lost", &[]);
    loaded.goes_on_by_other_legs(marks);
    loaded.nothing_was_lost();
}

#[test]
fn a_guard_whose_address_moves_keeps_its_links() {
    if !require() {
        return;
    }
    moves(1);
}

#[test]
fn a_guard_that_has_dialled_and_whose_address_moves_keeps_its_links() {
    if !require() {
        return;
    }
    moves(0);
}

#[test]
fn a_guard_keeps_no_more_of_a_link_without_a_leg_than_it_may_and_nothing_is_lost() {
    if !require() {
        return;
    }
    let sections = "[epmd]\nbackend = \"127.0.0.1:4369\"\n[limits]\nreplay_per_link = \"1MiB\"\n";
    let loaded = Loaded::start(Scene::of(&["h1", "h2"]).sections(sections));
    let host = &loaded.scene.hosts[1].host;
    let before = loaded.guards().map(|guard| guard.size().1);
    let marks = loaded.guards().map(Guard::mark);
    for way in [Way::In, Way::Out] {
        host.filter(way, "tcp dport 4371 drop");
        host.filter(way, "tcp sport 4371 drop");
    }
    // The nodes send 7 MiB a second meanwhile, as far as anybody takes it.
    for (guard, mark) in loaded.guards().iter().zip(marks) {
        guard.wait_event_after(mark, "leg_lost", &[("reason", "silent")]);
    }
    for (guard, before) in loaded.guards().iter().zip(before) {
        let now = guard.size().1;
        assert!(now < before + 4 * 1024, "from {before} to {now} KiB");
    }
    host.lift();
    loaded.goes_on_by_other_legs(marks);
    loaded.nothing_was_lost();
}

#[test]
fn a_leg_that_does_not_come_back_in_time_ends_both_ends_of_its_link() {
    if !require() {
        return;
    }
    let loaded = Loaded::start(Scene::of(&["h1", "h2"]).tls("resume_for = \"3s\""));
    let host = &loaded.scene.hosts[1].host;
    for way in [Way::In, Way::Out] {
        host.filter(way, "tcp dport 4371 drop");
        host.filter(way, "tcp sport 4371 drop");
    }
    for (node, other) in [(&loaded.a, &loaded.b), (&loaded.b, &loaded.a)] {
        let down = format!("{{nodedown,'{}'}}", other.full_name());
        eventually(&format!("{} hears {down}", node.full_name()), SOON, || {
            let seen = sequence::seen(node);
            if seen.contains(&down) { Ok(()) } else { Err(seen) }
        });
    }
    for guard in loaded.guards() {
        guard.wait_event("link_not_resumed", &[]);
        guard.wait_event("closed", &[("role", "dist"), ("reason", "leg_lost")]);
    }
}

#[test]
fn a_node_that_takes_nothing_for_long_costs_no_leg_and_hears_all_once_when_it_goes_on() {
    if !require() {
        return;
    }
    let loaded = Loaded::start(Scene::of(&["h1", "h2"]));
    let host = &loaded.scene.hosts[1].host;
    loaded.b.daemon().signal(Signal::STOP);
    let stopped = Instant::now();
    // Longer than a leg may be silent.
    eventually("14 s are over", SOON, || stopped.elapsed() >= Duration::from_secs(14));
    for guard in loaded.guards() {
        assert!(guard.events("leg_lost").is_empty(), "a leg was given up that a node has only held up");
    }
    // What the guard of the stopped node holds for it is in nobody's hands but its own.
    host.filter(Way::In, "tcp dport 4371 reject with tcp reset");
    loaded.guards()[0].wait_event("leg_lost", &[]);
    host.lift();
    for guard in loaded.guards() {
        guard.wait_event("leg_resumed", &[]);
    }
    loaded.b.daemon().signal(Signal::CONT);
    loaded.moves_on();
    loaded.nothing_was_lost();
}
