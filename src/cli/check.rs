//! `check`: is this configuration one, and would the running guard take it?

use std::path::PathBuf;
use std::process::ExitCode;

use super::client::Client;
use super::mesh::{self, PeerFile};
use super::reload::tell;
use super::report::{Tense, is_taken, render};
use super::{ConfigArguments, EXIT_CONFIG, ask, color, complain, render_faults, say};
use crate::config::{Config, Files, Loaded};
use crate::control::captured_now;
use crate::control::credentials::{Found, certificate_time, is_of_a_peer, read_credentials};
use crate::control::documents::ReloadReport;
use crate::transport::cores::{Secrets, Withheld};

#[derive(Debug, clap::Args)]
pub(super) struct CheckArguments {
    #[command(flatten)]
    config: ConfigArguments,
    /// Ask the running guard, too, what a reload with this file would change and which links it would cut;
    /// exit code 0 when it would be taken, 1 when it would be refused or would want --yes
    #[arg(long, conflicts_with = "allow")]
    against_running: bool,
    /// Check, too, whether this host and its peers would let each other in, each peer with its own file; exit
    /// code 1 when a pair would not
    #[arg(long, value_name = "PEER=FILE")]
    mesh: Vec<PeerFile>,
    /// The guard's admin socket [default: the one that the configuration names]
    #[arg(long, value_name = "PATH", requires = "against_running")]
    socket: Option<PathBuf>,
}

pub(super) fn check(arguments: &CheckArguments) -> ExitCode {
    let source = arguments.config.source();
    Withheld::begin().settle(Secrets::Held);
    // Read once: what comes from a pipe does not come again, and the guard is to judge what was judged here.
    let read = source.read().and_then(|text| {
        let understood = source.understand(text.as_deref(), Files::Foresee)?;
        Ok((understood, text.unwrap_or_default()))
    });
    match read {
        Ok(((loaded, source), text)) => {
            let warnings = loaded.render_warnings(color());
            if !warnings.is_empty() {
                complain(&warnings);
            }
            if !check_credentials(&source, &loaded.config) {
                return ExitCode::from(EXIT_CONFIG);
            }
            for captured in captured_now(&loaded.config) {
                complain(&format!("warning: {captured}\nhelp: {}", captured.help()));
            }
            say(&format!("{source} is valid"));
            if !check_mesh(arguments, &loaded) {
                return ExitCode::FAILURE;
            }
            if !arguments.against_running {
                return ExitCode::SUCCESS;
            }
            let client = match &arguments.socket {
                Some(socket) => Client::new(socket),
                None => Client::configured(loaded.config.admin.socket, source),
            };
            against_running(&client, text)
        }
        Err(error) => {
            complain(&error.render(color()));
            ExitCode::from(EXIT_CONFIG)
        }
    }
}

/// Whether tunnels could be made by what the files of `[tls]` hold. A clock that is behind is mended by waiting; what else
/// other guards would refuse is told as an error, though a guard starts with it, without tunnels.
fn check_credentials(label: &str, config: &Config) -> bool {
    match read_credentials(&config.tls, None, certificate_time()) {
        Ok(Found::New(credentials)) => {
            if let Some((problem, help)) = is_of_a_peer(config, &credentials) {
                complain(&format!("warning: {problem}\nhelp: {help}"));
            }
            true
        }
        Ok(Found::None | Found::Same(_)) => true,
        Ok(Found::Early(early)) => {
            complain(&format!("warning: {}\nhelp: {}", early.fault, early.fault.help()));
            true
        }
        Ok(Found::Unfit(fault)) => {
            complain(&render_faults(&[fault], label, config));
            false
        }
        Err(faults) => {
            complain(&render_faults(&faults, label, config));
            false
        }
    }
}

/// Whether the hosts that are known here would make a full mesh; says so where they were asked about.
fn check_mesh(arguments: &CheckArguments, loaded: &Loaded) -> bool {
    if arguments.mesh.is_empty() {
        return true;
    }
    match mesh::check(&loaded.config, &arguments.mesh, color()) {
        Ok(gaps) if gaps.is_empty() => {
            say(&format!("{} hosts let each other in", arguments.mesh.len() + 1));
            true
        }
        Ok(gaps) => {
            gaps.iter().for_each(|gap| complain(&format!("warning: {gap}")));
            false
        }
        Err(error) => {
            complain(&error);
            false
        }
    }
}

fn against_running(client: &Client, text: String) -> ExitCode {
    ask(async {
        let answer = client.post("/check", text.into()).await?;
        let report: ReloadReport = answer.document()?;
        tell(&render(&report, Tense::Would));
        Ok(if is_taken(&report) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    })
}
