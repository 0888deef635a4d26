//! A backfill beside a live topology: what the two read has no gap and no overlap, wherever they are cut.

use isobar_tests::events::{self, FEATURES, FEATURES_YAML, Generator, TOPIC};
use isobar_tests::lab::{CLOUDS, Lab, TOPOLOGY};
use isobar_tests::prng::Seed;
use isobar_tests::wait::in_time;
use isobar_topologies::Error;
use isobar_topologies::pipeline::{self, RunOptions, Summary};
use isobar_topologies::span::Bound;
use isobar_topologies::spec::{self, Topology};
use tokio_util::sync::CancellationToken;

const BACKFILLED: &str = "backfilled";

/// The topology of a backfill: another name, and another dataset with the same rules.
fn backfill(lab: &Lab) -> Topology {
    let datasets = FEATURES_YAML.replace(&format!("  {FEATURES}:"), &format!("  {BACKFILLED}:"));
    let text = lab.spec(events::SOURCE, &datasets).text();
    let text = text.replace(&format!("topology: {TOPOLOGY}\n"), "topology: backfill\n");
    spec::check_text(&text, "backfill.yaml", lab.directory.path(), spec::CheckOptions::default()).unwrap()
}

/// The live topology begins at the end of the topic.
fn live(lab: &Lab) -> (Topology, String) {
    let sources = events::SOURCE.replace("    format: json\n", "    format: json\n    start: latest\n");
    let spec = lab.spec(&sources, FEATURES_YAML);
    let path = spec.written_as("live.yaml").to_str().expect("paths of tests are UTF-8").to_owned();
    (spec.resolved(), path)
}

async fn run(lab: &Lab, topology: &Topology, from: &str, to: &str) -> Result<Summary, Error> {
    let bound = |text: &str| (!text.is_empty()).then(|| text.parse::<Bound>().unwrap());
    let options = RunOptions { until_caught_up: true, from: bound(from), to: bound(to), ..lab.options() };
    in_time("a run", pipeline::run(topology, options, CancellationToken::new())).await
}

/// In every cloud the two datasets together hold the whole topic, cut at the same offsets.
async fn assert_cut_exactly(lab: &Lab) {
    for cloud in &lab.clouds {
        let (live, live_quarantine) = lab.tables(cloud, FEATURES).await;
        let (old, old_quarantine) = lab.tables(cloud, BACKFILLED).await;
        lab.ledger().assert_complete(TOPIC, events::features, &live, &live_quarantine);
        lab.ledger().assert_right(TOPIC, events::features, &old, &old_quarantine);
        assert!(old.log.starts().values().all(|start| *start == 0));
        assert_eq!(old.log.positions(), live.log.starts(), "{}", cloud.name);
    }
    lab.assert_proved().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backfill_ends_where_the_live_topology_has_begun() {
    let lab = Lab::in_directories();
    let mut records = Generator::mixed(Seed::of("backfill").prng());
    lab.produce(TOPIC, records.records(600));
    let (live, live_path) = live(&lab);
    lab.run_until_caught_up(&live).await.unwrap();
    lab.produce(TOPIC, records.records(300));
    lab.run_until_caught_up(&live).await.unwrap();
    let start = format!("start-of:{live_path}#{FEATURES}");
    // More comes all the time, and the backfill has nothing to do with it.
    lab.produce(TOPIC, records.records(300));
    run(&lab, &backfill(&lab), "earliest", &start).await.unwrap();
    lab.run_until_caught_up(&live).await.unwrap();
    assert_cut_exactly(&lab).await;
    // Again: there is nothing left to do.
    let before = lab.versions(BACKFILLED).await;
    run(&lab, &backfill(&lab), "earliest", &start).await.unwrap();
    assert_eq!(lab.versions(BACKFILLED).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backfill_in_steps_reads_everything_once() {
    let lab = Lab::in_directories();
    let mut records = Generator::mixed(Seed::of("backfill_steps").prng());
    lab.produce(TOPIC, records.records(1_000));
    let topology = backfill(&lab);
    for (to, expected) in [("offset:50", 50), ("offset:50", 50), ("offset:51", 51), ("offset:200", 200)] {
        run(&lab, &topology, "earliest", to).await.unwrap();
        let (dataset, quarantine) = lab.tables(&lab.clouds[0], BACKFILLED).await;
        lab.ledger().assert_right(TOPIC, events::features, &dataset, &quarantine);
        assert!(dataset.log.positions().values().all(|position| *position == expected), "{to}");
    }
    run(&lab, &topology, "", "latest").await.unwrap();
    let (dataset, quarantine) = lab.tables(&lab.clouds[0], BACKFILLED).await;
    lab.ledger().assert_complete(TOPIC, events::features, &dataset, &quarantine);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_partition_may_end_long_before_another() {
    let lab = Lab::in_directories();
    let mut records = Generator::mixed(Seed::of("backfill_skewed").prng());
    lab.produce_to(TOPIC, records.records(20).into_iter().map(|record| (0, record)));
    lab.produce_to(TOPIC, records.records(400).into_iter().map(|record| (1, record)));
    let (live, live_path) = live(&lab);
    lab.run_until_caught_up(&live).await.unwrap();
    // Far beyond the end of the first one.
    lab.produce_to(TOPIC, records.records(3_000).into_iter().map(|record| (0, record)));
    run(&lab, &backfill(&lab), "earliest", &format!("start-of:{live_path}")).await.unwrap();
    lab.run_until_caught_up(&live).await.unwrap();
    assert_cut_exactly(&lab).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_that_cannot_be_is_refused_and_nothing_is_begun() {
    let lab = Lab::in_directories();
    lab.produce(TOPIC, Generator::mixed(Seed::of("backfill_refused").prng()).records(40));
    let (_, live_path) = live(&lab);
    let not_begun = format!("start-of:{live_path}");
    let no_dataset = format!("start-of:{live_path}#nothing");
    for (from, to, said) in [
        ("offset:11", "", "holds 0 to 10"),
        ("earliest", not_begun.as_str(), "has not begun"),
        ("earliest", no_dataset.as_str(), "no dataset nothing"),
        ("start-of:nowhere.yaml", "", "nowhere.yaml"),
    ] {
        let error = run(&lab, &backfill(&lab), from, to).await.unwrap_err();
        assert!(error.exit_code() == 2 && error.to_string().contains(said), "{said}: {error}");
    }
    assert_eq!(lab.versions(BACKFILLED).await, vec![None; CLOUDS.len()]);
}
