//! The rows of datasets, published to topics: of the cluster that is read, and of another one. The embedded broker takes
//! transactions and forgets progress: what happens across restarts is tested in `live`.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use isobar_connectors::kafka::{EmbeddedBroker, ProducedRecord, partition_of_key};
use isobar_tests::delta::Log;
use isobar_tests::events::{self, FEATURES, FEATURES_YAML, Generator, TOPIC, maintained_features};
use isobar_tests::lab::{Lab, PARTITIONS, Running, replaced, start_producer, text_of};
use isobar_tests::letters::{self, Letter};
use isobar_tests::prng::Seed;
use isobar_tests::program::run_isobar;
use isobar_tests::published::{BY_POSITION, assert_are_rows_of, row_of};
use isobar_tests::wait::until;
use isobar_topologies::query::{RowsFormat, catalog_in};
use isobar_topologies::redrive::{RedriveOptions, redrive};
use isobar_topologies::spec::Topology;
use serde_json::Value as Json;

const SCORED: &str = "features-scored";
const RECORDS: usize = 300;

/// `features` with its rows published as `publish` says.
fn published_as(features: &str, publish: &str) -> String {
    format!("{features}    publish: {publish}\n")
}

fn published(features: &str) -> String {
    published_as(features, &format!("{{ topic: {SCORED} }}"))
}

fn topology(lab: &Lab, features: &str) -> Topology {
    lab.spec(events::SOURCE, features).resolved()
}

fn lab() -> Lab {
    let lab = Lab::in_directories();
    lab.create_topic(SCORED);
    lab
}

async fn sent(lab: &Lab) -> Vec<Letter> {
    letters::read(&lab.broker.bootstrap_servers(), SCORED, PARTITIONS).await
}

/// Waits until `running` has published everything.
async fn all_sent(lab: &Lab, running: &Running) {
    lab.wait_until_committed(running).await;
    let behind = running.metrics.publish_versions_behind.with_label_values(&[FEATURES]);
    let rows = running.metrics.publish_rows.with_label_values(&[FEATURES, "sent"]);
    until("all rows are published", async || {
        // What is decided is seen a little later.
        let (dataset, _) = lab.tables(&lab.clouds[0], FEATURES).await;
        assert!(!running.has_ended());
        behind.get() == 0 && rows.get() >= dataset.rows().count() as u64
    })
    .await;
}

