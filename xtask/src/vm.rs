//! Other kernels, in a virtual machine.

mod image;
mod kernel;
mod machine;
mod suite;

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use truename_tests::{budget::Measured, scratch::Scratch};

use image::Image;
use kernel::Kernel;
pub(crate) use kernel::{Choice, Series};
use machine::Machine;
pub(crate) use suite::{Arguments, Choose, Kernels, run, topics};

/// How the machine says that its kernel runs; the release and the seconds it took follow.
const UP: &str = "vm: up ";

/// What the machine is to do.
#[derive(Clone, Debug)]
struct Job {
    name: String,
    /// A line of the shell.
    script: String,
    /// When it is killed.
    timeout: Duration,
}

impl Job {
    /// The call of `run` in the machine's first program.
    fn line(&self) -> String {
        format!(
            "run '{}' {} '{}'\n",
            self.name,
            self.timeout.as_secs(),
            self.script
        )
    }

    /// What the machine says before it.
    fn begin(&self) -> String {
        format!("vm: begin {}", self.name)
    }

    /// What the machine says after it; the status follows.
    fn end(&self) -> String {
        format!("vm: end {} ", self.name)
    }
}

/// Measures what the programs of an object cost on another kernel.
pub(crate) fn measure(series: Series, object: &Path) -> Result<Measured> {
    let kernel = Kernel::fetch(series)?;
    let scratch = Scratch::new("vm")?;
    let mut image = Image::new(&scratch.path().join("root"))?;
    let own = std::env::current_exe().context("find the running program")?;
    image.program(&own, Path::new("/usr/bin/xtask"))?;
    image.copy(object, Path::new("/object"))?;
    let job = Job {
        name: "budget".to_owned(),
        script: "xtask budget --object /object --json".to_owned(),
        timeout: Duration::from_secs(300),
    };
    let (mut machine, _) =
        Machine::boot(&kernel, &image, std::slice::from_ref(&job), scratch.path())?;
    let ended = machine.wait_job(&job, |_| ())?;
    ensure!(ended.status == 0, "{}", ended.output);
    // Warnings may stand before it.
    let json = ended.output.lines().last().unwrap_or_default();
    Measured::from_json(json)
        .with_context(|| format!("Linux {} said {}", series.name(), ended.output))
}
