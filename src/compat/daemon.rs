//! Leaving the terminal, as `epmd -daemon` does: a session of its own, `/` for its folder, `/dev/null` for its three
//! streams, and nothing else of whoever started it.
//!
//! A process with threads cannot go on behind a fork, and forking is unsafe code. So the program starts itself anew, and
//! the first process waits for a word from the second one: it ends when the port is open, where epmd's ends before.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Resource, getppid, getrlimit};

use crate::telemetry::describe;

/// Set for the second process: the number of the first one. A node may inherit it, and is not meant.
pub const SECOND: &str = "EPMD_GUARD_SECOND_PROCESS";
/// The file of the configuration, by an absolute path for the second process, whose folder is `/`.
pub const CONFIG: &str = "EPMD_GUARD_CONFIG";
/// Where nobody tells which descriptors there are, those below are closed.
const MOST_INHERITED: u64 = 4096;
/// How long the first process waits for the second one's word.
const PATIENCE: Duration = Duration::from_secs(10);
/// The second process has one line to say.
const MAX_WORD: u64 = 4096;

const LISTENING: &str = "listening";
const TAKEN: &str = "taken";
const FAILED: &str = "failed: ";

/// Whoever waits to hear whether the port is open.
#[must_use]
#[derive(Debug)]
pub enum Ready {
    /// A terminal or a service manager: nobody waits.
    Foreground,
    /// The first process.
    Detached(Leave),
}

/// What is needed to let go of the streams.
#[derive(Debug)]
pub struct Leave {
    null: File,
}

/// Why there is no daemon.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The second process could not be started.
    #[error("cannot start a second process")]
    NotStarted(#[source] io::Error),
    /// It says why it does not serve.
    #[error("{0}")]
    Failed(String),
    /// It ended without a word; a panic, for one, was told on standard error.
    #[error("the second process ended before it served")]
    Ended,
    /// It was killed since it said nothing.
    #[error("the second process did not serve within {}", humantime::format_duration(PATIENCE))]
    Silent,
}

/// The first process: starts the second one with the same arguments and waits until it serves, or until it finds that
/// another epmd does, which is as good.
///
/// # Errors
/// See [`DaemonError`].
pub fn start(
    name: &OsStr,
    arguments: impl IntoIterator<Item = OsString>,
    config: Option<&Path>,
) -> Result<(), DaemonError> {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let mut second = spawn(name, &arguments, config).map_err(DaemonError::NotStarted)?;
    let word = hear(&mut second);
    if let Err(DaemonError::Silent) = word {
        // It may listen a moment later, when nobody expects it any more.
        second.kill().and_then(|()| second.wait()).map_err(DaemonError::NotStarted)?;
    }
    understand(&word?)
}

fn spawn(name: &OsStr, arguments: &[OsString], config: Option<&Path>) -> io::Result<Child> {
    let spawn = |program: &Path| {
        let mut command = Command::new(program);
        command.arg0(name).args(arguments).env(SECOND, std::process::id().to_string()).current_dir("/");
        if let Some(config) = config {
            command.env(CONFIG, config);
        }
        // Its standard error stays ours until it serves, for what goes wrong so badly that it has no word for it.
        command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()
    };
    // By this link and not by its path: the file may have been replaced since, as by an upgrade.
    spawn(Path::new("/proc/self/exe")).or_else(|error| match path_of(name) {
        // There may be no /proc.
        Some(path) => spawn(&path),
        None => Err(error),
    })
}

/// Where the program is, if it was called by its path: a bare name may be another program's now.
fn path_of(name: &OsStr) -> Option<PathBuf> {
    name.as_bytes().contains(&b'/').then(|| std::path::absolute(name).ok()).flatten()
}

/// Whether this is the second process, by what [`SECOND`] says.
#[must_use]
pub fn is_second(said: &str) -> bool {
    let parent = Pid::as_raw(getppid());
    parent != 0 && said == parent.to_string()
}

/// All that the second process says until it lets go of its standard output.
fn hear(second: &mut Child) -> Result<String, DaemonError> {
    let Some(pipe) = second.stdout.take() else { return Err(DaemonError::Ended) };
    let (told, word) = mpsc::channel();
    // A thread since a pipe has no read timeout. It ends with the process at the latest.
    thread::spawn(move || {
        let mut text = String::new();
        let heard = pipe.take(MAX_WORD).read_to_string(&mut text).map(|_| text);
        told.send(heard).ok();
    });
    match word.recv_timeout(PATIENCE) {
        Ok(heard) => heard.map_err(|_| DaemonError::Ended),
        Err(mpsc::RecvTimeoutError::Timeout) => Err(DaemonError::Silent),
        Err(mpsc::RecvTimeoutError::Disconnected) => Err(DaemonError::Ended),
    }
}

