//! What workers and leader say to each other: JSON over HTTP. `docs/workers.md` describes it.
//!
//! A leader believes nothing of what it is sent: [`StagedCommit::into_proposal`] checks what the commit protocol takes for
//! granted of its own batches, the protocol checks the rest (positions, sums, and every rule of the format).

use std::collections::{BTreeMap, BTreeSet};

use isobar_connectors::delta::{self, FileDigest, OffsetRange};
use isobar_schemas::RowCounts;
use serde::{Deserialize, Serialize};

use crate::commit::chain::NewFile;
use crate::commit::{
    Described, Epoch, Proposal, QUARANTINE_SUFFIX, Redrive, Refusal, RemovedFile, TableHead, TableProposal,
};

/// Largest request accepted, bytes.
pub(super) const REQUEST_BYTES_MAX: usize = 16 << 20;
/// Largest answer read by a worker, bytes.
pub(super) const ANSWER_BYTES_MAX: usize = 16 << 20;
/// Files that one commit may add to one table.
const FILES_MAX: usize = 10_000;
/// Largest number believed of a counter: far more than anybody has counted, and sums of such do not overflow.
const COUNT_MAX: u64 = 1 << 53;

/// `POST /v1/workers`: a worker is there, and asks what to read.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Join {
    /// The topology.
    pub topology: String,
    /// The worker's id: random, one per run.
    pub worker: String,
    /// By dataset, the fingerprint of its plan: leader and worker must make the same rows.
    pub plans: BTreeMap<String, String>,
    /// The worker stops now.
    #[serde(default)]
    pub leaving: bool,
}

/// What a worker reads, and from where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// The epoch of the leader.
    pub epoch: Epoch,
    /// Rises with every change of who is there, for people: no decision depends on it.
    pub generation: u64,
    /// The partitions.
    pub partitions: Vec<SharedPartition>,
}

/// A partition that a worker reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedPartition {
    /// The Kafka cluster's id.
    pub cluster: String,
    /// The topic's name.
    pub topic: String,
    /// The topic's id, or its name where the topology identifies topics by name.
    pub topic_id: String,
    /// The partition's number.
    pub partition: i32,
    /// By dataset, the chain's position: the next offset to read.
    pub positions: BTreeMap<String, i64>,
}

/// `POST /v1/commits`: files that are staged in a majority of clouds, to be decided.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StagedCommit {
    /// The topology.
    pub topology: String,
    /// The worker's id.
    pub worker: String,
    /// Unique; sent again with the same content until there is an answer.
    pub commit_id: String,
    /// At most one per table.
    pub tables: Vec<StagedTable>,
}

/// What a commit does to one table.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StagedTable {
    /// The dataset, or its quarantine.
    pub dataset: String,
    /// Fingerprint of the plan that made the rows.
    pub plan: String,
    /// The models that scored its rows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<delta::ScoredBy>,
    /// Kafka ranges covered.
    pub offsets: Vec<OffsetRange>,
    /// What became of the records.
    pub rows: RowCounts,
    /// The files added.
    pub files: Vec<StagedFile>,
}

/// A file of a commit.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StagedFile {
    /// As in the log, relative to the table.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// SHA-256, hex.
    pub sha256: String,
    /// Rows in it.
    pub rows: u64,
    /// Values of the partition columns.
    pub partition_values: BTreeMap<String, Option<String>>,
    /// Delta's statistics, JSON.
    pub stats: String,
}

/// What a worker is told about its commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Answer {
    /// Decided.
    Committed {
        /// In this decision.
        sequence: u64,
    },
    /// The chain is elsewhere: drop the rows and read on from these positions.
    Stale {
        /// Where it is.
        refusal: Refusal,
        /// The worker's share now.
        share: Share,
    },
    /// The leader does not find the files in a majority: read the rows again.
    NotStored {
        /// What it found.
        reason: String,
        /// The worker's share now.
        share: Share,
    },
    /// The commit contradicts itself. A bug: stop.
    Refused {
        /// The contradiction.
        reason: String,
    },
}

