//! Reads the files `tests/sql/*.slt`, in the format of sqllogictest, as far as they use it, and compares.
//!
//! ```text
//! # two columns, a number and a text; the rows are compared in this order
//! query IT
//! SELECT 1, 'a b'
//! ----
//! 1 a b
//!
//! # the rows are sorted before, those that are found and those that are expected
//! query I rowsort
//! SELECT x FROM (VALUES (2), (1)) AS t (x)
//! ----
//! 1
//! 2
//!
//! statement ok
//! SELECT 1
//!
//! statement error not found
//! SELECT * FROM nowhere
//! ```
//!
//! A record ends with an empty line. Values are separated by a blank; a null is `NULL`, an empty text is `(empty)`. The error of a
//! `statement error` must hold the text behind it.

use std::fmt::Write;
use std::path::Path;

use arrow::array::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};

/// What is expected of a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    /// Rows of so many columns, in this order or in any.
    Rows {
        /// How many columns they have.
        columns: usize,
        /// Whether their order makes no difference.
        is_sorted: bool,
        /// One line for each.
        rows: Vec<String>,
    },
    /// No error.
    Success,
    /// An error that holds this.
    Error(String),
}

/// One record of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The line that it begins at.
    pub line: usize,
    /// The query.
    pub sql: String,
    /// What is expected.
    pub expected: Expected,
}

/// The records of a file.
///
/// # Panics
/// If the file cannot be read, or is wrong.
pub fn records(file: &Path) -> Vec<Record> {
    let text = std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let mut records = Vec::new();
    let mut block: Vec<(usize, &str)> = Vec::new();
    // An empty line at the end closes the last record.
    for (number, line) in (1..).zip(text.lines().chain([""])) {
        if line.starts_with('#') {
            continue;
        }
        if !line.trim().is_empty() {
            block.push((number, line));
        } else if !block.is_empty() {
            records.push(record(file, &std::mem::take(&mut block)));
        }
    }
    records
}

fn record(file: &Path, block: &[(usize, &str)]) -> Record {
    let (line, head) = block[0];
    let wrong = |what: &str| -> ! { panic!("{}:{line}: {what}: {head}", file.display()) };
    let mut body = block[1..].iter().map(|(_, text)| *text);
    let sql: Vec<&str> = body.by_ref().take_while(|text| *text != "----").collect();
    let sql = sql.join("\n");
    if sql.is_empty() {
        wrong("there is no query");
    }
    let expected = match head.split(' ').collect::<Vec<_>>().as_slice() {
        ["query", types] => {
            Expected::Rows { columns: types.len(), is_sorted: false, rows: body.map(str::to_owned).collect() }
        }
        ["query", types, "rowsort"] => {
            Expected::Rows { columns: types.len(), is_sorted: true, rows: body.map(str::to_owned).collect() }
        }
        ["statement", "ok"] => Expected::Success,
        ["statement", "error", text @ ..] => Expected::Error(text.join(" ")),
        _ => wrong("no record begins so"),
    };
    Record { line, sql, expected }
}

/// Each row as one line.
///
/// # Panics
/// If a value cannot be written.
pub fn lines(batches: &[RecordBatch]) -> Vec<String> {
    let options = FormatOptions::default().with_null("NULL");
    let mut lines = Vec::new();
    for batch in batches {
        let columns = batch.columns().iter();
        let columns: Vec<ArrayFormatter<'_>> = columns
            .map(|column| {
                ArrayFormatter::try_new(column.as_ref(), &options).expect("every type can be written")
            })
            .collect();
        for row in 0..batch.num_rows() {
            let values = columns.iter().map(|column| {
                let value = column.value(row).to_string();
                if value.is_empty() { "(empty)".to_owned() } else { value }
            });
            lines.push(values.collect::<Vec<_>>().join(" "));
        }
    }
    lines
}

/// What is wrong with the end of a query, if anything.
pub fn fault(record: &Record, found: &Result<Vec<RecordBatch>, String>) -> Option<String> {
    match (&record.expected, found) {
        (Expected::Success, Ok(_)) => None,
        (Expected::Success | Expected::Rows { .. }, Err(error)) => Some(error.clone()),
        (Expected::Error(text), Err(error)) if error.contains(text.as_str()) => None,
        (Expected::Error(text), Err(error)) => Some(format!("the error does not hold {text:?}: {error}")),
        (Expected::Error(_), Ok(_)) => Some("no error".to_owned()),
        (Expected::Rows { columns, is_sorted, rows }, Ok(batches)) => {
            let width = batches.first().map_or(*columns, RecordBatch::num_columns);
            let (mut expected, mut found) = (rows.clone(), lines(batches));
            if *is_sorted {
                expected.sort();
                found.sort();
            }
            if width != *columns {
                return Some(format!("{width} columns instead of {columns}"));
            }
            (expected != found).then(|| difference(&expected, &found))
        }
    }
}

fn difference(expected: &[String], found: &[String]) -> String {
    let mut text = String::new();
    for (what, rows) in [("expected", expected), ("found", found)] {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {what}:");
        for row in rows {
            let _ = writeln!(text, "    {row}");
        }
    }
    text
}
