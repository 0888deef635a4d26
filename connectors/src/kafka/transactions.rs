//! A producer whose records and progress are stored together or not at all.
//!
//! ```text
//! send(records, progress) ─▶ one transaction: the records, and the progress as the committed offset of a group
//! begin()                 ─▶ fences whoever sent under the same name before, and tells the progress that is stored
//! ```
//!
//! Whoever reads committed records only sees each of them once: after any failure the client is thrown away and another one
//! begins, which is told by Kafka how far the transactions that were committed have come, however the last one ended. A
//! sender that was replaced can commit nothing more. The progress lies in a consumer group that nobody joins, at partition 0
//! of the topic: an offset to be seen in Kafka's tools and a note that only whoever sends understands.
//!
//! librdkafka's calls block, and its client takes its time to leave when the brokers are away. So one thread owns it, does
//! what it is asked, and leaves by itself; nobody has to wait for it. Every call is bounded in time, and a call under way
//! when the producer is dropped ends within seconds.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use isobar_schemas::TopicPartition;
use rdkafka::{
    Offset, TopicPartitionList,
    error::{KafkaError, KafkaResult},
    message::{Header, OwnedHeaders},
    producer::{BaseProducer, BaseRecord, Producer},
    types::RDKafkaErrorCode,
};
use tokio::sync::oneshot;

use super::{config::KafkaConfig, context::TransactionContext, identity::KafkaCluster, source::client_error};
use crate::Error;

/// How long a transaction, or the beginning, may take. Below the broker's own time-out for a transaction.
const PATIENCE: Duration = Duration::from_secs(50);
/// How long one call may take before it is looked whether anybody still waits for it: it is resumed by the next one.
const STEP: Duration = Duration::from_secs(1);
/// How long noting the progress may take. This call cannot be resumed.
const NOTE_PATIENCE: Duration = Duration::from_secs(20);
/// How long giving up a transaction may take. Whoever begins next does it otherwise.
const ABORT_PATIENCE: Duration = Duration::from_secs(3);
/// How long deliveries are waited for at a time.
const DELIVERY_WAIT: Duration = Duration::from_millis(5);
/// How often an idle client is served: it may want another token.
const SERVE_INTERVAL: Duration = Duration::from_secs(1);
/// Most events of an idle client served at a time.
const EVENTS_MAX: usize = 100;
/// How long [`close`](TransactionalProducer::close) waits for the client to leave.
const CLOSE_PATIENCE: Duration = Duration::from_secs(3);

/// How far a sender is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// What comes next. Not negative.
    pub next: i64,
    /// What else is to be known, at most 4,000 bytes.
    pub note: String,
}

/// A record to send. Its partition is that of its key, or any.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OutgoingRecord {
    /// The key, if it has one.
    pub key: Option<Vec<u8>>,
    /// The payload; `None` is a tombstone.
    pub payload: Option<Vec<u8>>,
    /// Milliseconds since the Unix epoch, above 0; the time of sending if `None`.
    pub timestamp_ms: Option<i64>,
    /// Names and values, in this order.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

/// What became of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Sent {
    /// The records and the progress are stored.
    Stored,
    /// Nothing is stored, because the topic does not take some of the records. Another client must begin.
    Refused {
        /// The records, handed back.
        records: Vec<OutgoingRecord>,
        /// Those refused, by their places. Of a batch that is refused all are named, whichever of them it is for.
        refused: Vec<(usize, Refusal)>,
    },
}

/// Why a topic does not take a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It is larger than `max.message.bytes`.
    TooLarge,
    /// Its time is too far from the broker's.
    Timestamp,
    /// It, or another one of its batch, for a reason that is not told for batches.
    InBatch,
}

impl Refusal {
    fn of(code: RDKafkaErrorCode, one_by_one: bool) -> Option<Self> {
        match code {
            RDKafkaErrorCode::MessageSizeTooLarge => Some(Self::TooLarge),
            RDKafkaErrorCode::InvalidTimestamp => Some(Self::Timestamp),
            // librdkafka's words for the records of a batch in which several were refused. Of a single record it is the
            // broker's own, and nothing that could be left out.
            RDKafkaErrorCode::InvalidRecord | RDKafkaErrorCode::InvalidDifferentRecord if !one_by_one => {
                Some(Self::InBatch)
            }
            _ => None,
        }
    }
}

