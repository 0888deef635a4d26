//! How fast it is.

use super::*;

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
