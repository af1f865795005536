//! The names that one source has claimed lately and that never came to a link.

use std::time::Duration;

use super::{Held, Moment};

/// How many there may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Budget {
    /// At one time.
    pub(super) most: u32,
    /// For so long after its last claim a name counts.
    pub(super) within: Duration,
}

/// What the names hash to, in that order, and when each was last claimed.
#[derive(Debug, Default)]
pub(super) struct Names {
    known: Vec<(u64, Moment)>,
    /// Before this moment none of them is too old to count: who claims one name too many again and again does not make
    /// us look through all of them each time.
    all_count_until: Moment,
}

impl Names {
    /// Makes room for one more name, unless it is there.
    pub(super) fn make_room(&mut self, name: u64, budget: Budget, now: Moment) -> Result<(), Held> {
        if let Ok(at) = self.place(name)
            && let Some((_, claimed)) = self.known.get(at)
        {
            if now.since(*claimed) < budget.within {
                return Ok(());
            }
            self.known.remove(at);
        }
        let most = usize::try_from(budget.most).unwrap_or(usize::MAX);
        if self.known.len() >= most {
            self.forget_old(budget.within, now);
        }
        if self.known.len() < most { Ok(()) } else { Err(Held::TooManyNames) }
    }

    /// A claim of the name.
    pub(super) fn note(&mut self, name: u64, now: Moment) {
        match self.place(name) {
            Ok(at) => {
                if let Some((_, claimed)) = self.known.get_mut(at) {
                    *claimed = now;
                }
            }
            Err(at) => self.known.insert(at, (name, now)),
        }
    }

    /// Counts the name no more.
    pub(super) fn forget(&mut self, name: u64) {
        if let Ok(at) = self.place(name) {
            self.known.remove(at);
        }
    }

    /// Looks anew which of them are too old: how long they count has changed.
    pub(super) fn recount(&mut self) {
        self.all_count_until = Moment::default();
    }

    fn forget_old(&mut self, within: Duration, now: Moment) {
        if now < self.all_count_until {
            return;
        }
        self.known.retain(|(_, claimed)| now.since(*claimed) < within);
        let oldest = self.known.iter().map(|(_, claimed)| *claimed).min();
        self.all_count_until = oldest.unwrap_or_default().after(within);
    }

    fn place(&self, name: u64) -> Result<usize, usize> {
        self.known.binary_search_by_key(&name, |(known, _)| *known)
    }
}
