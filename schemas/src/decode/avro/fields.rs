//! The fields of a source, derived from an Avro schema.

use super::parse;
use super::schema::{AvroSchema, Field, Type, TypeId};
use crate::decode::RegisteredSchema;
use crate::decode::debezium::Member;
use crate::decode::reject::shortened;
use crate::error::Error;
use crate::fields::{FieldSpec, FieldType, Fields, check};

/// How deep the types of a contract may be nested: as deep as they can be written in a spec.
const DEPTH_MAX: usize = 32;

/// Most types that the fields may have all together.
const TYPES_MAX: usize = 1 << 16;

/// The `fields` of a source whose records are written with `schema`: those that hold every value of it.
///
/// Fields that may be null are nullable, and documentation becomes descriptions. Types that Avro has and contracts have
/// not become those that the table of [the module](super) names, with the unit beside.
///
/// # Errors
/// If it is not an Avro schema of a record, or a field has no type in a contract: it refers to itself, has branches of
/// different kinds or no fields, is always null, or has more than 38 digits.
pub fn fields_of_avro(schema: &RegisteredSchema) -> Result<Fields, Error> {
    let schema = parse(schema).map_err(|problem| Error::WriterSchema { problem })?;
    let Type::Record { fields, .. } = schema.get(schema.root()) else {
        let problem = format!("its {} is not a record", schema.get(schema.root()).describe());
        return Err(Error::WriterSchema { problem });
    };
    derive(&schema, fields)
}

/// The `fields` of a source whose records are change events of Debezium written with `schema`: those of the row that its
/// field `after` has.
///
/// # Errors
/// As of [`fields_of_avro`], or if there is no such row.
pub fn fields_of_avro_event(schema: &RegisteredSchema) -> Result<Fields, Error> {
    let schema = parse(schema).map_err(|problem| Error::WriterSchema { problem })?;
    let row = record_in(&schema, schema.root())
        .and_then(|event| event.iter().find(|field| Member::of(&field.name) == Member::After))
        .and_then(|after| record_in(&schema, after.of));
    let problem =
        "it has no record `after`, which the row of a change event of Debezium stands in".to_owned();
    derive(&schema, row.ok_or(Error::WriterSchema { problem })?)
}

/// The fields of the record that `id` is, or the first that it is a union of.
fn record_in(schema: &AvroSchema, id: TypeId) -> Option<&[Field]> {
    match schema.get(id) {
        Type::Record { fields, .. } => Some(fields),
        // Unions have no unions in them.
        Type::Union(branches) => branches.iter().find_map(|branch| record_in(schema, *branch)),
        _ => None,
    }
}

fn derive(schema: &AvroSchema, fields: &[Field]) -> Result<Fields, Error> {
    let mut deriver = Deriver { schema, types: 0 };
    let specs = fields.iter().map(|field| {
        let spec = deriver.field_spec(field.of, field.doc.as_deref());
        let spec = spec.map_err(|problem| Error::WriterSchema {
            problem: format!("field `{}`: {problem}", shortened(&field.name)),
        })?;
        Ok((field.name.clone(), spec))
    });
    let fields = Fields(specs.collect::<Result<_, Error>>()?);
    match check(&fields).into_iter().next() {
        Some(problem) => Err(problem),
        None => Ok(fields),
    }
}

/// Finds the types of fields.
struct Deriver<'a> {
    schema: &'a AvroSchema,
    /// Types looked at. One that is used twice counts twice, as it is written twice.
    types: usize,
}

