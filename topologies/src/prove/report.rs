//! What an audit says: for programs as JSON of a fixed shape, for people as a table and a verdict.
//!
//! ```json
//! { "format": 1, "holds": true,
//!   "clouds": ["aws", "azure", "gcp"],
//!   "totals": { "clouds": 3, "tables": 2, "versions": 24, "files": 31, "rows": 327346, "quarantined_rows": 1175,
//!               "bytes_hashed": 24117248 },
//!   "tables": [ { "table": "flight_features", "last_version": 11, "rows": 327346, "files": 24, "file_bytes": 8039082,
//!                 "partitions": [ { "cluster": "…", "topic": "flights", "topic_id": "…", "partition": 0,
//!                                   "first": 0, "next": 81234, "records": 81234 } ] } ],
//!   "checks": [ { "table": "flight_features", "cloud": "aws", "check": "offsets", "status": "passed",
//!                 "checked": 48, "unit": "ranges", "failed": 0, "examples": [] } ] }
//! ```
//!
//! `status` is `passed`, `failed`, `not_judged` (an earlier check of this cloud failed) or `information`. The check
//! `answers` is about a cloud and has no `table`. New fields may be added; a change of meaning changes `format`.

use std::fmt::Write;

use comfy_table::{Attribute, Cell, Color, ContentArrangement, Table, presets};
use indicatif::{HumanBytes, HumanCount};
use isobar_connectors::delta::AcceptedGap;
use serde::Serialize;

use super::tally::Tally;

/// Version of the JSON shape.
pub const REPORT_FORMAT: u32 = 1;

/// The outcome of an audit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// [`REPORT_FORMAT`].
    pub format: u32,
    /// Whether every check holds, in every cloud.
    pub holds: bool,
    /// The clouds asked, in the order given.
    pub clouds: Vec<String>,
    /// Sums over all tables.
    pub totals: Totals,
    /// What each table holds, as of the cloud that is furthest.
    pub tables: Vec<TableSummary>,
    /// One result per check, table and cloud.
    pub checks: Vec<CheckResult>,
}

/// Sums over all tables of an audit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Totals {
    /// Clouds asked.
    pub clouds: u64,
    /// Tables audited, quarantines included.
    pub tables: u64,
    /// Versions of all tables, each counted once.
    pub versions: u64,
    /// Files of all tables after their last version, each counted once.
    pub files: u64,
    /// Rows of these files, without those in quarantines.
    pub rows: u64,
    /// Rows of these files in quarantines.
    pub quarantined_rows: u64,
    /// Bytes of data files and checkpoints read and hashed, over all clouds.
    pub bytes_hashed: u64,
}

/// What one table holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct TableSummary {
    /// The dataset, or its quarantine.
    pub table: String,
    /// The last version.
    pub last_version: u64,
    /// Rows in the files of that version, by the log.
    pub rows: u64,
    /// Files of that version.
    pub files: u64,
    /// Their bytes, by the log.
    pub file_bytes: u64,
    /// How far each Kafka partition is.
    pub partitions: Vec<PartitionSummary>,
}

/// How far one Kafka partition is in a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct PartitionSummary {
    /// The Kafka cluster's id.
    pub cluster: String,
    /// The topic's name.
    pub topic: String,
    /// The topic's id, or its name.
    pub topic_id: String,
    /// The partition's number.
    pub partition: i32,
    /// First offset covered.
    pub first: i64,
    /// The next offset to read.
    pub next: i64,
    /// Records read.
    pub records: u64,
    /// Offsets that somebody decided to go on without. Left out where there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub accepted_gaps: Vec<GapSummary>,
}

/// Offsets that somebody decided to go on without: `isobar accept-gap`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct GapSummary {
    /// The first offset that is missing.
    pub from: i64,
    /// The offset at which reading went on.
    pub to: i64,
    /// Why, in their words.
    pub reason: String,
}

impl From<&AcceptedGap> for GapSummary {
    fn from(gap: &AcceptedGap) -> Self {
        Self { from: gap.from, to: gap.to, reason: gap.reason.clone() }
    }
}

/// The questions an audit asks, in the order of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Check {
    /// The cloud can be listed and read at all.
    Answers,
    /// Every version can be read, is one that isobar wrote, and is of this table.
    Entries,
    /// Versions run from 0 to the last without a gap.
    Versions,
    /// Every body names the SHA-256 of the body before it.
    HashChain,
    /// Sequence numbers and timestamps rise along the versions, epochs never fall.
    Order,
    /// Offset ranges lie end to end, from the first declared position to the last.
    Offsets,
    /// Every record has one fate, and the files hold the rows that are counted out.
    Counts,
    /// Each schema succeeds the one before, in an entry that does nothing else and says what changes.
    Schemas,
    /// Per decision, the quarantine gets what the dataset rejects, and loses what a redrive brings to the dataset.
    Quarantine,
    /// What a redrive leaves in a quarantine was there before, row by row. Not there where nothing was redriven.
    Redrives,
    /// Every version has the same bytes in every cloud, and every cloud has the same last version.
    Replicas,
    /// Files are named by paths that stay inside the table.
    Paths,
    /// Every file is there with the size and SHA-256 that the log states.
    Files,
    /// Every Parquet footer counts the rows that the log states, and its columns fit the table at its version.
    Footers,
    /// The newest checkpoint is there, fits the log, and has the same bytes in every cloud that has it.
    Checkpoints,
    /// Objects that no version names: what stopped runs left behind, or files that wait for their commit.
    Leftovers,
}

