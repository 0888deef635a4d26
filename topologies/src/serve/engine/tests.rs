//! Questions over small tables in memory: versions, roles that cannot be got around, limits.

use std::path::Path;

use arrow::array::RecordBatch;
use datafusion::common::ScalarValue;
use futures::TryStreamExt;
use isobar_connectors::clouds::{Fault, FaultSwitch};
use object_store::ObjectStoreExt;

use super::*;
use crate::commit::format::published_path;
use crate::prove::testing::{DATASET, History};
use crate::query::RowsFormat;
use crate::serve::testing::{TOKEN, topology};

/// The value of `serve` for a caller whose role reads this of `flights`.
fn analyst(rule: &str) -> String {
    format!(
        "{{ refresh: 0s, callers: {{ analyst: {{ token: \"${{file:token}}\", role: analyst }} }}, \
         roles: {{ analyst: {{ datasets: {{ flights: {rule} }} }} }} }}"
    )
}

fn engine(clouds: &[Cloud], serve: &str) -> Engine {
    let folder = tempfile::tempdir().unwrap();
    Engine::open(&topology(folder.path(), serve), clouds).unwrap()
}

async fn ask(engine: &Engine, caller: &Caller, question: Question) -> Result<String, Refusal> {
    let mut answer = engine.prepare(caller, question).await?.run(None).await?;
    let mut text = String::new();
    while let Some(piece) = answer.next_text(RowsFormat::Csv).await? {
        text.push_str(&piece);
    }
    Ok(text)
}

async fn csv(engine: &Engine, caller: &Caller, sql: &str) -> String {
    ask(engine, caller, Question::new(sql)).await.unwrap_or_else(|refusal| panic!("{sql}: {refusal:?}"))
}

async fn refusal(engine: &Engine, caller: &Caller, sql: &str) -> Refusal {
    match ask(engine, caller, Question::new(sql)).await {
        Ok(rows) => panic!("{sql} is answered:\n{rows}"),
        Err(refusal) => refusal,
    }
}

async fn anybody(engine: &Engine) -> Caller {
    engine.authenticate(Some(TOKEN)).await.unwrap()
}

#[tokio::test]
async fn a_question_stays_at_the_versions_that_it_was_prepared_with() {
    let history = History::good();
    let clouds = history.store(1).await;
    for version in 2..4 {
        clouds[0].data.delete(&published_path(DATASET, version)).await.unwrap();
    }
    let engine = engine(&clouds, "{ refresh: 0s }");
    let caller = anybody(&engine).await;
    let sql = "SELECT count(x) AS n FROM flights";
    let prepared = engine.prepare(&caller, Question::new(sql)).await.unwrap();
    assert_eq!(prepared.versions().len(), 1);
    assert_eq!((prepared.versions()[0].table.as_str(), prepared.versions()[0].version), (DATASET, 1));
    let objects = history.objects();
    for version in 2..4 {
        let path = published_path(DATASET, version);
        clouds[0].data.put(&path, objects[&path].clone().into()).await.unwrap();
    }
    assert_eq!(csv(&engine, &caller, sql).await, "n\n15\n");
    for prepared in [prepared.clone(), prepared] {
        let answer = prepared.run(None).await.unwrap();
        assert_eq!(answer.from()[0].version, 1);
        let rows: Vec<RecordBatch> = answer.into_parts().0.try_collect().await.unwrap();
        let n = ScalarValue::try_from_array(rows[0].column(0), 0).unwrap();
        assert_eq!(n, ScalarValue::Int64(Some(8)));
    }
    let at =
        |version: u64| Question { versions: [("flights".to_owned(), version)].into(), ..Question::new(sql) };
    for (version, rows) in [(0, 0), (1, 8), (2, 13), (3, 15)] {
        assert_eq!(ask(&engine, &caller, at(version)).await.unwrap(), format!("n\n{rows}\n"));
    }
    let absent = ask(&engine, &caller, at(9)).await.unwrap_err();
    assert!(matches!(&absent, Refusal::Wrong(why) if why.contains("no version 9")), "{absent:?}");
    let both =
        "SELECT (SELECT count(x) FROM flights) AS a, (SELECT count(x) FROM flights VERSION AS OF 2) AS b";
    let question = Question { sql: both.to_owned(), ..at(1) };
    assert_eq!(ask(&engine, &caller, question).await.unwrap(), "a,b\n8,13\n");
}

