//! `isobar query` without a query: a shell on a terminal, or the statements of standard input.
//!
//! On a terminal an error ends a statement and nothing else; Ctrl-C ends a query and what was typed behind it, or drops the line that
//! is typed, and never ends the shell. Without one, the statements are run one after the other, and the first error ends the
//! program. Each statement sees the tables at the versions that are the newest when it begins; of a log that is known only
//! what is new is read.

mod complete;
mod editor;
mod input;
mod lines;
mod target;

use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::Context;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use comfy_table::{Table, presets};
use isobar_connectors::clouds::Cloud;
use tokio::signal::unix::{SignalKind, signal};

use self::complete::Names;
use self::editor::{Edited, SharedNames};
use self::input::{Command, HELP, is_blank, take_statement};
use self::lines::{Interrupts, Line, Lines, Piped, Typed};
use self::target::Target;
use super::args::QueryArgs;
use super::bars::QueryProgress;
use super::query::write_stats;
use super::{Exit, Misconfigured, bars, runtime};
use crate::query::{self, Answer, Catalog, Freshness, QueryLimits, Reading, RowsFormat};
use crate::spec::Topology;
use crate::start::open_clouds;

/// Versions that `\snapshots` shows.
const SNAPSHOTS_MAX: usize = 20;
const PROMPT: &str = "isobar> ";
/// Where a statement goes on, without a line editor.
const PROMPT_WITHIN: &str = "     -> ";

/// Runs the shell, or what standard input holds.
pub(super) fn shell(
    topology: &Topology,
    args: &QueryArgs,
    format: RowsFormat,
    limits: QueryLimits,
    (reading, freshness): (Reading, Freshness),
) -> anyhow::Result<Exit> {
    let clouds = open_clouds(topology)?;
    let catalog = query::catalog_reading(topology, &clouds, &reading)?.following();
    let shell = Shell {
        topology,
        clouds,
        catalog: Arc::new(catalog),
        limits,
        freshness,
        format,
        is_expanded: false,
        is_timed: false,
        has_stats: args.stats,
        output: args.output.clone().map(Target::new),
        is_interactive: io::stdin().is_terminal(),
    };
    runtime()?.block_on(shell.start(args))?;
    Ok(Exit::Success)
}

struct Shell<'a> {
    topology: &'a Topology,
    clouds: Vec<Cloud>,
    catalog: Arc<Catalog>,
    limits: QueryLimits,
    freshness: Freshness,
    format: RowsFormat,
    is_expanded: bool,
    is_timed: bool,
    has_stats: bool,
    output: Option<Target>,
    is_interactive: bool,
}

/// What is typed.
enum Step {
    Statement(String),
    Command(Command),
}

/// How a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    Done,
    /// By Ctrl-C.
    Interrupted,
}

