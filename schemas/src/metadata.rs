//! What Kafka knows about a record, as columns beside its fields.
//!
//! | column | type | |
//! |---|---|---|
//! | `_topic` | string | |
//! | `_partition` | int32 | |
//! | `_offset` | int64 | the record's own |
//! | `_timestamp` | timestamp, milliseconds, UTC | null if the record has none |
//! | `_key` | binary | null if the record has none |
//! | `_headers` | list of struct (`key`: string, `value`: binary, null if the header has none) | empty if the record has none |
//!
//! `_headers` is a list because Kafka's headers are one: in an order, and a name may be there twice. A map would have to drop
//! one of the two, or reject the record. Spark's Kafka source (`includeHeaders`) has the same type. Names that are not UTF-8,
//! which no Kafka client writes, have U+FFFD where it is broken.
//!
//! Queries and checks can use them by name. They are built only for those who want them: a batch that goes to a
//! transform has the fields of the source, then the wanted metadata columns in the order of this table.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BinaryBuilder, Int32Array, Int64Array, ListArray, RecordBatch, RecordBatchOptions,
    StringArray, StringBuilder, StructArray, TimestampMillisecondArray,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};

use crate::error::Error;
use crate::fields::UTC;
use crate::records::RecordChunk;

/// A metadata column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MetadataColumn {
    /// `_topic`
    Topic,
    /// `_partition`
    Partition,
    /// `_offset`
    Offset,
    /// `_timestamp`
    Timestamp,
    /// `_key`
    Key,
    /// `_headers`
    Headers,
}

impl MetadataColumn {
    /// All of them, in the order of columns.
    pub const ALL: [MetadataColumn; 6] = [
        MetadataColumn::Topic,
        MetadataColumn::Partition,
        MetadataColumn::Offset,
        MetadataColumn::Timestamp,
        MetadataColumn::Key,
        MetadataColumn::Headers,
    ];

    /// The column's name.
    pub fn name(self) -> &'static str {
        match self {
            MetadataColumn::Topic => "_topic",
            MetadataColumn::Partition => "_partition",
            MetadataColumn::Offset => "_offset",
            MetadataColumn::Timestamp => "_timestamp",
            MetadataColumn::Key => "_key",
            MetadataColumn::Headers => "_headers",
        }
    }

    /// The column called `name`, whatever the case of its letters: Delta tables ignore it.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|column| column.name().eq_ignore_ascii_case(name))
    }

    /// The column's Arrow field.
    pub fn field(self) -> Field {
        let (data_type, nullable) = match self {
            MetadataColumn::Topic => (DataType::Utf8, false),
            MetadataColumn::Partition => (DataType::Int32, false),
            MetadataColumn::Offset => (DataType::Int64, false),
            MetadataColumn::Timestamp => (DataType::Timestamp(TimeUnit::Millisecond, Some(UTC.into())), true),
            MetadataColumn::Key => (DataType::Binary, true),
            MetadataColumn::Headers => (headers_type(), false),
        };
        Field::new(self.name(), data_type, nullable)
    }

    /// The column's value for each of `records` of `chunk`.
    fn array(self, chunk: &RecordChunk, records: &[u32]) -> Result<ArrayRef, Error> {
        let records = records.iter().map(|record| *record as usize);
        let partition = chunk.topic_partition();
        Ok(match self {
            MetadataColumn::Topic => Arc::new(repeated(&partition.topic, records.len())),
            MetadataColumn::Partition => Arc::new(Int32Array::from_value(partition.partition, records.len())),
            MetadataColumn::Offset => {
                Arc::new(records.map(|record| chunk.offsets()[record]).collect::<Int64Array>())
            }
            MetadataColumn::Timestamp => {
                let timestamps = records.map(|record| chunk.timestamps_ms()[record]);
                Arc::new(timestamps.collect::<TimestampMillisecondArray>().with_timezone(UTC))
            }
            MetadataColumn::Key => {
                let mut keys = BinaryBuilder::with_capacity(records.len(), 0);
                records.for_each(|record| keys.append_option(chunk.key(record)));
                Arc::new(keys.finish())
            }
            MetadataColumn::Headers => {
                let headers = headers_array(chunk, records)?;
                if headers.null_count() > 0 {
                    return Err(Error::HeadersNotKept);
                }
                Arc::new(headers)
            }
        })
    }
}

