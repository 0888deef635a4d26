//! The loop over the records of a chunk, the same for every format: each record becomes one row or one reject, or is left
//! out or becomes several rows where the format says so.
//!
//! What is wrong before a format comes into it (no payload, no bytes, too many) is found here, and the traces of a
//! record that could not be read to its end are removed here. A format only reads one payload as one more row.

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::SchemaRef;

use super::columns::Columns;
use super::reject::{Fault, Parsed, RejectReason};
use super::{DecodeLimits, Decoded};
use crate::error::Error;
use crate::records::RecordChunk;

/// How much longer than its payload what a record adds to any one column may be.
///
/// Columns count their elements and bytes in `i32`. A format promises that no record adds more elements, or bytes, to
/// a column than this says, and rejects the record that would; so that a chunk can be refused before it is read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Expansion {
    /// Elements or bytes for each byte of payload.
    pub(crate) per_byte: usize,
    /// Elements or bytes beside that, for each record.
    pub(crate) per_record: usize,
}

impl Expansion {
    /// Nothing in a column is longer than the text it was read from; a record is a row even if it is empty.
    pub(crate) const NONE: Expansion = Expansion { per_byte: 1, per_record: 1 };
}

/// What a payload was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Read {
    /// One more row, which every column has.
    Row,
    /// So many more rows, at least one, which every column has.
    Rows(usize),
    /// Nothing that a row could be of, as it should be.
    Nothing,
}

/// Builds batches of one schema from the payloads of chunks.
#[derive(Debug)]
pub(crate) struct Rows {
    schema: SchemaRef,
    payload_bytes_max: usize,
    accept_empty: bool,
    /// Whether a record without a payload is nothing rather than a fault.
    leave_out_tombstones: bool,
    expansion: Expansion,
    columns: Columns,
}

impl Rows {
    /// Batches of `schema`, from payloads within `limits`.
    pub(crate) fn new(schema: SchemaRef, limits: DecodeLimits, expansion: Expansion) -> Result<Self, Error> {
        let columns = Columns::new(schema.fields())?;
        Ok(Self {
            schema,
            payload_bytes_max: limits.payload_bytes_max,
            accept_empty: false,
            leave_out_tombstones: false,
            expansion,
            columns,
        })
    }

    /// For formats in which no bytes are a value: they are read like any other payload.
    pub(crate) fn accept_empty(self) -> Self {
        Self { accept_empty: true, ..self }
    }

    /// For formats in which a record without a payload says nothing that the record before it has not said.
    pub(crate) fn leave_out_tombstones(self) -> Self {
        Self { leave_out_tombstones: true, ..self }
    }

    /// The schema of the batches.
    pub(crate) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Decodes all records of `chunk`. `read` reads one payload into every column, as one more
    /// row, or says what is wrong with it; it need not clear up then. It is called once per record that has a
    /// payload of a good size, in the order of the chunk.
    pub(crate) fn decode(
        &mut self,
        chunk: &RecordChunk,
        mut read: impl FnMut(&[u8], &mut Columns) -> Parsed<()>,
    ) -> Result<Decoded, Error> {
        self.decode_some(chunk, |payload, columns| read(payload, columns).map(|()| Read::Row))
    }

    /// The same for formats in which a payload may be nothing. What `read` has put into the columns is removed then.
    pub(crate) fn decode_some(
        &mut self,
        chunk: &RecordChunk,
        mut read: impl FnMut(&[u8], &mut Columns) -> Parsed<Read>,
    ) -> Result<Decoded, Error> {
        self.check_size(chunk)?;
        self.columns.truncate(0);
        self.columns.reserve(chunk.len());
        let mut records = Vec::with_capacity(chunk.len());
        let (mut rejects, mut left_out) = (Vec::new(), Vec::new());
        for record in 0..chunk.len() as u32 {
            let payload = chunk.payload(record as usize);
            if payload.is_none() && self.leave_out_tombstones {
                left_out.push(record);
                continue;
            }
            let payload = check_payload(payload, self.payload_bytes_max, self.accept_empty);
            match payload.and_then(|payload| read(payload, &mut self.columns)) {
                Ok(Read::Row) => records.push(record),
                Ok(Read::Rows(rows)) => records.extend(std::iter::repeat_n(record, rows)),
                Ok(Read::Nothing) => {
                    self.columns.truncate(records.len());
                    left_out.push(record);
                }
                Err(fault) => {
                    self.columns.truncate(records.len());
                    rejects.push(fault.into_reject(record));
                }
            }
        }
        let options = RecordBatchOptions::new().with_row_count(Some(records.len()));
        let batch = RecordBatch::try_new_with_options(self.schema.clone(), self.columns.finish()?, &options)?;
        Ok(Decoded { batch, records, rejects, left_out })
    }

    /// Offsets inside arrays are `i32`. Payloads above the limit add nothing: they are rejected unread.
    fn check_size(&self, chunk: &RecordChunk) -> Result<(), Error> {
        let Expansion { per_byte, per_record } = self.expansion;
        let longest = (0..chunk.len())
            .filter_map(|record| chunk.payload(record))
            .filter(|payload| payload.len() <= self.payload_bytes_max)
            .map(|payload| payload.len().saturating_mul(per_byte).saturating_add(per_record))
            .fold(chunk.len(), usize::saturating_add);
        if longest >= i32::MAX as usize {
            return Err(Error::ChunkTooLarge { records: chunk.len(), bytes: chunk.payload_bytes().len() });
        }
        Ok(())
    }
}

/// The payload, if there is one, of at most `bytes_max` bytes, and at least one unless no bytes are a value.
#[inline]
fn check_payload(payload: Option<&[u8]>, bytes_max: usize, accept_empty: bool) -> Parsed<&[u8]> {
    let Some(payload) = payload else {
        return Err(Fault::new(RejectReason::Tombstone, "no payload"));
    };
    if payload.is_empty() && !accept_empty {
        return Err(Fault::new(RejectReason::EmptyPayload, "a payload of no bytes"));
    }
    if payload.len() > bytes_max {
        let problem = format!("{} bytes, more than the limit of {bytes_max}", payload.len());
        return Err(Fault::new(RejectReason::Oversize, problem));
    }
    Ok(payload)
}
