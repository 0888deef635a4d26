//! The quarantine table: every rejected record as it came, with where it came from and why it is here.
//!
//! [`rows`] makes rows of records, [`StoredRows`] makes records of rows again, the same ones, byte for byte. [`listing`] shows
//! people what is there, and [`redrive`](crate::redrive) sends it through the topology once more.
//!
//! A quarantine has everything that the records of its dataset are judged by. Headers are among it where the dataset uses
//! `_headers`, and only there: such a quarantine has a column more, which it has from its beginning or not at all
//! ([`start`](crate::start) refuses a topology whose datasets want another one than there is).

pub mod listing;

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BinaryBuilder, BooleanArray, Int32Array, Int64Array, ListArray,
    RecordBatch, StringArray, StringBuilder, TimestampMicrosecondArray,
};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{
    DataType, Field, Int32Type, Int64Type, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType,
};
use arrow::error::ArrowError;
use isobar_schemas::decode::Reject;
use isobar_schemas::metadata::{headers_array, headers_type};
use isobar_schemas::{RecordChunk, TopicPartition};
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

/// The schema of a quarantine table: the same for every dataset, but that one of a dataset that uses them `keeps_headers`.
pub fn schema(keeps_headers: bool) -> SchemaRef {
    let described = |name: &str, data_type: DataType, nullable: bool, description: &str| {
        Field::new(name, data_type, nullable)
            .with_metadata([("description".to_owned(), description.to_owned())].into_iter().collect())
    };
    let utc_micros = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let mut fields = vec![
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
    ];
    if keeps_headers {
        let description = "Kafka headers in their order; null if they could not be read";
        fields.push(described("headers", headers_type(), true, description));
    }
    Arc::new(Schema::new(fields))
}

