//! The decided versions of one table, by their hashes.
//!
//! Every body names the SHA-256 of the body before it, so one trusted hash at the head settles all versions below it:
//! whichever cloud holds bytes with the right hash holds the decided ones, and no votes are counted. The head comes from
//! the control logs ([`super::control`]). Where they say nothing about the table, it is the newest version that a
//! majority of the registered clouds holds with the same bytes, and its history is settled by the hashes as well. Only
//! below a version whose bytes are nowhere does the chain have to be picked up again, by a majority.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::RangeBounds;
use std::sync::Arc;

use bytes::Bytes;
use isobar_connectors::delta;

use super::control::Knowledge;
use crate::commit::format::CheckpointRef;
use crate::commit::quorum::majority;
use crate::prove::log::{DataFile, Entry, TableLog, Version, parse_entry};

/// How the head of a table is known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Evidence {
    /// The control logs say so.
    Control,
    /// A majority of the clouds holds the same bytes.
    Majority,
    /// Nothing is known of this table.
    #[default]
    None,
}

/// A version whose decided bytes are known.
#[derive(Debug, Clone)]
pub(super) struct Settled {
    pub(super) sha256: String,
    pub(super) entry: Arc<Entry>,
    /// The bytes, if they came from a control log; otherwise some cloud has them.
    pub(super) body: Option<Bytes>,
}

/// The decided versions of one table.
#[derive(Debug, Clone, Default)]
pub(super) struct Decided {
    pub(super) table: String,
    pub(super) evidence: Evidence,
    /// The last decided version.
    pub(super) head: Option<u64>,
    pub(super) versions: BTreeMap<u64, Settled>,
    /// Versions whose decided bytes are not known, with their SHA-256 where at least that is.
    pub(super) unknown: BTreeMap<u64, Option<String>>,
    /// The newest decided checkpoint, as far as the control logs tell.
    pub(super) checkpoint: Option<CheckpointRef>,
}

/// Bodies decided after the base, by version.
type Recorded = BTreeMap<u64, Bytes>;

/// Settles `table` from what the control logs say and what the tables of member clouds hold. `found` are bodies
/// that were looked up in older control logs, by SHA-256.
pub(super) fn settle(
    table: &str,
    registered: usize,
    knowledge: &Knowledge,
    logs: &[&TableLog],
    found: &BTreeMap<String, Bytes>,
) -> Decided {
    let recorded: Recorded = knowledge
        .decided
        .iter()
        .flat_map(|decision| &decision.tables)
        .filter(|body| body.dataset == table)
        .map(|body| (body.version, Bytes::from(body.body.clone())))
        .collect();
    let base = knowledge.base().and_then(|base| base.tables.get(table));
    let newest = knowledge.decided.iter().rev().find_map(|decision| decision.checkpoints.get(table));
    let checkpoint = newest.or_else(|| base?.checkpoint.as_ref()).cloned();
    let mut decided = Decided { table: table.to_owned(), checkpoint, ..Decided::default() };
    let newest = recorded.last_key_value().map(|(version, body)| (*version, delta::sha256_hex(body)));
    let (head, evidence) = match newest.or_else(|| base.map(|head| (head.version, head.sha256.clone()))) {
        Some(head) => (Some(head), Evidence::Control),
        // A decided header that does not know the table means that it has no version.
        None if knowledge.header.is_some() => (None, Evidence::Control),
        None => match newest_agreed(registered, logs) {
            Some(head) => (Some(head), Evidence::Majority),
            None => (None, Evidence::None),
        },
    };
    decided.evidence = evidence;
    let Some((version, sha256)) = head else { return decided };
    decided.head = Some(version);
    let by_hash: HashMap<String, Bytes> = recorded
        .into_values()
        .map(|body| (delta::sha256_hex(&body), body))
        .chain(found.iter().map(|(sha256, body)| (sha256.clone(), body.clone())))
        .collect();
    walk_back(&mut decided, registered, version, sha256, logs, &by_hash);
    decided
}

