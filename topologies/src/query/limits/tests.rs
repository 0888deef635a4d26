//! What is refused where, and that what is not too large is answered.

use arrow::array::{ArrayRef, Int64Array, ListArray, StringViewArray};
use arrow::datatypes::Int32Type;
use arrow::util::display::array_value_to_string;
use datafusion::common::config::Dialect;
use datafusion::dataframe::DataFrame;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::execute_stream;
use datafusion::prelude::SessionConfig;
use futures::TryStreamExt;

use super::shown::without_file_names;
use super::sizes::value_bytes;
use super::*;

fn session() -> SessionContext {
    let session = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(2));
    bound(&session);
    session
}

/// All rows of the answer.
async fn answer(sql: &str, limits: &QueryLimits) -> Result<Vec<RecordBatch>> {
    let watch = Watch::start(limits);
    let state = session().state();
    let statement = state.sql_to_statement(sql, &Dialect::Generic)?;
    check_statement(&statement, limits)?;
    let plan = state.statement_to_plan(statement).await?;
    check_plan(&plan, limits)?;
    let runtime = runtime_of(state.runtime_env(), limits)?;
    let context = Arc::new(TaskContext::from(&state).with_runtime(runtime));
    let frame = DataFrame::new(state, plan.clone());
    let physical = watched(frame.create_physical_plan().await?, &watch, limits.copied_bytes_max)?;
    let rows = execute_stream(physical, context)?;
    limited(rows, &plan, limits, watch)?.try_collect().await
}

/// The limit that was met, or what else is wrong.
fn limit_met(error: &DataFusionError) -> String {
    match limit_of(error) {
        Some(Error::Limit { limit, .. }) => limit.to_owned(),
        _ => error.to_string(),
    }
}

/// The first value of the answer, as text; or the limit that was met, or the error.
async fn first(sql: &str) -> std::result::Result<String, String> {
    let batches = answer(sql, &QueryLimits::default()).await.map_err(|error| limit_met(&error))?;
    let batch = batches.first().expect("the answer has rows");
    Ok(array_value_to_string(batch.column(0), 0).expect("the value has a text"))
}

fn times(text: &str, count: usize, between: &str) -> String {
    std::iter::repeat_n(text, count).collect::<Vec<_>>().join(between)
}

