//! The scrubber: damage of every kind is found, nothing is written without being asked, and what is put back is right.
//! Readmission: a cloud that lost what it held counts again only when the others know everything that was decided.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use isobar_connectors::clouds::{Cloud, Fault};
use isobar_tests::delta::{Log, latest_version, read_object, sha256};
use isobar_tests::events::{self, FEATURES, Generator, TOPIC};
use isobar_tests::lab::{self, Lab, LabCloud};
use isobar_tests::prng::Seed;
use isobar_tests::program::run_isobar;
use isobar_tests::script::{Gate, Kind as RequestKind, Script, Verdict};
use isobar_tests::wait::{PATIENCE, in_time, until};
use isobar_topologies::Error;
use isobar_topologies::commit::Group;
use isobar_topologies::scrub::{self, Evidence, Kind, Outcome, Report, ScrubOptions};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use serde_json::Value as Json;

use crate::leader::{self, begun, lead, must_commit, position, reading, wait_published, wipe};

/// The quarantine of the dataset of most tests.
pub(crate) const QUARANTINE: &str = "features.quarantine";

/// Runs after which a lab has so many versions, with rows and rejected records in each.
const RUNS: usize = 5;

/// A lab whose dataset and quarantine have several versions.
async fn filled(lab: Lab, seed: &'static str) -> Lab {
    let mut records = Generator::mixed(Seed::of(seed).prng());
    for _ in 0..RUNS {
        lab.produce(TOPIC, records.records(60));
        lab.run_until_caught_up(&lab.features()).await.unwrap();
    }
    for table in [FEATURES, QUARANTINE] {
        assert!(lab.versions(table).await[0] >= Some(RUNS as u64 - 1), "the tests damage inner versions");
    }
    lab
}

fn group(lab: &Lab) -> Group {
    Group::new(lab::TOPOLOGY, lab.opened())
}

/// Nothing arrives while these look, so there is nothing to be patient for.
fn options(repair: bool) -> ScrubOptions {
    ScrubOptions { repair, patience: Duration::from_millis(200), ..ScrubOptions::default() }
}

async fn scrubbed(lab: &Lab, options: &ScrubOptions) -> Report {
    let (group, datasets) = (group(lab), [FEATURES.to_owned()]);
    in_time("a scrub", scrub::scrub(&group, &datasets, options)).await.unwrap()
}

/// Every object of a cloud, `control/` included.
pub(crate) async fn everything(cloud: &LabCloud) -> BTreeMap<String, Bytes> {
    let store = cloud.store();
    let listed: Vec<_> = store.list(None).try_collect().await.unwrap();
    let mut objects = BTreeMap::new();
    for object in listed {
        objects.insert(object.location.to_string(), read_object(&*store, &object.location).await);
    }
    objects
}

async fn everything_everywhere(lab: &Lab) -> Vec<BTreeMap<String, Bytes>> {
    let mut all = Vec::new();
    for cloud in &lab.clouds {
        all.push(everything(cloud).await);
    }
    all
}

pub(crate) async fn put(cloud: &LabCloud, path: &Path, bytes: impl Into<Bytes>) {
    cloud.store().put(path, bytes.into().into()).await.unwrap();
}

async fn delete(cloud: &LabCloud, path: &Path) {
    cloud.store().delete(path).await.unwrap();
}

fn version_path(table: &str, version: u64) -> Path {
    Path::from(format!("datasets/{table}/_delta_log/{version:020}.json"))
}

pub(crate) fn is_foreign(path: &str) -> bool {
    path.starts_with("control/lab/foreign/")
}

async fn head(cloud: &LabCloud, table: &str) -> u64 {
    latest_version(&*cloud.store(), table).await.unwrap()
}

pub(crate) async fn flip_byte(cloud: &LabCloud, path: &Path) {
    let mut bytes = read_object(&*cloud.store(), path).await.to_vec();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    put(cloud, path, bytes).await;
}

/// A live data file of the version.
async fn file_of(cloud: &LabCloud, table: &str, version: u64) -> Path {
    let log = Log::read(&*cloud.store(), table).await;
    let version = log.versions.iter().filter(|found| found.number >= version).find_map(|version| {
        version.actions("add").next().map(|add| add["path"].as_str().unwrap().to_owned())
    });
    log.object_path(&version.expect("a version from there on adds a file"))
}

/// An entry such as another program that knows the format would write after `after`: with further offsets.
async fn foreign_entry(cloud: &LabCloud, table: &str, after: u64) -> Bytes {
    let bytes = read_object(&*cloud.store(), &version_path(table, after)).await;
    let previous = sha256(&bytes);
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    let lines = text.lines().map(|line| {
        let mut action: Json = serde_json::from_str(line).unwrap();
        if let Some(info) = action.get_mut("commitInfo") {
            info["isobar"]["previous_sha256"] = previous.clone().into();
            info["isobar"]["commit_id"] = "foreign".into();
            for range in info["isobar"]["offsets"].as_array_mut().unwrap() {
                let end = range["end"].as_i64().unwrap();
                (range["start"], range["end"]) = (end.into(), (end + 7).into());
            }
        }
        format!("{action}\n")
    });
    lines.collect::<String>().into()
}

/// The same offsets by another commit.
async fn rewritten_entry(cloud: &LabCloud, table: &str, version: u64) -> Bytes {
    let bytes = read_object(&*cloud.store(), &version_path(table, version)).await;
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    let rewritten = text.replace("\"timestamp\":1", "\"timestamp\":2");
    assert_ne!(rewritten, text);
    rewritten.into()
}

/// What can be done to a cloud.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Damage {
    FlippedByteInTheMiddle,
    FlippedByteAtTheHead,
    GarbageInTheMiddle,
    MissingInTheMiddle,
    MissingAtTheHead,
    ForeignInTheMiddle,
    ForeignAtTheHead,
    ForeignBeyondTheHead,
    FlippedByteInAFile,
    TruncatedFile,
    MissingFile,
    RestoredBackup,
}

