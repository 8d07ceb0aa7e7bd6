//! Processes whose output is read line by line, so that a test can wait for what they say.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Read, Write as _},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::sys;

/// How many lines of a process an error shows.
const TAIL: usize = 12;

/// A running process; killed and reaped on drop.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: Arc<Log>,
    readers: Vec<JoinHandle<()>>,
}

/// The lines a process wrote, on standard output and standard error together.
#[derive(Debug, Default)]
struct Log {
    state: Mutex<Lines>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Lines {
    lines: Vec<String>,
    open_streams: usize,
}

impl Log {
    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Process {
    /// Starts `command`; its output goes to `<directory>/<name>.log` as well.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn spawn(name: &str, mut command: Command, directory: &Path) -> Result<Self> {
        let path = directory.join(format!("{name}.log"));
        let file = File::options()
            .create(true)
            .append(true)
            .open(&path)
            .with_context(|| format!("open {}", path.display()))?;
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| {
                format!("start {name} ({})", command.get_program().to_string_lossy())
            })?;
        let log = Arc::new(Log::default());
        let streams: [Option<Box<dyn Read + Send>>; 2] = [
            child.stdout.take().map(|stream| Box::new(stream) as _),
            child.stderr.take().map(|stream| Box::new(stream) as _),
        ];
        log.lock().open_streams = streams.len();
        let mut readers = Vec::new();
        for stream in streams.into_iter().flatten() {
            let (log, file) = (Arc::clone(&log), file.try_clone().context("share the log")?);
            readers.push(std::thread::spawn(move || read_lines(stream, &log, file)));
        }
        Ok(Self {
            name: name.to_owned(),
            child,
            log,
            readers,
        })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The number of lines so far: a place to wait from.
    pub fn mark(&self) -> usize {
        self.log.lock().lines.len()
    }

    /// Waits for a line after `mark` that contains all of `words`.
    ///
    /// # Errors
    /// The deadline passed or the process ended.
    pub fn wait_line(&self, mark: usize, words: &[&str], timeout: Duration) -> Result<String> {
        let is_it = |line: &str| words.iter().all(|word| line.contains(word));
        self.wait_such_line(mark, is_it, &format!("{words:?}"), timeout)
    }

    /// Waits for a line after `mark` that is `whole`.
    ///
    /// # Errors
    /// The deadline passed or the process ended.
    pub fn wait_whole_line(&self, mark: usize, whole: &str, timeout: Duration) -> Result<String> {
        self.wait_such_line(mark, |line| line == whole, whole, timeout)
    }

    fn wait_such_line(
        &self,
        mark: usize,
        is_it: impl Fn(&str) -> bool,
        wanted: &str,
        timeout: Duration,
    ) -> Result<String> {
        let deadline = Instant::now() + timeout;
        let mut lines = self.log.lock();
        let mut seen = mark;
        loop {
            if let Some(line) = lines.lines[seen.min(lines.lines.len())..]
                .iter()
                .find(|line| is_it(line))
            {
                return Ok(line.clone());
            }
            seen = lines.lines.len();
            let left = deadline.saturating_duration_since(Instant::now());
            if lines.open_streams == 0 || left.is_zero() {
                let why = if left.is_zero() {
                    format!("within {timeout:?}")
                } else {
                    "before it ended".to_owned()
                };
                bail!(
                    "{} did not say {wanted} {why}; its last lines:\n{}",
                    self.name,
                    lines.lines[seen.saturating_sub(TAIL)..].join("\n")
                );
            }
            lines = self
                .log
                .changed
                .wait_timeout(lines, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// The lines after `mark`.
    pub fn lines(&self, mark: usize) -> Vec<String> {
        let lines = self.log.lock();
        lines.lines[mark.min(lines.lines.len())..].to_vec()
    }

    /// How many lines after `mark` contain all of `words`.
    pub fn count_lines(&self, mark: usize, words: &[&str]) -> usize {
        let lines = self.log.lock();
        lines.lines[mark.min(lines.lines.len())..]
            .iter()
            .filter(|line| words.iter().all(|word| line.contains(word)))
            .count()
    }

    /// How long its threads together have waited for a processor, which on a busy machine is much.
    ///
    /// # Errors
    /// It is gone.
    pub fn waited(&self) -> Result<Duration> {
        let mut nanoseconds = 0;
        for thread in fs::read_dir(format!("/proc/{}/task", self.pid()))? {
            // A thread may end meanwhile.
            let text = fs::read_to_string(thread?.path().join("schedstat")).unwrap_or_default();
            let second = text.split_whitespace().nth(1);
            nanoseconds += second.map_or(Ok(0), str::parse::<u64>)?;
        }
        Ok(Duration::from_nanos(nanoseconds))
    }

    /// Stops the process in its tracks (SIGSTOP).
    ///
    /// # Errors
    /// It is gone.
    pub fn pause(&self) -> Result<()> {
        self.signal(libc::SIGSTOP)
    }

    /// Lets a paused process go on (SIGCONT).
    ///
    /// # Errors
    /// It is gone.
    pub fn resume(&self) -> Result<()> {
        self.signal(libc::SIGCONT)
    }

    /// Asks the process to read its configuration again (SIGHUP).
    ///
    /// # Errors
    /// It is gone.
    pub fn hang_up(&self) -> Result<()> {
        self.signal(libc::SIGHUP)
    }

    /// Asks the process to end (SIGTERM) and waits for it.
    ///
    /// # Errors
    /// It is still there after `timeout`.
    pub fn terminate(&mut self, timeout: Duration) -> Result<ExitStatus> {
        self.signal(libc::SIGTERM)?;
        self.wait_end(timeout)
    }

    /// Interrupts the process, as a terminal does (SIGINT), and waits for its end.
    ///
    /// # Errors
    /// It is still there after `timeout`.
    pub fn interrupt(&mut self, timeout: Duration) -> Result<ExitStatus> {
        self.signal(libc::SIGINT)?;
        self.wait_end(timeout)
    }

    fn wait_end(&mut self, timeout: Duration) -> Result<ExitStatus> {
        crate::wait::wait_until(timeout, &format!("end of {}", self.name), || {
            self.child
                .try_wait()?
                .with_context(|| format!("{} is still running", self.name))
        })
    }

    /// Whether it has ended by itself.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn has_ended(&mut self) -> Result<bool> {
        let ended = self.child.try_wait();
        Ok(ended
            .with_context(|| format!("look at {}", self.name))?
            .is_some())
    }

    /// Kills the process (SIGKILL) and reaps it.
    pub fn kill(&mut self) {
        // Both fail only when the process was reaped before.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn signal(&self, signal: libc::c_int) -> Result<()> {
        sys::kill(self.pid(), signal)
            .with_context(|| format!("signal {signal} to {} ({})", self.name, self.pid()))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        for reader in self.readers.drain(..) {
            // A reader cannot panic, and there is nobody to tell.
            let _ = reader.join();
        }
    }
}

fn read_lines(stream: impl Read, log: &Log, mut file: File) {
    let mut stream = BufReader::new(stream);
    let mut raw = Vec::new();
    while let Ok(1..) = stream.read_until(b'\n', &mut raw) {
        // A full disk must not stop the process under test.
        let _ = file.write_all(&raw);
        let line = String::from_utf8_lossy(&raw).trim_end().to_owned();
        raw.clear();
        log.lock().lines.push(line);
        log.changed.notify_all();
    }
    log.lock().open_streams -= 1;
    log.changed.notify_all();
}
