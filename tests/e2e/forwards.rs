//! `[[forward]]`: TLS distribution and other ports between nodes, behind the guard.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

use crate::common::require;
use crate::registration::Mapped;
use crate::support::erlang::{Epmd, EpmdListen, Node, NodeBuilder};
use crate::support::eventually::eventually;
use crate::support::guard::{
    Guard, SOON, admin_get, admin_socket, configure, embedded, field, links, registered, status,
};
use crate::support::host::Host;
use crate::support::lab::Lab;
use crate::support::said::told;
use crate::support::wire::{Ended, ask, read_to_close, send};

const TLS: &str = "[[forward]]\nkind = \"dist-tls\"\nports = \"9300-9305\"\n";
const TCP: &str = "[[forward]]\nkind = \"tcp\"\nports = 5370\n";
/// What a node gives a whole handshake (`net_kernel:connecttime`); a silent one ahead of it would take that long.
const STEP: Duration = Duration::from_secs(7);

/// The cluster's CA, and the options of TLS distribution for each host.
struct Certificates {
    issuer: Issuer<'static, KeyPair>,
    authority: String,
}

impl Certificates {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "the cluster");
        let key = KeyPair::generate().unwrap();
        let authority = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), authority }
    }

    /// Writes the files of a host, whose nodes prove who they are both ways, and says where the options are.
    fn of(&self, host: &Host) -> String {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![host.name()]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, host.name());
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        let write = |name: &str, text: &str| {
            let path = host.dir().join(name);
            fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let [cert, key, ca] = [
            write("cert.pem", &certificate),
            write("key.pem", &key.serialize_pem()),
            write("ca.pem", &self.authority),
        ];
        let own = format!(
            "{{certfile,\"{cert}\"}},{{keyfile,\"{key}\"}},{{cacertfile,\"{ca}\"}},{{verify,verify_peer}}"
        );
        write(
            "ssl_dist.conf",
            &format!("[{{server,[{own},{{fail_if_no_peer_cert,true}}]}},{{client,[{own}]}}].\n"),
        )
    }
}

/// A host whose epmd is the guard and whose nodes speak TLS to each other.
struct Secure {
    host: Host,
    guard: Guard,
    options: String,
}

impl Secure {
    fn new(lab: &Lab, name: &str, certificates: &Certificates, config: &str) -> Self {
        let host = lab.host(name);
        let guard = Guard::start(lab, &host, config);
        let options = certificates.of(&host);
        Self { host, guard, options }
    }

    fn builder(&self, name: &str) -> NodeBuilder {
        let node = Node::named(name, &self.host).ports(9300, 9305);
        let node = node.arg("-proto_dist").arg("inet_tls").arg("-ssl_dist_optfile").arg(&self.options);
        node.arg("-connect_all").arg("false")
    }

    /// A node whose port is the first free one of those that are forwarded.
    fn node(&self, name: &str) -> Node {
        let node = self.builder(name).start();
        self.guard.wait_open(node.port());
        node
    }

    fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.host.v4().into(), port)
    }
}

const ALL: &[&str] = &["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"];

fn secure_lab(names: &[&str]) -> (Lab, Certificates) {
    (Lab::new(names), Certificates::new())
}

fn listen(host: &Host, port: u16) -> TcpListener {
    let listener = host.listen(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port)).unwrap();
    listener.set_nonblocking(false).unwrap();
    listener
}

/// The first record that a TLS client of OTP sends.
fn client_hello(node: &Node) -> Vec<u8> {
    let listener = listen(node.host(), 0);
    let port = listener.local_addr().unwrap().port();
    let connect = format!(
        "{{ok, _}} = application:ensure_all_started(ssl), \
         spawn(fun() -> ssl:connect({{127,0,0,1}}, {port}, [{{verify,verify_none}}], 5000) end), ok."
    );
    assert_eq!(node.eval(&connect), "ok");
    let (mut stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    let mut hello = vec![0; 5];
    stream.read_exact(&mut hello).unwrap();
    let mut rest = vec![0; usize::from(u16::from_be_bytes([hello[3], hello[4]]))];
    stream.read_exact(&mut rest).unwrap();
    hello.extend(rest);
    hello
}

/// Says everything back, to many at one time, until the test ends.
fn echo(listener: TcpListener) {
    let answer = |mut stream: TcpStream| {
        let mut heard = [0; 4];
        while stream.read_exact(&mut heard).and_then(|()| stream.write_all(&heard)).is_ok() {}
    };
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || answer(stream));
        }
    });
}

