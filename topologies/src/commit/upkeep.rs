//! Maintenance on the chain: may this follow, and what are its bytes?
//!
//! Pure functions beside those of [`chain`](super::chain). An [`Upkeep`] reads no offsets and counts no rows, so the
//! position check cannot stop one that comes late. A fence of the same kind does: it names the maintenance entry after
//! which it was planned ([`TableHead::maintained`](super::TableHead::maintained)), and whoever is second finds the chain
//! elsewhere. Only maintenance and [redrive](super::redrive), which is fenced in the same way, remove files, so whatever was
//! planned after the last such entry names files that are still part of the table.

use std::collections::{BTreeMap, HashSet};

use isobar_connectors::delta::{self, CommitBody, CommitInfo, Maintenance, MaintenanceWork};
use isobar_schemas::RowCounts;

use super::Epoch;
use super::chain::{Chain, NewFile, Refusal};
use super::format::{Decision, TableBody};

/// A file that leaves the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemovedFile {
    /// Path as the log writes it.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Rows.
    pub rows: u64,
    /// Values of the partition columns.
    pub partition_values: BTreeMap<String, Option<String>>,
}

/// What is to be done to one table.
#[derive(Debug, Clone)]
pub enum Change {
    /// Files are replaced by others that hold the same rows.
    Compact {
        /// The files replaced.
        removed: Vec<RemovedFile>,
        /// The files that replace them.
        added: Vec<NewFile>,
    },
    /// Files that were removed up to this version may be deleted from every cloud.
    Vacuum {
        /// The version, inclusive.
        through: u64,
    },
}

/// A maintenance entry to be decided.
#[derive(Debug, Clone)]
pub struct Upkeep {
    /// Unique id, also in the names of files added.
    pub commit_id: String,
    /// The table.
    pub dataset: String,
    /// Fingerprint of the topology's plan for the table.
    pub plan: String,
    /// The entry after which this was planned: [`TableHead::maintained`](super::TableHead::maintained).
    pub after: u64,
    /// The work.
    pub change: Change,
}

impl Upkeep {
    fn contradiction(&self, what: impl Into<String>) -> Refusal {
        Refusal::DoesNotAddUp { dataset: self.dataset.clone(), what: what.into() }
    }

    /// What `commitInfo` says about it.
    fn maintenance(&self) -> Maintenance {
        let work = match &self.change {
            Change::Compact { added, .. } => MaintenanceWork::Optimize {
                rows: added.iter().map(|file| file.digest.rows).fold(0, u64::saturating_add),
            },
            Change::Vacuum { through } => MaintenanceWork::Vacuum { through: *through },
        };
        Maintenance { after: self.after, work }
    }

    /// The conservation law of compaction: rows removed = rows added, and no file is both.
    fn check_files(&self, removed: &[RemovedFile], added: &[NewFile]) -> Result<(), Refusal> {
        if removed.is_empty() || added.is_empty() {
            return Err(self.contradiction("a compaction replaces nothing"));
        }
        let before = removed.iter().map(|file| file.rows).try_fold(0, u64::checked_add);
        let after = added.iter().map(|file| file.digest.rows).try_fold(0, u64::checked_add);
        if before.is_none() || before != after {
            return Err(self.contradiction(format!("rows removed {before:?}, rows added {after:?}")));
        }
        let mut paths = HashSet::new();
        let removed = removed.iter().map(|file| file.path.as_str());
        for path in removed.chain(added.iter().map(|file| file.digest.path.as_str())) {
            if !paths.insert(path) {
                return Err(self.contradiction(format!("file {path} occurs twice")));
            }
        }
        Ok(())
    }
}

impl Chain {
    /// Checks `upkeep` against the chain and its own arithmetic.
    pub fn accept_upkeep(&self, upkeep: &Upkeep) -> Result<(), Refusal> {
        let Some(head) = self.tables.get(&upkeep.dataset) else {
            return Err(upkeep.contradiction("does not exist and cannot be maintained"));
        };
        if head.maintained != upkeep.after {
            return Err(Refusal::Overtaken {
                dataset: upkeep.dataset.clone(),
                after: upkeep.after,
                chain: head.maintained,
            });
        }
        match &upkeep.change {
            Change::Compact { removed, added } => upkeep.check_files(removed, added),
            Change::Vacuum { through } if *through > head.version => {
                Err(upkeep.contradiction(format!("a vacuum through version {through} of {}", head.version)))
            }
            Change::Vacuum { .. } => Ok(()),
        }
    }

