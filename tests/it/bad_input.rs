//! Bad input never stops the pipeline and never vanishes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use isobar_connectors::kafka::EmbeddedBroker;
use isobar_tests::delta::Table;
use isobar_tests::events::{self, Content, Event, Fate, Generator, Record, Row, TOPIC, Value, bad_payloads};
use isobar_tests::lab::{Lab, Spec};
use isobar_tests::prng::Seed;
use isobar_tests::script::{Kind, Verdict};
use isobar_topologies::Error;
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};

fn text_of<'a>(row: &'a Row, column: &str) -> &'a str {
    match &row[column] {
        Value::Text(text) => text,
        other => panic!("{column} is {other:?}"),
    }
}

/// The quarantine's row for an offset of a partition.
fn rejected_at(quarantine: &Table, partition: i64, offset: i64) -> &Row {
    let at = |row: &&Row| row["partition"] == Value::Int(partition) && row["offset"] == Value::Int(offset);
    quarantine.rows().find(at).unwrap_or_else(|| panic!("{partition}, {offset} is not in the quarantine"))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_bad_payload_is_quarantined_with_its_reason_and_its_neighbours_survive() {
    let lab = Lab::in_memory();
    let bad: Vec<Record> = bad_payloads()
        .into_iter()
        .map(|(_, payload, reason)| Record::bad(payload.as_deref(), reason))
        .collect();
    // Each between two good ones, all in one partition.
    let mut id = 0;
    let mut good = || {
        id += 1;
        Record::of(Event::plain(id))
    };
    let between: Vec<Record> = bad.iter().flat_map(|bad| [good(), bad.clone(), good()]).collect();
    lab.produce_to(TOPIC, between.into_iter().map(|record| (0, record)));
    // All in a row, so that halves of objects meet.
    lab.produce_to(TOPIC, bad.iter().map(|record| (1, record.clone())));
    lab.run_until_caught_up(&lab.features()).await.unwrap();
    lab.assert_whole_and_equal().await;

    let (features, quarantine) = lab.tables(&lab.clouds[0], events::FEATURES).await;
    assert_eq!(features.rows().count(), 2 * bad.len());
    assert_eq!(quarantine.rows().count(), 2 * bad.len());
    for (offset, (what, payload, reason)) in bad_payloads().into_iter().enumerate() {
        let row = rejected_at(&quarantine, 1, offset as i64);
        assert_eq!(text_of(row, "reason"), reason, "{what}");
        assert_eq!(row["payload"], payload.map_or(Value::Null, Value::Bytes), "{what}");
        assert_eq!(
            (&row["topic"], &row["key"]),
            (&Value::from(TOPIC), &Value::Bytes(b"bad".to_vec())),
            "{what}"
        );
        assert_eq!(row["timestamp"], Value::Micros(1_400_000_000_000_000), "{what}");
        assert!(text_of(row, "message").len() > 5, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_fields_are_left_out_where_the_spec_says_so() {
    let lab = Lab::in_memory();
    let source =
        events::SOURCE.replace("    format: json\n", "    format: json\n    unknown_fields: ignore\n");
    let with = |unknown: &str| format!(r#"{{"id":1,"amount":2.5,{unknown}}}"#);
    let nested = |depth: usize| format!(r#""x":{}1{}"#, "[".repeat(depth), "]".repeat(depth));
    let good = [
        r#""colour":"red""#.to_owned(),
        r#""Id":7"#.to_owned(),
        r#""x":{"id":99,"amount":"no"}"#.to_owned(),
        r#""x":null,"y":[1,{"z":[]}],"":0"#.to_owned(),
        nested(60),
    ];
    let bad = [nested(100), nested(200_000), r#""x":{"#.to_owned(), r#""x":tru"#.to_owned()];
    for unknown in &good {
        let event = Event {
            amount: Some(2.5),
            ..Event { city: None, items: None, flag: None, at_micros: None, ..Event::plain(1) }
        };
        let content = Content::Event(event);
        lab.produce(
            TOPIC,
            [Record { key: None, payload: Some(with(unknown).into_bytes()), timestamp_ms: 1, content }],
        );
    }
    for unknown in &bad {
        lab.produce(TOPIC, [Record::bad(Some(with(unknown).as_bytes()), "undecodable")]);
    }
    lab.run_until_caught_up(&lab.spec(&source, events::FEATURES_YAML).resolved()).await.unwrap();
    lab.assert_features_complete().await;
    let (features, quarantine) = lab.tables(&lab.clouds[0], events::FEATURES).await;
    assert_eq!((features.rows().count(), quarantine.rows().count()), (good.len(), bad.len()));
}

#[tokio::test(flavor = "multi_thread")]
async fn deep_nesting_does_not_end_the_process() {
    let lab = Lab::in_memory();
    for open in ["[", "{\"id\":", "{\"id\":[", "[{\"a\":"] {
        let payload = open.repeat(100_000);
        let reason = if open.starts_with('{') { "wrong_type" } else { "undecodable" };
        lab.produce(TOPIC, [Record::bad(Some(payload.as_bytes()), reason), Record::of(Event::plain(1))]);
    }
    lab.run_until_caught_up(&lab.features()).await.unwrap();
    lab.assert_features_complete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payload_over_the_limit_is_quarantined_whole() {
    let lab = Lab::in_memory();
    // Beyond what a producer sends by default; the embedded broker keeps one such batch per partition.
    let producer: ThreadedProducer<DefaultProducerContext> = ClientConfig::new()
        .set("bootstrap.servers", lab.broker.bootstrap_servers())
        .set("message.max.bytes", "40000000")
        .set("compression.type", "none")
        .create()
        .unwrap();
    let payload = format!(r#"{{"id":1,"city":"{}"}}"#, "x".repeat(17 << 20));
    producer
        .send(
            BaseRecord::<[u8], [u8]>::to(TOPIC)
                .partition(3)
                .key(b"big")
                .payload(payload.as_bytes())
                .timestamp(5),
        )
        .map_err(|(error, _)| error)
        .unwrap();
    producer.flush(Duration::from_secs(120)).unwrap();
    lab.produce_to(TOPIC, (0..100).map(|id| (0, Record::of(Event::plain(id)))));
    lab.run_until_caught_up(&lab.features()).await.unwrap();
    let (features, quarantine) = lab.tables(&lab.clouds[0], events::FEATURES).await;
    assert_eq!(features.rows().count(), 100);
    let row = rejected_at(&quarantine, 3, 0);
    assert_eq!(text_of(row, "reason"), "oversize");
    assert!(row["payload"] == Value::Bytes(payload.into_bytes()), "the payload is kept whole");
    lab.assert_proved().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_of_nothing_but_garbage_moves_the_positions_and_loses_nothing() {
    let seed = Seed::of("garbage");
    let mut prng = seed.prng();
    let lab = Lab::in_memory();
    let records: Vec<Record> = (0..3000)
        .map(|_| {
            // The high bit of the first byte is set: never UTF-8 by itself, never JSON.
            let length = 1 + prng.index(60);
            let mut payload = prng.bytes(length);
            payload[0] |= 0x80;
            Record::bad(Some(&payload), "undecodable")
        })
        .collect();
    lab.produce(TOPIC, records);
    lab.run_until_caught_up(&lab.features()).await.unwrap();
    lab.assert_whole_and_equal().await;
    let (features, quarantine) = lab.tables(&lab.clouds[0], events::FEATURES).await;
    assert_eq!((features.rows().count(), quarantine.rows().count()), (0, 3000));
    assert!(features.files.is_empty(), "no empty files");
    // And it does not begin again.
    lab.run_until_caught_up(&lab.features()).await.unwrap();
    lab.assert_features_complete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_of_which_everything_is_dropped_or_filtered_moves_the_positions() {
    let lab = Lab::in_memory();
    let dropped = (0..200).map(|id| Record::of(Event { flag: Some(false), ..Event::plain(id) }));
    let filtered = (200..400).map(|id| Record::of(Event { items: Some(-1), ..Event::plain(id) }));
    lab.produce(TOPIC, dropped.chain(filtered));
    lab.run_until_caught_up(&lab.features()).await.unwrap();
    lab.assert_features_complete().await;
    let (features, quarantine) = lab.tables(&lab.clouds[0], events::FEATURES).await;
    assert_eq!((features.files.len(), quarantine.files.len()), (0, 0));
    assert_eq!(features.log.counts().dropped["flagged"], 200);
    assert_eq!(features.log.counts().filtered, 200);
    lab.assert_proved().await;
}

/// SQL that fails on some rows: on text that is no number, and on zero.
const RISKY: &str = "  features:
    from: events
    sql: |
      SELECT id, CAST(city AS INT) AS number, 100 / items AS share,
             _partition AS kafka_partition, _offset AS kafka_offset
      FROM events
    expect:
      - { name: share_small, check: \"1000 / (items - 5) < 400\", action: drop }
";

fn risky(event: &Event) -> Fate {
    let items = event.items;
    match items {
        Some(5) => return Fate::by_rule("sql_error"),
        Some(items) if 1000 / (items - 5) >= 400 => return Fate::Dropped("share_small"),
        _ => {}
    }
    let number = match event.city.as_deref().map(str::parse::<i32>) {
        Some(Err(_)) => return Fate::by_rule("sql_error"),
        Some(Ok(number)) => Value::Int(number.into()),
        None => Value::Null,
    };
    let share = match items {
        Some(0) => return Fate::by_rule("sql_error"),
        Some(items) => Value::Int((100 / items).into()),
        None => Value::Null,
    };
    let row = [("id", Value::Int(event.id)), ("number", number), ("share", share)];
    Fate::Row { row: row.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(), warned: None }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_sql_fails_on_are_quarantined_one_by_one() {
    let seed = Seed::of("sql_errors");
    let mut prng = seed.prng();
    let cities =
        [Some("12"), Some("-7"), Some("abc"), Some(""), Some("3000000000"), None, Some("5"), Some("6")];
    let events = (0..1500).map(|id| Event {
        city: prng.pick(&cities).map(str::to_owned),
        items: prng.chance(90).then(|| prng.below(9) as i32),
        ..Event::plain(id)
    });
    let lab = Lab::in_memory();
    lab.produce(TOPIC, events.map(Record::of).collect::<Vec<_>>());
    lab.run_until_caught_up(&lab.spec(events::SOURCE, RISKY).resolved()).await.unwrap();
    for cloud in &lab.clouds {
        let (dataset, quarantine) = lab.tables(cloud, events::FEATURES).await;
        lab.ledger().assert_complete(TOPIC, risky, &dataset, &quarantine);
    }
    lab.assert_trees_equal().await;
    lab.assert_proved().await;
}

/// A dataset that must not go on behind a negative number of items.
const STRICT: &str = "  features:
    from: events
    sql: |
      SELECT id, _partition AS kafka_partition, _offset AS kafka_offset FROM events
    expect:
      - { name: never_negative, check: \"items >= 0\", action: fail }
";

fn strict(event: &Event) -> Fate {
    Fate::Row { row: Row::from([("id".to_owned(), Value::Int(event.id))]), warned: None }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expectation_with_the_action_fail_stops_before_its_record_and_again_after_a_restart() {
    let lab = Lab::in_memory();
    let topology = lab.spec(events::SOURCE, STRICT).resolved();
    lab.produce_to(TOPIC, (0..100).map(|id| (0, Record::of(Event::plain(id)))));
    lab.run_until_caught_up(&topology).await.unwrap();
    lab.produce_to(TOPIC, (100..150).map(|id| (0, Record::of(Event::plain(id)))));
    lab.produce_to(TOPIC, [(0, Record::of(Event { items: Some(-1), ..Event::plain(150) }))]);
    lab.produce_to(TOPIC, (151..200).map(|id| (0, Record::of(Event::plain(id)))));
    for _ in 0..2 {
        let error = lab.run_until_caught_up(&topology).await.unwrap_err();
        let Error::ExpectationFailed { dataset, rule, record } = &error else { panic!("{error:?}") };
        assert_eq!((dataset.as_str(), rule.as_str()), ("features", "never_negative"));
        assert!(record.contains("events[0]") && record.contains("150"), "{record}");
        assert_eq!(error.exit_code(), 1);
        for cloud in &lab.clouds {
            let (dataset, quarantine) = lab.tables(cloud, events::FEATURES).await;
            lab.ledger().assert_right(TOPIC, strict, &dataset, &quarantine);
            let position = dataset.log.positions()[&0];
            assert!((100..=150).contains(&position), "{position} is beyond the record that failed");
        }
        lab.assert_proved().await;
    }
    // With the rule taken away it goes on, and nothing was lost or doubled.
    let lenient = STRICT.replace("action: fail", "action: warn");
    lab.run_until_caught_up(&lab.spec(events::SOURCE, &lenient).resolved()).await.unwrap();
    let (dataset, _) = lab.tables(&lab.clouds[0], events::FEATURES).await;
    assert_eq!(dataset.rows().count(), 200);
    assert_eq!(dataset.log.counts().warned["never_negative"], 1);
    lab.assert_proved().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_and_good_records_in_random_order_add_up_in_every_commit() {
    let seed = Seed::of("adding_up");
    let mut prng = seed.prng();
    let lab = Lab::in_memory();
    let topology = lab.features();
    let running = lab.start(&topology);
    let mut records = Generator::mixed(prng.fork());
    for _ in 0..6 {
        let count = 1 + prng.index(300);
        let batch: Vec<(i32, Record)> =
            records.records(count).into_iter().map(|record| (prng.below(4) as i32, record)).collect();
        lab.produce_to(TOPIC, batch);
        lab.wait_until_committed(&running).await;
    }
    running.stop().await.unwrap();
    lab.assert_whole_and_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncated_topic_is_a_hard_stop_even_if_only_its_name_is_known() {
    let lab = Lab::in_memory();
    let mut spec = lab.spec(events::SOURCE, events::FEATURES_YAML);
    spec.kafka = "  cluster_id: fixed\n  topic_identity: name\n".into();
    lab.produce(TOPIC, (0..50).map(|id| Record::of(Event::plain(id))));
    lab.run_until_caught_up(&spec.resolved()).await.unwrap();
    let other = EmbeddedBroker::start(&[(TOPIC, 4)]).unwrap();
    spec.brokers = other.bootstrap_servers();
    let error = lab.run_until_caught_up(&spec.resolved()).await.unwrap_err();
    assert!(
        matches!(&error, Error::Gap(text) if text.contains("events[0]") && text.contains("ends at 0")),
        "{error:?}"
    );
    lab.assert_features_complete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_that_overtakes_the_reader_is_a_hard_stop_that_names_what_is_gone() {
    let seed = Seed::of("retention");
    let mut prng = seed.prng();
    let lab = Lab::in_memory();
    let topology = lab.features();
    lab.produce_to(TOPIC, (0..20).map(|id| (2, Record::of(Event::plain(id)))));
    lab.run_until_caught_up(&topology).await.unwrap();
    // More than the embedded broker keeps of a partition.
    for _ in 0..16 {
        let payload = prng.bytes(500_000);
        lab.produce_to(TOPIC, [(2, Record::bad(Some(&payload), "undecodable"))]);
    }
    let error = lab.run_until_caught_up(&topology).await.unwrap_err();
    let Error::Gap(text) = &error else { panic!("{error:?}") };
    assert!(text.contains("events[2]") && text.contains("offsets 20 to"), "{text}");
    lab.assert_features_right().await;
    lab.assert_proved().await;
}

/// The table's schema is known from the version that describes it: as long as no cloud gives that, nothing may be written.
#[tokio::test(flavor = "multi_thread")]
async fn a_changed_schema_is_refused_although_the_first_version_is_hard_to_read() {
    let seed = Seed::of("changed_schema");
    let lab = Lab::in_memory();
    lab.produce(TOPIC, Generator::mixed(seed.prng()).records(50));
    lab.run_until_caught_up(&lab.features()).await.unwrap();
    let changed = events::FEATURES_YAML.replace("items > 10 AS many", "CAST(items > 10 AS INT) AS many");
    assert_ne!(changed, events::FEATURES_YAML);
    let changed = lab.spec(events::SOURCE, &changed).resolved();
    let first_version = format!("datasets/{}/_delta_log/{:020}.json", events::FEATURES, 0);
    for refusals_max in [6, u64::MAX] {
        let (refusals, path) = (AtomicU64::new(0), first_version.clone());
        lab.script.set(move |request| {
            let is_look = request.kind == Kind::Read && request.path == path;
            match is_look && refusals.fetch_add(1, Ordering::Relaxed) < refusals_max {
                true => Verdict::Refuse,
                false => Verdict::Pass,
            }
        });
        let refused = lab.run_until_caught_up(&changed).await;
        match (refused, refusals_max) {
            (Err(Error::Configuration(what)), 6) => assert!(what.contains("another shape"), "{what}"),
            (Err(error @ Error::NoMajority { .. }), u64::MAX) => {
                let text = error.to_string();
                assert!(text.contains("schema") && text.contains("aws"), "{text}");
            }
            (refused, _) => panic!("{refused:?}"),
        }
    }
    lab.script.clear();
    lab.run_until_caught_up(&lab.features()).await.unwrap();
    lab.assert_features_complete().await;
}

/// A roll-out that breaks the records of a topic must not fill the quarantine.
#[tokio::test(flavor = "multi_thread")]
async fn more_bad_records_than_may_be_stop_the_topology_before_they_are_committed() {
    let lab = Lab::in_memory();
    let limited = |fail_above: &str| {
        let limits = format!("    limits: {{ undecodable: {{ fail_above: {fail_above} }} }}\n");
        let datasets = format!("{}{limits}", events::FEATURES_YAML);
        // All that is there in one batch.
        Spec { commit: "{ interval: 10m, size: 256MiB }".into(), ..lab.spec(events::SOURCE, &datasets) }
            .resolved()
    };
    let good = |ids: std::ops::Range<i64>| ids.map(|id| Record::of(Event::plain(id)));
    let bad = |records: usize| (0..records).map(|_| Record::bad(Some(b"{"), "undecodable"));
    // One in five at most.
    lab.produce(TOPIC, good(0..320).chain(bad(80)));
    lab.run_until_caught_up(&limited("20%")).await.unwrap();
    let before = lab.versions(events::FEATURES).await;
    lab.produce(TOPIC, good(320..420).chain(bad(300)));
    // Whoever starts meets the same records.
    for _ in 0..2 {
        let error = lab.run_until_caught_up(&limited("20%")).await.unwrap_err();
        match error {
            Error::RateAbove { dataset, rule, missed: 300, records: 400, .. } => {
                assert_eq!((dataset.as_str(), rule.as_str()), (events::FEATURES, "undecodable"));
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(lab.versions(events::FEATURES).await, before, "nothing of it was committed");
    // The limit is raised, so all of them land where they belong.
    lab.run_until_caught_up(&limited("80%")).await.unwrap();
    lab.assert_features_complete().await;
    lab.assert_proved().await;
}
