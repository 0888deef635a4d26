//! Training sets: the same bytes from every cloud and ever after, with what an independent reader finds; and leaks that are found
//! where they are, and nowhere else.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use arrow::array::{Array, AsArray};
use arrow::datatypes::Int64Type;
use isobar_tests::events::Record;
use isobar_tests::lab::{Lab, write_file};
use isobar_tests::prng::Seed;
use isobar_tests::program::{Output, run_isobar};
use isobar_tests::services::oracle;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value as Json;

use crate::as_of::{DATASETS, SOURCES, records};

/// What the questions of `as_of` ask: once with all that was known, once with what was known and young.
const SET: &str = "training_set: trials
topology: topology.yaml
spine: { dataset: asked, time: t, keys: [trial, k], labels: [id] }
views:
  observed: { offset: seq, features: [value] }
  young: { dataset: observed, offset: seq, ttl: 3s, features: [value, seq], rename: { value: found } }
";

/// A trial that no question is about.
const PLANTED: i64 = 1_000_000;

/// Observations of one entity: when they happened, since when they were known, and a value that no other has.
const OBSERVED: [(&str, &str, i64); 3] = [
    ("2026-01-01T10:00:00Z", "2026-01-01T10:00:00Z", 9_000_001),
    ("2026-01-01T11:00:00Z", "2026-01-01T12:00:00Z", 9_000_002),
    ("2026-01-01T13:00:00Z", "2026-01-01T13:00:00Z", 9_000_003),
];

/// Two datasets, committed to three clouds, and where their topology lies.
async fn committed(seed: &'static str) -> (Lab, PathBuf) {
    let lab = Lab::new(&["questions", "observations"], 3, true);
    let [questions, mut observations] = records(&mut Seed::of(seed).prng());
    for (event_time, known_time, value) in OBSERVED {
        let payload = format!(
            r#"{{"trial":{PLANTED},"k":"a","seq":0,"value":{value},"event_time":"{event_time}","known_time":"{known_time}"}}"#
        );
        observations.push(Record::bad(Some(payload.as_bytes()), "not of the events"));
    }
    lab.produce("questions", questions);
    lab.produce("observations", observations);
    let spec = lab.spec(SOURCES, DATASETS);
    lab.run_until_caught_up(&spec.resolved()).await.unwrap();
    for dataset in ["asked", "observed"] {
        lab.wait_until_equal(dataset).await;
    }
    (lab, spec.written())
}

fn text(path: &Path) -> &str {
    path.to_str().expect("paths of tests are UTF-8")
}

fn json(output: &Output) -> Json {
    serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}\n{output}"))
}

/// A training set that was made: its file, its manifest, and what was printed about it.
struct Made {
    file: PathBuf,
    manifest_file: PathBuf,
    manifest: Json,
}

async fn made(set: &Path, out: &Path, further: &[&str]) -> Made {
    let mut arguments = vec!["training-set", text(set), "--out", text(out), "--format", "json"];
    arguments.extend(further);
    let output = run_isobar(&arguments).await;
    output.assert(0, &[]);
    let mut printed = json(&output);
    let path = |name: &str| PathBuf::from(printed[name].as_str().unwrap());
    let (file, manifest_file) = (path("file"), path("manifest_file"));
    let manifest = printed["manifest"].take();
    let written: Json = serde_json::from_slice(&std::fs::read(&manifest_file).unwrap()).unwrap();
    assert_eq!(manifest, written);
    Made { file, manifest_file, manifest }
}

/// Id and value of each row as CSV, as the oracle wants answers.
fn answers(file: &Path, value: &str) -> String {
    let file = std::fs::File::open(file).unwrap();
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
    let mut csv = "id,value\n".to_owned();
    for batch in reader {
        let batch = batch.unwrap();
        let (ids, values) =
            (batch["id"].as_primitive::<Int64Type>(), batch[value].as_primitive::<Int64Type>());
        for row in 0..batch.num_rows() {
            let value = if values.is_null(row) { String::new() } else { values.value(row).to_string() };
            csv.push_str(&format!("{},{value}\n", ids.value(row)));
        }
    }
    csv
}

