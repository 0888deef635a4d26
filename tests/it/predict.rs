//! Models in the stream and in queries. What needs ONNX Runtime is switched on by its path in `ISOBAR_ONNXRUNTIME`.

use std::time::Duration;

use isobar_connectors::kafka::ProducedRecord;
use isobar_tests::delta::Log;
use isobar_tests::events::{Row, Value};
use isobar_tests::lab::{Lab, PARTITIONS, Running, Spec, start_producer, text_of};
use isobar_tests::letters;
use isobar_tests::models::has_library;
use isobar_tests::published::{assert_are_rows_of, row_of};
use isobar_tests::wait::until;
use isobar_topologies::models::{Manifest, Which, Writer};
use isobar_topologies::query::{RowsFormat, catalog_in};
use isobar_topologies::redrive::{RedriveOptions, redrive};
use isobar_topologies::spec::Topology;
use serde_json::Value as Json;

use crate::models::{golden_candidate, writer};

const TOPIC: &str = "flights";
const DATASET: &str = "scored";
const MODEL: &str = "delay";

fn spec(lab: &Lab, models: &str) -> Spec {
    let source = format!(
        "  flights:
    topic: {TOPIC}
    format: json
    fields: {{ id: int64, x: float64 }}
"
    );
    let dataset = format!(
        "  {DATASET}:
    from: flights
    sql: |
      SELECT id, x, p['value'] AS value, p['model'] AS model, p['version'] AS version, p['sha256'] AS sha256,
             p['features'] AS features, p['challenger'] AS challenger
      FROM (SELECT id, x, predict('{MODEL}', x) AS p FROM flights)
{models}"
    );
    lab.spec(&source, &dataset)
}

/// Registers a golden model as the next version of [`MODEL`].
async fn register(lab: &Lab, writer: &Writer, golden: &str, alias: Option<&str>) -> Manifest {
    let features = r#"{"features":[{"name":"x","type":"float64","dataset":"flights","contract":"1.2.0"}]}"#;
    writer.register(&golden_candidate(lab, golden, MODEL, features), alias).await.unwrap()
}

