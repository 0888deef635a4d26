//! `isobar drift performance`: how good answers were, once the labels are known.
//!
//! Labels come late: a window is judged when nearly all of its rows have one. Rows of a day depend on each other, so intervals come from
//! leaving out one day at a time (the jackknife), and not from taking rows for independent.

use std::collections::BTreeSet;

use comfy_table::{Table, presets};
use serde::Serialize;

use super::check::day;
use super::source::{DAY_MS, Input, RowsOf, readable, value_at};
use super::special::t_quantile;
use crate::error::Error;
use crate::models::{Manifest, Reference};
use crate::query::shown;
use crate::spec::Topology;
use crate::training::{ReadVersion, SetVersions};

/// Days with labels that a window must have for an interval.
const DAYS_MIN: usize = 5;
/// Rows that are held at once.
const ROWS_MAX: usize = 20_000_000;
/// Groups by answer, of the calibration error, if no two answers are the same.
const GROUPS: usize = 10;
/// Metrics of a manifest that are an area under the curve.
const AUC_METRICS: [&str; 2] = ["auc", "roc_auc"];

/// What is asked.
#[derive(Debug, Clone)]
pub struct Performance {
    /// The topology whose models and datasets are meant.
    pub topology: Topology,
    /// The model.
    pub model: Reference,
    /// The rows.
    pub rows: RowsOf,
    /// The column with the probability that was answered.
    pub prediction: String,
    /// The column with the label.
    pub label: String,
    /// The versions that are read.
    pub versions: SetVersions,
    /// Days of a window.
    pub window_days: u32,
    /// How many windows, one after the other.
    pub windows: u32,
    /// Where the last one ends: days since the Unix epoch. By default where the last one ends that is over, of those that follow each other
    /// from the epoch on.
    pub until_day: Option<i64>,
    /// The share of rows that must have a label.
    pub labelled: f64,
    /// The area under the curve that is expected; by default the one that the model was registered with.
    pub auc: Option<f64>,
    /// By how much less is an alarm.
    pub auc_loss: f64,
    /// By how much answers and labels may differ on average.
    pub calibration: f64,
    /// How likely any alarm is if nothing has changed.
    pub false_alarms: f64,
}

/// What was found.
#[derive(Debug, Clone, Serialize)]
pub struct PerformanceReport {
    /// The model.
    pub model: String,
    /// Its version.
    pub version: u64,
    /// The tables, with the versions that were read.
    pub read: Vec<ReadVersion>,
    /// The area under the curve that is expected, if it is known.
    pub expected_auc: Option<f64>,
    /// How sure the intervals are, each by itself.
    pub confidence: f64,
    /// How many windows alarm.
    pub alarms: usize,
    /// The windows, the oldest first.
    pub windows: Vec<PerformanceWindow>,
}

/// A window.
#[derive(Debug, Clone, Serialize)]
pub struct PerformanceWindow {
    /// Where it begins.
    pub from: String,
    /// Where it ends; exclusive.
    pub to: String,
    /// Rows that have an answer.
    pub rows: u64,
    /// Those that have a label too.
    pub labelled: u64,
    /// Why it was not judged, if it was not.
    pub not_judged: Option<String>,
    /// The area under the curve.
    pub auc: Option<Interval>,
    /// The mean answer less the mean label.
    pub calibration: Option<Interval>,
    /// The mean distance of answer and label over ten groups by answer.
    pub calibration_error: Option<f64>,
    /// What alarms, in words.
    pub alarms: Vec<String>,
}

/// An estimate and what it may be.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Interval {
    /// The estimate.
    pub value: f64,
    /// The least that it may be.
    pub low: f64,
    /// The most that it may be.
    pub high: f64,
}

/// An answer whose label is known.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Scored {
    day: i64,
    prediction: f64,
    label: bool,
}

/// The rows of a window.
#[derive(Debug, Clone, Default)]
struct Window {
    rows: u64,
    scored: Vec<Scored>,
}

