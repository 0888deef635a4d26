//! Reads a table as any Delta reader would, and shares no code with isobar.
//!
//! The log is taken as lines of JSON, files are read with the Parquet crate's record reader, and every digest, chain
//! link and sum that isobar writes is computed again here.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use percent_encoding::percent_decode_str;
use serde_json::Value as Json;
use sha2::{Digest, Sha256};

use crate::events::{Row, Value};

/// SHA-256 in lowercase hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// One version of a table.
#[derive(Debug, Clone)]
pub struct Version {
    /// Its number.
    pub number: u64,
    /// Its exact bytes.
    pub bytes: Bytes,
    /// Its actions, in order.
    pub actions: Vec<Json>,
}

impl Version {
    /// The actions of one kind.
    pub fn actions<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Json> {
        self.actions.iter().filter_map(move |action| action.get(kind))
    }

    /// The `commitInfo`.
    ///
    /// # Panics
    /// If the first action is another one.
    pub fn info(&self) -> &Json {
        self.actions[0].get("commitInfo").expect("the first action is commitInfo")
    }

    /// isobar's own part of the `commitInfo`.
    pub fn isobar(&self) -> &Json {
        &self.info()["isobar"]
    }

    /// One number of isobar's part.
    ///
    /// # Panics
    /// If it is none.
    pub fn number_of(&self, name: &str) -> u64 {
        self.isobar()[name].as_u64().unwrap_or_else(|| panic!("{name} is a number: {}", self.isobar()))
    }
}

/// Sums of what the versions of a table say became of its records.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Records read.
    pub input: u64,
    /// Rows beyond the first of those that hold several.
    pub expanded: u64,
    /// Rows in the table.
    pub output: u64,
    /// Rejected, by rule or reason.
    pub rejected: BTreeMap<String, u64>,
    /// Dropped, by rule.
    pub dropped: BTreeMap<String, u64>,
    /// Left out by the query.
    pub filtered: u64,
    /// Warned about, by rule.
    pub warned: BTreeMap<String, u64>,
    /// Taken out of the quarantine again, each with one of the fates above once more.
    pub redriven: u64,
}

impl Counts {
    /// The sums as they are after redrives. A record that was rejected and then redriven is counted where it ended;
    /// under which rule it had been rejected, the log no longer says.
    #[must_use]
    pub fn after_redrives(mut self) -> Self {
        let rejected = self.rejected.values().sum::<u64>() - self.redriven;
        self.rejected = [("any rule".to_owned(), rejected)].into();
        self.redriven = 0;
        self
    }
}

/// A table's log.
#[derive(Debug, Clone)]
pub struct Log {
    /// The dataset.
    pub dataset: String,
    /// Its versions, ascending.
    pub versions: Vec<Version>,
}

fn log_folder(dataset: &str) -> Path {
    Path::from(format!("datasets/{dataset}/_delta_log"))
}

/// The number that a log file's name stands for.
fn version_of(location: &Path) -> Option<u64> {
    location.filename()?.strip_suffix(".json")?.parse().ok()
}

/// The newest version of `dataset`; `None` if there is none, or the store does not answer.
pub async fn latest_version(store: &dyn ObjectStore, dataset: &str) -> Option<u64> {
    let listed: Vec<_> = store.list(Some(&log_folder(dataset))).try_collect().await.ok()?;
    listed.iter().filter_map(|object| version_of(&object.location)).max()
}

/// The bytes of an object.
///
/// # Panics
/// If it cannot be read.
pub async fn read_object(store: &dyn ObjectStore, path: &Path) -> Bytes {
    let found = store.get(path).await.unwrap_or_else(|error| panic!("read {path}: {error}"));
    found.bytes().await.unwrap_or_else(|error| panic!("read {path}: {error}"))
}

impl Log {
    /// Reads every version of `dataset`.
    ///
    /// # Panics
    /// If the store does not answer or a line is not JSON.
    pub async fn read(store: &dyn ObjectStore, dataset: &str) -> Self {
        let listed: Vec<_> = match store.list(Some(&log_folder(dataset))).try_collect().await {
            Err(object_store::Error::NotFound { .. }) => Vec::new(),
            listed => listed.unwrap_or_else(|error| panic!("list versions of {dataset}: {error}")),
        };
        let mut versions = Vec::new();
        for object in listed {
            let Some(number) = version_of(&object.location) else { continue };
            let bytes = read_object(store, &object.location).await;
            let text = std::str::from_utf8(&bytes).expect("a version is UTF-8");
            let actions =
                text.lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect();
            versions.push(Version { number, bytes, actions });
        }
        versions.sort_by_key(|version| version.number);
        Self { dataset: dataset.to_owned(), versions }
    }

