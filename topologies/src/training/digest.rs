//! The digest of a training set: of its values, their types and their order, and of nothing else. How they are encoded in a file, cut
//! into batches or spread over threads makes no difference. `docs/training-sets.md` defines it for other implementations.
//!
//! Each column has a digest of its own, so that two sets that differ can be told apart by column:
//!
//! ```text
//! digest of a column = SHA-256(value, value, …)
//! digest of the set  = SHA-256("isobar training set 1\n" "rows 2\n" "column \"id\" int64 <digest>\n" …)
//! ```
//!
//! | value | bytes |
//! |---|---|
//! | null | `00` |
//! | any other | `01`, and then: |
//! | boolean | `00` or `01` |
//! | number, date, timestamp, decimal | its bits, the lowest byte first, in the width of its type; decimals in 16 bytes |
//! | string, binary | its length in 8 bytes, the lowest first; its bytes |
//! | list | its length in 8 bytes; its elements, as values |
//! | struct | its fields, as values |
//! | map | its length in 8 bytes; per entry the key and the value, as values |

use arrow::array::{
    Array, ArrowPrimitiveType, AsArray, GenericStringArray, ListArray, MapArray, RecordBatch, StructArray,
};
use arrow::datatypes::{
    ArrowNativeType, DataType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int8Type, Int16Type,
    Int32Type, Int64Type, SchemaRef, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType,
    TimestampNanosecondType, ToByteSlice, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow::error::ArrowError;
use sha2::{Digest, Sha256};

use super::columns::type_text;

/// What comes first in the digest of a set: another definition has another number.
const BEGIN: &str = "isobar training set 1\n";

/// Digests rows as they come.
#[derive(Debug)]
pub(super) struct SetDigest {
    schema: SchemaRef,
    columns: Vec<Sha256>,
    rows: u64,
    /// The bytes of a column of a batch.
    bytes: Vec<u8>,
}

/// The digests of a set that is complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Digested {
    /// Of the set, in hexadecimal digits.
    pub(super) set: String,
    /// Of its columns.
    pub(super) columns: Vec<String>,
    /// How many rows it has.
    pub(super) rows: u64,
}

impl SetDigest {
    /// The digest of no rows. The types of `schema` are stored ones.
    pub(super) fn new(schema: SchemaRef) -> Self {
        let columns = vec![Sha256::new(); schema.fields().len()];
        Self { schema, columns, rows: 0, bytes: Vec::new() }
    }

    /// Takes the next rows.
    ///
    /// # Errors
    /// If a column has a type that no training set has.
    pub(super) fn update(&mut self, batch: &RecordBatch) -> Result<(), ArrowError> {
        for (column, digest) in batch.columns().iter().zip(&mut self.columns) {
            self.bytes.clear();
            let write = writer_of(column.as_ref())?;
            for row in 0..column.len() {
                write(row, &mut self.bytes);
            }
            digest.update(&self.bytes);
        }
        self.rows += batch.num_rows() as u64;
        Ok(())
    }

    /// The digests of all rows.
    pub(super) fn finish(self) -> Digested {
        let columns: Vec<String> =
            self.columns.into_iter().map(|column| hex::encode(column.finalize())).collect();
        let mut set = Sha256::new();
        set.update(BEGIN);
        set.update(format!("rows {}\n", self.rows));
        for (field, digest) in self.schema.fields().iter().zip(&columns) {
            let name = serde_json::Value::from(field.name().as_str());
            set.update(format!("column {name} {} {digest}\n", type_text(field.data_type())));
        }
        Digested { set: hex::encode(set.finalize()), columns, rows: self.rows }
    }
}

/// Appends the bytes of the value in a row.
type WriteValue<'a> = Box<dyn Fn(usize, &mut Vec<u8>) + 'a>;

fn writer_of(array: &dyn Array) -> Result<WriteValue<'_>, ArrowError> {
    let write = writer_of_values(array)?;
    let nulls = array.nulls();
    Ok(Box::new(move |row, bytes| {
        if nulls.is_some_and(|nulls| nulls.is_null(row)) {
            bytes.push(0);
        } else {
            bytes.push(1);
            write(row, bytes);
        }
    }))
}

