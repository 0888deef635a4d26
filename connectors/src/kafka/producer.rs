//! A small, fast producer for demonstrations, benchmarks and tests. The pipeline itself does not produce.
//!
//! Idempotent, so that a retry neither doubles nor reorders records; compressed in large batches; the partition is
//! the caller's choice, so that what lies where is the same in every run. [`partition_of_key`] chooses as Java's
//! default partitioner does.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use rdkafka::{
    ClientConfig, ClientContext,
    config::RDKafkaLogLevel,
    error::KafkaError,
    message::{DeliveryResult, Header, OwnedHeaders},
    producer::{BaseProducer, BaseRecord, Producer, ProducerContext},
    types::RDKafkaErrorCode,
};

use super::{context::log, source::client_error};
use crate::Error;

/// How batches are compressed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// Fast to write and to read.
    #[default]
    Lz4,
    /// Smaller, a little slower.
    Zstd,
}

impl Compression {
    fn name(self) -> &'static str {
        match self {
            Compression::None => "none",
            Compression::Lz4 => "lz4",
            Compression::Zstd => "zstd",
        }
    }
}

/// A record to produce.
#[derive(Debug, Clone, Copy, Default)]
pub struct ProducedRecord<'a> {
    /// The topic's name.
    pub topic: &'a str,
    /// The partition's number.
    pub partition: i32,
    /// The key, if it has one.
    pub key: Option<&'a [u8]>,
    /// The payload; `None` is a tombstone.
    pub payload: Option<&'a [u8]>,
    /// Milliseconds since the Unix epoch; the time of producing if `None`.
    pub timestamp_ms: Option<i64>,
    /// Names and values, in this order.
    pub headers: &'a [(&'a str, Option<&'a [u8]>)],
}

/// Sends records to Kafka.
pub struct KafkaProducer {
    producer: BaseProducer<Delivery>,
}

impl KafkaProducer {
    /// Starts a producer for `brokers` (a comma-separated list). Connects in the background.
    pub fn start(brokers: &str, compression: Compression) -> Result<Self, Error> {
        let producer = ClientConfig::new()
            .set("bootstrap.servers", brokers)
            .set("client.id", "isobar-producer")
            .set("enable.idempotence", "true")
            .set("compression.type", compression.name())
            .set("linger.ms", "20")
            .set("batch.size", "1000000")
            .set("batch.num.messages", "20000")
            .set("queue.buffering.max.kbytes", "65536")
            .set("queue.buffering.max.messages", "500000")
            // Success is seen by `flush`; a report per record would cost more than the record.
            .set("delivery.report.only.error", "true")
            .set_log_level(RDKafkaLogLevel::Info)
            .create_with_context(Delivery::default())
            .map_err(|error| client_error(&error))?;
        Ok(Self { producer })
    }

    /// Takes a record to be sent. Blocks while the queue of 64 MiB is full. An error may be that of an earlier
    /// record, whose delivery has failed for good.
    pub fn produce(&self, record: ProducedRecord<'_>) -> Result<(), Error> {
        let mut message = BaseRecord::<[u8], [u8]>::to(record.topic).partition(record.partition);
        message.key = record.key;
        message.payload = record.payload;
        message.timestamp = record.timestamp_ms;
        message.headers = (!record.headers.is_empty()).then(|| {
            let none = OwnedHeaders::new_with_capacity(record.headers.len());
            record
                .headers
                .iter()
                .fold(none, |headers, (key, value)| headers.insert(Header { key, value: *value }))
        });
        loop {
            match self.producer.send(message) {
                Ok(()) => return self.delivered(),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), unsent)) => {
                    message = unsent;
                    self.producer.poll(Duration::from_millis(10));
                    self.delivered()?;
                }
                Err((error, _)) => {
                    let action = format!("produce to {}[{}]", record.topic, record.partition);
                    return Err(Error::Kafka { action, reason: error.to_string() });
                }
            }
        }
    }

    /// Waits until every record taken is stored by the broker. Fails when one cannot be, or after `timeout`.
    pub fn flush(&self, timeout: Duration) -> Result<(), Error> {
        let flushed = self.producer.flush(timeout);
        self.delivered()?;
        flushed
            .map_err(|error| Error::Kafka { action: "flush the producer".into(), reason: error.to_string() })
    }

    /// The first failed delivery not told yet.
    fn delivered(&self) -> Result<(), Error> {
        let failed = self.producer.context().failed.lock().unwrap_or_else(PoisonError::into_inner).take();
        failed.map_or(Ok(()), Err)
    }
}

#[derive(Default)]
struct Delivery {
    failed: Mutex<Option<Error>>,
}

impl ClientContext for Delivery {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "producer error, librdkafka goes on by itself");
    }
}

impl ProducerContext for Delivery {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        use rdkafka::Message as _;

        if let Err((error, message)) = result {
            let action = format!("deliver a record to {}[{}]", message.topic(), message.partition());
            let error = Error::Kafka { action, reason: error.to_string() };
            self.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        }
    }
}

/// The partition of `key` among `partitions`, as Java's default partitioner chooses it.
///
/// # Panics
/// If there are no partitions.
pub fn partition_of_key(key: &[u8], partitions: i32) -> i32 {
    assert!(partitions > 0, "a topic has at least one partition");
    // The sign bit is cleared rather than negated: that is what Java's `toPositive` does.
    let positive = murmur2(key) & 0x7fff_ffff;
    (positive % partitions as u32) as i32
}

/// Austin Appleby's MurmurHash2 with Kafka's seed.
fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    const SEED: u32 = 0x9747_b28c;
    let mut hash = SEED ^ data.len() as u32;
    let (words, tail) = data.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> 24;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !tail.is_empty() {
        for (place, byte) in tail.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * place);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_kafka() {
        // From the unit tests of Kafka's own `Utils.murmur2` and of librdkafka, which took them from Java.
        let known: [(&str, u32); 17] = [
            ("21", -973_932_308_i32 as u32),
            ("foobar", -790_332_482_i32 as u32),
            ("a-little-bit-long-string", -985_981_536_i32 as u32),
            ("a-little-bit-longer-string", -1_486_304_829_i32 as u32),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971_i32 as u32),
            ("abc", 479_470_107),
            ("kafka", 0xd067_cf64),
            ("giberish123456789", 0x8f55_2b0c),
            ("1234", 0x9fc9_7b14),
            ("234", 0xe7c0_09ca),
            ("34", 0x8739_30da),
            ("4", 0x5a4b_5ca1),
            ("PreAmbleWillBeRemoved,ThePrePartThatIs", 0x7842_4f1c),
            ("reAmbleWillBeRemoved,ThePrePartThatIs", 0x4a62_b377),
            ("eAmbleWillBeRemoved,ThePrePartThatIs", 0xe0e4_e09e),
            ("AmbleWillBeRemoved,ThePrePartThatIs", 0x62b8_b43f),
            ("", 0x106e_08d9),
        ];
        for (key, hash) in known {
            assert_eq!(murmur2(key.as_bytes()), hash, "{key:?}");
        }
    }

    #[test]
    fn a_partition_exists_for_every_key() {
        for partitions in 1..20 {
            for key in 0_u32..200 {
                assert!((0..partitions).contains(&partition_of_key(&key.to_le_bytes(), partitions)));
            }
        }
    }
}
