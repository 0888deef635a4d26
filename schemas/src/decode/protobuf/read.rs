//! Reads payloads into columns, as a plan says.
//!
//! Columns only grow, in one order; the fields of a message may come in any order, several times, and the last one
//! counts. So each message is read twice over, and each of its bytes once or twice:
//!
//! 1. [`MessagePlan::scan`] walks the fields and keeps of each slot what counts: of a single value its 64 bits, or where
//!    its bytes lie; of what may come several times, the chain of [`Run`]s in which it came.
//! 2. [`MessagePlan::append`] goes through the columns and appends to each what was found, or what stands for nothing.
//!
//! Several occurrences of a message merge into one, which Protobuf defines as reading their bytes end to end. That is
//! what happens here: the scan of a message takes a chain of runs as well as a single span. No byte of a payload is
//! copied before it gets to its column.
//!
//! # Bounds
//! The recursion is that of the plan, so no deeper than the contract. A run takes two bytes of the payload and twelve
//! here, and those of messages inside lie in the bytes that are left: they take at most six times the payload,
//! together. What a payload makes grow beyond its own length (names of enums, defaults, and the rows of the messages of
//! a list, which a message of no bytes fills) is counted against [`GROWTH_PER_BYTE`] and [`GROWTH_PER_RECORD`]; a record
//! that grows further is `oversize`.

use std::collections::HashMap;

use super::plan::{Absent, ColumnPlan, Convert, EnumNames, MapPlan, MessagePlan, Occurrences, Scalar, Slot};
use super::wire::{Span, Tag, Wire, WireType, zigzag};
use crate::decode::columns::{Column, Columns, Values};
use crate::decode::reject::{Fault, Parsed, RejectReason};
use crate::decode::{numbers, temporal};
use crate::fields::type_name;

/// Bytes that each byte of a payload may add to columns beside itself.
pub(super) const GROWTH_PER_BYTE: usize = 64;

/// Bytes that each record may add to columns beside that.
pub(super) const GROWTH_PER_RECORD: usize = 16 << 10;

/// What has been seen of a field.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Seen {
    /// The message it was seen in, by its number; messages count from 1.
    message: u64,
    /// The last value, of a field of which only that counts.
    raw: u64,
    /// The first and the last run, of a field of which all occurrences count.
    first: u32,
    last: u32,
}

/// Occurrences of one field with nothing between them, tags included, and the run after.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run {
    span: Span,
    next: u32,
}

/// No run.
const NONE: u32 = u32::MAX;

/// What reading a record needs beside the plan and the columns.
pub(super) struct Context<'a> {
    pub(super) payload: &'a [u8],
    /// All runs of the messages being read, the outermost first.
    pub(super) runs: &'a mut Vec<Run>,
    /// Whether a field that the contract does not have is a fault; otherwise it is stepped over.
    pub(super) refuse_unknown_fields: bool,
    /// How deep groups may be nested.
    pub(super) depth_max: usize,
    /// Bytes by which columns may still grow.
    pub(super) growth_left: usize,
}

impl Context<'_> {
    fn grow(&mut self, bytes: usize) -> Parsed<()> {
        match self.growth_left.checked_sub(bytes) {
            Some(left) => {
                self.growth_left = left;
                Ok(())
            }
            None => Err(Fault::new(
                RejectReason::Oversize,
                format!("{} bytes become far larger than that in columns", self.payload.len()),
            )),
        }
    }
}

/// A value to be converted.
#[derive(Debug, Clone, Copy)]
enum Value {
    /// The 64 bits of one occurrence: see [`Wire::value`].
    Raw(u64),
    /// All occurrences, from this run on.
    Runs(u32),
}

/// The occurrences of one field, one after the other.
struct Occurring<'a> {
    wire: Wire<'a>,
    next: u32,
}

impl<'a> Occurring<'a> {
    fn new(payload: &'a [u8], first: u32) -> Self {
        Self { wire: Wire::new(payload, Span::EMPTY), next: first }
    }

