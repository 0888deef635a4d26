//! Decodes Debezium's change events in JSON: the row out of its envelope, and what happened to it.
//!
//! Which events are rows is the same for every format: [`debezium`](crate::decode::debezium). Here the members may come in
//! any order, and an event may stand in the `schema` and `payload` of Kafka Connect's JsonConverter
//! (`schemas.enable=true`); each record says by itself whether it does. The text `null` is no payload.

use arrow::datatypes::SchemaRef;

use super::check_utf8;
use super::cursor::{Cursor, Kind};
use super::read::{Context, Members, read_integer};
use crate::decode::columns::{Columns, Values};
use crate::decode::debezium::{self, DELETE, Member, MemberSet, schema_in_envelope};
use crate::decode::framing;
use crate::decode::reject::{Fault, Parsed, RejectReason};
use crate::decode::rows::{Expansion, Read, Rows};
use crate::decode::{DecodeLimits, Decoded, Decoder, UnknownFields};
use crate::error::Error;
use crate::records::RecordChunk;

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

/// What was found in an envelope so far.
#[derive(Default)]
struct Event<'a> {
    /// The members that were there.
    members: MemberSet,
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
        if !self.members.add(member) && member != Member::Other {
            return Err(Fault::new(RejectReason::DuplicateField, "a member of the event is given twice"));
        }
        Ok(())
    }

    /// An event without an operation is no change of a row. Whether it is one of those that may be.
    fn check_eventless(&self) -> Parsed<Read> {
        if self.members.is_heartbeat() || self.is_boundary && self.members.is_boundary() {
            return Ok(Read::Nothing);
        }
        Err(debezium::no_event())
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
        let seen = if op == DELETE {
            self.row_before(&mut event, columns)?
        } else {
            event.after.ok_or_else(debezium::no_row_after)?
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
                event.is_boundary = debezium::is_boundary_status(cursor.text(&mut context.scratch)?);
            }
            _ => cursor.skip_value(&mut context.scratch)?,
        }
        Ok(())
    }

    /// Reads the row that was deleted, and returns how many fields it has.
    fn row_before(&mut self, event: &mut Event<'_>, columns: &mut Columns) -> Parsed<usize> {
        if event.after.is_some() {
            return Err(debezium::row_after_delete());
        }
        let before = event.before.as_mut().ok_or_else(debezium::no_row_before)?;
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
        debezium::push_op(op, self.op_column, columns);
        let column = columns.column(self.op_column + 1);
        match (&mut column.values, source_timestamp) {
            (Values::Timestamp(values), Some(micros)) => {
                values.push(micros);
                column.set_present();
            }
            _ => column.push_null()?,
        }
        let row = if op == DELETE { "before" } else { "after" };
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
    debezium::operation(cursor.text(&mut context.scratch)?)
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

#[cfg(test)]
mod tests;
