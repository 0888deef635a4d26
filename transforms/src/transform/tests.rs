//! What SQL is possible, and what becomes of rows.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{
    Array, ArrayRef, AsArray, Int32Array, Int64Array, StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Int32Type, Int64Type, TimeUnit};
use arrow::util::pretty::pretty_format_batches;

use super::*;
use crate::error::Location;
use crate::expectations::Action;
use crate::rule::SQL_ERROR;

/// `a` and `b` are integers, `s` is text, `t` a timestamp; `a` is required.
fn fields() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("a", DataType::Int32, false),
        Field::new("b", DataType::Int32, true),
        Field::new("s", DataType::Utf8, true),
        Field::new("t", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), true),
    ]))
}

type Row = (i32, Option<i32>, Option<&'static str>);

fn batch(rows: &[Row]) -> RecordBatch {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(rows.iter().map(|row| Some(row.0)).collect::<Int32Array>()),
        Arc::new(rows.iter().map(|row| row.1).collect::<Int32Array>()),
        Arc::new(rows.iter().map(|row| row.2).collect::<StringArray>()),
        Arc::new(
            rows.iter()
                .map(|row| Some(i64::from(row.0) * 1_000_000))
                .collect::<TimestampMicrosecondArray>()
                .with_timezone("UTC"),
        ),
    ];
    RecordBatch::try_new(fields(), columns).unwrap()
}

fn compile(sql: &str, expectations: &[(&str, &str, Action)]) -> Result<DatasetTransform, Error> {
    let expectation = |(name, check, action): &(&str, &str, Action)| Expectation {
        name: (*name).to_owned(),
        check: (*check).to_owned(),
        action: *action,
    };
    DatasetTransform::compile(TransformSpec {
        source_name: "source".to_owned(),
        input_schema: fields(),
        sql: sql.to_owned(),
        expectations: expectations.iter().map(expectation).collect(),
    })
}

fn run(sql: &str, rows: &[Row]) -> TransformOutcome {
    compile(sql, &[]).unwrap_or_else(|error| panic!("{sql}: {error}")).run(batch(rows)).unwrap()
}

/// The rows of a batch, each as its values with commas between.
fn lines(batch: &RecordBatch) -> Vec<String> {
    let text = pretty_format_batches(std::slice::from_ref(batch)).unwrap().to_string();
    let rows = text.lines().skip(3).filter(|line| line.starts_with('|'));
    rows.map(|line| line.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>().join(",")).collect()
}

fn count(counts: &[(&str, u64)]) -> BTreeMap<String, u64> {
    counts.iter().map(|(rule, rows)| ((*rule).to_owned(), *rows)).collect()
}

#[test]
fn projections_and_filters_keep_the_order_of_rows() {
    let rows =
        [(1, Some(10), Some("x")), (2, None, Some("y")), (3, Some(30), None), (4, Some(40), Some("z"))];
    for (sql, expected) in [
        ("SELECT a, b FROM source", vec!["1,10", "2,", "3,30", "4,40"]),
        ("SELECT a + 1 AS n FROM source WHERE b >= 30", vec!["4", "5"]),
        (
            "select n * 2 as m from (select a + 1 as n, s from source where s is not null) q where n > 2",
            vec!["6", "10"],
        ),
        (
            "WITH q AS (SELECT a, b FROM source), r AS (SELECT * FROM q WHERE b > 10) SELECT a FROM r",
            vec!["3", "4"],
        ),
        ("(SELECT f.s FROM source AS f WHERE f.a BETWEEN 2 AND 3)", vec!["y", ""]),
        ("SELECT upper(s) || '!' AS u FROM source WHERE a IN (1, 2) -- comment\n;", vec!["X!", "Y!"]),
        (
            "SELECT CASE WHEN b > 10 THEN 'late' ELSE 'ok' END AS c FROM source",
            vec!["ok", "ok", "late", "late"],
        ),
        ("SELECT a FROM source WHERE false", vec![]),
        ("SELECT 7 AS seven FROM source WHERE a > 2", vec!["7", "7"]),
        ("SELECT date_part('second', t) AS sec FROM source WHERE a = 4", vec!["4"]),
        ("SELECT * EXCLUDE (s, t) FROM source WHERE a = 1", vec!["1,10"]),
        ("SELECT * EXCEPT (s, t), 5 AS five FROM source WHERE a = 1", vec!["1,10,5"]),
        ("SELECT source.* EXCLUDE (t) FROM source WHERE a = 1", vec!["1,10,x"]),
    ] {
        let outcome = run(sql, &rows);
        assert_eq!(lines(&outcome.rows), expected, "{sql}");
        assert_eq!(outcome.counts.input, 4);
        assert_eq!(outcome.counts.output, expected.len() as u64);
        assert_eq!(outcome.counts.filtered, 4 - expected.len() as u64);
    }
}

