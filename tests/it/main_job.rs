//! The main job when nothing goes wrong: everything produced is in every cloud, once, and the clouds are equal.

use std::collections::BTreeMap;

use isobar_tests::delta::Log;
use isobar_tests::events::{self, Event, Fate, Generator, Record, Row, TOPIC, Value};
use isobar_tests::lab::{Lab, Running};
use isobar_tests::prng::Seed;
use isobar_tests::wait::until;
use isobar_topologies::Error;

/// A dataset of every record that can be decoded.
const EVERYTHING: &str = "  everything:
    from: events
    sql: SELECT id, _partition AS kafka_partition, _offset AS kafka_offset FROM events
";

fn everything(event: &Event) -> Fate {
    Fate::Row { row: Row::from([("id".to_owned(), Value::Int(event.id))]), warned: None }
}

#[tokio::test(flavor = "multi_thread")]
async fn records_of_every_quality_arrive_once_in_three_equal_clouds() {
    let seed = Seed::of("main_job");
    let lab = Lab::in_directories();
    lab.produce(TOPIC, Generator::mixed(seed.prng()).records(4000));
    let summary = lab.run_until_caught_up(&lab.features()).await.unwrap();
    lab.assert_whole_and_equal().await;

    let produced = lab.ledger().len(TOPIC);
    assert_eq!(produced, 4000);
    let counted = &summary.committed.rows[events::FEATURES];
    assert_eq!((counted.input, counted.adds_up()), (produced, true));
    assert!(counted.output > 0 && counted.rejected_total() > 0 && counted.filtered > 0, "{counted:?}");
    assert!(counted.dropped_total() > 0 && !counted.warned.is_empty(), "{counted:?}");
    for cloud in &summary.leader.clouds {
        assert_eq!(
            (cloud.away, cloud.decisions_behind, &cloud.set_aside),
            (false, 0, &None),
            "{}",
            cloud.cloud
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_with_nothing_new_adds_no_version_and_the_next_records_go_on_from_there() {
    let seed = Seed::of("going_on");
    let mut records = Generator::mixed(seed.prng());
    let lab = Lab::in_directories();
    let topology = lab.features();
    lab.produce(TOPIC, records.records(1500));
    lab.run_until_caught_up(&topology).await.unwrap();
    let versions = lab.versions(events::FEATURES).await;

    lab.run_until_caught_up(&topology).await.unwrap();
    assert_eq!(lab.versions(events::FEATURES).await, versions);
    lab.assert_features_complete().await;

    lab.produce(TOPIC, records.records(700));
    lab.run_until_caught_up(&topology).await.unwrap();
    assert!(lab.versions(events::FEATURES).await > versions);
    lab.assert_whole_and_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_cloud_or_two_are_enough_for_a_topology() {
    let seed = Seed::of("fewer_clouds");
    for clouds in [1, 2] {
        let lab = Lab::new(&[TOPIC], clouds, true);
        lab.produce(TOPIC, Generator::mixed(seed.prng()).records(500));
        lab.run_until_caught_up(&lab.features()).await.unwrap();
        lab.assert_whole_and_equal().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_topic_gives_empty_tables() {
    let lab = Lab::in_directories();
    lab.run_until_caught_up(&lab.features()).await.unwrap();
    lab.assert_whole_and_equal().await;
    let (features, quarantine) = lab.tables(&lab.clouds[0], events::FEATURES).await;
    assert_eq!((features.rows().count(), quarantine.rows().count()), (0, 0));
    assert_eq!(features.log.positions(), BTreeMap::from([(0, 0), (1, 0), (2, 0), (3, 0)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_commit_that_a_small_size_forces_is_one_link_of_the_chain() {
    let seed = Seed::of("small_commits");
    let lab = Lab::in_memory();
    let mut spec = lab.spec(events::SOURCE, events::FEATURES_YAML);
    spec.commit = "{ interval: 1h, size: 1KiB }".into();
    let running = lab.start(&spec.resolved());
    let mut records = Generator::mixed(seed.prng());
    for _ in 0..15 {
        // What is left after the last full commit waits for its interval, so only the number of commits is known.
        let before = running.sequence();
        lab.produce(TOPIC, records.records(60));
        until("another commit is decided", async || running.sequence() > before).await;
    }
    // A stop commits what has been read, which may not be everything yet.
    running.stop().await.unwrap();
    lab.assert_features_right().await;
    lab.run_until_caught_up(&spec.resolved()).await.unwrap();
    lab.assert_whole_and_equal().await;
    let log = Log::read(&*lab.clouds[0].store(), events::FEATURES).await;
    assert!(log.versions.len() > 15, "{} versions", log.versions.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_arrive_while_it_runs_are_committed_by_interval_and_a_stop_leaves_nothing_half_done() {
    let seed = Seed::of("while_it_runs");
    let mut records = Generator::mixed(seed.prng());
    let lab = Lab::in_directories();
    let topology = lab.features();
    for _ in 0..3 {
        let running = lab.start(&topology);
        for _ in 0..4 {
            lab.commit(&running, &mut records, 150).await;
        }
        // These may or may not make it before the stop.
        lab.produce(TOPIC, records.records(150));
        running.stop().await.unwrap();
        lab.assert_features_right().await;
    }
    lab.run_until_caught_up(&topology).await.unwrap();
    lab.assert_whole_and_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_lie_in_the_order_of_their_offsets_within_a_file() {
    let seed = Seed::of("order");
    let lab = Lab::in_memory();
    lab.produce(TOPIC, Generator::mixed(seed.prng()).records(6000));
    lab.run_until_caught_up(&lab.features()).await.unwrap();
    let (features, quarantine) = lab.tables(&lab.clouds[0], events::FEATURES).await;
    for (table, columns) in
        [(features, ["kafka_partition", "kafka_offset"]), (quarantine, ["partition", "offset"])]
    {
        for file in &table.files {
            let position = |row: &Row| {
                columns.map(|column| match row[column] {
                    Value::Int(number) => number,
                    _ => panic!("a position is a number"),
                })
            };
            assert!(file.rows.iter().map(position).is_sorted(), "{}", file.path);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn partition_values_of_any_text_come_back_exactly() {
    // The Delta protocol stores an empty text as null, so that is what a reader gets.
    fn by_city(event: &Event) -> Fate {
        let mut fate = events::features(event);
        if let Fate::Row { row, .. } = &mut fate
            && row["city"] == Value::from("")
        {
            row.insert("city".into(), Value::Null);
        }
        fate
    }
    let cities = [
        "a/b",
        "..",
        ".",
        "%2F",
        "a=b",
        "a&b?c#d",
        " leading",
        "trailing ",
        "новый",
        "\u{1F600}",
        "quote\"d",
        "it's",
        "back\\slash",
        "line\nbreak",
        "null",
        "__HIVE_DEFAULT_PARTITION__",
        "*",
        "a:b",
        "[x]",
        "{y}",
        "~",
        "C:\\",
        "a%20b",
        "é",
        "e\u{301}",
    ];
    let long = "long ".repeat(80);
    let cities = cities.iter().copied().chain([long.as_str()]).map(Some).chain([None, Some("")]);
    let lab = Lab::in_directories();
    let event = |(id, city): (usize, Option<&str>)| Event {
        city: city.map(str::to_owned),
        ..Event::plain(id as i64)
    };
    let events: Vec<Event> = cities.enumerate().map(event).collect();
    for _ in 0..2 {
        lab.produce(TOPIC, events.iter().cloned().map(Record::of));
    }
    let partitioned = format!("{}    partition_by: [city]\n", events::FEATURES_YAML);
    lab.run_until_caught_up(&lab.spec(events::SOURCE, &partitioned).resolved()).await.unwrap();
    for cloud in &lab.clouds {
        let (dataset, quarantine) = lab.tables(cloud, events::FEATURES).await;
        lab.ledger().assert_complete(TOPIC, by_city, &dataset, &quarantine);
        assert_eq!(
            dataset.files.len(),
            events.len() - 1,
            "one file per value, the empty text and null share one"
        );
    }
    lab.assert_trees_equal().await;
    lab.assert_proved().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn partition_columns_of_other_types_and_two_levels_come_back_as_the_protocol_writes_them() {
    fn by_flag_and_items(event: &Event) -> Fate {
        let mut fate = events::features(event);
        if let Fate::Row { row, .. } = &mut fate {
            let text = |value: Option<String>| value.map_or(Value::Null, Value::Text);
            row.insert("many".into(), text(event.items.map(|items| (items > 10).to_string())));
            row.insert("items".into(), text(event.items.map(|items| items.to_string())));
        }
        fate
    }
    let seed = Seed::of("partition_types");
    let lab = Lab::in_memory();
    lab.produce(TOPIC, Generator::mixed(seed.prng()).records(800));
    let partitioned = format!("{}    partition_by: [many, items]\n", events::FEATURES_YAML);
    lab.run_until_caught_up(&lab.spec(events::SOURCE, &partitioned).resolved()).await.unwrap();
    for cloud in &lab.clouds {
        let (dataset, quarantine) = lab.tables(cloud, events::FEATURES).await;
        lab.ledger().assert_complete(TOPIC, by_flag_and_items, &dataset, &quarantine);
    }
    lab.assert_trees_equal().await;
    lab.assert_proved().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_datasets_of_one_source_each_get_every_record() {
    let seed = Seed::of("two_datasets");
    let lab = Lab::in_memory();
    lab.produce(TOPIC, Generator::mixed(seed.prng()).records(2000));
    let both = format!("{}{EVERYTHING}", events::FEATURES_YAML);
    lab.run_until_caught_up(&lab.spec(events::SOURCE, &both).resolved()).await.unwrap();
    lab.assert_features_complete().await;
    for cloud in &lab.clouds {
        let (dataset, quarantine) = lab.tables(cloud, "everything").await;
        lab.ledger().assert_complete(TOPIC, everything, &dataset, &quarantine);
    }
    lab.assert_trees_equal().await;
    lab.assert_proved().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_sources_do_not_disturb_each_other() {
    const OTHER: &str = "other.topic";
    let seed = Seed::of("two_sources");
    let (mut prng, lab) = (seed.prng(), Lab::new(&[TOPIC, OTHER], 3, false));
    lab.produce(TOPIC, Generator::mixed(prng.fork()).records(900));
    lab.produce(OTHER, Generator::mixed(prng.fork()).records(1300));
    let other_source =
        events::SOURCE.replace("  events:\n    topic: events\n", "  others:\n    topic: other.topic\n");
    let other_dataset = EVERYTHING.replace("events", "others");
    let spec = lab.spec(
        &format!("{}{other_source}", events::SOURCE),
        &format!("{}{other_dataset}", events::FEATURES_YAML),
    );
    lab.run_until_caught_up(&spec.resolved()).await.unwrap();
    lab.assert_features_complete().await;
    let (dataset, quarantine) = lab.tables(&lab.clouds[2], "everything").await;
    lab.ledger().assert_complete(OTHER, everything, &dataset, &quarantine);
    lab.assert_trees_equal().await;
    lab.assert_proved().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dataset_added_later_starts_at_its_own_position_and_the_other_one_skips_what_it_has() {
    let seed = Seed::of("added_later");
    let mut records = Generator::mixed(seed.prng());
    let lab = Lab::in_memory();
    lab.produce(TOPIC, records.records(1000));
    lab.run_until_caught_up(&lab.features()).await.unwrap();
    lab.produce(TOPIC, records.records(500));
    let both = lab.spec(events::SOURCE, &format!("{}{EVERYTHING}", events::FEATURES_YAML)).resolved();
    lab.run_until_caught_up(&both).await.unwrap();
    lab.produce(TOPIC, records.records(300));
    lab.run_until_caught_up(&both).await.unwrap();
    lab.assert_features_complete().await;
    for cloud in &lab.clouds {
        let (dataset, quarantine) = lab.tables(cloud, "everything").await;
        lab.ledger().assert_complete(TOPIC, everything, &dataset, &quarantine);
    }
    lab.assert_trees_equal().await;
    lab.assert_proved().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn start_latest_takes_only_what_is_written_after_the_first_start() {
    let seed = Seed::of("latest");
    let mut records = Generator::mixed(seed.prng());
    let lab = Lab::in_memory();
    let source = events::SOURCE.replace("    format: json\n", "    format: json\n    start: latest\n");
    let topology = lab.spec(&source, events::FEATURES_YAML).resolved();
    lab.produce(TOPIC, records.records(400));
    let first_ends = lab.ledger().ends(TOPIC);
    lab.run_until_caught_up(&topology).await.unwrap();
    let (features, quarantine) = lab.tables(&lab.clouds[0], events::FEATURES).await;
    assert_eq!((features.rows().count(), quarantine.rows().count()), (0, 0));
    assert_eq!(features.log.positions(), first_ends);

    lab.produce(TOPIC, records.records(301));
    lab.run_until_caught_up(&topology).await.unwrap();
    lab.assert_features_complete().await;
    let (features, _) = lab.tables(&lab.clouds[0], events::FEATURES).await;
    assert_eq!(features.log.starts(), first_ends);
    assert_eq!(features.log.counts().input, 301);
    lab.assert_proved().await;
}

/// Columns may come and go: see `evolution`.
#[tokio::test(flavor = "multi_thread")]
async fn a_dataset_keeps_its_types_and_partitions_and_others_are_refused_before_anything_is_written() {
    let seed = Seed::of("shape");
    let lab = Lab::in_memory();
    lab.produce(TOPIC, Generator::mixed(seed.prng()).records(100));
    lab.run_until_caught_up(&lab.features()).await.unwrap();
    let versions = lab.versions(events::FEATURES).await;
    let changed = [
        events::FEATURES_YAML.replace("items > 10 AS many", "CAST(items AS VARCHAR) AS many"),
        events::FEATURES_YAML.replace("SELECT id,", "SELECT CAST(id AS INT) AS id,"),
        format!("{}    partition_by: [many]\n", events::FEATURES_YAML),
    ];
    for datasets in changed {
        let error =
            lab.run_until_caught_up(&lab.spec(events::SOURCE, &datasets).resolved()).await.unwrap_err();
        assert!(matches!(&error, Error::Configuration(text) if text.contains("features")), "{error:?}");
        assert_eq!(lab.versions(events::FEATURES).await, versions);
    }
    lab.run_until_caught_up(&lab.features()).await.unwrap();
    lab.assert_features_complete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_topology_cannot_damage_a_dataset_of_the_same_name() {
    let seed = Seed::of("same_name");
    let mut records = Generator::mixed(seed.prng());
    let lab = Lab::in_memory();
    lab.produce(TOPIC, records.records(300));
    lab.run_until_caught_up(&lab.features()).await.unwrap();
    let before = lab.clouds[0].tree().await;
    let text = lab
        .spec(events::SOURCE, events::FEATURES_YAML)
        .text()
        .replace("topology: lab\n", "topology: another\n");
    let other =
        isobar_topologies::spec::check_text(&text, "other.yaml", lab.directory.path(), Default::default())
            .unwrap();
    let error = Running::start(&other, lab.options()).ended().await.unwrap_err();
    assert!(error.to_string().contains("features"), "the dataset is named: {error}");
    let after = lab.clouds[0].tree().await;
    for (path, what) in &before {
        assert_eq!(after.get(path), Some(what), "{path}");
    }
    lab.produce(TOPIC, records.records(300));
    lab.catch_up_and_assert_whole(&lab.features()).await;
}
