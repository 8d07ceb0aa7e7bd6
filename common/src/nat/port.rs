/// Candidates that are tried for a source port.
pub const MAX_PORT_TRIES: u32 = 32;
/// The bit of [`crate::layout::map::PORT_BITMAP`] that tells of a connection that addresses a target itself. It is that of the first
/// candidate, which such a connection never has, and which is looked at for others in any case.
pub const TRIED_DIRECT: u32 = 1;
/// Entries of a half of [`crate::layout::map::PORT_BITMAP`].
pub const TRIED_HALF: u32 = 1 << 16;
/// The entry of [`crate::layout::map::PORT_BITMAP`] that says in which half bits are set: 0 or 1.
pub const TRIED_WRITTEN: u32 = 2 * TRIED_HALF;
/// Primes above 65536, so that connections that begin with the same candidate part ways.
const PRIMES: [u32; 8] = [
    65_537, 65_539, 65_543, 65_551, 65_557, 65_563, 65_579, 65_581,
];

/// The entry of [`crate::layout::map::PORT_BITMAP`] for a hash, in one of the halves.
#[inline(always)]
pub const fn tried_position(hash: u64, half: u32) -> u32 {
    (half & 1) * TRIED_HALF + (hash & 0xffff) as u32
}

/// The bits of [`crate::layout::map::PORT_BITMAP`] by which a connection is found.
#[inline(always)]
pub const fn tried_bits(index: u32, is_direct: bool) -> u32 {
    let direct = if is_direct { TRIED_DIRECT } else { 0 };
    if index == 0 {
        0
    } else {
        1 << (index & 31) | direct
    }
}

/// The `index`-th source port to try for a connection whose original tuple has `hash`. The first is
/// `kept`, unless that is 0.
///
/// The candidates follow from the connection alone, so that a packet of the client finds the
/// connection without a second entry. A range of up to [`MAX_PORT_TRIES`] ports is gone through completely.
#[inline(always)]
pub fn source_port(index: u32, hash: u64, kept: u16, first: u16, last: u16) -> u16 {
    if index == 0 && kept != 0 {
        return kept;
    }
    let count = u32::from(last.saturating_sub(first)) + 1;
    let start = (hash >> 40) as u32 % count;
    // A prime above any count shares no factor with it: no candidate comes twice.
    let step = PRIMES[(hash >> 16) as usize & 7];
    let offset = (u64::from(start) + u64::from(index) * u64::from(step)) % u64::from(count);
    first.wrapping_add(offset as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goes_through_a_small_range_completely() {
        for count in 1..=MAX_PORT_TRIES as u16 {
            let mut ports: [bool; MAX_PORT_TRIES as usize] = [false; MAX_PORT_TRIES as usize];
            for index in 0..u32::from(count) {
                let port = source_port(index, 0x1234_5678_9abc_def0, 0, 60_000, 59_999 + count);
                ports[usize::from(port - 60_000)] = true;
            }
            assert!(ports[..usize::from(count)].iter().all(|tried| *tried));
        }
    }

    #[test]
    fn no_candidate_comes_twice() {
        for count in MAX_PORT_TRIES as u16..=1101 {
            for step in 0..8 {
                let port = |index| source_port(index, step << 16, 0, 60_000, 59_999 + count);
                for index in 1..MAX_PORT_TRIES {
                    assert_ne!(port(index), port(0), "{count} {step} {index}");
                }
            }
        }
    }

    #[test]
    fn stays_in_its_range() {
        for index in 0..MAX_PORT_TRIES {
            for hash in [0, u64::MAX, 0x8000_0000_0000_0001] {
                assert!((1..=65_535).contains(&source_port(index, hash, 0, 1, 65_535)));
                assert_eq!(source_port(index, hash, 0, 7, 7), 7);
            }
        }
        assert_eq!(source_port(0, 5, 1234, 60_000, 60_001), 1234);
        assert_ne!(source_port(1, 5, 1234, 60_000, 60_001), 1234);
    }
}