#[track_caller]
fn echoes(mut stream: &TcpStream, word: &[u8; 4]) {
    stream.write_all(word).unwrap();
    let mut heard = [0; 4];
    stream.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, word);
}

/// Whether the guard ends it without a byte.
#[track_caller]
fn is_ended(stream: &TcpStream) {
    let outcome = read_to_close(stream);
    assert_eq!(outcome.bytes, b"", "something answered");
    assert_ne!(outcome.ended, Ended::TimedOut);
}

#[test]
fn tls_nodes_find_link_and_call_each_other_both_ways() {
    if !require() {
        return;
    }
    let (lab, certificates) = secure_lab(&["h1", "h2"]);
    let config = format!("{}{TLS}", embedded(&ALL[..2]));
    let [h1, h2] = ["h1", "h2"].map(|name| Secure::new(&lab, name, &certificates, &config));
    let (a, b) = (h1.node("a"), h2.node("b"));
    let opened = h1.guard.wait_event("port_opened", &[("role", "dist-tls"), ("listener", "192.0.2.1:9300")]);
    assert_eq!((field(&opened, "node"), field(&opened, "audience")), ("a".to_owned(), "peers".to_owned()));
    assert!(b.ping(&a), "{:?}", h1.guard.daemon().lines());
    // Either of them may have dialled: a dials b once more, from nothing.
    for (from, to) in [(&a, &b), (&b, &a)] {
        let call = format!("erpc:call('{}', erlang, node, []).", to.full_name());
        assert_eq!(from.eval(&call), format!("'{}'", to.full_name()));
        assert_eq!(from.eval(&format!("erlang:disconnect_node('{}').", to.full_name())), "true");
        eventually("the link goes", SOON, || to.eval("nodes().") == "[]");
        assert!(from.ping(to));
    }
    for (guard, inside) in [(&h1.guard, "9300"), (&h2.guard, "9300")] {
        let opened = guard.wait_event("link_opened", &[("role", "dist-tls"), ("inside", inside)]);
        let closed = guard.wait_event("closed", &[("id", &field(&opened, "id"))]);
        assert!(field(&closed, "bytes_up").parse::<u64>().unwrap() > 1000, "{closed}");
    }
    // More than a segment goes through, and a tool of the host's own reaches its node at the host's own name.
    let much = format!("byte_size(erpc:call('{}', binary, copy, [<<0>>, 3000000])).", b.full_name());
    assert_eq!(a.eval(&much), "3000000");
    let tool = h1.builder("rpc-1-tool").arg("-hidden").start();
    assert!(tool.ping(&a));
    let refused: Vec<_> = h1.guard.events("refused").iter().map(|event| field(event, "reason")).collect();
    assert_eq!(refused, [""; 0]);
    let ports = status(&lab, &h1.host)["listeners"].clone();
    assert!(ports.to_string().contains("\"role\":\"dist-tls\""), "{ports}");
}

#[test]
fn no_answer_of_an_epmd_behind_the_guard_names_a_port_of_tls_before_it_is_open() {
    if !require() {
        return;
    }
    let (lab, certificates) = secure_lab(&["h1", "h2"]);
    let (host, peer) = (lab.host("h1"), lab.host("h2"));
    let _epmd = Epmd::start(&host, EpmdListen::Loopback);
    // Where other nodes are offered elsewhere, too.
    let config = format!("{}[dist]\noutside = \"20000-20001\"\n{TLS}", registered(&ALL[..2]));
    let guard = Guard::start(&lab, &host, &config);
    let h1 = Secure { options: certificates.of(&host), host, guard };
    for _ in 0..3 {
        std::thread::scope(|scope| {
            let starting = scope.spawn(|| h1.builder("a").start());
            let answer = eventually("a is found", SOON, || {
                let answer = ask(&peer.connect(h1.at(4369)).unwrap(), b"za");
                answer.starts_with(b"w\0").then_some(answer)
            });
            assert_eq!(&answer[2..4], 9300_u16.to_be_bytes());
            assert!(peer.connect(h1.at(9300)).is_ok(), "the port that was told is not open");
            starting.join().unwrap().stop();
        });
        h1.guard.wait_closed(9300);
    }
}

