//! A table's log as one cloud holds it, as plain data.
//!
//! Bodies are read action by action here, not through the code that writes commits, so that an audit does not share
//! the assumptions of what it audits. A body is understood whole or not at all: an unknown action could change what
//! the table means.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex};

use futures::{TryStreamExt, future};
use isobar_connectors::clouds::Cloud;
use isobar_connectors::delta::body::BODY_BYTES_MAX;
use isobar_connectors::delta::path::decode_log_path;
use isobar_connectors::delta::{
    AcceptedGap, Action, Add, CommitInfo, Maintenance, Metadata, Redrive, SchemaUpdate, Txn, sha256_hex,
};
use object_store::{ObjectStore, ObjectStoreExt};
use serde::Deserialize;

use crate::commit::Released;
use crate::commit::format::{log_folder, published_path, published_version};

/// Bodies read at once from one cloud.
const BODIES_IN_FLIGHT: usize = 16;

/// Bodies that are being read or were read, by SHA-256: the same body in three clouds is understood and kept once.
#[derive(Debug, Default)]
pub(crate) struct Bodies {
    entries: Mutex<HashMap<String, Result<Arc<Entry>, String>>>,
    /// Whether the statistics of files are kept; whoever reads a long log and needs none of them has no memory for all.
    keeps_statistics: bool,
}

/// One understood body.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// What the commit is.
    pub(crate) commit: CommitInfo,
    /// The table's schema and partitioning, where this body sets them.
    pub(crate) metadata: Option<Arc<Metadata>>,
    /// Positions of Kafka partitions.
    pub(crate) txns: Vec<Txn>,
    /// Files that are part of the table from here on.
    pub(crate) adds: Vec<AddedFile>,
    /// Paths, as written in the log, of files that no longer are.
    pub(crate) removes: Vec<String>,
    /// Bytes of those files, by the log.
    pub(crate) removed_bytes: u64,
}

/// An `add` action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AddedFile {
    /// As written in the log: relative to the table, URI-encoded.
    pub(crate) path: String,
    /// Bytes.
    pub(crate) size: i64,
    /// `numRecords` of the statistics.
    pub(crate) rows: Option<u64>,
    /// The statistics, as JSON text, where they are kept.
    pub(crate) statistics: Option<Arc<str>>,
    /// The text of every partition column; `None` is SQL's null.
    pub(crate) partition_values: BTreeMap<String, Option<String>>,
}

/// One version as found in a cloud.
#[derive(Debug, Clone)]
pub(crate) struct Version {
    /// SHA-256 of the bytes, `None` if they could not be read.
    pub(crate) sha256: Option<String>,
    /// The body, or why it is not understood.
    pub(crate) entry: Result<Arc<Entry>, String>,
}

/// The log of one table in one cloud.
#[derive(Debug, Clone, Default)]
pub(crate) struct TableLog {
    /// The table: a dataset or its quarantine.
    pub(crate) table: String,
    /// All versions found.
    pub(crate) versions: BTreeMap<u64, Version>,
    /// The newest version found in any cloud, `None` where no cloud has any.
    pub(crate) newest_anywhere: Option<u64>,
}

/// What lies before a version in the same cloud.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Before<'a> {
    /// Nothing: this is version 0.
    Beginning,
    /// The version one below.
    Body(&'a Version),
    /// A version that is missing here.
    Missing,
}

/// One understood version and what lies before it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Step<'a> {
    pub(crate) version: u64,
    pub(crate) entry: &'a Entry,
    pub(crate) before: Before<'a>,
}

impl Step<'_> {
    /// Whether what came before is known, so that this version can be held against it.
    pub(crate) fn continues(&self) -> bool {
        match self.before {
            Before::Beginning => true,
            Before::Body(version) => version.entry.is_ok(),
            Before::Missing => false,
        }
    }
}