/// Places of records, and why they are refused.
type Refused = Vec<(usize, Refusal)>;

type Job = Box<dyn FnOnce(&Client) + Send>;

/// See the [module](self). Dropping it leaves the client to itself.
pub struct TransactionalProducer {
    /// Dropped to end the thread.
    jobs: Option<mpsc::Sender<Job>>,
    stopping: Arc<AtomicBool>,
    /// Told when the client has left.
    gone: Option<oneshot::Receiver<()>>,
}

impl TransactionalProducer {
    /// Starts a client that sends to `topic`, under `name`: its transactional id and the group of its progress. Records go into
    /// batches of one if `one_by_one`, so that a refusal is about that one. Connects in the background.
    pub fn start(config: &KafkaConfig, topic: &str, name: &str, one_by_one: bool) -> Result<Self, Error> {
        let config = KafkaConfig { group_id: name.to_owned(), ..config.of_connections() };
        let context = TransactionContext::new(config.tokens.clone());
        let producer = config.transactional_producer(name, one_by_one)?.create_with_context(context);
        let stopping = Arc::new(AtomicBool::new(false));
        let client = Client {
            producer: producer.map_err(|error| client_error(&error))?,
            group: KafkaCluster::of_group(&config, PATIENCE / 2)?,
            topic: topic.to_owned(),
            one_by_one,
            stopping: Arc::clone(&stopping),
        };
        let (jobs, inbox) = mpsc::channel();
        let (left, gone) = oneshot::channel();
        let working = thread::Builder::new().name("kafka-send".into()).spawn(move || {
            client.work(&inbox);
            drop(client);
            // Nobody waits when the producer was dropped without being closed.
            let _ = left.send(());
        });
        working.map_err(|error| Error::Kafka {
            action: "start the thread that sends".into(),
            reason: error.to_string(),
        })?;
        Ok(Self { jobs: Some(jobs), stopping, gone: Some(gone) })
    }

    /// Fences whoever sent under the same name before, ends what that one has left open, and tells how far it was; `None` where
    /// no progress is kept. To be called once, before anything is sent.
    pub async fn begin(&self) -> Result<Option<Progress>, Error> {
        self.ask(Client::begin).await
    }

    /// Sends `records`, and notes `progress` with them. After an error it is not known whether they are stored; and after
    /// anything but [`Sent::Stored`] another client must begin.
    pub async fn send(&self, records: Vec<OutgoingRecord>, progress: Progress) -> Result<Sent, Error> {
        self.ask(move |client| {
            Ok(match client.send(&records, &progress)? {
                None => Sent::Stored,
                Some(refused) => Sent::Refused { records, refused },
            })
        })
        .await
    }

    /// Ends what is under way and waits a little for the client to leave.
    pub async fn close(mut self) {
        self.stop();
        if let Some(gone) = self.gone.take()
            && tokio::time::timeout(CLOSE_PATIENCE, gone).await.is_err()
        {
            tracing::debug!("the kafka client is still leaving: the brokers do not answer");
        }
    }

    fn stop(&mut self) {
        self.stopping.store(true, Relaxed);
        self.jobs = None;
    }

    async fn ask<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Client) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let ended = || Error::Kafka { action: "send to kafka".into(), reason: "its thread ended".into() };
        let (done, answer) = oneshot::channel();
        let job: Job = Box::new(move |client| {
            // Nobody waits any more when the producer was dropped.
            let _ = done.send(job(client));
        });
        self.jobs.as_ref().ok_or_else(ended)?.send(job).map_err(|_| ended())?;
        answer.await.map_err(|_| ended())?
    }
}

impl Drop for TransactionalProducer {
    fn drop(&mut self) {
        self.stop();
    }
}

/// What the thread owns.
struct Client {
    producer: BaseProducer<TransactionContext>,
    /// Asked for the progress.
    group: KafkaCluster,
    topic: String,
    one_by_one: bool,
    stopping: Arc<AtomicBool>,
}

