//! Keys of any type as words or bytes that are equal if the keys are.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, UInt64Array};
use arrow::buffer::{NullBuffer, ScalarBuffer};
use arrow::datatypes::DataType;
use arrow::row::{RowConverter, SortField};
use datafusion::common::{internal_datafusion_err, plan_err};
use datafusion::error::Result;

/// The hash of a key decides by its highest bits which shard the key is in, and by its lowest where it is looked for
/// in there.
pub(super) const SHARD_BITS: u32 = 6;

/// Parts of an index, and of everything that is spilled.
pub(super) const SHARDS: usize = 1 << SHARD_BITS;

/// The shard of a key with this hash.
#[inline]
pub(super) fn shard_of(hash: u64) -> usize {
    (hash >> (u64::BITS - SHARD_BITS)) as usize
}

/// The rows with a key that is not null, by the shards of their keys.
pub(super) fn rows_by_shard(keys: &KeyValues, nulls: Option<&NullBuffer>) -> Vec<Vec<u32>> {
    let mut shards = vec![Vec::new(); SHARDS];
    for (row, hash) in keys.hashes().into_iter().enumerate() {
        if nulls.is_none_or(|nulls| nulls.is_valid(row)) {
            shards[shard_of(hash)].push(row as u32);
        }
    }
    shards
}

// Digits of pi and e: any numbers without a pattern do.
const SEEDS: [u64; 3] = [0x243f_6a88_85a3_08d3, 0xb7e1_5162_8aed_2a6b, 0x1319_8a2e_0370_7345];

/// All bits of a product, folded into 64: each depends on all bits of both factors.
#[inline]
fn folded(left: u64, right: u64) -> u64 {
    let product = u128::from(left) * u128::from(right);
    (product as u64) ^ ((product >> 64) as u64)
}

#[inline]
pub(super) fn hash_of_word(word: u64) -> u64 {
    folded(word ^ SEEDS[0], SEEDS[1])
}

#[inline]
pub(super) fn hash_of_bytes(bytes: &[u8]) -> u64 {
    let mut state = SEEDS[0] ^ bytes.len() as u64;
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        state = folded(state ^ u64::from_le_bytes(*word), SEEDS[1]);
    }
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    folded(state ^ u64::from_le_bytes(last), SEEDS[2])
}

/// Encoded keys, one per row.
#[derive(Debug, Clone)]
pub(super) enum KeyValues {
    /// Keys that fit into 64 bits.
    Words(ScalarBuffer<u64>),
    /// All others. The array has no nulls of its own.
    Bytes(BinaryArray),
}

impl KeyValues {
    pub(super) fn hashes(&self) -> Vec<u64> {
        match self {
            KeyValues::Words(words) => words.iter().map(|word| hash_of_word(*word)).collect(),
            KeyValues::Bytes(bytes) => (0..bytes.len()).map(|row| hash_of_bytes(bytes.value(row))).collect(),
        }
    }

    #[inline]
    pub(super) fn hash(&self, row: usize) -> u64 {
        match self {
            KeyValues::Words(words) => hash_of_word(words[row]),
            KeyValues::Bytes(bytes) => hash_of_bytes(bytes.value(row)),
        }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        match self {
            KeyValues::Words(words) => words.inner().capacity(),
            KeyValues::Bytes(bytes) => bytes.get_array_memory_size(),
        }
    }

    /// The type of [`array`](Self::array).
    pub(super) fn data_type(bytes: bool) -> DataType {
        if bytes { DataType::Binary } else { DataType::UInt64 }
    }

    /// The keys as a column that can be written to a file.
    pub(super) fn array(&self) -> ArrayRef {
        match self {
            KeyValues::Words(words) => Arc::new(UInt64Array::new(words.clone(), None)),
            KeyValues::Bytes(bytes) => Arc::new(bytes.clone()),
        }
    }

    /// The keys of a column that was written to a file.
    pub(super) fn from_array(array: &dyn Array) -> Result<Self> {
        match array.data_type() {
            DataType::UInt64 => {
                Ok(KeyValues::Words(array.as_primitive::<arrow::datatypes::UInt64Type>().values().clone()))
            }
            DataType::Binary => Ok(KeyValues::Bytes(array.as_binary::<i32>().clone())),
            other => Err(internal_datafusion_err!("{other} is no type of encoded keys")),
        }
    }
}

#[derive(Debug)]
enum Encoding {
    /// No keys: all rows belong together.
    Nothing,
    /// One key of at most 64 bits.
    Word,
    /// One text, or one string of bytes.
    Bytes,
    /// Everything else, in Arrow's row format.
    Rows(RowConverter),
}

