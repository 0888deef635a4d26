//! `isobar demo`: the whole job on real input, with nothing to start beforehand.
//!
//! An embedded broker, three directories as clouds, the flights and weather of New York in 2013. It runs the
//! topology that users copy (`topologies/flight_delays/topology.yaml`), proves the result, and asks it one question.
//! `--topology` runs another one on the records of files instead (`other.rs`).

mod lines;
mod other;
pub mod replay;

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use isobar_connectors::clouds::{Cloud, Fault, FaultSwitch};
use isobar_connectors::kafka::{Compression, EmbeddedBroker, KafkaProducer};
use isobar_schemas::TopicPartition;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

pub use self::lines::TopicFile;
use self::replay::{FLIGHTS, Feed, PARTITIONS, WEATHER, replay};
use crate::cli::output;
use crate::error::Error;
use crate::pipeline::{self, RunOptions, Summary};
use crate::progress::Progress;
use crate::spec::{self, Topology};
use crate::start::open_clouds;
use crate::{prove, query};

/// The topology that the demo runs, as users copy it.
pub const TOPOLOGY: &str = include_str!("../../flight_delays/topology.yaml");
/// The contract that it names, and the path of that.
pub const CONTRACT: &str = include_str!("../../flight_delays/contracts/flights.yaml");
const CONTRACT_PATH: &str = "contracts/flights.yaml";
/// What the specification says where the demo puts its own broker.
const BROKERS_LINE: &str = "  brokers: localhost:9092\n";
/// The one question asked at the end.
const QUESTION: &str = "SELECT origin, count(*) AS flights, round(avg(departure_delay_minutes), 1) AS mean_departure_delay, \
     round(100.0 * avg(CASE WHEN late THEN 1.0 ELSE 0.0 END), 1) AS percent_late \
     FROM flight_features GROUP BY origin ORDER BY origin";
/// How long a cloud that was refused may take to become equal again.
const FILL_PATIENCE: Duration = Duration::from_secs(120);
/// Share of the records, in percent, after which the chosen cloud refuses and answers again.
const OUTAGE_PERCENT: (u64, u64) = (40, 85);

/// What `isobar demo` was asked to do.
#[derive(Debug, Clone, Default)]
pub struct DemoOptions {
    /// Keep everything in this directory.
    pub keep: Option<PathBuf>,
    /// Make this cloud refuse every request half-way.
    pub fail: Option<String>,
    /// Run this topology in the place of the demo's, in its own clouds.
    pub topology: Option<PathBuf>,
    /// What is replayed into the topics of that topology.
    pub records: Vec<TopicFile>,
    /// Print JSON instead of tables.
    pub json: bool,
}

/// The demo's result, as printed with `--format json`.
#[derive(Debug, Clone, Serialize)]
pub struct DemoReport {
    /// Where the clouds' directories are, when kept.
    pub directory: Option<PathBuf>,
    /// Records consumed.
    pub records: u64,
    /// Bytes consumed.
    pub bytes: u64,
    /// From the first record to the last commit.
    pub seconds: f64,
    /// Commits decided.
    pub commits: u64,
    /// Longest time between two commits.
    pub longest_pause_seconds: f64,
    /// Per dataset, what became of its records.
    pub datasets: BTreeMap<String, isobar_schemas::RowCounts>,
    /// The cloud that was made to refuse, if one was.
    pub failed_cloud: Option<String>,
    /// Whether `prove` found every check to hold.
    pub proved: bool,
}

/// Runs the demo; false when `prove` found something wrong.
pub async fn demo(options: DemoOptions) -> Result<bool, Error> {
    if let Some(path) = &options.topology {
        return other::demo(path, &options).await;
    }
    let temporary = match &options.keep {
        Some(_) => None,
        None => Some(
            tempfile::tempdir().map_err(|error| cannot_create(Path::new("a temporary directory"), &error))?,
        ),
    };
    let directory = match (&options.keep, &temporary) {
        (Some(keep), _) => keep.clone(),
        (None, Some(temporary)) => temporary.path().to_owned(),
        (None, None) => unreachable!("a directory is kept or temporary"),
    };
    let broker = EmbeddedBroker::start(&[(FLIGHTS.topic, PARTITIONS), (WEATHER.topic, PARTITIONS)])
        .map_err(|error| Error::connector("start the embedded broker", error))?;
    let topology = write_topology(&directory, &broker.bootstrap_servers())?;
    let outage = Outage::plan(&topology, options.fail.as_deref())?;
    if !options.json {
        say(&format!(
            "Replaying {} flights and {} weather readings of New York, 2013.",
            FLIGHTS.records, WEATHER.records
        ));
        let named: Vec<&str> = topology.clouds.iter().map(|cloud| cloud.name.as_str()).collect();
        say(&format!("Clouds: {} under {}\n", named.join(", "), directory.display()));
    }
    let feeds = vec![FLIGHTS.feed()?, WEATHER.feed()?];
    let report = run(&topology, &broker, feeds, outage.as_ref(), &options).await?;
    conclude(&topology, report, &options).await
}

