//! How many offences one source has committed lately, and the ban that came of them.

use std::time::Duration;

use ipnet::IpNet;

use super::{Ban, BanRules, Moment, Offence};

/// How many parts `within` has.
const PARTS: usize = 8;
/// An offence without a doubt, in the parts in which they are counted.
const WHOLE: u32 = 4;

/// The offences of the part that is running and of the eight before: those of `within`, and of at most an eighth of it
/// more. So a source takes the same room however many it commits.
#[derive(Debug, Default)]
struct Lately {
    /// The number of the running part, which is the first of the counts.
    newest: u64,
    counts: [u32; PARTS + 1],
}

/// The offences and the ban of a source.
#[derive(Debug, Default)]
pub(super) struct Sentence {
    lately: Lately,
    /// Also where it has ended: the next one lasts longer.
    last: Option<Last>,
}

#[derive(Debug, Clone, Copy)]
struct Last {
    since: Moment,
    until: Moment,
    times: u32,
    offence: Offence,
}

impl Sentence {
    /// Counts an offence. Whether it leads to a ban, as `after` of them do.
    pub(super) fn offend(&mut self, (what, after): (Offence, u32), rules: &BanRules, now: Moment) -> bool {
        if after == 0 || self.lately.count(weight(what), rules.within, now) < after.saturating_mul(WHOLE) {
            return false;
        }
        let times = match self.last {
            Some(last) if now.since(last.until) <= rules.most => last.times.saturating_add(1),
            Some(_) | None => 1,
        };
        self.lately = Lately::default();
        self.last = Some(Last { since: now, until: now.after(length(times, rules)), times, offence: what });
        true
    }

    /// The last ban, which may have ended.
    pub(super) fn ban(&self, net: IpNet) -> Option<Ban> {
        let Last { since, until, times, offence } = self.last?;
        Some(Ban { net, since, until, times, offence })
    }

    /// Puts a ban in the place of the last one, unless that ends later.
    pub(super) fn restore(&mut self, ban: &Ban) {
        let Ban { since, until, times, offence, .. } = *ban;
        if self.last.is_none_or(|last| last.until < until) {
            self.last = Some(Last { since, until, times, offence });
        }
    }

    /// Counts anew: how long an offence counts has changed.
    pub(super) fn recount(&mut self) {
        self.lately = Lately::default();
    }
}

impl Lately {
    /// Counts so much more: how much there is.
    fn count(&mut self, more: u32, within: Duration, now: Moment) -> u32 {
        let part = u64::try_from(within.as_millis().div_ceil(PARTS as u128)).unwrap_or(u64::MAX).max(1);
        let running = now.0 / part;
        let passed = usize::try_from(running.saturating_sub(self.newest)).unwrap_or(usize::MAX);
        let passed = passed.min(self.counts.len());
        self.counts.rotate_right(passed);
        self.counts.iter_mut().take(passed).for_each(|count| *count = 0);
        self.newest = self.newest.max(running);
        if let Some(count) = self.counts.first_mut() {
            *count = count.saturating_add(more);
        }
        self.counts.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }
}

/// What an offence counts for; `after` is of those that count as a whole.
fn weight(what: Offence) -> u32 {
    match what {
        Offence::WrongCookie | Offence::Malformed | Offence::TooManyNames => WHOLE,
        Offence::Unsettled | Offence::Stalled => 1,
    }
}

/// How long a ban of this number lasts.
fn length(times: u32, rules: &BanRules) -> Duration {
    let factor = 4u32.checked_pow(times.saturating_sub(1)).unwrap_or(u32::MAX);
    rules.first.saturating_mul(factor).min(rules.most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_ban_lasts_four_times_as_long_as_the_one_before_up_to_the_longest() {
        let rules = BanRules::default();
        let minutes = |times| length(times, &rules).as_secs() / 60;
        assert_eq!([1, 2, 3, 4, 5, 6, 7, u32::MAX].map(minutes), [1, 4, 16, 64, 256, 1024, 1440, 1440]);
    }

    #[test]
    fn all_offences_of_the_time_count_and_none_that_is_an_eighth_older() {
        let within = Duration::from_secs(80);
        for begin in [0, 1, 9_999, 10_000, 123_456] {
            let mut lately = Lately::default();
            assert_eq!(lately.count(1, within, Moment(begin)), 1);
            assert_eq!(lately.count(1, within, Moment(begin + 79_999)), 2);
            let mut lately = Lately::default();
            assert_eq!(lately.count(1, within, Moment(begin)), 1);
            assert_eq!(lately.count(1, within, Moment(begin + 90_000)), 1);
        }
    }
}
