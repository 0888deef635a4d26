//! Versions of the past: which one was the newest at a time, and whether its files are still there.
//!
//! **A time** means the newest version whose in-commit timestamp is not after it. That stands in the log, is the same in every
//! cloud and rises from version to version; when objects were written does not matter.
//!
//! **A version that was let go.** A decided VACUUM lets files be deleted that were removed from the table before. Versions that
//! had them are refused before any file is read, also while the files are still there. Every entry that removes files or lets
//! them go names the one before it ([`CommitInfo::planned_after`]), so only those entries are read, from the newest back.
//!
//! [`CommitInfo::planned_after`]: isobar_connectors::delta::CommitInfo::planned_after

use std::collections::HashSet;
use std::sync::Arc;

use chrono::{DateTime, SecondsFormat};
use isobar_connectors::clouds::Cloud;
use isobar_connectors::delta::MaintenanceWork;
use isobar_connectors::delta::path::decode_log_path;
use tracing::{debug, warn};

use super::snapshot::{Listing, Snapshot, load, read_log, removed_before};
use crate::error::Error;
use crate::prove::log::{Bodies, Entry};

/// Ranges of versions named in an error.
const RANGES_MAX: usize = 5;
/// Bodies read at once while an entry is searched for.
const BODIES_AT_ONCE: u64 = 16;

/// Which version of a table a query names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Pin {
    /// This one.
    Version(u64),
    /// The newest one that was committed by then: milliseconds since the Unix epoch.
    Time(i64),
}

/// The snapshot of `table` at `version`, from the first cloud that has it.
///
/// # Errors
/// [`Error::Configuration`] if there is no such version, or it was let go; says what there is. [`Error::NoMajority`] if no
/// cloud that answers has it, and one that does not might.
pub(super) async fn pinned_snapshot(clouds: &[Cloud], table: &str, version: u64) -> Result<Snapshot, Error> {
    let (mut reasons, mut held) = (Vec::new(), Vec::new());
    for cloud in clouds {
        match look(cloud, table, version).await {
            Ok(Found::Snapshot(snapshot)) => return Ok(*snapshot),
            // What is decided, is decided for all of them.
            Ok(Found::LetGo(why)) => return Err(Error::Configuration(why)),
            Ok(Found::Absent(versions)) => held.push((cloud, versions)),
            Err(why) => {
                warn!(cloud = %cloud.name, %table, version, why, "cloud cannot serve the version, asking the next");
                reasons.push(format!("{}: {why}", cloud.name));
            }
        }
    }
    if reasons.is_empty() {
        return Err(Error::Configuration(absent(table, version, &held)));
    }
    reasons.extend(held.iter().map(|(cloud, versions)| format!("{}: {versions}", cloud.name)));
    let action = format!("read version {version} of {table}");
    Err(Error::no_majority(&action, 1, clouds.len(), reasons))
}

/// What one cloud says of a version.
enum Found {
    Snapshot(Box<Snapshot>),
    /// Files of it were let go, and which versions can be read instead.
    LetGo(String),
    /// It is not there; what is.
    Absent(String),
}

async fn look(cloud: &Cloud, table: &str, version: u64) -> Result<Found, String> {
    let listing = Listing::reaching(cloud, table, Some(version)).await?;
    if !listing.has(version) {
        let whole = Listing::since(cloud, table, 0).await?;
        return Ok(Found::Absent(in_words(&whole.versions)));
    }
    let snapshot = load(cloud, table, version, &listing).await?;
    match let_go(cloud, &snapshot, &listing).await? {
        Some(why) => Ok(Found::LetGo(why)),
        None => Ok(Found::Snapshot(Box::new(snapshot))),
    }
}