    /// The next offset per `appId`.
    pub fn app_positions(&self) -> BTreeMap<String, i64> {
        let txns = self.versions.iter().flat_map(|version| version.actions("txn"));
        txns.map(|txn| {
            let app_id = txn["appId"].as_str().expect("appId is text").to_owned();
            (app_id, txn["version"].as_i64().expect("version is a number"))
        })
        .collect()
    }

    /// The next offset per Kafka partition; for tables of one topic.
    pub fn positions(&self) -> BTreeMap<i32, i64> {
        let parsed = self.app_positions().into_iter().map(|(app_id, next)| {
            let partition = app_id.rsplit('/').next().and_then(|last| last.parse().ok());
            (partition.expect("an appId ends in the partition"), next)
        });
        parsed.collect()
    }

    /// The first offset per Kafka partition: where it was declared.
    pub fn starts(&self) -> BTreeMap<i32, i64> {
        let mut starts = BTreeMap::new();
        for range in self.offset_ranges() {
            let partition = range["partition"].as_i64().expect("a partition is a number") as i32;
            starts.entry(partition).or_insert(range["start"].as_i64().expect("a start is a number"));
        }
        starts
    }

    fn offset_ranges(&self) -> impl Iterator<Item = &Json> {
        self.versions.iter().filter_map(|version| version.isobar()["offsets"].as_array()).flatten()
    }

    /// The `add` actions not removed since, by path as the log writes it.
    pub fn live_files(&self) -> BTreeMap<String, &Json> {
        let mut live = BTreeMap::new();
        for action in self.versions.iter().flat_map(|version| &version.actions) {
            if let Some(add) = action.get("add") {
                live.insert(add["path"].as_str().expect("a path is text").to_owned(), add);
            } else if let Some(remove) = action.get("remove") {
                live.remove(remove["path"].as_str().expect("a path is text"));
            }
        }
        live
    }

    /// The objects that the log names: its own versions and the live files.
    pub fn reachable(&self) -> Vec<Path> {
        let folder = log_folder(&self.dataset);
        let versions =
            self.versions.iter().map(|version| folder.clone().join(format!("{:020}.json", version.number)));
        let files = self.live_files();
        let files = files.keys().map(|path| self.object_path(path));
        versions.chain(files).collect()
    }

    /// Where a file of the log lies in a cloud.
    pub fn object_path(&self, log_path: &str) -> Path {
        let decoded = percent_decode_str(log_path).decode_utf8().expect("a path is UTF-8");
        assert!(!decoded.starts_with('/') && !decoded.contains("://"), "{decoded} is relative");
        Path::parse(format!("datasets/{}/{decoded}", self.dataset)).expect("a path is one of the store")
    }

    /// Sums over all versions.
    pub fn counts(&self) -> Counts {
        let mut sum = Counts::default();
        for version in &self.versions {
            let rows = &version.isobar()["rows"];
            let input = rows["in"].as_u64().expect("in is a number");
            match version.info()["operation"] == "REDRIVE" {
                true => sum.redriven += input,
                false => sum.input += input,
            }
            sum.expanded += rows["expanded"].as_u64().unwrap_or_default();
            sum.output += rows["out"].as_u64().expect("out is a number");
            sum.filtered += rows["filtered"].as_u64().expect("filtered is a number");
            let parts =
                [(&mut sum.rejected, "rejected"), (&mut sum.dropped, "dropped"), (&mut sum.warned, "warned")];
            for (sum, name) in parts {
                for (rule, count) in rows[name].as_object().expect("counts by rule are an object") {
                    *sum.entry(rule.clone()).or_default() += count.as_u64().expect("a count is a number");
                }
            }
        }
        sum
    }

    /// The paths, as the log writes them, that were removed up to the version that the last `VACUUM` means.
    pub fn vacuumed_files(&self) -> Vec<String> {
        let through = self.versions.iter().rev().find_map(|version| {
            let info = version.info();
            (info["operation"] == "VACUUM").then(|| {
                let through = info["operationParameters"]["through"].as_str().expect("through is text");
                through.parse::<u64>().expect("through is a number")
            })
        });
        let versions = self.versions.iter().filter(|version| through.is_some_and(|it| version.number <= it));
        let removes = versions.flat_map(|version| version.actions("remove"));
        removes.map(|remove| remove["path"].as_str().expect("a path is text").to_owned()).collect()
    }

