//! Snapshots that are kept, so that many queries do not each read the log.
//!
//! Of every table the newest version that was seen is kept. It is looked for again when the last look is older than a query
//! allows; then only the entries after it are read, from the first cloud that has it, so that a table returns to the cloud that
//! is preferred when that one works again. Others that ask meanwhile wait for the same look. What was seen once does not go back:
//! a cloud that is behind is passed over while another is further.
//!
//! Versions that queries name are kept too ([`KeptTables`]).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;
use tracing::debug;

use super::freshness::Freshness;
use super::history::{Pin, version_at};
use super::kept::{KEPT_FOR, KeptTables};
use super::provider::SnapshotTable;
use super::replicas::Replicas;
use super::snapshot::{Snapshot, follow, fresh_snapshots, newest_snapshots};
use crate::error::Error;

/// Snapshots of the tables in some clouds.
#[derive(Debug)]
pub(crate) struct SnapshotCache {
    replicas: Arc<Replicas>,
    /// By table. Held while a table is looked for.
    newest: BTreeMap<String, Mutex<Option<Look>>>,
    kept: KeptTables,
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
        Self { replicas, newest, kept: KeptTables::default() }
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
        match self.further(table, &at_least(table, version)).await {
            Err(Error::NoMajority { .. }) => Ok(None),
            found => found,
        }
    }

    /// `table` at its newest version, or a later one from another cloud where `freshness` asks for that; `None` if nothing was
    /// committed to it yet.
    ///
    /// # Errors
    /// [`Error::NoMajority`] if no cloud can serve it, or none that answers is new enough.
    pub(super) async fn fresh(
        &self,
        table: &str,
        freshness: &Freshness,
    ) -> Result<Option<Arc<SnapshotTable>>, Error> {
        let found = self.newest(table, Duration::ZERO).await?;
        let is_enough = match found.as_ref().map(|found| found.version()) {
            Some(known) => freshness.lacking(table, known.version, known.committed_ms).is_none(),
            None => !freshness.is_asked_of(table),
        };
        if is_enough { Ok(found) } else { self.further(table, freshness).await }
    }

    /// `table` from the first cloud where it is as new as `freshness` says, which is kept if it is newer than what was seen.
    async fn further(&self, table: &str, freshness: &Freshness) -> Result<Option<Arc<SnapshotTable>>, Error> {
        let Some(known) = self.newest.get(table) else { return Ok(None) };
        let at = Instant::now();
        let clouds = self.replicas.in_order(Some(table)).await;
        let mut found = fresh_snapshots(&clouds, &[table.to_owned()], freshness).await?;
        let Some(snapshot) = found.remove(table) else { return Ok(None) };
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
    /// As [`version_at`] and [`KeptTables::at`].
    pub(crate) async fn pinned(&self, table: &str, pin: Pin) -> Result<Arc<SnapshotTable>, Error> {
        let version = match pin {
            Pin::Version(version) => version,
            Pin::Time(at_ms) => {
                let clouds = self.replicas.in_order(Some(table)).await;
                version_at(&clouds, table, at_ms, self.seen(table)).await?.version
            }
        };
        let now = Instant::now();
        // What was newest a moment ago has not been let go. While it is looked for, that is not waited for.
        if let Some(newest) = self.newest.get(table)
            && let Ok(look) = newest.try_lock()
            && let Some(look) = look.as_ref()
            && look.version() == Some(version)
            && now.duration_since(look.at) < KEPT_FOR
            && let Some(table) = look.table()
        {
            return Ok(table);
        }
        self.kept.at(&self.replicas, table, version).await
    }

    /// The newest version of `table` that was seen, and when it was committed; `None` also while it is looked for.
    fn seen(&self, table: &str) -> Option<(u64, i64)> {
        let look = self.newest.get(table)?.try_lock().ok()?;
        let (snapshot, _) = look.as_ref()?.found.as_ref()?;
        Some((snapshot.version, snapshot.committed_ms))
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

#[cfg(test)]
mod tests;
