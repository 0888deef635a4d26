use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float32Array,
    Float64Array, Int8Array, Int32Array, Int64Array, ListArray, StringArray, StructArray,
    TimestampMicrosecondArray,
};
use arrow::compute::concat_batches;
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Field, Fields, Float32Type, Float64Type, Int8Type, Int32Type,
    Int64Type, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType,
};
use arrow::record_batch::RecordBatch;
use chrono::{DateTime, NaiveDate};
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;

use super::*;
use crate::dataset::Compression;
use crate::delta::path::decode_log_path;
use crate::delta::sha256_hex;
use crate::upload::{UploadLimits, UploadStatus};

pub(in crate::dataset) fn schema() -> SchemaRef {
    let point =
        Fields::from(vec![Field::new("x", DataType::Float64, true), Field::new("n", DataType::Int32, true)]);
    Arc::new(Schema::new(vec![
        Field::new("topic", DataType::Utf8, false),
        Field::new("partition", DataType::Int32, false),
        Field::new("offset", DataType::Int64, false),
        Field::new("flag", DataType::Boolean, true),
        Field::new("tiny", DataType::Int8, true),
        Field::new("f32", DataType::Float32, true),
        Field::new("f64", DataType::Float64, true),
        Field::new("text", DataType::Utf8, true),
        Field::new("bytes", DataType::Binary, true),
        Field::new("day", DataType::Date32, true),
        Field::new("at", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), true),
        Field::new("small_money", DataType::Decimal128(7, 2), true),
        Field::new("money", DataType::Decimal128(30, 3), true),
        Field::new("list", DataType::List(Arc::new(Field::new("item", DataType::Int64, true))), true),
        Field::new("point", DataType::Struct(point), true),
        Field::new("month", DataType::Utf8, true),
    ]))
}

/// Column indices of the tests below.
const OFFSET: usize = 2;

/// Random rows of one Kafka partition. How odd they are depends on the generator's own draws, so that some batches have
/// no null, some nothing but nulls, some NaN.
pub(in crate::dataset) fn rows(
    from: &TopicPartition,
    offsets: std::ops::Range<i64>,
    months: &[Option<&str>],
    random: &mut StdRng,
) -> RecordBatch {
    let n = offsets.end as usize - offsets.start as usize;
    let nulls = [0.0, 0.1, 0.7, 1.0][random.random_range(0..4)];
    fn column<T>(
        n: usize,
        nulls: f64,
        random: &mut StdRng,
        value: impl Fn(&mut StdRng) -> T,
    ) -> Vec<Option<T>> {
        (0..n).map(|_| if random.random_bool(nulls) { None } else { Some(value(random)) }).collect()
    }
    let nan = random.random_bool(0.3);
    let float = move |r: &mut StdRng| match r.random_range(0..8) {
        0 => -0.0,
        1 => 0.0,
        2 if nan => f64::NAN,
        3 => 1e300,
        _ => r.random_range(-1000..1000) as f64 / 8.0,
    };
    let text = |r: &mut StdRng| {
        let alphabet = ["a", "b", "zz", "é", "\u{10ffff}", "\u{7f}", "\"\\\n", "ÿ"];
        let length = [0, 1, 3, 40, 200][r.random_range(0..5)];
        (0..length).map(|_| alphabet[r.random_range(0..alphabet.len())]).collect::<String>()
    };
    let x: ArrayRef = Arc::new(Float64Array::from(column(n, nulls, random, float)));
    let y: ArrayRef = Arc::new(Int32Array::from(column(n, nulls, random, |r| r.random::<i32>())));
    let whole = column(n, nulls, random, |_| ()).iter().map(Option::is_some).collect::<Vec<bool>>();
    let DataType::Struct(point) = schema().field(14).data_type().clone() else { unreachable!("a struct") };
    let lists = column(n, nulls, random, |r| column(r.random_range(0..4), 0.2, r, |r| r.random::<i64>()));
    let decimal =
        |digits: u32| move |r: &mut StdRng| r.random_range(-10i128.pow(digits) + 1..10i128.pow(digits));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from(vec![&*from.topic; n])),
        Arc::new(Int32Array::from(vec![from.partition; n])),
        Arc::new(Int64Array::from_iter_values(offsets)),
        Arc::new(BooleanArray::from(column(n, nulls, random, |r| r.random::<bool>()))),
        Arc::new(Int8Array::from(column(n, nulls, random, |r| r.random::<i8>()))),
        Arc::new(Float32Array::from(column(n, nulls, random, |r| float(r) as f32))),
        Arc::new(Float64Array::from(column(n, nulls, random, float))),
        Arc::new(StringArray::from(column(n, nulls, random, text))),
        Arc::new(BinaryArray::from_iter(column(n, nulls, random, |r| [r.random::<u8>(); 3]))),
        Arc::new(Date32Array::from(column(n, nulls, random, |r| r.random_range(-800_000..3_000_000)))),
        Arc::new(
            TimestampMicrosecondArray::from(column(n, nulls, random, |r| {
                r.random_range(-1i64 << 50..1 << 55)
            }))
            .with_timezone("UTC"),
        ),
        Arc::new(
            Decimal128Array::from(column(n, nulls, random, decimal(7)))
                .with_precision_and_scale(7, 2)
                .unwrap(),
        ),
        Arc::new(
            Decimal128Array::from(column(n, nulls, random, decimal(30)))
                .with_precision_and_scale(30, 3)
                .unwrap(),
        ),
        Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(lists)),
        Arc::new(StructArray::new(point, vec![x, y], Some(whole.into()))),
        Arc::new(StringArray::from_iter((0..n).map(|_| months[random.random_range(0..months.len())]))),
    ];
    RecordBatch::try_new(schema(), columns).unwrap()
}

