//! Seeds of the simulation in `isobar_tests::sim`: a block of them, those that ever failed, and broken protocols.
//!
//! ```sh
//! # Ten thousand fresh seeds from a number of your own on (by default from 0):
//! ISOBAR_SEEDS=10000 ISOBAR_SEED=123456 cargo test --release --locked --workspace --test it -- sim::seeds --nocapture
//! # One seed, with everything that happened:
//! ISOBAR_SEED=123456 cargo test --release --locked --workspace --test it -- sim::replay --ignored --nocapture
//! ```

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use isobar_tests::prng::Prng;
use isobar_tests::sim::broken::Broken;
use isobar_tests::sim::world::{Process, World};
use isobar_tests::sim::{Report, run};

/// Seeds in the block that runs with every other test.
const SEEDS: u64 = 400;
/// Seeds within which a broken protocol must be caught.
const SEEDS_UNTIL_CAUGHT: u64 = 1000;
/// Every seed that ever failed, one in a line; what follows `#` says why.
const FAILED_ONCE: &str = include_str!("../sim/seeds.txt");

fn from_environment(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.trim().parse().unwrap_or_else(|_| panic!("{name} is no number")))
}

/// How to see a run again.
fn replay_command(seed: u64, broken: Option<Broken>) -> String {
    let rule = broken.map(|broken| format!("ISOBAR_BROKEN={broken:?} ")).unwrap_or_default();
    format!(
        "{rule}ISOBAR_SEED={seed} cargo test --release --locked --workspace --test it -- sim::replay --ignored --nocapture"
    )
}

fn describe(report: &Report, broken: Option<Broken>) -> String {
    let violation = report.violation.as_deref().unwrap_or("none");
    let seconds = report.virtual_us / 1_000_000;
    let events = report.events.len();
    let command = replay_command(report.seed, broken);
    format!("seed {}: {violation}\n  after {seconds} s and {events} events\n  {command}", report.seed)
}

/// Plays `seeds` on all cores and hands every report to `look`, until it returns false.
fn play(
    seeds: impl Iterator<Item = u64> + Send,
    broken: Option<Broken>,
    look: impl Fn(Report) -> bool + Sync,
) {
    let (seeds, stop) = (Mutex::new(seeds), AtomicBool::new(false));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let Some(seed) = seeds.lock().unwrap().next() else { return };
                    if !look(run(seed, broken)) {
                        stop.store(true, Ordering::Relaxed);
                    }
                }
            });
        }
    });
}

/// Plays all `seeds`; panics with every one that broke a promise.
fn must_keep_every_promise(seeds: impl Iterator<Item = u64> + Send) {
    let failures = Mutex::new(Vec::new());
    let (runs, decisions, virtual_us) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let began = Instant::now();
    play(seeds, None, |report| {
        let count = runs.fetch_add(1, Ordering::Relaxed) + 1;
        decisions.fetch_add(report.decisions, Ordering::Relaxed);
        virtual_us.fetch_add(report.virtual_us, Ordering::Relaxed);
        if count % 1000 == 0 {
            println!("{count} seeds, {:.1} a second", count as f64 / began.elapsed().as_secs_f64());
        }
        if report.violation.is_some() {
            eprintln!("{}", describe(&report, None));
            failures.lock().unwrap().push(report);
        }
        true
    });
    let runs = runs.into_inner();
    println!(
        "{runs} seeds in {:.0?}: {} decisions, {:.0?} of virtual time",
        began.elapsed(),
        decisions.into_inner(),
        Duration::from_micros(virtual_us.into_inner())
    );
    let mut failures = failures.into_inner().unwrap();
    failures.sort_by_key(|report| report.events.len());
    if let Some(shortest) = failures.first() {
        panic!("{} of {runs} seeds failed; the shortest: {}", failures.len(), describe(shortest, None));
    }
}

#[test]
fn seeds_keep_every_promise() {
    let first = from_environment("ISOBAR_SEED").unwrap_or(0);
    let count = from_environment("ISOBAR_SEEDS").unwrap_or(SEEDS);
    must_keep_every_promise(first..first + count);
}

