//! What may happen next in a state, and what becomes of it. Every step is one operation on one register, or several
//! that the module page shows to be equal to one.

use crate::commit::Epoch;
use crate::commit::quorum::majority;
use crate::commit::rules::{self, Claimed};

use super::state::{
    Broken, CLOUDS, Cloud, EPOCHS, GENERATIONS, INDEXES, Late, Phase, Process, Staged, State, VERSIONS,
};
use super::values::{ChainId, GROUP, Kind, ReadId, RecordId, Taker, names};
use super::{Action, Protocol, Variant};

/// The cloud that a process naming another set names.
const OTHER_SET: usize = CLOUDS - 1;

pub(super) fn bit(cloud: usize) -> u8 {
    1 << cloud
}

pub(super) fn clouds_of(mask: u8) -> impl Iterator<Item = usize> {
    (0..CLOUDS).filter(move |cloud| mask & bit(*cloud) != 0)
}

impl Protocol {
    /// All steps that are possible.
    pub(super) fn offer(&self, state: &State, actions: &mut Vec<Action>) {
        for (process, number) in state.processes.iter().zip(0..self.bounds.processes) {
            match process.phase {
                Phase::NotStarted => {
                    // Processes that have not started are alike: they start in order.
                    self.offer_start(state, number, actions);
                    break;
                }
                Phase::Claiming => self.offer_claims(state, process, number, actions),
                Phase::Sealing => self.offer_seals(state, process, number, actions),
                Phase::Leading => self.offer_leading(state, process, number, actions),
                Phase::Readmitting => self.offer_readmitting(state, process, number, actions),
                Phase::Ended => {}
            }
        }
        self.offer_stages(state, actions);
        let late = state.late.iter().zip(0..).filter(|(late, _)| **late != Late::None);
        actions.extend(late.map(|(_, late)| Action::Land { late }));
        if state.observed.wipes_left > 0 && self.are_whole(state) {
            actions.extend((0..CLOUDS as u8).map(|cloud| Action::Wipe { cloud }));
        }
    }

    /// Takes `action`; `None` if it turns out to change nothing.
    pub(super) fn take(&self, state: &mut State, action: Action) -> Option<()> {
        let at = usize::from;
        match action {
            Action::Start { process, epoch } => self.start(state, at(process), epoch),
            Action::StartNamingOthers { process } => self.start_naming_others(state, at(process)),
            Action::StartReadmission { process, lost } => {
                self.start_readmission(state, at(process), at(lost))
            }
            Action::Admit { process } => self.admit(state, at(process)),
            Action::AdmitLost { process } => self.admit_lost(state, at(process)),
            Action::Claim { process, cloud } => self.claim(state, at(process), at(cloud)),
            Action::ClaimRefused { process, cloud } => self.end_claim(state, at(process), at(cloud)),
            Action::ClaimLost { process, cloud } => {
                let epoch = state.processes[at(process)].epoch;
                send_late(state, Late::Claim { cloud, epoch, process })?;
                self.end_claim(state, at(process), at(cloud))
            }
            Action::SealAndRead { process, cloud } => self.seal_and_read(state, at(process), at(cloud)),
            Action::SealRefused { process, cloud } => self.end_read(state, at(process), at(cloud)),
            Action::SealLost { process, cloud } => self.seal_lost(state, at(process), at(cloud)),
            Action::SealAfterwards { process, cloud } => {
                state.processes[at(process)].holders &= !bit(at(cloud));
                self.seal(state, at(process), at(cloud), None)
            }
            Action::Choose { process } => self.choose(state, at(process)),
            Action::Stage { start, missing } => self.stage(state, start, missing),
            Action::Accept { process, commit } => self.accept(state, at(process), commit),
            Action::Store { process, cloud } => self.store_step(state, at(process), at(cloud)),
            Action::StoreLost { process, cloud } => self.store_lost(state, at(process), at(cloud)),
            Action::StoreAhead { process, cloud } => self.store_ahead(state, at(process), at(cloud)),
            Action::Publish { process, cloud } => self.publish(state, at(process), at(cloud)),
            Action::Replace { process, commit } => self.replace(state, at(process), commit),
            Action::DeleteLogs { process, cloud } => delete_logs(state, at(process), at(cloud)),
            Action::Land { late } => self.land(state, at(late)),
            Action::Wipe { cloud } => {
                state.observed.wipes_left -= 1;
                state.clouds[at(cloud)] = Cloud::default();
                Some(())
            }
        }
    }

