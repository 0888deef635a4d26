//! Deterministic simulation of the commit protocol: one seed, one run, every promise checked at every write.
//!
//! ```text
//!              ┌────────── scenario: weather, deaths, pauses, rebalances, one wiped cloud ──────────┐
//!  kafka ──▶ machine: worker ──staged commit──▶ machine: isobar's Leader ──object_store──▶ cloud ──▶ monitor
//! (model)          (model)      (late, lost,        (the binary's code)      (lies, late,   (model)   (judge)
//!                                repeated)                                    lost, away)
//! world: one thread, virtual time, seeded choice of what runs next
//! ```
//!
//! [`run`] plays one seed. Take-over, leader and lanes are the code of the binary, driven through its environment
//! (`isobar_topologies::commit::Environment`); [`machine`] is around it, [`cloud`] below it. [`monitor`] shares no code
//! with what it judges. [`broken`] takes one rule away at a time, to see that the monitor notices.
//!
//! A run has two parts. First everything goes wrong for one to three minutes of virtual time. Then the sky clears,
//! nobody dies any more, and within 60 s every record produced must be decided and every cloud must hold every version.
//! In some runs one of three or more clouds stays away all the same; then this holds for the others.

pub mod broken;
pub mod cloud;
pub mod kafka;
pub mod machine;
pub mod monitor;
mod scenario;
pub mod world;

use std::sync::Arc;

use broken::Broken;
use cloud::SimCloud;
use kafka::Kafka;
use machine::Site;
use monitor::Monitor;
use world::World;

use crate::prng::Prng;

/// The topology of every run.
pub const TOPOLOGY: &str = "simulated";
/// Its dataset.
pub const DATASET: &str = "events";

/// What came of a run.
#[derive(Debug)]
pub struct Report {
    /// The seed that was played.
    pub seed: u64,
    /// The promise that was broken, if one was.
    pub violation: Option<String>,
    /// What happened, a line per event.
    pub events: Vec<String>,
    /// Virtual time that passed, in microseconds.
    pub virtual_us: u64,
    /// Decisions made.
    pub decisions: u64,
}

/// Plays `seed`, with one rule broken if asked to.
pub fn run(seed: u64, broken: Option<Broken>) -> Report {
    // Uploads want to know a Tokio runtime. It is never driven: tasks and time are the world's.
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime without drivers");
    let _inside = runtime.enter();
    let mut prng = Prng::new(seed);
    let plan = scenario::Plan::draw(&mut prng);
    let world = World::new(prng.fork());
    let kafka = Arc::new(Kafka::new(seed, plan.partitions));
    let monitor = Monitor::new(world.clone(), kafka.clone(), plan.clouds);
    let open =
        |index: usize| SimCloud::new(format!("cloud{index}"), index, world.clone(), monitor.clone(), broken);
    let site = Arc::new(Site {
        world: world.clone(),
        clouds: (0..plan.clouds).map(open).collect(),
        monitor: monitor.clone(),
        kafka,
        broken,
        book: Default::default(),
        bad_network_percent: plan.bad_network_percent.into(),
        batch_offsets_max: plan.batch_offsets_max,
        unrest: true.into(),
    });
    world.run(scenario::play(site, plan, prng.fork()));
    let report = Report {
        seed,
        violation: world.violation(),
        events: world.take_events(),
        virtual_us: world.now_us(),
        decisions: monitor.decisions(),
    };
    world.end();
    report
}
