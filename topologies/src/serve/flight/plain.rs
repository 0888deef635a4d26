//! Columns that every client shows as they are.
//!
//! The JDBC driver shows the indices of a dictionary as its values, and unsigned numbers as if they had a sign; other drivers do not
//! know views. So they are sent as the values that they stand for, and as signed numbers that hold them. Of 64 bits there is
//! no wider number: a value that does not fit is an error.

use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, FieldRef, Schema, SchemaRef};
use arrow::error::ArrowError;

/// `schema` in plain types.
pub(super) fn schema(schema: &Schema) -> SchemaRef {
    let fields: Vec<FieldRef> = schema.fields().iter().map(field).collect();
    Schema::new_with_metadata(fields, schema.metadata().clone()).into()
}

fn field(field: &FieldRef) -> FieldRef {
    Arc::new(field.as_ref().clone().with_data_type(data_type(field.data_type())))
}

/// The type of the values, wherever they lie, as a signed number if it is one.
pub(super) fn data_type(stored: &DataType) -> DataType {
    match stored {
        DataType::Utf8View => DataType::Utf8,
        DataType::BinaryView => DataType::Binary,
        DataType::UInt8 => DataType::Int16,
        DataType::UInt16 => DataType::Int32,
        DataType::UInt32 | DataType::UInt64 => DataType::Int64,
        DataType::Dictionary(_, values) => data_type(values),
        DataType::List(item) => DataType::List(field(item)),
        DataType::LargeList(item) => DataType::LargeList(field(item)),
        DataType::FixedSizeList(item, length) => DataType::FixedSizeList(field(item), *length),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(field).collect()),
        DataType::Map(entries, sorted) => DataType::Map(field(entries), *sorted),
        other => other.clone(),
    }
}

/// The rows of `batch` with the columns of `schema`, which is its own in plain types.
pub(super) fn batch(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let exactly = CastOptions { safe: false, ..CastOptions::default() };
    let columns = batch.columns().iter().zip(schema.fields()).map(|(column, field)| {
        match column.data_type() == field.data_type() {
            true => Ok(column.clone()),
            false => cast_with_options(column, field.data_type(), &exactly),
        }
    });
    let columns = columns.collect::<Result<Vec<_>, _>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(schema.clone(), columns, &options)
}

#[cfg(test)]
mod tests {
    use arrow::array::{
        ArrayRef, AsArray, DictionaryArray, Int64Array, ListArray, StringArray, StringViewArray, StructArray,
        UInt8Array, UInt16Array, UInt32Array, UInt64Array,
    };
    use arrow::buffer::OffsetBuffer;
    use arrow::datatypes::{Field, Int8Type, Int16Type, Int32Type, Int64Type};

    use super::*;

    #[test]
    fn dictionaries_and_views_become_their_values_at_any_depth() {
        let views: ArrayRef =
            Arc::new(StringViewArray::from(vec![Some("a string that is not short"), None, Some("b")]));
        let codes: DictionaryArray<Int8Type> = vec![Some("x"), None, Some("x")].into_iter().collect();
        let inner = Arc::new(Field::new("item", DataType::Utf8View, true));
        let list = ListArray::new(inner, OffsetBuffer::from_lengths([1, 0, 2]), views.clone(), None);
        let record =
            StructArray::from(vec![(Arc::new(Field::new("v", DataType::Utf8View, true)), views.clone())]);
        let rows = RecordBatch::try_from_iter([
            ("n", Arc::new(Int64Array::from(vec![1, 2, 3])) as ArrayRef),
            ("v", views),
            ("d", Arc::new(codes) as ArrayRef),
            ("l", Arc::new(list) as ArrayRef),
            ("s", Arc::new(record) as ArrayRef),
        ])
        .unwrap();
        let plain = batch(&rows, &schema(&rows.schema())).unwrap();
        let expected = StringArray::from(vec![Some("a string that is not short"), None, Some("b")]);
        assert_eq!(plain.column(0), rows.column(0));
        assert_eq!(plain.column(1).as_string::<i32>(), &expected);
        assert_eq!(plain.column(2).as_string::<i32>(), &StringArray::from(vec![Some("x"), None, Some("x")]));
        assert_eq!(plain.column(3).as_list::<i32>().values().as_string::<i32>(), &expected);
        assert_eq!(plain.column(4).as_struct().column(0).as_string::<i32>(), &expected);
        assert_eq!(plain.num_rows(), 3);
    }

    #[test]
    fn unsigned_numbers_get_a_sign_if_they_fit() {
        let rows = |large: u64| {
            RecordBatch::try_from_iter([
                ("a", Arc::new(UInt8Array::from(vec![255])) as ArrayRef),
                ("b", Arc::new(UInt16Array::from(vec![65_535])) as ArrayRef),
                ("c", Arc::new(UInt32Array::from(vec![4_294_967_295])) as ArrayRef),
                ("d", Arc::new(UInt64Array::from(vec![large])) as ArrayRef),
            ])
            .unwrap()
        };
        let fitting = rows(i64::MAX as u64);
        let plain = batch(&fitting, &schema(&fitting.schema())).unwrap();
        assert_eq!(plain.column(0).as_primitive::<Int16Type>().value(0), 255);
        assert_eq!(plain.column(1).as_primitive::<Int32Type>().value(0), 65_535);
        assert_eq!(plain.column(2).as_primitive::<Int64Type>().value(0), 4_294_967_295);
        assert_eq!(plain.column(3).as_primitive::<Int64Type>().value(0), i64::MAX);
        let large = rows(1 << 63);
        assert!(batch(&large, &schema(&large.schema())).is_err());
    }

    #[test]
    fn rows_without_columns_are_counted() {
        let empty = Arc::new(Schema::empty());
        let options = RecordBatchOptions::new().with_row_count(Some(7));
        let rows = RecordBatch::try_new_with_options(empty.clone(), vec![], &options).unwrap();
        assert_eq!(batch(&rows, &schema(&empty)).unwrap().num_rows(), 7);
    }
}
