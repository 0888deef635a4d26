//! A cloud that was away is filled from the others: with decided bytes, or not at all.

use bytes::Bytes;
use isobar_connectors::clouds::Fault;
use isobar_tests::delta::{latest_version, read_object};
use isobar_tests::lab::{Lab, LabCloud};
use isobar_tests::wait::until;
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

/// Versions 0 to 5 are in two clouds, 0 and 1 in the third, which is back; nobody leads.
async fn behind() -> Lab {
    let (lab, mut leader) = begun(10).await;
    wait_published(&lab, 1).await;
    lab.clouds[AWAY].switch.set(Fault::RefuseAll);
    for start in [10, 20, 30, 40] {
        must_commit(&mut leader, reading(start, start + 10)).await;
    }
    until("the others have every version", async || {
        lab.versions(TABLE).await.iter().filter(|version| **version == Some(5)).count() == 2
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
    let lab = behind().await;
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
    let lab = behind().await;
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
