//! Checkpoints of a leader: the same bytes in every cloud, after the versions they hold, whatever is away, dies or was
//! superseded meanwhile; and a reader that has nothing else reads the same table. One test needs Python.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use bytes::Bytes;
use futures::TryStreamExt;
use isobar_connectors::checkpoint::write_checkpoint;
use isobar_connectors::clouds::Fault;
use isobar_connectors::failpoint::{self, Failpoint};
use isobar_connectors::upload::{UploadHandle, UploadStatus};
use isobar_tests::delta::{Log, latest_version, read_object, sha256};
use isobar_tests::events::{self, FEATURES, Generator, maintained_features};
use isobar_tests::kill::kill_a_long_run;
use isobar_tests::lab::{CLOUDS, Lab, LabCloud, Running, Spec};
use isobar_tests::prng::Seed;
use isobar_tests::program::run_isobar;
use isobar_tests::services::{counts, oracle};
use isobar_tests::trees::copy_folder;
use isobar_tests::wait::{in_time, until};
use isobar_topologies::Error;
use isobar_topologies::commit::format::{
    CheckpointRef, checkpoint_path, checkpoint_version, last_checkpoint_path, published_path,
};
use isobar_topologies::commit::{CheckpointProposal, CommitOutcome, Group, Leader};
use isobar_topologies::scrub::{Kind, Outcome, ScrubOptions, scrub, scrub_topology};
use object_store::path::Path;
use object_store::{ObjectStoreExt, PutPayload};
use serde_json::Value as Json;

use crate::leader::{self, TABLE, begun, lead, must_commit, reading, wait_published};

/// Every third version has a checkpoint, and nothing else is maintained.
const EVERY_THIRD: &str = "{ compact: { enabled: false }, checkpoint_every: 3 }";
/// Records that become a version of their own.
const VERSION_RECORDS: usize = 40;
/// The cloud that is away.
const AWAY: usize = 2;

pub(crate) fn spec(lab: &Lab) -> Spec {
    lab.spec(events::SOURCE, &maintained_features(EVERY_THIRD))
}

/// An object, `None` where there is none.
async fn object(cloud: &LabCloud, path: &Path) -> Option<Bytes> {
    match cloud.store().head(path).await {
        Ok(_) => Some(read_object(&*cloud.store(), path).await),
        Err(_) => None,
    }
}

/// The version that `_last_checkpoint` names.
async fn last_checkpoint(cloud: &LabCloud, table: &str) -> Option<u64> {
    let hint = object(cloud, &last_checkpoint_path(table)).await?;
    let hint: Json = serde_json::from_slice(&hint).expect("isobar writes JSON");
    hint["version"].as_u64()
}

/// The versions of the dataset of which a cloud has checkpoints.
async fn checkpoints_in(cloud: &LabCloud) -> BTreeSet<u64> {
    let log = Path::from(format!("datasets/{FEATURES}/_delta_log"));
    let store = cloud.store();
    let listed: Vec<_> = store.list(Some(&log)).try_collect().await.expect("a log can be listed");
    listed.iter().filter_map(|object| checkpoint_version(&object.location)).collect()
}

/// Waits until no cloud has more than the newest checkpoint of the dataset and the one before it.
async fn cleaned_up(lab: &Lab) {
    until("every cloud has two checkpoints at most", async || {
        for cloud in &lab.clouds {
            let held = checkpoints_in(cloud).await;
            if held.len() > 2 || held.last().copied() != last_checkpoint(cloud, FEATURES).await {
                return false;
            }
        }
        true
    })
    .await;
}

/// Waits until the newest checkpoint of `table`, at least of `version`, is the same in every cloud; its version.
pub(crate) async fn mirrored(lab: &Lab, table: &str, version: u64) -> u64 {
    let mut newest = None;
    until("every cloud has the newest checkpoint", async || {
        newest = last_checkpoint(&lab.clouds[0], table).await;
        for cloud in &lab.clouds {
            if newest < Some(version) || last_checkpoint(cloud, table).await != newest {
                return false;
            }
        }
        true
    })
    .await;
    let newest = newest.unwrap();
    assert_mirrored(lab, table, newest).await;
    newest
}

