//! A stranger who opens and holds connections as fast as one process can, beside a cluster at work.

use std::collections::VecDeque;
use std::fs;
use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::common::{UNPACED, require};
use crate::support::daemon::Daemon;
use crate::support::ends::Ends;
use crate::support::erlang::Node;
use crate::support::eventually::eventually;
use crate::support::flood::Flood;
use crate::support::guard::{Guard, SOON, embedded, program};
use crate::support::host::Host;
use crate::support::lab::Lab;
use crate::support::wire::{framed, send};

/// How long a set-up of a link may take in all, its question to epmd with it (OTP's own limit).
const OTPS_PATIENCE: Duration = Duration::from_secs(7);
const PORT: u16 = 4369;
/// Names that are registered before the flood, besides those of real nodes.
const NAMES: u16 = 50;

/// One flood at a time: what is measured is not how two of them share the machine.
fn alone() -> MutexGuard<'static, ()> {
    static FLOODS: Mutex<()> = Mutex::new(());
    // The stranger holds as many connections as half of this allows.
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).unwrap();
    FLOODS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Questions that were answered, and the one that took longest.
#[derive(Debug, Default)]
struct Record {
    count: AtomicU64,
    worst: Mutex<(Duration, &'static str)>,
}

impl Record {
    #[track_caller]
    fn time<T>(&self, what: &'static str, ask: impl FnOnce() -> T) -> T {
        let begun = Instant::now();
        let answer = ask();
        let taken = begun.elapsed();
        assert!(taken < OTPS_PATIENCE, "{what} took {taken:?}");
        self.count.fetch_add(1, Ordering::Relaxed);
        let mut worst = self.worst.lock().unwrap();
        *worst = (*worst).max((taken, what));
        answer
    }
}

/// To be called on a thread of the host.
#[track_caller]
fn connect(to: impl Into<IpAddr>) -> TcpStream {
    let stream = TcpStream::connect_timeout(&SocketAddr::new(to.into(), PORT), OTPS_PATIENCE).unwrap();
    stream.set_read_timeout(Some(OTPS_PATIENCE)).unwrap();
    stream
}

#[track_caller]
fn ask(to: impl Into<IpAddr>, request: &[u8]) -> Vec<u8> {
    let mut stream = connect(to);
    send(&stream, &framed(request)).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    answer
}

#[track_caller]
fn register(name: &str, port: u16) -> TcpStream {
    let [high, low] = port.to_be_bytes();
    let head = [b'x', high, low, 77, 0, 0, 6, 0, 5, 0, name.len() as u8];
    let stream = connect(Ipv4Addr::LOCALHOST);
    send(&stream, &framed(&[&head[..], name.as_bytes(), &[0, 0]].concat())).unwrap();
    let mut reply = [1; 6];
    (&stream).read_exact(&mut reply).unwrap();
    assert_eq!(reply[..2], [118, 0], "{name} is registered");
    stream
}

#[track_caller]
fn assert_told(answer: &[u8], port: u16) {
    let [high, low] = port.to_be_bytes();
    assert!(answer.starts_with(&[b'w', 0, high, low]), "not at {port}: {answer:?}");
}

/// What a process uses.
#[derive(Clone, Copy, Debug, Default)]
struct Size {
    descriptors: usize,
    /// Resident, in KiB.
    memory: u64,
}

impl Size {
    fn of(pid: u32) -> Self {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        let memory = resident.split_whitespace().next().unwrap().parse().unwrap();
        Self { descriptors: fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs").count(), memory }
    }

    fn most(self, other: Self) -> Self {
        Self { descriptors: self.descriptors.max(other.descriptors), memory: self.memory.max(other.memory) }
    }
}

/// The processor time of a process, in ticks of 10 ms.
fn ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let fields: Vec<_> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    fields[11..=12].iter().map(|field| field.parse::<u64>().unwrap()).sum()
}

/// Waits until a process has used less than a tenth of one processor for a second, and says how long that took.
#[track_caller]
fn wait_calm(pid: u32, within: Duration) -> Duration {
    let begun = Instant::now();
    let mut seen = VecDeque::new();
    eventually("its processor time falls back", within, || {
        let now = (Instant::now(), ticks(pid));
        seen.push_back(now);
        let window = |first: &(Instant, u64)| now.0 - first.0 >= Duration::from_secs(1);
        while seen.get(1).is_some_and(window) {
            seen.pop_front();
        }
        let first = seen.front().copied().filter(window).ok_or("less than a second of it")?;
        let used = now.1 - first.1;
        if used <= 10 { Ok(begun.elapsed()) } else { Err("still at work") }
    })
}

/// What goes on beside a flood; `a` is a node of `own`.
struct Cluster<'a> {
    own: &'a Host,
    peer: &'a Host,
    a: u16,
}

