//! `isobar query`, `isobar snapshots` and `isobar diff`: rows, versions, and what lies between versions.

use std::ffi::OsStr;
use std::io::{self, IsTerminal, Read, Write};
use std::path::Path;

use anyhow::Context;
use tracing::debug;

use super::args::{CloudPreference, DiffArgs, QueryArgs, ReportFormat, RowFormat, SnapshotsArgs};
use super::bars::QueryProgress;
use super::{Exit, Misconfigured, bars, output, runtime, shell};
use crate::aside::new_file;
use crate::query::{self, Answer, Freshness, QueryLimits, Reading, RowsFormat};
use crate::spec::{self, Prefer, Topology};

/// Prints rows, or writes them to a file.
pub(super) fn query(args: &QueryArgs) -> anyhow::Result<Exit> {
    let format = format_of(args)?;
    if format.is_binary() && args.output.is_none() && io::stdout().is_terminal() {
        let refusal = "Parquet and Arrow are not for a terminal: name a file with --output, or redirect";
        return Err(Misconfigured(refusal.to_owned()).into());
    }
    let topology = spec::load(&args.config)?;
    let limits = limits_of(args);
    let terms = (reading_of(&topology, args)?, freshness_of(args));
    let Some(sql) = &args.sql else { return shell::shell(&topology, args, format, limits, terms) };
    let sql = sql_of(sql, &limits)?;
    runtime()?.block_on(answer(&topology, args, &sql, &limits, format, terms))?;
    Ok(Exit::Success)
}

/// The format asked for, or else what the ending of the file says.
fn format_of(args: &QueryArgs) -> anyhow::Result<RowsFormat> {
    let ending = args.output.as_deref().and_then(Path::extension).and_then(OsStr::to_str);
    let by_ending = match ending {
        Some("json") => Some(RowsFormat::Json),
        Some("csv") => Some(RowsFormat::Csv),
        Some("parquet") => Some(RowsFormat::Parquet),
        Some("arrow" | "feather") => Some(RowsFormat::Arrow),
        _ => None,
    };
    let asked = args.format.map(|format| match format {
        RowFormat::Table => RowsFormat::Table,
        RowFormat::Json => RowsFormat::Json,
        RowFormat::Csv => RowsFormat::Csv,
        RowFormat::Parquet => RowsFormat::Parquet,
        RowFormat::Arrow => RowsFormat::Arrow,
    });
    match (asked.or(by_ending), &args.output) {
        (Some(format), _) => Ok(format),
        (None, None) => Ok(RowsFormat::Table),
        (None, Some(file)) => Err(Misconfigured(format!(
            "{}: the ending says no format, say it with --format table, json, csv, parquet or arrow",
            file.display()
        ))
        .into()),
    }
}

/// The limits asked for.
fn limits_of(args: &QueryArgs) -> QueryLimits {
    let mut limits = if args.as_served { QueryLimits::served() } else { QueryLimits::default() };
    limits.time = args.timeout.or(limits.time);
    limits
}

/// The query itself, which may come by standard input.
fn sql_of(sql: &str, limits: &QueryLimits) -> anyhow::Result<String> {
    if sql != "-" {
        return Ok(sql.to_owned());
    }
    let mut sql = String::new();
    // One byte more than is allowed is enough to be refused.
    let bytes_max = limits.sql_bytes_max as u64 + 1;
    io::stdin()
        .lock()
        .take(bytes_max)
        .read_to_string(&mut sql)
        .context("read the query from standard input")?;
    Ok(sql)
}

async fn answer(
    topology: &Topology,
    args: &QueryArgs,
    sql: &str,
    limits: &QueryLimits,
    format: RowsFormat,
    (reading, freshness): (Reading, Freshness),
) -> anyhow::Result<()> {
    let catalog = query::open_catalog_reading(topology, &reading)?;
    let mut answer = catalog.query_within(sql, limits, &freshness).await?;
    for table in answer.from() {
        debug!(table = %table.table, version = table.version, cloud = %table.cloud, "reading");
    }
    let progress = QueryProgress::default();
    progress.show(answer.scanned());
    let written = match &args.output {
        Some(file) => write_file(&mut answer, format, file).await,
        None => write_stdout(&mut answer, format).await,
    };
    progress.end().await?;
    if args.stats {
        bars::suspended(|| write_stats(&answer))?;
    }
    written
}

/// Which cloud is read, as the spec says or the command line.
fn reading_of(topology: &Topology, args: &QueryArgs) -> anyhow::Result<Reading> {
    let mut reading = Reading::of(topology.query.clone());
    if let Some(prefer) = args.prefer {
        reading.query.prefer = match prefer {
            CloudPreference::Order => Prefer::Order,
            CloudPreference::Nearest => Prefer::Nearest,
            CloudPreference::Cheapest => Prefer::Cheapest,
        };
    }
    if let Some(cloud) = &args.local_to {
        let names: Vec<&str> = topology.clouds.iter().map(|cloud| cloud.name.as_str()).collect();
        if !names.contains(&cloud.as_str()) {
            let known = names.join(", ");
            return Err(Misconfigured(format!("--local-to {cloud}: the clouds are {known}")).into());
        }
        reading.query.local_to = Some(cloud.clone());
    }
    reading.only = args.cloud.clone();
    Ok(reading)
}

