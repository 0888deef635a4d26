//! Helpers of the decoders' tests: schemas, chunks, rows as text, randomness that can be replayed.

use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Field, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type,
    Int64Type, Schema, SchemaRef, TimestampMicrosecondType,
};

use crate::fields::FieldType;
use crate::records::{RecordChunk, TopicPartition};

/// A schema from the types of a spec; `!` after a name makes the field required.
pub(crate) fn schema(fields: &[(&str, &str)]) -> SchemaRef {
    let fields = fields.iter().map(|(name, text)| {
        let data_type = FieldType::from_str(text).unwrap().to_arrow();
        Field::new(name.trim_end_matches('!'), data_type, !name.ends_with('!'))
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// A chunk of `payloads`, with offsets from 0.
pub(crate) fn chunk<'a>(payloads: impl IntoIterator<Item = Option<&'a [u8]>>) -> RecordChunk {
    let mut chunk = RecordChunk::new(TopicPartition::new("t", 0));
    for (offset, payload) in payloads.into_iter().enumerate() {
        chunk.push(offset as i64, None, None, payload);
    }
    chunk
}

/// The shortest of a few runs, each over all chunks.
pub(crate) fn fastest(mut run: impl FnMut()) -> Duration {
    let times = (0..7).map(|_| {
        let start = Instant::now();
        run();
        start.elapsed()
    });
    times.min().unwrap()
}

/// Small pseudo-random numbers (xorshift), so that a failure can be replayed from its seed.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 11) % bound as u64) as usize
    }

    pub(crate) fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    pub(crate) fn pick<'a, T: ?Sized>(&mut self, choices: &[&'a T]) -> &'a T {
        choices[self.below(choices.len())]
    }
}

/// A row as text.
pub(crate) fn render_row(batch: &RecordBatch, row: usize) -> String {
    let schema = batch.schema();
    let values = schema.fields().iter().zip(batch.columns());
    let members: Vec<_> =
        values.map(|(field, array)| format!("{}: {}", field.name(), render(array, row))).collect();
    format!("{{{}}}", members.join(", "))
}

pub(crate) fn render(array: &dyn Array, row: usize) -> String {
    if array.is_null(row) {
        return "null".to_owned();
    }
    let all = |values: &dyn Array| (0..values.len()).map(|at| render(values, at)).collect::<Vec<_>>();
    match array.data_type() {
        DataType::Boolean => array.as_boolean().value(row).to_string(),
        DataType::Int8 => array.as_primitive::<Int8Type>().value(row).to_string(),
        DataType::Int16 => array.as_primitive::<Int16Type>().value(row).to_string(),
        DataType::Int32 => array.as_primitive::<Int32Type>().value(row).to_string(),
        DataType::Int64 => array.as_primitive::<Int64Type>().value(row).to_string(),
        DataType::Float32 => format!("{:?}", array.as_primitive::<Float32Type>().value(row)),
        DataType::Float64 => format!("{:?}", array.as_primitive::<Float64Type>().value(row)),
        DataType::Decimal128(..) => array.as_primitive::<Decimal128Type>().value(row).to_string(),
        DataType::Utf8 => format!("{:?}", array.as_string::<i32>().value(row)),
        DataType::Binary => format!("{:?}", array.as_binary::<i32>().value(row)),
        DataType::Date32 => array.as_primitive::<Date32Type>().value(row).to_string(),
        DataType::Timestamp(..) => array.as_primitive::<TimestampMicrosecondType>().value(row).to_string(),
        DataType::List(_) => format!("[{}]", all(&array.as_list::<i32>().value(row)).join(", ")),
        DataType::Struct(fields) => {
            let columns = fields.iter().zip(array.as_struct().columns());
            let members: Vec<_> =
                columns.map(|(field, column)| format!("{}: {}", field.name(), render(column, row))).collect();
            format!("{{{}}}", members.join(", "))
        }
        DataType::Map(..) => {
            let entries = array.as_map().value(row);
            let pairs = all(entries.column(0)).into_iter().zip(all(entries.column(1)));
            let entries: Vec<_> = pairs.map(|(key, value)| format!("{key}: {value}")).collect();
            format!("{{{}}}", entries.join(", "))
        }
        other => unreachable!("{other}"),
    }
}
