//! Hits of web pages in the manner of ClickBench's table: wide, most columns are never asked for, and texts of which nearly every
//! one is different. All of it follows from a fixed seed.

use std::sync::Arc;

use anyhow::{Result, ensure};
use arrow::array::{
    ArrayRef, Date32Array, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};

use super::{BATCH_ROWS, Options, WHOLE, publish};
use crate::dataset::Place;
use crate::numbers::Numbers;

const TABLE: &str = "hits";
pub(super) const TABLES: &[&str] = &[TABLE];

pub(super) const QUERIES: &[&str] = &[
    include_str!("../../queries/hits/01.sql"),
    include_str!("../../queries/hits/02.sql"),
    include_str!("../../queries/hits/03.sql"),
    include_str!("../../queries/hits/04.sql"),
    include_str!("../../queries/hits/05.sql"),
    include_str!("../../queries/hits/06.sql"),
    include_str!("../../queries/hits/07.sql"),
    include_str!("../../queries/hits/08.sql"),
    include_str!("../../queries/hits/09.sql"),
    include_str!("../../queries/hits/10.sql"),
    include_str!("../../queries/hits/11.sql"),
    include_str!("../../queries/hits/12.sql"),
    include_str!("../../queries/hits/13.sql"),
    include_str!("../../queries/hits/14.sql"),
    include_str!("../../queries/hits/15.sql"),
    include_str!("../../queries/hits/16.sql"),
    include_str!("../../queries/hits/17.sql"),
    include_str!("../../queries/hits/18.sql"),
    include_str!("../../queries/hits/19.sql"),
    include_str!("../../queries/hits/20.sql"),
    include_str!("../../queries/hits/21.sql"),
    include_str!("../../queries/hits/22.sql"),
];

/// Columns that no query asks for but the one that asks for all.
const OTHERS: usize = 60;
/// 2026-01-01T00:00:00Z.
const FIRST_MICROSECOND: i64 = 1_767_225_600_000_000;
const DAY_MICROSECONDS: i64 = 86_400 * 1_000_000;
/// The time that hits lie in: thirty days.
const DAYS: i64 = 30;
/// Parts of titles, phrases and addresses.
const WORDS: [&str; 24] = [
    "autumn", "bridge", "cheap", "dance", "electric", "flights", "garden", "hotel", "island", "jacket",
    "kitchen", "letters", "market", "news", "orange", "photo", "quiet", "recipe", "spring", "tickets",
    "used", "video", "weather", "yellow",
];

/// The table with as many rows as are asked for, made unless it is there.
pub(super) async fn place(options: &Options) -> Result<Place> {
    ensure!(options.hits > 0, "there must be a hit");
    let directory = options.directory.join(format!("hits-{}", options.hits));
    let place = Place::open(&directory, TABLES, options.memory.as_deref()).await?;
    if !place.has(TABLE, WHOLE) {
        let mut numbers = Numbers(7);
        let batches = (0..options.hits).step_by(BATCH_ROWS).map(|first| {
            let end = options.hits.min(first + BATCH_ROWS as u64);
            rows(first..end, options.hits, &mut numbers)
        });
        publish(&place, TABLE, schema(), batches, options.file_rows).await?;
    }
    Ok(place)
}

fn schema() -> SchemaRef {
    let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let mut fields = vec![
        Field::new("event_time", time, true),
        Field::new("event_date", DataType::Date32, true),
        Field::new("user_id", DataType::Int64, true),
    ];
    for name in ["counter_id", "region_id", "advertiser_id", "screen_width"] {
        fields.push(Field::new(name, DataType::Int32, true));
    }
    for name in ["url", "referrer", "title", "search_phrase"] {
        fields.push(Field::new(name, DataType::Utf8, true));
    }
    fields.extend((0..OTHERS).map(|other| Field::new(format!("other_{other:02}"), DataType::Int32, true)));
    Arc::new(Schema::new(fields))
}

/// Some of `all` rows, in the order of time.
fn rows(range: std::ops::Range<u64>, all: u64, numbers: &mut Numbers) -> Result<RecordBatch> {
    let span = DAYS * DAY_MICROSECONDS;
    let time = |row: u64| FIRST_MICROSECOND + (i128::from(span) * i128::from(row) / i128::from(all)) as i64;
    let times: Vec<i64> = range.clone().map(time).collect();
    let dates = Date32Array::from_iter_values(times.iter().map(|time| (time / DAY_MICROSECONDS) as i32));
    let users = range.clone().map(|_| user(numbers)).collect::<Int64Array>();
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(TimestampMicrosecondArray::from(times).with_timezone("UTC")),
        Arc::new(dates),
        Arc::new(users),
    ];
    let integers = |value: &mut dyn FnMut() -> u64| -> ArrayRef {
        Arc::new(range.clone().map(|_| value() as i32).collect::<Int32Array>())
    };
    columns.push(integers(&mut || numbers.skewed_below(5_000)));
    columns.push(integers(&mut || numbers.skewed_below(500)));
    // Most hits come from no advertisement.
    columns.push(integers(&mut || if numbers.below(30) == 0 { 1 + numbers.skewed_below(20) } else { 0 }));
    columns.push(integers(&mut || 320 + 80 * numbers.below(24)));
    let texts = |value: &mut dyn FnMut() -> String| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(range.clone().map(|_| value())))
    };
    columns.push(texts(&mut || address(numbers)));
    columns.push(texts(&mut || if numbers.below(3) == 0 { address(numbers) } else { String::new() }));
    columns.push(texts(&mut || words(4, numbers)));
    columns.push(texts(&mut || if numbers.below(7) == 0 { phrase(numbers) } else { String::new() }));
    for other in 0..OTHERS {
        // Some columns have few values, and some have many.
        let bound = 1 << (1 + other % 20);
        columns.push(integers(&mut || numbers.below(bound)));
    }
    Ok(RecordBatch::try_new(schema(), columns)?)
}

fn user(numbers: &mut Numbers) -> i64 {
    // Far apart, so that nothing but the number itself can be guessed from the smallest and the largest.
    (numbers.skewed_below(200_000) * 4_350_909_329) as i64
}

fn words(count: usize, numbers: &mut Numbers) -> String {
    let words: Vec<&str> = (0..count).map(|_| WORDS[numbers.below(WORDS.len() as u64) as usize]).collect();
    words.join(" ")
}

fn phrase(numbers: &mut Numbers) -> String {
    format!("{} {}", words(2, numbers), numbers.skewed_below(2_000))
}

fn address(numbers: &mut Numbers) -> String {
    let (host, page) = (numbers.skewed_below(3_000), numbers.skewed_below(10_000_000));
    let [section, item] = [(); 2].map(|()| WORDS[numbers.below(WORDS.len() as u64) as usize]);
    format!("https://site{host}.example/{section}/{item}-{page}.html")
}