#[test]
fn seeds_that_failed_once_keep_every_promise() {
    let seeds: Vec<u64> = FAILED_ONCE
        .lines()
        .filter_map(|line| line.split('#').next().map(str::trim).filter(|seed| !seed.is_empty()))
        .map(|seed| seed.parse().unwrap())
        .collect();
    must_keep_every_promise(seeds.into_iter());
}

#[test]
fn the_same_seed_gives_the_same_events() {
    for seed in 0..8 {
        let (one, other) = (run(seed, None), run(seed, None));
        let first_difference = one.events.iter().zip(&other.events).position(|(one, other)| one != other);
        let shown = first_difference.map(|at| (&one.events[at], &other.events[at]));
        assert_eq!(shown, None, "seed {seed}");
        assert_eq!(one.events.len(), other.events.len(), "seed {seed}");
        assert!(one.events.len() > 100, "seed {seed} plays nothing");
    }
}

fn must_be_caught(broken: Broken) {
    let caught = Mutex::new(None);
    play(0..SEEDS_UNTIL_CAUGHT, Some(broken), |report| {
        if report.violation.is_none() {
            return true;
        }
        caught.lock().unwrap().get_or_insert(report);
        false
    });
    let caught = caught.into_inner().unwrap();
    let report = caught.unwrap_or_else(|| panic!("{broken:?} is not caught in {SEEDS_UNTIL_CAUGHT} seeds"));
    println!("{broken:?}: {}", describe(&report, Some(broken)));
}

#[test]
fn every_broken_protocol_is_caught_within_a_thousand_seeds() {
    for broken in Broken::ALL {
        must_be_caught(broken);
    }
}

#[test]
fn stores_that_ignore_preconditions_are_refused_before_anything_is_decided() {
    for seed in 0..20 {
        let report = run(seed, Some(Broken::PreconditionsIgnoredOpenly));
        let refused = report.events.iter().any(|event| event.contains("ignores the precondition"));
        assert!(refused, "seed {seed}: {:?}", report.violation);
        assert_eq!(report.decisions, 0, "seed {seed}");
    }
}

#[test]
#[ignore = "shows one seed: set ISOBAR_SEED, and ISOBAR_BROKEN for a broken protocol"]
fn replay() {
    let seed = from_environment("ISOBAR_SEED").unwrap_or(0);
    let name = std::env::var("ISOBAR_BROKEN").ok();
    let broken = name.map(|name| {
        let found = Broken::ALL.into_iter().find(|broken| format!("{broken:?}") == name);
        found.unwrap_or_else(|| panic!("ISOBAR_BROKEN is one of {:?}", Broken::ALL))
    });
    let report = run(seed, broken);
    report.events.iter().for_each(|event| println!("{event}"));
    println!("{}", describe(&report, broken));
    assert_eq!(report.violation, None);
}

#[test]
fn time_passes_only_by_timers_and_a_killed_process_does_nothing_more() {
    let world = World::new(Prng::new(1));
    for (process, pause, what) in [(1, 5, "five"), (2, 3, "three"), (1, 1, "one")] {
        let clock = world.clone();
        world.spawn(Process(process), async move {
            clock.sleep(Duration::from_secs(pause)).await;
            clock.note(what);
        });
    }
    let hand = world.clone();
    world.run(async move {
        hand.sleep(Duration::from_secs(2)).await;
        hand.kill(Process(1));
        hand.pause(Process(2));
        hand.sleep(Duration::from_secs(10)).await;
        hand.note("resumed");
        hand.resume(Process(2));
        hand.sleep(Duration::from_secs(1)).await;
    });
    let events: Vec<String> = world
        .take_events()
        .iter()
        .map(|event| event.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(events, ["1.000000 one", "12.000000 resumed", "12.000000 three"]);
    assert_eq!((world.now_us(), world.violation()), (13_000_000, None));
}
