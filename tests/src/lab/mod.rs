//! A laboratory: an embedded broker, clouds in memory or in directories, and pipelines to be started and ended at will.
//!
//! ```no_run
//! # use isobar_tests::{events::{self, Generator}, lab::Lab, prng::Seed};
//! # async fn example() {
//! let seed = Seed::of("example");
//! let lab = Lab::in_memory();
//! lab.produce(events::TOPIC, Generator::mixed(seed.prng()).records(1000));
//! lab.run_until_caught_up(&lab.features()).await.unwrap();
//! lab.assert_features_complete().await;
//! # }
//! ```

mod assertions;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use isobar_connectors::clouds::{self, Cloud, FaultSwitch};
use isobar_connectors::kafka::{Compression, EmbeddedBroker, KafkaProducer, ProducedRecord};
use isobar_connectors::upload::{FanOut, UploadLimits};
use isobar_schemas::TopicPartition;
use isobar_topologies::metrics::Metrics;
use isobar_topologies::pipeline::{self, RunOptions, Summary};
use isobar_topologies::progress::Progress;
use isobar_topologies::prove::{Report, prove};
use isobar_topologies::query::{Answer, RowsFormat};
use isobar_topologies::serve::{ServeOptions, Server};
use isobar_topologies::spec::{self, Secret, Topology};
use isobar_topologies::{Error, http::Readiness, workers};
use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use tempfile::TempDir;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::delta::{Log, Table, latest_version};
use crate::events::{self, Generator, Record};
use crate::ledger::{Ledger, Positions};
use crate::script::Script;
use crate::trees::{self, Tree};
use crate::wait;

/// Partitions of every topic.
pub const PARTITIONS: i32 = 4;

/// The topology's name.
pub const TOPOLOGY: &str = "lab";

/// The names of the clouds; a lab of fewer takes the first ones.
pub const CLOUDS: [&str; 3] = ["aws", "azure", "gcp"];

/// How long the producer may take.
const DELIVERY_PATIENCE: Duration = Duration::from_secs(120);

/// A cloud of a lab.
#[derive(Debug)]
pub struct LabCloud {
    /// Its name.
    pub name: String,
    /// Takes it away.
    pub switch: FaultSwitch,
    /// Its URL.
    pub url: Url,
    /// Its directory, if it is one.
    pub folder: Option<PathBuf>,
    /// What the pipeline gets.
    cloud: Cloud,
}

impl LabCloud {
    /// The store itself, past every fault and not through isobar where that is possible.
    ///
    /// # Panics
    /// If the directory does not exist.
    pub fn store(&self) -> Arc<dyn ObjectStore> {
        match &self.folder {
            Some(folder) => {
                Arc::new(LocalFileSystem::new_with_prefix(folder).expect("the cloud's directory exists"))
            }
            None => self.opened().data,
        }
    }

    /// The cloud, past every fault.
    ///
    /// # Panics
    /// If it cannot be opened.
    pub fn opened(&self) -> Cloud {
        clouds::open(&self.name, &self.url, &BTreeMap::new()).expect("a cloud of a lab can be opened")
    }

    /// Everything in it outside `control/`.
    pub async fn tree(&self) -> Tree {
        match &self.folder {
            Some(folder) => trees::of_folder(folder),
            None => trees::of_store(&*self.store()).await,
        }
    }
}

/// See the [module](self).
pub struct Lab {
    /// Everything of the lab that is on disk.
    pub directory: TempDir,
    /// The broker.
    pub broker: EmbeddedBroker,
    /// The clouds.
    pub clouds: Vec<LabCloud>,
    /// Decides about every single request to a cloud.
    pub script: Script,
    producer: KafkaProducer,
    ledger: Mutex<Ledger>,
}

impl Lab {
    /// Three clouds in memory, and the topic of most tests.
    pub fn in_memory() -> Self {
        Self::new(&[events::TOPIC], 3, false)
    }

    /// Three directories as clouds, and the topic of most tests.
    pub fn in_directories() -> Self {
        Self::new(&[events::TOPIC], 3, true)
    }

