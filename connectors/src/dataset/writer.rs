//! Routes rows to files, decides when row groups are encoded, and hands back what was written.
//!
//! Rows wait as Arrow arrays per (partition values, Kafka partition) until their file's row group is full, until
//! [`DatasetWriter::flush`] asks for memory back, or until the writer is closed. A row group takes the waiting rows of
//! its file in the order of (topic, partition, offset).
//!
//! A file gets its name and its uploads with its first row group. How large row groups and files become, and how many
//! files are open at a time, is bounded by the constants below.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef};
use arrow::record_batch::RecordBatch;
use isobar_schemas::TopicPartition;
use object_store::path::Path;
use parquet::errors::ParquetError;

use super::file::{FileEncoder, FinishedFile};
use super::layout::TableLayout;
use super::partitions::{Group, Splitter, Values, directory};
use crate::Error;
use crate::delta::FileDigest;
use crate::delta::path::encode_log_path;
use crate::upload::{FanOut, UploadHandle};

/// A row group is encoded once it has this many bytes of Arrow data.
const ROW_GROUP_BYTES_MAX: usize = 64 << 20;
/// A row group is encoded once it has this many rows.
pub(super) const ROW_GROUP_ROWS_MAX: usize = 1 << 20;
/// A file is ended once it has this many bytes; further rows of its partition values start another.
const FILE_BYTES_MAX: u64 = 1 << 30;
/// Combinations of partition values open at a time; beyond that, the file with the most waiting rows is ended.
const OPEN_FILES_MAX: usize = 256;

/// A file that is complete, stored or on its way, and named by no commit yet.
#[derive(Debug, Clone)]
pub struct StagedFile {
    /// Path relative to the table: `month=7/part-….parquet`.
    pub path: String,
    /// The same, URI-encoded as the log holds it.
    pub log_path: String,
    /// Path in every cloud, the table's included.
    pub object_path: Path,
    /// Bytes.
    pub size: u64,
    /// SHA-256 of the bytes, in lowercase hexadecimal.
    pub sha256: String,
    /// Rows.
    pub rows: u64,
    /// The exact value of every partition column; `None` is null.
    pub partition_values: BTreeMap<String, Option<String>>,
    /// Statistics as the `add` action carries them.
    pub stats: String,
    /// The upload to each cloud, in the order of the clouds.
    pub uploads: Vec<UploadHandle>,
}

impl StagedFile {
    /// The file's identity for commitInfo.
    pub fn digest(&self) -> FileDigest {
        FileDigest {
            path: self.log_path.clone(),
            size: self.size,
            sha256: self.sha256.clone(),
            rows: self.rows,
        }
    }
}

/// Rows that wait to be encoded into one file.
#[derive(Default)]
struct Waiting {
    batches: BTreeMap<TopicPartition, Vec<Vec<ArrayRef>>>,
    rows: usize,
    /// Arrow bytes of the rows themselves: decides when a row group is full, so it must not depend on spare capacity.
    data_bytes: usize,
    /// Bytes of memory held.
    memory_bytes: usize,
}

impl Waiting {
    fn push(&mut self, from: &TopicPartition, group: Group) {
        self.rows += group.rows;
        for column in &group.columns {
            let memory_bytes = column.get_array_memory_size();
            self.memory_bytes += memory_bytes;
            self.data_bytes += column.to_data().get_slice_memory_size().unwrap_or(memory_bytes);
        }
        match self.batches.get_mut(from) {
            Some(batches) => batches.push(group.columns),
            None => {
                self.batches.insert(from.clone(), vec![group.columns]);
            }
        }
    }

    fn is_full(&self) -> bool {
        self.rows >= ROW_GROUP_ROWS_MAX || self.data_bytes >= ROW_GROUP_BYTES_MAX
    }
}

#[derive(Default)]
struct OpenFile {
    waiting: Waiting,
    /// `None` until the first row group is encoded; only then the file has a name.
    started: Option<(Name, FileEncoder)>,
}

/// Where a file lies, relative to its table and in every cloud.
pub(super) struct Name {
    pub(super) path: String,
    pub(super) object_path: Path,
}

