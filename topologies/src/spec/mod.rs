//! What a topology is: the YAML people write, and the checked types the rest of the program works with.
//!
//! ```text
//! text ─▶ yaml (tree with places) ─▶ structure (against the JSON Schema) ─▶ resolve (references, rules, SQL) ─▶ Topology
//! ```
//!
//! The contracts that a spec names go the same way ([`contract`]).
//!
//! Parse first, resolve second: [`raw`] mirrors the file, [`Topology`] holds checked types, and nothing downstream
//! looks at text again. Every step reports all it finds and leaves the rest to the next, so one run shows every
//! [`Problem`], each with its line, its column and a way out. Secrets stay references until a pipeline starts.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use isobar_transforms::Expectation;
use url::Url;

pub mod certificate;
pub mod check;
pub mod contract;
mod document;
mod encoding;
pub mod gateway;
mod location;
pub mod models;
mod online;
mod options;
pub mod problem;
mod publish;
mod query;
pub mod raw;
mod resolve;
pub mod schema;
pub mod secret;
pub mod serve;
mod sql;
mod structure;
mod suggest;
pub mod topics;
pub mod training;
pub mod units;
pub mod yaml;

#[cfg(test)]
mod tests;

pub use check::{CheckOptions, check_text, load, load_with};
pub use contract::Contract;
pub use encoding::{Encoding, SchemaFile, WriterSchemas};
pub(crate) use encoding::{SCHEMA_FILE_BYTES_MAX, read_bounded};
pub use gateway::GatewaySpec;
pub use isobar_connectors::dataset::Compression;
pub use isobar_schemas::{Fields, UnknownFields};
pub use models::ModelsSpec;
pub use problem::{Colour, Position, Problem, SpecErrors};
pub use publish::PublishSpec;
pub use query::{CacheSpec, PriceSpec, QuerySpec};
pub use raw::{Envelope, Format, Owner, PayloadCompression, Prefer, StartPosition, TopicIdentity};
pub use schema::{contract_json_schema, gateway_json_schema, json_schema, training_set_json_schema};
pub use secret::{Secret, SecretError, Text};
pub use serve::{LimitsOfQueries, ServeSpec};
pub(crate) use suggest::did_you_mean;
pub use topics::{SourceTopics, TopicPattern};

/// A checked topology.
#[derive(Debug, Clone)]
pub struct Topology {
    /// Its name: `[a-z0-9_-]{1,64}`.
    pub name: String,
    /// The cluster that is read.
    pub kafka: Kafka,
    /// The schema registry. There is one if a source needs it.
    pub registry: Option<Registry>,
    /// The clouds, one to three, in the order of the spec. No two overlap.
    pub clouds: Vec<CloudSpec>,
    /// Longest time between two commits while records arrive.
    pub commit_interval: Duration,
    /// Most bytes of Kafka payload between two commits.
    pub commit_bytes_max: u64,
    /// Bytes per second of files copied to a cloud that is behind, at most; `None`: no bound.
    pub fill_bytes_per_second: Option<u64>,
    /// What a worker shows to the leader; `None`: there are no workers.
    pub worker_token: Option<Text>,
    /// Who may ask `isobar serve` for what.
    pub serve: ServeSpec,
    /// Memory budget of the whole process.
    pub memory_bytes_max: u64,
    /// How queries read the datasets.
    pub query: QuerySpec,
    /// The sources. At least one; names and topics are unique; each is read by a dataset.
    pub sources: Vec<SourceSpec>,
    /// The datasets. At least one; names are unique.
    pub datasets: Vec<DatasetSpec>,
    /// Datasets whose newest rows are looked up by key. Each at most once.
    pub online: Vec<OnlineSpec>,
    /// How models are run that queries call.
    pub models: ModelsSpec,
    /// The folder of the spec, absolute: relative locations and secret files start here.
    pub spec_dir: PathBuf,
}

impl Topology {
    /// The names of the datasets, in the order of the spec.
    pub(crate) fn dataset_names(&self) -> Vec<String> {
        self.datasets.iter().map(|dataset| dataset.name.clone()).collect()
    }
}

/// A Kafka cluster: the one that is read, or another one that gets rows.
#[derive(Debug, Clone)]
pub struct Kafka {
    /// Brokers to ask first: `host:port`, separated by commas.
    pub brokers: String,
    /// Identity of the cluster in application ids; `None`: ask the broker.
    pub cluster_id: Option<String>,
    /// How a topic is told from a later one of the same name.
    pub topic_identity: TopicIdentity,
    /// Further librdkafka properties. None that isobar sets itself.
    pub options: BTreeMap<String, Text>,
}

/// A schema registry.
#[derive(Debug, Clone)]
pub struct Registry {
    /// Where: one URL at least, `http` or `https`, no credentials, no query.
    pub urls: Vec<Url>,
    /// How to be let in.
    pub options: BTreeMap<String, Text>,
}

