//! What a long run tells its user: short lines with the time since the start.

use std::{env, fs::File, io::Write as _, time::Instant};

/// The file that what is measured is written to as well: a runner shows nothing else of a test that succeeds.
pub const MEASURED: &str = "TRUENAME_MEASURED";

/// Prints to standard output, or nowhere.
#[derive(Debug)]
pub struct Timeline {
    start: Instant,
    silent: bool,
}

impl Timeline {
    /// Starts the clock.
    pub fn new() -> Self {
        Self {
            start: Instant::now(),
            silent: false,
        }
    }

    /// One that says nothing.
    pub fn silent() -> Self {
        Self {
            start: Instant::now(),
            silent: true,
        }
    }

    /// Prints a line with the time.
    pub fn say(&self, what: &str) {
        if !self.silent {
            println!("{:6.1} s  {what}", self.start.elapsed().as_secs_f64());
        }
    }

    /// Prints a line that tells what was measured, which is shown also where the test succeeds.
    pub fn measured(&self, what: &str) {
        if self.silent {
            return;
        }
        println!("measured: {what}");
        let Some(path) = env::var_os(MEASURED) else {
            return;
        };
        // One write for a line: tests that run at the same time write to the same file.
        let file = File::options().create(true).append(true).open(&path);
        if let Err(error) = file.and_then(|mut file| file.write_all(format!("{what}\n").as_bytes()))
        {
            println!("cannot write to {}: {error}", path.display());
        }
    }

    /// Prints a heading between two parts.
    pub fn heading(&self, what: &str) {
        if !self.silent {
            println!("\n{what}");
        }
    }

    /// Prints the output of a program, indented.
    pub fn quote(&self, text: &str) {
        if !self.silent {
            for line in text.lines() {
                println!("          {line}");
            }
        }
    }
}

impl Default for Timeline {
    fn default() -> Self {
        Self::new()
    }
}
