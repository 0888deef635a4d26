//! Benchmarks of isobar, each beside a ceiling measured in the same run.
//!
//! `ingest`: JSON records in Kafka to committed Delta tables in three local clouds, beside a bare loop that only
//! consumes, decodes and encodes. Each side runs in a process of its own, so that its processor time and its
//! resident memory are its own.
//!
//! `formats`: the same records in every format, beside the decoder alone.
//! `decoders`: isobar's JSON decoder beside arrow-json, on flights and on nested records.
//! `small`: as many small records a second as go from Kafka to committed Delta tables, beside a loop that only polls.
//!
//! `age`: whether commits take longer as a table grows old.
//! `checkpoint`: Delta checkpoints of a table with a million files, from its bodies alone and on a previous checkpoint.
//!
//! `point-in-time`: a spine joined with feature views, from Parquet files; `benches/rivals` asks others the same.
//! `predict`: models in a stage, beside ONNX Runtime alone.
//! `online`: look-ups of the newest row by key, in this process and over HTTP at a fixed rate.
//! `gateway`: look-ups at a fixed rate through a gateway, while one of three servers is killed and returns.
//! `scans`: TPC-H and hits of web pages through the table provider, beside DataFusion alone on the same files.
//! `start`: from the start of `isobar serve` to its first answer, for a table of many versions and files.

mod age;
mod bare;
mod checkpoint;
mod dataset;
mod decoders;
mod formats;
mod gateway;
mod measure;
mod numbers;
mod online;
mod open_loop;
mod pipeline;
mod point_in_time;
mod predict;
mod process;
mod scans;
mod small;
mod start;
mod topic;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

use formats::Format;
use measure::Measurement;
use process::child;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
#[command(about = "Benchmarks of isobar", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

