//! What a run cost: wall time, processor time and resident memory, as the system accounts for them.

use std::fmt;
use std::time::Instant;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// Clock ticks per second in `/proc/<pid>/stat`; 100 on every Linux this runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// One run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Measurement {
    /// Kafka records.
    pub(crate) records: u64,
    /// Bytes of payload.
    pub(crate) bytes: u64,
    /// Wall time.
    pub(crate) seconds: f64,
    /// Processor time of all threads, user and system.
    pub(crate) core_seconds: f64,
    /// Largest resident memory.
    pub(crate) resident_bytes_max: u64,
}

/// A running measurement of this process.
pub(crate) struct Stopwatch {
    started: Instant,
    core_seconds: f64,
}

impl Stopwatch {
    /// Starts now.
    pub(crate) fn start() -> Result<Self> {
        Ok(Self { started: Instant::now(), core_seconds: core_seconds()? })
    }

    /// What has been used since the start. Resident memory is that of the whole process so far.
    pub(crate) fn stop(&self, records: u64, bytes: u64) -> Result<Measurement> {
        Ok(Measurement {
            records,
            bytes,
            seconds: self.started.elapsed().as_secs_f64(),
            core_seconds: core_seconds()? - self.core_seconds,
            resident_bytes_max: resident_bytes_max("self")?,
        })
    }
}

impl Measurement {
    /// Head of a Markdown table of measurements.
    pub(crate) const TABLE_HEAD: &'static str =
        "| | records/s | MB/s | core-seconds | MB/s per core | resident MB |\n|---|---|---|---|---|---|";

    /// Throughput per second of processor time.
    pub(crate) fn megabytes_per_core_second(&self) -> f64 {
        self.bytes as f64 / 1e6 / self.core_seconds
    }

    /// A row of a Markdown table.
    pub(crate) fn table_row(&self, name: &str) -> String {
        format!(
            "| {name} | {:.0} | {:.1} | {:.1} | {:.1} | {:.0} |",
            self.records as f64 / self.seconds,
            self.bytes as f64 / 1e6 / self.seconds,
            self.core_seconds,
            self.megabytes_per_core_second(),
            self.resident_bytes_max as f64 / 1e6,
        )
    }
}

impl fmt::Display for Measurement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} records in {:.2} s, {:.2} core-seconds, {:.1} MB/s per core, {:.0} MB resident",
            self.records,
            self.seconds,
            self.core_seconds,
            self.megabytes_per_core_second(),
            self.resident_bytes_max as f64 / 1e6
        )
    }
}

/// The run with the median throughput per core.
pub(crate) fn median(mut runs: Vec<Measurement>) -> Measurement {
    runs.sort_by(|left, right| {
        left.megabytes_per_core_second().total_cmp(&right.megabytes_per_core_second())
    });
    runs.swap_remove(runs.len() / 2)
}

fn core_seconds() -> Result<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").context("read processor time")?;
    let after_name = stat.rsplit_once(')').context("read processor time")?.1;
    // utime and stime are fields 14 and 15 of proc(5); the name is field 2.
    let ticks = after_name.split_whitespace().skip(11).take(2).map(str::parse::<f64>);
    Ok(ticks.sum::<Result<f64, _>>().context("read processor time")? / TICKS_PER_SECOND)
}

/// Largest resident memory of a process so far, by its number or `self`.
pub(crate) fn resident_bytes_max(process: &str) -> Result<u64> {
    status_bytes(process, "VmHWM:")
}

/// Resident memory of a process now.
pub(crate) fn resident_bytes(process: &str) -> Result<u64> {
    status_bytes(process, "VmRSS:")
}

fn status_bytes(process: &str, name: &str) -> Result<u64> {
    let status =
        std::fs::read_to_string(format!("/proc/{process}/status")).context("read resident memory")?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)).context("read resident memory")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse::<u64>()? * 1024)
}