    /// Turns an accepted upkeep into the decision that follows this chain.
    ///
    /// # Errors
    /// If the table does not exist or the body breaks a rule of the format: it was not accepted, or is too large.
    pub fn decide_upkeep(
        &self,
        topology: &str,
        epoch: Epoch,
        now_ms: i64,
        upkeep: &Upkeep,
    ) -> Result<Decision, isobar_connectors::Error> {
        let missing = || isobar_connectors::Error::LogEntry(format!("no table {}", upkeep.dataset));
        let head = self.tables.get(&upkeep.dataset).ok_or_else(missing)?;
        let sequence = self.sequence + 1;
        let timestamp_ms = delta::next_commit_timestamp_ms(now_ms, Some(self.timestamp_ms));
        let info = delta::IsobarInfo {
            format: delta::body::INFO_FORMAT,
            topology: topology.to_owned(),
            dataset: upkeep.dataset.clone(),
            epoch: epoch.0,
            sequence,
            commit_id: upkeep.commit_id.clone(),
            members: Vec::new(),
            previous_sha256: head.sha256.clone(),
            plan: upkeep.plan.clone(),
            models: Vec::new(),
            offsets: Vec::new(),
            rows: RowCounts::default(),
            files: Vec::new(),
        };
        let body = encode_body(CommitInfo::maintaining(&upkeep.maintenance(), timestamp_ms, info), upkeep)?;
        let table = TableBody {
            dataset: upkeep.dataset.clone(),
            version: head.version + 1,
            sha256: delta::sha256_hex(body.as_bytes()),
            body,
        };
        Ok(Decision {
            sequence,
            commit_id: upkeep.commit_id.clone(),
            timestamp_ms,
            tables: vec![table],
            checkpoints: BTreeMap::new(),
        })
    }
}

fn encode_body(info: CommitInfo, upkeep: &Upkeep) -> Result<String, isobar_connectors::Error> {
    let mut body = CommitBody::new(info);
    if let Change::Compact { removed, added } = &upkeep.change {
        for file in removed {
            body.remove_file(file.path.clone(), file.size, file.partition_values.clone());
        }
        for file in added {
            body.add_file(file.digest.clone(), file.partition_values.clone(), file.stats.clone());
        }
    }
    let bytes = body.to_bytes()?;
    Ok(String::from_utf8(bytes.to_vec()).expect("JSON is UTF-8"))
}

