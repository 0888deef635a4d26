//! The decoder against examples, rule by rule.

use std::collections::HashMap;
use std::time::Duration;

use prost_reflect::DynamicMessage;
use prost_reflect::prost::encoding::encode_varint;

use super::*;
use crate::decode::testing::{Random, chunk, fastest, render_row, schema};
use crate::decode::{Compression, InflateLimits, Inflating, RejectReason, SchemaKind, SchemaReference};
use crate::fields::to_arrow_schema;

/// The messages of `text`, which needs no imports of its own.
pub(super) fn compile(text: &str) -> ProtobufSchema {
    let main = ProtobufSource { name: "test.proto".to_owned(), text: text.to_owned() };
    ProtobufSchema::from_sources(main, Vec::new()).unwrap()
}

/// A decoder of the message `M` of `text`.
fn decoder(text: &str, fields: &[(&str, &str)], unknown_fields: UnknownFields) -> ProtobufDecoder {
    let message = compile(text).message("M").unwrap();
    ProtobufDecoder::new(schema(fields), &message, unknown_fields, DecodeLimits::default()).unwrap()
}

/// The row, rendered, that `payload` becomes, or the reason and message why not.
pub(super) fn fate(decoder: &mut ProtobufDecoder, payload: &[u8]) -> Result<String, (RejectReason, String)> {
    let mut decoded = decoder.decode(&chunk([Some(payload)])).unwrap();
    assert_eq!(decoded.batch.num_rows() + decoded.rejects.len(), 1);
    match decoded.rejects.pop() {
        Some(reject) => Err((reject.reason, reject.message)),
        None => Ok(render_row(&decoded.batch, 0)),
    }
}

/// Fields on the wire, written by hand.
#[derive(Debug, Clone, Default)]
struct Message(Vec<u8>);

impl Message {
    fn tag(mut self, number: u64, wire_type: u64) -> Self {
        encode_varint(number << 3 | wire_type, &mut self.0);
        self
    }

    fn varint(self, number: u64, value: u64) -> Self {
        let mut message = self.tag(number, 0);
        encode_varint(value, &mut message.0);
        message
    }

    fn fixed32(self, number: u64, value: u32) -> Self {
        self.tag(number, 5).raw(&value.to_le_bytes())
    }

    fn fixed64(self, number: u64, value: u64) -> Self {
        self.tag(number, 1).raw(&value.to_le_bytes())
    }

    fn bytes(self, number: u64, bytes: impl AsRef<[u8]>) -> Self {
        let mut message = self.tag(number, 2);
        encode_varint(bytes.as_ref().len() as u64, &mut message.0);
        message.raw(bytes.as_ref())
    }

    fn inner(self, number: u64, inner: Message) -> Self {
        self.bytes(number, inner.0)
    }

    fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }
}

fn new() -> Message {
    Message::default()
}

fn varints(values: &[u64]) -> Vec<u8> {
    let mut bytes = Vec::new();
    values.iter().for_each(|value| encode_varint(*value, &mut bytes));
    bytes
}

#[test]
fn scalars_become_what_they_say() {
    let minus = |value: i64| value as u64;
    for (kind, data_type, payload, expected) in [
        ("int32", "int32", new().varint(1, minus(-1)), "-1"),
        ("int32", "int32", new().varint(1, 0xffff_ffff), "-1"),
        ("int32", "int64", new().varint(1, 1 << 32 | 7), "7"),
        ("int32", "int8", new().varint(1, minus(-128)), "-128"),
        ("int32", "float64", new().varint(1, minus(-3)), "-3.0"),
        ("int32", "decimal(5,2)", new().varint(1, 999), "99900"),
        ("int64", "int64", new().varint(1, minus(i64::MIN)), "-9223372036854775808"),
        ("int64", "int16", new().varint(1, 32767), "32767"),
        ("uint32", "int64", new().varint(1, 0xffff_ffff), "4294967295"),
        ("uint32", "int32", new().varint(1, 7), "7"),
        ("uint64", "decimal(20,0)", new().varint(1, u64::MAX), "18446744073709551615"),
        ("uint64", "int64", new().varint(1, i64::MAX as u64), "9223372036854775807"),
        ("sint32", "int32", new().varint(1, 0xffff_ffff), "-2147483648"),
        ("sint64", "int64", new().varint(1, u64::MAX), "-9223372036854775808"),
        ("fixed32", "int64", new().fixed32(1, u32::MAX), "4294967295"),
        ("fixed64", "decimal(38,0)", new().fixed64(1, u64::MAX), "18446744073709551615"),
        ("sfixed32", "int32", new().fixed32(1, u32::MAX), "-1"),
        ("sfixed64", "int64", new().fixed64(1, u64::MAX), "-1"),
        ("float", "float32", new().fixed32(1, 0.1_f32.to_bits()), "0.1"),
        ("float", "float64", new().fixed32(1, 0.5_f32.to_bits()), "0.5"),
        ("double", "float64", new().fixed64(1, 0.1_f64.to_bits()), "0.1"),
        ("double", "float64", new().fixed64(1, f64::NAN.to_bits()), "NaN"),
        ("bool", "boolean", new().varint(1, 1), "true"),
        ("bool", "boolean", new().varint(1, 256), "true"),
        ("string", "string", new().bytes(1, "é\0"), "\"é\\0\""),
        ("string", "binary", new().bytes(1, "a"), "[97]"),
        ("bytes", "binary", new().bytes(1, [0, 255]), "[0, 255]"),
        ("bytes", "string", new().bytes(1, "a"), "\"a\""),
        ("E", "string", new().varint(1, 1), "\"ONE\""),
        ("E", "string", new().varint(1, 1 << 32 | 1), "\"ONE\""),
        ("E", "string", new(), "\"ZERO\""),
        ("E", "int32", new().varint(1, 77), "77"),
        ("E", "int64", new().varint(1, minus(-1)), "-1"),
        ("N", "binary", new().inner(1, new().varint(1, 7)), "[8, 7]"),
        ("N", "struct<n: int32>", new().inner(1, new().varint(1, 7)), "{n: 7}"),
    ] {
        let text = format!(
            r#"syntax = "proto3"; enum E {{ ZERO = 0; ONE = 1; }} message N {{ int32 n = 1; }} message M {{ {kind} v = 1; }}"#
        );
        let mut decoder = decoder(&text, &[("v", data_type)], UnknownFields::Quarantine);
        assert_eq!(fate(&mut decoder, &payload.0), Ok(format!("{{v: {expected}}}")), "{kind} {data_type}");
    }
}

#[test]
fn bad_values_are_rejected_with_the_field_and_the_reason() {
    use RejectReason::*;
    for (kind, data_type, payload, reason, part) in [
        ("int32", "int8", new().varint(1, 128), OutOfRange, "field `v`: 128 is out of the range of int8"),
        ("int64", "int32", new().varint(1, 1 << 31), OutOfRange, "int32"),
        ("uint64", "int64", new().varint(1, 1 << 63), OutOfRange, "9223372036854775808 is out of the range"),
        ("uint64", "decimal(5,2)", new().varint(1, 1000), OutOfRange, "decimal(5,2)"),
        ("uint64", "decimal(38,30)", new().varint(1, u64::MAX), OutOfRange, "decimal(38,30)"),
        ("string", "string", new().bytes(1, [0xff]), InvalidValue, "not UTF-8"),
        ("bytes", "string", new().bytes(1, [0xc5]), InvalidValue, "not UTF-8"),
        ("E", "string", new().varint(1, 77), InvalidValue, "the enum E has no name for 77"),
        ("int32", "int32", new().bytes(1, "x"), WrongType, "expected a varint, found bytes with a length"),
        ("int32", "int32", new().fixed32(1, 1), WrongType, "found 4 bytes"),
        ("string", "string", new().varint(1, 1), WrongType, "expected bytes with a length, found a varint"),
        ("int32", "int32", new().tag(1, 3).tag(1, 4), WrongType, "found a group"),
        ("N", "struct<n: int8>", new().inner(1, new().varint(1, 200)), OutOfRange, "field `v.n`: 200"),
        ("N", "struct<n: int8>", new().inner(1, new().varint(9, 1)), UnknownField, "field `v`: neither"),
        (
            "N",
            "struct<n: int8>",
            new().bytes(1, [8]),
            Undecodable,
            "field `v`: byte 3: a varint is cut short",
        ),
        (
            "repeated N",
            "list<struct<n: int8>>",
            new().bytes(1, [8, 200, 1]),
            OutOfRange,
            "field `v[].n`: 200",
        ),
        ("repeated int32", "list<int8>", new().bytes(1, [200, 1]), OutOfRange, "field `v[]`: 200"),
        ("repeated int32", "list<int32>", new().fixed64(1, 1), WrongType, "expected a varint"),
        ("repeated fixed32", "list<int64>", new().bytes(1, [1, 2, 3]), Undecodable, "4 bytes are cut short"),
        ("map<string, int32>", "map<string, int32>", new().varint(1, 1), WrongType, "field `v`"),
        (
            "map<string, int32>",
            "map<string, int32>",
            new().bytes(1, [10, 1, 0xff]),
            InvalidValue,
            "not UTF-8",
        ),
        ("map<string, int32>", "map<string, int8>", new().bytes(1, [16, 200, 1]), OutOfRange, "field `v[]`"),
    ] {
        let text = format!(
            r#"syntax = "proto3"; enum E {{ ZERO = 0; ONE = 1; }} message N {{ int32 n = 1; }} message M {{ {kind} v = 1; }}"#
        );
        let mut decoder = decoder(&text, &[("v", data_type)], UnknownFields::Quarantine);
        let (found, message) = fate(&mut decoder, &payload.0).unwrap_err();
        assert_eq!(found, reason, "{kind} {data_type}: {message}");
        assert!(message.contains(part), "{kind} {data_type}: {message}");
    }
}

