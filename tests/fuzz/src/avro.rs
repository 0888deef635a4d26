//! Avro: payloads of schemas that are given, and schemas that are not; held against `apache-avro`.

use std::sync::LazyLock;

use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::types::Value;
use arrow::datatypes::{DataType, Field, SchemaRef};
use isobar_schemas::{
    AvroDecoder, DecodeLimits, Framing, RegisteredSchema, SchemaKind, SchemaReference, UnknownFields,
    WriterSchema, avro_event_problems, avro_problems, fields_of_avro, fields_of_avro_event, to_arrow_schema,
};

use crate::fates::{Fate, Growth, LEFT_OUT, Subject, fates};
use crate::input::Input;
use crate::testing::schema;

/// What `avro/input.rs` lets a payload become.
const GROWTH: Growth = Growth { per_byte: 64, per_record: 1025 };

/// Every kind of value that has no others in it, but for UUIDs: text that is none is text here, and `apache-avro` refuses it.
const KINDS: &str = r#"{"type":"record","name":"Kinds","fields":[
    {"name":"x","type":"boolean"},{"name":"i","type":"int"},{"name":"l","type":"long"},
    {"name":"f","type":"float"},{"name":"g","type":"double"},{"name":"b","type":"bytes"},{"name":"s","type":"string"},
    {"name":"e","type":{"type":"enum","name":"E","symbols":["RED","GREEN","BLUE"]}},
    {"name":"n","type":{"type":"fixed","name":"F","size":3}},
    {"name":"d","type":{"type":"bytes","logicalType":"decimal","precision":12,"scale":3}},
    {"name":"h","type":{"type":"fixed","name":"D","size":7,"logicalType":"decimal","precision":16,"scale":3}},
    {"name":"t","type":{"type":"int","logicalType":"date"}},
    {"name":"tm","type":{"type":"int","logicalType":"time-millis"}},
    {"name":"tu","type":{"type":"long","logicalType":"time-micros"}},
    {"name":"zm","type":{"type":"long","logicalType":"timestamp-millis"}},
    {"name":"zu","type":{"type":"long","logicalType":"timestamp-micros"}},
    {"name":"zn","type":{"type":"long","logicalType":"timestamp-nanos"}},
    {"name":"lu","type":{"type":"long","logicalType":"local-timestamp-micros"}},
    {"name":"u","type":"string"},
    {"name":"o","type":["null","long"]},{"name":"w","type":["string","null"]}]}"#;

/// Values in values, also without any bytes.
const NESTED: &str = r#"{"type":"record","name":"Nested","fields":[
    {"name":"l","type":{"type":"array","items":["null","long"]}},
    {"name":"m","type":{"type":"map","values":"string"}},
    {"name":"r","type":{"type":"array","items":{"type":"record","name":"R","fields":[
        {"name":"a","type":"int"},{"name":"e","type":{"type":"enum","name":"E","symbols":["RED","A_RATHER_LONG_SYMBOL"]}}]}}},
    {"name":"o","type":["null","R"]},
    {"name":"z","type":{"type":"array","items":{"type":"fixed","name":"Z","size":0}}},
    {"name":"k","type":{"type":"map","values":{"type":"array","items":"R"}}}]}"#;

/// Resolved to a contract that is not its own: other types, fields to step over, a record within itself.
const RESOLVED: &str = r#"{"type":"record","name":"Resolved","fields":[
    {"name":"i","type":"long"},{"name":"skipped","type":["null","int","string",{"type":"record","name":"L","fields":[
        {"name":"x","type":"int"},{"name":"next","type":["null","L"]}]}]},
    {"name":"q","type":["null","string"]},{"name":"d","type":"int"},{"name":"f","type":"long"},
    {"name":"s","type":"bytes"},{"name":"many","type":{"type":"map","values":{"type":"array","items":"L"}}},
    {"name":"u","type":["int","string","null"]}]}"#;