/// Does what `asked` asks for.
///
/// # Errors
/// [`Error::Configuration`] if a label is neither 0 nor 1, an answer no probability, or there are too many rows or days; those of reading the
/// clouds.
pub async fn performance(asked: &Performance) -> Result<PerformanceReport, Error> {
    let served: Vec<String> = match &asked.rows {
        RowsOf::Served(dataset) => vec![dataset.clone()],
        RowsOf::TrainingSet(_) | RowsOf::Query { .. } => Vec::new(),
    };
    let input = Input::open(&asked.topology, &asked.model, &served, &asked.versions).await?;
    let relation = input.relation(&asked.rows).await?;
    let until = input.until(&relation, asked.until_day, asked.window_days).await?;
    let days = i64::from(asked.window_days);
    let first = until - days * i64::from(asked.windows);
    readable(first, until)?;
    let mut windows = vec![Window::default(); asked.windows as usize];
    let columns = [asked.prediction.as_str(), asked.label.as_str()];
    let mut held = 0;
    let read = input.numbers(&relation, &columns, (first * DAY_MS, until * DAY_MS), |numbers| {
        for row in 0..numbers.rows() {
            let day = numbers.times().value(row).div_euclid(DAY_MS);
            let window = usize::try_from((day - first).div_euclid(days)).ok();
            let Some(window) = window.and_then(|window| windows.get_mut(window)) else { continue };
            let Some(prediction) = value_at(numbers.column(0), row) else { continue };
            window.rows += 1;
            if let Some(label) = value_at(numbers.column(1), row) {
                window.scored.push(scored(day, prediction, label, &columns)?);
                held += 1;
            }
        }
        if held > ROWS_MAX {
            return Err(Error::Configuration(format!("more than {ROWS_MAX} rows: ask for fewer windows")));
        }
        Ok(())
    });
    let read = read.await?;
    let expected = asked.auc.or_else(|| registered_auc(&input.manifest));
    // Two intervals for each window, and one side of each that alarms is half of what lies outside.
    let outside = asked.false_alarms / (2 * windows.len().max(1)) as f64;
    let reports: Vec<PerformanceWindow> = windows
        .into_iter()
        .enumerate()
        .map(|(at, window)| {
            let from = first + days * at as i64;
            judged(asked, window, (from, from + days), expected, outside)
        })
        .collect();
    Ok(PerformanceReport {
        model: input.manifest.model.clone(),
        version: input.manifest.version,
        read,
        expected_auc: expected,
        confidence: 1.0 - outside,
        alarms: reports.iter().filter(|window| !window.alarms.is_empty()).count(),
        windows: reports,
    })
}

fn registered_auc(manifest: &Manifest) -> Option<f64> {
    AUC_METRICS.iter().find_map(|name| manifest.metrics.get(*name).copied())
}

fn scored(day: i64, prediction: f64, label: f64, names: &[&str; 2]) -> Result<Scored, Error> {
    let is_late = label == 1.0;
    if !(is_late || label == 0.0) {
        return Err(Error::Configuration(format!(
            "{}: a label is {label}, and 0 and 1 are labels",
            names[1]
        )));
    }
    if !(0.0..=1.0).contains(&prediction) {
        return Err(Error::Configuration(format!(
            "{}: {prediction} is no probability from 0 to 1",
            names[0]
        )));
    }
    Ok(Scored { day, prediction, label: is_late })
}

fn judged(
    asked: &Performance,
    mut window: Window,
    (from, to): (i64, i64),
    expected: Option<f64>,
    outside: f64,
) -> PerformanceWindow {
    let labelled = window.scored.len() as u64;
    let mut report = PerformanceWindow {
        from: shown(from * DAY_MS),
        to: shown(to * DAY_MS),
        rows: window.rows,
        labelled,
        not_judged: None,
        auc: None,
        calibration: None,
        calibration_error: None,
        alarms: Vec::new(),
    };
    if window.rows == 0 || (labelled as f64) < asked.labelled * window.rows as f64 {
        report.not_judged = Some(format!("{labelled} of {} labels are there", window.rows));
        return report;
    }
    window.scored.sort_unstable_by(|a, b| a.prediction.total_cmp(&b.prediction));
    let rows = &window.scored;
    report.calibration_error = Some(calibration_error(rows));
    report.auc = interval(rows, outside, auc);
    report.calibration = interval(rows, outside, difference);
    let (Some(auc), Some(calibration)) = (report.auc, report.calibration) else {
        report.not_judged = Some(format!("an interval takes {DAYS_MIN} days with both labels"));
        return report;
    };
    if let Some(expected) = expected
        && auc.high < expected - asked.auc_loss
    {
        report.alarms.push(format!("AUC is at most {:.4}, and {expected:.4} was expected", auc.high));
    }
    if calibration.low > asked.calibration {
        report.alarms.push(format!("answers are too high by {:.4} or more", calibration.low));
    }
    if calibration.high < -asked.calibration {
        report.alarms.push(format!("answers are too low by {:.4} or more", -calibration.high));
    }
    report
}

