//! The actions of a `_delta_log` body that isobar writes and reads.
//!
//! Field order here **is** the order in the log: serialising is deterministic because structs keep the order of their
//! fields and every map is a `BTreeMap`. On reading, unknown fields are ignored and missing optional ones take their
//! default; an action that is none of these is an error, because skipping it could change what the table means.

use std::collections::BTreeMap;

use isobar_schemas::RowCounts;
use serde::{Deserialize, Serialize};

/// One line of a body.
#[allow(clippy::large_enum_variant, reason = "actions live one at a time, while a body is read or written")]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Action {
    /// What the commit is; always the first line.
    CommitInfo(CommitInfo),
    /// What a reader and a writer must understand.
    Protocol(Protocol),
    /// Name, schema and partitioning of the table.
    MetaData(Metadata),
    /// The position of one Kafka partition.
    Txn(Txn),
    /// A data file that is part of the table from here on.
    Add(Add),
    /// A data file that is no longer part of the table.
    Remove(Remove),
}

/// Reader and writer versions, and the named features behind writer version 7.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Protocol {
    /// Lowest reader version.
    pub min_reader_version: i32,
    /// Lowest writer version.
    pub min_writer_version: i32,
    /// Features a reader must know; only present with reader version 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reader_features: Option<Vec<String>>,
    /// Features a writer must know; only present with writer version 7.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writer_features: Option<Vec<String>>,
}

/// Name, schema and partitioning of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    /// The table's id, a UUID.
    pub id: String,
    /// The dataset's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The dataset's description.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// How data files are encoded.
    pub format: Format,
    /// The schema as JSON text; see [`super::schema`].
    pub schema_string: String,
    /// Names of the partition columns, outermost directory first.
    pub partition_columns: Vec<String>,
    /// Table properties.
    #[serde(default)]
    pub configuration: BTreeMap<String, String>,
    /// Milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_time: Option<i64>,
}

/// How data files are encoded: always Parquet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Format {
    /// The encoding's name.
    pub provider: String,
    /// Options of the encoding: none are defined for Parquet.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
}

impl Default for Format {
    fn default() -> Self {
        Self { provider: "parquet".into(), options: BTreeMap::new() }
    }
}

/// A data file that is part of the table from this version on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Add {
    /// Path relative to the table, URI-encoded; see [`super::path`].
    pub path: String,
    /// The exact value of every partition column, as text; `None` is SQL's null.
    pub partition_values: BTreeMap<String, Option<String>>,
    /// Bytes.
    pub size: i64,
    /// Milliseconds since the Unix epoch. isobar writes the commit's own timestamp, because an object's
    /// modification time differs from cloud to cloud.
    pub modification_time: i64,
    /// Whether the file brings rows that were not in the table before; `false` for maintenance.
    pub data_change: bool,
    /// Statistics as JSON text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stats: Option<String>,
    /// A deletion vector. isobar writes none and refuses a body that has one: rows would be hidden from `prove`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion_vector: Option<serde_json::Value>,
}

/// A data file that is no longer part of the table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Remove {
    /// Path as in the `add` action.
    pub path: String,
    /// Milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion_timestamp: Option<i64>,
    /// Whether rows leave the table; `false` for maintenance.
    pub data_change: bool,
    /// Whether the three fields below are there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extended_file_metadata: Option<bool>,
    /// Partition values as in the `add` action.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition_values: Option<BTreeMap<String, Option<String>>>,
    /// Bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<i64>,
}

/// An application's own progress. For isobar: the position of one Kafka partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Txn {
    /// `<topology>/<cluster id>/<topic id>/<partition>`; see [`OffsetRange::app_id`].
    pub app_id: String,
    /// The next offset to read.
    pub version: i64,
    /// Milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_updated: Option<i64>,
}

/// What a commit is, for people and for `prove`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CommitInfo {
    /// Milliseconds since the Unix epoch; equal to `in_commit_timestamp_ms`.
    #[serde(rename = "timestamp")]
    pub timestamp_ms: i64,
    /// Milliseconds since the Unix epoch, above that of the version before. Time travel by timestamp uses it.
    #[serde(rename = "inCommitTimestamp")]
    pub in_commit_timestamp_ms: i64,
    /// `CREATE TABLE`, `WRITE` or the name of a maintenance operation.
    pub operation: String,
    /// Parameters of the operation; values are text, as the protocol asks.
    #[serde(default)]
    pub operation_parameters: BTreeMap<String, String>,
    /// `isobar/<version>`.
    pub engine_info: String,
    /// The commit id.
    pub txn_id: String,
    /// isobar's own part.
    pub isobar: IsobarInfo,
}

/// The part of [`CommitInfo`] that Delta does not know: what makes a commit provable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IsobarInfo {
    /// Version of this object's own layout: 1.
    pub format: u32,
    /// The topology's name.
    pub topology: String,
    /// The dataset's name, with `.quarantine` for the sibling table.
    pub dataset: String,
    /// The epoch whose leader proposed the decision.
    pub epoch: u64,
    /// The decision's number; all tables of one decision share it.
    pub sequence: u64,
    /// The commit's unique id, also in `txnId` and in the names of its files.
    pub commit_id: String,
    /// Ids of the commits that this decision unites, ascending, when there are several: the names of its files then
    /// hold theirs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<String>,
    /// SHA-256 of this table's previous body, zeros for version 0: a hash chain.
    pub previous_sha256: String,
    /// Fingerprint of the topology's plan.
    pub plan: String,
    /// The models that scored the rows of the files added, ascending; none where no row was scored.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<ScoredBy>,
    /// What was read, per Kafka partition that advanced.
    pub offsets: Vec<OffsetRange>,
    /// What became of the records.
    pub rows: RowCounts,
    /// Size and SHA-256 of every file added.
    pub files: Vec<FileDigest>,
}

/// A model that scored the rows of a commit. The plan says where it is called, this says which file answered.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ScoredBy {
    /// The model's name.
    pub model: String,
    /// Its version.
    pub version: u64,
    /// SHA-256 of its file, in lowercase hexadecimal.
    pub sha256: String,
    /// The datasets and contracts that its features are from, if the registry says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub features: Option<String>,
    /// Whether it was asked beside the one that decides.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shadow: bool,
}

/// The records read from one partition: offsets `[start, end)`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OffsetRange {
    /// The Kafka cluster's id.
    pub cluster: String,
    /// The topic's name.
    pub topic: String,
    /// The topic's id, or its name where the topology identifies topics by name.
    pub topic_id: String,
    /// The partition's number.
    pub partition: i32,
    /// First offset covered.
    pub start: i64,
    /// The next offset to read.
    pub end: i64,
    /// Records read; fewer than `end - start` where the log has control, aborted or compacted records.
    pub records: u64,
    /// [Fingerprint](super::record_fingerprint) of the last record read, `None` where none was.
    pub last_fingerprint: Option<String>,
}

impl OffsetRange {
    /// The `appId` of the `txn` action that carries this partition's position.
    pub fn app_id(&self, topology: &str) -> String {
        app_id(topology, &self.cluster, &self.topic_id, self.partition)
    }
}

/// The `appId` of a partition's position: `<topology>/<cluster id>/<topic id>/<partition>`.
pub fn app_id(topology: &str, cluster: &str, topic_id: &str, partition: i32) -> String {
    format!("{topology}/{cluster}/{topic_id}/{partition}")
}

/// Identity of one data file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileDigest {
    /// Exactly the path of the `add` action.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// SHA-256 of the bytes, in lowercase hexadecimal.
    pub sha256: String,
    /// Rows in the file.
    pub rows: u64,
}
