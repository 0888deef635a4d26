//! Dead letters on a real broker: each rejected row once for whoever reads committed records, whoever is killed, frozen or
//! superseded; and what a topic does not take.

use std::path::{Path, PathBuf};
use std::time::Duration;

use isobar_connectors::kafka::ProducedRecord;
use isobar_tests::delta::Table;
use isobar_tests::events::{FEATURES, Generator};
use isobar_tests::lab::PARTITIONS;
use isobar_tests::letters::{self, Letter};
use isobar_tests::prng::{Prng, Seed};
use isobar_tests::program::http_get;
use isobar_tests::wait::{until, until_some};
use rdkafka::admin::{AlterConfig, ResourceSpecifier};

use super::{KAFKA_PATIENCE, Live, Producing, changed};

/// How often a process that sends is killed.
pub(super) const KILLS: usize = 15;

impl Live {
    fn dead(&self) -> String {
        format!("{}-dead", self.name)
    }

    /// The group of the dead letters, which no other test has.
    fn group(&self) -> String {
        format!("{}-letters", self.name)
    }

    /// A spec that sends dead letters to [`dead`](Self::dead).
    fn spec_with_letters(&self, interval: &str) -> PathBuf {
        self.spec_of_group(interval, &self.group(), 0)
    }

    fn spec_of_group(&self, interval: &str, group: &str, from_version: u64) -> PathBuf {
        let rule = "action: quarantine }\n";
        let dead = self.dead();
        let letters = format!(
            "{rule}    dead_letter: {{ topic: {dead}, group: {group}, from_version: {from_version} }}\n"
        );
        changed(&self.spec(interval), "letters.yaml", rule, &letters)
    }

    async fn letters(&self) -> Vec<Letter> {
        letters::read(&self.services.brokers, &self.dead(), PARTITIONS).await
    }

    async fn quarantine(&self) -> Table {
        Table::read(&*self.stores()[0].1, &format!("{FEATURES}.quarantine")).await
    }

    pub(super) async fn catch_up(&self, spec: &Path) {
        self.run(&["run", spec.to_str().unwrap(), "--until-caught-up"]).await.assert(0, &[]);
    }

    /// Produces, and runs `spec` again and again, which is killed at some time after it `says` that it sends. In the end all is
    /// committed, and right.
    pub(super) async fn kill_again_and_again(&mut self, spec: &Path, says: &str, mut prng: Prng) {
        let (mut records, mut chance) = (Generator::mixed(prng.fork()), prng.fork());
        let producing = Producing::start(self, move || {
            (records.records(chance.index(400)), Duration::from_millis(chance.below(200)))
        });
        for kill in 0..KILLS {
            let mut process = self.start(spec, "killed.log", &[]);
            // In the middle of the first transactions, or later: between commits and what is sent of them.
            process.says(says).await;
            let longest_ms = *prng.pick(&[50, 500, 3000]);
            tokio::time::sleep(Duration::from_millis(prng.below(longest_ms))).await;
            assert!(!process.has_ended(), "kill {kill}: it ended by itself\n{}", process.errors());
            process.kill().await;
        }
        self.ledger = producing.stop().await;
        self.catch_up(spec).await;
        self.assert_complete(spec).await;
    }

    /// Sets what the topic of dead letters takes.
    async fn limit_dead(&self, name: &str, value: &str) {
        self.limit(&self.dead(), name, value).await;
    }

