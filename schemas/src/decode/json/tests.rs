//! The decoder against examples, against serde_json as a second opinion on every payload, and against arrow-json.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Schema};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use super::*;
use crate::decode::numbers::scaled_integer;
use crate::decode::testing::{Random, chunk, fastest, render_row, schema};
use crate::records::TopicPartition;

fn decoder(schema: &SchemaRef, unknown_fields: UnknownFields) -> JsonDecoder {
    JsonDecoder::new(schema.clone(), unknown_fields, DecodeLimits::default()).unwrap()
}

/// The row, rendered, that `payload` becomes between two good neighbours, or the reason and message why not.
fn fate(
    schema: &SchemaRef,
    unknown_fields: UnknownFields,
    payload: &str,
) -> Result<String, (RejectReason, String)> {
    let mut decoded = decoder(schema, unknown_fields).decode(&chunk([Some(payload.as_bytes())])).unwrap();
    assert_eq!(decoded.batch.num_rows() + decoded.rejects.len(), 1);
    match decoded.rejects.pop() {
        Some(reject) => Err((reject.reason, reject.message)),
        None => Ok(render_row(&decoded.batch, 0)),
    }
}

#[test]
fn good_values_become_what_they_say() {
    for (data_type, json, expected) in [
        ("boolean", "true", "true"),
        ("boolean", "false", "false"),
        ("int8", "-128", "-128"),
        ("int16", "32767", "32767"),
        ("int32", "-0", "0"),
        ("int32", "3.0", "3"),
        ("int32", "3e2", "300"),
        ("int32", "1200E-2", "12"),
        ("int64", "9223372036854775807", "9223372036854775807"),
        ("int64", "-9223372036854775808", "-9223372036854775808"),
        ("int64", "9223372036854775807.0", "9223372036854775807"),
        ("int64", "1000000000000000000", "1000000000000000000"),
        ("float64", "0.1", "0.1"),
        ("float64", "-0", "-0.0"),
        ("float64", "0.30000000000000004", "0.30000000000000004"),
        ("float64", "2.2250738585072011e-308", "2.225073858507201e-308"),
        ("float64", "123456789012345678", "1.2345678901234568e17"),
        ("float64", "1e-999", "0.0"),
        ("float32", "16777217", "16777216.0"),
        ("float32", "0.1", "0.1"),
        ("decimal(5,2)", "1.5", "150"),
        ("decimal(5,2)", "\"-999.99\"", "-99999"),
        ("decimal(38,0)", "99999999999999999999999999999999999999", "99999999999999999999999999999999999999"),
        ("string", "\"\"", "\"\""),
        ("string", r#""a\"\\\/\b\f\n\r\t\u00e9\ud83d\ude00z""#, r#""a\"\\/\u{8}\u{c}\n\r\té😀z""#),
        ("string", "\"żółć 😀\"", "\"żółć 😀\""),
        ("binary", "\"AP8=\"", "[0, 255]"),
        ("date", "\"1970-02-01\"", "31"),
        ("timestamp", "\"1970-01-01T00:00:01.5Z\"", "1500000"),
        ("timestamp", r#""1970-01-01T00:00:01\u005a""#, "1000000"),
        ("list<int32>", "[1, null, 3]", "[1, null, 3]"),
        ("list<list<string>>", "[[\"a\"],[],null]", "[[\"a\"], [], null]"),
        ("struct<a: int32, b: string>", "{\"b\":\"x\"}", "{a: null, b: \"x\"}"),
        ("map<string, int32>", "{\"z\":1,\"a\":null}", "{\"z\": 1, \"a\": null}"),
        ("int32", "null", "null"),
        ("struct<a: list<int32>>", "null", "null"),
    ] {
        let schema = schema(&[("v", data_type)]);
        let payload = format!(" {{ \"v\" : {json} }}\r\n");
        let row = fate(&schema, UnknownFields::Quarantine, &payload);
        assert_eq!(row, Ok(format!("{{v: {expected}}}")), "{data_type} {json}");
    }
}

#[test]
fn bad_values_are_rejected_with_the_field_and_the_reason() {
    use RejectReason::*;
    for (data_type, json, reason, part) in [
        ("int32", "\"12\"", WrongType, "field `v`: expected int32, found a string"),
        ("int32", "1.5", WrongType, "found 1.5, which is not a whole number"),
        ("int32", "true", WrongType, "found a boolean"),
        ("int32", "{}", WrongType, "found an object"),
        ("int32", "2147483648", OutOfRange, "2147483648 is out of the range of int32"),
        ("int8", "-129", OutOfRange, "int8"),
        ("int64", "9223372036854775808", OutOfRange, "int64"),
        ("int64", "1e19", OutOfRange, "int64"),
        ("float64", "\"1.5\"", WrongType, "expected float64, found a string"),
        ("float64", "1e309", OutOfRange, "float64"),
        ("float32", "3.5e38", OutOfRange, "float32"),
        ("float64", "NaN", Undecodable, "expected a value, found 'N'"),
        ("float64", "-Infinity", Undecodable, "expected a digit"),
        ("float64", "[1]", WrongType, "found an array"),
        ("string", "7", WrongType, "expected string, found a number"),
        ("boolean", "0", WrongType, "expected boolean, found a number"),
        ("boolean", "\"true\"", WrongType, "found a string"),
        ("decimal(5,2)", "1.005", InvalidValue, "more than the 2 decimals"),
        ("decimal(5,2)", "1000", OutOfRange, "decimal(5,2)"),
        ("decimal(5,2)", "\"x\"", InvalidValue, "not a decimal number"),
        ("decimal(5,2)", "\"1 \"", InvalidValue, "not a decimal number"),
        ("binary", "\"AP8\"", InvalidValue, "Base64"),
        ("date", "\"2013-02-29\"", InvalidValue, "not a date"),
        ("date", "15000", WrongType, "expected date, found a number"),
        ("timestamp", "\"2013-01-01\"", InvalidValue, "not a timestamp"),
        ("timestamp", "1357034400", WrongType, "expected timestamp, found a number"),
        ("list<int32>", "[1,\"2\"]", WrongType, "field `v[]`: expected int32"),
        ("list<int32>", "{}", WrongType, "expected list<int32>, found an object"),
        ("struct<a: struct<b: int32>>", "{\"a\":{\"b\":\"\"}}", WrongType, "field `v.a.b`: expected int32"),
        ("struct<a: int32>", "{\"b\":1}", UnknownField, "field `v.b`: the schema has no such field"),
        ("list<struct<a: date>>", "[{\"a\":1}]", WrongType, "field `v[].a`: expected date"),
        ("struct<a: int32>", "{\"a\":1,\"a\":1}", DuplicateField, "field `v.a`: given twice"),
        ("map<string, int32>", "{\"k\":1,\"\\u006b\":2}", DuplicateField, "field `v`: a key is given twice"),
        ("map<string, int32>", "{\"k\":\"1\"}", WrongType, "field `v[]`"),
        ("string", "\"a\nb\"", Undecodable, "control characters"),
        ("string", "\"\\ud800\"", Undecodable, "half a surrogate pair"),
        ("string", "\"\\ud800\\u0041\"", Undecodable, "half a surrogate pair"),
        ("string", "\"\\udc00\"", Undecodable, "half a surrogate pair"),
        ("string", "\"\\x\"", Undecodable, "escapes of JSON"),
        ("string", "\"\\u00g0\"", Undecodable, "hexadecimal"),
        ("int32", "01", Undecodable, "starts with a zero"),
        ("int32", "-", Undecodable, "digit"),
        ("int32", "+1", Undecodable, "expected a value"),
        ("int32", "1.", Undecodable, "digit"),
        ("int32", ".5", Undecodable, "expected a value"),
        ("int32", "1e", Undecodable, "digit"),
        ("int32", "1 2", Undecodable, "`,` or `}`"),
        ("int32", "nul", Undecodable, "`null`"),
        ("boolean", "tru", Undecodable, "`true` or `false`"),
        ("list<int32>", "[1,]", Undecodable, "expected a value"),
        ("list<int32>", "[1 2]", Undecodable, "`,` or `]`"),
        ("list<int32>", "[,1]", Undecodable, "expected a value"),
    ] {
        let schema = schema(&[("v", data_type)]);
        let payload = format!("{{\"v\":{json}}}");
        let (found, message) = fate(&schema, UnknownFields::Quarantine, &payload).unwrap_err();
        assert_eq!(found, reason, "{data_type} {json}: {message}");
        assert!(message.contains(part), "{data_type} {json}: {message}");
    }
}

#[test]
fn a_payload_must_be_one_object_that_fits_the_schema() {
    use RejectReason::*;
    let schema = schema(&[("a!", "int32"), ("b", "string")]);
    for (payload, reason, part) in [
        ("", EmptyPayload, "no bytes"),
        (" ", Undecodable, "end of the payload"),
        ("{", Undecodable, "a name in quotes"),
        ("{\"a\":1", Undecodable, "`,` or `}`"),
        ("{\"a\":1,", Undecodable, "a name in quotes"),
        ("{\"a\":1,}", Undecodable, "a name in quotes"),
        ("{\"a\"}", Undecodable, "`:`"),
        ("{\"a\":}", Undecodable, "a value"),
        ("{\"a\"1}", Undecodable, "`:`"),
        ("{\"a\":1 \"b\":\"\"}", Undecodable, "`,` or `}`"),
        ("{,\"a\":1}", Undecodable, "a name in quotes"),
        ("{a:1}", Undecodable, "a name in quotes"),
        ("{\"a\":1}{\"a\":2}", Undecodable, "after one object"),
        ("{\"a\":1} {\"a\":2}", Undecodable, "after one object"),
        ("{\"a\":1}x", Undecodable, "after one object"),
        ("{\"a\":1}\0", Undecodable, "after one object"),
        ("\u{feff}{\"a\":1}", Undecodable, "byte 0: expected a value"),
        ("[{\"a\":1}]", Undecodable, "found an array"),
        ("7", Undecodable, "found a number"),
        ("\"a\"", Undecodable, "found a string"),
        ("null", Undecodable, "found null"),
        ("true", Undecodable, "found a boolean"),
        ("{}", MissingField, "field `a`: required, but missing"),
        ("{\"b\":\"x\"}", MissingField, "field `a`"),
        ("{\"a\":null}", NullField, "field `a`: required, but null"),
        ("{\"a\":1,\"c\":2}", UnknownField, "field `c`"),
        ("{\"A\":1}", UnknownField, "field `A`"),
        ("{\"a\":1,\"b\":\"\",\"a\":1}", DuplicateField, "field `a`: given twice"),
        ("{\"a\":1,\"\\u0061\":1}", DuplicateField, "field `a`"),
    ] {
        let (found, message) = fate(&schema, UnknownFields::Quarantine, payload).unwrap_err();
        assert_eq!(found, reason, "{payload}: {message}");
        assert!(message.contains(part), "{payload}: {message}");
    }
    for payload in
        ["{\"b\":\"x\",\"a\":1}", "{\"\\u0061\":1,\"b\":\"x\"}", "\t{\n\"a\" :\r1 ,\"b\": \"x\"\n}\t"]
    {
        assert_eq!(fate(&schema, UnknownFields::Quarantine, payload).unwrap(), "{a: 1, b: \"x\"}");
    }
}

#[test]
fn ignored_fields_are_checked_all_the_same() {
    let schema = schema(&[("a", "int32")]);
    let ignored = |value: &str| fate(&schema, UnknownFields::Ignore, &format!("{{\"x\":{value},\"a\":1}}"));
    for value in
        ["1", "-1.5e+3", "\"\\ud83d\\ude00\"", "[]", "{}", "[{\"a\":[null,true]},false]", "{\"k\" : [ ]}"]
    {
        assert_eq!(ignored(value).unwrap(), "{a: 1}", "{value}");
    }
    for value in ["01", "1.", "\"\\q\"", "\"\n\"", "[1,]", "{\"k\"}", "{\"k\":1,}", "nul", "[", "\"\\udead\""]
    {
        assert_eq!(ignored(value).unwrap_err().0, RejectReason::Undecodable, "{value}");
    }
}

#[test]
fn names_that_need_escapes_are_found() {
    let names = ["a\"b", "back\\slash", "new\nline", "ż", ""];
    let fields: Vec<_> = names.iter().map(|name| Field::new(*name, DataType::Int32, false)).collect();
    let schema: SchemaRef = Arc::new(Schema::new(fields));
    let payload = r#"{"a\"b":1,"back\\slash":2,"new\nline":3,"\u017c":4,"":5}"#;
    assert!(fate(&schema, UnknownFields::Quarantine, payload).is_ok());
    let glued = r#"{"a"b":1,"back\\slash":2,"new\nline":3,"ż":4,"":5}"#;
    assert_eq!(fate(&schema, UnknownFields::Quarantine, glued).unwrap_err().0, RejectReason::UnknownField);
}

#[test]
fn nulls_hide_what_is_required_inside() {
    let inner = Field::new("n", DataType::Int32, false);
    let outer = Field::new("s", DataType::Struct(vec![inner].into()), true);
    let schema: SchemaRef = Arc::new(Schema::new(vec![outer]));
    for payload in [r#"{"s":null}"#, "{}"] {
        assert_eq!(fate(&schema, UnknownFields::Quarantine, payload).unwrap(), "{s: null}");
    }
    let (reason, message) = fate(&schema, UnknownFields::Quarantine, r#"{"s":{}}"#).unwrap_err();
    assert_eq!(
        (reason, message.as_str()),
        (RejectReason::MissingField, "field `s.n`: required, but missing")
    );
}

#[test]
fn depth_and_size_are_bounded() {
    let list_of_depth = |depth: usize| format!("{{\"x\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
    let schema = schema(&[("a", "int32")]);
    assert!(fate(&schema, UnknownFields::Ignore, &list_of_depth(63)).is_ok());
    for depth in [64, 1_000_000] {
        let (reason, message) = fate(&schema, UnknownFields::Ignore, &list_of_depth(depth)).unwrap_err();
        assert_eq!(reason, RejectReason::Undecodable);
        assert!(message.contains("nested more than 64 deep"), "{message}");
    }
    let limits = DecodeLimits { payload_bytes_max: 7, ..DecodeLimits::default() };
    let mut decoder = JsonDecoder::new(schema, UnknownFields::Ignore, limits).unwrap();
    let decoded = decoder.decode(&chunk([Some(&b"{\"a\":1}"[..]), Some(&b"{\"a\":1} "[..])])).unwrap();
    assert_eq!(decoded.records, [0]);
    assert_eq!(decoded.rejects[0].reason, RejectReason::Oversize);
}

#[test]
fn bytes_that_are_not_text_are_rejected_where_they_are() {
    let schema = schema(&[("a", "string")]);
    // The first two payloads are good text only together, in the buffer where they lie end to end.
    let payloads: [&[u8]; 5] =
        [b"{\"a\":\"\xc5", b"\xbc\"}", b"{\"a\":\"\xff\"}", b"{\"a\":\"ok\"}", b"\x00\x01"];
    let decoded = decoder(&schema, UnknownFields::Quarantine).decode(&chunk(payloads.map(Some))).unwrap();
    assert_eq!(decoded.records, [3]);
    assert!(decoded.rejects.iter().all(|reject| reject.reason == RejectReason::Undecodable));
    assert_eq!(decoded.rejects[2].message, "byte 6: not UTF-8");
}

#[test]
fn messages_stay_short() {
    let schema = schema(&[("a", "int32")]);
    for payload in [
        format!("{{\"{}\":1}}", "é".repeat(1 << 20)),
        format!("{{\"a\":1{}}}", "0".repeat(1 << 20)),
        format!("{{\"a\":0.{}}}", "5".repeat(1 << 20)),
    ] {
        let (_, message) = fate(&schema, UnknownFields::Quarantine, &payload).unwrap_err();
        assert!(message.len() < 300, "{message}");
    }
}

#[test]
fn an_empty_chunk_and_one_of_garbage_give_empty_batches() {
    let schema = schema(&[("a", "list<struct<b: string>>"), ("c", "boolean")]);
    let mut decoder = decoder(&schema, UnknownFields::Quarantine);
    assert_eq!(decoder.decode(&chunk([])).unwrap().batch.num_rows(), 0);
    let garbage = br#"{"a":[{"b":"x"},{"b":"y"}],"c":tru}"#;
    let decoded = decoder.decode(&chunk((0..10_000).map(|_| Some(&garbage[..])))).unwrap();
    assert_eq!(decoded.batch.num_rows(), 0);
    assert_eq!(decoded.rejects.len(), 10_000);
    let decoded = decoder.decode(&chunk([None, Some(&b"{\"c\":true}"[..])])).unwrap();
    assert_eq!(decoded.rejects[0].reason, RejectReason::Tombstone);
    assert_eq!(decoded.records, [1]);
}

#[test]
fn schemas_without_a_json_form_are_refused() {
    let intervals = DataType::Duration(arrow::datatypes::TimeUnit::Second);
    let inner: SchemaRef = Arc::new(Schema::new(vec![Field::new("d", intervals, true)]));
    let error = JsonDecoder::new(inner, UnknownFields::Ignore, DecodeLimits::default()).unwrap_err();
    assert!(matches!(error, Error::UnsupportedType { field, .. } if field == "d"));
}

#[test]
fn reasons_have_names_of_their_own() {
    let names: HashSet<_> = RejectReason::ALL.iter().map(|reason| reason.as_str()).collect();
    assert_eq!(names.len(), RejectReason::ALL.len());
}

// ---------------------------------------------------------------------------------------------------------------
// A second opinion: what serde_json makes of a payload, judged against the schema value by value.

/// JSON as serde_json sees it, with the names of an object as they came.
#[derive(Debug)]
enum Tree {
    Null,
    Boolean(bool),
    Integer(i128),
    Float(f64),
    String(String),
    Array(Vec<Tree>),
    Object(Vec<(String, Tree)>),
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TreeVisitor;

        impl<'de> Visitor<'de> for TreeVisitor {
            type Value = Tree;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("JSON")
            }

            fn visit_unit<E>(self) -> Result<Tree, E> {
                Ok(Tree::Null)
            }

            fn visit_bool<E>(self, value: bool) -> Result<Tree, E> {
                Ok(Tree::Boolean(value))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Tree, E> {
                Ok(Tree::Integer(value.into()))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Tree, E> {
                Ok(Tree::Integer(value.into()))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Tree, E> {
                Ok(Tree::Float(value))
            }

            fn visit_str<E>(self, value: &str) -> Result<Tree, E> {
                Ok(Tree::String(value.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Tree, A::Error> {
                let mut array = Vec::new();
                while let Some(item) = items.next_element()? {
                    array.push(item);
                }
                Ok(Tree::Array(array))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Tree, A::Error> {
                let mut object: Vec<(String, Tree)> = Vec::new();
                while let Some((name, value)) = entries.next_entry::<String, Tree>()? {
                    if object.iter().any(|(other, _)| *other == name) {
                        return Err(A::Error::custom("duplicate name"));
                    }
                    object.push((name, value));
                }
                Ok(Tree::Object(object))
            }
        }

        deserializer.deserialize_any(TreeVisitor)
    }
}

/// The row that `payload` becomes, rendered, according to serde_json; `None` if it must be rejected.
fn second_opinion(schema: &SchemaRef, payload: Option<&[u8]>) -> Option<String> {
    let tree = serde_json::from_slice::<Tree>(payload?).ok()?;
    judge(&DataType::Struct(schema.fields().clone()), false, &tree)
}

fn judge(data_type: &DataType, nullable: bool, tree: &Tree) -> Option<String> {
    let integer = |min: i128, max: i128| match tree {
        Tree::Integer(value) => (min..=max).contains(value).then(|| value.to_string()),
        Tree::Float(value) if value.fract() == 0.0 => {
            let value = *value as i128;
            (min..=max).contains(&value).then(|| value.to_string())
        }
        _ => None,
    };
    let float = match tree {
        Tree::Integer(value) => Some(*value as f64),
        Tree::Float(value) => Some(*value),
        _ => None,
    };
    match (data_type, tree) {
        (_, Tree::Null) => nullable.then(|| "null".to_owned()),
        (DataType::Boolean, Tree::Boolean(value)) => Some(value.to_string()),
        (DataType::Int8, _) => integer(i8::MIN.into(), i8::MAX.into()),
        (DataType::Int16, _) => integer(i16::MIN.into(), i16::MAX.into()),
        (DataType::Int32, _) => integer(i32::MIN.into(), i32::MAX.into()),
        (DataType::Int64, _) => integer(i64::MIN.into(), i64::MAX.into()),
        (DataType::Float64, _) => float.map(|value| format!("{value:?}")),
        (DataType::Float32, _) => float
            .map(|value| value as f32)
            .filter(|value| value.is_finite())
            .map(|value| format!("{value:?}")),
        (DataType::Decimal128(precision, scale), _) => {
            let text = match tree {
                Tree::Integer(value) => value.to_string(),
                Tree::Float(value) => value.to_string(),
                Tree::String(text) => serde_json::from_str::<f64>(text).is_ok().then(|| text.clone())?,
                _ => return None,
            };
            let value = scaled_integer(text.trim(), i64::from(*scale)).ok()?;
            (text == text.trim() && value.abs() < 10_i128.pow(u32::from(*precision)))
                .then(|| value.to_string())
        }
        (DataType::Utf8, Tree::String(value)) => Some(format!("{value:?}")),
        (DataType::List(element), Tree::Array(items)) => {
            let items = items
                .iter()
                .map(|item| judge(element.data_type(), element.is_nullable(), item))
                .collect::<Option<Vec<_>>>()?;
            Some(format!("[{}]", items.join(", ")))
        }
        (DataType::Struct(fields), Tree::Object(entries)) => {
            if entries.iter().any(|(name, _)| fields.find(name).is_none()) {
                return None;
            }
            let member = |field: &Arc<Field>| {
                let value = entries
                    .iter()
                    .find(|(name, _)| name == field.name())
                    .map_or(&Tree::Null, |(_, value)| value);
                judge(field.data_type(), field.is_nullable(), value)
                    .map(|value| format!("{}: {value}", field.name()))
            };
            Some(format!("{{{}}}", fields.iter().map(member).collect::<Option<Vec<_>>>()?.join(", ")))
        }
        (DataType::Map(field, _), Tree::Object(entries)) => {
            let DataType::Struct(fields) = field.data_type() else { unreachable!() };
            let entry = |(name, value): &(String, Tree)| {
                judge(fields[1].data_type(), fields[1].is_nullable(), value)
                    .map(|value| format!("{name:?}: {value}"))
            };
            Some(format!("{{{}}}", entries.iter().map(entry).collect::<Option<Vec<_>>>()?.join(", ")))
        }
        _ => None,
    }
}

/// JSON for a value of `data_type`: mostly right, sometimes subtly not.
fn write_value(random: &mut Random, data_type: &DataType, out: &mut String) {
    if random.one_in(80) {
        out.push_str(
            random
                .pick(&["null", "1.5", "\"12\"", "true", "[]", "{}", "3.0", "1e3", "-0", "70000", "5e9", ""]),
        );
        return;
    }
    match data_type {
        DataType::Boolean => out.push_str(random.pick(&["true", "false"])),
        DataType::Float32 | DataType::Float64 | DataType::Decimal128(..) => {
            let (whole, fraction) = (random.below(2000) as i64 - 1000, random.below(1000));
            out.push_str(&format!("{whole}.{fraction}"));
        }
        DataType::Int8 => out.push_str(&(random.below(258) as i64 - 129).to_string()),
        DataType::Int16 => out.push_str(&(random.below(65_600) as i64 - 32_800).to_string()),
        DataType::Int32 | DataType::Int64 => {
            let digits = random.below(10) as u32;
            out.push_str(&(random.below(10_usize.pow(digits)) as i64 - 100).to_string());
        }
        DataType::Utf8 => write_string(random, out),
        DataType::List(element) => {
            let items = random.below(4);
            out.push('[');
            write_joined(random, items, out, |random, _, out| write_value(random, element.data_type(), out));
            out.push(']');
        }
        DataType::Struct(fields) => write_object(random, fields, out),
        DataType::Map(..) => {
            let entries = random.below(3);
            out.push('{');
            write_joined(random, entries, out, |random, _, out| {
                write_string(random, out);
                out.push_str(": ");
                write_value(random, &DataType::Int32, out);
            });
            out.push('}');
        }
        other => unreachable!("{other}"),
    }
}

fn write_string(random: &mut Random, out: &mut String) {
    out.push('"');
    for _ in 0..random.below(14) {
        out.push_str(random.pick(&[
            "a",
            "B",
            "7",
            " ",
            "é",
            "😀",
            "\\n",
            "\\u00e9",
            "\\ud83d\\ude00",
            "\\\"",
            "{",
            ",",
            "]",
        ]));
    }
    if random.one_in(200) {
        out.push_str(random.pick(&["\\", "\\u12", "\\ud800", "\n", "\\q", "\u{1}"]));
    }
    out.push('"');
}

fn write_joined(
    random: &mut Random,
    count: usize,
    out: &mut String,
    mut write: impl FnMut(&mut Random, usize, &mut String),
) {
    for index in 0..count {
        if index > 0 {
            out.push_str(random.pick(&[",", ",", ", ", " ,\n"]));
        }
        write(random, index, out);
    }
}

fn write_object(random: &mut Random, fields: &arrow::datatypes::Fields, out: &mut String) {
    let mut names: Vec<usize> = (0..fields.len()).filter(|_| !random.one_in(20)).collect();
    if random.one_in(4) {
        names.reverse();
    }
    if random.one_in(40) && !names.is_empty() {
        names.push(names[0]);
    }
    out.push('{');
    write_joined(random, names.len(), out, |random, index, out| {
        let field = &fields[names[index]];
        let name = if random.one_in(150) { "other" } else { field.name().as_str() };
        out.push_str(&format!("\"{name}\":"));
        write_value(random, field.data_type(), out);
    });
    out.push('}');
}

/// Payloads for `schema`: objects, some of them cut, glued, or with a byte changed, and tombstones.
fn payloads(random: &mut Random, schema: &SchemaRef, count: usize) -> Vec<Option<Vec<u8>>> {
    let mut payload = || {
        if random.one_in(50) {
            return None;
        }
        let mut text = String::new();
        write_object(random, schema.fields(), &mut text);
        let mut bytes = text.into_bytes();
        match random.below(20) {
            0 => bytes.truncate(random.below(bytes.len() + 1)),
            1 => bytes.extend_from_within(..random.below(bytes.len() + 1)),
            // No exponents here: serde_json would round the numbers it is asked about.
            2 => {
                let at = random.below(bytes.len());
                bytes[at] = *random
                    .pick(&[&b'"', &b'{', &b'}', &b',', &b':', &b'0', &b'\\', &0xff, &b' ', &b'+', &b'-']);
            }
            3 => {
                bytes.remove(random.below(bytes.len()));
            }
            _ => {}
        }
        Some(bytes)
    };
    (0..count).map(|_| payload()).collect()
}

fn every_kind() -> SchemaRef {
    schema(&[
        ("i32", "int32"),
        ("i8!", "int8"),
        ("text", "string"),
        ("f64", "float64"),
        ("list", "list<int16>"),
        ("s", "struct<a: int64, b: struct<c: string, d: list<boolean>>>"),
        ("f32", "float32"),
        ("m", "map<string, int32>"),
        ("dec", "decimal(9,3)"),
        ("ls", "list<struct<x: int32, y: string>>"),
        ("flag", "boolean"),
    ])
}

#[test]
fn serde_json_agrees_on_every_record_among_good_and_bad_neighbours() {
    let schema = every_kind();
    let mut decoder = decoder(&schema, UnknownFields::Quarantine);
    let (mut accepted, mut rejected) = (0, 0);
    for seed in 0..400 {
        let mut random = Random::new(seed);
        let payloads = payloads(&mut random, &schema, 50);
        let decoded = decoder.decode(&chunk(payloads.iter().map(Option::as_deref))).unwrap();
        assert_eq!(decoded.batch.num_rows(), decoded.records.len());
        let mut rows = decoded.records.iter().enumerate().map(|(row, record)| (*record, row)).peekable();
        let mut rejects = decoded.rejects.iter().peekable();
        for (record, payload) in payloads.iter().enumerate() {
            let text = payload.as_deref().map(String::from_utf8_lossy);
            let expected = second_opinion(&schema, payload.as_deref());
            if let Some((_, row)) = rows.next_if(|(row_record, _)| *row_record as usize == record) {
                assert_eq!(Some(render_row(&decoded.batch, row)), expected, "seed {seed}: {text:?}");
                accepted += 1;
            } else {
                let reject = rejects.next_if(|reject| reject.record as usize == record).unwrap();
                assert_eq!(None, expected, "seed {seed}: {text:?}: {}", reject.message);
                rejected += 1;
            }
        }
        assert!(rows.next().is_none() && rejects.next().is_none());
    }
    assert!(accepted > 4_000 && rejected > 4_000, "{accepted} accepted, {rejected} rejected");
}

#[test]
fn serde_json_agrees_on_what_is_ignored() {
    let (written, read) = (every_kind(), schema(&[("unrelated", "int32")]));
    let mut decoder = decoder(&read, UnknownFields::Ignore);
    let mut accepted = 0;
    for seed in 1000..1200 {
        let payloads = payloads(&mut Random::new(seed), &written, 50);
        let decoded = decoder.decode(&chunk(payloads.iter().map(Option::as_deref))).unwrap();
        for (record, payload) in (0..).zip(&payloads) {
            let opinion = payload.as_deref().map(serde_json::from_slice::<serde_json::Value>);
            let is_object = matches!(opinion, Some(Ok(serde_json::Value::Object(_))));
            let text = payload.as_deref().map(String::from_utf8_lossy);
            assert_eq!(decoded.records.binary_search(&record).is_ok(), is_object, "seed {seed}: {text:?}");
            accepted += usize::from(is_object);
        }
    }
    assert!((3_000..9_500).contains(&accepted), "{accepted} accepted");
}

#[test]
fn the_result_does_not_depend_on_how_records_are_cut_into_chunks() {
    let schema = every_kind();
    for seed in 0..40 {
        let mut random = Random::new(seed);
        let payloads = payloads(&mut random, &schema, 200);
        let whole = decoder(&schema, UnknownFields::Ignore)
            .decode(&chunk(payloads.iter().map(Option::as_deref)))
            .unwrap();
        let mut decoder = decoder(&schema, UnknownFields::Ignore);
        let (mut batches, mut messages, mut start) = (Vec::new(), Vec::new(), 0);
        while start < payloads.len() {
            let end = payloads.len().min(start + 1 + random.below(30));
            let part = decoder.decode(&chunk(payloads[start..end].iter().map(Option::as_deref))).unwrap();
            batches.push(part.batch);
            messages.extend(
                part.rejects.into_iter().map(|reject| (start as u32 + reject.record, reject.message)),
            );
            start = end;
        }
        assert_eq!(concat_batches(&schema, &batches).unwrap(), whole.batch);
        let expected: Vec<_> =
            whole.rejects.into_iter().map(|reject| (reject.record, reject.message)).collect();
        assert_eq!(messages, expected);
    }
}

// ---------------------------------------------------------------------------------------------------------------
// arrow-json: equal on good input, and the yardstick for speed.

/// The fields of the flights of New York in 2013.
fn flights_schema() -> SchemaRef {
    let int32 = |name| (name, "int32");
    let mut fields =
        ["year", "month", "day", "dep_time", "sched_dep_time", "dep_delay", "arr_time"].map(int32).to_vec();
    fields.extend(["sched_arr_time", "arr_delay"].map(int32));
    fields.extend([("carrier", "string"), ("flight", "int32"), ("tailnum", "string"), ("origin", "string")]);
    fields.extend([("dest", "string"), ("air_time", "int32"), ("distance", "int32"), ("hour", "int32")]);
    fields.extend([("minute", "int32"), ("time_hour", "timestamp")]);
    schema(&fields)
}

/// Flights made up after the real ones: 19 fields, about 310 bytes.
fn flights(records: usize) -> RecordChunk {
    let mut random = Random::new(2013);
    let mut chunk = RecordChunk::new(TopicPartition::new("flights", 0));
    for offset in 0..records {
        let (month, day, hour, minute) =
            (1 + random.below(12), 1 + random.below(28), 5 + random.below(18), random.below(60));
        let (delay, air_time) = (random.below(120) as i64 - 20, 40 + random.below(600));
        let departed = if random.one_in(40) { "null".to_owned() } else { (hour * 100 + minute).to_string() };
        let payload = format!(
            r#"{{"year":2013,"month":{month},"day":{day},"dep_time":{departed},"sched_dep_time":{},"dep_delay":{delay},"arr_time":{},"sched_arr_time":{},"arr_delay":{},"carrier":"{}","flight":{},"tailnum":"N{}UA","origin":"{}","dest":"{}","air_time":{air_time},"distance":{},"hour":{hour},"minute":{minute},"time_hour":"2013-{month:02}-{day:02}T{hour:02}:00:00Z"}}"#,
            hour * 100,
            500 + random.below(1800),
            500 + random.below(1800),
            delay - 7,
            random.pick(&["UA", "AA", "B6", "DL", "EV"]),
            random.below(6000),
            10000 + random.below(90000),
            random.pick(&["JFK", "EWR", "LGA"]),
            random.pick(&["IAH", "MIA", "ATL", "ORD", "LAX"]),
            air_time * 7,
        );
        chunk.push(offset as i64, None, None, Some(payload.as_bytes()));
    }
    chunk
}

/// The bare use of arrow-json: payload by payload, one flush per chunk.
fn arrow_json_decode(decoder: &mut arrow_json::reader::Decoder, chunk: &RecordChunk) -> RecordBatch {
    for record in 0..chunk.len() {
        let payload = chunk.payload(record).unwrap();
        assert_eq!(decoder.decode(payload).unwrap(), payload.len());
    }
    decoder.flush().unwrap().unwrap()
}

fn arrow_json_decoder(schema: &SchemaRef, records: usize) -> arrow_json::reader::Decoder {
    // Without a time zone database, arrow-json knows UTC only by its offset.
    let fields = schema.fields().iter().map(|field| match field.data_type() {
        DataType::Timestamp(unit, _) => {
            Field::new(field.name(), DataType::Timestamp(*unit, Some("+00:00".into())), true).into()
        }
        _ => Arc::clone(field),
    });
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    arrow_json::ReaderBuilder::new(schema).with_batch_size(records).build_decoder().unwrap()
}

#[test]
fn arrow_json_agrees_on_good_records() {
    let schema = flights_schema();
    let chunk = flights(2_000);
    let decoded = decoder(&schema, UnknownFields::Quarantine).decode(&chunk).unwrap();
    assert_eq!(decoded.rejects, []);
    let expected = arrow_json_decode(&mut arrow_json_decoder(&schema, chunk.len()), &chunk);
    for (found, expected) in decoded.batch.columns().iter().zip(expected.columns()) {
        assert_eq!(found.to_data().buffers(), expected.to_data().buffers());
        assert_eq!(found.nulls(), expected.nulls());
    }
}

/// `cargo test --release -p isobar-schemas --lib -- --ignored --nocapture decode_speed`
#[test]
#[ignore = "a measurement, not a check"]
fn decode_speed() {
    let schema = flights_schema();
    let chunk = flights(8_192);
    let (rounds, bytes) = (24, chunk.payload_bytes().len() as f64);
    let megabytes_per_second = |time: Duration| bytes * f64::from(rounds) / time.as_secs_f64() / 1e6;

    let mut bare = arrow_json_decoder(&schema, chunk.len());
    let bare =
        fastest(|| (0..rounds).for_each(|_| assert!(arrow_json_decode(&mut bare, &chunk).num_rows() > 0)));
    let mut strict = decoder(&schema, UnknownFields::Quarantine);
    let strict =
        fastest(|| (0..rounds).for_each(|_| assert!(strict.decode(&chunk).unwrap().rejects.is_empty())));
    println!(
        "{} records of {:.0} bytes: arrow-json {:.0} MB/s, this decoder {:.0} MB/s, ratio {:.2}",
        chunk.len(),
        bytes / chunk.len() as f64,
        megabytes_per_second(bare),
        megabytes_per_second(strict),
        bare.as_secs_f64() / strict.as_secs_f64(),
    );

    let spoilt = |every: usize| {
        let payload = |record: usize| {
            let payload = chunk.payload(record).unwrap();
            Some(if record.is_multiple_of(every) { &payload[..payload.len() - 1] } else { payload })
        };
        self::chunk((0..chunk.len()).map(payload))
    };
    for every in [100, 1] {
        let spoilt = spoilt(every);
        let mut strict = decoder(&schema, UnknownFields::Quarantine);
        let time = fastest(|| {
            (0..rounds).for_each(|_| assert!(!strict.decode(&spoilt).unwrap().rejects.is_empty()))
        });
        println!("one in {every} cut short: {:.0} MB/s", megabytes_per_second(time));
    }
}

#[test]
fn a_header_is_required_and_left_out_where_there_is_one() {
    let mut decoder = decoder(&schema(&[("a", "int32")]), UnknownFields::default()).framed();
    let framed = [&[0, 0, 0, 0, 7][..], br#"{"a":1}"#].concat();
    let decoded =
        decoder.decode(&chunk([&framed[..], br#"{"a":2}"#, &framed[..3], &framed[..5]].map(Some))).unwrap();
    assert_eq!(decoded.records, [0]);
    assert_eq!(decoded.batch.num_rows(), 1);
    let reasons: Vec<_> = decoded.rejects.iter().map(|reject| (reject.record, reject.reason)).collect();
    use RejectReason::{Undecodable, UnknownSchema};
    assert_eq!(reasons, [(1, UnknownSchema), (2, UnknownSchema), (3, Undecodable)]);
}

// ---------------------------------------------------------------------------------------------------------------
// Several objects in a payload.

/// What becomes of payloads: the rows of each, or the message of its reject.
fn fates_of_rows(
    rows: PayloadRows,
    schema: &SchemaRef,
    payloads: &[&[u8]],
) -> Vec<Result<Vec<String>, String>> {
    let mut decoder = decoder(schema, UnknownFields::Quarantine).rows_in_payload(rows);
    let decoded = decoder.decode(&chunk(payloads.iter().copied().map(Some))).unwrap();
    assert_eq!(decoded.batch.num_rows(), decoded.records.len());
    assert!(decoded.records.is_sorted() && decoded.left_out.is_sorted());
    let fate = |record: u32| {
        let rows = decoded.records.iter().enumerate().filter(|(_, of)| **of == record);
        let rows: Vec<String> = rows.map(|(row, _)| render_row(&decoded.batch, row)).collect();
        let mut rejects = decoded.rejects.iter().filter(|reject| reject.record == record);
        let is_left_out = decoded.left_out.contains(&record);
        match (rejects.next(), rejects.next()) {
            (None, _) => {
                assert_eq!(rows.is_empty(), is_left_out);
                Ok(rows)
            }
            (Some(reject), None) if rows.is_empty() && !is_left_out => Err(reject.message.clone()),
            _ => panic!("record {record} has more than one fate: {decoded:?}"),
        }
    };
    (0..payloads.len() as u32).map(fate).collect()
}

#[test]
fn each_line_or_element_is_a_row_and_one_that_is_wrong_rejects_all() {
    let schema = schema(&[("a", "int32")]);
    let rows = |values: &[i32]| Ok(values.iter().map(|value| format!("{{a: {value}}}")).collect::<Vec<_>>());
    let wrong = |message: &str| Err(message.to_owned());
    for (payload, expected) in [
        ("{\"a\":1}\n{\"a\":2}\r\n\n  {\"a\":3} \n", rows(&[1, 2, 3])),
        ("{\"a\":1}", rows(&[1])),
        (" \r\n\n", rows(&[])),
        ("{\"a\":1}\n{\"a\":\"x\"}\n{\"a\":3}", wrong("field `a`: expected int32, found a string (line 2)")),
        ("{\"a\":1}\n\n[{\"a\":2}]", wrong("expected one JSON object, found an array (line 3)")),
        (
            "{\"a\":1} {\"a\":2}",
            wrong("byte 8: expected the end of the payload after one object, found '{' (line 1)"),
        ),
    ] {
        assert_eq!(
            fates_of_rows(PayloadRows::Lines, &schema, &[payload.as_bytes()]),
            [expected],
            "{payload:?}"
        );
    }
    for (payload, expected) in [
        (" [ {\"a\":1} ,\n{\"a\":2}, {\"a\":3} ] ", rows(&[1, 2, 3])),
        ("[{\"a\":1}]", rows(&[1])),
        ("[ ]", rows(&[])),
        ("{\"a\":1}", wrong("expected an array of JSON objects, found an object")),
        (
            "[{\"a\":1},{\"a\":2147483648}]",
            wrong("field `a`: 2147483648 is out of the range of int32 (object 2 of the array)"),
        ),
        ("[{\"a\":1},2]", wrong("expected one JSON object, found a number (object 2 of the array)")),
    ] {
        assert_eq!(
            fates_of_rows(PayloadRows::Array, &schema, &[payload.as_bytes()]),
            [expected],
            "{payload:?}"
        );
    }
    for payload in
        ["[{\"a\":1},]", "[{\"a\":1}", "[{\"a\":1}{\"a\":2}]", "[{\"a\":1}] x", "[", "[[{\"a\":1}]]"]
    {
        let fates = fates_of_rows(PayloadRows::Array, &schema, &[b"[{\"a\":7}]", payload.as_bytes(), b"[]"]);
        assert_eq!(fates[0], rows(&[7]), "a neighbour of {payload:?}");
        assert!(fates[1].is_err(), "{payload:?}");
        assert_eq!(fates[2], rows(&[]), "a neighbour of {payload:?}");
    }
}

#[test]
fn objects_of_nothing_are_bounded_by_the_length_of_their_payload() {
    let schema = schema(&[("a", "int32")]);
    let array = |objects: usize, object: &str| format!("[{}]", vec![object; objects].join(","));
    for (payload, is_good) in [
        (array(16, "{}"), true),
        (array(30, "{}"), false),
        (array(100_000, "{}"), false),
        // The shortest object that has a field is never too short.
        (array(100_000, "{\"a\":1}"), true),
    ] {
        let fates = fates_of_rows(PayloadRows::Array, &schema, &[payload.as_bytes()]);
        assert_eq!(fates[0].is_ok(), is_good, "{} bytes", payload.len());
        let lines = payload[1..payload.len() - 1].replace("},{", "}\n{");
        let fates = fates_of_rows(PayloadRows::Lines, &schema, &[lines.as_bytes()]);
        assert_eq!(fates[0].is_ok(), is_good, "{} bytes", lines.len());
    }
}

#[test]
fn several_objects_become_what_each_becomes_by_itself() {
    let schema = every_kind();
    let (mut whole, mut rejected) = (0, 0);
    for seed in 2000..2400 {
        let mut random = Random::new(seed);
        // Others would change where their neighbours begin.
        let is_apart = |payload: &Vec<u8>| {
            let text = std::str::from_utf8(payload);
            text.is_ok_and(|text| {
                serde_json::from_str::<serde_json::Value>(text).is_ok_and(|it| it.is_object())
            })
        };
        let mut objects: Vec<Vec<u8>> =
            payloads(&mut random, &schema, 60).into_iter().flatten().filter(is_apart).collect();
        // In JSON they are nothing but space.
        objects.iter_mut().flatten().filter(|byte| **byte == b'\n').for_each(|byte| *byte = b' ');
        let mut groups = Vec::new();
        let mut rest = &objects[..];
        while !rest.is_empty() {
            let (group, after) = rest.split_at(rest.len().min(1 + random.below(4)));
            groups.push(group);
            rest = after;
        }
        let expected: Vec<Option<Vec<String>>> = groups
            .iter()
            .map(|group| group.iter().map(|object| second_opinion(&schema, Some(object))).collect())
            .collect();
        let lines: Vec<Vec<u8>> = groups.iter().map(|group| group.join(&b'\n')).collect();
        let arrays: Vec<Vec<u8>> =
            groups.iter().map(|group| [b"[", &group.join(&b',')[..], b"]"].concat()).collect();
        for (rows, payloads) in [(PayloadRows::Lines, lines), (PayloadRows::Array, arrays)] {
            let payloads: Vec<&[u8]> = payloads.iter().map(Vec::as_slice).collect();
            let found: Vec<_> = fates_of_rows(rows, &schema, &payloads).into_iter().map(Result::ok).collect();
            assert_eq!(found, expected, "seed {seed}, {rows:?}");
        }
        whole += expected.iter().flatten().count();
        rejected += expected.iter().filter(|rows| rows.is_none()).count();
    }
    assert!(whole > 2_000 && rejected > 200, "{whole} whole, {rejected} rejected");
}
