//! Values of Arrow as PostgreSQL writes them, as text and in binary.
//!
//! The forms are those of the output and send functions of PostgreSQL's types; the tests hold what a server of version 15 sent.
//! What has no such form (a date beyond PostgreSQL's calendar, a NUL in a text that ends at one) is an error, never another
//! value.

use std::fmt::Write;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, LargeStringBuilder, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, Date32Type, Date64Type, Decimal32Type, Decimal64Type, Decimal128Type, Decimal256Type,
    DurationMicrosecondType, DurationMillisecondType, DurationNanosecondType, DurationSecondType, Field,
    FieldRef, Float16Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
    IntervalDayTimeType, IntervalMonthDayNanoType, IntervalUnit, IntervalYearMonthType, Schema,
    Time32MillisecondType, Time32SecondType, Time64MicrosecondType, Time64NanosecondType, TimeUnit,
    TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType,
    UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow::json::writer::make_encoder;
use bytes::{BufMut, BytesMut};
use pgwire::api::Type;

use super::failure::{Failure, code};
use super::types::{DAY_US, DAYS, EPOCH_DAYS, TIMESTAMPS_US, type_of};
use crate::query::json_options;

/// Columns that [`encode`] can write: without dictionaries, and with JSON for what has no type of its own.
pub(super) fn prepare(batch: &RecordBatch) -> Result<RecordBatch, Failure> {
    let schema = batch.schema();
    let mut columns = Vec::with_capacity(batch.num_columns());
    for (field, column) in schema.fields().iter().zip(batch.columns()) {
        columns.push(match type_of(field.data_type()) {
            Type::JSON => json(field, column)?,
            _ => match plain(field.data_type()) {
                Some(data_type) => cast(column, &data_type).map_err(|error| unwritable(field, &error))?,
                None => column.clone(),
            },
        });
    }
    let fields: Vec<Field> = schema
        .fields()
        .iter()
        .zip(&columns)
        .map(|(field, column)| Field::new(field.name(), column.data_type().clone(), true))
        .collect();
    let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options)
        .map_err(|error| Failure::new(code::INTERNAL, error.to_string()))
}

/// What a type becomes without dictionaries, run ends and views of lists; `None` if it has none.
fn plain(data_type: &DataType) -> Option<DataType> {
    match data_type {
        DataType::Dictionary(_, values) => Some(plain(values).unwrap_or_else(|| (**values).clone())),
        DataType::RunEndEncoded(_, values) => {
            Some(plain(values.data_type()).unwrap_or_else(|| values.data_type().clone()))
        }
        DataType::List(element) | DataType::FixedSizeList(element, _) => {
            Some(DataType::List(Arc::new(element_of(element, plain(element.data_type())?))))
        }
        DataType::LargeList(element) => {
            Some(DataType::LargeList(Arc::new(element_of(element, plain(element.data_type())?))))
        }
        DataType::ListView(element) | DataType::LargeListView(element) => {
            let inner = plain(element.data_type()).unwrap_or_else(|| element.data_type().clone());
            Some(DataType::LargeList(Arc::new(element_of(element, inner))))
        }
        _ => None,
    }
}

fn element_of(element: &FieldRef, data_type: DataType) -> Field {
    Field::new(element.name(), data_type, element.is_nullable())
}

/// The values of a column as JSON, in the form of `isobar query --format json`.
fn json(field: &FieldRef, column: &ArrayRef) -> Result<ArrayRef, Failure> {
    let options = json_options();
    let mut encoder = make_encoder(field, column, &options).map_err(|error| unwritable(field, &error))?;
    let (mut texts, mut text) = (LargeStringBuilder::new(), Vec::new());
    for row in 0..column.len() {
        if encoder.is_null(row) {
            texts.append_null();
            continue;
        }
        text.clear();
        encoder.encode(row, &mut text);
        texts.append_value(String::from_utf8_lossy(&text));
    }
    Ok(Arc::new(texts.finish()))
}

fn unwritable(field: &Field, error: &arrow::error::ArrowError) -> Failure {
    let message = format!("column \"{}\" cannot be written: {error}; leave it out or cast it", field.name());
    Failure::new(code::FEATURE_NOT_SUPPORTED, message)
}

