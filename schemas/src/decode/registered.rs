//! What a schema registry says of the schemas that records were written with, and what a decoder makes of it.

use std::collections::{BTreeSet, HashMap};

use super::framing;
use super::reject::{Fault, Parsed, RejectReason};
use crate::error::Error;
use crate::records::RecordChunk;

/// What a registry has under an id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WriterSchema {
    /// A schema.
    Known(RegisteredSchema),
    /// Nothing: the registry answered that there is no such id.
    Unknown,
    /// Something that cannot be used, and why: too large, of a kind that is none of the three, or referring to what is
    /// not there.
    Unusable(String),
}

/// A schema as a registry keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegisteredSchema {
    /// The language of the text.
    pub kind: SchemaKind,
    /// The text of the schema.
    pub text: String,
    /// Every schema that this one refers to, also by way of others; each after those that it refers to itself.
    pub references: Vec<SchemaReference>,
}

/// The language of a schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SchemaKind {
    /// An Avro schema in JSON.
    Avro,
    /// A `.proto` file.
    Protobuf,
    /// A JSON Schema.
    Json,
}

impl SchemaKind {
    /// What people call it.
    pub fn as_str(self) -> &'static str {
        match self {
            SchemaKind::Avro => "Avro",
            SchemaKind::Protobuf => "Protobuf",
            SchemaKind::Json => "JSON Schema",
        }
    }
}

impl std::fmt::Display for SchemaKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A schema that another refers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchemaReference {
    /// The name it is referred to by: a full name in Avro, the path of an import in Protobuf.
    pub name: String,
    /// The text of the schema.
    pub text: String,
}

/// Bytes of schemas, and of ids without one, that are kept between chunks. Above that all are forgotten, and asked for
/// again: ids in garbage must not fill the memory.
pub(crate) const REGISTERED_BYTES_MAX: usize = 32 << 20;

/// What an id counts for beside its schema, in bytes.
pub(crate) const REGISTERED_ID_BYTES: usize = 256;

/// How to read the records of a schema, or why they are rejected.
pub(crate) type Writer<W> = Result<W, Box<Fault>>;

/// The schemas that records name by their ids in a registry (Confluent's framing), and how to read each: a `W`.
#[derive(Debug)]
pub(crate) struct Registered<W> {
    writers: HashMap<u32, Writer<W>>,
    /// What these take, about.
    bytes: usize,
    /// An id that was not learned before its record was to be decoded.
    not_learned: Option<u32>,
}

impl<W> Default for Registered<W> {
    fn default() -> Self {
        Self { writers: HashMap::new(), bytes: 0, not_learned: None }
    }
}

impl<W> Registered<W> {
    /// The ids that records of `chunk` name and nothing has been learned of: each once, rising.
    pub(crate) fn missing(&self, chunk: &RecordChunk) -> Vec<u32> {
        let payloads = (0..chunk.len()).filter_map(|record| chunk.payload(record));
        let ids = payloads.filter_map(|payload| framing::confluent_id(payload).ok());
        let missing: BTreeSet<u32> = ids.filter(|id| !self.writers.contains_key(id)).collect();
        missing.into_iter().collect()
    }

    /// Takes note of what the registry has under `id`; `prepare` says how to read the records of a schema.
    pub(crate) fn learn(
        &mut self,
        id: u32,
        answer: WriterSchema,
        prepare: impl FnOnce(&RegisteredSchema) -> Writer<W>,
    ) {
        self.bytes += REGISTERED_ID_BYTES;
        let writer = match answer {
            WriterSchema::Unknown => {
                Err(Fault::new(RejectReason::UnknownSchema, format!("the registry has no schema {id}")))
            }
            WriterSchema::Unusable(why) => {
                let problem = format!("schema {id} of the registry cannot be used: {why}");
                Err(Fault::new(RejectReason::IncompatibleSchema, problem))
            }
            WriterSchema::Known(schema) => {
                let references = schema.references.iter().map(|reference| reference.text.len());
                self.bytes += schema.text.len() + references.sum::<usize>();
                prepare(&schema).map_err(|fault| fault.noted(&format!("schema {id}")))
            }
        };
        self.writers.insert(id, writer);
    }

    /// How to read the records of schema `id`.
    #[inline]
    pub(crate) fn writer(&mut self, id: u32) -> Parsed<&mut W> {
        match self.writers.get_mut(&id) {
            Some(Ok(writer)) => Ok(writer),
            Some(Err(fault)) => Err(fault.clone()),
            None => {
                self.not_learned = Some(id);
                Err(Fault::new(RejectReason::UnknownSchema, "the schema was not learned"))
            }
        }
    }

    /// After each chunk: makes sure that nothing was decoded with a schema that was not asked for, and that what is kept
    /// stays small.
    pub(crate) fn end_chunk(&mut self) -> Result<(), Error> {
        if let Some(id) = self.not_learned.take() {
            return Err(Error::SchemaNotLearned { id });
        }
        if self.bytes > REGISTERED_BYTES_MAX {
            *self = Self::default();
        }
        Ok(())
    }
}
