//! `isobar drift`: whether a model still sees what it learnt from.

pub(super) mod args;

use anyhow::Context;
use tracing::{info, warn};

use self::args::{DriftCheckArgs, DriftCommand, DriftPerformanceArgs, DriftRowsArgs, DriftSkewArgs};
use super::args::ReportFormat;
use super::{Exit, Misconfigured, output, runtime};
use crate::drift::{
    self, Check, DAY_MS, DriftReport, Minimum, Performance, RowsOf, Skew, Triggered, write_metrics,
    write_page,
};
use crate::spec::training::load;
use crate::spec::{self, Topology, read_bounded};

/// Bytes of a query in a file.
const QUERY_BYTES_MAX: u64 = 1 << 20;

/// Does what `command` asks for.
pub(super) fn drift(command: &DriftCommand) -> anyhow::Result<Exit> {
    match command {
        DriftCommand::Check(args) => check(args),
        DriftCommand::Skew(args) => skew(args),
        DriftCommand::Performance(args) => performance(args),
    }
}

/// The rows of windows, those of the reference if they are others, and whose datasets are meant.
struct Rows {
    topology: Topology,
    windows: RowsOf,
    reference: Option<RowsOf>,
}

fn rows(args: &DriftRowsArgs) -> anyhow::Result<Rows> {
    let set = args.training_set.as_deref().map(load).transpose()?;
    let topology = match (&args.config, &set) {
        (Some(config), _) => spec::load(config)?,
        (None, Some(set)) => set.topology.clone(),
        (None, None) => return Err(Misconfigured("name a spec with --config".to_owned()).into()),
    };
    let own = match (&args.dataset, &args.query, &args.served) {
        (Some(dataset), _, _) => Some(RowsOf::dataset(dataset, &args.time)),
        (_, Some(query), _) => {
            let name = query.display();
            let bytes = read_bounded(query, QUERY_BYTES_MAX)
                .map_err(|problem| Misconfigured(format!("{name} cannot be read: {problem}")))?;
            let sql = String::from_utf8(bytes).map_err(|_| Misconfigured(format!("{name} is not UTF-8")))?;
            Some(RowsOf::Query { sql, time: args.time.clone() })
        }
        (_, _, Some(served)) => Some(RowsOf::Served(served.clone())),
        (None, None, None) => None,
    };
    let set = set.map(|set| RowsOf::TrainingSet(Box::new(set)));
    let (windows, reference) = match (own, set) {
        (Some(own), set) => (own, set),
        (None, Some(set)) => (set, None),
        (None, None) => {
            let problem = "name rows with --training-set, --dataset, --query or --served";
            return Err(Misconfigured(problem.to_owned()).into());
        }
    };
    Ok(Rows { topology, windows, reference })
}

fn exit(alarms: usize) -> Exit {
    if alarms == 0 { Exit::Success } else { Exit::Alarms }
}

fn print<R: serde::Serialize>(report: &R, table: String, format: ReportFormat) -> anyhow::Result<()> {
    match format {
        ReportFormat::Table => output::print(&table)?,
        ReportFormat::Json => {
            output::print_json(&serde_json::to_value(report).context("write a report as JSON")?)?
        }
    }
    Ok(())
}

fn check(args: &DriftCheckArgs) -> anyhow::Result<Exit> {
    let Rows { topology, windows, reference } = rows(&args.rows)?;
    let DriftRowsArgs { model, at, window, until, false_alarms, labelled, format, .. } = &args.rows;
    let asked = Check {
        topology,
        model: model.clone(),
        rows: windows,
        reference_rows: reference,
        reference: args.reference,
        versions: at.clone().unwrap_or_default(),
        window_days: *window,
        windows: args.rows.windows,
        until_day: *until,
        false_alarms: *false_alarms,
        minimum: Minimum { psi: args.psi_min, jensen_shannon: args.js_min, l_infinity: args.linf_min },
        prediction: args.prediction.clone(),
        label: args.label.clone(),
        labelled: *labelled,
    };
    let report = runtime()?.block_on(drift::check(&asked))?;
    print(&report, report.to_table(), *format)?;
    // A file that cannot be written keeps nothing else from being done.
    let metrics = args.metrics.as_ref().map_or(Ok(()), |path| write_metrics(&report, path));
    let page = args.html.as_ref().map_or(Ok(()), |path| write_page(&report, path));
    let retrained = retrain(args, &report);
    metrics?;
    page?;
    retrained?;
    Ok(exit(report.alarms))
}

/// Starts the command that is to be started on an alarm, and says what became of it.
fn retrain(args: &DriftCheckArgs, report: &DriftReport) -> anyhow::Result<()> {
    let Some(state) = args.state.as_deref().filter(|_| !args.on_drift.is_empty()) else { return Ok(()) };
    match drift::trigger(report, &args.on_drift, state)? {
        Triggered::Not => {}
        Triggered::Before => info!(state = %state.display(), "the command was started for this alarm before"),
        Triggered::Ended(Some(0)) => info!("the command that follows an alarm has ended"),
        Triggered::Ended(code) => warn!(?code, "the command that follows an alarm did not succeed"),
    }
    Ok(())
}

fn skew(args: &DriftSkewArgs) -> anyhow::Result<Exit> {
    let offline = load(&args.offline)?;
    let asked = Skew {
        topology: offline.topology.clone(),
        model: args.model.clone(),
        served: args.served.clone(),
        offline: Box::new(offline),
        versions: args.at.clone().unwrap_or_default(),
        span_ms: args.from.zip(args.until).map(|(from, until)| (from * DAY_MS, until * DAY_MS)),
        tolerance: args.tolerance,
        allowed: args.allow,
    };
    let report = runtime()?.block_on(drift::skew(&asked))?;
    print(&report, report.to_table(), args.format)?;
    Ok(if report.is_clean() { Exit::Success } else { Exit::Alarms })
}

fn performance(args: &DriftPerformanceArgs) -> anyhow::Result<Exit> {
    let Rows { topology, windows, reference } = rows(&args.rows)?;
    if reference.is_some() {
        let problem =
            "answers and labels are in one place: name a training set, a dataset, a query or a log, not two";
        return Err(Misconfigured(problem.to_owned()).into());
    }
    let DriftRowsArgs { model, at, window, until, false_alarms, labelled, format, .. } = &args.rows;
    let asked = Performance {
        topology,
        model: model.clone(),
        rows: windows,
        prediction: args.prediction.clone(),
        label: args.label.clone(),
        versions: at.clone().unwrap_or_default(),
        window_days: *window,
        windows: args.rows.windows,
        until_day: *until,
        labelled: *labelled,
        auc: args.auc,
        auc_loss: args.auc_loss,
        calibration: args.calibration,
        false_alarms: *false_alarms,
    };
    let report = runtime()?.block_on(drift::performance(&asked))?;
    print(&report, report.to_table(), *format)?;
    Ok(exit(report.alarms))
}
