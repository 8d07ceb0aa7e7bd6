//! Whether the host can run truename: facts, what they mean, and what to do.

mod checks;
mod refusal;
mod services;

use serde::Serialize;

use crate::{
    config::{Config, ConfigError},
    netlink::Unanswered,
    plan::Facts,
};
pub use refusal::{Refusal, refusals};

/// The result of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Fine.
    Ok,
    /// truename works, but something is slower or less.
    Warning,
    /// truename does not work.
    Failure,
}

/// A check that was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at.
    pub check: &'static str,
    /// The result.
    pub verdict: Verdict,
    /// What was found, as a sentence.
    pub found: String,
    /// What to do, if anything.
    pub remedy: Option<String>,
}

/// Something that truename cannot run without.
#[derive(Debug, thiserror::Error)]
#[error("{found}; {remedy}")]
pub struct Unmet {
    found: String,
    remedy: String,
}

impl Check {
    const fn ok(check: &'static str, found: String) -> Self {
        Self {
            check,
            verdict: Verdict::Ok,
            found,
            remedy: None,
        }
    }

    fn warning(check: &'static str, found: String, remedy: &str) -> Self {
        Self {
            check,
            verdict: Verdict::Warning,
            found,
            remedy: Some(remedy.to_owned()),
        }
    }

    fn failure(check: &'static str, found: String, remedy: impl Into<String>) -> Self {
        Self {
            check,
            verdict: Verdict::Failure,
            found,
            remedy: Some(remedy.into()),
        }
    }
}

/// All checks, for a configuration. `facts` are the host's, `unanswered` are the aliases that neighbours
/// look for and nobody has.
pub fn examine(config: &Config, facts: &Facts, unanswered: &[Unanswered]) -> Vec<Check> {
    let refusals = refusals(config);
    let mut all = checks::needed();
    all.extend([
        checks::tcx(),
        checks::jit(),
        checks::bpffs(&config.agent.bpffs, &refusals),
        checks::pins(&config.agent.bpffs, &refusals),
    ]);
    // Without a file only the host is looked at.
    all.extend(
        config
            .file
            .as_deref()
            .map(|file| checks::configuration(file, &refusals)),
    );
    all.extend(checks::control_socket(&refusals));
    if !config.services.is_empty() {
        all.extend([
            services::forwarding(config, |address| facts.is_local(address)),
            services::ports(config),
            services::loopback(),
            services::aliases(unanswered),
            services::ipsec(config, facts),
        ]);
    }
    all
}

/// What aliases that neighbours look for and nobody has mean, and what to do; none if there are none.
pub fn unanswered(aliases: &[Unanswered]) -> Option<String> {
    let check = services::aliases(aliases);
    Some(format!("{}: {}", check.found, check.remedy?))
}

/// A configuration that cannot be read.
pub fn mistake(error: &ConfigError) -> Check {
    Check::failure(
        "configuration",
        error.to_string(),
        "correct it; an agent that runs goes on with the configuration before",
    )
}

/// That what truename cannot run without is there.
///
/// # Errors
/// Names the first that is not, and what to do.
pub fn require() -> Result<(), Unmet> {
    let unmet = checks::needed()
        .into_iter()
        .find(|check| check.verdict == Verdict::Failure);
    match unmet {
        None => Ok(()),
        Some(check) => Err(Unmet {
            found: check.found,
            remedy: check.remedy.unwrap_or_default(),
        }),
    }
}
