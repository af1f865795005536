//! What the running guard says of itself, to whom, and that asking it harms nothing.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::{EVERYBODY, Guarded, UNPACED, require};
use crate::support::daemon::{Daemon, Signal};
use crate::support::ends::Ends;
use crate::support::erlang::Node;
use crate::support::eventually::eventually;
use crate::support::guard::{Guard, SOON, USER, admin_socket, configure, field, front, program};
use crate::support::handshake::{self, Initiator};
use crate::support::host::Host;
use crate::support::lab::Lab;
use crate::support::said::{Said, command, curl, told};
use crate::support::wire::{ask, send};

/// Names the other host.
const PEER: &str = "[[peer]]\nname = \"h2\"\naddresses = [\"192.0.2.2\", \"2001:db8::2\"]\n";
/// A stall is one that a node or an operator would notice; everything here takes milliseconds, and a guard that
/// waits for somebody waits for 5 s.
const STALL: Duration = Duration::from_secs(3);

/// A guarded host that knows its peer `h2` by name, and that peer.
fn known_peer(lab: &Lab) -> (Guarded, Guarded) {
    let h1 = Guarded::with(lab, "h1", &format!("{}{UNPACED}{PEER}", front(&[])));
    (h1, Guarded::new(lab, "h2", EVERYBODY))
}

/// A node of this name and port that makes no links but those that it is told to make.
fn alone(of: &Guarded, name: &str, port: u16) -> Node {
    of.start(Node::named(name, &of.host).hidden().port(port).arg("-connect_all").arg("false"))
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// The series of the guard, each with its value.
fn metrics(host: &Host, socket: &Path) -> BTreeMap<String, f64> {
    let said = curl(host, socket, "/metrics");
    assert!(said.code == 0 && said.out.ends_with("# EOF\n"), "{said:?}");
    let series = said.out.lines().filter(|line| !line.starts_with('#')).map(|line| {
        let (name, value) = line.rsplit_once(' ').unwrap();
        (name.strip_prefix("epmd_guard_").unwrap().to_owned(), value.parse().unwrap())
    });
    series.collect()
}

/// Waits until all of these series have these values.
#[track_caller]
fn wait_for(host: &Host, socket: &Path, expected: &[(&str, f64)]) {
    eventually(&format!("{expected:?}"), SOON, || {
        let now = metrics(host, socket);
        let is_other = |(name, value): &&(&str, f64)| now.get(*name) != Some(value);
        let wrong = expected.iter().find(is_other).map(|(name, _)| (*name, now.get(*name).copied()));
        wrong.map_or(Ok(()), |wrong| Err(format!("{wrong:?}")))
    });
}

/// Has `of` answer whoever sends to its process `echo`.
fn echo(of: &Node) {
    let echo = "true = register(echo, spawn(fun L() -> receive {From, N} -> From ! N, L() end end)), ok.";
    assert_eq!(of.eval(echo), "ok");
}

/// Has `from` go to and fro between itself and the echo of `to` without an end.
fn go_to_and_fro(from: &Node, to: &Node) {
    let loops = format!(
        "true = register(meter, spawn(fun() -> \
           Loop = fun L(N, Most) -> \
             T = erlang:monotonic_time(microsecond), \
             {{echo, '{}'}} ! {{self(), N}}, receive N -> ok end, \
             Took = max(Most, erlang:monotonic_time(microsecond) - T), \
             receive {{ask, From}} -> From ! {{meter, N + 1, Took}}, L(0, 0) after 2 -> L(N + 1, Took) end \
           end, Loop(0, 0) end)), ok.",
        to.full_name()
    );
    assert_eq!(from.eval(&loops), "ok");
}

/// Round trips since the last time, and how long the slowest took.
fn round_trips(of: &Node) -> (u64, Duration) {
    let said = of.eval("meter ! {ask, self()}, receive {meter, N, Most} -> {N, Most} end.");
    let (count, most) = said.trim_matches(['{', '}']).split_once(',').unwrap();
    (count.parse().unwrap(), Duration::from_micros(most.parse().unwrap()))
}

#[test]
fn all_that_can_be_asked_is_answered_while_a_link_is_up() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1", "h2"]);
    let (h1, h2) = known_peer(&lab);
    let (a, b) = (alone(&h1, "a", 9100), alone(&h2, "b", 9100));
    assert!(b.ping(&a));
    let socket = admin_socket(&lab, &h1.host);
    let asked = |path| curl(&h1.host, &socket, path);
    assert_eq!(asked("/healthz").out, "ok\n");
    let ready = asked("/readyz");
    assert_eq!((ready.code, ready.out.as_str()), (0, "ready\n"));

    let status = asked("/status").json();
    assert_eq!(
        (&status["ready"], &status["links"], &status["generation"]),
        (&true.into(), &1.into(), &1.into())
    );
    assert_eq!(status["pid"], h1.guard.daemon().pid());
    assert_eq!(status["warnings"], Value::Array(Vec::new()));
    let peer = &status["peers"][0];
    assert_eq!((&peer["name"], &peer["links"]), (&"h2".into(), &1.into()), "{status}");
    let links = asked("/links").json();
    let link = &links["links"][0];
    assert!(field(link, "peer").starts_with("192.0.2.2:"), "{links}");
    for (name, value) in
        [("peer_name", "h2"), ("node", "a"), ("standing", "peer"), ("listener", "192.0.2.1:9100")]
    {
        assert_eq!(field(link, name), value, "{links}");
    }
    let line = field(link, "rule");
    assert!(line.contains("192.0.2.2") && line.contains("(line "), "{line}");
    assert!(metrics(&h1.host, &socket).contains_key("links"));
    // The commands, as an operator sees them.
    let status = told(&lab, &h1.host, &["status"]);
    assert_eq!(status.code, 0, "{status:?}");
    for part in ["\nREADY\n", "1 link, 1 connection\n", "192.0.2.1:9100      open   peers  9100    a\n"] {
        assert!(status.out.contains(part), "{part:?}: {}", status.out);
    }
    assert_eq!(told(&lab, &h1.host, &["status", "--json"]).json()["links"], 1);
    let links = told(&lab, &h1.host, &["links"]);
    assert!(links.code == 0 && links.out.contains("h2    192.0.2.1:9100 a"), "{}", links.out);
    assert_eq!(told(&lab, &h1.host, &["links", "--json"]).json()["links"][0]["peer_name"], "h2");
}

