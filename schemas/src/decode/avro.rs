//! Decodes Avro: a payload must be exactly one record in the binary encoding (Avro 1.12), after a
//! [`framing`](super::framing) that says which schema it was written with.
//!
//! The writer's schema is resolved against the schema of the batches by the rules of the specification, section "Schema
//! Resolution": fields are matched by name, whatever their order; a field that the writer lacks is null, and a reason to
//! reject its records where null is not allowed; a field that only the writer has is stepped over or rejects its
//! records, as [`UnknownFields`] says.
//!
//! | type | Avro |
//! |---|---|
//! | `boolean` | boolean |
//! | `int8` to `int64` | int, long; a value out of range rejects its record |
//! | `int32` | also time-millis: milliseconds of the day |
//! | `int64` | also time-millis, time-micros: microseconds of the day; local-timestamp-…: microseconds since 1970-01-01 00:00 on the local clock |
//! | `float32` | float; int, long: the nearest value is taken |
//! | `float64` | double, float; int, long: the nearest value is taken |
//! | `decimal(p,s)` | decimal, int, long; what has no exact value rejects its record |
//! | `string` | string, enum, uuid (text or 16 bytes: the canonical text); bytes that are UTF-8 |
//! | `binary` | bytes, fixed, string; the bytes of a uuid (fixed), a duration, a big-decimal |
//! | `date` | date |
//! | `timestamp` | timestamp-millis, timestamp-micros; timestamp-nanos, cut off below a microsecond |
//! | `list<…>` | array |
//! | `struct<…>` | record |
//! | `map<string, …>` | map, no key twice |
//!
//! Each also from a union: null is null, a branch of another kind rejects the records that have it. A contract that says
//! `timestamp` is not given a local timestamp, which is no instant, nor a bare long, whose unit nobody knows; one
//! that says `int64` is not given a timestamp, whose unit may change with the writer.
//!
//! # Change events
//! With [`AvroDecoder::in_debezium_envelope`] a payload is an event of Debezium, and the record with the row stands in its
//! `after` or `before`: [`debezium`](super::debezium) says which events are rows. What Kafka Connect writes beside a type
//! (`connect.name` and the like) is not looked at: a long called `io.debezium.time.MicroTimestamp` is a long.
//!
//! # Hostile input
//! The size and the nesting of schemas are bounded, as are those of payloads; a record may become at most 64 times its
//! bytes and a thousand elements beside. Everything else is a [`Reject`](super::Reject).

mod canonical;
mod debezium;
mod fields;
mod input;
mod read;
mod resolve;
mod schema;

use std::collections::HashMap;

use arrow::datatypes::{Fields, SchemaRef};

pub use self::fields::{fields_of_avro, fields_of_avro_event};
use self::input::EXPANSION;
use self::resolve::Plan;
use self::schema::AvroSchema;
use super::columns::Columns;
use super::debezium::schema_in_envelope;
use super::framing::{self, CONFLUENT_HEADER_BYTES, Framing, SINGLE_OBJECT_HEADER_BYTES};
use super::registered::{self, Registered};
use super::reject::{Fault, Parsed, RejectReason};
use super::rows::{Read, Rows};
use super::{DecodeLimits, Decoded, Decoder, RegisteredSchema, SchemaKind, UnknownFields, WriterSchema};
use crate::error::Error;
use crate::records::RecordChunk;

/// Turns Avro payloads into batches of one schema. See the [module](self).
#[derive(Debug)]
pub struct AvroDecoder {
    rows: Rows,
    target: Target,
    reader: Reader,
}

impl AvroDecoder {
    /// A decoder into batches of `schema`, as [`to_arrow_schema`](crate::fields::to_arrow_schema) makes it.
    ///
    /// `writers` are the schemas that the records were written with: exactly one for [`Framing::Plain`]; any number for
    /// [`Framing::SingleObject`], which tells them apart; none for [`Framing::Confluent`], where they come from a
    /// registry.
    ///
    /// # Errors
    /// If the number of writers is wrong, one of them is not an Avro schema, or the only one cannot be read as
    /// `schema`; if `schema` has a type that no spec can express.
    pub fn new(
        schema: SchemaRef,
        unknown_fields: UnknownFields,
        limits: DecodeLimits,
        framing: Framing,
        writers: &[RegisteredSchema],
    ) -> Result<Self, Error> {
        let target = Target::rows(&schema, unknown_fields);
        let reader = Reader::new(&target, limits, framing, writers)?;
        Ok(Self { rows: Rows::new(schema, limits, EXPANSION)?, target, reader })
    }

