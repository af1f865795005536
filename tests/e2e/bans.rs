//! Who guesses is slowed down and banned, and nobody else with him.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::claims::{alone, at, counted, link_and_unlink, refused, unlink};
use crate::common::{EVERYBODY, Guarded, require};
use crate::support::ends::Ends;
use crate::support::erlang::Node;
use crate::support::eventually::eventually;
use crate::support::guard::{Guard, SOON, USER, field, front};
use crate::support::handshake::{Initiator, Shaken, Waited};
use crate::support::host::Host;
use crate::support::lab::Lab;
use crate::support::said::told;
use crate::support::wire::{Ended, read_to_close, send};

/// What an initiator gives the node it dials, `net_setuptime`.
const SETUP: Duration = Duration::from_secs(7);
/// What the node prints of a wrong proof.
const WRONG_PROOF: &str = "Invalid challenge reply";

/// A guarded node `a` at port 9100 of `h1`, and hosts that are let in as a network.
struct Scene {
    lab: Lab,
    h1: Guarded,
    a: Node,
}

impl Scene {
    fn new(hosts: &[&str], config: &str) -> Self {
        let lab = Lab::new(hosts);
        let h1 = Guarded::with(&lab, "h1", &format!("{}{config}", front(EVERYBODY)));
        let a = h1.start(alone("a", &h1.host).port(9100));
        Self { lab, h1, a }
    }

    fn node(&self, name: &str, host: &str) -> Node {
        alone(name, &self.lab.host(host)).start()
    }

    /// Why each network is banned.
    fn bans(&self) -> BTreeMap<String, String> {
        let bans = told(&self.lab, &self.h1.host, &["bans", "--json"]).json();
        let bans = bans["bans"].as_array().unwrap();
        bans.iter().map(|ban| (field(ban, "network"), field(ban, "why"))).collect()
    }

    fn banned(&self, networks: &[&str]) {
        assert_eq!(self.bans().into_keys().collect::<Vec<_>>(), networks);
    }

    /// Proofs of another cookie that the guard has seen.
    fn wrong_cookies(&self) -> u64 {
        counted(&self.h1, &self.lab, "epmd_guard_handshakes_total{outcome=\"wrong_cookie\"}")
    }

    /// The same that the node has seen.
    fn wrong_proofs(&self) -> usize {
        self.a.output().iter().filter(|line| line.contains(WRONG_PROOF)).count()
    }

    /// Guesses from this address until it is banned: how many guesses it took.
    #[track_caller]
    fn guess_until_banned(&self, from: &Host, ip: IpAddr) -> u64 {
        let says = Initiator::named(&format!("guess@{}", from.name())).cookie("guess");
        let before = self.wrong_cookies();
        eventually("it is banned", SOON, || {
            guess(from, ip, self.at(ip), &says);
            self.bans().contains_key(&ip.to_string())
        });
        self.wrong_cookies() - before
    }

    /// Where an address of this family reaches the node.
    fn at(&self, ip: IpAddr) -> SocketAddr {
        let host = &self.h1.host;
        SocketAddr::new(if ip.is_ipv4() { host.v4().into() } else { host.v6().into() }, 9100)
    }
}

/// One guess from an address: what came of it, where it was let in.
fn guess(from: &Host, ip: IpAddr, to: SocketAddr, says: &Initiator) -> Option<Shaken> {
    // Who is refused may be gone before he has connected.
    Some(says.shake(&from.connect_from(ip, to).ok()?))
}

