//! Distribution ports: when they are open, and how they carry bytes.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use crate::common::{EVERYBODY, Guarded, require};
use crate::support::erlang::{Epmd, EpmdListen, Node};
use crate::support::eventually::eventually;
use crate::support::guard::{Guard, SOON, field, front};
use crate::support::handshake::{Initiator, link};
use crate::support::host::Host;
use crate::support::lab::Lab;
use crate::support::wire::{Ended, ask, read_to_close, send};

const PORT: u16 = 9105;

#[test]
fn a_node_that_first_dials_its_own_port_at_its_own_name_is_refused_there_until_it_listens() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1"]);
    let h1 = Guarded::new(&lab, "h1", &[]);
    // RabbitMQ does this before it starts, and gives up if anything accepts.
    let starting = Node::named("starting", &h1.host).single_port(5999).start();
    let dial = "case gen_tcp:connect(\"h1.test\", 9100, [], 3000) of {ok, S} -> gen_tcp:close(S), open; {error, Why} -> Why end.";
    assert_eq!(starting.eval(dial), "econnrefused");
    for _ in 0..2 {
        let node = h1.node("a");
        assert_eq!(starting.eval(dial), "open");
        node.stop();
        h1.guard.wait_closed(9100);
        assert_eq!(starting.eval(dial), "econnrefused");
    }
}

#[test]
fn no_answer_names_a_port_before_it_is_open() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1", "h2"]);
    let h1 = Guarded::new(&lab, "h1", EVERYBODY);
    let peer = lab.host("h2");
    let at = |port| SocketAddr::new(h1.host.v4().into(), port);
    for round in 0..5 {
        std::thread::scope(|scope| {
            let starting = scope.spawn(|| Node::named("a", &h1.host).port(9100).start());
            // A peer that asks without a pause, and dials as soon as it has an answer.
            eventually("a is found", SOON, || {
                ask(&peer.connect(at(4369)).unwrap(), b"za").starts_with(b"w\0")
            });
            if let Err(error) = peer.connect(at(9100)) {
                panic!("round {round}: the port that was told is not open: {error}");
            }
            starting.join().unwrap().stop();
        });
        h1.guard.wait_closed(9100);
        // epmd may see that it has gone later than we do, and would tell of it in the next round.
        eventually("a is forgotten", SOON, || {
            !ask(&peer.connect(at(4369)).unwrap(), b"za").starts_with(b"w\0")
        });
    }
}

#[test]
fn a_name_whose_port_is_not_forwarded_is_told_of() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1", "h2"]);
    let h1 = Guarded::new(&lab, "h1", EVERYBODY);
    let _node = Node::named("elsewhere", &h1.host).port(9200).start();
    let stream = lab.host("h2").connect(SocketAddr::new(h1.host.v4().into(), 4369)).unwrap();
    assert!(ask(&stream, b"zelsewhere").starts_with(b"w\0"));
    let told =
        h1.guard.wait_event("port_not_reachable", &[("name", "elsewhere"), ("listener", "192.0.2.1:9200")]);
    assert!(field(&told, "help").contains("[dist] ports"), "{told}");
}

/// The promise is a second. The fastest of five rounds is held against it, so that a busy machine cannot
/// break it but a slower look can.
#[test]
fn a_port_follows_its_listener_within_a_second() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1"]);
    let h1 = Guarded::new(&lab, "h1", EVERYBODY);
    let outside = SocketAddr::new(h1.host.v4().into(), PORT);
    let (mut opened, mut closed) = (SOON, SOON);
    for _ in 0..5 {
        let behind = h1.host.listen(SocketAddr::from(([127, 0, 0, 1], PORT))).unwrap();
        let begun = Instant::now();
        eventually("the port opens", SOON, || h1.host.listeners().contains(&outside));
        opened = opened.min(begun.elapsed());
        drop(behind);
        let begun = Instant::now();
        eventually("the port closes", SOON, || !h1.host.listeners().contains(&outside));
        closed = closed.min(begun.elapsed());
    }
    let second = Duration::from_secs(1);
    assert!(opened < second && closed < second, "opened after {opened:?}, closed after {closed:?}");
}