/// `POST /v1/redrives/head`: what is decided about the quarantine of a dataset, to plan a redrive on.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AskHead {
    /// The topology.
    pub topology: String,
    /// The dataset, without `.quarantine`.
    pub dataset: String,
    /// Fingerprint of its plan: leader and redrive must make the same rows.
    pub plan: String,
}

/// The answer to [`AskHead`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuarantineHead {
    /// The epoch of the leader.
    pub epoch: Epoch,
    /// The last version decided, its hash, and the last entry that removed files.
    pub head: TableHead,
    /// The last entry that changed the schema of the dataset itself, `None` where none did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub described: Option<Described>,
}

/// `POST /v1/redrives`: a redrive whose files are staged in a majority of clouds, to be decided.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StagedRedrive {
    /// The topology.
    pub topology: String,
    /// Unique; sent again with the same content until there is an answer.
    pub commit_id: String,
    /// The dataset, without `.quarantine`.
    pub dataset: String,
    /// Fingerprint of its plan.
    pub plan: String,
    /// The models that scored the rows accepted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<delta::ScoredBy>,
    /// [`Redrive::after`].
    pub after: u64,
    /// Files of the quarantine that rows are taken out of.
    pub removed: Vec<TakenFile>,
    /// Rows of these that were not selected.
    pub kept: u64,
    /// Files for the quarantine.
    pub stays: Vec<StagedFile>,
    /// Files for the dataset.
    pub accepted: Vec<StagedFile>,
    /// What became of the rows taken.
    pub rows: RowCounts,
}

/// A file of a quarantine that rows are taken out of. A quarantine has no partition columns.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TakenFile {
    /// As in the log.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Rows in it.
    pub rows: u64,
}

/// What became of a redrive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum RedriveAnswer {
    /// Decided.
    Committed {
        /// In this decision.
        sequence: u64,
    },
    /// Nothing was proposed: plan again if the files have changed since, else it contradicts itself.
    Refused {
        /// Why.
        refusal: Refusal,
    },
    /// The leader does not find the files in a majority, or could not store the decision.
    NotStored {
        /// What it found.
        reason: String,
    },
}

/// What goes with every status but 200.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Problem {
    /// For people.
    pub error: String,
    /// The newest epoch that the process knows of.
    pub epoch: Epoch,
}

