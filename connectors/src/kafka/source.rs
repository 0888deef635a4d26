//! The Kafka [`Source`]: one thread that polls librdkafka, and nothing else.
//!
//! ```text
//! librdkafka's queue ──poll thread──▶ open chunk per partition ──full, lingered or end──▶ events ──▶ next()
//!        ▲ bounded                          └────────── bytes held ≤ budget ◀── chunk dropped ──────────┘
//! ```
//!
//! Partitions are assigned once, with explicit positions; nothing is committed to go by later. The thread copies each
//! record once into the chunk of its partition and gives the chunk away when it is full, when its first record has
//! waited for the linger, or when the partition has ended for now. It never waits for commits or decoding: while the
//! consumer holds more bytes than the budget it stops taking records, librdkafka's bounded queue fills, and
//! librdkafka stops fetching. Connections stay up meanwhile; there is no group that could take partitions away.
//! Headers are copied where somebody asks for them ([`KafkaConfig::keeps_headers`]); elsewhere librdkafka does not even
//! take them apart.
//!
//! A new assignment starts a new client, with a thread and events of its own, so that nothing fetched for the old one
//! can appear in the new one. Giving the same client its partitions anew is not enough: librdkafka detaches a
//! partition from its queue some time *after* `unassign` has returned, and if it has been attached again by then,
//! its records arrive nowhere. The old client leaves in the background; so does the last one when the brokers are away,
//! because librdkafka waits for them up to a minute.
//!
//! Trouble that librdkafka gets over by itself (brokers down, leaders moving, a new partition that some brokers do not
//! know yet) only shows in [`SourceStatus::connected`]. Anything that would lose or hide records ends the reading: a position that the
//! broker does not have, a partition that is gone, denied access, a batch whose checksum is wrong. A whole topic that is
//! deleted while it is read is not noticed here: librdkafka only logs that. Whoever reads asks for the topics'
//! descriptions from time to time ([`KafkaCluster`](super::KafkaCluster)), which also shows a topic created anew.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, Thread},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use isobar_schemas::{RecordChunk, TopicPartition};
use rdkafka::{
    Offset, TopicPartitionList,
    bindings::rd_kafka_resp_err_t as Code,
    consumer::{BaseConsumer, CommitMode, Consumer},
    error::KafkaError,
};
use tokio::sync::{
    mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    oneshot,
};

use super::{
    config::{KafkaConfig, TopicFilter},
    context::SourceContext,
    ffi::{self, Message, RecordQueue},
};
use crate::{
    Error,
    source::{PartitionStatus, Source, SourceChunk, SourceEvent, SourceStatus},
};

/// Longest wait for records when none are there. Bounds how late a stop or a new assignment is noticed.
const IDLE_WAIT: Duration = Duration::from_millis(50);
/// How often errors, statistics and commit results are served.
const SERVE_INTERVAL: Duration = Duration::from_millis(20);
/// How often positions and ends of partitions are published.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);
/// How long a failing source asks the broker what it still has, for the message.
const EXPLAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// How long [`close`](Source::close) waits for the client to leave.
const CLOSE_PATIENCE: Duration = Duration::from_secs(3);

/// Reads assigned partitions from Kafka.
pub struct KafkaSource {
    config: KafkaConfig,
    status: Arc<SourceStatus>,
    reader: Reader,
}

impl KafkaSource {
    /// Starts to read `assignment`, each partition at the given next offset. Connects in the background: brokers that
    /// are away show in the status, not here.
    pub fn start(config: &KafkaConfig, assignment: Vec<(TopicPartition, i64)>) -> Result<Self, Error> {
        let status = Arc::new(SourceStatus::default());
        let reader = Reader::start(config, &status, assignment)?;
        Ok(Self { config: config.clone(), status, reader })
    }
}

#[async_trait]
impl Source for KafkaSource {
    async fn next(&mut self) -> Option<SourceEvent> {
        self.reader.events.recv().await
    }

    fn reassign(&mut self, positions: Vec<(TopicPartition, i64)>) {
        let started = Reader::start(&self.config, &self.status, positions);
        self.reader = started.unwrap_or_else(Reader::failed);
    }

