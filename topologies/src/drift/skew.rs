//! `isobar drift skew`: the values that a model was given, against those that the datasets say it should have been given.

use std::collections::BTreeMap;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Float64Type, Int64Type};
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use super::source::{Input, RowsOf, between, read_versions, rounded, value_at};
use crate::error::Error;
use crate::models::{Feature, Reference};
use crate::query::{quoted, shown};
use crate::spec::Topology;
use crate::spec::training::TrainingSet;
use crate::training::{ReadVersion, SetVersions};

/// Rows of each feature that are shown.
const EXAMPLES_MAX: usize = 5;
/// The columns of a log that are read besides the values.
const ID: &str = "id";
const SERVED_AT: &str = "served_at";

/// What is asked.
#[derive(Debug, Clone)]
pub struct Skew {
    /// The topology whose models and datasets are meant.
    pub topology: Topology,
    /// The model.
    pub model: Reference,
    /// The dataset that says what was served.
    pub served: String,
    /// How the same is made from the datasets: a training set whose spine is that dataset, and which keeps its `id`.
    pub offline: Box<TrainingSet>,
    /// The versions that are read.
    pub versions: SetVersions,
    /// Only rows that were served from then to before then: milliseconds since the Unix epoch.
    pub span_ms: Option<(i64, i64)>,
    /// By how much of the larger one two numbers may differ.
    pub tolerance: f64,
    /// The share of values of a feature that may not be the same.
    pub allowed: f64,
}

/// What was found.
#[derive(Debug, Clone, Serialize)]
pub struct SkewReport {
    /// The model.
    pub model: String,
    /// Its version.
    pub version: u64,
    /// The tables, with the versions that were read.
    pub read: Vec<ReadVersion>,
    /// Rows that were served.
    pub rows: u64,
    /// Those for which the datasets have no row: the training set leaves them out.
    pub without_offline: u64,
    /// Those that do not have as many values as the model has features.
    pub malformed: u64,
    /// Features that the training set does not make.
    pub not_compared: Vec<String>,
    /// The features that were compared.
    pub features: Vec<FeatureSkew>,
    /// How many of them alarm.
    pub alarms: usize,
}

/// How a feature was served.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct FeatureSkew {
    /// Its name.
    pub feature: String,
    /// Values that are the same.
    pub same: u64,
    /// Values that are not.
    pub different: u64,
    /// Values that the datasets have, and the model was not given.
    pub missing_served: u64,
    /// Values that the model was given, and the datasets do not have.
    pub missing_offline: u64,
    /// Whether it alarms.
    pub alarm: bool,
    /// Some that are not the same.
    pub examples: Vec<SkewExample>,
}

/// A value that is not the same.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SkewExample {
    /// The row.
    pub id: String,
    /// What the model was given.
    pub served: Option<f64>,
    /// What the datasets say.
    pub offline: Option<f64>,
}

/// How two values of a feature are compared.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Compared {
    /// They are names or counts.
    Exactly,
    /// They may differ by this much of the larger one.
    Within(f64),
}

impl Compared {
    fn of(feature: &Feature, tolerance: f64) -> Self {
        let is_measured =
            ["float", "double", "decimal"].iter().any(|kind| feature.type_text.starts_with(kind));
        if is_measured { Self::Within(tolerance) } else { Self::Exactly }
    }

    fn is_same(self, served: f64, offline: f64) -> bool {
        let (served, offline) = (rounded(served), rounded(offline));
        match self {
            Self::Exactly => served == offline,
            Self::Within(tolerance) => {
                let difference = (served - offline).abs();
                // What overflows float32 is infinite: nothing but itself is near it.
                served == offline
                    || difference.is_finite() && difference <= tolerance * served.abs().max(offline.abs())
            }
        }
    }
}

impl FeatureSkew {
    fn count(&mut self, id: &str, served: Option<f64>, offline: Option<f64>, compared: Compared) {
        let counter = match (served, offline) {
            (None, None) => &mut self.same,
            (Some(served), Some(offline)) if compared.is_same(served, offline) => &mut self.same,
            (Some(_), Some(_)) => &mut self.different,
            (None, Some(_)) => &mut self.missing_served,
            (Some(_), None) => &mut self.missing_offline,
        };
        *counter += 1;
        if self.shown() < self.not_same() && self.examples.len() < EXAMPLES_MAX {
            self.examples.push(SkewExample { id: id.to_owned(), served, offline });
        }
    }

    /// How many examples there are.
    fn shown(&self) -> u64 {
        self.examples.len() as u64
    }

    fn not_same(&self) -> u64 {
        self.different + self.missing_served + self.missing_offline
    }
}

