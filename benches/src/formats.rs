//! The same flights in every format: what the decoder alone does per core, and the whole path from Kafka to three clouds.
//!
//! Payloads are made by libraries that isobar does not decode with. The decoder's rate is measured in this process, on
//! one thread, over chunks that are in memory; the whole path in a process of its own, as `ingest` does.

use anyhow::{Context, Result, ensure};
use apache_avro::Schema as AvroSchema;
use apache_avro::types::Value as Avro;
use apache_avro::writer::datum::GenericDatumWriter;
use arrow::compute::kernels::cast_utils::string_to_timestamp_nanos;
use isobar_schemas::decode::{
    AvroDecoder, CsvDecoder, CsvFormat, DecodeLimits, Decoder, Framing, JsonDecoder, ProtobufDecoder,
    ProtobufSchema, ProtobufSource, RegisteredSchema, SchemaKind, UnknownFields,
};
use isobar_schemas::{RecordChunk, TopicPartition};
use isobar_topologies::spec;
use prost_reflect::prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, Value as Proto};
use serde_json::{Map, Value as Json};

use crate::measure::{Measurement, Stopwatch};
use crate::{OnKafka, pipeline, pipeline_child, topic};

/// Flights that the decoder alone reads again and again, in chunks of the pipeline's size.
const DECODED: usize = 1 << 18;
const CHUNK: usize = 8192;
/// How often it reads them.
const ROUNDS: usize = 8;

/// The columns of a flight, in the order of their fields, and what they hold.
const COLUMNS: [(&str, Kind); 19] = [
    ("year", Kind::Int),
    ("month", Kind::Int),
    ("day", Kind::Int),
    ("dep_time", Kind::Int),
    ("sched_dep_time", Kind::Int),
    ("dep_delay", Kind::Int),
    ("arr_time", Kind::Int),
    ("sched_arr_time", Kind::Int),
    ("arr_delay", Kind::Int),
    ("carrier", Kind::Text),
    ("flight", Kind::Int),
    ("tailnum", Kind::Text),
    ("origin", Kind::Text),
    ("dest", Kind::Text),
    ("air_time", Kind::Int),
    ("distance", Kind::Int),
    ("hour", Kind::Int),
    ("minute", Kind::Int),
    ("time_hour", Kind::Time),
];

#[derive(Clone, Copy)]
enum Kind {
    Int,
    Text,
    Time,
}

/// How flights are encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// One JSON object.
    Json,
    /// Avro's binary encoding, without a header.
    Avro,
    /// Protobuf's binary encoding, without a header.
    Protobuf,
    /// One line of values.
    Csv,
}

impl Format {
    pub(crate) const ALL: [Format; 4] = [Format::Json, Format::Avro, Format::Protobuf, Format::Csv];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Format::Json => "json",
            Format::Avro => "avro",
            Format::Protobuf => "protobuf",
            Format::Csv => "csv",
        }
    }

    /// The name and content of the schema file that a topology of this format names.
    pub(crate) fn schema_file(self) -> Option<(&'static str, String)> {
        match self {
            Format::Json | Format::Csv => None,
            Format::Avro => Some(("flight.avsc", avro_schema())),
            Format::Protobuf => Some(("flight.proto", protobuf_schema())),
        }
    }

    /// What stands in a topology in place of `format: json`.
    pub(crate) fn lines(self) -> String {
        match self.schema_file() {
            Some((file, _)) => format!("format: {}\n    schema: ./{file}", self.name()),
            None => format!("format: {}", self.name()),
        }
    }
}

