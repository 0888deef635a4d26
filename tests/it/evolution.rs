//! A table follows its topology: columns come, go and may be null, while records flow and whoever leads dies, and no row is
//! lost, doubled or changed by it.
//!
//! Records up to [`BEFORE`] are committed under [`FEATURES_YAML`], those after it under another specification. What must be in
//! the tables then is said by the ledger, for which an event's number tells on which side of the change it lies.

use std::path::PathBuf;

use isobar_connectors::clouds::Fault;
use isobar_connectors::failpoint::{self, Failpoint};
use isobar_tests::delta::{DataFile, Log, Table, latest_version};
use isobar_tests::events::{
    self, Event, FEATURES, FEATURES_YAML, Fate, Generator, Judge, Row, TOPIC, Value, maintained_features,
};
use isobar_tests::kill;
use isobar_tests::lab::{CLOUDS, Lab, LabCloud, Spec};
use isobar_tests::prng::Seed;
use isobar_tests::program::{isobar, run, run_isobar};
use isobar_tests::services::oracle;
use isobar_tests::trees::copy_folder;
use isobar_tests::wait::{in_time, until};
use isobar_topologies::Error;
use isobar_topologies::evolve::preview_in;
use isobar_topologies::query::query_table;
use isobar_topologies::redrive::{RedriveOptions, redrive};
use isobar_topologies::spec::Topology;
use object_store::ObjectStoreExt;
use object_store::path::Path;

/// Events committed before the specification changes; their numbers begin with 1.
const BEFORE: i64 = 400;

const COLUMNS: &str = "SELECT id, city, amount, items, flag, at, items > 10 AS many,";
/// Two more columns, one of which is never null in rows, in the midst of the others.
const MORE: &str = "SELECT amount * 2 AS twice, items > 10 AS many, id, city, items IS NULL AS unknown, amount, items, flag, at,";
/// Two columns less than [`MORE`].
const FEWER: &str = "SELECT amount * 2 AS twice, id, city, items IS NULL AS unknown, amount, items, flag,";
/// A column that was never null may be.
const NULLABLE: &str =
    "SELECT CASE WHEN id % 5 > 0 THEN id END AS id, city, amount, items, flag, at, items > 10 AS many,";

/// A struct, which may be null, and structs in a list.
const NARROW: &str = "SELECT id, city, amount, items, flag, at, items > 10 AS many, \
    CASE WHEN id % 3 > 0 THEN named_struct('city', city) END AS place, \
    make_array(named_struct('amount', amount)) AS parts,";
/// The same with more fields, before and behind the others.
const WIDE: &str = "SELECT id, city, amount, items, flag, at, items > 10 AS many, \
    CASE WHEN id % 3 > 0 THEN named_struct('at', at, 'city', city, 'many', items > 10) END AS place, \
    make_array(named_struct('amount', amount, 'twice', amount * 2)) AS parts,";

/// The dataset with these columns in place of its own.
fn with_columns(datasets: &str, columns: &str) -> String {
    assert_eq!(datasets.matches(COLUMNS).count(), 1, "there are columns to be replaced");
    datasets.replace(COLUMNS, columns)
}

fn spec(lab: &Lab, columns: &str) -> Spec {
    lab.spec(events::SOURCE, &with_columns(FEATURES_YAML, columns))
}

fn topology(lab: &Lab, columns: &str) -> Topology {
    spec(lab, columns).resolved()
}

/// The fate of an event whose row is then changed.
fn changed(event: &Event, change: impl FnOnce(&mut Row)) -> Fate {
    match events::features(event) {
        Fate::Row { mut row, warned } => {
            change(&mut row);
            Fate::Row { row, warned }
        }
        fate => fate,
    }
}

/// The columns that [`MORE`] has and [`COLUMNS`] has not.
fn add_more(event: &Event, row: &mut Row) {
    row.insert("twice".into(), event.amount.map_or(Value::Null, |amount| Value::Float(amount * 2.0)));
    row.insert("unknown".into(), Value::Bool(event.items.is_none()));
}