/// A table and a cloud in memory.
pub(in crate::dataset) struct Bench {
    pub(in crate::dataset) store: Arc<InMemory>,
    pub(in crate::dataset) fan_out: Arc<FanOut>,
    pub(in crate::dataset) layout: Arc<TableLayout>,
}

impl Bench {
    pub(in crate::dataset) fn new(partition_by: &[&str]) -> Self {
        let store = Arc::new(InMemory::new());
        let cloud = ("one".to_string(), store.clone() as Arc<dyn ObjectStore>);
        let columns: Vec<String> = partition_by.iter().map(|c| c.to_string()).collect();
        Self {
            store,
            fan_out: FanOut::new(vec![cloud], UploadLimits::default()),
            layout: TableLayout::new("datasets/t", schema(), &columns, Compression::default()).unwrap(),
        }
    }

    fn writer(&self) -> DatasetWriter {
        DatasetWriter::new(self.layout.clone(), self.fan_out.clone(), "c-1").unwrap()
    }

    /// The file's row groups, after checking size and SHA-256 of what is stored.
    pub(in crate::dataset) async fn read(&self, file: &StagedFile) -> Vec<RecordBatch> {
        for upload in &file.uploads {
            assert_eq!(upload.settled().await, UploadStatus::Done);
        }
        let bytes = self.store.get(&file.object_path).await.unwrap().bytes().await.unwrap();
        assert_eq!(bytes.len() as u64, file.size);
        assert_eq!(sha256_hex(&bytes), file.sha256);
        let open = || ParquetRecordBatchReaderBuilder::try_new(bytes.clone()).unwrap();
        let read_group = |group| {
            let reader = open().with_row_groups(vec![group]).build().unwrap();
            let batches: Vec<RecordBatch> = reader.map(Result::unwrap).collect();
            concat_batches(&batches[0].schema(), &batches).unwrap()
        };
        (0..open().metadata().num_row_groups()).map(read_group).collect()
    }
}

fn partitions() -> Vec<TopicPartition> {
    vec![TopicPartition::new("a", 10), TopicPartition::new("a", 2), TopicPartition::new("b", 0)]
}

