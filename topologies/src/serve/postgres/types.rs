//! Which of PostgreSQL's types stands for which of Arrow's.
//!
//! | Arrow | PostgreSQL |
//! |---|---|
//! | booleans | `bool` |
//! | signed integers of 8, 16, 32 and 64 bits | `int2`, `int2`, `int4`, `int8` |
//! | unsigned integers | the next larger signed one; of 64 bits `numeric` |
//! | floating point of 16 and 32, 64 bits | `float4`, `float8` |
//! | decimals | `numeric` |
//! | texts, bytes | `text`, `bytea` |
//! | dates, times, timestamps without and with a zone | `date`, `time`, `timestamp`, `timestamptz` |
//! | intervals, durations | `interval` |
//! | lists of these | arrays of these |
//! | structs, maps, unions, lists of lists and of these | `json` |
//!
//! PostgreSQL's times have microseconds: what is finer is cut off.

use std::ops::Range;

use arrow::datatypes::{DataType, Field};
use pgwire::api::Type;
use pgwire::messages::data::FieldDescription;

/// Days from 1970 to 2000, where PostgreSQL's calendar has its zero.
pub(super) const EPOCH_DAYS: i64 = 10_957;
pub(super) const DAY_US: i64 = 86_400_000_000;
/// The first day of PostgreSQL's calendar, in days since 1970, and the first one after it.
pub(super) const DAYS: Range<i64> = -2_440_588..2_145_042_906;
/// The first microsecond of PostgreSQL's timestamps since 2000, and the first one after them.
pub(super) const TIMESTAMPS_US: Range<i64> = -211_813_488_000_000_000..9_223_371_331_200_000_000;

/// The type of the values of a column.
pub(super) fn type_of(data_type: &DataType) -> Type {
    match data_type {
        DataType::Boolean => Type::BOOL,
        DataType::Int8 | DataType::Int16 | DataType::UInt8 => Type::INT2,
        DataType::Int32 | DataType::UInt16 => Type::INT4,
        DataType::Int64 | DataType::UInt32 => Type::INT8,
        DataType::UInt64
        | DataType::Decimal32(..)
        | DataType::Decimal64(..)
        | DataType::Decimal128(..)
        | DataType::Decimal256(..) => Type::NUMERIC,
        DataType::Float16 | DataType::Float32 => Type::FLOAT4,
        DataType::Float64 => Type::FLOAT8,
        DataType::Null | DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Type::TEXT,
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            Type::BYTEA
        }
        DataType::Date32 | DataType::Date64 => Type::DATE,
        DataType::Time32(_) | DataType::Time64(_) => Type::TIME,
        DataType::Timestamp(_, None) => Type::TIMESTAMP,
        DataType::Timestamp(_, Some(_)) => Type::TIMESTAMPTZ,
        DataType::Interval(_) | DataType::Duration(_) => Type::INTERVAL,
        DataType::Dictionary(_, values) => type_of(values),
        DataType::RunEndEncoded(_, values) => type_of(values.data_type()),
        DataType::List(element)
        | DataType::LargeList(element)
        | DataType::FixedSizeList(element, _)
        | DataType::ListView(element)
        | DataType::LargeListView(element) => array_of(&type_of(element.data_type())).unwrap_or(Type::JSON),
        _ => Type::JSON,
    }
}

/// The arrays of a type; `None` for those whose lists are JSON: of structs, because the elements are, and of lists, because the
/// lists in an array all have the same length.
pub(super) fn array_of(element: &Type) -> Option<Type> {
    Some(match *element {
        Type::BOOL => Type::BOOL_ARRAY,
        Type::INT2 => Type::INT2_ARRAY,
        Type::INT4 => Type::INT4_ARRAY,
        Type::INT8 => Type::INT8_ARRAY,
        Type::NUMERIC => Type::NUMERIC_ARRAY,
        Type::FLOAT4 => Type::FLOAT4_ARRAY,
        Type::FLOAT8 => Type::FLOAT8_ARRAY,
        Type::TEXT => Type::TEXT_ARRAY,
        Type::BYTEA => Type::BYTEA_ARRAY,
        Type::DATE => Type::DATE_ARRAY,
        Type::TIME => Type::TIME_ARRAY,
        Type::TIMESTAMP => Type::TIMESTAMP_ARRAY,
        Type::TIMESTAMPTZ => Type::TIMESTAMPTZ_ARRAY,
        Type::INTERVAL => Type::INTERVAL_ARRAY,
        _ => return None,
    })
}

/// Bytes of a value, -1 if they differ: `pg_type.typlen`.
pub(super) fn length_of(data_type: &Type) -> i16 {
    match *data_type {
        Type::BOOL => 1,
        Type::INT2 => 2,
        Type::INT4 | Type::FLOAT4 | Type::DATE | Type::OID => 4,
        Type::INT8 | Type::FLOAT8 | Type::TIME | Type::TIMESTAMP | Type::TIMESTAMPTZ => 8,
        Type::INTERVAL => 16,
        _ => -1,
    }
}

/// Precision and scale of numbers, as `pg_attribute.atttypmod` has them; -1 if there are none.
pub(super) fn modifier_of(data_type: &DataType) -> i32 {
    let (precision, scale) = match data_type {
        DataType::UInt64 => (20, 0),
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale)
        | DataType::Decimal256(precision, scale) => (*precision, *scale),
        DataType::Dictionary(_, values) => return modifier_of(values),
        _ => return -1,
    };
    if scale < 0 {
        return -1;
    }
    ((i32::from(precision) << 16) | i32::from(scale)) + 4
}

/// How the client is told about a column.
pub(super) fn description(field: &Field, name: &str, format: i16) -> FieldDescription {
    let data_type = type_of(field.data_type());
    FieldDescription::new(
        name.replace('\0', "\u{fffd}"),
        0,
        0,
        data_type.oid(),
        length_of(&data_type),
        modifier_of(field.data_type()),
        format,
    )
}
