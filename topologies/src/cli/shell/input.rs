//! What is typed: statements up to a `;`, and commands that begin with `\`.

use std::path::PathBuf;

use crate::query::RowsFormat;

/// What `\?` shows.
pub(super) const HELP: &str = "\
SELECT …;          a query, over as many lines as it needs, up to a semicolon
\\d, \\dt            the tables
\\d TABLE           the columns of a table
\\snapshots TABLE   the versions of a table
\\format FORMAT     table, json, csv, parquet or arrow
\\x                 a line for each value, on or off
\\o FILE            write answers to this file; without a name, show them again
\\timing            say how long queries take, on or off
\\q                 end
Ctrl-C ends a query, not the shell.
";

/// A line that begins with `\`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Command {
    Tables,
    Describe(String),
    Snapshots(String),
    Format(RowsFormat),
    Expanded,
    Output(Option<PathBuf>),
    Timing,
    Help,
    Quit,
}

impl Command {
    /// Reads a line that begins with `\`.
    pub(super) fn read(line: &str) -> Result<Self, String> {
        let line = line.trim().trim_end_matches(';').trim_end();
        let (command, argument) = match line.split_once(char::is_whitespace) {
            Some((command, argument)) => (command, Some(argument.trim())),
            None => (line, None),
        };
        match (command, argument) {
            ("\\d" | "\\dt", None) => Ok(Self::Tables),
            ("\\d", Some(table)) => Ok(Self::Describe(table.to_owned())),
            ("\\snapshots", Some(table)) => Ok(Self::Snapshots(table.to_owned())),
            ("\\format", Some(format)) => format_of(format).map(Self::Format),
            ("\\x", None) => Ok(Self::Expanded),
            ("\\o", file) => Ok(Self::Output(file.map(PathBuf::from))),
            ("\\timing", None) => Ok(Self::Timing),
            ("\\?", None) => Ok(Self::Help),
            ("\\q", None) => Ok(Self::Quit),
            ("\\snapshots" | "\\format", None) => Err(format!("{command} needs a name behind it: see \\?")),
            _ => Err(format!("{line} is no command: see \\?")),
        }
    }
}

fn format_of(name: &str) -> Result<RowsFormat, String> {
    match name {
        "table" => Ok(RowsFormat::Table),
        "json" => Ok(RowsFormat::Json),
        "csv" => Ok(RowsFormat::Csv),
        "parquet" => Ok(RowsFormat::Parquet),
        "arrow" => Ok(RowsFormat::Arrow),
        other => Err(format!("{other} is no format: there are table, json, csv, parquet and arrow")),
    }
}

/// Takes the first statement that ends with a semicolon out of `text`, without the semicolon.
pub(super) fn take_statement(text: &mut String) -> Option<String> {
    let end = end_of_statement(text)?;
    let rest = text.split_off(end + 1);
    let mut statement = std::mem::replace(text, rest);
    statement.pop();
    Some(statement)
}

/// Where the first semicolon is that is not in quotes or in a comment.
fn end_of_statement(text: &str) -> Option<usize> {
    let mut at = 0;
    while let Some(character) = text[at..].chars().next() {
        let rest = &text[at..];
        at += match character {
            ';' => return Some(at),
            '\'' | '"' | '`' => 1 + behind(&rest[1..], &rest[..1])?,
            '-' if rest.starts_with("--") => behind(rest, "\n")?,
            '/' if rest.starts_with("/*") => comment(rest)?,
            '$' => match dollar_tag(rest) {
                Some(tag) => tag.len() + behind(&rest[tag.len()..], tag)?,
                None => 1,
            },
            other => other.len_utf8(),
        };
    }
    None
}

/// Bytes up to the end of the first `end` in `text`. A quote that is doubled ends one text and begins another.
fn behind(text: &str, end: &str) -> Option<usize> {
    text.find(end).map(|at| at + end.len())
}

/// Bytes of the comment that `text` begins with, and of those in it.
fn comment(text: &str) -> Option<usize> {
    let mut depth = 0;
    let mut at = 0;
    loop {
        let (open, close) = (text[at..].find("/*"), text[at..].find("*/")?);
        match open.filter(|open| *open < close) {
            Some(open) => {
                depth += 1;
                at += open + 2;
            }
            None => {
                depth -= 1;
                at += close + 2;
                if depth == 0 {
                    return Some(at);
                }
            }
        }
    }
}