#[test]
fn metadata_columns_are_there_for_those_who_name_them() {
    let mut transform = compile(
        "SELECT *, _offset AS kafka_offset FROM source WHERE _partition = 3",
        &[("keyed", "_key IS NOT NULL", Action::Drop)],
    )
    .unwrap();
    use MetadataColumn::{Key, Offset, Partition};
    assert_eq!(transform.metadata_columns(), [Partition, Offset, Key]);
    let names: Vec<_> = transform.output_schema().fields().iter().map(|field| field.name().clone()).collect();
    assert_eq!(names, ["a", "b", "s", "t", "kafka_offset"]);

    let mut chunk = isobar_schemas::RecordChunk::new(isobar_schemas::TopicPartition::new("flights", 3));
    chunk.push(70, None, Some(b"k"), Some(b""));
    chunk.push(71, None, None, Some(b""));
    let rows = batch(&[(1, None, None), (2, None, None)]);
    let given = isobar_schemas::metadata::with_metadata(&rows, &chunk, &[0, 1], transform.metadata_columns())
        .unwrap();
    let outcome = transform.run(given).unwrap();
    assert_eq!(outcome.rows["kafka_offset"].as_primitive::<Int64Type>().values(), &[70]);
    assert_eq!(outcome.counts.dropped, count(&[("keyed", 1)]));

    assert!(compile("SELECT a FROM source", &[]).unwrap().metadata_columns().is_empty());
    let unnamed = compile("SELECT _offset FROM source", &[]).unwrap_err().to_string();
    assert!(unnamed.contains("_offset AS kafka_offset"), "{unnamed}");
    let foreign = compile("SELECT _offset AS o FROM source", &[]).unwrap().run(rows).unwrap_err();
    assert!(matches!(foreign, Error::ForeignBatch { .. }));
}

/// The headers of a record: names and values.
type Headers<'a> = &'a [(&'a str, Option<&'a [u8]>)];

