//! `cargo xtask test`

use std::{fs, process::ExitCode, time::Instant};

use anyhow::{Result, ensure};
use truename_tests::{is_root, scratch::Scratch, timeline};

use crate::{
    command::{PACKAGES, root, target_directory},
    count::{Count, line},
    fuzz, lint, nextest, setup,
    vm::{Choose, Kernels, Series, topics},
};

/// The tests of what the agent has a feature for, which is built for them alone.
const KUBERNETES: &str = "topology_kubernetes";
const NEEDS_KUBERNETES: [&str; 4] = [
    "--features",
    "truename-tests/kubernetes",
    "--test",
    KUBERNETES,
];

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Run only tests whose names, or whose suites' names, contain this
    filter: Option<String>,
}

/// Runs everything; the last line is the sum. A lint that fails counts as one failed test.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    ensure!(
        is_root(),
        "the tests make network namespaces and load BPF programs: run them as root"
    );
    let start = Instant::now();
    setup::run()?;
    let mut total = Count::default();
    let mut broken = Vec::new();
    let lint = Instant::now();
    if let Err(error) = lint::run() {
        println!("{error:#}");
        total.failed += 1;
        broken.push("formatting and lints".to_owned());
    }
    line(lint.elapsed(), "formatting and lints");

    let scratch = Scratch::new("suite")?;
    let measured = scratch.path().join("measured");
    let mut ran = 0;
    let topics = topics(&root())?;
    let kubernetes = [KUBERNETES.to_owned()];
    for (name, more, suites) in [
        ("the tests", &[][..], &*topics),
        (
            "the tests of Kubernetes",
            &NEEDS_KUBERNETES,
            &kubernetes[..],
        ),
    ] {
        let mut chosen: Vec<String> = PACKAGES
            .iter()
            .chain(more)
            .map(ToString::to_string)
            .collect();
        let build = Instant::now();
        nextest::build(&chosen)?;
        line(build.elapsed(), &format!("building {name}"));
        if let Some(filter) = &arguments.filter {
            chosen.push("--filterset".to_owned());
            // nextest refuses a name that no suite has.
            chosen.push(match suites.iter().any(|suite| suite.contains(filter)) {
                true => format!("test(~{filter}) | binary(~{filter})"),
                false => format!("test(~{filter})"),
            });
        }
        let run = Instant::now();
        let environment = [
            // Built with the tests, because those of its command line need it.
            ("TRUENAME_BIN", target_directory().join("debug/truename")),
            (timeline::MEASURED, measured.clone()),
        ];
        let ended = nextest::run(&chosen, &environment)?;
        line(run.elapsed(), &format!("{name}: {}", ended.count));
        ran += ended.count.passed + ended.count.failed;
        total.add(ended.count);
        broken.extend(ended.failed);
    }
    for measured in fs::read_to_string(&measured).unwrap_or_default().lines() {
        println!("           {measured}");
    }
    if arguments.filter.is_none() {
        for (count, failed) in [fuzz::short()?, other_kernel()?] {
            total.add(count);
            broken.extend(failed);
        }
    }
    println!("{:>7.1} s  in all", start.elapsed().as_secs_f64());
    if ran == 0 {
        println!("no test ran");
    }
    if !broken.is_empty() {
        println!("failed: {}", broken.join(", "));
    }
    println!("{total}");
    Ok(if ran > 0 && total.failed == 0 && broken.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Runs the kernel side on the oldest kernel that truename supports; its lines are shown if one fails.
fn other_kernel() -> Result<(Count, Vec<String>)> {
    let mut lines = Vec::new();
    let ran = Kernels::new(&root(), Choose::Quick)?
        .run(Series::Linux6_1, &mut |line| lines.push(line.to_owned()));
    if ran.0.failed > 0 {
        println!("{}", lines.join("\n"));
    }
    Ok(ran)
}
