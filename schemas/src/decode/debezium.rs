//! Debezium's change events: which of them are rows, and what their envelope adds to a row. The same for every format.
//!
//! ```text
//! { "before": null, "after": { "id": 7, … }, "source": { "ts_ms": 1718000000000, … }, "op": "c", "ts_ms": … }
//! ```
//!
//! The fields of the contract are those of the row. Behind them come two columns, which no field may be called:
//!
//! | column | type | from | called elsewhere |
//! |---|---|---|---|
//! | `_op` | string, required | `op`: `c` (insert), `u` (update), `d` (delete), `r` (read for a snapshot) | `__op`, `__deleted` |
//! | `_source_timestamp` | timestamp | `source.ts_ms`: when the database made the change; null if it is not told | `__source_ts_ms`; Flink's `source.timestamp` |
//!
//! # Which events are rows
//!
//! | event | becomes |
//! |---|---|
//! | `c`, `u`, `r` | a row, from `after`; `before` must be well-formed, and is not looked at |
//! | `d` | a row, from `before` |
//! | a record without a payload, or whose payload is null: the tombstone after a delete, for compaction | left out |
//! | a heartbeat: times (`ts_ms`, `ts_us`, `ts_ns`) and nothing else | left out |
//! | the boundary of a transaction: the `status` `BEGIN` or `END`, `id`, `event_count`, `data_collections`, times, and nothing else | left out |
//! | `t` (truncate) and `m` (message of an application) | rejected, as `invalid_value`: no row says what they say, and they must not pass unnoticed |
//! | anything else | rejected |
//!
//! What is left out says nothing about rows that another event does not say, and is counted as filtered. Further members of
//! an envelope are skipped, since versions of Debezium add some; `unknown_fields` is about those of the row. The envelope
//! counts towards the nesting that is possible.
//!
//! A delete has the columns that the database logs of the old row. PostgreSQL logs the key alone, unless the table's
//! `REPLICA IDENTITY` is `FULL`: every other field of the contract must be nullable then. A value that PostgreSQL does not
//! log because it did not change (TOAST) is the text `__debezium_unavailable_value`, and stays that.
//!
//! The format is that of "Debezium connector for PostgreSQL", sections "Change event values", "delete events", "truncate
//! events", "message events" and "Transaction metadata", which the other connectors share, and of "Debezium Heartbeats"
//! there (`heartbeat.interval.ms`). The names elsewhere are those of "New Record State Extraction"
//! (`ExtractNewRecordState`, with its usual prefix) and of Flink's "Debezium Format".
//!
//! [`json::debezium`](super::json::debezium) reads events in JSON, [`AvroDecoder::in_debezium_envelope`](super::AvroDecoder)
//! those in Avro.

#[cfg(test)]
pub(crate) mod testing;

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};

use super::columns::{Columns, Values};
use super::reject::{Fault, Parsed, RejectReason};
use crate::error::Error;
use crate::fields::UTC;

/// What happened to the row.
pub const OP: &str = "_op";

/// When the database did it.
pub const SOURCE_TIMESTAMP: &str = "_source_timestamp";

/// The operation of a delete.
pub(crate) const DELETE: &str = "d";

/// The schema of the batches of a source whose contract is `fields`: `_op` and `_source_timestamp` are its last columns.
///
/// # Errors
/// [`Error::InvalidName`] if a field has the name of a column that the envelope adds.
pub fn schema_in_envelope(fields: &SchemaRef) -> Result<SchemaRef, Error> {
    let is_taken = |field: &&Arc<Field>| {
        [OP, SOURCE_TIMESTAMP].iter().any(|taken| field.name().eq_ignore_ascii_case(taken))
    };
    if let Some(field) = fields.fields().iter().find(is_taken) {
        let problem = "the name is that of a column of every source in Debezium's envelope; \
                       rename the column in the database, or read the topic without `envelope`";
        return Err(Error::InvalidName { field: field.name().clone(), problem });
    }
    let timestamp = DataType::Timestamp(TimeUnit::Microsecond, Some(UTC.into()));
    let added = [Field::new(OP, DataType::Utf8, false), Field::new(SOURCE_TIMESTAMP, timestamp, true)];
    let fields = fields.fields().iter().cloned().chain(added.map(Arc::new));
    Ok(Arc::new(Schema::new(fields.collect::<Vec<_>>())))
}

