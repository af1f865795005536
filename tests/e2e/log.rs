//! The log and whoever reads it, and the disk that it is on.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::common::{EVERYBODY, UNPACED, require};
use crate::support::erlang::{Epmd, EpmdListen, Node};
use crate::support::eventually::eventually;
use crate::support::guard::{SOON, USER, admin_socket, front, program};
use crate::support::host::Host;
use crate::support::lab::Lab;
use crate::support::said::{Said, curl, told};
use crate::support::wire::ask;

/// More events than the log queues for a reader that is stuck, and its pipe besides.
const EVENTS: usize = 20_000;

/// Ends a guard as an operator does, and well.
fn end(guard: &mut Child) {
    let pid = rustix::process::Pid::from_child(guard);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let ended = eventually("the guard ends", SOON, || guard.try_wait().unwrap());
    assert!(ended.success(), "{ended}");
}

#[test]
fn a_reader_of_the_log_that_is_stuck_stalls_neither_answers_nor_links_nor_the_end() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1", "h2"]);
    let host = lab.host("h1");
    // On both hosts: an epmd that a node starts may be slower than the node.
    let _epmds = [&host, &lab.host("h2")].map(|host| Epmd::start(host, EpmdListen::Loopback));
    let config = lab.dir().join("stuck.toml");
    std::fs::write(&config, format!("{}{UNPACED}", front(EVERYBODY))).unwrap();
    let mut command = host.command_as(USER, program(&lab));
    command.arg("run").arg("--config").arg(config).stderr(Stdio::piped());
    // Its standard error is a pipe that nobody reads.
    let mut guard = command.spawn().unwrap();
    let epmd = SocketAddr::new(host.v4().into(), 4369);
    eventually("the guard serves", SOON, || host.listeners().contains(&epmd));
    let peer = lab.host("h2");
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..EVENTS / 8 {
                    assert_eq!(ask(&peer.connect(epmd).unwrap(), b"n"), b"\0\0\x11\x11");
                }
            });
        }
    });
    let a = Node::named("a", &host).port(9100).start();
    let b = Node::named("b", &peer).hidden().port(9100).start();
    assert!(b.ping(&a));
    end(&mut guard);
}

/// A file system of 256 KiB, for as long as this lives.
struct TinyDisk(PathBuf);

impl TinyDisk {
    fn at(path: PathBuf) -> Self {
        fs::create_dir(&path).unwrap();
        let disk = Self(path);
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=256k,mode=755", "tmpfs"]).arg(&disk.0);
        let said = Said::by(mount);
        assert_eq!(said.code, 0, "{said:?}");
        disk
    }

    fn is_full(&self) -> bool {
        rustix::fs::statvfs(&self.0).unwrap().f_bfree == 0
    }

    fn go_away(&self) {
        let mut umount = Command::new("umount");
        umount.arg("--lazy").arg(&self.0);
        // Twice does no harm.
        drop(umount.stderr(Stdio::null()).status());
    }
}

impl Drop for TinyDisk {
    fn drop(&mut self) {
        self.go_away();
    }
}

/// The value of a series without labels.
fn metric(lab: &Lab, host: &Host, name: &str) -> f64 {
    let said = curl(host, &admin_socket(lab, host), "/metrics");
    let line = said.out.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("{name}: {said:?}"))
}

/// A reload is refused for this reason, changes nothing and cuts nothing.
fn is_refused(lab: &Lab, host: &Host, what: &str, why: &str) {
    let said = told(lab, host, &["reload"]);
    assert!(said.code == 1 && said.err.contains(why), "{what}: {said:?}");
    assert!(said.err.contains("nothing has changed"), "{what}: {said:?}");
    let status = told(lab, host, &["status", "--json"]).json();
    assert_eq!((&status["generation"], &status["links"]), (&1.into(), &2.into()), "{what}: {status}");
    assert_eq!(status["last_reload"]["result"], "refused", "{what}");
}

/// How many of the closing events are whole in the log.
fn told_in(log: &Path) -> usize {
    let text = fs::read_to_string(log).unwrap();
    let told = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    told.filter(|event| event["message"] == "closed").count()
}

#[test]
fn a_full_disk_and_one_that_goes_away_cost_lines_of_the_log_and_nothing_else() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1", "h2"]);
    let (host, peer) = (lab.host("h1"), lab.host("h2"));
    // Before any program of the host starts: each has its mounts from then.
    let disk = TinyDisk::at(lab.dir().join("tiny"));
    let (config, log) = (disk.0.join("h1.toml"), disk.0.join("log"));
    let front = front(EVERYBODY);
    // The rules come last, so that they are what a file that is cut off loses.
    let (rules, rest) = front.split_once("[epmd]").unwrap();
    let head = format!("[admin]\nsocket = {:?}\n[epmd]{rest}", admin_socket(&lab, &host));
    fs::write(&config, format!("{head}{rules}")).unwrap();
    let _epmds = [&host, &peer].map(|host| Epmd::start(host, EpmdListen::Loopback));
    let appending = File::options().create(true).append(true).open(&log).unwrap();
    let mut command = host.command_as(USER, program(&lab));
    command.arg("run").arg("--config").arg(&config).stderr(appending);
    let mut child = command.spawn().unwrap();
    let epmd = SocketAddr::new(host.v4().into(), 4369);
    eventually("the guard serves", SOON, || host.listeners().contains(&epmd));
    let a = Node::named("a", &host).port(9100).start();
    let b = Node::named("b", &peer).hidden().port(9100).start();
    assert!(b.ping(&a));
    let looked_up = || assert!(ask(&peer.connect(epmd).unwrap(), b"za").starts_with(b"w\0"));
    eventually("the log fills the disk", SOON, || {
        (0..50).for_each(|_| looked_up());
        disk.is_full()
    });
    eventually("lines are lost, and counted", SOON, || {
        (0..50).for_each(|_| looked_up());
        metric(&lab, &host, "epmd_guard_log_lines_dropped_total") > 100.0
    });
    assert!(b.ping(&a) && b.eval("nodes(hidden).") == "['a@h1.test']", "the link lives on");
    let c = Node::named("c", &peer).hidden().port(9101).start();
    assert!(c.ping(&a), "and there can be new ones");
    assert_eq!(told(&lab, &host, &["status"]).code, 0);

    // What is left of a file that an editor could not write again lets nobody in.
    let cut_off = |length: usize| {
        File::options().write(true).open(&config).unwrap().set_len(u64::try_from(length).unwrap()).unwrap();
    };
    cut_off(head.len());
    is_refused(&lab, &host, "a file without its second half", "would cut 2 links");
    cut_off(head.len() - 4);
    is_refused(&lab, &host, "a file that is broken off", "1 error");
    cut_off(0);
    is_refused(&lab, &host, "an empty file", "needs a restart");
    fs::remove_file(&config).unwrap();
    is_refused(&lab, &host, "no file", "cannot read");

    // There is room again: the log goes on, in whole lines.
    File::options().write(true).open(&log).unwrap().set_len(0).unwrap();
    eventually("the log goes on", SOON, || {
        looked_up();
        told_in(&log) > 2
    });
    let lost = metric(&lab, &host, "epmd_guard_log_lines_dropped_total");
    looked_up();
    assert_eq!(metric(&lab, &host, "epmd_guard_log_lines_dropped_total"), lost);
    // The disk goes, with all that is on it.
    disk.go_away();
    assert!(fs::read_dir(&disk.0).unwrap().next().is_none());
    is_refused(&lab, &host, "no disk", "cannot read");
    assert!(b.ping(&a) && c.ping(&a));
    end(&mut child);
}
