//! Finding rows of a training set that used the future.
//!
//! What is checked is a file, from wherever it is. Nothing of the join is believed or used: for each view, the rows of the set are
//! joined with **all** rows of the view by equal keys, in plain SQL, and each value is explained, or not:
//!
//! ```text
//! rows of the set ──▶ anti join: rows for which no row that was known then has these values ──▶ what else has them?
//!   (a piece at a time)    keys equal, event_time <= t, known_time <= t, within the ttl              future, known later, too old
//! ```
//!
//! A value that some row had which was known at the time is explained, whatever else has the same value: coincidence cannot be told from
//! knowledge. `docs/training-sets.md` says what that means.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{Int64Type, Schema};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use comfy_table::{CellAlignment, Table, presets};
use indicatif::HumanCount;
use serde::Serialize;

use super::columns::places;
use super::file::{LocalFile, ROW_NUMBER, next_rows};
use super::plan::{PlannedView, filter, interval};
use crate::error::Error;
use crate::query::{Catalog, TableVersion, quoted};
use crate::spec::did_you_mean;
use crate::spec::training::TrainingSet;

/// The table that the set is. No dataset can have this name.
const SET: &str = "training set";

/// Rows of the set that are held at a time.
const PIECE_ROWS: usize = 131_072;

/// The type in which times are compared.
const INSTANT: &str = "'Timestamp(Microsecond, Some(\"UTC\"))'";

/// Why a value should not be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum LeakKind {
    /// Only rows have it that happened after the time of the spine.
    FutureEvent,
    /// Only rows have it that became known after the time of the spine.
    KnownLater,
    /// Only rows have it that were older than the time to live.
    TooOld,
    /// No row of the entity has it.
    Unexplained,
}

impl LeakKind {
    fn text(self) -> &'static str {
        match self {
            Self::FutureEvent => "future event",
            Self::KnownLater => "known later",
            Self::TooOld => "too old",
            Self::Unexplained => "unexplained",
        }
    }
}

/// A row that used what it should not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Leak {
    /// The number of the row in the file, from 0.
    pub row: i64,
    /// The time of the spine.
    pub time: Option<String>,
    /// The keys, by their names in the spine.
    pub keys: BTreeMap<String, Option<String>>,
    /// The view that the values are from.
    pub view: String,
    /// Why.
    pub kind: LeakKind,
    /// The columns with such values; all of the view if its values belong together.
    pub features: Vec<String>,
    /// When the row of the view happened, or became known, that has the values; nothing if there is none.
    pub explained_by: Option<String>,
}

/// How many rows of a view are of which kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ViewLeaks {
    /// The view.
    pub view: String,
    /// Whether its known time was asked.
    pub known_time: bool,
    /// Rows whose values are those of a later event.
    pub future_event: u64,
    /// Rows whose values became known later.
    pub known_later: u64,
    /// Rows whose values were too old.
    pub too_old: u64,
    /// Rows with values that no row of the entity has.
    pub unexplained: u64,
    /// Rows whose values were all known, but never in one row of the view. These are no leaks.
    pub mixed: u64,
}

impl ViewLeaks {
    fn total(&self) -> u64 {
        self.future_event + self.known_later + self.too_old + self.unexplained
    }

    fn count(&mut self, kind: Option<LeakKind>) {
        match kind {
            None => self.mixed += 1,
            Some(LeakKind::FutureEvent) => self.future_event += 1,
            Some(LeakKind::KnownLater) => self.known_later += 1,
            Some(LeakKind::TooOld) => self.too_old += 1,
            Some(LeakKind::Unexplained) => self.unexplained += 1,
        }
    }
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LeakReport {
    /// The name of the training set.
    pub training_set: String,
    /// Rows that were checked.
    pub rows: u64,
    /// Rows with leaks, counted once per view.
    pub leaks: u64,
    /// What was found, by view.
    pub views: Vec<ViewLeaks>,
    /// The first leaks, by view and row.
    pub examples: Vec<Leak>,
    /// The versions that were read.
    pub inputs: Vec<ReadVersion>,
}

/// A dataset at a version.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct ReadVersion {
    /// The dataset.
    pub table: String,
    /// The version.
    pub version: u64,
    /// The cloud that it was read from.
    pub cloud: String,
}

impl From<&TableVersion> for ReadVersion {
    fn from(read: &TableVersion) -> Self {
        Self { table: read.table.clone(), version: read.version, cloud: read.cloud.clone() }
    }
}

impl LeakReport {
    /// Whether no row used what it should not.
    pub fn is_clean(&self) -> bool {
        self.leaks == 0
    }

