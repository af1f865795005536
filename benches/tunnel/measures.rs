//! What is measured, and how.

use std::thread;
use std::time::{Duration, Instant};

use crate::Plan;
use crate::pairs::{BASE, Way, Ways};
use crate::samples::Latencies;
use crate::table::Table;

const GIB: f64 = (1u64 << 30) as f64;
/// How many links come up at one time.
const AT_ONCE: usize = 16;
/// What goes each way through each link before it is at rest again.
const BURST: usize = 4 << 20;
/// What a program does once its links are at rest is done by then: acknowledgements wait for 100 ms at most.
const REST: Duration = Duration::from_secs(1);

/// Each way in turn, in another order in each round.
fn in_turn(rounds: usize, count: usize, mut measure: impl FnMut(usize)) {
    for round in 0..rounds {
        (0..count).for_each(|index| measure((index + round) % count));
    }
}

fn print(tables: &[Table]) {
    tables.iter().for_each(|table| table.print(BASE));
}

/// Bytes of one link: CPU and speed, each way.
pub(crate) fn bulk(plan: &Plan, ways: &[Way]) {
    println!("\nOne link that is up, {} MiB each way, one after the other.", plan.bulk >> 20);
    let mut tables = [
        "CPU of both, s for each GiB there",
        "CPU of both, s for each GiB back",
        "GiB a second there",
        "GiB a second back",
    ]
    .map(Table::of);
    in_turn(plan.rounds, ways.len(), |index| {
        let way = ways.get(index).expect("one of them");
        let mut client = way.connect().expect("a port that is open");
        client.ask(BURST, BURST).expect("the link is up");
        let [cpu_there, cpu_back, there, back] = &mut tables;
        for (cpu, speed, bytes) in [(cpu_there, there, (plan.bulk, 0)), (cpu_back, back, (0, plan.bulk))] {
            let (before, begun) = (way.cpu(), Instant::now());
            client.ask(bytes.0, bytes.1).expect("the link is up");
            let gib = plan.bulk as f64 / GIB;
            speed.add(way.name, gib / begun.elapsed().as_secs_f64());
            // Both have only then done what they had to.
            thread::sleep(REST / 5);
            if let Some(used) = since(before, way.cpu()) {
                cpu.add(way.name, used / gib);
            }
        }
    });
    print(&tables);
}

fn since(before: Option<f64>, after: Option<f64>) -> Option<f64> {
    Some(after? - before?)
}

/// Links that come up: how many, and for how much.
pub(crate) fn setup(plan: &Plan, ways: &[Way]) {
    println!("\nLinks that come up, are asked once and are reset, {AT_ONCE} at a time.");
    let mut tables =
        ["links a second", "CPU of both, ms for 1,000 links", "p50, ms", "p99, ms"].map(Table::of);
    in_turn(plan.rounds, ways.len(), |index| {
        let way = ways.get(index).expect("one of them");
        come_up(way, plan.links / 10);
        let (before, begun) = (way.cpu(), Instant::now());
        let latencies = come_up(way, plan.links);
        let (links, took) = (latencies.len() as f64, begun.elapsed());
        let used = since(before, way.cpu());
        let [speed, cpu, p50, p99] = &mut tables;
        speed.add(way.name, links / took.as_secs_f64());
        if let Some(used) = used {
            cpu.add(way.name, used * 1_000_000.0 / links);
        }
        p50.add(way.name, latencies.per_mille(500).expect("there are links") / 1000.0);
        p99.add(way.name, latencies.per_mille(990).expect("there are links") / 1000.0);
    });
    print(&tables);
}

fn come_up(way: &Way, time: Duration) -> Latencies {
    let end = Instant::now() + time;
    let one = || {
        let mut took = Vec::new();
        while Instant::now() < end {
            let begun = Instant::now();
            way.connect().and_then(|mut client| client.ask(0, 0)).expect("a link");
            took.push(begun.elapsed());
        }
        took
    };
    let mut latencies = Latencies::default();
    thread::scope(|scope| {
        let clients: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(one)).collect();
        for client in clients {
            client.join().expect("no panic").into_iter().for_each(|took| latencies.push(took));
        }
    });
    latencies
}

/// Short questions on one link: for how long, and for how much.
pub(crate) fn trips(plan: &Plan, ways: &[Way]) {
    println!("\n{} questions of 16 bytes on one link, one at a time, each with an answer of 1.", plan.trips);
    let mut tables = ["p50, µs", "p99, µs", "CPU of both, µs for each"].map(Table::of);
    in_turn(plan.rounds, ways.len(), |index| {
        let way = ways.get(index).expect("one of them");
        let mut client = way.connect().expect("a port that is open");
        let mut latencies = Latencies::default();
        (0..plan.trips / 10).for_each(|_| client.ask(0, 0).expect("the link is up"));
        let before = way.cpu();
        for _ in 0..plan.trips {
            let begun = Instant::now();
            client.ask(0, 0).expect("the link is up");
            latencies.push(begun.elapsed());
        }
        let used = since(before, way.cpu());
        let [p50, p99, cpu] = &mut tables;
        p50.add(way.name, latencies.per_mille(500).expect("some"));
        p99.add(way.name, latencies.per_mille(990).expect("some"));
        if let Some(used) = used {
            cpu.add(way.name, used * 1e6 / plan.trips as f64);
        }
    });
    print(&tables);
}

/// Links at rest: what they hold, before and after they have carried something. Each measurement has a pair of its own.
pub(crate) fn memory(plan: &Plan, ways: &Ways<'_>) {
    println!("\n{} links at rest, before and after {} MiB each way through each.", plan.idle, BURST >> 20);
    let mut tables =
        ["KiB of both for each, fresh", "KiB of both for each, after", "both before any, MiB"].map(Table::of);
    let names = ways.names();
    in_turn(plan.rounds.min(3), names.len(), |index| {
        let way = ways.start_one(names.get(index).expect("one of them"));
        drop(way.connect().and_then(|mut client| client.ask(0, 0)));
        thread::sleep(REST);
        let Some(before) = way.resident() else { return };
        let mut links: Vec<_> = (0..plan.idle).map(|_| way.connect().expect("a port that is open")).collect();
        links.iter_mut().for_each(|link| link.ask(0, 0).expect("the link is up"));
        thread::sleep(REST);
        let [fresh, after, all] = &mut tables;
        let each = |now: Option<f64>| (now.expect("it runs") - before) / 1024.0 / links_of(plan);
        fresh.add(way.name, each(way.resident()));
        all.add(way.name, before / 1024.0 / 1024.0);
        links.iter_mut().for_each(|link| link.ask(BURST, BURST).expect("the link is up"));
        thread::sleep(REST);
        after.add(way.name, each(way.resident()));
    });
    print(&tables);
}

fn links_of(plan: &Plan) -> f64 {
    plan.idle as f64
}
