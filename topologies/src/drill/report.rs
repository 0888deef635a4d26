//! What a drill found: for programs as JSON of a fixed shape, for people as Markdown.
//!
//! Times are seconds, moments RFC 3339 in UTC. `null` is "not measured". New fields may be added; a change of meaning
//! changes `format`.

use std::fmt::Write;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use isobar_connectors::clouds::Cloud;
use serde::{Serialize, Serializer};

use super::DrillOptions;
use crate::prove;
use crate::spec::Topology;

/// Version of the JSON shape.
const REPORT_FORMAT: u32 = 1;

/// The outcome of a drill.
#[derive(Debug, Clone, Serialize)]
pub struct DrillReport {
    format: u32,
    /// Whether everything asked for was done, nothing was lost or doubled, and no limit was exceeded.
    pub passed: bool,
    topology: String,
    failure: String,
    cloud: Option<String>,
    #[serde(rename = "latency_seconds", serialize_with = "seconds")]
    latency: Option<Duration>,
    #[serde(rename = "hold_seconds", serialize_with = "seconds")]
    hold: Option<Duration>,
    #[serde(rename = "commit_interval_seconds", serialize_with = "seconds")]
    commit_interval: Option<Duration>,
    runs_asked: u32,
    began_at: String,
    ended_at: String,
    interrupted: bool,
    environment: Environment,
    definitions: Definitions,
    /// Every run, in order.
    pub runs: Vec<Run>,
    /// From the fault until it was noticed.
    pub detection: Figure,
    /// The longest time without a commit.
    pub pause: Figure,
    /// Until everything was as before.
    pub recovery: Figure,
    limits: Limits,
    /// Limits that were exceeded, or could not be judged.
    pub exceeded: Vec<String>,
    prove: Verdict,
}

/// What the figures of a drill mean.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Definitions {
    pub(super) detection: &'static str,
    pub(super) pause: &'static str,
    pub(super) recovery: &'static str,
}

/// Where a drill took place.
#[derive(Debug, Clone, Serialize)]
struct Environment {
    isobar: &'static str,
    system: String,
    processors: usize,
    brokers: String,
    clouds: Vec<(String, String)>,
}

/// What must not be exceeded in any run.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Limits {
    /// Longest pause.
    #[serde(rename = "pause_max_seconds", serialize_with = "seconds")]
    pub pause_max: Option<Duration>,
    /// Longest recovery.
    #[serde(rename = "recovery_max_seconds", serialize_with = "seconds")]
    pub recovery_max: Option<Duration>,
}

/// One fault.
#[derive(Debug, Clone, Serialize)]
pub struct Run {
    run: u32,
    fault_began_at: Option<String>,
    fault_ended_at: Option<String>,
    /// As the report defines it.
    #[serde(rename = "detection_seconds", serialize_with = "seconds")]
    pub detection: Option<Duration>,
    /// As the report defines it.
    #[serde(rename = "pause_seconds", serialize_with = "seconds")]
    pub pause: Option<Duration>,
    /// As the report defines it.
    #[serde(rename = "recovery_seconds", serialize_with = "seconds")]
    pub recovery: Option<Duration>,
    /// The usual time between two commits, just before the fault.
    #[serde(rename = "interval_before_seconds", serialize_with = "seconds")]
    pub(super) interval_before: Option<Duration>,
    pub(super) commits_during_fault: Option<u64>,
    pub(super) records_during_fault: Option<u64>,
    notes: Vec<String>,
}

/// One figure over all runs.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Figure {
    /// Runs in which it was measured.
    pub measured: usize,
    /// The middle one; of an even number, the larger of the middle two.
    #[serde(rename = "median_seconds", serialize_with = "seconds")]
    pub median: Option<Duration>,
    /// The largest.
    #[serde(rename = "maximum_seconds", serialize_with = "seconds")]
    pub maximum: Option<Duration>,
}

/// What `prove` said afterwards.
#[derive(Debug, Clone, Default, Serialize)]
struct Verdict {
    holds: bool,
    versions: u64,
    files: u64,
    rows: u64,
    quarantined_rows: u64,
    failures: Vec<String>,
}

fn seconds<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    duration.map(|duration| duration.as_secs_f64()).serialize(serializer)
}

fn now() -> String {
    moment(Utc::now())
}

