//! Rows as text or as a file, a piece at a time, so that an answer of any size needs little memory.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::csv::WriterBuilder as CsvBuilder;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::ipc::writer::{FileWriter, StreamWriter};
use arrow::util::pretty::pretty_format_batches_with_schema;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::metrics::MetricsSet;
use futures::TryStreamExt;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

use super::json::json_lines;
use super::usage::{Meter, Metered, Usage};
use super::{TableVersion, failed};
use crate::error::Error;

/// Rows of a table for people. Its columns are as wide as their widest value, so all its rows are held at once.
pub const TABLE_ROWS_MAX: usize = 10_000;
/// Bytes of a row group of an answer in Parquet: it is held in memory until it is full.
const ROW_GROUP_BYTES_MAX: usize = 64 << 20;

/// How rows are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RowsFormat {
    /// A table for people, of at most [`TABLE_ROWS_MAX`] rows.
    #[default]
    Table,
    /// One JSON array of objects, one object per line. Timestamps are text, bytes are hexadecimal.
    Json,
    /// Comma-separated values with a header. Lists, structs and maps have no place in it.
    Csv,
    /// A Parquet file.
    Parquet,
    /// A file of Arrow record batches, as Feather and `pyarrow.ipc.open_file` read it.
    Arrow,
    /// A stream of Arrow record batches, as `pyarrow.ipc.open_stream` reads it. One that was cut off has no mark of its end.
    ArrowStream,
}

impl RowsFormat {
    /// Whether it is for programs only.
    pub fn is_binary(self) -> bool {
        matches!(self, Self::Parquet | Self::Arrow | Self::ArrowStream)
    }
}

/// The rows of a query on their way.
pub struct Answer {
    rows: SendableRecordBatchStream,
    plan: Arc<dyn ExecutionPlan>,
    from: Vec<TableVersion>,
    meter: Arc<Meter>,
    state: State,
    file: Option<FileEncoder>,
}

/// How much a query has read of its tables so far. It can be asked while the query runs.
#[derive(Clone)]
pub struct Scanned(Arc<dyn ExecutionPlan>);

impl std::fmt::Debug for Scanned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scanned").field("rows", &self.rows()).field("bytes", &self.bytes()).finish()
    }
}

impl Scanned {
    /// Rows that came out of files.
    pub fn rows(&self) -> u64 {
        sum_of_leaves(&*self.0, &|metrics| metrics.output_rows())
    }

    /// Bytes that were asked of stores.
    pub fn bytes(&self) -> u64 {
        sum_of_leaves(&*self.0, &|metrics| Some(metrics.sum_by_name("bytes_scanned")?.as_usize()))
    }
}

/// The sum of a metric over the leaves of a plan.
fn sum_of_leaves(plan: &dyn ExecutionPlan, metric: &dyn Fn(&MetricsSet) -> Option<usize>) -> u64 {
    let children = plan.children();
    if !children.is_empty() {
        return children.into_iter().map(|child| sum_of_leaves(&**child, metric)).sum();
    }
    plan.metrics().and_then(|metrics| metric(&metrics)).unwrap_or(0) as u64
}

/// Writes a file into memory, from where it is taken piece by piece.
enum FileEncoder {
    Parquet(Box<ArrowWriter<Vec<u8>>>),
    Arrow(Box<FileWriter<Vec<u8>>>),
    ArrowStream(Box<StreamWriter<Vec<u8>>>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Fresh,
    /// Something was written, and whether a row was.
    Begun {
        rows: bool,
    },
    Ended,
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answer").field("from", &self.from).field("state", &self.state).finish_non_exhaustive()
    }
}

impl Answer {
    pub(super) fn new(
        rows: SendableRecordBatchStream,
        plan: Arc<dyn ExecutionPlan>,
        from: Vec<TableVersion>,
        meter: Arc<Meter>,
    ) -> Self {
        Self { rows, plan, from, meter, state: State::Fresh, file: None }
    }

