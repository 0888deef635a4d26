//! The spec as written: plain structs that mirror the YAML, field for field.
//!
//! Nothing here is checked beyond its shape; [`resolve`](super::resolve) turns it into checked types. The
//! documentation of every field goes into the JSON Schema that `isobar schema` prints, so it is written for the
//! person who writes a spec: unit, default, effect.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use isobar_schemas::decode::{Framing, PayloadRows};
use isobar_schemas::{FieldSpec, UnknownFields};
use isobar_transforms::Expectation;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::json;

use super::models::Models;
use super::serve::Serve;
use super::units::{ByteSize, HumanDuration, Percent};

/// What names of topologies look like: they become folder names and the first part of application ids.
pub const TOPOLOGY_NAME_PATTERN: &str = "^[a-z0-9_-]{1,64}$";

/// What names of clouds look like.
pub const CLOUD_NAME_PATTERN: &str = "^[a-z0-9_-]{1,32}$";

/// What names of sources and datasets look like: SQL names them without quotes.
pub const TABLE_NAME_PATTERN: &str = "^[a-z_][a-z0-9_]{0,63}$";

/// What names of Kafka topics look like.
pub const TOPIC_PATTERN: &str = "^[a-zA-Z0-9._-]{1,249}$";

/// What names of consumer groups look like.
pub const GROUP_PATTERN: &str = "^[a-zA-Z0-9._-]{1,200}$";

/// What compressions look like.
pub const COMPRESSION_PATTERN: &str = "^(none|snappy|zstd(\\(([1-9]|1[0-9]|2[0-2])\\))?)$";

/// A topology: Kafka topics in, datasets out, the same bytes in every cloud.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Topology {
    /// Name of the topology. It is part of the identity of all progress kept in the clouds
    /// (`control/<topology>/`, `<topology>/…` in application ids): a topology with another name starts from the
    /// beginning. Lower-case letters, digits, `_` and `-`, at most 64. Required.
    #[schemars(regex(pattern = TOPOLOGY_NAME_PATTERN), extend("examples" = ["flight_delays"]))]
    pub topology: String,

    /// The Kafka cluster that is read. Required.
    pub kafka: Kafka,

    /// The schema registry, which Confluent's framing of `avro`, `protobuf` and `json` records refers to. Optional.
    #[serde(default)]
    pub registry: Option<Registry>,

    /// The clouds that each hold the same datasets, byte for byte: one to three, by name. A commit is decided when
    /// a majority of them holds it, so three clouds survive the loss of one. The order matters: claims are made in
    /// this order, so all processes of a topology must agree on it. Names: lower-case letters, digits, `_` and `-`,
    /// at most 32. Required.
    #[schemars(extend("propertyNames" = json!({ "pattern": CLOUD_NAME_PATTERN }), "minProperties" = 1, "maxProperties" = 3))]
    pub clouds: Entries<Cloud>,

    /// When to commit. Optional.
    #[serde(default)]
    pub commit: Commit,

    /// How a cloud that was away is filled. Optional.
    #[serde(default)]
    pub fill: Fill,

    /// Further processes that read and transform for the leader. Optional: without it there are none.
    #[serde(default)]
    pub workers: Option<Workers>,

    /// Who may ask `isobar serve` for what, and how much. Optional.
    #[serde(default)]
    pub serve: Option<Serve>,

    /// Memory budget of the whole process: Kafka queues, decoding, SQL, Parquet encoders. Above it partitions are
    /// paused and files are closed early; a backlog of any size does not raise it. At least 128MiB. Default: 384MiB.
    #[serde(default = "default_memory")]
    pub memory: ByteSize,

    /// How queries (`isobar query`, `isobar diff`) read the datasets: from which cloud, at what price, and what they keep on a
    /// local disk. Optional.
    #[serde(default)]
    pub query: Query,

    /// The topics that are read and what their records look like, by name. The name is the table name in SQL.
    /// Names: lower-case letters, digits and `_`, not starting with a digit, at most 64. Required.
    #[schemars(extend("propertyNames" = json!({ "pattern": TABLE_NAME_PATTERN }), "minProperties" = 1))]
    pub sources: Entries<Source>,

    /// The datasets that are written, by name: Delta tables at `datasets/<name>` in every cloud, each with a
    /// `<name>.quarantine` beside it. Names: lower-case letters, digits and `_`, not starting with a digit, at most
    /// 64. Required.
    #[schemars(extend("propertyNames" = json!({ "pattern": TABLE_NAME_PATTERN }), "minProperties" = 1))]
    pub datasets: Entries<Dataset>,

    /// Datasets whose newest row per entity is looked up by key, each at most once. A process that serves keeps these rows in a
    /// store on its machine. Default: none.
    #[serde(default)]
    pub online: Vec<Online>,

    /// How models are run that queries call with `predict('model', …)`. Optional.
    #[serde(default)]
    pub models: Option<Models>,
}

