//! Headers of records: picked by SQL, kept with what is rejected, and there again when that is redriven.

use std::time::Duration;

use isobar_connectors::kafka::ProducedRecord;
use isobar_tests::delta::Table;
use isobar_tests::events::Value;
use isobar_tests::lab::{Lab, start_producer};
use isobar_tests::wait::in_time;
use isobar_topologies::Error;
use isobar_topologies::redrive::{RedriveOptions, Redriven, redrive};
use isobar_topologies::spec::Topology;

const TOPIC: &str = "orders";
const SOURCE: &str =
    "  orders:\n    topic: orders\n    format: json\n    fields: { id: { type: int64, nullable: false } }\n";

/// A dataset that uses headers, and one of the same source that does not.
fn topology(lab: &Lab, check: &str) -> Topology {
    let datasets = format!(
        "  by_header:
    from: orders
    sql: SELECT id, CAST(header(_headers, 'source') AS VARCHAR) AS source FROM orders
    expect:
      - {{ name: has_source, check: \"{check}\", action: quarantine }}
  plain:
    from: orders
    sql: SELECT id FROM orders
"
    );
    lab.spec(SOURCE, &datasets).resolved()
}

const HAS_SOURCE: &str = "header(_headers, 'source') IS NOT NULL";
const HAS_ANY: &str = "header(_headers, 'source') IS NOT NULL OR header(_headers, 'origin') IS NOT NULL";

type HeadersOfRecord<'a> = &'a [(&'a str, Option<&'a [u8]>)];

fn produce(lab: &Lab, records: &[(&str, HeadersOfRecord<'_>)]) {
    let producer = start_producer(&lab.broker);
    for (payload, headers) in records {
        let record =
            ProducedRecord { topic: TOPIC, payload: Some(payload.as_bytes()), headers, ..Default::default() };
        producer.produce(record).unwrap();
    }
    producer.flush(Duration::from_secs(120)).unwrap();
}

fn column(table: &Table, name: &str) -> Vec<Value> {
    table.rows().map(|row| row[name].clone()).collect()
}

/// The numbers in a column, rising: files are in no order.
fn numbers(table: &Table, name: &str) -> Vec<i64> {
    let number = |value| match value {
        Value::Int(number) => number,
        other => panic!("{name} is {other:?}"),
    };
    let mut numbers: Vec<i64> = column(table, name).into_iter().map(number).collect();
    numbers.sort_unstable();
    numbers
}

async fn redriven(lab: &Lab, topology: &Topology, condition: &str) -> Result<Redriven, Error> {
    let options = RedriveOptions {
        dataset: "by_header".into(),
        condition: Some(condition.into()),
        clouds: Some(lab.opened()),
        ..RedriveOptions::default()
    };
    in_time("a redrive", redrive(topology, &options, &())).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejected_record_is_judged_again_by_the_headers_it_came_with() {
    let lab = Lab::new(&[TOPIC], 3, false);
    produce(
        &lab,
        &[
            (r#"{"id":1}"#, &[("source", Some(b"web")), ("source", Some(b"shop"))]),
            (r#"{"id":2}"#, &[("origin", Some(b"\xff"))]),
            (r#"{"id":3}"#, &[]),
            (r#"{"id":4}"#, &[("source", Some(b"\xff"))]),
            (r#"{"id":"5"}"#, &[("source", Some(b"web"))]),
        ],
    );
    lab.run_until_caught_up(&topology(&lab, HAS_SOURCE)).await.unwrap();
    lab.assert_proved().await;
    let (dataset, quarantine) = lab.tables(&lab.clouds[0], "by_header").await;
    assert_eq!(column(&dataset, "source"), [Value::from("shop")]);
    let reasons = ["expectation", "expectation", "expectation", "wrong_type"].map(Value::from);
    assert_eq!(column(&quarantine, "reason"), reasons);
    assert!(quarantine.rows().all(|row| row.contains_key("headers")));
    let (_, plain) = lab.tables(&lab.clouds[0], "plain").await;
    assert_eq!(plain.rows().filter(|row| !row.contains_key("headers")).count(), 1);

    let relaxed = topology(&lab, HAS_ANY);
    // The second record is accepted now; the fourth is selected and rejected again, for its header is still no text.
    let second = redriven(&lab, &relaxed, "header(headers, 'origin') IS NOT NULL").await.unwrap();
    assert_eq!((second.rows.input, second.rows.output), (1, 1));
    let again = redriven(&lab, &relaxed, "rule IS NOT NULL").await.unwrap();
    assert_eq!((again.rows.input, again.rows.rejected_total()), (2, 2), "{again:?}");
    lab.run_until_caught_up(&relaxed).await.unwrap();
    lab.assert_proved().await;
    let (dataset, quarantine) = lab.tables(&lab.clouds[0], "by_header").await;
    assert_eq!(numbers(&dataset, "id"), [1, 2]);
    assert_eq!(numbers(&quarantine, "offset"), [2, 3, 4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quarantine_keeps_headers_from_its_beginning_or_not_at_all() {
    let datasets = |check: &str| {
        let expect =
            format!("    expect:\n      - {{ name: rule, check: \"{check}\", action: quarantine }}\n");
        format!("  orders_seen:\n    from: orders\n    sql: SELECT id FROM orders\n{expect}")
    };
    for (before, after, part) in [
        ("id > 0", "_headers IS NOT NULL", "leave `_headers` out"),
        ("_headers IS NOT NULL", "id > 0", "_headers IS NOT NULL"),
    ] {
        let lab = Lab::new(&[TOPIC], 3, false);
        produce(&lab, &[(r#"{"id":1}"#, &[]), (r#"{"id":2}"#, &[("a", None)])]);
        let [before, after] = [before, after].map(|check| lab.spec(SOURCE, &datasets(check)).resolved());
        lab.run_until_caught_up(&before).await.unwrap();
        let refused = lab.run_until_caught_up(&after).await.unwrap_err();
        assert!(matches!(refused, Error::Configuration(_)), "{refused:?}");
        let message = refused.to_string();
        assert!(message.contains("orders_seen.quarantine exists") && message.contains(part), "{message}");
        // Nothing has happened, and the topology goes on as it was.
        lab.run_until_caught_up(&before).await.unwrap();
        lab.assert_proved().await;
    }
}
