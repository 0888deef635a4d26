//! CSV (RFC 4180): a payload is one line, and each of its fields is a column.
//!
//! The fields of a line are those of the contract, in its order, or those that a header given with the format names;
//! a payload has no header of its own. A line may end with a line break or not. A field in quotes may hold delimiters,
//! line breaks and doubled quotes; a field without quotes is all of its text, spaces included.
//!
//! | type | text |
//! |---|---|
//! | `boolean` | `true`, `false` |
//! | numbers | what JSON calls a number, as exact as the JSON decoder wants it |
//! | `string` | any |
//! | `binary` | Base64 |
//! | `date`, `timestamp` | as in JSON, without the quotes |
//!
//! Nothing between two delimiters is null; `""` is the empty text. A line with fewer or more fields than expected is
//! rejected as a whole: which of them are missing, nobody can tell. So is what RFC 4180 does not allow and lenient
//! readers guess at: a quote inside a field without quotes, text after a closing quote, a quote that is never closed,
//! a byte order mark, a second line. Lists, structs and maps have no text, and a contract with one is refused.

use std::collections::HashMap;

use arrow::datatypes::{DataType, SchemaRef};
use csv_core::{ReadFieldResult, Reader, ReaderBuilder};

use super::columns::{Column, Columns, Values};
use super::json::{base64, check_utf8, is_number};
use super::reject::{Fault, Parsed, RejectReason};
use super::rows::{Expansion, Rows};
use super::{DecodeLimits, Decoded, Decoder, numbers, temporal};
use crate::error::Error;
use crate::fields::type_name;
use crate::records::RecordChunk;

/// How lines of CSV are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CsvFormat {
    /// What stands between two fields: one ASCII character, neither a quote nor a line break.
    pub delimiter: u8,
    /// The names of a line's fields, in their order. Those that the contract does not have are left out; those of the
    /// contract that are not here are null. If there is no header, a line has the fields of the contract.
    pub header: Option<Vec<String>>,
}

impl Default for CsvFormat {
    fn default() -> Self {
        Self { delimiter: b',', header: None }
    }
}

/// Turns lines of CSV into batches of one schema. See the [module](self).
#[derive(Debug)]
pub struct CsvDecoder {
    rows: Rows,
    line: Line,
}

impl CsvDecoder {
    /// A decoder into batches of `schema`.
    ///
    /// # Errors
    /// If the delimiter cannot be one, the header names a field twice or lacks a required one, or a field of the schema
    /// is of a type that has no text.
    pub fn new(schema: SchemaRef, format: &CsvFormat, limits: DecodeLimits) -> Result<Self, Error> {
        if !format.delimiter.is_ascii() || matches!(format.delimiter, b'"' | b'\n' | b'\r' | 0) {
            return Err(Error::CsvDelimiter { delimiter: format.delimiter.escape_ascii().to_string() });
        }
        check_types(&schema)?;
        let targets = match &format.header {
            Some(header) => targets(&schema, header)?,
            None => (0..schema.fields().len()).map(Some).collect(),
        };
        let reader = ReaderBuilder::new().delimiter(format.delimiter).build();
        let line = Line { reader, targets, text: Vec::new() };
        Ok(Self { rows: Rows::new(schema, limits, Expansion::NONE)?, line })
    }
}

impl Decoder for CsvDecoder {
    fn schema(&self) -> &SchemaRef {
        self.rows.schema()
    }

    fn decode(&mut self, chunk: &RecordChunk) -> Result<Decoded, Error> {
        let Self { rows, line } = self;
        rows.decode(chunk, |payload, columns| line.read(payload, columns))
    }
}

/// Refuses types that have no text.
fn check_types(schema: &SchemaRef) -> Result<(), Error> {
    let nested = |data_type: &DataType| {
        matches!(data_type, DataType::List(_) | DataType::Struct(_) | DataType::Map(..))
    };
    match schema.fields().iter().find(|field| nested(field.data_type())) {
        None => Ok(()),
        Some(field) => Err(Error::InvalidForFormat {
            field: field.name().clone(),
            format: "csv",
            problem: format!("{} has no form in CSV", type_name(field.data_type())),
        }),
    }
}

/// For each name of `header` the column it is.
fn targets(schema: &SchemaRef, header: &[String]) -> Result<Vec<Option<usize>>, Error> {
    let problem = |field: &str, problem: &str| Error::InvalidForFormat {
        field: field.to_owned(),
        format: "csv",
        problem: problem.to_owned(),
    };
    let mut places = HashMap::new();
    for (place, name) in header.iter().enumerate() {
        if places.insert(name.as_str(), place).is_some() {
            return Err(problem(name, "the header names it twice"));
        }
    }
    let missing = |name: &str, nullable: bool| !nullable && !places.contains_key(name);
    if let Some(field) = schema.fields().iter().find(|field| missing(field.name(), field.is_nullable())) {
        return Err(problem(field.name(), "required, but the header does not name it"));
    }
    Ok(header.iter().map(|name| schema.index_of(name).ok()).collect())
}

/// Reads one payload.
#[derive(Debug)]
struct Line {
    reader: Reader,
    /// For each field of a line, the column it goes to.
    targets: Vec<Option<usize>>,
    /// The text of the field being read, without quotes. Of each payload it has room for all.
    text: Vec<u8>,
}

