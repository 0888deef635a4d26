//! Values for the placeholders of a prepared statement: one row, sent as Flight sends rows, kept as a stream of Arrow's IPC.

use std::io::Cursor;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use arrow::error::ArrowError;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::root_as_message;
use arrow::ipc::writer::StreamWriter;
use arrow_flight::FlightData;
use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::error::FlightError;
use bytes::Bytes;
use datafusion::common::{ParamValues, ScalarValue};
use datafusion::error::DataFusionError;
use futures::{Stream, StreamExt, TryStreamExt, stream};
use tonic::Status;

use super::plain;

/// Bytes of the values of one statement.
const BYTES_MAX: usize = 1 << 20;
/// Messages that they come in: schema, dictionaries, rows.
const MESSAGES_MAX: usize = 1_000;

/// What a client is told to send: a column for each placeholder, text where the query does not say a type.
///
/// Types are the widest of their kind, and times are in milliseconds: the JDBC driver cuts off what does not fit into a column, and
/// sends milliseconds in whatever unit a column has. Whatever a client sends, the engine brings it to the type that it needs.
pub(super) fn schema(placeholders: &[(String, Option<DataType>)]) -> SchemaRef {
    let field = |(name, data_type): &(String, Option<DataType>)| {
        Field::new(name, data_type.as_ref().map_or(DataType::Utf8, widest), true)
    };
    Schema::new(placeholders.iter().map(field).collect::<Vec<Field>>()).into()
}

fn widest(needed: &DataType) -> DataType {
    match plain::data_type(needed) {
        DataType::Null => DataType::Utf8,
        needed if needed.is_signed_integer() => DataType::Int64,
        DataType::Float16 | DataType::Float32 => DataType::Float64,
        DataType::Timestamp(_, zone) => DataType::Timestamp(TimeUnit::Millisecond, zone),
        DataType::Time32(_) | DataType::Time64(_) => DataType::Time32(TimeUnit::Millisecond),
        needed => needed,
    }
}

/// Receives the values for a statement with so many placeholders.
pub(super) async fn receive(
    messages: impl Stream<Item = Result<FlightData, Status>>,
    placeholders: u32,
) -> Result<Bytes, Status> {
    let received = collect(messages).await?;
    let rows = FlightRecordBatchStream::new_from_flight_data(stream::iter(received.into_iter().map(Ok)));
    let batches: Vec<RecordBatch> = rows.try_collect().await.map_err(|error| unreadable(&error))?;
    let mut batches = batches.into_iter().filter(|batch| batch.num_rows() > 0);
    let (Some(row), None) = (batches.next(), batches.next()) else { return Err(not_one_row()) };
    if row.num_rows() > 1 {
        return Err(not_one_row());
    }
    if row.num_columns() != placeholders as usize {
        return Err(Status::invalid_argument(format!(
            "the query has {placeholders} placeholders, and {} values were sent",
            row.num_columns()
        )));
    }
    kept(&row).map_err(|error| unreadable(&FlightError::Arrow(error)))
}

/// All messages that have something to decode.
async fn collect(
    messages: impl Stream<Item = Result<FlightData, Status>>,
) -> Result<Vec<FlightData>, Status> {
    let mut messages = std::pin::pin!(messages);
    let (mut received, mut bytes) = (Vec::new(), 0);
    while let Some(message) = messages.next().await.transpose()? {
        bytes += message.data_header.len() + message.data_body.len();
        if bytes > BYTES_MAX || received.len() == MESSAGES_MAX {
            return Err(Status::resource_exhausted(format!("the values are more than {BYTES_MAX} bytes")));
        }
        if message.data_header.is_empty() {
            continue;
        }
        if is_compressed(&message) {
            return Err(Status::invalid_argument("send the values without compression"));
        }
        received.push(message);
    }
    Ok(received)
}

/// Whether the body says itself how large it becomes. What cannot be read is refused by the decoder.
fn is_compressed(message: &FlightData) -> bool {
    let Ok(header) = root_as_message(&message.data_header) else { return false };
    let rows = header.header_as_record_batch();
    let rows = rows.or_else(|| header.header_as_dictionary_batch().and_then(|dictionary| dictionary.data()));
    rows.is_some_and(|rows| rows.compression().is_some())
}

fn kept(row: &RecordBatch) -> Result<Bytes, ArrowError> {
    let row = plain::batch(row, &plain::schema(&row.schema()))?;
    let mut writer = StreamWriter::try_new(Vec::new(), &row.schema())?;
    writer.write(&row)?;
    Ok(writer.into_inner()?.into())
}