/// An id that can be part of a file's name.
pub(super) fn is_id(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

impl StagedCommit {
    /// What `worker` asks to be decided.
    pub(super) fn new(topology: &str, worker: &str, proposal: &Proposal) -> Self {
        let tables = proposal.tables.iter().map(|table| StagedTable {
            dataset: table.dataset.clone(),
            plan: table.plan.clone(),
            models: table.models.clone(),
            offsets: table.offsets.clone(),
            rows: table.rows.clone(),
            files: table.files.iter().map(StagedFile::new).collect(),
        });
        Self {
            topology: topology.to_owned(),
            worker: worker.to_owned(),
            commit_id: proposal.commit_id.clone(),
            tables: tables.collect(),
        }
    }

    /// The proposal, if it is one that a worker can make. `plans` are the leader's, by dataset.
    pub(super) fn into_proposal(self, plans: &BTreeMap<String, String>) -> Result<Proposal, String> {
        if !is_id(&self.commit_id) {
            return Err(format!("{:.100?} is no commit id", self.commit_id));
        }
        let names: BTreeSet<&str> = self.tables.iter().map(|table| &*table.dataset).collect();
        if names.is_empty() || names.len() < self.tables.len() {
            return Err("no table, or a table twice".to_owned());
        }
        for table in &self.tables {
            let dataset = table.dataset.strip_suffix(QUARANTINE_SUFFIX);
            table.check(dataset.unwrap_or(&table.dataset), dataset.is_some(), plans, &self.commit_id)?;
            if dataset.is_some_and(|dataset| !names.contains(dataset)) {
                return Err(format!("{} without its dataset", table.dataset));
            }
        }
        let tables = self.tables.into_iter().map(StagedTable::into_proposal).collect();
        Ok(Proposal { commit_id: self.commit_id, tables })
    }
}

impl StagedRedrive {
    /// What is asked to be decided.
    pub(super) fn new(topology: &str, redrive: &Redrive) -> Self {
        let taken =
            |file: &RemovedFile| TakenFile { path: file.path.clone(), size: file.size, rows: file.rows };
        Self {
            topology: topology.to_owned(),
            commit_id: redrive.commit_id.clone(),
            dataset: redrive.dataset.clone(),
            plan: redrive.plan.clone(),
            models: redrive.models.clone(),
            after: redrive.after,
            removed: redrive.removed.iter().map(taken).collect(),
            kept: redrive.kept,
            stays: redrive.stays.iter().map(StagedFile::new).collect(),
            accepted: redrive.accepted.iter().map(StagedFile::new).collect(),
            rows: redrive.rows.clone(),
        }
    }

    /// The redrive, if it is one that can have been staged. Whether it may follow, the chain says.
    pub(super) fn into_redrive(self) -> Result<Redrive, String> {
        if !is_id(&self.commit_id) {
            return Err(format!("{:.100?} is no commit id", self.commit_id));
        }
        let files = self.removed.len() + self.stays.len() + self.accepted.len();
        let numbers = self.removed.iter().flat_map(|file| [file.rows, file.size]).chain([self.kept]);
        if files > FILES_MAX || !are_credible(numbers, &self.rows, self.stays.iter().chain(&self.accepted)) {
            return Err(format!("{}: numbers that nobody has counted", self.dataset));
        }
        for file in &self.removed {
            delta::path::decode_log_path(&file.path).map_err(|error| error.to_string())?;
        }
        for file in self.stays.iter().chain(&self.accepted) {
            file.check(&self.commit_id).map_err(|what| format!("{}: {what}", self.dataset))?;
        }
        let removed = self.removed.into_iter().map(|TakenFile { path, size, rows }| RemovedFile {
            path,
            size,
            rows,
            partition_values: BTreeMap::new(),
        });
        Ok(Redrive {
            commit_id: self.commit_id,
            dataset: self.dataset,
            plan: self.plan,
            models: self.models,
            after: self.after,
            removed: removed.collect(),
            kept: self.kept,
            stays: self.stays.into_iter().map(StagedFile::into_file).collect(),
            accepted: self.accepted.into_iter().map(StagedFile::into_file).collect(),
            rows: self.rows,
        })
    }
}

/// Whether somebody may have counted all of these: sums of such numbers do not overflow.
fn are_credible<'a>(
    numbers: impl Iterator<Item = u64>,
    rows: &RowCounts,
    files: impl Iterator<Item = &'a StagedFile>,
) -> bool {
    let RowCounts { input, expanded, output, rejected, dropped, filtered, late, warned } = rows;
    let by_rule = rejected.values().chain(dropped.values()).chain(warned.values());
    let counts = by_rule.chain([input, expanded, output, filtered, late]).copied();
    let mut all = numbers.chain(counts).chain(files.flat_map(|file| [file.rows, file.size]));
    all.try_fold(0, u64::checked_add).is_some_and(|sum| sum <= COUNT_MAX)
}

impl StagedTable {
    fn check(
        &self,
        dataset: &str,
        is_quarantine: bool,
        plans: &BTreeMap<String, String>,
        commit_id: &str,
    ) -> Result<(), String> {
        let name = &self.dataset;
        match plans.get(dataset) {
            None => return Err(format!("{name:.100?} is no dataset of this topology")),
            Some(plan) if *plan != self.plan => {
                return Err(format!("the plan of {name} is another one: use the leader's specification"));
            }
            Some(_) => {}
        }
        // First positions are the leader's to declare; a quarantine has none.
        let reads = |range: &OffsetRange| range.start < range.end && range.records > 0;
        if self.offsets.is_empty() != is_quarantine || !self.offsets.iter().all(reads) {
            return Err(format!("{name}: offsets that were not read"));
        }
        if self.files.len() > FILES_MAX || !self.counts_are_credible() {
            return Err(format!("{name}: numbers that nobody has counted"));
        }
        self.files.iter().try_for_each(|file| file.check(commit_id).map_err(|what| format!("{name}: {what}")))
    }