/// How new tables have to be.
fn freshness_of(args: &QueryArgs) -> Freshness {
    Freshness {
        min_versions: args.min_version.iter().cloned().collect(),
        max_staleness: args.max_staleness.map(|longest| longest.0),
    }
}

/// Says what was read, from where, and how old it is.
pub(super) fn write_stats(answer: &Answer) -> io::Result<()> {
    let mut stderr = io::stderr().lock();
    for table in answer.from() {
        let committed = table.committed();
        let query::TableVersion { table, version, cloud, .. } = table;
        writeln!(stderr, "{table}: version {version}, committed at {committed}, log read from {cloud}")?;
    }
    writeln!(stderr, "{}", answer.usage())
}

/// Prints rows as they come, so that an answer of any size needs little memory.
async fn write_stdout(answer: &mut Answer, format: RowsFormat) -> anyhow::Result<()> {
    while let Some(piece) = answer.next_bytes(format).await? {
        bars::suspended(|| -> io::Result<()> {
            let mut stdout = io::stdout().lock();
            stdout.write_all(&piece)?;
            stdout.flush()
        })?;
    }
    Ok(())
}

/// Writes rows beside `file`, which they replace when all of them are there: half an answer looks like a whole one.
pub(super) async fn write_file(answer: &mut Answer, format: RowsFormat, file: &Path) -> anyhow::Result<()> {
    let action = || format!("write {}", file.display());
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut aside = new_file(folder, ".isobar-query-").with_context(action)?;
    while let Some(piece) = answer.next_bytes(format).await? {
        aside.write_all(&piece).with_context(action)?;
    }
    aside.persist(file).with_context(action)?;
    Ok(())
}

/// Prints the versions of a table.
pub(super) fn snapshots(args: &SnapshotsArgs) -> anyhow::Result<Exit> {
    let topology = spec::load(&args.topology)?;
    let limit = args.limit as usize;
    let snapshots = runtime()?.block_on(query::snapshots(&topology, &args.dataset, limit))?;
    match args.format {
        ReportFormat::Table => output::print(&snapshots.to_table())?,
        ReportFormat::Json => output::print_json(&serde_json::to_value(&snapshots)?)?,
    }
    Ok(Exit::Success)
}

/// Prints what lies between two versions.
pub(super) fn diff(args: &DiffArgs) -> anyhow::Result<Exit> {
    let topology = spec::load(&args.topology)?;
    runtime()?.block_on(compare(&topology, args))?;
    Ok(Exit::Success)
}

async fn compare(topology: &Topology, args: &DiffArgs) -> anyhow::Result<()> {
    let DiffArgs { dataset, from, to, .. } = args;
    let diff = query::diff(topology, dataset, *from, *to).await?;
    let rows = match args.rows {
        true => Some(query::diff_rows(topology, dataset, *from, *to, args.limit as usize).await?),
        false => None,
    };
    match args.format {
        ReportFormat::Table => {
            output::print(&diff.to_table())?;
            if let Some(mut rows) = rows {
                write_stdout(&mut rows, RowsFormat::Table).await?;
            }
        }
        ReportFormat::Json => {
            let mut json = serde_json::to_value(&diff)?;
            if let Some(mut rows) = rows {
                let mut text = Vec::new();
                while let Some(piece) = rows.next_bytes(RowsFormat::Json).await? {
                    text.extend_from_slice(&piece);
                }
                json["rows"] = serde_json::from_slice(&text)?;
            }
            output::print_json(&json)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn args(format: Option<RowFormat>, output: Option<&str>) -> QueryArgs {
        QueryArgs {
            sql: Some("SELECT 1".into()),
            config: "topology.yaml".into(),
            format,
            output: output.map(PathBuf::from),
            timeout: None,
            as_served: false,
            prefer: None,
            cloud: None,
            local_to: None,
            min_version: Vec::new(),
            max_staleness: None,
            stats: false,
            no_history: false,
        }
    }

    #[test]
    fn the_format_is_said_or_follows_from_the_file() {
        let asked = |format, output| format_of(&args(format, output)).ok();
        assert_eq!(asked(None, None), Some(RowsFormat::Table));
        assert_eq!(asked(Some(RowFormat::Csv), None), Some(RowsFormat::Csv));
        assert_eq!(asked(None, Some("a/b.parquet")), Some(RowsFormat::Parquet));
        assert_eq!(asked(None, Some("b.feather")), Some(RowsFormat::Arrow));
        assert_eq!(asked(Some(RowFormat::Json), Some("b.parquet")), Some(RowsFormat::Json));
        for output in ["b", "b.txt", "parquet"] {
            assert_eq!(asked(None, Some(output)), None, "{output}");
            assert_eq!(asked(Some(RowFormat::Table), Some(output)), Some(RowsFormat::Table));
        }
    }
}
