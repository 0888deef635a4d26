//! Versions of the past: wherever a query names them, by number and by time, from checkpoints, from clouds that are behind, and
//! after a vacuum.

use isobar_connectors::checkpoint::{last_checkpoint, write_checkpoint};
use isobar_connectors::delta::MaintenanceWork;
use object_store::PutPayload;

use super::*;
use crate::commit::format::{checkpoint_path, last_checkpoint_path};
use crate::query::history::version_at;

/// Rows of the dataset at versions 0 to 3 of a good history.
const ROWS: [u64; 4] = [0, 8, 13, 15];

async fn failure(clouds: &[Cloud], sql: &str) -> Error {
    refusal(&Catalog::new(clouds, &[DATASET.to_owned()], MEMORY_BYTES_MAX).unwrap(), sql).await
}

async fn count(clouds: &[Cloud], clause: &str) -> String {
    let catalog = Catalog::new(clouds, &[DATASET.to_owned()], MEMORY_BYTES_MAX).unwrap();
    let text = csv(&catalog, &format!("SELECT count(x) AS n FROM flights {clause}")).await;
    text.trim_start_matches("n\n").trim_end().to_owned()
}

#[tokio::test]
async fn every_version_has_the_rows_that_it_had() {
    let clouds = History::good().store(2).await;
    for (version, rows) in ROWS.iter().enumerate() {
        assert_eq!(count(&clouds, &format!("VERSION AS OF {version}")).await, rows.to_string());
        assert_eq!(count(&clouds, &format!("FOR VERSION AS OF {version} AS f")).await, rows.to_string());
    }
    let catalog = open(&clouds).await.unwrap();
    let rows = csv(&catalog, "SELECT * FROM flights VERSION AS OF 1 ORDER BY x").await;
    let months = ["1"; 3].into_iter().chain(["2"; 5]);
    let expected: String = months.enumerate().map(|(x, month)| format!("{month},{x}\n")).collect();
    assert_eq!(rows, format!("month,x\n{expected}"));
}

#[tokio::test]
async fn a_version_may_stand_wherever_a_table_may() {
    let catalog = open(&History::good().store(1).await).await.unwrap();
    for (sql, expected) in [
        ("SELECT flights.x FROM flights VERSION AS OF 1 WHERE flights.x = 3", "x\n3\n"),
        ("SELECT datasets.flights.x FROM datasets.flights VERSION AS OF 1 WHERE x = 3", "x\n3\n"),
        ("SELECT count(x) AS n FROM isobar.datasets.flights VERSION AS OF 1", "n\n8\n"),
        ("SELECT count(f.x) AS n FROM flights VERSION AS OF 1 AS f WHERE f.x > 2", "n\n5\n"),
        ("SELECT count(f.b) AS n FROM flights VERSION AS OF 1 f(a, b)", "n\n8\n"),
        ("SELECT count(x) AS n FROM flights_quarantine VERSION AS OF 1", "n\n1\n"),
        ("SELECT count(x) AS n FROM \"flights.quarantine\" VERSION AS OF 1", "n\n1\n"),
        (
            "SELECT (SELECT count(x) FROM flights VERSION AS OF 1) AS a, \
             (SELECT count(x) FROM flights VERSION AS OF 2) AS b, (SELECT count(x) FROM flights) AS c",
            "a,b,c\n8,13,15\n",
        ),
        (
            "SELECT count(*) AS n FROM flights AS new LEFT JOIN flights VERSION AS OF 1 AS old ON new.x = old.x \
             WHERE old.x IS NULL",
            "n\n7\n",
        ),
        (
            "SELECT count(*) AS n FROM flights WHERE x NOT IN (SELECT x FROM flights VERSION AS OF 2)",
            "n\n2\n",
        ),
        (
            "WITH flights AS (SELECT * FROM flights VERSION AS OF 1) SELECT count(x) AS n FROM flights",
            "n\n8\n",
        ),
        (
            "SELECT count(*) AS n FROM (SELECT x FROM flights VERSION AS OF 1 UNION ALL \
             SELECT x FROM flights VERSION AS OF 2)",
            "n\n21\n",
        ),
        (
            "SELECT sum(a.x) AS s FROM flights VERSION AS OF 1 AS a JOIN flights VERSION AS OF 2 AS b ON a.x = b.x \
             JOIN flights AS c ON b.x = c.x",
            "s\n28\n",
        ),
        (
            "SELECT x FROM flights AS f WHERE x > (SELECT max(x) FROM flights VERSION AS OF 1 AS g \
             WHERE g.month = f.month) ORDER BY x",
            "x\n8\n9\n10\n11\n12\n",
        ),
    ] {
        assert_eq!(csv(&catalog, sql).await, expected, "{sql}");
    }
    let sql = "SELECT * FROM flights VERSION AS OF 1 AS a, flights VERSION AS OF 2 AS b, flights AS c";
    let answer = catalog.query(sql).await.unwrap();
    let from: Vec<(&str, u64)> =
        answer.from().iter().map(|from| (from.table.as_str(), from.version)).collect();
    assert_eq!(from, [(DATASET, 1), (DATASET, 2), (DATASET, 3)]);
}

