//! The log on the standard error, whose level follows the configuration.

use std::{io::Write as _, sync::OnceLock};

use env_logger::Logger;
use log::{Level, LevelFilter, Log, Metadata, Record};
use parking_lot::RwLock;

/// The one logger of the process.
static CURRENT: OnceLock<Switch> = OnceLock::new();

/// A logger that can be replaced.
struct Switch(RwLock<Logger>);

impl Log for Switch {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let logger = self.0.read();
        logger.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        let logger = self.0.read();
        logger.log(record);
    }

    fn flush(&self) {
        let logger = self.0.read();
        logger.flush();
    }
}

/// Whether the standard error goes to the journal of systemd (`systemd.exec(5)`).
fn is_journal() -> bool {
    let stream = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    let of = |number: Option<&str>| number.and_then(|number| number.parse().ok());
    let mut numbers = stream.splitn(2, ':');
    let (device, inode): (Option<u64>, Option<u64>) = (of(numbers.next()), of(numbers.next()));
    rustix::fs::fstat(std::io::stderr())
        .is_ok_and(|found| Some(found.st_dev) == device && Some(found.st_ino) == inode)
}

/// A level as `syslog(3)` numbers it.
const fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

/// Logs at this level from now on; begins to log when it is called first. The variable `RUST_LOG`
/// overrides it.
pub fn follow(level: LevelFilter) {
    let mut builder = env_logger::Builder::new();
    builder
        .filter_level(LevelFilter::Warn)
        .filter_module("truename", level);
    if is_journal() {
        // The journal has the time, and takes the priority from the front of a line.
        builder.format(|buffer, record| {
            let priority = priority(record.level());
            writeln!(buffer, "<{priority}>{}: {}", record.target(), record.args())
        });
    }
    if let Ok(filter) = std::env::var("RUST_LOG") {
        builder.parse_filters(&filter);
    }
    let logger = builder.build();
    let most = logger.filter();
    match CURRENT.get() {
        Some(Switch(current)) => {
            *current.write() = logger;
        }
        None => {
            let switch = CURRENT.get_or_init(|| Switch(RwLock::new(logger)));
            // Another logger was set by whoever uses this as a library: it stays.
            let _ = log::set_logger(switch);
        }
    }
    log::set_max_level(most);
}
