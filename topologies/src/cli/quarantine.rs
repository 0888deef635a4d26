//! `isobar quarantine`: what lies in quarantines, and sending it through the topology again.

use anyhow::Context;
use indicatif::HumanCount;

use super::args::{ListArgs, QuarantineCommand, RedriveArgs, ReportFormat, ShowArgs};
use super::{Exit, output, runtime};
use crate::prove::ProveBar;
use crate::quarantine::listing;
use crate::redrive::{RedriveOptions, Redriven, redrive};
use crate::spec;

/// Does what `command` asks for.
pub(super) fn quarantine(command: &QuarantineCommand) -> anyhow::Result<Exit> {
    match command {
        QuarantineCommand::Ls(args) => list(args),
        QuarantineCommand::Show(args) => show(args),
        QuarantineCommand::Redrive(args) => redrive_rows(args),
    }
}

fn list(args: &ListArgs) -> anyhow::Result<Exit> {
    let topology = spec::load(&args.config)?;
    let summaries = runtime()?.block_on(listing::summaries(&topology))?;
    match args.format {
        ReportFormat::Table if summaries.is_empty() => output::print("nothing was committed yet")?,
        ReportFormat::Table => output::print(&listing::to_table(&summaries))?,
        ReportFormat::Json => output::print_json(&serde_json::json!({ "quarantines": summaries }))?,
    }
    Ok(Exit::Success)
}

fn show(args: &ShowArgs) -> anyhow::Result<Exit> {
    let topology = spec::load(&args.config)?;
    let mut shown: u32 = 0;
    runtime()?.block_on(listing::show(
        &topology,
        &args.dataset,
        args.condition.as_deref(),
        args.limit,
        |row| -> anyhow::Result<()> {
            let text = match args.format {
                ReportFormat::Table => row.to_text(),
                // One object a line, so that an answer of any size needs little memory here and there.
                ReportFormat::Json => serde_json::to_string(&row).context("write a row as JSON")?,
            };
            shown += 1;
            Ok(output::print(&text)?)
        },
    ))?;
    if args.format == ReportFormat::Table {
        let more = if shown == args.limit { ", there may be more: see --limit" } else { "" };
        output::print(&format!("{shown} rows{more}"))?;
    }
    Ok(Exit::Success)
}

fn redrive_rows(args: &RedriveArgs) -> anyhow::Result<Exit> {
    let topology = spec::load(&args.config)?;
    let options = RedriveOptions {
        dataset: args.dataset.clone(),
        condition: args.condition.clone(),
        dry_run: args.dry_run,
        take_over: args.take_over,
        clouds: None,
    };
    let redriven = runtime()?.block_on(async {
        let bar = ProveBar::default();
        redrive(&topology, &options, &bar).await
    })?;
    match args.format {
        ReportFormat::Table => output::print(&summary(&redriven))?,
        ReportFormat::Json => output::print_json(&serde_json::to_value(&redriven)?)?,
    }
    Ok(Exit::Success)
}

/// What became of the rows, for people.
fn summary(redriven: &Redriven) -> String {
    let rows = &redriven.rows;
    let (dataset, selected) = (&redriven.dataset, HumanCount(rows.input));
    if rows.input == 0 {
        return format!("{dataset}: no row of the quarantine is selected\n");
    }
    let mut text = match redriven.dry_run {
        true => format!("{dataset}: {selected} rows are selected; nothing was changed, they would be\n"),
        false => format!("{dataset}: {selected} rows went through the topology again\n"),
    };
    let mut line = |what: &str, rule: &str, rows: u64| {
        if rows > 0 {
            let rule = if rule.is_empty() { String::new() } else { format!("  {rule}") };
            text.push_str(&format!("  {:>12}  {what}{rule}\n", HumanCount(rows).to_string()));
        }
    };
    line("accepted into the dataset", "", rows.output);
    rows.rejected.iter().for_each(|(rule, rows)| line("rejected again", rule, *rows));
    rows.dropped.iter().for_each(|(rule, rows)| line("dropped by rule", rule, *rows));
    line("filtered by the query", "", rows.filtered);
    let stay = redriven.decisions.is_empty() && !redriven.dry_run;
    text.push_str(if stay { "nothing would change by it, so nothing was decided\n" } else { "" });
    text
}

#[cfg(test)]
mod tests {
    use isobar_schemas::RowCounts;

    use super::*;

    #[test]
    fn a_summary_names_every_fate_that_occurred() {
        let rows = RowCounts {
            input: 1235,
            output: 1230,
            rejected: [("has_amount".to_owned(), 4)].into(),
            filtered: 1,
            ..RowCounts::default()
        };
        let mut redriven = Redriven { dataset: "d".into(), rows, decisions: vec![7], ..Redriven::default() };
        let text = summary(&redriven);
        assert!(text.starts_with("d: 1,235 rows went through"), "{text}");
        assert!(text.contains("1,230  accepted") && text.contains("4  rejected again  has_amount"), "{text}");
        assert!(text.contains("1  filtered") && !text.contains("dropped"), "{text}");
        redriven.dry_run = true;
        assert!(summary(&redriven).contains("nothing was changed"));
        redriven = Redriven::default();
        assert!(summary(&redriven).contains("no row"));
    }
}
