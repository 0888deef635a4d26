//! Snapshots that are kept, so that many queries do not each read the log.
//!
//! Of every table the newest version that was seen is kept. It is looked for again when the last look is older than a query
//! allows; then only the entries after it are read, from the first cloud that has it, so that a table returns to the cloud that
//! is preferred when that one works again. Others that ask meanwhile wait for the same look. What was seen once does not go back:
//! a cloud that is behind is passed over while another is further.
//!
//! Versions that queries name are kept too, the ones used last, as many as [`FILES_MAX`] allows. A vacuum may let go of one of
//! them; it is noticed within [`PINNED_FOR`], and until then by a file that is gone, which is an error.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;
use tracing::debug;

use super::freshness::Freshness;
use super::history::{Pin, pinned_snapshot, version_at};
use super::provider::SnapshotTable;
use super::replicas::Replicas;
use super::snapshot::{Snapshot, follow, fresh_snapshots, newest_snapshots};
use crate::error::Error;

/// Files of all versions together that queries named.
const FILES_MAX: usize = 500_000;
/// Versions of them.
const PINNED_MAX: usize = 256;
/// How long such a version is kept without looking whether it can still be read.
const PINNED_FOR: Duration = Duration::from_secs(60);

/// Snapshots of the tables in some clouds.
#[derive(Debug)]
pub(crate) struct SnapshotCache {
    replicas: Arc<Replicas>,
    /// By table. Held while a table is looked for.
    newest: BTreeMap<String, Mutex<Option<Look>>>,
    pinned: Mutex<Pinned>,
}

/// What a look at a table has found.
#[derive(Debug, Clone)]
struct Look {
    at: Instant,
    /// `None`: nothing was committed to it yet.
    found: Option<(Arc<Snapshot>, Arc<SnapshotTable>)>,
}

impl SnapshotCache {
    /// Nothing is read before it is asked for.
    pub(crate) fn new(replicas: Arc<Replicas>, tables: impl Iterator<Item = String>) -> Self {
        let newest = tables.map(|table| (table, Mutex::default())).collect();
        Self { replicas, newest, pinned: Mutex::default() }
    }

    /// The tables, by name.
    pub(crate) fn tables(&self) -> impl Iterator<Item = &str> {
        self.newest.keys().map(String::as_str)
    }

    /// `table` at the newest version that was seen by a look that is not older than `age_max`; `None` if nothing was
    /// committed to it yet.
    ///
    /// # Errors
    /// [`Error::NoMajority`] if no cloud can serve it.
    pub(crate) async fn newest(
        &self,
        table: &str,
        age_max: Duration,
    ) -> Result<Option<Arc<SnapshotTable>>, Error> {
        let Some(known) = self.newest.get(table) else { return Ok(None) };
        let asked_at = Instant::now();
        let mut known = known.lock().await;
        if let Some(look) = known.as_ref() {
            // Whoever has waited for another's look takes it.
            if look.at >= asked_at || asked_at.duration_since(look.at) <= age_max && !age_max.is_zero() {
                return Ok(look.table());
            }
        }
        let at = Instant::now();
        let found = match known.as_ref().and_then(|look| look.found.as_ref()) {
            Some((snapshot, table)) => match self.newer_than(snapshot).await? {
                Some(newer) => Some(self.built(newer)?),
                None => Some((snapshot.clone(), table.clone())),
            },
            None => {
                let clouds = self.replicas.in_order(Some(table)).await;
                match newest_snapshots(&clouds, &[table.to_owned()]).await?.remove(table) {
                    Some(snapshot) => Some(self.built(snapshot)?),
                    None => None,
                }
            }
        };
        let look = Look { at, found };
        let table = look.table();
        *known = Some(look);
        Ok(table)
    }

    /// What is newer than `known`: a later version, or the same one in a cloud that is to be asked before the one of `known`. `None`
    /// if there is neither.
    async fn newer_than(&self, known: &Snapshot) -> Result<Option<Snapshot>, Error> {
        let (table, version) = (&known.table, known.version);
        let clouds = self.replicas.in_order(Some(table)).await;
        for cloud in &clouds {
            match follow(cloud, known).await {
                Ok(newer) => return Ok(newer),
                Err(why) => {
                    debug!(cloud = %cloud.name, %table, version, why, "cloud does not lead on from what is known, asking the next");
                }
            }
        }
        let found = fresh_snapshots(&clouds, std::slice::from_ref(table), &at_least(table, version)).await;
        Ok(found?.remove(table))
    }