    /// A decoder of change events of Debezium whose rows have the contract `fields`, into batches of
    /// [`schema_in_envelope`](super::debezium::schema_in_envelope). `writers` are the schemas of the events.
    ///
    /// # Errors
    /// As of [`new`](Self::new), or if a field has the name of a column that the envelope adds, or no event of the only
    /// writer can be a row.
    pub fn in_debezium_envelope(
        fields: &SchemaRef,
        unknown_fields: UnknownFields,
        limits: DecodeLimits,
        framing: Framing,
        writers: &[RegisteredSchema],
    ) -> Result<Self, Error> {
        let schema = schema_in_envelope(fields)?;
        let target = Target::events(fields, unknown_fields);
        let reader = Reader::new(&target, limits, framing, writers)?;
        let rows = Rows::new(schema, limits, EXPANSION)?.leave_out_tombstones();
        Ok(Self { rows, target, reader })
    }
}

impl Decoder for AvroDecoder {
    fn schema(&self) -> &SchemaRef {
        self.rows.schema()
    }

    fn missing_schemas(&self, chunk: &RecordChunk) -> Vec<u32> {
        match &self.reader.writers {
            Writers::Registry(registered) => registered.missing(chunk),
            Writers::Given(_) | Writers::One(_) => Vec::new(),
        }
    }

    fn learn(&mut self, id: u32, answer: WriterSchema) {
        let Writers::Registry(registered) = &mut self.reader.writers else { return };
        registered.learn(id, answer, |writer| plan(writer, &self.target));
    }

    fn decode(&mut self, chunk: &RecordChunk) -> Result<Decoded, Error> {
        let Self { rows, reader, .. } = self;
        let decoded = rows.decode_some(chunk, |payload, columns| reader.read(payload, columns))?;
        if let Writers::Registry(registered) = &mut reader.writers {
            registered.end_chunk()?;
        }
        Ok(decoded)
    }
}

/// What records have to become.
#[derive(Debug)]
struct Target {
    /// The fields of a row.
    fields: Fields,
    unknown_fields: UnknownFields,
    /// Whether rows stand in events of Debezium.
    in_envelope: bool,
}

impl Target {
    fn rows(schema: &SchemaRef, unknown_fields: UnknownFields) -> Self {
        Self { fields: schema.fields().clone(), unknown_fields, in_envelope: false }
    }

    fn events(fields: &SchemaRef, unknown_fields: UnknownFields) -> Self {
        Self { in_envelope: true, ..Self::rows(fields, unknown_fields) }
    }

    /// How to read the records of `writer` as this.
    fn plan(&self, writer: AvroSchema) -> Result<Plan, resolve::Problems> {
        match self.in_envelope {
            true => Plan::of_events(writer, &self.fields, self.unknown_fields),
            false => Plan::new(writer, &self.fields, self.unknown_fields),
        }
    }

    /// The same, where a writer of which nothing is a row is no use.
    fn plan_of_rows(&self, writer: AvroSchema) -> Result<Plan, Vec<String>> {
        let plan = self
            .plan(writer)
            .map_err(|problems| problems.into_iter().map(|fault| fault.into_message()).collect::<Vec<_>>())?;
        if plan.has_rows() { Ok(plan) } else { Err(vec![NO_ROWS.to_owned()]) }
    }
}

/// What is wrong with a schema whose events are all left out or rejected.
const NO_ROWS: &str =
    "no event of it is a row: it has no `after`, as heartbeats, boundaries of transactions and messages";

/// How to read the records of a schema, or why they are rejected.
type Writer = registered::Writer<Plan>;

/// Reads one payload.
#[derive(Debug)]
struct Reader {
    writers: Writers,
    depth_max: usize,
}

/// The schemas that records were written with.
#[derive(Debug)]
enum Writers {
    /// By their ids in a registry.
    Registry(Registered<Plan>),
    /// By their fingerprints.
    Given(HashMap<u64, Writer>),
    One(Plan),
}

impl Reader {
    fn new(
        target: &Target,
        limits: DecodeLimits,
        framing: Framing,
        writers: &[RegisteredSchema],
    ) -> Result<Self, Error> {
        let writers = match (framing, writers) {
            (Framing::Confluent, []) => Writers::Registry(Registered::default()),
            (Framing::Plain, [writer]) => Writers::One(one_plan(writer, target)?),
            (Framing::SingleObject, [_, ..]) => Writers::Given(by_fingerprint(writers, target)?),
            (framing, writers) => {
                let wanted = match framing {
                    Framing::Confluent => "none: they come from the registry",
                    Framing::Plain => "exactly one",
                    Framing::SingleObject => "one or more",
                };
                return Err(writer_schema(format!("{} are given, but wanted is {wanted}", writers.len())));
            }
        };
        Ok(Self { writers, depth_max: limits.depth_max })
    }