/// The rows of all partitions, cut into chunks and interleaved at random.
fn interleaved(
    whole: &[(TopicPartition, RecordBatch)],
    random: &mut StdRng,
) -> Vec<(TopicPartition, RecordBatch)> {
    let mut rest: Vec<_> = whole.iter().map(|(from, rows)| (from.clone(), rows.clone())).collect();
    let mut chunks = Vec::new();
    while !rest.is_empty() {
        let index = random.random_range(0..rest.len());
        let (from, rows) = &mut rest[index];
        let size = random.random_range(0..=rows.num_rows());
        chunks.push((from.clone(), rows.slice(0, size)));
        *rows = rows.slice(size, rows.num_rows() - size);
        if rows.num_rows() == 0 {
            rest.remove(index);
        }
    }
    chunks
}

type Identity = (String, u64, String, u64, BTreeMap<String, Option<String>>, String);

fn identities(files: &[StagedFile]) -> Vec<Identity> {
    let identity = |file: &StagedFile| {
        (
            file.path.clone(),
            file.size,
            file.sha256.clone(),
            file.rows,
            file.partition_values.clone(),
            file.stats.clone(),
        )
    };
    files.iter().map(identity).collect()
}

#[tokio::test]
async fn the_bytes_depend_on_the_rows_and_not_on_how_they_arrived() {
    for seed in 0..30 {
        let mut random = StdRng::seed_from_u64(seed);
        let months = [Some("1"), Some("2"), None];
        let sizes = [random.random_range(1..3000), random.random_range(1..300), random.random_range(1..50)];
        let whole: Vec<_> = partitions()
            .into_iter()
            .zip(sizes)
            .map(|(from, n)| {
                // Two differently odd halves: buffers of valid bits come and go with the chunk borders.
                let halves =
                    [rows(&from, 0..n, &months, &mut random), rows(&from, n..2 * n, &months, &mut random)];
                (from, concat_batches(&schema(), &halves).unwrap())
            })
            .collect();
        let mut expected: Option<Vec<Identity>> = None;
        for _ in 0..4 {
            let bench = Bench::new(&["month"]);
            let mut writer = bench.writer();
            for (from, chunk) in interleaved(&whole, &mut random) {
                writer.write(&from, chunk).unwrap();
            }
            let files = identities(&writer.close().unwrap());
            assert_eq!(&files, expected.get_or_insert(files.clone()), "seed {seed}");
        }
    }
}

#[tokio::test]
async fn pages_do_not_show_where_chunks_ended() {
    let mut random = StdRng::seed_from_u64(41);
    let from = TopicPartition::new("t", 0);
    // More than a page of 20,000 rows, and more values than dictionaries take.
    let halves = [0..17_000, 17_000..34_000].map(|offsets| rows(&from, offsets, &[None], &mut random));
    let whole = concat_batches(&schema(), &halves).unwrap();
    let mut expected: Option<Vec<Identity>> = None;
    for chunk_rows in [34_000, 17_000, 5_001, 333] {
        let bench = Bench::new(&["month"]);
        let mut writer = bench.writer();
        for start in (0..whole.num_rows()).step_by(chunk_rows) {
            let chunk = whole.slice(start, chunk_rows.min(whole.num_rows() - start));
            writer.write(&from, chunk).unwrap();
        }
        let files = identities(&writer.close().unwrap());
        assert_eq!(&files, expected.get_or_insert(files.clone()), "chunks of {chunk_rows} rows");
    }
}

