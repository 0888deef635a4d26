//! What a table holds at one of its versions, from the first cloud that can tell.
//!
//! The log is replayed from the newest checkpoint that is not after the version, or from version 0 where there is none. A log with
//! a missing version, a broken hash chain or a body that is not understood is not believed, and the next cloud is asked;
//! `isobar prove` says what is wrong with it. A checkpoint that cannot be read is passed over, and the whole log read.

use std::collections::{BTreeMap, HashMap};

use arrow::datatypes::{Field, Schema, SchemaRef};
use bytes::Bytes;
use futures::{TryStreamExt, future};
use isobar_connectors::checkpoint::{
    CHECKPOINT_BYTES_MAX, CheckpointState, RemovedFiles, read_checkpoint, removed_files,
};
use isobar_connectors::clouds::{Cloud, REGISTER_BYTES_MAX, read_register};
use isobar_connectors::delta::Metadata;
use isobar_connectors::delta::schema::to_arrow;
use object_store::{ObjectStore, ObjectStoreExt};
use serde::Deserialize;
use tracing::warn;

use super::TableVersion;
use super::freshness::Freshness;
use crate::commit::format::{
    checkpoint_path, checkpoint_version, last_checkpoint_path, log_folder, published_path, published_version,
};
use crate::error::Error;
use crate::prove::checks;
use crate::prove::log::{Bodies, DataFile, TableLog, added_file, data_file};
use crate::prove::tally::Tally;

/// Entries that are read to get from a version that is known to the newest; where there are more, a checkpoint is nearer.
const FOLLOWED_MAX: u64 = 200;
/// What is read first of the end of a checkpoint: enough where it has some dozens of row groups.
const CHECKPOINT_END_BYTES: u64 = 64 << 10;

/// One table at one version.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    /// The dataset, or its quarantine.
    pub(crate) table: String,
    /// The version.
    pub(crate) version: u64,
    /// The cloud that this was read from.
    pub(crate) cloud: String,
    /// When the version was committed, in milliseconds since the Unix epoch.
    pub(crate) committed_ms: i64,
    /// Columns in the table's order.
    pub(crate) schema: SchemaRef,
    /// What else the log says about the table.
    pub(crate) metadata: Metadata,
    /// Files of this version.
    pub(crate) files: Vec<DataFile>,
    /// SHA-256 of the version's entry in the log.
    pub(crate) sha256: String,
}

impl Snapshot {
    /// Which version this is.
    pub(super) fn table_version(&self) -> TableVersion {
        TableVersion {
            table: self.table.clone(),
            version: self.version,
            cloud: self.cloud.clone(),
            committed_ms: self.committed_ms,
            sha256: self.sha256.clone(),
        }
    }

    /// Rows, by the log; `None` if it does not say so of every file.
    pub(super) fn rows(&self) -> Option<u64> {
        self.files.iter().map(|file| file.rows).sum()
    }
}

/// What a table is at its newest version.
#[derive(Debug, Clone)]
pub(crate) struct PublishedTable {
    /// The version.
    pub(crate) version: u64,
    /// The cloud that this was read from.
    pub(crate) cloud: String,
    /// Name, schema and partitioning.
    pub(crate) metadata: Metadata,
}

/// What each of `tables` that exists is, by table.
///
/// # Errors
/// As [`newest_snapshots`].
pub(crate) async fn newest_tables(
    clouds: &[Cloud],
    tables: &[String],
) -> Result<BTreeMap<String, PublishedTable>, Error> {
    let snapshots = newest_snapshots(clouds, tables).await?;
    let published = |snapshot: Snapshot| PublishedTable {
        version: snapshot.version,
        cloud: snapshot.cloud,
        metadata: snapshot.metadata,
    };
    Ok(snapshots.into_iter().map(|(table, snapshot)| (table, published(snapshot))).collect())
}

/// The newest snapshot of each of `tables` that has one, by table.
///
/// # Errors
/// [`Error::NoMajority`] if some table may exist but no cloud can serve it.
pub(crate) async fn newest_snapshots(
    clouds: &[Cloud],
    tables: &[String],
) -> Result<BTreeMap<String, Snapshot>, Error> {
    fresh_snapshots(clouds, tables, &Freshness::default()).await
}

