//! What is run: broken variants, exhaustive checks and walks, each with its bounds.

use std::collections::BTreeSet;
use std::time::Instant;

use isobar_model::properties::{
    CONTIGUOUS, EPOCHS_RISE, EQUAL, FILES_EXIST, NOT_LOST, ONE_OWNER, ONE_READMISSION, ONE_VALUE,
    PUBLISHED_DECIDED, TILES, UNDAMAGED,
};
use isobar_model::{Action, Bounds, Protocol, Variant};
use stateright::{Checker, Expectation, HasDiscoveries, Model, UniformChooser};

/// How much is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Size {
    /// What the gate runs.
    Small,
    /// Everything.
    Full,
}

/// What the command line asks for.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) size: Size,
    pub(crate) seed: u64,
    pub(crate) threads: usize,
    pub(crate) trace: bool,
    /// Parts of the names of the checks to run; all of them if empty.
    pub(crate) names: Vec<String>,
}

/// One check.
struct Check {
    name: String,
    bounds: Bounds,
    kind: Kind,
}

enum Kind {
    /// Every state within the bounds satisfies every invariant, and everything that may happen does.
    Holds,
    /// Every state after [`LOST_TWICE`] satisfies every invariant.
    HoldsLostTwice,
    /// The variant breaks this invariant.
    Breaks(Variant, &'static str),
    /// As many states of random walks satisfy every invariant.
    Walks(usize),
}

/// What a check found.
struct Outcome {
    states: usize,
    steps: usize,
    depth: usize,
    /// What is wrong; empty if the check passed.
    faults: Vec<String>,
    /// For people.
    trace: Option<String>,
}

/// Two epochs, two commits, one leader at the beginning and one process that takes over.
const TWO_EPOCHS: Bounds = Bounds {
    processes: 2,
    epochs: 2,
    commits: 2,
    wipes: 0,
    readmissions: 0,
    late_writes: 0,
    records_late: false,
    files_may_miss: false,
    publishes: true,
    other_sets: false,
    begins_empty: false,
};
/// Three epochs and two processes that take over, one after the other or both at once.
const THREE_EPOCHS: Bounds = Bounds { processes: 3, epochs: 3, commits: 1, publishes: false, ..TWO_EPOCHS };
/// For a cloud that is lost and readmitted twice: what is left after [`LOST_TWICE`].
const FOUR_EPOCHS: Bounds = Bounds { processes: 4, epochs: 4, wipes: 2, readmissions: 2, ..THREE_EPOCHS };
/// Epoch 2 decides a commit in clouds 1 and 2, while the leader of epoch 1 has proposed it as well and stored it in cloud
/// 0. Cloud 2 is lost, and epoch 3 readmits it. Now it may be lost again.
const LOST_TWICE: &[Action] = &[
    Action::Stage { start: Some(0), missing: None },
    Action::Start { process: 1, epoch: 2 },
    Action::Claim { process: 1, cloud: 0 },
    Action::Claim { process: 1, cloud: 1 },
    Action::Claim { process: 1, cloud: 2 },
    Action::SealRefused { process: 1, cloud: 0 },
    Action::SealAndRead { process: 1, cloud: 1 },
    Action::SealAndRead { process: 1, cloud: 2 },
    Action::Choose { process: 1 },
    Action::Store { process: 1, cloud: 1 },
    Action::Store { process: 1, cloud: 2 },
    Action::Accept { process: 1, commit: 0 },
    Action::Store { process: 1, cloud: 1 },
    Action::Store { process: 1, cloud: 2 },
    Action::Accept { process: 0, commit: 0 },
    Action::Store { process: 0, cloud: 0 },
    Action::Wipe { cloud: 2 },
    Action::StartReadmission { process: 2, lost: 2 },
    Action::Claim { process: 2, cloud: 0 },
    Action::Claim { process: 2, cloud: 1 },
    Action::SealAndRead { process: 2, cloud: 0 },
    Action::SealAndRead { process: 2, cloud: 1 },
    Action::Choose { process: 2 },
    Action::Store { process: 2, cloud: 0 },
    Action::Store { process: 2, cloud: 1 },
    // The file and the body of the commit, the header, the key, the identity.
    Action::Admit { process: 2 },
    Action::Admit { process: 2 },
    Action::Admit { process: 2 },
    Action::Admit { process: 2 },
    Action::Admit { process: 2 },
];
/// Far too large to visit every state.
const WALKS: Bounds = Bounds {
    processes: 4,
    epochs: 4,
    commits: 3,
    wipes: 2,
    readmissions: 2,
    late_writes: 2,
    records_late: true,
    files_may_miss: true,
    publishes: true,
    other_sets: true,
    begins_empty: false,
};

/// Each way to break the protocol, the bounds that suffice to show it, and an invariant that it breaks.
fn variants() -> Vec<(Variant, Bounds, &'static str)> {
    let wiped = Bounds { wipes: 1, ..TWO_EPOCHS };
    let readmission = Bounds { wipes: 1, readmissions: 1, ..THREE_EPOCHS };
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
        (Variant::ReadmittedByOne, Bounds { readmissions: 1, ..wiped }, NOT_LOST),
        (Variant::AdmittedBeforeDecided, readmission, NOT_LOST),
        (Variant::AdmittedWithoutHeader, readmission, UNDAMAGED),
        (Variant::GenerationIgnored, readmission, NOT_LOST),
        (
            Variant::GenerationNotRaised,
            Bounds { commits: 0, readmissions: 2, ..readmission },
            ONE_READMISSION,
        ),
        (Variant::NextGenerationIgnored, readmission, ONE_VALUE),
        (Variant::IdentityBeforeKey, readmission, ONE_VALUE),
        (Variant::OlderKeysNotWritten, FOUR_EPOCHS, ONE_VALUE),
        (Variant::AdmittedBeforeFilled, Bounds { readmissions: 1, ..wiped }, FILES_EXIST),
        (Variant::AdmittedBeforeFilled, Bounds { readmissions: 1, ..wiped }, CONTIGUOUS),
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

/// The bounds within which every state is visited, the larger ones only at full size.
fn exhaustive(size: Size) -> Vec<(&'static str, Bounds)> {
    let everything = Bounds {
        wipes: 1,
        readmissions: 1,
        late_writes: 1,
        records_late: true,
        files_may_miss: true,
        other_sets: true,
        ..TWO_EPOCHS
    };
    let mut checks = vec![
        ("two epochs, late claims and SEALs", Bounds { late_writes: 1, ..TWO_EPOCHS }),
        ("two epochs, late records", Bounds { late_writes: 1, records_late: true, ..TWO_EPOCHS }),
        ("two epochs, other sets of clouds", Bounds { other_sets: true, ..TWO_EPOCHS }),
        ("two epochs, missing files", Bounds { files_may_miss: true, ..TWO_EPOCHS }),
        ("two epochs, a wiped cloud", Bounds { wipes: 1, ..TWO_EPOCHS }),
        ("two epochs, a readmission", Bounds { wipes: 1, readmissions: 1, ..TWO_EPOCHS }),
        ("two epochs, a cloud is readmitted that lost nothing", Bounds { readmissions: 1, ..TWO_EPOCHS }),
        ("two epochs with everything at once, one commit", Bounds { commits: 1, ..everything }),
        ("three epochs", THREE_EPOCHS),
        ("three epochs, a readmission", Bounds { wipes: 1, readmissions: 1, ..THREE_EPOCHS }),
        ("two processes after one epoch", Bounds { processes: 3, publishes: false, ..TWO_EPOCHS }),
        ("a table that does not exist yet", Bounds { begins_empty: true, publishes: false, ..TWO_EPOCHS }),
    ];
    if size == Size::Full {
        checks.extend([
            ("three epochs, two commits", Bounds { commits: 2, ..THREE_EPOCHS }),
            ("three epochs, published", Bounds { publishes: true, ..THREE_EPOCHS }),
            ("three epochs, a wiped cloud", Bounds { wipes: 1, ..THREE_EPOCHS }),
            (
                "three epochs, a readmission, published",
                Bounds { wipes: 1, readmissions: 1, publishes: true, ..THREE_EPOCHS },
            ),
            ("a table that does not exist yet, published", Bounds { begins_empty: true, ..TWO_EPOCHS }),
            ("two epochs with everything at once", everything),
        ]);
    }
    checks
}

fn checks(options: &Options) -> Vec<Check> {
    let breaks = variants().into_iter().map(|(variant, bounds, invariant)| Check {
        name: format!("{variant:?} breaks \"{invariant}\""),
        bounds,
        kind: Kind::Breaks(variant, invariant),
    });
    let holds = exhaustive(options.size).into_iter();
    let holds = holds.map(|(name, bounds)| Check { name: name.to_owned(), bounds, kind: Kind::Holds });
    let states = if options.size == Size::Full { 50_000_000 } else { 1_000_000 };
    let walks = Check { name: "random walks".to_owned(), bounds: WALKS, kind: Kind::Walks(states) };
    let twice = "a cloud is readmitted and lost once more, four epochs".to_owned();
    let twice = Check { name: twice, bounds: FOUR_EPOCHS, kind: Kind::HoldsLostTwice };
    let is_wanted = |check: &Check| {
        options.names.is_empty() || options.names.iter().any(|name| check.name.contains(name.as_str()))
    };
    breaks.chain(holds).chain([twice, walks]).filter(is_wanted).collect()
}

/// Prints the names of all checks.
pub(crate) fn list(options: &Options) {
    for check in checks(options) {
        println!("{}", check.name);
    }
}

/// Runs what `options` ask for; whether all of it passed.
pub(crate) fn run(options: &Options) -> bool {
    let (mut passed, mut failed) = (0, 0);
    println!(
        "{:<76} {:>11} {:>12} {:>5} {:>7} {:>8}",
        "check", "states", "steps", "depth", "seconds", "peak MiB"
    );
    for check in checks(options) {
        let started = Instant::now();
        let outcome = match check.kind {
            Kind::Holds => visit_all(check.bounds, &[], options.threads),
            Kind::HoldsLostTwice => visit_all(check.bounds, LOST_TWICE, options.threads),
            Kind::Breaks(variant, invariant) => catch(variant, check.bounds, invariant, options.threads),
            Kind::Walks(states) => walk(check.bounds, states, options.seed),
        };
        let verdict = if outcome.faults.is_empty() { "ok" } else { "FAILED" };
        println!(
            "{:<76} {:>11} {:>12} {:>5} {:>7.1} {:>8}  {verdict}",
            check.name,
            outcome.states,
            outcome.steps,
            outcome.depth,
            started.elapsed().as_secs_f64(),
            peak_mebibytes()
        );
        for fault in &outcome.faults {
            println!("  {fault}");
        }
        if let Some(trace) = outcome.trace.filter(|_| options.trace) {
            println!("{trace}");
        }
        if outcome.faults.is_empty() { passed += 1 } else { failed += 1 }
    }
    let result = if failed == 0 { "ok" } else { "FAILED" };
    println!("\ntest result: {result}. {passed} passed; {failed} failed");
    failed == 0 && passed > 0
}

fn visit_all(bounds: Bounds, script: &'static [Action], threads: usize) -> Outcome {
    let mut model = Protocol::new(Variant::AsBuilt, bounds);
    model.script = script;
    let checker = model.checker().threads(threads).spawn_dfs().join();
    Outcome { faults: faults(&checker, script.is_empty()), ..counted(&checker) }
}

fn catch(variant: Variant, bounds: Bounds, invariant: &'static str, threads: usize) -> Outcome {
    let mut model = Protocol::new(variant, bounds);
    if variant == Variant::OlderKeysNotWritten {
        model.script = LOST_TWICE;
    }
    let until = HasDiscoveries::AllOf(BTreeSet::from([invariant]));
    if bounds.readmissions > 0 {
        // Breadth first would take minutes, and gigabytes; any trace will do.
        return caught(&model.checker().finish_when(until).threads(threads).spawn_dfs().join(), invariant);
    }
    // The trace is for people: clouds keep their names in it. One thread searches breadth first, so it is shortest.
    model.symmetry = false;
    caught(&model.checker().finish_when(until).spawn_bfs().join(), invariant)
}

fn caught(checker: &impl Checker<Protocol>, invariant: &'static str) -> Outcome {
    let trace = checker.discovery(invariant).map(|path| numbered(&path.into_actions()));
    let faults = if trace.is_some() { vec![] } else { vec![format!("\"{invariant}\" holds in all states")] };
    Outcome { faults, trace, ..counted(checker) }
}

fn walk(bounds: Bounds, states: usize, seed: u64) -> Outcome {
    let mut model = Protocol::new(Variant::AsBuilt, bounds);
    (model.symmetry, model.filters) = (false, true);
    let checker = model.checker().target_state_count(states);
    let checker =
        checker.finish_when(HasDiscoveries::AnyFailures).spawn_simulation(seed, UniformChooser).join();
    Outcome { faults: faults(&checker, false), ..counted(&checker) }
}

fn counted(checker: &impl Checker<Protocol>) -> Outcome {
    Outcome {
        states: checker.unique_state_count(),
        steps: checker.state_count(),
        depth: checker.max_depth(),
        faults: Vec::new(),
        trace: None,
    }
}

/// Broken invariants with their traces, and what never happened although it should.
fn faults(checker: &impl Checker<Protocol>, must_happen: bool) -> Vec<String> {
    let mut discoveries = checker.discoveries();
    let properties = checker.model().properties();
    let faults = properties.iter().filter_map(|property| {
        match (&property.expectation, discoveries.remove(property.name)) {
            (Expectation::Always, Some(path)) => {
                Some(format!("\"{}\" is broken:\n{}", property.name, numbered(&path.into_actions())))
            }
            (Expectation::Sometimes, None) if must_happen => {
                Some(format!("\"{}\" never happens, so the check shows little", property.name))
            }
            _ => None,
        }
    });
    faults.collect()
}

fn numbered(actions: &[Action]) -> String {
    let lines = actions.iter().zip(1..).map(|(action, step)| format!("  {step:>3} {action:?}"));
    lines.collect::<Vec<_>>().join("\n")
}

/// Peak resident memory of this process, in MiB; 0 where the system does not say.
fn peak_mebibytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()).unwrap_or(0) / 1024
}
