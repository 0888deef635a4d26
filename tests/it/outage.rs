//! Clouds that go away, lose answers or become slow, and come back.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use isobar_connectors::clouds::Fault;
use isobar_tests::delta::latest_version;
use isobar_tests::events::{FEATURES, Generator, TOPIC};
use isobar_tests::lab::{Lab, Running};
use isobar_tests::prng::Seed;
use isobar_tests::script::{Gate, Kind, Request, Verdict};
use isobar_tests::wait::until;
use isobar_topologies::commit::CloudProgress;

/// Produces `count` records and waits until they are decided; how many decisions that took.
async fn commit_more(lab: &Lab, running: &Running, records: &mut Generator, count: usize) -> u64 {
    let before = running.sequence();
    lab.commit(running, records, count).await;
    running.sequence() - before
}

async fn version_in(lab: &Lab, cloud: &str) -> Option<u64> {
    latest_version(&*lab.cloud(cloud).store(), FEATURES).await
}

/// Whether a cloud with this fault can receive nothing at all.
fn receives_nothing(fault: Fault) -> bool {
    matches!(fault, Fault::RefuseAll | Fault::RefuseWrites)
}

/// One cloud is taken away at every stage of a topology's life, and comes back.
async fn one_cloud_away(test: &'static str, away: &str, fault: Fault) {
    let seed = Seed::of(test);
    let mut records = Generator::mixed(seed.prng());
    let lab = Lab::in_memory();
    let topology = lab.features();
    lab.produce(TOPIC, records.records(100));
    lab.run_until_caught_up(&topology).await.unwrap();
    let switch = &lab.cloud(away).switch;

    // Away when the process starts.
    let version = version_in(&lab, away).await;
    switch.set(fault);
    let running = lab.start(&topology);
    running.ready().await;
    for _ in 0..3 {
        assert!(commit_more(&lab, &running, &mut records, 60).await >= 1);
    }
    if receives_nothing(fault) {
        assert_eq!(version_in(&lab, away).await, version);
    }
    switch.set(Fault::Off);
    commit_more(&lab, &running, &mut records, 60).await;
    lab.wait_until_equal(FEATURES).await;

    // Away in the middle, and while it is away, commits go on.
    switch.set(fault);
    let version = version_in(&lab, away).await;
    for _ in 0..4 {
        assert!(commit_more(&lab, &running, &mut records, 60).await >= 1);
    }
    if receives_nothing(fault) {
        assert_eq!(version_in(&lab, away).await, version);
    }
    // It becomes equal by itself: nothing more is produced.
    switch.set(Fault::Off);
    lab.wait_until_equal(FEATURES).await;

    // Away before the end: the next run fills it.
    switch.set(fault);
    commit_more(&lab, &running, &mut records, 60).await;
    let summary = running.stop().await.unwrap();
    let behind = |cloud: &CloudProgress| cloud.decisions_behind > 0;
    if receives_nothing(fault) {
        assert_eq!(
            summary.leader.clouds.iter().filter(|cloud| behind(cloud)).count(),
            1,
            "{:?}",
            summary.leader
        );
        assert!(!lab.proof().await.holds(), "prove must see that a cloud is behind");
    }
    switch.set(Fault::Off);
    let running = lab.start(&topology);
    lab.wait_until_equal(FEATURES).await;
    running.stop().await.unwrap();
    lab.assert_whole().await;
}

macro_rules! one_cloud_away {
    ($($name:ident: $cloud:literal, $fault:expr;)*) => {
        $(#[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            one_cloud_away(stringify!($name), $cloud, $fault).await;
        })*
    };
}

/// Long enough to be noticed, short enough for a start-up of many requests.
const DELAY: Fault = Fault::Delay(Duration::from_millis(40));