/// That no cloud has a version, and what they have.
fn absent(table: &str, version: u64, held: &[(&Cloud, String)]) -> String {
    let Some((_, first)) = held.first() else { return format!("{table} has no version {version}: no cloud") };
    let begin = format!("{table} has no version {version}");
    if held.iter().all(|(_, versions)| versions == first) {
        return format!("{begin}: {first}");
    }
    let each = held.iter().map(|(cloud, versions)| format!("\n  {}: {versions}", cloud.name));
    format!("{begin}{}", each.collect::<String>())
}

/// Versions in ascending order, as ranges.
fn in_words(versions: &[u64]) -> String {
    let ranges = versions.chunk_by(|before, after| before.checked_add(1) == Some(*after));
    let ranges: Vec<String> = ranges
        .filter_map(|range| match (range.first()?, range.last()?) {
            (first, last) if first == last => Some(first.to_string()),
            (first, last) => Some(format!("{first} to {last}")),
        })
        .collect();
    match ranges.as_slice() {
        [] => "there is none, nothing was committed yet".to_owned(),
        [one] => format!("there is {one}"),
        // The newest are most likely to be of use.
        many if many.len() > RANGES_MAX => {
            format!("there are …, {}", many[many.len() - RANGES_MAX..].join(", "))
        }
        many => format!("there are {}", many.join(", ")),
    }
}

/// What a time means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AtTime {
    /// The newest version by then.
    pub(super) version: u64,
    /// Whether a later version was found, so that the time will never mean another one.
    pub(super) is_fixed: bool,
}

/// The newest version of `table` that was committed at or before `at_ms`, in any cloud that answers. `seen` is the newest version that
/// the caller knows of, from whichever cloud, and when it was committed: where only clouds answer that are behind it, a time does
/// not come to mean an earlier version than it did.
///
/// # Errors
/// [`Error::Configuration`] if the table was created later, or not at all; [`Error::NoMajority`] if no cloud that answers can tell.
pub(super) async fn version_at(
    clouds: &[Cloud],
    table: &str,
    at_ms: i64,
    seen: Option<(u64, i64)>,
) -> Result<AtTime, Error> {
    let mut reasons = Vec::new();
    for (index, cloud) in clouds.iter().enumerate() {
        match search(cloud, table, at_ms).await {
            Ok(Searched::Empty) => {}
            Ok(Searched::By(found)) if found.is_fixed => return Ok(found),
            // Another cloud may be further.
            Ok(Searched::By(found)) => {
                let others = clouds.iter().enumerate().filter(|(other, _)| *other != index);
                let others = others.map(|(_, cloud)| cloud);
                match newest_until(others, table, found.version, at_ms).await {
                    Ok(newest) => return no_earlier(newest, seen, table, at_ms, clouds.len()),
                    Err(why) => reasons.push(why),
                }
            }
            Ok(Searched::BeforeTheFirst { version, first_ms }) => {
                return Err(Error::Configuration(format!(
                    "{table} has no version at {}: it begins with version {version} at {}",
                    shown(at_ms),
                    shown(first_ms)
                )));
            }
            Err(why) => {
                warn!(cloud = %cloud.name, %table, why, "cloud cannot tell the version at a time, asking the next");
                reasons.push(format!("{}: {why}", cloud.name));
            }
        }
    }
    if reasons.is_empty() {
        return Err(Error::Configuration(format!(
            "{table} has no version at {}: nothing was committed yet",
            shown(at_ms)
        )));
    }
    let action = format!("find the version of {table} at {}", shown(at_ms));
    Err(Error::no_majority(&action, 1, clouds.len(), reasons))
}

/// `found` as the newest version by a time in the clouds that answer, where `seen` was seen before.
fn no_earlier(
    found: AtTime,
    seen: Option<(u64, i64)>,
    table: &str,
    at_ms: i64,
    clouds: usize,
) -> Result<AtTime, Error> {
    let Some((seen, committed_ms)) = seen.filter(|(seen, _)| !found.is_fixed && *seen > found.version) else {
        return Ok(found);
    };
    if committed_ms <= at_ms {
        return Ok(AtTime { version: seen, is_fixed: false });
    }
    if found.version.checked_add(1) == Some(seen) {
        return Ok(AtTime { version: found.version, is_fixed: true });
    }
    let action = format!("find the version of {table} at {}", shown(at_ms));
    let behind = format!("those that answer end with version {}, and {seen} was seen", found.version);
    Err(Error::no_majority(&action, 1, clouds, vec![behind]))
}