pub(super) fn default_memory() -> ByteSize {
    ByteSize(384 << 20)
}

/// A Kafka cluster: the one that is read, or another one that rows are published to.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Kafka {
    /// Brokers to ask first: `host:port`, several separated by commas or as a list. Required.
    #[schemars(extend("examples" = ["localhost:9092", ["kafka-1:9092", "kafka-2:9092"]]))]
    pub brokers: Brokers,

    /// Identity of the cluster in application ids. Default: the broker is asked for it. Set it when the same
    /// cluster is reached through something that reports another id, such as a mirror that was promoted.
    #[serde(default)]
    pub cluster_id: Option<String>,

    /// How a topic is told from a later one of the same name. Default: `id`.
    #[serde(default)]
    pub topic_identity: TopicIdentity,

    /// Further librdkafka properties, such as `security.protocol`. Properties that isobar sets itself are refused.
    /// Secrets are given by reference: `"${env:NAME}"` or `"${file:path}"`. Default: none.
    #[serde(default)]
    #[schemars(extend("examples" = [{
        "security.protocol": "SASL_SSL", "sasl.mechanism": "PLAIN",
        "sasl.username": "isobar", "sasl.password": "${env:KAFKA_PASSWORD}",
    }]))]
    pub options: Entries<OptionValue>,
}

/// `host:port` texts, separated by commas or as a list.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
pub enum Brokers {
    /// `a:9092` or `a:9092,b:9092`.
    One(String),
    /// `[a:9092, b:9092]`.
    Many(Vec<String>),
}

/// A schema registry that speaks Confluent's API: Confluent's own, Apicurio (`…/apis/ccompat/v7`), Karapace, Redpanda.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Registry {
    /// Where: `http://` or `https://`, several separated by commas. Required.
    #[schemars(extend("examples" = ["https://registry:8081"]))]
    pub url: String,

    /// How to be let in and whom to trust: `username` and `password`, or `token`; `ca_pem`, certificates of the authorities
    /// that are trusted instead of the system's; `identity_pem`, the client's own certificate and key. All by reference:
    /// `"${env:NAME}"` or `"${file:path}"`. Default: none.
    #[serde(default)]
    #[schemars(extend("examples" = [{ "username": "isobar", "password": "${env:REGISTRY_PASSWORD}" }]))]
    pub options: Entries<OptionValue>,
}

/// How a topic is told from a later one of the same name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum TopicIdentity {
    /// By the id that the broker gave it: a topic that was deleted and created again is recognised, and refused.
    #[default]
    Id,
    /// By its name alone, for brokers without topic ids (before Kafka 2.8): a topic that was deleted and created
    /// again is taken for the same one.
    Name,
}

/// A location in an object store.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Cloud {
    /// Where: `s3://bucket/prefix`, `az://container/prefix`, `gs://bucket/prefix`, `file:///folder`, or a folder
    /// relative to the spec (`./folder`); `memory://name` lasts as long as the process. Required.
    #[schemars(extend("examples" = ["s3://bucket/prefix", "az://container/prefix", "gs://bucket/prefix", "./aws"]))]
    pub url: String,

    /// Options of the store's client, such as `region`, `endpoint` or `account_name`. Secrets are given by reference:
    /// `"${env:NAME}"` or `"${file:path}"`. Default: none.
    #[serde(default)]
    #[schemars(extend("examples" = [{
        "region": "eu-west-1", "access_key_id": "${env:KEY}", "secret_access_key": "${file:/run/secrets/s3}",
    }]))]
    pub options: Entries<OptionValue>,
}

/// The value of an option: text, number, or `true` and `false`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OptionValue(pub String);

