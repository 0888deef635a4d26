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
    ] {
        assert!(matches!(new(framing, writers), Err(Error::WriterSchema { .. })), "{framing:?}");
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Hostile input.

/// The fate of a record that is all stepped over but for an int `a` at its start.
fn fate_of_skipped(avro: &str, bytes: &[u8]) -> Result<String, (RejectReason, String)> {
    let writer = record(&[("a", "\"int\""), ("s", avro)]);
    fate(&mut plain(&schema(&[("a", "int32")]), UnknownFields::Ignore, &writer), &[&[0][..], bytes].concat())
}

#[test]
fn elements_without_bytes_come_to_an_end() {
    let many = [0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x10, 0x00]; // 2^59, then the end
    let nulls = r#"{"type":"array","items":"null"}"#;
    let empty = r#"{"type":"array","items":{"type":"record","name":"X","fields":[]}}"#;
    let nothing = r#"{"type":"array","items":{"type":"fixed","name":"X","size":0}}"#;
    for (column, avro) in
        [("list<int32>", nulls), ("list<struct<x: int32>>", empty), ("list<binary>", nothing)]
    {
        let (reason, message) = fate_of_value(column, avro, &many).unwrap_err();
        assert_eq!(reason, RejectReason::Oversize, "{message}");
        assert_eq!(fate_of_skipped(avro, &many).unwrap_err().0, RejectReason::Oversize);
        // A thousand are allowed.
        let thousand = [0xd0, 0x0f, 0x00];
        assert!(fate_of_value(column, avro, &thousand).is_ok());
        assert!(fate_of_skipped(avro, &thousand).is_ok());
    }
    // A record of two records of two records …, none of which has a byte.
    let mut nested = r#"{"type":"record","name":"X0","fields":[]}"#.to_owned();
    for depth in 1..25 {
        let before = depth - 1;
        nested = format!(
            r#"{{"type":"record","name":"X{depth}","fields":[{{"name":"l","type":{nested}}},{{"name":"r","type":"X{before}"}}]}}"#
        );
    }
    assert_eq!(fate_of_skipped(&nested, &[]).unwrap_err().0, RejectReason::Oversize);
}

#[test]
fn symbols_cannot_become_far_more_than_their_payload() {
    let long = "S".repeat(10_000);
    let avro = format!(r#"{{"type":"array","items":{{"type":"enum","name":"E","symbols":["{long}","T"]}}}}"#);
    let array = |symbol: u8| [&[0xa0, 0x9c, 0x01][..], &[symbol; 10_000], &[0]].concat();
    assert!(fate_of_value("list<string>", &avro, &array(2)).is_ok());
    assert_eq!(fate_of_value("list<string>", &avro, &array(0)).unwrap_err().0, RejectReason::Oversize);
}

#[test]
fn types_within_themselves_are_bounded_by_their_columns_and_when_stepped_over() {
    let list = r#"{"type":"record","name":"L","fields":[{"name":"x","type":"int"},{"name":"next","type":["null","L"]}]}"#;
    let columns = schema(&[("v", "struct<x: int32, next: struct<x: int32, next: struct<x: int32>>>")]);
    let mut decoder = plain(&columns, UnknownFields::Ignore, &record(&[("v", list)]));
    let row = fate(&mut decoder, &[0x02, 0x02, 0x04, 0x02, 0x06, 0x02, 0x08, 0x00]).unwrap();
    assert_eq!(row, "{v: {x: 1, next: {x: 2, next: {x: 3}}}}");
    let deep = |depth: usize| [&[0x02, 0x02].repeat(depth)[..], &[0x02, 0x00]].concat();
    assert!(fate_of_skipped(list, &deep(60)).is_ok());
    for depth in [64, 1_000_000] {
        let (reason, message) = fate_of_skipped(list, &deep(depth)).unwrap_err();
        assert_eq!(reason, RejectReason::Undecodable);
        assert!(message.contains("nested more than 64 deep"), "{message}");
    }
    let endless = r#"{"type":"record","name":"L","fields":[{"name":"next","type":"L"}]}"#;
    assert_eq!(fate_of_skipped(endless, &[]).unwrap_err().0, RejectReason::Undecodable);
}

#[test]
fn schemas_are_bounded() {
    let columns = schema(&[("a", "int32")]);
    let problem = |text: &str| {
        avro_problems(&registered(text), &columns, UnknownFields::Ignore)
            .into_iter()
            .next()
            .unwrap_or_default()
    };
    let arrays = |depth: usize| {
        let nested = format!("{}\"int\"{}", r#"{"type":"array","items":"#.repeat(depth), "}".repeat(depth));
        record(&[("a", "\"int\""), ("b", &nested)])
    };
    assert_eq!(problem(&arrays(90)), "");
    assert!(problem(&arrays(100)).contains("nested more than 100 deep"));
    assert!(problem(&arrays(100_000)).contains("recursion limit"));
    assert!(problem(&"[".repeat(1 << 20)).contains("recursion limit"));
    assert!(problem(&" ".repeat(5 << 20)).contains("more than the limit"));
    assert!(problem(&record(&[("a", "\"x.Unknown\"")])).contains("cannot be used"));
    assert!(problem(&record(&[("a", "\"IsobarSchemaAndReferences__\"")])).contains("not defined"));
    for text in
        ["", "{}", "[]", "7", "\"\"", "null", "{\"type\":\"record\"}", "{\"type\":{\"type\":{}}}", "\u{0}"]
    {
        assert!(!problem(text).is_empty(), "{text}");
    }
    // As many ways through unions of records as a recursive schema likes: each may be followed by all before it.
    let union = |last: usize| (0..=last).map(|at| format!("\"B{at}\"")).collect::<Vec<_>>().join(",");
    let branch = |at| {
        format!(r#"{{"type":"record","name":"B{at}","fields":[{{"name":"y","type":[{}]}}]}}"#, union(at))
    };
    let branches = (1..40).map(branch).collect::<Vec<_>>().join(",");
    let first = format!(r#"{{"type":"record","name":"B0","fields":[{{"name":"x","type":[{branches}]}}]}}"#);
    let text = record(&[("b", &first)]);
    let nested =
        (0..8).fold("struct<x: int32>".to_owned(), |inner, _| format!("struct<x: {inner}, y: {inner}>"));
    let deep = schema(&[("b", &nested)]);
    let problems = avro_problems(&registered(&text), &deep, UnknownFields::Ignore);
    assert!(problems[0].contains("too many fields, or branches within branches"), "{problems:?}");
    assert!(fields_of_avro(&registered(&text)).is_err());
}

#[test]
fn a_schema_of_two_thousand_fields_is_no_problem() {
    let names: Vec<_> = (0..2000).map(|index| format!("field_{index}")).collect();
    let fields: Vec<_> = names.iter().map(|name| (name.as_str(), r#"["null","int"]"#)).collect();
    let columns: Vec<_> = names.iter().rev().map(|name| (name.as_str(), "int64")).collect();
    let columns = schema(&columns);
    let mut decoder = plain(&columns, UnknownFields::Quarantine, &record(&fields));
    let decoded = decoder.decode(&chunk([Some(&[0x02; 4000][..])])).unwrap();
    assert_eq!(decoded.rejects, []);
    assert!(decoded.batch.columns().iter().all(|column| column.null_count() == 0));
}

// ---------------------------------------------------------------------------------------------------------------
// A second opinion: what apache-avro writes, value by value.

/// A type, with the value that apache-avro is given and the text that the row must have.
#[derive(Debug, Clone)]
enum Shape {
    Boolean,
    Int,
    Long,
    Float,
    Double,
    Bytes,
    String,
    Enum,
    Fixed,
    Decimal,
    FixedDecimal,
    Date,
    TimeMillis,
    TimeMicros,
    TimestampMillis,
    TimestampMicros,
    TimestampNanos,
    LocalTimestampMicros,
    UuidText,
    UuidFixed,
    Duration,
    Array(Box<Shape>),
    Map(Box<Shape>),
    Record(Vec<Shape>),
    /// A union with null, which is its branch of this index.
    Nullable(usize, Box<Shape>),
}

const SCALARS: [Shape; 21] = [
    Shape::Boolean,
    Shape::Int,
    Shape::Long,
    Shape::Float,
    Shape::Double,
    Shape::Bytes,
    Shape::String,
    Shape::Enum,
    Shape::Fixed,
    Shape::Decimal,
    Shape::FixedDecimal,
    Shape::Date,
    Shape::TimeMillis,
    Shape::TimeMicros,
    Shape::TimestampMillis,
    Shape::TimestampMicros,
    Shape::TimestampNanos,
    Shape::LocalTimestampMicros,
    Shape::UuidText,
    Shape::UuidFixed,
    Shape::Duration,
];

impl Shape {
    fn random(random: &mut Random, depth: usize) -> Self {
        if depth == 0 || !random.one_in(3) {
            return SCALARS[random.below(SCALARS.len())].clone();
        }
        let inner = |random: &mut Random| Box::new(Shape::random(random, depth - 1));
        match random.below(4) {
            0 => Shape::Array(inner(random)),
            1 => Shape::Map(inner(random)),
            2 => Shape::Record((0..1 + random.below(4)).map(|_| *inner(random)).collect()),
            _ => match *inner(random) {
                nullable @ Shape::Nullable(..) => nullable,
                other => Shape::Nullable(random.below(2), Box::new(other)),
            },
        }
    }

    /// The Avro schema. Names are numbered, so that none is used twice.
    fn json(&self, names: &mut usize) -> serde_json::Value {
        let mut name = |prefix: &str| {
            *names += 1;
            format!("{prefix}{names}")
        };
        let logical = |of: &str, logical: &str| json!({ "type": of, "logicalType": logical });
        match self {
            Shape::Boolean => json!("boolean"),
            Shape::Int => json!("int"),
            Shape::Long => json!("long"),
            Shape::Float => json!("float"),
            Shape::Double => json!("double"),
            Shape::Bytes => json!("bytes"),
            Shape::String => json!("string"),
            Shape::Enum => json!({ "type": "enum", "name": name("E"), "symbols": ["RED", "GREEN", "BLUE"] }),
            Shape::Fixed => json!({ "type": "fixed", "name": name("F"), "size": 5 }),
            Shape::Decimal => {
                json!({ "type": "bytes", "logicalType": "decimal", "precision": 12, "scale": 3 })
            }
            Shape::FixedDecimal => {
                json!({ "type": "fixed", "name": name("F"), "size": 7, "logicalType": "decimal", "precision": 16, "scale": 3 })
            }
            Shape::Date => logical("int", "date"),
            Shape::TimeMillis => logical("int", "time-millis"),
            Shape::TimeMicros => logical("long", "time-micros"),
            Shape::TimestampMillis => logical("long", "timestamp-millis"),
            Shape::TimestampMicros => logical("long", "timestamp-micros"),
            Shape::TimestampNanos => logical("long", "timestamp-nanos"),
            Shape::LocalTimestampMicros => logical("long", "local-timestamp-micros"),
            Shape::UuidText => logical("string", "uuid"),
            Shape::UuidFixed => {
                json!({ "type": "fixed", "name": name("U"), "size": 16, "logicalType": "uuid" })
            }
            Shape::Duration => {
                json!({ "type": "fixed", "name": name("D"), "size": 12, "logicalType": "duration" })
            }
            Shape::Array(items) => json!({ "type": "array", "items": items.json(names) }),
            Shape::Map(values) => json!({ "type": "map", "values": values.json(names) }),
            Shape::Record(fields) => {
                let name = name("R");
                let fields: Vec<_> = fields
                    .iter()
                    .enumerate()
                    .map(|(index, field)| json!({ "name": format!("f{index}"), "type": field.json(names) }))
                    .collect();
                json!({ "type": "record", "name": name, "fields": fields })
            }
            Shape::Nullable(0, inner) => json!(["null", inner.json(names)]),
            Shape::Nullable(_, inner) => json!([inner.json(names), "null"]),
        }
    }

    /// A random value, and how it looks in the row.
    fn value(&self, random: &mut Random) -> (Value, String) {
        let long = |random: &mut Random| (random.below(1 << 40) as i64 - (1 << 39)) >> random.below(40);
        let shown = |value: Value, text: String| (value, text);
        match self {
            Shape::Boolean => {
                let value = random.one_in(2);
                shown(Value::Boolean(value), value.to_string())
            }
            Shape::Int => {
                let value = long(random) as i32;
                shown(Value::Int(value), value.to_string())
            }
            Shape::Long => {
                let value = long(random) << random.below(24);
                shown(Value::Long(value), value.to_string())
            }
            Shape::Float => {
                let value = long(random) as f32 / 7.0;
                shown(Value::Float(value), format!("{value:?}"))
            }
            Shape::Double => {
                let value = long(random) as f64 / 7.0;
                shown(Value::Double(value), format!("{value:?}"))
            }
            Shape::Bytes => {
                let value: Vec<u8> = (0..random.below(9)).map(|_| random.below(256) as u8).collect();
                let text = format!("{value:?}");
                shown(Value::Bytes(value), text)
            }
            Shape::String => {
                let value: String =
                    (0..random.below(9)).map(|_| random.pick(&["a", "é", "😀", "\""])).collect();
                let text = format!("{value:?}");
                shown(Value::String(value), text)
            }
            Shape::Enum => {
                let index = random.below(3);
                let symbol = ["RED", "GREEN", "BLUE"][index];
                shown(Value::Enum(index as u32, symbol.to_owned()), format!("{symbol:?}"))
            }
            Shape::Fixed => {
                let value: Vec<u8> = (0..5).map(|_| random.below(256) as u8).collect();
                let text = format!("{value:?}");
                shown(Value::Fixed(5, value), text)
            }
            Shape::Decimal | Shape::FixedDecimal => {
                let value = long(random);
                shown(Value::Decimal(Decimal::from(value.to_be_bytes())), value.to_string())
            }
            Shape::Date => {
                let value = long(random) as i32;
                shown(Value::Date(value), value.to_string())
            }
            Shape::TimeMillis => {
                let value = random.below(86_400_000) as i32;
                shown(Value::TimeMillis(value), value.to_string())
            }
            Shape::TimeMicros => {
                let value = random.below(86_400_000_000) as i64;
                shown(Value::TimeMicros(value), value.to_string())
            }
            Shape::TimestampMillis => {
                let value = long(random);
                shown(Value::TimestampMillis(value), (value * 1000).to_string())
            }
            Shape::TimestampMicros => {
                let value = long(random);
                shown(Value::TimestampMicros(value), value.to_string())
            }
            Shape::TimestampNanos => {
                let value = long(random);
                shown(Value::TimestampNanos(value), ((value as f64 / 1000.0).floor() as i64).to_string())
            }
            Shape::LocalTimestampMicros => {
                let value = long(random);
                shown(Value::LocalTimestampMicros(value), value.to_string())
            }
            Shape::UuidText | Shape::UuidFixed => {
                let value = Uuid::from_u128(long(random) as u128 * 0x1_0001_0001_0001);
                shown(Value::Uuid(value), format!("{:?}", value.to_string()))
            }
            Shape::Duration => {
                let parts: [u32; 3] = std::array::from_fn(|_| random.below(1000) as u32);
                let value = Duration::new(Months::new(parts[0]), Days::new(parts[1]), Millis::new(parts[2]));
                let bytes: Vec<u8> = parts.iter().flat_map(|part| part.to_le_bytes()).collect();
                shown(Value::Duration(value), format!("{bytes:?}"))
            }
            Shape::Array(items) => {
                let (values, texts): (Vec<_>, Vec<_>) =
                    (0..random.below(4)).map(|_| items.value(random)).unzip();
                shown(Value::Array(values), format!("[{}]", texts.join(", ")))
            }
            // One entry at most: apache-avro writes more in an order of its own.
            Shape::Map(values) => {
                if random.one_in(3) {
                    return shown(Value::Map(HashMap::new()), "{}".to_owned());
                }
                let (value, text) = values.value(random);
                shown(Value::Map(HashMap::from([("key".to_owned(), value)])), format!("{{\"key\": {text}}}"))
            }
            Shape::Record(fields) => {
                let (values, texts): (Vec<_>, Vec<_>) = fields
                    .iter()
                    .enumerate()
                    .map(|(index, field)| {
                        let (value, text) = field.value(random);
                        ((format!("f{index}"), value), format!("f{index}: {text}"))
                    })
                    .unzip();
                shown(Value::Record(values), format!("{{{}}}", texts.join(", ")))
            }
            Shape::Nullable(null, _) if random.one_in(3) => {
                shown(Value::Union(*null as u32, Box::new(Value::Null)), "null".to_owned())
            }
            Shape::Nullable(null, inner) => {
                let (value, text) = inner.value(random);
                shown(Value::Union(1 - *null as u32, Box::new(value)), text)
            }
        }
    }
}

/// A random record: its shape, its schema as text, and the columns that `fields_of_avro` says it needs.
fn random_record(random: &mut Random) -> (Shape, String, SchemaRef) {
    let shape = Shape::Record((0..1 + random.below(6)).map(|_| Shape::random(random, 3)).collect());
    let text = shape.json(&mut 0).to_string();
    let columns = to_arrow_schema(&fields_of_avro(&registered(&text)).unwrap()).unwrap();
    (shape, text, columns)
}

#[test]
fn apache_avro_agrees_on_every_value() {
    for seed in 0..400 {
        let mut random = Random::new(seed);
        let (shape, text, columns) = random_record(&mut random);
        let theirs = apache_avro::Schema::parse_str(&text).unwrap();
        let (payloads, rows): (Vec<_>, Vec<_>) = (0..20)
            .map(|_| {
                let (value, row) = shape.value(&mut random);
                let mut payload = write(&theirs, value);
                if payload.is_empty() {
                    payload.push(0); // an empty payload is a reject
                }
                (payload, row)
            })
            .unzip();
        let mut decoder = plain(&columns, UnknownFields::Quarantine, &text);
        let decoded = decoder.decode(&chunk(payloads.iter().map(|payload| Some(&payload[..])))).unwrap();
        assert_eq!(decoded.rejects, [], "seed {seed}: {text}");
        for (row, expected) in rows.iter().enumerate() {
            assert_eq!(&render_row(&decoded.batch, row), expected, "seed {seed}: {text}");
        }
    }
}

#[test]
fn any_part_of_the_columns_can_be_read_alone() {
    for seed in 0..200 {
        let mut random = Random::new(seed);
        let (shape, text, columns) = random_record(&mut random);
        let theirs = apache_avro::Schema::parse_str(&text).unwrap();
        let (value, _) = shape.value(&mut random);
        let payload = [&[0xC3][..], &write(&theirs, value)].concat();
        // A byte of another field stands before it, so that no payload is empty.
        let fixed = json!({ "name": "before", "type": { "type": "fixed", "name": "Before", "size": 1 } });
        let mut wider: serde_json::Value = serde_json::from_str(&text).unwrap();
        wider["fields"].as_array_mut().unwrap().insert(0, fixed);
        let wider = wider.to_string();
        let whole =
            plain(&columns, UnknownFields::Ignore, &wider).decode(&chunk([Some(&payload[..])])).unwrap();
        assert_eq!(whole.rejects, [], "seed {seed}: {text}");
        let mut fields: Vec<_> = columns.fields().iter().filter(|_| random.one_in(2)).cloned().collect();
        fields.reverse();
        fields.push(Arc::new(ArrowField::new("absent", DataType::Utf8, true)));
        let part = Arc::new(ArrowSchema::new(fields));
        let read = plain(&part, UnknownFields::Ignore, &wider).decode(&chunk([Some(&payload[..])])).unwrap();
        assert_eq!(read.rejects, [], "seed {seed}: {text}");
        for field in part.fields().iter().filter(|field| field.name() != "absent") {
            assert_eq!(
                read.batch[field.name().as_str()].to_data(),
                whole.batch[field.name().as_str()].to_data()
            );
        }
        assert_eq!(read.batch["absent"].null_count(), 1);
    }
}

/// Payloads of random records: whole, cut short, with bytes changed, and of nothing but random bytes.
fn hostile(random: &mut Random, shape: &Shape, text: &str, count: usize) -> Vec<Vec<u8>> {
    let theirs = apache_avro::Schema::parse_str(text).unwrap();
    (0..count)
        .map(|_| {
            let mut payload = write(&theirs, shape.value(random).0);
            let len = payload.len();
            match random.below(4) {
                0 if len > 0 => payload.truncate(random.below(len)),
                1 if len > 0 => {
                    let at = random.below(len);
                    payload[at] = *random.pick(&[&0, &0x80, &0xff, &0x01, &0x7f]);
                }
                2 => payload = (0..random.below(40)).map(|_| random.below(256) as u8).collect(),
                _ => {}
            }
            payload
        })
        .collect()
}

#[test]
fn every_record_has_one_fate_however_records_are_cut_into_chunks() {
    let (mut rows, mut rejected) = (0, 0);
    for seed in 0..150 {
        let mut random = Random::new(seed);
        let (shape, text, columns) = random_record(&mut random);
        let payloads = hostile(&mut random, &shape, &text, 120);
        let mut decoder = plain(&columns, UnknownFields::Quarantine, &text);
        let whole = decoder.decode(&chunk(payloads.iter().map(|payload| Some(&payload[..])))).unwrap();
        assert_eq!(whole.batch.num_rows(), whole.records.len());
        let mut fates: Vec<u32> = whole.records.clone();
        fates.extend(whole.rejects.iter().map(|reject| reject.record));
        fates.sort_unstable();
        assert_eq!(fates, (0..payloads.len() as u32).collect::<Vec<_>>());
        rows += whole.records.len();
        rejected += whole.rejects.len();

        let (mut batches, mut rejects, mut start) = (Vec::new(), Vec::new(), 0);
        while start < payloads.len() {
            let end = payloads.len().min(start + 1 + random.below(30));
            let part = decoder
                .decode(&chunk(payloads[start..end].iter().map(|payload| Some(&payload[..]))))
                .unwrap();
            batches.push(part.batch);
            rejects.extend(
                part.rejects
                    .into_iter()
                    .map(|reject| Reject { record: start as u32 + reject.record, ..reject }),
            );
            start = end;
        }
        assert_eq!(rejects, whole.rejects, "seed {seed}: {text}");
        // Rendered, because a float that is no number is not equal to itself.
        let parts = concat_batches(&columns, &batches).unwrap();
        let render =
            |batch| (0..whole.batch.num_rows()).map(|row| render_row(batch, row)).collect::<Vec<_>>();
        assert_eq!(render(&parts), render(&whole.batch), "seed {seed}: {text}");
    }
    assert!(rows > 6_000 && rejected > 5_000, "{rows} rows, {rejected} rejected");
}

#[test]
fn a_payload_cut_short_anywhere_is_rejected() {
    for seed in 0..150 {
        let mut random = Random::new(seed);
        let (shape, text, columns) = random_record(&mut random);
        let theirs = apache_avro::Schema::parse_str(&text).unwrap();
        let payload = write(&theirs, shape.value(&mut random).0);
        let mut decoder = plain(&columns, UnknownFields::Quarantine, &text);
        let cut = decoder.decode(&chunk((1..payload.len()).map(|end| Some(&payload[..end])))).unwrap();
        assert!(cut.records.is_empty(), "seed {seed}: {text}");
        assert!(cut.rejects.iter().all(|reject| reject.reason == RejectReason::Undecodable));
        let longer = [&payload[..], &[0]].concat();
        assert_eq!(fate(&mut decoder, &longer).unwrap_err().0, RejectReason::Undecodable);
    }
}

#[test]
fn garbage_of_any_kind_is_rejected_and_never_more() {
    let columns = schema(&[("a", "list<map<string, struct<b: string, c: list<decimal(9,2)>>>>")]);
    let nested = format!(
        r#"{{"type":"array","items":{{"type":"map","values":{{"type":"record","name":"S","fields":[{{"name":"b","type":["null",{ENUM},"string"]}},{{"name":"c","type":{{"type":"array","items":["null",{DECIMAL}]}}}}]}}}}}}"#
    );
    let mut decoder = plain(&columns, UnknownFields::Quarantine, &record(&[("a", &nested)]));
    let mut random = Random::new(7);
    let payloads: Vec<Vec<u8>> = (0..50_000)
        .map(|_| {
            // Small bytes are small counts and lengths, so that many get far.
            let small = random.one_in(2);
            (0..1 + random.below(60)).map(|_| random.below(if small { 8 } else { 256 }) as u8).collect()
        })
        .collect();
    let decoded = decoder.decode(&chunk(payloads.iter().map(|payload| Some(&payload[..])))).unwrap();
    assert_eq!(decoded.records.len() + decoded.rejects.len(), payloads.len());
    assert!(!decoded.records.is_empty());
}

// ---------------------------------------------------------------------------------------------------------------
// The contract that a schema needs.

#[test]
fn a_contract_is_derived_from_a_schema() {
    let text = r#"{"type":"record","name":"R","fields":[
        {"name":"id","type":"long","doc":"what it is"},
        {"name":"day","type":["null",{"type":"int","logicalType":"date"}],"default":null},
        {"name":"at","type":{"type":"long","logicalType":"timestamp-nanos"}},
        {"name":"clock","type":["null",{"type":"int","logicalType":"time-millis"}]},
        {"name":"price","type":{"type":"bytes","logicalType":"decimal","precision":10,"scale":2}},
        {"name":"number","type":["int","null","double"]},
        {"name":"tags","type":{"type":"array","items":["null","string"]}},
        {"name":"by_name","type":{"type":"map","values":{"type":"record","name":"P","fields":[{"name":"x","type":"float"}]}}},
        {"name":"p","type":"P","doc":"  "}]}"#;
    let fields = fields_of_avro(&registered(text)).unwrap();
    let written: Vec<_> = fields
        .0
        .iter()
        .map(|(name, spec)| format!("{name}: {}{}", spec.type_text, if spec.nullable { "?" } else { "" }))
        .collect();
    assert_eq!(
        written,
        [
            "id: int64",
            "day: date?",
            "at: timestamp",
            "clock: int32?",
            "price: decimal(10,2)",
            "number: float64?",
            "tags: list<string>",
            "by_name: map<string, struct<x: float32>>",
            "p: struct<x: float32>",
        ]
    );
    assert_eq!(fields.0[0].1.description.as_deref(), Some("what it is"));
    assert_eq!(fields.0[8].1.description, None);
    assert_eq!(fields.0[3].1.unit.as_deref(), Some("milliseconds of the day"));
    let columns = to_arrow_schema(&fields).unwrap();
    assert_eq!(avro_problems(&registered(text), &columns, UnknownFields::Quarantine), [""; 0]);
}

#[test]
fn what_no_contract_can_hold_is_said() {
    for (avro, part) in [
        ("\"null\"", "field `v`: it is always null"),
        (r#"["null"]"#, "always null"),
        (r#"["int","string"]"#, "a union of int32 and string"),
        (r#"["null","R"]"#, "in itself"),
        (r#"{"type":"record","name":"X","fields":[]}"#, "without fields"),
        (r#"{"type":"bytes","logicalType":"decimal","precision":39}"#, "39 digits"),
    ] {
        let error = fields_of_avro(&registered(&record(&[("v", avro)]))).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
    let names = fields_of_avro(&registered(&record(&[("_offset", "\"int\"")]))).unwrap_err();
    assert!(matches!(names, Error::InvalidName { .. }));
    assert!(fields_of_avro(&registered("\"int\"")).unwrap_err().to_string().contains("not a record"));
    assert!(matches!(fields_of_avro(&registered(&record(&[]))), Err(Error::NoFields)));
}

// ---------------------------------------------------------------------------------------------------------------
// Speed.

/// Flights made up after the real ones, in the schema that Confluent's serializer would give them.
fn flights(records: usize) -> (String, Vec<Vec<u8>>) {
    let optional = r#"["null","int"]"#;
    let int = "\"int\"";
    let string = "\"string\"";
    let hour = logical("long", "timestamp-millis");
    let text = record(&[
        ("year", int),
        ("month", int),
        ("day", int),
        ("dep_time", optional),
        ("sched_dep_time", int),
        ("dep_delay", optional),
        ("arr_time", optional),
        ("sched_arr_time", int),
        ("arr_delay", optional),
        ("carrier", string),
        ("flight", int),
        ("tailnum", r#"["null","string"]"#),
        ("origin", string),
        ("dest", string),
        ("air_time", optional),
        ("distance", int),
        ("hour", int),
        ("minute", int),
        ("time_hour", &hour),
    ]);
    let theirs = apache_avro::Schema::parse_str(&text).unwrap();
    let mut random = Random::new(2013);
    let field = |name: &str, value: Value| (name.to_owned(), value);
    let payloads = (0..records).map(|_| {
        let mut int = |below: usize| Value::Int(random.below(below) as i32);
        let mut fields =
            vec![field("year", Value::Int(2013)), field("month", int(12)), field("day", int(28))];
        for name in ["dep_time", "sched_dep_time", "dep_delay", "arr_time", "sched_arr_time", "arr_delay"] {
            let value = int(2400);
            let value = if name.starts_with("sched") { value } else { Value::Union(1, Box::new(value)) };
            fields.push(field(name, value));
        }
        fields.push(field("flight", int(6000)));
        fields.push(field("distance", int(4000)));
        fields.push(field("hour", int(24)));
        fields.push(field("minute", int(60)));
        fields.push(field("air_time", Value::Union(1, Box::new(int(700)))));
        let text = |text: &str| Value::String(text.to_owned());
        fields.push(field("carrier", text(random.pick(&["UA", "AA", "B6", "DL", "EV"]))));
        fields.push(field("origin", text(random.pick(&["JFK", "EWR", "LGA"]))));
        fields.push(field("dest", text(random.pick(&["IAH", "MIA", "ATL", "ORD", "LAX"]))));
        let tail = format!("N{}UA", 10_000 + random.below(90_000));
        fields.push(field("tailnum", Value::Union(1, Box::new(text(&tail)))));
        let hour = 1_357_034_400_000 + 3_600_000 * random.below(8760) as i64;
        fields.push(field("time_hour", Value::TimestampMillis(hour)));
        let order = |name: &str| match &theirs {
            apache_avro::Schema::Record(record) => record.fields.iter().position(|field| field.name == name),
            _ => None,
        };
        fields.sort_by_key(|(name, _)| order(name));
        write(&theirs, Value::Record(fields))
    });
    let payloads = payloads.collect();
    (text, payloads)
}

/// `cargo test --release -p isobar-schemas --lib -- --ignored --nocapture avro::tests::decode_speed`
#[test]
#[ignore = "a measurement, not a check"]
fn decode_speed() {
    let (text, payloads) = flights(8_192);
    let columns = to_arrow_schema(&fields_of_avro(&registered(&text)).unwrap()).unwrap();
    let mut records = RecordChunk::new(TopicPartition::new("flights", 0));
    for (offset, payload) in payloads.iter().enumerate() {
        records.push(offset as i64, None, None, Some(&framed(1 + offset as u32 % 2, payload)));
    }
    let bytes: usize = payloads.iter().map(Vec::len).sum();
    let rounds = 24;
    let rate = |time: std::time::Duration| {
        let seconds = time.as_secs_f64() / f64::from(rounds);
        (bytes as f64 / seconds / 1e6, payloads.len() as f64 / seconds / 1e6)
    };
    let mut decoder = confluent(&columns, UnknownFields::Quarantine);
    (1..=2).for_each(|id| decoder.learn(id, known(&text)));
    let ours =
        fastest(|| (0..rounds).for_each(|_| assert!(decoder.decode(&records).unwrap().rejects.is_empty())));
    let theirs = apache_avro::Schema::parse_str(&text).unwrap();
    let reader = GenericDatumReader::builder(&theirs).build().unwrap();
    let values = fastest(|| {
        for payload in &payloads {
            reader.read_value(&mut &payload[..]).unwrap();
        }
    });
    let ((megabytes, millions), (their_megabytes, _)) = (rate(ours), rate(values * rounds as u32));
    println!(
        "{} records of {} bytes, two schemas in turn: {megabytes:.0} MB/s, {millions:.2} million records/s; \
         apache-avro into its own values {their_megabytes:.0} MB/s",
        payloads.len(),
        bytes / payloads.len(),
    );
}