#[tokio::test]
async fn a_time_means_the_newest_version_by_then() {
    // Version v is of second v + 1.
    let clouds = History::good().store(1).await;
    for (time, rows) in [
        ("'1970-01-01T00:00:01Z'", 0),
        ("'1970-01-01T00:00:01.999Z'", 0),
        ("'1970-01-01T00:00:02Z'", 8),
        ("'1970-01-01 00:00:03.5'", 13),
        ("'1970-01-01T01:00:03+01:00'", 13),
        ("TIMESTAMP '1970-01-01T00:00:04'", 15),
        ("'2100-01-01'", 15),
    ] {
        for clause in ["TIMESTAMP AS OF", "FOR TIMESTAMP AS OF"] {
            assert_eq!(count(&clouds, &format!("{clause} {time}")).await, rows.to_string(), "{time}");
        }
    }
    let error = failure(&clouds, "SELECT * FROM flights TIMESTAMP AS OF '1970-01-01T00:00:00.999Z'").await;
    assert_eq!(error.exit_code(), 2);
    let begins =
        "no version at 1970-01-01T00:00:00.999Z: it begins with version 0 at 1970-01-01T00:00:01.000Z";
    assert!(error.to_string().contains(begins), "{error}");
}

#[tokio::test]
async fn a_catalog_reads_a_version_once_and_a_time_stays_what_it_meant() {
    let clouds = History::good().store(1).await;
    let switch = FaultSwitch::default();
    let catalog = open(&[clouds[0].clone().with_faults(&switch)]).await.unwrap();
    let sql = |clause: &str| format!("SELECT count(*) AS n FROM flights {clause}");
    // One version of two, and two ways to name one.
    let kept = [
        ("VERSION AS OF 1", "n\n8\n"),
        ("TIMESTAMP AS OF '1970-01-01T00:00:03.5Z'", "n\n13\n"),
        ("VERSION AS OF 2", "n\n13\n"),
    ];
    let last = sql("TIMESTAMP AS OF '2100-01-01'");
    assert_eq!(csv(&catalog, &last).await, "n\n15\n");
    for (clause, rows) in &kept[..2] {
        assert_eq!(csv(&catalog, &sql(clause)).await, *rows, "{clause}");
    }
    switch.set(Fault::RefuseAll);
    for (clause, rows) in kept {
        assert_eq!(csv(&catalog, &sql(clause)).await, rows, "{clause}");
    }
    // After the newest version a time may come to mean another one, which only a cloud can tell.
    assert_eq!(refusal(&catalog, &last).await.exit_code(), 1);
}

