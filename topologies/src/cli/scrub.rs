//! `isobar scrub`: from its options to a printed report.

use super::args::{ReportFormat, ScrubArgs};
use super::{Exit, output, runtime};
use crate::scrub::{ScrubOptions, readmit_topology, scrub_topology};
use crate::spec;

/// Scrubs the topology that `args` name. Success means that all is well, or was repaired.
pub(super) fn scrub(args: &ScrubArgs) -> anyhow::Result<Exit> {
    let topology = spec::load(&args.topology)?;
    let options = ScrubOptions {
        datasets: args.datasets.clone(),
        clouds: args.clouds.clone(),
        repair: args.repair,
        sample: args.sample,
        throttle_bytes_per_second: args.throttle.map(|throttle| throttle.0),
        ..ScrubOptions::default()
    };
    let report = runtime()?.block_on(async {
        match &args.readmit {
            Some(cloud) => readmit_topology(&topology, cloud, &options).await,
            None => scrub_topology(&topology, &options).await,
        }
    })?;
    output::print(&match args.format {
        ReportFormat::Table => report.to_table(),
        ReportFormat::Json => report.to_json(),
    })?;
    Ok(if report.well { Exit::Success } else { Exit::Failure })
}
