//! Links that are up: what it costs to carry their bytes, which must not depend on how they came up.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::Instant;

use crate::Plan;
use crate::clients::COOKIE;
use crate::entrants::{Entrant, Field, Leads, UNREAD};
use crate::support::daemon::Daemon;
use crate::support::handshake::{Initiator, Shaken};
use crate::table::Table;
use crate::usage::cpu_seconds;

/// One write: a fragment of a large message of a node has 64 KiB.
const WRITE: usize = 64 * 1024;
const GIB: f64 = (1u64 << 30) as f64;

/// Measures all in turn, and prints the tables.
///
/// # Panics
///
/// When a link does not come up, or does not carry all.
pub(crate) fn measure(plan: &Plan, field: &Field) {
    println!("\nOne link that is up, {} MiB from the client to the stand-in.", plan.bulk >> 20);
    let mut tables = ["GiB a second, on the wall", "CPU, s for each GiB"].map(Table::of);
    for round in 0..plan.rounds {
        let mut order: Vec<&Entrant> =
            field.entrants.iter().filter(|entrant| entrant.leads == Leads::ToStandIn).collect();
        let count = order.len();
        order.rotate_left(round % count);
        for entrant in order {
            let (speed, cpu) = entrant.carry(plan.bulk);
            let [speeds, costs] = &mut tables;
            speeds.add(entrant.name, speed);
            if let Some(cpu) = cpu {
                costs.add(entrant.name, cpu);
            }
        }
    }
    tables.iter().for_each(|table| table.print(UNREAD));
}

impl Entrant {
    /// GiB a second, and CPU seconds for each.
    fn carry(&self, bytes: usize) -> (f64, Option<f64>) {
        let mut stream = self.connect().expect("a port that is open");
        let node = Initiator::named("n0@h0.example.net").cookie(COOKIE);
        assert_eq!(node.shake(&stream), Shaken::Up);
        let cpu = || self.daemon.as_ref().map(Daemon::pid).map(cpu_seconds);
        let (before, begun) = (cpu(), Instant::now());
        send_all(&mut stream, bytes);
        let gib = bytes as f64 / GIB;
        let used = cpu().zip(before).map(|(after, before)| (after - before) / gib);
        (gib / begun.elapsed().as_secs_f64(), used)
    }
}

/// Until the stand-in, which has read all of it, has closed.
fn send_all(stream: &mut TcpStream, bytes: usize) {
    let message = vec![7; WRITE];
    for _ in 0..bytes / WRITE {
        stream.write_all(&message).expect("the link is up");
    }
    stream.shutdown(Shutdown::Write).expect("the link is up");
    let end = stream.read(&mut [0]).expect("the end arrives");
    assert_eq!(end, 0, "the stand-in says nothing");
}