/// A data file that the log says is part of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DataFile {
    /// The object's path relative to the table, decoded.
    pub(crate) path: String,
    /// Bytes, by the log.
    pub(crate) size: u64,
    /// Rows, by the log, where it states them.
    pub(crate) rows: Option<u64>,
    /// SHA-256, by the log, where it states one.
    pub(crate) sha256: Option<String>,
    /// Partition values as text.
    pub(crate) partition_values: BTreeMap<String, Option<String>>,
    /// Statistics of its columns, as the log has them, where they are kept: JSON text.
    pub(crate) statistics: Option<Arc<str>>,
    /// What the table is at the version that adds the file, where that is known.
    pub(crate) metadata: Option<Arc<Metadata>>,
}

impl TableLog {
    /// The last version here, `None` where there is none.
    pub(crate) fn last(&self) -> Option<u64> {
        self.versions.keys().next_back().copied()
    }

    /// The understood versions in order.
    pub(crate) fn steps(&self) -> impl Iterator<Item = Step<'_>> {
        self.versions.iter().filter_map(|(version, found)| {
            let before = match version.checked_sub(1) {
                None => Before::Beginning,
                Some(previous) => self.versions.get(&previous).map_or(Before::Missing, Before::Body),
            };
            Some(Step { version: *version, entry: found.entry.as_deref().ok()?, before })
        })
    }

    /// The files of the table after its last version: added and not removed, by path. A path that leaves the table
    /// is left out; the check on paths reports it.
    pub(crate) fn files(&self) -> Vec<DataFile> {
        files_after(Vec::new(), self.steps())
    }

    /// The same for a log that begins with version `from`, after which the table had the files of `base`.
    pub(crate) fn files_since(&self, from: u64, base: Vec<DataFile>) -> Vec<DataFile> {
        files_after(base, self.steps().filter(|step| step.version > from))
    }

    /// How many files the table has at `version`, if every version up to it is understood.
    pub(crate) fn file_count_at(&self, version: u64) -> Option<u64> {
        let up_to = || self.steps().take_while(|step| step.version <= version);
        let is_whole = up_to().count() as u64 == version.checked_add(1)?;
        is_whole.then(|| files_after(Vec::new(), up_to()).len() as u64)
    }

    /// Every path the log ever named and no VACUUM let go, decoded.
    pub(crate) fn named_paths(&self) -> HashSet<String> {
        let released = self.released_paths();
        let adds = self.steps().flat_map(|step| &step.entry.adds);
        let paths = adds.filter_map(|add| decode_log_path(&add.path).ok());
        paths.filter(|path| !released.contains(path)).collect()
    }

    /// The paths that a VACUUM let go, decoded: they may be gone, and nothing needs them.
    pub(crate) fn released_paths(&self) -> HashSet<String> {
        let mut released = Released::default();
        for step in self.steps() {
            released.note_actions(step.version, step.entry.removes.iter().cloned(), step.entry.maintenance());
        }
        released.paths().filter_map(|path| decode_log_path(path).ok()).collect()
    }
}

impl Entry {
    /// What maintenance this is, `None` for a commit of rows and for parameters that are not understood; the check on
    /// counts reports those.
    pub(crate) fn maintenance(&self) -> Option<Maintenance> {
        Maintenance::of(&self.commit).ok().flatten()
    }

    /// What side of a redrive this is, in the same way.
    pub(crate) fn redrive(&self) -> Option<Redrive> {
        Redrive::of(&self.commit).ok().flatten()
    }

    /// The fence of an entry that removes files or lets them go, in the same way.
    pub(crate) fn planned_after(&self) -> Option<u64> {
        self.commit.planned_after().ok().flatten()
    }

    /// The change of the schema that this is, in the same way.
    pub(crate) fn schema_update(&self) -> Option<SchemaUpdate> {
        SchemaUpdate::of(&self.commit).ok().flatten()
    }

    /// The gap that this accepts, if it does.
    pub(crate) fn accepted_gap(&self) -> Option<AcceptedGap> {
        AcceptedGap::of(&self.commit).ok().flatten()
    }
}

