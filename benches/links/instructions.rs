//! Instructions of the guard for each link, outside of the kernel, counted by valgrind.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;

use crate::clients::{Crowd, Lasts, link};
use crate::entrants::{Entrant, Leads, Shape, UNREAD};
use crate::stand_in::StandIn;
use crate::support::daemon::Daemon;
use crate::table::Table;

/// The difference of the two is what is counted: what the guard does at its start and its end is in both.
const LINKS: [usize; 2] = [500, 2500];
/// One after the other, so that each wakes the guard as often.
const OUTSTANDING: usize = 1;
/// Valgrind makes a program fifty times as slow.
const PATIENCE: Duration = Duration::from_secs(60);

/// Counts for each shape, and prints the table.
///
/// # Panics
///
/// When valgrind is not there, or a link does not come up.
pub(crate) fn measure(guard: &Path, stand_in: &StandIn) {
    println!("\nInstructions outside of the kernel for each link that comes up and is reset, by callgrind.");
    let mut table = Table::of("instructions a link");
    let shapes = [
        (UNREAD, Shape::Tcp, Crowd::Few),
        ("guard, dist: all is read", Shape::Dist, Crowd::Few),
        ("guard, dist, cookie_file", Shape::Cookie, Crowd::Few),
        ("guard, dist, 1,000 peers", Shape::Peers, Crowd::Hosts),
        ("guard, dist, cookie_file, log", Shape::Log, Crowd::Few),
    ];
    for ((name, shape, crowd), last) in shapes.into_iter().zip(3..) {
        let at = SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), stand_in.at.port()));
        let [few, many] = LINKS.map(|links| count(guard, (name, shape, crowd), at, links));
        table.add(name, (many - few) / (LINKS[1] - LINKS[0]) as f64);
    }
    table.print(UNREAD);
}

/// The instructions of a guard that makes so many links, and what it does besides.
fn count(
    guard: &Path,
    (name, shape, crowd): (&'static str, Shape, Crowd),
    at: SocketAddr,
    links: usize,
) -> f64 {
    let dir = tempfile::tempdir().expect("making a temporary directory");
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(guard);
    command.arg("run").arg("--config").arg(shape.configure(dir.path(), at));
    let daemon = Some(Daemon::spawn(name, command));
    let entrant = Entrant { name, at, crowd, daemon, leads: Leads::ToStandIn };
    entrant.wait();
    drop(link(at, crowd, OUTSTANDING, Lasts::Links(links)));
    let daemon = entrant.daemon.expect("it runs");
    daemon.signal(Signal::TERM);
    let (_, output) = daemon.finish(PATIENCE);
    let collected = output.lines().find_map(|line| line.split_once("Collected : "));
    let (_, count) = collected.unwrap_or_else(|| panic!("valgrind counted nothing:\n{output}"));
    count.trim().parse().expect("a number")
}
