//! The columns of a result, as a Delta table can store them.
//!
//! Arrow has many types that Delta has not. Each is either stored as the Delta type that holds all its values, or
//! refused with the cast that mends it. The casts become part of the plan, so a value that a cast fails on, such as a
//! timestamp that is out of range in microseconds, is a bad row like any other.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Fields, TimeUnit};
use isobar_schemas::MetadataColumn;

use crate::error::Error;

/// The characters that Parquet readers of Delta tables do not take in names of columns.
const FORBIDDEN_IN_NAMES: [char; 10] = [' ', ',', ';', '{', '}', '(', ')', '\n', '\t', '='];

/// The type that stores a column of `data_type`, or what to do instead.
pub(crate) fn stored_type(data_type: &DataType) -> Result<DataType, String> {
    Ok(match data_type {
        DataType::Boolean
        | DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::Int64
        | DataType::Float32
        | DataType::Float64
        | DataType::Decimal128(_, 0..)
        | DataType::Date32 => data_type.clone(),
        DataType::UInt8 => DataType::Int16,
        DataType::UInt16 => DataType::Int32,
        DataType::UInt32 => DataType::Int64,
        DataType::UInt64 => DataType::Decimal128(20, 0),
        DataType::Float16 => DataType::Float32,
        DataType::Decimal32(precision, scale @ 0..) | DataType::Decimal64(precision, scale @ 0..) => {
            DataType::Decimal128(*precision, *scale)
        }
        DataType::Decimal256(precision @ ..=38, scale @ 0..) => DataType::Decimal128(*precision, *scale),
        DataType::Date64 => DataType::Date32,
        DataType::Timestamp(..) => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8,
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            DataType::Binary
        }
        DataType::Dictionary(_, value) => stored_type(value)?,
        DataType::RunEndEncoded(_, value) => stored_type(value.data_type())?,
        DataType::List(element) | DataType::LargeList(element) | DataType::FixedSizeList(element, _) => {
            DataType::List(stored_field("element", element)?)
        }
        DataType::Struct(fields) => DataType::Struct(
            fields.iter().map(|field| stored_field(field.name(), field)).collect::<Result<Fields, _>>()?,
        ),
        DataType::Map(entries, _) => stored_map(entries)?,
        DataType::Null => {
            return Err("it is always NULL and has no type; give it one, as in CAST(NULL AS INT)".to_owned());
        }
        other => {
            return Err(format!(
                "a Delta table has no type for {other}; CAST it to one, such as BIGINT or VARCHAR"
            ));
        }
    })
}

fn stored_field(name: &str, field: &FieldRef) -> Result<FieldRef, String> {
    Ok(Arc::new(Field::new(name, stored_type(field.data_type())?, field.is_nullable())))
}

fn stored_map(entries: &FieldRef) -> Result<DataType, String> {
    let DataType::Struct(fields) = entries.data_type() else {
        return Err(format!("its entries are {}, not keys and values", entries.data_type()));
    };
    let [key, value] = fields.as_ref() else {
        return Err(format!("its entries are {}, not keys and values", entries.data_type()));
    };
    let fields = Fields::from(vec![stored_field("key", key)?, stored_field("value", value)?]);
    Ok(DataType::Map(Arc::new(Field::new("key_value", DataType::Struct(fields), false)), false))
}

/// Checks that `names` can be the columns of one table.
pub(crate) fn check_names<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<(), Error> {
    let mut seen = HashMap::new();
    for name in names {
        let problem = |problem: String| Error::OutputColumn { column: name.to_owned(), problem };
        if name.is_empty() {
            return Err(problem("it needs a name: add AS and one".to_owned()));
        }
        if name.contains(FORBIDDEN_IN_NAMES) {
            let advice = "a name cannot have a space or any of , ; { } ( ) = in it: add AS and another name";
            return Err(problem(advice.to_owned()));
        }
        if MetadataColumn::from_name(name).is_some() {
            let alias = format!("kafka{}", name.to_lowercase());
            return Err(problem(format!("a metadata column needs a name of its own: {name} AS {alias}")));
        }
        if let Some(other) = seen.insert(name.to_lowercase(), name) {
            return Err(problem(format!(
                "the name is given twice (`{other}`); the case of letters does not count"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_type_is_stored_as_it_is() {
        let list = |name: &str, data_type| DataType::List(Arc::new(Field::new(name, data_type, true)));
        for (found, stored) in [
            (DataType::UInt8, DataType::Int16),
            (DataType::UInt16, DataType::Int32),
            (DataType::UInt32, DataType::Int64),
            (DataType::UInt64, DataType::Decimal128(20, 0)),
            (DataType::Utf8View, DataType::Utf8),
            (DataType::FixedSizeBinary(16), DataType::Binary),
            (DataType::Date64, DataType::Date32),
            (
                DataType::Timestamp(TimeUnit::Nanosecond, None),
                DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            ),
            (DataType::Dictionary(Box::new(DataType::Int8), Box::new(DataType::LargeUtf8)), DataType::Utf8),
            (list("item", DataType::UInt8), list("element", DataType::Int16)),
        ] {
            assert_eq!(stored_type(&found).as_ref(), Ok(&stored), "{found}");
            assert_eq!(stored_type(&stored).as_ref(), Ok(&stored), "{stored}");
        }
    }

    #[test]
    fn types_without_a_place_in_delta_are_refused_with_the_cast_to_write() {
        assert!(stored_type(&DataType::Null).unwrap_err().contains("CAST(NULL AS INT)"));
        for data_type in [
            DataType::Duration(TimeUnit::Second),
            DataType::Time64(TimeUnit::Microsecond),
            DataType::Decimal256(76, 0),
            DataType::Decimal128(5, -2),
        ] {
            assert!(stored_type(&data_type).unwrap_err().contains("CAST it"), "{data_type}");
        }
    }

    #[test]
    fn names_are_those_a_delta_table_can_have() {
        check_names(["a", "b", "ż", "kafka_offset", "_a"]).unwrap();
        for (names, part) in [
            (vec!["a", ""], "needs a name"),
            (vec!["a + b"], "add AS"),
            (vec!["count(a)"], "add AS"),
            (vec!["a", "b", "A"], "given twice (`a`)"),
            (vec!["_offset"], "_offset AS kafka_offset"),
        ] {
            let error = check_names(names.iter().copied()).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
