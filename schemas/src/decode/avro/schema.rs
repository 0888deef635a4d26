//! Avro schemas, with every name resolved.
//!
//! The texts are read by `apache-avro`, which knows the grammar and the rules of names. It has no bounds of its own, so
//! the size and the nesting of a text are checked first. What it makes of the text becomes an [`AvroSchema`], in which
//! types refer to each other by number, also in circles. Defaults and aliases are left out beforehand: a contract has
//! none, and those of a writer say nothing of its records.

use std::collections::HashMap;
use std::sync::Arc;

use apache_avro::Schema;
use apache_avro::schema::{FixedSchema, InnerDecimalSchema, RecordSchema, UuidSchema};
use serde_json::{Map, Value, json};

use crate::decode::registered::SchemaReference;
use crate::decode::reject::{excerpt, shortened};

/// Largest schema with all that it refers to, in bytes.
const SCHEMA_BYTES_MAX: usize = 4 << 20;

/// How deep the JSON of a schema may be nested; a record in a record takes three levels, in a union four.
const SCHEMA_DEPTH_MAX: usize = 100;

/// The name of the record that holds a schema and those it refers to, so that all are read as one. Without a
/// namespace, because what is inside would inherit it.
const ENVELOPE: &str = "IsobarSchemaAndReferences__";

/// A schema.
#[derive(Debug)]
pub(crate) struct AvroSchema {
    types: Vec<Type>,
    root: TypeId,
}

/// A type of a schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct TypeId(usize);

/// What a type is. Logical types stand beside the types that they are written as.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Type {
    Null,
    Boolean,
    Int,
    Long,
    Float,
    Double,
    Bytes,
    String,
    Date,
    TimeMillis,
    TimeMicros,
    Timestamp(Unit),
    LocalTimestamp(Unit),
    /// Unscaled, in two's complement, big-endian; in as many bytes as the fixed has, or as it says.
    Decimal {
        precision: usize,
        scale: usize,
        fixed: Option<Fixed>,
    },
    /// Bytes that hold a decimal and its scale.
    BigDecimal,
    /// A UUID as text.
    UuidText,
    /// A UUID as its 16 bytes.
    UuidFixed(Fixed),
    /// Months, days and milliseconds.
    Duration(Fixed),
    Fixed(Fixed),
    Enum {
        name: String,
        symbols: Arc<[String]>,
    },
    Array(TypeId),
    /// A map from strings.
    Map(TypeId),
    Union(Vec<TypeId>),
    Record {
        name: String,
        fields: Vec<Field>,
    },
}

/// The unit of a timestamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    Millis,
    Micros,
    Nanos,
}

/// So many bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fixed {
    pub(crate) name: String,
    pub(crate) size: usize,
}

/// A field of a record.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Field {
    pub(crate) name: String,
    pub(crate) doc: Option<String>,
    pub(crate) of: TypeId,
}

impl AvroSchema {
    /// Reads a schema and those that it refers to.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub(crate) fn parse(text: &str, references: &[SchemaReference]) -> Result<Self, String> {
        let bytes = text.len() + references.iter().map(|reference| reference.text.len()).sum::<usize>();
        if bytes > SCHEMA_BYTES_MAX {
            return Err(format!("its {bytes} bytes are more than the limit of {SCHEMA_BYTES_MAX}"));
        }
        // One record whose fields have these types: names defined by one are known to those after it.
        let texts = references.iter().map(|reference| reference.text.as_str()).chain([text]);
        let fields = texts.enumerate().map(|(index, text)| envelope_field(index, text));
        let fields = fields.collect::<Result<Vec<_>, _>>()?;
        let envelope = json!({ "type": "record", "name": ENVELOPE, "fields": fields });
        let schema = Schema::parse(&envelope).map_err(|error| excerpt(&error.to_string()))?;
        let Schema::Record(envelope) = schema else { return Err("it is not a schema".to_owned()) };
        let mut builder = Builder::default();
        let mut root = None;
        for field in &envelope.fields {
            root = Some(builder.add(&field.schema)?);
        }
        // There is one field at least, that of the schema itself.
        Ok(Self { types: builder.types, root: root.ok_or("it is not a schema")? })
    }

    /// The type of a whole value.
    pub(crate) fn root(&self) -> TypeId {
        self.root
    }

    /// What `id` is.
    #[inline]
    pub(crate) fn get(&self, id: TypeId) -> &Type {
        &self.types[id.0]
    }
}

