//! `cargo xtask fuzz`: searches for inputs that the stream engine, or the relay's recoder, fails on, guided by its coverage.
//!
//! The targets are libFuzzer's, in the layout of cargo-fuzz, and built by cargo alone: LLVM's coverage counters are a pass
//! that the stable compiler has. Besides Rust it needs a C++ compiler, for libFuzzer itself.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{ExitCode, Stdio},
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    command::{self, cargo, command, root, target_directory},
    count::{Count, line},
};

/// What counts the branches that an input takes, and what it compares with what.
const COVERAGE: [&str; 5] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];
/// Bytes of an input, at the most.
const LONGEST: u32 = 3000;
/// Inputs that the suite plays, and what it begins with: with one number for both, every machine searches the same.
const SHORT: u64 = 40_000;
const SEED: u32 = 1;
/// Seconds after which an input is taken for one that does not end.
const PATIENCE: u32 = 20;

/// What is searched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Fuzzed {
    /// The stream engine
    Stream,
    /// The relay's recoder
    Relay,
}

impl Fuzzed {
    const ALL: [Self; 2] = [Self::Stream, Self::Relay];

    /// The name of the program, and of the directories of its inputs.
    const fn name(self) -> &'static str {
        match self {
            Self::Stream => "stream",
            Self::Relay => "relay",
        }
    }

    /// Inputs that are found.
    fn found_corpus(self) -> PathBuf {
        match self {
            Self::Stream => target_directory().join("fuzz/corpus"),
            Self::Relay => target_directory().join("fuzz/corpus-relay"),
        }
    }
}

/// When a search ends.
#[derive(Clone, Copy)]
enum Until {
    Inputs(u64),
    Minutes(u64),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// What is searched
    #[arg(long, value_enum, default_value = "stream")]
    target: Fuzzed,
    /// How long it searches
    #[arg(long, value_name = "M", default_value_t = 10)]
    minutes: u64,
    /// The number that the search begins with [default: another one each time]
    #[arg(long, value_name = "N")]
    seed: Option<u32>,
    /// Where inputs are kept that cover something new [default: target/fuzz/corpus]
    #[arg(long, value_name = "DIRECTORY")]
    corpus: Option<PathBuf>,
    /// Play one input and show what it does
    #[arg(long, value_name = "FILE", conflicts_with_all = ["seed", "corpus"])]
    show: Option<PathBuf>,
    /// Replace the inputs in the repository by the fewest of all that cover as much
    #[arg(long, conflicts_with_all = ["seed", "show"])]
    update: bool,
}