    /// The columns of the table at version `number`, as its schema has them.
    ///
    /// # Panics
    /// If no version up to it has a schema that can be read.
    pub fn columns_at(&self, number: u64) -> Vec<Json> {
        let versions = self.versions.iter().filter(|version| version.number <= number);
        let newest = versions.filter_map(|version| version.actions("metaData").last()).last();
        columns_of(newest.expect("a table has a schema"))
    }

    /// The number of the version that adds a file, by its path in the log.
    fn added_at(&self, path: &str) -> u64 {
        let adds = |version: &&Version| version.actions("add").any(|add| add["path"] == path);
        self.versions.iter().rfind(adds).map(|version| version.number).expect("a live file was added")
    }

    /// Everything that is wrong with the log by itself.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut file_rows = BTreeMap::new();
        let mut previous_sha256 = "0".repeat(64);
        let mut last = None;
        let mut ends: BTreeMap<String, i64> = BTreeMap::new();
        let mut columns: Option<Vec<Json>> = None;
        for (expected, version) in self.versions.iter().enumerate() {
            let mut wrong =
                |what: String| problems.push(format!("{} version {}: {what}", self.dataset, version.number));
            if version.number != expected as u64 {
                wrong(format!("expected version {expected}"));
            }
            if version.isobar()["previous_sha256"] != previous_sha256.as_str() {
                wrong("the hash chain is broken".into());
            }
            previous_sha256 = sha256(&version.bytes);
            let order = (version.number_of("sequence"), version.info()["inCommitTimestamp"].as_i64());
            if last.is_some_and(|(sequence, time)| order.0 <= sequence || order.1 <= time) {
                wrong(format!("sequence and time {order:?} do not rise from {last:?}"));
            }
            last = Some(order);
            for problem in problems_of_ranges(version, &mut ends) {
                wrong(problem);
            }
            if let Some(metadata) = version.actions("metaData").last() {
                let was = columns.replace(columns_of(metadata));
                for problem in problems_of_columns(version, was.as_deref(), &columns_of(metadata)) {
                    wrong(problem);
                }
            }
            if let Some(problem) = problem_of_counts(version, &self.dataset, &mut file_rows) {
                wrong(problem);
            }
        }
        problems
    }
}

/// The fields of the schema of a `metaData`.
fn columns_of(metadata: &Json) -> Vec<Json> {
    let text = metadata["schemaString"].as_str().expect("a schema is text");
    let schema: Json = serde_json::from_str(text).expect("a schema is JSON");
    schema["fields"].as_array().expect("a schema has fields").clone()
}

fn is_nullable(column: &Json) -> bool {
    column["nullable"].as_bool().expect("a column is nullable or not")
}

/// A schema only grows: the columns that there were stay where they are, and those that are new may be null.
fn problems_of_columns(version: &Version, was: Option<&[Json]>, is: &[Json]) -> Vec<String> {
    let Some(was) = was else { return Vec::new() };
    let mut problems = Vec::new();
    if version.info()["operation"] != "UPDATE SCHEMA" || version.actions.len() != 2 {
        problems.push("changes the schema and more".to_owned());
    }
    for (place, column) in was.iter().enumerate() {
        if is.get(place).is_none_or(|now| !is_field_grown(column, now)) {
            problems.push(format!("column {column} became {:?}", is.get(place)));
        }
    }
    let new = is.iter().skip(was.len()).filter(|column| !is_nullable(column));
    problems.extend(new.map(|column| format!("column {column} is new and never null")));
    problems
}

/// Whether a column or field is what it was, but that it may be null and structs inside have more fields.
fn is_field_grown(was: &Json, is: &Json) -> bool {
    was["name"] == is["name"]
        && (is_nullable(is) || !is_nullable(was))
        && is_type_grown(&was["type"], &is["type"])
}

fn is_type_grown(was: &Json, is: &Json) -> bool {
    let may_be_null = |name: &str| is[name] == true || was[name] == false;
    match was["type"].as_str() {
        Some("struct") => {
            let fields = |of: &Json| of["fields"].as_array().cloned().unwrap_or_default();
            is["type"] == "struct" && are_fields_grown(&fields(was), &fields(is))
        }
        Some("array") => {
            is["type"] == "array"
                && may_be_null("containsNull")
                && is_type_grown(&was["elementType"], &is["elementType"])
        }
        Some("map") => {
            is["type"] == "map"
                && was["keyType"] == is["keyType"]
                && may_be_null("valueContainsNull")
                && is_type_grown(&was["valueType"], &is["valueType"])
        }
        _ => was == is,
    }
}

