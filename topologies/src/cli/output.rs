//! Printing to standard output: in one piece, and without a panic when the reader goes away (`isobar schema | head`).

use std::io::{self, IsTerminal, Write};

use crate::spec::Colour;

/// Writes `text` to standard output, with a line break at the end.
///
/// # Errors
/// When nobody reads any more ([`is_broken_pipe`]) or the disk is full.
pub fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    if !text.ends_with('\n') {
        stdout.write_all(b"\n")?;
    }
    stdout.flush()
}

/// Prints `value` as indented JSON.
///
/// # Errors
/// As [`print()`].
pub fn print_json(value: &serde_json::Value) -> io::Result<()> {
    print(&format!("{value:#}"))
}

/// Whether `error` says that the reader of our output has gone. That is the reader's choice and no failure of ours.
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// Whether to colour what goes to a stream: never with `NO_COLOR` set to anything, and only on a terminal that can.
pub(super) fn wants_colour(is_terminal: bool) -> bool {
    let is_refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let is_dumb = std::env::var_os("TERM").is_some_and(|value| value == "dumb");
    is_terminal && !is_refused && !is_dumb
}

fn colour(is_terminal: bool) -> Colour {
    if wants_colour(is_terminal) { Colour::Ansi } else { Colour::None }
}

/// Colour for standard output.
pub fn stdout_colour() -> Colour {
    colour(io::stdout().is_terminal())
}

/// Colour for standard error.
pub fn stderr_colour() -> Colour {
    colour(io::stderr().is_terminal())
}