    fn report_progress(&self, positions: &[(TopicPartition, i64)]) {
        let Some(consumer) = self.reader.consumer.upgrade() else { return };
        let reported = position_list(positions).and_then(|list| consumer.commit(&list, CommitMode::Async));
        if let Err(error) = reported {
            self.status.progress_failures.fetch_add(1, Relaxed);
            tracing::debug!(%error, "progress not reported");
        }
    }

    fn status(&self) -> Arc<SourceStatus> {
        Arc::clone(&self.status)
    }

    async fn close(mut self: Box<Self>) {
        self.reader.stop();
        let Some(gone) = self.reader.gone.take() else { return };
        match tokio::time::timeout(CLOSE_PATIENCE, gone).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => tracing::error!("the kafka poll thread panicked"),
            Err(_) => tracing::debug!("the kafka client is still leaving: the brokers do not answer"),
        }
    }
}

/// One client and the thread that polls it. Dropping it stops both, without waiting for them.
struct Reader {
    /// Owned by the thread alone, because dropping the last handle waits for the brokers.
    consumer: Weak<BaseConsumer<SourceContext>>,
    events: UnboundedReceiver<SourceEvent>,
    stopping: Arc<AtomicBool>,
    thread: Option<Thread>,
    /// Told when the client has left.
    gone: Option<oneshot::Receiver<()>>,
}

impl Reader {
    fn start(
        config: &KafkaConfig,
        status: &Arc<SourceStatus>,
        assignment: Vec<(TopicPartition, i64)>,
    ) -> Result<Self, Error> {
        let context = SourceContext::new(config.brokers(), Arc::clone(status), config.tokens.clone());
        let client = config.consumer()?.create_with_context(context);
        let consumer: Arc<BaseConsumer<SourceContext>> =
            Arc::new(client.map_err(|error| client_error(&error))?);
        let weak = Arc::downgrade(&consumer);
        let (sender, events) = unbounded_channel();
        let stopping = Arc::new(AtomicBool::new(false));
        let poller = Poller {
            consumer,
            queue: None,
            status: Arc::clone(status),
            stopping: Arc::clone(&stopping),
            events: sender,
            limits: Limits::of(config),
            keeps_headers: config.keeps_headers.clone(),
            unknown_until: Instant::now() + config.unknown_patience,
            partitions: Vec::new(),
            index: HashMap::new(),
            last: None,
            open_bytes: 0,
            due: None,
            served: None,
            published: None,
        };
        let (left, gone) = oneshot::channel();
        let polling = thread::Builder::new().name("kafka-poll".into()).spawn(move || {
            poller.run(&assignment);
            // Nobody waits when the source was dropped without being closed.
            let _ = left.send(());
        });
        let handle = polling.map_err(|error| Error::Kafka {
            action: "start the poll thread".into(),
            reason: error.to_string(),
        })?;
        let thread = handle.thread().clone();
        status.budget.wakes(thread.clone());
        Ok(Self { consumer: weak, events, stopping, thread: Some(thread), gone: Some(gone) })
    }

    /// A reader that has failed before it began.
    fn failed(error: Error) -> Self {
        let (sender, events) = unbounded_channel();
        // The receiver is right here.
        let _ = sender.send(SourceEvent::Failed(error));
        Self { consumer: Weak::new(), events, stopping: Arc::default(), thread: None, gone: None }
    }

