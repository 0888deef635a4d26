use datafusion::prelude::{SessionConfig, SessionContext};

use super::*;

async fn session() -> SessionContext {
    let context = SessionContext::new_with_config(SessionConfig::new().with_information_schema(true));
    context.sql("CREATE TABLE d AS VALUES (1)").await.unwrap();
    context.sql("CREATE TABLE version AS SELECT 1 AS timestamp, 2 AS version").await.unwrap();
    context
}

/// Plans `sql` without a snapshot for any version.
async fn planned(sql: &str) -> Result<LogicalPlan> {
    let mut state = session().await.state();
    let parsed = parse(&state, sql, &QueryLimits::default())?;
    plan(&mut state, parsed, Pins::default()).await
}

async fn refusal(sql: &str) -> String {
    match planned(sql).await {
        Ok(plan) => panic!("{sql} was planned:\n{plan}"),
        Err(error) => error.strip_backtrace(),
    }
}

/// The versions that `sql` names, as text.
async fn pinned(sql: &str) -> Vec<String> {
    let parsed = parse(&session().await.state(), sql, &QueryLimits::default())
        .unwrap_or_else(|error| panic!("{sql}: {error}"));
    parsed.pinned.iter().map(|(table, pin)| format!("{table} {pin:?}")).collect()
}

#[tokio::test]
async fn versions_are_found_wherever_they_stand() {
    for sql in [
        "SELECT * FROM d VERSION AS OF 3",
        "SELECT * FROM d FOR VERSION AS OF 3",
        "SELECT * FROM d FOR SYSTEM_VERSION AS OF 3",
        "select * from d version as of '3'",
        "SELECT * FROM d/* */VERSION\n\tAS -- of\n OF 3;",
        "SELECT * FROM d VERSION AS OF 3 AS x WHERE x.column1 > 0",
        "SELECT * FROM d VERSION AS OF 3 x(a)",
        "SELECT * FROM (SELECT * FROM d VERSION AS OF 3) AS x",
        "SELECT * FROM (d VERSION AS OF 3)",
        "WITH x AS (SELECT * FROM d VERSION AS OF 3) SELECT * FROM x",
        "WITH d AS (SELECT * FROM d VERSION AS OF 3) SELECT * FROM d",
        "SELECT * FROM (WITH d AS (SELECT 1) SELECT * FROM d) AS a, d VERSION AS OF 3",
        "SELECT (SELECT count(*) FROM d VERSION AS OF 3)",
        "SELECT 1 WHERE EXISTS (SELECT * FROM d VERSION AS OF 3)",
        "SELECT * FROM d JOIN d VERSION AS OF 3 AS x ON true",
        "SELECT * FROM d, d VERSION AS OF 3 AS x, LATERAL (SELECT 1) AS y",
        "SELECT * FROM d UNION ALL SELECT * FROM d VERSION AS OF 3",
        "EXPLAIN SELECT * FROM d VERSION AS OF 3",
        "EXPLAIN ANALYZE SELECT * FROM d VERSION AS OF 3",
    ] {
        assert_eq!(pinned(sql).await, ["d Version(3)"], "{sql}");
        // Nothing is read at a version that has not become a snapshot.
        let refusal = refusal(sql).await;
        assert!(refusal.contains("has not become a snapshot"), "{sql}: {refusal}");
    }
    for sql in [
        "SELECT 1 ORDER BY (SELECT count(*) FROM d VERSION AS OF 3)",
        "SELECT 1 HAVING 1 IN (SELECT * FROM d VERSION AS OF 3)",
        "SELECT sum(1) OVER (PARTITION BY (SELECT count(*) FROM d VERSION AS OF 3))",
        "VALUES ((SELECT count(*) FROM d VERSION AS OF 3))",
    ] {
        assert_eq!(pinned(sql).await, ["d Version(3)"], "{sql}");
        assert!(planned(sql).await.is_err(), "{sql}");
    }
    let several =
        "SELECT * FROM d VERSION AS OF 3 AS a JOIN d VERSION AS OF 4 AS b ON true, d VERSION AS OF 3";
    assert_eq!(pinned(several).await, ["d Version(3)", "d Version(4)"]);
    assert_eq!(
        pinned("SELECT * FROM \"D\" VERSION AS OF 1, a.B VERSION AS OF 2").await,
        ["D Version(1)", "a.b Version(2)"]
    );
}

