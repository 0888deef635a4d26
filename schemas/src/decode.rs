//! Decodes the payloads of a chunk of records into one Arrow batch.
//!
//! A payload must be exactly one JSON object (RFC 8259) that fits the schema. Whatever it is instead, it becomes a
//! [`Reject`] with a reason and a message that names the field; its neighbours are not touched, and
//! [`JsonDecoder::decode`] does not fail. Each record is judged by itself: the result is the same however records are
//! cut into chunks.
//!
//! | type | JSON value |
//! |---|---|
//! | `boolean` | `true`, `false` |
//! | `int8` to `int64` | a number that is whole and in range, also as `3.0` or `3e2` |
//! | `float32`, `float64` | a number; the nearest value is taken |
//! | `decimal(p,s)` | a number, or a number in a string, that has an exact value |
//! | `string` | a string |
//! | `binary` | a string in Base64 |
//! | `date` | `"2013-01-31"` |
//! | `timestamp` | `"2013-01-31T05:00:00Z"`, any offset; UTC if it has none; cut off below a microsecond |
//! | `list<…>` | an array |
//! | `struct<…>` | an object |
//! | `map<string, …>` | an object, no key twice |
//!
//! A missing field is null, and null is refused where the field is not nullable.
//!
//! # Why not arrow-json
//! arrow-json reads a stream of values and is lenient where a contract must not be: it turns `1.5` into 1 and `"12"`
//! into 12 in an integer column, accepts `{"a":1 "b":2}`, `{,,}` and duplicate names, lets a truncated payload run on
//! into the next, and gives a whole batch up for one bad record. Its decoders for arrays are private, so nothing of
//! this can be mended without parsing every payload a second time. Reading each value once, straight into its column,
//! is strict, isolates bad records for nothing, and takes a fraction of the time (`decode_speed` in the tests).

mod columns;
mod json;
mod numbers;
mod reject;
mod temporal;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::SchemaRef;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::columns::{Context, Members};
use self::json::{Cursor, Kind};
use self::reject::{Fault, Parsed};
pub use self::reject::{Reject, RejectReason};
use crate::error::Error;
use crate::records::RecordChunk;

/// What to do with a record that has a field which the schema does not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum UnknownFields {
    /// Reject the record: a new field is a change of contract that somebody should look at.
    #[default]
    Quarantine,
    /// Leave the field out.
    Ignore,
}

/// Bounds of a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecodeLimits {
    /// Largest payload, in bytes. Larger ones are rejected unread.
    pub payload_bytes_max: usize,
    /// How deep objects and arrays may be nested, the record itself included.
    pub depth_max: usize,
}

impl Default for DecodeLimits {
    fn default() -> Self {
        Self { payload_bytes_max: 16 << 20, depth_max: 64 }
    }
}

/// What became of the records of a chunk: each is either a row or a reject.
#[derive(Debug, Clone)]
pub struct Decoded {
    /// One row per good record, in the order of the chunk, in the schema of the decoder.
    pub batch: RecordBatch,
    /// Row `r` of the batch is record `records[r]` of the chunk. Rising.
    pub records: Vec<u32>,
    /// The bad records, in the order of the chunk.
    pub rejects: Vec<Reject>,
}

/// Turns JSON payloads into batches of one schema. See the [module](self).
#[derive(Debug)]
pub struct JsonDecoder {
    schema: SchemaRef,
    limits: DecodeLimits,
    row: Members,
    context: Context,
}

impl JsonDecoder {
    /// A decoder into batches of `schema`, as [`to_arrow_schema`](crate::fields::to_arrow_schema) makes it.
    ///
    /// # Errors
    /// If the schema has a type that no spec can express.
    pub fn new(
        schema: SchemaRef,
        unknown_fields: UnknownFields,
        limits: DecodeLimits,
    ) -> Result<Self, Error> {
        let row = Members::new(schema.fields())?;
        let refuse_unknown_fields = unknown_fields == UnknownFields::Quarantine;
        Ok(Self { schema, limits, row, context: Context { refuse_unknown_fields, scratch: Vec::new() } })
    }

    /// The schema of the batches.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Decodes all records of `chunk`.
    ///
    /// # Errors
    /// Never because of what a record holds; only if the chunk is too large for one batch (2 GiB), or by a bug.
    pub fn decode(&mut self, chunk: &RecordChunk) -> Result<Decoded, Error> {
        let bytes = chunk.payload_bytes().len();
        // Offsets inside arrays are `i32`. No array gets longer than the text it was read from.
        if chunk.len().max(bytes) >= i32::MAX as usize {
            return Err(Error::ChunkTooLarge { records: chunk.len(), bytes });
        }
        self.row.truncate(0);
        self.row.reserve(chunk.len());
        let mut records = Vec::with_capacity(chunk.len());
        let mut rejects = Vec::new();
        for record in 0..chunk.len() as u32 {
            match self.decode_record(chunk.payload(record as usize)) {
                Ok(()) => records.push(record),
                Err(fault) => {
                    self.row.truncate(records.len());
                    rejects.push(fault.into_reject(record));
                }
            }
        }
        let options = RecordBatchOptions::new().with_row_count(Some(records.len()));
        let batch = RecordBatch::try_new_with_options(self.schema.clone(), self.row.finish()?, &options)?;
        Ok(Decoded { batch, records, rejects })
    }

    /// Reads one payload as one more row.
    fn decode_record(&mut self, payload: Option<&[u8]>) -> Parsed<()> {
        let text = self.check_payload(payload)?;
        let mut cursor = Cursor::new(text, self.limits.depth_max);
        cursor.skip_whitespace();
        match cursor.kind()? {
            Kind::Object => self.row.read(&mut cursor, &mut self.context)?,
            kind => {
                let problem = format!("expected one JSON object, found {}", kind.as_str());
                return Err(Fault::new(RejectReason::Undecodable, problem));
            }
        }
        cursor.end()
    }

    /// The payload as text, if it is one and not too long.
    fn check_payload<'a>(&self, payload: Option<&'a [u8]>) -> Parsed<&'a str> {
        let Some(payload) = payload else {
            return Err(Fault::new(RejectReason::Tombstone, "no payload"));
        };
        if payload.is_empty() {
            return Err(Fault::new(RejectReason::EmptyPayload, "a payload of no bytes"));
        }
        if payload.len() > self.limits.payload_bytes_max {
            let limit = self.limits.payload_bytes_max;
            let problem = format!("{} bytes, more than the limit of {limit}", payload.len());
            return Err(Fault::new(RejectReason::Oversize, problem));
        }
        std::str::from_utf8(payload).map_err(|error| {
            let problem = format!("byte {}: not UTF-8", error.valid_up_to());
            Fault::new(RejectReason::Undecodable, problem)
        })
    }
}

#[cfg(test)]
mod tests;
