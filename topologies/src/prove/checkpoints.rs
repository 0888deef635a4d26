//! The check on checkpoints: what `_last_checkpoint` names is there, fits the log, and is the same in every cloud.
//!
//! The logs of a table do not name its checkpoints; the control logs do, and those are not read here (`isobar scrub`
//! reads them). So a checkpoint is held against what it should say, the number of files that the log has at its version
//! and the rows of its own footer, and against the other clouds. A cloud without one, or with an older one, is slower
//! to read and not wrong.

use isobar_connectors::clouds::{Cloud, REGISTER_BYTES_MAX, read_register};
use object_store::ObjectStoreExt;
use serde::Deserialize;

use super::ProveProgress;
use super::checks::short;
use super::log::{DataFile, TableLog};
use super::objects::examine;
use super::tally::Tally;
use crate::commit::format::{checkpoint_path, last_checkpoint_path, published_path};

/// What `_last_checkpoint` says, as far as isobar writes it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Hint {
    version: u64,
    size: u64,
    size_in_bytes: u64,
    num_of_add_files: u64,
}

/// The newest checkpoint of a table in one cloud.
#[derive(Debug)]
pub(super) struct Found {
    /// Version and SHA-256, where there are such bytes.
    bytes: Option<(u64, String)>,
    /// What is wrong with it by itself.
    problems: Vec<String>,
    /// Bytes read.
    pub(super) bytes_hashed: u64,
}

impl Found {
    fn wrong(problem: String) -> Self {
        Self { bytes: None, problems: vec![problem], bytes_hashed: 0 }
    }
}

/// Looks at what `_last_checkpoint` of the table of `log` names in `cloud`; `None` where there is none.
pub(super) async fn look(cloud: &Cloud, log: &TableLog) -> Option<Found> {
    let path = last_checkpoint_path(&log.table);
    let hint = match read_register(&*cloud.data, &path, REGISTER_BYTES_MAX).await {
        Ok(None) => return None,
        Ok(Some(hint)) => hint,
        Err(error) => return Some(Found::wrong(crate::chain_of(&error))),
    };
    let hint: Hint = match serde_json::from_slice(&hint) {
        Ok(hint) => hint,
        Err(error) => return Some(Found::wrong(format!("it is not understood: {error}"))),
    };
    let mut problems = Vec::new();
    if !is_published(cloud, log, hint.version).await {
        problems.push(format!("it names version {}, which is not in the log here", hint.version));
    } else if let Some(files) =
        log.file_count_at(hint.version).filter(|files| *files != hint.num_of_add_files)
    {
        problems.push(format!("{} files by _last_checkpoint, {files} by the log", hint.num_of_add_files));
    }
    let path = checkpoint_path(&log.table, hint.version);
    let file = DataFile {
        path: format!("_delta_log/{}", path.filename().unwrap_or_default()),
        size: hint.size_in_bytes,
        rows: Some(hint.size),
        sha256: None,
        partition_values: Default::default(),
        statistics: None,
        metadata: None,
    };
    let examined = examine(cloud, &log.table, &file, &() as &dyn ProveProgress).await;
    problems.extend(examined.problem.into_iter().chain(examined.footer.flatten()));
    let bytes = examined.sha256.map(|sha256| (hint.version, sha256));
    Some(Found { bytes, problems, bytes_hashed: examined.bytes_hashed })
}

/// Whether the log has the version, or has got it since it was read.
async fn is_published(cloud: &Cloud, log: &TableLog, version: u64) -> bool {
    log.versions.contains_key(&version) || cloud.data.head(&published_path(&log.table, version)).await.is_ok()
}

/// One tally per cloud that has a checkpoint. Where bytes differ, those that most of the clouds have are right; without
/// such, none are.
pub(super) fn judge(found: &[(String, Found)]) -> Vec<Tally> {
    let tallies = found.iter().map(|(_, own)| {
        let mut problems = own.problems.clone();
        problems.extend(own.bytes.as_ref().and_then(|bytes| difference(bytes, found)));
        let mut tally = Tally::default();
        tally.look("_last_checkpoint", &problems);
        tally
    });
    tallies.collect()
}

/// What is wrong with the checkpoint `own` beside those of the same version in other clouds.
fn difference((version, own): &(u64, String), found: &[(String, Found)]) -> Option<String> {
    let rivals: Vec<(&str, &str)> = found
        .iter()
        .filter_map(|(cloud, found)| {
            let (other, sha256) = found.bytes.as_ref()?;
            (other == version).then_some((cloud.as_str(), sha256.as_str()))
        })
        .collect();
    let alike = rivals.iter().filter(|(_, sha256)| sha256 == own).count();
    if 2 * alike > rivals.len() {
        return None;
    }
    let (cloud, sha256) = rivals.iter().find(|(_, sha256)| sha256 != own)?;
    Some(format!(
        "checkpoint of version {version}: SHA-256 {} here, {} in {cloud}",
        short(own),
        short(sha256)
    ))
}
