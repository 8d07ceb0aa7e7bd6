//! A section of a TOML file that knows which keys were asked for, and on which line they are.

use std::{fmt::Display, ops::Range, path::PathBuf, str::FromStr, sync::Arc};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{ConfigError, Origin};

/// Servers that can be named in one list.
const SERVERS_MAX: usize = 16;

/// A file, to turn byte offsets into lines.
pub struct Source<'a> {
    path: Arc<PathBuf>,
    text: &'a str,
    /// Offsets of the ends of lines.
    ends: Vec<usize>,
}

/// A table of the file and the keys it may have.
pub struct Section<'a> {
    source: &'a Source<'a>,
    /// As it is written, e.g. `[agent]`.
    name: String,
    table: &'a DeTable<'a>,
    place: Origin,
}

/// A value and its place.
pub struct Entry<'a> {
    /// Where it is.
    pub origin: Origin,
    key: String,
    value: &'a DeValue<'a>,
    source: &'a Source<'a>,
}

impl<'a> Source<'a> {
    /// A source read from `path`.
    pub fn new(path: PathBuf, text: &'a str) -> Self {
        let newline = |(offset, byte)| (byte == b'\n').then_some(offset);
        Self {
            path: Arc::new(path),
            text,
            ends: text.bytes().enumerate().filter_map(newline).collect(),
        }
    }

    /// The place of a byte offset.
    pub fn origin(&self, offset: usize) -> Origin {
        let line = 1 + self.ends.partition_point(|end| *end < offset);
        Origin::File {
            path: Arc::clone(&self.path),
            line,
        }
    }

    /// Parses the text.
    ///
    /// # Errors
    /// When it is not TOML.
    pub fn parse(&self) -> Result<Spanned<DeTable<'a>>, ConfigError> {
        DeTable::parse(self.text).map_err(|error| ConfigError::Syntax {
            origin: self.origin(error.span().map_or(0, |span| span.start)),
            message: error.message().lines().collect::<Vec<_>>().join(", "),
        })
    }
}

impl<'a> Section<'a> {
    /// A section; fails if it has a key that is not in `known`.
    pub fn new(
        source: &'a Source<'a>,
        name: impl Into<String>,
        table: &'a DeTable<'a>,
        span: Range<usize>,
        known: &[&str],
    ) -> Result<Self, ConfigError> {
        let name = name.into();
        // In the order of the file, so that the first mistake is named first.
        let unknown = table
            .keys()
            .filter(|key| !known.contains(&key.get_ref().as_ref()))
            .min_by_key(|key| key.span().start);
        if let Some(key) = unknown {
            return Err(ConfigError::UnknownKey {
                origin: source.origin(key.span().start),
                hint: hint(key.get_ref(), known),
                key: key.get_ref().to_string(),
                section: name,
            });
        }
        Ok(Self {
            source,
            name,
            table,
            place: source.origin(span.start),
        })
    }

    /// Where the section begins.
    pub fn origin(&self) -> Origin {
        self.place.clone()
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<Entry<'a>> {
        let (key, value) = self.table.get_key_value(key)?;
        Some(Entry {
            origin: self.source.origin(key.span().start),
            key: key.get_ref().to_string(),
            value: value.get_ref(),
            source: self.source,
        })
    }

    /// The value of a key that must be there.
    pub fn need(&self, key: &'static str, example: &'static str) -> Result<Entry<'a>, ConfigError> {
        self.get(key).ok_or_else(|| ConfigError::MissingKey {
            origin: self.origin(),
            section: self.name.clone(),
            key,
            example,
        })
    }

    /// A table inside this one.
    pub fn table(&self, key: &str, known: &[&str]) -> Result<Option<Section<'a>>, ConfigError> {
        let Some((spelt, value)) = self.table.get_key_value(key) else {
            return Ok(None);
        };
        let name = match self.name.strip_prefix('[') {
            Some(outer) => format!("[{}.{key}]", outer.trim_end_matches(']')),
            None => format!("[{key}]"),
        };
        let DeValue::Table(table) = value.get_ref() else {
            return Err(ConfigError::WrongType {
                origin: self.source.origin(spelt.span().start),
                key: key.to_owned(),
                wanted: "a section",
                found: value.get_ref().type_str(),
            });
        };
        Section::new(self.source, name, table, spelt.span(), known).map(Some)
    }

    /// The tables of an array of tables.
    pub fn tables(&self, key: &str, known: &[&str]) -> Result<Vec<Section<'a>>, ConfigError> {
        let Some((spelt, value)) = self.table.get_key_value(key) else {
            return Ok(Vec::new());
        };
        let wrong = |found| ConfigError::WrongType {
            origin: self.source.origin(spelt.span().start),
            key: key.to_owned(),
            wanted: "a list of sections, written with double brackets",
            found,
        };
        let DeValue::Array(array) = value.get_ref() else {
            return Err(wrong(value.get_ref().type_str()));
        };
        array
            .iter()
            .map(|item| match item.get_ref() {
                DeValue::Table(table) => {
                    Section::new(self.source, format!("[[{key}]]"), table, item.span(), known)
                }
                other => Err(wrong(other.type_str())),
            })
            .collect()
    }
}

