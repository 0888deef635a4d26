//! Whether another process leads a topology: whether its newest claim or log moves while nobody of us touches it.
//!
//! A leader that has nothing to commit leaves no trace in the clouds and is not seen. It is superseded when the drill
//! starts, ends by itself when it next wants to commit, and loses nothing; so this look spares a person a surprise, and
//! no promise depends on it. A standby, and a redrive, look the same way for a leader that they cannot ask.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::{TryStreamExt, future};
use isobar_connectors::clouds::Cloud;
use object_store::path::Path;

use crate::commit::Epoch;
use crate::commit::format::{Keys, number_of};

/// Least and most time to look.
const PATIENCE: (Duration, Duration) = (Duration::from_secs(3), Duration::from_secs(90));

/// How long to look for a leader that commits every `commit_interval`.
pub(crate) fn patience(commit_interval: Duration) -> Duration {
    (commit_interval * 3).clamp(PATIENCE.0, PATIENCE.1)
}

/// What one cloud shows: the highest epoch claimed, and the highest index of its log.
pub(crate) type Trace = (u64, u64);

/// What a leader did in the meantime, if one did anything.
pub(crate) async fn activity(clouds: &[Cloud], topology: &str, patience: Duration) -> Option<String> {
    let keys = Keys::new(topology);
    let before = traces(clouds, &keys).await;
    tokio::time::sleep(patience).await;
    let after = traces(clouds, &keys).await;
    let moved = after.iter().find(|(cloud, trace)| before.get(*cloud).is_some_and(|known| known != *trace));
    moved.map(|(cloud, (epoch, index))| {
        format!("{cloud} received record {index} of epoch {epoch} within the last {patience:?}")
    })
}

/// The traces in the clouds that answer.
pub(crate) async fn traces(clouds: &[Cloud], keys: &Keys) -> BTreeMap<String, Trace> {
    let looks = clouds.iter().map(|cloud| async {
        let epoch = highest(cloud, &keys.claims()).await.ok()?;
        let index = highest(cloud, &keys.log(Epoch(epoch))).await.ok()?;
        Some((cloud.name.clone(), (epoch, index)))
    });
    future::join_all(looks).await.into_iter().flatten().collect()
}

/// The highest number in a folder, 0 if there is none.
async fn highest(cloud: &Cloud, folder: &Path) -> object_store::Result<u64> {
    if !cloud.has_root() {
        return Ok(0);
    }
    let numbers = cloud.control.list(Some(folder)).map_ok(|object| number_of(&object.location).unwrap_or(0));
    numbers.try_fold(0, |highest, number| future::ready(Ok(highest.max(number)))).await
}
