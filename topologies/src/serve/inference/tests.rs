//! Whole conversations by HTTP and gRPC, with the models of `tests/golden/models`. What needs ONNX Runtime is switched on by its path
//! in `ISOBAR_ONNXRUNTIME`.

use std::collections::BTreeMap;
use std::path::Path;

use isobar_connectors::clouds::Cloud;
use isobar_connectors::kafka::{EmbeddedBroker, KafkaConfig, KafkaSource};
use isobar_connectors::source::{Source, SourceEvent};
use isobar_connectors::upload::{FanOut, UploadLimits};
use isobar_schemas::TopicPartition;
use prost::Message;
use serde_json::{Value as Json, json};
use tokio_util::sync::CancellationToken;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use super::messages::{
    InferTensor, ModelInferRequest, ModelInferResponse, ModelMetadataRequest, ModelMetadataResponse,
    ModelReadyRequest, ModelReadyResponse, ServerLiveRequest, ServerLiveResponse, ServerMetadataRequest,
    ServerMetadataResponse,
};
use super::*;
use crate::inference::Elements;
use crate::inference::testing::{golden, has_library};
use crate::models::{Candidate, Manifest, ONNX_BYTES_MAX, Which, Writer};
use crate::serve::testing::IN_MEMORY;
use crate::serve::{ServeOptions, Server};
use crate::spec::{self, CheckOptions};
use crate::start::open_clouds;

/// The topic of served vectors.
const VECTORS: &str = "vectors";
const ANA: &str = "a-token-of-somebody";
const BO: &str = "a-token-of-somebody-else";
/// What ONNX Runtime's Python and this may differ by.
const TOLERANCE: f64 = 1e-5;

/// A file that is a model by all that can be said of it before ONNX Runtime sees it: its operator is none.
fn broken() -> Vec<u8> {
    let mut onnx = golden("twice.onnx");
    let at = onnx.windows(3).position(|bytes| bytes == b"Mul").unwrap();
    onnx[at..at + 3].copy_from_slice(b"Mux");
    onnx
}

/// A server of both protocols over clouds in memory, and who asks it.
struct Served {
    server: Server,
    url: String,
    http: reqwest::Client,
    channel: Channel,
    writer: Writer,
    shutdown: CancellationToken,
}

impl Served {
    /// `serve` is the YAML of that section.
    async fn start(serve: &str) -> Self {
        Self::start_with(IN_MEMORY, serve).await
    }

    /// One with Kafka, whose models log to [`VECTORS`] as `log` says beside that.
    async fn start_logging(brokers: &str, log: &str) -> Self {
        let topology = IN_MEMORY.replace("localhost:9092", brokers);
        let serve =
            format!("{{ inference: {{ limits: {{ rows: 10000 }}, log: {{ topic: {VECTORS}{log} }} }} }}");
        Self::start_with(&topology, &serve).await
    }

    async fn start_with(topology: &str, serve: &str) -> Self {
        // Clouds in memory are those of their name, in the whole process.
        let own = format!("memory://{}-", uuid::Uuid::new_v4());
        let text = format!("{topology}serve: {serve}\n").replace("memory://", &own);
        let topology = spec::check_text(&text, "topology.yaml", Path::new("/specs"), CheckOptions::default());
        let topology = topology.unwrap_or_else(|problems| panic!("{problems}"));
        let clouds: Vec<Cloud> = open_clouds(&topology).unwrap();
        let stores = clouds.iter().map(|cloud| (cloud.name.clone(), cloud.data.clone())).collect();
        let writer = Writer::new(clouds.clone(), FanOut::new(stores, UploadLimits::default()));
        let shutdown = CancellationToken::new();
        let listen = "127.0.0.1:0".parse().unwrap();
        let options = ServeOptions { clouds: Some(clouds), ..ServeOptions::new(listen) };
        let mut server = Server::start(&topology, options, shutdown.clone()).await.unwrap();
        let grpc = server.start_inference_grpc(&topology, listen).await.unwrap();
        let channel = Endpoint::from_shared(format!("http://{grpc}")).unwrap().connect().await.unwrap();
        let url = format!("http://{}", server.address);
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { server, url, http, channel, writer, shutdown }
    }

