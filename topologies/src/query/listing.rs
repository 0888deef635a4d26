//! The versions of a table: what each of them is and what it changed, from the log alone. No data file is read.

use std::collections::BTreeMap;

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use indicatif::{HumanBytes, HumanCount};
use isobar_connectors::clouds::Cloud;
use isobar_connectors::delta::{CommitInfo, MaintenanceWork, Redrive};
use isobar_schemas::RowCounts;
use serde::Serialize;
use tracing::warn;

use super::history::{Removals, shown};
use super::names::Names;
use super::replicas::{Reading, Replicas};
use super::snapshot::{Listing, load, read_log};
use crate::error::Error;
use crate::prove::checks::short;
use crate::prove::log::{Bodies, Entry, Version};
use crate::spec::Topology;
use crate::start::open_clouds;

/// Versions read at once.
const VERSIONS_AT_ONCE: usize = 256;

/// Some versions of a table, the newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Snapshots {
    /// The dataset, or its quarantine.
    pub table: String,
    /// The cloud whose log was read.
    pub cloud: String,
    /// The newest version.
    pub newest: u64,
    /// The versions.
    pub versions: Vec<SnapshotSummary>,
}

/// One version of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SnapshotSummary {
    /// The version.
    pub version: u64,
    /// When it was committed: the in-commit timestamp, RFC 3339. `TIMESTAMP AS OF` goes by it.
    pub committed: String,
    /// What it is: `create`, `commit`, `compaction`, `vacuum`, `schema`, `redrive` or `gap`.
    pub kind: String,
    /// The decision's number; all tables of one decision share it.
    pub sequence: u64,
    /// What became of the records that it read.
    pub rows: RowCounts,
    /// Rows of the table from this version on; `None` if the log does not say.
    pub rows_total: Option<u64>,
    /// Files that are part of the table from here on.
    pub files_added: u64,
    /// Their bytes.
    pub bytes_added: u64,
    /// Files that no longer are.
    pub files_removed: u64,
    /// Their bytes.
    pub bytes_removed: u64,
    /// Whether it can be read: whether no VACUUM let go of files that it may have.
    pub readable: bool,
    /// SHA-256 of the entry, which is the same in every cloud.
    pub sha256: String,
}

/// The newest `limit` versions of a table of `topology`: of a dataset, or of a quarantine.
///
/// # Errors
/// [`Error::Configuration`] if there is no such table or it has no version; [`Error::NoMajority`] if no cloud can tell.
pub async fn snapshots(topology: &Topology, table: &str, limit: usize) -> Result<Snapshots, Error> {
    snapshots_in(topology, &open_clouds(topology)?, table, limit).await
}

/// The same in `clouds`.
///
/// # Errors
/// As [`snapshots`].
pub async fn snapshots_in(
    topology: &Topology,
    clouds: &[Cloud],
    table: &str,
    limit: usize,
) -> Result<Snapshots, Error> {
    let table = known_table(topology, table)?;
    let replicas = Replicas::new(clouds, &Reading::of(topology.query.clone()))?;
    snapshots_of(&replicas, &table, limit).await
}

/// The same from the first of `replicas` that answers in time.
async fn snapshots_of(replicas: &Replicas, table: &str, limit: usize) -> Result<Snapshots, Error> {
    let clouds = replicas.in_order(Some(table)).await;
    let mut reasons = Vec::new();
    for cloud in &clouds {
        match list(cloud, table, limit).await {
            Ok(Some(snapshots)) => return Ok(snapshots),
            Ok(None) => {}
            Err(why) => {
                warn!(cloud = %cloud.name, %table, why, "cloud cannot list the versions, asking the next");
                reasons.push(format!("{}: {why}", cloud.name));
            }
        }
    }
    if reasons.is_empty() {
        return Err(Error::Configuration(format!("nothing was committed to {table} yet")));
    }
    Err(Error::no_majority(&format!("list the versions of {table}"), 1, clouds.len(), reasons))
}

/// The table that people mean, by any of the names that queries have for it.
pub(crate) fn known_table(topology: &Topology, name: &str) -> Result<String, Error> {
    let table = Names::of(&topology.dataset_names()).get(name).map(str::to_owned);
    table.ok_or_else(|| crate::quarantine::listing::unknown_dataset(topology, name))
}

async fn list(cloud: &Cloud, table: &str, limit: usize) -> Result<Option<Snapshots>, String> {
    let listing = Listing::reaching(cloud, table, None).await?;
    let Some(newest) = listing.newest() else { return Ok(None) };
    let mut total = load(cloud, table, newest, &listing).await?.rows();
    let first = newest.saturating_sub(limit.saturating_sub(1) as u64);
    let mut removals = Removals::new(cloud, table, &listing, first).await;
    let readable_from = readable_from(&mut removals).await?;
    let mut versions = Vec::new();
    let wanted: Vec<u64> = (first..=newest).rev().collect();
    for some in wanted.chunks(VERSIONS_AT_ONCE) {
        let log = read_log(Bodies::default(), cloud, table, some).await?;
        for (version, found) in log.versions.iter().rev() {
            let mut summary = summary(*version, found).map_err(|why| format!("version {version}: {why}"))?;
            summary.rows_total = total;
            summary.readable = *version >= readable_from;
            let entry = found.entry.as_deref().map_err(Clone::clone)?;
            total = total.and_then(|total| total_before(total, entry));
            versions.push(summary);
        }
    }
    Ok(Some(Snapshots { table: table.to_owned(), cloud: cloud.name.clone(), newest, versions }))
}

