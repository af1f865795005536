//! What a tunnel costs: a pair of guards beside a pair of haproxys, both with mutual TLS 1.3 and the same
//! certificates between the two, and beside no tunnel at all.
//!
//! Both programs of a pair share one processor, and the clients and the node behind have the other one. The ways take
//! turns, so that a ratio is of measurements made one after the other. What counts is the CPU time of both programs
//! together: clocks on the wall say as much of the clients, and of what else the machine does.
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

#[path = "../links/processors.rs"]
mod processors;
#[path = "../epmd/samples.rs"]
#[allow(dead_code, reason = "shared with another benchmark")]
mod samples;
#[path = "../links/table.rs"]
mod table;
#[path = "../epmd/usage.rs"]
mod usage;

mod certificates;
mod measures;
mod node;
mod pairs;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use certificates::Certificates;
use node::Node;
use pairs::Ways;
use processors::Processors;

/// Measures links through a tunnel.
#[derive(Debug, Parser)]
struct Options {
    /// One short round, to see that it works
    #[arg(long)]
    quick: bool,
    /// One of the parts alone
    #[arg(long, value_name = "PART")]
    only: Option<Part>,
    /// Only those whose names contain this
    #[arg(long, value_name = "TEXT", default_value = "")]
    who: String,
    /// Of how many rounds
    #[arg(long, value_name = "NUMBER", default_value_t = 5)]
    rounds: usize,
    /// The guard that is measured
    #[arg(long, value_name = "FILE", default_value = env!("CARGO_BIN_EXE_epmd-guard"))]
    guard: PathBuf,
    /// Another guard, to be compared with it
    #[arg(long, value_name = "FILE")]
    other: Option<PathBuf>,
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
    /// Bytes of a link that is up
    Bulk,
    /// Links a second
    Setup,
    /// Round trips on a link that is up
    Trips,
    /// Memory of links at rest
    Memory,
}

/// How much is measured.
#[derive(Clone, Debug)]
struct Plan {
    rounds: usize,
    /// Bytes of one measurement of a link that is up, each way.
    bulk: usize,
    /// One measurement of links that come up.
    links: Duration,
    /// Round trips of one measurement.
    trips: usize,
    /// Links at rest.
    idle: usize,
}

impl Plan {
    fn new(options: &Options) -> Self {
        if options.quick {
            let links = Duration::from_millis(200);
            return Self { rounds: 1, bulk: 64 << 20, links, trips: 200, idle: 50 };
        }
        let links = Duration::from_secs(2);
        Self { rounds: options.rounds, bulk: 1 << 30, links, trips: 5000, idle: 1000 }
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    let plan = Plan::new(&options);
    raise_descriptor_limit();
    let Some(processors) = Processors::choose() else {
        eprintln!("The tunnel is left out: what is measured has a processor to itself, so two are needed.");
        return ExitCode::SUCCESS;
    };
    println!("guard: {}", options.guard.display());
    let node = Node::start();
    let certificates = Certificates::make();
    let ways = Ways { options: &options, processors, node: node.at, certificates: &certificates };
    let does = |part| options.only.is_none_or(|only| only == part);
    let all = ways.start();
    if does(Part::Bulk) {
        measures::bulk(&plan, &all);
    }
    if does(Part::Setup) {
        measures::setup(&plan, &all);
    }
    if does(Part::Trips) {
        measures::trips(&plan, &all);
    }
    drop(all);
    if does(Part::Memory) {
        measures::memory(&plan, &ways);
    }
    ExitCode::SUCCESS
}

/// To the hard limit, for ourselves and for what we start.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    setrlimit(Resource::Nofile, raised).expect("raising the soft limit");
}