#[test]
fn hosts_without_a_name_of_their_own_are_listed_while_they_have_a_link() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1", "h2"]);
    let (h1, h2) = (Guarded::new(&lab, "h1", EVERYBODY), Guarded::new(&lab, "h2", EVERYBODY));
    let (a, b) = (alone(&h1, "a", 9100), alone(&h2, "b", 9100));
    let tool = Node::named("tool", &h1.host).hidden().port(9101).start();
    let peers = || told(&lab, &h1.host, &["status", "--json"]).json()["peers"].clone();
    // This host itself is no peer.
    assert!(tool.ping(&a));
    assert_eq!(peers(), Value::Array(Vec::new()));
    let none = told(&lab, &h1.host, &["status"]).out;
    assert!(
        none.contains("no peers: no link of another host is up, and no [[peer]] is configured"),
        "{none}"
    );
    assert!(b.ping(&a));
    let status = told(&lab, &h1.host, &["status"]).out;
    assert!(status.contains("\n192.0.2.2  1           "), "{status}");
    // No series comes of it.
    let socket = admin_socket(&lab, &h1.host);
    assert!(metrics(&h1.host, &socket).keys().all(|name| !name.contains("peer=")));
    b.kill();
    eventually("it goes with its link", SOON, || peers() == Value::Array(Vec::new()));
}

