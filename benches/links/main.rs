//! How many links a second come up through the guard on one core, and what it costs to read their handshakes.
//!
//! A node's own part is left out: what answers behind is a stand-in that speaks the handshake with a known cookie
//! and nothing else, because a VM takes longer for one than all the rest together; it is measured too, for itself.
//! Whatever is measured has one processor, the clients and the stand-in have the other one, and they take turns,
//! three rounds of them. What counts is the CPU time: clocks on the wall say as much of the clients, which have the
//! work of two, and of what else the machine does. Each link is reset by its client once it is up, so that no port
//! waits for a minute: its end is part of what is measured.
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

#[path = "../epmd/samples.rs"]
#[allow(dead_code, reason = "shared with the other benchmark")]
mod samples;
#[path = "../epmd/usage.rs"]
#[allow(dead_code, reason = "shared with the other benchmark")]
mod usage;

mod bulk;
mod clients;
mod entrants;
mod instructions;
mod processors;
mod setup;
mod stand_in;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use entrants::Field;
use processors::Processors;
use stand_in::StandIn;

/// Measures links through the guard.
#[derive(Debug, Parser)]
struct Options {
    /// One short round, to see that it works
    #[arg(long)]
    quick: bool,
    /// One of the parts alone; "instructions" is measured only so
    #[arg(long, value_name = "PART")]
    only: Option<Part>,
    /// Only those whose names contain this
    #[arg(long, value_name = "TEXT", default_value = "")]
    who: String,
    /// Only with so many links under way at a time
    #[arg(long, value_name = "NUMBER")]
    outstanding: Option<usize>,
    /// Of how many rounds
    #[arg(long, value_name = "NUMBER", default_value_t = 3)]
    rounds: usize,
    /// The guard that is measured
    #[arg(long, value_name = "FILE", default_value = env!("CARGO_BIN_EXE_epmd-guard"))]
    guard: PathBuf,
    /// What else is measured as haproxy; left out where it is not there
    #[arg(long, value_name = "FILE", default_value = "/usr/sbin/haproxy")]
    haproxy: PathBuf,
    /// Given by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

/// What can be measured alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Links a second
    Setup,
    /// Bytes of links that are up
    Bulk,
    /// Instructions for each link outside of the kernel, counted by valgrind
    Instructions,
}

/// For how long it is measured.
#[derive(Clone, Debug)]
struct Plan {
    rounds: usize,
    /// How many links are under way at a time.
    outstanding: Vec<usize>,
    /// One measurement of links that come up.
    links: Duration,
    /// Bytes of one measurement of a link that is up.
    bulk: usize,
}

impl Plan {
    fn new(options: &Options) -> Self {
        let outstanding = options.outstanding.map_or_else(|| vec![1, 32], |one| vec![one]);
        if options.quick {
            return Self { rounds: 1, outstanding, links: Duration::from_millis(200), bulk: 64 << 20 };
        }
        Self { rounds: options.rounds, outstanding, links: Duration::from_secs(2), bulk: 2 << 30 }
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    let plan = Plan::new(&options);
    raise_descriptor_limit();
    let Some(processors) = Processors::choose() else {
        eprintln!("The links are left out: what is measured has a processor to itself, so two are needed.");
        return ExitCode::SUCCESS;
    };
    println!("guard: {}", options.guard.display());
    let stand_in = StandIn::start();
    let does = |part| options.only.is_none_or(|only| only == part);
    if options.only == Some(Part::Instructions) {
        instructions::measure(&options.guard, &stand_in);
        return ExitCode::SUCCESS;
    }
    let field = Field::start(&options, processors, &stand_in);
    if does(Part::Setup) {
        setup::measure(&plan, &field);
    }
    if does(Part::Bulk) {
        bulk::measure(&plan, &field);
    }
    ExitCode::SUCCESS
}

/// To the hard limit, for ourselves and for what we start.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    setrlimit(Resource::Nofile, raised).expect("raising the soft limit");
}
