//! How many bytes values have, as they would be written.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::DataType;

/// What an element of a list takes beside its own bytes.
pub(super) const PLACE_BYTES: u64 = 8;

/// Bytes of the values of a batch, as they would be written, whatever they share with others.
pub(crate) fn batch_bytes(batch: &RecordBatch) -> usize {
    batch.columns().iter().map(value_bytes).sum()
}

/// Bytes of the values of an array. Those of views count as often as they are seen.
pub(super) fn value_bytes(array: &ArrayRef) -> usize {
    let views = |views: &[u128]| {
        // The length of a value is in the lowest bits of its view.
        views.iter().map(|view| (*view as u32) as usize + 16).sum()
    };
    match array.data_type() {
        DataType::Utf8View => views(array.as_string_view().views()),
        DataType::BinaryView => views(array.as_binary_view().views()),
        DataType::Struct(_) => array.as_struct().columns().iter().map(value_bytes).sum(),
        DataType::Dictionary(..) => {
            let longest = byte_lengths(array.as_any_dictionary().values()).into_iter().max();
            usize::try_from(longest.unwrap_or(0)).unwrap_or(usize::MAX).saturating_mul(array.len())
        }
        _ => array.to_data().get_slice_memory_size().unwrap_or_else(|_| array.get_array_memory_size()),
    }
}

/// Bytes of each value, those of elements and fields together.
pub(super) fn byte_lengths(array: &ArrayRef) -> Vec<u64> {
    let rows = 0..array.len();
    let views = |views: &[u128]| views.iter().map(|view| u64::from(*view as u32)).collect();
    match array.data_type() {
        DataType::Utf8 => rows.map(|row| array.as_string::<i32>().value_length(row) as u64).collect(),
        DataType::LargeUtf8 => rows.map(|row| array.as_string::<i64>().value_length(row) as u64).collect(),
        DataType::Binary => rows.map(|row| array.as_binary::<i32>().value_length(row) as u64).collect(),
        DataType::LargeBinary => rows.map(|row| array.as_binary::<i64>().value_length(row) as u64).collect(),
        DataType::Utf8View => views(array.as_string_view().views()),
        DataType::BinaryView => views(array.as_binary_view().views()),
        DataType::List(_) => {
            let list = array.as_list::<i32>();
            sums(list.values(), list.value_offsets().iter().map(|offset| *offset as usize))
        }
        DataType::LargeList(_) => {
            let list = array.as_list::<i64>();
            sums(list.values(), list.value_offsets().iter().map(|offset| *offset as usize))
        }
        DataType::Map(..) => {
            let map = array.as_map();
            let entries: ArrayRef = Arc::new(map.entries().clone());
            sums(&entries, map.value_offsets().iter().map(|offset| *offset as usize))
        }
        DataType::FixedSizeList(_, length) => {
            let length = usize::try_from(*length).unwrap_or(0);
            let values = array.as_fixed_size_list().values();
            sums(values, (0..=array.len()).map(|row| row * length))
        }
        DataType::Struct(_) => {
            let fields: Vec<Vec<u64>> = array.as_struct().columns().iter().map(byte_lengths).collect();
            rows.map(|row| fields.iter().map(|lengths| lengths[row]).sum()).collect()
        }
        DataType::Dictionary(..) => {
            // As if every row had the longest value.
            let longest = byte_lengths(array.as_any_dictionary().values()).into_iter().max();
            vec![longest.unwrap_or(0); array.len()]
        }
        DataType::Null | DataType::Boolean => vec![1; array.len()],
        other => match other.primitive_width() {
            Some(width) => vec![width as u64; array.len()],
            // Whatever else there may be: as if every value were the average of all.
            None => vec![value_bytes(array).div_ceil(array.len().max(1)) as u64; array.len()],
        },
    }
}

/// Bytes of the elements between one offset and the next, each of them with its place in the list.
fn sums(values: &ArrayRef, offsets: impl Iterator<Item = usize>) -> Vec<u64> {
    let mut until = Vec::with_capacity(values.len() + 1);
    let mut sum = 0_u64;
    until.push(sum);
    for bytes in byte_lengths(values) {
        sum = sum.saturating_add(bytes + PLACE_BYTES);
        until.push(sum);
    }
    let offsets: Vec<usize> = offsets.collect();
    offsets.windows(2).map(|pair| until[pair[1]].saturating_sub(until[pair[0]])).collect()
}
