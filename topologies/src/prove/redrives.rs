//! Redrives by the rows themselves: every row that a redrive leaves in the quarantine was there before, and none is there
//! twice.
//!
//! The counts say how many rows a redrive takes and keeps; this says which. Of each redrive the positions (topic, partition,
//! offset) in the files that it removes are held against those in the files that it adds. With the counts it follows that
//! exactly the rows taken are gone. Where a file is gone, let go by a VACUUM or never brought to a cloud that was rebuilt, a
//! redrive is not looked at. Memory follows the rows of one redrive's files.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::Write;

use arrow::array::AsArray;
use arrow::datatypes::{Int32Type, Int64Type};
use futures::TryStreamExt;
use isobar_connectors::clouds::Cloud;
use isobar_connectors::delta::Redrive;
use isobar_connectors::delta::path::decode_log_path;
use object_store::ObjectStoreExt;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder};

use super::log::TableLog;
use super::objects::object_path;
use super::tally::Tally;

/// The columns of a position.
const COLUMNS: [&str; 3] = ["topic", "partition", "offset"];

/// Whether a quarantine has a redrive to look at.
pub(super) fn has_any(quarantine: &TableLog) -> bool {
    quarantine.steps().any(|step| matches!(step.entry.redrive(), Some(Redrive::Taken { .. })))
}

/// Looks at every redrive of `quarantine` in `cloud`.
pub(super) async fn check(cloud: &Cloud, quarantine: &TableLog) -> Tally {
    let mut tally = Tally::default();
    for step in quarantine.steps() {
        let Some(Redrive::Taken { kept, rows, .. }) = step.entry.redrive() else { continue };
        let added: Vec<&String> = step.entry.adds.iter().map(|add| &add.path).collect();
        let removed: Vec<&String> = step.entry.removes.iter().collect();
        let mut seen = Positions::default();
        let problem = async {
            let Some(before) = seen.read_all(cloud, &quarantine.table, &removed).await? else {
                return Ok(());
            };
            let Some(after) = seen.read_all(cloud, &quarantine.table, &added).await? else { return Ok(()) };
            seen.is_looked_at = true;
            let due = (rows.saturating_add(kept), kept.saturating_add(step.entry.commit.isobar.rows.output));
            compare(&before, &after, due)
        };
        let problem: Result<(), String> = problem.await;
        if seen.is_looked_at || problem.is_err() {
            tally.look(format_args!("version {}", step.version), problem.err().as_slice());
        }
    }
    tally
}

/// A position, with the number of its topic.
type Position = (usize, i32, i64);

/// The rows of some files.
struct Rows {
    positions: HashSet<Position>,
    /// Rows, those with a position that another row has included.
    rows: u64,
}

fn compare(before: &Rows, after: &Rows, due: (u64, u64)) -> Result<(), String> {
    if (before.rows, after.rows) != due {
        let (removed, added) = due;
        return Err(format!(
            "{} rows in the files removed and {} in those added, not {removed} and {added}",
            before.rows, after.rows
        ));
    }
    for (what, rows) in [("removed", before), ("added", after)] {
        let doubled = rows.rows - rows.positions.len() as u64;
        if doubled > 0 {
            return Err(format!("{doubled} rows in the files {what} are there more than once"));
        }
    }
    match after.positions.difference(&before.positions).next() {
        None => Ok(()),
        Some((_, partition, offset)) => {
            Err(format!("partition {partition} offset {offset} is put back, and was not there"))
        }
    }
}

/// Reads positions, and numbers topics on the way.
#[derive(Default)]
struct Positions {
    topics: BTreeMap<String, usize>,
    is_looked_at: bool,
}

