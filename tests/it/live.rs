//! Real services: Apache Kafka, a schema registry (Apicurio), S3 (moto), Azure (Azurite) and the simulator of Google's
//! store, and the real binary.
//!
//! Switched on by `ISOBAR_LIVE=1`; addresses come from the environment. The recipe:
//!
//! ```sh
//! tests/services/services start --dir DIR
//! set -a; . DIR/services.env; set +a
//! ISOBAR_LIVE=1 cargo test --release --workspace --test it -- live::
//! ```

mod audit;
mod dead_letter;
mod doctor;
mod publish;
mod registry;
mod security;
mod serve;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use isobar_connectors::clouds;
use isobar_connectors::kafka::{Compression, KafkaCluster, KafkaConfig, KafkaProducer, ProducedRecord};
use isobar_tests::delta::{Log, Table, latest_version};
use isobar_tests::events::{self, Event, FEATURES, Fate, Generator, Record, Value};
use isobar_tests::lab::{PARTITIONS, replaced, write_file};
use isobar_tests::ledger::Ledger;
use isobar_tests::prng::{Prng, Seed};
use isobar_tests::program::{Background, Output, http_get, isobar, run};
use isobar_tests::proxy::Mode;
use isobar_tests::services::{Services, oracle};
use isobar_tests::trees;
use isobar_tests::wait::{PATIENCE, until, until_some};
use isobar_topologies::prove::prove;
use object_store::ObjectStore;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::process::Command;
use url::Url;

/// How often the process is killed.
const KILLS: usize = 50;
/// The value of `workers.token`, which the test sets.
const TOKEN: &str = "\"${env:ISOBAR_TEST_TOKEN}\"";
/// How long one request to Kafka may take.
const KAFKA_PATIENCE: Duration = Duration::from_secs(120);