async fn assert_limit(limit: &str, sql: &str) {
    let shown: String = sql.chars().take(200).collect();
    assert_eq!(first(sql).await, Err(limit.to_owned()), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_too_large_is_answered() {
    for (sql, expected) in [
        ("SELECT repeat('ab', 3)", "ababab"),
        ("SELECT lpad('a', 3, 'b')", "bba"),
        ("SELECT 'a' || 'b' || c FROM (VALUES ('c')) AS t (c)", "abc"),
        ("SELECT length(a || a) FROM (VALUES ('x'), ('y')) AS t (a)", "2"),
        ("SELECT (NULL || 'a') IS NULL", "true"),
        ("SELECT a || 'x' FROM (VALUES ('b')) AS t (a) GROUP BY ROLLUP (a || 'x') ORDER BY 1 LIMIT 1", "bx"),
        ("SELECT max(a || b || a) FROM (VALUES ('b', 'c')) AS t (a, b)", "bcb"),
        ("SELECT array_length(range(0, 10))", "10"),
        ("SELECT array_length([1, 2] || [3])", "3"),
        ("SELECT array_to_string(array_repeat('x', 3), '-')", "x-x-x"),
        ("SELECT replace('aXbX', 'X', 'yy')", "ayybyy"),
        ("SELECT regexp_replace('a1b2', '([0-9])', '<\\1>', 'g')", "a<1>b<2>"),
        ("SELECT regexp_like('abc', '^a.{1}c$')", "true"),
        ("SELECT 'abc' ~ 'b.'", "true"),
        ("SELECT levenshtein('kitten', 'sitting')", "3"),
        ("SELECT concat_ws('-', 'a', 'b')", "a-b"),
        (
            "WITH a AS (SELECT 1 AS x), b AS (SELECT x FROM a UNION ALL SELECT x FROM a) SELECT count(*) FROM b",
            "2",
        ),
        ("SELECT sum(x) OVER () FROM (VALUES (1), (2)) AS t (x)", "3"),
        ("SELECT count(*) FROM range(100) AS a, range(100) AS b WHERE a.value < b.value", "4950"),
        ("SELECT count(*) FROM (SELECT unnest(range(0, 10)))", "10"),
        (
            "SELECT sum(x) FROM (WITH RECURSIVE n AS (SELECT 1 AS x UNION ALL SELECT x + 1 FROM n WHERE x < 4) SELECT x FROM n)",
            "10",
        ),
        (
            "SELECT approx_percentile_cont(0.5, 100) WITHIN GROUP (ORDER BY x) FROM (VALUES (1), (2), (3)) AS t (x)",
            "2.0",
        ),
    ] {
        assert_eq!(first(sql).await.as_deref(), Ok(expected), "{sql}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn functions_make_no_more_than_they_may() {
    for sql in [
        "SELECT repeat('x', 2000000000)",
        "SELECT repeat(a, 2000000000) FROM (VALUES ('x')) AS t (a)",
        "SELECT rpad('x', 2000000000)",
        "SELECT range(0, 1000000000)",
        "SELECT generate_series(TIMESTAMP '1970-01-01', TIMESTAMP '2200-01-01', INTERVAL '1 second')",
        "SELECT range(TIMESTAMP '2026-01-01T00:00:00', TIMESTAMP '2026-01-01T00:00:00.999999999', INTERVAL '1 nanosecond')",
        "SELECT range(TIMESTAMP '2026-01-01T00:00:00.999999999', TIMESTAMP '2026-01-01T00:00:00', INTERVAL '-1 nanosecond')",
        "SELECT range(DATE '0001-01-01', DATE '9999-12-31', INTERVAL '1 day')",
        "SELECT generate_series(-9223372036854775807, 9223372036854775807)",
        "SELECT array_repeat(array_repeat(1, 10000), 10000)",
        "SELECT array_resize([1], 2000000000)",
        "SELECT replace(repeat('x', 1000000), 'x', repeat('y', 1000))",
        "SELECT regexp_replace(repeat('x', 1000000), 'x', repeat('y', 1000), 'g')",
        "SELECT array_to_string(array_repeat('', 100000), repeat('x', 1000))",
        "SELECT a || a || a FROM (SELECT repeat('x', 1000000) AS a)",
        "SELECT overlay(repeat('x', 2000000) PLACING repeat('y', 2000000) FROM 1)",
        "SELECT repeat('x', 100000) || b.value FROM range(100000) AS b",
    ] {
        assert_limit("value_bytes", sql).await;
    }
    assert_limit("steps", "SELECT levenshtein(repeat('x', 100000), repeat('y', 100000))").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_of_a_range_go_one_way() {
    let of_times = |step: &str| {
        format!(
            "SELECT array_length(generate_series(TIMESTAMP '1970-01-31', TIMESTAMP '1970-03-31', INTERVAL '{step}'))"
        )
    };
    for step in ["1 month -28 days", "1 month -31 days", "1 day -24 hours", "-1 month 1 nanosecond"] {
        for sql in [of_times(step), of_times(step).replace("TIMESTAMP", "DATE")] {
            let refusal = first(&sql).await.expect_err(&sql);
            assert!(refusal.contains("forward or back"), "{sql}: {refusal}");
        }
    }
    assert_eq!(first(&of_times("1 month")).await.as_deref(), Ok("3"));
    assert_eq!(first(&of_times("12 days 12 hours")).await.as_deref(), Ok("5"));
}

#[tokio::test(flavor = "multi_thread")]
async fn patterns_are_small() {
    let nested = r"SELECT 'a' ~ '((a{1,100}){1,100}){1,100}'";
    assert_limit("pattern", nested).await;
    assert_limit("pattern", r"SELECT regexp_like('a', '((a{1,100}){1,100}){1,100}')").await;
    assert_limit("pattern", &format!("SELECT regexp_like('a', '{}')", "a".repeat(5000))).await;
    assert_limit("patterns", "SELECT count(*) FROM range(1000) AS r WHERE regexp_like('a', 'a' || r.value)")
        .await;
    assert_limit("patterns", "SELECT count(*) FROM (VALUES ('a')) AS t (a) WHERE a ~ a").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_with_count_as_what_is_behind_them() {
    let mut sql = "WITH a0 AS (SELECT 1 AS x)".to_owned();
    for level in 1..40 {
        sql.push_str(&format!(", a{level} AS (SELECT l.x FROM a{0} AS l, a{0} AS r)", level - 1));
    }
    assert_limit("relations", &format!("{sql} SELECT * FROM a39")).await;
    // Quoted names are others.
    let unrelated = "WITH a AS (SELECT 1 AS x) SELECT x FROM a, (SELECT 2 AS y) AS \"A\"";
    assert_eq!(first(unrelated).await.as_deref(), Ok("1"));
}

/// Its tables are arguments, which become queries before they are counted.
#[test]
fn tables_of_point_in_time_count_as_what_is_behind_them() {
    let state = session().state();
    let limits = QueryLimits::default();
    let refused = |sql: &str| {
        let error = crate::query::sql::parse(&state, sql, &limits).err().expect("it is too much");
        limit_met(&error)
    };
    let doubled = |levels: usize| {
        let mut sql = "WITH a0 AS (SELECT id, at AS event_time FROM features)".to_owned();
        for level in 1..=levels {
            let call = format!("point_in_time(a{0}, event_time, keys => id, a{0})", level - 1);
            sql.push_str(&format!(", a{level} AS (SELECT id, event_time FROM {call})"));
        }
        format!("{sql} SELECT count(*) FROM a{levels}")
    };
    assert_eq!(refused(&doubled(40)), "relations");
    let called = |views: usize| {
        let views = times("view(features, time => at)", views, ", ");
        format!("SELECT count(*) FROM point_in_time(features, at, keys => id, {views})")
    };
    assert_eq!(refused(&called(3_000)), "relations");
    for sql in [doubled(3), called(100)] {
        assert!(crate::query::sql::parse(&state, &sql, &limits).is_ok(), "{sql}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_that_double_are_counted_before_they_do() {
    let mut doubled = "WITH a0 AS (SELECT value AS x FROM range(1))".to_owned();
    for level in 1..30 {
        doubled.push_str(&format!(", a{level} AS (SELECT x + x AS x FROM a{})", level - 1));
    }
    assert_limit("expressions", &format!("{doubled} SELECT * FROM a29 WHERE x = 1")).await;
    let mut deep = "SELECT value AS x FROM range(1)".to_owned();
    for _ in 0..3 {
        deep = format!("SELECT x + {} AS x FROM ({deep})", times("1", 300, " + "));
    }
    assert_limit("expressions", &deep).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tree_of_a_query_is_bounded() {
    assert_limit("depth", &format!("SELECT {}", times("1", 1_000, " + "))).await;
    assert_limit("relations", &times("SELECT 1", 1_000, " UNION ALL ")).await;
    assert_limit("columns", &format!("SELECT {}", times("1", 3_000, ", "))).await;
    let tables: Vec<String> = (0..100).map(|table| format!("range(1) AS t{table}")).collect();
    assert_limit("joined", &format!("SELECT 1 FROM {}", tables.join(", "))).await;
    let list: Vec<String> = (0..150_000).map(|number| number.to_string()).collect();
    assert_limit("literals", &format!("SELECT 1 IN ({})", list.join(", "))).await;
    let keys: Vec<String> = (0..20).map(|key| format!("value + {key}")).collect();
    assert_limit("grouping_sets", &format!("SELECT 1 FROM range(1) GROUP BY CUBE ({})", keys.join(", ")))
        .await;
    for large in [
        "INT[1000000000]",
        "INT[2000][]",
        "STRUCT<x BIGINT[1000000000]>",
        "STRUCT<a INT, x STRUCT<y BIGINT[1000000000]>>",
        "STRUCT<x INT[1024], y INT[1024]>",
        "STRUCT<x INT[1024]>[1024]",
        "STRUCT<a INT, b INT>[1024]",
        "STRUCT<x INT[2000]>[]",
    ] {
        assert_limit("fixed_size", &format!("SELECT CAST(NULL AS {large})")).await;
    }
    assert_limit("depth", &format!("SELECT CAST(NULL AS INT{})", "[]".repeat(1_000))).await;
    for small in ["INT[1024]", "STRUCT<x INT[3], y STRUCT<z INT[4][]>>", "STRUCT<a INT, b INT>[2]"] {
        let sql = format!("SELECT CAST(NULL AS {small})");
        assert!(crate::query::sql::parse(&session().state(), &sql, &QueryLimits::default()).is_ok(), "{sql}");
    }
    assert_limit(
        "centroids",
        "SELECT approx_percentile_cont(0.5, 1000000000) WITHIN GROUP (ORDER BY value) FROM range(9)",
    )
    .await;
}

/// Each of these doubles the work of the parser for every level.
#[test]
fn the_parser_gives_up_what_it_would_try_again_and_again() {
    let state = session().state();
    let limits = QueryLimits::default();
    for begin in [
        "CAST(",
        "POSITION(",
        "NOT (",
        "NOT - ",
        "INTERVAL - ",
        "CASE WHEN 1 THEN ",
        "f(a := ",
        "ARRAY[",
        "FLOOR(",
    ] {
        let sql = format!("SELECT {}1 ! 1", begin.repeat(40));
        let error = crate::query::sql::parse(&state, &sql, &limits).err().expect("a mistake is deep inside");
        let is_limit = matches!(limit_of(&error), Some(Error::Limit { limit: "depth", .. }));
        assert!(is_limit || error.to_string().to_lowercase().contains("recursion"), "{begin}: {error}");
    }
    let deep = format!("SELECT {}1{}", "CAST(".repeat(10), " AS INT)".repeat(10));
    assert!(crate::query::sql::parse(&state, &deep, &limits).is_ok());
}

/// What the parser asks its dialect is answered as by the generic one.
#[test]
fn the_bounded_dialect_is_the_generic_one() {
    use datafusion::sql::sqlparser::dialect::GenericDialect;
    use datafusion::sql::sqlparser::parser::Parser;
    for sql in [
        "SELECT a.b['c'][1:2], {a: 1}, x -> y, INTERVAL '1' DAY, \"q\", `b`, 1_000 FROM t AS u (a, b) WHERE a @> b AND NOT c",
        "SELECT * EXCLUDE (a) FROM t QUALIFY row_number() OVER (PARTITION BY a ORDER BY b NULLS LAST) = 1",
        "SELECT a FROM t GROUP BY GROUPING SETS ((a), ()), CUBE (a), ROLLUP (b) ORDER BY ALL",
        "WITH RECURSIVE n AS (SELECT 1) SELECT n.*, f(a => 1), count(*) FILTER (WHERE b) FROM n ASOF JOIN m MATCH_CONDITION (a >= b)",
        "SELECT DATE '2020-01-01', TRY_CAST(a AS INT[3]), a::STRUCT<x INT>, EXTRACT(DAY FROM b), 'a' 'b' FROM f(1) LIMIT 1, 2",
        "FROM t SELECT a",
        "SELECT TOP 5 a FROM t FOR UPDATE",
    ] {
        let generic = Parser::parse_sql(&GenericDialect {}, sql).map_err(|error| error.to_string());
        let bounded = Parser::parse_sql(&BoundedDialect::new(1_000), sql).map_err(|error| error.to_string());
        assert_eq!(bounded, generic, "{sql}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn time_ends_what_does_not_yield() {
    let limits = QueryLimits { time: Some(Duration::from_millis(300)), ..QueryLimits::default() };
    for sql in [
        // No pair passes, so that no batch leaves the operator.
        "SELECT count(*) FROM range(1000000) AS a, range(1000000) AS b WHERE a.value + b.value < 0",
        "SELECT count(*) FROM range(1000000) AS a, range(1000000) AS b, range(1000000) AS c",
        "WITH RECURSIVE n AS (SELECT 1 AS x UNION ALL SELECT x FROM n) SELECT count(*) FROM n",
        "SELECT sum(value) FROM generate_series(1, 9000000000000000000)",
    ] {
        let error = answer(sql, &limits).await.expect_err(sql);
        assert_eq!(limit_met(&error), "time", "{sql}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_rows_and_bytes_of_an_answer_are_bounded() {
    let narrow = QueryLimits {
        memory_bytes_max: 1 << 20,
        rows_max: 100,
        bytes_max: 1_000_000,
        copied_bytes_max: 64 << 10,
        ..QueryLimits::default()
    };
    for (limit, sql) in [
        ("rows", "SELECT value FROM range(1000)"),
        ("bytes", "SELECT repeat('x', 100000 + value) FROM range(50)"),
        ("memory", "SELECT sum(value) OVER () FROM range(10000000)"),
        ("memory", "SELECT array_agg(value) FROM range(10000000)"),
        (
            "row_bytes",
            "SELECT a.s FROM (SELECT repeat('x', 1000000 + value) AS s FROM range(1)) AS a, range(10) AS b",
        ),
        (
            "row_bytes",
            "SELECT max(s) OVER () FROM (SELECT repeat('x', value) AS s FROM range(100000, 100001))",
        ),
        ("row_bytes", "SELECT repeat('x', 1000000) FROM range(10)"),
        ("row_bytes", "SELECT (SELECT max(repeat('x', value)) FROM range(100000, 100001)) FROM range(10)"),
    ] {
        let error = answer(sql, &narrow).await.expect_err(sql);
        assert_eq!(limit_met(&error), limit, "{sql}: {error}");
    }
}

#[test]
fn large_batches_are_handed_on_in_pieces() {
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..10));
    let batch = RecordBatch::try_from_iter([("n", numbers)]).unwrap();
    let whole = pieces(&batch, 100);
    assert_eq!(whole, vec![batch.clone()]);
    let mut parts = pieces(&batch, 3 * PIECE_BYTES_MAX);
    assert_eq!(parts.len(), 3);
    parts.reverse();
    let joined = arrow::compute::concat_batches(&batch.schema(), &parts).unwrap();
    assert_eq!(joined, batch);
    assert_eq!(pieces(&batch.slice(0, 0), 0).len(), 1);
}

#[test]
fn bytes_are_those_of_values() {
    let long = "x".repeat(1000);
    let views: ArrayRef = Arc::new(StringViewArray::from(vec![long.as_str(), "a"]));
    assert_eq!(value_bytes(&views), 1000 + 1 + 2 * 16);
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..10));
    assert_eq!(value_bytes(&numbers.slice(2, 3)), 24);
    let lists = ListArray::from_iter_primitive::<Int32Type, _, _>([Some(vec![Some(1), None]), None]);
    assert!(value_bytes(&(Arc::new(lists) as ArrayRef)) >= 8);
}

#[test]
fn plans_are_shown_without_files() {
    let plan = "DataSourceExec: file_groups={2 groups: [[datasets/a/1.parquet, datasets/a/2.parquet:0..9], [b]]}, \
                projection=[x]\n  DataSourceExec: file_groups={1 group: [[c, ...]]}, file_type=parquet";
    let shown = without_file_names(plan);
    assert_eq!(
        shown,
        "DataSourceExec: file_groups={2 groups}, projection=[x]\n  DataSourceExec: file_groups={1 group}, file_type=parquet"
    );
    assert_eq!(without_file_names("ProjectionExec: expr=[1]"), "ProjectionExec: expr=[1]");
    let metrics =
        "bytes_scanned{partition=0, filename=datasets/a/1.parquet}=10, x{filename=a.parquet, partition=1}=1";
    let shown = without_file_names(metrics);
    assert_eq!(shown, "bytes_scanned{partition=0, filename=}=10, x{filename=, partition=1}=1");
}