/// What the versions of a table in one cloud say of a time.
enum Searched {
    /// There are none.
    Empty,
    /// This version was the newest.
    By(AtTime),
    /// The table was created later.
    BeforeTheFirst { version: u64, first_ms: i64 },
}

impl Searched {
    /// That the first version is too new.
    async fn before(cloud: &Cloud, table: &str, first: u64) -> Result<Self, String> {
        Ok(Self::BeforeTheFirst { version: first, first_ms: committed_ms(cloud, table, first).await? })
    }
}

async fn search(cloud: &Cloud, table: &str, at_ms: i64) -> Result<Searched, String> {
    let mut versions = Listing::reaching(cloud, table, None).await?.versions;
    let Some(first) = versions.first().copied() else { return Ok(Searched::Empty) };
    if first > 0 && committed_ms(cloud, table, first).await? > at_ms {
        // A long log is listed in many steps, and its versions are known without.
        match search_before(cloud, table, first, at_ms).await {
            Ok(found) => return Ok(found),
            Err(why) => debug!(cloud = %cloud.name, %table, why, "the log is listed from its beginning"),
        }
        versions = Listing::since(cloud, table, 0).await?.versions;
    }
    let Some(first) = versions.first().copied() else { return Ok(Searched::Empty) };
    let count = count_until(cloud, table, &versions, at_ms).await?;
    match count.checked_sub(1) {
        Some(at) => at_time(table, versions[at], versions.get(count).copied()).map(Searched::By),
        None => Searched::before(cloud, table, first).await,
    }
}

/// The same where version `first` is there and too new, and none before it is missing.
async fn search_before(cloud: &Cloud, table: &str, first: u64, at_ms: i64) -> Result<Searched, String> {
    match count_by_then(cloud, table, first, |version| version, at_ms).await? {
        0 => Searched::before(cloud, table, 0).await,
        count => Ok(Searched::By(AtTime { version: count - 1, is_fixed: true })),
    }
}

/// `version`, which one cloud ends with, or a later one that one of `clouds` has and that was committed at or before `at_ms`.
async fn newest_until<'a>(
    clouds: impl Iterator<Item = &'a Cloud>,
    table: &str,
    version: u64,
    at_ms: i64,
) -> Result<AtTime, String> {
    let mut newest = AtTime { version, is_fixed: false };
    for cloud in clouds {
        match further(cloud, table, newest.version, at_ms).await {
            Ok((version, later)) => newest = at_time(table, version, later)?,
            Err(why) => warn!(cloud = %cloud.name, %table, why, "cloud cannot tell whether it is further"),
        }
        if newest.is_fixed {
            break;
        }
    }
    Ok(newest)
}

/// `version`, or the last one after it in `cloud` that was committed at or before `at_ms`; and the next one that is there.
async fn further(cloud: &Cloud, table: &str, version: u64, at_ms: i64) -> Result<(u64, Option<u64>), String> {
    let versions = Listing::since(cloud, table, version.saturating_add(1)).await?.versions;
    let count = count_until(cloud, table, &versions, at_ms).await?;
    let (by_then, later) = versions.split_at(count);
    Ok((by_then.last().copied().unwrap_or(version), later.first().copied()))
}

/// That `version` is the newest by some time, where `later` is the next one that is there.
fn at_time(table: &str, version: u64, later: Option<u64>) -> Result<AtTime, String> {
    match later {
        // The one that is missing may be the one that is meant.
        Some(later) if version.checked_add(1) != Some(later) => {
            Err(format!("{table}: version {} is missing", version.saturating_add(1)))
        }
        _ => Ok(AtTime { version, is_fixed: later.is_some() }),
    }
}