/// Does what `asked` asks for.
///
/// # Errors
/// [`Error::Configuration`] if the log has no row that is asked for, or an id twice, or the training set no `id`; those of reading the clouds.
pub async fn skew(asked: &Skew) -> Result<SkewReport, Error> {
    let served = std::slice::from_ref(&asked.served);
    let input = Input::open(&asked.topology, &asked.model, served, &asked.versions).await?;
    let log = log_sql(asked, &input);
    let rows = counted(&input, &log).await?;
    if rows == 0 {
        let (model, version) = (&input.manifest.model, input.manifest.version);
        let span = asked.span_ms.map(|(from, to)| format!(" from {} to before {}", shown(from), shown(to)));
        let span = span.unwrap_or_default();
        return Err(Error::Configuration(format!(
            "{}: nothing was served by {model} version {version}{span}, so there is nothing to compare: name the version that answered with \
             --model {model}@VERSION",
            asked.served
        )));
    }
    let offline = input.relation(&RowsOf::TrainingSet(asked.offline.clone())).await?;
    let columns = input.catalog().columns(offline.sql()).await?;
    if columns.column_with_name(ID).is_none() {
        return Err(Error::Configuration(format!(
            "{}: the spine has to keep `{ID}` of {} among its labels, by which rows are found again",
            asked.offline.request.training_set, asked.served
        )));
    }
    let features = input.manifest.features.iter().enumerate();
    let (compared, others): (Vec<_>, Vec<_>) =
        features.partition(|(_, feature)| columns.column_with_name(&feature.name).is_some());
    let mut report = SkewReport {
        model: input.manifest.model.clone(),
        version: input.manifest.version,
        read: Vec::new(),
        rows,
        without_offline: 0,
        malformed: 0,
        not_compared: others.iter().map(|(_, feature)| feature.name.clone()).collect(),
        features: compared
            .iter()
            .map(|(_, feature)| FeatureSkew { feature: feature.name.clone(), ..Default::default() })
            .collect(),
        alarms: 0,
    };
    if compared.is_empty() {
        return Err(Error::Configuration(format!(
            "{} makes no feature of {}: their names are {}",
            asked.offline.request.training_set,
            report.model,
            report.not_compared.join(", ")
        )));
    }
    let mut answer = input.catalog().query(&joined_sql(&log, offline.sql(), &compared)).await?;
    report.read = read_versions(answer.from());
    let rules: Vec<Compared> =
        compared.iter().map(|(_, feature)| Compared::of(feature, asked.tolerance)).collect();
    let mut compared_rows = 0;
    while let Some(batch) = answer.next_batch().await? {
        compared_rows += batch.num_rows() as u64;
        count(&mut report, &batch, &rules, input.manifest.features.len());
    }
    if compared_rows != rows {
        return Err(Error::Configuration(format!(
            "{}: {rows} rows were served, and have {compared_rows} rows with the same `{ID}`: every row of {} needs an `{ID}` of its own, also \
             those of other models",
            asked.offline.request.training_set, asked.served
        )));
    }
    for feature in &mut report.features {
        let all = feature.same + feature.not_same();
        feature.alarm = feature.not_same() as f64 > asked.allowed * all as f64;
    }
    report.alarms = report.features.iter().filter(|feature| feature.alarm).count();
    Ok(report)
}

/// The rows of the log that are asked for.
fn log_sql(asked: &Skew, input: &Input) -> String {
    let span = asked.span_ms.map(|span| format!(" AND {}", between(SERVED_AT, span))).unwrap_or_default();
    format!(
        "SELECT {ID} AS \"#id\", feature_values AS \"#log\" FROM {}{}{span}",
        quoted(&asked.served),
        input.of_this_version()
    )
}

/// How many rows the log has.
async fn counted(input: &Input, log: &str) -> Result<u64, Error> {
    let sql = format!("SELECT count(*) AS served, count(DISTINCT \"#id\") AS ids FROM ({log}) AS log");
    let mut answer = input.catalog().query(&sql).await?;
    let mut counts = (0, 0);
    while let Some(batch) = answer.next_batch().await? {
        if batch.num_rows() > 0 {
            let number = |column: usize| batch.column(column).as_primitive::<Int64Type>().value(0);
            counts = (number(0), number(1));
        }
    }
    let (rows, ids) = counts;
    if rows != ids {
        return Err(Error::Configuration(format!(
            "{rows} rows were served under {ids} ids: every row of the log needs an `{ID}` of its own"
        )));
    }
    Ok(rows.try_into().unwrap_or(0))
}

/// Each row of the log with what the datasets say of it.
fn joined_sql(log: &str, offline: &str, compared: &[(usize, &Feature)]) -> String {
    let values = compared.iter().enumerate().map(|(number, (at, feature))| {
        format!(
            ", CAST(\"#log\"[{}] AS DOUBLE) AS \"#served{number}\", CAST(offline.{} AS DOUBLE) AS \"#offline{number}\"",
            at + 1,
            quoted(&feature.name)
        )
    });
    format!(
        "SELECT arrow_cast(\"#id\", 'Utf8') AS \"#name\", \
         coalesce(CAST(array_length(\"#log\") AS BIGINT), 0) AS \"#values\", offline.{ID} IS NOT NULL AS \"#found\"{} \
         FROM ({log}) AS log LEFT JOIN (\n{offline}\n) AS offline ON \"#id\" = offline.{ID}",
        values.collect::<String>()
    )
}