    // ---------------------------------------------------------------- starting and claiming

    fn offer_start(&self, state: &State, number: u8, actions: &mut Vec<Action>) {
        if self.bounds.other_sets {
            actions.push(Action::StartNamingOthers { process: number });
        }
        let members = self.members(state);
        let mut epochs: Vec<u8> = Vec::new();
        for answering in 0..1 << CLOUDS {
            let heard = answering & members;
            if heard == answering && heard.count_ones() as usize >= majority(CLOUDS) {
                let highest = clouds_of(heard).map(|cloud| highest_epoch(&state.clouds[cloud])).max();
                let epoch = rules::epoch_to_claim(Epoch(highest.unwrap_or(0).into()), None).0 as u8;
                if epoch <= self.bounds.epochs && !epochs.contains(&epoch) {
                    epochs.push(epoch);
                }
            }
        }
        actions.extend(epochs.into_iter().map(|epoch| Action::Start { process: number, epoch }));
        if state.observed.readmissions_left > 0 {
            let lost = (0..CLOUDS).filter(|lost| self.can_be_readmitted(state, *lost));
            actions.extend(lost.map(|lost| Action::StartReadmission { process: number, lost: lost as u8 }));
        }
    }

    fn members(&self, state: &State) -> u8 {
        let counts = |cloud: &usize| {
            let expected = self.values.identity(*cloud);
            let found = state.clouds[*cloud].identity.then_some(expected);
            self.variant == Variant::WipedCloudCounted || rules::is_member(found, expected)
        };
        (0..CLOUDS).filter(counts).fold(0, |members, cloud| members | bit(cloud))
    }

    fn start(&self, state: &mut State, process: usize, epoch: u8) -> Option<()> {
        let pending = self.members(state);
        state.processes[process] = Process { phase: Phase::Claiming, epoch, pending, ..Process::default() };
        Some(())
    }

    fn start_naming_others(&self, state: &mut State, process: usize) -> Option<()> {
        let ours = vec![names()[OTHER_SET].clone()];
        let accepted = rules::are_same_clouds(&names(), &ours) || self.variant == Variant::TwoSetsOfClouds;
        let process = &mut state.processes[process];
        process.names_one = true;
        if accepted {
            let epoch = highest_epoch(&state.clouds[OTHER_SET]) + 1;
            if epoch > self.bounds.epochs {
                return None;
            }
            (process.phase, process.epoch, process.pending) = (Phase::Claiming, epoch, bit(OTHER_SET));
        } else {
            process.phase = Phase::Ended;
        }
        Some(())
    }

    fn offer_claims(&self, state: &State, process: &Process, number: u8, actions: &mut Vec<Action>) {
        for cloud in clouds_of(process.pending).map(|cloud| cloud as u8) {
            actions.push(Action::Claim { process: number, cloud });
            actions.push(Action::ClaimRefused { process: number, cloud });
            if state.observed.late_writes_left > 0 {
                actions.push(Action::ClaimLost { process: number, cloud });
            }
        }
    }

    fn claim(&self, state: &mut State, process: usize, cloud: usize) -> Option<()> {
        let claimant = &mut state.processes[process];
        let held = &mut state.clouds[cloud].claims[usize::from(claimant.epoch) - 1];
        let ours = process as u8 + 1;
        if *held == 0 {
            *held = ours;
        }
        if *held == ours {
            claimant.holders |= bit(cloud);
        } else {
            claimant.contested = true;
        }
        self.end_claim(state, process, cloud)
    }

