//! Checkpoints that two newer ones have superseded are deleted in every cloud.
//!
//! The newest decided checkpoint of a table and the one before it stay: a reader that has just read `_last_checkpoint`
//! still finds what it names. The older ones go when every registered cloud has published the newest, so none of them
//! is needed to fill a cloud. Which one came before is on the chain and not guessed from names, because a leader that
//! died may have left a checkpoint that was never decided.
//!
//! Nothing but names of checkpoints is deleted, and nothing is written down about it: deleting what is gone is no
//! error, and whoever leads next lists a log once from its beginning and finishes what was left.

use std::collections::BTreeSet;
use std::ops::Range;

use futures::{TryStreamExt, future};
use isobar_connectors::clouds::Cloud;
use isobar_connectors::failpoint;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use super::Failure;
use crate::chain_of;
use crate::commit::TableHead;
use crate::commit::format::{checkpoint_path, checkpoint_version, log_folder};

/// What is known of a table's superseded checkpoints.
#[derive(Debug, Default)]
pub(super) struct Superseded {
    /// There are none below this version any more.
    cleaned: u64,
    waiting: Option<Due>,
}

/// Checkpoints to be deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Due {
    /// Those of these versions.
    pub(super) versions: Range<u64>,
    /// When every cloud has published this decision.
    pub(super) sequence: u64,
}

impl Superseded {
    /// The chain has come to decision `sequence`, and the table to `head`.
    pub(super) fn observe(&mut self, head: &TableHead, sequence: u64) {
        let Some(kept) = head.previous_checkpoint else { return };
        let known = self.waiting.as_ref().map_or(self.cleaned, |waiting| waiting.versions.end);
        if kept > known {
            self.waiting = Some(Due { versions: self.cleaned..kept, sequence });
        }
    }

    /// What waits to be deleted.
    pub(super) fn due(&self) -> Option<Due> {
        self.waiting.clone()
    }

    /// The checkpoints of `due` are gone.
    pub(super) fn finished(&mut self, due: &Due) {
        self.cleaned = due.versions.end;
        self.waiting = None;
    }
}

/// Deletes the checkpoints of `versions` of `table` in every one of `clouds`, all of which have published newer ones;
/// how many different ones there were.
pub(super) async fn delete(clouds: &[Cloud], table: &str, versions: &Range<u64>) -> Result<u64, Failure> {
    let deletions = clouds.iter().map(|cloud| delete_in(cloud, table, versions));
    let mut deleted = BTreeSet::new();
    // Every cloud goes as far as it can before a failure of one is reported.
    for deletion in future::join_all(deletions).await {
        deleted.extend(deletion?);
    }
    Ok(deleted.len() as u64)
}

async fn delete_in(cloud: &Cloud, table: &str, versions: &Range<u64>) -> Result<Vec<u64>, Failure> {
    let failed =
        |what: &Path, error: object_store::Error| format!("{}: {what}: {}", cloud.name, chain_of(&error));
    let reach = |point| failpoint::hit(point, &cloud.name).map_err(|error| chain_of(&error));
    let superseded = list(&*cloud.data, table, versions).await;
    let superseded = superseded.map_err(|error| failed(&log_folder(table), error))?;
    for version in &superseded {
        let path = checkpoint_path(table, *version);
        reach(&failpoint::CHECKPOINT_BEFORE_CLEAN_UP)?;
        match cloud.data.delete(&path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => return Err(failed(&path, error)),
        }
        reach(&failpoint::CHECKPOINT_AFTER_CLEAN_UP)?;
    }
    Ok(superseded)
}

