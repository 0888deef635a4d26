//! Rejected records in a dead-letter topic. The embedded broker takes transactions and forgets progress: what happens across
//! restarts is tested in `live`.

use std::time::Duration;

use isobar_connectors::kafka::{ProducedRecord, partition_of_key};
use isobar_tests::delta::Log;
use isobar_tests::events::{self, FEATURES, FEATURES_YAML, Generator, TOPIC, maintained_features};
use isobar_tests::lab::{Lab, PARTITIONS, Running, start_producer};
use isobar_tests::letters::{self, Letter};
use isobar_tests::prng::Seed;
use isobar_tests::program::run_isobar;
use isobar_tests::wait::until;
use isobar_topologies::spec::Topology;
use object_store::ObjectStoreExt;

const DEAD: &str = "features-rejected";
const QUARANTINE: &str = "features.quarantine";
const RECORDS: usize = 300;

/// `features` with its dead letters.
fn with_letters(features: &str) -> String {
    format!("{features}    dead_letter: {{ topic: {DEAD} }}\n")
}

fn topology(lab: &Lab, features: &str) -> Topology {
    lab.spec(events::SOURCE, &with_letters(features)).resolved()
}

fn lab() -> Lab {
    let lab = Lab::in_directories();
    lab.create_topic(DEAD);
    lab
}

async fn sent(lab: &Lab) -> Vec<Letter> {
    letters::read(&lab.broker.bootstrap_servers(), DEAD, PARTITIONS).await
}

/// Waits until `running` has sent everything.
async fn all_sent(lab: &Lab, running: &Running) {
    lab.wait_until_committed(running).await;
    let behind = running.metrics.dead_letter_versions_behind.with_label_values(&[FEATURES]);
    let rows = running.metrics.dead_letter_rows.with_label_values(&[FEATURES, "sent"]);
    until("all dead letters are sent", async || {
        // What is decided is seen a little later.
        let (_, quarantine) = lab.tables(&lab.clouds[0], FEATURES).await;
        assert!(!running.has_ended());
        behind.get() == 0 && rows.get() >= quarantine.rows().count() as u64
    })
    .await;
}