/// Writes rows of a batch that was [prepared](prepare), beginning with `row`, as messages, until there are `bytes_max` bytes in
/// `buffer`. `binary` says of each column how. Returns the first row that was not written.
pub(super) fn encode(
    batch: &RecordBatch,
    mut row: usize,
    rows_max: usize,
    binary: &[bool],
    buffer: &mut BytesMut,
    bytes_max: usize,
) -> Result<usize, Failure> {
    let columns = i16::try_from(batch.num_columns())
        .map_err(|_| Failure::new(code::PROGRAM_LIMIT, "more columns than a row can have"))?;
    let end = batch.num_rows().min(row.saturating_add(rows_max));
    while row < end && buffer.len() < bytes_max {
        let start = buffer.len();
        buffer.put_u8(b'D');
        buffer.put_i32(0);
        buffer.put_i16(columns);
        let mut written = Ok(());
        for (at, column) in batch.columns().iter().enumerate() {
            let is_binary = binary.get(at).copied().unwrap_or(false);
            written = written.and_then(|()| field(column, row, is_binary, buffer));
        }
        let length = written.and_then(|()| length_from(buffer, start + 1));
        match length {
            Ok(length) => buffer[start + 1..start + 5].copy_from_slice(&length.to_be_bytes()),
            Err(failure) => {
                // What the client gets are whole messages.
                buffer.truncate(start);
                return Err(failure);
            }
        }
        row += 1;
    }
    Ok(row)
}

/// Bytes behind `start`.
fn length_from(buffer: &BytesMut, start: usize) -> Result<i32, Failure> {
    i32::try_from(buffer.len() - start)
        .map_err(|_| Failure::new(code::PROGRAM_LIMIT, "a value or row is larger than 2 GiB"))
}

/// A value with its length, or that it is null.
fn field(array: &dyn Array, row: usize, is_binary: bool, out: &mut BytesMut) -> Result<(), Failure> {
    if array.data_type() == &DataType::Null || array.is_null(row) {
        out.put_i32(-1);
        return Ok(());
    }
    let start = out.len();
    out.put_i32(0);
    value(array, row, is_binary, out)?;
    let length = length_from(out, start + 4)?;
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
    Ok(())
}