#[tokio::test]
async fn every_row_is_stored_once_in_order_whatever_is_flushed_when() {
    for seed in 100..120 {
        let mut random = StdRng::seed_from_u64(seed);
        let months = [Some("1"), Some("a b/ü"), None];
        let whole: Vec<_> = partitions()
            .into_iter()
            .map(|from| (from.clone(), rows(&from, 0..random.random_range(1..500), &months, &mut random)))
            .collect();
        let bench = Bench::new(&["month"]);
        let mut writer = bench.writer();
        for (from, chunk) in interleaved(&whole, &mut random) {
            writer.write(&from, chunk).unwrap();
            if random.random_bool(0.3) {
                let target = writer.buffered_bytes() / random.random_range(1..4);
                writer.flush(target).unwrap();
            }
        }
        let files = writer.close().unwrap();
        let mut found = Vec::new();
        for file in &files {
            let month = file.partition_values["month"].clone();
            let groups = bench.read(file).await;
            assert_eq!(groups.iter().map(RecordBatch::num_rows).sum::<usize>() as u64, file.rows);
            for group in groups {
                assert!(group.schema().field_with_name("month").is_err(), "partition columns are not stored");
                let places = places(&group);
                assert!(places.is_sorted_by(|a, b| a < b), "rows of a row group out of order");
                found.extend(
                    places
                        .into_iter()
                        .enumerate()
                        .map(|(row, place)| (place, month.clone(), group.slice(row, 1))),
                );
            }
        }
        found.sort_by(|a, b| a.0.cmp(&b.0));
        let mut expected = Vec::new();
        for (_, rows) in &whole {
            for (row, place) in places(rows).into_iter().enumerate() {
                let month = rows.column(15).as_string::<i32>();
                let month = month.is_valid(row).then(|| month.value(row).to_string());
                expected.push((place, month, rows.slice(row, 1)));
            }
        }
        expected.sort_by(|a, b| a.0.cmp(&b.0));
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(&expected) {
            assert_eq!((&found.0, &found.1), (&expected.0, &expected.1));
            for column in 0..15 {
                let (found, expected) = (found.2.column(column), expected.2.column(column));
                assert_eq!(text_of(found), text_of(expected), "column {column}");
            }
        }
    }
}

fn text_of(value: &ArrayRef) -> String {
    arrow::util::display::array_value_to_string(value, 0).unwrap()
}

fn places(rows: &RecordBatch) -> Vec<(String, i32, i64)> {
    let (topics, partitions) =
        (rows.column(0).as_string::<i32>(), rows.column(1).as_primitive::<Int32Type>());
    let offsets = rows.column(OFFSET).as_primitive::<Int64Type>();
    (0..rows.num_rows())
        .map(|row| (topics.value(row).to_string(), partitions.value(row), offsets.value(row)))
        .collect()
}

#[tokio::test]
async fn statistics_agree_with_a_look_at_every_row() {
    for seed in 200..260 {
        let mut random = StdRng::seed_from_u64(seed);
        let bench = Bench::new(&[]);
        let mut writer = bench.writer();
        let from = TopicPartition::new("t", 0);
        let mut whole = Vec::new();
        for chunk in 0..random.random_range(1..4) {
            let rows =
                rows(&from, chunk * 1000..chunk * 1000 + random.random_range(1..60), &[None], &mut random);
            whole.push(rows.clone());
            writer.write(&from, rows).unwrap();
            writer.flush(0).unwrap();
        }
        let whole = concat_batches(&schema(), &whole).unwrap();
        let files = writer.close().unwrap();
        let stats: Value = serde_json::from_str(&files[0].stats).unwrap();
        assert_eq!(stats["numRecords"], whole.num_rows());
        assert_eq!(stats["tightBounds"], true);
        for (field, column) in whole.schema().fields().iter().zip(whole.columns()) {
            let (min, max) = (&stats["minValues"][field.name()], &stats["maxValues"][field.name()]);
            let place = format!("seed {seed}, column {}: {min} {max}", field.name());
            if field.name() == "point" {
                let point = column.as_struct();
                let hidden = |child: usize| {
                    (0..point.len()).filter(move |i| point.is_null(*i) || point.column(child).is_null(*i))
                };
                assert_eq!(stats["nullCount"]["point"]["x"], hidden(0).count(), "{place}");
                assert_eq!(stats["nullCount"]["point"]["n"], hidden(1).count(), "{place}");
                let visible: Vec<i64> = (0..point.len())
                    .filter(|i| point.is_valid(*i) && point.column(1).is_valid(*i))
                    .map(|i| i64::from(point.column(1).as_primitive::<Int32Type>().value(i)))
                    .collect();
                assert_eq!(min["n"].as_i64(), visible.iter().min().copied(), "{place}");
                assert_eq!(max["n"].as_i64(), visible.iter().max().copied(), "{place}");
                continue;
            }
            assert_eq!(stats["nullCount"][field.name()], column.null_count(), "{place}");
            check_bounds(column, min, max, &place);
        }
    }
}

