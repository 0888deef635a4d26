//! A Parquet or CSV file in the local file system as a table: its rows in their order, each with its number.
//!
//! The file is named by the person who runs the command, never by a query: what is registered with the engine is this one
//! file, which is read here. It is read piece by piece, so that its size does not matter, and may be asked for a range of rows.

use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use arrow::csv::ReaderBuilder;
use arrow::csv::reader::Format as CsvFormat;
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use arrow::error::ArrowError;
use datafusion::catalog::streaming::StreamingTable;
use datafusion::common::{Column, exec_datafusion_err};
use datafusion::error::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::Expr;
use datafusion::physical_plan::stream::RecordBatchReceiverStreamBuilder;
use datafusion::physical_plan::streaming::PartitionStream;
use isobar_connectors::digesting::Digesting;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tokio::sync::mpsc::Sender;

use super::columns::{stored, stored_field};
use crate::error::Error;

/// The column with the number of a row, from 0. No file can have it, because no file with it is read.
pub(super) const ROW_NUMBER: &str = "#row";

/// Rows that are read at once.
const BATCH_ROWS: usize = 8192;

/// Batches that are read before they are asked for.
const BATCHES_AHEAD: usize = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Parquet,
    Csv,
}

/// A file that can be read.
#[derive(Debug, Clone)]
pub(super) struct LocalFile {
    path: PathBuf,
    format: Format,
    /// The columns of the file, as it has them.
    written: SchemaRef,
    /// The places of those that are read, in `written`.
    places: Vec<usize>,
    /// The columns that are read, as a training set has them.
    columns: SchemaRef,
    /// The same, and the number of the row after them.
    numbered: SchemaRef,
    /// Columns that cannot be read, with their types.
    unreadable: Vec<(String, DataType)>,
    /// The first row that is read, and how many at most.
    range: (usize, Option<usize>),
}

fn wrong(path: &Path, problem: impl std::fmt::Display) -> Error {
    Error::Configuration(format!("{}: {problem}", path.display()))
}

impl LocalFile {
    /// Looks at the columns of the file at `path`.
    ///
    /// # Errors
    /// [`Error::Configuration`] if it cannot be read, or is neither a Parquet nor a CSV file by its ending.
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let ending = path.extension().map(|ending| ending.to_string_lossy().to_ascii_lowercase());
        let format = match ending.as_deref() {
            Some("parquet") => Format::Parquet,
            Some("csv") => Format::Csv,
            _ => return Err(wrong(path, "neither a Parquet nor a CSV file by its ending")),
        };
        let file = File::open(path).map_err(|error| wrong(path, error))?;
        let written = match format {
            Format::Parquet => {
                let builder = ParquetRecordBatchReaderBuilder::try_new(file);
                builder.map_err(|error| wrong(path, error))?.schema().clone()
            }
            Format::Csv => {
                let inferred = csv_format().infer_schema(BufReader::new(file), None);
                Arc::new(inferred.map_err(|error| wrong(path, error))?.0)
            }
        };
        if written.column_with_name(ROW_NUMBER).is_some() {
            return Err(wrong(path, format!("the column `{ROW_NUMBER}` has the name of our own: rename it")));
        }
        let (mut places, mut columns, mut unreadable) = (Vec::new(), Vec::new(), Vec::new());
        for (place, field) in written.fields().iter().enumerate() {
            match stored_field(field) {
                Some(_) if columns.iter().any(|column: &FieldRef| column.name() == field.name()) => {
                    return Err(wrong(path, format!("there are two columns `{}`", field.name())));
                }
                Some(column) => {
                    places.push(place);
                    columns.push(column);
                }
                None => unreadable.push((field.name().clone(), field.data_type().clone())),
            }
        }
        let columns: SchemaRef = Arc::new(Schema::new(columns));
        let numbered = numbered(&columns);
        let path = path.to_owned();
        Ok(Self { path, format, written, places, columns, numbered, unreadable, range: (0, None) })
    }

    /// The columns that are read, as a training set has them, without the number.
    pub(super) fn columns(&self) -> &SchemaRef {
        &self.columns
    }

    /// Columns that cannot be read, with their types.
    pub(super) fn unreadable(&self) -> &[(String, DataType)] {
        &self.unreadable
    }

    /// The same file, of which only `rows` rows from number `first` on are read.
    pub(super) fn slice(&self, first: usize, rows: usize) -> Self {
        Self { range: (first, Some(rows)), ..self.clone() }
    }

    /// The file as a table with the column [`ROW_NUMBER`], by which it is sorted.
    ///
    /// # Errors
    /// [`Error::Configuration`] if the engine does not take it.
    pub(super) fn table(&self) -> Result<StreamingTable, Error> {
        let table = StreamingTable::try_new(self.numbered.clone(), vec![Arc::new(self.clone())]);
        let order = vec![Expr::Column(Column::new_unqualified(ROW_NUMBER)).sort(true, false)];
        let table = table.map_err(|error| wrong(&self.path, error.strip_backtrace()))?;
        Ok(table.with_sort_order(order))
    }

    /// How many rows there are.
    ///
    /// # Errors
    /// [`Error::Configuration`] if the file cannot be read.
    pub(super) fn count(&self) -> Result<u64, Error> {
        let mut rows = 0;
        let counted = match self.format {
            Format::Parquet => File::open(&self.path).map_err(ArrowError::from).and_then(|file| {
                let builder = ParquetRecordBatchReaderBuilder::try_new(file)?;
                Ok(u64::try_from(builder.metadata().file_metadata().num_rows()).unwrap_or(0))
            }),
            Format::Csv => self
                .each(|batch| {
                    rows += batch.num_rows() as u64;
                    true
                })
                .map(|()| rows),
        };
        counted.map_err(|error| wrong(&self.path, error))
    }

    /// Gives `take` one batch after the other until it wants no more.
    fn each(&self, mut take: impl FnMut(RecordBatch) -> bool) -> Result<(), ArrowError> {
        let file = File::open(&self.path)?;
        let (first, rows) = self.range;
        let batches: Box<dyn Iterator<Item = Result<RecordBatch, ArrowError>>> = match self.format {
            Format::Parquet => {
                let builder = ParquetRecordBatchReaderBuilder::try_new(file)?.with_batch_size(BATCH_ROWS);
                let builder = builder.with_offset(first);
                let builder = if let Some(rows) = rows { builder.with_limit(rows) } else { builder };
                Box::new(builder.build()?)
            }
            Format::Csv => {
                let builder = ReaderBuilder::new(self.written.clone()).with_format(csv_format());
                let builder = builder.with_batch_size(BATCH_ROWS);
                let builder = match rows {
                    Some(rows) => builder.with_bounds(first, first + rows),
                    None => builder,
                };
                Box::new(builder.build_buffered(BufReader::new(file))?)
            }
        };
        let mut next = i64::try_from(first).unwrap_or(i64::MAX);
        for batch in batches {
            let batch = batch?;
            // Of a file that was replaced meanwhile.
            if batch.num_columns() != self.written.fields().len() {
                return Err(ArrowError::SchemaError("the file is another one now".to_owned()));
            }
            let rows = batch.num_rows() as i64;
            let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(next..next + rows));
            next += rows;
            let mut columns = stored(&batch, &self.places, &self.columns)?.columns().to_vec();
            columns.push(numbers);
            if !take(RecordBatch::try_new(self.numbered.clone(), columns)?) {
                break;
            }
        }
        Ok(())
    }

    fn send(&self, sender: &Sender<Result<RecordBatch, DataFusionError>>) -> Result<(), DataFusionError> {
        let read = self.each(|batch| sender.blocking_send(Ok(batch)).is_ok());
        read.map_err(|error| exec_datafusion_err!("{}: {error}", self.path.display()))
    }
}

