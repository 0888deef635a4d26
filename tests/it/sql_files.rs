//! The files `tests/sql/*.slt`: queries with their answers, over two datasets that are committed in two versions.
//!
//! What is expected was worked out by hand from the records below, and where SQL is SQL, found to be what DuckDB answers.

use std::path::PathBuf;

use arrow::array::RecordBatch;
use futures::TryStreamExt;
use isobar_tests::events::Record;
use isobar_tests::lab::Lab;
use isobar_tests::slt;
use isobar_topologies::Error;
use isobar_topologies::query::{Catalog, catalog_in};

const SOURCES: &str = "  trades:
    topic: trades
    format: json
    fields:
      id: { type: int64, nullable: false }
      sym: string
      price: \"decimal(10,2)\"
      at: timestamp
      day: date
      tags: \"list<string>\"
      info: \"struct<venue: string, lot: int32>\"
      counts: \"map<string, int64>\"
      ratio: float64
      ok: boolean
  quotes:
    topic: quotes
    format: json
    fields: { sym: string, event_time: timestamp, known_time: timestamp, seq: int64, bid: int64 }
";

const DATASETS: &str = "  trades:
    from: trades
    sql: SELECT id, sym, price, at, day, tags, info, counts, ratio, ok FROM trades
    expect:
      - { name: positive, check: \"price > 0\", action: quarantine }
    maintenance: { compact: { enabled: false }, checkpoint_every: 0 }
  quotes:
    from: quotes
    sql: SELECT sym, event_time, known_time, seq, bid FROM quotes
    maintenance: { compact: { enabled: false }, checkpoint_every: 0 }
";

/// Version 1 of `trades`.
const FIRST_TRADES: [&str; 3] = [
    r#"{"id":1,"sym":"a","price":10.50,"at":"2026-01-01T09:30:00Z","day":"2026-01-01","tags":["x","y"],"info":{"venue":"N","lot":100},"counts":{"buy":1,"sell":2},"ratio":0.5,"ok":true}"#,
    r#"{"id":2,"sym":"a","price":10.75,"at":"2026-01-01T10:00:00+01:00","day":"2026-01-01","tags":[],"info":{"venue":null,"lot":5},"counts":{},"ratio":1.25,"ok":false}"#,
    r#"{"id":3,"sym":"b","price":20.00}"#,
];

/// What version 2 adds: three rows, and two records for the quarantine.
const MORE_TRADES: [&str; 5] = [
    r#"{"id":4,"sym":"b","price":99999999.99,"at":"2026-01-02T00:00:00.000001Z","day":"2026-01-02","tags":["x",null],"info":{"venue":"L","lot":1},"counts":{"buy":7},"ratio":-2.0,"ok":true}"#,
    r#"{"id":5,"at":"2026-01-01T09:30:00Z","tags":["z"]}"#,
    r#"{"id":6,"sym":"c","price":0.01,"at":"2026-01-03T12:00:00Z","day":"2026-01-03","ratio":0.25,"ok":false}"#,
    r#"{"id":7,"sym":"d","price":-5}"#,
    r#"{"id":null,"sym":"e","price":1}"#,
];

const QUOTES: [&str; 6] = [
    r#"{"sym":"a","event_time":"2026-01-01T09:00:00Z","known_time":"2026-01-01T09:00:00Z","seq":1,"bid":1}"#,
    r#"{"sym":"a","event_time":"2026-01-01T09:20:00Z","known_time":"2026-01-01T09:40:00Z","seq":2,"bid":2}"#,
    r#"{"sym":"a","event_time":"2026-01-01T09:20:00Z","known_time":"2026-01-01T09:20:00Z","seq":3,"bid":3}"#,
    r#"{"sym":"b","event_time":"2026-01-01T12:00:00Z","known_time":"2026-01-01T12:00:00Z","seq":4,"bid":4}"#,
    r#"{"sym":"a","event_time":"2026-01-01T09:31:00Z","known_time":"2026-01-01T09:31:00Z","seq":5,"bid":5}"#,
    r#"{"sym":null,"event_time":"2026-01-01T09:00:00Z","known_time":"2026-01-01T09:00:00Z","seq":6,"bid":6}"#,
];

fn records(payloads: &[&str]) -> Vec<Record> {
    payloads.iter().map(|payload| Record::bad(Some(payload.as_bytes()), "not of the events")).collect()
}

async fn answer(catalog: &Catalog, sql: &str) -> Result<Vec<RecordBatch>, String> {
    let said = |error: Error| error.to_string();
    let (rows, _) = catalog.query(sql).await.map_err(said)?.into_parts();
    rows.try_collect().await.map_err(|error| error.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_file_of_queries_is_answered_as_it_says() {
    let lab = Lab::new(&["trades", "quotes"], 1, true);
    let mut spec = lab.spec(SOURCES, DATASETS);
    // Each run ends with one commit, whatever the time between.
    spec.commit = "{ interval: 1h, size: 256MiB }".into();
    let topology = spec.resolved();
    lab.produce("quotes", records(&QUOTES));
    lab.produce("trades", records(&FIRST_TRADES));
    lab.run_until_caught_up(&topology).await.unwrap();
    lab.produce("trades", records(&MORE_TRADES));
    lab.run_until_caught_up(&topology).await.unwrap();
    let catalog = catalog_in(&topology, &lab.opened()).unwrap();

    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("sql");
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|ending| ending == "slt")).collect();
    files.sort();
    let (mut checked, mut faults) = (0, Vec::new());
    for file in &files {
        for record in slt::records(file) {
            let found = answer(&catalog, &record.sql).await;
            checked += 1;
            let name = file.file_name().unwrap().to_string_lossy().into_owned();
            let fault = slt::fault(&record, &found);
            faults.extend(fault.map(|fault| format!("{name}:{}: {}\n  {fault}", record.line, record.sql)));
        }
    }
    assert!(checked > 80, "{checked} queries in {} files", files.len());
    assert!(faults.is_empty(), "{} of {checked}:\n{}", faults.len(), faults.join("\n"));
}