/// Turns the key columns of a batch into [`KeyValues`].
#[derive(Debug)]
pub(super) struct KeyEncoder {
    encoding: Encoding,
}

impl KeyEncoder {
    /// For keys of these types.
    ///
    /// # Errors
    /// If there is no exact equality for one of the types.
    pub(super) fn new(types: &[DataType]) -> Result<Self> {
        if let Some(other) = types.iter().find(|data_type| !is_key_type(data_type)) {
            return plan_err!(
                "a key of a point-in-time join cannot be of type {other}: cast it to one with exact equality"
            );
        }
        let encoding = match types {
            [] => Encoding::Nothing,
            [DataType::Utf8 | DataType::Binary] => Encoding::Bytes,
            [one] if *one == DataType::Boolean || one.primitive_width().is_some_and(|width| width <= 8) => {
                Encoding::Word
            }
            several => {
                let fields = several.iter().map(|data_type| SortField::new(data_type.clone())).collect();
                Encoding::Rows(RowConverter::new(fields)?)
            }
        };
        Ok(Self { encoding })
    }

    /// Whether keys are [`KeyValues::Bytes`].
    pub(super) fn is_bytes(&self) -> bool {
        matches!(self.encoding, Encoding::Bytes | Encoding::Rows(_))
    }

    /// The keys of `rows` rows, and which of them are null in some column.
    pub(super) fn encode(
        &self,
        columns: &[ArrayRef],
        rows: usize,
    ) -> Result<(KeyValues, Option<NullBuffer>)> {
        let nulls = NullBuffer::union_many(columns.iter().map(|column| column.nulls()));
        let values = match (&self.encoding, columns) {
            (Encoding::Nothing, _) => KeyValues::Words(vec![0; rows].into()),
            (Encoding::Word, [column]) => KeyValues::Words(words(column)?),
            (Encoding::Bytes, [column]) => KeyValues::Bytes(bytes(column)),
            (Encoding::Rows(converter), columns) => {
                KeyValues::Bytes(converter.convert_columns(columns)?.try_into_binary()?)
            }
            (_, columns) => return Err(internal_datafusion_err!("{} keys instead of one", columns.len())),
        };
        Ok((values, nulls))
    }
}

/// Whether equal values of a type have equal encodings, and only they: not so for floating point numbers, which have two
/// zeros, and for intervals.
pub(super) fn is_key_type(data_type: &DataType) -> bool {
    data_type.is_integer()
        || data_type.is_decimal()
        || matches!(
            data_type,
            DataType::Boolean
                | DataType::Date32
                | DataType::Date64
                | DataType::Time32(_)
                | DataType::Time64(_)
                | DataType::Timestamp(_, _)
                | DataType::Duration(_)
                | DataType::Utf8
                | DataType::LargeUtf8
                | DataType::Utf8View
                | DataType::Binary
                | DataType::LargeBinary
                | DataType::BinaryView
                | DataType::FixedSizeBinary(_)
        )
}

/// The bits of each value of a type of at most 64 bits.
fn words(array: &ArrayRef) -> Result<ScalarBuffer<u64>> {
    if let Some(booleans) = array.as_boolean_opt() {
        return Ok(booleans.values().iter().map(u64::from).collect());
    }
    let data = array.to_data();
    let (Some(width), Some(buffer)) = (array.data_type().primitive_width(), data.buffers().first()) else {
        return Err(internal_datafusion_err!("{} does not fit into a word", array.data_type()));
    };
    let (buffer, offset, rows) = (buffer.clone(), data.offset(), data.len());
    Ok(match width {
        8 => ScalarBuffer::new(buffer, offset, rows),
        4 => ScalarBuffer::<u32>::new(buffer, offset, rows).iter().map(|bits| u64::from(*bits)).collect(),
        2 => ScalarBuffer::<u16>::new(buffer, offset, rows).iter().map(|bits| u64::from(*bits)).collect(),
        1 => ScalarBuffer::<u8>::new(buffer, offset, rows).iter().map(|bits| u64::from(*bits)).collect(),
        other => return Err(internal_datafusion_err!("{other} bytes do not fit into a word")),
    })
}

