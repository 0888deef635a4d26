//! How the records of a source are encoded: which settings go together, and the schema files they name.
//!
//! The spec says it in flat fields beside `format`; here they become one [`Encoding`] in which nothing can
//! contradict. Files are read now, so that `isobar check` finds what is wrong with them and a run needs them once.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use isobar_schemas::decode::{Framing, PayloadRows};
use serde_json::Value as Json;

use super::check::Place;
use super::raw::{Envelope, Format, SchemaFiles};
use super::resolve::Resolver;
use super::units::ByteSize;

/// Largest schema file, in bytes.
pub(crate) const SCHEMA_FILE_BYTES_MAX: u64 = 4 << 20;
/// Most schema files of a source.
const SCHEMA_FILES_MAX: usize = 256;

/// How the records of a source are encoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Encoding {
    /// One JSON object, or several; behind Confluent's header if `framed`.
    Json {
        /// How many.
        payload_rows: PayloadRows,
        /// Whether Confluent's header stands before it.
        framed: bool,
        /// What the row stands in.
        envelope: Envelope,
    },
    /// One Avro record.
    Avro {
        /// Where its schema is.
        schemas: WriterSchemas,
        /// What the row stands in.
        envelope: Envelope,
    },
    /// One Protobuf message.
    Protobuf {
        /// Full name of the message; `None`: the only one of the schema, or whichever a record names in the registry.
        message: Option<String>,
        /// Where its schema is.
        schemas: WriterSchemas,
    },
    /// One line of values.
    Csv {
        /// What is between two values.
        delimiter: u8,
        /// Names of the values in their order; `None`: all fields in theirs.
        columns: Option<Vec<String>>,
    },
    /// Any bytes.
    Raw,
}

/// Where the schemas are that records were written with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WriterSchemas {
    /// In the registry; each record names one by its id.
    Registry,
    /// Here; each record names one by its fingerprint.
    ByFingerprint(Vec<SchemaFile>),
    /// Here, one for all records. The first file holds it, others are what it imports.
    Given(Vec<SchemaFile>),
}

/// A file with a schema.
#[derive(Clone, PartialEq, Eq)]
pub struct SchemaFile {
    /// Its path relative to the spec, with `/`, which is also how one file imports another.
    pub path: String,
    /// Its content.
    pub bytes: Arc<[u8]>,
}

impl std::fmt::Debug for SchemaFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SchemaFile").field("path", &self.path).field("bytes", &self.bytes.len()).finish()
    }
}

impl Encoding {
    /// Whether records name their schemas by ids of a registry.
    pub fn needs_registry(&self) -> bool {
        matches!(
            self,
            Encoding::Avro { schemas: WriterSchemas::Registry, .. }
                | Encoding::Protobuf { schemas: WriterSchemas::Registry, .. }
        )
    }

    /// What the row stands in.
    pub fn envelope(&self) -> Envelope {
        match self {
            Encoding::Json { envelope, .. } | Encoding::Avro { envelope, .. } => *envelope,
            Encoding::Protobuf { .. } | Encoding::Csv { .. } | Encoding::Raw => Envelope::None,
        }
    }
}

/// The settings of a source that not every format has.
const SETTINGS: [(&str, &[Format]); 7] = [
    ("framing", &[Format::Json, Format::Avro, Format::Protobuf]),
    ("envelope", &[Format::Json, Format::Avro]),
    ("payload_rows", &[Format::Json]),
    ("schema", &[Format::Avro, Format::Protobuf]),
    ("message", &[Format::Protobuf]),
    ("delimiter", &[Format::Csv]),
    ("columns", &[Format::Csv]),
];