impl Check {
    /// The name in JSON.
    pub fn name(self) -> &'static str {
        self.words().0
    }

    /// What the check says when it holds.
    pub fn title(self) -> &'static str {
        self.words().1
    }

    /// What is counted as checked.
    pub fn unit(self) -> &'static str {
        self.words().2
    }

    fn words(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Check::Answers => ("answers", "cloud answers", "listings"),
            Check::Entries => ("entries", "entries are isobar's own", "versions"),
            Check::Versions => ("versions", "versions without a gap", "versions"),
            Check::HashChain => ("hash_chain", "hash chain", "versions"),
            Check::Order => ("order", "sequence, epoch and time rise", "versions"),
            Check::Offsets => ("offsets", "offsets without gap or overlap", "ranges"),
            Check::Counts => ("counts", "counts add up", "versions"),
            Check::Schemas => ("schemas", "schemas only grow", "schemas"),
            Check::Quarantine => ("quarantine", "rejected = quarantined", "decisions"),
            Check::Redrives => ("redrives", "redriven rows by position", "redrives"),
            Check::Replicas => ("replicas", "log equal in all clouds", "versions"),
            Check::Paths => ("paths", "paths are relative", "paths"),
            Check::Files => ("files", "files by size and SHA-256", "files"),
            Check::Footers => ("footers", "rows and columns by footer", "files"),
            Check::Checkpoints => ("checkpoints", "newest checkpoint", "checkpoints"),
            Check::Leftovers => ("leftovers", "uncommitted leftovers", "objects"),
        }
    }
}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Status {
    /// It holds.
    Passed,
    /// It does not; see the examples.
    Failed,
    /// It could not be looked at, because the cloud does not answer.
    NotJudged,
    /// Nothing that could be wrong.
    Information,
}

/// One check of one table in one cloud.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct CheckResult {
    /// The table; `None` for a check of the cloud itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
    /// The cloud.
    pub cloud: String,
    /// The question.
    pub check: Check,
    /// The answer.
    pub status: Status,
    /// Things looked at.
    pub checked: u64,
    /// What they are.
    pub unit: &'static str,
    /// How many are wrong or missing.
    pub failed: u64,
    /// The first few of those; for [`Check::Leftovers`] their total size.
    pub examples: Vec<String>,
}

impl CheckResult {
    pub(crate) fn judged(table: Option<&str>, cloud: &str, check: Check, tally: Tally) -> Self {
        let status = if tally.failed > 0 { Status::Failed } else { Status::Passed };
        Self {
            table: table.map(str::to_owned),
            cloud: cloud.to_owned(),
            check,
            status,
            checked: tally.checked,
            unit: check.unit(),
            failed: tally.failed,
            examples: tally.examples,
        }
    }

    /// Whether `other` is the same finding in another cloud.
    fn is_like(&self, other: &Self) -> bool {
        let of = |result: &Self| (result.check, result.failed);
        of(self) == of(other) && self.table == other.table && self.examples == other.examples
    }

    pub(crate) fn with_status(self, status: Status) -> Self {
        Self { status, ..self }
    }
}

/// What the place printed to can show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    /// Check marks, lines and colours; otherwise plain ASCII words.
    pub rich: bool,
}

impl Style {
    /// Rich on a terminal, unless `NO_COLOR` is set.
    pub fn of_stdout() -> Self {
        use std::io::IsTerminal;
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { rich: std::io::stdout().is_terminal() && !no_color }
    }
}

impl Report {
    /// Whether every check holds, in every cloud.
    pub fn holds(&self) -> bool {
        self.holds
    }

    /// The report for people, as standard output can show it; see [`to_text`](Self::to_text).
    pub fn to_table(&self) -> String {
        self.to_text(Style::of_stdout())
    }

    /// The report as one JSON document with a final line break.
    pub fn to_json(&self) -> String {
        let mut text =
            serde_json::to_string_pretty(self).expect("a report has string keys and no failing serializer");
        text.push('\n');
        text
    }