impl Line {
    fn read(&mut self, payload: &[u8], columns: &mut Columns) -> Parsed<()> {
        let line = without_line_break(check_utf8(payload)?);
        self.reader.reset();
        if self.text.len() < line.len() {
            self.text.resize(line.len(), 0);
        }
        let mut rest = Some(line);
        let mut fields = 0;
        while let Some(text) = rest {
            let (field, after) = next_field(&mut self.reader, text, &mut self.text)?;
            if let Some(target) = self.targets.get(fields).copied().flatten() {
                let column = columns.column(target);
                push_field(field, column).map_err(|fault| fault.within(column.field.name()))?;
            }
            fields += 1;
            rest = after;
        }
        if fields != self.targets.len() {
            return Err(undecodable(&format!("expected {} fields, found {fields}", self.targets.len())));
        }
        columns.fill_missing()?;
        columns.end_row();
        Ok(())
    }
}

/// `text` without the line break that it may end with.
fn without_line_break(text: &str) -> &str {
    text.strip_suffix("\r\n").or_else(|| text.strip_suffix('\n')).unwrap_or(text)
}

/// A field of a line.
#[derive(Debug, Clone, Copy)]
struct Field<'a> {
    text: &'a str,
    quoted: bool,
}

/// Reads the field at the start of `line`, and returns it and what follows its delimiter, if one does. The text goes to
/// `out`, which has room for the whole line.
fn next_field<'a, 't>(
    reader: &mut Reader,
    line: &'a str,
    out: &'t mut [u8],
) -> Parsed<(Field<'t>, Option<&'a str>)> {
    let (result, read, mut written) = reader.read_field(line.as_bytes(), out);
    let (raw, after) = match result {
        ReadFieldResult::Field { record_end: false } => (&line[..read - 1], Some(&line[read..])),
        ReadFieldResult::Field { record_end: true } if read > 0 => {
            return Err(undecodable("a second line"));
        }
        ReadFieldResult::InputEmpty => {
            // No input is the end of it; what is left of the field follows.
            written += reader.read_field(&[], &mut out[written..]).2;
            (line, None)
        }
        ReadFieldResult::Field { .. } | ReadFieldResult::End => (line, None),
        ReadFieldResult::OutputFull => return Err(undecodable("a field is longer than its line")),
    };
    // Never an error: what the reader leaves out of the text of a payload is single characters.
    let text = std::str::from_utf8(&out[..written]).map_err(|_| undecodable("a field is not UTF-8"))?;
    check_quotes(raw, text)?;
    Ok((Field { text, quoted: raw.starts_with('"') }, after))
}

/// Holds the text that the reader made of `raw` against the one way in which RFC 4180 writes that text, with quotes
/// or without. The reader itself takes anything.
fn check_quotes(raw: &str, text: &str) -> Parsed<()> {
    if !raw.starts_with('"') {
        return match raw {
            _ if raw != text => Err(undecodable("a byte order mark, or a second line")),
            _ if raw.contains('"') => Err(undecodable("a quote inside a field without quotes")),
            _ if raw.contains(['\n', '\r']) => Err(undecodable("a second line")),
            _ => Ok(()),
        };
    }
    let quotes = text.bytes().filter(|byte| *byte == b'"').count();
    if raw.len() != text.len() + quotes + 2 || !raw.ends_with('"') {
        return Err(undecodable("a field in quotes is not closed, or goes on after its closing quote"));
    }
    Ok(())
}

/// Appends `field` to `column`, by the rules that the JSON decoder has for the same text.
fn push_field(field: Field<'_>, column: &mut Column) -> Parsed<()> {
    let Field { text, quoted } = field;
    if text.is_empty() && !quoted {
        return column.push_null();
    }
    match &mut column.values {
        Values::String(slices) => slices.push(text.as_bytes()),
        Values::Binary(slices) => {
            base64::decode(text.as_bytes(), &mut slices.bytes).ok_or_else(|| invalid("bytes in Base64"))?;
            slices.close();
        }
        Values::Date(values) => {
            values.push(temporal::date(text).ok_or_else(|| invalid("a date such as 2013-01-31"))?);
        }
        Values::Timestamp(values) => {
            let form = "a timestamp such as 2013-01-31T05:00:00Z";
            values.push(temporal::timestamp_micros(text).ok_or_else(|| invalid(form))?);
        }
        Values::Boolean(values) => match text {
            "true" => values.append(true),
            "false" => values.append(false),
            _ => return Err(wrong_type(column)),
        },
        _ if !is_number(text) => return Err(wrong_type(column)),
        Values::Int8(values) => values.push(numbers::integer(text, "int8")?),
        Values::Int16(values) => values.push(numbers::integer(text, "int16")?),
        Values::Int32(values) => values.push(numbers::integer(text, "int32")?),
        Values::Int64(values) => values.push(numbers::integer(text, "int64")?),
        Values::Float32(values) => values.push(numbers::float32(text)?),
        Values::Float64(values) => values.push(numbers::float64(text)?),
        Values::Decimal(values, precision, scale) => {
            values.push(numbers::decimal(text, *precision, *scale)?);
        }
        Values::List(..) | Values::Struct(_) | Values::Map(..) => return Err(wrong_type(column)),
    }
    column.set_present();
    Ok(())
}

#[cold]
fn undecodable(problem: &str) -> Box<Fault> {
    Fault::new(RejectReason::Undecodable, problem)
}

#[cold]
fn invalid(form: &str) -> Box<Fault> {
    Fault::new(RejectReason::InvalidValue, format!("the text is not {form}"))
}

#[cold]
fn wrong_type(column: &Column) -> Box<Fault> {
    let expected = type_name(column.field.data_type());
    Fault::new(RejectReason::WrongType, format!("expected {expected}, found other text"))
}

#[cfg(test)]
mod tests;