fn writer_of_values(array: &dyn Array) -> Result<WriteValue<'_>, ArrowError> {
    Ok(match array.data_type() {
        DataType::Boolean => {
            let values = array.as_boolean().values();
            Box::new(move |row, bytes| bytes.push(u8::from(values.value(row))))
        }
        DataType::Int8 => numbers::<Int8Type>(array),
        DataType::Int16 => numbers::<Int16Type>(array),
        DataType::Int32 => numbers::<Int32Type>(array),
        DataType::Int64 => numbers::<Int64Type>(array),
        DataType::UInt8 => numbers::<UInt8Type>(array),
        DataType::UInt16 => numbers::<UInt16Type>(array),
        DataType::UInt32 => numbers::<UInt32Type>(array),
        DataType::UInt64 => numbers::<UInt64Type>(array),
        DataType::Float32 => numbers::<Float32Type>(array),
        DataType::Float64 => numbers::<Float64Type>(array),
        DataType::Date32 => numbers::<Date32Type>(array),
        DataType::Decimal128(..) => numbers::<Decimal128Type>(array),
        DataType::Timestamp(TimeUnit::Millisecond, _) => numbers::<TimestampMillisecondType>(array),
        DataType::Timestamp(TimeUnit::Microsecond, _) => numbers::<TimestampMicrosecondType>(array),
        DataType::Timestamp(TimeUnit::Nanosecond, _) => numbers::<TimestampNanosecondType>(array),
        DataType::Utf8 => {
            let values: &GenericStringArray<i32> = array.as_string();
            Box::new(move |row, bytes| sized(values.value(row).as_bytes(), bytes))
        }
        DataType::Binary => {
            let values = array.as_binary::<i32>();
            Box::new(move |row, bytes| sized(values.value(row), bytes))
        }
        DataType::List(_) => lists(array.as_list())?,
        DataType::Struct(_) => structs(array.as_struct())?,
        DataType::Map(..) => maps(array.as_map())?,
        other => return Err(ArrowError::NotYetImplemented(format!("a digest of {other}"))),
    })
}

/// Native values lie in memory with the lowest byte first, on every platform that isobar is built for.
fn numbers<T: ArrowPrimitiveType>(array: &dyn Array) -> WriteValue<'_> {
    const { assert!(cfg!(target_endian = "little")) };
    let values = array.as_primitive::<T>().values();
    Box::new(move |row, bytes| bytes.extend_from_slice(std::slice::from_ref(&values[row]).to_byte_slice()))
}

fn size(size: usize, bytes: &mut Vec<u8>) {
    bytes.extend_from_slice(&(size as u64).to_le_bytes());
}

fn sized(value: &[u8], bytes: &mut Vec<u8>) {
    size(value.len(), bytes);
    bytes.extend_from_slice(value);
}

fn lists(lists: &ListArray) -> Result<WriteValue<'_>, ArrowError> {
    let write = writer_of(lists.values().as_ref())?;
    let offsets = lists.value_offsets();
    Ok(Box::new(move |row, bytes| {
        let elements = offsets[row].as_usize()..offsets[row + 1].as_usize();
        size(elements.len(), bytes);
        elements.for_each(|element| write(element, bytes));
    }))
}

fn structs(structs: &StructArray) -> Result<WriteValue<'_>, ArrowError> {
    let fields = structs.columns().iter().map(|column| writer_of(column.as_ref()));
    let fields: Vec<WriteValue<'_>> = fields.collect::<Result<_, _>>()?;
    Ok(Box::new(move |row, bytes| fields.iter().for_each(|write| write(row, bytes))))
}

