//! The log of served vectors: what a server gave a model becomes rows of a dataset, by the topology that is given for it
//! (`topologies/served_vectors`), and `isobar drift skew` finds what the datasets do not say. What needs ONNX Runtime is switched on by
//! its path in `ISOBAR_ONNXRUNTIME`.

use std::path::PathBuf;

use isobar_tests::lab::{Lab, text_of, write_file};
use isobar_tests::models::has_library;
use isobar_tests::program::run_isobar;
use isobar_tests::wait::until;
use isobar_topologies::query::{RowsFormat, catalog_in};
use isobar_topologies::serve::Server;
use isobar_topologies::spec::{self, Topology};
use serde_json::{Value as Json, json};
use tokio_util::sync::CancellationToken;

use crate::drift::{json_of, record, served_spec, text};
use crate::inference::{answered, register};

const OBSERVED: &str = "observed";
const LOG: &str = "served_vectors";
const MODEL: &str = "double";
/// The feature is called as in a training set of the dataset.
const DRAFT: &str =
    r#"{"features":[{"name":"observed__value","type":"float64","dataset":"observed","column":"value"}]}"#;

const SOURCES: &str = "  observations:
    topic: observations
    format: json
    fields: { k: string, event_time: timestamp, value: float64 }
";
const DATASETS: &str = "  observed:
    from: observations
    sql: SELECT k, event_time, value FROM observations
online: [{ dataset: observed, keys: [k] }]
serve: { inference: { log: { topic: served_vectors } } }
";
/// The features once more, as of the time of each row of the log.
const OFFLINE: &str = "training_set: served_double
topology: topology.yaml
spine:
  query: SELECT id, served_at, keys['k'] AS k FROM served_vectors
  time: served_at
  keys: [k]
  labels: [id]
views:
  observed: { features: [value] }
";

/// A server over some observations, whose served vectors are logged.
struct Served {
    lab: Lab,
    topology: Topology,
    /// That of the log.
    log: Topology,
    /// What makes the features again.
    offline: PathBuf,
    url: String,
    http: reqwest::Client,
    shutdown: CancellationToken,
    server: Server,
}

fn observe(lab: &Lab, observations: &[(&str, &str, f64)]) {
    let records = observations
        .iter()
        .map(|(key, time, value)| record(&json!({ "k": key, "event_time": time, "value": value })));
    lab.produce("observations", records);
}

impl Served {
    async fn start(observations: &[(&str, &str, f64)]) -> Self {
        let lab = Lab::new(&["observations", LOG], 3, true);
        observe(&lab, observations);
        let spec = lab.spec(SOURCES, DATASETS);
        let topology = spec.resolved();
        lab.run_until_caught_up(&topology).await.unwrap();
        lab.wait_until_equal(OBSERVED).await;
        register(&lab, MODEL, DRAFT).await;
        let folder = spec.written().parent().unwrap().to_owned();
        let offline = write_file(&folder.join("offline.yaml"), OFFLINE);
        let log = spec::load(&served_spec(&lab)).unwrap_or_else(|errors| panic!("{errors}"));
        let shutdown = CancellationToken::new();
        let server = lab.serve(&topology, shutdown.clone()).await;
        let url = format!("http://{}", server.address);
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let served = Self { lab, topology, log, offline, url, http, shutdown, server };
        served.followed().await;
        served
    }

    /// Waits until the newest version can be looked up.
    async fn followed(&self) {
        let newest = self.lab.versions(OBSERVED).await[0].unwrap();
        until("the newest rows can be looked up", async || {
            let status = answered(self.http.get(format!("{}/v1/online", self.url))).await.1;
            status["views"][0]["version"] == newest
        })
        .await;
    }

    /// What the model says of `inputs`.
    async fn infer(&self, inputs: &Json) -> Json {
        let request = self.http.post(format!("{}/v2/models/{MODEL}/infer", self.url));
        let (status, said) = answered(request.body(json!({ "inputs": inputs }).to_string())).await;
        assert_eq!(status, 200, "{inputs}: {said}");
        said
    }

    /// Waits until so many records are in the topic, and makes a dataset of them.
    async fn logged(&self, records: usize) {
        let stored =
            format!("isobar_inference_log_records_total{{outcome=\"stored\",topology=\"lab\"}} {records}\n");
        until("the log is stored", async || self.server.engine.metrics().contains(&stored)).await;
        self.lab.run_until_caught_up(&self.log).await.unwrap();
        self.lab.wait_until_equal(LOG).await;
    }

