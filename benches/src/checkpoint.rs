//! Checkpoints of a table with many files: from its bodies alone, and on a previous checkpoint.
//!
//! The bodies lie on disk, as isobar would write them, and are read one at a time. Each checkpoint is built by a process of
//! its own, so that its time and its resident memory are its own. The checkpoint on the previous one must be the
//! same bytes as the one from all bodies.

use std::fs::{self, File};
use std::io::BufWriter;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use arrow::datatypes::{DataType, Field, Schema};
use isobar_connectors::Error;
use isobar_connectors::checkpoint::{CheckpointSummary, write_checkpoint};
use isobar_connectors::delta::body::NO_PREVIOUS_SHA256;
use isobar_connectors::delta::{CommitBody, FileDigest, Remove, TableDefinition, sha256_hex};

use crate::dataset::{self, STARTED_MS, body_path, commit_id};
use crate::measure::{Measurement, Stopwatch};
use crate::process::child;

/// The table.
#[derive(Clone, Copy)]
pub(crate) struct Sizes {
    /// Files after the first versions.
    pub(crate) files: u64,
    /// Versions that add them.
    pub(crate) versions: u64,
    /// Versions after those: each adds as many files as one of the first, and removes half as many.
    pub(crate) further_versions: u64,
}

impl Sizes {
    fn files_per_version(self) -> u64 {
        self.files / self.versions
    }

    fn end(self) -> u64 {
        1 + self.versions + self.further_versions
    }
}

/// Writes the bodies, builds the checkpoints and prints the figures.
pub(crate) fn run(sizes: Sizes) -> Result<()> {
    ensure!(sizes.versions > 0 && sizes.files >= sizes.versions, "a version must add at least one file");
    ensure!(sizes.further_versions <= sizes.versions, "there are not so many versions to remove files of");
    let directory = tempfile::tempdir()?;
    let bytes = write_bodies(sizes, directory.path())?;
    eprintln!("{} bodies, {bytes} bytes", sizes.end());

    let (first_end, end) = (1 + sizes.versions, sizes.end());
    let [first, second, whole] =
        ["first", "second", "whole"].map(|name| directory.path().join(format!("{name}.parquet")));
    println!("| | actions | seconds | core-seconds | MB | resident MB (peak) |\n|---|---|---|---|---|---|");
    let report = |name: String, built: &Measurement| {
        println!(
            "| {name} | {} | {:.1} | {:.1} | {:.1} | {:.0} |",
            built.records,
            built.seconds,
            built.core_seconds,
            built.bytes as f64 / 1e6,
            built.resident_bytes_max as f64 / 1e6
        );
    };
    let built = build_apart(directory.path(), 0..first_end, &first, None)?;
    report(format!("{first_end} bodies"), &built);
    let built = build_apart(directory.path(), first_end..end, &second, Some(&first))?;
    report(format!("that checkpoint and {} bodies", end - first_end), &built);
    let built = build_apart(directory.path(), 0..end, &whole, None)?;
    report(format!("{end} bodies"), &built);
    ensure!(fs::read(&second)? == fs::read(&whole)?, "the last two checkpoints differ");
    Ok(())
}