/// In Debezium's envelope: changes, tombstones, heartbeats and boundaries of transactions.
const EVENTS: &str = r#"[{"type":"record","name":"Envelope","fields":[
    {"name":"before","type":["null",{"type":"record","name":"Value","fields":[{"name":"i","type":"long"},
        {"name":"s","type":["null","string"]},{"name":"l","type":{"type":"array","items":"int"}}]}]},
    {"name":"after","type":["null","Value"]},
    {"name":"source","type":["null",{"type":"record","name":"Source","fields":[
        {"name":"ts_ms","type":["null","long"]},{"name":"db","type":"string"}]}]},
    {"name":"op","type":"string"},{"name":"ts_ms","type":["null","long"]}]},
    "null",
    {"type":"record","name":"Heartbeat","fields":[{"name":"ts_ms","type":"long"}]},
    {"type":"record","name":"Boundary","fields":[{"name":"status","type":"string"},{"name":"id","type":"string"},
        {"name":"event_count","type":["null","long"]},{"name":"data_collections","type":"bytes"},{"name":"ts_ms","type":"long"}]}]"#;

struct Case {
    text: &'static str,
    /// What `apache-avro` makes of it.
    theirs: Schema,
    contract: SchemaRef,
    /// Whether the contract is the one that the schema itself suggests.
    is_own: bool,
    /// Whether the contract is that of the rows in its events.
    in_envelope: bool,
}

static CASES: LazyLock<[Case; 4]> = LazyLock::new(|| {
    let own = |text| {
        let fields = fields_of_avro(&registered(text, Vec::new())).expect("a contract can have all of it");
        to_arrow_schema(&fields).expect("a schema can have all of it")
    };
    let resolved = schema(&[
        ("i", "int8"),
        ("q!", "string"),
        ("d", "decimal(7,2)"),
        ("f", "float32"),
        ("s", "string"),
        ("u", "int64"),
        ("absent", "date"),
    ]);
    let rows = fields_of_avro_event(&registered(EVENTS, Vec::new())).expect("events have rows");
    let rows = to_arrow_schema(&rows).expect("a schema can have all of it");
    let cases = [(KINDS, own(KINDS)), (NESTED, own(NESTED)), (RESOLVED, resolved), (EVENTS, rows)];
    cases.map(|(text, contract)| Case {
        text,
        theirs: Schema::parse_str(text).expect("a schema of our own"),
        contract,
        is_own: text != RESOLVED,
        in_envelope: text == EVENTS,
    })
});

fn registered(text: &str, references: Vec<SchemaReference>) -> RegisteredSchema {
    RegisteredSchema { kind: SchemaKind::Avro, text: text.to_owned(), references }
}

/// What the registry has: the four schemas, and answers of every other kind.
fn registry(id: u32) -> WriterSchema {
    match id {
        0..=2 => WriterSchema::Known(registered(CASES[id as usize].text, Vec::new())),
        3 => WriterSchema::Unusable("too large".to_owned()),
        4 => {
            WriterSchema::Known(RegisteredSchema { kind: SchemaKind::Protobuf, ..registered("", Vec::new()) })
        }
        5 => WriterSchema::Known(registered("[", Vec::new())),
        6 => WriterSchema::Known(registered(EVENTS, Vec::new())),
        _ => WriterSchema::Unknown,
    }
}

