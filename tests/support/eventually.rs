//! Waiting for something to become true: the one place where a test may sleep.

use std::fmt::Display;
use std::thread;
use std::time::{Duration, Instant};

/// The pause between two looks: short beside everything that is awaited (a VM takes 150 ms to start), and
/// long enough to leave the processors to those who are awaited.
const PAUSE: Duration = Duration::from_millis(20);

/// What one look brought: the thing itself, or what was there instead.
///
/// Implemented for `Option`, where nothing is known about the failure, and for `Result`, whose error is what
/// was seen.
pub trait Look {
    /// What is awaited.
    type Thing;

    /// The thing, or what to tell about its absence.
    fn outcome(self) -> Result<Self::Thing, String>;
}

impl<T> Look for Option<T> {
    type Thing = T;

    fn outcome(self) -> Result<T, String> {
        self.ok_or_else(|| "nothing".to_owned())
    }
}

impl Look for bool {
    type Thing = ();

    fn outcome(self) -> Result<(), String> {
        if self { Ok(()) } else { Err("not yet".to_owned()) }
    }
}

impl<T, E: Display> Look for Result<T, E> {
    type Thing = T;

    fn outcome(self) -> Result<T, String> {
        self.map_err(|seen| seen.to_string())
    }
}

/// Looks until the thing is there; panics after `deadline` and names `what` was awaited and what was last
/// seen.
///
/// The closure gives an `Option`, or a `Result` whose error says what was seen.
///
/// # Panics
///
/// When the deadline passes.
#[track_caller]
pub fn eventually<L: Look>(what: &str, deadline: Duration, look: impl FnMut() -> L) -> L::Thing {
    match within(deadline, look) {
        Ok(thing) => thing,
        Err(seen) => panic!("{what}: not within {deadline:?}; last seen: {seen}"),
    }
}

/// Like [`eventually`], for those who must not panic: the error is what was last seen.
///
/// # Errors
///
/// When the deadline passes.
pub fn within<L: Look>(deadline: Duration, mut look: impl FnMut() -> L) -> Result<L::Thing, String> {
    let end = Instant::now() + deadline;
    loop {
        // The clock is read before the look, so that the last look is one after the deadline: a machine that
        // stalls for longer than the deadline does not fail a test by itself.
        let late = Instant::now() >= end;
        match look().outcome() {
            Ok(thing) => return Ok(thing),
            Err(seen) if late => return Err(seen),
            Err(_) => thread::sleep(PAUSE),
        }
    }
}