/// A location in an object store.
#[derive(Debug, Clone)]
pub struct CloudSpec {
    /// Its name: `[a-z0-9_-]{1,32}`.
    pub name: String,
    /// Where: `s3`, `az`, `gs`, `file` or `memory`; folders absolute; no trailing slash, no credentials, no query.
    pub url: Url,
    /// Options of the store's client.
    pub options: BTreeMap<String, Text>,
}

/// Topics and what their records look like.
#[derive(Debug, Clone)]
pub struct SourceSpec {
    /// Its name, which is the table name in SQL: `[a-z_][a-z0-9_]{0,63}`.
    pub name: String,
    /// The Kafka topics, whose records look alike. No other source reads one of them.
    pub topics: SourceTopics,
    /// How payloads are encoded.
    pub format: Format,
    /// The same with all that belongs to it.
    pub encoding: Encoding,
    /// What payloads are compressed with.
    pub payload_compression: PayloadCompression,
    /// What happens to a record with a field that is not in `fields`.
    pub unknown_fields: UnknownFields,
    /// Where a dataset begins that has read nothing of the topic yet.
    pub start: StartPosition,
    /// The columns of decoded batches: `fields`, in their order, and then those that an envelope adds.
    pub schema: SchemaRef,
    /// The fields as written, with descriptions and units.
    pub fields: Fields,
}

/// A dataset and how it is made.
#[derive(Debug, Clone)]
pub struct DatasetSpec {
    /// Its name: `[a-z_][a-z0-9_]{0,63}`.
    pub name: String,
    /// Index of its source in [`Topology::sources`].
    pub source: usize,
    /// What a row is, in a sentence: as the spec has it, or the contract.
    pub description: Option<String>,
    /// What its readers are promised. The columns of the query are those of the contract.
    pub contract: Option<Contract>,
    /// The query. It compiles against the schema of the source.
    pub sql: String,
    /// Conditions on the source's records, in the order they are checked: those of the spec, then those of the contract. Names
    /// are unique.
    pub expectations: Vec<Expectation>,
    /// How large a share of the records may miss a rule, each rule once.
    pub limits: Vec<LimitSpec>,
    /// Columns of the output whose values become folders. They exist, and are not all columns.
    pub partition_by: Vec<String>,
    /// Compression of the Parquet files.
    pub compression: Compression,
    /// What gets the rejected records beside the quarantine.
    pub dead_letter: Option<DeadLetterSpec>,
    /// What gets its rows beside the table.
    pub publish: Option<PublishSpec>,
    /// What is done to the files while the topology runs.
    pub maintenance: MaintenanceSpec,
}

/// The Kafka topic that gets the rejected records of a dataset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetterSpec {
    /// The topic. No source of the topology reads it.
    pub topic: String,
    /// The group that keeps the progress, and the transactional id. No two datasets have the same.
    pub group: String,
    /// The version of the quarantine to begin with.
    pub from_version: u64,
}

/// The newest row of each entity of a dataset, kept for look-ups by key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OnlineSpec {
    /// The dataset.
    pub dataset: String,
    /// The columns of the entity key; at least one. No column is in two of these lists.
    pub keys: Vec<String>,
    /// The column that says when a row happened: a timestamp or a date.
    pub time: String,
    /// The column that says since when a row is known, if there is one.
    pub known: Option<String>,
    /// Columns that decide between rows with the same times, the most important first.
    pub sequence: Vec<String>,
    /// How old a row may be; `None`: any age.
    pub ttl: Option<Duration>,
    /// The columns that are answered; at least one. `None`: all others of the table.
    pub features: Option<Vec<String>>,
}

/// The name of the limit on records that cannot be decoded, whatever the reason.
pub const UNDECODABLE_LIMIT: &str = "undecodable";

/// How large a share of the records may miss a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitSpec {
    /// An expectation, `sql_error`, or [`UNDECODABLE_LIMIT`].
    pub rule: String,
    /// The share above which a warning is logged.
    pub warn_above: Option<units::Percent>,
    /// The share above which the topology stops.
    pub fail_above: Option<units::Percent>,
}

/// What is done to the files of a dataset and of its quarantine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaintenanceSpec {
    /// How small files are combined; `None`: not at all.
    pub compact: Option<CompactSpec>,
    /// Versions before the newest one that stay readable, at least 1; `None`: all.
    pub keep_versions: Option<u64>,
    /// Versions from one checkpoint to the next, at least 1; `None`: there are no checkpoints.
    pub checkpoint_every: Option<u64>,
}

/// How small files are combined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompactSpec {
    /// Size to which files are combined, in bytes.
    pub target_bytes: u64,
    /// Fewest files that are combined unless fewer reach the target; 2 to 4096.
    pub files_min: usize,
}
