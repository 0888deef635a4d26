//! `isobar drift check`: the features, answers and labels of windows against those of a reference.

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use super::bins::{Bins, Statistics};
use super::distances::{Distance, total};
use super::judge::{Measure, ROWS_MIN, Reference as Judged, holm};
use super::source::{DAY_MS, Input, Relation, RowsOf, readable, rounded, value_at};
use crate::error::Error;
use crate::models::Reference;
use crate::query::shown;
use crate::spec::Topology;
use crate::training::{ReadVersion, SetVersions};

/// Counts that are held at once: of each bin and day, 8 bytes each.
const COUNTS_MAX: usize = 32 << 20;

/// Where the rows lie that windows are held against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReferenceDays {
    /// Those that were learnt from.
    Training,
    /// So many days before the windows.
    Before(u32),
    /// From one day to before another, in days since the Unix epoch.
    Days(i64, i64),
}

/// From which distance on an alarm is one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Minimum {
    /// Of the population stability index.
    pub psi: f64,
    /// Of the divergence of Jensen and Shannon, in bits.
    pub jensen_shannon: f64,
    /// Of the largest difference of a share.
    pub l_infinity: f64,
}

impl Minimum {
    fn of(&self, distance: Distance) -> f64 {
        match distance {
            Distance::Psi => self.psi,
            Distance::JensenShannon => self.jensen_shannon,
            Distance::LInfinity => self.l_infinity,
        }
    }
}

/// What is asked.
#[derive(Debug, Clone)]
pub struct Check {
    /// The topology whose models and datasets are meant.
    pub topology: Topology,
    /// The model.
    pub model: Reference,
    /// The rows of the windows.
    pub rows: RowsOf,
    /// The rows of the reference, if they are others.
    pub reference_rows: Option<RowsOf>,
    /// Which days the reference has.
    pub reference: ReferenceDays,
    /// The versions that are read.
    pub versions: SetVersions,
    /// Days of a window, at least one.
    pub window_days: u32,
    /// How many windows, one after the other, at least one.
    pub windows: u32,
    /// Where the last one ends: days since the Unix epoch. By default where the last one ends that is over, of those that follow each other
    /// from the epoch on.
    pub until_day: Option<i64>,
    /// How likely any alarm is if nothing has shifted.
    pub false_alarms: f64,
    /// The least distances of alarms.
    pub minimum: Minimum,
    /// The column with the model's answers, if they are to be judged.
    pub prediction: Option<String>,
    /// The column with the labels, if they are to be judged.
    pub label: Option<String>,
    /// The share of rows that must have a label.
    pub labelled: f64,
}

/// What was found.
#[derive(Debug, Clone, Serialize)]
pub struct DriftReport {
    /// The model.
    pub model: String,
    /// Its version.
    pub version: u64,
    /// SHA-256 of its ONNX file.
    pub sha256: String,
    /// Where the reference begins.
    pub reference_from: String,
    /// Where it ends; exclusive.
    pub reference_to: String,
    /// How many rows it has.
    pub reference_rows: u64,
    /// The tables, with the versions that were read.
    pub read: Vec<ReadVersion>,
    /// How likely any alarm is if nothing has shifted.
    pub false_alarms: f64,
    /// How many tests were made.
    pub tests: usize,
    /// How many features of windows alarm.
    pub alarms: usize,
    /// The windows, the oldest first.
    pub windows: Vec<WindowReport>,
}

/// A window.
#[derive(Debug, Clone, Serialize)]
pub struct WindowReport {
    /// Where it begins.
    pub from: String,
    /// Where it ends; exclusive.
    pub to: String,
    /// The same, in milliseconds since the Unix epoch.
    pub to_ms: i64,
    /// How many rows it has.
    pub rows: u64,
    /// The features, in the order of the model; then answers and labels.
    pub features: Vec<FeatureReport>,
}

/// A feature in a window.
#[derive(Debug, Clone, Serialize)]
pub struct FeatureReport {
    /// Its name.
    pub feature: String,
    /// Why it was not judged, if it was not.
    pub not_judged: Option<String>,
    /// Whether it alarms.
    pub alarm: bool,
    /// The distances; none if it was not judged.
    pub distances: Vec<DistanceReport>,
    /// The shares of the bins, in the order of values.
    pub bins: Vec<BinReport>,
}

