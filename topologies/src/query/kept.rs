//! Tables at versions that queries name, so that many queries do not each read the log.
//!
//! Those used last are kept, as many as [`FILES_MAX`] and [`KEPT_MAX`] allow. Who asks for one that is being read waits for it;
//! who asks for another does not. A vacuum may let go of a version; it is noticed within [`KEPT_FOR`], and until then by a file
//! that is gone, which is an error. A time is no version: what it means is found out before ([`version_at`]).
//!
//! [`version_at`]: super::history::version_at

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::time::Instant;

use super::history::pinned_snapshot;
use super::provider::SnapshotTable;
use super::replicas::Replicas;
use crate::error::Error;

/// Files of all versions together.
const FILES_MAX: usize = 500_000;
/// Versions.
pub(super) const KEPT_MAX: usize = 256;
/// How long a version is kept without looking whether it can still be read.
pub(super) const KEPT_FOR: Duration = Duration::from_secs(60);

/// A table, by name, and its version.
type Key = (String, u64);

/// Tables at versions.
#[derive(Debug, Default)]
pub(super) struct KeptTables {
    kept: Mutex<Kept>,
    /// Held by whoever reads a table at a version.
    turns: Mutex<BTreeMap<Key, Weak<tokio::sync::Mutex<()>>>>,
}

impl KeptTables {
    /// `table` at `version`: the one that is kept, or else from the first of `replicas` that has it.
    ///
    /// # Errors
    /// Those of [`pinned_snapshot`].
    pub(super) async fn at(
        &self,
        replicas: &Arc<Replicas>,
        table: &str,
        version: u64,
    ) -> Result<Arc<SnapshotTable>, Error> {
        let key = (table.to_owned(), version);
        if let Some(kept) = locked(&self.kept).get(&key, Instant::now()) {
            return Ok(kept);
        }
        let turn = self.turn(&key);
        let _alone = turn.lock().await;
        let now = Instant::now();
        // Another may have read it meanwhile.
        if let Some(kept) = locked(&self.kept).get(&key, now) {
            return Ok(kept);
        }
        let clouds = replicas.in_order(Some(table)).await;
        let snapshot = pinned_snapshot(&clouds, table, version).await?;
        let read = Arc::new(SnapshotTable::new(&snapshot, replicas.clone())?);
        locked(&self.kept).put(key, read.clone(), now);
        Ok(read)
    }

    /// What is held by whoever reads `key`.
    fn turn(&self, key: &Key) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = locked(&self.turns);
        turns.retain(|_, turn| turn.strong_count() > 0);
        if let Some(turn) = turns.get(key).and_then(Weak::upgrade) {
            return turn;
        }
        let turn = Arc::default();
        turns.insert(key.clone(), Arc::downgrade(&turn));
        turn
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is kept, bounded by the number of versions and by the number of their files.
#[derive(Debug, Default)]
struct Kept {
    tables: BTreeMap<Key, KeptTable>,
    /// Counts uses, so that the one used longest ago is known.
    uses: u64,
}

#[derive(Debug)]
struct KeptTable {
    table: Arc<SnapshotTable>,
    since: Instant,
    used: u64,
}

impl Kept {
    fn get(&mut self, key: &Key, now: Instant) -> Option<Arc<SnapshotTable>> {
        let kept = self.tables.get_mut(key).filter(|kept| now.duration_since(kept.since) < KEPT_FOR)?;
        self.uses += 1;
        kept.used = self.uses;
        Some(kept.table.clone())
    }

    fn put(&mut self, key: Key, table: Arc<SnapshotTable>, since: Instant) {
        self.uses += 1;
        self.tables.insert(key, KeptTable { table, since, used: self.uses });
        while self.tables.len() > KEPT_MAX || self.tables.len() > 1 && self.files() > FILES_MAX {
            let oldest = self.tables.iter().min_by_key(|(_, kept)| kept.used).map(|(key, _)| key.clone());
            let Some(oldest) = oldest else { break };
            self.tables.remove(&oldest);
        }
    }

    fn files(&self) -> usize {
        self.tables.values().map(|kept| kept.table.file_count()).sum()
    }
}

#[cfg(test)]
mod tests {
    use isobar_connectors::clouds::{Fault, FaultSwitch};

    use super::*;
    use crate::prove::testing::{DATASET, History};
    use crate::query::Reading;

    /// A cloud whose answers take a moment, so that several are under way.
    async fn replicas() -> Arc<Replicas> {
        let switch = FaultSwitch::default();
        switch.set(Fault::Delay(Duration::from_millis(1)));
        let clouds = History::good().store(1).await.into_iter().map(|cloud| cloud.with_faults(&switch));
        Arc::new(Replicas::new(&clouds.collect::<Vec<_>>(), &Reading::default()).unwrap())
    }

    #[tokio::test]
    async fn what_is_kept_is_bounded() {
        let table = KeptTables::default().at(&replicas().await, DATASET, 3).await.unwrap();
        let (mut kept, now) = (Kept::default(), Instant::now());
        let key = |version: u64| (DATASET.to_owned(), version);
        kept.put(key(0), table.clone(), now);
        for version in 1..2 * KEPT_MAX as u64 {
            kept.put(key(version), table.clone(), now);
            assert!(kept.get(&key(0), now).is_some(), "what is used stays");
        }
        assert_eq!(kept.tables.len(), KEPT_MAX);
        assert!(kept.get(&key(1), now).is_none(), "what was used longest ago is gone");
        assert!(kept.get(&key(0), now + KEPT_FOR).is_none(), "what is old is looked for again");
        assert_eq!(kept.files(), KEPT_MAX * table.file_count());
    }

    #[tokio::test]
    async fn a_version_is_read_once_however_many_ask_for_it() {
        let (kept, replicas) = (KeptTables::default(), replicas().await);
        let asked = (0..20).map(|_| kept.at(&replicas, DATASET, 2));
        let found = futures::future::try_join_all(asked).await.unwrap();
        assert!(found.iter().all(|table| Arc::ptr_eq(table, &found[0])));
        // One of another version waits for nobody.
        let turn = kept.turn(&(DATASET.to_owned(), 7));
        let _reading = turn.lock().await;
        assert_eq!(kept.at(&replicas, DATASET, 1).await.unwrap().version().version, 1);
        let left: Vec<u64> = locked(&kept.turns).keys().map(|(_, version)| *version).collect();
        assert_eq!(left, [1, 7], "the turn of those that have read version 2 is gone");
    }
}
