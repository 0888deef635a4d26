//! The `fields` of a source in a spec: names, types, and what they mean.
//!
//! ```yaml
//! fields:                     # the order is the order of the columns
//!   year: int32               # short: a type, nullable
//!   dep_time: { type: int32, nullable: false, description: "actual departure", unit: "hhmm, local" }
//! ```
//!
//! [`Fields`] mirrors the file. [`to_arrow_schema`] resolves it to an Arrow schema, and [`check`] reports everything
//! that stands in the way. Descriptions and units are for people: they are not part of the Arrow schema, so changing
//! one never changes a byte of data.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use arrow::datatypes::{self, DataType, Field, Schema, SchemaRef, TimeUnit};
use schemars::{JsonSchema, Schema as JsonSchemaObject, SchemaGenerator, json_schema};
use serde::de::{self, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::Error;
use crate::metadata::MetadataColumn;

/// The time zone of every timestamp.
pub(crate) const UTC: &str = "UTC";

/// How deep types may be nested in each other.
const TYPE_DEPTH_MAX: usize = 32;

/// The fields of a source, in the order of the columns.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fields(pub Vec<(String, FieldSpec)>);

/// One field of a source, as written in a spec.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FieldSpec {
    /// The type, such as `int32`. [`FieldType`] says which there are.
    #[serde(rename = "type")]
    pub type_text: String,
    /// Whether a record may leave the field out or have null in it. True unless said otherwise.
    pub nullable: bool,
    /// What the field means.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The unit of the field's values.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
}

impl FieldSpec {
    /// A nullable field of the type `type_text`.
    pub fn nullable(type_text: impl Into<String>) -> Self {
        Self { type_text: type_text.into(), nullable: true, description: None, unit: None }
    }
}

/// Resolves `fields` to the schema of decoded batches.
///
/// # Errors
/// The first of those that [`check`] reports.
pub fn to_arrow_schema(fields: &Fields) -> Result<SchemaRef, Error> {
    if fields.0.is_empty() {
        return Err(Error::NoFields);
    }
    let fields =
        fields.0.iter().map(|(name, spec)| to_arrow_field(name, spec)).collect::<Result<Vec<_>, _>>()?;
    Ok(Arc::new(Schema::new(fields)))
}

/// Everything that is wrong with `fields`, in their order.
pub fn check(fields: &Fields) -> Vec<Error> {
    if fields.0.is_empty() {
        return vec![Error::NoFields];
    }
    fields.0.iter().filter_map(|(name, spec)| to_arrow_field(name, spec).err()).collect()
}

fn to_arrow_field(name: &str, spec: &FieldSpec) -> Result<Field, Error> {
    let invalid_name = |problem| Error::InvalidName { field: name.to_owned(), problem };
    if name.is_empty() {
        return Err(invalid_name("a field needs a name"));
    }
    if MetadataColumn::from_name(name).is_some() {
        return Err(invalid_name(
            "the name is that of a metadata column of every source; ask the producer to rename the field",
        ));
    }
    let field_type = FieldType::from_str(&spec.type_text)
        .map_err(|source| Error::InvalidType { field: name.to_owned(), source })?;
    Ok(Field::new(name, field_type.to_arrow(), spec.nullable))
}

/// The type of a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FieldType {
    /// `boolean`
    Boolean,
    /// `int8`
    Int8,
    /// `int16`
    Int16,
    /// `int32`
    Int32,
    /// `int64`
    Int64,
    /// `float32`
    Float32,
    /// `float64`
    Float64,
    /// `string`: UTF-8
    String,
    /// `binary`: bytes
    Binary,
    /// `date`: a day
    Date,
    /// `timestamp`: an instant in UTC, in microseconds
    Timestamp,
    /// `decimal(precision,scale)`: up to 38 digits, so many of them after the point
    Decimal(u8, u8),
    /// `list<element>`; elements may be null
    List(Box<FieldType>),
    /// `struct<name: type, …>`; each may be null
    Struct(Vec<(String, FieldType)>),
    /// `map<string, value>`; values may be null
    Map(Box<FieldType>),
}

/// The types without parameters.
const SIMPLE_TYPES: [(&str, FieldType); 11] = [
    ("boolean", FieldType::Boolean),
    ("int8", FieldType::Int8),
    ("int16", FieldType::Int16),
    ("int32", FieldType::Int32),
    ("int64", FieldType::Int64),
    ("float32", FieldType::Float32),
    ("float64", FieldType::Float64),
    ("string", FieldType::String),
    ("binary", FieldType::Binary),
    ("date", FieldType::Date),
    ("timestamp", FieldType::Timestamp),
];

