//! What a rejected row is as a message, and how much goes with one transaction.
//!
//! Key, payload, time and headers are those of the record. Where it is from, and why it was rejected, stands in further
//! headers, after its own: whoever looks for the last one of a name finds isobar's. A record that the topic does not take is
//! sent all the same, without what is in the way, and says what is missing: see [`Concessions`].

use std::collections::BTreeMap;

use isobar_connectors::kafka::{OutgoingRecord, Refusal};

use crate::quarantine::StoredRow;

/// Most rows sent with one transaction.
const ROWS_MAX: usize = 10_000;
/// Bytes of rows after which no more go with a transaction; one row may exceed it.
const BYTES_MAX: usize = 4 << 20;

/// Where a row is from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Origin<'a> {
    pub(super) topology: &'a str,
    pub(super) dataset: &'a str,
    /// The version of the table that has it.
    pub(super) version: u64,
}

/// What of a record is sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Extent {
    /// All.
    #[default]
    Whole,
    /// All but the payload.
    WithoutPayload,
    /// Nothing but what isobar says of it.
    NothingOfIt,
}

/// What is left out of one record, because the topic does not take it as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Concession {
    pub(super) extent: Extent,
    /// Whether its time is that of sending.
    pub(super) is_sent_now: bool,
}

impl Concession {
    fn is_any(self) -> bool {
        self != Self::default()
    }
}

/// The message that `row` is, with `concession`.
pub(super) fn letter(origin: Origin<'_>, row: &StoredRow<'_>, concession: Concession) -> OutgoingRecord {
    let Concession { extent, is_sent_now } = concession;
    let is_whole = extent < Extent::NothingOfIt;
    let own = row.headers.iter().filter(|_| is_whole);
    let own = own.map(|(name, value)| ((*name).to_owned(), value.map(<[u8]>::to_vec)));
    let mut headers: Vec<(String, Option<Vec<u8>>)> = own.collect();
    let mut say = |name: &str, value: String| {
        headers.push((format!("isobar.{name}"), Some(value.into_bytes())));
    };
    say("topology", origin.topology.to_owned());
    say("dataset", origin.dataset.to_owned());
    say("version", origin.version.to_string());
    say("reason", row.reason.to_owned());
    if let Some(rule) = row.rule {
        say("rule", rule.to_owned());
    }
    say("message", row.message.to_owned());
    say("topic", row.topic.to_owned());
    say("partition", row.partition.to_string());
    say("offset", row.offset.to_string());
    if let Some(timestamp_ms) = row.timestamp_ms {
        say("timestamp", timestamp_ms.to_string());
    }
    if let Some(payload) = row.payload.filter(|_| extent > Extent::Whole) {
        say("payload_omitted", payload.len().to_string());
    }
    if let Some(key) = row.key.filter(|_| !is_whole) {
        say("key_omitted", key.len().to_string());
    }
    if !is_whole && !row.headers.is_empty() {
        say("headers_omitted", row.headers.len().to_string());
    }
    OutgoingRecord {
        key: row.key.filter(|_| is_whole).map(<[u8]>::to_vec),
        payload: row.payload.filter(|_| extent == Extent::Whole).map(<[u8]>::to_vec),
        // librdkafka takes 0 for "now", and no record is of a time before it.
        timestamp_ms: row.timestamp_ms.filter(|timestamp_ms| *timestamp_ms > 0 && !is_sent_now),
        headers,
    }
}

/// Bytes of a message: of its key, payload and headers.
pub(super) fn bytes_of(record: &OutgoingRecord) -> usize {
    let of = |bytes: &Option<Vec<u8>>| bytes.as_ref().map_or(0, Vec::len);
    let headers = record.headers.iter().map(|(name, value)| name.len() + of(value));
    of(&record.key) + of(&record.payload) + headers.sum::<usize>()
}

/// What was conceded so far, because the topic refused records.
///
/// Kafka refuses batches and seldom says which record it is for. So after a first refusal the rows go one by one, and each
/// that is refused then is sent with less of it. What was learned that way is remembered for the rest of the run: a record that
/// is as large, or as old, is not tried as it is.
#[derive(Debug, Default)]
pub(super) struct Concessions {
    /// Nothing is left out: what the topic does not take blocks what comes after it.
    all_or_nothing: bool,
    one_by_one: bool,
    /// By row of the version that is sent.
    rows: BTreeMap<u64, Concession>,
    /// Messages of this many bytes are too large for the topic, once that is known.
    too_large: Option<usize>,
    /// Times up to this one are too early for the topic.
    too_early_ms: Option<i64>,
    /// Times from this one on are too late for it.
    too_late_ms: Option<i64>,
}

