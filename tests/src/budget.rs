//! What the kernel's verifier does for each program, and how much of it is allowed.

use std::{collections::BTreeMap, fmt, fs, path::Path};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::prog_run::Program;

/// The programs of the object.
const PROGRAMS: [&str; 6] = [
    "tn_ether", "tn_raw", "tn_rpc", "tn_xdp", "tn_steer", "tn_empty",
];
/// Instructions that no program may exceed, on any kernel: not much more than half of the verifier's limit.
pub const LIMIT: u64 = 520_000;

/// How many lines of a refusal are kept: its end has the reason.
const REFUSAL_LINES: usize = 80;

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

/// What the programs of one object cost on one kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Measured {
    /// The kernel's release, as `6.1.0-50-cloud-amd64`.
    pub release: String,
    /// Name, and cost or the verifier's refusal.
    pub programs: Vec<(String, Result<Cost, String>)>,
}

/// What the programs may cost, measured on some kernels. Verifiers differ, so on other kernels only
/// [`LIMIT`] holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Budget {
    /// Instructions that the verifier may look at, by series (as `6.18`) and program.
    pub ceilings: BTreeMap<String, BTreeMap<String, u64>>,
}

/// What was measured, beside what is allowed.
#[derive(Clone, Debug)]
pub struct Report {
    /// The kernel, and which ceilings hold there.
    kernel: String,
    /// Name, cost, ceiling.
    rows: Vec<(String, Result<Cost, String>, u64)>,
}

/// Loads every program of the object and asks the kernel what it cost.
///
/// # Errors
/// The kernel cannot be named.
pub fn measure(object: &[u8]) -> Result<Measured> {
    let programs = PROGRAMS.map(|name| {
        let cost = cost(object, name).map_err(|error| end_of(&format!("{error:#}")));
        (name.to_owned(), cost)
    });
    Ok(Measured {
        release: release()?,
        programs: programs.into(),
    })
}

/// The last lines of what the verifier says of a refused program; all of it can be megabytes.
fn end_of(refusal: &str) -> String {
    let lines: Vec<&str> = refusal.lines().collect();
    lines[lines.len().saturating_sub(REFUSAL_LINES)..].join("\n")
}

fn cost(object: &[u8], name: &'static str) -> Result<Cost> {
    // Without the others, so that one that is refused does not hide their costs.
    let program = Program::limited(object, name, &[], false)?;
    let info = program.info()?;
    Ok(Cost {
        verified: info
            .verified_instruction_count()
            .context("the kernel does not count verified instructions (Linux 5.16 and later do)")?
            .into(),
        translated: info.size_translated().unwrap_or_default().into(),
        jited: info.size_jitted().into(),
    })
}

/// The release of the running kernel.
fn release() -> Result<String> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").context("name the kernel")?;
    Ok(release.trim().to_owned())
}

impl Measured {
    /// The first two numbers of the kernel's release.
    pub fn series(&self) -> String {
        let numbers: Vec<&str> = self.release.split('.').take(2).collect();
        numbers.join(".")
    }

    /// As JSON, in one line.
    pub fn to_json(&self) -> String {
        let programs: Vec<Value> = self
            .programs
            .iter()
            .map(|(name, cost)| match cost {
                Ok(cost) => json!({
                    "name": name,
                    "verified": cost.verified,
                    "translated": cost.translated,
                    "jited": cost.jited,
                }),
                Err(refusal) => json!({ "name": name, "refused": refusal }),
            })
            .collect();
        json!({ "release": self.release, "programs": programs }).to_string()
    }

    /// Reads what [`Self::to_json`] wrote.
    ///
    /// # Errors
    /// It is something else.
    pub fn from_json(text: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(text).context("read what was measured")?;
        let programs = value["programs"].as_array().context("no \"programs\"")?;
        let program = |value: &Value| -> Result<_> {
            let number = |key: &str| {
                let number = value[key].as_u64();
                number.with_context(|| format!("no number \"{key}\""))
            };
            let cost = match value["refused"].as_str() {
                Some(refusal) => Err(refusal.to_owned()),
                None => Ok(Cost {
                    verified: number("verified")?,
                    translated: number("translated")?,
                    jited: number("jited")?,
                }),
            };
            let name = value["name"].as_str().context("no \"name\"")?;
            Ok((name.to_owned(), cost))
        };
        Ok(Self {
            release: value["release"].as_str().context("no \"release\"")?.into(),
            programs: programs.iter().map(program).collect::<Result<_>>()?,
        })
    }
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
        let kernels = value["kernels"].as_object().context("no \"kernels\"");
        let mut budget = Self::default();
        for (series, programs) in kernels.with_context(named)? {
            let programs = programs.as_object().context("a kernel has no programs");
            let ceilings = budget.ceilings.entry(series.clone()).or_default();
            for (name, ceiling) in programs.with_context(named)? {
                let ceiling = ceiling
                    .as_u64()
                    .filter(|ceiling| *ceiling <= LIMIT)
                    .with_context(|| format!("the ceiling of {name} is not a number up to {LIMIT}"))
                    .with_context(named)?;
                ceilings.insert(name.clone(), ceiling);
            }
        }
        Ok(budget)
    }

    /// Writes the file.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let value = json!({ "kernels": self.ceilings });
        let text = format!("{value:#}\n");
        fs::write(path, text).with_context(|| format!("write {}", path.display()))
    }

    /// Sets the ceilings of one kernel a tenth above what was measured there.
    ///
    /// # Errors
    /// A program was refused, or is above the limit.
    pub fn update(&mut self, measured: &Measured) -> Result<()> {
        let mut ceilings = BTreeMap::new();
        for (name, cost) in &measured.programs {
            let cost = cost.as_ref().ok();
            let cost = cost.with_context(|| format!("the verifier refuses {name}"))?;
            ensure!(
                cost.verified <= LIMIT,
                "{name} takes {} verified instructions, and no ceiling may be above {LIMIT}",
                cost.verified
            );
            let ceiling = (cost.verified + cost.verified / 10).next_multiple_of(100);
            ceilings.insert(name.clone(), ceiling.min(LIMIT));
        }
        self.ceilings.insert(measured.series(), ceilings);
        Ok(())
    }

    /// Puts what was measured beside what is allowed.
    ///
    /// # Errors
    /// The file lacks a program of this kernel.
    pub fn report(&self, measured: &Measured) -> Result<Report> {
        let series = measured.series();
        let ceilings = self.ceilings.get(&series);
        let mut rows = Vec::new();
        for (name, cost) in &measured.programs {
            let ceiling = match ceilings {
                Some(ceilings) => *ceilings
                    .get(name)
                    .with_context(|| format!("the budget of Linux {series} has no {name}"))?,
                None => LIMIT,
            };
            rows.push((name.clone(), cost.clone(), ceiling));
        }
        let kernel = match ceilings {
            Some(_) => measured.release.clone(),
            None => format!(
                "{} (without ceilings of its own, the limit holds)",
                measured.release
            ),
        };
        Ok(Report { kernel, rows })
    }
}