impl<'de> Deserialize<'de> for OptionValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Scalar {
            Text(String),
            Boolean(bool),
            Number(serde_json::Number),
        }
        Ok(Self(match Scalar::deserialize(deserializer)? {
            Scalar::Text(text) => text,
            Scalar::Boolean(value) => value.to_string(),
            Scalar::Number(value) => value.to_string(),
        }))
    }
}

impl JsonSchema for OptionValue {
    fn schema_name() -> Cow<'static, str> {
        "OptionValue".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["string", "number", "boolean"] })
    }
}

/// When to commit: as soon as either bound is reached.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Commit {
    /// Longest time between two commits while records arrive, from 100ms to 1h. Shorter means fresher data and more,
    /// smaller files. Default: 10s.
    pub interval: HumanDuration,

    /// Most bytes of Kafka payload between two commits, from 1KiB to 1TiB. Default: 256MiB.
    pub size: ByteSize,
}

impl Default for Commit {
    fn default() -> Self {
        Self { interval: HumanDuration(std::time::Duration::from_secs(10)), size: ByteSize(256 << 20) }
    }
}

/// How a cloud that was away, or lost everything, gets what it misses.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Fill {
    /// Most bytes of files per second that are copied to each such cloud, from 64KiB to 1TiB. Without effect while nothing
    /// can be decided without that cloud. Default: no bound.
    #[schemars(extend("examples" = ["64MiB"]))]
    pub bandwidth: Option<ByteSize>,
}

/// Further processes, started with `isobar run TOPOLOGY --worker`, that read and transform for the leader.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Workers {
    /// What a worker shows to the leader, by reference: `"${env:NAME}"` or `"${file:path}"`. The same for all processes
    /// of the topology; at least 16 visible ASCII characters. Required.
    #[schemars(extend("examples" = ["${env:ISOBAR_WORKER_TOKEN}"]))]
    pub token: OptionValue,
}

/// How queries read the datasets. Every cloud holds the same bytes, so the answers are the same whichever is read.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Query {
    /// Which cloud is asked first; when it fails, the others are. Default: `order`.
    #[serde(default)]
    pub prefer: Prefer,

    /// The cloud that queries run in: what leaves it costs nothing there. Default: none.
    #[serde(default)]
    #[schemars(extend("examples" = ["aws"]))]
    pub local_to: Option<String>,

    /// What prices are in, for people: at most 8 bytes. Default: USD.
    #[serde(default = "default_currency")]
    #[schemars(extend("examples" = ["EUR"]))]
    pub currency: String,

    /// What reading costs, by cloud. Default: none, and queries do not say what they cost.
    #[serde(default)]
    #[schemars(extend("examples" = [{ "aws": { "egress_per_gib": 0.09, "request_per_million": 0.4 } }]))]
    pub prices: Entries<Price>,

    /// Blocks of data files that were read are kept here and not read again. Default: nothing is kept.
    #[serde(default)]
    pub cache: Option<QueryCache>,
}

pub(super) fn default_currency() -> String {
    "USD".to_owned()
}

/// Which cloud queries ask first. One that failed a moment ago comes after the others in any case.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum Prefer {
    /// The first one of `clouds`.
    #[default]
    Order,
    /// The one that answers soonest, which is measured.
    Nearest,
    /// The one that costs least by `prices`; each cloud must have a price but the one of `local_to`.
    Cheapest,
}

/// What reading from a cloud costs, in the currency of the section.
#[derive(Debug, Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// For each GiB that leaves the cloud, from 0 to 1000000. Default: 0.
    #[serde(default)]
    pub egress_per_gib: f64,

    /// For a million requests that read, from 0 to 1000000. Default: 0.
    #[serde(default)]
    pub request_per_million: f64,
}

/// Blocks of data files on a local disk.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct QueryCache {
    /// A folder for nothing else, relative to the spec; created if it is not there. Required.
    #[schemars(extend("examples" = ["./cache"]))]
    pub directory: String,

    /// Most bytes in it, at least 16MiB. What was not used for longest is deleted first. Required.
    #[schemars(extend("examples" = ["10GiB"]))]
    pub size: ByteSize,
}

