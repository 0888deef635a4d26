//! isobar itself: a topology over a topic of real Kafka into three directories.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use isobar_topologies::demo::TOPOLOGY;
use isobar_topologies::pipeline::{self, RunOptions};
use isobar_topologies::spec;
use tokio_util::sync::CancellationToken;

use crate::formats::Format;
use crate::measure::Stopwatch;

/// The topology of a run, in its directory.
const FILE: &str = "topology.yaml";

/// Writes the demo's flights topology for `topic` into `directory`, with the schema that `format` needs.
pub(crate) fn prepare(
    brokers: &str,
    topic: &str,
    memory: &str,
    directory: &Path,
    format: Format,
) -> Result<()> {
    if let Some((name, schema)) = format.schema_file() {
        std::fs::write(directory.join(name), schema)?;
    }
    write(directory, &topology(brokers, topic, memory, format)?)
}

/// Writes `topology` into `directory`.
pub(crate) fn write(directory: &Path, topology: &str) -> Result<()> {
    Ok(std::fs::write(directory.join(FILE), topology)?)
}

/// Runs the topology in `directory` until it has caught up and everything is in three clouds, and prints the
/// measurement. Keys of `key_bytes` each are not counted, as the other sides do not count them.
pub(crate) async fn run(directory: &Path, key_bytes: u64) -> Result<()> {
    let topology = spec::load(&directory.join(FILE)).map_err(|problems| anyhow::anyhow!("{problems}"))?;
    let options = RunOptions { until_caught_up: true, ..RunOptions::new(&topology.name) };
    let progress = options.progress.clone();
    let stopwatch = Stopwatch::start()?;
    let summary = pipeline::run(&topology, options, CancellationToken::new()).await?;
    let committed: u64 = summary.committed.rows.values().map(|rows| rows.input).sum();
    ensure!(committed == progress.records(), "{committed} of {} records are committed", progress.records());
    let behind = summary.leader.clouds.iter().map(|cloud| cloud.decisions_behind).max();
    ensure!(behind == Some(0), "a cloud is behind");
    let bytes = progress.bytes() - key_bytes * progress.records();
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
