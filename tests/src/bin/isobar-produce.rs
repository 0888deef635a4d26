//! Produces lines of standard input to a Kafka topic: `isobar-produce BROKERS TOPIC PARTITIONS`.
//!
//! A line is `PARTITION<TAB>PAYLOAD`. The topic is created if it is not there. Returns when the broker has everything,
//! in the order of the lines, so that the n-th line of a partition has the n-th offset. For drills that keep their own
//! ledger.

use std::io::BufRead;
use std::time::Duration;

use isobar_connectors::kafka::{Compression, KafkaProducer, ProducedRecord};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::types::RDKafkaErrorCode;

/// How long the broker may take for anything.
const PATIENCE: Duration = Duration::from_secs(120);

type Failure = Box<dyn std::error::Error>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [brokers, topic, partitions] = arguments.as_slice() else {
        return Err("usage: isobar-produce BROKERS TOPIC PARTITIONS <LINES".into());
    };
    create(brokers, topic, partitions.parse()?).await?;
    let producer = KafkaProducer::start(brokers, Compression::Lz4)?;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let (partition, payload) = line.split_once('\t').ok_or("a line is PARTITION<TAB>PAYLOAD")?;
        producer.produce(ProducedRecord {
            topic,
            partition: partition.parse()?,
            key: None,
            payload: Some(payload.as_bytes()),
            ..Default::default()
        })?;
    }
    producer.flush(PATIENCE)?;
    Ok(())
}

async fn create(brokers: &str, topic: &str, partitions: i32) -> Result<(), Failure> {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", brokers).create()?;
    let options = AdminOptions::new().operation_timeout(Some(PATIENCE)).request_timeout(Some(PATIENCE));
    let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
    for created in admin.create_topics(&[new], &options).await? {
        match created {
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((name, code)) => return Err(format!("create topic {name}: {code}").into()),
        }
    }
    Ok(())
}
