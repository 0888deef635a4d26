//! A cloud that was away is filled from the others: with decided bytes, or not at all.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use isobar_connectors::clouds::Fault;
use isobar_connectors::delta::FileDigest;
use isobar_connectors::upload::{UploadHandle, UploadStatus};
use isobar_tests::delta::{latest_version, read_object, sha256};
use isobar_tests::lab::{Lab, LabCloud, uploads_to};
use isobar_tests::script::{Gate, Kind, Verdict};
use isobar_tests::wait::{in_time, until};
use isobar_topologies::commit::chain::NewFile;
use isobar_topologies::commit::{Group, Leader, Staged};
use object_store::ObjectStoreExt;
use object_store::path::Path;
use serde_json::Value as Json;

use crate::leader::{TABLE, TOPOLOGY, begun, control_records, lead, must_commit, reading, wait_published};

/// The cloud that was away.
const AWAY: usize = 2;

fn version_path(version: u64) -> Path {
    Path::from(format!("datasets/{TABLE}/_delta_log/{version:020}.json"))
}

async fn version_in(cloud: &LabCloud, version: u64) -> Bytes {
    read_object(&*cloud.store(), &version_path(version)).await
}

/// Versions up to `newest` are in two clouds, 0 and 1 in the third, which is back; nobody leads.
async fn behind(newest: u64) -> Lab {
    let (lab, mut leader) = begun(10).await;
    wait_published(&lab, 1).await;
    lab.clouds[AWAY].switch.set(Fault::RefuseAll);
    for start in (1..newest as i64).map(|version| 10 * version) {
        must_commit(&mut leader, reading(start, start + 10)).await;
    }
    until("the others have every version", async || {
        lab.versions(TABLE).await.iter().filter(|version| **version == Some(newest)).count() == 2
    })
    .await;
    drop(leader);
    lab.clouds[AWAY].switch.set(Fault::Off);
    lab
}

