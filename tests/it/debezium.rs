//! Change events of Debezium become a history: each change once, deletes too, and nothing is lost from the counts.

use std::time::Duration;

use apache_avro::Schema;
use apache_avro::types::Value as Avro;
use apache_avro::writer::datum::GenericDatumWriter;
use isobar_connectors::kafka::ProducedRecord;
use isobar_tests::events::Value;
use isobar_tests::lab::{Lab, start_producer, write_file};

const TOPIC: &str = "customers";

const SOURCE: &str = "  customers:
    topic: customers
    format: json
    envelope: debezium
    fields: { id: { type: int64, nullable: false }, name: string, born: int32, seen: int64 }
";

/// Dates and times come as numbers: docs/formats.md shows how they become what they are.
const DATASETS: &str = "  history:
    from: customers
    sql: |
      SELECT id, name, arrow_cast(born, 'Date32') AS born, to_timestamp_micros(seen) AS seen, _op = 'd' AS deleted,
             _op AS op, _source_timestamp AS changed_at, _offset AS kafka_offset
      FROM customers WHERE name IS DISTINCT FROM 'test'
";

fn event(op: &str, before: &str, after: &str) -> String {
    format!(
        r#"{{"before":{before},"after":{after},"source":{{"ts_ms":1700000000123,"table":"customers"}},"op":"{op}","ts_ms":1700000000200}}"#
    )
}