#[test]
fn a_plain_node_is_turned_away_from_a_port_of_tls_before_the_node_hears_of_it() {
    if !require() {
        return;
    }
    let (lab, certificates) = secure_lab(&["h1", "h2"]);
    let config = format!("{}{TLS}", embedded(&ALL[..2]));
    let h1 = Secure::new(&lab, "h1", &certificates, &config);
    let a = h1.node("a");
    let heard = h1.host.counter("lo", 9300);
    let plain = Node::named("p", &lab.host("h2")).start();
    assert!(!plain.ping(&a));
    let closed = h1.guard.wait_event("closed", &[("role", "dist-tls"), ("reason", "no_handshake")]);
    assert_eq!(field(&closed, "detail"), "plain distribution was spoken to a port of TLS distribution");
    assert_eq!(field(&closed, "level"), "INFO");
    // Nor is anything else TLS.
    for (said, why) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], "its first byte is 71"),
        (b"\x16\x03\x01\x40\x01", "a record has 16385 bytes"),
        (b"\x16\x03\x03\0\x04\x02\0\0\0", "its first handshake message is of type 2"),
    ] {
        let mark = h1.guard.mark();
        let stream = lab.host("h2").connect(h1.at(9300)).unwrap();
        send(&stream, said).unwrap();
        is_ended(&stream);
        let detail = format!("{why}*");
        h1.guard.wait_event_after(mark, "closed", &[("reason", "no_handshake"), ("detail", &detail)]);
    }
    assert_eq!(heard.count(), 0);
    assert_eq!(a.eval("nodes(connected)."), "[]");
}

#[test]
fn those_who_say_nothing_and_those_who_stop_half_way_delay_no_good_peer() {
    if !require() {
        return;
    }
    let (lab, certificates) = secure_lab(&["h1", "h2", "h3", "h4"]);
    // No bans, which would end it sooner.
    let limits = "[limits]\nhalf_open = 512\nhalf_open_per_address = 64\n[ban]\nafter = 0\n";
    let config = format!("{}{TLS}{limits}", embedded(ALL));
    let [h1, h2] = ["h1", "h2"].map(|name| Secure::new(&lab, name, &certificates, &config));
    let (a, b) = (h1.node("a"), h2.node("b"));
    let hello = client_hello(&b);
    let heard = h1.host.counter("lo", 9300);
    let silent: Vec<_> = (0..100).map(|_| lab.host("h3").connect(h1.at(9300))).collect();
    assert!(silent.iter().any(Result::is_ok));
    h1.guard.wait_event("refused", &[("reason", "too_many_half_open_from_address"), ("stage", "inspect")]);
    assert_eq!(heard.count(), 0, "the node hears of nobody who says nothing");
    // These say what a good peer says first, and no more.
    let half: Vec<_> = (0..100)
        .filter_map(|_| {
            let stream = lab.host("h4").connect(h1.at(9300)).ok()?;
            send(&stream, &hello).ok().map(|()| stream)
        })
        .collect();
    h1.guard.wait_event("refused", &[("peer", "192.0.2.4:*"), ("stage", "inspect")]);
    assert!(!half.is_empty());
    let begun = Instant::now();
    assert!(b.ping(&a), "{:?}", h1.guard.daemon().lines());
    assert!(begun.elapsed() < STEP, "{:?}", begun.elapsed());
    assert!(heard.count() > 1, "some of them reached the node");
    // Nobody of them stays: the guard gives a step as long as the node does, so that either may end it first.
    h1.guard.wait_event(
        "closed",
        &[("peer", "192.0.2.3:*"), ("reason", "handshake_timeout"), ("detail", "the peer was silent")],
    );
    eventually("those who stopped half way are ended", SOON, || {
        let ends = ["handshake_timeout", "node_closed"];
        let of_them = |event: &serde_json::Value| field(event, "peer").starts_with("192.0.2.4:");
        let closed = h1.guard.events("closed");
        let count = closed
            .iter()
            .filter(|event| of_them(event) && ends.contains(&field(event, "reason").as_str()))
            .count();
        if count >= 32 { Ok(()) } else { Err(format!("{count} of them")) }
    });
    eventually("their places are free", SOON, || links(&admin_socket(&lab, &h1.host)).len() == 1);
    let again = lab.host("h3").connect(h1.at(9300)).unwrap();
    send(&again, &hello).unwrap();
    let mut answer = [0; 1];
    (&again).read_exact(&mut answer).unwrap();
    assert_eq!(answer, [22], "a ServerHello");
}

