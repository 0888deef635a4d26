//! Online look-ups: what one costs in this process, and over HTTP at a fixed rate.
//!
//! The store has so many entities, each with fifty features: floats, whole numbers and short texts. Keys are drawn from a fixed seed.
//! Over HTTP the server is a process of its own, and requests are sent when they are due ([`open_loop`](crate::open_loop)).

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use isobar_topologies::online::http::{Anyone, router};
use isobar_topologies::online::{Found, Options, standalone};
use isobar_topologies::serve::serve_http;
use isobar_topologies::spec::OnlineSpec;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::numbers::Numbers;
use crate::open_loop::{self, Times};
use crate::process::Server;

const DATASET: &str = "entities";
const FEATURES: usize = 50;
/// Rows of a transaction.
const BATCH_ROWS: u64 = 10_000;
/// Cache of the store.
const CACHE_BYTES: usize = 256 << 20;
/// Look-ups before anything is measured.
const WARM_UP: usize = 2_000;

/// What is measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes {
    /// Entities in the store.
    pub(crate) entities: u64,
    /// Look-ups in this process, of each kind.
    pub(crate) look_ups: usize,
    /// Requests per second.
    pub(crate) rate: u64,
    /// How long requests are sent.
    pub(crate) seconds: u64,
}

fn feature_type(index: usize) -> DataType {
    match index % 5 {
        0 | 1 => DataType::Float64,
        2 | 3 => DataType::Int64,
        _ => DataType::Utf8,
    }
}

fn schema() -> SchemaRef {
    let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let mut fields = vec![Field::new("entity", DataType::Int64, true), Field::new("at", time, true)];
    fields
        .extend((0..FEATURES).map(|index| Field::new(format!("feature_{index}"), feature_type(index), true)));
    Arc::new(Schema::new(fields))
}

fn spec() -> OnlineSpec {
    OnlineSpec {
        dataset: DATASET.to_owned(),
        keys: vec!["entity".to_owned()],
        time: "at".to_owned(),
        known: None,
        sequence: Vec::new(),
        ttl: None,
        features: None,
    }
}

/// The rows of some entities.
fn rows(entities: std::ops::Range<u64>, numbers: &mut Numbers) -> RecordBatch {
    let count = entities.end - entities.start;
    let times: TimestampMicrosecondArray = entities.clone().map(|entity| Some(entity as i64)).collect();
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(entities.map(|entity| entity as i64))),
        Arc::new(times.with_timezone("UTC")),
    ];
    for index in 0..FEATURES {
        let column: ArrayRef = match feature_type(index) {
            DataType::Float64 => {
                let values = (0..count).map(|_| numbers.below(1 << 40) as f64 / 1024.0);
                Arc::new(Float64Array::from_iter_values(values))
            }
            DataType::Int64 => {
                Arc::new(Int64Array::from_iter_values((0..count).map(|_| numbers.below(1 << 40) as i64)))
            }
            _ => {
                let values = (0..count).map(|_| format!("text {}", numbers.below(1_000_000)));
                Arc::new(StringArray::from_iter_values(values))
            }
        };
        columns.push(column);
    }
    RecordBatch::try_new(schema(), columns).expect("the columns are those of the schema")
}

/// Fills a store unless it is there, and measures.
pub(crate) fn run(sizes: Sizes, directory: Option<PathBuf>) -> Result<()> {
    ensure!(
        sizes.entities > 0 && sizes.look_ups > 0 && sizes.rate > 0 && sizes.seconds > 0,
        "there is nothing to measure"
    );
    let temporary = tempfile::tempdir()?;
    let directory = directory.unwrap_or_else(|| temporary.path().to_owned());
    std::fs::create_dir_all(&directory)?;
    let path = directory.join(format!("{}.redb", sizes.entities));
    if !path.exists() {
        write_store(sizes.entities, &path)?;
    }
    let bytes = std::fs::metadata(&path)?.len();
    println!("{} entities of {FEATURES} features, a store of {:.0} MB\n", sizes.entities, bytes as f64 / 1e6);
    let [columns, line] = Times::HEAD;
    println!("| | requests/s | {columns}\n|---|---|{line}");
    for keys in [1, 100] {
        let (seconds, times) = in_process(sizes, &path, keys)?;
        print_row(&format!("in process, {keys} keys"), seconds, times);
    }
    let (_server, address) = start_server(&path)?;
    // A hundred keys are about a hundred times the work.
    for (keys, rate) in [(1, sizes.rate), (100, (sizes.rate / 50).max(1))] {
        let (seconds, times) = over_http(sizes, &address, keys, rate)?;
        print_row(&format!("over HTTP, {keys} keys, {rate}/s asked"), seconds, times);
    }
    Ok(())
}

