//! Queries whose parts run on workers, which are processes of the program: the answers of one process, whatever becomes of a worker.

use std::path::Path;

use isobar_tests::events::{FEATURES_YAML, Generator, SOURCE, TOPIC};
use isobar_tests::lab::{Lab, Spec, text_of};
use isobar_tests::prng::Seed;
use isobar_tests::program::{Background, http_get, isobar, run_isobar};
use isobar_tests::proxy::{Mode, Proxy};
use isobar_tests::wait::until;
use isobar_topologies::query::{Catalog, Reading, RowsFormat, Workers, catalog_reading};
use isobar_topologies::serve::Server;
use isobar_topologies::spec::Topology;
use serde_json::{Value as Json, json};
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::serve::value;

const SECRET: &str = "what-the-workers-of-these-tests-share";
const ANALYST: &str = "token-of-the-analyst";
const ADMIN: &str = "token-of-the-admin";
/// Queries during each of which the connection to a worker breaks.
const BROKEN: u64 = 8;

const QUESTIONS: [&str; 12] = [
    "SELECT * FROM features ORDER BY kafka_partition, kafka_offset",
    "SELECT city, count(*) AS n, sum(items) AS items, min(id) AS least FROM features GROUP BY city ORDER BY city",
    "SELECT count(*) AS n FROM features AS a JOIN features AS b USING (kafka_partition, kafka_offset) WHERE a.id = b.id",
    "SELECT a.city, count(b.id) AS n FROM features AS a LEFT JOIN features AS b ON a.id = b.id + 1 GROUP BY a.city ORDER BY a.city",
    "SELECT id, amount FROM features WHERE items > 5 ORDER BY id, kafka_partition, kafka_offset LIMIT 50",
    "SELECT kafka_partition, kafka_offset, row_number() OVER (PARTITION BY city ORDER BY kafka_partition, kafka_offset) AS n \
     FROM features ORDER BY kafka_partition, kafka_offset",
    "SELECT kafka_offset, sum(items) OVER (PARTITION BY kafka_partition ORDER BY kafka_offset) AS s, kafka_partition \
     FROM features ORDER BY kafka_partition, kafka_offset",
    "SELECT a.kafka_partition, a.kafka_offset, b.kafka_offset AS earlier FROM features AS a ASOF JOIN features AS b \
     MATCH_CONDITION (a.kafka_offset > b.kafka_offset) ON a.kafka_partition = b.kafka_partition AND a.city = b.city \
     ORDER BY a.kafka_partition, a.kafka_offset",
    "SELECT count(DISTINCT city) AS n, max(items) AS m FROM features VERSION AS OF 3",
    "SELECT 'now' AS label, count(id) AS n FROM features UNION ALL SELECT 'then', count(id) FROM features VERSION AS OF 2 \
     ORDER BY label",
    "SELECT id, city FROM features WHERE items = (SELECT max(items) FROM features) ORDER BY id, kafka_partition, kafka_offset",
    "SELECT city, upper(city) || '!' AS loud FROM features GROUP BY city ORDER BY city",
];

/// A lab with a table of several versions and files, and its spec, whose workers share a secret.
async fn filled() -> (Lab, Spec) {
    let seed = Seed::of("distributed");
    let lab = Lab::in_directories();
    let spec = lab.spec(SOURCE, FEATURES_YAML);
    let topology = spec.resolved();
    let mut generator = Generator::mixed(seed.prng());
    for _ in 0..6 {
        lab.produce(TOPIC, generator.records(400));
        lab.run_until_caught_up(&topology).await.unwrap();
    }
    for (name, secret) in
        [("secret", SECRET), ("analyst", ANALYST), ("admin", ADMIN), ("key", "key-of-all-hashes")]
    {
        std::fs::write(spec.folder.join(name), secret).unwrap();
    }
    (lab, spec)
}

