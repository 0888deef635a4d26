//! The small decisions inside taking over, storing and publishing: plain data in, plain data out.
//!
//! `takeover` and `lane` read and write registers and ask here what follows from what they saw. Each is one rule of
//! `docs/format.md`.

use std::collections::BTreeMap;
use std::ops::Range;

use super::choose::{Chosen, PublishedVersions, SealedLog, rebase};
use super::format::{
    Content, Decision, ENTRY_BYTES_MAX, Header, Identity, RECORD_BYTES_MAX, Readmission, Record,
};
use super::quorum::{Quorum, majority};
use super::{Chain, Epoch};

/// Records in one epoch's log before the leader takes over from itself, so that a take-over reads little: with 16 reads
/// at a time and 50 ms each, under a second.
const EPOCH_RECORDS_MAX: u64 = 200;
/// Bytes of entries in one epoch's log before the leader takes over from itself. A take-over holds them in memory once per
/// cloud, and if no majority has published any of them, they still fit into one header.
const EPOCH_BYTES_MAX: u64 = RECORD_BYTES_MAX / 2;

/// Whether an epoch of so many records, with so many bytes of entries, is to be renewed.
pub fn is_epoch_full(records: u64, entry_bytes: u64) -> bool {
    records >= EPOCH_RECORDS_MAX || entry_bytes >= EPOCH_BYTES_MAX
}

/// How many bytes `record` may have to be stored. What is larger could not be read back.
pub fn record_bytes_max(record: &Record) -> u64 {
    if record.index == 0 { RECORD_BYTES_MAX } else { ENTRY_BYTES_MAX }
}

/// Whether a process that names `ours` may work on a group that registered `registered`: the same clouds in the same
/// order. Two sets of clouds have majorities that need not meet.
pub fn are_same_clouds(registered: &[String], ours: &[String]) -> bool {
    registered == ours
}

/// Whether a cloud in which `found` was read belongs to the group. A cloud that lost its identity, or has another's,
/// was wiped or restored; whatever it says about logs and claims counts in no majority.
pub fn is_member(found: Option<&Identity>, expected: &Identity) -> bool {
    found == Some(expected)
}

/// Whether a cloud in which `found` was read still belongs to group `group`. Asked **after** a record was stored there
/// or its logs were read, and before that is counted: a cloud that was wiped in between takes every write and has
/// forgotten every seal.
pub fn still_belongs(found: Option<&Identity>, group: &str) -> bool {
    found.is_some_and(|identity| identity.group == group)
}

/// The newest header among `logs`: what it says about readmitted clouds is what counts.
pub fn newest_header<'a>(logs: impl IntoIterator<Item = &'a SealedLog>) -> Option<&'a Header> {
    let headers = logs.into_iter().flat_map(|log| &log.records).filter_map(|record| match &record.content {
        Content::Header(header) => Some((record.epoch, header)),
        _ => None,
    });
    headers.max_by_key(|(epoch, _)| *epoch).map(|(_, header)| header)
}

/// Whether a cloud that carries the group's identity holds what a header says it does that was readmitted `generation`
/// times: it holds the key of that generation (none is needed for 0), and it was not lost and readmitted since. `found`
/// and `next` are what lies at the keys of `generation` and of the one after it.
///
/// To be asked after the identity was read, which a readmission writes last. Without the second half a leader of before
/// would count a cloud that has forgotten the SEALs against it.
pub fn is_current(
    found: Option<&Readmission>,
    next: Option<&Readmission>,
    group: &str,
    cloud: &str,
    generation: u64,
) -> bool {
    let is_ours = |found: &Readmission, generation| {
        found.group == group && found.cloud == cloud && found.generation == generation
    };
    let holds = generation == 0 || found.is_some_and(|found| is_ours(found, generation));
    holds && !next.is_some_and(|next| is_ours(next, generation + 1))
}

/// What the header that readmits `lost` says about readmitted clouds: what the chosen one said, and `lost` once more.
pub fn readmitting(chosen: &Header, lost: &str) -> BTreeMap<String, u64> {
    let mut readmitted = chosen.readmitted.clone();
    *readmitted.entry(lost.to_owned()).or_insert(0) += 1;
    readmitted
}

/// The epoch to claim, above any seen and above the one that was contested.
pub fn epoch_to_claim(highest_seen: Epoch, contested: Option<Epoch>) -> Epoch {
    Epoch(contested.map_or(highest_seen, |contested| highest_seen.max(contested)).0 + 1)
}

/// What became of an attempt to claim an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claimed {
    /// Our claim lies in a majority: the epoch is ours.
    Owned,
    /// Someone else's claim lies where ours should: a higher epoch may succeed.
    Contested,
    /// Too few clouds answered.
    NoMajority,
}

/// Judges an attempt: `holders` of the group's `clouds` hold our claim, and whether another's was met.
pub fn judge_claim(holders: usize, contested: bool, clouds: usize) -> Claimed {
    match (holders >= majority(clouds), contested) {
        (true, _) => Claimed::Owned,
        (false, true) => Claimed::Contested,
        (false, false) => Claimed::NoMajority,
    }
}

