//! The decoder against events as Kafka Connect's AvroConverter writes them, against apache-avro as a second opinion, and
//! against hostile input.

use std::collections::BTreeMap;

use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::types::Value;
use apache_avro::writer::datum::GenericDatumWriter;
use arrow::datatypes::SchemaRef;

use crate::decode::debezium::testing::{Fate, fates};
use crate::decode::testing::{Random, schema};
use crate::decode::{
    AvroDecoder, DecodeLimits, Decoder, Framing, RegisteredSchema, RejectReason, SchemaKind, UnknownFields,
    WriterSchema, avro_event_problems, fields_of_avro_event,
};
use crate::error::Error;
use crate::fields::to_arrow_schema;

fn contract() -> SchemaRef {
    schema(&[("id!", "int32"), ("name", "string"), ("vip", "boolean"), ("tags", "list<string>")])
}

const VALUE: &str = r#"{"type":"record","name":"Value","fields":[{"name":"id","type":{"type":"long","connect.default":0},"default":0},
    {"name":"name","type":["null","string"],"default":null},
    {"name":"vip","type":[{"type":"boolean","connect.default":false},"null"],"default":false},
    {"name":"tags","type":["null",{"type":"array","items":["null","string"]}],"default":null}],
    "connect.name":"shop.public.customers.Value"}"#;

const SOURCE: &str = r#"{"type":"record","name":"Source","namespace":"io.debezium.connector.postgresql","fields":[
    {"name":"version","type":"string"},{"name":"ts_ms","type":"long"},
    {"name":"snapshot","type":[{"type":"string","connect.version":1,"connect.parameters":{"allowed":"true,last,false,incremental"},
    "connect.default":"false","connect.name":"io.debezium.data.Enum"},"null"],"default":"false"},
    {"name":"lsn","type":["null","long"],"default":null}],"connect.name":"io.debezium.connector.postgresql.Source"}"#;

const TRANSACTION: &str = r#"["null",{"type":"record","name":"block","namespace":"event","fields":[{"name":"id","type":"string"},
    {"name":"total_order","type":"long"}],"connect.version":1,"connect.name":"event.block"}]"#;

const HEARTBEAT: &str = r#"{"type":"record","name":"Heartbeat","namespace":"io.debezium.connector.common","fields":[
    {"name":"ts_ms","type":"long"}],"connect.version":1,"connect.name":"io.debezium.connector.common.Heartbeat"}"#;

const BOUNDARY: &str = r#"{"type":"record","name":"TransactionMetadataValue","namespace":"io.debezium.connector.common","fields":[
    {"name":"status","type":"string"},{"name":"id","type":"string"},{"name":"event_count","type":["null","long"],"default":null},
    {"name":"data_collections","type":["null",{"type":"array","items":{"type":"record","name":"collection","namespace":"event",
    "fields":[{"name":"data_collection","type":"string"},{"name":"event_count","type":"long"}]}}],"default":null},
    {"name":"ts_ms","type":"long"}],"connect.version":1}"#;

/// In the order of Debezium.
const ORDER: [&str; 6] = ["before", "after", "source", "transaction", "op", "ts_ms"];

