//! Compaction and vacuum beside a pipeline that goes on: the same rows in fewer files, equal in every cloud, whatever is
//! away, dies or was superseded meanwhile.

use std::collections::BTreeMap;

use isobar_connectors::clouds::Fault;
use isobar_connectors::delta::FileDigest;
use isobar_connectors::failpoint::{self, Failpoint};
use isobar_connectors::upload::{UploadHandle, UploadStatus};
use isobar_tests::delta::{Log, Table};
use isobar_tests::events::{self, FEATURES, Generator, TOPIC, Value, maintained_features};
use isobar_tests::kill::kill_a_long_run;
use isobar_tests::lab::{CLOUDS, Lab, LabCloud, Spec};
use isobar_tests::prng::Seed;
use isobar_tests::program::run_isobar;
use isobar_tests::wait::{in_time, until};
use isobar_topologies::Error;
use isobar_topologies::commit::chain::NewFile;
use isobar_topologies::commit::{
    Change, CommitOutcome, Leader, Proposal, Refusal, RemovedFile, Staged, Upkeep,
};
use isobar_topologies::scrub::{ScrubOptions, scrub_topology};
use object_store::{ObjectStoreExt, PutPayload};

use crate::leader::{TABLE, begun, lead, must_commit, reading, wait_published};

/// Four files are enough, and nothing is deleted.
const COMPACT: &str = "{ compact: { min_files: 4 } }";
/// Four files are enough, and only the version before the newest one is kept.
const VACUUM: &str = "{ compact: { min_files: 4 }, keep_versions: 1 }";

/// Records that become a small file of their own.
pub(crate) const FILE_RECORDS: usize = 40;

pub(crate) fn spec(lab: &Lab, maintenance: &str) -> Spec {
    lab.spec(events::SOURCE, &maintained_features(maintenance))
}

pub(crate) async fn log(cloud: &LabCloud) -> Log {
    Log::read(&*cloud.store(), FEATURES).await
}

pub(crate) fn entries(log: &Log, operation: &str) -> usize {
    log.versions.iter().filter(|version| version.info()["operation"] == operation).count()
}

/// Whether an object of the dataset, by its path in the log, is in a cloud.
async fn is_there(cloud: &LabCloud, log: &Log, path: &str) -> bool {
    cloud.store().head(&log.object_path(path)).await.is_ok()
}

/// In every cloud a VACUUM is published, and none of the files that the last one lets go is there.
pub(crate) async fn is_vacuumed(lab: &Lab) -> bool {
    for cloud in &lab.clouds {
        let log = log(cloud).await;
        let files = log.vacuumed_files();
        if files.is_empty() {
            return false;
        }
        for path in &files {
            if is_there(cloud, &log, path).await {
                return false;
            }
        }
    }
    true
}

/// Within every file, the rows of a Kafka partition are in the order of their offsets.
fn assert_in_order(table: &Table) {
    for file in &table.files {
        let mut last = BTreeMap::new();
        for row in &file.rows {
            let (Value::Int(partition), Value::Int(offset)) = (&row["kafka_partition"], &row["kafka_offset"])
            else {
                panic!("a row has a position: {row:?}");
            };
            let before = last.insert(*partition, *offset);
            assert!(before.is_none_or(|before| before < *offset), "{}: {before:?}, {offset}", file.path);
        }
    }
}