    /// A lab with these topics and this many clouds.
    ///
    /// # Panics
    /// If there is no room for it.
    pub fn new(topics: &[&str], clouds: usize, directories: bool) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let topics: Vec<(&str, i32)> = topics.iter().map(|topic| (*topic, PARTITIONS)).collect();
        let broker = EmbeddedBroker::start(&topics).expect("the embedded broker starts");
        let producer = start_producer(&broker);
        let script = Script::default();
        let id = uuid::Uuid::new_v4();
        let clouds = CLOUDS[..clouds].iter().map(|name| {
            let folder = directories.then(|| directory.path().join(name));
            let url = match &folder {
                Some(folder) => Url::from_directory_path(folder).expect("a temporary directory has a URL"),
                None => Url::parse(&format!("memory://{name}-{id}")).expect("the URL is well-formed"),
            };
            let switch = FaultSwitch::default();
            let opened = clouds::open(name, &url, &BTreeMap::new()).expect("a cloud of a lab can be opened");
            let cloud = script.around(opened).with_faults(&switch);
            LabCloud { name: (*name).to_owned(), switch, url, folder, cloud }
        });
        let clouds = clouds.collect();
        Self { directory, broker, clouds, script, producer, ledger: Mutex::default() }
    }

    /// The cloud of this name.
    ///
    /// # Panics
    /// If there is none.
    pub fn cloud(&self, name: &str) -> &LabCloud {
        self.clouds.iter().find(|cloud| cloud.name == name).expect("the lab has such a cloud")
    }

    /// What was produced so far.
    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Creates another topic.
    ///
    /// # Panics
    /// If the broker does not.
    pub fn create_topic(&self, topic: &str) {
        self.broker.create_topic(topic, PARTITIONS).expect("the embedded broker creates topics");
    }

    /// Produces `records` in turn to the partitions of `topic`, and waits until the broker has them.
    ///
    /// # Panics
    /// If the broker does not take them.
    pub fn produce(&self, topic: &str, records: impl IntoIterator<Item = Record>) {
        let first = self.ledger().len(topic);
        let to = records
            .into_iter()
            .zip(first..)
            .map(|(record, number)| ((number % PARTITIONS as u64) as i32, record));
        self.produce_to(topic, to);
    }

    /// Produces each record to the partition given.
    ///
    /// # Panics
    /// If the broker does not take them.
    pub fn produce_to(&self, topic: &str, records: impl IntoIterator<Item = (i32, Record)>) {
        for (partition, record) in records {
            let produced = ProducedRecord {
                topic,
                partition,
                key: record.key.as_deref(),
                payload: record.payload.as_deref(),
                timestamp_ms: Some(record.timestamp_ms),
                ..Default::default()
            };
            self.producer.produce(produced).expect("the embedded broker takes records");
            self.ledger().push(topic, partition, record);
        }
        self.producer.flush(DELIVERY_PATIENCE).expect("the embedded broker takes records");
    }

    /// Produces `count` records to the topic of most tests, and waits until `running` has decided them.
    ///
    /// # Panics
    /// If the broker does not take them, or `running` does not decide them or ends.
    pub async fn commit(&self, running: &Running, records: &mut Generator, count: usize) {
        self.produce(events::TOPIC, records.records(count));
        self.wait_until_committed(running).await;
    }

    /// Runs `topology` while `count` records come three times, and stops it when their rows are in every cloud.
    ///
    /// # Panics
    /// If the broker does not take them, or they do not arrive.
    pub async fn fill(&self, topology: &Topology, records: &mut Generator, count: usize) {
        let running = self.start(topology);
        running.ready().await;
        for _ in 0..3 {
            self.commit(&running, records, count).await;
        }
        self.wait_until_equal(events::FEATURES).await;
        running.stop().await.expect("a run that is asked to stop ends well");
    }

    /// Waits until `running` has decided everything that was produced to the topic of most tests.
    ///
    /// # Panics
    /// If it does not, or ends.
    pub async fn wait_until_committed(&self, running: &Running) {
        let ends = self.ledger().ends(events::TOPIC);
        running.committed(events::TOPIC, &ends).await;
    }

    /// Produces `count` records to the topic of most tests, and waits until whoever leads has brought them into this many
    /// clouds at least.
    ///
    /// # Panics
    /// If the broker does not take them, or they do not arrive.
    pub async fn commit_in(&self, clouds: usize, records: &mut Generator, count: usize) {
        self.produce(events::TOPIC, records.records(count));
        wait::until("everything is committed", async || self.clouds_complete().await >= clouds).await;
    }

    /// A spec of sources and datasets, given as indented YAML.
    pub fn spec(&self, sources: &str, datasets: &str) -> Spec {
        Spec {
            brokers: self.broker.bootstrap_servers(),
            clouds: self.clouds.iter().map(|cloud| (cloud.name.clone(), cloud.url.to_string())).collect(),
            // The embedded broker does not describe topics, so they have no ids: `live` covers those.
            kafka: "  topic_identity: name\n".into(),
            commit: "{ interval: 200ms, size: 256MiB }".into(),
            workers: None,
            registry: None,
            sources: sources.into(),
            datasets: datasets.into(),
            folder: self.directory.path().to_owned(),
        }
    }

    /// The topology of most tests: [`events::SOURCE`] and [`events::FEATURES_YAML`].
    pub fn features(&self) -> Topology {
        self.spec(events::SOURCE, events::FEATURES_YAML).resolved()
    }

    /// Options for a run on this lab's clouds.
    pub fn options(&self) -> RunOptions {
        RunOptions {
            clouds: Some(self.clouds.iter().map(|cloud| cloud.cloud.clone()).collect()),
            ..RunOptions::new(TOPOLOGY)
        }
    }

    /// The clouds as a pipeline gets them.
    pub fn opened(&self) -> Vec<Cloud> {
        self.clouds.iter().map(|cloud| cloud.cloud.clone()).collect()
    }

    /// Runs `topology` until it has caught up.
    pub async fn run_until_caught_up(&self, topology: &Topology) -> Result<Summary, Error> {
        let options = RunOptions { until_caught_up: true, ..self.options() };
        wait::in_time("catching up", pipeline::run(topology, options, CancellationToken::new())).await
    }

    /// Starts `topology`; it runs until ended.
    pub fn start(&self, topology: &Topology) -> Running {
        Running::start(topology, self.options())
    }

    /// Serves `topology` until `shutdown`, at a port that is free, with its look-ups.
    ///
    /// # Panics
    /// If it cannot be served.
    pub async fn serve(&self, topology: &Topology, shutdown: CancellationToken) -> Server {
        let options = ServeOptions {
            clouds: Some(self.opened()),
            online: Some(self.directory.path().join("online")),
            ..ServeOptions::new(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
        };
        Server::start(topology, options, shutdown).await.expect("a server starts")
    }

    /// Reads a dataset and its quarantine in one cloud.
    pub async fn tables(&self, cloud: &LabCloud, dataset: &str) -> (Table, Table) {
        let store = cloud.store();
        (Table::read(&*store, dataset).await, Table::read(&*store, &format!("{dataset}.quarantine")).await)
    }

    /// In how many clouds `features` has reached the end of what was produced.
    pub async fn clouds_complete(&self) -> usize {
        let ends = self.ledger().ends(events::TOPIC);
        let mut complete = 0;
        for cloud in &self.clouds {
            let positions = Log::read(&*cloud.store(), events::FEATURES).await.positions();
            complete +=
                usize::from(ends.iter().all(|(partition, end)| positions.get(partition) == Some(end)));
        }
        complete
    }

    /// What `prove` says about the clouds, past every fault.
    pub async fn proof(&self) -> Report {
        let opened: Vec<Cloud> = self.clouds.iter().map(LabCloud::opened).collect();
        prove(&opened, &[], None).await.expect("there is something to prove")
    }

    /// The newest version of a dataset per cloud, past every fault.
    pub async fn versions(&self, dataset: &str) -> Vec<Option<u64>> {
        let mut versions = Vec::new();
        for cloud in &self.clouds {
            let is_there = cloud.folder.as_ref().is_none_or(|folder| folder.is_dir());
            versions.push(if is_there { latest_version(&*cloud.store(), dataset).await } else { None });
        }
        versions
    }

    /// Waits until every cloud has the newest version of `dataset` and of its quarantine that any has.
    ///
    /// # Panics
    /// If that does not happen.
    pub async fn wait_until_equal(&self, dataset: &str) {
        let quarantine = format!("{dataset}.quarantine");
        wait::until("every cloud has the newest versions", async || {
            // The quarantine is published after its dataset.
            for table in [&quarantine, dataset] {
                let versions = self.versions(table).await;
                if versions[0].is_none() || versions.iter().any(|version| *version != versions[0]) {
                    return false;
                }
            }
            true
        })
        .await;
    }
}