/// Whether a connection is ended before it has said anything.
fn is_turned_away(from: &Host, ip: IpAddr, to: SocketAddr) -> bool {
    match from.connect_from(ip, to) {
        Ok(stream) => {
            let outcome = read_to_close(&stream);
            assert_ne!(outcome.ended, Ended::TimedOut, "it may speak");
            outcome.ended == Ended::Reset
        }
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

/// Guesses until it is told to end, each time as soon as it can.
fn hammer(from: &Host, to: SocketAddr, says: &Initiator, tries: &AtomicU64, end: &AtomicBool) {
    while !end.load(Ordering::Relaxed) {
        let shaken = guess(from, from.v4().into(), to, says);
        assert!(!matches!(shaken, Some(Shaken::Up | Shaken::UpWithWrongProof)), "{shaken:?}");
        tries.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_node_with_a_wrong_cookie_is_slowed_and_banned_while_its_cousin_links_and_let_in_when_it_is_mended() {
    if !require() {
        return;
    }
    let scene = Scene::new(&["h1", "h2", "h3"], "[ban]\nafter = 6\nslow_after = 2\n");
    let Scene { lab, h1, a } = &scene;
    let cousin = scene.node("n", "h2");
    let wrong = alone("w", &lab.host("h3")).cookie("wrong").start();
    let end = AtomicBool::new(false);
    let rounds = thread::scope(|scope| {
        let cousin = scope.spawn(|| link_and_unlink(&cousin, a, &end));
        {
            let _end = Ends(&end);
            eventually("it is banned", SOON, || {
                assert!(!wrong.ping(a));
                !h1.guard.events("banned").is_empty()
            });
            assert!(!wrong.ping(a));
        }
        cousin.join().unwrap()
    });
    assert!(rounds > 3, "{rounds} links of its cousin meanwhile");
    assert_eq!(scene.wrong_cookies(), 6);
    eventually("the node has told all of them", SOON, || scene.wrong_proofs() == 6);
    let ip = ("peer", "192.0.2.3");
    h1.guard.wait_event("slowed_down", &[ip, ("reason", "wrong_cookie"), ("wait", "500ms")]);
    let banned = h1.guard.wait_event("banned", &[ip, ("reason", "wrong_cookie"), ("lasts", "1m")]);
    assert_eq!(field(&banned, "times"), "1");
    assert_eq!(scene.bans(), BTreeMap::from([("192.0.2.3".to_owned(), "wrong_cookie".to_owned())]));
    h1.guard.wait_event("refused", &[("peer", "192.0.2.3:*"), ("reason", "banned"), ("role", "epmd")]);
    assert!(is_turned_away(wrong.host(), wrong.host().v4().into(), at(h1)));
    h1.guard.wait_event("refused", &[("peer", "192.0.2.3:*"), ("reason", "banned"), ("role", "dist")]);

    let asked = ["explain", "--json", "--running", "--from", "192.0.2.3", "--to", "a"];
    let explained = told(lab, &h1.host, &asked).json();
    let last = explained["stages"].as_array().unwrap().last().unwrap();
    assert_eq!((field(last, "verdict"), field(last, "rule")), ("no".to_owned(), "[ban] after".to_owned()));

    assert_eq!(told(lab, &h1.host, &["unban", "192.0.2.3"]).code, 0);
    assert_eq!(wrong.eval("erlang:set_cookie(node(), secret)."), "true");
    let begun = Instant::now();
    assert!(wrong.ping(a));
    // The next try would have waited for 4 s.
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    scene.banned(&[]);
}

/// A tool of `h2` guesses without an end. The node of `h2` links within its time each time that it is started.
#[track_caller]
fn a_tool_keeps_nobody_out(scene: &Scene) {
    let Scene { lab, h1, a } = scene;
    let h2 = lab.host("h2");
    let tool = Initiator::named("tool@h2.test").cookie("old");
    let (end, tries) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| hammer(&h2, at(h1), &tool, &tries, &end));
        }
        let _end = Ends(&end);
        for round in 0..5 {
            let before = tries.load(Ordering::Relaxed);
            eventually("the tool goes on", SOON, || tries.load(Ordering::Relaxed) > before + 3);
            let n = scene.node("n", "h2");
            let begun = Instant::now();
            assert!(n.ping(a), "round {round}");
            assert!(begun.elapsed() < SETUP, "round {round}: {:?}", begun.elapsed());
            // As in a crash; its link goes with it.
            n.kill();
        }
        // The rounds may have been quick.
        eventually("the tool is slowed down", SOON, || {
            scene.wrong_cookies() > 3 && refused(h1, lab, "slowed_down") > 0
        });
    });
    scene.banned(&[]);
    assert_eq!(h1.guard.events("banned"), Vec::<Value>::new());
}

#[test]
fn a_stale_tool_does_not_keep_the_node_of_a_named_peer_out() {
    if !require() {
        return;
    }
    let peer = "[[peer]]\nname = \"h2\"\naddresses = [\"192.0.2.2\"]\n[ban]\nafter = 4\n";
    let scene = Scene::new(&["h1", "h2"], peer);
    a_tool_keeps_nobody_out(&scene);
}

#[test]
fn a_stale_tool_does_not_keep_the_node_of_an_address_out_that_had_a_good_link() {
    if !require() {
        return;
    }
    let scene = Scene::new(&["h1", "h2"], "[ban]\nafter = 4\n");
    let n = scene.node("n", "h2");
    assert!(n.ping(&scene.a));
    n.kill();
    a_tool_keeps_nobody_out(&scene);
}

