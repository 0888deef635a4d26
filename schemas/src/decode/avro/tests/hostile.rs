//! Hostile input: payloads and schemas made to run or allocate without end.

use super::*;

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

#[test]
fn a_record_far_above_the_limit_is_rejected_like_any_other() {
    let columns = schema(&[("a", "int32")]);
    let limits = DecodeLimits { payload_bytes_max: 100, ..DecodeLimits::default() };
    let writers = [registered(&record(&[("a", "\"int\"")]))];
    let mut decoder =
        AvroDecoder::new(columns, UnknownFields::Quarantine, limits, Framing::Plain, &writers).unwrap();
    // If it were read, it could become more than one array can hold.
    let huge = vec![0; 40 << 20];
    let decoded = decoder.decode(&chunk([Some(&[0x02][..]), Some(&huge), Some(&[0x04])])).unwrap();
    assert_eq!(decoded.records, [0, 2]);
    assert_eq!(decoded.rejects[0].reason, RejectReason::Oversize);
}

#[test]
fn damaged_schemas_are_refused_and_nothing_worse() {
    let columns = schema(&[("f0", "int64"), ("f1", "string"), ("f2", "list<int32>")]);
    let mut refused = 0;
    for seed in 0..400 {
        let mut random = Random::new(seed);
        let (_, text, _) = values::random_record(&mut random);
        for _ in 0..20 {
            let mut damaged = text.clone().into_bytes();
            for _ in 0..1 + random.below(3) {
                let at = random.below(damaged.len());
                match random.below(3) {
                    0 => damaged[at] = *random.pick(&[&b'"', &b'{', &b'0', &b'n', &b'-', &b'9', &b'.']),
                    1 => damaged.truncate(at + 1),
                    _ => drop(damaged.remove(at)),
                }
                damaged.push(b'}');
            }
            let Ok(damaged) = String::from_utf8(damaged) else { continue };
            // Still a schema or not: either is an answer.
            let problems = avro_problems(&registered(&damaged), &columns, UnknownFields::Quarantine);
            refused += usize::from(problems.iter().any(|problem| problem.contains("cannot be used")));
            assert!(problems.iter().all(|problem| problem.len() < 1000), "{problems:?}");
            drop(fields_of_avro(&registered(&damaged)));
        }
    }
    assert!(refused > 4_000, "{refused} refused");
}