fn build_apart(
    bodies: &Path,
    versions: std::ops::Range<u64>,
    sink: &Path,
    previous: Option<&Path>,
) -> Result<Measurement> {
    let text = |path: &Path| Ok::<_, anyhow::Error>(path.to_str().context("the path is UTF-8")?.to_owned());
    let mut arguments = vec![
        "checkpoint-build".to_owned(),
        text(bodies)?,
        versions.start.to_string(),
        versions.end.to_string(),
        text(sink)?,
    ];
    arguments.extend(previous.map(text).transpose()?);
    child(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Builds one checkpoint and prints the measurement.
pub(crate) fn build(
    bodies: &Path,
    versions: std::ops::Range<u64>,
    sink: &Path,
    previous: Option<&Path>,
) -> Result<()> {
    let stopwatch = Stopwatch::start()?;
    let summary = write(bodies, versions, previous, sink)?;
    println!("{}", serde_json::to_string(&stopwatch.stop(summary.actions, summary.size)?)?);
    Ok(())
}

/// Writes the checkpoint of the last of `versions` of the log `bodies`, on a previous checkpoint if there is one.
pub(crate) fn write(
    bodies: &Path,
    versions: std::ops::Range<u64>,
    previous: Option<&Path>,
    sink: &Path,
) -> Result<CheckpointSummary> {
    let previous = previous.map(File::open).transpose()?;
    let bodies = versions.map(|version| {
        let read = fs::read(body_path(bodies, version));
        read.map(Into::into).map_err(|error| Error::LogEntry(format!("read version {version}: {error}")))
    });
    Ok(write_checkpoint(previous, bodies, BufWriter::new(File::create(sink)?))?)
}

/// Writes all bodies; returns their bytes.
fn write_bodies(sizes: Sizes, directory: &Path) -> Result<u64> {
    let mut previous_sha256 = NO_PREVIOUS_SHA256.to_owned();
    let mut total = 0;
    for version in 0..sizes.end() {
        let bytes = body(sizes, version, previous_sha256)?.to_bytes()?;
        previous_sha256 = sha256_hex(&bytes);
        total += bytes.len() as u64;
        fs::write(body_path(directory, version), &bytes)?;
    }
    Ok(total)
}

fn body(sizes: Sizes, version: u64, previous_sha256: String) -> Result<CommitBody> {
    let mut body = dataset::body("features", version, previous_sha256)?;
    let timestamp_ms = body.info.timestamp_ms;
    if version == 0 {
        return Ok(body.create(&table())?);
    }
    body.set_position(format!("bench/cluster/topic/{}", version % 4), timestamp_ms);
    for number in 0..sizes.files_per_version() {
        let path = path(version, number);
        let digest =
            FileDigest { size: 1_000_000 + number, sha256: sha256_hex(path.as_bytes()), rows: 10_000, path };
        let values = [("month".to_owned(), Some(month(number)))].into();
        body.add_file(digest, values, statistics(version, number));
    }
    // The further versions remove files of the first ones.
    if let Some(older) = version.checked_sub(sizes.versions).filter(|older| *older > 0) {
        for number in 0..sizes.files_per_version() / 2 {
            body.removes.push(Remove {
                path: path(older, number),
                deletion_timestamp: Some(timestamp_ms),
                data_change: true,
                extended_file_metadata: Some(true),
                partition_values: Some([("month".to_owned(), Some(month(number)))].into()),
                size: Some(i64::try_from(1_000_000 + number)?),
            });
        }
    }
    Ok(body)
}

fn table() -> TableDefinition {
    let columns = ["departure_delay", "arrival_delay", "distance", "kafka_offset"];
    let mut fields: Vec<Field> =
        columns.into_iter().map(|name| Field::new(name, DataType::Int64, true)).collect();
    fields.extend(["carrier", "route", "month"].map(|name| Field::new(name, DataType::Utf8, true)));
    TableDefinition {
        id: "6b0f0e3c-6a3f-4b39-9b1a-2d6f2f2f8a10".into(),
        name: "features".into(),
        description: None,
        schema: Arc::new(Schema::new(fields)),
        partition_by: vec!["month".into()],
        created_ms: STARTED_MS,
    }
}

fn month(number: u64) -> String {
    format!("2013-{:02}", 1 + number % 12)
}

fn path(version: u64, number: u64) -> String {
    format!("month={}/part-{}-{number:05}.parquet", month(number), commit_id(version))
}

/// Statistics that differ from file to file, as those of real files do.
fn statistics(version: u64, number: u64) -> String {
    let draw = |salt: u64, below: u64| {
        (version.wrapping_mul(1_000_003) ^ number ^ salt).wrapping_mul(0x9e37_79b9_7f4a_7c15) % below
    };
    let offset = 10_000 * (version * 1_000 + number);
    format!(
        r#"{{"numRecords":10000,"minValues":{{"departure_delay":-{},"arrival_delay":-{},"distance":{},"kafka_offset":{offset},"carrier":"9E","route":"EWR-ALB"}},"maxValues":{{"departure_delay":{},"arrival_delay":{},"distance":{},"kafka_offset":{},"carrier":"YV","route":"LGA-XNA"}},"nullCount":{{"departure_delay":{},"arrival_delay":{},"distance":0,"kafka_offset":0,"carrier":0,"route":0}},"tightBounds":true}}"#,
        draw(1, 60),
        draw(2, 90),
        draw(3, 200),
        draw(4, 1_400),
        draw(5, 1_400),
        2_000 + draw(6, 3_000),
        offset + 9_999,
        draw(7, 300),
        draw(8, 400),
    )
}
