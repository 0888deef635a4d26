//! Where redriven rows come from: the files of a quarantine that are live, and their bytes. Those of
//! tables that are [sent to topics](crate::letters) are fetched here too.
//!
//! A list of files decides what is taken out of the table, so it must be the one that is decided. Only the hash of the
//! head is asked for; each body vouches for the one before it, and a cloud whose log does not lead to that hash is passed
//! over. A file is believed when it has the size and SHA-256 that the log gives it ([`fetched`](crate::fetched)).

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::time::Duration;

use isobar_connectors::clouds::Cloud;
use isobar_connectors::delta::FileDigest;
use isobar_connectors::delta::path::decode_log_path;
use parquet::arrow::arrow_reader::{
    ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData};
use tracing::debug;

use crate::chain_of;
use crate::commit::{RemovedFile, TableHead};
use crate::error::Error;
use crate::fetched::{Stated, fetch};
use crate::prove::checks;
use crate::prove::log::{Bodies, TableLog, list_versions};

/// How often the clouds are asked for a head that is decided and may not be published yet, and how long to wait in
/// between.
const ATTEMPTS_MAX: u32 = 60;
const PAUSE: Duration = Duration::from_millis(500);
/// About the most bytes of rows decoded at a time, and the most rows.
const BATCH_BYTES: u64 = 8 << 20;
const BATCH_ROWS_MAX: u64 = 8192;
/// What a number takes once it is decoded, in bytes.
const NUMBER_BYTES: i64 = 8;

/// A live file of a quarantine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LiveFile {
    /// As the log writes it.
    pub(super) path: String,
    /// Bytes.
    pub(super) size: u64,
    /// Rows.
    pub(super) rows: u64,
    sha256: String,
    partition_values: BTreeMap<String, Option<String>>,
}

impl LiveFile {
    /// The file that a version adds as `digest`.
    pub(crate) fn added_as(digest: &FileDigest) -> Self {
        let FileDigest { path, size, sha256, rows } = digest.clone();
        Self { path, size, rows, sha256, partition_values: BTreeMap::new() }
    }

    /// The file as a redrive takes it out of the table.
    pub(super) fn removed(&self) -> RemovedFile {
        let Self { path, size, rows, partition_values, sha256: _ } = self.clone();
        RemovedFile { path, size, rows, partition_values }
    }
}

/// One table in the clouds.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) clouds: Vec<Cloud>,
    /// The quarantine.
    pub(crate) table: String,
}

impl Source {
    /// The live files at `head`, in the order in which the log names them.
    ///
    /// # Errors
    /// [`Error::NoMajority`] if no cloud has a log that leads there; says of every cloud why.
    pub(super) async fn files_at(&self, head: &TableHead) -> Result<Vec<LiveFile>, Error> {
        let mut reasons = Vec::new();
        for attempt in 0..ATTEMPTS_MAX {
            if attempt > 0 {
                // Decided is not yet published: the lanes are on their way.
                tokio::time::sleep(PAUSE).await;
            }
            reasons.clear();
            for cloud in &self.clouds {
                match self.read_log(cloud, head.version).await {
                    Ok(log) if has_hash(&log, head) => return Ok(live_files(&log)),
                    Ok(_) => reasons.push(format!("{}: has another version {}", cloud.name, head.version)),
                    Err(why) => reasons.push(format!("{}: {why}", cloud.name)),
                }
            }
            debug!(table = self.table, version = head.version, ?reasons, "not published yet");
        }
        Err(Error::no_majority(&format!("read {}", self.table), 1, self.clouds.len(), reasons))
    }

    /// The live files at the newest version that some cloud has, the first of those that answer.
    ///
    /// # Errors
    /// [`Error::Configuration`] if there is none, [`Error::NoMajority`] if no cloud answers with a whole log.
    pub(super) async fn newest_files(&self) -> Result<Vec<LiveFile>, Error> {
        let mut reasons = Vec::new();
        for cloud in &self.clouds {
            let newest =
                list_versions(cloud, &self.table, None).await.map(|versions| versions.last().copied());
            let read = match newest {
                Ok(None) => continue,
                Ok(Some(version)) => self.read_log(cloud, version).await,
                Err(error) => Err(chain_of(&error)),
            };
            match read {
                Ok(log) => return Ok(live_files(&log)),
                Err(why) => reasons.push(format!("{}: {why}", cloud.name)),
            }
        }
        if reasons.is_empty() {
            return Err(Error::Configuration(format!("nothing was committed to {} yet", self.table)));
        }
        Err(Error::no_majority(&format!("read {}", self.table), 1, self.clouds.len(), reasons))
    }

