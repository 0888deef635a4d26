//! Drift and skew on real tables: a month of the demo's flights, a unit that changes, values that were served and should not have been,
//! and answers that turn bad.

use std::collections::BTreeMap;
use std::path::Path;

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, TimeUnit, TimestampMillisecondType};
use isobar_tests::events::Record;
use isobar_tests::lab::{Lab, write_file};
use isobar_tests::models;
use isobar_tests::prng::Seed;
use isobar_tests::program::{Output, run_isobar};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Value as Json, json};
use tempfile::TempDir;

const SET: &str = include_str!("../../topologies/flight_delays/flight_delay.yaml");
const SERVED: &str = include_str!("../../topologies/served_vectors/topology.yaml");
const SERVED_CONTRACT: &str = include_str!("../../topologies/served_vectors/contracts/served_vectors.yaml");

/// The features of the demo's model, and whether they are names.
const FEATURES: [(&str, bool); 12] = [
    ("origin_code", true),
    ("destination_code", true),
    ("carrier_code", true),
    ("distance_miles", false),
    ("day_of_week", false),
    ("minute_of_day", false),
    ("weather__temperature_fahrenheit", false),
    ("weather__humidity_percent", false),
    ("weather__wind_speed_mph", false),
    ("weather__precipitation_inches", false),
    ("weather__pressure_millibars", false),
    ("weather__visibility_miles", false),
];

/// 31 August 2013, 04:00 UTC: the rows before it were learnt from.
const TRAINED_TO_MS: i64 = 1_377_921_600_000;

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("paths of tests are UTF-8")
}

pub(crate) fn json_of(output: &Output) -> Json {
    serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}\n{output}"))
}

/// Times and values of a column, in the order of the file.
fn numbers(batches: &[RecordBatch], name: &str) -> Vec<(i64, Option<f64>)> {
    let mut numbers = Vec::new();
    for batch in batches {
        let instant = DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()));
        let times = cast(&batch["scheduled_at"], &instant).unwrap();
        let values = cast(&batch[name], &DataType::Float64).unwrap();
        let pairs =
            times.as_primitive::<TimestampMillisecondType>().iter().zip(values.as_primitive::<Float64Type>());
        numbers.extend(pairs.map(|(time, value)| (time.unwrap(), value)));
    }
    numbers
}

/// What the training in Python writes, of the rows in `file` that it learns from.
fn statistics(file: &Path) -> Json {
    let file = std::fs::File::open(file).unwrap();
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
    let batches: Vec<RecordBatch> = reader.map(Result::unwrap).collect();
    let mut features = serde_json::Map::new();
    let mut rows = 0;
    for (name, is_name) in FEATURES {
        let learnt = numbers(&batches, name).into_iter().filter(|(time, _)| *time < TRAINED_TO_MS);
        let values: Vec<Option<f64>> =
            learnt.map(|(_, value)| value.map(|value| f64::from(value as f32))).collect();
        rows = values.len();
        let mut present: Vec<f64> = values.iter().flatten().copied().collect();
        present.sort_by(f64::total_cmp);
        let missing = rows - present.len();
        let feature = if is_name {
            let mut counts: BTreeMap<String, u64> = BTreeMap::new();
            present.iter().for_each(|value| *counts.entry(format!("{value:.0}")).or_default() += 1);
            json!({ "kind": "category", "rows": rows, "missing": missing, "counts": counts })
        } else {
            let mut edges: Vec<f64> = (0..=20).map(|at| present[(present.len() - 1) * at / 20]).collect();
            edges.dedup();
            let mut counts = vec![0; edges.len() + 1];
            present.iter().for_each(|value| counts[edges.partition_point(|edge| edge <= value)] += 1);
            json!({ "kind": "number", "rows": rows, "missing": missing, "edges": edges, "counts": counts })
        };
        features.insert(name.to_owned(), feature);
    }
    assert!(rows > 200_000, "{rows}");
    json!({
        "format": "isobar feature statistics 1",
        "rows": rows,
        "from": "2013-01-01T10:15:00+00:00",
        "to": "2013-08-31T03:59:00+00:00",
        "features": features
    })
}