/// The JSON of a schema, as a field of the envelope.
fn envelope_field(index: usize, text: &str) -> Result<Value, String> {
    // serde_json refuses to go deeper than 128 levels, so this recursion and the next are bounded.
    let mut schema: Value = serde_json::from_str(text).map_err(|error| excerpt(&error.to_string()))?;
    strip(&mut schema, SCHEMA_DEPTH_MAX)?;
    let mut field = Map::new();
    field.insert("name".to_owned(), Value::String(format!("schema_{index}")));
    field.insert("type".to_owned(), schema);
    Ok(Value::Object(field))
}

/// Leaves out defaults and aliases, and checks the depth.
fn strip(value: &mut Value, depth_left: usize) -> Result<(), String> {
    let deeper =
        || depth_left.checked_sub(1).ok_or_else(|| format!("it is nested more than {SCHEMA_DEPTH_MAX} deep"));
    match value {
        Value::Array(items) => {
            let depth_left = deeper()?;
            items.iter_mut().try_for_each(|item| strip(item, depth_left))
        }
        Value::Object(members) => {
            let depth_left = deeper()?;
            members.retain(|name, _| name != "default" && name != "aliases");
            members.values_mut().try_for_each(|member| strip(member, depth_left))
        }
        _ => Ok(()),
    }
}

/// Numbers the types of a schema.
#[derive(Default)]
struct Builder {
    types: Vec<Type>,
    /// Types with a name, by their full names.
    named: HashMap<String, TypeId>,
}

impl Builder {
    fn push(&mut self, added: Type) -> TypeId {
        self.types.push(added);
        TypeId(self.types.len() - 1)
    }

    /// The name of the type that will be added next.
    fn define(&mut self, name: &apache_avro::schema::Name) -> Result<String, String> {
        let name = name.fullname(None);
        match self.named.insert(name.clone(), TypeId(self.types.len())) {
            None => Ok(name),
            Some(_) => Err(format!("it defines `{}` twice", shortened(&name))),
        }
    }

    fn fixed(&mut self, schema: &FixedSchema) -> Result<Fixed, String> {
        Ok(Fixed { name: self.define(&schema.name)?, size: schema.size })
    }