/// The types with parameters.
const NESTED_TYPES: [&str; 4] = ["decimal", "list", "struct", "map"];

/// What other systems call these types.
const SYNONYMS: [(&str, &str); 27] = [
    ("bool", "boolean"),
    ("tinyint", "int8"),
    ("byte", "int8"),
    ("smallint", "int16"),
    ("short", "int16"),
    ("int", "int32"),
    ("integer", "int32"),
    ("bigint", "int64"),
    ("long", "int64"),
    ("uint8", "int16"),
    ("uint16", "int32"),
    ("uint32", "int64"),
    ("uint64", "decimal(20,0)"),
    ("float", "float32"),
    ("real", "float32"),
    ("double", "float64"),
    ("number", "float64"),
    ("numeric", "decimal(38,9)"),
    ("decimal", "decimal(38,9)"),
    ("text", "string"),
    ("varchar", "string"),
    ("utf8", "string"),
    ("bytes", "binary"),
    ("datetime", "timestamp"),
    ("timestamptz", "timestamp"),
    ("array", "list<string>"),
    ("object", "struct<name: string>"),
];

impl FieldType {
    /// The Arrow type of decoded columns, with names inside as Delta tables have them.
    pub fn to_arrow(&self) -> DataType {
        match self {
            FieldType::Boolean => DataType::Boolean,
            FieldType::Int8 => DataType::Int8,
            FieldType::Int16 => DataType::Int16,
            FieldType::Int32 => DataType::Int32,
            FieldType::Int64 => DataType::Int64,
            FieldType::Float32 => DataType::Float32,
            FieldType::Float64 => DataType::Float64,
            FieldType::String => DataType::Utf8,
            FieldType::Binary => DataType::Binary,
            FieldType::Date => DataType::Date32,
            FieldType::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, Some(UTC.into())),
            FieldType::Decimal(precision, scale) => DataType::Decimal128(*precision, *scale as i8),
            FieldType::List(element) => {
                DataType::List(Arc::new(Field::new("element", element.to_arrow(), true)))
            }
            FieldType::Struct(fields) => DataType::Struct(
                fields
                    .iter()
                    .map(|(name, field_type)| Field::new(name, field_type.to_arrow(), true))
                    .collect(),
            ),
            FieldType::Map(value) => {
                let key = Field::new("key", DataType::Utf8, false);
                let value = Field::new("value", value.to_arrow(), true);
                let entries = DataType::Struct(datatypes::Fields::from(vec![key, value]));
                DataType::Map(Arc::new(Field::new("key_value", entries, false)), false)
            }
        }
    }
}

/// What a spec calls the Arrow type `data_type`; Arrow's own name for types that no spec can express.
pub fn type_name(data_type: &DataType) -> String {
    match data_type {
        DataType::Boolean => "boolean".to_owned(),
        DataType::Int8 => "int8".to_owned(),
        DataType::Int16 => "int16".to_owned(),
        DataType::Int32 => "int32".to_owned(),
        DataType::Int64 => "int64".to_owned(),
        DataType::Float32 => "float32".to_owned(),
        DataType::Float64 => "float64".to_owned(),
        DataType::Utf8 => "string".to_owned(),
        DataType::Binary => "binary".to_owned(),
        DataType::Date32 => "date".to_owned(),
        DataType::Timestamp(TimeUnit::Microsecond, Some(zone)) if zone.as_ref() == UTC => {
            "timestamp".to_owned()
        }
        DataType::Decimal128(precision, scale) => format!("decimal({precision},{scale})"),
        DataType::List(element) => format!("list<{}>", type_name(element.data_type())),
        DataType::Struct(fields) => {
            let fields: Vec<_> = fields
                .iter()
                .map(|field| format!("{}: {}", field.name(), type_name(field.data_type())))
                .collect();
            format!("struct<{}>", fields.join(", "))
        }
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(fields) if fields.len() == 2 => {
                format!("map<{}, {}>", type_name(fields[0].data_type()), type_name(fields[1].data_type()))
            }
            _ => data_type.to_string(),
        },
        other => other.to_string(),
    }
}

impl fmt::Display for FieldType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&type_name(&self.to_arrow()))
    }
}

/// A text that is not a type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{written}` is not a type: {problem}")]
pub struct InvalidType {
    /// The text.
    pub written: String,
    /// What is wrong with it, and what may have been meant.
    pub problem: String,
    /// The nearest text that is a type, if one is near.
    pub suggestion: Option<String>,
}

