//! What is written of a question, and what becomes of it where nobody takes it. Records that arrive are in the integration tests.

use std::path::Path;

use serde_json::{Value as Json, json};

use super::*;
use crate::serve::metrics::Metrics;
use crate::serve::{Engine, Protocol};
use crate::spec::{CheckOptions, check_text};

/// Nobody listens there.
const NOWHERE: &str = "127.0.0.1:1";

fn topology(serve: &str) -> Topology {
    let text = format!(
        "
topology: t
kafka: {{ brokers: \"{NOWHERE}\" }}
clouds: {{ a: {{ url: ./data }} }}
serve: {serve}
sources: {{ s: {{ topic: s, format: json, fields: {{ x: int64 }} }} }}
datasets: {{ flights: {{ from: s, sql: 'SELECT x FROM s' }} }}
"
    );
    check_text(&text, "t.yaml", Path::new("/specs"), CheckOptions::default())
        .unwrap_or_else(|errors| panic!("{errors}\n{text}"))
}

fn opened(audit: &str) -> (Arc<Audit>, Metrics) {
    let topology = topology(&format!("{{ audit: {audit} }}"));
    let metrics = Metrics::new("t");
    let spec = topology.serve.audit.as_ref().unwrap();
    (Audit::open(&topology, spec, metrics.audit.clone()).unwrap(), metrics)
}

async fn anybody() -> Caller {
    let engine = Engine::open(&topology("{}"), &[]).unwrap();
    engine.authenticate(None).await.unwrap()
}

async fn entry(audit: &Arc<Audit>, question: &Question) -> Entry {
    audit.entry(audit.subject(&anybody().await, question), Duration::from_millis(5))
}

fn question(sql: &str) -> Question {
    let values = vec![ScalarValue::from(7_i64), ScalarValue::Null, ScalarValue::from("hunter2")];
    Question { parameters: Some(values.into()), protocol: Protocol::Flight, ..Question::new(sql) }
}

fn written(entry: &Entry, event: &'static str, outcome: Option<&str>) -> Json {
    serde_json::to_value(entry.record(event, outcome)).unwrap()
}

#[tokio::test]
async fn a_question_is_written_with_what_came_of_it() {
    let (audit, _) = opened("{ topic: log, sql: 11B }");
    let sql = "SELECT 'äöü' AS long, 1";
    let version = TableVersion {
        table: "flights".to_owned(),
        version: 7,
        cloud: "a".to_owned(),
        committed_ms: 0,
        sha256: String::new(),
    };
    let mut entry = entry(&audit, &question(sql)).await.of_run(None, &[version]);
    let begun = written(&entry, "begun", None);
    for field in ["answer_rows", "answer_bytes", "milliseconds", "outcome"] {
        assert_eq!(begun[field], Json::Null, "{field}");
    }
    entry.rows(3, 100);
    entry.rows(4, 50);
    let ended = written(&entry, "ended", Some("ok"));
    assert_eq!((&ended["id"], &ended["asked_at"]), (&begun["id"], &begun["asked_at"]));
    assert_eq!((&ended["answer_rows"], &ended["answer_bytes"]), (&json!(7), &json!(150)));
    assert!(ended["milliseconds"].as_f64().unwrap() >= 5.0, "planning counts: {ended}");
    assert_eq!((&ended["event"], &ended["outcome"]), (&json!("ended"), &json!("ok")));
    let who = (&ended["caller"], &ended["role"], &ended["protocol"], &ended["topology"]);
    assert_eq!(who, (&json!("anonymous"), &json!("everything"), &json!("flight"), &json!("t")));
    assert_eq!(ended["versions"], json!([{ "table": "flights", "version": 7, "cloud": "a" }]));
    // Cut between characters.
    assert_eq!((&ended["sql"], &ended["sql_bytes"]), (&json!("SELECT 'ä"), &json!(sql.len())));
    assert!(!ended.to_string().contains("hunter2"), "{ended}");
    entry.forget();
}

#[tokio::test]
async fn values_of_parameters_are_written_only_where_that_is_said_and_are_cut_too() {
    let parameters = async |audit: &str, run: Option<ParamValues>| {
        let (audit, _) = opened(audit);
        let entry = entry(&audit, &question("SELECT $1, $2, $3")).await.of_run(run.as_ref(), &[]);
        let parameters = written(&entry, "ended", Some("ok"))["parameters"].clone();
        entry.forget();
        parameters
    };
    let given = || Some(ParamValues::from(vec![ScalarValue::from("later")]));
    assert_eq!(parameters("{ topic: log }", None).await, Json::Null);
    assert_eq!(parameters("{ topic: log }", given()).await, Json::Null);
    assert_eq!(parameters("{ topic: log, parameters: true }", None).await, json!(["7", null, "hunter2"]));
    assert_eq!(parameters("{ topic: log, parameters: true }", given()).await, json!(["later"]));
    assert_eq!(
        parameters("{ topic: log, parameters: true, sql: 5B }", None).await,
        json!(["7", null, "hunt"])
    );
}

#[tokio::test]
async fn what_there_is_no_room_for_is_counted() {
    let (audit, metrics) = opened("{ topic: log, buffer: 2 }");
    let counted = |lost: u32, waiting: u32| {
        let text = metrics.render();
        let has = |line: String| text.lines().any(|found| found == line);
        let is_lost =
            has(format!("isobar_serve_audit_records_total{{outcome=\"lost\",topology=\"t\"}} {lost}"));
        let is_waiting = has(format!("isobar_serve_audit_records_waiting{{topology=\"t\"}} {waiting}"));
        assert!(is_waiting && (is_lost || lost == 0), "{text}");
    };
    for (lost, waiting) in [(0, 1), (0, 2), (1, 2), (2, 2)] {
        let mut entry = entry(&audit, &question("SELECT 1")).await;
        entry.begun().await.expect("nobody waits for the log");
        entry.ended("ok");
        // Only the first word counts.
        entry.ended("wrong");
        drop(entry);
        counted(lost, waiting);
    }
    // Whoever is dropped was cancelled; what is forgotten is not written.
    entry(&audit, &question("SELECT 1")).await.forget();
    counted(2, 2);
    drop(entry(&audit, &question("SELECT 1")).await);
    counted(3, 2);
}

#[tokio::test]
async fn what_cannot_be_written_is_not_answered_where_that_is_required() {
    let (audit, metrics) = opened("{ topic: log, required: true, patience: 20ms, buffer: 3 }");
    // The first waits for Kafka, the second for room as well.
    for _ in 0..2 {
        let mut entry = entry(&audit, &question("SELECT 1")).await;
        let refused = entry.begun().await.unwrap_err();
        assert!(
            matches!(&refused, Refusal::Unavailable(why) if why.contains("log of queries")),
            "{refused:?}"
        );
        entry.ended(refused.outcome());
    }
    let text = metrics.render();
    assert!(text.contains("isobar_serve_audit_records_waiting{topology=\"t\"} 3"), "{text}");
    assert!(!text.contains("lost"), "{text}");
}