impl Shell<'_> {
    async fn start(mut self, args: &QueryArgs) -> anyhow::Result<()> {
        if !self.is_interactive {
            return self.run(&mut Piped(io::stdin().lock()), Interrupts::none()).await;
        }
        // As line editors do, who cannot move the cursor there.
        let is_dumb =
            std::env::var_os("TERM").is_none_or(|terminal| terminal == "dumb" || terminal == "emacs");
        if is_dumb || !io::stdout().is_terminal() {
            return self.run(&mut Typed::start(interrupts()?)?, interrupts()?).await;
        }
        let names = self.names();
        let looking = tokio::spawn(look_for_columns(self.catalog.clone(), names.clone()));
        let history = if args.no_history { None } else { editor::history_file() };
        let mut lines = Edited::open(names, history).context("take the terminal")?;
        let ended = self.run(&mut lines, interrupts()?).await;
        looking.abort();
        ended
    }

    /// The tables that there may be. None is looked for.
    fn names(&self) -> SharedNames {
        let names = query::Names::of(&self.topology.dataset_names());
        let tables = names.unquoted(|_| true).into_iter().map(str::to_owned).collect();
        Arc::new(Mutex::new(Names { tables, columns: Vec::new() }))
    }

    /// Reads and does what is typed, to the end.
    async fn run<L: Lines>(&mut self, lines: &mut L, mut interrupts: Interrupts) -> anyhow::Result<()> {
        let mut text = String::new();
        loop {
            let prompt = if is_blank(&text) { PROMPT } else { PROMPT_WITHIN };
            match lines.next(prompt).await.context("read a line")? {
                Line::Interrupted => text.clear(),
                Line::Text(line) if is_blank(&text) && Command::is_one(&line) => match Command::read(&line) {
                    Ok(Command::Quit) => return Ok(()),
                    Ok(command) => _ = self.step(&Step::Command(command), &mut interrupts).await?,
                    Err(wrong) => self.carry_on(Err(Misconfigured(wrong).into()))?,
                },
                Line::Text(line) => {
                    text.push_str(&line);
                    text.push('\n');
                    // Looked through from its beginning only when there may be an end.
                    while line.contains(';')
                        && let Some(statement) = take_statement(&mut text)
                    {
                        if self.statement(statement, &mut interrupts).await? == Ended::Interrupted {
                            text.clear();
                        }
                    }
                }
                // The last statement of a file needs no semicolon.
                Line::End if self.is_interactive => return Ok(()),
                Line::End => return self.statement(text, &mut interrupts).await.map(|_| ()),
            }
        }
    }

    async fn statement(&mut self, sql: String, interrupts: &mut Interrupts) -> anyhow::Result<Ended> {
        match is_blank(&sql) {
            true => Ok(Ended::Done),
            false => self.step(&Step::Statement(sql), interrupts).await,
        }
    }

    /// Does what was typed, unless Ctrl-C ends it.
    async fn step(&mut self, step: &Step, interrupts: &mut Interrupts) -> anyhow::Result<Ended> {
        let begun = Instant::now();
        let progress = QueryProgress::default();
        // One that came while nothing ran is not for this.
        interrupts.forget();
        let done = tokio::select! {
            done = self.take(step, &progress) => Some(done),
            () = interrupts.next() => None,
        };
        progress.end().await?;
        let ended = if done.is_some() { Ended::Done } else { Ended::Interrupted };
        if self.is_timed && matches!(step, Step::Statement(_)) {
            eprintln!("time: {:.3} s", begun.elapsed().as_secs_f64());
        }
        self.carry_on(done.unwrap_or_else(|| Err(anyhow::anyhow!("cancelled"))))?;
        Ok(ended)
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

    async fn take(&mut self, step: &Step, progress: &QueryProgress) -> anyhow::Result<()> {
        match step {
            Step::Statement(sql) => self.answer(sql, progress).await,
            Step::Command(command) => self.command(command, progress).await,
        }
    }

    async fn command(&mut self, command: &Command, progress: &QueryProgress) -> anyhow::Result<()> {
        match command {
            Command::Tables => {
                let sql = "SELECT table_name AS \"table\" FROM information_schema.tables WHERE table_schema = 'datasets' \
                           AND table_name NOT LIKE '%.%' ORDER BY table_name";
                return self.show(sql, progress).await;
            }
            Command::Describe(table) => {
                let table = query::known_table(self.topology, table.trim_matches('"'))?;
                return self.show(&format!("DESCRIBE \"{table}\""), progress).await;
            }
            Command::Versions => return print(versions(&self.catalog).await?.as_bytes()),
            Command::Snapshots(table) => {
                let table = table.trim_matches('"');
                let snapshots =
                    query::snapshots_in(self.topology, &self.clouds, table, SNAPSHOTS_MAX).await?;
                return print(snapshots.to_table().as_bytes());
            }
            Command::Format(format) => self.format = *format,
            Command::Expanded(state) => {
                self.is_expanded = state.unwrap_or(!self.is_expanded);
                eprintln!("expanded: {}", on_or_off(self.is_expanded));
            }
            Command::Output(file) => self.output = file.clone().map(Target::new),
            Command::Timing(state) => {
                self.is_timed = state.unwrap_or(!self.is_timed);
                eprintln!("timing: {}", on_or_off(self.is_timed));
            }
            Command::Help => return print(HELP.as_bytes()),
            Command::Quit => (),
        }
        Ok(())
    }

    /// Answers a query as it was asked for: in the format, and into the file.
    async fn answer(&mut self, sql: &str, progress: &QueryProgress) -> anyhow::Result<()> {
        match &self.output {
            Some(target) => target.check(self.format)?,
            None if self.format.is_binary() => {
                let refusal = "an answer in Parquet or Arrow needs a file of its own: name one with \\o";
                return Err(Misconfigured(refusal.to_owned()).into());
            }
            None => {}
        }
        let mut answer = self.ask(sql, progress).await?;
        match &mut self.output {
            Some(target) if self.format == RowsFormat::Table => {
                written(&mut answer, self.format, self.is_expanded, |text| target.append(text)).await?;
            }
            Some(target) => target.write(&mut answer, self.format).await?,
            None => written(&mut answer, self.format, self.is_expanded, print).await?,
        }
        if self.has_stats {
            bars::suspended(|| write_stats(&answer))?;
        }
        Ok(())
    }

    /// Shows what a query says to whoever sits there, whatever answers look like and wherever they go.
    async fn show(&self, sql: &str, progress: &QueryProgress) -> anyhow::Result<()> {
        let mut answer = self.ask(sql, progress).await?;
        written(&mut answer, RowsFormat::Table, self.is_expanded, print).await
    }

    async fn ask(&self, sql: &str, progress: &QueryProgress) -> anyhow::Result<Answer> {
        let answer = self.catalog.query_within(sql, &self.limits, &self.freshness).await?;
        progress.show(answer.scanned());
        Ok(answer)
    }
}