/// The values that [`receive`] has kept.
pub(super) fn values(kept: &[u8]) -> Result<ParamValues, ArrowError> {
    let row = StreamReader::try_new(Cursor::new(kept), None)?.next().transpose()?;
    let row = row.ok_or_else(|| ArrowError::IpcError("no row".to_owned()))?;
    let values: Result<Vec<ScalarValue>, DataFusionError> = row.columns().iter().map(value).collect();
    values.map(ParamValues::from).map_err(|error| ArrowError::ExternalError(Box::new(error)))
}

fn value(column: &ArrayRef) -> Result<ScalarValue, DataFusionError> {
    match ScalarValue::try_from_array(column, 0)? {
        // A column that may hold any of several types.
        ScalarValue::Union(Some((_, value)), ..) => Ok(*value),
        value => Ok(value),
    }
}

fn unreadable(error: &FlightError) -> Status {
    Status::invalid_argument(format!("the values for the placeholders cannot be read: {error}"))
}

fn not_one_row() -> Status {
    Status::invalid_argument(
        "send the values for the placeholders as one row: a statement is run once for each request",
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int64Array, StringArray};
    use arrow::ipc::CompressionType;
    use arrow::ipc::writer::IpcWriteOptions;
    use arrow_flight::encode::FlightDataEncoderBuilder;
    use tonic::Code;

    use super::*;

    fn rows(count: i64) -> RecordBatch {
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..count));
        let texts: ArrayRef =
            Arc::new(StringArray::from_iter_values((0..count).map(|row| "t".repeat(row as usize + 1))));
        RecordBatch::try_from_iter([("$1", numbers), ("$2", texts)]).unwrap()
    }

    async fn sent(
        rows: Vec<RecordBatch>,
        options: IpcWriteOptions,
        placeholders: u32,
    ) -> Result<Bytes, Status> {
        let encoder = FlightDataEncoderBuilder::new().with_options(options);
        let messages = encoder.build(stream::iter(rows.into_iter().map(Ok))).map_err(Status::from);
        receive(messages, placeholders).await
    }

    #[tokio::test]
    async fn one_row_is_kept_as_it_is() {
        let kept = sent(vec![rows(0), rows(1)], IpcWriteOptions::default(), 2).await.unwrap();
        let ParamValues::List(values) = values(&kept).unwrap() else { panic!("not by position") };
        let values: Vec<ScalarValue> = values.into_iter().map(|value| value.value).collect();
        assert_eq!(values, [ScalarValue::Int64(Some(0)), ScalarValue::Utf8(Some("t".to_owned()))]);
    }

    #[tokio::test]
    async fn anything_but_one_row_of_a_moderate_size_is_refused() {
        let plain = IpcWriteOptions::default;
        let large: ArrayRef = Arc::new(StringArray::from(vec!["x".repeat(BYTES_MAX)]));
        let large = RecordBatch::try_from_iter([("$1", large)]).unwrap();
        let compressed = plain().try_with_compression(Some(CompressionType::ZSTD)).unwrap();
        for (name, received, code) in [
            ("none", sent(vec![], plain(), 0).await, Code::InvalidArgument),
            ("empty", sent(vec![rows(0)], plain(), 2).await, Code::InvalidArgument),
            ("two", sent(vec![rows(2)], plain(), 2).await, Code::InvalidArgument),
            ("twice", sent(vec![rows(1), rows(1)], plain(), 2).await, Code::InvalidArgument),
            ("columns", sent(vec![rows(1)], plain(), 1).await, Code::InvalidArgument),
            ("compressed", sent(vec![rows(1)], compressed, 2).await, Code::InvalidArgument),
            ("large", sent(vec![large], plain(), 1).await, Code::ResourceExhausted),
        ] {
            assert_eq!(received.unwrap_err().code(), code, "{name}");
        }
        let damaged =
            FlightData { data_header: Bytes::from_static(b"no flatbuffer"), ..FlightData::default() };
        let received = receive(stream::iter([Ok(damaged)]), 0).await;
        assert_eq!(received.unwrap_err().code(), Code::InvalidArgument);
    }

    #[test]
    fn what_a_client_is_told_to_send_is_wide() {
        let placeholders = [
            ("$1".to_owned(), Some(DataType::Int32)),
            ("$2".to_owned(), Some(DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())))),
            ("$3".to_owned(), None),
            ("$4".to_owned(), Some(DataType::Utf8View)),
            ("$5".to_owned(), Some(DataType::Decimal128(10, 2))),
        ];
        let told = schema(&placeholders);
        let types: Vec<&DataType> = told.fields().iter().map(|field| field.data_type()).collect();
        let time = DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()));
        assert_eq!(
            types,
            [&DataType::Int64, &time, &DataType::Utf8, &DataType::Utf8, &DataType::Decimal128(10, 2)]
        );
        assert_eq!(told.field(4).name(), "$5");
    }
}
