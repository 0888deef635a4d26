//! What is behind a guard, asked for in every way that a query has.

use arrow::array::AsArray;
use datafusion::prelude::SessionContext;
use futures::TryStreamExt;

use super::*;
use crate::prove::testing::{DATASET, History};
use crate::query::snapshot::newest_snapshots;
use crate::query::{Answer, QueryLimits, Reading, Replicas, RowsFormat, Watch, session, start};

fn columns(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// A session with the dataset of a good history behind `guard`: `month` and `x`, 15 rows.
async fn guarded(guard: &Guard) -> SessionContext {
    let clouds = History::good().store(1).await;
    let replicas = Arc::new(Replicas::new(&clouds, &Reading::default()).unwrap());
    let context = session(&replicas, 64 << 20).unwrap();
    let snapshot = newest_snapshots(&clouds, &[DATASET.to_owned()]).await.unwrap().remove(DATASET).unwrap();
    let table = Arc::new(SnapshotTable::new(snapshot, replicas).unwrap());
    let table = guard.around(table, &context.state()).unwrap();
    assert_eq!(table.version.version, 3);
    context.register_table(DATASET, table.provider).unwrap();
    context
}

async fn answer(context: &SessionContext, sql: &str) -> Result<Answer, String> {
    let plan = context.state().create_logical_plan(sql).await.map_err(|error| error.to_string())?;
    let limits = QueryLimits::default();
    let replicas = Replicas::new(&History::good().store(1).await, &Reading::default()).unwrap();
    let answer = start(context.state(), plan, &replicas, &limits, Watch::start(&limits)).await;
    answer.map_err(|error| crate::chain_of(&error))
}

async fn csv(context: &SessionContext, sql: &str) -> String {
    let mut answer = answer(context, sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    let mut text = String::new();
    while let Some(piece) = answer
        .next_text(RowsFormat::Csv)
        .await
        .unwrap_or_else(|error| panic!("{sql}: {}", crate::chain_of(&error)))
    {
        text.push_str(&piece);
    }
    text
}

#[tokio::test]
async fn rows_that_are_left_out_are_found_in_no_way() {
    let guard = Guard { rows: Some("x >= 3 AND x < 8".to_owned()), ..Guard::default() };
    let context = guarded(&guard).await;
    for (sql, expected) in [
        ("SELECT count(*) AS n FROM flights", "n\n5\n"),
        ("SELECT count(x) AS n FROM flights", "n\n5\n"),
        ("SELECT min(x) AS a, max(x) AS b FROM flights", "a,b\n3,7\n"),
        ("SELECT count(*) AS n FROM flights WHERE x = 0 OR true", "n\n5\n"),
        ("SELECT count(*) AS n FROM flights WHERE x = 0", "n\n0\n"),
        ("SELECT count(*) AS n FROM flights WHERE x IN (0, 3, 14)", "n\n1\n"),
        ("SELECT count(*) AS n FROM flights WHERE x BETWEEN 0 AND 4", "n\n2\n"),
        ("SELECT count(*) AS n FROM flights WHERE month = '1'", "n\n0\n"),
        ("SELECT DISTINCT month FROM flights", "month\n2\n"),
        ("SELECT x FROM flights ORDER BY x LIMIT 1", "x\n3\n"),
        ("SELECT x FROM flights ORDER BY x DESC LIMIT 1", "x\n7\n"),
        ("SELECT count(*) AS n FROM flights AS a JOIN flights AS b ON a.x <> b.x", "n\n20\n"),
        ("SELECT count(*) AS n FROM (SELECT x FROM flights UNION SELECT x FROM flights)", "n\n5\n"),
        ("SELECT (SELECT max(x) FROM flights) AS m", "m\n7\n"),
        ("SELECT 1 AS one WHERE EXISTS (SELECT 1 FROM flights WHERE x > 7)", "one\n"),
        ("WITH f AS (SELECT * FROM flights) SELECT sum(x) AS s FROM f", "s\n25\n"),
        ("SELECT max(x) OVER () AS m FROM flights LIMIT 1", "m\n7\n"),
        ("SELECT count(*) FILTER (WHERE x < 3) AS n FROM flights", "n\n0\n"),
        (
            "SELECT count(*) AS n FROM flights FULL JOIN (VALUES (0), (14)) AS v(y) ON x = y WHERE x IS NULL",
            "n\n2\n",
        ),
    ] {
        assert_eq!(csv(&context, sql).await, expected, "{sql}");
    }
}

#[tokio::test]
async fn errors_of_expressions_say_nothing_of_rows_that_are_left_out() {
    let guard = Guard { rows: Some("x > 0".to_owned()), ..Guard::default() };
    let context = guarded(&guard).await;
    // The row with 0 would fail each of these.
    for sql in [
        "SELECT count(*) AS n FROM flights WHERE 100 / x >= 0",
        "SELECT count(*) AS n FROM flights WHERE 100 / x >= 0 AND month <> 'none'",
        "SELECT count(100 / x) AS n FROM flights",
        "SELECT count(*) AS n FROM (SELECT 100 / x AS y FROM flights) WHERE y >= 0",
    ] {
        assert_eq!(csv(&context, sql).await, "n\n14\n", "{sql}");
    }
    let open = guarded(&Guard::default()).await;
    let (rows, _) = answer(&open, "SELECT count(100 / x) AS n FROM flights").await.unwrap().into_parts();
    let failed: Result<Vec<RecordBatch>, _> = rows.try_collect().await;
    assert!(failed.is_err(), "the row with 0 fails where it is seen");
}

#[tokio::test]
async fn plans_show_neither_the_condition_nor_files_nor_counts() {
    let guard = Guard { rows: Some("x < 3".to_owned()), hidden: columns(&["month"]), ..Guard::default() };
    let context = guarded(&guard).await;
    for sql in [
        "EXPLAIN SELECT * FROM flights WHERE x > 1",
        "EXPLAIN VERBOSE SELECT * FROM flights WHERE x > 1",
        "EXPLAIN ANALYZE SELECT x FROM flights",
        "EXPLAIN ANALYZE VERBOSE SELECT x FROM flights",
        "EXPLAIN FORMAT INDENT SELECT count(*) FROM flights",
    ] {
        let plan = csv(&context, sql).await;
        assert!(plan.contains("GuardedExec") || plan.contains("flights"), "{plan}");
        for hidden in ["parquet", "month=", "Int64(3)", "x@1 < 3", "x < 3", "bytes_scanned", "output_rows=15"]
        {
            assert!(!plan.contains(hidden), "{sql} shows {hidden}:\n{plan}");
        }
    }
}

#[tokio::test]
async fn a_condition_that_is_null_leaves_the_row_out() {
    let guard = Guard { rows: Some("CASE WHEN x < 5 THEN true END".to_owned()), ..Guard::default() };
    assert_eq!(csv(&guarded(&guard).await, "SELECT count(*) AS n FROM flights").await, "n\n5\n");
}

#[tokio::test]
async fn hidden_columns_are_null_everywhere() {
    let guard = Guard { hidden: columns(&["x"]), ..Guard::default() };
    let context = guarded(&guard).await;
    for (sql, expected) in [
        ("SELECT count(*) AS n, count(x) AS m, max(x) AS x FROM flights", "n,m,x\n15,0,\n"),
        ("SELECT count(*) AS n FROM flights WHERE x = 3", "n\n0\n"),
        ("SELECT count(*) AS n FROM flights WHERE x IS NULL", "n\n15\n"),
        ("SELECT DISTINCT x FROM flights", "x\n\n"),
        ("SELECT month, x FROM flights WHERE month = 'a b' LIMIT 1", "month,x\na b,\n"),
        ("SELECT count(*) AS n FROM flights AS a JOIN flights AS b ON a.x = b.x", "n\n0\n"),
        ("SELECT count(*) AS n FROM flights WHERE x IN (1, 2) OR x BETWEEN 0 AND 9", "n\n0\n"),
    ] {
        // `DISTINCT` writes one row, whose only value is null.
        let found = csv(&context, sql).await.replace("\"\"", "");
        assert_eq!(found, expected, "{sql}");
    }
    let answer = answer(&context, "SELECT * FROM flights").await.unwrap();
    assert!(answer.schema().field_with_name("x").unwrap().is_nullable());
}

#[tokio::test]
async fn hashed_columns_keep_what_is_equal_and_show_nothing_else() {
    let key = [7; 32];
    let guard = Guard { hashed: columns(&["x", "month"]), key, ..Guard::default() };
    let context = guarded(&guard).await;
    for (sql, expected) in [
        ("SELECT count(DISTINCT x) AS n, count(DISTINCT month) AS m FROM flights", "n,m\n15,3\n"),
        ("SELECT count(*) AS n FROM flights AS a JOIN flights AS b ON a.x = b.x", "n\n15\n"),
        ("SELECT count(*) AS n FROM flights WHERE x = '3' OR month = '1'", "n\n0\n"),
        ("SELECT count(*) AS n FROM flights WHERE length(x) = 64", "n\n15\n"),
        // The same value in two columns: only month 1 and 2 are values of both.
        ("SELECT count(*) AS n FROM flights WHERE x IN (SELECT month FROM flights)", "n\n2\n"),
    ] {
        assert_eq!(csv(&context, sql).await, expected, "{sql}");
    }
    let (rows, _) = answer(&context, "SELECT x FROM flights").await.unwrap().into_parts();
    let batches: Vec<RecordBatch> = rows.try_collect().await.unwrap();
    let mut found: Vec<String> = Vec::new();
    for batch in &batches {
        found.extend(batch.column(0).as_string::<i32>().iter().flatten().map(str::to_owned));
    }
    let hash = |key: &[u8; 32], value: &str| {
        let inner = Sha256::new().chain_update(key).chain_update(value).finalize();
        hex::encode(Sha256::new().chain_update(key).chain_update(inner).finalize())
    };
    let mut expected: Vec<String> = (0..15).map(|x| hash(&key, &x.to_string())).collect();
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
    assert_ne!(hash(&[8; 32], "3"), hash(&key, "3"));
}

#[tokio::test]
async fn a_guard_that_does_not_fit_is_refused() {
    let clouds = History::good().store(1).await;
    let replicas = Arc::new(Replicas::new(&clouds, &Reading::default()).unwrap());
    let context = session(&replicas, 64 << 20).unwrap();
    let snapshot = newest_snapshots(&clouds, &[DATASET.to_owned()]).await.unwrap().remove(DATASET).unwrap();
    let table = Arc::new(SnapshotTable::new(snapshot, replicas).unwrap());
    for rows in ["y = 1", "x >", "x + 1", "random() > 0.5", "nothing(x)"] {
        let guard = Guard { rows: Some(rows.to_owned()), ..Guard::default() };
        assert!(guard.around(table.clone(), &context.state()).is_err(), "{rows}");
    }
    let guard =
        Guard { hidden: columns(&["x", "why"]), hashed: columns(&["month", "z"]), ..Guard::default() };
    assert_eq!(guard.unknown_columns(&table), ["why", "z"]);
    assert!(!format!("{:?}", Guard { key: [65; 32], ..guard }).contains("65"));
}