    /// One cloud has answered or given up; after the last one the attempt is judged.
    fn end_claim(&self, state: &mut State, process: usize, cloud: usize) -> Option<()> {
        let mut claimant = state.processes[process];
        claimant.pending &= !bit(cloud);
        state.processes[process] = claimant;
        if claimant.pending != 0 {
            return Some(());
        }
        let holders = claimant.holders.count_ones() as usize;
        match rules::judge_claim(holders, claimant.contested, self.electorate(&claimant)) {
            Claimed::Owned => {
                state.processes[process] = Process {
                    phase: Phase::Sealing,
                    epoch: claimant.epoch,
                    names_one: claimant.names_one,
                    readmits: claimant.readmits,
                    pending: claimant.holders,
                    ..Process::default()
                };
            }
            Claimed::Contested | Claimed::NoMajority => state.processes[process] = claimant.ended(),
        }
        Some(())
    }

    /// How many clouds there are a majority of, for a take-over.
    fn electorate(&self, process: &Process) -> usize {
        match self.variant {
            _ if process.names_one => 1,
            Variant::OneClaimOwns => 1,
            Variant::ReadmittedByOne if process.lost().is_some() => 1,
            _ => CLOUDS - usize::from(process.lost().is_some()),
        }
    }

    // ---------------------------------------------------------------- sealing, reading, choosing

    /// Clouds that a take-over must have sealed and read.
    fn reads_needed(&self, process: &Process) -> usize {
        if self.variant == Variant::OneCloudSealed { 1 } else { majority(self.electorate(process)) }
    }

    fn offer_seals(&self, state: &State, process: &Process, number: u8, actions: &mut Vec<Action>) {
        for cloud in clouds_of(process.pending).map(|cloud| cloud as u8) {
            actions.push(Action::SealAndRead { process: number, cloud });
            actions.push(Action::SealRefused { process: number, cloud });
            if state.observed.late_writes_left > 0 {
                actions.push(Action::SealLost { process: number, cloud });
            }
        }
        actions.extend(
            clouds_of(process.holders)
                .map(|cloud| Action::SealAfterwards { process: number, cloud: cloud as u8 }),
        );
        if process.pending == 0 && process.holders == 0 {
            actions.push(Action::Choose { process: number });
        }
    }

    fn seal_and_read(&self, state: &mut State, process: usize, cloud: usize) -> Option<()> {
        let epoch = state.processes[process].epoch;
        if self.variant == Variant::ReadBeforeSeal {
            state.processes[process].holders |= bit(cloud);
        } else {
            self.seal(state, process, cloud, None)?;
        }
        let belongs = self.belongs(&state.clouds[cloud], cloud);
        // To a taker whose epoch is below that of a readmission the cloud will not count.
        let is_newer = state.clouds[cloud].readmitted.iter().any(|readmission| *readmission >= epoch);
        match self.values.read_logs(epoch, &state.clouds[cloud].logs) {
            // Without readmissions, an identity that is gone does not return.
            Ok(read) if belongs || self.bounds.readmissions > 0 || !self.asks_after_reading() => {
                state.processes[process].reads[cloud] = read;
            }
            Ok(_) => {}
            // A wiped cloud may hold anything; it is left out before anyone looks at it.
            Err(_) if belongs && !is_newer => state.observed.note(Broken::Damaged),
            Err(_) => {}
        }
        self.end_read(state, process, cloud)
    }

    fn asks_after_reading(&self) -> bool {
        !matches!(self.variant, Variant::WipedCloudCounted | Variant::NotAskedAfterReading)
    }

    /// Whether the cloud carries the group's identity.
    fn belongs(&self, it: &Cloud, cloud: usize) -> bool {
        let found = it.identity.then_some(self.values.identity(cloud));
        rules::still_belongs(found, GROUP)
    }