/// The files that are left of `base` after `steps`, by path.
fn files_after<'a>(base: Vec<DataFile>, steps: impl Iterator<Item = Step<'a>>) -> Vec<DataFile> {
    // Decoded, so that it does not matter how a path is written.
    let mut live: BTreeMap<String, DataFile> =
        base.into_iter().map(|file| (file.path.clone(), file)).collect();
    let mut metadata: Option<&Arc<Metadata>> = None;
    for step in steps {
        // A version that is missing may have changed the schema.
        metadata = step.entry.metadata.as_ref().or(metadata.filter(|_| step.continues()));
        for removed in &step.entry.removes {
            if let Ok(path) = decode_log_path(removed) {
                live.remove(&path);
            }
        }
        for add in &step.entry.adds {
            if let Some(file) = data_file(add, Some(step.entry), metadata) {
                live.insert(file.path.clone(), file);
            }
        }
    }
    live.into_values().collect()
}

/// `entry` is the body that adds the file; a checkpoint does not say which that was. `None` if it is not a file of a table: its path
/// leaves the table, or its size is none.
pub(crate) fn data_file(
    add: &AddedFile,
    entry: Option<&Entry>,
    metadata: Option<&Arc<Metadata>>,
) -> Option<DataFile> {
    let digest = entry.and_then(|entry| entry.commit.isobar.files.iter().find(|file| file.path == add.path));
    Some(DataFile {
        path: decode_log_path(&add.path).ok()?,
        size: u64::try_from(add.size).ok()?,
        rows: digest.map(|file| file.rows).or(add.rows),
        sha256: digest.map(|file| file.sha256.clone()),
        partition_values: add.partition_values.clone(),
        statistics: add.statistics.clone(),
        metadata: metadata.cloned(),
    })
}

/// The one statistic that is needed of every file.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct FileStatistics {
    num_records: Option<u64>,
}

/// Reads a body. The statistics of its files are checked and not kept.
///
/// # Errors
/// What is wrong with it: not JSON lines, no `commitInfo` of isobar as the first line, an unknown action, a deletion
/// vector, statistics that are not JSON.
pub(crate) fn parse_entry(body: &[u8]) -> Result<Entry, String> {
    parse(body, false)
}

fn parse(body: &[u8], keeps_statistics: bool) -> Result<Entry, String> {
    let text = std::str::from_utf8(body).map_err(|_| "not UTF-8".to_owned())?;
    let mut lines = text.lines().enumerate().map(|(index, line)| {
        serde_json::from_str::<Action>(line).map_err(|error| format!("line {}: {error}", index + 1))
    });
    let Some(Action::CommitInfo(commit)) = lines.next().transpose()? else {
        return Err("the first line is not a commitInfo".to_owned());
    };
    let mut entry = Entry {
        commit,
        metadata: None,
        txns: Vec::new(),
        adds: Vec::new(),
        removes: Vec::new(),
        removed_bytes: 0,
    };
    for action in lines {
        match action? {
            Action::CommitInfo(_) => return Err("a second commitInfo".to_owned()),
            Action::Protocol(_) => {}
            Action::MetaData(metadata) => entry.metadata = Some(Arc::new(metadata)),
            Action::Txn(txn) => entry.txns.push(txn),
            Action::Add(add) => {
                let mut file = added_file(add)?;
                file.statistics = file.statistics.filter(|_| keeps_statistics);
                entry.adds.push(file);
            }
            Action::Remove(remove) => {
                let bytes = remove.size.and_then(|size| u64::try_from(size).ok()).unwrap_or(0);
                entry.removed_bytes = entry.removed_bytes.saturating_add(bytes);
                entry.removes.push(remove.path);
            }
        }
    }
    Ok(entry)
}