#[tokio::test]
async fn a_time_means_no_earlier_version_where_only_a_cloud_that_is_behind_answers() {
    let mut clouds = History::good().store(2).await;
    let switch = FaultSwitch::default();
    clouds[0].data.delete(&published_path(DATASET, 3)).await.unwrap();
    clouds[1] = clouds[1].clone().with_faults(&switch);
    let catalog = Catalog::new(&clouds, &[DATASET.to_owned()], MEMORY_BYTES_MAX).unwrap();
    let count = async |time: &str| {
        let sql = format!("SELECT count(*) AS n FROM flights TIMESTAMP AS OF '{time}'");
        csv(&catalog, &sql).await
    };
    assert_eq!(count("2100-01-01").await, "n\n15\n");
    switch.set(Fault::RefuseAll);
    assert_eq!(count("2100-01-01").await, "n\n15\n");
    assert_eq!(count("1970-01-01T00:00:03.999Z").await, "n\n13\n");
}

#[tokio::test]
async fn a_time_is_not_asked_of_a_log_that_may_lack_its_version() {
    let clouds = History::good().store(2).await;
    clouds[0].data.delete(&published_path(DATASET, 2)).await.unwrap();
    // Version 2 is of second 3: the first cloud has those before and after.
    assert_eq!(count(&clouds, "TIMESTAMP AS OF '1970-01-01T00:00:03Z'").await, "13");
    assert_eq!(count(&clouds, "TIMESTAMP AS OF '1970-01-01T00:00:02.999Z'").await, "8");
    let error = failure(&clouds[..1], "SELECT * FROM flights TIMESTAMP AS OF '1970-01-01T00:00:03Z'").await;
    assert!(error.to_string().contains("version 2 is missing"), "{error}");
    // Neither is it answered by a cloud that ends before the gap.
    clouds[1].data.delete(&published_path(DATASET, 2)).await.unwrap();
    clouds[0].data.delete(&published_path(DATASET, 3)).await.unwrap();
    let error = failure(&clouds, "SELECT * FROM flights TIMESTAMP AS OF '1970-01-01T00:00:03Z'").await;
    assert_eq!(error.exit_code(), 1);
    assert!(error.to_string().contains("version 2 is missing"), "{error}");
}

#[tokio::test]
async fn when_objects_were_written_does_not_matter() {
    let clouds = History::good().store(2).await;
    for (path, bytes) in History::good().objects().into_iter().rev() {
        clouds[1].data.put(&path, PutPayload::from(bytes)).await.unwrap();
    }
    for clouds in [&clouds[..1], &clouds[1..]] {
        assert_eq!(count(clouds, "TIMESTAMP AS OF '1970-01-01T00:00:02Z'").await, "8");
    }
}

#[tokio::test]
async fn a_version_that_there_is_not_is_an_error_that_says_what_there_is() {
    let clouds = History::good().store(2).await;
    let sql = "SELECT * FROM flights VERSION AS OF 9";
    let error = failure(&clouds, sql).await;
    assert_eq!(
        (error.exit_code(), error.to_string().as_str()),
        (2, "flights has no version 9: there is 0 to 3")
    );
    clouds[1].data.delete(&published_path(DATASET, 2)).await.unwrap();
    let error = failure(&clouds, sql).await.to_string();
    assert_eq!(error, "flights has no version 9\n  a: there is 0 to 3\n  b: there are 0 to 1, 3");
    // A cloud that cannot tell might have it.
    let switch = FaultSwitch::default();
    switch.set(Fault::RefuseAll);
    let away = [clouds[0].clone(), clouds[1].clone().with_faults(&switch)];
    let error = failure(&away, sql).await;
    assert_eq!(error.exit_code(), 1);
    let error = error.to_string();
    assert!(error.contains("b: ") && error.contains("a: there is 0 to 3"), "{error}");
    let catalog = Catalog::new(&clouds, &["weather".to_owned()], MEMORY_BYTES_MAX).unwrap();
    let error = refusal(&catalog, "SELECT * FROM weather VERSION AS OF 0").await.to_string();
    assert_eq!(error, "weather has no version 0: there is none, nothing was committed yet");
    let error = refusal(&catalog, "SELECT * FROM weather TIMESTAMP AS OF '2026-01-01'").await.to_string();
    assert!(error.contains("nothing was committed yet"), "{error}");
}