use Damage::*;

const DAMAGES: [Damage; 12] = [
    FlippedByteInTheMiddle,
    FlippedByteAtTheHead,
    GarbageInTheMiddle,
    MissingInTheMiddle,
    MissingAtTheHead,
    ForeignInTheMiddle,
    ForeignAtTheHead,
    ForeignBeyondTheHead,
    FlippedByteInAFile,
    TruncatedFile,
    MissingFile,
    RestoredBackup,
];

impl Damage {
    fn kind(self) -> Kind {
        match self {
            FlippedByteInTheMiddle | FlippedByteAtTheHead | GarbageInTheMiddle => Kind::EntryDiffers,
            ForeignInTheMiddle | ForeignAtTheHead => Kind::EntryDiffers,
            MissingInTheMiddle | MissingAtTheHead | RestoredBackup => Kind::EntryMissing,
            ForeignBeyondTheHead => Kind::EntryBeyond,
            FlippedByteInAFile | TruncatedFile => Kind::FileDiffers,
            MissingFile => Kind::FileMissing,
        }
    }

    /// Does it; the path that must be reported, and whether its bytes must be set aside.
    async fn inflict(self, cloud: &LabCloud, table: &str) -> (Path, bool) {
        self.inflict_as(cloud, cloud, table).await
    }

    /// As [`inflict`](Self::inflict), where the table is whole in `whole` only.
    pub(crate) async fn inflict_as(self, cloud: &LabCloud, whole: &LabCloud, table: &str) -> (Path, bool) {
        let head = head(whole, table).await;
        let (middle, last) = (version_path(table, head / 2), version_path(table, head));
        match self {
            FlippedByteInTheMiddle => flip_byte(cloud, &middle).await,
            FlippedByteAtTheHead => flip_byte(cloud, &last).await,
            GarbageInTheMiddle => put(cloud, &middle, "garbage").await,
            MissingInTheMiddle => delete(cloud, &middle).await,
            MissingAtTheHead => delete(cloud, &last).await,
            ForeignInTheMiddle => {
                let entry = rewritten_entry(whole, table, head / 2).await;
                put(cloud, &middle, entry).await;
            }
            ForeignAtTheHead => {
                let entry = foreign_entry(whole, table, head - 1).await;
                put(cloud, &last, entry).await;
            }
            ForeignBeyondTheHead => {
                let beyond = version_path(table, head + 1);
                let entry = foreign_entry(whole, table, head).await;
                put(cloud, &beyond, entry).await;
                return (beyond, true);
            }
            FlippedByteInAFile => {
                let file = file_of(whole, table, 1).await;
                flip_byte(cloud, &file).await;
                return (file, false);
            }
            TruncatedFile => {
                let file = file_of(whole, table, 2).await;
                let bytes = read_object(&*whole.store(), &file).await;
                put(cloud, &file, bytes.slice(..bytes.len() / 2)).await;
                return (file, false);
            }
            MissingFile => {
                let file = file_of(whole, table, head - 1).await;
                delete(cloud, &file).await;
                return (file, false);
            }
            RestoredBackup => restore_backup(cloud, table, head - 2).await,
        }
        match self {
            MissingInTheMiddle => (middle, false),
            MissingAtTheHead | RestoredBackup => (last, false),
            FlippedByteAtTheHead | ForeignAtTheHead => (last, true),
            _ => (middle, true),
        }
    }
}

/// The table as it was at version `to`: later versions and their files are gone.
async fn restore_backup(cloud: &LabCloud, table: &str, to: u64) {
    let log = Log::read(&*cloud.store(), table).await;
    for version in log.versions.iter().filter(|version| version.number > to) {
        delete(cloud, &version_path(table, version.number)).await;
        for add in version.actions("add") {
            delete(cloud, &log.object_path(add["path"].as_str().unwrap())).await;
        }
    }
}

fn assert_well(report: &Report, findings: usize) {
    assert!(report.well, "{}", report.to_table());
    assert!(report.findings.len() >= findings, "{}", report.to_table());
    assert!(report.findings.iter().all(|it| it.outcome == Outcome::Repaired), "{}", report.to_table());
}

async fn assert_whole(lab: &Lab) {
    let report = scrubbed(lab, &options(false)).await;
    assert!(report.well && report.findings.is_empty(), "{}", report.to_table());
    lab.assert_whole().await;
}

/// Each damage by itself: found where it is, nothing written when only looking, put right by a repair.
async fn each_damage(lab: &Lab) {
    for (number, damage) in DAMAGES.into_iter().enumerate() {
        let table = [FEATURES, QUARANTINE][number % 2];
        let cloud = &lab.clouds[number % 3];
        let before = everything_everywhere(lab).await;
        let (path, is_set_aside) = damage.inflict(cloud, table).await;
        let damaged = everything_everywhere(lab).await;
        let bytes = damaged[number % 3].get(path.as_ref());

        let report = scrubbed(lab, &options(false)).await;
        assert!(!report.well, "{damage:?}");
        let found = report.findings.iter().find(|it| it.object == path.as_ref());
        let found = found.unwrap_or_else(|| panic!("{damage:?} at {path}:\n{}", report.to_table()));
        assert_eq!((found.kind, found.cloud.as_deref()), (damage.kind(), Some(&*cloud.name)), "{damage:?}");
        let elsewhere = report.findings.iter().filter(|it| it.cloud.as_ref() != Some(&cloud.name));
        assert_eq!(elsewhere.count(), 0, "{damage:?}:\n{}", report.to_table());
        assert!(everything_everywhere(lab).await == damaged, "{damage:?}: something was written");

        let report = scrubbed(lab, &options(true)).await;
        assert_well(&report, 1);
        let mut after = everything_everywhere(lab).await;
        let aside: BTreeMap<String, Bytes> =
            after[number % 3].iter().filter(|(path, _)| is_foreign(path)).map(clone_pair).collect();
        assert_eq!(
            is_set_aside,
            aside.values().any(|kept| Some(kept) == bytes),
            "{damage:?}: {:?}",
            aside.keys()
        );
        // Everything else is as it was before, in every cloud.
        for (cloud, before) in after.iter_mut().zip(before) {
            cloud.retain(|path, _| !is_foreign(path) || before.contains_key(path));
            let differing = cloud.iter().filter(|(path, bytes)| before.get(*path) != Some(*bytes));
            let differing: Vec<&String> = differing.map(|(path, _)| path).collect();
            assert!(differing.is_empty() && cloud.len() == before.len(), "{damage:?}: {differing:?}");
        }
        assert_whole(lab).await;
    }
}