    /// What was read in the clouds that count, asked after all of it was read.
    fn reads_of_members(&self, state: &State, taker: &Process) -> [ReadId; CLOUDS] {
        let mut reads = taker.reads;
        if self.asks_after_reading() {
            let generations = self.values.generations_read(reads);
            for (cloud, read) in reads.iter_mut().enumerate() {
                let it = &state.clouds[cloud];
                let expected = self.values.identity(cloud);
                let is_member = rules::is_member(it.identity.then_some(expected), expected);
                if !is_member || !self.is_readmitted(it, cloud, generations[cloud]) {
                    *read = 0;
                }
            }
        }
        reads
    }

    fn is_readmitted(&self, it: &Cloud, cloud: usize, generation: u8) -> bool {
        let holds_next = usize::from(generation) < GENERATIONS && it.holds_key(generation + 1);
        match self.variant {
            Variant::GenerationIgnored => true,
            Variant::NextGenerationIgnored => {
                self.values.is_readmitted(cloud, generation, it.holds_key(generation), false)
            }
            _ => self.values.is_readmitted(cloud, generation, it.holds_key(generation), holds_next),
        }
    }

    /// Puts a SEAL above the highest index in use of every older log that is not known to be sealed; the last one not,
    /// if a place is given for it.
    fn seal(
        &self,
        state: &mut State,
        process: usize,
        cloud: usize,
        last: Option<&mut Option<Late>>,
    ) -> Option<()> {
        let epoch = state.processes[process].epoch;
        let it = &mut state.clouds[cloud];
        let mut older: Vec<u8> =
            self.values.epochs_to_seal(cloud, epoch, &it.logs).map(|older| older as u8).collect();
        if self.variant == Variant::NoSeal {
            older.clear();
        }
        let withheld = if last.is_some() { older.pop() } else { None };
        for older in older {
            if let Some((index, seal)) = self.seal_for(it, older, epoch) {
                *it.record_mut(older, index) = seal;
            }
        }
        if let Some(last) = last {
            let (index, record) = self.seal_for(it, withheld?, epoch)?;
            *last = Some(Late::Record { cloud: cloud as u8, epoch: withheld?, index, record });
        }
        Some(())
    }

    /// Index and SEAL for the log of `older`, by [`rules::seal_index`]; `None` where there is one.
    fn seal_for(&self, cloud: &Cloud, older: u8, by: u8) -> Option<(u8, RecordId)> {
        let log = cloud.logs[usize::from(older) - 1];
        let highest = (0..INDEXES).rev().find(|index| log[*index] != 0);
        let last = highest.map(|index| (index as u64, self.values.shape(log[index]).kind == Kind::Seal));
        let mut index = rules::seal_index(last)? as u8;
        match self.variant {
            Variant::SealBelowHighest if highest.is_some() => return None,
            Variant::SealLeavesGap => index += 1,
            _ => {}
        }
        Some((index, self.values.seal(older, index, by)))
    }

    fn seal_lost(&self, state: &mut State, process: usize, cloud: usize) -> Option<()> {
        let mut late = None;
        self.seal(state, process, cloud, Some(&mut late))?;
        send_late(state, late?)?;
        self.end_read(state, process, cloud)
    }

    /// One cloud is read or given up; too few that are left end the take-over.
    fn end_read(&self, state: &mut State, process: usize, cloud: usize) -> Option<()> {
        let needed = self.reads_needed(&state.processes[process]);
        let taker = &mut state.processes[process];
        taker.pending &= !bit(cloud);
        if taker.pending.count_ones() as usize + taker.clouds_read() < needed {
            *taker = taker.ended();
        }
        Some(())
    }

