//! `isobar query` without a query: a shell on a terminal, or the statements of standard input.
//!
//! On a terminal an error ends a statement and nothing else, and Ctrl-C a query and not the shell. Without one, the statements are run one
//! after the other, and the first error ends the program. Each statement sees the tables at the versions that are the
//! newest when it begins.

// Nothing asks these before there is a line editor.
#[cfg_attr(not(test), expect(dead_code, reason = "a line editor asks them"))]
mod complete;
mod input;

use std::fs::File;
use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::time::Instant;

use anyhow::Context;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use isobar_connectors::clouds::Cloud;

use self::input::{Command, HELP, is_blank, take_statement};
use super::args::QueryArgs;
use super::{Exit, Misconfigured, bars, runtime};
use crate::query::{self, Answer, Freshness, QueryLimits, Reading, RowsFormat};
use crate::spec::Topology;
use crate::start::open_clouds;

/// Bytes of one line; a statement may have many.
const LINE_BYTES_MAX: u64 = 1 << 20;
/// Versions that `\snapshots` shows.
const SNAPSHOTS_MAX: usize = 20;
const PROMPT: &str = "isobar> ";
/// Where a statement goes on.
const PROMPT_WITHIN: &str = "     -> ";

/// What a person does when asked for a line.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Line {
    Text(String),
    /// Ctrl-C: what was typed of a statement is forgotten.
    Interrupted,
    /// There are no more.
    End,
}

/// Where lines come from.
trait Lines {
    /// The next line, without its end.
    fn next(&mut self, prompt: &str) -> io::Result<Line>;
}

/// Lines as they come, without any editing.
struct Plain<R> {
    input: R,
    is_prompting: bool,
}

impl<R: BufRead> Lines for Plain<R> {
    fn next(&mut self, prompt: &str) -> io::Result<Line> {
        if self.is_prompting {
            let mut stderr = io::stderr().lock();
            stderr.write_all(prompt.as_bytes())?;
            stderr.flush()?;
        }
        let mut line = String::new();
        match self.input.by_ref().take(LINE_BYTES_MAX).read_line(&mut line) {
            Ok(0) => Ok(Line::End),
            Ok(_) if line.len() as u64 == LINE_BYTES_MAX && !line.ends_with('\n') => {
                Err(io::Error::other(format!("a line has more than {LINE_BYTES_MAX} bytes")))
            }
            Ok(_) => Ok(Line::Text(line.trim_end_matches(['\n', '\r']).to_owned())),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(Line::Interrupted),
            Err(error) => Err(error),
        }
    }
}

/// Runs the shell, or what standard input holds.
pub(super) fn shell(
    topology: &Topology,
    args: &QueryArgs,
    format: RowsFormat,
    limits: QueryLimits,
    (reading, freshness): (Reading, Freshness),
) -> anyhow::Result<Exit> {
    let is_interactive = io::stdin().is_terminal();
    let output = args
        .output
        .as_ref()
        .map(|file| File::create(file).with_context(|| format!("write {}", file.display())));
    let mut shell = Shell {
        topology,
        clouds: open_clouds(topology)?,
        limits,
        reading,
        freshness,
        format,
        is_expanded: false,
        is_timed: false,
        output: output.transpose()?,
        is_interactive,
    };
    let mut lines = Plain { input: io::stdin().lock(), is_prompting: is_interactive };
    runtime()?.block_on(shell.run(&mut lines))?;
    Ok(Exit::Success)
}

struct Shell<'a> {
    topology: &'a Topology,
    clouds: Vec<Cloud>,
    limits: QueryLimits,
    reading: Reading,
    freshness: Freshness,
    format: RowsFormat,
    is_expanded: bool,
    is_timed: bool,
    output: Option<File>,
    is_interactive: bool,
}

