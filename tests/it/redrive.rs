//! Quarantined rows go through the topology again: each lands once, whoever is killed, away, leading or redriving as well.
//!
//! Records are committed under the rules of [`FEATURES_YAML`], which reject those without an amount; then the rule is relaxed
//! and they are redriven. What must be in the tables then is said by the ledger, from the records alone and under the
//! relaxed rules: as if they had been there all along.

use std::path::Path;

use isobar_connectors::clouds::Fault;
use isobar_connectors::failpoint::{self, Failpoint};
use isobar_tests::delta::Log;
use isobar_tests::events::{self, Event, FEATURES, FEATURES_YAML, Fate, Generator, Judge, Record, TOPIC};
use isobar_tests::kill;
use isobar_tests::lab::{CLOUDS, Lab, Spec, write_file};
use isobar_tests::prng::Seed;
use isobar_tests::program::{Background, Output, isobar, run, run_isobar};
use isobar_tests::wait::{in_time, until};
use isobar_topologies::Error;
use isobar_topologies::redrive::{RedriveOptions, Redriven, redrive};
use isobar_topologies::spec::Topology;
use serde_json::Value as Json;

/// Records produced at a time.
const RECORDS: usize = 400;

/// The rule that rejects events without an amount.
const RULE: &str = "check: \"amount IS NOT NULL\"";

const QUARANTINE: &str = "features.quarantine";

/// The token of workers, in a file beside the specification.
const WORKERS: &str = "{ token: \"${file:token}\" }";

/// The datasets with another check in place of the rule.
fn with_rule(check: &str) -> String {
    assert_eq!(FEATURES_YAML.matches(RULE).count(), 1, "there is one rule to be replaced");
    FEATURES_YAML.replace(RULE, &format!("check: \"{check}\""))
}

fn spec_with(lab: &Lab, datasets: &str) -> Spec {
    write_file(&lab.directory.path().join("token"), "a-token-of-sufficient-length");
    Spec { workers: Some(WORKERS.into()), ..lab.spec(events::SOURCE, datasets) }
}

/// The rules as they were.
fn strict(lab: &Lab) -> Spec {
    spec_with(lab, FEATURES_YAML)
}

/// Events without an amount are accepted.
fn relaxed(lab: &Lab) -> Spec {
    spec_with(lab, &with_rule("true"))
}

/// The fate of an event under the relaxed rules.
fn fate_relaxed(event: &Event) -> Fate {
    match event.amount {
        Some(_) => events::features(event),
        // Null is not large, so nothing else in the rules changes with the amount.
        None => accepted_without_amount(event),
    }
}

/// Those without items as well are still rejected.
fn fate_partly(event: &Event) -> Fate {
    match (event.amount, event.items, event.flag) {
        (None, None, Some(true) | None) => Fate::by_rule("has_amount"),
        _ => fate_relaxed(event),
    }
}

fn accepted_without_amount(event: &Event) -> Fate {
    let whole = Event { amount: Some(0.0), ..event.clone() };
    match events::features(&whole) {
        Fate::Row { mut row, warned } => {
            row.insert("amount".into(), events::Value::Null);
            Fate::Row { row, warned }
        }
        fate => fate,
    }
}

/// The path of a spec that lies in the lab's folder.
fn written(spec: &Spec, name: &str) -> String {
    spec.written_as(name).to_str().expect("paths of tests are UTF-8").to_owned()
}