    async fn csv(&self, sql: &str) -> String {
        let catalog = catalog_in(&self.log, &self.lab.opened()).unwrap();
        let mut answer = catalog.query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        text_of(&mut answer, RowsFormat::Csv).await.unwrap()
    }

    /// What `isobar drift skew` counts: same, different, missing on either side; and its examples. `code` is how it ends.
    async fn skew(&self, code: i32) -> ([u64; 4], Vec<(f64, f64)>) {
        let arguments = ["drift", "skew", "--model", MODEL, "--served", LOG, "--format", "json", "--offline"];
        let output = run_isobar(&[&arguments[..], &[text(&self.offline)]].concat()).await;
        output.assert(code, &[]);
        let report = json_of(&output);
        assert_eq!(
            (&report["malformed"], &report["without_offline"], &report["not_compared"]),
            (&json!(0), &json!(0), &json!([])),
            "{report:#}"
        );
        let feature = &report["features"][0];
        let counts = ["same", "different", "missing_served", "missing_offline"];
        let examples = feature["examples"].as_array().unwrap().iter();
        let mut examples: Vec<(f64, f64)> = examples
            .map(|found| (found["served"].as_f64().unwrap(), found["offline"].as_f64().unwrap()))
            .collect();
        examples.sort_by(|one, other| one.0.total_cmp(&other.0));
        (counts.map(|count| feature[count].as_u64().unwrap()), examples)
    }

    async fn stop(self) {
        drop(self.http);
        self.shutdown.cancel();
        self.server.stopped().await;
    }
}

fn keys(keys: &[&str]) -> Json {
    json!({ "name": "k", "datatype": "BYTES", "shape": [keys.len()], "data": keys })
}

fn value(value: f64) -> Json {
    json!({ "name": "observed__value", "datatype": "FP64", "shape": [1], "data": [value] })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_gave_a_model_is_held_against_what_the_datasets_say() {
    if !has_library("what_a_server_gave_a_model_is_held_against_what_the_datasets_say") {
        return;
    }
    let served =
        Served::start(&[("a", "2020-01-01T10:00:00Z", 1.5), ("b", "2020-01-01T11:00:00Z", 7.0)]).await;
    let said = served.infer(&json!([keys(&["a", "b"])])).await;
    assert_eq!(said["outputs"][0]["data"], json!([3.0, 14.0]));
    // What the caller gives is what the dataset says, too.
    let given = served.infer(&json!([keys(&["b"]), value(7.0)])).await;
    assert_eq!(given["outputs"][0]["data"], json!([14.0]));
    served.logged(3).await;
    let sha256 = said["parameters"]["sha256"].as_str().unwrap();
    let rows = served
        .csv(
            "SELECT model, model_version, model_sha256, keys['k'] AS k, array_length(feature_values) AS n, \
             feature_values[1] AS value, prediction FROM served_vectors ORDER BY served_at, id",
        )
        .await;
    let expected =
        ["a,1,1.5,3.0", "b,1,7.0,14.0", "b,1,7.0,14.0"].map(|row| format!("{MODEL},1,{sha256},{row}"));
    assert_eq!(rows.lines().skip(1).collect::<Vec<_>>(), expected);
    assert_eq!(served.csv("SELECT count(DISTINCT id) AS n FROM served_vectors").await, "n\n3\n");
    assert_eq!(served.csv("SELECT count(*) AS n FROM served_vectors_quarantine").await, "n\n0\n");
    assert_eq!(served.skew(0).await, ([3, 0, 0, 0], vec![]));

    // A caller that knows better.
    let given = served.infer(&json!([keys(&["a"]), value(99.0)])).await;
    assert_eq!(given["outputs"][0]["data"], json!([198.0]));
    served.logged(4).await;
    assert_eq!(served.skew(3).await, ([3, 1, 0, 0], vec![(99.0, 1.5)]));

    // The model was given what the view had, and the dataset has had another row since then: the view was behind.
    observe(&served.lab, &[("a", "2020-01-02T10:00:00Z", 2.5)]);
    served.lab.run_until_caught_up(&served.topology).await.unwrap();
    served.lab.wait_until_equal(OBSERVED).await;
    assert_eq!(served.skew(3).await, ([2, 2, 0, 0], vec![(1.5, 2.5), (99.0, 2.5)]));

    // Once it has caught up, nothing more is wrong.
    served.followed().await;
    let said = served.infer(&json!([keys(&["a"])])).await;
    assert_eq!(said["outputs"][0]["data"], json!([5.0]));
    served.logged(5).await;
    assert_eq!(served.skew(3).await.0, [3, 2, 0, 0]);
    served.stop().await;
}
