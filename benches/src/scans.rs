//! Scans through isobar's table provider beside DataFusion alone, on the very same Parquet files.
//!
//! Two suites: TPC-H, whose tables `tpchgen-cli` makes, and hits of web pages, a wide table with texts of which there are many different
//! ones, made here from a fixed seed. isobar writes the tables as ordinary datasets; DataFusion gets the folder of each as a
//! listing table. Both sides run in this process, with as many partitions, the same batches and the same bound of memory;
//! everything else is as each side's users get it. Each query runs once unmeasured and is then measured on both sides in
//! turn, from its text to its last row. The rows must be the same.

mod hits;
mod tpch;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use arrow::array::{RecordBatch, RecordBatchReader};
use arrow::compute::cast;
use arrow::datatypes::SchemaRef;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use clap::ValueEnum;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::prelude::{ParquetReadOptions, SessionConfig, SessionContext};
use isobar_topologies::query::{Catalog, open_catalog};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde::Serialize;

use crate::dataset::{Place, stored_schema};

/// Rows that are written at a time.
const BATCH_ROWS: usize = 8192;

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Suite {
    /// The 22 queries of TPC-H with the parameters of its validation.
    Tpch,
    /// Queries in the manner of ClickBench.
    Hits,
}

/// What is measured.
pub(crate) struct Options {
    /// Where files are kept.
    pub(crate) directory: PathBuf,
    pub(crate) suites: Vec<Suite>,
    /// Scale factor of TPC-H.
    pub(crate) scale: String,
    /// Rows of the table of hits.
    pub(crate) hits: u64,
    /// Rows of a file, at most.
    pub(crate) file_rows: usize,
    /// Runs of each side that count.
    pub(crate) runs: usize,
    /// Memory of the topology, if not its default.
    pub(crate) memory: Option<String>,
    /// The generator of TPC-H.
    pub(crate) tpchgen: PathBuf,
    pub(crate) json: bool,
}

/// One query on both sides.
#[derive(Debug, Serialize)]
struct Compared {
    suite: &'static str,
    query: usize,
    rows: usize,
    datafusion: Times,
    isobar: Times,
}

impl Compared {
    /// Time of isobar as a part of DataFusion's, by medians.
    fn ratio(&self) -> f64 {
        self.isobar.median / self.datafusion.median
    }
}

/// Seconds of the runs of a side.
#[derive(Debug, Serialize)]
struct Times {
    best: f64,
    median: f64,
}

impl Times {
    fn of(mut seconds: Vec<f64>) -> Self {
        seconds.sort_by(f64::total_cmp);
        Self { best: seconds[0], median: seconds[seconds.len() / 2] }
    }
}

/// Makes the tables unless they are there, and compares.
pub(crate) async fn run(options: &Options) -> Result<()> {
    ensure!(options.runs > 0 && options.file_rows > 0, "there must be a run, and a row in a file");
    let mut compared = Vec::new();
    let mut failures = Vec::new();
    for suite in &options.suites {
        let (name, place, tables, queries) = match suite {
            Suite::Tpch => ("tpch", tpch::place(options).await?, tpch::TABLES, tpch::QUERIES),
            Suite::Hits => ("hits", hits::place(options).await?, hits::TABLES, hits::QUERIES),
        };
        let sides = Sides::open(&place, tables).await?;
        for (query, sql) in (1..).zip(queries) {
            match sides.compare(sql, options.runs).await {
                Ok((rows, datafusion, isobar)) => {
                    eprintln!("{name} {query}: {:.3} s beside {:.3} s", isobar.median, datafusion.median);
                    compared.push(Compared { suite: name, query, rows, datafusion, isobar });
                }
                Err(error) => failures.push(format!("{name} {query}: {error:#}")),
            }
        }
    }
    print(&compared, options.json)?;
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(())
}

fn print(compared: &[Compared], json: bool) -> Result<()> {
    if json {
        println!("{}", serde_json::to_string_pretty(compared)?);
        return Ok(());
    }
    println!("| query | rows | DataFusion: best s | median s | isobar: best s | median s | ratio |");
    println!("|---|---|---|---|---|---|---|");
    for one in compared {
        println!(
            "| {} {} | {} | {:.4} | {:.4} | {:.4} | {:.4} | {:.2} |",
            one.suite,
            one.query,
            one.rows,
            one.datafusion.best,
            one.datafusion.median,
            one.isobar.best,
            one.isobar.median,
            one.ratio()
        );
    }
    let mut suites: Vec<&str> = compared.iter().map(|one| one.suite).collect();
    suites.dedup();
    for suite in suites {
        let of_suite = || compared.iter().filter(|one| one.suite == suite);
        let datafusion: f64 = of_suite().map(|one| one.datafusion.median).sum();
        let isobar: f64 = of_suite().map(|one| one.isobar.median).sum();
        let logarithms: f64 = of_suite().map(|one| one.ratio().ln()).sum();
        println!(
            "\n{suite}: DataFusion {datafusion:.2} s, isobar {isobar:.2} s by medians: {:.3} of its time; geometric mean of the ratios {:.3}",
            isobar / datafusion,
            (logarithms / of_suite().count() as f64).exp()
        );
    }
    Ok(())
}

/// The same tables twice.
struct Sides {
    isobar: Catalog,
    datafusion: SessionContext,
}