/// `columns` and the number of the row.
fn numbered(columns: &Schema) -> SchemaRef {
    let number = Arc::new(Field::new(ROW_NUMBER, DataType::Int64, false));
    Arc::new(Schema::new(columns.fields().iter().cloned().chain([number]).collect::<Vec<FieldRef>>()))
}

fn csv_format() -> CsvFormat {
    CsvFormat::default().with_header(true)
}

impl PartitionStream for LocalFile {
    fn schema(&self) -> &SchemaRef {
        &self.numbered
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let mut builder = RecordBatchReceiverStreamBuilder::new(self.numbered.clone(), BATCHES_AHEAD);
        let (sender, file) = (builder.tx(), self.clone());
        builder.spawn_blocking(move || file.send(&sender));
        builder.build()
    }
}

/// SHA-256 of a file, and its size in bytes.
///
/// # Errors
/// [`Error::Configuration`] if it cannot be read.
pub(super) fn sha256_of(path: &Path) -> Result<(String, u64), Error> {
    let hash = || {
        let mut sink = Digesting::new(io::sink());
        io::copy(&mut BufReader::with_capacity(1 << 20, File::open(path)?), &mut sink)?;
        let (_, sha256, bytes) = sink.finish()?;
        Ok((sha256, bytes))
    };
    hash().map_err(|error: io::Error| wrong(path, error))
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;
    use arrow::datatypes::{Int64Type, TimeUnit};

    use super::*;

    fn written(name: &str, text: &str) -> (tempfile::TempDir, LocalFile) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        let file = LocalFile::open(&path).unwrap();
        (folder, file)
    }

    #[test]
    fn rows_of_text_have_types_and_numbers() {
        let (_folder, file) =
            written("a.csv", "id,at,x\n7,2026-01-01T00:00:00Z,1.5\n8,,2\n9,2026-01-02T00:00:00Z,\n");
        assert_eq!(file.count().unwrap(), 3);
        let types: Vec<&DataType> = file.columns().fields().iter().map(|field| field.data_type()).collect();
        assert_eq!(types[0], &DataType::Int64);
        assert!(matches!(types[1], DataType::Timestamp(unit, _) if *unit != TimeUnit::Second), "{types:?}");
        assert_eq!(types[2], &DataType::Float64);
        let mut batches = Vec::new();
        file.slice(1, 1)
            .each(|batch| {
                batches.push(batch);
                true
            })
            .unwrap();
        let [batch] = batches.as_slice() else { panic!("{batches:?}") };
        assert_eq!(batch.num_rows(), 1);
        assert_eq!(batch["id"].as_primitive::<Int64Type>().value(0), 8);
        assert_eq!(batch[ROW_NUMBER].as_primitive::<Int64Type>().value(0), 1);
        assert_eq!(batch["at"].null_count(), 1);
    }

    #[test]
    fn files_that_cannot_be_read_say_why() {
        for (name, text, problem) in [
            ("a.txt", "id\n1\n", "neither a Parquet nor a CSV file"),
            ("a.parquet", "no Parquet", "a.parquet: "),
            ("a.csv", "id,id\n1,2\n", "two columns `id`"),
            ("b.csv", "#row,id\n1,2\n", "rename it"),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            let error = LocalFile::open(&path).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains(problem), "{error}");
        }
        assert!(LocalFile::open(Path::new("/does/not/exist.csv")).is_err());
    }
}
