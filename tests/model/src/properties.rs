//! What must always hold, and what must sometimes happen for the checks to mean something.

use stateright::Property;

use super::state::{Broken, CLOUDS, Late, Phase, Process, State};
use super::values::{Kind, Refused};
use super::{Bounds, Protocol};

/// One decided value per sequence number, and so per version, ever.
pub const ONE_VALUE: &str = "one decided value per sequence";
/// What was decided or acknowledged is in the chain of every later leader.
pub const NOT_LOST: &str = "an acknowledged commit is never lost by a later leader";
/// Ranges of offsets follow each other along the chain without gap or overlap.
pub const TILES: &str = "offsets tile along the chain";
/// The epoch in the bytes does not fall along the chain.
pub const EPOCHS_RISE: &str = "epochs never go back along the chain";
/// No take-over reads logs that contradict each other or have holes.
pub const UNDAMAGED: &str = "no take-over meets damaged or contradicting logs";
/// No two readmissions ever write the key of one generation.
pub const ONE_READMISSION: &str = "one readmission per generation";
/// Two processes never both lead one epoch.
pub const ONE_OWNER: &str = "one owner per epoch";
/// Version N has the same bytes in every cloud that has it.
pub const EQUAL: &str = "published bytes are equal in every cloud";
/// What is published is what was decided.
pub const PUBLISHED_DECIDED: &str = "what is published is decided";
/// The files of every published version are in the cloud.
pub const FILES_EXIST: &str = "files of published entries exist";
/// Versions are there without a gap.
pub const CONTIGUOUS: &str = "versions are contiguous";

/// All properties that make sense within `bounds`.
pub(super) fn all(bounds: Bounds) -> Vec<Property<Protocol>> {
    let mut all = vec![
        Property::always(ONE_VALUE, |_, state: &State| !state.observed.is_broken(Broken::TwoValues)),
        Property::always(NOT_LOST, |_, state: &State| !state.observed.is_broken(Broken::Lost)),
        Property::always(TILES, |_, state: &State| !state.observed.is_broken(Broken::Tiles)),
        Property::always(EPOCHS_RISE, |_, state: &State| !state.observed.is_broken(Broken::EpochWentBack)),
        Property::always(UNDAMAGED, |_, state: &State| !state.observed.is_broken(Broken::Damaged)),
        Property::always(ONE_READMISSION, |_, state: &State| {
            !state.observed.is_broken(Broken::TwoReadmissions)
        }),
        Property::always(ONE_OWNER, one_owner),
        Property::always(EQUAL, are_equal),
        Property::always(PUBLISHED_DECIDED, are_decided),
        Property::always(FILES_EXIST, have_files),
        Property::always(CONTIGUOUS, are_contiguous),
        Property::sometimes("all commits are decided", all_commits_are_decided),
        Property::sometimes("a take-over carries a tail", a_tail_is_carried),
        Property::sometimes("a take-over adopts a record that was not decided", undecided_is_adopted),
        Property::sometimes("a record that was not decided is left behind", undecided_is_left),
        Property::sometimes("two leaders whose headers are decided are at work", two_leaders),
        Property::sometimes("a leader of before meets a SEAL", a_seal_is_met),
    ];
    let mut sometimes = |applies: bool, name, condition| {
        if applies {
            all.push(Property::sometimes(name, condition));
        }
    };
    sometimes(bounds.commits > 1, "a stale commit is refused", a_stale_commit_is_refused);
    sometimes(bounds.processes > 2, "two processes claim one epoch", an_epoch_is_contested);
    sometimes(bounds.publishes, "every cloud has published everything", all_is_published);
    sometimes(bounds.publishes, "a cloud that was away is to be filled", a_cloud_is_filled);
    sometimes(bounds.wipes > 0, "a leader goes on beside a wiped cloud", a_wiped_cloud_is_left_out);
    sometimes(bounds.records_late, "a write is on its way to a closed log", a_late_write_meets_a_seal);
    let readmissions = bounds.readmissions > 0;
    sometimes(readmissions, "a cloud is readmitted", a_cloud_is_readmitted);
    sometimes(readmissions && bounds.epochs > 2, "a readmitted cloud decides", a_readmitted_cloud_decides);
    sometimes(bounds.other_sets, "a process that names other clouds is refused", another_set_is_refused);
    all
}

fn leaders(state: &State) -> impl Iterator<Item = &Process> {
    state.processes.iter().filter(|process| process.phase == Phase::Leading)
}

/// Later than the leader of the beginning.
fn later_leaders<'a>(model: &Protocol, state: &'a State) -> impl Iterator<Item = &'a Process> {
    let first = if model.bounds.begins_empty { 0 } else { 1 };
    leaders(state).filter(move |process| process.epoch > first)
}

fn one_owner(_: &Protocol, state: &State) -> bool {
    let owns = |process: &&Process| matches!(process.phase, Phase::Leading | Phase::Readmitting);
    let owners = || state.processes.iter().filter(owns);
    owners().enumerate().all(|(at, one)| owners().skip(at + 1).all(|other| one.epoch != other.epoch))
}

/// Clouds that a reader may rely on: those that are registered and were not wiped.
fn registered(state: &State) -> impl Iterator<Item = &super::state::Cloud> {
    state.clouds.iter().filter(|cloud| cloud.identity)
}