/// The Arrow type of `_headers`, and of the headers that a quarantine keeps.
pub fn headers_type() -> DataType {
    DataType::List(Arc::new(header_field()))
}

fn header_field() -> Field {
    Field::new("element", DataType::Struct(header_fields()), false)
}

fn header_fields() -> Fields {
    Fields::from(vec![Field::new("key", DataType::Utf8, false), Field::new("value", DataType::Binary, true)])
}

/// The headers of each of `records` of `chunk`, of [`headers_type`]; null where they are not kept or could not be read.
///
/// # Errors
/// Only if there are more than one array can hold, which is a bug: chunks are bounded far below that.
pub fn headers_array(chunk: &RecordChunk, records: impl Iterator<Item = usize>) -> Result<ListArray, Error> {
    let (mut keys, mut values) = (StringBuilder::new(), BinaryBuilder::new());
    let (mut lengths, mut present) = (Vec::new(), Vec::new());
    for record in records {
        let headers = chunk.headers(record);
        present.push(headers.is_some());
        let headers = headers.unwrap_or_default();
        lengths.push(headers.len());
        for (key, value) in headers {
            keys.append_value(key);
            values.append_option(value);
        }
    }
    let columns: Vec<ArrayRef> = vec![Arc::new(keys.finish()), Arc::new(values.finish())];
    let headers = StructArray::try_new(header_fields(), columns, None)?;
    let nulls = Some(NullBuffer::from(present)).filter(|nulls| nulls.null_count() > 0);
    let offsets = OffsetBuffer::from_lengths(lengths);
    Ok(ListArray::try_new(Arc::new(header_field()), offsets, Arc::new(headers), nulls)?)
}

/// An array of `text`, `len` times.
fn repeated(text: &str, len: usize) -> StringArray {
    let offsets = OffsetBuffer::from_repeated_length(text.len(), len);
    StringArray::new(offsets, text.repeat(len).into_bytes().into(), None)
}

/// The schema of `fields` with the columns `wanted` after them.
pub fn schema_with_metadata(fields: &SchemaRef, wanted: &[MetadataColumn]) -> SchemaRef {
    if wanted.is_empty() {
        return Arc::clone(fields);
    }
    let metadata = wanted.iter().map(|column| Arc::new(column.field()));
    Arc::new(Schema::new(fields.fields().iter().cloned().chain(metadata).collect::<Vec<_>>()))
}

