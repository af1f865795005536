//! What a run has tried, so that one sees that it tries it.

use std::collections::BTreeMap;
use std::fmt;

use super::compare::Difference;

/// So many differences that do not come back are passed over in any case, and one case in so many.
const UNREPEATED: u64 = 3;
const UNREPEATED_SHARE: u64 = 200;

/// Counts of a case, or of many.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) cases: u64,
    pub(crate) steps: u64,
    pub(crate) connections: u64,
    pub(crate) segments: u64,
    /// Both programs were ended by KILL and started anew.
    pub(crate) restarts: u64,
    /// Differences that no other run of the case did show.
    pub(crate) unrepeated: Vec<String>,
    pub(crate) asked: BTreeMap<&'static str, u64>,
    /// For each documented difference: how often it could be met, and how often the two did differ.
    differences: BTreeMap<Difference, [u64; 2]>,
}

/// Whether a documented difference did show where it could.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shown {
    Yes,
    No,
}

impl From<bool> for Shown {
    fn from(differs: bool) -> Self {
        if differs { Self::Yes } else { Self::No }
    }
}

impl Tally {
    pub(crate) fn met(&mut self, difference: Difference, shown: Shown) {
        let [could, did] = self.differences.entry(difference).or_default();
        *could += 1;
        *did += u64::from(shown == Shown::Yes);
    }

    pub(crate) fn asked(&mut self, label: &'static str) {
        *self.asked.entry(label).or_default() += 1;
    }

    /// Whether so many cases differed once and not again that it is no hiccup of the machine.
    pub(crate) fn is_doubtful(&self) -> bool {
        let unrepeated = self.unrepeated.len() as u64;
        unrepeated > UNREPEATED && unrepeated * UNREPEATED_SHARE > self.cases
    }

    /// How often a documented difference could be met.
    pub(crate) fn could_meet(&self, difference: Difference) -> u64 {
        self.differences.get(&difference).map_or(0, |[could, _]| *could)
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.cases += other.cases;
        self.steps += other.steps;
        self.connections += other.connections;
        self.segments += other.segments;
        self.restarts += other.restarts;
        self.unrepeated.extend(other.unrepeated);
        for (label, count) in other.asked {
            *self.asked.entry(label).or_default() += count;
        }
        for (difference, [could, did]) in other.differences {
            let sum = self.differences.entry(difference).or_default();
            sum[0] += could;
            sum[1] += did;
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} cases, {} steps, {} connections, {} segments, {} restarts after KILL",
            self.cases, self.steps, self.connections, self.segments, self.restarts
        )?;
        for (label, count) in &self.asked {
            writeln!(f, "  {count:8}  {label}")?;
        }
        writeln!(f, "documented differences: times that one could show, and times that one did")?;
        for difference in Difference::ALL {
            let [could, did] = self.differences.get(&difference).copied().unwrap_or_default();
            writeln!(f, "  {could:8} {did:8}  {}", difference.row())?;
        }
        for what in &self.unrepeated {
            writeln!(f, "seen once and not again: {what}")?;
        }
        Ok(())
    }
}

#[test]
fn a_few_differences_that_do_not_come_back_are_passed_over_and_many_are_not() {
    let tally =
        |cases, unrepeated| Tally { cases, unrepeated: vec![String::new(); unrepeated], ..Tally::default() };
    assert!(!tally(10, 3).is_doubtful() && tally(10, 4).is_doubtful());
    assert!(!tally(1000, 5).is_doubtful() && tally(1000, 6).is_doubtful());
}