impl Resolver<'_> {
    /// The encoding of the source at `pointer`; `None` if something is wrong with it, which is reported.
    pub(super) fn encoding(&mut self, pointer: &str, format: Format) -> Option<Encoding> {
        let found_before = self.found();
        self.refuse_settings_of_other_formats(pointer, format);
        let encoding = match format {
            Format::Json => self.json(pointer),
            Format::Avro => self.avro(pointer),
            Format::Protobuf => self.protobuf(pointer),
            Format::Csv => self.csv(pointer),
            Format::Raw => Some(Encoding::Raw),
        };
        encoding.filter(|_| self.found() == found_before)
    }

    fn refuse_settings_of_other_formats(&mut self, pointer: &str, format: Format) {
        for (name, formats) in SETTINGS.iter().filter(|(_, formats)| !formats.contains(&format)) {
            let at = format!("{pointer}/{name}");
            if self.is_given(&at) {
                let formats: Vec<String> =
                    formats.iter().map(|format| format!("`{}`", word(format))).collect();
                let message = format!("`{name}` has no meaning for `format: {}`", word(&format));
                let suggestion = format!("remove it; it is for {}", formats.join(" and "));
                self.report(at, Place::Key, message, Some(suggestion));
            }
        }
    }

    pub(super) fn is_given(&self, pointer: &str) -> bool {
        self.value.pointer(pointer).is_some_and(|value| !value.is_null())
    }

    /// The framing as given, or the usual one of the format; checked against the format and the registry.
    fn framing(&mut self, pointer: &str, format: Format) -> Option<Framing> {
        let at = format!("{pointer}/framing");
        let usual = match format {
            Format::Avro | Format::Protobuf if !self.is_given(&format!("{pointer}/schema")) => {
                Framing::Confluent
            }
            _ => Framing::Plain,
        };
        let given = self.typed::<Option<Framing>>(&at).flatten();
        let framing = given.unwrap_or(usual);
        let at = if given.is_some() { at } else { format!("{pointer}/format") };
        if framing == Framing::SingleObject && format != Format::Avro {
            self.report(at, Place::Value, "`single_object` is a framing of `avro`", None);
            return None;
        }
        // A JSON record says by itself what it holds, so its header needs no registry.
        if framing == Framing::Confluent && format != Format::Json && !self.is_given("/registry") {
            let message = "records name their schemas by ids of a registry, and there is no `registry`";
            let suggestion =
                "add `registry: { url: \"https://…\" }`, or give the `schema` of records without a header";
            self.report(at, Place::Value, message, Some(suggestion.into()));
            return None;
        }
        Some(framing)
    }

    fn writer_schemas(&mut self, pointer: &str, format: Format) -> Option<WriterSchemas> {
        let framing = self.framing(pointer, format)?;
        let at = format!("{pointer}/schema");
        let files = self.schema_files(&at)?;
        match framing {
            Framing::Confluent if files.is_empty() => Some(WriterSchemas::Registry),
            Framing::Confluent => {
                let message = "with `framing: confluent` the registry has the schemas of records";
                self.report(at, Place::Key, message, Some("remove `schema`".into()));
                None
            }
            Framing::Plain | Framing::SingleObject if files.is_empty() => {
                let message = "records carry no id of a registry, so their `schema` has to be given";
                let suggestion = match format {
                    Format::Avro => "`schema: ./record.avsc`, for example",
                    _ => "`schema: ./record.proto`, for example",
                };
                self.report(format!("{pointer}/format"), Place::Value, message, Some(suggestion.into()));
                None
            }
            Framing::Plain if format == Format::Avro && files.len() > 1 => {
                let message = "records do not say which of several schemas they were written with";
                let suggestion = "give one, or say `framing: single_object` if they carry a fingerprint";
                self.report(at, Place::Value, message, Some(suggestion.into()));
                None
            }
            Framing::Plain => Some(WriterSchemas::Given(files)),
            Framing::SingleObject => Some(WriterSchemas::ByFingerprint(files)),
        }
    }

    fn json(&mut self, pointer: &str) -> Option<Encoding> {
        let envelope = self.envelope(pointer);
        let at = format!("{pointer}/payload_rows");
        let payload_rows = self.typed::<Option<PayloadRows>>(&at).flatten().unwrap_or_default();
        let framed = self.framing(pointer, Format::Json)? == Framing::Confluent;
        if envelope == Envelope::Debezium && payload_rows != PayloadRows::One {
            let message = "a payload in Debezium's envelope is one change event";
            self.report(at, Place::Key, message, Some("remove `payload_rows`".into()));
            return None;
        }
        Some(Encoding::Json { payload_rows, framed, envelope })
    }

    fn avro(&mut self, pointer: &str) -> Option<Encoding> {
        let envelope = self.envelope(pointer);
        let schemas = self.writer_schemas(pointer, Format::Avro)?;
        Some(Encoding::Avro { schemas, envelope })
    }

    fn envelope(&mut self, pointer: &str) -> Envelope {
        self.typed::<Option<Envelope>>(&format!("{pointer}/envelope")).flatten().unwrap_or_default()
    }

    fn protobuf(&mut self, pointer: &str) -> Option<Encoding> {
        let message = self.typed::<Option<String>>(&format!("{pointer}/message")).flatten();
        let schemas = self.writer_schemas(pointer, Format::Protobuf)?;
        Some(Encoding::Protobuf { message, schemas })
    }

    fn csv(&mut self, pointer: &str) -> Option<Encoding> {
        let columns = self.typed::<Option<Vec<String>>>(&format!("{pointer}/columns")).flatten();
        let at = format!("{pointer}/delimiter");
        let written = self.typed::<Option<String>>(&at).flatten().unwrap_or_else(|| ",".to_owned());
        match written.as_bytes() {
            [delimiter] if delimiter.is_ascii() && !b"\"\r\n".contains(delimiter) => {
                Some(Encoding::Csv { delimiter: *delimiter, columns })
            }
            _ => {
                let message = format!("`{}` cannot be a delimiter", written.escape_debug());
                let suggestion =
                    "one ASCII character that is no quote and no line break, such as `;` or a tab";
                self.report(at, Place::Value, message, Some(suggestion.into()));
                None
            }
        }
    }

    /// The files at `pointer`, read; none if none is given, `None` if one of them cannot be read.
    fn schema_files(&mut self, pointer: &str) -> Option<Vec<SchemaFile>> {
        let written = match self.typed::<Option<SchemaFiles>>(pointer).flatten() {
            None => return Some(Vec::new()),
            Some(SchemaFiles::One(path)) => vec![(pointer.to_owned(), path)],
            Some(SchemaFiles::Many(paths)) => paths
                .into_iter()
                .enumerate()
                .map(|(index, path)| (format!("{pointer}/{index}"), path))
                .collect(),
        };
        if written.len() > SCHEMA_FILES_MAX {
            let message = format!("{} files, more than {SCHEMA_FILES_MAX}", written.len());
            self.report(pointer, Place::Value, message, None);
            return None;
        }
        let files: Vec<Option<SchemaFile>> =
            written.into_iter().map(|(at, path)| self.schema_file(at, &path)).collect();
        files.into_iter().collect()
    }

    fn schema_file(&mut self, pointer: String, written: &str) -> Option<SchemaFile> {
        match read_bounded(&self.folder.join(written), SCHEMA_FILE_BYTES_MAX) {
            Ok(bytes) => {
                let path = written.trim_start_matches("./").to_owned();
                Some(SchemaFile { path, bytes: bytes.into() })
            }
            Err(problem) => {
                let message = format!("`{}` cannot be read: {problem}", written.escape_debug());
                self.report(pointer, Place::Value, message, Some("paths are relative to the spec".into()));
                None
            }
        }
    }
}

/// The word of a plain enum in a spec.
fn word(format: &Format) -> String {
    serde_json::to_value(format).ok().as_ref().and_then(Json::as_str).unwrap_or_default().to_owned()
}

/// The content of a file of at most `bytes_max` bytes, or why there is none.
pub(crate) fn read_bounded(path: &Path, bytes_max: u64) -> Result<Vec<u8>, String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    file.take(bytes_max + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() as u64 > bytes_max {
        return Err(format!("it is larger than {}", ByteSize(bytes_max)));
    }
    Ok(bytes)
}