fn interrupts() -> anyhow::Result<Interrupts> {
    Ok(Interrupts::of(signal(SignalKind::interrupt()).context("listen for SIGINT")?))
}

fn on_or_off(is_on: bool) -> &'static str {
    if is_on { "on" } else { "off" }
}

/// Finds the names of columns, which are completed from then on. If no cloud answers, there are none.
async fn look_for_columns(catalog: Arc<Catalog>, names: SharedNames) {
    let sql = "SELECT DISTINCT column_name FROM information_schema.columns WHERE table_schema = 'datasets'";
    let Ok(mut answer) = catalog.query(sql).await else { return };
    while let Ok(Some(batch)) = answer.next_batch().await {
        let options = FormatOptions::default();
        let Ok(columns) = ArrayFormatter::try_new(batch.column(0).as_ref(), &options) else { return };
        let found = (0..batch.num_rows()).map(|row| columns.value(row).to_string());
        names.lock().unwrap_or_else(PoisonError::into_inner).columns.extend(found);
    }
}

/// The tables that something was committed to, each once.
async fn versions(catalog: &Catalog) -> anyhow::Result<String> {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(["TABLE", "VERSION", "COMMITTED", "CLOUD"]);
    for (name, version) in catalog.tables().await? {
        // The name that needs no quotes.
        if !name.contains('.') {
            let number = version.version.to_string();
            table.add_row([name, number, version.committed(), version.cloud]);
        }
    }
    Ok(format!("{table}\n"))
}

/// Writes an answer piece by piece; an expanded table has a line for each value.
async fn written(
    answer: &mut Answer,
    format: RowsFormat,
    is_expanded: bool,
    mut write: impl FnMut(&[u8]) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    if !is_expanded || format != RowsFormat::Table {
        while let Some(piece) = answer.next_bytes(format).await? {
            write(&piece)?;
        }
        return Ok(());
    }
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
            write(text.as_bytes())?;
        }
    }
    Ok(())
}

fn print(text: &[u8]) -> anyhow::Result<()> {
    bars::suspended(|| -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(text)?;
        stdout.flush()
    })?;
    Ok(())
}
