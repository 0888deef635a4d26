//! Arrays of a file as the table has its columns: fields of structs that the file does not have are null.
//!
//! Structs are filled wherever they lie, also in lists and in values of maps. Nothing is copied but what is new. No field
//! gets lost: one that the table does not have is an error, and so is a null where the table has none.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListArray, MapArray, StructArray, new_null_array};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use arrow::error::ArrowError;

use crate::delta::schema::same_type;

/// The values of `array` as those of a column of type `wanted`, which is exactly the type of the result. What the values may
/// lack are fields of structs; the depth is that of the types.
///
/// # Errors
/// [`ArrowError::SchemaError`] if the column cannot hold the values, [`ArrowError::InvalidArgumentError`] if one is null
/// where the column has none.
pub fn filled(array: &ArrayRef, wanted: &DataType) -> Result<ArrayRef, ArrowError> {
    let given = array.data_type();
    match (given, wanted) {
        _ if given == wanted => Ok(array.clone()),
        (DataType::Struct(has), DataType::Struct(fields)) => {
            if let Some(more) = has.iter().find(|field| fields.find(field.name()).is_none()) {
                return Err(ArrowError::SchemaError(format!("no field {} in {wanted}", more.name())));
            }
            let given = array.as_struct();
            let children = fields.iter().map(|field| match given.column_by_name(field.name()) {
                Some(child) => filled(child, field.data_type()),
                None => Ok(new_null_array(field.data_type(), given.len())),
            });
            let (children, nulls) = (children.collect::<Result<_, _>>()?, given.nulls().cloned());
            let filled = StructArray::try_new_with_length(fields.clone(), children, nulls, given.len())?;
            Ok(Arc::new(filled))
        }
        (DataType::List(_), DataType::List(element)) => {
            let given = array.as_list::<i32>();
            let values = filled(given.values(), element.data_type())?;
            let (offsets, nulls) = (given.offsets().clone(), given.nulls().cloned());
            Ok(Arc::new(ListArray::try_new(element.clone(), offsets, values, nulls)?))
        }
        (DataType::Map(..), DataType::Map(entries, is_sorted)) => {
            let DataType::Struct(fields) = entries.data_type() else { return Err(mismatch(given, wanted)) };
            let [key, value] = fields.as_ref() else { return Err(mismatch(given, wanted)) };
            let given = array.as_map();
            let columns =
                vec![filled(given.keys(), key.data_type())?, filled(given.values(), value.data_type())?];
            let pairs = StructArray::try_new(fields.clone(), columns, given.entries().nulls().cloned())?;
            let (offsets, nulls) = (given.offsets().clone(), given.nulls().cloned());
            Ok(Arc::new(MapArray::try_new(entries.clone(), offsets, pairs, nulls, *is_sorted)?))
        }
        // UTC has several names.
        _ if same_type(wanted, given) => cast(array, wanted),
        _ => Err(mismatch(given, wanted)),
    }
}

