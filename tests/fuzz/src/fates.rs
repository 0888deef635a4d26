//! What every decoder must do with any payloads.
//!
//! - Each record is one row or one reject, or left out by an envelope, and nothing is left over; or any number of rows, where
//!   payloads may hold several.
//! - The batch is sound: of the decoder's schema, its columns of one length, its text UTF-8, its offsets rising.
//! - A record's fate is its own: the same whether it is decoded among others or alone, before or after them.
//! - What is allocated meanwhile is bounded by the payloads, the limits and the schema.
//! - What is too large, or no payload at all, is rejected as that, and a reject's message is short.

use arrow::array::Array;
use arrow::datatypes::{DataType, Fields};
use isobar_schemas::{Decoded, Decoder, Reject, RejectReason, WriterSchema};

use crate::ALLOCATED;
use crate::testing::{chunk, render_row};

/// Longest message of a reject, in bytes.
const MESSAGE_BYTES_MAX: usize = 4096;

/// Bytes that decoding may allocate whatever the payloads are.
const ALLOCATED_BYTES_MIN: usize = 1 << 20;

/// How much a payload may add to each column: elements or bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Growth {
    pub(crate) per_byte: usize,
    pub(crate) per_record: usize,
}

impl Growth {
    /// Nothing in a column is longer than its text.
    pub(crate) const NONE: Growth = Growth { per_byte: 1, per_record: 1 };
}

/// A decoder, and what is known of it.
pub(crate) struct Subject<'a> {
    pub(crate) decoder: Box<dyn Decoder>,
    /// Larger payloads must be rejected.
    pub(crate) payload_bytes_max: usize,
    pub(crate) growth: Growth,
    /// Whether payloads may hold several rows, or none.
    pub(crate) several: bool,
    /// Whether rows stand in an envelope, which leaves tombstones out, and may leave out others.
    pub(crate) in_envelope: bool,
    /// What the registry has under an id.
    pub(crate) registry: &'a dyn Fn(u32) -> WriterSchema,
}

/// A registry that has nothing.
pub(crate) fn no_registry(_: u32) -> WriterSchema {
    WriterSchema::Unknown
}

/// What became of a record: its row as text, or rows, each on a line of its own, or [`LEFT_OUT`]; or why there is none.
pub(crate) type Fate = Result<String, (RejectReason, String)>;

/// In place of the row of a record that is left out.
pub(crate) const LEFT_OUT: &str = "left out";

/// What becomes of `payloads`, after everything above has been checked.
pub(crate) fn fates(mut subject: Subject<'_>, payloads: &[Option<&[u8]>]) -> Vec<Fate> {
    let together = decode(&mut subject, payloads);
    for (payload, fate) in payloads.iter().zip(&together) {
        check_reason(&subject, *payload, fate);
    }
    // Backwards, so that each follows another one than before.
    for (record, payload) in payloads.iter().enumerate().rev() {
        let alone = decode(&mut subject, &[*payload]);
        assert_eq!(alone, together[record..=record], "record {record} has another fate when it is alone");
    }
    assert_eq!(decode(&mut subject, payloads), together, "the second time, records have other fates");
    together
}

fn check_reason(subject: &Subject<'_>, payload: Option<&[u8]>, fate: &Fate) {
    let reason = fate.as_ref().map_err(|(reason, _)| *reason).err();
    match payload {
        None if subject.in_envelope => assert_eq!(fate.as_deref().ok(), Some(LEFT_OUT)),
        None => assert_eq!(reason, Some(RejectReason::Tombstone)),
        Some(payload) if payload.len() > subject.payload_bytes_max => {
            assert_eq!(reason, Some(RejectReason::Oversize), "{} bytes", payload.len());
        }
        Some(_) => assert_ne!(reason, Some(RejectReason::Tombstone)),
    }
    if let Err((_, message)) = fate {
        assert!(!message.is_empty() && message.len() <= MESSAGE_BYTES_MAX, "{message}");
    }
}