/// The demo's tables, with a model of them.
async fn demo() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let kept = folder.path().join("demo");
    run_isobar(&["demo", "--keep", text(&kept)]).await.assert(0, &[]);
    let topology = kept.join("topology.yaml");
    let set = write_file(&kept.join("flight_delay.yaml"), SET);
    let sets = folder.path().join("sets");
    let made = run_isobar(&["training-set", text(&set), "--out", text(&sets), "--format", "json"]).await;
    made.assert(0, &[]);
    let file = json_of(&made)["file"].as_str().unwrap().to_owned();
    let features: Vec<(&str, &str)> =
        FEATURES.iter().map(|(name, is_name)| (*name, if *is_name { "int64" } else { "float64" })).collect();
    let model = models::folder_of(&features, Some(&statistics(Path::new(&file))));
    register(model.path(), "flight_delay", &topology).await;
    folder
}

async fn register(folder: &Path, model: &str, topology: &Path) {
    let arguments = ["models", "register", text(folder), "--model", model, "--config", text(topology)];
    run_isobar(&arguments).await.assert(0, &["version 1 is registered"]);
}

/// `isobar drift check` of the weeks of October 2013.
async fn checked(set: &Path, further: &[&str]) -> Output {
    let arguments =
        ["drift", "check", "--model", "flight_delay", "--training-set", text(set), "--windows", "4"];
    run_isobar(&[&arguments[..], &["--until", "2013-10-29", "--format", "json"], further].concat()).await
}

