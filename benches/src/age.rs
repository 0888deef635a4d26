//! Whether commits take longer as a table grows old: many small commits, one after the other.
//!
//! Four records are produced, which is as much as a commit may hold; the pipeline commits them to three directories, and
//! only then come the next four. So the time between two commits is what one commit takes from its records'
//! production to its decision and back.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use isobar_connectors::kafka::{Compression, EmbeddedBroker, KafkaProducer, ProducedRecord};
use isobar_topologies::pipeline::{self, RunOptions};
use isobar_topologies::spec;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

const TOPIC: &str = "readings";
const PARTITIONS: i32 = 4;
/// Commits in one line of the result.
const BLOCK: usize = 1000;
/// How long a commit may take before something is wrong.
const PATIENCE: Duration = Duration::from_secs(120);

/// A block of commits, by the table's age.
#[derive(Debug, Serialize)]
struct Block {
    /// Commits before the block.
    from: usize,
    /// From the end of a batch to its decision, mean.
    latency_mean_ms: f64,
    /// From one commit to the next.
    between_p50_ms: f64,
    between_p99_ms: f64,
    between_max_ms: f64,
}

/// Makes `commits` commits and prints a line per thousand.
pub(crate) async fn run(commits: usize, json: bool) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let broker = EmbeddedBroker::start(&[(TOPIC, PARTITIONS)])?;
    let producer = KafkaProducer::start(&broker.bootstrap_servers(), Compression::None)?;
    let path = directory.path().join("topology.yaml");
    std::fs::write(&path, topology(&broker.bootstrap_servers()))?;
    let topology = spec::load(&path).map_err(|problems| anyhow::anyhow!("{problems}"))?;
    let options = RunOptions::new(&topology.name);
    let (progress, metrics) = (options.progress.clone(), options.metrics.clone());
    let mut positions = progress.positions();
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    let pipeline = tokio::spawn(async move { pipeline::run(&topology, options, stop).await });

    let mut blocks = Vec::new();
    let mut gaps = Vec::with_capacity(BLOCK);
    let mut latency = (0.0, 0);
    let mut last = Instant::now();
    for commit in 1..=commits {
        for partition in 0..PARTITIONS {
            // Three are below the size of a commit, four above it.
            let payload = format!(r#"{{"reading":{commit},"filler":"{:0280}"}}"#, 0);
            producer.produce(ProducedRecord {
                topic: TOPIC,
                partition,
                key: None,
                payload: Some(payload.as_bytes()),
                ..Default::default()
            })?;
        }
        let all = i64::try_from(commit)?;
        let is_in =
            |positions: &std::collections::BTreeMap<_, i64>| positions.values().all(|next| *next >= all);
        loop {
            tokio::time::timeout(PATIENCE, positions.changed()).await.context("no commit")??;
            if is_in(&positions.borrow_and_update()) {
                break;
            }
        }
        gaps.push(last.elapsed());
        last = Instant::now();
        if gaps.len() == BLOCK || commit == commits {
            let histogram = &metrics.commit_latency;
            let now = (histogram.get_sample_sum(), histogram.get_sample_count());
            let block = block(commit - gaps.len(), &mut gaps, (now.0 - latency.0, now.1 - latency.1));
            eprintln!("{commit} commits, {:.1} ms between two", block.between_p50_ms);
            latency = now;
            gaps.clear();
            blocks.push(block);
        }
    }
    shutdown.cancel();
    let summary = pipeline.await??;
    ensure!(summary.leader.clouds.iter().all(|cloud| cloud.decisions_behind == 0), "a cloud is behind");
    print(&blocks, json)
}

fn block(from: usize, gaps: &mut [Duration], (seconds, count): (f64, u64)) -> Block {
    gaps.sort_unstable();
    let at = |share: f64| gaps[((gaps.len() - 1) as f64 * share) as usize].as_secs_f64() * 1000.0;
    Block {
        from,
        latency_mean_ms: seconds * 1000.0 / count.max(1) as f64,
        between_p50_ms: at(0.5),
        between_p99_ms: at(0.99),
        between_max_ms: at(1.0),
    }
}

fn print(blocks: &[Block], json: bool) -> Result<()> {
    if json {
        println!("{}", serde_json::to_string_pretty(blocks)?);
        return Ok(());
    }
    println!(
        "| commits before | batch closed to decided, mean ms | between commits: p50 ms | p99 ms | max ms |"
    );
    println!("|---|---|---|---|---|");
    for block in blocks {
        let Block { from, latency_mean_ms, between_p50_ms, between_p99_ms, between_max_ms } = block;
        println!(
            "| {from} | {latency_mean_ms:.2} | {between_p50_ms:.2} | {between_p99_ms:.2} | {between_max_ms:.1} |"
        );
    }
    Ok(())
}

fn topology(brokers: &str) -> String {
    format!(
        r#"
topology: age
kafka: {{ brokers: "{brokers}", topic_identity: name }}
clouds:
  aws: {{ url: "file:./aws" }}
  azure: {{ url: "file:./azure" }}
  gcp: {{ url: "file:./gcp" }}
commit: {{ interval: 1s, size: 1KiB }}
sources:
  readings: {{ topic: {TOPIC}, format: json, fields: {{ reading: int64, filler: string }} }}
datasets:
  readings_kept:
    from: readings
    sql: SELECT reading FROM readings
"#
    )
}
