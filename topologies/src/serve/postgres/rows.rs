//! Rows on their way to a client.

use arrow::array::RecordBatch;
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use futures::TryStreamExt;

use super::encode::{encode, prepare};
use super::failure::{Failure, Trouble};
use super::wire::{Output, WRITE_BYTES};

/// The rows of an answer that were not sent yet. Dropping them ends the query.
pub(super) struct Rows {
    /// `None` after the last batch.
    stream: Option<SendableRecordBatchStream>,
    /// What an error among the rows is to the client.
    explain: fn(DataFusionError) -> Failure,
    /// Of each column, whether it is sent in binary format.
    binary: Vec<bool>,
    batch: Option<RecordBatch>,
    /// The first row of the batch that was not sent.
    next: usize,
}

/// What was sent at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sent {
    pub(super) rows: usize,
    /// Whether there are no more.
    pub(super) is_end: bool,
}

impl Rows {
    pub(super) fn new(
        stream: SendableRecordBatchStream,
        explain: fn(DataFusionError) -> Failure,
        binary: Vec<bool>,
    ) -> Self {
        Self { stream: Some(stream), explain, binary, batch: None, next: 0 }
    }

    /// Sends at most `rows_max` rows, no faster than the client reads; 0 means all.
    pub(super) async fn send(&mut self, output: &mut Output, rows_max: usize) -> Result<Sent, Trouble> {
        let rows_max = if rows_max == 0 { usize::MAX } else { rows_max };
        let mut sent = Sent { rows: 0, is_end: false };
        while sent.rows < rows_max {
            let Some(batch) = self.batch().await? else {
                sent.is_end = true;
                break;
            };
            let room = output.buffer.len() + WRITE_BYTES;
            let next =
                encode(&batch, self.next, rows_max - sent.rows, &self.binary, &mut output.buffer, room)?;
            sent.rows += next - self.next;
            self.next = next;
            if next == batch.num_rows() {
                (self.batch, self.next) = (None, 0);
            }
            output.relieve().await?;
        }
        Ok(sent)
    }

    /// A batch with rows to send.
    async fn batch(&mut self) -> Result<Option<RecordBatch>, Failure> {
        while self.batch.is_none() {
            let Some(stream) = &mut self.stream else { return Ok(None) };
            match stream.try_next().await.map_err(self.explain)? {
                Some(batch) if batch.num_rows() == 0 => (),
                Some(batch) => self.batch = Some(prepare(&batch)?),
                None => self.stream = None,
            }
        }
        Ok(self.batch.clone())
    }
}
