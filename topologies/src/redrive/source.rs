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
    let row_groups = builder.metadata().row_groups();
    let bytes_per_row = row_groups.iter().filter_map(|group| {
        let (bytes, rows) =
            (u64::try_from(group.total_byte_size()).ok()?, u64::try_from(group.num_rows()).ok()?);
        bytes.checked_div(rows)
    });
    let rows = BATCH_BYTES / bytes_per_row.max().unwrap_or(0).max(1);
    let rows = usize::try_from(rows.clamp(1, BATCH_ROWS_MAX)).unwrap_or(1);
    builder.with_batch_size(rows).build().map_err(|error| error.to_string())
}
