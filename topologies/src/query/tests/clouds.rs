//! Which files are opened, which cloud is read, and how new a table has to be.

use std::collections::BTreeMap;
use std::time::Duration;

use super::*;
use crate::spec::{PriceSpec, QuerySpec};

/// The good history, with the least and greatest `x` of every file in the log.
fn with_bounds() -> History {
    let mut history = History::good();
    for version in 1..=3 {
        for add in &mut history.version(version).adds {
            let bounds =
                [("a.parquet", 0, 2), ("b.parquet", 3, 7), ("c.parquet", 8, 12), ("d.parquet", 13, 14)];
            let (_, least, most) = bounds.into_iter().find(|(name, ..)| add.path.ends_with(name)).unwrap();
            add.stats = Some(format!(
                r#"{{"numRecords":{},"minValues":{{"x":{least}}},"maxValues":{{"x":{most}}},"nullCount":{{"x":0}}}}"#,
                most - least + 1
            ));
        }
    }
    history
}

#[tokio::test]
async fn files_whose_statistics_rule_out_every_row_are_not_opened() {
    let clouds = with_bounds().store(1).await;
    let catalog = open(&clouds).await.unwrap();
    for file in ["month=1/a.parquet", "month=2/b.parquet", "month=a%2520b/d.parquet"] {
        clouds[0].data.delete(&file_path(file)).await.unwrap();
    }
    for (condition, sum) in [
        ("x BETWEEN 9 AND 11", "30"),
        ("x = 8", "8"),
        ("x > 7 AND x <= 12", "50"),
        ("x IN (8, 12)", "20"),
        ("x = 8 OR (x = 14 AND month = '2')", "8"),
        ("x > 7 AND month = '2' AND x IS NOT NULL", "50"),
    ] {
        let sql = format!("SELECT sum(x) AS s FROM flights WHERE {condition}");
        assert_eq!(csv(&catalog, &sql).await, format!("s\n{sum}\n"), "{condition}");
    }
    clouds[0].data.delete(&file_path("month=2/c.parquet")).await.unwrap();
    for condition in ["x = 100", "x < 0", "x IS NULL", "x > 2 AND month = '1'"] {
        let sql = format!("SELECT count(x) AS n FROM flights WHERE {condition}");
        assert_eq!(csv(&catalog, &sql).await, "n\n0\n", "{condition}");
    }
}

#[tokio::test]
async fn leaving_out_files_leaves_out_those_and_no_row() {
    let catalog = open(&with_bounds().store(1).await).await.unwrap();
    for (condition, files) in [
        ("x BETWEEN 9 AND 11", "c"),
        ("x < 3", "a"),
        ("x <= 3", "ab"),
        ("x > 12 OR month = '1'", "ad"),
        ("month = '2' AND x <> 5", "bc"),
        ("x IN (2, 13)", "ad"),
        ("NOT (x < 8)", "cd"),
        ("month > '1' AND x < 13", "bc"),
        ("abs(x) > 12", "abcd"),
        ("x IS NULL", ""),
    ] {
        let plan = format!("EXPLAIN SELECT x FROM flights WHERE {condition}");
        let plan = text(&catalog, &plan, RowsFormat::Table).await;
        let opened: String = ["a", "b", "c", "d"]
            .into_iter()
            .filter(|file| plan.contains(&format!("{file}.parquet")))
            .collect();
        assert_eq!(opened, files, "{condition}: {plan}");
        let rows = csv(&catalog, &format!("SELECT x FROM flights WHERE {condition} ORDER BY x")).await;
        // Nothing can be concluded from this condition before the rows are there.
        let all = format!(
            "SELECT x FROM (SELECT x, ({condition}) AS c FROM flights ORDER BY x LIMIT 100) WHERE c ORDER BY x"
        );
        assert_eq!(rows, csv(&catalog, &all).await, "{condition}");
    }
}

#[tokio::test]
async fn conditions_reach_the_files_that_are_opened() {
    let catalog = open(&with_bounds().store(1).await).await.unwrap();
    let plan = text(&catalog, "EXPLAIN SELECT month FROM flights WHERE x = 9", RowsFormat::Table).await;
    assert!(plan.contains("pruning_predicate="), "{plan}");
    assert!(plan.contains("c.parquet") && !plan.contains("b.parquet"), "{plan}");
}