/// Another body that parses and names the same version before it.
async fn rewrite(cloud: &LabCloud, version: u64) {
    let text = String::from_utf8(version_in(cloud, version).await.to_vec()).unwrap();
    let rewritten = text.replace("\"timestamp\":1", "\"timestamp\":2");
    assert_ne!(rewritten, text);
    cloud.store().put(&version_path(version), rewritten.into()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cloud_is_filled_with_decided_bytes_only_whatever_the_first_source_holds() {
    let lab = behind(5).await;
    // The cloud that is asked first holds others, in the middle, where its own lane does not look.
    rewrite(&lab.clouds[0], 3).await;
    let mut leader = lead(&lab.opened()).await.unwrap();
    until("the cloud is filled", async || latest_version(&*lab.clouds[AWAY].store(), TABLE).await == Some(5))
        .await;
    for version in 0..=5 {
        let (filled, decided) =
            (version_in(&lab.clouds[AWAY], version).await, version_in(&lab.clouds[1], version).await);
        assert_eq!(filled, decided, "version {version}");
    }
    must_commit(&mut leader, reading(50, 60)).await;
    wait_published(&lab, 6).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cloud_whose_last_version_is_foreign_is_set_aside_and_not_filled() {
    let lab = behind(5).await;
    rewrite(&lab.clouds[AWAY], 1).await;
    let mut leader = lead(&lab.opened()).await.unwrap();
    let watch = leader.watch();
    until("the cloud is set aside", async || {
        watch.progress().clouds[AWAY].set_aside.as_ref().is_some_and(|why| why.contains(TABLE))
    })
    .await;
    assert_eq!(latest_version(&*lab.clouds[AWAY].store(), TABLE).await, Some(1));
    must_commit(&mut leader, reading(50, 60)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_the_leader_no_longer_keeps_come_only_as_it_proposed_them() {
    let (lab, mut leader) = begun(10).await;
    wait_published(&lab, 1).await;
    lab.clouds[AWAY].switch.set(Fault::RefuseAll);
    for start in (10..610).step_by(10) {
        must_commit(&mut leader, reading(start, start + 10)).await;
    }
    // The cloud that is asked first holds another record, which parses as well.
    let log = format!("control/{TOPOLOGY}/log/{:020}/", leader.epoch().0);
    let (store, path) = (lab.clouds[0].store(), Path::from(format!("{log}{:020}", 5)));
    let mut record: Json = serde_json::from_slice(&read_object(&*store, &path).await).unwrap();
    record["timestamp_ms"] = 1.into();
    store.put(&path, format!("{record}\n").into()).await.unwrap();

    lab.clouds[AWAY].switch.set(Fault::Off);
    wait_published(&lab, 61).await;
    let (filled, decided) =
        (control_records(&*lab.clouds[AWAY].store()).await, control_records(&*lab.clouds[1].store()).await);
    let of_epoch = |path: &&String| path.starts_with(&log);
    // The header, the table, its first rows, and sixty commits.
    assert_eq!(filled.keys().filter(of_epoch).count(), 63);
    assert!(filled.iter().all(|(path, record)| decided.get(path) == Some(record)));
}

/// How often each version was read in the clouds that have it.
type Reads = Arc<Mutex<BTreeMap<u64, u32>>>;

/// Counts the reads of versions where they are to be copied from, and refuses those below `blocked`.
fn count_reads(lab: &Lab, blocked: Arc<AtomicU64>) -> Reads {
    let (reads, away) = (Reads::default(), lab.clouds[AWAY].name.clone());
    let (counted, folder) = (reads.clone(), format!("datasets/{TABLE}/_delta_log/"));
    lab.script.set(move |request| {
        let name = request.path.strip_prefix(&folder).and_then(|name| name.strip_suffix(".json"));
        let Some(version) = name.and_then(|name| name.parse().ok()) else { return Verdict::Pass };
        if request.kind != Kind::Read || request.cloud == away {
            return Verdict::Pass;
        }
        *counted.lock().unwrap().entry(version).or_default() += 1;
        if version < blocked.load(Ordering::Relaxed) { Verdict::Refuse } else { Verdict::Pass }
    });
    reads
}

/// A cloud may miss more than can be looked through in one epoch, and the next one has another head.
#[tokio::test(flavor = "multi_thread")]
async fn an_epoch_goes_on_filling_where_the_one_before_stopped() {
    let lab = behind(30).await;
    let blocked = Arc::new(AtomicU64::new(16));
    let reads = count_reads(&lab, blocked.clone());
    let clouds = lab.opened();
    let uploads = uploads_to(&clouds);
    let group = Group::new(TOPOLOGY, clouds);
    let leader = Leader::start(&group, uploads);
    let mut leader = in_time("a take-over", leader).await.unwrap();
    // As far as the way down is free; then again, in an epoch with a later head.
    for start in [300, 310] {
        let tried = reads.lock().unwrap().get(&15).copied().unwrap_or_default();
        until("the way down is tried", async || reads.lock().unwrap().get(&15).copied() > Some(tried)).await;
        must_commit(&mut leader, reading(start, start + 10)).await;
        leader = in_time("a renewal", leader.renew(&group)).await.unwrap();
    }
    blocked.store(0, Ordering::Relaxed);
    wait_published(&lab, 32).await;
    let reads = reads.lock().unwrap();
    // Once for its hash, and once to be copied.
    let often: Vec<_> =
        reads.iter().filter(|(version, reads)| (17..=29).contains(*version) && **reads > 2).collect();
    assert!(often.is_empty(), "read again in a later epoch: {often:?}");
}

fn file_path(start: i64) -> Path {
    Path::from(format!("datasets/{TABLE}/{start}.parquet"))
}

/// Reads the records `[start, start + 10)` into a file of 900 bytes that is in every cloud but the one that is away.
async fn with_file(lab: &Lab, start: i64) -> Staged {
    let (path, bytes) = (file_path(start), Bytes::from(vec![b'x'; 900]));
    let mut staged = reading(start, start + 10);
    let table = &mut staged.proposal.tables[0];
    (table.rows.output, table.rows.filtered) = (table.rows.filtered, 0);
    let name = path.filename().unwrap().to_owned();
    table.files.push(NewFile {
        digest: FileDigest { path: name, size: bytes.len() as u64, sha256: sha256(&bytes), rows: 10 },
        partition_values: BTreeMap::new(),
        stats: "{\"numRecords\":10}".to_owned(),
    });
    let mut handles = Vec::new();
    for (index, cloud) in lab.clouds.iter().enumerate() {
        let handle = UploadHandle::new(cloud.name.as_str().into());
        if index == AWAY {
            handle.give_up("it is away");
        } else {
            cloud.store().put(&path, bytes.clone().into()).await.unwrap();
            handle.settle(UploadStatus::Done);
        }
        handles.push(handle);
    }
    staged.uploads = vec![(path.to_string(), handles)];
    staged
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cloud_is_filled_as_slowly_as_is_set_and_at_once_when_it_is_needed() {
    let (lab, leader) = begun(10).await;
    wait_published(&lab, 1).await;
    drop(leader);
    let clouds = lab.opened();
    let uploads = uploads_to(&clouds);
    let mut group = Group::new(TOPOLOGY, clouds);
    group.fill_bytes_per_second = Some(1);
    let leader = Leader::start(&group, uploads);
    let mut leader = in_time("a take-over", leader).await.unwrap();
    must_commit(&mut leader, reading(10, 20)).await;
    wait_published(&lab, 2).await;
    lab.clouds[AWAY].switch.set(Fault::RefuseAll);
    for start in [20, 30, 40] {
        let staged = with_file(&lab, start).await;
        must_commit(&mut leader, staged).await;
    }
    lab.clouds[AWAY].switch.set(Fault::Off);
    let away = lab.clouds[AWAY].store();
    until("the first file is there", async || latest_version(&*away, TABLE).await == Some(3)).await;
    // The second one waits a quarter of an hour for the first, and nobody waits for it.
    must_commit(&mut leader, reading(50, 60)).await;
    assert!(away.head(&file_path(30)).await.is_err());

    lab.clouds[0].switch.set(Fault::RefuseAll);
    must_commit(&mut leader, reading(60, 70)).await;
    for start in [20, 30, 40] {
        assert_eq!(away.head(&file_path(start)).await.unwrap().size, 900);
    }
    lab.clouds[0].switch.set(Fault::Off);
    wait_published(&lab, 7).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_decided_records_are_copied_ahead_and_the_records_come_in_order() {
    let (lab, mut leader) = begun(10).await;
    wait_published(&lab, 1).await;
    lab.clouds[AWAY].switch.set(Fault::RefuseAll);
    for start in [10, 20, 30, 40, 50, 60] {
        let staged = with_file(&lab, start).await;
        must_commit(&mut leader, staged).await;
    }
    let decided = control_records(&*lab.clouds[1].store()).await;
    // With the first record the cloud is back; the file of the second one does not get there.
    let (gate, held, cloud) = (Arc::new(Gate::default()), file_path(20), lab.clouds[AWAY].name.clone());
    let opened = gate.clone();
    lab.script.set(move |request| {
        let is_held = request.kind == Kind::Write && request.cloud == cloud && request.path == held.as_ref();
        if is_held { Verdict::Wait(gate.clone()) } else { Verdict::Pass }
    });
    lab.clouds[AWAY].switch.set(Fault::Off);
    let away = lab.clouds[AWAY].store();
    until("the files after it are there", async || {
        let mut found = 0;
        for start in [30, 40, 50, 60] {
            found += usize::from(away.head(&file_path(start)).await.is_ok());
        }
        found == 4
    })
    .await;
    assert!(away.head(&file_path(20)).await.is_err());
    assert!(latest_version(&*away, TABLE).await <= Some(2));
    let stored = control_records(&*away).await;
    assert_eq!(decided.len() - stored.len(), 5, "none of the five records was stored before its turn");
    opened.open();
    wait_published(&lab, 7).await;
    lab.script.clear();
    assert_eq!(control_records(&*away).await, decided);
}