/// Topics and what their records look like.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// The Kafka topic. No two sources read the same one. Required, unless there is `topics`.
    #[serde(default)]
    #[schemars(regex(pattern = TOPIC_PATTERN), extend("examples" = ["flights"]))]
    pub topic: Option<String>,

    /// Several Kafka topics whose records look alike, in place of `topic`: a list of names, which all must exist, or
    /// `{ pattern: "^orders-.*" }`, a regular expression that begins with `^` and matches whole names. A topic that
    /// begins to match later is read from its first record, as a partition that is added; the column `_topic` tells
    /// rows apart. At most 1,000 topics. Default: none.
    #[serde(default)]
    pub topics: Option<Topics>,

    /// How payloads are encoded. Required.
    pub format: Format,

    /// What stands before an encoded record and names its writer's schema. Default: `confluent` for `avro` and `protobuf`
    /// without `schema`, otherwise `plain`.
    #[serde(default)]
    pub framing: Option<Framing>,

    /// What a row stands in. Only for `json` and `avro`. Default: `none`, the payload is the row.
    #[serde(default)]
    pub envelope: Envelope,

    /// How many JSON objects a payload holds, each of which becomes a row: `one`; one in each of its `lines` (NDJSON); or
    /// those of the `array` that it is. A record of several is accepted or rejected as a whole. Only for `json`. Default:
    /// `one`.
    #[serde(default)]
    pub payload_rows: PayloadRows,

    /// Files with the schemas that records were written with, relative to the spec: for `avro` one `.avsc` file or, with
    /// `single_object`, any number of them; for `protobuf` a `.proto` file or a descriptor set (`protoc -o`), further
    /// `.proto` files being those that it imports. Not with `confluent`, where the registry has them.
    #[serde(default)]
    #[schemars(extend("examples" = ["./order.avsc", ["./order.proto", "./money.proto"]]))]
    pub schema: Option<SchemaFiles>,

    /// The Protobuf message that a record is, by its full name. With `confluent` each record names its own, and others than
    /// this one are rejected. Default: the only one of the schema, or whichever a record names. Only for `protobuf`.
    #[serde(default)]
    #[schemars(extend("examples" = ["shop.v1.Order"]))]
    pub message: Option<String>,

    /// What payloads are compressed with, by the producer itself and not by Kafka, which needs no setting. Default: `none`.
    #[serde(default)]
    pub payload_compression: PayloadCompression,

    /// What is between two values of a record. One ASCII character. Only for `csv`. Default: `,`.
    #[serde(default)]
    #[schemars(extend("examples" = [";"]))]
    pub delimiter: Option<String>,

    /// The names of the values of a record in their order, where that is not the order of `fields`. Only for `csv`.
    /// Default: all `fields`.
    #[serde(default)]
    pub columns: Option<Vec<String>>,

    /// What happens to a record with a field that is not in `fields`. Default: `quarantine`.
    #[serde(default)]
    pub unknown_fields: UnknownFields,

    /// Where a dataset begins that has read nothing of the topic yet. A partition that the topic gets later is read from
    /// its first record in any case. Default: `earliest`.
    #[serde(default)]
    pub start: StartPosition,

    /// The fields of a record, by name; their order is the order of the columns in `SELECT *`. Short form:
    /// `name: type`. Types: boolean, int8, int16, int32, int64, float32, float64, string, binary, date, timestamp
    /// (UTC, microseconds), `decimal(precision, scale)`, `list<type>`, `struct<name: type, …>`,
    /// `map<string, type>`. Required.
    #[schemars(extend("minProperties" = 1))]
    pub fields: Entries<FieldSpec>,
}

/// What a row stands in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum Envelope {
    /// Nothing: the payload is the row.
    #[default]
    None,
    /// A change event of Debezium, in JSON with or without the `schema` and `payload` of Connect's JsonConverter. `fields`
    /// are those of the row: `after`, or `before` where it was deleted. The source has two columns more, also in `SELECT *`:
    /// `_op` (`c` insert, `u` update, `d` delete, `r` snapshot) and `_source_timestamp`. Tombstones and heartbeats are counted
    /// as filtered.
    Debezium,
}

/// Several topics.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
pub enum Topics {
    /// By their names.
    Named(Vec<TopicName>),
    /// By a pattern of their names.
    Matching(TopicMatch),
}

/// All topics whose names match.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub struct TopicMatch {
    /// A regular expression that begins with `^` and matches whole names; at most 256 bytes. Required.
    #[schemars(extend("examples" = ["^orders-.*"]))]
    pub pattern: String,
}

