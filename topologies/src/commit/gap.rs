//! Accepting a gap: the decision that moves positions over offsets which Kafka lost before they were read.
//!
//! Pure. A type of its own instead of a [`TableProposal`](super::TableProposal): it has no rows and no files, so nothing that
//! contradicts that can be written down. It follows the chain like any commit: only from exactly where the chain is.

use std::collections::BTreeMap;

use isobar_connectors::delta::gap::is_reason;
use isobar_connectors::delta::{self, AcceptedGap, CommitBody, CommitInfo, OffsetRange};
use isobar_schemas::RowCounts;

use super::Epoch;
use super::chain::{Chain, Refusal};
use super::format::{Decision, TableBody};

/// A gap that a person wants to be accepted.
#[derive(Debug, Clone)]
pub struct GapProposal {
    /// Unique id.
    pub commit_id: String,
    /// The offsets that nobody will read; no records.
    pub range: OffsetRange,
    /// Why, in the person's words.
    pub reason: String,
    /// The datasets that go on without them, each with the fingerprint of its plan.
    pub datasets: BTreeMap<String, String>,
}

impl GapProposal {
    fn contradiction(&self, dataset: &str, what: &str) -> Refusal {
        Refusal::DoesNotAddUp { dataset: dataset.to_owned(), what: what.to_owned() }
    }

    fn as_accepted(&self) -> AcceptedGap {
        AcceptedGap {
            topic: self.range.topic.clone(),
            partition: self.range.partition,
            from: self.range.start,
            to: self.range.end,
            reason: self.reason.clone(),
        }
    }
}

impl Chain {
    /// Checks `gap` against the chain.
    pub fn accept_gap(&self, topology: &str, gap: &GapProposal) -> Result<(), Refusal> {
        let (range, app_id) = (&gap.range, gap.range.app_id(topology));
        for dataset in gap.datasets.keys() {
            let position = self.position(dataset, &app_id).unwrap_or(-1);
            if position != range.start {
                return Err(Refusal::Stale {
                    dataset: dataset.clone(),
                    partition: app_id,
                    start: range.start,
                    chain: position,
                });
            }
            let is_nothing_read = range.records == 0 && range.last_fingerprint.is_none();
            if range.start >= range.end || !is_nothing_read || !is_reason(&gap.reason) {
                return Err(
                    gap.contradiction(dataset, "a gap of no offsets, with records, or without a reason")
                );
            }
        }
        if gap.datasets.is_empty() {
            return Err(gap.contradiction("", "a gap in no dataset"));
        }
        Ok(())
    }

    /// Turns an accepted gap into the decision that follows this chain.
    ///
    /// # Errors
    /// If a table does not exist or a body breaks a rule of the format: it was not accepted.
    pub fn decide_gap(
        &self,
        topology: &str,
        epoch: Epoch,
        now_ms: i64,
        gap: &GapProposal,
    ) -> Result<Decision, isobar_connectors::Error> {
        let sequence = self.sequence + 1;
        let timestamp_ms = delta::next_commit_timestamp_ms(now_ms, Some(self.timestamp_ms));
        let mut tables = Vec::with_capacity(gap.datasets.len());
        for (dataset, plan) in &gap.datasets {
            let missing = || isobar_connectors::Error::LogEntry(format!("no table {dataset}"));
            let head = self.tables.get(dataset).ok_or_else(missing)?;
            let info = delta::IsobarInfo {
                format: delta::body::INFO_FORMAT,
                topology: topology.to_owned(),
                dataset: dataset.clone(),
                epoch: epoch.0,
                sequence,
                commit_id: gap.commit_id.clone(),
                members: Vec::new(),
                previous_sha256: head.sha256.clone(),
                plan: plan.clone(),
                models: Vec::new(),
                offsets: Vec::new(),
                rows: RowCounts::default(),
                files: Vec::new(),
            };
            let mut body = CommitBody::new(CommitInfo::accepting(&gap.as_accepted(), timestamp_ms, info));
            body.advance(gap.range.clone());
            let bytes = body.to_bytes()?;
            tables.push(TableBody {
                dataset: dataset.clone(),
                version: head.version + 1,
                sha256: delta::sha256_hex(&bytes),
                body: String::from_utf8(bytes.to_vec()).expect("JSON is UTF-8"),
            });
        }
        Ok(Decision {
            sequence,
            commit_id: gap.commit_id.clone(),
            timestamp_ms,
            tables,
            checkpoints: BTreeMap::new(),
        })
    }
}

#[cfg(test)]
mod tests {
    use isobar_connectors::delta::parse_body;

    use super::*;
    use crate::commit::chain::TableHead;

    const APP_ID: &str = "t/k/id/3";

    fn chain(position: i64) -> Chain {
        let head = TableHead {
            version: 4,
            sha256: "ab".repeat(32),
            positions: [(APP_ID.to_owned(), position)].into(),
            maintained: 0,
            checkpoint: None,
            previous_checkpoint: None,
            described: None,
        };
        Chain { sequence: 9, timestamp_ms: 1000, tables: [("d".to_owned(), head)].into(), recent: Vec::new() }
    }

    fn gap() -> GapProposal {
        GapProposal {
            commit_id: "c".into(),
            range: OffsetRange {
                cluster: "k".into(),
                topic: "orders".into(),
                topic_id: "id".into(),
                partition: 3,
                start: 50,
                end: 80,
                records: 0,
                last_fingerprint: None,
            },
            reason: "retention during the outage of 3 May, restored from backup".into(),
            datasets: [("d".to_owned(), "11".repeat(32))].into(),
        }
    }

    #[test]
    fn an_accepted_gap_moves_the_position_and_says_why() {
        let mut chain = chain(50);
        chain.accept_gap("t", &gap()).unwrap();
        let decision = chain.decide_gap("t", Epoch(2), 5000, &gap()).unwrap();
        let body = parse_body(decision.tables[0].body.as_bytes()).unwrap();
        let accepted = AcceptedGap::of(&body.info).unwrap().unwrap();
        assert_eq!(accepted, gap().as_accepted());
        assert_eq!((body.info.isobar.offsets.len(), body.txns[0].version), (1, 80));
        chain.apply(&decision).unwrap();
        assert_eq!(chain.position("d", APP_ID), Some(80));
        // Once: the chain is elsewhere now.
        assert!(matches!(chain.accept_gap("t", &gap()), Err(Refusal::Stale { chain: 80, .. })));
    }

    #[test]
    fn a_gap_is_accepted_from_exactly_where_the_chain_is_and_with_a_reason() {
        for position in [49, 51, 80] {
            assert!(matches!(chain(position).accept_gap("t", &gap()), Err(Refusal::Stale { .. })));
        }
        assert!(matches!(chain(50).accept_gap("other", &gap()), Err(Refusal::Stale { chain: -1, .. })));
        let breaks: [fn(&mut GapProposal); 6] = [
            |gap| gap.range.end = 50,
            |gap| gap.range.end = 40,
            |gap| gap.range.records = 1,
            |gap| gap.reason = " ".into(),
            |gap| gap.reason = "two\nlines".into(),
            |gap| gap.datasets.clear(),
        ];
        for break_one in breaks {
            let mut broken = gap();
            break_one(&mut broken);
            let refused = chain(50).accept_gap("t", &broken);
            assert!(matches!(refused, Err(Refusal::DoesNotAddUp { .. })), "{refused:?}");
        }
    }
}
