//! What a newcomer sees first: a real ejabberd cluster behind guards, and what a stranger gets.
//!
//! Each step is checked; the exit code is not 0 when anything goes otherwise than promised.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "it talks to whoever started it, and a step that fails panics"
)]

#[path = "../support/mod.rs"]
#[allow(dead_code, unreachable_pub, reason = "shared with the tests")]
mod support;

mod attempts;
mod cluster;
mod tell;

use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};

use cluster::Cluster;
use support::lab::Lab;
use support::prerequisites;
use tell::{heading, text};

/// How it ended.
enum End {
    /// With so many broken promises.
    Shown { broken: usize },
    /// A step failed, and has said why.
    Failed,
    /// Somebody has had enough.
    Interrupted,
}

/// The lab, until somebody takes it away: an interrupted demonstration must leave nothing behind.
type SharedLab = Arc<Mutex<Option<Lab>>>;

fn main() -> ExitCode {
    if !prerequisites::require() {
        eprintln!("The demonstration needs test hosts: run `make demo` as root.");
        return ExitCode::FAILURE;
    }
    let lab = SharedLab::default();
    let (ended, end) = mpsc::channel();
    report_signals(ended.clone());
    let stage = Arc::clone(&lab);
    // A thread of its own, which a signal may leave where it is.
    thread::spawn(move || {
        let show = thread::spawn(move || show(&stage));
        let outcome = show.join().map_or(End::Failed, |broken| End::Shown { broken });
        // The receiver is gone when a signal came first.
        ended.send(outcome).ok();
    });
    let mut outcome = end.recv().unwrap_or(End::Failed);
    // A Ctrl-C ends the programs of the demonstration too, and their end may be noticed first.
    if let (End::Failed, Ok(later)) = (&outcome, end.recv_timeout(Duration::from_millis(200))) {
        outcome = later;
    }
    drop(lab.lock().unwrap_or_else(PoisonError::into_inner).take());
    match outcome {
        End::Shown { broken: 0 } => ExitCode::SUCCESS,
        End::Shown { .. } | End::Failed => ExitCode::FAILURE,
        End::Interrupted => {
            eprintln!("\nInterrupted. The test hosts are gone.");
            ExitCode::from(130)
        }
    }
}

/// The whole of it; returns how many promises were broken.
fn show(stage: &SharedLab) -> usize {
    let begun = Instant::now();
    introduce();
    let cluster = Cluster::build(stage);
    cluster.show();
    let results = attempts::show(&cluster);
    summarize(&results, begun)
}

fn introduce() {
    heading("epmd-guard: a cluster behind guards, and a stranger");
    text(
        "Four hosts on one network: network namespaces of this machine, removed at the end.

               h1.test  192.0.2.1  --+   On each of these three: an ejabberd and an epmd, which
               h2.test  192.0.2.2  --+   listen on loopback only, and a guard in front of them
               h3.test  192.0.2.3  --+   that lets these three hosts in, and nobody else.
                                     |
         stranger.test  192.0.2.4  --+   In nobody's list.

         ejabberd is Debian's, unchanged. Two lines of its ejabberdctl.cfg keep it behind the guard, on
         whatever port the kernel gives it:

             ERL_EPMD_ADDRESS=127.0.0.1
             INET_DIST_INTERFACE=127.0.0.1

         And this is the configuration of each guard, but for the place of its admin socket:",
    );
    tell::quote(&cluster::config(""));
}

fn summarize(results: &[(String, bool)], begun: Instant) -> usize {
    heading("Summary");
    for (promise, kept) in results {
        println!("  {}  {promise}", if *kept { "kept  " } else { "BROKEN" });
    }
    let broken = results.iter().filter(|(_, kept)| !kept).count();
    println!();
    match broken {
        0 => println!(
            "  All as promised, in {} seconds. To put a guard before your own nodes: `make run`.",
            begun.elapsed().as_secs()
        ),
        _ => println!("  {broken} of {} promises were BROKEN.", results.len()),
    }
    println!();
    broken
}

/// Tells of a Ctrl-C or a SIGTERM, from a thread of its own.
fn report_signals(ended: mpsc::Sender<End>) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a small runtime");
    thread::spawn(move || {
        runtime.block_on(async {
            let mut interrupt = signal(SignalKind::interrupt()).expect("SIGINT can be caught");
            let mut terminate = signal(SignalKind::terminate()).expect("SIGTERM can be caught");
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        });
        // The receiver is gone when all is over anyway.
        ended.send(End::Interrupted).ok();
    });
}
