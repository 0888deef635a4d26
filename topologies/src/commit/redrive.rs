//! Redrive on the chain: may these rows leave the quarantine, and what are the bytes?
//!
//! Pure functions beside those of [`upkeep`](super::upkeep), whose fence they share: a redrive removes files of the
//! quarantine, so it names the last entry before it that did, and whoever planned on another state of the files is
//! refused ([`Refusal::Overtaken`]). Rows leave the quarantine and land in the dataset in one decision, so that a row that
//! was taken is in no live file any more and cannot be taken again. The argument: `docs/redrive.md`.

use std::collections::{BTreeMap, HashSet};

use isobar_connectors::delta::{self, CommitBody, CommitInfo};
use isobar_schemas::RowCounts;

use super::Epoch;
use super::chain::{Chain, NewFile, Refusal, quarantine_of};
use super::format::{Decision, TableBody};
use super::upkeep::RemovedFile;

/// Rows of a quarantine that went through the topology again, to be decided.
#[derive(Debug, Clone)]
pub struct Redrive {
    /// Unique id, also in the names of the files added.
    pub commit_id: String,
    /// The dataset, without `.quarantine`.
    pub dataset: String,
    /// Fingerprint of the plan that the rows went through.
    pub plan: String,
    /// The models that scored the rows accepted, ascending.
    pub models: Vec<delta::ScoredBy>,
    /// The entry after which this was planned: [`TableHead::maintained`](super::TableHead::maintained) of the quarantine.
    pub after: u64,
    /// Files of the quarantine that hold the rows taken, all of them live at that entry.
    pub removed: Vec<RemovedFile>,
    /// Rows of these files that were not selected.
    pub kept: u64,
    /// Files for the quarantine: the rows kept, and those rejected again.
    pub stays: Vec<NewFile>,
    /// Files for the dataset: the rows accepted.
    pub accepted: Vec<NewFile>,
    /// What became of the rows taken.
    pub rows: RowCounts,
}

impl Redrive {
    fn contradiction(&self, what: impl Into<String>) -> Refusal {
        Refusal::DoesNotAddUp { dataset: self.dataset.clone(), what: what.into() }
    }

    /// The conservation law: every row of the files removed is taken or kept, every row taken has one fate, and the files
    /// added hold the rows accepted, and those that stay.
    fn check_rows(&self) -> Result<(), Refusal> {
        let rows = &self.rows;
        let fates = rows.rejected.values().chain(rows.dropped.values());
        let fates = fates.chain([&rows.output, &rows.filtered, &rows.late, &rows.input, &rows.expanded]);
        if total(fates.copied()).is_none() || !rows.adds_up() || rows.late > 0 {
            return Err(self.contradiction(format!("rows do not add up: {rows:?}")));
        }
        if rows.input == 0 {
            return Err(self.contradiction("a redrive of no row"));
        }
        let rejected = rows.rejected_total();
        let sums = [
            (total(self.removed.iter().map(|file| file.rows)), rows.input.checked_add(self.kept), "removed"),
            (
                total(self.stays.iter().map(|file| file.digest.rows)),
                self.kept.checked_add(rejected),
                "staying",
            ),
            (total(self.accepted.iter().map(|file| file.digest.rows)), Some(rows.output), "accepted"),
        ];
        for (held, counted, what) in sums {
            if held.is_none() || held != counted {
                let what = format!("files of {held:?} rows {what}, counted are {counted:?}");
                return Err(self.contradiction(what));
            }
        }
        Ok(())
    }

    /// No file is named twice, and none that is removed is added.
    fn check_paths(&self) -> Result<(), Refusal> {
        let mut paths = HashSet::new();
        let in_quarantine = self.removed.iter().map(|file| (true, file.path.as_str()));
        let stays = self.stays.iter().map(|file| (true, file.digest.path.as_str()));
        let in_dataset = self.accepted.iter().map(|file| (false, file.digest.path.as_str()));
        for (is_quarantine, path) in in_quarantine.chain(stays).chain(in_dataset) {
            if !paths.insert((is_quarantine, path)) {
                return Err(self.contradiction(format!("file {path} occurs twice")));
            }
        }
        Ok(())
    }
}

