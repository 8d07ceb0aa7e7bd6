use super::hash::mix;

/// A target among those of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weighted {
    /// Its number.
    pub target: u32,
    /// A value that is the same for the same socket for ever: the hash of its address and port.
    pub identity: u64,
    /// Its share; 0 takes no new connections.
    pub weight: u32,
}

/// Fills the table of a service by weighted rendezvous hashing (highest random weight): every slot
/// goes to the target with the highest score for it. So a target that goes away gives up its own
/// slots and changes no other, and one that comes takes only what becomes its own. The table does not
/// depend on the order of the targets. False if no target has a weight; the table is then unchanged.
pub fn fill(slots: &mut [u32], targets: &[Weighted]) -> bool {
    if !targets.iter().any(|target| target.weight > 0) {
        return false;
    }
    for (index, slot) in slots.iter_mut().enumerate() {
        let best = targets
            .iter()
            .filter(|target| target.weight > 0)
            .min_by_key(|target| (score(target, index as u64), target.identity));
        if let Some(best) = best {
            *slot = best.target;
        }
    }
    true
}

/// An exponential variate with the rate `weight`, in fixed point: the least of several falls to each
/// in proportion to its weight. `-log2` of a fraction, from the position of its highest bit and a
/// linear remainder, which is 9 % off at worst and the same for all.
fn score(target: &Weighted, slot: u64) -> u64 {
    const FRACTION: u32 = 24;
    let fraction = mix(mix(
        target.identity ^ slot.wrapping_mul(0xd6e8_feb8_6659_fd93)
    )) | 1;
    let zeros = fraction.leading_zeros();
    let mantissa = (fraction << zeros << 1) >> (64 - FRACTION);
    let log = (u64::from(zeros) << FRACTION) + (1 << FRACTION) - mantissa;
    match target.weight {
        // A division is as dear as all the rest, and few targets have another weight.
        1 => log << 24,
        weight => (log << 24) / u64::from(weight),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn targets(weights: &[u32]) -> Vec<Weighted> {
        let make = |(index, weight): (usize, &u32)| Weighted {
            target: index as u32,
            identity: mix(index as u64 + 77),
            weight: *weight,
        };
        weights.iter().enumerate().map(make).collect()
    }

    fn table(targets: &[Weighted]) -> Vec<u32> {
        let mut slots = vec![u32::MAX; 1021];
        assert!(fill(&mut slots, targets));
        slots
    }

    #[test]
    fn a_removed_target_moves_only_its_own() {
        let all = targets(&[1; 7]);
        let before = table(&all);
        for gone in 0..all.len() {
            let mut rest = all.clone();
            rest.remove(gone);
            for (old, new) in before.iter().zip(table(&rest)) {
                assert!(*old == new || *old == gone as u32);
            }
        }
    }

    #[test]
    fn does_not_depend_on_the_order() {
        let mut targets = targets(&[3, 1, 4, 1, 5]);
        let before = table(&targets);
        targets.reverse();
        assert_eq!(before, table(&targets));
    }

    #[test]
    fn follows_the_weights() {
        let slots = table(&targets(&[1, 2, 5, 0]));
        let share =
            |wanted| slots.iter().filter(|target| **target == wanted).count() as f64 / 1021.0;
        assert!((share(0) - 0.125).abs() < 0.05, "{}", share(0));
        assert!((share(1) - 0.25).abs() < 0.06, "{}", share(1));
        assert!((share(2) - 0.625).abs() < 0.07, "{}", share(2));
        assert_eq!(share(3), 0.0);
    }

    #[test]
    fn says_that_nobody_is_there() {
        assert!(!fill(&mut [9], &targets(&[0, 0])));
        assert!(!fill(&mut [9], &[]));
    }
}
