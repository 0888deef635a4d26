//! Kafka records on their way to a decoder: raw bytes, many records in one allocation.
//!
//! A [`RecordChunk`] holds consecutive records of **one** topic partition in offset order. Payloads and keys lie
//! end to end in two buffers, so that polling copies each byte once and allocates nothing per record, and a
//! decoder can walk a chunk without touching anything else. A tombstone (no payload) and an empty payload are
//! different things and stay different here.
//!
//! Headers are kept only in chunks that are made [for them](RecordChunk::with_headers): where nobody asks for them,
//! they are not even copied out of Kafka's client.

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

/// The headers of one record: names and values, in Kafka's order. A name may be there more than once.
pub type RecordHeaders<'a> = Vec<(&'a str, Option<&'a [u8]>)>;

/// What a header counts for beside its bytes: many empty ones must fill a chunk too.
const HEADER_BYTES: usize = 32;

/// Headers of records, end to end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Headers {
    names: String,
    /// End of each name in `names`.
    name_ends: Vec<usize>,
    /// The value of each header.
    values: Slices,
    /// For each record, the end of its headers among all headers.
    ends: Vec<usize>,
    /// For each record, whether its headers could be read.
    readable: Vec<bool>,
}

impl Headers {
    /// Appends a record.
    fn push<'h, N: AsRef<str>>(&mut self, headers: Option<impl IntoIterator<Item = (N, Option<&'h [u8]>)>>) {
        self.readable.push(headers.is_some());
        for (name, value) in headers.into_iter().flatten() {
            self.names.push_str(name.as_ref());
            self.name_ends.push(self.names.len());
            self.values.push(value);
        }
        self.ends.push(self.name_ends.len());
    }

    /// Keeps the first `records` records.
    fn truncate(&mut self, records: usize) {
        self.ends.truncate(records);
        self.readable.truncate(records);
        let headers = self.ends.last().copied().unwrap_or_default();
        self.name_ends.truncate(headers);
        self.values.truncate(headers);
        self.names.truncate(self.name_ends.last().copied().unwrap_or_default());
    }

    fn start_of(&self, record: usize) -> usize {
        if record == 0 { 0 } else { self.ends[record - 1] }
    }

    fn get(&self, record: usize) -> Option<RecordHeaders<'_>> {
        let name = |header: usize| {
            let start = if header == 0 { 0 } else { self.name_ends[header - 1] };
            &self.names[start..self.name_ends[header]]
        };
        let headers = self.start_of(record)..self.ends[record];
        self.readable[record].then(|| headers.map(|header| (name(header), self.values.get(header))).collect())
    }

    /// Bytes of the names and values of the headers of one record.
    fn bytes_of(&self, record: usize) -> usize {
        let (first, end) = (self.start_of(record), self.ends[record]);
        let below = |ends: &[usize], header: usize| if header == 0 { 0 } else { ends[header - 1] };
        let between = |ends: &[usize]| below(ends, end) - below(ends, first);
        between(&self.name_ends) + between(&self.values.ends)
    }

    fn bytes(&self) -> usize {
        self.names.len() + self.values.bytes.len() + self.name_ends.len() * HEADER_BYTES
    }

    fn memory_bytes(&self) -> usize {
        let per_header = 2 * size_of::<usize>() + 1;
        let per_record = size_of::<usize>() + 1;
        self.names.capacity()
            + self.values.bytes.capacity()
            + self.name_ends.capacity() * per_header
            + self.ends.capacity() * per_record
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
    /// `None` where nobody asked for them. Boxed, because that is nearly everywhere.
    headers: Option<Box<Headers>>,
}

impl RecordChunk {
    /// An empty chunk of `topic_partition`, whose records keep no headers.
    pub fn new(topic_partition: TopicPartition) -> Self {
        Self {
            topic_partition,
            offsets: Vec::new(),
            timestamps_ms: Vec::new(),
            keys: Slices::default(),
            payloads: Slices::default(),
            headers: None,
        }
    }

    /// An empty chunk of `topic_partition`, whose records keep their headers.
    pub fn with_headers(topic_partition: TopicPartition) -> Self {
        Self { headers: Some(Box::default()), ..Self::new(topic_partition) }
    }

    /// An empty chunk of the same partition, whose records keep as much.
    pub fn emptied(&self) -> Self {
        let headers = self.headers.as_ref().map(|_| Box::default());
        Self { headers, ..Self::new(self.topic_partition.clone()) }
    }