impl<'a> Entry<'a> {
    /// The items, if it is a list.
    pub fn items(&self) -> Option<Vec<Entry<'a>>> {
        let array = self.value.as_array()?;
        let item = |item: &'a Spanned<DeValue<'a>>| Entry {
            origin: self.source.origin(item.span().start),
            key: self.key.clone(),
            value: item.get_ref(),
            source: self.source,
        };
        Some(array.iter().map(item).collect())
    }

    /// The table, if it is one; fails if it has a key that is not in `known`.
    pub fn section(&self, name: &str, known: &[&str]) -> Result<Option<Section<'a>>, ConfigError> {
        let DeValue::Table(table) = self.value else {
            return Ok(None);
        };
        let mut section = Section::new(self.source, name, table, 0..0, known)?;
        section.place = self.origin.clone();
        Ok(Some(section))
    }

    /// A string.
    pub fn string(&self) -> Result<&str, ConfigError> {
        self.value.as_str().ok_or_else(|| self.wrong("a string"))
    }

    /// A string that stands for something.
    pub fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(&self) -> Result<T, ConfigError> {
        let text = self.string()?;
        text.parse()
            .map_err(|error: T::Err| self.bad(text, &error.to_string()))
    }

    /// A whole number within bounds.
    pub fn number(&self, min: u32, max: u32) -> Result<u32, ConfigError> {
        let wanted = "a whole number";
        let number = self.value.as_integer().ok_or_else(|| self.wrong(wanted))?;
        u32::from_str_radix(number.as_str(), number.radix())
            .ok()
            .filter(|value| (min..=max).contains(value))
            .ok_or_else(|| self.bad(number.as_str(), &format!("it must be from {min} to {max}")))
    }

    /// `true` or `false`.
    pub fn boolean(&self) -> Result<bool, ConfigError> {
        self.value
            .as_bool()
            .ok_or_else(|| self.wrong("true or false"))
    }

    /// A list of strings, each with its place.
    pub fn strings(&self) -> Result<Vec<(String, Origin)>, ConfigError> {
        let wanted = "a list of strings";
        let array = self.value.as_array().ok_or_else(|| self.wrong(wanted))?;
        array
            .iter()
            .map(|item| {
                let text = item
                    .get_ref()
                    .as_str()
                    .ok_or_else(|| ConfigError::WrongType {
                        origin: self.source.origin(item.span().start),
                        key: self.key.clone(),
                        wanted,
                        found: item.get_ref().type_str(),
                    })?;
                Ok((text.to_owned(), self.source.origin(item.span().start)))
            })
            .collect()
    }

    /// Whether the value is a list.
    pub fn is_list(&self) -> bool {
        self.value.is_array()
    }

    /// The error for a value that means nothing.
    pub fn bad(&self, value: &str, reason: &str) -> ConfigError {
        ConfigError::BadValue {
            origin: self.origin.clone(),
            what: self.key.clone(),
            value: value.to_owned(),
            reason: reason.to_owned(),
        }
    }

    fn wrong(&self, wanted: &'static str) -> ConfigError {
        ConfigError::WrongType {
            origin: self.origin.clone(),
            key: self.key.clone(),
            wanted,
            found: self.value.type_str(),
        }
    }
}

/// The error for a value that means nothing there.
pub fn bad(origin: Origin, what: &str, value: &str, reason: &str) -> ConfigError {
    ConfigError::BadValue {
        origin,
        what: what.to_owned(),
        value: value.to_owned(),
        reason: reason.to_owned(),
    }
}

/// Reads servers, each once; `what` they are, one and many.
pub fn read_list<T>(
    entry: &Entry<'_>,
    what: [&str; 2],
    example: &str,
) -> Result<Vec<T>, ConfigError>
where
    T: FromStr<Err: Display> + PartialEq,
{
    let [one, many] = what;
    let mut list = Vec::new();
    for (text, origin) in entry.strings()? {
        let item = text
            .parse()
            .map_err(|error: T::Err| bad(origin.clone(), one, &text, &error.to_string()))?;
        if list.contains(&item) {
            let reason = "it is there already; leave one out";
            return Err(bad(origin, one, &text, reason));
        }
        list.push(item);
    }
    if !(1..=SERVERS_MAX).contains(&list.len()) {
        let reason = format!("name 1 to {SERVERS_MAX} {many}, e.g. {example}");
        return Err(entry.bad(&format!("{} {many}", list.len()), &reason));
    }
    Ok(list)
}

/// An absolute path.
pub fn read_path(entry: &Entry<'_>) -> Result<PathBuf, ConfigError> {
    let text = entry.string()?;
    if !text.starts_with('/') {
        return Err(entry.bad(text, "the path must be absolute"));
    }
    Ok(PathBuf::from(text))
}

/// The rule for names of endpoints and services: they are metric labels and words of the command line.
pub fn check_name(name: &str) -> Result<(), &'static str> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if !(1..=63).contains(&name.len()) || !name.bytes().all(good) {
        return Err("a name has 1 to 63 letters, digits, hyphens, underscores or dots");
    }
    Ok(())
}

/// The nearest valid name, or all of them.
pub fn hint(wrong: &str, known: &[&str]) -> String {
    let nearest = known
        .iter()
        .map(|name| (strsim::damerau_levenshtein(wrong, name), *name))
        .min()
        .filter(|(distance, name)| *distance <= 1 + name.len() / 3);
    match nearest {
        Some((_, name)) => format!("; did you mean \"{name}\"?"),
        None => format!("; valid are {}", known.join(", ")),
    }
}
