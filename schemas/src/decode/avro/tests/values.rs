//! A second opinion: what apache-avro writes, value by value, and what becomes of it when it is damaged.

use super::*;

/// A type, with the value that apache-avro is given and the text that the row must have.
#[derive(Debug, Clone)]
pub(super) enum Shape {
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
                let value = Uuid::from_u128((long(random) as u128).wrapping_mul(0x1_0001_0001_0001));
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
pub(super) fn random_record(random: &mut Random) -> (Shape, String, SchemaRef) {
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
