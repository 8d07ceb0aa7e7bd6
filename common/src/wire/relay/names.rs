//! The names of a relayed connection, and how texts are compared with them.

use core::ops::Range;

use memchr::{memchr, memmem::Finder};

use super::{Direction, Names};
use crate::{
    layout::{AUTHORITY_MAX, Authority, SYSTEM_MAX},
    wire::authority::port_len,
};

/// A `host:port` that can stand in an actor path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Name {
    text: Authority,
    host_len: usize,
    port: u16,
}

impl Name {
    /// `None` if the text is no `host:port`.
    pub(super) fn new(text: &Authority) -> Option<Self> {
        let bytes = text.as_bytes();
        let digits = port_len(text);
        let host_len = bytes.len().checked_sub(digits + 1)?;
        let (host, port) = (bytes.get(..host_len)?, bytes.get(host_len + 1..)?);
        let port = port.iter().fold(0_u32, |port, digit| {
            port * 10 + u32::from(digit.wrapping_sub(b'0'))
        });
        let port = u16::try_from(port).ok().filter(|port| *port != 0)?;
        let is_literal = host.first() == Some(&b'[') && host.last() == Some(&b']');
        let good = |byte: &u8| {
            byte.is_ascii_alphanumeric()
                || matches!(byte, b'.' | b'-' | b'_')
                || is_literal && matches!(byte, b'[' | b']' | b':' | b'%')
        };
        (digits > 0 && !host.is_empty() && host.iter().all(good)).then_some(Self {
            text: *text,
            host_len,
            port,
        })
    }

    pub(super) fn authority(&self) -> &[u8] {
        self.text.as_bytes()
    }

    pub(super) fn text(&self) -> &Authority {
        &self.text
    }

    /// The host as it is written in paths: an IPv6 address has its brackets.
    pub(super) fn host(&self) -> &[u8] {
        self.authority().get(..self.host_len).unwrap_or_default()
    }

    /// The host without the brackets of an IPv6 address.
    fn bare_host(&self) -> &[u8] {
        let host = self.host();
        host.strip_prefix(b"[")
            .and_then(|host| host.strip_suffix(b"]"))
            .unwrap_or(host)
    }

    pub(super) fn is_host(&self, text: &[u8]) -> bool {
        text == self.host() || text == self.bare_host()
    }

    pub(super) const fn port(&self) -> u16 {
        self.port
    }
}

/// Where the authority of an actor path stands.
///
/// It begins behind `akka.tcp://<system>@` or `pekko.tcp://<system>@`, and ends at a slash or at the end of the path.
pub(super) fn authority_of(path: &[u8]) -> Option<Range<usize>> {
    let rest = path
        .strip_prefix(b"akka.tcp://")
        .or_else(|| path.strip_prefix(b"pekko.tcp://"))?;
    let first = |bytes: &[u8], most: usize| bytes.len().min(most + 1);
    let at = memchr(b'@', rest.get(..first(rest, SYSTEM_MAX))?)?;
    let system = rest.get(..at)?;
    let good = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if system.is_empty() || !system.iter().all(good) {
        return None;
    }
    let text = rest.get(at + 1..)?;
    let len = match memchr(b'/', text.get(..first(text, AUTHORITY_MAX))?) {
        Some(len) => len,
        None if text.len() <= AUTHORITY_MAX => text.len(),
        None => return None,
    };
    let start = path.len() - text.len();
    Some(start..start + len)
}

/// How the recipient of a message towards the endpoint is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Recipient {
    Canonical,
    /// It becomes the canonical one.
    Alias,
    /// It is neither, or no alias that is admitted.
    Foreign,
}

/// What is replaced by what.
#[derive(Debug)]
pub(super) struct Translation {
    direction: Direction,
    canonical: Option<Name>,
    alias: Option<Name>,
    learns: bool,
    admitted: Option<Vec<Authority>>,
    /// Finds the host that is replaced. There is none as long as there is nothing to replace.
    finder: Option<Finder<'static>>,
    /// The beginning of the last path with the name that is replaced, up to the end of the authority: most paths begin so.
    recent: Recent,
}

/// The beginning of a path, up to the end of its authority.
#[derive(Debug, Default)]
struct Recent {
    bytes: Vec<u8>,
    /// Where the authority begins.
    authority: usize,
}

impl Recent {
    /// Where the authority of `path` stands, if the path begins so.
    fn find(&self, path: &[u8]) -> Option<Range<usize>> {
        let end = self.bytes.len();
        let begins_so = end > 0
            && path.get(..end) == Some(&self.bytes)
            && path.get(end).is_none_or(|byte| *byte == b'/');
        begins_so.then_some(self.authority..end)
    }

    fn set(&mut self, path: &[u8], authority: &Range<usize>) {
        self.bytes.clear();
        self.bytes
            .extend_from_slice(path.get(..authority.end).unwrap_or_default());
        self.authority = authority.start;
    }
}

