//! Which bytes a cloud that is behind lacks: the hashes of decided versions, kept while epochs come and go.
//!
//! Only the hash of a table's head is decided by itself, and each version names the one before it. So whoever fills a cloud
//! walks from the head down to what is there, before anything is published. That can take longer than an epoch lasts,
//! and the next epoch has another head: what was walked is kept for as long as this process lives and the cloud is
//! behind, and the next epoch only walks what came since. Without that a cloud that missed very many versions would never
//! be filled while commits go on.
//!
//! ```text
//! version   low ──────────── first ═══════════════ last ────────── head
//!                  to walk           known                to walk
//! ```
//!
//! A hash is a property of the decided history, not of the epoch that asked for it, so it never gets out of date.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::super::released::Released;

/// A cloud, by its place in the group, and a table.
type Key = (usize, String);

/// What is known of every table in every cloud that is being filled.
#[derive(Debug, Default)]
pub(crate) struct Walks(Mutex<HashMap<Key, Walk>>);

/// The hashes of consecutive versions of one table, at least one.
#[derive(Debug, Default)]
struct Walk {
    /// The version of the first hash.
    first: u64,
    hashes: VecDeque<String>,
    /// What the versions that were looked through let go, and the last of these; only if some file was missing.
    released: Option<(u64, Released)>,
}

impl Walk {
    fn last(&self) -> Option<u64> {
        (self.first + self.hashes.len() as u64).checked_sub(1)
    }
}

/// A version and its SHA-256.
pub(super) type Hashed = (u64, String);

impl Walks {
    fn locked(&self) -> MutexGuard<'_, HashMap<Key, Walk>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The highest version known, if it is worth going on from it to `head`: walking there takes fewer steps than were
    /// walked already.
    pub(super) fn last(&self, cloud: usize, table: &str, head: u64) -> Option<Hashed> {
        let walks = self.locked();
        let walk = walks.get(&(cloud, table.to_owned()))?;
        let last = walk.last()?;
        let is_near = head.checked_sub(last).is_some_and(|steps| steps <= walk.hashes.len() as u64);
        is_near.then(|| Some((last, walk.hashes.back()?.clone()))).flatten()
    }

    /// The lowest version known.
    pub(super) fn first(&self, cloud: usize, table: &str) -> Option<Hashed> {
        let walks = self.locked();
        let walk = walks.get(&(cloud, table.to_owned()))?;
        Some((walk.first, walk.hashes.front()?.clone()))
    }

    /// Forgets what is known, and begins at `head`.
    pub(super) fn begin(&self, cloud: usize, table: &str, (head, sha256): Hashed) {
        let walk = Walk { first: head, hashes: [sha256].into(), released: None };
        self.locked().insert((cloud, table.to_owned()), walk);
    }

    /// Adds the version below the lowest known one.
    pub(super) fn push_below(&self, cloud: usize, table: &str, (version, sha256): Hashed) {
        let mut walks = self.locked();
        let Some(walk) = walks.get_mut(&(cloud, table.to_owned())) else { return };
        if version + 1 == walk.first {
            walk.first = version;
            walk.hashes.push_front(sha256);
        }
    }

    /// Adds the versions above the highest known one; `hashes` are those after `last`.
    pub(super) fn extend_above(
        &self,
        cloud: usize,
        table: &str,
        last: u64,
        hashes: impl IntoIterator<Item = String>,
    ) {
        let mut walks = self.locked();
        let Some(walk) = walks.get_mut(&(cloud, table.to_owned())) else { return };
        if walk.last() == Some(last) {
            walk.hashes.extend(hashes);
        }
    }

    /// The hashes from `low` on, and no longer those below it; `None` if it is not known.
    pub(super) fn hashes_from(&self, cloud: usize, table: &str, low: u64) -> Option<Vec<String>> {
        let mut walks = self.locked();
        let walk = walks.get_mut(&(cloud, table.to_owned()))?;
        let below = usize::try_from(low.checked_sub(walk.first)?).ok()?;
        if below >= walk.hashes.len() {
            return None;
        }
        walk.hashes.drain(..below);
        walk.first = low;
        Some(walk.hashes.iter().cloned().collect())
    }

    /// What was let go by the versions after `version`, and the last one that was looked through.
    pub(super) fn released(&self, cloud: usize, table: &str, version: u64) -> (u64, Released) {
        let walks = self.locked();
        let walk = walks.get(&(cloud, table.to_owned()));
        let known = walk.and_then(|walk| walk.released.clone());
        known.unwrap_or_else(|| (version, Released::default()))
    }

    /// Keeps that.
    pub(super) fn keep_released(&self, cloud: usize, table: &str, noted: (u64, Released)) {
        if let Some(walk) = self.locked().get_mut(&(cloud, table.to_owned())) {
            walk.released = Some(noted);
        }
    }

    /// Forgets a table: the cloud has it, or is not what it was.
    pub(super) fn forget(&self, cloud: usize, table: &str) {
        self.locked().remove(&(cloud, table.to_owned()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hashed(version: u64) -> Hashed {
        (version, format!("hash {version}"))
    }

    #[test]
    fn what_was_walked_is_gone_on_from() {
        let walks = Walks::default();
        assert_eq!((walks.first(2, "t"), walks.last(2, "t", 9)), (None, None));
        walks.begin(2, "t", hashed(9));
        for version in (4..9).rev() {
            walks.push_below(2, "t", hashed(version));
        }
        // An earlier epoch that is still at it does no harm.
        walks.push_below(2, "t", hashed(7));
        assert_eq!((walks.first(2, "t"), walks.last(2, "t", 12)), (Some(hashed(4)), Some(hashed(9))));
        walks.extend_above(2, "t", 9, [hashed(10).1, hashed(11).1]);
        walks.extend_above(2, "t", 9, [hashed(10).1]);
        assert_eq!(walks.last(2, "t", 12), Some(hashed(11)));
        let known: Vec<String> = (6..=11).map(|version| hashed(version).1).collect();
        assert_eq!(walks.hashes_from(2, "t", 6), Some(known));
        assert_eq!(walks.first(2, "t"), Some(hashed(6)));
        assert_eq!((walks.hashes_from(2, "t", 5), walks.hashes_from(2, "t", 12)), (None, None));
        assert_eq!(walks.first(1, "t"), None);
        walks.forget(2, "t");
        assert_eq!(walks.first(2, "t"), None);
    }

    #[test]
    fn a_head_that_is_further_away_than_what_is_known_begins_anew() {
        let walks = Walks::default();
        walks.begin(0, "t", hashed(9));
        walks.push_below(0, "t", hashed(8));
        assert_eq!(walks.last(0, "t", 11), Some(hashed(9)));
        assert_eq!(walks.last(0, "t", 12), None);
        // A head below what is known is of another history.
        assert_eq!(walks.last(0, "t", 8), None);
        walks.begin(0, "t", hashed(12));
        assert_eq!(walks.first(0, "t"), Some(hashed(12)));
    }
}
