//! Checkpoints on the chain: may this one follow, and what is decided?
//!
//! Pure functions beside those of [`chain`](super::chain). A checkpoint says nothing that the log does not say, so it
//! makes no version and moves no position. It is decided all the same, because only then do all clouds hold the same
//! bytes: the chain remembers size and SHA-256 of the newest one of every table, and whoever leads next brings it to
//! the clouds that miss it.

use std::collections::BTreeMap;

use isobar_connectors::delta;

use super::chain::{Chain, TableHead};
use super::format::{CheckpointRef, Decision};

/// A checkpoint to be decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointProposal {
    /// Unique id.
    pub commit_id: String,
    /// The table.
    pub dataset: String,
    /// The checkpoint. A majority of the clouds holds it, each after its version.
    pub checkpoint: CheckpointRef,
}

impl Chain {
    /// Turns a proposal into the decision that follows this chain.
    ///
    /// # Errors
    /// What it contradicts; nothing is decided then.
    pub fn decide_checkpoint(&self, now_ms: i64, proposal: &CheckpointProposal) -> Result<Decision, String> {
        check(self.tables.get(&proposal.dataset), &proposal.dataset, &proposal.checkpoint)?;
        let CheckpointProposal { commit_id, dataset, checkpoint } = proposal.clone();
        Ok(Decision {
            sequence: self.sequence + 1,
            commit_id,
            timestamp_ms: delta::next_commit_timestamp_ms(now_ms, Some(self.timestamp_ms)),
            tables: Vec::new(),
            checkpoints: BTreeMap::from([(dataset, checkpoint)]),
        })
    }

    /// Remembers decided checkpoints.
    ///
    /// # Errors
    /// If one of them cannot follow: damaged or foreign bytes.
    pub(super) fn apply_checkpoints(
        &mut self,
        checkpoints: &BTreeMap<String, CheckpointRef>,
    ) -> Result<(), String> {
        for (dataset, checkpoint) in checkpoints {
            check(self.tables.get(dataset), dataset, checkpoint)?;
            if let Some(head) = self.tables.get_mut(dataset) {
                let previous = head.checkpoint.replace(checkpoint.clone());
                head.previous_checkpoint = previous.map(|previous| previous.version);
            }
        }
        Ok(())
    }
}

