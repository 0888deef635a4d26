//! What the control logs say is decided.
//!
//! A record that a majority of the registered clouds holds, byte for byte, is decided, whoever reads it and whenever:
//! records are written once. So one pass over the logs of the newest epoch whose header is decided gives everything:
//! its base and tail hold what older epochs decided, its entries what came since. Newer epochs can only hold
//! proposals yet.
//!
//! The opposite conclusion, that a published version was **not** decided, needs more. Publishing follows deciding, so the
//! tables must be read before the logs; and a decided record lies in a majority, so it shows in any majority of
//! clouds whose logs can be read whole. [`Knowledge::excludes`] asks for both.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use futures::future;
use isobar_connectors::clouds::{Cloud, read_register};
use isobar_connectors::delta;

use crate::chain_of;
use crate::commit::format::{Content, Decision, Header, RECORD_BYTES_MAX, Record, decode};
use crate::commit::quorum::majority;
use crate::commit::{Chain, Epoch, Group};
use crate::error::Error;

/// Records read at once from one cloud.
const READS_IN_FLIGHT: usize = 16;

/// The control logs of one cloud, from the newest down to the epoch that settles everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ControlLog {
    /// The cloud's index.
    pub(super) cloud: usize,
    /// Record bytes by epoch and index.
    pub(super) records: BTreeMap<Epoch, BTreeMap<u64, Bytes>>,
    /// The highest epoch with any record here.
    pub(super) highest: Option<Epoch>,
}

/// A damaged control object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Damage {
    pub(super) cloud: usize,
    pub(super) epoch: Epoch,
    pub(super) index: u64,
    pub(super) what: String,
}

/// What is known from the control logs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Knowledge {
    /// The header of the newest epoch that a majority holds.
    pub(super) header: Option<Header>,
    /// Everything decided after its base, in order.
    pub(super) decided: Vec<Decision>,
    /// Table, version and SHA-256 of every body in any record read, decided or not.
    proposed: BTreeSet<(String, u64, String)>,
    /// Whether a majority of the clouds showed its logs whole.
    is_complete: bool,
    /// What is damaged.
    pub(super) damaged: Vec<Damage>,
}

impl Knowledge {
    /// The chain up to which the tables were published in a majority, if anything was ever begun.
    pub(super) fn base(&self) -> Option<&Chain> {
        self.header.as_ref().map(|header| &header.base)
    }

    /// Whether a body that was found in a table **before** these logs were read is certainly no decided one, given
    /// that it is above everything known to be decided.
    pub(super) fn excludes(&self, table: &str, version: u64, sha256: Option<&str>) -> bool {
        let is_proposed = sha256
            .is_some_and(|sha256| self.proposed.contains(&(table.to_owned(), version, sha256.to_owned())));
        self.is_complete && self.header.is_some() && !is_proposed
    }
}

/// Draws the conclusions from `logs` of a group of `registered` clouds.
pub(super) fn learn(registered: usize, logs: &[ControlLog]) -> Knowledge {
    let mut knowledge = Knowledge::default();
    let epochs: BTreeSet<Epoch> = logs.iter().flat_map(|log| log.records.keys().copied()).collect();
    for epoch in epochs.into_iter().rev() {
        note_proposals(&mut knowledge, logs, epoch);
        if let Some(Content::Header(header)) = agreed(registered, logs, epoch, 0) {
            knowledge.decided = header.tail.clone();
            knowledge.decided.extend(decided_entries(registered, logs, epoch));
            knowledge.header = Some(header);
            break;
        }
    }
    let damaged: BTreeSet<usize> = knowledge.damaged.iter().map(|damage| damage.cloud).collect();
    let whole = logs.iter().filter(|log| !damaged.contains(&log.cloud)).count();
    knowledge.is_complete = whole >= majority(registered);
    knowledge
}

/// What a majority holds at this place.
fn agreed(registered: usize, logs: &[ControlLog], epoch: Epoch, index: u64) -> Option<Content> {
    let held: Vec<&Bytes> = logs.iter().filter_map(|log| log.records.get(&epoch)?.get(&index)).collect();
    let votes = |bytes: &Bytes| held.iter().filter(|other| **other == bytes).count();
    let bytes = held.iter().find(|bytes| votes(bytes) >= majority(registered))?;
    decode::<Record>(bytes).ok().map(|record| record.content)
}

