//! What lies between two versions of a table: files, rows, offsets and columns from the log, and the rows themselves on request.
//!
//! Files are compared by their names, which are never used twice. Rows are counted by what the entries in between say of
//! themselves: a compaction moves rows and changes none. The rows themselves ([`diff_rows`]) are read from the files that only
//! one of the versions has, and set off against each other as multisets, so that a row that only moved is in neither.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::common::TableReference;
use indicatif::{HumanBytes, HumanCount};
use isobar_connectors::clouds::Cloud;
use isobar_connectors::delta::Redrive;
use isobar_connectors::delta::evolution::differences;
use serde::Serialize;
use tracing::warn;

use super::history::{pinned_snapshot, read_entries, shown};
use super::limits::{QueryLimits, Watch};
use super::listing::{kind_of, kinds, known_table, rows_removed};
use super::names::quoted;
use super::output::Answer;
use super::provider::SnapshotTable;
use super::replicas::{Reading, Replicas};
use super::snapshot::{Listing, Snapshot, load};
use super::{failed, session, start};
use crate::error::Error;
use crate::prove::log::{DataFile, Entry};
use crate::spec::Topology;
use crate::start::open_clouds;

/// Versions read at once.
const VERSIONS_AT_ONCE: usize = 256;
/// Files named in a table for people.
const FILES_SHOWN_MAX: usize = 20;
/// Most rows that [`diff_rows`] gives.
pub const DIFF_ROWS_MAX: usize = 10_000;

/// What lies between two versions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Diff {
    /// The dataset, or its quarantine.
    pub table: String,
    /// The cloud whose log was read.
    pub cloud: String,
    /// The earlier version.
    pub from: VersionEnd,
    /// The later version.
    pub to: VersionEnd,
    /// How many versions of which kind lie after the earlier one, up to the later one.
    pub entries: BTreeMap<String, u64>,
    /// Rows that came into the table; `None` if an entry does not say.
    pub rows_added: Option<u64>,
    /// Rows that left it.
    pub rows_removed: Option<u64>,
    /// Rows that only moved from one file to another.
    pub rows_moved: u64,
    /// Files that only the later version has.
    pub files_added: Vec<FileChange>,
    /// Files that only the earlier version has.
    pub files_removed: Vec<FileChange>,
    /// What was read from Kafka.
    pub partitions: Vec<PartitionChange>,
    /// How the columns differ.
    pub columns: Vec<String>,
}

/// One of the two versions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct VersionEnd {
    /// The version.
    pub version: u64,
    /// When it was committed, RFC 3339.
    pub committed: String,
    /// Its files.
    pub files: u64,
    /// Its rows; `None` if the log does not say of every file.
    pub rows: Option<u64>,
}

/// A file that one of the two versions has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct FileChange {
    /// Relative to the table.
    pub path: String,
    /// Bytes.
    pub bytes: u64,
    /// Rows; `None` if the log does not say.
    pub rows: Option<u64>,
}

/// What was read from one Kafka partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct PartitionChange {
    /// The topic's name.
    pub topic: String,
    /// The partition's number.
    pub partition: i32,
    /// The first offset covered.
    pub start: i64,
    /// The next offset to read.
    pub end: i64,
    /// Records read.
    pub records: u64,
}

/// What lies between versions `from` and `to` of a table of `topology`.
///
/// # Errors
/// [`Error::Configuration`] if there is no such table or version, or `to` is before `from`; [`Error::NoMajority`] if no cloud
/// can tell.
pub async fn diff(topology: &Topology, table: &str, from: u64, to: u64) -> Result<Diff, Error> {
    diff_in(topology, &open_clouds(topology)?, table, from, to).await
}

/// The same in `clouds`.
///
/// # Errors
/// As [`diff`].
pub async fn diff_in(
    topology: &Topology,
    clouds: &[Cloud],
    table: &str,
    from: u64,
    to: u64,
) -> Result<Diff, Error> {
    let table = known_table(topology, table)?;
    in_order(from, to)?;
    let replicas = Replicas::new(clouds, &Reading::of(topology.query.clone()))?;
    diff_of(&replicas, &table, from, to).await
}

