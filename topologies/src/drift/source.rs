//! Where rows come from: a model with its statistics, tables at their versions, and SQL that gives a time and numbers.

use arrow::array::{Array, AsArray, Float64Array, RecordBatch, TimestampMillisecondArray};
use arrow::datatypes::TimestampMillisecondType;

use super::bins::Statistics;
use crate::error::Error;
use crate::models::{Manifest, Reference, Registry};
use crate::pipeline::now_ms;
use crate::query::{Catalog, TableVersion, catalog_with, known_table, quoted, shown};
use crate::spec::Topology;
use crate::spec::training::{At, TrainingSet};
use crate::start::open_clouds;
use crate::training::{ReadVersion, SetVersions, rows_of};

/// The type in which times are compared.
const INSTANT: &str = "'Timestamp(Millisecond, Some(\"UTC\"))'";
/// Milliseconds of a day.
pub(crate) const DAY_MS: i64 = 86_400_000;
/// Days that are read at once, at most.
const DAYS_MAX: i64 = 3_660;

/// Rows with a time and columns that have the names of features.
#[derive(Debug, Clone)]
pub enum RowsOf {
    /// Those of a training set.
    TrainingSet(Box<TrainingSet>),
    /// Those of a query.
    Query {
        /// The query.
        sql: String,
        /// The column with the time.
        time: String,
    },
    /// Those that a dataset says were served; it need not be of the topology, and lies beside its datasets.
    Served(String),
}

impl RowsOf {
    /// All rows of a dataset.
    pub fn dataset(name: &str, time: &str) -> Self {
        Self::Query { sql: format!("SELECT * FROM {}", quoted(name)), time: time.to_owned() }
    }
}

/// What is read.
#[derive(Debug)]
pub(super) struct Input {
    catalog: Catalog,
    /// The version of the model that is meant.
    pub(super) manifest: Manifest,
    registry: Registry,
}

/// SQL that gives rows.
#[derive(Debug, Clone)]
pub(super) struct Relation {
    sql: String,
    time: String,
}

/// Rows that were read: a time in milliseconds, if there is one, and numbers.
pub(super) struct Numbers {
    batch: RecordBatch,
}

impl Input {
    /// Finds the model, and opens the tables of `topology` and those of `served` at `versions`.
    ///
    /// # Errors
    /// [`Error::Configuration`] if there is no such model, dataset or version; those of reading the clouds.
    pub(super) async fn open(
        topology: &Topology,
        model: &Reference,
        served: &[String],
        versions: &SetVersions,
    ) -> Result<Self, Error> {
        let clouds = open_clouds(topology)?;
        let registry = Registry::new(clouds.clone());
        let manifest = registry.model(&model.model).await?.version(&model.which)?.clone();
        let catalog = catalog_with(topology, &clouds, served)?;
        let catalog = match versions {
            SetVersions::Newest => catalog,
            SetVersions::TimeMs(at_ms) => catalog.at_time(*at_ms),
            SetVersions::Each(versions) => {
                for (dataset, version) in versions {
                    let table = match served.contains(dataset) {
                        true => dataset.clone(),
                        false => known_table(topology, dataset)?,
                    };
                    catalog.pin(&table, At::Version(*version)).await?;
                }
                catalog
            }
        };
        Ok(Self { catalog, manifest, registry })
    }

    /// What the model's features looked like in training.
    ///
    /// # Errors
    /// [`Error::Configuration`] if nobody said, or in words that are not understood.
    pub(super) async fn statistics(&self) -> Result<Statistics, Error> {
        let Manifest { model, version, .. } = &self.manifest;
        let wrong = |problem: &str| {
            Error::Configuration(format!(
                "{model} version {version}: {problem}: docs/training-models.md says what statistics.json holds"
            ))
        };
        let Some(artifact) = &self.manifest.statistics else {
            return Err(wrong("it was registered without statistics.json"));
        };
        let bytes = self.registry.artifact(model, *version, artifact).await?;
        let statistics = Statistics::parse(&bytes)
            .map_err(|problem| wrong(&format!("its statistics cannot be read: {problem}")))?;
        match self.manifest.features.iter().find(|feature| !statistics.features.contains_key(&feature.name)) {
            Some(feature) => Err(wrong(&format!("its statistics know no feature {}", feature.name))),
            None => Ok(statistics),
        }
    }

    /// The SQL of rows.
    ///
    /// # Errors
    /// Those of planning a training set.
    pub(super) async fn relation(&self, rows: &RowsOf) -> Result<Relation, Error> {
        Ok(match rows {
            RowsOf::TrainingSet(set) => {
                Relation { sql: rows_of(set, &self.catalog).await?, time: set.request.spine.time.clone() }
            }
            RowsOf::Query { sql, time } => {
                Relation { sql: sql.trim().trim_end_matches(';').to_owned(), time: time.clone() }
            }
            RowsOf::Served(dataset) => {
                let values =
                    self.manifest.features.iter().enumerate().map(|(at, feature)| {
                        format!("feature_values[{}] AS {}", at + 1, quoted(&feature.name))
                    });
                Relation {
                    sql: format!(
                        "SELECT served_at, prediction, {} FROM {}{}",
                        values.collect::<Vec<_>>().join(", "),
                        quoted(dataset),
                        self.of_this_version()
                    ),
                    time: "served_at".to_owned(),
                }
            }
        })
    }

    /// The condition that a served row is of this version of the model.
    pub(super) fn of_this_version(&self) -> String {
        let Manifest { model, version, .. } = &self.manifest;
        // Names of models have no quotes in them.
        format!(" WHERE model = '{model}' AND model_version = {version}")
    }

