//! `isobar scrub`: holds every cloud against what was decided, and puts back what differs.
//!
//! ```text
//! identities ─▶ tables ─▶ control logs ─▶ decided versions (by hash) ─▶ differences ─▶ report
//!                                                                           └─ --repair ─▶ read back ─┘
//! ```
//!
//! [`control`] says what is decided at the head of every table, [`decided`] follows the hash chain down from there,
//! `inspect` compares, `repair` puts back. Guarantee: nothing is written without `--repair`; with it, a table only
//! ever receives bytes that are proved to be the decided ones, a log entry only after the files it names, and what was in
//! the way is kept under `control/<topology>/foreign/`. What cannot be proved is reported and left alone.
//!
//! **A leader may be running.** A leader only creates: data files under unique names, and at each version the one value
//! that was decided for it. The scrubber writes to the same keys the same values, so whoever is second finds its own
//! bytes. It replaces or removes only what differs from the decided bytes, which no leader writes. A version beyond
//! the head is called foreign only if the control logs, read after it was seen, cannot have decided it; while it
//! lies there, no leader can publish there, so nothing of a leader's is removed with it. (Two repairs at a time are one too
//! many here: a store has no conditional delete, so the slower one might remove what a leader published after
//! the faster one had cleared the place. The cloud would miss a version until the next scrub.) Records of the
//! control log are never written, except by a readmission, which is a take-over of its own. A leader that had set
//! the cloud aside serves it again from its next epoch on.
//!
//! **Vacuum.** A file that a decided VACUUM lets go may be missing anywhere and is not brought back; one that is still
//! there is counted as lingering, which is no finding.
//!
//! **Checkpoints.** The newest decided checkpoint of every table is put back like a file, and `_last_checkpoint` written
//! anew. Readers can do without, so a checkpoint that no cloud has any more does not keep a cloud from being readmitted.
//! One that a leader uploaded and that was not decided any more is no finding if it is the one that any leader makes of
//! its version; that is found out by building it anew.
//!
//! A cloud that lost everything is not repaired, since it counts in no majority until it is readmitted:
//! [`readmit`] rebuilds its tables and then has the others readmit it (`docs/protocol-readmission.md`).

mod checkpoints;
mod control;
mod decided;
mod files;
mod inspect;
pub(crate) mod repair;
mod report;

use std::time::Duration;

use isobar_connectors::failpoint;

pub use decided::Evidence;
pub(crate) use inspect::{Standing, State, standing};
pub use report::{CloudSummary, Finding, Kind, Outcome, REPORT_FORMAT, Readmitted, Report, TableSummary};

use self::inspect::{Inspection, Scope, inspect};
use self::repair::repair;
use crate::commit::{Group, quarantine_of};
use crate::error::Error;
use crate::spec::Topology;
use crate::start::open_clouds;
use crate::throttle::Throttle;

/// What to scrub, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct ScrubOptions {
    /// Datasets, each with its quarantine; all when empty.
    pub datasets: Vec<String>,
    /// Clouds to look into; all when empty. Every cloud is asked for what is decided.
    pub clouds: Vec<String>,
    /// Whether to put back what differs.
    pub repair: bool,
    /// The share of data files whose bytes are read, from 0 to 1. Of the others, presence and size are looked at.
    pub sample: f64,
    /// Bytes of data files moved per second at most, over all clouds together.
    pub throttle_bytes_per_second: Option<u64>,
    /// How long a cloud may take to publish what is decided before that is called missing.
    pub patience: Duration,
}

impl Default for ScrubOptions {
    fn default() -> Self {
        Self {
            datasets: Vec::new(),
            clouds: Vec::new(),
            repair: false,
            sample: 1.0,
            throttle_bytes_per_second: None,
            patience: Duration::from_secs(3),
        }
    }
}

/// Scrubs the datasets of `topology` in its clouds.
///
/// # Errors
/// [`Error::Configuration`] for a dataset or cloud that the topology does not have. What is wrong in a cloud is in
/// the report.
pub async fn scrub_topology(topology: &Topology, options: &ScrubOptions) -> Result<Report, Error> {
    scrub(&group(topology)?, &topology.dataset_names(), options).await
}

/// Rebuilds the tables of the cloud `lost` of `topology`, and has the other clouds readmit it.
///
/// # Errors
/// Those of [`readmit`].
pub async fn readmit_topology(
    topology: &Topology,
    lost: &str,
    options: &ScrubOptions,
) -> Result<Report, Error> {
    let throttle = options.throttle_bytes_per_second.or(topology.fill_bytes_per_second);
    let options = ScrubOptions { throttle_bytes_per_second: throttle, ..options.clone() };
    readmit(&group(topology)?, &topology.dataset_names(), lost, &options).await
}

fn group(topology: &Topology) -> Result<Group, Error> {
    Ok(Group::new(&topology.name, open_clouds(topology)?))
}

