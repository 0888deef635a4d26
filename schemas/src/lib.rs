//! Data contracts: what a record must look like, how it becomes Arrow, and what is counted on the way.

pub mod counts;
pub mod decode;
pub mod error;
pub mod fields;
pub mod metadata;
pub mod records;

pub use counts::RowCounts;
pub use decode::{
    AvroDecoder, DecodeLimits, Decoded, Decoder, Framing, JsonDecoder, RegisteredSchema, Reject,
    RejectReason, SchemaKind, SchemaReference, UnknownFields, WriterSchema, avro_problems, fields_of_avro,
};
pub use error::Error;
pub use fields::{FieldSpec, FieldType, Fields, to_arrow_schema};
pub use metadata::MetadataColumn;
pub use records::{RecordChunk, TopicPartition};
