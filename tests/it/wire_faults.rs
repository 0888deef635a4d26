//! What the real clients, and the registers, the probe and the copies above them, make of each fault at the wire.
//!
//! Each fault meets each kind of cloud within the process and over TCP, at the same time, so that the time-outs of the
//! control client (three seconds) are waited for once.

use std::sync::Arc;
use std::time::Duration;

use axum::http::Method;
use bytes::Bytes;
use futures::future::join_all;
use isobar_connectors::clouds::{Cloud, Probe, PutOnce, probe, put_once, read_register};
use isobar_connectors::copy::copy_file;
use isobar_tests::wire::{Fault, Protocol, Rule, Server, Simulator};
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use sha2::{Digest, Sha256};

use crate::wire::over_tcp;

const VALUE: &str = "a value that is long enough to be cut in two";

/// A cloud with nothing in it, and what to call it.
struct Place {
    name: String,
    protocol: Protocol,
    simulator: Arc<Simulator>,
    cloud: Cloud,
    _server: Option<Server>,
}

impl Place {
    /// One of each kind, within the process and over TCP.
    async fn all() -> Vec<Self> {
        let mut places = Vec::new();
        for protocol in Protocol::ALL {
            let (simulator, server, cloud) = over_tcp(protocol).await;
            let name = format!("{protocol} over tcp");
            places.push(Self { name, protocol, simulator, cloud, _server: Some(server) });
            let simulator = Simulator::new(1);
            let cloud = simulator.cloud(protocol, "p");
            let name = format!("{protocol} within");
            places.push(Self { name, protocol, simulator, cloud, _server: None });
        }
        places
    }

    /// The object whose key ends so, as it lies there.
    fn stored(&self, key: &str) -> Option<Bytes> {
        let keys = self.simulator.keys(self.protocol);
        let key = keys.iter().find(|stored| stored.ends_with(key))?;
        self.simulator.object(self.protocol, key)
    }

    async fn put_once(&self, value: &'static str) -> PutOnce {
        put_once(&*self.cloud.control, &Path::from("key"), Bytes::from(value)).await
    }
}

/// Runs `check` with every fault in every place, all at once.
async fn everywhere<F: Future<Output = ()>>(
    faults: impl IntoIterator<Item = Fault>,
    check: impl Fn(Fault, Place) -> F,
) {
    let mut checks = Vec::new();
    for fault in faults {
        checks.extend(Place::all().await.into_iter().map(|place| check(fault, place)));
    }
    assert!(!checks.is_empty());
    join_all(checks).await;
}

/// Faults after which nothing is stored, and the writer does not know.
const NOTHING_STORED: [Fault; 8] = [
    Fault::ErrorBefore,
    Fault::DropBefore,
    Fault::HangBefore,
    Fault::Conflict,
    Fault::PreconditionFailed,
    Fault::CredentialsExpired,
    Fault::CredentialsRefused,
    Fault::SlowDown(1),
];

/// Faults after which a write is stored, and its writer does not know.
const STORED_UNHEARD: [Fault; 3] = [Fault::ErrorAfter, Fault::DropAfter, Fault::HangAfter];

/// Faults that let a write through and spoil at most its answer, in which nothing matters.
const ANSWERED: [Fault; 5] = [
    Fault::Delay(Duration::from_millis(50)),
    Fault::TruncateBody,
    Fault::ShortenBody,
    Fault::FlipBit,
    Fault::Slow(1 << 10),
];

