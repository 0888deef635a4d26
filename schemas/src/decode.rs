//! Decodes the payloads of a chunk of records into one Arrow batch.
//!
//! A [`Decoder`] knows one format and one schema. Whatever a payload holds that does not fit, it becomes a [`Reject`]
//! with a reason and a message that names the field; its neighbours are not touched, and decoding does not fail.
//!
//! | format | decoder | |
//! |---|---|---|
//! | JSON | [`JsonDecoder`] | [`json`] says which value makes which type |
//! | JSON in Debezium's envelope | [`DebeziumDecoder`] | [`debezium`] says which events make rows |
//! | Avro, also in that envelope | [`AvroDecoder`] | [`avro`] says which value makes which type |
//! | Protobuf | [`ProtobufDecoder`] | [`protobuf`] |
//! | CSV | [`CsvDecoder`] | [`csv`] |
//! | none | [`RawDecoder`] | [`raw`]: the payload is the value |
//!
//! [`Inflating`] stands in front of any of them where producers compress payloads themselves: [`inflate`].

pub mod avro;
mod columns;
pub mod csv;
pub mod debezium;
pub mod framing;
pub mod inflate;
pub mod json;
mod numbers;
pub mod protobuf;
pub mod raw;
mod registered;
mod reject;
mod rows;
mod temporal;
#[cfg(test)]
mod testing;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
pub use prost_reflect::MessageDescriptor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::avro::{AvroDecoder, avro_event_problems, avro_problems, fields_of_avro, fields_of_avro_event};
pub use self::csv::{CsvDecoder, CsvFormat};
pub use self::framing::Framing;
pub use self::inflate::{Compression, InflateLimits, Inflating};
pub use self::json::debezium::DebeziumDecoder;
pub use self::json::{JsonDecoder, PayloadRows};
pub use self::protobuf::{ProtobufDecoder, ProtobufSchema, ProtobufSource, fields_of_protobuf};
pub use self::raw::RawDecoder;
pub use self::registered::{RegisteredSchema, SchemaKind, SchemaReference, WriterSchema};
pub use self::reject::{Reject, RejectReason};
use crate::error::Error;
use crate::records::RecordChunk;

/// Turns the payloads of chunks into batches of one schema.
///
/// Every record becomes exactly one row or exactly one reject, unless the format says that it holds no row, which is no
/// fault either ([`Decoded::left_out`]), or several, which are there all or not at all ([`PayloadRows`]). It is judged by itself, by its payload, the schema and
/// what the registry says of the schema it names: the result does not depend on its neighbours, nor on how records
/// are cut into chunks. [`decode`](Self::decode) never fails because of what a record holds.
///
/// # Schemas in a registry
/// Records of some formats name the schema they were written with by an id. A decoder does no I/O; its caller asks:
///
/// ```text
/// for id in decoder.missing_schemas(&chunk) { decoder.learn(id, ask_registry(id)?) }
/// decoder.decode(&chunk)?
/// ```
///
/// An id means the same for ever, so it is asked for once, also if the answer is that there is none. A registry that
/// gives no answer is no answer: the caller waits. A schema that cannot be used (unknown, malformed, of another kind,
/// incompatible with the schema of the decoder) is no error either: it rejects each record that names it.
pub trait Decoder: std::fmt::Debug + Send {
    /// The schema of the batches.
    fn schema(&self) -> &SchemaRef;

    /// Ids of the writers' schemas that records of `chunk` name and that this decoder has not been told of, each
    /// once, rising. The caller asks the registry and tells the answers with [`learn`](Self::learn).
    fn missing_schemas(&self, chunk: &RecordChunk) -> Vec<u32> {
        let _ = chunk;
        Vec::new()
    }

    /// Takes note of what the registry has under `id`.
    fn learn(&mut self, id: u32, answer: WriterSchema) {
        let _ = (id, answer);
    }

    /// Decodes all records of `chunk`.
    ///
    /// # Errors
    /// Only by a bug: the chunk is too large for one batch (2 GiB), or names a schema that was not learned.
    fn decode(&mut self, chunk: &RecordChunk) -> Result<Decoded, Error>;
}

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

/// What became of the records of a chunk: each is a row, a reject, or left out, and only one of them.
#[derive(Debug, Clone)]
pub struct Decoded {
    /// One row per good record, or several, in the order of the chunk, in the schema of the decoder.
    pub batch: RecordBatch,
    /// Row `r` of the batch is of record `records[r]` of the chunk. Rising, or equal for several rows of one record.
    pub records: Vec<u32>,
    /// The bad records, in the order of the chunk.
    pub rejects: Vec<Reject>,
    /// The records that hold no row by the rules of their format, such as the tombstone after a delete. Rising. They are
    /// counted as filtered.
    pub left_out: Vec<u32>,
}
