//! Chunks on their way to a decoder: which decoder, and what the registry says of the schemas that they name.
//!
//! ```text
//! chunk ─▶ does it name schemas nobody has told of? ── no ──────────────────────▶ decode
//!                         └─ yes ─▶ wait, while the registry is asked beside ─▶ learn ─▶ decode
//! ```
//!
//! While a chunk waits nothing further is read, and everything else goes on: commits, maintenance, a stop. A registry
//! that does not answer is asked again until it does; a record is never rejected because a registry was away. One that
//! answers that it has no such schema has answered. Ids are immutable, so each is asked for once in a process's life.

use std::sync::Arc;
use std::time::Duration;

use isobar_connectors::clouds::Cloud;
use isobar_connectors::registry::{Credentials, RegistryClient, RegistryConfig, SchemaAnswer};
use isobar_connectors::source::SourceChunk;
use isobar_schemas::RecordChunk;
use isobar_schemas::decode::{
    AvroDecoder, Compression, CsvDecoder, CsvFormat, DebeziumDecoder, DecodeLimits, Decoded, Decoder,
    Framing, InflateLimits, Inflating, JsonDecoder, ProtobufDecoder, ProtobufSchema, ProtobufSource,
    RawDecoder, RegisteredSchema, SchemaKind, WriterSchema, avro_event_problems, avro_problems,
};
use tokio::task::JoinHandle;
use tracing::{info, warn};

use crate::chain_of;
use crate::error::Error;
use crate::schema_archive;
use crate::spec::{
    self, Encoding, Envelope, PayloadCompression, SchemaFile, SourceSpec, Topology, WriterSchemas,
};

/// Pauses before a registry that did not answer is asked again: the first, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

/// The decoders of a topology's sources, in their order, and where their schemas come from.
pub(crate) struct Decoding {
    decoders: Vec<Box<dyn Decoder>>,
    topology: String,
    registry: Option<Arc<RegistryClient>>,
    /// Whether the registry has said more than its archive has, or some cloud has no archive.
    has_news: bool,
    /// The archive on its way to the clouds.
    recording: Option<JoinHandle<()>>,
    /// A chunk whose schemas the registry is asked for.
    waiting: Option<Waiting>,
}

struct Waiting {
    source: usize,
    chunk: SourceChunk,
    asking: Asking,
}

/// A question on its way, which ends with this.
struct Asking(JoinHandle<Result<Answers, Error>>);

