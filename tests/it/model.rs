//! The commit protocol under a model checker: as built, within bounds, and broken on purpose.
//!
//! `isobar_tests::model` says what is modelled, what is left out and why a reduction is sound. `ISOBAR_MODEL=deep` adds
//! larger bounds and a hundred times as many random walks; `ISOBAR_SEED` replays a walk.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use isobar_tests::model::properties::{
    CONTIGUOUS, EPOCHS_RISE, EQUAL, FILES_EXIST, NOT_LOST, ONE_OWNER, ONE_VALUE, PUBLISHED_DECIDED, TILES,
    UNDAMAGED,
};
use isobar_tests::model::{Action, Bounds, Protocol, Variant};
use isobar_tests::prng::{Prng, Seed};
use stateright::{Checker, Expectation, HasDiscoveries, Model};

/// Two epochs, two commits, one leader at the beginning and one process that takes over.
const TWO_EPOCHS: Bounds = Bounds {
    processes: 2,
    epochs: 2,
    commits: 2,
    wipes: 0,
    late_writes: 0,
    records_late: false,
    files_may_miss: false,
    publishes: true,
    other_sets: false,
    begins_empty: false,
};
/// Three epochs and two processes that take over, one after the other or both at once.
const THREE_EPOCHS: Bounds = Bounds { processes: 3, epochs: 3, commits: 1, publishes: false, ..TWO_EPOCHS };
/// Far too large to visit every state.
const WALKS: Bounds = Bounds {
    processes: 4,
    epochs: 4,
    commits: 3,
    wipes: 1,
    late_writes: 2,
    records_late: true,
    files_may_miss: true,
    publishes: true,
    other_sets: true,
    begins_empty: false,
};

fn is_deep() -> bool {
    std::env::var("ISOBAR_MODEL").is_ok_and(|value| value == "deep")
}

/// Visits every state within `bounds`; every invariant holds in it, and every `sometimes` is met.
fn holds_everywhere(bounds: Bounds) {
    let checker = Protocol::new(Variant::AsBuilt, bounds).checker().spawn_dfs().join();
    println!(
        "{bounds:?}: {} states, {} steps, longest path {}; {}",
        checker.unique_state_count(),
        checker.state_count(),
        checker.max_depth(),
        checker.model().values_met()
    );
    checker.assert_properties();
}

fn numbered(actions: &[Action]) -> String {
    actions.iter().zip(1..).fold(String::new(), |mut text, (action, step)| {
        let _ = writeln!(text, "  {step:>2} {action:?}");
        text
    })
}

#[test]
fn two_epochs_with_everything_but_wiped_clouds_hold() {
    holds_everywhere(Bounds { late_writes: 1, files_may_miss: true, other_sets: true, ..TWO_EPOCHS });
}

#[test]
fn two_epochs_with_a_wiped_cloud_hold() {
    holds_everywhere(Bounds { wipes: 1, other_sets: true, ..TWO_EPOCHS });
}

#[test]
fn two_epochs_with_everything_at_once_hold_for_one_commit() {
    holds_everywhere(Bounds {
        commits: 1,
        wipes: 1,
        late_writes: 1,
        records_late: true,
        files_may_miss: true,
        other_sets: true,
        ..TWO_EPOCHS
    });
}

#[test]
fn two_epochs_with_late_records_hold() {
    holds_everywhere(Bounds { late_writes: 1, records_late: true, ..TWO_EPOCHS });
}

#[test]
fn three_epochs_hold() {
    holds_everywhere(THREE_EPOCHS);
}

#[test]
fn two_processes_after_one_epoch_hold() {
    holds_everywhere(Bounds { processes: 3, publishes: false, ..TWO_EPOCHS });
}

#[test]
fn a_table_that_does_not_exist_yet_holds() {
    holds_everywhere(Bounds { begins_empty: true, commits: 2, late_writes: 1, wipes: 1, ..TWO_EPOCHS });
}

#[test]
fn larger_bounds_hold() {
    if !is_deep() {
        println!("skipped: ISOBAR_MODEL=deep runs it");
        return;
    }
    holds_everywhere(Bounds { commits: 2, ..THREE_EPOCHS });
    holds_everywhere(Bounds { publishes: true, ..THREE_EPOCHS });
    holds_everywhere(Bounds { wipes: 1, ..THREE_EPOCHS });
    holds_everywhere(Bounds {
        wipes: 1,
        late_writes: 1,
        files_may_miss: true,
        other_sets: true,
        ..TWO_EPOCHS
    });
}

/// Renaming clouds merges states and hides none: the same properties are met and none is broken without it.
#[test]
fn symmetry_changes_the_number_of_states_and_nothing_else() {
    let bounds = Bounds { commits: 1, wipes: 1, ..TWO_EPOCHS };
    let visit = |symmetry| {
        let mut model = Protocol::new(Variant::AsBuilt, bounds);
        model.symmetry = symmetry;
        let checker = model.checker().spawn_dfs().join();
        let met: BTreeSet<&str> = checker.discoveries().into_keys().collect();
        (met, checker.unique_state_count())
    };
    let (with, fewer) = visit(true);
    let (without, more) = visit(false);
    assert_eq!(with, without);
    assert!(fewer < more && more <= 6 * fewer, "{fewer} states with renaming, {more} without");
}

