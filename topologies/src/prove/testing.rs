//! A small history to break: two tables with their files, written with the real encoder into stores in memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, Int32Array, Int64Array, ListArray, MapArray, RecordBatch, StringArray, StructArray,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, Field, Fields, Schema};
use bytes::Bytes;
use isobar_connectors::clouds::Cloud;
use isobar_connectors::delta::body::NO_PREVIOUS_SHA256;
use isobar_connectors::delta::evolution::{differences, evolved};
use isobar_connectors::delta::path::decode_log_path;
use isobar_connectors::delta::schema::to_delta;
use isobar_connectors::delta::{
    AcceptedGap, Action, CommitBody, CommitInfo, FileDigest, IsobarInfo, Maintenance, MaintenanceWork,
    OffsetRange, Redrive, SchemaUpdate, TableDefinition, sha256_hex,
};
use isobar_schemas::RowCounts;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::ArrowWriter;

use crate::commit::format::published_path;

/// The dataset of the history, partitioned by `month`, with a column `x` that counts up from 0.
pub(crate) const DATASET: &str = "flights";
/// Its quarantine.
pub(crate) const QUARANTINE: &str = "flights.quarantine";

/// Tables and files before they lie in any cloud.
#[derive(Debug, Clone)]
pub(crate) struct History {
    /// Bodies by table, version 0 first.
    pub(crate) tables: BTreeMap<&'static str, Vec<CommitBody>>,
    /// Files by object path.
    pub(crate) files: BTreeMap<String, Bytes>,
}

impl History {
    /// Four decisions of one Kafka partition: declared at 5, then 10, 5 and 4 records; 15 rows, 2 of 4 decisions
    /// with rejected records, 2 in quarantine.
    pub(crate) fn good() -> Self {
        let mut history = Self { tables: BTreeMap::new(), files: BTreeMap::new() };
        history.decide(1, DATASET, Some(range(5, 5, 0)), RowCounts::default());
        history.decide(1, QUARANTINE, None, RowCounts::default());
        let first = RowCounts {
            input: 10,
            output: 8,
            rejected: BTreeMap::from([("known".to_owned(), 1)]),
            dropped: BTreeMap::from([("departed".to_owned(), 1)]),
            ..RowCounts::default()
        };
        history.decide(2, DATASET, Some(range(5, 20, 10)), first);
        history.decide(2, QUARANTINE, None, RowCounts { input: 1, output: 1, ..RowCounts::default() });
        history.decide(
            3,
            DATASET,
            Some(range(20, 30, 5)),
            RowCounts { input: 5, output: 5, ..RowCounts::default() },
        );
        let last = RowCounts {
            input: 4,
            output: 2,
            rejected: BTreeMap::from([("undecodable".to_owned(), 1)]),
            filtered: 1,
            ..RowCounts::default()
        };
        history.decide(4, DATASET, Some(range(30, 40, 4)), last);
        history.decide(4, QUARANTINE, None, RowCounts { input: 1, output: 1, ..RowCounts::default() });
        history.file(DATASET, 1, "month=1/a.parquet", "1", 0..3);
        history.file(DATASET, 1, "month=2/b.parquet", "2", 3..8);
        history.file(DATASET, 2, "month=2/c.parquet", "2", 8..13);
        history.file(DATASET, 3, "month=a%20b/d.parquet", "a b", 13..15);
        history.file(QUARANTINE, 1, "q1.parquet", "", 0..1);
        history.file(QUARANTINE, 2, "q2.parquet", "", 1..2);
        history
    }

