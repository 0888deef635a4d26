//! Arrow schemas to Delta's `schemaString` and back.
//!
//! Only types that every Delta reader knows are storable: booleans, signed integers, floats, `Utf8`, `Binary`, `Date32`,
//! UTC timestamps in microseconds, decimals up to 38 digits, and lists, structs and maps of them. Anything else is
//! an error that names the column; nothing is cast here. A field's metadata under [`DESCRIPTION`] becomes the
//! column's `comment`, that under [`UNIT`] a member of the same name beside it.
//!
//! Reading gives one Arrow type per Delta type, with `element`, `key_value`, `key` and `value` as the names inside
//! lists and maps, so `to_arrow(to_delta(s))` equals `s` but for those names and for other metadata.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Schema, TimeUnit};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::Error;

/// Key of an Arrow field's metadata that holds its description.
pub const DESCRIPTION: &str = "description";
/// Key of an Arrow field's metadata, and of the column's in the table, that holds the unit of its values.
pub const UNIT: &str = "isobar.unit";
/// Deepest nesting of lists, structs and maps.
const DEPTH_MAX: usize = 32;
/// Characters that Parquet readers of the Delta world do not allow in a column name.
const FORBIDDEN_IN_NAMES: &[char] = &[' ', ',', ';', '{', '}', '(', ')', '\n', '\t', '='];

#[derive(Serialize, Deserialize)]
struct DeltaStruct {
    #[serde(rename = "type")]
    kind: String,
    fields: Vec<DeltaField>,
}

#[derive(Serialize, Deserialize)]
struct DeltaField {
    name: String,
    #[serde(rename = "type")]
    data_type: Value,
    nullable: bool,
    #[serde(default)]
    metadata: Map<String, Value>,
}

/// The `schemaString` of an Arrow schema.
///
/// # Errors
/// [`Error::Schema`] naming the column whose type or name cannot be stored, or two columns whose names differ in
/// case only (Delta's names are case-insensitive).
pub fn to_delta(schema: &Schema) -> Result<String, Error> {
    let fields = delta_struct(schema.fields(), "", 0)?;
    serde_json::to_string(&fields).map_err(|error| Error::Schema(error.to_string()))
}

/// The Arrow schema of a `schemaString`.
///
/// # Errors
/// [`Error::Schema`] if the text is no schema, is nested too deep, or has a type that isobar does not write.
pub fn to_arrow(schema_string: &str) -> Result<Schema, Error> {
    let schema: DeltaStruct = serde_json::from_str(schema_string)
        .map_err(|error| Error::Schema(format!("schemaString: {error}")))?;
    Ok(Schema::new(arrow_fields(schema, "", 0)?))
}

/// Whether arrays of type `given` may be stored in a column of type `stored`: the same type but for the names
/// inside lists and maps, and for the spelling of UTC.
pub fn same_type(stored: &DataType, given: &DataType) -> bool {
    match (stored, given) {
        (DataType::List(a), DataType::List(b)) => {
            a.is_nullable() == b.is_nullable() && same_type(a.data_type(), b.data_type())
        }
        (DataType::Map(a, _), DataType::Map(b, _)) => same_type_by_position(a.data_type(), b.data_type()),
        (DataType::Struct(a), DataType::Struct(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.name() == b.name() && same_field(a, b))
        }
        (DataType::Timestamp(a, Some(_)), DataType::Timestamp(b, Some(zone))) => a == b && is_utc(zone),
        _ => stored == given,
    }
}

fn same_type_by_position(stored: &DataType, given: &DataType) -> bool {
    match (stored, given) {
        (DataType::Struct(a), DataType::Struct(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same_field(a, b))
        }
        _ => false,
    }
}

fn same_field(stored: &Field, given: &Field) -> bool {
    stored.is_nullable() == given.is_nullable() && same_type(stored.data_type(), given.data_type())
}

fn is_utc(zone: &str) -> bool {
    matches!(zone, "UTC" | "+00:00" | "Etc/UTC" | "Z")
}

/// A type as Delta writes it, nested ones as JSON; for people.
pub(crate) fn type_text(data_type: &DataType) -> String {
    match delta_type(data_type, "", 0) {
        Ok(Value::String(name)) => name,
        Ok(nested) => nested.to_string(),
        Err(_) => data_type.to_string(),
    }
}

