//! `isobar doctor` on real brokers and clouds in which something is wrong: what is wrong is named, and hides nothing else.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use axum::extract::{Path as Route, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures::TryStreamExt;
use isobar_connectors::clouds::{Cloud, Fault};
use isobar_tests::encode;
use isobar_tests::events::{self, Generator, TOPIC};
use isobar_tests::lab::{Lab, TOPOLOGY, write_file};
use isobar_tests::prng::Seed;
use isobar_tests::program::run_isobar;
use isobar_tests::trees::Tree;
use isobar_tests::wait::in_time;
use isobar_tests::wire::{self, Protocol, Rule, Simulator};
use isobar_topologies::doctor::{About, DoctorOptions, Finding, Report, Status, examine};
use isobar_topologies::spec::Topology;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use serde_json::{Value as Json, json};

use crate::gap::overrun;

async fn report_on(topology: &Topology, clouds: Vec<Cloud>) -> Report {
    // Enough for what is in reach, on a busy machine too, and not long for what hangs.
    let options =
        DoctorOptions { patience: Duration::from_secs(24), clouds: Some(clouds), ..DoctorOptions::default() };
    in_time("the report", examine(topology, &options, &())).await
}

async fn report(lab: &Lab, topology: &Topology) -> Report {
    report_on(topology, lab.opened()).await
}

fn cloud(name: &str) -> About {
    About::Cloud(name.to_owned())
}

fn topic(name: &str) -> About {
    About::Topic(name.to_owned())
}

/// The findings of a check about something.
fn all<'a>(report: &'a Report, id: &str, about: &About) -> Vec<&'a Finding> {
    report.checks.iter().filter(|finding| finding.id == id && finding.about == *about).collect()
}

/// The only one.
fn one<'a>(report: &'a Report, id: &str, about: &About) -> &'a Finding {
    let [finding] = all(report, id, about)[..] else { panic!("{id} of {about:?}: {report:#?}") };
    finding
}

fn problems(report: &Report) -> Vec<&Finding> {
    report.checks.iter().filter(|finding| finding.status == Status::Problem).collect()
}

/// A lab whose topology has read this many records.
async fn read(test: &'static str, records: usize) -> (Lab, Topology) {
    let lab = Lab::in_memory();
    let topology = lab.features();
    lab.produce(TOPIC, Generator::mixed(Seed::of(test).prng()).records(records));
    lab.run_until_caught_up(&topology).await.unwrap();
    (lab, topology)
}

/// Everything in every cloud outside `control/`.
async fn contents(lab: &Lab) -> Vec<Tree> {
    let mut trees = Vec::new();
    for cloud in &lab.clouds {
        trees.push(cloud.tree().await);
    }
    trees
}

async fn keys(cloud: &Cloud) -> Vec<String> {
    let listed = cloud.data.list(None).map_ok(|object| object.location.to_string());
    let mut keys: Vec<String> = listed.try_collect().await.unwrap();
    keys.sort();
    keys
}

