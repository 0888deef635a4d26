//! Queries over small tables in memory: rows, partition values, pinned versions, and clouds that cannot serve.

use arrow::array::{AsArray, RecordBatchReader};
use arrow::datatypes::Int64Type;
use bytes::Bytes;
use isobar_connectors::clouds::{Fault, FaultSwitch};
use object_store::ObjectStoreExt;
use object_store::path::Path;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::*;
use crate::commit::format::published_path;
use crate::prove::testing::{DATASET, History, QUARANTINE, file_path};

mod clouds;
mod versions;

const MEMORY_BYTES_MAX: u64 = 64 << 20;

/// A catalog whose tables are at the versions that they have now.
async fn open(clouds: &[Cloud]) -> Result<Catalog, Error> {
    let catalog = Catalog::new(clouds, &[DATASET.to_owned()], MEMORY_BYTES_MAX)?;
    catalog.tables().await?;
    Ok(catalog)
}

async fn text(catalog: &Catalog, sql: &str, format: RowsFormat) -> String {
    let mut answer = catalog.query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    let mut text = String::new();
    while let Some(piece) = answer.next_text(format).await.unwrap_or_else(|error| panic!("{sql}: {error}")) {
        text.push_str(&piece);
    }
    text
}

async fn csv(catalog: &Catalog, sql: &str) -> String {
    text(catalog, sql, RowsFormat::Csv).await
}

async fn refusal(catalog: &Catalog, sql: &str) -> Error {
    catalog.query(sql).await.map(|_| ()).expect_err(sql)
}

#[tokio::test]
async fn rows_have_the_columns_of_the_table_in_its_order() {
    let catalog = open(&History::good().store(1).await).await.unwrap();
    let rows = csv(&catalog, "SELECT * FROM flights ORDER BY x").await;
    let months = ["1"; 3].into_iter().chain(["2"; 10]).chain(["a b"; 2]);
    let expected: String = months.enumerate().map(|(x, month)| format!("{month},{x}\n")).collect();
    assert_eq!(rows, format!("month,x\n{expected}"));
    assert_eq!(csv(&catalog, "SELECT x, month FROM flights WHERE x = 14").await, "x,month\n14,a b\n");
    let groups =
        csv(&catalog, "SELECT month, count(*) AS n, sum(x) AS s FROM flights GROUP BY month ORDER BY month");
    assert_eq!(groups.await, "month,n,s\n1,3,3\n2,10,75\na b,2,27\n");
    assert_eq!(
        csv(&catalog, "SELECT DISTINCT month FROM flights ORDER BY 1 DESC LIMIT 1").await,
        "month\na b\n"
    );
}

#[tokio::test]
async fn quarantines_have_two_names() {
    let catalog = open(&History::good().store(1).await).await.unwrap();
    for name in ["flights_quarantine", "\"flights.quarantine\"", "isobar.datasets.flights_quarantine"] {
        assert_eq!(
            csv(&catalog, &format!("SELECT count(*) AS n, max(x) AS x FROM {name}")).await,
            "n,x\n2,1\n"
        );
    }
    let tables = catalog.tables().await.unwrap();
    let names: Vec<&str> = tables.keys().map(String::as_str).collect();
    assert_eq!(names, ["flights", "flights.quarantine", "flights_quarantine"]);
    let answer =
        catalog.query("SELECT * FROM flights_quarantine WHERE x IN (SELECT x FROM flights)").await.unwrap();
    let from: Vec<(&str, u64, &str)> =
        answer.from().iter().map(|from| (from.table.as_str(), from.version, from.cloud.as_str())).collect();
    assert_eq!(from, [(DATASET, 3, "a"), (QUARANTINE, 2, "a")]);
    let objects = History::good().objects();
    for (from, version) in answer.from().iter().zip([3, 2]) {
        let entry = &objects[&published_path(&from.table, version)];
        assert_eq!(from.sha256, isobar_connectors::delta::sha256_hex(entry));
    }
}