    /// The report for people.
    pub fn to_table(&self) -> String {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING);
        table.set_header(["VIEW", "FUTURE EVENT", "KNOWN LATER", "TOO OLD", "UNEXPLAINED", "MIXED"]);
        for view in &self.views {
            let counts = [view.future_event, view.known_later, view.too_old, view.unexplained, view.mixed];
            let counts = counts.iter().map(|count| HumanCount(*count).to_string());
            table.add_row(std::iter::once(view.view.clone()).chain(counts));
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        let mut text = format!("{table}\n");
        if !self.examples.is_empty() {
            text.push_str(&format!("{}\n", self.table_of_examples()));
        }
        let shown = self.examples.len() as u64;
        if shown < self.leaks {
            text.push_str(&format!("{} more leaks: see --limit\n", HumanCount(self.leaks - shown)));
        }
        let (name, rows) = (&self.training_set, HumanCount(self.rows));
        text.push_str(&match self.leaks {
            0 => format!("{name}: no leaks in {rows} rows\n"),
            leaks => format!("{name}: {} leaks in {rows} rows\n", HumanCount(leaks)),
        });
        text
    }

    fn table_of_examples(&self) -> Table {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING);
        table.set_header(["ROW", "KEYS", "TIME", "VIEW", "LEAK", "OF", "FEATURES"]);
        for leak in &self.examples {
            let keys = leak
                .keys
                .iter()
                .map(|(name, value)| format!("{name}={}", value.as_deref().unwrap_or("null")));
            table.add_row(
                [
                    leak.row.to_string(),
                    keys.collect::<Vec<_>>().join(" "),
                    leak.time.clone().unwrap_or_else(|| "null".to_owned()),
                    leak.view.clone(),
                    leak.kind.text().to_owned(),
                    leak.explained_by.clone().unwrap_or_default(),
                    leak.features.join(", "),
                ]
                .map(|text| {
                    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect::<String>()
                }),
            );
        }
        table
    }
}

/// Checks the rows of `file` against the views, and keeps `limit` leaks of all as examples.
///
/// # Errors
/// [`Error::Configuration`] if the file lacks a column; those of [`Catalog::query`], and whatever stops a query.
pub(super) async fn check(
    set: &TrainingSet,
    catalog: &Catalog,
    views: &[PlannedView<'_>],
    file: &LocalFile,
    limit: usize,
) -> Result<LeakReport, Error> {
    check_columns(set, file)?;
    let mut report = LeakReport {
        training_set: set.request.training_set.clone(),
        rows: 0,
        leaks: 0,
        views: Vec::new(),
        examples: Vec::new(),
        inputs: Vec::new(),
    };
    for planned in views {
        let check = ViewCheck::new(set, planned);
        let mut found = ViewLeaks {
            view: planned.view.name.clone(),
            known_time: planned.known_time.is_some(),
            future_event: 0,
            known_later: 0,
            too_old: 0,
            unexplained: 0,
            mixed: 0,
        };
        let file = file.only(&columns_of(set, planned));
        let (mut rows, mut counted) = (file.rows(), 0);
        let mut piece = next_rows(&mut rows, PIECE_ROWS).await?;
        // An empty file is asked about too: then the query says what is wrong with the columns.
        loop {
            counted += piece.iter().map(|batch| batch.num_rows() as u64).sum::<u64>();
            catalog.add_table(SET, Arc::new(file.table_of(piece)?))?;
            let answered = check.run(catalog, &mut found, &mut report, limit).await;
            catalog.remove_table(SET)?;
            answered?;
            piece = next_rows(&mut rows, PIECE_ROWS).await?;
            if piece.is_empty() {
                break;
            }
        }
        report.rows = counted;
        report.leaks += found.total();
        report.views.push(found);
    }
    report.inputs.sort();
    report.inputs.dedup();
    Ok(report)
}

/// Whether the file has the columns that it is checked by.
fn check_columns(set: &TrainingSet, file: &LocalFile) -> Result<(), Error> {
    let request = &set.request;
    let spine =
        [&request.spine.time].into_iter().chain(request.views.iter().flat_map(|view| &view.spine_keys));
    let features = request.views.iter().flat_map(|view| view.features.iter().map(|feature| &feature.name));
    let columns: &Schema = file.columns();
    places(columns, spine.chain(features).map(String::as_str)).map(drop).map_err(|missing| {
        let unreadable = file.unreadable().iter().find(|(column, _)| column == missing);
        let names = columns.fields().iter().map(|field| field.name().as_str());
        let help = match unreadable {
            Some((_, data_type)) => format!("; it is of type {data_type}, which cannot be compared"),
            None => did_you_mean(missing, names).map(|help| format!("; {help}")).unwrap_or_default(),
        };
        Error::Configuration(format!("the training set has no column {missing}{help}"))
    })
}

/// The columns of the file that a view is checked by.
fn columns_of<'a>(set: &'a TrainingSet, planned: &'a PlannedView<'_>) -> BTreeSet<&'a str> {
    let view = planned.view;
    let features = view.features.iter().map(|feature| &feature.name);
    let columns = [&set.request.spine.time].into_iter().chain(&view.spine_keys).chain(features);
    columns.map(String::as_str).collect()
}