fn count(report: &mut SkewReport, batch: &RecordBatch, rules: &[Compared], values: usize) {
    let ids = batch.column(0).as_string::<i32>();
    let lengths = batch.column(1).as_primitive::<Int64Type>();
    let found = batch.column(2).as_boolean();
    for row in 0..batch.num_rows() {
        if lengths.value(row) != values as i64 {
            report.malformed += 1;
            continue;
        }
        if !found.value(row) {
            report.without_offline += 1;
            continue;
        }
        for (number, (feature, compared)) in report.features.iter_mut().zip(rules).enumerate() {
            let column = |at: usize| batch.column(at).as_primitive::<Float64Type>();
            let served = value_at(column(3 + 2 * number), row);
            feature.count(ids.value(row), served, value_at(column(4 + 2 * number), row), *compared);
        }
    }
}

impl SkewReport {
    /// Whether nothing alarms, and every row could be compared.
    pub fn is_clean(&self) -> bool {
        self.alarms == 0 && self.malformed == 0 && self.without_offline == 0
    }

    /// For people.
    pub fn to_table(&self) -> String {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING);
        table.set_header(["FEATURE", "SAME", "DIFFERENT", "NOT SERVED", "NOT OFFLINE", "VERDICT"]);
        for column in 1..5 {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        let mut examples = String::new();
        for feature in &self.features {
            let counts = [feature.same, feature.different, feature.missing_served, feature.missing_offline];
            let verdict = if feature.alarm { "SKEW" } else { "ok" };
            let cells = [feature.feature.clone()].into_iter().chain(counts.map(|count| count.to_string()));
            table.add_row(cells.chain([verdict.to_owned()]));
            let shown = |value: Option<f64>| value.map_or("missing".to_owned(), |value| value.to_string());
            for SkewExample { id, served, offline } in &feature.examples {
                let id = id.escape_debug();
                let (served, offline) = (shown(*served), shown(*offline));
                examples
                    .push_str(&format!("{} of {id}: served {served}, offline {offline}\n", feature.feature));
            }
        }
        let others: BTreeMap<&str, u64> = [
            ("without an offline row", self.without_offline),
            ("with another number of values", self.malformed),
        ]
        .into();
        let others = others.into_iter().filter(|(_, count)| *count > 0);
        let others: String = others.map(|(what, count)| format!(", {count} {what}")).collect();
        let not_compared = match self.not_compared.is_empty() {
            true => String::new(),
            false => format!("not compared: {}\n", self.not_compared.join(", ")),
        };
        format!(
            "{table}\n{examples}{not_compared}{} version {}: {} served rows{others}; {} features alarm\n",
            self.model, self.version, self.rows, self.alarms
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feature(type_text: &str) -> Feature {
        Feature { name: "x".into(), type_text: type_text.into(), dataset: None, column: None, contract: None }
    }

    #[test]
    fn numbers_may_differ_by_the_tolerance_and_names_may_not() {
        let measured = Compared::of(&feature("float64"), 1e-3);
        for (served, offline, is_same) in [
            (1000.0, 1000.9, true),
            (1000.0, 1001.5, false),
            (0.0, 0.0, true),
            (0.0, 1e-9, false),
            (-1.0, 1.0, false),
            (1e39, 5.0, false),
            (1e39, -1e39, false),
            (1e39, 2e39, true),
        ] {
            assert_eq!(measured.is_same(served, offline), is_same, "{served} {offline}");
        }
        let named = Compared::of(&feature("int64"), 1e-3);
        assert!(named.is_same(4_869_963.0, 4_869_963.0) && !named.is_same(4_869_963.0, 4_869_964.0));
        // A model takes float32: what that cannot tell apart is the same.
        assert!(Compared::Within(0.0).is_same(0.1, f64::from(0.1f32)));
    }

    #[test]
    fn each_value_is_counted_once_and_a_few_are_shown() {
        let mut skew = FeatureSkew::default();
        let pairs = [
            (None, None),
            (Some(1.0), Some(1.0)),
            (Some(1.0), Some(2.0)),
            (None, Some(2.0)),
            (Some(1.0), None),
        ];
        for round in 0..3 {
            for (served, offline) in pairs {
                skew.count(&round.to_string(), served, offline, Compared::Exactly);
            }
        }
        assert_eq!((skew.same, skew.different, skew.missing_served, skew.missing_offline), (6, 3, 3, 3));
        let shown: Vec<_> =
            skew.examples.iter().map(|shown| (shown.id.as_str(), shown.served, shown.offline)).collect();
        assert_eq!(shown.len(), EXAMPLES_MAX);
        assert_eq!(shown[0], ("0", Some(1.0), Some(2.0)));
        assert_eq!(shown[3], ("1", Some(1.0), Some(2.0)));
    }
}