#[tokio::test]
async fn times_are_in_utc_unless_they_say_otherwise() {
    for (time, ms) in [
        ("'1970-01-01T00:00:01Z'", 1000),
        ("'1970-01-01T01:00:01.25+01:00'", 1250),
        ("'1970-01-01 01:00:01+01:00'", 1000),
        ("'1970-01-01T00:00:01'", 1000),
        ("'1970-01-01 00:00:01.9999'", 1999),
        ("'1970-01-01 00:01'", 60_000),
        ("'1970-01-02'", 86_400_000),
        ("TIMESTAMP '1970-01-02 00:00:00'", 86_400_000),
        ("DATE '1970-01-02'", 86_400_000),
        ("'1969-12-31T23:59:59Z'", -1000),
    ] {
        for clause in ["TIMESTAMP AS OF", "FOR TIMESTAMP AS OF", "FOR SYSTEM_TIME AS OF"] {
            let sql = format!("SELECT * FROM d {clause} {time} AS x");
            assert_eq!(pinned(&sql).await, [format!("d Time({ms})")], "{sql}");
        }
    }
}

#[tokio::test]
async fn clauses_that_cannot_be_kept_are_refused() {
    for (sql, why) in [
        ("SELECT * FROM d VERSION AS OF", "behind the name of a table"),
        ("SELECT * FROM d VERSION AS OF x", "behind the name of a table"),
        ("SELECT * FROM d VERSION AS OF -1", "behind the name of a table"),
        ("SELECT * FROM d VERSION AS OF (SELECT 1)", "behind the name of a table"),
        ("SELECT * FROM d FOR VERSION AS OF $1", "behind the name of a table"),
        ("SELECT * FROM d VERSION AS OF 1.5", "a whole number"),
        ("SELECT * FROM d VERSION AS OF 1e3", "a whole number"),
        ("SELECT * FROM d VERSION AS OF '+1'", "a whole number"),
        ("SELECT * FROM d VERSION AS OF ''", "a whole number"),
        ("SELECT * FROM d VERSION AS OF 99999999999999999999", "a whole number"),
        ("SELECT * FROM d VERSION AS OF 3 VERSION AS OF 4", "behind the name of a table"),
        ("SELECT * FROM d TIMESTAMP AS OF now()", "behind the name of a table"),
        ("SELECT * FROM d TIMESTAMP AS OF 1372636800000", "in quotes"),
        ("SELECT * FROM d TIMESTAMP AS OF 'yesterday'", "in quotes"),
        ("SELECT * FROM d TIMESTAMP AS OF '2013-13-01'", "in quotes"),
        ("SELECT * FROM d AS x VERSION AS OF 3", "behind the name of a table"),
        ("SELECT * FROM d x VERSION AS OF 3", "behind the name of a table"),
        ("SELECT * FROM (SELECT 1) VERSION AS OF 3", "behind the name of a table"),
        ("SELECT * FROM (SELECT 1) AS x VERSION AS OF 3", "behind the name of a table"),
        ("SELECT * FROM generate_series(1, 2) VERSION AS OF 3", "behind the name of a table"),
        ("SELECT * FROM d, LATERAL d VERSION AS OF 3", "a table only"),
        ("SELECT column1 VERSION AS OF 3 FROM d", "a table only"),
        ("SELECT count VERSION AS OF 3 FROM d", "a table only"),
        ("SELECT * FROM d WHERE column1 VERSION AS OF 3 > 0", "a table only"),
        ("SELECT * FROM d WHERE column1 IS DISTINCT FROM d VERSION AS OF 3", "a table only"),
        ("WITH x AS (SELECT 1) SELECT * FROM x VERSION AS OF 3", "the name of a query"),
        ("WITH d AS (SELECT 1), x AS (SELECT * FROM d VERSION AS OF 3) SELECT 1", "the name of a query"),
        ("WITH d AS (SELECT 1) SELECT * FROM (SELECT * FROM d VERSION AS OF 3)", "the name of a query"),
        (
            "WITH RECURSIVE x AS (SELECT 1 UNION ALL SELECT * FROM x VERSION AS OF 3) SELECT * FROM x",
            "the name of a query",
        ),
        ("DESCRIBE d VERSION AS OF 3", "behind the name of a table"),
        ("SELECT '\u{1}version'", "control character"),
        ("SELECT * FROM d(\"\u{1}version\" => '3')", "control character"),
    ] {
        let refusal = refusal(sql).await;
        assert!(refusal.contains(why), "{sql}: {refusal}");
        assert!(why == "control character" || !refusal.contains(MARK), "{sql}: {refusal}");
    }
    let many: Vec<String> =
        (0..=PINS_MAX).map(|version| format!("SELECT * FROM d VERSION AS OF {version}")).collect();
    let many = many.join(" UNION ALL ");
    assert!(refusal(&many).await.contains("101 versions"));
    let refused = parse(&session().await.state(), &many, &QueryLimits::default());
    let limit = refused.err().and_then(|error| limits::limit_of(&error));
    assert!(matches!(limit, Some(crate::Error::Limit { limit: "versions", .. })), "{limit:?}");
}

