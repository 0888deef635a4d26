//! The ceiling: the plainest loop of the same three libraries. It consumes with librdkafka, decodes with arrow-json
//! and encodes with the Parquet writer, and does nothing else: no SQL, no expectations, no hashes, no commits.

use std::sync::Arc;

use anyhow::{Context, Result};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use arrow_json::ReaderBuilder;
use arrow_json::reader::Decoder;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};

use crate::measure::Stopwatch;
use crate::topic::PARTITIONS;

/// Rows decoded at a time, arrow's usual batch.
const BATCH_ROWS: usize = 8192;

/// Reads the topic once and prints the measurement.
pub(crate) fn run(brokers: &str, topic: &str) -> Result<()> {
    let stopwatch = Stopwatch::start()?;
    let schema = schema();
    let mut decoder = ReaderBuilder::new(schema.clone()).with_batch_size(BATCH_ROWS).build_decoder()?;
    let file = tempfile::tempfile()?;
    let properties =
        WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?)).build();
    let mut writer = ArrowWriter::try_new(file, schema, Some(properties))?;
    let mut undecoded = 0;
    let (records, bytes) = poll_all(brokers, topic, |payload| {
        decoder.decode(payload)?;
        undecoded += 1;
        if undecoded == BATCH_ROWS {
            undecoded = 0;
            write(&mut decoder, &mut writer)?;
        }
        Ok(())
    })?;
    write(&mut decoder, &mut writer)?;
    writer.close()?;
    println!("{}", serde_json::to_string(&stopwatch.stop(records, bytes)?)?);
    Ok(())
}

/// Polls the topic and nothing else, and prints the measurement.
pub(crate) fn poll(brokers: &str, topic: &str) -> Result<()> {
    let stopwatch = Stopwatch::start()?;
    let (records, bytes) = poll_all(brokers, topic, |_| Ok(()))?;
    println!("{}", serde_json::to_string(&stopwatch.stop(records, bytes)?)?);
    Ok(())
}

/// Polls every payload of the topic once; how many there are, and bytes of them.
fn poll_all(brokers: &str, topic: &str, mut each: impl FnMut(&[u8]) -> Result<()>) -> Result<(u64, u64)> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "bare")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("check.crcs", "true")
        .create()?;
    let mut assignment = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        assignment.add_partition_offset(topic, partition, Offset::Beginning)?;
    }
    consumer.assign(&assignment)?;
    let (mut records, mut bytes, mut at_end) = (0, 0, 0);
    while at_end < PARTITIONS {
        match consumer.poll(None) {
            Some(Ok(message)) => {
                let payload = message.payload().context("every record has a payload")?;
                records += 1;
                bytes += payload.len() as u64;
                each(payload)?;
            }
            Some(Err(KafkaError::PartitionEOF(_))) => at_end += 1,
            Some(Err(error)) => return Err(error.into()),
            None => {}
        }
    }
    Ok((records, bytes))
}

fn write(decoder: &mut Decoder, writer: &mut ArrowWriter<std::fs::File>) -> Result<()> {
    if let Some(batch) = decoder.flush()? {
        writer.write(&batch)?;
    }
    Ok(())
}

/// The flights' columns, with the types of the demo's topology.
pub(crate) fn schema() -> SchemaRef {
    let text = ["carrier", "tailnum", "origin", "dest"];
    let columns = [
        "year",
        "month",
        "day",
        "dep_time",
        "sched_dep_time",
        "dep_delay",
        "arr_time",
        "sched_arr_time",
        "arr_delay",
        "carrier",
        "flight",
        "tailnum",
        "origin",
        "dest",
        "air_time",
        "distance",
        "hour",
        "minute",
        "time_hour",
    ];
    let field = |name: &str| {
        let data_type = match name {
            "time_hour" => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            name if text.contains(&name) => DataType::Utf8,
            _ => DataType::Int32,
        };
        Field::new(name, data_type, true)
    };
    Arc::new(Schema::new(columns.map(field).to_vec()))
}
