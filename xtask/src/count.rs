//! Counting tests.

use std::fmt;

/// How tests ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

impl Count {
    /// Adds up the summaries in what `cargo test` printed.
    pub(crate) fn parse(output: &str) -> Self {
        let mut count = Self::default();
        for summary in output
            .lines()
            .filter_map(|line| line.strip_prefix("test result: "))
        {
            // "ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s"
            let words: Vec<&str> = summary.split([' ', ';']).collect();
            for pair in words.windows(2) {
                let number = pair[0].parse().unwrap_or(0);
                match pair[1] {
                    "passed" => count.passed += number,
                    "failed" => count.failed += number,
                    "ignored" => count.skipped += number,
                    _ => {}
                }
            }
        }
        count
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Count {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} passed, {} failed", self.passed, self.failed)?;
        match self.skipped {
            0 => Ok(()),
            skipped => write!(formatter, ", {skipped} skipped"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_are_added_up() {
        let output = "\
running 2 tests
test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.10s
noise
test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.00s
";
        let expected = Count {
            passed: 15,
            failed: 2,
            skipped: 1,
        };
        assert_eq!(Count::parse(output), expected);
        assert_eq!(Count::parse("error: could not compile"), Count::default());
    }
}