/// The same from the first of `replicas` that answers in time and has both.
async fn diff_of(replicas: &Replicas, table: &str, from: u64, to: u64) -> Result<Diff, Error> {
    let clouds = replicas.in_order(Some(table)).await;
    let (mut reasons, mut absent) = (Vec::new(), Vec::new());
    for cloud in &clouds {
        match compare(cloud, table, from, to).await {
            Ok(Ok(diff)) => return Ok(diff),
            Ok(Err(missing)) => absent.push(format!("{}: {missing}", cloud.name)),
            Err(why) => {
                warn!(cloud = %cloud.name, %table, why, "cloud cannot compare the versions, asking the next");
                reasons.push(format!("{}: {why}", cloud.name));
            }
        }
    }
    let action = format!("compare versions {from} and {to} of {table}");
    if reasons.is_empty() {
        return Err(Error::Configuration(format!("cannot {action}:\n  {}", absent.join("\n  "))));
    }
    reasons.extend(absent);
    Err(Error::no_majority(&action, 1, clouds.len(), reasons))
}

fn in_order(from: u64, to: u64) -> Result<(), Error> {
    if from <= to {
        return Ok(());
    }
    Err(Error::Configuration(format!("name the earlier version first: version {to}, then {from}")))
}

/// The inner error says that one of the versions is not there.
async fn compare(cloud: &Cloud, table: &str, from: u64, to: u64) -> Result<Result<Diff, String>, String> {
    let listing = Listing::reaching(cloud, table, Some(from)).await?;
    if let Some(missing) = [from, to].into_iter().find(|version| !listing.has(*version)) {
        return Ok(Err(match listing.newest() {
            Some(newest) => format!("no version {missing}, the newest is {newest}"),
            None => "nothing was committed yet".to_owned(),
        }));
    }
    let earlier = load(cloud, table, from, &listing).await?;
    let later = load(cloud, table, to, &listing).await?;
    let columns = differences(&earlier.metadata, &later.metadata).map_err(|error| crate::chain_of(&error))?;
    let (removed, added) = only_in_one(&earlier, &later);
    let mut between = Between::default();
    let mut entry_kinds = Vec::new();
    let versions: Vec<u64> = (from..=to).collect();
    let (mut committed_from, mut committed_to) = (String::new(), String::new());
    for some in versions.chunks(VERSIONS_AT_ONCE) {
        for (version, entry) in some.iter().zip(read_entries(cloud, table, some).await?) {
            committed_to = shown(entry.commit.in_commit_timestamp_ms);
            if *version == from {
                committed_from.clone_from(&committed_to);
                continue;
            }
            entry_kinds.push(kind_of(&entry));
            between.note(&entry);
        }
    }
    let end = |snapshot: &Snapshot, committed: String| VersionEnd {
        version: snapshot.version,
        committed,
        files: snapshot.files.len() as u64,
        rows: snapshot.rows(),
    };
    Ok(Ok(Diff {
        table: table.to_owned(),
        cloud: cloud.name.clone(),
        from: end(&earlier, committed_from),
        to: end(&later, committed_to),
        entries: kinds(entry_kinds.into_iter()),
        rows_added: between.added,
        rows_removed: between.removed,
        rows_moved: between.moved,
        files_added: added.into_iter().map(file_change).collect(),
        files_removed: removed.into_iter().map(file_change).collect(),
        partitions: between.partitions.into_values().collect(),
        columns: columns
            .iter()
            .filter(|difference| difference.is_change())
            .map(ToString::to_string)
            .collect(),
    }))
}

fn file_change(file: &DataFile) -> FileChange {
    FileChange { path: file.path.clone(), bytes: file.size, rows: file.rows }
}

/// The files that only the earlier, and that only the later version has.
fn only_in_one<'a>(earlier: &'a Snapshot, later: &'a Snapshot) -> (Vec<&'a DataFile>, Vec<&'a DataFile>) {
    let paths = |snapshot: &'a Snapshot| -> BTreeSet<&'a str> {
        snapshot.files.iter().map(|file| file.path.as_str()).collect()
    };
    let (before, after) = (paths(earlier), paths(later));
    let removed = earlier.files.iter().filter(|file| !after.contains(file.path.as_str())).collect();
    let added = later.files.iter().filter(|file| !before.contains(file.path.as_str())).collect();
    (removed, added)
}

/// What entries say of themselves, taken together.
#[derive(Debug)]
struct Between {
    added: Option<u64>,
    removed: Option<u64>,
    moved: u64,
    partitions: BTreeMap<(String, String, i32), PartitionChange>,
}