    /// The columns.
    pub fn schema(&self) -> SchemaRef {
        self.rows.schema()
    }

    /// The same answer with its rows as `wrap` makes them. Nothing of it was taken yet.
    pub(crate) fn wrapped(
        self,
        wrap: impl FnOnce(SendableRecordBatchStream) -> SendableRecordBatchStream,
    ) -> Self {
        debug_assert!(self.state == State::Fresh, "the beginning is written already");
        Self { rows: wrap(self.rows), ..self }
    }

    /// How much was read so far.
    pub fn scanned(&self) -> Scanned {
        Scanned(self.plan.clone())
    }

    /// What was read so far from which cloud, and what that costs; all of it once the last row has come.
    pub fn usage(&self) -> Usage {
        self.metered().usage()
    }

    /// The same, to be asked at any time, also when the answer is gone.
    pub fn metered(&self) -> Metered {
        Metered(self.meter.clone())
    }

    /// The tables that the query reads, with version and cloud.
    pub fn from(&self) -> &[TableVersion] {
        &self.from
    }

    /// The rows themselves, instead of text.
    pub fn into_parts(self) -> (SendableRecordBatchStream, Vec<TableVersion>) {
        (self.rows, self.from)
    }

    /// The next piece of the answer as text, `None` after the last. Pieces end with a line break and are to be
    /// written one after the other; ask for the same format each time.
    ///
    /// # Errors
    /// [`Error::Configuration`] if a column has no place in the format, otherwise whatever stops the query.
    pub async fn next_text(&mut self, format: RowsFormat) -> Result<Option<String>, Error> {
        match format {
            _ if self.state == State::Ended => Ok(None),
            RowsFormat::Table => self.table().await.map(Some),
            RowsFormat::Json => self.next_json().await.map(Some),
            RowsFormat::Csv => self.next_csv().await,
            RowsFormat::Parquet | RowsFormat::Arrow | RowsFormat::ArrowStream => {
                Err(Error::Configuration("Parquet and Arrow are no text".to_owned()))
            }
        }
    }

    /// The next piece of the answer as bytes, `None` after the last; for every format, and otherwise as
    /// [`next_text`](Self::next_text).
    ///
    /// # Errors
    /// As [`next_text`](Self::next_text).
    pub async fn next_bytes(&mut self, format: RowsFormat) -> Result<Option<Vec<u8>>, Error> {
        if !format.is_binary() {
            return Ok(self.next_text(format).await?.map(String::into_bytes));
        }
        while self.state != State::Ended {
            let mut encoder = match self.file.take() {
                Some(encoder) => encoder,
                None => FileEncoder::new(format, &self.rows).map_err(|error| unwritable(format, &error))?,
            };
            let Some(batch) = self.next_batch().await? else {
                self.state = State::Ended;
                return encoder.finish().map(Some).map_err(|error| unwritable(format, &error));
            };
            let bytes = encoder.write(&batch).map_err(|error| unwritable(format, &error))?;
            self.file = Some(encoder);
            if !bytes.is_empty() {
                return Ok(Some(bytes));
            }
        }
        Ok(None)
    }

    /// The next rows as they are, `None` after the last.
    ///
    /// # Errors
    /// Whatever stops the query.
    pub async fn next_batch(&mut self) -> Result<Option<RecordBatch>, Error> {
        self.rows.try_next().await.map_err(|error| failed(&self.from, error))
    }

    async fn table(&mut self) -> Result<String, Error> {
        self.state = State::Ended;
        let mut batches = Vec::new();
        let mut rows = 0;
        let mut more = false;
        while !more && let Some(batch) = self.next_batch().await? {
            let room = TABLE_ROWS_MAX - rows;
            more = batch.num_rows() > room;
            let kept = batch.slice(0, batch.num_rows().min(room));
            rows += kept.num_rows();
            batches.push(kept);
        }
        let table = pretty_format_batches_with_schema(self.rows.schema(), &batches);
        let table = table.map_err(|error| unprintable("a table", &error))?;
        let note = if more { "only these rows are shown: add LIMIT, or use json or csv\n" } else { "" };
        Ok(format!("{table}\n{note}"))
    }

