//! Every request to a cloud fails once, in turn: by count, over a whole run from the first start to the last commit.
//!
//! A run that meets the fault may end with an error that says so, but never with a wrong result: when it says that it
//! caught up, everything is there, and when it failed, the next run finishes the work. `ISOBAR_EXHAUSTIVE=1` tries
//! every single request; otherwise a sample of them, drawn by the seed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use isobar_tests::events::{Generator, TOPIC};
use isobar_tests::lab::Lab;
use isobar_tests::prng::{Prng, Seed};
use isobar_tests::script::Verdict;
use isobar_topologies::{Error, chain_of};

/// Requests tried per kind of failure when not all are.
const SAMPLE: usize = 24;
/// Runs after which the work must be done.
const RUNS_MAX: usize = 3;

/// A lab in which records wait.
fn prepared(prng: Prng) -> Lab {
    let lab = Lab::in_memory();
    lab.produce(TOPIC, Generator::mixed(prng).records(120));
    lab
}

/// Runs until one run succeeds; the errors of those before.
async fn finish(lab: &Lab) -> Vec<Error> {
    let topology = lab.features();
    let mut errors = Vec::new();
    for _ in 0..RUNS_MAX {
        match lab.run_until_caught_up(&topology).await {
            Ok(_) => return errors,
            Err(error) => errors.push(error),
        }
    }
    panic!("{RUNS_MAX} runs failed although one request did: {errors:?}");
}

/// The numbers to try, of `requests`.
pub(crate) fn sample(requests: u64, prng: &mut Prng) -> Vec<u64> {
    if std::env::var("ISOBAR_EXHAUSTIVE").as_deref() == Ok("1") {
        return (0..requests).collect();
    }
    // One of each stretch, so that every stage of a run is met.
    let stretch = requests.div_ceil(SAMPLE as u64);
    (0..requests)
        .step_by(stretch as usize)
        .map(|first| first + prng.below(stretch.min(requests - first)))
        .collect()
}

/// One request of a run fails as `verdict` says; what the run says of it must be true.
async fn fail_each(test: &'static str, verdict: Verdict) {
    let seed = Seed::of(test);
    let mut prng = seed.prng();
    let undisturbed = prepared(prng.clone());
    assert!(finish(&undisturbed).await.is_empty());
    let requests = undisturbed.script.requests();
    assert!(requests > 100, "{requests} requests are fewer than a start takes");
    let (mut met, mut stopped) = (0, Vec::new());
    for number in sample(requests, &mut prng.fork()) {
        let lab = prepared(prng.clone());
        let (verdict, hits) = (verdict.clone(), Arc::new(AtomicU64::new(0)));
        let counted = hits.clone();
        lab.script.set(move |request| {
            if request.number != number {
                return Verdict::Pass;
            }
            counted.fetch_add(1, Ordering::Relaxed);
            verdict.clone()
        });
        let errors = finish(&lab).await;
        met += hits.load(Ordering::Relaxed);
        stopped.extend(errors.iter().map(|error| format!("request {number}: {}", chain_of(error))));
        // The cloud that failed may be behind, no other.
        lab.assert_features_right().await;
        assert!(lab.clouds_complete().await >= 2, "request {number}: it said that it caught up, and has not");
        lab.script.clear();
        lab.catch_up_and_assert_whole(&lab.features()).await;
    }
    assert!(met > 0, "no request was met");
    // The very first start registers every cloud and may ask for another try; it is never wrong about why.
    for stop in &stopped {
        assert!(stop.contains("by the test"), "an error that hides its cause: {stop}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn any_one_request_may_be_refused() {
    fail_each("one_refused", Verdict::Refuse).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn any_one_answer_may_be_lost() {
    fail_each("one_lost", Verdict::LoseAnswer).await;
}

/// Once a topology exists, a majority is enough: one failed request, whichever it is, may not even stop a start.
#[tokio::test(flavor = "multi_thread")]
async fn one_refused_request_does_not_stop_a_later_start() {
    let seed = Seed::of("later_start");
    let mut prng = seed.prng();
    let lab = prepared(prng.fork());
    let topology = lab.features();
    lab.run_until_caught_up(&topology).await.unwrap();
    let before = lab.script.requests();
    lab.run_until_caught_up(&topology).await.unwrap();
    let requests = lab.script.requests() - before;
    let mut stopped = Vec::new();
    for number in sample(requests, &mut prng) {
        let first = lab.script.requests();
        lab.script.set(
            move |request| if request.number == first + number { Verdict::Refuse } else { Verdict::Pass },
        );
        if let Err(error) = lab.run_until_caught_up(&topology).await {
            stopped.push(format!("request {number} of {requests}: {}", chain_of(&error)));
        }
        lab.script.clear();
    }
    lab.assert_features_complete().await;
    lab.assert_proved().await;
    assert!(
        stopped.is_empty(),
        "one failed request of one cloud of three stopped a start:\n{}",
        stopped.join("\n")
    );
}
