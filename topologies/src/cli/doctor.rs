//! `isobar doctor`: from its options to a printed report.

use super::args::{DoctorArgs, ReportFormat};
use super::{Exit, output, runtime};
use crate::doctor::{DoctorOptions, examine};
use crate::prove::ProveBar;
use crate::spec;

/// Examines the topology that `args` name. Success means that there is no problem.
pub(super) fn doctor(args: &DoctorArgs) -> anyhow::Result<Exit> {
    let topology = spec::load(&args.topology)?;
    let options =
        DoctorOptions { outage: args.outage.0, patience: args.timeout.0, ..DoctorOptions::default() };
    let report = runtime()?.block_on(async {
        let bar = ProveBar::default();
        examine(&topology, &options, &bar).await
    });
    output::print(&match args.format {
        ReportFormat::Table => report.to_table(),
        ReportFormat::Json => report.to_json(),
    })?;
    Ok(if report.is_well(args.strict) { Exit::Success } else { Exit::Failure })
}
