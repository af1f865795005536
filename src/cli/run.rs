//! `run`: the daemon.

use std::process::ExitCode;

use super::{ConfigArguments, EXIT_CONFIG, color, complain};
use crate::app::Guard;
use crate::control::stop_signal;
use crate::telemetry;
use crate::transport::describe;

pub(super) fn run(arguments: &ConfigArguments) -> ExitCode {
    let loaded = match arguments.load() {
        Ok(loaded) => loaded,
        Err(error) => {
            complain(&error.render(color()));
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    let log = telemetry::init(&loaded.config.log);
    tracing::info!(config = arguments.source(), "configuration_loaded");
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
    let code = runtime.block_on(async {
        let stopped = match stop_signal() {
            Ok(stopped) => stopped,
            Err(error) => {
                tracing::error!(error = describe(&error), "not_started");
                return ExitCode::FAILURE;
            }
        };
        let guard = Guard::start(loaded.config).await;
        let cause = stopped.await;
        guard.stop(cause).await;
        ExitCode::SUCCESS
    });
    // A resolver that hangs must not keep the process.
    runtime.shutdown_background();
    drop(log);
    code
}
