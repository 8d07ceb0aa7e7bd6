//! The command lines in the documents are ones that the program takes.

use std::{fs, path::Path};

use clap::{Parser as _, error::ErrorKind};

use super::args::Args;

/// The command lines of a document that can be typed as they are.
fn typed(text: &str) -> Vec<String> {
    let text = text.replace("\\\n", " ");
    let mut lines = Vec::new();
    for line in text.lines() {
        let code = line.strip_prefix("    ");
        let spans = line.split('`').skip(1).step_by(2);
        let is_template = |span: &&str| {
            let is_place = |word: &str| {
                let is_upper = |letter: char| letter.is_ascii_uppercase() || letter == ':';
                word.len() > 1 && word.chars().all(is_upper)
            };
            span.contains(['[', '<', '…', '/']) || span.split(' ').any(is_place)
        };
        let spans = spans.filter(|span| !is_template(span));
        for span in code.into_iter().chain(spans) {
            let command = span.trim_start_matches("$ ");
            let command = command.split([';', '|', '>']).next().unwrap_or_default();
            let command = command.split("  #").next().unwrap_or_default();
            if command.starts_with("truename ") && !command.contains('…') {
                lines.push(command.trim().to_owned());
            }
        }
    }
    lines
}

#[test]
fn command_lines_of_documents_are_taken() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut count = 0;
    for directory in ["", "docs"] {
        for entry in fs::read_dir(root.join(directory)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|extension| extension != "md") {
                continue;
            }
            for line in typed(&fs::read_to_string(&path).unwrap()) {
                let words = line.replace(['\'', '"'], "");
                // Sentences name a verb without what it needs.
                let is_named = |kind| {
                    matches!(
                        kind,
                        ErrorKind::MissingRequiredArgument | ErrorKind::MissingSubcommand
                    )
                };
                if let Err(error) = Args::try_parse_from(words.split_whitespace())
                    && error.use_stderr()
                    && !is_named(error.kind())
                {
                    panic!("{}: {line}\n{error}", path.display());
                }
                count += 1;
            }
        }
    }
    assert!(count > 60, "{count}");
}
