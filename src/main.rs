//! The `epmd-guard` command.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    epmd_guard::cli::main()
}
