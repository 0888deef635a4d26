//! One Parquet file while it is written: row groups in, bytes out to every cloud.
//!
//! A row group is encoded column by column. Each column's batches are first joined into one array and let go as soon
//! as that is encoded, so the peak above the rows themselves is one column. Joining also makes the bytes independent
//! of how the rows arrived: the encoder cuts pages by rows *per call*, and treats a column with a buffer of valid bits
//! that are all set otherwise than one without such a buffer.
//!
//! Encoded bytes pass through [`Sink`], which hashes them and hands them to the uploads in pieces, so no file is ever
//! held whole.

use std::io::Write;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, make_array};
use arrow::compute::concat;
use arrow::error::ArrowError;
use bytes::Bytes;
use parquet::arrow::arrow_writer::{ArrowColumnWriter, ArrowRowGroupWriterFactory, compute_leaves};
use parquet::errors::{ParquetError, Result};
use parquet::file::writer::SerializedFileWriter;
use sha2::{Digest, Sha256};

use super::layout::TableLayout;
use super::statistics::FileStatistics;
use crate::upload::{FileUpload, UploadHandle};

/// Bytes handed to the uploads at a time.
const PIECE_BYTES: usize = 1 << 20;

/// Hashes and counts what the encoder writes and passes it on.
struct Sink {
    upload: FileUpload,
    hasher: Sha256,
    size: u64,
    piece: Vec<u8>,
}

impl Sink {
    fn new(upload: FileUpload) -> Self {
        Self { upload, hasher: Sha256::new(), size: 0, piece: Vec::new() }
    }