fn delta_struct<'a>(
    fields: impl IntoIterator<Item = &'a FieldRef>,
    parent: &str,
    depth: usize,
) -> Result<DeltaStruct, Error> {
    if depth > DEPTH_MAX {
        return Err(Error::Schema(format!("column {parent}: nested deeper than {DEPTH_MAX} levels")));
    }
    let mut delta_fields: Vec<DeltaField> = Vec::new();
    for field in fields {
        let path = child_path(parent, field.name());
        check_name(field.name(), &path)?;
        if delta_fields.iter().any(|other| other.name.to_lowercase() == field.name().to_lowercase()) {
            return Err(Error::Schema(format!(
                "column {path} exists twice; names are compared without case"
            )));
        }
        let mut metadata = Map::new();
        if let Some(description) = field.metadata().get(DESCRIPTION) {
            metadata.insert("comment".into(), description.clone().into());
        }
        if let Some(unit) = field.metadata().get(UNIT) {
            metadata.insert(UNIT.into(), unit.clone().into());
        }
        delta_fields.push(DeltaField {
            name: field.name().clone(),
            data_type: delta_type(field.data_type(), &path, depth + 1)?,
            nullable: field.is_nullable(),
            metadata,
        });
    }
    Ok(DeltaStruct { kind: "struct".into(), fields: delta_fields })
}

fn check_name(name: &str, path: &str) -> Result<(), Error> {
    if name.is_empty() {
        return Err(Error::Schema("a column without a name".into()));
    }
    match name.chars().find(|c| FORBIDDEN_IN_NAMES.contains(c) || c.is_control()) {
        Some(c) => {
            Err(Error::Schema(format!("column {path:?}: the character {c:?} is not allowed in a name")))
        }
        None => Ok(()),
    }
}

/// The path of a field, or of what is in a list or map, for people.
pub(crate) fn child_path(parent: &str, name: &str) -> String {
    if parent.is_empty() { name.into() } else { format!("{parent}.{name}") }
}

fn delta_type(data_type: &DataType, path: &str, depth: usize) -> Result<Value, Error> {
    if depth > DEPTH_MAX {
        return Err(Error::Schema(format!("column {path}: nested deeper than {DEPTH_MAX} levels")));
    }
    let unsupported = |hint: &str| {
        Err(Error::Schema(format!("column {path}: type {data_type} cannot be stored in a Delta table{hint}")))
    };
    let name = match data_type {
        DataType::Boolean => "boolean",
        DataType::Int8 => "byte",
        DataType::Int16 => "short",
        DataType::Int32 => "integer",
        DataType::Int64 => "long",
        DataType::Float32 => "float",
        DataType::Float64 => "double",
        DataType::Utf8 => "string",
        DataType::Binary => "binary",
        DataType::Date32 => "date",
        DataType::Timestamp(TimeUnit::Microsecond, Some(zone)) if is_utc(zone) => "timestamp",
        DataType::Timestamp(..) => return unsupported("; only UTC timestamps in microseconds can"),
        DataType::UInt8 | DataType::UInt16 | DataType::UInt32 | DataType::UInt64 => {
            return unsupported("; cast it to a signed type");
        }
        DataType::Decimal128(precision, scale) if *scale >= 0 && *scale as u8 <= *precision => {
            return Ok(Value::String(format!("decimal({precision},{scale})")));
        }
        DataType::List(element) => {
            let element_type = delta_type(element.data_type(), &child_path(path, "element"), depth + 1)?;
            return Ok(
                json!({"type": "array", "elementType": element_type, "containsNull": element.is_nullable()}),
            );
        }
        DataType::Struct(fields) => {
            return serde_json::to_value(delta_struct(fields, path, depth)?)
                .map_err(|error| Error::Schema(error.to_string()));
        }
        DataType::Map(entries, _) => return delta_map(entries, path, depth),
        _ => return unsupported(""),
    };
    Ok(Value::String(name.into()))
}

fn delta_map(entries: &Field, path: &str, depth: usize) -> Result<Value, Error> {
    let DataType::Struct(fields) = entries.data_type() else {
        return Err(Error::Schema(format!("column {path}: a map without entries")));
    };
    let [key, value] = fields.as_ref() else {
        return Err(Error::Schema(format!("column {path}: a map whose entries are not a key and a value")));
    };
    Ok(json!({
        "type": "map",
        "keyType": delta_type(key.data_type(), &child_path(path, "key"), depth + 1)?,
        "valueType": delta_type(value.data_type(), &child_path(path, "value"), depth + 1)?,
        "valueContainsNull": value.is_nullable(),
    }))
}

fn arrow_fields(schema: DeltaStruct, parent: &str, depth: usize) -> Result<Vec<Field>, Error> {
    if schema.kind != "struct" {
        return Err(Error::Schema(format!("schemaString: {:?} where a struct belongs", schema.kind)));
    }
    let mut fields = Vec::with_capacity(schema.fields.len());
    for field in schema.fields {
        let path = child_path(parent, &field.name);
        let arrow = Field::new(&field.name, arrow_type(&field.data_type, &path, depth + 1)?, field.nullable);
        let documentation =
            [("comment", DESCRIPTION), (UNIT, UNIT)].into_iter().filter_map(|(member, key)| {
                let text = field.metadata.get(member)?.as_str()?;
                Some((key.to_string(), text.to_string()))
            });
        fields.push(arrow.with_metadata(documentation.collect()));
    }
    Ok(fields)
}

