//! `isobar scrub` dies by SIGKILL at every step at which it writes, and the next one puts everything right.
//!
//! Children of the built binary, an embedded broker and directories as clouds; which cloud it is rotates from point to
//! point. `tests/drills/kill_cells.py` does the same against real services, for every cloud and more often.

use std::fs;

use bytes::Bytes;
use isobar_connectors::failpoint::{self, Failpoint};
use isobar_tests::delta::read_object;
use isobar_tests::events::{FEATURES, Generator, TOPIC};
use isobar_tests::kill;
use isobar_tests::lab::{CLOUDS, Lab, LabCloud};
use isobar_tests::prng::Seed;
use isobar_tests::program::{isobar, run, run_isobar};
use isobar_topologies::commit::format::{checkpoint_path, last_checkpoint_path};

use crate::mirrored_checkpoints::{self, checkpointed, mirrored};
use crate::scrub::Damage::{
    FlippedByteInAFile, ForeignBeyondTheHead, ForeignInTheMiddle, MissingFile, MissingInTheMiddle,
};
use crate::scrub::{QUARANTINE, everything, flip_byte, is_foreign, put};

/// Records produced at a time.
const RECORDS: usize = 60;

/// Steps in the clouds that readmit another one.
const IN_OTHERS: [&Failpoint; 2] = [&failpoint::READMIT_BEFORE_HEADER, &failpoint::READMIT_AFTER_HEADER];

/// A lab with several versions and checkpoints, and the path of its spec.
struct Scrubbed {
    lab: Lab,
    spec: String,
}

impl Scrubbed {
    async fn new(seed: &'static str) -> Self {
        let lab = Lab::in_directories();
        checkpointed(&lab, seed).await;
        let spec = mirrored_checkpoints::spec(&lab).written();
        Self { spec: spec.to_str().expect("paths of tests are UTF-8").to_owned(), lab }
    }

    /// A command, the spec, and more.
    fn arguments<'a>(&'a self, command: &'a str, more: &[&'a str]) -> Vec<&'a str> {
        [&[command, &self.spec][..], more].concat()
    }

    /// Runs `isobar`; it must be killed at a failpoint.
    async fn is_killed(&self, command: &str, more: &[&str], order: &str) {
        let mut command = isobar(&self.arguments(command, more));
        let output = run(command.env(failpoint::VARIABLE, order)).await;
        assert_eq!(output.code, None, "{order} was not reached, or did not kill\n{output}");
        assert!(output.stderr.contains("action=Kill"), "{order}\n{output}");
    }

    async fn ends_well(&self, command: &str, more: &[&str]) {
        run_isobar(&self.arguments(command, more)).await.assert(0, &[]);
    }
}

/// Damages `cloud` in every way that has a step of its own; the foreign versions, which must be kept.
async fn damage(cloud: &LabCloud, whole: &LabCloud) -> Vec<Bytes> {
    let mut foreign = Vec::new();
    for (damage, table) in [
        (FlippedByteInAFile, FEATURES),
        (MissingFile, FEATURES),
        (MissingInTheMiddle, QUARANTINE),
        (ForeignInTheMiddle, FEATURES),
        (ForeignBeyondTheHead, QUARANTINE),
    ] {
        let (path, is_set_aside) = damage.inflict_as(cloud, whole, table).await;
        if is_set_aside {
            foreign.push(read_object(&*cloud.store(), &path).await);
        }
    }
    foreign
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repair_killed_at_any_step_is_finished_by_the_next_one() {
    let it = Scrubbed::new("repair_kills").await;
    let points = failpoint::ALL.iter().filter(|point| point.name.starts_with("repair."));
    for (number, point) in points.enumerate() {
        let (cloud, whole) = (&it.lab.clouds[number % 3], &it.lab.clouds[(number + 1) % 3]);
        let version = mirrored(&it.lab, FEATURES, 6).await;
        let foreign = damage(cloud, whole).await;
        flip_byte(cloud, &checkpoint_path(FEATURES, version)).await;
        put(cloud, &last_checkpoint_path(FEATURES), "{\"version\":3}").await;
        it.is_killed("scrub", &["--repair"], &kill::order(point, &cloud.name, 1, "kill")).await;
        it.ends_well("scrub", &["--repair"]).await;
        it.ends_well("scrub", &[]).await;
        let objects = everything(cloud).await;
        let kept: Vec<&Bytes> =
            objects.iter().filter(|(path, _)| is_foreign(path)).map(|(_, bytes)| bytes).collect();
        assert!(
            foreign.iter().all(|bytes| kept.contains(&bytes)),
            "{}: a foreign version is lost",
            point.name
        );
        it.lab.assert_whole().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_readmission_killed_at_any_step_is_finished_by_the_next_one() {
    let it = Scrubbed::new("readmit_kills").await;
    let mut records = Generator::mixed(Seed::of("readmit_kills_records").prng());
    let points = failpoint::ALL.iter().filter(|point| point.name.starts_with("readmit."));
    for (number, point) in points.enumerate() {
        let cloud = CLOUDS[number % 3];
        let lost = if IN_OTHERS.contains(point) { CLOUDS[(number + 1) % 3] } else { cloud };
        it.lab.produce(TOPIC, records.records(RECORDS));
        // What is decided, and published nowhere.
        it.is_killed("run", &["--until-caught-up"], "publish.before-put=kill").await;
        let folder = it.lab.cloud(lost).folder.as_ref().expect("the lab is in directories");
        fs::remove_dir_all(folder).unwrap();
        it.is_killed("scrub", &["--readmit", lost], &kill::order(point, cloud, 1, "kill")).await;
        if number % 2 == 0 {
            // The others go on in between.
            it.lab.produce(TOPIC, records.records(RECORDS));
            it.ends_well("run", &["--until-caught-up"]).await;
        }
        it.ends_well("scrub", &["--readmit", lost]).await;
        it.lab.produce(TOPIC, records.records(RECORDS));
        it.ends_well("run", &["--until-caught-up"]).await;
        it.ends_well("scrub", &[]).await;
        it.lab.assert_whole().await;
    }
}