fn wrapped(event: &str) -> String {
    format!(r#"{{"schema":{{"type":"struct","fields":[]}},"payload":{event}}}"#)
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_become_rows_and_what_is_no_change_is_counted() {
    let anne = r#"{"id":1,"name":"Anne","born":19000,"seen":1700000000000001}"#;
    let anna = r#"{"id":1,"name":"Anna","born":19000,"seen":null}"#;
    let test = r#"{"id":2,"name":"test"}"#;
    let key = r#"{"id":1,"name":null,"born":null,"seen":null}"#;
    let records = [
        Some(event("r", "null", anne)),
        Some(wrapped(&event("u", anne, anna))),
        Some(event("c", "null", test)),
        Some(r#"{"ts_ms":1700000000300}"#.to_owned()),
        Some(event("t", "null", "null")),
        Some(event("d", key, "null")),
        None,
        Some(event("c", "null", r#"{"id":3,"new":true}"#)),
        Some(event("u", "null", "null")),
        Some(wrapped("null")),
    ];
    let records = records.map(|record| record.map(String::into_bytes));
    assert_history(&Lab::new(&[TOPIC], 3, false), SOURCE, &records, "unknown_field").await;
}

/// The schema of the events of the table, as Kafka Connect's AvroConverter makes it.
const ENVELOPE: &str = r#"{"type":"record","name":"Envelope","namespace":"shop.customers","connect.version":2,"fields":[
    {"name":"before","type":["null",{"type":"record","name":"Value","fields":[{"name":"id","type":"long"},
        {"name":"name","type":["null","string"],"default":null},
        {"name":"born","type":["null",{"type":"int","connect.version":1,"connect.name":"io.debezium.time.Date"}],"default":null},
        {"name":"seen","type":["null",{"type":"long","connect.version":1,"connect.name":"io.debezium.time.MicroTimestamp"}],"default":null}
    ]}],"default":null},
    {"name":"after","type":["null","Value"],"default":null},
    {"name":"source","type":{"type":"record","name":"Source","fields":[{"name":"ts_ms","type":"long"},{"name":"table","type":"string"}]}},
    {"name":"op","type":"string"},{"name":"ts_ms","type":["null","long"],"default":null}]}"#;

fn maybe(value: Option<Avro>) -> Avro {
    let branch = u32::from(value.is_some());
    Avro::Union(branch, Box::new(value.unwrap_or(Avro::Null)))
}

/// A row of the table: all but the id may be null.
fn row(id: i64, name: Option<&str>, born: Option<i32>, seen: Option<i64>) -> Avro {
    Avro::Record(vec![
        ("id".into(), Avro::Long(id)),
        ("name".into(), maybe(name.map(|name| Avro::String(name.to_owned())))),
        ("born".into(), maybe(born.map(Avro::Int))),
        ("seen".into(), maybe(seen.map(Avro::Long))),
    ])
}

fn event_in_avro(op: &str, before: Option<Avro>, after: Option<Avro>) -> Vec<u8> {
    let schema = Schema::parse_str(ENVELOPE).unwrap();
    let source = vec![
        ("ts_ms".into(), Avro::Long(1_700_000_000_123)),
        ("table".into(), Avro::String("customers".into())),
    ];
    let event = Avro::Record(vec![
        ("before".into(), maybe(before)),
        ("after".into(), maybe(after)),
        ("source".into(), Avro::Record(source)),
        ("op".into(), Avro::String(op.to_owned())),
        ("ts_ms".into(), maybe(Some(Avro::Long(1_700_000_000_200)))),
    ]);
    GenericDatumWriter::builder(&schema).build().unwrap().write_value_to_vec(event).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_in_avro_become_the_same_rows() {
    let anne = || row(1, Some("Anne"), Some(19_000), Some(1_700_000_000_000_001));
    let anna = || row(1, Some("Anna"), Some(19_000), None);
    let test = event_in_avro("c", None, Some(row(2, Some("test"), None, None)));
    let records = [
        Some(event_in_avro("r", None, Some(anne()))),
        Some(event_in_avro("u", Some(anne()), Some(anna()))),
        Some(test.clone()),
        None,
        Some(event_in_avro("t", None, None)),
        Some(event_in_avro("d", Some(row(1, None, None, None)), None)),
        None,
        Some(test[..test.len() - 1].to_vec()),
        Some(event_in_avro("u", None, None)),
        None,
    ];
    let lab = Lab::new(&[TOPIC], 3, false);
    write_file(&lab.directory.path().join("customers.avsc"), ENVELOPE);
    let source = SOURCE.replace("format: json", "format: avro\n    schema: ./customers.avsc");
    assert_history(&lab, &source, &records, "undecodable").await;
}

/// Ten records become a history of three rows and three rejects, of which the second is rejected for `reason`.
async fn assert_history(lab: &Lab, source: &str, records: &[Option<Vec<u8>>], reason: &str) {
    let producer = start_producer(&lab.broker);
    for record in records {
        let payload = record.as_deref();
        producer.produce(ProducedRecord { topic: TOPIC, payload, ..Default::default() }).unwrap();
    }
    producer.flush(Duration::from_secs(120)).unwrap();
    lab.run_until_caught_up(&lab.spec(source, DATASETS).resolved()).await.unwrap();
    lab.assert_proved().await;

    let (history, quarantine) = lab.tables(&lab.clouds[0], "history").await;
    let rows: Vec<_> = history.rows().collect();
    let column = |name: &str| rows.iter().map(|row| row[name].clone()).collect::<Vec<_>>();
    assert_eq!(column("kafka_offset"), [0, 1, 5].map(Value::Int));
    assert_eq!(column("op"), ["r", "u", "d"].map(Value::from));
    assert_eq!(column("name"), [Value::from("Anne"), Value::from("Anna"), Value::Null]);
    assert_eq!(column("seen"), [Value::Micros(1_700_000_000_000_001), Value::Null, Value::Null]);
    assert_eq!(column("deleted"), [false, false, true].map(Value::Bool));
    assert_eq!(column("changed_at"), [1_700_000_000_123_000; 3].map(Value::Micros));
    let rejected: Vec<_> =
        quarantine.rows().map(|row| (row["offset"].clone(), row["reason"].clone())).collect();
    let due = [(4, "invalid_value"), (7, reason), (8, "missing_field")];
    assert_eq!(rejected, due.map(|(offset, reason)| (Value::Int(offset), Value::from(reason))));
    // The row named `test`, and three records that are none.
    let counts: Vec<_> = history.log.versions.iter().map(|version| &version.isobar()["rows"]).collect();
    let sum = |name: &str| counts.iter().filter_map(|rows| rows[name].as_u64()).sum::<u64>();
    assert_eq!([sum("in"), sum("out"), sum("filtered")], [10, 3, 4]);
}