/// The `$tag$` that `text` begins with.
fn dollar_tag(text: &str) -> Option<&str> {
    let end = text[1..].find('$')? + 2;
    let tag = &text[1..end - 1];
    let is_name = tag.chars().all(|character| character.is_alphanumeric() || character == '_');
    let is_number = tag.starts_with(|first: char| first.is_ascii_digit());
    (is_name && !is_number).then_some(&text[..end])
}

/// Whether there is nothing but blanks and comments.
pub(super) fn is_blank(text: &str) -> bool {
    let mut rest = text.trim_start();
    loop {
        let end = if rest.starts_with("--") {
            behind(rest, "\n")
        } else if rest.starts_with("/*") {
            comment(rest)
        } else {
            return rest.is_empty();
        };
        let Some(end) = end else { return true };
        rest = rest[end..].trim_start();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statements(text: &str) -> (Vec<String>, String) {
        let mut rest = text.to_owned();
        let mut statements = Vec::new();
        while let Some(statement) = take_statement(&mut rest) {
            statements.push(statement);
        }
        (statements, rest)
    }

    #[test]
    fn statements_end_with_a_semicolon_that_is_not_in_quotes_or_comments() {
        for (text, expected, rest) in [
            ("SELECT 1; SELECT 2;", vec!["SELECT 1", " SELECT 2"], ""),
            ("SELECT ';'; x", vec!["SELECT ';'"], " x"),
            ("SELECT 'a''; b'; x", vec!["SELECT 'a''; b'"], " x"),
            ("SELECT \"a;b\";", vec!["SELECT \"a;b\""], ""),
            ("SELECT 1 -- a; b\n;", vec!["SELECT 1 -- a; b\n"], ""),
            ("SELECT 1 /* a; /* b; */ c; */;", vec!["SELECT 1 /* a; /* b; */ c; */"], ""),
            ("SELECT $$a;b$$, $x$;$y$;$x$;", vec!["SELECT $$a;b$$, $x$;$y$;$x$"], ""),
            ("SELECT $1, $2;", vec!["SELECT $1, $2"], ""),
            ("SELECT 'é;';", vec!["SELECT 'é;'"], ""),
            ("SELECT 'open;", vec![], "SELECT 'open;"),
            ("SELECT 1 -- open;", vec![], "SELECT 1 -- open;"),
            ("SELECT 1 /* open;", vec![], "SELECT 1 /* open;"),
            ("SELECT 1", vec![], "SELECT 1"),
        ] {
            let (found, left) = statements(text);
            assert_eq!(
                (found, left.as_str()),
                (expected.into_iter().map(str::to_owned).collect(), rest),
                "{text}"
            );
        }
    }

    #[test]
    fn blanks_and_comments_are_no_statement() {
        for text in ["", " \n\t", "-- a", "-- a\n /* b */ -- c\n", "/* open"] {
            assert!(is_blank(text), "{text:?}");
        }
        for text in ["x", "-- a\nx", "/* a */ ;"] {
            assert!(!is_blank(text), "{text:?}");
        }
    }

    #[test]
    fn commands_are_read_with_what_stands_behind_them() {
        for (line, command) in [
            ("\\d", Command::Tables),
            ("\\dt;", Command::Tables),
            ("\\d  flights ", Command::Describe("flights".into())),
            ("\\snapshots flights", Command::Snapshots("flights".into())),
            ("\\format csv", Command::Format(RowsFormat::Csv)),
            ("\\x", Command::Expanded),
            ("\\o rows.csv", Command::Output(Some("rows.csv".into()))),
            ("\\o", Command::Output(None)),
            ("\\timing", Command::Timing),
            ("\\?", Command::Help),
            ("\\q", Command::Quit),
        ] {
            assert_eq!(Command::read(line), Ok(command), "{line}");
        }
        for line in ["\\", "\\y", "\\format", "\\format xml", "\\snapshots", "\\q now"] {
            assert!(Command::read(line).is_err(), "{line}");
        }
    }
}