/// Everything is there, and in the order of its offsets.
async fn assert_right(lab: &Lab) {
    lab.assert_whole().await;
    for cloud in &lab.clouds {
        assert_in_order(&lab.tables(cloud, FEATURES).await.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_small_commits_become_few_files_with_the_same_rows() {
    let lab = Lab::in_directories();
    let mut records = Generator::mixed(Seed::of("compaction").prng());
    let topology = spec(&lab, COMPACT).resolved();
    let running = lab.start(&topology);
    running.ready().await;
    until("small files were combined twice", async || {
        lab.commit(&running, &mut records, FILE_RECORDS).await;
        entries(&log(&lab.clouds[0]).await, "OPTIMIZE") >= 2
    })
    .await;
    lab.wait_until_equal(FEATURES).await;
    running.stop().await.unwrap();
    let log = log(&lab.clouds[0]).await;
    let (files, commits) = (log.live_files().len(), entries(&log, "WRITE"));
    assert!(files < commits, "{files} files of {commits} commits");
    assert!(log.vacuumed_files().is_empty());
    // What was removed stays where it is: every version can still be read.
    for version in &log.versions {
        for remove in version.actions("remove") {
            for cloud in &lab.clouds {
                assert!(is_there(cloud, &log, remove["path"].as_str().unwrap()).await);
            }
        }
    }
    assert_right(&lab).await;
    let report = scrub_topology(&topology, &ScrubOptions::default()).await.unwrap();
    assert!(report.well, "{report:?}");
    // The next run goes on behind maintenance.
    lab.produce(TOPIC, records.records(200));
    lab.run_until_caught_up(&topology).await.unwrap();
    assert_right(&lab).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_deleted_while_a_cloud_is_away_and_it_becomes_equal_when_it_is_back() {
    let lab = Lab::in_directories();
    let mut records = Generator::mixed(Seed::of("vacuum").prng());
    let topology = spec(&lab, VACUUM).resolved();
    let running = lab.start(&topology);
    running.ready().await;
    lab.commit(&running, &mut records, FILE_RECORDS).await;
    lab.cloud("azure").switch.set(Fault::RefuseAll);
    until("a vacuum is decided without azure", async || {
        lab.commit(&running, &mut records, FILE_RECORDS).await;
        entries(&log(lab.cloud("aws")).await, "VACUUM") >= 1
    })
    .await;
    let log = log(lab.cloud("aws")).await;
    let files = log.vacuumed_files();
    assert!(!files.is_empty());
    for path in &files {
        for cloud in ["aws", "gcp"] {
            assert!(is_there(lab.cloud(cloud), &log, path).await, "azure may still need {path}");
        }
    }
    lab.cloud("azure").switch.set(Fault::Off);
    until("the files are deleted in every cloud", async || {
        lab.commit(&running, &mut records, FILE_RECORDS).await;
        is_vacuumed(&lab).await
    })
    .await;
    lab.wait_until_equal(FEATURES).await;
    until("it is counted", async || running.metrics.render().contains("isobar_vacuumed_files_total")).await;
    running.stop().await.unwrap();
    assert_right(&lab).await;
    let report = scrub_topology(&topology, &ScrubOptions::default()).await.unwrap();
    assert!(report.well, "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cloud_that_lost_everything_is_rebuilt_without_the_files_that_were_let_go() {
    let lab = Lab::in_directories();
    let mut records = Generator::mixed(Seed::of("rebuilt").prng());
    let topology = spec(&lab, VACUUM).resolved();
    let running = lab.start(&topology);
    running.ready().await;
    until("files are deleted in every cloud", async || {
        lab.commit(&running, &mut records, FILE_RECORDS).await;
        is_vacuumed(&lab).await
    })
    .await;
    lab.wait_until_equal(FEATURES).await;
    running.stop().await.unwrap();
    // A log that went back to its beginning, as after a restored folder, is filled by the lane of the next run.
    let folder = lab.cloud("gcp").folder.clone().unwrap();
    std::fs::remove_dir_all(folder.join("datasets")).unwrap();
    lab.produce(TOPIC, records.records(100));
    lab.run_until_caught_up(&topology).await.unwrap();
    assert_right(&lab).await;
    // A cloud that is empty is rebuilt by a readmission.
    std::fs::remove_dir_all(&folder).unwrap();
    let spec = spec(&lab, VACUUM).written();
    let spec = spec.to_str().unwrap();
    run_isobar(&["scrub", spec, "--readmit", "gcp"]).await.assert(0, &[]);
    lab.produce(TOPIC, records.records(100));
    run_isobar(&["run", spec, "--until-caught-up"]).await.assert(0, &[]);
    assert_right(&lab).await;
}

async fn survives_a_kill(point: &'static Failpoint, cloud: &str) {
    let lab = Lab::in_directories();
    kill_a_long_run(&lab, &spec(&lab, VACUUM), point, cloud, async || is_vacuumed(&lab).await).await;
    assert_right(&lab).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_killed_in_maintenance_loses_nothing_and_the_next_one_finishes_it() {
    let points = failpoint::ALL.iter().filter(|point| point.name.starts_with("maintain."));
    for (number, point) in points.enumerate() {
        survives_a_kill(point, CLOUDS[number % CLOUDS.len()]).await;
    }
}

/// An upload that is done, to every cloud.
async fn uploaded(lab: &Lab, path: &str, bytes: &'static [u8]) -> Vec<(String, Vec<UploadHandle>)> {
    let mut handles = Vec::new();
    for cloud in &lab.clouds {
        let path = object_store::path::Path::from(path);
        cloud.opened().data.put(&path, PutPayload::from_static(bytes)).await.unwrap();
        let handle = UploadHandle::new(cloud.name.as_str().into());
        handle.settle(UploadStatus::Done);
        handles.push(handle);
    }
    vec![(path.to_owned(), handles)]
}

fn new_file(name: &str, bytes: &[u8], rows: u64) -> NewFile {
    let sha256 = isobar_tests::delta::sha256(bytes);
    NewFile {
        digest: FileDigest { path: name.to_owned(), size: bytes.len() as u64, sha256, rows },
        partition_values: BTreeMap::new(),
        stats: format!("{{\"numRecords\":{rows}}}"),
    }
}

fn compaction(after: u64, from: &NewFile, to: NewFile) -> Upkeep {
    let removed = RemovedFile {
        path: from.digest.path.clone(),
        size: from.digest.size,
        rows: from.digest.rows,
        partition_values: BTreeMap::new(),
    };
    let change = Change::Compact { removed: vec![removed], added: vec![to] };
    let commit_id = uuid::Uuid::new_v4().to_string();
    Upkeep { commit_id, dataset: TABLE.into(), plan: "cd".repeat(32), after, change }
}

async fn maintain(
    leader: &mut Leader,
    upkeep: &Upkeep,
    uploads: Vec<(String, Vec<UploadHandle>)>,
) -> Result<CommitOutcome, Error> {
    in_time("maintenance", leader.maintain(upkeep, uploads, 1_700_000_000_000)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn maintenance_of_a_superseded_leader_or_planned_on_an_older_state_is_refused() {
    let (lab, mut first) = begun(3).await;
    let file = new_file("a.parquet", b"three rows", 3);
    let object = |name: &str| format!("datasets/{TABLE}/{name}");
    let mut staged: Staged = reading(3, 6);
    add_file(&mut staged.proposal, &file);
    staged.uploads = uploaded(&lab, &object("a.parquet"), b"three rows").await;
    must_commit(&mut first, staged).await;

    let to = new_file("b.parquet", b"THREE ROWS", 3);
    let uploads = || uploaded(&lab, "datasets/events/b.parquet", b"THREE ROWS");
    let lost = compaction(0, &file, new_file("b.parquet", b"THREE ROWS", 2));
    let outcome = maintain(&mut first, &lost, uploads().await).await.unwrap();
    assert!(matches!(outcome, CommitOutcome::Stale(Refusal::DoesNotAddUp { .. })), "{outcome:?}");
    let planned = compaction(0, &file, to.clone());

    let mut second = lead(&lab.opened()).await.unwrap();
    let outcome = maintain(&mut first, &planned, uploads().await).await;
    assert!(matches!(outcome, Err(Error::Superseded { .. })), "{outcome:?}");
    let outcome = maintain(&mut second, &planned, uploads().await).await.unwrap();
    assert!(matches!(outcome, CommitOutcome::Committed { .. }), "{outcome:?}");
    let again = compaction(0, &to, new_file("c.parquet", b"three rows", 3));
    let outcome = maintain(&mut second, &again, Vec::new()).await.unwrap();
    let CommitOutcome::Stale(Refusal::Overtaken { after, chain, .. }) = outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!((after, chain), (0, 3));
    must_commit(&mut second, reading(6, 9)).await;
    wait_published(&lab, 4).await;

    // A later leader takes the fence over with the chain.
    let mut third = lead(&lab.opened()).await.unwrap();
    assert_eq!(third.chain().tables[TABLE].maintained, 3);
    let outcome = maintain(&mut third, &again, Vec::new()).await.unwrap();
    assert!(matches!(outcome, CommitOutcome::Stale(Refusal::Overtaken { .. })), "{outcome:?}");
    let log = Log::read(&*lab.clouds[0].store(), TABLE).await;
    assert_eq!(log.problems(), [""; 0]);
    assert_eq!(log.live_files().into_keys().collect::<Vec<_>>(), ["b.parquet"]);
}

/// The records that were left out of the table are in it after all, in `file`.
fn add_file(proposal: &mut Proposal, file: &NewFile) {
    let table = &mut proposal.tables[0];
    table.rows.output = table.rows.filtered;
    table.rows.filtered = 0;
    table.files.push(file.clone());
}
