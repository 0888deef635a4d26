//! Values for the placeholders of a query, out of what clients send.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, IntervalMonthDayNano, IntervalUnit, TimeUnit, i256};
use bytes::{Buf, Bytes};
use datafusion::common::ScalarValue;
use pgwire::api::Type;

use super::failure::{Failure, code};
use super::types::{DAY_US, DAYS, EPOCH_DAYS, TIMESTAMPS_US};

/// Most digits of a number.
const DIGITS_MAX: usize = 76;
/// Most elements of an array: each takes many times the memory of the two bytes that it may be sent as.
const ELEMENTS_MAX: usize = 100_000;

/// The type of the parameter that a client has given a number for; `None` for those that it leaves to us.
pub(super) fn type_with(oid: u32) -> Result<Option<Type>, Failure> {
    if oid == 0 || oid == Type::UNKNOWN.oid() {
        return Ok(None);
    }
    let data_type = Type::from_oid(oid).filter(|data_type| arrow_of(data_type).is_some());
    data_type.map(Some).ok_or_else(|| {
        let message = format!(
            "parameters of the type with the number {oid} are not understood: send a text, and cast it"
        );
        Failure::new(code::FEATURE_NOT_SUPPORTED, message)
    })
}

/// What the values of a type are here.
fn arrow_of(data_type: &Type) -> Option<DataType> {
    Some(match *data_type {
        Type::BOOL => DataType::Boolean,
        Type::INT2 => DataType::Int16,
        Type::INT4 => DataType::Int32,
        Type::INT8 | Type::OID => DataType::Int64,
        Type::FLOAT4 => DataType::Float32,
        Type::FLOAT8 => DataType::Float64,
        Type::NUMERIC => DataType::Decimal128(38, 10),
        Type::TEXT
        | Type::VARCHAR
        | Type::BPCHAR
        | Type::NAME
        | Type::CHAR
        | Type::JSON
        | Type::UUID
        | Type::UNKNOWN => DataType::Utf8,
        Type::BYTEA => DataType::Binary,
        Type::DATE => DataType::Date32,
        Type::TIME => DataType::Time64(TimeUnit::Microsecond),
        Type::TIMESTAMP => DataType::Timestamp(TimeUnit::Microsecond, None),
        Type::TIMESTAMPTZ => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        Type::INTERVAL => DataType::Interval(IntervalUnit::MonthDayNano),
        _ => DataType::List(Arc::new(Field::new_list_field(arrow_of(&element_of(data_type)?)?, true))),
    })
}

/// The elements of an array.
fn element_of(array: &Type) -> Option<Type> {
    Some(match *array {
        Type::BOOL_ARRAY => Type::BOOL,
        Type::INT2_ARRAY => Type::INT2,
        Type::INT4_ARRAY => Type::INT4,
        Type::INT8_ARRAY => Type::INT8,
        Type::OID_ARRAY => Type::OID,
        Type::FLOAT4_ARRAY => Type::FLOAT4,
        Type::FLOAT8_ARRAY => Type::FLOAT8,
        Type::NUMERIC_ARRAY => Type::NUMERIC,
        Type::TEXT_ARRAY => Type::TEXT,
        Type::VARCHAR_ARRAY => Type::VARCHAR,
        Type::UUID_ARRAY => Type::UUID,
        Type::BYTEA_ARRAY => Type::BYTEA,
        Type::DATE_ARRAY => Type::DATE,
        Type::TIME_ARRAY => Type::TIME,
        Type::TIMESTAMP_ARRAY => Type::TIMESTAMP,
        Type::TIMESTAMPTZ_ARRAY => Type::TIMESTAMPTZ,
        Type::INTERVAL_ARRAY => Type::INTERVAL,
        _ => return None,
    })
}

/// No value, of a type.
pub(super) fn null_of(data_type: &Type) -> ScalarValue {
    let null = arrow_of(data_type).and_then(|data_type| ScalarValue::try_from(&data_type).ok());
    null.unwrap_or(ScalarValue::Utf8(None))
}

