//! How long the next try of a name waits, for one address.

use std::time::Duration;

use super::{BanRules, Held, Moment};

/// The names of which wrong proofs were given, in the order of what they hash to.
#[derive(Debug, Default)]
pub(super) struct Pace(Vec<Slow>);

#[derive(Debug, Clone, Copy)]
struct Slow {
    name: u64,
    wrong: u32,
    last: Moment,
    /// The turn of the next try.
    turn: Moment,
}

impl Pace {
    /// How long a try would wait now.
    ///
    /// # Errors
    /// Longer than any may.
    pub(super) fn wait(&self, name: u64, rules: &BanRules, now: Moment) -> Result<Duration, Held> {
        let slow = self.place(name).ok().and_then(|at| self.0.get(at));
        let wait =
            slow.filter(|slow| slow.counts(rules, now)).map_or(Duration::ZERO, |slow| slow.turn.since(now));
        if wait > rules.slow_most { Err(Held::Slowed) } else { Ok(wait) }
    }

    /// Lets a try have its turn: how long it waits for it. The next one has the turn after it.
    pub(super) fn take_turn(&mut self, name: u64, rules: &BanRules, now: Moment) -> Duration {
        let slow = self.place(name).ok().and_then(|at| self.0.get_mut(at));
        let Some(slow) = slow.filter(|slow| slow.counts(rules, now)) else { return Duration::ZERO };
        let mine = slow.turn.max(now);
        slow.turn = mine.after(cost(slow.wrong, rules));
        mine.since(now)
    }

    /// A wrong proof: how long the next try waits.
    pub(super) fn slow_down(&mut self, name: u64, rules: &BanRules, now: Moment) -> Duration {
        let at = match self.place(name) {
            Ok(at) => at,
            Err(_) => self.insert(name, rules, now),
        };
        let Some(slow) = self.0.get_mut(at) else { return Duration::ZERO };
        if !slow.counts(rules, now) {
            *slow = Slow::new(name);
        }
        slow.wrong = slow.wrong.saturating_add(1);
        slow.last = now;
        slow.turn = slow.turn.max(now.after(cost(slow.wrong, rules)));
        slow.turn.since(now)
    }

    /// Waits no more for the name.
    pub(super) fn forget(&mut self, name: u64) {
        if let Ok(at) = self.place(name) {
            self.0.remove(at);
        }
    }

    /// No more are kept than names may be claimed; the one that was wrong longest ago goes.
    fn insert(&mut self, name: u64, rules: &BanRules, now: Moment) -> usize {
        let most = usize::try_from(rules.names).unwrap_or(usize::MAX).max(1);
        if self.0.len() >= most {
            self.0.retain(|slow| slow.counts(rules, now));
        }
        if self.0.len() >= most
            && let Some((oldest, _)) = self.0.iter().enumerate().min_by_key(|(_, slow)| slow.last)
        {
            self.0.remove(oldest);
        }
        let at = self.place(name).unwrap_or_else(|at| at);
        self.0.insert(at, Slow::new(name));
        at
    }

    fn place(&self, name: u64) -> Result<usize, usize> {
        self.0.binary_search_by_key(&name, |slow| slow.name)
    }
}

impl Slow {
    fn new(name: u64) -> Self {
        Self { name, wrong: 0, last: Moment::default(), turn: Moment::default() }
    }

    fn counts(&self, rules: &BanRules, now: Moment) -> bool {
        now.since(self.last) < rules.within
    }
}

/// How far apart tries are after so many wrong ones.
fn cost(wrong: u32, rules: &BanRules) -> Duration {
    let Some(doublings) = wrong.checked_sub(rules.slow_after).and_then(|beyond| beyond.checked_sub(1)) else {
        return Duration::ZERO;
    };
    let times = 1u32.checked_shl(doublings).unwrap_or(u32::MAX);
    rules.slow_first.saturating_mul(times).min(rules.slow_most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_doubles_from_the_first_to_the_longest() {
        let rules = BanRules::default();
        let of = |wrong| cost(wrong, &rules).as_millis();
        assert_eq!(
            [0, 1, 3, 4, 5, 6, 7, 8, 40, u32::MAX].map(of),
            [0, 0, 0, 500, 1000, 2000, 4000, 5000, 5000, 5000]
        );
        let none = BanRules { slow_first: Duration::ZERO, ..rules };
        assert_eq!(cost(40, &none), Duration::ZERO);
    }
}