#[tokio::test(flavor = "multi_thread")]
async fn every_cloud_gives_the_same_set_also_after_further_commits() {
    let (lab, topology) = committed("training").await;
    let folder = topology.parent().unwrap();
    let set = write_file(&folder.join("trials.yaml"), SET);
    let mut sets = Vec::new();
    for cloud in &lab.clouds {
        let out = lab.directory.path().join("sets").join(&cloud.name);
        sets.push(made(&set, &out, &["--cloud", &cloud.name]).await);
    }
    let first = &sets[0];
    let bytes = std::fs::read(&first.file).unwrap();
    for other in &sets[1..] {
        assert_eq!(first.file.file_name(), other.file.file_name());
        assert!(bytes == std::fs::read(&other.file).unwrap());
        assert_eq!(first.manifest, other.manifest);
    }
    assert!(first.manifest["rows"].as_u64().unwrap() > 3000);
    let names: Vec<&str> =
        first.manifest["columns"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["trial", "k", "t", "id", "observed__value", "young__found", "young__seq"]);

    // Two readers that share no code with ours: of the digest, and of what was known.
    let output = oracle(&["digest", text(&first.file), "--manifest", text(&first.manifest_file)]).await;
    output.assert(0, &[]);
    let tables = ["asked", "observed"].map(|table| {
        let path = lab.clouds[1].folder.as_ref().unwrap().join("datasets").join(table);
        text(&path).to_owned()
    });
    for (column, ttl) in [("observed__value", None), ("young__found", Some("3"))] {
        let answers = write_file(&lab.directory.path().join("answers.csv"), &answers(&first.file, column));
        let mut judged =
            vec!["as_of", &tables[0], &tables[1], "--answers", text(&answers), "--match", "known"];
        judged.extend(ttl.into_iter().flat_map(|ttl| ["--ttl", ttl]));
        oracle(&judged).await.assert(0, &[]);
    }

    let [questions, observations] = records(&mut Seed::of("training, later").prng());
    lab.produce("questions", questions);
    lab.produce("observations", observations);
    lab.run_until_caught_up(&lab.spec(SOURCES, DATASETS).resolved()).await.unwrap();
    let manifest_file = text(&first.manifest_file);
    for cloud in &lab.clouds {
        lab.wait_until_equal("asked").await;
        lab.wait_until_equal("observed").await;
        let arguments = ["training-set", text(&set), "--verify", manifest_file, "--cloud", &cloud.name];
        run_isobar(&arguments).await.assert(0, &["the same", first.manifest["digest"].as_str().unwrap()]);
    }
    let version = |name: &str| first.manifest["versions"][name].as_u64().unwrap();
    let at = format!("asked={},observed={}", version("asked"), version("observed"));
    let again = made(&set, &lab.directory.path().join("sets/again"), &["--at", &at]).await;
    assert_eq!(again.manifest, first.manifest);
    let newest = made(&set, &lab.directory.path().join("sets/newest"), &[]).await;
    assert_ne!(newest.manifest["digest"], first.manifest["digest"]);
    assert_eq!(newest.manifest["request_sha256"], first.manifest["request_sha256"]);

    // A view's own version counts more than that of all, and leads to the same rows of that view.
    let pinned = SET.replace("observed: {", &format!("observed: {{ version: {},", version("observed")));
    let pinned = write_file(&folder.join("pinned.yaml"), &pinned);
    let at = format!("asked={}", version("asked"));
    let pinned = made(&pinned, &lab.directory.path().join("sets/pinned"), &["--at", &at]).await;
    let digest = |made: &Made, name: &str| {
        let columns = made.manifest["columns"].as_array().unwrap();
        columns.iter().find(|column| column["name"] == name).unwrap()["sha256"].clone()
    };
    assert_eq!(digest(&pinned, "observed__value"), digest(first, "observed__value"));
    // The newest observations are of the same trials, so that younger ones are found.
    assert_ne!(digest(&pinned, "young__found"), digest(first, "young__found"));

    let changed = write_file(&folder.join("changed.yaml"), &SET.replace("3s", "4s"));
    let output =
        run_isobar(&["training-set", text(&changed), "--verify", manifest_file, "--format", "json"]).await;
    output.assert(1, &["the request is another one"]);
    assert_eq!(json(&output)["same"], false);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_set_goes_to_a_cloud_and_comes_from_a_file_a_query_or_a_dataset() {
    let (lab, topology) = committed("training sources").await;
    let folder = topology.parent().unwrap();
    let set = write_file(&folder.join("trials.yaml"), SET);
    let gcp = lab.cloud("gcp").folder.clone().unwrap();
    let arguments = ["training-set", text(&set), "--out", "cloud://gcp/training/trials", "--format", "json"];
    let output = run_isobar(&arguments).await;
    output.assert(0, &[]);
    let printed = json(&output);
    let path = printed["file"].as_str().unwrap().strip_prefix("cloud://gcp/").unwrap();
    let local = made(&set, &lab.directory.path().join("sets"), &[]).await;
    assert!(std::fs::read(gcp.join(path)).unwrap() == std::fs::read(&local.file).unwrap());
    let output = run_isobar(&arguments).await;
    output.assert(0, &[]);
    assert_eq!(std::fs::read_dir(gcp.join("training/trials")).unwrap().count(), 2);

    for (out, problem) in [
        ("cloud://gcp/datasets/asked", "training sets lie in `training`"),
        ("cloud://nowhere/training", "there is no cloud `nowhere`"),
    ] {
        run_isobar(&["training-set", text(&set), "--out", out]).await.assert(2, &[problem]);
    }

    // The same rows by a query are the same set, but for how they were asked for.
    let query = SET.replace("dataset: asked", "query: 'SELECT id AS id, t, k, trial FROM asked WHERE true'");
    let query = write_file(&folder.join("query.yaml"), &query);
    let query = made(&query, &lab.directory.path().join("sets"), &[]).await;
    assert_eq!(query.manifest["digest"], local.manifest["digest"]);
    assert!(std::fs::read(&query.file).unwrap() == std::fs::read(&local.file).unwrap());
    assert_ne!(query.file, local.file);
    // The same rows in a file, in the order they have there: a set is a file like any other.
    std::fs::copy(&local.file, folder.join("spine.parquet")).unwrap();
    let file = SET.replace("dataset: asked", "file: spine.parquet");
    let file = write_file(&folder.join("file.yaml"), &file);
    let file = made(&file, &lab.directory.path().join("sets"), &[]).await;
    assert_eq!(file.manifest["digest"], local.manifest["digest"]);
    let inputs = file.manifest["inputs"].as_array().unwrap();
    assert_eq!(inputs.last().unwrap()["sha256"], local.manifest["file"]["sha256"]);
    // A part of them is a part of the set.
    let part =
        write_file(&folder.join("part.yaml"), &SET.replace("labels: [id]", "labels: [id], where: id < 100"));
    let part = made(&part, &lab.directory.path().join("sets"), &[]).await;
    assert_eq!(part.manifest["rows"], 100);
    let rows =
        |made: &Made| answers(&made.file, "young__found").lines().map(str::to_owned).collect::<BTreeSet<_>>();
    assert!(rows(&part).is_subset(&rows(&local)));

    for (from, to, problem) in [
        (
            "dataset: asked",
            "query: 'SELECT now() AS t, trial, k, id FROM asked'",
            "`now()` gives another value",
        ),
        ("dataset: asked", "query: SELECT * FROM asked LIMIT 5", "LIMIT without ORDER BY"),
        ("labels: [id]", "labels: [di]", "there is no column di; did you mean `id`?"),
        ("features: [value]", "features: [valeu]", "view observed: there is no column valeu"),
        ("time: t", "time: id", "a time is a timestamp or a date"),
        ("labels: [id]", "labels: [id], where: count(*) > 1", "spine: `where`"),
    ] {
        let wrong = write_file(&folder.join("wrong.yaml"), &SET.replacen(from, to, 1));
        let output = run_isobar(&["training-set", text(&wrong), "--out", text(folder)]).await;
        output.assert(2, &[problem]);
    }
    let wrong = write_file(&folder.join("wrong.yaml"), &SET.replacen("dataset: asked", "dataset: akse", 1));
    run_isobar(&["training-set", text(&wrong), "--out", text(folder)])
        .await
        .assert(2, &["wrong.yaml:3:", "no dataset `akse`"]);
    let at = ["training-set", text(&set), "--out", text(folder), "--at", "asked=1000"];
    run_isobar(&at).await.assert(2, &["asked has no version 1000"]);
}

/// Row, view and kind of each leak.
fn leaks(report: &Json) -> Vec<(i64, &str, &str)> {
    let examples = report["examples"].as_array().unwrap();
    examples
        .iter()
        .map(|leak| {
            (leak["row"].as_i64().unwrap(), leak["view"].as_str().unwrap(), leak["kind"].as_str().unwrap())
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn leaks_are_found_where_they_were_planted_and_nowhere_else() {
    let (lab, topology) = committed("leaks").await;
    let folder = topology.parent().unwrap();
    let set = write_file(&folder.join("trials.yaml"), SET);
    let ours = made(&set, &lab.directory.path().join("sets"), &[]).await;
    run_isobar(&["leak-check", text(&set)]).await.assert(0, &["trials: no leaks in"]);
    let arguments =
        ["leak-check", text(&set), "--set", text(&ours.file), "--manifest", text(&ours.manifest_file)];
    run_isobar(&arguments).await.assert(0, &["trials: no leaks in"]);

    // Without the known times, some rows have what nobody knew.
    let ignoring = SET.replace("offset: seq", "ignore_known_time: true, offset: seq");
    let ignoring = write_file(&folder.join("ignoring.yaml"), &ignoring);
    let leaking = made(&ignoring, &lab.directory.path().join("sets"), &[]).await;
    run_isobar(&["leak-check", text(&ignoring), "--set", text(&leaking.file)]).await.assert(0, &[]);
    let arguments =
        ["leak-check", text(&set), "--set", text(&leaking.file), "--format", "json", "--limit", "5"];
    let output = run_isobar(&arguments).await;
    output.assert(3, &[]);
    let report = json(&output);
    let expected = answers(&ours.file, "observed__value");
    let found = answers(&leaking.file, "observed__value");
    let different =
        expected.lines().zip(found.lines()).filter(|(ours, theirs)| ours != theirs).count() as u64;
    let view = &report["views"][0];
    // Of rows with equal times another one counts where known times do not: such rows differ, and are no leaks.
    let known_later = view["known_later"].as_u64().unwrap();
    assert!((50..=different).contains(&known_later), "{different}: {report:#}");
    for kind in ["future_event", "too_old", "unexplained"] {
        assert_eq!(view[kind], 0, "{report:#}");
    }
    assert_eq!(report["examples"].as_array().unwrap().len(), 5);

    let [first, second, third] = OBSERVED.map(|(_, _, value)| value);
    let rows = [
        (1, "12:30", second, ""),        // known since 12:00
        (2, "10:30", third, ""),         // happens at 13:00
        (3, "11:30", second, ""),        // known at 12:00
        (4, "12:30", second, "1,first"), // 10:00 is more than an hour ago
        (5, "12:30", 9_000_009, ""),     // was never observed
        (6, "11:30", first, ""),         // the newest known
        (7, "13:00", third, "3,third"),  // to the microsecond
        (8, "12:30", first, "1,first"),  // known, if not the newest; too old
        (9, "09:00", first, "1,first"),  // happens at 10:00, for both views
    ];
    let mut csv = "id,trial,k,t,observed__value,young__found,young__seq\n".to_owned();
    for (id, time, value, young) in rows {
        let young = match young {
            "1,first" => format!("{first},0"),
            "3,third" => format!("{third},0"),
            _ => ",".to_owned(),
        };
        csv.push_str(&format!("{id},{PLANTED},a,2026-01-01T{time}:00Z,{value},{young}\n"));
    }
    let planted = write_file(&folder.join("planted.csv"), &csv);
    let hourly = write_file(&folder.join("hourly.yaml"), &SET.replace("3s", "1h"));
    let output =
        run_isobar(&["leak-check", text(&hourly), "--set", text(&planted), "--format", "json"]).await;
    output.assert(3, &[]);
    let report = json(&output);
    let expected = [
        (1, "observed", "future_event"),
        (2, "observed", "known_later"),
        (4, "observed", "unexplained"),
        (8, "observed", "future_event"),
        (3, "young", "too_old"),
        (7, "young", "too_old"),
        (8, "young", "future_event"),
    ];
    assert_eq!(leaks(&report), expected, "{report:#}");
    let future = &report["examples"][0];
    assert_eq!(future["explained_by"], "2026-01-01T13:00:00Z");
    assert_eq!(future["keys"]["k"], "a");
    assert_eq!(future["features"], serde_json::json!(["observed__value"]));
    let output = run_isobar(&["leak-check", text(&hourly), "--set", text(&planted), "--limit", "1"]).await;
    output.assert(3, &["future event", "6 more leaks", "7 leaks in 9 rows"]);

    let other = write_file(&folder.join("other.csv"), "trial,k,t,observed__vlaue\n1,a,2026-01-01,1\n");
    run_isobar(&["leak-check", text(&set), "--set", text(&other)])
        .await
        .assert(2, &["the training set has no column observed__value; did you mean `observed__vlaue`?"]);
}