    fn send_piece(&mut self) {
        if !self.piece.is_empty() {
            self.hasher.update(&self.piece);
            self.upload.send(Bytes::from(std::mem::take(&mut self.piece)));
        }
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.size += bytes.len() as u64;
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= PIECE_BYTES {
            self.send_piece();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A file that is complete and on its way to the clouds.
pub(super) struct FinishedFile {
    pub(super) size: u64,
    pub(super) sha256: String,
    pub(super) rows: u64,
    pub(super) stats: String,
    pub(super) uploads: Vec<UploadHandle>,
}

/// A file being written.
pub(super) struct FileEncoder {
    layout: Arc<TableLayout>,
    writer: SerializedFileWriter<Sink>,
    row_groups: ArrowRowGroupWriterFactory,
    statistics: FileStatistics,
}

impl FileEncoder {
    pub(super) fn new(layout: Arc<TableLayout>, upload: FileUpload) -> Result<Self> {
        let root = layout.parquet_schema.root_schema_ptr();
        let writer = SerializedFileWriter::new(Sink::new(upload), root, layout.properties.clone())?;
        let row_groups = ArrowRowGroupWriterFactory::new(&writer, layout.file_schema.clone());
        let statistics = FileStatistics::new(&layout.file_schema);
        Ok(Self { layout, writer, row_groups, statistics })
    }

    /// Bytes written so far.
    pub(super) fn size(&self) -> u64 {
        self.writer.bytes_written() as u64
    }

    /// Bytes of memory held beside the row group being encoded.
    pub(super) fn memory_bytes(&self) -> usize {
        self.writer.inner().piece.capacity()
    }

    /// Encodes one row group of these batches, in this order; each batch is the columns of the file.
    pub(super) fn write_row_group(&mut self, batches: Vec<Vec<ArrayRef>>) -> Result<()> {
        let rows = batches.iter().filter_map(|batch| batch.first()).map(|column| column.len()).sum();
        let mut batches: Vec<_> = batches.into_iter().map(Vec::into_iter).collect();
        let index = self.writer.flushed_row_groups().len();
        let mut leaf_writers = self.row_groups.create_column_writers(index)?.into_iter();
        let mut row_group = self.writer.next_row_group()?;
        for (column, field) in self.layout.file_schema.fields().iter().enumerate() {
            let arrays: Vec<ArrayRef> = batches.iter_mut().filter_map(Iterator::next).collect();
            let array = joined(arrays)?;
            let mut leaf_statistics = Vec::new();
            for leaf in compute_leaves(field, &array)? {
                let mut writer: ArrowColumnWriter = leaf_writers
                    .next()
                    .ok_or_else(|| ParquetError::General("fewer leaf writers than leaves".into()))?;
                writer.write(&leaf)?;
                let chunk = writer.close()?;
                leaf_statistics.push(chunk.close().metadata.statistics().cloned());
                chunk.append_to_row_group(&mut row_group)?;
            }
            self.statistics.add_column(column, array.as_ref(), leaf_statistics);
        }
        row_group.close()?;
        self.statistics.add_rows(rows);
        Ok(())
    }

    /// Writes the footer and ends the uploads.
    pub(super) fn finish(self) -> Result<FinishedFile> {
        let mut sink = self.writer.into_inner()?;
        sink.send_piece();
        Ok(FinishedFile {
            size: sink.size,
            sha256: hex::encode(sink.hasher.finalize()),
            rows: self.statistics.rows(),
            stats: self.statistics.to_json(),
            uploads: sink.upload.finish(),
        })
    }
}

/// The arrays as one, in a form that depends on the values alone.
fn joined(mut arrays: Vec<ArrayRef>) -> std::result::Result<ArrayRef, ArrowError> {
    if let [array] = &arrays[..]
        && array.data_type().is_nested()
    {
        // A slice of lists still refers to all elements, also those of rows outside the slice. Joining trims them.
        arrays.push(array.slice(0, 0));
    }
    let array = match <[ArrayRef; 1]>::try_from(arrays) {
        Ok([array]) => array,
        Err(arrays) => concat(&arrays.iter().map(|array| array.as_ref()).collect::<Vec<_>>())?,
    };
    // Going through `ArrayData` drops buffers of valid bits that are all set, in children too. Nothing is copied.
    Ok(make_array(array.to_data()))
}

#[cfg(test)]
mod tests {
    use arrow::array::{AsArray, Int32Array, ListArray, StringArray};
    use arrow::buffer::{NullBuffer, ScalarBuffer};
    use arrow::datatypes::Int32Type;

    use super::*;

    #[test]
    fn joined_arrays_show_neither_borders_nor_idle_valid_bits() {
        let plain: ArrayRef = Arc::new(Int32Array::from(vec![1, 2, 3]));
        let idle: ArrayRef =
            Arc::new(Int32Array::new(ScalarBuffer::from(vec![1, 2, 3]), Some(NullBuffer::new_valid(3))));
        assert!(idle.nulls().is_some());
        let whole = joined(vec![idle.clone()]).unwrap();
        assert_eq!(whole.nulls(), None);
        assert_eq!(&whole, &plain);
        let parts = joined(vec![idle.slice(0, 1), plain.slice(1, 1), idle.slice(2, 1)]).unwrap();
        assert_eq!(parts.nulls(), None);
        assert_eq!(&parts, &plain);
    }

    #[test]
    fn idle_valid_bits_inside_lists_go_too_and_real_nulls_stay() {
        let list = ListArray::from_iter_primitive::<Int32Type, _, _>(vec![
            Some(vec![Some(1), None]),
            None,
            Some(vec![Some(3), Some(4)]),
        ]);
        let slice: ArrayRef = Arc::new(list.slice(2, 1));
        let cleaned = joined(vec![slice.clone()]).unwrap();
        assert_eq!(&cleaned, &slice);
        assert_eq!(cleaned.nulls(), None);
        assert_eq!(cleaned.as_list::<i32>().values().nulls(), None);
        let all: ArrayRef = Arc::new(list);
        assert_eq!(joined(vec![all.clone()]).unwrap().null_count(), 1);
        let text: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), None]));
        assert_eq!(joined(vec![text.slice(0, 1)]).unwrap().nulls(), None);
        assert_eq!(joined(vec![text]).unwrap().null_count(), 1);
    }
}