    fn choose(&self, state: &mut State, process: usize) -> Option<()> {
        let taker = state.processes[process];
        let reads = self.reads_of_members(state, &taker);
        let members = (0..CLOUDS).filter(|cloud| reads[*cloud] != 0).fold(0, |mask, cloud| mask | bit(cloud));
        if (members.count_ones() as usize) < self.reads_needed(&taker) {
            state.processes[process] = taker.ended();
            return Some(());
        }
        let published = [0, 1, 2].map(|cloud: usize| state.clouds[cloud].published());
        let who = Taker { process: process as u8, epoch: taker.epoch, lost: taker.lost() };
        let Ok(header) = self.values.header(self.variant, who, reads, published) else {
            state.observed.note(Broken::Damaged);
            state.processes[process] = taker.ended();
            return Some(());
        };
        let mut leader = Process {
            phase: Phase::Leading,
            epoch: taker.epoch,
            names_one: taker.names_one,
            ended: if taker.names_one { !bit(OTHER_SET) & 7 } else { 0 },
            proposed: 1,
            ..Process::default()
        };
        leader.records[0] = header;
        if let Some(lost) = taker.lost() {
            if usize::from(self.values.generations(header)[lost]) > GENERATIONS {
                return None;
            }
            (leader.phase, leader.readmits, leader.pending) = (Phase::Readmitting, taker.readmits, members);
        }
        state.processes[process] = leader;
        Some(())
    }

    // ---------------------------------------------------------------- workers

    fn offer_stages(&self, state: &State, actions: &mut Vec<Action>) {
        if self.next_commit(state).is_none() {
            return;
        }
        let mut starts: Vec<Option<u8>> = Vec::new();
        for process in state.processes.iter().filter(|process| self.leads(process)) {
            // Also ahead of what is decided: the next batch fills while one is being decided.
            let start = self.values.position(self.chain(process));
            if !starts.contains(&start) {
                starts.push(start);
            }
        }
        for start in starts {
            actions.push(Action::Stage { start, missing: None });
            if self.bounds.files_may_miss && start.is_some() {
                actions.extend((0..CLOUDS as u8).map(|cloud| Action::Stage { start, missing: Some(cloud) }));
            }
        }
    }

    fn next_commit(&self, state: &State) -> Option<u8> {
        (0..self.bounds.commits).find(|commit| state.commits[usize::from(*commit)] == Staged::No)
    }

    fn stage(&self, state: &mut State, start: Option<u8>, missing: Option<u8>) -> Option<()> {
        let commit = self.next_commit(state)?;
        state.commits[usize::from(commit)] = start.map_or(Staged::Create, Staged::From);
        if start.is_some() {
            for cloud in (0..CLOUDS).filter(|cloud| missing != Some(*cloud as u8)) {
                state.clouds[cloud].files |= 1 << commit;
            }
        }
        Some(())
    }

    // ---------------------------------------------------------------- leading

    /// Records that the leader takes for decided.
    pub(super) fn decided(&self, process: &Process) -> u8 {
        if process.names_one {
            process.stored[OTHER_SET]
        } else if self.variant == Variant::DecidedInOne {
            process.stored.into_iter().max().unwrap_or(0)
        } else {
            self.quorums.decided(process.proposed, process.stored)
        }
    }

    fn is_publishable(&self, process: &Process, cloud: usize, index: u8) -> bool {
        if self.variant == Variant::PublishBeforeDecided {
            process.stored[cloud] > index
        } else if process.names_one || self.variant == Variant::DecidedInOne {
            self.decided(process) > index && process.stored[cloud] > index
        } else {
            self.quorums.is_publishable(process.proposed, process.stored, cloud, index)
        }
    }

    /// Whether the header is decided, so that commits are taken.
    pub(super) fn leads(&self, process: &Process) -> bool {
        process.phase == Phase::Leading && self.decided(process) > 0
    }

    /// The chain with everything that the process has proposed.
    pub(super) fn chain(&self, process: &Process) -> ChainId {
        self.values.shape(process.records[usize::from(process.proposed) - 1]).end
    }

    fn is_idle(&self, process: &Process) -> bool {
        self.decided(process) == process.proposed
    }

