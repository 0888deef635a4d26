//! Kafka records on their way to a decoder: raw bytes, many records in one allocation.
//!
//! A [`RecordChunk`] holds consecutive records of **one** topic partition in offset order. Payloads and keys lie
//! end to end in two buffers, so that polling copies each byte once and allocates nothing per record, and a
//! decoder can walk a chunk without touching anything else. A tombstone (no payload) and an empty payload are
//! different things and stay different here.

use std::sync::Arc;

/// A topic partition, ordered by topic name, then by partition number.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    /// The topic's name.
    pub topic: Arc<str>,
    /// The partition's number, from 0.
    pub partition: i32,
}

impl TopicPartition {
    /// Names partition `partition` of `topic`.
    pub fn new(topic: impl Into<Arc<str>>, partition: i32) -> Self {
        Self { topic: topic.into(), partition }
    }
}

impl std::fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}[{}]", self.topic, self.partition)
    }
}

/// Byte strings end to end, each present or absent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Slices {
    bytes: Vec<u8>,
    /// End of each slice in `bytes`; an absent slice ends where it starts.
    ends: Vec<usize>,
    present: Vec<bool>,
}

impl Slices {
    fn push(&mut self, value: Option<&[u8]>) {
        self.bytes.extend_from_slice(value.unwrap_or_default());
        self.ends.push(self.bytes.len());
        self.present.push(value.is_some());
    }

    fn truncate(&mut self, len: usize) {
        self.ends.truncate(len);
        self.present.truncate(len);
        self.bytes.truncate(self.ends.last().copied().unwrap_or_default());
    }

    fn get(&self, index: usize) -> Option<&[u8]> {
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        self.present[index].then(|| &self.bytes[start..self.ends[index]])
    }
}

/// Consecutive records of one topic partition, in offset order. Offsets rise but need not be dense: aborted,
/// compacted and control records leave gaps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordChunk {
    topic_partition: TopicPartition,
    offsets: Vec<i64>,
    timestamps_ms: Vec<Option<i64>>,
    keys: Slices,
    payloads: Slices,
}

impl RecordChunk {
    /// An empty chunk of `topic_partition`.
    pub fn new(topic_partition: TopicPartition) -> Self {
        Self {
            topic_partition,
            offsets: Vec::new(),
            timestamps_ms: Vec::new(),
            keys: Slices::default(),
            payloads: Slices::default(),
        }
    }

    /// Appends a record. `timestamp_ms` is milliseconds since the Unix epoch, `None` where the record has none;
    /// a `None` payload is a tombstone.
    ///
    /// # Panics
    /// If `offset` is not above the last one: records of a partition arrive in order, anything else is our bug.
    pub fn push(
        &mut self,
        offset: i64,
        timestamp_ms: Option<i64>,
        key: Option<&[u8]>,
        payload: Option<&[u8]>,
    ) {
        assert!(
            self.offsets.last().is_none_or(|last| *last < offset),
            "offsets of {} go backwards",
            self.topic_partition
        );
        self.offsets.push(offset);
        self.timestamps_ms.push(timestamp_ms);
        self.keys.push(key);
        self.payloads.push(payload);
    }

    /// Keeps the first `len` records.
    pub fn truncate(&mut self, len: usize) {
        self.offsets.truncate(len);
        self.timestamps_ms.truncate(len);
        self.keys.truncate(len);
        self.payloads.truncate(len);
    }

    /// The partition all records are of.
    pub fn topic_partition(&self) -> &TopicPartition {
        &self.topic_partition
    }

    /// Number of records.
    pub fn len(&self) -> usize {
        self.offsets.len()
    }

    /// Whether there is no record.
    pub fn is_empty(&self) -> bool {
        self.offsets.is_empty()
    }

    /// Bytes of keys and payloads.
    pub fn bytes(&self) -> usize {
        self.payloads.bytes.len() + self.keys.bytes.len()
    }

    /// Bytes of heap this chunk holds on to, for memory accounting.
    pub fn memory_bytes(&self) -> usize {
        let per_record = 2 * (size_of::<usize>() + 1) + size_of::<i64>() + size_of::<Option<i64>>();
        self.payloads.bytes.capacity() + self.keys.bytes.capacity() + self.offsets.capacity() * per_record
    }

    /// The offset of each record, rising.
    pub fn offsets(&self) -> &[i64] {
        &self.offsets
    }

    /// The timestamp of each record: milliseconds since the Unix epoch.
    pub fn timestamps_ms(&self) -> &[Option<i64>] {
        &self.timestamps_ms
    }

    /// The key of record `index`, `None` where it has none.
    pub fn key(&self, index: usize) -> Option<&[u8]> {
        self.keys.get(index)
    }

    /// The payload of record `index`, `None` for a tombstone.
    pub fn payload(&self, index: usize) -> Option<&[u8]> {
        self.payloads.get(index)
    }

    /// All payloads end to end; record `index` ends at `payload_ends()[index]`.
    pub fn payload_bytes(&self) -> &[u8] {
        &self.payloads.bytes
    }

    /// Where each payload ends in [`payload_bytes`](Self::payload_bytes).
    pub fn payload_ends(&self) -> &[usize] {
        &self.payloads.ends
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tombstones_and_empty_payloads_stay_apart() {
        let mut chunk = RecordChunk::new(TopicPartition::new("t", 0));
        chunk.push(5, Some(7), Some(b"k"), None);
        chunk.push(9, None, None, Some(b""));
        chunk.push(10, None, Some(b""), Some(b"xyz"));
        assert_eq!(chunk.payload(0), None);
        assert_eq!(chunk.payload(1), Some(&b""[..]));
        assert_eq!(chunk.payload(2), Some(&b"xyz"[..]));
        assert_eq!(chunk.key(0), Some(&b"k"[..]));
        assert_eq!(chunk.key(1), None);
        assert_eq!(chunk.key(2), Some(&b""[..]));
        assert_eq!(chunk.offsets(), [5, 9, 10]);
        assert_eq!(chunk.bytes(), 4);
    }

    #[test]
    #[should_panic(expected = "go backwards")]
    fn offsets_must_rise() {
        let mut chunk = RecordChunk::new(TopicPartition::new("t", 0));
        chunk.push(5, None, None, None);
        chunk.push(5, None, None, None);
    }
}