#[test]
fn exit_codes_tell_a_script_what_the_words_tell_a_person() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1"]);
    let h1 = Guarded::new(&lab, "h1", EVERYBODY);
    let told = |args: &[&str]| told(&lab, &h1.host, args);
    assert_eq!(told(&["status"]).code, 0);
    let draining = told(&["drain"]);
    assert!(draining.code == 0 && draining.out.starts_with("draining:"), "{draining:?}");
    let status = told(&["status"]);
    assert!(status.out.contains("\nNOT READY: it drains"), "{status:?}");
    assert!(status.out.contains("DRAINING: nothing new of peers is let in"), "{status:?}");
    assert_eq!(status.code, 1);
    assert_eq!(curl(&h1.host, &admin_socket(&lab, &h1.host), "/readyz").code, 22, "what curl makes of a 503");
    assert_eq!(told(&["drain", "--off"]).code, 0);
    assert_eq!(told(&["status"]).code, 0);

    // A reload that is refused: the guard works, the command fails, and says what is wrong in one place each.
    let path = configure(&lab, &h1.host, "[cluster]\nalow = [\"192.0.2.2\"]\n");
    let refused = told(&["reload"]);
    assert_eq!(refused.code, 1);
    assert!(refused.err.contains("alow") && refused.err.contains("nothing has changed"), "{refused:?}");
    let status = told(&["status"]);
    assert_eq!(status.code, 0, "it is ready: {status:?}");
    assert!(status.out.contains("\nLAST RELOAD REFUSED at "), "{}", status.out);
    assert!(!status.out.contains("\\u{a}"), "lines are lines: {}", status.out);
    let place = format!("{}:2:", path.display());
    assert_eq!(status.out.matches(&place).count(), 1, "the place, once: {}", status.out);
    let check = command(&lab, &h1.host, ["check", "--config", &path.display().to_string()]);
    assert_eq!(check.code, 78, "{check:?}");
    h1.guard.stop();
    let gone = told(&["status"]);
    assert!(gone.code == 1 && gone.err.contains("no guard answers at"), "{gone:?}");
}

#[test]
fn a_watched_guard_is_shown_again_and_again_until_ctrl_c() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1"]);
    let h1 = Guarded::new(&lab, "h1", EVERYBODY);
    let mut command = h1.host.command(program(&lab));
    command.args(["status", "--watch", "1", "--socket"]).arg(admin_socket(&lab, &h1.host));
    let watching = Daemon::spawn("status --watch", command);
    let is_shown = |words: &str| {
        let mark = watching.mark();
        watching.wait_line_after(mark, words, SOON, |line| line == words);
    };
    let head = format!("epmd-guard {}, process {}, up ", env!("CARGO_PKG_VERSION"), h1.guard.daemon().pid());
    eventually("it is shown twice", SOON, || {
        watching.lines().iter().filter(|line| line.starts_with(&head)).count() >= 2
    });
    is_shown("READY");
    // What changes meanwhile is seen.
    assert_eq!(told(&lab, &h1.host, &["drain"]).code, 0);
    eventually("the drain is shown", SOON, || {
        watching.lines().iter().any(|line| line.starts_with("NOT READY: it drains"))
    });
    assert_eq!(told(&lab, &h1.host, &["drain", "--off"]).code, 0);
    is_shown("READY");
    assert_eq!(watching.exit_status(), None, "it ends by itself");
    watching.signal(Signal::INT);
    let (status, output) = watching.finish(SOON);
    assert_eq!(status.code(), Some(0), "{output}");
    assert!(!output.contains('\u{1b}'), "a terminal's orders in a pipe: {output:?}");
}

#[test]
fn the_socket_is_the_guards_own_and_another_user_is_told_whose() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1"]);
    let h1 = Guarded::new(&lab, "h1", EVERYBODY);
    let socket = admin_socket(&lab, &h1.host);
    assert_eq!(mode(&socket), 0o600);
    for (user, code) in [(USER, 0), ("nobody", 1)] {
        let mut status = h1.host.command_as(user, program(&lab));
        status.arg("status").arg("--socket").arg(&socket);
        let said = Said::by(status);
        assert_eq!(said.code, code, "{user}: {said:?}");
        if code == 1 {
            let told = "may be asked by root and the user that it runs as";
            assert!(said.err.contains(told) && said.out.is_empty(), "{said:?}");
        }
    }
}

#[test]
fn a_group_may_use_the_socket_if_the_guard_belongs_to_it() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1"]);
    let host = lab.host("h1");
    let socket = admin_socket(&lab, &host);
    let config =
        |group: &str| format!("{}[admin]\nsocket = {socket:?}\ngroup = {group:?}\n", front(EVERYBODY));
    let as_member = |program: &Path| {
        let mut command = host.command("setpriv");
        command.args(["--reuid=nobody", "--regid=daemon", "--clear-groups", "--"]).arg(program);
        command.arg("status").arg("--socket").arg(&socket);
        Said::by(command)
    };
    let guard = Guard::start(&lab, &host, &config(USER));
    guard.wait_event("admin_opened", &[]);
    assert_eq!(mode(&socket), 0o660);
    assert_eq!(fs::metadata(&socket).unwrap().gid(), 1, "the group daemon");
    let member = as_member(&program(&lab));
    assert_eq!(member.code, 0, "{member:?}");
    let mut other = host.command_as("nobody", program(&lab));
    other.arg("status").arg("--socket").arg(&socket);
    let other = Said::by(other);
    assert!(
        other.code == 1 && other.err.contains("root, the user that it runs as and the group daemon"),
        "{other:?}"
    );
    guard.stop();

    // A group that the guard's user is no member of: shut rather than open, and told.
    let guard = Guard::start(&lab, &host, &config("adm"));
    let event = guard.wait_event("admin_group_not_set", &[("group", "adm")]);
    assert!(field(&event, "help").contains("member"), "{event}");
    eventually("the socket is there", SOON, || socket.exists());
    assert_eq!(mode(&socket), 0o600);
    assert_eq!(as_member(&program(&lab)).code, 1);
}

