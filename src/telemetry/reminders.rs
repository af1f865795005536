//! What goes on for long is told once a minute, not each time that it is noticed.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How often the same thing is told.
const EVERY: Duration = Duration::from_secs(60);
/// Things that are told apart; with more, all are forgotten and told anew.
const THINGS: usize = 1024;

/// What was told lately.
#[derive(Debug, Default)]
pub struct Reminders {
    told: Mutex<HashMap<(&'static str, u16), Instant>>,
}

impl Reminders {
    /// Whether `event`, about the thing of this number, is worth a line now.
    pub fn is_due(&self, event: &'static str, thing: u16, now: Instant) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() >= THINGS {
            told.clear();
        }
        let last = told.get(&(event, thing));
        let is_due = last.is_none_or(|last| now.duration_since(*last) >= EVERY);
        if is_due {
            told.insert((event, thing), now);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thing_is_told_once_a_minute_for_as_long_as_it_goes_on() {
        let reminders = Reminders::default();
        let start = Instant::now();
        for minute in 0..3 {
            let now = start + EVERY * minute;
            assert!(reminders.is_due("port_not_reachable", 9100, now));
            assert!(!reminders.is_due("port_not_reachable", 9100, now + EVERY / 2));
        }
        assert!(reminders.is_due("port_not_reachable", 9101, start));
        assert!(reminders.is_due("sockets_unreadable", 9100, start));
    }
}
