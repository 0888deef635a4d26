//! What a registry has said, as plain data that outlives the process: a start without the registry reads it.
//!
//! # Format
//! One JSON object, in UTF-8. The same schemas give the same bytes.
//!
//! ```json
//! {
//!   "format": 1,
//!   "servers": ["https://registry.example/"],
//!   "schemas": [{ "id": 7, "kind": "avro", "text": "…", "references": [{ "name": "nyc.Airport", "text": "…" }] }]
//! }
//! ```
//!
//! `servers` says whose ids these are: base URLs without credentials, in alphabetical order. Schemas are in the order
//! of their ids; `kind` is `avro`, `protobuf` or `json`; references come after what they refer to themselves, with names
//! as a schema uses them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use isobar_schemas::{RegisteredSchema, SchemaKind, SchemaReference};
use serde::{Deserialize, Serialize};

use crate::Error;

/// The version of the format.
const FORMAT: u32 = 1;
/// Largest archive, in bytes.
pub const ARCHIVE_BYTES_MAX: usize = 32 << 20;

/// Schemas by their ids in one registry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SchemaArchive {
    pub(super) servers: BTreeSet<String>,
    pub(super) schemas: BTreeMap<u32, Arc<RegisteredSchema>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    format: u32,
    servers: BTreeSet<String>,
    schemas: Vec<FiledSchema>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FiledSchema {
    id: u32,
    kind: FiledKind,
    text: String,
    references: Vec<FiledReference>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FiledReference {
    name: String,
    text: String,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum FiledKind {
    Avro,
    Protobuf,
    Json,
}

impl SchemaArchive {
    /// How many schemas it holds.
    pub fn len(&self) -> usize {
        self.schemas.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.schemas.is_empty()
    }

    /// The ids, rising.
    pub fn ids(&self) -> impl Iterator<Item = u32> {
        self.schemas.keys().copied()
    }

    /// The archive as bytes, at most [`ARCHIVE_BYTES_MAX`].
    ///
    /// # Errors
    /// If it is larger. [`RegistryClient::export`](super::RegistryClient::export) makes none that is.
    pub fn to_bytes(&self) -> Result<Vec<u8>, Error> {
        let schemas = self.schemas.iter().map(|(id, schema)| filed(*id, schema)).collect();
        let file = File { format: FORMAT, servers: self.servers.clone(), schemas };
        let bytes = serde_json::to_vec(&file).expect("strings and numbers are always JSON");
        match bytes.len() > ARCHIVE_BYTES_MAX {
            true => {
                Err(broken(format!("it would have {} bytes, {ARCHIVE_BYTES_MAX} is the most", bytes.len())))
            }
            false => Ok(bytes),
        }
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote.
    ///
    /// # Errors
    /// If it is anything else, or of another format. To go on without it costs only the start without the registry.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        if bytes.len() > ARCHIVE_BYTES_MAX {
            return Err(broken(format!("it has {} bytes, {ARCHIVE_BYTES_MAX} is the most", bytes.len())));
        }
        let malformed = |error: serde_json::Error| broken(error.to_string());
        let Format { format } = serde_json::from_slice(bytes).map_err(malformed)?;
        if format != FORMAT {
            return Err(broken(format!(
                "it has format {format}, this version of isobar reads format {FORMAT}"
            )));
        }
        let file: File = serde_json::from_slice(bytes).map_err(malformed)?;
        let mut schemas = BTreeMap::new();
        for schema in file.schemas {
            let id = schema.id;
            if schemas.insert(id, Arc::new(schema.into())).is_some() {
                return Err(broken(format!("it holds id {id} twice")));
            }
        }
        Ok(Self { servers: file.servers, schemas })
    }
}

/// What a schema takes in an archive, in bytes, at most.
pub(super) fn filed_bytes(id: u32, schema: &RegisteredSchema) -> usize {
    serde_json::to_vec(&filed(id, schema)).expect("strings and numbers are always JSON").len() + 1
}

fn filed(id: u32, schema: &RegisteredSchema) -> FiledSchema {
    let kind = match schema.kind {
        SchemaKind::Avro => FiledKind::Avro,
        SchemaKind::Protobuf => FiledKind::Protobuf,
        SchemaKind::Json => FiledKind::Json,
    };
    let references = schema.references.iter().cloned();
    let references = references.map(|SchemaReference { name, text }| FiledReference { name, text }).collect();
    FiledSchema { id, kind, text: schema.text.clone(), references }
}

impl From<FiledSchema> for RegisteredSchema {
    fn from(filed: FiledSchema) -> Self {
        let kind = match filed.kind {
            FiledKind::Avro => SchemaKind::Avro,
            FiledKind::Protobuf => SchemaKind::Protobuf,
            FiledKind::Json => SchemaKind::Json,
        };
        let references = filed.references.into_iter();
        let references =
            references.map(|FiledReference { name, text }| SchemaReference { name, text }).collect();
        Self { kind, text: filed.text, references }
    }
}

fn broken(problem: String) -> Error {
    Error::RegistryArchive(problem)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive() -> SchemaArchive {
        let airport = SchemaReference { name: "nyc.Airport".into(), text: "{\"type\":\"string\"}".into() };
        let flight =
            RegisteredSchema { kind: SchemaKind::Avro, text: "\"ä\n\"".into(), references: vec![airport] };
        let plain = |kind| RegisteredSchema { kind, text: "…".into(), references: Vec::new() };
        let schemas = [(u32::MAX, flight), (2, plain(SchemaKind::Protobuf)), (1, plain(SchemaKind::Json))];
        SchemaArchive {
            servers: BTreeSet::from(["http://b/".to_owned(), "http://a/x".to_owned()]),
            schemas: schemas.map(|(id, schema)| (id, Arc::new(schema))).into(),
        }
    }

    #[test]
    fn what_is_written_is_read_and_does_not_change() {
        let bytes = archive().to_bytes().unwrap();
        assert_eq!(SchemaArchive::from_bytes(&bytes).unwrap(), archive());
        let expected = r#"{"format":1,"servers":["http://a/x","http://b/"],"schemas":[{"id":1,"kind":"json","text":"…","references":[]},{"id":2,"kind":"protobuf","text":"…","references":[]},{"id":4294967295,"kind":"avro","text":"\"ä\n\"","references":[{"name":"nyc.Airport","text":"{\"type\":\"string\"}"}]}]}"#;
        assert_eq!(String::from_utf8(bytes).unwrap(), expected);
    }

    #[test]
    fn what_is_no_archive_is_refused_with_the_reason() {
        let whole = String::from_utf8(archive().to_bytes().unwrap()).unwrap();
        let refused = |text: &str, reason: &str| {
            let error = SchemaArchive::from_bytes(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        };
        refused(&whole[..whole.len() - 1], "EOF");
        refused("", "EOF");
        refused(&whole.replace("\"format\":1", "\"format\":2"), "reads format 1");
        refused(&whole.replace("\"id\":2", "\"id\":1"), "id 1 twice");
        refused(&whole.replace("\"id\":2", "\"id\":-2"), "u32");
        refused(&whole.replace("\"protobuf\"", "\"xml\""), "xml");
        refused(&whole.replace("\"id\":2", "\"id\":2,\"more\":0"), "more");
        refused(&" ".repeat(ARCHIVE_BYTES_MAX + 1), "is the most");
    }
}