fn moment(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

impl Figure {
    fn over(figures: impl Iterator<Item = Option<Duration>>) -> Self {
        let mut measured: Vec<Duration> = figures.flatten().collect();
        measured.sort_unstable();
        let median = measured.get(measured.len() / 2).copied();
        Self { measured: measured.len(), median, maximum: measured.last().copied() }
    }

    /// What is wrong with it, given that no run may exceed `limit`.
    fn exceeds(&self, what: &str, limit: Option<Duration>, runs: usize) -> Option<String> {
        let limit = limit?;
        match self.maximum {
            Some(maximum) if maximum > limit => {
                Some(format!("{what} of {}, more than {}", shown(Some(maximum)), shown(Some(limit))))
            }
            _ if self.measured < runs || runs == 0 => {
                Some(format!("{what} was measured in {} of {runs} runs only", self.measured))
            }
            _ => None,
        }
    }
}

impl Run {
    pub(super) fn new(run: u32) -> Self {
        Self {
            run,
            fault_began_at: None,
            fault_ended_at: None,
            detection: None,
            pause: None,
            recovery: None,
            interval_before: None,
            commits_during_fault: None,
            records_during_fault: None,
            notes: Vec::new(),
        }
    }

    pub(super) fn began(&mut self) {
        self.fault_began_at = Some(now());
    }

    pub(super) fn ended(&mut self) {
        self.fault_ended_at = Some(now());
    }

    pub(super) fn note(&mut self, note: &str) {
        self.notes.push(note.to_owned());
    }

    /// The run in one line.
    pub(super) fn line(&self) -> String {
        let figures = [("detection", self.detection), ("pause", self.pause), ("recovery", self.recovery)];
        let figures = figures.map(|(name, figure)| format!("{name} {}", shown(figure))).join(", ");
        let notes: String = self.notes.iter().map(|note| format!("; {note}")).collect();
        format!("run {}: {figures}{notes}", self.run)
    }
}

impl DrillReport {
    pub(super) fn begin(topology: &Topology, clouds: &[Cloud], options: &DrillOptions) -> Self {
        let latency = match options.failure {
            super::Failure::CloudSlow(_, latency) => Some(latency),
            _ => None,
        };
        Self {
            format: REPORT_FORMAT,
            passed: false,
            topology: topology.name.clone(),
            failure: options.failure.name().to_owned(),
            cloud: options.failure.cloud().map(str::to_owned),
            latency,
            hold: Some(options.hold()),
            commit_interval: Some(topology.commit_interval),
            runs_asked: options.runs,
            began_at: now(),
            ended_at: String::new(),
            interrupted: false,
            environment: Environment {
                isobar: env!("CARGO_PKG_VERSION"),
                system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
                processors: std::thread::available_parallelism().map_or(0, usize::from),
                brokers: topology.kafka.brokers.clone(),
                clouds: clouds.iter().map(|cloud| (cloud.name.clone(), cloud.url.clone())).collect(),
            },
            definitions: options.failure.definitions(),
            runs: Vec::new(),
            detection: Figure::default(),
            pause: Figure::default(),
            recovery: Figure::default(),
            limits: options.limits,
            exceeded: Vec::new(),
            prove: Verdict::default(),
        }
    }

    /// Adds up the runs and judges them.
    pub(super) fn end(&mut self, runs: Vec<Run>, proof: &prove::Report, interrupted: bool) {
        self.ended_at = now();
        self.detection = Figure::over(runs.iter().map(|run| run.detection));
        self.pause = Figure::over(runs.iter().map(|run| run.pause));
        self.recovery = Figure::over(runs.iter().map(|run| run.recovery));
        let pause = self.pause.exceeds("a pause", self.limits.pause_max, runs.len());
        let recovery = self.recovery.exceeds("a recovery", self.limits.recovery_max, runs.len());
        self.exceeded = pause.into_iter().chain(recovery).collect();
        let failed = proof.checks.iter().filter(|check| check.status == prove::Status::Failed);
        let describe = |check: &prove::CheckResult| {
            format!(
                "{} in {}: {:?}",
                check.table.as_deref().unwrap_or("all tables"),
                check.cloud,
                check.check
            )
        };
        self.prove = Verdict {
            holds: proof.holds(),
            versions: proof.totals.versions,
            files: proof.totals.files,
            rows: proof.totals.rows,
            quarantined_rows: proof.totals.quarantined_rows,
            failures: failed.map(describe).collect(),
        };
        self.interrupted = interrupted;
        let complete = runs.len() == self.runs_asked as usize && !interrupted;
        let recovered = runs.iter().all(|run| run.recovery.is_some());
        self.passed = complete && recovered && self.prove.holds && self.exceeded.is_empty();
        self.runs = runs;
    }

    /// As JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("the report has string keys")
    }

    /// As Markdown.
    pub fn to_markdown(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = self.write_markdown(&mut text);
        text
    }

    fn write_markdown(&self, text: &mut String) -> std::fmt::Result {
        let cloud = self.cloud.as_ref().map(|cloud| format!(" {cloud}")).unwrap_or_default();
        let latency = self.latency.map(|latency| format!(" by {latency:?}")).unwrap_or_default();
        writeln!(text, "# Drill: {}{cloud}{latency}, topology {}\n", self.failure, self.topology)?;
        let verdict = if self.passed { "passed" } else { "**not passed**" };
        writeln!(
            text,
            "{verdict}: {} of {} runs, {} to {}; each fault held for {}, commits every {}.{}\n",
            self.runs.len(),
            self.runs_asked,
            self.began_at,
            self.ended_at,
            shown(self.hold),
            shown(self.commit_interval),
            if self.interrupted { " Interrupted." } else { "" },
        )?;
        self.write_figures(text)?;
        self.write_runs(text)?;
        writeln!(text, "## Proof\n")?;
        let Verdict { holds, versions, files, rows, quarantined_rows, failures } = &self.prove;
        let verdict = if *holds { "holds" } else { "**does not hold**" };
        writeln!(
            text,
            "`isobar prove` {verdict}: {versions} versions, {files} files, {rows} rows, {quarantined_rows} quarantined."
        )?;
        failures.iter().try_for_each(|failure| writeln!(text, "- {failure}"))?;
        let Environment { isobar, system, processors, brokers, clouds } = &self.environment;
        writeln!(
            text,
            "\n## Environment\n\nisobar {isobar} on {system}, {processors} processors; Kafka at {brokers}\n"
        )?;
        clouds.iter().try_for_each(|(name, url)| writeln!(text, "- {name}: {url}"))
    }

    fn write_figures(&self, text: &mut String) -> std::fmt::Result {
        writeln!(text, "| figure | median | maximum | measured | limit | |\n|---|---|---|---|---|---|")?;
        let figures = [
            ("detection", self.detection, None, self.definitions.detection),
            ("pause", self.pause, self.limits.pause_max, self.definitions.pause),
            ("recovery", self.recovery, self.limits.recovery_max, self.definitions.recovery),
        ];
        for (name, figure, limit, definition) in figures {
            let limit = limit.map_or_else(|| "none".to_owned(), |limit| shown(Some(limit)));
            let (median, maximum) = (shown(figure.median), shown(figure.maximum));
            let measured = format!("{} of {}", figure.measured, self.runs.len());
            writeln!(text, "| {name} | {median} | {maximum} | {measured} | {limit} | {definition} |")?;
        }
        writeln!(text)?;
        self.exceeded.iter().try_for_each(|exceeded| writeln!(text, "**Limit:** {exceeded}.\n"))
    }

    fn write_runs(&self, text: &mut String) -> std::fmt::Result {
        writeln!(
            text,
            "## Runs\n\n| run | fault | until | detection | pause | recovery | usual interval | commits | records | |"
        )?;
        writeln!(text, "|---|---|---|---|---|---|---|---|---|---|")?;
        let count = |count: Option<u64>| count.map_or_else(|| "–".to_owned(), |count| count.to_string());
        for run in &self.runs {
            let at = |at: &Option<String>| at.clone().unwrap_or_else(|| "–".to_owned());
            let cells = [
                run.run.to_string(),
                at(&run.fault_began_at),
                at(&run.fault_ended_at),
                shown(run.detection),
                shown(run.pause),
                shown(run.recovery),
                shown(run.interval_before),
                count(run.commits_during_fault),
                count(run.records_during_fault),
                run.notes.join("; "),
            ];
            writeln!(text, "| {} |", cells.join(" | "))?;
        }
        writeln!(text)
    }
}

