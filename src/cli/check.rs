//! `check`: is this configuration one?

use std::process::ExitCode;

use super::{ConfigArguments, EXIT_CONFIG, color, complain, say};

pub(super) fn check(arguments: &ConfigArguments) -> ExitCode {
    match arguments.load() {
        Ok((loaded, source)) => {
            let warnings = loaded.render_warnings(color());
            if !warnings.is_empty() {
                complain(&warnings);
            }
            say(&format!("{source} is valid"));
            ExitCode::SUCCESS
        }
        Err(error) => {
            complain(&error.render(color()));
            ExitCode::from(EXIT_CONFIG)
        }
    }
}
