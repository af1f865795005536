//! The guard under test, as an unprivileged user that is not the nodes'.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use super::daemon::{Daemon, Mark};
use super::eventually::eventually;
use super::host::Host;
use super::lab::Lab;

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

/// A front for distribution ports 9100 to 9110 on all addresses of the host, with a log that tests can
/// read.
#[must_use]
pub fn front(allow: &[&str]) -> String {
    format!(
        "[cluster]\nallow = {allow:?}\n[dist]\nports = \"9100-9110\"\n[log]\nformat = \"json\"\nlevel = \"debug\"\n"
    )
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
        let path = lab.dir().join(format!("{}.toml", host.short_name()));
        fs::write(&path, config).expect("the lab's directory can be written");
        let mut command = host.command_as(USER, program(lab));
        command.arg("run").arg("--config").arg(path);
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