    /// Sets what `topic` takes.
    pub(super) async fn limit(&self, topic: &str, name: &str, value: &str) {
        let settings = AlterConfig::new(ResourceSpecifier::Topic(topic)).set(name, value);
        let altered = self.admin().alter_configs(&[settings], &Self::admin_options()).await.unwrap();
        assert!(altered.iter().all(Result::is_ok), "{altered:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_that_is_killed_again_and_again_sends_every_rejected_row_once() {
    let Some(mut live) = Live::begin("letters-kills").await else { return };
    live.create(&live.dead()).await;
    let spec = live.spec_with_letters("200ms");
    live.kill_again_and_again(&spec, "sending dead letters", Seed::of("live_letters").prng()).await;
    let letters = live.letters().await;
    eprintln!("{KILLS} kills, {} dead letters", letters.len());
    assert!(letters.len() > KILLS);
    letters::assert_are_rows_of(&letters, &live.quarantine().await);
    // Nothing is left, and nothing is sent again.
    live.catch_up(&spec).await;
    assert_eq!(live.letters().await.len(), letters.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_that_is_frozen_and_replaced_sends_nothing_more_when_it_wakes() {
    let Some(mut live) = Live::begin("letters-frozen").await else { return };
    live.create(&live.dead()).await;
    let mut records = Generator::mixed(Seed::of("live_letters_frozen").prng());
    let spec = live.spec_with_letters("200ms");
    let producer = live.producer();
    live.produce(&producer, records.records(2000));
    for round in 0..3 {
        let frozen = live.start(&spec, &format!("frozen-{round}.log"), &[]);
        frozen.says("sending dead letters").await;
        live.produce(&producer, records.records(500));
        frozen.signal("STOP").await;
        let next = live.start(&spec, &format!("next-{round}.log"), &[]);
        next.says("sending dead letters").await;
        live.produce(&producer, records.records(500));
        until("everything is committed", async || live.is_complete().await).await;
        frozen.signal("CONT").await;
        live.produce(&producer, records.records(500));
        let ended = frozen.ended().await;
        ended.assert(1, &["another process took over"]);
        next.signal("TERM").await;
        next.ended().await.assert(0, &[]);
    }
    live.catch_up(&spec).await;
    live.assert_complete(&spec).await;
    letters::assert_are_rows_of(&live.letters().await, &live.quarantine().await);
}

/// One record to partition 0, which nobody can decode.
fn produce_bad(live: &Live, key: &[u8], payload: &[u8]) {
    let producer = live.producer();
    let record = ProducedRecord {
        topic: &live.name,
        key: Some(key),
        payload: Some(payload),
        timestamp_ms: Some(1_400_000_000_000),
        ..Default::default()
    };
    producer.produce(record).unwrap();
    producer.flush(KAFKA_PATIENCE).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_topic_does_not_take_is_sent_without_it_and_blocks_nothing() {
    let Some(live) = Live::begin("letters-limits").await else { return };
    live.create(&live.dead()).await;
    live.limit_dead("max.message.bytes", "4000").await;
    let spec = live.spec_with_letters("500ms");
    // In one commit: small ones, large ones, one whose key is large, and small ones again.
    for number in 0..20 {
        produce_bad(&live, b"small", format!("{{{number}").as_bytes());
    }
    for _ in 0..5 {
        produce_bad(&live, b"large", &[b'x'; 10_000]);
    }
    produce_bad(&live, &[b'k'; 6_000], &[b'x'; 100]);
    produce_bad(&live, b"small", b"last");
    live.catch_up(&spec).await;
    let of_key = |letters: &[Letter], key: Option<&[u8]>| -> Vec<Letter> {
        letters.iter().filter(|letter| letter.key.as_deref() == key).cloned().collect()
    };
    let letters = live.letters().await;
    assert_eq!(letters.len(), 27);
    let small = of_key(&letters, Some(b"small"));
    assert!(small.len() == 21 && small.iter().all(|letter| letter.said("payload_omitted").is_none()));
    let large = of_key(&letters, Some(b"large"));
    assert!(large.len() == 5 && large.iter().all(|letter| letter.payload.is_none()));
    assert!(large.iter().all(|letter| letter.said("payload_omitted") == Some("10000")));
    let without_key = of_key(&letters, None);
    assert_eq!(without_key.len(), 1);
    assert_eq!(without_key[0].said("key_omitted"), Some("6000"));

    // Times that the topic does not take: they are those of sending, and said.
    live.limit_dead("message.timestamp.before.max.ms", "3600000").await;
    for number in 0..5 {
        produce_bad(&live, b"old", format!("[{number}").as_bytes());
    }
    live.catch_up(&spec).await;
    let old = of_key(&live.letters().await, Some(b"old"));
    assert_eq!(old.len(), 5);
    for letter in &old {
        assert_eq!(letter.said("timestamp"), Some("1400000000000"));
        assert!(letter.timestamp_ms.unwrap() > 1_700_000_000_000 && letter.payload.is_some());
    }
}

/// The sample of a metric with this beginning.
pub(super) async fn metric(address: &str, beginning: &str) -> Option<u64> {
    let (_, metrics) = http_get(address, "/metrics").await?;
    let line = metrics.lines().find(|line| line.starts_with(beginning))?;
    line.rsplit(' ').next()?.parse::<f64>().ok().map(|value| value as u64)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_takes_nothing_holds_up_no_commit_and_gets_all_of_it_later() {
    let Some(mut live) = Live::begin("letters-refused").await else { return };
    live.create(&live.dead()).await;
    // Not even what isobar says of a record fits.
    live.limit_dead("max.message.bytes", "100").await;
    let mut records = Generator::mixed(Seed::of("live_letters_refused").prng());
    let spec = live.spec_with_letters("200ms");
    let producer = live.producer();
    live.produce(&producer, records.records(1000));
    let process = live.start(&spec, "refused.log", &["--metrics-addr", "127.0.0.1:0"]);
    let line: serde_json::Value = serde_json::from_str(&process.says("serving metrics").await).unwrap();
    let address = line["address"].as_str().unwrap().to_owned();
    process.says("dead letters were not sent").await;
    live.produce(&producer, records.records(1000));
    until("everything is committed", async || live.is_complete().await).await;
    let behind = "isobar_dead_letter_versions_behind{";
    let lag =
        until_some("the lag is shown", async || metric(&address, behind).await.filter(|lag| *lag > 0)).await;
    assert!(live.letters().await.is_empty(), "{lag}");

    live.limit_dead("max.message.bytes", "1048588").await;
    until("it has caught up", async || metric(&address, behind).await == Some(0)).await;
    process.signal("TERM").await;
    process.ended().await.assert(0, &[]);
    // What the topic took meanwhile may be without some of it; which rows there are is not in doubt.
    let (sent, due) = (live.letters().await, live.quarantine().await);
    assert_eq!(sent.len(), due.rows().count());
    let mut places: Vec<(i64, i64)> =
        sent.iter().map(|letter| (letter.rejected().partition, letter.rejected().offset)).collect();
    places.sort_unstable();
    places.dedup();
    assert_eq!(places.len(), sent.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_that_somebody_deleted_is_not_made_up_and_another_group_begins_where_it_is_told() {
    let Some(mut live) = Live::begin("letters-forgotten").await else { return };
    live.create(&live.dead()).await;
    let mut records = Generator::mixed(Seed::of("live_letters_forgotten").prng());
    let spec = live.spec_with_letters("500ms");
    let producer = live.producer();
    live.produce(&producer, records.records(500));
    live.catch_up(&spec).await;
    let first = live.letters().await;
    letters::assert_are_rows_of(&first, &live.quarantine().await);
    let group = live.group();
    let deleted = live.admin().delete_groups(&[&group], &Live::admin_options()).await.unwrap();
    assert!(deleted.iter().all(Result::is_ok), "{deleted:?}");

    live.produce(&producer, records.records(500));
    let process = live.start(&spec, "forgotten.log", &[]);
    process.says("Kafka has forgotten how far").await;
    until("everything is committed", async || live.is_complete().await).await;
    process.signal("TERM").await;
    process.ended().await.assert(0, &[]);
    assert_eq!(live.letters().await.len(), first.len());

    let last = first.iter().map(|letter| letter.said("version").unwrap().parse::<u64>().unwrap()).max();
    let spec = live.spec_of_group("500ms", &live.name, last.unwrap() + 1);
    live.catch_up(&spec).await;
    letters::assert_are_rows_of(&live.letters().await, &live.quarantine().await);
    live.run(&["doctor", spec.to_str().unwrap()]).await.assert(0, &["dead_letter.write"]);
}