/// The outcome of `sql` on records with these headers, whose `a` is 0, 1, ….
fn run_with_headers(sql: &str, records: &[Headers<'_>]) -> TransformOutcome {
    let mut transform = compile(sql, &[]).unwrap_or_else(|error| panic!("{sql}: {error}"));
    assert_eq!(transform.metadata_columns(), [MetadataColumn::Headers], "{sql}");
    let partition = isobar_schemas::TopicPartition::new("orders", 0);
    let mut chunk = isobar_schemas::RecordChunk::with_headers(partition);
    let numbers: Vec<u32> = (0..records.len() as u32).collect();
    for (headers, offset) in records.iter().zip(0..) {
        chunk.push_with_headers(offset, None, None, None, Some(headers.iter().copied()));
    }
    let rows: Vec<Row> = numbers.iter().map(|number| (*number as i32, None, None)).collect();
    let wanted = transform.metadata_columns();
    let given = isobar_schemas::metadata::with_metadata(&batch(&rows), &chunk, &numbers, wanted).unwrap();
    transform.run(given).unwrap()
}

#[test]
fn one_header_is_picked_by_its_name() {
    let records: [Headers<'_>; 6] = [
        &[("trace-id", Some(b"first")), ("source", Some(b"web")), ("trace-id", Some(b"last"))],
        &[("source", Some(b"test")), ("trace-id", Some(b"x"))],
        &[("Trace-Id", Some(b"x")), ("trace-id", None)],
        &[],
        &[("trace-id", Some(b"not \xff UTF-8"))],
        &[("source", Some(b"\xff")), ("trace-id", Some(b""))],
    ];
    // As docs/formats.md shows it.
    let sql = "SELECT *, CAST(header(_headers, 'trace-id') AS VARCHAR) AS trace_id FROM source \
               WHERE TRY_CAST(header(_headers, 'source') AS VARCHAR) IS DISTINCT FROM 'test'";
    let outcome = run_with_headers(sql, &records);
    let names: Vec<_> = outcome.rows.schema().fields().iter().map(|field| field.name().clone()).collect();
    assert_eq!(names, ["a", "b", "s", "t", "trace_id"]);
    let picked: Vec<_> = outcome.rows["trace_id"].as_string::<i32>().iter().collect();
    assert_eq!(picked, [Some("last"), None, None, Some("")]);
    assert_eq!(outcome.counts.filtered, 1);
    let rejects: Vec<_> = outcome.rejects.iter().map(|reject| (reject.row, reject.rule.as_str())).collect();
    assert_eq!(rejects, [(4, SQL_ERROR)]);

    let sql = "SELECT array_length(_headers) AS n, _headers[2]['key'] AS second, header(_headers, s) AS none FROM source";
    let outcome = run_with_headers(sql, &records);
    assert_eq!(
        outcome.rows["second"].as_string::<i32>().iter().collect::<Vec<_>>(),
        [Some("source"), Some("trace-id"), Some("trace-id"), None, None, Some("trace-id")]
    );
    assert_eq!(outcome.rows["none"].null_count(), 6);
}

#[test]
fn all_headers_are_a_column_that_delta_can_store() {
    let outcome = run_with_headers("SELECT _headers AS kafka_headers FROM source", &[&[("k", None)], &[]]);
    let stored = isobar_schemas::metadata::headers_type();
    assert_eq!(outcome.rows.schema().field(0), &Field::new("kafka_headers", stored, false));
    assert_eq!(outcome.rows["kafka_headers"].as_list::<i32>().offsets().as_ref(), [0, 1, 1]);
    let unnamed = compile("SELECT _headers FROM source", &[]).unwrap_err().to_string();
    assert!(unnamed.contains("_headers AS kafka_headers"), "{unnamed}");
    let foreign = compile("SELECT header(s, 'k') AS x FROM source", &[]).unwrap_err().to_string();
    assert!(foreign.contains("header(_headers, 'name')"), "{foreign}");
    for column in ["_headers", "_offset"] {
        let rule = [("named", &*format!("{column} IS NOT NULL"), Action::Warn)];
        let wanted = compile("SELECT a FROM source", &rule).unwrap();
        let has_headers = wanted.metadata_columns().contains(&MetadataColumn::Headers);
        assert_eq!(has_headers, column == "_headers");
    }
}

#[test]
fn what_is_not_possible_is_refused_with_what_and_why() {
    for (sql, what) in [
        ("SELECT count(*) AS n FROM source", "the aggregate function count()"),
        ("SELECT max(b) + 1 AS n FROM source", "the aggregate function max()"),
        ("SELECT a, sum(b) AS n FROM source GROUP BY a", "GROUP BY"),
        ("SELECT a FROM source GROUP BY ALL", "GROUP BY"),
        ("SELECT a FROM source HAVING a > 1", "HAVING"),
        ("SELECT row_number() OVER (ORDER BY a) AS n FROM source", "row_number()"),
        ("SELECT a FROM source QUALIFY row_number() OVER (ORDER BY a) = 1", "QUALIFY"),
        ("SELECT DISTINCT a FROM source", "DISTINCT"),
        ("SELECT a FROM source ORDER BY a", "ORDER BY"),
        ("SELECT a FROM source LIMIT 5", "LIMIT"),
        ("SELECT a FROM source OFFSET 5", "OFFSET"),
        ("SELECT a FROM source FETCH FIRST 5 ROWS ONLY", "FETCH"),
        ("SELECT a FROM (SELECT a FROM source ORDER BY a LIMIT 3) AS q", "ORDER BY"),
        ("SELECT a FROM source UNION ALL SELECT b FROM source", "UNION"),
        ("SELECT x.a FROM source x JOIN source y ON x.a = y.a", "JOIN"),
        ("SELECT x.a FROM source x, source y", "more than one table"),
        ("SELECT unnest(make_array(a, b)) AS n FROM source", "unnest"),
        ("SELECT value FROM generate_series(1, 10)", "a table function"),
        ("SELECT a FROM source WHERE a IN (SELECT b FROM source)", "a subquery"),
        ("SELECT (SELECT max(b) FROM source) AS m FROM source", "a subquery"),
        ("SELECT a FROM source WHERE EXISTS (SELECT 1)", "a subquery"),
        ("SELECT 1 AS one", "SELECT without FROM"),
        ("VALUES (1, 2)", "VALUES"),
        ("SELECT a FROM source; SELECT b FROM source", "a text of 2 statements"),
        ("", "an empty text"),
        (";", "an empty text"),
        ("INSERT INTO source SELECT * FROM source", "INSERT"),
        ("CREATE TABLE x AS SELECT a FROM source", "CREATE"),
        ("CREATE EXTERNAL TABLE x STORED AS PARQUET LOCATION '/tmp/x'", "CREATE"),
        ("DROP TABLE source", "DROP"),
        ("DELETE FROM source", "DELETE"),
        ("COPY (SELECT a FROM source) TO '/tmp/x.parquet'", "COPY"),
        ("EXPLAIN SELECT a FROM source", "EXPLAIN"),
        ("SELECT a INTO x FROM source", "INTO"),
        ("SELECT a FROM source FOR UPDATE", "FOR UPDATE"),
        ("WITH RECURSIVE q AS (SELECT a FROM source) SELECT a FROM q", "WITH RECURSIVE"),
        ("WITH source AS (SELECT a FROM source) SELECT a FROM source", "WITH source"),
        ("SELECT * ILIKE '%a%' FROM source", "ILIKE"),
        ("SELECT random() AS r FROM source", "random()"),
        ("SELECT uuid() AS u FROM source", "uuid()"),
        ("SELECT a FROM source WHERE t < now()", "now()"),
        ("SELECT current_date AS d FROM source", "current_date()"),
        ("SELECT current_time AS d FROM source", "current_time()"),
    ] {
        match compile(sql, &[]) {
            Err(Error::Refused { what: found, why, .. }) => {
                assert!(found.contains(what), "{sql}: {found} is not possible: {why}");
                assert!(!why.is_empty());
            }
            other => panic!("{sql}: {other:?}"),
        }
    }
    // Refused as well, by the parser or by us, depending on what the parser knows.
    for sql in [
        "SELECT u AS n FROM unnest(make_array(1, 2)) AS x(u)",
        "SELECT a FROM source VERSION AS OF 3",
        "SELECT a FROM source TIMESTAMP AS OF '2013-01-01'",
        "SELECT a FROM source FOR SYSTEM_TIME AS OF '2013-01-01'",
        "SELECT a FROM source TABLESAMPLE (10 PERCENT)",
        "SELECT a FROM source WHERE a > $1",
        "FROM source |> WHERE a > 1",
        "SET datafusion.execution.batch_size = 1",
        "SHOW TABLES",
    ] {
        assert!(compile(sql, &[]).is_err(), "{sql}");
    }
}

#[test]
fn there_are_no_tables_but_the_source() {
    for sql in [
        "SELECT a FROM other",
        "SELECT a FROM 'data.parquet'",
        "SELECT a FROM \"/etc/passwd\"",
        "SELECT a FROM datafusion.public.source",
        "SELECT table_name FROM information_schema.tables",
        "SELECT a FROM SOURCE2",
        "SELECT a FROM \"SOURCE\"",
    ] {
        let error = compile(sql, &[]).unwrap_err();
        assert!(error.to_string().contains("the only one is the source, `source`"), "{sql}: {error}");
    }
    assert!(compile("SELECT a FROM SOURCE", &[]).is_ok());
}

#[test]
fn errors_in_sql_say_where() {
    for (sql, line, column, part) in [
        ("SELECT a,\n  , b FROM source", 2, 3, "Expected"),
        ("SELECT a FROM source\nWHERE a >", 0, 0, "Expected"),
        ("SELECT 'abc FROM source", 1, 8, "Unterminated string literal"),
        ("SELECT a,\n  wrong FROM source", 2, 3, "wrong"),
        ("SELECT a\nFROM other", 2, 6, "no table other"),
        ("SELECT nofunction(a) AS x FROM source", 0, 0, "nofunction"),
        ("SELECT a FROM source\n ORDER BY a", 2, 11, "ORDER BY"),
    ] {
        let error = compile(sql, &[]).unwrap_err();
        let expected = (line > 0).then_some(Location { line, column });
        if line > 0 {
            assert_eq!(error.location(), expected, "{sql}: {error}");
        }
        assert!(error.to_string().contains(part), "{sql}: {error}");
        assert!(!error.to_string().contains("backtrace"), "{error}");
    }
    let deep = format!("SELECT {}a{} AS x FROM source", "(".repeat(5000), ")".repeat(5000));
    assert!(compile(&deep, &[]).unwrap_err().to_string().contains("deep"));
}

#[test]
fn results_have_types_that_delta_can_store() {
    for (expression, data_type) in [
        ("a", DataType::Int32),
        ("arrow_cast(a, 'UInt8')", DataType::Int16),
        ("arrow_cast(a, 'UInt64')", DataType::Decimal128(20, 0)),
        ("arrow_cast(s, 'Utf8View')", DataType::Utf8),
        ("arrow_cast(s, 'LargeUtf8')", DataType::Utf8),
        ("arrow_cast(s, 'Dictionary(Int32, Utf8)')", DataType::Utf8),
        ("arrow_cast(s, 'BinaryView')", DataType::Binary),
        ("CAST(s AS VARCHAR)", DataType::Utf8),
        ("length(s)", DataType::Int32),
        ("CAST(t AS DATE)", DataType::Date32),
        ("to_timestamp(a)", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))),
        (
            "arrow_cast(t, 'Timestamp(ms, \"+02:00\")')",
            DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        ),
        ("make_array(a)", DataType::List(Arc::new(Field::new("element", DataType::Int32, true)))),
    ] {
        let sql = format!("SELECT {expression} AS x FROM source");
        let outcome = run(&sql, &[(1, Some(2), Some("3"))]);
        assert_eq!(outcome.rows.column(0).data_type(), &data_type, "{sql}");
        assert_eq!(outcome.rejects, [], "{sql}");
    }
    for (expression, part) in [
        ("NULL", "CAST(NULL AS INT)"),
        ("t - t", "Delta table has no type"),
        ("arrow_cast(a, 'Time32(s)')", "Delta table has no type"),
    ] {
        let error = compile(&format!("SELECT {expression} AS x FROM source"), &[]).unwrap_err().to_string();
        assert!(error.contains("output column `x`") && error.contains(part), "{expression}: {error}");
    }
    for sql in ["SELECT a + b FROM source", "SELECT a, b AS A FROM source", "SELECT a AS \"\" FROM source"] {
        // An unquoted `A` is `a`, which DataFusion itself refuses to give twice.
        assert!(compile(sql, &[]).is_err(), "{sql}");
    }
    let twice = compile("SELECT a, b AS \"A\" FROM source", &[]).unwrap_err().to_string();
    assert!(twice.contains("given twice"), "{twice}");
}