/// The rows of `rejected`, which are in the order of their records, in the [`schema`] that this makes.
pub fn rows(chunk: &RecordChunk, rejected: &[Rejected], keeps_headers: bool) -> RecordBatch {
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
    let mut columns: Vec<ArrayRef> = vec![
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
    if keeps_headers {
        let headers = headers_array(chunk, rejected.iter().map(|reject| reject.record as usize));
        columns.push(Arc::new(headers.expect("chunks are bounded far below what an array can hold")));
    }
    RecordBatch::try_new(schema(keeps_headers), columns).expect("columns are built to the schema above")
}

/// Rows of a quarantine table as its files hold them.
#[derive(Debug)]
pub(crate) struct StoredRows {
    batch: RecordBatch,
    reasons: StringArray,
    rules: StringArray,
    messages: StringArray,
    topics: StringArray,
    partitions: Int32Array,
    offsets: Int64Array,
    timestamps: TimestampMicrosecondArray,
    keys: BinaryArray,
    payloads: BinaryArray,
    /// `None` in the quarantine of a dataset that does not use them.
    headers: Option<ListArray>,
}

impl StoredRows {
    /// The rows of `batch`.
    ///
    /// # Errors
    /// If it has the columns of neither [`schema`].
    pub(crate) fn new(batch: &RecordBatch) -> Result<Self, ArrowError> {
        let keeps_headers = batch.num_columns() > schema(false).fields().len();
        let batch = RecordBatch::try_new(schema(keeps_headers), batch.columns().to_vec())?;
        let text = |index: usize| batch.column(index).as_string::<i32>().clone();
        let bytes = |index: usize| batch.column(index).as_binary::<i32>().clone();
        Ok(Self {
            reasons: text(0),
            rules: text(1),
            messages: text(2),
            topics: text(3),
            partitions: batch.column(4).as_primitive::<Int32Type>().clone(),
            offsets: batch.column(5).as_primitive::<Int64Type>().clone(),
            timestamps: batch.column(6).as_primitive::<TimestampMicrosecondType>().clone(),
            keys: bytes(7),
            payloads: bytes(8),
            headers: keeps_headers.then(|| batch.column(9).as_list::<i32>().clone()),
            batch,
        })
    }

    /// The rows as a batch.
    pub(crate) fn batch(&self) -> &RecordBatch {
        &self.batch
    }

    /// Whether they have the headers of their records.
    pub(crate) fn keep_headers(&self) -> bool {
        self.headers.is_some()
    }

    /// The rows in pieces, each of consecutive rows of one Kafka partition at rising offsets.
    pub(crate) fn runs(&self) -> Vec<Range<usize>> {
        let mut runs: Vec<Range<usize>> = Vec::new();
        for row in 0..self.batch.num_rows() {
            match runs.last_mut() {
                Some(run) if self.goes_on(row) => run.end = row + 1,
                _ => runs.push(row..row + 1),
            }
        }
        runs
    }

    /// Whether `row` is of the same partition as the row before it, and after it there.
    fn goes_on(&self, row: usize) -> bool {
        let before = row - 1;
        self.topics.value(before) == self.topics.value(row)
            && self.partitions.value(before) == self.partitions.value(row)
            && self.offsets.value(before) < self.offsets.value(row)
    }

    /// How many rows there are.
    pub(crate) fn len(&self) -> usize {
        self.batch.num_rows()
    }

    /// One row.
    pub(crate) fn row(&self, row: usize) -> StoredRow<'_> {
        StoredRow {
            reason: self.reasons.value(row),
            rule: self.rules.is_valid(row).then(|| self.rules.value(row)),
            message: self.messages.value(row),
            topic: self.topics.value(row),
            partition: self.partitions.value(row),
            offset: self.offsets.value(row),
            timestamp_ms: self.timestamp_ms(row),
            key: self.keys.is_valid(row).then(|| self.keys.value(row)),
            payload: self.payloads.is_valid(row).then(|| self.payloads.value(row)),
            headers: self
                .headers
                .as_ref()
                .and_then(|headers| headers_in(headers, row))
                .into_iter()
                .flatten()
                .collect(),
        }
    }

    /// Kafka's timestamps are whole milliseconds.
    fn timestamp_ms(&self, row: usize) -> Option<i64> {
        self.timestamps.is_valid(row).then(|| self.timestamps.value(row) / 1000)
    }

    /// The Kafka partition that the record of `row` came from.
    pub(crate) fn topic_partition(&self, row: usize) -> TopicPartition {
        TopicPartition::new(self.topics.value(row), self.partitions.value(row))
    }

    /// The records of `rows`, which are of one run, as they once came from Kafka.
    pub(crate) fn records(&self, rows: &[usize], from: TopicPartition) -> RecordChunk {
        let empty = if self.keep_headers() { RecordChunk::with_headers } else { RecordChunk::new };
        let mut chunk = empty(from);
        for row in rows.iter().copied() {
            let timestamp_ms = self.timestamp_ms(row);
            let key = self.keys.is_valid(row).then(|| self.keys.value(row));
            let payload = self.payloads.is_valid(row).then(|| self.payloads.value(row));
            let offset = self.offsets.value(row);
            match &self.headers {
                None => chunk.push(offset, timestamp_ms, key, payload),
                Some(headers) => {
                    chunk.push_with_headers(offset, timestamp_ms, key, payload, headers_in(headers, row));
                }
            }
        }
        chunk
    }

    /// Whether the record of `row` was rejected for this reason before.
    pub(crate) fn has_reason(&self, row: usize, rejected: &Rejected) -> bool {
        let rule = self.rules.is_valid(row).then(|| self.rules.value(row));
        self.reasons.value(row) == rejected.reason
            && rule == rejected.rule.as_deref()
            && self.messages.value(row) == rejected.message
    }

    /// The rows of `run` that stay: those for which `fate` says so, with their new reason where they have one.
    pub(crate) fn staying<'r>(
        &self,
        run: Range<usize>,
        fate: impl Fn(usize) -> Staying<'r>,
    ) -> Result<RecordBatch, ArrowError> {
        let mut stays = Vec::with_capacity(run.len());
        let (mut reasons, mut rules) = (StringBuilder::new(), StringBuilder::new());
        let mut messages = StringBuilder::new();
        for row in run.clone() {
            let fate = fate(row);
            stays.push(!matches!(fate, Staying::Gone));
            match fate {
                Staying::Rejected(rejected) => {
                    reasons.append_value(rejected.reason);
                    rules.append_option(rejected.rule.as_deref());
                    messages.append_value(&rejected.message);
                }
                Staying::Kept | Staying::Gone => {
                    reasons.append_value(self.reasons.value(row));
                    rules.append_option(self.rules.is_valid(row).then(|| self.rules.value(row)));
                    messages.append_value(self.messages.value(row));
                }
            }
        }
        let part = self.batch.slice(run.start, run.len());
        let mut columns: Vec<ArrayRef> =
            vec![Arc::new(reasons.finish()), Arc::new(rules.finish()), Arc::new(messages.finish())];
        columns.extend(part.columns()[3..].iter().cloned());
        filter_record_batch(&RecordBatch::try_new(part.schema(), columns)?, &BooleanArray::from(stays))
    }
}

/// A rejected record as a quarantine has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoredRow<'r> {
    pub(crate) reason: &'r str,
    pub(crate) rule: Option<&'r str>,
    pub(crate) message: &'r str,
    pub(crate) topic: &'r str,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) timestamp_ms: Option<i64>,
    pub(crate) key: Option<&'r [u8]>,
    /// `None` for a tombstone.
    pub(crate) payload: Option<&'r [u8]>,
    /// None where they are not kept, or could not be read.
    pub(crate) headers: Vec<(&'r str, Option<&'r [u8]>)>,
}

/// The headers in `row`, `None` if they are null.
fn headers_in(headers: &ListArray, row: usize) -> Option<impl Iterator<Item = (&str, Option<&[u8]>)>> {
    let entries = headers.values().as_struct();
    let (keys, values) = (entries.column(0).as_string::<i32>(), entries.column(1).as_binary::<i32>());
    let of_row = headers.value_offsets()[row] as usize..headers.value_offsets()[row + 1] as usize;
    let header = |at: usize| (keys.value(at), values.is_valid(at).then(|| values.value(at)));
    headers.is_valid(row).then(|| of_row.map(header))
}

