//! Replays the flights and the weather of New York in 2013 into a broker, as JSON keyed by airport, and whatever else is a [`Feed`].
//!
//! The embedded broker keeps only a few megabytes per partition, so the replay is paced by what the pipeline has
//! committed: nothing is produced that could push out a record not yet committed. Records, partitions and their order
//! are the same in every replay, so that a second run over the same directory finds the same offsets.

use std::collections::BTreeMap;
use std::io::{Cursor, Read};
use std::time::Duration;

use isobar_connectors::kafka::{KafkaProducer, ProducedRecord, partition_of_key};
use isobar_schemas::TopicPartition;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::error::Error;

/// Partitions of both topics.
pub const PARTITIONS: i32 = 4;

/// Bytes of JSON per partition that may be produced ahead of the last commit. The broker keeps 5 MB of compressed
/// batches per partition; these records compress to less than a third.
const AHEAD_BYTES_MAX: u64 = 12 * 1024 * 1024;
/// How far apart positions may be, in bytes, that are remembered with the bytes before them.
const MARK_BYTES: u64 = 1024 * 1024;

/// How long the last records may take to be delivered.
const DELIVERY_PATIENCE: Duration = Duration::from_secs(60);

/// A topic's input: a CSV file with a header, `NA` where a value is missing.
pub struct Input {
    /// The topic it is replayed into.
    pub topic: &'static str,
    compressed: &'static [u8],
    /// Records in the file.
    pub records: u64,
    /// Columns that are text even where they look like numbers.
    text_columns: &'static [&'static str],
}

/// The flights of 2013.
pub const FLIGHTS: Input = Input {
    topic: "flights",
    compressed: include_bytes!("../../flight_delays/data/flights.csv.zst"),
    records: 336_776,
    text_columns: &["carrier", "tailnum", "origin", "dest", "time_hour"],
};

/// The weather of 2013.
pub const WEATHER: Input = Input {
    topic: "weather",
    compressed: include_bytes!("../../flight_delays/data/weather.csv.zst"),
    records: 26_115,
    text_columns: &["origin", "time_hour"],
};

impl Input {
    /// All of it, to be replayed.
    pub fn feed(&self) -> Result<Feed, Error> {
        let mut records = Records::open(self)?;
        let next = move || {
            let record = records.next_record()?;
            Ok(record.map(|(key, payload)| {
                let partition = partition_of_key(key.as_bytes(), PARTITIONS);
                FeedRecord { partition, key: Some(key), payload }
            }))
        };
        let (topic, records) = (self.topic.to_owned(), self.records);
        Ok(Feed { topic, records, ahead_bytes_max: AHEAD_BYTES_MAX, next: Box::new(next) })
    }
}

/// A record on its way into a topic.
pub struct FeedRecord {
    /// Where it goes.
    pub partition: i32,
    /// Its key, if it has one.
    pub key: Option<String>,
    /// Its payload.
    pub payload: String,
}

/// What is replayed into one topic.
pub struct Feed {
    /// The topic.
    pub topic: String,
    /// How many records there are.
    pub records: u64,
    /// Bytes of payload per partition that may be produced ahead of the last commit.
    pub ahead_bytes_max: u64,
    /// The next record, `None` at the end.
    pub next: Box<dyn FnMut() -> Result<Option<FeedRecord>, Error> + Send>,
}

/// Positions decided by the pipeline.
pub type Positions = watch::Receiver<BTreeMap<TopicPartition, i64>>;

/// Reads all records of an input: the key and the payload of each, in the order of the file.
pub struct Records {
    reader: csv::Reader<Cursor<Vec<u8>>>,
    columns: csv::StringRecord,
    key_column: usize,
    text: Vec<bool>,
    row: csv::StringRecord,
}

impl Records {
    /// Opens `input`.
    pub fn open(input: &Input) -> Result<Self, Error> {
        let mut reader = csv::Reader::from_reader(Cursor::new(decompress(input.compressed)?));
        let columns = reader.headers().map_err(unreadable)?.clone();
        let key_column =
            columns.iter().position(|column| column == "origin").expect("both files have the column origin");
        let text = columns.iter().map(|column| input.text_columns.contains(&column)).collect();
        Ok(Self { reader, columns, key_column, text, row: csv::StringRecord::new() })
    }

    /// The next record's key and payload, `None` at the end.
    pub fn next_record(&mut self) -> Result<Option<(String, String)>, Error> {
        if !self.reader.read_record(&mut self.row).map_err(unreadable)? {
            return Ok(None);
        }
        Ok(Some((self.row[self.key_column].to_owned(), to_json(&self.columns, &self.text, &self.row))))
    }
}

/// Produces all of `feed`, blocking while the broker is slower; returns the end of every partition that received records.
pub async fn replay(
    mut feed: Feed,
    producer: &KafkaProducer,
    mut positions: Positions,
    stop: &CancellationToken,
) -> Result<BTreeMap<TopicPartition, i64>, Error> {
    let mut outstanding: BTreeMap<TopicPartition, Outstanding> = BTreeMap::new();
    while let Some(next) = (feed.next)()?.filter(|_| !stop.is_cancelled()) {
        let partition = TopicPartition::new(feed.topic.as_str(), next.partition);
        let ahead = outstanding.entry(partition.clone()).or_default();
        ahead.wait_for_room(feed.ahead_bytes_max, &partition, &mut positions, stop).await;
        let record = ProducedRecord {
            topic: &feed.topic,
            partition: next.partition,
            key: next.key.as_deref().map(str::as_bytes),
            payload: Some(next.payload.as_bytes()),
            ..Default::default()
        };
        producer
            .produce(record)
            .map_err(|error| Error::connector(format!("produce to {partition}"), error))?;
        ahead.add(next.payload.len() as u64);
    }
    producer.flush(DELIVERY_PATIENCE).map_err(|error| Error::connector("deliver the last records", error))?;
    Ok(outstanding.into_iter().map(|(partition, ahead)| (partition, ahead.next_offset)).collect())
}

