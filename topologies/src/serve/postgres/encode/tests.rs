//! What a PostgreSQL server of version 15 sent for the same values, as text and in binary.

use arrow::array::{
    BinaryArray, BooleanArray, Date32Array, Date64Array, Decimal128Array, Decimal256Array, DictionaryArray,
    DurationMillisecondArray, Float32Array, Float64Array, Int8Array, Int32Array, Int64Array,
    IntervalMonthDayNanoArray, IntervalYearMonthArray, ListArray, NullArray, StringArray, StringViewArray,
    StructArray, Time64MicrosecondArray, TimestampMicrosecondArray, TimestampNanosecondArray,
    TimestampSecondArray, UInt8Array, UInt32Array, UInt64Array,
};
use arrow::datatypes::{Int32Type, IntervalMonthDayNano, i256};
use pgwire::api::Type;

use super::*;

/// The only value of `array`, as a client gets it.
fn sent(array: ArrayRef, is_binary: bool) -> Result<Option<Vec<u8>>, Failure> {
    let batch = RecordBatch::try_from_iter([("a", array)]).unwrap();
    let batch = prepare(&batch)?;
    let mut buffer = BytesMut::new();
    let next = encode(&batch, 0, usize::MAX, &[is_binary], &mut buffer, usize::MAX)?;
    assert_eq!((next, batch.num_rows()), (1, 1));
    // A tag, the length of what follows it, the number of columns, and each value behind its length.
    assert_eq!(buffer[0], b'D');
    assert_eq!(i32::from_be_bytes(buffer[1..5].try_into().unwrap()) as usize, buffer.len() - 1);
    assert_eq!(buffer[5..7], [0, 1]);
    let length = i32::from_be_bytes(buffer[7..11].try_into().unwrap());
    if length < 0 {
        assert_eq!(buffer.len(), 11);
        return Ok(None);
    }
    assert_eq!(length as usize, buffer.len() - 11);
    Ok(Some(buffer[11..].to_vec()))
}

/// Checks type, text and, in hexadecimal, binary form.
fn assert_sent(array: impl Array + 'static, data_type: &Type, text: &str, binary: &str) {
    let array: ArrayRef = Arc::new(array);
    assert_eq!(&type_of(array.data_type()), data_type, "{text}");
    let shown = sent(array.clone(), false).unwrap().unwrap();
    assert_eq!(String::from_utf8(shown).unwrap(), text);
    assert_eq!(hex::encode(sent(array, true).unwrap().unwrap()), binary, "{text}");
}

#[test]
fn booleans_and_integers() {
    assert_sent(BooleanArray::from(vec![true]), &Type::BOOL, "t", "01");
    assert_sent(BooleanArray::from(vec![false]), &Type::BOOL, "f", "00");
    assert_sent(Int8Array::from(vec![1]), &Type::INT2, "1", "0001");
    assert_sent(Int32Array::from(vec![-2]), &Type::INT4, "-2", "fffffffe");
    assert_sent(Int64Array::from(vec![i64::MAX]), &Type::INT8, "9223372036854775807", "7fffffffffffffff");
    assert_sent(UInt8Array::from(vec![255]), &Type::INT2, "255", "00ff");
    assert_sent(UInt32Array::from(vec![u32::MAX]), &Type::INT8, "4294967295", "00000000ffffffff");
    assert_sent(
        UInt64Array::from(vec![u64::MAX]),
        &Type::NUMERIC,
        "18446744073709551615",
        "000500040000000007341a5802e103bb064f",
    );
}

#[test]
fn floating_point_has_the_shortest_digits() {
    let double =
        |value, text, binary| assert_sent(Float64Array::from(vec![value]), &Type::FLOAT8, text, binary);
    double(0.1, "0.1", "3fb999999999999a");
    double(1e15, "1e+15", "430c6bf526340000");
    double(1e14, "100000000000000", "42d6bcc41e900000");
    double(123_456_789_012_345_680.0, "1.2345678901234568e+17", "437b69b4ba630f35");
    double(1e-4, "0.0001", "3f1a36e2eb1c432d");
    double(1e-5, "1e-05", "3ee4f8b588e368f1");
    double(0.000_12, "0.00012", "3f1f75104d551d69");
    double(-0.0, "-0", "8000000000000000");
    double(-12.5, "-12.5", "c029000000000000");
    double(f64::NAN, "NaN", "7ff8000000000000");
    double(f64::NEG_INFINITY, "-Infinity", "fff0000000000000");
    let single =
        |value, text, binary| assert_sent(Float32Array::from(vec![value]), &Type::FLOAT4, text, binary);
    single(1.5, "1.5", "3fc00000");
    single(1e6, "1e+06", "49742400");
    single(1e5, "100000", "47c35000");
    single(1_234_567.0, "1.234567e+06", "4996b438");
}