/// Payloads that may be records of a schema that is given.
pub(crate) fn payloads(data: &[u8]) {
    let Some(mut input) = Input::new(data) else { return };
    let case = &CASES[input.choose(4)];
    let framing =
        [Framing::Plain, Framing::Confluent, Framing::SingleObject, Framing::Plain][input.choose(4)];
    let unknown_fields = [UnknownFields::Ignore, UnknownFields::Quarantine][input.choose(2)];
    let limits = input.limits();
    let writers = CASES.each_ref().map(|case| registered(case.text, Vec::new()));
    let index = CASES.iter().position(|other| std::ptr::eq(other, case)).unwrap_or(0);
    let writers = match framing {
        Framing::Plain => &writers[index..=index],
        Framing::Confluent => &[],
        Framing::SingleObject => &writers[..],
    };
    let decoder = if case.in_envelope {
        AvroDecoder::in_debezium_envelope(&case.contract, unknown_fields, limits, framing, writers)
    } else {
        AvroDecoder::new(case.contract.clone(), unknown_fields, limits, framing, writers)
    };
    let Ok(decoder) = decoder else {
        assert!(!case.is_own && unknown_fields == UnknownFields::Quarantine, "the schema fits the contract");
        return;
    };
    let payloads = input.payloads();
    let fates = check(decoder, limits, &payloads, case.in_envelope, &registry);
    for (payload, fate) in payloads.iter().zip(fates) {
        if let (Some(payload), Framing::Plain, true) = (payload, framing, case.is_own) {
            second_opinion(&case.theirs, &case.contract, payload, &fate);
        }
    }
}

/// A text that may be a schema, perhaps one it refers to, and payloads that may be its records.
pub(crate) fn schemas(data: &[u8]) {
    let Some(mut input) = Input::new(data) else { return };
    let has_reference = input.choose(4) == 1;
    let framing =
        [Framing::Plain, Framing::Confluent, Framing::SingleObject, Framing::Plain][input.choose(4)];
    let limits = input.limits();
    let Ok(text) = std::str::from_utf8(input.take_first()) else { return };
    let payloads = input.payloads();
    let references = match (has_reference, payloads.first()) {
        (true, Some(Some(reference))) => {
            let text = String::from_utf8_lossy(reference).into_owned();
            vec![SchemaReference { name: "R".to_owned(), text }]
        }
        _ => Vec::new(),
    };
    let writer = registered(text, references);
    // Whatever else it is, it can be held against any contract.
    for case in CASES.iter() {
        let problems = avro_problems(&writer, &case.contract, UnknownFields::Quarantine);
        let of_events = avro_event_problems(&writer, &case.contract, UnknownFields::Quarantine);
        for problem in problems.into_iter().chain(of_events) {
            assert!(problem.len() <= 4096, "{problem}");
        }
    }
    let Ok(fields) = fields_of_avro(&writer) else { return };
    let contract = to_arrow_schema(&fields).expect("what a schema suggests is a contract");
    let problems = avro_problems(&writer, &contract, UnknownFields::Quarantine);
    assert!(problems.is_empty(), "a schema does not fit the contract it suggests: {problems:?}");
    let writers = std::slice::from_ref(&writer);
    let writers = if framing == Framing::Confluent { &[][..] } else { writers };
    let decoder = AvroDecoder::new(contract.clone(), UnknownFields::Quarantine, limits, framing, writers)
        .expect("a schema fits the contract it suggests");
    let answer = |_| WriterSchema::Known(writer.clone());
    let fates = check(decoder, limits, &payloads, false, &answer);
    if framing != Framing::Plain || has_reference {
        return;
    }
    // With defaults that do not fit, or names that nobody refers to, it is no schema to them.
    let Ok(theirs) = Schema::parse_str(text) else { return };
    for (payload, fate) in payloads.iter().zip(fates) {
        if let Some(payload) = payload {
            second_opinion(&theirs, &contract, payload, &fate);
        }
    }
}

fn check(
    decoder: AvroDecoder,
    limits: DecodeLimits,
    payloads: &[Option<&[u8]>],
    in_envelope: bool,
    registry: &dyn Fn(u32) -> WriterSchema,
) -> Vec<Fate> {
    let payload_bytes_max = limits.payload_bytes_max;
    let decoder = Box::new(decoder);
    let subject =
        Subject { decoder, payload_bytes_max, growth: GROWTH, several: false, in_envelope, registry };
    fates(subject, payloads)
}

