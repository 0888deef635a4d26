//! Where descriptors come from: a compiled descriptor set, or `.proto` text.
//!
//! Text is compiled here, without `protoc`. Nothing is read from the file system: an import is one of the texts that
//! were given, or one that everybody knows (`google/protobuf/timestamp.proto` and its neighbours; those of
//! [`known`](super::known)), or an error.
//! Texts may come from a registry, so they are bounded before they are parsed: together [`SOURCE_BYTES_MAX`] bytes,
//! [`SOURCES_MAX`] texts, and [`BRACKETS_DEPTH_MAX`] brackets open at any byte.
//!
//! In a registry a text may also be a compiled descriptor in Base64: the clients for Python and .NET register their schemas
//! so. Confluent's registry makes text of it, others give back what they were given.

use std::collections::HashMap;

use prost_reflect::prost::Message as _;
use prost_reflect::prost_types::{FileDescriptorProto, FileDescriptorSet};
use prost_reflect::{DescriptorPool, FileDescriptor, MessageDescriptor};
use protox::Compiler;
use protox::file::{File, FileResolver};

use super::known;
use crate::decode::json::base64;
use crate::decode::reject::{excerpt, shortened};
use crate::decode::{RegisteredSchema, SchemaKind};
use crate::error::Error;

/// Most bytes that the texts of a schema may have together, and that a descriptor set may have.
pub const SOURCE_BYTES_MAX: usize = 1 << 20;

/// Most texts that a schema may be of, imports included.
pub const SOURCES_MAX: usize = 256;

/// Most brackets of any kind that may be open at any byte of a text, those in comments and strings included. The
/// compiler is recursive.
pub const BRACKETS_DEPTH_MAX: usize = 100;

/// One `.proto` text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProtobufSource {
    /// The name that other texts import it by, such as `weather/observation.proto`.
    pub name: String,
    /// The text.
    pub text: String,
}

/// The messages that a Protobuf schema declares.
#[derive(Debug, Clone)]
pub struct ProtobufSchema {
    pool: DescriptorPool,
    /// The text that is not there for the others, if texts were given.
    main: Option<FileDescriptor>,
}

impl ProtobufSchema {
    /// The messages of a descriptor set, as `protoc --include_imports --descriptor_set_out` writes it.
    ///
    /// # Errors
    /// If it is too large or not a descriptor set, or lacks what its files import.
    pub fn from_descriptor_set(bytes: &[u8]) -> Result<Self, Error> {
        check_bytes(bytes.len())?;
        let files = FileDescriptorSet::decode(bytes)
            .map_err(|error| invalid(format!("descriptor set: {error}")))?
            .file;
        files.iter().try_for_each(|file| check_syntax(file).map_err(invalid))?;
        // With the files that everybody knows, which descriptor sets often leave out. It is a copy: nothing is shared.
        let mut pool = DescriptorPool::global();
        let missing =
            known::missing_from(&files).map_err(|error| invalid(format!("descriptor set: {error}")))?;
        // Two sets end to end are one.
        let whole = [&FileDescriptorSet { file: missing }.encode_to_vec()[..], bytes].concat();
        pool.decode_file_descriptor_set(whole.as_slice())
            .map_err(|error| invalid(format!("descriptor set: {error}")))?;
        Ok(Self { pool, main: None })
    }

    /// The messages of `main`, which may import `imports` and texts that everybody knows.
    ///
    /// # Errors
    /// If a text is too large or not Protobuf, or an import is missing.
    pub fn from_sources(main: ProtobufSource, imports: Vec<ProtobufSource>) -> Result<Self, Error> {
        check_sources(&main, &imports)?;
        let name = main.name.clone();
        let texts =
            Texts(imports.into_iter().chain([main]).map(|source| (source.name, source.text)).collect());
        let mut compiler = Compiler::with_file_resolver(known::resolver(texts));
        compiler.open_file(&name).map_err(|error| invalid(excerpt(&error.to_string())))?;
        let pool = compiler.descriptor_pool();
        let main = pool.get_file_by_name(&name);
        Ok(Self { pool, main })
    }

    /// The messages of a schema in a registry: those of its text, which its references are there for.
    ///
    /// # Errors
    /// As of [`from_sources`](Self::from_sources), or if it is not Protobuf.
    pub fn from_registered(schema: &RegisteredSchema) -> Result<Self, Error> {
        if schema.kind != SchemaKind::Protobuf {
            return Err(invalid(format!("it is {}, not Protobuf", schema.kind)));
        }
        let imports: Vec<_> = schema
            .references
            .iter()
            .map(|reference| ProtobufSource { name: reference.name.clone(), text: reference.text.clone() })
            .collect();
        // The text itself has no name in the registry, and must not have that of another.
        let mut name = "schema.proto".to_owned();
        while imports.iter().any(|import| import.name == name) {
            name.insert(0, '_');
        }
        Self::from_sources(ProtobufSource { name, text: schema.text.clone() }, imports)
    }

    /// The message called `name`, with its package: `weather.Observation`.
    ///
    /// # Errors
    /// If there is none; the nearest name is suggested.
    pub fn message(&self, name: &str) -> Result<MessageDescriptor, Error> {
        let name = name.strip_prefix('.').unwrap_or(name);
        self.pool.get_message_by_name(name).ok_or_else(|| self.no_message(name))
    }

