//! The log and whoever reads it.

use std::net::SocketAddr;
use std::process::Stdio;

use crate::common::{EVERYBODY, require};
use crate::support::erlang::{Epmd, EpmdListen, Node};
use crate::support::eventually::eventually;
use crate::support::guard::{SOON, USER, front, program};
use crate::support::lab::Lab;
use crate::support::wire::ask;

/// More events than the log queues for a reader that is stuck, and its pipe besides.
const EVENTS: usize = 20_000;

#[test]
fn a_reader_of_the_log_that_is_stuck_stalls_neither_answers_nor_links_nor_the_end() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1", "h2"]);
    let host = lab.host("h1");
    let _epmd = Epmd::start(&host, EpmdListen::Loopback);
    let config = lab.dir().join("stuck.toml");
    std::fs::write(&config, front(EVERYBODY)).unwrap();
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
    let pid = rustix::process::Pid::from_child(&guard);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let ended = eventually("the guard ends", SOON, || guard.try_wait().unwrap());
    assert!(ended.success(), "{ended}");
}
