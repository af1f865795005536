//! The guard under test, as an unprivileged user that is not the nodes'.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use super::daemon::{Daemon, Mark};
use super::eventually::eventually;
use super::host::{self, Host};
use super::lab::{self, Lab};

/// Who runs the guard: neither root nor the user of the nodes, as in production.
pub const USER: &str = "daemon";
/// Bounds a hanging test; measures nothing.
pub const SOON: Duration = Duration::from_secs(30);

/// A running guard. Dropping it kills it.
#[derive(Debug)]
pub struct Guard {
    host: Host,
    daemon: Daemon,
}

/// An epmd on loopback.
const BEHIND: &str = "[epmd]\nbackend = \"127.0.0.1:4369\"\n";
const LOG: &str = "[log]\nformat = \"json\"\nlevel = \"debug\"\n";

/// A front for an epmd on loopback and for distribution ports 9100 to 9110 on all addresses of the host, with a log that tests can
/// read.
#[must_use]
pub fn front(allow: &[&str]) -> String {
    format!("[cluster]\nallow = {allow:?}\n[dist]\nports = \"9100-9110\"\n{BEHIND}{LOG}")
}

/// A front for the nodes that are registered at an epmd on loopback, whatever their ports, on all addresses of the
/// host, with a log that tests can read.
#[must_use]
pub fn registered(allow: &[&str]) -> String {
    format!("[cluster]\nallow = {allow:?}\n{BEHIND}{LOG}")
}

/// An epmd of the guard's own, and a front for the nodes that are registered there: the default, with a log that
/// tests can read.
#[must_use]
pub fn embedded(allow: &[&str]) -> String {
    format!("[cluster]\nallow = {allow:?}\n{LOG}")
}

/// What `epmd-guard status --json` prints on the host.
///
/// # Panics
///
/// When it prints no document.
#[must_use]
#[track_caller]
pub fn status(lab: &Lab, host: &Host) -> Value {
    let mut command = host.command_as(USER, program(lab));
    command.args(["status", "--json", "--socket"]).arg(admin_socket(lab, host));
    let output = command.output().expect("the program can be started");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// The answer to a question at the admin socket.
///
/// # Panics
///
/// When there is none.
#[must_use]
#[track_caller]
pub fn admin_get(lab: &Lab, host: &Host, path: &str) -> String {
    ask_admin(&admin_socket(lab, host), "GET", path).1
}

/// The built program, where unprivileged users can execute it.
#[must_use]
pub fn program(lab: &Lab) -> PathBuf {
    let installed = lab.dir().join("epmd-guard");
    if installed.exists() {
        return installed;
    }
    lab.install(&built())
}

/// Where cargo put the program: beside the folder of this test program, whichever kind that is.
fn built() -> PathBuf {
    if let Some(path) = option_env!("CARGO_BIN_EXE_epmd-guard") {
        return path.into();
    }
    let own = std::env::current_exe().expect("a program knows its path");
    let folder = own.parent().and_then(std::path::Path::parent).expect("cargo's folders");
    folder.join("epmd-guard")
}

/// Writes the configuration of the host's guard and says where it is.
///
/// # Panics
///
/// When it cannot be written.
#[must_use]
pub fn configure(lab: &Lab, host: &Host, config: &str) -> PathBuf {
    let path = lab.dir().join(format!("{}.toml", host.short_name()));
    let admin = match config.contains("[admin]") {
        true => String::new(),
        false => format!("\n[admin]\nsocket = {:?}\n", admin_socket(lab, host)),
    };
    fs::write(&path, format!("{config}{admin}")).expect("the lab's directory can be written");
    path
}

/// Writes a cookie for the guard of a host, as its own file that it alone can read, and says where it is.
///
/// # Panics
///
/// When it cannot be written.
#[must_use]
pub fn cookie_file(host: &Host, name: &str, cookie: &str) -> PathBuf {
    let path = host.dir_of(USER, "cookies").join(name);
    fs::write(&path, cookie).expect("the host's directory can be written");
    host::give(&path, USER);
    lab::set_mode(&path, 0o400);
    path
}

/// The same configuration, whose guard knows the cookie of all nodes.
#[must_use]
pub fn knowing(cookie_file: &Path, config: &str) -> String {
    let key = format!("[dist]\ncookie_file = {cookie_file:?}\n");
    if config.contains("[dist]\n") { config.replacen("[dist]\n", &key, 1) } else { format!("{config}{key}") }
}

/// The admin socket of the host's guard, in a directory that is its own.
///
/// # Panics
///
/// When the directory cannot be made.
#[must_use]
pub fn admin_socket(lab: &Lab, host: &Host) -> PathBuf {
    let folder = lab.dir().join(format!("{}.run", host.short_name()));
    if !folder.exists() {
        fs::create_dir(&folder).expect("the lab's directory can be written");
        let user =
            nix::unistd::User::from_name(USER).expect("users can be looked up").expect("the user exists");
        std::os::unix::fs::chown(&folder, Some(user.uid.as_raw()), Some(user.gid.as_raw()))
            .expect("root may");
    }
    folder.join("admin.sock")
}

impl Guard {
    /// Starts a guard and waits until it serves epmd on the host's addresses.
    ///
    /// # Panics
    ///
    /// When it does not.
    #[must_use]
    #[track_caller]
    pub fn start(lab: &Lab, host: &Host, config: &str) -> Self {
        let guard = Self::launch(lab, host, config);
        guard.wait_open(4369);
        guard
    }

    /// Starts a guard and waits for nothing.
    ///
    /// # Panics
    ///
    /// When the configuration cannot be written.
    #[must_use]
    #[track_caller]
    pub fn launch(lab: &Lab, host: &Host, config: &str) -> Self {
        let mut command = host.command_as(USER, program(lab));
        command.arg("run").arg("--config").arg(configure(lab, host, config));
        Self::adopt(host, command)
    }

    /// Starts a guard by a command of the caller's, which is or becomes the guard.
    ///
    /// # Panics
    ///
    /// When the command cannot be started.
    #[must_use]
    #[track_caller]
    pub fn adopt(host: &Host, command: Command) -> Self {
        let daemon = Daemon::spawn(format!("guard@{}", host.short_name()), command);
        Self { host: host.clone(), daemon }
    }

    /// The process.
    #[must_use]
    pub fn daemon(&self) -> &Daemon {
        &self.daemon
    }

    /// Where the log stands.
    #[must_use]
    pub fn mark(&self) -> Mark {
        self.daemon.mark()
    }

    /// Waits until `port` is open on the host's IPv4 address, and on its IPv6 address.
    #[track_caller]
    pub fn wait_open(&self, port: u16) {
        for ip in [IpAddr::from(self.host.v4()), self.host.v6().into()] {
            let addr = SocketAddr::new(ip, port);
            eventually(&format!("the guard opens {addr}"), SOON, || self.host.listeners().contains(&addr));
        }
    }

    /// Waits until nobody listens on `port` of the host's IPv4 address.
    #[track_caller]
    pub fn wait_closed(&self, port: u16) {
        let addr = SocketAddr::new(self.host.v4().into(), port);
        eventually(&format!("the guard closes {addr}"), SOON, || !self.host.listeners().contains(&addr));
    }

    /// Waits for an event of the log, from its beginning, whose fields are these.
    #[track_caller]
    pub fn wait_event(&self, event: &str, fields: &[(&str, &str)]) -> Value {
        parse(&self.daemon.wait_line(&wanted(event, fields), SOON, |line| is(line, event, fields)))
    }

    /// Waits for an event of the log after `mark`, whose fields are these.
    #[track_caller]
    pub fn wait_event_after(&self, mark: Mark, event: &str, fields: &[(&str, &str)]) -> Value {
        let line =
            self.daemon.wait_line_after(mark, &wanted(event, fields), SOON, |line| is(line, event, fields));
        parse(&line)
    }

    /// The events of this kind so far.
    #[must_use]
    pub fn events(&self, event: &str) -> Vec<Value> {
        self.daemon.lines().iter().filter(|line| is(line, event, &[])).map(|line| parse(line)).collect()
    }

    /// Its descriptors, and its resident memory in KiB.
    ///
    /// # Panics
    ///
    /// When it has ended.
    #[must_use]
    pub fn size(&self) -> (usize, u64) {
        let pid = self.daemon.pid();
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).expect("the guard runs").count();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the guard runs");
        let resident =
            status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("proc_pid_status(5)");
        let kib = resident.split_whitespace().next().and_then(|kib| kib.parse().ok());
        (descriptors, kib.expect("proc_pid_status(5)"))
    }

    /// What an operator does: SIGTERM, and it ends well.
    ///
    /// # Panics
    ///
    /// When it ends otherwise, or not at all.
    #[track_caller]
    pub fn stop(&self) {
        self.daemon.signal(Signal::TERM);
        let status = self.daemon.wait_exit(SOON);
        assert!(status.success(), "the guard ended with {status}");
    }
}

