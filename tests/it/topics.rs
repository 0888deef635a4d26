//! Sources of several topics: named, or matching a pattern, also topics that appear while a topology runs.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use isobar_tests::delta::{Log, Table};
use isobar_tests::events::{self, Generator, Row, Value};
use isobar_tests::lab::{Lab, Running};
use isobar_tests::prng::Seed;
use isobar_tests::wait::until;
use isobar_topologies::Error;
use isobar_topologies::pipeline::RunOptions;
use isobar_topologies::spec::Topology;

/// Every record that can be decoded, with its place.
const DATASET: &str = "  placed:
    from: events
    sql: |
      SELECT id, _topic AS kafka_topic, _partition AS kafka_partition, _offset AS kafka_offset FROM events
";

/// The place of a record: topic, partition, offset.
type Place = (String, i32, i64);

/// The usual source, of other topics.
fn source(topics: &str) -> String {
    events::SOURCE.replace("topic: events", topics)
}

fn topology(lab: &Lab, topics: &str) -> Topology {
    lab.spec(&source(topics), DATASET).resolved()
}

/// A topology of all topics that match.
pub(crate) fn matching(lab: &Lab, pattern: &str) -> Topology {
    topology(lab, &format!("topics: {{ pattern: \"{pattern}\" }}"))
}

/// Options under which new topics are noticed at once.
pub(crate) fn attentive(options: RunOptions) -> RunOptions {
    RunOptions { topics_interval: Duration::from_millis(100), ..options }
}

fn place(row: &Row, [topic, partition, offset]: [&str; 3]) -> Place {
    match (&row[topic], &row[partition], &row[offset]) {
        (Value::Text(topic), Value::Int(partition), Value::Int(offset)) => {
            (topic.clone(), *partition as i32, *offset)
        }
        other => panic!("no place: {other:?}"),
    }
}

/// The places of all rows of the dataset and of its quarantine; none is there twice.
async fn landed(lab: &Lab) -> BTreeSet<Place> {
    let store = lab.clouds[0].store();
    let (dataset, quarantine) =
        (Table::read(&*store, "placed").await, Table::read(&*store, "placed.quarantine").await);
    let rows = dataset.rows().map(|row| place(row, ["kafka_topic", "kafka_partition", "kafka_offset"]));
    let rejected = quarantine.rows().map(|row| place(row, ["topic", "partition", "offset"]));
    let all: Vec<Place> = rows.chain(rejected).collect();
    let places: BTreeSet<Place> = all.iter().cloned().collect();
    assert_eq!(places.len(), all.len(), "a record has landed twice");
    places
}

/// The places of everything produced to `topics`.
fn produced(lab: &Lab, topics: &[&str]) -> BTreeSet<Place> {
    let ledger = lab.ledger();
    let of_topic = |topic: &str| {
        let ends = ledger.ends(topic).into_iter();
        let topic = topic.to_owned();
        ends.flat_map(move |(partition, end)| {
            let topic = topic.clone();
            (0..end).map(move |offset| (topic.clone(), partition, offset))
        })
    };
    topics.iter().flat_map(|topic| of_topic(topic)).collect()
}

/// Whether every cloud stands at the end of everything produced to `topics`.
pub(crate) async fn stands_at_the_end(lab: &Lab, topics: &[&str]) -> bool {
    let ends: BTreeMap<(String, i32), i64> = topics
        .iter()
        .flat_map(|topic| {
            let ends = lab.ledger().ends(topic);
            ends.into_iter().map(move |(partition, end)| ((topic.to_string(), partition), end))
        })
        .collect();
    for cloud in &lab.clouds {
        let positions = Log::read(&*cloud.store(), "placed").await.app_positions();
        let position = |(topic, partition): &(String, i32)| {
            let suffix = format!("/{topic}/{partition}");
            positions.iter().find(|(app_id, _)| app_id.ends_with(&suffix)).map(|(_, position)| *position)
        };
        if !ends.iter().all(|(partition, end)| position(partition) == Some(*end)) {
            return false;
        }
    }
    true
}

/// All that was produced to `topics` and nothing else has landed, once, in every cloud.
pub(crate) async fn assert_landed(lab: &Lab, topics: &[&str]) {
    until("every cloud has it all", async || stands_at_the_end(lab, topics).await).await;
    lab.wait_until_equal("placed").await;
    assert_eq!(landed(lab).await, produced(lab, topics));
    let proof = lab.proof().await;
    assert!(proof.holds(), "{proof:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn several_topics_of_a_source_land_in_one_dataset_and_can_be_told_apart() {
    let seed = Seed::of("several_topics");
    let mut records = Generator::mixed(seed.prng());
    let lab = Lab::new(&["a", "b", "c"], 2, false);
    for topic in ["a", "b", "c"] {
        lab.produce(topic, records.records(200));
    }
    lab.run_until_caught_up(&topology(&lab, "topics: [b, a]")).await.unwrap();
    assert_landed(&lab, &["a", "b"]).await;

    // One topic less, while it exists: where it was left is kept, and it goes on from there.
    lab.produce("a", records.records(50));
    lab.produce("b", records.records(50));
    lab.run_until_caught_up(&topology(&lab, "topic: a")).await.unwrap();
    lab.run_until_caught_up(&topology(&lab, "topics: [a, b]")).await.unwrap();
    assert_landed(&lab, &["a", "b"]).await;

    let error = lab.run_until_caught_up(&topology(&lab, "topics: [a, absent]")).await.unwrap_err();
    assert!(error.exit_code() == 2 && isobar_topologies::chain_of(&error).contains("absent"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_begins_to_match_is_read_from_its_first_record() {
    let seed = Seed::of("topics_appear");
    let mut records = Generator::mixed(seed.prng());
    let lab = Lab::new(&["other"], 3, false);
    lab.produce("other", records.records(20));
    // Although `latest`: that is about what lay there before the dataset began.
    let topology = topology(&lab, "topics: { pattern: \"^orders-.*\" }\n    start: latest");
    let running = Running::start(&topology, attentive(lab.options()));
    running.ready().await;
    let mut topics = Vec::new();
    for topic in ["orders-1", "orders-2", "orders-3"] {
        lab.create_topic(topic);
        topics.push(topic);
        // The others have records on their way when the new one is noticed, and none of them is read twice.
        for topic in &topics {
            lab.produce(topic, records.records(60));
        }
        until("it is read", async || stands_at_the_end(&lab, &topics).await).await;
    }
    assert_eq!(running.metrics.batches_retried.get(), 0, "nothing was read again");
    running.stop().await.unwrap();
    assert_landed(&lab, &topics).await;

    // One that appears while nothing runs.
    lab.create_topic("orders-4");
    lab.produce("orders-4", records.records(40));
    lab.run_until_caught_up(&topology).await.unwrap();
    topics.push("orders-4");
    assert_landed(&lab, &topics).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_begins_to_match_two_sources_is_a_hard_stop() {
    let lab = Lab::new(&["a", "b"], 1, false);
    let sources = source("topics: { pattern: \"^a.*\" }")
        + &source("topics: { pattern: \"^.*b\" }").replace("  events:", "  others:");
    let other = DATASET.replace("placed:", "further:").replace("events", "others");
    let topology = lab.spec(&sources, &format!("{DATASET}{other}")).resolved();
    let running = Running::start(&topology, attentive(lab.options()));
    running.ready().await;
    lab.create_topic("ab");
    let error = running.ended().await.unwrap_err();
    let Error::Configuration(text) = error else { panic!("{error:?}") };
    assert!(text.contains("topic ab is read by the sources events and others"), "{text}");
}