/// The value of parameter `number`, which counts from 1.
pub(super) fn decode(
    number: usize,
    data_type: &Type,
    is_binary: bool,
    value: Option<&Bytes>,
) -> Result<ScalarValue, Failure> {
    let Some(value) = value else { return Ok(null_of(data_type)) };
    if is_binary {
        return of_binary(data_type, value.clone()).ok_or_else(|| {
            let what = described(data_type);
            let message = format!("incorrect binary data format in bind parameter {number}, of type {what}");
            Failure::new(code::INVALID_BINARY, message)
        });
    }
    let wrong = |message: String| Failure::new(code::INVALID_TEXT, message);
    let text = std::str::from_utf8(value)
        .map_err(|_| Failure::new(code::NOT_IN_REPERTOIRE, "invalid byte sequence for encoding \"UTF8\""))?;
    of_text(data_type, text).ok_or_else(|| {
        wrong(format!(
            "invalid input syntax for type {} in bind parameter {number}: \"{}\"",
            described(data_type),
            shortened(text)
        ))
    })
}

/// What a value must be.
fn described(data_type: &Type) -> String {
    match element_of(data_type) {
        Some(_) => format!("{data_type} (one dimension, at most {ELEMENTS_MAX} elements)"),
        None => data_type.to_string(),
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(100).collect()
}

fn of_text(data_type: &Type, text: &str) -> Option<ScalarValue> {
    let trimmed = text.trim();
    Some(match *data_type {
        Type::BOOL => ScalarValue::Boolean(Some(boolean(trimmed)?)),
        Type::INT2 => ScalarValue::Int16(Some(trimmed.parse().ok()?)),
        Type::INT4 => ScalarValue::Int32(Some(trimmed.parse().ok()?)),
        Type::INT8 | Type::OID => ScalarValue::Int64(Some(trimmed.parse().ok()?)),
        Type::FLOAT4 => ScalarValue::Float32(Some(trimmed.parse().ok()?)),
        Type::FLOAT8 => ScalarValue::Float64(Some(trimmed.parse().ok()?)),
        Type::NUMERIC => decimals(&[Some(Digits::of_text(trimmed)?)])?.pop()?,
        Type::BYTEA => ScalarValue::Binary(Some(hex::decode(trimmed.strip_prefix("\\x")?).ok()?)),
        Type::DATE | Type::TIMESTAMP => {
            ScalarValue::try_from_string(without_zone(trimmed).to_owned(), &arrow_of(data_type)?).ok()?
        }
        Type::TIME | Type::TIMESTAMPTZ | Type::INTERVAL => {
            ScalarValue::try_from_string(trimmed.to_owned(), &arrow_of(data_type)?).ok()?
        }
        _ => match element_of(data_type) {
            Some(element) => {
                let texts = elements(trimmed)?;
                if element == Type::NUMERIC {
                    let digits = texts.iter().map(|text| match text {
                        Some(text) => Digits::of_text(text).map(Some),
                        None => Some(None),
                    });
                    return list(&element, decimals(&digits.collect::<Option<Vec<_>>>()?)?);
                }
                let values = texts.iter().map(|text| match text {
                    Some(text) => of_text(&element, text),
                    None => Some(null_of(&element)),
                });
                return list(&element, values.collect::<Option<Vec<_>>>()?);
            }
            None => ScalarValue::Utf8(Some(text.to_owned())),
        },
    })
}

/// `text` without the zone behind it. PostgreSQL passes over it where a type has none, and JDBC writes it all the same.
fn without_zone(text: &str) -> &str {
    // Behind a date, which has signs of its own.
    let mut behind = text.char_indices().skip("2013-07-01".len());
    let Some((at, sign)) = behind.find(|(_, sign)| matches!(sign, '+' | '-' | 'Z')) else { return text };
    let (rest, zone) = text.split_at(at);
    let is_zone = match sign {
        'Z' => zone.len() == 1,
        _ => zone.len() > 2 && zone[1..].bytes().all(|byte| byte.is_ascii_digit() || byte == b':'),
    };
    if is_zone { rest.trim_end() } else { text }
}

fn boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "t" | "true" | "y" | "yes" | "on" | "1" => Some(true),
        "f" | "false" | "n" | "no" | "off" | "0" => Some(false),
        _ => None,
    }
}