#[test]
fn an_address_that_is_listed_stays_for_peers_when_the_own_name_leads_there_too() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1", "h2"]);
    let host = lab.host("h1");
    let _epmd = Epmd::start(&host, EpmdListen::Loopback);
    let guard = Guard::start(&lab, &host, &front(EVERYBODY));
    let addr = SocketAddr::new(host.v4().into(), 4369);
    guard.wait_event("port_opened", &[("listener", "192.0.2.1:4369"), ("audience", "peers")]);
    // The own name moves from 127.0.1.1 to the address that peers use.
    host.replace_hosts(|line| Some(line.replace("127.0.1.1", "192.0.2.1")));
    guard.wait_event("port_closed", &[("listener", "127.0.1.1:4369")]);
    assert_eq!(ask(&lab.host("h2").connect(addr).unwrap(), b"n"), b"\0\0\x11\x11");
    assert!(!guard.events("port_closed").iter().any(|event| event["listener"] == "192.0.2.1:4369"));
}

#[test]
fn a_port_that_is_not_listed_stays_closed() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1"]);
    let h1 = Guarded::new(&lab, "h1", EVERYBODY);
    let _other = Node::named("other", &h1.host).port(9200).start();
    let _listed = h1.node("listed");
    assert!(!h1.host.listeners().contains(&SocketAddr::new(h1.host.v4().into(), 9200)));
}

#[test]
fn an_address_that_comes_later_is_served_when_it_comes() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1", "h2"]);
    let h1 = Guarded::new(&lab, "h1", EVERYBODY);
    let late = SocketAddr::from(([192, 0, 2, 77], 4369));
    h1.host.add_address("192.0.2.77/24");
    eventually("the late address is served", SOON, || h1.host.listeners().contains(&late));
    h1.host.remove_address("192.0.2.77/24");
    eventually("the address that went is not", SOON, || !h1.host.listeners().contains(&late));
}

#[test]
fn this_hosts_own_names_are_served_for_itself() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1"]);
    let host = lab.host("h1");
    let _epmd = Epmd::start(&host, EpmdListen::Loopback);
    let config = front(&[]).replace("[epmd]", "[epmd]\nlisten = [\"192.0.2.1\"]");
    let _guard = Guard::launch(&lab, &host, &config);
    let _node = Node::named("a", &host).port(9100).start();
    // The host name resolves to 127.0.1.1, as on Debian.
    for port in [4369, 9100] {
        let addr = SocketAddr::from(([127, 0, 1, 1], port));
        eventually(&format!("{addr} is served"), SOON, || host.listeners().contains(&addr));
        assert!(host.connect(addr).is_ok());
    }
    let other = SocketAddr::new(host.v6().into(), 4369);
    assert!(!host.listeners().contains(&other), "an address that is not listed is served");
}

#[test]
fn where_only_this_hosts_own_name_leads_no_peer_is_let_in() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1", "h2"]);
    let host = lab.host("h1");
    let _epmd = Epmd::start(&host, EpmdListen::Loopback);
    // The own name leads to an address that the operator left out.
    host.replace_hosts(|line| Some(line.replace("127.0.1.1", "192.0.2.1")));
    let config = front(EVERYBODY).replace("[epmd]", "[epmd]\nlisten = [\"2001:db8::1\"]");
    let guard = Guard::launch(&lab, &host, &config);
    guard.wait_event("port_opened", &[("listener", "192.0.2.1:4369"), ("audience", "self")]);
    guard.wait_event("port_opened", &[("listener", "[2001:db8::1]:4369"), ("audience", "peers")]);
    let own_name = SocketAddr::new(host.v4().into(), 4369);
    let refused = lab.host("h2").connect(own_name).map(|stream| ask(&stream, b"n"));
    assert_eq!(refused.unwrap_or_default(), b"");
    guard.wait_event("refused", &[("reason", "not_for_peers"), ("stage", "admit")]);
    assert_eq!(ask(&host.connect(own_name).unwrap(), b"n"), b"\0\0\x11\x11");
    let listed = SocketAddr::new(host.v6().into(), 4369);
    assert_eq!(ask(&lab.host("h2").connect(listed).unwrap(), b"n"), b"\0\0\x11\x11");
}

