//! Checkpoints in one cloud: the decided bytes, after the versions they hold, and then `_last_checkpoint`.
//!
//! A reader that lists a log believes the newest checkpoint it finds. So unlike a data file a checkpoint does not come
//! before the record that names it, but when the record is published: by then the versions up to it lie in this cloud,
//! and their files. `_last_checkpoint` comes last and says that all this is done.
//!
//! A checkpoint says nothing that the log does not say, so one that no cloud has any more holds nothing up.

use bytes::Bytes;
use isobar_connectors::checkpoint::{CheckpointSummary, last_checkpoint, read_last_checkpoint};
use isobar_connectors::clouds::Cloud;
use isobar_connectors::copy::{holds_file, replace_file};
use isobar_connectors::failpoint;
use object_store::path::Path;
use object_store::{ObjectStoreExt, PutPayload};
use serde::Deserialize;
use tracing::{debug, warn};

use super::{Lane, Step, unreachable};
use crate::commit::format::{CheckpointRef, checkpoint_path, last_checkpoint_path};
use crate::commit::state::Slot;
use crate::error::Error;

/// The bytes of `_last_checkpoint` that names `checkpoint`.
pub(crate) fn hint_of(checkpoint: &CheckpointRef) -> Bytes {
    let summary = CheckpointSummary {
        actions: checkpoint.actions,
        adds: checkpoint.adds,
        size: checkpoint.size,
        sha256: checkpoint.sha256.clone(),
    };
    last_checkpoint(checkpoint.version, &summary)
}

/// The version that the bytes of a `_last_checkpoint` name, `None` if they are not understood.
pub(crate) fn hinted_version(hint: &[u8]) -> Option<u64> {
    #[derive(Deserialize)]
    struct Hint {
        version: u64,
    }
    serde_json::from_slice(hint).ok().map(|Hint { version }| version)
}

async fn holds(cloud: &Cloud, path: &Path, checkpoint: &CheckpointRef) -> Step<bool> {
    let held = holds_file(&cloud.data, path.as_ref(), checkpoint.size, &checkpoint.sha256).await;
    Ok(held.map_err(unreachable)?)
}

impl Lane {
    /// Makes sure that `checkpoint`, whose version is published here, is here, and that `_last_checkpoint` names it or a
    /// newer one. `slot` knows of its uploads.
    pub(super) async fn publish_checkpoint(
        &self,
        dataset: &str,
        checkpoint: &CheckpointRef,
        slot: &Slot,
    ) -> Step<()> {
        let (path, hint) = (last_checkpoint_path(dataset), hint_of(checkpoint));
        let found = read_last_checkpoint(&self.cloud().control, &path).await.map_err(unreachable)?;
        let is_newer = |found: &Bytes| hinted_version(found) > Some(checkpoint.version);
        if found.is_some_and(|found| found == hint || is_newer(&found)) {
            return Ok(());
        }
        if !self.bring_checkpoint(dataset, checkpoint, slot).await? {
            let (cloud, version) = (&self.cloud().name, checkpoint.version);
            warn!(%cloud, dataset, version, "no cloud has the decided bytes of a checkpoint, going on without it");
            return Ok(());
        }
        self.reach(&failpoint::CHECKPOINT_BEFORE_HINT)?;
        let put = self.cloud().control.put(&path, PutPayload::from_bytes(hint)).await;
        put.map_err(|error| Error::store(self.cloud(), &format!("write {path}"), error))?;
        self.reach(&failpoint::CHECKPOINT_AFTER_HINT)?;
        debug!(cloud = %self.cloud().name, dataset, version = checkpoint.version, "checkpoint published");
        Ok(())
    }

    /// Makes sure that the decided bytes are here; false if every cloud answers and none of them has them.
    ///
    /// What an earlier leader left behind may have other bytes under the same name, because another release of a
    /// library encoded it. So what this epoch did not upload is read before it is believed.
    async fn bring_checkpoint(&self, dataset: &str, checkpoint: &CheckpointRef, slot: &Slot) -> Step<bool> {
        let path = checkpoint_path(dataset, checkpoint.version);
        if slot.uploaded(path.as_ref(), self.cloud).await || holds(self.cloud(), &path, checkpoint).await? {
            return Ok(true);
        }
        let mut last = None;
        for other in self.others() {
            // Which one answers is asked with the control client: it gives up within seconds.
            match other.control.head(&path).await {
                Ok(found) if found.size == checkpoint.size => {}
                Ok(_) | Err(object_store::Error::NotFound { .. }) => continue,
                Err(error) => {
                    last = Some(Error::store(other, &format!("look for {path}"), error).into());
                    continue;
                }
            }
            match holds(other, &path, checkpoint).await {
                Ok(true) => {}
                Ok(false) => continue,
                Err(failure) => {
                    last = Some(failure);
                    continue;
                }
            }
            self.wait_for_bandwidth(checkpoint.size).await;
            let (to, from) = (&self.cloud().data, std::slice::from_ref(&other.data));
            match replace_file(to, from, path.as_ref(), checkpoint.size, &checkpoint.sha256).await {
                Ok(()) => return Ok(true),
                Err(error) => last = Some(unreachable(error).into()),
            }
        }
        last.map_or(Ok(false), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hint_of_a_checkpoint_names_its_version_and_nothing_else_does() {
        let checkpoint =
            CheckpointRef { version: 40, size: 900, sha256: "ab".repeat(32), actions: 12, adds: 9 };
        let hint = hint_of(&checkpoint);
        assert_eq!(hint, "{\"version\":40,\"size\":12,\"sizeInBytes\":900,\"numOfAddFiles\":9}\n");
        assert_eq!(hinted_version(&hint), Some(40));
        // Of others' hints the version counts, whatever else they say.
        assert_eq!(hinted_version(b"{\"version\":41,\"size\":3,\"parts\":2}"), Some(41));
        for unreadable in ["", "{}", "{\"version\":-1}", "40"] {
            assert_eq!(hinted_version(unreadable.as_bytes()), None, "{unreadable}");
        }
    }
}