/// An array of values that are of one type.
fn list(element: &Type, values: Vec<ScalarValue>) -> Option<ScalarValue> {
    let data_type = match values.iter().find(|value| !value.is_null()) {
        // Numbers have the precision that they need.
        Some(value) => value.data_type(),
        None => arrow_of(element)?,
    };
    let values: Vec<ScalarValue> = values
        .into_iter()
        .map(|value| if value.is_null() { ScalarValue::try_from(&data_type) } else { Ok(value) })
        .collect::<Result<_, _>>()
        .ok()?;
    Some(ScalarValue::List(ScalarValue::new_list_nullable(&values, &data_type)))
}

/// The elements of `{a,"b c",NULL}`.
fn elements(text: &str) -> Option<Vec<Option<String>>> {
    let inside = text.strip_prefix('{')?.strip_suffix('}')?;
    let mut found = Vec::new();
    let mut rest = inside.trim_start();
    while !rest.is_empty() {
        let (element, after) = match rest.strip_prefix('"') {
            Some(quoted) => {
                let (element, after) = unquoted(quoted)?;
                (Some(element), after.trim_start())
            }
            None => {
                let end = rest.find(',').unwrap_or(rest.len());
                let element = rest[..end].trim_end();
                if element.is_empty() || element.contains(['{', '}', '"', '\\']) {
                    return None;
                }
                let is_null = element.eq_ignore_ascii_case("null");
                ((!is_null).then(|| element.to_owned()), &rest[end..])
            }
        };
        if found.len() == ELEMENTS_MAX {
            return None;
        }
        found.push(element);
        rest = match after.strip_prefix(',') {
            // Something must follow a comma.
            Some(after) => Some(after.trim_start()).filter(|after| !after.is_empty())?,
            None if after.is_empty() => after,
            None => return None,
        };
    }
    Some(found)
}

/// The text up to a quote, and what is behind it.
fn unquoted(text: &str) -> Option<(String, &str)> {
    let mut element = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((element, &text[at + 1..])),
            '\\' => element.push(characters.next()?.1),
            other => element.push(other),
        }
    }
    None
}