fn clone_pair((path, bytes): (&String, &Bytes)) -> (String, Bytes) {
    (path.clone(), bytes.clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_damage_is_found_and_repaired_in_memory() {
    each_damage(&filled(Lab::in_memory(), "scrub_memory").await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_damage_is_found_and_repaired_in_directories() {
    each_damage(&filled(Lab::in_directories(), "scrub_directories").await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_entries_are_held_against_the_offsets_of_the_chain() {
    let lab = filled(Lab::in_memory(), "scrub_coverage").await;
    let (aws, azure) = (&lab.clouds[0], &lab.clouds[1]);
    ForeignInTheMiddle.inflict(aws, FEATURES).await;
    ForeignBeyondTheHead.inflict(azure, FEATURES).await;
    let report = scrubbed(&lab, &options(false)).await;
    let detail = |kind: Kind| &report.findings.iter().find(|it| it.kind == kind).unwrap().detail;
    assert!(detail(Kind::EntryDiffers).contains("offset ranges are covered by the chain"), "{report:#?}");
    assert!(detail(Kind::EntryBeyond).contains("offsets NOT covered by the chain: events/"), "{report:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn clouds_damaged_at_different_places_repair_each_other() {
    let lab = filled(Lab::in_memory(), "scrub_both").await;
    for (number, damage) in DAMAGES.into_iter().enumerate() {
        // One cloud is whole for one table, another one for the other.
        let (table, whole) = [(FEATURES, &lab.clouds[2]), (QUARANTINE, &lab.clouds[0])][number % 2];
        let cloud = &lab.clouds[[0, 1, 1, 2][number % 4]];
        if damage != RestoredBackup {
            damage.inflict_as(cloud, whole, table).await;
        }
    }
    RestoredBackup.inflict(&lab.clouds[2], FEATURES).await;
    assert!(!scrubbed(&lab, &options(false)).await.well);
    assert_well(&scrubbed(&lab, &options(true)).await, 8);
    assert_whole(&lab).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_rotten_everywhere_is_named_and_everything_else_is_repaired() {
    let lab = filled(Lab::in_memory(), "scrub_hopeless").await;
    let file = file_of(&lab.clouds[0], FEATURES, 1).await;
    for cloud in &lab.clouds {
        flip_byte(cloud, &file).await;
    }
    let (missing, _) = MissingFile.inflict(&lab.clouds[1], FEATURES).await;
    assert_ne!(file, missing);
    let before = everything_everywhere(&lab).await;
    let report = scrubbed(&lab, &options(true)).await;
    assert!(!report.well);
    let hopeless: Vec<_> = report.findings.iter().filter(|it| it.outcome != Outcome::Repaired).collect();
    assert_eq!(hopeless.len(), 3, "{}", report.to_table());
    for finding in hopeless {
        assert_eq!((finding.object.as_str(), finding.outcome), (file.as_ref(), Outcome::NotRepaired));
        assert!(report.to_table().contains(file.as_ref()));
    }
    for (number, cloud) in lab.clouds.iter().enumerate() {
        let kept = read_object(&*cloud.store(), &file).await;
        assert_eq!(before[number].get(file.as_ref()), Some(&kept), "a rotten file is left as it is");
    }
    assert_eq!(
        read_object(&*lab.clouds[1].store(), &missing).await,
        read_object(&*lab.clouds[0].store(), &missing).await
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_is_rotten_everywhere_comes_back_from_the_control_log_and_else_is_named() {
    let lab = filled(Lab::in_memory(), "scrub_entry_everywhere").await;
    let path = version_path(FEATURES, head(&lab.clouds[0], FEATURES).await / 2);
    for cloud in &lab.clouds {
        flip_byte(cloud, &path).await;
    }
    assert_well(&scrubbed(&lab, &options(true)).await, 3);
    assert_whole(&lab).await;

    // Without control logs, a majority still settles everything else.
    for cloud in &lab.clouds {
        let logs: Vec<String> = everything(cloud).await.into_keys().collect();
        for record in logs.iter().filter(|path| path.starts_with("control/lab/log/")) {
            delete(cloud, &Path::from(record.as_str())).await;
        }
        flip_byte(cloud, &path).await;
    }
    flip_byte(&lab.clouds[2], &version_path(FEATURES, 1)).await;
    let report = scrubbed(&lab, &options(true)).await;
    assert!(!report.well);
    let tables: Vec<Evidence> = report.tables.iter().map(|table| table.evidence).collect();
    assert_eq!(tables, [Evidence::Majority, Evidence::Majority]);
    let nowhere: Vec<_> = report.findings.iter().filter(|it| it.outcome != Outcome::Repaired).collect();
    assert_eq!(nowhere.len(), 1, "{}", report.to_table());
    assert_eq!((nowhere[0].kind, nowhere[0].object.as_str()), (Kind::EntryNowhere, path.as_ref()));
    let repaired = report.findings.iter().find(|it| it.outcome == Outcome::Repaired).unwrap();
    assert_eq!(repaired.object, version_path(FEATURES, 1).to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cloud_that_is_away_is_named_and_what_cannot_be_proved_is_left_alone() {
    let lab = filled(Lab::in_memory(), "scrub_away").await;
    // With two clouds away there is no majority: whatever the third one holds is neither right nor wrong.
    ForeignBeyondTheHead.inflict(&lab.clouds[0], FEATURES).await;
    FlippedByteInTheMiddle.inflict(&lab.clouds[0], FEATURES).await;
    lab.clouds[1].switch.set(Fault::RefuseAll);
    lab.clouds[2].switch.set(Fault::RefuseAll);
    let before = everything_everywhere(&lab).await;
    let report = scrubbed(&lab, &options(true)).await;
    let kinds: Vec<Kind> = report.findings.iter().map(|finding| finding.kind).collect();
    assert!(kinds.contains(&Kind::CloudSilent) && kinds.contains(&Kind::EntryUnproven), "{kinds:?}");
    assert!(report.findings.iter().all(|finding| finding.outcome == Outcome::NotRepaired));
    assert!(everything_everywhere(&lab).await == before);

    // Two are enough to put the third one right, and the report still says that one is away.
    lab.clouds[1].switch.set(Fault::Off);
    let report = scrubbed(&lab, &options(true)).await;
    assert!(!report.well);
    let open: Vec<_> = report.findings.iter().filter(|it| it.outcome != Outcome::Repaired).collect();
    assert_eq!(open.len(), 1, "{}", report.to_table());
    assert_eq!((open[0].kind, open[0].cloud.as_deref()), (Kind::CloudSilent, Some("gcp")));
    lab.clouds[2].switch.set(Fault::Off);
    assert_whole(&lab).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_objects_beside_the_versions_are_reported_and_kept() {
    let lab = filled(Lab::in_memory(), "scrub_unknown").await;
    let folder = format!("datasets/{FEATURES}/_delta_log");
    let names = ["_last_checkpoint", "00000000000000000003.checkpoint.parquet", "notes.txt"];
    for name in names {
        put(&lab.clouds[1], &Path::from(format!("{folder}/{name}")), "x").await;
    }
    let before = everything_everywhere(&lab).await;
    let report = scrubbed(&lab, &options(true)).await;
    assert!(!report.well);
    let mut found: Vec<&str> =
        report.findings.iter().map(|it| it.object.rsplit('/').next().unwrap()).collect();
    found.sort_unstable();
    assert_eq!(found, ["00000000000000000003.checkpoint.parquet", "_last_checkpoint", "notes.txt"]);
    assert!(report.findings.iter().all(|it| it.kind == Kind::UnknownObject));
    assert!(everything_everywhere(&lab).await == before);
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_and_late_answers_of_stores_do_not_keep_a_repair_from_being_right() {
    let lab = filled(Lab::in_memory(), "scrub_lost_answers").await;
    for damage in [ForeignInTheMiddle, ForeignBeyondTheHead, MissingAtTheHead, MissingInTheMiddle] {
        damage.inflict(&lab.clouds[2], FEATURES).await;
        lab.clouds[2].switch.set(Fault::LoseWriteAnswers);
        let report = scrubbed(&lab, &options(true)).await;
        lab.clouds[2].switch.set(Fault::Off);
        // A removal whose answer is lost may be reported as not done; the next look settles it.
        if damage != ForeignBeyondTheHead {
            assert_well(&report, 1);
        }
        assert_whole(&lab).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_repaired_while_a_run_goes_on() {
    let seed = Seed::of("scrub_running");
    let mut prng = seed.prng();
    let mut records = Generator::mixed(prng.fork());
    let lab = filled(Lab::in_memory(), "scrub_running_base").await;
    let topology = lab.features();
    let running = lab.start(&topology);
    running.ready().await;
    for round in 0..2 * DAMAGES.len() {
        lab.produce(TOPIC, records.records(40));
        let damage = DAMAGES[round % DAMAGES.len()];
        let table = *prng.pick(&[FEATURES, QUARANTINE]);
        // Only what is settled: a file that is being brought is not there yet, and the head moves under our hands.
        // A foreign version in the way sets its cloud aside until the next run, so there may be one such cloud.
        let cloud = &lab.clouds[if damage == ForeignBeyondTheHead { 2 } else { prng.index(3) }];
        if !matches!(damage, RestoredBackup | MissingFile | ForeignAtTheHead) {
            damage.inflict(cloud, table).await;
        }
        scrubbed(&lab, &options(true)).await;
        lab.wait_until_committed(&running).await;
    }
    running.stop().await.unwrap();
    // A cloud that the leader had set aside is served by the next one.
    lab.run_until_caught_up(&topology).await.unwrap();
    assert_well(&scrubbed(&lab, &options(true)).await, 0);
    assert_whole(&lab).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn looking_while_a_run_goes_on_finds_nothing_and_disturbs_nothing() {
    let seed = Seed::of("scrub_looking");
    let mut records = Generator::mixed(seed.prng());
    let lab = filled(Lab::in_memory(), "scrub_looking_base").await;
    let topology = lab.features();
    let running = lab.start(&topology);
    running.ready().await;
    for _ in 0..12 {
        lab.produce(TOPIC, records.records(40));
        let patient = ScrubOptions { patience: PATIENCE, ..options(false) };
        let report = scrubbed(&lab, &patient).await;
        assert!(report.well, "{}", report.to_table());
    }
    lab.wait_until_committed(&running).await;
    running.stop().await.unwrap();
    assert_whole(&lab).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dataset_or_cloud_by_name_limits_the_look_and_unknown_names_are_refused() {
    let lab = filled(Lab::in_memory(), "scrub_names").await;
    MissingFile.inflict(&lab.clouds[0], FEATURES).await;
    let only = |cloud: &str| ScrubOptions { clouds: vec![cloud.to_owned()], ..options(false) };
    assert!(!scrubbed(&lab, &only("aws")).await.well);
    assert!(scrubbed(&lab, &only("gcp")).await.well);
    for wrong in [
        only("asw"),
        ScrubOptions { datasets: vec!["feetures".to_owned()], ..options(false) },
        ScrubOptions { sample: 1.5, ..options(false) },
    ] {
        let refused = scrub::scrub(&group(&lab), &[FEATURES.to_owned()], &wrong).await;
        assert!(matches!(refused, Err(Error::Configuration(_))), "{refused:?}");
    }
    // A sample of nothing sees a missing file, and not a flipped byte.
    assert_well(&scrubbed(&lab, &options(true)).await, 1);
    FlippedByteInAFile.inflict(&lab.clouds[0], FEATURES).await;
    let sizes_only = ScrubOptions { sample: 0.0, ..options(false) };
    let report = scrubbed(&lab, &sizes_only).await;
    assert!(report.well && report.clouds.iter().all(|cloud| cloud.files > 0 && cloud.bytes_hashed == 0));
    assert!(!scrubbed(&lab, &options(false)).await.well);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_says_what_it_found_and_ends_accordingly() {
    let lab = filled(Lab::in_directories(), "scrub_command").await;
    let spec = lab.spec(events::SOURCE, events::FEATURES_YAML).written();
    let spec = spec.to_str().unwrap();
    run_isobar(&["scrub", spec]).await.assert(0, &["ok: every cloud holds the decided bytes"]);
    let (path, _) = ForeignInTheMiddle.inflict(&lab.clouds[1], FEATURES).await;
    run_isobar(&["scrub", spec]).await.assert(1, &[path.as_ref(), "azure", "FAILED"]);
    run_isobar(&["scrub", spec, "--cloud", "aws"]).await.assert(0, &[]);
    let output = run_isobar(&["scrub", spec, "--repair", "--throttle", "100MiB", "--format", "json"]).await;
    output.assert(0, &["control/lab/foreign/"]);
    let report: Json = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!((&report["well"], &report["format"]), (&true.into(), &1.into()));
    assert_eq!(report["findings"][0]["outcome"], "repaired");
    run_isobar(&["scrub", spec]).await.assert(0, &[]);
    run_isobar(&["scrub", spec, "--dataset", "none"]).await.assert(2, &["no dataset none"]);

    std::fs::remove_dir_all(lab.clouds[2].folder.as_ref().unwrap()).unwrap();
    run_isobar(&["scrub", spec, "--repair"]).await.assert(1, &["gcp"]);
    run_isobar(&["scrub", spec, "--readmit", "gcp"]).await.assert(0, &["gcp counts again"]);
    run_isobar(&["scrub", spec]).await.assert(0, &[]);
    assert_whole(&lab).await;
}

// Readmission.

async fn readmitted(lab: &Lab, topology: &str, dataset: &str, cloud: &str) -> Result<Report, Error> {
    let (group, datasets) = (Group::new(topology, lab.opened()), [dataset.to_owned()]);
    in_time("a readmission", scrub::readmit(&group, &datasets, cloud, &options(true))).await
}

/// In the topology of the tests of the leader.
async fn readmitted_there(lab: &Lab, cloud: usize) -> Result<Report, Error> {
    readmitted(lab, leader::TOPOLOGY, leader::TABLE, &lab.clouds[cloud].name).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_cloud_is_reported_left_alone_and_rebuilt_when_it_is_readmitted() {
    let lab = filled(Lab::in_memory(), "scrub_wiped").await;
    let topology = lab.features();
    for wiped in 0..3 {
        let cloud = &lab.clouds[wiped];
        wipe(&*cloud.store()).await;
        let report = scrubbed(&lab, &options(true)).await;
        assert!(!report.well);
        let kinds: Vec<_> = report.findings.iter().map(|it| (it.kind, it.cloud.clone())).collect();
        assert_eq!(kinds, [(Kind::IdentityLost, Some(cloud.name.clone()))]);
        assert_eq!(everything(cloud).await, BTreeMap::new());

        let report = readmitted(&lab, lab::TOPOLOGY, FEATURES, &cloud.name).await.unwrap();
        assert!(report.well, "{}", report.to_table());
        assert_eq!(
            report.readmitted.as_ref().map(|it| (it.cloud.as_str(), it.generation)),
            Some((&*cloud.name, 1))
        );
        assert_whole(&lab).await;
        lab.produce(TOPIC, Generator::mixed(Seed::of("scrub_wiped_more").prng()).records(50));
        lab.run_until_caught_up(&topology).await.unwrap();
        assert_whole(&lab).await;
    }
}

/// The trace that readmission must not have: a decision of the lost cloud and one other, which the third cloud does not
/// know, survives; and afterwards any two clouds go on, the readmitted one included.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_lost_cloud_had_decided_with_one_other_survives_and_any_two_go_on() {
    for lost in 0..3 {
        for absent in (0..3).filter(|absent| *absent != lost) {
            let (lab, mut leader) = begun(10).await;
            wait_published(&lab, 1).await;
            lab.clouds[absent].switch.set(Fault::RefuseAll);
            must_commit(&mut leader, reading(10, 20)).await;
            // What is still on its way would be written after the loss.
            until("the others have published the decision", async || {
                let latest = lab.versions(leader::TABLE).await;
                (0..3).filter(|cloud| *cloud != absent).all(|cloud| latest[cloud] == Some(2))
            })
            .await;
            drop(leader);
            lab.clouds[absent].switch.set(Fault::Off);
            wipe(&*lab.clouds[lost].store()).await;
            let report = readmitted_there(&lab, lost).await.unwrap();
            assert!(report.readmitted.is_some(), "{}", report.to_table());

            let mut next = 20;
            for away in 0..3 {
                lab.clouds[away].switch.set(Fault::RefuseAll);
                let mut leader = lead(&lab.opened()).await.unwrap();
                assert_eq!(position(&leader), Some(next), "lost {lost}, absent {absent}, away {away}");
                must_commit(&mut leader, reading(next, next + 10)).await;
                next += 10;
                drop(leader);
                lab.clouds[away].switch.set(Fault::Off);
            }
            let leader = lead(&lab.opened()).await.unwrap();
            assert_eq!(position(&leader), Some(next));
            wait_published(&lab, 5).await;
            drop(leader);
            lab.assert_trees_equal().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_readmission_supersedes_the_leader_and_the_next_one_serves_the_cloud() {
    let (lab, mut old) = begun(10).await;
    wait_published(&lab, 1).await;
    wipe(&*lab.clouds[1].store()).await;
    must_commit(&mut old, reading(10, 20)).await;
    let report = readmitted_there(&lab, 1).await.unwrap();
    assert!(report.readmitted.is_some(), "{}", report.to_table());
    // It meets SEALs in both other clouds, or the first of them and the wiped cloud: either way it can decide nothing more.
    let outcome = leader::commit(&mut old, reading(20, 30)).await;
    assert!(matches!(outcome, Err(Error::Superseded { .. } | Error::NoMajority { .. })), "{outcome:?}");
    drop(old);
    let mut new = lead(&lab.opened()).await.unwrap();
    assert_eq!(position(&new), Some(20));
    must_commit(&mut new, reading(20, 30)).await;
    wait_published(&lab, 3).await;
    assert!(new.watch().progress().clouds.iter().all(|cloud| cloud.set_aside.is_none()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_readmission_is_refused_while_the_others_cannot_know_everything() {
    let (lab, leader) = begun(10).await;
    wait_published(&lab, 1).await;
    drop(leader);
    wipe(&*lab.clouds[0].store()).await;
    lab.clouds[1].switch.set(Fault::RefuseAll);
    let refused = readmitted_there(&lab, 0).await;
    let is_refused = |outcome: &Result<Report, Error>| match outcome {
        Ok(report) => report.readmitted.is_none() && !report.well,
        Err(error) => matches!(error, Error::NoMajority { .. }),
    };
    assert!(is_refused(&refused), "{refused:?}");
    lab.clouds[1].switch.set(Fault::Off);
    // Two lost ones are too many, and neither may vouch for the other.
    wipe(&*lab.clouds[1].store()).await;
    for lost in [0, 1] {
        let refused = readmitted_there(&lab, lost).await;
        assert!(is_refused(&refused), "{refused:?}");
    }
    for cloud in [0, 1] {
        let keys: Vec<String> = everything(&lab.clouds[cloud]).await.into_keys().collect();
        assert!(keys.iter().all(|key| !key.contains("readmitted") && !key.ends_with("identity")), "{keys:?}");
    }
    let refused = lead(&lab.opened()).await;
    assert!(matches!(refused, Err(Error::NoMajority { .. })), "{refused:?}");
    let refused = readmitted(&lab, leader::TOPOLOGY, leader::TABLE, "none").await;
    assert!(matches!(refused, Err(Error::Configuration(_))), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_clouds_the_one_that_is_left_readmits_the_other_and_a_single_cloud_cannot() {
    for lost in 0..2 {
        let lab = Lab::new(&[TOPIC], 2, false);
        let mut first = lead(&lab.opened()).await.unwrap();
        must_commit(&mut first, leader::creating()).await;
        must_commit(&mut first, reading(0, 10)).await;
        drop(first);
        wipe(&*lab.clouds[lost].store()).await;
        let refused = lead(&lab.opened()).await;
        assert!(matches!(refused, Err(Error::NoMajority { .. })), "{refused:?}");
        let report = readmitted_there(&lab, lost).await.unwrap();
        assert!(report.readmitted.is_some(), "{}", report.to_table());
        let mut second = lead(&lab.opened()).await.unwrap();
        assert_eq!(position(&second), Some(10));
        must_commit(&mut second, reading(10, 20)).await;
    }
    let lab = Lab::new(&[TOPIC], 1, false);
    let mut first = lead(&lab.opened()).await.unwrap();
    must_commit(&mut first, leader::creating()).await;
    drop(first);
    let refused = readmitted_there(&lab, 0).await;
    let is_admitted = matches!(&refused, Ok(report) if report.readmitted.is_some());
    assert!(!is_admitted, "{refused:?}");
}

/// A copy of a cloud from before its readmission carries the right identity, and does not count.
#[tokio::test(flavor = "multi_thread")]
async fn a_backup_from_before_a_readmission_does_not_count_until_it_is_readmitted_again() {
    let (lab, leader) = begun(10).await;
    wait_published(&lab, 1).await;
    drop(leader);
    let backup = everything(&lab.clouds[2]).await;
    wipe(&*lab.clouds[2].store()).await;
    assert!(readmitted_there(&lab, 2).await.unwrap().readmitted.is_some());
    let mut leader = lead(&lab.opened()).await.unwrap();
    must_commit(&mut leader, reading(10, 20)).await;
    wait_published(&lab, 2).await;
    drop(leader);

    wipe(&*lab.clouds[2].store()).await;
    for (path, bytes) in backup {
        put(&lab.clouds[2], &Path::from(path), bytes).await;
    }
    lab.clouds[0].switch.set(Fault::RefuseAll);
    let refused = lead(&lab.opened()).await;
    assert!(matches!(refused, Err(Error::NoMajority { .. })), "{refused:?}");
    lab.clouds[0].switch.set(Fault::Off);
    let mut leader = lead(&lab.opened()).await.unwrap();
    must_commit(&mut leader, reading(20, 30)).await;
    until("the outdated cloud is set aside", async || {
        leader.watch().progress().clouds[2].set_aside.is_some()
    })
    .await;
    drop(leader);

    let report = readmitted_there(&lab, 2).await.unwrap();
    assert_eq!(report.readmitted.map(|it| it.generation), Some(2));
    lab.clouds[0].switch.set(Fault::RefuseAll);
    let mut leader = lead(&lab.opened()).await.unwrap();
    assert_eq!(position(&leader), Some(30));
    must_commit(&mut leader, reading(30, 40)).await;
}

/// A whole cloud is put back to an older state, `control/` and all: one symptom shows, and readmission cures it.
#[tokio::test(flavor = "multi_thread")]
async fn a_cloud_whose_control_logs_went_back_is_reported_and_can_be_readmitted() {
    let lab = filled(Lab::in_memory(), "scrub_went_back").await;
    let backup = everything(&lab.clouds[1]).await;
    for _ in 0..2 {
        lab.produce(TOPIC, Generator::mixed(Seed::of("scrub_went_back_more").prng()).records(50));
        lab.run_until_caught_up(&lab.features()).await.unwrap();
    }
    wipe(&*lab.clouds[1].store()).await;
    for (path, bytes) in backup {
        put(&lab.clouds[1], &Path::from(path), bytes).await;
    }
    let report = scrubbed(&lab, &options(true)).await;
    assert!(!report.well);
    let open: Vec<_> = report.findings.iter().filter(|it| it.outcome != Outcome::Repaired).collect();
    assert_eq!(open.len(), 1, "{}", report.to_table());
    assert_eq!((open[0].kind, open[0].cloud.as_deref()), (Kind::ControlWentBack, Some("azure")));
    let report = readmitted(&lab, lab::TOPOLOGY, FEATURES, "azure").await.unwrap();
    assert!(report.readmitted.is_some(), "{}", report.to_table());
    assert_whole(&lab).await;
}

/// A cloud is wiped after a process has read its identity and before it reads its logs. Those are empty then, and must
/// not be taken for the half of a majority: the decision of the other half would be lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_cloud_that_is_wiped_during_a_take_over_does_not_count_in_it() {
    let (lab, mut leader) = begun(10).await;
    wait_published(&lab, 1).await;
    // Decided by azure and gcp.
    lab.clouds[0].switch.set(Fault::RefuseAll);
    must_commit(&mut leader, reading(10, 20)).await;
    drop(leader);
    lab.clouds[0].switch.set(Fault::Off);
    lab.clouds[1].switch.set(Fault::RefuseAll);

    let (gate, claims) = (Arc::new(Gate::default()), Arc::new(AtomicUsize::new(0)));
    let (closed, seen) = (gate.clone(), claims.clone());
    lab.script.set(move |request| {
        let is_claim = request.kind == RequestKind::Write && request.path.contains("/epoch/");
        if request.cloud == "gcp" && is_claim {
            seen.fetch_add(1, Ordering::Relaxed);
            return Verdict::Wait(closed.clone());
        }
        Verdict::Pass
    });
    let clouds = lab.opened();
    let attempt = tokio::spawn(async move { lead(&clouds).await.map(|leader| position(&leader)) });
    until("the claim is on its way", async || claims.load(Ordering::Relaxed) > 0 || attempt.is_finished())
        .await;
    wipe(&*lab.clouds[2].store()).await;
    gate.open();
    let outcome = in_time("the take-over", attempt).await.unwrap();
    assert!(matches!(outcome, Err(Error::NoMajority { .. })), "{outcome:?}");
    lab.script.clear();

    lab.clouds[1].switch.set(Fault::Off);
    let leader = lead(&lab.opened()).await.unwrap();
    assert_eq!(position(&leader), Some(20));
}

/// A readmission is overtaken by a leader before its header is stored: it fails, and the lost cloud does not count.
#[tokio::test(flavor = "multi_thread")]
async fn a_readmission_that_is_overtaken_admits_nobody() {
    let (lab, leader) = begun(10).await;
    wait_published(&lab, 1).await;
    drop(leader);
    wipe(&*lab.clouds[2].store()).await;
    // The readmission's header, in both other clouds.
    let (gate, held) = (Arc::new(Gate::default()), Arc::new(AtomicUsize::new(0)));
    let (closed, seen) = (gate.clone(), held.clone());
    lab.script.set(move |request| {
        let is_header = request.kind == RequestKind::Write
            && request.path.contains("/log/")
            && request.path.ends_with("/00000000000000000000");
        if is_header && seen.fetch_add(1, Ordering::Relaxed) < 2 {
            return Verdict::Wait(closed.clone());
        }
        Verdict::Pass
    });
    let (clouds, name) = (lab.opened(), lab.clouds[2].name.clone());
    let readmission = tokio::spawn(async move {
        let group = Group::new(leader::TOPOLOGY, clouds);
        scrub::readmit(&group, &[leader::TABLE.to_owned()], &name, &options(true)).await
    });
    until("its header is on its way", async || held.load(Ordering::Relaxed) >= 2).await;
    let mut successor = lead(&lab.opened()).await.unwrap();
    must_commit(&mut successor, reading(10, 20)).await;
    gate.open();
    let outcome = in_time("the readmission", readmission).await.unwrap();
    assert!(matches!(outcome, Err(Error::NoMajority { .. })), "{outcome:?}");
    let keys: Vec<String> = everything(&lab.clouds[2]).await.into_keys().collect();
    assert!(keys.iter().all(|key| !key.contains("readmitted") && !key.ends_with("identity")), "{keys:?}");
    must_commit(&mut successor, reading(20, 30)).await;
    drop(successor);
    lab.script.clear();
    assert!(readmitted_there(&lab, 2).await.unwrap().readmitted.is_some());
    lab.clouds[0].switch.set(Fault::RefuseAll);
    let leader = lead(&lab.opened()).await.unwrap();
    assert_eq!(position(&leader), Some(30));
}

/// A decided version is readable for everybody at once: none of it may be read from a cloud without its files.
#[tokio::test(flavor = "multi_thread")]
async fn entries_are_put_back_only_after_their_files() {
    let lab = filled(Lab::in_memory(), "scrub_files_first").await;
    RestoredBackup.inflict(&lab.clouds[2], FEATURES).await;
    // No file can be written: then no entry may be.
    lab.script.set(|request| match request.kind {
        RequestKind::Write if request.cloud == "gcp" && request.path.ends_with(".parquet") => Verdict::Refuse,
        _ => Verdict::Pass,
    });
    let before = everything(&lab.clouds[2]).await;
    let report = scrubbed(&lab, &options(true)).await;
    assert!(!report.well);
    let log = Log::read(&*lab.clouds[2].store(), FEATURES).await;
    let present = everything(&lab.clouds[2]).await;
    for path in log.reachable() {
        assert!(present.contains_key(path.as_ref()), "{path} is named and not there");
    }
    assert!(before.keys().all(|path| present.contains_key(path)));
    lab.script.clear();
    assert_well(&scrubbed(&lab, &options(true)).await, 2);
    assert_whole(&lab).await;
}

/// A leader fills a cloud from its last version on: whatever is put back above a hole would hide it.
#[tokio::test(flavor = "multi_thread")]
async fn no_version_is_put_back_above_one_that_cannot_be() {
    let lab = filled(Lab::in_memory(), "scrub_hole").await;
    let head = head(&lab.clouds[0], FEATURES).await;
    RestoredBackup.inflict(&lab.clouds[2], FEATURES).await;
    let refused = version_path(FEATURES, head - 1);
    lab.script.set(move |request| match request.kind {
        RequestKind::Write if request.cloud == "gcp" && request.path == refused.as_ref() => Verdict::Refuse,
        _ => Verdict::Pass,
    });
    let report = scrubbed(&lab, &options(true)).await;
    assert!(!report.well);
    assert_eq!(latest_version(&*lab.clouds[2].store(), FEATURES).await, Some(head - 2));
    lab.script.clear();
    assert_well(&scrubbed(&lab, &options(true)).await, 2);
    assert_whole(&lab).await;
}

/// A bucket under a retention rule: what the first look left behind does not hinder the second one.
#[tokio::test(flavor = "multi_thread")]
async fn a_cloud_is_readmitted_where_nothing_may_be_deleted() {
    let (lab, leader) = begun(10).await;
    wait_published(&lab, 1).await;
    drop(leader);
    wipe(&*lab.clouds[1].store()).await;
    // Deletions name no single object.
    lab.script.set(|request| match request.kind == RequestKind::Write && request.path.is_empty() {
        true => Verdict::Refuse,
        false => Verdict::Pass,
    });
    assert!(readmitted_there(&lab, 1).await.unwrap().readmitted.is_some());
}

async fn readmit_table(group: &Group, cloud: &str) -> Result<scrub::Report, Error> {
    scrub::readmit(group, &[leader::TABLE.to_owned()], cloud, &options(true)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_the_others_that_fails_during_a_readmission_is_not_needed_where_a_majority_is_left() {
    let script = Script::default();
    let clouds = ["aws", "azure", "gcp", "oracle"].map(|name| {
        let store = Arc::new(InMemory::new());
        script.around(Cloud::new(name, store.clone(), store))
    });
    let mut leader = lead(&clouds).await.unwrap();
    must_commit(&mut leader, leader::creating()).await;
    until("every cloud has the table", async || {
        let versions = clouds.iter().map(|cloud| latest_version(&*cloud.control, leader::TABLE));
        futures::future::join_all(versions).await.iter().all(|version| *version == Some(0))
    })
    .await;
    drop(leader);
    wipe(&*clouds[3].control).await;
    // It says once who it is, and not again after its logs were read.
    let asked = Arc::new(AtomicUsize::new(0));
    script.set(move |request| {
        let is_look = request.cloud == "aws" && request.path.ends_with("/identity");
        match is_look && asked.fetch_add(1, Ordering::Relaxed) > 0 {
            true => Verdict::Refuse,
            false => Verdict::Pass,
        }
    });
    let group = Group::new(leader::TOPOLOGY, clouds.to_vec());
    let report = in_time("a readmission", readmit_table(&group, "oracle")).await.unwrap();
    assert_eq!(report.readmitted.map(|readmitted| readmitted.generation), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_readmission_decides_nothing_that_does_not_follow_the_chain() {
    let (lab, mut leader) = begun(10).await;
    wait_published(&lab, 1).await;
    lab.script.set(|request| if leader::publishes(request) { Verdict::Refuse } else { Verdict::Pass });
    must_commit(&mut leader, reading(10, 20)).await;
    let epoch = leader.epoch().0;
    let path = Path::from(format!("control/{}/log/{epoch:020}/{:020}", leader::TOPOLOGY, 3));
    for cloud in &lab.clouds[..2] {
        until("the record is there", async || cloud.store().head(&path).await.is_ok()).await;
    }
    drop(leader);
    for cloud in &lab.clouds[..2] {
        let bytes = read_object(&*cloud.store(), &path).await;
        let mut record: Json = serde_json::from_slice(&bytes).unwrap();
        record["tables"][0]["sha256"] = "00".repeat(32).into();
        put(cloud, &path, format!("{record}\n")).await;
    }
    lab.script.clear();
    wipe(&*lab.clouds[2].store()).await;
    let group = Group::new(leader::TOPOLOGY, lab.opened());
    let refused = in_time("a readmission", readmit_table(&group, "gcp")).await;
    match &refused {
        Ok(report) => assert!(!report.well && report.readmitted.is_none(), "{report:?}"),
        Err(error) => assert!(matches!(error, Error::Damaged { .. }), "{error:?}"),
    }
    for cloud in &lab.clouds {
        let header = format!("control/{}/log/{:020}/{:020}", leader::TOPOLOGY, epoch + 1, 0);
        assert!(!everything(cloud).await.contains_key(&header), "{}", cloud.name);
    }
}
