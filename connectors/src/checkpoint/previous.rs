//! Reads a checkpoint that isobar wrote: its head at once, its files batch by batch.

use std::fmt::Display;

use arrow::array::Array;
use arrow::json::LineDelimitedWriter;
use arrow::record_batch::RecordBatch;
use parquet::arrow::arrow_reader::{
    ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};
use parquet::file::metadata::ParquetMetaData;
use parquet::file::reader::ChunkReader;

use super::encoder::{BATCH_BYTES, BATCH_ROWS};
use super::head::Head;
use super::layout::{self, FileActions};
use crate::Error;
use crate::delta::Action;

/// An iterator over the rows with `add` and `remove`, in the order of the file.
pub(super) struct Previous {
    reader: ParquetRecordBatchReader,
    head: Head,
    /// Rows that came in one batch with the end of the head.
    waiting: Option<RecordBatch>,
}

impl Previous {
    /// Reads up to the first file.
    pub(super) fn open<R: ChunkReader + 'static>(reader: R) -> Result<Self, Error> {
        let options = ArrowReaderOptions::new().with_schema(layout::schema());
        let builder =
            ParquetRecordBatchReaderBuilder::try_new_with_options(reader, options).map_err(invalid)?;
        let batch_rows = batch_rows(builder.metadata());
        let reader = builder.with_batch_size(batch_rows).build().map_err(invalid)?;
        let mut previous = Self { reader, head: Head::default(), waiting: None };
        for batch in previous.reader.by_ref() {
            let batch = batch.map_err(invalid)?;
            let files = FileActions::of(&batch);
            let first_file = (0..batch.num_rows()).position(|row| files.get(row).is_some());
            let head_rows = first_file.unwrap_or(batch.num_rows());
            for action in actions(&batch.slice(0, head_rows))? {
                previous.head.insert(action).map_err(invalid)?;
            }
            if head_rows < batch.num_rows() {
                previous.waiting = Some(batch.slice(head_rows, batch.num_rows() - head_rows));
                break;
            }
        }
        if previous.head.protocol.is_none() || previous.head.metadata.is_none() {
            return Err(invalid("protocol and metaData are not before the files"));
        }
        Ok(previous)
    }

    /// What it has beside files.
    pub(super) fn take_head(&mut self) -> Head {
        std::mem::take(&mut self.head)
    }
}

impl Iterator for Previous {
    type Item = Result<RecordBatch, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let batch = match self.waiting.take() {
            Some(batch) => batch,
            None => match self.reader.next()? {
                Ok(batch) => batch,
                Err(error) => return Some(Err(invalid(error))),
            },
        };
        Some(
            only_files(&batch)
                .then_some(batch)
                .ok_or_else(|| invalid("a row is not exactly one file action")),
        )
    }
}

/// How many rows to read at once: as many as are some [`BATCH_BYTES`], by the row group with the largest rows.
fn batch_rows(metadata: &ParquetMetaData) -> usize {
    let row_bytes =
        metadata.row_groups().iter().map(|group| group.total_byte_size() / group.num_rows().max(1)).max();
    let row_bytes = row_bytes.and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(0);
    (BATCH_BYTES / row_bytes.max(1)).clamp(1, BATCH_ROWS)
}

fn only_files(batch: &RecordBatch) -> bool {
    let files = FileActions::of(batch);
    let empty = |name| batch.column_by_name(name).is_some_and(|column| column.null_count() == column.len());
    ["txn", "metaData", "protocol"].into_iter().all(empty)
        && (0..batch.num_rows()).all(|row| files.is_one(row))
}

/// Rows as actions, by way of the JSON that a body would have.
fn actions(batch: &RecordBatch) -> Result<Vec<Action>, Error> {
    let mut writer = LineDelimitedWriter::new(Vec::new());
    writer.write(batch).map_err(invalid)?;
    writer.finish().map_err(invalid)?;
    let lines = writer.into_inner();
    let actions = lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    actions.map(|line| serde_json::from_slice(line).map_err(invalid)).collect()
}

pub(super) fn invalid(problem: impl Display) -> Error {
    Error::LogEntry(format!("previous checkpoint: {problem}"))
}
