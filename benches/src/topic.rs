//! The topics that benchmarks read, of four partitions: the same payloads over and over, as the flights of 2013, keyed by airport.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use isobar_connectors::kafka::{Compression, KafkaCluster, KafkaConfig, KafkaProducer, ProducedRecord};
use isobar_schemas::TopicPartition;
use isobar_topologies::demo::replay::{FLIGHTS, Records};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};

use crate::measure::Measurement;

/// Partitions of the topic.
pub(crate) const PARTITIONS: i32 = 4;

/// Length of a flight's key, an airport.
pub(crate) const FLIGHT_KEY_BYTES: u64 = 3;

/// A filled topic.
pub(crate) struct Topic {
    /// Its name, which tells its size.
    pub(crate) name: String,
    /// Records in it.
    pub(crate) records: u64,
    /// Bytes of payload in it.
    pub(crate) bytes: u64,
}

impl Topic {
    /// A run that did not read everything measures nothing.
    pub(crate) fn check(&self, measured: &Measurement) -> Result<()> {
        ensure!(
            measured.records == self.records,
            "{} of {} records were read",
            measured.records,
            self.records
        );
        Ok(())
    }
}

/// Creates the topic and fills it with `payloads` over and over until `is_full`, or finds it filled by an earlier run.
pub(crate) async fn fill<P: AsRef<[u8]>>(
    brokers: &str,
    name: &str,
    payloads: &[(String, P)],
    is_full: impl Fn(&Topic) -> bool,
) -> Result<Topic> {
    let mut topic = Topic { name: name.to_owned(), records: 0, bytes: 0 };
    let mut records = payloads.iter().cycle().enumerate();
    let fresh = create(brokers, name).await?;
    let producer = KafkaProducer::start(brokers, Compression::Lz4)?;
    while !is_full(&topic) {
        let (index, (key, payload)) = records.next().context("there are payloads")?;
        if fresh {
            // Round robin, so that every partition holds the same load.
            producer.produce(ProducedRecord {
                topic: name,
                partition: i32::try_from(index % PARTITIONS as usize)?,
                key: Some(key.as_bytes()),
                payload: Some(payload.as_ref()),
                ..Default::default()
            })?;
        }
        topic.records += 1;
        topic.bytes += payload.as_ref().len() as u64;
    }
    producer.flush(Duration::from_secs(120))?;
    let found = records_in(brokers, name).await?;
    ensure!(
        found == topic.records,
        "topic {name} holds {found} records, not {}: delete it and run again",
        topic.records
    );
    Ok(topic)
}

/// Keys and payloads of all flights, as JSON.
pub(crate) fn flights() -> Result<Vec<(String, String)>> {
    let mut records = Records::open(&FLIGHTS)?;
    let mut payloads = Vec::new();
    while let Some(record) = records.next_record()? {
        payloads.push(record);
    }
    Ok(payloads)
}

/// Creates the topic; false if it exists.
async fn create(brokers: &str, name: &str) -> Result<bool> {
    let admin: AdminClient<_> = ClientConfig::new().set("bootstrap.servers", brokers).create()?;
    let topic = NewTopic::new(name, PARTITIONS, TopicReplication::Fixed(1));
    let created = admin.create_topics([&topic], &AdminOptions::new()).await?;
    match created.into_iter().next().context("an answer for the one topic")? {
        Ok(_) => Ok(true),
        Err((_, rdkafka::types::RDKafkaErrorCode::TopicAlreadyExists)) => Ok(false),
        Err((name, code)) => anyhow::bail!("create topic {name}: {code}"),
    }
}

async fn records_in(brokers: &str, name: &str) -> Result<u64> {
    let cluster = KafkaCluster::new(&KafkaConfig::new([brokers], "isobar-bench"), Duration::from_secs(15))?;
    let partitions: Vec<TopicPartition> =
        (0..PARTITIONS).map(|partition| TopicPartition::new(name, partition)).collect();
    let watermarks = cluster.watermarks(&partitions).await?;
    Ok(watermarks.values().map(|ends| (ends.high - ends.low) as u64).sum())
}
