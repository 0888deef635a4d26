//! As-of joins of what was read from Kafka, as `isobar query` answers and as DuckDB does.
//!
//! A trial is a few questions and observations of its own, with times that are equal, apart by a microsecond, missing, or in
//! another zone. There are thousands of trials in two datasets, so that one query answers them all.

use std::fmt::Write;

use chrono::{DateTime, FixedOffset, SecondsFormat};
use isobar_tests::events::Record;
use isobar_tests::lab::{Lab, write_file};
use isobar_tests::prng::{Prng, Seed};
use isobar_tests::program::run_isobar;
use isobar_tests::services::oracle;

const TRIALS: i64 = 3000;

const SOURCES: &str = "  questions:
    topic: questions
    format: json
    fields: { id: { type: int64, nullable: false }, trial: int64, k: string, t: timestamp }
  observations:
    topic: observations
    format: json
    fields: { trial: int64, k: string, event_time: timestamp, known_time: timestamp, seq: int64, value: int64 }
";

const DATASETS: &str = "  asked:
    from: questions
    sql: SELECT id, trial, k, t FROM questions
  observed:
    from: observations
    sql: SELECT trial, k, event_time, known_time, seq, value FROM observations
";

/// `2026-01-01T00:00:00Z` in microseconds.
const FIRST_MICROSECOND: i64 = 1_767_225_600_000_000;

fn time(prng: &mut Prng) -> String {
    if prng.chance(5) {
        return "null".into();
    }
    let micros = FIRST_MICROSECOND + 1_000_000 * prng.below(10) as i64 + *prng.pick(&[0, 0, 0, 1, -1]);
    let zone = FixedOffset::east_opt(*prng.pick(&[0, 19_800, -39_600])).unwrap();
    let time = DateTime::from_timestamp_micros(micros).unwrap().with_timezone(&zone);
    format!("\"{}\"", time.to_rfc3339_opts(SecondsFormat::Micros, true))
}

fn key(prng: &mut Prng) -> &'static str {
    prng.pick::<&str>(&["\"a\"", "\"a\"", "\"b\"", "\"\"", "null"])
}

fn number(prng: &mut Prng) -> String {
    if prng.chance(10) { "null".into() } else { prng.below(3).to_string() }
}

/// The records of both topics, in no order of time.
fn records(prng: &mut Prng) -> [Vec<Record>; 2] {
    let record = |payload: String| Record::bad(Some(payload.as_bytes()), "not of the events");
    let (mut questions, mut observations) = (Vec::new(), Vec::new());
    for trial in 0..TRIALS {
        for _ in 0..prng.below(4) {
            let (id, key, time) = (questions.len(), key(prng), time(prng));
            questions.push(record(format!(r#"{{"id":{id},"trial":{trial},"k":{key},"t":{time}}}"#)));
        }
        for _ in 0..prng.below(9) {
            let (value, key, seq) = (observations.len(), key(prng), number(prng));
            let (event_time, known_time) = (time(prng), time(prng));
            let mut payload = format!(r#"{{"trial":{trial},"k":{key},"seq":{seq},"value":{value},"#);
            // Writing to a String cannot fail.
            let _ = write!(payload, r#""event_time":{event_time},"known_time":{known_time}}}"#);
            observations.push(record(payload));
        }
    }
    [questions, observations]
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_trials_are_answered_as_duckdb_answers_them() {
    let seed = Seed::of("as_of");
    let lab = Lab::new(&["questions", "observations"], 1, true);
    let [questions, observations] = records(&mut seed.prng());
    lab.produce("questions", questions);
    lab.produce("observations", observations);
    let spec = lab.spec(SOURCES, DATASETS);
    lab.run_until_caught_up(&spec.resolved()).await.unwrap();
    let spec = spec.written();
    let cloud = lab.clouds[0].folder.as_ref().unwrap().join("datasets");
    let [asked, observed] = ["asked", "observed"].map(|table| cloud.join(table).to_str().unwrap().to_owned());

    let as_of = |operator: &str| {
        let sql = format!(
            "SELECT q.id, o.value FROM asked AS q ASOF JOIN observed AS o MATCH_CONDITION (q.t {operator} o.event_time) \
             ON q.trial = o.trial AND q.k = o.k"
        );
        (sql, vec!["--match".to_owned(), operator.to_owned()])
    };
    let known = |settings: &str, ttl: Option<&str>| {
        let sql = format!(
            "SELECT id, observed__value AS value FROM point_in_time(asked, t, keys => (trial, k), \
             view(observed, offset => seq{settings}))"
        );
        let ttl = ttl.into_iter().flat_map(|ttl| ["--ttl", ttl]);
        (sql, ["--match", "known"].into_iter().chain(ttl).map(str::to_owned).collect())
    };
    for (sql, arguments) in [
        as_of(">="),
        as_of(">"),
        as_of("<="),
        as_of("<"),
        known("", None),
        known(", ttl => INTERVAL '3 seconds'", Some("3")),
        known(", ttl => INTERVAL '0 seconds'", Some("0")),
    ] {
        let answer =
            run_isobar(&["query", &sql, "--config", spec.to_str().unwrap(), "--format", "csv"]).await;
        assert_eq!(answer.code, Some(0), "{sql}: {answer}");
        let answers = write_file(&lab.directory.path().join("answers.csv"), &answer.stdout);
        let mut judged = vec!["as_of", &asked, &observed, "--answers", answers.to_str().unwrap()];
        judged.extend(arguments.iter().map(String::as_str));
        let verdict = oracle(&judged).await;
        assert_eq!(verdict.code, Some(0), "{sql}: {verdict}");
        let verdict: serde_json::Value = serde_json::from_str(&verdict.stdout).unwrap();
        // About 90 with a time to live of nothing, and hundreds otherwise.
        assert!(verdict["answered"].as_u64().unwrap() > 40, "{sql}: {verdict}");
    }
}
