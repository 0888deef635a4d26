//! A training set as written: plain structs that mirror the YAML, field for field.
//!
//! The documentation of every field goes into the JSON Schema that `isobar schema training-set` prints, so it is written for
//! the person who writes such a file.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use crate::spec::raw::{Entries, TABLE_NAME_PATTERN};
use crate::spec::units::HumanDuration;

/// A training set: rows that say what is to be learnt of which entity at which time, each with what was known then.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrainingSet {
    /// Name of the training set; files are named after it. Lower-case letters, digits and `_`, not starting with a digit,
    /// at most 64. Required.
    #[schemars(regex(pattern = TABLE_NAME_PATTERN), extend("examples" = ["late_arrivals"]))]
    pub training_set: String,

    /// The topology whose datasets are read: the path of its file, relative to this one. Required.
    #[schemars(extend("examples" = ["topology.yaml"]))]
    pub topology: String,

    /// The rows: which entities are asked about, and when. Required.
    pub spine: Spine,

    /// What is found for each row, by name: one feature view each. Names: lower-case letters, digits and `_`, not starting
    /// with a digit, at most 64. Required.
    #[schemars(extend("propertyNames" = json!({ "pattern": TABLE_NAME_PATTERN }), "minProperties" = 1))]
    pub views: Entries<View>,
}

/// The rows of a training set. One of `dataset`, `query` and `file` says where they come from.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Spine {
    /// A dataset of the topology.
    #[serde(default)]
    pub dataset: Option<String>,

    /// A query over the datasets of the topology, as `isobar query` understands it. A dataset that names no version is
    /// read at that of `--at`.
    #[serde(default)]
    #[schemars(extend("examples" = ["SELECT carrier, departed_at, late FROM flight_features"]))]
    pub query: Option<String>,

    /// A Parquet or CSV file in the local file system, by its ending, relative to this file. A CSV file has a header; the types of its
    /// columns are found from its values.
    #[serde(default)]
    #[schemars(extend("examples" = ["labels.parquet"]))]
    pub file: Option<String>,

    /// The column with the time that a row asks about: a timestamp, or a date, which is its midnight in UTC. Nothing that was not
    /// known then gets into the row. Required.
    pub time: String,

    /// The columns that say which entity a row is about. A view that says nothing else is asked by all of them. Required.
    pub keys: Vec<String>,

    /// Columns that are kept beside time and keys, such as what is to be learnt. Default: all columns.
    #[serde(default)]
    pub labels: Option<Vec<String>>,

    /// Only rows for which this SQL condition on their columns holds. Default: all rows.
    #[serde(default, rename = "where")]
    pub condition: Option<String>,
}

/// A dataset as a feature view: for each row of the spine, its newest row that was known then.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct View {
    /// The dataset of the topology. Default: the name of the view.
    #[serde(default)]
    pub dataset: Option<String>,

    /// The version that is read, in place of that of `--at`.
    #[serde(default)]
    pub version: Option<u64>,

    /// The time whose newest version is read, in place of that of `--at`: such as `2026-05-01T00:00:00Z`.
    #[serde(default)]
    #[schemars(extend("examples" = ["2026-05-01T00:00:00Z"]))]
    pub at: Option<String>,

    /// The columns of the view that are equal to `spine_keys`, in this order. Default: the same names.
    #[serde(default)]
    pub keys: Option<Vec<String>>,

    /// The columns of the spine that this view is asked by. Default: the keys of the spine.
    #[serde(default)]
    pub spine_keys: Option<Vec<String>>,

    /// The column that says when a row happened: a timestamp or a date. Default: `event_time`.
    #[serde(default)]
    pub time: Option<String>,

    /// The column that says since when a row is known. Default: `known_time`, if the view has it.
    #[serde(default)]
    pub known_time: Option<String>,

    /// Whether rows count that became known only after the time of the spine, although the view has a known time. Then a
    /// training set may hold what nobody knew. Default: false.
    #[serde(default)]
    pub ignore_known_time: bool,

    /// The column with an integer that decides between rows with the same times: the higher counts. Default: `offset` or
    /// `_offset`, if the view has it.
    #[serde(default)]
    pub offset: Option<String>,

    /// How much older than the time of the spine a row may be. Default: any age.
    #[serde(default)]
    pub ttl: Option<HumanDuration>,

    /// Only rows for which this SQL condition on their columns holds. Default: all rows.
    #[serde(default, rename = "where")]
    pub condition: Option<String>,

    /// The columns that get into the training set. Required.
    pub features: Vec<String>,

    /// What features are called in the training set, where it is not their own name: `wind_speed: wind`.
    #[serde(default)]
    pub rename: Entries<String>,

    /// What the names of the features begin with, before `__`; empty: nothing. Default: the name of the view.
    #[serde(default)]
    pub prefix: Option<String>,
}