    /// The next occurrence. They have been read once, so nothing is wrong with them.
    fn next(&mut self, context: &Context<'a>) -> Parsed<Option<(WireType, u64)>> {
        if self.wire.is_at_end() && self.next != NONE {
            let run = context.runs[self.next as usize];
            self.wire = Wire::new(context.payload, run.span);
            self.next = run.next;
        }
        let Some(tag) = self.wire.tag()? else { return Ok(None) };
        Ok(Some((tag.wire_type, self.wire.value(tag.wire_type)?)))
    }
}

impl MessagePlan {
    /// Reads the message that the payload is, as one more row of `columns`.
    pub(super) fn read(
        &mut self,
        span: Span,
        columns: &mut Columns,
        context: &mut Context<'_>,
    ) -> Parsed<()> {
        self.read_message(Value::Raw(span.to_raw()), columns, context)
    }

    fn read_message(&mut self, value: Value, columns: &mut Columns, context: &mut Context<'_>) -> Parsed<()> {
        let runs_before = context.runs.len();
        self.scan(value, context)?;
        self.check_required()?;
        self.append(columns, context)?;
        context.runs.truncate(runs_before);
        Ok(())
    }

    /// Finds what counts of each field of the message.
    fn scan(&mut self, value: Value, context: &mut Context<'_>) -> Parsed<()> {
        self.message += 1;
        match value {
            Value::Raw(raw) => self.scan_span(Span::from_raw(raw), context),
            Value::Runs(first) => {
                let mut occurring = Occurring::new(context.payload, first);
                while let Some((_, raw)) = occurring.next(context)? {
                    self.scan_span(Span::from_raw(raw), context)?;
                }
                Ok(())
            }
        }
    }

    fn scan_span(&mut self, span: Span, context: &mut Context<'_>) -> Parsed<()> {
        let mut wire = Wire::new(context.payload, span);
        loop {
            let start = wire.at();
            let Some(tag) = wire.tag()? else { return Ok(()) };
            match self.numbers.slot(tag.number) {
                Some(slot) => self.note(slot, start, tag, &mut wire, context)?,
                None if context.refuse_unknown_fields => return Err(unknown_number(tag.number)),
                None => wire.skip(tag, context.depth_max)?,
            }
        }
    }

    /// Reads the value after `tag`, which starts at byte `start` and is that of `slot`, and keeps what counts.
    #[inline]
    fn note(
        &mut self,
        index: usize,
        start: u32,
        tag: Tag,
        wire: &mut Wire<'_>,
        context: &mut Context<'_>,
    ) -> Parsed<()> {
        let slot = &self.slots[index];
        if !slot.wanted && context.refuse_unknown_fields {
            return Err(unknown_name(&slot.name));
        }
        if let Some(oneof) = slot.oneof {
            let last = &mut self.last_of[oneof];
            if *last != index {
                self.seen[*last].message = 0;
                *last = index;
            }
        }
        slot.check_wire_type(tag.wire_type)?;
        let seen = &mut self.seen[index];
        if !slot.wanted {
            wire.skip(tag, context.depth_max)?;
        } else if slot.occurrences == Occurrences::Last {
            seen.raw = wire.value(tag.wire_type)?;
        } else {
            wire.value(tag.wire_type)?;
            let span = Span { start, end: wire.at() };
            seen.add_run(span, seen.message == self.message, context.runs);
        }
        seen.message = self.message;
        Ok(())
    }

    fn check_required(&self) -> Parsed<()> {
        match self.required.iter().find(|slot| self.seen[**slot].message != self.message) {
            None => Ok(()),
            Some(slot) => Err(missing(&self.slots[*slot].name)),
        }
    }

    /// Appends what the scan has found as one more row.
    fn append(&mut self, columns: &mut Columns, context: &mut Context<'_>) -> Parsed<()> {
        for (index, plan) in self.columns.iter_mut().enumerate() {
            let column = columns.column(index);
            let seen = plan.slot.map(|slot| (&self.slots[slot], self.seen[slot]));
            let appended = match seen.filter(|(_, seen)| seen.message == self.message) {
                Some((slot, seen)) => plan.convert.append(seen.value(slot), column, context),
                None => plan.append_absent(column, context),
            };
            appended.map_err(|fault| fault.within(column.field.name()))?;
        }
        columns.end_row();
        Ok(())
    }

    /// The value of slot `index` in the message scanned last, if it was there.
    fn raw(&self, index: usize) -> Option<u64> {
        let seen = self.seen[index];
        (seen.message == self.message).then_some(seen.raw)
    }
}

