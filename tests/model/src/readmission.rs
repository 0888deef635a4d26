//! Readmission of a cloud: the order of I/O in `readmit.rs`.

use crate::commit::Epoch;
use crate::commit::quorum::majority;
use crate::commit::rules;

use super::state::{Broken, CLOUDS, Late, Phase, Process, State, VERSIONS};
use super::steps::{bit, bring_file, clouds_of, highest_epoch, send_late};
use super::values::Kind;
use super::{Action, Protocol, Variant};

/// What a process that readmits a cloud writes to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Write {
    Header,
    Key,
    Identity,
}

/// The order of writing.
const AS_BUILT: [Write; 3] = [Write::Header, Write::Key, Write::Identity];
const IDENTITY_BEFORE_KEY: [Write; 3] = [Write::Header, Write::Identity, Write::Key];
const IDENTITY_FIRST: [Write; 3] = [Write::Identity, Write::Header, Write::Key];

fn others(lost: usize) -> impl Iterator<Item = usize> {
    (0..CLOUDS).filter(move |cloud| *cloud != lost)
}

impl Protocol {
    /// Whether every cloud counts: only then another one may be lost, since with two of three lost no majority remembers.
    pub(super) fn are_whole(&self, state: &State) -> bool {
        let mut clouds = state.clouds.iter().zip(self.newest_generations(state));
        clouds.all(|(cloud, generation)| cloud.identity && cloud.holds_key(generation))
    }

    /// How often each cloud was readmitted, by the newest header that any cloud holds.
    fn newest_generations(&self, state: &State) -> [u8; CLOUDS] {
        let logs = state.clouds.iter().flat_map(|cloud| (1u8..).zip(&cloud.logs));
        let headers = logs.map(|(epoch, log)| (epoch, log[0]));
        let headers =
            headers.filter(|(_, first)| *first != 0 && self.values.shape(*first).kind == Kind::Header);
        headers.max().map_or([0; CLOUDS], |(_, header)| self.values.generations(header))
    }

    /// All of the others must answer and belong to the group: with three clouds a majority of the others is both.
    pub(super) fn can_be_readmitted(&self, state: &State, lost: usize) -> bool {
        let it = &state.clouds[lost];
        let is_lost = !it.identity || !it.holds_key(self.newest_generations(state)[lost]);
        // Where no cloud is lost, one is readmitted all the same: the operator may say so.
        (is_lost || self.bounds.wipes == 0)
            && others(lost).all(|other| state.clouds[other].identity)
            && self.epoch_among_others(state, lost).is_some()
    }

    fn epoch_among_others(&self, state: &State, lost: usize) -> Option<u8> {
        let highest = others(lost).map(|other| highest_epoch(&state.clouds[other])).max().unwrap_or(0);
        let epoch = rules::epoch_to_claim(Epoch(highest.into()), None).0 as u8;
        (epoch <= self.bounds.epochs).then_some(epoch)
    }

    pub(super) fn start_readmission(&self, state: &mut State, process: usize, lost: usize) -> Option<()> {
        let epoch = self.epoch_among_others(state, lost)?;
        state.observed.readmissions_left -= 1;
        self.rebuild(state, lost);
        state.processes[process] = Process {
            phase: Phase::Claiming,
            epoch,
            readmits: lost as u8 + 1,
            pending: others(lost).fold(0, |mask, other| mask | bit(other)),
            ..Process::default()
        };
        Some(())
    }

    /// Puts back what a majority of the others has published: each version after its file.
    fn rebuild(&self, state: &mut State, lost: usize) {
        for version in 0..VERSIONS {
            let [one, other] = [1, 2].map(|step| state.clouds[(lost + step) % CLOUDS].versions[version]);
            if one == 0 || one != other {
                return;
            }
            let link = self.values.link(one);
            let it = &mut state.clouds[lost];
            if link.start < link.end {
                it.files |= 1 << link.commit;
            }
            if it.versions[version] == 0 {
                it.versions[version] = one;
            }
        }
    }

    pub(super) fn offer_readmitting(
        &self,
        state: &State,
        process: &Process,
        number: u8,
        actions: &mut Vec<Action>,
    ) {
        for cloud in clouds_of(process.pending).map(|cloud| cloud as u8) {
            actions.push(Action::Store { process: number, cloud });
            if self.bounds.records_late && state.observed.late_writes_left > 0 {
                actions.push(Action::StoreLost { process: number, cloud });
            }
        }
        if self.is_decided_by_others(process) || self.variant == Variant::AdmittedBeforeDecided {
            actions.push(Action::Admit { process: number });
            if state.observed.late_writes_left > 0 {
                actions.push(Action::AdmitLost { process: number });
            }
        }
    }

    fn is_decided_by_others(&self, process: &Process) -> bool {
        let Some(lost) = process.lost() else { return false };
        let needed = if self.variant == Variant::ReadmittedByOne { 1 } else { majority(CLOUDS - 1) };
        others(lost).filter(|other| process.stored[*other] > 0).count() >= needed
    }