/// The epochs whose logs the leader of `epoch` seals in `cloud`: all below its own that the newest header found there
/// does not say are sealed. Epochs without a log are sealed too, because their owner may still be on its way.
pub fn epochs_to_seal(cloud: &str, newest_header: Option<&Header>, epoch: Epoch) -> Range<u64> {
    let sealed = newest_header.and_then(|header| header.sealed.get(cloud).copied()).unwrap_or_default();
    sealed.0 + 1..epoch.0
}

/// Where a SEAL goes: above the highest index in use. `None` if the record there is one already. `last` is that index
/// and whether its record is a SEAL.
pub fn seal_index(last: Option<(u64, bool)>) -> Option<u64> {
    match last {
        None => Some(0),
        Some((_, true)) => None,
        Some((index, false)) => Some(index + 1),
    }
}

/// The records of a sealed log, in the order of their indexes, up to the SEAL. Fails on a gap or a record of elsewhere.
pub fn records_until_seal(
    epoch: Epoch,
    records: impl IntoIterator<Item = Record>,
) -> Result<Vec<Record>, String> {
    let mut log = Vec::new();
    for record in records {
        if record.is_seal() {
            break;
        }
        if record.index != log.len() as u64 || record.epoch != epoch {
            return Err(format!("record {} is missing or misplaced", log.len()));
        }
        log.push(record);
    }
    Ok(log)
}

/// What the header of `epoch` says about sealed clouds: what the chosen header said, what was found to be sealed
/// before, and the clouds `sealed_now` sealed for this take-over.
pub fn sealed_clouds<'a>(
    chosen: Option<&Chosen>,
    sealed_before: BTreeMap<String, Epoch>,
    sealed_now: impl IntoIterator<Item = &'a str>,
    epoch: Epoch,
) -> BTreeMap<String, Epoch> {
    let mut sealed = chosen.map(|chosen| chosen.header.sealed.clone()).unwrap_or_default();
    sealed.extend(sealed_before);
    sealed.extend(sealed_now.into_iter().map(|cloud| (cloud.to_owned(), Epoch(epoch.0 - 1))));
    sealed
}

/// Base and tail of the new header.
pub fn base_and_tail(
    chosen: Option<Chosen>,
    clouds: usize,
    published: &PublishedVersions,
) -> Result<(Chain, Vec<Decision>), String> {
    chosen.map_or_else(|| Ok((Chain::default(), Vec::new())), |chosen| rebase(chosen, clouds, published))
}

/// Why a cloud's register does not hold the record that was offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Occupant {
    /// A later leader closed this log.
    Seal,
    /// Bytes that no leader of this epoch wrote.
    Foreign,
}

/// Judges what a register holds that refused a record of ours; `None` where it is not a record at all.
pub fn judge_occupant(held: Option<&Record>) -> Occupant {
    if held.is_some_and(Record::is_seal) { Occupant::Seal } else { Occupant::Foreign }
}

/// How one cloud stands towards the epoch of a leader.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CloudStanding {
    /// A later leader closed the epoch there.
    pub sealed: bool,
    /// It holds what the leader did not write.
    pub set_aside: bool,
    /// Its last request failed.
    pub away: bool,
}

/// What an epoch can still come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Something can be decided, now or when clouds are back.
    Able,
    /// Nothing can, and a later leader has a part in that.
    Superseded,
    /// Nothing can, because of the clouds alone.
    Unable,
}

/// Judges an epoch by its clouds. Once it is to be renewed, a cloud that is away is not waited for either: a new epoch
/// may do without it, this one may not.
pub fn judge_epoch(clouds: &[CloudStanding], renewal_due: bool) -> Standing {
    let needed = majority(clouds.len());
    let open = clouds.iter().filter(|cloud| !cloud.sealed && !cloud.set_aside);
    if open.clone().count() < needed {
        return match clouds.iter().any(|cloud| cloud.sealed) {
            true => Standing::Superseded,
            false => Standing::Unable,
        };
    }
    if renewal_due && open.filter(|cloud| !cloud.away).count() < needed {
        return Standing::Unable;
    }
    Standing::Able
}

/// Whether record `index` may be published in `cloud`: it is decided, and stored there, so that its files are as well.
pub fn is_publishable(quorum: &Quorum, cloud: usize, index: u64) -> bool {
    quorum.decided() > index && quorum.cloud(cloud).stored > index
}

#[cfg(test)]
mod tests {
    use super::super::format::{FORMAT, UNPUBLISHED_MAX};
    use super::*;

    #[test]
    fn a_seal_goes_above_the_highest_index_and_only_once() {
        assert_eq!(seal_index(None), Some(0));
        assert_eq!(seal_index(Some((4, false))), Some(5));
        assert_eq!(seal_index(Some((4, true))), None);
    }

    #[test]
    fn an_epoch_is_claimed_above_all_that_were_seen_or_contested() {
        assert_eq!(epoch_to_claim(Epoch(0), None), Epoch(1));
        assert_eq!(epoch_to_claim(Epoch(4), Some(Epoch(6))), Epoch(7));
        assert_eq!(epoch_to_claim(Epoch(8), Some(Epoch(6))), Epoch(9));
    }

