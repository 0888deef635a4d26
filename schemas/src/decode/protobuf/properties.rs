//! The decoder against prost-reflect, on messages of random types.
//!
//! A type is written as `.proto` text, its values are built and encoded by [`DynamicMessage`], and what the decoder makes
//! of the bytes is held against what [`DynamicMessage`] reads from the same bytes: [`Judge`] says what row that must be,
//! without a look at this crate's plans.

use std::fmt::Write as _;

use arrow::array::types::Date32Type;
use arrow::array::{Array, AsArray};
use arrow::compute::concat_batches;
use arrow::compute::kernels::cast_utils::Parser;
use arrow::datatypes::{DataType, Field, FieldRef};
use prost_reflect::prost::Message as _;
use prost_reflect::prost::bytes::Bytes;
use prost_reflect::{
    Cardinality, DynamicMessage, EnumDescriptor, FieldDescriptor, Kind, MapKey, MessageDescriptor, Value,
};

use super::tests::compile;
use super::*;
use crate::decode::testing::{Random, chunk, render};
use crate::fields::{to_arrow_schema, type_name};

// ---------------------------------------------------------------------------------------------------------------
// Types.

const SCALARS: [&str; 16] = [
    "int32", "int64", "uint32", "uint64", "sint32", "sint64", "fixed32", "fixed64", "sfixed32", "sfixed64",
    "float", "double", "bool", "string", "bytes", "E",
];

const KEYS: [&str; 12] = [
    "int32", "int64", "uint32", "uint64", "sint32", "sint64", "fixed32", "fixed64", "sfixed32", "sfixed64",
    "bool", "string",
];

const WELL_KNOWN: [&str; 9] = [
    "google.protobuf.Timestamp",
    "google.protobuf.Duration",
    "google.protobuf.Int32Value",
    "google.protobuf.UInt64Value",
    "google.protobuf.StringValue",
    "google.protobuf.BoolValue",
    "google.protobuf.Any",
    "google.type.Date",
    "google.type.TimeOfDay",
];

/// Messages `M0` to `M2`, each of which may have those after it as fields.
fn random_types(random: &mut Random) -> String {
    let proto2 = random.one_in(2);
    let mut text = format!(
        r#"syntax = "proto{}"; import "google/protobuf/timestamp.proto"; import "google/protobuf/duration.proto";
        import "google/protobuf/wrappers.proto"; import "google/protobuf/any.proto";
        import "google/type/date.proto"; import "google/type/timeofday.proto";
        enum E {{ option allow_alias = true; ZERO = 0; ONE = 1; ALSO_ONE = 1; FAR = 100000; MINUS = -5; }}"#,
        if proto2 { 2 } else { 3 }
    );
    for message in 0..3 {
        write!(text, "message M{message} {{ ").unwrap();
        let mut numbers: Vec<u32> = Vec::new();
        let mut number = |random: &mut Random| loop {
            let number = match random.below(12) {
                0 => 536_870_911 - random.below(1000) as u32,
                1 => 1_000 + random.below(100) as u32,
                _ => 1 + random.below(40) as u32,
            };
            if !numbers.contains(&number) {
                numbers.push(number);
                return number;
            }
        };
        for field in 0..1 + random.below(9) {
            let kind = random_kind(random, message);
            let packable = !matches!(kind.as_str(), "string" | "bytes") && !kind.starts_with(['M', 'g']);
            match random.below(10) {
                0 | 1 => {
                    let packed = if packable && random.one_in(2) {
                        format!(" [packed = {}]", random.one_in(2))
                    } else {
                        String::new()
                    };
                    write!(text, "repeated {kind} f{field} = {}{packed};", number(random)).unwrap();
                }
                2 => {
                    let key = random.pick(&KEYS);
                    write!(text, "map<{key}, {kind}> f{field} = {};", number(random)).unwrap();
                }
                3 => {
                    write!(text, "oneof o{field} {{ {kind} f{field} = {};", number(random)).unwrap();
                    for member in 0..random.below(3) {
                        let kind = random_kind(random, message);
                        write!(text, "{kind} g{field}_{member} = {};", number(random)).unwrap();
                    }
                    text.push('}');
                }
                4 if proto2 && random.one_in(4) => {
                    write!(text, "required {kind} f{field} = {};", number(random)).unwrap();
                }
                form => {
                    let label = if proto2 || form < 7 { "optional " } else { "" };
                    let default = if proto2 && random.one_in(3) { random_default(&kind) } else { "" };
                    write!(text, "{label}{kind} f{field} = {}{default};", number(random)).unwrap();
                }
            }
        }
        text.push_str("}\n");
    }
    text
}