#[tokio::test]
async fn a_cloud_that_is_behind_is_passed_over() {
    let clouds = History::good().store(2).await;
    clouds[0].data.delete(&published_path(DATASET, 3)).await.unwrap();
    for clause in
        ["VERSION AS OF 3", "TIMESTAMP AS OF '1970-01-01T00:00:04Z'", "TIMESTAMP AS OF '2100-01-01'"]
    {
        assert_eq!(count(&clouds, clause).await, "15", "{clause}");
    }
    assert_eq!(count(&clouds, "TIMESTAMP AS OF '1970-01-01T00:00:03.999Z'").await, "13");
    // And so is one whose log is broken before the version.
    clouds[0].data.delete(&published_path(DATASET, 1)).await.unwrap();
    assert_eq!(count(&clouds, "VERSION AS OF 2").await, "13");
}

/// Stores the checkpoint of `version` of the dataset in `cloud`.
async fn put_checkpoint(cloud: &Cloud, version: u64) {
    let mut bodies = Vec::new();
    for version in 0..=version {
        let found = cloud.data.get(&published_path(DATASET, version)).await.unwrap();
        bodies.push(Ok(found.bytes().await.unwrap()));
    }
    let mut checkpoint = Vec::new();
    let summary = write_checkpoint(None::<Bytes>, bodies, &mut checkpoint).unwrap();
    cloud.data.put(&checkpoint_path(DATASET, version), checkpoint.into()).await.unwrap();
    let hint = last_checkpoint(version, &summary);
    cloud.data.put(&last_checkpoint_path(DATASET), hint.into()).await.unwrap();
}

#[tokio::test]
async fn versions_after_a_checkpoint_need_nothing_before_it() {
    let clouds = History::good().store(1).await;
    put_checkpoint(&clouds[0], 1).await;
    put_checkpoint(&clouds[0], 2).await;
    for version in [0, 1] {
        clouds[0].data.delete(&published_path(DATASET, version)).await.unwrap();
    }
    assert_eq!(count(&clouds, "").await, "15");
    assert_eq!(count(&clouds, "VERSION AS OF 2").await, "13");
    assert_eq!(count(&clouds, "VERSION AS OF 3").await, "15");
    let catalog = open(&clouds).await.unwrap();
    let rows = csv(&catalog, "SELECT month, sum(x) AS s FROM flights GROUP BY month ORDER BY 1");
    assert_eq!(rows.await, "month,s\n1,3\n2,75\na b,27\n");
    let error = failure(&clouds, "SELECT * FROM flights VERSION AS OF 1").await.to_string();
    assert_eq!(error, "flights has no version 1: there is 2 to 3");
}

#[tokio::test]
async fn an_older_checkpoint_serves_the_versions_before_the_newest_one() {
    let clouds = History::good().store(1).await;
    put_checkpoint(&clouds[0], 1).await;
    put_checkpoint(&clouds[0], 3).await;
    clouds[0].data.delete(&published_path(DATASET, 0)).await.unwrap();
    for (version, rows) in ROWS.iter().enumerate().skip(1) {
        assert_eq!(count(&clouds, &format!("VERSION AS OF {version}")).await, rows.to_string());
    }
}