impl Sides {
    async fn open(place: &Place, tables: &[&str]) -> Result<Self> {
        let memory_bytes_max = usize::try_from(place.topology.memory_bytes_max)?;
        let runtime = RuntimeEnvBuilder::new().with_memory_limit(memory_bytes_max, 1.0).build_arc()?;
        let datafusion = SessionContext::new_with_config_rt(SessionConfig::new(), runtime);
        for table in tables {
            let folder = place.folder(table);
            let folder = format!("{}/", folder.to_str().context("the directory has a UTF-8 name")?);
            datafusion.register_parquet(*table, folder, ParquetReadOptions::default()).await?;
        }
        Ok(Self { isobar: open_catalog(&place.topology)?, datafusion })
    }

    /// How many rows a query has, and what it takes on both sides.
    async fn compare(&self, sql: &str, runs: usize) -> Result<(usize, Times, Times)> {
        let (_, expected) = self.ask_datafusion(sql).await.context("DataFusion")?;
        let (_, found) = self.ask_isobar(sql).await.context("isobar")?;
        let (expected, found) = (lines(&expected)?, lines(&found)?);
        let differs = expected.iter().zip(&found).find(|(expected, found)| expected != found);
        ensure!(differs.is_none() && expected.len() == found.len(), "the rows differ: {differs:?}");
        let (mut datafusion, mut isobar) = (Vec::with_capacity(runs), Vec::with_capacity(runs));
        for run in 0..runs {
            // Neither side is always the one that comes after the other.
            if run % 2 == 0 {
                datafusion.push(self.ask_datafusion(sql).await?.0);
            }
            isobar.push(self.ask_isobar(sql).await?.0);
            if run % 2 == 1 {
                datafusion.push(self.ask_datafusion(sql).await?.0);
            }
        }
        Ok((expected.len(), Times::of(datafusion), Times::of(isobar)))
    }

    async fn ask_datafusion(&self, sql: &str) -> Result<(f64, Vec<RecordBatch>)> {
        let begun = Instant::now();
        let rows = self.datafusion.sql(sql).await?.collect().await?;
        Ok((begun.elapsed().as_secs_f64(), rows))
    }

    async fn ask_isobar(&self, sql: &str) -> Result<(f64, Vec<RecordBatch>)> {
        let begun = Instant::now();
        let mut answer = self.isobar.query(sql).await?;
        let mut rows = Vec::new();
        while let Some(batch) = answer.next_batch().await? {
            rows.push(batch);
        }
        Ok((begun.elapsed().as_secs_f64(), rows))
    }
}

/// Rows as text, in an order of their own: rows that a query sorts alike may come either way.
fn lines(batches: &[RecordBatch]) -> Result<Vec<String>> {
    let options = FormatOptions::default();
    let mut lines = Vec::new();
    for batch in batches {
        let columns = batch.columns().iter().map(|column| ArrayFormatter::try_new(column.as_ref(), &options));
        let columns: Vec<ArrayFormatter<'_>> = columns.collect::<Result<_, _>>()?;
        let line = |row| columns.iter().map(|column| column.value(row).to_string()).collect::<Vec<_>>();
        lines.extend((0..batch.num_rows()).map(|row| line(row).join("\t")));
    }
    lines.sort();
    Ok(lines)
}

/// Publishes the rows of a Parquet file as a dataset, in files of at most so many rows.
async fn publish_file(place: &Place, dataset: &str, file: &Path, file_rows: usize) -> Result<()> {
    let source = std::fs::File::open(file).with_context(|| format!("read {}", file.display()))?;
    let reader = ParquetRecordBatchReaderBuilder::try_new(source)?.with_batch_size(BATCH_ROWS).build()?;
    let stored = stored_schema(&reader.schema());
    let batches = reader.map(|batch| -> Result<RecordBatch> {
        let batch = batch?;
        let columns = batch.columns().iter().zip(stored.fields());
        let columns = columns.map(|(column, field)| cast(column, field.data_type()));
        Ok(RecordBatch::try_new(stored.clone(), columns.collect::<Result<_, _>>()?)?)
    });
    publish(place, dataset, stored.clone(), batches, file_rows).await
}

/// Publishes rows as a dataset, in files of at most so many rows, give or take a batch.
async fn publish(
    place: &Place,
    dataset: &str,
    schema: SchemaRef,
    batches: impl Iterator<Item = Result<RecordBatch>>,
    file_rows: usize,
) -> Result<()> {
    let begun = Instant::now();
    let mut table = place.create(dataset, schema)?;
    let mut batches = batches.peekable();
    let mut files = Vec::new();
    while batches.peek().is_some() {
        let mut rows = 0;
        let of_file = std::iter::from_fn(|| {
            let batch = if rows < file_rows { batches.next()? } else { return None };
            rows += batch.as_ref().map_or(0, RecordBatch::num_rows);
            Some(batch)
        });
        files.push(table.write_file(of_file).await?);
    }
    let bytes: u64 = files.iter().map(|file| file.size).sum();
    eprintln!(
        "{dataset}: {} files, {:.0} MB, written in {:.1} s",
        files.len(),
        bytes as f64 / 1e6,
        begun.elapsed().as_secs_f64()
    );
    table.commit(files)
}

/// The version of a dataset that has all its rows.
const WHOLE: u64 = 1;