impl Slot {
    #[inline]
    fn check_wire_type(&self, found: WireType) -> Parsed<()> {
        let packed = self.occurrences == Occurrences::AllOrPacked && found == WireType::Length;
        if self.wire_type == found || packed {
            return Ok(());
        }
        if found == WireType::EndGroup {
            return Err(Fault::new(RejectReason::Undecodable, "a group ends that has not started"));
        }
        let problem = format!("expected {}, found {}", self.wire_type.as_str(), found.as_str());
        Err(Fault::new(RejectReason::WrongType, problem).within(&self.name))
    }
}

impl Seen {
    /// Adds an occurrence at the end of the chain; `again` if there is one.
    fn add_run(&mut self, span: Span, again: bool, runs: &mut Vec<Run>) {
        let new = runs.len() as u32;
        if again {
            let last = &mut runs[self.last as usize];
            if last.span.end == span.start {
                last.span.end = span.end;
                return;
            }
            last.next = new;
        } else {
            self.first = new;
        }
        self.last = new;
        runs.push(Run { span, next: NONE });
    }

    fn value(self, slot: &Slot) -> Value {
        match slot.occurrences {
            Occurrences::Last => Value::Raw(self.raw),
            Occurrences::All | Occurrences::AllOrPacked => Value::Runs(self.first),
        }
    }
}

impl ColumnPlan {
    /// Appends what stands for a field that is not there.
    fn append_absent(&mut self, column: &mut Column, context: &mut Context<'_>) -> Parsed<()> {
        match &self.absent {
            Absent::Raw(raw) => self.convert.append(Value::Raw(*raw), column, context),
            Absent::Empty => self.convert.append(Value::Runs(NONE), column, context),
            Absent::Bytes(bytes) => {
                context.grow(bytes.len())?;
                append_bytes(bytes, column)
            }
            Absent::Null if !column.field.is_nullable() => {
                Err(Fault::new(RejectReason::MissingField, "required, but missing"))
            }
            Absent::Null => {
                column.append_null();
                Ok(())
            }
        }
    }
}

impl Convert {
    /// Appends `value` to `column`.
    fn append(&mut self, value: Value, column: &mut Column, context: &mut Context<'_>) -> Parsed<()> {
        match (self, value) {
            (Convert::Scalar(scalar), Value::Raw(raw)) => scalar.append(raw, column, context),
            (Convert::Struct(plan), value) => {
                let Values::Struct(columns) = &mut column.values else { return Err(misfit(column)) };
                plan.read_message(value, columns, context)?;
                column.set_present();
                Ok(())
            }
            (Convert::Bytes, value) => append_message_bytes(value, column, context),
            (Convert::Timestamp(plan), value) => {
                let (seconds, nanos) = plan.scan_instant(value, context)?;
                append_timestamp(seconds, nanos, column)
            }
            (Convert::Duration(plan), value) => {
                let (seconds, nanos) = plan.scan_instant(value, context)?;
                append_duration(seconds, nanos, column)
            }
            (Convert::Date(plan), value) => append_date(plan.scan_numbers(value, context)?, column),
            (Convert::TimeOfDay(plan), value) => {
                append_time_of_day(plan.scan_numbers(value, context)?, column)
            }
            (Convert::Decimal(plan), value) => {
                let [unscaled, scale] = plan.scan_all(value, context, |plan| [plan.raw(0), plan.raw(1)])?;
                let unscaled = unscaled.map_or(Span::EMPTY, Span::from_raw).of(context.payload);
                append_unscaled(unscaled, scale.unwrap_or(0) as i32, column)
            }
            (Convert::Wrapper(plan, scalar), value) => {
                let raw = plan.scan_all(value, context, |plan| plan.raw(0))?;
                scalar.append(raw.unwrap_or(0), column, context)
            }
            (Convert::List(element, wire_type), Value::Runs(first)) => {
                append_list(element, *wire_type, first, column, context)
            }
            (Convert::Map(map), Value::Runs(first)) => map.append(first, column, context),
            (Convert::Nothing | Convert::Scalar(_) | Convert::List(..) | Convert::Map(_), _) => {
                Err(misfit(column))
            }
        }
    }
}