#[test]
fn numbers_of_decimal_digits() {
    let decimal = |unscaled, scale, text, binary| {
        let array = Decimal128Array::from(vec![unscaled]).with_precision_and_scale(38, scale).unwrap();
        assert_sent(array, &Type::NUMERIC, text, binary);
    };
    decimal(0, 0, "0", "0000000000000000");
    decimal(1, 0, "1", "00010000000000000001");
    decimal(-150, 2, "-1.50", "000200004000000200011388");
    decimal(123_456_789, 4, "12345.6789", "0003000100000004000109291a85");
    decimal(10_000, 0, "10000", "00010001000000000001");
    decimal(1, 4, "0.0001", "0001ffff000000040001");
    decimal(100_000_000, 0, "100000000", "00010002000000000001");
    decimal(0, 2, "0.00", "0000000000000002");
    decimal(123_456_789_000_012, 6, "123456789.000012", "0005000200000006000109291a85000004b0");
    decimal(1, -4, "10000", "00010001000000000001");
    decimal(0, -4, "0", "0000000000000000");
    let wide = Decimal256Array::from(vec![i256::from_i128(-150)]).with_precision_and_scale(76, 2).unwrap();
    assert_sent(wide, &Type::NUMERIC, "-1.50", "000200004000000200011388");
}

#[test]
fn texts_and_bytes() {
    assert_sent(StringArray::from(vec!["x"]), &Type::TEXT, "x", "78");
    assert_sent(StringViewArray::from(vec![""]), &Type::TEXT, "", "");
    assert_sent(BinaryArray::from(vec![&b"\xde\xad\xbe\xef"[..]]), &Type::BYTEA, "\\xdeadbeef", "deadbeef");
    let with_nul: ArrayRef = Arc::new(StringArray::from(vec!["a\0b"]));
    assert_eq!(sent(with_nul.clone(), false).unwrap_err().code, code::UNTRANSLATABLE);
    assert_eq!(sent(with_nul, true).unwrap().unwrap(), b"a\0b");
    let named: DictionaryArray<Int32Type> = vec!["x"].into_iter().collect();
    assert_sent(named, &Type::TEXT, "x", "78");
}

#[test]
fn dates_and_times() {
    let date = |days, text, binary| assert_sent(Date32Array::from(vec![days]), &Type::DATE, text, binary);
    date(15_706, "2013-01-01", "0000128d");
    date(10_956, "1999-12-31", "ffffffff");
    date(0, "1970-01-01", "ffffd533");
    date(11_016, "2000-02-29", "0000003b");
    date(-735_160, "0044-03-15 BC", "fff49d7b");
    date(2_932_897, "10000-01-01", "002c95d4");
    assert_sent(Date64Array::from(vec![-1]), &Type::DATE, "1969-12-31", "ffffd532");
    for beyond in [i32::MIN, i32::MAX] {
        let failure = sent(Arc::new(Date32Array::from(vec![beyond])), false).unwrap_err();
        assert_eq!(failure.code, code::DATETIME_OVERFLOW);
    }
    let time =
        |us, text, binary| assert_sent(Time64MicrosecondArray::from(vec![us]), &Type::TIME, text, binary);
    time(14_706_789_000, "04:05:06.789", "000000036c97ca88");
    time(0, "00:00:00", "0000000000000000");
}

#[test]
fn timestamps_are_in_utc() {
    let plain = TimestampMicrosecondArray::from(vec![1_372_682_096_500_000]);
    assert_sent(plain, &Type::TIMESTAMP, "2013-07-01 12:34:56.5", "0001837139887d20");
    let before = TimestampMicrosecondArray::from(vec![-1]);
    assert_sent(before, &Type::TIMESTAMP, "1969-12-31 23:59:59.999999", "fffca2fec4c81fff");
    let zoned = TimestampSecondArray::from(vec![1_372_674_896]).with_timezone("+02:00");
    assert_sent(zoned, &Type::TIMESTAMPTZ, "2013-07-01 10:34:56+00", "0001836f8c599400");
    // What is finer than a microsecond is cut off, towards the past.
    let fine = TimestampNanosecondArray::from(vec![-1]);
    assert_sent(fine, &Type::TIMESTAMP, "1969-12-31 23:59:59.999999", "fffca2fec4c81fff");
    for beyond in [i64::MIN, i64::MAX, -300_000_000_000] {
        let array: ArrayRef = Arc::new(TimestampSecondArray::from(vec![beyond]));
        assert_eq!(sent(array, true).unwrap_err().code, code::DATETIME_OVERFLOW, "{beyond}");
    }
}

#[test]
fn intervals() {
    let interval = |months, days, us: i64, text, binary| {
        let value = IntervalMonthDayNano::new(months, days, us * 1_000);
        assert_sent(IntervalMonthDayNanoArray::from(vec![value]), &Type::INTERVAL, text, binary);
    };
    let us = 14_706_789_000;
    interval(14, 3, us, "1 year 2 mons 3 days 04:05:06.789", "000000036c97ca88000000030000000e");
    interval(-1, 2, -10_800_000_000, "-1 mons +2 days -03:00:00", "fffffffd7c45140000000002ffffffff");
    interval(0, 0, 0, "00:00:00", "00000000000000000000000000000000");
    interval(-12, 0, 0, "-1 years", "000000000000000000000000fffffff4");
    interval(0, 1, -1_000_000, "1 day -00:00:01", "fffffffffff0bdc00000000100000000");
    interval(0, 0, 129_600_000_001, "36:00:00.000001", "0000001e2cc310010000000000000000");
    interval(1, -1, 0, "1 mon -1 days", "0000000000000000ffffffff00000001");
    let months = IntervalYearMonthArray::from(vec![-12]);
    assert_sent(months, &Type::INTERVAL, "-1 years", "000000000000000000000000fffffff4");
    let duration = DurationMillisecondArray::from(vec![-1_000]);
    assert_sent(duration, &Type::INTERVAL, "-00:00:01", "fffffffffff0bdc00000000000000000");
}

