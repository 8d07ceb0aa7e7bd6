//! What can be wrong with a configuration. Every message is one line: the place, the thing, and
//! what to write instead.

use std::{io, path::PathBuf};

use super::{Listen, Origin};

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not TOML.
    #[error("{origin}: this is not TOML: {message}")]
    Syntax {
        /// Where.
        origin: Origin,
        /// The parser's words, on one line.
        message: String,
    },
    /// A key or section that does not exist.
    #[error("{origin}: unknown key \"{key}\" in {section}{hint}")]
    UnknownKey {
        /// Where.
        origin: Origin,
        /// The key.
        key: String,
        /// The section, as it is written in the file.
        section: String,
        /// The nearest valid name, as a clause.
        hint: String,
    },
    /// A key that must be there.
    #[error("{origin}: {section} needs the key \"{key}\", e.g. {example}")]
    MissingKey {
        /// Where the section begins.
        origin: Origin,
        /// The section.
        section: String,
        /// The key.
        key: &'static str,
        /// A valid value.
        example: &'static str,
    },
    /// A value of another type.
    #[error("{origin}: \"{key}\" must be {wanted}, not {found}")]
    WrongType {
        /// Where.
        origin: Origin,
        /// The key.
        key: String,
        /// The type that is needed.
        wanted: &'static str,
        /// The type that was found.
        found: &'static str,
    },
    /// A value of the right type that means nothing.
    #[error("{origin}: {what} \"{}\": {reason}", without_password(value))]
    BadValue {
        /// Where.
        origin: Origin,
        /// What the value is for.
        what: String,
        /// The value.
        value: String,
        /// What is wrong with it and what to write.
        reason: String,
    },
    /// An interface that this host does not have, or not yet.
    #[error(
        "{origin}: unknown interface \"{name}\": here are {present}; an interface that appears later is selected by a glob, e.g. \"{name}*\""
    )]
    NoInterface {
        /// Where.
        origin: Origin,
        /// Its name.
        name: String,
        /// Those that there are.
        present: String,
    },
    /// Two endpoints, or two services, with one name.
    #[error("{second}: the {what} name \"{name}\" is already used at {first}")]
    DuplicateName {
        /// `endpoint` or `service`.
        what: &'static str,
        /// The name.
        name: String,
        /// Where it was used first.
        first: Origin,
        /// Where it was used again.
        second: Origin,
    },
    /// Two endpoints, or two services, for one socket.
    #[error(transparent)]
    Overlap(Box<Overlap>),
    /// A target of a service that contradicts something.
    #[error(transparent)]
    Target(Box<Clash>),
    /// A service that gives no target a share.
    #[error(
        "{origin}: all targets of the service \"{name}\" have weight 0; give at least one a weight"
    )]
    NoWeight {
        /// Where the service is.
        origin: Origin,
        /// Its name.
        name: String,
    },
    /// A target that nobody can ever tell where it is.
    #[error(
        "{origin}: no source tells who has the target {target} of the service \"{name}\": set source or ha in [topology] (workers are told by source = \"flink\" or \"file\")"
    )]
    NoTopology {
        /// Where the target is.
        origin: Origin,
        /// The service.
        name: String,
        /// Its target.
        target: String,
    },
    /// Nothing to do.
    #[error(
        "no endpoint, no service and no cluster is configured: give --cluster URL, --endpoint pekko=ADDRESS:PORT or --service tcp=ADDRESS:PORT=TARGET, or write [topology], an [[endpoint]] or a [[service]] into the configuration file"
    )]
    Nothing,
    /// What a running agent cannot take on.
    #[error("{what} cannot change while truename runs: {remedy}")]
    Fixed {
        /// The key with both values.
        what: String,
        /// What to do.
        remedy: &'static str,
    },
    /// More endpoints than the kernel table holds.
    #[error("{origin}: {count} {what} are more than the {max} that fit the kernel table")]
    TooMany {
        /// Where the first one too many is.
        origin: Origin,
        /// What there is too much of.
        what: &'static str,
        /// How many there are.
        count: usize,
        /// How many fit.
        max: usize,
    },
}

/// Two endpoints, or two services, for one socket.
#[derive(Debug, thiserror::Error)]
#[error(
    "{second}: the {what} \"{name}\" listens on {listen}, which overlaps {other_listen} of the {what} \"{other}\" at {first}; keep one of them"
)]
pub struct Overlap {
    /// `endpoint` or `service`.
    pub what: &'static str,
    /// The second one.
    pub name: String,
    /// Its address.
    pub listen: Listen,
    /// The first one.
    pub other: String,
    /// Its address.
    pub other_listen: Listen,
    /// Where the first is.
    pub first: Origin,
    /// Where the second is.
    pub second: Origin,
}

/// A target of a service that contradicts something else.
#[derive(Debug, thiserror::Error)]
#[error("{second}: the target {target} of the service \"{service}\" {reason} (see {first})")]
pub struct Clash {
    /// The service.
    pub service: String,
    /// Its target.
    pub target: String,
    /// What is wrong and what to write.
    pub reason: String,
    /// Where the other thing is.
    pub first: Origin,
    /// Where the target is.
    pub second: Origin,
}

/// A text as it may be printed: what stands before the host of a URL, or a user with a colon behind it, may be a password.
/// In the address of an actor it is the name of a system.
pub fn without_password(text: &str) -> String {
    let (before, rest) = match text.split_once("://") {
        Some((scheme, _)) if scheme.ends_with(".tcp") => return text.to_owned(),
        Some((_, rest)) => text.split_at(text.len() - rest.len()),
        None => ("", text),
    };
    let authority = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    match rest[..authority].rfind('@') {
        Some(at) if !before.is_empty() || rest[..at].contains(':') => {
            format!("{before}…{}", &rest[at..])
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_not_printed() {
        for (text, shown) in [
            ("http://user:secret@jm:8081/a@b", "http://…@jm:8081/a@b"),
            ("http://jm:8081/a@b", "http://jm:8081/a@b"),
            ("pekko.tcp://flink@jm:6123", "pekko.tcp://flink@jm:6123"),
            ("jm:8081", "jm:8081"),
            ("user:secret@zk1:2181", "…@zk1:2181"),
            ("flink@jm:6123", "flink@jm:6123"),
            (
                "tcp=10.0.0.10:80=http://user:secret@jm:80",
                "tcp=10.0.0.10:80=http://…@jm:80",
            ),
            ("tcp=10.0.0.10:80=user:secret@jm:80", "…@jm:80"),
        ] {
            assert_eq!(without_password(text), shown);
        }
    }
}