#[tokio::test]
async fn only_files_that_may_match_are_read_and_none_to_count() {
    let clouds = History::good().store(1).await;
    let catalog = open(&clouds).await.unwrap();
    for file in ["month=2/b.parquet", "month=2/c.parquet", "month=a%2520b/d.parquet"] {
        clouds[0].data.delete(&file_path(file)).await.unwrap();
    }
    assert_eq!(csv(&catalog, "SELECT sum(x) AS s FROM flights WHERE month = '1' AND x > 0").await, "s\n3\n");
    assert_eq!(csv(&catalog, "SELECT f.x FROM flights AS f WHERE f.month < '2' AND x = 2").await, "x\n2\n");
    assert_eq!(csv(&catalog, "SELECT count(*) AS n FROM flights").await, "n\n15\n");
    assert_eq!(csv(&catalog, "SELECT count(*) AS n FROM flights WHERE month = 'none'").await, "n\n0\n");
    let mut answer = catalog.query("SELECT sum(x) FROM flights").await.unwrap();
    let error = answer.next_text(RowsFormat::Json).await.unwrap_err();
    assert_eq!(error.exit_code(), 1);
    assert!(crate::chain_of(&error).contains("month=2/"), "{}", crate::chain_of(&error));
    assert!(error.to_string().contains("a file of which is gone"), "{error}");
}

#[tokio::test]
async fn a_removed_file_is_not_read_and_a_leftover_neither() {
    let mut history = History::good();
    let removed = isobar_connectors::delta::Remove {
        path: "month=2/c.parquet".into(),
        deletion_timestamp: Some(1),
        data_change: true,
        extended_file_metadata: None,
        partition_values: None,
        size: None,
    };
    history.version(3).removes.push(removed);
    let clouds = history.store(1).await;
    let stray = Path::from("datasets/flights/month=1/stray.parquet");
    clouds[0].data.put(&stray, Bytes::from_static(b"no Parquet").into()).await.unwrap();
    let catalog = open(&clouds).await.unwrap();
    assert_eq!(csv(&catalog, "SELECT count(x) AS n FROM flights").await, "n\n10\n");
}

#[tokio::test]
async fn a_null_partition_value_is_null() {
    let mut history = History::good();
    for add in &mut history.version(1).adds {
        add.partition_values.insert("month".into(), None);
    }
    history.version(2).adds[0].partition_values.insert("month".into(), Some(String::new()));
    let catalog = open(&history.store(1).await).await.unwrap();
    assert_eq!(csv(&catalog, "SELECT count(x) AS n FROM flights WHERE month IS NULL").await, "n\n13\n");
    assert_eq!(csv(&catalog, "SELECT count(x) AS n FROM flights WHERE month <> 'a b'").await, "n\n0\n");
    assert_eq!(csv(&catalog, "SELECT count(month) AS n, count(*) AS m FROM flights").await, "n,m\n2,15\n");
}