impl FromStr for FieldType {
    type Err = InvalidType;

    fn from_str(text: &str) -> Result<Self, InvalidType> {
        let mut parser = TypeParser { rest: text.trim(), depth: 0 };
        let parsed = parser.field_type().and_then(|field_type| match parser.rest {
            "" => Ok(field_type),
            rest => Err(Problem::of(format!("nothing may follow the type, but `{rest}` does"))),
        });
        parsed.map_err(|problem| InvalidType {
            written: text.to_owned(),
            problem: problem.text,
            suggestion: problem.suggestion,
        })
    }
}

struct Problem {
    text: String,
    suggestion: Option<String>,
}

impl Problem {
    fn of(text: impl Into<String>) -> Self {
        Self { text: text.into(), suggestion: None }
    }

    fn unknown_type(word: &str) -> Self {
        let suggestion = nearest_type(word);
        let known = SIMPLE_TYPES.map(|(name, _)| name).join(", ");
        let known = format!("{known}, decimal(p,s), list<…>, struct<name: type, …> and map<string, …>");
        let text = match &suggestion {
            Some(suggestion) => format!("did you mean `{suggestion}`? The types are {known}"),
            None => format!("the types are {known}"),
        };
        Self { text, suggestion }
    }
}

/// The type that `word` most likely means.
fn nearest_type(word: &str) -> Option<String> {
    let word = word.to_lowercase();
    if let Some((_, meant)) = SYNONYMS.iter().find(|(synonym, _)| *synonym == word) {
        return Some((*meant).to_owned());
    }
    let names = SIMPLE_TYPES.iter().map(|(name, _)| *name).chain(NESTED_TYPES);
    let (distance, nearest) = names.map(|name| (strsim::damerau_levenshtein(&word, name), name)).min()?;
    (distance <= 1 + nearest.len() / 4).then(|| nearest.to_owned())
}

/// Recursive descent over `name`, `decimal(p,s)`, `list<type>`, `struct<name: type, …>`, `map<string, type>`.
struct TypeParser<'a> {
    rest: &'a str,
    depth: usize,
}

impl<'a> TypeParser<'a> {
    fn field_type(&mut self) -> Result<FieldType, Problem> {
        self.depth += 1;
        if self.depth > TYPE_DEPTH_MAX {
            return Err(Problem::of(format!("types are nested more than {TYPE_DEPTH_MAX} deep")));
        }
        let word = self.word();
        let field_type = match word {
            "decimal" if self.rest.starts_with('(') => self.decimal()?,
            "list" => {
                self.expect('<', "list<element>")?;
                let element = self.field_type()?;
                self.expect('>', "list<element>")?;
                FieldType::List(Box::new(element))
            }
            "map" => self.map()?,
            "struct" => self.structure()?,
            _ => match SIMPLE_TYPES.iter().find(|(name, _)| *name == word) {
                Some((_, field_type)) => field_type.clone(),
                None => return Err(Problem::unknown_type(word)),
            },
        };
        self.depth -= 1;
        Ok(field_type)
    }

    fn decimal(&mut self) -> Result<FieldType, Problem> {
        self.expect('(', "decimal(precision,scale)")?;
        let precision = self.word().parse::<u8>().unwrap_or(0);
        self.expect(',', "decimal(precision,scale)")?;
        let scale = self.word().parse::<u8>().unwrap_or(u8::MAX);
        self.expect(')', "decimal(precision,scale)")?;
        if !(1..=38).contains(&precision) || scale > precision {
            return Err(Problem::of(
                "the precision must be from 1 to 38, and the scale from 0 to the precision",
            ));
        }
        Ok(FieldType::Decimal(precision, scale))
    }

    fn map(&mut self) -> Result<FieldType, Problem> {
        self.expect('<', "map<string, value>")?;
        if self.field_type()? != FieldType::String {
            return Err(Problem::of("the keys of a map are strings: map<string, value>"));
        }
        self.expect(',', "map<string, value>")?;
        let value = self.field_type()?;
        self.expect('>', "map<string, value>")?;
        Ok(FieldType::Map(Box::new(value)))
    }

