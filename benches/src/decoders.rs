//! isobar's JSON decoder beside arrow-json: the flights, and records of nested values, on one thread.
//!
//! Both get the same chunks of the pipeline's size, which are in memory. arrow-json is used as it is meant to be: the
//! payloads of a chunk one after the other, then one batch. The batches must be equal before anything is measured.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use arrow::array::RecordBatch;
use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow_json::ReaderBuilder;
use isobar_schemas::decode::{DecodeLimits, Decoder, JsonDecoder, UnknownFields};
use isobar_schemas::fields::FieldType;
use isobar_schemas::{RecordChunk, TopicPartition};
use serde::Serialize;

use crate::{bare, topic};

/// Records of a chunk.
const CHUNK: usize = 8192;
/// Chunks read in one round: more than the processor's caches hold.
const CHUNKS: usize = 16;

/// One kind of records.
#[derive(Debug, Serialize)]
struct Row {
    records: &'static str,
    bytes_per_record: usize,
    arrow_json_mb_per_second: f64,
    isobar_mb_per_second: f64,
    ratio: f64,
}

/// Measures both kinds, `rounds` times each in turn, and prints medians as a table or JSON.
pub(crate) fn run(rounds: usize, json: bool) -> Result<()> {
    let flights: Vec<String> = topic::flights()?.into_iter().map(|(_, flight)| flight).collect();
    let nested: Vec<String> = (0..CHUNK * CHUNKS).map(order).collect();
    let rows = [
        measure("flights", bare::schema(), &flights, rounds)?,
        measure("nested", nested_schema()?, &nested, rounds)?,
    ];
    if json {
        println!("{}", serde_json::to_string_pretty(&rows)?);
        return Ok(());
    }
    println!("| records | bytes each | arrow-json, MB/s | isobar, MB/s | ratio |\n|---|---|---|---|---|");
    for row in &rows {
        println!(
            "| {} | {} | {:.0} | {:.0} | {:.2} |",
            row.records,
            row.bytes_per_record,
            row.arrow_json_mb_per_second,
            row.isobar_mb_per_second,
            row.ratio
        );
    }
    Ok(())
}

fn measure(name: &'static str, schema: SchemaRef, payloads: &[String], rounds: usize) -> Result<Row> {
    let chunks: Vec<RecordChunk> = payloads.chunks_exact(CHUNK).take(CHUNKS).map(chunk).collect();
    ensure!(chunks.len() == CHUNKS, "there are too few records");
    let bytes: usize = chunks.iter().map(|chunk| chunk.payload_bytes().len()).sum();
    let mut theirs = ReaderBuilder::new(schema.clone()).with_batch_size(CHUNK).build_decoder()?;
    let mut ours = JsonDecoder::new(schema, UnknownFields::Quarantine, DecodeLimits::default())?;
    for chunk in &chunks {
        let decoded = ours.decode(chunk)?;
        ensure!(decoded.rejects.is_empty(), "{name}: {:?} is rejected", decoded.rejects.first());
        ensure!(decoded.batch == arrow_json(&mut theirs, chunk)?, "{name}: the decoders disagree");
    }
    let mut seconds = [Vec::new(), Vec::new()];
    for _ in 0..rounds {
        let started = Instant::now();
        for chunk in &chunks {
            black_box(arrow_json(&mut theirs, chunk)?);
        }
        seconds[0].push(started.elapsed().as_secs_f64());
        let started = Instant::now();
        for chunk in &chunks {
            black_box(ours.decode(chunk)?);
        }
        seconds[1].push(started.elapsed().as_secs_f64());
    }
    let [theirs, ours] = seconds.map(|mut seconds| {
        seconds.sort_by(f64::total_cmp);
        bytes as f64 / 1e6 / seconds[seconds.len() / 2]
    });
    Ok(Row {
        records: name,
        bytes_per_record: bytes / (CHUNK * CHUNKS),
        arrow_json_mb_per_second: theirs,
        isobar_mb_per_second: ours,
        ratio: ours / theirs,
    })
}

fn arrow_json(decoder: &mut arrow_json::reader::Decoder, chunk: &RecordChunk) -> Result<RecordBatch> {
    decoder.decode(chunk.payload_bytes())?;
    decoder.flush()?.context("arrow-json made no batch")
}

fn chunk(payloads: &[String]) -> RecordChunk {
    let mut chunk = RecordChunk::new(TopicPartition::new("records", 0));
    for (offset, payload) in payloads.iter().enumerate() {
        chunk.push(offset as i64, None, None, Some(payload.as_bytes()));
    }
    chunk
}

/// An order as shops send it: objects in objects, lists of objects, a list in each, a map.
fn order(number: usize) -> String {
    let items: Vec<String> = (0..1 + number % 5)
        .map(|item| {
            let code = number * 31 + item * 7;
            format!(
                r#"{{"sku":"SKU-{:06}","quantity":{},"price":{}.{:02},"tags":["t{}","t{}"]}}"#,
                code % 1_000_000,
                1 + code % 9,
                1 + code % 400,
                code % 100,
                code % 17,
                code % 23
            )
        })
        .collect();
    format!(
        r#"{{"id":{number},"customer":{{"name":"Customer {}","address":{{"street":"{} Main Street","city":"City {}","zip":"{:05}","location":{{"latitude":{}.5,"longitude":-{}.25}}}}}},"items":[{}],"attributes":{{"channel":"web","campaign":"c{}","device":"d{}"}},"placed_at":"2013-{:02}-{:02}T{:02}:{:02}:00Z"}}"#,
        number % 9973,
        number % 1999,
        number % 389,
        number % 99_999,
        number % 90,
        number % 180,
        items.join(","),
        number % 41,
        number % 11,
        1 + number % 12,
        1 + number % 28,
        number % 24,
        number % 60
    )
}

fn nested_schema() -> Result<SchemaRef> {
    const COLUMNS: [(&str, &str); 5] = [
        ("id", "int64"),
        (
            "customer",
            "struct<name: string, address: struct<street: string, city: string, zip: string, \
             location: struct<latitude: float64, longitude: float64>>>",
        ),
        ("items", "list<struct<sku: string, quantity: int32, price: float64, tags: list<string>>>"),
        ("attributes", "map<string, string>"),
        ("placed_at", "timestamp"),
    ];
    let column = |(name, data_type): (&str, &str)| {
        Ok(Field::new(name, data_type.parse::<FieldType>()?.to_arrow(), true))
    };
    Ok(Arc::new(Schema::new(COLUMNS.into_iter().map(column).collect::<Result<Vec<_>>>()?)))
}
