//! Checkpoints: is the newest decided one here, byte for byte, does `_last_checkpoint` name it, and putting that back.
//!
//! Only the newest one counts. Older ones may be there or not: the leader deletes those that two newer ones supersede,
//! cloud by cloud, and what they should be is no longer in the control logs.

use std::time::Duration;

use isobar_connectors::checkpoint::read_last_checkpoint;
use isobar_connectors::clouds::Cloud;
use isobar_connectors::failpoint;
use object_store::path::Path;
use object_store::{ObjectStoreExt, PutPayload};
use tokio::time::Instant;

use super::decided::Decided;
use super::files::{Look, look, restore};
use super::report::Kind;
use crate::chain_of;
use crate::commit::format::{
    CheckpointRef, checkpoint_path, checkpoint_version, last_checkpoint_path, published_path,
};
use crate::commit::{TableHead, hint_of, hinted_version};
use crate::maintain;
use crate::prove::log::DataFile;
use crate::throttle::Throttle;

/// How often what may be on its way is looked at again.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// What is wrong with a checkpoint: the kind, the object and more about it.
pub(super) type Wrong = (Kind, String, String);

/// Whether `object`, which lies in the log of the table and is no version, is a checkpoint or its hint.
pub(super) fn is_known(decided: &Decided, object: &str) -> bool {
    let Some(newest) = &decided.checkpoint else { return false };
    let is_checkpoint = |version: u64| {
        version <= newest.version && checkpoint_path(&decided.table, version).as_ref() == object
    };
    last_checkpoint_path(&decided.table).as_ref() == object
        || checkpoint_version(&Path::from(object)).is_some_and(is_checkpoint)
}

/// The version above that of the newest decided checkpoint whose checkpoint `object` would be.
pub(super) fn undecided_version(decided: &Decided, object: &str) -> Option<u64> {
    let version = checkpoint_version(&Path::from(object))?;
    let is_newer = decided.checkpoint.as_ref().is_none_or(|newest| newest.version < version);
    let is_published = decided.head.is_some_and(|head| version <= head);
    let is_its_place = checkpoint_path(&decided.table, version).as_ref() == object;
    (is_newer && is_published && is_its_place).then_some(version)
}

/// What the checkpoint of `version` must be, built anew from what lies in `clouds`.
pub(super) async fn expected(
    clouds: &[Cloud],
    decided: &Decided,
    version: u64,
) -> Result<CheckpointRef, String> {
    let head = decided.head.and_then(|head| Some((head, decided.versions.get(&head)?)));
    let (head, settled) = head.ok_or("the decided bytes of its newest version are not known")?;
    let head = TableHead {
        version: head,
        sha256: settled.sha256.clone(),
        checkpoint: decided.checkpoint.clone(),
        ..TableHead::default()
    };
    maintain::checkpoint::expected(clouds, &decided.table, &head, version).await
}

/// What is wrong with the checkpoint in `cloud` that must be `expected`.
pub(super) async fn difference(
    cloud: &Cloud,
    table: &str,
    expected: &CheckpointRef,
    throttle: &Throttle,
) -> Option<String> {
    match look(cloud, table, &file_of(table, expected), true, throttle).await.0 {
        Look::Good => None,
        Look::Missing | Look::Rotten(_) => {
            let version = expected.version;
            Some(format!("it is not the checkpoint of version {version}, and readers may believe it"))
        }
        Look::Unread(why) => Some(why),
    }
}

fn file_of(table: &str, checkpoint: &CheckpointRef) -> DataFile {
    let path = checkpoint_path(table, checkpoint.version);
    DataFile {
        path: format!("_delta_log/{}", path.filename().unwrap_or_default()),
        size: checkpoint.size,
        rows: Some(checkpoint.actions),
        sha256: Some(checkpoint.sha256.clone()),
        partition_values: Default::default(),
        statistics: None,
        metadata: None,
    }
}