/// A distance of a feature.
#[derive(Debug, Clone, Serialize)]
pub struct DistanceReport {
    /// Which.
    pub distance: Distance,
    /// How large it is.
    pub value: f64,
    /// From where it alarms by itself.
    pub limit: f64,
    /// How likely as large a distance is by chance.
    pub p_value: f64,
    /// The same, adjusted for the number of tests.
    pub adjusted: f64,
    /// Whether it alarms.
    pub alarm: bool,
}

/// A bin.
#[derive(Debug, Clone, Serialize)]
pub struct BinReport {
    /// What is in it.
    pub label: String,
    /// The share of the reference's rows.
    pub reference: f64,
    /// The share of the window's rows.
    pub window: f64,
}

/// What is counted.
#[derive(Debug, Clone)]
struct Column {
    /// What it is called in the report.
    name: String,
    /// What it is called in the rows.
    column: String,
    bins: Bins,
    /// Whether training's counts are those of the rows that were learnt from.
    is_of_training: bool,
    /// Whether values come later than rows.
    is_label: bool,
}

/// Counts of a column: of each day, by bins.
type Days = Vec<Vec<u64>>;

/// Days, from the first to before the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span(i64, i64);

impl Span {
    fn ms(self) -> (i64, i64) {
        (self.0 * DAY_MS, self.1 * DAY_MS)
    }

    fn days(self) -> usize {
        usize::try_from(self.1 - self.0).unwrap_or(0)
    }

    fn shown(self) -> (String, String) {
        (shown(self.0 * DAY_MS), shown(self.1 * DAY_MS))
    }
}

/// Does what `check` asks for.
///
/// # Errors
/// [`Error::Configuration`] if the model has no statistics, the rows are not those of the model, or a window overlaps its reference; those of
/// reading the clouds.
pub async fn check(check: &Check) -> Result<DriftReport, Error> {
    let served = [Some(&check.rows), check.reference_rows.as_ref()].into_iter().flatten();
    let served: Vec<String> = served
        .filter_map(|rows| if let RowsOf::Served(dataset) = rows { Some(dataset.clone()) } else { None })
        .collect();
    let input = Input::open(&check.topology, &check.model, &served, &check.versions).await?;
    let statistics = input.statistics().await?;
    let columns = columns(check, &input, &statistics)?;
    let rows = input.relation(&check.rows).await?;
    let reference_rows = match &check.reference_rows {
        Some(other) => input.relation(other).await?,
        None => rows.clone(),
    };
    let until = input.until(&rows, check.until_day, check.window_days).await?;
    let (reference, windows) = spans(check, &statistics, until)?;
    let (held, mut read) = counted(&input, &reference_rows, &columns, reference).await?;
    let (counts, read_too) = counted(&input, &rows, &columns, windows).await?;
    read.extend(read_too);
    read.sort_by(|a, b| (&a.table, a.version).cmp(&(&b.table, b.version)));
    read.dedup_by(|a, b| (&a.table, a.version) == (&b.table, b.version));
    if check.reference == ReferenceDays::Training {
        agree(&input, &columns, &held)?;
    }
    let reference_total: u64 = held.iter().take(1).flatten().map(|day| total(day)).sum();
    let judged = judged(check, &columns, &held, &counts, windows);
    let (from, to) = reference.shown();
    Ok(DriftReport {
        model: input.manifest.model.clone(),
        version: input.manifest.version,
        sha256: input.manifest.onnx.sha256.clone(),
        reference_from: from,
        reference_to: to,
        reference_rows: reference_total,
        read,
        false_alarms: check.false_alarms,
        tests: judged.iter().flat_map(|window| &window.features).map(|f| f.distances.len()).sum(),
        alarms: judged.iter().flat_map(|window| &window.features).filter(|f| f.alarm).count(),
        windows: judged,
    })
}