/// Searches, or plays one input.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let target = Target::build(arguments.target)?;
    if let Some(input) = &arguments.show {
        let mut show = command(&target.binary, &[]);
        show.arg(fs::canonicalize(input).with_context(|| format!("find {}", input.display()))?)
            .env("TRUENAME_FUZZ_SHOW", "1");
        command::run(show).context("the input fails")?;
        return Ok(ExitCode::SUCCESS);
    }
    let corpus = match &arguments.corpus {
        Some(corpus) => corpus.clone(),
        None => arguments.target.found_corpus(),
    };
    if arguments.update {
        return target.update(&corpus).map(|()| ExitCode::SUCCESS);
    }
    let searched = target.search(&corpus, arguments.seed, Until::Minutes(arguments.minutes))?;
    println!("{}", searched.text);
    Ok(if searched.is_good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The short searches that are part of the suite.
pub(crate) fn short() -> Result<(Count, Vec<String>)> {
    let mut count = Count::default();
    let mut broken = Vec::new();
    for fuzzed in Fuzzed::ALL {
        let (passed, failed) = short_of(fuzzed)?;
        count.add(passed);
        broken.extend(failed);
    }
    Ok((count, broken))
}

fn short_of(fuzzed: Fuzzed) -> Result<(Count, Vec<String>)> {
    let start = Instant::now();
    // What an earlier search has found is not begun with: every run of the suite does the same.
    let corpus = target_directory().join("fuzz/suite");
    if corpus.exists() {
        fs::remove_dir_all(&corpus).with_context(|| format!("remove {}", corpus.display()))?;
    }
    let searched = Target::build(fuzzed)?.search(&corpus, Some(SEED), Until::Inputs(SHORT))?;
    let mut count = Count::default();
    let mut broken = Vec::new();
    if searched.is_good {
        count.passed += 1;
    } else {
        count.failed += 1;
        broken.push(format!("fuzzing {}", fuzzed.name()));
    }
    println!("           {}", searched.text);
    line(
        start.elapsed(),
        &format!("fuzzing {}: {count}", fuzzed.name()),
    );
    Ok((count, broken))
}

/// The program that plays inputs.
struct Target {
    fuzzed: Fuzzed,
    binary: PathBuf,
}

/// How a search ended.
struct Searched {
    is_good: bool,
    text: String,
}

impl Target {
    fn build(fuzzed: Fuzzed) -> Result<Self> {
        let host = host()?;
        let mut build = cargo(&[
            "build",
            "--quiet",
            "--profile",
            "fuzz",
            "--package",
            "truename-fuzz",
            "--bin",
            fuzzed.name(),
            "--target",
            &host,
        ]);
        build
            .env_remove("CARGO_ENCODED_RUSTFLAGS")
            .env("RUSTFLAGS", COVERAGE.join(" "));
        command::run(build).context("build the fuzz target")?;
        let directory = target_directory();
        Ok(Self {
            fuzzed,
            binary: directory.join(host).join("fuzz").join(fuzzed.name()),
        })
    }

    /// Searches for `seconds`, from the inputs in `corpus` and in the repository on.
    fn search(&self, corpus: &Path, seed: Option<u32>, until: Until) -> Result<Searched> {
        let found = target_directory().join("fuzz/found");
        for directory in [corpus, &found] {
            fs::create_dir_all(directory)
                .with_context(|| format!("create {}", directory.display()))?;
        }
        let log = target_directory().join("fuzz/log");
        let output = fs::File::create(&log).with_context(|| format!("create {}", log.display()))?;
        let mut search = command(&self.binary, &[]);
        search
            .arg(corpus)
            .arg(self.committed())
            .arg(match until {
                Until::Inputs(inputs) => format!("-runs={inputs}"),
                Until::Minutes(minutes) => format!("-max_total_time={}", minutes * 60),
            })
            .arg(format!("-max_len={LONGEST}"))
            .arg(format!("-timeout={PATIENCE}"))
            .arg(format!("-artifact_prefix={}/", found.display()))
            .args(seed.map(|seed| format!("-seed={seed}")))
            .args(["-len_control=20", "-print_final_stats=1"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(output);
        if let Until::Minutes(minutes) = until {
            println!(
                "searching for {minutes} min; what covers something new is kept in {}",
                corpus.display()
            );
        }
        let status = search.status().context("run the fuzz target")?;
        let output = fs::read(&log).with_context(|| format!("read {}", log.display()))?;
        let output = String::from_utf8_lossy(&output);
        let progress = Progress::read(&output)?;
        let text = if status.success() {
            progress.to_string()
        } else {
            let written = "Test unit written to ";
            let input = output
                .lines()
                .find_map(|line| Some(line.split_once(written)?.1.to_owned()))
                .unwrap_or_else(|| found.display().to_string());
            format!(
                "{}\n{progress}\nto see what the input does: cargo xtask fuzz --target {} --show {input}",
                failure(&output),
                self.fuzzed.name()
            )
        };
        Ok(Searched {
            is_good: status.success(),
            text,
        })
    }

    /// The inputs in the repository.
    fn committed(&self) -> PathBuf {
        root().join("fuzz/corpus").join(self.fuzzed.name())
    }

    /// Replaces the inputs in the repository.
    fn update(&self, corpus: &Path) -> Result<()> {
        let fewest = target_directory().join("fuzz/fewest");
        if fewest.exists() {
            fs::remove_dir_all(&fewest).with_context(|| format!("remove {}", fewest.display()))?;
        }
        fs::create_dir_all(&fewest).with_context(|| format!("create {}", fewest.display()))?;
        let mut merge = command(&self.binary, &["-merge=1", "-use_counters=0"]);
        merge.arg(&fewest).arg(self.committed()).arg(corpus);
        command::run_quietly(merge).context("look for the fewest inputs")?;
        let to = self.committed();
        fs::remove_dir_all(&to).with_context(|| format!("remove {}", to.display()))?;
        fs::create_dir_all(&to).with_context(|| format!("create {}", to.display()))?;
        let mut count = 0;
        for input in fs::read_dir(&fewest).context("list the fewest inputs")? {
            let input = input.context("list the fewest inputs")?;
            fs::copy(input.path(), to.join(input.file_name())).context("copy an input")?;
            count += 1;
        }
        println!("{count} inputs are in {}", to.display());
        Ok(())
    }
}

/// The platform that programs are built for: with it, flags are not those of build scripts, too.
fn host() -> Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let version = command::output(command(rustc, &["-vV"])).context("ask rustc for its version")?;
    version
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .map(str::to_owned)
        .context("rustc does not say what it builds for")
}

/// What a search did.
#[derive(Debug, PartialEq, Eq)]
struct Progress {
    executions: u64,
    rate: u64,
    /// Branches that were taken at the beginning, at the end, and that there are.
    coverage: [u64; 3],
}

impl Progress {
    /// Reads what libFuzzer printed.
    fn read(output: &str) -> Result<Self> {
        let behind = |line: &str, mark: &str| -> Option<u64> {
            let number = line.split_once(mark)?.1.trim_start();
            let end = number.find(|c: char| !c.is_ascii_digit());
            number[..end.unwrap_or(number.len())].parse().ok()
        };
        let last = |mark: &str| output.lines().rev().find_map(|line| behind(line, mark));
        let all = last("Loaded 1 PC tables (").unwrap_or(0);
        let first = output
            .lines()
            .filter(|line| line.contains("INITED"))
            .find_map(|line| behind(line, "cov:"))
            .unwrap_or(0);
        let covered = last(" cov:").unwrap_or(0);
        ensure!(
            all > 0 && covered > 0,
            "the fuzz target does not count what it covers: {}",
            failure(output)
        );
        Ok(Self {
            executions: last("stat::number_of_executed_units:").unwrap_or(0),
            rate: last("stat::average_exec_per_sec:").unwrap_or(0),
            coverage: [first, covered, all],
        })
    }
}

impl std::fmt::Display for Progress {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [first, covered, all] = self.coverage;
        write!(
            formatter,
            "{} inputs played, {} a second; {first} branches covered at first, {covered} of {all} at last",
            self.executions, self.rate
        )
    }
}

/// Why the target failed: the message of its panic, or the last that it said.
fn failure(output: &str) -> String {
    let lines: Vec<&str> = output.lines().collect();
    match lines.iter().position(|line| line.contains("panicked at")) {
        Some(at) => lines[at..]
            .iter()
            .take_while(|line| !line.starts_with("stack backtrace"))
            .copied()
            .collect::<Vec<_>>()
            .join("\n"),
        None => lines[lines.len().saturating_sub(8)..].join("\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
INFO: Loaded 1 modules   (5194 inline 8-bit counters): 5194 [0x1, 0x2),
INFO: Loaded 1 PC tables (5194 PCs): 5194 [0x1,0x2),
#87\tINITED cov: 1133 ft: 2634 corp: 72/573b exec/s: 0 rss: 28Mb
#132\tNEW    cov: 1224 ft: 2863 corp: 81/731b lim: 21 exec/s: 0 rss: 28Mb L: 19/21 MS: 4 CMP-
thread '<unnamed>' (1) panicked at fuzz/src/play.rs:1:2:
wrong
stack backtrace:
stat::number_of_executed_units: 137
stat::average_exec_per_sec:     12
";

    #[test]
    fn what_libfuzzer_prints_is_read() {
        let expected = Progress {
            executions: 137,
            rate: 12,
            coverage: [1133, 1224, 5194],
        };
        assert_eq!(Progress::read(OUTPUT).unwrap(), expected);
        assert!(failure(OUTPUT).ends_with("wrong"));
    }

    #[test]
    fn a_target_without_counters_is_noticed() {
        assert!(Progress::read("#1\tINITED cov: 0 ft: 0").is_err());
    }
}
