use arrow::array::{
    BinaryArray, BooleanArray, Decimal128Array, Float64Array, Int64Array, Int64Builder, ListArray,
    MapBuilder, StringArray, StringBuilder, StructArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{Float64Type, TimeUnit};

use super::*;

const ORIGIN: Origin<'_> = Origin { topology: "t", dataset: "d", version: 17 };

/// The columns of a table whose rows are in folders by `month`.
fn table() -> TableDefinition {
    let utc = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let fields = vec![
        Field::new("id", DataType::Int64, false),
        Field::new("month", DataType::Int32, true),
        Field::new("carrier", DataType::Utf8, true),
        Field::new("at", utc, true),
        Field::new("p", DataType::Float64, true),
        Field::new("price", DataType::Decimal128(10, 2), true),
        Field::new("raw", DataType::Binary, true),
    ];
    TableDefinition {
        id: "6b0f0e3c-6a3f-4b39-9b1a-2d6f2f2f8a10".into(),
        name: "d".into(),
        description: None,
        schema: Arc::new(Schema::new(fields)),
        partition_by: vec!["month".into()],
        created_ms: 0,
    }
}

/// Rows of it as a file has them.
fn rows() -> RecordBatch {
    let at = TimestampMicrosecondArray::from(vec![Some(1_357_034_400_000_000), None, Some(0)]);
    let price =
        Decimal128Array::from(vec![Some(1250), Some(-1), None]).with_precision_and_scale(10, 2).unwrap();
    let raw: Vec<Option<&[u8]>> = vec![Some(b"\x00\xff"), Some(b""), None];
    RecordBatch::try_from_iter_with_nullable([
        ("id", Arc::new(Int64Array::from(vec![i64::MAX, -7, 0])) as ArrayRef, false),
        ("carrier", Arc::new(StringArray::from(vec![Some("U\"A\n"), Some(""), None])) as ArrayRef, true),
        ("at", Arc::new(at.with_timezone("UTC")) as ArrayRef, true),
        ("p", Arc::new(Float64Array::from(vec![Some(f64::NAN), None, Some(0.25)])) as ArrayRef, true),
        ("price", Arc::new(price) as ArrayRef, true),
        ("raw", Arc::new(BinaryArray::from(raw)) as ArrayRef, true),
    ])
    .unwrap()
}

fn values(month: Option<&str>) -> FolderValues {
    [("month".to_owned(), month.map(str::to_owned))].into()
}

fn letters_of(key: &[&str], columns: Option<&[&str]>) -> RowLetters {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let spec = PublishSpec {
        topic: "scored".into(),
        key: names(key),
        columns: columns.map(names),
        group: "g".into(),
        from_version: 0,
        kafka: None,
    };
    RowLetters::new(&spec, &table())
}

fn payloads(letters: &[OutgoingRecord]) -> Vec<&str> {
    letters.iter().map(|letter| std::str::from_utf8(letter.payload.as_ref().unwrap()).unwrap()).collect()
}

fn keys(key: &[&str]) -> Vec<Option<String>> {
    let letters = letters_of(key, None).letters(ORIGIN, &rows(), &values(Some("1"))).unwrap();
    letters
        .into_iter()
        .map(|letter| letter.key.map(|key| String::from_utf8_lossy(&key).into_owned()))
        .collect()
}

#[test]
fn a_row_is_a_json_object_as_a_query_writes_it_and_says_where_it_is_from() {
    let letters = letters_of(&[], None).letters(ORIGIN, &rows(), &values(Some("1"))).unwrap();
    let expected = [
        r#"{"id":9223372036854775807,"month":1,"carrier":"U\"A\n","at":"2013-01-01T10:00:00Z","p":"NaN","price":12.50,"raw":"00ff"}"#,
        r#"{"id":-7,"month":1,"carrier":"","at":null,"p":null,"price":-0.01,"raw":""}"#,
        r#"{"id":0,"month":1,"carrier":null,"at":"1970-01-01T00:00:00Z","p":0.25,"price":null,"raw":null}"#,
    ];
    assert_eq!(payloads(&letters), expected);
    let header = |name: &str, value: &str| (name.to_owned(), Some(value.as_bytes().to_vec()));
    for letter in &letters {
        assert_eq!((&letter.key, letter.timestamp_ms), (&None, None));
        assert_eq!(
            letter.headers,
            [header("isobar.topology", "t"), header("isobar.dataset", "d"), header("isobar.version", "17")]
        );
    }
}

#[test]
fn columns_that_are_named_are_sent_in_that_order_and_a_value_of_the_log_may_be_null() {
    let letters = letters_of(&[], Some(&["p", "month", "id"]));
    let of = |values: &FolderValues| letters.letters(ORIGIN, &rows().slice(0, 1), values);
    assert_eq!(
        payloads(&of(&values(None)).unwrap()),
        [r#"{"p":"NaN","month":null,"id":9223372036854775807}"#]
    );
    assert!(of(&FolderValues::new()).unwrap_err().contains("month"));
    assert!(of(&values(Some("January"))).unwrap_err().contains("month"));
}

#[test]
fn a_key_is_the_text_of_its_column_or_a_list_of_several() {
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(keys(&[]), [None, None, None]);
    assert_eq!(keys(&["carrier"]), [some("U\"A\n"), some(""), None]);
    assert_eq!(keys(&["id"]), [some("9223372036854775807"), some("-7"), some("0")]);
    assert_eq!(keys(&["at"]), [some("2013-01-01T10:00:00Z"), None, some("1970-01-01T00:00:00Z")]);
    assert_eq!(keys(&["p"]), [some("NaN"), None, some("0.25")]);
    assert_eq!(keys(&["price"]), [some("12.50"), some("-0.01"), None]);
    assert_eq!(keys(&["month"]), [some("1"), some("1"), some("1")]);
    assert_eq!(
        keys(&["carrier", "id"]),
        [some("[\"U\\\"A\\n\",9223372036854775807]"), some("[\"\",-7]"), some("[null,0]"),]
    );
    // Bytes are those of the column.
    let letters = letters_of(&["raw"], None).letters(ORIGIN, &rows(), &values(Some("1"))).unwrap();
    let keys: Vec<Option<&[u8]>> = letters.iter().map(|letter| letter.key.as_deref()).collect();
    assert_eq!(keys, [Some(&b"\x00\xff"[..]), Some(&b""[..]), None]);
}

#[test]
fn rows_that_are_older_than_a_column_do_not_have_it_and_those_with_another_keep_it() {
    let older = RecordBatch::try_from_iter([
        ("id", Arc::new(Int64Array::from(vec![1])) as ArrayRef),
        ("gone", Arc::new(BooleanArray::from(vec![true])) as ArrayRef),
    ])
    .unwrap();
    let letters =
        |key: &[&str], columns| letters_of(key, columns).letters(ORIGIN, &older, &values(Some("2")));
    let all = letters(&["carrier"], None).unwrap();
    assert_eq!(payloads(&all), [r#"{"id":1,"month":2,"gone":true}"#]);
    assert_eq!(all[0].key, None);
    assert_eq!(payloads(&letters(&["id", "carrier"], Some(&["carrier", "id"])).unwrap()), [r#"{"id":1}"#]);
    let key = letters(&["id", "carrier"], None).unwrap()[0].key.clone();
    assert_eq!(key.as_deref(), Some(&b"[1,null]"[..]));
    // Nothing that is wanted is there yet: a row is a message all the same.
    assert_eq!(payloads(&letters(&[], Some(&["carrier"])).unwrap()), ["{}"]);
}

#[test]
fn what_is_nested_is_nested_in_json() {
    let list = ListArray::from_iter_primitive::<Float64Type, _, _>([Some(vec![Some(f64::INFINITY), None])]);
    let text: ArrayRef = Arc::new(StringArray::from(vec!["x"]));
    let record = StructArray::from(vec![(Arc::new(Field::new("label", DataType::Utf8, true)), text)]);
    let nested = RecordBatch::try_from_iter([
        ("record", Arc::new(record) as ArrayRef),
        ("list", Arc::new(list) as ArrayRef),
    ])
    .unwrap();
    let letters = letters_of(&["record"], Some(&["record", "list"]));
    let letters = letters.letters(ORIGIN, &nested, &values(None)).unwrap();
    assert_eq!(payloads(&letters), [r#"{"record":{"label":"x"},"list":["Infinity",null]}"#]);
    assert_eq!(letters[0].key.as_deref(), Some(&br#"{"label":"x"}"#[..]));
}

#[test]
fn nulls_within_values_are_there_and_a_zero_keeps_its_sign() {
    let mut map = MapBuilder::new(None, StringBuilder::new(), Int64Builder::new());
    map.keys().append_value("a\"");
    map.values().append_value(i64::MAX);
    map.keys().append_value("");
    map.values().append_null();
    map.append(true).unwrap();
    map.append(false).unwrap();
    let labels: ArrayRef = Arc::new(StringArray::from(vec![None, Some("x")]));
    let label = Field::new("label", DataType::Utf8, true);
    let record = StructArray::new(vec![label].into(), vec![labels], Some(vec![true, false].into()));
    let rows = RecordBatch::try_from_iter_with_nullable([
        ("map", Arc::new(map.finish()) as ArrayRef, true),
        ("record", Arc::new(record) as ArrayRef, true),
        ("zero", Arc::new(Float64Array::from(vec![-0.0, 0.0])) as ArrayRef, false),
    ])
    .unwrap();
    let letters = letters_of(&["zero"], Some(&["map", "record", "zero"]));
    let letters = letters.letters(ORIGIN, &rows, &values(None)).unwrap();
    let expected = [
        r#"{"map":{"a\"":9223372036854775807,"":null},"record":{"label":null},"zero":-0.0}"#,
        r#"{"map":null,"record":null,"zero":0.0}"#,
    ];
    assert_eq!(payloads(&letters), expected);
    let keys: Vec<Option<&[u8]>> = letters.iter().map(|letter| letter.key.as_deref()).collect();
    assert_eq!(keys, [Some(&b"-0.0"[..]), Some(&b"0.0"[..])]);
}

#[test]
fn what_json_has_no_place_for_says_how_to_go_on_without_it() {
    let beyond = TimestampMicrosecondArray::from(vec![i64::MAX]).with_timezone("UTC");
    let rows = RecordBatch::try_from_iter([
        ("id", Arc::new(Int64Array::from(vec![1])) as ArrayRef),
        ("at", Arc::new(beyond) as ArrayRef),
    ])
    .unwrap();
    let letters = |columns| letters_of(&[], Some(columns)).letters(ORIGIN, &rows, &values(None));
    let error = letters(&["id", "at"]).unwrap_err();
    assert!(error.contains(&i64::MAX.to_string()) && error.contains("`columns`"), "{error}");
    assert_eq!(payloads(&letters(&["id"]).unwrap()), [r#"{"id":1}"#]);
}