#[tokio::test]
async fn a_version_that_was_not_reached_is_said_to_be_tried_again() {
    let clouds = History::good().store(1).await;
    let engine = engine(&clouds, "{ refresh: 1h }");
    let caller = anybody(&engine).await;
    let sql = "SELECT count(x) AS n FROM flights";
    let least = |version: u64| Question {
        min_version: [("flights".to_owned(), version)].into(),
        ..Question::new(sql)
    };
    assert_eq!(ask(&engine, &caller, least(3)).await.unwrap(), "n\n15\n");
    let refused = ask(&engine, &caller, least(4)).await.unwrap_err();
    assert!(
        matches!(&refused, Refusal::Unavailable(why) if why.contains("not reached version 4") && why.contains("version 3")),
        "{refused:?}"
    );
    let older = Question { versions: [("flights".to_owned(), 2)].into(), ..least(3) };
    assert!(matches!(ask(&engine, &caller, older).await.unwrap_err(), Refusal::Wrong(_)));
    let unknown = Question { min_version: [("nothing".to_owned(), 1)].into(), ..Question::new(sql) };
    assert!(matches!(ask(&engine, &caller, unknown).await.unwrap_err(), Refusal::NotFound(_)));
}

#[tokio::test]
async fn the_newest_version_is_none_before_one_that_the_question_names() {
    let history = History::good();
    let clouds = history.store(1).await;
    let path = published_path(DATASET, 3);
    clouds[0].data.delete(&path).await.unwrap();
    let engine = engine(&clouds, "{ refresh: 1h }");
    let caller = anybody(&engine).await;
    assert_eq!(csv(&engine, &caller, "SELECT count(x) AS n FROM flights").await, "n\n13\n");
    clouds[0].data.put(&path, history.objects()[&path].clone().into()).await.unwrap();
    let sql =
        "SELECT (SELECT count(x) FROM flights) AS a, (SELECT count(x) FROM flights VERSION AS OF 3) AS b";
    let prepared = engine.prepare(&caller, Question::new(sql)).await.unwrap();
    let versions: Vec<u64> = prepared.versions().iter().map(|table| table.version).collect();
    assert_eq!(versions, [3], "both are the same table at the same version");
    assert_eq!(csv(&engine, &caller, sql).await, "a,b\n15,15\n");
    // An older one changes nothing.
    let sql =
        "SELECT (SELECT count(x) FROM flights) AS a, (SELECT count(x) FROM flights VERSION AS OF 1) AS b";
    assert_eq!(csv(&engine, &caller, sql).await, "a,b\n15,8\n");
}

#[tokio::test]
async fn what_is_kept_is_as_old_as_a_question_allows() {
    let mut clouds = History::good().store(1).await;
    let switch = FaultSwitch::default();
    clouds[0] = clouds[0].clone().with_faults(&switch);
    let engine = engine(&clouds, "{ refresh: 1h }");
    let caller = anybody(&engine).await;
    engine.prepare(&caller, Question::new("SELECT * FROM flights")).await.unwrap();
    engine.is_ready().await.unwrap();
    switch.set(Fault::RefuseAll);
    engine.prepare(&caller, Question::new("SELECT * FROM flights")).await.unwrap();
    let fresh = Question { max_staleness: Some(Duration::ZERO), ..Question::new("SELECT * FROM flights") };
    let refused = engine.prepare(&caller, fresh).await.unwrap_err();
    assert!(matches!(&refused, Refusal::Unavailable(why) if !why.contains("injected")), "{refused:?}");
}