    /// Registers `onnx` as the next version of `model`, which `alias` means from then on.
    async fn register(&self, model: &str, onnx: &[u8], features: &Json, alias: Option<&str>) -> Manifest {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("model.onnx"), onnx).unwrap();
        let draft = json!({ "features": features }).to_string();
        std::fs::write(folder.path().join("manifest.json"), draft).unwrap();
        let candidate = Candidate::read(folder.path(), model, ONNX_BYTES_MAX).unwrap();
        self.writer.register(&candidate, alias).await.unwrap()
    }

    async fn golden(&self, model: &str) -> Manifest {
        self.register(model, &golden(&format!("{model}.onnx")), &json!([]), Some("champion")).await
    }

    async fn get(&self, path: &str, token: &str) -> (u16, Json) {
        let mut request = self.http.get(format!("{}{path}", self.url));
        if !token.is_empty() {
            request = request.bearer_auth(token);
        }
        answered(request.send().await.unwrap()).await
    }

    async fn post(&self, path: &str, body: String) -> (u16, Json) {
        let request = self.http.post(format!("{}{path}", self.url)).body(body);
        answered(request.send().await.unwrap()).await
    }

    async fn infer(&self, model: &str, body: &Json) -> (u16, Json) {
        self.post(&format!("/v2/models/{model}/infer"), body.to_string()).await
    }

    /// Why there is no answer: the status and the words.
    async fn refused(&self, model: &str, body: &Json) -> (u16, String) {
        let (status, said) = self.infer(model, body).await;
        (status, said["error"].as_str().unwrap_or_else(|| panic!("{said}")).to_owned())
    }

    async fn ask<M, R>(&self, method: &str, message: M, token: &str) -> Result<R, Status>
    where
        M: Message + 'static,
        R: Message + Default + 'static,
    {
        let mut client = Grpc::new(self.channel.clone());
        client.ready().await.unwrap();
        let path: PathAndQuery = format!("/inference.GRPCInferenceService/{method}").parse().unwrap();
        let mut request = Request::new(message);
        if !token.is_empty() {
            request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        }
        let answer = client.unary(request, path, ProstCodec::<M, R>::default()).await?;
        Ok(answer.into_inner())
    }

    async fn stop(self) {
        drop((self.http, self.channel));
        self.shutdown.cancel();
        self.server.stopped().await;
    }
}

async fn answered(response: reqwest::Response) -> (u16, Json) {
    let status = response.status().as_u16();
    let text = response.text().await.unwrap();
    (status, serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}")))
}

fn floats(name: &str, shape: &[usize], data: &[f32]) -> Json {
    json!({ "inputs": [{ "name": name, "datatype": "FP32", "shape": shape, "data": data }] })
}

/// The rows of `answers.csv`: eight features, the label, and the probabilities of forest and network.
fn answers() -> Vec<Vec<f64>> {
    csv::Reader::from_reader(&golden("answers.csv")[..]).deserialize().map(Result::unwrap).collect()
}