impl Concessions {
    /// Those of messages that are sent as they are, or not at all.
    pub(super) fn none() -> Self {
        Self { all_or_nothing: true, ..Self::default() }
    }

    /// Whether messages may go with less than there is.
    pub(super) fn are_possible(&self) -> bool {
        !self.all_or_nothing
    }

    /// As if nothing had been refused.
    pub(super) fn forget(&mut self) {
        *self = Self { all_or_nothing: self.all_or_nothing, ..Self::default() };
    }

    /// Whether the rows are to go in batches of one.
    pub(super) fn one_by_one(&self) -> bool {
        self.one_by_one
    }

    /// The message for `row`, which is row number `number` of its version, and whether it is all of the record.
    pub(super) fn letter(
        &self,
        origin: Origin<'_>,
        number: u64,
        row: &StoredRow<'_>,
    ) -> (OutgoingRecord, bool) {
        let mut concession = self.rows.get(&number).copied().unwrap_or_default();
        concession.is_sent_now |= row.timestamp_ms.is_some_and(|time_ms| {
            self.too_early_ms.is_some_and(|bound_ms| time_ms <= bound_ms)
                || self.too_late_ms.is_some_and(|bound_ms| time_ms >= bound_ms)
        });
        let mut record = letter(origin, row, concession);
        if concession.extent == Extent::Whole
            && self.too_large.is_some_and(|too_large| bytes_of(&record) >= too_large)
        {
            concession.extent = Extent::WithoutPayload;
            record = letter(origin, row, concession);
        }
        (record, !concession.is_any())
    }

    /// Takes note of what was refused of `slice` at `now_ms`; false if of one of them nothing more can be left out.
    #[must_use]
    pub(super) fn note(
        &mut self,
        slice: &[OutgoingRecord],
        first_row: u64,
        refused: &[(usize, Refusal)],
        now_ms: i64,
    ) -> bool {
        if !self.one_by_one {
            self.one_by_one = true;
            return true;
        }
        if self.all_or_nothing {
            return false;
        }
        let mut is_stuck = refused.is_empty();
        for (place, refusal) in refused {
            let Some(record) = slice.get(*place) else { continue };
            let concession = self.rows.entry(first_row + *place as u64).or_default();
            match (refusal, record.timestamp_ms) {
                (Refusal::Timestamp, Some(time_ms)) => {
                    concession.is_sent_now = true;
                    if time_ms < now_ms {
                        self.too_early_ms = self.too_early_ms.max(Some(time_ms));
                    } else {
                        let known_ms = self.too_late_ms.unwrap_or(time_ms);
                        self.too_late_ms = Some(known_ms.min(time_ms));
                    }
                }
                (Refusal::TooLarge, _) if record.payload.is_some() => {
                    concession.extent = Extent::WithoutPayload;
                    let bytes = bytes_of(record);
                    self.too_large = Some(self.too_large.map_or(bytes, |known| known.min(bytes)));
                }
                (Refusal::TooLarge, _) if concession.extent < Extent::NothingOfIt => {
                    concession.extent = Extent::NothingOfIt;
                }
                (Refusal::Timestamp | Refusal::TooLarge | Refusal::InBatch, _) => is_stuck = true,
            }
        }
        !is_stuck
    }

    /// Everything of the version is sent.
    pub(super) fn version_is_sent(&mut self) {
        self.one_by_one = false;
        self.rows.clear();
    }
}

/// Consecutive rows of one version that go with one transaction.
#[derive(Debug)]
pub(super) struct Slice {
    /// The row of the first one.
    pub(super) first_row: u64,
    pub(super) records: Vec<OutgoingRecord>,
    /// How many of them are all of their record.
    pub(super) whole: u64,
    bytes: usize,
}

impl Slice {
    /// No rows yet; the first one will be `first_row`.
    pub(super) fn from(first_row: u64) -> Self {
        Self { first_row, records: Vec::new(), whole: 0, bytes: 0 }
    }

    /// The row after the last one.
    pub(super) fn next_row(&self) -> u64 {
        self.first_row + self.records.len() as u64
    }

    pub(super) fn push(&mut self, record: OutgoingRecord, is_whole: bool) {
        self.bytes += bytes_of(&record);
        self.whole += u64::from(is_whole);
        self.records.push(record);
    }

