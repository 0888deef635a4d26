//! JSON payloads, held against what `serde_json` makes of their syntax and exact rules make of their values; and against
//! arrow-json, which is lenient, on what is accepted.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use chrono::{DateTime, NaiveDate};
use isobar_schemas::decode::PayloadRows;
use isobar_schemas::{JsonDecoder, UnknownFields};
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::fates::{Fate, Growth, LEFT_OUT, Subject, fates, no_registry};
use crate::input::Input;
use crate::testing::{render_row, schema};

const HEADER: [u8; 5] = [0, 0, 0, 0, 7];

fn contracts() -> [SchemaRef; 3] {
    [
        schema(&[
            ("x", "boolean"),
            ("a", "int8"),
            ("b", "int16"),
            ("c", "int32"),
            ("e", "int64"),
            ("f", "float32"),
            ("g", "float64"),
            ("d", "decimal(9,2)"),
            ("h", "decimal(38,0)"),
            ("s", "string"),
            ("n", "binary"),
            ("t", "date"),
            ("z", "timestamp"),
        ]),
        schema(&[
            ("l", "list<int32>"),
            ("o", "struct<a: int64, b: list<string>>"),
            ("m", "map<string, decimal(5,1)>"),
            ("k", "list<struct<a: int32, s: string>>"),
            ("q", "map<string, list<boolean>>"),
        ]),
        schema(&[
            ("r!", "int32"),
            ("é\"\\", "string"),
            ("", "list<list<float64>>"),
            ("w!", "list<struct<y: date>>"),
        ]),
    ]
}

/// Payloads that may be objects.
pub(crate) fn payloads(data: &[u8]) {
    let Some(mut input) = Input::new(data) else { return };
    let contract = contracts()[input.choose(3)].clone();
    let unknown_fields = [UnknownFields::Quarantine, UnknownFields::Ignore][input.choose(2)];
    let choice = input.choose(8);
    let is_framed = choice % 4 == 1;
    let payload_rows = match choice {
        2 => PayloadRows::Lines,
        3 => PayloadRows::Array,
        _ => PayloadRows::One,
    };
    let limits = input.limits();

    let decoder = JsonDecoder::new(contract.clone(), unknown_fields, limits).expect("JSON has all types");
    let decoder = if is_framed { decoder.framed() } else { decoder }.rows_in_payload(payload_rows);
    let subject = Subject {
        decoder: Box::new(decoder),
        payload_bytes_max: limits.payload_bytes_max,
        growth: Growth::NONE,
        several: payload_rows != PayloadRows::One,
        in_envelope: false,
        registry: &no_registry,
    };
    // Headers are not for mutations to find.
    let framed: Vec<_> = input
        .payloads()
        .into_iter()
        .map(|payload| {
            payload.map(|payload| if is_framed { [&HEADER[..], payload].concat() } else { payload.to_vec() })
        })
        .collect();
    let framed: Vec<_> = framed.iter().map(|payload| payload.as_deref()).collect();
    let judge = Judge { refuse_unknown_fields: unknown_fields == UnknownFields::Quarantine };
    let fates = fates(subject, &framed);
    for ((payload, framed), fate) in input.payloads().into_iter().zip(framed).zip(fates) {
        let (Some(payload), Some(framed)) = (payload, framed) else { continue };
        if framed.len() > limits.payload_bytes_max {
            continue;
        }
        let expected = match payload_rows {
            PayloadRows::One => judge.record(&contract, payload, limits.depth_max),
            PayloadRows::Lines => judge.lines(&contract, payload, limits.depth_max),
            PayloadRows::Array => judge.array(&contract, payload, limits.depth_max),
        };
        let expected = expected.filter(|_| !framed.is_empty());
        assert_eq!(fate.clone().ok(), expected, "{}: {fate:?}", String::from_utf8_lossy(payload));
        if judge.refuse_unknown_fields && payload_rows == PayloadRows::One {
            arrow_json_agrees(&contract, payload, &fate);
        }
    }
}

/// What is accepted, arrow-json reads as the same row, of types that both read alike: it wants bytes in hexadecimal, rounds
/// decimals and reads more forms of timestamps.
fn arrow_json_agrees(contract: &SchemaRef, payload: &[u8], fate: &Fate) {
    if fate.is_err() {
        return;
    }
    let simple =
        |data_type: &DataType| matches!(data_type, DataType::Boolean | DataType::Utf8 | DataType::Date32);
    let fields: Vec<_> =
        contract.fields().iter().filter(|field| simple(field.data_type())).cloned().collect();
    if fields.is_empty() {
        return;
    }
    let part: SchemaRef = Arc::new(Schema::new(fields));
    let mut theirs =
        arrow_json::ReaderBuilder::new(part.clone()).build_decoder().expect("a schema for arrow-json");
    theirs.decode(payload).expect("arrow-json reads it as well");
    let theirs = theirs.flush().expect("arrow-json reads it as well").expect("one object is one row");
    let subject = Subject {
        decoder: Box::new(
            JsonDecoder::new(part, UnknownFields::Ignore, Default::default()).expect("a schema for JSON"),
        ),
        payload_bytes_max: usize::MAX,
        growth: Growth::NONE,
        several: false,
        in_envelope: false,
        registry: &no_registry,
    };
    let ours = fates(subject, &[Some(payload)]).remove(0);
    assert_eq!(ours.as_ref().ok(), Some(&render_row(&theirs, 0)));
}