/// How many of `versions`, from the first on, were committed at or before `at_ms`.
async fn count_until(cloud: &Cloud, table: &str, versions: &[u64], at_ms: i64) -> Result<usize, String> {
    let count = count_by_then(cloud, table, versions.len() as u64, |at| versions[at as usize], at_ms).await?;
    Ok(count as usize)
}

/// The same of `count` versions, each by its place. Some are looked at at once: more of them than would be one after the other, and sooner.
async fn count_by_then(
    cloud: &Cloud,
    table: &str,
    count: u64,
    version_of: impl Fn(u64) -> u64,
    at_ms: i64,
) -> Result<u64, String> {
    let (mut low, mut high) = (0, count);
    while low < high {
        let step = (high - low).div_ceil(BODIES_AT_ONCE);
        let places = (1..=BODIES_AT_ONCE).map(|n| low.saturating_add(n.saturating_mul(step)) - 1);
        let places: Vec<u64> = places.take_while(|place| *place < high).collect();
        let versions: Vec<u64> = places.iter().map(|place| version_of(*place)).collect();
        let entries = read_entries(cloud, table, &versions).await?;
        let is_by_then = |entry: &&Arc<Entry>| entry.commit.in_commit_timestamp_ms <= at_ms;
        let by_then = entries.iter().take_while(is_by_then).count();
        high = places.get(by_then).copied().unwrap_or(high);
        low = by_then.checked_sub(1).map_or(low, |last| places[last] + 1);
    }
    Ok(low)
}

async fn committed_ms(cloud: &Cloud, table: &str, version: u64) -> Result<i64, String> {
    let mut entries = read_entries(cloud, table, &[version]).await?;
    let entry = entries.pop().ok_or("it is gone")?;
    Ok(entry.commit.in_commit_timestamp_ms)
}

/// The understood bodies of these versions.
pub(super) async fn read_entries(
    cloud: &Cloud,
    table: &str,
    versions: &[u64],
) -> Result<Vec<Arc<Entry>>, String> {
    let log = read_log(Bodies::default(), cloud, table, versions).await?;
    let entries = log.versions.into_iter().map(|(version, found)| match found.entry {
        Ok(entry) if entry.commit.isobar.dataset == table => Ok(entry),
        Ok(entry) => Err(format!("{table}: version {version} is of {}", entry.commit.isobar.dataset)),
        Err(why) => Err(format!("{table}: version {version}: {why}")),
    });
    entries.collect()
}

/// A time, for people.
pub(crate) fn shown(ms: i64) -> String {
    let time = DateTime::from_timestamp_millis(ms);
    time.map_or_else(|| format!("{ms} ms"), |time| time.to_rfc3339_opts(SecondsFormat::Millis, true))
}

/// Why `snapshot`, which lies in the log of `listing`, can no longer be read, if so.
async fn let_go(cloud: &Cloud, snapshot: &Snapshot, listing: &Listing) -> Result<Option<String>, String> {
    let (table, version) = (&snapshot.table, snapshot.version);
    let newest = listing.newest().unwrap_or(version);
    let mut removals = Removals::new(cloud, table, listing, version).await;
    let Some(vacuum) = removals.next_vacuum().await?.filter(|vacuum| vacuum.through > version) else {
        return Ok(None);
    };
    let files: HashSet<&str> = snapshot.files.iter().map(|file| file.path.as_str()).collect();
    let mut readable_from = None;
    while let Some((removed_in, entry)) = removals.next().await? {
        if removed_in > vacuum.through {
            continue;
        }
        if !entry.removes.is_empty() {
            readable_from.get_or_insert(removed_in);
        }
        let gone = entry.removes.iter().filter_map(|path| decode_log_path(path).ok());
        let gone = gone.filter(|path| files.contains(path.as_str())).count();
        if gone > 0 {
            let from = readable_from.unwrap_or(removed_in);
            return Ok(Some(format!(
                "version {version} of {table} can no longer be read: the VACUUM of version {} let go of files that it had; \
                 versions {from} to {newest} can be read",
                vacuum.version
            )));
        }
    }
    Ok(None)
}