    /// The only message that `main` declares outside of other messages.
    ///
    /// # Errors
    /// If there are none or several: then it must be named.
    pub fn only_message(&self) -> Result<MessageDescriptor, Error> {
        let mut messages = self.own_messages();
        if messages.len() == 1 {
            return Ok(messages.remove(0));
        }
        let names: Vec<_> = messages.iter().map(|message| format!("`{}`", message.full_name())).collect();
        Err(invalid(format!("name one of the messages that the schema declares: {}", names.join(", "))))
    }

    /// The message that a Confluent message index leads to: `[1, 0]` is the first message inside the second message
    /// of the text.
    ///
    /// Messages are counted as descriptors do, as the clients for Python, Go and C# do it: the entries of a map are a
    /// message inside the message that has the map.
    pub(crate) fn message_at(&self, index: &[u32]) -> Option<MessageDescriptor> {
        let (first, inner) = index.split_first()?;
        let outermost = self.main.as_ref()?.messages().nth(*first as usize)?;
        let inside = |message: MessageDescriptor, index: &u32| message.child_messages().nth(*index as usize);
        let message = inner.iter().try_fold(outermost, inside)?;
        (!message.is_map_entry()).then_some(message)
    }

    /// The messages outside of other messages, without those of imports where that can be told.
    fn own_messages(&self) -> Vec<MessageDescriptor> {
        let outermost = |message: &MessageDescriptor| message.parent_message().is_none();
        match &self.main {
            Some(main) => main.messages().filter(outermost).collect(),
            None => {
                let own = |message: &MessageDescriptor| {
                    let is_known = known::is_known(message.parent_file().name());
                    !is_known && !message.full_name().starts_with("google.protobuf.")
                };
                self.pool.all_messages().filter(outermost).filter(own).collect()
            }
        }
    }

    fn no_message(&self, name: &str) -> Error {
        let names: Vec<_> = self.pool.all_messages().map(|message| message.full_name().to_owned()).collect();
        let nearest = names.iter().min_by_key(|other| strsim::damerau_levenshtein(name, other));
        Error::WriterSchema {
            problem: match nearest {
                Some(nearest) => format!("there is no message `{name}`; did you mean `{nearest}`?"),
                None => format!("there is no message `{name}`, and no other"),
            },
        }
    }
}

/// The texts that were given, by name.
struct Texts(HashMap<String, String>);

impl FileResolver for Texts {
    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        let Some(text) = self.0.get(name) else { return Err(protox::Error::file_not_found(name)) };
        match descriptor(text) {
            // It is asked for by the name that others import it by, whatever it was compiled as.
            Some(descriptor) => {
                let file = FileDescriptorProto { name: Some(name.to_owned()), ..descriptor };
                check_syntax(&file).map_err(protox::Error::new)?;
                Ok(File::from_file_descriptor_proto(file))
            }
            None => File::from_source(name, text),
        }
    }
}

/// The descriptor that `text` is in Base64, if it is one. No text in Protobuf's own language is: that has spaces.
fn descriptor(text: &str) -> Option<FileDescriptorProto> {
    let mut bytes = Vec::new();
    base64::decode(text.trim_end().as_bytes(), &mut bytes)?;
    if bytes.is_empty() { None } else { FileDescriptorProto::decode(bytes.as_slice()).ok() }
}

fn invalid(problem: impl Into<String>) -> Error {
    Error::WriterSchema { problem: problem.into() }
}

fn check_bytes(bytes: usize) -> Result<(), Error> {
    if bytes > SOURCE_BYTES_MAX {
        return Err(invalid(format!("{bytes} bytes, more than the limit of {SOURCE_BYTES_MAX}")));
    }
    Ok(())
}

/// Refuses editions, and whatever else is neither proto2 nor proto3: `prost-reflect` panics at them.
fn check_syntax(file: &FileDescriptorProto) -> Result<(), String> {
    if matches!(file.syntax.as_deref(), None | Some("proto2" | "proto3")) {
        return Ok(());
    }
    let [name, syntax] = [file.name(), file.syntax()].map(shortened);
    Err(format!("descriptor set: `{name}` is `{syntax}`, neither proto2 nor proto3"))
}

fn check_sources(main: &ProtobufSource, imports: &[ProtobufSource]) -> Result<(), Error> {
    if imports.len() >= SOURCES_MAX {
        return Err(invalid(format!("{} imports, more than the limit of {SOURCES_MAX}", imports.len())));
    }
    let sources = || imports.iter().chain([main]);
    check_bytes(sources().map(|source| source.text.len()).sum())?;
    for source in sources() {
        let depth = brackets_depth(&source.text);
        if depth > BRACKETS_DEPTH_MAX {
            let name = &source.name;
            return Err(invalid(format!(
                "`{name}`: {depth} brackets are open, more than {BRACKETS_DEPTH_MAX}"
            )));
        }
    }
    Ok(())
}

/// Most brackets that are open at any byte of `text`.
fn brackets_depth(text: &str) -> usize {
    let mut depth: usize = 0;
    let mut deepest = 0;
    for byte in text.bytes() {
        match byte {
            b'{' | b'[' | b'(' | b'<' => depth += 1,
            b'}' | b']' | b')' | b'>' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}
