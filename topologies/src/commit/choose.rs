//! What the sealed logs of older epochs say: which decisions exist, and from where a new leader goes on.
//!
//! The argument, in short. A decision is a record in a majority of clouds. A new leader has sealed and read a
//! majority, so it sees at least one copy of every decided record, and nothing more can be decided below its epoch.
//! The highest epoch with a header carries everything decided before it, because its own leader had read a majority
//! too. Records that were stored but not decided may be seen as well: taking them is allowed (nobody was told
//! otherwise), losing a decided one is not, so the longest sequence is taken.

use std::collections::BTreeMap;

use super::Epoch;
use super::chain::Chain;
use super::format::{Content, Decision, Header, Record};
use super::quorum::majority;

/// One epoch's log in one cloud, after it was sealed: records from 0 without gaps, the seal left out.
#[derive(Debug, Clone)]
pub struct SealedLog {
    /// The epoch.
    pub epoch: Epoch,
    /// Its records.
    pub records: Vec<Record>,
}

/// What the new leader goes on from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// The header of the chosen epoch.
    pub header: Header,
    /// All decisions after the header's base, in order.
    pub decisions: Vec<Decision>,
}

/// Takes the highest epoch that has a header and its longest sequence. `None` when nothing was ever begun.
/// Fails when two clouds contradict each other, which no correct history produces.
pub fn choose<'a>(logs: impl IntoIterator<Item = &'a SealedLog>) -> Result<Option<Chosen>, String> {
    let logs: Vec<&SealedLog> = logs.into_iter().collect();
    let Some(epoch) = logs.iter().filter(|log| !log.records.is_empty()).map(|log| log.epoch).max() else {
        return Ok(None);
    };
    let mut longest: &[Record] = &[];
    for log in logs.iter().filter(|log| log.epoch == epoch) {
        let shared = longest.len().min(log.records.len());
        if longest[..shared] != log.records[..shared] {
            return Err(format!("two clouds hold different records of epoch {epoch}"));
        }
        if log.records.len() > longest.len() {
            longest = &log.records;
        }
    }
    let Some(Content::Header(header)) = longest.first().map(|record| &record.content) else {
        return Err(format!("the log of epoch {epoch} does not begin with a header"));
    };
    let decisions = longest.iter().flat_map(|record| record.decisions().iter().cloned()).collect();
    Ok(Some(Chosen { header: header.clone(), decisions }))
}

/// How far each cloud has published: per cloud and dataset, the versions `0..n` present without a gap. Clouds that
/// could not be read are left out.
pub type PublishedVersions = Vec<BTreeMap<String, u64>>;

/// Splits the decisions at the last one published in a majority of `clouds`: the chain up to there, and the tail to
/// propose again.
pub fn rebase(
    chosen: Chosen,
    clouds: usize,
    published: &PublishedVersions,
) -> Result<(Chain, Vec<Decision>), String> {
    let mut base = chosen.header.base;
    let mut tail = chosen.decisions;
    let is_published = |decision: &Decision| {
        let holds = |versions: &&BTreeMap<String, u64>| {
            let present = |dataset: &str| versions.get(dataset).copied().unwrap_or(0);
            decision.tables.iter().all(|table| present(&table.dataset) > table.version)
        };
        published.iter().filter(holds).count() >= majority(clouds)
    };
    let verified = tail.iter().take_while(|decision| is_published(decision)).count();
    for decision in tail.drain(..verified) {
        base.apply(&decision)?;
    }
    Ok((base, tail))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(tail: Vec<Decision>) -> Content {
        Content::Header(Header {
            clouds: vec!["a".into(), "b".into(), "c".into()],
            incarnation: "i".into(),
            base: Chain::default(),
            sealed: BTreeMap::new(),
            readmitted: BTreeMap::new(),
            tail,
        })
    }

    fn decision(sequence: u64) -> Decision {
        Decision {
            sequence,
            commit_id: format!("c{sequence}"),
            timestamp_ms: 1,
            tables: vec![],
            checkpoints: BTreeMap::new(),
        }
    }

    fn log(epoch: u64, contents: Vec<Content>) -> SealedLog {
        let records = contents.into_iter().enumerate();
        let records =
            records.map(|(index, content)| Record::new(Epoch(epoch), index as u64, content)).collect();
        SealedLog { epoch: Epoch(epoch), records }
    }

    #[test]
    fn nothing_is_chosen_from_empty_logs() {
        assert_eq!(choose(&[log(1, vec![]), log(2, vec![])]), Ok(None));
    }

    #[test]
    fn the_highest_epoch_with_a_header_wins_and_its_longest_sequence_counts() {
        let old = log(3, vec![header(vec![]), Content::Entry(decision(1)), Content::Entry(decision(2))]);
        let short = log(4, vec![header(vec![decision(1)])]);
        let long = log(4, vec![header(vec![decision(1)]), Content::Entry(decision(2))]);
        let chosen = choose(&[old, short, long, log(5, vec![])]).unwrap().unwrap();
        let sequences: Vec<u64> = chosen.decisions.iter().map(|decision| decision.sequence).collect();
        assert_eq!(sequences, [1, 2]);
    }

    #[test]
    fn contradicting_clouds_are_refused() {
        let one = log(4, vec![header(vec![]), Content::Entry(decision(1))]);
        let mut other = decision(1);
        other.commit_id = "different".into();
        let two = log(4, vec![header(vec![]), Content::Entry(other)]);
        assert!(choose(&[one, two]).unwrap_err().contains("different records"));
    }

    #[test]
    fn decisions_published_in_a_majority_become_the_base_and_the_rest_is_proposed_again() {
        let chosen = Chosen {
            header: match header(vec![]) {
                Content::Header(header) => header,
                _ => unreachable!(),
            },
            decisions: vec![decision(1), decision(2)],
        };
        let (base, tail) = rebase(chosen.clone(), 3, &vec![BTreeMap::new(), BTreeMap::new()]).unwrap();
        // Decisions without tables are published everywhere by definition.
        assert_eq!((base.sequence, tail.len()), (2, 0));
        let (base, tail) = rebase(chosen, 3, &vec![BTreeMap::new()]).unwrap();
        assert_eq!((base.sequence, tail.len()), (0, 2));
    }
}
