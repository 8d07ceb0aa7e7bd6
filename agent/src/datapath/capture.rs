//! What the kernel program answers to DNS questions of containers.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use aya::maps::{Array, MapData};
use truename_common::layout::{
    A_RECORD, AAAA_RECORD, ADDRESSES_TOLD, CapturedName, CapturedRecords, Link, NAME_MAX,
    NAMES_TTL, link_flags, map,
};

use super::{
    Pins,
    access::{Table, entries, insert, open, remove},
    error::DatapathError,
};
use crate::clock::Moment;

/// Entries of the table.
const NAMES_MAX: usize = 4096;
/// Longest label of a name (RFC 1035 2.3.4).
const LABEL_MAX: usize = 63;

/// The tables, opened from their pins, and what was written to them.
pub struct Capture {
    names: Table<CapturedName, CapturedRecords>,
    until: Array<MapData, u64>,
    written: BTreeMap<CapturedName, CapturedRecords>,
}

impl Capture {
    /// Opens the tables.
    ///
    /// # Errors
    /// When one is not pinned or cannot be read.
    pub fn open(pins: &Pins) -> Result<Self, DatapathError> {
        let names = open(pins, map::CAPTURED)?;
        Ok(Self {
            written: entries(&names, map::CAPTURED)?.into_iter().collect(),
            names,
            until: open(pins, map::CAPTURED_UNTIL)?,
        })
    }

    /// Brings the table to these hosts. Those that are no names of DNS, or have no address, are left out.
    ///
    /// # Errors
    /// When the table cannot be written; the next call tries again.
    pub fn follow<'a>(
        &mut self,
        hosts: impl Iterator<Item = (&'a str, impl Iterator<Item = IpAddr>)>,
    ) -> Result<(), DatapathError> {
        let wanted = hosts.filter_map(|(host, addresses)| {
            let records = records(addresses);
            (records.counts != [0; 2]).then_some((name(host)?, records))
        });
        let wanted: BTreeMap<_, _> = wanted.take(NAMES_MAX).collect();
        let gone: BTreeSet<_> = self.written.keys().copied().collect();
        for key in gone.into_iter().filter(|key| !wanted.contains_key(key)) {
            remove(&mut self.names, &key, map::CAPTURED)?;
            self.written.remove(&key);
        }
        for (key, records) in wanted {
            if self.written.get(&key) != Some(&records) {
                insert(&mut self.names, &key, records, map::CAPTURED)?;
                self.written.insert(key, records);
            }
        }
        Ok(())
    }

    /// Has the table count until then.
    ///
    /// # Errors
    /// When that cannot be written.
    pub fn until(&mut self, moment: Moment) -> Result<(), DatapathError> {
        let set = self.until.set(0, moment.ns(), 0);
        set.map_err(DatapathError::table("write", map::CAPTURED_UNTIL))
    }
}

/// What is answered to containers, as the kernel program has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Captured {
    /// The hosts, in small letters.
    pub hosts: BTreeSet<String>,
    /// The interfaces that questions come in by.
    pub interfaces: BTreeSet<u32>,
}

impl Captured {
    /// Reads the tables.
    ///
    /// # Errors
    /// One is not pinned or cannot be read.
    pub fn read(pins: &Pins) -> Result<Self, DatapathError> {
        let names: Table<CapturedName, CapturedRecords> = open(pins, map::CAPTURED)?;
        let names = entries(&names, map::CAPTURED)?.into_iter();
        let links: Table<u32, Link> = open(pins, map::LINKS)?;
        let links = entries(&links, map::LINKS)?.into_iter();
        let behind = links.filter(|(_, link)| link.flags & link_flags::BEHIND != 0);
        Ok(Self {
            hosts: names.map(|(name, _)| host(&name)).collect(),
            interfaces: behind.map(|(index, _)| index).collect(),
        })
    }
}

/// The host of a [`name`].
fn host(name: &CapturedName) -> String {
    let mut labels = Vec::new();
    let mut rest = &name[..];
    while let [len, behind @ ..] = rest
        && *len != 0
        && let Some((label, behind)) = behind.split_at_checked(usize::from(*len))
    {
        labels.push(String::from_utf8_lossy(label));
        rest = behind;
    }
    labels.join(".")
}

/// A host as it stands in a question, in small letters; `None` if it cannot.
fn name(host: &str) -> Option<CapturedName> {
    let mut name = [0; NAME_MAX + 1];
    let mut at = 0;
    for label in host.split('.') {
        let len = u8::try_from(label.len()).ok()?;
        let end = at + 1 + label.len();
        // The root's label comes last.
        if label.is_empty() || label.len() > LABEL_MAX || end >= NAME_MAX {
            return None;
        }
        name[at] = len;
        name[at + 1..end].copy_from_slice(label.to_ascii_lowercase().as_bytes());
        at = end;
    }
    Some(name)
}

/// The records of a host, each of which refers to the name in the question (RFC 1035 4.1.4).
fn records(addresses: impl Iterator<Item = IpAddr>) -> CapturedRecords {
    const QUESTION: [u8; 2] = [0xc0, 0x0c];
    let mut records = CapturedRecords {
        counts: [0; 2],
        a: [0; A_RECORD * ADDRESSES_TOLD],
        aaaa: [0; AAAA_RECORD * ADDRESSES_TOLD],
    };
    let put = |room: &mut [u8], count: &mut u32, kind: u8, data: &[u8]| {
        let head = [
            &QUESTION[..],
            &[0, kind, 0, 1],
            &NAMES_TTL.to_be_bytes(),
            &[0],
        ]
        .concat();
        let record = [&head[..], &[data.len() as u8], data].concat();
        let begin = *count as usize * record.len();
        if let Some(place) = room.get_mut(begin..begin + record.len()) {
            place.copy_from_slice(&record);
            *count += 1;
        }
    };
    let CapturedRecords {
        counts: [v4, v6],
        a,
        aaaa,
    } = &mut records;
    for address in addresses {
        match address {
            IpAddr::V4(address) => put(a, v4, 1, &address.octets()),
            IpAddr::V6(address) => put(aaaa, v6, 28, &address.octets()),
        }
    }
    records
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_as_in_a_question() {
        let long = name("JM-1.example.org").unwrap();
        assert!(long.starts_with(b"\x04jm-1\x07example\x03org\0"));
        let label = "a".repeat(63);
        let longest = [&label[..], &label, &label, &"b".repeat(61)].join(".");
        assert_eq!(host(&long), "jm-1.example.org");
        assert_eq!(host(&name(&longest).unwrap()), longest);
        for bad in ["", "a..b", &format!("{label}a"), &format!("{longest}b")] {
            assert_eq!(name(bad), None, "{bad}");
        }
    }

    #[test]
    fn records_refer_to_the_question() {
        let all = (1..=9).map(|last| IpAddr::from([10, 0, 0, last]));
        let six = ["fd00::1".parse().unwrap()];
        let records = records(all.chain(six));
        assert_eq!(records.counts, [4, 1]);
        assert_eq!(
            records.a[..16],
            *b"\xc0\x0c\0\x01\0\x01\0\0\0\x05\0\x04\x0a\0\0\x01"
        );
        assert_eq!(records.aaaa[..12], *b"\xc0\x0c\0\x1c\0\x01\0\0\0\x05\0\x10");
        assert_eq!(records.aaaa[27], 1);
    }
}
