//! `run`: the daemon.

use std::process::ExitCode;

use super::{ConfigArguments, EXIT_CONFIG, color, complain};
use crate::app::Guard;
use crate::config::Config;
use crate::control::StopSignals;
use crate::telemetry;
use crate::telemetry::describe;

pub(super) fn run(arguments: &ConfigArguments) -> ExitCode {
    let (loaded, source) = match arguments.load() {
        Ok(loaded) => loaded,
        Err(error) => {
            complain(&error.render(color()));
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    let log = telemetry::init(&loaded.config.log);
    telemetry::log_panics();
    tracing::info!(config = source, "configuration_loaded");
    for problem in loaded.warnings.iter() {
        tracing::warn!(problem = problem.message, help = problem.help, "configuration_warning");
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(error = describe(&error), "not_started");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(serve(loaded.config));
    // A resolver that hangs must not keep the process.
    runtime.shutdown_background();
    drop(log);
    code
}

async fn serve(config: Config) -> ExitCode {
    let mut signals = match StopSignals::catch() {
        Ok(signals) => signals,
        Err(error) => {
            tracing::error!(error = describe(&error), "not_started");
            return ExitCode::FAILURE;
        }
    };
    let mut guard = Guard::start(config).await;
    let (cause, code) = tokio::select! {
        cause = signals.next() => (cause, ExitCode::SUCCESS),
        () = guard.died() => tokio::select! {
            cause = signals.next() => (cause, ExitCode::FAILURE),
            () = guard.outlive_its_links() => ("fault", ExitCode::FAILURE),
        },
    };
    tokio::select! {
        () = guard.stop(cause) => code,
        // Whoever asks twice means now.
        _ = signals.next() => code,
    }
}