#[test]
fn a_loopback_port_answers_questions_and_takes_no_orders() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1", "h2"]);
    let socket = admin_socket(&lab, &lab.host("h1"));
    let admin = format!("[admin]\nsocket = {socket:?}\nlisten = [\"127.0.0.1:9568\"]\n");
    let h1 = Guarded::with(&lab, "h1", &format!("{}{admin}", front(EVERYBODY)));
    h1.guard.wait_event("admin_opened", &[("listener", "127.0.0.1:9568")]);
    let status = |args: &[&str]| {
        let mut command = h1.host.command("curl");
        command.args(["-sS", "--max-time", "30", "-o", "/dev/null", "-w", "%{http_code}"]).args(args);
        Said::by(command).out
    };
    let url = |path: &str| format!("http://127.0.0.1:9568{path}");
    for path in ["/healthz", "/readyz", "/status", "/metrics"] {
        assert_eq!(status(&[&url(path)]), "200", "{path}");
    }
    for path in ["/reload", "/reload?yes=1", "/drain", "/check", "/status"] {
        assert_eq!(status(&["-X", "POST", "-d", "", &url(path)]), "403", "{path}");
    }
    // Whom the links are with, and what the rules are, is not for every user of the host.
    for path in ["/reload", "/links", "/explain?from=192.0.2.2&to=9100"] {
        assert_eq!(status(&[&url(path)]), "403", "{path}");
    }
    // A web page whose own name leads here.
    assert_eq!(status(&["-H", "Host: evil.example.net", &url("/status")]), "403");
    let state = curl(&h1.host, &socket, "/status").json();
    assert_eq!((&state["state"], &state["generation"]), (&"open".into(), &1.into()));
    // From elsewhere there is no such port.
    let outside = SocketAddr::new(h1.host.v4().into(), 9568);
    assert!(lab.host("h2").connect(outside).is_err());
}

#[test]
fn the_series_say_exactly_what_happened() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1", "h2", "h3"]);
    let (h1, h2) = known_peer(&lab);
    let socket = admin_socket(&lab, &h1.host);
    let now = || metrics(&h1.host, &socket);
    let a = alone(&h1, "a", 9100);
    let (b, c) = (alone(&h2, "b", 9100), alone(&h2, "c", 9101));
    let before = now();
    assert_eq!(before.get("peer_links{peer=\"h2\"}"), Some(&0.0));
    assert_eq!(before.get("peer_idle_seconds{peer=\"h2\"}"), None);
    assert!(b.ping(&a) && c.ping(&a));

    let epmd = SocketAddr::new(h1.host.v4().into(), 4369);
    // A stranger. He may be refused before his connect has ended.
    drop(lab.host("h3").connect(epmd));
    // Half of a request.
    let half = h2.host.connect(epmd).unwrap();
    send(&half, b"\0").unwrap();
    let expect = |expected: &[(&str, f64)]| wait_for(&h1.host, &socket, expected);
    let refused = "refusals_total{reason=\"not_allowed\",stage=\"admit\"}";
    expect(&[
        ("links", 2.0),
        ("peer_links{peer=\"h2\"}", 2.0),
        ("open_connections", 3.0),
        (refused, 1.0),
        ("connections_total{role=\"epmd\",outcome=\"answered\"}", 2.0),
        ("table_entries{table=\"addresses\"}", 1.0),
        ("table_entries{table=\"links\"}", 2.0),
        ("ready", 1.0),
        ("nodes_exposed", 0.0),
        ("config_generation", 1.0),
        ("reloads_total{result=\"ok\"}", 0.0),
        ("reloads_total{result=\"refused\"}", 0.0),
        ("links_cut_total", 0.0),
    ]);
    drop(half);
    expect(&[("open_connections", 2.0), ("connections_total{role=\"epmd\",outcome=\"no_request\"}", 1.0)]);
    assert_eq!(told(&lab, &h1.host, &["reload"]).code, 0);
    let generation = ("config_generation", 2.0);
    expect(&[("reloads_total{result=\"ok\"}", 1.0), ("last_reload_success", 1.0), generation]);
    drop(configure(&lab, &h1.host, "[cluster]\nalow = 1\n"));
    assert_eq!(told(&lab, &h1.host, &["reload"]).code, 1);
    let refused_reload = [("reloads_total{result=\"ok\"}", 1.0), ("reloads_total{result=\"refused\"}", 1.0)];
    expect(&refused_reload);
    expect(&[("last_reload_success", 0.0), generation, ("links", 2.0)]);
    // Both links end, one by its node's end and one by a disconnect.
    b.kill();
    assert_eq!(c.eval("erlang:disconnect_node('a@h1.test')."), "true");
    expect(&[("links", 0.0), ("open_connections", 0.0), ("peer_links{peer=\"h2\"}", 0.0), (refused, 1.0)]);
    let after = now();
    let ended = after.iter().filter(|(name, _)| name.starts_with("connections_total{role=\"dist\""));
    assert_eq!(ended.map(|(_, value)| value).sum::<f64>(), 2.0, "{after:?}");
    assert_eq!(after.get("peer_idle_seconds{peer=\"h2\"}"), None, "no link, no silence");
}