    /// The report for people: one row per check and one column per cloud, with how much was looked at, then every
    /// failure with its examples, then the verdict.
    pub fn to_text(&self, style: Style) -> String {
        let mut text = String::new();
        if !self.tables.is_empty() {
            let _ = writeln!(text, "{}\n", self.grid(style));
        }
        for table in &self.tables {
            for partition in &table.partitions {
                for GapSummary { from, to, reason } in &partition.accepted_gaps {
                    let (table, topic, number) = (&table.table, &partition.topic, partition.partition);
                    let _ = writeln!(
                        text,
                        "{table} goes without {topic}[{number}] offsets [{from}, {to}), accepted: {reason}"
                    );
                }
            }
        }
        let failures: Vec<&CheckResult> = self.failures().collect();
        for alike in failures.chunk_by(|a, b| a.is_like(b)) {
            write_failure(&mut text, alike, style);
        }
        let _ = writeln!(text, "{}", self.verdict(style));
        text
    }

    /// The checks that do not hold.
    pub fn failures(&self) -> impl Iterator<Item = &CheckResult> {
        self.checks.iter().filter(|result| result.status == Status::Failed)
    }

    /// One line: whether everything holds, and what was looked at.
    pub fn verdict(&self, style: Style) -> String {
        let totals = &self.totals;
        let seen = format!(
            "{} rows and {} in quarantine, {} files, {} versions of {} tables, {} hashed in {} {}",
            HumanCount(totals.rows),
            HumanCount(totals.quarantined_rows),
            HumanCount(totals.files),
            HumanCount(totals.versions),
            HumanCount(totals.tables),
            HumanBytes(totals.bytes_hashed),
            totals.clouds,
            if totals.clouds == 1 { "cloud" } else { "clouds" },
        );
        let failures = self.failures().count();
        match failures {
            0 => format!("{} proved: {seen}", mark(style, true)),
            1 => format!("{} not proved, 1 check failed: {seen}", mark(style, false)),
            _ => format!("{} not proved, {failures} checks failed: {seen}", mark(style, false)),
        }
    }

    fn grid(&self, style: Style) -> Table {
        let mut grid = Table::new();
        grid.load_preset(if style.rich { presets::UTF8_BORDERS_ONLY } else { presets::ASCII_MARKDOWN });
        grid.set_content_arrangement(ContentArrangement::Disabled);
        let titles = ["table", "check"].into_iter().chain(self.clouds.iter().map(String::as_str));
        grid.set_header(titles.map(|title| styled(Cell::new(title), style, None)));
        for summary in &self.tables {
            let mut name = summary.table.as_str();
            // Results are ordered by table, check and cloud: one run of a check is one row.
            let of_table: Vec<&CheckResult> =
                self.checks.iter().filter(|result| result.table.as_ref() == Some(&summary.table)).collect();
            for row in of_table.chunk_by(|a, b| a.check == b.check) {
                let head = [Cell::new(std::mem::take(&mut name)), Cell::new(row[0].check.title())];
                grid.add_row(head.into_iter().chain(row.iter().map(|result| cell(result, style))));
            }
        }
        grid
    }
}

/// One finding, in however many clouds it is the same.
fn write_failure(text: &mut String, alike: &[&CheckResult], style: Style) {
    let Some(first) = alike.first() else { return };
    let clouds: Vec<&str> = alike.iter().map(|result| result.cloud.as_str()).collect();
    let table = first.table.as_deref().map_or(String::new(), |table| format!("{table} in "));
    let _ = writeln!(text, "{} {table}{}: {}", mark(style, false), clouds.join(", "), first.check.title());
    for example in &first.examples {
        let _ = writeln!(text, "    {example}");
    }
    let more = first.failed.saturating_sub(first.examples.len() as u64);
    if more > 0 {
        let _ = writeln!(text, "    and {} more", HumanCount(more));
    }
}

fn cell(result: &CheckResult, style: Style) -> Cell {
    let checked = HumanCount(result.checked);
    match result.status {
        Status::Passed if result.checked == 0 => Cell::new("nothing to check"),
        Status::Passed => {
            styled(Cell::new(format!("{} {checked}", mark(style, true))), style, Some(Color::Green))
        }
        Status::Failed => {
            let text = format!("{} {} of {checked}", mark(style, false), HumanCount(result.failed));
            styled(Cell::new(text), style, Some(Color::Red))
        }
        Status::NotJudged => Cell::new("?"),
        Status::Information => Cell::new(match result.examples.first() {
            Some(detail) => detail.clone(),
            None => "none".to_owned(),
        }),
    }
}

fn styled(cell: Cell, style: Style, color: Option<Color>) -> Cell {
    match color {
        _ if !style.rich => cell,
        Some(color) => cell.fg(color),
        None => cell.add_attribute(Attribute::Bold),
    }
}

fn mark(style: Style, holds: bool) -> &'static str {
    match (style.rich, holds) {
        (true, true) => "✓",
        (true, false) => "✗",
        (false, true) => "ok",
        (false, false) => "FAILED",
    }
}