/// A producer for a broker.
///
/// # Panics
/// If it cannot be made.
pub fn start_producer(broker: &EmbeddedBroker) -> KafkaProducer {
    KafkaProducer::start(&broker.bootstrap_servers(), Compression::None).expect("a producer can be made")
}

/// The text of a spec, part by part.
#[derive(Debug, Clone)]
pub struct Spec {
    /// The brokers.
    pub brokers: String,
    /// Names and URLs of the clouds.
    pub clouds: Vec<(String, String)>,
    /// Further lines of `kafka`, each indented by two and ended.
    pub kafka: String,
    /// The value of `commit`.
    pub commit: String,
    /// The value of `workers`, if there are any.
    pub workers: Option<String>,
    /// The value of `registry`, if there is one.
    pub registry: Option<String>,
    /// The entries of `sources`.
    pub sources: String,
    /// The entries of `datasets`.
    pub datasets: String,
    /// Where the spec lies.
    pub folder: PathBuf,
}

impl Spec {
    /// The YAML.
    pub fn text(&self) -> String {
        let mut clouds = String::new();
        for (name, url) in &self.clouds {
            // Writing to a String cannot fail.
            let _ = writeln!(clouds, "  {name}: {{ url: \"{url}\" }}");
        }
        let workers = self.workers.iter().map(|workers| format!("workers: {workers}\n")).collect::<String>();
        let registry =
            self.registry.iter().map(|registry| format!("registry: {registry}\n")).collect::<String>();
        let Self { brokers, kafka, commit, sources, datasets, .. } = self;
        format!(
            "topology: {TOPOLOGY}\nkafka:\n  brokers: {brokers}\n{kafka}clouds:\n{clouds}commit: {commit}\n{workers}{registry}memory: 128MiB\n\
             sources:\n{sources}datasets:\n{datasets}"
        )
    }