#[test]
fn a_client_hello_arrives_whole_and_as_it_was_however_it_came() {
    if !require() {
        return;
    }
    let config = format!("{}{TLS}", embedded(&["192.0.2.2"]));
    let mapped = Mapped::new(&["h1", "h2"], &config);
    let node = listen(&mapped.host, 9300);
    mapped.guard.wait_open(9300);
    let peer = mapped.lab.host("h2");
    let heard = mapped.host.counter("lo", 9300);
    let record = |kind: u8, body: &[u8]| {
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        [&[kind, 3, 3, length[0], length[1]], body].concat()
    };
    let hello = record(22, &[&[1][..], &vec![0xaa; 16_383]].concat());
    let socket = admin_socket(&mapped.lab, &mapped.host);
    let mut down = peer.connect(mapped.at(9300)).unwrap();
    for piece in hello[..hello.len() - 1].chunks(5000) {
        down.write_all(piece).unwrap();
    }
    // Another one is served meanwhile, so that this one has been read.
    let other = peer.connect(mapped.at(9300)).unwrap();
    send(&other, b"\0\x05N").unwrap();
    is_ended(&other);
    assert_eq!(heard.count(), 0, "the last byte is missing");
    // More than it: a second record, of data that was sent too early.
    let early = record(23, b"early");
    down.write_all(&[&hello[hello.len() - 1..], &early].concat()).unwrap();
    let (mut up, _) = node.accept().unwrap();
    up.set_read_timeout(Some(SOON)).unwrap();
    let mut said = vec![0; hello.len() + early.len()];
    up.read_exact(&mut said).unwrap();
    assert!(said == [&hello[..], &early].concat(), "bytes differ");
    assert_eq!(links(&socket).len(), 0, "what comes before the answer ends no handshake");
    let answer = record(22, b"server hello");
    up.write_all(&answer).unwrap();
    let mut said = vec![0; answer.len()];
    down.read_exact(&mut said).unwrap();
    let keys = record(22, b"keys");
    down.write_all(&keys).unwrap();
    let mut said = vec![0; keys.len()];
    up.read_exact(&mut said).unwrap();
    assert_eq!(links(&socket).len(), 0, "the peer has not shown the keys");
    let data = record(23, b"data");
    // The header is enough; whatever is under way goes on.
    for half in data.chunks(5) {
        down.write_all(half).unwrap();
    }
    let mut said = vec![0; data.len()];
    up.read_exact(&mut said).unwrap();
    assert_eq!(said, data);
    eventually("it is a link", SOON, || links(&socket).len() == 1);
    up.write_all(b"no record at all").unwrap();
    let mut said = [0; 16];
    down.read_exact(&mut said).unwrap();
    assert_eq!(&said, b"no record at all");
    drop(up);
    is_ended(&down);
    drop(down);
    let closed = mapped.guard.wait_event("closed", &[("reason", "closed_by_upstream")]);
    let up = hello.len() + early.len() + keys.len() + data.len();
    assert_eq!(field(&closed, "bytes_up"), up.to_string());
    assert_eq!(field(&closed, "bytes_down"), (answer.len() + 16).to_string());
}

#[test]
fn the_last_words_of_a_node_that_refuses_a_handshake_arrive() {
    if !require() {
        return;
    }
    let (lab, certificates) = secure_lab(&["h1", "h2"]);
    let config = format!("{}{TLS}", embedded(&ALL[..2]));
    let h1 = Secure::new(&lab, "h1", &certificates, &config);
    // A node whose certificate is of another cluster.
    let others = Secure::new(&lab, "h2", &Certificates::new(), &config);
    let (a, b) = (h1.node("a"), others.node("b"));
    assert!(!b.ping(&a));
    // The one that dials finds the fault, or the one that is dialled.
    let ended = eventually("the handshake ends", SOON, || {
        let closed = h1.guard.events("closed");
        closed.into_iter().find(|event| field(event, "role") == "dist-tls").ok_or("nothing yet")
    });
    let reason = field(&ended, "reason");
    assert!(["handshake_abandoned", "node_closed"].contains(&reason.as_str()), "{ended}");
    assert!(h1.guard.events("link_opened").is_empty());
    // The server's alert about nonsense behind a ClientHello reaches who sent it.
    let hello = client_hello(&b);
    let stream = lab.host("h2").connect(h1.at(9300)).unwrap();
    send(&stream, &[&hello[..], &[20, 3, 3, 0, 1, 9]].concat()).unwrap();
    let outcome = read_to_close(&stream);
    assert!(outcome.bytes.windows(3).any(|bytes| bytes == [21, 3, 3]), "no alert: {outcome:?}");
    h1.guard.wait_event("closed", &[("reason", "node_closed"), ("role", "dist-tls")]);
}

