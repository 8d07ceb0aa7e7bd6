//! A case under every translator, and the comparison.

use std::fmt;

use anyhow::Result;

use super::seen::Seen;

/// Who translates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// netfilter, by rules that an administrator would write.
    Nftables,
    /// The program under test.
    Truename,
}

impl By {
    /// Is it one of those that are to run?
    pub fn is_chosen(self) -> bool {
        Self::chosen().contains(&self)
    }

    /// Those that the variable `TRUENAME_NAT` names (`nftables` or `truename`), else both. When a case fails
    /// under nftables too, the machine or the case is at fault.
    pub fn chosen() -> Vec<Self> {
        let only = std::env::var("TRUENAME_NAT").unwrap_or_default();
        [Self::Nftables, Self::Truename]
            .into_iter()
            .filter(|by| only.is_empty() || by.to_string() == only)
            .collect()
    }
}

impl fmt::Display for By {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Nftables => "nftables",
            Self::Truename => "truename",
        })
    }
}

/// Runs a case under nftables and under truename: clients have to see the same.
///
/// # Panics
/// The case fails under one of them, or they differ.
pub fn beside(case: impl Fn(By) -> Result<Seen>) {
    let mut first: Option<(By, Seen)> = None;
    for by in By::chosen() {
        let seen = match case(by) {
            Ok(seen) => seen,
            Err(error) => panic!("under {by}: {error:#}"),
        };
        if let Some((other, expected)) = &first {
            if let Some((was, is)) = expected.difference(&seen) {
                panic!("clients see a difference\n  {other}: {was}\n  {by}: {is}");
            }
        } else {
            first = Some((by, seen));
        }
    }
}

/// Runs a case that nftables cannot do, under truename only.
///
/// # Panics
/// The case fails.
pub fn alone(case: impl FnOnce() -> Result<()>) {
    if !By::Truename.is_chosen() {
        return;
    }
    if let Err(error) = case() {
        panic!("under {}: {error:#}", By::Truename);
    }
}