/// A file as the log adds it.
///
/// # Errors
/// For a deletion vector, and for statistics that are not JSON.
pub(crate) fn added_file(add: Add) -> Result<AddedFile, String> {
    if add.deletion_vector.is_some() {
        return Err(format!("{}: a deletion vector, which would hide rows", add.path));
    }
    let statistics = add.stats.as_deref().map(serde_json::from_str::<FileStatistics>).transpose();
    let statistics = statistics.map_err(|error| format!("{}: statistics: {error}", add.path))?;
    let rows = statistics.and_then(|statistics| statistics.num_records);
    let statistics = add.stats.map(Into::into);
    Ok(AddedFile { path: add.path, size: add.size, rows, statistics, partition_values: add.partition_values })
}

/// The versions of `table` above `last`, ascending. Checkpoints and whatever else lies there are passed over.
pub(crate) async fn list_versions(
    cloud: &Cloud,
    table: &str,
    last: Option<u64>,
) -> Result<Vec<u64>, object_store::Error> {
    let folder = log_folder(table);
    let listed = match last {
        Some(last) => cloud.data.list_with_offset(Some(&folder), &published_path(table, last)),
        None => cloud.data.list(Some(&folder)),
    };
    let found: Vec<Option<u64>> =
        match listed.map_ok(|object| published_version(&object.location)).try_collect().await {
            Err(object_store::Error::NotFound { .. }) => Vec::new(),
            found => found?,
        };
    let mut versions: Vec<u64> = found.into_iter().flatten().collect();
    versions.sort_unstable();
    Ok(versions)
}

impl Bodies {
    /// Keeps the statistics of files as well.
    pub(crate) fn with_statistics() -> Self {
        Self { keeps_statistics: true, ..Self::default() }
    }

    /// Reads the given versions of `table` from `cloud`, some at once.
    pub(crate) async fn read_log(
        &self,
        cloud: &Cloud,
        table: &str,
        listed: &[u64],
    ) -> object_store::Result<TableLog> {
        let mut log = TableLog { table: table.to_owned(), ..TableLog::default() };
        for versions in listed.chunks(BODIES_IN_FLIGHT) {
            let reads: Vec<_> = versions.iter().map(|version| self.read(cloud, table, *version)).collect();
            log.versions.extend(versions.iter().copied().zip(future::try_join_all(reads).await?));
        }
        Ok(log)
    }

    /// Reads version `version` of `table` from `cloud`. A body that is not understood is an answer; a cloud that does
    /// not answer is an error.
    async fn read(&self, cloud: &Cloud, table: &str, version: u64) -> object_store::Result<Version> {
        let found = match cloud.data.get(&published_path(table, version)).await {
            Err(object_store::Error::NotFound { .. }) => {
                return Ok(Version::unread("vanished while it was read"));
            }
            found => found?,
        };
        if found.meta.size > BODY_BYTES_MAX as u64 {
            return Ok(Version::unread(format!("{} bytes, more than a body may have", found.meta.size)));
        }
        let body = found.bytes().await?;
        let sha256 = sha256_hex(&body);
        let mut entries = self.entries.lock().expect("no code panics while it holds the bodies");
        let parsed = || parse(&body, self.keeps_statistics).map(Arc::new);
        let entry = entries.entry(sha256.clone()).or_insert_with(parsed).clone();
        Ok(Version { sha256: Some(sha256), entry })
    }
}

impl Version {
    fn unread(why: impl Into<String>) -> Self {
        Self { sha256: None, entry: Err(why.into()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prove::testing::{DATASET, History};

    /// Rows and statistics of the files that version 1 adds.
    async fn facts(cloud: &Cloud, bodies: Bodies) -> Vec<(Option<u64>, bool)> {
        let log = bodies.read_log(cloud, DATASET, &[1]).await.unwrap();
        log.files().iter().map(|file| (file.rows, file.statistics.is_some())).collect()
    }

    #[tokio::test]
    async fn statistics_are_kept_only_where_they_are_asked_for() {
        let clouds = History::good().store(1).await;
        assert_eq!(facts(&clouds[0], Bodies::default()).await, [(Some(3), false), (Some(5), false)]);
        assert_eq!(facts(&clouds[0], Bodies::with_statistics()).await, [(Some(3), true), (Some(5), true)]);
    }
}
