//! The chain: what has been decided so far, and what may be decided next.
//!
//! Pure functions on plain data. A proposal is accepted only if it starts where the chain ends, in every partition
//! of every table, and if its counts add up. That check alone stops zombie workers, double flushes and rebalance
//! races: whoever is second finds the chain elsewhere.

use std::collections::{BTreeMap, BTreeSet};

use isobar_connectors::delta;
use isobar_schemas::RowCounts;
use serde::{Deserialize, Serialize};

use super::format::{CheckpointRef, Decision, MODELS_PREFIX, TableBody};
use super::{Epoch, evolution, upkeep};

pub use isobar_connectors::delta::body::NO_PREVIOUS_SHA256 as NO_PREVIOUS;

/// What follows a dataset's name in the name of its quarantine.
pub const QUARANTINE_SUFFIX: &str = ".quarantine";

/// The sibling table of `dataset` that holds its rejected records.
pub fn quarantine_of(dataset: &str) -> String {
    format!("{dataset}{QUARANTINE_SUFFIX}")
}

/// The last version of one table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableHead {
    /// The last decided version.
    pub version: u64,
    /// SHA-256 of its body, hex.
    pub sha256: String,
    /// Per app transaction (`<topology>/<cluster>/<topic id>/<partition>`), the next offset to read.
    pub positions: BTreeMap<String, i64>,
    /// Version of the last entry that removed files or let them go, maintenance or redrive, 0 where there was none: what
    /// the next one must be planned after. Left out where it is 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub maintained: u64,
    /// The newest decided checkpoint. Left out where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<CheckpointRef>,
    /// Version of the decided checkpoint before the newest one: those older than it are superseded. Left out where there is
    /// none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_checkpoint: Option<u64>,
    /// The last entry that changed the table's schema. Left out where there is none: then version 0 says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub described: Option<Described>,
}

/// The entry that says what columns a table has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Described {
    /// Its version.
    pub version: u64,
    /// SHA-256 of its body, hex.
    pub sha256: String,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// The state after a decision: heads of all tables. Equal chains mean equal history, because each head's hash
/// covers the one before it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chain {
    /// The sequence number of the last decision, 0 before the first.
    pub sequence: u64,
    /// Its commit timestamp, milliseconds since the Unix epoch.
    pub timestamp_ms: i64,
    /// Heads by dataset.
    pub tables: BTreeMap<String, TableHead>,
    /// The commits decided last, at most [`RECENT_MAX`], oldest first: who lost the answer is told it again.
    /// Forgetting one is safe, because its positions have passed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub recent: Vec<RecentCommit>,
}

/// Commit ids that a chain remembers.
pub const RECENT_MAX: usize = 256;

/// A commit that was decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecentCommit {
    /// The decision it is in.
    pub sequence: u64,
    /// Its id.
    pub commit_id: String,
}

/// A file as the log will name it.
#[derive(Debug, Clone)]
pub struct NewFile {
    /// Path in the log, size, SHA-256 and rows.
    pub digest: delta::FileDigest,
    /// Values of the partition columns.
    pub partition_values: BTreeMap<String, Option<String>>,
    /// Delta's statistics, JSON.
    pub stats: String,
}

/// What one table is to become.
#[derive(Debug, Clone)]
pub struct TableProposal {
    /// The dataset.
    pub dataset: String,
    /// For a table that does not exist yet: how it begins.
    pub create: Option<delta::TableDefinition>,
    /// Fingerprint of the plan that made the rows.
    pub plan: String,
    /// The models that scored them, ascending.
    pub models: Vec<delta::ScoredBy>,
    /// Kafka ranges covered, one per partition that advanced.
    pub offsets: Vec<delta::OffsetRange>,
    /// What became of the records.
    pub rows: RowCounts,
    /// The files added.
    pub files: Vec<NewFile>,
}

/// What a worker asks to be decided: all tables together.
#[derive(Debug, Clone)]
pub struct Proposal {
    /// Unique id; proposing it twice is answered once.
    pub commit_id: String,
    /// At most one proposal per table.
    pub tables: Vec<TableProposal>,
}

/// Why a proposal is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// It does not start where the chain ends: its rows are already in, or rows before them are missing. Drop the
    /// batch and read on from the chain's positions.
    #[error("{dataset}: {partition} starts at {start}, the chain is at {chain}")]
    Stale {
        /// The table.
        dataset: String,
        /// The app transaction.
        partition: String,
        /// Where the proposal starts.
        start: i64,
        /// Where the chain is, -1 where it has no position.
        chain: i64,
    },
    /// Maintenance or a redrive that was planned on another state of the files: drop it and plan again.
    #[error("{dataset}: planned after version {after}, files were removed at {chain} since")]
    Overtaken {
        /// The table.
        dataset: String,
        /// What it was planned after.
        after: u64,
        /// The chain's last entry that removed files or let them go.
        chain: u64,
    },
    /// A change of the schema that was planned on an older one: compare again.
    #[error("{dataset}: planned on the schema of version {after}, it is that of version {chain}")]
    Described {
        /// The table.
        dataset: String,
        /// The version that it was planned on.
        after: u64,
        /// The version that says the schema now.
        chain: u64,
    },
    /// An entry of a model's log that was planned on other entries: read the log and plan again.
    #[error("{dataset}: planned after {planned} entries, there are {entries}")]
    Appended {
        /// The model's log.
        dataset: String,
        /// How many entries there were when it was planned.
        planned: u64,
        /// How many there are.
        entries: u64,
    },
    /// Its numbers contradict each other. A bug: stop.
    #[error("{dataset}: {what}")]
    DoesNotAddUp {
        /// The table.
        dataset: String,
        /// The contradiction.
        what: String,
    },
}