impl Default for Between {
    fn default() -> Self {
        Self { added: Some(0), removed: Some(0), moved: 0, partitions: BTreeMap::new() }
    }
}

impl Between {
    fn note(&mut self, entry: &Entry) {
        let in_files = entry.commit.isobar.files.iter().map(|file| file.rows).fold(0, u64::saturating_add);
        let left = rows_removed(entry, in_files);
        let moved = match (entry.maintenance(), entry.redrive()) {
            (Some(_), _) => in_files,
            (_, Some(Redrive::Taken { kept, .. })) => kept,
            _ => 0,
        };
        self.moved = self.moved.saturating_add(moved);
        let sum = |sum: Option<u64>, rows: Option<u64>| sum?.checked_add(rows?.checked_sub(moved)?);
        self.added = sum(self.added, Some(in_files));
        self.removed = sum(self.removed, left);
        for range in &entry.commit.isobar.offsets {
            let key = (range.topic.clone(), range.topic_id.clone(), range.partition);
            let change = self.partitions.entry(key).or_insert_with(|| PartitionChange {
                topic: range.topic.clone(),
                partition: range.partition,
                start: range.start,
                end: range.end,
                records: 0,
            });
            change.end = range.end;
            change.records = change.records.saturating_add(range.records);
        }
    }
}

impl Diff {
    /// For people.
    pub fn to_table(&self) -> String {
        let count = |count: u64| HumanCount(count).to_string();
        let or_unknown = |rows: Option<u64>| rows.map_or("?".to_owned(), count);
        let mut text = format!("{} in {}\n", self.table, self.cloud);
        let mut line = |line: String| {
            text.push_str(&line);
            text.push('\n');
        };
        for (mark, end) in [("from", &self.from), ("to  ", &self.to)] {
            let (files, rows) = (count(end.files), or_unknown(end.rows));
            line(format!(
                "  {mark} version {} of {}: {rows} rows in {files} files",
                end.version, end.committed
            ));
        }
        let entries: Vec<String> =
            self.entries.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        line(format!(
            "  entries: {}",
            if entries.is_empty() { "none".to_owned() } else { entries.join(", ") }
        ));
        line(format!(
            "  rows: {} added, {} removed, {} moved to other files",
            or_unknown(self.rows_added),
            or_unknown(self.rows_removed),
            count(self.rows_moved)
        ));
        for column in &self.columns {
            line(format!("  columns: {column}"));
        }
        for partition in &self.partitions {
            let PartitionChange { topic, partition, start, end, records } = partition;
            line(format!("  {topic} {partition}: offsets [{start}, {end}), {} records", count(*records)));
        }
        for (mark, files) in [("+", &self.files_added), ("-", &self.files_removed)] {
            for file in files.iter().take(FILES_SHOWN_MAX) {
                let (bytes, rows) = (HumanBytes(file.bytes), or_unknown(file.rows));
                line(format!("  {mark} {} ({rows} rows, {bytes})", file.path));
            }
            let more = files.len().saturating_sub(FILES_SHOWN_MAX);
            if more > 0 {
                line(format!("  {mark} {} more files", count(more as u64)));
            }
        }
        text
    }
}

/// The rows that one of two versions of a table has and the other has not, at most `limit` and [`DIFF_ROWS_MAX`] of them. The
/// first column says how many times more the later version has the row: below zero it is one that left.
///
/// # Errors
/// As [`diff`]; also if one of the versions can no longer be read.
pub async fn diff_rows(
    topology: &Topology,
    table: &str,
    from: u64,
    to: u64,
    limit: usize,
) -> Result<Answer, Error> {
    diff_rows_in(topology, &open_clouds(topology)?, table, from, to, limit).await
}

/// The same in `clouds`.
///
/// # Errors
/// As [`diff_rows`].
pub async fn diff_rows_in(
    topology: &Topology,
    clouds: &[Cloud],
    table: &str,
    from: u64,
    to: u64,
    limit: usize,
) -> Result<Answer, Error> {
    let table = known_table(topology, table)?;
    let replicas = Arc::new(Replicas::new(clouds, &Reading::of(topology.query.clone()))?);
    rows_between(&replicas, &table, from, to, limit, topology.memory_bytes_max).await
}