fn decided_entries(registered: usize, logs: &[ControlLog], epoch: Epoch) -> Vec<Decision> {
    let entries = (1..).map_while(|index| match agreed(registered, logs, epoch, index)? {
        Content::Entry(decision) => Some(decision),
        _ => None,
    });
    entries.collect()
}

fn note_proposals(knowledge: &mut Knowledge, logs: &[ControlLog], epoch: Epoch) {
    for log in logs {
        let Some(records) = log.records.get(&epoch) else { continue };
        let mut damage = |index, what: &str| {
            knowledge.damaged.push(Damage { cloud: log.cloud, epoch, index, what: what.to_owned() });
        };
        let mut expected = 0;
        for (index, bytes) in records {
            let record = match decode::<Record>(bytes) {
                Ok(record) if record.epoch == epoch && record.index == *index => record,
                Ok(_) => {
                    damage(*index, "it was written for another place");
                    continue;
                }
                Err(what) => {
                    damage(*index, &what);
                    continue;
                }
            };
            // A SEAL may lie at any index.
            if *index != expected && !record.is_seal() {
                damage(expected, "it is missing, although later records are there");
            }
            expected = index + 1;
            let bodies = record.decisions().iter().flat_map(|decision| &decision.tables);
            knowledge.proposed.extend(
                bodies.map(|body| {
                    (body.dataset.clone(), body.version, delta::sha256_hex(body.body.as_bytes()))
                }),
            );
        }
    }
}

/// Reads the control logs of these clouds, newest epochs first, as far back as needed. Clouds that fail are left out
/// and named with the reason.
pub(super) async fn read_logs(
    group: &Group,
    registered: usize,
    clouds: &[usize],
) -> (Vec<ControlLog>, Vec<(usize, String)>) {
    let lists = clouds.iter().map(|index| group.logged_epochs(&group.clouds[*index]));
    let lists = future::join_all(lists).await;
    let mut failures = Vec::new();
    let mut logs = Vec::new();
    let mut epochs = BTreeSet::new();
    for (cloud, list) in clouds.iter().copied().zip(lists) {
        match list {
            Ok(list) => {
                epochs.extend(list.iter().copied());
                logs.push(ControlLog { cloud, highest: list.last().copied(), ..ControlLog::default() });
            }
            Err(error) => failures.push((cloud, chain_of(&error))),
        }
    }
    for epoch in epochs.into_iter().rev() {
        let reads = logs.iter().map(|log| read_epoch(group, &group.clouds[log.cloud], epoch));
        let reads = future::join_all(reads).await;
        let mut answering = Vec::with_capacity(logs.len());
        for (mut log, read) in logs.into_iter().zip(reads) {
            match read {
                Ok(records) => {
                    if !records.is_empty() {
                        log.records.insert(epoch, records);
                    }
                    answering.push(log);
                }
                Err(error) => failures.push((log.cloud, chain_of(&error))),
            }
        }
        logs = answering;
        if matches!(agreed(registered, &logs, epoch, 0), Some(Content::Header(_))) {
            break;
        }
    }
    (logs, failures)
}

async fn read_epoch(group: &Group, cloud: &Cloud, epoch: Epoch) -> Result<BTreeMap<u64, Bytes>, Error> {
    let keys = group.keys();
    let indexes = group.numbers_in(cloud, &keys.log(epoch)).await?;
    let mut records = BTreeMap::new();
    for indexes in indexes.chunks(READS_IN_FLIGHT) {
        let reads = indexes.iter().map(|index| async {
            let path = keys.record(epoch, *index);
            let bytes = read_register(&cloud.control, &path, RECORD_BYTES_MAX).await;
            bytes.map_err(|error| Error::connector("read control logs", error))
        });
        let bytes = future::try_join_all(reads).await?;
        records.extend(indexes.iter().copied().zip(bytes).filter_map(|(index, bytes)| Some((index, bytes?))));
    }
    Ok(records)
}