fn of_binary(data_type: &Type, mut value: Bytes) -> Option<ScalarValue> {
    let whole = value.clone();
    let scalar = match *data_type {
        Type::BOOL => ScalarValue::Boolean(Some(match value.try_get_u8().ok()? {
            0 => false,
            1 => true,
            _ => return None,
        })),
        Type::INT2 => ScalarValue::Int16(Some(value.try_get_i16().ok()?)),
        Type::INT4 => ScalarValue::Int32(Some(value.try_get_i32().ok()?)),
        Type::INT8 => ScalarValue::Int64(Some(value.try_get_i64().ok()?)),
        Type::OID => ScalarValue::Int64(Some(i64::from(value.try_get_u32().ok()?))),
        Type::FLOAT4 => ScalarValue::Float32(Some(value.try_get_f32().ok()?)),
        Type::FLOAT8 => ScalarValue::Float64(Some(value.try_get_f64().ok()?)),
        Type::NUMERIC => decimals(&[Some(Digits::of_binary(&mut value)?)])?.pop()?,
        Type::BYTEA => return Some(ScalarValue::Binary(Some(whole.into()))),
        Type::DATE => {
            let days = i64::from(value.try_get_i32().ok()?) + EPOCH_DAYS;
            // Outside are those that are infinite.
            ScalarValue::Date32(Some(i32::try_from(days).ok().filter(|_| DAYS.contains(&days))?))
        }
        Type::TIME => {
            let us = value.try_get_i64().ok()?;
            ScalarValue::Time64Microsecond(Some(Some(us).filter(|us| (0..DAY_US).contains(us))?))
        }
        Type::TIMESTAMP => ScalarValue::TimestampMicrosecond(Some(timestamp(&mut value)?), None),
        Type::TIMESTAMPTZ => {
            ScalarValue::TimestampMicrosecond(Some(timestamp(&mut value)?), Some("UTC".into()))
        }
        Type::INTERVAL => {
            let nanoseconds = value.try_get_i64().ok()?.checked_mul(1_000)?;
            let (days, months) = (value.try_get_i32().ok()?, value.try_get_i32().ok()?);
            ScalarValue::IntervalMonthDayNano(Some(IntervalMonthDayNano::new(months, days, nanoseconds)))
        }
        Type::UUID => {
            let bytes: [u8; 16] = whole.as_ref().try_into().ok()?;
            return Some(ScalarValue::Utf8(Some(uuid::Uuid::from_bytes(bytes).to_string())));
        }
        _ => match element_of(data_type) {
            Some(element) => array(&element, &mut value)?,
            None => return Some(ScalarValue::Utf8(Some(String::from_utf8(whole.into()).ok()?))),
        },
    };
    (!value.has_remaining()).then_some(scalar)
}

/// Microseconds since 1970; those that are infinite are not known.
fn timestamp(value: &mut Bytes) -> Option<i64> {
    let since_2000 = value.try_get_i64().ok().filter(|us| TIMESTAMPS_US.contains(us))?;
    since_2000.checked_add(EPOCH_DAYS * DAY_US)
}

/// An array of one dimension at most.
fn array(element: &Type, value: &mut Bytes) -> Option<ScalarValue> {
    let dimensions = value.try_get_i32().ok()?;
    let _has_nulls = value.try_get_i32().ok()?;
    if value.try_get_u32().ok()? != element.oid() || !(0..=1).contains(&dimensions) {
        return None;
    }
    let length = if dimensions == 1 { usize::try_from(value.try_get_i32().ok()?).ok()? } else { 0 };
    if dimensions == 1 {
        let _first = value.try_get_i32().ok()?;
    }
    // Each has a length of four bytes, so that the message bounds their number.
    if length > (value.len() / 4).min(ELEMENTS_MAX) {
        return None;
    }
    let mut parts = Vec::with_capacity(length);
    for _ in 0..length {
        let bytes = value.try_get_i32().ok()?;
        parts.push(match usize::try_from(bytes) {
            Ok(bytes) if bytes <= value.len() => Some(value.split_to(bytes)),
            Err(_) if bytes == -1 => None,
            _ => return None,
        });
    }
    if *element == Type::NUMERIC {
        let digits = parts.into_iter().map(|part| match part {
            Some(mut part) => Digits::of_binary(&mut part).filter(|_| part.is_empty()).map(Some),
            None => Some(None),
        });
        return list(element, decimals(&digits.collect::<Option<Vec<_>>>()?)?);
    }
    let values = parts.into_iter().map(|part| match part {
        Some(part) => of_binary(element, part),
        None => Some(null_of(element)),
    });
    list(element, values.collect::<Option<Vec<_>>>()?)
}

/// A number of decimal digits.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Digits {
    is_negative: bool,
    /// Without zeros in front.
    digits: String,
    /// How many of them stand behind the point.
    scale: usize,
}

impl Digits {
    fn new(is_negative: bool, digits: &str, scale: usize) -> Option<Self> {
        let digits = digits.trim_start_matches('0').to_owned();
        (digits.len() <= DIGITS_MAX && scale <= DIGITS_MAX).then_some(Self { is_negative, digits, scale })
    }