/// Whether a row of a quarantine stays in it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Staying<'r> {
    /// It does, as it is.
    Kept,
    /// It does, for another reason.
    Rejected(&'r Rejected),
    /// It does not.
    Gone,
}

#[cfg(test)]
mod tests {
    use isobar_schemas::RejectReason;

    use super::*;

    fn rejected(record: u32, message: &str) -> Rejected {
        Rejected::undecodable(&Reject { record, reason: RejectReason::Undecodable, message: message.into() })
    }

    fn chunk(partition: i32) -> RecordChunk {
        let mut chunk = RecordChunk::new(TopicPartition::new("t", partition));
        chunk.push(3, None, None, None);
        chunk.push(5, Some(-1), Some(b""), Some(b""));
        chunk.push(9, Some(1_700_000_000_123), Some(b"k\xff"), Some(b"\x00\xff{"));
        chunk
    }

    fn stored() -> StoredRows {
        let all = [rejected(0, "a"), rejected(1, "b"), rejected(2, "c")];
        let parts =
            [rows(&chunk(0), &all, false), rows(&chunk(1), &all, false), rows(&chunk(1), &all[..1], false)];
        StoredRows::new(&arrow::compute::concat_batches(&schema(false), &parts).unwrap()).unwrap()
    }

    #[test]
    fn headers_come_back_where_they_are_kept() {
        const HEADERS: [(&str, Option<&[u8]>); 3] = [("b", Some(b"\x00\xff")), ("a", None), ("b", Some(b""))];
        let mut chunk = RecordChunk::with_headers(TopicPartition::new("t", 0));
        chunk.push_with_headers(1, None, None, Some(b"x"), Some(HEADERS));
        chunk.push(2, None, None, None);
        chunk.push_with_headers(3, None, None, Some(b"x"), None::<[(&str, Option<&[u8]>); 0]>);
        chunk.push_with_headers(4, None, None, Some(b"x"), Some([("c", None)]));
        let all: Vec<Rejected> = (0..4).map(|record| rejected(record, "a")).collect();
        let stored = StoredRows::new(&rows(&chunk, &all, true)).unwrap();
        assert!(stored.keep_headers());
        assert_eq!(stored.records(&[0, 1, 2, 3], stored.topic_partition(0)), chunk);
        let left = stored.staying(1..4, |row| if row == 2 { Staying::Gone } else { Staying::Kept }).unwrap();
        let left = StoredRows::new(&left).unwrap().records(&[0, 1], stored.topic_partition(0));
        assert_eq!((left.headers(0), left.headers(1)), (Some(vec![]), Some(vec![("c", None)])));

        // Of a dataset that does not use them nothing of them is there.
        let stored = StoredRows::new(&rows(&chunk, &all, false)).unwrap();
        assert!(!stored.keep_headers());
        assert!(!stored.records(&[0], stored.topic_partition(0)).has_headers());
    }

    #[test]
    fn a_row_has_everything_that_its_record_had() {
        let stored = stored();
        let (first, last) = (stored.row(0), stored.row(5));
        assert_eq!((first.timestamp_ms, first.key, first.payload), (None, None, None));
        assert_eq!((last.topic, last.partition, last.offset), ("t", 1, 9));
        assert_eq!((last.reason, last.rule, last.message), ("undecodable", None, "c"));
        assert_eq!(last.timestamp_ms, Some(1_700_000_000_123));
        assert_eq!((last.key, last.payload), (Some(&b"k\xff"[..]), Some(&b"\x00\xff{"[..])));
        assert_eq!((stored.len(), last.headers), (7, Vec::new()));
    }

    #[test]
    fn records_come_back_as_they_were() {
        let (stored, chunk) = (stored(), chunk(0));
        assert_eq!(stored.runs(), [0..3, 3..6, 6..7]);
        let back = stored.records(&[0, 1, 2], stored.topic_partition(0));
        assert_eq!(back.topic_partition(), chunk.topic_partition());
        assert_eq!((back.offsets(), back.timestamps_ms()), (chunk.offsets(), chunk.timestamps_ms()));
        for record in 0..3 {
            assert_eq!(back.key(record), chunk.key(record));
            assert_eq!(back.payload(record), chunk.payload(record));
        }
    }

    #[test]
    fn rows_that_stay_keep_their_order_and_get_their_new_reason() {
        let stored = stored();
        let new = rejected(0, "new");
        let fates = [Staying::Rejected(&new), Staying::Gone, Staying::Kept];
        let left = StoredRows::new(&stored.staying(3..6, |row| fates[row - 3]).unwrap()).unwrap();
        assert_eq!(left.offsets.values(), &[3, 9]);
        assert_eq!(left.messages.iter().flatten().collect::<Vec<_>>(), ["new", "c"]);
        assert_eq!(left.records(&[1], left.topic_partition(1)).payload(0), chunk(1).payload(2));
        assert!(left.has_reason(0, &new) && !left.has_reason(1, &new));
    }
}