    fn structure(&mut self) -> Result<FieldType, Problem> {
        self.expect('<', "struct<name: type, …>")?;
        let mut fields: Vec<(String, FieldType)> = Vec::new();
        loop {
            let name = self.until(&[':', ',', '<', '>']).trim();
            if name.is_empty() {
                return Err(Problem::of("a field of a struct needs a name: struct<name: type, …>"));
            }
            if fields.iter().any(|(other, _)| other == name) {
                return Err(Problem::of(format!("the struct has two fields `{name}`")));
            }
            self.expect(':', "struct<name: type, …>")?;
            fields.push((name.to_owned(), self.field_type()?));
            if !self.take(',') {
                self.expect('>', "struct<name: type, …>")?;
                return Ok(FieldType::Struct(fields));
            }
        }
    }

    /// The text up to a bracket, comma or colon.
    fn word(&mut self) -> &'a str {
        let word = self.until(&['<', '>', '(', ')', ',', ':']);
        word.trim()
    }

    fn until(&mut self, ends: &[char]) -> &'a str {
        let end = self.rest.find(ends).unwrap_or(self.rest.len());
        let (text, rest) = self.rest.split_at(end);
        self.rest = rest;
        text
    }

    fn take(&mut self, expected: char) -> bool {
        self.rest = self.rest.trim_start();
        let rest = self.rest.strip_prefix(expected);
        self.rest = rest.map_or(self.rest, str::trim_start);
        rest.is_some()
    }

    fn expect(&mut self, expected: char, form: &str) -> Result<(), Problem> {
        if self.take(expected) {
            return Ok(());
        }
        let found = match self.rest {
            "" => "the end".to_owned(),
            rest => format!("`{rest}`"),
        };
        Err(Problem::of(format!("expected `{expected}` before {found}, as in {form}")))
    }
}

/// The long form of a field.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct LongForm {
    /// The type.
    #[serde(rename = "type")]
    #[schemars(schema_with = "type_json_schema")]
    type_text: String,
    /// Whether a record may leave the field out or have null in it.
    #[serde(default = "nullable_by_default")]
    nullable: bool,
    /// What the field means.
    #[serde(default)]
    description: Option<String>,
    /// The unit of the field's values, such as `minutes` or `hhmm, local`.
    #[serde(default)]
    unit: Option<String>,
}

fn nullable_by_default() -> bool {
    true
}

impl<'de> Deserialize<'de> for FieldSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ShortOrLong;

        impl<'de> Visitor<'de> for ShortOrLong {
            type Value = FieldSpec;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a type such as `int32`, or `{ type: int32, nullable: false, description: … }`")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<FieldSpec, E> {
                Ok(FieldSpec::nullable(text))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<FieldSpec, A::Error> {
                let LongForm { type_text, nullable, description, unit } =
                    LongForm::deserialize(de::value::MapAccessDeserializer::new(map))?;
                Ok(FieldSpec { type_text, nullable, description, unit })
            }
        }

        deserializer.deserialize_any(ShortOrLong)
    }
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;

        impl<'de> Visitor<'de> for InOrder {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map from the names of fields to their types")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields: Vec<(String, FieldSpec)> = Vec::new();
                while let Some((name, spec)) = map.next_entry::<String, FieldSpec>()? {
                    if fields.iter().any(|(other, _)| *other == name) {
                        return Err(de::Error::custom(format!("field `{name}` is given twice")));
                    }
                    fields.push((name, spec));
                }
                Ok(Fields(fields))
            }
        }

        deserializer.deserialize_map(InOrder)
    }
}

impl Serialize for Fields {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, spec) in &self.0 {
            map.serialize_entry(name, spec)?;
        }
        map.end()
    }
}

/// For editors: the simple types complete, the others by their beginning.
fn type_json_schema(_: &mut SchemaGenerator) -> JsonSchemaObject {
    let names = SIMPLE_TYPES.map(|(name, _)| name);
    let nested = format!("^({})\\s*[<(]", NESTED_TYPES.join("|"));
    json_schema!({ "type": "string", "anyOf": [{ "enum": names }, { "pattern": nested }] })
}

impl JsonSchema for FieldSpec {
    fn schema_name() -> Cow<'static, str> {
        "FieldSpec".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> JsonSchemaObject {
        let short = type_json_schema(generator);
        let long = LongForm::json_schema(generator);
        json_schema!({
            "description": "A type, or a type with more about the field.",
            "anyOf": [short, long],
        })
    }
}

