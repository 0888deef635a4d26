//! `isobar drill`: what to make fail, and where the reports go.

use std::path::{Path, PathBuf};

use anyhow::Context;
use isobar_connectors::failpoint::{self, Scope};
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::args::{DrillArgs, DrillFailure, Format};
use super::run::stop_on_signals;
use super::{Exit, Misconfigured, output, runtime};
use crate::drill::{self, DrillOptions, DrillReport, Failure, Limits, Successor, Target};

/// Does the drill that `args` ask for.
pub(super) fn drill(args: DrillArgs) -> anyhow::Result<Exit> {
    let prefix = args.report.clone().unwrap_or_else(|| default_prefix(&args.failure));
    refuse_unwritable(&prefix)?;
    let report = runtime()?.block_on(drilled(&args))?;
    write(&report, &prefix)?;
    output::print(&match args.output.format {
        Format::Human => report.to_markdown(),
        Format::Json => report.to_json(),
    })?;
    Ok(if report.passed { Exit::Success } else { Exit::Failure })
}

async fn drilled(args: &DrillArgs) -> anyhow::Result<DrillReport> {
    let target = match (&args.config, args.demo) {
        (Some(config), false) => Target::open(config)?,
        (None, true) => Target::demo()?,
        _ => return Err(Misconfigured("say what to drill: either --config TOPOLOGY or --demo".into()).into()),
    };
    let options = DrillOptions {
        failure: failure(&args.failure),
        runs: args.runs,
        hold: args.hold,
        limits: Limits { pause_max: args.pause_max, recovery_max: args.recovery_max },
        take_over: args.take_over,
    };
    let shutdown = CancellationToken::new();
    stop_on_signals(shutdown.clone())?;
    // To standard error, where people look while it runs; the report alone goes to standard output.
    Ok(drill::drill(&target, &options, &shutdown, &|line| eprintln!("drill: {line}")).await?)
}

fn failure(failure: &DrillFailure) -> Failure {
    match failure.clone() {
        DrillFailure::CloudAway { cloud } => Failure::CloudAway(cloud),
        DrillFailure::CloudSlow { cloud, latency } => Failure::CloudSlow(cloud, latency),
        DrillFailure::LostAnswers { cloud } => Failure::LostAnswers(cloud),
        DrillFailure::LeaderKill { standby: false } => Failure::LeaderKill(Successor::ItselfAgain),
        DrillFailure::LeaderKill { standby: true } => Failure::LeaderKill(Successor::Standby),
    }
}

fn default_prefix(of: &DrillFailure) -> PathBuf {
    let now = chrono::Utc::now().format("%Y%m%dT%H%M%SZ");
    PathBuf::from(format!("drill-{}-{now}", failure(of).name()))
}

/// A drill whose report cannot be kept is not begun.
fn refuse_unwritable(prefix: &Path) -> anyhow::Result<()> {
    let folder = prefix.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let is_writable =
        std::fs::metadata(folder).is_ok_and(|folder| folder.is_dir() && !folder.permissions().readonly());
    let what = || Misconfigured(format!("{} is no folder that reports can be written to", folder.display()));
    if is_writable { Ok(()) } else { Err(what().into()) }
}

fn write(report: &DrillReport, prefix: &Path) -> anyhow::Result<()> {
    for (extension, text) in [("json", report.to_json()), ("md", report.to_markdown())] {
        // Appended: a dot in the name is no extension.
        let mut path = prefix.as_os_str().to_owned();
        path.push(format!(".{extension}"));
        let path = PathBuf::from(path);
        std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        info!(path = %path.display(), "report written");
    }
    Ok(())
}

/// Prints every failpoint, so that a test can go through all of them.
pub(super) fn list_failpoints() -> anyhow::Result<Exit> {
    let lines = failpoint::ALL.iter().map(|point| {
        let scope = match point.scope {
            Scope::Process => "process",
            Scope::Cloud => "cloud",
        };
        format!("{:27} {scope:8} {}\n", point.name, point.about)
    });
    output::print(&lines.collect::<String>())?;
    Ok(Exit::Success)
}