    fn stop(&self) {
        self.stopping.store(true, Relaxed);
        if let Some(thread) = &self.thread {
            thread.unpark();
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Bounds on chunks and on what is held.
struct Limits {
    chunk_records_max: usize,
    chunk_bytes_max: usize,
    linger: Duration,
    /// Bytes in open chunks and in chunks given away but not dropped, together.
    held_bytes_max: usize,
    /// Bytes in open chunks. With many partitions this is reached long before single chunks are full.
    open_bytes_max: usize,
}

impl Limits {
    fn of(config: &KafkaConfig) -> Self {
        let held_bytes_max = config.chunks_bytes_max();
        Self {
            chunk_records_max: config.chunk_records_max.max(1),
            // Small enough that several chunks are on their way at once.
            chunk_bytes_max: config.chunk_bytes_max.min(held_bytes_max / 8).max(1),
            linger: config.linger,
            held_bytes_max,
            open_bytes_max: held_bytes_max / 4,
        }
    }
}

/// An assigned partition.
struct Partition {
    topic_partition: TopicPartition,
    /// The lowest offset the next record may have.
    next_offset: i64,
    chunk: RecordChunk,
    /// When the first record came into `chunk`.
    opened: Option<Instant>,
    /// Whether a record or the end came: the partition exists.
    is_heard: bool,
    /// Why it is not there, in librdkafka's words, if that was told.
    unknown: Option<String>,
}

/// The state of the poll thread.
struct Poller {
    consumer: Arc<BaseConsumer<SourceContext>>,
    /// `None` after a failure.
    queue: Option<RecordQueue<SourceContext>>,
    status: Arc<SourceStatus>,
    stopping: Arc<AtomicBool>,
    events: UnboundedSender<SourceEvent>,
    limits: Limits,
    /// Of which topics the headers are kept.
    keeps_headers: Option<TopicFilter>,
    /// Until then a partition of which nothing was heard may be unknown.
    unknown_until: Instant,
    partitions: Vec<Partition>,
    /// Topic and partition number to the place in `partitions`.
    index: HashMap<Arc<str>, HashMap<i32, usize>>,
    /// The last look-up: records come in long runs of one partition.
    last: Option<(usize, i32, usize)>,
    /// Bytes in open chunks, roughly.
    open_bytes: usize,
    /// When the first open chunk has lingered enough; possibly too early, never too late.
    due: Option<Instant>,
    served: Option<Instant>,
    published: Option<Instant>,
}

impl Poller {
    fn run(mut self, assignment: &[(TopicPartition, i64)]) {
        self.assign(assignment);
        while !self.stopping.load(Relaxed) {
            let now = Instant::now();
            self.serve(now);
            self.publish(now);
            self.flush_lingered(now);
            self.poll(now);
        }
        self.unassign();
    }

    /// Takes what is there, or waits for it.
    fn poll(&mut self, now: Instant) {
        let has_room = self.has_room();
        let Some(mut queue) = self.queue.take_if(|_| has_room) else {
            // Woken by the consumer that drops a chunk, and by a stop.
            thread::park_timeout(IDLE_WAIT);
            return;
        };
        if queue.is_used_up() {
            let wait = self.due.map_or(IDLE_WAIT, |due| due.saturating_duration_since(now).min(IDLE_WAIT));
            queue.fill(wait);
        }
        let mut failure = None;
        let (mut records, mut bytes) = (0, 0);
        let arrived = Instant::now();
        while failure.is_none() && self.has_room() {
            let Some(message) = queue.next() else { break };
            if message.error_code() == 0 {
                records += 1;
                bytes += self.keep(&message, arrived);
            } else {
                failure = self.handle_event(&message);
            }
        }
        if records > 0 {
            self.status.records.fetch_add(records, Relaxed);
            self.status.bytes.fetch_add(bytes as u64, Relaxed);
            self.consumer.client().context().set_connected(true);
        }
        self.queue = Some(queue);
        if let Some(error) = failure {
            self.fail(error);
        }
    }

    fn has_room(&self) -> bool {
        self.status.budget.bytes_held() + self.open_bytes < self.limits.held_bytes_max
    }

    /// Copies a record into its partition's chunk. Returns its bytes.
    fn keep(&mut self, message: &Message<'_>, arrived: Instant) -> usize {
        let Some(place) = self.place(message) else { return 0 };
        let partition = &mut self.partitions[place];
        let offset = message.offset();
        if offset < partition.next_offset {
            // Fetched for an earlier position; librdkafka sorts these out, so this is a second net.
            return 0;
        }
        let bytes_before = partition.chunk.bytes();
        let (timestamp_ms, key, payload) = (message.timestamp_ms(), message.key(), message.payload());
        if partition.chunk.has_headers() {
            partition.chunk.push_with_headers(offset, timestamp_ms, key, payload, message.headers());
        } else {
            partition.chunk.push(offset, timestamp_ms, key, payload);
        }
        let bytes = partition.chunk.bytes() - bytes_before;
        partition.next_offset = offset + 1;
        partition.is_heard = true;
        if partition.opened.is_none() {
            partition.opened = Some(arrived);
            self.due.get_or_insert(arrived + self.limits.linger);
        }
        self.open_bytes += bytes + RECORD_BYTES;
        let full = partition.chunk.len() >= self.limits.chunk_records_max
            || partition.chunk.bytes() >= self.limits.chunk_bytes_max;
        if full {
            self.flush(place);
        } else if self.open_bytes >= self.limits.open_bytes_max {
            self.flush_largest();
        }
        bytes
    }

    fn place(&mut self, message: &Message<'_>) -> Option<usize> {
        let (topic_handle, number) = (message.topic_handle(), message.partition());
        if let Some((last_handle, last_number, place)) = self.last
            && (last_handle, last_number) == (topic_handle, number)
        {
            return Some(place);
        }
        let place = *self.index.get(message.topic())?.get(&number)?;
        self.last = Some((topic_handle, number, place));
        Some(place)
    }

    /// Deals with what came in a record's place. Returns the error if reading cannot go on.
    fn handle_event(&mut self, message: &Message<'_>) -> Option<Error> {
        let place = self.place(message);
        let code = message.error_code();
        if code == Code::RD_KAFKA_RESP_ERR__PARTITION_EOF as i32 {
            if let Some(place) = place {
                self.end_of_partition(place, message.offset());
            }
            return None;
        }
        if is_transient(code) {
            tracing::debug!(code, "kafka error, librdkafka goes on by itself: {}", message.error_text());
            return None;
        }
        let Some(place) = place else {
            return Some(Error::Kafka { action: "read from kafka".into(), reason: message.error_text() });
        };
        let partition = &mut self.partitions[place];
        if is_gone(code) && !partition.is_heard && Instant::now() < self.unknown_until {
            // Said once; librdkafka looks for the partition again every ten seconds.
            partition.unknown = Some(message.error_text());
            return None;
        }
        let partition = &self.partitions[place];
        Some(self.partition_error(partition, code, message.error_text()))
    }

    fn end_of_partition(&mut self, place: usize, next_offset: i64) {
        self.flush(place);
        let partition = &mut self.partitions[place];
        partition.is_heard = true;
        // Above the last record when the partition ends in aborted or control records.
        partition.next_offset = partition.next_offset.max(next_offset);
        let topic_partition = partition.topic_partition.clone();
        self.send(SourceEvent::EndOfPartition { topic_partition, next_offset });
    }

    fn partition_error(&self, partition: &Partition, code: i32, reason: String) -> Error {
        let (topic_partition, next_offset) = (partition.topic_partition.clone(), partition.next_offset);
        if is_position_lost(code) {
            let (topic, number) = (&*topic_partition.topic, topic_partition.partition);
            let watermarks = self.consumer.fetch_watermarks(topic, number, EXPLAIN_TIMEOUT).ok();
            let (log_start, log_end) = watermarks.unzip();
            Error::PositionLost { topic_partition, next_offset, log_start, log_end }
        } else if is_gone(code) {
            Error::PartitionGone { topic_partition, next_offset, reason }
        } else if is_denied(code) {
            Error::KafkaDenied { what: topic_partition.to_string(), reason }
        } else {
            Error::Kafka { action: format!("read {topic_partition} at offset {next_offset}"), reason }
        }
    }

    /// Gives away the chunk of a partition, if it has records.
    fn flush(&mut self, place: usize) {
        let partition = &mut self.partitions[place];
        if partition.opened.take().is_none() {
            return;
        }
        let empty = partition.chunk.emptied();
        let chunk = std::mem::replace(&mut partition.chunk, empty);
        self.open_bytes -= chunk.bytes() + chunk.len() * RECORD_BYTES;
        self.send(SourceEvent::Chunk(SourceChunk::metered(chunk, &self.status.budget)));
    }

    fn flush_largest(&mut self) {
        let largest = (0..self.partitions.len()).max_by_key(|place| self.partitions[*place].chunk.bytes());
        if let Some(place) = largest {
            self.flush(place);
        }
    }

    /// Gives away the chunks that have waited long enough.
    fn flush_lingered(&mut self, now: Instant) {
        if self.due.is_none_or(|due| now < due) {
            return;
        }
        self.due = None;
        for place in 0..self.partitions.len() {
            let Some(opened) = self.partitions[place].opened else { continue };
            let due = opened + self.limits.linger;
            if due <= now {
                self.flush(place);
            } else {
                self.due = Some(self.due.map_or(due, |other| other.min(due)));
            }
        }
    }

    fn send(&self, event: SourceEvent) {
        // Nobody listens any more only while the source is being dropped.
        let _ = self.events.send(event);
    }

    /// Serves errors, statistics and commit results.
    fn serve(&mut self, now: Instant) {
        if self.served.is_some_and(|served| now < served + SERVE_INTERVAL) {
            return;
        }
        self.served = Some(now);
        // Each call serves one event; the bound keeps a flood of them from holding up the records.
        for _ in 0..100 {
            match self.consumer.poll(Duration::ZERO) {
                None => break,
                Some(Ok(message)) => {
                    drop(message);
                    self.fail(Error::Kafka {
                        action: "read from kafka".into(),
                        reason: "a record came past its partition's queue; this is a bug".into(),
                    });
                    return;
                }
                // Classified by the context's error callback, which has been called for the same event.
                Some(Err(error)) => tracing::debug!(%error, "librdkafka event"),
            }
        }
        if let Some(error) = self.consumer.client().context().take_fatal() {
            self.fail(error);
        }
    }

    /// Publishes where each partition stands.
    fn publish(&mut self, now: Instant) {
        if self.published.is_some_and(|published| now < published + STATUS_INTERVAL) {
            return;
        }
        self.published = Some(now);
        if now >= self.unknown_until {
            self.refuse_unknown();
        }
        let partitions = self.partitions.iter().map(|partition| {
            let (log_start, log_end) =
                ffi::cached_watermarks(self.consumer.client(), &partition.topic_partition);
            let next_offset = partition.next_offset;
            (partition.topic_partition.clone(), PartitionStatus { next_offset, log_start, log_end })
        });
        self.status.set_partitions(partitions.collect::<BTreeMap<_, _>>());
    }

    /// A partition that was not there and of which nothing was heard since is gone.
    fn refuse_unknown(&mut self) {
        let gone = self.partitions.iter().filter(|partition| !partition.is_heard).find_map(|partition| {
            let reason = partition.unknown.clone()?;
            let (topic_partition, next_offset) = (partition.topic_partition.clone(), partition.next_offset);
            Some(Error::PartitionGone { topic_partition, next_offset, reason })
        });
        if let Some(error) = gone {
            self.fail(error);
        }
    }

    /// Gives up reading: hands out what is complete, then the error.
    fn fail(&mut self, error: Error) {
        for place in 0..self.partitions.len() {
            self.flush(place);
        }
        self.send(SourceEvent::Failed(error));
        self.unassign();
    }

    fn unassign(&mut self) {
        if self.queue.is_some()
            && let Err(error) = self.consumer.unassign()
        {
            tracing::warn!(%error, "partitions not released");
        }
        // Only after the partitions are gone, so that nothing is sent to a queue that is not there.
        self.queue = None;
        self.partitions.clear();
        self.index.clear();
        self.last = None;
        self.open_bytes = 0;
        self.due = None;
    }

    fn assign(&mut self, assignment: &[(TopicPartition, i64)]) {
        let queue = RecordQueue::new(Arc::clone(&self.consumer));
        for (topic_partition, next_offset) in assignment {
            if !queue.attach(topic_partition) {
                let reason = "the name is not a topic's".into();
                return self.fail(Error::Kafka { action: format!("assign {topic_partition}"), reason });
            }
            let place = self.partitions.len();
            let numbers = self.index.entry(Arc::clone(&topic_partition.topic)).or_default();
            numbers.insert(topic_partition.partition, place);
            let keeps_headers =
                self.keeps_headers.as_ref().is_some_and(|keeps| keeps(&topic_partition.topic));
            let chunk = if keeps_headers { RecordChunk::with_headers } else { RecordChunk::new };
            self.partitions.push(Partition {
                topic_partition: topic_partition.clone(),
                next_offset: *next_offset,
                chunk: chunk(topic_partition.clone()),
                opened: None,
                is_heard: false,
                unknown: None,
            });
        }
        self.queue = Some(queue);
        let assigned = position_list(assignment).and_then(|list| self.consumer.assign(&list));
        if let Err(error) = assigned {
            self.fail(Error::Kafka { action: "assign partitions".into(), reason: error.to_string() });
        }
    }
}

/// What a record costs in a chunk beside its key, payload and headers.
const RECORD_BYTES: usize = 48;

fn position_list(positions: &[(TopicPartition, i64)]) -> Result<TopicPartitionList, KafkaError> {
    let mut list = TopicPartitionList::with_capacity(positions.len());
    for (TopicPartition { topic, partition }, next_offset) in positions {
        list.add_partition_offset(topic, *partition, Offset::Offset(*next_offset))?;
    }
    Ok(list)
}

/// A client cannot be made. librdkafka begins its account with the property that it is about, if it is about one: names are
/// checked before, so what is left are mostly files of certificates and keys.
pub(super) fn client_error(error: &KafkaError) -> Error {
    if let KafkaError::ClientCreation(reason) = error {
        let option = reason.split([' ', ':']).next().unwrap_or_default();
        if option.contains('.') {
            let problem =
                format!("{reason}; if it names a file, check that it is there, can be read, and is in PEM");
            return Error::KafkaOption { option: option.to_owned(), problem };
        }
    }
    Error::Kafka { action: "create a kafka client".into(), reason: error.to_string() }
}

fn is_position_lost(code: i32) -> bool {
    [
        Code::RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET,
        Code::RD_KAFKA_RESP_ERR__LOG_TRUNCATION,
        Code::RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE,
    ]
    .iter()
    .any(|known| *known as i32 == code)
}

pub(super) fn is_gone(code: i32) -> bool {
    [
        Code::RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION,
        Code::RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC,
        Code::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART,
        Code::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_ID,
    ]
    .iter()
    .any(|known| *known as i32 == code)
}

pub(super) fn is_denied(code: i32) -> bool {
    [
        Code::RD_KAFKA_RESP_ERR__AUTHENTICATION,
        Code::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED,
        Code::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED,
        Code::RD_KAFKA_RESP_ERR_SASL_AUTHENTICATION_FAILED,
    ]
    .iter()
    .any(|known| *known as i32 == code)
}

/// Errors of a partition that pass: its leader moves or is away. Whatever is not listed stops the source, because
/// librdkafka may go on behind a batch it could not read.
fn is_transient(code: i32) -> bool {
    [
        Code::RD_KAFKA_RESP_ERR__TRANSPORT,
        Code::RD_KAFKA_RESP_ERR__RESOLVE,
        Code::RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN,
        Code::RD_KAFKA_RESP_ERR__TIMED_OUT,
        Code::RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE,
        Code::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
        Code::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
        Code::RD_KAFKA_RESP_ERR_BROKER_NOT_AVAILABLE,
        Code::RD_KAFKA_RESP_ERR_REPLICA_NOT_AVAILABLE,
        Code::RD_KAFKA_RESP_ERR_NETWORK_EXCEPTION,
        Code::RD_KAFKA_RESP_ERR_KAFKA_STORAGE_ERROR,
        Code::RD_KAFKA_RESP_ERR_FENCED_LEADER_EPOCH,
        Code::RD_KAFKA_RESP_ERR_UNKNOWN_LEADER_EPOCH,
        Code::RD_KAFKA_RESP_ERR_OFFSET_NOT_AVAILABLE,
    ]
    .iter()
    .any(|known| *known as i32 == code)
}

#[cfg(test)]
mod tests;