impl Report {
    /// The programs above their ceilings, and those that the verifier refuses.
    pub fn exceeded(&self) -> Vec<&str> {
        self.rows
            .iter()
            .filter(|(_, cost, ceiling)| !cost.as_ref().is_ok_and(|cost| cost.verified <= *ceiling))
            .map(|(name, ..)| name.as_str())
            .collect()
    }

    /// Why programs were refused: name and the verifier's words.
    pub fn refusals(&self) -> impl Iterator<Item = (&str, &str)> {
        self.rows.iter().filter_map(|(name, cost, _)| {
            let refusal = cost.as_ref().err()?;
            Some((name.as_str(), refusal.as_str()))
        })
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
            let Ok(cost) = cost else {
                writeln!(formatter, "{name:<10} {:>9} {ceiling:>9}", "REFUSED")?;
                continue;
            };
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

    fn measured(release: &str, cost: Result<Cost, String>) -> Measured {
        Measured {
            release: release.to_owned(),
            programs: vec![("a".to_owned(), cost)],
        }
    }

    #[test]
    fn a_budget_is_read_as_it_was_written() {
        let mut budget = Budget::default();
        for release in ["6.1.0-50-cloud-amd64", "6.18.44"] {
            budget.update(&measured(release, Ok(COST))).unwrap();
        }
        assert_eq!(budget.ceilings["6.1"]["a"], 1200);
        assert_eq!(budget.ceilings["6.18"]["a"], 1200);
        let scratch = crate::scratch::Scratch::new("budget").unwrap();
        let path = scratch.path().join("budget.json");
        budget.write(&path).unwrap();
        assert_eq!(Budget::read(&path).unwrap(), budget);
        let beyond = format!(r#"{{"kernels": {{"6.1": {{"a": {}}}}}}}"#, LIMIT + 1);
        fs::write(&path, beyond).unwrap();
        assert!(Budget::read(&path).is_err());
    }

    #[test]
    fn what_is_above_its_ceiling_is_named() {
        let mut budget = Budget::default();
        let good = measured("6.1.0", Ok(COST));
        budget.update(&good).unwrap();
        assert!(budget.report(&good).unwrap().exceeded().is_empty());
        let more = Cost {
            verified: 1201,
            ..COST
        };
        let report = budget.report(&measured("6.1.9", Ok(more))).unwrap();
        assert_eq!(report.exceeded(), ["a"]);
        assert!(report.to_string().contains("EXCEEDED"));
        let mut other = good.clone();
        other.programs[0].0 = "b".to_owned();
        assert!(budget.report(&other).is_err());
    }

    #[test]
    fn on_a_kernel_without_ceilings_the_limit_holds() {
        let budget = Budget::default();
        let elsewhere = measured("7.3.4", Ok(COST));
        assert!(budget.report(&elsewhere).unwrap().exceeded().is_empty());
        let above = Cost {
            verified: LIMIT + 1,
            ..COST
        };
        let above = measured("7.3.4", Ok(above));
        assert_eq!(budget.report(&above).unwrap().exceeded(), ["a"]);
        assert!(Budget::default().update(&above).is_err());
    }

    #[test]
    fn a_refused_program_is_no_success() {
        let refused = measured("6.1.0", Err("R1 type=scalar".to_owned()));
        let report = Budget::default().report(&refused).unwrap();
        assert_eq!(report.exceeded(), ["a"]);
        assert!(report.to_string().contains("REFUSED"));
        assert_eq!(report.refusals().next(), Some(("a", "R1 type=scalar")));
        assert!(Budget::default().update(&refused).is_err());
    }

    #[test]
    fn what_was_measured_is_read_as_it_was_written() {
        for cost in [Ok(COST), Err("line\nline".to_owned())] {
            let measured = measured("6.1.0", cost);
            let text = measured.to_json();
            assert!(!text.contains('\n'), "{text}");
            assert_eq!(Measured::from_json(&text).unwrap(), measured);
        }
        assert!(Measured::from_json("{}").is_err());
    }
}