fn total(numbers: impl Iterator<Item = u64>) -> Option<u64> {
    let mut numbers = numbers;
    numbers.try_fold(0, u64::checked_add)
}

impl Chain {
    /// Checks `redrive` against the chain and its own arithmetic.
    pub fn accept_redrive(&self, redrive: &Redrive) -> Result<(), Refusal> {
        let quarantine = quarantine_of(&redrive.dataset);
        let Some(head) = self.tables.get(&quarantine).filter(|_| self.tables.contains_key(&redrive.dataset))
        else {
            return Err(redrive.contradiction("does not exist, or has no quarantine"));
        };
        if head.maintained != redrive.after {
            return Err(Refusal::Overtaken {
                dataset: quarantine,
                after: redrive.after,
                chain: head.maintained,
            });
        }
        redrive.check_rows()?;
        redrive.check_paths()
    }

    /// Turns an accepted redrive into the decision that follows this chain: one body for the dataset, one for its
    /// quarantine.
    ///
    /// # Errors
    /// If a table does not exist or a body breaks a rule of the format: it was not accepted, or is too large.
    pub fn decide_redrive(
        &self,
        topology: &str,
        epoch: Epoch,
        now_ms: i64,
        redrive: &Redrive,
    ) -> Result<Decision, isobar_connectors::Error> {
        let sequence = self.sequence + 1;
        let timestamp_ms = delta::next_commit_timestamp_ms(now_ms, Some(self.timestamp_ms));
        let (taken, rejected) = (redrive.rows.input, redrive.rows.rejected_total());
        let in_quarantine = RowCounts { input: rejected, output: rejected, ..RowCounts::default() };
        let landed = Entry {
            table: redrive.dataset.clone(),
            redrive: delta::Redrive::Landed { rows: taken },
            rows: redrive.rows.clone(),
            models: &redrive.models,
            added: &redrive.accepted,
            removed: &[],
        };
        let moved = Entry {
            table: quarantine_of(&redrive.dataset),
            redrive: delta::Redrive::Taken { after: redrive.after, kept: redrive.kept, rows: taken },
            rows: in_quarantine,
            models: &[],
            added: &redrive.stays,
            removed: &redrive.removed,
        };
        let mut tables = Vec::with_capacity(2);
        for entry in [landed, moved] {
            let missing = || isobar_connectors::Error::LogEntry(format!("no table {}", entry.table));
            let head = self.tables.get(&entry.table).ok_or_else(missing)?;
            let info = delta::IsobarInfo {
                format: delta::body::INFO_FORMAT,
                topology: topology.to_owned(),
                dataset: entry.table.clone(),
                epoch: epoch.0,
                sequence,
                commit_id: redrive.commit_id.clone(),
                members: Vec::new(),
                previous_sha256: head.sha256.clone(),
                plan: redrive.plan.clone(),
                models: entry.models.to_vec(),
                offsets: Vec::new(),
                rows: entry.rows.clone(),
                files: Vec::new(),
            };
            let body = entry.encode(timestamp_ms, info)?;
            tables.push(TableBody {
                dataset: entry.table,
                version: head.version + 1,
                sha256: delta::sha256_hex(body.as_bytes()),
                body,
            });
        }
        Ok(Decision {
            sequence,
            commit_id: redrive.commit_id.clone(),
            timestamp_ms,
            tables,
            checkpoints: BTreeMap::new(),
        })
    }
}

/// What becomes of one of the two tables.
struct Entry<'a> {
    table: String,
    redrive: delta::Redrive,
    rows: RowCounts,
    models: &'a [delta::ScoredBy],
    added: &'a [NewFile],
    removed: &'a [RemovedFile],
}