    /// `-12.50`, also with an exponent.
    fn of_text(text: &str) -> Option<Self> {
        let (number, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        let exponent: i64 = exponent.parse().ok()?;
        let (is_negative, number) = match number.strip_prefix('-') {
            Some(number) => (true, number),
            None => (false, number.strip_prefix('+').unwrap_or(number)),
        };
        let (whole, rest) = number.split_once('.').unwrap_or((number, ""));
        let mut digits = format!("{whole}{rest}");
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let scale = i64::try_from(rest.len()).ok()?.checked_sub(exponent)?;
        match usize::try_from(scale) {
            Ok(scale) => Self::new(is_negative, &digits, scale),
            Err(_) => {
                let zeros =
                    usize::try_from(scale.unsigned_abs()).ok().filter(|zeros| *zeros <= DIGITS_MAX)?;
                digits.push_str(&"0".repeat(zeros));
                Self::new(is_negative, &digits, 0)
            }
        }
    }

    /// Groups of four digits; the weight is the power of 10,000 of the first.
    fn of_binary(value: &mut Bytes) -> Option<Self> {
        let groups = usize::from(value.try_get_u16().ok()?);
        let weight = i64::from(value.try_get_i16().ok()?);
        let is_negative = match value.try_get_u16().ok()? {
            0 => false,
            0x4000 => true,
            // Not a number, or infinite.
            _ => return None,
        };
        let scale = usize::from(value.try_get_u16().ok()?);
        // Further than any number that is taken.
        if groups > DIGITS_MAX || weight.unsigned_abs() > DIGITS_MAX as u64 || scale > DIGITS_MAX {
            return None;
        }
        let mut digits = String::new();
        for _ in 0..groups {
            let group = value.try_get_u16().ok().filter(|group| *group < 10_000)?;
            digits.push_str(&format!("{group:04}"));
        }
        // Digits behind the point that the groups hold; they are brought to as many as the scale says.
        let behind = (groups as i64 - 1 - weight) * 4;
        let missing = scale as i64 - behind;
        if missing >= 0 {
            digits.push_str(&"0".repeat(usize::try_from(missing).ok()?));
        } else {
            let kept = i64::try_from(digits.len()).ok()? + missing;
            let cut = digits.split_off(usize::try_from(kept.max(0)).ok()?);
            if kept < 0 || cut.bytes().any(|digit| digit != b'0') {
                return None;
            }
        }
        Self::new(is_negative, &digits, scale)
    }
}

/// Numbers of the same precision and scale, which are as large as one of them needs.
fn decimals(numbers: &[Option<Digits>]) -> Option<Vec<ScalarValue>> {
    let scale = numbers.iter().flatten().map(|number| number.scale).max().unwrap_or(0);
    let padded: Vec<Option<String>> = numbers
        .iter()
        .map(|number| {
            let number = number.as_ref()?;
            let sign = if number.is_negative { "-" } else { "" };
            Some(format!("{sign}0{}{}", number.digits, "0".repeat(scale - number.scale)))
        })
        .collect();
    let longest =
        padded.iter().flatten().map(|digits| digits.trim_start_matches('-').len() - 1).max().unwrap_or(0);
    let precision = u8::try_from(longest.max(scale).max(1)).ok().filter(|precision| *precision <= 76)?;
    let scale = i8::try_from(scale).ok()?;
    let values = padded.iter().map(|digits| match digits {
        _ if precision <= 38 => {
            let number = digits.as_ref().map(|digits| digits.parse::<i128>()).transpose().ok()?;
            Some(ScalarValue::Decimal128(number, precision, scale))
        }
        Some(digits) => Some(ScalarValue::Decimal256(Some(i256::from_string(digits)?), precision, scale)),
        None => Some(ScalarValue::Decimal256(None, precision, scale)),
    });
    values.collect()
}

#[cfg(test)]
mod tests;