/// The same from clouds whose newest version is as new as it has to be.
///
/// # Errors
/// As [`newest_snapshots`]; also if no cloud that answers is new enough.
pub(super) async fn fresh_snapshots(
    clouds: &[Cloud],
    tables: &[String],
    freshness: &Freshness,
) -> Result<BTreeMap<String, Snapshot>, Error> {
    let mut snapshots = BTreeMap::new();
    let mut reasons: BTreeMap<&str, String> = BTreeMap::new();
    for table in tables {
        let mut refused = false;
        let mut behind = Vec::new();
        for cloud in
            clouds.iter().filter(|cloud| !reasons.contains_key(cloud.name.as_str())).collect::<Vec<_>>()
        {
            match newest_snapshot(cloud, table).await {
                Ok(None) if !freshness.is_asked_of(table) => {}
                Ok(None) => behind.push(format!("{}: it has no version", cloud.name)),
                Ok(Some(snapshot)) => {
                    match freshness.lacking(table, snapshot.version, snapshot.committed_ms) {
                        Some(why) => behind.push(format!("{}: {why}", cloud.name)),
                        None => {
                            snapshots.insert(table.clone(), snapshot);
                            break;
                        }
                    }
                }
                Err(why) => {
                    warn!(cloud = %cloud.name, %table, why, "cloud cannot serve the table, asking the next");
                    reasons.insert(&cloud.name, format!("{}: {why}", cloud.name));
                    refused = true;
                }
            }
        }
        let served = snapshots.contains_key(table);
        if !served && !behind.is_empty() {
            behind.extend(reasons.into_values());
            let action = format!("read {table} {}", freshness.in_words(table));
            return Err(Error::no_majority(&action, 1, clouds.len(), behind));
        }
        if !served && (refused || reasons.len() == clouds.len()) {
            let reasons = reasons.into_values().collect();
            return Err(Error::no_majority(&format!("read table {table}"), 1, clouds.len(), reasons));
        }
    }
    Ok(snapshots)
}

/// The newest snapshot of `table` in `cloud`, `None` if it has no version there.
async fn newest_snapshot(cloud: &Cloud, table: &str) -> Result<Option<Snapshot>, String> {
    let listing = Listing::reaching(cloud, table, None).await?;
    match listing.newest() {
        Some(newest) => load(cloud, table, newest, &listing).await.map(Some),
        None => Ok(None),
    }
}

/// What lies in the log of a table in one cloud, as far as it was listed.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// Nothing before this version was listed.
    from: u64,
    /// Versions, ascending.
    pub(super) versions: Vec<u64>,
    /// Versions that have a checkpoint, ascending.
    checkpoints: Vec<u64>,
}

/// What is needed of `_last_checkpoint`.
#[derive(Deserialize)]
struct Hint {
    version: u64,
}

impl Listing {
    /// Lists the log far enough back for `version` to be read, or the newest version where that is `None`: from the last
    /// checkpoint on if that is enough.
    pub(super) async fn reaching(cloud: &Cloud, table: &str, version: Option<u64>) -> Result<Self, String> {
        if let Some(hint) = last_checkpoint(cloud, table).await
            && version.is_none_or(|version| hint <= version)
        {
            let listing = Self::since(cloud, table, hint).await?;
            if listing.versions.first() == Some(&hint) && listing.checkpoints.contains(&hint) {
                return Ok(listing);
            }
        }
        Self::since(cloud, table, 0).await
    }

    /// Lists the log from version `from` on.
    pub(super) async fn since(cloud: &Cloud, table: &str, from: u64) -> Result<Self, String> {
        let folder = log_folder(table);
        let mut objects = match from.checked_sub(1) {
            Some(before) => cloud.data.list_with_offset(Some(&folder), &published_path(table, before)),
            None => cloud.data.list(Some(&folder)),
        };
        let mut listing = Self { from, ..Self::default() };
        loop {
            let location = match objects.try_next().await {
                Ok(Some(object)) => object.location,
                Ok(None) | Err(object_store::Error::NotFound { .. }) => break,
                Err(error) => return Err(crate::chain_of(&error)),
            };
            // A name that stands for a version and is another one is not ours.
            let version = published_version(&location);
            listing.versions.extend(version.filter(|version| published_path(table, *version) == location));
            let version = checkpoint_version(&location);
            listing
                .checkpoints
                .extend(version.filter(|version| checkpoint_path(table, *version) == location));
        }
        listing.versions.sort_unstable();
        listing.checkpoints.sort_unstable();
        Ok(listing)
    }

    /// The newest version.
    pub(super) fn newest(&self) -> Option<u64> {
        self.versions.last().copied()
    }

    /// Whether `version` is there.
    pub(super) fn has(&self, version: u64) -> bool {
        self.versions.binary_search(&version).is_ok()
    }

    /// The newest checkpoint that is not after `version`, and whose version is there.
    fn checkpoint_for(&self, version: u64) -> Option<u64> {
        let fits = |checkpoint: &&u64| **checkpoint <= version && self.has(**checkpoint);
        self.checkpoints.iter().rev().find(fits).copied()
    }

    /// The newest checkpoint that is after `version`.
    pub(super) fn checkpoint_after(&self, version: u64) -> Option<u64> {
        self.checkpoints.last().copied().filter(|checkpoint| *checkpoint > version)
    }