#[test]
fn times_without_a_zone_are_utc_and_keep_their_instant() {
    let sql = "SELECT arrow_cast(t, 'Timestamp(ns)') AS naive, arrow_cast(t, 'Timestamp(s, \"-05:00\")') AS zoned FROM source";
    let outcome = run(sql, &[(1_357_034_400, None, None)]);
    assert_eq!(lines(&outcome.rows), ["2013-01-01T10:00:00Z,2013-01-01T10:00:00Z"]);
}

#[test]
fn only_what_is_proven_is_required() {
    let sql = "SELECT a AS kept, a + 1 AS computed, b AS nullable, 7 AS literal, CAST(a AS BIGINT) AS widened, \
               TRY_CAST(a AS VARCHAR) AS tried, coalesce(b, 0) AS filled, _offset AS kafka_offset, _key AS k \
               FROM (SELECT a, b, _offset, _key FROM source WHERE b IS NOT NULL) q";
    let transform = compile(sql, &[]).unwrap();
    let required: Vec<_> = transform
        .output_schema()
        .fields()
        .iter()
        .filter(|field| !field.is_nullable())
        .map(|field| field.name().as_str())
        .collect();
    assert_eq!(required, ["kept", "literal", "widened", "kafka_offset"]);
}

#[test]
fn the_first_expectation_missed_decides_the_fate() {
    use Action::{Drop, Quarantine, Warn};
    let rules = [
        ("small", "a < 100", Warn),
        ("has_b", "b IS NOT NULL", Drop),
        ("even", "a % 2 = 0", Quarantine),
        ("positive", "b > 0", Quarantine),
        ("named", "s <> ''", Warn),
    ];
    let mut transform = compile("SELECT a FROM source WHERE a <> 8", &rules).unwrap();
    let rows = [
        (2, Some(1), Some("x")),  // accepted
        (3, Some(1), Some("x")),  // quarantined: even
        (4, None, Some("")),      // dropped: has_b; so it is not warned about
        (5, None, Some("x")),     // dropped, although it is odd as well
        (6, Some(-1), None),      // quarantined: positive
        (7, Some(-1), Some("")),  // quarantined: even, the first it misses
        (8, Some(1), Some("x")),  // filtered
        (200, Some(1), Some("")), // accepted, warned about twice
        (300, Some(1), None),     // accepted, warned about once: NULL <> '' is NULL, which is met
        (101, None, None),        // warned about, then dropped
    ];
    let outcome = transform.run(batch(&rows)).unwrap();
    assert_eq!(lines(&outcome.rows), ["2", "200", "300"]);
    let rejects: Vec<_> = outcome.rejects.iter().map(|reject| (reject.row, reject.rule.as_str())).collect();
    assert_eq!(rejects, [(1, "even"), (4, "positive"), (5, "even")]);
    assert_eq!(outcome.rejects[0].message, "the expectation `even` is not met");
    assert_eq!(
        outcome.counts,
        RowCounts {
            input: 10,
            expanded: 0,
            output: 3,
            rejected: count(&[("even", 2), ("positive", 1)]),
            dropped: count(&[("has_b", 3)]),
            filtered: 1,
            late: 0,
            warned: count(&[("small", 3), ("named", 1)]),
        }
    );
    assert_eq!(outcome.failed, None);
}