#[tokio::test]
async fn a_checkpoint_that_cannot_be_read_is_passed_over() {
    for damaged in [&b"no Parquet"[..], b""] {
        let clouds = History::good().store(1).await;
        put_checkpoint(&clouds[0], 2).await;
        clouds[0].data.put(&checkpoint_path(DATASET, 2), Bytes::from(damaged).into()).await.unwrap();
        assert_eq!(count(&clouds, "").await, "15");
        for (version, rows) in ROWS.iter().enumerate() {
            assert_eq!(count(&clouds, &format!("VERSION AS OF {version}")).await, rows.to_string());
        }
    }
    // The same for a name that leads nowhere.
    let clouds = History::good().store(1).await;
    put_checkpoint(&clouds[0], 2).await;
    clouds[0].data.delete(&checkpoint_path(DATASET, 2)).await.unwrap();
    assert_eq!(count(&clouds, "").await, "15");
    clouds[0].data.put(&last_checkpoint_path(DATASET), Bytes::from_static(b"{}").into()).await.unwrap();
    assert_eq!(count(&clouds, "VERSION AS OF 2").await, "13");
}

#[tokio::test]
async fn a_log_that_does_not_follow_its_checkpoint_is_not_believed() {
    let clouds = History::good().store(1).await;
    put_checkpoint(&clouds[0], 2).await;
    let mut other = History::good();
    other.version(3).info.engine_info = "another".into();
    other.version(2).info.engine_info = "another".into();
    let bytes = other.objects()[&published_path(DATASET, 3)].clone();
    clouds[0].data.put(&published_path(DATASET, 3), bytes.into()).await.unwrap();
    let error = failure(&clouds, "SELECT * FROM flights").await;
    assert!(error.to_string().contains("states"), "{error}");
    assert_eq!(count(&clouds, "VERSION AS OF 2").await, "13");
}

/// Versions 4 and 5 of the dataset: a compaction of both files of month 2, and a VACUUM of what was removed up to `through`.
fn vacuumed(through: u64) -> History {
    let mut history = History::good();
    history.compact();
    history.maintain(4, MaintenanceWork::Vacuum { through });
    history
}

#[tokio::test]
async fn a_version_whose_files_were_let_go_is_refused_before_they_are_deleted() {
    let clouds = vacuumed(4).store(2).await;
    for version in [1, 2, 3] {
        let error = failure(&clouds, &format!("SELECT count(*) FROM flights VERSION AS OF {version}")).await;
        assert_eq!(error.exit_code(), 2);
        let expected = format!(
            "version {version} of flights can no longer be read: the VACUUM of version 5 let go of files that it had; \
             versions 4 to 5 can be read"
        );
        assert_eq!(error.to_string(), expected);
    }
    let by_time = failure(&clouds, "SELECT * FROM flights TIMESTAMP AS OF '1970-01-01T00:00:03Z'").await;
    assert!(by_time.to_string().contains("version 2 of flights can no longer be read"), "{by_time}");
    for path in ["month=2/b.parquet", "month=2/c.parquet"] {
        clouds[0].data.delete(&file_path(path)).await.unwrap();
    }
    for version in [4, 5] {
        assert_eq!(count(&clouds, &format!("VERSION AS OF {version}")).await, "15");
    }
    // It has no files that anybody could miss.
    assert_eq!(count(&clouds, "VERSION AS OF 0").await, "0");
    // Another table has lost nothing.
    let catalog = open(&clouds).await.unwrap();
    assert_eq!(csv(&catalog, "SELECT count(x) AS n FROM flights_quarantine VERSION AS OF 1").await, "n\n1\n");
}

#[tokio::test]
async fn what_a_vacuum_does_not_reach_can_be_read() {
    for through in [0, 3] {
        let clouds = vacuumed(through).store(1).await;
        for (version, rows) in ROWS.iter().enumerate().skip(1) {
            assert_eq!(count(&clouds, &format!("VERSION AS OF {version}")).await, rows.to_string());
        }
    }
    // Compacted, and not vacuumed.
    let mut history = History::good();
    history.compact();
    let clouds = history.store(1).await;
    assert_eq!(count(&clouds, "VERSION AS OF 3").await, "15");
    assert_eq!(count(&clouds, "VERSION AS OF 4").await, "15");
}

