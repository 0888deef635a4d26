//! Offsets that Kafka lost: a hard stop, until a person accepts the gap, and then a part of the history for ever.

use std::time::Duration;

use isobar_connectors::kafka::{KafkaCluster, KafkaConfig, ProducedRecord};
use isobar_schemas::TopicPartition;
use isobar_tests::delta::Log;
use isobar_tests::events::{FEATURES, Generator, TOPIC};
use isobar_tests::lab::{Lab, start_producer};
use isobar_tests::prng::Seed;
use isobar_topologies::Error;
use isobar_topologies::gap::{self, GapRequest};
use isobar_topologies::prove::Style;

const REASON: &str = "retention during the outage of 3 May";

/// Produces more to a partition than the embedded broker keeps; the first offset that it still has.
pub(crate) async fn overrun(lab: &Lab, partition: i32) -> i64 {
    let producer = start_producer(&lab.broker);
    let payload = vec![b'x'; 100_000];
    for _ in 0..100 {
        let record =
            ProducedRecord { topic: TOPIC, partition, payload: Some(&payload), ..Default::default() };
        producer.produce(record).unwrap();
    }
    producer.flush(Duration::from_secs(120)).unwrap();
    let config = KafkaConfig::new([lab.broker.bootstrap_servers()], "test");
    let cluster = KafkaCluster::new(&config, Duration::from_secs(60)).unwrap();
    let partition = TopicPartition::new(TOPIC, partition);
    cluster.watermarks(std::slice::from_ref(&partition)).await.unwrap()[&partition].low
}

#[tokio::test(flavor = "multi_thread")]
async fn offsets_that_retention_took_stop_the_topology_until_the_gap_is_accepted() {
    let seed = Seed::of("accepted_gap");
    let lab = Lab::in_memory();
    let topology = lab.features();
    lab.produce(TOPIC, Generator::mixed(seed.prng()).records(200));
    lab.run_until_caught_up(&topology).await.unwrap();
    let low = overrun(&lab, 1).await;
    assert!(low > 50, "the broker keeps less than was produced");
    let Error::Gap(text) = lab.run_until_caught_up(&topology).await.unwrap_err() else { panic!("no gap") };
    assert!(text.contains(&format!("offsets 50 to {low} are gone")) && text.contains("accept-gap"), "{text}");

    let right =
        GapRequest { partition: TopicPartition::new(TOPIC, 1), from: 50, to: low, reason: REASON.to_owned() };
    let wrong = [
        (GapRequest { from: 49, ..right.clone() }, "stands at 50"),
        (GapRequest { from: 51, ..right.clone() }, "stands at 50"),
        (GapRequest { to: low - 1, ..right.clone() }, "cannot go on at"),
        (GapRequest { to: 1_000_000, ..right.clone() }, "cannot go on at"),
        (GapRequest { to: 50, ..right.clone() }, "no offset"),
        (GapRequest { partition: TopicPartition::new(TOPIC, 9), ..right.clone() }, "no source"),
        (GapRequest { reason: " ".into(), ..right.clone() }, "reason"),
    ];
    let versions = lab.versions(FEATURES).await;
    for (request, problem) in wrong {
        let error = gap::accept(&topology, &request).await.unwrap_err();
        assert!(error.exit_code() == 2 && error.to_string().contains(problem), "{problem}: {error}");
    }
    assert_eq!(lab.versions(FEATURES).await, versions, "what is refused leaves no trace in a table");

    let accepted = gap::accept(&topology, &right).await.unwrap();
    assert_eq!(accepted.datasets, [FEATURES]);
    lab.run_until_caught_up(&topology).await.unwrap();
    lab.wait_until_equal(FEATURES).await;
    lab.assert_trees_equal().await;
    let log = Log::read(&*lab.clouds[0].store(), FEATURES).await;
    assert_eq!(log.positions()[&1], 150, "everything that is left is read");

    let proof = lab.proof().await;
    assert!(proof.holds(), "{}", proof.to_text(Style { rich: false }));
    let features = proof.tables.iter().find(|table| table.table == FEATURES).unwrap();
    let gaps: Vec<_> = features.partitions.iter().flat_map(|partition| &partition.accepted_gaps).collect();
    let [found] = gaps[..] else { panic!("{gaps:?}") };
    assert_eq!((found.from, found.to, &*found.reason), (50, low, REASON));
    assert!(proof.to_text(Style { rich: false }).contains(REASON));

    let again = gap::accept(&topology, &right).await.unwrap_err();
    assert!(again.to_string().contains("past offset"), "{again}");
}