    /// The log up to `version`, whole and in order.
    async fn read_log(&self, cloud: &Cloud, version: u64) -> Result<TableLog, String> {
        let versions: Vec<u64> = (0..=version).collect();
        let log = Bodies::default().read_log(cloud, &self.table, &versions).await;
        let log = log.map_err(|error| chain_of(&error))?;
        let checks =
            [checks::entries(&log), checks::versions(&log), checks::hash_chain(&log), checks::paths(&log)];
        match checks.iter().find_map(|check| check.examples.first()) {
            Some(problem) => Err(format!("{problem}; see `isobar prove`")),
            None => Ok(log),
        }
    }

    /// A file as the log states it, from the first cloud that has it so, on this machine.
    ///
    /// # Errors
    /// [`Error::NoMajority`] if no cloud has it.
    pub(crate) async fn fetch(&self, file: &LiveFile) -> Result<File, Error> {
        let unread = |reasons| {
            let action = format!("read {} of {}", file.path, self.table);
            Error::no_majority(&action, 1, self.clouds.len(), reasons)
        };
        let path = decode_log_path(&file.path).map_err(|error| unread(vec![error.to_string()]))?;
        let stated = Stated { path: &path, size: file.size, sha256: Some(file.sha256.as_str()) };
        fetch(&self.clouds, &self.table, stated).await.map_err(|unfetched| unread(unfetched.reasons))
    }
}

fn has_hash(log: &TableLog, head: &TableHead) -> bool {
    log.versions.get(&head.version).is_some_and(|version| version.sha256.as_ref() == Some(&head.sha256))
}

/// The files that are added and not removed since, in the order of the log.
fn live_files(log: &TableLog) -> Vec<LiveFile> {
    let mut live: Vec<LiveFile> = Vec::new();
    for step in log.steps() {
        if !step.entry.removes.is_empty() {
            let removed: HashSet<&String> = step.entry.removes.iter().collect();
            live.retain(|file| !removed.contains(&file.path));
        }
        let digests = &step.entry.commit.isobar.files;
        for add in &step.entry.adds {
            let digest = digests.iter().find(|digest| digest.path == add.path);
            live.extend(digest.map(|digest| LiveFile {
                path: digest.path.clone(),
                size: digest.size,
                rows: digest.rows,
                sha256: digest.sha256.clone(),
                partition_values: add.partition_values.clone(),
            }));
        }
    }
    live
}

/// The rows of a fetched file, in batches that stay small also where payloads are large.
pub(crate) fn batches(file: File) -> Result<ParquetRecordBatchReader, String> {
    let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
    let builder = ParquetRecordBatchReaderBuilder::try_new_with_options(file, options)
        .map_err(|error| error.to_string())?;
    let rows = rows_at_a_time(builder.metadata());
    builder.with_batch_size(rows).build().map_err(|error| error.to_string())
}

/// How many rows of a file are decoded at a time.
pub(crate) fn rows_at_a_time(file: &ParquetMetaData) -> usize {
    let bytes_per_row = file.row_groups().iter().filter_map(|group| {
        let bytes = group.columns().iter().map(decoded_bytes).fold(0, u64::saturating_add);
        bytes.checked_div(u64::try_from(group.num_rows()).ok()?)
    });
    let rows = BATCH_BYTES / bytes_per_row.max().unwrap_or(0).max(1);
    usize::try_from(rows.clamp(1, BATCH_ROWS_MAX)).unwrap_or(1)
}

/// About the bytes of a column in memory. Values that are alike are next to nothing in the file, and as large as others here.
fn decoded_bytes(column: &ColumnChunkMetaData) -> u64 {
    let texts = column.unencoded_byte_array_data_bytes().unwrap_or(0);
    let numbers = column.num_values().saturating_mul(NUMBER_BYTES);
    u64::try_from(column.uncompressed_size().max(texts).max(numbers)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Array, ArrayRef, RecordBatch, StringArray};
    use parquet::arrow::ArrowWriter;

    use super::*;

    #[test]
    fn payloads_that_are_alike_are_decoded_a_few_at_a_time_too() {
        const PAYLOAD_BYTES: usize = 32 << 10;
        let payload = "x".repeat(PAYLOAD_BYTES);
        let payloads: ArrayRef = Arc::new(StringArray::from(vec![payload.as_str(); 100]));
        let rows = RecordBatch::try_from_iter([("payload", payloads)]).unwrap();
        let file = tempfile::tempfile().unwrap();
        let mut writer = ArrowWriter::try_new(file.try_clone().unwrap(), rows.schema(), None).unwrap();
        for _ in 0..10 {
            writer.write(&rows).unwrap();
        }
        writer.close().unwrap();
        // It is a hundredth of what it holds.
        assert!(file.metadata().unwrap().len() < 320 << 10);
        let mut total = 0;
        for batch in batches(file).unwrap() {
            let batch = batch.unwrap();
            assert!((batch.num_rows() * PAYLOAD_BYTES) as u64 <= BATCH_BYTES, "{} rows", batch.num_rows());
            total += batch.column(0).len();
        }
        assert_eq!(total, 1000);
    }
}