/// A value that is not null.
fn value(array: &dyn Array, row: usize, is_binary: bool, out: &mut BytesMut) -> Result<(), Failure> {
    macro_rules! primitive {
        ($kind:ty) => {
            array.as_primitive::<$kind>().value(row)
        };
    }
    macro_rules! number {
        ($kind:ty, $as:ty) => {{
            let number = <$as>::from(primitive!($kind));
            if is_binary {
                out.put_slice(&number.to_be_bytes());
            } else {
                put(out, format_args!("{number}"));
            }
        }};
    }
    match array.data_type() {
        DataType::Boolean => {
            let is_true = array.as_boolean().value(row);
            out.put_u8(match is_binary {
                true => u8::from(is_true),
                false if is_true => b't',
                false => b'f',
            });
        }
        DataType::Int8 => number!(Int8Type, i16),
        DataType::Int16 => number!(Int16Type, i16),
        DataType::UInt8 => number!(UInt8Type, i16),
        DataType::Int32 => number!(Int32Type, i32),
        DataType::UInt16 => number!(UInt16Type, i32),
        DataType::Int64 => number!(Int64Type, i64),
        DataType::UInt32 => number!(UInt32Type, i64),
        DataType::UInt64 => numeric(&primitive!(UInt64Type).to_string(), 0, is_binary, out),
        DataType::Decimal32(_, scale) => {
            numeric(&primitive!(Decimal32Type).to_string(), *scale, is_binary, out);
        }
        DataType::Decimal64(_, scale) => {
            numeric(&primitive!(Decimal64Type).to_string(), *scale, is_binary, out);
        }
        DataType::Decimal128(_, scale) => {
            numeric(&primitive!(Decimal128Type).to_string(), *scale, is_binary, out);
        }
        DataType::Decimal256(_, scale) => {
            numeric(&primitive!(Decimal256Type).to_string(), *scale, is_binary, out);
        }
        DataType::Float16 => float4(primitive!(Float16Type).to_f32(), is_binary, out),
        DataType::Float32 => float4(primitive!(Float32Type), is_binary, out),
        DataType::Float64 if is_binary => out.put_f64(primitive!(Float64Type)),
        DataType::Float64 => {
            let number = primitive!(Float64Type);
            float_text(number, &format!("{number:e}"), 15, out);
        }
        DataType::Utf8 => text(array.as_string::<i32>().value(row), is_binary, out)?,
        DataType::LargeUtf8 => text(array.as_string::<i64>().value(row), is_binary, out)?,
        DataType::Utf8View => text(array.as_string_view().value(row), is_binary, out)?,
        DataType::Binary => bytes(array.as_binary::<i32>().value(row), is_binary, out),
        DataType::LargeBinary => bytes(array.as_binary::<i64>().value(row), is_binary, out),
        DataType::BinaryView => bytes(array.as_binary_view().value(row), is_binary, out),
        DataType::FixedSizeBinary(_) => bytes(array.as_fixed_size_binary().value(row), is_binary, out),
        DataType::Date32 => date(i64::from(primitive!(Date32Type)), is_binary, out)?,
        DataType::Date64 => date(primitive!(Date64Type).div_euclid(86_400_000), is_binary, out)?,
        DataType::Time32(TimeUnit::Second) => {
            time(i64::from(primitive!(Time32SecondType)) * 1_000_000, is_binary, out);
        }
        DataType::Time32(_) => time(i64::from(primitive!(Time32MillisecondType)) * 1_000, is_binary, out),
        DataType::Time64(TimeUnit::Microsecond) => time(primitive!(Time64MicrosecondType), is_binary, out),
        DataType::Time64(_) => time(primitive!(Time64NanosecondType) / 1_000, is_binary, out),
        DataType::Timestamp(unit, zone) => {
            let us = match unit {
                TimeUnit::Second => primitive!(TimestampSecondType).checked_mul(1_000_000),
                TimeUnit::Millisecond => primitive!(TimestampMillisecondType).checked_mul(1_000),
                TimeUnit::Microsecond => Some(primitive!(TimestampMicrosecondType)),
                TimeUnit::Nanosecond => Some(primitive!(TimestampNanosecondType).div_euclid(1_000)),
            };
            timestamp(us.ok_or_else(|| beyond("timestamp"))?, zone.is_some(), is_binary, out)?;
        }
        DataType::Duration(unit) => {
            let us = match unit {
                TimeUnit::Second => primitive!(DurationSecondType).checked_mul(1_000_000),
                TimeUnit::Millisecond => primitive!(DurationMillisecondType).checked_mul(1_000),
                TimeUnit::Microsecond => Some(primitive!(DurationMicrosecondType)),
                TimeUnit::Nanosecond => Some(primitive!(DurationNanosecondType) / 1_000),
            };
            interval(0, 0, us.ok_or_else(|| beyond("interval"))?, is_binary, out);
        }
        DataType::Interval(IntervalUnit::YearMonth) => {
            interval(primitive!(IntervalYearMonthType), 0, 0, is_binary, out);
        }
        DataType::Interval(IntervalUnit::DayTime) => {
            let value = primitive!(IntervalDayTimeType);
            interval(0, value.days, i64::from(value.milliseconds) * 1_000, is_binary, out);
        }
        DataType::Interval(IntervalUnit::MonthDayNano) => {
            let value = primitive!(IntervalMonthDayNanoType);
            interval(value.months, value.days, value.nanoseconds / 1_000, is_binary, out);
        }
        DataType::List(_) => list(&array.as_list::<i32>().value(row), is_binary, out)?,
        DataType::LargeList(_) => list(&array.as_list::<i64>().value(row), is_binary, out)?,
        DataType::FixedSizeList(..) => list(&array.as_fixed_size_list().value(row), is_binary, out)?,
        other => {
            return Err(Failure::new(
                code::FEATURE_NOT_SUPPORTED,
                format!("a value of type {other}: cast it"),
            ));
        }
    }
    Ok(())
}

fn put(out: &mut BytesMut, text: std::fmt::Arguments<'_>) {
    let written = out.write_fmt(text);
    debug_assert!(written.is_ok(), "a buffer grows");
}

fn beyond(kind: &str) -> Failure {
    Failure::new(
        code::DATETIME_OVERFLOW,
        format!("{kind} out of range: beyond what PostgreSQL's {kind}s can be"),
    )
}

/// In text, C programs see the end of a value at the first NUL, and PostgreSQL has none in any.
fn text(value: &str, is_binary: bool, out: &mut BytesMut) -> Result<(), Failure> {
    if !is_binary && value.contains('\0') {
        let message = "a text holds the character NUL, which no text of PostgreSQL can: read it in binary format, or write \
                       replace(…, chr(0), '')";
        return Err(Failure::new(code::UNTRANSLATABLE, message));
    }
    out.put_slice(value.as_bytes());
    Ok(())
}

fn bytes(value: &[u8], is_binary: bool, out: &mut BytesMut) {
    if is_binary {
        out.put_slice(value);
    } else {
        put(out, format_args!("\\x{}", hex::encode(value)));
    }
}

fn float4(number: f32, is_binary: bool, out: &mut BytesMut) {
    if is_binary {
        out.put_f32(number);
    } else {
        float_text(f64::from(number), &format!("{number:e}"), 6, out);
    }
}

