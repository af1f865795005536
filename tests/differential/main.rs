//! The installed epmd and ours, side by side: the same bytes, cut and timed in many ways, must get the same
//! answers, the same closes and the same table, except for the differences that are documented
//! (`compare::Difference` has one variant for each).
//!
//! A case is made from a seed: connections with steps, interleaved. Both programs are started afresh for it. What
//! differs is run again, up to eight times; what differs once more counts, and is made smaller and shown as a script.
//! What does not come back is listed, and fails the test where that is more than three cases and one in 200.
//!
//! | variable | meaning |
//! | --- | --- |
//! | `EPMD_DIFF_SECONDS` | how long; 60 |
//! | `EPMD_DIFF_SEED` | the seed of the run; the clock if not set |
//! | `EPMD_DIFF_CASE` | the seed of the one case that is to be run, as a failure prints it |
//! | `EPMD_DIFF_OURS` | the program to compare with the installed epmd, in place of the built one |

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::wildcard_enum_match_arm,
    clippy::disallowed_methods,
    reason = "a failed test panics, and a test reads its settings from the environment"
)]

#[path = "../support/mod.rs"]
#[allow(dead_code, unused_imports, unreachable_pub, reason = "shared with the other tests")]
mod support;

mod asked;
mod compare;
mod drive;
mod fault;
mod generate;
mod hunt;
mod kernel;
mod program;
mod rng;
mod script;
mod tally;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use compare::Difference;
use drive::Setup;
use fault::Fault;
use hunt::{Failure, Plan, confirmed, hunt, reduce};
use program::{Program, named_epmd};
use support::lab::Lab;
use support::prerequisites::require;
use tally::Tally;

/// The epmd that ours is measured by.
const INSTALLED: &str = "/usr/bin/epmd";

fn installed(lab: &Lab, label: &'static str) -> Program {
    Program { label, path: INSTALLED.into(), dir: lab.dir().into() }
}

/// The built program under the name of epmd, or what `EPMD_DIFF_OURS` names.
fn ours(lab: &Lab) -> Program {
    let path = match std::env::var_os("EPMD_DIFF_OURS") {
        Some(path) => PathBuf::from(path),
        None => named_epmd(lab.dir(), &lab.install(Path::new(BUILT))),
    };
    Program { label: "ours", path, dir: lab.dir().into() }
}

/// What is built here and acts as epmd where it is called so.
const BUILT: &str = env!("CARGO_BIN_EXE_epmd-guard");

/// Long enough for the rarest of what is tried.
const ENOUGH: Duration = Duration::from_secs(60);
/// The labels of `asked::Asked`.
const KINDS_OF_REQUEST: usize = 11;

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok().filter(|text| !text.is_empty())?;
    let number = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    Some(number.unwrap_or_else(|error| panic!("{variable}={text}: {error}")))
}

fn clock() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

fn tell(text: &str) {
    // Straight to the descriptor: the test harness swallows what a test prints that passes.
    drop(write!(std::io::stderr(), "{text}"));
}

#[track_caller]
fn fail(run: Plan, whole: &str, smaller: &Failure) -> ! {
    panic!(
        "the programs differ (seed of the run {:#x})\n\n{}\nas short as it became:\n{}\nthe whole case:\n{whole}\n\
         once more: EPMD_DIFF_CASE={:#018x} cargo test --test differential the_same_bytes -- --nocapture\n",
        run.seed, smaller.finding, smaller.case, smaller.case.seed
    );
}

#[test]
fn the_same_bytes_get_the_same_answers_closes_and_table_as_from_the_installed_epmd() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1"]);
    let host = lab.host("h1");
    let setup = Setup { programs: [installed(&lab, "epmd"), ours(&lab)], fault: None };
    let seconds = number("EPMD_DIFF_SECONDS").unwrap_or(60);
    let plan =
        Plan { seed: number("EPMD_DIFF_SEED").unwrap_or_else(clock), duration: Duration::from_secs(seconds) };
    let start = Instant::now();
    let (tally, failure) = match number("EPMD_DIFF_CASE") {
        Some(seed) => {
            let case = generate::case(seed);
            tell(&format!("{case}"));
            let (tally, finding) = host.inside(|| confirmed(&setup, &case));
            (tally, finding.map(|finding| Failure { case, finding }))
        }
        None => hunt(&host, &setup, plan),
    };
    tell(&format!("seed {:#x}, {:.1} s: {tally}", plan.seed, start.elapsed().as_secs_f64()));
    if let Some(failure) = failure {
        let whole = failure.case.to_string();
        fail(plan, &whole, &reduce(&host, &setup, failure));
    }
    assert!(!tally.is_doubtful(), "too many differences that are not seen again:\n{tally}");
}

#[test]
fn every_request_and_every_documented_difference_is_tried() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1"]);
    let host = lab.host("h1");
    let setup = Setup { programs: [installed(&lab, "first"), installed(&lab, "second")], fault: None };
    let (mut sum, end) = (Tally::default(), Instant::now() + ENOUGH);
    loop {
        let plan = Plan { seed: clock(), duration: Duration::from_secs(3) };
        let (tally, failure) = hunt(&host, &setup, plan);
        if let Some(failure) = failure {
            let whole = failure.case.to_string();
            fail(plan, &whole, &failure);
        }
        sum.add(tally);
        let untried =
            Difference::ALL.into_iter().filter(|difference| sum.could_meet(*difference) == 0).count();
        if untried == 0 && sum.asked.len() == KINDS_OF_REQUEST && sum.restarts > 0 {
            return;
        }
        assert!(Instant::now() < end, "not everything is tried:\n{sum}");
    }
}

#[test]
fn whatever_the_second_program_does_wrong_is_found_and_found_again_from_the_seed_of_its_case() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1"]);
    let host = lab.host("h1");
    for fault in Fault::ALL {
        let programs = [installed(&lab, "epmd"), installed(&lab, "faulty")];
        let setup = Setup { programs, fault: Some(fault) };
        let plan = Plan { seed: clock(), duration: Duration::from_secs(30) };
        let (tally, failure) = hunt(&host, &setup, plan);
        let failure =
            failure.unwrap_or_else(|| panic!("{fault:?} is not found, seed {:#x}\n{tally}", plan.seed));
        let again = generate::case(failure.case.seed);
        let (_, found) = host.inside(|| confirmed(&setup, &again));
        assert!(found.is_some(), "{fault:?} is found in this case, and not when it is made again:\n{again}");
    }
}
