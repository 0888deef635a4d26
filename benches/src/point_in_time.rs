//! The point-in-time join on Parquet files: time, processor time and resident memory.
//!
//! The spine has one row per question: an entity and a time. Each view has an entity, an event time, a known time and two features.
//! Rows lie in the order of time, as they do when they come from a stream, and entities at random; one row in fifty of the spine
//! asks for an entity that no view knows. All of it follows from fixed seeds, so that the files are the same everywhere.
//!
//! What is measured is reading the files, joining, and summing up every column of the result, in a process of its own.
//! `benches/rivals/point_in_time.py` asks DuckDB and Polars the same about the same files; the sums must be equal.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use arrow::array::{ArrayRef, AsArray, Float64Array, Int64Array, RecordBatch, TimestampMicrosecondArray};
use arrow::datatypes::{Field, Float64Type, Int64Type, Schema, SchemaRef};
use datafusion::dataframe::DataFrame;
use datafusion::execution::SessionStateBuilder;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::functions_aggregate::expr_fn::{count, sum};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, col, lit};
use datafusion::prelude::{ParquetReadOptions, SessionConfig, SessionContext};
use isobar_transforms::point_in_time::{FeatureView, Matching, PointInTimeJoin, PointInTimePlanner};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use serde::{Deserialize, Serialize};

use crate::measure::{Measurement, Stopwatch};
use crate::numbers::Numbers;
use crate::process::child;

/// Files there are, whatever is asked of them.
const VIEWS_MAX: usize = 10;

/// Rows that are written at a time.
const BATCH_ROWS: u64 = 100_000;

/// 2026-01-01T00:00:00Z.
const FIRST_MICROSECOND: i64 = 1_767_225_600_000_000;

/// The times that rows lie between: ninety days.
const SPAN_MICROSECONDS: u64 = 90 * 86_400 * 1_000_000;

/// What is known of a row of a view comes up to an hour after it happened.
const DELAY_MICROSECONDS_MAX: u64 = 3_600 * 1_000_000;

/// The files.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes {
    /// Rows of the spine.
    pub(crate) rows: u64,
    /// Rows of each view.
    pub(crate) view_rows: u64,
    /// Entities.
    pub(crate) entities: u64,
}

/// One run, and what came out.
#[derive(Debug, Serialize, Deserialize)]
struct Joined {
    #[serde(flatten)]
    measured: Measurement,
    /// Sums of the result: rows, and per view those that have features, and sums of both.
    sums: Vec<i64>,
}

/// Writes the files unless they are there, and joins so many views as each of `views` says.
pub(crate) fn run(
    sizes: Sizes,
    views: &[usize],
    runs: usize,
    memory_bytes_max: Option<usize>,
    known: bool,
    directory: Option<PathBuf>,
) -> Result<()> {
    ensure!(
        views.iter().all(|views| (1..=VIEWS_MAX).contains(views)),
        "there are files of {VIEWS_MAX} views"
    );
    ensure!(sizes.entities > 0 && runs > 0, "there must be an entity and a run");
    let temporary = tempfile::tempdir()?;
    let directory = directory.unwrap_or_else(|| temporary.path().to_owned());
    std::fs::create_dir_all(&directory)?;
    write_files(sizes, &directory)?;
    println!(
        "| views | known times | seconds | core-seconds | spine rows/s | resident MB (peak) |\n|---|---|---|---|---|---|"
    );
    for views in views {
        let mut all = Vec::with_capacity(runs);
        for _ in 0..runs {
            let joined = join_apart(&directory, *views, memory_bytes_max, known)?;
            ensure!(joined.measured.records == sizes.rows, "{} rows came out", joined.measured.records);
            eprintln!("{views} views: {}; sums {:?}", joined.measured, joined.sums);
            all.push(joined.measured);
        }
        let resident_bytes_max = all.iter().map(|run| run.resident_bytes_max).max().unwrap_or_default();
        all.sort_by(|left, right| left.seconds.total_cmp(&right.seconds));
        let median = all.swap_remove(all.len() / 2);
        println!(
            "| {views} | {} | {:.2} | {:.2} | {:.0} | {:.0} |",
            if known { "yes" } else { "no" },
            median.seconds,
            median.core_seconds,
            median.records as f64 / median.seconds,
            resident_bytes_max as f64 / 1e6
        );
    }
    Ok(())
}

fn join_apart(
    directory: &Path,
    views: usize,
    memory_bytes_max: Option<usize>,
    known: bool,
) -> Result<Joined> {
    let directory = directory.to_str().context("the directory has a UTF-8 name")?;
    let (views, bytes) = (views.to_string(), memory_bytes_max.map(|bytes| bytes.to_string()));
    let mut arguments = vec!["point-in-time-join", directory, &views];
    if let Some(bytes) = &bytes {
        arguments.extend(["--memory-bytes-max", bytes.as_str()]);
    }
    if known {
        arguments.push("--known");
    }
    child(&arguments)
}

fn write_files(sizes: Sizes, directory: &Path) -> Result<()> {
    let spine = directory.join("spine.parquet");
    write_file(&spine, sizes.rows, Numbers(1), |numbers, rows, times| {
        let known_entities = sizes.entities + sizes.entities / 50;
        let entities = rows.clone().map(|_| numbers.below(known_entities) as i64).collect::<Int64Array>();
        vec![("entity", Arc::new(entities) as ArrayRef), ("event_time", time_column(times))]
    })?;
    for view in 0..VIEWS_MAX {
        let path = directory.join(format!("view_{view}.parquet"));
        write_file(&path, sizes.view_rows, Numbers(100 + view as u64), |numbers, rows, times| {
            let entities = rows.clone().map(|_| numbers.below(sizes.entities) as i64).collect::<Int64Array>();
            let known =
                times.iter().map(|time| time + numbers.below(DELAY_MICROSECONDS_MAX) as i64).collect();
            // Whole numbers, so that sums do not depend on the order.
            let amounts = rows.clone().map(|_| numbers.below(1000) as f64).collect::<Float64Array>();
            let counts = rows.map(|_| numbers.below(1000) as i64).collect::<Int64Array>();
            vec![
                ("entity", Arc::new(entities) as ArrayRef),
                ("event_time", time_column(times)),
                ("known_time", time_column(known)),
                ("amount", Arc::new(amounts)),
                ("count", Arc::new(counts)),
            ]
        })?;
    }
    Ok(())
}