    /// The day before which the last window ends: `asked`, or the end of the last window of those that follow each other from the Unix epoch on
    /// whose days are over. So whoever asks every day judges the same windows until there is another one.
    ///
    /// # Errors
    /// [`Error::Configuration`] if there is no row; those of the query.
    pub(super) async fn until(
        &self,
        relation: &Relation,
        asked: Option<i64>,
        window_days: u32,
    ) -> Result<i64, Error> {
        let newest = match asked {
            Some(day) => return Ok(day),
            None => self.newest_ms(relation, now_ms()).await?.div_euclid(DAY_MS),
        };
        let days = i64::from(window_days);
        Ok(newest.div_euclid(days) * days)
    }

    /// When the newest row up to `now_ms` happened, in milliseconds since the Unix epoch. Days that are still to come are not over, and one
    /// wrong time far ahead must not hide all that follows.
    ///
    /// # Errors
    /// [`Error::Configuration`] if there is no row; those of the query.
    async fn newest_ms(&self, relation: &Relation, now_ms: i64) -> Result<i64, Error> {
        let sql = format!(
            "SELECT max(\"#time\") AS newest FROM (SELECT {} AS \"#time\" FROM (\n{}\n) AS source) AS times WHERE \"#time\" <= {}",
            instant(&relation.time),
            relation.sql,
            literal(now_ms)
        );
        let mut answer = self.catalog.query(&sql).await?;
        while let Some(batch) = answer.next_batch().await? {
            let newest = batch.column(0).as_primitive::<TimestampMillisecondType>();
            if !newest.is_empty() && newest.is_valid(0) {
                return Ok(newest.value(0));
            }
        }
        Err(Error::Configuration(format!(
            "there is no row with a {} up to now, {}: name where windows end with --until",
            relation.time,
            shown(now_ms)
        )))
    }

    /// Shows `each` the time and `columns` of the rows from `from_ms` to before `to_ms`, in no order. Says what was read.
    ///
    /// # Errors
    /// [`Error::Configuration`] if a column is not there or no number; those of the query, and of `each`.
    pub(super) async fn numbers(
        &self,
        relation: &Relation,
        columns: &[&str],
        (from_ms, to_ms): (i64, i64),
        mut each: impl FnMut(&Numbers) -> Result<(), Error>,
    ) -> Result<Vec<ReadVersion>, Error> {
        let selected = columns.iter().enumerate();
        let selected =
            selected.map(|(at, column)| format!(", CAST({} AS DOUBLE) AS \"#{at}\"", quoted(column)));
        let sql = format!(
            "SELECT * FROM (SELECT {} AS \"#time\"{} FROM (\n{}\n) AS source) AS numbers \
             WHERE \"#time\" >= {} AND \"#time\" < {}",
            instant(&relation.time),
            selected.collect::<String>(),
            relation.sql,
            literal(from_ms),
            literal(to_ms),
        );
        let mut answer = self.catalog.query(&sql).await?;
        let read = read_versions(answer.from());
        while let Some(batch) = answer.next_batch().await? {
            each(&Numbers { batch })?;
        }
        Ok(read)
    }

    /// The tables to ask.
    pub(super) fn catalog(&self) -> &Catalog {
        &self.catalog
    }
}

/// Whether the days from `first` to before `end`, since the Unix epoch, can be read at once.
///
/// # Errors
/// [`Error::Configuration`] if there are none, or too many.
pub(super) fn readable(first: i64, end: i64) -> Result<(), Error> {
    if (1..=DAYS_MAX).contains(&end.saturating_sub(first)) {
        return Ok(());
    }
    let at = |day: i64| shown(day.saturating_mul(DAY_MS));
    Err(Error::Configuration(format!(
        "1 to {DAYS_MAX} days can be read at once, and {} to {} are not: ask for fewer or shorter windows, or another reference",
        at(first),
        at(end)
    )))
}

/// What an answer was read of.
pub(super) fn read_versions(from: &[TableVersion]) -> Vec<ReadVersion> {
    from.iter().map(ReadVersion::from).collect()
}

impl Relation {
    /// The query.
    pub(super) fn sql(&self) -> &str {
        &self.sql
    }
}

impl Numbers {
    /// When rows happened. None is missing: rows without a time are in no window.
    pub(super) fn times(&self) -> &TimestampMillisecondArray {
        self.batch.column(0).as_primitive()
    }

    /// The column that was asked for at this place.
    pub(super) fn column(&self, at: usize) -> &Float64Array {
        self.batch.column(at + 1).as_primitive()
    }

    /// How many rows there are.
    pub(super) fn rows(&self) -> usize {
        self.batch.num_rows()
    }
}

/// A value, if there is one.
pub(super) fn value_at(column: &Float64Array, row: usize) -> Option<f64> {
    column.is_valid(row).then(|| column.value(row)).filter(|value| !value.is_nan())
}

/// Rounded as a model takes it.
pub(super) fn rounded(value: f64) -> f64 {
    f64::from(value as f32)
}

fn instant(column: &str) -> String {
    format!("arrow_cast({}, {INSTANT})", quoted(column))
}

fn literal(ms: i64) -> String {
    format!("arrow_cast('{}', {INSTANT})", shown(ms))
}

/// The condition on the time `column` of rows from `from_ms` to before `to_ms`.
pub(super) fn between(column: &str, (from_ms, to_ms): (i64, i64)) -> String {
    let column = instant(column);
    format!("{column} >= {} AND {column} < {}", literal(from_ms), literal(to_ms))
}