impl Cluster<'_> {
    /// Asks as fast as answers come until `end`, self and peer, and sees to it that each is answered.
    fn asks_until<T: Send>(&self, end: &AtomicBool, beside: impl FnOnce(&Record) -> T + Send) -> (Record, T) {
        let record = Record::default();
        let going = || !end.load(Ordering::Relaxed);
        let own = self.own.v4();
        let value = thread::scope(|scope| {
            scope.spawn(|| {
                self.own.inside(|| {
                    for round in (0..u16::MAX).take_while(|_| going()) {
                        let name = format!("s{round}");
                        let named = record.time("self: register", || register(&name, 20_000));
                        let request = [b"z", name.as_bytes()].concat();
                        let found = record.time("self: find", || ask(Ipv4Addr::LOCALHOST, &request));
                        assert_told(&found, 20_000);
                        drop(named);
                    }
                });
            });
            scope.spawn(|| {
                self.own.inside(|| {
                    while going() {
                        assert_told(
                            &record.time("self: find at its own address", || ask(own, b"za")),
                            self.a,
                        );
                    }
                });
            });
            scope.spawn(|| {
                self.peer.inside(|| {
                    while going() {
                        assert_told(&record.time("peer: find", || ask(own, b"za")), self.a);
                        let names = record.time("peer: list", || ask(own, b"n"));
                        let names = String::from_utf8(names.get(4..).unwrap().to_vec()).unwrap();
                        let kept = names.lines().filter(|line| line.starts_with("name kept")).count();
                        assert_eq!(kept, usize::from(NAMES), "a name is lost: {names}");
                    }
                });
            });
            let ends = Ends(end);
            let value = beside(&record);
            drop(ends);
            value
        });
        (record, value)
    }
}

/// Names that stay as long as these streams.
fn keep_names(host: &Host) -> Vec<TcpStream> {
    host.inside(|| (0..NAMES).map(|number| register(&format!("kept{number}"), 30_000 + number)).collect())
}

/// None of the registrations has been ended.
#[track_caller]
fn assert_kept(names: &[TcpStream]) {
    for name in names {
        name.set_nonblocking(true).unwrap();
        let read = (&*name).read(&mut [0]).map_err(|error| error.kind());
        assert_eq!(read, Err(std::io::ErrorKind::WouldBlock), "a registration has ended");
    }
}

fn hosts() -> (Lab, [Host; 3]) {
    let lab = Lab::new(&["h1", "h2", "h3"]);
    let hosts = ["h1", "h2", "h3"].map(|name| lab.host(name));
    (lab, hosts)
}

/// Without a line for each connection, as in production.
fn config(allow: &[&str]) -> String {
    format!("{}{UNPACED}", embedded(allow)).replace("level = \"debug\"", "level = \"info\"")
}

#[test]
fn a_cluster_works_while_a_stranger_floods_epmd_and_nothing_of_the_flood_stays() {
    if !require() {
        return;
    }
    let _alone = alone();
    let (lab, [h1, h2, h3]) = hosts();
    let guard = Guard::start(&lab, &h1, &config(&["192.0.2.2"]));
    let pid = guard.daemon().pid();
    let a = Node::named("a", &h1).start();
    guard.wait_open(a.port());
    let b = Node::named("b", &h2).hidden().start();
    let link = || {
        assert!(b.ping(&a), "b reaches a");
        assert_eq!(b.eval("erlang:disconnect_node('a@h1.test')."), "true");
    };
    link();
    let kept = keep_names(&h1);
    wait_calm(pid, SOON);
    let before = Size::of(pid);

    let (cluster, end) = (Cluster { own: &h1, peer: &h2, a: a.port() }, AtomicBool::new(false));
    let flood = Flood::start(&h3, (h1.v4(), PORT).into());
    let (record, (most, used)) = cluster.asks_until(&end, |record| {
        let (begun, used) = (Instant::now(), ticks(pid));
        let mut most = Size::default();
        let mut rounds = 0;
        while begun.elapsed() < Duration::from_secs(20) {
            record.time("peer: link", link);
            if rounds % 10 == 0 {
                let c = record.time("self: a node starts", || Node::named("c", &h1).start());
                assert!(record.time("peer: link to it", || b.ping(&c)));
            }
            most = most.most(Size::of(pid));
            rounds += 1;
        }
        let used = ticks(pid) - used;
        (most, used * 10 / begun.elapsed().as_secs())
    });
    let counts = flood.counts();
    drop(flood);
    let calm = wait_calm(pid, Duration::from_secs(4));
    let worst = record.worst.into_inner().unwrap();
    eprintln!(
        "{counts:?}; {} questions, the worst {worst:?}; before {before:?}, at most {most:?}, {used} ms of processor time a \
         second; calm for a second after {calm:?}",
        record.count.into_inner()
    );
    assert!(counts.attempts > 10_000, "that was no flood: {counts:?}");
    assert_kept(&kept);
    link();
    // Nothing but what the cluster itself has at one time.
    assert!(most.descriptors < before.descriptors + 100, "{before:?} {most:?}");
    assert!(most.memory < before.memory + 32 * 1024, "{before:?} {most:?}");
    let after = eventually("it lets go of all", SOON, || {
        let now = Size::of(pid);
        if now.descriptors <= before.descriptors + 4 { Ok(now) } else { Err(format!("{now:?}")) }
    });
    assert!(after.memory < before.memory + 32 * 1024, "{before:?} {after:?}");
}