#[test]
fn a_node_of_a_named_peer_links_within_its_time_when_it_is_given_the_right_cookie() {
    if !require() {
        return;
    }
    let peer = "[[peer]]\nname = \"h2\"\naddresses = [\"192.0.2.2\"]\n[ban]\nafter = 4\n";
    let scene = Scene::new(&["h1", "h2"], peer);
    let n = alone("n", &scene.lab.host("h2")).cookie("wrong").start();
    // The last of them waits for the longest that there is.
    for _ in 0..8 {
        assert!(!n.ping(&scene.a));
    }
    assert_eq!(n.eval("erlang:set_cookie(node(), secret)."), "true");
    assert!(n.ping(&scene.a));
    // And the next one not at all.
    unlink(&n, &scene.a);
    let begun = Instant::now();
    assert!(n.ping(&scene.a));
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    scene.banned(&[]);
}

/// Guesses at the cookie by one name for so long, by so many at a time: how many the node has answered by closing.
fn guesses(scene: &Scene, to: SocketAddr, at_once: usize, during: Duration) -> u64 {
    let h2 = scene.lab.host("h2");
    let says = Initiator::named("guess@h2.test").cookie("guess");
    let (answered, until) = (AtomicU64::new(0), Instant::now() + during);
    let guess_on = || {
        while Instant::now() < until {
            if guess(&h2, h2.v4().into(), to, &says) == Some(Shaken::Ended(Waited::Ack)) {
                answered.fetch_add(1, Ordering::Relaxed);
            }
        }
    };
    thread::scope(|scope| (0..at_once).for_each(|_| drop(scope.spawn(guess_on))));
    answered.into_inner()
}

#[test]
fn guesses_are_slowed_down_to_a_few_whether_they_come_one_by_one_or_side_by_side() {
    if !require() {
        return;
    }
    const LONG: Duration = Duration::from_secs(10);
    let mut seen = Vec::new();
    for at_once in [1, 32] {
        let scene = Scene::new(&["h1", "h2"], "[ban]\nafter = 0\n");
        let dialled = scene.h1.host.counter("lo", 9100);
        guesses(&scene, at(&scene.h1), at_once, LONG);
        let wrong = scene.wrong_proofs().max(scene.wrong_cookies() as usize);
        assert!(refused(&scene.h1, &scene.lab, "slowed_down") > 0 || at_once == 1);
        seen.push((at_once, wrong, dialled.count()));
    }
    // The same node without a guard.
    let scene = Scene::new(&["h1", "h2"], "");
    let _open = alone("open", &scene.h1.host).port(9111).anywhere().start();
    let open = guesses(&scene, SocketAddr::new(scene.h1.host.v4().into(), 9111), 1, LONG / 5) * 5;
    let told = format!(
        "in {LONG:?}: {open} guesses one by one without a guard; with one, (at once, guesses that the node judged, \
         handshakes that reached it): {seen:?}"
    );
    println!("{told}");
    for (at_once, wrong, _) in seen {
        // Those that are under way when the first is known to be wrong, and a few more.
        assert!(wrong > 3 && wrong <= at_once + 10, "{told}");
    }
    assert!(open > 1000, "{told}");
}

#[test]
fn this_host_itself_is_neither_slowed_nor_banned() {
    if !require() {
        return;
    }
    let scene = Scene::new(&["h1"], "[ban]\nafter = 5\nslow_after = 0\n");
    let Scene { lab, h1, a } = &scene;
    let says = Initiator::named("tool@h1.test").cookie("old");
    for _ in 0..50 {
        let shaken = guess(&h1.host, h1.host.v4().into(), at(h1), &says);
        assert_eq!(shaken, Some(Shaken::Ended(Waited::Ack)));
    }
    assert_eq!(scene.wrong_cookies(), 50);
    assert_eq!(counted(h1, lab, "epmd_guard_slowed_total"), 0);
    for event in ["slowed_down", "banned", "refused"] {
        assert_eq!(h1.guard.events(event), Vec::<Value>::new());
    }
    scene.banned(&[]);
    assert!(Node::named("tool", &h1.host).hidden().start().ping(a));
}

/// Makes so many other addresses good, so that no more are remembered than these.
fn make_good(scene: &Scene, from: &Host, count: u8) {
    for number in (100..).take(count.into()) {
        from.add_address(&format!("192.0.2.{number}/24"));
        let ip = IpAddr::from([192, 0, 2, number]);
        let says = Initiator::named(&format!("good{number}@{}", from.name()));
        assert_eq!(guess(from, ip, scene.at(ip), &says), Some(Shaken::Up), "{ip}");
    }
}