/// Scrubs `datasets` and their quarantines in the clouds of `group`.
///
/// # Errors
/// As [`scrub_topology`].
pub async fn scrub(group: &Group, datasets: &[String], options: &ScrubOptions) -> Result<Report, Error> {
    let scope = scope(group, datasets, options)?;
    let mut inspection = inspect(&scope).await;
    if options.repair {
        repair(&scope, &mut inspection).await;
    }
    Ok(report(&scope, inspection, options))
}

/// Rebuilds the tables of the cloud `lost` from the others, and has them readmit it. All tables are rebuilt, whatever
/// `options` say, and nothing else is repaired. The cloud is readmitted only when its tables are whole.
///
/// # Errors
/// [`Error::Configuration`] for a cloud that cannot be readmitted, [`Error::NoMajority`] when too few others answer.
/// Nothing is lost then; it can be tried again.
pub async fn readmit(
    group: &Group,
    datasets: &[String],
    lost: &str,
    options: &ScrubOptions,
) -> Result<Report, Error> {
    let options =
        ScrubOptions { datasets: Vec::new(), clouds: vec![lost.to_owned()], repair: true, ..options.clone() };
    let mut scope = scope(group, datasets, &options)?;
    // Before anything is written: a cloud of another group, or one that the others cannot readmit now, is left alone.
    group.check_readmission(lost).await?;
    scope.readmitting = group.clouds.iter().position(|cloud| cloud.name == lost);
    let mut inspection = inspect(&scope).await;
    repair(&scope, &mut inspection).await;
    let mut report = report(&scope, inspection, &options);
    if !is_rebuilt(&report) {
        return Ok(report);
    }
    failpoint::hit(&failpoint::READMIT_AFTER_FILL, lost)
        .map_err(|error| Error::connector("readmit", error))?;
    let decided = group.decide_readmission(lost).await?;
    // Again: more was published meanwhile, and a leader of before may have published here what the first look did not see.
    let mut inspection = inspect(&scope).await;
    repair(&scope, &mut inspection).await;
    let again = self::report(&scope, inspection, &options);
    if !is_rebuilt(&again) {
        return Ok(again);
    }
    let readmission = group.admit(decided).await?;
    for cloud in report.clouds.iter_mut().filter(|cloud| cloud.cloud == lost) {
        cloud.state = "member";
    }
    report.readmitted = Some(Readmitted {
        cloud: readmission.cloud,
        generation: readmission.generation,
        epoch: readmission.epoch.0,
    });
    Ok(report)
}

/// Whether nothing is left to be done that a reader needs.
fn is_rebuilt(report: &Report) -> bool {
    let is_done = |it: &Finding| it.outcome == Outcome::Repaired || it.kind.is_about_checkpoints();
    report.findings.iter().all(is_done)
}

fn scope<'a>(group: &'a Group, datasets: &[String], options: &ScrubOptions) -> Result<Scope<'a>, Error> {
    let clouds: Vec<&str> = group.clouds.iter().map(|cloud| cloud.name.as_str()).collect();
    let known: Vec<&str> = datasets.iter().map(String::as_str).collect();
    let mut problems = unknown("dataset", &options.datasets, &known);
    problems.extend(unknown("cloud", &options.clouds, &clouds));
    if !(0.0..=1.0).contains(&options.sample) {
        problems.push(format!("the sample {} is not a share from 0 to 1", options.sample));
    }
    if !problems.is_empty() {
        return Err(Error::Configuration(problems.join("\n")));
    }
    let is_asked_for = |asked: &[String], name: &str| asked.is_empty() || asked.iter().any(|it| it == name);
    let tables = datasets.iter().filter(|dataset| is_asked_for(&options.datasets, dataset));
    Ok(Scope {
        group,
        tables: tables.flat_map(|dataset| [dataset.clone(), quarantine_of(dataset)]).collect(),
        looks_into: clouds.iter().map(|cloud| is_asked_for(&options.clouds, cloud)).collect(),
        readmitting: None,
        sample: options.sample,
        seed: group.incarnation.clone(),
        patience: options.patience,
        throttle: Throttle::new(options.throttle_bytes_per_second),
    })
}

fn unknown(what: &str, asked: &[String], known: &[&str]) -> Vec<String> {
    let unknown = asked.iter().filter(|name| !known.contains(&name.as_str()));
    let unknown =
        unknown.map(|name| format!("the topology has no {what} {name}: it has {}", known.join(", ")));
    unknown.collect()
}

fn report(scope: &Scope<'_>, inspection: Inspection, options: &ScrubOptions) -> Report {
    let findings: Vec<Finding> = inspection.found.into_iter().map(|found| found.finding).collect();
    let tables = inspection.decided.into_values().map(|decided| TableSummary {
        table: decided.table,
        head: decided.head,
        evidence: decided.evidence,
    });
    Report {
        format: REPORT_FORMAT,
        well: findings.iter().all(|finding| finding.outcome == Outcome::Repaired),
        topology: scope.group.topology.clone(),
        repair: options.repair,
        sample: options.sample,
        readmitted: None,
        clouds: inspection.seats.into_iter().map(|seat| seat.summary).collect(),
        tables: tables.collect(),
        findings,
    }
}