/// From the head downwards: each body says which hash the one before it has.
fn walk_back(
    decided: &mut Decided,
    registered: usize,
    head: u64,
    sha256: String,
    logs: &[&TableLog],
    by_hash: &HashMap<String, Bytes>,
) {
    let mut wanted = Some(sha256);
    for version in (0..=head).rev() {
        let sha256 = wanted.take().or_else(|| agreed(registered, logs, version));
        let settled = sha256.as_deref().and_then(|sha256| look_up(version, sha256, logs, by_hash));
        match settled {
            Some(settled) => {
                wanted = Some(settled.entry.commit.isobar.previous_sha256.clone());
                decided.versions.insert(version, settled);
            }
            None => {
                decided.unknown.insert(version, sha256);
            }
        }
    }
}

fn look_up(
    version: u64,
    sha256: &str,
    logs: &[&TableLog],
    by_hash: &HashMap<String, Bytes>,
) -> Option<Settled> {
    let sha256 = sha256.to_owned();
    if let Some(body) = by_hash.get(&sha256) {
        let entry = Arc::new(parse_entry(body).ok()?);
        return Some(Settled { sha256, entry, body: Some(body.clone()) });
    }
    let held = logs.iter().filter_map(|log| log.versions.get(&version));
    let entry =
        held.filter(|held| held.sha256.as_ref() == Some(&sha256)).find_map(|held| held.entry.as_ref().ok());
    entry.map(|entry| Settled { sha256, entry: entry.clone(), body: None })
}

/// The hash that a majority of the clouds holds at `version`.
fn agreed(registered: usize, logs: &[&TableLog], version: u64) -> Option<String> {
    let held: Vec<&str> =
        logs.iter().filter_map(|log| log.versions.get(&version)?.sha256.as_deref()).collect();
    let votes = |sha256: &str| held.iter().filter(|other| **other == sha256).count();
    held.iter().find(|sha256| votes(sha256) >= majority(registered)).map(|sha256| (*sha256).to_owned())
}

fn newest_agreed(registered: usize, logs: &[&TableLog]) -> Option<(u64, String)> {
    let versions: BTreeSet<u64> = logs.iter().flat_map(|log| log.versions.keys().copied()).collect();
    versions.into_iter().rev().find_map(|version| Some((version, agreed(registered, logs, version)?)))
}

impl Decided {
    /// Versions whose hash is known and whose bytes are not.
    pub(super) fn wanted(&self) -> impl Iterator<Item = (String, u64, String)> {
        let unknown = self.unknown.iter();
        unknown.filter_map(|(version, sha256)| Some((self.table.clone(), *version, sha256.clone()?)))
    }

    /// The table as of `version`, as a log in which every version is the decided one.
    pub(super) fn log_up_to(&self, version: u64) -> TableLog {
        self.log_of(..=version)
    }

    fn log_of(&self, versions: impl RangeBounds<u64>) -> TableLog {
        let versions = self.versions.range(versions).map(|(version, settled)| {
            let sha256 = Some(settled.sha256.clone());
            (*version, Version { sha256, entry: Ok(settled.entry.clone()) })
        });
        TableLog { table: self.table.clone(), versions: versions.collect(), newest_anywhere: self.head }
    }

    /// The files that `version` adds.
    pub(super) fn added(&self, version: u64) -> Vec<DataFile> {
        self.log_of(version..=version).files()
    }

    /// Paths of the files that a decided VACUUM let go: they may be missing anywhere.
    pub(super) fn released(&self) -> HashSet<String> {
        self.log_of(..).released_paths()
    }

    /// Paths of the files that are part of the table at its head.
    pub(super) fn live(&self) -> HashSet<String> {
        self.log_of(..).files().into_iter().map(|file| file.path).collect()
    }