/// Looks for bodies by table, version and SHA-256 in all records of all epochs: for versions whose bytes are in no table
/// any more. Also those found.
pub(super) async fn search_bodies(
    group: &Group,
    clouds: &[usize],
    wanted: &BTreeSet<(String, u64, String)>,
) -> BTreeMap<String, Bytes> {
    let mut found = BTreeMap::new();
    for index in clouds {
        let cloud = &group.clouds[*index];
        let Ok(epochs) = group.logged_epochs(cloud).await else { continue };
        for epoch in epochs.into_iter().rev() {
            if wanted.iter().all(|(.., sha256)| found.contains_key(sha256)) {
                return found;
            }
            let Ok(records) = read_epoch(group, cloud, epoch).await else { continue };
            let records = records.values().filter_map(|bytes| decode::<Record>(bytes).ok());
            for body in records.flat_map(|record| record.decisions().to_vec()).flat_map(|it| it.tables) {
                let sha256 = delta::sha256_hex(body.body.as_bytes());
                let key = (body.dataset, body.version, sha256);
                if wanted.contains(&key) {
                    found.insert(key.2, Bytes::from(body.body));
                }
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commit::format::{TableBody, encode};

    fn decision(sequence: u64) -> Decision {
        let body = format!("body {sequence}");
        let sha256 = delta::sha256_hex(body.as_bytes());
        let table = TableBody { dataset: "d".into(), version: sequence, sha256, body };
        Decision {
            sequence,
            commit_id: format!("c{sequence}"),
            timestamp_ms: 1,
            tables: vec![table],
            checkpoints: BTreeMap::new(),
        }
    }

    fn header(tail: Vec<Decision>) -> Content {
        Content::Header(Header {
            clouds: ["a", "b", "c"].map(str::to_owned).to_vec(),
            incarnation: "i".into(),
            base: Chain::default(),
            sealed: BTreeMap::new(),
            readmitted: BTreeMap::new(),
            tail,
        })
    }

    fn log(cloud: usize, epochs: &[(u64, Vec<Content>)]) -> ControlLog {
        let mut log = ControlLog { cloud, ..ControlLog::default() };
        for (epoch, contents) in epochs {
            let epoch = Epoch(*epoch);
            let records = contents.iter().enumerate().map(|(index, content)| {
                (index as u64, encode(&Record::new(epoch, index as u64, content.clone())))
            });
            log.records.insert(epoch, records.collect());
            log.highest = Some(epoch);
        }
        log
    }

    fn sequences(knowledge: &Knowledge) -> Vec<u64> {
        knowledge.decided.iter().map(|decision| decision.sequence).collect()
    }

    #[test]
    fn only_what_a_majority_holds_is_decided() {
        let entries = |count: u64| -> Vec<Content> {
            let entries = (2..2 + count).map(|sequence| Content::Entry(decision(sequence)));
            std::iter::once(header(vec![decision(1)])).chain(entries).collect()
        };
        let logs =
            [log(0, &[(4, entries(3))]), log(1, &[(4, entries(1))]), log(2, &[(4, entries(2)), (5, vec![])])];
        let knowledge = learn(3, &logs);
        assert_eq!(sequences(&knowledge), [1, 2, 3]);
        // The fourth is proposed: whoever finds it published must not call it foreign.
        assert!(!knowledge.excludes("d", 4, Some(&decision(4).tables[0].sha256)));
        assert!(knowledge.excludes("d", 4, Some("other")));
        assert!(knowledge.excludes("d", 4, None));
    }

    #[test]
    fn a_header_in_a_minority_proposes_and_does_not_decide() {
        let old = || (4, vec![header(vec![decision(1)]), Content::Entry(decision(2))]);
        let new = (5, vec![header(vec![decision(2), decision(3)])]);
        let knowledge = learn(3, &[log(0, &[old(), new]), log(1, &[old()]), log(2, &[])]);
        assert_eq!(sequences(&knowledge), [1, 2]);
        assert!(!knowledge.excludes("d", 3, Some(&decision(3).tables[0].sha256)));
    }

    #[test]
    fn one_cloud_alone_or_a_damaged_majority_excludes_nothing() {
        let whole = || (4, vec![header(vec![decision(1)])]);
        let one = learn(3, &[log(0, &[whole()])]);
        assert_eq!((one.header, sequences(&learn(3, &[log(0, &[whole()])]))), (None, vec![]));
        let mut rotten = log(1, &[whole()]);
        rotten.records.get_mut(&Epoch(4)).unwrap().insert(1, Bytes::from_static(b"{}"));
        let mut gap = log(2, &[whole()]);
        let record = Record::new(Epoch(4), 2, Content::Entry(decision(3)));
        gap.records.get_mut(&Epoch(4)).unwrap().insert(2, encode(&record));
        let knowledge = learn(3, &[log(0, &[whole()]), rotten, gap]);
        assert_eq!(sequences(&knowledge), [1]);
        let places: Vec<_> = knowledge.damaged.iter().map(|damage| (damage.cloud, damage.index)).collect();
        assert_eq!(places, [(1, 1), (2, 1)]);
        assert!(!knowledge.excludes("d", 9, Some("other")));
    }
}
