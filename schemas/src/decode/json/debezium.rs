//! Decodes Debezium's change events in JSON: the row out of its envelope, and what happened to it.
//!
//! ```text
//! { "before": null, "after": { "id": 7, … }, "source": { "ts_ms": 1718000000000, … }, "op": "c", "ts_ms": … }
//! ```
//!
//! An event may stand in the `schema` and `payload` of Kafka Connect's JsonConverter (`schemas.enable=true`); each record
//! says by itself whether it does. The fields of the contract are those of the row. Behind them come two columns, which no
//! field may be called:
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
//! | a record without a payload, or whose payload is `null`: the tombstone after a delete, for compaction | left out |
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

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};

use super::check_utf8;
use super::cursor::{Cursor, Kind};
use super::read::{Context, Members, read_integer};
use crate::decode::columns::{Columns, Values};
use crate::decode::framing;
use crate::decode::reject::{Fault, Parsed, RejectReason};
use crate::decode::rows::{Expansion, Read, Rows};
use crate::decode::{DecodeLimits, Decoded, Decoder, UnknownFields};
use crate::error::Error;
use crate::fields::UTC;
use crate::records::RecordChunk;

/// What happened to the row.
pub const OP: &str = "_op";

/// When the database did it.
pub const SOURCE_TIMESTAMP: &str = "_source_timestamp";

/// The schema of the batches of a source whose contract is `fields`.
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

/// Turns change events into batches of rows. See the [module](self).
#[derive(Debug)]
pub struct DebeziumDecoder {
    rows: Rows,
    reader: Reader,
    is_framed: bool,
}

impl DebeziumDecoder {
    /// A decoder of rows of the contract `fields`, into batches of [`schema_in_envelope`].
    ///
    /// # Errors
    /// If the contract has a type that no spec can express, or a field with the name of a column that the envelope adds.
    pub fn new(
        fields: &SchemaRef,
        unknown_fields: UnknownFields,
        limits: DecodeLimits,
    ) -> Result<Self, Error> {
        let schema = schema_in_envelope(fields)?;
        let refuse_unknown_fields = unknown_fields == UnknownFields::Quarantine;
        let reader = Reader {
            row: Members::new(fields.fields()),
            op_column: fields.fields().len(),
            context: Context { refuse_unknown_fields, scratch: Vec::new() },
            depth_max: limits.depth_max,
        };
        let rows = Rows::new(schema, limits, Expansion::NONE)?.leave_out_tombstones();
        Ok(Self { rows, reader, is_framed: false })
    }

    /// The same for payloads with Confluent's header before each event, as [`JsonDecoder::framed`](super::JsonDecoder::framed).
    #[must_use]
    pub fn framed(self) -> Self {
        Self { is_framed: true, ..self }
    }
}

impl Decoder for DebeziumDecoder {
    fn schema(&self) -> &SchemaRef {
        self.rows.schema()
    }

    fn decode(&mut self, chunk: &RecordChunk) -> Result<Decoded, Error> {
        let Self { rows, reader, is_framed } = self;
        rows.decode_some(chunk, |payload, columns| {
            let payload = if *is_framed { framing::after_confluent_header(payload)? } else { payload };
            reader.read(payload, columns)
        })
    }
}

/// Reads one payload.
#[derive(Debug)]
struct Reader {
    /// The fields of the row, which are the first columns.
    row: Members,
    /// The column of the operation; that of the time follows it.
    op_column: usize,
    context: Context,
    depth_max: usize,
}

/// A member of an envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Member {
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
    fn of(name: &str) -> Self {
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

/// What was found in an envelope so far.
#[derive(Default)]
struct Event<'a> {
    /// The members that were there.
    members: u16,
    op: Option<&'static str>,
    /// Where the row before the change starts, if there is one.
    before: Option<Cursor<'a>>,
    /// How many fields the row after the change has, if there is one. They are in the columns already.
    after: Option<usize>,
    /// Microseconds.
    source_timestamp: Option<i64>,
    /// Whether the status is that of a transaction that begins or ends.
    is_boundary: bool,
}

impl Event<'_> {
    fn note(&mut self, member: Member) -> Parsed<()> {
        if member != Member::Other && self.members & member.bit() != 0 {
            return Err(Fault::new(RejectReason::DuplicateField, "a member of the event is given twice"));
        }
        self.members |= member.bit();
        Ok(())
    }

    /// An event without an operation is no change of a row. Whether it is one of those that may be.
    fn check_eventless(&self) -> Parsed<Read> {
        let has_time = self.members & Member::Millis.bit() != 0;
        let beside_times = self.members & !TIMES;
        if has_time && beside_times == 0 || self.is_boundary && beside_times == BOUNDARY {
            return Ok(Read::Nothing);
        }
        let fault = Fault::new(RejectReason::MissingField, "missing: this is no change event of Debezium");
        Err(fault.within("op"))
    }
}