/// The shortest digits that give the number back, which `scientific` has; with an exponent if it is below -4 or not below
/// `exponent_max`.
fn float_text(number: f64, scientific: &str, exponent_max: i32, out: &mut BytesMut) {
    if number.is_nan() {
        return out.put_slice(b"NaN");
    }
    if number.is_infinite() {
        return out.put_slice(if number > 0.0 { &b"Infinity"[..] } else { &b"-Infinity"[..] });
    }
    let (digits, exponent) = scientific.split_once('e').unwrap_or((scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if exponent < -4 || exponent >= exponent_max {
        let sign = if exponent < 0 { '-' } else { '+' };
        return put(out, format_args!("{digits}e{sign}{:02}", exponent.unsigned_abs()));
    }
    let (sign, digits) = digits.strip_prefix('-').map_or(("", digits), |digits| ("-", digits));
    let digits = digits.replace('.', "");
    let point = exponent + 1;
    match usize::try_from(point) {
        Ok(point) if point >= digits.len() => {
            put(out, format_args!("{sign}{digits:0<point$}"));
        }
        Ok(point) if point > 0 => {
            let (whole, rest) = digits.split_at(point);
            put(out, format_args!("{sign}{whole}.{rest}"));
        }
        _ => {
            let zeros = "0".repeat(point.unsigned_abs() as usize);
            put(out, format_args!("{sign}0.{zeros}{digits}"));
        }
    }
}

/// A number of decimal digits: a whole number, and how many of its digits stand behind the point.
fn numeric(unscaled: &str, scale: i8, is_binary: bool, out: &mut BytesMut) {
    let (is_negative, digits) = match unscaled.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, unscaled),
    };
    let mut digits = digits.to_owned();
    let behind = match usize::try_from(scale) {
        Ok(scale) => scale,
        Err(_) => {
            if digits != "0" {
                digits.push_str(&"0".repeat(usize::from(scale.unsigned_abs())));
            }
            0
        }
    };
    if digits.len() <= behind {
        digits.insert_str(0, &"0".repeat(behind + 1 - digits.len()));
    }
    let (whole, rest) = digits.split_at(digits.len() - behind);
    if !is_binary {
        let (sign, point) = (if is_negative { "-" } else { "" }, if behind > 0 { "." } else { "" });
        return put(out, format_args!("{sign}{whole}{point}{rest}"));
    }
    // Groups of four digits, from the point to both sides.
    let whole = format!("{whole:0>width$}", width = whole.len().next_multiple_of(4));
    let rest = format!("{rest:0<width$}", width = rest.len().next_multiple_of(4));
    let group = |group: &[u8]| group.iter().fold(0, |number, digit| number * 10 + i16::from(digit - b'0'));
    let groups: Vec<i16> = whole.as_bytes().chunks(4).chain(rest.as_bytes().chunks(4)).map(group).collect();
    let first = groups.iter().position(|group| *group != 0);
    let last = groups.iter().rposition(|group| *group != 0);
    let (kept, weight) = match (first, last) {
        (Some(first), Some(last)) => (&groups[first..=last], whole.len() / 4 - 1),
        _ => (&groups[..0], 0),
    };
    let skipped = if kept.is_empty() { 0 } else { first.unwrap_or(0) };
    out.put_i16(kept.len() as i16);
    out.put_i16(weight as i16 - skipped as i16);
    out.put_u16(if is_negative && !kept.is_empty() { 0x4000 } else { 0 });
    out.put_u16(behind as u16);
    kept.iter().for_each(|group| out.put_i16(*group));
}

/// Year, month and day of a day since 1970, in the calendar of Gregory, also before him. The year before 1 is 0.
fn civil(days: i64) -> (i64, i64, i64) {
    // The method of Howard Hinnant's `civil_from_days`: years begin in March, so that a leap day is the last.
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// The date, and what follows everything else if it is before Christ.
fn date_text(days: i64, out: &mut BytesMut) -> &'static str {
    let (year, month, day) = civil(days);
    let (year, era) = if year > 0 { (year, "") } else { (1 - year, " BC") };
    put(out, format_args!("{year:04}-{month:02}-{day:02}"));
    era
}

fn date(days: i64, is_binary: bool, out: &mut BytesMut) -> Result<(), Failure> {
    if !DAYS.contains(&days) {
        return Err(beyond("date"));
    }
    if is_binary {
        out.put_i32((days - EPOCH_DAYS) as i32);
    } else {
        let era = date_text(days, out);
        out.put_slice(era.as_bytes());
    }
    Ok(())
}