/// Produces, runs the pipeline and waits until everything is committed everywhere.
async fn run(
    topology: &Topology,
    broker: &EmbeddedBroker,
    feeds: Vec<Feed>,
    outage: Option<&Outage>,
    options: &DemoOptions,
) -> Result<DemoReport, Error> {
    let progress = &Arc::new(Progress::default());
    let total = feeds.iter().map(|feed| feed.records).sum();
    let all_committed = CancellationToken::new();
    let run_options = RunOptions {
        clouds: outage.map(|outage| outage.clouds.clone()),
        progress: progress.clone(),
        ..RunOptions::new(&topology.name)
    };
    let pipeline = tokio::spawn({
        let (topology, all_committed) = (topology.clone(), all_committed.clone());
        async move {
            let summary = pipeline::run(&topology, run_options, all_committed.clone()).await;
            // An error here must end the replay as well, or it would wait for commits that never come.
            all_committed.cancel();
            summary
        }
    });
    let bars = Bars::new(options.json, total);
    let feed = async {
        let ends = produce(&broker.bootstrap_servers(), feeds, progress, &all_committed).await;
        if let Ok(ends) = &ends {
            tokio::select! {
                () = wait_for_positions(progress, ends) => {}
                () = all_committed.cancelled() => {}
            }
            if let Some(outage) = outage.filter(|_| !all_committed.is_cancelled()) {
                outage.wait_until_filled(topology).await;
            }
        }
        all_committed.cancel();
        ends
    };
    let (fed, ()) = tokio::join!(feed, bars.draw(progress, outage, &all_committed));
    let summary = pipeline.await.expect("the pipeline does not panic");
    bars.finish();
    let Summary { committed, .. } = summary?;
    fed?;
    Ok(DemoReport {
        directory: options.keep.clone(),
        records: progress.records(),
        bytes: progress.bytes(),
        seconds: progress.elapsed().as_secs_f64(),
        commits: committed.commits,
        longest_pause_seconds: committed.longest_pause.as_secs_f64(),
        datasets: committed.rows,
        failed_cloud: options.fail.clone(),
        proved: false,
    })
}

/// Replays all feeds, each on a thread of its own because producing blocks; the ends of all partitions.
async fn produce(
    brokers: &str,
    feeds: Vec<Feed>,
    progress: &Arc<Progress>,
    stop: &CancellationToken,
) -> Result<BTreeMap<TopicPartition, i64>, Error> {
    let producer = KafkaProducer::start(brokers, Compression::Zstd)
        .map_err(|error| Error::connector("connect a producer to the embedded broker", error))?;
    let producer = Arc::new(producer);
    let replays = feeds.into_iter().map(|feed| {
        let (producer, positions, stop) = (producer.clone(), progress.positions(), stop.clone());
        let runtime = tokio::runtime::Handle::current();
        tokio::task::spawn_blocking(move || runtime.block_on(replay(feed, &producer, positions, &stop)))
    });
    // All of them begin before the first one is waited for.
    let replays: Vec<_> = replays.collect();
    let mut ends = BTreeMap::new();
    for replay in replays {
        ends.extend(replay.await.expect("a replay does not panic")?);
    }
    Ok(ends)
}

async fn wait_for_positions(progress: &Progress, ends: &BTreeMap<TopicPartition, i64>) {
    let mut positions = progress.positions();
    let reached = |positions: &BTreeMap<TopicPartition, i64>| {
        ends.iter().all(|(partition, end)| positions.get(partition).is_some_and(|position| position >= end))
    };
    // Ends with an error only when the pipeline is gone, which reports for itself.
    let _ = positions.wait_for(reached).await;
}

/// Writes `topology.yaml` into `directory`, pointing at the embedded broker and at directories beside it, and its contract.
pub(crate) fn write_topology(directory: &Path, brokers: &str) -> Result<Topology, Error> {
    let path = directory.join("topology.yaml");
    std::fs::create_dir_all(directory).map_err(|error| cannot_create(directory, &error))?;
    if std::fs::read_dir(directory).map_err(|error| cannot_create(directory, &error))?.next().is_some()
        && !path.exists()
    {
        return Err(Error::Configuration(format!(
            "{} is not empty and holds no demo: choose a new directory for --keep",
            directory.display()
        )));
    }
    let ours = format!("  brokers: {brokers}\n  cluster_id: demo\n  topic_identity: name\n");
    assert!(
        TOPOLOGY.contains(BROKERS_LINE),
        "the topology shipped with the demo names its broker as expected"
    );
    std::fs::write(&path, TOPOLOGY.replace(BROKERS_LINE, &ours))
        .map_err(|error| cannot_create(&path, &error))?;
    let contract = directory.join(CONTRACT_PATH);
    let folder = contract.parent().expect("the contract is in a folder");
    std::fs::create_dir_all(folder)
        .and_then(|()| std::fs::write(&contract, CONTRACT))
        .map_err(|error| cannot_create(&contract, &error))?;
    spec::load(&path).map_err(|problems| Error::Configuration(problems.to_string()))
}