/// The columns to count: the features, and what else is asked for.
fn columns(check: &Check, input: &Input, statistics: &Statistics) -> Result<Vec<Column>, Error> {
    let column = |name: &str, column: &str, bins: &Bins| Column {
        name: name.to_owned(),
        column: column.to_owned(),
        bins: bins.clone(),
        is_of_training: false,
        is_label: false,
    };
    let features = input.manifest.features.iter().filter_map(|feature| {
        let bins = statistics.features.get(&feature.name)?;
        Some(Column { is_of_training: true, ..column(&feature.name, &feature.name, bins) })
    });
    let mut columns: Vec<Column> = features.collect();
    if columns.is_empty() {
        let (model, version) = (&input.manifest.model, input.manifest.version);
        return Err(Error::Configuration(format!(
            "{model} version {version} says of no column that it is a feature"
        )));
    }
    let unknown = |what: &str| {
        Error::Configuration(format!("the model's statistics.json has no {what}, so they cannot be judged"))
    };
    if let Some(prediction) = &check.prediction {
        let bins = statistics.prediction.as_ref().ok_or_else(|| unknown("prediction"))?;
        columns.push(column("(prediction)", prediction, bins));
    }
    if let Some(label) = &check.label {
        let bins = statistics.label.as_ref().ok_or_else(|| unknown("label"))?;
        columns.push(Column { is_label: true, ..column("(label)", label, bins) });
    }
    Ok(columns)
}

/// The days of the reference, and those of the windows.
fn spans(check: &Check, statistics: &Statistics, until: i64) -> Result<(Span, Span), Error> {
    let days = i64::from(check.window_days) * i64::from(check.windows);
    let windows = Span(until.saturating_sub(days), until);
    let reference = match check.reference {
        ReferenceDays::Training => {
            Span(statistics.from_ms.div_euclid(DAY_MS), statistics.to_ms.div_euclid(DAY_MS) + 1)
        }
        ReferenceDays::Before(days) => Span(windows.0.saturating_sub(days.into()), windows.0),
        ReferenceDays::Days(from, to) => Span(from, to),
    };
    for span in [reference, windows] {
        readable(span.0, span.1)?;
    }
    if windows.0 < reference.1 && reference.0 < windows.1 {
        return Err(Error::Configuration(format!(
            "the windows begin at {}, and the reference ends at {}: a window cannot be held against itself; name fewer windows, a later \
             --until or another --reference",
            windows.shown().0,
            reference.shown().1
        )));
    }
    Ok((reference, windows))
}

/// Whether there is room for the counts of `columns`.
fn countable(columns: &[Column], span: Span) -> Result<(), Error> {
    let bins: usize = columns.iter().map(|column| column.bins.labels.len()).sum();
    if bins.saturating_mul(span.days()) <= COUNTS_MAX {
        return Ok(());
    }
    Err(Error::Configuration(format!(
        "{} columns with {bins} bins over {} days are more than {COUNTS_MAX} counts: ask for fewer days, by --windows or --reference",
        columns.len(),
        span.days()
    )))
}

/// Counts the rows of each day of `span`, for each column.
async fn counted(
    input: &Input,
    relation: &Relation,
    columns: &[Column],
    span: Span,
) -> Result<(Vec<Days>, Vec<ReadVersion>), Error> {
    countable(columns, span)?;
    let mut counted: Vec<Days> =
        columns.iter().map(|column| vec![vec![0; column.bins.labels.len()]; span.days()]).collect();
    let names: Vec<&str> = columns.iter().map(|column| column.column.as_str()).collect();
    let read = input.numbers(relation, &names, span.ms(), |numbers| {
        for row in 0..numbers.rows() {
            // The condition lets no other time through, and none that is missing.
            let day =
                usize::try_from(numbers.times().value(row).div_euclid(DAY_MS) - span.0).unwrap_or(usize::MAX);
            for (at, column) in columns.iter().enumerate() {
                let value = value_at(numbers.column(at), row).map(rounded);
                if let Some(day) = counted[at].get_mut(day) {
                    day[column.bins.bin(value)] += 1;
                }
            }
        }
        Ok(())
    });
    let read = read.await?;
    Ok((counted, read))
}

