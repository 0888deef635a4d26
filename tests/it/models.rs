//! Models beside the data: registered once, the same in every cloud, whoever is away, dies, or registers at the same time.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path as FilePath;

use isobar_connectors::clouds::Fault;
use isobar_connectors::failpoint::{self, DECIDE_BEFORE_ACCEPT};
use isobar_tests::delta::read_object;
use isobar_tests::events::{FEATURES_YAML, SOURCE};
use isobar_tests::kill::order;
use isobar_tests::lab::{Lab, uploads_to, write_file};
use isobar_tests::models;
use isobar_tests::prng::Seed;
use isobar_tests::program::{isobar, run, run_isobar};
use isobar_tests::script::{Kind, Verdict};
use isobar_tests::wait::in_time;
use isobar_topologies::Error;
use isobar_topologies::models::{
    Candidate, FindingKind, Manifest, Model, ONNX_BYTES_MAX, Registry, Verified, Which, Writer, readmit,
    verify,
};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use serde_json::Value as Json;

use crate::leader::wipe;
use crate::single_faults::sample;

const MODEL: &str = "flight_delay";

pub(crate) fn writer(lab: &Lab) -> Writer {
    let clouds = lab.opened();
    let uploads = uploads_to(&clouds);
    Writer::new(clouds, uploads)
}

/// A model of `tests/golden/models`, to be registered as `model`; `draft` is its manifest.
pub(crate) fn golden_candidate(lab: &Lab, golden: &str, model: &str, draft: &str) -> Candidate {
    let folder = lab.directory.path().join(format!("model-{golden}"));
    fs::create_dir_all(&folder).unwrap();
    let onnx =
        FilePath::new(concat!(env!("CARGO_MANIFEST_DIR"), "/golden/models")).join(format!("{golden}.onnx"));
    fs::copy(onnx, folder.join("model.onnx")).unwrap();
    write_file(&folder.join("manifest.json"), draft);
    Candidate::read(&folder, model, ONNX_BYTES_MAX).unwrap()
}

fn candidate(own: [f32; 2]) -> Candidate {
    Candidate::read(models::folder(own).path(), MODEL, ONNX_BYTES_MAX).unwrap()
}

async fn register(lab: &Lab, own: [f32; 2], alias: Option<&str>) -> Manifest {
    let registered = writer(lab).register(&candidate(own), alias).await;
    registered.unwrap()
}

/// The model as somebody reads it who has read nothing before.
async fn read(lab: &Lab) -> Model {
    Registry::new(lab.opened()).model(MODEL).await.unwrap()
}

async fn verified(lab: &Lab, repair: bool) -> Verified {
    in_time("verifying", verify(&writer(lab), None, repair)).await.unwrap()
}

/// Nothing is wrong anywhere, and nothing lies in one cloud that does not lie in all.
async fn assert_whole_and_equal(lab: &Lab) {
    let found = verified(lab, false).await;
    assert!(found.holds(), "{:?}", found.findings);
    lab.assert_trees_equal().await;
}

fn champion(model: &Model) -> Option<u64> {
    model.aliases.get("champion").copied()
}

