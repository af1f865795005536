//! The program when it is called `epmd`: its arguments and environment to calls, and what it prints.

use std::env;
use std::ffi::OsStr;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

use super::{complain, variable};
use crate::compat::arguments::{Command, Environment, Question, Settings, parse, usage};
use crate::compat::daemon::{self, Ready};
use crate::compat::{Surroundings, interactive, serve};
use crate::config::Source;
use crate::control::ManagerSays;
use crate::telemetry::describe;
use crate::transport::activation;

/// Whether the program is meant to be epmd: a link or a copy of it has that name, wherever it is.
pub(super) fn is_meant(program: &OsStr) -> bool {
    Path::new(program).file_name() == Some(OsStr::new("epmd"))
}

/// Does what epmd does when it is called with these arguments, `program` being the first of them all.
pub(super) fn epmd(program: &OsStr) -> ExitCode {
    match parse(env::args_os().skip(1), &environment()) {
        Ok(Command::Ask { question, port }) => ask(&question, port),
        Ok(Command::Serve(settings)) => start(program, &settings),
        Err(misuse) if misuse.wants_usage() => {
            complain(&format!("epmd: {misuse}\n{}", usage()));
            ExitCode::FAILURE
        }
        Err(misuse) => fail(&misuse.to_string()),
    }
}

fn ask(question: &Question, port: u16) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&describe(&error)),
    };
    let said = runtime.block_on(interactive::ask(question, port));
    // Bytes, not a line: DUMP's end in NUL, and one of epmd's texts has no end at all.
    let mut out = io::stdout().lock();
    if out.write_all(&said.out).and_then(|()| out.flush()).is_err() {
        tracing::trace!("stdout_closed");
    }
    if !said.err.is_empty() {
        complain(&said.err);
    }
    said.code
}

fn start(program: &OsStr, settings: &Settings) -> ExitCode {
    let (source, nobody) = (source(), ManagerSays::default());
    if !settings.daemon {
        // First of all: it takes descriptors by their numbers.
        let passed = if settings.systemd {
            activation::unnamed(variable("LISTEN_PID").as_deref())
        } else {
            Ok(Vec::new())
        };
        let manager = if settings.systemd { manager() } else { nobody };
        return match passed {
            Ok(passed) => serve(settings, Surroundings { source, passed, manager }, Ready::Foreground),
            Err(error) => fail(&format!("what systemd passed cannot be served: {}", describe(&error))),
        };
    }
    if variable(daemon::SECOND).is_some_and(|said| daemon::is_second(&said)) {
        let surroundings = Surroundings { source, passed: Vec::new(), manager: nobody };
        return daemon::begin().map_or_else(|code| code, |ready| serve(settings, surroundings, ready));
    }
    match daemon::start(program, env::args_os().skip(1), source.path.as_deref()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&describe(&error)),
    }
}

fn fail(why: &str) -> ExitCode {
    complain(&format!("epmd: {why}"));
    ExitCode::FAILURE
}

#[expect(clippy::disallowed_methods, reason = "the environment is read in cli only, and this is cli")]
fn environment() -> Environment {
    Environment {
        port: env::var_os("ERL_EPMD_PORT"),
        addresses: env::var_os("ERL_EPMD_ADDRESS"),
        relaxed: env::var_os("ERL_EPMD_RELAXED_COMMAND_CHECK").is_some(),
    }
}

/// Where the configuration is: `EPMD_GUARD_CONFIG`, or where `epmd-guard` looks for it.
#[expect(clippy::disallowed_methods, reason = "the environment is read in cli only, and this is cli")]
fn source() -> Source {
    let named = env::var_os(daemon::CONFIG).filter(|named| !named.is_empty());
    // From here, and not from the folder of a daemon.
    let path = named.map(|named| std::path::absolute(&named).unwrap_or_else(|_| named.into()));
    Source { path, ..Source::default() }
}

/// Nobody feeds a watchdog: epmd has none.
#[expect(clippy::disallowed_methods, reason = "the environment is read in cli only, and this is cli")]
fn manager() -> ManagerSays {
    ManagerSays { notify_socket: env::var_os("NOTIFY_SOCKET"), ..ManagerSays::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_meant_to_be_epmd_by_its_file_name_alone() {
        for program in ["epmd", "/usr/bin/epmd", "./epmd", "/usr/lib/erlang/erts-13.1.5/bin/epmd"] {
            assert!(is_meant(OsStr::new(program)), "{program}");
        }
        for program in ["", "epmd-guard", "/opt/epmd/epmd-guard", "epmd.real", "EPMD", "/"] {
            assert!(!is_meant(OsStr::new(program)), "{program}");
        }
    }
}