/// What the registry has under each id.
type Answers = Vec<(u32, WriterSchema)>;

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Decoding {
    /// The decoders of all sources of `topology`. Nothing is asked yet.
    pub(crate) fn start(topology: &Topology) -> Result<Self, Error> {
        let decoders = topology.sources.iter().map(|source| {
            decoder(source).map_err(|error| {
                Error::Configuration(format!("source {}: {}", source.name, chain_of(&error)))
            })
        });
        let decoders = decoders.collect::<Result<_, Error>>()?;
        let registry = topology.registry.as_ref().map(open_registry).transpose()?;
        let topology = topology.name.clone();
        Ok(Self { decoders, topology, registry, has_news: false, recording: None, waiting: None })
    }

    /// Lets what the registry said to earlier processes answer where the registry does not. To be called before
    /// anything is asked.
    pub(crate) async fn recall(&mut self, clouds: &[Cloud]) {
        let Some(client) = self.registry.take().and_then(Arc::into_inner) else { return };
        let (client, has_all) = match schema_archive::recall(clouds, &self.topology).await {
            None => (client, true),
            Some((archive, is_everywhere)) => {
                let schemas = archive.len();
                let (client, is_same) = client.with_archive(archive);
                match is_same {
                    true => info!(schemas, "schemas that the registry has told before are known"),
                    false => {
                        warn!(schemas, "the recorded schemas are of another registry and are not used")
                    }
                }
                (client, is_everywhere && is_same)
            }
        };
        self.registry = Some(Arc::new(client));
        self.has_news = !has_all;
    }

    /// Records what the registry has said, in the background, if there is more of it than was recorded.
    pub(crate) fn record(&mut self, clouds: &[Cloud]) {
        if self.recording.as_ref().is_some_and(|recording| !recording.is_finished()) {
            return;
        }
        let Some(registry) = self.registry.as_ref().filter(|_| self.has_news) else { return };
        let (archive, omitted) = registry.export();
        if omitted > 0 {
            warn!(
                omitted,
                "there are more schemas than are recorded; a start without the registry may have to wait for it"
            );
        }
        self.has_news = false;
        if archive.is_empty() {
            return;
        }
        let (clouds, topology) = (clouds.to_vec(), self.topology.clone());
        self.recording =
            Some(tokio::spawn(async move { schema_archive::record(&clouds, &topology, archive).await }));
    }

    /// Waits for what is being recorded, which does not take long.
    pub(crate) async fn finish(&mut self) {
        if let Some(recording) = self.recording.take() {
            // It says itself why a cloud has not got it, and nothing depends on it.
            let _ = recording.await;
        }
    }

    /// Gives `chunk` of a source back if it can be decoded now. Otherwise it is kept, and [`answered`](Self::answered)
    /// gives it back when the registry has told of its schemas.
    pub(crate) fn take(&mut self, source: usize, chunk: SourceChunk) -> Result<Option<SourceChunk>, Error> {
        debug_assert!(self.waiting.is_none(), "nothing is read while a chunk waits");
        let asking = self.ask_about(source, &chunk)?.map(|question| Asking(tokio::spawn(question)));
        let Some(asking) = asking else { return Ok(Some(chunk)) };
        self.waiting = Some(Waiting { source, chunk, asking });
        Ok(None)
    }

    /// Whether a chunk waits for the registry.
    pub(crate) fn is_waiting(&self) -> bool {
        self.waiting.is_some()
    }

    /// The chunk that waits, once the registry has answered; never while none waits. Dropping the future loses nothing.
    pub(crate) async fn answered(&mut self) -> Result<SourceChunk, Error> {
        let Some(waiting) = &mut self.waiting else { return std::future::pending().await };
        let answers = (&mut waiting.asking.0).await.map_err(|died| Error::Bug(died.to_string()))??;
        let Waiting { source, chunk, .. } =
            self.waiting.take().expect("it was there before its answers came");
        self.learn(source, answers);
        Ok(chunk)
    }

    /// Drops the chunk that waits: it is read again.
    pub(crate) fn forget(&mut self) {
        self.waiting = None;
    }

    /// What became of the records of a chunk of a source.
    pub(crate) fn decode(&mut self, source: usize, chunk: &RecordChunk) -> Result<Decoded, Error> {
        let decoded = self.decoders[source].decode(chunk);
        decoded.map_err(|error| Error::damaged("decoder", error.to_string()))
    }

    /// The same where waiting does no harm: the registry is asked first, if it must be.
    ///
    /// # Panics
    /// On a thread that may not block.
    pub(crate) fn decode_blocking(&mut self, source: usize, chunk: &RecordChunk) -> Result<Decoded, Error> {
        if let Some(question) = self.ask_about(source, chunk)? {
            let answers = tokio::runtime::Handle::current().block_on(question)?;
            self.learn(source, answers);
        }
        self.decode(source, chunk)
    }

    /// What the registry has to be asked before `chunk` can be decoded.
    fn ask_about(
        &self,
        source: usize,
        chunk: &RecordChunk,
    ) -> Result<Option<impl Future<Output = Result<Answers, Error>> + use<>>, Error> {
        let missing = self.decoders[source].missing_schemas(chunk);
        if missing.is_empty() {
            return Ok(None);
        }
        let partition = chunk.topic_partition();
        let registry = self.registry.clone().ok_or_else(|| {
            Error::Bug(format!("records of {partition} name schemas of a registry, and there is none"))
        })?;
        match missing[..] {
            [id] => info!(id, %partition, "asking the registry for a schema"),
            _ => info!(schemas = missing.len(), %partition, "asking the registry for schemas"),
        }
        Ok(Some(ask(registry, missing)))
    }

    fn learn(&mut self, source: usize, answers: Answers) {
        for (id, schema) in answers {
            self.has_news |= matches!(schema, WriterSchema::Known(_));
            self.decoders[source].learn(id, schema);
        }
    }
}

