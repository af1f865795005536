//! Runs cases until the time is up or a difference is found, several at a time, and reports it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::drive::{Finding, Setup, run};
use super::generate::case;
use super::rng::seed_of_case;
use super::script::{Case, Conn, Step};
use super::tally::Tally;
use crate::support::host::Host;

/// Cases at one time: they mostly wait.
const WORKERS: usize = 4;
/// How often a case that differed once is run again: what shows in one run of several is a difference all the same.
const AGAIN: usize = 8;
/// For making a failed case smaller.
const REDUCING: Duration = Duration::from_secs(20);

/// How long, and from which seed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) duration: Duration,
}

/// A case that has failed and failed again.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) case: Case,
    pub(crate) finding: Box<Finding>,
}

/// Runs cases on the host; gives what was tried, and the first case that fails again.
pub(crate) fn hunt(host: &Host, setup: &Setup, plan: Plan) -> (Tally, Option<Failure>) {
    let (sum, failure) = (Mutex::new(Tally::default()), Mutex::new(None));
    let (next, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let end = Instant::now() + plan.duration;
    let work = || {
        while !stop.load(Ordering::Relaxed) && Instant::now() < end {
            let case = case(seed_of_case(plan.seed, next.fetch_add(1, Ordering::Relaxed)));
            let (tally, failed) = confirmed(setup, &case);
            sum.lock().expect("no worker panics with the sum").add(tally);
            if let Some(finding) = failed {
                stop.store(true, Ordering::Relaxed);
                failure.lock().expect("no worker panics here").get_or_insert(Failure { case, finding });
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| host.inside(work));
        }
    });
    (sum.into_inner().expect("all are done"), failure.into_inner().expect("all are done"))
}

/// Runs a case, and again up to [`AGAIN`] times if it fails: one machine's hiccup is no difference between two
/// programs, and what comes back is.
pub(crate) fn confirmed(setup: &Setup, case: &Case) -> (Tally, Option<Box<Finding>>) {
    let first = match run(setup, case) {
        Ok(tally) => return (tally, None),
        Err(finding) => finding,
    };
    let mut last = Tally::default();
    for _ in 0..AGAIN {
        match run(setup, case) {
            Ok(tally) => last = tally,
            Err(finding) => return (Tally::default(), Some(finding)),
        }
    }
    last.unrepeated.push(format!("case {:#018x}: {first}", case.seed));
    (last, None)
}

/// Leaves out connections and steps as long as the case still fails.
pub(crate) fn reduce(host: &Host, setup: &Setup, failure: Failure) -> Failure {
    let end = Instant::now() + REDUCING;
    host.inside(|| {
        let mut best = failure;
        let mut conns: Vec<Conn> = best.case.steps.iter().filter_map(Step::conn).collect();
        conns.sort_unstable();
        conns.dedup();
        for conn in conns {
            let keep = |step: &Step| step.conn() != Some(conn);
            best = without(setup, best, end, |case| case.steps.retain(keep));
        }
        for at in (0..best.case.steps.len()).rev() {
            // A connection that nobody has opened is in no step.
            let opens = matches!(best.case.steps.get(at), None | Some(Step::Open(_)));
            if !opens {
                best = without(setup, best, end, |case| drop(case.steps.remove(at)));
            }
        }
        best
    })
}

fn without(setup: &Setup, best: Failure, end: Instant, leave_out: impl FnOnce(&mut Case)) -> Failure {
    let mut case = best.case.clone();
    leave_out(&mut case);
    if Instant::now() >= end {
        return best;
    }
    match run(setup, &case) {
        Ok(_) => best,
        Err(finding) => Failure { case, finding },
    }
}