impl Chain {
    /// The next offset to read of `app_id` in `dataset`, `None` before the first decision about it.
    pub fn position(&self, dataset: &str, app_id: &str) -> Option<i64> {
        self.tables.get(dataset)?.positions.get(app_id).copied()
    }

    /// The decision that a commit is in, as far back as the chain remembers.
    pub fn sequence_of(&self, commit_id: &str) -> Option<u64> {
        self.recent.iter().rev().find(|recent| recent.commit_id == commit_id).map(|recent| recent.sequence)
    }

    /// Checks `proposal` against the chain and its own arithmetic.
    pub fn accept(&self, topology: &str, proposal: &Proposal) -> Result<(), Refusal> {
        let mut named = BTreeSet::new();
        for table in &proposal.tables {
            if !named.insert(&table.dataset) {
                return Err(does_not_add_up(table, "it is there twice in one proposal".into()));
            }
            self.accept_positions(topology, table)?;
            check_counts(table)?;
            let exists = self.tables.contains_key(&table.dataset);
            if exists == table.create.is_some() {
                let what = if exists {
                    "exists and cannot be created again"
                } else {
                    "does not exist and is not created"
                };
                return Err(does_not_add_up(table, what.into()));
            }
        }
        check_quarantine(&proposal.tables)
    }

    fn accept_positions(&self, topology: &str, table: &TableProposal) -> Result<(), Refusal> {
        for range in &table.offsets {
            let app_id = range.app_id(topology);
            let declares = range.start == range.end && range.records == 0;
            let position = self.position(&table.dataset, &app_id);
            if position != Some(range.start) && !(position.is_none() && declares) {
                return Err(Refusal::Stale {
                    dataset: table.dataset.clone(),
                    partition: app_id,
                    start: range.start,
                    chain: position.unwrap_or(-1),
                });
            }
        }
        Ok(())
    }

    /// Turns an accepted proposal into the decision that follows this chain: versions, hashes and bodies are fixed
    /// here, once, for every cloud.
    pub fn decide(
        &self,
        topology: &str,
        epoch: Epoch,
        now_ms: i64,
        proposal: &Proposal,
    ) -> Result<Decision, isobar_connectors::Error> {
        self.decide_for(topology, epoch, now_ms, proposal, &[])
    }

    /// As [`decide`](Self::decide), for a proposal that unites those with the ids `members`; see [`super::merge`].
    pub(super) fn decide_for(
        &self,
        topology: &str,
        epoch: Epoch,
        now_ms: i64,
        proposal: &Proposal,
        members: &[String],
    ) -> Result<Decision, isobar_connectors::Error> {
        let sequence = self.sequence + 1;
        let timestamp_ms =
            delta::next_commit_timestamp_ms(now_ms, (self.sequence > 0).then_some(self.timestamp_ms));
        let mut tables = Vec::with_capacity(proposal.tables.len());
        for table in &proposal.tables {
            let head = self.tables.get(&table.dataset);
            let info = delta::IsobarInfo {
                format: delta::body::INFO_FORMAT,
                topology: topology.to_owned(),
                dataset: table.dataset.clone(),
                epoch: epoch.0,
                sequence,
                commit_id: proposal.commit_id.clone(),
                members: members.to_vec(),
                previous_sha256: head.map_or(NO_PREVIOUS, |head| &head.sha256).to_owned(),
                plan: table.plan.clone(),
                models: table.models.clone(),
                offsets: Vec::new(),
                rows: table.rows.clone(),
                files: Vec::new(),
            };
            let body = encode_body(timestamp_ms, info, table)?;
            tables.push(TableBody {
                dataset: table.dataset.clone(),
                version: head.map_or(0, |head| head.version + 1),
                sha256: delta::sha256_hex(body.as_bytes()),
                body,
            });
        }
        Ok(Decision {
            sequence,
            commit_id: proposal.commit_id.clone(),
            timestamp_ms,
            tables,
            checkpoints: BTreeMap::new(),
        })
    }