/// The rows of `batch` with the metadata columns `wanted` after their own. Row `r` is record `records[r]` of `chunk`.
///
/// # Errors
/// Only by a bug: `batch` and `records` do not belong together, or headers are wanted that `chunk` does not keep.
pub fn with_metadata(
    batch: &RecordBatch,
    chunk: &RecordChunk,
    records: &[u32],
    wanted: &[MetadataColumn],
) -> Result<RecordBatch, Error> {
    let metadata = wanted.iter().map(|column| column.array(chunk, records));
    let columns = batch.columns().iter().cloned().map(Ok).chain(metadata).collect::<Result<_, Error>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    let schema = schema_with_metadata(&batch.schema(), wanted);
    Ok(RecordBatch::try_new_with_options(schema, columns, &options)?)
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;
    use arrow::datatypes::{Int32Type, Int64Type, TimestampMillisecondType};

    use super::*;
    use crate::records::TopicPartition;

    const TRACE: (&str, Option<&[u8]>) = ("trace", Some(b"\x00\xff"));

    fn chunk() -> RecordChunk {
        let mut chunk = RecordChunk::with_headers(TopicPartition::new("flights", 3));
        chunk.push_with_headers(5, Some(7), Some(b"JFK"), Some(b"{}"), Some([TRACE, ("a", None), TRACE]));
        chunk.push(6, Some(8), None, None);
        chunk.push(9, None, Some(b""), Some(b"{}"));
        chunk
    }

    #[test]
    fn metadata_is_that_of_the_records_chosen() {
        let fields = Arc::new(Schema::new(vec![Field::new("year", DataType::Int32, true)]));
        let batch = RecordBatch::try_new(fields, vec![Arc::new(Int32Array::from(vec![1, 2]))]).unwrap();
        let batch = with_metadata(&batch, &chunk(), &[0, 2], &MetadataColumn::ALL).unwrap();
        assert_eq!(batch["year"].as_primitive::<Int32Type>().values(), &[1, 2]);
        assert_eq!(
            batch["_topic"].as_string::<i32>().iter().flatten().collect::<Vec<_>>(),
            ["flights", "flights"]
        );
        assert_eq!(batch["_partition"].as_primitive::<Int32Type>().values(), &[3, 3]);
        assert_eq!(batch["_offset"].as_primitive::<Int64Type>().values(), &[5, 9]);
        let timestamps = batch["_timestamp"].as_primitive::<TimestampMillisecondType>();
        assert_eq!(timestamps.iter().collect::<Vec<_>>(), [Some(7), None]);
        let keys = batch["_key"].as_binary::<i32>();
        assert_eq!(keys.iter().collect::<Vec<_>>(), [Some(&b"JFK"[..]), Some(&b""[..])]);
        let headers = batch["_headers"].as_list::<i32>();
        assert_eq!(headers.offsets().as_ref(), [0, 3, 3]);
        let entries = headers.values().as_struct();
        let names: Vec<_> = entries.column(0).as_string::<i32>().iter().flatten().collect();
        assert_eq!(names, ["trace", "a", "trace"]);
        let values: Vec<_> = entries.column(1).as_binary::<i32>().iter().collect();
        assert_eq!(values, [TRACE.1, None, TRACE.1]);
    }

    #[test]
    fn headers_that_are_not_there_are_not_taken_for_none() {
        let fields = Arc::new(Schema::new(vec![Field::new("year", DataType::Int32, true)]));
        let batch = RecordBatch::try_new(fields, vec![Arc::new(Int32Array::from(vec![1]))]).unwrap();
        let partition = TopicPartition::new("flights", 3);
        let mut without = RecordChunk::new(partition.clone());
        without.push(5, None, None, None);
        let mut unreadable = RecordChunk::with_headers(partition);
        unreadable.push_with_headers(5, None, None, None, None::<[(&str, Option<&[u8]>); 0]>);
        for chunk in [without, unreadable] {
            let wanted = with_metadata(&batch, &chunk, &[0], &[MetadataColumn::Headers]);
            assert!(matches!(wanted, Err(Error::HeadersNotKept)));
            assert!(headers_array(&chunk, [0].into_iter()).unwrap().is_null(0));
        }
    }

    #[test]
    fn nothing_is_built_that_is_not_wanted() {
        let fields = Arc::new(Schema::new(vec![Field::new("year", DataType::Int32, true)]));
        let batch = RecordBatch::try_new(fields, vec![Arc::new(Int32Array::from(vec![1]))]).unwrap();
        let keys = with_metadata(&batch, &chunk(), &[1], &[MetadataColumn::Key]).unwrap();
        assert_eq!(keys.num_columns(), 2);
        assert!(keys["_key"].is_null(0));
        assert_eq!(with_metadata(&batch, &chunk(), &[1], &[]).unwrap(), batch);
        assert!(with_metadata(&batch, &chunk(), &[1, 2], &[MetadataColumn::Key]).is_err());
    }

    #[test]
    fn columns_are_found_by_their_names() {
        for column in MetadataColumn::ALL {
            assert_eq!(MetadataColumn::from_name(column.name()), Some(column));
            assert_eq!(column.field().name(), column.name());
        }
        assert_eq!(MetadataColumn::from_name("_OFFSET"), Some(MetadataColumn::Offset));
        assert_eq!(MetadataColumn::from_name("offset"), None);
    }
}