/// The version from which on all can be read; some before it may be as well.
async fn readable_from(removals: &mut Removals<'_>) -> Result<u64, String> {
    let Some(vacuum) = removals.next_vacuum().await? else { return Ok(0) };
    while let Some((version, entry)) = removals.next().await? {
        if version <= vacuum.through && !entry.removes.is_empty() {
            return Ok(version);
        }
    }
    Ok(0)
}

fn summary(version: u64, found: &Version) -> Result<SnapshotSummary, String> {
    let entry = found.entry.as_deref().map_err(Clone::clone)?;
    let bytes = entry.adds.iter().filter_map(|add| u64::try_from(add.size).ok());
    Ok(SnapshotSummary {
        version,
        committed: shown(entry.commit.in_commit_timestamp_ms),
        kind: kind_of(entry),
        sequence: entry.commit.isobar.sequence,
        rows: entry.commit.isobar.rows.clone(),
        rows_total: None,
        files_added: entry.adds.len() as u64,
        bytes_added: bytes.sum(),
        files_removed: entry.removes.len() as u64,
        bytes_removed: entry.removed_bytes,
        readable: true,
        sha256: found.sha256.clone().unwrap_or_default(),
    })
}

/// What an entry is, in one word.
pub(super) fn kind_of(entry: &Entry) -> String {
    let maintenance = entry.maintenance().map(|maintenance| maintenance.work);
    let kind = match (maintenance, entry.commit.operation.as_str()) {
        (Some(MaintenanceWork::Optimize { .. }), _) => "compaction",
        (Some(MaintenanceWork::Vacuum { .. }), _) => "vacuum",
        _ if entry.redrive().is_some() => "redrive",
        _ if entry.schema_update().is_some() => "schema",
        _ if entry.accepted_gap().is_some() => "gap",
        (None, CommitInfo::CREATE) => "create",
        (None, CommitInfo::WRITE) => "commit",
        // Another writer, or a later isobar: its own word is better than none.
        (None, other) => other,
    };
    kind.to_owned()
}

/// Rows of the table before `entry`, after which there are `total`.
fn total_before(total: u64, entry: &Entry) -> Option<u64> {
    let added = entry.commit.isobar.files.iter().map(|file| file.rows).try_fold(0, u64::checked_add)?;
    total.checked_sub(added)?.checked_add(rows_removed(entry, added)?)
}

/// Rows in the files that an entry removes, which adds `added`: maintenance and redrives say how many.
pub(super) fn rows_removed(entry: &Entry, added: u64) -> Option<u64> {
    if entry.removes.is_empty() {
        return Some(0);
    }
    match (entry.maintenance().map(|maintenance| maintenance.work), entry.redrive()) {
        (Some(MaintenanceWork::Optimize { .. }), _) => Some(added),
        (_, Some(Redrive::Taken { kept, rows, .. })) => kept.checked_add(rows),
        _ => None,
    }
}

impl Snapshots {
    /// For people.
    pub fn to_table(&self) -> String {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        table.set_header([
            "VERSION",
            "COMMITTED",
            "KIND",
            "IN",
            "OUT",
            "REJECTED",
            "ROWS",
            "FILES",
            "BYTES",
            "SHA-256",
            "",
        ]);
        for version in &self.versions {
            let count = |count: u64| HumanCount(count).to_string();
            let bytes = |bytes: u64| HumanBytes(bytes).to_string();
            table.add_row([
                version.version.to_string(),
                version.committed.clone(),
                version.kind.clone(),
                count(version.rows.input),
                count(version.rows.output),
                count(version.rows.rejected_total()),
                version.rows_total.map_or("-".to_owned(), count),
                changed(version.files_added, version.files_removed, count),
                changed(version.bytes_added, version.bytes_removed, bytes),
                short(&version.sha256).to_owned(),
                if version.readable { String::new() } else { "let go".to_owned() },
            ]);
        }
        for column in [0, 3, 4, 5, 6, 7, 8] {
            if let Some(numbers) = table.column_mut(column) {
                numbers.set_cell_alignment(CellAlignment::Right);
            }
        }
        let shown: u64 = self.versions.len() as u64;
        let more = self.newest.saturating_add(1).saturating_sub(shown);
        let note = if more > 0 { format!("\n{more} earlier versions: see --limit") } else { String::new() };
        format!("{}{note}\n", table.trim_fmt())
    }
}

