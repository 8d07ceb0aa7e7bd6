//! A virtual machine that boots a kernel, runs jobs and ends.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context as _, Result};
use truename_tests::{process::Process, scratch::Scratch};

use super::{Job, image::Image, kernel::Kernel};
use crate::command::command;

/// How long the kernel may take to its first program. Five seconds are usual, nothing is fast here.
const BOOT: Duration = Duration::from_secs(120);
/// How long the machine may take beyond the jobs' own times.
const SPARE: Duration = Duration::from_secs(20);
/// How many lines of the kernel's log an error shows.
const TAIL: usize = 20;

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
    console: std::path::PathBuf,
    /// The lines that were read.
    mark: usize,
}

impl Machine {
    /// Packs the image and boots the kernel with it.
    pub(crate) fn boot(
        kernel: &Kernel,
        image: Image,
        jobs: &[Job],
        scratch: &Scratch,
    ) -> Result<Self> {
        let archive = scratch.path().join("initramfs");
        let console = scratch.path().join("console");
        image.pack(jobs, kernel, &archive)?;
        // It dies with this process.
        let mut qemu = command("setpriv", &["--pdeathsig", "KILL", "qemu-system-x86_64"]);
        // No KVM: it is missing, or hangs, where the host is a virtual machine itself.
        qemu.args(["-accel", "tcg", "-cpu", "max", "-smp", "2", "-m", "3G"])
            .args(["-nodefaults", "-no-user-config", "-no-reboot"])
            .args(["-display", "none"])
            .arg("-kernel")
            .arg(kernel.image())
            .arg("-initrd")
            .arg(&archive)
            .args(["-append", "console=ttyS0 loglevel=5 panic=-1 oops=panic"])
            .arg("-serial")
            .arg(format!("file:{}", console.display()))
            .args(["-serial", "stdio"]);
        let qemu = Process::spawn("qemu", qemu, scratch.path())?;
        let mut machine = Self {
            qemu,
            console,
            mark: 0,
        };
        machine.wait("vm: up ", BOOT).context("boot")?;
        Ok(machine)
    }

    /// Waits for the end of a job. They end in the order in which they were given.
    pub(crate) fn wait_job(&mut self, job: &Job) -> Result<Ended> {
        let end = format!("vm: end {} ", job.name);
        let (lines, last) = self
            .wait(&end, job.timeout + SPARE)
            .context(job.name.clone())?;
        let status = last.strip_prefix(&end).unwrap_or(&last);
        let begin = format!("vm: begin {}", job.name);
        let lines: Vec<String> = lines.into_iter().filter(|line| *line != begin).collect();
        Ok(Ended {
            output: lines.join("\n"),
            status: status
                .parse()
                .with_context(|| format!("the machine said {last:?}"))?,
        })
    }

    /// Waits for a line; answers those before it, and it.
    fn wait(&mut self, start: &str, timeout: Duration) -> Result<(Vec<String>, String)> {
        let last = self
            .qemu
            .wait_line(self.mark, &[start], timeout)
            .with_context(|| format!("the kernel's last lines:\n{}", self.tail()))?;
        let mut lines = self.qemu.lines(self.mark);
        let end = lines.iter().position(|line| *line == last);
        lines.truncate(end.unwrap_or(lines.len()));
        self.mark += lines.len() + 1;
        Ok((lines, last))
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