/// `spec` with `further` entries of `serve`, for those who are asked by the workers at `urls`.
fn with_workers(spec: &Spec, secret: &str, urls: &[String], further: &str) -> Spec {
    let mut spec = spec.clone();
    let urls = urls.join(", ");
    spec.datasets.push_str(&format!(
        "serve: {{ workers: {{ urls: [{urls}], secret: \"${{file:{secret}}}\", share: 1KiB }}{further} }}\n"
    ));
    spec
}

/// A worker: the program.
struct Worker {
    program: Background,
    address: String,
}

impl Worker {
    async fn start(spec: &Spec, folder: &Path, name: &str) -> Self {
        let path = with_workers(spec, "secret", &[], "").written_as("workers.yaml");
        let path = path.to_str().unwrap();
        let mut command =
            isobar(&["--log-format", "json", "serve", path, "--worker", "--listen", "127.0.0.1:0"]);
        let program = Background::start(&mut command, &folder.join(format!("{name}.log")));
        let line: Json = serde_json::from_str(&program.says("working for other servers").await).unwrap();
        Self { address: line["address"].as_str().unwrap().to_owned(), program }
    }

    async fn two(spec: &Spec, folder: &Path) -> [Self; 2] {
        [Self::start(spec, folder, "first").await, Self::start(spec, folder, "second").await]
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    async fn metric(&self, name: &str) -> u64 {
        let (status, text) = http_get(&self.address, "/metrics").await.unwrap();
        assert_eq!(status, 200);
        value(&text, name)
    }
}

const ACCEPTED: &str = "isobar_worker_tasks_total{outcome=\"accepted\"";
const REFUSED: &str = "isobar_worker_tasks_total{outcome=\"refused\"";
const UNAUTHENTICATED: &str = "isobar_worker_unauthenticated_total";
const ON_WORKERS: &str = "isobar_workers_queries_total{ran=\"workers\"";
const LOST: &str = "isobar_workers_attempts_lost_total";

#[tokio::test(flavor = "multi_thread")]
async fn the_command_gives_the_same_rows_with_workers_as_without() {
    let (lab, spec) = filled().await;
    let folder = lab.directory.path();
    let workers = Worker::two(&spec, folder).await;
    let urls = workers.each_ref().map(Worker::url).join(",");
    let path = with_workers(&spec, "secret", &[], "").written();
    let path = path.to_str().unwrap();
    let ask = async |sql: &str, options: &[&str]| {
        let question = ["query", sql, "--config", path, "--format", "csv"];
        let answer = run_isobar(&[&question[..], options].concat()).await;
        answer.assert(0, &[]);
        answer.stdout
    };
    for sql in QUESTIONS {
        assert_eq!(ask(sql, &["--workers", &urls]).await, ask(sql, &[]).await, "{sql}");
    }
    for worker in &workers {
        assert!(worker.metric(ACCEPTED).await > 0);
        assert_eq!(worker.metric(REFUSED).await, 0);
        assert_eq!(worker.metric(UNAUTHENTICATED).await, 0);
    }
    // What is wrong is said as ever, and a worker that was never there is done without.
    let wrong =
        ["query", "SELECT 1 / (items - items) AS y FROM features", "--config", path, "--workers", &urls];
    run_isobar(&wrong).await.assert(2, &["the query failed"]);
    let sql = QUESTIONS[1];
    assert_eq!(ask(sql, &["--workers", "http://127.0.0.1:1"]).await, ask(sql, &[]).await);
    for url in ["ftp://a:1", "http://a:1/path", "http://user:hunter2@a:1", "nothing"] {
        let refused = run_isobar(&["query", sql, "--config", path, "--workers", url]).await;
        assert_eq!(refused.code, Some(2), "{refused}");
        assert!(refused.stderr.contains("worker") || refused.stderr.contains("URL"), "{refused}");
    }
    let without = spec.written_as("without.yaml");
    let refused = ["query", sql, "--config", without.to_str().unwrap(), "--workers", &urls];
    run_isobar(&refused).await.assert(2, &["workers need a secret"]);
    for worker in workers {
        worker.program.signal("TERM").await;
        worker.program.ended().await.assert(0, &[]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_answered_without_the_secret() {
    let (lab, spec) = filled().await;
    let worker = Worker::start(&spec, lab.directory.path(), "worker").await;
    std::fs::write(spec.folder.join("other"), "another-secret-that-is-long-enough").unwrap();
    let path = with_workers(&spec, "other", &[], "").written_as("other.yaml");
    let path = path.to_str().unwrap();
    let sql = QUESTIONS[1];
    let url = worker.url();
    let answer = run_isobar(&["query", sql, "--config", path, "--format", "csv", "--workers", &url]).await;
    let expected = run_isobar(&["query", sql, "--config", path, "--format", "csv"]).await;
    assert_eq!((answer.code, &answer.stdout), (Some(0), &expected.stdout), "{answer}");
    assert_eq!(worker.metric(ACCEPTED).await, 0);
    assert!(worker.metric(UNAUTHENTICATED).await > 0);
    for text in [answer.text(), worker.program.errors()] {
        assert!(!text.contains(SECRET) && !text.contains("another-secret"), "{text}");
    }
    // A worker without a secret does not start.
    let without = spec.written_as("without.yaml");
    let refused = ["serve", without.to_str().unwrap(), "--worker", "--listen", "127.0.0.1:0"];
    run_isobar(&refused).await.assert(2, &["workers need a secret"]);
}

async fn server(lab: &Lab, spec: &Spec) -> (Server, CancellationToken) {
    let shutdown = CancellationToken::new();
    (lab.serve(&spec.resolved(), shutdown.clone()).await, shutdown)
}

/// The answer to `sql` for whoever shows `token`.
async fn ask(server: &Server, sql: &str, token: Option<&str>) -> (u16, String) {
    let url = format!("http://{}/v1/query", server.address);
    let mut request = reqwest::Client::new().post(url).header("Content-Type", "application/json");
    if let Some(token) = token {
        request = request.header("Authorization", format!("Bearer {token}"));
    }
    let body = json!({ "sql": sql, "format": "csv" }).to_string();
    let answer = request.body(body).send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_hold_whoever_runs_a_query() {
    let roles = ", hash_key: \"${file:key}\", callers: { analyst: { token: \"${file:analyst}\", role: analyst }, \
                 admin: { token: \"${file:admin}\" } }, \
                 roles: { analyst: { datasets: { features: { rows: \"id % 2 = 0\", hide: [amount], hash: [city] } } } }";
    let (lab, spec) = filled().await;
    let folder = lab.directory.path();
    let workers = Worker::two(&spec, folder).await;
    let urls: Vec<String> = workers.iter().map(Worker::url).collect();
    let (alone, stop_alone) = server(&lab, &with_workers(&spec, "secret", &[], roles)).await;
    let (divided, stop_divided) = server(&lab, &with_workers(&spec, "secret", &urls, roles)).await;
    for sql in QUESTIONS {
        for token in [ANALYST, ADMIN] {
            let (status, expected) = ask(&alone, sql, Some(token)).await;
            assert_eq!(status, 200, "{sql}: {expected}");
            assert_eq!(ask(&divided, sql, Some(token)).await, (200, expected), "{token}: {sql}");
        }
        assert_eq!(ask(&divided, sql, None).await.0, 401);
    }
    let sql = "SELECT count(*) AS n FROM features WHERE id % 2 <> 0 OR amount IS NOT NULL";
    let (_, seen) = ask(&divided, sql, Some(ANALYST)).await;
    assert!(seen.contains("\n0\n"), "{seen}");
    assert!(value(&divided.engine.metrics(), ON_WORKERS) > 0, "{}", divided.engine.metrics());
    assert_eq!(value(&divided.engine.metrics(), LOST), 0, "{}", divided.engine.metrics());
    for (server, stop) in [(alone, stop_alone), (divided, stop_divided)] {
        stop.cancel();
        server.stopped().await;
    }
}

fn catalog(lab: &Lab, topology: &Topology, urls: Option<&[String]>) -> Catalog {
    let mut reading = Reading::of(topology.query.clone());
    reading.workers = urls.map(|urls| {
        let urls = urls.iter().map(|url| Url::parse(url).unwrap()).collect();
        Workers::at(topology, urls).unwrap()
    });
    catalog_reading(topology, &lab.opened(), &reading).unwrap()
}

async fn rows(catalog: &Catalog, sql: &str) -> String {
    let mut answer = catalog.query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    text_of(&mut answer, RowsFormat::Csv).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_breaks_off_during_a_query_changes_no_answer() {
    let seed = Seed::of("distributed_breaks");
    let mut prng = seed.prng();
    let (lab, spec) = filled().await;
    let folder = lab.directory.path();
    let [first, second] = Worker::two(&spec, folder).await;
    let proxy = Proxy::start(&first.address).await;
    let urls = [format!("http://{}", proxy.address()), second.url()];
    let topology = with_workers(&spec, "secret", &[], "").resolved();
    let here = catalog(&lab, &topology, None);
    let mut expected = Vec::new();
    for sql in QUESTIONS {
        let answer = rows(&here, sql).await;
        let before = proxy.passed();
        assert_eq!(rows(&catalog(&lab, &topology, Some(&urls)), sql).await, answer, "{sql}");
        expected.push((sql, answer, proxy.passed() - before));
    }
    assert!(first.metric(ACCEPTED).await > 0 && second.metric(ACCEPTED).await > 0);
    // Where a connection ended before the bytes came to that place, the query does not count.
    let (mut broken, mut number) = (0, 0);
    while broken < BROKEN {
        number += 1;
        assert!(
            number < 20 * BROKEN,
            "only {broken} of {number} queries were under way when a worker broke off"
        );
        let (sql, answer, bytes) = prng.pick(&expected);
        // Refused from then on, one connection cut, or every answer lost.
        let mode = *prng.pick(&[Mode::Refuse, Mode::Forward, Mode::LoseAnswers]);
        let at = prng.below((*bytes).max(1));
        proxy.set(Mode::Forward);
        proxy.set_after(at, mode);
        let found = rows(&catalog(&lab, &topology, Some(&urls)), sql).await;
        assert!(found == *answer, "query {number}, {mode:?} at byte {at}: {sql}");
        broken += u64::from(!proxy.forget_after());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_outlives_a_worker_that_is_killed_while_it_sends_rows() {
    let (lab, spec) = filled().await;
    let folder = lab.directory.path();
    let [first, second] = Worker::two(&spec, folder).await;
    let proxy = Proxy::start(&first.address).await;
    let urls = [format!("http://{}", proxy.address()), second.url()];
    let (server, stop) = server(&lab, &with_workers(&spec, "secret", &urls, "")).await;
    let sql = QUESTIONS[0];
    let (status, expected) = ask(&server, sql, None).await;
    assert_eq!(status, 200, "{expected}");
    // Once more, so that connections and who answers are known: what passes then are the rows.
    let before = proxy.passed();
    assert_eq!(ask(&server, sql, None).await.1, expected);
    let bytes = proxy.passed() - before;
    assert!(bytes > 1000, "{bytes} bytes");
    assert_eq!(value(&server.engine.metrics(), LOST), 0);

    let before = proxy.passed();
    proxy.set_after(bytes / 2, Mode::Hang);
    let asked = ask(&server, sql, None);
    let killed = async {
        until("half of the rows are there", async || proxy.passed() >= before + bytes / 2).await;
        first.program.kill().await;
        proxy.set(Mode::Refuse);
    };
    let (answer, ()) = tokio::join!(asked, killed);
    assert_eq!(answer, (200, expected.clone()));
    let metrics = server.engine.metrics();
    assert!(value(&metrics, LOST) > 0, "{metrics}");

    // And when there is no worker any more.
    second.program.kill().await;
    assert_eq!(ask(&server, sql, None).await, (200, expected));
    stop.cancel();
    server.stopped().await;
}