fn add_nulls(row: &mut Row, columns: &[&str]) {
    row.extend(columns.iter().map(|column| ((*column).to_owned(), Value::Null)));
}

/// [`COLUMNS`], then [`MORE`].
fn grown(event: &Event) -> Fate {
    changed(event, |row| match event.id <= BEFORE {
        true => add_nulls(row, &["twice", "unknown"]),
        false => add_more(event, row),
    })
}

/// [`COLUMNS`], [`MORE`], [`FEWER`] and [`COLUMNS`] again, for as many records each.
fn back_and_forth(event: &Event) -> Fate {
    changed(event, |row| match (event.id - 1) / BEFORE {
        0 | 3 => add_nulls(row, &["twice", "unknown"]),
        1 => add_more(event, row),
        _ => {
            add_more(event, row);
            add_nulls(row, &["at", "many"]);
        }
    })
}

/// [`COLUMNS`], then [`NULLABLE`].
fn nullable(event: &Event) -> Fate {
    changed(event, |row| {
        if event.id > BEFORE && event.id % 5 == 0 {
            row.insert("id".into(), Value::Null);
        }
    })
}

/// [`NARROW`], [`WIDE`] and [`NARROW`] again, for [`BEFORE`] records each.
fn nested(event: &Event) -> Fate {
    fn structure<const N: usize>(fields: [(&str, Value); N]) -> Value {
        Value::Struct(fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    }
    changed(event, |row| {
        let is_wide = (event.id - 1) / BEFORE == 1;
        let if_wide = |value: Value| if is_wide { value } else { Value::Null };
        let place = structure([
            ("at", if_wide(row["at"].clone())),
            ("city", row["city"].clone()),
            ("many", if_wide(row["many"].clone())),
        ]);
        row.insert("place".into(), if event.id % 3 > 0 { place } else { Value::Null });
        let twice = event.amount.map_or(Value::Null, |amount| Value::Float(amount * 2.0));
        let part = structure([("amount", row["amount"].clone()), ("twice", if_wide(twice))]);
        row.insert("parts".into(), Value::List(vec![part]));
    })
}

/// In every cloud everything is there once, as `judge` has it, and `prove` holds.
async fn assert_right(lab: &Lab, judge: Judge) {
    for cloud in &lab.clouds {
        let (dataset, quarantine) = lab.tables(cloud, FEATURES).await;
        lab.ledger().assert_complete(TOPIC, judge, &dataset, &quarantine);
    }
    lab.assert_reachable_equal(FEATURES).await;
    lab.assert_proved().await;
}

/// The changes of the schema, in the words of the log.
async fn changes(cloud: &LabCloud) -> Vec<String> {
    let log = Log::read(&*cloud.store(), FEATURES).await;
    let updates = log.versions.iter().filter(|version| version.info()["operation"] == "UPDATE SCHEMA");
    let said = |info: &serde_json::Value| info["operationParameters"]["changes"].as_str().unwrap().to_owned();
    updates.map(|version| said(version.info())).collect()
}

/// What [`MORE`] changes in the table of [`COLUMNS`].
const GROWS: &str = "adds column twice: double; adds column unknown: boolean";

/// A lab with [`BEFORE`] records committed under [`FEATURES_YAML`].
async fn committed(lab: Lab, seed: &'static str) -> (Lab, Generator) {
    let mut records = Generator::mixed(Seed::of(seed).prng());
    lab.produce(TOPIC, records.records(BEFORE as usize));
    lab.run_until_caught_up(&lab.features()).await.unwrap();
    (lab, records)
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_come_and_go_as_specifications_take_turns() {
    let (lab, mut records) = committed(Lab::in_directories(), "turns").await;
    for columns in [MORE, FEWER, COLUMNS] {
        lab.produce(TOPIC, records.records(BEFORE as usize));
        lab.run_until_caught_up(&topology(&lab, columns)).await.unwrap();
    }
    assert_right(&lab, back_and_forth).await;
    lab.assert_trees_equal().await;
    // What once was there needs no further change.
    for cloud in &lab.clouds {
        assert_eq!(changes(cloud).await, [GROWS]);
    }
    let (dataset, _) = lab.tables(&lab.clouds[0], FEATURES).await;
    let names: Vec<String> =
        dataset.log.columns_at(u64::MAX).iter().map(|column| column["name"].to_string()).collect();
    assert_eq!(names[names.len() - 2..], ["\"twice\"", "\"unknown\""], "new columns come last: {names:?}");
    // Queries see all rows, with nulls where a file has no such column, in results and in conditions.
    let holds = |column: &str| dataset.rows().filter(|row| row[column] != Value::Null).count();
    let (twice, many, at) = (holds("twice"), holds("many"), holds("at"));
    let sql = "SELECT count(*) AS n, count(twice) AS t, count(many) AS m, count(at) AS a FROM features";
    let answer = query_table(&topology(&lab, COLUMNS), sql).await.unwrap();
    let rows = dataset.rows().count();
    for number in [rows, twice, many, at] {
        assert!(answer.contains(&format!(" {number} ")), "{number} in\n{answer}");
    }
    let sql = "SELECT count(*) AS n FROM features WHERE twice IS NULL AND unknown IS NULL";
    let answer = query_table(&topology(&lab, COLUMNS), sql).await.unwrap();
    assert!(answer.contains(&format!(" {} ", rows - twice)), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_that_was_never_null_may_be_from_now_on() {
    let (lab, mut records) = committed(Lab::in_memory(), "nullable").await;
    lab.produce(TOPIC, records.records(BEFORE as usize));
    lab.run_until_caught_up(&topology(&lab, NULLABLE)).await.unwrap();
    assert_right(&lab, nullable).await;
    assert_eq!(changes(&lab.clouds[1]).await, ["lets column id be null from now on"]);
    // Rows that are never null there fit all the same, so the older specification goes on.
    lab.run_until_caught_up(&lab.features()).await.unwrap();
    assert_eq!(changes(&lab.clouds[1]).await.len(), 1);
    let sql = "SELECT count(*) AS n FROM features WHERE id IS NULL";
    let (dataset, _) = lab.tables(&lab.clouds[0], FEATURES).await;
    let nulls = dataset.rows().filter(|row| row["id"] == Value::Null).count();
    let answer = query_table(&lab.features(), sql).await.unwrap();
    assert!(nulls > 10 && answer.contains(&format!(" {nulls} ")), "{nulls} in\n{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_specification_takes_over_from_one_that_runs() {
    let lab = Lab::in_memory();
    let mut records = Generator::mixed(Seed::of("roll out").prng());
    let before = lab.start(&lab.features());
    before.ready().await;
    lab.commit(&before, &mut records, BEFORE as usize).await;
    let after = lab.start(&topology(&lab, MORE));
    after.ready().await;
    lab.commit(&after, &mut records, BEFORE as usize).await;
    let ended = before.ended().await;
    assert!(matches!(ended, Err(Error::Superseded { .. })), "{ended:?}");
    lab.wait_until_equal(FEATURES).await;
    after.stop().await.unwrap();
    assert_right(&lab, grown).await;
    assert_eq!(changes(&lab.clouds[0]).await, [GROWS]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cloud_that_was_away_gets_the_schema_before_the_rows() {
    for away in CLOUDS {
        let (lab, mut records) = committed(Lab::in_memory(), "away").await;
        let switch = &lab.cloud(away).switch;
        let store = lab.cloud(away).store();
        let version = latest_version(&*store, FEATURES).await;
        switch.set(Fault::RefuseAll);
        let running = lab.start(&topology(&lab, MORE));
        running.ready().await;
        lab.commit(&running, &mut records, BEFORE as usize).await;
        assert_eq!(latest_version(&*store, FEATURES).await, version);
        switch.set(Fault::Off);
        until("the cloud that was away is filled", async || {
            // Its log is whole and right at every step.
            let log = Log::read(&*store, FEATURES).await;
            assert_eq!(log.problems(), Vec::<String>::new());
            lab.clouds_complete().await == CLOUDS.len()
        })
        .await;
        lab.wait_until_equal(FEATURES).await;
        running.stop().await.unwrap();
        assert_right(&lab, grown).await;
        assert_eq!(changes(lab.cloud(away)).await, [GROWS]);
    }
}

/// A start with the new specification is killed at `point` in `cloud`, where it decides and publishes the change.
async fn survives_a_kill(point: &'static Failpoint, cloud: &str) {
    let (lab, mut records) = committed(Lab::in_directories(), point.name).await;
    lab.produce(TOPIC, records.records(BEFORE as usize));
    let spec = spec(&lab, MORE).written();
    let spec = spec.to_str().expect("paths of tests are UTF-8");
    // The first record of an epoch is its header.
    let hit = match point.name {
        "decide.before-put" | "decide.after-put" => 2,
        _ => 1,
    };
    let mut command = isobar(&["run", spec, "--until-caught-up"]);
    let output = run(command.env(failpoint::VARIABLE, kill::order(point, cloud, hit, "kill"))).await;
    assert_eq!(output.code, None, "{} in {cloud} was not reached, or did not kill\n{output}", point.name);
    run_isobar(&["run", spec, "--until-caught-up"]).await.assert(0, &[]);
    assert_right(&lab, grown).await;
    for cloud in &lab.clouds {
        assert_eq!(changes(cloud).await, [GROWS], "{} in {}", point.name, cloud.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_decided_once_whenever_its_process_is_killed() {
    let points = failpoint::ALL.iter().filter(|point| {
        point.name.starts_with("decide.")
            || point.name.starts_with("publish.")
            || point.name == failpoint::ELECT_AFTER_HEADER.name
    });
    for (number, point) in points.enumerate() {
        survives_a_kill(point, CLOUDS[number % CLOUDS.len()]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_before_and_after_are_combined() {
    let lab = Lab::in_directories();
    let mut records = Generator::mixed(Seed::of("combined").prng());
    for _ in 0..4 {
        lab.produce(TOPIC, records.records(BEFORE as usize / 4));
        lab.run_until_caught_up(&lab.features()).await.unwrap();
    }
    let maintained = maintained_features("{ compact: { min_files: 4 }, checkpoint_every: 5 }");
    let topology = lab.spec(events::SOURCE, &with_columns(&maintained, MORE)).resolved();
    let running = lab.start(&topology);
    running.ready().await;
    let hint = Path::from(format!("datasets/{FEATURES}/_delta_log/_last_checkpoint"));
    until("files of both kinds are combined, and there is a checkpoint", async || {
        lab.commit(&running, &mut records, 40).await;
        let store = lab.clouds[0].store();
        let dataset = Table::read(&*store, FEATURES).await;
        dataset.files.iter().any(has_both) && store.head(&hint).await.is_ok()
    })
    .await;
    lab.wait_until_equal(FEATURES).await;
    running.stop().await.unwrap();
    assert_right(&lab, grown).await;
    assert_eq!(changes(&lab.clouds[0]).await, [GROWS]);
}

/// Whether a file has rows of before and after the change.
fn has_both(file: &DataFile) -> bool {
    let is_old = |row: &&Row| matches!(row["id"], Value::Int(id) if id <= BEFORE);
    let old = file.rows.iter().filter(is_old).count();
    0 < old && old < file.rows.len()
}

/// `isobar query` sees the rows of [`nested`] in `features`, in structs as a whole and in their fields.
async fn assert_nested_queried(lab: &Lab) {
    let (dataset, _) = lab.tables(&lab.clouds[0], FEATURES).await;
    let count = |holds: fn(&Row) -> bool| dataset.rows().filter(|row| holds(row)).count();
    let places = count(|row| row["place"] != Value::Null);
    let at = count(|row| matches!(&row["place"], Value::Struct(place) if place["at"] != Value::Null));
    let twice = count(|row| match &row["parts"] {
        Value::List(parts) => matches!(&parts[..], [Value::Struct(part)] if part["twice"] != Value::Null),
        _ => false,
    });
    let rows = dataset.rows().count();
    assert!(10 < at && at < places && places < rows && twice < rows, "{at}, {places}, {twice}, {rows}");
    let sql = "SELECT count(place['at']) AS a, count(place) AS p, count(parts[1]['twice']) AS t, \
               count(parts[1]['amount']) AS m FROM features";
    let answer = query_table(&topology(lab, WIDE), sql).await.unwrap();
    assert!(answer.contains(&format!("| {at} | {places} | {twice} | {rows} |")), "{answer}");
    let sql = "SELECT count(*) AS n FROM features WHERE place['at'] IS NULL AND place IS NOT NULL";
    let answer = query_table(&topology(lab, NARROW), sql).await.unwrap();
    assert!(answer.contains(&format!("| {} |", places - at)), "{answer}");
}

/// The table `features` in a cloud that is a directory.
fn folder_of(cloud: &LabCloud) -> PathBuf {
    cloud.folder.as_ref().expect("the clouds are directories").join("datasets").join(FEATURES)
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_of_structs_come_and_go_as_specifications_take_turns() {
    let lab = Lab::in_directories();
    let mut records = Generator::mixed(Seed::of("nested").prng());
    for columns in [NARROW, WIDE, NARROW] {
        for _ in 0..2 {
            lab.produce(TOPIC, records.records(BEFORE as usize / 2));
            lab.run_until_caught_up(&topology(&lab, columns)).await.unwrap();
        }
    }
    assert_right(&lab, nested).await;
    lab.assert_trees_equal().await;
    let grows = "adds column place.at: timestamp; adds column place.many: boolean; \
                 adds column parts.element.twice: double";
    for cloud in &lab.clouds {
        assert_eq!(changes(cloud).await, [grows]);
    }
    assert_nested_queried(&lab).await;
    // An independent reader reads the same rows before and after files of both kinds are combined.
    let before = lab.directory.path().join("before");
    copy_folder(&folder_of(&lab.clouds[0]), &before);
    let maintained = maintained_features("{ compact: { min_files: 4 } }");
    let running = lab.start(&lab.spec(events::SOURCE, &with_columns(&maintained, WIDE)).resolved());
    running.ready().await;
    until("files of both kinds are combined", async || {
        Table::read(&*lab.clouds[0].store(), FEATURES).await.files.iter().any(has_both)
    })
    .await;
    lab.wait_until_equal(FEATURES).await;
    running.stop().await.unwrap();
    assert_right(&lab, nested).await;
    assert_nested_queried(&lab).await;
    let folders: Vec<PathBuf> = lab.clouds.iter().map(folder_of).collect();
    let mut arguments = vec!["compare", before.to_str().expect("paths of tests are UTF-8")];
    arguments.extend(folders.iter().map(|folder| folder.to_str().expect("paths of tests are UTF-8")));
    oracle(&arguments).await.assert(0, &[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_is_refused_and_the_specification_of_before_goes_on() {
    let (lab, mut records) = committed(Lab::in_memory(), "refused").await;
    let versions = lab.versions(FEATURES).await;
    let partitioned = format!("{FEATURES_YAML}    partition_by: [city]\n");
    let replaced = |columns: &str| with_columns(FEATURES_YAML, columns);
    for (datasets, expected) in [
        (
            replaced(&COLUMNS.replace("amount,", "CAST(amount AS VARCHAR) AS amount,")),
            "amount is double in the table and string",
        ),
        (replaced(&COLUMNS.replace(" items,", " CAST(items AS BIGINT) AS items,")), "typeWidening"),
        (replaced(&COLUMNS.replace("id, ", "")), "column id is NOT NULL in the table"),
        (
            replaced(&COLUMNS.replace(" city,", " city AS \"City\",")),
            "City differs from the table's city in case",
        ),
        (partitioned, "the table is partitioned by []"),
    ] {
        let topology = lab.spec(events::SOURCE, &datasets).resolved();
        let refused = lab.run_until_caught_up(&topology).await;
        let Err(Error::Configuration(what)) = refused else { panic!("{expected}: {refused:?}") };
        assert!(what.contains(expected) && what.contains("dataset features"), "{expected} in {what}");
        let preview = preview_in(&topology, &lab.opened()).await.unwrap();
        assert!(preview[0].refused && preview[0].render().contains(expected), "{preview:?}");
    }
    assert_eq!(lab.versions(FEATURES).await, versions);
    lab.produce(TOPIC, records.records(100));
    lab.run_until_caught_up(&lab.features()).await.unwrap();
    lab.assert_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_start_would_do_is_said_beforehand() {
    let lab = Lab::in_directories();
    let spec = spec(&lab, MORE).written_as("more.yaml");
    let spec = spec.to_str().expect("paths of tests are UTF-8");
    // A directory that is not there could be one that is not mounted.
    run_isobar(&["plan", spec, "--tables"]).await.assert(1, &["is missing: unmounted, or moved away?"]);
    for cloud in &lab.clouds {
        std::fs::create_dir_all(cloud.folder.as_ref().expect("the clouds are directories")).unwrap();
    }
    run_isobar(&["plan", spec, "--tables"])
        .await
        .assert(0, &["table features does not exist: a start creates it"]);
    let (lab, _) = committed(lab, "beforehand").await;
    let says = ["table features at version", "  adds column twice: double", "  adds column unknown: boolean"];
    run_isobar(&["plan", spec, "--tables"]).await.assert(0, &says);
    let json = run_isobar(&["plan", spec, "--tables", "--format", "json"]).await;
    json.assert(0, &["\"tables\"", "\"refused\": false", "adds column twice: double"]);
    lab.run_until_caught_up(&topology(&lab, MORE)).await.unwrap();
    run_isobar(&["plan", spec, "--tables"]).await.assert(0, &["in aws: stays as it is"]);
    let refused = with_columns(FEATURES_YAML, &COLUMNS.replace(" id,", " CAST(id AS VARCHAR) AS id,"));
    let refused = lab.spec(events::SOURCE, &refused).written_as("refused.yaml");
    let refused = refused.to_str().expect("paths of tests are UTF-8");
    let says = ["refused: column id is long in the table and string", "keeps column twice, null from now on"];
    run_isobar(&["plan", refused, "--tables"]).await.assert(2, &says);
    // The older specification would leave the table as it is.
    let older = preview_in(&lab.features(), &lab.opened()).await.unwrap();
    assert_eq!(
        older[0].changes,
        ["keeps column twice, null from now on", "keeps column unknown, null from now on"]
    );
    assert!(!older[0].refused);
}

/// Events without an amount are rejected before the change and redriven after it.
#[tokio::test(flavor = "multi_thread")]
async fn quarantined_rows_are_redriven_into_the_new_columns() {
    fn redriven(event: &Event) -> Fate {
        let whole = Event { amount: Some(event.amount.unwrap_or(0.0)), ..event.clone() };
        changed(&whole, |row| {
            row.insert("amount".into(), event.amount.map_or(Value::Null, Value::Float));
            match event.id <= BEFORE && event.amount.is_some() {
                true => add_nulls(row, &["twice", "unknown"]),
                false => add_more(event, row),
            }
        })
    }
    let (lab, mut records) = committed(Lab::in_directories(), "redriven").await;
    let rule = "check: \"amount IS NOT NULL\"";
    let relaxed = with_columns(FEATURES_YAML, MORE).replace(rule, "check: \"true\"");
    let relaxed = lab.spec(events::SOURCE, &relaxed).resolved();
    let options =
        RedriveOptions { dataset: FEATURES.into(), clouds: Some(lab.opened()), ..RedriveOptions::default() };
    // The table does not have the columns yet, and a redrive does not give it any.
    let early = in_time("a redrive", redrive(&relaxed, &options, &())).await;
    let Err(Error::Configuration(what)) = early else { panic!("{early:?}") };
    assert!(what.contains("adds column twice: double") && what.contains("start it first"), "{what}");
    lab.produce(TOPIC, records.records(BEFORE as usize));
    lab.run_until_caught_up(&relaxed).await.unwrap();
    let done = in_time("a redrive", redrive(&relaxed, &options, &())).await.unwrap();
    assert!(done.rows.output > 10, "{done:?}");
    lab.run_until_caught_up(&relaxed).await.unwrap();
    assert_right(&lab, redriven).await;
}