/// Produces records with these values, `None` without one; their ids go on from `first`.
fn produce(lab: &Lab, first: usize, values: &[Option<f64>]) {
    let producer = start_producer(&lab.broker);
    for (id, value) in (first..).zip(values) {
        let payload = match value {
            Some(value) => format!(r#"{{"id":{id},"x":{value}}}"#),
            None => format!(r#"{{"id":{id}}}"#),
        };
        let payload = Some(payload.as_bytes());
        producer.produce(ProducedRecord { topic: TOPIC, payload, ..Default::default() }).unwrap();
    }
    producer.flush(Duration::from_secs(120)).unwrap();
}

/// All rows in a cloud, by id.
async fn rows(lab: &Lab) -> Vec<Row> {
    let (dataset, _) = lab.tables(&lab.clouds[0], DATASET).await;
    let mut rows: Vec<Row> = dataset.rows().cloned().collect();
    rows.sort_by_key(|row| int(&row["id"]));
    rows
}

fn int(value: &Value) -> i64 {
    match value {
        Value::Int(number) => *number,
        other => panic!("{other:?} is no whole number"),
    }
}

async fn wait_for_rows(lab: &Lab, running: &Running, count: usize) -> Vec<Row> {
    until("the rows are committed", async || {
        assert!(!running.has_ended(), "the pipeline ended");
        rows(lab).await.len() >= count
    })
    .await;
    rows(lab).await
}

async fn asked(topology: &Topology, lab: &Lab, sql: &str) -> Result<String, isobar_topologies::Error> {
    text_of(&mut catalog_in(topology, &lab.opened())?.query(sql).await?, RowsFormat::Csv).await
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_carry_the_digest_of_the_model_and_a_moved_alias_takes_over_at_a_commit() {
    if !has_library("rows_carry_the_digest_of_the_model_and_a_moved_alias_takes_over_at_a_commit") {
        return;
    }
    let lab = Lab::new(&[TOPIC], 3, false);
    let writer = writer(&lab);
    let first = register(&lab, &writer, "picky", Some("champion")).await;
    let second = register(&lab, &writer, "twice", None).await;
    assert_eq!((first.version, second.version), (1, 2));
    let topology = spec(&lab, "").resolved();
    let running = lab.start(&topology);
    running.ready().await;

    // The last two cannot be scored: one has no feature, and the graph fails on the other.
    let values: Vec<Option<f64>> =
        (0..10).map(|value| Some(f64::from(value))).chain([None, Some(12.0)]).collect();
    produce(&lab, 0, &values);
    let scored = wait_for_rows(&lab, &running, 10).await;
    for (id, row) in scored.iter().enumerate() {
        assert_eq!(row["value"], Value::Float(id as f64 * 10.0), "{row:?}");
        assert_eq!(
            (&row["version"], &row["sha256"]),
            (&Value::Int(1), &Value::Text(first.onnx.sha256.clone()))
        );
        assert_eq!(row["features"], Value::Text("flights@1.2.0".into()));
        assert_eq!((&row["model"], &row["challenger"]), (&Value::Text(MODEL.into()), &Value::Null));
    }

    let (version, changed) = writer.promote(MODEL, &Which::Version(2), "champion").await.unwrap();
    assert_eq!((version, changed), (2, true));
    let mut count = 12;
    until("the second model answers", async || {
        produce(&lab, count, &[Some(3.0)]);
        count += 1;
        let rows = wait_for_rows(&lab, &running, count - 2).await;
        rows.last().is_some_and(|row| row["version"] == Value::Int(2))
    })
    .await;
    running.stop().await.unwrap();
    lab.wait_until_equal(DATASET).await;

    let scored = rows(&lab).await;
    let versions: Vec<i64> = scored.iter().map(|row| int(&row["version"])).collect();
    assert!(versions.is_sorted(), "no row before the turn is of the second: {versions:?}");
    for row in &scored {
        let (x, manifest) = match (&row["x"], int(&row["version"])) {
            (Value::Float(x), 1) => (x * 10.0, &first),
            (Value::Float(x), 2) => (x * 2.0, &second),
            other => panic!("{other:?}"),
        };
        assert_eq!(row["value"], Value::Float(x), "{row:?}");
        assert_eq!(row["sha256"], Value::Text(manifest.onnx.sha256.clone()));
    }
    // What each commit says of its rows is so.
    let log = Log::read(&*lab.clouds[1].store(), DATASET).await;
    let mut counted = [0_u64; 2];
    for version in &log.versions {
        let Some(models) = version.isobar().get("models").and_then(Json::as_array) else { continue };
        assert_eq!(models.len(), 1, "all rows of a commit are of one model: {models:?}");
        let manifest = if models[0]["version"] == 1 { &first } else { &second };
        assert_eq!(models[0]["sha256"], manifest.onnx.sha256.as_str());
        counted[manifest.version as usize - 1] += version.isobar()["rows"]["out"].as_u64().unwrap();
    }
    let of = |version: i64| versions.iter().filter(|other| **other == version).count() as u64;
    assert_eq!(counted, [of(1), of(2)]);
    let counts = log.counts();
    assert_eq!(counts.rejected, [("predict_error".to_owned(), 2)].into());
    assert_eq!(counts.input, counts.output + 2);

    // Queries are answered by the same models.
    let sql = format!(
        "SELECT predict('{MODEL}', 3.0)['value'] AS now, predict('{MODEL}@1', 3.0)['value'] AS before"
    );
    assert_eq!(asked(&topology, &lab, &sql).await.unwrap(), "now,before\n6.0,30.0\n");
    let over_rows =
        format!("SELECT count(*) AS n FROM {DATASET} WHERE predict('{MODEL}@2', x)['value'] = 2 * x");
    assert_eq!(asked(&topology, &lab, &over_rows).await.unwrap(), format!("n\n{}\n", scored.len()));
    for (call, expected) in [
        ("'nobody', 1.0", "nobody"),
        ("'delay@best', 1.0", "no alias best"),
        ("'delay', 1.0, 2.0", "it takes 1 features (x), predict() is given 2"),
        ("'delay@1', 99.0", "ONNX Runtime"),
    ] {
        let sql = format!("SELECT predict({call})['value'] AS p");
        let error = asked(&topology, &lab, &sql).await.unwrap_err().to_string();
        assert!(error.contains(expected), "{call}: {error}");
    }

    // The second model takes what the first could not, once.
    let options = RedriveOptions {
        dataset: DATASET.into(),
        condition: Some("message LIKE '%ONNX Runtime%'".into()),
        clouds: Some(lab.opened()),
        ..RedriveOptions::default()
    };
    let redriven = redrive(&topology, &options, &()).await.unwrap();
    assert_eq!((redriven.rows.input, redriven.rows.output), (1, 1));
    let again = rows(&lab).await;
    assert_eq!(again.len(), scored.len() + 1);
    let row = again.iter().find(|row| row["x"] == Value::Float(12.0)).unwrap();
    assert_eq!((&row["value"], &row["version"]), (&Value::Float(24.0), &Value::Int(2)));
    let log = Log::read(&*lab.clouds[0].store(), DATASET).await;
    assert_eq!(log.versions.last().unwrap().isobar()["models"][0]["version"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn predictions_return_to_the_cluster_of_the_events_and_are_a_dataset_in_every_cloud() {
    if !has_library("predictions_return_to_the_cluster_of_the_events_and_are_a_dataset_in_every_cloud") {
        return;
    }
    // The events are in the cluster of one lab; the models, the process and the datasets are in the clouds of another.
    let events = Lab::new(&[TOPIC, "scored"], 1, false);
    let lab = Lab::new(&[], 3, false);
    let writer = writer(&lab);
    let champion = register(&lab, &writer, "twice", Some("champion")).await;
    let challenger = register(&lab, &writer, "picky", Some("challenger")).await;
    let section = "    publish: { topic: scored, key: id }\nmodels: { shadow: challenger }\n";
    let spec = Spec { brokers: events.broker.bootstrap_servers(), ..spec(&lab, section) };
    let values: Vec<Option<f64>> = (0..40).map(|value| Some(f64::from(value % 10))).collect();
    produce(&events, 0, &values);
    lab.run_until_caught_up(&spec.resolved()).await.unwrap();
    let sent = letters::read(&events.broker.bootstrap_servers(), "scored", PARTITIONS).await;
    assert_eq!(sent.len(), values.len());
    for cloud in &lab.clouds {
        let (dataset, _) = lab.tables(cloud, DATASET).await;
        assert_are_rows_of(&sent, &dataset, &["id"]);
    }
    for letter in &sent {
        let row = row_of(letter);
        let x = row["x"].as_f64().unwrap();
        assert_eq!(letter.key.as_deref(), Some(row["id"].to_string().as_bytes()));
        assert_eq!((row["value"].as_f64(), row["challenger"].as_f64()), (Some(x * 2.0), Some(x * 10.0)));
        assert_eq!((&row["version"], row["sha256"].as_str()), (&Json::from(1), Some(&*champion.onnx.sha256)));
    }
    assert_ne!(champion.onnx.sha256, challenger.onnx.sha256);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_challenger_that_never_ends_costs_no_row() {
    if !has_library("a_challenger_that_never_ends_costs_no_row") {
        return;
    }
    let lab = Lab::new(&[TOPIC], 1, false);
    let writer = writer(&lab);
    register(&lab, &writer, "twice", Some("champion")).await;
    register(&lab, &writer, "endless", Some("challenger")).await;
    produce(&lab, 0, &[Some(1.0), Some(2.0)]);
    let section = "models:\n  shadow: challenger\n  time: 2s\n";
    lab.run_until_caught_up(&spec(&lab, section).resolved()).await.unwrap();
    let scored = rows(&lab).await;
    let values: Vec<_> = scored.iter().map(|row| (&row["value"], &row["challenger"])).collect();
    assert_eq!(values, [(&Value::Float(2.0), &Value::Null), (&Value::Float(4.0), &Value::Null)]);

    // As the champion it would be waited for, and nothing is lost.
    writer.promote(MODEL, &Which::Version(2), "champion").await.unwrap();
    produce(&lab, 2, &[Some(1.0)]);
    lab.run_until_caught_up(&spec(&lab, section).resolved()).await.unwrap();
    assert_eq!(rows(&lab).await.len(), 2);
    let counts = Log::read(&*lab.clouds[0].store(), DATASET).await.counts();
    assert_eq!(counts.rejected, [("predict_timeout".to_owned(), 1)].into());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topology_without_its_library_or_its_model_does_not_start() {
    let lab = Lab::new(&[TOPIC], 1, false);
    produce(&lab, 0, &[Some(1.0)]);
    let nowhere = spec(&lab, "models:\n  onnxruntime: nowhere/libonnxruntime.so\n").resolved();
    let error = lab.run_until_caught_up(&nowhere).await.unwrap_err();
    let said = error.to_string();
    assert!(said.contains("nowhere/libonnxruntime.so") && said.contains("ISOBAR_ONNXRUNTIME"), "{said}");
    assert_eq!(error.exit_code(), 2);
    assert_eq!(lab.versions(DATASET).await, [None], "nothing was written");
    if has_library("a_topology_without_its_library_or_its_model_does_not_start") {
        let error = lab.run_until_caught_up(&spec(&lab, "").resolved()).await.unwrap_err();
        assert!(error.to_string().contains(MODEL), "{error}");
        assert_eq!(lab.versions(DATASET).await, [None]);
    }
}