/// A checkpoint is of a version that is decided, and newer than the last one.
fn check(head: Option<&TableHead>, dataset: &str, checkpoint: &CheckpointRef) -> Result<(), String> {
    let CheckpointRef { version, size, sha256, actions, adds } = checkpoint;
    let wrong = |what: String| Err(format!("checkpoint of {dataset} version {version}: {what}"));
    let Some(head) = head else { return wrong("there is no such table".to_owned()) };
    if *version > head.version {
        return wrong(format!("the table is at version {}", head.version));
    }
    if let Some(last) = head.checkpoint.as_ref().filter(|last| last.version >= *version) {
        return wrong(format!("version {} has one already", last.version));
    }
    // `protocol` and `metaData` are always there.
    if *size == 0 || !delta::is_sha256(sha256) || adds.checked_add(2).is_none_or(|least| *actions < least) {
        return wrong(format!("{size} bytes, SHA-256 {sha256}, {actions} actions, {adds} files"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain() -> Chain {
        let head = TableHead {
            version: 7,
            sha256: "ab".repeat(32),
            positions: BTreeMap::from([("t/c/i/0".to_owned(), 40)]),
            maintained: 5,
            checkpoint: None,
            previous_checkpoint: None,
            described: None,
        };
        Chain {
            sequence: 9,
            timestamp_ms: 50,
            tables: BTreeMap::from([("d".to_owned(), head)]),
            ..Chain::default()
        }
    }

    fn checkpoint(version: u64) -> CheckpointRef {
        CheckpointRef { version, size: 900, sha256: "cd".repeat(32), actions: 12, adds: 10 }
    }

    fn proposal(checkpoint: CheckpointRef) -> CheckpointProposal {
        CheckpointProposal { commit_id: format!("k{}", checkpoint.version), dataset: "d".into(), checkpoint }
    }

    #[test]
    fn a_checkpoint_is_remembered_and_moves_nothing_else() {
        let mut chain = chain();
        let before = chain.clone();
        let decision = chain.decide_checkpoint(10, &proposal(checkpoint(6))).unwrap();
        assert_eq!((decision.sequence, decision.timestamp_ms, decision.tables.len()), (10, 51, 0));
        chain.apply(&decision).unwrap();
        assert_eq!((chain.sequence, chain.timestamp_ms), (10, 51));
        assert_eq!(chain.sequence_of("k6"), Some(10));
        let head = &chain.tables["d"];
        assert_eq!(head.checkpoint, Some(checkpoint(6)));
        assert_eq!(TableHead { checkpoint: None, ..head.clone() }, before.tables["d"]);
    }

    #[test]
    fn the_checkpoint_before_the_newest_is_remembered_and_nothing_older() {
        let mut chain = chain();
        let mut kept = Vec::new();
        for version in [2, 4, 7] {
            chain.apply(&chain.decide_checkpoint(0, &proposal(checkpoint(version))).unwrap()).unwrap();
            let head = &chain.tables["d"];
            kept.push((head.previous_checkpoint, head.checkpoint.as_ref().map(|newest| newest.version)));
        }
        assert_eq!(kept, [(None, Some(2)), (Some(2), Some(4)), (Some(4), Some(7))]);
    }

    #[test]
    fn a_checkpoint_that_contradicts_the_chain_is_neither_decided_nor_applied() {
        let mut chain = chain();
        chain.apply(&chain.decide_checkpoint(0, &proposal(checkpoint(4))).unwrap()).unwrap();
        let refused: [(&str, CheckpointRef); 7] = [
            ("the table is at version 7", checkpoint(8)),
            ("version 4 has one already", checkpoint(4)),
            ("version 4 has one already", checkpoint(3)),
            ("0 bytes", CheckpointRef { size: 0, ..checkpoint(6) }),
            ("SHA-256 CDCD", CheckpointRef { sha256: "CD".repeat(32), ..checkpoint(6) }),
            ("11 actions, 10 files", CheckpointRef { actions: 11, ..checkpoint(6) }),
            ("files", CheckpointRef { adds: u64::MAX, ..checkpoint(6) }),
        ];
        for (what, checkpoint) in refused {
            let refusal = chain.decide_checkpoint(0, &proposal(checkpoint.clone())).unwrap_err();
            assert!(refusal.contains(what), "{refusal}");
            let mut decision = chain.decide_checkpoint(0, &proposal(self::checkpoint(6))).unwrap();
            decision.checkpoints.insert("d".into(), checkpoint);
            assert!(chain.clone().apply(&decision).unwrap_err().contains(what), "{decision:?}");
        }
        let unknown = CheckpointProposal { dataset: "e".into(), ..proposal(checkpoint(6)) };
        assert!(chain.decide_checkpoint(0, &unknown).unwrap_err().contains("no such table"));
    }

    #[test]
    fn a_head_without_a_checkpoint_has_the_bytes_it_always_had() {
        let head = &chain().tables["d"];
        let bytes = serde_json::to_string(head).unwrap();
        assert!(bytes.ends_with("\"maintained\":5}"), "{bytes}");
        assert_eq!(&serde_json::from_str::<TableHead>(&bytes).unwrap(), head);
        let with = TableHead { checkpoint: Some(checkpoint(6)), ..head.clone() };
        let bytes = serde_json::to_string(&with).unwrap();
        assert!(bytes.contains("\"checkpoint\":{\"version\":6,"), "{bytes}");
        assert!(bytes.ends_with("\"adds\":10}}"), "{bytes}");
        assert_eq!(serde_json::from_str::<TableHead>(&bytes).unwrap(), with);
        let after_another = TableHead { previous_checkpoint: Some(4), ..with };
        let bytes = serde_json::to_string(&after_another).unwrap();
        assert!(bytes.ends_with("\"adds\":10},\"previous_checkpoint\":4}"), "{bytes}");
        assert_eq!(serde_json::from_str::<TableHead>(&bytes).unwrap(), after_another);
    }
}