#[test]
fn another_port_between_nodes_is_there_for_peers_while_something_listens_and_for_nobody_else() {
    if !require() {
        return;
    }
    let config = format!("{}{TCP}", embedded(&["192.0.2.2"]));
    let mapped = Mapped::new(&["h1", "h2", "h3"], &config);
    let (peer, stranger) = (mapped.lab.host("h2"), mapped.lab.host("h3"));
    assert!(peer.connect(mapped.at(5370)).is_err(), "nothing listens behind it");
    let service = listen(&mapped.host, 5370);
    mapped.guard.wait_open(5370);
    let heard = mapped.host.counter("lo", 5370);
    if let Ok(stream) = stranger.connect(mapped.at(5370)) {
        is_ended(&stream);
    }
    mapped
        .guard
        .wait_event("refused", &[("role", "tcp"), ("reason", "not_allowed"), ("peer", "192.0.2.3:*")]);
    assert_eq!(heard.count(), 0);
    echo(service.try_clone().unwrap());
    let link = peer.connect(mapped.at(5370)).unwrap();
    echoes(&link, b"once");
    mapped.guard.wait_event("link_opened", &[("role", "tcp"), ("inside", "5370")]);
    // This host itself, at the address that its own name leads to.
    echoes(&mapped.host.connect(mapped.at(5370)).unwrap(), b"self");
    let metrics = admin_get(&mapped.lab, &mapped.host, "/metrics");
    for (role, open) in [("tcp", true), ("dist-tls", false), ("dist", false)] {
        let none = format!("epmd_guard_ports_open{{role=\"{role}\"}} 0\n");
        assert!(metrics.contains(none.trim_end_matches("0\n")), "{role}: {metrics}");
        assert_eq!(metrics.contains(&none), !open, "{role}: {metrics}");
    }
    // A server that goes first and the half of a close pass as with nodes.
    link.shutdown(std::net::Shutdown::Write).unwrap();
    is_ended(&link);
    mapped
        .guard
        .wait_event("closed", &[("role", "tcp"), ("reason", "closed_by_downstream"), ("bytes_up", "4")]);
    let other = listen(&mapped.host, 5371);
    drop(other);
    assert!(peer.connect(mapped.at(5371)).is_err(), "it is no port of the table");
}

#[test]
fn a_port_closes_with_its_listener_and_its_links_live_on() {
    if !require() {
        return;
    }
    let mapped = Mapped::new(&["h1", "h2"], &format!("{}{TCP}", embedded(&["192.0.2.2"])));
    for _ in 0..2 {
        let service = listen(&mapped.host, 5370);
        mapped.guard.wait_open(5370);
        let down = mapped.lab.host("h2").connect(mapped.at(5370)).unwrap();
        let (mut up, _) = service.accept().unwrap();
        drop(service);
        mapped.guard.wait_closed(5370);
        send(&down, b"on").unwrap();
        let mut said = [0; 2];
        up.read_exact(&mut said).unwrap();
        assert_eq!(&said, b"on");
    }
}

#[test]
fn a_forwarded_port_is_there_only_for_who_may_reach_what_is_registered_at_it() {
    if !require() {
        return;
    }
    let bound = "[[peer]]\nname = \"h2\"\naddresses = [\"192.0.2.2\"]\nmay_reach = [\"web\"]\n";
    let config = format!("{}{TCP}{bound}", embedded(&["192.0.2.3"]));
    let mapped = Mapped::new(&["h1", "h2", "h3"], &config);
    let service = listen(&mapped.host, 5370);
    mapped.guard.wait_open(5370);
    echo(service);
    let heard = mapped.host.counter("lo", 5370);
    let h2 = mapped.lab.host("h2");
    if let Ok(stream) = h2.connect(mapped.at(5370)) {
        is_ended(&stream);
    }
    mapped
        .guard
        .wait_event("refused", &[("role", "tcp"), ("reason", "not_reachable"), ("peer", "192.0.2.2:*")]);
    assert_eq!(heard.count(), 0, "what is there has no name");
    echoes(&mapped.lab.host("h3").connect(mapped.at(5370)).unwrap(), b"free");
    let web = mapped.register("web", 5370);
    echoes(&h2.connect(mapped.at(5370)).unwrap(), b"web!");
    let _db = mapped.register("db", 5370);
    if let Ok(stream) = h2.connect(mapped.at(5370)) {
        is_ended(&stream);
    }
    drop(web);
    echoes(&mapped.lab.host("h3").connect(mapped.at(5370)).unwrap(), b"free");
}

