//! Reads a checkpoint as what it is to a reader: the table's `metaData`, and its files.

use parquet::file::reader::ChunkReader;

use super::layout;
use super::previous::{Previous, invalid};
use crate::Error;
use crate::delta::{Add, Metadata};

/// Largest checkpoint that is read, in bytes. One of a million files has a tenth of that.
pub const CHECKPOINT_BYTES_MAX: u64 = 256 << 20;

/// What a checkpoint says beside the files of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointState {
    /// Name, schema and partitioning.
    pub metadata: Metadata,
    /// How many files were removed from the table before, and not added again.
    pub removed: u64,
}

/// Reads a checkpoint that isobar wrote, and gives `each` the files of the table, in the order of the checkpoint. Memory is
/// bounded by a batch and what `each` keeps.
///
/// # Errors
/// [`Error::LogEntry`] if it is no checkpoint of isobar. Nothing of it may be relied upon then.
pub fn read_checkpoint<R: ChunkReader + 'static>(
    reader: R,
    mut each: impl FnMut(Add),
) -> Result<CheckpointState, Error> {
    let mut rows = Previous::open(reader)?;
    let metadata = rows.take_head().metadata.ok_or_else(|| invalid("no metaData"))?;
    let mut removed = 0;
    for batch in rows {
        let batch = batch?;
        // Each of its rows is one or the other.
        removed += batch.num_rows() as u64;
        for add in layout::adds(&batch) {
            removed -= 1;
            each(add);
        }
    }
    Ok(CheckpointState { metadata, removed })
}
