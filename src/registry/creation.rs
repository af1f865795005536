//! The creation of a registration: the number that tells the lives of one name apart. A node puts
//! it into every pid (`net_kernel:set_node`), so a name must not have the same one twice.

/// The lowest creation that is given, as by epmd: 1 to 3 are those of narrow answers.
const FIRST: u64 = 4;
/// How many creations there are, from [`FIRST`] to the end of `u32`.
const CREATIONS: u64 = (1 << 32) - FIRST;

/// A creation before it is cut to 32 bits. It only grows, so that two of them can be compared also
/// where the creations have begun again at the lowest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Count(u64);

impl Count {
    /// The count of a creation that is not to be given any more, or 0.
    pub(super) fn of(creation: u32) -> Self {
        Self(creation.into())
    }

    /// Where a name begins that has none to follow: one more than the time, as epmd does. A clock that
    /// does not fit is taken for the last second that does.
    pub(super) fn at(unix_seconds: u64) -> Self {
        Self(unix_seconds.saturating_add(1).clamp(FIRST, u32::MAX.into()))
    }

    /// The one after it.
    #[must_use]
    pub(super) fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// What stands on the wire: never 0 to 3, and the lowest again after `u32::MAX`.
    pub(super) fn creation(self) -> u32 {
        let wrapped = FIRST + self.0.saturating_sub(FIRST) % CREATIONS;
        // The remainder leaves it below 2^32.
        u32::try_from(wrapped).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_begins_one_after_the_time_and_never_below_four() {
        for (now, creation) in [(0, 4), (2, 4), (3, 4), (4, 5), (1_795_408_973, 1_795_408_974)] {
            assert_eq!(Count::at(now).creation(), creation, "at {now}");
        }
    }

    #[test]
    fn a_clock_that_does_not_fit_is_the_last_second_that_does() {
        for now in [u64::from(u32::MAX) - 1, u32::MAX.into(), u64::from(u32::MAX) + 1, u64::MAX] {
            assert_eq!(Count::at(now).creation(), u32::MAX, "at {now}");
        }
    }

    #[test]
    fn after_the_last_creation_comes_the_lowest_and_it_counts_as_later() {
        let last = Count::of(u32::MAX);
        assert_eq!(last.next().creation(), 4);
        assert_eq!(last.next().next().creation(), 5);
        assert!(last.next() > last);
        assert!(last.next() > Count::at(u64::MAX));
    }
}