#[test]
fn what_listens_around_the_guard_is_told_with_its_cure() {
    if !require() {
        return;
    }
    let mapped = Mapped::new(&["h1", "h2"], &format!("{}{TCP}{TLS}", embedded(&["192.0.2.2"])));
    let _anywhere = mapped.host.listen("0.0.0.0:5370".parse().unwrap()).unwrap();
    let _node = mapped.host.listen("192.0.2.1:9301".parse().unwrap()).unwrap();
    let told = mapped.guard.wait_event("node_exposed", &[("port", "5370")]);
    assert!(field(&told, "help").contains("have it listen on 127.0.0.1"), "{told}");
    let told = mapped.guard.wait_event("node_exposed", &[("port", "9301")]);
    assert!(field(&told, "help").contains("inet_dist_use_interface"), "{told}");
    // Somebody else has the port at the address where peers come.
    let _here = mapped.host.listen("127.0.0.1:9302".parse().unwrap()).unwrap();
    mapped.guard.wait_open(9302);
    let _squatter = mapped.host.listen("192.0.2.1:9303".parse().unwrap()).unwrap();
    let _behind = mapped.host.listen("127.0.0.1:9303".parse().unwrap()).unwrap();
    let taken =
        mapped.guard.wait_event("port_taken", &[("role", "dist-tls"), ("listener", "192.0.2.1:9303")]);
    assert!(field(&taken, "help").contains("out of [[forward]] ports"), "{taken}");
}

#[test]
fn a_reload_that_takes_a_forward_away_cuts_its_links_and_closes_its_ports() {
    if !require() {
        return;
    }
    let base = embedded(&["192.0.2.2"]);
    let mapped = Mapped::new(&["h1", "h2"], &format!("{base}{TCP}"));
    let service = listen(&mapped.host, 5370);
    mapped.guard.wait_open(5370);
    echo(service);
    let h2 = mapped.lab.host("h2");
    let link = h2.connect(mapped.at(5370)).unwrap();
    echoes(&link, b"here");
    let socket = admin_socket(&mapped.lab, &mapped.host);
    let reload = |config: &str, arguments: &[&str]| {
        drop(configure(&mapped.lab, &mapped.host, config));
        told(&mapped.lab, &mapped.host, arguments)
    };
    // What is added leaves it alone.
    let both = format!("{base}{TLS}{TCP}");
    let said = reload(&both, &["reload"]);
    assert!(said.code == 0 && said.out.contains("[[forward]] dist-tls 9300-9305: added"), "{said:?}");
    echoes(&link, b"here");
    let said = reload(&base, &["reload"]);
    assert!(said.code == 1 && said.err.contains("would cut 1 of 1 links"), "{said:?}");
    let said = reload(&base, &["reload", "--yes"]);
    assert_eq!(said.code, 0, "{said:?}");
    mapped
        .guard
        .wait_event("closed", &[("reason", "revoked"), ("detail", "port_not_offered"), ("role", "tcp")]);
    assert_eq!(links(&socket).len(), 0);
    mapped.guard.wait_closed(5370);
    assert!(h2.connect(mapped.at(5370)).is_err());
    // It comes back as TLS, and is one from then on.
    let said = reload(&format!("{base}{}", TCP.replace("tcp", "dist-tls")), &["reload"]);
    assert_eq!(said.code, 0, "{said:?}");
    mapped.guard.wait_open(5370);
    let stream = h2.connect(mapped.at(5370)).unwrap();
    send(&stream, b"here").unwrap();
    is_ended(&stream);
    mapped.guard.wait_event("closed", &[("role", "dist-tls"), ("reason", "no_handshake")]);
}
