//! What is typed: statements up to a `;`, and commands that begin with `\`.

use std::path::PathBuf;

use crate::query::RowsFormat;
use crate::spec::did_you_mean;

/// What `\?` shows.
pub(super) const HELP: &str = "\
SELECT …;          a query, over as many lines as it needs, up to a semicolon
\\d, \\dt            the tables
\\d TABLE           the columns of a table
\\l                 the tables with their newest versions, and the clouds that they are read from
\\snapshots TABLE   the versions of a table
\\format FORMAT     table, json, csv, parquet or arrow
\\x                 a line for each value, on or off
\\o FILE            write answers to this file; without a name, show them again
\\timing            say how long queries take, on or off
\\q                 end
Tab completes names and keywords. Ctrl-C ends a query or drops a line, Ctrl-D ends the shell.
";
/// All commands, for completion and for those who mistype one.
pub(super) const COMMANDS: [&str; 10] =
    ["\\d", "\\dt", "\\format", "\\l", "\\o", "\\q", "\\snapshots", "\\timing", "\\x", "\\?"];
/// What people type where they do not know the commands.
const WORDS: [(&str, &str); 3] = [("exit", "\\q"), ("help", "\\?"), ("quit", "\\q")];

/// A line that begins with `\`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Command {
    Tables,
    Describe(String),
    /// The tables with their versions.
    Versions,
    Snapshots(String),
    Format(RowsFormat),
    /// On or off; `None`: what it is not now.
    Expanded(Option<bool>),
    Output(Option<PathBuf>),
    Timing(Option<bool>),
    Help,
    Quit,
}

impl Command {
    /// Whether `line` is a command, right or wrong, where a statement could begin.
    pub(super) fn is_one(line: &str) -> bool {
        line.trim_start().starts_with('\\') || word(bare(line)).is_some()
    }

    /// Reads a line that [is one](Self::is_one).
    pub(super) fn read(line: &str) -> Result<Self, String> {
        let line = bare(line);
        let line = word(line).unwrap_or(line);
        let (command, argument) = match line.split_once(char::is_whitespace) {
            Some((command, argument)) => (command, Some(argument.trim())),
            None => (line, None),
        };
        match (command, argument) {
            ("\\d" | "\\dt", None) => Ok(Self::Tables),
            ("\\d" | "\\d+", Some(table)) => Ok(Self::Describe(table.to_owned())),
            ("\\l", None) => Ok(Self::Versions),
            ("\\snapshots", Some(table)) => Ok(Self::Snapshots(table.to_owned())),
            ("\\format", Some(format)) => format_of(format).map(Self::Format),
            ("\\x", state) => is_on(state).map(Self::Expanded),
            ("\\o", file) => Ok(Self::Output(file.map(PathBuf::from))),
            ("\\timing", state) => is_on(state).map(Self::Timing),
            ("\\?" | "\\h", _) => Ok(Self::Help),
            ("\\q", None) => Ok(Self::Quit),
            ("\\snapshots" | "\\format", None) => Err(format!("{command} needs a name behind it: see \\?")),
            ("\\dt" | "\\l" | "\\q", Some(argument)) => {
                Err(format!("{command} takes nothing behind it, such as {argument}: see \\?"))
            }
            _ => {
                let hint = did_you_mean(command, COMMANDS).unwrap_or_default();
                Err(format!("{command} is no command, see \\?: {hint}"))
            }
        }
    }
}

/// A line without blanks around it and without a semicolon, which some put behind everything.
fn bare(line: &str) -> &str {
    line.trim().trim_end_matches(';').trim_end()
}

/// The command that a word stands for.
fn word(line: &str) -> Option<&'static str> {
    let of_line = WORDS.iter().find(|(word, _)| word.eq_ignore_ascii_case(line));
    of_line.map(|(_, command)| *command)
}

fn is_on(state: Option<&str>) -> Result<Option<bool>, String> {
    match state {
        None => Ok(None),
        Some("on") => Ok(Some(true)),
        Some("off") => Ok(Some(false)),
        Some(other) => Err(format!("{other} is neither on nor off")),
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
    behind_blanks(text).is_none_or(str::is_empty)
}

/// `text` without the blanks and comments that it begins with; `None` if it ends in a comment.
fn behind_blanks(text: &str) -> Option<&str> {
    let mut rest = text.trim_start();
    loop {
        let end = if rest.starts_with("--") {
            behind(rest, "\n")
        } else if rest.starts_with("/*") {
            comment(rest)
        } else {
            return Some(rest);
        };
        rest = rest[end?..].trim_start();
    }
}

/// Whether nothing of `text`, which a line break follows, waits for more: it is blank, a command, or statements to the end.
pub(super) fn is_whole(text: &str) -> bool {
    if Command::is_one(text) {
        return true;
    }
    let mut rest = format!("{text}\n");
    while take_statement(&mut rest).is_some() {}
    behind_blanks(&rest).is_some_and(str::is_empty)
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
            ("\\d+ flights", Command::Describe("flights".into())),
            ("\\l", Command::Versions),
            ("\\x", Command::Expanded(None)),
            ("\\x on", Command::Expanded(Some(true))),
            ("\\o rows.csv", Command::Output(Some("rows.csv".into()))),
            ("\\o", Command::Output(None)),
            ("\\timing", Command::Timing(None)),
            ("\\timing off", Command::Timing(Some(false))),
            ("\\?", Command::Help),
            ("help;", Command::Help),
            ("\\q", Command::Quit),
            (" EXIT ", Command::Quit),
        ] {
            assert!(Command::is_one(line), "{line}");
            assert_eq!(Command::read(line), Ok(command), "{line}");
        }
        for line in ["\\", "\\y", "\\format", "\\format xml", "\\snapshots", "\\q now", "\\x maybe"] {
            assert!(Command::is_one(line), "{line}");
            assert!(Command::read(line).is_err(), "{line}");
        }
        for line in ["SELECT 1", "", "help me", "exits"] {
            assert!(!Command::is_one(line), "{line}");
        }
    }

    #[test]
    fn a_command_that_there_is_not_comes_with_the_one_that_was_meant() {
        for (line, hint) in [
            ("\\snapshot flights", "did you mean `\\snapshots`?"),
            ("\\timings", "did you mean `\\timing`?"),
            ("\\pset format csv", "see \\?: expected"),
        ] {
            let error = Command::read(line).unwrap_err();
            assert!(error.contains(hint), "{error}");
        }
    }

    #[test]
    fn every_command_that_is_completed_is_one_and_in_the_help() {
        for command in COMMANDS {
            let is_read = Command::read(command).is_ok() || Command::read(&format!("{command} csv")).is_ok();
            assert!(is_read, "{command}");
            assert!(command == "\\?" || HELP.contains(command), "{command}");
        }
    }

    #[test]
    fn a_text_waits_for_more_until_its_statements_have_their_ends() {
        for text in ["", "  ", "SELECT 1;", "SELECT 1;\nSELECT 2; -- end", "\\d", "quit", "-- a", "/* a */"] {
            assert!(is_whole(text), "{text:?}");
        }
        for text in ["SELECT 1", "SELECT 1; SELECT", "SELECT ';", "/* open", "SELECT 1; /* open", "x -- ;"] {
            assert!(!is_whole(text), "{text:?}");
        }
    }
}
