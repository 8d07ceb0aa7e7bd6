//! Free places in the table of slots.

use std::collections::BTreeMap;

use truename_common::layout::{SLOTS_MAX, Slots};

/// The gaps between the ranges in use: first position and length.
#[derive(Debug)]
pub struct Space(BTreeMap<u32, u32>);

impl Space {
    /// What these ranges leave free.
    pub fn without<'a>(used: impl Iterator<Item = &'a Slots>) -> Self {
        let mut used: Vec<_> = used.filter(|slots| slots.count > 0).collect();
        used.sort();
        let mut gaps = BTreeMap::new();
        let mut from = 0;
        for slots in used {
            if slots.first > from {
                gaps.insert(from, slots.first - from);
            }
            from = from.max(slots.first.saturating_add(slots.count));
        }
        if from < SLOTS_MAX {
            gaps.insert(from, SLOTS_MAX - from);
        }
        Self(gaps)
    }

    /// A free range. Single slots are taken from the bottom and others from the top, so that they do
    /// not cut up each other's space.
    pub fn take(&mut self, count: u32) -> Option<Slots> {
        let fits = |(_, length): &(&u32, &u32)| **length >= count;
        let (start, length) = if count == 1 {
            self.0.iter().find(fits)
        } else {
            self.0.iter().rev().find(fits)
        }
        .map(|(start, length)| (*start, *length))?;
        self.0.remove(&start);
        let rest = length - count;
        let (first, rest_at) = if count == 1 {
            (start, start + count)
        } else {
            (start + rest, start)
        };
        if rest > 0 {
            self.0.insert(rest_at, rest);
        }
        Some(Slots { first, count })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_what_is_free_and_no_more() {
        let used = [
            Slots { first: 0, count: 1 },
            Slots { first: 2, count: 3 },
            Slots { first: 3, count: 1 },
        ];
        let mut space = Space::without(used.iter());
        let first = |slots: Option<Slots>| slots.map(|slots| slots.first);
        assert_eq!(first(space.take(1)), Some(1));
        assert_eq!(first(space.take(1)), Some(5));
        assert_eq!(first(space.take(1021)), Some(SLOTS_MAX - 1021));
        assert_eq!(first(space.take(1021)), Some(SLOTS_MAX - 2042));
        let taken = std::iter::from_fn(|| space.take(1021)).count();
        assert_eq!(taken as u32, (SLOTS_MAX - 6) / 1021 - 2);
        let single = std::iter::from_fn(|| space.take(1)).count();
        assert_eq!(single as u32, (SLOTS_MAX - 6) % 1021);
    }
}