impl Client {
    fn work(&self, jobs: &mpsc::Receiver<Job>) {
        loop {
            match jobs.recv_timeout(SERVE_INTERVAL) {
                Ok(job) => job(self),
                Err(RecvTimeoutError::Timeout) => self.serve(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Serves errors and the wish for a token, one event a call.
    fn serve(&self) {
        for _ in 0..EVENTS_MAX {
            self.producer.poll(Duration::ZERO);
        }
        self.group.serve();
    }

    fn begin(&self) -> Result<Option<Progress>, Error> {
        let deadline = Instant::now() + PATIENCE;
        self.serve();
        self.insist("begin to send", deadline, || self.producer.init_transactions(STEP))?;
        let committed = self.group.committed(&self.first_partition())?;
        Ok(committed.map(|(next, note)| Progress { next, note }))
    }

    /// Where the progress is kept.
    fn first_partition(&self) -> TopicPartition {
        TopicPartition::new(self.topic.as_str(), 0)
    }

    /// Stores `records` with `progress`, or tells which records are refused.
    fn send(&self, records: &[OutgoingRecord], progress: &Progress) -> Result<Option<Refused>, Error> {
        self.producer.context().take_failures();
        let begun = self.producer.begin_transaction();
        begun.map_err(|error| self.failure("begin a transaction", &error))?;
        let outcome = self.fill(records, progress);
        if !matches!(outcome, Ok(None)) {
            self.abort();
        }
        outcome
    }

    fn fill(&self, records: &[OutgoingRecord], progress: &Progress) -> Result<Option<Refused>, Error> {
        let deadline = Instant::now() + PATIENCE;
        for (place, record) in records.iter().enumerate() {
            if !self.enqueue(place, record, deadline)? {
                break;
            }
        }
        self.await_deliveries(deadline)?;
        if let Some(refused) = self.refused()? {
            return Ok(Some(refused));
        }
        let TopicPartition { topic, partition } = self.first_partition();
        let mut offsets = TopicPartitionList::with_capacity(1);
        let mut offset = offsets.add_partition(&topic, partition);
        let set = offset.set_offset(Offset::Offset(progress.next));
        set.map_err(|error| self.failure("note the progress", &error))?;
        offset.set_metadata(&progress.note);
        let group = self.group.group_metadata()?;
        let noted = self.producer.send_offsets_to_transaction(&offsets, &group, NOTE_PATIENCE);
        noted.map_err(|error| self.failure("note the progress", &error))?;
        self.insist("commit a transaction", deadline, || self.producer.commit_transaction(STEP))?;
        Ok(None)
    }

    /// Puts a record into the client's queue; whether it makes sense to go on.
    fn enqueue(&self, place: usize, record: &OutgoingRecord, deadline: Instant) -> Result<bool, Error> {
        let context = self.producer.context();
        let mut message = BaseRecord::<[u8], [u8], usize>::with_opaque_to(&self.topic, place);
        message.key = record.key.as_deref();
        message.payload = record.payload.as_deref();
        message.timestamp = record.timestamp_ms;
        let none = OwnedHeaders::new_with_capacity(record.headers.len());
        message.headers = Some(record.headers.iter().fold(none, |headers, (key, value)| {
            headers.insert(Header { key: key.as_str(), value: value.as_deref() })
        }));
        loop {
            let (error, unsent) = match self.producer.send(message) {
                Ok(()) => return Ok(true),
                Err(refused) => refused,
            };
            message = unsent;
            self.producer.poll(DELIVERY_WAIT);
            match error.rdkafka_error_code() {
                Some(RDKafkaErrorCode::QueueFull) => {}
                Some(code) if Refusal::of(code, self.one_by_one).is_some() => {
                    context.note_failure(place, code);
                }
                // A record before this one has ended the transaction: that one is what is to be told.
                _ if context.has_failures() => {}
                _ => return Err(self.failure("take a record to be sent", &error)),
            }
            if context.has_failures() {
                return Ok(false);
            }
            self.refuse_to_wait("deliver what was sent", deadline)?;
        }
    }

    /// Waits until every record is delivered, or one cannot be.
    fn await_deliveries(&self, deadline: Instant) -> Result<(), Error> {
        while self.producer.in_flight_count() > 0 && !self.producer.context().has_failures() {
            self.refuse_to_wait("deliver what was sent", deadline)?;
            self.producer.poll(DELIVERY_WAIT);
        }
        Ok(())
    }

    /// The records that the topic does not take, if that is why some were not delivered.
    fn refused(&self) -> Result<Option<Refused>, Error> {
        let failed = self.producer.context().take_failures();
        let Some((_, code)) = failed.first() else { return Ok(None) };
        let refusal =
            |(place, code): &(usize, RDKafkaErrorCode)| Some((*place, Refusal::of(*code, self.one_by_one)?));
        let refused = failed.iter().filter_map(refusal);
        let refused: Refused = refused.collect();
        if refused.is_empty() {
            return Err(self.failure("deliver a record", &KafkaError::MessageProduction(*code)));
        }
        Ok(Some(refused))
    }

    fn refuse_to_wait(&self, action: &str, deadline: Instant) -> Result<(), Error> {
        if self.stopping.load(Relaxed) {
            return Err(self.error(action, "it is to end".into()));
        }
        if Instant::now() >= deadline {
            let trouble = self.producer.context().trouble();
            let waited = PATIENCE.as_secs();
            return Err(self.error(action, trouble.unwrap_or_else(|| format!("no answer within {waited} s"))));
        }
        Ok(())
    }

    /// Calls `step` until it is done: what has run out of its time is resumed by the next call.
    fn insist(
        &self,
        action: &str,
        deadline: Instant,
        step: impl Fn() -> KafkaResult<()>,
    ) -> Result<(), Error> {
        loop {
            let Err(error) = step() else { return Ok(()) };
            let may_go_on = match &error {
                KafkaError::Transaction(inner) => inner.is_retriable() && !inner.is_fatal(),
                KafkaError::Flush(_) => true,
                _ => false,
            };
            if !may_go_on || self.stopping.load(Relaxed) || Instant::now() >= deadline {
                return Err(self.failure(action, &error));
            }
            // Also serves what the call waits for: reports of deliveries, and the wish for a token.
            self.producer.poll(DELIVERY_WAIT);
        }
    }

    /// Gives up the transaction, so that nobody waits for its end. If that does not work, whoever begins next does it, or the
    /// broker after its own time-out.
    fn abort(&self) {
        let deadline = Instant::now() + ABORT_PATIENCE;
        loop {
            self.producer.poll(DELIVERY_WAIT);
            let Err(error) = self.producer.abort_transaction(STEP) else { return };
            let may_go_on = matches!(&error, KafkaError::Transaction(inner) if inner.is_retriable());
            if !may_go_on || Instant::now() >= deadline {
                tracing::debug!(%error, topic = self.topic, "transaction not given up");
                return;
            }
        }
    }

    fn failure(&self, action: &str, error: &KafkaError) -> Error {
        let (code, reason) = match error {
            KafkaError::Transaction(inner) => (Some(inner.code()), inner.string()),
            other => (other.rdkafka_error_code(), other.to_string()),
        };
        let trouble = match code {
            Some(RDKafkaErrorCode::OperationTimedOut | RDKafkaErrorCode::MessageTimedOut) => {
                self.producer.context().trouble()
            }
            _ => None,
        };
        let reason = trouble.unwrap_or(reason);
        let advice = code.and_then(way_out).map(|advice| format!("; {advice}")).unwrap_or_default();
        self.error(action, format!("{reason}{advice}"))
    }

    fn error(&self, action: &str, reason: String) -> Error {
        Error::Kafka { action: format!("{action} to {}", self.topic), reason }
    }
}

/// What helps against an error, where it is known.
fn way_out(code: RDKafkaErrorCode) -> Option<&'static str> {
    match code {
        RDKafkaErrorCode::TopicAuthorizationFailed => {
            Some("allow DESCRIBE, READ and WRITE on the topic: its progress is noted there")
        }
        RDKafkaErrorCode::TransactionalIdAuthorizationFailed => {
            Some("allow DESCRIBE and WRITE on the transactional id")
        }
        RDKafkaErrorCode::GroupAuthorizationFailed => Some("allow READ on the group"),
        RDKafkaErrorCode::ClusterAuthorizationFailed => Some("allow IDEMPOTENT_WRITE on the cluster"),
        RDKafkaErrorCode::InvalidRecord => Some("a compacted topic takes no record without a key"),
        RDKafkaErrorCode::Fenced
        | RDKafkaErrorCode::ProducerFenced
        | RDKafkaErrorCode::InvalidProducerEpoch => {
            Some("another process sends under the same name, or the broker gave up the transaction")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{
        kafka::{EmbeddedBroker, KafkaSource},
        source::{Source, SourceEvent},
    };

    fn record(number: u32) -> OutgoingRecord {
        OutgoingRecord {
            key: (!number.is_multiple_of(3)).then(|| number.to_le_bytes().to_vec()),
            payload: (!number.is_multiple_of(5)).then(|| vec![b'x'; number as usize]),
            timestamp_ms: Some(1_700_000_000_000 + i64::from(number)),
            headers: vec![("n".into(), Some(number.to_string().into_bytes())), ("empty".into(), None)],
        }
    }

    fn producer(broker: &EmbeddedBroker) -> TransactionalProducer {
        let config = KafkaConfig::new([broker.bootstrap_servers()], "t");
        TransactionalProducer::start(&config, "dead", "t.d", false).unwrap()
    }

    /// The records of `topic` so far, by their partitions.
    async fn read(broker: &EmbeddedBroker, partitions: i32) -> Vec<OutgoingRecord> {
        let mut config = KafkaConfig::new([broker.bootstrap_servers()], "reader");
        config.keeps_headers = Some(Arc::new(|_: &str| true));
        let all = (0..partitions).map(|partition| (TopicPartition::new("dead", partition), 0));
        let mut source = KafkaSource::start(&config, all.collect()).unwrap();
        let (mut records, mut ended) = (Vec::new(), BTreeMap::new());
        while ended.len() < partitions as usize {
            match source.next().await.unwrap() {
                SourceEvent::Chunk(chunk) => {
                    for index in 0..chunk.len() {
                        let headers = chunk.headers(index).unwrap().into_iter();
                        records.push(OutgoingRecord {
                            key: chunk.key(index).map(<[u8]>::to_vec),
                            payload: chunk.payload(index).map(<[u8]>::to_vec),
                            timestamp_ms: chunk.timestamps_ms()[index],
                            headers: headers
                                .map(|(key, value)| (key.to_owned(), value.map(<[u8]>::to_vec)))
                                .collect(),
                        });
                    }
                }
                SourceEvent::EndOfPartition { topic_partition, next_offset } => {
                    ended.insert(topic_partition, next_offset);
                }
                SourceEvent::Failed(error) => panic!("{error}"),
            }
        }
        Box::new(source).close().await;
        records
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn records_arrive_as_they_are_transaction_by_transaction() {
        let broker = EmbeddedBroker::start(&[("dead", 3)]).unwrap();
        let producer = producer(&broker);
        assert_eq!(producer.begin().await.unwrap(), None);
        let records: Vec<OutgoingRecord> = (1..200).map(record).collect();
        for (part, next) in records.chunks(70).zip(1..) {
            let progress = Progress { next, note: "row 5".into() };
            assert_eq!(producer.send(part.to_vec(), progress).await.unwrap(), Sent::Stored);
        }
        // Progress may be noted without a record.
        let progress = Progress { next: 9, note: "row 0".into() };
        assert_eq!(producer.send(Vec::new(), progress).await.unwrap(), Sent::Stored);
        producer.close().await;
        let mut found = read(&broker, 3).await;
        found.sort_by_key(|record| record.timestamp_ms);
        assert_eq!(found, records);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_under_way_while_the_brokers_are_away_ends_when_nobody_wants_it_any_more() {
        let broker = EmbeddedBroker::start(&[("dead", 1)]).unwrap();
        broker.set_down(true).unwrap();
        let waiting = Arc::new(producer(&broker));
        let begun = tokio::spawn({
            let waiting = Arc::clone(&waiting);
            async move { waiting.begin().await }
        });
        waiting.stopping.store(true, Relaxed);
        let error = begun.await.unwrap().unwrap_err();
        assert!(error.to_string().contains("begin to send to dead"), "{error}");
    }

    #[test]
    fn a_batch_that_is_too_large_or_of_another_time_is_refused_and_nothing_else_is() {
        for one_by_one in [false, true] {
            let of = |code| Refusal::of(code, one_by_one);
            assert_eq!(of(RDKafkaErrorCode::MessageSizeTooLarge), Some(Refusal::TooLarge));
            assert_eq!(of(RDKafkaErrorCode::InvalidTimestamp), Some(Refusal::Timestamp));
            assert_eq!(of(RDKafkaErrorCode::InvalidRecord), (!one_by_one).then_some(Refusal::InBatch));
            assert_eq!(of(RDKafkaErrorCode::TopicAuthorizationFailed), None);
        }
    }
}
