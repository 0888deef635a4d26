//! How long `isobar serve` takes from its start to the first answer, for a table of many versions and many files.
//!
//! Every version but the first adds files; their rows and their statistics differ. The newest checkpoint is that of the newest
//! multiple of `maintenance.checkpoint_every`, as isobar's own maintenance has it, so the log goes on behind it. Each start is a
//! process of its own, asked once by HTTP as soon as it says where it listens; the time is that from its start to the last byte
//! of a right answer. What the system keeps of files in memory stays from one start to the next.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use isobar_connectors::checkpoint::last_checkpoint;

use crate::checkpoint;
use crate::dataset::{Place, log_folder};
use crate::measure::{resident_bytes, resident_bytes_max};
use crate::process;

const DATASET: &str = "readings";
/// Rows of a file.
const FILE_ROWS: u64 = 100;

/// What is measured.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// Versions of the table.
    pub(crate) versions: u64,
    /// Files of its newest version.
    pub(crate) files: u64,
    /// Starts for each question.
    pub(crate) runs: usize,
    /// `isobar`; by default the one beside this program.
    pub(crate) program: Option<PathBuf>,
}

/// Makes the table unless it is there, and measures.
pub(crate) async fn run(options: Options, directory: &Path) -> Result<()> {
    let Options { versions, files, runs, .. } = options;
    ensure!(runs > 0, "there must be a start");
    ensure!(
        versions > 1 && files > 0,
        "there must be a version beside the one that creates the table, and a file"
    );
    let program = process::isobar(options.program)?;
    let place = Place::open(&directory.join(format!("start-{versions}-{files}")), &[DATASET], None).await?;
    if !place.has(DATASET, versions - 1) {
        write_table(&place, versions, files).await?;
    }
    if let Some(every) = place.topology.datasets[0].maintenance.checkpoint_every {
        write_checkpoint(&place, versions - 1, every)?;
    }

    let rows = files * FILE_ROWS;
    let some = rows / 2;
    let questions = [
        ("count(*)", format!("SELECT count(*) AS n FROM {DATASET}"), format!("n\n{rows}\n")),
        (
            "one row",
            format!("SELECT id, value FROM {DATASET} WHERE id = {some}"),
            format!("id,value\n{some},{:.1}\n", value(some)),
        ),
    ];
    println!("{versions} versions, {files} files, {rows} rows, {runs} starts for each question\n");
    println!(
        "| first question | median s | max s | resident MB, median | resident MB (peak) |\n|---|---|---|---|---|"
    );
    for (name, sql, expected) in &questions {
        let mut starts = Vec::with_capacity(runs);
        for run in 1..=runs {
            let start = start(&program, &place.file, sql, expected)?;
            eprintln!(
                "{name}, start {run}: {:.3} s, {:.0} MB",
                start.seconds,
                start.resident_bytes as f64 / 1e6
            );
            starts.push(start);
        }
        let peak = starts.iter().map(|start| start.resident_bytes_max).max().unwrap_or_default();
        let mut resident: Vec<u64> = starts.iter().map(|start| start.resident_bytes).collect();
        resident.sort_unstable();
        starts.sort_by(|one, other| one.seconds.total_cmp(&other.seconds));
        println!(
            "| {name} | {:.3} | {:.3} | {:.0} | {:.0} |",
            starts[runs / 2].seconds,
            starts[runs - 1].seconds,
            resident[runs / 2] as f64 / 1e6,
            peak as f64 / 1e6
        );
    }
    Ok(())
}

fn schema() -> SchemaRef {
    let field = |name: &str, data_type: DataType| Field::new(name, data_type, true);
    Arc::new(Schema::new(vec![
        field("id", DataType::Int64),
        field("sensor", DataType::Int64),
        field("value", DataType::Float64),
    ]))
}

fn value(id: u64) -> f64 {
    (id % 1_000) as f64 / 2.0
}

/// The rows of a file.
fn rows(file: u64) -> Result<RecordBatch> {
    let ids = file * FILE_ROWS..(file + 1) * FILE_ROWS;
    let columns: Vec<ArrayRef> = vec![
        Arc::new(ids.clone().map(|id| id as i64).collect::<Int64Array>()),
        Arc::new(ids.clone().map(|id| (id * 7 % 5_000) as i64).collect::<Int64Array>()),
        Arc::new(ids.map(value).collect::<Float64Array>()),
    ];
    Ok(RecordBatch::try_new(schema(), columns)?)
}

async fn write_table(place: &Place, versions: u64, files: u64) -> Result<()> {
    let begun = Instant::now();
    let mut table = place.create(DATASET, schema())?;
    let mut file = 0;
    for version in 1..versions {
        // The last version ends with the last file.
        let end = files * version / (versions - 1);
        let mut added = Vec::new();
        while file < end {
            added.push(table.write_file(std::iter::once(rows(file))).await?);
            file += 1;
        }
        table.commit(added)?;
    }
    eprintln!("{versions} versions and {files} files, written in {:.1} s", begun.elapsed().as_secs_f64());
    Ok(())
}

/// Writes the checkpoint that is due for a log that ends with version `newest`, unless it is there.
fn write_checkpoint(place: &Place, newest: u64, every: u64) -> Result<()> {
    let version = newest - newest % every;
    if version == 0 {
        return Ok(());
    }
    let log = log_folder(&place.folder(DATASET));
    let hint = log.join("_last_checkpoint");
    if !hint.exists() {
        let sink = log.join(format!("{version:020}.checkpoint.parquet"));
        let summary = checkpoint::write(&log, 0..version + 1, None, &sink)?;
        fs::write(hint, last_checkpoint(version, &summary))?;
    }
    eprintln!("the newest version is {newest}, and {version} has a checkpoint");
    Ok(())
}

/// A start.
struct Start {
    /// From the start of the process to its answer.
    seconds: f64,
    /// Of the process, after the answer.
    resident_bytes: u64,
    resident_bytes_max: u64,
}

fn start(program: &Path, topology: &Path, sql: &str, expected: &str) -> Result<Start> {
    let begun = Instant::now();
    let topology = topology.to_str().context("the directory has a UTF-8 name")?;
    let (server, address) = process::listening(program, &["serve", topology, "--listen", "127.0.0.1:0"])?;
    let answer = ask(&address, sql)?;
    let seconds = begun.elapsed().as_secs_f64();
    ensure!(
        answer.starts_with("HTTP/1.1 200") && answer.contains(expected),
        "a wrong answer to {sql}:\n{answer}"
    );
    let process = server.0.id().to_string();
    Ok(Start {
        seconds,
        resident_bytes: resident_bytes(&process)?,
        resident_bytes_max: resident_bytes_max(&process)?,
    })
}

/// The whole answer to a question, as it came.
fn ask(address: &str, sql: &str) -> Result<String> {
    let body = serde_json::json!({ "sql": sql, "format": "csv" }).to_string();
    let mut stream = TcpStream::connect(address).context("connect to the server")?;
    stream.set_nodelay(true)?;
    write!(
        stream,
        "POST /v1/query HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