/// Whether the fields that there were are still there, in their order, and new ones may be null.
fn are_fields_grown(was: &[Json], is: &[Json]) -> bool {
    let mut was = was.iter().peekable();
    let holds = is.iter().all(|field| match was.next_if(|old| old["name"] == field["name"]) {
        Some(old) => is_field_grown(old, field),
        None => is_nullable(field),
    });
    holds && was.next().is_none()
}

/// Ranges lie end to end and each has its `txn` at its end; `ends` are those of earlier versions.
fn problems_of_ranges(version: &Version, ends: &mut BTreeMap<String, i64>) -> Vec<String> {
    let mut problems = Vec::new();
    let positions: BTreeMap<&str, i64> = version
        .actions("txn")
        .filter_map(|txn| Some((txn["appId"].as_str()?, txn["version"].as_i64()?)))
        .collect();
    let none = Vec::new();
    for range in version.isobar()["offsets"].as_array().unwrap_or(&none) {
        let name = |field: &str| range[field].as_str().unwrap_or_default();
        let topology = version.isobar()["topology"].as_str().unwrap_or_default();
        let app_id = format!("{topology}/{}/{}/{}", name("cluster"), name("topic_id"), range["partition"]);
        let (start, end) = (range["start"].as_i64().unwrap_or(-1), range["end"].as_i64().unwrap_or(-1));
        if ends.insert(app_id.clone(), end).is_some_and(|last| last != start) {
            problems.push(format!("offsets of {app_id} start at {start}, but ended elsewhere"));
        }
        if positions.get(app_id.as_str()) != Some(&end) {
            problems.push(format!("no txn of {app_id} at {end}"));
        }
        if end < start || range["records"].as_i64().is_none_or(|records| records > end - start || records < 0)
        {
            problems.push(format!("range {range}"));
        }
    }
    problems
}

/// Rows are counted where they come in; maintenance counts none and keeps as many as it finds. `file_rows` are those
/// of the files of the table, by path.
fn problem_of_counts(
    version: &Version,
    dataset: &str,
    file_rows: &mut BTreeMap<String, u64>,
) -> Option<String> {
    let mut removed = 0;
    for remove in version.actions("remove") {
        let path = remove["path"].as_str().unwrap_or_default();
        let Some(rows) = file_rows.remove(path) else { return Some(format!("{path} is not in the table")) };
        removed += rows;
    }
    let mut added = 0;
    for file in version.isobar()["files"].as_array().into_iter().flatten() {
        let rows = file["rows"].as_u64().unwrap_or_default();
        added += rows;
        file_rows.insert(file["path"].as_str().unwrap_or_default().to_owned(), rows);
    }
    let operation = version.info()["operation"].as_str().unwrap_or_default();
    if operation == "REDRIVE" {
        return problem_of_redrive(version, dataset, removed, added);
    }
    if !["OPTIMIZE", "VACUUM"].contains(&operation) {
        return (removed > 0)
            .then(|| format!("{operation} removes {removed} rows"))
            .or_else(|| problem_of_sums(version, dataset));
    }
    let one = Log { dataset: dataset.to_owned(), versions: vec![version.clone()] };
    let files = version.actions("add").chain(version.actions("remove"));
    let changes = files.filter(|file| file["dataChange"] != Json::Bool(false)).count();
    let reads = version.isobar()["offsets"].as_array().map_or(1, Vec::len) + version.actions("txn").count();
    (removed != added || changes > 0 || reads > 0 || one.counts() != Counts::default()).then(|| {
        format!("{operation}: {removed} rows removed, {added} added, {changes} changes, {reads} reads")
    })
}

