//! How often a refusal is worth a line: the first of a source and reason in a minute, then a count.
//! An IPv6 source is its /64.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How long the same refusal stays quiet after a line.
const QUIET: Duration = Duration::from_secs(60);
/// Sources and reasons that are told apart. With more, all further sources share one entry a reason,
/// so that a scan from many addresses costs neither memory nor disk.
const SOURCES: usize = 4096;

/// What was said lately.
#[derive(Debug, Default)]
pub struct RefusalLog {
    seen: Mutex<HashMap<Key, Seen>>,
}

/// `None`: one of too many sources.
type Key = (Option<IpAddr>, &'static str);

#[derive(Debug)]
struct Seen {
    shown: Instant,
    quiet: u64,
}

/// Refusals that were not shown one by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Again {
    /// The source, for IPv6 its /64; `None` where there were too many to tell apart.
    pub source: Option<IpAddr>,
    /// The reason.
    pub reason: &'static str,
    /// How many.
    pub count: u64,
}

impl RefusalLog {
    /// Notes a refusal. `true`: it is the first for a minute and deserves a line.
    pub fn note(&self, source: IpAddr, reason: &'static str, now: Instant) -> bool {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let exact = (Some(by_host(source)), reason);
        let key = if seen.len() < SOURCES || seen.contains_key(&exact) { exact } else { (None, reason) };
        match seen.get_mut(&key) {
            Some(entry) if now.duration_since(entry.shown) < QUIET => {
                entry.quiet += 1;
                false
            }
            Some(_) | None => {
                // What was quiet until now is told by `sweep`, which runs more often than that.
                let quiet = seen.get(&key).map_or(0, |entry| entry.quiet);
                seen.insert(key, Seen { shown: now, quiet });
                true
            }
        }
    }

    /// Sources and reasons that are told apart now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether nothing was refused lately.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets what has been quiet for a minute, and tells what else was refused in that minute.
    pub fn sweep(&self, now: Instant) -> Vec<Again> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let mut again = Vec::new();
        seen.retain(|&(source, reason), entry| {
            if now.duration_since(entry.shown) < QUIET {
                return true;
            }
            let count = std::mem::take(&mut entry.quiet);
            if count > 0 {
                again.push(Again { source, reason, count });
                // The next refusal of it stays quiet for another minute: this line was about it.
                entry.shown = now;
            }
            count > 0
        });
        again
    }
}

/// One host commonly has a whole /64, and would otherwise be as many sources as it likes.
fn by_host(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(last: u32) -> IpAddr {
        std::net::Ipv4Addr::from(0xc000_0200 + last).into()
    }

    #[test]
    fn the_first_in_a_minute_is_shown_and_the_rest_is_counted() {
        let log = RefusalLog::default();
        let start = Instant::now();
        assert!(log.note(ip(1), "not_allowed", start));
        for _ in 0..5 {
            assert!(!log.note(ip(1), "not_allowed", start));
        }
        assert!(log.note(ip(1), "denied", start));
        assert!(log.note(ip(2), "not_allowed", start));
        assert_eq!(log.sweep(start + QUIET / 2), []);
        let again = Again { source: Some(ip(1)), reason: "not_allowed", count: 5 };
        assert_eq!(log.sweep(start + QUIET), [again]);
        assert!(!log.note(ip(1), "not_allowed", start + QUIET));
        assert!(log.note(ip(2), "not_allowed", start + QUIET));
    }

    #[test]
    fn a_slash_64_is_one_source() {
        let log = RefusalLog::default();
        let now = Instant::now();
        assert!(log.note("2001:db8::1".parse().unwrap(), "not_allowed", now));
        assert!(!log.note("2001:db8::ffff".parse().unwrap(), "not_allowed", now));
        assert!(log.note("2001:db8:0:1::1".parse().unwrap(), "not_allowed", now));
    }

    #[test]
    fn its_size_is_bounded_and_no_refusal_is_lost() {
        let log = RefusalLog::default();
        let start = Instant::now();
        for last in 0..10_000 {
            log.note(ip(last), "not_allowed", start);
        }
        assert_eq!(log.seen.lock().unwrap().len(), SOURCES + 1);
        let again = log.sweep(start + QUIET);
        let count = 10_000 - u64::try_from(SOURCES).unwrap() - 1;
        assert_eq!(again, [Again { source: None, reason: "not_allowed", count }]);
        assert!(log.sweep(start + QUIET * 2).is_empty());
        assert!(log.seen.lock().unwrap().is_empty());
    }
}