    /// Whether no more should be added.
    pub(super) fn is_full(&self) -> bool {
        self.records.len() >= ROWS_MAX || self.bytes >= BYTES_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: i64 = 1_800_000_000_000;
    const ORIGIN: Origin<'_> = Origin { topology: "t", dataset: "d", version: 17 };

    fn row<'r>(payload: Option<&'r [u8]>) -> StoredRow<'r> {
        StoredRow {
            reason: "expectation",
            rule: Some("has_amount"),
            message: "amount IS NOT NULL is false",
            topic: "events",
            partition: 3,
            offset: 41,
            timestamp_ms: Some(1_700_000_000_123),
            key: Some(b"k\xff"),
            payload,
            headers: vec![("source", Some(&b"web"[..])), ("isobar.topic", None)],
        }
    }

    fn header<'r>(record: &'r OutgoingRecord, name: &str) -> Option<&'r str> {
        let found = record.headers.iter().rfind(|(known, _)| known == name)?;
        std::str::from_utf8(found.1.as_ref()?).ok()
    }

    #[test]
    fn a_message_is_the_record_with_where_it_is_from_and_why_it_was_rejected() {
        let row = row(Some(b"{\x00"));
        let record = letter(ORIGIN, &row, Concession::default());
        assert_eq!(record.key.as_deref(), row.key);
        assert_eq!(record.payload.as_deref(), row.payload);
        assert_eq!(record.timestamp_ms, row.timestamp_ms);
        // The record's own come first, so that ours are the last of their name.
        assert_eq!(
            record.headers[..2],
            [("source".to_owned(), Some(b"web".to_vec())), ("isobar.topic".to_owned(), None)]
        );
        let said = [
            ("isobar.topology", "t"),
            ("isobar.dataset", "d"),
            ("isobar.version", "17"),
            ("isobar.reason", "expectation"),
            ("isobar.rule", "has_amount"),
            ("isobar.message", "amount IS NOT NULL is false"),
            ("isobar.topic", "events"),
            ("isobar.partition", "3"),
            ("isobar.offset", "41"),
            ("isobar.timestamp", "1700000000123"),
        ];
        for (name, value) in said {
            assert_eq!(header(&record, name), Some(value), "{name}");
        }
        assert_eq!(record.headers.len(), 2 + said.len());
    }

    #[test]
    fn what_a_record_does_not_have_is_not_there() {
        let bare = StoredRow { rule: None, timestamp_ms: None, key: None, headers: Vec::new(), ..row(None) };
        let record = letter(ORIGIN, &bare, Concession::default());
        assert_eq!((&record.key, &record.payload, record.timestamp_ms), (&None, &None, None));
        assert!(header(&record, "isobar.rule").is_none() && header(&record, "isobar.timestamp").is_none());
        let empty = letter(ORIGIN, &row(Some(b"")), Concession::default());
        assert_eq!(empty.payload, Some(Vec::new()));
        // Before what librdkafka can say; the header has it.
        let early = StoredRow { timestamp_ms: Some(0), ..row(None) };
        let record = letter(ORIGIN, &early, Concession::default());
        assert_eq!((record.timestamp_ms, header(&record, "isobar.timestamp")), (None, Some("0")));
    }

    #[test]
    fn what_is_left_out_is_said() {
        let row = row(Some(b"12345"));
        let without = Concession { extent: Extent::WithoutPayload, ..Concession::default() };
        let record = letter(ORIGIN, &row, without);
        assert_eq!((record.payload.as_ref(), header(&record, "isobar.payload_omitted")), (None, Some("5")));
        assert_eq!((record.key.as_deref(), header(&record, "source")), (row.key, Some("web")));
        assert!(header(&record, "isobar.key_omitted").is_none());

        let nothing = Concession { extent: Extent::NothingOfIt, is_sent_now: true };
        let record = letter(ORIGIN, &row, nothing);
        assert_eq!((&record.key, &record.payload, record.timestamp_ms), (&None, &None, None));
        for (name, value) in [("payload", "5"), ("key", "2"), ("headers", "2")] {
            assert_eq!(header(&record, &format!("isobar.{name}_omitted")), Some(value), "{name}");
        }
        assert!(header(&record, "source").is_none());
        assert_eq!(header(&record, "isobar.timestamp"), Some("1700000000123"));
    }

    #[test]
    fn a_refusal_concedes_as_little_as_is_needed_and_ends() {
        let large = vec![b'x'; 500];
        let (large, small) = (row(Some(&large)), row(Some(b"small")));
        let mut concessions = Concessions::default();
        let slice = |concessions: &Concessions| -> Vec<OutgoingRecord> {
            let rows = [(7, &small), (8, &large), (9, &small)];
            rows.map(|(number, row)| concessions.letter(ORIGIN, number, row).0).into()
        };
        let refuse = |concessions: &mut Concessions, place, refusal| {
            let slice = slice(&*concessions);
            concessions.note(&slice, 7, &[(place, refusal)], NOW_MS)
        };
        let payloads = |concessions: &Concessions| -> Vec<bool> {
            slice(concessions).iter().map(|record| record.payload.is_some()).collect()
        };
        // Of a batch that was refused nothing is known but that.
        assert!(refuse(&mut concessions, 0, Refusal::TooLarge) && concessions.one_by_one());
        assert_eq!(payloads(&concessions), [true, true, true]);
        assert!(refuse(&mut concessions, 1, Refusal::TooLarge));
        assert_eq!(payloads(&concessions), [true, false, true]);
        // Still too large without its payload.
        assert!(refuse(&mut concessions, 1, Refusal::TooLarge));
        assert!(slice(&concessions)[1].key.is_none());
        assert!(!refuse(&mut concessions, 1, Refusal::TooLarge), "there is nothing more to concede");

        // What was learned of the size stays, the rest is forgotten.
        concessions.version_is_sent();
        assert!(!concessions.one_by_one());
        assert_eq!(payloads(&concessions), [true, false, true]);
        let (record, is_whole) = concessions.letter(ORIGIN, 8, &large);
        assert!(record.key.is_some() && !is_whole);
        assert!(concessions.letter(ORIGIN, 9, &small).1);
    }

    #[test]
    fn what_goes_as_it_is_or_not_at_all_is_tried_alone_and_then_blocks() {
        let record = letter(ORIGIN, &row(Some(b"12345")), Concession::default());
        let mut concessions = Concessions::none();
        for _ in 0..2 {
            let refused = [(0, Refusal::TooLarge)];
            assert!(
                concessions.note(std::slice::from_ref(&record), 7, &refused, NOW_MS)
                    && concessions.one_by_one()
            );
            assert!(!concessions.note(std::slice::from_ref(&record), 7, &refused, NOW_MS));
            concessions.forget();
            assert!(!concessions.one_by_one() && !concessions.are_possible());
        }
    }

    #[test]
    fn a_time_that_the_topic_does_not_take_is_that_of_sending_and_so_are_those_beyond() {
        let at = |timestamp_ms| StoredRow { timestamp_ms: Some(timestamp_ms), ..row(None) };
        let mut concessions = Concessions { one_by_one: true, ..Concessions::default() };
        let time_of = |concessions: &Concessions, timestamp_ms| {
            concessions.letter(ORIGIN, 99, &at(timestamp_ms)).0.timestamp_ms
        };
        for refused_ms in [NOW_MS - 500, NOW_MS - 400, NOW_MS + 300, NOW_MS + 200] {
            let slice = [concessions.letter(ORIGIN, 0, &at(refused_ms)).0];
            assert!(concessions.note(&slice, 0, &[(0, Refusal::Timestamp)], NOW_MS));
            concessions.rows.clear();
        }
        for (timestamp_ms, is_kept) in [(-500, false), (-400, false), (-399, true), (199, true), (200, false)]
        {
            let timestamp_ms = NOW_MS + timestamp_ms;
            assert_eq!(time_of(&concessions, timestamp_ms), is_kept.then_some(timestamp_ms));
        }
        // One of which no time was sent is refused for nothing that could be conceded.
        let slice = [concessions.letter(ORIGIN, 0, &at(NOW_MS - 500)).0];
        concessions.rows.insert(0, Concession { is_sent_now: true, ..Concession::default() });
        assert!(!concessions.note(&slice, 0, &[(0, Refusal::Timestamp)], NOW_MS));
    }

    #[test]
    fn a_slice_is_bounded_by_rows_and_bytes() {
        let mut slice = Slice::from(5);
        let record = letter(ORIGIN, &row(Some(b"x")), Concession::default());
        while !slice.is_full() {
            slice.push(record.clone(), true);
        }
        assert!(slice.records.len() <= ROWS_MAX && slice.bytes < BYTES_MAX + bytes_of(&record));
        assert_eq!(
            (slice.next_row(), slice.whole),
            (5 + slice.records.len() as u64, slice.records.len() as u64)
        );
        let mut slice = Slice::from(0);
        let large = vec![0; BYTES_MAX + 1];
        slice.push(letter(ORIGIN, &row(Some(&large)), Concession::default()), false);
        assert!(slice.is_full() && slice.whole == 0);
    }
}
