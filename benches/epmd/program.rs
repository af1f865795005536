//! A program that is measured: how it is started as `epmd`, and what it has used.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use crate::names;
use crate::support::daemon::Daemon;
use crate::support::eventually::eventually;

/// Bounds a program that does not come up; measures nothing.
const SOON: Duration = Duration::from_secs(10);

/// A file that is not there: the configuration of this machine must not count.
pub(crate) const NO_CONFIG: &str = "/nonexistent/epmd-guard.toml";

/// A program to be measured.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    /// What the tables call it.
    pub(crate) name: &'static str,
    pub(crate) path: PathBuf,
    /// How many names are registered with it at most.
    pub(crate) most_names: u32,
}

/// One that runs on loopback, on a port of its own.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) daemon: Daemon,
    pub(crate) at: SocketAddr,
}

impl Program {
    /// Starts it in the foreground and waits until it answers.
    pub(crate) fn start(&self, dir: &Path) -> Running {
        let at = free_port();
        let mut command = Command::new(linked(&self.path, &dir.join(self.name)));
        command.args(["-port", &at.port().to_string(), "-address", "127.0.0.1"]);
        for variable in ["ERL_EPMD_PORT", "ERL_EPMD_ADDRESS", "ERL_EPMD_RELAXED_COMMAND_CHECK"] {
            command.env_remove(variable);
        }
        command.env("EPMD_GUARD_CONFIG", NO_CONFIG);
        let daemon = Daemon::spawn(self.name, command);
        wait_until_it_answers(self.name, &daemon, || names::count(at));
        Running { daemon, at }
    }
}

/// The program under the name `epmd`, which is how it knows what it is asked to be.
pub(crate) fn linked(program: &Path, dir: &Path) -> PathBuf {
    let link = dir.join("epmd");
    if !link.exists() {
        fs::create_dir_all(dir).expect("a temporary directory can be written");
        symlink(program, &link).expect("a temporary directory can be written");
    }
    link
}

/// Panics when the program ends, or does not answer soon.
pub(crate) fn wait_until_it_answers(
    name: &str,
    daemon: &Daemon,
    mut names: impl FnMut() -> std::io::Result<usize>,
) {
    eventually(&format!("{name} answers"), SOON, || {
        let ended = daemon.exit_status();
        assert!(ended.is_none(), "{name} ended at once, {ended:?}: {:?}", daemon.lines());
        names()
    });
}

/// Nobody else gets it at once: the kernel hands out the next such port elsewhere.
fn free_port() -> SocketAddr {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("making a socket");
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).expect("a free port");
    socket.local_addr().expect("it is bound").as_socket().expect("an address of IPv4")
}