fn decode(subject: &mut Subject<'_>, payloads: &[Option<&[u8]>]) -> Vec<Fate> {
    let chunk = chunk(payloads.iter().copied());
    let missing = subject.decoder.missing_schemas(&chunk);
    assert!(missing.is_sorted_by(|one, next| one < next), "{missing:?}");
    for id in missing {
        subject.decoder.learn(id, (subject.registry)(id));
    }
    assert!(subject.decoder.missing_schemas(&chunk).is_empty(), "asked again for what was learned");

    let before = ALLOCATED.current_usage();
    ALLOCATED.reset_peak_usage();
    let decoded = subject.decoder.decode(&chunk).expect("no payload makes decoding fail");
    let allocated = ALLOCATED.peak_usage().saturating_sub(before);
    let bound = allocated_bytes_max(subject, payloads);
    assert!(allocated <= bound, "{allocated} bytes were allocated, where {bound} should do");
    fates_of(&decoded, subject, payloads.len())
}

/// How many bytes decoding `payloads` may allocate: every column as long as its format lets it become, and as much
/// again while it grows and for what is kept beside it.
fn allocated_bytes_max(subject: &Subject<'_>, payloads: &[Option<&[u8]>]) -> usize {
    let Growth { per_byte, per_record } = subject.growth;
    let elements: usize =
        payloads.iter().flatten().map(|payload| payload.len() * per_byte + per_record).sum();
    let row_bytes = row_bytes(subject.decoder.schema().fields());
    (elements + payloads.len()) * (row_bytes + 16) * 4 + ALLOCATED_BYTES_MIN
}

/// Bytes that one element in every column takes.
fn row_bytes(fields: &Fields) -> usize {
    fields.iter().map(|field| value_bytes(field.data_type())).sum()
}

fn value_bytes(data_type: &DataType) -> usize {
    // A byte for validity, and one for the text of a string.
    2 + match data_type {
        DataType::List(element) => 4 + value_bytes(element.data_type()),
        DataType::Map(entries, _) => 8 + value_bytes(entries.data_type()),
        DataType::Struct(fields) => row_bytes(fields),
        _ => 16,
    }
}

/// The fate of each of `records` records, after `decoded` was found to be sound.
fn fates_of(decoded: &Decoded, subject: &Subject<'_>, records: usize) -> Vec<Fate> {
    let Decoded { batch, records: kept, rejects, left_out } = decoded;
    assert_eq!(&batch.schema(), subject.decoder.schema());
    assert_eq!(batch.num_rows(), kept.len(), "rows, and records that became one");
    assert!(kept.is_sorted() && left_out.is_sorted_by(|one, next| one < next), "{kept:?} {left_out:?}");
    assert!(subject.several || kept.is_sorted_by(|one, next| one < next), "{kept:?}");
    assert!(
        subject.several || subject.in_envelope || left_out.is_empty(),
        "only an envelope leaves records out"
    );
    assert!(rejects.is_sorted_by(|one, next| one.record < next.record), "{rejects:?}");
    for column in batch.columns() {
        assert_eq!(column.len(), kept.len());
        column.to_data().validate_full().expect("sound arrays");
    }
    let mut fates: Vec<Option<Fate>> = vec![None; records];
    let mut row = 0;
    let rows = kept.chunk_by(|one, next| one == next).map(|rows| {
        let shown: Vec<String> = (row..row + rows.len()).map(|row| render_row(batch, row)).collect();
        row += rows.len();
        (rows[0], Ok(shown.join("\n")))
    });
    let without = left_out.iter().map(|record| (*record, Ok(LEFT_OUT.to_owned())));
    let rejects =
        rejects.iter().map(|Reject { record, reason, message }| (*record, Err((*reason, message.clone()))));
    for (record, fate) in rows.chain(without).chain(rejects) {
        let before = fates[record as usize].replace(fate);
        assert_eq!(before, None, "record {record} has two fates");
    }
    fates.into_iter().map(|fate| fate.expect("every record has a fate")).collect()
}