/// The query for one view, and what its columns are.
struct ViewCheck<'a> {
    planned: &'a PlannedView<'a>,
    sql: String,
}

impl<'a> ViewCheck<'a> {
    fn new(set: &'a TrainingSet, planned: &'a PlannedView<'a>) -> Self {
        Self { planned, sql: sql(&set.request.spine.time, planned) }
    }

    async fn run(
        &self,
        catalog: &Catalog,
        found: &mut ViewLeaks,
        report: &mut LeakReport,
        limit: usize,
    ) -> Result<(), Error> {
        let mut answer = catalog.query(&self.sql).await?;
        report.inputs.extend(answer.from().iter().map(ReadVersion::from));
        while let Some(batch) = answer.next_batch().await? {
            for row in 0..batch.num_rows() {
                let verdict = self.verdict(&batch, row)?;
                found.count(verdict.as_ref().map(|verdict| verdict.kind));
                if let Some(verdict) = verdict
                    && report.examples.len() < limit
                {
                    report.examples.push(self.leak(&batch, row, verdict)?);
                }
            }
        }
        Ok(())
    }

    fn leak(&self, batch: &RecordBatch, row: usize, verdict: Verdict) -> Result<Leak, Error> {
        let Verdict { kind, features, explained_by } = verdict;
        let mut keys = BTreeMap::new();
        for (number, key) in self.planned.view.spine_keys.iter().enumerate() {
            keys.insert(key.clone(), shown(column(batch, &format!("k{number}"))?, row)?);
        }
        let number = column(batch, ROW_NUMBER)?.as_primitive_opt::<Int64Type>();
        let number = number.ok_or_else(|| Error::Bug("rows of a set have no numbers".to_owned()))?;
        Ok(Leak {
            row: number.value(row),
            time: shown(column(batch, "t")?, row)?,
            keys,
            view: self.planned.view.name.clone(),
            kind,
            features,
            explained_by,
        })
    }

    /// What is wrong with a row; nothing if all its values were known.
    fn verdict(&self, batch: &RecordBatch, row: usize) -> Result<Option<Verdict>, Error> {
        let features = &self.planned.view.features;
        if let Some((kind, time)) = explained(batch, row, "all")? {
            let features = features.iter().map(|feature| feature.name.clone()).collect();
            return Ok(Some(Verdict { kind, features, explained_by: Some(time) }));
        }
        let mut worst: Option<Verdict> = None;
        for (number, feature) in features.iter().enumerate() {
            if is_true(column(batch, &format!("known_{number}"))?, row)? {
                continue;
            }
            let (kind, explained_by) = match explained(batch, row, &number.to_string())? {
                Some((kind, time)) => (kind, Some(time)),
                None => (LeakKind::Unexplained, None),
            };
            match &mut worst {
                Some(verdict) if verdict.kind == kind => verdict.features.push(feature.name.clone()),
                Some(verdict) if verdict.kind < kind => {}
                _ => worst = Some(Verdict { kind, features: vec![feature.name.clone()], explained_by }),
            }
        }
        Ok(worst)
    }
}

/// What is wrong with the values of a view in a row.
struct Verdict {
    kind: LeakKind,
    /// The columns that are not explained by what was known.
    features: Vec<String>,
    /// When what explains them was.
    explained_by: Option<String>,
}

/// What explains the values `which`, if nothing that was known does.
fn explained(batch: &RecordBatch, row: usize, which: &str) -> Result<Option<(LeakKind, String)>, Error> {
    let kinds =
        [("future", LeakKind::FutureEvent), ("later", LeakKind::KnownLater), ("old", LeakKind::TooOld)];
    for (name, kind) in kinds {
        if let Some(time) = shown(column(batch, &format!("{name}_{which}"))?, row)? {
            return Ok(Some((kind, time)));
        }
    }
    Ok(None)
}

fn column<'b>(batch: &'b RecordBatch, name: &str) -> Result<&'b ArrayRef, Error> {
    batch.column_by_name(name).ok_or_else(|| Error::Bug(format!("the answer has no column {name}")))
}

fn is_true(column: &ArrayRef, row: usize) -> Result<bool, Error> {
    let values = column.as_boolean_opt();
    let values = values.ok_or_else(|| Error::Bug("what is to be true or false is neither".to_owned()))?;
    Ok(values.is_valid(row) && values.value(row))
}