#[test]
fn a_resolver_that_does_not_answer_delays_neither_ports_nor_the_end() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1"]);
    let host = lab.host("h1");
    // The own name is in no file, and whoever is asked for it is silent for minutes.
    host.replace_hosts(|line| (!line.contains("127.0.1.1")).then(|| line.to_owned()));
    let resolver = format!("/etc/netns/{}/resolv.conf", host.netns());
    std::fs::write(resolver, "nameserver 127.0.0.53\noptions timeout:30 attempts:5\n").unwrap();
    let _silent = host.inside(|| std::net::UdpSocket::bind("127.0.0.53:53").unwrap());
    let h1 = Guarded::new(&lab, "h1", &["h2.silent.example"]);
    let _node = h1.node("a");
    h1.guard.stop();
}

/// The bytes of a handshake, from the peer and from the node, whose names have nine letters each.
const HANDSHAKE: [u64; 2] = [17 + 9 + 23, 5 + 21 + 9 + 19];

/// A guarded host whose "node" is a plain socket that the test holds, so that it can misbehave.
struct Wire {
    _lab: Lab,
    h1: Guarded,
    peer: Host,
    behind: TcpListener,
}

impl Wire {
    fn new(limits: &str, loopback: IpAddr) -> Self {
        let lab = Lab::new(&["h1", "h2"]);
        let h1 = Guarded::with(&lab, "h1", &format!("{}{limits}", front(EVERYBODY)));
        let behind = h1.host.listen(SocketAddr::new(loopback, PORT)).unwrap();
        h1.guard.wait_open(PORT);
        let peer = lab.host("h2");
        Self { _lab: lab, h1, peer, behind }
    }

    /// A link: what dialled and what answered.
    fn link(&self) -> (TcpStream, TcpStream) {
        self.link_at(self.h1.host.v4().into())
    }

    fn link_at(&self, ip: IpAddr) -> (TcpStream, TcpStream) {
        let down = self.peer.connect(SocketAddr::new(ip, PORT)).unwrap();
        let up = link(&down, &self.behind, &Initiator::named("a@h2.test"), "b@h1.test");
        for stream in [&down, &up] {
            stream.set_read_timeout(Some(SOON)).unwrap();
            stream.set_write_timeout(Some(SOON)).unwrap();
        }
        (down, up)
    }

    fn closed(&self, reason: &str) -> serde_json::Value {
        self.h1.guard.wait_event("closed", &[("role", "dist"), ("reason", reason)])
    }
}

