//! Dead-letter topics as somebody sees them who reads committed records only, and what must be in them: the rows of the
//! quarantine, each once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use isobar_connectors::kafka::{KafkaConfig, KafkaSource};
use isobar_connectors::source::{Source, SourceEvent};
use isobar_schemas::TopicPartition;

use crate::delta::Table;
use crate::events::{Row, Value};

/// Names and values, in their order.
pub type Headers = Vec<(String, Option<Vec<u8>>)>;

/// A message of a dead-letter topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    /// The partition of the dead-letter topic.
    pub partition: i32,
    /// The key.
    pub key: Option<Vec<u8>>,
    /// The payload.
    pub payload: Option<Vec<u8>>,
    /// The message's own time.
    pub timestamp_ms: Option<i64>,
    /// All headers, those of the rejected record first.
    pub headers: Headers,
}

impl Letter {
    /// What isobar says of the rejected record under this name.
    ///
    /// # Panics
    /// If it is no text.
    pub fn said(&self, name: &str) -> Option<&str> {
        let name = format!("isobar.{name}");
        let (_, value) = self.headers.iter().rfind(|(known, _)| *known == name)?;
        let value = value.as_ref().expect("what isobar says has a value");
        Some(std::str::from_utf8(value).expect("what isobar says is text"))
    }

    fn number(&self, name: &str) -> Option<i64> {
        self.said(name).map(|text| text.parse().expect("a number is said"))
    }

    /// The rejected record.
    ///
    /// # Panics
    /// If what it must say is missing.
    pub fn rejected(&self) -> Rejected {
        let said = |name: &str| self.said(name).unwrap_or_else(|| panic!("{name}: {self:?}")).to_owned();
        let number = |name: &str| self.number(name).unwrap_or_else(|| panic!("{name}: {self:?}"));
        Rejected {
            topic: said("topic"),
            partition: number("partition"),
            offset: number("offset"),
            reason: said("reason"),
            rule: self.said("rule").map(str::to_owned),
            message: said("message"),
            timestamp_ms: self.number("timestamp"),
            key: self.key.clone(),
            payload: self.payload.clone(),
        }
    }
}

/// A rejected record, as the quarantine and the topic have it in common.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the columns of a quarantine")]
pub struct Rejected {
    pub topic: String,
    pub partition: i64,
    pub offset: i64,
    pub reason: String,
    pub rule: Option<String>,
    pub message: String,
    pub timestamp_ms: Option<i64>,
    pub key: Option<Vec<u8>>,
    pub payload: Option<Vec<u8>>,
}

impl Rejected {
    fn of_row(row: &Row) -> Self {
        let text = |name: &str| match &row[name] {
            Value::Text(text) => Some(text.clone()),
            Value::Null => None,
            other => panic!("{name} is {other:?}"),
        };
        let number = |name: &str| match &row[name] {
            Value::Int(number) => *number,
            other => panic!("{name} is {other:?}"),
        };
        let bytes = |name: &str| match &row[name] {
            Value::Bytes(bytes) => Some(bytes.clone()),
            Value::Null => None,
            other => panic!("{name} is {other:?}"),
        };
        let must = |name: &str| text(name).unwrap_or_else(|| panic!("{name} is null"));
        Self {
            topic: must("topic"),
            partition: number("partition"),
            offset: number("offset"),
            reason: must("reason"),
            rule: text("rule"),
            message: must("message"),
            timestamp_ms: match &row["timestamp"] {
                Value::Micros(micros) => Some(micros / 1000),
                _ => None,
            },
            key: bytes("key"),
            payload: bytes("payload"),
        }
    }
}

/// Everything in `topic` that is committed.
///
/// # Panics
/// If it cannot be read.
pub async fn read(brokers: &str, topic: &str, partitions: i32) -> Vec<Letter> {
    let mut config = KafkaConfig::new([brokers], "letters");
    config.keeps_headers = Some(Arc::new(|_: &str| true));
    let all = (0..partitions).map(|partition| (TopicPartition::new(topic, partition), 0));
    let mut source = KafkaSource::start(&config, all.collect()).expect("a client can be made");
    let (mut letters, mut ended) = (Vec::new(), BTreeMap::new());
    while ended.len() < partitions as usize {
        match source.next().await.expect("the source goes on") {
            SourceEvent::Chunk(chunk) => {
                for index in 0..chunk.len() {
                    let headers = chunk.headers(index).expect("headers are kept").into_iter();
                    letters.push(Letter {
                        partition: chunk.topic_partition().partition,
                        key: chunk.key(index).map(<[u8]>::to_vec),
                        payload: chunk.payload(index).map(<[u8]>::to_vec),
                        timestamp_ms: chunk.timestamps_ms()[index],
                        headers: headers
                            .map(|(name, value)| (name.to_owned(), value.map(<[u8]>::to_vec)))
                            .collect(),
                    });
                }
            }
            SourceEvent::EndOfPartition { topic_partition, next_offset } => {
                ended.insert(topic_partition, next_offset);
            }
            SourceEvent::Failed(error) => panic!("{topic} cannot be read: {error}"),
            _ => {}
        }
    }
    Box::new(source).close().await;
    letters
}

/// Each of `letters` is another row of `quarantine`, as it is there.
///
/// # Panics
/// If one is not.
pub fn assert_are_among_rows_of(letters: &[Letter], quarantine: &Table) {
    let mut rows: BTreeSet<Rejected> = quarantine.rows().map(Rejected::of_row).collect();
    for letter in letters {
        assert!(rows.remove(&letter.rejected()), "not in the quarantine, or sent twice: {letter:?}");
    }
}

/// `letters` are the rows of `quarantine`, each once and as it is there.
///
/// # Panics
/// If they are not; says which are missing, doubled or others.
pub fn assert_are_rows_of(letters: &[Letter], quarantine: &Table) {
    let mut sent: Vec<Rejected> = letters.iter().map(Letter::rejected).collect();
    let mut due: Vec<Rejected> = quarantine.rows().map(Rejected::of_row).collect();
    sent.sort_unstable();
    due.sort_unstable();
    let count = |all: &[Rejected]| {
        let mut counts: BTreeMap<Rejected, i64> = BTreeMap::new();
        for rejected in all {
            *counts.entry(rejected.clone()).or_default() += 1;
        }
        counts
    };
    let mut differences = count(&sent);
    for (rejected, times) in count(&due) {
        *differences.entry(rejected).or_default() -= times;
    }
    differences.retain(|_, more| *more != 0);
    let shown: Vec<_> = differences.iter().take(5).collect();
    let (differ, sent, due) = (differences.len(), sent.len(), due.len());
    assert!(
        differ == 0,
        "{sent} sent, {due} in the quarantine, {differ} differ (more sent: above 0): {shown:#?}"
    );
}
