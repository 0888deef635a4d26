//! Reads records into columns, along a [`Plan`].

use arrow::datatypes::FieldRef;

use super::input::Input;
use super::resolve::{FieldStep, Plan, RecordPlan, Root, Step};
use super::schema::{AvroSchema, Type, TypeId, Unit};
use crate::decode::columns::{Column, Columns, Slices, Values};
use crate::decode::numbers;
use crate::decode::reject::{Fault, Parsed, RejectReason};
use crate::decode::rows::Read;
use crate::fields::type_name;

/// Milliseconds of a day.
const DAY_MS: i32 = 86_400_000;

impl Plan {
    /// Reads the record that starts at byte `start` of `payload`, and ends with it, as one more row, if it is one.
    #[inline]
    pub(crate) fn read(
        &self,
        payload: &[u8],
        start: usize,
        depth_max: usize,
        columns: &mut Columns,
    ) -> Parsed<Read> {
        let mut input = Input::new(payload, start, depth_max);
        let read = match &self.root {
            Root::Record(plan) => read_record(&self.schema, plan, columns, &mut input).map(|()| Read::Row)?,
            Root::Union(branches) => match &branches[input.index(branches.len(), "branch")?] {
                Ok(plan) => read_record(&self.schema, plan, columns, &mut input).map(|()| Read::Row)?,
                Err(fault) => return Err(fault.clone()),
            },
            Root::Event(event) => event.read(&self.schema, columns, &mut input)?,
            Root::Events(branches) => match &branches[input.index(branches.len(), "branch")?] {
                Ok(event) => event.read(&self.schema, columns, &mut input)?,
                Err(fault) => return Err(fault.clone()),
            },
        };
        input.end()?;
        Ok(read)
    }
}

fn read_record(
    schema: &AvroSchema,
    plan: &RecordPlan,
    columns: &mut Columns,
    input: &mut Input<'_>,
) -> Parsed<()> {
    read_fields(schema, plan, columns, input)?;
    columns.end_row();
    Ok(())
}

/// Reads the fields of a record into their columns. The row is not ended.
pub(crate) fn read_fields(
    schema: &AvroSchema,
    plan: &RecordPlan,
    columns: &mut Columns,
    input: &mut Input<'_>,
) -> Parsed<()> {
    input.enter()?;
    for field in &plan.fields {
        match field {
            FieldStep::Read(index, step) => {
                let column = columns.column(*index);
                read_value(schema, step, column, input).map_err(|fault| fault.within(column.field.name()))?;
            }
            FieldStep::Skip(name, id) => {
                skip(schema, *id, input).map_err(|fault| fault.within(name))?;
            }
        }
    }
    for index in &plan.absent {
        columns.column(*index).append_null();
    }
    input.leave();
    Ok(())
}