/// Faults with which a request does not get the answer that is due, whether it is carried out, is not, or is later.
fn without_an_answer() -> impl Iterator<Item = Fault> {
    NOTHING_STORED.into_iter().chain(STORED_UNHEARD).chain([Fault::HoldBack])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_was_not_carried_out_is_unknown_and_its_repetition_is_stored() {
    everywhere(NOTHING_STORED, async |fault, place| {
        let about = format!("{} {fault:?}", place.name);
        place.simulator.faults().set(Rule::new(fault).method(Method::PUT).times(1));
        let answer = place.put_once(VALUE).await;
        assert!(matches!(answer, PutOnce::Unknown(_)), "{about}: {answer:?}");
        assert_eq!(place.stored("key"), None, "{about}");
        assert_eq!(place.simulator.faults().hits(), 1, "{about}: the control client must not repeat");
        let answer = place.put_once(VALUE).await;
        assert!(matches!(answer, PutOnce::Stored), "{about}: {answer:?}");
        assert_eq!(place.stored("key").unwrap(), VALUE, "{about}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_was_carried_out_is_recognised_whatever_was_answered() {
    everywhere(STORED_UNHEARD.into_iter().chain(ANSWERED), async |fault, place| {
        let about = format!("{} {fault:?}", place.name);
        place.simulator.faults().set(Rule::new(fault).method(Method::PUT).times(1));
        let answer = place.put_once(VALUE).await;
        assert!(matches!(answer, PutOnce::Stored), "{about}: {answer:?}");
        assert_eq!(place.stored("key").unwrap(), VALUE, "{about}");
        assert_eq!(place.simulator.faults().hits(), 1, "{about}: the control client must not repeat");
        let answer = place.put_once("another value").await;
        assert!(matches!(&answer, PutOnce::Occupied(held) if held == VALUE), "{about}: {answer:?}");
    })
    .await;
}

/// The write is under way while its writer has given up and read that nothing is there.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_lands_late_is_found_by_its_repetition_or_by_a_rival() {
    everywhere([Fault::HoldBack], async |fault, place| {
        let about = &place.name;
        place.simulator.faults().set(Rule::new(fault).method(Method::PUT).times(1));
        let answer = place.put_once(VALUE).await;
        assert!(matches!(answer, PutOnce::Unknown(_)), "{about}: {answer:?}");
        assert_eq!(place.stored("key"), None, "{about}: it must not be there yet");
        assert_eq!(place.simulator.carry_out_late(), 1, "{about}");
        assert_eq!(place.stored("key").unwrap(), VALUE, "{about}");
        let answer = place.put_once("a rival's value").await;
        assert!(matches!(&answer, PutOnce::Occupied(held) if held == VALUE), "{about}: {answer:?}");
        let answer = place.put_once(VALUE).await;
        assert!(matches!(answer, PutOnce::Stored), "{about}: {answer:?}");
    })
    .await;
}

/// The register does its work: the write that comes late finds the key taken.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_lands_late_does_not_replace_what_a_rival_stored_meanwhile() {
    everywhere([Fault::HoldBack], async |fault, place| {
        let about = &place.name;
        place.simulator.faults().set(Rule::new(fault).method(Method::PUT).times(1));
        let late = place.put_once(VALUE).await;
        assert!(matches!(late, PutOnce::Unknown(_)), "{about}: {late:?}");
        let rival = place.put_once("a rival's value").await;
        assert!(matches!(rival, PutOnce::Stored), "{about}: {rival:?}");
        assert_eq!(place.stored("key").unwrap(), "a rival's value", "{about}");
        assert_eq!(place.simulator.carry_out_late(), 1, "{about}");
        assert_eq!(place.stored("key").unwrap(), "a rival's value", "{about}");
    })
    .await;
}

/// A late write without a condition does replace what was stored meanwhile; data files have names of their own.
#[tokio::test(flavor = "multi_thread")]
async fn a_late_write_is_lost_only_to_its_condition() {
    let simulator = Simulator::new(1);
    let cloud = simulator.cloud(Protocol::S3, "p");
    let rules = Rule::new(Fault::HoldBack).method(Method::PUT).times(1);
    simulator.faults().set(rules);
    let late = cloud.control.put(&Path::from("key"), VALUE.into()).await;
    assert!(late.is_err());
    cloud.control.put(&Path::from("key"), "newer".into()).await.unwrap();
    assert_eq!(simulator.object(Protocol::S3, "p/key").unwrap(), "newer");
    assert_eq!(simulator.carry_out_late(), 1);
    assert_eq!(simulator.object(Protocol::S3, "p/key").unwrap(), VALUE);
}

/// Why no answer but success is believed.
#[tokio::test(flavor = "multi_thread")]
async fn the_clients_themselves_report_what_is_not_so() {
    everywhere([Fault::Conflict, Fault::ErrorAfter], async |fault, place| {
        let about = format!("{} {fault:?}", place.name);
        let key = Path::from("key");
        let create = || place.cloud.control.put_opts(&key, VALUE.into(), PutMode::Create.into());
        place.simulator.faults().set(Rule::new(fault).method(Method::PUT).times(1));
        let first = create().await.unwrap_err();
        if fault == Fault::Conflict {
            assert!(matches!(first, Error::AlreadyExists { .. }), "{about}: {first:?}");
            assert_eq!(place.stored("key"), None, "{about}: nothing exists");
            return;
        }
        assert!(matches!(first, Error::Generic { .. }), "{about}: {first:?}");
        let again = create().await.unwrap_err();
        assert!(matches!(again, Error::AlreadyExists { .. }), "{about}: {again:?}");
        assert_eq!(place.stored("key").unwrap(), VALUE, "{about}: it was our own");
    })
    .await;
}

/// The patient client repeats by itself, and then meets its own write.
#[tokio::test(flavor = "multi_thread")]
async fn the_data_client_reports_its_own_create_as_another_s() {
    everywhere([Fault::ErrorAfter, Fault::DropAfter], async |fault, place| {
        let about = format!("{} {fault:?}", place.name);
        place.simulator.faults().set(Rule::new(fault).method(Method::PUT).times(1));
        let options = PutOptions::from(PutMode::Create);
        let answer = place.cloud.data.put_opts(&Path::from("key"), VALUE.into(), options).await;
        assert!(matches!(answer, Err(Error::AlreadyExists { .. })), "{about}: {answer:?}");
        assert_eq!(place.stored("key").unwrap(), VALUE, "{about}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_fails_is_an_error_and_never_an_absence() {
    // The last one: the value takes longer than the client waits.
    let faults = without_an_answer().chain([Fault::TruncateBody, Fault::Slow(8)]);
    everywhere(faults, async |fault, place| {
        let about = format!("{} {fault:?}", place.name);
        let key = Path::from("key");
        let read = || read_register(&*place.cloud.control, &key, 1 << 10);
        assert!(matches!(place.put_once(VALUE).await, PutOnce::Stored), "{about}");
        place.simulator.faults().set(Rule::new(fault).method(Method::GET).times(1));
        let failed = read().await;
        assert!(failed.is_err(), "{about}: {failed:?}");
        assert_eq!(read().await.unwrap().unwrap(), VALUE, "{about}");
        // The same for a writer that has to look because its answer was lost.
        place.simulator.faults().set(Rule::new(fault).method(Method::GET).times(1));
        let answer = place.put_once("another value").await;
        assert!(matches!(answer, PutOnce::Unknown(_)), "{about}: {answer:?}");
    })
    .await;
}

/// What no client can see, because the answer is well formed: only a digest from elsewhere helps, which the log has for
/// data files and for bodies. TLS keeps it from happening on the way; it remains possible in a store.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_lies_is_taken_for_the_value() {
    everywhere([Fault::ShortenBody, Fault::FlipBit], async |fault, place| {
        let about = format!("{} {fault:?}", place.name);
        assert!(matches!(place.put_once(VALUE).await, PutOnce::Stored), "{about}");
        place.simulator.faults().set(Rule::new(fault).method(Method::GET).times(1));
        let held = read_register(&*place.cloud.control, &Path::from("key"), 1 << 10).await.unwrap();
        assert_ne!(held.unwrap(), VALUE, "{about}");
        place.simulator.faults().set(Rule::new(fault).method(Method::GET).times(1));
        let answer = place.put_once(VALUE).await;
        assert!(matches!(&answer, PutOnce::Occupied(held) if held != VALUE), "{about}: {answer:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_probe_tells_bad_luck_from_wrong_credentials() {
    everywhere(without_an_answer(), async |fault, place| {
        // Reading and cleaning up are spared, so that it is over soon.
        place.simulator.faults().set(Rule::new(fault).method(Method::PUT));
        let found = probe(&*place.cloud.control, &Path::from("probe")).await;
        let is_denied = match fault {
            Fault::CredentialsRefused => true,
            // S3 says so with 400, which the client does not tell from any other error.
            Fault::CredentialsExpired => place.protocol != Protocol::S3,
            _ => false,
        };
        let is_as_due = match &found {
            Probe::Denied { .. } => is_denied,
            Probe::Unavailable(_) => !is_denied,
            Probe::Passed | Probe::Refused { .. } => false,
        };
        assert!(is_as_due, "{} {fault:?}: {found:?}", place.name);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_probe_passes_when_only_some_racers_are_turned_away() {
    everywhere([Fault::Conflict, Fault::ErrorAfter, Fault::DropBefore], async |fault, place| {
        place.simulator.faults().set(Rule::new(fault).key("race").method(Method::PUT).chance(50));
        let found = probe(&*place.cloud.control, &Path::from("probe")).await;
        assert!(matches!(found, Probe::Passed), "{} {fault:?}: {found:?}", place.name);
        assert!(place.simulator.faults().hits() > 0);
    })
    .await;
}

/// Content that is copied in parts.
const LARGE: usize = 9 << 20;
const SMALL: usize = 1000;

fn content(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at % 251) as u8).collect()
}

async fn fill(place: &Place, from: &[&Place], content: &[u8]) -> Result<(), isobar_connectors::Error> {
    let sources: Vec<Arc<dyn ObjectStore>> = from.iter().map(|place| place.cloud.data.clone()).collect();
    let sha256 = hex::encode(Sha256::digest(content));
    copy_file(&place.cloud.data, &sources, "d/f.parquet", content.len() as u64, &sha256).await
}

/// A place within the process that holds a file.
async fn holding(content: &[u8]) -> Place {
    let simulator = Simulator::new(1);
    let cloud = simulator.cloud(Protocol::Gcs, "p");
    cloud.data.put(&Path::from("d/f.parquet"), content.to_vec().into()).await.unwrap();
    Place { name: "source".to_owned(), protocol: Protocol::Gcs, simulator, cloud, _server: None }
}

/// The last write of a copy makes the file appear. The data client repeats it; where it cannot, because a completed
/// upload is gone, the copy fails and the next one finds the file.
async fn a_copy_whose_last_write_fails(fault: Fault, place: &Place, length: usize) {
    let about = format!("{} {fault:?} {length} bytes", place.name);
    let content = content(length);
    let source = holding(&content).await;
    // In parts: begin (not in Azure), two parts, complete.
    let writes_before = match place.protocol {
        _ if length == SMALL => 0,
        Protocol::Azure => 2,
        Protocol::S3 | Protocol::Gcs => 3,
    };
    let writes = Rule::new(fault).method(Method::PUT).method(Method::POST);
    place.simulator.faults().set(writes.after(writes_before).times(1));
    let first = fill(place, &[&source], &content).await;
    assert_eq!(place.simulator.faults().hits(), 1, "{about}");
    assert_eq!(first.is_err(), length == LARGE && fault != Fault::ErrorBefore, "{about}: {first:?}");
    fill(place, &[&source], &content).await.unwrap();
    assert!(place.stored("f.parquet").unwrap() == content, "{about}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_arrives_whole_although_the_answers_to_its_writes_are_lost() {
    for fault in [Fault::ErrorAfter, Fault::DropAfter, Fault::ErrorBefore] {
        for place in Place::all().await {
            a_copy_whose_last_write_fails(fault, &place, SMALL).await;
            place.simulator.wipe(place.protocol);
            a_copy_whose_last_write_fails(fault, &place, LARGE).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_breaks_off_is_read_on_and_one_that_lies_is_passed_over() {
    let faults = [Fault::TruncateBody, Fault::DropAfter, Fault::ShortenBody, Fault::FlipBit];
    everywhere(faults, async |fault, place| {
        let about = format!("{} {fault:?}", place.name);
        let content = content(300_000);
        let (whole, target) = (holding(&content).await, holding(b"").await);
        target.simulator.wipe(target.protocol);
        place.cloud.data.put(&Path::from("d/f.parquet"), content.clone().into()).await.unwrap();
        let fail_once = || place.simulator.faults().set(Rule::new(fault).method(Method::GET).times(1));
        fail_once();
        if matches!(fault, Fault::ShortenBody | Fault::FlipBit) {
            assert!(fill(&target, &[&place], &content).await.is_err(), "{about}");
            assert_eq!(target.stored("f.parquet"), None, "{about}: nothing may appear");
            fail_once();
            fill(&target, &[&place, &whole], &content).await.unwrap();
        } else {
            fill(&target, &[&place], &content).await.unwrap();
        }
        assert_eq!(place.simulator.faults().hits(), 1, "{about}");
        assert!(target.stored("f.parquet").unwrap() == content, "{about}");
    })
    .await;
}
