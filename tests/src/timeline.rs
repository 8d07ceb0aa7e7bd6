//! What a long run tells its user: short lines with the time since the start.

use std::time::Instant;

/// How lines begin that tell what a test measured.
pub const MEASURED: &str = "measured: ";

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
        if !self.silent {
            println!("{MEASURED}{what}");
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
