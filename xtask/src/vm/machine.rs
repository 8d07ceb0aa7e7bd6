//! A virtual machine that boots a kernel, runs jobs and ends.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use truename_tests::process::Process;

use super::{Job, UP, image::Image, kernel::Kernel};
use crate::command::command;

/// How long the kernel may take to its first program. Five seconds are usual, nothing is fast here.
const BOOT: Duration = Duration::from_secs(120);
/// How long the machine may take beyond the jobs' own times.
const SPARE: Duration = Duration::from_secs(20);
/// How many lines of the kernel's log an error shows.
const TAIL: usize = 40;

/// What the kernel is told. Where the host is busy it takes the clock for broken, and another one costs more.
const APPEND: &str = "console=ttyS0 loglevel=5 panic=-1 oops=panic tsc=reliable";

/// How a job ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// What it printed.
    pub(crate) output: String,
    /// What its program ended with; nothing if the machine did not come so far.
    pub(crate) status: i32,
}

/// A running machine; it ends with this value.
#[derive(Debug)]
pub(crate) struct Machine {
    qemu: Process,
    console: PathBuf,
    /// The lines that were read.
    mark: usize,
}

impl Machine {
    /// Packs the image, boots the kernel with it, and answers what the machine says first.
    pub(crate) fn boot(
        kernel: &Kernel,
        image: &Image,
        jobs: &[Job],
        directory: &Path,
    ) -> Result<(Self, String)> {
        let archive = directory.join("initramfs");
        let console = directory.join("console");
        image.pack(jobs, kernel, &archive)?;
        // It dies with this process.
        let mut qemu = command("setpriv", &["--pdeathsig", "KILL", "qemu-system-x86_64"]);
        // No KVM: it is missing, or hangs, where the host is a virtual machine itself. Without it the kernel is
        // a fifth faster on a processor that copies without `rep movsb`.
        qemu.args(["-accel", "tcg", "-cpu", "Nehalem", "-smp", "2", "-m", "3G"])
            .args(["-nodefaults", "-no-user-config", "-no-reboot"])
            .args(["-display", "none"])
            .arg("-kernel")
            .arg(kernel.image())
            .arg("-initrd")
            .arg(&archive)
            .args(["-append", APPEND])
            .arg("-serial")
            .arg(format!("file:{}", console.display()))
            .args(["-serial", "stdio"]);
        let qemu = Process::spawn("qemu", qemu, directory)?;
        let mut machine = Self {
            qemu,
            console,
            mark: 0,
        };
        let start = machine.wait_start()?;
        Ok((machine, start))
    }

    /// Waits for the end of a job, and hands out its lines as they come. Jobs end in the order in which they
    /// were given.
    pub(crate) fn wait_job(&mut self, job: &Job, mut heard: impl FnMut(&str)) -> Result<Ended> {
        let (begin, end) = (job.begin(), job.end());
        let deadline = Instant::now() + job.timeout + SPARE;
        let mut lines = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.next_line(left).context(job.name.clone())?;
            if let Some(status) = line.strip_prefix(&end) {
                return Ok(Ended {
                    output: lines.join("\n"),
                    status: status
                        .parse()
                        .with_context(|| format!("the machine said {line:?}"))?,
                });
            }
            if line != begin {
                heard(&line);
                lines.push(line);
            }
        }
    }

    /// Waits for the first line of the first program.
    fn wait_start(&mut self) -> Result<String> {
        let deadline = Instant::now() + BOOT;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.next_line(left).context("boot")?;
            if let Some(start) = line.strip_prefix(UP) {
                return Ok(start.to_owned());
            }
        }
    }

    fn next_line(&mut self, timeout: Duration) -> Result<String> {
        let line = self
            .qemu
            .wait_line(self.mark, &[], timeout)
            .with_context(|| {
                let tail = self.tail();
                format!("the machine hangs or has ended; its kernel's last lines:\n{tail}\n")
            })?;
        self.mark += 1;
        Ok(line)
    }

    fn tail(&self) -> String {
        tail(&self.console)
    }
}

fn tail(file: &Path) -> String {
    let text = fs::read(file).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    lines[lines.len().saturating_sub(TAIL)..].join("\n")
}
