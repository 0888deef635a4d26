//! What can be asked of `isobar drift`.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand};

use crate::cli::args::ReportFormat;
use crate::drift::{DAY_MS, ReferenceDays};
use crate::models::Reference;
use crate::query::time_ms;
use crate::training::SetVersions;

/// Days that a window or a reference may have.
const DAYS_MAX: u64 = 3_660;

/// What to compare.
#[derive(Debug, Clone, Subcommand)]
pub enum DriftCommand {
    /// Are features, answers and labels distributed as in training?
    #[command(after_help = "Examples:
  isobar drift check --model flight_delay@champion --training-set flight_delay.yaml --windows 4
  isobar drift check --model flight_delay --training-set flight_delay.yaml --reference 56d
  isobar drift check --model flight_delay --served served_vectors --training-set flight_delay.yaml
  isobar drift check --model flight_delay --query scored.sql --time scheduled_at -c topology.yaml
  isobar drift check --model flight_delay --training-set flight_delay.yaml --html drift.html \\
      --metrics /var/lib/node_exporter/drift.prom --state /var/lib/isobar/drift \\
      --on-drift python pipeline.py --run out

Rows have a time and a column for each feature of the model. With --training-set and one of --served,
--dataset and --query, the windows are of the latter and the reference is of the training set.

How large a distance is by chance is taken from windows of the reference. --false-alarms is how likely
any alarm of a run is if nothing has shifted. The command after --on-drift is started at most once
for a version of the model, a window and the features that alarm.

Exit codes: 0 no alarm, 1 a failure, 2 the command line or the data must change, 3 alarms.")]
    Check(DriftCheckArgs),

    /// Was the model given what the datasets say it should have been given?
    #[command(after_help = "Examples:
  isobar drift skew --model flight_delay --served served_vectors --offline served_flights.yaml
  isobar drift skew --model flight_delay@3 --served served_vectors --offline served_flights.yaml \\
      --from 2026-05-01 --until 2026-05-02 --format json | jq '.features[] | select(.alarm)'

The file after --offline describes a training set whose spine is the log of served vectors and keeps its
`id`. Each feature that it makes is compared value by value.

Exit codes: 0 the same, 1 a failure, 2 the command line or the data must change, 3 not the same.")]
    Skew(DriftSkewArgs),

    /// Are answers as good as they were, now that the labels are known?
    #[command(after_help = "Examples:
  isobar drift performance --model flight_delay --query scored.sql --time scheduled_at \\
      --prediction probability --label late --windows 4 -c topology.yaml

A window is judged when nearly all of its rows have a label. Intervals come from leaving out one day
after the other.

Exit codes: 0 no alarm, 1 a failure, 2 the command line or the data must change, 3 alarms.")]
    Performance(DriftPerformanceArgs),
}

/// Which rows, of which model.
#[derive(Debug, Clone, ClapArgs)]
pub struct DriftRowsArgs {
    /// The model; its newest version if none is named
    #[arg(long, value_name = "NAME[@VERSION|@ALIAS]")]
    pub model: Reference,
    /// The spec; by default that of the training set
    #[arg(long, short, value_name = "TOPOLOGY")]
    pub config: Option<PathBuf>,
    /// Rows of this training set
    #[arg(long, value_name = "FILE")]
    pub training_set: Option<PathBuf>,
    /// Rows of this dataset
    #[arg(long, value_name = "NAME", conflicts_with_all = ["query", "served"])]
    pub dataset: Option<String>,
    /// Rows of the query in this file
    #[arg(long, value_name = "FILE", conflicts_with = "served")]
    pub query: Option<PathBuf>,
    /// Rows that this dataset says were served
    #[arg(long, value_name = "NAME")]
    pub served: Option<String>,
    /// The column with the time of a row, of --dataset and --query
    #[arg(long, value_name = "COLUMN", default_value = "event_time")]
    pub time: String,
    /// The versions of datasets: flights=42,weather=17, or a time; by default the newest
    #[arg(long, value_name = "VERSIONS|TIME")]
    pub at: Option<SetVersions>,
    /// Days of a window
    #[arg(long, value_name = "DAYS", default_value = "7d", value_parser = parse_days)]
    pub window: u32,
    /// How many windows, one after the other
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=366))]
    pub windows: u32,
    /// The day before which the last window ends; by default the end of the last one that is over
    #[arg(long, value_name = "DAY", value_parser = parse_day)]
    pub until: Option<i64>,
    /// How likely any alarm of a run is if nothing has changed
    #[arg(long, value_name = "SHARE", default_value = "0.01", value_parser = parse_rate)]
    pub false_alarms: f64,
    /// The share of rows that must have a label before labels are judged
    #[arg(long, value_name = "SHARE", default_value = "0.95", value_parser = parse_share)]
    pub labelled: f64,
    /// How to print the report
    #[arg(long, default_value = "table", value_name = "table|json", hide_possible_values = true)]
    pub format: ReportFormat,
}