/// A VACUUM.
pub(super) struct Vacuum {
    /// Its version.
    pub(super) version: u64,
    /// What was removed up to this version was let go.
    pub(super) through: u64,
}

/// The entries of a table that removed files or let them go, the newest first, down to a version.
pub(super) struct Removals<'a> {
    cloud: &'a Cloud,
    table: &'a str,
    /// The next one is this version, or is searched for from here back.
    next: Option<Next>,
    /// There is none of interest at or before this version.
    floor: u64,
}

#[derive(Clone, Copy)]
enum Next {
    At(u64),
    AtOrBefore(u64),
}

impl<'a> Removals<'a> {
    /// Those after version `floor`.
    pub(super) async fn new(cloud: &'a Cloud, table: &'a str, listing: &Listing, floor: u64) -> Removals<'a> {
        let mut floor = floor;
        // A table from which nothing was removed up to its last checkpoint needs looking at from there only.
        if let Some(checkpoint) = listing.checkpoint_after(floor)
            && removed_before(cloud, table, checkpoint).await == Ok(0)
        {
            floor = checkpoint;
        }
        Self { cloud, table, next: listing.newest().map(Next::AtOrBefore), floor }
    }

    /// The next VACUUM. It reaches further than all those before it: each is decided only if there is something to let go.
    pub(super) async fn next_vacuum(&mut self) -> Result<Option<Vacuum>, String> {
        while let Some((version, entry)) = self.next().await? {
            let work = entry.maintenance().map(|maintenance| maintenance.work);
            if let Some(MaintenanceWork::Vacuum { through }) = work {
                return Ok(Some(Vacuum { version, through }));
            }
        }
        Ok(None)
    }

    /// The next entry, and its version.
    pub(super) async fn next(&mut self) -> Result<Option<(u64, Arc<Entry>)>, String> {
        loop {
            let (first, last) = match self.next {
                Some(Next::At(version)) => (version, version),
                Some(Next::AtOrBefore(version)) => {
                    (version.saturating_sub(BODIES_AT_ONCE - 1).max(self.floor.saturating_add(1)), version)
                }
                None => return Ok(None),
            };
            if last <= self.floor {
                self.next = None;
                return Ok(None);
            }
            let versions: Vec<u64> = (first..=last).collect();
            let entries = read_entries(self.cloud, self.table, &versions).await?;
            let found = versions.into_iter().zip(entries).rev();
            let mut found =
                found.filter_map(|(version, entry)| Some((version, entry.planned_after()?, entry)));
            if let Some((version, after, entry)) = found.next() {
                // A fence that does not lead back would be followed for ever.
                self.next = (after < version).then_some(Next::At(after));
                return Ok(Some((version, entry)));
            }
            self.next = match self.next {
                // The fence of the first such entry is the table's creation.
                Some(Next::At(_)) | None => None,
                Some(Next::AtOrBefore(_)) => first.checked_sub(1).map(Next::AtOrBefore),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_said_as_ranges() {
        assert_eq!(in_words(&[]), "there is none, nothing was committed yet");
        assert_eq!(in_words(&[4]), "there is 4");
        assert_eq!(in_words(&[0, 1, 2]), "there is 0 to 2");
        assert_eq!(in_words(&[0, 1, 3, 5, 6]), "there are 0 to 1, 3, 5 to 6");
        let many: Vec<u64> = (0..20).map(|version| version * 2).collect();
        assert_eq!(in_words(&many), "there are …, 30, 32, 34, 36, 38");
    }

    #[test]
    fn times_are_shown_in_utc() {
        assert_eq!(shown(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(shown(i64::MAX), "9223372036854775807 ms");
    }
}
