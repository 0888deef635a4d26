//! Decodes JSON: a payload must be exactly one object (RFC 8259) that fits the schema, or several where [`PayloadRows`]
//! says so.
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

//! # Several objects in a payload
//! A record is accepted or rejected as a whole: what is wrong with one of its objects rejects all of them. The payload is
//! what goes to quarantine, and a part of it would land twice when it is redriven. How many rows a payload may hold is
//! bounded by its length, so that objects of nothing cannot fill the memory.

pub(crate) mod base64;
mod cursor;
pub mod debezium;
mod read;

use arrow::datatypes::SchemaRef;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub(crate) use self::cursor::is_number;
use self::cursor::{Cursor, Kind};
use self::read::{Context, Members};
use super::columns::Columns;
use super::framing;
use super::reject::{Fault, Parsed, RejectReason};
use super::rows::{Expansion, Read, Rows};
use super::{DecodeLimits, Decoded, Decoder, UnknownFields};
use crate::error::Error;
use crate::records::RecordChunk;

/// How many objects a payload holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum PayloadRows {
    /// One.
    #[default]
    One,
    /// One in each line that is not blank: NDJSON, JSON Lines.
    Lines,
    /// Those of the one array that it is.
    Array,
}

/// Rows that any payload may hold, and bytes of it for each further one. Objects with a field have more.
const ROWS_MAX: (usize, usize) = (16, 8);

/// Turns JSON payloads into batches of one schema. See the [module](self).
#[derive(Debug)]
pub struct JsonDecoder {
    rows: Rows,
    reader: Reader,
    payload_rows: PayloadRows,
    /// Whether Confluent's header stands before each payload.
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
        let rows = Rows::new(schema, limits, Expansion::NONE)?;
        Ok(Self { rows, reader, payload_rows: PayloadRows::One, is_framed: false })
    }

    /// The same for payloads that hold several objects.
    #[must_use]
    pub fn rows_in_payload(self, payload_rows: PayloadRows) -> Self {
        Self { payload_rows, ..self }
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
        let Self { rows, reader, payload_rows, is_framed } = self;
        let is_framed = *is_framed;
        match *payload_rows {
            PayloadRows::One => {
                rows.decode(chunk, |record, columns| reader.read(payload_of(record, is_framed)?, columns))
            }
            PayloadRows::Lines => rows.decode_some(chunk, |record, columns| {
                reader.read_lines(payload_of(record, is_framed)?, columns)
            }),
            PayloadRows::Array => rows.decode_some(chunk, |record, columns| {
                reader.read_array(payload_of(record, is_framed)?, columns)
            }),
        }
    }
}

/// The payload of a record, without Confluent's header where there is one.
#[inline]
fn payload_of(record: &[u8], is_framed: bool) -> Parsed<&[u8]> {
    if is_framed { framing::after_confluent_header(record) } else { Ok(record) }
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
        self.read_only_object(check_utf8(payload)?, columns)
    }

    /// Reads each line of a payload as one more row.
    fn read_lines(&mut self, payload: &[u8], columns: &mut Columns) -> Parsed<Read> {
        let mut rows = 0;
        for (index, line) in check_utf8(payload)?.lines().enumerate() {
            if line.trim_ascii().is_empty() {
                continue;
            }
            let read = self.read_only_object(line, columns);
            read.map_err(|fault| fault.noted(&format!("line {}", index + 1)))?;
            rows += 1;
            check_rows(rows, payload)?;
        }
        Ok(if rows == 0 { Read::Nothing } else { Read::Rows(rows) })
    }

    /// Reads each element of the array that a payload is as one more row.
    fn read_array(&mut self, payload: &[u8], columns: &mut Columns) -> Parsed<Read> {
        let mut cursor = Cursor::new(check_utf8(payload)?, self.depth_max);
        cursor.skip_whitespace();
        let kind = cursor.kind()?;
        if kind != Kind::Array {
            let problem = format!("expected an array of JSON objects, found {}", kind.as_str());
            return Err(Fault::new(RejectReason::Undecodable, problem));
        }
        cursor.enter()?;
        cursor.skip_whitespace();
        let mut rows = 0;
        let mut more = !cursor.take(b']');
        while more {
            rows += 1;
            let read = self.read_object(&mut cursor, columns);
            read.map_err(|fault| fault.noted(&format!("object {rows} of the array")))?;
            check_rows(rows, payload)?;
            more = cursor.next_item(b']')?;
        }
        cursor.leave();
        cursor.end()?;
        Ok(if rows == 0 { Read::Nothing } else { Read::Rows(rows) })
    }

    /// Reads `text`, which must be one object, as one more row.
    fn read_only_object(&mut self, text: &str, columns: &mut Columns) -> Parsed<()> {
        let mut cursor = Cursor::new(text, self.depth_max);
        cursor.skip_whitespace();
        self.read_object(&mut cursor, columns)?;
        cursor.end()
    }

    /// Reads the object that starts here as one more row.
    #[inline]
    fn read_object(&mut self, cursor: &mut Cursor<'_>, columns: &mut Columns) -> Parsed<()> {
        match cursor.kind()? {
            Kind::Object => self.members.read(columns, cursor, &mut self.context),
            kind => {
                let problem = format!("expected one JSON object, found {}", kind.as_str());
                Err(Fault::new(RejectReason::Undecodable, problem))
            }
        }
    }
}

/// Whether a payload may hold so many rows.
fn check_rows(rows: usize, payload: &[u8]) -> Parsed<()> {
    let (few, bytes_each) = ROWS_MAX;
    if rows <= few + payload.len() / bytes_each {
        return Ok(());
    }
    let problem = format!("more rows than one for every {bytes_each} bytes, in {} bytes", payload.len());
    Err(Fault::new(RejectReason::Oversize, problem))
}

pub(crate) fn check_utf8(payload: &[u8]) -> Parsed<&str> {
    std::str::from_utf8(payload).map_err(|error| {
        let problem = format!("byte {}: not UTF-8", error.valid_up_to());
        Fault::new(RejectReason::Undecodable, problem)
    })
}

#[cfg(test)]
mod tests;