impl MessagePlan {
    /// Scans a message that has no columns of its own, and takes from it what `take` says.
    fn scan_all<T>(
        &mut self,
        value: Value,
        context: &mut Context<'_>,
        take: impl FnOnce(&Self) -> T,
    ) -> Parsed<T> {
        let runs_before = context.runs.len();
        self.scan(value, context)?;
        context.runs.truncate(runs_before);
        Ok(take(self))
    }

    /// The first `N` slots, which are of the type `int32`.
    fn scan_numbers<const N: usize>(&mut self, value: Value, context: &mut Context<'_>) -> Parsed<[i32; N]> {
        self.scan_all(value, context, |plan| std::array::from_fn(|slot| plan.raw(slot).unwrap_or(0) as i32))
    }

    /// Seconds and nanoseconds.
    fn scan_instant(&mut self, value: Value, context: &mut Context<'_>) -> Parsed<(i64, i32)> {
        let [seconds, nanos] = self.scan_all(value, context, |plan| [plan.raw(0), plan.raw(1)])?;
        Ok((seconds.unwrap_or(0) as i64, nanos.unwrap_or(0) as i32))
    }
}

fn append_list(
    element: &mut Convert,
    wire_type: WireType,
    first: u32,
    column: &mut Column,
    context: &mut Context<'_>,
) -> Parsed<()> {
    let Values::List(offsets, elements) = &mut column.values else { return Err(misfit(column)) };
    let row_bytes = element.row_bytes();
    let mut occurring = Occurring::new(context.payload, first);
    while let Some((found, raw)) = occurring.next(context)? {
        if found == wire_type {
            context.grow(row_bytes)?;
            let appended = element.append(Value::Raw(raw), elements, context);
            appended.map_err(|fault| fault.within_element())?;
        } else {
            append_packed(element, wire_type, Span::from_raw(raw), elements, context)?;
        }
    }
    offsets.push(elements.len() as i32);
    column.set_present();
    Ok(())
}

/// Appends the values that lie in `span` one after the other, without tags.
fn append_packed(
    element: &mut Convert,
    wire_type: WireType,
    span: Span,
    elements: &mut Column,
    context: &mut Context<'_>,
) -> Parsed<()> {
    let mut wire = Wire::new(context.payload, span);
    while !wire.is_at_end() {
        let raw = wire.value(wire_type)?;
        let appended = element.append(Value::Raw(raw), elements, context);
        appended.map_err(|fault| fault.within_element())?;
    }
    Ok(())
}

impl Convert {
    /// Bytes that a row takes which a message of no bytes fills; of anything else the payload has bytes.
    fn row_bytes(&self) -> usize {
        match self {
            Convert::Struct(plan) => plan.row_bytes,
            _ => 0,
        }
    }
}

/// The key of a map's entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Key<'a> {
    Text(&'a [u8]),
    Integer(i64),
    Unsigned(u64),
    Boolean(bool),
}

impl MapPlan {
    /// Appends the entries from run `first` on: of several with one key, the last.
    fn append(&mut self, first: u32, column: &mut Column, context: &mut Context<'_>) -> Parsed<()> {
        let Values::Map(offsets, entries) = &mut column.values else { return Err(misfit(column)) };
        let runs_before = context.runs.len();
        let mut last_of = HashMap::new();
        let mut occurring = Occurring::new(context.payload, first);
        let mut index = 0_u32;
        while let Some((_, raw)) = occurring.next(context)? {
            last_of.insert(self.scan_key(raw, context)?, index);
            context.runs.truncate(runs_before);
            index += 1;
        }
        let row_bytes = size_of::<i32>() + self.value.row_bytes();
        let mut occurring = Occurring::new(context.payload, first);
        let mut index = 0_u32;
        while let Some((_, raw)) = occurring.next(context)? {
            let key = self.scan_key(raw, context)?;
            if last_of.get(&key) == Some(&index) {
                context.grow(row_bytes)?;
                append_key(key, &mut entries.keys.bytes, context)?;
                entries.keys.close();
                let value = self.value_of_scanned();
                let appended = self.value.append(value, &mut entries.values, context);
                appended.map_err(|fault| fault.within_element())?;
            }
            context.runs.truncate(runs_before);
            index += 1;
        }
        offsets.push(entries.values.len() as i32);
        column.set_present();
        Ok(())
    }

