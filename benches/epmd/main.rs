//! The installed epmd and ours, side by side in one run: lookups, registrations, memory, and what the flood
//! of a stranger does to others.
//!
//! The programs take turns, three rounds of them, because the machine is not equally fast all the time: look
//! at the ratio, which compares measurements that were made one after the other. The CPU time of the server
//! is steadier than what clocks on the wall say. It also tells servers apart where the client is the one who
//! is busy: the kernel charges most of a connection's set-up to him.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a benchmark that cannot run panics, and prints what it found"
)]

#[path = "../../tests/support/mod.rs"]
#[allow(dead_code, unreachable_pub, unused_imports, reason = "shared with the tests")]
mod support;

mod flood;
mod floor;
mod lookups;
mod names;
mod program;
mod samples;
mod speed;
mod usage;

use std::env;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use program::Program;
use support::prerequisites;

/// Measures the installed epmd and ours.
#[derive(Debug, Parser)]
struct Options {
    /// One short round, to see that it works
    #[arg(long)]
    quick: bool,
    /// One of the two parts alone
    #[arg(long, value_name = "PART")]
    only: Option<Part>,
    /// How long the flood lasts, for each program
    #[arg(long, value_name = "SECONDS", default_value_t = 20)]
    flood: u64,
    /// What is measured as "ours", started as `epmd`
    #[arg(long, value_name = "FILE", default_value = env!("CARGO_BIN_EXE_epmd-guard"))]
    ours: PathBuf,
    /// Instead of ours, the least that a server can do, and no flood
    #[arg(long, conflicts_with = "ours")]
    floor: bool,
    /// How many names "ours" is measured with at most
    #[arg(long, value_name = "NUMBER", default_value_t = 10_000)]
    names: u32,
    /// What is measured as "epmd"
    #[arg(long, value_name = "FILE", default_value = "/usr/bin/epmd")]
    installed: PathBuf,
    /// Given by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

/// What can be measured alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    Speed,
    Flood,
}

/// What is measured, and for how long.
#[derive(Clone, Copy, Debug)]
struct Plan {
    rounds: usize,
    /// One measurement of lookups.
    lookups: Duration,
    /// How many times the names are registered anew.
    registrations: usize,
    quiet: Duration,
    flood: Duration,
}

impl Plan {
    fn new(options: &Options) -> Self {
        if options.quick {
            let flood = Duration::from_secs(options.flood.min(3));
            let (lookups, quiet) = (Duration::from_millis(200), Duration::from_secs(1));
            return Self { rounds: 1, lookups, registrations: 2, quiet, flood };
        }
        let flood = Duration::from_secs(options.flood);
        let (lookups, quiet) = (Duration::from_secs(2), Duration::from_secs(5));
        Self { rounds: 3, lookups, registrations: 5, quiet, flood }
    }
}

fn main() -> ExitCode {
    if let Some(port) = floor::asked_for() {
        floor::serve(port);
    }
    let options = Options::parse();
    let plan = Plan::new(&options);
    let descriptors = raise_descriptor_limit();
    // Each name is a descriptor of the server and one of ours.
    let carried = u32::try_from(descriptors.saturating_sub(500)).unwrap_or(u32::MAX);
    let most_names = options.names.min(carried);
    let epmd = Program { name: "epmd", path: options.installed, most_names: names::MOST_OF_EPMD };
    let other = if options.floor {
        Program { name: "floor", path: env::current_exe().expect("a program knows its path"), most_names }
    } else {
        Program { name: "ours", path: options.ours, most_names }
    };
    for program in [&epmd, &other] {
        println!("{}: {}", program.name, program.path.display());
    }
    if options.only != Some(Part::Flood) {
        speed::measure(plan, &epmd, &other);
    }
    if options.only == Some(Part::Speed) || options.floor {
        return ExitCode::SUCCESS;
    }
    if !prerequisites::require() {
        println!("\nThe flood is left out: it needs test hosts, so run this as root.");
        return ExitCode::SUCCESS;
    }
    flood::measure(plan, &epmd, &other);
    ExitCode::SUCCESS
}

/// To the hard limit, for ourselves and for what we start. Gives that limit.
fn raise_descriptor_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    setrlimit(Resource::Nofile, raised).expect("raising the soft limit");
    limit.maximum.unwrap_or(u64::MAX)
}
