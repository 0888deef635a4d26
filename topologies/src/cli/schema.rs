//! `isobar schema fields` and `isobar schema diff`: the schemas of records, looked at before any record is read.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use comfy_table::{Table, presets};
use isobar_schemas::decode::{
    MessageDescriptor, ProtobufSchema, ProtobufSource, RegisteredSchema, SchemaKind, UnknownFields,
    fields_of_avro, fields_of_avro_event, fields_of_protobuf,
};
use isobar_schemas::{FieldSpec, Fields};
use serde_json::{Value as Json, json};

use super::args::{Format, RecordSchemaArgs, SchemaDiffArgs};
use super::{Exit, Misconfigured, output};
use crate::chain_of;
use crate::decoding::{avro_problems_of, protobuf_problem};
use crate::spec::{self, Envelope, SourceSpec, did_you_mean};

/// Prints the fields that hold every record of a schema.
pub(super) fn fields(args: &RecordSchemaArgs) -> anyhow::Result<Exit> {
    let fields = read(args)?.fields(Envelope::None)?;
    output::print(&match args.output.format {
        Format::Human => yaml_of(&fields),
        Format::Json => format!("{:#}", serde_json::to_value(&fields)?),
    })?;
    Ok(Exit::Success)
}

/// Says what a source makes of records of a schema.
pub(super) fn diff(args: &SchemaDiffArgs) -> anyhow::Result<Exit> {
    let topology = spec::load(&args.topology)?;
    let names = topology.sources.iter().map(|source| source.name.as_str());
    let source = topology.sources.iter().find(|source| source.name == args.source).ok_or_else(|| {
        let help = did_you_mean(&args.source, names).map(|help| format!("; {help}")).unwrap_or_default();
        Misconfigured(format!("there is no source `{}` in {}{help}", args.source, args.topology.display()))
    })?;
    let schema = read(&args.schema)?;
    let problems = schema.problems(source);
    // Where no fields can be made of the schema, the problems say why; the lines then show the contract alone.
    let written = schema.fields(source.encoding.envelope()).unwrap_or_default();
    let lines = compare(source, &written);
    match args.schema.output.format {
        Format::Human => output::print(&render(&source.name, &lines, &problems))?,
        Format::Json => {
            let fields: Vec<Json> = lines.iter().map(Line::to_json).collect();
            output::print_json(&json!({ "source": source.name, "fields": fields, "problems": problems }))?;
        }
    }
    Ok(if problems.is_empty() { Exit::Success } else { Exit::Failure })
}

/// A schema of records.
enum RecordSchema {
    Avro(RegisteredSchema),
    Protobuf { schema: ProtobufSchema, message: Option<String> },
}

impl RecordSchema {
    /// The fields of a row, which may stand in an envelope.
    fn fields(&self, envelope: Envelope) -> anyhow::Result<Fields> {
        let fields = match self {
            RecordSchema::Avro(schema) if envelope == Envelope::Debezium => fields_of_avro_event(schema),
            RecordSchema::Avro(schema) => fields_of_avro(schema),
            RecordSchema::Protobuf { schema, message } => {
                message_of(schema, message.as_deref()).and_then(|message| fields_of_protobuf(&message))
            }
        };
        Ok(fields.map_err(|error| Misconfigured(chain_of(&error)))?)
    }

    /// Why some record of this schema would not become a row of `source`.
    fn problems(&self, source: &SourceSpec) -> Vec<String> {
        match self {
            RecordSchema::Avro(schema) => avro_problems_of(source, schema),
            RecordSchema::Protobuf { schema, message } => {
                protobuf_problem(source, schema, message.as_deref()).into_iter().collect()
            }
        }
    }
}

fn message_of(
    schema: &ProtobufSchema,
    name: Option<&str>,
) -> Result<MessageDescriptor, isobar_schemas::Error> {
    match name {
        Some(name) => schema.message(name),
        None => schema.only_message(),
    }
}

fn read(args: &RecordSchemaArgs) -> anyhow::Result<RecordSchema> {
    let [main, imports @ ..] = args.files.as_slice() else {
        return Err(Misconfigured("no file is given".to_owned()).into());
    };
    let extension = main.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    if matches!(extension, "avsc" | "json") {
        let text = text_of(main)?;
        return Ok(RecordSchema::Avro(RegisteredSchema {
            kind: SchemaKind::Avro,
            text,
            references: Vec::new(),
        }));
    }
    let wrong =
        |error: isobar_schemas::Error| Misconfigured(format!("{}: {}", main.display(), chain_of(&error)));
    let schema = if extension == "proto" {
        let source = |path: &PathBuf| -> anyhow::Result<ProtobufSource> {
            Ok(ProtobufSource { name: path.display().to_string(), text: text_of(path)? })
        };
        let imports = imports.iter().map(source).collect::<anyhow::Result<Vec<_>>>()?;
        ProtobufSchema::from_sources(source(main)?, imports).map_err(wrong)?
    } else {
        ProtobufSchema::from_descriptor_set(&bytes_of(main)?).map_err(wrong)?
    };
    Ok(RecordSchema::Protobuf { schema, message: args.message.clone() })
}

