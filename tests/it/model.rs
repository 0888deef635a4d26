use std::time::Instant;
use isobar_tests::model::*;
use stateright::{Checker, HasDiscoveries, Model};

fn env(name: &str, default: u8) -> u8 {
    std::env::var(name).ok().map_or(default, |v| v.parse().unwrap())
}

#[test]
fn explore() {
    let bounds = Bounds {
        processes: env("P", 2), epochs: env("E", 2), commits: env("C", 2), wipes: env("W", 0), lates: env("L", 0),
        files_may_miss: env("F", 0) > 0, publishes: env("PUB", 1) > 0, other_sets: env("O", 0) > 0, begins_empty: env("EMPTY", 0) > 0,
    };
    let started = Instant::now();
    let checker = Protocol::new(Variant::AsBuilt, bounds).checker().threads(env("T", 1).into()).finish_when(HasDiscoveries::AnyFailures);
    let checker = checker.spawn_dfs().join();
    println!("{} states, {} unique, depth {}, {:?}, {}", checker.state_count(), checker.unique_state_count(), checker.max_depth(), started.elapsed(), checker.model().values_met());
    for (name, path) in checker.discoveries() {
        println!("found: {name} ({})", path.clone().into_actions().len());
    }
    checker.assert_properties();
}
