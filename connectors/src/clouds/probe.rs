//! Does this store keep its word? Tried out once, when a topology starts.
//!
//! The commit protocol stands on one property of an object store: of several creates of one key, exactly one
//! succeeds. Some stores and many emulators and gateways accept the precondition and ignore it; the tables of two
//! writers would then diverge without anyone noticing. So each cloud is asked to break its word, under a prefix that
//! nobody else uses, and refused if it does.

use bytes::Bytes;
use futures::{StreamExt, future, stream};
use object_store::{
    Error as StoreError, ObjectStore, PutMode, PutOptions, PutResult, UpdateVersion, path::Path,
};

use super::{register::read_register, store_error};
use crate::Error;

/// How many writers race for one key.
const RACERS: usize = 16;

/// Bytes that a key of the probe may hold at most.
const PROBE_BYTES_MAX: u64 = 1 << 10;

/// What came of a probe.
#[derive(Debug)]
#[must_use]
pub enum Probe {
    /// The store honours preconditions.
    Passed,
    /// The store must not be used: it breaks its word. Fix the configuration.
    Refused {
        /// What it did, and what it should have done, for its administrator.
        what: String,
    },
    /// The store does not let us in: no such bucket, or not with these credentials. Wrong at a first start; later it
    /// is one of the ways in which a cloud is lost.
    Denied {
        /// What was tried, and what the store said.
        what: String,
    },
    /// The store did not answer well enough to tell. Repeat, under another prefix.
    Unavailable(Error),
}

/// Tries out `store` under `prefix`, which nobody else may use, now or ever. Removes what it wrote, as far as it can.
pub async fn probe(store: &dyn ObjectStore, prefix: &Path) -> Probe {
    let probe = Probing { store, prefix };
    let found = match probe.run().await {
        Ok(()) => Probe::Passed,
        Err(found) => found,
    };
    probe.clean_up().await;
    found
}

struct Probing<'a> {
    store: &'a dyn ObjectStore,
    prefix: &'a Path,
}

