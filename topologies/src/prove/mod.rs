//! `isobar prove`: an audit from what lies in the clouds, and from nothing else.
//!
//! Given the clouds, it reads every version of every table in each of them, and every data file that the last
//! version names, and answers the questions of [`Check`]: is the history whole and in order, does every Kafka
//! offset occur once, does every record have one fate, and is all of it the same in every cloud? No state of a running
//! pipeline is needed or believed, and the `control/` objects are not read.
//!
//! ```text
//! list logs ─▶ read bodies ─▶ checks on logs (pure) ─┐
//!                  └─▶ files of the last version ─▶ hash, footer ─┼─▶ Report
//!                      files of redrives ─▶ positions of rows ────┤
//!                      newest checkpoint ─▶ hash, footer ─────────┘
//! ```
//!
//! The guarantee: if [`Report::holds`], then in every cloud the tables hold every record between the first declared
//! and the last position once, or account for it by rule, and the files are those that were decided. What an audit
//! cannot see is a history that was cut at its end in **every** cloud, and rows that were wrong before they were counted.
//! A version published while the audit lists is either seen in full or not at all; a cloud that has not received it
//! yet is reported as behind.
//!
//! A broken table is a finding, not an error. A cloud that does not answer is a failed check that names it, and the
//! others are audited as if it were not there. Errors are left for questions that make no sense, such as a dataset
//! that does not exist.

mod audit;
mod checkpoints;
pub(crate) mod checks;
pub(crate) mod log;
pub(crate) mod objects;
mod redrives;
mod report;
pub(crate) mod tally;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use isobar_connectors::clouds::Cloud;

pub use self::report::{
    Check, CheckResult, GapSummary, PartitionSummary, REPORT_FORMAT, Report, Status, Style, TableSummary,
    Totals,
};

use self::audit::Audit;
use self::log::list_versions;
use crate::commit::QUARANTINE_SUFFIX;
use crate::error::Error;
use crate::spec::Topology;
use crate::start::open_clouds;

/// Where an audit says how far it is. All methods may be called from several clouds at once.
pub trait ProveProgress: Send + Sync {
    /// A new part of the work begins.
    fn phase(&self, _what: &str) {}
    /// So many bytes of data files are going to be read.
    fn to_hash(&self, _bytes: u64) {}
    /// So many bytes of data files have been read and hashed.
    fn hashed(&self, _bytes: u64) {}
}

/// For callers who do not want to know.
impl ProveProgress for () {}

/// A progress bar on standard error; invisible where that is no terminal.
#[derive(Debug)]
pub struct ProveBar(ProgressBar);

impl Default for ProveBar {
    fn default() -> Self {
        let bar = ProgressBar::new_spinner();
        bar.enable_steady_tick(Duration::from_millis(100));
        Self(bar)
    }
}

impl ProveProgress for ProveBar {
    fn phase(&self, what: &str) {
        self.0.set_message(what.to_owned());
    }

    fn to_hash(&self, bytes: u64) {
        let template = "{msg} {bar:30.cyan/blue} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left";
        self.0.set_style(ProgressStyle::with_template(template).expect("the template is fixed and valid"));
        self.0.set_length(bytes);
        self.0.reset_eta();
    }

    fn hashed(&self, bytes: u64) {
        self.0.inc(bytes);
    }
}

impl Drop for ProveBar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// Audits `datasets`, all when empty, in the clouds of `topology`, with a progress bar on standard error.
///
/// # Errors
/// [`Error::Configuration`] for a cloud that cannot be opened, and those of [`prove`].
pub async fn prove_topology(topology: &Topology, datasets: &[String]) -> Result<Report, Error> {
    let clouds = open_clouds(topology)?;
    let bar = ProveBar::default();
    prove(&clouds, datasets, Some(&bar)).await
}

/// The newest version of `table` in `cloud`, `None` if it has none or does not answer.
pub async fn latest_version(cloud: &Cloud, table: &str) -> Option<u64> {
    list_versions(cloud, table, None).await.ok()?.last().copied()
}

/// Audits `datasets`, each with its quarantine, in `clouds`; all datasets found there when none is named.
///
/// # Errors
/// [`Error::Configuration`] if a named dataset is in no cloud that answers, or if there is no dataset at all.
pub async fn prove(
    clouds: &[Cloud],
    datasets: &[String],
    progress: Option<&dyn ProveProgress>,
) -> Result<Report, Error> {
    let progress = progress.unwrap_or(&());
    let mut audit = Audit::new(clouds);
    progress.phase("listing datasets");
    let found = audit.find_datasets().await;
    if audit.someone_answers() {
        let chosen = choose(datasets, &found, &audit.silent())?;
        progress.phase("reading logs");
        audit.read_logs(&chosen).await;
        if audit.someone_answers() {
            let asked = if datasets.is_empty() { BTreeSet::new() } else { chosen };
            refuse_empty(&asked, audit.tables())?;
        }
    }
    audit.check_logs();
    progress.phase("hashing files");
    audit.check_files(progress).await;
    progress.phase("reading redriven rows");
    audit.check_redrives().await;
    progress.phase("reading checkpoints");
    audit.check_checkpoints().await;
    progress.phase("looking for leftovers");
    audit.find_leftovers().await;
    Ok(audit.report())
}

/// The datasets asked for, without `.quarantine`, or all that were found. `silent` clouds did not answer.
fn choose(asked: &[String], found: &BTreeSet<String>, silent: &[&str]) -> Result<BTreeSet<String>, Error> {
    if asked.is_empty() {
        return Ok(found.clone());
    }
    let asked: BTreeSet<String> = asked.iter().map(|name| dataset_of(name).to_owned()).collect();
    let mut problems: Vec<String> =
        asked.difference(found).map(|name| unknown_dataset(name, found)).collect();
    if problems.is_empty() {
        return Ok(asked);
    }
    if !silent.is_empty() {
        problems.push(format!("not asked, because they do not answer: {}", silent.join(", ")));
    }
    Err(Error::Configuration(problems.join("\n")))
}

fn dataset_of(table: &str) -> &str {
    table.strip_suffix(QUARANTINE_SUFFIX).unwrap_or(table)
}

fn unknown_dataset(name: &str, found: &BTreeSet<String>) -> String {
    let nearest = found.iter().map(|known| (strsim::jaro_winkler(name, known), known));
    let nearest = nearest.filter(|(likeness, _)| *likeness > 0.7).max_by(|a, b| a.0.total_cmp(&b.0));
    let known: Vec<&str> = found.iter().map(String::as_str).collect();
    match nearest {
        _ if found.is_empty() => {
            format!("dataset {name} is in none of the clouds, and no other dataset is either")
        }
        Some((_, nearest)) => format!("dataset {name} is in none of the clouds: did you mean {nearest}?"),
        None => format!("dataset {name} is in none of the clouds: there are {}", known.join(", ")),
    }
}

/// Proving nothing proves nothing: every dataset asked for by name must have a version, and some table must.
fn refuse_empty(asked: &BTreeSet<String>, tables: &[String]) -> Result<(), Error> {
    let has_version = |dataset: &String| tables.iter().any(|table| dataset_of(table) == dataset);
    let empty: Vec<&str> = asked.iter().filter(|dataset| !has_version(dataset)).map(String::as_str).collect();
    match empty.as_slice() {
        [] if tables.is_empty() => Err(Error::Configuration(
            "there is no dataset in any cloud: nothing was committed yet".to_owned(),
        )),
        [] => Ok(()),
        empty => Err(Error::Configuration(format!("nothing was committed to {} yet", empty.join(", ")))),
    }
}