    /// The chain after `decision`. Fails on a decision that does not follow this chain: damaged or foreign bytes.
    pub fn apply(&mut self, decision: &Decision) -> Result<(), String> {
        if decision.sequence != self.sequence + 1 {
            return Err(format!("decision {} cannot follow decision {}", decision.sequence, self.sequence));
        }
        // Before the tables: a checkpoint is of a version that was decided earlier.
        self.apply_checkpoints(&decision.checkpoints)?;
        let mut members = BTreeSet::new();
        for table in &decision.tables {
            if table.dataset.starts_with(MODELS_PREFIX) {
                self.apply_model(table)?;
                continue;
            }
            let body = delta::parse_body(table.body.as_bytes())
                .map_err(|error| format!("{} version {}: {error}", table.dataset, table.version))?;
            let head = self.tables.get(&table.dataset);
            let (version, previous) =
                head.map_or((0, NO_PREVIOUS), |head| (head.version + 1, head.sha256.as_str()));
            if table.version != version || body.info.isobar.previous_sha256 != previous {
                return Err(format!("{} version {} does not follow the chain", table.dataset, table.version));
            }
            if table.sha256 != delta::sha256_hex(table.body.as_bytes()) {
                return Err(format!(
                    "{} version {}: SHA-256 differs from its bytes",
                    table.dataset, table.version
                ));
            }
            let maintained = upkeep::maintained_after(&body, version, head.map_or(0, |head| head.maintained))
                .map_err(|what| format!("{} version {}: {what}", table.dataset, table.version))?;
            let described = head.and_then(|head| head.described.as_ref());
            let described = evolution::described_after(&body, table, described)
                .map_err(|what| format!("{} version {}: {what}", table.dataset, table.version))?;
            let mut positions = head.map(|head| head.positions.clone()).unwrap_or_default();
            members.extend(body.info.isobar.members);
            positions.extend(body.txns.into_iter().map(|txn| (txn.app_id, txn.version)));
            let head = TableHead {
                version,
                sha256: table.sha256.clone(),
                positions,
                maintained,
                checkpoint: head.and_then(|head| head.checkpoint.clone()),
                previous_checkpoint: head.and_then(|head| head.previous_checkpoint),
                described,
            };
            self.tables.insert(table.dataset.clone(), head);
        }
        if members.is_empty() {
            members.insert(decision.commit_id.clone());
        }
        self.remember(decision.sequence, members);
        self.sequence = decision.sequence;
        self.timestamp_ms = decision.timestamp_ms;
        Ok(())
    }

    fn remember(&mut self, sequence: u64, commit_ids: BTreeSet<String>) {
        self.recent.extend(commit_ids.into_iter().map(|commit_id| RecentCommit { sequence, commit_id }));
        let excess = self.recent.len().saturating_sub(RECENT_MAX);
        self.recent.drain(..excess);
    }
}

fn encode_body(
    timestamp_ms: i64,
    info: delta::IsobarInfo,
    table: &TableProposal,
) -> Result<String, isobar_connectors::Error> {
    let operation = if table.create.is_some() { delta::CommitInfo::CREATE } else { delta::CommitInfo::WRITE };
    let mut body = delta::CommitBody::new(delta::CommitInfo::new(operation, timestamp_ms, info));
    if let Some(definition) = &table.create {
        body = body.create(definition)?;
    }
    for range in &table.offsets {
        body.advance(range.clone());
    }
    for file in &table.files {
        body.add_file(file.digest.clone(), file.partition_values.clone(), file.stats.clone());
    }
    let bytes = body.to_bytes()?;
    Ok(String::from_utf8(bytes.to_vec()).expect("JSON is UTF-8"))
}

fn does_not_add_up(table: &TableProposal, what: String) -> Refusal {
    Refusal::DoesNotAddUp { dataset: table.dataset.clone(), what }
}

/// The conservation law and its neighbours, within one table.
fn check_counts(table: &TableProposal) -> Result<(), Refusal> {
    let rows = &table.rows;
    if !rows.adds_up() {
        return Err(does_not_add_up(table, format!("rows do not add up: {rows:?}")));
    }
    let file_rows: u64 = table.files.iter().map(|file| file.digest.rows).sum();
    if file_rows != rows.output {
        return Err(does_not_add_up(
            table,
            format!("files hold {file_rows} rows, {} are counted out", rows.output),
        ));
    }
    for range in &table.offsets {
        let width = range.end.checked_sub(range.start).and_then(|width| u64::try_from(width).ok());
        if width.is_none_or(|width| range.records > width) {
            let what = format!("{} records in offsets [{}, {})", range.records, range.start, range.end);
            return Err(does_not_add_up(table, what));
        }
    }
    let records: u64 = table.offsets.iter().map(|range| range.records).sum();
    if !table.dataset.ends_with(QUARANTINE_SUFFIX) && records != rows.input {
        return Err(does_not_add_up(table, format!("{records} records read, {} rows in", rows.input)));
    }
    Ok(())
}

/// A quarantine holds exactly what its dataset rejected in the same decision.
fn check_quarantine(tables: &[TableProposal]) -> Result<(), Refusal> {
    for table in tables.iter().filter(|table| !table.dataset.ends_with(QUARANTINE_SUFFIX)) {
        let name = quarantine_of(&table.dataset);
        let quarantined =
            tables.iter().find(|other| other.dataset == name).map_or(0, |other| other.rows.output);
        if quarantined != table.rows.rejected_total() {
            let what =
                format!("{} records rejected, {quarantined} in the quarantine", table.rows.rejected_total());
            return Err(does_not_add_up(table, what));
        }
    }
    Ok(())
}
