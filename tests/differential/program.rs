//! A program that is epmd: where it is, how it is started, and that it is gone afterwards.

use std::fs::{self, File, Permissions};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use super::script::{Check, Flags};

/// How long a program may take until it listens, or until it has ended.
const PATIENCE: Duration = Duration::from_secs(10);
/// `nobody`: neither program needs more.
const USER: u32 = 65534;

/// A program, by its path; its file name is `epmd`.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    pub(crate) label: &'static str,
    pub(crate) path: PathBuf,
    /// Where its output goes.
    pub(crate) dir: PathBuf,
}

/// A running one. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    pub(crate) port: u16,
    output: PathBuf,
}

impl Program {
    /// Starts it in the namespace of the calling thread and waits until it listens on 127.0.0.1.
    ///
    /// # Errors
    ///
    /// It does not, with what it printed.
    pub(crate) fn start(&self, port: u16, flags: Flags) -> Result<Running, String> {
        let output = self.dir.join(format!("output-{}", count(&STARTED)));
        let file = File::create(&output).expect("the directory of a lab can be written to");
        let mut command = Command::new(&self.path);
        command.args(["-address", "127.0.0.1", "-port", &port.to_string()]);
        if let Some(seconds) = flags.packet_timeout {
            command.args(["-packet_timeout", &seconds.to_string()]);
        }
        if flags.check == Check::Relaxed {
            command.arg("-relaxed_command_check");
        }
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"ERL_"))
        {
            command.env_remove(name);
        }
        command.stdin(Stdio::null()).stdout(file.try_clone().expect("a file can be cloned")).stderr(file);
        // The configuration of this machine must not count.
        command.env("EPMD_GUARD_CONFIG", "/nonexistent/epmd-guard.toml").env_remove("NOTIFY_SOCKET");
        command.current_dir("/").env("HOME", "/nonexistent").uid(USER).gid(USER);
        let child =
            command.spawn().unwrap_or_else(|error| panic!("starting {}: {error}", self.path.display()));
        let mut running = Running { child, port, output };
        let end = Instant::now() + PATIENCE;
        while let Err(error) = dial(port) {
            let ended = running.exited();
            if ended.is_some() || Instant::now() > end {
                let (path, said) = (self.path.display(), running.said());
                return Err(format!("{path} does not listen on port {port}: {error}, {ended:?}: {said}"));
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(running)
    }
}

/// Counts the programs, one like the other.
static STARTED: AtomicU64 = AtomicU64::new(0);

/// A port that nobody has had for some thousand programs, below those that clients get.
pub(crate) fn next_port() -> u16 {
    static PORTS: AtomicU64 = AtomicU64::new(0);
    10_000 + (count(&PORTS) % 20_000) as u16
}

fn count(counter: &AtomicU64) -> u64 {
    counter.fetch_add(1, Ordering::Relaxed)
}

/// A connection from the namespace of the calling thread.
pub(crate) fn dial(port: u16) -> std::io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into(), PATIENCE)?;
    socket.set_tcp_nodelay(true)?;
    Ok(socket)
}

impl Running {
    /// How it ended, if it has.
    pub(crate) fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits for its end.
    pub(crate) fn wait_exit(&mut self) -> Option<ExitStatus> {
        let end = Instant::now() + PATIENCE;
        loop {
            match self.exited() {
                None if Instant::now() < end => thread::sleep(Duration::from_millis(1)),
                ended => return ended,
            }
        }
    }

    /// What it printed so far.
    pub(crate) fn said(&self) -> String {
        fs::read(&self.output).map(|text| String::from_utf8_lossy(&text).into_owned()).unwrap_or_default()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        drop(fs::remove_file(&self.output));
    }
}

/// A link named `epmd` to a program, in a directory of its own below `dir`.
pub(crate) fn named_epmd(dir: &Path, program: &Path) -> PathBuf {
    let folder = dir.join("as-epmd");
    fs::create_dir_all(&folder).expect("the directory of a lab can be written to");
    // Whatever the umask is.
    fs::set_permissions(&folder, Permissions::from_mode(0o755)).expect("a new directory can be opened");
    let link = folder.join("epmd");
    std::os::unix::fs::symlink(program, &link).expect("a link can be made in a new directory");
    link
}