/// What came and went.
fn changed(added: u64, removed: u64, text: impl Fn(u64) -> String) -> String {
    match (added, removed) {
        (0, 0) => "-".to_owned(),
        (added, 0) => format!("+{}", text(added)),
        (0, removed) => format!("-{}", text(removed)),
        (added, removed) => format!("+{} -{}", text(added), text(removed)),
    }
}

/// How many entries of each kind there are.
pub(super) fn kinds(entries: impl Iterator<Item = String>) -> BTreeMap<String, u64> {
    let mut kinds = BTreeMap::new();
    for kind in entries {
        *kinds.entry(kind).or_default() += 1;
    }
    kinds
}

#[cfg(test)]
mod tests {
    use isobar_connectors::delta::sha256_hex;

    use super::*;
    use crate::commit::format::published_path;
    use crate::prove::testing::{DATASET, History, QUARANTINE};

    async fn listed(history: &History, table: &str, limit: usize) -> Snapshots {
        let clouds = history.store(1).await;
        list(&clouds[0], table, limit).await.unwrap().unwrap()
    }

    #[tokio::test]
    async fn versions_say_what_they_are_and_what_they_changed() {
        let mut history = History::good();
        history.compact();
        history.maintain(4, MaintenanceWork::Vacuum { through: 4 });
        let snapshots = listed(&history, DATASET, 10).await;
        let found: Vec<String> = snapshots
            .versions
            .iter()
            .map(|found| {
                let SnapshotSummary { version, kind, rows_total, files_added, files_removed, .. } = found;
                let readable = if found.readable { "" } else { " let go" };
                format!("{version} {kind} {rows_total:?} +{files_added} -{files_removed}{readable}")
            })
            .collect();
        assert_eq!(
            found,
            [
                "5 vacuum Some(15) +0 -0",
                "4 compaction Some(15) +1 -2",
                "3 commit Some(15) +1 -0 let go",
                "2 commit Some(13) +1 -0 let go",
                "1 commit Some(8) +2 -0 let go",
                "0 create Some(0) +0 -0 let go",
            ]
        );
        assert_eq!((snapshots.newest, snapshots.cloud.as_str()), (5, "a"));
        let third = &snapshots.versions[2];
        assert_eq!(third.committed, "1970-01-01T00:00:04.000Z");
        assert_eq!((third.rows.input, third.rows.output, third.rows.rejected_total()), (4, 2, 1));
        assert_eq!(third.sha256, sha256_hex(&history.objects()[&published_path(DATASET, 3)]));
        assert_eq!(snapshots.versions[1].bytes_removed, 2);
        let table = snapshots.to_table();
        assert!(table.contains("let go") && table.contains("compaction"), "{table}");
        assert!(!table.contains("earlier versions"), "{table}");
    }

    #[tokio::test]
    async fn the_newest_come_first_and_the_rest_is_counted() {
        let snapshots = listed(&History::good(), DATASET, 2).await;
        let versions: Vec<(u64, Option<u64>)> =
            snapshots.versions.iter().map(|version| (version.version, version.rows_total)).collect();
        assert_eq!(versions, [(3, Some(15)), (2, Some(13))]);
        assert!(snapshots.to_table().ends_with("2 earlier versions: see --limit\n"));
    }

    #[tokio::test]
    async fn redrives_schema_changes_and_gaps_have_names() {
        let mut history = History::good();
        history.redrive();
        let (dataset, quarantine) =
            (listed(&history, DATASET, 10).await, listed(&history, QUARANTINE, 10).await);
        assert_eq!(
            (dataset.versions[0].kind.as_str(), dataset.versions[0].rows_total),
            ("redrive", Some(16))
        );
        assert_eq!(dataset.versions[1].rows_total, Some(15));
        // Two rows are taken out, and one of them is rejected again.
        let rows: Vec<Option<u64>> = quarantine.versions.iter().map(|version| version.rows_total).collect();
        assert_eq!(rows, [Some(1), Some(2), Some(1), Some(0)]);
        let mut history = History::good();
        history.accept_gap(50);
        assert_eq!(listed(&history, DATASET, 1).await.versions[0].kind, "gap");
        let mut history = History::good();
        history.evolve();
        let kinds: Vec<String> =
            listed(&history, DATASET, 2).await.versions.into_iter().map(|version| version.kind).collect();
        assert_eq!(kinds, ["commit", "schema"]);
    }

    #[tokio::test]
    async fn a_cloud_that_does_not_answer_is_not_waited_for() {
        let replicas = Replicas::with_a_silent_cloud().await;
        let snapshots = snapshots_of(&replicas, DATASET, 10).await.unwrap();
        assert_eq!((snapshots.newest, snapshots.cloud.as_str()), (3, "b"));
    }

    #[tokio::test]
    async fn a_table_that_there_is_not_has_no_versions() {
        let clouds = History::good().store(1).await;
        assert_eq!(list(&clouds[0], "weather", 5).await, Ok(None));
        let mut history = History::good();
        history.version(2).info.isobar.dataset = "another".into();
        let clouds = history.store(1).await;
        assert!(list(&clouds[0], DATASET, 5).await.is_err());
    }
}