impl Entry<'_> {
    fn encode(&self, timestamp_ms: i64, info: delta::IsobarInfo) -> Result<String, isobar_connectors::Error> {
        let mut body = CommitBody::new(CommitInfo::redriving(&self.redrive, timestamp_ms, info));
        for file in self.removed {
            body.remove_file(file.path.clone(), file.size, file.partition_values.clone());
        }
        for file in self.added {
            body.add_file(file.digest.clone(), file.partition_values.clone(), file.stats.clone());
        }
        let bytes = body.to_bytes()?;
        Ok(String::from_utf8(bytes.to_vec()).expect("JSON is UTF-8"))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::datatypes::{DataType, Field, Schema};

    use super::*;
    use crate::commit::upkeep::{Change, Upkeep};
    use crate::commit::{Proposal, TableProposal};

    fn definition(name: &str) -> delta::TableDefinition {
        delta::TableDefinition {
            id: "6b0f0e3c-6a3f-4b39-9b1a-2d6f2f2f8a10".into(),
            name: name.into(),
            description: None,
            schema: Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, false)])),
            partition_by: Vec::new(),
            created_ms: 0,
        }
    }

    /// A chain with a dataset and its quarantine, both at version 0.
    fn chain() -> Chain {
        let create = |dataset: &str| TableProposal {
            dataset: dataset.into(),
            create: Some(definition(dataset)),
            plan: String::new(),
            models: Vec::new(),
            offsets: Vec::new(),
            rows: RowCounts::default(),
            files: Vec::new(),
        };
        let proposal = Proposal { commit_id: "c0".into(), tables: vec![create("d"), create("d.quarantine")] };
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

    /// Of files with 9 rows 5 are taken: 3 accepted, 1 dropped, 1 rejected again.
    fn redrive(after: u64) -> Redrive {
        let rows = RowCounts {
            input: 5,
            output: 3,
            rejected: [("r".to_owned(), 1)].into(),
            dropped: [("x".to_owned(), 1)].into(),
            ..RowCounts::default()
        };
        Redrive {
            commit_id: format!("r{after}"),
            dataset: "d".into(),
            plan: "p".into(),
            models: Vec::new(),
            after,
            removed: vec![removed("a", 5), removed("b", 4)],
            kept: 4,
            stays: vec![added(&format!("s{after}"), 5)],
            accepted: vec![added(&format!("s{after}"), 3)],
            rows,
        }
    }

    fn compaction(dataset: &str, after: u64) -> Upkeep {
        let change = Change::Compact { removed: vec![removed("a", 5)], added: vec![added("m", 5)] };
        Upkeep { commit_id: format!("m{after}"), dataset: dataset.into(), plan: "p".into(), after, change }
    }

    fn applied(chain: &Chain, redrive: &Redrive) -> Chain {
        chain.accept_redrive(redrive).unwrap();
        let mut next = chain.clone();
        next.apply(&chain.decide_redrive("t", Epoch(1), 0, redrive).unwrap()).unwrap();
        next
    }

    #[test]
    fn a_redrive_is_one_decision_with_a_version_of_each_table_and_moves_no_position() {
        let chain = chain();
        let decision = chain.decide_redrive("t", Epoch(1), 0, &redrive(0)).unwrap();
        let names: Vec<&str> = decision.tables.iter().map(|table| table.dataset.as_str()).collect();
        assert_eq!(names, ["d", "d.quarantine"]);
        let next = applied(&chain, &redrive(0));
        for (table, maintained) in [("d", 0), ("d.quarantine", 1)] {
            let (before, after) = (&chain.tables[table], &next.tables[table]);
            assert_eq!((after.version, after.maintained), (1, maintained), "{table}");
            assert_eq!(after.positions, before.positions, "{table}");
        }
        assert_eq!(next.sequence_of("r0"), Some(2));
    }

    #[test]
    fn of_two_redrives_planned_on_the_same_files_the_second_is_refused_and_its_bodies_do_not_follow() {
        let chain = chain();
        let first = applied(&chain, &redrive(0));
        let again = Redrive { commit_id: "other".into(), ..redrive(0) };
        let overtaken = Refusal::Overtaken { dataset: "d.quarantine".into(), after: 0, chain: 1 };
        assert_eq!(first.accept_redrive(&again), Err(overtaken));
        let stale = first.decide_redrive("t", Epoch(1), 0, &again).unwrap();
        assert!(first.clone().apply(&stale).unwrap_err().contains("planned after version 0"));
        let second = applied(&first, &redrive(1));
        assert_eq!(second.tables["d.quarantine"].maintained, 2);
    }

    #[test]
    fn a_redrive_and_a_compaction_of_the_quarantine_exclude_each_other_and_one_of_the_dataset_does_not() {
        let chain = chain();
        let of_quarantine = compaction("d.quarantine", 0);
        chain.accept_upkeep(&of_quarantine).unwrap();
        let redriven = applied(&chain, &redrive(0));
        assert!(matches!(redriven.accept_upkeep(&of_quarantine), Err(Refusal::Overtaken { .. })));
        redriven.accept_upkeep(&compaction("d", 0)).unwrap();

        let mut compacted = chain.clone();
        compacted.apply(&chain.decide_upkeep("t", Epoch(1), 0, &of_quarantine).unwrap()).unwrap();
        assert!(matches!(compacted.accept_redrive(&redrive(0)), Err(Refusal::Overtaken { .. })));
        let mut compacted = chain.clone();
        compacted.apply(&chain.decide_upkeep("t", Epoch(1), 0, &compaction("d", 0)).unwrap()).unwrap();
        compacted.accept_redrive(&redrive(0)).unwrap();
    }

    #[test]
    fn rows_that_come_or_go_are_refused() {
        type Break = fn(&mut Redrive);
        let breaks: [(&str, Break); 13] = [
            ("removed", |r| r.removed[0].rows = 4),
            ("removed", |r| r.removed.clear()),
            ("removed None", |r| r.removed[0].rows = u64::MAX),
            ("removed", |r| r.kept = u64::MAX),
            ("staying", |r| r.stays[0].digest.rows = 4),
            ("staying", |r| r.stays.clear()),
            ("accepted", |r| r.accepted[0].digest.rows = 4),
            ("accepted", |r| r.accepted.clear()),
            ("add up", |r| r.rows.input = 6),
            ("add up", |r| _ = r.rows.dropped.insert("y".into(), u64::MAX)),
            ("add up", |r| {
                r.rows.dropped.clear();
                r.rows.late = 1;
            }),
            ("no row", |r| {
                r.rows = RowCounts::default();
                r.kept = 9;
                r.stays[0].digest.rows = 9;
                r.accepted.clear();
            }),
            ("does not exist", |r| r.dataset = "e".into()),
        ];
        let chain = chain();
        for (what, break_one) in breaks {
            let mut broken = redrive(0);
            break_one(&mut broken);
            let refusal = chain.accept_redrive(&broken).expect_err(what).to_string();
            // "removed None" stands for a sum that does not fit.
            let words: Vec<&str> = what.split(' ').collect();
            assert!(words.iter().all(|word| refusal.contains(word)), "expected {what:?}, got {refusal:?}");
        }
    }

    #[test]
    fn no_file_is_named_twice() {
        type Break = fn(&mut Redrive);
        let breaks: [Break; 3] = [
            |r| r.removed[1].path = "a.parquet".into(),
            |r| r.stays[0].digest.path = "a.parquet".into(),
            |r| {
                r.accepted = vec![added("x", 2), added("x", 1)];
            },
        ];
        for break_one in breaks {
            let mut broken = redrive(0);
            break_one(&mut broken);
            let refusal = chain().accept_redrive(&broken).unwrap_err().to_string();
            assert!(refusal.contains("occurs twice"), "{refusal}");
        }
    }
}