    /// `table` at `version` or a later one, from the first cloud that has one; a cloud that is behind others does not hide what they
    /// have. `None` if no cloud that answers is that far.
    ///
    /// # Errors
    /// If what a cloud has is no table.
    pub(crate) async fn furthest(
        &self,
        table: &str,
        version: u64,
    ) -> Result<Option<Arc<SnapshotTable>>, Error> {
        let Some(known) = self.newest.get(table) else { return Ok(None) };
        let at = Instant::now();
        let clouds = self.replicas.in_order(Some(table)).await;
        let found = fresh_snapshots(&clouds, &[table.to_owned()], &at_least(table, version)).await;
        let Some(snapshot) = found.ok().and_then(|mut found| found.remove(table)) else { return Ok(None) };
        let built = self.built(snapshot)?;
        let mut known = known.lock().await;
        let is_newer = known.as_ref().and_then(Look::version).is_none_or(|known| known < built.0.version);
        if is_newer {
            *known = Some(Look { at, found: Some(built.clone()) });
        }
        Ok(Some(built.1))
    }

    /// `table` at the version that `pin` means.
    ///
    /// # Errors
    /// As [`pinned_snapshot`].
    pub(crate) async fn pinned(&self, table: &str, pin: Pin) -> Result<Arc<SnapshotTable>, Error> {
        let version = match pin {
            Pin::Version(version) => version,
            Pin::Time(at_ms) => version_at(&self.replicas.in_order(Some(table)).await, table, at_ms).await?,
        };
        let now = Instant::now();
        // What was newest a moment ago has not been let go. While it is looked for, that is not waited for.
        if let Some(newest) = self.newest.get(table)
            && let Ok(look) = newest.try_lock()
            && let Some(look) = look.as_ref()
            && look.version() == Some(version)
            && now.duration_since(look.at) < PINNED_FOR
            && let Some(table) = look.table()
        {
            return Ok(table);
        }
        let key = (table.to_owned(), version);
        if let Some(table) = self.pinned.lock().await.get(&key, now) {
            return Ok(table);
        }
        let clouds = self.replicas.in_order(Some(table)).await;
        let snapshot = pinned_snapshot(&clouds, table, Pin::Version(version)).await?;
        let table = Arc::new(SnapshotTable::new(&snapshot, self.replicas.clone())?);
        self.pinned.lock().await.put(key, table.clone(), now);
        Ok(table)
    }

    fn built(&self, snapshot: Snapshot) -> Result<(Arc<Snapshot>, Arc<SnapshotTable>), Error> {
        let table = SnapshotTable::new(&snapshot, self.replicas.clone())?;
        Ok((Arc::new(snapshot), Arc::new(table)))
    }
}

/// What a query that has to have `version` of `table` asks for.
fn at_least(table: &str, version: u64) -> Freshness {
    Freshness { min_versions: BTreeMap::from([(table.to_owned(), version)]), max_age: None }
}

impl Look {
    fn table(&self) -> Option<Arc<SnapshotTable>> {
        self.found.as_ref().map(|(_, table)| table.clone())
    }

    fn version(&self) -> Option<u64> {
        self.found.as_ref().map(|(snapshot, _)| snapshot.version)
    }
}

/// Versions that queries named, bounded by their number and by the number of their files.
#[derive(Debug, Default)]
struct Pinned {
    tables: BTreeMap<(String, u64), Kept>,
    /// Counts uses, so that the one used longest ago is known.
    uses: u64,
}

#[derive(Debug)]
struct Kept {
    table: Arc<SnapshotTable>,
    since: Instant,
    used: u64,
}

impl Pinned {
    fn get(&mut self, key: &(String, u64), now: Instant) -> Option<Arc<SnapshotTable>> {
        let kept = self.tables.get_mut(key).filter(|kept| now.duration_since(kept.since) < PINNED_FOR)?;
        self.uses += 1;
        kept.used = self.uses;
        Some(kept.table.clone())
    }

    fn put(&mut self, key: (String, u64), table: Arc<SnapshotTable>, since: Instant) {
        self.uses += 1;
        self.tables.insert(key, Kept { table, since, used: self.uses });
        while self.tables.len() > PINNED_MAX || self.tables.len() > 1 && self.files() > FILES_MAX {
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
mod tests;