    fn decide(&mut self, sequence: u64, table: &'static str, range: Option<OffsetRange>, rows: RowCounts) {
        let info = IsobarInfo {
            format: 1,
            topology: "t".into(),
            dataset: table.into(),
            epoch: 1 + sequence / 3,
            sequence,
            commit_id: format!("c{sequence}"),
            members: Vec::new(),
            previous_sha256: if sequence == 1 { NO_PREVIOUS_SHA256.into() } else { "ab".repeat(32) },
            plan: "p".into(),
            models: Vec::new(),
            offsets: Vec::new(),
            rows,
            files: Vec::new(),
        };
        let versions = self.tables.entry(table).or_default();
        let operation = if versions.is_empty() { CommitInfo::CREATE } else { CommitInfo::WRITE };
        let mut body = CommitBody::new(CommitInfo::new(operation, 1000 * sequence as i64, info));
        if versions.is_empty() {
            body = body.create(&definition(table)).unwrap();
        }
        if let Some(range) = range {
            body.advance(range);
        }
        versions.push(body);
    }

    /// Adds a file with the numbers `x` to a version; `object` is its path in the table.
    pub(crate) fn file(
        &mut self,
        table: &'static str,
        version: usize,
        object: &str,
        month: &str,
        x: std::ops::Range<i64>,
    ) {
        let rows = x.end.abs_diff(x.start);
        let bytes = if table == QUARANTINE { quarantine_parquet(x) } else { parquet(x) };
        self.file_of(table, version, object, month, rows, bytes);
    }

    /// Adds a file of these bytes, with this many rows.
    pub(crate) fn file_of(
        &mut self,
        table: &'static str,
        version: usize,
        object: &str,
        month: &str,
        rows: u64,
        bytes: Bytes,
    ) {
        let body = &mut self.tables.get_mut(table).unwrap()[version];
        let digest = FileDigest {
            path: isobar_connectors::delta::path::encode_log_path(object),
            size: bytes.len() as u64,
            sha256: sha256_hex(&bytes),
            rows,
        };
        let values = match table {
            DATASET => BTreeMap::from([("month".to_owned(), Some(month.to_owned()))]),
            _ => BTreeMap::new(),
        };
        body.add_file(digest, values, format!("{{\"numRecords\":{rows}}}"));
        self.files.insert(format!("datasets/{table}/{object}"), bytes);
    }

    /// The maintenance entry that follows in the dataset, without its files.
    pub(crate) fn maintain(&mut self, after: u64, work: MaintenanceWork) -> &mut CommitBody {
        let versions = self.tables.get_mut(DATASET).unwrap();
        let mut info = versions.last().unwrap().info.isobar.clone();
        info.sequence += 1;
        info.commit_id = format!("c{}", info.sequence);
        (info.offsets, info.rows, info.files) = (Vec::new(), RowCounts::default(), Vec::new());
        let timestamp_ms = 1000 * info.sequence as i64;
        let maintenance = Maintenance { after, work };
        versions.push(CommitBody::new(CommitInfo::maintaining(&maintenance, timestamp_ms, info)));
        versions.last_mut().unwrap()
    }

    /// Redrives both quarantined rows in version 4 of the dataset and 3 of the quarantine: one lands, one is rejected again.
    pub(crate) fn redrive(&mut self) {
        let sequence = self.tables[DATASET].last().unwrap().info.isobar.sequence + 1;
        let landed = RowCounts {
            input: 2,
            output: 1,
            rejected: BTreeMap::from([("known".to_owned(), 1)]),
            ..RowCounts::default()
        };
        let rejected = RowCounts { input: 1, output: 1, ..RowCounts::default() };
        let taken = Redrive::Taken { after: 0, kept: 0, rows: 2 };
        for (table, redrive, rows) in
            [(DATASET, Redrive::Landed { rows: 2 }, landed), (QUARANTINE, taken, rejected)]
        {
            let versions = self.tables.get_mut(table).unwrap();
            let mut info = versions.last().unwrap().info.isobar.clone();
            (info.sequence, info.commit_id) = (sequence, format!("c{sequence}"));
            (info.offsets, info.rows, info.files) = (Vec::new(), rows, Vec::new());
            let timestamp_ms = 1000 * sequence as i64;
            versions.push(CommitBody::new(CommitInfo::redriving(&redrive, timestamp_ms, info)));
        }
        for path in ["q1.parquet", "q2.parquet"] {
            self.quarantine_version(3).remove_file(path.into(), 1, BTreeMap::new());
        }
        self.file(DATASET, 4, "month=3/r.parquet", "3", 15..16);
        self.file(QUARANTINE, 3, "q3.parquet", "", 0..1);
    }

