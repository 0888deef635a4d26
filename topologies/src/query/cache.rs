//! Snapshots that are kept, so that many queries do not each read the log.
//!
//! Of every table the newest version that was seen is kept. It is looked for again when the last look is older than a query
//! allows; then only the entries after it are read, from the cloud that it came from. Others that ask meanwhile wait for the
//! same look. What was seen once does not go back: a cloud that is behind is passed over while another is further.
//!
//! Versions that queries name are kept too, the ones used last, as many as [`FILES_MAX`] allows. A vacuum may let go of one of
//! them; it is noticed within [`PINNED_FOR`], and until then by a file that is gone, which is an error.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use isobar_connectors::clouds::Cloud;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tracing::warn;

use super::history::{Pin, pinned_snapshot};
use super::provider::SnapshotTable;
use super::snapshot::{Snapshot, follow, newest_snapshots};
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
    clouds: Vec<Cloud>,
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
    pub(crate) fn new(clouds: &[Cloud], tables: impl Iterator<Item = String>) -> Self {
        let newest = tables.map(|table| (table, Mutex::default())).collect();
        Self { clouds: clouds.to_vec(), newest, pinned: Mutex::default() }
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
                Some(newer) => Some(built(newer)?),
                None => Some((snapshot.clone(), table.clone())),
            },
            None => match newest_snapshots(&self.clouds, &[table.to_owned()]).await?.remove(table) {
                Some(snapshot) => Some(built(snapshot)?),
                None => None,
            },
        };
        let look = Look { at, found };
        let table = look.table();
        *known = Some(look);
        Ok(table)
    }

    /// The newest version after `known`, from the first cloud that has one as new: its own first. `None` if there is none.
    async fn newer_than(&self, known: &Snapshot) -> Result<Option<Snapshot>, Error> {
        let (table, version) = (&known.table, known.version);
        if let Some(cloud) = self.clouds.iter().find(|cloud| cloud.name == known.cloud) {
            match follow(cloud, known).await {
                Ok(newer) => return Ok(newer),
                Err(why) => {
                    warn!(cloud = %cloud.name, %table, version, why, "cloud cannot say whether there is a newer version, asking all");
                }
            }
        }
        let mut reasons = Vec::new();
        for cloud in &self.clouds {
            match newest_snapshots(std::slice::from_ref(cloud), std::slice::from_ref(table)).await {
                // The same version from a cloud that answers is better than one from a cloud that does not.
                Ok(mut found) => match found.remove(table) {
                    Some(snapshot) if snapshot.version >= version => return Ok(Some(snapshot)),
                    Some(snapshot) => {
                        reasons.push(format!("{}: it is at version {}", cloud.name, snapshot.version));
                    }
                    None => reasons.push(format!("{}: it has no version", cloud.name)),
                },
                Err(Error::NoMajority { reasons: of_cloud, .. }) => reasons.extend(of_cloud),
                Err(error) => return Err(error),
            }
        }
        let action = format!("read table {table} at version {version} or later");
        Err(Error::no_majority(&action, 1, self.clouds.len(), reasons))
    }

    /// The newest version in whichever cloud is furthest, where that is after `version`; a cloud that is behind others does not
    /// hide what they have.
    ///
    /// # Errors
    /// [`Error::NoMajority`] if no cloud can serve it.
    pub(crate) async fn furthest(
        &self,
        table: &str,
        version: u64,
    ) -> Result<Option<Arc<SnapshotTable>>, Error> {
        let Some(known) = self.newest.get(table) else { return Ok(None) };
        for cloud in &self.clouds {
            let found = newest_snapshots(std::slice::from_ref(cloud), &[table.to_owned()]).await;
            let Some(snapshot) = found.ok().and_then(|mut found| found.remove(table)) else { continue };
            if snapshot.version < version {
                continue;
            }
            let at = Instant::now();
            let built = built(snapshot)?;
            let mut known = known.lock().await;
            let is_newer = known.as_ref().and_then(Look::version).is_none_or(|known| known < built.0.version);
            if is_newer {
                *known = Some(Look { at, found: Some(built.clone()) });
            }
            return Ok(Some(built.1));
        }
        Ok(None)
    }

    /// `table` at the version that `pin` means.
    ///
    /// # Errors
    /// As [`pinned_snapshot`].
    pub(crate) async fn pinned(&self, table: &str, pin: Pin) -> Result<Arc<SnapshotTable>, Error> {
        let Pin::Version(version) = pin else {
            let snapshot = pinned_snapshot(&self.clouds, table, pin).await?;
            return SnapshotTable::new(snapshot).map(Arc::new);
        };
        let now = Instant::now();
        // What was newest a moment ago has not been let go.
        if let Some(newest) = self.newest.get(table)
            && let Some(look) = newest.lock().await.as_ref()
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
        let snapshot = pinned_snapshot(&self.clouds, table, pin).await?;
        let table = SnapshotTable::new(snapshot).map(Arc::new)?;
        self.pinned.lock().await.put(key, table.clone(), now);
        Ok(table)
    }
}

impl Look {
    fn table(&self) -> Option<Arc<SnapshotTable>> {
        self.found.as_ref().map(|(_, table)| table.clone())
    }

    fn version(&self) -> Option<u64> {
        self.found.as_ref().map(|(snapshot, _)| snapshot.version)
    }
}

fn built(snapshot: Snapshot) -> Result<(Arc<Snapshot>, Arc<SnapshotTable>), Error> {
    let table = SnapshotTable::new(snapshot.clone())?;
    Ok((Arc::new(snapshot), Arc::new(table)))
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