/// A member of an envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Member {
    Before,
    After,
    Source,
    Op,
    Millis,
    Micros,
    Nanos,
    Status,
    Id,
    EventCount,
    DataCollections,
    Other,
}

impl Member {
    pub(crate) fn of(name: &str) -> Self {
        match name {
            "before" => Member::Before,
            "after" => Member::After,
            "source" => Member::Source,
            "op" => Member::Op,
            "ts_ms" => Member::Millis,
            "ts_us" => Member::Micros,
            "ts_ns" => Member::Nanos,
            "status" => Member::Status,
            "id" => Member::Id,
            "event_count" => Member::EventCount,
            "data_collections" => Member::DataCollections,
            _ => Member::Other,
        }
    }

    const fn bit(self) -> u16 {
        1 << self as u16
    }
}

/// The members that a heartbeat may have.
const TIMES: u16 = Member::Millis.bit() | Member::Micros.bit() | Member::Nanos.bit();

/// The members that the boundary of a transaction has beside them.
const BOUNDARY: u16 =
    Member::Status.bit() | Member::Id.bit() | Member::EventCount.bit() | Member::DataCollections.bit();

/// Which members an event has.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct MemberSet(u16);

impl MemberSet {
    /// Adds `member`; whether it is the first of its kind.
    #[inline]
    pub(crate) fn add(&mut self, member: Member) -> bool {
        let is_first = !self.has(member);
        self.0 |= member.bit();
        is_first
    }

    #[inline]
    pub(crate) fn has(self, member: Member) -> bool {
        self.0 & member.bit() != 0
    }

    /// Whether an event that has these members, and no operation, is a heartbeat.
    pub(crate) fn is_heartbeat(self) -> bool {
        self.has(Member::Millis) && self.0 & !TIMES == 0
    }

    /// Whether an event that has these members, and no operation, is the boundary of a transaction, if its status says so:
    /// [`is_boundary_status`].
    pub(crate) fn is_boundary(self) -> bool {
        self.0 & !TIMES == BOUNDARY
    }
}

/// Whether this is the status of a transaction that begins or ends.
pub(crate) fn is_boundary_status(status: &str) -> bool {
    matches!(status, "BEGIN" | "END")
}

/// The operation called `text`, if it is one that a row can say.
pub(crate) fn operation(text: &str) -> Parsed<&'static str> {
    let problem = match text {
        "c" => return Ok("c"),
        "u" => return Ok("u"),
        "d" => return Ok(DELETE),
        "r" => return Ok("r"),
        "t" => {
            "the table was truncated, which no row can say: all rows before this are deleted in the database"
        }
        "m" => "a message of an application, which is no row",
        _ => "no operation of Debezium",
    };
    Err(Fault::new(RejectReason::InvalidValue, problem))
}

/// Appends the operation of a row to column `index`, that of [`OP`].
#[inline]
pub(crate) fn push_op(op: &str, index: usize, columns: &mut Columns) {
    let column = columns.column(index);
    if let Values::String(values) = &mut column.values {
        values.push(op.as_bytes());
    }
    column.set_present();
}

/// An event without an operation that is none of those that may be.
#[cold]
pub(crate) fn no_event() -> Box<Fault> {
    Fault::new(RejectReason::MissingField, "missing: this is no change event of Debezium").within("op")
}

/// An insert or an update that does not say what the row is.
#[cold]
pub(crate) fn no_row_after() -> Box<Fault> {
    Fault::new(RejectReason::MissingField, "the event has no row after the change").within("after")
}

/// A delete that does not say what the row was.
#[cold]
pub(crate) fn no_row_before() -> Box<Fault> {
    let problem = "the delete does not say of which row: the database must log it \
                   (in PostgreSQL, the table's REPLICA IDENTITY)";
    Fault::new(RejectReason::MissingField, problem).within("before")
}

/// A delete that says what the row is afterwards.
#[cold]
pub(crate) fn row_after_delete() -> Box<Fault> {
    Fault::new(RejectReason::InvalidValue, "a delete has no row after it").within("after")
}
