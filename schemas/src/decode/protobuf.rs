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
//! | `google.type.Date` | `date`; one without its year, month or day is no date |
//! | `google.type.TimeOfDay` | `int64`: microseconds of the day, cut off below |
//! | `confluent.type.Decimal` | `decimal(p,s)`; what has no exact value rejects its record |
//!
//! Columns and fields are matched by name, as the `.proto` file writes it. `google.protobuf.Struct`, `Value`, `ListValue`
//! and `Any` and all others of `google.type` are messages like others: they may be structs, as deep as the contract goes, or
//! `binary`, as also those above may. Groups are stepped over and cannot be a column.
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
//! # Schemas in a registry
//! With [`ProtobufDecoder::with_registry`] a payload starts with Confluent's header and the message's index in the schema
//! (`index`). Every schema and message is held against the contract by itself: fields are matched by name, so records
//! written with several versions of a schema become rows of one batch. A message that the contract cannot take is
//! `incompatible_schema`.
//!
//! # Speed
//! Nothing is built per record: `plan` settles once what each field number becomes, and `read` goes from the payload's
//! bytes to the buffers of Arrow, in two steps per message (find what counts; append it column by column).

mod contract;
mod descriptors;
mod index;
mod known;
mod plan;
mod read;
mod wire;

use std::collections::HashMap;

use arrow::datatypes::{Fields, SchemaRef};
use prost_reflect::MessageDescriptor;

pub use self::contract::fields_of_protobuf;
pub use self::descriptors::{
    BRACKETS_DEPTH_MAX, ProtobufSchema, ProtobufSource, SOURCE_BYTES_MAX, SOURCES_MAX,
};
use self::index::MessageIndex;
use self::plan::{MessagePlan, Path};
use self::read::{Context, GROWTH_PER_BYTE, GROWTH_PER_RECORD, Run};
use self::wire::Span;
use super::columns::Columns;
use super::framing::{self, CONFLUENT_HEADER_BYTES};
use super::registered::{Registered, Writer};
use super::reject::{Fault, Parsed, RejectReason};
use super::rows::{Expansion, Rows};
use super::{DecodeLimits, Decoded, Decoder, RegisteredSchema, UnknownFields, WriterSchema};
use crate::error::Error;
use crate::records::RecordChunk;

/// What columns may grow by: the payload itself, and what `read` lets it grow beyond.
const EXPANSION: Expansion = Expansion { per_byte: 1 + GROWTH_PER_BYTE, per_record: 1 + GROWTH_PER_RECORD };

/// Turns messages into batches of one schema. See the [module](self).
#[derive(Debug)]
pub struct ProtobufDecoder {
    rows: Rows,
    writers: Writers,
    reader: Reader,
}

/// The messages that payloads are.
#[derive(Debug)]
enum Writers {
    One(Box<MessagePlan>),
    /// By the ids of their schemas in a registry.
    Registry {
        schemas: Registered<Messages>,
        /// The full name of the only message that is wanted.
        wanted: Option<String>,
    },
}

/// The messages of one schema of a registry, as far as records have named them.
#[derive(Debug)]
struct Messages {
    schema: ProtobufSchema,
    plans: HashMap<MessageIndex, Writer<MessagePlan>>,
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
        let writers = Writers::One(Box::new(plan));
        Ok(Self { rows, writers, reader: Reader::new(unknown_fields, limits) })
    }

    /// A decoder of payloads that name their schema in a registry and their message in that schema, as Confluent's
    /// serializers write it. If `message` is given, the full name of a message, all others are rejected.
    ///
    /// # Errors
    /// If the schema has a type that no spec can express.
    pub fn with_registry(
        schema: SchemaRef,
        message: Option<&str>,
        unknown_fields: UnknownFields,
        limits: DecodeLimits,
    ) -> Result<Self, Error> {
        let rows = Rows::new(schema, limits, EXPANSION)?;
        let wanted = message.map(str::to_owned);
        let writers = Writers::Registry { schemas: Registered::default(), wanted };
        Ok(Self { rows, writers, reader: Reader::new(unknown_fields, limits) })
    }
}

impl Decoder for ProtobufDecoder {
    fn schema(&self) -> &SchemaRef {
        self.rows.schema()
    }

    fn missing_schemas(&self, chunk: &RecordChunk) -> Vec<u32> {
        match &self.writers {
            Writers::One(_) => Vec::new(),
            Writers::Registry { schemas, .. } => schemas.missing(chunk),
        }
    }

    fn learn(&mut self, id: u32, answer: WriterSchema) {
        if let Writers::Registry { schemas, .. } = &mut self.writers {
            schemas.learn(id, answer, Messages::new);
        }
    }

    fn decode(&mut self, chunk: &RecordChunk) -> Result<Decoded, Error> {
        let Self { rows, writers, reader } = self;
        match writers {
            Writers::One(plan) => {
                rows.decode(chunk, |payload, columns| reader.read(payload, 0, plan, columns))
            }
            Writers::Registry { schemas, wanted } => {
                let fields = rows.schema().fields().clone();
                let decoded = rows.decode(chunk, |payload, columns| {
                    let messages = schemas.writer(framing::confluent_id(payload)?)?;
                    let (index, start) = index::read(payload, CONFLUENT_HEADER_BYTES)?;
                    let plan = messages.plan(index, wanted.as_deref(), &fields)?;
                    reader.read(payload, start, plan, columns)
                })?;
                schemas.end_chunk()?;
                Ok(decoded)
            }
        }
    }
}

impl Messages {
    fn new(schema: &RegisteredSchema) -> Writer<Self> {
        match ProtobufSchema::from_registered(schema) {
            Ok(schema) => Ok(Self { schema, plans: HashMap::new() }),
            Err(error) => Err(incompatible(error.to_string())),
        }
    }

    /// How to read the message at `index`. Only those that there are get an entry, so that payloads cannot fill the
    /// memory with others.
    fn plan(
        &mut self,
        index: MessageIndex,
        wanted: Option<&str>,
        fields: &Fields,
    ) -> Parsed<&mut MessagePlan> {
        if !self.plans.contains_key(&index) {
            let Some(message) = self.schema.message_at(&index) else {
                let problem = format!("the schema has no message with the index {index:?}");
                return Err(Fault::new(RejectReason::Undecodable, problem));
            };
            self.plans.insert(index.clone(), plan(&message, wanted, fields));
        }
        match self.plans.get_mut(&index) {
            Some(Ok(plan)) => Ok(plan),
            Some(Err(fault)) => Err(fault.clone()),
            None => Err(incompatible("the message has no plan".to_owned())),
        }
    }
}

/// How to read `message`, if it is the one that is wanted.
fn plan(message: &MessageDescriptor, wanted: Option<&str>, fields: &Fields) -> Writer<MessagePlan> {
    if let Some(wanted) = wanted.filter(|wanted| *wanted != message.full_name()) {
        return Err(incompatible(format!("the record is a `{}`, not a `{wanted}`", message.full_name())));
    }
    MessagePlan::new(message, fields, &Path::RECORD).map_err(|error| incompatible(error.to_string()))
}

#[cold]
fn incompatible(problem: String) -> Box<Fault> {
    Fault::new(RejectReason::IncompatibleSchema, problem)
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
