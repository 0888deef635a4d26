//! Decodes Protobuf: a payload is one message, in the binary format.
//!
//! | Protobuf | types |
//! |---|---|
//! | `int32`, `sint32`, `sfixed32`, `uint32`, `fixed32` | `int8` to `int64` and `decimal`, in range; `float64` |
//! | `int64`, `sint64`, `sfixed64`, `uint64`, `fixed64` | `int8` to `int64` and `decimal`, in range |
//! | `float` | `float32`, `float64` |
//! | `double` | `float64` |
//! | `bool` | `boolean` |
//! | `string`, `bytes` | `string`, which must be UTF-8; `binary` |
//! | enum | `string`: the name; `int32`, `int64`: the number |
//! | message | `struct<…>`; `binary`: its bytes |
//! | `repeated` | `list<…>` |
//! | `map` | `map<string, …>`: keys that are no strings become text |
//! | `google.protobuf.Timestamp` | `timestamp`, cut off below a microsecond |
//! | `google.protobuf.Duration` | `int64`: microseconds, cut off below |
//! | `google.protobuf.Int32Value` and the like | what they wrap, null where there is none |
//!
//! Columns and fields are matched by name, as the `.proto` file writes it. `google.protobuf.Struct`, `Value`, `ListValue`
//! and `Any` are messages like others: they may be structs, as deep as the contract goes, or `binary`. Groups are
//! stepped over and cannot be a column.
//!
//! # What is not there
//! | field | column |
//! |---|---|
//! | `repeated`, `map` | empty |
//! | `proto3` without `optional` | the default: 0, false, the empty text, the enum's first name |
//! | `proto3 optional`, any message, a member of a `oneof` | null |
//! | `proto2 optional` | the default that it declares; null if it declares none |
//! | `proto2 required` | the record is rejected, whether the contract has the field or not |
//!
//! A column that the message has no field for is null. Null is refused where the column is not nullable.
//!
//! # What is there several times, or unknown
//! Of a single value the last occurrence counts, and only that is looked at; messages merge; of the members of a `oneof`
//! the last to come is set and the others are not; of the entries of a map with one key the last counts, and stands
//! where it came. Lists may come packed or not, or both. A value on another kind of wire than its type is `wrong_type`.
//!
//! Protobuf ignores fields that the reader does not know, so that writers can go ahead. A contract is stricter by default:
//! with [`UnknownFields::Quarantine`] a record that *holds* a field which the contract has no column for is rejected,
//! whether the descriptor names it or has no such number. A field that is declared but not written does no harm, nor
//! do defaults of `proto3`, which are not written. [`UnknownFields::Ignore`] steps over both; what lies inside them is not
//! looked at.
//!
//! An enum's number that has no name is `invalid_value` in a `string` column, since writers may be ahead of the
//! descriptor, and any text that stood for it would be read as a name. In an integer column it is a number like others.
//!
//! # Speed
//! Nothing is built per record: `plan` settles once what each field number becomes, and `read` goes from the payload's
//! bytes to the buffers of Arrow, in two steps per message (find what counts; append it column by column).

mod contract;
mod descriptors;
mod plan;
mod read;
mod wire;

use arrow::datatypes::SchemaRef;
use prost_reflect::MessageDescriptor;

pub use self::contract::fields_of_protobuf;
pub use self::descriptors::{
    BRACKETS_DEPTH_MAX, ProtobufSchema, ProtobufSource, SOURCE_BYTES_MAX, SOURCES_MAX,
};
use self::plan::{MessagePlan, Path};
use self::read::{Context, GROWTH_PER_BYTE, GROWTH_PER_RECORD, Run};
use self::wire::Span;
use super::columns::Columns;
use super::reject::Parsed;
use super::rows::{Expansion, Rows};
use super::{DecodeLimits, Decoded, Decoder, UnknownFields};
use crate::error::Error;
use crate::records::RecordChunk;

/// What columns may grow by: the payload itself, and what `read` lets it grow beyond.
const EXPANSION: Expansion = Expansion { per_byte: 1 + GROWTH_PER_BYTE, per_record: 1 + GROWTH_PER_RECORD };

/// Turns messages of one type into batches of one schema. See the [module](self).
#[derive(Debug)]
pub struct ProtobufDecoder {
    rows: Rows,
    plan: MessagePlan,
    reader: Reader,
}

impl ProtobufDecoder {
    /// A decoder of payloads that are each one `message` and nothing else. A payload of no bytes is the message in
    /// which nothing is set.
    ///
    /// # Errors
    /// If a column cannot hold the field of its name, or is required and has none.
    pub fn new(
        schema: SchemaRef,
        message: &MessageDescriptor,
        unknown_fields: UnknownFields,
        limits: DecodeLimits,
    ) -> Result<Self, Error> {
        let plan = MessagePlan::new(message, schema.fields(), &Path::RECORD)?;
        let rows = Rows::new(schema, limits, EXPANSION)?.accept_empty();
        Ok(Self { rows, plan, reader: Reader::new(unknown_fields, limits) })
    }
}

impl Decoder for ProtobufDecoder {
    fn schema(&self) -> &SchemaRef {
        self.rows.schema()
    }

    fn decode(&mut self, chunk: &RecordChunk) -> Result<Decoded, Error> {
        let Self { rows, plan, reader } = self;
        rows.decode(chunk, |payload, columns| reader.read(payload, 0, plan, columns))
    }
}

/// Reads one payload.
#[derive(Debug)]
struct Reader {
    refuse_unknown_fields: bool,
    depth_max: usize,
    /// Room for what `read` finds in a message.
    runs: Vec<Run>,
}

/// As many runs stay allocated from one record to the next.
const RUNS_KEPT: usize = 16 << 10;

impl Reader {
    fn new(unknown_fields: UnknownFields, limits: DecodeLimits) -> Self {
        let refuse_unknown_fields = unknown_fields == UnknownFields::Quarantine;
        Self { refuse_unknown_fields, depth_max: limits.depth_max, runs: Vec::new() }
    }

    /// Reads the message in `payload` from byte `start` on as one more row.
    fn read(
        &mut self,
        payload: &[u8],
        start: usize,
        plan: &mut MessagePlan,
        columns: &mut Columns,
    ) -> Parsed<()> {
        self.runs.clear();
        self.runs.shrink_to(RUNS_KEPT);
        let mut context = Context {
            payload,
            runs: &mut self.runs,
            refuse_unknown_fields: self.refuse_unknown_fields,
            depth_max: self.depth_max,
            growth_left: payload.len() * GROWTH_PER_BYTE + GROWTH_PER_RECORD,
        };
        plan.read(Span { start: start as u32, end: payload.len() as u32 }, columns, &mut context)
    }
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