/// One request to an admin socket, and the status and the body of its answer.
///
/// # Panics
///
/// When there is no answer.
#[must_use]
#[track_caller]
pub fn ask_admin(socket: &Path, verb: &str, path: &str) -> (u16, String) {
    let mut stream = UnixStream::connect(socket).expect("the admin socket answers");
    stream.set_read_timeout(Some(SOON)).expect("a deadline can be set");
    let head = "Host: localhost\r\nContent-Length: 0\r\nConnection: close";
    let mut answer = String::new();
    let exchanged = stream
        .write_all(format!("{verb} {path} HTTP/1.1\r\n{head}\r\n\r\n").as_bytes())
        .and_then(|()| stream.read_to_string(&mut answer));
    exchanged.unwrap_or_else(|error| panic!("{verb} {path}: {error}"));
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer has a head");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.unwrap_or_else(|| panic!("{verb} {path}: {head}")), body.to_owned())
}

/// The links that are up: the address of each peer by the id of its link.
///
/// # Panics
///
/// When the guard does not say.
#[must_use]
#[track_caller]
pub fn links(socket: &Path) -> BTreeMap<u64, IpAddr> {
    let (_, body) = ask_admin(socket, "GET", "/links");
    let document: Value = serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}"));
    let links = document.get("links").and_then(Value::as_array).unwrap_or_else(|| panic!("no links: {body}"));
    let peer = |link: &Value| field(link, "peer").parse::<SocketAddr>().expect("a peer is an address").ip();
    links.iter().map(|link| (field(link, "id").parse().expect("an id is a number"), peer(link))).collect()
}

/// A field of an event as text.
#[must_use]
pub fn field(event: &Value, name: &str) -> String {
    match event.get(name) {
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None => String::new(),
    }
}

fn wanted(event: &str, fields: &[(&str, &str)]) -> String {
    format!("the event {event} with {fields:?}")
}

fn parse(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or(Value::Null)
}

/// A wanted field matches as a whole, or by its part before a final `*`.
fn is(line: &str, event: &str, fields: &[(&str, &str)]) -> bool {
    let value = parse(line);
    field(&value, "message") == event
        && fields.iter().all(|(name, wanted)| {
            let found = field(&value, name);
            wanted.strip_suffix('*').map_or(found == *wanted, |head| found.starts_with(head))
        })
}
