//! What a link has carried, readable while it does.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Both directions of one link.
#[derive(Debug)]
pub struct Traffic {
    /// From downstream to upstream.
    pub up: Direction,
    /// From upstream to downstream.
    pub down: Direction,
}

/// One direction of one link. One task writes it, anybody may read it.
#[derive(Debug)]
pub struct Direction {
    bytes: AtomicU64,
    begun: Instant,
    /// When the last byte went, in milliseconds after `begun`.
    last: AtomicU64,
    /// Locked only when the sink ceases or begins to take bytes, and when somebody asks.
    blocked: Mutex<Blocked>,
}

/// For how long a sink has taken nothing.
#[derive(Debug, Default)]
struct Blocked {
    /// Until the last time that it began to.
    before: Duration,
    /// Since when it does again.
    since: Option<Instant>,
}

impl Default for Traffic {
    fn default() -> Self {
        Self { up: Direction::new(), down: Direction::new() }
    }
}

impl Traffic {
    /// How long no byte has gone either way.
    #[must_use]
    pub fn idle(&self, now: Instant) -> Duration {
        now.duration_since(self.up.last().max(self.down.last()))
    }
}

impl Direction {
    fn new() -> Self {
        Self {
            bytes: AtomicU64::new(0),
            begun: Instant::now(),
            last: AtomicU64::new(0),
            blocked: Mutex::default(),
        }
    }

    /// The bytes that were handed to the sink.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// When the last of them was; when the link began, if there was none.
    #[must_use]
    pub fn last(&self) -> Instant {
        self.begun + Duration::from_millis(self.last.load(Relaxed))
    }

    /// For how long there were bytes that the sink did not take.
    #[must_use]
    pub fn blocked(&self, now: Instant) -> Duration {
        let waits = self.waits();
        waits.before + waits.since.map_or(Duration::ZERO, |since| now.duration_since(since))
    }

    /// Counts bytes that were handed to the sink.
    pub fn add(&self, bytes: usize) {
        self.bytes.fetch_add(u64::try_from(bytes).unwrap_or(0), Relaxed);
        self.touch();
    }

    pub(super) fn touch(&self) {
        self.last.store(self.elapsed(), Relaxed);
    }

    /// Notes that the sink takes nothing until the value is dropped.
    pub(super) fn note_blocked(&self) -> impl Drop + '_ {
        self.waits().since = Some(Instant::now());
        Wait(self)
    }

    fn waits(&self) -> MutexGuard<'_, Blocked> {
        self.blocked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn elapsed(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// A sink takes nothing for as long as this lives.
struct Wait<'a>(&'a Direction);

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        let mut blocked = self.0.waits();
        if let Some(since) = blocked.since.take() {
            blocked.before += since.elapsed();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn time_that_the_sink_takes_nothing_counts_while_it_lasts_and_afterwards() {
        let traffic = Traffic::default();
        let blocked = traffic.up.note_blocked();
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(traffic.up.blocked(Instant::now()), Duration::from_secs(3));
        drop(blocked);
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(traffic.up.blocked(Instant::now()), Duration::from_secs(3));
        assert_eq!(traffic.down.blocked(Instant::now()), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_byte_either_way_ends_the_silence() {
        let traffic = Traffic::default();
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(traffic.idle(Instant::now()), Duration::from_secs(5));
        traffic.down.add(4);
        assert_eq!(traffic.idle(Instant::now()), Duration::ZERO);
        assert_eq!(traffic.down.bytes(), 4);
    }
}