fn cannot_create(path: &Path, error: &std::io::Error) -> Error {
    Error::Configuration(format!("cannot create {}: {error}", path.display()))
}

/// One cloud that refuses every request for a while.
struct Outage {
    name: String,
    index: usize,
    switch: FaultSwitch,
    clouds: Vec<Cloud>,
}

impl Outage {
    fn plan(topology: &Topology, fail: Option<&str>) -> Result<Option<Self>, Error> {
        let Some(name) = fail else { return Ok(None) };
        let Some(index) = topology.clouds.iter().position(|cloud| cloud.name == name) else {
            let known: Vec<&str> = topology.clouds.iter().map(|cloud| cloud.name.as_str()).collect();
            return Err(Error::Configuration(format!(
                "--fail {name}: there is no such cloud; choose one of {}",
                known.join(", ")
            )));
        };
        let switch = FaultSwitch::default();
        let mut clouds = open_clouds(topology)?;
        clouds[index] = clouds[index].clone().with_faults(&switch);
        Ok(Some(Self { name: name.to_owned(), index, switch, clouds }))
    }

    /// Refuses or answers, by how far the run is; what changed, for the person watching.
    fn advance(&self, percent: u64) -> Option<String> {
        let refuse = (OUTAGE_PERCENT.0..OUTAGE_PERCENT.1).contains(&percent);
        let refused = self.switch.fault() == Fault::RefuseAll;
        match (refused, refuse) {
            (false, true) => {
                self.switch.set(Fault::RefuseAll);
                Some(format!("{}: refuses every request from now on; the run goes on", self.name))
            }
            (true, false) => {
                self.switch.set(Fault::Off);
                Some(format!("{}: answers again and is being filled", self.name))
            }
            _ => None,
        }
    }

    /// Waits until the cloud has published what the others have.
    async fn wait_until_filled(&self, topology: &Topology) {
        self.switch.set(Fault::Off);
        let reference = &self.clouds[usize::from(self.index == 0)];
        let filled = async {
            let mut pause = tokio::time::interval(Duration::from_millis(50));
            for dataset in topology.datasets.iter().map(|dataset| &dataset.name) {
                let latest = prove::latest_version(reference, dataset).await;
                while prove::latest_version(&self.clouds[self.index], dataset).await < latest {
                    pause.tick().await;
                }
            }
        };
        // Not filled in time is not hidden: prove finds the cloud behind.
        let _ = tokio::time::timeout(FILL_PATIENCE, filled).await;
    }
}

/// Progress bars on standard error, plain lines where it is no terminal.
struct Bars {
    bars: MultiProgress,
    records: ProgressBar,
    status: ProgressBar,
    total: u64,
    plain: bool,
}

impl Bars {
    fn new(quiet: bool, total: u64) -> Self {
        let bars = MultiProgress::new();
        if quiet {
            bars.set_draw_target(indicatif::ProgressDrawTarget::hidden());
        }
        let style = "{prefix:9} {bar:40.cyan/blue} {percent:>3}%  {human_pos} of {human_len} records";
        let style = ProgressStyle::with_template(style).expect("the template is fixed and valid");
        let records = bars.add(ProgressBar::new(total).with_style(style).with_prefix("consumed"));
        let style =
            ProgressStyle::with_template("{prefix:9} {wide_msg}").expect("the template is fixed and valid");
        let status = bars.add(ProgressBar::new_spinner().with_style(style).with_prefix("committed"));
        let plain = !quiet && !std::io::stderr().is_terminal();
        Self { bars, records, status, total, plain }
    }

    async fn draw(&self, progress: &Progress, outage: Option<&Outage>, stop: &CancellationToken) {
        let mut clock = tokio::time::interval(Duration::from_millis(50));
        loop {
            tokio::select! {
                _ = clock.tick() => {}
                () = stop.cancelled() => break,
            }
            let committed = progress.snapshot();
            let done: u64 = committed.rows.values().map(|rows| rows.input).sum();
            let seconds = progress.elapsed().as_secs_f64();
            self.records.set_position(progress.records());
            self.status.set_message(format!(
                "{done} records in {} commits, {:.1} MB/s, lag {}, last pause at most {:.1} s",
                committed.commits,
                progress.bytes() as f64 / 1e6 / seconds.max(0.001),
                self.total.saturating_sub(done),
                committed.longest_pause.as_secs_f64(),
            ));
            if let Some(news) = outage.and_then(|outage| outage.advance(100 * done / self.total)) {
                self.say(&news);
            }
        }
    }