#[test]
fn bytes_of_links_only_ever_grow_also_when_their_link_ends() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1", "h2"]);
    let (h1, h2) = known_peer(&lab);
    let socket = admin_socket(&lab, &h1.host);
    let (a, b) = (alone(&h1, "a", 9100), alone(&h2, "b", 9100));
    assert!(b.ping(&a));
    let bytes = || {
        let now = metrics(&h1.host, &socket);
        ["up", "down"].map(|way| now[&format!("link_bytes_total{{direction=\"{way}\"}}")])
    };
    let mut last = bytes();
    let mut grew = 0;
    std::thread::scope(|scope| {
        let moving = scope.spawn(|| {
            b.eval("[rpc:call('a@h1.test', erlang, byte_size, [binary:copy(<<1>>, 1048576)]) || _ <- lists:seq(1, 60)], ok.")
        });
        while !moving.is_finished() {
            let now = bytes();
            assert!(now[0] >= last[0] && now[1] >= last[1], "{last:?} then {now:?}");
            grew += usize::from(now[0] > last[0]);
            last = now;
        }
        assert_eq!(moving.join().unwrap(), "ok");
    });
    assert!(grew >= 2, "it was looked at too seldom while it grew");
    last = bytes();
    assert!(last[0] >= 60.0 * 1_048_576.0, "{last:?}");
    b.kill();
    eventually("the link ends", SOON, || {
        let now = bytes();
        assert!(now[0] >= last[0] && now[1] >= last[1], "{last:?} then {now:?}");
        last = now;
        metrics(&h1.host, &socket)["links"] == 0.0
    });
    let ended = bytes();
    assert!(ended[0] >= last[0] && ended[1] >= last[1], "{last:?} then {ended:?}");
}

/// A link through the guard on port 9105 to a node that is a plain socket: what dialled and what answered.
fn raw_link(from: &Host, h1: &Guarded, behind: &TcpListener) -> (TcpStream, TcpStream) {
    let down = from.connect(SocketAddr::new(h1.host.v4().into(), 9105)).unwrap();
    let up = handshake::link(&down, behind, &Initiator::named("a@h2.test"), "b@h1.test");
    for stream in [&down, &up] {
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    }
    (down, up)
}

/// A guarded host that knows its peer `h2` by name, and what listens behind its port 9105.
fn raw_node(lab: &Lab) -> (Guarded, TcpListener) {
    let h1 = Guarded::with(lab, "h1", &format!("{}{PEER}", front(&[])));
    let behind = h1.host.listen(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 9105)).unwrap();
    h1.guard.wait_open(9105);
    (h1, behind)
}