fn text_of(path: &Path) -> anyhow::Result<String> {
    String::from_utf8(bytes_of(path)?)
        .map_err(|_| Misconfigured(format!("{} is not UTF-8", path.display())).into())
}

fn bytes_of(path: &Path) -> anyhow::Result<Vec<u8>> {
    let wrong = |problem: String| Misconfigured(format!("{} cannot be read: {problem}", path.display()));
    let bytes = spec::read_bounded(path, spec::SCHEMA_FILE_BYTES_MAX).map_err(wrong)?;
    Ok(bytes)
}

/// One field, as the contract and the new schema have it.
struct Line {
    name: String,
    contract: Option<FieldSpec>,
    written: Option<FieldSpec>,
    /// What becomes of it.
    note: &'static str,
}

impl Line {
    fn to_json(&self) -> Json {
        let kind = |spec: &Option<FieldSpec>| spec.as_ref().map(|spec| spec.type_text.clone());
        json!({ "name": self.name, "contract": kind(&self.contract), "schema": kind(&self.written), "note": self.note })
    }
}

/// The contract's fields in their order, then those that only the new schema has.
fn compare(source: &SourceSpec, written: &Fields) -> Vec<Line> {
    let in_contract = |name: &str| source.fields.0.iter().any(|(field, _)| field == name);
    let of_contract = source.fields.0.iter().map(|(name, contract)| {
        let written = written.0.iter().find(|(field, _)| field == name).map(|(_, written)| written.clone());
        let note = match &written {
            None if contract.nullable => "null: the schema has no such field",
            None => "required, and the schema has no such field",
            Some(written) if written.type_text == contract.type_text => "",
            Some(_) => "read as the contract says, where it fits",
        };
        Line { name: name.clone(), contract: Some(contract.clone()), written, note }
    });
    let new = written.0.iter().filter(|(name, _)| !in_contract(name)).map(|(name, written)| {
        let note = match source.unknown_fields {
            UnknownFields::Ignore => "left out: the contract has no such field",
            UnknownFields::Quarantine => {
                "records with it are rejected: add it to `fields`, or `unknown_fields: ignore`"
            }
        };
        Line { name: name.clone(), contract: None, written: Some(written.clone()), note }
    });
    of_contract.chain(new).collect()
}

fn render(source: &str, lines: &[Line], problems: &[String]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN).set_header(["field", "contract", "schema", ""]);
    for line in lines {
        let kind =
            |spec: &Option<FieldSpec>| spec.as_ref().map_or("-".to_owned(), |spec| spec.type_text.clone());
        table.add_row([&line.name, &kind(&line.contract), &kind(&line.written), line.note]);
    }
    let mut text = format!("{table}\n\n");
    // Writing to a string cannot fail.
    let _ = match problems {
        [] => writeln!(text, "ok records of this schema become rows of {source}"),
        problems => {
            let listed: String = problems.iter().map(|problem| format!("\n  {problem}")).collect();
            writeln!(text, "records of this schema do not become rows of {source}:{listed}")
        }
    };
    text
}

/// The `fields` of a source as they stand in a spec.
fn yaml_of(fields: &Fields) -> String {
    let mut text = "fields:\n".to_owned();
    for (name, spec) in &fields.0 {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  {}: {}", scalar(name), value_of(spec));
    }
    text
}

fn value_of(spec: &FieldSpec) -> String {
    let mut parts = vec![format!("type: {}", scalar(&spec.type_text))];
    if !spec.nullable {
        parts.push("nullable: false".to_owned());
    }
    let texts = [("description", &spec.description), ("unit", &spec.unit)];
    parts.extend(
        texts.into_iter().filter_map(|(name, text)| Some(format!("{name}: {}", quoted(text.as_ref()?)))),
    );
    if parts.len() == 1 { scalar(&spec.type_text) } else { format!("{{ {} }}", parts.join(", ")) }
}

/// `text` as YAML, in quotes where it could be taken for something else.
fn scalar(text: &str) -> String {
    let is_plain = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        && !["true", "false", "null", "yes", "no", "on", "off", "y", "n"]
            .contains(&text.to_lowercase().as_str());
    if is_plain { text.to_owned() } else { quoted(text) }
}

/// `text` in double quotes: JSON is YAML.
fn quoted(text: &str) -> String {
    Json::from(text).to_string()
}