async fn promote(lab: &Lab, version: u64) {
    let promoted = writer(lab).promote(MODEL, &Which::Version(version), "champion").await;
    assert_eq!(promoted.unwrap(), (version, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registered_version_is_the_same_in_every_cloud_and_is_read_back() {
    let lab = Lab::in_directories();
    let registry = Registry::new(lab.opened());
    assert_eq!(registry.names().await.unwrap(), Vec::<String>::new());
    let error = registry.model(MODEL).await.unwrap_err();
    assert!(error.exit_code() == 2 && error.to_string().contains("no model"), "{error}");

    let first = register(&lab, [1.0, 2.0], Some("challenger")).await;
    let second = register(&lab, [3.0, 4.0], None).await;
    assert_eq!((first.version, second.version), (1, 2));
    assert_eq!(registry.names().await.unwrap(), [MODEL]);
    let model = registry.model(MODEL).await.unwrap();
    assert_eq!(model.versions, BTreeMap::from([(1, first.clone()), (2, second)]));
    assert_eq!(model.aliases, BTreeMap::from([("challenger".to_owned(), 1)]));
    assert_eq!((model.entry, read(&lab).await), (3, model.clone()));
    let onnx = registry.artifact(MODEL, 1, &first.onnx).await.unwrap();
    assert_eq!(onnx, models::onnx([1.0, 2.0]));
    assert_eq!(first.features.len(), 2);
    assert_eq!(first.metrics["roc_auc"], 0.7125);
    assert_whole_and_equal(&lab).await;

    // What is in the folder of a version is what the format says.
    let tree = lab.clouds[0].tree().await;
    let files = tree.keys().filter_map(|path| path.strip_prefix("models/flight_delay/1/"));
    let mut files: Vec<&str> = files.filter(|file| !file.ends_with('/') && !file.is_empty()).collect();
    files.sort_unstable();
    assert_eq!(files, ["manifest.json", "model.onnx", "model_card.md", "plots/roc.png", "statistics.json"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_registrations_at_the_same_time_get_different_versions_and_none_is_lost() {
    let lab = Lab::in_memory();
    register(&lab, [0.0, 0.0], None).await;
    let (one, other) = in_time(
        "registering",
        futures::future::join(register(&lab, [1.0, 1.0], Some("a")), register(&lab, [2.0, 2.0], Some("b"))),
    )
    .await;
    let mut versions = [one.version, other.version];
    versions.sort_unstable();
    assert_eq!(versions, [2, 3]);
    let (registry, model) = (Registry::new(lab.opened()), read(&lab).await);
    for (manifest, own, alias) in [(&one, [1.0, 1.0], "a"), (&other, [2.0, 2.0], "b")] {
        assert_eq!(model.versions[&manifest.version], *manifest);
        assert_eq!(model.aliases[alias], manifest.version);
        let onnx = registry.artifact(MODEL, manifest.version, &manifest.onnx).await.unwrap();
        assert_eq!(onnx, models::onnx(own));
    }
    // The last one left may have been superseded before it had brought everything everywhere.
    verified(&lab, true).await;
    assert_whole_and_equal(&lab).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_start_needs_every_cloud_and_leaves_nothing_visible() {
    let lab = Lab::in_memory();
    lab.clouds[1].switch.set(Fault::RefuseAll);
    let refused = writer(&lab).register(&candidate([1.0, 2.0]), None).await.unwrap_err();
    assert!(matches!(refused, Error::NoMajority { .. }), "{refused}");
    lab.clouds[1].switch.set(Fault::Off);
    assert_eq!(Registry::new(lab.opened()).names().await.unwrap(), Vec::<String>::new());
    assert_eq!(register(&lab, [1.0, 2.0], None).await.version, 1);
    assert_whole_and_equal(&lab).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cloud_that_is_away_is_done_without_and_filled_by_the_next_command() {
    for away in 0..3 {
        let lab = Lab::in_memory();
        register(&lab, [1.0, 1.0], Some("champion")).await;
        lab.clouds[away].switch.set(Fault::RefuseAll);
        let second = register(&lab, [2.0, 2.0], None).await;
        promote(&lab, 2).await;
        let model = read(&lab).await;
        assert_eq!((champion(&model), &model.versions[&2]), (Some(2), &second));
        let registry = Registry::new(lab.opened());
        assert_eq!(registry.artifact(MODEL, 2, &second.onnx).await.unwrap(), models::onnx([2.0, 2.0]));
        let found = verified(&lab, false).await;
        let kinds: Vec<_> = found.findings.iter().map(|it| (it.kind, it.cloud.clone())).collect();
        assert_eq!(kinds, [(FindingKind::Unavailable, Some(lab.clouds[away].name.clone()))]);

        lab.clouds[away].switch.set(Fault::Off);
        promote(&lab, 1).await;
        assert_whole_and_equal(&lab).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_two_clouds_away_nothing_is_decided_and_nothing_is_read() {
    let lab = Lab::in_memory();
    register(&lab, [1.0, 1.0], None).await;
    for away in &lab.clouds[1..] {
        away.switch.set(Fault::RefuseAll);
    }
    let refused = writer(&lab).promote(MODEL, &Which::Version(1), "champion").await.unwrap_err();
    assert!(matches!(refused, Error::NoMajority { .. }), "{refused}");
    let refused = Registry::new(lab.opened()).model(MODEL).await.unwrap_err();
    assert!(matches!(refused, Error::NoMajority { .. }), "{refused}");
    for away in &lab.clouds[1..] {
        away.switch.set(Fault::Off);
    }
    assert_eq!(champion(&read(&lab).await), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alias_moves_at_once_and_goes_back_step_by_step() {
    let lab = Lab::in_memory();
    for own in [1.0, 2.0, 3.0] {
        register(&lab, [own, own], None).await;
    }
    let writer = writer(&lab);
    promote(&lab, 1).await;
    for (from, to) in [(1, 2), (2, 3)] {
        let moving = async {
            promote(&lab, to).await;
            // Whoever is told so finds it so, whichever clouds answer.
            assert_eq!(champion(&read(&lab).await), Some(to));
        };
        let watching = async {
            // Aliases and versions are those of one entry; no reader sees anything in between.
            let mut seen = Vec::new();
            while seen.last() != Some(&to) {
                let model = read(&lab).await;
                assert_eq!(model.versions.len(), 3);
                seen.extend(champion(&model));
                tokio::task::yield_now().await;
            }
            assert!(seen.iter().all(|version| [from, to].contains(version)), "{seen:?}");
        };
        in_time("promoting", futures::future::join(moving, watching)).await;
    }
    // Once more is no change, and no entry.
    let entry = read(&lab).await.entry;
    assert_eq!(writer.promote(MODEL, &Which::Version(3), "champion").await.unwrap(), (3, false));
    assert_eq!(read(&lab).await.entry, entry);
    assert_eq!(writer.promote(MODEL, &Which::Alias("champion".into()), "shadow").await.unwrap(), (3, true));

    assert_eq!(writer.rollback(MODEL, "champion").await.unwrap(), 2);
    assert_eq!(writer.rollback(MODEL, "champion").await.unwrap(), 1);
    let model = read(&lab).await;
    assert_eq!((champion(&model), model.aliases["shadow"]), (Some(1), 3));
    for (model, alias, reason) in [
        (MODEL, "champion", "meant nothing before version 1"),
        (MODEL, "nobody", "has no alias nobody"),
        ("other", "champion", "no model `other`"),
        (MODEL, "Champion", "no alias"),
    ] {
        let error = writer.rollback(model, alias).await.unwrap_err();
        assert!(error.exit_code() == 2 && error.to_string().contains(reason), "{error}");
    }
    for which in [Which::Version(4), Which::Alias("nobody".into())] {
        let error = writer.promote(MODEL, &which, "champion").await.unwrap_err();
        assert!(error.exit_code() == 2 && error.to_string().contains("has no"), "{error}");
    }
    assert_eq!(champion(&read(&lab).await), Some(1));
    assert_whole_and_equal(&lab).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_are_lost_change_nothing() {
    let lab = Lab::in_memory();
    register(&lab, [1.0, 1.0], None).await;
    // Of everything but the files and the probes at the start: an upload that is not known to be done counts as failed, and a cloud
    // that does not say whether it stored a probe is not trusted.
    lab.script.set(|request| {
        let is_certain = request.path.contains("/flight_delay/2/") || request.path.contains("/probe/");
        match request.kind == Kind::Write && !is_certain {
            true => Verdict::LoseAnswer,
            false => Verdict::Pass,
        }
    });
    let second = register(&lab, [2.0, 2.0], Some("champion")).await;
    lab.script.clear();
    let model = read(&lab).await;
    assert_eq!((second.version, champion(&model), model.versions.len()), (2, Some(2), 2));
    assert_whole_and_equal(&lab).await;
}

/// Once there is a model, a majority is enough: one failed request, whichever it is, stops no registration.
#[tokio::test(flavor = "multi_thread")]
async fn any_one_request_of_a_registration_may_fail() {
    for (test, verdict) in [("model_refused", Verdict::Refuse), ("model_lost", Verdict::LoseAnswer)] {
        let seed = Seed::of(test);
        let lab = Lab::in_memory();
        register(&lab, [0.0, 0.0], None).await;
        let before = lab.script.requests();
        register(&lab, [0.5, 0.5], None).await;
        let requests = lab.script.requests() - before;
        assert!(requests > 100, "{requests} requests are fewer than two decisions take");
        for number in sample(requests, &mut seed.prng()) {
            let (place, verdict) = (lab.script.requests() + number, verdict.clone());
            lab.script.set(move |request| match request.number == place {
                true => verdict.clone(),
                false => Verdict::Pass,
            });
            let registered = register(&lab, [number as f32, 1.0], Some("champion")).await;
            lab.script.clear();
            let model = read(&lab).await;
            assert_eq!(champion(&model), Some(registered.version), "request {number}");
            assert_eq!(model.versions[&registered.version], registered, "request {number}");
        }
        verified(&lab, true).await;
        assert_whole_and_equal(&lab).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_killed_between_files_and_entry_leaves_nothing_visible() {
    let lab = Lab::in_directories();
    let spec = lab.spec(SOURCE, FEATURES_YAML).written();
    let spec = spec.to_str().unwrap();
    let (first, second) = (models::folder([1.0, 2.0]), models::folder([3.0, 4.0]));
    let folder = |folder: &FilePath| folder.to_str().unwrap().to_owned();
    let register = |path: &str| {
        let arguments = ["models", "register", path, "--model", MODEL, "--alias", "champion", "-c", spec];
        isobar(&arguments)
    };
    // The first decision gives the version's number away, the second one registers it.
    let mut killed = register(&folder(first.path()));
    killed.env(failpoint::VARIABLE, order(&DECIDE_BEFORE_ACCEPT, "", 2, "kill"));
    let output = run(&mut killed).await;
    assert_eq!(output.code, None, "{output}");
    let holds = lab.clouds.iter().filter(|cloud| {
        let folder = cloud.folder.as_ref().unwrap();
        folder.join("models/flight_delay/1/model.onnx").exists()
    });
    assert!(holds.count() >= 2, "it was killed after the files");
    assert_eq!(Registry::new(lab.opened()).names().await.unwrap(), Vec::<String>::new());
    run_isobar(&["models", "ls", "-c", spec]).await.assert(0, &["there is no model yet"]);

    run(&mut register(&folder(second.path()))).await.assert(0, &["flight_delay version 2 is registered"]);
    let model = read(&lab).await;
    assert_eq!(model.versions.keys().copied().collect::<Vec<_>>(), [2]);
    assert_eq!(champion(&model), Some(2));
    let found = verified(&lab, false).await;
    assert!(found.holds(), "{:?}", found.findings);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_rotten_in_one_cloud_is_read_from_another_named_and_put_back() {
    let lab = Lab::in_directories();
    let first = register(&lab, [1.0, 2.0], None).await;
    promote(&lab, 1).await;
    let folder = lab.clouds[0].folder.clone().unwrap().join("models/flight_delay");
    let rot = |name: &str| {
        let path = folder.join(name);
        let mut bytes = fs::read(&path).unwrap();
        let place = bytes.len() / 2;
        bytes[place] ^= 1;
        fs::write(path, bytes).unwrap();
    };
    rot("1/model.onnx");
    rot("1/manifest.json");
    // The first entry, of which later ones say what it was, and the last one, of which most clouds do.
    rot("_log/00000000000000000000.json");
    rot("_log/00000000000000000002.json");
    fs::remove_file(folder.join("1/statistics.json")).unwrap();

    let registry = Registry::new(lab.opened());
    let model = registry.model(MODEL).await.unwrap();
    assert_eq!((champion(&model), &model.versions[&1]), (Some(1), &first));
    assert_eq!(registry.artifact(MODEL, 1, &first.onnx).await.unwrap(), models::onnx([1.0, 2.0]));

    let found = verified(&lab, false).await;
    let cloud = Some(lab.clouds[0].name.clone());
    assert!(found.findings.iter().all(|finding| finding.cloud == cloud), "{:?}", found.findings);
    let wrong: Vec<_> =
        found.findings.iter().map(|finding| (finding.object.as_str(), finding.kind)).collect();
    let object = |name: &str| format!("models/flight_delay/{name}");
    let expected = [
        ("1/manifest.json", FindingKind::Differs),
        ("1/model.onnx", FindingKind::Differs),
        ("1/statistics.json", FindingKind::Missing),
        ("_log/00000000000000000000.json", FindingKind::Differs),
        ("_log/00000000000000000002.json", FindingKind::Differs),
    ]
    .map(|(name, kind)| (object(name), kind));
    let expected: Vec<_> = expected.iter().map(|(name, kind)| (name.as_str(), *kind)).collect();
    assert_eq!(wrong, expected);

    let repaired = verified(&lab, true).await;
    assert!(repaired.holds(), "{:?}", repaired.findings);
    assert_eq!(repaired.repaired.len(), 5);
    assert_whole_and_equal(&lab).await;
    // What lay in the place of entries can be looked at.
    let aside = Path::from("control/models.registry/foreign/models/flight_delay");
    let store = lab.clouds[0].store();
    let aside = futures::TryStreamExt::try_collect::<Vec<_>>(store.list(Some(&aside))).await.unwrap();
    assert_eq!(aside.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_rotten_in_every_cloud_is_an_error_and_no_answer() {
    let lab = Lab::in_memory();
    let first = register(&lab, [1.0, 2.0], None).await;
    for cloud in &lab.clouds {
        let path = Path::from("models/flight_delay/1/model.onnx");
        let mut bytes = read_object(&*cloud.store(), &path).await.to_vec();
        bytes[30] ^= 1;
        cloud.store().put(&path, bytes.into()).await.unwrap();
    }
    let error = Registry::new(lab.opened()).artifact(MODEL, 1, &first.onnx).await.unwrap_err();
    assert!(matches!(error, Error::Damaged { .. }), "{error}");
    assert_eq!(verified(&lab, true).await.findings.len(), 3, "there is nothing to repair it from");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_written_over_what_isobar_did_not_write() {
    let lab = Lab::in_memory();
    let path = Path::from("models/flight_delay/1/model.onnx");
    lab.clouds[2].store().put(&path, "somebody else's".into()).await.unwrap();
    let refused = writer(&lab).register(&candidate([1.0, 2.0]), None).await.unwrap_err();
    assert!(matches!(refused, Error::Damaged { .. }) && refused.to_string().contains("gcp"), "{refused}");
    assert_eq!(read_object(&*lab.clouds[2].store(), &path).await, "somebody else's");
    assert_eq!(Registry::new(lab.opened()).names().await.unwrap(), Vec::<String>::new());
    assert_eq!(register(&lab, [1.0, 2.0], None).await.version, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cloud_that_lost_everything_counts_in_nothing_until_it_is_readmitted() {
    let lab = Lab::in_memory();
    register(&lab, [1.0, 2.0], None).await;
    for lost in 0..3 {
        let cloud = &lab.clouds[lost];
        wipe(&*cloud.store()).await;
        let version = register(&lab, [lost as f32, 0.0], Some("champion")).await.version;
        assert_eq!(champion(&read(&lab).await), Some(version));
        let found = verified(&lab, false).await;
        let is_lost = |kind: FindingKind| kind == FindingKind::Missing;
        assert!(!found.holds() && found.findings.iter().all(|finding| is_lost(finding.kind)));
        // One more away: the lost one does not make a majority.
        let other = &lab.clouds[(lost + 1) % 3];
        other.switch.set(Fault::RefuseAll);
        let refused = Registry::new(lab.opened()).model(MODEL).await.unwrap_err();
        assert!(matches!(refused, Error::NoMajority { .. }), "{refused}");
        other.switch.set(Fault::Off);

        let readmitted = in_time("a readmission", readmit(&writer(&lab), &cloud.name)).await.unwrap();
        assert!(readmitted.holds(), "{:?}", readmitted.findings);
        other.switch.set(Fault::RefuseAll);
        assert_eq!(champion(&read(&lab).await), Some(version));
        other.switch.set(Fault::Off);
    }
    register(&lab, [9.0, 9.0], None).await;
    assert_whole_and_equal(&lab).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_registers_shows_promotes_and_exports() {
    let lab = Lab::in_directories();
    let spec = lab.spec(SOURCE, FEATURES_YAML).written();
    let spec = spec.to_str().unwrap();
    let models =
        async |arguments: &[&str]| run_isobar(&[&["models"][..], arguments, &["-c", spec]].concat()).await;
    models(&["ls"]).await.assert(0, &["there is no model yet"]);
    models(&["show", MODEL]).await.assert(2, &["no model `flight_delay`"]);
    let (forest, network) = (models::folder([1.0, 2.0]), models::folder([3.0, 4.0]));
    let forest = forest.path().to_str().unwrap();
    let register = ["register", forest, "--model", MODEL, "--alias", "challenger"];
    models(&register).await.assert(0, &["flight_delay version 1 is registered, challenger means it"]);
    models(&["register", network.path().to_str().unwrap(), "--model", MODEL]).await.assert(0, &["version 2"]);
    models(&["register", forest, "--model", "Late"]).await.assert(2, &["no name of a model"]);
    models(&["register", forest, "--model", MODEL, "--onnx-bytes-max", "10B"])
        .await
        .assert(2, &["larger than"]);
    models(&["ls"]).await.assert(0, &[MODEL, "challenger=1"]);
    models(&["promote", "flight_delay@challenger"])
        .await
        .assert(0, &["champion of flight_delay means version 1"]);
    models(&["promote", "flight_delay@2"]).await.assert(0, &["means version 2"]);
    models(&["promote", "flight_delay@2"]).await.assert(0, &["already"]);
    models(&["promote", "flight_delay@7"]).await.assert(2, &["has no version 7"]);
    models(&["promote", "flight_delay@"]).await.assert(2, &["neither a version nor an alias"]);
    models(&["rollback", MODEL]).await.assert(0, &["version 1 again"]);
    models(&["rollback", MODEL]).await.assert(2, &["meant nothing before"]);
    models(&["show", MODEL]).await.assert(0, &["roc_auc=0.7125", "challenger champion"]);
    let described =
        ["features FP32[*, 2]", "distance float64 of flight_features, contract 1.2.0", "plots/roc.png"];
    models(&["show", "flight_delay@champion"]).await.assert(0, &described);
    let shown = models(&["show", "flight_delay@2", "--format", "json"]).await;
    let shown: Json = serde_json::from_str(&shown.stdout).unwrap();
    assert_eq!(shown["version"], 2);
    assert_eq!(shown["data"][0]["version"], 42);
    models(&["verify"]).await.assert(0, &["10 files", "the same in every cloud"]);
    fs::remove_file(lab.clouds[1].folder.as_ref().unwrap().join("models/flight_delay/2/model.onnx")).unwrap();
    models(&["verify"]).await.assert(1, &["azure: models/flight_delay/2/model.onnx: it is not there"]);
    models(&["verify", "--repair"]).await.assert(0, &["repaired", "the same in every cloud"]);

    // Out as one of MLflow's folders, and in again: the same model.
    let out = lab.directory.path().join("exported");
    let out = out.to_str().unwrap();
    models(&["export", "flight_delay@champion", "--out", out]).await.assert(0, &["version 1 is in"]);
    models(&["export", "flight_delay@champion", "--out", out]).await.assert(2, &["not empty"]);
    models(&["register", out, "--model", "copied"]).await.assert(0, &["copied version 1"]);
    let registry = Registry::new(lab.opened());
    let (model, copied) = (registry.model(MODEL).await.unwrap(), registry.model("copied").await.unwrap());
    let renamed = Manifest { model: MODEL.to_owned(), ..copied.versions[&1].clone() };
    assert_eq!(renamed, model.versions[&1]);
    assert_eq!(registry.names().await.unwrap(), ["copied", MODEL]);
}
