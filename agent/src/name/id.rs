//! The identifier of a worker.

use std::{fmt, str::FromStr};

use super::NameError;

/// Longest identifier of a worker, in bytes.
pub const ID_MAX: usize = 255;

/// The identifier of a worker; Flink's ResourceID.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id(String);

impl Id {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Id {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let good = |byte: u8| byte.is_ascii_graphic();
        if !(1..=ID_MAX).contains(&text.len()) || !text.bytes().all(good) {
            return Err(NameError::Id);
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn has_printable_characters_and_no_space() {
        for text in ["10.0.0.1:6122-a1b2c3", "taskmanager-1-1", "container_e01_2"] {
            assert_eq!(text.parse::<Id>().unwrap().as_str(), text);
        }
        for text in ["", "a b", "a\u{1b}[31m", "ä", &"x".repeat(256)] {
            assert_eq!(text.parse::<Id>(), Err(NameError::Id));
        }
    }
}