/// Says what row a payload must become.
struct Judge {
    refuse_unknown_fields: bool,
}

/// The members of an object, as they came, their values unread.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;

        impl<'de> Visitor<'de> for InOrder {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Members<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = entries.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(InOrder)
    }
}

impl Judge {
    /// The row that `payload` becomes, as text; `None` if it must be rejected.
    fn record(&self, contract: &SchemaRef, payload: &[u8], depth: usize) -> Option<String> {
        let text = std::str::from_utf8(payload).ok()?;
        // As serde_json does, but not for a `RawValue`, white space around it is stepped over.
        let value: &RawValue = serde_json::from_str(text).ok()?;
        self.object(contract.fields(), value.get(), depth)
    }

    /// The rows that the lines of `payload` become.
    fn lines(&self, contract: &SchemaRef, payload: &[u8], depth: usize) -> Option<String> {
        let lines = std::str::from_utf8(payload).ok()?.split('\n');
        let lines = lines.filter(|line| !line.bytes().all(|byte| byte.is_ascii_whitespace()));
        let rows = lines.map(|line| self.record(contract, line.as_bytes(), depth));
        together(rows.collect::<Option<_>>()?, payload)
    }

    /// The rows that the elements of the array `payload` become.
    fn array(&self, contract: &SchemaRef, payload: &[u8], depth: usize) -> Option<String> {
        let elements: Vec<&RawValue> = serde_json::from_str(std::str::from_utf8(payload).ok()?).ok()?;
        let depth = depth.checked_sub(1)?;
        let rows = elements.iter().map(|element| self.object(contract.fields(), element.get(), depth));
        together(rows.collect::<Option<_>>()?, payload)
    }

    fn object(&self, fields: &[Arc<Field>], text: &str, depth: usize) -> Option<String> {
        let depth = depth.checked_sub(1)?;
        let Members(members) = serde_json::from_str(text).ok()?;
        for (index, (name, value)) in members.iter().enumerate() {
            if fields.iter().any(|field| field.name() == name) {
                if members[..index].iter().any(|(other, _)| other == name) {
                    return None;
                }
            } else if self.refuse_unknown_fields {
                return None;
            } else {
                skip(value.get(), depth)?;
            }
        }
        let member = |field: &Arc<Field>| {
            let value = members.iter().find(|(name, _)| name == field.name());
            let value = self.value(field, value.map_or("null", |(_, value)| value.get()), depth)?;
            Some(format!("{}: {value}", field.name()))
        };
        Some(format!("{{{}}}", fields.iter().map(member).collect::<Option<Vec<_>>>()?.join(", ")))
    }