/// A redrive reads nothing from Kafka. Of the rows in the files that it removes from a quarantine each is kept, or taken and
/// either rejected again or not; in the dataset each row taken has one fate.
fn problem_of_redrive(version: &Version, dataset: &str, removed: u64, added: u64) -> Option<String> {
    let parameter = |name: &str| {
        let text = version.info()["operationParameters"][name].as_str();
        text.map(|text| text.parse::<u64>().expect("a parameter is a number"))
    };
    let one = Log { dataset: dataset.to_owned(), versions: vec![version.clone()] };
    let counts = one.counts();
    let sum = |parts: &BTreeMap<String, u64>| parts.values().sum::<u64>();
    let fates = counts.output + sum(&counts.rejected) + sum(&counts.dropped) + counts.filtered;
    let files = version.actions("add").chain(version.actions("remove"));
    let unchanged = files.filter(|file| file["dataChange"] != Json::Bool(true)).count();
    let reads = version.isobar()["offsets"].as_array().map_or(1, Vec::len) + version.actions("txn").count();
    let taken = parameter("rows").expect("a redrive says how many rows it takes");
    let adds_up = match dataset.ends_with(".quarantine") {
        true => {
            let kept = parameter("kept").expect("a redrive says how many rows it keeps");
            let rejected = counts.output;
            counts.redriven == rejected && removed == taken + kept && added == kept + rejected
        }
        false => counts.redriven == taken && removed == 0 && added == counts.output,
    };
    (!adds_up || fates != counts.redriven + counts.expanded || unchanged + reads > 0).then(|| {
        format!("REDRIVE of {taken}: {removed} rows removed, {added} added, {counts:?}, {unchanged} unchanged, {reads} reads")
    })
}

fn problem_of_sums(version: &Version, dataset: &str) -> Option<String> {
    let one = Log { dataset: dataset.to_owned(), versions: vec![version.clone()] };
    let counts = one.counts();
    let sum = |parts: &BTreeMap<String, u64>| parts.values().sum::<u64>();
    let fates = counts.output + sum(&counts.rejected) + sum(&counts.dropped) + counts.filtered;
    let digests = version.isobar()["files"].as_array().map(Vec::as_slice).unwrap_or_default();
    let file_rows: u64 = digests.iter().filter_map(|file| file["rows"].as_u64()).sum();
    let in_stats: u64 = version
        .actions("add")
        .map(|add| {
            let stats: Json = serde_json::from_str(add["stats"].as_str().unwrap_or("{}")).unwrap_or_default();
            stats["numRecords"].as_u64().unwrap_or(u64::MAX / 2)
        })
        .sum();
    (fates != counts.input + counts.expanded || file_rows != counts.output || in_stats != counts.output)
        .then(|| format!("{counts:?}, {file_rows} rows in digests, {in_stats} in statistics"))
}

/// One data file and its rows, in the order of the file.
#[derive(Debug, Clone)]
pub struct DataFile {
    /// The path in the log.
    pub path: String,
    /// Its rows, partition columns included.
    pub rows: Vec<Row>,
}

/// A table: its log and all its rows.
#[derive(Debug, Clone)]
pub struct Table {
    /// Its log.
    pub log: Log,
    /// Its files.
    pub files: Vec<DataFile>,
}

impl Table {
    /// Reads `dataset`, checking on the way every size, digest and count that its log states.
    ///
    /// # Panics
    /// If something cannot be read, or is not as stated.
    pub async fn read(store: &dyn ObjectStore, dataset: &str) -> Self {
        let log = Log::read(store, dataset).await;
        let problems = log.problems();
        assert!(problems.is_empty(), "{store}: {problems:#?}");
        let mut files = Vec::new();
        let columns = if log.versions.is_empty() { Vec::new() } else { log.columns_at(u64::MAX) };
        for (path, add) in log.live_files() {
            let bytes = read_object(store, &log.object_path(&path)).await;
            assert_eq!(add["size"].as_u64(), Some(bytes.len() as u64), "{store}: size of {path}");
            let digest = digest_of(&log, &path);
            assert_eq!(digest["sha256"], sha256(&bytes).as_str(), "{store}: SHA-256 of {path}");
            let mut rows = read_rows(bytes, &add["partitionValues"]);
            assert_eq!(digest["rows"].as_u64(), Some(rows.len() as u64), "{store}: rows of {path}");
            fill_in_nulls(&mut rows, &log.columns_at(log.added_at(&path)), &columns, &path);
            files.push(DataFile { path, rows });
        }
        Self { log, files }
    }

    /// This table without its last version, if that has rejected records whose quarantine is not published yet: the
    /// tables of a decision are published one after the other, and a process may die in between.
    #[must_use]
    pub fn as_far_as(mut self, quarantine: &Self) -> Self {
        let published = quarantine.log.versions.last().map_or(0, |version| version.number_of("sequence"));
        let waits = |version: &Version| {
            let rejected = version.isobar()["rows"]["rejected"].as_object();
            rejected.is_some_and(|rules| !rules.is_empty()) && version.number_of("sequence") > published
        };
        if self.log.versions.last().is_some_and(waits) {
            self.log.versions.pop();
            let live = self.log.live_files();
            self.files.retain(|file| live.contains_key(&file.path));
        }
        self
    }