/// The reference's rows are those that the model learnt from.
fn agree(input: &Input, columns: &[Column], held: &[Days]) -> Result<(), Error> {
    for (column, days) in columns.iter().zip(held).filter(|(column, _)| column.is_of_training) {
        let counts = summed(days, column.bins.labels.len());
        if let Some(share) = column.bins.disagreement(&counts) {
            let (model, version) = (&input.manifest.model, input.manifest.version);
            return Err(Error::Configuration(format!(
                "{}: {:.1} % of the {} rows lie in another bin than statistics.json of {model} version {version} says, so these are not \
                 the rows that it learnt from: name those with --training-set, or another --reference",
                column.name,
                100.0 * share,
                total(&counts)
            )));
        }
    }
    Ok(())
}

fn summed(days: &[Vec<u64>], bins: usize) -> Vec<u64> {
    let mut sum = vec![0; bins];
    for day in days {
        sum.iter_mut().zip(day).for_each(|(sum, count)| *sum += count);
    }
    sum
}

/// A feature in a window, before all tests are known.
enum Tested {
    Not(String),
    Measured(Vec<Measure>),
}

/// The windows, judged together.
fn judged(
    check: &Check,
    columns: &[Column],
    held: &[Days],
    counts: &[Days],
    span: Span,
) -> Vec<WindowReport> {
    let days = check.window_days as usize;
    let references: Vec<Result<Judged, String>> =
        columns.iter().zip(held).map(|(column, held)| Judged::of(&present(column, held), days)).collect();
    let mut tested = Vec::new();
    for window in 0..check.windows as usize {
        for (at, column) in columns.iter().enumerate() {
            let all = summed(&counts[at][window * days..(window + 1) * days], column.bins.labels.len());
            tested.push((window, at, test(check, column, &references[at], &all), all));
        }
    }
    let p_values: Vec<f64> = tested.iter().flat_map(|(.., tested, _)| tested.p_values()).collect();
    let mut adjusted = holm(&p_values).into_iter();
    let single = check.false_alarms / p_values.len().max(1) as f64;
    let mut windows: Vec<WindowReport> = (0..check.windows as usize)
        .map(|window| {
            let first = span.0 + (window * days) as i64;
            let own = Span(first, first + days as i64);
            let (from, to) = own.shown();
            WindowReport { from, to, to_ms: own.ms().1, rows: 0, features: Vec::new() }
        })
        .collect();
    for (window, at, tested, all) in tested {
        let held = summed(&held[at], columns[at].bins.labels.len());
        let distances = tested.reports(check, single, &mut adjusted);
        windows[window].rows = total(&all);
        windows[window].features.push(FeatureReport {
            feature: columns[at].name.clone(),
            alarm: distances.iter().any(|distance| distance.alarm),
            not_judged: if let Tested::Not(why) = tested { Some(why) } else { None },
            distances,
            bins: bins(&columns[at], &held, &all),
        });
    }
    windows
}

impl Tested {
    fn measures(&self) -> &[Measure] {
        match self {
            Self::Not(_) => &[],
            Self::Measured(measures) => measures,
        }
    }

    fn p_values(&self) -> impl Iterator<Item = f64> {
        self.measures().iter().map(Measure::p_value)
    }

    /// The distances, with the next of the `adjusted` p-values.
    fn reports(
        &self,
        check: &Check,
        single: f64,
        adjusted: &mut impl Iterator<Item = f64>,
    ) -> Vec<DistanceReport> {
        let report = |measure: &Measure| {
            let adjusted = adjusted.next().unwrap_or(1.0);
            let minimum = check.minimum.of(measure.distance);
            DistanceReport {
                distance: measure.distance,
                value: measure.value,
                limit: measure.limit(single).max(minimum),
                p_value: measure.p_value(),
                adjusted,
                alarm: adjusted < check.false_alarms && measure.value >= minimum,
            }
        };
        self.measures().iter().map(report).collect()
    }
}

fn test(check: &Check, column: &Column, reference: &Result<Judged, String>, all: &[u64]) -> Tested {
    let reference = match reference {
        Ok(reference) => reference,
        Err(why) => return Tested::Not(why.clone()),
    };
    let rows = total(all);
    if rows < ROWS_MIN {
        return Tested::Not(format!("{rows} rows are too few"));
    }
    let mut counts = all.to_vec();
    if column.is_label {
        counts[column.bins.missing()] = 0;
        let labels = total(&counts);
        if labels < ROWS_MIN || (labels as f64) < check.labelled * rows as f64 {
            return Tested::Not(format!("{labels} of {rows} labels are there"));
        }
    }
    Tested::Measured(reference.measures(&counts))
}

