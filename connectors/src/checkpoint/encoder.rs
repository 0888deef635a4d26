//! Rows to Parquet, such that the bytes depend on the rows and not on the batches they come in.

use std::io::Write;

use arrow::compute::concat_batches;
use arrow::record_batch::RecordBatch;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;

use super::layout::{self, FileActions};
use super::{CheckpointSummary, encode_error};
use crate::Error;
use crate::digesting::Digesting;

/// Most rows encoded at once.
pub(super) const BATCH_ROWS: usize = 4096;
/// Most bytes of text encoded at once, unless a single row has more.
pub(super) const BATCH_BYTES: usize = 8 << 20;
/// A row group ends with the batch that brings it to this many rows …
const ROW_GROUP_ROWS: usize = 32 * BATCH_ROWS;
/// … or to this many bytes of text.
const ROW_GROUP_BYTES: usize = 8 * BATCH_BYTES;

/// Rows and the bytes of their text.
#[derive(Debug, Clone, Copy, Default)]
struct Extent {
    rows: usize,
    bytes: usize,
}

/// See the [module](self).
pub(super) struct Encoder<W: Write + Send> {
    writer: ArrowWriter<Digesting<W>>,
    /// Pieces of the batch to be encoded next.
    pieces: Vec<RecordBatch>,
    batch: Extent,
    row_group: Extent,
    actions: u64,
    adds: u64,
}

impl<W: Write + Send> Encoder<W> {
    pub(super) fn new(sink: W) -> Result<Self, Error> {
        let sink = Digesting::new(sink);
        // The Arrow schema in the metadata says nothing that the Parquet schema does not.
        let options = ArrowWriterOptions::new()
            .with_properties(layout::properties())
            .with_skip_arrow_metadata(true)
            .with_schema_root("schema".into());
        let writer =
            ArrowWriter::try_new_with_options(sink, layout::schema(), options).map_err(encode_error)?;
        let (batch, row_group) = (Extent::default(), Extent::default());
        Ok(Self { writer, pieces: Vec::new(), batch, row_group, actions: 0, adds: 0 })
    }

    /// Takes further rows.
    pub(super) fn push(&mut self, rows: RecordBatch) -> Result<(), Error> {
        let files = FileActions::of(&rows);
        let mut start = 0;
        for row in 0..rows.num_rows() {
            let file = files.get(row);
            let bytes = file.as_ref().map_or(0, |file| file.text_bytes);
            if self.batch.rows == BATCH_ROWS
                || (self.batch.rows > 0 && self.batch.bytes + bytes > BATCH_BYTES)
            {
                self.pieces.push(rows.slice(start, row - start));
                self.encode_batch()?;
                start = row;
            }
            self.batch = Extent { rows: self.batch.rows + 1, bytes: self.batch.bytes + bytes };
            self.adds += u64::from(file.is_some_and(|file| file.is_add));
        }
        if start < rows.num_rows() {
            self.pieces.push(rows.slice(start, rows.num_rows() - start));
        }
        Ok(())
    }

    fn encode_batch(&mut self) -> Result<(), Error> {
        let batch = concat_batches(&layout::schema(), &self.pieces).map_err(encode_error)?;
        self.pieces.clear();
        self.writer.write(&batch).map_err(encode_error)?;
        self.actions += batch.num_rows() as u64;
        let Extent { rows, bytes } = std::mem::take(&mut self.batch);
        self.row_group = Extent { rows: self.row_group.rows + rows, bytes: self.row_group.bytes + bytes };
        if self.row_group.rows >= ROW_GROUP_ROWS || self.row_group.bytes >= ROW_GROUP_BYTES {
            self.row_group = Extent::default();
            self.writer.flush().map_err(encode_error)?;
        }
        Ok(())
    }

    /// Writes the rest and the footer.
    pub(super) fn finish(mut self) -> Result<CheckpointSummary, Error> {
        self.encode_batch()?;
        let sink = self.writer.into_inner().map_err(encode_error)?;
        let (_, sha256, size) = sink.finish().map_err(encode_error)?;
        Ok(CheckpointSummary { actions: self.actions, adds: self.adds, size, sha256 })
    }
}
