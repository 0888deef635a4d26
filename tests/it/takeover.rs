//! Processes that die, wake up too late, or meet each other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use isobar_connectors::clouds::Fault;
use isobar_tests::delta::Log;
use isobar_tests::events::{FEATURES, Generator, TOPIC};
use isobar_tests::lab::{Lab, Running};
use isobar_tests::prng::Seed;
use isobar_tests::script::{Gate, Verdict};
use isobar_tests::wait::until;
use isobar_topologies::Error;

/// How often a process dies in the tests that count deaths.
const DEATHS: usize = 36;

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_takes_over_and_the_first_one_ends_when_it_wants_to_commit() {
    let seed = Seed::of("second_process");
    let mut records = Generator::mixed(seed.prng());
    let lab = Lab::in_memory();
    let topology = lab.features();
    let mut leading = lab.start(&topology);
    leading.ready().await;
    for _ in 0..4 {
        lab.commit(&leading, &mut records, 100).await;
        let second = lab.start(&topology);
        second.ready().await;
        lab.produce(TOPIC, records.records(100));
        let error = leading.ended().await.unwrap_err();
        assert!(matches!(error, Error::Superseded { .. }), "{error:?}");
        assert_eq!(error.exit_code(), 1);
        lab.wait_until_committed(&second).await;
        leading = second;
    }
    leading.stop().await.unwrap();
    lab.assert_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_processes_at_once_lose_and_double_nothing() {
    let seed = Seed::of("many_processes");
    let mut records = Generator::mixed(seed.prng());
    let lab = Lab::in_memory();
    let topology = lab.features();
    lab.produce(TOPIC, records.records(200));
    lab.run_until_caught_up(&topology).await.unwrap();
    for _ in 0..4 {
        let rivals: Vec<Running> = (0..4).map(|_| lab.start(&topology)).collect();
        lab.produce(TOPIC, records.records(200));
        // At most one of them can go on; the others end, or have nothing to commit any more.
        until("at most one is left that did not notice", async || {
            rivals.iter().filter(|rival| !rival.has_ended()).count() <= 1 || lab.clouds_complete().await >= 2
        })
        .await;
        for rival in rivals {
            match rival.stop().await {
                Ok(_)
                | Err(Error::Superseded { .. } | Error::NoMajority { .. } | Error::Configuration(_)) => {}
                Err(error) => panic!("{error:?}"),
            }
        }
        lab.assert_features_right().await;
    }
    lab.catch_up_and_assert_whole(&topology).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_that_are_dropped_at_random_moments_lose_and_double_nothing() {
    let seed = Seed::of("random_deaths");
    let mut prng = seed.prng();
    let mut records = Generator::mixed(prng.fork());
    let lab = Lab::in_memory();
    let topology = lab.features();
    for _ in 0..DEATHS {
        let count = prng.index(80);
        lab.produce(TOPIC, records.records(count));
        let running = lab.start(&topology);
        // A moment, not a condition: some deaths hit the start, some a commit, some an idle process.
        tokio::time::sleep(Duration::from_millis(prng.below(700))).await;
        running.abort().await;
    }
    lab.catch_up_and_assert_whole(&topology).await;
}

/// Freezes everything from a certain request on.
struct Freeze {
    gate: Arc<Gate>,
    reached: Arc<AtomicBool>,
}

impl Freeze {
    /// Every request of the lab after the next `requests` waits.
    fn after(lab: &Lab, requests: u64) -> Self {
        let freeze = Self { gate: Arc::default(), reached: Arc::default() };
        let (gate, reached) = (freeze.gate.clone(), freeze.reached.clone());
        let from = lab.script.requests() + requests;
        lab.script.set(move |request| {
            if request.number < from {
                return Verdict::Pass;
            }
            reached.store(true, Ordering::Relaxed);
            Verdict::Wait(gate.clone())
        });
        freeze
    }

    fn is_reached(&self) -> bool {
        self.reached.load(Ordering::Relaxed)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_that_die_between_any_two_requests_lose_and_double_nothing() {
    let seed = Seed::of("deaths_between_requests");
    let mut prng = seed.prng();
    let mut records = Generator::mixed(prng.fork());
    let lab = Lab::in_memory();
    let topology = lab.features();
    lab.produce(TOPIC, records.records(50));
    lab.run_until_caught_up(&topology).await.unwrap();
    let before = lab.script.requests();
    lab.produce(TOPIC, records.records(50));
    lab.run_until_caught_up(&topology).await.unwrap();
    let requests = lab.script.requests() - before;
    for _ in 0..DEATHS {
        let count = 1 + prng.index(80);
        lab.produce(TOPIC, records.records(count));
        let freeze = Freeze::after(&lab, prng.below(requests + requests / 4));
        let running = lab.start(&topology);
        let ends = lab.ledger().ends(TOPIC);
        let is_done = async || freeze.is_reached() || running.has_committed(TOPIC, &ends);
        until("it is frozen, or done", is_done).await;
        running.abort().await;
        // The dead send nothing any more: their gate stays shut.
        lab.script.clear();
        lab.assert_features_right().await;
    }
    lab.catch_up_and_assert_whole(&topology).await;
}

/// A process is frozen between two requests, another one takes over, and then the frozen one goes on as if nothing
/// had happened: its late writes land in the middle of its successor's work.
#[tokio::test(flavor = "multi_thread")]
async fn processes_that_wake_up_after_they_were_replaced_change_nothing() {
    let seed = Seed::of("sleepers");
    let mut prng = seed.prng();
    let mut records = Generator::mixed(prng.fork());
    let lab = Lab::in_memory();
    let topology = lab.features();
    lab.produce(TOPIC, records.records(50));
    lab.run_until_caught_up(&topology).await.unwrap();
    let before = lab.script.requests();
    lab.produce(TOPIC, records.records(50));
    lab.run_until_caught_up(&topology).await.unwrap();
    let requests = lab.script.requests() - before;
    let mut superseded = 0;
    for _ in 0..DEATHS {
        let count = 1 + prng.index(80);
        lab.produce(TOPIC, records.records(count));
        let freeze = Freeze::after(&lab, prng.below(requests));
        let sleeper = lab.start(&topology);
        let sleeps_or_waits = async || freeze.is_reached() || sleeper.has_ended() || sleeper.sequence() > 0;
        until("it sleeps, or has nothing to do", sleeps_or_waits).await;
        lab.script.clear();
        let successor = lab.start(&topology);
        successor.ready().await;
        freeze.gate.open();
        lab.produce(TOPIC, records.records(20));
        let ends = lab.ledger().ends(TOPIC);
        // Whoever leads in the end: everything gets decided once.
        until("everything is decided", async || {
            let positions =
                Log::read(&*lab.clouds[prng.clone().index(3)].store(), FEATURES).await.positions();
            ends.iter().all(|(partition, end)| positions.get(partition) == Some(end))
                || (sleeper.has_ended() && successor.has_ended())
        })
        .await;
        for process in [sleeper, successor] {
            match process.stop().await {
                Ok(_) => {}
                Err(Error::Superseded { .. }) => superseded += 1,
                // Met another's claim, or was stopped before it was up.
                Err(Error::NoMajority { .. } | Error::Configuration(_)) => {}
                Err(error) => panic!("{error:?}"),
            }
        }
        lab.assert_features_right().await;
    }
    assert!(superseded > 0, "no sleeper ever met its successor");
    lab.catch_up_and_assert_whole(&topology).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deaths_and_outages_together_lose_and_double_nothing() {
    let seed = Seed::of("deaths_and_outages");
    let mut prng = seed.prng();
    let mut records = Generator::mixed(prng.fork());
    let lab = Lab::in_memory();
    let topology = lab.features();
    lab.run_until_caught_up(&topology).await.unwrap();
    let faults = [Fault::Off, Fault::RefuseAll, Fault::RefuseWrites, Fault::LoseWriteAnswers];
    for _ in 0..DEATHS {
        let count = prng.index(60);
        lab.produce(TOPIC, records.records(count));
        let running = lab.start(&topology);
        for _ in 0..prng.below(4) {
            // At most one cloud at a time.
            for cloud in &lab.clouds {
                cloud.switch.set(Fault::Off);
            }
            lab.clouds[prng.index(3)].switch.set(*prng.pick(&faults));
            tokio::time::sleep(Duration::from_millis(prng.below(250))).await;
        }
        running.abort().await;
    }
    for cloud in &lab.clouds {
        cloud.switch.set(Fault::Off);
    }
    lab.catch_up_and_assert_whole(&topology).await;
}