    /// A version of the quarantine, to be broken.
    pub(crate) fn quarantine_version(&mut self, version: usize) -> &mut CommitBody {
        &mut self.tables.get_mut(QUARANTINE).unwrap()[version]
    }

    /// Accepts, in the version that follows in the dataset, that offsets 40 up to `to` are not read.
    pub(crate) fn accept_gap(&mut self, to: i64) {
        let versions = self.tables.get_mut(DATASET).unwrap();
        let mut info = versions.last().unwrap().info.isobar.clone();
        info.sequence += 1;
        info.commit_id = format!("c{}", info.sequence);
        (info.offsets, info.rows, info.files) = (Vec::new(), RowCounts::default(), Vec::new());
        let timestamp_ms = 1000 * info.sequence as i64;
        let reason = "outage of 3 May".to_owned();
        let gap = AcceptedGap { topic: "flights".into(), partition: 0, from: 40, to, reason };
        let mut body = CommitBody::new(CommitInfo::accepting(&gap, timestamp_ms, info));
        body.advance(range(40, to, 0));
        versions.push(body);
    }

    /// Gives the dataset the columns of [`nested_rows`] with the fields `a` and `b`, from the beginning.
    pub(crate) fn nest(&mut self) {
        let mut fields = vec![Arc::new(Field::new("month", DataType::Utf8, true))];
        fields.extend(nested_rows(0, &["a", "b"]).schema().fields().iter().cloned());
        let metadata = self.version(0).metadata.as_mut().unwrap();
        metadata.schema_string = to_delta(&Schema::new(fields)).unwrap();
    }

    /// Adds a file with two rows of [`nested_rows`] to version 3 of the dataset.
    pub(crate) fn nested_file(&mut self, x: i64, names: &[&str]) {
        let body = self.version(3);
        let rows = &mut body.info.isobar.rows;
        (rows.input, rows.output) = (rows.input + 2, rows.output + 2);
        let range = &mut body.info.isobar.offsets[0];
        (range.records, range.end) = (range.records + 2, range.end + 2);
        body.txns[0].version = range.end;
        let bytes = written(&nested_rows(x, names));
        self.file_of(DATASET, 3, &format!("month=1/{x}.parquet"), "1", 2, bytes);
    }

    /// Appends a column `y` in version 4 of the dataset, and decides a row with it in version 5.
    pub(crate) fn evolve(&mut self) {
        let was = self.version(0).metadata.clone().unwrap();
        let mut definition = definition(DATASET);
        let mut fields = definition.schema.fields().to_vec();
        fields.push(Arc::new(Field::new("y", DataType::Int64, false)));
        definition.schema = Arc::new(Schema::new(fields));
        let wanted = definition.metadata().unwrap();
        let update = SchemaUpdate::new(0, &differences(&was, &wanted).unwrap());
        let versions = self.tables.get_mut(DATASET).unwrap();
        let mut info = versions.last().unwrap().info.isobar.clone();
        info.sequence += 1;
        info.commit_id = format!("c{}", info.sequence);
        (info.offsets, info.rows, info.files) = (Vec::new(), RowCounts::default(), Vec::new());
        let timestamp_ms = 1000 * info.sequence as i64;
        let mut body = CommitBody::new(CommitInfo::evolving(&update, timestamp_ms, info.clone()));
        body.metadata = Some(evolved(&was, &wanted).unwrap());
        versions.push(body);
        let rows = RowCounts { input: 1, output: 1, ..RowCounts::default() };
        self.decide(info.sequence + 1, DATASET, Some(range(40, 41, 1)), rows);
        self.file_of(DATASET, 5, "month=1/y.parquet", "1", 1, parquet_of(&["y", "x"]));
    }