impl Reader {
    /// Reads one payload as one more row, if it is one.
    fn read(&mut self, payload: &[u8], columns: &mut Columns) -> Parsed<Read> {
        let mut cursor = Cursor::new(check_utf8(payload)?, self.depth_max);
        cursor.skip_whitespace();
        let read = match cursor.kind()? {
            Kind::Object if self.is_wrapped(&cursor)? => self.read_wrapped(&mut cursor, columns)?,
            Kind::Object => self.read_event(&mut cursor, columns)?,
            Kind::Null => cursor.null().map(|()| Read::Nothing)?,
            kind => {
                let problem = format!("expected one JSON object, found {}", kind.as_str());
                return Err(Fault::new(RejectReason::Undecodable, problem));
            }
        };
        cursor.end()?;
        Ok(read)
    }

    /// Whether the object that starts at `cursor` is the pair of JsonConverter: its first member tells.
    fn is_wrapped(&mut self, cursor: &Cursor<'_>) -> Parsed<bool> {
        let mut ahead = cursor.clone();
        ahead.enter()?;
        ahead.skip_whitespace();
        Ok(ahead.peek() == Some(b'"')
            && matches!(ahead.name(&mut self.context.scratch)?, "schema" | "payload"))
    }

    /// Reads `schema` and `payload`.
    fn read_wrapped(&mut self, cursor: &mut Cursor<'_>, columns: &mut Columns) -> Parsed<Read> {
        let (mut has_schema, mut payload) = (false, None);
        cursor.enter()?;
        cursor.skip_whitespace();
        let mut more = !cursor.take(b'}');
        while more {
            let name = cursor.name(&mut self.context.scratch)?;
            let is_payload = name == "payload";
            if !is_payload && name != "schema" {
                let problem = "unknown beside `schema` and `payload`";
                return Err(Fault::new(RejectReason::UnknownField, problem).within(name));
            }
            let is_given = if is_payload { payload.is_some() } else { has_schema };
            if is_given {
                return Err(Fault::new(RejectReason::DuplicateField, "given twice").within(name));
            }
            cursor.colon()?;
            if is_payload {
                payload = Some(self.read_payload(cursor, columns)?);
            } else {
                has_schema = true;
                cursor.skip_value(&mut self.context.scratch)?;
            }
            more = cursor.next_item(b'}')?;
        }
        cursor.leave();
        payload
            .ok_or_else(|| Fault::new(RejectReason::MissingField, "required, but missing").within("payload"))
    }

    fn read_payload(&mut self, cursor: &mut Cursor<'_>, columns: &mut Columns) -> Parsed<Read> {
        match cursor.kind()? {
            Kind::Null => cursor.null().map(|()| Read::Nothing),
            Kind::Object => self.read_event(cursor, columns),
            kind => Err(not_an_object("payload", kind)),
        }
    }

    /// Reads an event, whose opening brace comes next.
    fn read_event(&mut self, cursor: &mut Cursor<'_>, columns: &mut Columns) -> Parsed<Read> {
        let mut event = Event::default();
        cursor.enter()?;
        cursor.skip_whitespace();
        let mut more = !cursor.take(b'}');
        while more {
            let member = Member::of(cursor.name(&mut self.context.scratch)?);
            event.note(member)?;
            cursor.colon()?;
            self.read_member(member, &mut event, cursor, columns)?;
            more = cursor.next_item(b'}')?;
        }
        cursor.leave();
        let Some(op) = event.op else { return event.check_eventless() };
        let seen = if op == "d" {
            self.row_before(&mut event, columns)?
        } else {
            event.after.ok_or_else(|| no_row("after", "the event has no row after the change"))?
        };
        self.end_row(op, event.source_timestamp, seen, columns)?;
        Ok(Read::Row)
    }

