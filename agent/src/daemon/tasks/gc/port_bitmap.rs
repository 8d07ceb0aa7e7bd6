//! Clearing the bits of `PORT_BITMAP` that no connection needs any more: each makes packets of other connections look for one that is not there.

use std::collections::BTreeMap;

use truename_common::{
    layout::{Conntrack, FiveTuple},
    nat,
};

use crate::datapath::{DatapathError, ServiceTables};

/// Entries with such bits that are put up with: one packet in a thousand meets one.
const STALE: usize = 64;

/// The bits that connections need, by the 16 bits of their hash.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Needed(BTreeMap<u16, u32>);

impl Needed {
    /// Notes a connection.
    pub fn note(&mut self, key: &FiveTuple, entry: &Conntrack) {
        let (hash, bits) = ServiceTables::tried_by(key, entry);
        if bits != 0 {
            *self.0.entry(hash as u16).or_default() |= bits;
        }
    }

    /// Those of the entries that have others: hash, and what should be there.
    fn stale<'a>(&'a self, entries: &'a [u32]) -> impl Iterator<Item = (u16, u32)> + 'a {
        let entries = (0..=u16::MAX).zip(entries);
        entries.filter_map(|(hash, bits)| {
            let needed = bits & self.0.get(&hash).copied().unwrap_or_default();
            (needed != *bits).then_some((hash, needed))
        })
    }
}

/// Clears bits that no connection needs, if there are many; how many entries were others. `needed` is what was needed a moment ago.
///
/// # Errors
/// When a table cannot be read or written.
pub fn clear(services: &mut ServiceTables, needed: &Needed) -> Result<usize, DatapathError> {
    // Nearly always nobody has had to give up a port.
    if services.tries()?.iter().skip(1).all(|count| *count == 0) {
        return Ok(0);
    }
    let halves = [services.tried_half(0)?, services.tried_half(1)?];
    if halves
        .iter()
        .all(|half| needed.stale(half).count() <= STALE)
    {
        return Ok(0);
    }
    let mut cleared = 0;
    for _ in halves {
        // Nobody sets bits in this half now. Each bit that was set before belongs to a connection that has its entry.
        let half = services.turn_tried()?;
        let mut needed = Needed::default();
        services.visit_connections(|key, entry| needed.note(&key, &entry))?;
        let entries = services.tried_half(half)?;
        for (hash, bits) in needed.stale(&entries) {
            services.write_tried(nat::tried_position(hash.into(), half), bits)?;
            cleared += 1;
        }
    }
    Ok(cleared)
}

#[cfg(test)]
mod tests {
    use truename_common::layout::{UDP, conntrack_flags};

    use super::*;

    #[test]
    fn what_a_connection_is_found_by_is_needed() {
        let mut needed = Needed::default();
        let key = FiveTuple {
            protocol: UDP,
            ..FiveTuple::default()
        };
        let entry = |client_port, tries, flags| Conntrack {
            client_port,
            tries,
            flags,
            ..Conntrack::default()
        };
        let mut entries = vec![0; 1 << 16];
        let mut at = |entry: &Conntrack| {
            let at = usize::from(nat::hash(&entry.original(UDP)) as u16);
            entries[at] = u32::MAX;
            at
        };
        let first = entry(1, 0, 0);
        let other = entry(2, 5, 0);
        let direct = entry(3, 1, conntrack_flags::DIRECT);
        let places = [&first, &other, &direct].map(&mut at);
        for entry in [first, other, direct] {
            needed.note(&key, &entry);
        }
        let expected = [0, 1 << 5, 1 << 1 | nat::TRIED_DIRECT];
        let mut expected: Vec<_> = places
            .map(|at| at as u16)
            .into_iter()
            .zip(expected)
            .collect();
        expected.sort_unstable();
        assert_eq!(needed.stale(&entries).collect::<Vec<_>>(), expected);
        for (at, bits) in expected {
            entries[usize::from(at)] = bits;
        }
        assert_eq!(needed.stale(&entries).count(), 0);
    }
}
