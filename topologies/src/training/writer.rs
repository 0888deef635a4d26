//! The Parquet file of a training set. Its bytes depend on its rows and on nothing else.
//!
//! Rows are cut anew into pieces of [`PIECE_ROWS`], whatever batches they come in, because an encoder looks at its limits once per
//! piece; row groups are full after [`GROUP_ROWS`] rows, never for their size. Writer name, encodings and limits are fixed, and there is no
//! Arrow schema, no time and no name of a machine in the file.
//!
//! That rows come in the order of the spine is checked, not believed: each carries its number, which must rise.

use std::io::Write;

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::BatchCoalescer;
use arrow::datatypes::{Int64Type, SchemaRef};
use arrow::error::ArrowError;
use isobar_connectors::digesting::Digesting;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterVersion};

use super::columns::{stored, without_idle_bits};
use super::digest::{Digested, SetDigest};

/// Rows of a row group, but for the last one.
pub(super) const GROUP_ROWS: usize = 65_536;

/// Rows that are encoded at once. Row groups begin where such a piece does.
const PIECE_ROWS: usize = 8_192;

/// 1 counts changes of the settings here, not releases.
pub(super) const CREATED_BY: &str = "isobar training set version 1 (build 1)";

/// Encodes one training set.
pub(super) struct SetWriter<W: Write + Send> {
    /// The columns of the file.
    schema: SchemaRef,
    /// Where they are in what is written; the number of the row is after them.
    places: Vec<usize>,
    digest: SetDigest,
    pieces: BatchCoalescer,
    file: ArrowWriter<Digesting<W>>,
    /// The number of the last row.
    last: Option<i64>,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct WrittenFile {
    pub(super) digested: Digested,
    pub(super) bytes: u64,
    pub(super) sha256: String,
    pub(super) row_groups: u64,
}

impl<W: Write + Send> SetWriter<W> {
    /// A writer of the columns `schema`, whose types are stored ones, to `output`.
    ///
    /// # Errors
    /// If Parquet has no place for a column.
    pub(super) fn new(schema: SchemaRef, output: W) -> Result<Self, ArrowError> {
        let options = ArrowWriterOptions::new()
            .with_properties(properties())
            .with_schema_root("schema".to_owned())
            .with_skip_arrow_metadata(true);
        Ok(Self {
            places: (0..schema.fields().len()).collect(),
            digest: SetDigest::new(schema.clone()),
            pieces: BatchCoalescer::new(schema.clone(), PIECE_ROWS),
            file: ArrowWriter::try_new_with_options(Digesting::new(output), schema.clone(), options)?,
            schema,
            last: None,
        })
    }

    /// Takes the next rows: the columns, of any types that become stored ones, and the number of the row.
    ///
    /// # Errors
    /// If they are not in order, or the output cannot be written.
    pub(super) fn write(&mut self, rows: &RecordBatch) -> Result<(), ArrowError> {
        self.check_order(rows)?;
        let rows = stored(rows, &self.places, &self.schema)?;
        self.digest.update(&rows)?;
        self.pieces.push_batch(rows)?;
        self.write_pieces()
    }

    fn write_pieces(&mut self) -> Result<(), ArrowError> {
        while let Some(piece) = self.pieces.next_completed_batch() {
            self.file.write(&without_idle_bits(&piece)?)?;
        }
        Ok(())
    }

    fn check_order(&mut self, rows: &RecordBatch) -> Result<(), ArrowError> {
        let numbers = rows.column(self.places.len()).as_primitive_opt::<Int64Type>();
        let numbers = numbers.ok_or_else(|| ArrowError::SchemaError("rows have no numbers".to_owned()))?;
        for number in numbers {
            if number.is_none() || number <= self.last {
                let problem = "rows of a training set did not come in the order of the spine";
                return Err(ArrowError::ComputeError(problem.to_owned()));
            }
            self.last = number;
        }
        Ok(())
    }