    fn offer_leading(&self, state: &State, process: &Process, number: u8, actions: &mut Vec<Action>) {
        for cloud in (0..CLOUDS).filter(|cloud| !process.lane_has_ended(*cloud)) {
            let (process, at) = (number, cloud as u8);
            actions.push(Action::Store { process, cloud: at });
            if self.bounds.records_late && state.observed.late_writes_left > 0 {
                actions.push(Action::StoreLost { process, cloud: at });
            }
            if self.bounds.publishes {
                actions.push(Action::Publish { process, cloud: at });
            }
            if self.variant == Variant::RecordBeforePrevious {
                actions.push(Action::StoreAhead { process, cloud: at });
            }
            if self.variant == Variant::LogDeleted {
                actions.push(Action::DeleteLogs { process, cloud: at });
            }
        }
        if !self.leads(process) {
            return;
        }
        let staged =
            (0..self.bounds.commits).filter(|commit| state.commits[usize::from(*commit)] != Staged::No);
        for commit in staged {
            if self.is_idle(process) {
                actions.push(Action::Accept { process: number, commit });
            } else if self.variant == Variant::AbsenceTrusted {
                actions.push(Action::Replace { process: number, commit });
            }
        }
    }

    fn accept(&self, state: &mut State, process: usize, commit: u8) -> Option<()> {
        let leader = &mut state.processes[process];
        let chain = self.chain(leader);
        if usize::from(leader.proposed) + 2 > INDEXES || usize::from(self.values.length(chain)) == VERSIONS {
            return None;
        }
        let start = state.commits[usize::from(commit)].start();
        // The variant counts its epochs down, so that a second decision bears a lower number than the first.
        let epoch = if self.variant == Variant::EpochInBytesNotOwn {
            EPOCHS as u8 - leader.proposed
        } else {
            leader.epoch
        };
        let decision = self.values.decide(self.variant, chain, epoch, commit, start).ok()?;
        leader.records[usize::from(leader.proposed)] =
            self.values.entry(leader.epoch, leader.proposed, decision);
        leader.proposed += 1;
        Some(())
    }

    fn replace(&self, state: &mut State, process: usize, commit: u8) -> Option<()> {
        let leader = &mut state.processes[process];
        let index = leader.proposed - 1;
        let given_up = leader.records[usize::from(index)];
        let is_it = |late: &&Late| matches!(late, Late::Record { record, .. } if *record == given_up);
        if leader.stored.iter().any(|stored| *stored > index) || !state.late.iter().any(|late| is_it(&late)) {
            return None;
        }
        let before = self.values.shape(given_up).base;
        let start = state.commits[usize::from(commit)].start();
        let decision = self.values.decide(self.variant, before, leader.epoch, commit, start).ok()?;
        leader.records[usize::from(index)] = self.values.entry(leader.epoch, index, decision);
        Some(())
    }

    /// The first commit between two chains whose file `cloud` does not hold, and the one version to fill before.
    pub(super) fn missing_file(&self, cloud: &Cloud, base: ChainId, mut chain: ChainId) -> Option<u8> {
        while chain != base && chain != 0 {
            let link = self.values.link(chain);
            if link.start < link.end && !cloud.holds_file(link.commit) {
                return Some(link.commit);
            }
            chain = link.previous;
        }
        None
    }

    fn store_step(&self, state: &mut State, process: usize, cloud: usize) -> Option<()> {
        let leader = state.processes[process];
        let index = leader.stored[cloud];
        if leader.phase == Phase::Readmitting {
            return self.store_readmission(state, process, cloud);
        }
        if index == 0 {
            if !self.counts(&leader, &state.clouds[cloud], cloud) {
                return self.end_lane(state, process, cloud);
            }
            let base = self.values.shape(leader.records[0]).base;
            // The newest version of the base stands for all before it.
            if let Some(newest) = self.values.length(base).checked_sub(1) {
                match state.clouds[cloud].versions[usize::from(newest)] {
                    0 => return self.fill(state, process, cloud, base),
                    body if body == base => {}
                    _ => return self.end_lane(state, process, cloud),
                }
            }
        }
        if index >= leader.proposed {
            return None;
        }
        let shape = self.values.shape(leader.records[usize::from(index)]);
        if let Some(commit) = self.missing_file(&state.clouds[cloud], shape.base, shape.end)
            && self.variant != Variant::RecordBeforeFiles
        {
            return bring_file(state, cloud, commit);
        }
        self.store(state, process, cloud, index)
    }