#[test]
fn a_failed_row_leaves_the_rows_before_it() {
    use Action::{Drop, Fail};
    let rules =
        [("known", "b IS NOT NULL", Drop), ("sane", "b < 100", Fail), ("named", "s IS NOT NULL", Fail)];
    let mut transform = compile("SELECT a FROM source", &rules).unwrap();
    let rows = [
        (1, Some(1), Some("x")),
        (2, None, None),
        (3, Some(1), Some("x")),
        (4, Some(1), None),
        (5, Some(100), Some("x")),
        (6, None, Some("x")),
    ];
    let outcome = transform.run(batch(&rows)).unwrap();
    assert_eq!(outcome.failed, Some(FailedRow { row: 3, rule: "named".to_owned() }));
    assert_eq!(lines(&outcome.rows), ["1", "3"]);
    assert_eq!((outcome.counts.input, outcome.counts.dropped_total()), (3, 1));
    let first = transform.run(batch(&rows[3..])).unwrap();
    assert_eq!(first.failed.unwrap().row, 0);
    assert_eq!((first.rows.num_rows(), first.counts.input), (0, 0));
}

#[test]
fn wrong_expectations_are_refused() {
    for (name, check, part) in [
        ("a", "a", "a check is a condition, but `source.a` is of type Int32"),
        ("a", "NULL", "a check is a condition"),
        ("a", "a >", "Expected"),
        ("a", "a > 1 b c", "end of expression"),
        ("a", "a > 1; DROP TABLE source", "end of expression"),
        ("a", "wrong > 1", "line 1, column 1"),
        ("a", "count(*) > 1", "the aggregate function count() is not possible"),
        ("a", "a IN (SELECT 1)", "a subquery in an expression is not possible"),
        ("a", "random() < 0.5", "the function random() is not possible"),
        ("a", "t <= now()", "the function now() is not possible"),
        ("a", "", "Expected"),
        ("", "a > 1", "a name is"),
        ("no spaces", "a > 1", "a name is"),
        ("sql_error", "a > 1", "choose another"),
        ("undecodable", "a > 1", "choose another"),
    ] {
        let error = compile("SELECT a FROM source", &[(name, check, Action::Warn)]).unwrap_err().to_string();
        assert!(error.contains(part), "{name}: {check}: {error}");
        assert!(error.contains(&format!("expectation `{name}`")), "{error}");
    }
    let twice = [("x", "a > 1", Action::Warn), ("x", "a > 2", Action::Drop)];
    assert!(compile("SELECT a FROM source", &twice).unwrap_err().to_string().contains("given twice"));
}