fn features(rows: &[Vec<f64>]) -> Vec<f32> {
    rows.iter().flat_map(|row| row[..8].iter().map(|value| *value as f32)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_is_may_be_asked_by_everybody_and_models_by_those_who_may() {
    let folder = tempfile::tempdir().unwrap();
    for (name, token) in [("ana", ANA), ("bo", BO)] {
        std::fs::write(folder.path().join(name), token).unwrap();
    }
    let file = |name: &str| folder.path().join(name).display().to_string();
    let served = Served::start(&format!(
        "{{ callers: {{ ana: {{ token: \"${{file:{}}}\" }}, bo: {{ token: \"${{file:{}}}\", role: r }} }}, \
         roles: {{ r: {{ models: [other] }} }} }}",
        file("ana"),
        file("bo")
    ))
    .await;
    for path in ["/v2", "/v2/health/live"] {
        assert_eq!(served.get(path, "").await.0, 200, "{path}");
    }
    assert_eq!(served.get("/v2", "").await.1["extensions"], json!(["binary_tensor_data"]));
    let live: ServerLiveResponse = served.ask("ServerLive", ServerLiveRequest {}, "").await.unwrap();
    assert!(live.live);
    let said: ServerMetadataResponse =
        served.ask("ServerMetadata", ServerMetadataRequest {}, ANA).await.unwrap();
    assert_eq!(said.name, "isobar");

    let asked = || ModelMetadataRequest { name: "late".into(), version: String::new() };
    for (token, status, code) in
        [("", 401, Code::Unauthenticated), (ANA, 404, Code::NotFound), (BO, 404, Code::NotFound)]
    {
        let (found, said) = served.get("/v2/models/late", token).await;
        assert_eq!(found, status, "{said}");
        assert!(said["error"].is_string(), "{said}");
        let refused =
            served.ask::<_, ModelMetadataResponse>("ModelMetadata", asked(), token).await.unwrap_err();
        assert_eq!(refused.code(), code, "{refused}");
    }
    // Whether there is a model that may not be asked is nobody's business.
    served.register("late", &golden("twice.onnx"), &json!([]), Some("champion")).await;
    let hidden = served.get("/v2/models/late", BO).await;
    assert_eq!((hidden.0, &hidden.1["error"]), (404, &json!("there is no model late")));
    for name in ["Late", "late@champion", "../late", "%FF"] {
        let (status, said) = served.get(&format!("/v2/models/{}", name.replace('/', "%2F")), ANA).await;
        assert!([400, 404].contains(&status), "{name}: {said}");
    }
    let unknown = served.ask::<_, ServerLiveResponse>("ModelConfig", ServerLiveRequest {}, ANA).await;
    assert_eq!(unknown.unwrap_err().code(), Code::Unimplemented);
    // Nor by SQL.
    let engine = &served.server.engine;
    let bo = engine.authenticate(Some(BO)).await.unwrap();
    let asked = |model: &str| Question::new(format!("SELECT predict('{model}', 1.0)['value'] AS value"));
    let none = |model: &str| Refusal::Wrong(format!("there is no model `{model}`"));
    assert_eq!(engine.prepare(&bo, asked("late")).await.unwrap_err(), none("late"));
    assert_ne!(engine.prepare(&bo, asked("other")).await.unwrap_err(), none("other"), "this one it may ask");
    let text = engine.metrics();
    assert!(text.contains("isobar_inference_requests_running{topology=\"t\"} 0"), "{text}");
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_rows_have_the_answers_of_python_by_every_way() {
    if !has_library("a_thousand_rows_have_the_answers_of_python_by_every_way") {
        return;
    }
    let served = Served::start("{}").await;
    let manifest = served.golden("forest").await;
    let rows = answers();
    let values = features(&rows);
    let labels: Vec<i64> = rows.iter().map(|row| row[8] as i64).collect();
    let check = |label: &[i64], probabilities: &[f64]| {
        assert_eq!(label, labels);
        assert_eq!(probabilities.len(), 2 * rows.len());
        for (row, found) in rows.iter().zip(probabilities.chunks(2)) {
            assert!((found[1] - row[9]).abs() <= TOLERANCE, "{found:?} is not {}", row[9]);
        }
    };

    // JSON, in and out.
    let mut body = floats("X", &[rows.len(), 8], &values);
    body["id"] = json!("42");
    let (status, said) = served.infer("forest", &body).await;
    assert_eq!(status, 200, "{said}");
    let expected = [json!("forest"), json!("1"), json!("42")];
    assert_eq!([&said["model_name"], &said["model_version"], &said["id"]], expected.each_ref());
    assert_eq!(said["parameters"], json!({ "version": 1, "sha256": manifest.onnx.sha256 }));
    let outputs = &said["outputs"];
    assert_eq!((&outputs[0]["name"], &outputs[1]["shape"]), (&json!("label"), &json!([rows.len(), 2])));
    let found: Vec<i64> = serde_json::from_value(outputs[0]["data"].clone()).unwrap();
    check(&found, &serde_json::from_value::<Vec<f64>>(outputs[1]["data"].clone()).unwrap());

    // Bytes behind the JSON, in and out.
    let raw = Elements::Float32(values.clone()).to_raw();
    let input = json!({ "name": "X", "datatype": "FP32", "shape": [rows.len(), 8],
                        "parameters": { "binary_data_size": raw.len() } });
    let head = json!({ "inputs": [input], "parameters": { "binary_data_output": true } }).to_string();
    let request = served
        .http
        .post(format!("{}/v2/models/forest/versions/champion/infer", served.url))
        .header("Inference-Header-Content-Length", head.len())
        .body([head.as_bytes(), &raw].concat());
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), 200);
    let json_bytes: usize =
        response.headers()["inference-header-content-length"].to_str().unwrap().parse().unwrap();
    let body = response.bytes().await.unwrap();
    let said: Json = serde_json::from_slice(&body[..json_bytes]).unwrap();
    let label_bytes = said["outputs"][0]["parameters"]["binary_data_size"].as_u64().unwrap() as usize;
    let (label, probabilities) = body[json_bytes..].split_at(label_bytes);
    let shape = [rows.len() as i64];
    let label = Tensor::from_raw("label", "INT64", &shape, label).unwrap().elements;
    let Elements::Int64(label) = label else { panic!("{label:?}") };
    let wide = |raw: &[u8]| {
        let read = Tensor::from_raw("p", "FP32", &[rows.len() as i64, 2], raw).unwrap().elements;
        let Elements::Float32(values) = read else { panic!("{read:?}") };
        values.into_iter().map(f64::from).collect::<Vec<f64>>()
    };
    check(&label, &wide(probabilities));

    // gRPC, with raw contents; the outputs in the order in which they are asked for.
    let output =
        |name: &str| super::messages::InferRequestedOutput { name: name.into(), ..Default::default() };
    let asked = ModelInferRequest {
        model_name: "forest".into(),
        model_version: "1".into(),
        id: "7".into(),
        inputs: vec![InferTensor {
            name: "X".into(),
            datatype: "FP32".into(),
            shape: vec![rows.len() as i64, 8],
            ..InferTensor::default()
        }],
        outputs: vec![output("probabilities"), output("label")],
        raw_input_contents: vec![raw.into()],
        ..ModelInferRequest::default()
    };
    let said: ModelInferResponse = served.ask("ModelInfer", asked, "").await.unwrap();
    assert_eq!((said.model_version.as_str(), said.id.as_str(), said.outputs.len()), ("1", "7", 2));
    assert_eq!(said.outputs[0].name, "probabilities");
    let label = Tensor::from_raw("label", "INT64", &shape, &said.raw_output_contents[1]).unwrap().elements;
    let Elements::Int64(label) = label else { panic!("{label:?}") };
    check(&label, &wide(&said.raw_output_contents[0]));

    // And what the model is.
    let (_, said) = served.get("/v2/models/forest", "").await;
    assert_eq!(
        (&said["versions"], &said["inputs"][0]["shape"]),
        (&json!(["1", "champion"]), &json!([-1, 8]))
    );
    let name = || "forest".to_owned();
    let said: ModelMetadataResponse = served
        .ask("ModelMetadata", ModelMetadataRequest { name: name(), version: String::new() }, "")
        .await
        .unwrap();
    assert_eq!((said.versions.len(), &said.outputs[1].shape[..]), (2, &[-1, 2][..]));
    for (version, expected) in [("1", true), ("champion", true), ("2", false), ("challenger", false)] {
        let (status, _) = served.get(&format!("/v2/models/forest/versions/{version}/ready"), "").await;
        assert_eq!(status == 200, expected, "{version}");
        let asked = ModelReadyRequest { name: name(), version: version.into() };
        let said: ModelReadyResponse = served.ask("ModelReady", asked, "").await.unwrap();
        assert_eq!(said.ready, expected, "{version}");
    }
    assert_eq!(served.get("/v2/health/ready", "").await.0, 200);
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_request_is_said_and_the_server_answers_on() {
    if !has_library("what_is_wrong_with_a_request_is_said_and_the_server_answers_on") {
        return;
    }
    let limits = "{ limits: { rows: 5 }, models: { endless: { time: 50ms } }, bytes: 1MiB }";
    let served = Served::start(&format!("{{ inference: {limits} }}")).await;
    for model in ["twice", "picky", "endless"] {
        served.golden(model).await;
    }
    served.register("broken", &broken(), &json!([]), Some("champion")).await;

    let x = |data: &[f32]| floats("x", &[data.len(), 1], data);
    let good = async || {
        let (status, said) = served.infer("twice", &x(&[1.5, -2.0])).await;
        assert_eq!((status, &said["outputs"][0]["data"]), (200, &json!([3.0, -4.0])), "{said}");
    };
    good().await;
    let of = |datatype: &str, shape: Json, data: Json| json!({ "inputs": [{ "name": "x", "datatype": datatype, "shape": shape, "data": data }] });
    let many = [1.0; 6];
    for (model, body, status, what) in [
        ("twice", of("FP32", json!([2, 1]), json!([1.0])), 400, "does not go with 1 elements"),
        ("twice", of("FP32", json!([1, 2]), json!([1.0, 2.0])), 400, "the model takes FP32[?, 1]"),
        (
            "twice",
            of("FP32", json!([1_000_000_000_000_i64, 1]), json!([1.0])),
            400,
            "does not go with 1 elements",
        ),
        ("twice", of("FP64", json!([1, 1]), json!([1.0])), 400, "the model takes FP32"),
        ("twice", of("FP16", json!([1, 1]), json!([1.0])), 400, "not known"),
        ("twice", of("FP32", json!([1, 1]), json!(["NaN"])), 400, "its data are texts"),
        ("twice", json!({ "inputs": [] }), 400, "there are no rows"),
        ("twice", floats("y", &[1, 1], &[1.0]), 400, "`y` is no input of the model"),
        (
            "twice",
            json!({ "inputs": x(&[1.0])["inputs"], "outputs": [{ "name": "z" }] }),
            400,
            "`z` is none of the model's",
        ),
        ("twice", x(&many), 422, "at most 5"),
        ("absent", x(&[1.0]), 404, "there is no model absent"),
        ("picky", x(&[10.0]), 500, "model picky version 1 has no answer"),
        ("endless", x(&[1.0]), 422, "no answer within 50ms"),
        ("broken", x(&[1.0]), 500, "model broken version 1"),
    ] {
        let (found, said) = served.refused(model, &body).await;
        assert!(found == status && said.contains(what), "{model} {body}: {found} {said}");
        good().await;
    }
    let (status, said) = served.post("/v2/models/twice/versions/2/infer", x(&[1.0]).to_string()).await;
    assert_eq!((status, &said["error"]), (404, &json!("the model twice has no version 2")));
    assert_eq!(served.post("/v2/models/twice/infer", "no request".to_owned()).await.0, 400);
    assert_eq!(served.post("/v2/models/twice/infer", " ".repeat((1 << 20) + 1)).await.0, 413);
    // NaN travels as bytes.
    let nan = ModelInferRequest {
        model_name: "twice".into(),
        inputs: vec![InferTensor {
            name: "x".into(),
            datatype: "FP32".into(),
            shape: vec![1, 1],
            ..InferTensor::default()
        }],
        raw_input_contents: vec![f32::NAN.to_le_bytes().to_vec().into()],
        ..ModelInferRequest::default()
    };
    let refused = served.ask::<_, ModelInferResponse>("ModelInfer", nan.clone(), "").await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::InvalidArgument, "row 0: feature `x` is NaN"));
    let large = ModelInferRequest { id: "x".repeat((1 << 20) + 1), ..nan };
    let refused = served.ask::<_, ModelInferResponse>("ModelInfer", large, "").await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange, "{refused}");
    good().await;
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_answered_together_and_one_that_fails_spoils_no_other() {
    if !has_library("requests_are_answered_together_and_one_that_fails_spoils_no_other") {
        return;
    }
    let served = Served::start("{ inference: { limits: { batch: 13, wait: 1s } } }").await;
    served.golden("picky").await;
    let engine = &served.server.engine;
    let caller = engine.authenticate(None).await.unwrap();
    let ask = |values: Vec<f32>| {
        let (engine, caller) = (engine.clone(), caller.clone());
        async move {
            let input = Tensor::new("x", &[values.len() as i64, 1], Elements::Float32(values)).unwrap();
            let asked =
                InferRequest { model: "picky".into(), inputs: vec![input], ..InferRequest::default() };
            engine.infer(&caller, asked).await.map(|answer| answer.outputs[0].elements.clone())
        }
    };
    // Loads it; nothing has to wait for more rows.
    assert_eq!(ask(vec![4.0; 13]).await, Ok(Elements::Float32(vec![40.0; 13])));
    // Thirteen rows: all that one run waits for. 10 fails in the graph, NaN before.
    let requests = [
        vec![0.0],
        vec![1.0, 2.0],
        vec![10.0],
        vec![f32::NAN],
        vec![3.0, 4.0, 5.0],
        vec![6.0],
        vec![7.0, 8.0, 9.0, 0.0],
    ];
    let said = futures::future::join_all(requests.iter().cloned().map(&ask)).await;
    for (values, said) in requests.iter().zip(said) {
        match values[0] {
            10.0 => assert!(said.unwrap_err().to_string().contains("has no answer")),
            value if value.is_nan() => assert_eq!(said.unwrap_err().to_string(), "row 0: feature `x` is NaN"),
            _ => {
                let expected = values.iter().map(|value| 10.0 * value).collect();
                assert_eq!(said, Ok(Elements::Float32(expected)));
            }
        }
    }
    let text = engine.metrics();
    for line in [
        "isobar_inference_run_requests_sum{topology=\"t\"} 8",
        "isobar_inference_run_requests_count{topology=\"t\"} 2",
        "isobar_inference_rows_total{topology=\"t\"} 24",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_takes_over_when_its_alias_moves_and_one_that_cannot_be_loaded_does_not() {
    if !has_library("a_version_takes_over_when_its_alias_moves_and_one_that_cannot_be_loaded_does_not") {
        return;
    }
    let served = Served::start("{ inference: { refresh: 100ms } }").await;
    served.golden("twice").await;
    let x = floats("x", &[1, 1], &[2.0]);
    let (_, said) = served.infer("twice", &x).await;
    assert_eq!((&said["model_version"], &said["outputs"][0]["data"]), (&json!("1"), &json!([4.0])));
    served.register("twice", &golden("picky.onnx"), &json!([]), None).await;
    let (_, said) = served.infer("twice", &x).await;
    assert_eq!(said["model_version"], json!("1"), "nobody has decided for the newest version");
    served.writer.promote("twice", &Which::Version(2), "champion").await.unwrap();
    let until = |version: &'static str| {
        let (served, x) = (&served, &x);
        async move {
            loop {
                let (status, said) = served.infer("twice", x).await;
                assert_eq!(status, 200, "{said}");
                if said["model_version"] == version {
                    return said;
                }
                tokio::task::yield_now().await;
            }
        }
    };
    assert_eq!(until("2").await["outputs"][0]["data"], json!([20.0]));

    served.register("twice", &broken(), &json!([]), Some("champion")).await;
    let (status, said) = served.post("/v2/models/twice/versions/3/infer", x.to_string()).await;
    assert!(status == 500 && said["error"].to_string().contains("version 3"), "{said}");
    // The champion goes on being the one that answers.
    assert_eq!(served.infer("twice", &x).await.1["model_version"], json!("2"));
    served.stop().await;
}

/// The records of served vectors, by their ids.
async fn logged(broker: &EmbeddedBroker) -> BTreeMap<String, Json> {
    let config = KafkaConfig::new([broker.bootstrap_servers()], "reader");
    let mut source = KafkaSource::start(&config, vec![(TopicPartition::new(VECTORS, 0), 0)]).unwrap();
    let mut found = BTreeMap::new();
    loop {
        match source.next().await.unwrap() {
            SourceEvent::Chunk(chunk) => {
                for index in 0..chunk.len() {
                    let key = String::from_utf8(chunk.key(index).unwrap().to_vec()).unwrap();
                    let record: Json = serde_json::from_slice(chunk.payload(index).unwrap()).unwrap();
                    assert_eq!(record["id"], key.as_str());
                    assert_eq!(found.insert(key, record), None, "an id is there once");
                }
            }
            SourceEvent::EndOfPartition { .. } => break,
            other => panic!("{other:?}"),
        }
    }
    Box::new(source).close().await;
    found
}

/// Of each record the values and the prediction, in the order of the values.
fn vectors_of(records: &BTreeMap<String, Json>) -> Vec<(Json, Json)> {
    let mut vectors: Vec<(Json, Json)> = records
        .values()
        .map(|record| (record["feature_values"].clone(), record["prediction"].clone()))
        .collect();
    vectors.sort_by(|one, other| one.0[0].as_f64().unwrap().total_cmp(&other.0[0].as_f64().unwrap()));
    vectors
}

fn raw_floats(model: &str, values: &[f32]) -> ModelInferRequest {
    ModelInferRequest {
        model_name: model.into(),
        inputs: vec![InferTensor {
            name: "x".into(),
            datatype: "FP32".into(),
            shape: vec![values.len() as i64, 1],
            ..InferTensor::default()
        }],
        raw_input_contents: vec![Elements::Float32(values.to_vec()).to_raw().into()],
        ..ModelInferRequest::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_row_that_is_answered_is_written_and_no_other() {
    if !has_library("every_row_that_is_answered_is_written_and_no_other") {
        return;
    }
    let broker = EmbeddedBroker::start(&[(VECTORS, 1)]).unwrap();
    let served = Served::start_logging(&broker.bootstrap_servers(), "").await;
    let manifest = served.golden("twice").await;
    let before = Utc::now();
    let mut body = floats("x", &[2, 1], &[1.5, -2.0]);
    // Callers may say the same id as often as they like.
    body["id"] = json!("7");
    for _ in 0..2 {
        assert_eq!(served.infer("twice", &body).await.0, 200);
    }
    let asked = raw_floats("twice", &[0.1]);
    let said: ModelInferResponse = served.ask("ModelInfer", asked, "").await.unwrap();
    assert_eq!(said.raw_output_contents[0].to_vec(), 0.2_f32.to_le_bytes());
    // What is not answered is not written.
    let nan = raw_floats("twice", &[f32::NAN]);
    assert!(served.ask::<_, ModelInferResponse>("ModelInfer", nan, "").await.is_err());
    assert_eq!(served.infer("twice", &floats("x", &[1, 2], &[1.0, 2.0])).await.0, 400);
    let after = Utc::now();
    let engine = served.server.engine.clone();
    served.stop().await;
    let text = engine.metrics();
    for line in [
        "isobar_inference_log_records_total{outcome=\"stored\",topology=\"t\"} 5",
        "isobar_inference_log_records_waiting{topology=\"t\"} 0",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    let records = logged(&broker).await;
    let (tenth, fifth) = (f64::from(0.1_f32), f64::from(0.2_f32));
    let expected = [(-2.0, -4.0), (-2.0, -4.0), (tenth, fifth), (1.5, 3.0), (1.5, 3.0)];
    let expected = expected.map(|(value, prediction)| (json!([value]), json!(prediction)));
    assert_eq!(vectors_of(&records), expected);
    for record in records.values() {
        let of = (&record["model"], &record["model_version"], &record["model_sha256"], &record["keys"]);
        assert_eq!(of, (&json!("twice"), &json!(1), &json!(manifest.onnx.sha256), &json!({})), "{record}");
        let served_at: DateTime<Utc> = record["served_at"].as_str().unwrap().parse().unwrap();
        let micros = served_at.timestamp_micros();
        assert!((before.timestamp_micros()..=after.timestamp_micros()).contains(&micros), "{record}");
        assert_eq!(record.as_object().unwrap().len(), 8, "nothing else is said: {record}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_log_has_no_room_for_is_counted_and_nobody_waits() {
    if !has_library("what_the_log_has_no_room_for_is_counted_and_nobody_waits") {
        return;
    }
    // Nobody listens there.
    let served = Served::start_logging("127.0.0.1:1", ", buffer: 1MiB").await;
    served.golden("twice").await;
    let values: Vec<f32> = (0..10_000).map(|value| value as f32).collect();
    let (status, said) = served.infer("twice", &floats("x", &[values.len(), 1], &values)).await;
    assert_eq!((status, &said["outputs"][0]["data"][9_999]), (200, &json!(19_998.0)));
    let count = |name: &str| {
        let text = served.server.engine.metrics();
        let line =
            text.lines().find(|line| line.starts_with(&format!("isobar_inference_log_records_{name}")));
        line.and_then(|line| line.split(' ').next_back()?.parse::<u64>().ok()).unwrap_or_default()
    };
    let lost = count("total{outcome=\"lost\"");
    assert!((1..10_000).contains(&lost), "{lost}");
    // Those that found room are made into records while nobody waits for it.
    while count("waiting") < 10_000 - lost {
        tokio::task::yield_now().await;
    }
    // The next has none left, and is answered too.
    assert_eq!(served.infer("twice", &floats("x", &[100, 1], &values[..100])).await.0, 200);
    assert!(count("total{outcome=\"lost\"") > lost);
    served.shutdown.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_answered_that_is_not_written_where_that_is_required() {
    if !has_library("nothing_is_answered_that_is_not_written_where_that_is_required") {
        return;
    }
    let broker = EmbeddedBroker::start(&[(VECTORS, 1)]).unwrap();
    let log = ", required: true, patience: 300ms, buffer: 1MiB";
    let served = Served::start_logging(&broker.bootstrap_servers(), log).await;
    served.golden("twice").await;
    // The first connects, which may take longer than a request waits.
    let answered = async |value: f32| {
        while served.infer("twice", &floats("x", &[1, 1], &[value])).await.0 != 200 {
            tokio::task::yield_now().await;
        }
    };
    answered(1.0).await;
    broker.set_down(true).unwrap();
    let (status, said) = served.refused("twice", &floats("x", &[1, 1], &[2.0])).await;
    assert!(status == 503 && said.contains("the log of served vectors cannot be written"), "{status} {said}");
    broker.set_down(false).unwrap();
    answered(3.0).await;
    let values = [0.0; 10_000];
    let (status, said) = served.refused("twice", &floats("x", &[values.len(), 1], &values)).await;
    assert!(status == 422 && said.contains("send fewer"), "{status} {said}");
    served.stop().await;
    let vectors = vectors_of(&logged(&broker).await);
    for value in [1.0, 3.0] {
        assert!(vectors.contains(&(json!([value]), json!(2.0 * value))), "{vectors:?}");
    }
    assert!(
        !vectors.contains(&(json!([0.0]), json!(0.0))),
        "what was refused before it was run is not there"
    );
}
