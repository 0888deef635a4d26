//! Checkpoints: the state of a table at one version, as one Parquet file.
//!
//! A reader that finds `<version>.checkpoint.parquet` need not read the bodies up to that version. What is written is
//! Delta's [classic V1 checkpoint](https://github.com/delta-io/delta/blob/master/PROTOCOL.md#checkpoints): `protocol`,
//! `metaData`, the newest `txn` per appId, and the newest action on each file, be it `add` or `remove`.
//!
//! ```text
//! bodies ──▶ changes: head, newest row per path, rows (compressed) ─┐
//!                                                                  ├─▶ head ─▶ survivors, oldest first ─▶ Parquet
//! previous checkpoint ──▶ head, then its rows, batch by batch ──────┘
//! ```
//!
//! **Memory.** Whether a row survives is known only after the last body, and the bodies are read once. So their rows
//! are kept, compressed by the batch, and beside them one entry of 24 bytes per path that occurs in a body: a digest and the
//! number of the newest row on that path. A row of a body survives if its number is its path's; a row of the
//! previous checkpoint survives if its path has no entry. The previous checkpoint streams through and is never
//! held: memory goes with what changed since, not with the table. Without a previous checkpoint everything is a change.
//!
//! **A path that comes back** needs no case of its own: of add, remove, add only the last row's number is the path's.
//!
//! **Bytes** depend on the actions alone. Rows are in the order of history (that of the newest action on each file), and
//! they are cut into batches and row groups by their own number and size, so that it does not matter how they
//! came in: a checkpoint built on another one equals the one built from all bodies, byte for byte.

mod changes;
mod encoder;
mod head;
mod layout;
mod previous;
mod state;
#[cfg(test)]
mod tests;

use std::io::Write;

use bytes::Bytes;
use object_store::ObjectStore;
use object_store::path::Path;
use parquet::errors::ParquetError;
use parquet::file::reader::ChunkReader;
use serde::Serialize;

use self::changes::Changes;
use self::encoder::Encoder;
use self::previous::Previous;
pub use self::state::{CHECKPOINT_BYTES_MAX, CheckpointState, RemovedFiles, read_checkpoint, removed_files};
use crate::Error;
use crate::clouds::{REGISTER_BYTES_MAX, read_register};

/// What a checkpoint that was written is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointSummary {
    /// Actions of all kinds, which is rows of the file.
    pub actions: u64,
    /// `add` actions: files of the table.
    pub adds: u64,
    /// Bytes.
    pub size: u64,
    /// SHA-256 of the bytes, in lowercase hexadecimal.
    pub sha256: String,
}

/// Writes the checkpoint of the version of the last of `bodies` to `sink`.
///
/// `bodies` are the exact bytes of all versions after `previous`, in order; without `previous`, of all versions from 0.
/// They are validated like any body, and each must follow the one before (hash chain, positions, timestamps).
/// `previous` is a checkpoint written by this function: compare its SHA-256 with the decided one before, because a
/// Parquet file that somebody made up may ask for any amount of memory. What the tombstones of `bodies` and `previous`
/// say is kept, however old they are. Nothing is written before all bodies were read.
///
/// # Errors
/// Those of `bodies`; [`Error::LogEntry`] if a body breaks a rule or does not follow, if `previous` is no checkpoint of
/// isobar, or if nothing creates the table; [`Error::Encode`] if `sink` refuses. What `sink` has got by then is
/// worthless.
pub fn write_checkpoint<R: ChunkReader + 'static, W: Write + Send>(
    previous: Option<R>,
    bodies: impl IntoIterator<Item = Result<Bytes, Error>>,
    sink: W,
) -> Result<CheckpointSummary, Error> {
    let mut previous = previous.map(Previous::open).transpose()?;
    let Changes { head, newest, rows } = Changes::collect(bodies, previous.is_none())?;
    let mut whole_head = previous.as_mut().map(Previous::take_head).unwrap_or_default();
    whole_head.update(head);
    let head = layout::rows(&whole_head.into_actions()?)?;

    let mut encoder = Encoder::new(sink)?;
    encoder.push(head)?;
    if let Some(previous) = previous {
        for batch in previous {
            encoder.push(newest.survivors_of_previous(&batch?)?)?;
        }
    }
    let mut first_row = 0;
    for batch in rows {
        let batch = batch?;
        encoder.push(newest.survivors(&batch, first_row)?)?;
        first_row += batch.num_rows() as u64;
    }
    encoder.finish()
}

/// The content of `_last_checkpoint` for the checkpoint of `version`: one line of JSON, ended by a newline.
pub fn last_checkpoint(version: u64, summary: &CheckpointSummary) -> Bytes {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct LastCheckpoint {
        version: u64,
        size: u64,
        size_in_bytes: u64,
        num_of_add_files: u64,
    }
    let hint = LastCheckpoint {
        version,
        size: summary.actions,
        size_in_bytes: summary.size,
        num_of_add_files: summary.adds,
    };
    let mut bytes = serde_json::to_vec(&hint).expect("four numbers are always JSON");
    bytes.push(b'\n');
    bytes.into()
}

/// What lies at `path`, where `_last_checkpoint` is; `None` if nothing does. Of an object that is too large to be one
/// nothing is read: it comes back empty, which no reader understands.
///
/// # Errors
/// [`Error::Store`] if the store does not answer.
pub async fn read_last_checkpoint(store: &dyn ObjectStore, path: &Path) -> Result<Option<Bytes>, Error> {
    match read_register(store, path, REGISTER_BYTES_MAX).await {
        Err(Error::ObjectTooLarge { .. }) => Ok(Some(Bytes::new())),
        found => found,
    }
}

/// A step of building a checkpoint failed on data that is already known to be valid.
fn encode_error(source: impl Into<ParquetError>) -> Error {
    Error::Encode { path: "checkpoint".into(), source: source.into() }
}
