//! A set of TCP ports, written as numbers and ranges.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

/// TCP ports: sorted ranges that neither overlap nor touch; port 0 is never one of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PortSet(Vec<RangeInclusive<u16>>);

/// Why a text is neither a port nor a range of ports.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PortSetFault {
    /// Port 0, which stands for "any port" when listening.
    #[error("port 0 means any port: ports go from 1 to 65535")]
    Zero,
    /// The range ends before it begins.
    #[error("{first}-{last} runs backwards")]
    Reversed {
        /// What stands before the hyphen.
        first: u16,
        /// What stands behind it.
        last: u16,
    },
    /// Not a number, or one above 65535.
    #[error("{0:?} is no port: ports go from 1 to 65535")]
    NotANumber(String),
}

impl PortSet {
    /// Takes the ports of all `ranges`. A range that runs backwards is empty, and port 0 is left out.
    #[must_use]
    pub fn from_ranges(ranges: impl IntoIterator<Item = RangeInclusive<u16>>) -> Self {
        let mut bounds: Vec<(u16, u16)> = ranges
            .into_iter()
            .map(|range| ((*range.start()).max(1), *range.end()))
            .filter(|(first, last)| first <= last)
            .collect();
        bounds.sort_unstable();
        let mut merged: Vec<(u16, u16)> = Vec::new();
        for (first, last) in bounds {
            match merged.last_mut() {
                Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
                Some(_) | None => merged.push((first, last)),
            }
        }
        Self(merged.into_iter().map(|(first, last)| first..=last).collect())
    }

    /// Whether `port` is one of them.
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        let after = self.0.partition_point(|range| *range.start() <= port);
        after.checked_sub(1).and_then(|at| self.0.get(at)).is_some_and(|range| range.contains(&port))
    }

    /// The first port that is one of `others` too.
    #[must_use]
    pub fn first_common(&self, others: &Self) -> Option<u16> {
        let within = |range: &RangeInclusive<u16>, port: u16| range.contains(&port).then_some(port);
        self.0.iter().find_map(|range| {
            // Where two ranges overlap, they do so at the beginning of one of them.
            let inner = others.0.iter().find_map(|other| within(range, *other.start()));
            if others.contains(*range.start()) { Some(*range.start()) } else { inner }
        })
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// These ports but for those of `others`.
    #[must_use]
    pub fn without(&self, others: &Self) -> Self {
        let mut left = Vec::new();
        for range in &self.0 {
            // Where what is left of the range begins, if anything is.
            let mut rest = Some(*range.start());
            let from = others.0.partition_point(|other| other.end() < range.start());
            for other in others.0.iter().skip(from).take_while(|other| other.start() <= range.end()) {
                left.extend(
                    rest.filter(|first| first < other.start()).map(|first| first..=other.start() - 1),
                );
                rest = other.end().checked_add(1).filter(|next| next <= range.end());
            }
            left.extend(rest.map(|first| first..=*range.end()));
        }
        Self(left)
    }

    /// The ranges in order.
    pub fn iter_ranges(&self) -> impl Iterator<Item = RangeInclusive<u16>> + '_ {
        self.0.iter().cloned()
    }
}

/// One element: "9100" or "9100-9105".
impl FromStr for PortSet {
    type Err = PortSetFault;

    fn from_str(text: &str) -> Result<Self, PortSetFault> {
        let number = |part: &str| {
            // `u16::from_str` takes a sign.
            let digits = part.trim();
            let plain = digits.bytes().all(|b| b.is_ascii_digit());
            let port: Option<u16> = if plain { digits.parse().ok() } else { None };
            match port {
                Some(0) => Err(PortSetFault::Zero),
                Some(port) => Ok(port),
                None => Err(PortSetFault::NotANumber(part.chars().take(40).collect())),
            }
        };
        let Some((first, last)) = text.split_once('-').filter(|(first, _)| !first.trim().is_empty()) else {
            let port = number(text)?;
            return Ok(Self::from_ranges([port..=port]));
        };
        let (first, last) = (number(first)?, number(last)?);
        if last < first {
            return Err(PortSetFault::Reversed { first, last });
        }
        Ok(Self::from_ranges([first..=last]))
    }
}

