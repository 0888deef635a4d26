//! Small records: what a record costs beside what its bytes cost.
//!
//! The ceiling is the machine's: a loop that polls librdkafka and does nothing else. isobar decodes the same records,
//! checks an expectation, filters and writes them, and commits them to three clouds.

use anyhow::Result;

use crate::measure::Measurement;
use crate::process::child;
use crate::{OnKafka, in_turn, pipeline, pipeline_child, topic};

/// Different records; the topic repeats them.
const READINGS: u32 = 1 << 16;

/// Measures both sides, and prints a table or JSON.
pub(crate) async fn run(setting: &OnKafka, records: u64, runs: usize) -> Result<()> {
    let OnKafka { brokers, memory, json } = setting;
    let payloads: Vec<(String, String)> = (0..READINGS).map(reading).collect();
    let name = format!("bench_readings_{records}");
    let topic = topic::fill(brokers, &name, &payloads, |topic| topic.records >= records).await?;
    eprintln!("topic {} holds {} records, {} bytes", topic.name, topic.records, topic.bytes);
    let polling = || child::<Measurement>(&["poll", brokers, &topic.name]);
    let isobar = || {
        let directory = tempfile::tempdir()?;
        pipeline::write(directory.path(), &topology(brokers, &topic.name, memory))?;
        pipeline_child(directory.path(), payloads[0].0.len() as u64)
    };
    let [polled, whole] = in_turn(&topic, runs, [("polling alone", &polling), ("isobar", &isobar)])?;
    if *json {
        let report = serde_json::json!({ "polling_alone": polled, "isobar": whole });
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        println!("{}\n{}", Measurement::TABLE_HEAD, polled.table_row("polling alone"));
        println!("{}", whole.table_row("isobar, 3 clouds"));
    }
    Ok(())
}

/// The key and the payload of a record of a sensor.
fn reading(number: u32) -> (String, String) {
    let sensor = number % 1000;
    let payload = format!(
        r#"{{"sensor":{sensor},"at":"2013-07-{:02}T{:02}:{:02}:00Z","value":{}.{:02}}}"#,
        1 + number % 31,
        number / 31 % 24,
        number % 60,
        number % 97,
        number % 89,
    );
    (format!("{sensor:03}"), payload)
}

fn topology(brokers: &str, topic: &str, memory: &str) -> String {
    format!(
        r#"
topology: readings
kafka: {{ brokers: "{brokers}" }}
clouds:
  aws: {{ url: "file:./aws" }}
  azure: {{ url: "file:./azure" }}
  gcp: {{ url: "file:./gcp" }}
commit: {{ interval: 10s, size: 256MiB }}
memory: {memory}
sources:
  readings:
    topic: {topic}
    format: json
    start: earliest
    fields: {{ sensor: {{ type: int32, nullable: false }}, at: timestamp, value: float64 }}
datasets:
  readings_kept:
    from: readings
    sql: SELECT sensor, at, value FROM readings WHERE value >= 0
    expect:
      - {{ name: plausible, check: "value < 1000", action: quarantine }}
"#
    )
}
