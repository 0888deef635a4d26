//! Rows as text, a piece at a time, so that an answer of any size needs little memory.

use arrow::array::RecordBatch;
use arrow::csv::WriterBuilder as CsvBuilder;
use arrow::error::ArrowError;
use arrow::json::LineDelimitedWriter;
use arrow::json::writer::{LineDelimited, WriterBuilder as JsonBuilder};
use arrow::util::pretty::pretty_format_batches_with_schema;
use datafusion::execution::SendableRecordBatchStream;
use futures::TryStreamExt;

use super::{TableVersion, failed};
use crate::error::Error;

/// Rows of a table for people. Its columns are as wide as their widest value, so all its rows are held at once.
pub const TABLE_ROWS_MAX: usize = 10_000;

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
}

/// The rows of a query on their way.
pub struct Answer {
    rows: SendableRecordBatchStream,
    from: Vec<TableVersion>,
    state: State,
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
    pub(super) fn new(rows: SendableRecordBatchStream, from: Vec<TableVersion>) -> Self {
        Self { rows, from, state: State::Fresh }
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
        }
    }

    async fn next_batch(&mut self) -> Result<Option<RecordBatch>, Error> {
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
        let mut bytes = Vec::new();
        let mut writer: LineDelimitedWriter<_> =
            JsonBuilder::new().with_explicit_nulls(true).build::<_, LineDelimited>(&mut bytes);
        let written = writer.write(&batch).and_then(|()| writer.finish());
        written.map_err(|error| unprintable("json", &error))?;
        let lines = String::from_utf8_lossy(&bytes);
        let mut text = String::with_capacity(bytes.len() + batch.num_rows() + 2);
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

fn unprintable(format: &str, error: &ArrowError) -> Error {
    Error::Configuration(format!(
        "the rows cannot be written as {format}: {error}; leave out or cast that column"
    ))
}