/// What every benchmark is told that reads from Kafka.
#[derive(clap::Args)]
struct OnKafka {
    /// Kafka brokers, `host:port`.
    #[arg(long, env = "ISOBAR_KAFKA_BROKERS")]
    brokers: String,
    /// Memory budget of the topology.
    #[arg(long, default_value = "384MiB")]
    memory: String,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Kafka to committed Delta in three local clouds, beside the bare loop of client, decoder and encoder.
    Ingest {
        /// Megabytes of JSON in the topic (10^6 bytes).
        #[arg(long, default_value_t = 1000)]
        megabytes: u64,
        /// Runs of each side; the median counts.
        #[arg(long, default_value_t = 3)]
        runs: usize,
        #[command(flatten)]
        setting: OnKafka,
    },
    /// The same records in every format: the decoder alone, and Kafka to committed Delta in three local clouds.
    Formats {
        /// Records of each format.
        #[arg(long, default_value_t = 2_000_000)]
        records: u64,
        #[command(flatten)]
        setting: OnKafka,
    },
    /// isobar's JSON decoder beside arrow-json, on one thread: flights, and records of nested values.
    Decoders {
        /// Rounds of each side, taken in turn; the median counts.
        #[arg(long, default_value_t = 15)]
        rounds: usize,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Small records from Kafka to committed Delta in three local clouds, beside a loop that polls and does nothing else.
    Small {
        /// Records in the topic.
        #[arg(long, default_value_t = 20_000_000)]
        records: u64,
        /// Runs of each side; the median counts.
        #[arg(long, default_value_t = 3)]
        runs: usize,
        #[command(flatten)]
        setting: OnKafka,
    },
    /// Small commits to three local directories, one after the other: latency by the table's age.
    Age {
        /// How many.
        #[arg(long, default_value_t = 10_000)]
        commits: usize,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Checkpoints of a table with many files, built from its bodies and on a previous checkpoint.
    Checkpoint {
        /// Files that the first versions add.
        #[arg(long, default_value_t = 1_000_000)]
        files: u64,
        /// Versions that add them.
        #[arg(long, default_value_t = 1_000)]
        versions: u64,
        /// Versions after the previous checkpoint; each adds as many files as one of the first, and removes half as many.
        #[arg(long, default_value_t = 100)]
        further_versions: u64,
    },
    /// A spine with feature views, point in time, from Parquet files that are made unless they are there.
    PointInTime {
        /// Rows of the spine.
        #[arg(long, default_value_t = 10_000_000)]
        rows: u64,
        /// Rows of each view.
        #[arg(long, default_value_t = 1_000_000)]
        view_rows: u64,
        /// Entities that rows belong to.
        #[arg(long, default_value_t = 100_000)]
        entities: u64,
        /// How many views are joined, one after the other.
        #[arg(long, value_delimiter = ',', default_values_t = [3, 10])]
        views: Vec<usize>,
        /// Runs of each; the median counts.
        #[arg(long, default_value_t = 3)]
        runs: usize,
        /// Bytes of memory for the join; what does not fit goes through files.
        #[arg(long)]
        memory_bytes_max: Option<usize>,
        /// Use only what was known at the time. DuckDB and Polars are not asked this.
        #[arg(long)]
        known: bool,
        /// Where the files are kept, for others to read.
        #[arg(long)]
        directory: Option<PathBuf>,
    },
    /// Models in a stage, beside ONNX Runtime alone on the same rows, both on one thread.
    Predict {
        /// An ONNX file; benches/rivals/models.py makes some. Can be repeated.
        #[arg(long = "model", required = true)]
        models: Vec<PathBuf>,
        /// ONNX Runtime's library.
        #[arg(long, env = "ISOBAR_ONNXRUNTIME")]
        onnxruntime: Option<PathBuf>,
        /// Rows that are there; a round goes through them as often as it takes a second.
        #[arg(long, default_value_t = 100_000)]
        rows: usize,
        /// Rows at a time.
        #[arg(long, default_value_t = 4096)]
        batch_rows: usize,
        /// Rounds of each side, taken in turn; the median counts.
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Online look-ups of fifty features, in this process and over HTTP, each request sent when it is due.
    Online {
        /// Entities in the store.
        #[arg(long, default_value_t = 200_000)]
        entities: u64,
        /// Keys looked up in this process, one by one and a hundred at a time.
        #[arg(long, default_value_t = 200_000)]
        look_ups: usize,
        /// Requests per second over HTTP.
        #[arg(long, default_value_t = 5_000)]
        rate: u64,
        /// How long requests are sent.
        #[arg(long, default_value_t = 30)]
        seconds: u64,
        /// Where the store is kept; by default it is made anew.
        #[arg(long)]
        directory: Option<PathBuf>,
    },
    /// Look-ups at a fixed rate through `isobar gateway` before three `isobar serve`, one of which is killed and returns.
    ///
    /// Fails if one request fails.
    Gateway {
        /// Where the table, the stores and the files are kept; by default they are made anew.
        #[arg(long)]
        directory: Option<PathBuf>,
        /// Entities in the table.
        #[arg(long, default_value_t = 50_000)]
        entities: u64,
        /// Requests per second.
        #[arg(long, default_value_t = 2_000)]
        rate: u64,
        /// How long requests are sent.
        #[arg(long, default_value_t = 40)]
        seconds: u64,
        /// Second at which a server is killed.
        #[arg(long, default_value_t = 10)]
        kill_at: u64,
        /// Second at which it is started again.
        #[arg(long, default_value_t = 20)]
        return_at: u64,
        /// An ONNX file of up to 20 features: servers look them up by key and ask it. Needs ONNX Runtime, at ISOBAR_ONNXRUNTIME.
        #[arg(long)]
        model: Option<PathBuf>,
        /// The program; by default the `isobar` beside this one.
        #[arg(long)]
        program: Option<PathBuf>,
    },
    /// TPC-H, and queries in the manner of ClickBench, through isobar's table provider and through DataFusion alone.
    ///
    /// Tables are made unless they are in the directory. Those of TPC-H come from the Python package tpchgen-cli:
    /// pip install -r benches/rivals/requirements.txt
    Scans {
        /// Where the tables are kept.
        #[arg(long)]
        directory: PathBuf,
        /// Which queries.
        #[arg(long, value_enum, value_delimiter = ',', default_values_t = [scans::Suite::Tpch, scans::Suite::Hits])]
        suites: Vec<scans::Suite>,
        /// Scale factor of TPC-H.
        #[arg(long, default_value = "1")]
        scale: String,
        /// Rows of the table of hits.
        #[arg(long, default_value_t = 5_000_000)]
        hits: u64,
        /// Rows of a file, at most.
        #[arg(long, default_value_t = 1_000_000)]
        file_rows: usize,
        /// Runs of each query on each side, after one that does not count.
        #[arg(long, default_value_t = 5)]
        runs: usize,
        /// Memory budget of the topology, such as 4GiB, for both sides; by default that of topologies that say nothing.
        #[arg(long)]
        memory: Option<String>,
        /// The generator of TPC-H.
        #[arg(long, default_value = "tpchgen-cli")]
        tpchgen: PathBuf,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// From the start of `isobar serve` to its first answer by HTTP.
    Start {
        /// Where the table is kept; it is made unless it is there.
        #[arg(long)]
        directory: PathBuf,
        /// Versions of the table.
        #[arg(long, default_value_t = 10_000)]
        versions: u64,
        /// Files of its newest version.
        #[arg(long, default_value_t = 10_000)]
        files: u64,
        /// Starts for each question.
        #[arg(long, default_value_t = 11)]
        runs: usize,
        /// The program; by default the `isobar` beside this one.
        #[arg(long)]
        program: Option<PathBuf>,
    },
    /// One run of the bare loop (used by `ingest`).
    #[command(hide = true)]
    Bare { brokers: String, topic: String },
    /// One run of the loop that only polls (used by `small`).
    #[command(hide = true)]
    Poll { brokers: String, topic: String },
    /// One run of the topology in a directory (used by `ingest`, `formats` and `small`).
    #[command(hide = true)]
    Pipeline { directory: PathBuf, key_bytes: u64 },
    /// One checkpoint, of the versions from `first` to before `end` (used by `checkpoint`).
    #[command(hide = true)]
    CheckpointBuild { bodies: PathBuf, first: u64, end: u64, sink: PathBuf, previous: Option<PathBuf> },
    /// Answers look-ups of a store (used by `online`).
    #[command(hide = true)]
    OnlineServe { store: PathBuf },
    /// One join of the files in a directory (used by `point-in-time`).
    #[command(hide = true)]
    PointInTimeJoin {
        directory: PathBuf,
        views: usize,
        #[arg(long)]
        memory_bytes_max: Option<usize>,
        #[arg(long)]
        known: bool,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Arguments::parse().command).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> Result<()> {
    match command {
        Command::Ingest { setting, megabytes, runs } => ingest(&setting, megabytes, runs).await,
        Command::Formats { setting, records } => formats::run(&setting, records).await,
        Command::Decoders { rounds, json } => decoders::run(rounds, json),
        Command::Small { setting, records, runs } => small::run(&setting, records, runs).await,
        Command::Age { commits, json } => age::run(commits, json).await,
        Command::Bare { brokers, topic } => {
            tokio::task::spawn_blocking(move || bare::run(&brokers, &topic)).await?
        }
        Command::Poll { brokers, topic } => {
            tokio::task::spawn_blocking(move || bare::poll(&brokers, &topic)).await?
        }
        Command::Pipeline { directory, key_bytes } => pipeline::run(&directory, key_bytes).await,
        Command::Checkpoint { files, versions, further_versions } => {
            checkpoint::run(checkpoint::Sizes { files, versions, further_versions })
        }
        Command::CheckpointBuild { bodies, first, end, sink, previous } => {
            checkpoint::build(&bodies, first..end, &sink, previous.as_deref())
        }
        Command::PointInTime {
            rows,
            view_rows,
            entities,
            views,
            runs,
            memory_bytes_max,
            known,
            directory,
        } => {
            let sizes = point_in_time::Sizes { rows, view_rows, entities };
            point_in_time::run(sizes, &views, runs, memory_bytes_max, known, directory)
        }
        Command::Predict { models, onnxruntime, rows, batch_rows, rounds, json } => {
            let sizes = predict::Sizes { rows, batch_rows, rounds };
            predict::run(&models, onnxruntime.as_deref(), sizes, json)
        }
        Command::Online { entities, look_ups, rate, seconds, directory } => {
            let sizes = online::Sizes { entities, look_ups, rate, seconds };
            tokio::task::spawn_blocking(move || online::run(sizes, directory)).await?
        }
        Command::OnlineServe { store } => online::answer(&store).await,
        Command::Gateway { directory, entities, rate, seconds, kill_at, return_at, model, program } => {
            let options =
                gateway::Options { directory, entities, rate, seconds, kill_at, return_at, model, program };
            gateway::run(options).await
        }
        Command::Scans { directory, suites, scale, hits, file_rows, runs, memory, tpchgen, json } => {
            let options =
                scans::Options { directory, suites, scale, hits, file_rows, runs, memory, tpchgen, json };
            scans::run(&options).await
        }
        Command::Start { directory, versions, files, runs, program } => {
            start::run(start::Options { versions, files, runs, program }, &directory).await
        }
        Command::PointInTimeJoin { directory, views, memory_bytes_max, known } => {
            point_in_time::join(&directory, views, memory_bytes_max, known).await
        }
    }
}

async fn ingest(setting: &OnKafka, megabytes: u64, runs: usize) -> Result<()> {
    let OnKafka { brokers, memory, json } = setting;
    let name = format!("bench_flights_{megabytes}mb");
    let topic =
        topic::fill(brokers, &name, &topic::flights()?, |topic| topic.bytes >= megabytes * 1_000_000).await?;
    eprintln!("topic {} holds {} records, {} bytes", topic.name, topic.records, topic.bytes);
    let bare = || child::<Measurement>(&["bare", brokers, &topic.name]);
    let pipeline = || {
        let directory = tempfile::tempdir()?;
        pipeline::prepare(brokers, &topic.name, memory, directory.path(), Format::Json)?;
        pipeline_child(directory.path(), topic::FLIGHT_KEY_BYTES)
    };
    let [bare, pipeline] = in_turn(&topic, runs, [("bare loop", &bare), ("isobar", &pipeline)])?;
    let ratio = pipeline.megabytes_per_core_second() / bare.megabytes_per_core_second();
    if *json {
        let report = serde_json::json!({ "bare": bare, "pipeline": pipeline, "ratio_per_core": ratio });
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        println!("{}\n{}", Measurement::TABLE_HEAD, bare.table_row("bare loop"));
        println!("{}", pipeline.table_row("isobar, 3 clouds"));
        println!(
            "\nper core, isobar reaches {:.0} % of the bare loop (median of {runs} runs each)",
            100.0 * ratio
        );
    }
    Ok(())
}

/// Measures two sides that read all of `topic`, `runs` times each and in turn; the medians.
fn in_turn(
    topic: &topic::Topic,
    runs: usize,
    sides: [(&str, &dyn Fn() -> Result<Measurement>); 2],
) -> Result<[Measurement; 2]> {
    let mut measured = [Vec::new(), Vec::new()];
    for run in 1..=runs {
        for ((name, side), measured) in sides.iter().zip(&mut measured) {
            let found = side()?;
            topic.check(&found)?;
            eprintln!("{name}, run {run}: {found}");
            measured.push(found);
        }
    }
    Ok(measured.map(measure::median))
}

/// Runs the topology in `directory`, in a process of its own.
fn pipeline_child(directory: &Path, key_bytes: u64) -> Result<Measurement> {
    let directory = directory.to_str().context("the temporary directory has a UTF-8 name")?;
    child(&["pipeline", directory, &key_bytes.to_string()])
}