impl Translation {
    pub(super) fn new(direction: Direction, names: &Names) -> Self {
        let mut translation = Self {
            direction,
            canonical: Name::new(&names.canonical),
            alias: None,
            learns: names.alias.is_none() && direction == Direction::Inbound,
            admitted: None,
            finder: None,
            recent: Recent::default(),
        };
        if let Some(alias) = &names.alias {
            translation.set_alias(alias);
        }
        translation
    }

    pub(super) fn alias(&self) -> Option<&Authority> {
        self.alias.as_ref().map(Name::text)
    }

    pub(super) fn set_alias(&mut self, alias: &Authority) {
        self.alias = Name::new(alias);
        self.recent = Recent::default();
        self.finder = match (self.from(), self.to()) {
            (Some(from), Some(to)) if from != to => {
                Some(Finder::new(from.bare_host()).into_owned())
            }
            _ => None,
        };
    }

    /// Another canonical name counts from now on; the alias stays.
    pub(super) fn set_canonical(&mut self, canonical: &Authority) {
        self.canonical = Name::new(canonical);
        self.recent = Recent::default();
        if let Some(alias) = self.alias.as_ref().map(|alias| alias.text) {
            self.set_alias(&alias);
        }
    }

    pub(super) fn admit(&mut self, aliases: Option<Vec<Authority>>) {
        self.admitted = aliases;
        self.recent = Recent::default();
    }

    pub(super) fn is_inbound(&self) -> bool {
        self.direction == Direction::Inbound
    }

    /// The name that is replaced.
    pub(super) const fn from(&self) -> Option<&Name> {
        match self.direction {
            Direction::Inbound => self.alias.as_ref(),
            Direction::Outbound => self.canonical.as_ref(),
        }
    }

    /// The name that takes its place.
    pub(super) const fn to(&self) -> Option<&Name> {
        match self.direction {
            Direction::Inbound => self.canonical.as_ref(),
            Direction::Outbound => self.alias.as_ref(),
        }
    }

    /// Whether nothing in this direction can change.
    pub(super) const fn is_idle(&self) -> bool {
        match self.direction {
            Direction::Inbound => self.canonical.is_none(),
            Direction::Outbound => self.finder.is_none(),
        }
    }

    /// Whether the host that is replaced stands anywhere in `bytes`.
    pub(super) fn occurs(&self, bytes: &[u8]) -> bool {
        self.finder
            .as_ref()
            .is_some_and(|finder| finder.find(bytes).is_some())
    }

    /// Whether `@host:port` of the name that is replaced stands anywhere in `bytes`.
    pub(super) fn is_named(&self, bytes: &[u8]) -> bool {
        let (Some(finder), Some(from)) = (&self.finder, self.from()) else {
            return false;
        };
        // The host is searched; what surrounds it is compared.
        let brackets = usize::from(from.bare_host().len() != from.host().len());
        finder.find_iter(bytes).any(|at| {
            let begin = at.wrapping_sub(brackets);
            let before = begin.wrapping_sub(1);
            let end = begin.wrapping_add(from.authority().len());
            bytes.get(before) == Some(&b'@') && bytes.get(begin..end) == Some(from.authority())
        })
    }

    /// Where the authority of `path` stands, if it is the name that is replaced.
    pub(super) fn find_in_path(&mut self, path: &[u8]) -> Option<Range<usize>> {
        self.finder.as_ref()?;
        if let Some(range) = self.recent.find(path) {
            return Some(range);
        }
        let range = authority_of(path)?;
        if path.get(range.clone())? != self.from()?.authority() {
            return None;
        }
        self.recent.set(path, &range);
        Some(range)
    }

    /// Where the authority of a recipient's path stands, and what it is.
    pub(super) fn find_recipient(&mut self, path: &[u8]) -> Option<(Range<usize>, Recipient)> {
        if let Some(range) = self.recent.find(path) {
            return Some((range, Recipient::Alias));
        }
        let range = authority_of(path)?;
        let authority = path.get(range.clone())?;
        let recipient = self.recipient(authority);
        // A client may have further aliases, which are not those that are replaced elsewhere.
        if recipient == Recipient::Alias && self.from()?.authority() == authority {
            self.recent.set(path, &range);
        }
        Some((range, recipient))
    }