/// An envelope with these fields.
fn envelope(names: &[&str]) -> String {
    let mut row = VALUE;
    let mut fields = Vec::new();
    for name in names {
        let of = match *name {
            "before" | "after" => format!(r#"["null",{}]"#, std::mem::replace(&mut row, "\"Value\"")),
            "source" => SOURCE.to_owned(),
            "transaction" => TRANSACTION.to_owned(),
            "op" => "\"string\"".to_owned(),
            "ts_ms" => r#"["null","long"]"#.to_owned(),
            _ => r#"{"type":"map","values":"bytes"}"#.to_owned(),
        };
        fields.push(format!(r#"{{"name":"{name}","type":{of}}}"#));
    }
    format!(
        r#"{{"type":"record","name":"Envelope","namespace":"shop.public.customers","fields":[{}],"connect.version":2}}"#,
        fields.join(",")
    )
}

fn record(fields: Vec<(&str, Value)>) -> Value {
    Value::Record(fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

fn text(value: &str) -> Value {
    Value::String(value.to_owned())
}

/// `value` in a union, in which null has the index `null`.
fn maybe(null: u32, value: Option<Value>) -> Value {
    match value {
        None => Value::Union(null, Box::new(Value::Null)),
        Some(value) => Value::Union(1 - null, Box::new(value)),
    }
}

fn customer(id: i64, name: Option<&str>, vip: Option<bool>, tags: Option<&[Option<&str>]>) -> Value {
    let tags = tags.map(|tags| Value::Array(tags.iter().map(|tag| maybe(0, tag.map(text))).collect()));
    record(vec![
        ("id", Value::Long(id)),
        ("name", maybe(0, name.map(text))),
        ("vip", maybe(1, vip.map(Value::Boolean))),
        ("tags", maybe(0, tags)),
    ])
}

fn source(ts_ms: i64) -> Value {
    record(vec![
        ("version", text("3.0.0.Final")),
        ("ts_ms", Value::Long(ts_ms)),
        ("snapshot", maybe(1, Some(text("false")))),
        ("lsn", maybe(0, Some(Value::Long(24_023_128)))),
    ])
}

/// An event of [`envelope`].
fn event(names: &[&str], op: &str, before: Option<Value>, after: Option<Value>, ts_ms: i64) -> Value {
    let [before, after] = [before, after].map(|row| maybe(0, row));
    let fields = names.iter().map(|name| {
        let value = match *name {
            "before" => before.clone(),
            "after" => after.clone(),
            "source" => source(ts_ms),
            "transaction" => {
                maybe(0, Some(record(vec![("id", text("571:1")), ("total_order", Value::Long(1))])))
            }
            "op" => text(op),
            "ts_ms" => maybe(0, Some(Value::Long(ts_ms + 98))),
            _ => Value::Map([("k".to_owned(), Value::Bytes(vec![0, 255]))].into()),
        };
        (*name, value)
    });
    record(fields.collect())
}

fn write(schema: &str, value: Value) -> Vec<u8> {
    let schema = Schema::parse_str(schema).unwrap();
    GenericDatumWriter::builder(&schema).build().unwrap().write_value_to_vec(value).unwrap()
}

fn registered(text: &str) -> RegisteredSchema {
    RegisteredSchema { kind: SchemaKind::Avro, text: text.to_owned(), references: Vec::new() }
}

/// A decoder that knows these schemas, by their index.
fn knowing(unknown_fields: UnknownFields, schemas: &[&str]) -> AvroDecoder {
    let limits = DecodeLimits::default();
    let framing = Framing::Confluent;
    let mut decoder =
        AvroDecoder::in_debezium_envelope(&contract(), unknown_fields, limits, framing, &[]).unwrap();
    for (id, text) in (0..).zip(schemas) {
        decoder.learn(id, WriterSchema::Known(registered(text)));
    }
    decoder
}

fn framed(id: u32, value: &[u8]) -> Vec<u8> {
    [&[0][..], &id.to_be_bytes(), value].concat()
}

/// The fate of a record of one schema.
fn fate(schema: &str, value: &[u8]) -> Fate {
    let mut decoder = knowing(UnknownFields::Quarantine, &[schema]);
    fates(&mut decoder, [Some(&framed(0, value)[..])]).remove(0)
}

fn row(fields: &str, op: &str, timestamp: &str) -> Fate {
    Fate::Row(format!("{{{fields}, _op: {op:?}, _source_timestamp: {timestamp}}}"))
}

#[test]
fn the_events_of_the_documentation_become_rows() {
    let anne = || customer(1, Some("Anne Marie"), Some(true), Some(&[Some("a"), None]));
    let key_only = || customer(1, None, None, None);
    let all = r#"id: 1, name: "Anne Marie", vip: true, tags: ["a", null]"#;
    let key = "id: 1, name: null, vip: null, tags: null";
    let mut reversed = ORDER;
    reversed.reverse();
    let further = ["new", "op", "ts_ms", "source", "after", "before", "newer"];
    for order in [&ORDER[..], &reversed, &further] {
        let schema = envelope(order);
        let mut decoder = knowing(UnknownFields::Quarantine, &[&schema]);
        for (op, before, after, fields) in [
            ("c", None, Some(anne()), all),
            ("r", None, Some(anne()), all),
            ("u", Some(key_only()), Some(anne()), all),
            ("u", Some(anne()), Some(key_only()), key),
            // What the row was before is not looked at, unless it was deleted.
            ("u", Some(customer(i64::MAX, None, None, None)), Some(key_only()), key),
            ("d", Some(anne()), None, all),
            ("d", Some(key_only()), None, key),
        ] {
            let payload = write(&schema, event(order, op, before, after, 1_559_033_904_863));
            let found = fates(&mut decoder, [Some(&framed(0, &payload)[..])]);
            assert_eq!(found, [row(fields, op, "1559033904863000")], "{op} of {order:?}");
        }
    }
    // An event need not say when it was, nor need its schema have more than it takes.
    let schema = envelope(&["op", "after"]);
    let payload = write(&schema, event(&["op", "after"], "c", None, Some(key_only()), 0));
    assert_eq!(fate(&schema, &payload), row(key, "c", "null"));
}

#[test]
fn what_says_nothing_of_rows_is_left_out() {
    let later = HEARTBEAT.replace(
        r#"{"name":"ts_ms","type":"long"}"#,
        r#"{"name":"ts_ms","type":"long"},{"name":"ts_us","type":"long"},{"name":"ts_ns","type":["null","long"]}"#,
    );
    let changes = envelope(&ORDER);
    let union = format!(r#"["null",{HEARTBEAT},{BOUNDARY}]"#);
    let mut decoder =
        knowing(UnknownFields::Quarantine, &[&changes, HEARTBEAT, &later, BOUNDARY, "\"null\"", &union]);
    let collection = record(vec![("data_collection", text("s1.a")), ("event_count", Value::Long(2))]);
    let boundary = |status: &str, collections: Option<Value>| {
        let count = collections.as_ref().map(|_| Value::Long(2));
        write(
            BOUNDARY,
            record(vec![
                ("status", text(status)),
                ("id", text("571:53195829")),
                ("event_count", maybe(0, count)),
                ("data_collections", maybe(0, collections)),
                ("ts_ms", Value::Long(1)),
            ]),
        )
    };
    let end = boundary("END", Some(Value::Array(vec![collection])));
    let good = framed(0, &write(&changes, event(&ORDER, "c", None, Some(customer(1, None, None, None)), 5)));
    let left_out = [
        framed(1, &[0x02]),
        framed(2, &[0x02, 0x04, 0x00]),
        framed(3, &boundary("BEGIN", None)),
        framed(3, &end),
        framed(4, &[]),
        framed(5, &[0x00]),
        framed(5, &[0x02, 0x02]),
        framed(5, &[&[0x04][..], &end].concat()),
    ];
    // Among others, whose rows keep their places.
    let mut payloads = vec![None, Some(&good[..])];
    payloads.extend(left_out.iter().map(|payload| Some(&payload[..])));
    payloads.extend([Some(&good[..]), None]);
    let found = fates(&mut decoder, payloads);
    let due = row("id: 1, name: null, vip: null, tags: null", "c", "5000");
    for (record, fate) in found.iter().enumerate() {
        let is_row = record == 1 || record == found.len() - 2;
        assert_eq!(*fate, if is_row { due.clone() } else { Fate::LeftOut }, "record {record}");
    }

    // What only looks like it is not.
    for status in ["PAID", "begin"] {
        let value = framed(3, &boundary(status, None));
        let Fate::Rejected(reason, message) = fates(&mut decoder, [Some(&value[..])]).remove(0) else {
            panic!("{status}")
        };
        assert!(reason == RejectReason::MissingField && message.contains("`op`: missing"), "{message}");
    }
    for damaged in [framed(1, &[]), framed(1, &[0x02, 0x02]), framed(3, &end[..4])] {
        let fate = fates(&mut decoder, [Some(&damaged[..])]).remove(0);
        assert!(matches!(fate, Fate::Rejected(RejectReason::Undecodable, _)), "{fate:?}");
    }
}

#[test]
fn every_other_event_is_rejected_with_a_reason() {
    use RejectReason::{InvalidValue, MissingField, OutOfRange};
    let anne = || Some(customer(1, Some("Anne"), None, None));
    let far = || Some(customer(1 << 31, None, None, None));
    let schema = envelope(&ORDER);
    for (op, before, after, ts_ms, reason, part) in [
        ("t", None, None, 0, InvalidValue, "`op`: the table was truncated"),
        ("m", None, None, 0, InvalidValue, "`op`: a message"),
        ("x", None, anne(), 0, InvalidValue, "`op`: no operation"),
        ("C", None, anne(), 0, InvalidValue, "`op`: no operation"),
        ("", None, anne(), 0, InvalidValue, "`op`: no operation"),
        ("c", None, None, 0, MissingField, "`after`: the event has no row"),
        ("u", anne(), None, 0, MissingField, "`after`: the event has no row"),
        ("d", None, None, 0, MissingField, "`before`: the delete does not say"),
        ("d", None, anne(), 0, InvalidValue, "`after`: a delete has no row after it"),
        ("d", anne(), anne(), 0, InvalidValue, "`after`: a delete has no row after it"),
        ("c", None, far(), 0, OutOfRange, "`after.id`: 2147483648"),
        ("d", far(), None, 0, OutOfRange, "`before.id`: 2147483648"),
        ("c", None, anne(), i64::MAX - 98, OutOfRange, "`source.ts_ms`"),
    ] {
        let payload = write(&schema, event(&ORDER, op, before, after, ts_ms));
        let Fate::Rejected(found, message) = fate(&schema, &payload) else { panic!("{op}: {part}") };
        assert!(found == reason && message.contains(part), "{op}: {found}: {message}");
    }
    // Messages of applications have a schema of their own.
    let message = format!(
        r#"{{"type":"record","name":"MessageValue","fields":[{{"name":"op","type":["null","string"]}},{{"name":"source","type":{SOURCE}}},
        {{"name":"message","type":{{"type":"record","name":"Message","fields":[{{"name":"prefix","type":["null","string"]}}]}}}}]}}"#
    );
    let payload = write(
        &message,
        record(vec![
            ("op", maybe(0, Some(text("m")))),
            ("source", source(1)),
            ("message", record(vec![("prefix", maybe(0, None))])),
        ]),
    );
    let Fate::Rejected(InvalidValue, message) = fate(&message, &payload) else { panic!("a message") };
    assert!(message.contains("`op`: a message"), "{message}");
}

#[test]
fn unions_are_judged_record_by_record() {
    let schema = r#"{"type":"record","name":"E","fields":[
        {"name":"op","type":["null","string",{"type":"enum","name":"Op","symbols":["c","d","t"]}]},
        {"name":"source","type":["null",{"type":"record","name":"S","fields":[{"name":"ts_ms","type":["null","long"]}]},
            {"type":"record","name":"T","fields":[]},"int"]},
        {"name":"after","type":["null",{"type":"record","name":"V","fields":[{"name":"id","type":["null","int"]}]},"string",
            {"type":"record","name":"W","fields":[{"name":"id","type":"string"}]}]}]}"#;
    let (op, timed, one): (&[u8], &[u8], &[u8]) =
        (&[0x02, 0x02, b'c'], &[0x02, 0x02, 0x0a], &[0x02, 0x02, 0x02]);
    let fields = "id: 1, name: null, vip: null, tags: null";
    for (op, source, timestamp) in [
        (op, timed, "5000"),
        (&[0x04, 0x00], timed, "5000"),
        (op, &[0x02, 0x00], "null"),
        (op, &[0x00], "null"),
        (op, &[0x04], "null"),
    ] {
        assert_eq!(fate(schema, &[op, source, one].concat()), row(fields, "c", timestamp));
    }
    use RejectReason::{InvalidValue, MissingField, NullField, Undecodable, WrongType};
    for (op, source, after, reason, part) in [
        (&[0x00][..], timed, one, WrongType, "`op`: expected a string"),
        (&[0x06], timed, one, Undecodable, "`op`: byte 5: branch 3, where there are 3"),
        (&[0x04, 0x04], timed, one, InvalidValue, "`op`: the table was truncated"),
        (&[0x04, 0x06], timed, one, Undecodable, "`op`: byte 6: symbol 3"),
        // There is no field that could say of which row it is.
        (&[0x04, 0x02], timed, &[0x00], MissingField, "`before`: the delete does not say"),
        (op, &[0x06, 0x02], one, WrongType, "`source`: the writer's int is not a record"),
        (op, timed, &[0x00], MissingField, "`after`"),
        (op, timed, &[0x02, 0x00], NullField, "`after.id`"),
        (op, timed, &[0x04, 0x00], WrongType, "`after`: the writer's string is not a record"),
        (op, timed, &[0x06, 0x00], WrongType, "`after.id`: the writer's string"),
        (op, timed, &[0x08], Undecodable, "`after`: byte 11: branch 4"),
    ] {
        let Fate::Rejected(found, message) = fate(schema, &[op, source, after].concat()) else {
            panic!("{part}")
        };
        assert!(found == reason && message.contains(part), "{found}: {message}");
    }
    // All of it can be read by some record, so nothing is wrong with the schema.
    let problems = avro_event_problems(&registered(schema), &contract(), UnknownFields::Quarantine);
    assert_eq!(problems, [""; 0]);
}

#[test]
fn schemas_that_no_row_can_be_read_from_are_found_beforehand() {
    use RejectReason::{IncompatibleSchema, MissingField, UnknownField, WrongType};
    let good = envelope(&ORDER);
    let edited = |from: &str, to: &str| {
        assert!(good.contains(from), "{from}");
        good.replacen(from, to, 1)
    };
    let id = r#"{"name":"id","type":{"type":"long","connect.default":0},"default":0},"#;
    for (schema, reason, parts) in [
        (envelope(&["before", "after", "source"]), MissingField, &["`op`: missing"][..]),
        (VALUE.to_owned(), MissingField, &["no change event"]),
        ("\"string\"".to_owned(), IncompatibleSchema, &["the writer's string is not a record"]),
        (r#"["null"]"#.to_owned(), MissingField, &["no change event"]),
        (edited(r#""op","type":"string""#, r#""op","type":"int""#), WrongType, &["`op`: expected a string"]),
        (edited(id, ""), MissingField, &["`after.id`: required, but missing"]),
        (edited(id, &id.replace("long", "string")), IncompatibleSchema, &["`after.id`: the writer's string"]),
        (
            edited(id, &format!(r#"{id}{{"name":"new","type":"int"}},"#)),
            UnknownField,
            &["`after.new`: the schema has no such field"],
        ),
        (
            edited(r#"["null","Value"]"#, "\"string\""),
            IncompatibleSchema,
            &["`after`: the writer's string is not a record"],
        ),
        (
            edited(r#"["null","Value"]"#, r#"["null",{"type":"record","name":"Other","fields":[]}]"#),
            MissingField,
            &["`after.id`: required"],
        ),
        (
            edited(r#""ts_ms","type":"long""#, r#""ts_ms","type":["null","string"]"#),
            IncompatibleSchema,
            &["`source.ts_ms`: the writer's string is no long"],
        ),
        (
            edited(SOURCE, "\"string\""),
            IncompatibleSchema,
            &["`source`: the writer's string is not a record"],
        ),
        (
            edited(r#"["null","Value"]"#, &format!(r#"["null",{}]"#, VALUE.replace("Value", "After")))
                .replacen(id, "", 1),
            MissingField,
            &["`before.id`: required, but missing"],
        ),
    ] {
        let problems = avro_event_problems(&registered(&schema), &contract(), UnknownFields::Quarantine);
        assert_eq!(problems.len(), parts.len(), "{problems:?}");
        for (problem, part) in problems.iter().zip(parts) {
            assert!(problem.contains(part), "{problem}");
        }
        // Whatever the payload is, it is the schema that is in the way.
        let Fate::Rejected(found, message) = fate(&schema, &[0; 40]) else { panic!("{parts:?}") };
        assert!(found == reason && message.contains(parts[0]), "{found}: {message}");
        assert!(message.contains("(schema 0)"), "{message}");
    }
    assert_eq!(
        avro_event_problems(&registered(&good), &contract(), UnknownFields::Quarantine),
        [""; 0],
        "none"
    );
    for rowless in [HEARTBEAT, BOUNDARY, &envelope(&["op", "before", "source"])] {
        let problems = avro_event_problems(&registered(rowless), &contract(), UnknownFields::Quarantine);
        assert!(matches!(&problems[..], [problem] if problem.contains("no event of it is a row")));
    }
    // A column that the contract has not is left out where it says so.
    let more = edited(id, &format!(r#"{id}{{"name":"new","type":["null","int"]}},"#));
    assert_eq!(avro_event_problems(&registered(&more), &contract(), UnknownFields::Ignore), [""; 0]);
}

#[test]
fn a_schema_may_be_given_instead_of_a_registry() {
    let schema = envelope(&ORDER);
    let payload = write(&schema, event(&ORDER, "d", Some(customer(1, None, None, None)), None, 5));
    let due = row("id: 1, name: null, vip: null, tags: null", "d", "5000");
    let new = |framing, writers: &[&str]| {
        let writers: Vec<_> = writers.iter().map(|text| registered(text)).collect();
        let (unknown_fields, limits) = (UnknownFields::Quarantine, DecodeLimits::default());
        AvroDecoder::in_debezium_envelope(&contract(), unknown_fields, limits, framing, &writers)
    };
    let mut plain = new(Framing::Plain, &[&schema]).unwrap();
    assert_eq!(fates(&mut plain, [Some(&payload[..]), None]), [due.clone(), Fate::LeftOut]);
    let mut objects = new(Framing::SingleObject, &[HEARTBEAT, &schema]).unwrap();
    let object = |text: &str, value: &[u8]| {
        let fingerprint = Schema::parse_str(text).unwrap().fingerprint::<apache_avro::rabin::Rabin>();
        [&[0xC3, 0x01][..], &fingerprint.bytes, value].concat()
    };
    let [event, heartbeat] = [object(&schema, &payload), object(HEARTBEAT, &[0x02])];
    assert_eq!(fates(&mut objects, [Some(&event[..]), Some(&heartbeat)]), [due, Fate::LeftOut]);

    // Of which nothing could ever be a row.
    for rowless in [HEARTBEAT, BOUNDARY, "\"null\""] {
        let error = new(Framing::Plain, &[rowless]).unwrap_err();
        assert!(matches!(&error, Error::WriterSchema { problem } if problem.contains("no event of it")));
    }
    let taken = crate::decode::testing::schema(&[("_op", "string")]);
    let (unknown_fields, limits) = (UnknownFields::Ignore, DecodeLimits::default());
    let error = AvroDecoder::in_debezium_envelope(&taken, unknown_fields, limits, Framing::Confluent, &[]);
    assert!(matches!(error, Err(Error::InvalidName { .. })));
}

#[test]
fn the_contract_of_a_row_is_derived_from_its_events() {
    let changes = registered(&envelope(&ORDER));
    let fields = fields_of_avro_event(&changes).unwrap();
    let written: Vec<_> = fields
        .0
        .iter()
        .map(|(name, spec)| format!("{name}: {}{}", spec.type_text, if spec.nullable { "?" } else { "" }))
        .collect();
    assert_eq!(written, ["id: int64", "name: string?", "vip: boolean?", "tags: list<string>?"]);
    let columns = to_arrow_schema(&fields).unwrap();
    assert_eq!(avro_event_problems(&changes, &columns, UnknownFields::Quarantine), [""; 0]);
    for rowless in [HEARTBEAT, VALUE, "\"string\"", &envelope(&["op", "before"])] {
        let error = fields_of_avro_event(&registered(rowless)).unwrap_err();
        assert!(error.to_string().contains("no record `after`"), "{error}");
    }
}

/// What the converter makes of the types of Kafka Connect and Debezium.
#[test]
fn types_of_connect_are_read_as_documented() {
    let fields = [
        (
            "price",
            r#"["null",{"type":"bytes","scale":2,"precision":64,"connect.version":1,"connect.parameters":{"scale":"2"},
            "connect.name":"org.apache.kafka.connect.data.Decimal","logicalType":"decimal"}]"#,
            "decimal(12,2)",
            &[0x02, 0x04, 0x01, 0x00][..],
            "256",
        ),
        (
            "at",
            r#"{"type":"long","connect.version":1,"connect.name":"org.apache.kafka.connect.data.Timestamp","logicalType":"timestamp-millis"}"#,
            "timestamp",
            &[0x04],
            "2000",
        ),
        (
            "day",
            r#"{"type":"int","connect.version":1,"connect.name":"org.apache.kafka.connect.data.Date","logicalType":"date"}"#,
            "date",
            &[0x06],
            "3",
        ),
        (
            "clock",
            r#"{"type":"int","connect.version":1,"connect.name":"org.apache.kafka.connect.data.Time","logicalType":"time-millis"}"#,
            "int32",
            &[0x08],
            "4",
        ),
        (
            "born",
            r#"{"type":"int","connect.version":1,"connect.name":"io.debezium.time.Date"}"#,
            "int32",
            &[0x0a],
            "5",
        ),
        (
            "seen",
            r#"{"type":"long","connect.version":1,"connect.name":"io.debezium.time.MicroTimestamp"}"#,
            "int64",
            &[0x0c],
            "6",
        ),
        (
            "zoned",
            r#"{"type":"string","connect.version":1,"connect.name":"io.debezium.time.ZonedTimestamp"}"#,
            "string",
            b"\x281970-01-01T00:00:00Z",
            "\"1970-01-01T00:00:00Z\"",
        ),
        (
            "kind",
            r#"{"type":"string","connect.version":1,"connect.parameters":{"allowed":"a,b"},"connect.default":"a",
            "connect.name":"io.debezium.data.Enum"}"#,
            "string",
            b"\x02b",
            "\"b\"",
        ),
        (
            "amount",
            r#"{"type":"record","name":"VariableScaleDecimal","namespace":"io.debezium.data","fields":[{"name":"scale","type":"int"},
            {"name":"value","type":"bytes"}],"connect.doc":"Variable scaled decimal","connect.version":1}"#,
            "struct<scale: int32, value: binary>",
            &[0x02, 0x02, 0x07],
            "{scale: 1, value: [7]}",
        ),
        (
            "place",
            r#"{"type":"record","name":"Point","namespace":"io.debezium.data.geometry","fields":[{"name":"x","type":"double"},
            {"name":"wkb","type":["null","bytes"]},{"name":"srid","type":["null","int"]}],"connect.version":1}"#,
            "struct<x: float64, wkb: binary, srid: int32>",
            &[0, 0, 0, 0, 0, 0, 0, 0, 0x02, 0x02, 0x09, 0x00],
            "{x: 0.0, wkb: [9], srid: null}",
        ),
    ];
    let value: Vec<_> =
        fields.iter().map(|(name, of, ..)| format!(r#"{{"name":"{name}","type":{of}}}"#)).collect();
    let schema = format!(
        r#"{{"type":"record","name":"E","fields":[{{"name":"after","type":["null",{{"type":"record","name":"V","fields":[{}]}}]}},
        {{"name":"op","type":"string"}}]}}"#,
        value.join(",")
    );
    let columns: Vec<_> = fields.iter().map(|(name, _, column, ..)| (*name, *column)).collect();
    let (unknown_fields, limits) = (UnknownFields::Quarantine, DecodeLimits::default());
    let mut decoder = AvroDecoder::in_debezium_envelope(
        &crate::decode::testing::schema(&columns),
        unknown_fields,
        limits,
        Framing::Plain,
        &[registered(&schema)],
    )
    .unwrap();
    let bytes: Vec<&[u8]> = fields.iter().map(|(_, _, _, bytes, _)| *bytes).collect();
    let payload = [&[0x02][..], &bytes.concat(), b"\x02c"].concat();
    let members: Vec<_> = fields.iter().map(|(name, _, _, _, shown)| format!("{name}: {shown}")).collect();
    assert_eq!(fates(&mut decoder, [Some(&payload[..])]), [row(&members.join(", "), "c", "null")]);
}

// ---------------------------------------------------------------------------------------------------------------
// A second opinion.

/// The members of a record, if it is one.
fn members(value: &Value) -> Option<BTreeMap<&str, &Value>> {
    match value {
        Value::Union(_, value) => members(value),
        Value::Record(fields) => Some(fields.iter().map(|(name, value)| (name.as_str(), value)).collect()),
        _ => None,
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::Union(_, value) => shown(value),
        Value::Null => "null".to_owned(),
        Value::Boolean(value) => value.to_string(),
        Value::Long(value) => value.to_string(),
        Value::String(value) => format!("{value:?}"),
        Value::Array(items) => format!("[{}]", items.iter().map(shown).collect::<Vec<_>>().join(", ")),
        other => panic!("{other:?}"),
    }
}

/// What becomes of an event, by apache-avro's reading of it; `None` if it is rejected.
fn second_opinion(schema: &Schema, payload: &[u8]) -> Option<Fate> {
    let mut rest = payload;
    let value = GenericDatumReader::builder(schema).build().unwrap().read_value(&mut rest).ok()?;
    if !rest.is_empty() {
        return None;
    }
    let event = members(&value)?;
    let Value::String(op) = event["op"] else { panic!("{value:?}") };
    let op = op.as_str();
    if !["c", "u", "d", "r"].contains(&op) {
        return None;
    }
    let row_of = |name: &str| event.get(name).and_then(|value| members(value));
    let fields = match op {
        "d" if row_of("after").is_some() => return None,
        "d" => row_of("before")?,
        _ => row_of("after")?,
    };
    let Value::Long(id) = fields["id"] else { panic!("{value:?}") };
    let id = i32::try_from(*id).ok()?;
    let [name, vip, tags] = ["name", "vip", "tags"].map(|name| shown(fields[name]));
    let timestamp = match event.get("source").and_then(|source| members(source)) {
        None => "null".to_owned(),
        Some(source) => {
            let Value::Long(millis) = source["ts_ms"] else { panic!("{value:?}") };
            millis.checked_mul(1000)?.to_string()
        }
    };
    Some(row(&format!("id: {id}, name: {name}, vip: {vip}, tags: {tags}"), op, &timestamp))
}

fn random_customer(random: &mut Random) -> Option<Value> {
    let ids = [0, 1, -7, i64::from(i32::MIN), i64::from(i32::MAX), 1 << 31, i64::MIN];
    let likely = if random.one_in(10) { ids.len() } else { ids.len() - 2 };
    let id = ids[random.below(likely)];
    let name = ["", "Anne", "ż😀\0"][random.below(3)];
    let tags = [Some("a"), None, Some("")];
    let name = (!random.one_in(3)).then_some(name);
    let vip = (!random.one_in(3)).then_some(random.one_in(2));
    let tags = (!random.one_in(3)).then_some(&tags[..random.below(4)]);
    (!random.one_in(12)).then(|| customer(id, name, vip, tags))
}

/// A schema and events of it: mostly good ones.
fn random_events(random: &mut Random, count: usize) -> (String, Vec<Vec<u8>>) {
    let mut order = vec!["before", "after", "source", "transaction", "op", "ts_ms", "new"];
    for index in (1..order.len()).rev() {
        order.swap(index, random.below(index + 1));
    }
    let left_out = ["before", "source", "transaction", "ts_ms", "new"][random.below(5)];
    if random.one_in(3) {
        order.retain(|name| *name != left_out);
    }
    let schema = envelope(&order);
    let events = (0..count).map(|_| {
        let op = random.pick(&["c", "u", "r", "d", "d", "t", "m", "z"]);
        let (before, after) = match op {
            "d" if !random.one_in(10) => (random_customer(random), None),
            "u" => (random_customer(random), random_customer(random)),
            _ => (None, random_customer(random)),
        };
        let times = [0, -1, 1_559_033_904_863, i64::MAX - 98];
        let likely = if random.one_in(10) { times.len() } else { times.len() - 1 };
        let ts_ms = times[random.below(likely)];
        write(&schema, event(&order, op, before, after, ts_ms))
    });
    let events = events.collect();
    (schema, events)
}

#[test]
fn the_decoder_agrees_with_a_second_opinion() {
    let mut kinds = [0; 2];
    for seed in 0..60 {
        let mut random = Random::new(seed);
        let (text, payloads) = random_events(&mut random, 60);
        let theirs = Schema::parse_str(&text).unwrap();
        let mut decoder = knowing(UnknownFields::Quarantine, &[&text]);
        let payloads: Vec<_> = payloads.iter().map(|payload| framed(0, payload)).collect();
        let found = fates(&mut decoder, payloads.iter().map(|payload| Some(&payload[..])));
        for (payload, fate) in payloads.iter().zip(found) {
            kinds[usize::from(matches!(fate, Fate::Row(_)))] += 1;
            let due = second_opinion(&theirs, &payload[5..]);
            let found = Some(&fate).filter(|fate| !matches!(fate, Fate::Rejected(..)));
            assert_eq!(found, due.as_ref(), "seed {seed}: {payload:?}: {fate:?}\n{text}");
        }
    }
    assert!(kinds.iter().all(|count| *count > 500), "{kinds:?}");
}

#[test]
fn damaged_events_are_never_taken_for_others() {
    let (mut taken, mut rejected) = (0, 0);
    for seed in 100..180 {
        let mut random = Random::new(seed);
        let (text, mut payloads) = random_events(&mut random, 40);
        let theirs = Schema::parse_str(&text).unwrap();
        for payload in &mut payloads {
            for _ in 0..1 + random.below(2) {
                let at = random.below(payload.len());
                match random.below(3) {
                    0 => payload[at] = random.below(256) as u8,
                    1 if payload.len() > 1 => drop(payload.remove(at)),
                    _ => payload.truncate(at.max(1)),
                }
            }
        }
        let mut decoder = knowing(UnknownFields::Quarantine, &[&text]);
        let framed: Vec<_> = payloads.iter().map(|payload| framed(0, payload)).collect();
        let found = fates(&mut decoder, framed.iter().map(|payload| Some(&payload[..])));
        for (payload, fate) in payloads.iter().zip(found) {
            if matches!(fate, Fate::Rejected(..)) {
                rejected += 1;
            } else {
                taken += 1;
                let due = second_opinion(&theirs, payload);
                assert_eq!(due.as_ref(), Some(&fate), "seed {seed}: {payload:?}\n{text}");
            }
        }
    }
    assert!(taken > 20 && rejected > 1_000, "{taken} taken, {rejected} rejected");
}

#[test]
fn events_cut_short_or_too_long_are_rejected() {
    let mut reversed = ORDER;
    reversed.reverse();
    for order in [ORDER, reversed] {
        let schema = envelope(&order);
        for (op, before, after) in [("u", true, true), ("c", false, true), ("d", true, false)] {
            let row = |is_there: bool| {
                is_there.then(|| customer(1, Some("Anne"), Some(true), Some(&[Some("a"), None])))
            };
            let payload = write(&schema, event(&order, op, row(before), row(after), 5));
            let mut payloads: Vec<_> = (0..payload.len()).map(|end| framed(0, &payload[..end])).collect();
            payloads.push(framed(0, &[&payload[..], &[0]].concat()));
            let mut decoder = knowing(UnknownFields::Quarantine, &[&schema]);
            for fate in fates(&mut decoder, payloads.iter().map(|payload| Some(&payload[..]))) {
                assert!(matches!(fate, Fate::Rejected(RejectReason::Undecodable, _)), "{fate:?}");
            }
            assert!(matches!(fates(&mut decoder, [Some(&framed(0, &payload)[..])])[..], [Fate::Row(_)]));
        }
    }
}

#[test]
fn what_is_stepped_over_is_bounded_too() {
    let nulls = r#"{"type":"array","items":"null"}"#;
    let value = format!(
        r#"{{"type":"record","name":"V","fields":[{{"name":"id","type":"int"}},{{"name":"n","type":{nulls}}}]}}"#
    );
    let schema = format!(
        r#"{{"type":"record","name":"E","fields":[{{"name":"op","type":"string"}},{{"name":"before","type":["null",{value}]}},
        {{"name":"after","type":["null","V"]}},{{"name":"next","type":["null",{{"type":"record","name":"L","fields":[
        {{"name":"next","type":["null","L"]}}]}}]}}]}}"#
    );
    let mut decoder = knowing(UnknownFields::Ignore, &[&schema]);
    let one = [0x02, 0x02, 0x00]; // a row without elements
    let many = [&[0x02, 0x02][..], &[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x10, 0x00]].concat(); // 2^59 elements
    let deep = |depth: usize| [&[0x02].repeat(depth)[..], &[0x00]].concat();
    let event = |op: u8, before: &[u8], after: &[u8], next: &[u8]| {
        framed(0, &[&[0x02, op][..], before, after, next].concat())
    };
    let payloads = [
        event(b'u', &one, &one, &deep(62)),
        event(b'u', &many, &one, &[0]),
        event(b'c', &[0], &many, &[0]),
        event(b'd', &many, &[0], &[0]),
        event(b'd', &one, &[0], &deep(1_000_000)),
        event(b'd', &one, &[0], &[0]),
    ];
    let found = fates(&mut decoder, payloads.iter().map(|payload| Some(&payload[..])));
    let reasons: Vec<_> = found
        .iter()
        .map(|fate| match fate {
            Fate::Rejected(reason, _) => Some(*reason),
            _ => None,
        })
        .collect();
    use RejectReason::{Oversize, Undecodable};
    assert_eq!(reasons, [None, Some(Oversize), Some(Oversize), Some(Oversize), Some(Undecodable), None]);
}
