//! Problems of a spec, each with its place, and how people and programs read them.
//!
//! For people a problem looks like a compiler's message: place, what is wrong, the line, a caret, help.
//!
//! ```text
//! topology.yaml:3:3: error: unknown field `brokrs` in `kafka`
//!    3 |   brokrs: localhost:9092
//!      |   ^^^^^^
//!      = help: did you mean `brokers`?
//! ```
//!
//! Excerpts never show a secret: the values found inline, which are a problem themselves, are masked in the text
//! that excerpts are cut from, and control characters are replaced so that a spec cannot drive the terminal.

use std::collections::BTreeMap;
use std::fmt;
use std::fmt::Write as _;

use serde::Serialize;

/// Longest piece of a source line shown, in characters.
const EXCERPT_CHARACTERS_MAX: usize = 120;

/// A place in the text of a spec. Lines and columns count from 1, columns in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
}

/// One thing that is wrong with a spec, or with a contract that it names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The file, as named by the user.
    pub file: String,
    /// The line, from 1; 0 when the problem concerns the file as a whole.
    pub line: usize,
    /// The column in characters, from 1; 0 when the problem concerns the file as a whole.
    pub column: usize,
    /// JSON pointer to the value or the key concerned; empty for the whole document.
    pub pointer: String,
    /// What is wrong.
    pub message: String,
    /// The way out.
    pub suggestion: Option<String>,
    /// How many characters to underline.
    #[serde(skip)]
    pub(super) width: usize,
}

/// Every problem of one spec, in the order of the text, then those of the contracts that it names. At least one.
#[derive(Debug, Clone)]
pub struct SpecErrors {
    /// The spec, as named by the user.
    pub file: String,
    /// The problems, in the order of the text.
    pub problems: Vec<Problem>,
    /// The texts that excerpts are cut from, by file, with inline secrets masked.
    pub(super) masked_texts: BTreeMap<String, String>,
}

/// Whether to colour a rendering.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colour {
    /// ANSI escape sequences.
    Ansi,
    /// Plain text.
    None,
}

impl Colour {
    fn paint(self, codes: &str, text: &str) -> String {
        match self {
            Colour::Ansi => format!("\x1b[{codes}m{text}\x1b[0m"),
            Colour::None => text.to_owned(),
        }
    }

    fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    fn red(self, text: &str) -> String {
        self.paint("1;31", text)
    }

    fn blue(self, text: &str) -> String {
        self.paint("1;34", text)
    }
}

impl SpecErrors {
    /// A problem of the file as a whole: it cannot be read, say.
    pub(super) fn of_file(file: &str, message: impl Into<String>, suggestion: Option<String>) -> Self {
        let problem = Problem {
            file: file.to_owned(),
            line: 0,
            column: 0,
            pointer: String::new(),
            message: message.into(),
            suggestion,
            width: 0,
        };
        Self { file: file.to_owned(), problems: vec![problem], masked_texts: BTreeMap::new() }
    }

    /// The problems as a compiler would print them, with a count at the end.
    pub fn render(&self, colour: Colour) -> String {
        let texts =
            self.masked_texts.iter().map(|(file, text)| (file.as_str(), text.lines().collect::<Vec<_>>()));
        let texts: BTreeMap<&str, Vec<&str>> = texts.collect();
        let mut out = String::new();
        for problem in &self.problems {
            let lines = texts.get(problem.file.as_str()).map(Vec::as_slice).unwrap_or_default();
            render_problem(&mut out, problem, lines, colour);
            out.push('\n');
        }
        let _ = writeln!(out, "{}", self.summary());
        out
    }

    /// The problems as a JSON value: `{"file": …, "problems": [{line, column, pointer, message, suggestion}…]}`.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({ "file": self.file, "problems": self.problems })
    }

    fn summary(&self) -> String {
        let mut files: Vec<String> = Vec::new();
        for problem in &self.problems {
            let file = printable(&problem.file);
            if !files.contains(&file) {
                files.push(file);
            }
        }
        let files = files.join(", ");
        match self.problems.len() {
            1 => format!("1 problem in {files}"),
            count => format!("{count} problems in {files}"),
        }
    }
}