/// Window and feature of each alarm.
fn alarms(report: &Json) -> Vec<(usize, String)> {
    let windows = report["windows"].as_array().unwrap().iter().enumerate();
    let found = windows.flat_map(|(at, window)| {
        let features =
            window["features"].as_array().unwrap().iter().filter(|feature| feature["alarm"] == true);
        features.map(move |feature| (at, feature["feature"].as_str().unwrap().to_owned()))
    });
    found.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_month_of_flights_raises_no_alarm_and_miles_that_became_kilometres_do() {
    let folder = demo().await;
    let kept = folder.path().join("demo");
    let set = kept.join("flight_delay.yaml");
    let output = checked(&set, &[]).await;
    output.assert(0, &[]);
    let report = json_of(&output);
    assert!(alarms(&report).is_empty(), "{report:#}");
    // All twelve features of all four weeks were judged, by three distances each.
    assert_eq!((report["tests"].as_u64(), report["alarms"].as_u64()), (Some(4 * 12 * 3), Some(0)));
    assert_eq!(report["read"].as_array().unwrap().len(), 2, "{report:#}");

    let kilometres = "CASE WHEN CAST(CAST(scheduled_at AS DATE) AS VARCHAR) BETWEEN '2013-10-15' AND '2013-10-21' \
                      THEN distance_miles * 1.609344 ELSE distance_miles END AS distance_miles,\n";
    let line = "      distance_miles,\n";
    assert!(SET.contains(line));
    let shifted = write_file(&kept.join("shifted.yaml"), &SET.replace(line, &format!("      {kilometres}")));
    let [html, metrics, state, retrained] =
        ["drift.html", "drift.prom", "state", "retrained"].map(|name| folder.path().join(name));
    let line = format!("echo \"$ISOBAR_DRIFT_FEATURES $ISOBAR_DRIFT_FROM\" >> '{}'", retrained.display());
    for _ in 0..2 {
        let further = [
            &["--html", text(&html), "--metrics", text(&metrics), "--state", text(&state)][..],
            &["--on-drift", "sh", "-c", &line],
        ];
        let output = checked(&shifted, &further.concat()).await;
        output.assert(3, &[]);
        let report = json_of(&output);
        assert_eq!(alarms(&report), [(2, "distance_miles".to_owned())], "{report:#}");
    }
    let said = std::fs::read_to_string(&retrained).unwrap();
    assert_eq!(said, "distance_miles 2013-10-15T00:00:00.000Z\n");
    let page = std::fs::read_to_string(&html).unwrap();
    assert!(page.contains("distance_miles") && page.contains("</html>"));
    let metrics = std::fs::read_to_string(&metrics).unwrap();
    assert!(metrics.contains(r#"isobar_drift_features_judged{model="flight_delay"} 12"#), "{metrics}");

    // A page that cannot be written is a failure, and hides neither the report nor the metrics.
    let (nowhere, others) = (folder.path().join("absent/drift.html"), folder.path().join("others.prom"));
    let output = checked(&shifted, &["--html", text(&nowhere), "--metrics", text(&others)]).await;
    output.assert(1, &["write the report to", "absent/drift.html"]);
    assert_eq!(json_of(&output)["alarms"], 1);
    assert!(std::fs::read_to_string(&others).unwrap().contains("isobar_drift_alarm"));

    // Other rows than those that were learnt from, and windows that lie among them.
    let doubled = SET.replace("      distance_miles,\n", "      distance_miles * 2 AS distance_miles,\n");
    let doubled = write_file(&kept.join("doubled.yaml"), &doubled);
    checked(&doubled, &[]).await.assert(2, &["distance_miles: ", "not the rows that it learnt from"]);
    let arguments = ["drift", "check", "--model", "flight_delay", "--training-set", text(&set)];
    let output = run_isobar(&[&arguments[..], &["--until", "2013-06-01"]].concat()).await;
    output.assert(2, &["cannot be held against itself"]);
    let output =
        run_isobar(&[&arguments[..], &["--until", "2013-10-29", "--reference", "30d"]].concat()).await;
    output.assert(0, &["the reference has 30 days with rows", "0 tests"]);
}

pub(crate) fn record(payload: &Json) -> Record {
    Record::bad(Some(payload.to_string().as_bytes()), "not of the events")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_served_is_compared_with_what_the_datasets_say() {
    let lab = Lab::new(&["observations", "served_vectors"], 3, true);
    let observed = [("10:00:00", 1.5, 3), ("12:00:00", 2.5, 4)];
    lab.produce(
        "observations",
        observed.iter().map(|(time, value, number)| {
            record(&json!({ "k": "a", "event_time": format!("2026-01-01T{time}Z"), "value": value, "number": number }))
        }),
    );
    let served = [
        // As it was known.
        ("same", "late", "2026-01-01T11:00:00Z", "a", json!([1.5, 3])),
        // A value that nobody knew at eleven.
        ("future", "late", "2026-01-01T11:00:00Z", "a", json!([2.5, 3])),
        ("lost", "late", "2026-01-01T13:00:00Z", "a", json!([null, 4])),
        ("invented", "late", "2026-01-01T13:00:00Z", "z", json!([7.0, null])),
        ("rounded", "late", "2026-01-01T13:00:00Z", "a", json!([2.500_000_01, 4])),
        ("short", "late", "2026-01-01T13:00:00Z", "a", json!([2.5])),
        ("other model", "early", "2026-01-01T13:00:00Z", "a", json!([9.0, 9])),
        ("twice", "early", "2026-01-03T13:00:00Z", "a", json!([9.0, 9])),
        ("twice", "late", "2026-01-03T13:00:00Z", "a", json!([2.5, 4])),
        ("next day", "late", "2026-01-02T13:00:00Z", "a", json!([2.5, 4])),
    ];
    lab.produce(
        "served_vectors",
        served.iter().map(|(id, model, served_at, key, values)| {
            record(&json!({
                "id": id, "model": model, "model_version": 1, "model_sha256": "ab".repeat(32), "served_at": served_at,
                "keys": { "k": key }, "feature_values": values, "prediction": 0.5
            }))
        }),
    );
    let sources = "  observations:
    topic: observations
    format: json
    fields: { k: string, event_time: timestamp, value: float64, number: int64 }
";
    let datasets = "  observed:
    from: observations
    sql: SELECT k, event_time, value, number FROM observations
";
    let spec = lab.spec(sources, datasets);
    lab.run_until_caught_up(&spec.resolved()).await.unwrap();
    lab.wait_until_equal("observed").await;
    let topology = spec.written();
    run_isobar(&["run", text(&served_spec(&lab)), "--until-caught-up"]).await.assert(0, &[]);
    lab.wait_until_equal("served_vectors").await;
    let features = [("observed__value", "float64"), ("observed__number", "int64")];
    register(models::folder_of(&features, None).path(), "late", &topology).await;

    let offline = "training_set: served_late
topology: topology.yaml
spine:
  query: SELECT id, served_at, keys['k'] AS k FROM served_vectors
  time: served_at
  keys: [k]
  labels: [id]
views:
  observed: { features: [value, number] }
";
    let offline = write_file(&topology.parent().unwrap().join("offline.yaml"), offline);
    let arguments =
        ["drift", "skew", "--model", "late", "--served", "served_vectors", "--offline", text(&offline)];
    let first_days = ["--from", "2026-01-01", "--until", "2026-01-03", "--format", "json"];
    let output = run_isobar(&[&arguments[..], &first_days].concat()).await;
    output.assert(3, &[]);
    let report = json_of(&output);
    assert_eq!(
        (&report["rows"], &report["malformed"], &report["without_offline"], &report["alarms"]),
        (&json!(7), &json!(1), &json!(0), &json!(1)),
        "{report:#}"
    );
    let counts = |feature: usize| {
        let feature = &report["features"][feature];
        ["same", "different", "missing_served", "missing_offline"]
            .map(|count| feature[count].as_u64().unwrap())
    };
    assert_eq!((counts(0), counts(1)), ([3, 1, 1, 1], [6, 0, 0, 0]), "{report:#}");
    let mut examples: Vec<String> = report["features"][0]["examples"]
        .as_array()
        .unwrap()
        .iter()
        .map(|found| format!("{} {} {}", found["id"].as_str().unwrap(), found["served"], found["offline"]))
        .collect();
    examples.sort();
    assert_eq!(examples, ["future 2.5 1.5", "invented 7.0 null", "lost null 2.5"]);

    let next_day = ["--from", "2026-01-02", "--until", "2026-01-03"];
    let output = run_isobar(&[&arguments[..], &next_day].concat()).await;
    output.assert(0, &["1 served rows", "0 features alarm"]);
    // An id that the answer of another model has too, and a day without any.
    let last_day = ["--from", "2026-01-03", "--until", "2026-01-04"];
    let output = run_isobar(&[&arguments[..], &last_day].concat()).await;
    output.assert(2, &["1 rows were served, and have 2 rows with the same `id`"]);
    let no_day = ["--from", "2026-01-04", "--until", "2026-01-05"];
    let output = run_isobar(&[&arguments[..], &no_day].concat()).await;
    output.assert(
        2,
        &["nothing was served by late version 1 from 2026-01-04T00:00:00.000Z", "--model late@VERSION"],
    );
}

/// The topology of the log as it is given, in the clouds of a lab.
pub(crate) fn served_spec(lab: &Lab) -> std::path::PathBuf {
    let folder = lab.directory.path().join("served");
    std::fs::create_dir_all(folder.join("contracts")).unwrap();
    write_file(&folder.join("contracts/served_vectors.yaml"), SERVED_CONTRACT);
    let brokers = format!("  brokers: {}\n  topic_identity: name\n", lab.broker.bootstrap_servers());
    let mut spec = SERVED.replace("  brokers: localhost:9092\n", &brokers);
    for cloud in &lab.clouds {
        let (name, url) = (&cloud.name, &cloud.url);
        let given = format!("\"file:./{name}\"");
        assert!(spec.contains(&given), "{given}");
        spec = spec.replace(&given, &format!("\"{url}\""));
    }
    write_file(&folder.join("topology.yaml"), &spec.replace("interval: 10s", "interval: 200ms"))
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_turn_bad_alarm_once_their_labels_are_there() {
    let lab = Lab::new(&["scores"], 3, true);
    let mut prng = Seed::of("drift performance").prng();
    let mut records = Vec::new();
    for day in 0..21 {
        for row in 0..40 {
            let percent = 5 + prng.below(91);
            let late = prng.below(100) < percent;
            // The second week says the opposite, and of the third half of the labels are not known.
            let said = if (7..14).contains(&day) { 100 - percent } else { percent };
            let label = (day < 14 || row % 2 == 0).then_some(late);
            let at = format!("2025-01-{:02}T12:00:{row:02}Z", 5 + day);
            records.push(record(&json!({ "scored_at": at, "p": said as f64 / 100.0, "late": label })));
        }
    }
    // A clock that is wrong: no window waits for it.
    records.push(record(&json!({ "scored_at": "2199-01-01T12:00:00Z", "p": 0.5, "late": null })));
    lab.produce("scores", records);
    let sources = "  scores:
    topic: scores
    format: json
    fields: { scored_at: timestamp, p: float64, late: boolean }
";
    let spec =
        lab.spec(sources, "  scored:\n    from: scores\n    sql: SELECT scored_at, p, late FROM scores\n");
    lab.run_until_caught_up(&spec.resolved()).await.unwrap();
    lab.wait_until_equal("scored").await;
    let topology = spec.written();
    register(models::folder_of(&[("x", "float64")], None).path(), "late", &topology).await;
    let arguments =
        ["drift", "performance", "--model", "late", "--config", text(&topology), "--dataset", "scored"];
    let columns = ["--time", "scored_at", "--prediction", "p", "--label", "late", "--until", "2025-01-26"];
    let all = [&arguments[..], &columns, &["--windows", "3", "--format", "json"]].concat();
    let output = run_isobar(&all).await;
    output.assert(3, &[]);
    let report = json_of(&output);
    assert_eq!(report["expected_auc"], 0.8);
    let windows = report["windows"].as_array().unwrap();
    let said: Vec<usize> = windows.iter().map(|window| window["alarms"].as_array().unwrap().len()).collect();
    assert_eq!(said, [0, 1, 0], "{report:#}");
    assert!(windows[1]["alarms"][0].as_str().unwrap().starts_with("AUC is at most"), "{report:#}");
    assert!(
        windows[0]["auc"]["value"].as_f64().unwrap() > 0.7
            && windows[1]["auc"]["value"].as_f64().unwrap() < 0.3
    );
    assert_eq!(windows[2]["not_judged"], "140 of 280 labels are there");

    // The first week alone is well, and a model without statistics cannot be checked.
    let until = ["--time", "scored_at", "--prediction", "p", "--label", "late", "--until", "2025-01-12"];
    run_isobar(&[&arguments[..], &until].concat()).await.assert(0, &["0 alarms", "expected AUC 0.8000"]);
    // The newest row is of 25 January, and weeks since 1970 begin on Thursdays.
    let newest = ["--time", "scored_at", "--prediction", "p", "--label", "late"];
    let output = run_isobar(&[&arguments[..], &newest].concat()).await;
    output.assert(0, &["2025-01-16 to 2025-01-23", "labels are there"]);
    let check = ["drift", "check", "--model", "late", "--config", text(&topology), "--dataset", "scored"];
    run_isobar(&[&check[..], &["--time", "scored_at"]].concat())
        .await
        .assert(2, &["without statistics.json"]);
}
