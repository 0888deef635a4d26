//! Columns as a training set has them: few types, which every reader of Parquet knows, whatever a query or a file had.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, make_array};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef, TimeUnit};
use arrow::error::ArrowError;

/// The zone of all timestamps that have one: they are instants, however they were written.
const UTC: &str = "UTC";

/// The type that values of `data_type` have in a training set, `None` if they have no place in one.
pub(super) fn stored_type(data_type: &DataType) -> Option<DataType> {
    Some(match data_type {
        // Nulls of no type: a column of a CSV file without values, or `NULL AS x`.
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null => DataType::Utf8,
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => DataType::Binary,
        DataType::Date32 | DataType::Date64 => DataType::Date32,
        DataType::Timestamp(TimeUnit::Second, zone) => {
            DataType::Timestamp(TimeUnit::Millisecond, zone.as_ref().map(|_| UTC.into()))
        }
        DataType::Timestamp(unit, zone) => DataType::Timestamp(*unit, zone.as_ref().map(|_| UTC.into())),
        DataType::Dictionary(_, values) => stored_type(values)?,
        DataType::List(element) | DataType::LargeList(element) => DataType::List(stored_field(element)?),
        DataType::Struct(fields) => {
            let fields: Option<Vec<FieldRef>> = fields.iter().map(stored_field).collect();
            DataType::Struct(fields.filter(|fields| !fields.is_empty())?.into())
        }
        DataType::Map(entries, false) => {
            // The names of a map's parts are those of the Parquet format.
            let DataType::Struct(parts) = entries.data_type() else { return None };
            let [key, value] = parts.as_ref() else { return None };
            let key = Field::new("key", stored_type(key.data_type())?, false);
            let value = Field::new("value", stored_type(value.data_type())?, value.is_nullable());
            let parts = DataType::Struct(vec![key, value].into());
            DataType::Map(Arc::new(Field::new("key_value", parts, false)), false)
        }
        DataType::Boolean
        | DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::Int64
        | DataType::UInt8
        | DataType::UInt16
        | DataType::UInt32
        | DataType::UInt64
        | DataType::Float32
        | DataType::Float64
        | DataType::Decimal128(..) => data_type.clone(),
        _ => return None,
    })
}

/// A field with its name, nullability and stored type, and nothing else.
pub(super) fn stored_field(field: &FieldRef) -> Option<FieldRef> {
    let data_type = stored_type(field.data_type())?;
    Some(Arc::new(Field::new(field.name(), data_type, field.is_nullable())))
}

/// The columns of `batch` at these places as those of `schema`. A value that its type has no place for is an error, not null.
pub(super) fn stored(
    batch: &RecordBatch,
    places: &[usize],
    schema: &SchemaRef,
) -> Result<RecordBatch, ArrowError> {
    let columns = places.iter().zip(schema.fields()).map(|(place, field)| {
        let column = batch.column(*place);
        if column.data_type() == field.data_type() {
            return Ok(column.clone());
        }
        let exact = CastOptions { safe: false, ..CastOptions::default() };
        cast_with_options(column, field.data_type(), &exact)
    });
    let columns: Vec<ArrayRef> = columns.collect::<Result<_, _>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(schema.clone(), columns, &options)
}

/// The same rows without buffers of valid bits that are all set, in children too: where a batch came from cannot be seen in a file.
pub(super) fn without_idle_bits(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let columns = batch.columns().iter().map(|column| make_array(column.to_data()));
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(batch.schema(), columns.collect(), &options)
}

/// The name of a stored type, the same for ever: it is part of digests.
pub(super) fn type_text(data_type: &DataType) -> String {
    match data_type {
        DataType::UInt8 => "uint8".to_owned(),
        DataType::UInt16 => "uint16".to_owned(),
        DataType::UInt32 => "uint32".to_owned(),
        DataType::UInt64 => "uint64".to_owned(),
        DataType::Timestamp(TimeUnit::Microsecond, Some(_)) => "timestamp".to_owned(),
        DataType::Timestamp(unit, zone) => {
            let unit = match unit {
                TimeUnit::Second => "s",
                TimeUnit::Millisecond => "ms",
                TimeUnit::Microsecond => "us",
                TimeUnit::Nanosecond => "ns",
            };
            format!("timestamp({unit}{})", if zone.is_some() { ", UTC" } else { "" })
        }
        DataType::List(element) => format!("list<{}>", type_text(element.data_type())),
        DataType::Struct(fields) => {
            let fields =
                fields.iter().map(|field| format!("{}: {}", field.name(), type_text(field.data_type())));
            format!("struct<{}>", fields.collect::<Vec<_>>().join(", "))
        }
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(parts) if parts.len() == 2 => {
                format!("map<{}, {}>", type_text(parts[0].data_type()), type_text(parts[1].data_type()))
            }
            other => type_text(other),
        },
        other => isobar_schemas::fields::type_name(other),
    }
}

/// Whether values of this type are times: timestamps, or dates, which are their midnights.
pub(super) fn is_time(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Timestamp(..) | DataType::Date32 | DataType::Date64)
}

/// The places of columns by their names.
///
/// # Errors
/// The first name that there is not.
pub(super) fn places<'a>(
    schema: &Schema,
    names: impl IntoIterator<Item = &'a str>,
) -> Result<Vec<usize>, &'a str> {
    names.into_iter().map(|name| schema.index_of(name).map_err(|_| name)).collect()
}