/// Options of `isobar drift check`.
#[derive(Debug, Clone, ClapArgs)]
pub struct DriftCheckArgs {
    /// Which rows, of which model.
    #[command(flatten)]
    pub rows: DriftRowsArgs,
    /// What the windows are held against: training, so many days before them, or days FROM..TO
    #[arg(long, value_name = "training|DAYS|FROM..TO", default_value = "training", value_parser = parse_reference)]
    pub reference: ReferenceDays,
    /// From which population stability index on there is an alarm
    #[arg(long, value_name = "PSI", default_value = "0.1", value_parser = parse_distance)]
    pub psi_min: f64,
    /// From which divergence of Jensen and Shannon on, in bits
    #[arg(long, value_name = "BITS", default_value = "0.02", value_parser = parse_distance)]
    pub js_min: f64,
    /// From which difference of one bin's share on
    #[arg(long, value_name = "SHARE", default_value = "0.05", value_parser = parse_distance)]
    pub linf_min: f64,
    /// Judge the answers in this column too
    #[arg(long, value_name = "COLUMN")]
    pub prediction: Option<String>,
    /// Judge the labels in this column too
    #[arg(long, value_name = "COLUMN")]
    pub label: Option<String>,
    /// Write a page with plots
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Write metrics for the text file collector of a node exporter
    #[arg(long, value_name = "FILE")]
    pub metrics: Option<PathBuf>,
    /// The folder that remembers which alarms the command after --on-drift was started for
    #[arg(long, value_name = "DIR", requires = "on_drift")]
    pub state: Option<PathBuf>,
    /// Start this program with these arguments, without a shell, if there is an alarm; the last option
    #[arg(long, value_name = "COMMAND", num_args = 1.., allow_hyphen_values = true, requires = "state")]
    pub on_drift: Vec<String>,
}

/// Options of `isobar drift skew`.
#[derive(Debug, Clone, ClapArgs)]
pub struct DriftSkewArgs {
    /// The model; its newest version if none is named
    #[arg(long, value_name = "NAME[@VERSION|@ALIAS]")]
    pub model: Reference,
    /// The dataset that says what was served
    #[arg(long, value_name = "NAME")]
    pub served: String,
    /// The training set that makes the same again: its spine is that dataset
    #[arg(long, value_name = "FILE")]
    pub offline: PathBuf,
    /// The versions of datasets: flights=42,weather=17, or a time; by default the newest
    #[arg(long, value_name = "VERSIONS|TIME")]
    pub at: Option<SetVersions>,
    /// Only what was served from this day on
    #[arg(long, value_name = "DAY", value_parser = parse_day, requires = "until")]
    pub from: Option<i64>,
    /// Only what was served before this day
    #[arg(long, value_name = "DAY", value_parser = parse_day, requires = "from")]
    pub until: Option<i64>,
    /// By how much of the larger one two numbers may differ
    #[arg(long, value_name = "SHARE", default_value = "0.000001", value_parser = parse_share)]
    pub tolerance: f64,
    /// The share of a feature's values that may not be the same
    #[arg(long, value_name = "SHARE", default_value = "0", value_parser = parse_share)]
    pub allow: f64,
    /// How to print the report
    #[arg(long, default_value = "table", value_name = "table|json", hide_possible_values = true)]
    pub format: ReportFormat,
}

/// Options of `isobar drift performance`.
#[derive(Debug, Clone, ClapArgs)]
pub struct DriftPerformanceArgs {
    /// Which rows, of which model.
    #[command(flatten)]
    pub rows: DriftRowsArgs,
    /// The column with the probability that was answered
    #[arg(long, value_name = "COLUMN", default_value = "prediction")]
    pub prediction: String,
    /// The column with the label: 0, 1, true, false, or null while it is not known
    #[arg(long, value_name = "COLUMN", default_value = "label")]
    pub label: String,
    /// The area under the curve that is expected; by default the one that the model was registered with
    #[arg(long, value_name = "AUC", value_parser = parse_share)]
    pub auc: Option<f64>,
    /// By how much less is an alarm
    #[arg(long, value_name = "AUC", default_value = "0.02", value_parser = parse_share)]
    pub auc_loss: f64,
    /// By how much answers and labels may differ on average
    #[arg(long, value_name = "SHARE", default_value = "0.05", value_parser = parse_share)]
    pub calibration: f64,
}