    async fn next_json(&mut self) -> Result<String, Error> {
        let Some(batch) = self.next_batch().await? else {
            let (begun, ended) = (self.state != State::Fresh, "]\n");
            self.state = State::Ended;
            return Ok(if begun { ended.to_owned() } else { format!("[\n{ended}") });
        };
        let lines = json_lines(&batch).map_err(|error| unprintable("json", &error))?;
        let mut text = String::with_capacity(lines.len() + batch.num_rows() + 2);
        let mut rows = self.state == State::Begun { rows: true };
        if self.state == State::Fresh {
            text.push_str("[\n");
        }
        for line in lines.lines() {
            // A comma before every object but the first, so that the last one needs no looking ahead.
            text.push_str(if rows { "," } else { " " });
            text.push_str(line);
            text.push('\n');
            rows = true;
        }
        self.state = State::Begun { rows };
        Ok(text)
    }

    async fn next_csv(&mut self) -> Result<Option<String>, Error> {
        let first = self.state == State::Fresh;
        let batch = match self.next_batch().await? {
            Some(batch) => batch,
            None if first => RecordBatch::new_empty(self.rows.schema()),
            None => {
                self.state = State::Ended;
                return Ok(None);
            }
        };
        self.state = State::Begun { rows: true };
        let mut bytes = Vec::new();
        let written = CsvBuilder::new().with_header(first).build(&mut bytes).write(&batch);
        written.map_err(|error| unprintable("csv", &error))?;
        Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
    }
}

impl FileEncoder {
    fn new(format: RowsFormat, rows: &SendableRecordBatchStream) -> Result<Self, ArrowError> {
        let schema = rows.schema();
        match format {
            RowsFormat::Arrow => {
                return Ok(Self::Arrow(Box::new(FileWriter::try_new(Vec::new(), &schema)?)));
            }
            RowsFormat::ArrowStream => {
                return Ok(Self::ArrowStream(Box::new(StreamWriter::try_new(Vec::new(), &schema)?)));
            }
            _ => {}
        }
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_max_row_group_bytes(Some(ROW_GROUP_BYTES_MAX))
            .build();
        let writer = ArrowWriter::try_new(Vec::new(), schema, Some(properties))?;
        Ok(Self::Parquet(Box::new(writer)))
    }

    /// Takes rows; what of the file is ready.
    fn write(&mut self, rows: &RecordBatch) -> Result<Vec<u8>, ArrowError> {
        match self {
            Self::Parquet(writer) => {
                writer.write(rows)?;
                Ok(std::mem::take(writer.inner_mut()))
            }
            Self::Arrow(writer) => {
                writer.write(rows)?;
                Ok(std::mem::take(writer.get_mut()))
            }
            Self::ArrowStream(writer) => {
                writer.write(rows)?;
                Ok(std::mem::take(writer.get_mut()))
            }
        }
    }

    /// The rest of the file.
    fn finish(self) -> Result<Vec<u8>, ArrowError> {
        match self {
            Self::Parquet(writer) => Ok(writer.into_inner()?),
            Self::Arrow(writer) => writer.into_inner(),
            Self::ArrowStream(writer) => writer.into_inner(),
        }
    }
}

fn unwritable(format: RowsFormat, error: &ArrowError) -> Error {
    unprintable(if format == RowsFormat::Parquet { "parquet" } else { "arrow" }, error)
}

fn unprintable(format: &str, error: &ArrowError) -> Error {
    Error::Configuration(format!(
        "the rows cannot be written as {format}: {error}; leave out or cast that column"
    ))
}
