//! `cargo xtask demo`

use anyhow::{Result, bail, ensure};
use truename_tests::{
    cleanup,
    flink::{self, DEFAULT_VERSION, Flink, Options, RELAYED_VERSIONS, Relay},
    is_root,
    timeline::Timeline,
};

use crate::build;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Flink releases: 1.9.3, 1.13.6, 1.17.2, 1.18.1, 1.20.5 and 2.3.0 are known to work [default: 1.20.5; with --alias
    /// 1.9.3, 1.13.6, 1.20.5 and 2.3.0]
    #[arg(long = "flink", visible_alias = "release", value_name = "VERSION", num_args = 1..)]
    releases: Vec<String>,
    /// TaskManagers know the JobManager by this name, which is longer than its own: truename relays. For example
    /// flink-jobmanager.prod.svc.cluster.example.org:6123
    #[arg(long, value_name = "HOST:PORT")]
    alias: Option<String>,
    /// What the JobManager calls itself, with --alias: one after the other
    #[arg(
        long,
        value_name = "HOST",
        num_args = 1..,
        default_values = ["10.61.23.1", "jm"],
        requires = "alias"
    )]
    canonical: Vec<String>,
    /// Leave logs and configuration behind
    #[arg(long)]
    keep: bool,
    /// Show a highly available cluster in containers whose names resolve nowhere, used from outside
    #[arg(long, conflicts_with_all = ["keep", "alias"])]
    story: bool,
    /// Show deploy/compose/compose.yaml, with a container engine that is started for it
    #[arg(long, conflicts_with_all = ["keep", "story", "alias"])]
    compose: bool,
}

/// Builds, then runs the scenarios that the end-to-end tests check.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    ensure!(
        is_root(),
        "the demo makes network namespaces and loads BPF programs: run it as root"
    );
    let relays = arguments.relays()?;
    // Before there are other threads.
    cleanup::on_interrupt()?;
    let binary = build::release()?;
    let timeline = Timeline::new();
    let mut failed = Vec::new();
    for release in arguments.releases() {
        for relay in &relays {
            let outcome = if arguments.story {
                Flink::fetch(release, &timeline)
                    .and_then(|flink| flink::story(&flink, binary.clone(), &timeline))
            } else if arguments.compose {
                Flink::fetch(release, &timeline)
                    .and_then(|flink| flink::compose(&flink, &binary, &timeline))
            } else {
                let options = Options {
                    flink: release.to_owned(),
                    keep: arguments.keep,
                    truename: binary.clone(),
                    learn: false,
                    relay: *relay,
                };
                flink::run(&options, &timeline)
            };
            let what = match relay {
                Some(relay) => format!("Flink {release}, canonical name {}", relay.canonical),
                None => format!("Flink {release}"),
            };
            match outcome {
                Ok(()) => timeline.heading(&format!("{what}: all of it held.")),
                // The others are shown, too.
                Err(error) => {
                    timeline.heading(&format!("{what}: FAILED: {error:#}"));
                    failed.push(what);
                }
            }
        }
    }
    if !failed.is_empty() {
        bail!("this did not hold: {}", failed.join("; "));
    }
    Ok(())
}

impl Arguments {
    /// The releases to show.
    fn releases(&self) -> Vec<&str> {
        match (self.releases.is_empty(), &self.alias) {
            (false, _) => self.releases.iter().map(String::as_str).collect(),
            (true, None) => vec![DEFAULT_VERSION],
            (true, Some(_)) => RELAYED_VERSIONS.to_vec(),
        }
    }

    /// The names, one pair after the other. None if TaskManagers use a short one.
    fn relays(&self) -> Result<Vec<Option<Relay>>> {
        let Some(alias) = &self.alias else {
            return Ok(vec![None]);
        };
        // The demo runs once.
        let leak = |text: &str| -> &'static str { String::leak(text.to_owned()) };
        let host = leak(alias.strip_suffix(":6123").unwrap_or_default());
        let relay = |canonical: &String| {
            ensure!(
                host.len() > canonical.len(),
                "{alias} is no name of port 6123 that is longer than {canonical}: without --alias the demo shows a short one"
            );
            Ok(Some(Relay {
                canonical: leak(canonical),
                aliases: vec![host].leak(),
            }))
        };
        self.canonical.iter().map(relay).collect()
    }
}