    /// Reads one payload as one more row, if it is one.
    #[inline]
    fn read(&mut self, payload: &[u8], columns: &mut Columns) -> Parsed<Read> {
        let (plan, start) = match &mut self.writers {
            Writers::Registry(registered) => {
                (&*registered.writer(framing::confluent_id(payload)?)?, CONFLUENT_HEADER_BYTES)
            }
            Writers::Given(writers) => {
                let fingerprint = framing::single_object_fingerprint(payload)?;
                let writer = writers.get(&fingerprint).ok_or_else(|| not_given(fingerprint))?;
                (writer.as_ref().map_err(Box::clone)?, SINGLE_OBJECT_HEADER_BYTES)
            }
            Writers::One(plan) => (&*plan, 0),
        };
        plan.read(payload, start, self.depth_max, columns)
    }
}

#[cold]
fn not_given(fingerprint: u64) -> Box<Fault> {
    let problem = format!("none of the given schemas has the fingerprint {fingerprint:016x}");
    Fault::new(RejectReason::UnknownSchema, problem)
}

fn writer_schema(problem: String) -> Error {
    Error::WriterSchema { problem }
}

fn parse(writer: &RegisteredSchema) -> Result<AvroSchema, String> {
    match writer.kind {
        SchemaKind::Avro => AvroSchema::parse(&writer.text, &writer.references),
        kind => Err(format!("it is {kind}, not Avro")),
    }
}

/// How to read the records of `writer`, or the first thing that stands in the way.
fn plan(writer: &RegisteredSchema, target: &Target) -> Writer {
    let parsed = parse(writer).map_err(|problem| {
        Fault::new(RejectReason::IncompatibleSchema, format!("the writer's schema cannot be used: {problem}"))
    })?;
    first_problem(target.plan(parsed))
}

fn first_problem(plan: Result<Plan, resolve::Problems>) -> Writer {
    plan.map_err(|problems| {
        let first = problems.into_iter().next();
        first.unwrap_or_else(|| Fault::new(RejectReason::IncompatibleSchema, "it cannot be read"))
    })
}

/// The plan for the only schema that records have.
fn one_plan(writer: &RegisteredSchema, target: &Target) -> Result<Plan, Error> {
    let parsed = parse(writer).map_err(writer_schema)?;
    target.plan_of_rows(parsed).map_err(|problems| writer_schema(problems.join("; ")))
}

/// The plans for `writers`, by their fingerprints. A fingerprint does not tell logical types apart, so none may be
/// that of two schemas.
fn by_fingerprint(writers: &[RegisteredSchema], target: &Target) -> Result<HashMap<u64, Writer>, Error> {
    let mut plans = HashMap::new();
    for writer in writers {
        let parsed = parse(writer).map_err(writer_schema)?;
        let fingerprint = canonical::fingerprint(&parsed);
        let plan = first_problem(target.plan(parsed));
        if plans.insert(fingerprint, plan).is_some() {
            let problem =
                format!("two of those given have the fingerprint {fingerprint:016x}, leave one out");
            return Err(writer_schema(problem));
        }
    }
    Ok(plans)
}

/// Everything that keeps records written with `writer` from becoming rows of `schema`, in words; empty if nothing does.
/// A branch of a union that cannot be read is not among it, as long as another can: it rejects only records that have it.
pub fn avro_problems(
    writer: &RegisteredSchema,
    schema: &SchemaRef,
    unknown_fields: UnknownFields,
) -> Vec<String> {
    problems(writer, &Target::rows(schema, unknown_fields))
}

/// The same for change events of Debezium, whose rows have the contract `fields`.
pub fn avro_event_problems(
    writer: &RegisteredSchema,
    fields: &SchemaRef,
    unknown_fields: UnknownFields,
) -> Vec<String> {
    problems(writer, &Target::events(fields, unknown_fields))
}

fn problems(writer: &RegisteredSchema, target: &Target) -> Vec<String> {
    match parse(writer) {
        Err(problem) => vec![format!("the writer's schema cannot be used: {problem}")],
        Ok(parsed) => target.plan_of_rows(parsed).err().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests;
