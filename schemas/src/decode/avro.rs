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
//! # Hostile input
//! The size and the nesting of schemas are bounded, as are those of payloads; a record may become at most 64 times its
//! bytes and a thousand elements beside. Everything else is a [`Reject`](super::Reject).

mod canonical;
mod fields;
mod input;
mod read;
mod resolve;
mod schema;

use std::collections::HashMap;

use arrow::datatypes::SchemaRef;

pub use self::fields::fields_of_avro;
use self::input::EXPANSION;
use self::resolve::Plan;
use self::schema::AvroSchema;
use super::columns::Columns;
use super::framing::{self, CONFLUENT_HEADER_BYTES, Framing, SINGLE_OBJECT_HEADER_BYTES};
use super::registered::{self, Registered};
use super::reject::{Fault, Parsed, RejectReason};
use super::rows::Rows;
use super::{DecodeLimits, Decoded, Decoder, RegisteredSchema, SchemaKind, UnknownFields, WriterSchema};
use crate::error::Error;
use crate::records::RecordChunk;

/// Turns Avro payloads into batches of one schema. See the [module](self).
#[derive(Debug)]
pub struct AvroDecoder {
    rows: Rows,
    unknown_fields: UnknownFields,
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
        let writers = match (framing, writers) {
            (Framing::Confluent, []) => Writers::Registry(Registered::default()),
            (Framing::Plain, [writer]) => Writers::One(one_plan(writer, &schema, unknown_fields)?),
            (Framing::SingleObject, [_, ..]) => {
                Writers::Given(by_fingerprint(writers, &schema, unknown_fields)?)
            }
            (framing, writers) => {
                let wanted = match framing {
                    Framing::Confluent => "none: they come from the registry",
                    Framing::Plain => "exactly one",
                    Framing::SingleObject => "one or more",
                };
                return Err(writer_schema(format!("{} are given, but wanted is {wanted}", writers.len())));
            }
        };
        let reader = Reader { writers, depth_max: limits.depth_max };
        Ok(Self { rows: Rows::new(schema, limits, EXPANSION)?, unknown_fields, reader })
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
        let (schema, unknown_fields) = (self.rows.schema(), self.unknown_fields);
        registered.learn(id, answer, |writer| plan(writer, schema, unknown_fields));
    }

    fn decode(&mut self, chunk: &RecordChunk) -> Result<Decoded, Error> {
        let Self { rows, reader, .. } = self;
        let decoded = rows.decode(chunk, |payload, columns| reader.read(payload, columns))?;
        if let Writers::Registry(registered) = &mut reader.writers {
            registered.end_chunk()?;
        }
        Ok(decoded)
    }
}

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
    /// Reads one payload as one more row.
    #[inline]
    fn read(&mut self, payload: &[u8], columns: &mut Columns) -> Parsed<()> {
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
fn plan(writer: &RegisteredSchema, schema: &SchemaRef, unknown_fields: UnknownFields) -> Writer {
    let parsed = parse(writer).map_err(|problem| {
        Fault::new(RejectReason::IncompatibleSchema, format!("the writer's schema cannot be used: {problem}"))
    })?;
    first_problem(Plan::new(parsed, schema.fields(), unknown_fields))
}

fn first_problem(plan: Result<Plan, resolve::Problems>) -> Writer {
    plan.map_err(|problems| {
        let first = problems.into_iter().next();
        first.unwrap_or_else(|| Fault::new(RejectReason::IncompatibleSchema, "it cannot be read"))
    })
}

/// The plan for the only schema that records have.
fn one_plan(
    writer: &RegisteredSchema,
    schema: &SchemaRef,
    unknown_fields: UnknownFields,
) -> Result<Plan, Error> {
    let parsed = parse(writer).map_err(writer_schema)?;
    Plan::new(parsed, schema.fields(), unknown_fields).map_err(|problems| {
        let problems: Vec<_> = problems.into_iter().map(|fault| fault.into_message()).collect();
        writer_schema(problems.join("; "))
    })
}

/// The plans for `writers`, by their fingerprints. A fingerprint does not tell logical types apart, so none may be
/// that of two schemas.
fn by_fingerprint(
    writers: &[RegisteredSchema],
    schema: &SchemaRef,
    unknown_fields: UnknownFields,
) -> Result<HashMap<u64, Writer>, Error> {
    let mut plans = HashMap::new();
    for writer in writers {
        let parsed = parse(writer).map_err(writer_schema)?;
        let fingerprint = canonical::fingerprint(&parsed);
        let plan = first_problem(Plan::new(parsed, schema.fields(), unknown_fields));
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
    match parse(writer) {
        Err(problem) => vec![format!("the writer's schema cannot be used: {problem}")],
        Ok(parsed) => match Plan::new(parsed, schema.fields(), unknown_fields) {
            Ok(_) => Vec::new(),
            Err(problems) => problems.into_iter().map(|fault| fault.into_message()).collect(),
        },
    }
}

#[cfg(test)]
mod tests;