#[test]
fn what_is_not_there_is_a_default_or_null_by_its_presence() {
    let proto3 = r#"syntax = "proto3"; enum E { ZERO = 0; } message N { int32 n = 1; }
        message M { int32 i = 1; optional int32 o = 2; string s = 3; E e = 4; N n = 5; repeated int32 r = 6;
        map<string, int32> m = 7; oneof one { int32 x = 8; string y = 9; } bytes b = 10; bool t = 11; double d = 12; }"#;
    let fields = [
        ("i!", "int32"),
        ("o", "int32"),
        ("s!", "string"),
        ("e!", "string"),
        ("n", "struct<n: int32>"),
        ("r!", "list<int32>"),
        ("m!", "map<string, int32>"),
        ("x", "int32"),
        ("y", "string"),
        ("b!", "binary"),
        ("t!", "boolean"),
        ("d!", "float64"),
        ("other", "date"),
    ];
    let mut decoder = decoder(proto3, &fields, UnknownFields::Quarantine);
    let empty = "{i: 0, o: null, s: \"\", e: \"ZERO\", n: null, r: [], m: {}, x: null, y: null, b: [], t: false, d: 0.0, \
                 other: null}";
    assert_eq!(fate(&mut decoder, b"").unwrap(), empty);
    // Set to the default is set.
    let set = new().varint(2, 0).inner(5, new()).bytes(9, "");
    let row = fate(&mut decoder, &set.0).unwrap();
    assert!(row.contains("o: 0, ") && row.contains("n: {n: 0}") && row.contains("y: \"\""), "{row}");
}

#[test]
fn proto2_has_defaults_and_required_fields() {
    let text = r#"syntax = "proto2"; enum E { ONE = 1; TWO = 2; }
        message M { optional int32 a = 1; optional sint32 b = 2 [default = -7]; optional string c = 3 [default = "é"];
        optional E d = 4 [default = TWO]; optional E e = 5; optional bytes f = 6 [default = "\xff"];
        optional double g = 7 [default = -inf]; optional bool h = 8 [default = true]; optional float i = 9 [default = 1.5];
        oneof one { int32 x = 10 [default = 5]; } optional fixed64 j = 11 [default = 18446744073709551615];
        optional sint64 k = 12 [default = -9223372036854775808]; optional sfixed32 l = 13 [default = -1]; }"#;
    let fields = [
        ("a", "int32"),
        ("b", "int32"),
        ("c", "string"),
        ("d", "string"),
        ("e", "string"),
        ("f", "binary"),
        ("g", "float64"),
        ("h", "boolean"),
        ("i", "float32"),
        ("x", "int32"),
        ("j", "decimal(20,0)"),
        ("k", "int64"),
        ("l", "int32"),
    ];
    let mut decoder = decoder(text, &fields, UnknownFields::Quarantine);
    let expected = "{a: null, b: -7, c: \"é\", d: \"TWO\", e: null, f: [255], g: -inf, h: true, i: 1.5, x: null, \
                    j: 18446744073709551615, k: -9223372036854775808, l: -1}";
    assert_eq!(fate(&mut decoder, b"").unwrap(), expected);

    let text = r#"syntax = "proto2"; message N { required int32 n = 1; } message M { required int32 a = 1;
        required int32 b = 2; optional N n = 3; }"#;
    let mut decoder =
        self::decoder(text, &[("a", "int32"), ("n", "struct<n: int32>")], UnknownFields::Ignore);
    assert_eq!(fate(&mut decoder, &new().varint(1, 1).varint(2, 2).0).unwrap(), "{a: 1, n: null}");
    for (payload, part) in [
        (new().varint(2, 2), "field `a`: required, but missing"),
        (new().varint(1, 1), "field `b`: required, but missing"),
        (new().varint(1, 1).varint(2, 2).inner(3, new()), "field `n.n`: required, but missing"),
    ] {
        let (reason, message) = fate(&mut decoder, &payload.0).unwrap_err();
        assert_eq!((reason, message.as_str()), (RejectReason::MissingField, part));
    }
}

#[test]
fn a_required_column_needs_a_value() {
    let text = r#"syntax = "proto3"; message M { optional int32 a = 1; google.protobuf.StringValue w = 2; }"#
        .replace("message M", "import \"google/protobuf/wrappers.proto\"; message M");
    let mut decoder = decoder(&text, &[("a!", "int32"), ("w!", "string")], UnknownFields::Quarantine);
    assert_eq!(fate(&mut decoder, &new().varint(1, 0).inner(2, new()).0).unwrap(), "{a: 0, w: \"\"}");
    for (payload, name) in [(new().inner(2, new()), "a"), (new().varint(1, 1), "w")] {
        let (reason, message) = fate(&mut decoder, &payload.0).unwrap_err();
        assert_eq!(reason, RejectReason::MissingField);
        assert_eq!(message, format!("field `{name}`: required, but missing"));
    }
}

#[test]
fn the_last_value_counts_and_messages_merge() {
    let text = r#"syntax = "proto3"; message I { int32 x = 1; repeated int32 r = 2; I i = 3; }
        message M { int32 a = 1; I i = 2; string s = 3; }"#;
    let fields = [
        ("a", "int32"),
        ("i", "struct<x: int32, r: list<int32>, i: struct<x: int32, r: list<int32>>>"),
        ("s", "string"),
    ];
    let mut decoder = decoder(text, &fields, UnknownFields::Quarantine);
    let payload = new()
        .varint(1, 1)
        .inner(2, new().varint(1, 10).varint(2, 1).inner(3, new().varint(1, 5).varint(2, 7)))
        .bytes(3, "first")
        .inner(2, new().bytes(2, [2, 3]).inner(3, new().varint(2, 8)))
        .varint(1, 2)
        .inner(2, new().varint(1, 11).inner(3, new().bytes(2, [9])))
        .bytes(3, "last");
    let expected = "{a: 2, i: {x: 11, r: [1, 2, 3], i: {x: 5, r: [7, 8, 9]}}, s: \"last\"}";
    assert_eq!(fate(&mut decoder, &payload.0).unwrap(), expected);
    // Only what counts is looked at.
    let payload = new().bytes(3, [0xff]).bytes(3, "good");
    assert!(fate(&mut decoder, &payload.0).unwrap().ends_with("s: \"good\"}"));
    // The bytes of several occurrences, end to end, are the message that they merge into.
    let mut decoder = self::decoder(text, &[("i", "binary")], UnknownFields::Ignore);
    let payload = new().inner(2, new().varint(1, 1)).varint(1, 9).inner(2, new().varint(1, 2));
    assert_eq!(fate(&mut decoder, &payload.0).unwrap(), "{i: [8, 1, 8, 2]}");
}

#[test]
fn of_a_oneof_the_last_member_is_set() {
    let text = r#"syntax = "proto3"; message I { int32 x = 1; int32 y = 2; }
        message M { int32 before = 1; oneof one { int32 a = 2; string b = 3; I i = 4; int32 unwanted = 6; }
        oneof two { int32 c = 7; int32 d = 8; } }"#;
    let fields = [
        ("before", "int32"),
        ("a", "int32"),
        ("b", "string"),
        ("i", "struct<x: int32, y: int32>"),
        ("c", "int32"),
        ("d", "int32"),
    ];
    let mut decoder = decoder(text, &fields, UnknownFields::Ignore);
    for (payload, expected) in [
        (new().varint(2, 1).bytes(3, "b"), "a: null, b: \"b\", i: null, c: null, d: null}"),
        (new().bytes(3, "b").varint(2, 1), "a: 1, b: null, i: null, c: null, d: null}"),
        (new().varint(2, 1).varint(6, 1), "a: null, b: null, i: null, c: null, d: null}"),
        (new().varint(6, 1).varint(2, 1), "a: 1, b: null, i: null, c: null, d: null}"),
        (new().varint(2, 1).varint(8, 2).varint(7, 3), "a: 1, b: null, i: null, c: 3, d: null}"),
        // A message merges with itself, but not across another member.
        (
            new().inner(4, new().varint(1, 1)).inner(4, new().varint(2, 2)),
            "a: null, b: null, i: {x: 1, y: 2}, c: null, d: null}",
        ),
        (
            new().inner(4, new().varint(1, 1)).varint(2, 1).inner(4, new().varint(2, 2)),
            "a: null, b: null, i: {x: 0, y: 2}, c: null, d: null}",
        ),
    ] {
        let payload = new().varint(1, 7).raw(&payload.0);
        assert_eq!(fate(&mut decoder, &payload.0).unwrap(), format!("{{before: 7, {expected}"));
    }
}

