//! Queries while a cloud dies under them: the answer is the one that the unbroken clouds give.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path as FilePath;
use std::time::Duration;

use futures::TryStreamExt;
use isobar_connectors::clouds::{self, Cloud};
use isobar_tests::events::{Generator, TOPIC};
use isobar_tests::gcs::GcsSimulator;
use isobar_tests::lab::{Lab, text_of};
use isobar_tests::prng::Seed;
use isobar_tests::program::run_isobar;
use isobar_tests::proxy::{Mode, Proxy};
use isobar_topologies::query::{Catalog, Reading, RowsFormat, Usage, catalog_reading};
use isobar_topologies::spec::Topology;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use url::Url;

/// Queries during each of which a cloud is killed.
const QUERIES: u64 = 100;
/// How long a cloud may take. It decides how long a query takes whose cloud hangs, and not what it answers.
const ANSWER_WITHIN: Duration = Duration::from_millis(300);

const QUESTIONS: [&str; 4] = [
    "SELECT * FROM features ORDER BY kafka_partition, kafka_offset",
    "SELECT city, count(*) AS n, sum(items) AS items, min(id) AS least FROM features GROUP BY city ORDER BY city",
    "SELECT count(*) AS n FROM features AS a JOIN features AS b USING (kafka_partition, kafka_offset) WHERE a.id = b.id",
    "SELECT id, amount FROM features WHERE items > 5 ORDER BY id, kafka_partition, kafka_offset LIMIT 50",
];

/// A lab with a table of several versions and files.
async fn filled(lab: Lab) -> (Lab, Topology) {
    let seed = Seed::of("failover");
    let topology = lab.features();
    let mut generator = Generator::mixed(seed.prng());
    for _ in 0..6 {
        lab.produce(TOPIC, generator.records(400));
        lab.run_until_caught_up(&topology).await.unwrap();
    }
    (lab, topology)
}

async fn copy(from: &dyn ObjectStore, to: &dyn ObjectStore) {
    let objects: Vec<_> = from.list(Some(&Path::from("datasets"))).try_collect().await.unwrap();
    for object in objects {
        let bytes = from.get(&object.location).await.unwrap().bytes().await.unwrap();
        to.put(&object.location, bytes.into()).await.unwrap();
    }
}

fn catalog(topology: &Topology, clouds: &[Cloud]) -> Catalog {
    let mut reading = Reading::of(topology.query.clone());
    reading.answer_within = ANSWER_WITHIN;
    catalog_reading(topology, clouds, &reading).unwrap()
}

