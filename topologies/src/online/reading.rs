//! The rows of a data file that was [fetched](crate::fetched): of its columns only those of the view are decoded, a bounded
//! number of rows at a time.

use std::fs::File;

use arrow::array::{ArrayRef, RecordBatch, new_null_array};
use arrow::datatypes::FieldRef;
use isobar_connectors::dataset::filled;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};

use super::layout::{EncodedRows, Layout};
use crate::prove::log::DataFile;
use crate::query::partition_value;
use crate::redrive::source::rows_at_a_time;

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
    let rows = rows_at_a_time(builder.metadata());
    builder.with_projection(mask).with_batch_size(rows).build()
}

/// The columns of the view: stored ones, those whose values are in the log, and nulls for what the file is older than.
fn columns_of(batch: &RecordBatch, file: &DataFile, layout: &Layout) -> Result<Vec<ArrayRef>, String> {
    let column = |field: &FieldRef| -> Result<ArrayRef, String> {
        let (name, data_type) = (field.name(), field.data_type());
        let wrong = |error: &dyn std::fmt::Display| format!("column {name}: {error}");
        if let Some(text) = file.partition_values.get(name) {
            let value = partition_value(text.as_deref(), data_type);
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
