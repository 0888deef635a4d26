//! Change events of Debezium become a history: each change once, deletes too, and nothing is lost from the counts.

use std::time::Duration;

use isobar_connectors::kafka::ProducedRecord;
use isobar_tests::events::Value;
use isobar_tests::lab::{Lab, start_producer};

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
    let lab = Lab::new(&[TOPIC], 3, false);
    let producer = start_producer(&lab.broker);
    for record in &records {
        let payload = record.as_ref().map(String::as_bytes);
        producer.produce(ProducedRecord { topic: TOPIC, payload, ..Default::default() }).unwrap();
    }
    producer.flush(Duration::from_secs(120)).unwrap();
    lab.run_until_caught_up(&lab.spec(SOURCE, DATASETS).resolved()).await.unwrap();
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
    let due = [(4, "invalid_value"), (7, "unknown_field"), (8, "missing_field")];
    assert_eq!(rejected, due.map(|(offset, reason)| (Value::Int(offset), Value::from(reason))));
    // The row named `test`, and the heartbeat and two tombstones, which are none.
    let counts: Vec<_> = history.log.versions.iter().map(|version| &version.isobar()["rows"]).collect();
    let sum = |name: &str| counts.iter().filter_map(|rows| rows[name].as_u64()).sum::<u64>();
    assert_eq!([sum("in"), sum("out"), sum("filtered")], [10, 3, 4]);
}