    /// What `text`, one value, becomes in `field`.
    fn value(&self, field: &Field, text: &str, depth: usize) -> Option<String> {
        if text == "null" {
            return field.is_nullable().then(|| text.to_owned());
        }
        let is_number = text.starts_with(['-', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9']);
        let string = || serde_json::from_str::<String>(text).ok();
        let integer = |min: i128, max: i128| {
            let value = is_number.then(|| exact(text, 0)).flatten()?;
            (min..=max).contains(&value).then(|| value.to_string())
        };
        match field.data_type() {
            DataType::Boolean => matches!(text, "true" | "false").then(|| text.to_owned()),
            DataType::Int8 => integer(i8::MIN.into(), i8::MAX.into()),
            DataType::Int16 => integer(i16::MIN.into(), i16::MAX.into()),
            DataType::Int32 => integer(i32::MIN.into(), i32::MAX.into()),
            DataType::Int64 => integer(i64::MIN.into(), i64::MAX.into()),
            DataType::Float32 => {
                let value = text.parse::<f32>().ok().filter(|value| is_number && value.is_finite())?;
                Some(format!("{value:?}"))
            }
            DataType::Float64 => {
                let value = text.parse::<f64>().ok().filter(|value| is_number && value.is_finite())?;
                Some(format!("{value:?}"))
            }
            DataType::Decimal128(precision, scale) => {
                let number = if is_number { text.to_owned() } else { string()? };
                // White space around it is fine for serde_json, and not here.
                let value: &RawValue = serde_json::from_str(&number).ok()?;
                let same = value.get() == number
                    && number.starts_with(|first: char| first == '-' || first.is_ascii_digit());
                let value = exact(same.then_some(&number)?, i64::from(*scale))?;
                (value.unsigned_abs() < 10_u128.pow(u32::from(*precision))).then(|| value.to_string())
            }
            DataType::Utf8 => Some(format!("{:?}", string()?)),
            DataType::Binary => Some(format!("{:?}", base64(&string()?)?)),
            DataType::Date32 => Some(days(&string()?)?.to_string()),
            DataType::Timestamp(..) => Some(micros(&string()?)?.to_string()),
            DataType::List(element) => {
                let depth = depth.checked_sub(1)?;
                let items: Vec<&RawValue> = serde_json::from_str(text).ok()?;
                let items = items.iter().map(|item| self.value(element, item.get(), depth));
                Some(format!("[{}]", items.collect::<Option<Vec<_>>>()?.join(", ")))
            }
            DataType::Struct(fields) if text.starts_with('{') => self.object(fields, text, depth),
            DataType::Map(entries, _) => {
                let depth = depth.checked_sub(1)?;
                let DataType::Struct(entry) = entries.data_type() else { return None };
                let Members(members) = serde_json::from_str(text).ok()?;
                let mut shown = Vec::new();
                for (index, (name, value)) in members.iter().enumerate() {
                    if members[..index].iter().any(|(other, _)| other == name) {
                        return None;
                    }
                    shown.push(format!("{name:?}: {}", self.value(&entry[1], value.get(), depth)?));
                }
                Some(format!("{{{}}}", shown.join(", ")))
            }
            _ => None,
        }
    }
}

/// The rows of one payload, unless they are too many for its length.
fn together(rows: Vec<String>, payload: &[u8]) -> Option<String> {
    let shown = if rows.is_empty() { LEFT_OUT.to_owned() } else { rows.join("\n") };
    (rows.len() <= 16 + payload.len() / 8).then_some(shown)
}

/// Looks at a value that nobody wants: its strings must be text, and it must not be too deep.
fn skip(text: &str, depth: usize) -> Option<()> {
    match text.as_bytes()[0] {
        b'{' => {
            let depth = depth.checked_sub(1)?;
            let Members(members) = serde_json::from_str(text).ok()?;
            members.iter().try_for_each(|(_, value)| skip(value.get(), depth))
        }
        b'[' => {
            let depth = depth.checked_sub(1)?;
            let items: Vec<&RawValue> = serde_json::from_str(text).ok()?;
            items.iter().try_for_each(|item| skip(item.get(), depth))
        }
        b'"' => serde_json::from_str::<String>(text).ok().map(drop),
        _ => Some(()),
    }
}

/// The number `text` times ten to the `scale`, if that is an integer of at most 38 digits.
fn exact(text: &str, scale: i64) -> Option<i128> {
    let (text, negative) = text.strip_prefix('-').map_or((text, false), |text| (text, true));
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    let digits = digits.trim_start_matches('0');
    let significant = digits.trim_end_matches('0');
    if significant.is_empty() {
        return Some(0);
    }
    // An exponent that is no `i64` moves the point out of sight.
    let exponent: i64 = exponent.trim_start_matches('+').parse().ok()?;
    let zeros = (digits.len() - significant.len()) as i64;
    let shift = exponent.checked_add(scale)?.checked_sub(fraction.len() as i64)?.checked_add(zeros)?;
    let shift = usize::try_from(shift).ok().filter(|shift| significant.len() + shift <= 39)?;
    let value: i128 = format!("{significant}{}", "0".repeat(shift)).parse().ok()?;
    Some(if negative { -value } else { value })
}

/// The bytes of standard Base64: those that are written as `text`.
fn base64(text: &str) -> Option<Vec<u8>> {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut bytes, mut bits, mut count) = (Vec::new(), 0_u32, 0);
    for byte in text.trim_end_matches('=').bytes() {
        bits = bits << 6 | DIGITS.iter().position(|digit| *digit == byte)? as u32;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    let mut written = String::new();
    for group in bytes.chunks(3) {
        let bits =
            group.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for place in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * place)) as usize & 63];
            written.push(if place <= group.len() { char::from(digit) } else { '=' });
        }
    }
    (written == text).then_some(bytes)
}

/// Days since 1970-01-01, of `text` in the one form.
fn days(text: &str) -> Option<i32> {
    let date = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?;
    let epoch = NaiveDate::from_ymd_opt(1970, 1, 1)?;
    let days = i32::try_from(date.signed_duration_since(epoch).num_days()).ok()?;
    (text.len() == 10 && date.format("%Y-%m-%d").to_string() == text).then_some(days)
}

/// Microseconds since 1970-01-01 00:00 UTC, of `text` in RFC 3339, with or without a zone.
fn micros(text: &str) -> Option<i64> {
    if !text.is_ascii() || text.contains(char::is_control) {
        return None;
    }
    let has_zone = text.ends_with(['Z', 'z']) || text.len() > 19 && text[19..].contains(['+', '-']);
    let text = if has_zone { text.to_owned() } else { format!("{text}Z") };
    let time = DateTime::parse_from_rfc3339(&text).ok()?;
    Some(time.timestamp() * 1_000_000 + i64::from(time.timestamp_subsec_micros()))
}
