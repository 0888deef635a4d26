use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use arrow::array::Int64Array;
use arrow::datatypes::{DataType, Field, Schema};
use arrow::json::WriterBuilder;
use arrow::json::writer::LineDelimited;
use arrow::record_batch::RecordBatch;
use isobar_schemas::RowCounts;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::file::reader::{FileReader, SerializedFileReader};
use serde_json::{Value, json};

use super::*;
use crate::delta::body::NO_PREVIOUS_SHA256;
use crate::delta::evolution::{differences, evolved};
use crate::delta::{
    Action, Add, CommitBody, CommitInfo, FileDigest, IsobarInfo, Metadata, Remove, SchemaUpdate,
    TableDefinition, Txn, parse_body, sha256_hex,
};

/// The bodies of a table, each following the one before.
struct History {
    bodies: Vec<Bytes>,
}

impl History {
    fn new() -> Self {
        let schema = Schema::new(vec![
            Field::new("delay", DataType::Int64, true),
            Field::new("month", DataType::Utf8, true),
        ]);
        let table = TableDefinition {
            id: "6b0f0e3c-6a3f-4b39-9b1a-2d6f2f2f8a10".into(),
            name: "features".into(),
            description: None,
            schema: Arc::new(schema),
            partition_by: vec!["month".into()],
            created_ms: 1_700_000_000_000,
        };
        let mut history = Self { bodies: Vec::new() };
        let body = history.next_body(CommitInfo::CREATE).create(&table).unwrap();
        history.bodies.push(body.to_bytes().unwrap());
        history
    }

    fn next_body(&self, operation: &str) -> CommitBody {
        let version = self.bodies.len() as u64;
        let isobar = IsobarInfo {
            format: 1,
            topology: "lab".into(),
            dataset: "features".into(),
            epoch: 1,
            sequence: version + 1,
            commit_id: format!("c{version}"),
            members: vec![],
            previous_sha256: self
                .bodies
                .last()
                .map_or(NO_PREVIOUS_SHA256.to_string(), |bytes| sha256_hex(bytes)),
            plan: "11".repeat(32),
            models: Vec::new(),
            offsets: vec![],
            rows: RowCounts::default(),
            files: vec![],
        };
        CommitBody::new(CommitInfo::new(operation, 1_700_000_000_000 + version as i64, isobar))
    }

    fn commit(&mut self, change: impl FnOnce(&mut CommitBody)) {
        let mut body = self.next_body(CommitInfo::WRITE);
        change(&mut body);
        self.bodies.push(body.to_bytes().unwrap());
    }

    /// Many files, of which some are removed later, and some of those come back.
    fn long() -> Self {
        let mut history = Self::new();
        let path = |version: usize, file: usize| format!("month={}/p-{version}-{file}.parquet", version % 12);
        for version in 1..40 {
            history.commit(|body| {
                body.set_position(format!("lab/k/t/{}", version % 4), version as i64);
                (0..400).for_each(|file| add(body, &path(version, file), Some("m"), version as u64));
                if version > 2 {
                    (0..100).for_each(|file| remove(body, &path(version - 2, file)));
                }
                if version > 5 {
                    (0..10).for_each(|file| add(body, &path(version - 4, file), None, 7));
                }
            });
        }
        history
    }
}

fn add(body: &mut CommitBody, path: &str, month: Option<&str>, rows: u64) {
    let digest = FileDigest { path: path.into(), size: 100 + rows, sha256: "ab".repeat(32), rows };
    let values = [("month".to_string(), month.map(str::to_string))].into();
    body.add_file(digest, values, format!(r#"{{"numRecords":{rows},"maxValues":{{"delay":"{path}"}}}}"#));
}

fn remove(body: &mut CommitBody, path: &str) {
    body.removes.push(Remove {
        path: path.into(),
        deletion_timestamp: Some(body.info.timestamp_ms),
        data_change: true,
        extended_file_metadata: Some(true),
        partition_values: Some([("month".to_string(), Some("m".to_string()))].into()),
        size: Some(5),
    });
}

fn checkpoint(previous: Option<&Bytes>, bodies: &[Bytes]) -> (Bytes, CheckpointSummary) {
    let mut sink = Vec::new();
    let summary = write_checkpoint(previous.cloned(), bodies.iter().cloned().map(Ok), &mut sink).unwrap();
    (sink.into(), summary)
}

/// The rows as the lines of a body: the one column that is not null, with every field of it.
fn read(bytes: &Bytes) -> Vec<Value> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes.clone()).unwrap().build().unwrap();
    let mut writer =
        WriterBuilder::new().with_explicit_nulls(true).build::<Vec<u8>, LineDelimited>(Vec::new());
    for batch in reader {
        writer.write(&batch.unwrap()).unwrap();
    }
    writer.finish().unwrap();
    let text = String::from_utf8(writer.into_inner()).unwrap();
    text.lines()
        .map(|line| {
            let mut action: Value = serde_json::from_str(line).unwrap();
            action.as_object_mut().unwrap().retain(|_, column| !column.is_null());
            assert_eq!(action.as_object().unwrap().len(), 1, "{line}");
            action
        })
        .collect()
}