    /// Compares the authority of a message's recipient. The first alias is learned.
    fn recipient(&mut self, authority: &[u8]) -> Recipient {
        let Some(canonical) = &self.canonical else {
            return Recipient::Foreign;
        };
        if authority == canonical.authority() {
            return Recipient::Canonical;
        }
        if self
            .alias
            .as_ref()
            .is_some_and(|alias| alias.authority() == authority)
        {
            return Recipient::Alias;
        }
        let Some(text) = Authority::new(authority).filter(|_| self.learns) else {
            return Recipient::Foreign;
        };
        let is_admitted = self
            .admitted
            .as_ref()
            .is_none_or(|admitted| admitted.contains(&text));
        if !is_admitted || Name::new(&text).is_none() {
            return Recipient::Foreign;
        }
        if self.alias.is_none() {
            self.set_alias(&text);
        }
        Recipient::Alias
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Authority {
        Authority::new(text.as_bytes()).unwrap()
    }

    #[test]
    fn a_name_has_a_host_and_a_port() {
        for (authority, host, port) in [
            ("jm:6123", "jm", 6123),
            ("10.1.2.3:1", "10.1.2.3", 1),
            ("[fd00::1]:65535", "[fd00::1]", 65535),
            ("job_manager:0006", "job_manager", 6),
        ] {
            let name = Name::new(&text(authority)).unwrap();
            assert_eq!((name.host(), name.port()), (host.as_bytes(), port));
        }
    }

    #[test]
    fn what_cannot_stand_in_a_path_is_no_name() {
        for authority in [
            "",
            ":",
            "jm",
            "jm:",
            ":6123",
            "jm:0",
            "jm:65536",
            "jm:99999",
            "j/m:1",
            "j@m:1",
            "a:b:1",
            "[fd00::1:6123",
            "j\0m:1",
            "jm:+1",
            "jm:123456",
        ] {
            assert_eq!(Name::new(&text(authority)), None, "{authority:?}");
        }
    }

    #[test]
    fn the_authority_of_a_path_ends_at_a_slash_or_the_end() {
        for (path, expected) in [
            ("pekko.tcp://flink@jm:6123/user/a@b:1/", Some("jm:6123")),
            ("akka.tcp://my-sys_1@[::1]:2552/", Some("[::1]:2552")),
            ("pekko.tcp://flink@jm:6123", Some("jm:6123")),
            ("pekko://flink/user/a", None),
            ("pekko.tcp://flink/user@jm:6123/", None),
            ("pekko.tcp://@jm:6123/", None),
            ("pekko.ssl.tcp://flink@jm:6123/", None),
            (" pekko.tcp://flink@jm:6123/", None),
            ("pekko.tcp://", None),
        ] {
            let found = authority_of(path.as_bytes()).map(|range| &path[range]);
            assert_eq!(found, expected, "{path}");
        }
        let long = format!("akka.tcp://flink@{}/", "a".repeat(AUTHORITY_MAX));
        assert!(authority_of(long.as_bytes()).is_some());
        let longer = format!("akka.tcp://flink@{}/", "a".repeat(AUTHORITY_MAX + 1));
        assert_eq!(authority_of(longer.as_bytes()), None);
    }

    #[test]
    fn paths_that_begin_alike_are_told_apart() {
        let names = Names {
            canonical: text("jobmanager:6123"),
            alias: None,
        };
        let mut translation = Translation::new(Direction::Inbound, &names);
        for _ in 0..2 {
            for (path, expected) in [
                ("pekko.tcp://flink@first:6123/user/a", Recipient::Alias),
                ("pekko.tcp://flink@first:6123", Recipient::Alias),
                ("akka.tcp://flink@first:6123/user/a", Recipient::Alias),
                ("pekko.tcp://flink@second:6123/user/a", Recipient::Alias),
                ("pekko.tcp://flink@jobmanager:6123/a", Recipient::Canonical),
                ("pekko.tcp://flink@first:0/user/a", Recipient::Foreign),
            ] {
                let found = translation.find_recipient(path.as_bytes());
                assert_eq!(
                    found.map(|(_, recipient)| recipient),
                    Some(expected),
                    "{path}"
                );
            }
            // What is replaced elsewhere is the first alias only.
            for (path, expected) in [
                ("pekko.tcp://flink@first:6123/user/a", Some(18..28)),
                ("pekko.tcp://flink@first:61230/user/a", None),
                ("pekko.tcp://flink@second:6123/user/a", None),
            ] {
                assert_eq!(
                    translation.find_in_path(path.as_bytes()),
                    expected,
                    "{path}"
                );
            }
        }
    }

    #[test]
    fn an_authority_is_found_in_other_bytes() {
        for canonical in ["jobmanager:6123", "[fd00::1]:6123"] {
            let names = Names {
                canonical: text(canonical),
                alias: Some(text("jm:6123")),
            };
            let translation = Translation::new(Direction::Outbound, &names);
            let found = |bytes: &str| translation.is_named(bytes.as_bytes());
            assert!(found(&format!("x @{canonical} y")));
            assert!(found(&format!("{canonical} @{canonical}")));
            assert!(!found(canonical));
            assert!(!found(&format!("@{}", &canonical[..canonical.len() - 1])));
        }
    }
}
