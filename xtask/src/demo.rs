//! `cargo xtask demo`

use anyhow::{Result, ensure};
use truename_tests::{
    cleanup,
    flink::{self, DEFAULT_VERSION, Flink, Options, Relay},
    is_root,
    timeline::Timeline,
};

use crate::build;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Flink release: 1.9.3, 1.13.6, 1.17.2, 1.18.1, 1.20.5 and 2.3.0 are known to work
    #[arg(long, value_name = "VERSION", default_value = DEFAULT_VERSION)]
    flink: String,
    /// TaskManagers know the JobManager by this name, which is longer than its own, an address: truename relays. For
    /// example flink-jobmanager.prod.svc.cluster.example.org:6123
    #[arg(long, value_name = "HOST:PORT")]
    alias: Option<String>,
    /// What the JobManager calls itself, with --alias
    #[arg(
        long,
        value_name = "HOST",
        default_value = "10.61.23.1",
        requires = "alias"
    )]
    canonical: String,
    /// Leave logs and configuration behind
    #[arg(long)]
    keep: bool,
    /// Show a highly available cluster in containers whose names resolve nowhere, used from outside
    #[arg(long, conflicts_with = "keep")]
    story: bool,
    /// Show deploy/compose/compose.yaml, with a container engine that is started for it
    #[arg(long, conflicts_with_all = ["keep", "story", "alias"])]
    compose: bool,
}

/// Builds, then runs the scenario that the end-to-end test checks.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    ensure!(
        is_root(),
        "the demo makes network namespaces and loads BPF programs: run it as root"
    );
    // Before there are other threads.
    cleanup::on_interrupt()?;
    let binary = build::release()?;
    if arguments.story {
        let timeline = Timeline::new();
        let flink = Flink::fetch(&arguments.flink, &timeline)?;
        flink::story(&flink, binary, &timeline)?;
        timeline.heading("All of it held.");
        return Ok(());
    }
    if arguments.compose {
        let timeline = Timeline::new();
        let flink = Flink::fetch(&arguments.flink, &timeline)?;
        flink::compose(&flink, &binary, &timeline)?;
        timeline.heading("All of it held.");
        return Ok(());
    }
    let options = Options {
        flink: arguments.flink.clone(),
        keep: arguments.keep,
        truename: binary,
        learn: false,
        relay: arguments.relay()?,
    };
    let timeline = Timeline::new();
    flink::run(&options, &timeline)?;
    timeline.heading("All of it held.");
    Ok(())
}

impl Arguments {
    /// The names, if TaskManagers use a long one.
    fn relay(&self) -> Result<Option<Relay>> {
        let Some(alias) = &self.alias else {
            return Ok(None);
        };
        let host = alias.strip_suffix(":6123").unwrap_or_default();
        ensure!(
            host.len() > self.canonical.len(),
            "{alias} is no name of port 6123 that is longer than {}: without --alias the demo shows a short one",
            self.canonical
        );
        // The demo runs once.
        let leak = |text: &str| -> &'static str { String::leak(text.to_owned()) };
        Ok(Some(Relay {
            canonical: leak(&self.canonical),
            aliases: vec![leak(host)].leak(),
        }))
    }
}