/// The name of a topic.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct TopicName(pub String);

impl JsonSchema for TopicName {
    fn schema_name() -> Cow<'static, str> {
        "TopicName".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": TOPIC_PATTERN })
    }
}

/// How payloads are encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum Format {
    /// One JSON object per record.
    Json,
    /// One Avro value per record, a record in Avro's sense, in the binary encoding.
    Avro,
    /// One Protobuf message per record, in the binary encoding.
    Protobuf,
    /// One line of values per record, quoted as in RFC 4180 where needed.
    Csv,
    /// The bytes themselves, as the only field: `binary`, or `string` if they are UTF-8.
    Raw,
}

/// What payloads are compressed with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum PayloadCompression {
    /// They are not.
    #[default]
    None,
    /// gzip, RFC 1952.
    Gzip,
    /// Zstandard, RFC 8878.
    Zstd,
}

/// One file, or several.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
pub enum SchemaFiles {
    /// `./order.avsc`
    One(String),
    /// `[./order.avsc, ./order-v2.avsc]`
    Many(Vec<String>),
}

/// Where a dataset begins that has read nothing of a topic yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum StartPosition {
    /// At its first record.
    #[default]
    Earliest,
    /// At its end: only records written from now on.
    Latest,
}

/// A dataset and how it is made.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Dataset {
    /// The source whose records it is made of. Required.
    pub from: String,

    /// What a row is, in a sentence; it becomes the description of the table. Default: none.
    #[serde(default)]
    pub description: Option<String>,

    /// A file, relative to the spec, that says what the dataset holds: a data contract. The columns of the query must be those
    /// that it promises, its expectations are checked after those here, and its descriptions and units become the comments of
    /// the table's columns. Several datasets may name the same file. Default: none.
    #[serde(default)]
    #[schemars(extend("examples" = ["./contracts/flights.yaml"]))]
    pub contract: Option<String>,

    /// The query that makes rows of records: a stateless `SELECT` (projection and filter) from the source, by its
    /// name. Beside the source's fields there are `_topic`, `_partition`, `_offset`, `_timestamp` (UTC,
    /// milliseconds), `_key`, and `_headers`, of which `header(_headers, 'name')` is one. Required.
    #[schemars(extend("examples" = ["SELECT carrier, arr_delay > 15 AS late FROM flights"]))]
    pub sql: String,

    /// Conditions on the source's records, checked before the query, in this order; a record's fate is that of the
    /// first condition it fails. A condition that is NULL passes, as in SQL's CHECK. Default: none.
    #[serde(default)]
    pub expect: Vec<Expectation>,

    /// How large a share of the records may miss a rule before somebody is told, or the topology stops: by the name of an
    /// expectation, or `undecodable` for records that cannot be decoded, whatever the reason, or `sql_error`,
    /// `predict_error` or `predict_timeout`. The share is that of the last 100 records or more, the batch about to be committed included. Default: no limits.
    #[serde(default)]
    pub limits: Entries<RateLimit>,

    /// Columns of the query's output whose values become folders, Hive style (`month=1/`). Choose columns with few
    /// values: each combination is a file per commit. Default: none.
    #[serde(default)]
    pub partition_by: Vec<String>,

    /// Compression of the Parquet files: `zstd(1)` to `zstd(22)`, `snappy` or `none`. Higher levels give smaller
    /// files for more time. Default: `zstd(1)`.
    #[serde(default = "default_compression")]
    #[schemars(regex(pattern = COMPRESSION_PATTERN), extend("examples" = ["zstd(1)", "snappy", "none"]))]
    pub compression: String,

    /// A Kafka topic of the same cluster that gets the rejected records as well, beside the quarantine. Default: none.
    #[serde(default)]
    pub dead_letter: Option<DeadLetter>,

    /// A Kafka topic that gets the rows of the dataset as well, beside its table in every cloud. Default: none.
    #[serde(default)]
    pub publish: Option<Publish>,

    /// What is done to the files of the dataset and of its quarantine while the topology runs. Nothing of it changes
    /// which rows there are. A run with `--until-caught-up` leaves it to others. Default: small files are combined,
    /// every version is kept, every 100th has a checkpoint.
    #[serde(default)]
    pub maintenance: Maintenance,
}