#[test]
fn lists_are_arrays() {
    let numbers =
        ListArray::from_iter_primitive::<arrow::datatypes::Int64Type, _, _>([Some([Some(1), None, Some(3)])]);
    assert_sent(
        numbers,
        &Type::INT8_ARRAY,
        "{1,NULL,3}",
        "0000000100000001000000140000000300000001000000080000000000000001ffffffff000000080000000000000003",
    );
    let mut texts = arrow::array::ListBuilder::new(arrow::array::StringBuilder::new());
    texts.append_value([Some("a"), Some("b c"), Some(""), Some("NULL"), Some("q\"\\x"), None]);
    assert_sent(
        texts.finish(),
        &Type::TEXT_ARRAY,
        r#"{a,"b c","","NULL","q\"\\x",NULL}"#,
        "000000010000000100000019000000060000000100000001610000000362206300000000000000044e554c4c0000000471225c78ffffffff",
    );
    let none = ListArray::from_iter_primitive::<Int32Type, _, _>([Some(Vec::<Option<i32>>::new())]);
    assert_sent(none, &Type::INT4_ARRAY, "{}", "000000000000000000000017");
    let mut flags = arrow::array::ListBuilder::new(arrow::array::BooleanBuilder::new());
    flags.append_value([Some(true), Some(false)]);
    let binary = "000000010000000000000010000000020000000100000001010000000100";
    assert_sent(flags.finish(), &Type::BOOL_ARRAY, "{t,f}", binary);
}

#[test]
fn structs_and_lists_of_lists_are_json() {
    let fields = vec![
        (
            Arc::new(Field::new("a", DataType::Int32, true)),
            Arc::new(Int32Array::from(vec![None])) as ArrayRef,
        ),
        (
            Arc::new(Field::new("b", DataType::Utf8, true)),
            Arc::new(StringArray::from(vec!["x\"y"])) as ArrayRef,
        ),
    ];
    let text = r#"{"a":null,"b":"x\"y"}"#;
    assert_sent(StructArray::from(fields), &Type::JSON, text, &hex::encode(text));
    let number = Arc::new(Float64Array::from(vec![f64::NAN])) as ArrayRef;
    let record = StructArray::from(vec![(Arc::new(Field::new("a", DataType::Float64, true)), number)]);
    assert_sent(record, &Type::JSON, r#"{"a":"NaN"}"#, &hex::encode(r#"{"a":"NaN"}"#));
    let inner = arrow::array::ListBuilder::new(arrow::array::Int32Builder::new());
    let mut outer = arrow::array::ListBuilder::new(inner);
    outer.values().append_value([Some(1), Some(2)]);
    outer.values().append_value([Some(3)]);
    outer.append(true);
    assert_sent(outer.finish(), &Type::JSON, "[[1,2],[3]]", &hex::encode("[[1,2],[3]]"));
}

#[test]
fn null_is_no_value() {
    for is_binary in [false, true] {
        assert_eq!(sent(Arc::new(Int32Array::from(vec![None])), is_binary).unwrap(), None);
        assert_eq!(sent(Arc::new(NullArray::new(1)), is_binary).unwrap(), None);
        let named: DictionaryArray<Int32Type> = vec![None::<&str>].into_iter().collect();
        assert_eq!(sent(Arc::new(named), is_binary).unwrap(), None);
    }
}

#[test]
fn rows_are_written_whole_and_piece_by_piece() {
    let dates: ArrayRef = Arc::new(Date32Array::from(vec![0, 1, i32::MAX, 3]));
    let batch = prepare(&RecordBatch::try_from_iter([("a", dates)]).unwrap()).unwrap();
    let mut buffer = BytesMut::new();
    // As many as asked for.
    assert_eq!(encode(&batch, 0, 1, &[true], &mut buffer, usize::MAX).unwrap(), 1);
    let row = buffer.len();
    // No more than there is room for.
    assert_eq!(encode(&batch, 1, 9, &[true], &mut buffer, row + 1).unwrap(), 2);
    assert_eq!(buffer.len(), 2 * row);
    // What cannot be written leaves nothing behind.
    assert!(encode(&batch, 2, 9, &[true], &mut buffer, usize::MAX).is_err());
    assert_eq!(buffer.len(), 2 * row);
    assert_eq!(encode(&batch, 3, 9, &[true], &mut buffer, usize::MAX).unwrap(), 4);
    assert_eq!(buffer.len(), 3 * row);
}