    /// Whether the offset ranges of a foreign `entry` are in the decided versions, for people.
    pub(super) fn coverage(&self, entry: &Entry) -> String {
        let mut spans: HashMap<(&str, &str, i32), (i64, i64)> = HashMap::new();
        let decided = self.versions.values().flat_map(|settled| &settled.entry.commit.isobar.offsets);
        for range in decided {
            let key = (range.cluster.as_str(), range.topic_id.as_str(), range.partition);
            let span = spans.entry(key).or_insert((range.start, range.end));
            *span = (span.0.min(range.start), span.1.max(range.end));
        }
        let ranges = &entry.commit.isobar.offsets;
        let missing: Vec<String> = ranges
            .iter()
            .filter(|range| {
                let key = (range.cluster.as_str(), range.topic_id.as_str(), range.partition);
                let covered = |span: &(i64, i64)| span.0 <= range.start && range.end <= span.1;
                range.start < range.end && !spans.get(&key).is_some_and(covered)
            })
            .map(|range| format!("{}/{} [{}, {})", range.topic, range.partition, range.start, range.end))
            .collect();
        match (ranges.len(), missing.as_slice()) {
            (0, _) => "it covers no offsets".to_owned(),
            (count, []) => format!("its {count} offset ranges are covered by the chain"),
            (_, missing) => format!("offsets NOT covered by the chain: {}", missing.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use isobar_connectors::delta::OffsetRange;

    use super::*;
    use crate::prove::log::{Bodies, list_versions};
    use crate::prove::testing::{DATASET, History};

    /// Three clouds' logs of the same good history.
    async fn logs() -> Vec<TableLog> {
        let clouds = History::good().store(3).await;
        let mut logs = Vec::new();
        for cloud in &clouds {
            let versions = list_versions(cloud, DATASET, None).await.unwrap();
            logs.push(Bodies::default().read_log(cloud, DATASET, &versions).await.unwrap());
        }
        assert!(logs[0].versions.len() >= 3, "the tests below damage versions 0 to 2");
        logs
    }

    fn settled(logs: &[TableLog]) -> Decided {
        let logs: Vec<&TableLog> = logs.iter().collect();
        settle(DATASET, 3, &Knowledge::default(), &logs, &BTreeMap::new())
    }

    fn forget(log: &mut TableLog, version: u64) {
        log.versions.insert(version, Version { sha256: None, entry: Err("rotten".into()) });
    }

    #[tokio::test]
    async fn one_good_copy_below_an_agreed_head_is_enough() {
        let mut logs = logs().await;
        let head = logs[0].last().unwrap();
        forget(&mut logs[0], 1);
        forget(&mut logs[2], 1);
        let decided = settled(&logs);
        assert_eq!((decided.head, decided.evidence), (Some(head), Evidence::Majority));
        assert_eq!(decided.versions.len() as u64, head + 1);
        assert_eq!(Some(&decided.versions[&1].sha256), logs[1].versions[&1].sha256.as_ref());
    }

    #[tokio::test]
    async fn a_version_that_is_rotten_everywhere_is_known_by_its_hash_alone() {
        let mut logs = logs().await;
        let sha256 = logs[0].versions[&1].sha256.clone();
        logs.iter_mut().for_each(|log| forget(log, 1));
        let decided = settled(&logs);
        assert_eq!(decided.unknown, BTreeMap::from([(1, sha256)]));
        assert!(decided.versions.contains_key(&0), "a majority agrees on what is below");
        assert_eq!(decided.wanted().count(), 1);
    }

    #[tokio::test]
    async fn a_head_that_only_one_cloud_holds_is_no_head() {
        let mut logs = logs().await;
        let head = logs[0].last().unwrap();
        logs[1].versions.remove(&head);
        logs[2].versions.remove(&head);
        assert_eq!(settled(&logs).head, Some(head - 1));
        logs.truncate(1);
        assert_eq!(settled(&logs).head, None);
    }

    #[tokio::test]
    async fn coverage_compares_offset_ranges_with_the_chain() {
        let logs = logs().await;
        let decided = settled(&logs);
        let last = decided
            .versions
            .values()
            .rfind(|settled| settled.entry.commit.isobar.offsets.iter().any(|range| range.start < range.end));
        let entry = last.unwrap().entry.as_ref().clone();
        assert!(decided.coverage(&entry).contains("are covered"));
        let mut beyond = entry.clone();
        let more = |range: &mut OffsetRange| range.end += 1_000_000;
        beyond.commit.isobar.offsets.iter_mut().for_each(more);
        assert!(decided.coverage(&beyond).contains("NOT covered"));
        let mut empty = entry;
        empty.commit.isobar.offsets.clear();
        assert_eq!(decided.coverage(&empty), "it covers no offsets");
    }
}