    fn say(&self, news: &str) {
        if self.plain {
            eprintln!("{news}");
        } else {
            // Drawing fails only when standard error is gone; then there is nobody to tell.
            let _ = self.bars.println(news);
        }
    }

    fn finish(&self) {
        self.records.finish();
        self.status.finish();
    }
}

/// Prints what was done, proves it, and asks the one question.
async fn conclude(topology: &Topology, report: DemoReport, options: &DemoOptions) -> Result<bool, Error> {
    let is_proved = print_proof(topology, &[], report, options).await?;
    if options.json {
        return Ok(is_proved);
    }
    say(&format!("One question, answered in {}:\n\n{QUESTION_TEXT}\n", topology.clouds[0].name));
    say(&query::query_table(topology, QUESTION).await?);
    match &options.keep {
        Some(directory) => {
            let config = directory.join("topology.yaml");
            say(&format!("Everything is kept in {}. Try:\n", directory.display()));
            say(&format!("  isobar prove flight_features --config {}", config.display()));
            say(&format!(
                "  isobar query 'SELECT * FROM weather_hourly LIMIT 5' --config {}",
                config.display()
            ));
        }
        None => say("Nothing is kept; `isobar demo --keep DIR` keeps the three clouds for a closer look."),
    }
    Ok(is_proved)
}

/// Prints what was done, and whether it is so in the clouds: `datasets`, or all that are found there.
async fn print_proof(
    topology: &Topology,
    datasets: &[String],
    mut report: DemoReport,
    options: &DemoOptions,
) -> Result<bool, Error> {
    if !options.json {
        say(&format!("\n{}", summary_table(&report)));
        say("Proving it from the clouds alone:\n");
    }
    let clouds = open_clouds(topology)?;
    let proof = prove::prove(&clouds, datasets, None).await?;
    report.proved = proof.holds();
    if options.json {
        say(&serde_json::to_string_pretty(&report).expect("the report has string keys"));
    } else {
        say(&proof.to_table());
    }
    Ok(report.proved)
}

/// Prints a text. A reader that has gone (`isobar demo | head`) misses the rest; the exit code still says how it went.
fn say(text: &str) {
    if let Err(error) = output::print(text) {
        tracing::debug!(%error, "nobody reads what the demo prints");
    }
}

/// The question as a person would put it.
const QUESTION_TEXT: &str = "How late are departures from each airport?";

fn summary_table(report: &DemoReport) -> comfy_table::Table {
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::UTF8_BORDERS_ONLY);
    table.set_header(["dataset", "records in", "rows out", "rejected", "dropped", "filtered"]);
    let by_rule = |rules: &BTreeMap<String, u64>| {
        let rules: Vec<String> = rules.iter().map(|(rule, rows)| format!("{rows} {rule}")).collect();
        if rules.is_empty() { "0".to_owned() } else { rules.join("\n") }
    };
    for (dataset, rows) in &report.datasets {
        table.add_row([
            dataset.clone(),
            rows.input.to_string(),
            rows.output.to_string(),
            by_rule(&rows.rejected),
            by_rule(&rows.dropped),
            rows.filtered.to_string(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_topology_is_valid_and_points_beside_itself() {
        let directory = tempfile::tempdir().unwrap();
        let topology = write_topology(directory.path(), "127.0.0.1:1").unwrap();
        assert_eq!(topology.clouds.len(), 3);
        assert_eq!(topology.kafka.cluster_id.as_deref(), Some("demo"));
        let contract = topology.datasets[0].contract.as_ref().unwrap();
        assert!(contract.columns.0.iter().all(|(_, column)| column.description.is_some()), "{contract:?}");
        let error = Outage::plan(&topology, Some("moon")).err().unwrap().to_string();
        assert!(error.contains("choose one of aws, azure, gcp"), "{error}");
    }

    #[test]
    fn a_directory_with_other_things_in_it_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("thesis.txt"), "text").unwrap();
        assert!(
            write_topology(directory.path(), "127.0.0.1:1").unwrap_err().to_string().contains("not empty")
        );
    }

    #[test]
    fn inputs_are_the_two_topics_of_the_topology() {
        let topics = [FLIGHTS, WEATHER].map(|input| input.topic);
        assert_eq!(topics, ["flights", "weather"]);
    }
}