    /// Appends a record. In a chunk [for headers](Self::with_headers) it is one that has none. `timestamp_ms` is milliseconds since the Unix epoch, `None` where the record has none;
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
        self.push_record(offset, timestamp_ms, key, payload);
        if let Some(headers) = &mut self.headers {
            headers.push(Some([("", None); 0]));
        }
    }

    /// The same for a record with `headers`, in their order; `None` says that they are there and could not be read.
    ///
    /// # Panics
    /// Also if the chunk is not [for headers](Self::with_headers): they would be lost.
    pub fn push_with_headers<'h, N: AsRef<str>>(
        &mut self,
        offset: i64,
        timestamp_ms: Option<i64>,
        key: Option<&[u8]>,
        payload: Option<&[u8]>,
        headers: Option<impl IntoIterator<Item = (N, Option<&'h [u8]>)>>,
    ) {
        self.push_record(offset, timestamp_ms, key, payload);
        self.headers.as_mut().expect("the chunk is one for headers").push(headers);
    }

    fn push_record(
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
        if let Some(headers) = &mut self.headers {
            headers.truncate(len);
        }
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

    /// Bytes of keys and payloads and, where they are kept, of headers, each of which counts for a few bytes more.
    pub fn bytes(&self) -> usize {
        let headers = self.headers.as_ref().map_or(0, |headers| headers.bytes());
        self.payloads.bytes.len() + self.keys.bytes.len() + headers
    }

    /// Bytes of heap this chunk holds on to, for memory accounting.
    pub fn memory_bytes(&self) -> usize {
        let per_record = 2 * (size_of::<usize>() + 1) + size_of::<i64>() + size_of::<Option<i64>>();
        let headers = self.headers.as_ref().map_or(0, |headers| headers.memory_bytes());
        self.payloads.bytes.capacity()
            + self.keys.bytes.capacity()
            + self.offsets.capacity() * per_record
            + headers
    }

    /// Whether records keep their headers.
    pub fn has_headers(&self) -> bool {
        self.headers.is_some()
    }

    /// The headers of record `index`, in Kafka's order; `None` where they are not kept or could not be read.
    pub fn headers(&self, index: usize) -> Option<RecordHeaders<'_>> {
        self.headers.as_ref()?.get(index)
    }

    /// Whether the headers of record `index` are kept and could be read.
    pub fn has_headers_of(&self, index: usize) -> bool {
        self.headers.as_ref().is_some_and(|headers| headers.readable[index])
    }

    /// Bytes of the names and values of the headers of record `index`, as far as they are kept.
    pub fn header_bytes(&self, index: usize) -> usize {
        self.headers.as_ref().map_or(0, |headers| headers.bytes_of(index))
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
    fn headers_are_kept_where_they_are_asked_for() {
        let partition = TopicPartition::new("t", 0);
        let mut chunk = RecordChunk::with_headers(partition.clone());
        let all = [("b", Some(&b"1"[..])), ("a", None), ("b", Some(b"")), ("", Some(b"x"))];
        chunk.push_with_headers(3, None, None, Some(b"p"), Some(all));
        chunk.push(4, None, None, None);
        chunk.push_with_headers(5, None, None, None, None::<[(&str, Option<&[u8]>); 0]>);
        chunk.push_with_headers(6, None, None, None, Some([("ż", Some(&b"\xff"[..]))]));
        assert_eq!(chunk.headers(0), Some(all.to_vec()));
        assert_eq!(chunk.headers(1), Some(vec![]));
        assert_eq!(chunk.headers(2), None);
        assert_eq!([0, 1, 2, 3].map(|record| chunk.has_headers_of(record)), [true, true, false, true]);
        assert_eq!(chunk.headers(3), Some(vec![("ż", Some(&b"\xff"[..]))]));
        assert_eq!([0, 1, 2, 3].map(|record| chunk.header_bytes(record)), [5, 0, 0, 3]);
        assert_eq!(chunk.bytes(), 1 + 8 + 5 * HEADER_BYTES);
        assert!(chunk.emptied().has_headers() && chunk.emptied().is_empty());
        chunk.truncate(9);
        assert_eq!(chunk.len(), 4);
        chunk.truncate(2);
        let mut two = chunk.emptied();
        two.push_with_headers(3, None, None, Some(b"p"), Some(all));
        two.push(4, None, None, None);
        assert_eq!(chunk, two);
        chunk.truncate(0);
        assert_eq!(chunk, chunk.emptied());

        let mut without = RecordChunk::new(partition);
        without.push(3, None, None, Some(b"p"));
        assert!(!without.has_headers() && !without.emptied().has_headers());
        assert_eq!((without.headers(0), without.header_bytes(0), without.bytes()), (None, 0, 1));
    }

    #[test]
    #[should_panic(expected = "for headers")]
    fn headers_are_not_lost_unnoticed() {
        let mut chunk = RecordChunk::new(TopicPartition::new("t", 0));
        chunk.push_with_headers(3, None, None, None, Some([("a", None)]));
    }

    #[test]
    #[should_panic(expected = "go backwards")]
    fn offsets_must_rise() {
        let mut chunk = RecordChunk::new(TopicPartition::new("t", 0));
        chunk.push(5, None, None, None);
        chunk.push(5, None, None, None);
    }
}