/// Bytes produced to one partition and not yet committed.
#[derive(Debug, Default)]
struct Outstanding {
    next_offset: i64,
    bytes: u64,
    /// Marks of (offset, bytes up to it), so that a committed position can be turned into bytes.
    marks: std::collections::VecDeque<(i64, u64)>,
    committed_bytes: u64,
}

impl Outstanding {
    fn add(&mut self, bytes: u64) {
        self.next_offset += 1;
        self.bytes += bytes;
        let marked = self.marks.back().map_or(self.committed_bytes, |(_, bytes)| *bytes);
        if self.next_offset % 1000 == 0 || self.bytes - marked >= MARK_BYTES {
            self.marks.push_back((self.next_offset, self.bytes));
        }
    }

    async fn wait_for_room(
        &mut self,
        ahead_bytes_max: u64,
        partition: &TopicPartition,
        positions: &mut Positions,
        stop: &CancellationToken,
    ) {
        while self.bytes - self.committed_bytes > ahead_bytes_max {
            let committed = positions.borrow_and_update().get(partition).copied().unwrap_or(0);
            while let Some((_, bytes)) =
                self.marks.front().copied().filter(|(offset, _)| *offset <= committed)
            {
                self.committed_bytes = bytes;
                self.marks.pop_front();
            }
            if self.bytes - self.committed_bytes > ahead_bytes_max {
                tokio::select! {
                    changed = positions.changed() => if changed.is_err() { return },
                    () = stop.cancelled() => return,
                }
            }
        }
    }
}

fn decompress(compressed: &[u8]) -> Result<Vec<u8>, Error> {
    let mut text = Vec::new();
    zstd::Decoder::new(compressed).and_then(|mut decoder| decoder.read_to_end(&mut text)).map_err(
        |error| Error::Bug(format!("the data shipped in this program cannot be decompressed: {error}")),
    )?;
    Ok(text)
}

fn unreadable(error: csv::Error) -> Error {
    Error::Bug(format!("the data shipped in this program cannot be read: {error}"))
}

/// One CSV row as a JSON object: numbers as they are written, `NA` as null, everything else as text.
fn to_json(columns: &csv::StringRecord, text: &[bool], row: &csv::StringRecord) -> String {
    let mut json = String::with_capacity(320);
    json.push('{');
    for (index, (column, value)) in columns.iter().zip(row).enumerate() {
        if index > 0 {
            json.push(',');
        }
        json.push_str(&serde_json::Value::from(column).to_string());
        json.push(':');
        match value {
            "NA" => json.push_str("null"),
            value if text[index] => json.push_str(&serde_json::Value::from(value).to_string()),
            number => json.push_str(number),
        }
    }
    json.push('}');
    json
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_become_json_with_nulls_and_numbers_as_written() {
        let columns = csv::StringRecord::from(vec!["flight", "carrier", "dep_time"]);
        let row = csv::StringRecord::from(vec!["12", "9E", "NA"]);
        assert_eq!(
            to_json(&columns, &[false, true, false], &row),
            r#"{"flight":12,"carrier":"9E","dep_time":null}"#
        );
    }

    #[test]
    fn the_shipped_files_hold_the_stated_records() {
        for input in [FLIGHTS, WEATHER] {
            let csv = decompress(input.compressed).unwrap();
            let mut reader = csv::Reader::from_reader(csv.as_slice());
            assert_eq!(reader.records().count() as u64, input.records, "{}", input.topic);
        }
    }

    #[tokio::test]
    async fn pacing_waits_for_commits_and_goes_on() {
        let partition = TopicPartition::new("flights", 0);
        let (commits, mut positions) = watch::channel(BTreeMap::new());
        let mut ahead = Outstanding::default();
        for _ in 0..50_000 {
            ahead.add(300);
        }
        let stop = CancellationToken::new();
        {
            let waiting = ahead.wait_for_room(AHEAD_BYTES_MAX, &partition, &mut positions, &stop);
            tokio::pin!(waiting);
            assert!(futures::poll!(&mut waiting).is_pending());
            commits.send_replace(BTreeMap::from([(partition.clone(), 20_000)]));
            waiting.await;
        }
        assert_eq!(ahead.committed_bytes, 20_000 * 300);
    }

    #[tokio::test]
    async fn pacing_goes_on_after_a_few_large_records() {
        let partition = TopicPartition::new("letters", 0);
        let mut ahead = Outstanding::default();
        for _ in 0..5 {
            ahead.add(900_000);
        }
        let (_commits, mut positions) = watch::channel(BTreeMap::from([(partition.clone(), 5)]));
        let stop = CancellationToken::new();
        let waiting = ahead.wait_for_room(3 << 20, &partition, &mut positions, &stop);
        tokio::pin!(waiting);
        assert!(futures::poll!(&mut waiting).is_ready(), "all of them are committed");
    }
}
