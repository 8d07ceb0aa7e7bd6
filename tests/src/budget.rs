//! What the kernel's verifier does for each program, and how much of it is allowed.

use std::{collections::BTreeMap, fmt, fs, path::Path};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Map, Value, json};

use crate::prog_run::Program;

/// The programs of the object.
const PROGRAMS: [&str; 5] = ["tn_ether", "tn_raw", "tn_rpc", "tn_xdp", "tn_empty"];
/// Instructions that no program may exceed, on any kernel: a quarter of the verifier's limit.
pub const LIMIT: u64 = 250_000;

/// What a program costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Instructions that the verifier looked at.
    pub verified: u64,
    /// Bytes of its instructions.
    pub translated: u64,
    /// Bytes of machine code.
    pub jited: u64,
}

/// What the programs may cost, by name: measured on one kernel. Verifiers differ, so on another kernel
/// only [`LIMIT`] holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Budget {
    /// The kernel's version, as `6.18`.
    pub kernel: String,
    /// Instructions that the verifier may look at.
    pub ceilings: BTreeMap<String, u64>,
}

/// What was measured, beside what is allowed.
#[derive(Clone, Debug)]
pub struct Report {
    kernel: String,
    /// Name, cost, ceiling.
    rows: Vec<(&'static str, Cost, u64)>,
}

/// Loads every program of the object and asks the kernel what it cost.
///
/// # Errors
/// The kernel refuses one, or does not tell (before Linux 5.16).
pub fn measure(object: &[u8]) -> Result<Vec<(&'static str, Cost)>> {
    let cost = |name| -> Result<(&'static str, Cost)> {
        let program = Program::named(object, name)?;
        let info = program.info()?;
        let cost = Cost {
            verified: info
                .verified_instruction_count()
                .context("the kernel does not count verified instructions")?
                .into(),
            translated: info.size_translated().unwrap_or_default().into(),
            jited: info.size_jitted().into(),
        };
        Ok((name, cost))
    };
    PROGRAMS.into_iter().map(cost).collect()
}

/// The version of the running kernel, and its first two numbers.
///
/// # Errors
/// There is no procfs.
pub fn kernel() -> Result<(String, String)> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").context("name the kernel")?;
    let release = release.trim();
    let series: Vec<&str> = release.split('.').take(2).collect();
    Ok((release.to_owned(), series.join(".")))
}

impl Budget {
    /// Reads the file.
    ///
    /// # Errors
    /// It is not there, or is not what [`Self::write`] wrote.
    pub fn read(path: &Path) -> Result<Self> {
        let named = || format!("read {}", path.display());
        let text = fs::read_to_string(path).with_context(named)?;
        let value: Value = serde_json::from_str(&text).with_context(named)?;
        let kernel = value["kernel"].as_str().context("no \"kernel\"");
        let ceilings = value["ceilings"].as_object().context("no \"ceilings\"");
        let mut budget = Self {
            kernel: kernel.with_context(named)?.to_owned(),
            ceilings: BTreeMap::new(),
        };
        for (name, ceiling) in ceilings.with_context(named)? {
            let ceiling = ceiling
                .as_u64()
                .filter(|ceiling| *ceiling <= LIMIT)
                .with_context(|| format!("the ceiling of {name} is not a number up to {LIMIT}"))
                .with_context(named)?;
            budget.ceilings.insert(name.clone(), ceiling);
        }
        Ok(budget)
    }