fn maps(maps: &MapArray) -> Result<WriteValue<'_>, ArrowError> {
    let (key, value) = (writer_of(maps.keys().as_ref())?, writer_of(maps.values().as_ref())?);
    let offsets = maps.value_offsets();
    Ok(Box::new(move |row, bytes| {
        let entries = offsets[row].as_usize()..offsets[row + 1].as_usize();
        size(entries.len(), bytes);
        for entry in entries {
            key(entry, bytes);
            value(entry, bytes);
        }
    }))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array, StringArray};
    use arrow::datatypes::{Field, Schema};

    use super::*;

    fn batch(ids: &[Option<i64>], texts: &[Option<&str>]) -> RecordBatch {
        let fields = vec![Field::new("id", DataType::Int64, true), Field::new("t", DataType::Utf8, true)];
        let columns: Vec<ArrayRef> =
            vec![Arc::new(Int64Array::from(ids.to_vec())), Arc::new(StringArray::from(texts.to_vec()))];
        RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
    }

    fn digest(batches: &[RecordBatch]) -> Digested {
        let mut digest = SetDigest::new(batches[0].schema());
        batches.iter().for_each(|batch| digest.update(batch).unwrap());
        digest.finish()
    }

    #[test]
    fn the_digest_is_that_of_the_documentation() {
        let digested = digest(&[batch(&[Some(7), None], &[Some("é"), Some("")])]);
        let mut id = vec![1, 7, 0, 0, 0, 0, 0, 0, 0];
        id.push(0);
        let text = [&[1, 2, 0, 0, 0, 0, 0, 0, 0, 0xc3, 0xa9][..], &[1, 0, 0, 0, 0, 0, 0, 0, 0]].concat();
        let columns = [hex::encode(Sha256::digest(&id)), hex::encode(Sha256::digest(&text))];
        assert_eq!(digested.columns, columns);
        let set = format!(
            "isobar training set 1\nrows 2\ncolumn \"id\" int64 {}\ncolumn \"t\" string {}\n",
            columns[0], columns[1]
        );
        assert_eq!(digested.set, hex::encode(Sha256::digest(set)));
    }

    #[test]
    fn borders_of_batches_make_no_difference_and_order_does() {
        let whole = batch(&[Some(1), None, Some(3)], &[None, Some("a"), Some("b")]);
        let parts = [whole.slice(0, 1), whole.slice(1, 0), whole.slice(1, 2)];
        assert_eq!(digest(&parts), digest(std::slice::from_ref(&whole)));
        let swapped = [whole.slice(1, 2), whole.slice(0, 1)];
        assert_ne!(digest(&swapped).set, digest(std::slice::from_ref(&whole)).set);
        let other = batch(&[Some(1), None, Some(3)], &[None, Some("ab"), Some("")]);
        let (other, whole) = (digest(&[other]), digest(&[whole]));
        assert_eq!(other.columns[0], whole.columns[0]);
        assert_ne!(other.columns[1], whole.columns[1]);
    }

    #[test]
    fn slices_of_lists_structs_and_maps_have_the_digest_of_their_rows() {
        use arrow::array::{ListArray, MapBuilder, StringBuilder, StructArray};
        use arrow::datatypes::Int32Type;
        let lists: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(vec![
            Some(vec![Some(1), None]),
            None,
            Some(vec![]),
            Some(vec![Some(2)]),
        ]));
        let inner: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), Some(2), None, Some(4)]));
        let field = Arc::new(Field::new("x", DataType::Int64, true));
        let structs: ArrayRef = Arc::new(StructArray::from(vec![(field, inner)]));
        let mut maps = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
        for row in 0..4 {
            for entry in 0..row {
                maps.keys().append_value(format!("k{entry}"));
                maps.values().append_option((entry > 0).then_some("v"));
            }
            maps.append(row != 2).unwrap();
        }
        let maps: ArrayRef = Arc::new(maps.finish());
        for column in [lists, structs, maps] {
            let field = Field::new("c", column.data_type().clone(), true);
            let whole = RecordBatch::try_new(Arc::new(Schema::new(vec![field])), vec![column]).unwrap();
            let parts = [whole.slice(0, 2), whole.slice(2, 1), whole.slice(3, 1)];
            assert_eq!(digest(&parts), digest(std::slice::from_ref(&whole)));
            let copied = arrow::compute::concat_batches(&whole.schema(), &parts[1..]).unwrap();
            assert_eq!(digest(&[copied]), digest(&[whole.slice(2, 2)]));
            assert_ne!(digest(&[whole.slice(2, 2)]).set, digest(&[whole.slice(0, 2)]).set);
        }
    }
}