    /// Ends the file.
    ///
    /// # Errors
    /// If the output cannot be written.
    pub(super) fn finish(mut self) -> Result<(W, WrittenFile), ArrowError> {
        self.pieces.finish_buffered_batch()?;
        self.write_pieces()?;
        self.file.flush()?;
        let row_groups = self.file.flushed_row_groups().len() as u64;
        let (output, sha256, bytes) = self.file.into_inner()?.finish()?;
        Ok((output, WrittenFile { digested: self.digest.finish(), bytes, sha256, row_groups }))
    }
}

fn properties() -> WriterProperties {
    WriterProperties::builder()
        .set_created_by(CREATED_BY.to_owned())
        .set_writer_version(WriterVersion::PARQUET_1_0)
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_dictionary_enabled(true)
        .set_dictionary_page_size_limit(1 << 20)
        .set_data_page_size_limit(1 << 20)
        .set_data_page_row_count_limit(20_000)
        .set_write_batch_size(1024)
        .set_max_row_group_row_count(Some(GROUP_ROWS))
        .set_statistics_enabled(EnabledStatistics::Page)
        .set_statistics_truncate_length(Some(64))
        .set_column_index_truncate_length(Some(64))
        .set_coerce_types(true)
        .build()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array, StringArray, StringViewArray};
    use arrow::datatypes::{DataType, Field, Schema};
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
    use sha2::{Digest, Sha256};

    use super::*;

    const ROWS: i64 = 2 * GROUP_ROWS as i64 + 12_345;

    fn schema() -> SchemaRef {
        let id = Field::new("id", DataType::Int64, true);
        Arc::new(Schema::new(vec![id, Field::new("text", DataType::Utf8, true)]))
    }

    /// Rows `first..last`, as views if `views`.
    fn rows(first: i64, last: i64, views: bool) -> RecordBatch {
        let ids = (first..last).map(|row| (row % 7 > 0).then_some(row * 1_000_003 % 65_537));
        let texts: Vec<Option<String>> =
            (first..last).map(|row| (row % 5 > 0).then(|| format!("text {}", row % 9_000))).collect();
        let texts: ArrayRef = if views {
            Arc::new(StringViewArray::from_iter(texts.iter().map(Option::as_deref)))
        } else {
            Arc::new(StringArray::from_iter(texts.iter().map(Option::as_deref)))
        };
        let numbers = Int64Array::from_iter_values(first..last);
        let columns: Vec<(&str, ArrayRef)> =
            vec![("id", Arc::new(Int64Array::from_iter(ids))), ("text", texts), ("#", Arc::new(numbers))];
        RecordBatch::try_from_iter_with_nullable(
            columns.into_iter().map(|(name, column)| (name, column, true)),
        )
        .unwrap()
    }

    fn written(cut: &mut dyn FnMut(i64) -> (i64, bool)) -> (Vec<u8>, WrittenFile) {
        let mut writer = SetWriter::new(schema(), Vec::new()).unwrap();
        let mut first = 0;
        while first < ROWS {
            let (length, views) = cut(first);
            let last = (first + length).min(ROWS);
            writer.write(&rows(first, last, views)).unwrap();
            first = last;
        }
        writer.finish().unwrap()
    }

    #[test]
    fn the_bytes_do_not_depend_on_batches() {
        let (bytes, file) = written(&mut |_| (ROWS, false));
        assert_eq!(file.bytes, bytes.len() as u64);
        assert_eq!(file.sha256, hex::encode(Sha256::digest(&bytes)));
        assert_eq!((file.row_groups, file.digested.rows), (3, ROWS as u64));
        for cut in [1_000, 8_192, 10_007] {
            let mut views = false;
            let (others, other) = written(&mut |_| {
                views = !views;
                (cut, views)
            });
            assert_eq!(other, file, "{cut}");
            assert!(others == bytes, "{cut}");
        }
        let reader = ParquetRecordBatchReaderBuilder::try_new(bytes::Bytes::from(bytes)).unwrap();
        let metadata = reader.metadata().clone();
        assert_eq!(metadata.file_metadata().created_by(), Some(CREATED_BY));
        assert!(metadata.file_metadata().key_value_metadata().is_none());
        let groups: Vec<i64> = metadata.row_groups().iter().map(|group| group.num_rows()).collect();
        assert_eq!(groups, [GROUP_ROWS as i64, GROUP_ROWS as i64, 12_345]);
        let read: i64 = reader.build().unwrap().map(|batch| batch.unwrap().num_rows() as i64).sum();
        assert_eq!(read, ROWS);
    }

    #[test]
    fn no_rows_are_a_file_too() {
        let (bytes, file) = SetWriter::new(schema(), Vec::new()).unwrap().finish().unwrap();
        assert_eq!((file.digested.rows, file.row_groups), (0, 0));
        assert!(ParquetRecordBatchReaderBuilder::try_new(bytes::Bytes::from(bytes)).is_ok());
    }

    #[test]
    fn rows_that_are_out_of_order_are_refused() {
        let mut writer = SetWriter::new(schema(), Vec::new()).unwrap();
        writer.write(&rows(0, 10, false)).unwrap();
        assert!(writer.write(&rows(9, 12, false)).is_err());
    }
}