/// Writes the rows of one commit of one table.
///
/// It does CPU work only (encoding, compression, hashing): call it off the async threads. It never waits for a cloud;
/// await [`FanOut::ready`] between calls. A writer dropped before it is closed stores nothing and leaves nothing
/// behind.
pub struct DatasetWriter {
    layout: Arc<TableLayout>,
    fan_out: Arc<FanOut>,
    commit_id: String,
    splitter: Splitter,
    open: BTreeMap<Values, OpenFile>,
    files_started: usize,
    staged: Vec<StagedFile>,
}

impl DatasetWriter {
    /// A writer of the commit `commit_id`, which must be unique and of letters, digits, `-` and `_`: it is part of every
    /// file's name.
    ///
    /// # Errors
    /// [`Error::Batch`] if `commit_id` cannot be part of a name.
    pub fn new(layout: Arc<TableLayout>, fan_out: Arc<FanOut>, commit_id: &str) -> Result<Self, Error> {
        check_commit_id(&layout, commit_id)?;
        let splitter = Splitter::new(&layout).map_err(|error| batch_error(&layout, error))?;
        Ok(Self {
            layout,
            fan_out,
            commit_id: commit_id.into(),
            splitter,
            open: BTreeMap::new(),
            files_started: 0,
            staged: Vec::new(),
        })
    }

    /// Takes rows made from records of one Kafka partition. Calls for one partition must come in the order of its
    /// offsets; calls for several may interleave in any way.
    ///
    /// # Errors
    /// [`Error::Batch`] if the batch does not fit the table, [`Error::Encode`] if a full row group cannot be encoded.
    /// After an error the writer must be dropped.
    pub fn write(&mut self, from: &TopicPartition, rows: RecordBatch) -> Result<(), Error> {
        self.layout.check(&rows)?;
        let groups = self.splitter.split(&rows).map_err(|error| batch_error(&self.layout, error))?;
        for group in groups {
            self.make_room_for(&group.values)?;
            let values = group.values.clone();
            let file = self.open.entry(values.clone()).or_default();
            file.waiting.push(from, group);
            if file.waiting.is_full() {
                self.encode_waiting(&values)?;
            }
        }
        Ok(())
    }

    /// Bytes of memory held by rows that wait and by encoded bytes not yet handed to the uploads. What the uploads hold
    /// is [`FanOut::held_bytes`].
    pub fn buffered_bytes(&self) -> usize {
        let bytes = |file: &OpenFile| {
            file.waiting.memory_bytes + file.started.as_ref().map_or(0, |(_, encoder)| encoder.memory_bytes())
        };
        self.open.values().map(bytes).sum()
    }

    /// Encodes the largest buffers until at most `target_bytes` are buffered, or no rows wait any more.
    ///
    /// # Errors
    /// [`Error::Encode`]; the writer must then be dropped.
    pub fn flush(&mut self, target_bytes: usize) -> Result<(), Error> {
        while self.buffered_bytes() > target_bytes {
            let Some(values) = self.largest_waiting() else { break };
            self.encode_waiting(&values)?;
        }
        Ok(())
    }

    /// Ends the next file, in the order of partition values; `false` when none is open. For a caller that awaits
    /// [`FanOut::ready`] between files instead of closing the writer in one go.
    ///
    /// # Errors
    /// [`Error::Encode`]; the writer must then be dropped.
    pub fn finish_next_file(&mut self) -> Result<bool, Error> {
        let Some(values) = self.open.keys().next().cloned() else { return Ok(false) };
        self.finish_file(&values)?;
        Ok(true)
    }

    /// Ends all files and returns what was written, in the order of paths. A writer that got no rows returns no
    /// file. The uploads go on; see [`StagedFile::uploads`].
    ///
    /// # Errors
    /// [`Error::Encode`]; nothing of the commit may be used then.
    pub fn close(mut self) -> Result<Vec<StagedFile>, Error> {
        while self.finish_next_file()? {}
        let mut staged = std::mem::take(&mut self.staged);
        staged.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(staged)
    }

