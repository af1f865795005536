//! The command line: arguments to calls, one file a command, exit codes.

mod bans;
mod certs;
mod check;
mod client;
mod drain;
mod epmd;
mod explain;
mod learn;
mod links;
mod mesh;
mod mode;
mod names;
mod reload;
mod report;
mod run;
mod status;
mod terminal;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{Color, Config, Overrides, Source};
use crate::control::credentials::CredentialFault;
use crate::policy::Target;
use crate::telemetry::describe;

/// A configuration that cannot be used (EX_CONFIG of sysexits.h).
const EXIT_CONFIG: u8 = 78;
/// Another guard runs (EX_TEMPFAIL of sysexits.h). Of its own, so that who starts guards can tell it from a failure
/// that another try may cure: the shipped unit does not try again.
const EXIT_HELD: u8 = 75;

/// Stands in front of Erlang's port mapper and distribution ports: lets the cluster's peers in, and
/// nobody else.
#[derive(Debug, Parser)]
#[command(name = "epmd-guard", version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the guard in the foreground; exit code 75 when another one runs, 78 when the configuration cannot be used
    Run(ConfigArguments),
    /// Check a configuration: every problem at once, exit code 0 or 78
    Check(check::CheckArguments),
    /// Tell what would happen to a connection, and which rule decides; exit code 1 when it is refused
    Explain(explain::ExplainArguments),
    /// Show the running guard: its ports, its peers, and what is wrong; exit code 0 when it is ready
    Status(status::StatusArguments),
    /// List the established links
    Links(links::LinksArguments),
    /// Print the smallest rules that fit what the running guard has seen, to be pasted into the configuration
    Learn(learn::LearnArguments),
    /// Tell the mode of the running guard, or put another one in force for a while: root, or the guard's own user
    Mode(mode::ModeArguments),
    /// List the bans in force
    Bans(bans::BansArguments),
    /// Lift the bans of an address or a network; exit code 1 when there is none
    Unban(bans::UnbanArguments),
    /// Have the running guard load its configuration anew; exit code 0 when it is in force
    Reload(reload::ReloadArguments),
    /// Let no new connections of peers in; established links go on
    Drain(drain::DrainArguments),
    /// Make the cluster's CA and the certificates of its hosts, revoke them, and show what any certificate is
    Certs(certs::CertsArguments),
    /// List the names that an epmd holds, as `epmd -names` does
    Names {
        /// The host to ask, with its port if it is not ERL_EPMD_PORT or 4369
        #[arg(default_value = "localhost")]
        host: String,
    },
}

#[derive(Debug, clap::Args)]
struct ConfigArguments {
    /// The configuration file [default: /etc/epmd-guard/epmd-guard.toml, if there is one]
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Let this network, address or host name in, besides what the configuration lets in
    #[arg(long, value_name = "CIDR or NAME")]
    allow: Vec<Target>,
}

/// Reads the arguments, does what they say, and returns the exit code. A program that is called `epmd` is epmd.
#[must_use]
pub fn main() -> ExitCode {
    if let Some(program) = std::env::args_os().next().filter(|program| epmd::is_meant(program)) {
        return epmd::epmd(&program);
    }
    perform(Arguments::parse().command)
}

fn perform(command: Command) -> ExitCode {
    match command {
        Command::Run(arguments) => run::run(&arguments),
        Command::Check(arguments) => check::check(&arguments),
        Command::Explain(arguments) => explain::explain(&arguments),
        Command::Status(arguments) => status::status(&arguments),
        Command::Links(arguments) => links::links(&arguments),
        Command::Learn(arguments) => learn::learn(&arguments),
        Command::Mode(arguments) => mode::mode(&arguments),
        Command::Bans(arguments) => bans::bans(&arguments),
        Command::Unban(arguments) => bans::unban(&arguments),
        Command::Reload(arguments) => reload::reload(&arguments),
        Command::Drain(arguments) => drain::drain(&arguments),
        Command::Certs(arguments) => certs::certs(&arguments),
        Command::Names { host } => names::names(&host),
    }
}

impl ConfigArguments {
    /// Where the configuration is that the arguments mean.
    fn source(&self) -> Source {
        Source { path: self.config.clone(), overrides: Overrides { allow: self.allow.clone() } }
    }
}

/// Runs what asks the guard, and tells what went wrong.
fn ask(asking: impl Future<Output = Result<ExitCode, client::AskError>>) -> ExitCode {
    let asked = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(asking).map_err(|error| describe(&error)),
        Err(error) => Err(describe(&error)),
    };
    asked.unwrap_or_else(|why| {
        complain(&format!("epmd-guard: {why}"));
        ExitCode::FAILURE
    })
}

/// Writes a line for the user to standard output; a closed pipe is theirs to close.
fn say(text: &str) {
    if print(text).is_err() {
        tracing::trace!("stdout_closed");
    }
}

/// Writes a line to standard output, for who must know whether anybody reads it.
fn print(text: &str) -> io::Result<()> {
    use std::io::Write;
    writeln!(std::io::stdout().lock(), "{text}")
}

/// Writes a problem for the user to standard error.
fn complain(text: &str) {
    use std::io::Write;
    if writeln!(std::io::stderr().lock(), "{}", text.trim_end()).is_err() {
        tracing::trace!("stderr_closed");
    }
}

