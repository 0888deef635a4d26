//! Data contracts: what they say is in the table of every cloud, a word that changes is one decision and no more, and a query that
//! does not keep its contract does not start.

use std::collections::{BTreeMap, BTreeSet};

use isobar_tests::delta::{Log, Version};
use isobar_tests::events::{self, FEATURES, FEATURES_YAML, Generator, TOPIC};
use isobar_tests::lab::{Lab, LabCloud, Spec, replaced, write_file};
use isobar_tests::prng::Seed;
use isobar_tests::program::run_isobar;
use isobar_tests::wait::in_time;
use isobar_topologies::evolve::preview_in;
use isobar_topologies::query::query_table;
use isobar_topologies::redrive::{RedriveOptions, redrive};
use serde_json::{Value as Json, json};

/// Events per step.
const RECORDS: usize = 300;

/// A contract of [`FEATURES`]. It has the last rule of [`FEATURES_YAML`] in the place of the dataset, so that the rows are the same.
const CONTRACT: &str = "name: features
version: 1.0.0
description: One row per event.
owners: [{ name: Events }]
columns:
  id: { type: int64, nullable: false, description: unique number }
  city: string
  amount: { type: float64, description: what was paid, unit: CHF }
  items: { type: int32, unit: pieces }
  flag: boolean
  at: timestamp
  many: boolean
  kafka_partition: { type: int32, nullable: false }
  kafka_offset: { type: int64, nullable: false }
expect:
  - { name: small, check: amount < 1000, action: warn }
";

/// The topology of most tests under a contract, which is written now.
fn spec(lab: &Lab, contract: &str) -> Spec {
    let folder = lab.directory.path().join("contracts");
    std::fs::create_dir_all(&folder).unwrap();
    write_file(&folder.join("features.yaml"), contract);
    let rule = "      - { name: small, check: \"amount < 1000\", action: warn }\n";
    let from = "    from: events\n";
    let named = format!("{from}    contract: ./contracts/features.yaml\n");
    lab.spec(events::SOURCE, &replaced(&replaced(FEATURES_YAML, rule, ""), from, &named))
}

/// What the newest schema of a table says about its columns, where it says something, and about the table.
async fn documentation(cloud: &LabCloud, table: &str) -> (BTreeMap<String, Json>, Json) {
    let log = Log::read(&*cloud.store(), table).await;
    let columns = log.columns_at(u64::MAX).into_iter().filter(|column| column["metadata"] != json!({}));
    let name = |column: &Json| column["name"].as_str().unwrap().to_owned();
    let columns = columns.map(|column| (name(&column), column["metadata"].clone())).collect();
    let described = log.versions.iter().filter_map(|version| version.actions("metaData").last());
    (columns, described.last().unwrap()["description"].clone())
}

/// The changes of the schema, in the words of the log.
async fn changes(cloud: &LabCloud) -> Vec<String> {
    let log = Log::read(&*cloud.store(), FEATURES).await;
    let is_update = |version: &&Version| version.info()["operation"] == "UPDATE SCHEMA";
    let changes =
        |version: &Version| version.info()["operationParameters"]["changes"].as_str().unwrap().to_owned();
    log.versions.iter().filter(is_update).map(changes).collect()
}

/// What [`CONTRACT`] says, with another unit of amounts.
fn said(unit: &str) -> BTreeMap<String, Json> {
    let columns = [
        ("id", json!({ "comment": "unique number" })),
        ("amount", json!({ "comment": format!("what was paid [{unit}]"), "isobar.unit": unit })),
        ("items", json!({ "comment": "[pieces]", "isobar.unit": "pieces" })),
    ];
    columns.map(|(name, words)| (name.to_owned(), words)).into()
}

/// What a start changes in a table that nothing is said about, and the other way round.
const ALL: &str = "changes the description of column id; changes the description of column amount; changes the description of column items; \
     changes the description of the dataset";