#[tokio::test]
async fn a_role_cannot_be_got_around() {
    let clouds = History::good().store(1).await;
    let engine = engine(&clouds, &analyst("{ rows: \"x >= 3 AND x < 8\", hash: [month] }"));
    assert!(!engine.is_open());
    engine.check_roles().await.unwrap();
    let caller = engine.authenticate(Some(TOKEN)).await.unwrap();
    for (sql, expected) in [
        ("SELECT count(*) AS n, min(x) AS a, max(x) AS b FROM flights", "n,a,b\n5,3,7\n"),
        ("SELECT count(*) AS n FROM isobar.datasets.flights", "n\n5\n"),
        ("SELECT count(*) AS n FROM flights VERSION AS OF 3", "n\n5\n"),
        ("SELECT count(*) AS n FROM flights VERSION AS OF 2 AS f WHERE f.x < 3 OR true", "n\n5\n"),
        ("SELECT count(*) AS n FROM flights TIMESTAMP AS OF '2013-01-01'", "n\n5\n"),
        ("SELECT count(*) AS n FROM flights WHERE month = '2' OR month = '1'", "n\n0\n"),
        ("SELECT count(DISTINCT month) AS n, min(length(month)) AS l FROM flights", "n,l\n1,64\n"),
        ("SELECT count(*) AS n FROM flights AS a, flights VERSION AS OF 3 AS b WHERE a.x <> b.x", "n\n20\n"),
        ("SELECT count(*) AS n FROM (SELECT x FROM flights UNION ALL SELECT x FROM flights)", "n\n10\n"),
        ("SELECT count(*) AS n FROM flights WHERE 100 / (x - 14) > 1000 OR x IS NOT NULL", "n\n5\n"),
        (
            "SELECT count(f.x) AS n FROM (SELECT to_timestamp(y) AS t FROM (VALUES (0), (3), (14)) AS v(y)) AS s \
             ASOF JOIN (SELECT x, to_timestamp(x) AS t FROM flights) AS f MATCH_CONDITION (s.t >= f.t)",
            "n\n2\n",
        ),
        ("SELECT count(*) AS n FROM information_schema.tables WHERE table_schema = 'datasets'", "n\n1\n"),
        (
            "SELECT count(*) AS n FROM information_schema.columns WHERE table_name LIKE '%quarantine%'",
            "n\n0\n",
        ),
        (
            "WITH RECURSIVE r AS (SELECT 3 AS x UNION ALL SELECT r.x + 1 FROM r JOIN flights AS f ON f.x = r.x) SELECT max(x) AS m FROM r",
            "m\n8\n",
        ),
    ] {
        assert_eq!(csv(&engine, &caller, sql).await, expected, "{sql}");
    }
    for sql in
        ["EXPLAIN SELECT * FROM flights", "EXPLAIN ANALYZE VERBOSE SELECT * FROM flights", "SHOW TABLES"]
    {
        let shown = csv(&engine, &caller, sql).await;
        for hidden in ["parquet", "month=", "quarantine", "weather", "x >= ", "x@1 >= 3"] {
            assert!(!shown.contains(hidden), "{sql} shows {hidden}:\n{shown}");
        }
    }
    // Nothing tells a table that is not the caller's from one that does not exist.
    let of = |text: String, name: &str| text.replace(name, "NAME");
    let nowhere = of(refusal(&engine, &caller, "SELECT * FROM nowhere").await.to_string(), "nowhere");
    for name in ["flights_quarantine", "weather"] {
        for clause in ["", " VERSION AS OF 1"] {
            let refused = refusal(&engine, &caller, &format!("SELECT * FROM {name}{clause}")).await;
            let text = of(refused.to_string(), name);
            assert!(matches!(refused, Refusal::Wrong(_)));
            assert!(text.ends_with("the tables are: flights"), "{text}");
            assert!(!clause.is_empty() || text == nowhere, "{text}\n{nowhere}");
        }
        let pinned = Question { versions: [(name.to_owned(), 1)].into(), ..Question::new("SELECT 1") };
        assert!(matches!(ask(&engine, &caller, pinned).await.unwrap_err(), Refusal::NotFound(_)));
    }
    let tables = engine.tables(&caller).await.unwrap();
    assert_eq!(tables.len(), 1);
    assert_eq!((tables[0].name.as_str(), tables[0].comment.as_deref()), ("flights", Some("Flights.")));
    assert_eq!(tables[0].schema.field(0).data_type(), &DataType::Utf8);
    let named = engine.table(&caller, "flights").await.unwrap().unwrap();
    assert_eq!((named.name.as_str(), named.version), ("flights", tables[0].version.clone()));
    for name in ["weather", "flights_quarantine", "flights.quarantine", "nowhere"] {
        assert!(engine.table(&caller, name).await.unwrap().is_none(), "{name}");
    }
}

