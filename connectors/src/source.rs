//! Where records come from: the one trait the pipeline reads through, and its in-memory twin.
//!
//! A [`Source`] is given partitions **with the positions to start at** and hands out [`SourceEvent`]s: chunks of
//! records, and the news that a partition has no more for now. Positions are always the next offset to read. It
//! reads ahead of its consumer, bounded in bytes: a [`SourceChunk`] counts against the source's budget until it is
//! dropped or [turned into its records](SourceChunk::into_records), and while the budget is used up nothing more is
//! read. A source keeps no progress of its own: after a restart, or a [`reassign`](Source::reassign), it begins
//! where it is told.
//!
//! What a caller may rely on: the records of a partition come in offset order, each once, from the assigned position
//! on, without leaving one out; [`SourceEvent::EndOfPartition`] comes after all records below its `next_offset`.
//! Nothing is said about the order of different partitions. After [`SourceEvent::Failed`] only a `reassign` or the
//! end follows.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Deref,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    thread::Thread,
};

use async_trait::async_trait;
use isobar_schemas::{RecordChunk, TopicPartition};
use tokio::sync::Notify;

use crate::Error;

/// What a source has to tell.
#[derive(Debug)]
#[non_exhaustive]
pub enum SourceEvent {
    /// Records of one partition.
    Chunk(SourceChunk),
    /// Everything that can be read of a partition at the moment has been handed out. It may go on later.
    EndOfPartition {
        /// The partition.
        topic_partition: TopicPartition,
        /// Where it ends: records below this offset have all been handed out.
        next_offset: i64,
    },
    /// Reading cannot go on: data is missing, or access is denied. What the source can get over by itself (a broker
    /// that is away) is not reported.
    Failed(Error),
}

/// Reads records from assigned positions. See the [module](self) for the contract.
#[async_trait]
pub trait Source: Send {
    /// The next event; waits for it. `None` when the source has ended and will say no more. Dropping the future
    /// loses nothing.
    async fn next(&mut self) -> Option<SourceEvent>;

    /// Reads `assignment` from now on, each partition from the given next offset, and nothing else. Events of the
    /// assignment before this one are no longer handed out.
    fn reassign(&mut self, assignment: Vec<(TopicPartition, i64)>);

    /// Tells tools that show lag how far records have been dealt with. Never read back, may fail unnoticed.
    fn report_progress(&self, positions: &[(TopicPartition, i64)]);

    /// Numbers to watch, alive as long as the source.
    fn status(&self) -> Arc<SourceStatus>;

    /// Stops reading and releases everything. What has not been handed out is dropped.
    async fn close(self: Box<Self>);
}

/// Records of one partition, counted against the budget of their source until dropped.
#[derive(Debug)]
pub struct SourceChunk {
    records: RecordChunk,
    /// Held for its `Drop`.
    _held: Option<HeldBytes>,
}

impl SourceChunk {
    /// A chunk that counts against no budget.
    pub fn unmetered(records: RecordChunk) -> Self {
        Self { records, _held: None }
    }

    pub(crate) fn metered(records: RecordChunk, budget: &Arc<Budget>) -> Self {
        let held = budget.hold(records.memory_bytes());
        Self { records, _held: Some(held) }
    }

    /// Keeps the first `len` records. The others count against the budget until the chunk is dropped.
    pub fn truncate(&mut self, len: usize) {
        self.records.truncate(len);
    }

    /// The records, no longer counted.
    pub fn into_records(self) -> RecordChunk {
        self.records
    }
}

impl Deref for SourceChunk {
    type Target = RecordChunk;

    fn deref(&self) -> &RecordChunk {
        &self.records
    }
}

/// Counts the bytes that are on their way to the consumer, and wakes the reading thread when some are released.
#[derive(Debug, Default)]
pub(crate) struct Budget {
    bytes_held: AtomicUsize,
    reader: Mutex<Option<Thread>>,
}

impl Budget {
    /// Names the thread to wake, instead of the one before.
    pub(crate) fn wakes(&self, reader: Thread) {
        *self.reader.lock().unwrap_or_else(PoisonError::into_inner) = Some(reader);
    }