#[test]
fn the_links_of_an_address_that_is_banned_stay() {
    if !require() {
        return;
    }
    let forward = "[[forward]]\nkind = \"tcp\"\nports = 5370\n";
    let scene = Scene::new(&["h1", "h2"], &format!("[ban]\nafter = 4\nslow_after = 100\n{forward}"));
    let Scene { lab, h1, .. } = &scene;
    let h2 = lab.host("h2");
    let behind = h1.host.listen(SocketAddr::from(([127, 0, 0, 1], 5370))).unwrap();
    h1.guard.wait_open(5370);
    // Nothing is read of what it says, so that it makes nobody good.
    let link = h2.connect(SocketAddr::new(h1.host.v4().into(), 5370)).unwrap();
    let (mut carried, _) = behind.accept().unwrap();
    assert_eq!(scene.guess_until_banned(&h2, h2.v4().into()), 4);
    assert!(is_turned_away(&h2, h2.v4().into(), at(h1)));
    send(&link, b"on").unwrap();
    let mut said = [0; 2];
    carried.read_exact(&mut said).unwrap();
    assert_eq!(&said, b"on");
}

#[test]
fn who_holds_places_of_handshakes_and_does_not_go_on_is_banned() {
    if !require() {
        return;
    }
    let scene = Scene::new(&["h1", "h2"], "[limits]\nhandshake_timeout = \"1s\"\n[ban]\nafter = 2\n");
    let h2 = scene.lab.host("h2");
    // A node may hang: four of them count as one offence.
    let silent: Vec<_> = (0..8).map(|_| h2.connect(at(&scene.h1)).unwrap()).collect();
    let banned = scene.h1.guard.wait_event("banned", &[("peer", "192.0.2.2")]);
    assert_eq!(field(&banned, "reason"), "handshake_timeout");
    drop(silent);
    assert!(is_turned_away(&h2, h2.v4().into(), at(&scene.h1)));
}

#[test]
fn an_address_is_good_as_long_as_a_link_of_it_lives() {
    if !require() {
        return;
    }
    let scene = Scene::new(&["h1", "h2", "h3"], "[ban]\nafter = 4\nslow_after = 100\nentries = 64\n");
    let h2 = scene.lab.host("h2");
    let n = scene.node("n", "h2");
    assert!(n.ping(&scene.a));
    // When that link came up is remembered no more.
    make_good(&scene, &scene.lab.host("h3"), 64);
    let says = Initiator::named("guess@h2.test").cookie("guess");
    for _ in 0..8 {
        assert_eq!(guess(&h2, h2.v4().into(), at(&scene.h1), &says), Some(Shaken::Ended(Waited::Ack)));
    }
    scene.banned(&[]);
    unlink(&n, &scene.a);
    assert!(n.ping(&scene.a));
}

/// Where bans are kept, which is the guard's own.
fn kept_in(lab: &Lab) -> PathBuf {
    lab.host("h1").dir_of(USER, "state").join("bans.jsonl")
}

#[test]
fn bans_outlive_the_guard_however_it_ends_and_a_broken_file_does_not_keep_it_from_starting() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1", "h2", "h3", "h4"]);
    let file = kept_in(&lab);
    let ban = format!("[ban]\nafter = 3\nfirst = \"1h\"\nfile = {file:?}\n");
    let config = format!("{}{ban}", front(EVERYBODY));
    let h1 = Guarded::with(&lab, "h1", &config);
    let a = h1.start(alone("a", &h1.host).port(9100));
    let mut scene = Scene { lab, h1, a };
    let [h2, h3, h4] = ["h2", "h3", "h4"].map(|name| scene.lab.host(name));
    let start = |scene: &mut Scene| {
        scene.h1.guard = Guard::start(&scene.lab, &scene.h1.host, &config);
        scene.h1.guard.wait_open(9100);
    };
    assert!(alone("n", &h2).start().ping(&scene.a));
    scene.guess_until_banned(&h3, h3.v4().into());
    scene.h1.guard.stop();
    start(&mut scene);
    scene.h1.guard.wait_event("bans_recalled", &[("bans", "1"), ("good", "1")]);
    scene.banned(&["192.0.2.3"]);
    assert!(is_turned_away(&h3, h3.v4().into(), at(&scene.h1)));

    scene.guess_until_banned(&h4, h4.v4().into());
    eventually("it is written", SOON, || fs::read_to_string(&file).unwrap().contains("192.0.2.4"));
    scene.h1.guard.daemon().kill();
    start(&mut scene);
    scene.h1.guard.wait_event("bans_recalled", &[("bans", "2"), ("good", "1")]);
    scene.banned(&["192.0.2.3", "192.0.2.4"]);

    scene.h1.guard.stop();
    let half = fs::read(&file).unwrap();
    fs::write(&file, &half[..half.len() / 2]).unwrap();
    start(&mut scene);
    let told = scene.h1.guard.wait_event("bans_not_read", &[("file", &file.display().to_string())]);
    let aside = fs::read(field(&told, "aside")).unwrap();
    assert_eq!(aside, half[..half.len() / 2]);
    scene.banned(&[]);
    assert!(alone("n", &h3).start().ping(&scene.a));
}