    /// The versions from `first` to `last`, none of which may be missing.
    fn run(&self, table: &str, first: u64, last: u64) -> Result<Vec<u64>, String> {
        let run = self.versions.iter().copied().filter(|version| (first..=last).contains(version));
        let run: Vec<u64> = run.collect();
        // The last one is there, so that a missing one leaves a gap.
        match (first..=last).zip(&run).find(|(expected, found)| expected != *found) {
            Some((missing, _)) => Err(format!("{table}: version {missing} is missing")),
            None => Ok(run),
        }
    }
}

/// The version that `_last_checkpoint` names. What cannot be read there only makes reading slower.
async fn last_checkpoint(cloud: &Cloud, table: &str) -> Option<u64> {
    let path = last_checkpoint_path(table);
    let bytes = read_register(&*cloud.data, &path, REGISTER_BYTES_MAX).await.ok()??;
    Some(serde_json::from_slice::<Hint>(&bytes).ok()?.version)
}

/// `version` of `table`, which is in `listing`.
pub(super) async fn load(
    cloud: &Cloud,
    table: &str,
    version: u64,
    listing: &Listing,
) -> Result<Snapshot, String> {
    if let Some(checkpoint) = listing.checkpoint_for(version) {
        match load_since(cloud, table, checkpoint, version, listing).await {
            Ok(snapshot) => return Ok(snapshot),
            Err(why) => {
                let cloud = &cloud.name;
                warn!(%cloud, %table, checkpoint, why, "a checkpoint is of no use, reading the whole log");
            }
        }
    }
    let whole = if listing.from > 0 { Some(Listing::since(cloud, table, 0).await?) } else { None };
    let versions = &whole.as_ref().unwrap_or(listing).versions;
    let versions: Vec<u64> = versions.iter().copied().filter(|other| *other <= version).collect();
    let log = read_log(Bodies::with_statistics(), cloud, table, &versions).await?;
    replay(cloud, log)
}

/// The newest version in `cloud`, by the entry of `known`, which must be there, and those after it alone. It may be the same one, from
/// another cloud; `None` if nothing is newer in the cloud of `known` itself.
pub(super) async fn follow(cloud: &Cloud, known: &Snapshot) -> Result<Option<Snapshot>, String> {
    let table = &known.table;
    let listing = Listing::since(cloud, table, known.version).await?;
    let newest = listing.newest().ok_or_else(|| format!("{table}: version {} is gone", known.version))?;
    if newest == known.version && cloud.name == known.cloud {
        return Ok(None);
    }
    if newest - known.version > FOLLOWED_MAX {
        return newest_snapshot(cloud, table).await;
    }
    let log = read_log(Bodies::with_statistics(), cloud, table, &listing.run(table, known.version, newest)?)
        .await?;
    let newer = snapshot_since(cloud, &log, known.version, known.metadata.clone(), known.files.clone())?;
    let found = log.versions.get(&known.version).and_then(|entry| entry.sha256.as_ref());
    if found != Some(&known.sha256) {
        return Err(format!("{table}: version {} is another one than before", known.version));
    }
    Ok(Some(newer))
}

/// Some versions of a table, with what is asked of `bodies`.
pub(super) async fn read_log(
    bodies: Bodies,
    cloud: &Cloud,
    table: &str,
    versions: &[u64],
) -> Result<TableLog, String> {
    bodies.read_log(cloud, table, versions).await.map_err(|error| crate::chain_of(&error))
}

/// The snapshot that a whole log ends with.
fn replay(cloud: &Cloud, log: TableLog) -> Result<Snapshot, String> {
    let checks =
        [checks::entries(&log), checks::versions(&log), checks::hash_chain(&log), checks::paths(&log)];
    refuse(&log.table, &checks)?;
    let metadata = log.steps().filter_map(|step| step.entry.metadata.as_ref()).last();
    let metadata = metadata.ok_or_else(|| format!("{}: no metaData", log.table))?.as_ref().clone();
    snapshot(cloud, &log, metadata, log.files())
}

/// `version` from the checkpoint of an earlier one, and the bodies after that. The checkpoint's own version is read as well:
/// the one after it vouches for it.
async fn load_since(
    cloud: &Cloud,
    table: &str,
    checkpoint: u64,
    version: u64,
    listing: &Listing,
) -> Result<Snapshot, String> {
    let versions = listing.run(table, checkpoint, version)?;
    // Neither waits for the other: a query may wait for both.
    let bodies = read_log(Bodies::with_statistics(), cloud, table, &versions);
    let ((state, base), log) = future::try_join(state_of(cloud, table, checkpoint), bodies).await?;
    snapshot_since(cloud, &log, checkpoint, state.metadata, base)
}

