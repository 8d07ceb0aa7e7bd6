//! What clients saw: all that must not depend on who translates.

use std::fmt::Display;

/// Lines in the order in which things happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    lines: Vec<String>,
}

impl Seen {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds what happened.
    pub fn note(&mut self, who: impl Display, what: impl Display) {
        self.lines.push(format!("{who}: {what}"));
    }

    /// How many lines there are.
    pub fn count(&self) -> usize {
        self.lines.len()
    }

    /// The first line that the other does not have at the same place: `(own, its)`.
    pub fn difference<'s>(&'s self, other: &'s Self) -> Option<(&'s str, &'s str)> {
        (0..self.lines.len().max(other.lines.len())).find_map(|number| {
            let (own, its) = (self.line(number), other.line(number));
            (own != its).then_some((own, its))
        })
    }

    fn line(&self, number: usize) -> &str {
        self.lines.get(number).map_or("nothing", String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_difference_is_found() {
        let (mut one, mut two) = (Seen::new(), Seen::new());
        one.note("client", 1);
        two.note("client", 1);
        assert_eq!(one.difference(&two), None);
        one.note("client", 2);
        assert_eq!(one.difference(&two), Some(("client: 2", "nothing")));
        two.note("client", 3);
        assert_eq!(one.difference(&two), Some(("client: 2", "client: 3")));
    }
}
