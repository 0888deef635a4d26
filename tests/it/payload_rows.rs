//! Records that hold several rows: all of them are in the dataset or none, the counts add up, and a redrive of one that was
//! rejected lands each of its rows once.

use std::time::Duration;

use isobar_connectors::kafka::ProducedRecord;
use isobar_tests::events::Value;
use isobar_tests::lab::{Lab, Spec, start_producer};
use isobar_tests::wait::in_time;
use isobar_topologies::redrive::{RedriveOptions, redrive};

const TOPIC: &str = "readings";
const DATASET: &str = "readings_kept";

fn spec(lab: &Lab, rows: &str, largest: i64) -> Spec {
    let source = format!(
        "  readings:
    topic: {TOPIC}
    format: json
    payload_rows: {rows}
    fields: {{ sensor: string, value: int64 }}
"
    );
    let dataset = format!(
        "  {DATASET}:
    from: readings
    sql: SELECT sensor, value, _offset AS kafka_offset FROM readings WHERE sensor <> 'test'
    expect:
      - {{ name: known, check: \"sensor IS NOT NULL\", action: drop }}
      - {{ name: plausible, check: \"value <= {largest}\", action: quarantine }}
"
    );
    lab.spec(&source, &dataset)
}

fn reading(sensor: &str, value: i64) -> String {
    match sensor {
        "" => format!(r#"{{"value":{value}}}"#),
        sensor => format!(r#"{{"sensor":"{sensor}","value":{value}}}"#),
    }
}

async fn produced(records: &[&str]) -> Lab {
    let lab = Lab::new(&[TOPIC], 3, false);
    let producer = start_producer(&lab.broker);
    for record in records {
        let payload = Some(record.as_bytes());
        producer.produce(ProducedRecord { topic: TOPIC, payload, ..Default::default() }).unwrap();
    }
    producer.flush(Duration::from_secs(120)).unwrap();
    lab
}

/// Offset and value of every row, in order.
async fn rows(lab: &Lab) -> Vec<(Value, Value)> {
    let (dataset, _) = lab.tables(&lab.clouds[2], DATASET).await;
    let mut rows: Vec<_> =
        dataset.rows().map(|row| (row["kafka_offset"].clone(), row["value"].clone())).collect();
    rows.sort_by_key(|row| format!("{row:?}"));
    rows
}

fn due(rows: &[(i64, i64)]) -> Vec<(Value, Value)> {
    let mut rows: Vec<_> =
        rows.iter().map(|(offset, value)| (Value::Int(*offset), Value::Int(*value))).collect();
    rows.sort_by_key(|row| format!("{row:?}"));
    rows
}

/// The sum of a count over all versions of the dataset.
async fn counted<const N: usize>(lab: &Lab, names: [&str; N]) -> [u64; N] {
    let (dataset, _) = lab.tables(&lab.clouds[0], DATASET).await;
    let counts: Vec<_> = dataset.log.versions.iter().map(|version| &version.isobar()["rows"]).collect();
    names.map(|name| counts.iter().filter_map(|rows| rows[name].as_u64()).sum::<u64>())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_of_several_rows_is_accepted_or_rejected_as_a_whole_and_redriven_once() {
    let array = |readings: &[String]| format!("[{}]", readings.join(","));
    let records = [
        array(&[reading("a", 1), reading("b", 2), reading("c", 3)]),
        // The second is implausible, the third would have been dropped.
        array(&[reading("a", 4), reading("b", 500), reading("", 6), reading("c", 700)]),
        "[]".to_owned(),
        array(&[reading("test", 7), reading("", 8), reading("a", 9)]),
        array(&[reading("a", 10), "17".to_owned()]),
        array(&[reading("test", 11), reading("test", 12)]),
    ];
    let lab = produced(&records.each_ref().map(String::as_str)).await;
    lab.run_until_caught_up(&spec(&lab, "array", 100).resolved()).await.unwrap();
    lab.assert_proved().await;
    assert_eq!(rows(&lab).await, due(&[(0, 1), (0, 2), (0, 3), (3, 9)]));
    let (_, quarantine) = lab.tables(&lab.clouds[1], DATASET).await;
    let rejected: Vec<_> =
        quarantine.rows().map(|row| (row["offset"].clone(), row["reason"].clone())).collect();
    let expected = [(1, "expectation"), (4, "undecodable")];
    assert_eq!(rejected, expected.map(|(offset, reason)| (Value::Int(offset), Value::from(reason))));
    // Six records. Of those accepted, three hold three, three and two rows; one row is dropped, and three are of tests, and
    // the record that holds none is filtered too.
    assert_eq!(counted(&lab, ["in", "expanded", "out", "filtered"]).await, [6, 5, 4, 4]);

    // Once the values are plausible, the record lands with all its rows, and the other stays.
    let options =
        RedriveOptions { dataset: DATASET.into(), clouds: Some(lab.opened()), ..RedriveOptions::default() };
    let topology = spec(&lab, "array", 1000).resolved();
    let redriven = in_time("a redrive", redrive(&topology, &options, &())).await.unwrap();
    assert_eq!((redriven.rows.input, redriven.rows.expanded, redriven.rows.output), (2, 3, 3));
    lab.assert_proved().await;
    assert_eq!(rows(&lab).await, due(&[(0, 1), (0, 2), (0, 3), (1, 4), (1, 500), (1, 700), (3, 9)]));
    let (_, quarantine) = lab.tables(&lab.clouds[1], DATASET).await;
    assert_eq!(quarantine.rows().map(|row| row["offset"].clone()).collect::<Vec<_>>(), [Value::Int(4)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_line_is_a_row() {
    let lines = [reading("a", 1), String::new(), reading("b", 2)].join("\r\n");
    let lab = produced(&[&lines, &reading("a", 3), "\n", "not JSON"]).await;
    lab.run_until_caught_up(&spec(&lab, "lines", 100).resolved()).await.unwrap();
    lab.assert_proved().await;
    assert_eq!(rows(&lab).await, due(&[(0, 1), (0, 2), (1, 3)]));
    assert_eq!(counted(&lab, ["in", "expanded", "out", "filtered"]).await, [4, 1, 3, 1]);
}