#[test]
fn expectations_are_read_from_specs() {
    let text = r#"[{"name": "departed", "check": "dep_time IS NOT NULL", "action": "drop"}]"#;
    let expectations: Vec<Expectation> = serde_json::from_str(text).unwrap();
    assert_eq!(expectations[0].action, Action::Drop);
    for wrong in [
        r#"{"name": "x", "check": "a", "action": "ignore"}"#,
        r#"{"name": "x", "check": "a", "action": "drop", "reason": "y"}"#,
        r#"{"name": "x", "check": "a"}"#,
    ] {
        assert!(serde_json::from_str::<Expectation>(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn rows_that_an_expression_fails_on_are_rejected_alone() {
    let rows = [
        (1, Some(2), Some("10")),
        (2, Some(0), Some("10")),
        (3, Some(1), Some("ten")),
        (i32::MAX, Some(1), Some("1")),
        (5, Some(5), Some("50")),
    ];
    let sql = "SELECT a / b AS q, CAST(s AS INT) AS n, a + arrow_cast(1, 'Int32') AS successor FROM source";
    let outcome = run(sql, &rows);
    assert_eq!(lines(&outcome.rows), ["0,10,2", "1,50,6"]);
    let rejects: Vec<_> =
        outcome.rejects.iter().map(|reject| (reject.row, reject.message.as_str())).collect();
    assert_eq!(rejects[0], (1, "Divide by zero error"));
    assert_eq!(rejects[1].0, 2);
    assert!(rejects[1].1.contains("Cannot cast string 'ten'"), "{rejects:?}");
    assert_eq!(rejects[2].0, 3);
    assert!(rejects[2].1.contains("Overflow"), "{rejects:?}");
    assert_eq!(outcome.counts.rejected, count(&[(SQL_ERROR, 3)]));

    let checks = [
        ("known", "b <> 0", Action::Quarantine),
        ("ratio", "a / b < 3", Action::Fail),
        ("small", "a * a < 100", Action::Warn),
        ("number", "CAST(s AS INT) > 0", Action::Warn),
    ];
    let outcome = compile("SELECT a FROM source", &checks).unwrap().run(batch(&rows)).unwrap();
    assert_eq!(outcome.failed.as_ref().unwrap().row, 2, "3 / 1 is not below 3");
    assert_eq!(lines(&outcome.rows), ["1"]);
    assert_eq!(outcome.counts.rejected, count(&[("known", 1)]));
    let outcome = compile("SELECT a FROM source", &checks[2..]).unwrap().run(batch(&rows)).unwrap();
    assert_eq!(lines(&outcome.rows), ["1", "2", "5"]);
    assert_eq!(outcome.counts.rejected, count(&[(SQL_ERROR, 2)]));
    assert!(outcome.rejects[0].message.starts_with("expectation `number`: "), "{:?}", outcome.rejects);
    let overflow = &outcome.rejects[1].message;
    assert!(overflow.starts_with("expectation `small`: ") && overflow.contains("Overflow"), "{overflow}");
}

#[test]
fn casts_to_stored_types_fail_row_by_row() {
    let sql = "SELECT arrow_cast(CAST(b AS BIGINT) * 4611686018427387, 'Timestamp(s)') AS ts FROM source";
    let outcome = run(sql, &[(1, Some(0), None), (2, Some(1), None), (3, None, None)]);
    assert_eq!(lines(&outcome.rows), ["1970-01-01T00:00:00Z", ""]);
    assert_eq!(outcome.rejects.iter().map(|reject| reject.row).collect::<Vec<_>>(), [1]);
}

#[test]
fn messages_stay_short() {
    let long: &'static str = Box::leak("é".repeat(10_000).into_boxed_str());
    let outcome = run("SELECT CAST(s AS INT) AS n FROM source", &[(1, None, Some(long))]);
    assert!(outcome.rejects[0].message.len() < MESSAGE_BYTES_MAX + 8);
}

/// Fates of all rows: what the batch gave, wherever it was cut.
fn fates(
    transform: &mut DatasetTransform,
    rows: &[Row],
    cuts: &[usize],
) -> (Vec<String>, Vec<RowReject>, RowCounts) {
    let (mut out, mut rejects, mut counts, mut start) = (Vec::new(), Vec::new(), RowCounts::default(), 0);
    for end in cuts.iter().copied().chain([rows.len()]) {
        let outcome = transform.run(batch(&rows[start..end])).unwrap();
        out.extend(lines(&outcome.rows));
        rejects.extend(
            outcome.rejects.into_iter().map(|reject| RowReject { row: reject.row + start as u32, ..reject }),
        );
        counts.add(&outcome.counts);
        start = end;
    }
    (out, rejects, counts)
}

#[test]
fn fates_do_not_depend_on_how_rows_are_cut_into_batches() {
    let texts = ["1", "2", "x", "", "-3"];
    let mut state = 88_172_645_463_325_252_u64;
    let mut below = |bound: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) % bound
    };
    let checks = [
        ("w", "b % 3 <> 0", Action::Warn),
        ("d", "a % 7 <> 0", Action::Drop),
        ("e", "10 / b < 6", Action::Quarantine),
        ("q", "a % 5 <> 0 AND 100 / (a % 4) > 0", Action::Quarantine),
    ];
    // The filter guards its own division: whether a row fails must not depend on its neighbours.
    let sql = "SELECT a, CAST(s AS INT) AS n FROM source WHERE b <> 2 AND 100 / (b - 2) < 90";
    for rejects_many in [false, true] {
        let mut transform = compile(sql, if rejects_many { &checks } else { &checks[..2] }).unwrap();
        let rows: Vec<Row> = (0..500)
            .map(|_| {
                let b = (below(8) > 0).then(|| below(6) as i32 - 1);
                (below(50) as i32, b, Some(texts[below(5) as usize]))
            })
            .collect();
        let one_by_one: Vec<usize> = (1..rows.len()).collect();
        let expected = fates(&mut transform, &rows, &one_by_one);
        assert!(expected.2.rejected[SQL_ERROR] > 20 && expected.2.output > 20, "{:?}", expected.2);
        assert!(expected.2.adds_up());
        for _ in 0..20 {
            let mut cuts: Vec<usize> = (0..below(12)).map(|_| below(500) as usize).collect();
            cuts.sort_unstable();
            assert_eq!(fates(&mut transform, &rows, &cuts), expected);
        }
    }
}

#[test]
fn the_fingerprint_is_of_what_is_done() {
    let rule = |check| [("r", check, Action::Drop)];
    let fingerprint = |sql, check| compile(sql, &rule(check)).unwrap().fingerprint().to_owned();
    let first = fingerprint("SELECT a, b + 1 AS c FROM source WHERE b > 2", "a > 1");
    assert_eq!(first.len(), 64);
    assert_eq!(first, fingerprint("select  a, b+1 as c -- why\nfrom source where b > 2;", "a>1"));
    for (sql, check) in [
        ("SELECT a, b + 2 AS c FROM source WHERE b > 2", "a > 1"),
        ("SELECT a, b + 1 AS d FROM source WHERE b > 2", "a > 1"),
        ("SELECT a, b + 1 AS c FROM source WHERE b > 3", "a > 1"),
        ("SELECT b + 1 AS c, a FROM source WHERE b > 2", "a > 1"),
        ("SELECT a, b + 1 AS c FROM source WHERE b > 2", "a > 2"),
    ] {
        assert_ne!(first, fingerprint(sql, check), "{sql} {check}");
    }
}

#[test]
fn plans_are_explained() {
    let explained = compile("SELECT a + 1 AS n FROM source WHERE b > 2", &[]).unwrap().explain();
    for part in
        ["logical plan", "Projection:", "physical plan", "FilterExec: b@1 > 2", "ChunkScanExec: [a, b]"]
    {
        assert!(explained.contains(part), "{explained}");
    }
}

#[test]
fn empty_batches_give_empty_results() {
    let mut transform =
        compile("SELECT a, s || 'x' AS sx FROM source WHERE b > 1", &[("r", "a > 1", Action::Quarantine)])
            .unwrap();
    let outcome = transform.run(batch(&[])).unwrap();
    assert_eq!(outcome.rows.schema(), *transform.output_schema());
    assert_eq!(outcome.counts, RowCounts::default());
}

#[test]
fn large_batches_come_out_as_one() {
    let rows: Vec<Row> = (0..20_000).map(|a| (a, Some(a % 3), None)).collect();
    for (sql, expected) in
        [("SELECT a FROM source WHERE b <> 1", 13_333), ("SELECT a FROM source WHERE b = 7", 0)]
    {
        let outcome = run(sql, &rows);
        assert_eq!(outcome.rows.num_rows(), expected);
        let values = outcome.rows.column(0).as_primitive::<Int32Type>().values();
        assert!(values.windows(2).all(|pair| pair[0] < pair[1]));
    }
}

/// Bytes of memory that this process holds.
fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or(0) * 4096
}

#[test]
fn ten_thousand_runs_hold_no_more_than_one() {
    let sql = "SELECT a + 1 AS n, upper(s) AS u FROM source WHERE b > 2";
    let mut transform = compile(sql, &[("r", "a <> 3", Action::Quarantine)]).unwrap();
    let rows: Vec<Row> = (0..100).map(|a| (a, Some(a % 7), Some("some text"))).collect();
    let batch = batch(&rows);
    let mut run = |times: usize| {
        for _ in 0..times {
            let outcome = transform.run(batch.clone()).unwrap();
            assert_eq!(outcome.rows.num_rows(), 55);
        }
        (transform.query.metrics_held(), resident_bytes())
    };
    let (metrics_before, bytes_before) = run(1000);
    let (metrics_after, bytes_after) = run(10_000);
    assert_eq!(metrics_before, 0);
    assert_eq!(metrics_after, 0);
    // Other tests run beside this one; metrics that pile up would take ten times as much.
    let growth = bytes_after.saturating_sub(bytes_before);
    assert!(growth < 32 << 20, "{growth} bytes more");
}

#[test]
fn a_run_needs_no_runtime_and_minds_none() {
    let mut transform = compile("SELECT a FROM source WHERE b > 2", &[]).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        for _ in 0..1000 {
            assert_eq!(transform.run(batch(&[(1, Some(3), None)])).unwrap().rows.num_rows(), 1);
        }
    });
    std::thread::spawn(move || drop(transform.run(batch(&[])))).join().unwrap();
}