#[test]
fn lists_come_packed_or_not_and_in_pieces() {
    let text = r#"syntax = "proto3"; message N { int32 n = 1; }
        message M { repeated int32 r = 1; repeated string s = 2; repeated N n = 3; repeated double d = 4; }"#;
    let fields = [
        ("r", "list<int32>"),
        ("s", "list<string>"),
        ("n", "list<struct<n: int32>>"),
        ("d", "list<float64>"),
    ];
    let mut decoder = decoder(text, &fields, UnknownFields::Quarantine);
    let payload = new()
        .varint(1, 1)
        .varint(1, 2)
        .bytes(2, "a")
        .bytes(1, varints(&[3, 300, 5]))
        .inner(3, new().varint(1, 1))
        .inner(3, new())
        .bytes(1, [])
        .fixed64(4, 1.5_f64.to_bits())
        .bytes(2, "")
        .varint(1, 6)
        .bytes(4, [0.5_f64.to_le_bytes(), 2.5_f64.to_le_bytes()].concat())
        .inner(3, new().varint(1, 1).varint(1, 3));
    let expected =
        "{r: [1, 2, 3, 300, 5, 6], s: [\"a\", \"\"], n: [{n: 1}, {n: 0}, {n: 3}], d: [1.5, 0.5, 2.5]}";
    assert_eq!(fate(&mut decoder, &payload.0).unwrap(), expected);
}

#[test]
fn of_entries_with_one_key_the_last_counts() {
    let text = r#"syntax = "proto3"; message N { int32 x = 1; int32 y = 2; }
        message M { map<string, int32> m = 1; map<int32, N> n = 2; map<bool, string> b = 3; map<uint64, bytes> u = 4;
        map<sint64, N> z = 5; }"#;
    let fields = [
        ("m", "map<string, int32>"),
        ("n", "map<string, struct<x: int32, y: int32>>"),
        ("b", "map<string, string>"),
        ("u", "map<string, binary>"),
        ("z", "map<string, struct<x: int32>>"),
    ];
    let mut decoder = decoder(text, &fields, UnknownFields::Ignore);
    let payload = new()
        .inner(1, new().bytes(1, "a").varint(2, 1))
        .inner(1, new().bytes(1, "b").varint(2, 2))
        .inner(2, new().varint(1, -7_i64 as u64).inner(2, new().varint(1, 1)).inner(2, new().varint(2, 2)))
        .inner(1, new().varint(2, 3).bytes(1, "a"))
        .inner(1, new())
        .inner(2, new().varint(9, 9))
        .inner(3, new().varint(1, 1).bytes(2, "yes"))
        .inner(3, new().varint(1, 5).bytes(2, "no"))
        .inner(4, new().varint(1, u64::MAX))
        .inner(5, new().varint(1, u64::MAX).inner(2, new().varint(2, 1)));
    let expected = "{m: {\"b\": 2, \"a\": 3, \"\": 0}, n: {\"-7\": {x: 1, y: 2}, \"0\": {x: 0, y: 0}}, b: {\"true\": \"no\"}, \
                    u: {\"18446744073709551615\": []}, z: {\"-9223372036854775808\": {x: 0}}}";
    assert_eq!(fate(&mut decoder, &payload.0).unwrap(), expected);
}

#[test]
fn unknown_fields_are_quarantined_or_ignored() {
    let text = r#"syntax = "proto2"; message N { optional int32 n = 1; optional int32 o = 2; }
        message M { optional int32 a = 1; optional int32 other = 2; optional N n = 3; optional group G = 4 { optional int32 g = 1; }
        map<string, int32> m = 5; }"#;
    let fields = [("a", "int32"), ("n", "struct<n: int32>"), ("m", "map<string, int32>")];
    for (payload, part) in [
        (new().varint(2, 1), "field `other`: the schema has no such field"),
        (new().varint(77, 1), "neither schema nor message have a field number 77"),
        (new().varint(536_870_911, 1), "field number 536870911"),
        (new().inner(3, new().varint(2, 1)), "field `n.o`: the schema has no such field"),
        (new().inner(3, new().fixed64(9, 1)), "field `n`: neither schema nor message have a field number 9"),
        (new().tag(4, 3).varint(1, 1).tag(4, 4), "field `g`: the schema has no such field"),
        (new().inner(5, new().varint(3, 1)), "field `m`: neither schema nor message have a field number 3"),
    ] {
        let mut strict = decoder(text, &fields, UnknownFields::Quarantine);
        let (reason, message) = fate(&mut strict, &payload.0).unwrap_err();
        assert_eq!(reason, RejectReason::UnknownField);
        assert!(message.contains(part), "{message}");
        let mut lenient = decoder(text, &fields, UnknownFields::Ignore);
        let payload = new().varint(1, 7).raw(&payload.0);
        assert!(fate(&mut lenient, &payload.0).unwrap().starts_with("{a: 7, "));
    }
    // What is stepped over must be well-formed all the same.
    let mut lenient = decoder(text, &fields, UnknownFields::Ignore);
    for payload in [
        new().tag(77, 0),
        new().bytes(77, "abc").tag(77, 2).raw(&[5, 1]),
        new().tag(77, 3),
        new().tag(77, 3).tag(78, 4),
    ] {
        assert_eq!(fate(&mut lenient, &payload.0).unwrap_err().0, RejectReason::Undecodable);
    }
}

const WELL_KNOWN: &str = r#"syntax = "proto3";
    import "google/protobuf/timestamp.proto"; import "google/protobuf/duration.proto";
    import "google/protobuf/wrappers.proto"; import "google/protobuf/struct.proto"; import "google/protobuf/any.proto";
    message M { google.protobuf.Timestamp t = 1; google.protobuf.Duration d = 2; google.protobuf.Int32Value i = 3;
    google.protobuf.StringValue s = 4; repeated google.protobuf.Timestamp ts = 5; google.protobuf.Struct j = 6;
    google.protobuf.Any any = 7; google.protobuf.UInt64Value u = 8; map<string, google.protobuf.BoolValue> m = 9; }"#;

#[test]
fn well_known_messages_are_what_they_mean() {
    let fields = [
        ("t", "timestamp"),
        ("d", "int64"),
        ("i", "int32"),
        ("s", "string"),
        ("ts", "list<timestamp>"),
        ("j", "binary"),
        ("any", "struct<type_url: string, value: binary>"),
        ("u", "decimal(20,0)"),
        ("m", "map<string, boolean>"),
    ];
    let mut decoder = decoder(WELL_KNOWN, &fields, UnknownFields::Quarantine);
    let nulls = "{t: null, d: null, i: null, s: null, ts: [], j: null, any: null, u: null, m: {}}";
    assert_eq!(fate(&mut decoder, b"").unwrap(), nulls);
    let minus = |value: i64| value as u64;
    let payload = new()
        .inner(1, new().varint(1, minus(-1)).varint(2, 999_999_999))
        .inner(2, new().varint(1, minus(-1)).varint(2, minus(-999_999)))
        .inner(3, new())
        .inner(4, new().bytes(1, "x"))
        .inner(5, new())
        .inner(5, new().varint(1, 1_357_034_400))
        .inner(6, new())
        .inner(7, new().bytes(1, "type").bytes(2, [1]))
        .inner(8, new().varint(1, u64::MAX))
        .inner(9, new().bytes(1, "k"));
    let expected = "{t: -1, d: -1000999, i: 0, s: \"x\", ts: [0, 1357034400000000], j: [], any: {type_url: \"type\", \
                    value: [1]}, u: 18446744073709551615, m: {\"k\": false}}";
    assert_eq!(fate(&mut decoder, &payload.0).unwrap(), expected);

    use RejectReason::*;
    for (payload, reason) in [
        (new().inner(1, new().varint(1, minus(-62_135_596_801))), OutOfRange),
        (new().inner(1, new().varint(1, 253_402_300_800)), OutOfRange),
        (new().inner(1, new().varint(2, 1_000_000_000)), InvalidValue),
        (new().inner(1, new().varint(2, minus(-1))), InvalidValue),
        (new().inner(2, new().varint(1, 315_576_000_001)), OutOfRange),
        (new().inner(2, new().varint(1, minus(i64::MIN))), OutOfRange),
        (new().inner(2, new().varint(1, 1).varint(2, minus(-1))), InvalidValue),
        (new().inner(2, new().varint(2, 1_000_000_000)), InvalidValue),
        (new().inner(2, new().varint(2, minus(i32::MIN.into()))), InvalidValue),
        (new().inner(1, new().varint(3, 1)), UnknownField),
    ] {
        assert_eq!(fate(&mut decoder, &payload.0).unwrap_err().0, reason, "{payload:?}");
    }
    let fields =
        [("t", "struct<seconds: int64, nanos: int32>"), ("i", "struct<value: int32>"), ("u", "binary")];
    let mut decoder = self::decoder(WELL_KNOWN, &fields, UnknownFields::Quarantine);
    let payload =
        new().inner(1, new().varint(1, 5)).inner(3, new().varint(1, 7)).inner(8, new().varint(1, 1));
    assert_eq!(
        fate(&mut decoder, &payload.0).unwrap(),
        "{t: {seconds: 5, nanos: 0}, i: {value: 7}, u: [8, 1]}"
    );
}