    /// Offers a record to a cloud; counts it, or ends the lane.
    fn store(&self, state: &mut State, process: usize, cloud: usize, index: u8) -> Option<()> {
        let leader = state.processes[process];
        let record = leader.records[usize::from(index)];
        let register = state.clouds[cloud].record_mut(leader.epoch, index);
        if *register == 0 {
            *register = record;
        }
        let held = *register;
        self.observe_stored(state, leader.epoch, index, held);
        if held != record && self.variant != Variant::ExistsTrusted {
            // A SEAL or foreign bytes: either way this lane is over.
            let _ = self.values.judge_occupant(held);
            return self.end_lane(state, process, cloud);
        }
        if self.variant != Variant::NotAskedAfterStoring && !self.counts(&leader, &state.clouds[cloud], cloud)
        {
            return self.end_lane(state, process, cloud);
        }
        let leader = &mut state.processes[process];
        leader.stored[cloud] = index + 1;
        let leader = *leader;
        for decided in 0..self.decided(&leader) {
            self.observe_decided(state, leader.epoch, decided, leader.records[usize::from(decided)]);
        }
        Some(())
    }

    /// Whether the lane of `leader` takes the cloud for one of the group.
    fn counts(&self, leader: &Process, it: &Cloud, cloud: usize) -> bool {
        let generation = self.values.generations(leader.records[0])[cloud];
        self.variant == Variant::WipedCloudCounted
            || (self.belongs(it, cloud) && self.is_readmitted(it, cloud, generation))
    }

    fn end_lane(&self, state: &mut State, process: usize, cloud: usize) -> Option<()> {
        let leader = &mut state.processes[process];
        leader.ended |= bit(cloud);
        if (0..CLOUDS).all(|cloud| leader.lane_has_ended(cloud)) {
            *leader = leader.ended();
        }
        Some(())
    }

    fn store_lost(&self, state: &mut State, process: usize, cloud: usize) -> Option<()> {
        let leader = state.processes[process];
        let (epoch, index) = (leader.epoch, leader.stored[cloud]);
        let record = leader.records[usize::from(index)];
        // Only a record that the lane would store now, into a register that is free.
        let mut tried = state.clone();
        self.store_step(&mut tried, process, cloud)?;
        let writes = state.clouds[cloud].record(epoch, index) == 0
            && tried.clouds[cloud].record(epoch, index) == record;
        if !writes || record == 0 {
            return None;
        }
        send_late(state, Late::Record { cloud: cloud as u8, epoch, index, record })
    }

    fn store_ahead(&self, state: &mut State, process: usize, cloud: usize) -> Option<()> {
        let leader = &state.processes[process];
        let index = leader.stored[cloud] + 1;
        if index == 1 || index >= leader.proposed {
            return None;
        }
        self.store(state, process, cloud, index)
    }

    /// Brings the next version of the base to the cloud: its file first, then the body.
    fn fill(&self, state: &mut State, process: usize, cloud: usize, base: ChainId) -> Option<()> {
        let version = state.clouds[cloud].dense();
        let previous =
            version.checked_sub(1).map_or(0, |before| state.clouds[cloud].versions[usize::from(before)]);
        let follows = |other: &usize| {
            let found = state.clouds[*other].versions[usize::from(version)];
            *other != cloud && found != 0 && self.values.link(found).previous == previous
        };
        let source = (0..CLOUDS).find(follows)?;
        let body = state.clouds[source].versions[usize::from(version)];
        let link = self.values.link(body);
        if link.start < link.end
            && !state.clouds[cloud].holds_file(link.commit)
            && self.variant != Variant::FillWithoutFiles
        {
            return bring_file(state, cloud, link.commit);
        }
        debug_assert!(self.values.length(base) > version);
        self.publish_body(state, process, cloud, body)
    }