/// Reads a value as one more row of `column`.
#[inline]
pub(crate) fn read_value(
    schema: &AvroSchema,
    step: &Step,
    column: &mut Column,
    input: &mut Input<'_>,
) -> Parsed<()> {
    let step = match step {
        Step::Nullable(null, value) => {
            if input.index(2, "branch")? == *null {
                return column.push_null();
            }
            &**value
        }
        Step::Null => return column.push_null(),
        Step::Union(branches) => match &branches[input.index(branches.len(), "branch")?] {
            Ok(Step::Null) => return column.push_null(),
            Ok(step) => step,
            Err(fault) => return Err(fault.clone()),
        },
        step => step,
    };
    match (step, &mut column.values) {
        (Step::Int, Values::Int32(values)) => values.push(input.int()?),
        (Step::Long, Values::Int64(values)) => values.push(input.long()?),
        (Step::String, Values::String(slices)) => slices.push(input.string()?.as_bytes()),
        (Step::Double, Values::Float64(values)) => values.push(input.double()?),
        (Step::Float, Values::Float32(values)) => values.push(input.float()?),
        (Step::Boolean, Values::Boolean(values)) => values.append(input.boolean()?),
        (Step::Timestamp(unit), Values::Timestamp(values)) => {
            values.push(micros(input.long()?, *unit, "timestamp")?);
        }
        (Step::Date, Values::Date(values)) => values.push(input.int()?),
        (Step::Enum(symbols), Values::String(slices)) => {
            let symbol = &symbols[input.index(symbols.len(), "symbol")?];
            input.spend(symbol.len())?;
            slices.push(symbol.as_bytes());
        }
        (Step::Decimal(scale, size), Values::Decimal(values, precision, to_scale)) => {
            let bytes = match size {
                Some(size) => input.fixed(*size)?,
                None => input.bytes()?,
            };
            values.push(numbers::decimal_of_bytes(bytes, *scale, *precision, *to_scale)?);
        }
        (Step::Record(plan), Values::Struct(columns)) => read_record(schema, plan, columns, input)?,
        (Step::Array(item), Values::List(offsets, element)) => {
            input.enter()?;
            input.blocks(|input| {
                read_value(schema, item, element, input).map_err(|fault| fault.within_element())
            })?;
            input.leave();
            offsets.push(element.len() as i32);
        }
        (Step::Map(value), Values::Map(offsets, entries)) => {
            input.enter()?;
            input.blocks(|input| {
                entries.keys.push(input.string()?.as_bytes());
                read_value(schema, value, &mut entries.values, input).map_err(|fault| fault.within_element())
            })?;
            input.leave();
            offsets.push(entries.end_map(offsets[offsets.len() - 1])?);
        }
        (Step::Int, Values::Int64(values)) => values.push(input.int()?.into()),
        (Step::Int, Values::Int16(values)) => values.push(narrowed(input.int()?.into(), "int16")?),
        (Step::Int, Values::Int8(values)) => values.push(narrowed(input.int()?.into(), "int8")?),
        (Step::Long, Values::Int32(values)) => values.push(narrowed(input.long()?, "int32")?),
        (Step::Long, Values::Int16(values)) => values.push(narrowed(input.long()?, "int16")?),
        (Step::Long, Values::Int8(values)) => values.push(narrowed(input.long()?, "int8")?),
        (Step::Int, Values::Float64(values)) => values.push(input.int()?.into()),
        (Step::Int, Values::Float32(values)) => values.push(input.int()? as f32), // the nearest one
        (Step::Long, Values::Float64(values)) => values.push(input.long()? as f64), // the nearest one
        (Step::Long, Values::Float32(values)) => values.push(input.long()? as f32), // the nearest one
        (Step::Float, Values::Float64(values)) => values.push(input.float()?.into()),
        (Step::Int, Values::Decimal(values, precision, scale)) => {
            values.push(numbers::rescaled(input.int()?.into(), 0, *precision, *scale)?);
        }
        (Step::Long, Values::Decimal(values, precision, scale)) => {
            values.push(numbers::rescaled(input.long()?.into(), 0, *precision, *scale)?);
        }
        (Step::Bytes, Values::Binary(slices)) => slices.push(input.bytes()?),
        (Step::Bytes, Values::String(slices)) => match std::str::from_utf8(input.bytes()?) {
            Ok(text) => slices.push(text.as_bytes()),
            Err(_) => return Err(Fault::new(RejectReason::InvalidValue, "the bytes are not UTF-8")),
        },
        (Step::String, Values::Binary(slices)) => slices.push(input.string()?.as_bytes()),
        (Step::Fixed(size), Values::Binary(slices)) => slices.push(input.fixed(*size)?),
        (Step::Uuid, Values::String(slices)) => push_uuid(input.fixed(16)?, slices),
        (Step::TimeMillis, Values::Int32(values)) => values.push(time_of_day(input.int()?)?),
        (Step::TimeMillis, Values::Int64(values)) => {
            values.push(i64::from(time_of_day(input.int()?)?) * 1000);
        }
        (Step::TimeMicros, Values::Int64(values)) => values.push(time_of_day(input.long()?)?),
        (Step::LocalTimestamp(unit), Values::Int64(values)) => {
            values.push(micros(input.long()?, *unit, "int64")?);
        }
        _ => return Err(mispaired(&column.field)),
    }
    column.set_present();
    Ok(())
}