/// The file actions that a checkpoint of `bodies` must have, by replaying their JSON in the plainest way.
fn replayed(bodies: &[Bytes]) -> Vec<Value> {
    let mut newest = BTreeMap::new();
    let lines = bodies.iter().flat_map(|bytes| std::str::from_utf8(bytes).unwrap().lines());
    for (number, line) in lines.enumerate() {
        let mut action: Value = serde_json::from_str(line).unwrap();
        for kind in ["add", "remove"] {
            if action.get(kind).is_some() {
                action[kind]["dataChange"] = json!(false);
                newest.insert(action[kind]["path"].as_str().unwrap().to_string(), (number, action.clone()));
            }
        }
    }
    let mut newest: Vec<_> = newest.into_values().collect();
    newest.sort_by_key(|(number, _)| *number);
    newest.into_iter().map(|(_, action)| action).collect()
}

#[test]
fn a_checkpoint_holds_the_newest_action_on_every_file_and_the_newest_positions() {
    let mut history = History::new();
    history.commit(|body| {
        add(body, "month=1/a", Some("1"), 1);
        add(body, "month=__HIVE_DEFAULT_PARTITION__/b", None, 2);
        body.set_position("lab/k/t/0".into(), 10);
        body.set_position("lab/k/t/1".into(), 3);
    });
    history.commit(|body| {
        add(body, "month=1/c", Some("1"), 3);
        remove(body, "month=1/a");
        remove(body, "month=1/z");
    });
    history.commit(|body| {
        add(body, "month=1/a", Some("1"), 7);
        remove(body, "month=__HIVE_DEFAULT_PARTITION__/b");
        body.set_position("lab/k/t/0".into(), 12);
    });
    history.commit(|body| add(body, "month=1/c", None, 8));

    let (bytes, summary) = checkpoint(None, &history.bodies);
    let schema = r#"{"type":"struct","fields":[{"name":"delay","type":"long","nullable":true,"metadata":{}},{"name":"month","type":"string","nullable":true,"metadata":{}}]}"#;
    let txn = |app_id: &str, version: i64, at: i64| json!({"txn": {"appId": app_id, "version": version, "lastUpdated": 1_700_000_000_000_i64 + at}});
    let add = |path: &str, month: Option<&str>, rows: i64, at: i64| {
        json!({"add": {
            "path": path, "partitionValues": {"month": month}, "size": 100 + rows,
            "modificationTime": 1_700_000_000_000_i64 + at, "dataChange": false,
            "stats": format!(r#"{{"numRecords":{rows},"maxValues":{{"delay":"{path}"}}}}"#),
        }})
    };
    let remove = |path: &str, at: i64| {
        json!({"remove": {
            "path": path, "deletionTimestamp": 1_700_000_000_000_i64 + at, "dataChange": false,
            "extendedFileMetadata": true, "partitionValues": {"month": "m"}, "size": 5,
        }})
    };
    assert_eq!(
        read(&bytes),
        [
            json!({"protocol": {
                "minReaderVersion": 1, "minWriterVersion": 7,
                "readerFeatures": null, "writerFeatures": ["inCommitTimestamp"],
            }}),
            json!({"metaData": {
                "id": "6b0f0e3c-6a3f-4b39-9b1a-2d6f2f2f8a10", "name": "features", "description": null,
                "format": {"provider": "parquet", "options": {}}, "schemaString": schema,
                "partitionColumns": ["month"],
                "configuration": {"delta.enableInCommitTimestamps": "true"},
                "createdTime": 1_700_000_000_000_i64,
            }}),
            txn("lab/k/t/0", 12, 3),
            txn("lab/k/t/1", 3, 1),
            remove("month=1/z", 2),
            add("month=1/a", Some("1"), 7, 3),
            remove("month=__HIVE_DEFAULT_PARTITION__/b", 3),
            add("month=1/c", None, 8, 4),
        ]
    );
    assert_eq!((summary.actions, summary.adds), (8, 2));
    assert_eq!((summary.size, summary.sha256), (bytes.len() as u64, sha256_hex(&bytes)));
}

#[test]
fn a_long_history_is_reconciled_as_by_plain_replay() {
    let history = History::long();
    let (bytes, summary) = checkpoint(None, &history.bodies);
    let rows = read(&bytes);
    let due = replayed(&history.bodies);
    assert!(due.len() > 3 * encoder::BATCH_ROWS, "{} rows", due.len());
    assert_eq!(rows[6..], due, "after protocol, metaData and four positions");
    assert_eq!(summary.actions, rows.len() as u64);
    assert_eq!(summary.adds, rows.iter().filter(|row| row.get("add").is_some()).count() as u64);
}

#[test]
fn a_checkpoint_on_a_checkpoint_is_the_same_bytes_as_one_from_scratch() {
    let bodies = History::long().bodies;
    let (whole, summary) = checkpoint(None, &bodies);
    assert_eq!(checkpoint(None, &bodies), (whole.clone(), summary.clone()), "the same twice");
    for cut in [1, 2, 7, 20, bodies.len() - 1, bodies.len()] {
        let (first, _) = checkpoint(None, &bodies[..cut]);
        let (second, second_summary) = checkpoint(Some(&first), &bodies[cut..]);
        assert_eq!(second_summary, summary, "previous checkpoint after {cut} bodies");
        assert!(second == whole, "previous checkpoint after {cut} bodies");
    }
    let mut latest = None;
    for some in bodies.chunks(6) {
        latest = Some(checkpoint(latest.as_ref(), some).0);
    }
    assert!(latest == Some(whole), "a chain of checkpoints");
}

#[test]
fn batches_and_row_groups_of_large_rows_end_by_size() {
    let mut history = History::new();
    for version in 0..16 {
        history.commit(|body| {
            for file in 0..5 {
                let path = format!("month=1/p-{version}-{file}");
                add(body, &path, Some("1"), 1);
                let stats =
                    format!(r#"{{"numRecords":1,"maxValues":{{"delay":"{}"}}}}"#, "x".repeat(1 << 20));
                body.adds.last_mut().unwrap().stats = Some(stats);
            }
        });
    }
    let (whole, _) = checkpoint(None, &history.bodies);
    let groups = SerializedFileReader::new(whole.clone()).unwrap().num_row_groups();
    assert_eq!(groups, 2, "80 MiB of statistics");
    assert_eq!(read(&whole)[2..], replayed(&history.bodies));
    for cut in [3, 13] {
        let (first, _) = checkpoint(None, &history.bodies[..cut]);
        assert!(checkpoint(Some(&first), &history.bodies[cut..]).0 == whole, "cut at {cut}");
    }
}

#[test]
fn the_schema_is_the_newest_one_however_the_checkpoint_is_built_up() {
    let mut history = History::new();
    history.commit(|body| add(body, "month=1/a", None, 1));
    let was = parse_body(&history.bodies[0]).unwrap().metadata.unwrap();
    let wanted = Metadata { description: Some("delays".into()), ..was.clone() };
    let update = SchemaUpdate::new(0, &differences(&was, &wanted).unwrap());
    let CommitInfo { timestamp_ms, isobar, .. } = history.next_body(SchemaUpdate::OPERATION).info;
    let mut body = CommitBody::new(CommitInfo::evolving(&update, timestamp_ms, isobar));
    body.metadata = Some(evolved(&was, &wanted).unwrap());
    history.bodies.push(body.to_bytes().unwrap());
    history.commit(|body| add(body, "month=1/b", None, 1));
    let (whole, _) = checkpoint(None, &history.bodies);
    let rows = read(&whole);
    assert_eq!(rows[1]["metaData"]["description"], "delays");
    assert_eq!(rows.len(), 4);
    for cut in 1..history.bodies.len() {
        let (first, _) = checkpoint(None, &history.bodies[..cut]);
        assert!(checkpoint(Some(&first), &history.bodies[cut..]).0 == whole, "cut at {cut}");
    }
}

#[test]
fn the_columns_are_those_of_the_protocol() {
    let (bytes, _) = checkpoint(None, &History::new().bodies);
    let reader = SerializedFileReader::new(bytes).unwrap();
    let metadata = reader.metadata().file_metadata();
    let columns: Vec<String> =
        metadata.schema_descr().columns().iter().map(|column| column.path().string()).collect();
    let due = "txn.appId txn.version txn.lastUpdated \
        add.path add.partitionValues.key_value.key add.partitionValues.key_value.value add.size \
        add.modificationTime add.dataChange add.stats \
        remove.path remove.deletionTimestamp remove.dataChange remove.extendedFileMetadata \
        remove.partitionValues.key_value.key remove.partitionValues.key_value.value remove.size \
        metaData.id metaData.name metaData.description metaData.format.provider \
        metaData.format.options.key_value.key metaData.format.options.key_value.value \
        metaData.schemaString metaData.partitionColumns.list.element \
        metaData.configuration.key_value.key metaData.configuration.key_value.value metaData.createdTime \
        protocol.minReaderVersion protocol.minWriterVersion protocol.readerFeatures.list.element \
        protocol.writerFeatures.list.element";
    assert_eq!(columns, due.split_whitespace().collect::<Vec<_>>());
    assert_eq!(metadata.created_by(), Some("isobar version 1 (build 1)"));
    assert!(metadata.key_value_metadata().is_none());
}

#[test]
fn bodies_that_do_not_follow_each_other_give_no_checkpoint() {
    let mut history = History::new();
    (0..3).for_each(|file| history.commit(|body| add(body, &format!("month=1/{file}"), None, 1)));
    let bodies = &history.bodies;
    let (first, _) = checkpoint(None, &bodies[..1]);
    let refused = |previous: Option<&Bytes>, bodies: &[&Bytes], reason: &str| {
        let mut sink = Vec::new();
        let bodies = bodies.iter().map(|bytes| Ok(Bytes::clone(bytes)));
        let error = write_checkpoint(previous.cloned(), bodies, &mut sink).expect_err(reason);
        assert!(matches!(error, Error::LogEntry(_)) && error.to_string().contains(reason), "{error}");
        assert!(sink.is_empty());
    };
    refused(None, &[], "creates the table");
    refused(None, &[&bodies[1], &bodies[2]], "names a previous body");
    refused(None, &[&bodies[0], &bodies[2]], "hash chain");
    refused(Some(&first), &[&bodies[1], &bodies[3]], "hash chain");
    refused(Some(&first), &[&bodies[1].slice(..bodies[1].len() - 1)], "newline");

    let unread = || Err(Error::Schema("not read".into()));
    let result = write_checkpoint(Some(first), [Ok(bodies[1].clone()), unread()], Vec::new());
    assert!(matches!(result, Err(Error::Schema(_))));
}

/// A file with the columns of a checkpoint and these rows.
fn file_of(actions: &[Action]) -> Bytes {
    let mut sink = Vec::new();
    let mut encoder = Encoder::new(&mut sink).unwrap();
    encoder.push(layout::rows(actions).unwrap()).unwrap();
    encoder.finish().unwrap();
    sink.into()
}

#[test]
fn a_previous_checkpoint_that_is_none_is_refused() {
    let history = History::new();
    let (good, _) = checkpoint(None, &history.bodies);
    let body = crate::delta::parse_body(&history.bodies[0]).unwrap();
    let (protocol, metadata) =
        (Action::Protocol(body.protocol.unwrap()), Action::MetaData(body.metadata.unwrap()));
    let add = |path: &str| {
        Action::Add(Add {
            path: path.into(),
            partition_values: BTreeMap::new(),
            size: 1,
            modification_time: 1,
            data_change: false,
            stats: None,
            deletion_vector: None,
        })
    };
    let txn = |version| Action::Txn(Txn { app_id: "a".into(), version, last_updated: None });
    let mut foreign_protocol = TableDefinition::protocol();
    foreign_protocol.min_reader_version = 3;

    let number = RecordBatch::try_from_iter([("x", Arc::new(Int64Array::from(vec![1])) as _)]).unwrap();
    let mut foreign = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut foreign, number.schema(), None).unwrap();
    writer.write(&number).unwrap();
    writer.close().unwrap();

    let head = [protocol.clone(), metadata.clone()];
    let with = |more: &[Action]| file_of(&[&head[..], more].concat());
    let files = [
        ("no Parquet", Bytes::from_static(b"PAR1")),
        ("cut off", good.slice(..good.len() - 1)),
        ("other columns", foreign.into()),
        ("no head", file_of(&[add("month=1/a")])),
        ("no metaData", file_of(&[protocol.clone(), add("month=1/a")])),
        ("head after the files", with(&[add("month=1/a"), txn(1)])),
        ("protocol twice", with(std::slice::from_ref(&protocol))),
        ("txn twice", with(&[txn(1), txn(2)])),
        ("txn below zero", with(&[txn(-1)])),
        ("foreign protocol", file_of(&[Action::Protocol(foreign_protocol), metadata])),
        ("path outside", with(&[add("../a")])),
    ];
    let fine = write_checkpoint(Some(with(&[txn(1), add("month=1/a")])), [], Vec::new()).unwrap();
    assert_eq!((fine.actions, fine.adds), (4, 1));
    for (what, file) in files {
        let result = write_checkpoint(Some(file), [], Vec::new());
        assert!(matches!(result, Err(Error::LogEntry(_))), "{what}: {result:?}");
    }
}

#[test]
fn a_sink_that_fails_is_an_error() {
    struct Full;
    impl io::Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let bodies = History::new().bodies.into_iter().map(Ok);
    assert!(matches!(write_checkpoint(None::<Bytes>, bodies, Full), Err(Error::Encode { .. })));
}

#[test]
fn the_hint_is_one_line_of_json() {
    let summary = CheckpointSummary { actions: 12, adds: 7, size: 3456, sha256: "ab".repeat(32) };
    assert_eq!(
        last_checkpoint(42, &summary),
        "{\"version\":42,\"size\":12,\"sizeInBytes\":3456,\"numOfAddFiles\":7}\n"
    );
}

#[test]
fn a_checkpoint_read_back_has_the_files_of_its_version() {
    let history = History::long();
    let (bytes, summary) = checkpoint(None, &history.bodies);
    let mut live: BTreeMap<String, Add> = BTreeMap::new();
    for body in history.bodies.iter().map(|body| parse_body(body).unwrap()) {
        for remove in &body.removes {
            live.remove(&remove.path);
        }
        live.extend(body.adds.into_iter().map(|add| (add.path.clone(), Add { data_change: false, ..add })));
    }
    let mut found = BTreeMap::new();
    let state = read_checkpoint(bytes.clone(), |add| assert!(found.insert(add.path.clone(), add).is_none()));
    let state = state.unwrap();
    assert_eq!(found.len() as u64, summary.adds);
    // `protocol`, `metaData` and four positions are neither.
    assert_eq!(state.removed, summary.actions - summary.adds - 6);
    assert!(state.removed > 0);
    // The end of it says the same, and how much of it is needed.
    let size = bytes.len() as u64;
    let end = |count: u64| bytes.slice((size - count) as usize..);
    let Ok(RemovedFiles::Needs(needed)) = removed_files(&end(8), size) else { panic!("8 bytes are too few") };
    assert!(needed > 8 && needed < size);
    assert_eq!(removed_files(&end(needed), size).unwrap(), RemovedFiles::Count(state.removed));
    assert_eq!(removed_files(&bytes, size).unwrap(), RemovedFiles::Count(state.removed));
    assert!(removed_files(&bytes.slice(..bytes.len() - 9), size - 9).is_err());
    assert!(found.values().any(|add| add.partition_values["month"].is_none()));
    assert!(found.values().any(|add| add.partition_values["month"].as_deref() == Some("m")));
    assert_eq!(found, live);
    let created = parse_body(&history.bodies[0]).unwrap().metadata;
    assert_eq!(Some(state.metadata), created);
    // What ends early, or is no Parquet file, is no checkpoint.
    for damaged in [bytes.slice(..bytes.len() - 9), bytes.slice(9..), Bytes::from_static(b"PAR1PAR1")] {
        assert!(read_checkpoint(damaged, |_| ()).is_err());
    }
}