/// The shortest of a few runs.
fn fastest(mut run: impl FnMut()) -> Duration {
    let times = (0..7).map(|_| {
        let start = Instant::now();
        run();
        start.elapsed()
    });
    times.min().unwrap()
}

/// Runs the expressions of a plan of filters and projections without the plan around them.
fn evaluate_directly(
    plan: &Arc<dyn datafusion::physical_plan::ExecutionPlan>,
    chunk: &RecordBatch,
) -> RecordBatch {
    use datafusion::physical_plan::ExecutionPlan;
    use datafusion::physical_plan::filter::FilterExec;
    use datafusion::physical_plan::projection::ProjectionExec;
    let node: &dyn std::any::Any = plan.as_ref() as &dyn ExecutionPlan;
    if let Some(filter) = node.downcast_ref::<FilterExec>() {
        let input = evaluate_directly(filter.input(), chunk);
        let keep = filter.predicate().evaluate(&input).unwrap().into_array(input.num_rows()).unwrap();
        let kept = filter_record_batch(&input, keep.as_boolean()).unwrap();
        return match filter.projection() {
            Some(indices) => kept.project(indices).unwrap(),
            None => kept,
        };
    }
    if let Some(projection) = node.downcast_ref::<ProjectionExec>() {
        let input = evaluate_directly(projection.input(), chunk);
        let columns = projection
            .expr()
            .iter()
            .map(|column| column.expr.evaluate(&input).unwrap().into_array(input.num_rows()).unwrap())
            .collect();
        return RecordBatch::try_new(plan.schema(), columns).unwrap();
    }
    assert!(plan.children().is_empty(), "{plan:?}");
    let schema = plan.schema();
    let indices: Vec<_> =
        schema.fields().iter().map(|field| chunk.schema().index_of(field.name()).unwrap()).collect();
    chunk.project(&indices).unwrap()
}