/// The area under the curve: how likely a row with the label has the higher answer than one without, ties half. `rows` are in
/// the order of answers; `None` if they do not have both labels.
fn auc(rows: &[Scored]) -> Option<f64> {
    let with = rows.iter().filter(|row| row.label).count() as f64;
    let without = rows.len() as f64 - with;
    let (mut below, mut pairs) = (0.0, 0.0);
    for equal in rows.chunk_by(|a, b| a.prediction == b.prediction) {
        let own = equal.iter().filter(|row| row.label).count() as f64;
        let others = equal.len() as f64 - own;
        pairs += own * (below + 0.5 * others);
        below += others;
    }
    (with > 0.0 && without > 0.0).then(|| pairs / (with * without))
}

/// The mean answer less the mean label.
fn difference(rows: &[Scored]) -> Option<f64> {
    let sum: f64 = rows.iter().map(|row| row.prediction - f64::from(u8::from(row.label))).sum();
    (!rows.is_empty()).then(|| sum / rows.len() as f64)
}

/// The mean distance of answer and label over groups of `rows`, which are in the order of answers. Groups have a tenth of the rows, and as many
/// more as have the answer that the group ends with: among equal answers there is no order.
fn calibration_error(rows: &[Scored]) -> f64 {
    let size = rows.len().div_ceil(GROUPS);
    let (mut distance, mut begin, mut end) = (0.0, 0, 0);
    for equal in rows.chunk_by(|a, b| a.prediction == b.prediction) {
        end += equal.len();
        if end - begin >= size || end == rows.len() {
            let group = &rows[begin..end];
            distance += difference(group).map_or(0.0, f64::abs) * group.len() as f64;
            begin = end;
        }
    }
    distance / rows.len().max(1) as f64
}

/// An estimate of `rows`, and the interval that leaves `outside` outside: by leaving out each day. `None` if there are too few days, or
/// there is no estimate without one of them.
fn interval(rows: &[Scored], outside: f64, estimate: impl Fn(&[Scored]) -> Option<f64>) -> Option<Interval> {
    let days: BTreeSet<i64> = rows.iter().map(|row| row.day).collect();
    if days.len() < DAYS_MIN {
        return None;
    }
    let value = estimate(rows)?;
    let mut without = Vec::with_capacity(days.len());
    let mut kept = Vec::with_capacity(rows.len());
    for day in &days {
        kept.clear();
        kept.extend(rows.iter().filter(|row| row.day != *day));
        without.push(estimate(&kept)?);
    }
    let count = days.len() as f64;
    let mean = without.iter().sum::<f64>() / count;
    let squares: f64 = without.iter().map(|value| (value - mean).powi(2)).sum();
    let half = t_quantile(outside, count - 1.0) * (squares * (count - 1.0) / count).sqrt();
    Some(Interval { value, low: value - half, high: value + half })
}

