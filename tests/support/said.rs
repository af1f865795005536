//! Programs that run to their end, and what they say.

use std::ffi::OsStr;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::guard::{admin_socket, program};
use super::host::Host;
use super::lab::Lab;

/// What a program said, and how it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// Its exit code; that of a signal is negative.
    pub code: i32,
    /// What it wrote to standard output.
    pub out: String,
    /// What it wrote to standard error.
    pub err: String,
}

impl Said {
    /// Runs a program to its end.
    ///
    /// # Panics
    ///
    /// When it cannot be started.
    #[track_caller]
    pub fn by(mut command: Command) -> Self {
        let output = command.stdin(Stdio::null()).output();
        let output = output.unwrap_or_else(|error| panic!("running {command:?}: {error}"));
        let ended_by = output.status.signal().unwrap_or_default();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self {
            code: output.status.code().unwrap_or(-ended_by),
            out: text(&output.stdout),
            err: text(&output.stderr),
        }
    }

    /// Standard output as JSON.
    ///
    /// # Panics
    ///
    /// When it is none.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("no JSON: {error}: {self:?}"))
    }
}

/// Runs a command of the program on a host, as root.
#[track_caller]
pub fn command<S: AsRef<OsStr>>(lab: &Lab, host: &Host, args: impl IntoIterator<Item = S>) -> Said {
    let mut command = host.command(program(lab));
    command.args(args);
    Said::by(command)
}

/// Runs a command that asks the host's guard, as root.
#[track_caller]
pub fn told(lab: &Lab, host: &Host, args: &[&str]) -> Said {
    let socket = admin_socket(lab, host).display().to_string();
    command(lab, host, [args, &["--socket", &socket]].concat())
}

/// Asks the guard's socket for a path with curl, as root: what came, or nothing but the exit code of an error.
#[track_caller]
pub fn curl(host: &Host, socket: &Path, path: &str) -> Said {
    let mut command = host.command("curl");
    command.args(["-sS", "--max-time", "30", "--fail-with-body", "--unix-socket"]).arg(socket);
    command.arg(format!("http://localhost{path}"));
    Said::by(command)
}