impl Probing<'_> {
    async fn run(&self) -> Result<(), Probe> {
        self.second_create_fails().await?;
        self.stale_update_fails().await?;
        self.racers_have_one_winner().await
    }

    async fn second_create_fails(&self) -> Result<(), Probe> {
        let key = self.prefix.clone().join("create");
        self.create(&key, "first").await.map_err(|error| self.judge("create an object", error))?;
        match self.create(&key, "second").await {
            Ok(_) => {
                return Err(refused(
                    "a conditional create (If-None-Match: *) replaced an object that existed: the store ignores the \
                 precondition, and two writers could overwrite each other",
                ));
            }
            Err(error) if is_occupied(&error) => {}
            Err(error) => return Err(self.judge("create an object that exists", error)),
        }
        if self.read(&key).await? != Some(Bytes::from("first")) {
            return Err(refused(
                "a conditional create (If-None-Match: *) was rejected, but the object changed or is gone: the store \
                 must leave it alone",
            ));
        }
        Ok(())
    }

    async fn stale_update_fails(&self) -> Result<(), Probe> {
        let key = self.prefix.clone().join("update");
        let first =
            self.create(&key, "first").await.map_err(|error| self.judge("create an object", error))?;
        let stale = UpdateVersion::from(first);
        match self.update(&key, "second", stale.clone()).await {
            Ok(_) => {}
            // A file system cannot do it, and does not need to: only repair uses it, by rename there.
            Err(StoreError::NotImplemented { .. }) => return Ok(()),
            Err(error) => {
                return Err(self.judge("update an object under the condition of its version", error));
            }
        }
        match self.update(&key, "third", stale).await {
            Ok(_) => Err(refused(
                "a conditional update (If-Match) with an outdated version succeeded: the store ignores the \
                 precondition, and a repair could undo newer content",
            )),
            Err(StoreError::Precondition { .. } | StoreError::AlreadyExists { .. }) => Ok(()),
            Err(error) => Err(self.judge("update an object under the condition of an old version", error)),
        }
    }

    async fn racers_have_one_winner(&self) -> Result<(), Probe> {
        let key = self.prefix.clone().join("race");
        let value = |racer: usize| format!("racer {racer}");
        let answers = future::join_all((0..RACERS).map(|racer| self.create(&key, value(racer)))).await;
        let winners: Vec<usize> = (0..RACERS).filter(|racer| answers[*racer].is_ok()).collect();
        if winners.len() > 1 {
            return Err(refused(&format!(
                "{} of {RACERS} simultaneous conditional creates (If-None-Match: *) of one object succeeded: exactly \
                 one may",
                winners.len()
            )));
        }
        let held = self.read(&key).await?;
        let holder = (0..RACERS).find(|racer| held.as_deref() == Some(value(*racer).as_bytes()));
        let unanswered = answers.into_iter().filter_map(Result::err).find(|error| !is_occupied(error));
        match (winners.first(), holder) {
            (Some(winner), Some(holder)) if *winner == holder => Ok(()),
            (Some(_), _) => Err(refused(
                "a conditional create (If-None-Match: *) succeeded, but the object holds something else: a \
                 successful create must be final",
            )),
            // The winner's answer was lost; whoever reads finds it.
            (None, Some(_)) => Ok(()),
            (None, None) => {
                let error = unanswered.unwrap_or_else(|| StoreError::Generic {
                    store: "probe",
                    source: format!("all of {RACERS} simultaneous conditional creates were rejected").into(),
                });
                Err(self.judge("create an object in a race", error))
            }
        }
    }

    async fn create(&self, key: &Path, value: impl Into<Bytes>) -> Result<PutResult, StoreError> {
        self.store.put_opts(key, value.into().into(), PutOptions::from(PutMode::Create)).await
    }

    async fn update(
        &self,
        key: &Path,
        value: &'static str,
        version: UpdateVersion,
    ) -> Result<PutResult, StoreError> {
        self.store.put_opts(key, value.into(), PutOptions::from(PutMode::Update(version))).await
    }

    async fn read(&self, key: &Path) -> Result<Option<Bytes>, Probe> {
        match read_register(self.store, key, PROBE_BYTES_MAX).await {
            Ok(held) => Ok(held),
            Err(Error::Store { source, .. }) => Err(self.judge("read an object back", source)),
            Err(error) => Err(Probe::Unavailable(error)),
        }
    }

    /// What an unexpected error means: something for the administrator, or only bad luck.
    fn judge(&self, action: &str, error: StoreError) -> Probe {
        match error {
            StoreError::PermissionDenied { source, .. } => denied(&format!(
                "not allowed to {action}: {source}; the credentials must be allowed to read, list, write and delete \
                 objects"
            )),
            StoreError::Unauthenticated { source, .. } => {
                denied(&format!("the credentials were not accepted when trying to {action}: {source}"))
            }
            StoreError::NotFound { source, .. } => {
                denied(&format!("cannot {action}, the bucket or container does not exist: {source}"))
            }
            StoreError::NotImplemented { .. } | StoreError::NotSupported { .. } => {
                refused(&format!("the store cannot {action}: {error}"))
            }
            error => Probe::Unavailable(store_error(self.store, format!("probe: {action}"), error)),
        }
    }

    async fn clean_up(&self) {
        let keys = ["create", "update", "race"].map(|name| Ok(self.prefix.clone().join(name)));
        let mut deleted = self.store.delete_stream(stream::iter(keys).boxed());
        while let Some(deleted) = deleted.next().await {
            // A key may not have been written, and a store may forbid deletion; neither matters.
            if let Err(error) = deleted {
                tracing::debug!(cloud = %self.store, %error, "key of the probe not removed");
            }
        }
    }
}

/// Whether a create was rejected because something is there: then the race was lost, which is an answer.
fn is_occupied(error: &StoreError) -> bool {
    matches!(error, StoreError::AlreadyExists { .. } | StoreError::Precondition { .. })
}

fn refused(what: &str) -> Probe {
    Probe::Refused { what: what.to_string() }
}

fn denied(what: &str) -> Probe {
    Probe::Denied { what: what.to_string() }
}
