//! How fast the two are, and what a name costs in memory.

use std::time::{Duration, Instant};

use crate::Plan;
use crate::lookups::{Lookups, Outcome};
use crate::names::{Registration, forget, register};
use crate::program::{Program, Running};
use crate::samples::{Side, Table};
use crate::usage::{cpu_seconds, resident};

/// How many names are registered while lookups are measured; a program that takes fewer gets as many as it
/// takes.
const SIZES: [u32; 3] = [1, 100, 10_000];
/// How many lookups are under way at a time.
const OUTSTANDING: [usize; 2] = [1, 32];

/// One of the two in one round: a process of its own, with the names that it has so far.
struct Entrant<'a> {
    side: Side,
    program: &'a Program,
    running: Running,
    held: Vec<Registration>,
    /// Resident bytes when there was one name and the process had answered lookups.
    resident_at_one: f64,
}

/// Measures both and prints the table.
///
/// # Panics
///
/// When one of them does not start, refuses a name, or answers a lookup wrongly or not at all.
pub(crate) fn measure(plan: Plan, epmd: &Program, ours: &Program) {
    let dir = tempfile::tempdir().expect("making a temporary directory");
    let mut tables = Tables::default();
    for round in 0..plan.rounds {
        let enter = |side| {
            let program = if side == Side::Epmd { epmd } else { ours };
            let running = program.start(dir.path());
            Entrant { side, program, running, held: Vec::new(), resident_at_one: 0.0 }
        };
        let mut entrants = Side::BOTH.map(enter);
        // Who comes second finds the processor warm: they change places every round.
        if round % 2 == 1 {
            entrants.reverse();
        }
        for size in SIZES {
            for entrant in &mut entrants {
                entrant.fill(size, &mut tables);
            }
            for outstanding in OUTSTANDING {
                for entrant in &entrants {
                    let outcome = entrant.look_up(outstanding, plan.lookups, &mut tables);
                    assert_eq!(outcome.failed, 0, "lookups that {} did not answer", entrant.program.name);
                }
            }
            if size == 1 {
                entrants.iter_mut().for_each(|one| one.resident_at_one = one.resident());
            }
        }
        for entrant in &mut entrants {
            entrant.register_anew(plan.registrations, epmd.most_names, &mut tables);
        }
    }
    tables.print(epmd, ours);
}

#[derive(Default)]
struct Tables {
    lookups: Table,
    others: Table,
}

impl Tables {
    fn print(&self, epmd: &Program, ours: &Program) {
        println!(
            "\nLookups, each on a connection of its own. \"All\" names are {} for epmd, which stops near\n\
             1,000, and {} for {}. CPU: seconds of the server for 100,000 lookups.\n",
            epmd.most_names, ours.most_names, ours.name
        );
        self.lookups.print(epmd.name, ours.name);
        println!(
            "\nRegistrations one after the other, each of which holds its connection. There is no ratio where \"all\"\n\
             names are more for one of the two.\n"
        );
        self.others.print(epmd.name, ours.name);
    }
}

impl Entrant<'_> {
    /// Registers names until there are `size`, or as many as the program takes.
    fn fill(&mut self, size: u32, tables: &mut Tables) {
        let (from, to) = (u32::try_from(self.held.len()).expect("few"), size.min(self.program.most_names));
        let begun = Instant::now();
        self.held.extend(register(self.running.at, from..to));
        if size == 10_000 {
            let rate = f64::from(to - from) / begun.elapsed().as_secs_f64();
            tables.others.add_apart("registrations per second, 100 to all names", self.side, rate);
            let bytes = (self.resident() - self.resident_at_one) / f64::from(to - 1);
            tables.others.add("resident bytes per name, all names", self.side, bytes);
            tables.others.add_apart("resident KiB, all names", self.side, self.resident() / 1024.0);
        }
    }

    fn look_up(&self, outstanding: usize, lasts: Duration, tables: &mut Tables) -> Outcome {
        let names = u32::try_from(self.held.len()).expect("few");
        let lookups = Lookups { at: self.running.at, names, outstanding, pause: Duration::ZERO };
        let pid = self.running.daemon.pid();
        let before = cpu_seconds(pid);
        let outcome = lookups.run(lasts);
        let cpu = cpu_seconds(pid) - before;
        let names = match names {
            1 => "1 name".to_owned(),
            100 => "100 names".to_owned(),
            _ => "all names".to_owned(),
        };
        let mut add = |what: &str, value| {
            tables.lookups.add(&format!("{names}, {outstanding} at a time: {what}"), self.side, value);
        };
        add("per second", outcome.per_second());
        add("p50, microseconds", outcome.latencies.per_mille(500).unwrap_or(f64::NAN));
        add("p99, microseconds", outcome.latencies.per_mille(990).unwrap_or(f64::NAN));
        add("CPU, seconds", cpu * 100_000.0 / outcome.latencies.len() as f64);
        outcome
    }

    /// Registers `names` several times over, each time with an empty table.
    fn register_anew(&mut self, times: usize, names: u32, tables: &mut Tables) {
        let at = self.running.at;
        forget(at, std::mem::take(&mut self.held));
        let (mut took, pid, mut cpu) = (Duration::ZERO, self.running.daemon.pid(), 0.0);
        for _ in 0..times {
            let (begun, before) = (Instant::now(), cpu_seconds(pid));
            let held = register(at, 0..names);
            took += begun.elapsed();
            cpu += cpu_seconds(pid) - before;
            forget(at, held);
        }
        let done = f64::from(names) * times as f64;
        let what = format!("registrations per second, 0 to {names} names");
        tables.others.add(&what, self.side, done / took.as_secs_f64());
        let what = format!("CPU seconds for 100,000 registrations, 0 to {names} names");
        tables.others.add(&what, self.side, cpu * 100_000.0 / done);
    }

    fn resident(&self) -> f64 {
        resident(self.running.daemon.pid())
    }
}