    pub(crate) fn bytes_held(&self) -> usize {
        self.bytes_held.load(Relaxed)
    }

    fn hold(self: &Arc<Self>, bytes: usize) -> HeldBytes {
        self.bytes_held.fetch_add(bytes, Relaxed);
        HeldBytes { bytes, budget: Arc::clone(self) }
    }
}

#[derive(Debug)]
struct HeldBytes {
    bytes: usize,
    budget: Arc<Budget>,
}

impl Drop for HeldBytes {
    fn drop(&mut self) {
        self.budget.bytes_held.fetch_sub(self.bytes, Relaxed);
        if let Some(reader) = &*self.budget.reader.lock().unwrap_or_else(PoisonError::into_inner) {
            reader.unpark();
        }
    }
}

/// Where the source stands in one partition.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PartitionStatus {
    /// The next offset to be fetched and handed out.
    pub next_offset: i64,
    /// The first offset the broker still has, if known: below it, retention has removed the records.
    pub log_start: Option<i64>,
    /// The offset the partition's next record will get, if known. Lag is the distance to it.
    pub log_end: Option<i64>,
}

/// Numbers to watch while a source runs. Written by the source, read by anyone at any time.
#[derive(Debug, Default)]
pub struct SourceStatus {
    pub(crate) connected: AtomicBool,
    pub(crate) records: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) progress_failures: AtomicU64,
    pub(crate) budget: Arc<Budget>,
    partitions: Mutex<BTreeMap<TopicPartition, PartitionStatus>>,
}

impl SourceStatus {
    /// Whether a broker can be reached.
    pub fn connected(&self) -> bool {
        self.connected.load(Relaxed)
    }

    /// Records read since the start, handed out or not.
    pub fn records(&self) -> u64 {
        self.records.load(Relaxed)
    }

    /// Bytes of keys and payloads read since the start.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// Bytes of memory in chunks that are waiting to be taken or have not been dropped.
    pub fn bytes_in_flight(&self) -> usize {
        self.budget.bytes_held()
    }

    /// How many reports of progress did not arrive.
    pub fn progress_failures(&self) -> u64 {
        self.progress_failures.load(Relaxed)
    }

    /// Every assigned partition and where it stands. Up to a second old.
    pub fn partitions(&self) -> BTreeMap<TopicPartition, PartitionStatus> {
        self.lock().clone()
    }

