//! Online look-ups: a store follows a dataset through commits, compactions, restarts and clouds that go away, and says what a query
//! says at the same version, and what the ledger of the test says too.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::Request;
use isobar_connectors::clouds::{Cloud, Fault};
use isobar_tests::delta::{Log, Table};
use isobar_tests::events::{
    self, FEATURES, FEATURES_YAML, Generator, Row, TOPIC, Value, maintained_features,
};
use isobar_tests::lab::{Lab, Spec};
use isobar_tests::prng::Seed;
use isobar_tests::program::run_isobar;
use isobar_tests::wait::{in_time, until};
use isobar_topologies::online::http::{Access, Anyone, Reads, router};
use isobar_topologies::online::verify::{Report, Sample, verify_server, verify_store};
use isobar_topologies::online::{OnlineViews, ViewStatus};
use isobar_topologies::serve::{Refusal, serve_http};
use isobar_topologies::spec::Topology;
use serde_json::{Value as Json, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Four files are enough to combine them, and every fifth version has a checkpoint.
const COMPACT: &str = "{ compact: { min_files: 4 }, checkpoint_every: 5 }";
const VIEW: &str = "online:
  - dataset: features
    keys: [city, items]
    time: at
    sequence: [kafka_partition, kafka_offset]
";
/// Records of a commit.
const RECORDS: usize = 60;
/// How often the clouds are asked: often, because tests wait for it.
const INTERVAL: Duration = Duration::from_millis(20);

fn spec(lab: &Lab, datasets: &str, view: &str) -> Spec {
    lab.spec(events::SOURCE, &format!("{datasets}{view}"))
}

/// Views that are followed in a folder until they are stopped.
struct Following {
    views: OnlineViews,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl Following {
    fn start(topology: &Topology, clouds: Vec<Cloud>, folder: &Path) -> Self {
        let views = OnlineViews::new(topology);
        let shutdown = CancellationToken::new();
        let (followed, folder, token) = (views.clone(), folder.to_owned(), shutdown.clone());
        let task = tokio::spawn(async move {
            followed.follow(&clouds, &folder, 64 << 20, INTERVAL, token).await;
        });
        Self { views, shutdown, task }
    }

    fn status(&self) -> ViewStatus {
        self.views.view(FEATURES).expect("there is this view").status(0)
    }

    async fn reached(&self, version: u64) {
        let has_it = || self.status().version.is_some_and(|reached| reached >= version);
        until("the view has the version", async || has_it()).await;
    }

    async fn stop(self) {
        self.shutdown.cancel();
        in_time("stopping to follow", self.task).await.unwrap();
        // The last reader of the store goes with the views.
        drop(self.views);
    }
}

async fn newest_version(lab: &Lab) -> u64 {
    lab.versions(FEATURES).await.into_iter().flatten().max().expect("something was committed")
}

async fn compactions(lab: &Lab) -> usize {
    let log = Log::read(&*lab.clouds[0].store(), FEATURES).await;
    log.versions.iter().filter(|version| version.info()["operation"] == "OPTIMIZE").count()
}

/// A store's answer for everything, which must be the query's.
async fn compared(lab: &Lab, topology: &Topology, folder: &Path) -> Report {
    let report = verify_store(topology, &lab.opened(), &topology.online[0], folder, Sample::default()).await;
    let report = report.unwrap();
    assert!(report.holds() && report.compared == report.entities, "{report:#?}");
    report
}

/// A key and the place of a row: what decides between rows of the same key.
type Newest = BTreeMap<(String, i64), ((i64, i64, i64), Row)>;

/// The newest row of each key, from the rows of a table.
fn newest_rows(table: &Table) -> Newest {
    let mut newest = Newest::new();
    for row in table.files.iter().flat_map(|file| &file.rows) {
        let (Value::Text(city), Value::Int(items), Value::Micros(at)) =
            (&row["city"], &row["items"], &row["at"])
        else {
            continue;
        };
        let (Value::Int(partition), Value::Int(offset)) = (&row["kafka_partition"], &row["kafka_offset"])
        else {
            panic!("a row without a position: {row:?}")
        };
        let place = (*at, *partition, *offset);
        let held = newest.entry((city.clone(), *items)).or_insert_with(|| (place, row.clone()));
        if place > held.0 {
            *held = (place, row.clone());
        }
    }
    newest
}

/// Views behind HTTP on this machine.
struct Server {
    url: String,
    http: reqwest::Client,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl Server {
    async fn start(views: &OnlineViews, access: Arc<dyn Access>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let shutdown = CancellationToken::new();
        let task = serve_http(listener, router(views.clone(), access), shutdown.clone());
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { url, http, shutdown, task }
    }

    /// After this nobody reads from a store any more.
    async fn stop(self) {
        self.shutdown.cancel();
        drop(self.http);
        in_time("stopping to serve", self.task).await.unwrap();
    }

    async fn get(&self, path: &str) -> (u16, Json) {
        answered(self.http.get(format!("{}{path}", self.url))).await
    }

    async fn post(&self, path: &str, body: &Json) -> (u16, Json) {
        answered(self.http.post(format!("{}{path}", self.url)).body(body.to_string())).await
    }
}

async fn answered(request: reqwest::RequestBuilder) -> (u16, Json) {
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    let text = response.text().await.unwrap();
    (status, serde_json::from_str(&text).unwrap_or_else(|_| text.into()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_follows_commits_and_compactions_through_restarts_and_says_what_a_query_says() {
    let lab = Lab::in_directories();
    let mut records = Generator::mixed(Seed::of("online").prng());
    let topology = spec(&lab, &maintained_features(COMPACT), VIEW).resolved();
    let folder = lab.directory.path().join("online");
    let running = lab.start(&topology);
    running.ready().await;
    lab.commit(&running, &mut records, RECORDS).await;
    let mut last = 0;
    for restart in 0..4 {
        let following = Following::start(&topology, lab.opened(), &folder);
        let wanted = compactions(&lab).await + 1;
        until("commits and a compaction went by", async || {
            lab.commit(&running, &mut records, RECORDS).await;
            compactions(&lab).await >= wanted
        })
        .await;
        // Also in the middle of things, every other time.
        if restart % 2 == 0 {
            following.reached(newest_version(&lab).await).await;
        } else {
            following.reached(last + 1).await;
        }
        following.stop().await;
        // What goes on meanwhile does not matter: it is compared at the version of the store.
        lab.commit(&running, &mut records, RECORDS).await;
        let report = compared(&lab, &topology, &folder).await;
        assert!(report.versions[0] > last, "{report:?} after {last}");
        last = report.versions[0];
    }
    lab.wait_until_equal(FEATURES).await;
    running.stop().await.unwrap();

    let following = Following::start(&topology, lab.opened(), &folder);
    following.reached(newest_version(&lab).await).await;
    let server = Server::start(&following.views, Arc::new(Anyone)).await;
    let (table, _) = lab.tables(&lab.clouds[1], FEATURES).await;
    let newest = newest_rows(&table);
    assert!(newest.len() > 100, "{} entities", newest.len());
    let keys: Vec<Json> =
        newest.keys().map(|(city, items)| json!({ "city": city, "items": items })).collect();
    let (status, answer) = server
        .post("/v1/datasets/features/features", &json!({ "keys": keys, "features": ["id", "many"] }))
        .await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["version"], newest_version(&lab).await);
    for ((key, (place, row)), result) in newest.iter().zip(answer["results"].as_array().unwrap()) {
        let Value::Int(id) = row["id"] else { panic!("a row without an id") };
        let many = match row["many"] {
            Value::Bool(many) => Json::Bool(many),
            _ => Json::Null,
        };
        assert_eq!(result["status"], "found", "{key:?}");
        assert_eq!(result["row"], json!({ "id": id, "many": many }), "{key:?}");
        let time = chrono::DateTime::parse_from_rfc3339(result["event_time"].as_str().unwrap()).unwrap();
        assert_eq!(time.timestamp_micros(), place.0, "{key:?}");
    }
    assert_eq!(following.status().entities, Some(newest.len() as u64));
    server.stop().await;
    following.stop().await;
    assert_eq!(compared(&lab, &topology, &folder).await.entities, newest.len() as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cloud_that_is_away_stops_no_view_and_all_of_them_only_what_is_new() {
    let lab = Lab::in_directories();
    let mut records = Generator::mixed(Seed::of("online, away").prng());
    let topology = spec(&lab, FEATURES_YAML, VIEW).resolved();
    let folder = lab.directory.path().join("online");
    let running = lab.start(&topology);
    running.ready().await;
    lab.commit(&running, &mut records, RECORDS).await;
    let following = Following::start(&topology, lab.opened(), &folder);
    following.reached(newest_version(&lab).await).await;
    lab.cloud("aws").switch.set(Fault::RefuseAll);
    lab.commit(&running, &mut records, RECORDS).await;
    let newest = newest_version(&lab).await;
    following.reached(newest).await;
    lab.cloud("aws").switch.set(Fault::Off);
    running.stop().await.unwrap();
    for cloud in &lab.clouds {
        cloud.switch.set(Fault::RefuseAll);
    }
    until("the view says that it gets no answer", async || following.status().failing).await;
    let server = Server::start(&following.views, Arc::new(Anyone)).await;
    let key = json!({ "keys": [{ "city": "Oslo", "items": "3" }] });
    let (status, answer) = server.post("/v1/datasets/features/features", &key).await;
    assert_eq!((status, &answer["version"]), (200, &newest.into()), "{answer}");
    for cloud in &lab.clouds {
        cloud.switch.set(Fault::Off);
    }
    until("the view is followed again", async || !following.status().failing).await;
    server.stop().await;
    following.stop().await;
    compared(&lab, &topology, &folder).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_is_built_again_when_its_columns_change() {
    let lab = Lab::in_directories();
    let mut records = Generator::mixed(Seed::of("online, columns").prng());
    let before = spec(&lab, FEATURES_YAML, VIEW).resolved();
    let folder = lab.directory.path().join("online");
    lab.produce(TOPIC, records.records(200));
    lab.run_until_caught_up(&before).await.unwrap();
    let following = Following::start(&before, lab.opened(), &folder);
    following.reached(newest_version(&lab).await).await;

    // A column more in the dataset, while the store is followed.
    let more = FEATURES_YAML.replace("items > 10 AS many,", "items > 10 AS many, amount * 2 AS twice,");
    let after = spec(&lab, &more, VIEW).resolved();
    lab.produce(TOPIC, records.records(200));
    lab.run_until_caught_up(&after).await.unwrap();
    following.reached(newest_version(&lab).await).await;
    let server = Server::start(&following.views, Arc::new(Anyone)).await;
    let (table, _) = lab.tables(&lab.clouds[0], FEATURES).await;
    let newest = newest_rows(&table);
    let ((city, items), _) = newest.iter().next_back().unwrap();
    let key = json!({ "keys": [{ "city": city, "items": items }] });
    let (status, answer) = server.post("/v1/datasets/features/features", &key).await;
    assert_eq!(status, 200, "{answer}");
    let columns = answer["columns"].as_array().unwrap();
    assert!(columns.len() == 5 && columns.contains(&json!("twice")), "{columns:?}");
    server.stop().await;
    following.stop().await;
    compared(&lab, &after, &folder).await;

    // And fewer in the specification, after a restart.
    let fewer = spec(&lab, &more, &format!("{VIEW}    features: [twice]\n")).resolved();
    let error = verify_store(&fewer, &lab.opened(), &fewer.online[0], &folder, Sample::default()).await;
    assert!(error.unwrap_err().to_string().contains("made for other columns"));
    let following = Following::start(&fewer, lab.opened(), &folder);
    following.reached(newest_version(&lab).await).await;
    following.stop().await;
    compared(&lab, &fewer, &folder).await;
}

/// Who has the token `reader` may read the features, and nobody else anything.
struct Readers;

/// What was shown: `Bearer` and the token.
struct Shown(String);

impl Access for Readers {
    fn reader(&self, request: &Request) -> Result<Box<dyn Reads>, Refusal> {
        match request.headers().get("authorization") {
            None => Err(Refusal::Unauthenticated("show a token".to_owned())),
            Some(shown) if shown == "Bearer stranger" => {
                Err(Refusal::Forbidden("you have no role".to_owned()))
            }
            Some(shown) => Ok(Box::new(Shown(shown.to_str().unwrap().to_owned()))),
        }
    }
}

impl Reads for Shown {
    fn may_read(&self, dataset: &str) -> Result<(), Refusal> {
        match (self.0.as_str(), dataset) {
            ("Bearer reader", FEATURES) => Ok(()),
            _ => Err(Refusal::NotFound("there is nothing of this name for you".to_owned())),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_answered_or_refused_with_what_is_wrong() {
    let lab = Lab::in_memory();
    let topology = spec(&lab, FEATURES_YAML, &format!("{VIEW}    ttl: 1h\n")).resolved();
    let directory = tempfile::tempdir().unwrap();
    lab.produce(TOPIC, Generator::mixed(Seed::of("online, http").prng()).records(300));
    let following = Following::start(&topology, lab.opened(), directory.path());
    let server = Server::start(&following.views, Arc::new(Anyone)).await;
    let path = "/v1/datasets/features/features";
    let key = json!({ "city": "Oslo", "items": 3 });

    // Nothing is committed yet.
    let (status, answer) = server.post(path, &json!({ "keys": [key] })).await;
    assert_eq!(status, 503, "{answer}");
    lab.run_until_caught_up(&topology).await.unwrap();
    let newest = newest_version(&lab).await;
    following.reached(newest).await;

    let (status, answer) =
        server.get(&format!("{path}?city=Oslo&items=3&min_version={newest}&ttl=10m")).await;
    assert_eq!(status, 200, "{answer}");
    // The events are decades old or far in the future, so that it does not matter when this runs.
    let now_us = chrono::Utc::now().timestamp_micros();
    let (table, _) = lab.tables(&lab.clouds[0], FEATURES).await;
    let expected = match newest_rows(&table).get(&("Oslo".to_owned(), 3)) {
        Some(((at, ..), _)) if *at > now_us => "found",
        Some(_) => "expired",
        None => "not_found",
    };
    assert_eq!(answer["results"][0]["status"], expected);
    assert_eq!(answer["dataset"], "features");
    let (status, answer) = server.post(path, &json!({ "keys": [{ "city": "nowhere", "items": 3 }] })).await;
    assert_eq!((status, &answer["results"]), (200, &json!([{ "status": "not_found", "row": null }])));
    let ours = json!({ "datasets": { "features": { "keys": [key, key], "features": ["id"] } } });
    let (status, answer) = server.post("/v1/features", &ours).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["answers"]["features"]["results"].as_array().unwrap().len(), 2);
    let (status, answer) = server.get("/v1/online").await;
    assert_eq!((status, &answer["views"][0]["version"]), (200, &newest.into()), "{answer}");
    assert_eq!(answer["views"][0]["keys"], json!(["city", "items"]));

    let many: Vec<&Json> = vec![&key; 1001];
    for (body, status, why) in [
        (json!({ "keys": many }), 422, "one request takes 1000"),
        (json!({ "keys": [{ "city": "Oslo" }] }), 400, "the key column items is missing"),
        (json!({ "keys": [{ "city": "Oslo", "items": 3, "id": 1 }] }), 400, "there is no key column id"),
        (json!({ "keys": [{ "city": "Oslo", "items": 3.5 }] }), 400, "key items: 3.5 is no Int32"),
        (json!({ "keys": [{ "city": "Oslo", "items": "many" }] }), 400, "`many` is no whole number"),
        (json!({ "keys": [{ "city": 7, "items": 3 }] }), 400, "key city: 7 is no Utf8"),
        (json!({ "keys": [{ "city": null, "items": 3 }] }), 400, "null is no key"),
        (json!({ "keys": ["Oslo"] }), 400, "a key is an object here"),
        (json!({ "keys": [key], "ttl": "2h" }), 400, "can only be made shorter"),
        (json!({ "keys": [key], "ttl": "soon" }), 400, "is not a duration"),
        (json!({ "keys": [key], "features": ["city"] }), 400, "features has no feature city"),
        (json!({ "keys": [key], "order": "id" }), 400, "unknown field `order`"),
        (json!([key]), 400, "the body"),
        (json!({ "keys": [key], "min_version": newest + 1 }), 503, "is asked for; try again"),
    ] {
        let (found, answer) = server.post(path, &body).await;
        assert_eq!(found, status, "{body}: {answer}");
        assert!(answer["detail"].as_str().unwrap().contains(why), "{body}: {answer}");
    }
    let (_, answer) = server.post(path, &json!({ "keys": [key], "min_version": newest + 1 })).await;
    assert_eq!(answer["version"], newest);
    let (_, answer) = server.post(path, &json!({ "keys": many })).await;
    assert_eq!((&answer["limit"], &answer["type"]), (&json!("keys"), &json!("urn:isobar:problem:too_much")));
    for (path, status) in [
        ("/v1/datasets/nothing/features?city=Oslo&items=3", 404),
        ("/v1/datasets/features/features?city=Oslo&items=3&items=4", 400),
        ("/v1/datasets/features/features?city=Oslo", 400),
        ("/v1/datasets/features/features?city=Oslo&items=3&min_version=x", 400),
    ] {
        let (found, answer) = server.get(path).await;
        assert_eq!(found, status, "{path}: {answer}");
        assert!(answer["detail"].is_string(), "{path}: {answer}");
    }

    let guarded = Server::start(&following.views, Arc::new(Readers)).await;
    let asked = |path: &str, token: Option<&str>| {
        let request = guarded.http.post(format!("{}{path}", guarded.url));
        let request = request.body(json!({ "keys": [key] }).to_string());
        token.into_iter().fold(request, |request, token| request.bearer_auth(token))
    };
    assert_eq!(answered(asked(path, None)).await.0, 401);
    assert_eq!(answered(asked(path, Some("reader"))).await.0, 200);
    assert_eq!(answered(asked(path, Some("other"))).await.0, 404);
    assert_eq!(answered(asked("/v1/datasets/nothing/features", Some("reader"))).await.0, 404);
    // Who may read nothing here has an empty list; who may not even ask is told so.
    let listed = async |token: &str| {
        answered(guarded.http.get(format!("{}/v1/online", guarded.url)).bearer_auth(token)).await
    };
    assert_eq!(listed("reader").await.1["views"].as_array().unwrap().len(), 1);
    assert_eq!(listed("other").await, (200, json!({ "views": [] })));
    assert_eq!(listed("stranger").await.0, 403);
    guarded.stop().await;
    server.stop().await;
    following.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_online_tells_a_store_and_a_server_that_are_right_from_one_that_is_not() {
    let lab = Lab::in_directories();
    let mut records = Generator::mixed(Seed::of("online, verify").prng());
    let spec = spec(&lab, FEATURES_YAML, VIEW);
    let topology = spec.resolved();
    let folder = lab.directory.path().join("online");
    let running = lab.start(&topology);
    running.ready().await;
    lab.commit(&running, &mut records, 300).await;
    let following = Following::start(&topology, lab.opened(), &folder);
    following.reached(newest_version(&lab).await).await;
    let server = Server::start(&following.views, Arc::new(Anyone)).await;
    let written = spec.written();
    let (file, folder) = (text(&written), text(&folder));

    // The server, while commits go on.
    lab.commit(&running, &mut records, RECORDS).await;
    let sample = Sample { keys: Some(50), seed: 7 };
    let view = &topology.online[0];
    let report = verify_server(&topology, &lab.opened(), view, &server.url, None, sample).await.unwrap();
    assert!(report.holds() && report.compared == 50, "{report:#?}");
    let arguments =
        ["verify-online", file, "features", "--url", &server.url, "--sample", "50", "--format", "json"];
    let output = run_isobar(&arguments).await;
    assert_eq!(output.code, Some(0), "{output}");
    let found: Json = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(found["datasets"][0]["compared"], 50);
    let output = run_isobar(&["verify-online", file, "--directory", folder]).await;
    output.assert(2, &["a process has this store open"]);

    // A server that has lost everything, and one that has it from another day.
    for (status, counted) in [("not_found", "missing"), ("found", "different")] {
        let wrong = wrong_server(newest_version(&lab).await, status).await;
        let output =
            run_isobar(&["verify-online", file, "--url", &wrong, "--sample", "5", "--format", "json"]).await;
        assert_eq!(output.code, Some(1), "{output}");
        let found: Json = serde_json::from_str(&output.stdout).unwrap();
        assert_eq!(found["datasets"][0][counted], 5, "{found}");
        assert_eq!(found["datasets"][0]["examples"].as_array().unwrap().len(), 5);
    }
    server.stop().await;
    following.stop().await;
    running.stop().await.unwrap();
    let output = run_isobar(&["verify-online", file, "--directory", folder]).await;
    output.assert(0, &["features: equal at version"]);
    let output =
        run_isobar(&["verify-online", file, "--directory", folder, "--sample", "10", "--seed", "3"]).await;
    output.assert(0, &["10 of "]);
    let output = run_isobar(&["verify-online", file, "nothing", "--directory", folder]).await;
    output.assert(2, &["no online view of nothing"]);
    let output = run_isobar(&["verify-online", file, "--directory", text(&PathBuf::from("/nowhere"))]).await;
    output.assert(2, &["there is no store"]);
}

fn text(path: &Path) -> &str {
    path.to_str().expect("paths of tests are UTF-8")
}

/// Answers every look-up with `status` for each key and nothing else.
async fn wrong_server(version: u64, status: &'static str) -> String {
    let answer = move |body: String| async move {
        let asked: Json = serde_json::from_str(&body).unwrap();
        let keys = asked["keys"].as_array().unwrap().len();
        let result = json!({ "status": status, "event_time": null, "row": { "id": 0 } });
        axum::Json(json!({ "version": version, "results": vec![result; keys] }))
    };
    let app = axum::Router::new().route("/v1/datasets/features/features", axum::routing::post(answer));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    url
}