/// The value of [`TableHead::maintained`](super::TableHead::maintained) after `body` became `version`, where it was
/// `maintained` before.
///
/// # Errors
/// If the body removes files, or lets them go, and was planned on something else.
pub(super) fn maintained_after(body: &CommitBody, version: u64, maintained: u64) -> Result<u64, String> {
    match body.info.planned_after().map_err(|error| error.to_string())? {
        None => Ok(maintained),
        Some(after) if after == maintained => Ok(version),
        Some(after) => {
            Err(format!("{} planned after version {after}, not {maintained}", body.info.operation))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::datatypes::{DataType, Field, Schema};

    use super::*;
    use crate::commit::{Proposal, TableProposal};

    fn chain() -> Chain {
        let schema = Schema::new(vec![Field::new("id", DataType::Int64, false)]);
        let table = delta::TableDefinition {
            id: "6b0f0e3c-6a3f-4b39-9b1a-2d6f2f2f8a10".into(),
            name: "d".into(),
            description: None,
            schema: Arc::new(schema),
            partition_by: Vec::new(),
            created_ms: 0,
        };
        let create = TableProposal {
            dataset: "d".into(),
            create: Some(table),
            plan: String::new(),
            models: Vec::new(),
            offsets: Vec::new(),
            rows: RowCounts::default(),
            files: Vec::new(),
        };
        let proposal = Proposal { commit_id: "c0".into(), tables: vec![create] };
        let mut chain = Chain::default();
        chain.apply(&chain.clone().decide("t", Epoch(1), 10, &proposal).unwrap()).unwrap();
        chain
    }

    fn removed(name: &str, rows: u64) -> RemovedFile {
        RemovedFile { path: format!("{name}.parquet"), size: 10, rows, partition_values: BTreeMap::new() }
    }

    fn added(name: &str, rows: u64) -> NewFile {
        let path = format!("{name}.parquet");
        NewFile {
            digest: delta::FileDigest { path, size: 15, sha256: "5".repeat(64), rows },
            partition_values: BTreeMap::new(),
            stats: format!("{{\"numRecords\":{rows}}}"),
        }
    }

    fn upkeep(after: u64, change: Change) -> Upkeep {
        Upkeep { commit_id: format!("m{after}"), dataset: "d".into(), plan: "p".into(), after, change }
    }

    fn compaction(after: u64) -> Upkeep {
        let removed = vec![removed("a", 3), removed("b", 4)];
        upkeep(after, Change::Compact { removed, added: vec![added(&format!("c{after}"), 7)] })
    }

    fn applied(chain: &Chain, upkeep: &Upkeep) -> Chain {
        chain.accept_upkeep(upkeep).unwrap();
        let mut next = chain.clone();
        next.apply(&chain.decide_upkeep("t", Epoch(1), 0, upkeep).unwrap()).unwrap();
        next
    }

    #[test]
    fn whoever_planned_on_an_older_state_is_refused_and_its_body_does_not_follow() {
        let chain = chain();
        let first = applied(&chain, &compaction(0));
        assert_eq!((first.tables["d"].version, first.tables["d"].maintained), (1, 1));
        let refusal = Refusal::Overtaken { dataset: "d".into(), after: 0, chain: 1 };
        assert_eq!(first.accept_upkeep(&compaction(0)), Err(refusal));
        let stale = first.decide_upkeep("t", Epoch(1), 0, &compaction(0)).unwrap();
        assert!(first.clone().apply(&stale).unwrap_err().contains("planned after version 0"));
        let second = applied(&first, &upkeep(1, Change::Vacuum { through: 1 }));
        assert_eq!((second.tables["d"].version, second.tables["d"].maintained), (2, 2));
        assert_eq!(second.tables["d"].positions, chain.tables["d"].positions);
    }

    #[test]
    fn rows_that_come_or_go_are_refused() {
        let chain = chain();
        let refused: [(&str, Change); 5] = [
            (
                "rows removed Some(3)",
                Change::Compact { removed: vec![removed("a", 3)], added: vec![added("b", 2)] },
            ),
            (
                "rows removed None",
                Change::Compact {
                    removed: vec![removed("a", u64::MAX), removed("b", 1)],
                    added: vec![added("c", 0)],
                },
            ),
            ("replaces nothing", Change::Compact { removed: vec![], added: vec![] }),
            ("occurs twice", Change::Compact { removed: vec![removed("a", 3)], added: vec![added("a", 3)] }),
            ("through version 1 of 0", Change::Vacuum { through: 1 }),
        ];
        for (what, change) in refused {
            let refusal = chain.accept_upkeep(&upkeep(0, change)).unwrap_err();
            assert!(refusal.to_string().contains(what), "{refusal}");
        }
        let other = Upkeep { dataset: "e".into(), ..compaction(0) };
        assert!(matches!(chain.accept_upkeep(&other), Err(Refusal::DoesNotAddUp { .. })));
    }

    #[test]
    fn a_head_that_was_never_maintained_has_the_bytes_it_always_had() {
        let chain = chain();
        let bytes = serde_json::to_string(&chain.tables["d"]).unwrap();
        assert!(!bytes.contains("maintained"), "{bytes}");
        assert_eq!(serde_json::from_str::<crate::commit::TableHead>(&bytes).unwrap(), chain.tables["d"]);
        let maintained = applied(&chain, &compaction(0));
        let bytes = serde_json::to_string(&maintained.tables["d"]).unwrap();
        assert!(bytes.ends_with("\"positions\":{},\"maintained\":1}"), "{bytes}");
    }
}