/// Hours, minutes and seconds, with as many digits of a second as there are.
fn clock_text(us: u64, out: &mut BytesMut) {
    let (seconds, fraction) = (us / 1_000_000, us % 1_000_000);
    put(out, format_args!("{:02}:{:02}:{:02}", seconds / 3_600, seconds / 60 % 60, seconds % 60));
    if fraction > 0 {
        let digits = format!("{fraction:06}");
        put(out, format_args!(".{}", digits.trim_end_matches('0')));
    }
}

fn time(us: i64, is_binary: bool, out: &mut BytesMut) {
    if is_binary {
        out.put_i64(us);
    } else {
        clock_text(us.unsigned_abs(), out);
    }
}

fn timestamp(us: i64, has_zone: bool, is_binary: bool, out: &mut BytesMut) -> Result<(), Failure> {
    let since_2000 = us.checked_sub(EPOCH_DAYS * DAY_US);
    let since_2000 = since_2000.filter(|us| TIMESTAMPS_US.contains(us)).ok_or_else(|| beyond("timestamp"))?;
    if is_binary {
        out.put_i64(since_2000);
        return Ok(());
    }
    let era = date_text(us.div_euclid(DAY_US), out);
    out.put_u8(b' ');
    clock_text(us.rem_euclid(DAY_US).unsigned_abs(), out);
    put(out, format_args!("{}{era}", if has_zone { "+00" } else { "" }));
    Ok(())
}

/// In the style `postgres`: `1 year 2 mons 3 days 04:05:06.789`. A part with the other sign than the one before has its sign.
fn interval(months: i32, days: i32, us: i64, is_binary: bool, out: &mut BytesMut) {
    if is_binary {
        out.put_i64(us);
        out.put_i32(days);
        out.put_i32(months);
        return;
    }
    let (mut is_first, mut was_negative) = (true, false);
    for (number, unit) in [(months / 12, "year"), (months % 12, "mon"), (days, "day")] {
        if number == 0 {
            continue;
        }
        let space = if is_first { "" } else { " " };
        let sign = if was_negative && number > 0 { "+" } else { "" };
        let plural = if number == 1 { "" } else { "s" };
        put(out, format_args!("{space}{sign}{number} {unit}{plural}"));
        (is_first, was_negative) = (false, number < 0);
    }
    if is_first || us != 0 {
        let space = if is_first { "" } else { " " };
        let sign = match us {
            ..0 => "-",
            _ if was_negative => "+",
            _ => "",
        };
        put(out, format_args!("{space}{sign}"));
        clock_text(us.unsigned_abs(), out);
    }
}

/// An array of one dimension, whose first element has the number 1.
fn list(elements: &ArrayRef, is_binary: bool, out: &mut BytesMut) -> Result<(), Failure> {
    let element = type_of(elements.data_type());
    if is_binary {
        let is_empty = elements.is_empty();
        let has_nulls = elements.data_type() == &DataType::Null || elements.null_count() > 0;
        out.put_i32(i32::from(!is_empty));
        out.put_i32(i32::from(!is_empty && has_nulls));
        out.put_u32(element.oid());
        if !is_empty {
            let length = i32::try_from(elements.len());
            out.put_i32(length.map_err(|_| Failure::new(code::PROGRAM_LIMIT, "a list is too long"))?);
            out.put_i32(1);
        }
        return (0..elements.len()).try_for_each(|at| field(elements, at, true, out));
    }
    out.put_u8(b'{');
    let mut text = BytesMut::new();
    for at in 0..elements.len() {
        if at > 0 {
            out.put_u8(b',');
        }
        if elements.data_type() == &DataType::Null || elements.is_null(at) {
            out.put_slice(b"NULL");
            continue;
        }
        text.clear();
        value(elements, at, false, &mut text)?;
        if !needs_quotes(&text) {
            out.put_slice(&text);
            continue;
        }
        out.put_u8(b'"');
        for byte in &text {
            if matches!(byte, b'"' | b'\\') {
                out.put_u8(b'\\');
            }
            out.put_u8(*byte);
        }
        out.put_u8(b'"');
    }
    out.put_u8(b'}');
    Ok(())
}

/// Whether an element of an array would be read as something else without them.
fn needs_quotes(text: &[u8]) -> bool {
    let is_special = |byte: &u8| {
        matches!(byte, b'{' | b'}' | b',' | b'"' | b'\\' | b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c)
    };
    text.is_empty() || text.eq_ignore_ascii_case(b"NULL") || text.iter().any(is_special)
}

#[cfg(test)]
mod tests;