/// `7d`.
fn parse_days(text: &str) -> Result<u32, String> {
    let days = text.strip_suffix('d').and_then(|days| days.parse::<u64>().ok());
    let days = days.filter(|days| (1..=DAYS_MAX).contains(days)).and_then(|days| u32::try_from(days).ok());
    days.ok_or_else(|| format!("`{text}` is no number of whole days from 1d to {DAYS_MAX}d, such as `7d`"))
}

/// A day, as days since the Unix epoch.
fn parse_day(text: &str) -> Result<i64, String> {
    let ms = time_ms(text).filter(|ms| ms.rem_euclid(DAY_MS) == 0);
    ms.map(|ms| ms.div_euclid(DAY_MS))
        .ok_or_else(|| format!("`{text}` is no day (UTC), such as `2026-05-01`"))
}

fn parse_reference(text: &str) -> Result<ReferenceDays, String> {
    if text == "training" {
        return Ok(ReferenceDays::Training);
    }
    match text.split_once("..") {
        Some((from, to)) => Ok(ReferenceDays::Days(parse_day(from)?, parse_day(to)?)),
        None => parse_days(text)
            .map(ReferenceDays::Before)
            .map_err(|error| format!("{error}, nor `training`, nor days such as `2025-05-01..2025-06-01`")),
    }
}

fn parse_number(text: &str, is_allowed: impl Fn(f64) -> bool, what: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|number| number.is_finite() && is_allowed(*number));
    number.ok_or_else(|| format!("`{text}` is no {what}"))
}

fn parse_share(text: &str) -> Result<f64, String> {
    parse_number(text, |share| (0.0..=1.0).contains(&share), "share from 0 to 1")
}

fn parse_rate(text: &str) -> Result<f64, String> {
    parse_number(text, |rate| rate > 0.0 && rate < 0.5, "rate above 0 and below 0.5")
}

fn parse_distance(text: &str) -> Result<f64, String> {
    parse_number(text, |distance| distance >= 0.0, "distance from 0 on")
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::args::{Args, Command};

    fn check(arguments: &str) -> Result<DriftCheckArgs, clap::Error> {
        parsed(&format!("isobar drift check --model late@champion {arguments}"))
    }

    fn parsed(command: &str) -> Result<DriftCheckArgs, clap::Error> {
        match Args::try_parse_from(command.split_whitespace())?.command {
            Command::Drift { command } => match *command {
                DriftCommand::Check(args) => Ok(args),
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn days_references_and_rates_are_read_and_nonsense_is_refused() {
        let args =
            check("--dataset d --window 1d --reference 2012-12-30..2013-01-02 --until 1970-01-11").unwrap();
        assert_eq!((args.rows.window, args.rows.until), (1, Some(10)));
        assert_eq!(args.reference, ReferenceDays::Days(15_704, 15_707));
        assert_eq!(check("--dataset d --reference 56d").unwrap().reference, ReferenceDays::Before(56));
        let args = check("--dataset d").unwrap();
        assert_eq!((args.reference, args.rows.window, args.rows.windows), (ReferenceDays::Training, 7, 1));
        for wrong in [
            "--dataset d --window 7",
            "--dataset d --window 0d",
            "--dataset d --windows 0",
            "--dataset d --reference yesterday",
            "--dataset d --until 2013-01-01T01:00:00Z",
            "--dataset d --false-alarms 0",
            "--dataset d --psi-min NaN",
            "--dataset d --served s",
            "--dataset d --on-drift true",
            "--dataset d --state here",
        ] {
            assert!(check(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn all_that_follows_on_drift_is_the_command() {
        let args =
            check("--dataset d --state s --on-drift python pipeline.py --run out --format x -c y").unwrap();
        assert_eq!(args.on_drift, ["python", "pipeline.py", "--run", "out", "--format", "x", "-c", "y"]);
        assert_eq!(args.rows.config, None);
    }

    #[test]
    fn the_unit_for_systemd_is_understood() {
        let unit = include_str!("../../../../deploy/systemd/isobar-drift@.service");
        let command = unit.lines().find_map(|line| line.strip_prefix("ExecStart=/usr/local/bin/")).unwrap();
        let options = "--windows 4 --state s --on-drift python pipeline.py";
        let args = parsed(&command.replace("%i", "late").replace("$DRIFT_OPTIONS", options)).unwrap();
        assert_eq!((args.rows.model, args.rows.windows), ("late".parse().unwrap(), 4));
        assert_eq!(args.rows.training_set.as_deref(), Some(std::path::Path::new("/etc/isobar/late.yaml")));
        assert_eq!(args.on_drift, ["python", "pipeline.py"]);
        assert!(args.html.is_some() && args.metrics.is_some());
    }
}