    fn add(&mut self, schema: &Schema) -> Result<TypeId, String> {
        let added = match schema {
            Schema::Null => Type::Null,
            Schema::Boolean => Type::Boolean,
            Schema::Int => Type::Int,
            Schema::Long => Type::Long,
            Schema::Float => Type::Float,
            Schema::Double => Type::Double,
            Schema::Bytes | Schema::Uuid(UuidSchema::Bytes) => Type::Bytes,
            Schema::String => Type::String,
            Schema::Date => Type::Date,
            Schema::TimeMillis => Type::TimeMillis,
            Schema::TimeMicros => Type::TimeMicros,
            Schema::TimestampMillis => Type::Timestamp(Unit::Millis),
            Schema::TimestampMicros => Type::Timestamp(Unit::Micros),
            Schema::TimestampNanos => Type::Timestamp(Unit::Nanos),
            Schema::LocalTimestampMillis => Type::LocalTimestamp(Unit::Millis),
            Schema::LocalTimestampMicros => Type::LocalTimestamp(Unit::Micros),
            Schema::LocalTimestampNanos => Type::LocalTimestamp(Unit::Nanos),
            Schema::Decimal(decimal) => {
                let fixed = match &decimal.inner {
                    InnerDecimalSchema::Bytes => None,
                    InnerDecimalSchema::Fixed(fixed) => Some(self.fixed(fixed)?),
                };
                Type::Decimal { precision: decimal.precision, scale: decimal.scale, fixed }
            }
            Schema::BigDecimal => Type::BigDecimal,
            Schema::Uuid(UuidSchema::String) => Type::UuidText,
            Schema::Uuid(UuidSchema::Fixed(fixed)) => Type::UuidFixed(self.fixed(fixed)?),
            Schema::Duration(fixed) => Type::Duration(self.fixed(fixed)?),
            Schema::Fixed(fixed) => Type::Fixed(self.fixed(fixed)?),
            Schema::Enum(schema) => {
                Type::Enum { name: self.define(&schema.name)?, symbols: schema.symbols.as_slice().into() }
            }
            Schema::Array(array) => Type::Array(self.add(&array.items)?),
            Schema::Map(map) => Type::Map(self.add(&map.types)?),
            Schema::Union(union) => {
                let branches = union.variants().iter().map(|branch| self.add(branch));
                Type::Union(branches.collect::<Result<_, _>>()?)
            }
            Schema::Record(record) => return self.add_record(record),
            Schema::Ref { name } => {
                let name = name.fullname(None);
                let known = self.named.get(&name).copied();
                return known
                    .ok_or_else(|| format!("it refers to `{}`, which is not defined", shortened(&name)));
            }
        };
        Ok(self.push(added))
    }

    /// A record is numbered before its fields, which may refer to it.
    fn add_record(&mut self, record: &RecordSchema) -> Result<TypeId, String> {
        let name = self.define(&record.name)?;
        let id = self.push(Type::Null);
        let fields = record.fields.iter().map(|field| {
            Ok(Field { name: field.name.clone(), doc: field.doc.clone(), of: self.add(&field.schema)? })
        });
        let fields = fields.collect::<Result<_, String>>()?;
        self.types[id.0] = Type::Record { name, fields };
        Ok(id)
    }
}

impl Type {
    /// What to call the type in a message.
    pub(crate) fn describe(&self) -> String {
        let named = |kind: &str, name: &str| format!("{kind} `{}`", shortened(name));
        match self {
            Type::Null => "null".to_owned(),
            Type::Boolean => "boolean".to_owned(),
            Type::Int => "int".to_owned(),
            Type::Long => "long".to_owned(),
            Type::Float => "float".to_owned(),
            Type::Double => "double".to_owned(),
            Type::Bytes => "bytes".to_owned(),
            Type::String => "string".to_owned(),
            Type::Date => "date".to_owned(),
            Type::TimeMillis => "time-millis".to_owned(),
            Type::TimeMicros => "time-micros".to_owned(),
            Type::Timestamp(unit) => format!("timestamp-{}", unit.as_str()),
            Type::LocalTimestamp(unit) => format!("local-timestamp-{}", unit.as_str()),
            Type::Decimal { precision, scale, .. } => format!("decimal({precision},{scale})"),
            Type::BigDecimal => "big-decimal".to_owned(),
            Type::UuidText | Type::UuidFixed(_) => "uuid".to_owned(),
            Type::Duration(_) => "duration".to_owned(),
            Type::Fixed(fixed) => named("fixed", &fixed.name),
            Type::Enum { name, .. } => named("enum", name),
            Type::Array(_) => "array".to_owned(),
            Type::Map(_) => "map".to_owned(),
            Type::Union(_) => "union".to_owned(),
            Type::Record { name, .. } => named("record", name),
        }
    }
}

impl Unit {
    fn as_str(self) -> &'static str {
        match self {
            Unit::Millis => "millis",
            Unit::Micros => "micros",
            Unit::Nanos => "nanos",
        }
    }
}
