//! Many reloads of a guard in front of a busy cluster.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::ends::Ends;
use super::epmd::{Epmd, EpmdListen};
use super::erlang::Node;
use super::eventually::eventually;
use super::guard::{Guard, SOON, admin_socket, ask_admin, configure, field, links};
use super::host::Host;
use super::lab::Lab;
use super::wire;

/// How much the guard may have grown, in KiB.
const GROWTH: u64 = 8 << 10;
/// So many reloads come as fast as they can; then the ports are waited for, since none closes before it has been
/// of no use for a while.
const TURN: u32 = 16;
/// Ports of somebody on loopback, which are forwarded by some configurations.
const FORWARDED: [u16; 3] = [9107, 9108, 9109];
/// Where epmd is served as well by some configurations.
const EPMD_TOO: u16 = 4370;

/// What was seen.
#[derive(Debug)]
pub struct Measured {
    /// For all reloads after the warm-up.
    pub took: Duration,
    /// Descriptors and resident KiB after the warm-up, and at the end.
    pub sizes: [(usize, u64); 2],
    /// Messages that the nodes of lasting links were answered.
    pub answered: Vec<u64>,
    /// Links that came and went meanwhile, by whether they came up.
    pub short: (u64, u64),
    /// Ports that were opened and closed after the warm-up, each address by itself.
    pub ports: [usize; 2],
}

/// A guarded node, two peers whose links are to last, and one whose links come and go.
struct Cluster {
    node: Node,
    lasting: Vec<Node>,
    fleeting: Node,
    guard: Guard,
    /// What listens at [`FORWARDED`].
    _behind: Vec<TcpListener>,
    _epmd: Epmd,
    lab: Lab,
}

/// Reloads `warm_up` and then `count` times, with another configuration each time, and once after each. Two peers
/// are permitted by all of them; they talk all the time, and must not notice. Other ports open and close.
///
/// # Panics
///
/// When a link is lost, a reload is refused, the guard grows, or its ports do not follow.
pub fn many(warm_up: u32, count: u32) -> Measured {
    let cluster = Cluster::new();
    let socket = admin_socket(&cluster.lab, &cluster.host());
    let ids: Vec<u64> = links(&socket).into_keys().collect();
    assert_eq!(ids.len(), 2, "the lasting links");
    let first = cluster.reload(&socket, 0..warm_up);
    let before = cluster.calm_size(&socket, None);
    let ports = cluster.ports();
    let begun = Instant::now();
    let then = cluster.reload(&socket, warm_up..warm_up + count);
    let took = begun.elapsed();
    let after = cluster.calm_size(&socket, Some(before.0));

    let status: Value = serde_json::from_str(&ask_admin(&socket, "GET", "/status").1).expect("it is JSON");
    assert_eq!(field(&status, "generation"), (warm_up + count + 3).to_string());
    assert_eq!(links(&socket).into_keys().collect::<Vec<_>>(), ids);
    let lost = |event: &Value| ids.iter().any(|id| field(event, "id") == id.to_string());
    assert!(!cluster.guard.events("closed").iter().any(lost), "a link was lost");
    let short = (first.0 + then.0, first.1 + then.1);
    let ports = [cluster.ports()[0] - ports[0], cluster.ports()[1] - ports[1]];
    let measured = Measured { took, sizes: [before, after], answered: cluster.answered(), short, ports };
    assert!(after.1 < before.1 + GROWTH, "the guard has grown: {measured:?}");
    assert!(measured.short.0 > 0, "no new link came up: {measured:?}");
    assert!(ports.iter().all(|count| *count > 100), "few ports opened or closed: {measured:?}");
    measured
}

impl Cluster {
    fn new() -> Self {
        let lab = Lab::new(&["h1", "h2", "h3", "h4"]);
        let host = lab.host("h1");
        let epmd = Epmd::start(&host, EpmdListen::Loopback);
        let loopback = |port: &u16| host.listen(SocketAddr::from(([127, 0, 0, 1], *port)));
        let behind = FORWARDED.iter().map(|port| loopback(port).expect("the port is free")).collect();
        let guard = Guard::start(&lab, &host, &config(0));
        let alone = |name: &str, host: &Host| Node::named(name, host).arg("-connect_all").arg("false");
        let node = alone("a", &host).port(9100).start();
        guard.wait_open(9100);
        let lasting: Vec<Node> =
            ["h2", "h3"].iter().map(|name| alone("n", &lab.host(name)).start()).collect();
        let fleeting = alone("n", &lab.host("h4")).start();
        node.eval("register(echo, spawn(fun Echo() -> receive {From, N} -> From ! N, Echo() end end)).");
        let cluster = Self { node, lasting, fleeting, guard, _behind: behind, _epmd: epmd, lab };
        for peer in &cluster.lasting {
            assert!(peer.ping(&cluster.node), "{} has no link", peer.full_name());
            peer.eval(
                "register(client, spawn(fun() -> Ask = fun Ask(N) -> {echo, 'a@h1.test'} ! {self(), N}, \
                 receive N -> put(count, N), receive after 2 -> Ask(N + 1) end after 10000 -> silent end end, \
                 Ask(1) end)).",
            );
        }
        for watcher in cluster.lasting.iter().chain([&cluster.node]) {
            watcher.eval(
                "register(watch, spawn(fun() -> net_kernel:monitor_nodes(true), Watch = fun Watch(Down) -> \
                 put(down, Down), receive {nodedown, N} -> Watch([N | Down]); _ -> Watch(Down) end end, \
                 Watch([]) end)).",
            );
        }
        cluster
    }

    fn host(&self) -> Host {
        self.lab.host("h1")
    }

