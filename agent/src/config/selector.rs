//! What `interfaces` may hold: `auto`, names and globs.

use std::{fmt, str::FromStr};

/// Longest interface name (`IFNAMSIZ` without the terminating zero).
const NAME_MAX: usize = 15;

/// Selects interfaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selector {
    /// Those with a default route, `lo`, and the host sides of containers' veths.
    Auto,
    /// One, by its name.
    Name(String),
    /// All whose name matches; none is fine.
    Glob(glob::Pattern),
}

/// Why a text selects nothing.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// Not a name the kernel allows.
    #[error(
        "an interface name has 1 to 15 bytes and no slash or space; write auto, a name, or a glob like veth*"
    )]
    BadName,
    /// Not a glob.
    #[error("the glob is wrong: {0}")]
    BadGlob(&'static str),
}

impl Selector {
    /// Whether an interface of this name is selected by name or glob.
    pub fn matches(&self, name: &str) -> bool {
        match self {
            Self::Auto => false,
            Self::Name(wanted) => wanted == name,
            Self::Glob(pattern) => pattern.matches(name),
        }
    }
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        let bad = |c: char| c == '/' || c.is_whitespace() || c.is_control();
        if text.is_empty() || text == "." || text == ".." || text.contains(bad) {
            return Err(SelectorError::BadName);
        }
        if text.contains(['*', '?', '[']) {
            return glob::Pattern::new(text)
                .map(Self::Glob)
                .map_err(|error| SelectorError::BadGlob(error.msg));
        }
        if text.len() > NAME_MAX {
            return Err(SelectorError::BadName);
        }
        Ok(Self::Name(text.to_owned()))
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Name(name) => f.write_str(name),
            Self::Glob(pattern) => f.write_str(pattern.as_str()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_names_and_globs() {
        assert_eq!("auto".parse(), Ok(Selector::Auto));
        assert_eq!("eth0".parse(), Ok(Selector::Name("eth0".to_owned())));
        let glob: Selector = "veth*".parse().unwrap();
        assert!(glob.matches("veth1a2b") && !glob.matches("eth0"));
        assert_eq!(glob.to_string(), "veth*");
    }

    #[test]
    fn refuses_what_the_kernel_refuses() {
        for text in ["", "a b", "a/b", ".", "interface-with-long-name"] {
            assert_eq!(
                text.parse::<Selector>(),
                Err(SelectorError::BadName),
                "{text}"
            );
        }
        assert!(matches!(
            "veth[".parse::<Selector>(),
            Err(SelectorError::BadGlob(_))
        ));
    }
}