async fn rows_between(
    replicas: &Arc<Replicas>,
    table: &str,
    from: u64,
    to: u64,
    limit: usize,
    memory_bytes_max: u64,
) -> Result<Answer, Error> {
    in_order(from, to)?;
    let clouds = replicas.in_order(Some(table)).await;
    let mut earlier = pinned_snapshot(&clouds, table, from).await?;
    let mut later = pinned_snapshot(&clouds, table, to).await?;
    let (removed, added) = only_in_one(&earlier, &later);
    let (removed, added) = (removed.into_iter().cloned().collect(), added.into_iter().cloned().collect());
    (earlier.files, later.files) = (removed, added);
    let sql = difference_sql(&earlier.schema, &later.schema, limit.min(DIFF_ROWS_MAX));
    let context = session(replicas, memory_bytes_max)?;
    for (name, snapshot) in [("before", earlier), ("after", later)] {
        let provider = Arc::new(SnapshotTable::new(&snapshot, replicas.clone())?);
        let registered = context.register_table(TableReference::bare(name), provider);
        registered.map_err(|error| Error::Configuration(format!("{table}: {error}")))?;
    }
    let state = context.state();
    let plan = state.create_logical_plan(&sql).await.map_err(|error| failed(&[], error))?;
    let limits = QueryLimits::default();
    start(state, plan, replicas, &limits, Watch::start(&limits)).await
}

/// The query for [`diff_rows`]. A column that the earlier version has not is null in its rows; the later one has all that the
/// earlier one has, because a table only grows.
fn difference_sql(before: &SchemaRef, after: &SchemaRef, limit: usize) -> String {
    let free = |name: &str| {
        let is_taken = |name: &str| after.fields().iter().any(|field| field.name() == name);
        let mut name = name.to_owned();
        while is_taken(&name) {
            name.push('_');
        }
        quoted(&name)
    };
    let (difference, side) = (free("difference"), free("side"));
    let columns: Vec<String> = after.fields().iter().map(|field| quoted(field.name())).collect();
    let earlier = after.fields().iter().map(|field| match before.field_with_name(field.name()) {
        Ok(_) => quoted(field.name()),
        Err(_) => format!("NULL AS {}", quoted(field.name())),
    });
    let earlier: Vec<String> = earlier.collect();
    // So that the same rows come in the same order everywhere; nested values have none.
    let ordered = after.fields().iter().filter(|field| !field.data_type().is_nested());
    let ordered = ordered.map(|field| quoted(field.name()));
    let order: Vec<String> = std::iter::once(format!("{difference} DESC")).chain(ordered).collect();
    let (columns, earlier, order) = (columns.join(", "), earlier.join(", "), order.join(", "));
    format!(
        "SELECT sum({side}) AS {difference}, {columns} FROM (SELECT 1 AS {side}, {columns} FROM \"after\" UNION ALL \
         SELECT -1 AS {side}, {earlier} FROM \"before\") GROUP BY {columns} HAVING sum({side}) <> 0 \
         ORDER BY {order} LIMIT {limit}"
    )
}

#[cfg(test)]
mod tests {
    use super::super::RowsFormat;
    use super::*;
    use crate::prove::testing::{DATASET, History};

    fn replicas(clouds: &[Cloud]) -> Arc<Replicas> {
        Arc::new(Replicas::new(clouds, &Reading::default()).unwrap())
    }

    async fn compared(history: &History, from: u64, to: u64) -> Diff {
        let clouds = history.store(1).await;
        compare(&clouds[0], DATASET, from, to).await.unwrap().unwrap()
    }

    async fn rows(history: &History, from: u64, to: u64, limit: usize) -> String {
        let replicas = replicas(&history.store(1).await);
        let answer = rows_between(&replicas, DATASET, from, to, limit, 64 << 20).await;
        let mut answer = answer.unwrap();
        let mut text = String::new();
        while let Some(piece) = answer.next_text(RowsFormat::Csv).await.unwrap() {
            text.push_str(&piece);
        }
        text
    }

    fn paths(files: &[FileChange]) -> Vec<&str> {
        files.iter().map(|file| file.path.as_str()).collect()
    }