/// What is wrong with the files of `[tls]`, each with the line that names it and what to do.
fn render_faults(faults: &[CredentialFault], label: &str, config: &Config) -> String {
    let shown = |fault: &CredentialFault| {
        let line = config.places.line_of(&format!("[tls] {}", fault.purpose().label()));
        let place = line.map_or_else(String::new, |line| format!(" --> {label}:{line}\n"));
        format!("error: {fault}\n{place}help: {}\n", fault.help())
    };
    faults.iter().map(shown).collect()
}

/// A variable of the environment; `None` where it is not set, or is no text.
#[expect(clippy::disallowed_methods, reason = "the environment is read in cli only, and this is cli")]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Whether standard error shows colors.
fn color() -> Color {
    std::io::IsTerminal::is_terminal(&std::io::stderr()).into()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::control::admin::tests::Running;
    use crate::control::documents::ReloadResult;
    use crate::policy::Intake;

    #[test]
    fn commands_ask_the_guard_and_end_as_it_answers() {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let guard = runtime.block_on(Running::start());
        let socket = guard.socket().display().to_string();
        let place = ["--socket", &socket];
        let ends = |arguments: &[&str]| {
            let all = ["epmd-guard"].iter().chain(arguments).chain(&place);
            perform(Arguments::try_parse_from(all).unwrap().command)
        };
        let config = guard.socket().with_extension("toml");
        std::fs::write(&config, "[cluster]\nallow = [\"192.0.2.7\"]\n").unwrap();
        let check = ["check", "--against-running", "--config", config.to_str().unwrap()];

        for arguments in [&["status"][..], &["status", "--json"], &["links"], &["reload"], &["drain"], &check]
        {
            assert_eq!(ends(arguments), ExitCode::SUCCESS, "{arguments:?}");
        }
        assert_eq!(ends(&["drain", "--off"]), ExitCode::SUCCESS);
        let asked =
            [&["mode"][..], &["mode", "observe", "--for", "15m"], &["mode", "enforce", "--json"], &["bans"]];
        for arguments in asked.into_iter().chain([&["learn"][..], &["learn", "--json"], &["bans", "--json"]])
        {
            assert_eq!(ends(arguments), ExitCode::SUCCESS, "{arguments:?}");
        }
        assert_eq!(ends(&["unban", "203.0.113.9"]), ExitCode::SUCCESS);
        assert_eq!(ends(&["unban", "203.0.113.10"]), ExitCode::FAILURE);
        assert_eq!(ends(&["unban", "--all"]), ExitCode::SUCCESS);
        assert_eq!(ends(&["unban", "h2.example.net"]), ExitCode::FAILURE);
        for wrong in
            [&["unban"][..], &["unban", "--all", "203.0.113.9"], &["mode", "--for", "15m"], &["mode", "x"]]
        {
            assert!(Arguments::try_parse_from(["epmd-guard"].iter().chain(wrong)).is_err(), "{wrong:?}");
        }
        assert_eq!(*guard.fake.drains.lock().unwrap(), [Intake::Draining, Intake::Open]);
        let asked = guard.fake.reloads.lock().unwrap().last().unwrap().text.clone();
        assert_eq!(asked.unwrap(), "[cluster]\nallow = [\"192.0.2.7\"]\n");

        *guard.fake.result.lock().unwrap() = ReloadResult::NeedsYes;
        assert_eq!(ends(&["reload"]), ExitCode::FAILURE);
        assert_eq!(ends(&["reload", "--json"]), ExitCode::FAILURE);
        assert_eq!(ends(&check), ExitCode::FAILURE);

        // A pipe can be read only once.
        let pipe = guard.socket().with_extension("pipe");
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        *guard.fake.result.lock().unwrap() = ReloadResult::Checked;
        std::thread::scope(|scope| {
            scope.spawn(|| std::fs::write(&pipe, "[cluster]\nallow = [\"192.0.2.9\"]\n").unwrap());
            let check = ["check", "--against-running", "--config", pipe.to_str().unwrap()];
            assert_eq!(ends(&check), ExitCode::SUCCESS);
        });
        let asked = guard.fake.reloads.lock().unwrap().last().unwrap().text.clone();
        assert_eq!(asked.unwrap(), "[cluster]\nallow = [\"192.0.2.9\"]\n");

        // Who names a socket means the guard that runs.
        assert_eq!(ends(&["explain", "--from", "nonsense", "--to", "9100"]), ExitCode::FAILURE);
        assert_eq!(guard.fake.explained.load(std::sync::atomic::Ordering::Relaxed), 1);

        // A file that cannot be used still tells where the guard is that should refuse it.
        let socket = guard.socket().display().to_string();
        std::fs::write(&config, format!("alow = 1\n[admin]\nsocket = {socket:?}\nlisten = 7\n")).unwrap();
        let broken = ["epmd-guard", "status", "--config", config.to_str().unwrap()];
        assert_eq!(perform(Arguments::try_parse_from(broken).unwrap().command), ExitCode::SUCCESS);

        std::fs::write(&config, "alow = 1\n").unwrap();
        assert_eq!(ends(&check), ExitCode::from(EXIT_CONFIG));
        drop(guard);
        runtime.shutdown_timeout(Duration::from_secs(1));
        assert_eq!(ends(&["status"]), ExitCode::FAILURE);
    }
}