fn avro_schema() -> String {
    let field = |(name, kind): &(&str, Kind)| {
        let kind = match kind {
            Kind::Int => r#""int""#,
            Kind::Text => r#""string""#,
            Kind::Time => r#"{"type":"long","logicalType":"timestamp-micros"}"#,
        };
        format!(r#"{{"name":"{name}","type":["null",{kind}]}}"#)
    };
    let fields: Vec<String> = COLUMNS.iter().map(field).collect();
    format!(r#"{{"type":"record","name":"Flight","fields":[{}]}}"#, fields.join(","))
}

fn protobuf_schema() -> String {
    let field = |(index, (name, kind)): (usize, &(&str, Kind))| {
        let kind = match kind {
            Kind::Int => "optional sint32",
            Kind::Text => "optional string",
            Kind::Time => "google.protobuf.Timestamp",
        };
        format!("  {kind} {name} = {};\n", index + 1)
    };
    let fields: String = COLUMNS.iter().enumerate().map(field).collect();
    format!(
        "syntax = \"proto3\";\nimport \"google/protobuf/timestamp.proto\";\nmessage Flight {{\n{fields}}}\n"
    )
}

/// Makes payloads of flights.
enum Encoder {
    Json,
    Avro(Box<AvroSchema>),
    Protobuf(MessageDescriptor),
    Csv,
}

impl Encoder {
    fn new(format: Format) -> Result<Self> {
        Ok(match format {
            Format::Json => Encoder::Json,
            Format::Avro => Encoder::Avro(Box::new(AvroSchema::parse_str(&avro_schema())?)),
            Format::Protobuf => {
                let folder = tempfile::tempdir()?;
                std::fs::write(folder.path().join("flight.proto"), protobuf_schema())?;
                let files = protox::compile(["flight.proto"], [folder.path()])?;
                let pool = DescriptorPool::from_file_descriptor_set(files)?;
                Encoder::Protobuf(pool.get_message_by_name("Flight").context("the schema has the message")?)
            }
            Format::Csv => Encoder::Csv,
        })
    }

    fn encode(&self, flight: &str) -> Result<Vec<u8>> {
        if let Encoder::Json = self {
            return Ok(flight.as_bytes().to_vec());
        }
        let flight: Map<String, Json> = serde_json::from_str(flight)?;
        match self {
            Encoder::Json => Ok(Vec::new()),
            Encoder::Avro(schema) => {
                let writer = GenericDatumWriter::builder(schema).build()?;
                Ok(writer.write_value_to_vec(Avro::Record(avro_fields(&flight)?))?)
            }
            Encoder::Protobuf(message) => protobuf_message(message, &flight),
            Encoder::Csv => {
                let value = |(name, _): &(&str, Kind)| match flight.get(*name) {
                    None | Some(Json::Null) => String::new(),
                    Some(Json::String(text)) => text.clone(),
                    Some(other) => other.to_string(),
                };
                Ok(COLUMNS.iter().map(value).collect::<Vec<_>>().join(",").into_bytes())
            }
        }
    }
}

fn avro_fields(flight: &Map<String, Json>) -> Result<Vec<(String, Avro)>> {
    let value = |(name, kind): &(&str, Kind)| {
        let value = match flight.get(*name).filter(|value| !value.is_null()) {
            None => Avro::Union(0, Box::new(Avro::Null)),
            Some(value) => Avro::Union(
                1,
                Box::new(match kind {
                    Kind::Int => Avro::Int(integer(value)?),
                    Kind::Text => Avro::String(text(value)?.to_owned()),
                    Kind::Time => Avro::TimestampMicros(nanoseconds(value)? / 1000),
                }),
            ),
        };
        Ok(((*name).to_owned(), value))
    };
    COLUMNS.iter().map(value).collect()
}

fn protobuf_message(descriptor: &MessageDescriptor, flight: &Map<String, Json>) -> Result<Vec<u8>> {
    let mut message = DynamicMessage::new(descriptor.clone());
    for (name, kind) in COLUMNS {
        let Some(value) = flight.get(name).filter(|value| !value.is_null()) else { continue };
        let value = match kind {
            Kind::Int => Proto::I32(integer(value)?),
            Kind::Text => Proto::String(text(value)?.to_owned()),
            Kind::Time => {
                let field = descriptor.get_field_by_name(name).context("the message has the field")?;
                let kind = field.kind();
                let mut time = DynamicMessage::new(kind.as_message().context("a time is a message")?.clone());
                let seconds = nanoseconds(value)?.div_euclid(1_000_000_000);
                time.set_field_by_name("seconds", Proto::I64(seconds));
                Proto::Message(time)
            }
        };
        message.set_field_by_name(name, value);
    }
    Ok(message.encode_to_vec())
}

fn integer(value: &Json) -> Result<i32> {
    Ok(i32::try_from(value.as_i64().with_context(|| format!("{value} is an integer"))?)?)
}

fn text(value: &Json) -> Result<&str> {
    value.as_str().with_context(|| format!("{value} is text"))
}

fn nanoseconds(value: &Json) -> Result<i64> {
    Ok(string_to_timestamp_nanos(text(value)?)?)
}

/// Keys and payloads of all flights.
pub(crate) fn payloads(format: Format) -> Result<Vec<(String, Vec<u8>)>> {
    let encoder = Encoder::new(format)?;
    let flights = topic::flights()?.into_iter();
    flights.map(|(key, flight)| Ok((key, encoder.encode(&flight)?))).collect()
}

fn decoder(format: Format) -> Result<Box<dyn Decoder>> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("topology.yaml");
    std::fs::write(&path, pipeline::topology("localhost:9092", "flights", "384MiB", Format::Json)?)?;
    let topology = spec::load(&path).map_err(|problems| anyhow::anyhow!("{problems}"))?;
    let (schema, unknown) = (topology.sources[0].schema.clone(), UnknownFields::Quarantine);
    let limits = DecodeLimits::default();
    Ok(match format {
        Format::Json => Box::new(JsonDecoder::new(schema, unknown, limits)?),
        Format::Avro => {
            let kind = SchemaKind::Avro;
            let writer = RegisteredSchema { kind, text: avro_schema(), references: Vec::new() };
            Box::new(AvroDecoder::new(schema, unknown, limits, Framing::Plain, &[writer])?)
        }
        Format::Protobuf => {
            let source = ProtobufSource { name: "flight.proto".to_owned(), text: protobuf_schema() };
            let message = ProtobufSchema::from_sources(source, Vec::new())?.only_message()?;
            Box::new(ProtobufDecoder::new(schema, &message, unknown, limits)?)
        }
        Format::Csv => {
            Box::new(CsvDecoder::new(schema, &CsvFormat { delimiter: b',', header: None }, limits)?)
        }
    })
}

/// What the decoder alone does.
fn decode(format: Format, payloads: &[(String, Vec<u8>)]) -> Result<Measurement> {
    let mut decoder = decoder(format)?;
    let flights: Vec<&(String, Vec<u8>)> = payloads.iter().cycle().take(DECODED).collect();
    let chunk = |(index, flights): (usize, &[&(String, Vec<u8>)])| {
        let mut chunk = RecordChunk::new(TopicPartition::new("flights", 0));
        for (offset, (key, payload)) in (index * CHUNK..).zip(flights.iter().copied()) {
            chunk.push(offset as i64, None, Some(key.as_bytes()), Some(payload));
        }
        chunk
    };
    let chunks: Vec<RecordChunk> = flights.chunks(CHUNK).enumerate().map(chunk).collect();
    let bytes: usize = flights.iter().map(|(_, payload)| payload.len()).sum();
    // Once unmeasured: pages are touched and nothing may be rejected.
    for chunk in &chunks {
        let decoded = decoder.decode(chunk)?;
        ensure!(decoded.rejects.is_empty(), "{}: {:?} is rejected", format.name(), decoded.rejects.first());
    }
    let stopwatch = Stopwatch::start()?;
    for _ in 0..ROUNDS {
        for chunk in &chunks {
            std::hint::black_box(decoder.decode(chunk)?);
        }
    }
    stopwatch.stop((ROUNDS * DECODED) as u64, (ROUNDS * bytes) as u64)
}

/// Measures every format, and prints a table or JSON.
pub(crate) async fn run(setting: &OnKafka, records: u64) -> Result<()> {
    let OnKafka { brokers, memory, json } = setting;
    let mut rows = Vec::new();
    for format in Format::ALL {
        let payloads = payloads(format)?;
        let name = format!("bench_flights_{}_{records}", format.name());
        let topic = topic::fill(brokers, &name, &payloads, |topic| topic.records >= records).await?;
        let alone = decode(format, &payloads)?;
        eprintln!("{}, decoder alone: {alone}", format.name());
        let directory = tempfile::tempdir()?;
        pipeline::prepare(brokers, &topic.name, memory, directory.path(), format)?;
        let whole = pipeline_child(directory.path(), topic::FLIGHT_KEY_BYTES)?;
        topic.check(&whole)?;
        eprintln!("{}, whole path:    {whole}", format.name());
        rows.push((format, alone, whole));
    }
    if *json {
        let row = |(format, alone, whole): &(Format, Measurement, Measurement)| serde_json::json!({ "format": format.name(), "decoder": alone, "whole_path": whole });
        let report: Vec<Json> = rows.iter().map(row).collect();
        println!("{}", serde_json::to_string_pretty(&report)?);
        return Ok(());
    }
    println!(
        "| format | bytes a record | decoder alone, records/s per core | MB/s per core | whole path, records/s per core | MB/s per core | \
         resident MB |\n|---|---|---|---|---|---|---|"
    );
    for (format, alone, whole) in &rows {
        let per_core = |measured: &Measurement| measured.records as f64 / measured.core_seconds;
        println!(
            "| {} | {} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} |",
            format.name(),
            whole.bytes / whole.records,
            per_core(alone),
            alone.megabytes_per_core_second(),
            per_core(whole),
            whole.megabytes_per_core_second(),
            whole.resident_bytes_max as f64 / 1e6,
        );
    }
    Ok(())
}