/// `cargo test --release -p isobar-transforms --lib -- --ignored --nocapture transform_speed`
#[test]
#[ignore = "a measurement, not a check"]
fn transform_speed() {
    let int = |name: &str| Field::new(name, DataType::Int32, true);
    let text = |name: &str| Field::new(name, DataType::Utf8, true);
    let ints =
        ["year", "month", "day", "dep_time", "sched_dep_time", "dep_delay", "arr_time", "sched_arr_time"];
    let mut columns: Vec<Field> = ints.iter().map(|name| int(name)).collect();
    columns.extend([
        int("arr_delay"),
        text("carrier"),
        int("flight"),
        text("tailnum"),
        text("origin"),
        text("dest"),
    ]);
    columns.extend(["air_time", "distance", "hour", "minute"].map(int));
    columns.push(Field::new(
        "time_hour",
        DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        true,
    ));
    let schema = Arc::new(Schema::new(columns));
    let sql = "SELECT time_hour AS scheduled_at, carrier, tailnum, origin, dest, origin || '-' || dest AS route, \
               distance, hour, CAST(date_part('dow', time_hour) AS INT) AS day_of_week, dep_delay, arr_delay, \
               arr_delay > 15 AS late, month, _partition AS kafka_partition, _offset AS kafka_offset FROM flights";
    let expectations = vec![
        Expectation {
            name: "departed".to_owned(),
            check: "dep_time IS NOT NULL".to_owned(),
            action: Action::Drop,
        },
        Expectation {
            name: "arrival_known".to_owned(),
            check: "arr_delay IS NOT NULL".to_owned(),
            action: Action::Quarantine,
        },
    ];
    for (title, sql, expectations) in [
        ("no expectations, no filter", sql.to_owned(), vec![]),
        ("a filter", format!("{sql} WHERE distance > 500"), vec![]),
        ("two expectations", sql.to_owned(), expectations),
    ] {
        let spec = TransformSpec {
            source_name: "flights".to_owned(),
            input_schema: schema.clone(),
            sql,
            expectations,
        };
        let mut transform = DatasetTransform::compile(spec).unwrap();
        for rows in [8192, 1024, 1] {
            let batch = flights(&transform.batch_schema.clone(), rows);
            let rounds = 200 * 8192 / rows.max(64);
            let per_row = |time: Duration| time.as_nanos() as f64 / (rounds * rows) as f64;
            let whole = fastest(|| {
                (0..rounds).for_each(|_| drop(black_box(transform.run(batch.clone()).unwrap())));
            });
            let plan = fastest(|| {
                (0..rounds).for_each(|_| drop(black_box(transform.query.run(batch.clone()).unwrap())));
            });
            let physical = transform.query.physical();
            let direct = fastest(|| {
                (0..rounds).for_each(|_| drop(black_box(evaluate_directly(physical, &batch))));
            });
            println!(
                "{title}, {rows} rows: transform {:.1} ns a row, of it the plan {:.1}, its expressions alone {:.1}",
                per_row(whole),
                per_row(plan),
                per_row(direct),
            );
        }
    }
}

/// Rows of any `schema` of integers, texts and timestamps; about one in forty is null in every second column.
fn flights(schema: &SchemaRef, rows: usize) -> RecordBatch {
    let columns = schema.fields().iter().enumerate().map(|(index, field)| -> ArrayRef {
        let is_null = |row: usize| field.is_nullable() && index % 2 == 1 && (row + index).is_multiple_of(40);
        let values = (0..rows).map(|row| (!is_null(row)).then_some((row * 7 + index * 13) % 2000));
        match field.data_type() {
            DataType::Int32 => {
                Arc::new(values.map(|value| value.map(|value| value as i32)).collect::<Int32Array>())
            }
            DataType::Int64 => {
                Arc::new(values.map(|value| value.map(|value| value as i64)).collect::<Int64Array>())
            }
            DataType::Utf8 => {
                Arc::new(values.map(|value| value.map(|value| format!("N{value}"))).collect::<StringArray>())
            }
            DataType::Timestamp(..) => Arc::new(
                values
                    .map(|value| value.map(|value| 1_357_034_400_000_000 + value as i64 * 3_600_000_000))
                    .collect::<TimestampMicrosecondArray>()
                    .with_timezone("UTC"),
            ),
            other => unreachable!("{other}"),
        }
    });
    RecordBatch::try_new(schema.clone(), columns.collect()).unwrap()
}