    fn counts_are_credible(&self) -> bool {
        let records = self.offsets.iter().map(|range| range.records);
        are_credible(records, &self.rows, self.files.iter())
    }

    fn into_proposal(self) -> TableProposal {
        TableProposal {
            dataset: self.dataset,
            create: None,
            plan: self.plan,
            models: self.models,
            offsets: self.offsets,
            rows: self.rows,
            files: self.files.into_iter().map(StagedFile::into_file).collect(),
        }
    }
}

impl StagedFile {
    fn new(file: &NewFile) -> Self {
        let FileDigest { path, size, sha256, rows } = file.digest.clone();
        let (partition_values, stats) = (file.partition_values.clone(), file.stats.clone());
        Self { path, size, sha256, rows, partition_values, stats }
    }

    fn into_file(self) -> NewFile {
        let Self { path, size, sha256, rows, partition_values, stats } = self;
        NewFile { digest: FileDigest { path, size, sha256, rows }, partition_values, stats }
    }

    /// A file lies inside the table, and is named after its own commit: it cannot be one that is there already.
    fn check(&self, commit_id: &str) -> Result<(), String> {
        let path = delta::path::decode_log_path(&self.path).map_err(|error| error.to_string())?;
        let name = path.rsplit('/').next().unwrap_or_default();
        let number = name
            .strip_prefix("part-")
            .and_then(|rest| rest.strip_prefix(commit_id))
            .and_then(|rest| rest.strip_prefix('-'))
            .and_then(|rest| rest.strip_suffix(".parquet"));
        if number.is_some_and(|number| number.len() == 5 && number.bytes().all(|byte| byte.is_ascii_digit()))
        {
            Ok(())
        } else {
            Err(format!("{path:.200?} is no file of commit {commit_id}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commit() -> StagedCommit {
        let range = OffsetRange {
            cluster: "k".into(),
            topic: "topic".into(),
            topic_id: "id".into(),
            partition: 0,
            start: 5,
            end: 9,
            records: 3,
            last_fingerprint: Some("22".repeat(32)),
        };
        let file = StagedFile {
            path: "month=1/part-c1-00000.parquet".into(),
            size: 10,
            sha256: "ab".repeat(32),
            rows: 2,
            partition_values: BTreeMap::new(),
            stats: "{\"numRecords\":2}".into(),
        };
        let table = |dataset: &str, offsets, rows, file: StagedFile| StagedTable {
            dataset: dataset.into(),
            plan: "p".into(),
            models: Vec::new(),
            offsets,
            rows,
            files: vec![file],
        };
        let rejected = [("rule".to_owned(), 1)].into();
        let rows = RowCounts { input: 3, output: 2, rejected, ..RowCounts::default() };
        let kept = RowCounts { input: 1, output: 1, ..RowCounts::default() };
        let rejects = StagedFile { path: "part-c1-00000.parquet".into(), rows: 1, ..file.clone() };
        StagedCommit {
            topology: "t".into(),
            worker: "w".into(),
            commit_id: "c1".into(),
            tables: vec![
                table("d", vec![range], rows, file),
                table("d.quarantine", Vec::new(), kept, rejects),
            ],
        }
    }

    fn plans() -> BTreeMap<String, String> {
        [("d".to_owned(), "p".to_owned())].into()
    }

    #[test]
    fn a_commit_arrives_as_it_was_sent() {
        let proposal = commit().into_proposal(&plans()).unwrap();
        let sent = serde_json::to_vec(&StagedCommit::new("t", "w", &proposal)).unwrap();
        let received: StagedCommit = serde_json::from_slice(&sent).unwrap();
        let again = received.into_proposal(&plans()).unwrap();
        assert_eq!(format!("{again:?}"), format!("{proposal:?}"));
        assert_eq!(proposal.tables[0].files[0].digest.path, "month=1/part-c1-00000.parquet");
    }

    fn redrive() -> StagedRedrive {
        let staged = commit();
        let (accepted, stays) = (staged.tables[0].files.clone(), staged.tables[1].files.clone());
        StagedRedrive {
            topology: "t".into(),
            commit_id: "c1".into(),
            dataset: "d".into(),
            plan: "p".into(),
            models: Vec::new(),
            after: 4,
            removed: vec![TakenFile { path: "part-c0-00000.parquet".into(), size: 9, rows: 3 }],
            kept: 0,
            stays,
            accepted,
            rows: staged.tables[0].rows.clone(),
        }
    }

    #[test]
    fn a_redrive_arrives_as_it_was_sent_and_numbers_nobody_counted_do_not() {
        let sent = redrive().into_redrive().unwrap();
        let bytes = serde_json::to_vec(&StagedRedrive::new("t", &sent)).unwrap();
        let received: StagedRedrive = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(format!("{:?}", received.into_redrive().unwrap()), format!("{sent:?}"));
        type Break = fn(&mut StagedRedrive);
        let breaks: [(&str, Break); 6] = [
            ("no commit id", |r| r.commit_id = "a/b".into()),
            ("nobody", |r| r.kept = u64::MAX),
            ("nobody", |r| r.removed[0].rows = COUNT_MAX + 1),
            ("nobody", |r| r.rows.filtered = u64::MAX),
            ("segment", |r| r.removed[0].path = "../part-c0-00000.parquet".into()),
            ("no file of commit", |r| r.stays[0].path = "part-c0-00000.parquet".into()),
        ];
        for (reason, break_one) in breaks {
            let mut broken = redrive();
            break_one(&mut broken);
            let error = broken.into_redrive().expect_err(reason);
            assert!(error.contains(reason), "expected {reason:?}, got {error:?}");
        }
    }

    #[test]
    fn what_no_worker_can_have_staged_is_refused() {
        type Break = fn(&mut StagedCommit);
        let breaks: [(&str, Break); 17] = [
            ("no commit id", |c| c.commit_id = "a/b".into()),
            ("no commit id", |c| c.commit_id = String::new()),
            ("no table", |c| c.tables.clear()),
            ("twice", |c| c.tables[1].dataset = "d".into()),
            ("no dataset", |c| c.tables[0].dataset = "../d".into()),
            ("plan", |c| c.tables[0].plan = "other".into()),
            ("without its dataset", |c| _ = c.tables.remove(0)),
            ("not read", |c| c.tables[0].offsets.clear()),
            ("not read", |c| c.tables[0].offsets[0].end = 5),
            ("not read", |c| c.tables[0].offsets[0].records = 0),
            ("nobody", |c| c.tables[0].rows.input = u64::MAX),
            ("nobody", |c| _ = c.tables[0].rows.rejected.insert("x".into(), COUNT_MAX + 1)),
            ("nobody", |c| c.tables[0].files[0].size = u64::MAX),
            ("segment", |c| c.tables[0].files[0].path = "../part-c1-00000.parquet".into()),
            ("relative", |c| c.tables[0].files[0].path = "s3://b/part-c1-00000.parquet".into()),
            ("no file of commit", |c| c.tables[0].files[0].path = "part-c2-00000.parquet".into()),
            ("no file of commit", |c| c.tables[0].files[0].path = "part-c1-0000x.parquet".into()),
        ];
        for (reason, break_one) in breaks {
            let mut broken = commit();
            break_one(&mut broken);
            let error = broken.into_proposal(&plans()).expect_err(reason);
            assert!(error.contains(reason), "expected {reason:?}, got {error:?}");
        }
        let unknown = serde_json::to_string(&commit()).unwrap().replacen('{', "{\"later\":1,", 1);
        assert!(serde_json::from_str::<StagedCommit>(&unknown).is_err());
    }
}