/// The checkpoints of `versions` in a log, which is listed from the first of them on, page by page: only their versions
/// are kept.
async fn list(store: &dyn ObjectStore, table: &str, versions: &Range<u64>) -> object_store::Result<Vec<u64>> {
    let log = log_folder(table);
    let mut objects = match versions.start.checked_sub(1) {
        Some(before) => store.list_with_offset(Some(&log), &checkpoint_path(table, before)),
        None => store.list(Some(&log)),
    };
    let mut found = Vec::new();
    while let Some(object) = objects.try_next().await? {
        let version = checkpoint_version(&object.location).filter(|version| versions.contains(version));
        // A name that stands for this version and is another one is not ours.
        found.extend(version.filter(|version| checkpoint_path(table, *version) == object.location));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use object_store::memory::InMemory;

    use super::*;

    fn head(previous_checkpoint: Option<u64>) -> TableHead {
        TableHead {
            version: 90,
            sha256: "ab".repeat(32),
            positions: Default::default(),
            maintained: 0,
            checkpoint: None,
            previous_checkpoint,
            described: None,
        }
    }

    #[test]
    fn what_is_older_than_the_checkpoint_before_the_newest_is_due_once() {
        let mut superseded = Superseded::default();
        superseded.observe(&head(None), 5);
        assert_eq!(superseded.due(), None);
        superseded.observe(&head(Some(30)), 8);
        // The chain goes on; what waits for the clouds waits for the same decision.
        superseded.observe(&head(Some(30)), 9);
        let first = superseded.due().unwrap();
        assert_eq!(first, Due { versions: 0..30, sequence: 8 });
        // Another checkpoint comes before the clouds have the last one.
        superseded.observe(&head(Some(60)), 12);
        let both = superseded.due().unwrap();
        assert_eq!(both, Due { versions: 0..60, sequence: 12 });
        superseded.finished(&both);
        superseded.observe(&head(Some(60)), 13);
        assert_eq!(superseded.due(), None);
        superseded.observe(&head(Some(70)), 14);
        assert_eq!(superseded.due(), Some(Due { versions: 60..70, sequence: 14 }));
    }

    #[tokio::test]
    async fn only_checkpoints_of_these_versions_are_deleted_and_gone_ones_are_no_error() {
        let names = [
            "00000000000000000003.checkpoint.parquet",
            "00000000000000000006.checkpoint.parquet",
            "00000000000000000009.checkpoint.parquet",
            "00000000000000000003.json",
            "00000000000000000003.crc",
            "3.checkpoint.parquet",
            "+0000000000000000003.checkpoint.parquet",
            "00000000000000000003.checkpoint.0000000001.0000000002.parquet",
            "_last_checkpoint",
            "_sidecars/00000000000000000003.checkpoint.parquet",
        ];
        let mut clouds = Vec::new();
        for name in ["a", "b"] {
            let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
            for object in names {
                let path = Path::from(format!("datasets/d/_delta_log/{object}"));
                store.put(&path, "x".into()).await.unwrap();
            }
            clouds.push(Cloud::new(name, store.clone(), store));
        }
        let left = async |cloud: &Cloud| -> BTreeSet<String> {
            let listed: Vec<_> = cloud.data.list(Some(&log_folder("d"))).try_collect().await.unwrap();
            let below = |path: &Path| path.as_ref().replace("datasets/d/_delta_log/", "");
            listed.iter().map(|object| below(&object.location)).collect()
        };
        // One of them is gone in one cloud.
        clouds[1].data.delete(&checkpoint_path("d", 3)).await.unwrap();
        assert_eq!(delete(&clouds, "d", &(0..9)).await, Ok(2));
        let expected: BTreeSet<String> = names[2..].iter().map(|name| (*name).to_owned()).collect();
        for cloud in &clouds {
            assert_eq!(left(cloud).await, expected);
        }
        assert_eq!(delete(&clouds, "d", &(0..9)).await, Ok(0));
        // From a version on, and of another table: nothing.
        assert_eq!(delete(&clouds, "d", &(10..20)).await, Ok(0));
        assert_eq!(delete(&clouds, "e", &(0..20)).await, Ok(0));
        assert_eq!(delete(&clouds, "d", &(9..10)).await, Ok(1));
    }
}
