//! The log of queries: what is asked of a server becomes rows of a dataset, by the topology that is given for it
//! (`topologies/query_audit`).

use std::path::{Path, PathBuf};

use isobar_tests::events::{self, FEATURES, FEATURES_YAML, Generator, TOPIC};
use isobar_tests::lab::{Lab, replaced, text_of, write_file};
use isobar_tests::prng::Seed;
use isobar_tests::wait::until;
use isobar_topologies::query::{RowsFormat, catalog_in};
use isobar_topologies::serve::{Engine, Server};
use isobar_topologies::spec::{self, Topology};
use serde_json::{Value as Json, json};
use tokio_util::sync::CancellationToken;

const LOG: &str = "query_audit";
const LOG_TOPOLOGY: &str = include_str!("../../topologies/query_audit/topology.yaml");
const LOG_CONTRACT: &str = include_str!("../../topologies/query_audit/contracts/queries.yaml");
const LOG_CLOUDS: &str = "  aws:   { url: \"file:./aws\" }
  azure: { url: \"file:./azure\" }
  gcp:   { url: \"file:./gcp\" }
";
const TOKEN: &str = "token-of-the-analyst";

/// Writes the topology of the log as it is given to `folder`, with other lines below `kafka` and `clouds` and another topic.
pub(crate) fn log_spec(folder: &Path, kafka: &str, clouds: &str, topic: &str) -> PathBuf {
    std::fs::create_dir_all(folder.join("contracts")).unwrap();
    write_file(&folder.join("contracts/queries.yaml"), LOG_CONTRACT);
    let text = replaced(LOG_TOPOLOGY, "  brokers: localhost:9092\n", kafka);
    let text = replaced(&text, LOG_CLOUDS, clouds);
    let text = replaced(&text, "    topic: query_audit\n", &format!("    topic: {topic}\n"));
    let text = replaced(&text, "interval: 10s", "interval: 200ms");
    write_file(&folder.join("topology.yaml"), &text)
}

/// A lab with a dataset, and a server whose questions go to the log.
struct Served {
    lab: Lab,
    url: String,
    http: reqwest::Client,
    engine: Engine,
    server: Server,
    shutdown: CancellationToken,
}

impl Served {
    async fn start(seed: &'static str, audit: &str) -> Self {
        let lab = Lab::in_directories();
        lab.create_topic(LOG);
        let mut spec = lab.spec(events::SOURCE, FEATURES_YAML);
        std::fs::write(spec.folder.join("analyst"), TOKEN).unwrap();
        spec.datasets.push_str(&format!(
            "serve: {{ audit: {audit}, limits: {{ rows: 10 }}, roles: {{ reader: {{ all: true }} }}, \
             callers: {{ analyst: {{ token: \"${{file:analyst}}\", role: reader }} }} }}\n"
        ));
        let topology = spec.resolved();
        lab.produce(TOPIC, Generator::mixed(Seed::of(seed).prng()).records(100));
        lab.run_until_caught_up(&topology).await.unwrap();
        let shutdown = CancellationToken::new();
        let server = lab.serve(&topology, shutdown.clone()).await;
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let url = format!("http://{}/v1/query", server.address);
        Self { lab, url, http, engine: server.engine.clone(), server, shutdown }
    }

    /// The status of the answer, and the answer.
    async fn ask(&self, question: &Json, token: &str) -> (u16, Json) {
        let request = self.http.post(&self.url).header("content-type", "application/json").bearer_auth(token);
        let reply = request.body(question.to_string()).send().await.unwrap();
        let status = reply.status().as_u16();
        (status, serde_json::from_str(&reply.text().await.unwrap()).unwrap())
    }

    /// Stops the server, which stores its log first, and has that made a dataset. Nothing was lost.
    async fn logged(self) -> Logged {
        let Self { lab, http, engine, server, shutdown, .. } = self;
        drop(http);
        shutdown.cancel();
        server.stopped().await;
        let metrics = engine.metrics();
        assert!(metrics.contains("isobar_serve_audit_records_waiting{topology=\"lab\"} 0"), "{metrics}");
        assert!(!metrics.contains("outcome=\"lost\""), "{metrics}");
        let kafka = format!("  brokers: {}\n  topic_identity: name\n", lab.broker.bootstrap_servers());
        let clouds: String = lab
            .clouds
            .iter()
            .map(|cloud| format!("  {}: {{ url: \"{}\" }}\n", cloud.name, cloud.url))
            .collect();
        let spec = log_spec(&lab.directory.path().join(LOG), &kafka, &clouds, LOG);
        let topology = spec::load(&spec).unwrap_or_else(|errors| panic!("{errors}"));
        lab.run_until_caught_up(&topology).await.unwrap();
        Logged { lab, topology }
    }
}

/// The log as a dataset.
struct Logged {
    lab: Lab,
    topology: Topology,
}

impl Logged {
    async fn csv(&self, sql: &str) -> String {
        let catalog = catalog_in(&self.topology, &self.lab.opened()).unwrap();
        let mut answer = catalog.query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        text_of(&mut answer, RowsFormat::Csv).await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_question_becomes_a_row_of_a_dataset() {
    let served = Served::start("audit", "{ topic: query_audit, parameters: true, sql: 60B }").await;
    let version = served.lab.versions(FEATURES).await[0].unwrap();
    let long = "SELECT count(*) AS n FROM features WHERE items >= $1 AND city = $2";
    for (question, token, status) in [
        (json!({ "sql": long, "parameters": [3, "Oslo"] }), TOKEN, 200),
        (json!({ "sql": "SELECT nothing FROM features" }), TOKEN, 400),
        (json!({ "sql": "SELECT value FROM generate_series(1, 11)" }), TOKEN, 422),
        (json!({ "sql": "SELECT 'from a stranger'" }), "a-token-of-nobody", 401),
        (json!({ "sql": "SELECT value FROM generate_series(1, 10)" }), TOKEN, 200),
    ] {
        let (found, answer) = served.ask(&question, token).await;
        assert_eq!(found, status, "{question}: {answer}");
    }
    let engine = served.engine.clone();
    let logged = served.logged().await;
    let stored = "isobar_serve_audit_records_total{outcome=\"stored\",topology=\"lab\"} 4";
    assert!(engine.metrics().contains(stored), "{}", engine.metrics());

    let rows = logged
        .csv(
            "SELECT event, caller, role, protocol, sql, sql_bytes, array_to_string(parameters, '|') AS parameters, \
             versions[1]['table'] AS name, versions[1]['version'] AS version, answer_rows, \
             outcome, answer_bytes > 0 AS has_bytes, milliseconds > 0 AS has_time, topology FROM queries ORDER BY asked_at",
        )
        .await;
    let rows: Vec<&str> = rows.lines().skip(1).collect();
    let (cut, bytes) = (&long[..60], long.len());
    assert_eq!(rows.len(), 4, "{rows:#?}");
    assert_eq!(
        rows[0],
        format!("ended,analyst,reader,http,{cut},{bytes},3|Oslo,features,{version},1,ok,true,true,lab")
    );
    // Nothing was read by the others, nor were there parameters.
    for (at, bytes, end) in [(1, 28, "0,wrong,false"), (2, 40, "0,too_much,false"), (3, 40, "10,ok,true")] {
        assert!(rows[at].starts_with("ended,analyst,reader,http,"), "{}", rows[at]);
        assert!(rows[at].ends_with(&format!(",{bytes},,,,{end},true,lab")), "{}", rows[at]);
    }
    // The same in every cloud, and nothing was rejected.
    logged.lab.wait_until_equal("queries").await;
    let rejected = "SELECT count(*) AS n FROM queries_quarantine";
    assert_eq!(logged.csv(rejected).await, "n\n0\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_answered_that_is_not_written_where_that_is_required() {
    let served =
        Served::start("audit, required", "{ topic: query_audit, required: true, patience: 300ms }").await;
    let question = json!({ "sql": "SELECT count(*) AS n FROM features" });
    // The first connects, which may take longer than a question waits.
    until("a question is answered", async || served.ask(&question, TOKEN).await.0 == 200).await;
    served.lab.broker.set_down(true).unwrap();
    let (status, answer) = served.ask(&question, TOKEN).await;
    assert_eq!(status, 503, "{answer}");
    assert!(answer["detail"].as_str().unwrap().contains("the log of queries cannot be written"), "{answer}");
    // What is refused anyway needs no log.
    assert_eq!(served.ask(&json!({ "sql": "SELECT nothing" }), TOKEN).await.0, 400);
    served.lab.broker.set_down(false).unwrap();
    until("a question is answered", async || served.ask(&question, TOKEN).await.0 == 200).await;

    let logged = served.logged().await;
    let of = async |condition: &str| {
        logged.csv(&format!("SELECT count(*) AS n FROM queries WHERE {condition}")).await
    };
    assert_eq!(of("event = 'ended' AND outcome = 'ok'").await, "n\n2\n");
    assert_eq!(of("event = 'ended' AND outcome = 'wrong'").await, "n\n1\n");
    assert_ne!(of("event = 'ended' AND outcome = 'unavailable'").await, "n\n0\n");
    // Who was answered had begun before, and who was not as well.
    let begun = "(SELECT id FROM queries WHERE event = 'begun')";
    assert_eq!(of(&format!("event = 'ended' AND outcome <> 'wrong' AND id NOT IN {begun}")).await, "n\n0\n");
    let ended = "(SELECT id FROM queries WHERE event = 'ended')";
    assert_eq!(of(&format!("event = 'begun' AND id NOT IN {ended}")).await, "n\n0\n");
}
