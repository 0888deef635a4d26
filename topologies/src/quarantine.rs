//! The quarantine table: every rejected record as it came, with where it came from and why it is here.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryBuilder, Int32Array, Int64Array, RecordBatch, StringBuilder, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use isobar_schemas::RecordChunk;
use isobar_schemas::decode::Reject;
use isobar_transforms::RowReject;

/// The reason given for records that a rule rejected.
const BY_RULE: &str = "expectation";

/// A rejected record of a chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// Index of the record in its chunk.
    pub record: u32,
    reason: &'static str,
    rule: Option<String>,
    message: String,
}

impl Rejected {
    /// A record that the decoder could not turn into a row.
    pub fn undecodable(reject: &Reject) -> Self {
        Self {
            record: reject.record,
            reason: reject.reason.as_str(),
            rule: None,
            message: reject.message.clone(),
        }
    }

    /// A row that an expectation or the SQL rejected; `records` maps rows to records.
    pub fn by_rule(records: &[u32], reject: RowReject) -> Self {
        let record = records[reject.row as usize];
        Self { record, reason: BY_RULE, rule: Some(reject.rule), message: reject.message }
    }

    /// What the record is counted under: the rule, or the reason where there is no rule.
    pub fn label(&self) -> &str {
        self.rule.as_deref().unwrap_or(self.reason)
    }
}

/// The fixed schema of every quarantine table.
pub fn schema() -> SchemaRef {
    let described = |name: &str, data_type: DataType, nullable: bool, description: &str| {
        Field::new(name, data_type, nullable)
            .with_metadata([("description".to_owned(), description.to_owned())].into_iter().collect())
    };
    let utc_micros = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    Arc::new(Schema::new(vec![
        described(
            "reason",
            DataType::Utf8,
            false,
            "why: tombstone, empty_payload, undecodable, …, or expectation",
        ),
        described("rule", DataType::Utf8, true, "the expectation that failed, if one did"),
        described("message", DataType::Utf8, false, "what exactly was wrong"),
        described("topic", DataType::Utf8, false, "Kafka topic"),
        described("partition", DataType::Int32, false, "Kafka partition"),
        described("offset", DataType::Int64, false, "Kafka offset"),
        described("timestamp", utc_micros, true, "Kafka timestamp"),
        described("key", DataType::Binary, true, "Kafka key as it came"),
        described("payload", DataType::Binary, true, "Kafka payload as it came; null for a tombstone"),
    ]))
}

/// The rows of `rejected`, which are in the order of their records.
pub fn rows(chunk: &RecordChunk, rejected: &[Rejected]) -> RecordBatch {
    let mut reasons = StringBuilder::new();
    let mut rules = StringBuilder::new();
    let mut messages = StringBuilder::new();
    let mut topics = StringBuilder::new();
    let mut keys = BinaryBuilder::new();
    let mut payloads = BinaryBuilder::new();
    for reject in rejected {
        let record = reject.record as usize;
        reasons.append_value(reject.reason);
        rules.append_option(reject.rule.as_deref());
        messages.append_value(&reject.message);
        topics.append_value(&chunk.topic_partition().topic);
        keys.append_option(chunk.key(record));
        payloads.append_option(chunk.payload(record));
    }
    let offsets = rejected.iter().map(|reject| chunk.offsets()[reject.record as usize]);
    let micros =
        rejected.iter().map(|reject| chunk.timestamps_ms()[reject.record as usize].map(|ms| ms * 1000));
    let partitions = vec![chunk.topic_partition().partition; rejected.len()];
    let columns: Vec<ArrayRef> = vec![
        Arc::new(reasons.finish()),
        Arc::new(rules.finish()),
        Arc::new(messages.finish()),
        Arc::new(topics.finish()),
        Arc::new(Int32Array::from(partitions)),
        Arc::new(offsets.collect::<Int64Array>()),
        Arc::new(micros.collect::<TimestampMicrosecondArray>().with_timezone("UTC")),
        Arc::new(keys.finish()),
        Arc::new(payloads.finish()),
    ];
    RecordBatch::try_new(schema(), columns).expect("columns are built to the schema above")
}