    /// Combines both files of `month=2` in version 4.
    pub(crate) fn compact(&mut self) {
        let body = self.maintain(0, MaintenanceWork::Optimize { rows: 10 });
        for path in ["month=2/b.parquet", "month=2/c.parquet"] {
            body.remove_file(path.into(), 1, BTreeMap::from([("month".to_owned(), Some("2".to_owned()))]));
        }
        self.file(DATASET, 4, "month=2/e.parquet", "2", 3..13);
    }

    /// A version of the dataset, to be broken.
    pub(crate) fn version(&mut self, version: usize) -> &mut CommitBody {
        &mut self.tables.get_mut(DATASET).unwrap()[version]
    }

    /// The one range of a version of the dataset, to be broken.
    pub(crate) fn range(&mut self, version: usize) -> &mut OffsetRange {
        &mut self.version(version).info.isobar.offsets[0]
    }

    /// Every object of the history, with each body naming the one before it.
    pub(crate) fn objects(&self) -> BTreeMap<Path, Bytes> {
        let mut objects: BTreeMap<Path, Bytes> =
            self.files.iter().map(|(path, bytes)| (Path::parse(path).unwrap(), bytes.clone())).collect();
        for (table, versions) in &self.tables {
            let mut previous = NO_PREVIOUS_SHA256.to_owned();
            for (version, body) in versions.iter().enumerate() {
                let mut body = body.clone();
                body.info.isobar.previous_sha256 = previous;
                let bytes = encode(&body);
                previous = sha256_hex(&bytes);
                objects.insert(published_path(table, version as u64), bytes);
            }
        }
        objects
    }

    /// The history in `clouds` stores in memory, named a, b, c.
    pub(crate) async fn store(&self, clouds: usize) -> Vec<Cloud> {
        let mut stored = Vec::new();
        for name in ["a", "b", "c"].into_iter().take(clouds) {
            let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
            for (path, bytes) in self.objects() {
                store.put(&path, bytes.into()).await.unwrap();
            }
            stored.push(Cloud::new(name, store.clone(), store));
        }
        stored
    }
}

fn definition(table: &str) -> TableDefinition {
    let mut fields = vec![Field::new("x", DataType::Int64, true)];
    if table == DATASET {
        // First in the table and last in a scan: the order must not get lost.
        fields.insert(0, Field::new("month", DataType::Utf8, true));
    } else {
        fields.push(Field::new("topic", DataType::Utf8, true));
        fields.push(Field::new("partition", DataType::Int32, true));
        fields.push(Field::new("offset", DataType::Int64, true));
    }
    TableDefinition {
        id: format!("id of {table}"),
        name: table.into(),
        description: None,
        schema: Arc::new(Schema::new(fields)),
        partition_by: if table == DATASET { vec!["month".into()] } else { Vec::new() },
        created_ms: 7,
    }
}

fn range(start: i64, end: i64, records: u64) -> OffsetRange {
    OffsetRange {
        cluster: "k".into(),
        topic: "flights".into(),
        topic_id: "id".into(),
        partition: 0,
        start,
        end,
        records,
        last_fingerprint: (records > 0).then(|| "ef".repeat(32)),
    }
}

/// The same with the positions of a quarantine: the numbers are offsets as well.
fn quarantine_parquet(x: std::ops::Range<i64>) -> Bytes {
    let numbers = Arc::new(Int64Array::from_iter_values(x));
    let rows = numbers.len();
    let batch = RecordBatch::try_from_iter([
        ("x", numbers.clone() as ArrayRef),
        ("topic", Arc::new(StringArray::from(vec!["flights"; rows]))),
        ("partition", Arc::new(Int32Array::from(vec![0; rows]))),
        ("offset", numbers),
    ]);
    written(&batch.unwrap())
}

