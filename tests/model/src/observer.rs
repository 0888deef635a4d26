//! An observer outside the system: it sees every register and every answer of a leader, and remembers what was decided.

use crate::commit::quorum::majority;

use super::Protocol;
use super::state::{Broken, CLOUDS, Cloud, Observed, State};
use super::values::{ChainId, Kind, RecordId};

impl Protocol {
    /// A record was stored: with it a majority of clouds may hold it.
    pub(super) fn observe_stored(&self, state: &mut State, epoch: u8, index: u8, record: RecordId) {
        if self.values.shape(record).kind == Kind::Seal {
            return;
        }
        // What a leader of before leaves in a cloud that was readmitted since counts for nobody.
        let is_current = |cloud: &Cloud| cloud.readmitted.iter().all(|readmission| *readmission <= epoch);
        let holds =
            |cloud: &&Cloud| cloud.identity && is_current(cloud) && cloud.record(epoch, index) == record;
        if state.clouds.iter().filter(holds).count() >= majority(CLOUDS) {
            self.observe_decided(state, epoch, index, record);
        }
    }

    /// A record is decided, in a majority of clouds or by the word of a leader that counted so.
    pub(super) fn observe_decided(&self, state: &mut State, epoch: u8, index: u8, record: RecordId) {
        let chain = self.values.shape(record).end;
        let observed = &mut state.observed;
        let at = |chain, length| self.values.at(chain, length);
        let (known, length) = (self.values.length(observed.decided), self.values.length(chain));
        let shared = known.min(length);
        if at(chain, shared) != at(observed.decided, shared) {
            observed.note(Broken::TwoValues);
            return;
        }
        if length > known {
            self.check_links(observed, chain, known);
            observed.decided = chain;
        }
        for decided_in in observed.decided_in.iter_mut().take(usize::from(length)) {
            if *decided_in == 0 || *decided_in > epoch {
                *decided_in = epoch;
            }
        }
        if index == 0 {
            observed.headers[usize::from(epoch) - 1] = (true, chain);
        }
        let is_lost = (1..).zip(observed.headers).any(|(later, (decided, header))| {
            let older = (1u8..).zip(observed.decided_in);
            let due = older.filter(|(_, decided_in)| (1..later).contains(decided_in));
            decided
                && due
                    .map(|(sequence, _)| sequence)
                    .any(|sequence| at(header, sequence) != at(observed.decided, sequence))
        });
        if is_lost {
            observed.note(Broken::Lost);
        }
    }

    /// Offsets tile and epochs do not fall, in the decisions of `chain` above `known`.
    fn check_links(&self, observed: &mut Observed, mut chain: ChainId, known: u8) {
        while self.values.length(chain) > known {
            let link = self.values.link(chain);
            if link.start != self.values.position(link.previous).unwrap_or(0) {
                observed.note(Broken::Tiles);
            }
            if link.previous != 0 && link.epoch < self.values.link(link.previous).epoch {
                observed.note(Broken::EpochWentBack);
            }
            chain = link.previous;
        }
    }
}
