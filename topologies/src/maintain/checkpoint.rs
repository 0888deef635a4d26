//! A checkpoint is built from the last decided one and the bodies after it, and uploaded.
//!
//! ```text
//! head's SHA-256 ─▶ hashes of the bodies, newest first ─┐
//! last checkpoint (by its SHA-256) ─────────────────────┴▶ bodies, oldest first ─▶ file on disk ─▶ clouds that have
//!                                                                                                  the version
//! ```
//!
//! Which version gets one follows from the chain and the interval alone: whoever leads after a crash builds the same
//! one again, and its bytes are the same. Nothing is believed but what the decided head vouches for. The file lies in a
//! temporary directory, and memory is bounded by [`STEP_BYTES`] of bodies: where more have come together, because there
//! was no checkpoint for long, it is built in steps, each on the one before.

use std::fs::{self, File};
use std::io::BufWriter;
use std::ops::RangeInclusive;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures::future;
use isobar_connectors::checkpoint::{CheckpointSummary, write_checkpoint};
use isobar_connectors::clouds::Cloud;
use isobar_connectors::copy::{copy_file, holds_file, replace_file};
use isobar_connectors::delta;
use isobar_connectors::failpoint;
use isobar_connectors::upload::{UploadHandle, UploadStatus};
use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use tempfile::TempDir;
use tokio::sync::mpsc;

use super::{Failure, off_thread, read_version, settle_in_majority};
use crate::chain_of;
use crate::commit::TableHead;
use crate::commit::format::{CheckpointRef, checkpoint_path};

/// Bytes of bodies that one step takes, give or take a body.
const STEP_BYTES: usize = 64 << 20;
/// Bodies read ahead of the step that takes them.
const BODIES_AHEAD: usize = 2;

/// The version of which a checkpoint is due: the newest multiple of `every`, unless the last one is as new.
pub(super) fn due(head: &TableHead, every: u64) -> Option<u64> {
    let version = head.version - head.version.checked_rem(every)?;
    let is_older = |last: &CheckpointRef| last.version < version;
    (version > 0 && head.checkpoint.as_ref().is_none_or(is_older)).then_some(version)
}

/// A checkpoint on this machine.
pub(super) struct Built {
    pub(super) checkpoint: CheckpointRef,
    path: object_store::path::Path,
    /// A "cloud" that has it at that path.
    local: Arc<dyn ObjectStore>,
    /// Is removed when this is dropped.
    _directory: TempDir,
}

/// What the checkpoint of `version` of `table` must be, whose published head is `head`: whoever leads builds this one.
pub(crate) async fn expected(
    clouds: &[Cloud],
    table: &str,
    head: &TableHead,
    version: u64,
) -> Result<CheckpointRef, Failure> {
    Ok(build(clouds, table, head, version).await?.checkpoint)
}

/// Builds the checkpoint of `version` of `table`, whose published head is `head`, from what lies in `clouds`.
pub(super) async fn build(
    clouds: &[Cloud],
    table: &str,
    head: &TableHead,
    version: u64,
) -> Result<Built, Failure> {
    build_in_steps(clouds, table, head, version, STEP_BYTES).await
}

async fn build_in_steps(
    clouds: &[Cloud],
    table: &str,
    head: &TableHead,
    version: u64,
    step_bytes: usize,
) -> Result<Built, Failure> {
    let directory = tempfile::tempdir().map_err(|error| format!("temporary directory: {error}"))?;
    let local = LocalFileSystem::new_with_prefix(directory.path()).map_err(|error| chain_of(&error))?;
    let local: Arc<dyn ObjectStore> = Arc::new(local);
    let mut previous = match &head.checkpoint {
        Some(last) => Some(fetch(clouds, &local, directory.path(), table, last).await?),
        None => None,
    };
    let mut next = head.checkpoint.as_ref().map_or(0, |last| last.version + 1);
    let hashes = settle_hashes(clouds, table, head, next..=version).await?;
    let mut rest = hashes.as_slice();
    loop {
        let sink = file_of(directory.path(), table, version);
        let aside = sink.with_extension("next");
        let bodies = Bodies { clouds, table, first: next, hashes: rest, bytes_max: step_bytes };
        let (taken, summary) = build_step(bodies, previous.take(), &aside).await?;
        fs::rename(&aside, &sink).map_err(|error| format!("rename a checkpoint: {error}"))?;
        (next, rest) = (next + taken as u64, &rest[taken..]);
        if rest.is_empty() {
            let CheckpointSummary { actions, adds, size, sha256 } = summary;
            failpoint::hit(&failpoint::CHECKPOINT_AFTER_BUILD, "").map_err(|error| chain_of(&error))?;
            return Ok(Built {
                checkpoint: CheckpointRef { version, size, sha256, actions, adds },
                path: checkpoint_path(table, version),
                local,
                _directory: directory,
            });
        }
        previous = Some(sink);
    }
}

/// Where an object of the local "cloud" lies.
fn file_of(directory: &FilePath, table: &str, version: u64) -> PathBuf {
    directory.join(checkpoint_path(table, version).as_ref())
}

