//! Order without code for each type: the standard library's sort is compiled anew for every kind of element and of comparison, 4 KB each
//! time. Here places are sorted, by one copy of it, and the elements then go to their places.
//!
//! For lists that are short or sorted seldom: each comparison is a call through a pointer.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

/// Sorts a list; elements that are equal keep their order.
pub fn sort<T: Ord>(list: &mut [T]) {
    sort_by(list, T::cmp);
}

/// Sorts by what `key` says of an element; those it says the same of keep their order.
pub fn sort_by_key<T, K: Ord>(list: &mut [T], key: impl Fn(&T) -> K) {
    sort_by(list, |a, b| key(a).cmp(&key(b)));
}

/// Sorts by a comparison; elements that are equal keep their order.
pub fn sort_by<T>(list: &mut [T], compare: impl Fn(&T, &T) -> Ordering) {
    let swaps = swaps(list.len(), &|a, b| match (list.get(a), list.get(b)) {
        (Some(a), Some(b)) => compare(a, b),
        _ => Ordering::Equal,
    });
    for (a, b) in swaps {
        list.swap(a, b);
    }
}

/// Collects a map. Of equal keys the last one counts.
///
/// `collect` would sort first.
pub fn map<K: Ord, V>(entries: impl IntoIterator<Item = (K, V)>) -> BTreeMap<K, V> {
    let mut map = BTreeMap::new();
    map.extend(entries);
    map
}

/// Collects a set.
///
/// `collect` would sort first.
pub fn set<T: Ord>(elements: impl IntoIterator<Item = T>) -> BTreeSet<T> {
    let mut set = BTreeSet::new();
    set.extend(elements);
    set
}

/// What to swap, one pair after the other, to bring so many elements into order. `compare` is asked about places before any swap.
fn swaps(count: usize, compare: &dyn Fn(usize, usize) -> Ordering) -> Vec<(usize, usize)> {
    let mut order: Vec<usize> = (0..count).collect();
    order.sort_by(|a, b| compare(*a, *b));
    let mut swaps = Vec::new();
    for start in 0..count {
        // Follows a cycle of places, each of which gets its element from the next, until it is closed.
        let mut place = start;
        while let Some(from) = order.get_mut(place).map(|from| std::mem::replace(from, place))
            && from != start
        {
            swaps.push((place, from));
            place = from;
        }
    }
    swaps
}

#[cfg(test)]
mod tests {
    use std::cmp::Reverse;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn elements_of_one_key_keep_their_order() {
        let mut list = [(2, 'a'), (1, 'b'), (2, 'c'), (1, 'd'), (0, 'e')];
        sort_by_key(&mut list, |one| one.0);
        assert_eq!(list, [(0, 'e'), (1, 'b'), (1, 'd'), (2, 'a'), (2, 'c')]);
        sort_by_key(&mut list, |one| Reverse(one.0));
        assert_eq!(list, [(2, 'a'), (2, 'c'), (1, 'b'), (1, 'd'), (0, 'e')]);
    }

    #[test]
    fn of_equal_keys_the_last_one_counts() {
        assert_eq!(
            map([(1, 'a'), (0, 'b'), (1, 'c')]),
            BTreeMap::from([(0, 'b'), (1, 'c')])
        );
        assert_eq!(set([1, 0, 1]), BTreeSet::from([0, 1]));
    }

    proptest! {
        #[test]
        fn as_the_standard_library(list in proptest::collection::vec((0..6u8, any::<u8>()), 0..60)) {
            let mut expected = list.clone();
            expected.sort_by_key(|one| one.0);
            let mut ours = list.clone();
            sort_by_key(&mut ours, |one| one.0);
            prop_assert_eq!(ours, expected);

            let mut expected = list.clone();
            expected.sort();
            let mut ours = list;
            sort(&mut ours);
            prop_assert_eq!(ours, expected);
        }
    }
}
