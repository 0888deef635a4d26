//! Values as PostgreSQL's clients send them.

use arrow::array::{Array, AsArray};
use arrow::datatypes::Int64Type;

use super::*;

fn text(data_type: &Type, text: &str) -> Result<ScalarValue, Failure> {
    decode(1, data_type, false, Some(&Bytes::copy_from_slice(text.as_bytes())))
}

fn binary(data_type: &Type, hexadecimal: &str) -> Result<ScalarValue, Failure> {
    decode(1, data_type, true, Some(&hex::decode(hexadecimal).unwrap().into()))
}

/// The text and the bytes are what PostgreSQL writes for the same value.
fn assert_both(data_type: &Type, written: &str, hexadecimal: &str, value: &ScalarValue) {
    assert_eq!(&text(data_type, written).unwrap(), value, "{written}");
    assert_eq!(&binary(data_type, hexadecimal).unwrap(), value, "{written}");
}

#[test]
fn both_formats_give_the_same_value() {
    assert_both(&Type::BOOL, "t", "01", &ScalarValue::Boolean(Some(true)));
    assert_both(&Type::INT2, "1", "0001", &ScalarValue::Int16(Some(1)));
    assert_both(&Type::INT4, "-2", "fffffffe", &ScalarValue::Int32(Some(-2)));
    assert_both(&Type::INT8, "9223372036854775807", "7fffffffffffffff", &ScalarValue::Int64(Some(i64::MAX)));
    assert_both(&Type::FLOAT4, "1.5", "3fc00000", &ScalarValue::Float32(Some(1.5)));
    assert_both(
        &Type::FLOAT8,
        "-Infinity",
        "fff0000000000000",
        &ScalarValue::Float64(Some(f64::NEG_INFINITY)),
    );
    assert_both(&Type::TEXT, " x", "2078", &ScalarValue::Utf8(Some(" x".into())));
    assert_both(
        &Type::BYTEA,
        "\\xdeadbeef",
        "deadbeef",
        &ScalarValue::Binary(Some(b"\xde\xad\xbe\xef".into())),
    );
    assert_both(&Type::DATE, "2013-01-01", "0000128d", &ScalarValue::Date32(Some(15_706)));
    let time = ScalarValue::Time64Microsecond(Some(14_706_789_000));
    assert_both(&Type::TIME, "04:05:06.789", "000000036c97ca88", &time);
    let plain = ScalarValue::TimestampMicrosecond(Some(1_372_682_096_500_000), None);
    assert_both(&Type::TIMESTAMP, "2013-07-01 12:34:56.5", "0001837139887d20", &plain);
    let zoned = ScalarValue::TimestampMicrosecond(Some(1_372_674_896_000_000), Some("UTC".into()));
    assert_both(&Type::TIMESTAMPTZ, "2013-07-01 10:34:56+00", "0001836f8c599400", &zoned);
    let identifier = "6fd6f6a1-3a0e-4b6c-8f5e-0a7a4b9b0b1c";
    let value = ScalarValue::Utf8(Some(identifier.into()));
    assert_both(&Type::UUID, identifier, &identifier.replace('-', ""), &value);
}

#[test]
fn a_zone_is_passed_over_where_a_type_has_none() {
    let plain = ScalarValue::TimestampMicrosecond(Some(1_372_682_096_500_000), None);
    for zone in ["", "+02", "-05:30", " +0200", "Z"] {
        let written = format!("2013-07-01 12:34:56.5{zone}");
        assert_eq!(text(&Type::TIMESTAMP, &written).unwrap(), plain, "{written}");
        let written = format!("2013-01-01{zone}");
        assert_eq!(text(&Type::DATE, &written).unwrap(), ScalarValue::Date32(Some(15_706)), "{written}");
    }
    let zoned = ScalarValue::TimestampMicrosecond(Some(1_372_674_896_000_000), Some("UTC".into()));
    assert_eq!(text(&Type::TIMESTAMPTZ, "2013-07-01 12:34:56+02").unwrap(), zoned);
    for wrong in ["2013-07-01 12:34:56+", "2013-07-01 12:34:56 Zool", "2013-07-01 12:34:56+a"] {
        assert!(text(&Type::TIMESTAMP, wrong).is_err(), "{wrong}");
    }
}

#[test]
fn numbers_have_the_precision_that_they_need() {
    let cases = [
        ("0", "0000000000000000", 0, 1, 0),
        ("1", "00010000000000000001", 1, 1, 0),
        ("-1.50", "000200004000000200011388", -150, 3, 2),
        ("12345.6789", "0003000100000004000109291a85", 123_456_789, 9, 4),
        ("10000", "00010001000000000001", 10_000, 5, 0),
        ("0.0001", "0001ffff000000040001", 1, 4, 4),
        ("0.00", "0000000000000002", 0, 2, 2),
    ];
    for (written, hexadecimal, unscaled, precision, scale) in cases {
        assert_both(
            &Type::NUMERIC,
            written,
            hexadecimal,
            &ScalarValue::Decimal128(Some(unscaled), precision, scale),
        );
    }
    assert_eq!(text(&Type::NUMERIC, "1.5E+3").unwrap(), ScalarValue::Decimal128(Some(1_500), 4, 0));
    assert_eq!(text(&Type::NUMERIC, "15e-3").unwrap(), ScalarValue::Decimal128(Some(15), 3, 3));
    let wide = "1".repeat(50);
    let value = i256::from_string(&wide).unwrap();
    assert_eq!(text(&Type::NUMERIC, &wide).unwrap(), ScalarValue::Decimal256(Some(value), 50, 0));
}