impl fmt::Display for SpecErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.summary())?;
        for problem in &self.problems {
            write!(f, "\n{}: {}", place(problem), printable(&problem.message))?;
        }
        Ok(())
    }
}

impl std::error::Error for SpecErrors {}

fn place(problem: &Problem) -> String {
    let file = printable(&problem.file);
    match problem.line {
        0 => file,
        line => format!("{file}:{line}:{}", problem.column),
    }
}

fn render_problem(out: &mut String, problem: &Problem, lines: &[&str], colour: Colour) {
    let message = printable(&problem.message);
    let _ =
        writeln!(out, "{}: {} {}", colour.bold(&place(problem)), colour.red("error:"), colour.bold(&message));
    let source_line = problem.line.checked_sub(1).and_then(|index| lines.get(index));
    if let Some(source_line) = source_line {
        let (excerpt, caret_at) = excerpt(source_line, problem.column);
        let room = excerpt.chars().count().saturating_sub(caret_at).max(1);
        let carets = "^".repeat(problem.width.clamp(1, room));
        let gutter = format!("{:>5} |", problem.line);
        let _ = writeln!(out, "{} {excerpt}", colour.blue(&gutter));
        let _ = writeln!(out, "{} {}{}", colour.blue("      |"), " ".repeat(caret_at), colour.red(&carets));
    }
    if let Some(suggestion) = &problem.suggestion {
        let mark = colour.blue("      =");
        let _ = writeln!(out, "{mark} {} {}", colour.bold("help:"), printable(suggestion));
    }
}

/// The part of `line` around `column` that is shown, and where in it `column` lies, from 0.
fn excerpt(line: &str, column: usize) -> (String, usize) {
    let characters: Vec<char> = printable(line).chars().collect();
    let at = column.saturating_sub(1).min(characters.len());
    if characters.len() <= EXCERPT_CHARACTERS_MAX {
        return (characters.into_iter().collect::<String>().trim_end().to_owned(), at);
    }
    let start = at.saturating_sub(EXCERPT_CHARACTERS_MAX / 2).min(characters.len() - EXCERPT_CHARACTERS_MAX);
    let shown = characters[start..start + EXCERPT_CHARACTERS_MAX].iter().collect();
    (shown, at - start)
}

/// `text` with every control character replaced, one for one, so that columns stay and nothing reaches the
/// terminal that could drive it.
fn printable(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\t' => ' ',
            '\n' => ' ',
            c if c.is_control() => '\u{fffd}',
            c => c,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(text: &str, line: usize, column: usize, width: usize) -> SpecErrors {
        let problem = Problem {
            file: "t.yaml".into(),
            line,
            column,
            pointer: "/kafka".into(),
            message: "it is wrong".into(),
            suggestion: Some("make it right".into()),
            width,
        };
        let masked_texts = [("t.yaml".to_owned(), text.to_owned())].into();
        SpecErrors { file: "t.yaml".into(), problems: vec![problem], masked_texts }
    }

    #[test]
    fn a_problem_reads_like_a_compilers() {
        let rendered = errors("a: 1\nkafka: {}\n", 2, 1, 5).render(Colour::None);
        assert_eq!(
            rendered,
            "t.yaml:2:1: error: it is wrong\n    2 | kafka: {}\n      | ^^^^^\n      = help: make it right\n\n\
             1 problem in t.yaml\n"
        );
        assert!(errors("a: 1\n", 1, 1, 1).render(Colour::Ansi).contains("\x1b[1;31merror:\x1b[0m"));
    }

    #[test]
    fn long_lines_and_control_characters_are_tamed() {
        let long = format!("{}\x1b[31mX{}", "a".repeat(500), "b".repeat(500));
        let rendered = errors(&long, 1, 506, 1).render(Colour::None);
        assert!(!rendered.contains('\x1b'));
        let lines: Vec<&str> = rendered.lines().collect();
        let caret_at = lines[2].find('^').unwrap();
        assert_eq!(lines[1].chars().nth(caret_at), Some('X'));
        assert!(lines[1].chars().count() < 140);
        // Places past the end of the text render too.
        let _ = errors("a", 9, 9, 9).render(Colour::None);
        let _ = errors("a", 1, 99, 9).render(Colour::None);
        assert!(errors("", 0, 0, 0).render(Colour::None).starts_with("t.yaml: error:"));
    }
}