#[tokio::test(flavor = "multi_thread")]
async fn before_the_first_start_all_is_well_and_nothing_is_left_behind() {
    let lab = Lab::in_memory();
    lab.produce(TOPIC, Generator::mixed(Seed::of("doctor_before").prng()).records(20));
    let report = report(&lab, &lab.features()).await;
    assert!(report.well, "{:#?}", problems(&report));
    assert!(one(&report, "together.decided", &About::Together).found.contains("first start"));
    assert_eq!(one(&report, "topic.position", &topic(TOPIC)).found, "nothing was read yet");
    assert_eq!(one(&report, "topic.read", &topic(TOPIC)).found, "a record was read");
    // The embedded broker has one copy of everything.
    assert_eq!(one(&report, "topic.replication", &topic(TOPIC)).status, Status::Warning);
    for lab_cloud in &lab.clouds {
        assert_eq!(keys(&lab_cloud.opened()).await, [""; 0], "{}", lab_cloud.name);
        for id in ["cloud.list", "cloud.read", "cloud.write", "cloud.delete", "cloud.multipart"] {
            assert_eq!(one(&report, id, &cloud(&lab_cloud.name)).status, Status::Ok, "{id}");
        }
        let conditional = one(&report, "cloud.conditional_writes", &cloud(&lab_cloud.name));
        assert_eq!(conditional.status, Status::Ok);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topology_that_has_run_is_well_and_not_touched() {
    let (lab, topology) = read("doctor_after", 200).await;
    let before = contents(&lab).await;
    lab.produce(TOPIC, Generator::mixed(Seed::of("doctor_more").prng()).records(12));
    let found = report(&lab, &topology).await;
    assert!(found.well, "{:#?}", problems(&found));
    assert_eq!(contents(&lab).await, before);
    assert_eq!(one(&found, "topic.position", &topic(TOPIC)).found, "12 offsets not read yet");
    for name in ["aws", "azure", "gcp"] {
        assert_eq!(one(&found, "cloud.membership", &cloud(name)).found, "it counts");
        assert_eq!(one(&found, "cloud.published", &cloud(name)).status, Status::Ok);
    }
    let majority = one(&found, "together.majority", &About::Together);
    assert!(majority.status == Status::Ok && majority.found.starts_with("3 of 3"), "{majority:?}");
    assert_eq!(one(&found, "together.schema", &About::Together).status, Status::Ok);
    assert_eq!(one(&found, "together.topics", &About::Together).status, Status::Ok);
    assert_eq!(one(&found, "clock.commits", &About::Clock).status, Status::Ok);
    assert_eq!(all(&found, "clock.cloud", &About::Clock).len(), 3);
    // Looking again does not change what is found, and a run goes on.
    assert_eq!(report(&lab, &topology).await.problems, 0);
    lab.run_until_caught_up(&topology).await.unwrap();
    lab.assert_features_complete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cloud_that_refuses_or_hangs_is_named_and_the_others_are_looked_at() {
    let (lab, topology) = read("doctor_away", 60).await;
    for fault in [Fault::RefuseAll, Fault::Delay(Duration::from_secs(3600))] {
        lab.cloud("azure").switch.set(fault);
        let found = report(&lab, &topology).await;
        let reachable = one(&found, "cloud.reachable", &cloud("azure"));
        assert_eq!(reachable.status, Status::Problem, "{fault:?}: {reachable:?}");
        assert_eq!(problems(&found).len(), 1, "{fault:?}: {:#?}", problems(&found));
        assert_eq!(one(&found, "cloud.write", &cloud("azure")).status, Status::Skipped);
        for name in ["aws", "gcp"] {
            for id in ["cloud.reachable", "cloud.conditional_writes", "cloud.multipart", "cloud.membership"] {
                assert_eq!(one(&found, id, &cloud(name)).status, Status::Ok, "{fault:?}: {name} {id}");
            }
        }
        let majority = one(&found, "together.majority", &About::Together);
        assert!(majority.status == Status::Warning && majority.found.starts_with("2 of 3"), "{majority:?}");
        // What is decided is known from the others.
        assert!(one(&found, "together.decided", &About::Together).found.starts_with("decision "));
        assert_eq!(one(&found, "topic.position", &topic(TOPIC)).found, "0 offsets not read yet");
    }
    lab.cloud("gcp").switch.set(Fault::RefuseAll);
    let found = report(&lab, &topology).await;
    assert_eq!(one(&found, "together.majority", &About::Together).status, Status::Problem);
    assert_eq!(one(&found, "topic.position", &topic(TOPIC)).status, Status::Skipped, "too few tell");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cloud_that_can_be_read_only_says_what_it_does_not_let_us_do() {
    let (lab, topology) = read("doctor_read_only", 20).await;
    lab.cloud("gcp").switch.set(Fault::RefuseWrites);
    let found = report(&lab, &topology).await;
    for (id, status) in [
        ("cloud.reachable", Status::Ok),
        ("cloud.list", Status::Ok),
        ("cloud.read", Status::Ok),
        ("cloud.conditional_writes", Status::Problem),
        ("cloud.write", Status::Problem),
        ("cloud.multipart", Status::Problem),
        ("cloud.membership", Status::Ok),
    ] {
        assert_eq!(one(&found, id, &cloud("gcp")).status, status, "{id}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_allowed_in_a_cloud_is_told_from_what_is() {
    let lab = Lab::in_memory();
    let topology = lab.features();
    let simulator = Simulator::new(1);
    let clouds = || Protocol::ALL.map(|protocol| simulator.cloud(protocol, "p")).to_vec();
    // The simulated time is long past; everything else is right.
    let found = report_on(&topology, clouds()).await;
    let clocks = all(&found, "clock.cloud", &About::Clock);
    assert!(clocks.iter().all(|clock| clock.status == Status::Problem), "{clocks:#?}");
    assert!(clocks[0].found.contains("ahead of the store's"), "{:?}", clocks[0]);
    assert_eq!(problems(&found).len(), clocks.len(), "{:#?}", problems(&found));
    for protocol in Protocol::ALL {
        assert_eq!(simulator.keys(protocol), [""; 0], "{protocol}: something is left");
    }

    // What the credentials may not, by method and by the object's name.
    let refused = || Rule::new(wire::Fault::CredentialsRefused);
    let cases = [
        // Only Google's client asks for one deletion at a time.
        (Protocol::Gcs, refused().method(Method::DELETE), "cloud.delete", Status::Warning),
        (Protocol::S3, refused().key("-parts"), "cloud.multipart", Status::Problem),
        (Protocol::S3, refused().key("probe/"), "cloud.conditional_writes", Status::Problem),
        (
            Protocol::Gcs,
            Rule::new(wire::Fault::IgnorePreconditions),
            "cloud.conditional_writes",
            Status::Problem,
        ),
    ];
    for (protocol, rule, id, status) in cases {
        simulator.faults().set(rule.on(protocol));
        let found = report_on(&topology, clouds()).await;
        let about = cloud(&protocol.to_string());
        let finding = one(&found, id, &about);
        assert_eq!(finding.status, status, "{finding:?}");
        assert!(finding.way_out.is_some(), "{finding:?}");
        let others = found.checks.iter().filter(|check| check.about == about && check.id != id);
        for other in others {
            assert_eq!(other.status, Status::Ok, "{id}: {other:?}");
        }
        assert_eq!(one(&found, id, &cloud("azure")).status, Status::Ok);
        simulator.faults().clear();
    }
    simulator.faults().set(Rule::new(wire::Fault::CredentialsRefused).on(Protocol::Azure));
    let found = report_on(&topology, clouds()).await;
    let list = one(&found, "cloud.list", &cloud("azure"));
    assert_eq!(list.status, Status::Problem);
    assert!(list.way_out.as_ref().unwrap().contains("credentials"), "{list:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_topic_and_a_pattern_without_match_do_not_hide_the_others() {
    let lab = Lab::new(&[TOPIC, "other"], 1, false);
    lab.produce(TOPIC, Generator::mixed(Seed::of("doctor_topics").prng()).records(8));
    let sources = events::SOURCE.replace("topic: events", "topics: [events, otter]");
    let found = report(&lab, &lab.spec(&sources, events::FEATURES_YAML).resolved()).await;
    let missing = one(&found, "topic.exists", &topic("otter"));
    assert_eq!(missing.status, Status::Problem);
    assert!(missing.found.contains("did you mean other?"), "{missing:?}");
    assert_eq!(problems(&found).len(), 1, "{:#?}", problems(&found));
    assert_eq!(one(&found, "topic.read", &topic(TOPIC)).status, Status::Ok);
    assert_eq!(one(&found, "kafka.reachable", &About::Kafka).status, Status::Ok);

    let sources = events::SOURCE.replace("topic: events", "topics: { pattern: \"^nothing-.*\" }");
    let found = report(&lab, &lab.spec(&sources, events::FEATURES_YAML).resolved()).await;
    assert_eq!(one(&found, "kafka.pattern", &About::Kafka).status, Status::Warning);
    assert!(found.well, "{:#?}", problems(&found));
}

#[tokio::test(flavor = "multi_thread")]
async fn brokers_out_of_reach_do_not_hide_the_clouds() {
    let (lab, _) = read("doctor_broker", 20).await;
    let mut spec = lab.spec(events::SOURCE, events::FEATURES_YAML);
    // Nobody listens on port 1.
    spec.brokers = "127.0.0.1:1".into();
    let found = report(&lab, &spec.resolved()).await;
    let reachable = one(&found, "kafka.reachable", &About::Kafka);
    assert!(reachable.status == Status::Problem && reachable.found.contains("127.0.0.1:1"), "{reachable:?}");
    assert_eq!(problems(&found).len(), 1, "{:#?}", problems(&found));
    assert_eq!(one(&found, "cloud.write", &cloud("aws")).status, Status::Ok);
    assert_eq!(one(&found, "together.topics", &About::Together).status, Status::Skipped);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_before_the_log_start_is_a_problem_with_the_command_that_helps() {
    let (lab, topology) = read("doctor_gap", 200).await;
    let low = overrun(&lab, 1).await;
    assert!(low > 50, "the broker keeps less than was produced");
    let found = report(&lab, &topology).await;
    let position = one(&found, "topic.position", &topic(TOPIC));
    assert_eq!(position.status, Status::Problem);
    let way_out = position.way_out.as_deref().unwrap();
    let command = format!("isobar accept-gap TOPOLOGY --partition {TOPIC}:1 --from 50 --to {low}");
    assert!(way_out.contains(&command), "{way_out}");
    assert_eq!(problems(&found).len(), 1, "{:#?}", problems(&found));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_start_would_refuse_is_found_without_starting() {
    let (lab, topology) = read("doctor_refused", 40).await;
    let changed = events::FEATURES_YAML.replace("items > 10 AS many", "CAST(items AS VARCHAR) AS many");
    let found = report(&lab, &lab.spec(events::SOURCE, &changed).resolved()).await;
    let schema = one(&found, "together.schema", &About::Together);
    assert!(schema.status == Status::Problem && schema.found.contains("many"), "{schema:?}");
    assert_eq!(problems(&found).len(), 1, "{:#?}", problems(&found));

    // The same topology in other clouds.
    let mut spec = lab.spec(events::SOURCE, events::FEATURES_YAML);
    spec.clouds.pop();
    let clouds = lab.opened().into_iter().take(2).collect();
    let found = report_on(&spec.resolved(), clouds).await;
    let registered = one(&found, "together.clouds", &About::Together);
    assert!(registered.status == Status::Problem && registered.found.contains("gcp"), "{registered:?}");

    // A cloud that was wiped.
    let wiped = lab.cloud("azure").opened();
    for key in keys(&wiped).await {
        wiped.data.delete(&Path::from(key)).await.unwrap();
    }
    let found = report(&lab, &topology).await;
    let membership = one(&found, "cloud.membership", &cloud("azure"));
    assert_eq!(membership.status, Status::Problem);
    assert!(membership.way_out.as_ref().unwrap().contains("--readmit azure"), "{membership:?}");
    assert_eq!(one(&found, "together.majority", &About::Together).status, Status::Warning);
}

/// A schema registry that answers with this status, and a schema where that is 200.
#[derive(Clone, Default)]
struct Registry(Arc<AtomicU16>);

impl Registry {
    async fn start(&self) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let route = "/subjects/{subject}/versions/{version}";
        let routes = axum::Router::new().route(route, get(newest)).with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        address
    }
}

async fn newest(State(registry): State<Registry>, Route(named): Route<BTreeMap<String, String>>) -> Response {
    let status = StatusCode::from_u16(registry.0.load(Ordering::Relaxed)).unwrap();
    if !status.is_success() {
        return (status, "<html>sign in</html>").into_response();
    }
    assert_eq!(named["subject"], format!("{TOPIC}-value"));
    let version = json!({ "subject": named["subject"], "id": 7, "version": 2, "schema": encode::AVRO });
    axum::Json(version).into_response()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_is_asked_for_the_newest_schema_of_every_topic() {
    let registry = Registry::default();
    let url = format!("http://{}", registry.start().await);
    let lab = Lab::new(&[TOPIC], 1, false);
    let topology = |fields: &str| {
        let sources = events::SOURCE
            .replace("    format: json\n", "    format: avro\n")
            .replace("      city: string\n", fields);
        let mut spec = lab.spec(&sources, events::FEATURES_YAML);
        spec.registry = Some(format!("{{ url: \"{url}\" }}"));
        spec.resolved()
    };
    registry.0.store(200, Ordering::Relaxed);
    let found = report(&lab, &topology("      city: string\n")).await;
    let schema = one(&found, "registry.schema", &About::Registry);
    assert!(schema.status == Status::Ok && schema.found.contains("version 2 of events-value"), "{schema:?}");
    let demanding = "      city: string\n      colour: { type: string, nullable: false }\n";
    let found = report(&lab, &topology(demanding)).await;
    let schema = one(&found, "registry.schema", &About::Registry);
    assert!(schema.status == Status::Warning && schema.found.contains("colour"), "{schema:?}");

    for (status, id) in [(401, "registry.credentials"), (404, "registry.api"), (503, "registry.reachable")] {
        registry.0.store(status, Ordering::Relaxed);
        let found = report(&lab, &topology("      city: string\n")).await;
        assert_eq!(one(&found, id, &About::Registry).status, Status::Problem, "{status}");
        assert_eq!(problems(&found).len(), 1, "{status}: {:#?}", problems(&found));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_prints_a_table_or_json_and_ends_by_what_it_found() {
    let lab = Lab::in_directories();
    lab.produce(TOPIC, Generator::mixed(Seed::of("doctor_cli").prng()).records(40));
    let spec = lab.spec(events::SOURCE, events::FEATURES_YAML).written();
    let spec = spec.to_str().unwrap();
    let doctor = async |more: &[&str]| run_isobar(&[&["doctor", spec][..], more].concat()).await;
    let parts = ["cloud azure", "together.majority", "topic events", "first start does that"];
    doctor(&[]).await.assert(0, &parts);
    for cloud in &lab.clouds {
        assert!(!cloud.folder.as_ref().unwrap().exists(), "nothing was written");
    }
    // The embedded broker keeps one copy, which is a warning.
    doctor(&["--strict"]).await.assert(1, &["warning"]);

    run_isobar(&["run", spec, "--until-caught-up"]).await.assert(0, &[]);
    let output = doctor(&["--format", "json"]).await;
    output.assert(0, &[]);
    let json: Json = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(
        (&json["format"], &json["topology"], &json["well"]),
        (&json!(1), &json!(TOPOLOGY), &json!(true))
    );
    let checks = json["checks"].as_array().unwrap();
    assert!(checks.len() > 40, "{json:#}");
    assert!(checks.iter().all(|check| check["id"].is_string() && check["status"].is_string()));
    lab.assert_features_complete().await;
    lab.assert_trees_equal().await;

    // A directory that went away, then one that is empty in its place, as where nothing is mounted.
    let folder = lab.clouds[1].folder.as_ref().unwrap();
    std::fs::rename(folder, folder.with_extension("away")).unwrap();
    let gone = ["is missing, or is not the directory that was registered"];
    doctor(&["--format", "json"]).await.assert(1, &gone);
    std::fs::create_dir(folder).unwrap();
    doctor(&["--format", "json"]).await.assert(1, &gone);
    assert_eq!(std::fs::read_dir(folder).unwrap().count(), 0, "nothing was written");

    doctor(&["--timeout", "0s"]).await.assert(2, &["from 1s to 1h"]);
    let wrong = write_file(&lab.directory.path().join("wrong.yaml"), "topology: wrong\n");
    run_isobar(&["doctor", wrong.to_str().unwrap()]).await.assert(2, &["wrong.yaml"]);
    run_isobar(&["doctor", "--help"]).await.assert(0, &["Examples:", "isobar doctor", "--outage"]);
}