/// The rows, the version and what was read.
async fn answer(catalog: &Catalog, sql: &str) -> (String, u64, Usage) {
    let mut answer = catalog.query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    let version = answer.from()[0].version;
    let text =
        text_of(&mut answer, RowsFormat::Json).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    (text, version, answer.usage())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cloud_killed_during_each_of_100_queries_changes_no_answer() {
    let seed = Seed::of("failover_kills");
    let mut prng = seed.prng();
    let (lab, topology) = filled(Lab::in_memory()).await;
    let simulator = GcsSimulator::start("127.0.0.1:0", &["bucket"]).await.unwrap();
    let proxy = Proxy::start(&simulator.address()).await;
    let url = Url::parse("gs://bucket/isobar").unwrap();
    let open = |address: &str| clouds::open("aws", &url, &GcsSimulator::options(address)).unwrap();
    copy(&*lab.clouds[0].store(), &*open(&simulator.address()).data).await;
    let others: Vec<Cloud> = lab.clouds[1..].iter().map(|cloud| cloud.opened()).collect();
    let all: Vec<Cloud> = [open(&proxy.address())].into_iter().chain(others.iter().cloned()).collect();

    // What is right is told by the clouds that nothing happens to; how much there is to read by the one that dies.
    let mut expected = Vec::new();
    for sql in QUESTIONS {
        let (rows, version, _) = answer(&catalog(&topology, &others), sql).await;
        let before = proxy.passed();
        let (same, _, usage) = answer(&catalog(&topology, &all[..1]), sql).await;
        assert_eq!(same, rows, "{sql}");
        assert!(usage.clouds.iter().all(|read| read.cloud == "aws") && version > 5, "{usage:?}");
        expected.push((sql, rows, version, proxy.passed() - before));
    }

    // A slow machine may take an answer for late, and not read on to where the cloud would have died: that query does not count.
    let (mut killed, mut number) = (0, 0);
    while killed < QUERIES {
        number += 1;
        assert!(
            number < 20 * QUERIES,
            "only {killed} of {number} queries were under way when the cloud died"
        );
        let (sql, rows, version, bytes) = prng.pick(&expected);
        // Refused from then on, hanging from then on, one connection cut, or every answer lost.
        let mode = *prng.pick(&[Mode::Refuse, Mode::Hang, Mode::Forward, Mode::LoseAnswers]);
        let at = prng.below(*bytes);
        proxy.set(Mode::Forward);
        proxy.set_after(at, mode);
        let (found, read, usage) = answer(&catalog(&topology, &all), sql).await;
        assert!(found == *rows, "query {number}, {mode:?} at byte {at}: {sql}: {usage:?}");
        assert_eq!(read, *version, "query {number}, {mode:?} at byte {at}: {sql}");
        killed += u64::from(!proxy.forget_after());
    }
    println!("a cloud died during {killed} of {number} queries");
}

/// Deletes the data files of a cloud.
fn lose_files(folder: &FilePath) {
    for entry in fs::read_dir(folder.join("datasets/features")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "parquet") {
            fs::remove_file(path).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_says_which_cloud_was_read_and_refuses_what_cannot_be() {
    let (lab, _) = filled(Lab::in_directories()).await;
    let spec = lab.spec(isobar_tests::events::SOURCE, isobar_tests::events::FEATURES_YAML).written();
    let sql = "SELECT count(*) AS n, sum(items) AS items FROM features";
    let ask = async |options: &[&str]| {
        let config = ["query", sql, "--config", spec.to_str().unwrap(), "--format", "csv"];
        run_isobar(&[&config[..], options].concat()).await
    };
    let first = ask(&["--stats"]).await;
    assert_eq!(first.code, Some(0), "{first}");
    assert!(first.stderr.contains("from aws") && !first.stderr.contains("from azure"), "{first}");

    lose_files(lab.clouds[0].folder.as_ref().unwrap());
    let second = ask(&["--stats"]).await;
    assert_eq!((second.code, &second.stdout), (Some(0), &first.stdout), "{second}");
    assert!(second.stderr.contains("from azure"), "{second}");
    let only = ask(&["--cloud", "gcp", "--stats"]).await;
    assert_eq!((only.code, &only.stdout), (Some(0), &first.stdout), "{only}");
    assert!(only.stderr.contains("from gcp"), "{only}");
    for prefer in ["order", "nearest"] {
        let answer = ask(&["--prefer", prefer, "--max-age", "100h"]).await;
        assert_eq!((answer.code, &answer.stdout), (Some(0), &first.stdout), "{answer}");
    }

    for (options, code, said) in [
        (["--cloud", "aws"], 1, "aws"),
        (["--cloud", "asw"], 2, "there is no cloud asw; the clouds are aws, azure, gcp"),
        (["--prefer", "cheapest"], 2, "aws has no price"),
        (["--local-to", "moon"], 2, "the clouds are aws, azure, gcp"),
        (["--min-version", "features=100000"], 1, "read features at version 100000 or later"),
        (["--min-version", "nothing=1"], 2, "there is no table nothing"),
        (["--min-version", "features"], 2, "features=42"),
        (["--max-age", "1ms"], 1, "at a version committed at most 1ms ago"),
        (["--max-age", "soon"], 2, "duration"),
    ] {
        let answer = ask(&options).await;
        assert_eq!(answer.code, Some(code), "{options:?}: {answer}");
        assert!(answer.stderr.contains(said), "{options:?}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spec_with_prices_and_a_cache_reads_the_cheapest_cloud_once() {
    let (lab, _) = filled(Lab::in_directories()).await;
    let spec = lab.spec(isobar_tests::events::SOURCE, isobar_tests::events::FEATURES_YAML);
    let section = "query:
  prefer: cheapest
  prices:
    aws: { egress_per_gib: 0.09 }
    azure: { egress_per_gib: 0.08 }
    gcp: { egress_per_gib: 0.12 }
  cache: { directory: ./cache, size: 64MiB }
";
    let path = lab.directory.path().join("priced.yaml");
    fs::write(&path, format!("{}{section}", spec.text())).unwrap();
    let sql = "SELECT count(*) AS n, sum(items) AS items FROM features";
    let ask = async |options: &[&str]| {
        let config = ["query", sql, "--config", path.to_str().unwrap(), "--format", "csv", "--stats"];
        let answer = run_isobar(&[&config[..], options].concat()).await;
        assert_eq!(answer.code, Some(0), "{answer}");
        answer
    };
    let first = ask(&[]).await;
    assert!(first.stderr.contains("from azure") && first.stderr.contains("USD"), "{first}");
    let second = ask(&[]).await;
    assert_eq!(second.stdout, first.stdout);
    let read = second.stderr.lines().find(|line| line.starts_with("read ")).unwrap();
    assert!(read.contains("from the cache") && !read.contains("request"), "{second}");
    // Nothing in the folder gives a wrong byte.
    for entry in fs::read_dir(lab.directory.path().join("cache")).unwrap() {
        let entry = entry.unwrap().path();
        let mut bytes = fs::read(&entry).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        fs::write(&entry, bytes).unwrap();
    }
    let third = ask(&[]).await;
    assert_eq!(third.stdout, first.stdout);
    assert!(third.stderr.contains("from azure"), "{third}");
    let local = ask(&["--local-to", "gcp"]).await;
    assert_eq!(local.stdout, first.stdout);
    assert!(local.stderr.contains("log read from gcp"), "{local}");
}

/// What the section says that is not right is found by `isobar check`, with its line.
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_section_is_found_with_its_line() {
    let lab = Lab::in_directories();
    let spec = lab.spec(isobar_tests::events::SOURCE, isobar_tests::events::FEATURES_YAML);
    let path = lab.directory.path().join("wrong.yaml");
    let text =
        format!("{}query:\n  local_to: aww\n  prices: {{ aws: {{ egress_per_gib: -1 }} }}\n", spec.text());
    let lines: BTreeMap<&str, usize> =
        text.lines().enumerate().map(|(number, line)| (line.trim_start(), number + 1)).collect();
    fs::write(&path, &text).unwrap();
    let checked = run_isobar(&["check", path.to_str().unwrap()]).await;
    assert_eq!(checked.code, Some(2), "{checked}");
    let said = format!("{}{}", checked.stdout, checked.stderr);
    let line = lines["local_to: aww"];
    assert!(said.contains(&format!("wrong.yaml:{line}:")) && said.contains("did you mean `aws`"), "{said}");
    assert!(said.contains("from 0 to 1000000"), "{said}");
}