fn time_column(times: Vec<i64>) -> ArrayRef {
    Arc::new(TimestampMicrosecondArray::from(times).with_timezone("UTC"))
}

/// The names and values of columns.
type Columns = Vec<(&'static str, ArrayRef)>;

/// Writes a file of so many rows, unless it is there; `columns` makes those of some rows, given their numbers and times.
fn write_file(
    path: &Path,
    rows: u64,
    mut numbers: Numbers,
    mut columns: impl FnMut(&mut Numbers, Range<u64>, Vec<i64>) -> Columns,
) -> Result<()> {
    if path.exists() {
        return Ok(());
    }
    // Under another name until it is whole.
    let unfinished = path.with_extension("unfinished");
    let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
    let mut writer: Option<ArrowWriter<File>> = None;
    let mut first = 0;
    while first < rows || writer.is_none() {
        let end = rows.min(first + BATCH_ROWS);
        let time =
            |row: u64| (u128::from(SPAN_MICROSECONDS) * u128::from(row) / u128::from(rows.max(1))) as i64;
        let times = (first..end).map(|row| FIRST_MICROSECOND + time(row)).collect();
        let batch = batch_of(columns(&mut numbers, first..end, times))?;
        let writer = match &mut writer {
            Some(writer) => writer,
            None => writer.insert(ArrowWriter::try_new(
                File::create(&unfinished)?,
                batch.schema(),
                Some(properties.clone()),
            )?),
        };
        writer.write(&batch)?;
        first = end;
    }
    if let Some(writer) = writer {
        writer.close()?;
    }
    std::fs::rename(unfinished, path)?;
    Ok(())
}

fn batch_of(columns: Columns) -> Result<RecordBatch> {
    let fields = columns.iter().map(|(name, column)| Field::new(*name, column.data_type().clone(), false));
    let schema: SchemaRef = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    Ok(RecordBatch::try_new(schema, columns.into_iter().map(|(_, column)| column).collect())?)
}

/// One join, in a process of its own; prints what it cost and the sums.
pub(crate) async fn join(
    directory: &Path,
    views: usize,
    memory_bytes_max: Option<usize>,
    known: bool,
) -> Result<()> {
    let stopwatch = Stopwatch::start()?;
    let context = session(memory_bytes_max)?;
    let plan = plan(&context, directory, views, known).await?;
    let batches = DataFrame::new(context.state(), plan).collect().await?;
    let sums: Vec<i64> = batches
        .iter()
        .flat_map(|batch| batch.columns())
        .map(|column| match column.as_primitive_opt::<Float64Type>() {
            Some(sum) => sum.value(0) as i64,
            None => column.as_primitive::<Int64Type>().value(0),
        })
        .collect();
    let rows = sums.first().copied().unwrap_or_default().unsigned_abs();
    let joined = Joined { measured: stopwatch.stop(rows, 0)?, sums };
    println!("{}", serde_json::to_string(&joined)?);
    Ok(())
}

fn session(memory_bytes_max: Option<usize>) -> Result<SessionContext> {
    let mut runtime = RuntimeEnvBuilder::new();
    if let Some(bytes) = memory_bytes_max {
        runtime = runtime.with_memory_limit(bytes, 1.0);
    }
    let state = SessionStateBuilder::new()
        .with_config(SessionConfig::new())
        .with_runtime_env(runtime.build_arc()?)
        .with_default_features()
        .with_query_planner(Arc::new(PointInTimePlanner))
        .build();
    Ok(SessionContext::new_with_state(state))
}

async fn plan(context: &SessionContext, directory: &Path, views: usize, known: bool) -> Result<LogicalPlan> {
    let spine = table(context, directory, "spine").await?;
    let mut joined = Vec::with_capacity(views);
    let mut sums: Vec<Expr> = vec![count(lit(1_i64)).alias("rows")];
    for view in (0..views).map(|view| format!("view_{view}")) {
        let column = |name: &str| col(format!("{view}.{name}"));
        joined.push(FeatureView {
            input: table(context, directory, &view).await?,
            on: vec![(col("spine.entity"), column("entity"))],
            spine_time: col("spine.event_time"),
            event_time: column("event_time"),
            known_time: known.then(|| column("known_time")),
            offset: None,
            ttl: None,
            matching: Matching::AtOrBefore,
        });
        sums.push(count(column("count")).alias(format!("{view}_found")));
        sums.push(sum(column("amount")).alias(format!("{view}_amount")));
        sums.push(sum(column("count")).alias(format!("{view}_count")));
    }
    let join = PointInTimeJoin::try_new(spine, joined)?.into_plan();
    Ok(LogicalPlanBuilder::from(join).aggregate(Vec::<Expr>::new(), sums)?.build()?)
}

async fn table(context: &SessionContext, directory: &Path, name: &str) -> Result<LogicalPlan> {
    let path = directory.join(format!("{name}.parquet"));
    let path = path.to_str().context("the directory has a UTF-8 name")?;
    context.register_parquet(name, path, ParquetReadOptions::default()).await?;
    Ok(context.table(name).await?.into_unoptimized_plan())
}
