//! Printing rows as tables for people or JSON for scripts.

use std::io::{self, IsTerminal as _, Write as _};

use comfy_table::{Attribute, Cell, ContentArrangement, Table, presets};
use serde::Serialize;

use super::args::{Format, Global};

/// Something that is printed as a row.
pub trait Row: Serialize {
    /// The headings.
    const HEADINGS: &'static [&'static str];

    /// The cells, as many as headings.
    fn cells(&self) -> Vec<String>;
}

/// Where and how to print.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    format: Format,
    color: bool,
    /// Columns of the terminal; a file is as wide as need be.
    width: Option<u16>,
}

impl Output {
    /// To the standard output, as the flags say.
    pub fn new(global: &Global) -> Self {
        let terminal = io::stdout().is_terminal();
        let asked = !global.no_color && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        Self {
            format: global.output,
            color: terminal && asked,
            width: None,
        }
    }

    /// The format.
    pub const fn format(self) -> Format {
        self.format
    }

    /// The same in another format.
    pub const fn with(self, format: Format) -> Self {
        Self { format, ..self }
    }

    /// Prints rows; `nothing` is what people see if there are none.
    pub fn rows<R: Row>(self, rows: &[R], nothing: &str) -> anyhow::Result<()> {
        let text = match self.format {
            Format::Json => format!("{}\n", serde_json::to_string_pretty(rows)?),
            Format::Jsonl => {
                let lines: Result<Vec<_>, _> = rows.iter().map(serde_json::to_string).collect();
                lines?.iter().map(|line| format!("{line}\n")).collect()
            }
            Format::Table if rows.is_empty() => format!("{nothing}\n"),
            Format::Table => format!("{}\n", self.table(rows)),
        };
        print(&text)
    }

    /// Prints one document, or for people the text.
    pub fn document<D: Serialize>(
        self,
        document: &D,
        text: impl FnOnce() -> String,
    ) -> anyhow::Result<()> {
        let text = match self.format {
            Format::Json => format!("{}\n", serde_json::to_string_pretty(document)?),
            Format::Jsonl => format!("{}\n", serde_json::to_string(document)?),
            Format::Table => text(),
        };
        print(&text)
    }

    /// A table that fits the terminal.
    pub fn table<R: Row>(self, rows: &[R]) -> String {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_content_arrangement(
            if self.width.is_some() || io::stdout().is_terminal() {
                ContentArrangement::Dynamic
            } else {
                ContentArrangement::Disabled
            },
        );
        if let Some(width) = self.width {
            table.set_width(width);
        }
        if self.color {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        table.set_header(R::HEADINGS.iter().map(|text| {
            let cell = Cell::new(text.to_uppercase());
            if self.color {
                cell.add_attribute(Attribute::Bold)
            } else {
                cell
            }
        }));
        for row in rows {
            table.add_row(row.cells());
        }
        // The first column starts at the margin.
        if let Some(column) = table.column_mut(0) {
            column.set_padding((0, 1));
        }
        table.trim_fmt()
    }
}

/// Prints text; a reader that has gone is an error that [`super::main`] forgives.
pub fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}

/// A dash for nothing.
pub fn or_dash(text: Option<&str>) -> String {
    text.unwrap_or("-").to_owned()
}

/// A client, and those for which its address stands.
pub fn client(address: &str, behind: &[String]) -> String {
    match behind {
        [] => address.to_owned(),
        behind => format!("{} by {address}", behind.join(" ")),
    }
}

/// How long ago, or a dash.
pub fn ago(time: Option<crate::api::Timestamp>) -> String {
    time.map_or_else(|| "-".to_owned(), crate::api::Timestamp::ago)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct Pair(&'static str, &'static str);

    impl Row for Pair {
        const HEADINGS: &'static [&'static str] = &["name", "value"];

        fn cells(&self) -> Vec<String> {
            vec![self.0.to_owned(), self.1.to_owned()]
        }
    }

    #[test]
    fn tables_align_and_wrap() {
        let rows = [
            Pair("a", "1"),
            Pair("longer-name", "some words that are many"),
        ];
        let wide = Output {
            format: Format::Table,
            color: false,
            width: None,
        };
        assert_eq!(
            wide.table(&rows),
            "NAME         VALUE\na            1\nlonger-name  some words that are many"
        );
        let narrow = Output {
            width: Some(26),
            ..wide
        }
        .table(&rows);
        assert!(narrow.lines().all(|line| line.len() <= 26), "{narrow}");
    }
}