/// What lies in the topic is the dataset, as it is in every cloud.
async fn assert_sent_once(lab: &Lab) -> Vec<Letter> {
    let sent = sent(lab).await;
    lab.wait_until_equal(FEATURES).await;
    for cloud in &lab.clouds {
        let (dataset, _) = lab.tables(cloud, FEATURES).await;
        assert_are_rows_of(&sent, &dataset, &BY_POSITION);
    }
    sent
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_ends_has_published_every_row_to_the_partition_of_its_key() {
    let lab = lab();
    let mut records = Generator::mixed(Seed::of("published").prng());
    lab.produce(TOPIC, records.records(RECORDS));
    let features = published_as(FEATURES_YAML, &format!("{{ topic: {SCORED}, key: city }}"));
    lab.run_until_caught_up(&topology(&lab, &features)).await.unwrap();
    lab.assert_features_complete().await;
    let sent = assert_sent_once(&lab).await;
    assert!(sent.len() > 20, "{}", sent.len());
    let (mut with_key, mut without) = (0, 0);
    for letter in &sent {
        assert_eq!((letter.said("topology"), letter.said("dataset")), (Some("lab"), Some(FEATURES)));
        assert_eq!(letter.headers.len(), 3);
        let city = row_of(letter)["city"].as_str().map(str::to_owned);
        assert_eq!(letter.key.as_deref(), city.as_ref().map(String::as_bytes));
        match &letter.key {
            // Where Java's producers put it.
            Some(key) => {
                assert_eq!(letter.partition, partition_of_key(key, PARTITIONS));
                with_key += 1;
            }
            None => without += 1,
        }
    }
    assert!(with_key > 0 && without > 0, "{with_key} with a key, {without} without");
    // Each is of the version that it says.
    let log = Log::read(&*lab.clouds[0].store(), FEATURES).await;
    for version in &log.versions {
        let said = |letter: &&Letter| letter.said("version") == Some(version.number.to_string().as_str());
        let rows = version.isobar()["rows"]["out"].as_u64().unwrap_or_default();
        assert_eq!(sent.iter().filter(said).count() as u64, rows, "version {}", version.number);
    }
    // The mark that something was sent is no part of the tables, and disturbs nobody.
    lab.assert_proved().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_and_rejected_records_go_to_topics_of_their_own() {
    let lab = lab();
    lab.create_topic("features-rejected");
    let mut records = Generator::mixed(Seed::of("published and rejected").prng());
    lab.produce(TOPIC, records.records(RECORDS));
    let both = format!(
        "{}    dead_letter: {{ topic: features-rejected }}\n",
        published_as(FEATURES_YAML, &format!("{{ topic: {SCORED}, key: [city, id] }}"))
    );
    lab.run_until_caught_up(&topology(&lab, &both)).await.unwrap();
    for letter in assert_sent_once(&lab).await {
        let row = row_of(&letter);
        let key: Json = serde_json::from_slice(letter.key.as_deref().unwrap()).unwrap();
        assert_eq!(key, serde_json::json!([row["city"], row["id"]]));
    }
    let rejected = letters::read(&lab.broker.bootstrap_servers(), "features-rejected", PARTITIONS).await;
    let (_, quarantine) = lab.tables(&lab.clouds[0], FEATURES).await;
    assert!(rejected.len() > 20, "{}", rejected.len());
    letters::assert_are_rows_of(&rejected, &quarantine);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_a_compaction_moves_are_not_published_again() {
    let lab = lab();
    let mut records = Generator::mixed(Seed::of("published and compacted").prng());
    let features = published(&maintained_features("{ compact: { min_files: 4 } }"));
    let running = lab.start(&topology(&lab, &features));
    running.ready().await;
    until("small files of the dataset were combined twice", async || {
        lab.commit(&running, &mut records, 40).await;
        let log = Log::read(&*lab.clouds[0].store(), FEATURES).await;
        log.versions.iter().filter(|version| version.info()["operation"] == "OPTIMIZE").count() >= 2
    })
    .await;
    lab.commit(&running, &mut records, 40).await;
    all_sent(&lab, &running).await;
    running.stop().await.unwrap();
    assert_sent_once(&lab).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_a_redrive_brings_into_a_dataset_are_published() {
    let lab = lab();
    let mut records = Generator::mixed(Seed::of("published and redriven").prng());
    lab.produce(TOPIC, records.records(RECORDS));
    lab.run_until_caught_up(&topology(&lab, FEATURES_YAML)).await.unwrap();
    let relaxed = replaced(FEATURES_YAML, "check: \"amount IS NOT NULL\"", "check: \"true\"");
    let options = RedriveOptions {
        dataset: FEATURES.into(),
        condition: Some("rule = 'has_amount'".into()),
        clouds: Some(lab.opened()),
        ..RedriveOptions::default()
    };
    let redriven = redrive(&topology(&lab, &relaxed), &options, &()).await.unwrap();
    assert!(redriven.rows.output > 0);
    // Only now somebody wants them, from the beginning.
    lab.run_until_caught_up(&topology(&lab, &published(&relaxed))).await.unwrap();
    let sent = assert_sent_once(&lab).await;
    let without = sent.iter().filter(|letter| row_of(letter)["amount"].is_null()).count();
    assert_eq!(without as u64, redriven.rows.output);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_have_the_columns_that_their_version_had() {
    let lab = lab();
    let mut records = Generator::mixed(Seed::of("published and evolved").prng());
    lab.produce(TOPIC, records.records(RECORDS));
    lab.run_until_caught_up(&topology(&lab, FEATURES_YAML)).await.unwrap();
    let (before, _) = lab.tables(&lab.clouds[0], FEATURES).await;
    let last = before.log.versions.last().unwrap().number;
    // A column more, and one less.
    let evolved = replaced(FEATURES_YAML, "flag, at, items > 10 AS many,", "flag, at, amount * 2 AS twice,");
    lab.produce(TOPIC, records.records(RECORDS));
    let features = published_as(&evolved, &format!("{{ topic: {SCORED}, key: twice }}"));
    lab.run_until_caught_up(&topology(&lab, &features)).await.unwrap();
    let sent = assert_sent_once(&lab).await;
    let (mut older, mut newer) = (0, 0);
    for letter in &sent {
        let row = row_of(letter);
        let has = |name: &str| row.get(name).is_some();
        let is_newer = letter.said("version").unwrap().parse::<u64>().unwrap() > last;
        assert_eq!((has("twice"), has("many")), (is_newer, !is_newer), "{row}");
        assert_eq!(letter.key.is_some(), is_newer && !row["twice"].is_null());
        if is_newer { newer += 1 } else { older += 1 }
    }
    assert!(older > 20 && newer > 20, "{older} and {newer}");
}

/// A dataset with a value of every kind that people ask about, in folders by `half`.
const KINDS: &str = "  kinds:
    from: numbers
    sql: |
      SELECT id, half, x, price, at, held_on, raw, word, named_struct('x', x, 'word', word) AS pair,
             make_array(x, CAST('-inf' AS DOUBLE)) AS several
      FROM (
        SELECT id, CAST(id % 2 AS INT) AS half, word,
               CASE WHEN id % 3 = 0 THEN CAST('NaN' AS DOUBLE) WHEN id % 3 = 1 THEN CAST(id AS DOUBLE) / 3 END AS x,
               CAST(id AS DECIMAL(20, 2)) AS price,
               CASE WHEN id % 4 > 0 THEN at END AS at,
               CASE WHEN id % 4 > 0 THEN CAST(at AS DATE) END AS held_on,
               CAST(word AS BYTEA) AS raw
        FROM numbers
      )
    partition_by: [half]
";

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_the_text_that_a_query_answers() {
    let lab = Lab::new(&["numbers", SCORED], 3, false);
    let producer = start_producer(&lab.broker);
    let words = ["plain", "\\\"quoted\\\"\\n", "Zürich 🚀", ""];
    for id in 0..40_i64 {
        let word = words[id as usize % words.len()];
        let number = if id == 39 { i64::MAX / 1_000 } else { id };
        let payload =
            format!("{{\"id\":{number},\"word\":\"{word}\",\"at\":\"2013-06-30T22:15:{:02}.25Z\"}}", id % 60);
        let payload = Some(payload.as_bytes());
        producer.produce(ProducedRecord { topic: "numbers", payload, ..Default::default() }).unwrap();
    }
    producer.flush(Duration::from_secs(120)).unwrap();
    let source = "  numbers:\n    topic: numbers\n    format: json\n    fields: { id: int64, word: string, at: timestamp }\n";
    let topology = lab.spec(source, &published(KINDS)).resolved();
    lab.run_until_caught_up(&topology).await.unwrap();
    let sent = sent(&lab).await;
    let mut texts: Vec<String> =
        sent.iter().map(|letter| String::from_utf8(letter.payload.clone().unwrap()).unwrap()).collect();
    let catalog = catalog_in(&topology, &lab.opened()).unwrap();
    let mut answer = catalog.query("SELECT * FROM kinds").await.unwrap();
    let answer = text_of(&mut answer, RowsFormat::Json).await.unwrap();
    let rows = answer.lines().filter(|line| line.contains('{')).map(|line| line[1..].to_owned());
    let mut rows: Vec<String> = rows.collect();
    texts.sort_unstable();
    rows.sort_unstable();
    assert_eq!(texts.len(), 40);
    assert_eq!(texts, rows);
    assert!(texts.iter().any(|text| text.contains("\"x\":\"NaN\"")), "{texts:#?}");
    assert!(texts.iter().any(|text| text.contains("\"x\":null")), "{texts:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_go_on_while_nothing_can_be_published_and_all_is_sent_later() {
    let lab = lab();
    let mut records = Generator::mixed(Seed::of("publishing refused").prng());
    // Its own producer begins before others are refused.
    lab.produce(TOPIC, records.records(RECORDS));
    lab.broker.refuse_transactions(3).unwrap();
    let running = lab.start(&topology(&lab, &published(FEATURES_YAML)));
    running.ready().await;
    let failures = running.metrics.publish_failures.with_label_values(&[FEATURES]);
    for round in 1..=3 {
        lab.commit(&running, &mut records, 50).await;
        until("publishing has failed", async || failures.get() >= round).await;
    }
    all_sent(&lab, &running).await;
    running.stop().await.unwrap();
    assert_sent_once(&lab).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_whose_progress_kafka_has_forgotten_are_not_published_again() {
    let lab = lab();
    let mut records = Generator::mixed(Seed::of("published and forgotten").prng());
    let topology = topology(&lab, &published(FEATURES_YAML));
    lab.produce(TOPIC, records.records(RECORDS));
    lab.run_until_caught_up(&topology).await.unwrap();
    let before = assert_sent_once(&lab).await;
    // The embedded broker has kept no progress; the clouds know that there was some.
    let running = lab.start(&topology);
    running.ready().await;
    lab.commit(&running, &mut records, RECORDS).await;
    let failures = running.metrics.publish_failures.with_label_values(&[FEATURES]);
    until("it was refused twice to begin anew", async || failures.get() >= 2).await;
    assert!(running.metrics.publish_versions_behind.with_label_values(&[FEATURES]).get() > 0);
    running.stop().await.unwrap();
    assert_eq!(sent(&lab).await.len(), before.len());

    // The way out that is told: another name, from the version that comes next.
    let last = before.iter().map(|letter| letter.said("version").unwrap().parse::<u64>().unwrap()).max();
    let again = format!("{{ topic: {SCORED}, group: again, from_version: {} }}", last.unwrap() + 1);
    let spec = lab.spec(events::SOURCE, &published_as(FEATURES_YAML, &again));
    lab.run_until_caught_up(&spec.resolved()).await.unwrap();
    assert!(assert_sent_once(&lab).await.len() > before.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_without_the_topic_is_refused_and_names_it() {
    let lab = Lab::in_directories();
    let spec = lab.spec(events::SOURCE, &published(FEATURES_YAML)).written();
    let output = run_isobar(&["run", spec.to_str().unwrap(), "--until-caught-up"]).await;
    output.assert(2, &["ask Kafka about the topics that rows are published to", SCORED, "does not exist"]);
    // Nothing was claimed.
    assert!(lab.versions(FEATURES).await.iter().all(Option::is_none));
}

/// `publish` to the topic of another cluster.
fn to_cluster(topic: &str, far: &EmbeddedBroker) -> String {
    let brokers = far.bootstrap_servers();
    format!("{{ topic: {topic}, key: city, kafka: {{ brokers: \"{brokers}\", topic_identity: name }} }}")
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_made_anywhere_of_one_clusters_events_return_to_it_and_are_the_same_in_every_cloud() {
    // The events are in the lab's cluster. Two topologies beside it score them, each with clouds of its own.
    let events_here = lab();
    let far = EmbeddedBroker::start(&[(SCORED, PARTITIONS)]).unwrap();
    let mut records = Generator::mixed(Seed::of("published across").prng());
    events_here.produce(TOPIC, records.records(RECORDS));
    let returned =
        topology(&events_here, &published_as(FEATURES_YAML, &format!("{{ topic: {SCORED}, key: city }}")));
    events_here.run_until_caught_up(&returned).await.unwrap();

    let elsewhere = Lab::in_directories();
    let mut spec = elsewhere.spec(events::SOURCE, &published_as(FEATURES_YAML, &to_cluster(SCORED, &far)));
    spec.brokers = events_here.broker.bootstrap_servers();
    elsewhere.run_until_caught_up(&spec.resolved()).await.unwrap();

    // The topic of the events' cluster, that of the other one, and the datasets in six clouds are the same rows.
    let returned = sent(&events_here).await;
    let gone_on = letters::read(&far.bootstrap_servers(), SCORED, PARTITIONS).await;
    for lab in [&events_here, &elsewhere] {
        lab.wait_until_equal(FEATURES).await;
        for cloud in &lab.clouds {
            let (dataset, _) = lab.tables(cloud, FEATURES).await;
            assert!(dataset.rows().count() > 20);
            for letters in [&returned, &gone_on] {
                assert_are_rows_of(letters, &dataset, &BY_POSITION);
            }
        }
    }
    let texts = |letters: &[Letter]| {
        let texts = letters.iter().map(|letter| (letter.key.clone(), letter.payload.clone()));
        texts.collect::<BTreeSet<_>>()
    };
    assert_eq!(texts(&returned), texts(&gone_on));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_cluster_may_be_away_at_the_start_and_gets_all_of_it_later() {
    let lab = Lab::in_directories();
    let far = EmbeddedBroker::start(&[(SCORED, PARTITIONS)]).unwrap();
    far.set_down(true).unwrap();
    let mut records = Generator::mixed(Seed::of("published far away").prng());
    let running = lab.start(&topology(&lab, &published_as(FEATURES_YAML, &to_cluster(SCORED, &far))));
    running.ready().await;
    let failures = running.metrics.publish_failures.with_label_values(&[FEATURES]);
    lab.commit(&running, &mut records, RECORDS).await;
    until("publishing has failed", async || failures.get() >= 1).await;
    lab.commit(&running, &mut records, RECORDS).await;
    assert!(running.metrics.publish_versions_behind.with_label_values(&[FEATURES]).get() > 0);
    far.set_down(false).unwrap();
    all_sent(&lab, &running).await;
    running.stop().await.unwrap();
    lab.wait_until_equal(FEATURES).await;
    let sent = letters::read(&far.bootstrap_servers(), SCORED, PARTITIONS).await;
    let (dataset, _) = lab.tables(&lab.clouds[0], FEATURES).await;
    assert_are_rows_of(&sent, &dataset, &BY_POSITION);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_read_gets_no_rows_by_another_name_of_its_cluster() {
    let lab = Lab::in_directories();
    let mut records = Generator::mixed(Seed::of("published in a circle").prng());
    // As another cluster, under the name of the topic that is read.
    let circle = to_cluster(TOPIC, &lab.broker);
    let running = lab.start(&topology(&lab, &published_as(FEATURES_YAML, &circle)));
    running.ready().await;
    lab.commit(&running, &mut records, RECORDS).await;
    let failures = running.metrics.publish_failures.with_label_values(&[FEATURES]);
    until("publishing was refused", async || failures.get() >= 1).await;
    running.stop().await.unwrap();
    // Nothing came back.
    lab.wait_until_equal(FEATURES).await;
    lab.assert_features_complete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_of_scored_flights_is_a_topology_that_publishes() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../topologies/scored_flights/topology.yaml");
    run_isobar(&["check", path.to_str().unwrap()]).await.assert(0, &[]);
    let topology = isobar_topologies::spec::load(&path).unwrap_or_else(|problems| panic!("{problems}"));
    let publish = topology.datasets[0].publish.as_ref().unwrap();
    assert_eq!(
        (topology.datasets[0].name.as_str(), publish.topic.as_str()),
        ("scored_flights", "flights-scored")
    );
    assert_eq!(topology.models.shadow.as_deref(), Some("challenger"));
}