#[test]
fn a_flood_from_a_permitted_network_leaves_this_host_and_named_peers_their_places() {
    if !require() {
        return;
    }
    let _alone = alone();
    let (lab, [h1, h2, h3]) = hosts();
    let guard = Guard::start(&lab, &h1, &config(&["192.0.2.2", "192.0.2.0/24"]));
    let pid = guard.daemon().pid();
    let a = Node::named("a", &h1).start();
    guard.wait_open(a.port());
    let kept = keep_names(&h1);
    let before = Size::of(pid);
    let (cluster, end) = (Cluster { own: &h1, peer: &h2, a: a.port() }, AtomicBool::new(false));
    let flood = Flood::start(&h3, (h1.v4(), PORT).into());
    let (record, most) = cluster.asks_until(&end, |_| {
        let mut most = Size::default();
        let begun = Instant::now();
        eventually("five seconds of it", SOON, || {
            most = most.most(Size::of(pid));
            begun.elapsed() > Duration::from_secs(5)
        });
        most
    });
    let counts = flood.counts();
    drop(flood);
    let calm = wait_calm(pid, Duration::from_secs(4));
    let worst = record.worst.into_inner().unwrap();
    eprintln!(
        "{counts:?}; {:?} questions, the worst {worst:?}; {before:?} {most:?}; calm {calm:?}",
        record.count
    );
    assert!(counts.attempts > 5_000, "that was no flood: {counts:?}");
    // [limits] per_address is 512.
    let taken = most.descriptors - before.descriptors;
    assert!((500..=612).contains(&taken), "{before:?} {most:?}");
    assert!(most.memory < before.memory + 32 * 1024, "{before:?} {most:?}");
    assert_kept(&kept);
    eventually("it lets go of all", SOON, || Size::of(pid).descriptors <= before.descriptors + 4);
}

/// With as many descriptors as most systems give, none of which it can add.
fn limited(host: &Host, epmd: &Path) -> Command {
    let mut command = host.command_as("nobody", "prlimit");
    command.arg("--nofile=1024:1024").arg(epmd);
    command
}

#[test]
fn the_drop_in_lives_through_a_flood_that_ends_the_real_epmd() {
    if !require() {
        return;
    }
    let _alone = alone();
    let (lab, [h1, h2, h3]) = hosts();
    let to = SocketAddr::new(h1.v4().into(), PORT);
    let listens = || h1.listeners().contains(&SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), PORT));
    {
        let real = Daemon::spawn("the real epmd", limited(&h1, Path::new("epmd")));
        eventually("it listens", SOON, listens);
        let flood = Flood::start(&h3, to);
        // CVE-2026-42792: not the installed one's fault any more where this fails, and this half may go.
        let status = real.wait_exit(SOON);
        assert_eq!(status.code(), Some(1), "{:?}", flood.counts());
    }
    let file = lab.dir().join("epmd-guard.toml");
    fs::write(&file, "[cluster]\nallow = [\"192.0.2.2\"]\n").unwrap();
    let folder = lab.dir().join("bin");
    fs::create_dir(&folder).unwrap();
    let epmd = folder.join("epmd");
    symlink(program(&lab), &epmd).unwrap();
    let mut command = limited(&h1, &epmd);
    command.env("EPMD_GUARD_CONFIG", &file);
    let ours = Daemon::spawn("epmd", command);
    eventually("it listens", SOON, listens);
    let pid = ours.pid();
    let a = Node::named("a", &h1).anywhere().start();
    let kept = keep_names(&h1);
    let before = Size::of(pid);
    let (cluster, end) = (Cluster { own: &h1, peer: &h2, a: a.port() }, AtomicBool::new(false));
    let flood = Flood::start(&h3, to);
    let (record, most) = cluster.asks_until(&end, |_| {
        let mut most = Size::default();
        let begun = Instant::now();
        eventually("five seconds of it", SOON, || {
            most = most.most(Size::of(pid));
            begun.elapsed() > Duration::from_secs(5)
        });
        most
    });
    let counts = flood.counts();
    drop(flood);
    let worst = record.worst.into_inner().unwrap();
    eprintln!("{counts:?}; {:?} questions, the worst {worst:?}; {before:?} {most:?}", record.count);
    assert!(counts.attempts > 5_000, "that was no flood: {counts:?}");
    assert!(most.descriptors < before.descriptors + 100, "{before:?} {most:?}");
    assert_eq!(ours.exit_status(), None);
    assert_kept(&kept);
    wait_calm(pid, Duration::from_secs(4));
}