/// What a schema of a service or of Kafka Connect imports, and none brings along.
const KNOWN: &str = r#"syntax = "proto3"; package shop;
    import "google/type/date.proto"; import "google/type/timeofday.proto"; import "google/type/money.proto";
    import "google/type/latlng.proto"; import "google/type/dayofweek.proto"; import "google/type/datetime.proto";
    import "google/api/field_behavior.proto"; import "google/api/annotations.proto"; import "google/api/resource.proto";
    import "confluent/meta.proto"; import "confluent/type/decimal.proto";
    message M { option (confluent.message_meta) = { doc: "an order" };
    google.type.Date day = 1 [(google.api.field_behavior) = REQUIRED]; google.type.TimeOfDay clock = 2;
    google.type.Money price = 3; google.type.LatLng place = 4; google.type.DayOfWeek weekday = 5;
    confluent.type.Decimal amount = 6 [(confluent.field_meta) = { params: [{ key: "scale", value: "2" }, { key: "precision", value: "9" }] }];
    repeated google.type.Date days = 7; map<string, confluent.type.Decimal> amounts = 8;
    string secret = 9 [(confluent.field_meta).doc = "whose it is"]; }
    service S { rpc Get(M) returns (M) { option (google.api.http) = { get: "/v1/orders" }; } }"#;

fn date(year: u64, month: u64, day: u64) -> Message {
    new().varint(1, year).varint(2, month).varint(3, day)
}

/// An unscaled value, as few bytes as it needs, and how many decimals it has.
fn unscaled(bytes: &[u8], scale: i64) -> Message {
    new().bytes(1, bytes).varint(2, 4).varint(3, scale as u64)
}

#[test]
fn messages_that_everybody_knows_are_what_they_mean() {
    let fields = [
        ("day", "date"),
        ("clock", "int64"),
        ("price", "struct<currency_code: string, units: int64, nanos: int32>"),
        ("place", "struct<latitude: float64, longitude: float64>"),
        ("weekday", "string"),
        ("amount", "decimal(9,2)"),
        ("days", "list<date>"),
        ("amounts", "map<string, decimal(9,2)>"),
        ("secret", "string"),
    ];
    let message = compile(KNOWN).message("shop.M").unwrap();
    let limits = DecodeLimits::default();
    let known = |fields: &[(&str, &str)]| {
        ProtobufDecoder::new(schema(fields), &message, UnknownFields::Quarantine, limits).unwrap()
    };
    let mut decoder = known(&fields);
    let nothing = "{day: null, clock: null, price: null, place: null, weekday: \"DAY_OF_WEEK_UNSPECIFIED\", amount: null, \
                   days: [], amounts: {}, secret: \"\"}";
    assert_eq!(fate(&mut decoder, b"").unwrap(), nothing);
    let payload = new()
        .inner(1, date(2024, 2, 29))
        .inner(2, new().varint(1, 23).varint(2, 59).varint(3, 59).varint(4, 999_999_999))
        .inner(3, new().bytes(1, "EUR").varint(2, 7).varint(3, 500_000_000))
        .inner(4, new().fixed64(1, 0.5_f64.to_bits()))
        .varint(5, 4)
        .inner(6, unscaled(&[0x04, 0xd2], 2))
        .inner(7, date(1970, 1, 1))
        .inner(7, date(1, 1, 1))
        .inner(7, date(9999, 12, 31))
        .inner(8, new().bytes(1, "k").inner(2, unscaled(&[0xff], -3)));
    let expected = "{day: 19782, clock: 86399999999, price: {currency_code: \"EUR\", units: 7, nanos: 500000000}, \
                    place: {latitude: 0.5, longitude: 0.0}, weekday: \"THURSDAY\", amount: 1234, days: [0, -719162, 2932896], \
                    amounts: {\"k\": -100000}, secret: \"\"}";
    assert_eq!(fate(&mut decoder, &payload.0).unwrap(), expected);
    // Midnight is written without a byte, and fields of several occurrences merge.
    let payload = new()
        .inner(2, new())
        .inner(1, new().varint(1, 2000).varint(3, 9))
        .inner(1, new().varint(2, 3).varint(3, 1));
    assert!(fate(&mut decoder, &payload.0).unwrap().starts_with("{day: 11017, clock: 0, "));

    use RejectReason::*;
    let minus = |value: i64| value as u64;
    for (payload, reason, part) in [
        (new().inner(1, new()), InvalidValue, "field `day`: year 0, month 0, day 0: a part is not told"),
        (new().inner(1, date(2024, 2, 0)), InvalidValue, "a part is not told"),
        (new().inner(1, date(0, 2, 1)), InvalidValue, "a part is not told"),
        (new().inner(1, date(2023, 2, 29)), InvalidValue, "there is no such day"),
        (new().inner(1, date(2023, 13, 1)), InvalidValue, "there is no such day"),
        (new().inner(1, date(2023, 1, minus(-1))), InvalidValue, "there is no such day"),
        (new().inner(1, date(10_000, 1, 1)), OutOfRange, "the years 1 and 9999"),
        (new().inner(1, date(minus(-1), 1, 1)), OutOfRange, "the years 1 and 9999"),
        (new().inner(1, date(2024, 1, 1).varint(4, 1)), UnknownField, "field `day`: neither"),
        (new().inner(2, new().varint(1, 24)), InvalidValue, "field `clock`: 24 h"),
        (new().inner(2, new().varint(2, 60)), InvalidValue, "60 min"),
        (new().inner(2, new().varint(3, 60)), InvalidValue, "60 s"),
        (new().inner(2, new().varint(4, 1_000_000_000)), InvalidValue, "1000000000 ns"),
        (new().inner(2, new().varint(1, minus(-1))), InvalidValue, "-1 h"),
        (new().inner(6, new()), InvalidValue, "field `amount`: a decimal of no bytes"),
        (new().inner(6, unscaled(&[0x0b], 3)), InvalidValue, "11e-3 has more than the 2 decimals"),
        (
            new().inner(6, unscaled(&[0x7f; 4], 0)),
            OutOfRange,
            "2139062143 is out of the range of decimal(9,2)",
        ),
        (new().inner(6, unscaled(&[1; 17], 0)), OutOfRange, "a decimal of 17 bytes"),
        (new().inner(6, unscaled(&[1], i64::from(i32::MIN))), OutOfRange, "1e2147483648"),
        (new().inner(6, unscaled(&[1], i64::from(i32::MAX))), InvalidValue, "1e-2147483647"),
        (new().inner(6, new().varint(1, 1)), WrongType, "field `amount.value`"),
        (new().inner(7, date(2024, 1, 32)), InvalidValue, "field `days[]`"),
    ] {
        let (found, message) = fate(&mut decoder, &payload.0).unwrap_err();
        assert!(found == reason && message.contains(part), "{found}: {message}");
    }

    // As any message they may be a struct, or their own bytes.
    let mut decoder = known(&[
        ("day", "struct<year: int32, month: int32>"),
        ("clock", "binary"),
        ("amount", "struct<value: binary, scale: int32, precision: int64>"),
    ]);
    let payload =
        new().inner(1, new().varint(1, 2024)).inner(2, new().varint(1, 1)).inner(6, unscaled(&[1], 2));
    let expected =
        "{day: {year: 2024, month: 0}, clock: [8, 1], amount: {value: [1], scale: 2, precision: 4}}";
    assert_eq!(fate(&mut decoder, &payload.0).unwrap(), expected);
    for (name, data_type, part) in [
        ("day", "timestamp", "the message google.type.Date here, which cannot become timestamp; take date"),
        ("clock", "int32", "take int64"),
        ("amount", "float64", "take decimal(p,s)"),
    ] {
        let schema = schema(&[(name, data_type)]);
        let error = ProtobufDecoder::new(schema, &message, UnknownFields::Ignore, limits).unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
    }
    let suggested = fields_of_protobuf(&message).unwrap();
    let types: HashMap<_, _> = suggested
        .0
        .iter()
        .map(|(name, spec)| (name.as_str(), (spec.type_text.as_str(), spec.unit.as_deref())))
        .collect();
    assert_eq!(types["day"], ("date", None));
    assert_eq!(types["clock"], ("int64", Some("microseconds of the day")));
    assert_eq!(types["amount"], ("struct<value: binary, precision: int64, scale: int32>", None));
    assert_eq!(types["days"], ("list<date>", None));
}

