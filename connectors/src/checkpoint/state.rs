//! Reads a checkpoint as what it is to a reader: the table's `metaData`, and its files.

use bytes::Bytes;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
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

/// What the end of a checkpoint says of files that were removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RemovedFiles {
    /// So many were removed from the table before, and not added again.
    Count(u64),
    /// The last bytes of the checkpoint are needed, this many.
    Needs(u64),
}

/// Reads [`CheckpointState::removed`] from `end`, the last bytes of a checkpoint of `size` bytes: no row of it is needed.
///
/// # Errors
/// [`Error::LogEntry`] if it is no checkpoint of isobar.
pub fn removed_files(end: &Bytes, size: u64) -> Result<RemovedFiles, Error> {
    let mut reader = ParquetMetaDataReader::new();
    match reader.try_parse_sized(end, size) {
        Ok(()) => {}
        Err(ParquetError::NeedMoreData(bytes)) => return Ok(RemovedFiles::Needs(bytes as u64)),
        Err(error) => return Err(invalid(error)),
    }
    let metadata = reader.finish().map_err(invalid)?;
    let removed =
        removed_by(&metadata).ok_or_else(|| invalid("nothing is said of the files that were removed"))?;
    Ok(RemovedFiles::Count(removed))
}

/// Rows that have a path in `remove`, by the statistics of the row groups.
fn removed_by(metadata: &ParquetMetaData) -> Option<u64> {
    let of_groups = metadata.row_groups().iter().map(|group| {
        let path = group.columns().iter().find(|column| column.column_path().string() == "remove.path")?;
        u64::try_from(group.num_rows()).ok()?.checked_sub(path.statistics()?.null_count_opt()?)
    });
    of_groups.sum()
}