/// Brings the last decided checkpoint here.
async fn fetch(
    clouds: &[Cloud],
    local: &Arc<dyn ObjectStore>,
    directory: &FilePath,
    table: &str,
    last: &CheckpointRef,
) -> Result<PathBuf, Failure> {
    let path = checkpoint_path(table, last.version);
    let sources: Vec<Arc<dyn ObjectStore>> = clouds.iter().map(|cloud| cloud.data.clone()).collect();
    let fetched = copy_file(local, &sources, path.as_ref(), last.size, &last.sha256).await;
    fetched.map_err(|error| chain_of(&error))?;
    Ok(file_of(directory, table, last.version))
}

/// The SHA-256 of these versions, in order. Only the head's is known to begin with: each version names the one before
/// it. No bodies are kept.
async fn settle_hashes(
    clouds: &[Cloud],
    table: &str,
    head: &TableHead,
    versions: RangeInclusive<u64>,
) -> Result<Vec<String>, Failure> {
    let mut hashes = Vec::new();
    let mut sha256 = head.sha256.clone();
    for version in (*versions.start()..=head.version).rev() {
        let bytes = read_version(clouds, table, version, &sha256).await?;
        let body = delta::parse_body(&bytes).map_err(|error| chain_of(&error))?;
        let own = std::mem::replace(&mut sha256, body.info.isobar.previous_sha256);
        if versions.contains(&version) {
            hashes.push(own);
        }
    }
    hashes.reverse();
    Ok(hashes)
}

/// The bodies of one step.
struct Bodies<'a> {
    clouds: &'a [Cloud],
    table: &'a str,
    /// The first version.
    first: u64,
    /// The SHA-256 of this version and of those after it.
    hashes: &'a [String],
    /// The step is full with the body that brings it to so many bytes.
    bytes_max: usize,
}

impl Bodies<'_> {
    /// Sends bodies until the step is full or all are sent; how many.
    async fn send(self, to: mpsc::Sender<Bytes>) -> Result<usize, Failure> {
        let (mut sent, mut bytes) = (0, 0);
        for (version, sha256) in (self.first..).zip(self.hashes) {
            let body = read_version(self.clouds, self.table, version, sha256).await?;
            bytes += body.len();
            // Whoever does not take it any more says why.
            if to.send(body).await.is_err() {
                break;
            }
            sent += 1;
            if bytes >= self.bytes_max {
                break;
            }
        }
        Ok(sent)
    }
}

/// Writes the checkpoint of `previous` and as many of `bodies` as a step takes to `sink`; how many these are.
async fn build_step(
    bodies: Bodies<'_>,
    previous: Option<PathBuf>,
    sink: &FilePath,
) -> Result<(usize, CheckpointSummary), Failure> {
    let (sender, mut receiver) = mpsc::channel(BODIES_AHEAD);
    let sink = sink.to_owned();
    let write = off_thread(move || {
        let failed = |error: std::io::Error| format!("{}: {error}", sink.display());
        let previous = previous.map(File::open).transpose().map_err(failed)?;
        sink.parent().map_or(Ok(()), fs::create_dir_all).map_err(failed)?;
        let file = BufWriter::new(File::create(&sink).map_err(failed)?);
        let bodies = std::iter::from_fn(|| receiver.blocking_recv()).map(Ok);
        write_checkpoint(previous, bodies, file).map_err(|error| chain_of(&error))
    });
    let (sent, written) = future::join(bodies.send(sender), write).await;
    // A body that could not be read ends the file early: what was written then is worth nothing.
    let sent = sent?;
    Ok((sent, written?))
}

impl Built {
    /// Uploads it to those of all `clouds` that have published its version: a reader that lists the log of another one
    /// would find it before the files of its versions. The others get it when they have published them. A majority has
    /// it then, or this fails.
    pub(super) async fn upload(
        &self,
        clouds: &[Cloud],
        has_published: &[bool],
    ) -> Result<(String, Vec<UploadHandle>), Failure> {
        let uploads = clouds.iter().zip(has_published).map(|(cloud, has_published)| async move {
            let handle = UploadHandle::new(cloud.name.as_str().into());
            match self.put(cloud, *has_published).await {
                Ok(()) => _ = handle.settle(UploadStatus::Done),
                Err(why) => handle.give_up(&why),
            }
            handle
        });
        let uploads = future::join_all(uploads).await;
        settle_in_majority(self.path.as_ref(), &uploads).await?;
        Ok((self.path.to_string(), uploads))
    }

    /// What an earlier leader left under this name stays if it is the same, and is replaced otherwise: it was not
    /// decided.
    async fn put(&self, cloud: &Cloud, has_published: bool) -> Result<(), Failure> {
        if !has_published {
            return Err("it has not published this version yet".to_owned());
        }
        let CheckpointRef { size, sha256, .. } = &self.checkpoint;
        let (path, local) = (self.path.as_ref(), std::slice::from_ref(&self.local));
        let said = |error: isobar_connectors::Error| chain_of(&error);
        if holds_file(&cloud.data, path, *size, sha256).await.map_err(said)? {
            return Ok(());
        }
        replace_file(&cloud.data, local, path, *size, sha256).await.map_err(said)
    }
}

#[cfg(test)]
mod tests;
