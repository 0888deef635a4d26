//! The same events in every format make the same rows; what cannot be decoded is in quarantine; and a registry that is
//! away holds up reading, never rows.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use isobar_tests::encode::{self, AvroEncoder, ProtobufEncoder};
use isobar_tests::events::{self, Content, Event, Generator, Record, TOPIC};
use isobar_tests::lab::{Lab, Running, TOPOLOGY, write_file};
use isobar_tests::prng::Seed;
use isobar_tests::wait::until;
use isobar_topologies::spec::Topology;
use object_store::ObjectStoreExt;
use object_store::path::Path as ObjectPath;

const RECORDS: usize = 2_000;

/// The topology of most tests, with these lines in place of `format: json`, and this registry.
fn topology(lab: &Lab, format: &str, registry: Option<&str>) -> Topology {
    let sources = events::SOURCE.replace("    format: json\n", format);
    let mut spec = lab.spec(&sources, events::FEATURES_YAML);
    spec.registry = registry.map(|url| format!("{{ url: \"{url}\" }}"));
    spec.resolved()
}

/// Events of every fate, encoded by `encode`; and after each twentieth its payload without the last byte, which is bad for
/// `reason`.
fn records(
    test: &'static str,
    reason: Option<&'static str>,
    encode: impl Fn(&Event) -> Vec<u8>,
) -> Vec<Record> {
    let mut all = Vec::new();
    for (number, record) in
        Generator::decodable(Seed::of(test).prng()).records(RECORDS).into_iter().enumerate()
    {
        let Content::Event(event) = &record.content else { continue };
        let payload = encode(event);
        if let Some(reason) = reason.filter(|_| number % 20 == 0) {
            all.push(Record::bad(Some(&payload[..payload.len() - 1]), reason));
        }
        all.push(Record { payload: Some(payload), ..record });
    }
    all
}