fn random_kind(random: &mut Random, message: usize) -> String {
    match random.below(8) {
        0 | 1 if message < 2 => format!("M{}", message + 1 + random.below(2 - message)),
        2 => random.pick(&WELL_KNOWN).to_owned(),
        _ => random.pick(&SCALARS).to_owned(),
    }
}

fn random_default(kind: &str) -> &'static str {
    match kind {
        "int32" | "sint64" | "sfixed32" => " [default = -7]",
        "uint64" | "fixed64" => " [default = 18446744073709551615]",
        "double" | "float" => " [default = 1.5]",
        "bool" => " [default = true]",
        "string" => " [default = \"é\"]",
        "bytes" => " [default = \"\\377\"]",
        "E" => " [default = FAR]",
        _ => "",
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Values.

fn random_message(random: &mut Random, descriptor: &MessageDescriptor) -> DynamicMessage {
    let mut message = DynamicMessage::new(descriptor.clone());
    for field in descriptor.fields() {
        let skipped_in = if field.is_required() { 60 } else { 3 };
        if random.one_in(skipped_in) {
            continue;
        }
        let value = if field.is_map() {
            let Kind::Message(entry) = field.kind() else { unreachable!() };
            let [key, value] = [entry.map_entry_key_field(), entry.map_entry_value_field()];
            let entries = (0..random.below(4)).map(|_| {
                let key = random_value(random, &key.kind()).into_map_key().unwrap();
                (key, random_value(random, &value.kind()))
            });
            Value::Map(entries.collect())
        } else if field.is_list() {
            Value::List((0..random.below(5)).map(|_| random_value(random, &field.kind())).collect())
        } else {
            random_value(random, &field.kind())
        };
        message.set_field(&field, value);
    }
    message
}

fn random_integer(random: &mut Random) -> u64 {
    match random.below(4) {
        0 => random.below(3) as u64,
        1 => (random.below(300) as u64).wrapping_neg(),
        2 => 1 << random.below(64),
        _ => (random.below(1 << 32) as u64) << 32 | random.below(1 << 32) as u64,
    }
}

fn random_value(random: &mut Random, kind: &Kind) -> Value {
    let integer = random_integer(random);
    match kind {
        Kind::Double => Value::F64(f64::from_bits(integer)),
        Kind::Float => Value::F32(f32::from_bits(integer as u32)),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Value::I32(integer as i32),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Value::I64(integer as i64),
        Kind::Uint32 | Kind::Fixed32 => Value::U32(integer as u32),
        Kind::Uint64 | Kind::Fixed64 => Value::U64(integer),
        Kind::Bool => Value::Bool(integer & 1 == 1),
        Kind::String => Value::String(
            (0..random.below(5)).map(|_| *random.pick(&[&'a', &'é', &'😀', &'\0', &'"'])).collect(),
        ),
        Kind::Bytes => {
            Value::Bytes((0..random.below(5)).map(|_| random.below(256) as u8).collect::<Vec<_>>().into())
        }
        Kind::Enum(_) if random.one_in(100) => Value::EnumNumber(7),
        Kind::Enum(_) => Value::EnumNumber(*random.pick(&[&0, &1, &100_000, &-5])),
        Kind::Message(message) => {
            let mut value = random_message(random, message);
            if message.full_name() == "google.protobuf.Timestamp" && !random.one_in(50) {
                let seconds = random.below(300_000_000_000) as i64 - 62_135_596_800;
                value.set_field_by_name("seconds", Value::I64(seconds.min(253_402_300_799)));
                value.set_field_by_name("nanos", Value::I32(random.below(1_000_000_000) as i32));
            }
            if message.full_name() == "google.protobuf.Duration" && !random.one_in(50) {
                let sign = if random.one_in(2) { 1 } else { -1 };
                value.set_field_by_name("seconds", Value::I64(sign * random.below(315_576_000_000) as i64));
                value
                    .set_field_by_name("nanos", Value::I32(sign as i32 * random.below(1_000_000_000) as i32));
            }
            let numbers = |random: &mut Random, of: &[(&'static str, usize, usize)]| {
                of.iter().map(|(name, first, count)| (*name, (first + random.below(*count)) as i32)).collect()
            };
            let parts: Vec<(&str, i32)> = match message.full_name() {
                // A day that few months have, now and then.
                "google.type.Date" if !random.one_in(50) => {
                    let days = if random.one_in(10) { 31 } else { 28 };
                    numbers(random, &[("year", 1, 9999), ("month", 1, 12), ("day", 1, days)])
                }
                "google.type.TimeOfDay" if !random.one_in(50) => {
                    let parts = [
                        ("hours", 0, 24),
                        ("minutes", 0, 60),
                        ("seconds", 0, 60),
                        ("nanos", 0, 1_000_000_000),
                    ];
                    numbers(random, &parts)
                }
                _ => Vec::new(),
            };
            parts.into_iter().for_each(|(name, part)| value.set_field_by_name(name, Value::I32(part)));
            Value::Message(value)
        }
    }
}

/// The fields of a message, each with its tag.
fn pieces(payload: &[u8]) -> Vec<Vec<u8>> {
    let mut rest = Bytes::copy_from_slice(payload);
    let mut pieces = Vec::new();
    while !rest.is_empty() {
        let whole = rest.clone();
        let (number, wire_type) = prost_reflect::prost::encoding::decode_key(&mut rest).unwrap();
        prost_reflect::prost::encoding::skip_field(wire_type, number, &mut rest, Default::default()).unwrap();
        pieces.push(whole[..whole.len() - rest.len()].to_vec());
    }
    pieces
}

/// One message, or several end to end, which merge; their fields in order, or shuffled; sometimes with fields that
/// nobody knows, cut short, or with a byte changed. Says whether it is still sound.
fn random_payload(random: &mut Random, descriptor: &MessageDescriptor) -> (Vec<u8>, bool) {
    let mut payload = Vec::new();
    for _ in 0..1 + random.below(3) {
        payload.extend(random_message(random, descriptor).encode_to_vec());
    }
    let mut pieces = pieces(&payload);
    if random.one_in(10) {
        pieces.push(vec![0xf8, 0xff, 0x03, 0x07]); // field 8191
    }
    if random.one_in(2) {
        for index in (1..pieces.len()).rev() {
            pieces.swap(index, random.below(index + 1));
        }
    }
    let mut payload = pieces.concat();
    let sound = payload.is_empty() || !random.one_in(4);
    if !sound {
        let at = random.below(payload.len());
        match random.below(3) {
            0 => payload.truncate(at),
            1 => payload[at] = random.below(256) as u8,
            _ => {
                payload.remove(at);
            }
        }
    }
    (payload, sound)
}

// ---------------------------------------------------------------------------------------------------------------
// The row that a message must be.

/// The row, rendered, with the entries of maps in the order of their text; `None` if the message must be rejected.
fn judge_message(message: &DynamicMessage, fields: &[FieldRef]) -> Option<String> {
    let descriptor = prost_reflect::ReflectMessage::descriptor(message);
    if descriptor.fields().any(|field| field.is_required() && !message.has_field(&field)) {
        return None;
    }
    let member = |field: &FieldRef| {
        let value = judge_field(message, &descriptor.get_field_by_name(field.name())?, field)?;
        Some(format!("{}: {value}", field.name()))
    };
    Some(format!("{{{}}}", fields.iter().map(member).collect::<Option<Vec<_>>>()?.join(", ")))
}

fn judge_field(message: &DynamicMessage, declared: &FieldDescriptor, field: &Field) -> Option<String> {
    let declares_default = declared.field_descriptor_proto().default_value.is_some();
    let null = declared.supports_presence()
        && !message.has_field(declared)
        && (!declares_default || declared.containing_oneof().is_some());
    if null {
        return field.is_nullable().then(|| "null".to_owned());
    }
    match (&*message.get_field(declared), field.data_type()) {
        (Value::List(items), DataType::List(element)) => {
            let items = items.iter().map(|item| judge_value(&declared.kind(), item, element.data_type()));
            Some(format!("[{}]", items.collect::<Option<Vec<_>>>()?.join(", ")))
        }
        (Value::Map(entries), DataType::Map(entry, _)) => {
            let (Kind::Message(declared), DataType::Struct(fields)) = (declared.kind(), entry.data_type())
            else {
                unreachable!()
            };
            let kind = declared.map_entry_value_field().kind();
            let entry = |(key, value): (&MapKey, &Value)| {
                let key = match key {
                    MapKey::Bool(key) => key.to_string(),
                    MapKey::I32(key) => key.to_string(),
                    MapKey::I64(key) => key.to_string(),
                    MapKey::U32(key) => key.to_string(),
                    MapKey::U64(key) => key.to_string(),
                    MapKey::String(key) => key.clone(),
                };
                Some(format!("{key:?}: {}", judge_value(&kind, value, fields[1].data_type())?))
            };
            let mut entries = entries.iter().map(entry).collect::<Option<Vec<_>>>()?;
            entries.sort();
            Some(format!("{{{}}}", entries.join(", ")))
        }
        (value, data_type) => judge_value(&declared.kind(), value, data_type),
    }
}

fn judge_value(kind: &Kind, value: &Value, data_type: &DataType) -> Option<String> {
    match value {
        Value::Bool(value) => Some(value.to_string()),
        Value::I32(value) => Some(value.to_string()),
        Value::I64(value) => Some(value.to_string()),
        Value::U32(value) => Some(value.to_string()),
        Value::U64(value) => Some(value.to_string()),
        Value::F32(value) => Some(format!("{value:?}")),
        Value::F64(value) => Some(format!("{value:?}")),
        Value::String(value) => Some(format!("{value:?}")),
        Value::Bytes(value) => Some(format!("{:?}", value.to_vec())),
        Value::EnumNumber(number) => {
            let Kind::Enum(descriptor) = kind else { unreachable!() };
            first_name(descriptor, *number)
        }
        Value::Message(message) => match (data_type, message.get_field_by_name("value")) {
            (DataType::Struct(fields), _) => judge_message(message, fields),
            (DataType::Timestamp(..), _) => judge_instant(message, -62_135_596_800, 253_402_300_799, false),
            (DataType::Date32, _) => judge_date(message),
            (DataType::Int64, None) if message.get_field_by_name("hours").is_some() => judge_time(message),
            (DataType::Int64, None) => judge_instant(message, -315_576_000_000, 315_576_000_000, true),
            (data_type, Some(wrapped)) => {
                let declared = prost_reflect::ReflectMessage::descriptor(message).get_field(1)?;
                judge_value(&declared.kind(), &wrapped, data_type)
            }
            (data_type, None) => unreachable!("{}", type_name(data_type)),
        },
        Value::List(_) | Value::Map(_) => unreachable!(),
    }
}

fn first_name(descriptor: &EnumDescriptor, number: i32) -> Option<String> {
    let values = &descriptor.enum_descriptor_proto().value;
    values.iter().find(|value| value.number() == number).map(|value| format!("{:?}", value.name()))
}

fn judge_instant(message: &DynamicMessage, min: i64, max: i64, signed: bool) -> Option<String> {
    let seconds = message.get_field_by_name("seconds")?.as_i64()?;
    let nanos = message.get_field_by_name("nanos")?.as_i32()?;
    let total = i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
    let nanos_range = if signed { -999_999_999..=999_999_999 } else { 0..=999_999_999 };
    let mixed = seconds.signum() * i64::from(nanos.signum()) < 0;
    let good = (min..=max).contains(&seconds) && nanos_range.contains(&nanos) && !(signed && mixed);
    let micros = if signed { total / 1000 } else { total.div_euclid(1000) };
    good.then(|| micros.to_string())
}

/// The days since 1970-01-01, as arrow reads them from text.
fn judge_date(message: &DynamicMessage) -> Option<String> {
    let part = |name: &str| message.get_field_by_name(name)?.as_i32();
    let (year, month, day) = (part("year")?, part("month")?, part("day")?);
    let good = (1..=9999).contains(&year) && (1..=12).contains(&month) && (1..=31).contains(&day);
    let days = Date32Type::parse(&format!("{year:04}-{month:02}-{day:02}")).filter(|_| good);
    days.map(|days| days.to_string())
}

fn judge_time(message: &DynamicMessage) -> Option<String> {
    let parts = [("hours", 24), ("minutes", 60), ("seconds", 60), ("nanos", 1_000_000_000)];
    let mut nanos = 0;
    for (name, bound) in parts {
        let part = i64::from(message.get_field_by_name(name)?.as_i32()?);
        nanos = nanos * bound + part;
        if !(0..bound).contains(&part) {
            return None;
        }
    }
    Some((nanos / 1000).to_string())
}

/// A value of a decoded batch, with the entries of maps in the order of their text.
fn shown(array: &dyn Array, row: usize) -> String {
    if array.is_null(row) {
        return "null".to_owned();
    }
    let all = |values: &dyn Array| (0..values.len()).map(|at| shown(values, at)).collect::<Vec<_>>();
    match array.data_type() {
        DataType::List(_) => format!("[{}]", all(&array.as_list::<i32>().value(row)).join(", ")),
        DataType::Struct(fields) => {
            let columns = fields.iter().zip(array.as_struct().columns());
            let members: Vec<_> =
                columns.map(|(field, column)| format!("{}: {}", field.name(), shown(column, row))).collect();
            format!("{{{}}}", members.join(", "))
        }
        DataType::Map(..) => {
            let entries = array.as_map().value(row);
            let pairs = all(entries.column(0)).into_iter().zip(all(entries.column(1)));
            let mut entries: Vec<_> = pairs.map(|(key, value)| format!("{key}: {value}")).collect();
            entries.sort();
            format!("{{{}}}", entries.join(", "))
        }
        _ => render(array, row),
    }
}

// ---------------------------------------------------------------------------------------------------------------

/// Types, and payloads of the first of them.
struct Case {
    text: String,
    message: MessageDescriptor,
    schema: SchemaRef,
    random: Random,
}

impl Case {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let text = random_types(&mut random);
        let message = compile(&text).message("M0").unwrap();
        let schema = to_arrow_schema(&fields_of_protobuf(&message).unwrap()).unwrap();
        Self { text, message, schema, random }
    }

    fn decoder(&self) -> ProtobufDecoder {
        let limits = DecodeLimits::default();
        ProtobufDecoder::new(self.schema.clone(), &self.message, UnknownFields::Ignore, limits).unwrap()
    }

    fn payloads(&mut self, count: usize) -> Vec<(Vec<u8>, bool)> {
        (0..count).map(|_| random_payload(&mut self.random, &self.message)).collect()
    }
}

#[test]
fn prost_reflect_agrees_on_every_record_among_good_and_bad_neighbours() {
    let (mut accepted, mut rejected, mut unsound, mut lenient) = (0, 0, 0, 0);
    for seed in 0..150 {
        let mut case = Case::new(seed);
        let payloads = case.payloads(20);
        let chunk = chunk(payloads.iter().map(|(payload, _)| Some(&payload[..])));
        let decoded = case.decoder().decode(&chunk).unwrap();
        let mut rows = decoded.records.iter().enumerate().map(|(row, record)| (*record, row)).peekable();
        let mut rejects = decoded.rejects.iter().peekable();
        for (record, (payload, sound)) in (0_u32..).zip(&payloads) {
            let message = DynamicMessage::decode(case.message.clone(), &payload[..]);
            assert!(message.is_ok() || !sound, "seed {seed}");
            unsound += usize::from(message.is_err());
            let expected = message.as_ref().ok().map(|message| judge_message(message, case.schema.fields()));
            if let Some((_, row)) = rows.next_if(|(row_record, _)| *row_record == record) {
                let columns = decoded.batch.columns().iter().zip(case.schema.fields());
                let members: Vec<_> = columns
                    .map(|(column, field)| format!("{}: {}", field.name(), shown(column, row)))
                    .collect();
                let found = format!("{{{}}}", members.join(", "));
                match expected {
                    Some(expected) => {
                        assert_eq!(Some(found), expected, "seed {seed}: {payload:?}\n{}", case.text);
                    }
                    // Bad text in a value that a later one replaces, which nobody looks at here.
                    None => lenient += 1,
                }
                accepted += 1;
            } else {
                let reject = rejects.next_if(|reject| reject.record == record).unwrap();
                // A wrong wire type inside what prost-reflect skips, or the like, is never a sound payload.
                assert!(
                    expected.flatten().is_none(),
                    "seed {seed}: {payload:?}: {}\n{}",
                    reject.message,
                    case.text
                );
                rejected += 1;
            }
        }
        assert!(rows.next().is_none() && rejects.next().is_none());
    }
    println!("{accepted} accepted, {rejected} rejected, {unsound} unsound, {lenient} leniently accepted");
    assert!(accepted > 1_000 && rejected > 300 && unsound > 200, "{accepted}, {rejected}, {unsound}");
    assert!(lenient * 50 < unsound, "{lenient} of {unsound}");
}

#[test]
fn every_payload_cut_short_is_judged_as_prost_reflect_does() {
    for seed in 1_000..1_040 {
        let mut case = Case::new(seed);
        let payload = random_message(&mut case.random, &case.message).encode_to_vec();
        let payload = &payload[..payload.len().min(200)];
        let cuts = (0..=payload.len()).map(|len| Some(&payload[..len]));
        let decoded = case.decoder().decode(&chunk(cuts)).unwrap();
        for len in 0..=payload.len() {
            let message = DynamicMessage::decode(case.message.clone(), &payload[..len]).ok();
            let expected = message.and_then(|message| judge_message(&message, case.schema.fields()));
            let accepted = decoded.records.binary_search(&(len as u32)).is_ok();
            assert_eq!(accepted, expected.is_some(), "seed {seed}: {:?}\n{}", &payload[..len], case.text);
        }
    }
}

#[test]
fn random_bytes_do_no_harm() {
    for seed in 2_000..2_060 {
        let mut case = Case::new(seed);
        let payload = |random: &mut Random| -> Vec<u8> {
            // Small bytes make many tags and short lengths.
            let bound = *random.pick(&[&16, &64, &256]);
            (0..random.below(60)).map(|_| random.below(bound) as u8).collect()
        };
        let payloads: Vec<_> = (0..200).map(|_| payload(&mut case.random)).collect();
        let decoded =
            case.decoder().decode(&chunk(payloads.iter().map(|payload| Some(&payload[..])))).unwrap();
        assert_eq!(decoded.records.len() + decoded.rejects.len(), payloads.len());
        assert_eq!(decoded.batch.num_rows(), decoded.records.len());
    }
}

#[test]
fn the_result_does_not_depend_on_how_records_are_cut_into_chunks() {
    for seed in 3_000..3_030 {
        let mut case = Case::new(seed);
        let payloads = case.payloads(60);
        let part = |start: usize, end: usize| {
            chunk(payloads[start..end].iter().map(|(payload, _)| Some(&payload[..])))
        };
        let whole = case.decoder().decode(&part(0, payloads.len())).unwrap();
        let mut decoder = case.decoder();
        let (mut batches, mut messages, mut start) = (Vec::new(), Vec::new(), 0);
        while start < payloads.len() {
            let end = payloads.len().min(start + 1 + case.random.below(15));
            let decoded = decoder.decode(&part(start, end)).unwrap();
            batches.push(decoded.batch);
            let rejects = decoded.rejects.into_iter();
            messages.extend(rejects.map(|reject| (start as u32 + reject.record, reject.message)));
            start = end;
        }
        let joined = concat_batches(&case.schema, &batches).unwrap();
        assert_eq!(format!("{joined:?}"), format!("{:?}", whole.batch), "seed {seed}");
        let expected: Vec<_> =
            whole.rejects.into_iter().map(|reject| (reject.record, reject.message)).collect();
        assert_eq!(messages, expected);
    }
}

#[test]
fn what_is_declared_in_no_contract_is_ignored() {
    // The first half of the columns come out as they do among all.
    for seed in 4_000..4_040 {
        let mut case = Case::new(seed);
        let mut all = case.decoder();
        let half: Vec<_> =
            case.schema.fields().iter().take(case.schema.fields().len().div_ceil(2)).cloned().collect();
        let schema: SchemaRef = std::sync::Arc::new(arrow::datatypes::Schema::new(half));
        let limits = DecodeLimits::default();
        let mut some =
            ProtobufDecoder::new(schema.clone(), &case.message, UnknownFields::Ignore, limits).unwrap();
        for (payload, _) in case.payloads(20) {
            let chunk = chunk([Some(&payload[..])]);
            let whole = all.decode(&chunk).unwrap();
            if whole.batch.num_rows() == 1 {
                let part = some.decode(&chunk).unwrap();
                let columns: Vec<_> = (0..schema.fields().len()).collect();
                assert_eq!(
                    format!("{:?}", part.batch),
                    format!("{:?}", whole.batch.project(&columns).unwrap())
                );
            }
        }
    }
}

#[test]
fn required_fields_are_the_only_ones_that_are_not_nullable() {
    for seed in 5_000..5_050 {
        let case = Case::new(seed);
        for field in case.schema.fields() {
            let declared = case.message.get_field_by_name(field.name()).unwrap();
            assert_eq!(field.is_nullable(), declared.cardinality() != Cardinality::Required);
        }
    }
}
