//! Data contracts: what a record must look like, how it becomes Arrow, and what is counted on the way.

pub mod counts;
pub mod decode;
pub mod error;
pub mod fields;
pub mod metadata;
pub mod records;

pub use counts::RowCounts;
pub use decode::{
    AvroDecoder, Compression, CsvDecoder, CsvFormat, DebeziumDecoder, DecodeLimits, Decoded, Decoder,
    Framing, InflateLimits, Inflating, JsonDecoder, ProtobufDecoder, ProtobufSchema, ProtobufSource,
    RawDecoder, RegisteredSchema, Reject, RejectReason, SchemaKind, SchemaReference, UnknownFields,
    WriterSchema, avro_event_problems, avro_problems, fields_of_avro, fields_of_avro_event,
    fields_of_protobuf,
};
pub use error::Error;
pub use fields::{FieldSpec, FieldType, Fields, to_arrow_schema};
pub use metadata::MetadataColumn;
pub use records::{RecordChunk, TopicPartition};