/// A step that does not belong to the type of its column is our bug. The record is kept as a reject all the same.
#[cold]
fn mispaired(field: &FieldRef) -> Box<Fault> {
    debug_assert!(false, "resolution pairs steps with the types of their columns");
    let problem = format!(
        "isobar cannot read the writer's type as {}: please report this",
        type_name(field.data_type())
    );
    Fault::new(RejectReason::IncompatibleSchema, problem)
}

#[inline]
fn narrowed<T: TryFrom<i64>>(value: i64, type_name: &str) -> Parsed<T> {
    T::try_from(value).map_err(|_| numbers::out_of_range(&value.to_string(), type_name))
}

/// `value` in microseconds; what is below one is cut off, towards the past.
#[inline]
fn micros(value: i64, unit: Unit, type_name: &str) -> Parsed<i64> {
    match unit {
        Unit::Micros => Ok(value),
        Unit::Millis => {
            value.checked_mul(1000).ok_or_else(|| numbers::out_of_range(&format!("{value} ms"), type_name))
        }
        Unit::Nanos => Ok(value.div_euclid(1000)),
    }
}

/// Checks a time of day, in milliseconds if it is 32 bits wide and in microseconds otherwise.
#[inline]
fn time_of_day<T: TimeOfDay>(value: T) -> Parsed<T> {
    if value.is_within_a_day() {
        return Ok(value);
    }
    Err(Fault::new(RejectReason::InvalidValue, "a time of day is negative or of 24 hours and more"))
}

trait TimeOfDay: Copy {
    fn is_within_a_day(self) -> bool;
}

impl TimeOfDay for i32 {
    fn is_within_a_day(self) -> bool {
        (0..DAY_MS).contains(&self)
    }
}

impl TimeOfDay for i64 {
    fn is_within_a_day(self) -> bool {
        (0..i64::from(DAY_MS) * 1000).contains(&self)
    }
}

/// Appends the canonical text of a UUID.
fn push_uuid(uuid: &[u8], slices: &mut Slices) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (index, byte) in uuid.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            slices.bytes.push(b'-');
        }
        slices.bytes.extend([DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 0xf)]]);
    }
    slices.close();
}

/// Steps over a value, as strictly as if it were wanted. Fields without bytes are paid for, so that records in records
/// come to an end.
pub(crate) fn skip(schema: &AvroSchema, id: TypeId, input: &mut Input<'_>) -> Parsed<()> {
    match schema.get(id) {
        Type::Null => {}
        Type::Boolean => drop(input.boolean()?),
        Type::Int | Type::Date | Type::TimeMillis => drop(input.int()?),
        Type::Long | Type::TimeMicros | Type::Timestamp(_) | Type::LocalTimestamp(_) => drop(input.long()?),
        Type::Float => drop(input.float()?),
        Type::Double => drop(input.double()?),
        Type::Bytes | Type::BigDecimal | Type::Decimal { fixed: None, .. } => drop(input.bytes()?),
        Type::String | Type::UuidText => drop(input.string()?),
        Type::Fixed(fixed)
        | Type::Decimal { fixed: Some(fixed), .. }
        | Type::UuidFixed(fixed)
        | Type::Duration(fixed) => drop(input.fixed(fixed.size)?),
        Type::Enum { symbols, .. } => drop(input.index(symbols.len(), "symbol")?),
        Type::Array(items) => {
            input.enter()?;
            input.blocks(|input| skip(schema, *items, input))?;
            input.leave();
        }
        Type::Map(values) => {
            input.enter()?;
            input.blocks(|input| {
                input.string()?;
                skip(schema, *values, input)
            })?;
            input.leave();
        }
        Type::Union(branches) => {
            let branch = input.index(branches.len(), "branch")?;
            skip(schema, branches[branch], input)?;
        }
        Type::Record { fields, .. } => {
            input.enter()?;
            for field in fields {
                let before = input.at();
                skip(schema, field.of, input).map_err(|fault| fault.within(&field.name))?;
                if input.at() == before {
                    input.spend(1)?;
                }
            }
            input.leave();
        }
    }
    Ok(())
}