impl Positions {
    /// The rows of all these files, as the log writes their paths; `None` if one is not there.
    async fn read_all(
        &mut self,
        cloud: &Cloud,
        table: &str,
        paths: &[&String],
    ) -> Result<Option<Rows>, String> {
        let mut rows = Rows { positions: HashSet::new(), rows: 0 };
        for path in paths {
            let of_file = |why: String| format!("{path}: {why}");
            let Some(file) = fetch(cloud, table, path).await.map_err(of_file)? else { return Ok(None) };
            let read = tokio::task::spawn_blocking(move || read(file)).await.map_err(|died| died.to_string());
            for run in read.and_then(|read| read).map_err(of_file)? {
                let topics = self.topics.len();
                let topic = *self.topics.entry(run.topic).or_insert(topics);
                rows.rows += run.positions.len() as u64;
                let positions = run.positions.into_iter();
                rows.positions.extend(positions.map(|(partition, offset)| (topic, partition, offset)));
            }
        }
        Ok(Some(rows))
    }
}

/// Consecutive rows of one topic.
struct Run {
    topic: String,
    /// Partition and offset of each.
    positions: Vec<(i32, i64)>,
}

fn read(file: File) -> Result<Vec<Run>, String> {
    let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
    let builder = ParquetRecordBatchReaderBuilder::try_new_with_options(file, options)
        .map_err(|error| error.to_string())?;
    let columns = ProjectionMask::columns(builder.parquet_schema(), COLUMNS);
    let batches = builder.with_projection(columns).build().map_err(|error| error.to_string())?;
    let mut runs: Vec<Run> = Vec::new();
    for batch in batches {
        let batch = batch.map_err(|error| error.to_string())?;
        let column = |name: &str| batch.column_by_name(name).ok_or_else(|| format!("no column {name}"));
        let topics = column(COLUMNS[0])?.as_string_opt::<i32>().ok_or("topics are no text")?;
        let partitions = column(COLUMNS[1])?.as_primitive_opt::<Int32Type>();
        let offsets = column(COLUMNS[2])?.as_primitive_opt::<Int64Type>();
        let (partitions, offsets) = partitions.zip(offsets).ok_or("positions are no numbers")?;
        for row in 0..batch.num_rows() {
            let (topic, position) = (topics.value(row), (partitions.value(row), offsets.value(row)));
            match runs.last_mut().filter(|run| run.topic == topic) {
                Some(run) => run.positions.push(position),
                None => runs.push(Run { topic: topic.to_owned(), positions: vec![position] }),
            }
        }
    }
    Ok(runs)
}

/// The file on this machine, `None` if the cloud does not have it.
async fn fetch(cloud: &Cloud, table: &str, path: &str) -> Result<Option<File>, String> {
    let path = decode_log_path(path).map_err(|error| error.to_string())?;
    let path = object_path(table, &path).ok_or("not a path that an object can have")?;
    let found = match cloud.data.get(&path).await {
        Ok(found) => found,
        Err(object_store::Error::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(crate::chain_of(&error)),
    };
    let temporary = |error: std::io::Error| format!("a temporary file: {error}");
    let mut file = tempfile::tempfile().map_err(temporary)?;
    let mut pieces = found.into_stream();
    while let Some(piece) = pieces.try_next().await.map_err(|error| crate::chain_of(&error))? {
        let write = move || file.write_all(&piece).map(|()| file);
        let written = tokio::task::spawn_blocking(write).await.map_err(|died| died.to_string())?;
        file = written.map_err(temporary)?;
    }
    Ok(Some(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(offsets: &[i64]) -> Rows {
        let positions = offsets.iter().map(|offset| (0, 3, *offset)).collect();
        Rows { positions, rows: offsets.len() as u64 }
    }

    #[test]
    fn what_is_put_back_was_there_and_is_there_once() {
        let before = rows(&[1, 2, 5, 9]);
        assert_eq!(compare(&before, &rows(&[2, 9]), (4, 2)), Ok(()));
        assert_eq!(compare(&before, &rows(&[]), (4, 0)), Ok(()));
        for (before, after, due, what) in [
            (&before, &rows(&[2, 3]), (4, 2), "offset 3 is put back"),
            (&before, &rows(&[2, 2]), (4, 2), "more than once"),
            (&rows(&[1, 1]), &rows(&[]), (2, 0), "more than once"),
            (&before, &rows(&[2]), (4, 2), "1 in those added"),
            (&before, &rows(&[2, 9]), (3, 2), "4 rows in the files removed"),
        ] {
            let problem = compare(before, after, due).unwrap_err();
            assert!(problem.contains(what), "{problem}");
        }
    }
}
