//! `isobar serve` by HTTP, over plain sockets: the answers of `isobar query`, versions, tokens and roles, limits, and answers
//! that are cut off.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::ipc::reader::StreamReader;
use futures::TryStreamExt;
use isobar_tests::events::{self, FEATURES, FEATURES_YAML, Generator};
use isobar_tests::lab::{Lab, Spec};
use isobar_tests::prng::Seed;
use isobar_tests::program::{Background, isobar, run_isobar};
use isobar_tests::wait::until;
use isobar_topologies::query::catalog_in;
use isobar_topologies::serve::Server;
use isobar_topologies::spec::Topology;
use serde_json::{Value as Json, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

const ANALYST: &str = "token-of-the-analyst";
const ADMIN: &str = "token-of-the-admin";
const JSON: &str = "application/json";
const CSV: &str = "text/csv";
const ARROW: &str = "application/vnd.apache.arrow.stream";

/// All rows in the order of their positions.
const ROWS: &str = "SELECT * FROM features ORDER BY kafka_partition, kafka_offset";

/// An analyst who sees a part of the dataset, and somebody who sees all of it.
const ROLES: &str = "{ callers: { analyst: { token: \"${file:analyst}\", role: analyst }, admin: { token: \"${file:admin}\" } }, \
                     roles: { analyst: { datasets: { features: { rows: \"id % 2 = 0\", hide: [amount], hash: [city] } } } } }";

/// Rows that are looked up by key.
const ONLINE: &str =
    "online: [{ dataset: features, keys: [city], time: at, sequence: [kafka_partition, kafka_offset] }]";

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

/// What came back.
#[derive(Debug)]
struct Reply {
    status: u16,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
    /// Whether the body has its end: it was not cut off.
    is_whole: bool,
}

impl Reply {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn json(&self) -> Json {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The status, after it was held against the problem document.
    fn problem(&self) -> (u16, Json) {
        assert_eq!(self.headers["content-type"], "application/problem+json", "{}", self.text());
        let problem = self.json();
        assert_eq!(problem["status"], self.status);
        for field in ["type", "title", "detail"] {
            assert!(problem[field].as_str().is_some_and(|text| !text.is_empty()), "{problem}");
        }
        (self.status, problem)
    }

    /// A message of HTTP as it came.
    fn parse(bytes: &[u8]) -> Self {
        let end = bytes.windows(4).position(|at| at == b"\r\n\r\n").expect("an answer has a head");
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers: BTreeMap<String, String> = lines
            .map(|line| line.split_once(": ").unwrap())
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        let rest = &bytes[end + 4..];
        let (body, is_whole) = match headers.get("transfer-encoding").map(String::as_str) {
            Some("chunked") => unchunked(rest),
            _ => {
                let length: usize = headers["content-length"].parse().unwrap();
                (rest.to_vec(), rest.len() == length)
            }
        };
        Self { status, headers, body, is_whole }
    }
}

/// The bytes of chunks, and whether the last of them is there.
fn unchunked(mut rest: &[u8]) -> (Vec<u8>, bool) {
    let mut body = Vec::new();
    while let Some(end) = rest.windows(2).position(|at| at == b"\r\n") {
        let length = usize::from_str_radix(std::str::from_utf8(&rest[..end]).unwrap(), 16).unwrap();
        rest = &rest[end + 2..];
        if length == 0 {
            return (body, true);
        }
        body.extend_from_slice(&rest[..length.min(rest.len())]);
        rest = rest.get(length + 2..).unwrap_or_default();
    }
    (body, false)
}

fn message(method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> String {
    let mut text =
        format!("{method} {path} HTTP/1.1\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
    if !headers.iter().any(|(name, _)| *name == "Host") {
        text.push_str("Host: localhost\r\n");
    }
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    format!("{text}\r\n{body}")
}

async fn send(address: SocketAddr, message: &str) -> Reply {
    let mut connection = TcpStream::connect(address).await.unwrap();
    connection.write_all(message.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    // A connection that is reset in the middle is one of the outcomes.
    let _ = connection.read_to_end(&mut bytes).await;
    Reply::parse(&bytes)
}

/// A lab with some commits, and a server on its clouds.
struct Served {
    lab: Lab,
    spec: Spec,
    topology: Topology,
    address: SocketAddr,
    shutdown: CancellationToken,
    server: Server,
}

impl Served {
    /// `serve` is the YAML of that section.
    async fn start(seed: &'static str, serve: &str) -> Self {
        let lab = Lab::in_directories();
        let mut records = Generator::mixed(Seed::of(seed).prng());
        let mut spec = lab.spec(events::SOURCE, FEATURES_YAML);
        std::fs::write(spec.folder.join("analyst"), ANALYST).unwrap();
        std::fs::write(spec.folder.join("admin"), ADMIN).unwrap();
        spec.datasets.push_str(&format!("serve: {serve}\n"));
        let topology = spec.resolved();
        lab.fill(&topology, &mut records, 60).await;
        let shutdown = CancellationToken::new();
        let server = lab.serve(&topology, shutdown.clone()).await;
        Self { lab, spec, topology, address: server.address, shutdown, server }
    }

    async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Reply {
        send(self.address, &message("GET", path, headers, "")).await
    }

    async fn post(&self, question: &Json, headers: &[(&str, &str)]) -> Reply {
        send(self.address, &self.question(question, headers)).await
    }

    fn question(&self, question: &Json, headers: &[(&str, &str)]) -> String {
        let mut all = vec![("Content-Type", JSON)];
        all.extend_from_slice(headers);
        message("POST", "/v1/query", &all, &question.to_string())
    }

    async fn ask(&self, sql: &str, accept: &str) -> Reply {
        let reply = self.post(&json!({ "sql": sql }), &[("Accept", accept)]).await;
        assert_eq!((reply.status, reply.is_whole), (200, true), "{sql}: {}", reply.text());
        assert_eq!(reply.headers["content-type"], accept);
        reply
    }

    async fn newest(&self) -> u64 {
        self.lab.versions(FEATURES).await[0].unwrap()
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.server.stopped().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_answers_are_those_of_the_command_in_every_format() {
    let served = Served::start("serve-formats", "{}").await;
    let newest = served.newest().await;
    let spec = served.spec.written();
    let spec = spec.to_str().unwrap();
    for sql in [
        ROWS.to_owned(),
        format!("SELECT id, city FROM features VERSION AS OF {} ORDER BY id, city", newest - 1),
        "SELECT count(*) AS n, max(amount) AS most FROM features".to_owned(),
        "SELECT * FROM features WHERE false".to_owned(),
    ] {
        let printed = run_isobar(&["query", &sql, "--config", spec, "--format", "csv"]).await;
        printed.assert(0, &[]);
        let csv = served.ask(&sql, CSV).await;
        assert_eq!(csv.text(), printed.stdout, "{sql}");
        let printed = run_isobar(&["query", &sql, "--config", spec, "--format", "json"]).await;
        let json = served.ask(&sql, JSON).await.json();
        assert_eq!(json["rows"], serde_json::from_str::<Json>(&printed.stdout).unwrap(), "{sql}");
        assert_eq!(json["versions"][0]["table"], FEATURES);
        let version = &json["versions"][0]["version"];
        assert_eq!(csv.headers["isobar-versions"], format!("features={version}@aws"));

        let arrow = served.ask(&sql, ARROW).await;
        let reader = StreamReader::try_new(&arrow.body[..], None).unwrap();
        let schema = reader.schema();
        let found: Vec<RecordBatch> = reader.map(Result::unwrap).collect();
        let answer = catalog_in(&served.topology, &served.lab.opened()).unwrap().query(&sql).await.unwrap();
        let expected: Vec<RecordBatch> = answer.into_parts().0.try_collect().await.unwrap();
        let names: Vec<&Json> =
            json["columns"].as_array().unwrap().iter().map(|column| &column["name"]).collect();
        assert_eq!(names, schema.fields().iter().map(|field| field.name()).collect::<Vec<_>>());
        assert_eq!(
            concat_batches(&schema, &found).unwrap().columns(),
            concat_batches(&schema, &expected).unwrap().columns(),
            "{sql}"
        );
    }
    // The format of the body is stronger than that of the header.
    let reply = served.post(&json!({ "sql": "SELECT 1 AS one", "format": "csv" }), &[("Accept", JSON)]).await;
    assert_eq!((reply.text().as_str(), reply.headers["content-type"].as_str()), ("one\n1\n", CSV));
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_are_pinned_and_waited_for_by_the_question() {
    let served = Served::start("serve-versions", "{ refresh: 1h }").await;
    let newest = served.newest().await;
    let sql = "SELECT count(*) AS n FROM features";
    for version in 0..=newest {
        let pinned =
            served.post(&json!({ "sql": sql, "versions": { "features": version } }), &[]).await.json();
        let clause = served
            .ask(&format!("SELECT count(*) AS n FROM features VERSION AS OF {version}"), JSON)
            .await
            .json();
        assert_eq!(pinned["rows"], clause["rows"]);
        assert_eq!(pinned["versions"], json!([{ "table": FEATURES, "version": version, "cloud": "aws" }]));
    }
    let least = |version: u64| json!({ "sql": sql, "min_version": { "features": version } });
    assert_eq!(served.post(&least(newest), &[]).await.status, 200);
    let (status, problem) = served.post(&least(newest + 1), &[]).await.problem();
    assert_eq!(status, 503);
    assert!(problem["detail"].as_str().unwrap().contains(&format!("there is version {newest}")), "{problem}");
    let (status, _) =
        served.post(&json!({ "sql": sql, "versions": { "features": newest + 9 } }), &[]).await.problem();
    assert_eq!(status, 400);

    // What comes later is seen when the question wants it.
    let running = served.lab.start(&served.topology);
    let mut records = Generator::mixed(Seed::of("serve-later").prng());
    served.lab.commit(&running, &mut records, 50).await;
    served.lab.wait_until_equal(FEATURES).await;
    running.stop().await.unwrap();
    let later = served.newest().await;
    assert!(later > newest);
    let seen =
        async |question: &Json| served.post(question, &[]).await.json()["versions"][0]["version"].clone();
    assert_eq!(seen(&json!({ "sql": sql })).await, newest);
    assert_eq!(seen(&json!({ "sql": sql, "max_staleness": "0s" })).await, later);
    assert_eq!(seen(&json!({ "sql": sql })).await, later);
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_see_what_their_role_says_and_nothing_gets_around_it() {
    let served = Served::start("serve-roles", ROLES).await;
    for path in ["/v1/datasets", "/v1/datasets/features"] {
        for headers in
            [&[][..], &[("Authorization", "Bearer wrong-token-wrong-token")], &[("Authorization", ANALYST)]]
        {
            let reply = served.get(path, headers).await;
            assert_eq!(reply.problem().0, 401);
            assert_eq!(reply.headers["www-authenticate"], "Bearer");
        }
    }
    assert_eq!(served.post(&json!({ "sql": "SELECT 1" }), &[]).await.problem().0, 401);

    let analyst = bearer(ANALYST);
    let admin = bearer(ADMIN);
    let rows = async |token: &str, sql: &str| {
        let reply = served.post(&json!({ "sql": sql }), &[("Authorization", token)]).await;
        assert_eq!((reply.status, reply.is_whole), (200, true), "{sql}: {}", reply.text());
        reply.json()["rows"].clone()
    };
    let seen = rows(&admin, "SELECT count(*) AS n FROM features WHERE id % 2 = 0").await[0]["n"].clone();
    let all = rows(&admin, "SELECT count(*) AS n FROM features").await[0]["n"].clone();
    assert!(seen.as_u64().unwrap() > 0 && seen.as_u64() < all.as_u64(), "{seen} of {all}");
    let newest = served.newest().await;
    for sql in [
        "SELECT count(*) AS n FROM features".to_owned(),
        "SELECT count(*) AS n FROM isobar.datasets.features AS f WHERE f.id % 2 = 1 OR true".to_owned(),
        format!("SELECT count(*) AS n FROM features VERSION AS OF {newest}"),
        "SELECT count(*) AS n FROM features TIMESTAMP AS OF '2100-01-01'".to_owned(),
        "SELECT count(*) AS n FROM (SELECT * FROM features UNION ALL SELECT * FROM features WHERE false)".to_owned(),
        "WITH features AS (SELECT * FROM features) SELECT count(*) AS n FROM features".to_owned(),
        "SELECT count(*) AS n FROM features WHERE 1 / (id % 2 - 1) < 0".to_owned(),
        "SELECT count(*) AS n FROM features WHERE amount IS NULL".to_owned(),
        "SELECT count(*) AS n FROM features WHERE city IS NULL OR length(city) = 64".to_owned(),
        "SELECT sum(CASE WHEN id % 2 = 0 THEN 1 ELSE 100000 END) AS n FROM features".to_owned(),
        "SELECT count(*) FILTER (WHERE id % 2 = 0) AS n FROM features".to_owned(),
        "SELECT max(n) AS n FROM (SELECT row_number() OVER (ORDER BY kafka_partition, kafka_offset) AS n FROM features)"
            .to_owned(),
    ] {
        assert_eq!(rows(&analyst, &sql).await, json!([{ "n": seen }]), "{sql}");
    }
    for sql in [
        "SELECT count(*) AS n FROM features WHERE amount > 0 OR amount <= 0",
        "SELECT count(*) AS n FROM features WHERE city IN ('Berlin', 'Oslo', 'Lima', '')",
        "SELECT count(*) AS n FROM information_schema.tables WHERE table_name LIKE '%quarantine%'",
    ] {
        assert_eq!(rows(&analyst, sql).await, json!([{ "n": 0 }]), "{sql}");
    }
    let plan = rows(&analyst, "EXPLAIN ANALYZE SELECT * FROM features").await.to_string();
    for hidden in ["parquet", "id % 2", "quarantine"] {
        assert!(!plan.contains(hidden), "{hidden}: {plan}");
    }
    for sql in ["SELECT * FROM features_quarantine", "SELECT * FROM \"features.quarantine\" VERSION AS OF 1"]
    {
        let reply = served.post(&json!({ "sql": sql }), &[("Authorization", &analyst)]).await;
        let (status, problem) = reply.problem();
        assert_eq!(status, 400);
        assert!(problem["detail"].as_str().unwrap().ends_with("the tables are: features"), "{problem}");
    }
    let listed = served.get("/v1/datasets", &[("Authorization", &analyst)]).await.json();
    assert_eq!(listed["datasets"].as_array().unwrap().len(), 1);
    let listed = served.get("/v1/datasets", &[("Authorization", &admin)]).await.json();
    assert_eq!(listed["datasets"].as_array().unwrap().len(), 2, "{listed}");
    let features = served.get("/v1/datasets/features", &[("Authorization", &analyst)]).await.json();
    assert_eq!(
        (&features["version"], &features["columns"][1]),
        (&json!(newest), &json!({ "name": "city", "type": "Utf8", "nullable": true }),)
    );
    let absent = served.get("/v1/datasets/features_quarantine", &[("Authorization", &analyst)]).await;
    assert_eq!(absent.problem().0, 404);
    assert_eq!(
        served.get("/v1/datasets/features.quarantine", &[("Authorization", &admin)]).await.status,
        200
    );
    served.stop().await;
}

/// A look-up shows a row as it is, so that it is only for those who may see all of the dataset.
#[tokio::test(flavor = "multi_thread")]
async fn rows_are_looked_up_by_callers_who_see_all_of_them() {
    let served = Served::start("serve-look-ups", &format!("{ROLES}\n{ONLINE}")).await;
    let (analyst, admin) = (bearer(ANALYST), bearer(ADMIN));
    let newest = served.newest().await;
    let path = "/v1/datasets/features/features?city=Lima";
    until("the rows of the newest version can be looked up", async || {
        let reply = served.get("/v1/online", &[("Authorization", &admin)]).await;
        reply.status == 200 && reply.json()["views"][0]["version"] == newest
    })
    .await;
    let found = served.get(path, &[("Authorization", &admin)]).await;
    assert_eq!(found.status, 200, "{}", found.text());
    assert_eq!(found.json()["version"], newest);
    assert_eq!(served.get(path, &[]).await.problem().0, 401);
    assert_eq!(
        served.get(path, &[("Authorization", "Bearer wrong-token-wrong-token")]).await.problem().0,
        401
    );
    let (status, refused) = served.get(path, &[("Authorization", &analyst)]).await.problem();
    assert_eq!(status, 403);
    assert!(refused["detail"].as_str().unwrap().contains("ask with SQL"), "{refused}");
    let listed = served.get("/v1/online", &[("Authorization", &analyst)]).await;
    assert_eq!((listed.status, listed.json()), (200, json!({ "views": [] })));

    // Whoever shows no token is asked for one, whatever there is to be said about the rest.
    let post = async |path: &str, headers: &[(&str, &str)], body: &str| {
        send(served.address, &message("POST", path, headers, body)).await
    };
    let of_one = "/v1/datasets/features/features";
    let admins = [("Authorization", admin.as_str())];
    let too_long = "x".repeat((1 << 20) + 1);
    for (path, body) in [
        ("/v1/features", r#"{"datasets": {}}"#),
        ("/v1/features", "no question"),
        ("/v1/features", ""),
        (of_one, "no question"),
        ("/v1/datasets/%FF/features", "no question"),
    ] {
        assert_eq!(post(path, &[], body).await.problem().0, 401, "{path}: {body}");
    }
    for (path, body, status) in [
        ("/v1/features", "no question", 400),
        (of_one, "no question", 400),
        ("/v1/datasets/%FF/features", r#"{"keys": ["Lima"]}"#, 400),
        ("/v1/features", too_long.as_str(), 413),
        (of_one, too_long.as_str(), 413),
    ] {
        let (found, problem) = post(path, &admins, body).await.problem();
        assert_eq!(found, status, "{path}: {problem}");
        assert_eq!(problem["limit"], if status == 413 { json!("body") } else { Json::Null }, "{problem}");
    }
    // Without `Content-Type`, as `curl -d` does not send that of JSON.
    let several = r#"{"datasets": {"features": {"keys": ["Lima"]}}}"#;
    let several = post("/v1/features", &admins, several).await;
    assert_eq!(several.json()["answers"]["features"]["version"], newest, "{}", several.text());
    for answer in [&found, &several, &post(of_one, &[], "").await] {
        assert_eq!(answer.headers["x-content-type-options"], "nosniff");
        assert!(answer.headers["content-security-policy"].contains("default-src 'none'"));
    }
    let text = served.get("/metrics", &[("Authorization", &admin)]).await.text();
    for metric in ["isobar_online_version{dataset=\"features\"", "isobar_serve_queries_running"] {
        assert!(text.contains(metric), "{metric}: {text}");
    }
    let described = served.get("/openapi.json", &[]).await.json();
    assert!(described["paths"]["/v1/datasets/{name}/features"]["get"].is_object());
    served.stop().await;
}

/// A page elsewhere whose name leads here is not told anything by look-ups either.
#[tokio::test(flavor = "multi_thread")]
async fn without_tokens_rows_are_looked_up_on_this_machine_only() {
    let served = Served::start("serve-look-ups-open", &format!("{{}}\n{ONLINE}")).await;
    let of_one = "/v1/datasets/features/features";
    for (method, path, body) in [
        ("GET", "/v1/online", ""),
        ("GET", "/v1/datasets/features/features?city=Lima", ""),
        ("POST", of_one, r#"{"keys": ["Lima"]}"#),
        ("POST", "/v1/features", r#"{"datasets": {}}"#),
        ("POST", "/v1/features", "no question"),
    ] {
        let elsewhere = message(method, path, &[("Host", "attacker.example")], body);
        assert_eq!(send(served.address, &elsewhere).await.problem().0, 403, "{method} {path}");
        let here = send(served.address, &message(method, path, &[], body)).await;
        // 503 until the view is built.
        assert!([200, 400, 503].contains(&here.status), "{method} {path}: {}", here.text());
    }
    assert_eq!(served.get("/v1/online", &[]).await.status, 200);
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_problems_and_the_server_goes_on() {
    let serve =
        "{ limits: { time: 5s, memory: 1MiB, disk: 0B, rows: 1000, sql: 300B, running: 1, waiting: 0 } }";
    let served = Served::start("serve-limits", serve).await;
    for (sql, status, limit) in [
        (format!("SELECT '{}'", "x".repeat(300)), 413, "sql"),
        ("SELECT count(*) FROM generate_series(1, 1000000000000000)".to_owned(), 422, "time"),
        ("SELECT array_agg(value) FROM generate_series(1, 3000000)".to_owned(), 422, "memory"),
        ("SELECT value FROM generate_series(1, 30000)".to_owned(), 422, "rows"),
    ] {
        let reply = served.post(&json!({ "sql": sql }), &[]).await;
        let (found, problem) = reply.problem();
        assert_eq!((found, &problem["limit"]), (status, &json!(limit)), "{problem}");
        served.ask("SELECT count(*) AS n FROM features", JSON).await;
    }
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_goes_away_cancels_its_query() {
    let serve = "{ limits: { time: 1h, rows: 1000000000000, bytes: 1TiB, running: 1, waiting: 0 } }";
    let served = Served::start("serve-cancel", serve).await;
    let metrics = async || served.get("/metrics", &[]).await.text();
    let endless = json!({ "sql": "SELECT value FROM generate_series(1, 100000000000)", "format": "csv" });
    let counting = json!({ "sql": "SELECT count(*) FROM generate_series(1, 1000000000000000)" });
    for (number, question) in [endless, counting].iter().enumerate() {
        let mut connection = TcpStream::connect(served.address).await.unwrap();
        connection.write_all(served.question(question, &[]).as_bytes()).await.unwrap();
        until("the query runs", async || running(&metrics().await) == 1).await;
        let refused = served.post(&json!({ "sql": "SELECT 1" }), &[]).await;
        assert_eq!(refused.headers["retry-after"], "1");
        let (status, problem) = refused.problem();
        assert_eq!((status, &problem["limit"]), (429, &json!("waiting")));
        drop(connection);
        until("the query is cancelled", async || running(&metrics().await) == 0).await;
        let cancelled = metrics().await;
        assert_eq!(value(&cancelled, "isobar_serve_queries_total{outcome=\"cancelled\""), number as u64 + 1);
        served.ask("SELECT count(*) AS n FROM features", JSON).await;
    }
    served.stop().await;
}

/// The value of the first metric whose line begins so; 0 if there is none.
pub(crate) fn value(metrics: &str, begin: &str) -> u64 {
    let line = metrics.lines().find(|line| line.starts_with(begin));
    line.and_then(|line| line.rsplit(' ').next()).map_or(0, |value| value.parse().unwrap())
}

fn running(metrics: &str) -> u64 {
    value(metrics, "isobar_serve_queries_running")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_fails_half_way_is_recognised_in_every_format() {
    let served = Served::start("serve-half", "{ limits: { rows: 500000 } }").await;
    for sql in [
        "SELECT 10 / (value - 150000) AS x, value FROM generate_series(1, 200000)",
        "SELECT value FROM generate_series(1, 1000000)",
    ] {
        for accept in [JSON, CSV, ARROW] {
            let reply = served.post(&json!({ "sql": sql }), &[("Accept", accept)]).await;
            assert_eq!((reply.status, reply.is_whole), (200, false), "{accept}");
            match accept {
                JSON => assert!(serde_json::from_slice::<Json>(&reply.body).is_err()),
                // The mark of the end: a continuation, and no length.
                ARROW => assert!(!reply.body.ends_with(&[0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0])),
                _ => {}
            }
        }
    }
    let whole = served.ask("SELECT value FROM generate_series(1, 5)", ARROW).await;
    assert!(whole.body.ends_with(&[0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]));
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_question_is_a_problem() {
    let served = Served::start("serve-wrong", "{}").await;
    for (question, said) in [
        (json!({ "sql": "SELEC 1" }), "SELEC"),
        (json!({ "sql": "DROP TABLE features" }), "only queries"),
        (json!({ "sql": "COPY features TO '/tmp/isobar-must-not-exist.csv'" }), "only queries"),
        (json!({ "sql": "SELECT * FROM nowhere" }), "the tables are: features, features_quarantine"),
        (json!({ "sql": "SELECT 1 / 0 FROM features" }), "zero"),
        (json!({ "sql": "SELECT $1" }), "$1"),
        (json!({ "sql": "SELECT 1", "parameters": [[1]] }), "parameter 1"),
        (json!({ "sql": "SELECT 1", "verions": {} }), "verions"),
        (json!({ "sql": "SELECT 1", "format": "xml" }), "xml"),
        (json!({ "no": "sql" }), "no question"),
        (json!("SELECT 1"), "no question"),
    ] {
        let (status, problem) = served.post(&question, &[]).await.problem();
        assert_eq!(status, 400, "{problem}");
        assert!(problem["detail"].as_str().unwrap().contains(said), "{said}: {problem}");
        assert_eq!(problem["type"], "urn:isobar:problem:wrong");
    }
    let (status, _) = served.post(&json!({ "sql": "SELECT 1" }), &[("Accept", "image/png")]).await.problem();
    assert_eq!(status, 400);
    let form = message("POST", "/v1/query", &[("Content-Type", "text/plain")], r#"{"sql": "SELECT 1"}"#);
    assert_eq!(send(served.address, &form).await.problem().0, 400);
    let elsewhere = [("Host", "attacker.example"), ("Content-Type", JSON)];
    let elsewhere = message("POST", "/v1/query", &elsewhere, r#"{"sql": "SELECT 1"}"#);
    assert_eq!(send(served.address, &elsewhere).await.problem().0, 403);
    assert_eq!(served.get("/nowhere", &[]).await.problem().0, 404);
    let parameters =
        json!({ "sql": "SELECT $1 + 1 AS a, $2 AS b", "parameters": [41, "x"], "format": "csv" });
    assert_eq!(served.post(&parameters, &[]).await.text(), "a,b\n42,x\n");
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_beside_questions_is_there() {
    let served = Served::start("serve-beside", "{}").await;
    assert_eq!(served.get("/healthz", &[]).await.text(), "ok\n");
    assert_eq!(served.get("/readyz", &[]).await.text(), "ready\n");
    let description = served.get("/openapi.json", &[]).await.json();
    assert_eq!(description["openapi"], "3.1.0");
    let page = served.get("/", &[]).await;
    assert!(page.text().contains("isobar serve"));
    assert!(page.headers["content-security-policy"].contains("default-src 'none'"));
    served.ask("SELECT * FROM features", CSV).await;
    let metrics = served.get("/metrics", &[]).await.text();
    assert_eq!(value(&metrics, "isobar_serve_queries_total{outcome=\"ok\""), 1, "{metrics}");
    assert!(value(&metrics, "isobar_serve_answer_rows_total") > 0);
    let address = served.address;
    served.stop().await;
    assert!(TcpStream::connect(address).await.is_err(), "it listens no longer");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_serves_until_it_is_stopped_and_never_to_everybody() {
    let served = Served::start("serve-program", "{}").await;
    let spec = served.spec.written();
    let spec = spec.to_str().unwrap();
    run_isobar(&["serve", spec, "--listen", "0.0.0.0:0"])
        .await
        .assert(2, &["everybody who reaches", "serve.jwt", "127.0.0.1"]);
    let errors = served.lab.directory.path().join("serve.log");
    let mut command = isobar(&["--log-format", "json", "serve", spec, "--listen", "127.0.0.1:0"]);
    let program = Background::start(&mut command, &errors);
    let line: Json = serde_json::from_str(&program.says("\"serving\"").await).unwrap();
    let address: SocketAddr = line["address"].as_str().unwrap().parse().unwrap();
    let question = served.question(&json!({ "sql": ROWS, "format": "csv" }), &[]);
    let reply = send(address, &question).await;
    assert_eq!((reply.status, reply.is_whole), (200, true));
    assert_eq!(reply.text(), served.ask(ROWS, CSV).await.text());
    program.signal("TERM").await;
    program.ended().await.assert(0, &[]);
    served.stop().await;
}