/// The checkpoint of `version` and `_last_checkpoint` have the same bytes everywhere, and the one says the size of the
/// other.
async fn assert_mirrored(lab: &Lab, table: &str, version: u64) {
    let mut held = Vec::new();
    for cloud in &lab.clouds {
        let checkpoint = object(cloud, &checkpoint_path(table, version)).await.unwrap();
        let hint = object(cloud, &last_checkpoint_path(table)).await.unwrap();
        let stated: Json = serde_json::from_slice(&hint).unwrap();
        assert_eq!(stated["sizeInBytes"], checkpoint.len(), "{}", cloud.name);
        held.push((sha256(&checkpoint), hint));
    }
    assert!(held.iter().all(|other| *other == held[0]), "{held:?}");
}

/// The dataset's folder in a cloud.
fn folder_of(cloud: &LabCloud) -> PathBuf {
    cloud.folder.as_ref().expect("the lab is in directories").join("datasets").join(FEATURES)
}

/// Whether dataset and quarantine have the checkpoint that is due by their newest version, in every cloud.
async fn has_all_checkpoints(lab: &Lab) -> bool {
    for table in [FEATURES, "features.quarantine"] {
        for cloud in &lab.clouds {
            let newest = latest_version(&*cloud.store(), table).await.unwrap_or_default();
            let due = newest - newest % 3;
            if due > 0 && last_checkpoint(cloud, table).await != Some(due) {
                return false;
            }
        }
    }
    true
}

/// Whether a metric has counted something about the dataset.
fn is_counted(running: &Running, metric: &str) -> bool {
    let metrics = running.metrics.render();
    let mut counts = metrics.lines().filter(|line| line.starts_with(&format!("{metric}{{")));
    counts.any(|line| line.contains("table=\"features\"") && !line.ends_with(" 0"))
}