/// What is accepted, `apache-avro` reads as the same values, and to the end. Of an event only that it can be read is told.
fn second_opinion(theirs: &Schema, contract: &SchemaRef, payload: &[u8], fate: &Fate) {
    let Ok(row) = fate else { return };
    let Ok(reader) = GenericDatumReader::builder(theirs).build() else { return };
    let mut rest = payload;
    let value = reader.read_value(&mut rest).expect("apache-avro reads it as well");
    assert!(rest.is_empty(), "apache-avro leaves {} bytes", rest.len());
    if row == LEFT_OUT {
        return;
    }
    let contract = DataType::Struct(contract.fields().clone());
    if let Some(expected) = shown(&value, &contract) {
        assert_eq!(row, &expected);
    }
}

/// `value` as it looks in a row; `None` if that cannot be told from the value.
fn shown(value: &Value, data_type: &DataType) -> Option<String> {
    let all = |values: &[Value], element: &Field| {
        values.iter().map(|value| shown(value, element.data_type())).collect::<Option<Vec<_>>>()
    };
    Some(match (value, data_type) {
        (Value::Null, _) => "null".to_owned(),
        (Value::Boolean(value), _) => value.to_string(),
        (
            Value::Int(value) | Value::Date(value) | Value::TimeMillis(value),
            DataType::Int32 | DataType::Date32,
        ) => value.to_string(),
        (Value::Int(value), DataType::Int64) => value.to_string(),
        (Value::Int(value), DataType::Float64) => format!("{:?}", f64::from(*value)),
        (Value::Long(value), DataType::Int64) => value.to_string(),
        (
            Value::TimeMicros(value) | Value::TimestampMicros(value) | Value::LocalTimestampMicros(value),
            _,
        ) => value.to_string(),
        (Value::TimestampMillis(value) | Value::LocalTimestampMillis(value), _) => {
            value.checked_mul(1000)?.to_string()
        }
        (Value::TimestampNanos(value) | Value::LocalTimestampNanos(value), _) => {
            value.div_euclid(1000).to_string()
        }
        (Value::Float(value), DataType::Float32) => format!("{value:?}"),
        (Value::Float(value), DataType::Float64) => format!("{:?}", f64::from(*value)),
        (Value::Double(value), DataType::Float64) => format!("{value:?}"),
        (Value::Bytes(value) | Value::Fixed(_, value), DataType::Binary) => format!("{value:?}"),
        (Value::String(value) | Value::Enum(_, value), DataType::Utf8) => format!("{value:?}"),
        (Value::Duration(value), DataType::Binary) => format!("{:?}", <[u8; 12]>::from(*value)),
        (Value::Uuid(value), DataType::Utf8) => format!("{:?}", value.to_string()),
        (Value::Decimal(value), DataType::Decimal128(..)) => {
            let bytes = Vec::<u8>::try_from(value).ok().filter(|bytes| bytes.len() <= 16)?;
            let negative = bytes.first().is_some_and(|byte| *byte >= 0x80);
            let start = if negative { -1 } else { 0 };
            bytes.iter().fold(start, |value: i128, byte| value << 8 | i128::from(*byte)).to_string()
        }
        (Value::Union(_, value), data_type) => shown(value, data_type)?,
        (Value::Array(values), DataType::List(element)) => format!("[{}]", all(values, element)?.join(", ")),
        // They lose the order of entries.
        (Value::Map(values), DataType::Map(entries, _)) if values.len() < 2 => {
            let DataType::Struct(entry) = entries.data_type() else { return None };
            let entries: Vec<_> = values
                .iter()
                .map(|(key, value)| Some(format!("{key:?}: {}", shown(value, entry[1].data_type())?)))
                .collect::<Option<_>>()?;
            format!("{{{}}}", entries.join(", "))
        }
        (Value::Record(members), DataType::Struct(fields)) if members.len() == fields.len() => {
            let members: Vec<_> = members
                .iter()
                .zip(fields)
                .map(|((name, value), field)| Some(format!("{name}: {}", shown(value, field.data_type())?)))
                .collect::<Option<_>>()?;
            format!("{{{}}}", members.join(", "))
        }
        _ => return None,
    })
}