#[tokio::test]
async fn one_table_is_described_without_a_look_at_others() {
    let mut clouds = History::good().store(1).await;
    let switch = FaultSwitch::default();
    clouds[0] = clouds[0].clone().with_faults(&switch);
    let engine = engine(&clouds, "{ refresh: 1h }");
    let caller = anybody(&engine).await;
    let before = engine.table(&caller, "flights").await.unwrap().unwrap();
    switch.set(Fault::RefuseAll);
    // What is known of this one is new enough; of others nothing is known.
    assert_eq!(engine.table(&caller, "flights").await.unwrap().unwrap().version, before.version);
    assert!(matches!(engine.tables(&caller).await.unwrap_err(), Refusal::Unavailable(_)));
}

#[tokio::test]
async fn a_role_that_does_not_fit_sees_nothing() {
    let clouds = History::good().store(1).await;
    for rule in ["{ rows: nothing = 1 }", "{ hide: [moth] }", "{ hash: [x, X] }"] {
        let engine = engine(&clouds, &analyst(rule));
        let error = engine.check_roles().await.unwrap_err().to_string();
        assert!(error.contains("serve.roles.analyst.datasets.flights"), "{error}");
        let caller = engine.authenticate(Some(TOKEN)).await.unwrap();
        for sql in ["SELECT * FROM flights", "SELECT * FROM flights VERSION AS OF 1", "SHOW TABLES"] {
            let refused = refusal(&engine, &caller, sql).await;
            assert!(matches!(refused, Refusal::Internal(_)), "{refused:?}");
        }
        assert!(engine.tables(&caller).await.is_err());
    }
}

#[tokio::test]
async fn only_what_reads_is_run_and_nothing_but_tables_is_read() {
    let engine = engine(&History::good().store(1).await, "{}");
    let caller = anybody(&engine).await;
    for sql in [
        "",
        "SELECT 1; SELECT 2",
        "DROP TABLE flights",
        "INSERT INTO flights VALUES ('1', 2)",
        "DELETE FROM flights",
        "UPDATE flights SET x = 1",
        "CREATE TABLE t AS SELECT 1",
        "CREATE VIEW v AS SELECT 1",
        "CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION '/etc/passwd'",
        "COPY flights TO '/tmp/isobar-must-not-exist.parquet'",
        "SET datafusion.execution.batch_size = 1",
        "PREPARE p AS SELECT 1",
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM read_csv('/etc/passwd')",
    ] {
        let refused = refusal(&engine, &caller, sql).await;
        assert!(matches!(refused, Refusal::Wrong(_)), "{sql}: {refused:?}");
    }
    assert!(!Path::new("/tmp/isobar-must-not-exist.parquet").exists());
    // The next question is answered as ever.
    assert_eq!(csv(&engine, &caller, "SELECT count(x) AS n FROM flights").await, "n\n15\n");
}

#[tokio::test]
async fn placeholders_are_named_and_need_values() {
    let engine = engine(&History::good().store(1).await, "{}");
    let caller = anybody(&engine).await;
    let sql = "SELECT count(x) AS n FROM flights WHERE x >= $1 AND month = $2";
    let prepared = engine.prepare(&caller, Question::new(sql)).await.unwrap();
    let parameters = prepared.parameters();
    assert_eq!(parameters[0], ("$1".to_owned(), Some(DataType::Int64)));
    assert_eq!(parameters[1].0, "$2");
    let values = || ParamValues::from(vec![ScalarValue::from(5_i64), ScalarValue::from("2")]);
    let answer = prepared.clone().run(Some(values())).await.unwrap();
    let rows: Vec<RecordBatch> = answer.into_parts().0.try_collect().await.unwrap();
    assert_eq!(ScalarValue::try_from_array(rows[0].column(0), 0).unwrap(), ScalarValue::Int64(Some(8)));
    let missing = prepared.run(None).await.unwrap_err();
    assert_eq!(missing, Refusal::Wrong("there is no value for $1, $2".to_owned()));
    let question = Question { parameters: Some(values()), ..Question::new(sql) };
    assert_eq!(ask(&engine, &caller, question).await.unwrap(), "n\n8\n");
    let few = Question { parameters: Some(vec![ScalarValue::from(5_i64)].into()), ..Question::new(sql) };
    assert!(matches!(ask(&engine, &caller, few).await.unwrap_err(), Refusal::Wrong(_)));
}