/// Asks until there is an answer for every id.
async fn ask(registry: Arc<RegistryClient>, ids: Vec<u32>) -> Result<Answers, Error> {
    let (mut pause, longest) = PAUSE;
    loop {
        match registry.schemas(&ids).await {
            Ok(answers) => {
                return Ok(ids.into_iter().zip(answers.into_iter().map(to_writer_schema)).collect());
            }
            Err(error @ isobar_connectors::Error::RegistryUnreachable { .. }) => {
                warn!(error = %chain_of(&error), "the registry does not answer, asking again; nothing is read meanwhile");
            }
            Err(error) => return Err(Error::connector("ask the schema registry", error)),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(longest);
    }
}

fn to_writer_schema(answer: SchemaAnswer) -> WriterSchema {
    match answer {
        SchemaAnswer::Known(schema) => WriterSchema::Known((*schema).clone()),
        SchemaAnswer::Unknown => WriterSchema::Unknown,
        SchemaAnswer::Unusable(why) => WriterSchema::Unusable(why),
    }
}

/// A client of the registry. Secrets are resolved here and live only inside it.
pub(crate) fn open_registry(registry: &spec::Registry) -> Result<Arc<RegistryClient>, Error> {
    let wrong = |problem: String| Error::Configuration(format!("registry: {problem}"));
    let option = |name: &str| -> Result<Option<String>, Error> {
        let text = registry.options.get(name);
        let resolved = text.map(|text| text.resolve().map_err(|error| wrong(format!("{name}: {error}"))));
        Ok(resolved.transpose()?.map(|secret| secret.expose().to_owned()))
    };
    let mut config = RegistryConfig::new(registry.urls.iter().map(|url| url.as_str()));
    config.credentials = match (option("username")?, option("password")?, option("token")?) {
        (Some(user), password, None) => Credentials::Basic { user, password: password.unwrap_or_default() },
        (None, None, Some(token)) => Credentials::Bearer { token },
        (None, None, None) => Credentials::None,
        _ => return Err(wrong("give `username` and `password`, or `token`".to_owned())),
    };
    config.authorities_pem = option("ca_pem")?.map(String::into_bytes);
    config.identity_pem = option("identity_pem")?.map(String::into_bytes);
    let client = RegistryClient::new(&config).map_err(|error| wrong(chain_of(&error)))?;
    Ok(Arc::new(client))
}

fn framing_and_files(schemas: &WriterSchemas) -> (Framing, &[SchemaFile]) {
    match schemas {
        WriterSchemas::Registry => (Framing::Confluent, &[]),
        WriterSchemas::ByFingerprint(files) => (Framing::SingleObject, files),
        WriterSchemas::Given(files) => (Framing::Plain, files),
    }
}

fn avro_schema(file: &SchemaFile) -> Result<RegisteredSchema, isobar_schemas::Error> {
    Ok(RegisteredSchema { kind: SchemaKind::Avro, text: text_of(file)?, references: Vec::new() })
}

/// The schema in a `.proto` file and those that it imports, or in a descriptor set.
fn protobuf_schema(files: &[SchemaFile]) -> Result<ProtobufSchema, isobar_schemas::Error> {
    let source = |file: &SchemaFile| Ok(ProtobufSource { name: file.path.clone(), text: text_of(file)? });
    match files {
        [only] if !only.path.ends_with(".proto") => ProtobufSchema::from_descriptor_set(&only.bytes),
        [main, imports @ ..] => {
            let imports = imports.iter().map(source).collect::<Result<Vec<_>, isobar_schemas::Error>>()?;
            ProtobufSchema::from_sources(source(main)?, imports)
        }
        [] => Err(isobar_schemas::Error::WriterSchema { problem: "no file is given".to_owned() }),
    }
}

fn text_of(file: &SchemaFile) -> Result<String, isobar_schemas::Error> {
    let text = std::str::from_utf8(&file.bytes);
    let problem = |_| isobar_schemas::Error::WriterSchema { problem: format!("{} is not UTF-8", file.path) };
    text.map(str::to_owned).map_err(problem)
}

/// Everything that keeps records written with an Avro or Protobuf schema from becoming rows of `source`, in words; `None`
/// for a schema in a language that isobar does not read records by.
pub(crate) fn registered_problems(source: &SourceSpec, schema: &RegisteredSchema) -> Option<Vec<String>> {
    match (schema.kind, &source.encoding) {
        (SchemaKind::Json, _) => None,
        (SchemaKind::Avro, _) => Some(avro_problems_of(source, schema)),
        (SchemaKind::Protobuf, encoding) => {
            let message = match encoding {
                Encoding::Protobuf { message, .. } => message.as_deref(),
                _ => None,
            };
            let problem = match ProtobufSchema::from_registered(schema) {
                Ok(schema) => protobuf_problem(source, &schema, message),
                Err(error) => Some(chain_of(&error)),
            };
            Some(problem.into_iter().collect())
        }
    }
}

/// Everything that keeps records written with an Avro schema from becoming rows of `source`, in words.
pub(crate) fn avro_problems_of(source: &SourceSpec, schema: &RegisteredSchema) -> Vec<String> {
    match source.encoding.envelope() {
        Envelope::None => avro_problems(schema, &source.schema, source.unknown_fields),
        Envelope::Debezium => match isobar_schemas::to_arrow_schema(&source.fields) {
            Ok(contract) => avro_event_problems(schema, &contract, source.unknown_fields),
            Err(error) => vec![chain_of(&error)],
        },
    }
}

/// What keeps records of a message from becoming rows of `source`: of the only message, where none is named.
pub(crate) fn protobuf_problem(
    source: &SourceSpec,
    schema: &ProtobufSchema,
    message: Option<&str>,
) -> Option<String> {
    let message = match message {
        Some(name) => schema.message(name),
        None => schema.only_message(),
    };
    let decoder = message.and_then(|message| {
        let limits = DecodeLimits::default();
        ProtobufDecoder::new(source.schema.clone(), &message, source.unknown_fields, limits)
    });
    decoder.err().map(|error| chain_of(&error))
}

/// The decoder of a source.
///
/// # Errors
/// If the contract and the schema files of the source do not fit each other.
pub(crate) fn decoder(source: &SourceSpec) -> Result<Box<dyn Decoder>, isobar_schemas::Error> {
    let limits = DecodeLimits::default();
    let (schema, unknown_fields) = (source.schema.clone(), source.unknown_fields);
    let decoder: Box<dyn Decoder> = match &source.encoding {
        Encoding::Json { payload_rows, framed, envelope: Envelope::None } => {
            let decoder = JsonDecoder::new(schema, unknown_fields, limits)?.rows_in_payload(*payload_rows);
            Box::new(if *framed { decoder.framed() } else { decoder })
        }
        Encoding::Json { framed, envelope: Envelope::Debezium, .. } => {
            let contract = isobar_schemas::to_arrow_schema(&source.fields)?;
            let decoder = DebeziumDecoder::new(&contract, unknown_fields, limits)?;
            Box::new(if *framed { decoder.framed() } else { decoder })
        }
        Encoding::Avro { schemas, envelope } => {
            let (framing, files) = framing_and_files(schemas);
            let writers = files.iter().map(avro_schema).collect::<Result<Vec<_>, _>>()?;
            Box::new(match envelope {
                Envelope::None => AvroDecoder::new(schema, unknown_fields, limits, framing, &writers)?,
                Envelope::Debezium => {
                    let contract = isobar_schemas::to_arrow_schema(&source.fields)?;
                    AvroDecoder::in_debezium_envelope(&contract, unknown_fields, limits, framing, &writers)?
                }
            })
        }
        Encoding::Protobuf { message, schemas: WriterSchemas::Registry } => {
            Box::new(ProtobufDecoder::with_registry(schema, message.as_deref(), unknown_fields, limits)?)
        }
        Encoding::Protobuf {
            message,
            schemas: WriterSchemas::Given(files) | WriterSchemas::ByFingerprint(files),
        } => {
            let files = protobuf_schema(files)?;
            let message = match message {
                Some(message) => files.message(message)?,
                None => files.only_message()?,
            };
            Box::new(ProtobufDecoder::new(schema, &message, unknown_fields, limits)?)
        }
        Encoding::Csv { delimiter, columns } => {
            let format = CsvFormat { delimiter: *delimiter, header: columns.clone() };
            Box::new(CsvDecoder::new(schema, &format, limits)?)
        }
        Encoding::Raw => Box::new(RawDecoder::new(schema, limits)?),
    };
    let compression = match source.payload_compression {
        PayloadCompression::None => Compression::None,
        PayloadCompression::Gzip => Compression::Gzip,
        PayloadCompression::Zstd => Compression::Zstd,
    };
    Inflating::wrap(decoder, compression, InflateLimits::default())
}