/// The newest row of each entity of a dataset, kept for look-ups by key.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Online {
    /// The dataset. Required.
    #[schemars(extend("examples" = ["flight_features"]))]
    pub dataset: String,

    /// The columns that are an entity's key: whole numbers, texts, bytes, booleans, decimals, timestamps or dates. Rows with a
    /// null in one of them are left out. Required.
    #[schemars(extend("examples" = [["carrier", "flight"]]))]
    pub keys: Vec<String>,

    /// The column that says when a row happened, a timestamp or a date. The newest row counts; those without a time are left
    /// out. Default: `event_time`.
    #[serde(default)]
    pub time: Option<String>,

    /// The column that says since when a row is known, which decides between rows that happened at the same time. Default:
    /// `known_time`, if there is such a column.
    #[serde(default)]
    pub known: Option<String>,

    /// The columns that decide between rows with the same times, such as Kafka's partition and offset; the highest counts, and
    /// nulls are lowest. Default: `offset` or `_offset`, if there is such a column.
    #[serde(default)]
    pub sequence: Option<Vec<String>>,

    /// How old a row may be before it is answered with `expired` in place of its features. Default: any age.
    #[serde(default)]
    #[schemars(extend("examples" = ["36h"]))]
    pub ttl: Option<HumanDuration>,

    /// The columns that are answered, of any type but maps. Default: all others of the table.
    #[serde(default)]
    pub features: Option<Vec<String>>,
}

/// A data contract: what a dataset holds, what its columns mean, and who answers for it.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Contract {
    /// Name of the contract, for people; at most 200 characters. Required.
    #[schemars(extend("examples" = ["flight features"]))]
    pub name: String,

    /// Its version, counted as its owners see fit; at most 200 characters. It has no effect. Required.
    #[schemars(extend("examples" = ["1.2.0"]))]
    pub version: String,

    /// What a row is, in a sentence; it becomes the description of the table. At most 4,000 characters. Default: that of the
    /// dataset.
    #[serde(default)]
    pub description: Option<String>,

    /// Who answers for the dataset. Default: nobody is named.
    #[serde(default)]
    pub owners: Vec<Owner>,

    /// All columns of the dataset, by name, those that become folders included. Short form: `name: type`; the long form has
    /// `type`, `nullable` (true unless said otherwise), `description` (at most 4,000 characters) and `unit` (at most 100). The
    /// types are those of the fields of a source. Required.
    #[schemars(extend("minProperties" = 1))]
    pub columns: Entries<FieldSpec>,

    /// Conditions on the source's records, as in `expect` of a dataset, and checked after those. A name is in one of the two
    /// only. Default: none.
    #[serde(default)]
    pub expect: Vec<Expectation>,
}

/// Somebody who answers for a dataset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Owner {
    /// A person or a team; at most 200 characters. Required.
    #[schemars(extend("examples" = ["Flight data"]))]
    pub name: String,

    /// Where they are reached: an address or a channel; at most 200 characters. Default: nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contact: Option<String>,
}

/// How large a share of the records may miss a rule.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RateLimit {
    /// Above this share a warning is logged, once until the share has fallen again. Default: never.
    pub warn_above: Option<Percent>,

    /// Above this share the topology stops before the batch is committed, so that a roll-out that broke does not fill the
    /// quarantine. It stops at the same records again until they, the schema or the limit have changed. Default: never.
    pub fail_above: Option<Percent>,
}

/// The Kafka topic that gets the rejected records of a dataset, each once for those who read committed records only.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeadLetter {
    /// The topic, which must exist. Several datasets may share one. Not one that the topology reads. Required.
    #[schemars(regex(pattern = TOPIC_PATTERN), extend("examples" = ["flights-rejected"]))]
    pub topic: String,

    /// The consumer group under which Kafka keeps how far the quarantine was sent, and the transactional id that it is sent
    /// with. No other dataset may have it. Another name begins anew. Default: `<topology>.<dataset>.dead_letter`.
    #[serde(default)]
    #[schemars(regex(pattern = GROUP_PATTERN))]
    pub group: Option<String>,

    /// The version of the quarantine that is sent first, when nothing was sent under the group's name yet. Default: 0, all
    /// that was ever rejected.
    #[serde(default)]
    pub from_version: u64,
}

