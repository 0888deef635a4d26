//! The product's [`Quorum`], asked once about everything that a leader may know.

use crate::commit::quorum::{Quorum, majority};
use crate::commit::rules;

use super::state::{CLOUDS, INDEXES};

const SIDE: usize = INDEXES + 1;

/// What a leader's bookkeeping says, by records proposed and records stored per cloud.
#[derive(Debug)]
pub(super) struct Quorums(Vec<Answer>);

#[derive(Debug, Clone, Copy, Default)]
struct Answer {
    decided: u8,
    /// Per cloud, one bit per record that may be published there.
    publishable: [u8; CLOUDS],
}

impl Quorums {
    pub(super) fn new() -> Self {
        let mut answers = vec![Answer::default(); SIDE.pow(4)];
        for proposed in 0..SIDE as u8 {
            for code in 0..SIDE.pow(3) {
                let stored = [code / SIDE / SIDE, code / SIDE % SIDE, code % SIDE].map(|stored| stored as u8);
                if is_possible(proposed, stored) {
                    answers[place(proposed, stored)] = ask(proposed, stored);
                }
            }
        }
        Self(answers)
    }

    /// [`Quorum::decided`].
    pub(super) fn decided(&self, proposed: u8, stored: [u8; CLOUDS]) -> u8 {
        self.0[place(proposed, stored)].decided
    }

    /// [`rules::is_publishable`].
    pub(super) fn is_publishable(&self, proposed: u8, stored: [u8; CLOUDS], cloud: usize, index: u8) -> bool {
        self.0[place(proposed, stored)].publishable[cloud] & 1 << index != 0
    }
}

fn place(proposed: u8, stored: [u8; CLOUDS]) -> usize {
    stored.iter().fold(usize::from(proposed), |place, stored| place * SIDE + usize::from(*stored))
}

/// No cloud holds what was not proposed, and nothing is proposed before the last record is decided.
fn is_possible(proposed: u8, stored: [u8; CLOUDS]) -> bool {
    let before = |stored: &&u8| **stored + 1 >= proposed;
    stored.iter().all(|stored| *stored <= proposed)
        && stored.iter().filter(before).count() >= majority(CLOUDS)
}

fn ask(proposed: u8, stored: [u8; CLOUDS]) -> Answer {
    let mut quorum = Quorum::new(CLOUDS);
    for index in 0..u64::from(proposed) {
        quorum.propose();
        for cloud in (0..CLOUDS).filter(|cloud| u64::from(stored[*cloud]) > index) {
            quorum.record_stored(cloud, index);
        }
    }
    let publishable = |cloud: usize| {
        let may_be = |index: &u8| rules::is_publishable(&quorum, cloud, u64::from(*index));
        (0..proposed).filter(may_be).fold(0, |mask, index| mask | 1 << index)
    };
    Answer { decided: quorum.decided() as u8, publishable: [0, 1, 2].map(publishable) }
}