one_cloud_away! {
    aws_refuses_everything: "aws", Fault::RefuseAll;
    azure_refuses_everything: "azure", Fault::RefuseAll;
    gcp_refuses_everything: "gcp", Fault::RefuseAll;
    aws_refuses_writes: "aws", Fault::RefuseWrites;
    azure_refuses_writes: "azure", Fault::RefuseWrites;
    gcp_refuses_writes: "gcp", Fault::RefuseWrites;
    aws_loses_answers: "aws", Fault::LoseWriteAnswers;
    azure_loses_answers: "azure", Fault::LoseWriteAnswers;
    gcp_loses_answers: "gcp", Fault::LoseWriteAnswers;
    aws_is_slow: "aws", DELAY;
    azure_is_slow: "azure", DELAY;
    gcp_is_slow: "gcp", DELAY;
}

/// Whether a request writes what the protocol itself reads back: control objects and log entries.
fn writes_to_a_register(request: &Request<'_>) -> bool {
    request.kind == Kind::Write
        && (request.path.starts_with("control/") || request.path.contains("/_delta_log/"))
}

fn writes_a_data_file(request: &Request<'_>) -> bool {
    request.kind == Kind::Write && request.path.ends_with(".parquet")
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_go_on_while_all_three_clouds_lose_every_answer_about_the_log() {
    let seed = Seed::of("lost_answers");
    let mut records = Generator::mixed(seed.prng());
    let lab = Lab::in_memory();
    let running = lab.start(&lab.features());
    commit_more(&lab, &running, &mut records, 100).await;
    lab.script.set(|request| if writes_to_a_register(request) { Verdict::LoseAnswer } else { Verdict::Pass });
    for _ in 0..5 {
        commit_more(&lab, &running, &mut records, 100).await;
    }
    running.stop().await.unwrap();
    lab.assert_whole_and_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_doubled_when_all_three_clouds_lose_every_answer() {
    let seed = Seed::of("all_answers_lost");
    let mut records = Generator::mixed(seed.prng());
    let lab = Lab::in_memory();
    let running = lab.start(&lab.features());
    for _ in 0..3 {
        commit_more(&lab, &running, &mut records, 100).await;
        for cloud in &lab.clouds {
            cloud.switch.set(Fault::LoseWriteAnswers);
        }
        lab.produce(TOPIC, records.records(100));
        // Until the pipeline has tried and could not know; then the answers return.
        let (sequence, retried) = (running.sequence(), running.metrics.batches_retried.get());
        until("a batch was tried", async || {
            running.sequence() > sequence || running.metrics.batches_retried.get() > retried
        })
        .await;
        for cloud in &lab.clouds {
            cloud.switch.set(Fault::Off);
        }
        lab.wait_until_committed(&running).await;
    }
    running.stop().await.unwrap();
    lab.assert_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_two_clouds_away_nothing_is_decided_and_nothing_lost_until_one_returns() {
    let seed = Seed::of("two_away");
    let mut prng = seed.prng();
    let mut records = Generator::mixed(prng.fork());
    let lab = Lab::in_memory();
    let running = lab.start(&lab.features());
    commit_more(&lab, &running, &mut records, 100).await;
    for fault in [Fault::RefuseAll, Fault::RefuseWrites, Fault::RefuseAll] {
        let stays = prng.index(3);
        let gone: Vec<usize> = (0..3).filter(|index| *index != stays).collect();
        for index in &gone {
            lab.clouds[*index].switch.set(fault);
        }
        let (sequence, retried) = (running.sequence(), running.metrics.batches_retried.get());
        lab.produce(TOPIC, records.records(100));
        until("the batch was tried twice", async || running.metrics.batches_retried.get() >= retried + 2)
            .await;
        assert_eq!(running.sequence(), sequence, "something was decided by one cloud of three");
        assert!(!running.has_ended());

        let returns = *prng.pick(&gone);
        lab.clouds[returns].switch.set(Fault::Off);
        lab.wait_until_committed(&running).await;
        for index in &gone {
            lab.clouds[*index].switch.set(Fault::Off);
        }
        lab.wait_until_equal(FEATURES).await;
    }
    running.stop().await.unwrap();
    lab.assert_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_while_two_clouds_are_away_ends_and_the_next_run_has_everything() {
    let seed = Seed::of("stop_without_majority");
    let mut records = Generator::mixed(seed.prng());
    let lab = Lab::in_memory();
    let topology = lab.features();
    let running = lab.start(&topology);
    commit_more(&lab, &running, &mut records, 100).await;
    for cloud in &lab.clouds[1..] {
        cloud.switch.set(Fault::RefuseAll);
    }
    let retried = running.metrics.batches_retried.get();
    lab.produce(TOPIC, records.records(100));
    until("the batch was tried", async || running.metrics.batches_retried.get() > retried).await;
    running.stop().await.unwrap();
    for cloud in &lab.clouds {
        cloud.switch.set(Fault::Off);
    }
    lab.assert_features_right().await;
    lab.catch_up_and_assert_whole(&topology).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_ends_although_the_commit_under_way_cannot_be_decided() {
    let seed = Seed::of("stop_undecidable");
    let mut records = Generator::mixed(seed.prng());
    let lab = Lab::in_memory();
    let topology = lab.features();
    let running = lab.start(&topology);
    commit_more(&lab, &running, &mut records, 100).await;
    // The files get there, the record only to one cloud.
    let met = Arc::new(AtomicU64::new(0));
    let counted = met.clone();
    lab.script.set(move |request| {
        if writes_to_a_register(request) && request.cloud != "aws" {
            counted.fetch_add(1, Ordering::Relaxed);
            return Verdict::Refuse;
        }
        Verdict::Pass
    });
    lab.produce(TOPIC, records.records(100));
    until("the commit is under way", async || met.load(Ordering::Relaxed) >= 2).await;
    // It ends, whatever the clouds do: the next run finishes what is under way.
    let stopped = running.stop().await;
    lab.script.clear();
    if let Err(error) = stopped {
        assert_eq!(error.exit_code(), 1, "{error:?}");
    }
    lab.run_until_caught_up(&topology).await.unwrap();
    lab.assert_features_complete().await;
    lab.assert_proved().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn catching_up_is_not_over_before_a_batch_that_could_not_be_stored_was_read_again() {
    let seed = Seed::of("caught_up_after_retry");
    let lab = Lab::in_memory();
    let topology = lab.features();
    lab.run_until_caught_up(&topology).await.unwrap();
    lab.produce(TOPIC, Generator::mixed(seed.prng()).records(200));
    // The files of the first attempt reach one cloud only.
    let refusals = Arc::new(AtomicU64::new(0));
    let counted = refusals.clone();
    lab.script.set(move |request| {
        let refuse =
            writes_a_data_file(request) && request.cloud != "aws" && counted.load(Ordering::Relaxed) < 2;
        if refuse {
            counted.fetch_add(1, Ordering::Relaxed);
            return Verdict::Refuse;
        }
        Verdict::Pass
    });
    lab.run_until_caught_up(&topology).await.unwrap();
    assert_eq!(refusals.load(Ordering::Relaxed), 2);
    lab.assert_features_complete().await;
    lab.assert_proved().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cloud_that_never_answers_holds_up_nothing_and_is_filled_when_it_does() {
    let seed = Seed::of("hanging");
    let mut records = Generator::mixed(seed.prng());
    for hanging in isobar_tests::lab::CLOUDS {
        let lab = Lab::in_memory();
        let running = lab.start(&lab.features());
        commit_more(&lab, &running, &mut records, 60).await;
        let gate = Arc::new(Gate::default());
        let shut = gate.clone();
        lab.script.set(move |request| match request.cloud == hanging {
            true => Verdict::Wait(shut.clone()),
            false => Verdict::Pass,
        });
        let version = version_in(&lab, hanging).await;
        for _ in 0..4 {
            assert!(commit_more(&lab, &running, &mut records, 60).await >= 1);
        }
        assert!(
            version_in(&lab, hanging).await <= version.map(|version| version + 1),
            "at most what was under way"
        );
        lab.script.clear();
        gate.open();
        lab.wait_until_equal(FEATURES).await;
        running.stop().await.unwrap();
        lab.assert_whole().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn publishing_that_fails_in_two_clouds_stops_commits_only_after_a_bounded_number() {
    let seed = Seed::of("unpublished");
    let mut records = Generator::mixed(seed.prng());
    let lab = Lab::in_memory();
    let running = lab.start(&lab.features());
    commit_more(&lab, &running, &mut records, 60).await;
    lab.wait_until_equal(FEATURES).await;
    let sequence = running.sequence();
    lab.script.set(|request| {
        let publishes = request.kind == Kind::Write && request.path.contains("/_delta_log/");
        if publishes && request.cloud != "gcp" { Verdict::Refuse } else { Verdict::Pass }
    });
    let bound = isobar_topologies::commit::UNPUBLISHED_MAX;
    // What is produced at once may be decided in two steps.
    while running.sequence() < sequence + bound {
        let before = running.sequence();
        lab.produce(TOPIC, records.records(20));
        until("it is decided", async || running.sequence() > before).await;
    }
    lab.produce(TOPIC, records.records(20));
    // It may not go further; whether it would can only be seen once publishing works again.
    assert!(
        running.sequence() <= sequence + bound,
        "{} decisions wait for publication",
        running.sequence() - sequence
    );
    lab.script.clear();
    lab.wait_until_committed(&running).await;
    lab.wait_until_equal(FEATURES).await;
    running.stop().await.unwrap();
    lab.assert_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_moved_away_is_not_made_anew_and_is_filled_when_it_returns() {
    let seed = Seed::of("moved_directory");
    let mut records = Generator::mixed(seed.prng());
    let lab = Lab::in_directories();
    let topology = lab.features();
    lab.produce(TOPIC, records.records(100));
    lab.run_until_caught_up(&topology).await.unwrap();
    for cloud in &lab.clouds {
        let folder = cloud.folder.as_ref().unwrap();
        let elsewhere = folder.with_extension("elsewhere");
        let running = lab.start(&topology);
        commit_more(&lab, &running, &mut records, 60).await;
        fs::rename(folder, &elsewhere).unwrap();
        for _ in 0..3 {
            assert!(commit_more(&lab, &running, &mut records, 60).await >= 1);
        }
        assert!(!folder.exists(), "{} was made anew", folder.display());
        running.stop().await.unwrap();

        // Away at a start as well.
        let running = lab.start(&topology);
        running.ready().await;
        assert!(commit_more(&lab, &running, &mut records, 60).await >= 1);
        assert!(!folder.exists(), "{} was made anew", folder.display());
        fs::rename(&elsewhere, folder).unwrap();
        lab.wait_until_equal(FEATURES).await;
        running.stop().await.unwrap();
    }
    lab.assert_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_start_needs_every_cloud_once_and_leaves_nothing_that_hinders_the_next() {
    let seed = Seed::of("first_start");
    for away in isobar_tests::lab::CLOUDS {
        let lab = Lab::in_memory();
        let topology = lab.features();
        lab.produce(TOPIC, Generator::mixed(seed.prng()).records(50));
        lab.cloud(away).switch.set(Fault::RefuseAll);
        let error = lab.run_until_caught_up(&topology).await.unwrap_err();
        assert!(isobar_topologies::chain_of(&error).contains(away), "the cloud is named: {error}");
        assert_eq!(error.exit_code(), 1);
        lab.cloud(away).switch.set(Fault::Off);
        lab.run_until_caught_up(&topology).await.unwrap();
        lab.assert_whole_and_equal().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clouds_that_take_turns_being_away_never_stop_the_commits() {
    let seed = Seed::of("turns");
    let mut prng = seed.prng();
    let mut records = Generator::mixed(prng.fork());
    let lab = Lab::in_memory();
    let running = lab.start(&lab.features());
    commit_more(&lab, &running, &mut records, 60).await;
    let faults = [Fault::RefuseAll, Fault::RefuseWrites, Fault::LoseWriteAnswers, DELAY];
    for _ in 0..12 {
        let cloud = &lab.clouds[prng.index(3)];
        cloud.switch.set(*prng.pick(&faults));
        let count = 1 + prng.index(80);
        assert!(commit_more(&lab, &running, &mut records, count).await >= 1);
        cloud.switch.set(Fault::Off);
        // The next one may only go when this one holds what is decided: a majority is never all but gone.
        lab.wait_until_equal(FEATURES).await;
    }
    running.stop().await.unwrap();
    lab.assert_whole().await;
}
