//! The rows of a data file, from the first cloud that has it.
//!
//! A file goes to a temporary file of this machine and is believed when it has the size and, where the log says one, the SHA-256
//! that it was committed with. Of its columns only those of the view are decoded, a bounded number of rows at a time. So
//! memory does not depend on the size of a file, and a cloud that dies in the middle costs one file read again.

use std::fs::File;
use std::io::{Seek, Write};

use arrow::array::{ArrayRef, RecordBatch, new_null_array};
use arrow::datatypes::FieldRef;
use datafusion::common::ScalarValue;
use futures::TryStreamExt;
use isobar_connectors::clouds::Cloud;
use isobar_connectors::dataset::filled;
use object_store::ObjectStoreExt;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};
use sha2::{Digest, Sha256};

use super::layout::{EncodedRows, Layout};
use crate::chain_of;
use crate::prove::log::DataFile;
use crate::prove::objects::object_path;

/// About the most bytes of rows decoded at a time, and the most rows.
const BATCH_BYTES: u64 = 8 << 20;
const BATCH_ROWS_MAX: u64 = 8192;

/// Why there is no file.
#[derive(Debug)]
pub(super) struct Unread {
    /// Whether every cloud answered that it has none: a vacuum let go of it.
    pub(super) is_gone: bool,
    /// Per cloud, why.
    pub(super) reasons: Vec<String>,
}

/// `file` of `table` on this machine, from the first of `clouds` that has it as the log states it.
///
/// # Errors
/// [`Unread`] if none has.
pub(super) async fn fetch(clouds: &[Cloud], table: &str, file: &DataFile) -> Result<File, Unread> {
    let mut unread = Unread { is_gone: true, reasons: Vec::new() };
    for cloud in clouds {
        match fetch_from(cloud, table, file).await {
            Ok(fetched) => return Ok(fetched),
            Err((is_gone, why)) => {
                unread.is_gone &= is_gone;
                unread.reasons.push(format!("{}: {}: {why}", cloud.name, file.path));
            }
        }
    }
    Err(unread)
}

/// A file, or whether it is not there and why.
async fn fetch_from(cloud: &Cloud, table: &str, file: &DataFile) -> Result<File, (bool, String)> {
    let other = |why: String| (false, why);
    let path = object_path(table, &file.path).ok_or_else(|| other("not a path of an object".to_owned()))?;
    let found = cloud
        .data
        .get(&path)
        .await
        .map_err(|error| (matches!(error, object_store::Error::NotFound { .. }), chain_of(&error)))?;
    let mut pieces = found.into_stream();
    let mut fetched = tempfile::tempfile().map_err(|error| other(format!("a temporary file: {error}")))?;
    let (mut hasher, mut size) = (Sha256::new(), 0u64);
    while let Some(piece) = pieces.try_next().await.map_err(|error| other(chain_of(&error)))? {
        size += piece.len() as u64;
        if size > file.size {
            break;
        }
        hasher.update(&piece);
        fetched.write_all(&piece).map_err(|error| other(format!("a temporary file: {error}")))?;
    }
    let digest = hex::encode(hasher.finalize());
    if size != file.size || file.sha256.as_ref().is_some_and(|sha256| *sha256 != digest) {
        return Err(other("differs from the log; see `isobar scrub`".to_owned()));
    }
    fetched.rewind().map_err(|error| other(format!("a temporary file: {error}")))?;
    Ok(fetched)
}

/// Hands the rows of a fetched file to `take`, some at a time.
///
/// # Errors
/// If the file is not what the log says, for people; and whatever `take` says.
pub(super) fn read<E: From<String>>(
    fetched: File,
    file: &DataFile,
    layout: &Layout,
    mut take: impl FnMut(EncodedRows) -> Result<(), E>,
) -> Result<(), E> {
    let wrong = |why: &dyn std::fmt::Display| format!("{}: {why}", file.path);
    let batches = open(fetched, layout).map_err(|error| wrong(&error))?;
    let mut rows = 0;
    for batch in batches {
        let batch = batch.map_err(|error| wrong(&error))?;
        rows += batch.num_rows() as u64;
        let columns = columns_of(&batch, file, layout).map_err(|why| wrong(&why))?;
        take(layout.encode(&columns)?)?;
    }
    match file.rows {
        Some(expected) if expected != rows => {
            Err(wrong(&format!("{rows} rows, and by the log {expected}")).into())
        }
        _ => Ok(()),
    }
}

fn open(file: File, layout: &Layout) -> parquet::errors::Result<ParquetRecordBatchReader> {
    let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
    let builder = ParquetRecordBatchReaderBuilder::try_new_with_options(file, options)?;
    let stored = builder.parquet_schema().root_schema().get_fields();
    let is_wanted = |name: &str| layout.columns().iter().any(|field| field.name() == name);
    let wanted: Vec<usize> = (0..stored.len()).filter(|index| is_wanted(stored[*index].name())).collect();
    let mask = ProjectionMask::roots(builder.parquet_schema(), wanted);
    let bytes_per_row = builder.metadata().row_groups().iter().filter_map(|group| {
        let bytes = u64::try_from(group.total_byte_size()).ok()?;
        bytes.checked_div(u64::try_from(group.num_rows()).ok()?)
    });
    let rows = BATCH_BYTES / bytes_per_row.max().unwrap_or(0).max(1);
    let rows = usize::try_from(rows.clamp(1, BATCH_ROWS_MAX)).unwrap_or(1);
    builder.with_projection(mask).with_batch_size(rows).build()
}

/// The columns of the view: stored ones, those whose values are in the log, and nulls for what the file is older than.
fn columns_of(batch: &RecordBatch, file: &DataFile, layout: &Layout) -> Result<Vec<ArrayRef>, String> {
    let column = |field: &FieldRef| -> Result<ArrayRef, String> {
        let (name, data_type) = (field.name(), field.data_type());
        let wrong = |error: &dyn std::fmt::Display| format!("column {name}: {error}");
        if let Some(text) = file.partition_values.get(name) {
            let value = match text {
                // The protocol reads an empty text as null.
                Some(text) if !text.is_empty() => ScalarValue::try_from_string(text.clone(), data_type),
                _ => ScalarValue::try_from(data_type),
            };
            let array = value.and_then(|value| value.to_array_of_size(batch.num_rows()));
            return array.map_err(|error| wrong(&error));
        }
        match batch.column_by_name(name) {
            Some(stored) => filled(stored, data_type).map_err(|error| wrong(&error)),
            None => Ok(new_null_array(data_type, batch.num_rows())),
        }
    };
    layout.columns().iter().map(column).collect()
}
