//! The simulator of the three stores, through the clients that isobar uses, within the process and over TCP.

use futures::future::join_all;
use isobar_connectors::clouds::{self, Cloud, Probe, PutOnce, conformance, probe, put_once};
use isobar_tests::prng::Seed;
use isobar_tests::script::Script;
use isobar_tests::wire::{Event, Fault, Protocol, Rule, Server, Simulator, url};
use isobar_topologies::commit::format::{Claim, FORMAT, Keys, encode};
use isobar_topologies::commit::{Epoch, Group};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode, PutOptions, UpdateVersion};

/// A prefix that needs escaping everywhere.
const PREFIX: &str = "a prefix/ü";

/// A cloud of a new simulator over TCP.
pub(crate) async fn over_tcp(protocol: Protocol) -> (std::sync::Arc<Simulator>, Server, Cloud) {
    let simulator = Simulator::new(1);
    let server = simulator.serve(protocol, "127.0.0.1:0").await.unwrap();
    let options = protocol.options(Some(&server.address()));
    let cloud = clouds::open(&protocol.to_string(), &url(protocol, PREFIX), &options).unwrap();
    (simulator, server, cloud)
}

#[tokio::test]
async fn every_cloud_conforms_within_the_process() {
    for protocol in Protocol::ALL {
        let simulator = Simulator::new(1);
        conformance::run(&simulator.cloud(protocol, PREFIX), &Path::from("suite")).await;
        assert_eq!(simulator.keys(protocol), [""; 0], "{protocol}: something is left");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_cloud_conforms_over_tcp() {
    for protocol in Protocol::ALL {
        let (simulator, _server, cloud) = over_tcp(protocol).await;
        conformance::run(&cloud, &Path::from("suite")).await;
        assert_eq!(simulator.keys(protocol), [""; 0], "{protocol}: something is left");
    }
}

#[tokio::test]
async fn the_clouds_of_a_simulator_do_not_see_each_other() {
    let simulator = Simulator::new(1);
    let key = Path::from("key");
    for protocol in Protocol::ALL {
        let value = protocol.to_string();
        simulator.cloud(protocol, "p").data.put(&key, value.into()).await.unwrap();
    }
    for protocol in Protocol::ALL {
        assert_eq!(simulator.object(protocol, "p/key").unwrap(), protocol.to_string());
    }
    simulator.rot(Protocol::Azure, "p/key");
    simulator.wipe(Protocol::Gcs);
    assert_eq!(simulator.object(Protocol::S3, "p/key").unwrap(), "aws");
    assert_ne!(simulator.object(Protocol::Azure, "p/key").unwrap(), "azure");
    assert_eq!(simulator.object(Protocol::Gcs, "p/key"), None);
}

/// What the client makes of each store's own way to say that a condition does not hold.
#[tokio::test]
async fn conditions_hold_for_creates_and_updates() {
    for protocol in Protocol::ALL {
        let cloud = Simulator::new(1).cloud(protocol, PREFIX);
        let (store, key, absent) = (&cloud.control, Path::from("key"), Path::from("absent"));
        let first = store.put_opts(&key, "1".into(), PutOptions::from(PutMode::Create)).await.unwrap();
        let again = store.put_opts(&key, "2".into(), PutOptions::from(PutMode::Create)).await;
        assert!(matches!(again, Err(Error::AlreadyExists { .. })), "{protocol}: {again:?}");
        let update = |result| PutOptions::from(PutMode::Update(UpdateVersion::from(result)));
        let second = store.put_opts(&key, "2".into(), update(first.clone())).await.unwrap();
        let stale = store.put_opts(&key, "3".into(), update(first)).await;
        assert!(matches!(stale, Err(Error::Precondition { .. })), "{protocol}: {stale:?}");
        let gone = store.put_opts(&absent, "3".into(), update(second)).await;
        assert!(matches!(gone, Err(Error::Precondition { .. })), "{protocol}: {gone:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_ignores_preconditions_is_refused() {
    for protocol in Protocol::ALL {
        let (simulator, _server, tcp) = over_tcp(protocol).await;
        let within = simulator.cloud(protocol, PREFIX);
        for cloud in [&within, &tcp] {
            for (key, complaint) in [
                ("", "replaced an object that existed"),
                ("create", "replaced an object that existed"),
                ("update", "an outdated version succeeded"),
                ("race", "of 16 simultaneous conditional creates"),
            ] {
                simulator.faults().set(Rule::new(Fault::IgnorePreconditions).key(&format!("probe/{key}")));
                let found = probe(&*cloud.control, &Path::from("probe")).await;
                assert!(
                    matches!(&found, Probe::Refused { what } if what.contains(complaint)),
                    "{protocol} {key}: {found:?}"
                );
                assert!(simulator.faults().hits() > 0);
            }
            simulator.faults().clear();
            let found = probe(&*cloud.control, &Path::from("probe")).await;
            assert!(matches!(found, Probe::Passed), "{protocol}: {found:?}");
        }
    }
}

#[tokio::test]
async fn a_signature_of_another_key_is_refused() {
    for (protocol, option, other) in
        [(Protocol::S3, "secret_access_key", "another"), (Protocol::Azure, "account_key", "YW5vdGhlcg==")]
    {
        let simulator = Simulator::new(1);
        let mut options = protocol.options(None);
        options.insert(option.to_owned(), other.to_owned());
        let connector = std::sync::Arc::new(simulator.connector(protocol));
        let cloud = clouds::open_with("c", &url(protocol, "p"), &options, connector).unwrap();
        let found = probe(&*cloud.control, &Path::from("probe")).await;
        assert!(matches!(found, Probe::Denied { .. }), "{protocol}: {found:?}");
        assert!(simulator.events().iter().all(|event| event.status == Some(403)), "{protocol}");
    }
}

#[tokio::test]
async fn a_bucket_that_does_not_exist_is_reported_by_the_probe() {
    for protocol in Protocol::ALL {
        let simulator = Simulator::new(1);
        let connector = std::sync::Arc::new(simulator.connector(protocol));
        let elsewhere = format!("{}://no-such-bucket/p", protocol.scheme()).parse().unwrap();
        let cloud = clouds::open_with("c", &elsewhere, &protocol.options(None), connector).unwrap();
        let found = probe(&*cloud.control, &Path::from("probe")).await;
        assert!(
            matches!(&found, Probe::Denied { what } if what.contains("does not exist")),
            "{protocol}: {found:?}"
        );
    }
}

/// Requests in a fixed order under faults by chance, and everything that happened.
async fn a_run(seed: u64) -> Vec<Event> {
    let simulator = Simulator::new(seed);
    simulator.faults().add(Rule::new(Fault::ErrorAfter).chance(30));
    simulator.faults().add(Rule::new(Fault::DropBefore).on(Protocol::S3).chance(30));
    simulator.faults().add(Rule::new(Fault::Conflict).chance(20));
    for number in 0..20 {
        for protocol in Protocol::ALL {
            let key = Path::from(format!("{number}"));
            let _ = put_once(&*simulator.cloud(protocol, "p").control, &key, "value".into()).await;
        }
    }
    simulator.events()
}

#[tokio::test]
async fn the_same_seed_gives_the_same_events() {
    let (mut prng, mut others) = (Seed::of("wire_events").prng(), Vec::new());
    for _ in 0..5 {
        let seed = prng.next_u64();
        let events = a_run(seed).await;
        assert_eq!(events, a_run(seed).await);
        assert!(events.iter().any(|event| event.fault.is_some()));
        assert!(!others.contains(&events), "chance must depend on the seed");
        others.push(events);
    }
}

#[tokio::test]
async fn racing_writers_of_one_register_agree_whatever_answers_are_lost() {
    let mut prng = Seed::of("wire_race").prng();
    for protocol in Protocol::ALL {
        for _ in 0..20 {
            let simulator = Simulator::new(prng.next_u64());
            for fault in [Fault::ErrorBefore, Fault::ErrorAfter, Fault::DropAfter, Fault::Conflict] {
                simulator.faults().add(Rule::new(fault).chance(20));
            }
            let key = Path::from("key");
            let writers = (0..8).map(|writer| {
                let (cloud, key) = (simulator.cloud(protocol, "p"), key.clone());
                async move {
                    let mine = format!("writer {writer}");
                    loop {
                        match put_once(&*cloud.control, &key, mine.clone().into()).await {
                            PutOnce::Stored => return (true, mine.into()),
                            PutOnce::Occupied(held) => return (false, held),
                            PutOnce::Unknown(_) => {}
                        }
                    }
                }
            });
            let outcomes: Vec<(bool, bytes::Bytes)> = join_all(writers).await;
            let held = simulator.object(protocol, "p/key").unwrap();
            assert_eq!(outcomes.iter().filter(|(won, _)| *won).count(), 1, "{protocol}: {outcomes:?}");
            assert!(outcomes.iter().all(|(_, value)| *value == held), "{protocol}: {outcomes:?}");
        }
    }
}

/// Stores the claims of these epochs.
async fn store_claims(store: &dyn ObjectStore, epochs: impl Iterator<Item = u64>) {
    for epoch in epochs.map(Epoch) {
        let claim = Claim {
            format: FORMAT,
            epoch,
            incarnation: "i".to_owned(),
            holder: "a test".to_owned(),
            address: None,
        };
        store.put(&Keys::new("t").claim(epoch), encode(&claim).into()).await.unwrap();
    }
}

async fn newest_claim(cloud: &Cloud) -> Option<u64> {
    let claim = Group::new("t", vec![cloud.clone()]).newest_claim().await;
    claim.map(|claim| claim.epoch.0)
}

/// The requests for claims so far, listings and reads.
fn claim_reads(simulator: &Simulator, protocol: Protocol) -> (usize, usize) {
    let events = simulator.events();
    let reads = events.iter().filter(|it| it.protocol == protocol && it.method == "GET");
    let (listings, reads): (Vec<&Event>, Vec<&Event>) =
        reads.filter(|it| it.key.contains("/epoch/")).partition(|it| it.key.ends_with("/epoch/"));
    (listings.len(), reads.len())
}

#[tokio::test]
async fn the_newest_claim_is_found_in_one_page_or_among_many_pages_with_gaps() {
    for protocol in Protocol::ALL {
        let simulator = Simulator::new(1);
        let cloud = simulator.cloud(protocol, PREFIX);
        assert_eq!(newest_claim(&cloud).await, None, "{protocol}");
        store_claims(&*cloud.control, 1..=60).await;
        let before = claim_reads(&simulator, protocol);
        assert_eq!(newest_claim(&cloud).await, Some(60), "{protocol}");
        let after = claim_reads(&simulator, protocol);
        assert_eq!((after.0 - before.0, after.1 - before.1), (1, 1), "{protocol}: listings and reads");

        // The cloud was away for thousands of epochs, twice.
        store_claims(&*cloud.control, (2_000..2_900).chain(40_000..40_800)).await;
        assert_eq!(newest_claim(&cloud).await, Some(40_799), "{protocol}");
        store_claims(&*cloud.control, std::iter::once(1_000_000)).await;
        assert_eq!(newest_claim(&cloud).await, Some(1_000_000), "{protocol}");
    }
}

#[tokio::test]
async fn finding_the_newest_claim_takes_few_requests_however_many_there_are() {
    let store = std::sync::Arc::new(InMemory::new());
    let script = Script::default();
    let cloud = script.around(Cloud::new("aws", store.clone(), store.clone()));
    let mut stored = 0;
    for (epochs, requests_max) in [(999, 2), (5_000, 6), (50_000, 12)] {
        store_claims(&*store, stored + 1..=epochs).await;
        stored = epochs;
        let before = script.requests();
        assert_eq!(newest_claim(&cloud).await, Some(epochs));
        let requests = script.requests() - before;
        assert!(requests <= requests_max, "{requests} requests for {epochs} claims");
    }
}