/// A lab in directories with some records committed under the strict rules.
async fn committed(seed: &'static str) -> (Lab, Generator) {
    let lab = Lab::in_directories();
    let mut records = Generator::mixed(Seed::of(seed).prng());
    for _ in 0..3 {
        lab.produce(TOPIC, records.records(RECORDS));
        lab.run_until_caught_up(&strict(&lab).resolved()).await.unwrap();
    }
    (lab, records)
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

/// Runs `topology` once more, so that clouds that were behind are filled, and then [`assert_right`].
async fn catch_up_and_assert_right(lab: &Lab, topology: &Topology, judge: Judge) {
    lab.run_until_caught_up(topology).await.unwrap();
    assert_right(lab, judge).await;
}

fn options(lab: &Lab, condition: Option<&str>) -> RedriveOptions {
    RedriveOptions {
        dataset: FEATURES.into(),
        condition: condition.map(str::to_owned),
        clouds: Some(lab.opened()),
        ..RedriveOptions::default()
    }
}

async fn redriven(lab: &Lab, topology: &Topology, condition: Option<&str>) -> Result<Redriven, Error> {
    in_time("a redrive", redrive(topology, &options(lab, condition), &())).await
}

/// Rows of a quarantine, by the independent reader.
async fn quarantined(lab: &Lab, rule: &str) -> u64 {
    let (_, quarantine) = lab.tables(&lab.clouds[0], FEATURES).await;
    let is_of_rule = |row: &&events::Row| row["rule"] == events::Value::from(rule);
    quarantine.rows().filter(is_of_rule).count() as u64
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_a_rule_that_was_relaxed_land_once_and_a_second_redrive_finds_none() {
    let (lab, mut records) = committed("relaxed").await;
    let topology = relaxed(&lab).resolved();
    let before = quarantined(&lab, "has_amount").await;
    assert!(before > 20, "{before}");
    let rule = Some("rule = 'has_amount'");
    let rehearsed = RedriveOptions { dry_run: true, ..options(&lab, rule) };
    let rehearsed = redrive(&topology, &rehearsed, &()).await.unwrap();
    assert_eq!(quarantined(&lab, "has_amount").await, before, "a dry run changes nothing");
    let first = redriven(&lab, &topology, rule).await.unwrap();
    assert_eq!((first.rows.input, first.decisions.len()), (before, 1));
    assert!(first.rows.output > 0 && first.rows.filtered + first.rows.output == before, "{first:?}");
    assert_eq!((rehearsed.rows, rehearsed.decisions), (first.rows, Vec::new()));
    lab.wait_until_equal(FEATURES).await;
    assert_right(&lab, fate_relaxed).await;
    let second = redriven(&lab, &topology, rule).await.unwrap();
    assert_eq!((second.rows.input, second.decisions.len()), (0, 0));
    // Undecodable records stay undecodable, and nothing is decided about them.
    let all = redriven(&lab, &topology, None).await.unwrap();
    assert!(all.rows.input > 20 && all.rows.input == all.rows.rejected_total(), "{all:?}");
    assert_eq!(all.decisions, Vec::<u64>::new());
    // The next run goes on behind it.
    lab.produce(TOPIC, records.records(RECORDS));
    catch_up_and_assert_right(&lab, &topology, fate_relaxed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_are_rejected_again_stay_and_can_be_redriven_later() {
    let (lab, _) = committed("partly").await;
    let partly = spec_with(&lab, &with_rule("amount IS NOT NULL OR items IS NOT NULL")).resolved();
    let before = quarantined(&lab, "has_amount").await;
    // All rows, the undecodable ones among them.
    let first = redriven(&lab, &partly, None).await.unwrap();
    let still = first.rows.rejected["has_amount"];
    assert!(0 < still && still < before, "{first:?}");
    assert_eq!(quarantined(&lab, "has_amount").await, still);
    catch_up_and_assert_right(&lab, &partly, fate_partly).await;
    let relaxed = relaxed(&lab).resolved();
    let second = redriven(&lab, &relaxed, Some("rule = 'has_amount'")).await.unwrap();
    assert_eq!(second.rows.input, still);
    catch_up_and_assert_right(&lab, &relaxed, fate_relaxed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_condition_that_splits_files_moves_the_selected_rows_only() {
    let (lab, _) = committed("split").await;
    let topology = relaxed(&lab).resolved();
    let before = quarantined(&lab, "has_amount").await;
    let mut taken = 0;
    for partition in 0..4 {
        let condition = format!("rule = 'has_amount' AND partition = {partition}");
        let part = redriven(&lab, &topology, Some(&condition)).await.unwrap();
        taken += part.rows.input;
        assert_eq!(quarantined(&lab, "has_amount").await, before - taken);
        lab.assert_proved().await;
    }
    assert_eq!(taken, before);
    catch_up_and_assert_right(&lab, &topology, fate_relaxed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_redrives_at_once_never_double_a_row() {
    for seed in ["two at once", "two at once again", "two at once once more"] {
        let (lab, _) = committed(seed).await;
        let topology = relaxed(&lab).resolved();
        let both = tokio::join!(
            redriven(&lab, &topology, Some("rule = 'has_amount'")),
            redriven(&lab, &topology, Some("rule = 'has_amount'")),
        );
        // Without a leader each leads, and the one that is slower supersedes the other, or sees that it leads: it says so.
        for outcome in [both.0, both.1] {
            if let Err(error) = outcome {
                let is_told = matches!(
                    error,
                    Error::Superseded { .. } | Error::NoMajority { .. } | Error::Configuration(_)
                );
                assert!(is_told, "{error:?}");
            }
        }
        redriven(&lab, &topology, Some("rule = 'has_amount'")).await.unwrap();
        catch_up_and_assert_right(&lab, &topology, fate_relaxed).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cloud_that_is_away_meanwhile_becomes_equal() {
    let (lab, mut records) = committed("away").await;
    let topology = relaxed(&lab).resolved();
    lab.cloud("azure").switch.set(Fault::RefuseAll);
    let outcome = redriven(&lab, &topology, Some("rule = 'has_amount'")).await.unwrap();
    assert_eq!(outcome.decisions.len(), 1);
    lab.cloud("azure").switch.set(Fault::Off);
    lab.produce(TOPIC, records.records(RECORDS));
    catch_up_and_assert_right(&lab, &topology, fate_relaxed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expectation_that_fails_stops_the_redrive_and_nothing_is_decided() {
    let (lab, _) = committed("fails").await;
    let before = lab.versions(QUARANTINE).await;
    let datasets =
        FEATURES_YAML.replace(&format!("{RULE}, action: quarantine"), &format!("{RULE}, action: fail"));
    let topology = spec_with(&lab, &datasets).resolved();
    let error = redriven(&lab, &topology, None).await.unwrap_err();
    assert!(matches!(error, Error::ExpectationFailed { .. }), "{error:?}");
    assert_eq!(lab.versions(QUARANTINE).await, before);
    catch_up_and_assert_right(&lab, &strict(&lab).resolved(), events::features).await;
}

/// Runs `isobar quarantine redrive` for the rows of the rule, armed to do `action` at `point`.
async fn redrive_armed(spec: &str, order: &str) -> Output {
    let mut command =
        isobar(&["quarantine", "redrive", FEATURES, "--config", spec, "--where", "rule = 'has_amount'"]);
    run(command.env(failpoint::VARIABLE, order)).await
}

/// The steps that a redrive which leads itself takes; those of the take-over are tested with every other one.
fn points() -> impl Iterator<Item = &'static Failpoint> {
    let parts = [
        "redrive.",
        "decide.before-put",
        "decide.after-",
        "publish.",
        "upload.before-put",
        "upload.after-put",
    ];
    failpoint::ALL.iter().copied().filter(move |point| parts.iter().any(|part| point.name.starts_with(part)))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redrive_killed_at_any_step_loses_and_doubles_nothing() {
    for (number, point) in points().enumerate() {
        let (lab, _) = committed(point.name).await;
        let spec = written(&relaxed(&lab), "relaxed.yaml");
        // The first record of the epoch is its header.
        let hit = if point.name.starts_with("decide.") && point.name.ends_with("put") { 2 } else { 1 };
        let cloud = CLOUDS[number % CLOUDS.len()];
        let killed = redrive_armed(&spec, &kill::order(point, cloud, hit, "kill")).await;
        assert_eq!(killed.code, None, "{} was not reached, or did not kill\n{killed}", point.name);
        redrive_armed(&spec, "").await.assert(0, &[]);
        assert_eq!(quarantined(&lab, "has_amount").await, 0, "{}", point.name);
        catch_up_and_assert_right(&lab, &relaxed(&lab).resolved(), fate_relaxed).await;
    }
}

/// A leader of the relaxed topology, with an HTTP side.
struct Leading {
    leader: Background,
}

impl Leading {
    async fn start(spec: &str, folder: &Path, order: &str) -> Self {
        let mut command = isobar(&["run", spec, "--metrics-addr", "127.0.0.1:0"]);
        let name = format!("leader-{}.log", uuid::Uuid::new_v4());
        let leader = Background::start(command.env(failpoint::VARIABLE, order), &folder.join(name));
        leader.says("consuming").await;
        Self { leader }
    }

    async fn stop(self) {
        self.leader.signal("TERM").await;
        self.leader.ended().await.assert(0, &[]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_leader_decides_redrives_between_its_batches_also_two_at_once() {
    let (lab, mut records) = committed("live").await;
    let spec = written(&relaxed(&lab), "relaxed.yaml");
    let leading = Leading::start(&spec, lab.directory.path(), "").await;
    let before = quarantined(&lab, "has_amount").await;
    let arguments = [
        "quarantine",
        "redrive",
        FEATURES,
        "--config",
        &spec,
        "--where",
        "rule = 'has_amount'",
        "--format",
        "json",
    ];
    let (first, second, ()) = tokio::join!(run_isobar(&arguments), run_isobar(&arguments), async {
        for _ in 0..5 {
            lab.commit_in(CLOUDS.len(), &mut records, 80).await;
        }
    });
    let mut taken = 0;
    for output in [first, second] {
        output.assert(0, &["the leader is asked to decide"]);
        let redriven: Json = serde_json::from_str(&output.stdout).unwrap();
        taken += redriven["rows"]["in"].as_u64().unwrap();
    }
    assert_eq!(taken, before, "each row is taken by one of them");
    lab.wait_until_equal(FEATURES).await;
    leading.stop().await;
    catch_up_and_assert_right(&lab, &relaxed(&lab).resolved(), fate_relaxed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_dies_in_a_redrive_leaves_it_whole_or_undone() {
    for point in [&failpoint::REDRIVE_BEFORE_DECIDE, &failpoint::REDRIVE_AFTER_DECIDE] {
        let (lab, _) = committed(point.name).await;
        let spec = written(&relaxed(&lab), "relaxed.yaml");
        let leading = Leading::start(&spec, lab.directory.path(), &kill::order(point, "", 1, "kill")).await;
        let arguments =
            ["quarantine", "redrive", FEATURES, "--config", &spec, "--where", "rule = 'has_amount'"];
        let (output, next) = tokio::join!(run_isobar(&arguments), async {
            assert_eq!(leading.leader.ended().await.code, None, "{}", point.name);
            Leading::start(&spec, lab.directory.path(), "").await
        });
        // The same redrive is put down with the next leader, which knows it or decides it.
        output.assert(0, &["went through the topology again"]);
        assert_eq!(quarantined(&lab, "has_amount").await, 0, "{}", point.name);
        lab.wait_until_equal(FEATURES).await;
        next.stop().await;
        catch_up_and_assert_right(&lab, &relaxed(&lab).resolved(), fate_relaxed).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_with_another_specification_or_without_a_token_is_not_passed_over() {
    let (lab, _) = committed("refused").await;
    let (old, new) = (written(&strict(&lab), "strict.yaml"), written(&relaxed(&lab), "relaxed.yaml"));
    let leading = Leading::start(&old, lab.directory.path(), "").await;
    let before = lab.versions(QUARANTINE).await;
    redrive_armed(&new, "").await.assert(2, &["another plan"]);
    let without = Spec { workers: None, ..relaxed(&lab) };
    redrive_armed(&written(&without, "without.yaml"), "").await.assert(2, &["workers", "--take-over"]);
    assert_eq!(lab.versions(QUARANTINE).await, before);
    leading.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redrives_and_compactions_of_the_quarantine_exclude_each_other() {
    let lab = Lab::in_directories();
    let mut records = Generator::mixed(Seed::of("compacted").prng());
    let compact = |datasets: String| {
        let none = "{ compact: { enabled: false }, checkpoint_every: 0 }";
        datasets.replace(none, "{ compact: { min_files: 2 }, keep_versions: 1, checkpoint_every: 3 }")
    };
    lab.produce(TOPIC, records.records(RECORDS));
    lab.run_until_caught_up(&spec_with(&lab, &compact(FEATURES_YAML.into())).resolved()).await.unwrap();
    // A rule that changes nothing but what the plan is: what is rejected now is accepted by the redrive below.
    let spec = spec_with(&lab, &compact(with_rule("amount IS NOT NULL OR items IS NOT NULL")));
    let path = written(&spec, "partly.yaml");
    let leading = Leading::start(&path, lab.directory.path(), "").await;
    let arguments = ["quarantine", "redrive", FEATURES, "--config", &path];
    let entries = async |operation: &str| {
        let log = Log::read(&*lab.clouds[0].store(), QUARANTINE).await;
        log.versions.iter().filter(|version| version.info()["operation"] == operation).count()
    };
    until("both were decided, several times", async || {
        lab.commit_in(2, &mut records, 80).await;
        // One partition after the other, so that something is taken each time and something is kept.
        let offset = lab.ledger().ends(TOPIC)[&0] / 2;
        let condition = format!("\"offset\" % 7 = {} OR \"offset\" < {offset}", offset % 7);
        run_isobar(&[&arguments[..], &["--where", &condition]].concat()).await.assert(0, &[]);
        entries("OPTIMIZE").await >= 3 && entries("REDRIVE").await >= 1
    })
    .await;
    lab.wait_until_equal(FEATURES).await;
    leading.stop().await;
    run_isobar(&arguments).await.assert(0, &[]);
    catch_up_and_assert_right(&lab, &spec.resolved(), fate_partly).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn people_see_what_is_in_a_quarantine() {
    let (lab, _) = committed("listed").await;
    lab.produce(TOPIC, [Record::bad(None, "tombstone")]);
    lab.run_until_caught_up(&strict(&lab).resolved()).await.unwrap();
    let spec = written(&strict(&lab), "topology.yaml");
    let of_rule = quarantined(&lab, "has_amount").await;
    let listed = run_isobar(&["quarantine", "ls", "--config", &spec, "--format", "json"]).await;
    listed.assert(0, &[]);
    let listed: Json = serde_json::from_str(&listed.stdout).unwrap();
    let reasons = listed["quarantines"][0]["reasons"].as_array().unwrap().clone();
    let rule = reasons.iter().find(|reason| reason["rule"] == "has_amount").unwrap();
    assert_eq!((rule["rows"].as_u64(), rule["reason"].as_str()), (Some(of_rule), Some("expectation")));
    assert!(rule["first"].as_str().unwrap() < rule["last"].as_str().unwrap(), "{rule}");
    let (_, quarantine) = lab.tables(&lab.clouds[0], FEATURES).await;
    assert_eq!(listed["quarantines"][0]["rows"].as_u64(), Some(quarantine.rows().count() as u64));
    let table = run_isobar(&["quarantine", "ls", "--config", &spec]).await;
    table.assert(0, &["DATASET", "has_amount", "tombstone"]);

    let show = async |more: &[&str]| {
        run_isobar(&[&["quarantine", "show", FEATURES, "-c", &spec], more].concat()).await
    };
    let shown = show(&["--where", "rule = 'has_amount'", "--format", "json", "--limit", "10000"]).await;
    shown.assert(0, &[]);
    let rows: Vec<Json> = shown.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows.len() as u64, of_rule);
    for row in &rows {
        let (partition, offset) = (row["partition"].as_i64().unwrap(), row["offset"].as_i64().unwrap());
        let payload = lab.ledger().record(TOPIC, partition as i32, offset).payload.clone().unwrap();
        assert_eq!(row["payload"].as_str().unwrap().as_bytes(), payload);
    }
    show(&["--limit", "3"]).await.assert(0, &["3 rows, there may be more", "offset"]);
    show(&["--where", "reason = 'tombstone'"]).await.assert(0, &["payload  (none)"]);
    show(&["--where", "nothing = 1"]).await.assert(2, &["nothing", "the columns are reason, rule"]);
    show(&["--where", "1 = 1) UNION SELECT (1"]).await.assert(2, &[]);
    show(&["--where", "rule IN (SELECT rule FROM features)"]).await.assert(2, &[]);
    run_isobar(&["quarantine", "show", "feature", "-c", &spec]).await.assert(2, &["it has features"]);
    run_isobar(&["quarantine", "redrive", FEATURES, "-c", &spec, "--where", "1"])
        .await
        .assert(2, &["condition"]);
    let rehearsed = run_isobar(&["quarantine", "redrive", FEATURES, "-c", &spec, "--dry-run"]).await;
    rehearsed.assert(0, &["nothing was changed", "rejected again"]);
    lab.assert_proved().await;
}