/// Compares bounds with the values they bound.
fn check_bounds(column: &ArrayRef, min: &Value, max: &Value, place: &str) {
    fn exact<T: PartialOrd + Copy + PartialEq + std::fmt::Debug>(
        values: Vec<T>,
        bounds: (Option<T>, Option<T>),
        place: &str,
    ) {
        let min = values.iter().copied().reduce(|a, b| if b < a { b } else { a });
        let max = values.iter().copied().reduce(|a, b| if b > a { b } else { a });
        assert_eq!((min, max), bounds, "{place}");
    }
    let integers = |values: Vec<i64>| exact(values, (min.as_i64(), max.as_i64()), place);
    match column.data_type() {
        DataType::Int8 => {
            integers(column.as_primitive::<Int8Type>().iter().flatten().map(i64::from).collect())
        }
        DataType::Int32 => {
            integers(column.as_primitive::<Int32Type>().iter().flatten().map(i64::from).collect())
        }
        DataType::Int64 => integers(column.as_primitive::<Int64Type>().iter().flatten().collect()),
        DataType::Float32 => {
            let values: Vec<f32> = column.as_primitive::<Float32Type>().iter().flatten().collect();
            if values.iter().any(|value| !value.is_finite()) {
                // 1e300 is infinite as f32: a maximum without JSON number. NaN takes both bounds away.
                assert!(max.is_null(), "{place}");
                assert!(values.iter().all(|value| !value.is_nan()) || min.is_null(), "{place}");
            } else {
                exact(values, (min.as_f64().map(|v| v as f32), max.as_f64().map(|v| v as f32)), place);
            }
        }
        DataType::Float64 => {
            let values: Vec<f64> = column.as_primitive::<Float64Type>().iter().flatten().collect();
            if values.iter().any(|value| value.is_nan()) {
                assert!(min.is_null() && max.is_null(), "{place}");
            } else {
                // A zero minimum is -0.0 and a zero maximum 0.0, so both orders of zero agree.
                assert!(min.as_f64().is_none_or(|v| v != 0.0 || v.is_sign_negative()), "{place}");
                assert!(max.as_f64().is_none_or(|v| v != 0.0 || v.is_sign_positive()), "{place}");
                exact(values, (min.as_f64(), max.as_f64()), place);
            }
        }
        DataType::Utf8 => {
            let values: Vec<&str> = column.as_string::<i32>().iter().flatten().collect();
            let (least, most) = (values.iter().min(), values.iter().max());
            assert_eq!(min.is_null(), least.is_none(), "{place}");
            if let (Some(min), Some(least)) = (min.as_str(), least) {
                assert!(
                    min <= *least && least.starts_with(min) && (least.len() <= 64) == (min == *least),
                    "{place}"
                );
            }
            if let (Some(max), Some(most)) = (max.as_str(), most) {
                assert!(max >= *most && max.len() <= 256 && (most.len() > 64 || max == *most), "{place}");
            }
        }
        DataType::Date32 => {
            let day = |value: &Value| {
                let date = value.as_str()?.parse::<NaiveDate>().unwrap();
                Some((date - NaiveDate::from_ymd_opt(1970, 1, 1).unwrap()).num_days() as i32)
            };
            let values: Vec<i32> = column.as_primitive::<Date32Type>().iter().flatten().collect();
            // The first and last day of the years 1 to 9999.
            let writable = |value: Option<i32>| value.filter(|day| (-719_162..=2_932_896).contains(day));
            assert_eq!(day(min), writable(values.iter().min().copied()), "{place}");
            assert_eq!(day(max), writable(values.iter().max().copied()), "{place}");
        }
        DataType::Timestamp(..) => {
            let micros = |value: &Value| {
                Some(DateTime::parse_from_rfc3339(value.as_str()?).unwrap().timestamp_micros())
            };
            let values: Vec<i64> =
                column.as_primitive::<TimestampMicrosecondType>().iter().flatten().collect();
            let (least, most) = (values.iter().min(), values.iter().max());
            assert_eq!(micros(min), least.map(|v| v.div_euclid(1000) * 1000), "{place}");
            assert_eq!(micros(max), most.map(|v| -((-v).div_euclid(1000) * 1000)), "{place}");
        }
        DataType::Decimal128(_, scale) => {
            let values: Vec<i128> = column.as_primitive::<Decimal128Type>().iter().flatten().collect();
            let (least, most) = (values.iter().min(), values.iter().max());
            assert_eq!(min.is_null(), least.is_none(), "{place}");
            for (bound, value) in [(min, least), (max, most)] {
                let Some(value) = value else { continue };
                let expected = *value as f64 / 10f64.powi(i32::from(*scale));
                let off = (bound.as_f64().unwrap() - expected).abs();
                assert!(off <= expected.abs() * 1e-14, "{place}: {expected}");
            }
        }
        _ => assert!(min.is_null() && max.is_null(), "{place}"),
    }
}