/// The text of the same number, read as that of JSON, says what a decimal must become.
#[test]
fn a_decimal_is_what_its_digits_say() {
    let text = r#"syntax = "proto3"; import "confluent/type/decimal.proto"; message M { confluent.type.Decimal v = 1; }"#;
    let message = compile(text).message("M").unwrap();
    let decimal = compile(text).message("confluent.type.Decimal").unwrap();
    let (mut good, mut bad) = (0, 0);
    for seed in 0..400 {
        let mut random = Random::new(seed);
        let (precision, scale) = (1 + random.below(38) as u8, random.below(12) as u8);
        let scale = scale.min(precision);
        let columns = schema(&[("v", &format!("decimal({precision},{scale})"))]);
        let mut decoder =
            ProtobufDecoder::new(columns, &message, UnknownFields::Quarantine, DecodeLimits::default())
                .unwrap();
        for _ in 0..20 {
            let digits = random.below(39);
            let magnitude = (0..digits).fold(0_i128, |value, _| value * 10 + random.below(10) as i128);
            let value = if random.one_in(2) { -magnitude } else { magnitude };
            let decimals = random.below(40) as i32 - 10;
            let bytes = value.to_be_bytes();
            // As Java's BigInteger writes it, or longer than it need be.
            let sign = if value < 0 { 0xff } else { 0 };
            let repeated = (1..16).take_while(|at| bytes[..*at].iter().all(|byte| *byte == sign)).count();
            let start = if random.one_in(4) { 0 } else { repeated.saturating_sub(1) };
            let mut written = DynamicMessage::new(decimal.clone());
            written.set_field_by_name("value", prost_reflect::Value::Bytes(bytes[start..].to_vec().into()));
            written.set_field_by_name("scale", prost_reflect::Value::I32(decimals));
            written.set_field_by_name("precision", prost_reflect::Value::U32(digits as u32));
            let payload = new().bytes(1, prost_reflect::prost::Message::encode_to_vec(&written));
            let text = format!("{value}e{}", -decimals);
            let due = crate::decode::numbers::decimal(&text, precision, scale as i8);
            match (fate(&mut decoder, &payload.0), due) {
                (Ok(row), Ok(due)) => {
                    assert_eq!(row, format!("{{v: {due}}}"), "{text}");
                    good += 1;
                }
                (Err((reason, message)), Err(due)) => {
                    assert_eq!(reason, due.reason, "{text} as decimal({precision},{scale}): {message}");
                    bad += 1;
                }
                (found, due) => {
                    panic!("seed {seed}: {text} as decimal({precision},{scale}): {found:?}, {due:?}")
                }
            }
        }
    }
    assert!(good > 500 && bad > 500, "{good} good, {bad} bad");
}

#[test]
fn columns_that_a_message_cannot_fill_are_refused() {
    let text = r#"syntax = "proto2"; import "google/protobuf/timestamp.proto"; enum E { ZERO = 0; }
        message M { optional int32 i = 1; optional double d = 2; optional M m = 3; repeated int32 r = 4;
        map<string, M> e = 5; optional E n = 6; optional group G = 7 { optional int32 g = 1; } optional uint64 u = 8;
        optional google.protobuf.Timestamp t = 9; }"#;
    for (name, data_type, part) in [
        ("i", "string", "field `i`: the message has int32 here, which cannot become string; take int32"),
        ("i", "boolean", "take int32"),
        ("d", "float32", "take float64"),
        ("u", "float64", "take decimal(20,0)"),
        ("m", "int32", "the message M"),
        ("m", "struct<m: struct<d: int32>>", "field `m.m.d`: the message has double here"),
        ("r", "int32", "take list<…>"),
        ("r", "list<string>", "field `r[]`"),
        ("e", "list<string>", "take map<string, …>"),
        ("e", "map<string, int32>", "field `e[]`"),
        ("n", "boolean", "the enum E"),
        ("g", "struct<g: int32>", "a group"),
        ("t", "int64", "take timestamp"),
        ("missing!", "int32", "field `missing`: required, but the message has no field of this name"),
    ] {
        let message = compile(text).message("M").unwrap();
        let schema = schema(&[(name, data_type)]);
        let error = ProtobufDecoder::new(schema, &message, UnknownFields::Ignore, DecodeLimits::default())
            .unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
    }
}

#[test]
fn tombstones_and_payloads_too_large_are_no_messages() {
    let message = compile(r#"syntax = "proto3"; message M { string a = 1; }"#).only_message().unwrap();
    let limits = DecodeLimits { payload_bytes_max: 4, ..DecodeLimits::default() };
    let mut decoder =
        ProtobufDecoder::new(schema(&[("a", "string")]), &message, UnknownFields::Quarantine, limits)
            .unwrap();
    let payloads = [None, Some(&b"\x0a\x02ab"[..]), Some(b"\x0a\x03abc"), Some(b"")];
    let decoded = decoder.decode(&chunk(payloads)).unwrap();
    assert_eq!(decoded.records, [1, 3]);
    let reasons: Vec<_> = decoded.rejects.iter().map(|reject| reject.reason).collect();
    assert_eq!(reasons, [RejectReason::Tombstone, RejectReason::Oversize]);
}

// ---------------------------------------------------------------------------------------------------------------
// Hostile payloads.

const RECURSIVE: &str = r#"syntax = "proto3"; message M { M m = 1; repeated M r = 2; int32 a = 3; repeated int32 p = 4;
    map<string, M> e = 5; }"#;

#[test]
fn depth_is_that_of_the_contract() {
    let mut strict =
        decoder(RECURSIVE, &[("a", "int32"), ("m", "struct<a: int32>")], UnknownFields::Quarantine);
    let two = new().inner(1, new().varint(3, 7));
    assert_eq!(fate(&mut strict, &two.0).unwrap(), "{a: 0, m: {a: 7}}");
    let three = new().inner(1, two);
    assert_eq!(fate(&mut strict, &three.0).unwrap_err().1, "field `m.m`: the schema has no such field");
    // Deeper than any stack, and not looked at.
    let mut lenient = decoder(RECURSIVE, &[("a", "int32"), ("m", "struct<a: int32>")], UnknownFields::Ignore);
    let mut deep = new().varint(3, 1);
    for _ in 0..2_000 {
        deep = new().inner(1, deep);
    }
    assert_eq!(fate(&mut lenient, &deep.0).unwrap(), "{a: 0, m: {a: 0}}");
    let groups = [0xbb, 0x01].repeat(100_000);
    assert_eq!(fate(&mut lenient, &groups).unwrap_err().0, RejectReason::Undecodable);
}

#[test]
fn occurrences_between_others_cost_no_more_than_their_bytes() {
    let fields =
        [("a", "int32"), ("p", "list<int32>"), ("r", "list<struct<a: int32>>"), ("m", "struct<a: int32>")];
    let mut decoder = decoder(RECURSIVE, &fields, UnknownFields::Quarantine);
    let mut payload = new();
    for index in 0..20_000 {
        payload = payload.varint(4, index % 128).inner(2, new().varint(3, index % 128)).inner(1, new());
    }
    let decoded = decoder.decode(&chunk([Some(&payload.0[..]), Some(&new().varint(3, 1).0)])).unwrap();
    assert_eq!(decoded.records, [0, 1]);
    assert!(decoder.reader.runs.capacity() <= RUNS_KEPT);
}

#[test]
fn a_payload_cannot_grow_without_bound() {
    // Each empty message of two bytes is a row of many columns.
    let members: Vec<_> = (1..=200).map(|number| format!("int64 f{number} = {number};")).collect();
    let text = format!(
        r#"syntax = "proto3"; message W {{ {} }} message M {{ repeated W w = 1; }}"#,
        members.concat()
    );
    let columns: Vec<_> = (1..=200).map(|number| format!("f{number}: int64")).collect();
    let data_type = format!("list<struct<{}>>", columns.join(", "));
    let mut decoder = decoder(&text, &[("w", &data_type)], UnknownFields::Quarantine);
    let bomb = [10, 0].repeat(100_000);
    let few = [10, 0].repeat(8);
    let decoded = decoder.decode(&chunk([Some(&few[..]), Some(&bomb), Some(&few)])).unwrap();
    assert_eq!(decoded.records, [0, 2]);
    assert_eq!(decoded.rejects[0].reason, RejectReason::Oversize);
    // Names of an enum, and defaults.
    let name = "A".repeat(1000);
    let text = format!(
        r#"syntax = "proto2"; enum E {{ {name} = 0; }} message D {{ optional string s = 1 [default = "{name}"]; }}
        message M {{ repeated E e = 1; repeated D d = 2; map<sint32, D> m = 3; }}"#
    );
    let fields =
        [("e", "list<string>"), ("d", "list<struct<s: string>>"), ("m", "map<string, struct<s: string>>")];
    let mut decoder = self::decoder(&text, &fields, UnknownFields::Quarantine);
    assert!(fate(&mut decoder, &new().varint(1, 0).inner(2, new()).0).is_ok());
    let keys = (0..20_000).fold(new(), |message, key| message.inner(3, new().varint(1, key)));
    for bomb in [new().bytes(1, vec![0; 100_000]).0, [18, 0].repeat(100_000), keys.0] {
        assert_eq!(fate(&mut decoder, &bomb).unwrap_err().0, RejectReason::Oversize);
    }
}

