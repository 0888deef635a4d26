//! What can go wrong with a data contract. Bad records are not among it: they are values
//! ([`Reject`](crate::decode::Reject)), because a bad record must never stop a pipeline.

use arrow::datatypes::DataType;
use arrow::error::ArrowError;

use crate::fields::InvalidType;

/// An error of this crate. Each variant says who can mend it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Fix the configuration: the type of a field is not one isobar knows.
    #[error("field `{field}`: {source}")]
    InvalidType {
        /// The field's name.
        field: String,
        /// What was written, what is wrong with it and what may have been meant.
        source: InvalidType,
    },
    /// Fix the configuration: a field cannot have this name.
    #[error("field `{field}`: {problem}")]
    InvalidName {
        /// The field's name.
        field: String,
        /// Why not, and the way out.
        problem: &'static str,
    },
    /// Fix the configuration: a source needs at least one field.
    #[error("no fields: name at least one field and its type, such as `year: int32`")]
    NoFields,
    /// Fix the configuration: the format cannot fill this field.
    #[error("field `{field}`: format {format}: {problem}")]
    InvalidForFormat {
        /// The field's name.
        field: String,
        /// The format, as a spec calls it.
        format: &'static str,
        /// Why not, and the way out.
        problem: String,
    },
    /// Fix the configuration: a payload as it is makes one field.
    #[error("format raw: {fields} fields, but a payload is exactly one field, of the type binary or string")]
    NotOneField {
        /// How many fields there are.
        fields: usize,
    },
    /// Fix the configuration: these bytes cannot stand between two fields.
    #[error(
        "format csv: the delimiter `{delimiter}` must be one ASCII character, neither a quote nor a line break"
    )]
    CsvDelimiter {
        /// The delimiter.
        delimiter: String,
    },
    /// Fix the configuration: the message cannot fill this field.
    #[error("field `{field}`: {problem}")]
    ProtobufField {
        /// The field, from the record down.
        field: String,
        /// Why not, and the way out.
        problem: String,
    },
    /// Report a bug: the library for a compressed format cannot be set up.
    #[error("set up a decoder of compressed payloads")]
    Inflate(#[source] std::io::Error),
    /// Fix the configuration: the schema that records are written with is missing, malformed or does not fit.
    #[error("the writer's schema: {problem}")]
    WriterSchema {
        /// What is wrong with it.
        problem: String,
    },
    /// Report a bug: whoever decodes must ask the registry for the schemas that a chunk names first.
    #[error("schema {id} of the registry was not looked up before its records were decoded")]
    SchemaNotLearned {
        /// The schema's id.
        id: u32,
    },
    /// Report a bug: a schema that no spec can express reached the decoder.
    #[error("field `{field}`: no field can be of the type {data_type}")]
    UnsupportedType {
        /// The field's name.
        field: String,
        /// Its Arrow type.
        data_type: DataType,
    },
    /// Report a bug: whoever builds chunks must bound them far below this.
    #[error("a chunk of {records} records and {bytes} payload bytes is more than one batch can hold")]
    ChunkTooLarge {
        /// Records in the chunk.
        records: usize,
        /// Bytes of payload in the chunk.
        bytes: usize,
    },
    /// Report a bug: a chunk does not keep the headers of its records, or those of one of them could not be read.
    #[error("the headers of records are wanted, and they are not there")]
    HeadersNotKept,
    /// Report a bug: the arrays built do not fit the schema they were built for.
    #[error("build a record batch")]
    Arrow(#[from] ArrowError),
}