fn mismatch(given: &DataType, wanted: &DataType) -> ArrowError {
    ArrowError::SchemaError(format!("{given} where the table has {wanted}"))
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int32Array, Int64Array, StringArray, TimestampMicrosecondArray};
    use arrow::buffer::{NullBuffer, OffsetBuffer};
    use arrow::datatypes::{Field, Fields, TimeUnit};

    use super::*;

    fn fields(types: &[(&str, DataType)]) -> Fields {
        types.iter().map(|(name, data_type)| Field::new(*name, data_type.clone(), true)).collect()
    }

    fn int(name: &str) -> (&str, DataType) {
        (name, DataType::Int32)
    }

    fn text(name: &str) -> (&str, DataType) {
        (name, DataType::Utf8)
    }

    fn ints(values: &[Option<i32>]) -> ArrayRef {
        Arc::new(Int32Array::from(values.to_vec()))
    }

    /// Four structs with the field `a`, the second null.
    fn narrow() -> ArrayRef {
        let a = ints(&[Some(1), None, None, Some(4)]);
        let nulls = NullBuffer::from(vec![true, false, true, true]);
        Arc::new(StructArray::new(fields(&[int("a")]), vec![a], Some(nulls)))
    }

    fn wide() -> Fields {
        fields(&[text("before"), int("a"), ("inner", DataType::Struct(fields(&[int("x")])))])
    }

    fn list_of(element: DataType) -> DataType {
        DataType::List(Arc::new(Field::new("element", element, true)))
    }

    fn map_to(value: DataType) -> DataType {
        let pair =
            Fields::from(vec![Field::new("key", DataType::Utf8, false), Field::new("value", value, true)]);
        DataType::Map(Arc::new(Field::new("key_value", DataType::Struct(pair), false)), false)
    }

    /// Whether these are the structs of [`narrow`] with the further fields of [`wide`], which are null.
    fn assert_wide(array: &ArrayRef) {
        assert_eq!(array.data_type(), &DataType::Struct(wide()));
        let (array, narrow) = (array.as_struct(), narrow());
        assert_eq!(array.nulls(), narrow.nulls());
        assert_eq!(array.column(1), narrow.as_struct().column(0));
        for added in [0, 2] {
            assert_eq!(array.column(added).logical_null_count(), 4);
        }
    }

    #[test]
    fn missing_fields_are_null_and_null_structs_stay_null() {
        assert_wide(&filled(&narrow(), &DataType::Struct(wide())).unwrap());
        let part = filled(&narrow().slice(1, 2), &DataType::Struct(wide())).unwrap();
        assert_eq!((part.len(), part.null_count(), part.as_struct().column(1).null_count()), (2, 1, 2));
        let same = filled(&narrow(), narrow().data_type()).unwrap();
        assert_eq!(&same, &narrow());
    }

    #[test]
    fn structs_in_lists_and_maps_are_filled_too() {
        let offsets = OffsetBuffer::new(vec![0, 3, 3, 4].into());
        let element = Arc::new(Field::new("item", narrow().data_type().clone(), true));
        let nulls = Some(NullBuffer::from(vec![true, false, true]));
        let list: ArrayRef = Arc::new(ListArray::new(element, offsets.clone(), narrow(), nulls.clone()));
        let wanted = list_of(DataType::Struct(wide()));
        let filled_list = filled(&list, &wanted).unwrap();
        assert_eq!((filled_list.data_type(), filled_list.nulls()), (&wanted, list.nulls()));
        assert_wide(filled_list.as_list::<i32>().values());
        // A part of a list still refers to all elements.
        let last = filled(&list.slice(2, 1), &wanted).unwrap();
        assert_eq!(last.as_list::<i32>().value(0).as_struct().column(1), &ints(&[Some(4)]));

        let DataType::Map(entries, _) = map_to(narrow().data_type().clone()) else { unreachable!("a map") };
        let DataType::Struct(pair) = entries.data_type() else { unreachable!("entries are pairs") };
        let keys: ArrayRef = Arc::new(StringArray::from(vec!["k"; 4]));
        let pairs = StructArray::new(pair.clone(), vec![keys, narrow()], None);
        let map: ArrayRef = Arc::new(MapArray::new(entries, offsets, pairs, nulls, false));
        let wanted = list_of(map_to(DataType::Struct(wide())));
        let element = Arc::new(Field::new("element", map.data_type().clone(), true));
        let maps: ArrayRef =
            Arc::new(ListArray::new(element, OffsetBuffer::new(vec![0, 3].into()), map, None));
        let filled_maps = filled(&maps, &wanted).unwrap();
        assert_eq!(filled_maps.data_type(), &wanted);
        let filled_map = filled_maps.as_list::<i32>().values();
        assert_eq!(filled_map.null_count(), 1);
        assert_wide(filled_map.as_map().values());
    }

    #[test]
    fn nothing_gets_lost_or_becomes_null_where_there_is_none() {
        let without = DataType::Struct(fields(&[text("before")]));
        let required = Fields::from(vec![Field::new("a", DataType::Int32, false)]);
        let added = Fields::from(vec![
            Field::new("a", DataType::Int32, true),
            Field::new("b", DataType::Int32, false),
        ]);
        let number: ArrayRef = Arc::new(Int64Array::from(vec![1; 4]));
        for (array, wanted) in [
            (narrow(), without),
            (narrow(), DataType::Struct(required)),
            (narrow(), DataType::Struct(added)),
            (narrow(), DataType::Struct(fields(&[("a", DataType::Int64)]))),
            (narrow(), list_of(DataType::Int32)),
            (number, DataType::Int32),
        ] {
            assert!(filled(&array, &wanted).is_err(), "{} as {wanted}", array.data_type());
        }
    }

    #[test]
    fn utc_is_utc() {
        let zoned = |zone: &str| -> ArrayRef {
            Arc::new(TimestampMicrosecondArray::from(vec![Some(7), None]).with_timezone(zone))
        };
        let utc = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        assert_eq!(&filled(&zoned("+00:00"), &utc).unwrap(), &zoned("UTC"));
        assert!(filled(&zoned("+01:00"), &utc).is_err());
    }
}