/// A Parquet file with one column `x`.
pub(crate) fn parquet(x: std::ops::Range<i64>) -> Bytes {
    let schema = Arc::new(Schema::new(vec![Field::new("x", DataType::Int64, true)]));
    let batch =
        RecordBatch::try_new(schema.clone(), vec![Arc::new(Int64Array::from_iter_values(x))]).unwrap();
    written(&batch)
}

/// A Parquet file with one row of these columns, none of which may be null.
pub(crate) fn parquet_of(columns: &[&str]) -> Bytes {
    let fields = columns.iter().map(|name| Field::new(*name, DataType::Int64, false));
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let arrays = columns.iter().map(|_| Arc::new(Int64Array::from(vec![1])) as ArrayRef);
    written(&RecordBatch::try_new(schema, arrays.collect()).unwrap())
}

/// Two rows: `x` and the number after it, and structs with the fields `names`, which are that number: by themselves, where the
/// second one is null, in lists, in maps, and in lists in maps in lists.
pub(crate) fn nested_rows(x: i64, names: &[&str]) -> RecordBatch {
    let number: ArrayRef = Arc::new(Int64Array::from(vec![x, x + 1]));
    let fields: Fields = names.iter().map(|name| Field::new(*name, DataType::Int64, true)).collect();
    let numbers = vec![number.clone(); names.len()];
    let structs: ArrayRef = Arc::new(StructArray::new(fields.clone(), numbers.clone(), None));
    let second_null = Some(NullBuffer::from(vec![true, false]));
    let one_each = || OffsetBuffer::from_lengths([1, 1]);
    let list = |values: &ArrayRef| -> ArrayRef {
        let element = Arc::new(Field::new("element", values.data_type().clone(), true));
        Arc::new(ListArray::new(element, one_each(), values.clone(), None))
    };
    let map = |values: &ArrayRef| -> ArrayRef {
        let value = Field::new("value", values.data_type().clone(), true);
        let pair = Fields::from(vec![Field::new("key", DataType::Utf8, false), value]);
        let keys: ArrayRef = Arc::new(StringArray::from(vec!["k"; 2]));
        let pairs = StructArray::new(pair.clone(), vec![keys, values.clone()], None);
        let entries = Arc::new(Field::new("key_value", DataType::Struct(pair), false));
        Arc::new(MapArray::new(entries, one_each(), pairs, None, false))
    };
    let columns: [(&str, ArrayRef); 5] = [
        ("x", number),
        ("s", Arc::new(StructArray::new(fields, numbers, second_null))),
        ("items", list(&structs)),
        ("rates", map(&structs)),
        ("deep", list(&map(&list(&structs)))),
    ];
    let columns = columns.into_iter().map(|(name, column)| (name, column, true));
    RecordBatch::try_from_iter_with_nullable(columns).unwrap()
}

fn written(batch: &RecordBatch) -> Bytes {
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), None).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
    bytes.into()
}

/// The real encoder's bytes; for a body that it refuses, the bytes that a careless writer would have written.
pub(crate) fn encode(body: &CommitBody) -> Bytes {
    body.to_bytes().unwrap_or_else(|_| {
        let body = body.clone();
        let actions = std::iter::once(Action::CommitInfo(body.info))
            .chain(body.protocol.map(Action::Protocol))
            .chain(body.metadata.map(Action::MetaData))
            .chain(body.txns.into_iter().map(Action::Txn))
            .chain(body.adds.into_iter().map(Action::Add))
            .chain(body.removes.into_iter().map(Action::Remove));
        let lines = actions.map(|action| serde_json::to_string(&action).unwrap() + "\n");
        lines.collect::<String>().into()
    })
}

/// The path of an object of the dataset by its path in the log.
pub(crate) fn file_path(log_path: &str) -> Path {
    Path::parse(format!("datasets/{DATASET}/{}", decode_log_path(log_path).unwrap())).unwrap()
}
