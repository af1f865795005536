//! Things with one name each, found by name at a cost that does not grow with their number, and
//! listed in the order in which they came.

use std::borrow::Borrow;
use std::collections::{BTreeMap, HashSet};
use std::hash::{Hash, Hasher};
use std::ops::Bound;
use std::sync::Arc;

use crate::proto::epmd::NodeName;

/// What has a name.
pub(super) trait Named {
    /// The name, which stays the same.
    fn name(&self) -> &NodeName;
}

/// Items with a name each. Each gets a number when it comes: later ones are higher, and none is
/// given twice.
///
/// Names come from strangers to this process, so they are hashed with std's keyed hasher: nobody can
/// choose names that all fall together.
#[derive(Debug)]
pub(super) struct Roll<T> {
    given: u64,
    by_name: HashSet<ByName<T>>,
    by_number: BTreeMap<u64, Arc<Numbered<T>>>,
}

/// One item, which both indexes share.
#[derive(Debug)]
struct Numbered<T> {
    number: u64,
    item: T,
}

/// One item, hashed and compared by the bytes of its name.
#[derive(Debug)]
struct ByName<T>(Arc<Numbered<T>>);

impl<T: Named> Roll<T> {
    pub(super) fn new() -> Self {
        Self { given: 0, by_name: HashSet::new(), by_number: BTreeMap::new() }
    }

    /// Adds an item at the end and says which number it has. One of the same name makes way for it.
    pub(super) fn push(&mut self, item: T) -> u64 {
        self.given += 1;
        let number = self.given;
        let shared = Arc::new(Numbered { number, item });
        if let Some(old) = self.by_name.replace(ByName(Arc::clone(&shared))) {
            self.by_number.remove(&old.0.number);
        }
        self.by_number.insert(number, shared);
        number
    }

    /// Takes an item out, if it is there.
    pub(super) fn remove(&mut self, number: u64) -> Option<T> {
        let shared = self.by_number.remove(&number)?;
        self.by_name.remove(shared.item.name().as_bytes());
        Arc::into_inner(shared).map(|numbered| numbered.item)
    }

    /// Takes the item of this name out, if there is one.
    pub(super) fn remove_named(&mut self, name: &[u8]) -> Option<T> {
        let number = self.by_name.get(name)?.0.number;
        self.remove(number)
    }

    /// Takes out the item that came first.
    pub(super) fn pop_first(&mut self) -> Option<T> {
        let (&number, _) = self.by_number.first_key_value()?;
        self.remove(number)
    }

    pub(super) fn find(&self, name: &[u8]) -> Option<(u64, &T)> {
        self.by_name.get(name).map(|ByName(shared)| (shared.number, &shared.item))
    }

    pub(super) fn get(&self, number: u64) -> Option<&T> {
        self.by_number.get(&number).map(|shared| &shared.item)
    }

    /// The items that came later than this number, whether or not its own item is still there; all
    /// of them for 0.
    pub(super) fn after(&self, number: u64) -> impl DoubleEndedIterator<Item = (u64, &T)> {
        let later = (Bound::Excluded(number), Bound::Unbounded);
        self.by_number.range(later).map(|(&number, shared)| (number, &shared.item))
    }

    /// All items, in the order in which they came.
    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = (u64, &T)> {
        self.by_number.iter().map(|(&number, shared)| (number, &shared.item))
    }

    pub(super) fn len(&self) -> usize {
        self.by_number.len()
    }
}

impl<T: Named> ByName<T> {
    fn bytes(&self) -> &[u8] {
        self.0.item.name().as_bytes()
    }
}

impl<T: Named> Borrow<[u8]> for ByName<T> {
    fn borrow(&self) -> &[u8] {
        self.bytes()
    }
}

// Equal and of one hash where the bytes are, as `Borrow` asks.
impl<T: Named> PartialEq for ByName<T> {
    fn eq(&self, other: &Self) -> bool {
        self.bytes() == other.bytes()
    }
}

impl<T: Named> Eq for ByName<T> {}

impl<T: Named> Hash for ByName<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.bytes().hash(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::epmd::AliveName;

    #[derive(Debug, PartialEq, Eq)]
    struct Item(NodeName, u8);

    impl Named for Item {
        fn name(&self) -> &NodeName {
            &self.0
        }
    }

    fn item(name: &str, mark: u8) -> Item {
        Item(AliveName::new(name.as_bytes()).unwrap().into(), mark)
    }

    fn marks(roll: &Roll<Item>) -> Vec<u8> {
        roll.iter().map(|(_, item)| item.1).collect()
    }

    #[test]
    fn what_is_taken_out_is_gone_from_both_indexes() {
        let mut roll = Roll::new();
        let a = roll.push(item("a", 1));
        roll.push(item("b", 2));
        roll.push(item("c", 3));
        assert_eq!(roll.remove(a), Some(item("a", 1)));
        assert_eq!(roll.remove(a), None);
        assert_eq!(roll.find(b"a"), None);
        assert_eq!(roll.remove_named(b"c"), Some(item("c", 3)));
        assert_eq!(roll.remove_named(b"c"), None);
        assert_eq!(marks(&roll), [2]);
        assert_eq!(roll.pop_first(), Some(item("b", 2)));
        assert_eq!(roll.pop_first(), None);
        assert!(roll.by_name.is_empty() && roll.by_number.is_empty());
    }

    #[test]
    fn one_of_the_same_name_makes_way_and_its_number_is_not_given_again() {
        let mut roll = Roll::new();
        let first = roll.push(item("a", 1));
        roll.push(item("b", 2));
        let second = roll.push(item("a", 3));
        assert!(second > first);
        assert_eq!(roll.find(b"a"), Some((second, &item("a", 3))));
        assert_eq!(roll.get(first), None);
        assert_eq!(marks(&roll), [2, 3]);
        assert_eq!(roll.by_name.len(), roll.by_number.len());
    }

    #[test]
    fn what_came_later_than_one_that_has_gone_is_still_known() {
        let mut roll = Roll::new();
        let a = roll.push(item("a", 1));
        roll.push(item("b", 2));
        roll.remove(a);
        assert_eq!(roll.after(a).map(|(_, item)| item.1).collect::<Vec<_>>(), [2]);
        assert_eq!(roll.after(0).count(), 1);
    }
}
