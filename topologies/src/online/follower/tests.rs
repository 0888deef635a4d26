use std::collections::BTreeMap;

use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use isobar_connectors::delta::body::{INFO_FORMAT, NO_PREVIOUS_SHA256};
use isobar_connectors::delta::{
    CommitBody, CommitInfo, FileDigest, IsobarInfo, Maintenance, MaintenanceWork, TableDefinition,
};
use isobar_schemas::RowCounts;

use super::*;
use crate::prove::log::parse_entry;

fn info(rows: u64) -> IsobarInfo {
    IsobarInfo {
        format: INFO_FORMAT,
        topology: "t".into(),
        dataset: "d".into(),
        epoch: 1,
        sequence: 1,
        commit_id: "c".into(),
        members: Vec::new(),
        previous_sha256: "cd".repeat(32),
        plan: "ab".repeat(32),
        models: Vec::new(),
        offsets: Vec::new(),
        rows: RowCounts { input: rows, output: rows, ..RowCounts::default() },
        files: Vec::new(),
    }
}

fn with_file(mut body: CommitBody, name: &str) -> CommitBody {
    let digest = FileDigest { path: name.into(), size: 10, sha256: "5".repeat(64), rows: 3 };
    body.add_file(digest, BTreeMap::new(), "{\"numRecords\":3}".into());
    body
}

fn version(number: u64, body: &CommitBody) -> Version {
    let entry = parse_entry(&body.to_bytes().unwrap()).unwrap();
    let applied = Applied { version: number, sha256: "ab".repeat(32), committed_ms: 5 };
    Version { applied, entry: Arc::new(entry) }
}

fn added(number: u64) -> Version {
    version(number, &with_file(CommitBody::new(CommitInfo::new(CommitInfo::WRITE, 5, info(3))), "a.parquet"))
}

fn maintained(number: u64, work: MaintenanceWork) -> Version {
    let mut body = CommitBody::new(CommitInfo::maintaining(&Maintenance { after: 0, work }, 5, info(0)));
    if let MaintenanceWork::Optimize { .. } = work {
        body = with_file(body, "b.parquet");
        body.remove_file("a.parquet".into(), 10, BTreeMap::new());
    }
    version(number, &body)
}

/// A table of `k`, `at` and these columns.
fn table(features: &[&str]) -> Schema {
    let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let mut fields = vec![Field::new("k", DataType::Int64, true), Field::new("at", time, true)];
    fields.extend(features.iter().map(|name| Field::new(*name, DataType::Int64, true)));
    Schema::new(fields)
}

fn created(number: u64, features: &[&str]) -> Version {
    let definition = TableDefinition {
        id: "6b0f0e3c-6a3f-4b39-9b1a-2d6f2f2f8a10".into(),
        name: "d".into(),
        description: None,
        schema: Arc::new(table(features)),
        partition_by: Vec::new(),
        created_ms: 0,
    };
    let first = IsobarInfo { previous_sha256: NO_PREVIOUS_SHA256.to_owned(), ..info(0) };
    let body = CommitBody::new(CommitInfo::new(CommitInfo::CREATE, 5, first));
    version(number, &body.create(&definition).unwrap())
}

fn spec(features: Option<&[&str]>) -> OnlineSpec {
    OnlineSpec {
        dataset: "d".into(),
        keys: vec!["k".into()],
        time: "at".into(),
        known: None,
        sequence: Vec::new(),
        ttl: None,
        features: features.map(|features| features.iter().map(|name| (*name).to_owned()).collect()),
    }
}

/// The versions that are followed, or why the first is not, by a store of a table with the feature `x`.
fn follow(versions: Vec<Version>, spec: &OnlineSpec) -> Result<Vec<u64>, String> {
    let fingerprint = Layout::new(spec, &table(&["x"])).unwrap().fingerprint().to_owned();
    match followed(versions, spec, &fingerprint) {
        Next::Nothing => Ok(Vec::new()),
        Next::Versions(versions) => Ok(versions.iter().map(|version| version.applied.version).collect()),
        Next::Rebuild(why) => Err(why),
    }
}

#[test]
fn commits_and_maintenance_are_followed_and_only_rows_that_are_new_are_read() {
    let optimize = MaintenanceWork::Optimize { rows: 3 };
    let history = || {
        vec![
            added(1),
            maintained(2, optimize),
            maintained(3, MaintenanceWork::Vacuum { through: 2 }),
            added(4),
        ]
    };
    assert_eq!(follow(history(), &spec(None)), Ok(vec![1, 2, 3, 4]));
    let files: Vec<usize> =
        history().iter().map(|version| added_files(&version.entry).unwrap().len()).collect();
    assert_eq!(files, [1, 0, 0, 1]);
    let file = added_files(&added(1).entry).unwrap().remove(0);
    assert_eq!((file.path.as_str(), file.size, file.rows), ("a.parquet", 10, Some(3)));
    assert_eq!(file.sha256, Some("5".repeat(64)));
}

#[test]
fn a_version_that_takes_rows_away_ends_what_can_be_followed() {
    let taken = || {
        let mut body = CommitBody::new(CommitInfo::new(CommitInfo::WRITE, 5, info(0)));
        body.remove_file("a.parquet".into(), 10, BTreeMap::new());
        version(2, &body)
    };
    assert_eq!(follow(vec![added(1), taken(), added(3)], &spec(None)), Ok(vec![1]));
    let why = follow(vec![taken(), added(3)], &spec(None)).unwrap_err();
    assert_eq!(why, "version 2: rows were taken out of the dataset");
}

#[test]
fn other_columns_matter_only_to_a_view_that_has_them() {
    let named = spec(Some(&["x"]));
    assert_eq!(follow(vec![created(1, &["x", "y"]), added(2)], &named), Ok(vec![1, 2]));
    assert_eq!(follow(vec![created(1, &["x"])], &spec(None)), Ok(vec![1]));
    let why = follow(vec![created(1, &["x", "y"])], &spec(None)).unwrap_err();
    assert_eq!(why, "version 1: the dataset has other columns now");
    let why = follow(vec![created(1, &["y"])], &named).unwrap_err();
    assert!(why.contains("no column x"), "{why}");
}
