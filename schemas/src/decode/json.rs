//! Decodes JSON: a payload must be exactly one object (RFC 8259) that fits the schema.
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
//! [`debezium`] reads the same object out of the envelope of a change event.
//!
//! # Why not arrow-json
//! arrow-json reads a stream of values and is lenient where a contract must not be: it turns `1.5` into 1 and `"12"`
//! into 12 in an integer column, accepts `{"a":1 "b":2}`, `{,,}` and duplicate names, lets a truncated payload run on
//! into the next, and gives a whole batch up for one bad record. Its decoders for arrays are private, so nothing of
//! this can be mended without parsing every payload a second time. Reading each value once, straight into its column,
//! is strict, isolates bad records for nothing, and takes a fraction of the time (`decode_speed` in the tests).

pub(crate) mod base64;
mod cursor;
pub mod debezium;
mod read;

use arrow::datatypes::SchemaRef;

pub(crate) use self::cursor::is_number;
use self::cursor::{Cursor, Kind};
use self::read::{Context, Members};
use super::columns::Columns;
use super::framing;
use super::reject::{Fault, Parsed, RejectReason};
use super::rows::{Expansion, Rows};
use super::{DecodeLimits, Decoded, Decoder, UnknownFields};
use crate::error::Error;
use crate::records::RecordChunk;

/// Turns JSON payloads into batches of one schema. See the [module](self).
#[derive(Debug)]
pub struct JsonDecoder {
    rows: Rows,
    reader: Reader,
    /// Whether Confluent's header stands before each object.
    is_framed: bool,
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
        let members = Members::new(schema.fields());
        let refuse_unknown_fields = unknown_fields == UnknownFields::Quarantine;
        let context = Context { refuse_unknown_fields, scratch: Vec::new() };
        let reader = Reader { members, context, depth_max: limits.depth_max };
        Ok(Self { rows: Rows::new(schema, limits, Expansion::NONE)?, reader, is_framed: false })
    }

    /// The same for payloads with Confluent's header before each object. The header must be there; which schema it
    /// names is not looked at, since the object says by itself what it holds.
    #[must_use]
    pub fn framed(self) -> Self {
        Self { is_framed: true, ..self }
    }
}

impl Decoder for JsonDecoder {
    fn schema(&self) -> &SchemaRef {
        self.rows.schema()
    }

    fn decode(&mut self, chunk: &RecordChunk) -> Result<Decoded, Error> {
        let Self { rows, reader, is_framed } = self;
        if *is_framed {
            rows.decode(chunk, |payload, columns| {
                reader.read(framing::after_confluent_header(payload)?, columns)
            })
        } else {
            rows.decode(chunk, |payload, columns| reader.read(payload, columns))
        }
    }
}

/// Reads one payload.
#[derive(Debug)]
struct Reader {
    members: Members,
    context: Context,
    depth_max: usize,
}

impl Reader {
    /// Reads one payload as one more row.
    fn read(&mut self, payload: &[u8], columns: &mut Columns) -> Parsed<()> {
        let mut cursor = Cursor::new(check_utf8(payload)?, self.depth_max);
        cursor.skip_whitespace();
        match cursor.kind()? {
            Kind::Object => self.members.read(columns, &mut cursor, &mut self.context)?,
            kind => {
                let problem = format!("expected one JSON object, found {}", kind.as_str());
                return Err(Fault::new(RejectReason::Undecodable, problem));
            }
        }
        cursor.end()
    }
}

pub(crate) fn check_utf8(payload: &[u8]) -> Parsed<&str> {
    std::str::from_utf8(payload).map_err(|error| {
        let problem = format!("byte {}: not UTF-8", error.valid_up_to());
        Fault::new(RejectReason::Undecodable, problem)
    })
}

#[cfg(test)]
mod tests;