/// A run whose dataset has a checkpoint of at least version 6 in every cloud, ended; the version.
pub(crate) async fn checkpointed(lab: &Lab, seed: &'static str) -> u64 {
    let mut records = Generator::mixed(Seed::of(seed).prng());
    let running = lab.start(&spec(lab).resolved());
    running.ready().await;
    until("there is a second checkpoint", async || {
        lab.commit(&running, &mut records, VERSION_RECORDS).await;
        last_checkpoint(&lab.clouds[0], FEATURES).await >= Some(6)
    })
    .await;
    // Nothing is left to be built when it ends.
    until("every table has all its checkpoints", async || has_all_checkpoints(lab).await).await;
    lab.wait_until_equal(FEATURES).await;
    until("they are counted", async || is_counted(&running, "isobar_checkpoints_total")).await;
    running.stop().await.unwrap();
    mirrored(lab, FEATURES, 6).await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_cloud_gets_the_same_checkpoints_and_readers_read_the_same_table_from_them() {
    let lab = Lab::in_directories();
    let version = checkpointed(&lab, "mirrored").await;
    assert_eq!(version % 3, 0);
    lab.assert_whole().await;
    let report = scrub_topology(&spec(&lab).resolved(), &ScrubOptions::default()).await.unwrap();
    assert!(report.well, "{report:?}");

    assert_read_alike(&lab, version).await;
}

/// An independent reader reads the same table whether or not it has the entries up to the checkpoint of `version`.
async fn assert_read_alike(lab: &Lab, version: u64) {
    for cloud in &lab.clouds {
        let (table, copy) = (folder_of(cloud), lab.directory.path().join(format!("copy-{}", cloud.name)));
        copy_folder(&table, &copy);
        for older in 0..=version {
            fs::remove_file(copy.join(format!("_delta_log/{older:020}.json"))).unwrap();
        }
        assert_eq!(counts(&copy).await, counts(&table).await, "{}", cloud.name);
        oracle(&["compare", table.to_str().unwrap(), copy.to_str().unwrap()]).await.assert(0, &[]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn superseded_checkpoints_are_deleted_in_every_cloud_and_none_while_a_cloud_is_away() {
    let lab = Lab::in_directories();
    let mut records = Generator::mixed(Seed::of("superseded_checkpoints").prng());
    let topology = spec(&lab).resolved();
    let running = lab.start(&topology);
    running.ready().await;
    lab.commit(&running, &mut records, VERSION_RECORDS).await;
    lab.clouds[AWAY].switch.set(Fault::RefuseAll);
    // Whatever was ever there is still there when there are four.
    let mut seen = BTreeSet::new();
    until("there are four checkpoints without the cloud that is away", async || {
        lab.commit(&running, &mut records, VERSION_RECORDS).await;
        seen.extend(checkpoints_in(&lab.clouds[0]).await);
        last_checkpoint(&lab.clouds[0], FEATURES).await >= seen.iter().nth(3).copied().or(Some(u64::MAX))
    })
    .await;
    let held = checkpoints_in(&lab.clouds[0]).await;
    assert!(held.is_superset(&seen), "{seen:?} were there, {held:?} are");
    assert!(!is_counted(&running, "isobar_checkpoints_deleted_total"));
    let oldest = *seen.first().unwrap();
    let kept_aside = object(&lab.clouds[0], &checkpoint_path(FEATURES, oldest)).await.unwrap();

    lab.clouds[AWAY].switch.set(Fault::Off);
    cleaned_up(&lab).await;
    until("they are counted", async || is_counted(&running, "isobar_checkpoints_deleted_total")).await;
    until("every table has all its checkpoints", async || has_all_checkpoints(&lab).await).await;
    cleaned_up(&lab).await;
    running.stop().await.unwrap();
    let newest = mirrored(&lab, FEATURES, oldest + 6).await;
    let present = checkpoints_in(&lab.clouds[0]).await;
    assert_eq!(present.len(), 2, "the newest and the one before it: {present:?}");
    for cloud in &lab.clouds {
        assert!(!checkpoints_in(cloud).await.contains(&oldest), "{}", cloud.name);
        for version in 0..=newest {
            assert!(object(cloud, &published_path(FEATURES, version)).await.is_some(), "{version}");
        }
    }
    lab.assert_whole().await;

    // Whoever deleted them died before it had been in every cloud.
    let left_over = &lab.clouds[1];
    left_over.store().put(&checkpoint_path(FEATURES, oldest), kept_aside.into()).await.unwrap();
    lab.assert_whole().await;
    let report = scrub_topology(&topology, &ScrubOptions::default()).await.unwrap();
    assert!(report.well, "{report:?}");
    let next = lab.start(&topology);
    next.ready().await;
    until("the next leader has finished it", async || !checkpoints_in(left_over).await.contains(&oldest))
        .await;
    next.stop().await.unwrap();
    assert_eq!(checkpoints_in(&lab.clouds[0]).await, present);
    assert_read_alike(&lab, newest).await;
}

/// A leader may upload a checkpoint and end before it is decided. It is no damage, if it is what it should be.
#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_that_nobody_decided_is_believed_if_it_is_the_one_that_any_leader_makes() {
    let (lab, mut leader) = begun(10).await;
    for start in (10..50).step_by(10) {
        must_commit(&mut leader, reading(start, start + 10)).await;
    }
    wait_published(&lab, 5).await;
    drop(leader);

    let (cloud, path) = (&lab.clouds[1], checkpoint_path(TABLE, 3));
    let (_, left_over) = built(&lab, 3).await;
    cloud.store().put(&path, left_over.clone().into()).await.unwrap();
    let group = Group::new(leader::TOPOLOGY, lab.opened());
    let (tables, options) = ([TABLE.to_owned()], ScrubOptions::default());
    let report = in_time("a scrub", scrub(&group, &tables, &options)).await.unwrap();
    assert!(report.well, "{}", report.to_table());

    let mut foreign = left_over.to_vec();
    *foreign.last_mut().unwrap() ^= 1;
    cloud.store().put(&path, foreign.into()).await.unwrap();
    let report = in_time("a scrub", scrub(&group, &tables, &options)).await.unwrap();
    let found: Vec<_> = report.findings.iter().map(|it| (it.kind, it.object.as_str())).collect();
    assert_eq!(found, [(Kind::UnknownObject, path.as_ref())]);
    assert!(report.findings[0].detail.contains("not the checkpoint of version 3"), "{}", report.to_table());
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_checkpoints_are_found_and_put_back() {
    let lab = Lab::in_directories();
    let version = checkpointed(&lab, "damaged_checkpoints").await;
    let topology = spec(&lab).resolved();
    let (checkpoint, hint) = (checkpoint_path(FEATURES, version), last_checkpoint_path(FEATURES));
    let mut rotten = object(&lab.clouds[0], &checkpoint).await.unwrap().to_vec();
    let middle = rotten.len() / 2;
    rotten[middle] ^= 1;
    lab.clouds[0].store().put(&checkpoint, rotten.into()).await.unwrap();
    lab.clouds[1].store().delete(&checkpoint).await.unwrap();
    lab.clouds[2].store().put(&hint, PutPayload::from_static(b"{\"version\":3}")).await.unwrap();
    assert!(!lab.proof().await.holds());

    let kinds = [
        (CLOUDS[0], Kind::CheckpointDiffers),
        (CLOUDS[1], Kind::CheckpointMissing),
        (CLOUDS[2], Kind::LastCheckpointDiffers),
    ];
    for (repair, outcome) in [(false, Outcome::Found), (true, Outcome::Repaired)] {
        let options = ScrubOptions { repair, ..ScrubOptions::default() };
        let report = scrub_topology(&topology, &options).await.unwrap();
        let found: Vec<_> = report
            .findings
            .iter()
            .map(|it| (it.cloud.as_deref().unwrap_or_default(), it.kind, it.outcome))
            .collect();
        assert_eq!(found, kinds.map(|(cloud, kind)| (cloud, kind, outcome)), "{}", report.to_table());
    }
    assert_mirrored(&lab, FEATURES, version).await;
    lab.assert_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cloud_that_lost_everything_gets_the_newest_checkpoint_when_it_is_readmitted() {
    let lab = Lab::in_directories();
    let version = checkpointed(&lab, "readmitted_checkpoints").await;
    fs::remove_dir_all(lab.clouds[AWAY].folder.as_ref().unwrap()).unwrap();
    let written = spec(&lab).written();
    run_isobar(&["scrub", written.to_str().unwrap(), "--readmit", CLOUDS[AWAY]]).await.assert(0, &[]);
    assert_mirrored(&lab, FEATURES, version).await;
    lab.assert_whole().await;
}

/// Builds the checkpoint of `version` from the log of the first cloud.
async fn built(lab: &Lab, version: u64) -> (CheckpointRef, Bytes) {
    let log = Log::read(&*lab.clouds[0].store(), TABLE).await;
    let bodies = log.versions.iter().take_while(|it| it.number <= version).map(|it| Ok(it.bytes.clone()));
    let mut bytes = Vec::new();
    let summary = write_checkpoint(None::<Bytes>, bodies.collect::<Vec<_>>(), &mut bytes).unwrap();
    let checkpoint = CheckpointRef {
        version,
        size: summary.size,
        sha256: summary.sha256,
        actions: summary.actions,
        adds: summary.adds,
    };
    (checkpoint, bytes.into())
}

/// Proposes the checkpoint of `version`, which all clouds but `missing` get before.
async fn propose(
    lab: &Lab,
    leader: &mut Leader,
    version: u64,
    missing: Option<usize>,
) -> Result<CommitOutcome, Error> {
    let (checkpoint, bytes) = built(lab, version).await;
    let path = checkpoint_path(TABLE, version);
    let mut handles = Vec::new();
    for (index, cloud) in lab.clouds.iter().enumerate() {
        let handle = UploadHandle::new(cloud.name.as_str().into());
        if missing == Some(index) {
            handle.give_up("it is away");
        } else {
            cloud.store().put(&path, bytes.clone().into()).await.unwrap();
            handle.settle(UploadStatus::Done);
        }
        handles.push(handle);
    }
    let commit_id = uuid::Uuid::new_v4().to_string();
    let proposal = CheckpointProposal { commit_id, dataset: TABLE.into(), checkpoint };
    let uploads = vec![(path.to_string(), handles)];
    in_time("a checkpoint", leader.checkpoint(&proposal, uploads, 1_700_000_000_000)).await
}

async fn must_propose(lab: &Lab, leader: &mut Leader, version: u64, missing: Option<usize>) {
    let outcome = propose(lab, leader, version, missing).await.unwrap();
    assert!(matches!(outcome, CommitOutcome::Committed { .. }), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cloud_that_was_away_gets_a_checkpoint_after_the_versions_in_this_epoch_and_in_the_next() {
    for changes_leader in [false, true] {
        let (lab, mut leader) = begun(10).await;
        wait_published(&lab, 1).await;
        lab.clouds[AWAY].switch.set(Fault::RefuseAll);
        for start in [10, 20, 30] {
            must_commit(&mut leader, reading(start, start + 10)).await;
        }
        until("the others have every version", async || {
            lab.versions(TABLE).await.iter().filter(|version| **version == Some(4)).count() == 2
        })
        .await;
        must_propose(&lab, &mut leader, 3, Some(AWAY)).await;
        // It makes no version, and the next commit follows it.
        must_commit(&mut leader, reading(40, 50)).await;
        let away = &lab.clouds[AWAY];
        assert_eq!(object(away, &checkpoint_path(TABLE, 3)).await, None);
        if changes_leader {
            drop(leader);
            leader = lead(&lab.opened()).await.unwrap();
            assert_eq!(leader.chain().tables[TABLE].checkpoint.as_ref().unwrap().version, 3);
        }
        lab.clouds[AWAY].switch.set(Fault::Off);
        until("the cloud has the checkpoint", async || {
            let has_hint = last_checkpoint(away, TABLE).await.is_some();
            assert!(!has_hint || latest_version(&*away.store(), TABLE).await >= Some(3), "versions first");
            has_hint
        })
        .await;
        assert_mirrored(&lab, TABLE, 3).await;
        must_commit(&mut leader, reading(50, 60)).await;
        wait_published(&lab, 6).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_of_a_superseded_leader_or_an_older_one_is_not_decided() {
    let (lab, mut first) = begun(10).await;
    for start in [10, 20] {
        must_commit(&mut first, reading(start, start + 10)).await;
    }
    wait_published(&lab, 3).await;
    let mut second = lead(&lab.opened()).await.unwrap();
    let outcome = propose(&lab, &mut first, 3, None).await;
    assert!(matches!(outcome, Err(Error::Superseded { .. })), "{outcome:?}");
    assert_eq!(second.chain().tables[TABLE].checkpoint, None);
    for cloud in &lab.clouds {
        assert_eq!(last_checkpoint(cloud, TABLE).await, None);
    }

    let before = second.chain().clone();
    must_propose(&lab, &mut second, 2, None).await;
    assert_eq!(second.chain().sequence, before.sequence + 1);
    assert_eq!(second.chain().tables[TABLE].version, 3);
    for (version, why) in [(2, "version 2 has one already"), (1, "version 2 has one already")] {
        let outcome = propose(&lab, &mut second, version, None).await.unwrap();
        let CommitOutcome::NotStored(what) = outcome else { panic!("{outcome:?}") };
        assert!(what.contains(why), "{what}");
    }
    assert_eq!(mirrored(&lab, TABLE, 2).await, 2);
    // Whoever leads next knows it, and goes on.
    let mut third = lead(&lab.opened()).await.unwrap();
    assert_eq!(third.chain().tables[TABLE].checkpoint.as_ref().unwrap().version, 2);
    must_propose(&lab, &mut third, 3, None).await;
    must_commit(&mut third, reading(30, 40)).await;
    assert_eq!(mirrored(&lab, TABLE, 3).await, 3);
    wait_published(&lab, 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_that_every_cloud_has_lost_holds_nothing_up() {
    let (lab, mut leader) = begun(10).await;
    wait_published(&lab, 1).await;
    lab.clouds[AWAY].switch.set(Fault::RefuseAll);
    must_propose(&lab, &mut leader, 1, Some(AWAY)).await;
    for cloud in lab.clouds.iter().take(AWAY) {
        cloud.store().delete(&checkpoint_path(TABLE, 1)).await.unwrap();
    }
    must_commit(&mut leader, reading(10, 20)).await;
    lab.clouds[AWAY].switch.set(Fault::Off);
    wait_published(&lab, 2).await;
    assert_eq!(last_checkpoint(&lab.clouds[AWAY], TABLE).await, None);
    // The next one is whole again.
    must_propose(&lab, &mut leader, 2, None).await;
    assert_eq!(mirrored(&lab, TABLE, 2).await, 2);
}

async fn survives_a_kill(point: &'static Failpoint, cloud: &str) {
    let lab = Lab::in_directories();
    kill_a_long_run(&lab, &spec(&lab), point, cloud, async || {
        let has_checkpoints = last_checkpoint(&lab.clouds[0], FEATURES).await >= Some(6);
        if has_checkpoints {
            // Nothing more is produced meanwhile: another version would supersede another checkpoint.
            cleaned_up(&lab).await;
        }
        has_checkpoints
    })
    .await;
    mirrored(&lab, FEATURES, 6).await;
    lab.assert_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_killed_around_a_checkpoint_loses_nothing_and_the_next_one_goes_on() {
    let points = failpoint::ALL.iter().filter(|point| point.name.starts_with("checkpoint."));
    for (number, point) in points.enumerate() {
        survives_a_kill(point, CLOUDS[number % CLOUDS.len()]).await;
    }
}