    /// Writes the file.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let ceilings: Map<String, Value> = self
            .ceilings
            .iter()
            .map(|(name, ceiling)| (name.clone(), json!(ceiling)))
            .collect();
        let value = json!({ "kernel": self.kernel, "ceilings": ceilings });
        let text = format!("{value:#}\n");
        fs::write(path, text).with_context(|| format!("write {}", path.display()))
    }

    /// A budget with a tenth more than was measured.
    ///
    /// # Errors
    /// A program is above the limit.
    pub fn of(costs: &[(&'static str, Cost)], kernel: &str) -> Result<Self> {
        let mut ceilings = BTreeMap::new();
        for (name, cost) in costs {
            ensure!(
                cost.verified <= LIMIT,
                "{name} takes {} verified instructions, and no ceiling may be above {LIMIT}",
                cost.verified
            );
            let ceiling = (cost.verified + cost.verified / 10).next_multiple_of(100);
            ceilings.insert((*name).to_owned(), ceiling.min(LIMIT));
        }
        Ok(Self {
            kernel: kernel.to_owned(),
            ceilings,
        })
    }

    /// Puts what was measured beside what is allowed.
    ///
    /// # Errors
    /// The kernel cannot be named, or the file lacks a program.
    pub fn report(&self, costs: &[(&'static str, Cost)]) -> Result<Report> {
        let (release, series) = kernel()?;
        let mut rows = Vec::new();
        for (name, cost) in costs {
            let ceiling = self.ceilings.get(*name);
            let ceiling = *ceiling.with_context(|| format!("the budget has no {name}"))?;
            let ceiling = if series == self.kernel {
                ceiling
            } else {
                LIMIT
            };
            rows.push((*name, *cost, ceiling));
        }
        let kernel = if series == self.kernel {
            release
        } else {
            format!(
                "{release} (the ceilings are for {}, here the limit holds)",
                self.kernel
            )
        };
        Ok(Report { kernel, rows })
    }
}

impl Report {
    /// The programs above their ceilings.
    pub fn exceeded(&self) -> Vec<&'static str> {
        self.rows
            .iter()
            .filter(|(_, cost, ceiling)| cost.verified > *ceiling)
            .map(|(name, ..)| *name)
            .collect()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "kernel {}", self.kernel)?;
        writeln!(
            formatter,
            "{:<10} {:>9} {:>9} {:>12} {:>9}",
            "program", "verified", "ceiling", "translated B", "jited B"
        )?;
        for (name, cost, ceiling) in &self.rows {
            let over = if cost.verified > *ceiling {
                "  EXCEEDED"
            } else {
                ""
            };
            writeln!(
                formatter,
                "{name:<10} {:>9} {ceiling:>9} {:>12} {:>9}{over}",
                cost.verified, cost.translated, cost.jited
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COST: Cost = Cost {
        verified: 1001,
        translated: 10,
        jited: 20,
    };

    #[test]
    fn a_budget_is_read_as_it_was_written() {
        let (_, series) = kernel().unwrap();
        let budget = Budget::of(&[("a", COST)], &series).unwrap();
        assert_eq!(budget.ceilings["a"], 1200);
        let scratch = crate::scratch::Scratch::new("budget").unwrap();
        let path = scratch.path().join("budget.json");
        budget.write(&path).unwrap();
        assert_eq!(Budget::read(&path).unwrap(), budget);
        fs::write(&path, r#"{"kernel": "6.1", "ceilings": {"a": 250001}}"#).unwrap();
        assert!(Budget::read(&path).is_err());
    }

    #[test]
    fn what_is_above_its_ceiling_is_named() {
        let (_, series) = kernel().unwrap();
        let budget = Budget::of(&[("a", COST)], &series).unwrap();
        let more = Cost {
            verified: 1201,
            ..COST
        };
        assert!(budget.report(&[("a", COST)]).unwrap().exceeded().is_empty());
        let report = budget.report(&[("a", more)]).unwrap();
        assert_eq!(report.exceeded(), ["a"]);
        assert!(report.to_string().contains("EXCEEDED"));
        assert!(budget.report(&[("b", COST)]).is_err());
        let elsewhere = Budget {
            kernel: "0.0".to_owned(),
            ..budget
        };
        assert!(
            elsewhere
                .report(&[("a", more)])
                .unwrap()
                .exceeded()
                .is_empty()
        );
        let above = Cost {
            verified: LIMIT + 1,
            ..COST
        };
        assert_eq!(elsewhere.report(&[("a", above)]).unwrap().exceeded(), ["a"]);
        assert!(Budget::of(&[("a", above)], &series).is_err());
    }
}