#[tokio::test]
async fn limits_refuse_and_the_next_question_is_answered() {
    let clouds = History::good().store(1).await;
    let limits = "{ limits: { time: 5s, memory: 1MiB, disk: 0B, rows: 100, bytes: 4KiB, sql: 200B, running: 1, waiting: 0 } }";
    let engine = engine(&clouds, limits);
    let caller = anybody(&engine).await;
    let long = format!("SELECT '{}'", "x".repeat(200));
    for (sql, limit) in [
        (long.as_str(), "sql"),
        ("SELECT value FROM generate_series(1, 101)", "rows"),
        ("SELECT repeat('x', 100) AS t, value FROM generate_series(1, 90)", "bytes"),
        ("SELECT count(*) FROM generate_series(1, 1000000000000000)", "time"),
        ("SELECT count(DISTINCT value) FROM generate_series(1, 3000000)", "memory"),
        ("SELECT array_agg(value) FROM generate_series(1, 3000000)", "memory"),
    ] {
        match refusal(&engine, &caller, sql).await {
            Refusal::TooMuch { limit: reached, .. } => assert_eq!(reached, limit, "{sql}"),
            other => panic!("{sql}: {other:?}"),
        }
        assert_eq!(
            csv(&engine, &caller, "SELECT count(x) AS n FROM flights").await,
            "n\n15\n",
            "after {sql}"
        );
    }
    let sql = "SELECT x FROM flights";
    let running = engine.prepare(&caller, Question::new(sql)).await.unwrap().run(None).await.unwrap();
    let refused = engine.prepare(&caller, Question::new(sql)).await.unwrap_err();
    assert!(matches!(refused, Refusal::TooMuch { limit: "waiting", .. }), "{refused:?}");
    drop(running);
    engine.prepare(&caller, Question::new(sql)).await.unwrap().run(None).await.unwrap();
    let metrics = engine.metrics();
    assert!(metrics.contains("queries_total{outcome=\"cancelled\",topology=\"t\"} 2"), "{metrics}");
    assert!(metrics.contains("queries_running{topology=\"t\"} 0"), "{metrics}");
}

#[tokio::test]
async fn a_role_narrows_and_widens_the_general_limits_and_has_places_of_its_own() {
    let clouds = History::good().store(1).await;
    let folder = tempfile::tempdir().unwrap();
    let mut callers = String::new();
    for (name, role) in
        [("plain", ""), ("other", "role: other"), ("wide", "role: wide"), ("hasty", "role: hasty")]
    {
        std::fs::write(folder.path().join(name), format!("the-token-of-{name}")).unwrap();
        callers.push_str(&format!("{name}: {{ token: \"${{file:{name}}}\", {role} }}, "));
    }
    let serve = format!(
        "{{ limits: {{ rows: 5, running: 1, waiting: 0 }}, callers: {{ {callers} }}, roles: {{ other: {{ all: true }}, \
         wide: {{ all: true, limits: {{ rows: 10, memory: 1MiB, disk: 0B, bytes: 4KiB, running: 1 }} }}, \
         hasty: {{ all: true, limits: {{ time: 1ms }} }} }} }}"
    );
    let engine = Engine::open(&topology(folder.path(), &serve), &clouds).unwrap();
    let known = async |name: &str| engine.authenticate(Some(&format!("the-token-of-{name}"))).await.unwrap();
    let (plain, other, wide, hasty) =
        (known("plain").await, known("other").await, known("wide").await, known("hasty").await);
    let series = |to: u32| format!("SELECT value FROM generate_series(1, {to})");
    let texts = "SELECT repeat('x', 1000) AS t, value FROM generate_series(1, 5)";
    let distinct = "SELECT count(DISTINCT value) AS n FROM generate_series(1, 100000)";
    for (caller, sql) in [
        (&plain, &*series(5)),
        (&other, &series(5)),
        (&wide, &series(10)),
        (&plain, texts),
        (&plain, distinct),
    ] {
        csv(&engine, caller, sql).await;
    }
    let endless = "SELECT count(*) FROM generate_series(1, 1000000000000000)";
    for (caller, sql, limit) in [
        (&plain, &*series(6), "rows"),
        (&other, &series(6), "rows"),
        (&wide, &series(11), "rows"),
        (&wide, texts, "bytes"),
        (&wide, distinct, "memory"),
        (&hasty, endless, "time"),
    ] {
        match refusal(&engine, caller, sql).await {
            Refusal::TooMuch { limit: reached, .. } => assert_eq!(reached, limit, "{}: {sql}", caller.name),
            refused => panic!("{}: {sql}: {refused:?}", caller.name),
        }
    }
    // The general place is taken, also for a role that has nothing of its own, and not for the one that has.
    let sql = "SELECT x FROM flights";
    let start = async |caller: &Caller| match engine.prepare(caller, Question::new(sql)).await {
        Ok(prepared) => prepared.run(None).await,
        Err(refused) => Err(refused),
    };
    let is_full =
        |started: Result<Answer, Refusal>| matches!(started, Err(Refusal::TooMuch { limit: "waiting", .. }));
    let general = start(&plain).await.unwrap();
    assert!(is_full(start(&plain).await) && is_full(start(&other).await));
    let own = start(&wide).await.unwrap();
    assert!(is_full(start(&wide).await));
    drop(general);
    drop(start(&other).await.unwrap());
    assert!(is_full(start(&wide).await), "a general place is none of the role's");
    drop(own);
    drop(start(&wide).await.unwrap());
}