async fn assert_sent_once(lab: &Lab) -> Vec<Letter> {
    let sent = sent(lab).await;
    let (_, quarantine) = lab.tables(&lab.clouds[0], FEATURES).await;
    letters::assert_are_rows_of(&sent, &quarantine);
    sent
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_ends_has_sent_everything_that_it_rejected() {
    let lab = lab();
    let mut records = Generator::mixed(Seed::of("letters").prng());
    lab.produce(TOPIC, records.records(RECORDS));
    lab.run_until_caught_up(&topology(&lab, FEATURES_YAML)).await.unwrap();
    lab.assert_features_complete().await;
    let sent = assert_sent_once(&lab).await;
    assert!(sent.len() > 20, "{}", sent.len());
    for letter in &sent {
        assert_eq!((letter.said("topology"), letter.said("dataset")), (Some("lab"), Some(FEATURES)));
        let rejected = letter.rejected();
        assert_eq!(letter.timestamp_ms, rejected.timestamp_ms);
        // Where Java's producers put it.
        if let Some(key) = &letter.key {
            assert_eq!(letter.partition, partition_of_key(key, PARTITIONS));
        }
        assert_eq!(letter.said("rule").is_some(), letter.said("reason") == Some("expectation"));
    }
    // The mark that something was sent is no part of the tables, and disturbs nobody.
    lab.assert_proved().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_a_compaction_moves_are_not_sent_again() {
    let lab = lab();
    let mut records = Generator::mixed(Seed::of("letters and compaction").prng());
    let running = lab.start(&topology(&lab, &maintained_features("{ compact: { min_files: 4 } }")));
    running.ready().await;
    until("small files of the quarantine were combined twice", async || {
        lab.commit(&running, &mut records, 40).await;
        let log = Log::read(&*lab.clouds[0].store(), QUARANTINE).await;
        log.versions.iter().filter(|version| version.info()["operation"] == "OPTIMIZE").count() >= 2
    })
    .await;
    lab.commit(&running, &mut records, 40).await;
    all_sent(&lab, &running).await;
    running.stop().await.unwrap();
    lab.wait_until_equal(FEATURES).await;
    assert_sent_once(&lab).await;
}

/// In every cloud a VACUUM of the quarantine is published, and the files that it lets go are deleted.
async fn is_vacuumed(lab: &Lab) -> bool {
    for cloud in &lab.clouds {
        let store = cloud.store();
        let log = Log::read(&*store, QUARANTINE).await;
        let files = log.vacuumed_files();
        for path in &files {
            if store.head(&log.object_path(path)).await.is_ok() {
                return false;
            }
        }
        if files.is_empty() {
            return false;
        }
    }
    true
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_whose_files_were_deleted_before_are_counted_and_all_others_are_sent() {
    let lab = lab();
    let mut records = Generator::mixed(Seed::of("letters too late").prng());
    let features = maintained_features("{ compact: { min_files: 4 }, keep_versions: 1 }");
    let running = lab.start(&lab.spec(events::SOURCE, &features).resolved());
    running.ready().await;
    until("files of the quarantine are deleted", async || {
        lab.commit(&running, &mut records, 40).await;
        is_vacuumed(&lab).await
    })
    .await;
    running.stop().await.unwrap();
    // Only now somebody wants them. Nothing more is deleted: the embedded broker lets nobody begin twice.
    let running = lab.start(&topology(&lab, FEATURES_YAML));
    running.ready().await;
    lab.commit(&running, &mut records, 40).await;
    let rows = |outcome: &str| running.metrics.dead_letter_rows.with_label_values(&[FEATURES, outcome]).get();
    let behind = running.metrics.dead_letter_versions_behind.with_label_values(&[FEATURES]);
    until("every row is sent or given up", async || {
        let (_, quarantine) = lab.tables(&lab.clouds[0], FEATURES).await;
        behind.get() == 0 && rows("sent") + rows("gone") >= quarantine.rows().count() as u64
    })
    .await;
    let (counted, gone) = (rows("sent"), rows("gone"));
    running.stop().await.unwrap();
    lab.wait_until_equal(FEATURES).await;
    let (_, quarantine) = lab.tables(&lab.clouds[0], FEATURES).await;
    let sent = sent(&lab).await;
    assert!(gone > 0 && counted > 0, "{counted} sent, {gone} gone");
    assert_eq!((sent.len() as u64, counted + gone), (counted, quarantine.rows().count() as u64));
    letters::assert_are_among_rows_of(&sent, &quarantine);
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_go_on_while_nothing_can_be_sent_and_all_is_sent_later() {
    let lab = lab();
    let mut records = Generator::mixed(Seed::of("letters refused").prng());
    // Its own producer begins before others are refused.
    lab.produce(TOPIC, records.records(RECORDS));
    lab.broker.refuse_transactions(3).unwrap();
    let running = lab.start(&topology(&lab, FEATURES_YAML));
    running.ready().await;
    let failures = running.metrics.dead_letter_failures.with_label_values(&[FEATURES]);
    for round in 1..=3 {
        lab.commit(&running, &mut records, 50).await;
        until("sending has failed", async || failures.get() >= round).await;
    }
    all_sent(&lab, &running).await;
    running.stop().await.unwrap();
    assert_sent_once(&lab).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_kafka_has_forgotten_is_not_sent_again() {
    let lab = lab();
    let mut records = Generator::mixed(Seed::of("letters forgotten").prng());
    let topology = topology(&lab, FEATURES_YAML);
    lab.produce(TOPIC, records.records(RECORDS));
    lab.run_until_caught_up(&topology).await.unwrap();
    let before = assert_sent_once(&lab).await.len();
    // The embedded broker has kept no progress; the clouds know that there was some.
    let running = lab.start(&topology);
    running.ready().await;
    lab.commit(&running, &mut records, RECORDS).await;
    let failures = running.metrics.dead_letter_failures.with_label_values(&[FEATURES]);
    until("it was refused twice to begin anew", async || failures.get() >= 2).await;
    assert!(running.metrics.dead_letter_versions_behind.with_label_values(&[FEATURES]).get() > 0);
    running.stop().await.unwrap();
    assert_eq!(sent(&lab).await.len(), before);

    // The way out that is told: another name, from the version that comes next.
    let next = 1 + sent(&lab)
        .await
        .iter()
        .map(|letter| letter.said("version").unwrap().parse::<u64>().unwrap())
        .max()
        .unwrap();
    let features = with_letters(FEATURES_YAML)
        .replace(&format!("topic: {DEAD} "), &format!("topic: {DEAD}, group: again, from_version: {next} "));
    let topology = lab.spec(events::SOURCE, &features).resolved();
    lab.run_until_caught_up(&topology).await.unwrap();
    assert!(assert_sent_once(&lab).await.len() > before);
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_of_rejected_records_are_sent_where_the_quarantine_keeps_them() {
    let lab = Lab::new(&["orders", DEAD], 3, false);
    let producer = start_producer(&lab.broker);
    let headers: &[(&str, Option<&[u8]>)] =
        &[("source", Some(b"web")), ("isobar.topic", Some(b"other")), ("empty", None)];
    for payload in ["{\"id\":-1}", "{\"id\":1}"] {
        let record = ProducedRecord {
            topic: "orders",
            payload: Some(payload.as_bytes()),
            headers,
            ..Default::default()
        };
        producer.produce(record).unwrap();
    }
    producer.flush(Duration::from_secs(120)).unwrap();
    let source = "  orders:\n    topic: orders\n    format: json\n    fields: { id: { type: int64, nullable: false } }\n";
    let datasets = format!(
        "  with_headers:
    from: orders
    sql: SELECT id, CAST(header(_headers, 'source') AS VARCHAR) AS source FROM orders
    expect:
      - {{ name: positive, check: id > 0, action: quarantine }}
    dead_letter: {{ topic: {DEAD} }}
  without:
    from: orders
    sql: SELECT id FROM orders
    expect:
      - {{ name: positive, check: id > 0, action: quarantine }}
    dead_letter: {{ topic: {DEAD} }}
"
    );
    lab.run_until_caught_up(&lab.spec(source, &datasets).resolved()).await.unwrap();
    let mut sent = sent(&lab).await;
    sent.sort_by_key(|letter| letter.said("dataset").unwrap().to_owned());
    let datasets: Vec<_> = sent.iter().map(|letter| letter.said("dataset").unwrap()).collect();
    assert_eq!(datasets, ["with_headers", "without"]);
    // Its own are there in their order, and do not hide what isobar says.
    let own: Vec<_> =
        sent[0].headers[..3].iter().map(|(name, value)| (name.as_str(), value.as_deref())).collect();
    assert_eq!(own, headers);
    assert_eq!(sent[0].said("topic"), Some("orders"));
    assert!(sent[1].headers.iter().all(|(name, _)| name.starts_with("isobar.")), "{:?}", sent[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_without_the_topic_is_refused_and_names_it() {
    let lab = Lab::in_directories();
    let spec = lab.spec(events::SOURCE, &with_letters(FEATURES_YAML)).written();
    let output = run_isobar(&["run", spec.to_str().unwrap(), "--until-caught-up"]).await;
    output.assert(2, &["ask Kafka about the topics of dead letters", DEAD, "does not exist"]);
    // Nothing was claimed.
    assert!(lab.versions(FEATURES).await.iter().all(Option::is_none));
}