fn are_equal(_: &Protocol, state: &State) -> bool {
    registered(state).enumerate().all(|(at, one)| {
        registered(state).skip(at + 1).all(|other| {
            let mut pairs = one.versions.iter().zip(&other.versions);
            pairs.all(|(one, other)| *one == 0 || *other == 0 || one == other)
        })
    })
}

fn are_decided(model: &Protocol, state: &State) -> bool {
    registered(state).all(|cloud| {
        let mut versions = (1..).zip(cloud.versions);
        versions
            .all(|(sequence, body)| body == 0 || model.values.at(state.observed.decided, sequence) == body)
    })
}

fn have_files(model: &Protocol, state: &State) -> bool {
    registered(state).all(|cloud| {
        cloud.versions.iter().filter(|body| **body != 0).all(|body| {
            let link = model.values.link(*body);
            link.start == link.end || cloud.holds_file(link.commit)
        })
    })
}

fn are_contiguous(_: &Protocol, state: &State) -> bool {
    registered(state)
        .all(|cloud| cloud.versions.iter().skip(usize::from(cloud.dense())).all(|body| *body == 0))
}

fn all_commits_are_decided(model: &Protocol, state: &State) -> bool {
    let before = if model.bounds.begins_empty { 0 } else { 1 };
    model.values.length(state.observed.decided) == before + model.bounds.commits
}

fn a_tail_is_carried(model: &Protocol, state: &State) -> bool {
    later_leaders(model, state).any(|leader| {
        let header = model.values.shape(leader.records[0]);
        header.base != header.end
    })
}

fn undecided_is_adopted(model: &Protocol, state: &State) -> bool {
    let decided = model.values.length(state.observed.decided);
    later_leaders(model, state)
        .any(|leader| model.values.length(model.values.shape(leader.records[0]).end) > decided)
}

/// A cloud holds an entry of an older epoch that the chain decided has passed by.
fn undecided_is_left(model: &Protocol, state: &State) -> bool {
    let decided = state.observed.decided;
    registered(state).flat_map(|cloud| cloud.logs.iter().flatten()).any(|record| {
        *record != 0 && {
            let shape = model.values.shape(*record);
            let length = model.values.length(shape.end);
            shape.kind == Kind::Entry
                && length <= model.values.length(decided)
                && model.values.at(decided, length) != shape.end
        }
    })
}

fn two_leaders(model: &Protocol, state: &State) -> bool {
    leaders(state).filter(|leader| model.leads(leader) && leader.ended == 0).count() > 1
}

fn a_seal_is_met(_: &Protocol, state: &State) -> bool {
    leaders(state).any(|leader| {
        (0..CLOUDS)
            .any(|cloud| leader.lane_has_ended(cloud) && state.clouds[cloud].identity && !leader.names_one)
    })
}

fn a_stale_commit_is_refused(model: &Protocol, state: &State) -> bool {
    leaders(state).filter(|leader| model.leads(leader)).any(|leader| {
        let chain = model.chain(leader);
        let staged = (0..).zip(&state.commits).filter_map(|(commit, staged)| Some((commit, staged.start()?)));
        model.values.length(chain) > 0
            && staged.into_iter().any(|(commit, start)| {
                let answer = model.values.decide(model.variant, chain, leader.epoch, commit, Some(start));
                answer == Err(Refused::Stale)
            })
    })
}

fn an_epoch_is_contested(_: &Protocol, state: &State) -> bool {
    state.processes.iter().any(|process| process.contested)
}

fn all_is_published(model: &Protocol, state: &State) -> bool {
    let due = if model.bounds.begins_empty { 0 } else { 1 } + model.bounds.commits;
    state.clouds.iter().all(|cloud| cloud.dense() == due)
}

fn a_cloud_is_filled(model: &Protocol, state: &State) -> bool {
    later_leaders(model, state).any(|leader| {
        let base = model.values.shape(leader.records[0]).base;
        (0..CLOUDS).any(|cloud| {
            let it = &state.clouds[cloud];
            leader.stored[cloud] == 0 && it.identity && it.dense() < model.values.length(base)
        })
    })
}

fn a_wiped_cloud_is_left_out(model: &Protocol, state: &State) -> bool {
    state.clouds.iter().any(|cloud| !cloud.identity)
        && later_leaders(model, state).any(|leader| model.leads(leader))
}

fn a_late_write_meets_a_seal(model: &Protocol, state: &State) -> bool {
    state.late.iter().any(|late| match late {
        Late::Record { cloud, epoch, index, .. } => {
            let held = state.clouds[usize::from(*cloud)].record(*epoch, *index);
            held != 0 && model.values.shape(held).kind == Kind::Seal
        }
        Late::None | Late::Claim { .. } | Late::Admission { .. } => false,
    })
}

fn another_set_is_refused(_: &Protocol, state: &State) -> bool {
    state.processes.iter().any(|process| process.names_one && process.phase == Phase::Ended)
}

fn a_cloud_is_readmitted(_: &Protocol, state: &State) -> bool {
    state.clouds.iter().any(|cloud| cloud.identity && cloud.readmitted[0] != 0)
}

/// A leader decides with a cloud that was readmitted and another one, and without the third.
fn a_readmitted_cloud_decides(model: &Protocol, state: &State) -> bool {
    leaders(state).filter(|leader| model.leads(leader)).any(|leader| {
        let generations = model.values.generations(leader.records[0]);
        let readmitted = (0..CLOUDS).any(|cloud| generations[cloud] > 0 && leader.stored[cloud] > 0);
        readmitted && leader.stored.contains(&0)
    })
}
