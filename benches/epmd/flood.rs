//! What a client of the same host sees while a stranger opens and holds connections as fast as he can.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use crate::Plan;
use crate::lookups::{Lookups, Outcome};
use crate::names::{NODE_PORT, count_on, register_on};
use crate::program::{NO_CONFIG, Program, linked, wait_until_it_answers};
use crate::support::daemon::Daemon;
use crate::support::eventually::eventually;
use crate::support::flood::{Counts, Flood};
use crate::support::guard::{SOON, USER};
use crate::support::host::Host;
use crate::support::lab::Lab;
use crate::usage::{cpu_seconds, resident};

/// Between two lookups of the client: he is no flood himself.
const PAUSE: Duration = Duration::from_millis(2);
/// How long the client is watched when the flood is over.
const AFTERWARDS: Duration = Duration::from_secs(2);
/// The soft limit on open files of most systems, which epmd keeps.
const USUAL_DESCRIPTORS: u32 = 1024;

const COLUMNS: [&str; 11] = [
    "",
    "quiet p50",
    "quiet p99",
    "flood p50",
    "flood p99",
    "flood max",
    "p99 ratio",
    "answered",
    "attempts/s",
    "held",
    "CPU",
];

/// How a program fared.
struct Report {
    name: String,
    quiet: Outcome,
    flooded: Outcome,
    afterwards: Outcome,
    /// What the stranger had done when the flood was over.
    counts: Counts,
    /// None if the process ended.
    used: Option<Used>,
    ended: Option<ExitStatus>,
    /// Whether a name that was registered before is still registered after.
    keeps_name: bool,
}

/// What a process used.
struct Used {
    /// CPU seconds per second of the flood.
    cpu: f64,
    /// Resident bytes before the flood, and at its end.
    resident: (f64, f64),
}

/// Floods one after the other, and prints the table.
pub(crate) fn measure(plan: Plan, epmd: &Program, ours: &Program) {
    println!(
        "\nFlood: {} s of a stranger with one thread. A client of the same host looks up one name at a\n\
         time, with pauses of {} ms. Latencies in microseconds. Not answered: nothing within 7 s, or an end\n\
         without an answer; that counts as 7 s.\n",
        plan.flood.as_secs(),
        PAUSE.as_millis()
    );
    print_row(&COLUMNS.map(str::to_owned));
    let usual = format!("epmd, {USUAL_DESCRIPTORS} descriptors");
    let runs = [
        (ours.name.to_owned(), ours, None),
        (epmd.name.to_owned(), epmd, None),
        (usual, epmd, Some(USUAL_DESCRIPTORS)),
    ];
    let mut reports = Vec::new();
    for (name, program, descriptors) in runs {
        let report = flood(plan, name, program, descriptors);
        report.print();
        reports.push(report);
    }
    println!();
    for report in reports {
        report.print_end();
    }
}

fn flood(plan: Plan, name: String, program: &Program, descriptors: Option<u32>) -> Report {
    let lab = Lab::new(&["h1", "h2"]);
    let (host, stranger) = (lab.host("h1"), lab.host("h2"));
    let at = SocketAddr::new(host.v4().into(), 4369);
    let daemon = Daemon::spawn(name.clone(), command(&lab, &host, &program.path, descriptors));
    wait_until_it_answers(&name, &daemon, || count_on(host.connect(at)?));
    // Something listens behind the name, as behind a node's: a guard may look before it tells a port.
    let _node = host.listen((Ipv4Addr::LOCALHOST, NODE_PORT).into()).expect("a free port");
    let registration = host.connect(at).and_then(|stream| register_on(stream, 0)).expect("a free name");

    let lookups = Lookups { at, names: 1, outstanding: 1, pause: PAUSE };
    let quiet = host.inside(|| lookups.run(plan.quiet));
    let pid = daemon.pid();
    let before = (cpu_seconds(pid), resident(pid));
    let begun = Instant::now();
    let flood = Flood::start(&stranger, at);
    eventually("the flood has begun", SOON, || flood.counts().attempts > 1000);
    let flooded = host.inside(|| lookups.run(plan.flood));
    let counts = flood.counts();
    let used = daemon.exit_status().is_none().then(|| Used {
        cpu: (cpu_seconds(pid) - before.0) / begun.elapsed().as_secs_f64(),
        resident: (before.1, resident(pid)),
    });
    drop(flood);
    let afterwards = host.inside(|| lookups.run(AFTERWARDS));
    let (ended, keeps_name) = (daemon.exit_status(), registration.is_up());
    Report { name, quiet, flooded, afterwards, counts, used, ended, keeps_name }
}

/// On all addresses, as either does when it is not told otherwise.
fn command(lab: &Lab, host: &Host, program: &Path, descriptors: Option<u32>) -> Command {
    let link = linked(&lab.install(program), &lab.dir().join("bin"));
    let mut command = host.command_as(USER, "sh");
    let limit = descriptors.map_or_else(String::new, |limit| format!("ulimit -S -n {limit}; "));
    command.env("EPMD_GUARD_CONFIG", NO_CONFIG);
    command.arg("-c").arg(format!("{limit}exec \"$0\" -port 4369")).arg(link);
    command
}

impl Report {
    fn print(&self) {
        let flooded = self.flooded.latencies_of_all();
        let (quiet_p99, flood_p99) = (self.quiet.latencies_of_all().per_mille(990), flooded.per_mille(990));
        let ratio = quiet_p99.zip(flood_p99).map(|(quiet, flooded)| flooded / quiet);
        let attempts = self.counts.attempts as f64 / self.flooded.took.as_secs_f64();
        print_row(&[
            self.name.clone(),
            figure(self.quiet.latencies.per_mille(500), 0),
            figure(quiet_p99, 0),
            figure(flooded.per_mille(500), 0),
            figure(flood_p99, 0),
            figure(flooded.per_mille(1000), 0),
            figure(ratio, 1),
            answered(&self.flooded),
            figure(Some(attempts), 0),
            self.counts.held.to_string(),
            figure(self.used.as_ref().map(|used| used.cpu), 2),
        ]);
    }

    fn print_end(&self) {
        let end = self.ended.map_or_else(|| "runs".to_owned(), |status| format!("ended ({status})"));
        let name = if self.keeps_name { "kept" } else { "lost" };
        let memory = self.used.as_ref().map_or_else(String::new, |used| {
            let (before, after) = (used.resident.0 / 1024.0, used.resident.1 / 1024.0);
            format!(", resident KiB {before:.0} before and {after:.0} at the end")
        });
        let answered = answered(&self.afterwards);
        println!("{}: {end}; its name is {name}; answered afterwards: {answered}{memory}", self.name);
    }
}

/// So many of so many.
fn answered(outcome: &Outcome) -> String {
    let answered = outcome.latencies.len() as u64;
    format!("{answered}/{}", answered + outcome.failed)
}

fn figure(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
}

fn print_row([name, cells @ ..]: &[String; COLUMNS.len()]) {
    let cells: String = cells.iter().map(|cell| format!("  {cell:>10}")).collect();
    println!("{name:<22}{cells}");
}