    fn read_member<'a>(
        &mut self,
        member: Member,
        event: &mut Event<'a>,
        cursor: &mut Cursor<'a>,
        columns: &mut Columns,
    ) -> Parsed<()> {
        let Self { row, context, .. } = self;
        match member {
            Member::After => match cursor.kind()? {
                Kind::Null => cursor.null()?,
                Kind::Object => {
                    let seen = row.read_some(columns, cursor, context);
                    event.after = Some(seen.map_err(|fault| fault.within("after"))?);
                }
                kind => return Err(not_an_object("after", kind)),
            },
            Member::Before => match cursor.kind()? {
                Kind::Null => cursor.null()?,
                Kind::Object => {
                    // Whether it is the row is known when the operation is.
                    event.before = Some(cursor.clone());
                    cursor.skip_value(&mut context.scratch)?;
                }
                kind => return Err(not_an_object("before", kind)),
            },
            Member::Op => event.op = Some(read_op(cursor, context).map_err(|fault| fault.within("op"))?),
            Member::Source => {
                let timestamp = read_source(cursor, context);
                event.source_timestamp = timestamp.map_err(|fault| fault.within("source"))?;
            }
            Member::Status if cursor.kind()? == Kind::String => {
                event.is_boundary = matches!(cursor.text(&mut context.scratch)?, "BEGIN" | "END");
            }
            _ => cursor.skip_value(&mut context.scratch)?,
        }
        Ok(())
    }

    /// Reads the row that was deleted, and returns how many fields it has.
    fn row_before(&mut self, event: &mut Event<'_>, columns: &mut Columns) -> Parsed<usize> {
        if event.after.is_some() {
            let fault = Fault::new(RejectReason::InvalidValue, "a delete has no row after it");
            return Err(fault.within("after"));
        }
        let Some(before) = &mut event.before else {
            let problem = "the delete does not say of which row: the database must log it \
                           (in PostgreSQL, the table's REPLICA IDENTITY)";
            return Err(no_row("before", problem));
        };
        let seen = self.row.read_some(columns, before, &mut self.context);
        seen.map_err(|fault| fault.within("before"))
    }

    /// Ends a row of which `seen` fields are in the columns.
    fn end_row(
        &self,
        op: &str,
        source_timestamp: Option<i64>,
        seen: usize,
        columns: &mut Columns,
    ) -> Parsed<()> {
        let column = columns.column(self.op_column);
        if let Values::String(values) = &mut column.values {
            values.push(op.as_bytes());
        }
        column.set_present();
        let column = columns.column(self.op_column + 1);
        match (&mut column.values, source_timestamp) {
            (Values::Timestamp(values), Some(micros)) => {
                values.push(micros);
                column.set_present();
            }
            _ => column.push_null()?,
        }
        let row = if op == "d" { "before" } else { "after" };
        self.row.end_row(columns, seen).map_err(|fault| fault.within(row))
    }
}

/// Reads the operation.
fn read_op(cursor: &mut Cursor<'_>, context: &mut Context) -> Parsed<&'static str> {
    let kind = cursor.kind()?;
    if kind != Kind::String {
        let problem = format!("expected a string, found {}", kind.as_str());
        return Err(Fault::new(RejectReason::WrongType, problem));
    }
    let problem = match cursor.text(&mut context.scratch)? {
        "c" => return Ok("c"),
        "u" => return Ok("u"),
        "d" => return Ok("d"),
        "r" => return Ok("r"),
        "t" => {
            "the table was truncated, which no row can say: all rows before this are deleted in the database"
        }
        "m" => "a message of an application, which is no row",
        _ => "no operation of Debezium",
    };
    Err(Fault::new(RejectReason::InvalidValue, problem))
}

/// Reads where a change comes from, and returns when the database made it, in microseconds.
fn read_source(cursor: &mut Cursor<'_>, context: &mut Context) -> Parsed<Option<i64>> {
    match cursor.kind()? {
        Kind::Null => return cursor.null().map(|()| None),
        Kind::Object => {}
        kind => {
            let problem = format!("expected an object, found {}", kind.as_str());
            return Err(Fault::new(RejectReason::WrongType, problem));
        }
    }
    let (mut is_given, mut timestamp) = (false, None);
    cursor.enter()?;
    cursor.skip_whitespace();
    let mut more = !cursor.take(b'}');
    while more {
        let is_timestamp = cursor.name(&mut context.scratch)? == "ts_ms";
        cursor.colon()?;
        if !is_timestamp {
            cursor.skip_value(&mut context.scratch)?;
        } else if is_given {
            return Err(Fault::new(RejectReason::DuplicateField, "given twice").within("ts_ms"));
        } else {
            is_given = true;
            timestamp = read_millis(cursor).map_err(|fault| fault.within("ts_ms"))?;
        }
        more = cursor.next_item(b'}')?;
    }
    cursor.leave();
    Ok(timestamp)
}

/// Reads milliseconds since the Unix epoch, as microseconds.
fn read_millis(cursor: &mut Cursor<'_>) -> Parsed<Option<i64>> {
    match cursor.kind()? {
        Kind::Null => cursor.null().map(|()| None),
        Kind::Number => {
            let millis: i64 = read_integer(cursor, "int64")?;
            let out_of_range = || Fault::new(RejectReason::OutOfRange, "beyond the range of timestamp");
            millis.checked_mul(1000).map(Some).ok_or_else(out_of_range)
        }
        kind => {
            let problem = format!("expected a number, found {}", kind.as_str());
            Err(Fault::new(RejectReason::WrongType, problem))
        }
    }
}

#[cold]
fn not_an_object(member: &str, found: Kind) -> Box<Fault> {
    let problem = format!("expected an object or null, found {}", found.as_str());
    Fault::new(RejectReason::WrongType, problem).within(member)
}

#[cold]
fn no_row(member: &str, problem: &str) -> Box<Fault> {
    Fault::new(RejectReason::MissingField, problem).within(member)
}

#[cfg(test)]
mod tests;