impl fmt::Display for PortSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, range) in self.0.iter().enumerate() {
            if at > 0 {
                f.write_str(", ")?;
            }
            if range.start() == range.end() {
                write!(f, "{}", range.start())?;
            } else {
                write!(f, "{}-{}", range.start(), range.end())?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_element_is_a_port_or_a_range() {
        for (text, shown) in [("9100", "9100"), ("9100-9105", "9100-9105"), (" 1 - 65535 ", "1-65535")] {
            assert_eq!(text.parse::<PortSet>().unwrap().to_string(), shown);
        }
    }

    #[test]
    fn a_mistaken_element_says_what_is_wrong_with_it() {
        let fault = |text: &str| text.parse::<PortSet>().unwrap_err();
        assert_eq!(fault("0"), PortSetFault::Zero);
        assert_eq!(fault("0-9"), PortSetFault::Zero);
        assert_eq!(fault("9105-9100"), PortSetFault::Reversed { first: 9105, last: 9100 });
        assert_eq!(fault("9105-9100").to_string(), "9105-9100 runs backwards");
        for text in ["", "-", "-5", "+5", "x", "65536", "9100-", "9100-9105-9110", "9100 9101", "٣"] {
            assert!(matches!(fault(text), PortSetFault::NotANumber(_)), "{text}");
        }
    }

    #[test]
    fn ranges_that_overlap_or_touch_are_merged() {
        let set = PortSet::from_ranges([9200..=9200, 9103..=9105, 9100..=9102, 9101..=9104]);
        assert_eq!(set.to_string(), "9100-9105, 9200");
        assert_eq!(set.iter_ranges().collect::<Vec<_>>(), [9100..=9105, 9200..=9200]);
        assert_eq!(PortSet::default().to_string(), "");
        assert!(PortSet::from_ranges([RangeInclusive::new(5, 4), 0..=0]).is_empty());
    }

    #[test]
    fn ports_are_taken_out_at_the_edges_and_in_the_middle() {
        let set = |texts: &[&str]| {
            PortSet::from_ranges(
                texts
                    .iter()
                    .flat_map(|text| text.parse::<PortSet>().unwrap().iter_ranges().collect::<Vec<_>>()),
            )
        };
        for (from, taken, left) in [
            (&["1024-65535"][..], &["4369"][..], "1024-4368, 4370-65535"),
            (&["1-10"], &["1", "5-6", "10"], "2-4, 7-9"),
            (&["1-10", "20-30"], &["5-25"], "1-4, 26-30"),
            (&["1-65535"], &["65535"], "1-65534"),
            (&["1-65535"], &["1-65535"], ""),
            (&["7"], &[], "7"),
            (&[], &["7"], ""),
        ] {
            assert_eq!(set(from).without(&set(taken)).to_string(), left, "{from:?} without {taken:?}");
        }
    }

    proptest! {
        #[test]
        fn a_set_without_another_holds_what_only_it_holds(
            some in prop::collection::vec((0u16..40, 0u16..40), 0..6),
            others in prop::collection::vec((0u16..40, 0u16..40), 0..6),
        ) {
            let set = |ranges: Vec<(u16, u16)>| PortSet::from_ranges(ranges.into_iter().map(|(a, b)| a..=b));
            let (some, others) = (set(some), set(others));
            let left = some.without(&others);
            for port in 0..=45 {
                prop_assert_eq!(left.contains(port), some.contains(port) && !others.contains(port), "{}", port);
            }
            let common = (0..=45).find(|port| some.contains(*port) && others.contains(*port));
            prop_assert_eq!(some.first_common(&others), common);
            prop_assert_eq!(&PortSet::from_ranges(left.iter_ranges()), &left, "sorted and merged");
        }

        #[test]
        fn a_set_holds_what_its_ranges_hold(
            ranges in prop::collection::vec((0u16..60, 0u16..60), 0..8),
            high in prop::collection::vec((65500u16..=65535, 65500u16..=65535), 0..4),
        ) {
            let ranges: Vec<_> = ranges.into_iter().chain(high).map(|(a, b)| a..=b).collect();
            let naive: BTreeSet<u16> = ranges.iter().cloned().flatten().filter(|port| *port != 0).collect();
            let set = PortSet::from_ranges(ranges);
            for port in (0..=70).chain(65490..=65535) {
                prop_assert_eq!(set.contains(port), naive.contains(&port), "{}", port);
            }
            prop_assert_eq!(set.is_empty(), naive.is_empty());
            let ranges: Vec<_> = set.iter_ranges().collect();
            for pair in ranges.windows(2) {
                prop_assert!(u32::from(*pair[0].end()) + 1 < u32::from(*pair[1].start()), "merged and sorted");
            }
            let again = PortSet::from_ranges(
                set.to_string().split(", ").filter(|s| !s.is_empty())
                    .flat_map(|element| element.parse::<PortSet>().unwrap().iter_ranges().collect::<Vec<_>>()),
            );
            prop_assert_eq!(again, set);
        }
    }
}