/// Each way to break the protocol, the bounds that suffice to show it, and the invariant that it breaks first.
fn broken() -> Vec<(Variant, Bounds, &'static str)> {
    let wiped = Bounds { wipes: 1, ..TWO_EPOCHS };
    let files = Bounds { files_may_miss: true, ..TWO_EPOCHS };
    vec![
        (Variant::NoSeal, TWO_EPOCHS, NOT_LOST),
        (Variant::ReadBeforeSeal, TWO_EPOCHS, NOT_LOST),
        (Variant::SealBelowHighest, TWO_EPOCHS, NOT_LOST),
        (Variant::SealLeavesGap, TWO_EPOCHS, NOT_LOST),
        (Variant::OneCloudSealed, TWO_EPOCHS, NOT_LOST),
        (Variant::OneClaimOwns, Bounds { epochs: 2, ..THREE_EPOCHS }, ONE_OWNER),
        (Variant::HeaderWithoutTail, TWO_EPOCHS, NOT_LOST),
        (Variant::TailReencoded, TWO_EPOCHS, ONE_VALUE),
        (Variant::ChooseShortest, TWO_EPOCHS, NOT_LOST),
        (Variant::ChooseLowestEpoch, THREE_EPOCHS, NOT_LOST),
        (Variant::RecordBeforeFiles, files, FILES_EXIST),
        (Variant::RecordBeforePrevious, TWO_EPOCHS, UNDAMAGED),
        (Variant::FillWithoutFiles, files, FILES_EXIST),
        (Variant::WipedCloudCounted, wiped, NOT_LOST),
        (Variant::NotAskedAfterReading, wiped, NOT_LOST),
        (Variant::NotAskedAfterStoring, wiped, NOT_LOST),
        (Variant::TwoSetsOfClouds, Bounds { other_sets: true, ..TWO_EPOCHS }, NOT_LOST),
        (Variant::DecidedInOne, TWO_EPOCHS, NOT_LOST),
        (Variant::PublishBeforeDecided, TWO_EPOCHS, PUBLISHED_DECIDED),
        (Variant::PublishBeforeDecided, TWO_EPOCHS, EQUAL),
        (Variant::PublishOutOfOrder, TWO_EPOCHS, CONTIGUOUS),
        (Variant::EpochInBytesNotOwn, TWO_EPOCHS, EPOCHS_RISE),
        (Variant::PositionCheckSkipped, TWO_EPOCHS, TILES),
        (Variant::ExistsTrusted, TWO_EPOCHS, NOT_LOST),
        (Variant::AbsenceTrusted, Bounds { late_writes: 1, records_late: true, ..TWO_EPOCHS }, UNDAMAGED),
        (Variant::LogDeleted, TWO_EPOCHS, NOT_LOST),
    ]
}

#[test]
fn every_broken_variant_is_caught_by_a_named_invariant() {
    for (variant, bounds, invariant) in broken() {
        let mut model = Protocol::new(variant, bounds);
        // The trace is for people: clouds keep their names in it. One thread searches breadth first, so it is shortest.
        model.symmetry = false;
        let until = HasDiscoveries::AllOf(BTreeSet::from([invariant]));
        let checker = model.checker().finish_when(until).spawn_bfs().join();
        let Some(path) = checker.discovery(invariant) else {
            panic!(
                "{variant:?} is not caught: \"{invariant}\" holds in {} states",
                checker.unique_state_count()
            )
        };
        let actions = path.into_actions();
        println!("{variant:?} breaks \"{invariant}\" in {} steps:\n{}", actions.len(), numbered(&actions));
    }
}

/// Takes random steps until none is left. The trace to the first broken invariant, if any.
fn walk(model: &Protocol, prng: &mut Prng, met: &mut BTreeSet<&'static str>) -> Result<usize, String> {
    let mut state = model.init_states().remove(0);
    let mut taken = Vec::new();
    let properties = model.properties();
    loop {
        for property in &properties {
            let holds = (property.condition)(model, &state);
            match property.expectation {
                Expectation::Always if !holds => {
                    return Err(format!("\"{}\" is broken:\n{}", property.name, numbered(&taken)));
                }
                Expectation::Sometimes if holds => _ = met.insert(property.name),
                _ => {}
            }
        }
        let mut actions = Vec::new();
        model.actions(&state, &mut actions);
        let next = std::iter::from_fn(|| {
            (!actions.is_empty()).then(|| actions.swap_remove(prng.index(actions.len())))
        })
        .find_map(|action| Some((action, model.next_state(&state, action)?)));
        let Some((action, after)) = next else { return Ok(taken.len()) };
        taken.push(action);
        state = after;
    }
}

#[test]
fn random_walks_beyond_the_bounds_hold() {
    let seed = Seed::of("random_walks_beyond_the_bounds_hold");
    let walks = if is_deep() { 200_000 } else { 2_000 };
    let mut model = Protocol::new(Variant::AsBuilt, WALKS);
    model.symmetry = false;
    let (mut met, mut steps) = (BTreeSet::new(), 0);
    let mut prng = seed.prng();
    for number in 0..walks {
        match walk(&model, &mut prng.fork(), &mut met) {
            Ok(taken) => steps += taken,
            Err(broken) => panic!("walk {number}: {broken}"),
        }
    }
    println!("{walks} walks of {} steps on average; met: {met:?}", steps / walks);
}