/// The Kafka topic that gets the rows of a dataset, each once for those who read committed records only.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Publish {
    /// The topic, which must exist. Several datasets may share one. Not one that the topology reads. Required.
    #[schemars(regex(pattern = TOPIC_PATTERN), extend("examples" = ["flights-scored"]))]
    pub topic: String,

    /// The column, or the columns, that become the key of a message: rows of one key lie in one partition, in their order. One
    /// column is its text, several are a JSON array of their values. Default: no key, and any partition.
    #[serde(default)]
    #[schemars(extend("examples" = ["carrier", ["carrier", "flight_number"]]))]
    pub key: Option<KeyColumns>,

    /// What a message is. Default: `json`.
    #[serde(default)]
    pub format: PublishFormat,

    /// The columns that are sent, in this order. Default: all.
    #[serde(default)]
    #[schemars(extend("examples" = [["carrier", "flight_number", "probability"]]))]
    pub columns: Option<Vec<String>>,

    /// The consumer group under which Kafka keeps how far the dataset was sent, and the transactional id that it is sent with.
    /// No other dataset, and no dead letters, may have it. Another name begins anew. Default: `<topology>.<dataset>.publish`.
    #[serde(default)]
    #[schemars(regex(pattern = GROUP_PATTERN))]
    pub group: Option<String>,

    /// The version of the dataset that is sent first, when nothing was sent under the group's name yet. Default: 0, all rows
    /// that there ever were, as far as `keep_versions` has left their files.
    #[serde(default)]
    pub from_version: u64,

    /// The cluster of the topic, described as the one that is read. Default: the one that is read.
    #[serde(default)]
    pub kafka: Option<Kafka>,
}

/// One column, or several.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
pub enum KeyColumns {
    /// `carrier`
    One(String),
    /// `[carrier, flight_number]`
    Many(Vec<String>),
}

/// What a message is that a row becomes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum PublishFormat {
    /// A JSON object, as `isobar query --format json` writes a row.
    #[default]
    Json,
}

/// What is done to the files of a dataset while the topology runs.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Maintenance {
    /// How small files are combined into large ones.
    pub compact: Compact,

    /// How many versions before the newest one stay readable, at least 1: files that only older versions need are
    /// deleted from every cloud, once every cloud has published that nothing newer needs them. Model training that
    /// pins a version needs it to be kept. Default: all, nothing is deleted.
    #[schemars(range(min = 1), extend("examples" = [1000]))]
    pub keep_versions: Option<u64>,

    /// Versions from one checkpoint of the log to the next: with it, a reader needs no more entries than that to know
    /// the table. 0: none are written. Default: 100.
    #[schemars(extend("examples" = [1000]))]
    pub checkpoint_every: u64,
}

impl Default for Maintenance {
    fn default() -> Self {
        Self { compact: Compact::default(), keep_versions: None, checkpoint_every: 100 }
    }
}

/// How small files are combined.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Compact {
    /// Whether files are combined at all. Default: true.
    pub enabled: bool,

    /// Size to which files are combined, from 1MiB to 1GiB. Files of half that size and more are left alone.
    /// Default: 128MiB.
    pub target_file_size: ByteSize,

    /// Fewest small files with the same partition values that are combined, from 2 to 4096, unless fewer reach the
    /// target. Fewer means fewer files to read and more bytes rewritten. Default: 16.
    #[schemars(range(min = 2, max = 4096))]
    pub min_files: u64,
}

impl Default for Compact {
    fn default() -> Self {
        Self { enabled: true, target_file_size: ByteSize(128 << 20), min_files: 16 }
    }
}

fn default_compression() -> String {
    "zstd(1)".to_owned()
}

/// A mapping that keeps the order of the text.
#[derive(Debug, Clone)]
pub struct Entries<T>(pub Vec<(String, T)>);

impl<T> Default for Entries<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Entries<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EntriesVisitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for EntriesVisitor<T> {
            type Value = Entries<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a mapping")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries<T>, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
        }

        deserializer.deserialize_map(EntriesVisitor(PhantomData))
    }
}

impl<T: JsonSchema> JsonSchema for Entries<T> {
    fn schema_name() -> Cow<'static, str> {
        format!("EntriesOf{}", T::schema_name()).into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "object", "additionalProperties": generator.subschema_for::<T>() })
    }
}