#[test]
fn a_network_of_offenders_is_banned_as_a_whole_but_for_its_good_addresses() {
    if !require() {
        return;
    }
    let scene = Scene::new(&["h1", "h2", "h3", "h4"], "[ban]\nafter = 3\n");
    let Scene { lab, h1, a } = &scene;
    let n = alone("n", &lab.host("h2")).inet6().start();
    assert!(n.ping(a));
    // None of its addresses has offended often enough to be banned by itself.
    let h3 = lab.host("h3");
    for number in 1..=6u8 {
        let ip: IpAddr = format!("2001:db8::3:{number}").parse().unwrap();
        h3.add_address(&format!("{ip}/64"));
        for _ in 0..2 {
            let stream = h3.connect_from(ip, scene.at(ip)).unwrap();
            // It may be gone before all of it is sent.
            drop(send(&stream, b"GET / HTTP/1.1\r\n\r\n"));
            assert_ne!(read_to_close(&stream).ended, Ended::TimedOut);
        }
    }
    let banned = [("net", "2001:db8::/64"), ("reason", "no_handshake"), ("peer", "2001:db8::3:6")];
    h1.guard.wait_event("banned", &banned);
    scene.banned(&["2001:db8::/64"]);
    let h4 = lab.host("h4");
    assert!(is_turned_away(&h4, h4.v6().into(), scene.at(h4.v6().into())), "it has done nothing itself");
    assert!(alone("n", &h4).start().ping(a), "its other address is in no such network");
    unlink(&n, a);
    assert!(n.ping(a), "it had a good link");
    let own = h1.host.v6().into();
    let says = Initiator::named("own@h1.test");
    assert_eq!(guess(&h1.host, own, scene.at(own), &says), Some(Shaken::Up));
    assert_eq!(told(lab, &h1.host, &["unban", &h4.v6().to_string()]).code, 0);
    assert!(alone("m", &h4).inet6().start().ping(a));
}

#[test]
fn in_observe_mode_the_same_offences_keep_nobody_out() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1", "h2"]);
    let config = front(EVERYBODY).replace("[dist]", "mode = \"observe\"\n[dist]");
    let config = format!("{config}[ban]\nafter = 4\nslow_after = 1\nnames = 2\n");
    let h1 = Guarded::with(&lab, "h1", &config);
    let a = h1.start(alone("a", &h1.host).port(9100));
    let scene = Scene { lab, h1, a };
    let h2 = scene.lab.host("h2");
    let begun = Instant::now();
    for number in 0..8 {
        let says = Initiator::named(&format!("x{}@h2.test", number / 2)).cookie("old");
        let shaken = guess(&h2, h2.v4().into(), at(&scene.h1), &says);
        assert_eq!(shaken, Some(Shaken::Ended(Waited::Ack)), "{number}");
    }
    let says = Initiator::named("x0@h2.test").cookie("old");
    for _ in 0..4 {
        assert_eq!(guess(&h2, h2.v4().into(), at(&scene.h1), &says), Some(Shaken::Ended(Waited::Ack)));
    }
    eventually("the node has seen all of them", SOON, || scene.wrong_proofs() == 12);
    assert!(scene.node("n", "h2").ping(&scene.a));
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    for reason in ["banned", "slowed_down", "too_many_claimed_names"] {
        scene.h1.guard.wait_event("would_refuse", &[("reason", reason), ("peer", "192.0.2.2:*")]);
    }
    assert_eq!(scene.h1.guard.events("refused"), Vec::<Value>::new());
    // What was only told of does not come into force.
    scene.h1.guard.wait_event("would_ban", &[("net", "192.0.2.2/32")]);
    assert_eq!(told(&scene.lab, &scene.h1.host, &["mode", "enforce", "--for", "1m"]).code, 0);
    assert_eq!(guess(&h2, h2.v4().into(), at(&scene.h1), &Initiator::named("y@h2.test")), Some(Shaken::Up));
}
