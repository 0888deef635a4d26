//! Versions of the past: every one of them has the rows that an independent reader finds at it, in every cloud, by number and by
//! time; unless a vacuum let go of its files, which is said before any of them is read.

use std::path::{Path, PathBuf};

use isobar_connectors::clouds::{Cloud, Fault};
use isobar_tests::delta::Log;
use isobar_tests::events::{FEATURES, Generator};
use isobar_tests::lab::Lab;
use isobar_tests::prng::Seed;
use isobar_tests::program::{Output, run_isobar};
use isobar_tests::services::oracle;
use isobar_tests::wait::until;
use isobar_topologies::Error;
use isobar_topologies::query::{RowsFormat, catalog_in, diff_in, snapshots_in};
use isobar_topologies::spec::Topology;
use serde_json::Value as Json;

use crate::maintenance::{FILE_RECORDS, entries, is_vacuumed, log, spec};

/// Four files are enough to combine them; nothing is deleted, and every fifth version has a checkpoint.
const COMPACT: &str = "{ compact: { min_files: 4 }, checkpoint_every: 5 }";
/// The same, and only the version before the newest one is kept.
const VACUUM: &str = "{ compact: { min_files: 4 }, keep_versions: 1, checkpoint_every: 5 }";

/// A table with several commits and whatever `done` waits for, the same in every cloud.
async fn committed(
    seed: &'static str,
    maintenance: &str,
    done: impl AsyncFn(&Lab) -> bool,
) -> (Lab, Topology) {
    let lab = Lab::in_directories();
    let mut records = Generator::mixed(Seed::of(seed).prng());
    let topology = spec(&lab, maintenance).resolved();
    let running = lab.start(&topology);
    running.ready().await;
    until("the table has the history that the test is about", async || {
        lab.commit(&running, &mut records, FILE_RECORDS).await;
        done(&lab).await
    })
    .await;
    lab.wait_until_equal(FEATURES).await;
    running.stop().await.unwrap();
    (lab, topology)
}

