//! What goes to workers, and what workers take, over small tables in memory and real connections on loopback.

use std::collections::BTreeSet;
use std::path::Path;

use arrow::datatypes::{DataType, Field, Schema};
use axum::http::{HeaderMap, HeaderValue};
use datafusion::catalog::TableProvider;
use datafusion::datasource::MemTable;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::limit::{GlobalLimitExec, LocalLimitExec};
use isobar_connectors::clouds::Cloud;
use tokio_util::sync::CancellationToken;

use super::tasks::{Plans, TaskLimits};
use super::*;
use crate::prove::testing::{DATASET, History};
use crate::query::names::Names;
use crate::query::replicas::{Reading, Replicas};
use crate::query::snapshot::newest_snapshots;
use crate::query::{Catalog, QueryLimits, RowsFormat, SnapshotTable, Watch, session};
use crate::serve::{ServeOptions, WorkerServer};
use crate::spec::{CheckOptions, check_text};

const SECRET: &str = "what-workers-and-servers-of-tests-share";

/// A topology with the dataset of the history; its workers have the secret `secret`.
fn topology(folder: &Path, secret: &str) -> Topology {
    std::fs::write(folder.join("secret"), secret).unwrap();
    let text = "
topology: t
kafka: { brokers: a:1 }
clouds: { a: { url: ./data } }
memory: 128MiB
serve: { workers: { secret: \"${file:secret}\", share: 1KiB } }
sources: { s: { topic: s, format: json, fields: { x: int64, month: string } } }
datasets:
  flights: { from: s, sql: 'SELECT month, x FROM s' }
";
    check_text(text, "t.yaml", folder, CheckOptions::default())
        .unwrap_or_else(|errors| panic!("{errors}\n{text}"))
}

/// A worker that runs in this process, and listens on loopback.
struct Running {
    server: WorkerServer,
    shutdown: CancellationToken,
    url: Url,
}

impl Running {
    async fn start(topology: &Topology, clouds: &[Cloud]) -> Self {
        let shutdown = CancellationToken::new();
        let listen = "127.0.0.1:0".parse().unwrap();
        let options = ServeOptions { clouds: Some(clouds.to_vec()), ..ServeOptions::new(listen) };
        let server = WorkerServer::start(topology, options, shutdown.clone()).await.unwrap();
        let url = Url::parse(&format!("http://{}", server.address)).unwrap();
        Self { server, shutdown, url }
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.server.stopped().await;
    }
}

fn catalog(topology: &Topology, clouds: &[Cloud], workers: Option<Arc<Workers>>) -> Catalog {
    let reading = Reading { workers, ..Reading::of(topology.query.clone()) };
    Catalog::reading(clouds, &[DATASET.to_owned()], topology.memory_bytes_max, &reading).unwrap()
}

async fn text(catalog: &Catalog, sql: &str, format: RowsFormat) -> Result<String, Error> {
    let mut answer = catalog.query(sql).await?;
    let mut text = String::new();
    while let Some(piece) = answer.next_text(format).await? {
        text.push_str(&piece);
    }
    Ok(text)
}

async fn csv(catalog: &Catalog, sql: &str) -> String {
    text(catalog, sql, RowsFormat::Csv)
        .await
        .unwrap_or_else(|error| panic!("{sql}: {}", crate::chain_of(&error)))
}

/// The value of a metric, 0 if there is none.
fn metric(text: &str, name: &str) -> f64 {
    let line = text.lines().find(|line| line.starts_with(name));
    line.and_then(|line| line.rsplit_once(' ')).map_or(0.0, |(_, value)| value.parse().unwrap())
}

const ON_WORKERS: &str = "isobar_workers_queries_total{ran=\"workers\"";

const QUESTIONS: [&str; 18] = [
    "SELECT * FROM flights ORDER BY x",
    "SELECT month, count(*) AS n, sum(x) AS s, min(x) AS l FROM flights GROUP BY month ORDER BY month",
    "SELECT sum(x) AS s, max(x) AS m FROM flights WHERE month <> '1'",
    "SELECT count(DISTINCT x % 4) AS n FROM flights",
    "SELECT a.x FROM flights AS a JOIN flights AS b ON a.x = b.x + 1 ORDER BY a.x",
    "SELECT a.x, b.x AS y FROM flights AS a LEFT JOIN flights_quarantine AS b ON a.x = b.x ORDER BY a.x",
    "SELECT count(*) AS n FROM flights AS a FULL JOIN flights AS b ON a.x = b.x + 3",
    "SELECT a.x FROM flights AS a JOIN (SELECT month, max(x) AS m FROM flights GROUP BY month) AS b ON a.x = b.m ORDER BY a.x",
    "SELECT x FROM flights AS a WHERE NOT EXISTS (SELECT 1 FROM flights AS b WHERE b.x = a.x + 1) ORDER BY x",
    "SELECT x, row_number() OVER (PARTITION BY month ORDER BY x) AS n FROM flights ORDER BY x",
    "SELECT x, sum(x) OVER (ORDER BY x) AS s FROM flights ORDER BY x",
    "SELECT x FROM flights WHERE month = '2' UNION ALL SELECT x FROM flights_quarantine ORDER BY x",
    "SELECT x FROM flights WHERE x > (SELECT avg(x) FROM flights) ORDER BY x DESC LIMIT 3",
    "SELECT count(*) AS n FROM flights AS a, flights AS b WHERE a.x < b.x",
    "SELECT x, month FROM flights VERSION AS OF 1 ORDER BY x",
    "SELECT a.x, b.x AS y FROM flights AS a ASOF JOIN flights AS b MATCH_CONDITION (a.x >= b.x) ON a.month = b.month ORDER BY a.x",
    "SELECT concat(month, '-', x) || '!' AS t FROM flights WHERE month LIKE '%2%' ORDER BY t",
    "SELECT count(*) AS n FROM flights",
];

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_those_of_one_process() {
    let folder = tempfile::tempdir().unwrap();
    let topology = topology(folder.path(), SECRET);
    let clouds = History::good().store(1).await;
    let running = [Running::start(&topology, &clouds).await, Running::start(&topology, &clouds).await];
    let workers = Workers::at(&topology, running.iter().map(|worker| worker.url.clone()).collect()).unwrap();
    let here = catalog(&topology, &clouds, None);
    let divided = catalog(&topology, &clouds, Some(workers.clone()));
    for sql in QUESTIONS {
        assert_eq!(csv(&divided, sql).await, csv(&here, sql).await, "{sql}");
    }
    let metrics = workers.metrics();
    assert!(metric(&metrics, ON_WORKERS) >= 5.0, "{metrics}");
    assert_eq!(metric(&metrics, "isobar_workers_attempts_lost_total"), 0.0, "{metrics}");
    assert_eq!(metric(&metrics, "isobar_workers_answering"), 2.0, "{metrics}");
    // What is the query's own fault is said as ever.
    let error = text(&divided, "SELECT 1 / (x - x) AS y FROM flights", RowsFormat::Csv).await.unwrap_err();
    assert_eq!(error.exit_code(), 2, "{error}");
    for worker in running {
        worker.stop().await;
    }
}

/// The reader that fills in fields of older files is not part of a plan's bytes.
#[tokio::test(flavor = "multi_thread")]
async fn what_files_do_not_have_is_null_on_workers_too() {
    let folder = tempfile::tempdir().unwrap();
    let topology = topology(folder.path(), SECRET);
    let mut history = History::good();
    history.nest();
    history.nested_file(100, &["b"]);
    history.nested_file(200, &["a", "b"]);
    let clouds = history.store(1).await;
    let running = [Running::start(&topology, &clouds).await, Running::start(&topology, &clouds).await];
    let workers = Workers::at(&topology, running.iter().map(|worker| worker.url.clone()).collect()).unwrap();
    let here = catalog(&topology, &clouds, None);
    let divided = catalog(&topology, &clouds, Some(workers.clone()));
    let sql = "SELECT x, s, items, rates, deep FROM flights WHERE x >= 3 ORDER BY x";
    let expected = text(&here, sql, RowsFormat::Json).await.unwrap();
    assert_eq!(text(&divided, sql, RowsFormat::Json).await.unwrap(), expected);
    let metrics = workers.metrics();
    assert_eq!(metric(&metrics, ON_WORKERS), 1.0, "{metrics}");
    assert_eq!(metric(&metrics, "isobar_workers_attempts_lost_total"), 0.0, "{metrics}");
    for worker in running {
        worker.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_that_are_gone_are_done_without() {
    let folder = tempfile::tempdir().unwrap();
    let topology = topology(folder.path(), SECRET);
    let clouds = History::good().store(1).await;
    let (first, second) =
        (Running::start(&topology, &clouds).await, Running::start(&topology, &clouds).await);
    let workers = Workers::at(&topology, vec![first.url.clone(), second.url.clone()]).unwrap();
    let here = catalog(&topology, &clouds, None);
    let divided = catalog(&topology, &clouds, Some(workers.clone()));
    assert_eq!(workers.answering(true).await.len(), 2);
    // What they said is still believed, so that the query is divided among both.
    first.stop().await;
    for sql in QUESTIONS {
        assert_eq!(csv(&divided, sql).await, csv(&here, sql).await, "{sql}");
    }
    assert_eq!(workers.answering(true).await, std::slice::from_ref(&second.url));
    second.stop().await;
    for sql in QUESTIONS {
        assert_eq!(csv(&divided, sql).await, csv(&here, sql).await, "{sql}");
    }
    assert!(workers.answering(true).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_answers_nobody_without_the_secret_and_no_other_topology() {
    let (folder, other_folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let topology = topology(folder.path(), SECRET);
    let clouds = History::good().store(1).await;
    let running = Running::start(&topology, &clouds).await;
    let urls = vec![running.url.clone()];
    let stranger = super::tests::topology(other_folder.path(), "something-else-that-is-long-enough");
    let workers = Workers::at(&stranger, urls.clone()).unwrap();
    assert!(workers.answering(true).await.is_empty());
    let divided = catalog(&stranger, &clouds, Some(workers.clone()));
    assert_eq!(csv(&divided, "SELECT sum(x) AS s FROM flights").await, "s\n105\n");
    assert_eq!(metric(&workers.metrics(), ON_WORKERS), 0.0);

    let mut renamed = topology.clone();
    renamed.name = "u".to_owned();
    assert!(Workers::at(&renamed, urls.clone()).unwrap().answering(true).await.is_empty());
    assert_eq!(Workers::at(&topology, urls.clone()).unwrap().answering(true).await, urls);
    running.stop().await;

    for secret in ["", "short", "a secret with spaces, which is long enough"] {
        let topology = super::tests::topology(other_folder.path(), secret);
        let error = Workers::at(&topology, urls.clone()).unwrap_err().to_string();
        assert!(error.contains("serve.workers.secret"), "{error}");
        assert!(secret.is_empty() || !error.contains(secret), "{error}");
    }
}

#[test]
fn a_worker_connects_to_those_of_its_topology_only() {
    let folder = tempfile::tempdir().unwrap();
    let topology = topology(folder.path(), SECRET);
    let spec = topology.serve.workers.as_ref().unwrap();
    let known = Url::parse("http://127.0.0.1:1").unwrap();
    let channels = Channels::open(&topology.serve, spec, &[known]).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let error = runtime.block_on(async {
        let foreign = Url::parse("http://127.0.0.1:2").unwrap();
        channels.get_worker_client_for_url(&foreign).await.err().expect("a foreign worker is refused")
    });
    assert!(error.to_string().contains("none of `serve.workers.urls`"), "{error}");
    assert!(!format!("{channels:?}").contains(SECRET));
}

/// The dataset at its newest version.
async fn table(clouds: &[Cloud], replicas: &Arc<Replicas>) -> SnapshotTable {
    let snapshot = newest_snapshots(clouds, &[DATASET.to_owned()]).await.unwrap().remove(DATASET).unwrap();
    SnapshotTable::new(&snapshot, replicas.clone()).unwrap()
}

/// A scan of it, as a plan.
async fn scan(clouds: &[Cloud], replicas: &Arc<Replicas>) -> Arc<dyn ExecutionPlan> {
    let table = table(clouds, replicas).await;
    let context = session(replicas, 64 << 20).unwrap();
    table.scan(&context.state(), None, &[], None).await.unwrap()
}

fn plans(replicas: &Arc<Replicas>, datasets: &[&str]) -> Plans {
    let datasets: Vec<String> = datasets.iter().map(|dataset| (*dataset).to_owned()).collect();
    let tables: BTreeSet<String> = Names::of(&datasets).tables().into_iter().map(str::to_owned).collect();
    let context = session(replicas, 64 << 20).unwrap();
    let footers = context.runtime_env().cache_manager.get_file_metadata_cache();
    Plans { replicas: replicas.clone(), footers, tables: Arc::new(tables), metrics: TaskMetrics::new("t") }
}

#[tokio::test]
async fn a_worker_reads_its_own_files_and_does_nothing_else() {
    let clouds = History::good().store(1).await;
    let replicas = Arc::new(Replicas::new(&clouds, &Reading::default()).unwrap());
    let plan = scan(&clouds, &replicas).await;
    assert!(plans(&replicas, &[DATASET]).own(plan.clone()).is_ok());
    let refused = plans(&replicas, &["weather"]).own(plan).unwrap_err().to_string();
    assert!(refused.contains("is no data file of this topology"), "{refused}");

    // The same plan where the cloud has another name.
    let mut renamed = clouds[0].clone();
    renamed.name = "b".to_owned();
    let elsewhere = Arc::new(Replicas::new(&[renamed], &Reading::default()).unwrap());
    let plan = scan(&clouds, &replicas).await;
    let refused = plans(&elsewhere, &[DATASET]).own(plan).unwrap_err().to_string();
    assert!(refused.contains("only the clouds of the topology"), "{refused}");

    let schema = Arc::new(Schema::new(vec![Field::new("x", DataType::Int64, true)]));
    let table = MemTable::try_new(schema, vec![vec![]]).unwrap();
    let context = session(&replicas, 64 << 20).unwrap();
    let plan = table.scan(&context.state(), None, &[], None).await.unwrap();
    let refused = plans(&replicas, &[DATASET]).own(plan).unwrap_err().to_string();
    assert!(refused.contains("does not run"), "{refused}");
    let sql = "SELECT * FROM information_schema.tables";
    let plan = context.sql(sql).await.unwrap().create_physical_plan().await.unwrap();
    assert!(plans(&replicas, &[DATASET]).own(plan).is_err());
}

#[tokio::test]
async fn what_is_too_deep_stays_here() {
    let clouds = History::good().store(1).await;
    let replicas = Arc::new(Replicas::new(&clouds, &Reading::default()).unwrap());
    let context = session(&replicas, 64 << 20).unwrap();
    context.register_table(DATASET, Arc::new(table(&clouds, &replicas).await)).unwrap();
    for (levels, fits) in [(10, true), (60, false)] {
        let sql = format!("SELECT x FROM flights WHERE abs(x){} > 3", " + x".repeat(levels));
        let plan = context.sql(&sql).await.unwrap().create_physical_plan().await.unwrap();
        assert_eq!(stages::is_for_workers(&plan, &|_| true).unwrap(), fits, "{levels}");
        assert!(!stages::is_for_workers(&plan, &|name| name != "abs").unwrap());
    }
}

/// What would come out of bytes as something else.
#[tokio::test]
async fn what_cannot_be_written_down_stays_here() {
    let clouds = History::good().store(1).await;
    let replicas = Arc::new(Replicas::new(&clouds, &Reading::default()).unwrap());
    let context = session(&replicas, 64 << 20).unwrap();
    context.register_table(DATASET, Arc::new(table(&clouds, &replicas).await)).unwrap();
    let rows = scan(&clouds, &replicas).await;
    let large = u32::MAX as usize + 7;
    for (plan, fits) in [
        (Arc::new(LocalLimitExec::new(rows.clone(), 7)) as Arc<dyn ExecutionPlan>, true),
        (Arc::new(LocalLimitExec::new(rows.clone(), large)), false),
        (Arc::new(GlobalLimitExec::new(rows.clone(), 7, None)), true),
        (Arc::new(GlobalLimitExec::new(rows.clone(), large, None)), false),
        (Arc::new(GlobalLimitExec::new(rows, 0, Some(large))), false),
    ] {
        assert_eq!(stages::is_for_workers(&plan, &|_| true).unwrap(), fits, "{plan:?}");
    }
    for (sql, fits) in [
        ("SELECT x FROM flights WHERE x > 3", true),
        ("SELECT month, sum(x) FILTER (WHERE x > 3) AS s FROM flights GROUP BY month", true),
        ("SELECT x FROM flights LIMIT 7", true),
        ("SELECT sum(x) FILTER (WHERE x > 3) OVER () AS s FROM flights", false),
        ("SELECT first_value(x) IGNORE NULLS OVER (ORDER BY x) AS f FROM flights", false),
    ] {
        let plan = context.sql(sql).await.unwrap().create_physical_plan().await.unwrap();
        assert_eq!(stages::is_for_workers(&plan, &|_| true).unwrap(), fits, "{sql}");
    }
}

#[test]
fn limits_travel_with_a_plan_and_are_needed() {
    let limits = QueryLimits { spill_bytes_max: 7, copied_bytes_max: 9, ..QueryLimits::served() };
    let config = datafusion::prelude::SessionConfig::new();
    let sent = TaskLimits::of(&limits, &Watch::start(&limits), &config);
    let mut headers = HeaderMap::new();
    assert!(TaskLimits::read(&headers).is_err());
    headers.insert(TaskLimits::HEADER, sent.written().unwrap());
    assert_eq!(TaskLimits::read(&headers).unwrap(), sent);
    let unlimited = QueryLimits::default();
    let sent = TaskLimits::of(&unlimited, &Watch::start(&unlimited), &config);
    headers.insert(TaskLimits::HEADER, sent.written().unwrap());
    assert_eq!(TaskLimits::read(&headers).unwrap(), sent);
    let long = format!("{}{}", " ".repeat(2000), sent.written().unwrap().to_str().unwrap());
    for wrong in ["", "{}", "{\"time_ms\":1}", "null", long.as_str()] {
        headers.insert(TaskLimits::HEADER, HeaderValue::from_str(wrong).unwrap());
        assert!(TaskLimits::read(&headers).is_err(), "{wrong}");
    }
}
