//! The log on the standard error, whose level follows the configuration.

use std::sync::{OnceLock, PoisonError, RwLock};

use env_logger::Logger;
use log::{LevelFilter, Log, Metadata, Record};

/// The one logger of the process.
static CURRENT: OnceLock<Switch> = OnceLock::new();

/// A logger that can be replaced.
struct Switch(RwLock<Logger>);

impl Log for Switch {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let logger = self.0.read().unwrap_or_else(PoisonError::into_inner);
        logger.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        let logger = self.0.read().unwrap_or_else(PoisonError::into_inner);
        logger.log(record);
    }

    fn flush(&self) {
        let logger = self.0.read().unwrap_or_else(PoisonError::into_inner);
        logger.flush();
    }
}

/// Logs at this level from now on; begins to log when it is called first. The variable `RUST_LOG`
/// overrides it.
pub fn follow(level: LevelFilter) {
    let mut builder = env_logger::Builder::new();
    builder
        .filter_level(LevelFilter::Warn)
        .filter_module("truename", level);
    if let Ok(filter) = std::env::var("RUST_LOG") {
        builder.parse_filters(&filter);
    }
    let logger = builder.build();
    let most = logger.filter();
    match CURRENT.get() {
        Some(Switch(current)) => {
            *current.write().unwrap_or_else(PoisonError::into_inner) = logger;
        }
        None => {
            let switch = CURRENT.get_or_init(|| Switch(RwLock::new(logger)));
            // Another logger was set by whoever uses this as a library: it stays.
            let _ = log::set_logger(switch);
        }
    }
    log::set_max_level(most);
}