    #[test]
    fn a_claim_in_a_majority_owns_the_epoch_whatever_the_rest_says() {
        assert_eq!(judge_claim(2, true, 3), Claimed::Owned);
        assert_eq!(judge_claim(1, true, 3), Claimed::Contested);
        assert_eq!(judge_claim(1, false, 3), Claimed::NoMajority);
    }

    #[test]
    fn an_epoch_is_full_by_records_or_by_bytes() {
        assert!(!is_epoch_full(199, EPOCH_BYTES_MAX - 1));
        assert!(is_epoch_full(200, 0));
        assert!(is_epoch_full(2, EPOCH_BYTES_MAX));
    }

    #[test]
    fn a_header_may_hold_as_many_entries_of_any_size_as_may_await_publication() {
        let record = |index| Record::new(Epoch(1), index, Content::Seal { by: Epoch(2) });
        let (header, entry) = (record_bytes_max(&record(0)), record_bytes_max(&record(1)));
        assert!(entry * UNPUBLISHED_MAX < header);
        assert_eq!(header, RECORD_BYTES_MAX);
    }

    #[test]
    fn an_epoch_that_met_a_seal_and_can_decide_nothing_was_superseded() {
        let open = CloudStanding::default();
        let sealed = CloudStanding { sealed: true, ..open };
        let set_aside = CloudStanding { set_aside: true, away: true, ..open };
        let away = CloudStanding { away: true, ..open };
        assert_eq!(judge_epoch(&[open, sealed, away], false), Standing::Able);
        assert_eq!(judge_epoch(&[open, away, away], false), Standing::Able);
        assert_eq!(judge_epoch(&[open, sealed, sealed], false), Standing::Superseded);
        assert_eq!(judge_epoch(&[open, sealed, set_aside], false), Standing::Superseded);
        assert_eq!(judge_epoch(&[open, set_aside, set_aside], false), Standing::Unable);
        // Whoever sealed one cloud has left it at that, and this epoch has no majority without the one that is away.
        assert_eq!(judge_epoch(&[open, sealed, away], true), Standing::Unable);
        assert_eq!(judge_epoch(&[open, sealed, open], true), Standing::Able);
    }

    #[test]
    fn a_readmission_counts_for_its_own_cloud_group_and_generation_only() {
        let found = Readmission {
            format: FORMAT,
            group: "g".into(),
            cloud: "a".into(),
            generation: 2,
            epoch: Epoch(7),
        };
        assert!(is_current(Some(&found), None, "g", "a", 2));
        for (group, cloud, generation) in [("h", "a", 2), ("g", "b", 2), ("g", "a", 3)] {
            assert!(!is_current(Some(&found), None, group, cloud, generation));
        }
        assert!(!is_current(None, None, "g", "a", 2));
    }

    #[test]
    fn a_cloud_that_was_lost_and_readmitted_since_does_not_count() {
        let next = Readmission {
            format: FORMAT,
            group: "g".into(),
            cloud: "a".into(),
            generation: 1,
            epoch: Epoch(7),
        };
        assert!(is_current(None, None, "g", "a", 0));
        assert!(!is_current(None, Some(&next), "g", "a", 0));
        assert!(is_current(Some(&next), None, "g", "a", 1));
    }

    #[test]
    fn the_newest_header_tells_generations_and_a_readmission_adds_one() {
        let header = |epoch: u64, readmitted| {
            let header = Header {
                clouds: vec!["a".into(), "b".into()],
                incarnation: "i".into(),
                base: Chain::default(),
                readmitted: BTreeMap::from(readmitted),
                sealed: BTreeMap::new(),
                tail: vec![],
            };
            let record = Record::new(Epoch(epoch), 0, Content::Header(header));
            SealedLog { epoch: Epoch(epoch), records: vec![record] }
        };
        assert_eq!(newest_header(&[]), None);
        let logs = [header(3, [("a".to_owned(), 1)]), header(2, [("b".to_owned(), 5)])];
        let newest = newest_header(&logs).expect("there are two headers");
        assert_eq!(readmitting(newest, "a"), BTreeMap::from([("a".to_owned(), 2)]));
        assert_eq!(readmitting(newest, "b"), BTreeMap::from([("a".to_owned(), 1), ("b".to_owned(), 1)]));
    }

    #[test]
    fn only_epochs_not_known_to_be_sealed_are_sealed_again() {
        let header = Header {
            clouds: vec!["a".into(), "b".into()],
            incarnation: "i".into(),
            base: Chain::default(),
            readmitted: BTreeMap::new(),
            sealed: BTreeMap::from([("a".to_owned(), Epoch(3))]),
            tail: vec![],
        };
        assert_eq!(epochs_to_seal("a", Some(&header), Epoch(6)), 4..6);
        assert_eq!(epochs_to_seal("b", Some(&header), Epoch(6)), 1..6);
        assert_eq!(epochs_to_seal("a", None, Epoch(6)), 1..6);
    }
}
