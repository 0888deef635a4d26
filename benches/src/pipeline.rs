//! isobar itself: the demo's flights topology over a topic of real Kafka into three directories.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use isobar_topologies::demo::TOPOLOGY;
use isobar_topologies::pipeline::{self, RunOptions};
use isobar_topologies::spec;
use tokio_util::sync::CancellationToken;

use crate::formats::Format;
use crate::measure::Stopwatch;

/// Reads the topic once, commits everything to three clouds, and prints the measurement.
pub(crate) async fn run(
    brokers: &str,
    topic: &str,
    memory: &str,
    directory: &Path,
    format: Format,
) -> Result<()> {
    let path = directory.join("topology.yaml");
    std::fs::write(&path, topology(brokers, topic, memory, format)?)?;
    if let Some((name, schema)) = format.schema_file() {
        std::fs::write(directory.join(name), schema)?;
    }
    let topology = spec::load(&path).map_err(|problems| anyhow::anyhow!("{problems}"))?;
    let options = RunOptions { until_caught_up: true, ..RunOptions::new(&topology.name) };
    let progress = options.progress.clone();
    let stopwatch = Stopwatch::start()?;
    let summary = pipeline::run(&topology, options, CancellationToken::new()).await?;
    let committed: u64 = summary.committed.rows.values().map(|rows| rows.input).sum();
    ensure!(committed == progress.records(), "{committed} of {} records are committed", progress.records());
    let behind = summary.leader.clouds.iter().map(|cloud| cloud.decisions_behind).max();
    ensure!(behind == Some(0), "a cloud is behind");
    // Payload bytes only, as the bare loop counts them: keys are three bytes each.
    let bytes = progress.bytes() - 3 * progress.records();
    println!("{}", serde_json::to_string(&stopwatch.stop(committed, bytes)?)?);
    Ok(())
}

/// The demo's topology with the flights alone, at production commit settings.
pub(crate) fn topology(brokers: &str, topic: &str, memory: &str, format: Format) -> Result<String> {
    let mut text = TOPOLOGY.to_owned();
    for (start, end) in [("\n  weather:\n", "\ndatasets:"), ("\n  weather_hourly:\n", "")] {
        let from = text.find(start).with_context(|| format!("the demo's topology has {start:?}"))?;
        let to = if end.is_empty() {
            text.len()
        } else {
            text[from..].find(end).map(|at| from + at).context("datasets follow")?
        };
        text.replace_range(from..to, "\n");
    }
    for (old, new) in [
        ("brokers: localhost:9092", format!("brokers: {brokers}")),
        ("topic: flights", format!("topic: {topic}")),
        ("format: json", format.lines()),
        ("commit: { interval: 1s, size: 16MiB }", "commit: { interval: 10s, size: 256MiB }".to_owned()),
        ("memory: 384MiB", format!("memory: {memory}")),
        ("    contract: ./contracts/flights.yaml\n", String::new()),
    ] {
        ensure!(text.contains(old), "the demo's topology says {old:?}");
        text = text.replacen(old, &new, 1);
    }
    Ok(text)
}
