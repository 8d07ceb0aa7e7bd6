//! At most so many a second.

use std::time::{Duration, Instant};

const WINDOW: Duration = Duration::from_secs(1);

/// Counts within a second.
pub struct Limit {
    max: u32,
    began: Option<Instant>,
    count: u32,
    refused: u64,
}

/// Whether one more is within the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admitted {
    /// Yes.
    Yes,
    /// Yes, and so many were not since the last one.
    After(u64),
    /// No.
    No,
}

impl Limit {
    /// At most `max` a second.
    pub const fn new(max: u32) -> Self {
        Self {
            max,
            began: None,
            count: 0,
            refused: 0,
        }
    }

    /// Counts one.
    pub fn admit(&mut self, now: Instant) -> Admitted {
        if self
            .began
            .is_none_or(|began| now.duration_since(began) >= WINDOW)
        {
            self.began = Some(now);
            self.count = 0;
        }
        if self.count >= self.max {
            self.refused += 1;
            return Admitted::No;
        }
        self.count += 1;
        match std::mem::take(&mut self.refused) {
            0 => Admitted::Yes,
            refused => Admitted::After(refused),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn admits_so_many_a_second_and_says_how_many_not() {
        let mut limit = Limit::new(2);
        let start = Instant::now();
        let results: Vec<_> = (0..5).map(|_| limit.admit(start)).collect();
        assert_eq!(
            results,
            [
                Admitted::Yes,
                Admitted::Yes,
                Admitted::No,
                Admitted::No,
                Admitted::No
            ]
        );
        assert_eq!(limit.admit(start + WINDOW), Admitted::After(3));
        assert_eq!(limit.admit(start + WINDOW), Admitted::Yes);
    }
}