#[tokio::test]
async fn what_structs_of_a_file_do_not_have_is_null() {
    let mut history = History::good();
    history.nest();
    history.nested_file(100, &["b"]);
    history.nested_file(200, &["a", "b"]);
    let catalog = open(&history.store(1).await).await.unwrap();
    let rows = [(100, "null", true), (101, "null", false), (200, "200", true), (201, "201", false)];
    let lines = rows.map(|(x, a, has_struct)| {
        let both = format!(r#"{{"a":{a},"b":{x}}}"#);
        let s = if has_struct { both.as_str() } else { "null" };
        format!(r#"{{"x":{x},"s":{s},"items":[{both}],"rates":{{"k":{both}}},"deep":[{{"k":[{both}]}}]}}"#)
    });
    let sql = "SELECT x, s, items, rates, deep FROM flights WHERE x >= 100 ORDER BY x";
    let expected = format!("[\n {}\n]\n", lines.join("\n,"));
    assert_eq!(text(&catalog, sql, RowsFormat::Json).await, expected);
    // One column alone, and none of the file's.
    let alone = "SELECT deep FROM flights WHERE x = 100";
    let expected = "[\n {\"deep\":[{\"k\":[{\"a\":null,\"b\":100}]}]}\n]\n";
    assert_eq!(text(&catalog, alone, RowsFormat::Json).await, expected);
    let counts = "SELECT count(s['a']) AS a, count(s['b']) AS b, count(items[1]['a']) AS i FROM flights";
    assert_eq!(csv(&catalog, counts).await, "a,b,i\n1,2,2\n");
    for (condition, rows) in
        [("s['a'] = 200", 1), ("s['a'] IS NULL", 18), ("x >= 100 AND s['a'] IS NULL", 3), ("s IS NULL", 17)]
    {
        let sql = format!("SELECT count(*) AS n FROM flights WHERE {condition}");
        assert_eq!(csv(&catalog, &sql).await, format!("n\n{rows}\n"), "{condition}");
    }
}

#[tokio::test]
async fn a_table_without_rows_has_columns() {
    let mut history = History::good();
    for versions in history.tables.values_mut() {
        versions.truncate(1);
    }
    let catalog = open(&history.store(1).await).await.unwrap();
    assert_eq!(csv(&catalog, "SELECT x, month FROM flights").await, "x,month\n");
    assert_eq!(text(&catalog, "SELECT * FROM flights", RowsFormat::Json).await, "[\n]\n");
    assert_eq!(csv(&catalog, "SELECT count(*) AS n FROM flights").await, "n\n0\n");
}

#[tokio::test]
async fn a_catalog_stays_at_its_version() {
    let clouds = History::good().store(1).await;
    clouds[0].data.delete(&published_path(DATASET, 3)).await.unwrap();
    let catalog = open(&clouds).await.unwrap();
    let all = History::good().objects();
    clouds[0]
        .data
        .put(&published_path(DATASET, 3), all[&published_path(DATASET, 3)].clone().into())
        .await
        .unwrap();
    assert_eq!(catalog.tables().await.unwrap()[DATASET].version, 2);
    assert_eq!(csv(&catalog, "SELECT count(x) AS n FROM flights").await, "n\n13\n");
    assert_eq!(csv(&open(&clouds).await.unwrap(), "SELECT count(x) AS n FROM flights").await, "n\n15\n");
}

#[tokio::test]
async fn a_following_catalog_is_at_the_newest_version_with_every_query() {
    let clouds = History::good().store(1).await;
    let all = History::good().objects();
    let last = published_path(DATASET, 3);
    clouds[0].data.delete(&last).await.unwrap();
    let catalog = Catalog::new(&clouds, &[DATASET.to_owned()], MEMORY_BYTES_MAX).unwrap().following();
    let count = "SELECT count(x) AS n FROM flights";
    assert_eq!(csv(&catalog, count).await, "n\n13\n");
    let early = Freshness { min_versions: [(DATASET.to_owned(), 3)].into(), max_age: None };
    let error = catalog
        .query_within(count, &QueryLimits::default(), &early)
        .await
        .map(|_| ())
        .unwrap_err()
        .to_string();
    assert!(error.contains("its newest version is 2"), "{error}");
    clouds[0].data.put(&last, all[&last].clone().into()).await.unwrap();
    assert_eq!(csv(&catalog, count).await, "n\n15\n");
    assert_eq!(csv(&catalog, "SELECT count(x) AS n FROM flights VERSION AS OF 2").await, "n\n13\n");
    // Of a log that is known only what is new is read: the entries before it may be gone.
    for version in 0..3 {
        clouds[0].data.delete(&published_path(DATASET, version)).await.unwrap();
    }
    assert_eq!(csv(&catalog, count).await, "n\n15\n");
    assert_eq!(catalog.tables().await.unwrap()[DATASET].version, 3);
    assert!(catalog.query_within(count, &QueryLimits::default(), &early).await.is_ok());
}

#[tokio::test]
async fn the_first_cloud_that_can_serve_is_asked() {
    let switch = FaultSwitch::default();
    switch.set(Fault::RefuseAll);
    let mut clouds = History::good().store(3).await;
    clouds[0] = clouds[0].clone().with_faults(&switch);
    clouds[1].data.delete(&published_path(DATASET, 1)).await.unwrap();
    let catalog = open(&clouds).await.unwrap();
    assert_eq!(catalog.tables().await.unwrap()[DATASET].cloud, "c");
    assert_eq!(csv(&catalog, "SELECT count(x) AS n FROM flights").await, "n\n15\n");
    clouds[2] = clouds[2].clone().with_faults(&switch);
    let error = open(&clouds).await.unwrap_err().to_string();
    for reason in ["read table flights", "a: ", "injected fault", "b: flights: version 1 is missing", "c: "] {
        assert!(error.contains(reason), "{error}");
    }
}

#[tokio::test]
async fn a_dataset_without_a_version_is_said_to_be_empty() {
    let clouds = History::good().store(1).await;
    let datasets = [DATASET.to_owned(), "weather".to_owned()];
    let catalog = Catalog::new(&clouds, &datasets, MEMORY_BYTES_MAX).unwrap();
    let error = refusal(&catalog, "SELECT * FROM weather").await;
    assert_eq!(error.exit_code(), 2);
    let error = error.to_string();
    assert!(error.contains("the tables are: flights, flights_quarantine"), "{error}");
    assert!(error.contains("nothing was committed to weather yet"), "{error}");
}

#[tokio::test]
async fn wrong_queries_are_the_callers_and_change_nothing() {
    let catalog = open(&History::good().store(1).await).await.unwrap();
    for sql in [
        "SELEC 1",
        "SELECT y FROM flights",
        "SELECT * FROM nowhere",
        "SELECT * FROM flights VERSION AS OF 4",
        "SELECT * FROM flights VERSION AS OF x",
        "SELECT * FROM nowhere VERSION AS OF 1",
        "SELECT * FROM elsewhere.flights VERSION AS OF 1",
        "SELECT * FROM flights TIMESTAMP AS OF '1969-12-31'",
        "DROP TABLE flights",
        "INSERT INTO flights VALUES ('1', 2)",
        "COPY flights TO '/tmp/isobar-must-not-exist.parquet'",
        "CREATE EXTERNAL TABLE x STORED AS PARQUET LOCATION 'isobar://a/datasets/flights/'",
        "SET datafusion.catalog.information_schema = false",
        "SELECT * FROM '/etc/hosts'",
    ] {
        assert_eq!(refusal(&catalog, sql).await.exit_code(), 2, "{sql}");
    }
    assert!(!std::path::Path::new("/tmp/isobar-must-not-exist.parquet").exists());
    for sql in ["SELECT 1 / (x - x) FROM flights", "SELECT CAST('a' AS INT)"] {
        let error = match catalog.query(sql).await {
            Ok(mut answer) => answer.next_text(RowsFormat::Csv).await.expect_err(sql),
            Err(error) => error,
        };
        assert_eq!(error.exit_code(), 2, "{sql}: {error}");
    }
    for sql in ["SELECT * FROM nowhere", "SELECT * FROM nowhere VERSION AS OF 1"] {
        let table = refusal(&catalog, sql).await.to_string();
        assert!(table.contains("the tables are: flights, flights_quarantine"), "{table}");
    }
}

#[tokio::test]
async fn stores_other_than_the_clouds_do_not_exist() {
    let catalog = open(&History::good().store(1).await).await.unwrap();
    let runtime = catalog.context.runtime_env();
    for url in ["file:///", "isobar://b/", "s3://a/", "memory:///"] {
        let url = datafusion::execution::object_store::ObjectStoreUrl::parse(url).unwrap();
        assert!(runtime.object_store(&url).is_err(), "{url}");
    }
}

#[tokio::test]
async fn every_format_can_be_read_back() {
    let catalog = open(&History::good().store(1).await).await.unwrap();
    let sql = "SELECT x, CASE WHEN x > 12 THEN concat(month, ', \"', x, '\"\n') END AS note FROM flights ORDER BY x";
    let json: Vec<serde_json::Value> =
        serde_json::from_str(&text(&catalog, sql, RowsFormat::Json).await).unwrap();
    assert_eq!(json.len(), 15);
    assert_eq!(json[0], serde_json::json!({"x": 0, "note": null}));
    assert_eq!(json[14], serde_json::json!({"x": 14, "note": "a b, \"14\"\n"}));
    let table = csv(&catalog, sql).await;
    let mut rows = ::csv::Reader::from_reader(table.as_bytes());
    assert_eq!(rows.headers().unwrap(), vec!["x", "note"]);
    let rows: Vec<::csv::StringRecord> = rows.records().collect::<Result<_, _>>().unwrap();
    assert_eq!((rows.len(), &rows[14][1]), (15, "a b, \"14\"\n"));
    let table = text(&catalog, "SELECT x FROM flights WHERE x = 3", RowsFormat::Table).await;
    assert_eq!(table, "+---+\n| x |\n+---+\n| 3 |\n+---+\n");
    let mut answer = catalog.query("SELECT make_array(x) AS xs FROM flights").await.unwrap();
    let error = answer.next_text(RowsFormat::Csv).await.unwrap_err();
    assert!(error.exit_code() == 2 && error.to_string().contains("csv"), "{error}");
}

#[tokio::test]
async fn parquet_and_arrow_hold_the_same_rows() {
    let catalog = open(&History::good().store(1).await).await.unwrap();
    for sql in [
        "SELECT month, x, CASE WHEN x > 3 THEN x END AS y FROM flights ORDER BY x",
        "SELECT month, x FROM flights WHERE x < 0",
        // Several batches.
        "SELECT a.x FROM flights AS a, flights AS b, flights AS c, flights AS d ORDER BY a.x",
    ] {
        let expected = csv(&catalog, sql).await;
        let parquet = Bytes::from(bytes(&catalog, sql, RowsFormat::Parquet).await);
        let reader = ParquetRecordBatchReaderBuilder::try_new(parquet).unwrap().build().unwrap();
        assert_eq!(as_csv(reader), expected, "{sql}");
        let arrow = std::io::Cursor::new(bytes(&catalog, sql, RowsFormat::Arrow).await);
        let reader = arrow::ipc::reader::FileReader::try_new(arrow, None).unwrap();
        assert_eq!(as_csv(reader), expected, "{sql}");
    }
    let mut answer = catalog.query("SELECT x FROM flights").await.unwrap();
    assert!(answer.next_text(RowsFormat::Parquet).await.is_err());
}

fn as_csv(batches: impl RecordBatchReader) -> String {
    let mut text = Vec::new();
    let schema = batches.schema();
    let mut writer = arrow::csv::WriterBuilder::new().with_header(true).build(&mut text);
    writer.write(&RecordBatch::new_empty(schema)).unwrap();
    batches.for_each(|batch| writer.write(&batch.unwrap()).unwrap());
    drop(writer);
    String::from_utf8(text).unwrap()
}

async fn bytes(catalog: &Catalog, sql: &str, format: RowsFormat) -> Vec<u8> {
    let mut answer = catalog.query(sql).await.unwrap();
    let mut bytes = Vec::new();
    while let Some(piece) = answer.next_bytes(format).await.unwrap() {
        bytes.extend_from_slice(&piece);
    }
    assert!(answer.next_bytes(format).await.unwrap().is_none());
    bytes
}

#[tokio::test]
async fn an_answer_says_how_much_was_read() {
    let catalog = open(&History::good().store(1).await).await.unwrap();
    let mut answer = catalog.query("SELECT sum(x) AS s FROM flights WHERE month <> '1'").await.unwrap();
    let scanned = answer.scanned();
    while answer.next_text(RowsFormat::Csv).await.unwrap().is_some() {}
    assert_eq!(scanned.rows(), 12);
    assert!(scanned.bytes() > 0, "{scanned:?}");
}

#[tokio::test]
async fn plans_are_explained_with_what_they_did() {
    let catalog = open(&History::good().store(1).await).await.unwrap();
    let sql = "EXPLAIN ANALYZE SELECT sum(x) AS s FROM flights VERSION AS OF 1 WHERE month = '2'";
    let plan = text(&catalog, sql, RowsFormat::Table).await;
    assert!(plan.contains("Plan with Metrics"), "{plan}");
    assert!(plan.contains("output_rows=5"), "{plan}");
    let plan = text(&catalog, "EXPLAIN SELECT x FROM flights VERSION AS OF 1", RowsFormat::Table).await;
    assert!(plan.contains("flights VERSION AS OF 1"), "{plan}");
}

#[tokio::test]
async fn json_of_many_batches_is_one_array() {
    let catalog = open(&History::good().store(1).await).await.unwrap();
    let sql = "SELECT a.x FROM flights AS a, flights AS b, flights AS c, flights AS d";
    let json: Vec<serde_json::Value> =
        serde_json::from_str(&text(&catalog, sql, RowsFormat::Json).await).unwrap();
    assert_eq!(json.len(), 15 * 15 * 15 * 15);
    let table = text(&catalog, sql, RowsFormat::Table).await;
    assert_eq!(table.lines().count(), TABLE_ROWS_MAX + 5);
    assert!(table.ends_with("only these rows are shown: add LIMIT, or use json or csv\n"));
}

/// Several times: what is spilled by several partitions at once must be found again, whoever is first.
#[tokio::test]
async fn memory_is_bounded() {
    let clouds = History::good().store(1).await;
    let catalog = Catalog::new(&clouds, &[DATASET.to_owned()], 200_000).unwrap();
    let sql =
        "SELECT count(DISTINCT a.x * 1000000 + b.value) FROM flights AS a, generate_series(1, 200000) AS b";
    for _ in 0..10 {
        let answer = catalog.query(sql).await.unwrap();
        let (rows, _) = answer.into_parts();
        let ended: Result<Vec<RecordBatch>, _> = rows.try_collect().await;
        match ended {
            // Spilled.
            Ok(batches) => {
                assert_eq!(batches[0].column(0).as_primitive::<Int64Type>().value(0), 15 * 200_000);
            }
            Err(error) => {
                assert!(matches!(error.find_root(), DataFusionError::ResourcesExhausted(_)), "{error}");
            }
        }
    }
}

#[test]
fn a_query_can_run_on_any_thread() {
    fn is_send(_: impl Send) {}
    is_send(async {
        let catalog = Catalog::new(&[], &[], MEMORY_BYTES_MAX)?;
        catalog.tables().await?;
        catalog.query("SELECT 1").await?.next_bytes(RowsFormat::Csv).await
    });
}