async fn assert_made_of(format: &str, records: impl FnOnce(&Lab) -> Vec<Record>) {
    let lab = Lab::in_memory();
    let records = records(&lab);
    lab.produce(TOPIC, records);
    lab.run_until_caught_up(&topology(&lab, format, None)).await.unwrap();
    lab.assert_features_right().await;
    lab.assert_whole_and_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn avro_with_a_given_schema() {
    assert_made_of("    format: avro\n    schema: ./event.avsc\n", |lab| {
        write_file(&lab.directory.path().join("event.avsc"), encode::AVRO);
        let encoder = AvroEncoder::new();
        records("formats_avro", Some("undecodable"), |event| encoder.encode(event))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn protobuf_with_a_given_schema() {
    assert_made_of("    format: protobuf\n    schema: ./event.proto\n    message: tests.Event\n", |lab| {
        write_file(&lab.directory.path().join("event.proto"), encode::PROTOBUF);
        let encoder = ProtobufEncoder::new(lab.directory.path());
        // Every field but the id may be absent, and so is one whose last byte is missing: no prefix of a record is
        // bad for one reason only.
        records("formats_protobuf", None, |event| encoder.encode(event))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn csv() {
    assert_made_of("    format: csv\n", |_| records("formats_csv", None, encode::csv_line)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn json_that_the_producer_compressed() {
    let json = |event: &Event| Record::of(event.clone()).payload.unwrap();
    assert_made_of("    format: json\n    payload_compression: gzip\n", |_| {
        records("formats_gzip", Some("undecodable"), |event| {
            let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            gzip.write_all(&json(event)).unwrap();
            gzip.finish().unwrap()
        })
    })
    .await;
    assert_made_of("    format: json\n    payload_compression: zstd\n", |_| {
        records("formats_zstd", Some("undecodable"), |event| zstd::encode_all(&json(event)[..], 1).unwrap())
    })
    .await;
}

/// A schema registry that has one schema, and answers when told to.
#[derive(Clone, Default)]
struct Registry {
    answers: Arc<AtomicBool>,
    asked: Arc<AtomicU64>,
}

const ID: u32 = 7;

impl Registry {
    async fn start(&self) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let routes = axum::Router::new().route("/schemas/ids/{id}", get(schema)).with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        address
    }
}

async fn schema(State(registry): State<Registry>, Path(id): Path<u32>) -> Response {
    registry.asked.fetch_add(1, Ordering::Relaxed);
    if !registry.answers.load(Ordering::Relaxed) {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    if id == ID {
        return axum::Json(serde_json::json!({ "schema": encode::AVRO })).into_response();
    }
    let body = serde_json::json!({ "error_code": 40403, "message": "Schema not found" });
    (StatusCode::NOT_FOUND, axum::Json(body)).into_response()
}

fn framed(id: u32, value: &[u8]) -> Vec<u8> {
    [&[0][..], &id.to_be_bytes(), value].concat()
}

/// Records with the header of a registry; every twentieth names a schema that the registry does not have.
fn registered(test: &'static str) -> Vec<Record> {
    let encoder = AvroEncoder::new();
    let mut records = records(test, None, |event| framed(ID, &encoder.encode(event)));
    for record in records.iter_mut().step_by(20) {
        let payload = record.payload.as_mut().unwrap();
        payload[1..5].copy_from_slice(&9u32.to_be_bytes());
        record.content = Content::Bad("unknown_schema");
    }
    records
}

#[tokio::test(flavor = "multi_thread")]
async fn avro_with_schemas_of_a_registry() {
    let registry = Registry::default();
    registry.answers.store(true, Ordering::Relaxed);
    let url = format!("http://{}", registry.start().await);
    let lab = Lab::in_memory();
    lab.produce(TOPIC, registered("formats_registry"));
    lab.run_until_caught_up(&topology(&lab, "    format: avro\n", Some(&url))).await.unwrap();
    lab.assert_features_right().await;
    lab.assert_whole_and_equal().await;
    // Once for the schema that is there, and at most twice for the other one, which may be new.
    assert!(
        (2..=3).contains(&registry.asked.load(Ordering::Relaxed)),
        "{registry:?}",
        registry = registry.asked
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_is_away_holds_up_reading_and_rejects_nothing() {
    let registry = Registry::default();
    let url = format!("http://{}", registry.start().await);
    let lab = Lab::in_memory();
    lab.produce(TOPIC, registered("formats_registry_away"));
    let running = Running::start(&topology(&lab, "    format: avro\n", Some(&url)), lab.options());
    running.ready().await;
    until("the registry is asked again", async || registry.asked.load(Ordering::Relaxed) > 4).await;
    assert!(!running.has_ended());
    registry.answers.store(true, Ordering::Relaxed);
    lab.wait_until_committed(&running).await;
    running.stop().await.unwrap();
    lab.assert_features_right().await;
    lab.assert_whole_and_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_needs_no_registry_for_schemas_that_it_has_told_before() {
    let registry = Registry::default();
    registry.answers.store(true, Ordering::Relaxed);
    let url = format!("http://{}", registry.start().await);
    let lab = Lab::in_memory();
    let encoder = AvroEncoder::new();
    let known = |seed: &'static str| records(seed, None, |event| framed(ID, &encoder.encode(event)));
    lab.produce(TOPIC, known("formats_registry_recorded"));
    lab.run_until_caught_up(&topology(&lab, "    format: avro\n", Some(&url))).await.unwrap();
    let archive = ObjectPath::from(format!("control/{TOPOLOGY}/schemas.json"));
    // One cloud has lost the archive, and the registry is away.
    lab.clouds[0].store().delete(&archive).await.unwrap();
    registry.answers.store(false, Ordering::Relaxed);
    lab.produce(TOPIC, known("formats_registry_recalled"));
    lab.run_until_caught_up(&topology(&lab, "    format: avro\n", Some(&url))).await.unwrap();
    lab.assert_features_right().await;
    lab.assert_whole_and_equal().await;
    for cloud in &lab.clouds {
        cloud.store().head(&archive).await.expect("every cloud has the archive again");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topology_that_waits_for_its_registry_stops_when_it_is_told_to() {
    let registry = Registry::default();
    let url = format!("http://{}", registry.start().await);
    let lab = Lab::in_memory();
    lab.produce(TOPIC, registered("formats_registry_stop"));
    let running = Running::start(&topology(&lab, "    format: avro\n", Some(&url)), lab.options());
    until("the registry is asked", async || registry.asked.load(Ordering::Relaxed) > 0).await;
    running.stop().await.unwrap();
    // Nothing was taken: the next run has everything.
    registry.answers.store(true, Ordering::Relaxed);
    lab.run_until_caught_up(&topology(&lab, "    format: avro\n", Some(&url))).await.unwrap();
    lab.assert_features_right().await;
    lab.assert_whole_and_equal().await;
}
