//! The inference protocol of `isobar serve` over a dataset: a caller sends keys, the server looks up features. What needs ONNX
//! Runtime is switched on by its path in `ISOBAR_ONNXRUNTIME`.

use std::path::Path;
use std::time::Duration;

use isobar_tests::events::{self, FEATURES, FEATURES_YAML, Generator};
use isobar_tests::lab::Lab;
use isobar_tests::models::has_library;
use isobar_tests::prng::Seed;
use isobar_tests::wait::until;
use isobar_topologies::gateway::{GatewayOptions, GatewayServer};
use isobar_topologies::serve::Server;
use isobar_topologies::spec::gateway;
use serde_json::{Value as Json, json};
use tokio_util::sync::CancellationToken;

use crate::models::{golden_candidate, writer};

const ANALYST: &str = "token-of-the-analyst";
const ADMIN: &str = "token-of-the-admin";
const MODEL: &str = "double";
/// A key of the generator's, and one that nobody has.
const CITY: &str = "Oslo";
const NOWHERE: &str = "Atlantis";

const ONLINE: &str =
    "online: [{ dataset: features, keys: [city], time: at, sequence: [kafka_partition, kafka_offset] }]";

/// A server over some commits, with a model that doubles the feature `amount`.
struct Served {
    lab: Lab,
    url: String,
    http: reqwest::Client,
    shutdown: CancellationToken,
    server: Server,
}

impl Served {
    /// `sections` are further ones of the topology.
    async fn start(seed: &'static str, sections: &str) -> Self {
        let lab = Lab::in_directories();
        let mut records = Generator::mixed(Seed::of(seed).prng());
        let mut spec = lab.spec(events::SOURCE, FEATURES_YAML);
        std::fs::write(spec.folder.join("analyst"), ANALYST).unwrap();
        std::fs::write(spec.folder.join("admin"), ADMIN).unwrap();
        spec.datasets.push_str(&format!("{ONLINE}\n{sections}\n"));
        let topology = spec.resolved();
        lab.fill(&topology, &mut records, 60).await;
        let draft =
            r#"{"features":[{"name":"amount","type":"float64","dataset":"features","contract":"1.2.0"}]}"#;
        register(&lab, MODEL, draft).await;
        let shutdown = CancellationToken::new();
        let server = lab.serve(&topology, shutdown.clone()).await;
        let url = format!("http://{}", server.address);
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let served = Self { lab, url, http, shutdown, server };
        let newest = served.newest().await;
        until("the rows of the newest version can be looked up", async || {
            served.get("/v1/online", ADMIN).await.1["views"][0]["version"] == newest
        })
        .await;
        served
    }

    async fn newest(&self) -> u64 {
        self.lab.versions(FEATURES).await[0].unwrap()
    }

    async fn get(&self, path: &str, token: &str) -> (u16, Json) {
        answered(self.http.get(format!("{}{path}", self.url)).bearer_auth(token)).await
    }

    async fn infer(&self, body: &Json, token: &str) -> (u16, Json) {
        self.infer_at(&self.url, body, token).await
    }

    /// The same of whatever answers for it at `url`.
    async fn infer_at(&self, url: &str, body: &Json, token: &str) -> (u16, Json) {
        let path = format!("{url}/v2/models/{MODEL}/infer");
        answered(self.http.post(path).bearer_auth(token).body(body.to_string())).await
    }

    /// Twice what a look-up says, as the model computes it.
    async fn expected(&self, city: &str) -> f32 {
        let (status, said) = self.get(&format!("/v1/datasets/features/features?city={city}"), ADMIN).await;
        assert_eq!((status, &said["results"][0]["status"]), (200, &json!("found")), "{said}");
        2.0 * said["results"][0]["row"]["amount"].as_f64().unwrap() as f32
    }

    async fn stop(self) {
        drop(self.http);
        self.shutdown.cancel();
        self.server.stopped().await;
    }
}

pub(crate) async fn answered(request: reqwest::RequestBuilder) -> (u16, Json) {
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    let text = response.text().await.unwrap();
    (status, serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}")))
}

/// Registers a graph that doubles its input as the champion of `model`; `draft` is its manifest.
pub(crate) async fn register(lab: &Lab, model: &str, draft: &str) {
    let candidate = golden_candidate(lab, "twice", model, draft);
    writer(lab).register(&candidate, Some("champion")).await.unwrap();
}

