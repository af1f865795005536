//! The command line: arguments to calls, one file a command, exit codes.

mod check;
mod names;
mod run;

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{self, Color, LoadError, Loaded, Overrides};
use crate::policy::Target;

/// A configuration that cannot be used (EX_CONFIG of sysexits.h).
const EXIT_CONFIG: u8 = 78;

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
    /// Run the guard in the foreground
    Run(ConfigArguments),
    /// Check a configuration: every problem at once, exit code 0 or 78
    Check(ConfigArguments),
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

/// Reads the arguments, does what they say, and returns the exit code.
#[must_use]
pub fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Run(arguments) => run::run(&arguments),
        Command::Check(arguments) => check::check(&arguments),
        Command::Names { host } => names::names(&host),
    }
}

impl ConfigArguments {
    /// The configuration that the arguments mean, and what it is called in messages. Without a file, the
    /// defaults; a file that is there and cannot be read is an error.
    fn load(&self) -> Result<(Loaded, String), LoadError> {
        let overrides = Overrides { allow: self.allow.clone() };
        let path = self.config.as_deref().unwrap_or(Path::new(config::DEFAULT_PATH));
        match config::load(path, &overrides) {
            Err(LoadError::Read { source, .. })
                if self.config.is_none() && source.kind() == io::ErrorKind::NotFound =>
            {
                Ok((config::defaults(&overrides), "the built-in configuration".to_owned()))
            }
            loaded => Ok((loaded?, path.display().to_string())),
        }
    }
}

/// Writes a line for the user to standard output; a closed pipe is theirs to close.
fn say(text: &str) {
    use std::io::Write;
    if writeln!(std::io::stdout().lock(), "{text}").is_err() {
        tracing::trace!("stdout_closed");
    }
}

/// Writes a problem for the user to standard error.
fn complain(text: &str) {
    use std::io::Write;
    if writeln!(std::io::stderr().lock(), "{}", text.trim_end()).is_err() {
        tracing::trace!("stderr_closed");
    }
}

/// Whether standard error shows colors.
fn color() -> Color {
    std::io::IsTerminal::is_terminal(&std::io::stderr()).into()
}