/// A dataset that keeps a row of every record, in itself or in its quarantine, so that positions have no holes.
const DATASET: &str = "  features:
    from: events
    sql: |
      SELECT id, city, amount, items, flag, at, items > 10 AS many,
             _partition AS kafka_partition, _offset AS kafka_offset
      FROM events
    expect:
      - { name: has_amount, check: \"amount IS NOT NULL\", action: quarantine }
";

fn judge(event: &Event) -> Fate {
    if event.amount.is_none() {
        return Fate::by_rule("has_amount");
    }
    let mut row = event.row();
    row.insert("many".into(), event.items.map_or(Value::Null, |items| Value::Bool(items > 10)));
    Fate::Row { row, warned: None }
}

/// A topic and a prefix in every store that nobody else uses, and what was produced.
struct Live {
    services: Services,
    directory: tempfile::TempDir,
    /// The topic's name and the prefix in the stores.
    name: String,
    ledger: Ledger,
}

impl Live {
    async fn begin(test: &str) -> Option<Self> {
        let services = Services::connect(test).await?;
        let name = format!("{test}-{}", uuid::Uuid::new_v4());
        let directory = tempfile::tempdir().unwrap();
        let live = Self { services, directory, name, ledger: Ledger::default() };
        live.create_topic().await;
        Some(live)
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        ClientConfig::new().set("bootstrap.servers", &self.services.brokers).create().unwrap()
    }

    fn admin_options() -> AdminOptions {
        AdminOptions::new().operation_timeout(Some(KAFKA_PATIENCE)).request_timeout(Some(KAFKA_PATIENCE))
    }

    async fn create_topic(&self) {
        self.create(&self.name).await;
    }

    async fn create(&self, name: &str) {
        let topic = NewTopic::new(name, PARTITIONS, TopicReplication::Fixed(1));
        let created = self.admin().create_topics(&[topic], &Self::admin_options()).await.unwrap();
        assert!(created.iter().all(Result::is_ok), "{created:?}");
    }

    fn producer(&self) -> KafkaProducer {
        KafkaProducer::start(&self.services.brokers, Compression::Lz4).unwrap()
    }

    fn produce(&mut self, producer: &KafkaProducer, records: Vec<Record>) {
        produce(producer, &self.name, records, &mut self.ledger);
    }

    /// The spec in a file; `interval` between commits.
    fn spec(&self, interval: &str) -> PathBuf {
        let clouds = self.services.clouds_yaml(&self.name, self.directory.path());
        let sources = events::SOURCE.replace("topic: events", &format!("topic: {}", self.name));
        let text = format!(
            "topology: live\nkafka:\n  brokers: {}\nclouds:\n{clouds}commit: {{ interval: {interval}, size: 1MiB }}\nmemory: 192MiB\n\
             sources:\n{sources}datasets:\n{DATASET}",
            self.services.brokers
        );
        write_file(&self.directory.path().join("topology.yaml"), &text)
    }

    /// The stores, not through the proxies.
    fn stores(&self) -> Vec<(&'static str, Arc<dyn ObjectStore>)> {
        let open = |(name, store): (&'static str, &isobar_tests::services::Store)| {
            let url = Url::parse(&store.url(&self.name)).unwrap();
            (name, clouds::open(name, &url, &store.options()).unwrap().data)
        };
        self.services.stores().map(open).to_vec()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = isobar(arguments);
        command.current_dir(self.directory.path());
        command
    }

    async fn run(&self, arguments: &[&str]) -> Output {
        run(&mut self.command(arguments)).await
    }

    fn start(&self, spec: &Path, log: &str, further: &[&str]) -> Background {
        self.start_with(spec, log, further, &[])
    }

    fn start_with(&self, spec: &Path, log: &str, further: &[&str], env: &[(&str, &str)]) -> Background {
        let arguments = [&["--log-format", "json", "run", spec.to_str().unwrap()], further].concat();
        let mut command = self.command(&arguments);
        command.envs(env.iter().copied());
        Background::start(&mut command, &self.directory.path().join(log))
    }

    /// Gives the topic more partitions, so many altogether.
    async fn grow_to(&self, partitions: usize) {
        let more = NewPartitions::new(&self.name, partitions);
        let grown = self.admin().create_partitions(&[more], &Self::admin_options()).await.unwrap();
        assert!(grown.iter().all(Result::is_ok), "{grown:?}");
    }

    /// Produces `count` records to each of `partitions`, with a producer of its own: it learns of new partitions when it
    /// connects.
    fn produce_to(&mut self, partitions: &[i32], records: &mut Generator, count: usize) {
        let producer = self.producer();
        for partition in partitions {
            for record in records.records(count) {
                let produced = ProducedRecord {
                    topic: &self.name,
                    partition: *partition,
                    key: record.key.as_deref(),
                    payload: record.payload.as_deref(),
                    timestamp_ms: Some(record.timestamp_ms),
                    ..Default::default()
                };
                producer.produce(produced).unwrap();
                self.ledger.push(&self.name, *partition, record);
            }
        }
        producer.flush(KAFKA_PATIENCE).unwrap();
    }

    /// Whether every store has everything that was produced.
    async fn is_complete(&self) -> bool {
        let ends = self.ledger.ends(&self.name);
        for (_, store) in self.stores() {
            let positions = Log::read(&*store, FEATURES).await.positions();
            if !ends.iter().all(|(partition, end)| positions.get(partition) == Some(end)) {
                return false;
            }
        }
        true
    }

    /// Everything produced is in every store, once and right: by our own readers, by `prove`, and by the oracle.
    async fn assert_complete(&self, spec: &Path) {
        let quarantine_name = format!("{FEATURES}.quarantine");
        let mut named = Vec::new();
        for (name, store) in self.stores() {
            let dataset = Table::read(&*store, FEATURES).await;
            let quarantine = Table::read(&*store, &quarantine_name).await;
            self.ledger.assert_complete(&self.name, judge, &dataset, &quarantine);
            named.push((name.to_owned(), trees::reachable(&*store, &[FEATURES, &quarantine_name]).await));
        }
        trees::assert_all_equal(&named);
        self.run(&["prove", "--config", spec.to_str().unwrap()]).await.assert(0, &[FEATURES]);
        self.ask_oracle().await;
    }

    async fn ask_oracle(&self) {
        let ends = self.ledger.ends(&self.name);
        let ends: Vec<String> = ends.iter().map(|(partition, end)| format!("{partition}={end}")).collect();
        let mut all = vec!["compare".to_owned()];
        let mut options = Vec::new();
        for (_, store) in self.services.stores() {
            let table = format!("{}/datasets/{FEATURES}", store.url(&self.name));
            let quarantine = format!("{table}.quarantine");
            let storage = store.python_options().to_string();
            let answer = oracle(&[
                "offsets",
                &table,
                &quarantine,
                "--ends",
                &ends.join(","),
                "--storage-options",
                &storage,
            ])
            .await;
            answer.assert(0, &["\"missing\": 0", "\"repeated\": 0", "\"unexpected\": 0"]);
            all.push(table);
            options.extend(["--storage-options".to_owned(), storage]);
        }
        all.extend(options);
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        oracle(&all).await.assert(0, &[]);
    }
}

/// A copy of the spec with one of its texts replaced.
fn changed(spec: &Path, name: &str, text: &str, by: &str) -> PathBuf {
    let written = std::fs::read_to_string(spec).unwrap();
    write_file(&spec.with_file_name(name), &replaced(&written, text, by))
}

/// Produces in turn to all partitions; the ledger notes it once the broker has it all.
fn produce(producer: &KafkaProducer, topic: &str, records: Vec<Record>, ledger: &mut Ledger) {
    let first = ledger.len(topic);
    let placed: Vec<(i32, Record)> = records
        .into_iter()
        .zip(first..)
        .map(|(record, number)| ((number % PARTITIONS as u64) as i32, record))
        .collect();
    for (partition, record) in &placed {
        let produced = ProducedRecord {
            topic,
            partition: *partition,
            key: record.key.as_deref(),
            payload: record.payload.as_deref(),
            timestamp_ms: Some(record.timestamp_ms),
            ..Default::default()
        };
        producer.produce(produced).unwrap();
    }
    producer.flush(KAFKA_PATIENCE).unwrap();
    for (partition, record) in placed {
        ledger.push(topic, partition, record);
    }
}

/// A producer that goes on whatever happens to the pipeline, until it is stopped or dropped: a test that fails must end.
struct Producing {
    ended: Arc<AtomicBool>,
    ledger: Option<tokio::task::JoinHandle<Ledger>>,
}

impl Producing {
    /// Produces what `next` says, and pauses as long as it says.
    fn start(live: &Live, mut next: impl FnMut() -> (Vec<Record>, Duration) + Send + 'static) -> Self {
        let (producer, topic, ended) = (live.producer(), live.name.clone(), Arc::new(AtomicBool::new(false)));
        let is_over = ended.clone();
        let ledger = tokio::task::spawn_blocking(move || {
            let mut ledger = Ledger::default();
            while !is_over.load(Ordering::Relaxed) {
                let (records, pause) = next();
                produce(&producer, &topic, records, &mut ledger);
                std::thread::sleep(pause);
            }
            ledger
        });
        Self { ended, ledger: Some(ledger) }
    }

    /// What it produced.
    async fn stop(mut self) -> Ledger {
        self.ended.store(true, Ordering::Relaxed);
        self.ledger.take().expect("it is stopped once").await.unwrap()
    }
}

impl Drop for Producing {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_main_job_from_kafka_to_three_real_stores() {
    let Some(mut live) = Live::begin("main-job").await else { return };
    let seed = Seed::of("live_main_job");
    let mut records = Generator::mixed(seed.prng());
    let producer = live.producer();
    let spec = live.spec("1s");
    for _ in 0..2 {
        live.produce(&producer, records.records(20_000));
        live.run(&["run", spec.to_str().unwrap(), "--until-caught-up"]).await.assert(0, &[]);
        live.assert_complete(&spec).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_kills_at_random_moments_lose_and_double_nothing() {
    let Some(mut live) = Live::begin("kills").await else { return };
    let seed = Seed::of("live_kills");
    let mut prng = seed.prng();
    let spec = live.spec("200ms");
    let (mut records, mut chance) = (Generator::mixed(prng.fork()), prng.fork());
    let producing = Producing::start(&live, move || {
        (records.records(chance.index(400)), Duration::from_millis(chance.below(300)))
    });
    for kill in 0..KILLS {
        let process = live.start(&spec, "killed.log", &[]);
        // A third each dies while it starts, soon after, or in the middle of its work.
        let longest_ms = *prng.pick(&[700, 1500, 4000]);
        let delay = Duration::from_millis(prng.below(longest_ms));
        tokio::time::sleep(delay).await;
        let mut process = process;
        assert!(!process.has_ended(), "kill {kill}: it ended by itself\n{}", process.errors());
        process.kill().await;
    }
    live.ledger = producing.stop().await;
    let produced = live.ledger.len(&live.name);
    live.run(&["run", spec.to_str().unwrap(), "--until-caught-up"]).await.assert(0, &[]);
    live.assert_complete(&spec).await;
    let log = Log::read(&*live.stores()[0].1, FEATURES).await;
    eprintln!("{KILLS} kills, {produced} records, {} versions", log.versions.len());
}

/// What `/metrics` says about commits.
async fn commits(address: &str) -> Option<u64> {
    let (_, metrics) = http_get(address, "/metrics").await?;
    let line = metrics.lines().find(|line| line.starts_with("isobar_commits_total{"))?;
    line.rsplit(' ').next()?.parse::<f64>().ok().map(|count| count as u64)
}

/// Follows the commits until `more` were made; the longest time without one.
async fn longest_pause(address: &str, more: u64) -> Duration {
    let first = until_some("metrics are served", async || commits(address).await).await;
    let (mut seen, mut changed, mut longest) = (first, Instant::now(), Duration::ZERO);
    while seen < first + more {
        assert!(changed.elapsed() < PATIENCE, "no commit for {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
        let now = commits(address).await.unwrap_or(seen);
        if now > seen {
            longest = longest.max(changed.elapsed());
            (seen, changed) = (now, Instant::now());
        }
    }
    longest
}

#[tokio::test(flavor = "multi_thread")]
async fn any_one_store_may_be_taken_away_and_becomes_equal_by_itself() {
    let Some(mut live) = Live::begin("outage").await else { return };
    let seed = Seed::of("live_outage");
    let mut prng = seed.prng();
    let spec = live.spec("300ms");
    let mut records = Generator::mixed(prng.fork());
    let producing = Producing::start(&live, move || (records.records(100), Duration::from_millis(50)));
    let process = live.start(&spec, "outage.log", &["--metrics-addr", "127.0.0.1:0"]);
    let line: serde_json::Value = serde_json::from_str(&process.says("serving metrics").await).unwrap();
    let address = line["address"].as_str().unwrap().to_owned();
    let undisturbed = longest_pause(&address, 10).await;
    let mut pauses = BTreeMap::new();
    for (name, store) in live.services.stores() {
        for mode in [Mode::Refuse, Mode::Hang, Mode::LoseAnswers] {
            store.proxy.set(mode);
            let pause = longest_pause(&address, 15).await;
            pauses.insert(format!("{name} {mode:?}"), pause);
            store.proxy.set(Mode::Forward);
            // It catches up although commits go on.
            let direct = live.stores();
            let of = |wanted: &str| {
                direct.iter().find(|(name, _)| *name == wanted).map(|(_, store)| store.clone()).unwrap()
            };
            let newest = latest_version(&*of(if name == "aws" { "azure" } else { "aws" }), FEATURES).await;
            until("the store has caught up", async || latest_version(&*of(name), FEATURES).await >= newest)
                .await;
        }
    }
    eprintln!("longest time without a commit: undisturbed {undisturbed:?}, {pauses:#?}");
    live.ledger = producing.stop().await;
    process.signal("TERM").await;
    process.ended().await.assert(0, &[]);
    live.run(&["run", spec.to_str().unwrap(), "--until-caught-up"]).await.assert(0, &[]);
    live.assert_complete(&spec).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn aborted_transactions_and_control_records_leave_holes_that_are_no_gaps() {
    let Some(live) = Live::begin("transactions").await else { return };
    let spec = live.spec("500ms");
    let producer: ThreadedProducer<DefaultProducerContext> = ClientConfig::new()
        .set("bootstrap.servers", &live.services.brokers)
        .set("transactional.id", &live.name)
        .set("transaction.timeout.ms", KAFKA_PATIENCE.as_millis().to_string())
        .create()
        .unwrap();
    producer.init_transactions(KAFKA_PATIENCE).unwrap();
    let mut committed = Vec::new();
    let mut prng = Prng::new(3);
    for round in 0..2 {
        for transaction in 0..20 {
            producer.begin_transaction().unwrap();
            let is_kept = transaction < 19 && transaction % 3 != 1;
            for number in 0..10 {
                let id = round * 1000 + transaction * 10 + number;
                let payload = Event::plain(id).to_json(&mut prng);
                let record =
                    BaseRecord::<[u8], [u8]>::to(&live.name).partition((number % 4) as i32).payload(&payload);
                producer.send(record).map_err(|(error, _)| error).unwrap();
                if is_kept {
                    committed.push(id);
                }
            }
            match is_kept {
                true => producer.commit_transaction(KAFKA_PATIENCE).unwrap(),
                // The last one of each round is aborted, so that every partition ends in what nobody may read.
                false => {
                    producer.flush(KAFKA_PATIENCE).unwrap();
                    producer.abort_transaction(KAFKA_PATIENCE).unwrap();
                }
            }
        }
        for _ in 0..2 {
            live.run(&["run", spec.to_str().unwrap(), "--until-caught-up"]).await.assert(0, &[]);
            for (name, store) in live.stores() {
                let dataset = Table::read(&*store, FEATURES).await;
                let mut ids: Vec<i64> = dataset
                    .rows()
                    .map(|row| match row["id"] {
                        Value::Int(id) => id,
                        _ => panic!("an id is a number"),
                    })
                    .collect();
                ids.sort_unstable();
                assert_eq!(ids, committed, "{name}");
            }
        }
    }
    live.run(&["prove", "--config", spec.to_str().unwrap()]).await.assert(0, &[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_added_between_two_runs_are_read_from_their_first_record() {
    let Some(mut live) = Live::begin("partitions").await else { return };
    let seed = Seed::of("live_partitions");
    let mut records = Generator::mixed(seed.prng());
    let spec = live.spec("500ms");
    let producer = live.producer();
    live.produce(&producer, records.records(500));
    live.run(&["run", spec.to_str().unwrap(), "--until-caught-up"]).await.assert(0, &[]);
    live.grow_to(7).await;
    live.produce_to(&[4, 5, 6], &mut records, 70);
    // `latest` is about a topic of which nothing was read yet.
    let latest = changed(&spec, "latest.yaml", "format: json", "format: json\n    start: latest");
    live.run(&["run", latest.to_str().unwrap(), "--until-caught-up"]).await.assert(0, &[]);
    live.assert_complete(&spec).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_added_while_a_leader_and_a_worker_run_are_read_without_a_restart() {
    let Some(mut live) = Live::begin("growth").await else { return };
    let seed = Seed::of("live_growth");
    let mut records = Generator::mixed(seed.prng());
    let spec = live.spec("500ms");
    let producer = live.producer();
    live.produce(&producer, records.records(500));
    live.run(&["run", spec.to_str().unwrap(), "--until-caught-up"]).await.assert(0, &[]);
    let latest = changed(&spec, "latest.yaml", "format: json", "format: json\n    start: latest");
    let shared =
        changed(&latest, "shared.yaml", "memory:", &format!("workers: {{ token: {TOKEN} }}\nmemory:"));
    let token = [("ISOBAR_TEST_TOKEN", "a-token-of-sufficient-length")];
    let leader = live.start_with(&shared, "leader.log", &["--metrics-addr", "127.0.0.1:0"], &token);
    leader.says("\"consuming\"").await;
    let worker = live.start_with(&shared, "worker.log", &["--worker"], &token);
    worker.says("\"working\"").await;
    // The first growth is noticed with records in it; both processes go on with what they have.
    for (partitions, new) in [(7, &[4, 5, 6][..]), (9, &[7, 8][..])] {
        live.grow_to(partitions).await;
        live.produce_to(new, &mut records, 70);
        live.produce(&producer, records.records(200));
        until("the new partitions are committed", async || live.is_complete().await).await;
    }
    for process in [worker, leader] {
        process.signal("TERM").await;
        process.ended().await.assert(0, &["reading another share"]);
    }
    live.assert_complete(&spec).await;
}

/// The embedded broker knows no times.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_from_a_time_to_a_time_reads_the_records_between() {
    let Some(mut live) = Live::begin("times").await else { return };
    let spec = live.spec("500ms");
    let at = |id: i64| Record { timestamp_ms: 1_000_000 + 1_000 * id, ..Record::of(Event::plain(id)) };
    let producer = live.producer();
    live.produce(&producer, (0..100).map(at).collect());
    let (from, to) = ("timestamp:1970-01-01T00:17:10Z", "timestamp:1970-01-01T00:17:40.5Z");
    live.run(&["run", spec.to_str().unwrap(), "--from", from, "--to", to]).await.assert(0, &[]);
    // Records are dealt to the partitions in turn; before the times are those with ids below 30 and 61.
    let below = |id: i32| {
        (0..PARTITIONS).map(move |partition| {
            (partition, (0..id).filter(|at| at % PARTITIONS == partition).count() as i64)
        })
    };
    for (cloud, store) in live.stores() {
        let log = Log::read(&*store, FEATURES).await;
        assert_eq!(log.starts(), below(30).collect(), "{cloud}");
        assert_eq!(log.positions(), below(61).collect(), "{cloud}");
    }
    // Without an end it goes on to the last record.
    live.run(&["run", spec.to_str().unwrap(), "--until-caught-up"]).await.assert(0, &[]);
    for (cloud, store) in live.stores() {
        let dataset = Table::read(&*store, FEATURES).await;
        assert_eq!(dataset.rows().count(), 70, "{cloud}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_that_match_are_read_and_one_that_is_gone_is_a_hard_stop() {
    let Some(live) = Live::begin("matching").await else { return };
    let seed = Seed::of("live_matching");
    let mut records = Generator::mixed(seed.prng());
    let producer = live.producer();
    let names = [live.name.clone(), format!("{}-b", live.name), format!("{}-c", live.name)];
    produce(&producer, &names[0], records.records(100), &mut Ledger::default());
    let named = live.spec("500ms");
    let topics = format!("topics: {{ pattern: \"^{}.*\" }}\n    start: latest", live.name);
    let spec = changed(&named, "matching.yaml", &format!("topic: {}", live.name), &topics);
    let path = spec.to_str().unwrap();
    let process = live.start(&spec, "matching.log", &[]);
    process.says("\"consuming\"").await;
    for name in &names[1..] {
        live.create(name).await;
        produce(&producer, name, records.records(100), &mut Ledger::default());
    }
    // What lay in the first topic before is left out, what lay in the others when they were noticed is not.
    let positions = async || {
        let positions = Log::read(&*live.stores()[0].1, FEATURES).await.app_positions();
        (positions.len(), positions.values().sum::<i64>())
    };
    until("all topics are read", async || positions().await == (3 * PARTITIONS as usize, 300)).await;
    process.signal("TERM").await;
    process.ended().await.assert(0, &[]);
    for (_, store) in live.stores() {
        let (dataset, quarantine) = (
            Table::read(&*store, FEATURES).await,
            Table::read(&*store, &format!("{FEATURES}.quarantine")).await,
        );
        assert_eq!(dataset.rows().count() + quarantine.rows().count(), 200);
    }
    live.run(&["prove", "--config", path]).await.assert(0, &[FEATURES]);

    // A topic that is left out is not gone, until it is.
    let two = format!("topics: [{}, {}]", names[0], names[1]);
    let fewer = changed(&named, "fewer.yaml", &format!("topic: {}", live.name), &two);
    let fewer = fewer.to_str().unwrap();
    live.run(&["run", fewer, "--until-caught-up"]).await.assert(0, &["no longer read", &names[2]]);
    let deleted = live.admin().delete_topics(&[names[2].as_str()], &Live::admin_options()).await.unwrap();
    assert!(deleted.iter().all(Result::is_ok), "{deleted:?}");
    for spec in [path, fewer] {
        live.run(&["run", spec, "--until-caught-up"]).await.assert(1, &["there is no such topic any more"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_deleted_and_created_again_is_a_hard_stop() {
    let Some(mut live) = Live::begin("recreated").await else { return };
    let seed = Seed::of("live_recreated");
    let mut records = Generator::mixed(seed.prng());
    let spec = live.spec("500ms");
    let spec = spec.to_str().unwrap();
    let producer = live.producer();
    live.produce(&producer, records.records(100));
    live.run(&["run", spec, "--until-caught-up"]).await.assert(0, &[]);
    drop(producer);
    let deleted = live.admin().delete_topics(&[live.name.as_str()], &Live::admin_options()).await.unwrap();
    assert!(deleted.iter().all(Result::is_ok), "{deleted:?}");
    live.run(&["run", spec, "--until-caught-up"]).await.assert(2, &["does not exist"]);
    live.create_topic().await;
    let producer = live.producer();
    produce(&producer, &live.name, records.records(300), &mut Ledger::default());
    live.run(&["run", spec, "--until-caught-up"]).await.assert(1, &["created again"]);
    let opened: Vec<clouds::Cloud> = live
        .services
        .stores()
        .map(|(name, store)| {
            clouds::open(name, &Url::parse(&store.url(&live.name)).unwrap(), &store.options()).unwrap()
        })
        .to_vec();
    assert!(prove(&opened, &[], None).await.unwrap().holds());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_and_its_topics_have_ids_that_last_and_a_missing_topic_is_named_with_its_neighbours() {
    let Some(live) = Live::begin("described").await else { return };
    let config = KafkaConfig::new([live.services.brokers.as_str()], "test");
    let cluster = KafkaCluster::new(&config, KAFKA_PATIENCE).unwrap();
    let topics = [live.name.clone()];
    let first = cluster.describe(&topics).await.unwrap();
    assert_eq!(first, cluster.describe(&topics).await.unwrap());
    assert!(first.cluster_id.as_ref().is_some_and(|id| !id.is_empty()), "{first:?}");
    assert_eq!(first.topics[0].partitions, PARTITIONS);
    let id = first.topics[0].id.clone().expect("a topic of this broker has an id");
    assert!(id.len() == 22 && !id.contains(['/', '+', '=']), "{id}");
    let other = Live::begin("described").await.expect("services are there");
    let described = cluster.describe(&[live.name.clone(), other.name.clone()]).await.unwrap();
    assert_ne!(described.topics[0].id, described.topics[1].id);
    let misspelt = format!("{}x", live.name);
    let error = cluster.describe(&[misspelt]).await.unwrap_err();
    assert!(error.to_string().contains(&format!("did you mean {}?", live.name)), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_deleted_while_it_is_read_is_a_hard_stop() {
    let Some(mut live) = Live::begin("deleted").await else { return };
    let seed = Seed::of("live_deleted");
    let spec = live.spec("300ms");
    let producer = live.producer();
    live.produce(&producer, Generator::mixed(seed.prng()).records(100));
    let process = live.start(&spec, "deleted.log", &["--metrics-addr", "127.0.0.1:0"]);
    let line: serde_json::Value = serde_json::from_str(&process.says("serving metrics").await).unwrap();
    let address = line["address"].as_str().unwrap().to_owned();
    until("something is committed", async || commits(&address).await.is_some_and(|count| count > 0)).await;
    drop(producer);
    let deleted = live.admin().delete_topics(&[live.name.as_str()], &Live::admin_options()).await.unwrap();
    assert!(deleted.iter().all(Result::is_ok), "{deleted:?}");
    process.ended().await.assert(1, &["was deleted while it was read"]);
}

/// An unsigned token that is good for `seconds`, which the test broker accepts.
fn token_for(seconds: i64) -> String {
    let now = chrono::Utc::now().timestamp();
    let encode = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let claims = serde_json::json!({ "sub": "isobar", "iat": now, "exp": now + seconds });
    format!("{}.{}.", encode(serde_json::json!({ "alg": "none" })), encode(claims))
}

/// Puts a token where isobar looks for it, as a whole.
fn rotate(path: &Path, token: &str) {
    let aside = path.with_extension("new");
    std::fs::write(&aside, token).unwrap();
    std::fs::rename(aside, path).unwrap();
}

/// An OIDC token endpoint that gives everybody a token; its URL.
async fn token_endpoint() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/token", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            let mut request = Vec::new();
            while !request.ends_with(b"grant_type=client_credentials") {
                if connection.read_buf(&mut request).await.unwrap_or(0) == 0 {
                    break;
                }
            }
            let body = format!("{{\"access_token\":\"{}\",\"expires_in\":60}}", token_for(60));
            let head =
                format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            let _ = connection.write_all(format!("{head}{body}").as_bytes()).await;
        }
    });
    url
}

/// The broker ends a session with its token, so only new tokens keep a connection.
#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_renewed_while_a_topology_runs_and_waited_for_while_there_are_none() {
    const LIFETIME_S: i64 = 8;
    let Some(mut live) = Live::begin("oauth").await else { return };
    let brokers = std::env::var("ISOBAR_KAFKA_SASL_BROKERS").unwrap_or_default();
    if brokers.is_empty() {
        println!("skipped: there is no listener with SASL");
        return;
    }
    let plain = live.spec("300ms");
    let without = format!("brokers: {}", live.services.brokers);
    let with_options = |name: &str, options: &str| {
        let options = format!(
            "brokers: {brokers}\n  options: {{ security.protocol: SASL_PLAINTEXT, sasl.mechanism: OAUTHBEARER, {options} }}"
        );
        changed(&plain, name, &without, &options)
    };
    let spec = with_options("oauth.yaml", "sasl.oauthbearer.token: \"${file:token}\"");
    let path = spec.to_str().unwrap().to_owned();
    let token = live.directory.path().join("token");

    rotate(&token, &token_for(-60));
    live.run(&["run", &path, "--until-caught-up"]).await.assert(2, &["denied access", "expired"]);
    rotate(&token, "no-token");
    live.run(&["run", &path, "--until-caught-up"]).await.assert(2, &["denied access"]);

    let producer = live.producer();
    let seed = Seed::of("live_oauth");
    let mut records = Generator::mixed(seed.prng());
    rotate(&token, &token_for(LIFETIME_S));
    let first_ends = chrono::Utc::now().timestamp() + LIFETIME_S;
    let process = live.start(&spec, "oauth.log", &[]);
    live.produce(&producer, records.records(100));
    until("it reads with the first token", async || live.is_complete().await).await;
    until("it reads with later tokens", async || {
        live.produce(&producer, records.records(20));
        // Whatever the machine is busy with, the token in the file is good for some time.
        until("it reads on", async || {
            rotate(&token, &token_for(LIFETIME_S));
            live.is_complete().await
        })
        .await;
        chrono::Utc::now().timestamp() > first_ends + LIFETIME_S
    })
    .await;

    // Nobody rotates it for a while.
    process.says("no token for kafka").await;
    live.produce(&producer, records.records(100));
    rotate(&token, &token_for(600));
    process.says("there is a token for kafka again").await;
    until("it reads on", async || live.is_complete().await).await;
    process.signal("TERM").await;
    let output = process.ended().await;
    output.assert(0, &[]);
    let secret = std::fs::read_to_string(&token).unwrap();
    assert!(!output.text().contains(&secret[..secret.len() - 1]), "a token is in the log");

    live.produce(&producer, records.records(50));
    let client = format!(
        "sasl.oauthbearer.method: oidc, sasl.oauthbearer.token.endpoint.url: \"{}\", sasl.oauthbearer.client.id: me, \
         sasl.oauthbearer.client.secret: \"${{env:ISOBAR_TEST_SECRET}}\"",
        token_endpoint().await
    );
    let spec = with_options("oidc.yaml", &client);
    let mut command = live.command(&["run", spec.to_str().unwrap(), "--until-caught-up"]);
    run(command.env("ISOBAR_TEST_SECRET", "hunter2")).await.assert(0, &[]);
    live.assert_complete(&plain).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_goes_away_for_a_while_is_waited_for() {
    let Some(mut live) = Live::begin("broker").await else { return };
    let proxy = isobar_tests::proxy::Proxy::start(&live.services.brokers).await;
    // Only asking for the brokers' addresses goes through the proxy, which is enough to see a start without a broker.
    proxy.set(Mode::Refuse);
    let spec = live.spec("500ms");
    let text = std::fs::read_to_string(&spec).unwrap();
    let away = text
        .replace(&format!("brokers: {}", live.services.brokers), &format!("brokers: {}", proxy.address()));
    let away = write_file(&live.directory.path().join("away.yaml"), &away);
    live.run(&["run", away.to_str().unwrap(), "--until-caught-up"]).await.assert(1, &[&proxy.address()]);
    proxy.set(Mode::Forward);
    let seed = Seed::of("live_broker");
    let producer = live.producer();
    live.produce(&producer, Generator::mixed(seed.prng()).records(200));
    live.run(&["run", away.to_str().unwrap(), "--until-caught-up"]).await.assert(0, &[]);
    live.assert_complete(&spec).await;
}