    /// All rows, in the order of files.
    pub fn rows(&self) -> impl Iterator<Item = &Row> {
        self.files.iter().flat_map(|file| &file.rows)
    }
}

fn digest_of<'a>(log: &'a Log, path: &str) -> &'a Json {
    let digests = log.versions.iter().filter_map(|version| version.isobar()["files"].as_array()).flatten();
    digests.clone().find(|file| file["path"] == path).unwrap_or_else(|| panic!("{path} has a digest"))
}

/// Gives the rows of a file the columns that the table `has` by now. What the file has itself, the table had when it was
/// added.
fn fill_in_nulls(rows: &mut [Row], had: &[Json], has: &[Json], path: &str) {
    let name = |column: &Json| column["name"].as_str().expect("a column has a name").to_owned();
    let known: Vec<String> = had.iter().map(name).collect();
    for row in rows {
        let unknown: Vec<&String> = row.keys().filter(|column| !known.contains(column)).collect();
        assert!(unknown.is_empty(), "{path} has {unknown:?}, the table has {known:?}");
        for column in has {
            let value = row.entry(name(column)).or_insert(Value::Null);
            assert!(*value != Value::Null || is_nullable(column), "{path}: null in {column}");
            fill_in_fields(value, &column["type"], path);
        }
    }
}

/// Gives the structs inside a value of a type the fields that they have by now.
fn fill_in_fields(value: &mut Value, of: &Json, path: &str) {
    match value {
        Value::Struct(row) => {
            let fields = of["fields"].as_array().unwrap_or_else(|| panic!("{path}: a struct for {of}"));
            let is_known = |name: &String| fields.iter().any(|field| field["name"] == name.as_str());
            assert!(row.keys().all(is_known), "{path} has {row:?}, the table has {of}");
            for field in fields {
                let name = field["name"].as_str().expect("a field has a name").to_owned();
                let value = row.entry(name).or_insert(Value::Null);
                assert!(*value != Value::Null || is_nullable(field), "{path}: null in {field}");
                fill_in_fields(value, &field["type"], path);
            }
        }
        Value::List(values) => {
            values.iter_mut().for_each(|value| fill_in_fields(value, &of["elementType"], path));
        }
        Value::Map(pairs) => {
            pairs.iter_mut().for_each(|(_, value)| fill_in_fields(value, &of["valueType"], path));
        }
        _ => {}
    }
}

fn read_rows(bytes: Bytes, partition_values: &Json) -> Vec<Row> {
    let reader = SerializedFileReader::new(bytes).expect("a data file is Parquet");
    let partition_values: Row = partition_values
        .as_object()
        .expect("partition values are an object")
        .iter()
        .map(|(column, value)| (column.clone(), value.as_str().into()))
        .collect();
    let rows = reader.get_row_iter(None).expect("a data file has rows");
    rows.map(|row| {
        let row = row.expect("a row can be read");
        let columns = row.get_column_iter().map(|(name, field)| (name.clone(), value_of(field)));
        columns.chain(partition_values.clone()).collect()
    })
    .collect()
}

fn value_of(field: &Field) -> Value {
    match field {
        Field::Null => Value::Null,
        Field::Bool(value) => Value::Bool(*value),
        Field::Byte(value) => Value::Int((*value).into()),
        Field::Short(value) => Value::Int((*value).into()),
        Field::Int(value) => Value::Int((*value).into()),
        Field::Long(value) => Value::Int(*value),
        Field::Float(value) => Value::Float((*value).into()),
        Field::Double(value) => Value::Float(*value),
        Field::Str(value) => Value::Text(value.clone()),
        Field::Bytes(value) => Value::Bytes(value.data().to_vec()),
        Field::TimestampMillis(value) => Value::Micros(value * 1000),
        Field::TimestampMicros(value) => Value::Micros(*value),
        Field::Group(fields) => Value::Struct(
            fields.get_column_iter().map(|(name, field)| (name.clone(), value_of(field))).collect(),
        ),
        Field::ListInternal(list) => Value::List(list.elements().iter().map(value_of).collect()),
        Field::MapInternal(map) => {
            Value::Map(map.entries().iter().map(|(key, value)| (value_of(key), value_of(value))).collect())
        }
        other => Value::Other(other.to_string()),
    }
}