    /// Scans an entry and returns its key.
    fn scan_key<'a>(&mut self, raw: u64, context: &mut Context<'a>) -> Parsed<Key<'a>> {
        self.entry.scan(Value::Raw(raw), context)?;
        let raw = self.entry.raw(0).unwrap_or(0);
        Ok(match &self.key {
            Scalar::String => Key::Text(Span::from_raw(raw).of(context.payload)),
            Scalar::Bool => Key::Boolean(raw != 0),
            Scalar::Uint64 | Scalar::Fixed64 => Key::Unsigned(raw),
            key => Key::Integer(key.integer(raw)),
        })
    }

    /// The value of the entry scanned last, or what stands for it.
    fn value_of_scanned(&self) -> Value {
        let seen = self.entry.seen[1];
        if seen.message == self.entry.message {
            return seen.value(&self.entry.slots[1]);
        }
        Value::Raw(self.value_absent)
    }
}

/// Appends `key` as text: the keys of maps are strings.
fn append_key(key: Key<'_>, out: &mut Vec<u8>, context: &mut Context<'_>) -> Parsed<()> {
    let text = match key {
        Key::Text(bytes) => {
            out.extend_from_slice(utf8(bytes)?.as_bytes());
            return Ok(());
        }
        Key::Integer(value) => value.to_string(),
        Key::Unsigned(value) => value.to_string(),
        Key::Boolean(value) => value.to_string(),
    };
    context.grow(text.len())?;
    out.extend_from_slice(text.as_bytes());
    Ok(())
}

impl Scalar {
    /// Appends the value that `raw` is on the wire.
    #[inline]
    fn append(&self, raw: u64, column: &mut Column, context: &mut Context<'_>) -> Parsed<()> {
        match self {
            Scalar::String | Scalar::Bytes => {
                return append_bytes(Span::from_raw(raw).of(context.payload), column);
            }
            Scalar::Enum(names) => return append_enum(names, raw as i32, column, context),
            Scalar::Uint64 | Scalar::Fixed64 if raw > i64::MAX as u64 => append_large(raw, column)?,
            Scalar::Float | Scalar::Double | Scalar::Bool => self.append_inexact(raw, column)?,
            _ => append_integer(self.integer(raw), column)?,
        }
        column.set_present();
        Ok(())
    }

    /// The whole number that `raw` is on the wire. Of 32-bit types the low 32 bits count, as in every implementation.
    #[inline]
    fn integer(&self, raw: u64) -> i64 {
        match self {
            Scalar::Int32 | Scalar::Sfixed32 | Scalar::Enum(_) => i64::from(raw as i32),
            Scalar::Uint32 | Scalar::Fixed32 => i64::from(raw as u32),
            Scalar::Sint32 => zigzag(u64::from(raw as u32)),
            Scalar::Sint64 => zigzag(raw),
            _ => raw as i64,
        }
    }

    fn append_inexact(&self, raw: u64, column: &mut Column) -> Parsed<()> {
        let float = f32::from_bits(raw as u32);
        match (self, &mut column.values) {
            (Scalar::Float, Values::Float32(values)) => values.push(float),
            (Scalar::Float, Values::Float64(values)) => values.push(f64::from(float)),
            (Scalar::Double, Values::Float64(values)) => values.push(f64::from_bits(raw)),
            (Scalar::Bool, Values::Boolean(values)) => values.append(raw != 0),
            _ => return Err(misfit(column)),
        }
        Ok(())
    }
}

#[inline]
fn append_integer(value: i64, column: &mut Column) -> Parsed<()> {
    fn narrow<T: TryFrom<i64>>(value: i64, values: &mut Vec<T>) -> bool {
        T::try_from(value).map(|value| values.push(value)).is_ok()
    }
    let fits = match &mut column.values {
        Values::Int64(values) => {
            values.push(value);
            true
        }
        Values::Int32(values) => narrow(value, values),
        Values::Int16(values) => narrow(value, values),
        Values::Int8(values) => narrow(value, values),
        Values::Float64(values) => {
            // Of 32 bits only, all of which a float64 holds exactly.
            values.push(value as f64);
            true
        }
        Values::Decimal(..) => return append_decimal(value.into(), column),
        _ => return Err(misfit(column)),
    };
    if fits { Ok(()) } else { Err(out_of_range(value.into(), column)) }
}