    /// The checked topology.
    ///
    /// # Panics
    /// If the spec is wrong.
    pub fn resolved(&self) -> Topology {
        let text = self.text();
        let checked = spec::check_text(&text, "topology.yaml", &self.folder, spec::CheckOptions::default());
        checked.unwrap_or_else(|problems| panic!("{problems}\n{text}"))
    }

    /// Writes the YAML to `topology.yaml` in its folder; the path.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn written(&self) -> PathBuf {
        self.written_as("topology.yaml")
    }

    /// Writes the YAML to a file of this name in its folder; the path.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn written_as(&self, name: &str) -> PathBuf {
        write_file(&self.folder.join(name), &self.text())
    }
}

/// Writes a text file; its path.
///
/// # Panics
/// If it cannot be written.
pub fn write_file(path: &Path, text: &str) -> PathBuf {
    std::fs::write(path, text).expect("a file can be written");
    path.to_owned()
}

/// `text` with the one place where it says `from` changed.
///
/// # Panics
/// If it is not there, or more than once.
pub fn replaced(text: &str, from: &str, to: &str) -> String {
    assert_eq!(text.matches(from).count(), 1, "{from:?} in {text}");
    text.replace(from, to)
}

/// Uploads to `clouds`, as a test needs them that writes without a pipeline.
pub fn uploads_to(clouds: &[Cloud]) -> Arc<FanOut> {
    let stores = clouds.iter().map(|cloud| (cloud.name.clone(), cloud.data.clone())).collect();
    FanOut::new(stores, UploadLimits::default())
}