#[tokio::test]
async fn strange_partition_values_are_exact_in_the_log_and_harmless_in_paths() {
    let long = "ö".repeat(4000);
    let months = ["a b", "c/d", "..", "=", "%20", "é", "\n", "", NULL, "x\u{0}y", long.as_str()];
    const NULL: &str = "__HIVE_DEFAULT_PARTITION__";
    let bench = Bench::new(&["month", "topic"]);
    let mut writer = bench.writer();
    let mut random = StdRng::seed_from_u64(7);
    let from = TopicPartition::new("t", 0);
    for (index, month) in months.iter().enumerate() {
        let start = index as i64 * 10;
        writer.write(&from, rows(&from, start..start + 10, &[Some(*month)], &mut random)).unwrap();
    }
    let files = writer.close().unwrap();
    assert_eq!(files.len(), months.len());
    let mut values = Vec::new();
    for file in &files {
        assert_eq!(decode_log_path(&file.log_path).unwrap(), file.path);
        assert_eq!(file.object_path.as_ref(), format!("datasets/t/{}", file.path));
        assert!(file.path.len() < 400 && file.path.bytes().all(|b| b.is_ascii_graphic() && b != b'\\'));
        assert_eq!(file.path.split('/').count(), 3);
        assert_eq!(bench.read(file).await[0].num_rows(), 10);
        values.push(file.partition_values["month"].clone());
    }
    values.sort();
    let mut expected: Vec<_> = months.iter().map(|m| Some(m.to_string()).filter(|m| !m.is_empty())).collect();
    expected.sort();
    assert_eq!(values, expected);
    assert_eq!(files[0].partition_values["topic"].as_deref(), Some("t"));
}

#[tokio::test]
async fn files_are_numbered_in_the_order_of_partition_values() {
    let bench = Bench::new(&["month"]);
    let mut writer = bench.writer();
    let mut random = StdRng::seed_from_u64(1);
    let from = TopicPartition::new("t", 0);
    for (index, month) in ["3", "1", "2"].into_iter().enumerate() {
        let start = index as i64 * 10;
        writer.write(&from, rows(&from, start..start + 10, &[Some(month)], &mut random)).unwrap();
    }
    let paths: Vec<_> = writer.close().unwrap().into_iter().map(|file| file.path).collect();
    assert_eq!(
        paths,
        [
            "month=1/part-c-1-00000.parquet",
            "month=2/part-c-1-00001.parquet",
            "month=3/part-c-1-00002.parquet"
        ]
    );
}

