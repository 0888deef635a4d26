//! Published rows on a real broker: each row once for whoever reads committed records, whoever is killed or superseded, also
//! when the table gains a column; and what a topic does not take.

use std::path::PathBuf;

use isobar_tests::delta::Table;
use isobar_tests::events::{FEATURES, Generator};
use isobar_tests::lab::{PARTITIONS, replaced, write_file};
use isobar_tests::letters::{self, Letter};
use isobar_tests::prng::Seed;
use isobar_tests::published::{BY_POSITION, assert_are_rows_of, row_of};
use isobar_tests::wait::until;

use super::dead_letter::{KILLS, metric};
use super::{Live, changed};

impl Live {
    fn scored(&self) -> String {
        format!("{}-scored", self.name)
    }

    /// A spec that publishes to [`scored`](Self::scored), under a group that no other test has.
    fn spec_that_publishes(&self, interval: &str) -> PathBuf {
        let rule = "action: quarantine }\n";
        let publish = format!(
            "{rule}    publish: {{ topic: {}, key: [city, id], group: {}-rows }}\n",
            self.scored(),
            self.name
        );
        changed(&self.spec(interval), "publish.yaml", rule, &publish)
    }

    async fn rows_sent(&self) -> Vec<Letter> {
        letters::read(&self.services.brokers, &self.scored(), PARTITIONS).await
    }

    /// What lies in the topic are the rows of the dataset, in every store.
    async fn assert_published(&self) -> Vec<Letter> {
        let sent = self.rows_sent().await;
        for (_, store) in self.stores() {
            assert_are_rows_of(&sent, &Table::read(&*store, FEATURES).await, &BY_POSITION);
        }
        sent
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_that_is_killed_again_and_again_sends_every_row_once() {
    let Some(mut live) = Live::begin("publish-kills").await else { return };
    live.create(&live.scored()).await;
    let spec = live.spec_that_publishes("200ms");
    live.kill_again_and_again(&spec, "publishing rows", Seed::of("live_publish").prng()).await;
    let sent = live.assert_published().await;
    eprintln!("{KILLS} kills, {} rows published", sent.len());
    assert!(sent.len() > KILLS);
    // Nothing is left, and nothing is sent again.
    live.catch_up(&spec).await;
    assert_eq!(live.rows_sent().await.len(), sent.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_that_is_frozen_and_replaced_sends_nothing_more_when_it_wakes() {
    let Some(mut live) = Live::begin("publish-frozen").await else { return };
    live.create(&live.scored()).await;
    let mut records = Generator::mixed(Seed::of("live_publish_frozen").prng());
    let spec = live.spec_that_publishes("200ms");
    let producer = live.producer();
    live.produce(&producer, records.records(1000));
    let frozen = live.start(&spec, "frozen.log", &[]);
    frozen.says("publishing rows").await;
    live.produce(&producer, records.records(500));
    frozen.signal("STOP").await;
    let next = live.start(&spec, "next.log", &[]);
    next.says("publishing rows").await;
    live.produce(&producer, records.records(500));
    until("everything is committed", async || live.is_complete().await).await;
    frozen.signal("CONT").await;
    live.produce(&producer, records.records(500));
    frozen.ended().await.assert(1, &["another process took over"]);
    next.signal("TERM").await;
    next.ended().await.assert(0, &[]);
    live.catch_up(&spec).await;
    live.assert_complete(&spec).await;
    live.assert_published().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_gains_a_column_is_published_on_from_where_it_was() {
    let Some(mut live) = Live::begin("publish-evolved").await else { return };
    live.create(&live.scored()).await;
    let mut records = Generator::mixed(Seed::of("live_publish_evolved").prng());
    let spec = live.spec_that_publishes("500ms");
    let producer = live.producer();
    live.produce(&producer, records.records(500));
    live.catch_up(&spec).await;
    let before = live.assert_published().await.len();

    let text = std::fs::read_to_string(&spec).unwrap();
    let more = replaced(&text, "items > 10 AS many,", "items > 10 AS many, amount * 2 AS twice,");
    let spec = write_file(&spec.with_file_name("evolved.yaml"), &more);
    live.produce(&producer, records.records(500));
    live.catch_up(&spec).await;
    let sent = live.assert_published().await;
    let with_it = sent.iter().filter(|letter| row_of(letter).get("twice").is_some()).count();
    assert!(before > 0 && with_it > 0, "{before} without, {with_it} with");
    assert_eq!(sent.len(), before + with_it);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_a_topic_does_not_take_waits_until_it_does_and_holds_up_no_commit() {
    let Some(mut live) = Live::begin("publish-limits").await else { return };
    live.create(&live.scored()).await;
    let limit = async |live: &Live, bytes: &str| {
        live.limit(&live.scored(), "max.message.bytes", bytes).await;
    };
    limit(&live, "100").await;
    let mut records = Generator::mixed(Seed::of("live_publish_limits").prng());
    let spec = live.spec_that_publishes("200ms");
    let producer = live.producer();
    live.produce(&producer, records.records(500));
    let process = live.start(&spec, "limits.log", &["--metrics-addr", "127.0.0.1:0"]);
    let line: serde_json::Value = serde_json::from_str(&process.says("serving metrics").await).unwrap();
    let address = line["address"].as_str().unwrap().to_owned();
    let refused = process.says("rows were not published").await;
    assert!(refused.contains("max.message.bytes") && refused.contains(" of version "), "{refused}");
    live.produce(&producer, records.records(500));
    until("everything is committed", async || live.is_complete().await).await;
    assert!(live.rows_sent().await.is_empty(), "a row is sent whole, and not before those before it");
    limit(&live, "1048588").await;
    let behind = "isobar_publish_versions_behind{";
    until("it has caught up", async || metric(&address, behind).await == Some(0)).await;
    process.signal("TERM").await;
    process.ended().await.assert(0, &[]);
    live.assert_published().await;
}