/// Adds commits without rows, each a millisecond after the one before.
fn prolong(history: &mut History, versions: usize) {
    for _ in 0..versions {
        let mut next = history.version(2).clone();
        let last = history.tables[DATASET].last().unwrap().info.clone();
        next.adds.clear();
        next.info.isobar.files.clear();
        next.info.isobar.rows = Default::default();
        next.info.isobar.offsets.clear();
        next.txns.clear();
        next.info.isobar.sequence = last.isobar.sequence + 1;
        next.info.isobar.epoch = last.isobar.epoch;
        next.info.isobar.commit_id = format!("c{}", next.info.isobar.sequence);
        next.info.txn_id.clone_from(&next.info.isobar.commit_id);
        next.info.timestamp_ms = last.timestamp_ms + 1;
        next.info.in_commit_timestamp_ms = next.info.timestamp_ms;
        history.tables.get_mut(DATASET).unwrap().push(next);
    }
}

#[tokio::test]
async fn a_time_is_found_in_a_long_log_before_and_after_its_checkpoint() {
    let mut history = History::good();
    prolong(&mut history, 300);
    let clouds = history.store(1).await;
    // Version 3 is of second 4, and version 3 + n of n milliseconds after it.
    let times =
        [(0, 1000), (2, 3999), (3, 4000), (4, 4001), (151, 4148), (220, 4217), (302, 4299), (303, 9000)];
    let at = async |ms: i64| version_at(&clouds, DATASET, ms, None).await;
    let all_right = async || {
        for (version, ms) in times {
            let found = at(ms).await.unwrap();
            assert_eq!((found.version, found.is_fixed), (version, version < 303), "{ms}");
        }
        let before = at(999).await.unwrap_err().to_string();
        assert!(before.contains("it begins with version 0 at 1970-01-01T00:00:01.000Z"), "{before}");
    };
    all_right().await;
    put_checkpoint(&clouds[0], 200).await;
    all_right().await;
    // What the log does not have before its checkpoint is listed, not guessed.
    for version in 0..100 {
        clouds[0].data.delete(&published_path(DATASET, version)).await.unwrap();
    }
    assert_eq!(at(4148).await.unwrap().version, 151);
    let before = at(4000).await.unwrap_err().to_string();
    assert!(before.contains("it begins with version 100"), "{before}");
}

#[tokio::test]
async fn a_vacuum_is_found_behind_many_versions_and_from_checkpoints() {
    let mut history = vacuumed(4);
    // More than are looked through at once.
    prolong(&mut history, 40);
    let clouds = history.store(1).await;
    let refused = async || failure(&clouds, "SELECT * FROM flights VERSION AS OF 3").await.to_string();
    assert!(refused().await.contains("the VACUUM of version 5"), "{}", refused().await);
    assert!(refused().await.contains("versions 4 to 45 can be read"), "{}", refused().await);
    assert_eq!(count(&clouds, "VERSION AS OF 6").await, "15");
    put_checkpoint(&clouds[0], 3).await;
    put_checkpoint(&clouds[0], 45).await;
    assert!(refused().await.contains("the VACUUM of version 5"), "{}", refused().await);
    assert_eq!(count(&clouds, "VERSION AS OF 45").await, "15");
}

#[tokio::test]
async fn a_table_whose_checkpoint_removes_nothing_is_not_searched() {
    let clouds = History::good().store(1).await;
    put_checkpoint(&clouds[0], 3).await;
    // Nobody looks at what cannot matter: version 2 is not understood any more.
    clouds[0].data.put(&published_path(DATASET, 2), Bytes::from_static(b"{}").into()).await.unwrap();
    assert_eq!(count(&clouds, "VERSION AS OF 1").await, "8");
    // And of the checkpoint only its end is read, which says so.
    let path = checkpoint_path(DATASET, 3);
    let mut damaged = clouds[0].data.get(&path).await.unwrap().bytes().await.unwrap().to_vec();
    damaged[4..64].fill(0xff);
    clouds[0].data.put(&path, damaged.into()).await.unwrap();
    assert_eq!(count(&clouds, "VERSION AS OF 1").await, "8");
}