/// Appends a whole number beyond 63 bits.
fn append_large(value: u64, column: &mut Column) -> Parsed<()> {
    match &column.values {
        Values::Decimal(..) => append_decimal(value.into(), column),
        _ => Err(out_of_range(value.into(), column)),
    }
}

fn append_decimal(value: i128, column: &mut Column) -> Parsed<()> {
    let Values::Decimal(values, precision, scale) = &mut column.values else { return Err(misfit(column)) };
    let scaled = 10_i128.checked_pow(*scale as u32).and_then(|unit| value.checked_mul(unit));
    match scaled.filter(|scaled| scaled.unsigned_abs() < 10_u128.pow(u32::from(*precision))) {
        Some(scaled) => {
            values.push(scaled);
            Ok(())
        }
        None => Err(out_of_range(value, column)),
    }
}

fn append_bytes(bytes: &[u8], column: &mut Column) -> Parsed<()> {
    let slices = match &mut column.values {
        Values::String(slices) => {
            utf8(bytes)?;
            slices
        }
        Values::Binary(slices) => slices,
        _ => return Err(misfit(column)),
    };
    slices.bytes.extend_from_slice(bytes);
    slices.close();
    column.set_present();
    Ok(())
}

/// Appends the bytes of a message; of several occurrences end to end, which is the message they merge into.
fn append_message_bytes(value: Value, column: &mut Column, context: &mut Context<'_>) -> Parsed<()> {
    let Values::Binary(slices) = &mut column.values else { return Err(misfit(column)) };
    match value {
        Value::Raw(raw) => slices.bytes.extend_from_slice(Span::from_raw(raw).of(context.payload)),
        Value::Runs(first) => {
            let mut occurring = Occurring::new(context.payload, first);
            while let Some((_, raw)) = occurring.next(context)? {
                slices.bytes.extend_from_slice(Span::from_raw(raw).of(context.payload));
            }
        }
    }
    slices.close();
    column.set_present();
    Ok(())
}

/// Appends an enum's value: its number, or its name. A number that the enum does not name has no name to append, and
/// no other text would mean the same to those who read it.
fn append_enum(names: &EnumNames, number: i32, column: &mut Column, context: &mut Context<'_>) -> Parsed<()> {
    let Values::String(slices) = &mut column.values else {
        append_integer(number.into(), column)?;
        column.set_present();
        return Ok(());
    };
    let Some(name) = names.names.get(&number) else {
        let problem = format!("the enum {} has no name for {number}", names.full_name);
        return Err(Fault::new(RejectReason::InvalidValue, problem));
    };
    context.grow(name.len())?;
    slices.bytes.extend_from_slice(name.as_bytes());
    slices.close();
    column.set_present();
    Ok(())
}

/// Nanoseconds of a second.
const NANOS: i32 = 1_000_000_000;

/// Appends an instant, cut off below a microsecond, towards the past as from text.
fn append_timestamp(seconds: i64, nanos: i32, column: &mut Column) -> Parsed<()> {
    /// 0001-01-01T00:00:00Z to 9999-12-31T23:59:59Z, as `google/protobuf/timestamp.proto` says.
    const SECONDS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;
    let Values::Timestamp(values) = &mut column.values else { return Err(misfit(column)) };
    if !SECONDS.contains(&seconds) {
        let problem = format!("{seconds} seconds is not between the years 1 and 9999");
        return Err(Fault::new(RejectReason::OutOfRange, problem));
    }
    if !(0..NANOS).contains(&nanos) {
        let problem = format!("{nanos} nanoseconds is not between 0 and a second");
        return Err(Fault::new(RejectReason::InvalidValue, problem));
    }
    values.push(seconds * 1_000_000 + i64::from(nanos / 1000));
    column.set_present();
    Ok(())
}

