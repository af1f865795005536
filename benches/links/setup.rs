//! Links that come up: how many a second, and for how much of a processor.

use crate::Plan;
use crate::clients::{Lasts, link};
use crate::entrants::{Entrant, Field, UNREAD};
use crate::support::daemon::Daemon;
use crate::table::Table;
use crate::usage::cpu_seconds;

/// Measures all in turn, and prints the tables.
///
/// # Panics
///
/// When a link does not come up.
pub(crate) fn measure(plan: &Plan, field: &Field) {
    println!(
        "\nLinks that come up and are reset. CPU: what the program between the clients and the stand-in takes (of a real\n\
         node: the node); links a CPU second are what one core can carry. Ratios: to the guard that reads nothing."
    );
    for outstanding in plan.outstanding.iter().copied() {
        let mut tables = [
            "links a second, on the wall",
            "links a CPU second",
            "CPU, ms for 1,000 links",
            "set-up, p50 in µs",
            "set-up, p99 in µs",
            "share of its processor",
        ]
        .map(|what| Table::of(format!("{outstanding} at a time: {what}")));
        for round in 0..plan.rounds {
            // Who comes second finds the processor warm: each comes first once.
            let mut order: Vec<&Entrant> = field.entrants.iter().collect();
            let count = order.len();
            order.rotate_left(round % count);
            for entrant in order {
                for (table, value) in tables.iter_mut().zip(entrant.set_up(plan, outstanding)) {
                    if let Some(value) = value {
                        table.add(entrant.name, value);
                    }
                }
            }
        }
        tables.iter().for_each(|table| table.print(UNREAD));
    }
}

impl Entrant {
    /// In the order of the tables; `None`: there is no such thing.
    fn set_up(&self, plan: &Plan, outstanding: usize) -> [Option<f64>; 6] {
        // What is made once, such as room in tables, is not measured.
        drop(link(self.at, self.crowd, outstanding, Lasts::For(plan.links / 10)));
        let cpu = || self.daemon.as_ref().map(Daemon::pid).map(cpu_seconds);
        let before = cpu();
        let outcome = link(self.at, self.crowd, outstanding, Lasts::For(plan.links));
        let used = cpu().zip(before).map(|(after, before)| after - before);
        let (links, took) = (outcome.links(), outcome.took.as_secs_f64());
        [
            Some(links / took),
            used.map(|used| links / used),
            used.map(|used| used * 1_000_000.0 / links),
            outcome.latencies.per_mille(500),
            outcome.latencies.per_mille(990),
            used.map(|used| used / took),
        ]
    }
}