#[test]
fn arrays_have_elements() {
    let numbers =
        "0000000100000001000000140000000300000001000000080000000000000001ffffffff000000080000000000000003";
    for list in [text(&Type::INT8_ARRAY, "{1, NULL ,3}"), binary(&Type::INT8_ARRAY, numbers)] {
        let ScalarValue::List(list) = list.unwrap() else { panic!("a list") };
        let values: Vec<Option<i64>> = list.value(0).as_primitive::<Int64Type>().iter().collect();
        assert_eq!(values, [Some(1), None, Some(3)]);
    }
    let texts = "000000010000000100000019000000060000000100000001610000000362206300000000000000044e554c4c0000000471225c78ffffffff";
    let written = r#"{a,"b c","","NULL","q\"\\x",NULL}"#;
    for list in [text(&Type::TEXT_ARRAY, written), binary(&Type::TEXT_ARRAY, texts)] {
        let ScalarValue::List(list) = list.unwrap() else { panic!("a list") };
        let list = list.value(0);
        let values: Vec<Option<&str>> = list.as_string::<i32>().iter().collect();
        assert_eq!(values, [Some("a"), Some("b c"), Some(""), Some("NULL"), Some("q\"\\x"), None]);
    }
    for list in [text(&Type::INT4_ARRAY, "{}"), binary(&Type::INT4_ARRAY, "000000000000000000000017")] {
        let ScalarValue::List(list) = list.unwrap() else { panic!("a list") };
        assert_eq!((list.len(), list.value(0).len()), (1, 0));
    }
    let ScalarValue::List(list) = text(&Type::NUMERIC_ARRAY, "{1.5,NULL,22.25}").unwrap() else {
        panic!("a list")
    };
    assert_eq!(list.value(0).data_type(), &DataType::Decimal128(4, 2));
}

#[test]
fn arrays_have_a_moderate_number_of_elements() {
    let written = |count: usize| format!("{{{}}}", vec!["1"; count].join(","));
    let sent =
        |count: usize| format!("000000010000000000000014{count:08x}00000001{}", "ffffffff".repeat(count));
    for (count, is_fine) in [(ELEMENTS_MAX, true), (ELEMENTS_MAX + 1, false)] {
        for list in [text(&Type::INT8_ARRAY, &written(count)), binary(&Type::INT8_ARRAY, &sent(count))] {
            match list {
                Ok(ScalarValue::List(list)) => assert_eq!((is_fine, list.value(0).len()), (true, count)),
                Ok(other) => panic!("{other}"),
                Err(failure) => {
                    assert!(!is_fine && failure.message.contains("100000 elements"), "{failure:?}")
                }
            }
        }
    }
}

#[test]
fn null_has_a_type() {
    assert_eq!(decode(1, &Type::INT8, true, None).unwrap(), ScalarValue::Int64(None));
    assert!(decode(1, &Type::TEXT_ARRAY, false, None).unwrap().is_null());
    assert_eq!(type_with(0).unwrap(), None);
    assert_eq!(type_with(23).unwrap(), Some(Type::INT4));
    assert_eq!(type_with(600).unwrap_err().code, code::FEATURE_NOT_SUPPORTED);
}

#[test]
fn what_is_no_value_of_its_type_is_refused() {
    let texts = [
        (Type::BOOL, "maybe"),
        (Type::INT2, "40000"),
        (Type::INT8, "1.5"),
        (Type::FLOAT8, "x"),
        (Type::NUMERIC, "NaN"),
        (Type::NUMERIC, "1e99999999999999999999"),
        (Type::NUMERIC, "1e77"),
        (Type::NUMERIC, "."),
        (Type::BYTEA, "\\xabc"),
        (Type::DATE, "2013-02-30"),
        (Type::TIMESTAMP, "yesterday"),
        (Type::INT4_ARRAY, "{1,}"),
        (Type::INT4_ARRAY, "{1"),
        (Type::INT4_ARRAY, "{{1},{2}}"),
        (Type::TEXT_ARRAY, "{\"a}"),
    ];
    for (data_type, written) in texts {
        assert_eq!(text(&data_type, written).unwrap_err().code, code::INVALID_TEXT, "{written}");
    }
    let bytes = [
        (Type::BOOL, "02"),
        (Type::INT4, "0001"),
        (Type::INT4, "0000000100"),
        (Type::INT8, ""),
        (Type::NUMERIC, "0001"),
        (Type::NUMERIC, "00000000c0000000"),
        (Type::NUMERIC, "ffff7fff0000ffff"),
        (Type::NUMERIC, "0001000000000000ffff"),
        (Type::DATE, "7fffffff"),
        (Type::DATE, "80000000"),
        (Type::TIME, "ffffffffffffffff"),
        (Type::TIME, "000000141dd76000"),
        (Type::TIMESTAMP, "7fffffffffffffff"),
        (Type::TIMESTAMP, "8000000000000000"),
        (Type::TIMESTAMPTZ, "8000000000000000"),
        (Type::INT8_ARRAY, "00000001000000000000001400000001"),
        (Type::INT8_ARRAY, "0000000100000000000000147fffffff00000001"),
        (Type::INT8_ARRAY, "00000002000000000000001400000001000000010000000100000001"),
        (Type::INT8_ARRAY, "00000001000000000000001700000001000000010000000400000001"),
        (Type::TEXT, "ff"),
    ];
    for (data_type, hexadecimal) in bytes {
        assert_eq!(
            binary(&data_type, hexadecimal).unwrap_err().code,
            code::INVALID_BINARY,
            "{data_type} {hexadecimal}"
        );
    }
}
