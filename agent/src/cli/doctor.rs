//! `truename doctor`

use super::{
    Exit,
    args::Global,
    effective,
    output::{Output, Row},
};
use crate::doctor::{self, Check, Verdict};

impl Row for Check {
    const HEADINGS: &'static [&'static str] = &["check", "verdict", "found", "what to do"];

    fn cells(&self) -> Vec<String> {
        let verdict = match self.verdict {
            Verdict::Ok => "ok",
            Verdict::Warning => "warning",
            Verdict::Failure => "failure",
        };
        vec![
            self.check.to_owned(),
            verdict.to_owned(),
            self.found.clone(),
            self.remedy.clone().unwrap_or_default(),
        ]
    }
}

pub fn run(global: &Global) -> anyhow::Result<Exit> {
    let checks = doctor::examine(&effective(global)?.agent.bpffs);
    Output::new(global).rows(&checks, "nothing was checked")?;
    Ok(match checks.iter().map(|check| check.verdict).max() {
        Some(Verdict::Failure) => Exit::Failure,
        Some(Verdict::Warning) => Exit::Degraded,
        _ => Exit::Success,
    })
}