/// The snapshot that `log` ends with, which begins with version `from`; `metadata` and `base` are what the table was then.
fn snapshot_since(
    cloud: &Cloud,
    log: &TableLog,
    from: u64,
    metadata: Metadata,
    base: Vec<DataFile>,
) -> Result<Snapshot, String> {
    refuse(&log.table, &[checks::entries(log), checks::hash_chain(log), checks::paths(log)])?;
    let later = log.steps().filter(|step| step.version > from);
    let changed = later.filter_map(|step| step.entry.metadata.as_ref()).last();
    let metadata = changed.map_or(metadata, |changed| changed.as_ref().clone());
    snapshot(cloud, log, metadata, log.files_since(from, base))
}

/// How many files a checkpoint says were removed from the table before, and not added again. Only its end is read.
pub(super) async fn removed_before(cloud: &Cloud, table: &str, checkpoint: u64) -> Result<u64, String> {
    let path = checkpoint_path(table, checkpoint);
    let found = cloud.data.head(&path).await.map_err(|error| crate::chain_of(&error))?;
    if found.size > CHECKPOINT_BYTES_MAX {
        return Err(format!("{} bytes, more than {CHECKPOINT_BYTES_MAX}", found.size));
    }
    let mut wanted = CHECKPOINT_END_BYTES.min(found.size);
    loop {
        let end = cloud.data.get_range(&path, found.size - wanted..found.size).await;
        let end = end.map_err(|error| crate::chain_of(&error))?;
        match removed_files(&end, found.size).map_err(|error| crate::chain_of(&error))? {
            RemovedFiles::Count(removed) => return Ok(removed),
            RemovedFiles::Needs(more) if more > wanted && more <= found.size => wanted = more,
            RemovedFiles::Needs(more) => return Err(format!("{more} bytes of {} are needed", found.size)),
        }
    }
}

/// What a checkpoint says, read on a thread that may be kept busy.
async fn state_of(
    cloud: &Cloud,
    table: &str,
    checkpoint: u64,
) -> Result<(CheckpointState, Vec<DataFile>), String> {
    let path = checkpoint_path(table, checkpoint);
    let found = read_register(&*cloud.data, &path, CHECKPOINT_BYTES_MAX).await;
    let bytes = found.map_err(|error| crate::chain_of(&error))?.ok_or("it is gone")?;
    tokio::task::spawn_blocking(move || parse_state(bytes)).await.map_err(|died| died.to_string())?
}

/// What a checkpoint says, and the files that it names.
fn parse_state(bytes: Bytes) -> Result<(CheckpointState, Vec<DataFile>), String> {
    let mut files = Vec::new();
    let mut problem = None;
    let state = read_checkpoint(bytes, |add| match added_file(add) {
        Ok(added) => match data_file(&added, None, None) {
            Some(file) => files.push(file),
            None => _ = problem.get_or_insert(format!("{}: not a file of a table", added.path)),
        },
        Err(why) => _ = problem.get_or_insert(why),
    });
    let state = state.map_err(|error| crate::chain_of(&error))?;
    problem.map_or(Ok((state, files)), Err)
}

/// The first thing that is wrong.
fn refuse(table: &str, checks: &[Tally]) -> Result<(), String> {
    match checks.iter().find_map(|found| found.examples.first()) {
        Some(problem) => Err(format!("{table}: {problem}; see `isobar prove`")),
        None => Ok(()),
    }
}

fn snapshot(
    cloud: &Cloud,
    log: &TableLog,
    metadata: Metadata,
    files: Vec<DataFile>,
) -> Result<Snapshot, String> {
    let table = log.table.clone();
    let version = log.last().ok_or_else(|| format!("{table}: no version"))?;
    let newest = log.steps().last().ok_or_else(|| format!("{table}: no version"))?;
    let committed_ms = newest.entry.commit.in_commit_timestamp_ms;
    let schema = to_arrow(&metadata.schema_string).map_err(|error| format!("{table}: {error}"))?;
    let sha256 = log.versions.get(&version).and_then(|entry| entry.sha256.clone());
    let sha256 = sha256.ok_or_else(|| format!("{table}: version {version} could not be read"))?;
    let (cloud, schema) = (cloud.name.clone(), undocumented(&schema));
    Ok(Snapshot { table, version, cloud, committed_ms, schema, metadata, files, sha256 })
}

/// `schema` without what is said about its columns: the engine compares that as well, and files have none.
fn undocumented(schema: &Schema) -> SchemaRef {
    let bare = schema.fields().iter().map(|field| field.as_ref().clone().with_metadata(HashMap::new()));
    Schema::new(bare.collect::<Vec<Field>>()).into()
}