    fn publish(&self, state: &mut State, process: usize, cloud: usize) -> Option<()> {
        let leader = &state.processes[process];
        let header = self.values.shape(leader.records[0]);
        let tail = self.values.length(header.end) - self.values.length(header.base);
        let mut done = leader.published[cloud];
        if self.variant == Variant::PublishOutOfOrder && done + 1 < leader.proposed {
            done += 1;
        }
        let index = if done < tail { 0 } else { done - tail + 1 };
        if index >= leader.proposed || !self.is_publishable(leader, cloud, index) {
            return None;
        }
        let end = self.values.shape(leader.records[usize::from(index)]).end;
        let body =
            if index == 0 { self.values.at(end, self.values.length(header.base) + done + 1) } else { end };
        self.publish_body(state, process, cloud, body)?;
        if state.processes[process].phase == Phase::Leading && !state.processes[process].lane_has_ended(cloud)
        {
            state.processes[process].published[cloud] += 1;
        }
        Some(())
    }

    fn publish_body(&self, state: &mut State, process: usize, cloud: usize, body: ChainId) -> Option<()> {
        let version = usize::from(self.values.length(body)) - 1;
        let register = &mut state.clouds[cloud].versions[version];
        if *register == 0 {
            *register = body;
        }
        if *register == body || self.variant == Variant::ExistsTrusted {
            return Some(());
        }
        self.end_lane(state, process, cloud)
    }

    // ---------------------------------------------------------------- the world

    fn land(&self, state: &mut State, late: usize) -> Option<()> {
        let landed = std::mem::take(&mut state.late[late]);
        state.late.sort_unstable();
        match landed {
            Late::None => return None,
            Late::Claim { cloud, epoch, process } => {
                let register = &mut state.clouds[usize::from(cloud)].claims[usize::from(epoch) - 1];
                if *register == 0 {
                    *register = process + 1;
                }
            }
            Late::Record { cloud, epoch, index, record } => {
                let register = state.clouds[usize::from(cloud)].record_mut(epoch, index);
                if *register == 0 {
                    *register = record;
                    self.observe_stored(state, epoch, index, record);
                }
            }
            Late::Admission { cloud, generation, epoch } => {
                let it = &mut state.clouds[usize::from(cloud)];
                match usize::from(generation).checked_sub(1) {
                    None => it.identity = true,
                    Some(key) if it.readmitted[key] == 0 => it.readmitted[key] = epoch,
                    Some(_) => {}
                }
            }
        }
        Some(())
    }
}

/// The highest epoch that a cloud has seen, claimed or logged.
pub(super) fn highest_epoch(cloud: &Cloud) -> u8 {
    let seen = (1u8..).zip(cloud.claims.iter().zip(&cloud.logs));
    let seen = seen.filter(|(_, (claim, log))| **claim != 0 || log.iter().any(|record| *record != 0));
    seen.map(|(epoch, _)| epoch).max().unwrap_or(0)
}

/// Puts a write on its way, if one may still go astray.
pub(super) fn send_late(state: &mut State, late: Late) -> Option<()> {
    state.observed.late_writes_left = state.observed.late_writes_left.checked_sub(1)?;
    if state.late.contains(&late) {
        return None;
    }
    *state.late.iter_mut().find(|slot| **slot == Late::None)? = late;
    state.late.sort_unstable();
    Some(())
}

/// Copies a file from another cloud.
pub(super) fn bring_file(state: &mut State, cloud: usize, commit: u8) -> Option<()> {
    (0..CLOUDS).find(|other| *other != cloud && state.clouds[*other].holds_file(commit))?;
    state.clouds[cloud].files |= 1 << commit;
    Some(())
}

fn delete_logs(state: &mut State, process: usize, cloud: usize) -> Option<()> {
    let epoch = usize::from(state.processes[process].epoch);
    state.clouds[cloud].logs[..epoch - 1].fill([0; INDEXES]);
    Some(())
}