/// Appends a length of time in microseconds, cut off below, towards zero.
fn append_duration(seconds: i64, nanos: i32, column: &mut Column) -> Parsed<()> {
    /// Ten thousand years, as `google/protobuf/duration.proto` says.
    const SECONDS_MAX: u64 = 315_576_000_000;
    let Values::Int64(values) = &mut column.values else { return Err(misfit(column)) };
    if seconds.unsigned_abs() > SECONDS_MAX {
        let problem = format!("{seconds} seconds is more than ten thousand years");
        return Err(Fault::new(RejectReason::OutOfRange, problem));
    }
    let same_sign = seconds == 0 || nanos == 0 || (seconds < 0) == (nanos < 0);
    if nanos.unsigned_abs() >= NANOS as u32 || !same_sign {
        let problem = format!("{seconds} seconds and {nanos} nanoseconds is not a duration");
        return Err(Fault::new(RejectReason::InvalidValue, problem));
    }
    values.push(seconds * 1_000_000 + i64::from(nanos / 1000));
    column.set_present();
    Ok(())
}

/// Appends a day, of the years 1 to 9999.
fn append_date([year, month, day]: [i32; 3], column: &mut Column) -> Parsed<()> {
    let Values::Date(values) = &mut column.values else { return Err(misfit(column)) };
    let fault = |reason, problem: &str| {
        Err(Fault::new(reason, format!("year {year}, month {month}, day {day}: {problem}")))
    };
    if [year, month, day].contains(&0) {
        return fault(RejectReason::InvalidValue, "a part is not told, so it is no date");
    }
    if !(1..=9999).contains(&year) {
        return fault(RejectReason::OutOfRange, "not between the years 1 and 9999");
    }
    match temporal::days(year, month, day) {
        Some(days) => values.push(days),
        None => return fault(RejectReason::InvalidValue, "there is no such day"),
    }
    column.set_present();
    Ok(())
}

/// Appends microseconds of the day, cut off below.
fn append_time_of_day([hours, minutes, seconds, nanos]: [i32; 4], column: &mut Column) -> Parsed<()> {
    let Values::Int64(values) = &mut column.values else { return Err(misfit(column)) };
    let sixty = 0..60;
    let is_time = (0..24).contains(&hours)
        && sixty.contains(&minutes)
        && sixty.contains(&seconds)
        && (0..NANOS).contains(&nanos);
    if !is_time {
        let problem =
            format!("{hours} h, {minutes} min, {seconds} s and {nanos} ns is no time between 0 and 24 h");
        return Err(Fault::new(RejectReason::InvalidValue, problem));
    }
    let seconds = i64::from((hours * 60 + minutes) * 60 + seconds);
    values.push(seconds * 1_000_000 + i64::from(nanos / 1000));
    column.set_present();
    Ok(())
}

/// Appends a decimal: its unscaled value in two's complement, big-endian, and how many decimals it has.
fn append_unscaled(unscaled: &[u8], decimals: i32, column: &mut Column) -> Parsed<()> {
    let Values::Decimal(values, precision, scale) = &mut column.values else { return Err(misfit(column)) };
    values.push(numbers::decimal_of_bytes(unscaled, decimals.into(), *precision, *scale)?);
    column.set_present();
    Ok(())
}

fn utf8(bytes: &[u8]) -> Parsed<&str> {
    std::str::from_utf8(bytes).map_err(|_| Fault::new(RejectReason::InvalidValue, "the text is not UTF-8"))
}

#[cold]
fn out_of_range(value: i128, column: &Column) -> Box<Fault> {
    let expected = type_name(column.field.data_type());
    Fault::new(RejectReason::OutOfRange, format!("{value} is out of the range of {expected}"))
}

#[cold]
fn missing(name: &str) -> Box<Fault> {
    Fault::new(RejectReason::MissingField, "required, but missing").within(name)
}

#[cold]
fn unknown_name(name: &str) -> Box<Fault> {
    Fault::new(RejectReason::UnknownField, "the schema has no such field").within(name)
}

#[cold]
fn unknown_number(number: u32) -> Box<Fault> {
    Fault::new(RejectReason::UnknownField, format!("neither schema nor message have a field number {number}"))
}

/// Cannot happen: a plan is made for the columns that it fills.
#[cold]
fn misfit(column: &Column) -> Box<Fault> {
    let expected = type_name(column.field.data_type());
    Fault::new(RejectReason::WrongType, format!("a value that cannot become {expected}"))
}