#[tokio::test]
async fn footers_are_read_once() {
    let catalog = open(&History::good().store(1).await).await.unwrap();
    let mut requests = Vec::new();
    for _ in 0..2 {
        let mut answer = catalog.query("SELECT sum(x) FROM flights").await.unwrap();
        while answer.next_text(RowsFormat::Csv).await.unwrap().is_some() {}
        let usage = answer.usage();
        assert_eq!(usage.clouds.len(), 1);
        requests.push(usage.clouds[0].requests);
    }
    // There are four files.
    assert_eq!(requests[0], requests[1] + 4);
}

#[tokio::test]
async fn what_was_read_is_told_by_cloud_and_in_the_plan() {
    let clouds = History::good().store(2).await;
    let price = PriceSpec { egress_per_gib: 1.0, request_per_million: 0.0 };
    let prices = BTreeMap::from([("a".to_owned(), price), ("b".to_owned(), price)]);
    let reading = Reading::of(QuerySpec { prices, ..QuerySpec::default() });
    let catalog = Catalog::reading(&clouds, &[DATASET.to_owned()], MEMORY_BYTES_MAX, &reading).unwrap();
    catalog.tables().await.unwrap();
    clouds[0].data.delete(&file_path("month=1/a.parquet")).await.unwrap();
    let mut answer = catalog.query("SELECT sum(x) AS s FROM flights").await.unwrap();
    let metered = answer.metered();
    assert_eq!(answer.next_text(RowsFormat::Csv).await.unwrap().unwrap(), "s\n105\n");
    drop(answer);
    let usage = metered.usage();
    let names: Vec<&str> = usage.clouds.iter().map(|read| read.cloud.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    let bytes: u64 = usage.clouds.iter().map(|read| read.bytes).sum();
    assert!(usage.clouds.iter().all(|read| read.bytes > 0), "{usage:?}");
    let cost = usage.cost.unwrap();
    assert!((cost - bytes as f64 / (1u64 << 30) as f64).abs() < 1e-12, "{cost} {bytes}");
    let plan = text(&catalog, "EXPLAIN ANALYZE SELECT sum(x) FROM flights", RowsFormat::Table).await;
    for shown in ["bytes_from_a=", "bytes_from_b=", "requests_to_a=", "requests_to_b="] {
        assert!(plan.contains(shown), "{shown}: {plan}");
    }
}

#[tokio::test]
async fn a_cloud_that_goes_away_while_a_query_reads_is_replaced() {
    let switch = FaultSwitch::default();
    let mut clouds = History::good().store(3).await;
    clouds[0] = clouds[0].clone().with_faults(&switch);
    let catalog = open(&clouds).await.unwrap();
    let sql = "SELECT count(x) AS n, sum(x) AS s FROM flights";
    let expected = "n,s\n15,105\n";
    assert_eq!(csv(&catalog, sql).await, expected);
    let mut answer = catalog.query(sql).await.unwrap();
    assert_eq!(answer.from()[0].cloud, "a");
    switch.set(Fault::RefuseAll);
    assert_eq!(answer.next_text(RowsFormat::Csv).await.unwrap().unwrap(), expected);
    // Also what is planned from now on, at the same version.
    assert_eq!(csv(&catalog, sql).await, expected);
    assert_eq!(csv(&catalog, "SELECT count(x) AS n FROM flights VERSION AS OF 1").await, "n\n8\n");
}

#[tokio::test]
async fn a_hanging_cloud_does_not_hold_up_the_log_for_long() {
    let switch = FaultSwitch::default();
    switch.set(Fault::Delay(Duration::from_secs(3600)));
    let mut clouds = History::good().store(2).await;
    clouds[0] = clouds[0].clone().with_faults(&switch);
    let reading = Reading { answer_within: Duration::from_millis(50), ..Reading::default() };
    let datasets = [DATASET.to_owned()];
    for sql in [
        "SELECT count(x) AS n FROM flights",
        "SELECT count(x) AS n FROM flights VERSION AS OF 3",
        "SELECT count(x) AS n FROM flights TIMESTAMP AS OF '2026-01-01'",
    ] {
        let catalog = Catalog::reading(&clouds, &datasets, MEMORY_BYTES_MAX, &reading).unwrap();
        assert_eq!(csv(&catalog, sql).await, "n\n15\n", "{sql}");
    }
    let only = Reading { only: Some("a".into()), ..reading };
    let catalog = Catalog::reading(&clouds[1..], &datasets, MEMORY_BYTES_MAX, &only);
    assert_eq!(catalog.unwrap_err().exit_code(), 2);
}

async fn fresh(catalog: &Catalog, sql: &str, freshness: &Freshness) -> Result<Answer, Error> {
    catalog.query_within(sql, &QueryLimits::default(), freshness).await
}

#[tokio::test]
async fn a_version_that_one_cloud_has_not_yet_is_read_from_another() {
    let clouds = History::good().store(3).await;
    for cloud in &clouds[..2] {
        cloud.data.delete(&published_path(DATASET, 3)).await.unwrap();
    }
    let catalog = open(&clouds).await.unwrap();
    let sql = "SELECT count(x) AS n FROM flights";
    assert_eq!(csv(&catalog, sql).await, "n\n13\n");
    let least =
        |version| Freshness { min_versions: BTreeMap::from([(DATASET.to_owned(), version)]), max_age: None };
    let mut answer = fresh(&catalog, sql, &least(3)).await.unwrap();
    assert_eq!((answer.from()[0].version, answer.from()[0].cloud.as_str()), (3, "c"));
    assert_eq!(answer.next_text(RowsFormat::Csv).await.unwrap().unwrap(), "n\n15\n");
    // It stays there.
    assert_eq!(csv(&catalog, sql).await, "n\n15\n");
    let error = fresh(&catalog, sql, &least(4)).await.unwrap_err();
    assert_eq!(error.exit_code(), 1);
    let error = error.to_string();
    for said in
        ["read flights at version 4 or later", "a: its newest version is 2", "c: its newest version is 3"]
    {
        assert!(error.contains(said), "{said}: {error}");
    }
}

#[tokio::test]
async fn a_following_catalog_does_not_go_back_to_a_cloud_that_is_behind() {
    let clouds = History::good().store(2).await;
    clouds[0].data.delete(&published_path(DATASET, 3)).await.unwrap();
    let catalog = Catalog::new(&clouds, &[DATASET.to_owned()], MEMORY_BYTES_MAX).unwrap().following();
    let sql = "SELECT count(x) AS n FROM flights";
    assert_eq!(csv(&catalog, sql).await, "n\n13\n");
    let third = Freshness { min_versions: BTreeMap::from([(DATASET.to_owned(), 3)]), ..Freshness::default() };
    let mut answer = fresh(&catalog, sql, &third).await.unwrap();
    assert_eq!((answer.from()[0].version, answer.from()[0].cloud.as_str()), (3, "b"));
    assert_eq!(answer.next_text(RowsFormat::Csv).await.unwrap().unwrap(), "n\n15\n");
    assert_eq!(csv(&catalog, sql).await, "n\n15\n");
    assert_eq!(catalog.tables().await.unwrap()[DATASET].version, 3);
}

#[tokio::test]
async fn a_version_that_is_too_old_is_refused_with_its_age() {
    let clouds = History::good().store(2).await;
    let catalog = open(&clouds).await.unwrap();
    let sql = "SELECT count(x) AS n FROM flights";
    let recent = |longest| Freshness { max_age: Some(longest), ..Freshness::default() };
    let error = fresh(&catalog, sql, &recent(Duration::from_secs(30))).await.unwrap_err();
    assert_eq!(error.exit_code(), 1);
    let error = error.to_string();
    assert!(error.contains("at a version committed at most 30s ago"), "{error}");
    assert!(error.contains("b: its newest version is 3, committed at 1970-01-01T00:00:04.000Z"), "{error}");
    // What a query names itself may be of any age.
    let pinned = "SELECT count(x) AS n FROM flights VERSION AS OF 1";
    assert!(fresh(&catalog, pinned, &recent(Duration::from_secs(30))).await.is_ok());
    let ages = Duration::from_secs(1000 * 365 * 86_400);
    assert!(fresh(&catalog, sql, &recent(ages)).await.is_ok());
    let unknown =
        Freshness { min_versions: BTreeMap::from([("nowhere".to_owned(), 1)]), ..Freshness::default() };
    let error = fresh(&catalog, sql, &unknown).await.unwrap_err();
    assert!(error.exit_code() == 2 && error.to_string().contains("the tables are: flights"), "{error}");
}