impl Deriver<'_> {
    fn field_spec(&mut self, id: TypeId, description: Option<&str>) -> Result<FieldSpec, String> {
        let (field_type, nullable) = self.field_type(id, DEPTH_MAX)?;
        let description = description.filter(|text| !text.trim().is_empty()).map(str::to_owned);
        let unit = unit_of(self.schema, id).map(str::to_owned);
        Ok(FieldSpec { type_text: field_type.to_string(), nullable, description, unit })
    }

    /// The type that holds every value of `id`, and whether null is one of them.
    fn field_type(&mut self, id: TypeId, depth_left: usize) -> Result<(FieldType, bool), String> {
        let Some(depth_left) = depth_left.checked_sub(1) else {
            return Err(format!("it is nested more than {DEPTH_MAX} deep, or in itself"));
        };
        self.types += 1;
        if self.types > TYPES_MAX {
            return Err(format!("there are more than {TYPES_MAX} types"));
        }
        let field_type = match self.schema.get(id) {
            Type::Boolean => FieldType::Boolean,
            Type::Int | Type::TimeMillis => FieldType::Int32,
            Type::Long | Type::TimeMicros | Type::LocalTimestamp(_) => FieldType::Int64,
            Type::Float => FieldType::Float32,
            Type::Double => FieldType::Float64,
            Type::String | Type::UuidText | Type::UuidFixed(_) | Type::Enum { .. } => FieldType::String,
            Type::Bytes | Type::Fixed(_) | Type::Duration(_) | Type::BigDecimal => FieldType::Binary,
            Type::Date => FieldType::Date,
            Type::Timestamp(_) => FieldType::Timestamp,
            Type::Decimal { precision, scale, .. } => decimal_type(*precision, *scale)?,
            Type::Array(items) => FieldType::List(Box::new(self.field_type(*items, depth_left)?.0)),
            Type::Map(values) => FieldType::Map(Box::new(self.field_type(*values, depth_left)?.0)),
            Type::Record { fields, .. } if fields.is_empty() => {
                return Err("a record without fields".to_owned());
            }
            Type::Record { fields, .. } => {
                let fields = fields
                    .iter()
                    .map(|field| Ok((field.name.clone(), self.field_type(field.of, depth_left)?.0)));
                FieldType::Struct(fields.collect::<Result<_, String>>()?)
            }
            Type::Union(branches) => return self.union_type(branches, depth_left),
            Type::Null => return Err("it is always null".to_owned()),
        };
        Ok((field_type, false))
    }

    /// The type that holds the values of all branches that are not null.
    fn union_type(&mut self, branches: &[TypeId], depth_left: usize) -> Result<(FieldType, bool), String> {
        let mut nullable = false;
        let mut common: Option<FieldType> = None;
        for branch in branches {
            if *self.schema.get(*branch) == Type::Null {
                nullable = true;
                continue;
            }
            let (branch_type, _) = self.field_type(*branch, depth_left)?;
            common = Some(match common {
                None => branch_type,
                Some(other) => wider(&other, &branch_type).ok_or_else(|| {
                    format!("a union of {other} and {branch_type} has no type in a contract")
                })?,
            });
        }
        Ok((common.ok_or("it is always null")?, nullable))
    }
}

fn decimal_type(precision: usize, scale: usize) -> Result<FieldType, String> {
    match (u8::try_from(precision), u8::try_from(scale)) {
        (Ok(precision @ ..=38), Ok(scale)) => Ok(FieldType::Decimal(precision, scale)),
        _ => Err(format!("a decimal of {precision} digits, where 38 are the most")),
    }
}

/// The unit of values that the type of the field does not tell.
fn unit_of(schema: &AvroSchema, id: TypeId) -> Option<&'static str> {
    match schema.get(id) {
        Type::TimeMillis => Some("milliseconds of the day"),
        Type::TimeMicros => Some("microseconds of the day"),
        Type::LocalTimestamp(_) => Some("microseconds since 1970-01-01 00:00, local clock"),
        Type::Union(branches) => branches.iter().find_map(|branch| unit_of(schema, *branch)),
        _ => None,
    }
}

/// The one of two types that holds the values of both.
fn wider(one: &FieldType, other: &FieldType) -> Option<FieldType> {
    use FieldType::{Float32, Float64, Int32, Int64};
    match (one, other) {
        _ if one == other => Some(one.clone()),
        (Int32, Int64) | (Int64, Int32) => Some(Int64),
        (Int32 | Float32, Float64) | (Float64, Int32 | Float32) => Some(Float64),
        _ => None,
    }
}
