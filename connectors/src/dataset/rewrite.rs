//! Several files of one table with the same partition values, rewritten as one.
//!
//! Rows keep their order: file after file as they are given, and within a file as they lie there. The new file has all
//! columns of the table, with nulls where a file does not have one, or where its structs do not have a field, and the
//! Parquet settings of every other file of the table. Its bytes depend on nothing but the files given, the columns and
//! those settings, so that two processes that rewrite the same files write the same bytes.
//!
//! Memory is bounded by one given file, its batch being decoded, and one row group of Arrow data.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, new_null_array};
use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use parquet::arrow::arrow_reader::{
    ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};

use super::file::FileEncoder;
use super::filled::filled;
use super::layout::TableLayout;
use super::partitions::Values;
use super::writer::{Name, ROW_GROUP_ROWS_MAX, StagedFile, check_commit_id, encode_error, file_name, staged};
use crate::Error;
use crate::delta::evolution::misfits;
use crate::upload::FanOut;

/// A row group is encoded once it has this many bytes of Arrow data: half of what a commit takes, because a commit
/// goes on beside it.
const ROW_GROUP_BYTES_MAX: usize = 32 << 20;
/// Rows decoded at a time. Fixed, because row groups end where a batch ends.
const BATCH_ROWS: usize = 8192;

/// Rows of a given file that are not rewritten yet.
pub struct PendingRows {
    batches: ParquetRecordBatchReader,
}

/// One new file, being written from others.
///
/// It does CPU work only: call it off the async threads, and await [`FanOut::ready`] between calls. Dropped before it is
/// finished it stores nothing.
pub struct FileRewriter {
    layout: Arc<TableLayout>,
    values: Values,
    name: Name,
    encoder: FileEncoder,
    waiting: Vec<Vec<ArrayRef>>,
    rows: usize,
    data_bytes: usize,
}

impl FileRewriter {
    /// A new file of the table with these partition values, named after `commit_id`, which must be unique and of
    /// letters, digits, `-` and `_`.
    ///
    /// # Errors
    /// [`Error::Batch`] if `commit_id` cannot be part of a name or a partition column has no value,
    /// [`Error::Encode`] if the file cannot be begun.
    pub fn new(
        layout: Arc<TableLayout>,
        fan_out: &Arc<FanOut>,
        commit_id: &str,
        partition_values: &BTreeMap<String, Option<String>>,
    ) -> Result<Self, Error> {
        check_commit_id(&layout, commit_id)?;
        let value = |column: &String| {
            let missing = || batch_error(&layout, format!("no value of partition column {column}"));
            partition_values.get(column).cloned().ok_or_else(missing)
        };
        let values: Values = layout.partition_by().iter().map(value).collect::<Result<_, _>>()?;
        let name = file_name(&layout, &values, commit_id, 0)?;
        let upload = fan_out.start_file(name.object_path.clone());
        let encoder =
            FileEncoder::new(layout.clone(), upload).map_err(|source| encode_error(&name, source))?;
        Ok(Self { layout, values, name, encoder, waiting: Vec::new(), rows: 0, data_bytes: 0 })
    }

    /// Opens a given file, whole.
    ///
    /// # Errors
    /// [`Error::Batch`] if it is no Parquet file.
    pub fn open(&self, file: Bytes) -> Result<PendingRows, Error> {
        let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        let reader = ParquetRecordBatchReaderBuilder::try_new_with_options(file, options)
            .and_then(|builder| builder.with_batch_size(BATCH_ROWS).build());
        let batches = reader.map_err(|error| batch_error(&self.layout, error.to_string()))?;
        Ok(PendingRows { batches })
    }

    /// Takes rows of `pending` until a row group was encoded or none are left; true if there may be more.
    ///
    /// # Errors
    /// [`Error::Batch`] if the file does not have the table's columns, [`Error::Encode`] if the rows cannot be encoded.
    /// After an error the rewriter must be dropped.
    pub fn take(&mut self, pending: &mut PendingRows) -> Result<bool, Error> {
        for batch in pending.batches.by_ref() {
            self.push(batch.map_err(|error| batch_error(&self.layout, error.to_string()))?)?;
            if self.rows >= ROW_GROUP_ROWS_MAX || self.data_bytes >= ROW_GROUP_BYTES_MAX {
                self.encode_waiting()?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Ends the file. Its uploads go on; see [`StagedFile::uploads`].
    ///
    /// # Errors
    /// [`Error::Encode`]; the file must not be used then.
    pub fn finish(mut self) -> Result<StagedFile, Error> {
        self.encode_waiting()?;
        let finished = self.encoder.finish().map_err(|source| encode_error(&self.name, source))?;
        Ok(staged(&self.layout, self.name, &self.values, finished))
    }

    fn push(&mut self, batch: RecordBatch) -> Result<(), Error> {
        let columns = self.columns_of(&batch)?;
        self.rows += batch.num_rows();
        for column in &columns {
            let bytes = column.to_data().get_slice_memory_size();
            self.data_bytes += bytes.unwrap_or_else(|_| column.get_array_memory_size());
        }
        self.waiting.push(columns);
        Ok(())
    }

    /// The table's columns, in its order and exactly of its types. What the file does not have, because it is older than the
    /// column or field or was written by a topology without it, is null. What the table does not have must not get lost: it is
    /// an error.
    fn columns_of(&self, batch: &RecordBatch) -> Result<Vec<ArrayRef>, Error> {
        let refuse = |detail: String| Err(batch_error(&self.layout, detail));
        let (columns, given) = (self.layout.file_schema.fields(), batch.schema_ref().fields());
        if let Some(more) = given.iter().find(|field| columns.find(field.name()).is_none()) {
            return refuse(format!("a file has a column {}, which the table does not have", more.name()));
        }
        let mut arrays = Vec::with_capacity(columns.len());
        for column in columns {
            let name = column.name();
            let Some((index, field)) = given.find(name) else {
                if !column.is_nullable() {
                    return refuse(format!("a file has no column {name}, which is never null"));
                }
                arrays.push(new_null_array(column.data_type(), batch.num_rows()));
                continue;
            };
            // Whether there are nulls is seen from the values, below.
            let problems = misfits(name, &column.as_ref().clone().with_nullable(true), field);
            if !problems.is_empty() {
                return refuse(format!("a file does not fit the table: {}", problems.join("; ")));
            }
            let array = filled(batch.column(index), column.data_type())
                .map_err(|error| batch_error(&self.layout, format!("column {name} of a file: {error}")))?;
            if !column.is_nullable() && array.null_count() > 0 {
                return refuse(format!("a file has a null in column {name}, which has none"));
            }
            arrays.push(array);
        }
        Ok(arrays)
    }

    fn encode_waiting(&mut self) -> Result<(), Error> {
        (self.rows, self.data_bytes) = (0, 0);
        let waiting = std::mem::take(&mut self.waiting);
        if waiting.is_empty() {
            return Ok(());
        }
        self.encoder.write_row_group(waiting).map_err(|source| encode_error(&self.name, source))
    }
}

fn batch_error(layout: &TableLayout, detail: String) -> Error {
    Error::Batch { table: layout.path().into(), detail }
}

#[cfg(test)]
mod tests;