fn keys(cities: &[&str]) -> Json {
    json!({ "inputs": [{ "name": "city", "datatype": "BYTES", "shape": [cities.len()], "data": cities }] })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_sends_keys_and_the_answer_says_of_which_versions_the_features_are() {
    if !has_library("a_caller_sends_keys_and_the_answer_says_of_which_versions_the_features_are") {
        return;
    }
    let serve = "serve: { callers: { analyst: { token: \"${file:analyst}\", role: analyst }, admin: { token: \"${file:admin}\" } }, \
                 roles: { analyst: { datasets: { features: { rows: \"id % 2 = 0\" } }, models: [double] } } }";
    let served = Served::start("inference-keys", serve).await;
    let (newest, expected) = (served.newest().await, served.expected(CITY).await);
    let parameters = json!({ "entity_keys": [{ "city": CITY }, { "city": CITY }] });
    let as_text = json!({ "entity_keys": format!("[{{\"city\":\"{CITY}\"}},{{\"city\":\"{CITY}\"}}]") });
    for body in [keys(&[CITY, CITY]), json!({ "parameters": parameters }), json!({ "parameters": as_text })] {
        let (status, said) = served.infer(&body, ADMIN).await;
        assert_eq!(status, 200, "{said}");
        let found: Vec<f32> = serde_json::from_value(said["outputs"][0]["data"].clone()).unwrap();
        assert_eq!(found, [expected, expected], "{body}");
        let of = &said["parameters"];
        assert_eq!((&of["version"], &of["features"]), (&json!(1), &json!("features@1.2.0")), "{of}");
        assert_eq!(of["features.version"], json!(newest), "{of}");
        assert!(
            of["features.age_ms"].is_u64() && of["sha256"].as_str().is_some_and(|sha256| sha256.len() == 64)
        );
    }

    // What is given is not looked up.
    let amount = json!({ "name": "amount", "datatype": "FP64", "shape": [1], "data": [21.0] });
    let (_, said) = served.infer(&json!({ "inputs": [amount] }), ADMIN).await;
    assert_eq!(
        (&said["outputs"][0]["data"], said["parameters"].get("features.version")),
        (&json!([42.0]), None)
    );

    for (body, token, status, what) in [
        (keys(&[CITY, NOWHERE]), ADMIN, 404, "features has no row for city=Atlantis (row 1)"),
        (json!({ "parameters": { "entity_keys": [{ "town": CITY }] } }), ADMIN, 400, "`town` is no input"),
        (json!({ "parameters": { "entity_keys": [{}] } }), ADMIN, 400, "the key of its rows: city"),
        (json!({ "inputs": [] }), ADMIN, 400, "there are no rows"),
        (keys(&[CITY; 1001]), ADMIN, 422, "one request looks up 1000"),
        // It may ask the model, and gives what it does not see.
        (keys(&[CITY]), ANALYST, 403, "sees a part of features only"),
    ] {
        let (found, said) = served.infer(&body, token).await;
        let error = said["error"].as_str().unwrap_or_default();
        assert!(found == status && error.contains(what), "{found} {said}");
    }
    let x = json!({ "inputs": [{ "name": "x", "datatype": "FP32", "shape": [1, 1], "data": [4.0] }] });
    assert_eq!(served.infer(&x, ANALYST).await.1["outputs"][0]["data"], json!([8.0]));
    let (status, said) = served.get("/v2/models/other", ANALYST).await;
    assert_eq!((status, &said["error"]), (404, &json!("there is no model other")));
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_without_a_row_may_be_filled_and_the_answer_says_so() {
    if !has_library("a_key_without_a_row_may_be_filled_and_the_answer_says_so") {
        return;
    }
    let sections = "serve: { callers: { admin: { token: \"${file:admin}\" } }, inference: { limits: { missing: fill } } }\n\
                    models: { nulls: fill, fill: 0.5 }";
    let served = Served::start("inference-missing", sections).await;
    let expected = served.expected(CITY).await;
    let (status, said) = served.infer(&keys(&[NOWHERE, CITY, NOWHERE]), ADMIN).await;
    assert_eq!(status, 200, "{said}");
    let found: Vec<f32> = serde_json::from_value(said["outputs"][0]["data"].clone()).unwrap();
    assert_eq!(found, [1.0, expected, 1.0]);
    assert_eq!(said["parameters"]["features.missing"], json!(2), "{said}");
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_hands_on_what_is_inferred_and_what_is_refused() {
    if !has_library("a_gateway_hands_on_what_is_inferred_and_what_is_refused") {
        return;
    }
    let served =
        Served::start("inference-gateway", "serve: { callers: { admin: { token: \"${file:admin}\" } } }")
            .await;
    // The first one is gone before it is asked.
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let text = format!(
        "gateway: {{ prefer: order, backends: [{{ url: 'http://{gone}', cloud: aws }}, {{ url: '{}', cloud: azure }}] }}\n",
        served.url
    );
    let spec = gateway::check_text(&text, "gateway.yaml", Path::new("/")).unwrap();
    let (listen, stop) = ("127.0.0.1:0".parse().unwrap(), CancellationToken::new());
    let options = GatewayOptions { listen, grace: Duration::from_secs(60), file: None };
    let gateway = GatewayServer::start(&spec, options, stop.clone()).await.unwrap();
    let url = format!("http://{}", gateway.address);
    let expected = served.expected(CITY).await;
    let (status, said) = served.infer_at(&url, &keys(&[CITY, CITY]), ADMIN).await;
    assert_eq!(status, 200, "{said}");
    let found: Vec<f32> = serde_json::from_value(said["outputs"][0]["data"].clone()).unwrap();
    assert_eq!(found, [expected, expected]);
    let refused = keys(&[NOWHERE]);
    assert_eq!(served.infer_at(&url, &refused, ADMIN).await, served.infer(&refused, ADMIN).await);
    let ready = answered(served.http.get(format!("{url}/v2/models/{MODEL}/ready")).bearer_auth(ADMIN)).await;
    assert_eq!(ready, served.get(&format!("/v2/models/{MODEL}/ready"), ADMIN).await);
    stop.cancel();
    gateway.stopped().await;
    served.stop().await;
}