impl Shell<'_> {
    /// Reads and does what is typed, to the end.
    async fn run(&mut self, lines: &mut dyn Lines) -> anyhow::Result<()> {
        let mut text = String::new();
        loop {
            let prompt = if is_blank(&text) { PROMPT } else { PROMPT_WITHIN };
            match lines.next(prompt).context("read a line")? {
                Line::Interrupted => text.clear(),
                Line::Text(line) if is_blank(&text) && line.trim_start().starts_with('\\') => {
                    match Command::read(&line) {
                        Ok(Command::Quit) => return Ok(()),
                        Ok(command) => {
                            let done = self.command(command).await;
                            self.carry_on(done)?;
                        }
                        Err(wrong) => self.carry_on(Err(Misconfigured(wrong).into()))?,
                    }
                }
                Line::Text(line) => {
                    text.push_str(&line);
                    text.push('\n');
                    // Looked through from its beginning only when there may be an end.
                    while line.contains(';')
                        && let Some(statement) = take_statement(&mut text)
                    {
                        self.statement(&statement).await?;
                    }
                }
                // The last statement of a file needs no semicolon.
                Line::End if self.is_interactive => return Ok(()),
                Line::End => return self.statement(&text).await,
            }
        }
    }

    async fn statement(&mut self, sql: &str) -> anyhow::Result<()> {
        if is_blank(sql) {
            return Ok(());
        }
        let begun = Instant::now();
        let answered = if self.is_interactive {
            tokio::select! {
                answered = self.answer(sql) => answered,
                _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("the query was cancelled")),
            }
        } else {
            self.answer(sql).await
        };
        if self.is_timed {
            eprintln!("time: {:.3} s", begun.elapsed().as_secs_f64());
        }
        self.carry_on(answered)
    }

    /// On a terminal, says what is wrong and goes on.
    fn carry_on(&self, done: anyhow::Result<()>) -> anyhow::Result<()> {
        match done {
            Err(error) if self.is_interactive && !super::output::is_broken_pipe(&error) => {
                eprintln!("error: {error:#}");
                Ok(())
            }
            done => done,
        }
    }

    async fn command(&mut self, command: Command) -> anyhow::Result<()> {
        let on = |is_on: bool| if is_on { "on" } else { "off" };
        match command {
            Command::Tables => {
                let sql = "SELECT table_name AS \"table\" FROM information_schema.tables WHERE table_schema = 'datasets' \
                           AND table_name NOT LIKE '%.%' ORDER BY table_name";
                return self.answer(sql).await;
            }
            Command::Describe(table) => return self.answer(&format!("DESCRIBE {table}")).await,
            Command::Snapshots(table) => {
                let snapshots =
                    query::snapshots_in(self.topology, &self.clouds, &table, SNAPSHOTS_MAX).await?;
                return self.write(snapshots.to_table().as_bytes());
            }
            Command::Format(format) => self.format = format,
            Command::Expanded => {
                self.is_expanded = !self.is_expanded;
                eprintln!("expanded: {}", on(self.is_expanded));
            }
            Command::Output(None) => self.output = None,
            Command::Output(Some(file)) => {
                let created = File::create(&file).with_context(|| format!("write {}", file.display()))?;
                self.output = Some(created);
            }
            Command::Timing => {
                self.is_timed = !self.is_timed;
                eprintln!("timing: {}", on(self.is_timed));
            }
            Command::Help => return self.write(HELP.as_bytes()),
            Command::Quit => (),
        }
        Ok(())
    }

    async fn answer(&mut self, sql: &str) -> anyhow::Result<()> {
        if self.format.is_binary() && self.output.is_none() {
            let refusal = "Parquet and Arrow are not for a terminal: name a file with \\o";
            return Err(Misconfigured(refusal.to_owned()).into());
        }
        let catalog = query::catalog_reading(self.topology, &self.clouds, &self.reading)?;
        let mut answer = catalog.query_within(sql, &self.limits, &self.freshness).await?;
        if self.is_expanded && self.format == RowsFormat::Table {
            return self.expanded(answer).await;
        }
        while let Some(piece) = answer.next_bytes(self.format).await? {
            self.write(&piece)?;
        }
        Ok(())
    }

    /// A line for each value.
    async fn expanded(&mut self, mut answer: Answer) -> anyhow::Result<()> {
        let mut number = 0_u64;
        while let Some(batch) = answer.next_batch().await? {
            let options = FormatOptions::default();
            let names: Vec<&str> =
                batch.schema_ref().fields().iter().map(|field| field.name().as_str()).collect();
            let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
            let columns = batch.columns().iter();
            let columns: Vec<ArrayFormatter<'_>> = columns
                .map(|column| ArrayFormatter::try_new(column.as_ref(), &options))
                .collect::<Result<_, _>>()?;
            for row in 0..batch.num_rows() {
                number += 1;
                let mut text = format!("-[ row {number} ]\n");
                for (name, column) in names.iter().zip(&columns) {
                    text.push_str(&format!("{name:width$} | {}\n", column.value(row)));
                }
                self.write(text.as_bytes())?;
            }
        }
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        if let Some(file) = &mut self.output {
            return file.write_all(bytes).context("write the answer");
        }
        bars::suspended(|| -> io::Result<()> {
            let mut stdout = io::stdout().lock();
            stdout.write_all(bytes)?;
            stdout.flush()
        })?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_lines_come_without_their_ends() {
        let mut lines = Plain { input: "a\r\nb\n\nc".as_bytes(), is_prompting: false };
        let mut read = Vec::new();
        loop {
            match lines.next(PROMPT).unwrap() {
                Line::Text(text) => read.push(text),
                Line::End => break,
                Line::Interrupted => panic!("nobody interrupts"),
            }
        }
        assert_eq!(read, ["a", "b", "", "c"]);
    }
}