#[test]
fn lengths_and_numbers_from_hell_are_rejected() {
    let mut decoder = decoder(RECURSIVE, &[("a", "int32")], UnknownFields::Ignore);
    for payload in [
        &[0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f][..],
        &[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f],
        &[0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02],
        &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01, 0],
        &[0],
        &[0x1c],
        b"{\"a\":1}",
    ] {
        assert_eq!(fate(&mut decoder, payload).unwrap_err().0, RejectReason::Undecodable, "{payload:?}");
    }
}

#[test]
fn messages_stay_short() {
    let name = "n".repeat(5_000);
    let text = format!(r#"syntax = "proto3"; message M {{ int32 {name} = 1; int32 a = 2; }}"#);
    let mut decoder = decoder(&text, &[("a", "int32")], UnknownFields::Quarantine);
    assert!(fate(&mut decoder, &new().varint(1, 1).0).unwrap_err().1.len() < 300);
}

/// Also where so large a payload could become more than a column can count.
#[test]
fn a_payload_far_beyond_the_limit_leaves_its_neighbours_alone() {
    let mut decoder = decoder(RECURSIVE, &[("a", "int32")], UnknownFields::Ignore);
    let good = new().varint(3, 7).0;
    let huge = vec![0; (i32::MAX as usize).div_ceil(1 + GROWTH_PER_BYTE)];
    let decoded = decoder.decode(&chunk([Some(&good[..]), Some(&huge), Some(&good)])).unwrap();
    assert_eq!(decoded.records, [0, 2]);
    assert_eq!(decoded.rejects[0].reason, RejectReason::Oversize);
}

// ---------------------------------------------------------------------------------------------------------------
// Schemas.

#[test]
fn texts_are_compiled_with_their_imports_and_nothing_else() {
    let source = |name: &str, text: &str| ProtobufSource { name: name.to_owned(), text: text.to_owned() };
    let main = source("a.proto", r#"syntax = "proto3"; import "b/c.proto"; message A { b.C c = 1; }"#);
    let import = source("b/c.proto", r#"syntax = "proto3"; package b; message C { int32 x = 1; }"#);
    let schema = ProtobufSchema::from_sources(main.clone(), vec![import]).unwrap();
    assert_eq!(schema.only_message().unwrap().full_name(), "A");
    assert_eq!(schema.message(".b.C").unwrap().name(), "C");
    let error = schema.message("b.D").unwrap_err().to_string();
    assert!(error.contains("did you mean `b.C`"), "{error}");

    let error = ProtobufSchema::from_sources(main, Vec::new()).unwrap_err().to_string();
    assert!(error.contains("b/c.proto"), "{error}");
    for name in ["/etc/hostname", "../Cargo.toml", "Cargo.toml"] {
        let main = source("a.proto", &format!("syntax = \"proto3\"; import \"{name}\";"));
        assert!(ProtobufSchema::from_sources(main, Vec::new()).is_err(), "{name}");
    }
    let cycle = source("a.proto", "syntax = \"proto3\"; import \"a.proto\";");
    assert!(ProtobufSchema::from_sources(cycle, Vec::new()).is_err());
    // What is given comes before what everybody knows.
    let main = source(
        "a.proto",
        r#"syntax = "proto3"; import "google/type/date.proto"; message A { google.type.Date d = 1; }"#,
    );
    let own = source(
        "google/type/date.proto",
        r#"syntax = "proto3"; package google.type; message Date { string text = 1; }"#,
    );
    let schema = ProtobufSchema::from_sources(main, vec![own]).unwrap();
    let date = schema.message("google.type.Date").unwrap();
    assert_eq!(date.fields().map(|field| field.name().to_owned()).collect::<Vec<_>>(), ["text"]);
    // It is another message than the one that is a date.
    let fields = self::schema(&[("d", "date")]);
    let message = schema.message("A").unwrap();
    let decoder = ProtobufDecoder::new(fields, &message, UnknownFields::Quarantine, DecodeLimits::default());
    assert!(decoder.unwrap_err().to_string().contains("take struct<…>"));
    let suggested = fields_of_protobuf(&message).unwrap();
    assert_eq!(suggested.0[0].1.type_text, "struct<text: string>");
}

#[test]
fn texts_are_bounded() {
    let compile = |text: String| {
        let main = ProtobufSource { name: "a.proto".to_owned(), text };
        ProtobufSchema::from_sources(main, Vec::new()).map(|_| ()).map_err(|error| error.to_string())
    };
    let nested = |depth: usize| "message M {".repeat(depth) + &"}".repeat(depth);
    assert_eq!(compile(format!("syntax = \"proto3\"; {}", nested(30))), Ok(()));
    for depth in [BRACKETS_DEPTH_MAX + 1, 50_000] {
        assert!(compile(nested(depth)).unwrap_err().contains("brackets"));
    }
    let options = format!("option (a) = {}{};", "{ a ".repeat(90), "}".repeat(90));
    assert!(compile(options).is_err());
    assert!(compile(" ".repeat(SOURCE_BYTES_MAX + 1)).unwrap_err().contains("limit"));
    assert!(ProtobufSchema::from_descriptor_set(&vec![0; SOURCE_BYTES_MAX + 1]).is_err());
    let main = ProtobufSource { name: "a.proto".to_owned(), text: String::new() };
    let imports = vec![main.clone(); SOURCES_MAX];
    assert!(ProtobufSchema::from_sources(main, imports).unwrap_err().to_string().contains("imports"));
}

#[test]
fn a_descriptor_set_is_as_good_as_its_text() {
    let text = r#"syntax = "proto3"; package p; import "google/protobuf/timestamp.proto";
        message M { google.protobuf.Timestamp t = 1; message N { int32 n = 1; } N n = 2; }"#;
    let compiled = compile(text);
    // With the well-known files, and without them.
    let whole = compiled.message("p.M").unwrap().parent_pool().encode_to_vec();
    let file = compiled.message("p.M").unwrap().parent_file().encode_to_vec();
    let alone = Message::default().bytes(1, file).0;
    for bytes in [&whole, &alone] {
        let schema = ProtobufSchema::from_descriptor_set(bytes).unwrap();
        let message = schema.only_message().unwrap();
        assert_eq!(message.full_name(), "p.M");
        let fields = self::schema(&[("t", "timestamp"), ("n", "struct<n: int32>")]);
        let mut decoder =
            ProtobufDecoder::new(fields, &message, UnknownFields::Quarantine, DecodeLimits::default())
                .unwrap();
        let payload = new().inner(1, new().varint(1, 1)).inner(2, new().varint(1, 2));
        assert_eq!(fate(&mut decoder, &payload.0).unwrap(), "{t: 1000000, n: {n: 2}}");
    }
    for len in 0..alone.len() {
        let _ = ProtobufSchema::from_descriptor_set(&alone[..len]).map(|schema| schema.only_message());
    }
    // With the files that everybody knows, and without them.
    let compiled = compile(KNOWN).message("shop.M").unwrap();
    let [whole, file] = [compiled.parent_pool().encode_to_vec(), compiled.parent_file().encode_to_vec()];
    for bytes in [&whole, &Message::default().bytes(1, file).0] {
        let message = ProtobufSchema::from_descriptor_set(bytes).unwrap().only_message().unwrap();
        assert_eq!(message.full_name(), "shop.M");
        let fields = self::schema(&[("day", "date"), ("amount", "decimal(9,2)")]);
        let mut decoder =
            ProtobufDecoder::new(fields, &message, UnknownFields::Quarantine, DecodeLimits::default())
                .unwrap();
        let payload = new().inner(1, date(1970, 1, 2)).inner(6, unscaled(&[7], 2));
        assert_eq!(fate(&mut decoder, &payload.0).unwrap(), "{day: 1, amount: 7}");
    }
    assert!(ProtobufSchema::from_descriptor_set(b"garbage").is_err());
}

/// What `protoc` writes for `edition = "2023";`, and what nobody writes.
#[test]
fn a_descriptor_set_of_another_syntax_is_refused() {
    for (syntax, expected) in [
        ("proto2", None),
        ("", Some("neither")),
        ("editions", Some("`m.proto` is `editions`")),
        ("protm3", Some("neither")),
    ] {
        let message = new().bytes(1, "M");
        let file = new().bytes(1, "m.proto").inner(4, message).bytes(12, syntax);
        let schema = ProtobufSchema::from_descriptor_set(&new().inner(1, file).0);
        match (schema, expected) {
            (Ok(_), None) => {}
            (Err(error), Some(part)) => assert!(error.to_string().contains(part), "{error}"),
            (schema, _) => panic!("{syntax}: {schema:?}"),
        }
    }
}

/// Descriptor sets need not be what a compiler wrote; those that are accepted must do no harm.
#[test]
fn mutilated_schemas_are_refused_or_used_but_never_panic() {
    let text = r#"syntax = "proto2"; import "google/protobuf/timestamp.proto"; enum E { ZERO = 0; ONE = 1; }
        message M { optional int32 a = 1 [default = 5]; map<string, E> m = 2; oneof o { E e = 3; M r = 4; } repeated M s = 5;
        optional google.protobuf.Timestamp t = 6; optional group G = 7 { required string x = 8; } }"#;
    let file = compile(text).message("M").unwrap().parent_file().encode_to_vec();
    let set = new().bytes(1, file).0;
    let (mut texts, mut sets) = (0, 0);
    for seed in 0..1_000 {
        let mut random = Random::new(seed);
        let mut bytes = if seed % 2 == 0 { set.clone() } else { text.as_bytes().to_vec() };
        for _ in 0..1 + random.below(3) {
            let (at, from) = (random.below(bytes.len()), random.below(bytes.len()));
            match random.below(3) {
                0 => bytes[at] = random.below(256) as u8,
                1 => bytes[at] = bytes[from],
                _ => bytes.truncate(at + 1),
            }
        }
        let schema = if seed % 2 == 0 {
            ProtobufSchema::from_descriptor_set(&bytes)
        } else {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            ProtobufSchema::from_sources(ProtobufSource { name: "a.proto".to_owned(), text }, Vec::new())
        };
        let Ok(schema) = schema else { continue };
        *if seed % 2 == 0 { &mut sets } else { &mut texts } += 1;
        let Ok(message) = schema.message("M") else { continue };
        let Ok(fields) = fields_of_protobuf(&message) else { continue };
        let Ok(fields) = to_arrow_schema(&fields) else { continue };
        let limits = DecodeLimits::default();
        let Ok(mut decoder) = ProtobufDecoder::new(fields, &message, UnknownFields::Ignore, limits) else {
            continue;
        };
        let payload =
            new().varint(1, 1).inner(2, new().varint(2, 1)).varint(3, 1).inner(5, new()).inner(6, new());
        let _ = fate(&mut decoder, &payload.0);
    }
    assert!(texts > 5 && sets > 20, "{texts} texts, {sets} sets");
}

#[test]
fn a_message_suggests_its_contract() {
    let text = WELL_KNOWN.replace(
        "message M {",
        "enum E { ZERO = 0; } message Empty {} message N { uint32 u = 1; repeated N n = 2; }
         message M { uint64 z = 20; repeated N rn = 21; map<int64, N> mn = 22; E e = 23; optional bytes ob = 24;
         oneof one { float f = 25; Empty x = 26; }",
    );
    let message = compile(&text).message("M").unwrap();
    let fields = fields_of_protobuf(&message).unwrap();
    let types: HashMap<_, _> =
        fields.0.iter().map(|(name, spec)| (name.as_str(), spec.type_text.as_str())).collect();
    for (name, expected) in [
        ("z", "decimal(20,0)"),
        ("rn", "list<struct<u: int64, n: list<binary>>>"),
        ("mn", "map<string, struct<u: int64, n: list<binary>>>"),
        ("e", "string"),
        ("ob", "binary"),
        ("f", "float32"),
        ("x", "binary"),
        ("t", "timestamp"),
        ("d", "int64"),
        ("i", "int32"),
        ("ts", "list<timestamp>"),
        ("j", "binary"),
        ("any", "struct<type_url: string, value: binary>"),
        ("m", "map<string, boolean>"),
    ] {
        assert_eq!(types[name], expected, "{name}");
    }
    assert_eq!(fields.0[0].0, "z", "in the order of the declaration");
    let duration = fields.0.iter().find(|(name, _)| name == "d").unwrap();
    assert_eq!(duration.1.unit.as_deref(), Some("microseconds"));
    let schema = to_arrow_schema(&fields).unwrap();
    assert!(
        ProtobufDecoder::new(schema, &message, UnknownFields::Quarantine, DecodeLimits::default()).is_ok()
    );
}

#[test]
fn a_contract_of_countless_fields_is_not_suggested() {
    let mut text = r#"syntax = "proto3"; message M0 { int32 a = 1; }"#.to_owned();
    for depth in 1..14 {
        let inner = depth - 1;
        let members: Vec<_> = (1..=8).map(|number| format!("M{inner} f{number} = {number};")).collect();
        text.push_str(&format!("message M{depth} {{ {} }}", members.concat()));
    }
    let error = fields_of_protobuf(&compile(&text).message("M13").unwrap()).unwrap_err();
    assert!(error.to_string().contains("more than 10000 fields"), "{error}");
    let empty = compile(r#"syntax = "proto3"; message M { }"#).only_message().unwrap();
    assert!(fields_of_protobuf(&empty).is_err());
}

// ---------------------------------------------------------------------------------------------------------------
// Schemas in a registry.

fn registered(text: &str) -> RegisteredSchema {
    RegisteredSchema { kind: SchemaKind::Protobuf, text: text.to_owned(), references: Vec::new() }
}

fn with_registry(fields: &[(&str, &str)], message: Option<&str>) -> ProtobufDecoder {
    let limits = DecodeLimits::default();
    ProtobufDecoder::with_registry(schema(fields), message, UnknownFields::Quarantine, limits).unwrap()
}

/// `message` as Confluent's serializers write it.
fn framed(id: u32, index: &[u8], message: Message) -> Vec<u8> {
    [&[0][..], &id.to_be_bytes(), index, &message.0].concat()
}

#[test]
fn versions_of_a_schema_share_a_batch() {
    let mut decoder = with_registry(&[("a", "int64"), ("b", "string")], None);
    let payloads = [
        framed(7, &[0], new().varint(1, 1)),
        framed(9, &[0], new().varint(1, 2).bytes(5, "x")),
        framed(7, &[2, 0], new().varint(1, 3)),
        framed(8, &[0], new()),
        framed(10, &[0], new()),
        framed(11, &[0], new()),
        b"\0\0\0\0".to_vec(),
        b"{}".to_vec(),
        Vec::new(),
        framed(9, &[], new()),
        framed(9, &[2, 2], new()),
    ];
    let chunk = chunk(payloads.iter().map(|payload| Some(&payload[..])));
    assert_eq!(decoder.missing_schemas(&chunk), [7, 8, 9, 10, 11]);
    assert!(matches!(decoder.decode(&chunk), Err(Error::SchemaNotLearned { .. })));
    let first = registered(r#"syntax = "proto3"; message M { int32 a = 1; }"#);
    let second = registered(r#"syntax = "proto3"; message M { optional string b = 5; int64 a = 1; }"#);
    decoder.learn(7, WriterSchema::Known(first.clone()));
    decoder.learn(8, WriterSchema::Unknown);
    decoder.learn(9, WriterSchema::Known(second));
    decoder.learn(10, WriterSchema::Known(RegisteredSchema { kind: SchemaKind::Avro, ..first }));
    decoder.learn(11, WriterSchema::Known(registered(r#"syntax = "proto3"; message M { string a = 1; }"#)));
    assert_eq!(decoder.missing_schemas(&chunk), Vec::<u32>::new());
    let decoded = decoder.decode(&chunk).unwrap();
    assert_eq!(decoded.records, [0, 1, 2]);
    let rows: Vec<_> = (0..3).map(|row| render_row(&decoded.batch, row)).collect();
    assert_eq!(rows, ["{a: 1, b: null}", "{a: 2, b: \"x\"}", "{a: 3, b: null}"]);
    use RejectReason::*;
    let reasons: Vec<_> = decoded.rejects.iter().map(|reject| (reject.record, reject.reason)).collect();
    let expected = [
        (3, UnknownSchema),
        (4, IncompatibleSchema),
        (5, IncompatibleSchema),
        (6, UnknownSchema),
        (7, UnknownSchema),
        (8, EmptyPayload),
        (9, Undecodable),
        (10, Undecodable),
    ];
    assert_eq!(reasons, expected);
    for (reject, part) in [(1, "it is Avro, not Protobuf"), (2, "cannot become int64"), (7, "index [1]")] {
        assert!(decoded.rejects[reject].message.contains(part), "{}", decoded.rejects[reject].message);
    }
}

#[test]
fn an_index_leads_to_a_message_inside_others() {
    let text = r#"syntax = "proto3"; package p; message A { int32 x = 1; }
        message B { message C { message D { int32 x = 1; } string x = 1; } map<string, int32> m = 1; message E { bytes x = 1; } }"#;
    for (index, message, expected) in [
        (&[0][..], "p.A", Ok("{x: 1}")),
        (&[2, 0], "p.A", Ok("{x: 1}")),
        (&[6, 2, 0, 0], "p.B.C.D", Ok("{x: 1}")),
        (&[6, 2, 0, 0], "p.A", Err("the record is a `p.B.C.D`, not a `p.A`")),
        (&[4, 2, 0], "p.B.C", Err("cannot become int32")),
        (&[4, 2, 2], "p.B.MEntry", Err("no message with the index [1, 1]")),
        (&[4, 2, 4], "p.B.E", Err("cannot become int32")),
        (&[4, 2, 6], "", Err("no message with the index [1, 3]")),
    ] {
        let mut decoder = with_registry(&[("x", "int32")], Some(message).filter(|name| !name.is_empty()));
        decoder.learn(1, WriterSchema::Known(registered(text)));
        let found = fate(&mut decoder, &framed(1, index, new().varint(1, 1)));
        match expected {
            Ok(expected) => assert_eq!(found.unwrap(), expected),
            Err(part) => {
                let (_, message) = found.unwrap_err();
                assert!(message.contains(part), "{index:?}: {message}");
            }
        }
    }
}

#[test]
fn references_are_imports() {
    let schema = RegisteredSchema {
        references: vec![
            SchemaReference {
                name: "schema.proto".to_owned(),
                text: r#"syntax = "proto3"; message N { int32 n = 1; }"#.to_owned(),
            },
            SchemaReference {
                name: "other.proto".to_owned(),
                text: r#"syntax = "proto3"; import public "schema.proto";"#.to_owned(),
            },
        ],
        ..registered(r#"syntax = "proto3"; import "other.proto"; message M { N n = 1; }"#)
    };
    let mut decoder = with_registry(&[("n", "struct<n: int32>")], None);
    decoder.learn(1, WriterSchema::Known(schema.clone()));
    let payload = framed(1, &[0], new().inner(1, new().varint(1, 7)));
    assert_eq!(fate(&mut decoder, &payload).unwrap(), "{n: {n: 7}}");
    let lacking = RegisteredSchema { references: Vec::new(), ..schema };
    let mut decoder = with_registry(&[("n", "struct<n: int32>")], None);
    decoder.learn(1, WriterSchema::Known(lacking));
    let (reason, message) = fate(&mut decoder, &payload).unwrap_err();
    assert_eq!(reason, RejectReason::IncompatibleSchema);
    assert!(message.contains("other.proto") && message.contains("(schema 1)"), "{message}");
}

/// Confluent's clients leave `google/type` and `confluent` out of the references.
#[test]
fn files_that_everybody_knows_are_no_references() {
    let mut decoder = with_registry(&[("day", "date"), ("amount", "decimal(9,2)")], None);
    decoder.learn(1, WriterSchema::Known(registered(KNOWN)));
    let payload = framed(1, &[0], new().inner(1, date(1970, 1, 2)).inner(6, unscaled(&[7], 1)));
    assert_eq!(fate(&mut decoder, &payload).unwrap(), "{day: 1, amount: 70}");
    // Also by where the last one was before.
    let text = r#"syntax = "proto3"; import "confluent/types/decimal.proto"; message M { confluent.type.Decimal amount = 1; }"#;
    decoder.learn(2, WriterSchema::Known(registered(text)));
    let payload = framed(2, &[0], new().inner(1, unscaled(&[7], 2)));
    assert_eq!(fate(&mut decoder, &payload).unwrap(), "{day: null, amount: 7}");
}

/// As Confluent's client for Python registers them: `message M { N n = 1; optional int32 a = 2; }`, importing
/// `message N { int32 n = 1; }`.
#[test]
fn schemas_may_be_descriptors_in_base64() {
    const OTHER: &str = "CgtvdGhlci5wcm90byIRCgFOEgwKAW4YASABKAVSAW5iBnByb3RvMw==";
    const MAIN: &str = "CgtvcmRlci5wcm90bxIEc2hvcBoLb3RoZXIucHJvdG8iLgoBTRIQCgFuGAEgASgLMgIuTlIBbhIRCgFhGAIgASgFSABSAWGIAQFCBAoCX2FiBnByb3RvMw==";
    let as_text = r#"syntax = "proto3"; message N { int32 n = 1; }"#;
    for other in [OTHER, as_text] {
        let reference = SchemaReference { name: "other.proto".to_owned(), text: other.to_owned() };
        let schema = RegisteredSchema { references: vec![reference], ..registered(MAIN) };
        let mut decoder = with_registry(&[("n", "struct<n: int32>"), ("a", "int32")], Some("shop.M"));
        decoder.learn(1, WriterSchema::Known(schema));
        let payload = framed(1, &[0], new().inner(1, new().varint(1, 7)));
        assert_eq!(fate(&mut decoder, &payload).unwrap(), "{n: {n: 7}, a: null}");
    }
}

#[test]
fn a_descriptor_in_base64_of_another_syntax_is_refused() {
    // File `m.proto` with a message `M`, of syntax `editions`.
    const TEXT: &str = "CgdtLnByb3RvIgMKAU1iCGVkaXRpb25z";
    let mut decoder = with_registry(&[("a", "int32")], None);
    decoder.learn(1, WriterSchema::Known(registered(TEXT)));
    let (reason, message) = fate(&mut decoder, &framed(1, &[0], new().varint(1, 1))).unwrap_err();
    assert_eq!(reason, RejectReason::IncompatibleSchema);
    assert!(message.contains("neither proto2 nor proto3"), "{message}");
}

#[test]
fn what_is_no_schema_is_not_repeated_at_length() {
    let mut decoder = with_registry(&[("a", "int32")], None);
    decoder.learn(1, WriterSchema::Known(registered(&"x".repeat(100_000))));
    let (reason, message) = fate(&mut decoder, &framed(1, &[0], new().varint(1, 1))).unwrap_err();
    assert_eq!(reason, RejectReason::IncompatibleSchema);
    assert!(message.len() < 400, "{message}");
}

#[test]
fn compressed_records_name_their_schema_inside() {
    let payload = framed(7, &[0], new().varint(1, 5));
    let compressed = zstd::encode_all(&payload[..], 3).unwrap();
    let chunk = chunk([Some(&compressed[..])]);
    let decoder = with_registry(&[("a", "int32")], None);
    let mut decoder =
        Inflating::wrap(Box::new(decoder), Compression::Zstd, InflateLimits::default()).unwrap();
    assert_eq!(decoder.missing_schemas(&chunk), [7]);
    decoder.learn(7, WriterSchema::Known(registered(r#"syntax = "proto3"; message M { int32 a = 1; }"#)));
    assert_eq!(render_row(&decoder.decode(&chunk).unwrap().batch, 0), "{a: 5}");
}

// ---------------------------------------------------------------------------------------------------------------

const FLIGHT: &str = r#"syntax = "proto3"; import "google/protobuf/timestamp.proto"; message M { int32 year = 1;
    int32 month = 2; int32 day = 3; optional int32 dep_time = 4; int32 sched_dep_time = 5; optional sint32 dep_delay = 6;
    optional int32 arr_time = 7; int32 sched_arr_time = 8; optional sint32 arr_delay = 9; string carrier = 10;
    int32 flight = 11; string tailnum = 12; string origin = 13; string dest = 14; optional int32 air_time = 15;
    int32 distance = 16; int32 hour = 17; int32 minute = 18; google.protobuf.Timestamp time_hour = 19; }"#;

/// Flights made up after the real ones of New York in 2013: 19 fields, about 75 bytes.
fn flights(records: usize) -> Vec<Vec<u8>> {
    let mut random = Random::new(2013);
    let flight = |random: &mut Random| {
        let (delay, air_time) = (random.below(240) as u64, 40 + random.below(600) as u64);
        let names = [["UA", "AA", "B6"], ["JFK", "EWR", "LGA"], ["IAH", "MIA", "ATL"]];
        let [carrier, origin, dest] = names.map(|names| random.pick(&names).to_owned());
        new()
            .varint(1, 2013)
            .varint(2, 1 + random.below(12) as u64)
            .varint(3, 1 + random.below(28) as u64)
            .varint(4, random.below(2400) as u64)
            .varint(5, random.below(2400) as u64)
            .varint(6, delay)
            .varint(7, random.below(2400) as u64)
            .varint(8, random.below(2400) as u64)
            .varint(9, delay)
            .bytes(10, carrier)
            .varint(11, random.below(6000) as u64)
            .bytes(12, format!("N{}UA", 10000 + random.below(90000)))
            .bytes(13, origin)
            .bytes(14, dest)
            .varint(15, air_time)
            .varint(16, air_time * 7)
            .varint(17, random.below(24) as u64)
            .varint(18, random.below(60) as u64)
            .inner(19, new().varint(1, 1_357_034_400 + random.below(31_536_000) as u64))
            .0
    };
    (0..records).map(|_| flight(&mut random)).collect()
}

/// `cargo test --release -p isobar-schemas --lib -- --ignored --nocapture protobuf::tests::decode_speed`
#[test]
#[ignore = "a measurement, not a check"]
fn decode_speed() {
    let message = compile(FLIGHT).message("M").unwrap();
    let schema = to_arrow_schema(&fields_of_protobuf(&message).unwrap()).unwrap();
    let payloads = flights(8_192);
    let chunk = chunk(payloads.iter().map(|payload| Some(&payload[..])));
    let (rounds, bytes) = (48, chunk.payload_bytes().len() as f64);
    let report = |what: &str, time: Duration| {
        let records = chunk.len() as f64 * f64::from(rounds) / time.as_secs_f64();
        println!(
            "{what}: {:.2} M records/s, {:.0} MB/s",
            records / 1e6,
            records * bytes / chunk.len() as f64 / 1e6
        );
    };
    let mut decoder =
        ProtobufDecoder::new(schema, &message, UnknownFields::Quarantine, DecodeLimits::default()).unwrap();
    report(
        "this decoder",
        fastest(|| (0..rounds).for_each(|_| assert!(decoder.decode(&chunk).unwrap().rejects.is_empty()))),
    );
    let dynamic = fastest(|| {
        for _ in 0..rounds {
            for payload in &payloads {
                assert!(DynamicMessage::decode(message.clone(), &payload[..]).is_ok());
            }
        }
    });
    report("prost-reflect, into messages only", dynamic);
}
