//! A Parquet or CSV file in the local file system as a table: its rows in their order, each with its number.
//!
//! The file is named by the person who runs the command, never by a query: what is registered with the engine is this one
//! file, which is read here. It is read piece by piece, from its beginning to its end, so that its size does not matter, and of its
//! columns only those that are asked for.

use std::collections::BTreeSet;
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
use datafusion::datasource::MemTable;
use datafusion::error::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, SortExpr};
use datafusion::physical_plan::stream::RecordBatchReceiverStreamBuilder;
use datafusion::physical_plan::streaming::PartitionStream;
use futures::TryStreamExt;
use isobar_connectors::digesting::Digesting;
use parquet::arrow::ProjectionMask;
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
        Ok(Self { path, format, written, places, columns, numbered, unreadable })
    }

    /// The columns that are read, as a training set has them, without the number.
    pub(super) fn columns(&self) -> &SchemaRef {
        &self.columns
    }

    /// Columns that cannot be read, with their types.
    pub(super) fn unreadable(&self) -> &[(String, DataType)] {
        &self.unreadable
    }

    /// The same file, of which only these columns are read.
    pub(super) fn only(&self, names: &BTreeSet<&str>) -> Self {
        let read = self.columns.fields().iter().zip(&self.places);
        let read = read.filter(|(column, _)| names.contains(column.name().as_str()));
        let (columns, places): (Vec<FieldRef>, Vec<usize>) =
            read.map(|(column, place)| (column.clone(), *place)).unzip();
        let columns: SchemaRef = Arc::new(Schema::new(columns));
        Self { places, numbered: numbered(&columns), columns, ..self.clone() }
    }

    /// The file as a table with the column [`ROW_NUMBER`], by which it is sorted.
    ///
    /// # Errors
    /// [`Error::Configuration`] if the engine does not take it.
    pub(super) fn table(&self) -> Result<StreamingTable, Error> {
        let table = StreamingTable::try_new(self.numbered.clone(), vec![Arc::new(self.clone())]);
        let table = table.map_err(|error| wrong(&self.path, error.strip_backtrace()))?;
        Ok(table.with_sort_order(by_number()))
    }

    /// Some rows of it as such a table.
    ///
    /// # Errors
    /// As [`table`](Self::table).
    pub(super) fn table_of(&self, rows: Vec<RecordBatch>) -> Result<MemTable, Error> {
        let table = MemTable::try_new(self.numbered.clone(), vec![rows]);
        let table = table.map_err(|error| wrong(&self.path, error.strip_backtrace()))?;
        Ok(table.with_sort_order(vec![by_number()]))
    }

    /// All rows, with their numbers.
    pub(super) fn rows(&self) -> SendableRecordBatchStream {
        let mut builder = RecordBatchReceiverStreamBuilder::new(self.numbered.clone(), BATCHES_AHEAD);
        let (sender, file) = (builder.tx(), self.clone());
        builder.spawn_blocking(move || file.send(&sender));
        builder.build()
    }

    /// Gives `take` one batch after the other until it wants no more.
    fn each(&self, mut take: impl FnMut(RecordBatch) -> bool) -> Result<(), ArrowError> {
        let file = File::open(&self.path)?;
        let batches: Box<dyn Iterator<Item = Result<RecordBatch, ArrowError>>> = match self.format {
            Format::Parquet => {
                let builder = ParquetRecordBatchReaderBuilder::try_new(file)?.with_batch_size(BATCH_ROWS);
                if *builder.schema() != self.written {
                    return Err(replaced());
                }
                let columns = ProjectionMask::roots(builder.parquet_schema(), self.places.iter().copied());
                Box::new(builder.with_projection(columns).build()?)
            }
            Format::Csv => {
                let builder = ReaderBuilder::new(self.written.clone()).with_format(csv_format());
                let builder = builder.with_batch_size(BATCH_ROWS).with_projection(self.places.clone());
                Box::new(builder.build_buffered(BufReader::new(file))?)
            }
        };
        let places: Vec<usize> = (0..self.places.len()).collect();
        let mut next = 0_i64;
        for batch in batches {
            let batch = batch?;
            if batch.num_columns() != places.len() {
                return Err(replaced());
            }
            let rows = batch.num_rows() as i64;
            let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(next..next + rows));
            next += rows;
            let mut columns = stored(&batch, &places, &self.columns)?.columns().to_vec();
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

/// What is wrong with a file that was replaced while it was read.
fn replaced() -> ArrowError {
    ArrowError::SchemaError("the file is another one now".to_owned())
}

fn csv_format() -> CsvFormat {
    CsvFormat::default().with_header(true)
}

impl PartitionStream for LocalFile {
    fn schema(&self) -> &SchemaRef {
        &self.numbered
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        self.rows()
    }
}

/// The next of `rows`: at least `count` of them, fewer only at the end, and none after it.
///
/// # Errors
/// [`Error::Configuration`] if the file cannot be read.
pub(super) async fn next_rows(
    rows: &mut SendableRecordBatchStream,
    count: usize,
) -> Result<Vec<RecordBatch>, Error> {
    let (mut next, mut found) = (Vec::new(), 0);
    while found < count {
        let batch = rows.try_next().await.map_err(|error| Error::Configuration(error.strip_backtrace()))?;
        let Some(batch) = batch else { break };
        found += batch.num_rows();
        next.push(batch);
    }
    Ok(next)
}

/// The order of the rows in the file.
fn by_number() -> Vec<SortExpr> {
    vec![Expr::Column(Column::new_unqualified(ROW_NUMBER)).sort(true, false)]
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
    use arrow::compute::concat_batches;
    use arrow::datatypes::{Int64Type, TimeUnit};
    use parquet::arrow::ArrowWriter;

    use super::*;

    fn written(name: &str, text: &str) -> (tempfile::TempDir, LocalFile) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        let file = LocalFile::open(&path).unwrap();
        (folder, file)
    }

    async fn all(file: &LocalFile) -> Result<RecordBatch, Error> {
        let rows = next_rows(&mut file.rows(), usize::MAX).await?;
        Ok(concat_batches(&rows[0].schema(), &rows).unwrap())
    }

    #[tokio::test]
    async fn rows_of_text_have_types_and_numbers() {
        let (_folder, file) =
            written("a.csv", "id,at,x\n7,2026-01-01T00:00:00Z,1.5\n8,,2\n9,2026-01-02T00:00:00Z,\n");
        let types: Vec<&DataType> = file.columns().fields().iter().map(|field| field.data_type()).collect();
        assert_eq!(types[0], &DataType::Int64);
        assert!(matches!(types[1], DataType::Timestamp(unit, _) if *unit != TimeUnit::Second), "{types:?}");
        assert_eq!(types[2], &DataType::Float64);
        let rows = all(&file).await.unwrap();
        assert_eq!(rows.num_rows(), 3);
        assert_eq!(rows["id"].as_primitive::<Int64Type>().value(1), 8);
        assert_eq!(rows[ROW_NUMBER].as_primitive::<Int64Type>().values(), &[0, 1, 2]);
        assert_eq!(rows["at"].null_count(), 1);
    }

    #[tokio::test]
    async fn every_row_is_in_one_piece() {
        let rows = 2 * BATCH_ROWS + 100;
        let text: String = (0..rows).map(|row| format!("{}\n", row * 3)).collect();
        let (_folder, file) = written("a.csv", &format!("id\n{text}"));
        let (mut stream, mut next, mut pieces) = (file.rows(), 0, 0);
        loop {
            let piece = next_rows(&mut stream, BATCH_ROWS + 1).await.unwrap();
            if piece.is_empty() {
                break;
            }
            pieces += 1;
            for batch in piece {
                let (ids, numbers) = (batch["id"].as_primitive::<Int64Type>(), &batch[ROW_NUMBER]);
                for (id, number) in ids.values().iter().zip(numbers.as_primitive::<Int64Type>().values()) {
                    assert_eq!((*id, *number), (next * 3, next));
                    next += 1;
                }
            }
        }
        assert_eq!((next, pieces), (rows as i64, 2));
    }

    #[tokio::test]
    async fn columns_that_are_not_asked_for_are_not_read() {
        let (_folder, file) = written("a.csv", "id,x,y\n7,1.5,true\n8,2.5,false\n");
        // No number any more.
        std::fs::write(&file.path, "id,x,y\n7,one,true\n8,two,false\n").unwrap();
        assert!(all(&file).await.is_err());
        let only = file.only(&BTreeSet::from(["y", "id", "absent"]));
        let rows = all(&only).await.unwrap();
        let names: Vec<String> = rows.schema().fields().iter().map(|field| field.name().clone()).collect();
        assert_eq!(names, ["id", "y", ROW_NUMBER]);
        assert_eq!(rows["id"].as_primitive::<Int64Type>().values(), &[7, 8]);
        assert!(rows["y"].as_boolean().value(0) && !rows["y"].as_boolean().value(1));
        // The same of Parquet, by the columns that are not next to one another.
        let path = file.path.with_extension("parquet");
        let mut writer =
            ArrowWriter::try_new(File::create(&path).unwrap(), file.columns.clone(), None).unwrap();
        let x: ArrayRef = Arc::new(arrow::array::Float64Array::from(vec![1.5, 2.5]));
        let columns = vec![rows["id"].clone(), x, rows["y"].clone()];
        writer.write(&RecordBatch::try_new(file.columns.clone(), columns).unwrap()).unwrap();
        writer.close().unwrap();
        let parquet = LocalFile::open(&path).unwrap();
        assert_eq!(all(&parquet.only(&BTreeSet::from(["y", "id"]))).await.unwrap(), rows);
        // A file that took its place has other columns.
        let mut writer =
            ArrowWriter::try_new(File::create(&path).unwrap(), only.columns.clone(), None).unwrap();
        writer.write(&rows.project(&[0, 1]).unwrap()).unwrap();
        writer.close().unwrap();
        assert!(all(&parquet).await.unwrap_err().to_string().contains("another one now"));
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