#[test]
fn a_question_can_be_asked_on_any_thread() {
    fn is_send(_: impl Send) {}
    is_send(async {
        let folder = tempfile::tempdir().map_err(|error| Refusal::Internal(error.to_string()))?;
        let engine = Engine::open(&topology(folder.path(), "{}"), &[])?;
        let caller = engine.authenticate(None).await?;
        engine.tables(&caller).await?;
        engine.is_ready().await?;
        let answer = engine.prepare(&caller, Question::new("SELECT 1")).await?.run(None).await?;
        Ok::<_, Refusal>(answer.into_parts())
    });
}

#[tokio::test]
async fn a_reader_that_stops_keeps_others_waiting_no_longer_than_its_query_may_take() {
    let clouds = History::good().store(1).await;
    let engine = engine(&clouds, "{ refresh: 0s, limits: { running: 1, time: 1s } }");
    let caller = anybody(&engine).await;
    let endless =
        "SELECT a.x FROM flights a, flights b, flights c, flights d, flights e, flights f, flights g";
    let prepared = engine.prepare(&caller, Question::new(endless)).await.unwrap();
    // Its rows are neither read nor let go of.
    let unread = prepared.run(None).await.unwrap();
    let mut answered = Err(Refusal::Wrong("not asked".to_owned()));
    for _ in 0..5 {
        answered = ask(&engine, &caller, Question::new("SELECT 1 AS one")).await;
        if answered.is_ok() {
            break;
        }
    }
    assert_eq!(answered.unwrap(), "one\n1\n");
    let rows = unread.into_parts().0;
    let ended = rows.try_collect::<Vec<RecordBatch>>().await.unwrap_err();
    assert!(matches!(Refusal::from(ended), Refusal::TooMuch { limit: "time", .. }));
}

#[tokio::test]
async fn a_query_that_does_not_come_back_keeps_nobody_waiting() {
    let clouds = History::good().store(1).await;
    let engine = engine(&clouds, "{ refresh: 0s }");
    let caller = anybody(&engine).await;
    // No pair passes, so that no batch leaves the operator; and this test has one thread.
    let long =
        "SELECT count(*) AS n FROM range(1000000) AS a, range(1000000) AS b WHERE a.value + b.value < 0";
    let prepared = engine.prepare(&caller, Question::new(long)).await.unwrap();
    let rows = prepared.run(None).await.unwrap().into_parts().0;
    let running = tokio::spawn(rows.try_collect::<Vec<RecordBatch>>());
    assert_eq!(csv(&engine, &caller, "SELECT 1 AS one").await, "one\n1\n");
    assert!(!running.is_finished(), "it was waited for");
    running.abort();
}