#[tokio::test]
async fn flushing_brings_the_memory_down_and_closing_sets_it_free() {
    let bench = Bench::new(&["month"]);
    let mut writer = bench.writer();
    let mut random = StdRng::seed_from_u64(3);
    let from = TopicPartition::new("t", 0);
    let months = [Some("1"), Some("2"), Some("3")];
    for chunk in 0..20 {
        writer.write(&from, rows(&from, chunk * 500..chunk * 500 + 500, &months, &mut random)).unwrap();
    }
    let full = writer.buffered_bytes();
    writer.flush(full).unwrap();
    assert_eq!(writer.buffered_bytes(), full);
    writer.flush(full / 2).unwrap();
    assert!(writer.buffered_bytes() <= full / 2 && writer.buffered_bytes() > 0);
    writer.flush(0).unwrap();
    assert!(writer.open.values().all(|file| file.waiting.rows == 0 && file.waiting.memory_bytes == 0));
    assert!(writer.buffered_bytes() < full, "{} of {full}", writer.buffered_bytes());
    let files = writer.close().unwrap();
    assert_eq!(files.iter().map(|file| file.rows).sum::<u64>(), 10_000);
    bench.fan_out.drain().await;
    assert_eq!(bench.fan_out.held_bytes(), 0);
}

#[tokio::test]
async fn many_partition_values_bound_the_open_files_and_lose_nothing() {
    let bench = Bench::new(&["month"]);
    let mut writer = bench.writer();
    let mut random = StdRng::seed_from_u64(5);
    let from = TopicPartition::new("t", 0);
    for round in 0..2 {
        for value in 0..OPEN_FILES_MAX as i64 + 40 {
            let offset = round * 1000 + value;
            let month = value.to_string();
            writer.write(&from, rows(&from, offset..offset + 1, &[Some(&month)], &mut random)).unwrap();
            assert!(writer.open.len() <= OPEN_FILES_MAX);
        }
    }
    let files = writer.close().unwrap();
    assert_eq!(files.iter().map(|file| file.rows).sum::<u64>(), 2 * (OPEN_FILES_MAX as u64 + 40));
    let names: std::collections::BTreeSet<_> = files.iter().map(|file| &file.path).collect();
    assert_eq!(names.len(), files.len());
    bench.fan_out.drain().await;
}

#[tokio::test]
async fn a_writer_that_is_dropped_or_gets_no_rows_stores_nothing() {
    let bench = Bench::new(&["month"]);
    let mut random = StdRng::seed_from_u64(9);
    let from = TopicPartition::new("t", 0);
    let mut writer = bench.writer();
    writer.write(&from, rows(&from, 0..1000, &[Some("1"), None], &mut random)).unwrap();
    writer.flush(0).unwrap();
    writer.write(&from, rows(&from, 1000..2000, &[Some("1")], &mut random)).unwrap();
    drop(writer);
    let mut writer = bench.writer();
    writer.write(&from, RecordBatch::new_empty(schema())).unwrap();
    assert!(writer.close().unwrap().is_empty());
    bench.fan_out.drain().await;
    assert_eq!(bench.fan_out.held_bytes(), 0);
    let listed = bench.store.list_with_delimiter(None).await.unwrap();
    assert!(listed.objects.is_empty() && listed.common_prefixes.is_empty());
}

#[tokio::test]
async fn batches_of_another_table_are_refused() {
    let bench = Bench::new(&["month"]);
    let mut random = StdRng::seed_from_u64(11);
    let from = TopicPartition::new("t", 0);
    let good = rows(&from, 0..3, &[None], &mut random);
    let fewer = good.project(&[0, 1, 2]).unwrap();
    let swapped = good.project(&[0, 2, 1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]).unwrap();
    let mut fields: Vec<Field> = schema().fields().iter().map(|field| field.as_ref().clone()).collect();
    fields[0] = Field::new("topic", DataType::Utf8, true);
    let mut columns = good.columns().to_vec();
    columns[0] = Arc::new(StringArray::from(vec![None::<&str>; 3]));
    let null = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap();
    for bad in [fewer, swapped, null] {
        let error = bench.writer().write(&from, bad).unwrap_err();
        assert!(matches!(error, Error::Batch { .. }), "{error}");
    }
    for commit_id in ["", "a/b", "a b", "ü"] {
        assert!(DatasetWriter::new(bench.layout.clone(), bench.fan_out.clone(), commit_id).is_err());
    }
    assert_eq!(bench.writer().write(&from, good).map_err(|e| e.to_string()), Ok(()));
}
