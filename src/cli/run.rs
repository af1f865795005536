//! `run`: the daemon.

use std::process::ExitCode;
use std::sync::Arc;

use super::client::Client;
use super::{ConfigArguments, EXIT_CONFIG, EXIT_HELD, color, complain, render_faults, variable};
use crate::app::{Guard, Start};
use crate::config::{Config, Loaded};
use crate::control::admin::{self, ClaimError};
use crate::control::credentials::{Found, certificate_time, has_secrets, is_of_a_peer, read_credentials};
use crate::control::{ManagerSays, Notifier, Signal, Signals};
use crate::telemetry;
use crate::telemetry::describe;
use crate::transport::activation::{self, ActivationError};
use crate::transport::cores::{Secrets, Withheld};

pub(super) fn run(arguments: &ConfigArguments) -> ExitCode {
    // First of all: it takes descriptors by their numbers, and changes the environment, which is not to be done
    // beside other threads.
    let passed =
        activation::inherited(variable("LISTEN_PID").as_deref(), variable("LISTEN_FDNAMES").as_deref());
    let inherited = match passed {
        Ok(inherited) => inherited,
        Err(error) => return refuse(&error),
    };
    let source = arguments.source();
    let cores = Withheld::begin();
    let (loaded, label) = match source.load() {
        Ok(loaded) => loaded,
        Err(error) => {
            complain(&error.render(color()));
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    let Some(credentials) = take_credentials(&loaded.config, &label) else {
        return ExitCode::from(EXIT_CONFIG);
    };
    if let Err(error) = activation::check(&inherited, &loaded.config) {
        return refuse(&error);
    }
    let log = telemetry::init(&loaded.config.log, telemetry::Sink::StandardError);
    telemetry::log_panics();
    tracing::info!(config = label, "configuration_loaded");
    cores.settle(if has_secrets(&loaded.config) { Secrets::Held } else { Secrets::None });
    warn(&loaded, &credentials);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(error = describe(&error), "not_started");
            return ExitCode::FAILURE;
        }
    };
    let (level, dropped) = (log.level(), log.dropped_lines());
    let claim = match loaded.config.admin.socket.as_deref().map(admin::claim).transpose() {
        Ok(claim) => claim,
        Err(error) => {
            complain(&runtime.block_on(name_the_other(&error)));
            return ExitCode::from(EXIT_HELD);
        }
    };
    let notifier = Arc::new(Notifier::new(&manager()));
    let inherited = inherited.into();
    let start = Start {
        config: loaded.config,
        credentials,
        source,
        label,
        level,
        dropped,
        inherited,
        claim,
        notifier,
    };
    let code = runtime.block_on(serve(start));
    // A resolver that hangs must not keep the process.
    runtime.shutdown_background();
    drop(log);
    code
}

/// Tells what is hardly meant so.
fn warn(loaded: &Loaded, credentials: &Found) {
    for problem in loaded.warnings.iter() {
        tracing::warn!(problem = problem.message, help = problem.help, "configuration_warning");
    }
    if let Found::New(own) = credentials
        && let Some((problem, help)) = is_of_a_peer(&loaded.config, own)
    {
        tracing::warn!(problem, help, "configuration_warning");
    }
}

/// What the files of `[tls]` hold; `None`: what cannot be used at any time, which has been said. What other guards would
/// refuse now is another matter: whoever has no tunnels is better off with a guard than without one.
fn take_credentials(config: &Config, label: &str) -> Option<Found> {
    read_credentials(&config.tls, None, certificate_time())
        .map_err(|faults| complain(&render_faults(&faults, label, config)))
        .ok()
}

/// Who runs on this host already.
async fn name_the_other(ClaimError::Held { socket }: &ClaimError) -> String {
    let who = Client::new(socket).introduce().await.unwrap_or_else(|| "a process".to_owned());
    let place = socket.display();
    format!(
        "error: an epmd-guard runs already: {who} holds the admin socket {place}\n\
         help: ask it with `epmd-guard status --socket {place}`; stop it first, or give this one an [admin] socket of \
         its own"
    )
}

/// Sockets that cannot be served need a change of a unit: trying again would not help.
fn refuse(error: &ActivationError) -> ExitCode {
    complain(&format!("error: {}\nhelp: {}", describe(error), error.help()));
    ExitCode::from(EXIT_CONFIG)
}

#[expect(clippy::disallowed_methods, reason = "the environment is read in cli only, and this is cli")]
fn manager() -> ManagerSays {
    ManagerSays {
        notify_socket: std::env::var_os("NOTIFY_SOCKET"),
        watchdog_usec: variable("WATCHDOG_USEC"),
        watchdog_pid: variable("WATCHDOG_PID"),
    }
}

async fn serve(start: Start) -> ExitCode {
    let mut signals = match Signals::catch() {
        Ok(signals) => signals,
        Err(error) => {
            tracing::error!(error = describe(&error), "not_started");
            return ExitCode::FAILURE;
        }
    };
    let mut guard = Guard::start(start).await;
    let (cause, code) = loop {
        tokio::select! {
            signal = signals.next() => match signal {
                Signal::Stop(cause) => break (cause, ExitCode::SUCCESS),
                Signal::Reload => guard.reload_soon(),
            },
            () = guard.died() => tokio::select! {
                cause = signals.next_stop() => break (cause, ExitCode::FAILURE),
                () = guard.outlive_its_links() => break ("fault", ExitCode::FAILURE),
            },
        }
    };
    tokio::select! {
        () = guard.stop(cause) => code,
        // Whoever asks twice means now.
        _ = signals.next_stop() => code,
    }
}