#[tokio::test(flavor = "multi_thread")]
async fn a_new_table_says_what_its_contract_says_in_every_cloud() {
    let lab = Lab::in_directories();
    lab.produce(TOPIC, Generator::mixed(Seed::of("told").prng()).records(RECORDS));
    let topology = spec(&lab, CONTRACT).resolved();
    lab.run_until_caught_up(&topology).await.unwrap();
    lab.assert_whole_and_equal().await;
    for cloud in &lab.clouds {
        assert_eq!(documentation(cloud, FEATURES).await, (said("CHF"), json!("One row per event.")));
        assert_eq!(changes(cloud).await, Vec::<String>::new());
        let (columns, about) = documentation(cloud, &format!("{FEATURES}.quarantine")).await;
        assert!(columns.values().all(|words| words.get("isobar.unit").is_none()), "{columns:?}");
        assert_eq!(about, json!("records rejected by dataset features"));
    }
    let (dataset, _) = lab.tables(&lab.clouds[0], FEATURES).await;
    let sql = "SELECT count(*) AS n FROM (SELECT id, amount FROM features UNION ALL SELECT kafka_offset, items * 1.0 FROM features)";
    let answer = query_table(&topology, sql).await.unwrap();
    let rows = 2 * dataset.rows().count();
    assert!(answer.contains(&format!(" {rows} ")), "{rows} in\n{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_word_that_changes_is_one_decision_and_no_file_changes() {
    let lab = Lab::in_directories();
    let mut records = Generator::mixed(Seed::of("reworded").prng());
    let reworded = replaced(CONTRACT, "unit: CHF", "unit: EUR");
    let reworded = replaced(&reworded, "One row per event.", "One row per event that was paid.");
    let nothing = (BTreeMap::new(), Json::Null);
    let all_said = vec![ALL.to_owned()];
    let some_said =
        "changes the description of column amount; changes the description of the dataset".to_owned();
    let steps = [
        (None, vec![], nothing.clone()),
        (Some(CONTRACT), all_said.clone(), (said("CHF"), json!("One row per event."))),
        (Some(CONTRACT), vec![], (said("CHF"), json!("One row per event."))),
        (Some(&*reworded), vec![some_said], (said("EUR"), json!("One row per event that was paid."))),
        (None, all_said, nothing),
    ];
    let mut expected: Vec<String> = Vec::new();
    let mut before: BTreeMap<String, String> = BTreeMap::new();
    for (contract, change, documented) in steps {
        let topology = contract.map_or_else(|| lab.features(), |contract| spec(&lab, contract).resolved());
        lab.produce(TOPIC, records.records(RECORDS));
        if !before.is_empty() {
            let preview = preview_in(&topology, &lab.opened()).await.unwrap();
            assert_eq!((preview[0].changes.join("; "), preview[0].refused), (change.join("; "), false));
        }
        lab.run_until_caught_up(&topology).await.unwrap();
        lab.assert_whole_and_equal().await;
        expected.extend(change);
        for cloud in &lab.clouds {
            assert_eq!(changes(cloud).await, expected);
            assert_eq!(documentation(cloud, FEATURES).await, documented);
        }
        let after = lab.clouds[0].tree().await;
        for (path, content) in &before {
            assert_eq!(after.get(path), Some(content), "{path}");
        }
        before = after;
    }
    // Rows are the same under a contract, and those who write them see no difference.
    let log = Log::read(&*lab.clouds[2].store(), FEATURES).await;
    let plans: BTreeSet<String> =
        log.versions.iter().map(|version| version.isobar()["plan"].to_string()).collect();
    assert_eq!(plans.len(), 1, "{plans:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redrive_needs_no_start_for_words_that_changed() {
    let lab = Lab::in_directories();
    lab.produce(TOPIC, Generator::mixed(Seed::of("redriven under a contract").prng()).records(RECORDS));
    lab.run_until_caught_up(&lab.features()).await.unwrap();
    let mut relaxed = spec(&lab, CONTRACT);
    relaxed.datasets = replaced(&relaxed.datasets, "check: \"amount IS NOT NULL\"", "check: \"true\"");
    let relaxed = relaxed.resolved();
    let options =
        RedriveOptions { dataset: FEATURES.into(), clouds: Some(lab.opened()), ..RedriveOptions::default() };
    let done = in_time("a redrive", redrive(&relaxed, &options, &())).await.unwrap();
    assert!(done.rows.output > 0, "{done:?}");
    assert_eq!(changes(&lab.clouds[0]).await, Vec::<String>::new());
    lab.run_until_caught_up(&relaxed).await.unwrap();
    lab.assert_reachable_equal(FEATURES).await;
    lab.assert_proved().await;
    for cloud in &lab.clouds {
        assert_eq!(changes(cloud).await, [ALL]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_does_not_keep_its_contract_does_not_start() {
    let lab = Lab::in_directories();
    let path = spec(&lab, CONTRACT).written();
    let path = path.to_str().expect("paths of tests are UTF-8");
    run_isobar(&["check", path]).await.assert(0, &["no problems"]);
    let says = ["contract features 1.0.0, owned by Events", "what was paid [CHF]"];
    run_isobar(&["plan", path]).await.assert(0, &says);
    let drifted = replaced(CONTRACT, "  city: string\n", "  city: int32\n  country: string\n");
    let drifted = replaced(&drifted, "  flag: boolean\n", "");
    let drifted = replaced(&drifted, "  many: boolean\n", "  many: { type: boolean, nullable: false }\n");
    spec(&lab, &drifted);
    let says = [
        "contracts/features.yaml:7:9: error: `city` is string in the query of `features`, not int32",
        "contracts/features.yaml:8:3: error: the query of `features` has no column `country`",
        "contracts/features.yaml:12:36: error: `many` may be null in the query of `features`",
        "topology.yaml:",
        "the contract has no column `flag`, of type boolean",
        "add `flag: boolean` to `columns` of",
        "4 problems in",
    ];
    for command in ["check", "plan", "run"] {
        run_isobar(&[command, path]).await.assert(2, &says);
    }
    for cloud in &lab.clouds {
        assert!(!cloud.folder.as_ref().unwrap().exists(), "nothing was written");
    }
}