fn arrow_type(delta: &Value, path: &str, depth: usize) -> Result<DataType, Error> {
    if depth > DEPTH_MAX {
        return Err(Error::Schema(format!("column {path}: nested deeper than {DEPTH_MAX} levels")));
    }
    match delta {
        Value::String(name) => primitive(name).ok_or_else(|| unknown(path, delta)),
        Value::Object(object) => match object.get("type").and_then(Value::as_str) {
            Some("struct") => {
                let nested: DeltaStruct = serde_json::from_value(delta.clone())
                    .map_err(|error| Error::Schema(format!("column {path}: {error}")))?;
                Ok(DataType::Struct(arrow_fields(nested, path, depth)?.into()))
            }
            Some("array") => {
                let element = arrow_type(member(object, "elementType", path)?, path, depth + 1)?;
                let nullable = flag(object, "containsNull", path)?;
                Ok(DataType::List(Arc::new(Field::new("element", element, nullable))))
            }
            Some("map") => {
                let key = arrow_type(member(object, "keyType", path)?, path, depth + 1)?;
                let value = arrow_type(member(object, "valueType", path)?, path, depth + 1)?;
                let value = Field::new("value", value, flag(object, "valueContainsNull", path)?);
                let entries = DataType::Struct(vec![Field::new("key", key, false), value].into());
                Ok(DataType::Map(Arc::new(Field::new("key_value", entries, false)), false))
            }
            _ => Err(unknown(path, delta)),
        },
        _ => Err(unknown(path, delta)),
    }
}

fn primitive(name: &str) -> Option<DataType> {
    Some(match name {
        "boolean" => DataType::Boolean,
        "byte" => DataType::Int8,
        "short" => DataType::Int16,
        "integer" => DataType::Int32,
        "long" => DataType::Int64,
        "float" => DataType::Float32,
        "double" => DataType::Float64,
        "string" => DataType::Utf8,
        "binary" => DataType::Binary,
        "date" => DataType::Date32,
        "timestamp" => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        _ => return decimal(name),
    })
}

fn decimal(name: &str) -> Option<DataType> {
    let (precision, scale) = name.strip_prefix("decimal(")?.strip_suffix(')')?.split_once(',')?;
    let (precision, scale): (u8, i8) = (precision.trim().parse().ok()?, scale.trim().parse().ok()?);
    let valid = (1..=38).contains(&precision) && scale >= 0 && scale as u8 <= precision;
    valid.then_some(DataType::Decimal128(precision, scale))
}

fn member<'a>(object: &'a Map<String, Value>, name: &str, path: &str) -> Result<&'a Value, Error> {
    object.get(name).ok_or_else(|| Error::Schema(format!("column {path}: {name} is missing")))
}

fn flag(object: &Map<String, Value>, name: &str, path: &str) -> Result<bool, Error> {
    member(object, name, path)?
        .as_bool()
        .ok_or_else(|| Error::Schema(format!("column {path}: {name} is neither true nor false")))
}