#[tokio::test]
async fn a_clause_that_another_dialect_parsed_is_refused() {
    let dialect = datafusion::config::Dialect::Databricks;
    for sql in ["SELECT * FROM d VERSION AS OF 3", "SELECT * FROM d TIMESTAMP AS OF now()"] {
        let mut state = session().await.state();
        let statement = state.sql_to_statement(sql, &dialect).unwrap();
        assert!(Collect::new(true).statement(&statement).is_err(), "{sql}");
        let parsed = Parsed { statement, pinned: BTreeSet::new(), newest: None };
        let refusal = plan(&mut state, parsed, Pins::default()).await.unwrap_err();
        assert!(refusal.to_string().contains("has not become a snapshot"), "{sql}: {refusal}");
    }
}

#[tokio::test]
async fn what_the_planner_would_pass_over_is_refused() {
    for sql in [
        "SELECT * FROM d TABLESAMPLE (10 PERCENT)",
        "SELECT * FROM d TABLESAMPLE BERNOULLI (10)",
        "SELECT * FROM (SELECT * FROM d) AS x TABLESAMPLE (10)",
        "SELECT * FROM d PARTITION (a)",
        "SELECT * FROM d WITH (NOLOCK)",
        "SELECT * FROM generate_series(1, 2) WITH ORDINALITY",
    ] {
        let refusal = refusal(sql).await;
        assert!(refusal.contains("only an alias") || refusal.contains("ParserError"), "{sql}: {refusal}");
    }
}

#[tokio::test]
async fn only_tables_without_a_version_are_wanted_at_their_newest() {
    let state = session().await.state();
    for (sql, expected) in [
        ("SELECT * FROM d VERSION AS OF 3", Some("")),
        ("SELECT * FROM d", Some("d")),
        ("SELECT * FROM d AS a, d VERSION AS OF 3 AS b", Some("d")),
        ("SELECT * FROM e VERSION AS OF 3 AS a, d AS b", Some("d")),
        ("WITH d AS (SELECT * FROM d VERSION AS OF 3) SELECT * FROM d", Some("")),
        ("WITH d AS (SELECT 1) SELECT * FROM d", Some("")),
        ("EXPLAIN SELECT * FROM d", Some("d")),
        ("SELECT * FROM information_schema.tables", None),
        ("SHOW TABLES", None),
        ("DESCRIBE d", None),
    ] {
        let parsed =
            parse(&state, sql, &QueryLimits::default()).unwrap_or_else(|error| panic!("{sql}: {error}"));
        let wanted = parsed
            .newest
            .map(|references| references.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "));
        assert_eq!(wanted.as_deref(), expected, "{sql}");
    }
}

#[tokio::test]
async fn anything_but_a_query_is_refused() {
    for sql in [
        "CREATE TABLE x AS SELECT 1",
        "CREATE EXTERNAL TABLE x STORED AS CSV LOCATION '/etc/passwd'",
        "CREATE VIEW x AS SELECT 1",
        "DROP TABLE d",
        "INSERT INTO d VALUES (2)",
        "INSERT INTO d SELECT * FROM d VERSION AS OF 3",
        "UPDATE d SET column1 = 2",
        "DELETE FROM d",
        "DELETE FROM d VERSION AS OF 3",
        "COPY d TO '/tmp/d.csv'",
        "COPY (SELECT 1) TO '/tmp/d.csv'",
        "COPY (SELECT * FROM d VERSION AS OF 3) TO '/tmp/d.csv'",
        "EXPLAIN ANALYZE INSERT INTO d VALUES (2)",
        "SET datafusion.execution.batch_size = 1",
        "RESET datafusion.execution.batch_size",
        "BEGIN",
        "PREPARE p AS SELECT 1",
        "CREATE FUNCTION f() RETURNS INT RETURN 1",
    ] {
        let refusal = refusal(sql).await;
        assert!(!refusal.is_empty(), "{sql}");
    }
    assert!(refusal("SELECT 1; SELECT 2").await.contains("single"));
    assert!(refusal("").await.contains("No SQL"));
    assert!(refusal("DROP TABLE d").await.contains("only queries"));
    assert!(refusal("SELECT * FROM '/etc/passwd'").await.contains("not found"));
}

#[tokio::test]
async fn names_that_look_like_the_clauses_are_fine() {
    for sql in [
        "SELECT version.timestamp, version.version FROM version AS timestamp, version",
        "SELECT version AS of FROM version",
        "SELECT timestamp AS of, version AS of2 FROM version AS of",
        "SELECT 'd VERSION AS OF 3' AS text",
        "SELECT 1 AS \"d VERSION AS OF 3\" -- VERSION AS OF 3",
        "SELECT at.a FROM version at(a, b)",
        "SELECT * FROM version before, version changes",
        "WITH q AS (SELECT 1) SELECT * FROM q",
        "SELECT * FROM generate_series(1, 3)",
        "SHOW TABLES",
    ] {
        planned(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        assert_eq!(pinned(sql).await, [""; 0], "{sql}");
    }
}