fn shown(duration: Option<Duration>) -> String {
    duration.map_or_else(|| "not measured".to_owned(), |duration| format!("{:.3} s", duration.as_secs_f64()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(seconds: &[Option<u64>]) -> Figure {
        Figure::over(seconds.iter().map(|seconds| seconds.map(Duration::from_secs)))
    }

    #[test]
    fn figures_leave_out_what_was_not_measured_and_a_limit_does_not() {
        let pauses = figure(&[Some(3), None, Some(1), Some(2)]);
        assert_eq!(pauses.measured, 3);
        assert_eq!(
            (pauses.median, pauses.maximum),
            (Some(Duration::from_secs(2)), Some(Duration::from_secs(3)))
        );
        let limit = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!(pauses.exceeds("a pause", None, 4), None);
        assert_eq!(
            pauses.exceeds("a pause", limit(2), 4).as_deref(),
            Some("a pause of 3.000 s, more than 2.000 s")
        );
        let unseen = pauses.exceeds("a pause", limit(5), 4);
        assert_eq!(unseen.as_deref(), Some("a pause was measured in 3 of 4 runs only"));
        assert_eq!(figure(&[Some(1)]).exceeds("a pause", limit(5), 1), None);
        assert!(figure(&[]).exceeds("a pause", limit(5), 0).is_some(), "no run is no proof");
    }

    #[test]
    fn a_run_says_what_it_could_not_measure() {
        let mut run = Run::new(2);
        run.pause = Some(Duration::from_millis(1250));
        run.note("nothing was produced");
        let line =
            "run 2: detection not measured, pause 1.250 s, recovery not measured; nothing was produced";
        assert_eq!(run.line(), line);
    }
}