fn write_store(entities: u64, path: &Path) -> Result<()> {
    // Under another name until it is whole.
    let unfinished = path.with_extension("unfinished");
    if unfinished.exists() {
        std::fs::remove_file(&unfinished)?;
    }
    let mut numbers = Numbers(1);
    let started = Instant::now();
    let batches = (0..entities).step_by(usize::try_from(BATCH_ROWS)?).map(|first| {
        let end = (first + BATCH_ROWS).min(entities);
        rows(first..end, &mut numbers)
    });
    standalone::fill(&unfinished, &spec(), &schema(), batches, CACHE_BYTES)?;
    std::fs::rename(&unfinished, path)?;
    eprintln!("filled in {:.1} s", started.elapsed().as_secs_f64());
    Ok(())
}

fn print_row(name: &str, seconds: f64, times: Vec<Duration>) {
    let times = Times::of(times);
    println!("| {name} | {:.0} | {}", times.count() as f64 / seconds, times.columns());
}

/// One look-up after the other, in this process: seconds in all, and what each took.
fn in_process(sizes: Sizes, path: &Path, keys: usize) -> Result<(f64, Vec<Duration>)> {
    let opened = standalone::open(path, &spec(), &schema(), CACHE_BYTES)?;
    let view = opened.views.view(DATASET).context("there is a view")?;
    let mut numbers = Numbers(2);
    let look_ups = (sizes.look_ups / keys).max(100);
    let mut times = Vec::with_capacity(look_ups);
    let mut started = Instant::now();
    for number in 0..WARM_UP + look_ups {
        if number == WARM_UP {
            started = Instant::now();
        }
        let entities = (0..keys).map(|_| numbers.below(sizes.entities) as i64);
        let entities: ArrayRef = Arc::new(Int64Array::from_iter_values(entities));
        let began = Instant::now();
        let answer = view.look_up(&[entities], &Options::default(), 0)?;
        let took = began.elapsed();
        ensure!(answer.found.iter().all(|found| matches!(found, Found::Row(_))), "every entity has a row");
        ensure!(answer.rows.num_columns() == FEATURES, "every row has its features");
        if number >= WARM_UP {
            times.push(took);
        }
    }
    Ok((started.elapsed().as_secs_f64(), times))
}

/// Starts the process that answers over HTTP; also where.
fn start_server(path: &Path) -> Result<(Server, String)> {
    let program = std::env::current_exe().context("find this program")?;
    let mut command = Command::new(program);
    command.arg("online-serve").arg(path).stdout(Stdio::piped());
    let mut server = Server(command.spawn().context("start the server")?);
    let output = server.0.stdout.take().context("the server has an output")?;
    let mut address = String::new();
    BufReader::new(output).read_line(&mut address)?;
    ensure!(!address.trim().is_empty(), "the server ended before it listened");
    Ok((server, address.trim().to_owned()))
}

/// Serves the store at `path` until the process is ended; prints where.
pub(crate) async fn answer(path: &Path) -> Result<()> {
    let opened = standalone::open(path, &spec(), &schema(), CACHE_BYTES)?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    serve_http(listener, router(opened.views.clone(), Arc::new(Anyone)), CancellationToken::new()).await?;
    Ok(())
}

/// Requests at a fixed rate: seconds in all, and what each took.
fn over_http(sizes: Sizes, address: &str, keys: usize, rate: u64) -> Result<(f64, Vec<Duration>)> {
    let mut numbers = Numbers(3);
    let requests = (0..rate * sizes.seconds).map(|_| request_of(keys, || numbers.below(sizes.entities)));
    let requests: Vec<Vec<u8>> = requests.collect();
    let started = Instant::now() + Duration::from_millis(100);
    let samples = open_loop::send(address, requests, rate, started)?;
    let seconds = started.elapsed().as_secs_f64();
    if let Some(failure) = samples.iter().find_map(|sample| sample.failure.as_deref()) {
        anyhow::bail!("a request failed: {failure}");
    }
    Ok((seconds, samples.into_iter().map(|sample| sample.took).collect()))
}

fn request_of(keys: usize, mut entity: impl FnMut() -> u64) -> Vec<u8> {
    let path = format!("/v1/datasets/{DATASET}/features");
    if keys == 1 {
        return format!("GET {path}?entity={} HTTP/1.1\r\nhost: localhost\r\n\r\n", entity()).into_bytes();
    }
    let keys: Vec<u64> = (0..keys).map(|_| entity()).collect();
    let body = serde_json::json!({ "keys": keys }).to_string();
    let length = body.len();
    format!("POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n\r\n{body}").into_bytes()
}