/// A value as text, nothing if it is null.
fn shown(column: &ArrayRef, row: usize) -> Result<Option<String>, Error> {
    if column.is_null(row) {
        return Ok(None);
    }
    let options = FormatOptions::default();
    let text = ArrayFormatter::try_new(column.as_ref(), &options)
        .and_then(|formatter| formatter.value(row).try_to_string());
    text.map(Some).map_err(|error| Error::Bug(format!("show a value: {error}")))
}

/// The rows of the set that no row of the view explains that was known then, with what else has their values.
///
/// `s` is the set, with `t` and `k0`, …; `v` the view, with `event`, `known` and `k0`, …; the features are `f0`, … in both.
fn sql(time: &str, planned: &PlannedView<'_>) -> String {
    let view = planned.view;
    let count = view.features.len();
    let keys = 0..view.keys.len();
    let instant = |column: &str| format!("arrow_cast({}, {INSTANT})", quoted(column));

    let set_keys = view.spine_keys.iter().enumerate().map(|(n, key)| format!("{} AS k{n}", quoted(key)));
    let set_features =
        view.features.iter().enumerate().map(|(n, feature)| format!("{} AS f{n}", quoted(&feature.name)));
    let number = quoted(ROW_NUMBER);
    let set = format!(
        "SELECT {number}, {} AS t, {} FROM {}",
        instant(time),
        set_keys.chain(set_features).collect::<Vec<_>>().join(", "),
        quoted(SET)
    );
    let view_keys = view.keys.iter().enumerate().map(|(n, key)| format!("{} AS k{n}", quoted(key)));
    let view_features =
        view.features.iter().enumerate().map(|(n, feature)| format!("{} AS f{n}", quoted(&feature.column)));
    let known = planned.known_time.as_deref().map(instant);
    let rows = format!(
        "SELECT {} AS event, {} AS known, {} FROM {}{}",
        instant(&view.time),
        // What has no known time is known when it happens.
        known.unwrap_or_else(|| instant(&view.time)),
        view_keys.chain(view_features).collect::<Vec<_>>().join(", "),
        planned.relation,
        filter(view.condition.as_deref())
    );

    let same_keys = keys.clone().map(|n| format!("s.k{n} = v.k{n}")).collect::<Vec<_>>().join(" AND ");
    // In brackets, because the parser takes all that follows for its right side.
    let same = |n: usize| format!("(s.f{n} IS NOT DISTINCT FROM v.f{n})");
    let same_all = (0..count).map(same).collect::<Vec<_>>().join(" AND ");
    let was_known = "v.event <= s.t AND v.known <= s.t";
    let young = match view.ttl_ms {
        Some(ttl_ms) => format!("v.event >= s.t - {}", interval(ttl_ms)),
        None => "true".to_owned(),
    };
    let has_values = (0..count).map(|n| format!("s.f{n} IS NOT NULL")).collect::<Vec<_>>().join(" OR ");
    // What has no known time in a view that has the column is never known.
    let later = "v.event <= s.t AND (v.known > s.t OR v.known IS NULL)";

    let mut explanations = Vec::with_capacity(4 * (count + 1));
    let mut explain = |which: &str, same: &str| {
        explanations
            .push(format!("min(CASE WHEN {same} AND v.event > s.t THEN v.event END) AS future_{which}"));
        explanations.push(format!(
            "min(CASE WHEN {same} AND {later} THEN coalesce(v.known, v.event) END) AS later_{which}"
        ));
        explanations.push(format!(
            "max(CASE WHEN {same} AND {was_known} AND NOT ({young}) THEN v.event END) AS old_{which}"
        ));
    };
    explain("all", &format!("({same_all})"));
    for n in 0..count {
        explain(&n.to_string(), &same(n));
    }
    for n in 0..count {
        explanations.push(format!(
            "bool_or(s.f{n} IS NULL OR coalesce({} AND {was_known} AND {young}, false)) AS known_{n}",
            same(n)
        ));
    }
    let group = keys.map(|n| format!("s.k{n}")).collect::<Vec<_>>().join(", ");
    format!(
        "WITH flagged AS (
            SELECT s.* FROM ({set}) AS s LEFT ANTI JOIN ({rows}) AS v
            ON {same_keys} AND {was_known} AND {young} AND {same_all}
            WHERE {has_values}
        )
        SELECT s.{number}, s.t, {group}, {explained}
        FROM flagged AS s LEFT JOIN ({rows}) AS v ON {same_keys}
        GROUP BY s.{number}, s.t, {group} ORDER BY s.{number}",
        explained = explanations.join(", ")
    )
}