fn wire() -> Option<Wire> {
    require().then(|| Wire::new("", Ipv4Addr::LOCALHOST.into()))
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

fn read_exactly(mut stream: &TcpStream, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

#[test]
fn bytes_pass_both_ways_at_once_and_each_is_counted() {
    let Some(wire) = wire() else { return };
    let (down, up) = wire.link();
    let data = pattern(8 * 1024 * 1024);
    std::thread::scope(|scope| {
        for (from, to) in [(&down, &up), (&up, &down)] {
            let data = &data;
            scope.spawn(move || (&*from).write_all(data).unwrap());
            scope.spawn(move || assert!(read_exactly(to, data.len()) == *data, "bytes differ"));
        }
    });
    drop((down, up));
    let closed = wire.h1.guard.wait_event("closed", &[("role", "dist")]);
    let carried = ["bytes_up", "bytes_down"].map(|way| closed[way].as_u64().unwrap());
    assert_eq!(carried, HANDSHAKE.map(|bytes| bytes + (8 << 20)), "{closed}");
}

#[test]
fn a_half_close_passes_and_the_other_direction_goes_on() {
    let Some(wire) = wire() else { return };
    for downstream_first in [true, false] {
        let (down, up) = wire.link();
        let (first, second) = if downstream_first { (&down, &up) } else { (&up, &down) };
        (&*first).write_all(b"last words").unwrap();
        first.shutdown(Shutdown::Write).unwrap();
        let mut heard = Vec::new();
        (&*second).read_to_end(&mut heard).unwrap();
        assert_eq!(heard, b"last words");
        let data = pattern(3 * 1024 * 1024);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                (&*second).write_all(&data).unwrap();
                second.shutdown(Shutdown::Write).unwrap();
            });
            assert!(read_exactly(first, data.len()) == data);
            assert_eq!(read_to_close(first).ended, Ended::Fin);
        });
        wire.closed(if downstream_first { "closed_by_downstream" } else { "closed_by_upstream" });
    }
}

#[test]
fn a_reset_passes_as_a_reset() {
    let Some(wire) = wire() else { return };
    for downstream_first in [true, false] {
        let (down, up) = wire.link();
        let (first, second) = if downstream_first { (down, up) } else { (up, down) };
        (&first).write_all(b"x").unwrap();
        assert_eq!(read_exactly(&second, 1), b"x");
        socket2::SockRef::from(&first).set_linger(Some(Duration::ZERO)).unwrap();
        drop(first);
        assert_eq!(read_to_close(&second).ended, Ended::Reset);
        wire.closed(if downstream_first { "reset_by_downstream" } else { "reset_by_upstream" });
    }
}

#[test]
fn a_side_that_does_not_read_stops_the_other_and_loses_nothing() {
    let Some(wire) = wire() else { return };
    let (down, up) = wire.link();
    let data = pattern(64 * 1024 * 1024);
    // Without back-pressure the guard would hold all of it.
    down.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    let mut sent = 0;
    while let Ok(count) = (&down).write(&data[sent..]) {
        sent += count;
        assert!(sent < data.len(), "{sent} bytes went though nobody read");
    }
    down.set_write_timeout(Some(SOON)).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| (&down).write_all(&data[sent..]).unwrap());
        assert!(read_exactly(&up, data.len()) == data, "bytes differ");
    });
}

#[test]
fn a_reset_passes_while_the_other_side_does_not_read() {
    let Some(wire) = wire() else { return };
    let (down, up) = wire.link();
    down.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    let data = pattern(1024 * 1024);
    while (&down).write(&data).is_ok() {}
    socket2::SockRef::from(&down).set_linger(Some(Duration::ZERO)).unwrap();
    drop(down);
    wire.closed("reset_by_downstream");
    assert_eq!(read_to_close(&up).ended, Ended::Reset);
}

#[test]
fn a_link_that_is_idle_is_left_alone_and_a_half_closed_one_that_is_silent_is_not() {
    if !require() {
        return;
    }
    let wire = Wire::new("[limits]\nhalf_close_timeout = \"1s\"\n", Ipv4Addr::LOCALHOST.into());
    let (idle_down, idle_up) = wire.link();
    let (down, up) = wire.link();
    down.shutdown(Shutdown::Write).unwrap();
    wire.closed("half_closed");
    assert_ne!(read_to_close(&down).ended, Ended::TimedOut);
    drop(up);
    (&idle_down).write_all(b"tick").unwrap();
    assert_eq!(read_exactly(&idle_up, 4), b"tick");
}