/// All that an answer still has to give.
///
/// # Errors
/// That of the query.
pub async fn text_of(answer: &mut Answer, format: RowsFormat) -> Result<String, Error> {
    let mut text = String::new();
    while let Some(piece) = answer.next_text(format).await? {
        text.push_str(&piece);
    }
    Ok(text)
}

/// A pipeline that runs.
#[derive(Debug)]
pub struct Running {
    /// What it has done so far.
    pub progress: Arc<Progress>,
    /// Its metrics.
    pub metrics: Metrics,
    /// Whether it leads and consumes.
    pub ready: Readiness,
    shutdown: CancellationToken,
    death: CancellationToken,
    /// `None` when it died.
    task: JoinHandle<Option<Result<Summary, Error>>>,
}

impl Running {
    /// Starts `topology`.
    pub fn start(topology: &Topology, options: RunOptions) -> Self {
        Self::launch(topology, options, None)
    }

    /// Starts a worker of `topology` that shows `token`.
    pub fn start_worker(topology: &Topology, options: RunOptions, token: &Secret) -> Self {
        Self::launch(topology, options, Some(token.clone()))
    }

    fn launch(topology: &Topology, options: RunOptions, worker: Option<Secret>) -> Self {
        let (topology, shutdown, death) =
            (topology.clone(), CancellationToken::new(), CancellationToken::new());
        let (progress, metrics, ready) =
            (options.progress.clone(), options.metrics.clone(), options.ready.clone());
        let (stop, die, runtime) = (shutdown.clone(), death.clone(), Handle::current());
        // On a thread of its own, as in the program: the pipeline is not asked to be a task that can change threads.
        let task = tokio::task::spawn_blocking(move || {
            runtime.block_on(async {
                let run = async {
                    match worker {
                        None => pipeline::run(&topology, options, stop).await,
                        Some(token) => workers::run(&topology, options, &token, stop).await,
                    }
                };
                tokio::select! {
                    outcome = run => Some(outcome),
                    () = die.cancelled() => None,
                }
            })
        });
        Self { progress, metrics, ready, shutdown, death, task }
    }

    /// Waits until it consumes.
    ///
    /// # Panics
    /// If it does not, or ends.
    pub async fn ready(&self) {
        wait::until("the pipeline is ready", async || {
            assert!(!self.task.is_finished(), "the pipeline ended before it was ready");
            self.ready.load(std::sync::atomic::Ordering::Relaxed)
        })
        .await;
    }

    /// Waits until it has decided everything up to `ends` of `topic`.
    ///
    /// # Panics
    /// If it does not, or ends.
    pub async fn committed(&self, topic: &str, ends: &Positions) {
        wait::until("everything is committed", async || {
            assert!(!self.task.is_finished(), "the pipeline ended before everything was committed");
            self.has_committed(topic, ends)
        })
        .await;
    }

    /// Whether it has decided everything up to `ends` of `topic`.
    pub fn has_committed(&self, topic: &str, ends: &Positions) -> bool {
        let positions = self.progress.positions();
        let known = positions.borrow();
        ends.iter().all(|(partition, end)| {
            known.get(&TopicPartition::new(topic, *partition)).is_some_and(|position| position >= end)
        })
    }

    /// The number of the last decision.
    pub fn sequence(&self) -> u64 {
        self.progress.snapshot().sequence
    }

    /// Asks it to stop and waits for its end.
    pub async fn stop(self) -> Result<Summary, Error> {
        self.shutdown.cancel();
        self.ended().await
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&self) -> bool {
        self.task.is_finished()
    }

    /// Waits until it ends by itself.
    ///
    /// # Panics
    /// If it panics, or does not end.
    pub async fn ended(self) -> Result<Summary, Error> {
        let outcome =
            wait::in_time("the end of the pipeline", self.task).await.expect("the pipeline does not panic");
        outcome.expect("only `abort` lets it die")
    }

    /// Ends it at once, wherever it is: its future is dropped.
    ///
    /// # Panics
    /// If it has panicked.
    pub async fn abort(self) {
        self.death.cancel();
        wait::in_time("the death of the pipeline", self.task).await.expect("the pipeline does not panic");
    }
}