/// The bytes of texts or strings of bytes, without copying them.
fn bytes(array: &ArrayRef) -> BinaryArray {
    match array.as_string_opt::<i32>() {
        Some(texts) => BinaryArray::new(texts.offsets().clone(), texts.values().clone(), None),
        None => {
            let bytes = array.as_binary::<i32>();
            BinaryArray::new(bytes.offsets().clone(), bytes.values().clone(), None)
        }
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{BooleanArray, Date32Array, Decimal128Array, Int16Array, Int64Array, StringArray};
    use arrow::compute::concat;
    use arrow::datatypes::TimeUnit;

    use super::*;

    /// Whether rows `left` and `right` of `columns` have equal keys, as encoded in batches of their own.
    fn are_equal(columns: &[ArrayRef], left: usize, right: usize) -> bool {
        let types: Vec<_> = columns.iter().map(|column| column.data_type().clone()).collect();
        let encoder = KeyEncoder::new(&types).unwrap();
        let encoded = |row: usize| {
            let slices: Vec<_> = columns.iter().map(|column| column.slice(row, 1)).collect();
            encoder.encode(&slices, 1).unwrap().0
        };
        let (left, right) = (encoded(left), encoded(right));
        let equal = left.array().to_data() == right.array().to_data();
        assert_eq!(equal, left.hashes() == right.hashes(), "these hashes do not collide");
        let read_back = KeyValues::from_array(&left.array()).unwrap();
        assert_eq!(read_back.array().to_data(), left.array().to_data());
        equal
    }

    #[test]
    fn keys_are_equal_if_their_values_are() {
        let columns: [ArrayRef; 6] = [
            Arc::new(Int64Array::from(vec![-1, i64::MIN, -1])),
            Arc::new(Int16Array::from(vec![-1, 7, -1])),
            Arc::new(BooleanArray::from(vec![true, false, true])),
            Arc::new(Date32Array::from(vec![3, -3, 3])),
            Arc::new(StringArray::from(vec!["", "a longer text than eight bytes", ""])),
            Arc::new(Decimal128Array::from(vec![1, 2, 1])),
        ];
        for column in &columns {
            assert!(are_equal(std::slice::from_ref(column), 0, 2), "{column:?}");
            assert!(!are_equal(std::slice::from_ref(column), 0, 1), "{column:?}");
        }
        assert!(are_equal(&columns, 0, 2));
        assert!(!are_equal(&columns, 1, 2));
        // The border between two texts is a part of the key.
        let texts: [ArrayRef; 2] =
            [Arc::new(StringArray::from(vec!["ab", "a"])), Arc::new(StringArray::from(vec!["c", "bc"]))];
        assert!(!are_equal(&texts, 0, 1));
        let one: [ArrayRef; 1] = [Arc::new(StringArray::from(vec!["a", "a\0", "a\0\0"]))];
        assert!(!are_equal(&one, 0, 1) && !are_equal(&one, 1, 2));
    }

    #[test]
    fn a_key_with_a_null_in_it_is_null() {
        let left: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None, Some(1)]));
        let right: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), Some("a"), None]));
        let encoder = KeyEncoder::new(&[DataType::Int64, DataType::Utf8]).unwrap();
        let (_, nulls) = encoder.encode(&[left, right], 3).unwrap();
        assert_eq!(nulls.unwrap().iter().collect::<Vec<_>>(), [true, false, false]);
        let (none, nulls) = KeyEncoder::new(&[]).unwrap().encode(&[], 2).unwrap();
        assert_eq!((none.hashes()[0] == none.hashes()[1], nulls), (true, None));
    }

    #[test]
    fn sliced_columns_are_read_where_they_begin() {
        let array: ArrayRef = Arc::new(Int16Array::from(vec![1, 2, 3]));
        assert_eq!(words(&array.slice(1, 2)).unwrap().to_vec(), [2, 3]);
        let texts: ArrayRef = Arc::new(StringArray::from(vec!["x", "yy", "z"]));
        assert_eq!(bytes(&texts.slice(1, 2)).value(0), b"yy");
        let longer = concat(&[&texts, &texts]).unwrap();
        assert_eq!(bytes(&longer.slice(4, 1)).value(0), b"yy");
    }

    #[test]
    fn types_without_exact_equality_are_refused() {
        for data_type in [
            DataType::Float64,
            DataType::Null,
            DataType::Interval(arrow::datatypes::IntervalUnit::MonthDayNano),
            DataType::new_list(DataType::Int32, true),
        ] {
            let error = KeyEncoder::new(&[DataType::Int64, data_type]).unwrap_err().to_string();
            assert!(error.contains("exact equality"), "{error}");
        }
        assert!(KeyEncoder::new(&[DataType::Timestamp(TimeUnit::Second, None)]).is_ok());
    }

    #[test]
    fn neighbours_spread_over_all_shards() {
        let mut words = [0; SHARDS];
        let mut texts = [0; SHARDS];
        for number in 0..64_000_u64 {
            words[shard_of(hash_of_word(number))] += 1;
            texts[shard_of(hash_of_bytes(format!("user-{number}").as_bytes()))] += 1;
        }
        for rows in words.into_iter().chain(texts) {
            assert!((800..1200).contains(&rows), "{rows}");
        }
    }
}