#[test]
fn backpressure_counts_while_an_end_of_a_link_takes_nothing_and_no_longer() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1", "h2"]);
    let (h1, behind) = raw_node(&lab);
    let socket = admin_socket(&lab, &h1.host);
    let waited = || {
        let now = metrics(&h1.host, &socket);
        ["up", "down"].map(|way| now[&format!("backpressure_seconds_total{{direction=\"{way}\"}}")])
    };
    let (down, up) = raw_link(&lab.host("h2"), &h1, &behind);
    assert_eq!(waited(), [0.0, 0.0], "nobody waits");
    for (way, from, to) in [(0, &down, &up), (1, &up, &down)] {
        let before = waited();
        let (data, mut sent) = (vec![7; 1 << 20], 0);
        // It ends when nothing has been taken for a second.
        while let Ok(count) = (&*from).write(&data) {
            sent += count;
            assert!(sent < 64 << 20, "{sent} bytes went though nobody read");
        }
        // It goes on while nothing comes or goes.
        eventually("the time that bytes have waited", SOON, || {
            let now = waited();
            if now[way] > before[way] + 1.5 { Ok(()) } else { Err(format!("{before:?} became {now:?}")) }
        });
        assert_eq!(waited()[1 - way], before[1 - way], "the other direction");
        std::io::copy(&mut to.take(sent as u64), &mut std::io::sink()).unwrap();
        let mut last = waited();
        eventually("nobody waits any more", SOON, || {
            let before = std::mem::replace(&mut last, waited());
            before == last
        });
    }
    let last = waited();
    drop((down, up));
    wait_for(&h1.host, &socket, &[("links", 0.0)]);
    assert_eq!(waited(), last, "the time of a link that has ended is kept");
}

#[test]
fn a_peers_silence_grows_until_its_quietest_link_carries_a_byte() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1", "h2"]);
    let (h1, behind) = raw_node(&lab);
    let socket = admin_socket(&lab, &h1.host);
    let silence = || metrics(&h1.host, &socket).get("peer_idle_seconds{peer=\"h2\"}").copied();
    assert_eq!(silence(), None, "no link, no silence");
    let begun = Instant::now();
    let links = [(), ()].map(|()| raw_link(&lab.host("h2"), &h1, &behind));
    let first = eventually("the links are up", SOON, silence);
    assert!(first <= begun.elapsed().as_secs_f64() + 0.01, "{first} s of {:?}", begun.elapsed());
    let grown = first + 1.0;
    eventually("it grows", SOON, || silence().is_some_and(|now| now > grown));
    let say = |(from, mut to): (&TcpStream, &TcpStream)| {
        send(from, b"x").unwrap();
        to.read_exact(&mut [0]).unwrap();
    };
    // The first link is the older one, whose silence it is until now.
    let [(down, up), (other_down, other_up)] = &links;
    let spoken = Instant::now();
    say((other_down, other_up));
    let now = silence().unwrap();
    assert!(now > grown, "the first link is as quiet as it was: {now} s");
    // A byte of the node counts as one of the peer does.
    say((up, down));
    let now = silence().unwrap();
    // The guard counts in milliseconds.
    assert!(now <= spoken.elapsed().as_secs_f64() + 0.01, "{now} s, {:?} after a byte", spoken.elapsed());
    eventually("it grows again", SOON, || silence().is_some_and(|later| later > now));
    drop(links);
    eventually("it goes with the links", SOON, || silence().is_none());
}

#[test]
fn strangers_add_no_series() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1", "h2", "h3"]);
    let (h1, _h2) = known_peer(&lab);
    let socket = admin_socket(&lab, &h1.host);
    let stranger = lab.host("h3");
    let knock = |ip: IpAddr, to: IpAddr| drop(stranger.connect_from(ip, SocketAddr::new(to, 4369)));
    knock(stranger.v4().into(), h1.host.v4().into());
    let refused = "refusals_total{reason=\"not_allowed\",stage=\"admit\"}";
    let count = |now: &BTreeMap<String, f64>| now.get(refused).copied().unwrap_or_default();
    let before = eventually("the first refusal is counted", SOON, || {
        Some(metrics(&h1.host, &socket)).filter(|now| count(now) == 1.0)
    });
    for host in 10..60 {
        for (ip, length, to) in [
            (IpAddr::from([192, 0, 2, host]), 24, IpAddr::from(h1.host.v4())),
            (format!("2001:db8::{host}").parse().unwrap(), 64, h1.host.v6().into()),
        ] {
            stranger.add_address(&format!("{ip}/{length}"));
            knock(ip, to);
        }
    }
    let after = eventually("all are counted", SOON, || {
        let now = metrics(&h1.host, &socket);
        if count(&now) == 101.0 { Ok(now) } else { Err(count(&now)) }
    });
    let new: Vec<_> = after.keys().filter(|name| !before.contains_key(*name)).collect();
    assert_eq!(new, Vec::<&String>::new());
    let named: Vec<_> = after.keys().filter(|name| name.contains("peer=")).collect();
    assert_eq!(named, ["peer_links{peer=\"h2\"}"]);
    assert_eq!(after["table_entries{table=\"addresses\"}"], 0.0, "who is refused holds nothing");
}