    /// One reload after the other, each with a look-up behind it, while links come and go.
    fn reload(&self, socket: &Path, numbers: std::ops::Range<u32>) -> (u64, u64) {
        let peer = self.lab.host("h2");
        let epmd = SocketAddr::new(self.host().v4().into(), 4369);
        let end = AtomicBool::new(false);
        thread::scope(|scope| {
            let fleeting = scope.spawn(|| {
                let mut seen = (0, 0);
                while !end.load(Ordering::Relaxed) {
                    if self.fleeting.ping(&self.node) {
                        seen.0 += 1;
                    } else {
                        seen.1 += 1;
                    }
                    self.fleeting.eval("erlang:disconnect_node('a@h1.test').");
                }
                seen
            });
            let _end = Ends(&end);
            // What is measured afterwards has the same ports each time.
            for number in numbers.chain([0]) {
                drop(configure(&self.lab, &self.host(), &config(number)));
                let (status, body) = ask_admin(socket, "POST", "/reload?yes=1");
                assert_eq!(status, 200, "{body}");
                let stream = peer.connect(epmd).expect("a permitted peer is taken");
                assert!(
                    wire::ask(&stream, b"za").starts_with(b"w\0"),
                    "a permitted question was not answered"
                );
                if number % TURN == TURN - 1 || number == 0 {
                    self.wait_ports(number);
                }
            }
            end.store(true, Ordering::Relaxed);
            fleeting.join().expect("links come and go")
        })
    }

    /// Waits until those ports are open that the configuration of this number opens, and no others.
    fn wait_ports(&self, number: u32) {
        let of = Ports::of(number);
        self.guard.wait_open(9100);
        for (port, is_open) in
            FORWARDED.map(|port| (port, of.forwards())).into_iter().chain([(EPMD_TOO, of.epmd_too)])
        {
            if is_open { self.guard.wait_open(port) } else { self.guard.wait_closed(port) }
        }
    }

    /// How many ports have been opened and closed.
    fn ports(&self) -> [usize; 2] {
        ["port_opened", "port_closed"].map(|event| self.guard.events(event).len())
    }

    /// Descriptors and memory, when nothing but the lasting links is left; if given, when the descriptors are
    /// as many again.
    fn calm_size(&self, socket: &Path, descriptors: Option<usize>) -> (usize, u64) {
        let mut last = (0, 0);
        eventually("the guard is calm", SOON, || {
            let size = self.guard.size();
            let before = std::mem::replace(&mut last, size);
            let is_calm = descriptors.unwrap_or(before.0) == size.0 && links(socket).len() == 2;
            if is_calm { Ok(size) } else { Err(format!("{descriptors:?} descriptors became {size:?}")) }
        })
    }

    /// How many answers the lasting peers got; nobody has seen one of their links go.
    fn answered(&self) -> Vec<u64> {
        let of = |node: &Node, process: &str, key: &str| {
            node.eval(&format!(
                "{{dictionary, D}} = process_info(whereis({process}), dictionary), proplists:get_value({key}, D)."
            ))
        };
        let down = of(&self.node, "watch", "down");
        assert!(!down.contains("@h2.test") && !down.contains("@h3.test"), "{down}");
        let count = |peer: &Node| {
            assert_eq!(of(peer, "watch", "down"), "[]", "{}", peer.full_name());
            let count = || of(peer, "client", "count").parse::<u64>().expect("it was answered");
            let before = count();
            eventually("it is answered again", SOON, || count() > before);
            before
        };
        self.lasting.iter().map(count).collect()
    }
}

/// What a configuration says of the ports. It stays so for a [`TURN`].
struct Ports {
    /// Not the ports of a list, but those of the nodes.
    registered: bool,
    /// The list has [`FORWARDED`].
    listed: bool,
    /// epmd is at [`EPMD_TOO`] as well.
    epmd_too: bool,
}

impl Ports {
    fn of(number: u32) -> Self {
        let turn = number / TURN;
        Self { registered: turn >> 2 & 1 == 1, listed: turn & 1 == 1, epmd_too: turn & 1 == 0 }
    }

    /// Nobody has registered with epmd what is behind [`FORWARDED`].
    fn forwards(&self) -> bool {
        self.listed && !self.registered
    }
}

/// A configuration by number. `h2` and `h3` are permitted by each, by one rule or another; `h4` by most.
fn config(number: u32) -> String {
    let bit = |at: u32| number >> at & 1 == 1;
    let mut allow = vec![if bit(0) { "192.0.2.3" } else { "h3.test" }];
    let mut peers = String::new();
    if bit(1) {
        peers.push_str("[[peer]]\nname = \"h2\"\naddresses = [\"192.0.2.2\"]\n");
    } else {
        allow.push("192.0.2.2");
    }
    if bit(2) {
        allow.insert(0, "192.0.2.77");
    }
    if number % 5 != 4 {
        allow.push("192.0.2.4");
    }
    let Ports { registered, listed, epmd_too } = Ports::of(number);
    let ports = match (registered, listed) {
        (true, _) => "\"registered\"",
        (false, true) if bit(3) => "[9100, \"9105-9109\"]",
        (false, true) => "\"9100-9110\"",
        (false, false) if bit(3) => "[9100, 9105]",
        (false, false) => "\"9100-9106\"",
    };
    let listen = if epmd_too { format!("listen = [\"*\", \"*:{EPMD_TOO}\"]\n") } else { String::new() };
    let per_address = if bit(4) { 512 } else { 200 };
    format!(
        "[cluster]\nallow = {allow:?}\n[epmd]\nbackend = \"127.0.0.1:4369\"\n{listen}[dist]\nports = {ports}\n[limits]\nper_address = {per_address}\n\
         [log]\nformat = \"json\"\n{peers}"
    )
}