fn understand(word: &str) -> Result<(), DaemonError> {
    match word.trim_end() {
        LISTENING | TAKEN => Ok(()),
        other => Err(match other.strip_prefix(FAILED) {
            Some(why) => DaemonError::Failed(why.to_owned()),
            None => DaemonError::Ended,
        }),
    }
}

/// The second process: to be called first of all, before it opens anything or has a second thread.
///
/// # Errors
/// It could not leave the first one's session. That has been told; only the exit code is left to return.
pub fn begin() -> Result<Ready, ExitCode> {
    leave().map(|null| Ready::Detached(Leave { null })).map_err(|error| {
        tell(&format!("{FAILED}cannot leave the terminal: {}", describe(&error)));
        ExitCode::FAILURE
    })
}

fn leave() -> io::Result<File> {
    close_inherited();
    rustix::process::setsid()?;
    // It has the name of the link in /proc otherwise, and `pgrep epmd` would not find it.
    rustix::thread::set_name(c"epmd")?;
    File::options().read(true).write(true).open("/dev/null")
}

/// A caller's lock, or the end of a pipe that somebody reads to its end, must not live on with the daemon.
///
/// By their numbers, since nobody here owns them: this process has opened nothing yet but the folder that is read,
/// which is closed when its own number comes.
fn close_inherited() {
    let numbers: Vec<i32> = match fs::read_dir("/proc/self/fd") {
        Ok(entries) => entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect(),
        // There may be no /proc.
        Err(_) => {
            let limit = getrlimit(Resource::Nofile).current.unwrap_or(MOST_INHERITED).min(MOST_INHERITED);
            (0..i32::try_from(limit).unwrap_or(i32::MAX)).collect()
        }
    };
    for number in numbers.into_iter().filter(|number| *number > 2) {
        // The only error is that it is closed already, or never was open.
        nix::unistd::close(number).ok();
    }
}

impl Ready {
    /// The port is open: whoever waits may end, and keeps nothing of us.
    ///
    /// # Errors
    /// The streams are still those of whoever started it.
    pub fn listening(self) -> io::Result<()> {
        match self {
            Self::Foreground => Ok(()),
            Self::Detached(Leave { null }) => {
                rustix::stdio::dup2_stdin(&null)?;
                rustix::stdio::dup2_stderr(&null)?;
                tell(LISTENING);
                // The word ends here, and whoever waits with it: last of all.
                Ok(rustix::stdio::dup2_stdout(&null)?)
            }
        }
    }

    /// Something that whoever started it should know, although it serves: for a terminal, or a service manager's log.
    /// A node that starts its epmd is not to be disturbed; that one tells the system's log.
    pub fn remark(&self, what: &str) {
        match self {
            Self::Foreground => writeln!(io::stderr().lock(), "epmd: {what}").unwrap_or_default(),
            Self::Detached(_) => {}
        }
    }

    /// Another epmd has the port, which ends with 0 and without a word.
    pub fn taken(self) {
        match self {
            Self::Foreground => {}
            Self::Detached(_) => tell(TAKEN),
        }
    }

    /// It does not serve. `why` is one clause without a line break.
    pub fn failed(self, why: &str) {
        match self {
            // A standard error that is closed is theirs to close.
            Self::Foreground => writeln!(io::stderr().lock(), "epmd: {why}").unwrap_or_default(),
            Self::Detached(_) => tell(&format!("{FAILED}{why}")),
        }
    }
}

/// The first process may be gone: then nobody waits.
fn tell(word: &str) {
    let mut out = io::stdout().lock();
    writeln!(out, "{word}").and_then(|()| out.flush()).unwrap_or_default();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(script: &str) -> Result<(), DaemonError> {
        let mut child = Command::new("sh").args(["-c", script]).stdout(Stdio::piped()).spawn().unwrap();
        let word = hear(&mut child);
        child.wait().unwrap();
        understand(&word?)
    }

    #[test]
    fn the_first_process_understands_each_word_and_none() {
        heard("echo listening").unwrap();
        heard("echo taken").unwrap();
        let failed = heard("echo failed: no such luck").unwrap_err();
        assert_eq!(failed.to_string(), "no such luck");
        for nonsense in ["true", "echo listen", "echo listening; echo failed: late", "printf '\\377'"] {
            assert!(matches!(heard(nonsense), Err(DaemonError::Ended)), "{nonsense}");
        }
    }
}