/// What is wrong with the newest checkpoint of a table in `cloud`. A leader that is publishing it has time until
/// `deadline`.
pub(super) async fn look_at(
    cloud: &Cloud,
    decided: &Decided,
    throttle: &Throttle,
    deadline: Instant,
) -> Option<Wrong> {
    let checkpoint = decided.checkpoint.as_ref()?;
    let file = file_of(&decided.table, checkpoint);
    let object = checkpoint_path(&decided.table, checkpoint.version).to_string();
    loop {
        match look(cloud, &decided.table, &file, true, throttle).await.0 {
            Look::Good => break,
            // It has been superseded and deleted since the control logs were read.
            Look::Missing if is_superseded(cloud, decided, checkpoint).await => break,
            Look::Missing if Instant::now() < deadline => tokio::time::sleep(POLL_INTERVAL).await,
            Look::Missing => {
                return Some((
                    Kind::CheckpointMissing,
                    object,
                    "the newest checkpoint is not there".to_owned(),
                ));
            }
            Look::Rotten(what) => return Some((Kind::CheckpointDiffers, object, what)),
            Look::Unread(why) => return Some((Kind::FileUnread, object, why)),
        }
    }
    loop {
        let what = match wrong_hint(cloud, decided, checkpoint).await {
            Ok(None) => return None,
            Ok(Some(what)) => what,
            Err(why) => {
                return Some((Kind::FileUnread, last_checkpoint_path(&decided.table).to_string(), why));
            }
        };
        if Instant::now() >= deadline {
            let object = last_checkpoint_path(&decided.table).to_string();
            return Some((Kind::LastCheckpointDiffers, object, what));
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// What is wrong with `_last_checkpoint`. One that names a newer checkpoint may have been decided since the control logs
/// were read.
async fn wrong_hint(
    cloud: &Cloud,
    decided: &Decided,
    checkpoint: &CheckpointRef,
) -> Result<Option<String>, String> {
    let found = read_last_checkpoint(&*cloud.control, &last_checkpoint_path(&decided.table)).await;
    let Some(found) = found.map_err(|error| chain_of(&error))? else {
        return Ok(Some("it is not there".to_owned()));
    };
    if found == hint_of(checkpoint) {
        return Ok(None);
    }
    Ok(match hinted_version(&found) {
        None => Some("it is not understood".to_owned()),
        Some(version) if decided.head.is_none_or(|head| head < version) => {
            let is_here = holds_checkpoint(cloud, &decided.table, version).await?;
            (!is_here).then(|| format!("it names version {version}, which is not decided"))
        }
        Some(version) if version > checkpoint.version => None,
        Some(version) => Some(format!("it names version {version}, or states other numbers")),
    })
}

/// Whether `_last_checkpoint` names a newer checkpoint than `checkpoint` that is there.
async fn is_superseded(cloud: &Cloud, decided: &Decided, checkpoint: &CheckpointRef) -> bool {
    let path = last_checkpoint_path(&decided.table);
    let Ok(Some(hint)) = read_last_checkpoint(&*cloud.control, &path).await else { return false };
    let newer = hinted_version(&hint).filter(|version| *version > checkpoint.version);
    match newer {
        Some(version) => holds_checkpoint(cloud, &decided.table, version).await.unwrap_or(false),
        None => false,
    }
}

/// Whether `cloud` has this version of a table and a checkpoint of it.
async fn holds_checkpoint(cloud: &Cloud, table: &str, version: u64) -> Result<bool, String> {
    for path in [published_path(table, version), checkpoint_path(table, version)] {
        match cloud.control.head(&path).await {
            Ok(_) => {}
            Err(object_store::Error::NotFound { .. }) => return Ok(false),
            Err(error) => return Err(chain_of(&error)),
        }
    }
    Ok(true)
}

/// Brings the newest checkpoint to `cloud`, after the versions that it holds, and has `_last_checkpoint` name it.
pub(super) async fn put_back(
    cloud: &Cloud,
    sources: &[Cloud],
    decided: &Decided,
    throttle: &Throttle,
) -> Result<String, String> {
    let checkpoint = decided.checkpoint.as_ref().ok_or("no checkpoint is decided")?;
    let version = published_path(&decided.table, checkpoint.version);
    match cloud.control.head(&version).await {
        Ok(_) => {}
        Err(object_store::Error::NotFound { .. }) => {
            return Err(format!("version {} is not there and comes first", checkpoint.version));
        }
        Err(error) => return Err(chain_of(&error)),
    }
    let file = file_of(&decided.table, checkpoint);
    if look(cloud, &decided.table, &file, true, throttle).await.0 != Look::Good {
        let around = [&failpoint::REPAIR_BEFORE_CHECKPOINT, &failpoint::REPAIR_AFTER_CHECKPOINT];
        restore(cloud, sources, &decided.table, &file, around, throttle).await?;
    }
    // A newer one that a leader has published meanwhile stays.
    if wrong_hint(cloud, decided, checkpoint).await?.is_some() {
        let written = write_hint(cloud, decided, checkpoint).await;
        // Whatever the answer was, what is there now decides.
        if let Some(what) = wrong_hint(cloud, decided, checkpoint).await? {
            return Err(written.err().unwrap_or_else(|| format!("written, and {what}")));
        }
    }
    Ok("the decided checkpoint is in its place, and _last_checkpoint names it".to_owned())
}

async fn write_hint(cloud: &Cloud, decided: &Decided, checkpoint: &CheckpointRef) -> Result<(), String> {
    let reach = |point| failpoint::hit(point, &cloud.name).map_err(|error| chain_of(&error));
    reach(&failpoint::REPAIR_BEFORE_HINT)?;
    let (path, hint) = (last_checkpoint_path(&decided.table), hint_of(checkpoint));
    let put = cloud.control.put(&path, PutPayload::from_bytes(hint)).await;
    put.map_err(|error| chain_of(&error))?;
    reach(&failpoint::REPAIR_AFTER_HINT)
}