#[test]
fn a_link_whose_one_end_has_closed_and_whose_other_end_takes_nothing_is_not_held_for_ever() {
    if !require() {
        return;
    }
    let wire = Wire::new("[limits]\nhalf_close_timeout = \"1s\"\n", Ipv4Addr::LOCALHOST.into());
    // The peer takes next to nothing, so that nearly all of what is under way waits to be read by the guard.
    let mut command = wire.peer.command("sysctl");
    command.args(["-qw", "net.ipv4.tcp_rmem=4096 4096 4096"]);
    assert!(command.status().unwrap().success());
    let link = || {
        let (down, up) = wire.link();
        socket2::SockRef::from(&up).set_send_buffer_size(4096).unwrap();
        up.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
        (down, up)
    };
    let (first_down, first_up) = link();
    let (data, mut capacity) = (pattern(4096), 0);
    while let Ok(count) = (&first_up).write(&data) {
        capacity += count;
    }
    let (down, up) = link();
    for _ in 0..capacity / data.len() * 3 / 4 {
        (&up).write_all(&data).unwrap();
    }
    // The node goes, and its FIN gets through to the guard; the peer neither reads nor closes.
    drop(up);
    let closed = wire.closed("half_closed");
    assert_eq!(field(&closed, "peer"), down.local_addr().unwrap().to_string());
    drop((first_down, first_up));
}

#[test]
fn a_node_that_listens_on_the_ipv6_loopback_is_reached_from_both_families() {
    if !require() {
        return;
    }
    let wire = Wire::new("", Ipv6Addr::LOCALHOST.into());
    for ip in [IpAddr::from(wire.h1.host.v4()), wire.h1.host.v6().into()] {
        let (down, up) = wire.link_at(ip);
        (&down).write_all(b"hello").unwrap();
        assert_eq!(read_exactly(&up, 5), b"hello");
    }
}

/// With Nagle's algorithm on either of the guard's sockets, a write that follows an unanswered one waits
/// for the peer's delayed acknowledgement, 40 ms and more: these rounds would take two minutes.
#[test]
fn nothing_waits_for_a_full_segment() {
    let Some(wire) = wire() else { return };
    let (down, up) = wire.link();
    let begun = Instant::now();
    for (from, to) in [(&down, &up), (&up, &down)] {
        for _ in 0..1500 {
            // The second byte reaches the guard after the first was passed on, and finds it unacknowledged.
            (&*from).write_all(b"a").unwrap();
            assert_eq!(read_exactly(to, 1), b"a");
            (&*from).write_all(b"b").unwrap();
            assert_eq!(read_exactly(to, 1), b"b");
        }
    }
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
}

#[test]
fn a_listener_that_went_this_instant_shows_as_a_close_and_in_the_log() {
    if !require() {
        return;
    }
    // Something listens on the wildcard of a backend's family, but not where the backend is: the tables
    // say that the port can be reached, and the dial finds that it cannot.
    let lab = Lab::new(&["h1", "h2"]);
    let config =
        front(EVERYBODY).replace("[dist]", "[dist]\nlisten = [\"192.0.2.1\"]\nbackend = \"127.0.0.2\"");
    let h1 = Guarded::with(&lab, "h1", &config);
    let behind = h1.host.listen(SocketAddr::from(([127, 0, 0, 2], PORT))).unwrap();
    let outside = SocketAddr::from(([192, 0, 2, 1], PORT));
    eventually("the port opens", SOON, || h1.host.listeners().contains(&outside));
    // Connections are refused from here on, though the socket still listens.
    let mut rule = h1.host.command("nft");
    rule.arg("add table inet cut; add chain inet cut in { type filter hook input priority 0; }; add rule inet cut in ip daddr 127.0.0.2 tcp dport 9105 reject with tcp reset");
    assert!(rule.status().unwrap().success());
    let down = lab.host("h2").connect(outside).unwrap();
    send(&down, &Initiator::named("a@h2.test").first_message()).unwrap();
    assert_eq!(read_to_close(&down).bytes, b"");
    let closed = h1.guard.wait_event("closed", &[("role", "dist"), ("reason", "backend_down")]);
    assert!(field(&closed, "detail").contains("127.0.0.2:9105"), "{closed}");
    drop(behind);
}
