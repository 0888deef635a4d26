//! `isobar verify-online`: look-ups beside queries.

use super::args::{ReportFormat, VerifyOnlineArgs};
use super::{Exit, output, runtime};
use crate::online::verify::{Report, Sample, verify_server, verify_store, views};
use crate::spec::{self, Topology};
use crate::start::open_clouds;

/// Prints whether look-ups say what a query says.
pub(super) fn verify(args: &VerifyOnlineArgs) -> anyhow::Result<Exit> {
    let topology = spec::load(&args.topology)?;
    let reports = runtime()?.block_on(compare(&topology, args))?;
    match args.format {
        ReportFormat::Table => output::print(&Report::table_of(&reports))?,
        ReportFormat::Json => output::print_json(&serde_json::json!({ "datasets": reports }))?,
    }
    Ok(if reports.iter().all(Report::holds) { Exit::Success } else { Exit::Failure })
}

async fn compare(topology: &Topology, args: &VerifyOnlineArgs) -> anyhow::Result<Vec<Report>> {
    let views = views(topology, args.dataset.as_deref())?;
    let clouds = open_clouds(topology)?;
    let sample = Sample { keys: args.sample.map(|keys| keys as usize), seed: args.seed };
    let mut reports = Vec::with_capacity(views.len());
    for view in views {
        reports.push(match (&args.from.directory, &args.from.url) {
            (Some(folder), _) => verify_store(topology, &clouds, view, folder, sample).await?,
            (None, url) => {
                let url = url.as_deref().unwrap_or_default();
                verify_server(topology, &clouds, view, url, args.token.as_deref(), sample).await?
            }
        });
    }
    Ok(reports)
}