    #[tokio::test]
    async fn files_rows_and_offsets_that_came_are_told() {
        let diff = compared(&History::good(), 1, 3).await;
        assert_eq!((diff.from.rows, diff.to.rows, diff.from.files, diff.to.files), (Some(8), Some(15), 2, 4));
        assert_eq!((diff.from.version, diff.from.committed.as_str()), (1, "1970-01-01T00:00:02.000Z"));
        assert_eq!(diff.to.committed, "1970-01-01T00:00:04.000Z");
        assert_eq!((diff.rows_added, diff.rows_removed, diff.rows_moved), (Some(7), Some(0), 0));
        assert_eq!(paths(&diff.files_added), ["month=2/c.parquet", "month=a%20b/d.parquet"]);
        assert_eq!(paths(&diff.files_removed), [""; 0]);
        assert_eq!(diff.entries, BTreeMap::from([("commit".to_owned(), 2)]));
        let [partition] = diff.partitions.as_slice() else { panic!("{diff:?}") };
        assert_eq!((partition.start, partition.end, partition.records), (20, 40, 9));
        let table = diff.to_table();
        assert!(table.contains("7 added, 0 removed, 0 moved"), "{table}");
        assert!(table.contains("flights 0: offsets [20, 40), 9 records"), "{table}");
    }

    #[tokio::test]
    async fn a_compaction_moves_rows_and_changes_none() {
        let mut history = History::good();
        history.compact();
        let diff = compared(&history, 2, 4).await;
        assert_eq!((diff.rows_added, diff.rows_removed, diff.rows_moved), (Some(2), Some(0), 10));
        assert_eq!(paths(&diff.files_removed), ["month=2/b.parquet", "month=2/c.parquet"]);
        assert_eq!(rows(&history, 2, 4, 10).await, "difference,month,x\n1,a b,13\n1,a b,14\n");
        assert_eq!(rows(&history, 3, 4, 10).await, "difference,month,x\n");
    }

    #[tokio::test]
    async fn rows_are_those_of_one_version_only_and_bounded() {
        let history = History::good();
        assert_eq!(rows(&history, 1, 1, 10).await, "difference,month,x\n");
        let all = rows(&history, 1, 3, 100).await;
        let expected: String = (8..13).map(|x| format!("1,2,{x}\n")).collect();
        assert_eq!(all, format!("difference,month,x\n{expected}1,a b,13\n1,a b,14\n"));
        assert_eq!(rows(&history, 1, 3, 2).await, "difference,month,x\n1,2,8\n1,2,9\n");
    }

    #[tokio::test]
    async fn a_column_that_came_is_null_before() {
        let mut history = History::good();
        history.evolve();
        let diff = compared(&history, 3, 5).await;
        assert_eq!(diff.columns, ["adds column y: long"]);
        assert_eq!(diff.entries.keys().collect::<Vec<_>>(), ["commit", "schema"]);
        assert_eq!(rows(&history, 3, 5, 10).await, "difference,month,x,y\n1,1,1,1\n");
    }

    #[tokio::test]
    async fn a_row_that_left_counts_below_zero() {
        // A removal that no entry of isobar would do; the files are compared all the same.
        let mut history = History::good();
        history.version(3).removes.push(isobar_connectors::delta::Remove {
            path: "month=1/a.parquet".into(),
            deletion_timestamp: Some(1),
            data_change: true,
            extended_file_metadata: None,
            partition_values: None,
            size: Some(1),
        });
        let diff = compared(&history, 2, 3).await;
        assert_eq!((diff.rows_added, diff.rows_removed), (Some(2), None));
        assert!(diff.to_table().contains("2 added, ? removed"), "{}", diff.to_table());
        let rows = rows(&history, 2, 3, 10).await;
        assert_eq!(rows, "difference,month,x\n1,a b,13\n1,a b,14\n-1,1,0\n-1,1,1\n-1,1,2\n");
    }

    #[tokio::test]
    async fn a_cloud_that_does_not_answer_is_not_waited_for() {
        let replicas = Replicas::with_a_silent_cloud().await;
        let diff = diff_of(&replicas, DATASET, 1, 3).await.unwrap();
        assert_eq!((diff.cloud.as_str(), diff.rows_added), ("b", Some(7)));
    }

    #[tokio::test]
    async fn versions_that_there_are_not_are_named() {
        let clouds = History::good().store(1).await;
        let missing = compare(&clouds[0], DATASET, 1, 9).await.unwrap().unwrap_err();
        assert_eq!(missing, "no version 9, the newest is 3");
        let replicas = replicas(&clouds);
        assert!(rows_between(&replicas, DATASET, 3, 1, 10, 1 << 20).await.is_err());
        assert!(rows_between(&replicas, DATASET, 1, 9, 10, 1 << 20).await.is_err());
    }
}
