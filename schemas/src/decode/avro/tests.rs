//! The decoder against bytes written by hand, against what apache-avro writes, and against hostile input.

use std::collections::HashMap;
use std::sync::Arc;

use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::types::Value;
use apache_avro::writer::datum::GenericDatumWriter;
use apache_avro::{Days, Decimal, Duration, Millis, Months, Uuid};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field as ArrowField, Schema as ArrowSchema};
use serde_json::json;

use super::*;
use crate::decode::registered::{REGISTERED_BYTES_MAX, REGISTERED_ID_BYTES};
use crate::decode::testing::{Random, chunk, fastest, render_row, schema};
use crate::decode::{Reject, SchemaReference};
use crate::fields::to_arrow_schema;
use crate::records::TopicPartition;

mod contract;
mod hostile;
mod speed;
mod values;

fn registered(text: &str) -> RegisteredSchema {
    RegisteredSchema { kind: SchemaKind::Avro, text: text.to_owned(), references: Vec::new() }
}

/// A record `R` with these fields, each a name and the JSON of a type.
fn record(fields: &[(&str, &str)]) -> String {
    let fields: Vec<_> =
        fields.iter().map(|(name, of)| format!(r#"{{"name":"{name}","type":{of}}}"#)).collect();
    format!(r#"{{"type":"record","name":"R","fields":[{}]}}"#, fields.join(","))
}

fn plain(schema: &SchemaRef, unknown_fields: UnknownFields, writer: &str) -> AvroDecoder {
    let writers = [registered(writer)];
    AvroDecoder::new(schema.clone(), unknown_fields, DecodeLimits::default(), Framing::Plain, &writers)
        .unwrap()
}

fn confluent(schema: &SchemaRef, unknown_fields: UnknownFields) -> AvroDecoder {
    AvroDecoder::new(schema.clone(), unknown_fields, DecodeLimits::default(), Framing::Confluent, &[])
        .unwrap()
}

fn framed(id: u32, value: &[u8]) -> Vec<u8> {
    [&[0][..], &id.to_be_bytes(), value].concat()
}

fn known(text: &str) -> WriterSchema {
    WriterSchema::Known(registered(text))
}

/// The row, rendered, that `payload` becomes, or the reason and message why not.
fn fate(decoder: &mut AvroDecoder, payload: &[u8]) -> Result<String, (RejectReason, String)> {
    let mut decoded = decoder.decode(&chunk([Some(payload)])).unwrap();
    assert_eq!(decoded.batch.num_rows() + decoded.rejects.len(), 1);
    match decoded.rejects.pop() {
        Some(reject) => Err((reject.reason, reject.message)),
        None => Ok(render_row(&decoded.batch, 0)),
    }
}

/// The fate of a record with one field `v`.
fn fate_of_value(column: &str, avro: &str, bytes: &[u8]) -> Result<String, (RejectReason, String)> {
    let schema = schema(&[("v", column)]);
    fate(&mut plain(&schema, UnknownFields::Quarantine, &record(&[("v", avro)])), bytes)
}

const DECIMAL: &str = r#"{"type":"bytes","logicalType":"decimal","precision":9,"scale":2}"#;
const FIXED_DECIMAL: &str =
    r#"{"type":"fixed","name":"D","size":4,"logicalType":"decimal","precision":9,"scale":2}"#;
const ENUM: &str = r#"{"type":"enum","name":"E","symbols":["A","BC"]}"#;
const POINT: &str = r#"{"type":"record","name":"P","fields":[{"name":"x","type":"int"},{"name":"y","type":["null","string"]}]}"#;
const UUID_FIXED: &str = r#"{"type":"fixed","name":"U","size":16,"logicalType":"uuid"}"#;

/// What apache-avro writes.
fn write(schema: &apache_avro::Schema, value: Value) -> Vec<u8> {
    GenericDatumWriter::builder(schema).build().unwrap().write_value_to_vec(value).unwrap()
}

fn logical(of: &str, logical: &str) -> String {
    format!(r#"{{"type":"{of}","logicalType":"{logical}"}}"#)
}

#[test]
fn good_values_become_what_they_say() {
    let long_max = [0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
    let long_min = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
    let half = 0.5_f32.to_le_bytes();
    let tenth = 0.1_f64.to_le_bytes();
    let uuid: Vec<u8> = (0..16).map(|byte| byte * 17).collect();
    let day = logical("int", "date");
    let (millis, micros) = (logical("long", "timestamp-millis"), logical("long", "timestamp-micros"));
    let nanos = logical("long", "timestamp-nanos");
    let local = logical("long", "local-timestamp-millis");
    let (time_ms, time_us) = (logical("int", "time-millis"), logical("long", "time-micros"));
    let text_uuid = logical("string", "uuid");
    let cases: &[(&str, &str, &[u8], &str)] = &[
        ("boolean", "\"boolean\"", &[1], "true"),
        ("boolean", "\"boolean\"", &[0], "false"),
        ("int32", "\"int\"", &[0x01], "-1"),
        ("int32", "\"int\"", &[0xff, 0xff, 0xff, 0xff, 0x0f], "-2147483648"),
        ("int32", "\"int\"", &[0x82, 0x80, 0x00], "1"),
        ("int64", "\"int\"", &[0xac, 0x02], "150"),
        ("int64", "\"long\"", &long_max, "9223372036854775807"),
        ("int64", "\"long\"", &long_min, "-9223372036854775808"),
        ("int8", "\"int\"", &[0xff, 0x01], "-128"),
        ("int16", "\"long\"", &[0x02], "1"),
        ("int32", "\"long\"", &[0x04], "2"),
        ("float32", "\"float\"", &half, "0.5"),
        ("float64", "\"float\"", &half, "0.5"),
        ("float64", "\"double\"", &tenth, "0.1"),
        ("float64", "\"double\"", &f64::NAN.to_le_bytes(), "NaN"),
        ("float64", "\"int\"", &[0x01], "-1.0"),
        ("float64", "\"long\"", &long_max, "9.223372036854776e18"),
        ("float32", "\"long\"", &[0x06], "3.0"),
        ("float32", "\"int\"", &[0x06], "3.0"),
        ("string", "\"string\"", b"\x06\xc5\xbcz", "\"żz\""),
        ("string", "\"string\"", &[0], "\"\""),
        ("string", "\"bytes\"", b"\x04hi", "\"hi\""),
        ("string", ENUM, &[0x02], "\"BC\""),
        ("string", &text_uuid, b"\x02u", "\"u\""),
        ("string", UUID_FIXED, &uuid, "\"00112233-4455-6677-8899-aabbccddeeff\""),
        ("binary", "\"bytes\"", &[0x04, 0, 0xff], "[0, 255]"),
        ("binary", "\"string\"", b"\x02a", "[97]"),
        ("binary", r#"{"type":"fixed","name":"F","size":2}"#, &[1, 2], "[1, 2]"),
        (
            "binary",
            r#"{"type":"fixed","name":"F","size":12,"logicalType":"duration"}"#,
            &[1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0],
            "[1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0]",
        ),
        ("decimal(9,2)", DECIMAL, &[0x04, 0x01, 0x00], "256"),
        ("decimal(9,2)", DECIMAL, &[0x02, 0xff], "-1"),
        (
            "decimal(9,2)",
            DECIMAL,
            &[
                0x28, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255,
                255, 255, 0x80,
            ],
            "-128",
        ),
        ("decimal(12,4)", DECIMAL, &[0x02, 0x07], "700"),
        ("decimal(5,1)", DECIMAL, &[0x02, 0x0a], "1"),
        ("decimal(9,2)", FIXED_DECIMAL, &[0xff, 0xff, 0xff, 0xfe], "-2"),
        ("decimal(5,2)", "\"int\"", &[0x04], "200"),
        ("decimal(38,0)", "\"long\"", &long_max, "9223372036854775807"),
        ("date", &day, &[0x3e], "31"),
        ("timestamp", &millis, &[0x01], "-1000"),
        ("timestamp", &micros, &[0x01], "-1"),
        ("timestamp", &nanos, &[0x01], "-1"),
        ("timestamp", &nanos, &[0xd0, 0x0f], "1"),
        ("int64", &local, &[0x02], "1000"),
        ("int32", &time_ms, &[0x02], "1"),
        ("int64", &time_ms, &[0x02], "1000"),
        ("int64", &time_us, &[0x02], "1"),
        ("list<int32>", r#"{"type":"array","items":"int"}"#, &[0], "[]"),
        ("list<int32>", r#"{"type":"array","items":"int"}"#, &[0x04, 0x02, 0x04, 0x02, 0x06, 0], "[1, 2, 3]"),
        (
            "list<int32>",
            r#"{"type":"array","items":"int"}"#,
            &[0x03, 0x04, 0x02, 0x04, 0x02, 0x06, 0],
            "[1, 2, 3]",
        ),
        (
            "list<int32>",
            r#"{"type":"array","items":["int","null"]}"#,
            &[0x04, 0x02, 0x00, 0x02, 0],
            "[null, 1]",
        ),
        (
            "map<string, int32>",
            r#"{"type":"map","values":"int"}"#,
            b"\x04\x02z\x02\x02a\x04\x00",
            "{\"z\": 1, \"a\": 2}",
        ),
        ("struct<y: string, x: int32>", POINT, &[0x02, 0x02, 0x02, b'a'], "{y: \"a\", x: 1}"),
        (
            "struct<x: int64, z: date>",
            &POINT.replace(r#",{"name":"y","type":["null","string"]}"#, ""),
            &[0x02],
            "{x: 1, z: null}",
        ),
        (
            "list<struct<x: int32, y: string>>",
            &format!(r#"{{"type":"array","items":{POINT}}}"#),
            &[0x02, 0x02, 0x00, 0],
            "[{x: 1, y: null}]",
        ),
        ("int32", "\"null\"", &[], "null"),
        ("int32", r#"["null","int"]"#, &[0x02, 0x02], "1"),
        ("int32", r#"["null","int"]"#, &[0x00], "null"),
        ("int32", r#"["int","null"]"#, &[0x00, 0x02], "1"),
        ("int32", r#"["int","null"]"#, &[0x02], "null"),
        ("int32", r#"["int"]"#, &[0x00, 0x02], "1"),
        ("int64", r#"["int","null","long"]"#, &[0x04, 0x06], "3"),
        ("int64", r#"["int","null","string"]"#, &[0x02], "null"),
        ("string", &format!(r#"["null","bytes",{ENUM},"string"]"#), &[0x04, 0x00], "\"A\""),
        (
            "struct<x: int32>",
            "[\"null\",{\"type\":\"record\",\"name\":\"A\",\"fields\":[{\"name\":\"x\",\"type\":\"int\"}]},{\"type\":\"record\",\"name\":\"B\",\"fields\":[]}]",
            &[0x04],
            "{x: null}",
        ),
    ];
    for (column, avro, bytes, expected) in cases {
        // Every payload needs a byte, so an int that nobody wants stands before the value.
        let schema = schema(&[("v", column)]);
        let writer = record(&[("before", "\"int\""), ("v", avro)]);
        let row = fate(&mut plain(&schema, UnknownFields::Ignore, &writer), &[&[0][..], bytes].concat());
        assert_eq!(row, Ok(format!("{{v: {expected}}}")), "{column} from {avro}");
    }
}

#[test]
fn bad_values_are_rejected_with_the_field_and_the_reason() {
    use RejectReason::*;
    let ints = r#"{"type":"array","items":"int"}"#;
    let map = r#"{"type":"map","values":"int"}"#;
    let millis = logical("long", "timestamp-millis");
    let long_max = [0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
    let cases: &[(&str, &str, &[u8], RejectReason, &str)] = &[
        ("boolean", "\"boolean\"", &[2], Undecodable, "field `v`: byte 0: a boolean is neither 0 nor 1"),
        ("int32", "\"int\"", &[0x80, 0x80, 0x80, 0x80, 0x10], Undecodable, "an int has more than 32 bits"),
        ("int64", "\"long\"", &[0xff; 10], Undecodable, "more than 64 bits"),
        ("int64", "\"long\"", &[0x80; 11], Undecodable, "more than 64 bits"),
        (
            "int64",
            "\"long\"",
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2],
            Undecodable,
            "64 bits",
        ),
        ("int64", "\"long\"", &[0x80], Undecodable, "byte 1: the payload ends within the record"),
        ("int32", "\"int\"", &[2, 2], Undecodable, "byte 1: 1 bytes follow the record"),
        ("int8", "\"int\"", &[0x80, 0x02], OutOfRange, "128 is out of the range of int8"),
        ("int32", "\"long\"", &long_max, OutOfRange, "int32"),
        ("float32", "\"float\"", &[0, 0, 0], Undecodable, "byte 3: the payload ends"),
        ("string", "\"string\"", &[0x04, b'a'], Undecodable, "byte 0: a length of 2, where 1 bytes remain"),
        ("string", "\"string\"", &[0x01], Undecodable, "a length of -1"),
        ("string", "\"string\"", &long_max, Undecodable, "where 0 bytes remain"),
        ("string", "\"string\"", &[0x04, b'a', 0xff], Undecodable, "byte 2: not UTF-8"),
        ("string", "\"bytes\"", &[0x02, 0xff], InvalidValue, "the bytes are not UTF-8"),
        ("string", ENUM, &[0x04], Undecodable, "symbol 2, where there are 2"),
        ("string", ENUM, &[0x01], Undecodable, "symbol -1"),
        ("decimal(5,1)", DECIMAL, &[0x02, 0x0b], InvalidValue, "11e-2 has more than the 1 decimals"),
        (
            "decimal(3,2)",
            DECIMAL,
            &[0x04, 0x03, 0xe8],
            OutOfRange,
            "1000e-2 is out of the range of decimal(3,2)",
        ),
        ("decimal(9,2)", DECIMAL, &[0x00], InvalidValue, "a decimal of no bytes"),
        (
            "decimal(9,2)",
            DECIMAL,
            &[0x22, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            OutOfRange,
            "17 bytes",
        ),
        (
            "decimal(9,2)",
            DECIMAL,
            &[0x22, 0, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            OutOfRange,
            "17 bytes",
        ),
        ("decimal(2,1)", "\"int\"", &[0x14], OutOfRange, "decimal(2,1)"),
        ("timestamp", &millis, &long_max, OutOfRange, "9223372036854775807 ms"),
        ("int32", &logical("int", "time-millis"), &[0x01], InvalidValue, "a time of day"),
        ("int64", &logical("long", "time-micros"), &long_max, InvalidValue, "a time of day"),
        ("list<int32>", ints, &[0x02, 0x02], Undecodable, "the payload ends"),
        ("list<int8>", ints, &[0x02, 0x80, 0x02, 0], OutOfRange, "field `v[]`"),
        ("list<int32>", ints, &[0x01, 0x04, 0x02, 0x00], Undecodable, "not as many bytes as it says"),
        ("list<int32>", ints, &[0x01, 0x7e, 0x02, 0x00], Undecodable, "a length of 63"),
        (
            "list<int32>",
            ints,
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01, 0x02, 0x02, 0x00],
            Undecodable,
            "the payload ends",
        ),
        (
            "map<string, int32>",
            map,
            b"\x04\x02a\x02\x02a\x04\x00",
            DuplicateField,
            "field `v`: a key is given twice",
        ),
        ("map<string, int32>", map, b"\x02\x02\xff\x02\x00", Undecodable, "not UTF-8"),
        ("int32", r#"["null","int"]"#, &[0x04], Undecodable, "branch 2, where there are 2"),
        ("int32", r#"["null","int"]"#, &[0x01], Undecodable, "branch -1"),
        (
            "int32",
            r#"["null","int","string"]"#,
            &[0x04, 0],
            WrongType,
            "field `v`: the writer's string cannot be read as int32",
        ),
        (
            "struct<x: int8>",
            "[\"null\",{\"type\":\"record\",\"name\":\"A\",\"fields\":[{\"name\":\"x\",\"type\":\"int\"}]},{\"type\":\"record\",\"name\":\"B\",\"fields\":[{\"name\":\"x\",\"type\":\"string\"}]}]",
            &[0x04, 0],
            WrongType,
            "field `v.x`: the writer's string",
        ),
    ];
    for (column, avro, bytes, reason, part) in cases {
        let (found, message) = fate_of_value(column, avro, bytes).unwrap_err();
        assert_eq!(found, *reason, "{column} from {avro}: {message}");
        assert!(message.contains(part), "{column} from {avro}: {message}");
    }
}

#[test]
fn what_would_lose_or_invent_something_is_incompatible() {
    let cases: &[(&str, &str, &str)] = &[
        ("int32", "\"string\"", "field `v`: the writer's string cannot be read as int32"),
        ("string", "\"int\"", "the writer's int cannot be read as string"),
        ("boolean", "\"int\"", "boolean"),
        ("int64", "\"double\"", "int64"),
        ("float32", "\"double\"", "use float64"),
        ("decimal(9,2)", "\"double\"", "decimal(9,2)"),
        ("float64", DECIMAL, "the writer's decimal(9,2) cannot be read as float64"),
        ("binary", DECIMAL, "binary"),
        ("decimal(9,2)", &logical("bytes", "big-decimal"), "only as binary"),
        ("timestamp", "\"long\"", "no unit"),
        ("date", "\"int\"", "no unit"),
        ("timestamp", "\"string\"", "timestamp"),
        ("int64", &logical("long", "timestamp-millis"), "use timestamp"),
        ("timestamp", &logical("long", "local-timestamp-micros"), "no time zone"),
        ("timestamp", &logical("int", "date"), "the writer's date cannot be read as timestamp"),
        ("int32", &logical("long", "time-micros"), "use int64"),
        ("list<int32>", "\"int\"", "list<int32>"),
        ("int32", r#"{"type":"array","items":"int"}"#, "the writer's array"),
        ("list<int32>", r#"{"type":"array","items":"string"}"#, "field `v[]`: the writer's string"),
        ("map<string, int32>", r#"{"type":"map","values":"string"}"#, "field `v[]`"),
        ("map<string, int32>", POINT, "the writer's record `P`"),
        ("struct<x: int32>", r#"{"type":"map","values":"int"}"#, "the writer's map"),
        ("struct<x: boolean, y: string>", POINT, "field `v.x`: the writer's int cannot be read as boolean"),
        ("struct<x: int32>", POINT, "field `v.y`: the schema has no such field"),
        ("int32", r#"["null","string","boolean"]"#, "the writer's string"),
        ("int32", ENUM, "the writer's enum `E`"),
    ];
    for (column, avro, part) in cases {
        let schema = schema(&[("v", column)]);
        let writer = registered(&record(&[("v", avro)]));
        let problems = avro_problems(&writer, &schema, UnknownFields::Quarantine);
        assert!(problems.first().is_some_and(|problem| problem.contains(part)), "{column}: {problems:?}");
        let error = AvroDecoder::new(
            schema.clone(),
            UnknownFields::Quarantine,
            DecodeLimits::default(),
            Framing::Plain,
            std::slice::from_ref(&writer),
        );
        assert!(error.unwrap_err().to_string().contains(part));
        let mut decoder = confluent(&schema, UnknownFields::Quarantine);
        decoder.learn(7, WriterSchema::Known(writer));
        let (reason, message) = fate(&mut decoder, &framed(7, &[0; 20])).unwrap_err();
        let expected = if part.contains("no such field") {
            RejectReason::UnknownField
        } else {
            RejectReason::IncompatibleSchema
        };
        assert_eq!(reason, expected);
        assert!(message.contains(part) && message.contains("(schema 7)"), "{message}");
    }
}

#[test]
fn all_problems_of_a_schema_are_found_at_once() {
    let schema = schema(&[("a", "int32"), ("b!", "string"), ("c", "struct<d: date>"), ("e!", "int32")]);
    let writer = record(&[
        ("e", "[\"null\",\"int\"]"),
        ("a", "\"string\""),
        ("f", "\"int\""),
        (
            "c",
            r#"{"type":"record","name":"C","fields":[{"name":"d","type":"int"},{"name":"g","type":"int"}]}"#,
        ),
    ]);
    let problems = avro_problems(&registered(&writer), &schema, UnknownFields::Quarantine);
    let parts = [
        "`a`: the writer's string",
        "`f`: the schema has no",
        "`c.d`: the writer's int",
        "`c.g`",
        "`b`: required",
    ];
    assert_eq!(problems.len(), parts.len(), "{problems:?}");
    for (problem, part) in problems.iter().zip(parts) {
        assert!(problem.contains(part), "{problem}");
    }
    assert_eq!(avro_problems(&registered(&writer), &schema, UnknownFields::Ignore).len(), 3);
    assert!(avro_problems(&registered("{"), &schema, UnknownFields::Ignore)[0].contains("cannot be used"));
}

#[test]
fn fields_are_matched_by_name_and_everything_else_is_stepped_over() {
    let every_type = [
        ("n", "\"null\"".to_owned(), &[][..]),
        ("b", "\"boolean\"".to_owned(), &[1]),
        ("i", "\"int\"".to_owned(), &[0x80, 0x01]),
        (
            "l",
            logical("long", "timestamp-micros"),
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
        ),
        ("f", "\"float\"".to_owned(), &[0, 0, 0, 0]),
        ("d", "\"double\"".to_owned(), &[0, 0, 0, 0, 0, 0, 0, 0]),
        ("y", "\"bytes\"".to_owned(), &[0x02, 0xff]),
        ("s", "\"string\"".to_owned(), &[0x02, b'x']),
        ("x", r#"{"type":"fixed","name":"F","size":3}"#.to_owned(), &[1, 2, 3]),
        ("e", ENUM.to_owned(), &[0x02]),
        ("c", DECIMAL.to_owned(), &[0x02, 0x00]),
        (
            "a",
            r#"{"type":"array","items":["null","string"]}"#.to_owned(),
            &[0x03, 0x06, 0x00, 0x02, 0x00, 0x00],
        ),
        ("m", r#"{"type":"map","values":"long"}"#.to_owned(), &[0x02, 0x02, b'k', 0x02, 0x00]),
        ("r", POINT.to_owned(), &[0x02, 0x00]),
        ("u", r#"["P","E"]"#.to_owned(), &[0x02, 0x00]),
    ];
    let mut fields: Vec<(&str, &str)> = vec![("second", "\"int\"")];
    fields.extend(every_type.iter().map(|(name, of, _)| (*name, of.as_str())));
    fields.push(("first", "\"string\""));
    let mut payload = vec![0x02];
    payload.extend(every_type.iter().flat_map(|(_, _, bytes)| bytes.iter().copied()));
    payload.extend(b"\x02a");
    let columns = schema(&[("first", "string"), ("absent", "list<int32>"), ("second!", "int64")]);
    let mut decoder = plain(&columns, UnknownFields::Ignore, &record(&fields));
    assert_eq!(fate(&mut decoder, &payload).unwrap(), "{first: \"a\", absent: null, second: 1}");
    for end in 1..payload.len() {
        let (reason, _) = fate(&mut decoder, &payload[..end]).unwrap_err();
        assert_eq!(reason, RejectReason::Undecodable, "the first {end} bytes");
    }
    let (name, message) = match fate(&mut decoder, &[0x02, 0x02]).unwrap_err() {
        (RejectReason::Undecodable, message) => ("b", message),
        other => panic!("{other:?}"),
    };
    assert!(message.contains(&format!("field `{name}`: byte 1")), "{message}");
    // A writer that has the same name in another case has another field.
    let problems =
        avro_problems(&registered(&record(&[("Second", "\"int\"")])), &columns, UnknownFields::Quarantine);
    assert_eq!(problems.len(), 2, "{problems:?}");
}

#[test]
fn nulls_where_none_may_be_reject_the_record_and_not_the_schema() {
    let schema = schema(&[("v!", "int32")]);
    let mut decoder = plain(&schema, UnknownFields::Quarantine, &record(&[("v", r#"["null","int"]"#)]));
    assert_eq!(fate(&mut decoder, &[0x02, 0x02]).unwrap(), "{v: 1}");
    let null = (RejectReason::NullField, "field `v`: required, but null".to_owned());
    assert_eq!(fate(&mut decoder, &[0x00]).unwrap_err(), null);
    let always = registered(&record(&[("v", "\"null\"")]));
    assert_eq!(avro_problems(&always, &schema, UnknownFields::Quarantine), ["field `v`: required, but null"]);
}

#[test]
fn a_topic_may_hold_a_union_of_records() {
    let schema = schema(&[("a", "int32"), ("b", "string")]);
    let writer = r#"["null",{"type":"record","name":"A","fields":[{"name":"a","type":"int"}]},
        {"type":"record","name":"B","fields":[{"name":"b","type":"string"}]},
        {"type":"record","name":"C","fields":[{"name":"c","type":"string"}]}]"#;
    let mut decoder = plain(&schema, UnknownFields::Quarantine, writer);
    assert_eq!(fate(&mut decoder, &[0x02, 0x02]).unwrap(), "{a: 1, b: null}");
    assert_eq!(fate(&mut decoder, &[0x04, 0x02, b'x']).unwrap(), "{a: null, b: \"x\"}");
    assert_eq!(fate(&mut decoder, &[0x00]).unwrap_err().0, RejectReason::WrongType);
    assert_eq!(fate(&mut decoder, &[0x06, 0x00]).unwrap_err().0, RejectReason::UnknownField);
    assert_eq!(fate(&mut decoder, &[0x08]).unwrap_err().0, RejectReason::Undecodable);
    let problems = avro_problems(&registered("\"string\""), &schema, UnknownFields::Quarantine);
    assert_eq!(problems, ["the writer's string is not a record"]);
}

// ---------------------------------------------------------------------------------------------------------------
// Which schema a record was written with.

#[test]
fn a_registry_is_asked_once_for_each_id() {
    let schema = schema(&[("a", "int32")]);
    let mut decoder = confluent(&schema, UnknownFields::Quarantine);
    let payloads = [
        framed(9, &[2]),
        framed(3, &[4]),
        framed(9, &[6]),
        framed(5, &[8]),
        framed(4, &[8]),
        framed(6, &[8]),
    ];
    let glue = [&[3, 5][..], &[1; 20]].concat();
    let mut records: Vec<Option<&[u8]>> = payloads.iter().map(|payload| Some(&payload[..])).collect();
    records.extend([None, Some(&b"{}"[..]), Some(&glue), Some(&[0, 0])]);
    let records = chunk(records);
    assert_eq!(decoder.missing_schemas(&records), [3, 4, 5, 6, 9]);
    decoder.learn(9, known(&record(&[("a", "\"int\"")])));
    assert_eq!(decoder.missing_schemas(&records), [3, 4, 5, 6]);
    decoder.learn(3, known(&record(&[("a", r#""long""#)])));
    decoder.learn(5, WriterSchema::Unknown);
    decoder.learn(4, known("{\"type\":\"recor\"}"));
    decoder.learn(
        6,
        WriterSchema::Known(RegisteredSchema { kind: SchemaKind::Protobuf, ..registered("syntax") }),
    );
    assert!(decoder.missing_schemas(&records).is_empty());
    let decoded = decoder.decode(&records).unwrap();
    assert_eq!(decoded.records, [0, 1, 2]);
    let rows: Vec<_> = (0..3).map(|row| render_row(&decoded.batch, row)).collect();
    assert_eq!(rows, ["{a: 1}", "{a: 2}", "{a: 3}"]);
    use RejectReason::{IncompatibleSchema, Tombstone, UnknownSchema};
    let expected = [
        (UnknownSchema, "the registry has no schema 5"),
        (IncompatibleSchema, "(schema 4)"),
        (IncompatibleSchema, "it is Protobuf, not Avro"),
        (Tombstone, "no payload"),
        (UnknownSchema, "starts with byte 0x7b"),
        (UnknownSchema, "AWS Glue"),
        (UnknownSchema, "2 bytes are too few"),
    ];
    assert_eq!(decoded.rejects.len(), expected.len());
    for (Reject { reason, message, .. }, (expected, part)) in decoded.rejects.iter().zip(expected) {
        assert!(*reason == expected && message.contains(part), "{reason}: {message}");
    }
    let not_learned = decoder.decode(&chunk([Some(&framed(77, &[0])[..])])).unwrap_err();
    assert!(matches!(not_learned, Error::SchemaNotLearned { id: 77 }));
    assert_eq!(decoder.decode(&records).unwrap().records, [0, 1, 2], "after an error");
}

#[test]
fn ids_in_garbage_are_forgotten_in_time() {
    let schema = schema(&[("a", "int32")]);
    let mut decoder = confluent(&schema, UnknownFields::Quarantine);
    let payloads: Vec<_> =
        (0..REGISTERED_BYTES_MAX / REGISTERED_ID_BYTES + 1).map(|id| framed(id as u32, &[])).collect();
    let (most, last) = payloads.split_at(payloads.len() - 1);
    for (payloads, asked_again) in [(most, 0), (last, 1)] {
        let chunk = chunk(payloads.iter().map(|payload| Some(&payload[..])));
        decoder.missing_schemas(&chunk).into_iter().for_each(|id| decoder.learn(id, WriterSchema::Unknown));
        assert_eq!(decoder.decode(&chunk).unwrap().rejects.len(), payloads.len());
        assert_eq!(decoder.missing_schemas(&chunk).len(), asked_again);
    }
}

#[test]
fn references_are_read_in_their_order() {
    let schema = schema(&[("p", "struct<x: int32, e: string>"), ("q", "struct<x: int32, e: string>")]);
    let reference = |name: &str, text: &str| SchemaReference { name: name.to_owned(), text: text.to_owned() };
    let writer = RegisteredSchema {
        references: vec![
            reference("a.E", r#"{"type":"enum","namespace":"a","name":"E","symbols":["S"]}"#),
            reference(
                "b.P",
                r#"{"type":"record","name":"b.P","fields":[{"name":"x","type":"int"},{"name":"e","type":"a.E"}]}"#,
            ),
        ],
        ..registered(&record(&[("p", "\"b.P\""), ("q", r#"["null","b.P"]"#)]))
    };
    let mut decoder = confluent(&schema, UnknownFields::Quarantine);
    decoder.learn(1, WriterSchema::Known(writer.clone()));
    let row = fate(&mut decoder, &framed(1, &[0x02, 0x00, 0x02, 0x04, 0x00])).unwrap();
    assert_eq!(row, "{p: {x: 1, e: \"S\"}, q: {x: 2, e: \"S\"}}");
    let mut turned = writer.clone();
    turned.references.reverse();
    assert!(avro_problems(&turned, &schema, UnknownFields::Quarantine)[0].contains("cannot be used"));
    let mut twice = writer;
    twice.references.push(twice.references[0].clone());
    let problem = &avro_problems(&twice, &schema, UnknownFields::Quarantine)[0];
    assert!(problem.contains("it defines `a.E` twice"), "{problem}");
}

#[test]
fn schema_versions_may_alternate_record_by_record() {
    let schema = schema(&[("id!", "int64"), ("name", "string"), ("note", "string")]);
    let versions = [
        record(&[("id", "\"int\""), ("name", "\"string\"")]),
        record(&[("note", r#"["null","string"]"#), ("id", "\"long\""), ("name", "\"string\"")]),
        record(&[("name", r#"["string","null"]"#), ("id", "\"long\"")]),
        record(&[("id", "\"string\""), ("name", "\"string\"")]),
        record(&[("name", "\"string\"")]),
    ];
    let mut decoder = confluent(&schema, UnknownFields::Quarantine);
    versions.iter().enumerate().for_each(|(id, text)| decoder.learn(id as u32, known(text)));
    let values: [&[u8]; 5] =
        [&[0x02, 0x02, b'a'], &[0x02, 0x02, b'n', 0x02, 0x02, b'a'], &[0x02, 0x02], &[0, 0], &[0]];
    let payloads: Vec<_> = (0..1000).map(|at| framed(at % 5, values[at as usize % 5])).collect();
    let decoded = decoder.decode(&chunk(payloads.iter().map(|payload| Some(&payload[..])))).unwrap();
    let rows = [
        "{id: 1, name: \"a\", note: null}",
        "{id: 1, name: \"a\", note: \"n\"}",
        "{id: 1, name: null, note: null}",
    ];
    assert_eq!(decoded.records.len(), 600);
    for (row, record) in decoded.records.iter().enumerate() {
        assert_eq!(render_row(&decoded.batch, row), rows[*record as usize % 5]);
    }
    for reject in &decoded.rejects {
        let expected = match reject.record % 5 {
            3 => RejectReason::IncompatibleSchema,
            _ => RejectReason::MissingField,
        };
        assert_eq!(reject.reason, expected, "{}", reject.message);
    }
}

#[test]
fn a_fingerprint_names_one_of_the_given_schemas() {
    let columns = schema(&[("a", "int32"), ("b", "string")]);
    let texts = [record(&[("a", "\"int\"")]), record(&[("b", "\"string\"")]), record(&[("a", "\"string\"")])];
    let writers: Vec<_> = texts.iter().map(|text| registered(text)).collect();
    let new = |framing, writers: &[RegisteredSchema]| {
        AvroDecoder::new(
            columns.clone(),
            UnknownFields::Quarantine,
            DecodeLimits::default(),
            framing,
            writers,
        )
    };
    let mut decoder = new(Framing::SingleObject, &writers).unwrap();
    let write_object = |text: &str, value: Value| {
        let schema = apache_avro::Schema::parse_str(text).unwrap();
        let mut writer = apache_avro::GenericSingleObjectWriter::new_with_capacity(&schema, 64).unwrap();
        let mut out = Vec::new();
        writer.write_value(value, &mut out).unwrap();
        out
    };
    let field = |name: &str, value: Value| Value::Record(vec![(name.to_owned(), value)]);
    assert_eq!(
        fate(&mut decoder, &write_object(&texts[0], field("a", Value::Int(1)))).unwrap(),
        "{a: 1, b: null}"
    );
    let text = || Value::String("x".to_owned());
    assert_eq!(
        fate(&mut decoder, &write_object(&texts[1], field("b", text()))).unwrap(),
        "{a: null, b: \"x\"}"
    );
    let incompatible = fate(&mut decoder, &write_object(&texts[2], field("a", text()))).unwrap_err();
    assert_eq!(incompatible.0, RejectReason::IncompatibleSchema);
    let other = write_object(&record(&[("c", "\"string\"")]), field("c", text()));
    let (reason, message) = fate(&mut decoder, &other).unwrap_err();
    assert_eq!(reason, RejectReason::UnknownSchema);
    assert!(message.contains("none of the given schemas has the fingerprint"), "{message}");
    assert_eq!(fate(&mut decoder, b"\xc3\x01").unwrap_err().0, RejectReason::UnknownSchema);

    for (framing, writers) in [
        (Framing::Confluent, &writers[..1]),
        (Framing::Plain, &writers[..2]),
        (Framing::Plain, &[]),
        (Framing::SingleObject, &[]),
        (Framing::SingleObject, &[registered("[")]),
        (Framing::SingleObject, &[writers[0].clone(), writers[1].clone(), writers[0].clone()]),
    ] {
        assert!(matches!(new(framing, writers), Err(Error::WriterSchema { .. })), "{framing:?}");
    }
}