fn unknown(path: &str, delta: &Value) -> Error {
    Error::Schema(format!("column {path}: unknown type {:.200}", delta.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timestamp() -> DataType {
        DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
    }

    fn every_type() -> Schema {
        let element = |t, n| DataType::List(Arc::new(Field::new("element", t, n)));
        let inner = vec![
            Field::new("x", DataType::Float32, true),
            Field::new("y", element(DataType::Utf8, true), false)
                .with_metadata([(DESCRIPTION.to_string(), "in \"metres\"".to_string())].into()),
        ];
        let entries =
            vec![Field::new("key", DataType::Utf8, false), Field::new("value", DataType::Int64, true)];
        Schema::new(vec![
            Field::new("bool", DataType::Boolean, true),
            Field::new("i8", DataType::Int8, true),
            Field::new("i16", DataType::Int16, true),
            Field::new("i32", DataType::Int32, true)
                .with_metadata([(DESCRIPTION.to_string(), "a number".to_string())].into()),
            Field::new("i64", DataType::Int64, false)
                .with_metadata([(UNIT.to_string(), "minutes".to_string())].into()),
            Field::new("f32", DataType::Float32, true),
            Field::new("f64", DataType::Float64, true),
            Field::new("text", DataType::Utf8, true),
            Field::new("bytes", DataType::Binary, true),
            Field::new("day", DataType::Date32, true),
            Field::new("at", timestamp(), true),
            Field::new("money", DataType::Decimal128(12, 2), true),
            Field::new("list", element(DataType::Struct(inner.clone().into()), false), true),
            Field::new("struct", DataType::Struct(inner.into()), true),
            Field::new(
                "map",
                DataType::Map(
                    Arc::new(Field::new("key_value", DataType::Struct(entries.into()), false)),
                    false,
                ),
                true,
            ),
        ])
    }

    #[test]
    fn every_storable_type_comes_back_as_it_went() {
        let schema = every_type();
        let text = to_delta(&schema).unwrap();
        assert_eq!(to_arrow(&text).unwrap(), schema);
        assert_eq!(to_delta(&to_arrow(&text).unwrap()).unwrap(), text);
    }

    #[test]
    fn the_text_is_exactly_deltas() {
        let schema = Schema::new(vec![
            Field::new("a", DataType::Int64, false),
            Field::new("b", DataType::List(Arc::new(Field::new("item", DataType::Utf8, true))), true)
                .with_metadata([(DESCRIPTION.to_string(), "words".to_string())].into()),
            Field::new("c", DataType::Float64, true).with_metadata(
                [(UNIT, "°F"), (DESCRIPTION, "warmth [°F]")]
                    .map(|(k, v)| (k.to_string(), v.to_string()))
                    .into(),
            ),
        ]);
        assert_eq!(
            to_delta(&schema).unwrap(),
            r#"{"type":"struct","fields":[{"name":"a","type":"long","nullable":false,"metadata":{}},{"name":"b","type":{"type":"array","elementType":"string","containsNull":true},"nullable":true,"metadata":{"comment":"words"}},{"name":"c","type":"double","nullable":true,"metadata":{"comment":"warmth [°F]","isobar.unit":"°F"}}]}"#
        );
    }

    #[test]
    fn types_and_names_no_reader_knows_are_refused_by_name() {
        let field = |name: &str, data_type| Schema::new(vec![Field::new(name, data_type, true)]);
        let refused = [
            field("a", DataType::UInt32),
            field("a", DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into()))),
            field("a", DataType::Timestamp(TimeUnit::Microsecond, None)),
            field("a", DataType::Timestamp(TimeUnit::Microsecond, Some("Europe/Zurich".into()))),
            field("a", DataType::Utf8View),
            field("a", DataType::Null),
            field("a", DataType::Decimal128(5, -2)),
            field("a b", DataType::Int8),
            field("", DataType::Int8),
            Schema::new(vec![Field::new("a", DataType::Int8, true), Field::new("A", DataType::Int8, true)]),
        ];
        for schema in refused {
            assert!(matches!(to_delta(&schema), Err(Error::Schema(_))), "{schema}");
        }
        let message = to_delta(&field("speed", DataType::UInt32)).unwrap_err().to_string();
        assert!(message.contains("speed") && message.contains("signed"), "{message}");
    }

    #[test]
    fn broken_schema_strings_are_errors_not_panics() {
        let field = |data_type: &str| {
            format!(
                r#"{{"type":"struct","fields":[{{"name":"a","type":{data_type},"nullable":true,"metadata":{{}}}}]}}"#
            )
        };
        assert!(to_arrow(&field("\"long\"")).is_ok());
        let mut deep = "\"long\"".to_string();
        for _ in 0..40 {
            deep = format!(r#"{{"type":"array","elementType":{deep},"containsNull":true}}"#);
        }
        let bodies = [
            "",
            "{}",
            "[]",
            "null",
            r#"{"type":"map","fields":[]}"#,
            &field("\"timestamp_ntz\""),
            &field("\"decimal(39,0)\""),
            &field("\"decimal(3,4)\""),
            &field("\"decimal(3,-1)\""),
            &field("\"decimal(\""),
            &field("7"),
            &field("null"),
            &field(r#"{"type":"array","elementType":"long"}"#),
            &field(r#"{"type":"variant"}"#),
            &field(&deep),
        ];
        for body in bodies {
            assert!(matches!(to_arrow(body), Err(Error::Schema(_))), "{body}");
        }
    }

    #[test]
    fn same_type_looks_past_inner_names_and_the_spelling_of_utc_only() {
        let list = |name: &str, t| DataType::List(Arc::new(Field::new(name, t, true)));
        assert!(same_type(&list("element", DataType::Utf8), &list("item", DataType::Utf8)));
        assert!(!same_type(&list("element", DataType::Utf8), &list("element", DataType::Binary)));
        assert!(same_type(&timestamp(), &DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into()))));
        assert!(!same_type(&timestamp(), &DataType::Timestamp(TimeUnit::Microsecond, Some("+01:00".into()))));
        let record = |name: &str| DataType::Struct(vec![Field::new(name, DataType::Int8, true)].into());
        assert!(!same_type(&record("a"), &record("b")));
    }
}