    pub(crate) fn set_partitions(&self, partitions: BTreeMap<TopicPartition, PartitionStatus>) {
        *self.lock() = partitions;
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<TopicPartition, PartitionStatus>> {
        // The map is replaced as a whole, so it is sound even if a holder of the lock has panicked.
        self.partitions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A record of a [`MemoryTopics`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryRecord {
    /// Milliseconds since the Unix epoch.
    pub timestamp_ms: Option<i64>,
    /// The key, if it has one.
    pub key: Option<Vec<u8>>,
    /// The payload; `None` is a tombstone.
    pub payload: Option<Vec<u8>>,
}

/// Topics kept in memory, for tests: append on one side, read through a [`MemorySource`] on the other. Clones share
/// the records.
#[derive(Debug, Clone, Default)]
pub struct MemoryTopics {
    shared: Arc<MemoryShared>,
}

#[derive(Debug, Default)]
struct MemoryShared {
    partitions: Mutex<BTreeMap<TopicPartition, Vec<MemoryRecord>>>,
    appended: Notify,
}

impl MemoryTopics {
    /// Appends `record` and returns its offset.
    pub fn append(&self, topic_partition: &TopicPartition, record: MemoryRecord) -> i64 {
        let mut partitions = self.shared.partitions.lock().unwrap_or_else(PoisonError::into_inner);
        let records = partitions.entry(topic_partition.clone()).or_default();
        records.push(record);
        let offset = records.len() as i64 - 1;
        drop(partitions);
        self.shared.appended.notify_one();
        offset
    }

    /// The next offset of a partition.
    pub fn log_end(&self, topic_partition: &TopicPartition) -> i64 {
        let partitions = self.shared.partitions.lock().unwrap_or_else(PoisonError::into_inner);
        partitions.get(topic_partition).map_or(0, |records| records.len() as i64)
    }

    /// A source that reads these topics in chunks of at most `chunk_records_max` records. One at a time.
    pub fn source(&self, assignment: Vec<(TopicPartition, i64)>, chunk_records_max: usize) -> MemorySource {
        let mut source = MemorySource {
            topics: self.clone(),
            chunk_records_max: chunk_records_max.max(1),
            partitions: VecDeque::new(),
            progress: Mutex::default(),
            status: Arc::default(),
        };
        source.status.connected.store(true, Relaxed);
        source.reassign(assignment);
        source
    }
}

/// Reads [`MemoryTopics`]: takes the partitions in turn, so that the order of events is the same in every run.
#[derive(Debug)]
pub struct MemorySource {
    topics: MemoryTopics,
    chunk_records_max: usize,
    /// Partition, next offset, and the end last announced.
    partitions: VecDeque<(TopicPartition, i64, Option<i64>)>,
    progress: Mutex<BTreeMap<TopicPartition, i64>>,
    status: Arc<SourceStatus>,
}

impl MemorySource {
    /// The positions last reported, by partition.
    pub fn progress(&self) -> BTreeMap<TopicPartition, i64> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn ready(&mut self) -> Option<SourceEvent> {
        for _ in 0..self.partitions.len() {
            self.partitions.rotate_left(1);
            let Some((topic_partition, next_offset, announced)) = self.partitions.back_mut() else { break };
            let partitions = self.topics.shared.partitions.lock().unwrap_or_else(PoisonError::into_inner);
            let records = partitions.get(topic_partition).map_or(&[][..], Vec::as_slice);
            let end = records.len() as i64;
            if !(0..=end).contains(next_offset) {
                let (topic_partition, next_offset) = (topic_partition.clone(), *next_offset);
                self.partitions.clear();
                let (log_start, log_end) = (Some(0), Some(end));
                return Some(SourceEvent::Failed(Error::PositionLost {
                    topic_partition,
                    next_offset,
                    log_start,
                    log_end,
                }));
            }
            if *next_offset < end {
                let mut chunk = RecordChunk::new(topic_partition.clone());
                let unread = records.iter().skip(*next_offset as usize);
                for (record, offset) in unread.take(self.chunk_records_max).zip(*next_offset..) {
                    chunk.push(offset, record.timestamp_ms, record.key.as_deref(), record.payload.as_deref());
                }
                *next_offset += chunk.len() as i64;
                self.status.records.fetch_add(chunk.len() as u64, Relaxed);
                self.status.bytes.fetch_add(chunk.bytes() as u64, Relaxed);
                return Some(SourceEvent::Chunk(SourceChunk::metered(chunk, &self.status.budget)));
            }
            if *announced != Some(end) {
                *announced = Some(end);
                let topic_partition = topic_partition.clone();
                return Some(SourceEvent::EndOfPartition { topic_partition, next_offset: end });
            }
        }
        None
    }
}

#[async_trait]
impl Source for MemorySource {
    async fn next(&mut self) -> Option<SourceEvent> {
        loop {
            if let Some(event) = self.ready() {
                return Some(event);
            }
            // `notify_one` leaves a permit when nobody waits, so an append between the look and the wait is seen.
            self.topics.shared.appended.notified().await;
        }
    }

    fn reassign(&mut self, assignment: Vec<(TopicPartition, i64)>) {
        self.partitions =
            assignment.into_iter().map(|(partition, offset)| (partition, offset, None)).collect();
    }

    fn report_progress(&self, positions: &[(TopicPartition, i64)]) {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).extend(positions.iter().cloned());
    }

    fn status(&self) -> Arc<SourceStatus> {
        Arc::clone(&self.status)
    }

    async fn close(self: Box<Self>) {}
}
