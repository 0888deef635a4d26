//! A producer of single records that tells of each what became of it.
//!
//! ```text
//! send(record, told) ─▶ librdkafka's queue ─▶ stored in the topic, or given up ─▶ told(Ok), or told(Err)
//! ```
//!
//! A record that was told to be stored is in the topic once: the producer is idempotent, so that a retry neither doubles nor
//! reorders. Nothing here blocks. How many records are on their way is for whoever sends to bound, by what it was told.

use std::time::Duration;

use rdkafka::{
    ClientContext,
    client::OAuthToken,
    config::RDKafkaLogLevel,
    error::KafkaError,
    message::DeliveryResult,
    producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer},
};

use super::{config::KafkaConfig, context::TransactionContext, source::client_error};
use crate::Error;

/// Called once, with what became of a record: it is stored, or why not. Runs on the producer's own thread, or on that of whoever
/// sends, and must not wait for anything.
pub type Told = Box<dyn FnOnce(Result<(), String>) + Send + Sync>;

/// See the [module](self). Dropping it gives up what is on its way.
pub struct RecordSender {
    producer: ThreadedProducer<SenderContext>,
    topic: String,
}

impl std::fmt::Debug for RecordSender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RecordSender").field("topic", &self.topic).finish_non_exhaustive()
    }
}

impl RecordSender {
    /// Starts a client that sends to `topic`, and gives a record up after `patience`; never, if there is none. Connects in the
    /// background.
    ///
    /// # Errors
    /// If an option of `config` is none of librdkafka's.
    pub fn start(config: &KafkaConfig, topic: &str, patience: Option<Duration>) -> Result<Self, Error> {
        let context = SenderContext(TransactionContext::new(config.tokens.clone()));
        let producer = config.record_sender(patience)?.create_with_context(context);
        let producer = producer.map_err(|error| client_error(&error))?;
        Ok(Self { producer, topic: topic.to_owned() })
    }

    /// Takes a record to be sent. Those of the same key are stored in this order.
    pub fn send(&self, key: &[u8], payload: &[u8], told: Told) {
        let record =
            BaseRecord::<[u8], [u8], Box<Telling>>::with_opaque_to(&self.topic, Box::new(Telling(told)));
        if let Err((error, unsent)) = self.producer.send(record.key(key).payload(payload)) {
            let Telling(told) = *unsent.delivery_opaque;
            told(Err(error.to_string()));
        }
    }

    /// Waits until it was told of every record; whether it was, within `patience`. Blocks.
    pub fn flush(&self, patience: Duration) -> bool {
        self.producer.flush(patience).is_ok()
    }
}

/// What librdkafka carries along with a record.
struct Telling(Told);

struct SenderContext(TransactionContext);

impl ClientContext for SenderContext {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(&self, config: Option<&str>) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        self.0.generate_oauth_token(config)
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.0.log(level, facility, message);
    }

    fn stats_raw(&self, statistics: &[u8]) {
        self.0.stats_raw(statistics);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.0.error(error, reason);
    }
}

impl ProducerContext for SenderContext {
    type DeliveryOpaque = Box<Telling>;

    fn delivery(&self, result: &DeliveryResult<'_>, told: Box<Telling>) {
        let Telling(told) = *told;
        told(match result {
            Ok(_) => Ok(()),
            Err((error, _)) => {
                let trouble = self.0.trouble().map(|trouble| format!("; {trouble}"));
                Err(format!("{error}{}", trouble.unwrap_or_default()))
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::mpsc;

    use isobar_schemas::TopicPartition;

    use super::*;
    use crate::{
        kafka::{EmbeddedBroker, KafkaSource},
        source::{Source, SourceEvent},
    };

    const PATIENCE: Duration = Duration::from_secs(120);

    fn sender(brokers: &str, patience: Option<Duration>) -> RecordSender {
        RecordSender::start(&KafkaConfig::new([brokers], "t"), "log", patience).unwrap()
    }

    /// The payloads of `log` by their keys, each in the order of its partition.
    async fn read(broker: &EmbeddedBroker, partitions: i32) -> BTreeMap<Vec<u8>, Vec<String>> {
        let config = KafkaConfig::new([broker.bootstrap_servers()], "reader");
        let all = (0..partitions).map(|partition| (TopicPartition::new("log", partition), 0));
        let mut source = KafkaSource::start(&config, all.collect()).unwrap();
        let (mut found, mut ended) = (BTreeMap::<Vec<u8>, Vec<String>>::new(), 0);
        while ended < partitions {
            match source.next().await.unwrap() {
                SourceEvent::Chunk(chunk) => {
                    for index in 0..chunk.len() {
                        let payload = String::from_utf8(chunk.payload(index).unwrap().to_vec()).unwrap();
                        found.entry(chunk.key(index).unwrap().to_vec()).or_default().push(payload);
                    }
                }
                SourceEvent::EndOfPartition { .. } => ended += 1,
                SourceEvent::Failed(error) => panic!("{error}"),
            }
        }
        Box::new(source).close().await;
        found
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn it_is_told_of_every_record_also_of_those_that_wait_for_a_broker() {
        let broker = EmbeddedBroker::start(&[("log", 3)]).unwrap();
        let sender = sender(&broker.bootstrap_servers(), None);
        let (tells, told) = mpsc::channel();
        let send = |number: u8| {
            let tells = tells.clone();
            let payload = number.to_string();
            sender.send(
                &[number % 7],
                payload.as_bytes(),
                Box::new(move |result| tells.send(result).unwrap()),
            );
        };
        (0..50).for_each(send);
        assert!(sender.flush(PATIENCE));
        broker.set_down(true).unwrap();
        (50..100).for_each(send);
        assert_eq!(told.try_iter().collect::<Vec<_>>(), vec![Ok(()); 50]);
        broker.set_down(false).unwrap();
        assert!(sender.flush(PATIENCE));
        assert_eq!(told.try_iter().collect::<Vec<_>>(), vec![Ok(()); 50]);
        let found = read(&broker, 3).await;
        for (key, payloads) in &found {
            let sent: Vec<String> = (0_u8..100)
                .filter(|number| [number % 7] == key[..])
                .map(|number| number.to_string())
                .collect();
            assert_eq!(*payloads, sent, "{key:?}");
        }
        assert_eq!(found.len(), 7);
    }

    #[test]
    fn what_is_given_up_is_told_too() {
        // Nobody listens there.
        let patient = sender("127.0.0.1:1", None);
        let hasty = sender("127.0.0.1:1", Some(Duration::from_millis(10)));
        let (tells, told) = mpsc::channel();
        let send = |sender: &RecordSender| {
            let tells = tells.clone();
            sender.send(b"k", b"v", Box::new(move |result| tells.send(result).unwrap()));
        };
        send(&hasty);
        assert!(told.recv_timeout(PATIENCE).unwrap().is_err());
        send(&patient);
        assert!(!patient.flush(Duration::from_millis(1)));
        assert!(told.try_recv().is_err(), "it waits");
        drop(patient);
        assert!(told.recv_timeout(PATIENCE).unwrap().is_err());
    }
}