    fn make_room_for(&mut self, values: &Values) -> Result<(), Error> {
        if self.open.len() >= OPEN_FILES_MAX && !self.open.contains_key(values) {
            let fullest = self.largest_waiting().or_else(|| self.open.keys().next().cloned());
            if let Some(fullest) = fullest {
                self.finish_file(&fullest)?;
            }
        }
        Ok(())
    }

    fn largest_waiting(&self) -> Option<Values> {
        let waiting = self.open.iter().filter(|(_, file)| file.waiting.rows > 0);
        waiting.max_by_key(|(_, file)| file.waiting.memory_bytes).map(|(values, _)| values.clone())
    }

    /// Encodes the waiting rows of one file as a row group, and ends the file if it is large enough.
    fn encode_waiting(&mut self, values: &Values) -> Result<(), Error> {
        let Some(file) = self.open.get_mut(values) else { return Ok(()) };
        let waiting = std::mem::take(&mut file.waiting);
        if waiting.rows == 0 {
            return Ok(());
        }
        if file.started.is_none() {
            let name = file_name(&self.layout, values, &self.commit_id, self.files_started)?;
            self.files_started += 1;
            let upload = self.fan_out.start_file(name.object_path.clone());
            let encoder = FileEncoder::new(self.layout.clone(), upload)
                .map_err(|source| encode_error(&name, source))?;
            file.started = Some((name, encoder));
        }
        let Some((name, encoder)) = &mut file.started else { return Ok(()) };
        let batches: Vec<Vec<ArrayRef>> = waiting.batches.into_values().flatten().collect();
        encoder.write_row_group(batches).map_err(|source| encode_error(name, source))?;
        if encoder.size() >= FILE_BYTES_MAX {
            self.finish_file(values)?;
        }
        Ok(())
    }

    fn finish_file(&mut self, values: &Values) -> Result<(), Error> {
        self.encode_waiting(values)?;
        let Some((name, encoder)) = self.open.remove(values).and_then(|file| file.started) else {
            return Ok(());
        };
        let finished = encoder.finish().map_err(|source| encode_error(&name, source))?;
        self.staged.push(staged(&self.layout, name, values, finished));
        Ok(())
    }
}

/// A commit id is part of the names of files.
pub(super) fn check_commit_id(layout: &TableLayout, commit_id: &str) -> Result<(), Error> {
    let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if commit_id.is_empty() || !commit_id.chars().all(valid) {
        let detail = format!("commit id {commit_id:?} cannot be part of a file's name");
        return Err(Error::Batch { table: layout.path().into(), detail });
    }
    Ok(())
}

/// A file that is complete, as a commit names it.
pub(super) fn staged(
    layout: &TableLayout,
    name: Name,
    values: &Values,
    finished: FinishedFile,
) -> StagedFile {
    let columns = layout.partition_by().iter().cloned();
    StagedFile {
        log_path: encode_log_path(&name.path),
        path: name.path,
        object_path: name.object_path,
        size: finished.size,
        sha256: finished.sha256,
        rows: finished.rows,
        partition_values: columns.zip(values.iter().cloned()).collect(),
        stats: finished.stats,
        uploads: finished.uploads,
    }
}

pub(super) fn file_name(
    layout: &TableLayout,
    values: &Values,
    commit_id: &str,
    number: usize,
) -> Result<Name, Error> {
    let directory = directory(layout.partition_by(), values);
    let separator = if directory.is_empty() { "" } else { "/" };
    let path = format!("{directory}{separator}part-{commit_id}-{number:05}.parquet");
    let object_path = Path::parse(format!("{}/{path}", layout.path()))
        .map_err(|error| Error::Batch { table: layout.path().into(), detail: error.to_string() })?;
    Ok(Name { path, object_path })
}

pub(super) fn encode_error(name: &Name, source: ParquetError) -> Error {
    Error::Encode { path: name.object_path.to_string(), source }
}

fn batch_error(layout: &TableLayout, error: arrow::error::ArrowError) -> Error {
    Error::Batch { table: layout.path().into(), detail: error.to_string() }
}

#[cfg(test)]
pub(super) mod tests;