impl JsonSchema for Fields {
    fn schema_name() -> Cow<'static, str> {
        "Fields".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> JsonSchemaObject {
        let field = generator.subschema_for::<FieldSpec>();
        json_schema!({
            "description": "The fields of a record and their types, in the order of the columns.",
            "type": "object",
            "minProperties": 1,
            "additionalProperties": field,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Fields {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn short_and_long_forms_keep_their_order() {
        let fields = parse(
            r#"{"year": "int32", "b": {"type": "list<string>", "nullable": false, "unit": "m", "description": "d"},
                "a": "timestamp"}"#,
        );
        let schema = to_arrow_schema(&fields).unwrap();
        assert_eq!(
            schema.fields().iter().map(|field| field.name().as_str()).collect::<Vec<_>>(),
            ["year", "b", "a"]
        );
        assert!(schema.field(0).is_nullable());
        assert!(!schema.field(1).is_nullable());
        assert!(schema.fields().iter().all(|field| field.metadata().is_empty()));
        assert_eq!(parse(&serde_json::to_string(&fields).unwrap()), fields);
    }

    #[test]
    fn every_type_is_what_it_displays() {
        let nested = "struct<a: list<decimal(38,9)>, b c: map<string, struct<d: timestamp>>>";
        let simple = SIMPLE_TYPES.iter().map(|(name, _)| *name);
        for text in simple.chain([nested, "decimal(1,0)", "list<list<date>>", "map<string, binary>"]) {
            let field_type = FieldType::from_str(text).unwrap();
            assert_eq!(field_type.to_string(), text);
            assert_eq!(type_name(&field_type.to_arrow()), text);
        }
        let spaced = " struct < a :list< decimal ( 38 , 9 ) >,b c: map<string,struct<d:timestamp>> > ";
        assert_eq!(FieldType::from_str(spaced).unwrap(), FieldType::from_str(nested).unwrap());
    }

    #[test]
    fn a_wrong_type_names_the_field_the_text_and_the_nearest_type() {
        for (written, suggestion) in [
            ("int23", Some("int32")),
            ("Int32", Some("int32")),
            ("integer", Some("int32")),
            ("STRING", Some("string")),
            ("timestmap", Some("timestamp")),
            ("datetime", Some("timestamp")),
            ("double", Some("float64")),
            ("uint64", Some("decimal(20,0)")),
            ("list<strin>", Some("string")),
            ("qqq", None),
            ("", None),
        ] {
            let error = FieldType::from_str(written).unwrap_err();
            assert_eq!(error.suggestion.as_deref(), suggestion, "{written}");
        }
        let fields =
            parse(r#"{"year": "int23", "month": "int32", "day": "qqq", "_offset": "int64", "": "date"}"#);
        let problems: Vec<_> = check(&fields).iter().map(ToString::to_string).collect();
        assert_eq!(problems.len(), 4);
        assert!(
            problems[0].starts_with("field `year`: `int23` is not a type: did you mean `int32`?"),
            "{problems:?}"
        );
        assert!(problems[2].contains("`_offset`"));
        assert_eq!(to_arrow_schema(&fields).unwrap_err().to_string(), problems[0]);
        assert!(matches!(to_arrow_schema(&Fields::default()), Err(Error::NoFields)));
    }

    #[test]
    fn malformed_types_are_refused() {
        for text in [
            "int32 x",
            "int32>",
            "list",
            "list<",
            "list<int32",
            "list<int32>>",
            "list<>",
            "map<int32, string>",
            "map<string>",
            "struct<>",
            "struct<a>",
            "struct<a: int32, a: int32>",
            "struct<a: int32,>",
            "decimal",
            "decimal(0,0)",
            "decimal(39,0)",
            "decimal(5,6)",
            "decimal(5)",
            "decimal(5,-1)",
            &"list<".repeat(100_000),
        ] {
            assert!(FieldType::from_str(text).is_err(), "{text}");
        }
    }

    #[test]
    fn wrong_forms_are_refused_in_words() {
        for (json, expected) in [
            (r#"{"a": 7}"#, "a type such as `int32`"),
            (r#"{"a": {"nullable": true}}"#, "missing field `type`"),
            (r#"{"a": {"type": "int32", "nulable": true}}"#, "unknown field `nulable`"),
            (r#"{"a": "int32", "a": "int32"}"#, "field `a` is given twice"),
            (r#"["int32"]"#, "a map from the names of fields"),
        ] {
            let error = serde_json::from_str::<Fields>(json).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn the_json_schema_lists_the_types() {
        let schema = serde_json::to_string(&schemars::schema_for!(Fields)).unwrap();
        for part in ["timestamp", "additionalProperties", "nullable", "decimal"] {
            assert!(schema.contains(part), "{schema}");
        }
    }
}