/// Opens a connection to the socket and sends this, as far as it is taken.
fn say(socket: &Path, bytes: &[u8]) -> UnixStream {
    let stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.set_write_timeout(Some(SOON)).unwrap();
    // It may have been closed before all of it was written.
    drop((&stream).write_all(bytes));
    stream
}

/// The first line that comes, or nothing.
fn first_line(mut stream: UnixStream) -> String {
    let mut bytes = Vec::new();
    drop(stream.read_to_end(&mut bytes));
    String::from_utf8_lossy(&bytes).lines().next().unwrap_or_default().to_owned()
}

fn malformed(socket: &Path) {
    let tls = &b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03"[..];
    for bytes in [tls, b"GET\r\n\r\n", b"GET / HTTP/9\r\n\r\n", b"\0\0\0\0\n\n"] {
        let said = first_line(say(socket, bytes));
        assert!(said.is_empty() || said.contains(" 400 "), "{said}");
    }
}

/// A head of 1 MB, a body that is announced as larger than any configuration, and one that is.
fn oversized(socket: &Path) {
    let head = format!("GET /status HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "a".repeat(1 << 20));
    let said = first_line(say(socket, head.as_bytes()));
    assert!(said.is_empty() || said.contains(" 431 "), "{said}");
    let body = format!("POST /check HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", 1_u64 << 40);
    assert!(first_line(say(socket, body.as_bytes())).contains(" 413 "));
    let mut endless = say(socket, b"POST /check HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
    let megabyte = [&b"100000\r\n"[..], &vec![b'#'; 1 << 20], b"\r\n"].concat();
    while endless.write_all(&megabyte).is_ok() {}
}

/// Looks a name up again and again: how often, and how long the slowest took.
fn look_up(from: &Host, epmd: SocketAddr, stop: &AtomicBool) -> (u64, Duration) {
    let (mut count, mut slowest) = (0, Duration::ZERO);
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        assert!(ask(&from.connect(epmd).unwrap(), b"za").starts_with(b"w\0"));
        slowest = slowest.max(begun.elapsed());
        count += 1;
    }
    (count, slowest)
}

#[test]
fn abuse_of_the_socket_stalls_neither_links_nor_lookups_and_passes() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1", "h2"]);
    let (h1, h2) = known_peer(&lab);
    let socket = admin_socket(&lab, &h1.host);
    let (a, b) = (alone(&h1, "a", 9100), alone(&h2, "b", 9100));
    echo(&a);
    assert!(b.ping(&a));
    go_to_and_fro(&b, &a);
    let epmd = SocketAddr::new(h1.host.v4().into(), 4369);
    let stop = AtomicBool::new(false);
    let (lookups, slowest) = std::thread::scope(|scope| {
        let looking = scope.spawn(|| look_up(&h2.host, epmd, &stop));
        let _end = Ends(&stop);
        let still = |phase: &str| {
            let (mut count, mut most) = round_trips(&b);
            eventually("the round trips go on", STALL, || {
                let (more, slower) = round_trips(&b);
                (count, most) = (count + more, most.max(slower));
                if count > 20 { Ok(()) } else { Err(count) }
            });
            assert!(most < STALL, "{phase}: {count} round trips, {most:?} at most");
        };
        round_trips(&b);

        malformed(&socket);
        still("malformed");
        oversized(&socket);
        still("oversized");
        // Forty that each send half of a request and no more: some are closed at once, the others in 5 s.
        let slow: Vec<_> = (0..40).map(|_| say(&socket, b"GET /status HT")).collect();
        still("slow");
        let ends: Vec<String> = slow.into_iter().map(first_line).collect();
        assert!(ends.iter().all(|said| said.is_empty() || said.contains(" 408 ")), "{ends:?}");
        still("slow, ended");
        // Forty at once, in earnest: each is answered or closed. Then as many that do not take the answer.
        let forty = || (0..40).map(|_| say(&socket, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")).collect();
        let all: Vec<_> = forty();
        let all: Vec<_> = all.into_iter().map(first_line).collect();
        assert!(all.iter().all(|said| said.contains(" 200 ") || said.is_empty()), "{all:?}");
        let mute: Vec<_> = forty();
        still("forty at once");
        drop(mute);
        let ready = eventually("it answers again", SOON, || {
            Some(curl(&h1.host, &socket, "/readyz")).filter(|said| said.code == 0)
        });
        assert_eq!(ready.out, "ready\n");
        stop.store(true, Ordering::Relaxed);
        looking.join().unwrap()
    });
    assert!(lookups > 100 && slowest < STALL, "{lookups} lookups, {slowest:?} at most");
    assert_eq!(curl(&h1.host, &socket, "/status").json()["generation"], 1);
    assert_eq!(h1.guard.events("panicked"), Vec::<Value>::new());
}

#[test]
fn without_a_place_for_its_socket_the_guard_serves_and_opens_it_when_there_is_one() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1", "h2"]);
    // In a directory that the guard may not make, since it may not write to the one around it.
    let around = lab.dir().join("later");
    fs::create_dir(&around).unwrap();
    let socket = around.join("run/admin.sock");
    let config = format!("{}[admin]\nsocket = {socket:?}\n", front(EVERYBODY));
    let h1 = Guarded::with(&lab, "h1", &config);
    let h2 = Guarded::new(&lab, "h2", EVERYBODY);
    let event = h1.guard.wait_event("admin_not_opened", &[]);
    assert!(field(&event, "error").contains("cannot create the directory"), "{event}");
    assert!(field(&event, "help").contains("it is tried again"), "{event}");
    let a = h1.node("a");
    let b = alone(&h2, "b", 9100);
    assert!(b.ping(&a));
    let make = || {
        fs::create_dir(socket.parent().unwrap()).unwrap();
        let user = nix::unistd::User::from_name(USER).unwrap().unwrap();
        let owner = (Some(user.uid.as_raw()), Some(user.gid.as_raw()));
        std::os::unix::fs::chown(socket.parent().unwrap(), owner.0, owner.1).unwrap();
    };
    make();
    h1.guard.wait_event("admin_opened", &[]);
    assert_eq!(curl(&h1.host, &socket, "/healthz").out, "ok\n");

    // It vanishes under a guard that runs.
    let log = h1.guard.mark();
    fs::remove_dir_all(socket.parent().unwrap()).unwrap();
    h1.guard.wait_event_after(log, "admin_not_opened", &[]);
    assert_eq!(b.eval("nodes(hidden)."), "['a@h1.test']", "the link lives on");
    assert!(b.ping(&a));
    let log = h1.guard.mark();
    make();
    h1.guard.wait_event_after(log, "admin_opened", &[]);
    assert_eq!(curl(&h1.host, &socket, "/links").json()["links"].as_array().map(Vec::len), Some(1));
    assert_eq!(h1.guard.events("closed").iter().filter(|event| event["role"] == "dist").count(), 0);
}

#[test]
fn the_socket_of_a_guard_that_was_killed_is_taken_over_by_the_next() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1"]);
    let h1 = Guarded::new(&lab, "h1", EVERYBODY);
    let socket = admin_socket(&lab, &h1.host);
    eventually("the socket is there", SOON, || socket.exists());
    h1.guard.daemon().signal(Signal::KILL);
    h1.guard.daemon().wait_exit(SOON);
    assert!(socket.exists(), "nobody removed it");
    let gone = told(&lab, &h1.host, &["status"]);
    assert!(gone.code == 1 && gone.err.contains("no guard answers at"), "{gone:?}");
    let next = Guard::start(&lab, &h1.host, &front(EVERYBODY));
    next.wait_event("admin_opened", &[]);
    assert_eq!(told(&lab, &h1.host, &["status", "--json"]).json()["pid"], next.daemon().pid());
    assert_eq!(mode(&socket), 0o600);
    next.stop();
    assert!(!socket.exists(), "what ends well leaves nothing");
}