impl PerformanceReport {
    /// For people.
    pub fn to_table(&self) -> String {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING);
        table.set_header(["WINDOW", "ROWS", "LABELS", "AUC", "ANSWER - LABEL", "ERROR", "VERDICT"]);
        let shown = |interval: Option<Interval>| match interval {
            Some(Interval { value, low, high }) => format!("{value:.4} [{low:.4}, {high:.4}]"),
            None => "-".to_owned(),
        };
        for window in &self.windows {
            let verdict = match &window.not_judged {
                Some(why) => why.clone(),
                None if window.alarms.is_empty() => "ok".to_owned(),
                None => window.alarms.join("; "),
            };
            table.add_row([
                format!("{} to {}", day(&window.from), day(&window.to)),
                window.rows.to_string(),
                window.labelled.to_string(),
                shown(window.auc),
                shown(window.calibration),
                window.calibration_error.map_or("-".to_owned(), |error| format!("{error:.4}")),
                verdict,
            ]);
        }
        let expected =
            self.expected_auc.map_or("no AUC is expected".to_owned(), |auc| format!("expected AUC {auc:.4}"));
        format!(
            "{table}\n{} version {}: {} alarms; {expected}; intervals are sure to {:.2} % each\n",
            self.model,
            self.version,
            self.alarms,
            100.0 * self.confidence
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(scores: &[(i64, f64, bool)]) -> Vec<Scored> {
        let mut rows: Vec<Scored> = scores
            .iter()
            .map(|(day, prediction, label)| Scored { day: *day, prediction: *prediction, label: *label })
            .collect();
        rows.sort_by(|a, b| a.prediction.total_cmp(&b.prediction));
        rows
    }

    #[test]
    fn the_area_counts_pairs_and_half_of_ties() {
        // Pairs of a label and none: (0.4, 0.1), (0.4, 0.4) tied, (0.8, 0.1), (0.8, 0.4).
        let some = rows(&[(0, 0.1, false), (0, 0.4, false), (0, 0.4, true), (0, 0.8, true)]);
        assert_eq!(auc(&some), Some(3.5 / 4.0));
        assert_eq!(auc(&rows(&[(0, 0.9, false), (0, 0.2, true)])), Some(0.0));
        assert_eq!(auc(&rows(&[(0, 0.9, true)])), None);
    }

    #[test]
    fn calibration_is_the_difference_of_means() {
        let some = rows(&[(0, 0.25, false), (0, 0.75, true), (0, 0.5, true), (0, 0.5, false)]);
        assert_eq!(difference(&some), Some(0.0));
        // Three groups, for equal answers are one, of which half have the label: 0.25, 0 and 0.25 away, the second of two rows.
        assert_eq!(calibration_error(&some), 0.125);
        // Twenty answers make ten groups of two, each 0.5 away though answers and labels are the same on average.
        let many: Vec<_> = (0..20).map(|row| (0, 0.5 + f64::from(row) * 1e-9, row % 4 < 2)).collect();
        assert!((calibration_error(&rows(&many)) - 0.5).abs() < 1e-6);
        // One answer to all is one group, in whatever order the labels come.
        let one: Vec<_> = (0..20).map(|row| (0, 0.5, row < 10)).collect();
        assert_eq!(calibration_error(&rows(&one)), 0.0);
        assert_eq!((difference(&[]), calibration_error(&[])), (None, 0.0));
    }

    #[test]
    fn the_interval_leaves_out_each_day() {
        // One row a day, so that leaving one out is the jackknife of a mean, whose error is s / sqrt(n):
        // answers 0.1 … 0.5 without a label have s² = 0.025, and t with 4 degrees of freedom is 2.776445 at 5 %.
        let some =
            rows(&[(1, 0.1, false), (2, 0.2, false), (3, 0.3, false), (4, 0.4, false), (5, 0.5, false)]);
        let found = interval(&some, 0.05, difference).unwrap();
        let half = 2.776445105 * (0.025f64 / 5.0).sqrt();
        assert!((found.value - 0.3).abs() < 1e-12, "{found:?}");
        assert!((found.high - 0.3 - half).abs() < 1e-6 && (found.low - 0.3 + half).abs() < 1e-6, "{found:?}");
        assert_eq!(interval(&some, 0.05, auc), None);
        assert_eq!(interval(&some[..4], 0.05, difference), None);
    }

    #[test]
    fn answers_and_labels_are_what_they_can_be() {
        let names = ["p", "late"];
        assert_eq!(scored(3, 0.5, 1.0, &names).unwrap(), Scored { day: 3, prediction: 0.5, label: true });
        assert!(scored(3, 0.5, 2.0, &names).unwrap_err().to_string().contains("late: a label is 2"));
        assert!(scored(3, 1.5, 0.0, &names).unwrap_err().to_string().contains("p: 1.5 is no probability"));
    }
}