    /// Stores the header in one of the others, files first. Whoever finds another record there gives up.
    pub(super) fn store_readmission(&self, state: &mut State, process: usize, cloud: usize) -> Option<()> {
        let readmitter = state.processes[process];
        let header = readmitter.records[0];
        let shape = self.values.shape(header);
        if let Some(commit) = self.missing_file(&state.clouds[cloud], shape.base, shape.end) {
            return bring_file(state, cloud, commit);
        }
        if !self.offer_record(state, readmitter.epoch, cloud, header) {
            state.processes[process] = readmitter.ended();
            return Some(());
        }
        let readmitter = &mut state.processes[process];
        readmitter.pending &= !bit(cloud);
        readmitter.stored[cloud] = 1;
        let readmitter = *readmitter;
        if self.is_decided_by_others(&readmitter) {
            self.observe_decided(state, readmitter.epoch, 0, header);
        }
        Some(())
    }

    /// Offers the header of `epoch` to a cloud; whether the cloud holds it now.
    fn offer_record(&self, state: &mut State, epoch: u8, cloud: usize, header: u16) -> bool {
        let register = state.clouds[cloud].record_mut(epoch, 0);
        if *register == 0 {
            *register = header;
        }
        let held = *register;
        self.observe_stored(state, epoch, 0, held);
        held == header
    }

    fn next_write(&self, readmitter: &Process, lost: usize) -> Option<Write> {
        let order = match self.variant {
            Variant::IdentityBeforeKey => IDENTITY_BEFORE_KEY,
            Variant::AdmittedBeforeDecided => IDENTITY_FIRST,
            _ => AS_BUILT,
        };
        order.get(usize::from(readmitter.stored[lost])).copied()
    }

    /// The next write to the lost cloud, each once all before it have arrived. With the last one the process ends.
    pub(super) fn admit(&self, state: &mut State, process: usize) -> Option<()> {
        let readmitter = state.processes[process];
        let lost = readmitter.lost()?;
        match self.next_write(&readmitter, lost)? {
            Write::Header if self.variant == Variant::AdmittedWithoutHeader => {}
            Write::Header => {
                if let Some(version) = self.next_to_fill(state, &readmitter, lost) {
                    return self.fill_lost(state, process, lost, version);
                }
                if !self.offer_record(state, readmitter.epoch, lost, readmitter.records[0]) {
                    state.processes[process] = readmitter.ended();
                    return Some(());
                }
            }
            Write::Identity => state.clouds[lost].identity = true,
            Write::Key => {
                let generation = usize::from(self.values.generations(readmitter.records[0])[lost]);
                let keys = &mut state.clouds[lost].readmitted[..generation];
                let written = match self.variant {
                    Variant::OlderKeysNotWritten => &mut keys[generation - 1..],
                    _ => &mut *keys,
                };
                written.iter_mut().filter(|key| **key == 0).for_each(|key| *key = readmitter.epoch);
                let key = &keys[generation - 1];
                if *key != readmitter.epoch {
                    state.observed.note(Broken::TwoReadmissions);
                }
            }
        }
        let readmitter = &mut state.processes[process];
        readmitter.stored[lost] += 1;
        if usize::from(readmitter.stored[lost]) == AS_BUILT.len() {
            *readmitter = readmitter.ended();
        }
        Some(())
    }

    /// The first version named by the header that the lost cloud lacks, or whose file it lacks.
    fn next_to_fill(&self, state: &State, readmitter: &Process, lost: usize) -> Option<u8> {
        let shape = self.values.shape(readmitter.records[0]);
        let it = &state.clouds[lost];
        if self.variant == Variant::AdmittedBeforeFilled {
            let missing = self.missing_file(it, shape.base, shape.end)?;
            return (0..self.values.length(shape.end))
                .find(|version| self.values.link(self.values.at(shape.end, version + 1)).commit == missing);
        }
        (0..self.values.length(shape.end)).find(|version| {
            let body = self.values.at(shape.end, version + 1);
            it.versions[usize::from(*version)] == 0
                || self.missing_file(it, self.values.link(body).previous, body).is_some()
        })
    }

    /// Brings a version to the lost cloud: its file, then its body.
    fn fill_lost(&self, state: &mut State, process: usize, lost: usize, version: u8) -> Option<()> {
        let end = self.values.shape(state.processes[process].records[0]).end;
        let body = self.values.at(end, version + 1);
        if let Some(commit) = self.missing_file(&state.clouds[lost], self.values.link(body).previous, body) {
            return bring_file(state, lost, commit);
        }
        state.clouds[lost].versions[usize::from(version)] = body;
        Some(())
    }

    /// The next write to the lost cloud gets no answer. The process may repeat it, or never be seen again.
    pub(super) fn admit_lost(&self, state: &mut State, process: usize) -> Option<()> {
        let readmitter = state.processes[process];
        let lost = readmitter.lost()?;
        let (cloud, epoch, header) = (lost as u8, readmitter.epoch, readmitter.records[0]);
        let late = match self.next_write(&readmitter, lost)? {
            Write::Header if self.next_to_fill(state, &readmitter, lost).is_some() => return None,
            Write::Header => Late::Record { cloud, epoch, index: 0, record: header },
            Write::Identity => Late::Admission { cloud, generation: 0, epoch },
            Write::Key => Late::Admission { cloud, generation: self.values.generations(header)[lost], epoch },
        };
        send_late(state, late)
    }
}