/// Labels that have not come yet are no value.
fn present(column: &Column, days: &[Vec<u64>]) -> Days {
    let mut days = days.to_vec();
    if column.is_label {
        days.iter_mut().for_each(|day| day[column.bins.missing()] = 0);
    }
    days
}

fn bins(column: &Column, held: &[u64], window: &[u64]) -> Vec<BinReport> {
    let share = |count: u64, of: u64| count as f64 / of.max(1) as f64;
    let (held_rows, rows) = (total(held), total(window));
    let bins = column.bins.labels.iter().zip(held.iter().zip(window));
    let used = bins.filter(|(_, (held, window))| **held + **window > 0);
    used.map(|(label, (held, window))| BinReport {
        label: label.clone(),
        reference: share(*held, held_rows),
        window: share(*window, rows),
    })
    .collect()
}

impl DriftReport {
    /// The features of the newest window that alarms, with that window; none if nothing does.
    pub fn newest_alarm(&self) -> Option<(&WindowReport, Vec<&str>)> {
        self.windows.iter().rev().find_map(|window| {
            let alarming = window.features.iter().filter(|feature| feature.alarm);
            let names: Vec<&str> = alarming.map(|feature| feature.feature.as_str()).collect();
            (!names.is_empty()).then_some((window, names))
        })
    }

    /// For people.
    pub fn to_table(&self) -> String {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING);
        table.set_header(["WINDOW", "FEATURE", "PSI", "LIMIT", "JS", "LIMIT", "L∞", "LIMIT", "P", "VERDICT"]);
        for column in 2..9 {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        for window in &self.windows {
            for feature in &window.features {
                table.add_row(row(window, feature));
            }
        }
        let judged = self.windows.iter().flat_map(|window| &window.features);
        let not = judged.filter(|feature| feature.not_judged.is_some()).count();
        let Self { model, version, reference_from, reference_to, reference_rows, tests, alarms, .. } = self;
        let not = if not > 0 { format!(", {not} not judged") } else { String::new() };
        format!(
            "{table}\n{model} version {version} against {reference_rows} rows from {} to {}\n{tests} tests, {alarms} alarms{not}; without a \
             shift, any alarm has a probability of {} at most\n",
            day(reference_from),
            day(reference_to),
            self.false_alarms
        )
    }

    /// The features of the newest window in their order, with the distances of each over the windows: `None` where it was not judged.
    pub(super) fn histories(&self) -> impl Iterator<Item = (&FeatureReport, Vec<Option<&FeatureReport>>)> {
        let newest = self.windows.last().into_iter().flat_map(|window| &window.features);
        newest.map(move |feature| {
            let judged = self.windows.iter().map(|window| {
                let same = window.features.iter().find(|found| found.feature == feature.feature);
                same.filter(|found| found.not_judged.is_none())
            });
            (feature, judged.collect())
        })
    }
}

/// The day of a time.
pub(super) fn day(time: &str) -> &str {
    time.get(..10).unwrap_or(time)
}

fn row(window: &WindowReport, feature: &FeatureReport) -> Vec<String> {
    let mut cells = vec![format!("{}, {} rows", day(&window.from), window.rows), feature.feature.clone()];
    let mut smallest: Option<f64> = None;
    for distance in Distance::ALL {
        let found = feature.distances.iter().find(|found| found.distance == distance);
        let text = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.4}"));
        cells.extend([text(found.map(|found| found.value)), text(found.map(|found| found.limit))]);
        smallest = found.map(|found| found.adjusted.min(smallest.unwrap_or(1.0))).or(smallest);
    }
    cells.push(smallest.map_or("-".to_owned(), |smallest| format!("{smallest:.2e}")));
    cells.push(match (&feature.not_judged, feature.alarm) {
        (Some(why), _) => why.clone(),
        (None, true) => "DRIFT".to_owned(),
        (None, false) => "ok".to_owned(),
    });
    cells
}

#[cfg(test)]
pub(super) mod tests;
