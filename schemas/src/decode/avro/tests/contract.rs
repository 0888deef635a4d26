//! The contract that a schema needs.

use super::*;

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