/// All bytes of an answer.
async fn answer(
    topology: &Topology,
    clouds: &[Cloud],
    sql: &str,
    format: RowsFormat,
) -> Result<Vec<u8>, Error> {
    let mut answer = catalog_in(topology, clouds)?.query(sql).await?;
    let mut bytes = Vec::new();
    while let Some(piece) = answer.next_bytes(format).await? {
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

/// All rows of a version, in the order of their positions.
fn rows_at(version: u64) -> String {
    format!("SELECT * FROM features VERSION AS OF {version} ORDER BY kafka_partition, kafka_offset")
}

/// The log up to and with a version.
fn up_to(log: &Log, version: u64) -> Log {
    let versions = log.versions.iter().filter(|other| other.number <= version).cloned().collect();
    Log { dataset: log.dataset.clone(), versions }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_version_is_what_an_independent_reader_finds_at_it_in_every_cloud() {
    let (lab, topology) = committed("versions", COMPACT, async |lab: &Lab| {
        entries(&log(&lab.clouds[0]).await, "OPTIMIZE") >= 2
    })
    .await;
    let log = log(&lab.clouds[0]).await;
    let newest = log.versions.last().unwrap().number;
    let mut files: Vec<(u64, PathBuf)> = Vec::new();
    for version in 0..=newest {
        let mut first: Option<Vec<u8>> = None;
        for cloud in &lab.clouds {
            let bytes = answer(&topology, &[cloud.opened()], &rows_at(version), RowsFormat::Parquet).await;
            let bytes = bytes.unwrap_or_else(|error| panic!("version {version} in {}: {error}", cloud.name));
            // The rows and their order are the same, so the file is.
            assert!(*first.get_or_insert(bytes.clone()) == bytes, "version {version} in {}", cloud.name);
        }
        let file = lab.directory.path().join(format!("{version}.parquet"));
        std::fs::write(&file, first.unwrap()).unwrap();
        files.push((version, file));
    }
    let at = |(version, file): &(u64, PathBuf)| format!("{version}={}", text(file));
    // An empty table has no rows to compare.
    let named: Vec<String> = files.iter().skip(1).map(at).collect();
    for cloud in &lab.clouds {
        let table = cloud.folder.as_ref().unwrap().join("datasets").join(FEATURES);
        let mut arguments = vec!["versions", text(&table)];
        arguments.extend(named.iter().flat_map(|at| ["--at", at.as_str()]));
        oracle(&arguments).await.assert(0, &[]);
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("paths of tests are UTF-8")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_means_the_same_version_in_every_cloud_and_a_cloud_that_is_away_none() {
    let (lab, topology) =
        committed("times", COMPACT, async |lab: &Lab| entries(&log(&lab.clouds[0]).await, "OPTIMIZE") >= 1)
            .await;
    let log = log(&lab.clouds[0]).await;
    let pinned = async |clouds: &[Cloud], ms: i64| -> Result<(u64, String), Error> {
        let time = chrono::DateTime::from_timestamp_millis(ms).unwrap().to_rfc3339();
        let sql = format!("SELECT count(*) AS n FROM features TIMESTAMP AS OF '{time}'");
        let answer = catalog_in(&topology, clouds)?.query(&sql).await?;
        let from = answer.from().first().expect("the query reads a table");
        Ok((from.version, from.cloud.clone()))
    };
    for version in &log.versions {
        let committed_ms = version.info()["inCommitTimestamp"].as_i64().unwrap();
        for cloud in &lab.clouds {
            let clouds = [cloud.opened()];
            let at = pinned(&clouds, committed_ms).await.unwrap();
            assert_eq!(at, (version.number, cloud.name.clone()), "at {committed_ms}");
            match (pinned(&clouds, committed_ms - 1).await, version.number.checked_sub(1)) {
                (Ok((before, _)), Some(expected)) => assert_eq!(before, expected),
                (Err(error), None) => assert!(error.to_string().contains("begins with version 0"), "{error}"),
                (found, expected) => panic!("{found:?} before version {}, not {expected:?}", version.number),
            }
        }
    }
    // The first cloud is away: the next one has the same answer.
    lab.cloud("aws").switch.set(Fault::RefuseAll);
    let newest = log.versions.last().unwrap();
    let committed_ms = newest.info()["inCommitTimestamp"].as_i64().unwrap();
    let at = pinned(&lab.opened(), committed_ms).await.unwrap();
    assert_eq!(at, (newest.number, "azure".to_owned()));
    let missing = newest.number + 1;
    let error = answer(&topology, &lab.opened(), &rows_at(missing), RowsFormat::Csv).await.unwrap_err();
    assert_eq!(error.exit_code(), 1, "aws might have it: {error}");
    lab.cloud("aws").switch.set(Fault::Off);
    let error = answer(&topology, &lab.opened(), &rows_at(missing), RowsFormat::Csv).await.unwrap_err();
    assert_eq!(error.exit_code(), 2, "{error}");
    assert!(error.to_string().contains(&format!("there is 0 to {}", newest.number)), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_is_read_whole_or_refused_with_the_oldest_that_is_left() {
    let (lab, topology) = committed("let go", VACUUM, is_vacuumed).await;
    let log = log(&lab.clouds[0]).await;
    let newest = log.versions.last().unwrap().number;
    let gone = log.vacuumed_files();
    let snapshots = snapshots_in(&topology, &[lab.clouds[0].opened()], FEATURES, 100_000).await.unwrap();
    let (mut refused, mut read) = (0, 0);
    for version in 0..=newest {
        let at = up_to(&log, version);
        let live = at.live_files();
        let is_let_go = live.keys().any(|path| gone.contains(path));
        for cloud in &lab.clouds {
            let sql = rows_at(version);
            let rows = answer(&topology, &[cloud.opened()], &sql, RowsFormat::Json).await;
            match rows {
                Err(error) if is_let_go => {
                    assert_eq!(error.exit_code(), 2);
                    let error = error.to_string();
                    assert!(error.contains(&format!("version {version} of features can no longer be read")));
                    assert!(error.contains("VACUUM") && error.contains(&format!("to {newest} can be read")));
                    refused += 1;
                }
                Ok(rows) if !is_let_go => {
                    let rows: Vec<Json> = serde_json::from_slice(&rows).unwrap();
                    let stats = live.values().map(|add| {
                        let stats: Json = serde_json::from_str(add["stats"].as_str().unwrap()).unwrap();
                        stats["numRecords"].as_u64().unwrap()
                    });
                    assert_eq!(rows.len() as u64, stats.sum::<u64>(), "version {version} in {}", cloud.name);
                    read += 1;
                }
                other => panic!("version {version} in {}: {is_let_go}, {other:?}", cloud.name),
            }
        }
        let listed = snapshots.versions.iter().find(|listed| listed.version == version).unwrap();
        assert!(!(listed.readable && is_let_go), "version {version} is listed as readable");
    }
    assert!(refused > 0 && read > 0, "{refused} refused, {read} read");
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_are_listed_and_compared_alike_in_every_cloud() {
    let (lab, topology) =
        committed("listed", COMPACT, async |lab: &Lab| entries(&log(&lab.clouds[0]).await, "OPTIMIZE") >= 1)
            .await;
    let log = log(&lab.clouds[0]).await;
    let newest = log.versions.last().unwrap().number;
    let mut listings = Vec::new();
    let mut diffs = Vec::new();
    for cloud in &lab.clouds {
        let clouds = [cloud.opened()];
        let mut listed = snapshots_in(&topology, &clouds, FEATURES, 100_000).await.unwrap();
        assert_eq!(std::mem::take(&mut listed.cloud), cloud.name);
        listings.push(listed);
        let mut diff = diff_in(&topology, &clouds, FEATURES, 1, newest).await.unwrap();
        assert_eq!(std::mem::take(&mut diff.cloud), cloud.name);
        diffs.push(diff);
    }
    assert!(listings.windows(2).all(|pair| pair[0] == pair[1]));
    assert!(diffs.windows(2).all(|pair| pair[0] == pair[1]));
    let (listing, diff) = (&listings[0], &diffs[0]);
    assert_eq!(listing.versions.len() as u64, newest + 1);
    for (listed, version) in listing.versions.iter().rev().zip(&log.versions) {
        assert_eq!(listed.version, version.number);
        assert_eq!(listed.sha256, isobar_tests::delta::sha256(&version.bytes));
        let live: u64 = up_to(&log, version.number)
            .live_files()
            .values()
            .map(|add| {
                let stats: Json = serde_json::from_str(add["stats"].as_str().unwrap()).unwrap();
                stats["numRecords"].as_u64().unwrap()
            })
            .sum();
        assert_eq!(listed.rows_total, Some(live), "version {}", version.number);
    }
    let (first, last) = (up_to(&log, 1), up_to(&log, newest));
    let (before, after) = (first.live_files(), last.live_files());
    assert_eq!(diff.files_added.len(), after.keys().filter(|path| !before.contains_key(*path)).count());
    assert_eq!(diff.files_removed.len(), before.keys().filter(|path| !after.contains_key(*path)).count());
    let (from, to) = (diff.from.rows.unwrap(), diff.to.rows.unwrap());
    assert_eq!(from + diff.rows_added.unwrap() - diff.rows_removed.unwrap(), to);
    assert!(diff.rows_moved > 0);
}

fn json(output: &Output) -> Json {
    serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}\n{output}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_reads_lists_and_compares_versions() {
    let (lab, _) =
        committed("program", COMPACT, async |lab: &Lab| log(&lab.clouds[0]).await.versions.len() > 3).await;
    let spec = spec(&lab, COMPACT).written();
    let (spec, log) = (text(&spec), log(&lab.clouds[0]).await);
    let newest = log.versions.last().unwrap().number;
    let output = run_isobar(&["snapshots", spec, FEATURES, "--limit", "2"]).await;
    output.assert(0, &["VERSION", "commit", "earlier versions"]);
    let output = run_isobar(&["snapshots", spec, "features.quarantine", "--format", "json"]).await;
    output.assert(0, &[]);
    assert_eq!(json(&output)["table"], "features.quarantine");
    let output = run_isobar(&["snapshots", spec, FEATURES, "--format", "json"]).await;
    let listed = json(&output);
    assert_eq!(listed["versions"][0]["version"], newest);
    run_isobar(&["snapshots", spec, "featurse"]).await.assert(2, &["it has features"]);

    let output = run_isobar(&["diff", spec, FEATURES, "1", "2", "--rows", "--format", "json"]).await;
    output.assert(0, &[]);
    let diff = json(&output);
    let rows = diff["rows"].as_array().unwrap();
    assert_eq!(rows.len() as u64, diff["rows_added"].as_u64().unwrap());
    assert!(rows.iter().all(|row| row["difference"] == 1), "{diff:#}");
    run_isobar(&["diff", spec, FEATURES, "1", "2", "--rows", "--limit", "1"])
        .await
        .assert(0, &["rows in", "offsets", "difference"]);
    run_isobar(&["diff", spec, FEATURES, "2", "1"]).await.assert(2, &["earlier version first"]);

    let file = lab.directory.path().join("rows.parquet");
    let sql = "SELECT * FROM features VERSION AS OF 2";
    run_isobar(&["query", sql, "-c", spec, "--output", text(&file)]).await.assert(0, &[]);
    let table = lab.cloud("gcp").folder.as_ref().unwrap().join("datasets").join(FEATURES);
    oracle(&["versions", text(&table), "--at", &format!("2={}", text(&file))]).await.assert(0, &[]);
    // Nothing replaces a file but a whole answer.
    let before = std::fs::read(&file).unwrap();
    let failing = "SELECT 1 / (id - id) FROM features VERSION AS OF 2";
    run_isobar(&["query", failing, "-c", spec, "--output", text(&file)]).await.assert(2, &["zero"]);
    assert_eq!(std::fs::read(&file).unwrap(), before);
    let left = std::fs::read_dir(lab.directory.path()).unwrap();
    let aside = left
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with(".isobar-query-"));
    assert_eq!(aside.count(), 0);
    let nameless = lab.directory.path().join("rows");
    run_isobar(&["query", sql, "-c", spec, "-o", text(&nameless)]).await.assert(2, &["--format"]);
    let explain = "EXPLAIN ANALYZE SELECT count(id) FROM features VERSION AS OF 2";
    run_isobar(&["query", explain, "-c", spec]).await.assert(0, &["Plan with Metrics", "output_rows"]);
    let missing = format!("SELECT * FROM features VERSION AS OF {}", newest + 1);
    let there = format!("there is 0 to {newest}");
    run_isobar(&["query", &missing, "-c", spec]).await.assert(2, &[&there]);
}
