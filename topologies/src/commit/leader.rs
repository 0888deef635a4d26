//! The leader: takes proposals, unites those that come together, has the lanes store the decision, and says when it
//! stands.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future;
use isobar_connectors::failpoint::{self, Failpoint};
use isobar_connectors::upload::{FanOut, UploadHandle, UploadStatus};
use tracing::{info, warn};

use super::ask::Patience;
use super::chain::{Chain, Proposal, Refusal};
use super::checkpoint::CheckpointProposal;
use super::environment::Task;
use super::evolution::Evolution;
use super::format::{Content, Decision, Record, encode};
use super::gap::GapProposal;
use super::lane::Lane;
use super::merge::{Merged, Verdict, merge};
use super::model::ModelProposal;
use super::quorum::{CloudState, majority};
use super::redrive::Redrive;
use super::rules::{self, Standing};
use super::state::{FileUploads, Shared, Slot, State};
use super::takeover::{Group, OwnLog};
use super::upkeep::Upkeep;
use super::watch::{LeaderProgress, LeaderWatch};
use super::{Epoch, UNPUBLISHED_MAX};
use crate::error::Error;
use crate::throttle::Throttle;

/// How long fewer than a majority of clouds may answer before a leader that has no header yet gives up. It promised
/// nothing so far, and whoever takes over later may find other clouds.
const HEADER_PATIENCE: Duration = Duration::from_secs(30);
/// How long a leader that takes over from itself waits for a majority to publish what is decided: what is not published
/// then goes into the new header. And how long it pauses where too few clouds answer.
const RENEWAL_PATIENCE: Duration = Duration::from_secs(1);

/// The bytes of `record`, which must not be stored if they could not be read back. `clouds` are registered.
pub(super) fn encode_to_store(record: &Record, clouds: usize) -> Result<Bytes, Error> {
    let bytes = encode(record);
    let (size, size_max) = (bytes.len() as u64, rules::record_bytes_max(record));
    if size <= size_max {
        return Ok(bytes);
    }
    Err(match &record.content {
        Content::Header(header) => {
            let open = header.tail.len();
            let reason = format!(
                "{open} decisions are not published in a majority of the clouds that answered; carried on they are \
                 {size} bytes, {size_max} may be: bring a cloud back that has published them"
            );
            Error::no_majority("take over", majority(clouds), clouds, vec![reason])
        }
        _ => Error::Configuration(format!(
            "a commit takes {size} bytes in the control log, {size_max} may be: it names too many files. Lower the commit \
             size of the topology, or partition its datasets by fewer values; nothing of it is decided, and its records are \
             read again"
        )),
    })
}

fn unanswered(error: isobar_connectors::Error) -> Error {
    Error::connector("lead", error)
}

/// What became of a commit.
#[must_use]
#[derive(Debug)]
pub enum CommitOutcome {
    /// Decided: it will be in every cloud.
    Committed {
        /// The decision's place in the topology's history.
        sequence: u64,
    },
    /// The chain is elsewhere: drop the rows and read on from the chain's positions.
    Stale(Refusal),
    /// The files did not reach a majority of clouds: nothing was proposed; read the rows again.
    NotStored(String),
}

/// A proposal and the uploads of its files.
#[derive(Debug)]
pub struct Staged {
    /// What to decide.
    pub proposal: Proposal,
    /// The files it names: object path, and the upload to each cloud in the order of the group's clouds.
    pub uploads: Vec<(String, Vec<UploadHandle>)>,
}

/// Leads one epoch of one topology until it is superseded or finished.
#[derive(Debug)]
pub struct Leader {
    topology: String,
    shared: Arc<Shared>,
    lanes: Vec<Task>,
    chain: Chain,
}

/// A decision that can be proposed.
#[derive(Debug)]
struct Prepared {
    slot: Slot,
    /// The chain after it.
    next: Chain,
}

impl Leader {
    /// Takes over the group's topology: returns when the new epoch's header is decided. Fails when the clouds are gone for
    /// [`HEADER_PATIENCE`] before that.
    pub async fn start(group: &Group, uploads: Arc<FanOut>) -> Result<Self, Error> {
        let all: Vec<usize> = (0..group.clouds.len()).collect();
        Self::start_among(group, &all, uploads).await
    }

    async fn start_among(group: &Group, among: &[usize], uploads: Arc<FanOut>) -> Result<Self, Error> {
        let takeover = group.take_over(among).await?;
        failpoint::hit(&failpoint::ELECT_BEFORE_HEADER, "").map_err(unanswered)?;
        let mut chain = takeover.header.base.clone();
        for decision in &takeover.header.tail {
            chain.apply(decision).map_err(|what| Error::damaged("control log", what))?;
        }
        let shared = Arc::new(Shared::new(group, &takeover, chain.sequence, uploads));
        let serve = |cloud| {
            let throttle = Throttle::new(group.fill_bytes_per_second);
            group.environment.spawn(Box::pin(Lane { shared: shared.clone(), cloud, throttle }.run()))
        };
        let lanes = (0..group.clouds.len()).map(serve).collect();
        let leader = Self { topology: group.topology.clone(), shared, lanes, chain };
        let header = leader.encode_next(Content::Header(takeover.header), Vec::new())?;
        tokio::select! {
            biased;
            decided = leader.propose(header) => decided?,
            gone = leader.majority_gone() => return Err(gone),
        }
        failpoint::hit(&failpoint::ELECT_AFTER_HEADER, "").map_err(unanswered)?;
        info!(epoch = %leader.shared.epoch, sequence = leader.chain.sequence, "leading");
        Ok(leader)
    }

    /// Everything decided so far.
    pub fn chain(&self) -> &Chain {
        &self.chain
    }

    /// The epoch led.
    pub fn epoch(&self) -> Epoch {
        self.shared.epoch
    }

    /// Records stored in this epoch so far; take over anew before there are too many to read back.
    pub fn records(&self) -> u64 {
        self.shared.read(|state| state.quorum.proposed())
    }

    /// Whether this epoch's log is long enough: [`finish`](Self::finish) and take over anew.
    pub fn is_full(&self) -> bool {
        self.shared.read(State::is_full)
    }

    /// Whether a take-over that failed half-way has sealed this epoch in some cloud and left it at that. That cloud
    /// gets nothing more in this epoch, not even what is decided: [`finish`](Self::finish) and take over anew.
    pub fn renewal_due(&self) -> bool {
        self.shared.read(|state| state.renewal_due)
    }

    /// For metrics and progress.
    pub fn watch(&self) -> LeaderWatch {
        LeaderWatch(self.shared.clone())
    }

    /// Decides `staged`. Waits as long as it takes while fewer than a majority of clouds answer.
    pub async fn commit(&mut self, staged: Staged, now_ms: i64) -> Result<CommitOutcome, Error> {
        let mut outcomes = self.commit_group(vec![staged], now_ms).await?;
        outcomes.pop().expect("every member has an outcome")
    }

    /// Decides `members`, commits of several workers, in as few decisions as hold them: one, unless they are very
    /// large. The outcome of each, in their order; [`Error::Bug`] for a member that contradicts itself, which leaves
    /// the others alone.
    pub async fn commit_group(
        &mut self,
        members: Vec<Staged>,
        now_ms: i64,
    ) -> Result<Vec<Result<CommitOutcome, Error>>, Error> {
        let clouds = self.shared.clouds.len();
        let looks = members.iter().map(|member| files_in_majority(&member.uploads, clouds));
        let mut outcomes: Vec<Option<Result<CommitOutcome, Error>>> = future::join_all(looks)
            .await
            .into_iter()
            .map(|stored| stored.err().map(|what| Ok(CommitOutcome::NotStored(what))))
            .collect();
        loop {
            let waiting: Vec<usize> = (0..members.len()).filter(|index| outcomes[*index].is_none()).collect();
            if waiting.is_empty() {
                return Ok(outcomes.into_iter().flatten().collect());
            }
            self.wait(|state| (state.unpublished() < UNPUBLISHED_MAX).then_some(())).await?;
            failpoint::hit(&failpoint::DECIDE_BEFORE_ACCEPT, "").map_err(unanswered)?;
            let proposals: Vec<&Proposal> = waiting.iter().map(|index| &members[*index].proposal).collect();
            let merged = merge(&self.chain, &self.topology, self.shared.epoch, now_ms, &proposals);
            let Merged { decision, verdicts } = merged.map_err(Error::Bug)?;
            if let Some(decision) = decision {
                let decided =
                    waiting.iter().zip(&verdicts).filter(|(_, verdict)| **verdict == Verdict::Decided);
                let uploads =
                    decided.flat_map(|(index, _)| members[*index].uploads.iter().cloned()).collect();
                let prepared = self.prepare(decision, uploads)?;
                self.decide(prepared).await?;
            }
            for (index, verdict) in waiting.into_iter().zip(verdicts) {
                outcomes[index] = outcome_of(verdict, self.chain.sequence);
            }
        }
    }

    /// Decides that the offsets of `gap` are not read. Anything wrong with it is answered: nothing was proposed then.
    pub async fn accept_gap(&mut self, gap: &GapProposal, now_ms: i64) -> Result<CommitOutcome, Error> {
        self.wait(|state| (state.unpublished() < UNPUBLISHED_MAX).then_some(())).await?;
        if let Err(refusal) = self.chain.accept_gap(&self.topology, gap) {
            return Ok(CommitOutcome::Stale(refusal));
        }
        let decision = self.chain.decide_gap(&self.topology, self.shared.epoch, now_ms, gap);
        let decision = decision.map_err(|error| Error::Bug(error.to_string()))?;
        let prepared = self.prepare(decision, Vec::new())?;
        self.decide(prepared).await?;
        Ok(CommitOutcome::Committed { sequence: self.chain.sequence })
    }

    /// Decides an entry of a model's log; its files must lie in a majority. One that is decided already is answered with its
    /// decision, as far back as the chain remembers.
    pub async fn record_model(
        &mut self,
        proposal: &ModelProposal,
        uploads: Vec<FileUploads>,
        now_ms: i64,
    ) -> Result<CommitOutcome, Error> {
        if let Some(sequence) = self.chain.sequence_of(&proposal.commit_id) {
            return Ok(CommitOutcome::Committed { sequence });
        }
        self.wait(|state| (state.unpublished() < UNPUBLISHED_MAX).then_some(())).await?;
        failpoint::hit(&failpoint::DECIDE_BEFORE_ACCEPT, "").map_err(unanswered)?;
        if let Err(refusal) = self.chain.accept_model(proposal) {
            return Ok(CommitOutcome::Stale(refusal));
        }
        if let Err(what) = files_in_majority(&uploads, self.shared.clouds.len()).await {
            return Ok(CommitOutcome::NotStored(what));
        }
        let decision = self.chain.decide_model(self.shared.epoch, now_ms, proposal);
        let prepared = self.prepare(decision.map_err(Error::Bug)?, uploads)?;
        self.decide(prepared).await?;
        Ok(CommitOutcome::Committed { sequence: self.chain.sequence })
    }

    /// Waits until a majority has published everything that is decided.
    ///
    /// # Errors
    /// [`Error::NoMajority`] if that takes longer than `patience`; [`Error::Superseded`].
    pub async fn published(&self, patience: Duration) -> Result<(), Error> {
        tokio::select! {
            biased;
            published = self.wait(|state| (state.unpublished() == 0).then_some(())) => published,
            () = self.shared.environment.sleep(patience) => {
                Err(self.shared.read(|state| self.describe_hindrances(state)))
            }
        }
    }

    /// Decides new schemas. Anything wrong with them is answered: nothing was proposed then.
    pub async fn evolve(&mut self, evolution: &Evolution, now_ms: i64) -> Result<CommitOutcome, Error> {
        self.wait(|state| (state.unpublished() < UNPUBLISHED_MAX).then_some(())).await?;
        failpoint::hit(&failpoint::DECIDE_BEFORE_ACCEPT, "").map_err(unanswered)?;
        if let Err(refusal) = self.chain.accept_evolution(evolution) {
            return Ok(CommitOutcome::Stale(refusal));
        }
        let decision = self.chain.decide_evolution(&self.topology, self.shared.epoch, now_ms, evolution);
        let decision = decision.map_err(|error| Error::Bug(error.to_string()))?;
        let prepared = self.prepare(decision, Vec::new())?;
        self.decide(prepared).await?;
        Ok(CommitOutcome::Committed { sequence: self.chain.sequence })
    }

    /// Decides maintenance, whose files `uploads` brings. As [`commit`](Self::commit), but whatever is wrong with it is
    /// answered rather than an error: nothing was proposed, and commits go on.
    pub async fn maintain(
        &mut self,
        upkeep: &Upkeep,
        uploads: Vec<FileUploads>,
        now_ms: i64,
    ) -> Result<CommitOutcome, Error> {
        if let Err(what) = self.prepare_maintenance(&uploads, &failpoint::MAINTAIN_BEFORE_DECIDE).await? {
            return Ok(CommitOutcome::NotStored(what));
        }
        if let Err(refusal) = self.chain.accept_upkeep(upkeep) {
            return Ok(CommitOutcome::Stale(refusal));
        }
        let decision = self.chain.decide_upkeep(&self.topology, self.shared.epoch, now_ms, upkeep);
        let decision = decision.map_err(|error| error.to_string());
        self.decide_maintenance(decision, uploads, &failpoint::MAINTAIN_AFTER_DECIDE).await
    }

    /// Decides a redrive, whose files `uploads` brings. As [`maintain`](Self::maintain); one that is decided already is
    /// answered with its decision, as far back as the chain remembers.
    pub async fn redrive(
        &mut self,
        redrive: &Redrive,
        uploads: Vec<FileUploads>,
        now_ms: i64,
    ) -> Result<CommitOutcome, Error> {
        if let Some(sequence) = self.chain.sequence_of(&redrive.commit_id) {
            return Ok(CommitOutcome::Committed { sequence });
        }
        if let Err(what) = self.prepare_maintenance(&uploads, &failpoint::REDRIVE_BEFORE_DECIDE).await? {
            return Ok(CommitOutcome::NotStored(what));
        }
        if let Err(refusal) = self.chain.accept_redrive(redrive) {
            return Ok(CommitOutcome::Stale(refusal));
        }
        let decision = self.chain.decide_redrive(&self.topology, self.shared.epoch, now_ms, redrive);
        let decision = decision.map_err(|error| error.to_string());
        self.decide_maintenance(decision, uploads, &failpoint::REDRIVE_AFTER_DECIDE).await
    }

    /// Decides a checkpoint, which `uploads` brings. As [`maintain`](Self::maintain).
    pub async fn checkpoint(
        &mut self,
        proposal: &CheckpointProposal,
        uploads: Vec<FileUploads>,
        now_ms: i64,
    ) -> Result<CommitOutcome, Error> {
        if let Err(what) = self.prepare_maintenance(&uploads, &failpoint::CHECKPOINT_BEFORE_DECIDE).await? {
            return Ok(CommitOutcome::NotStored(what));
        }
        let decision = self.chain.decide_checkpoint(now_ms, proposal);
        self.decide_maintenance(decision, uploads, &failpoint::CHECKPOINT_AFTER_DECIDE).await
    }

    /// Waits until there is room for a decision; why nothing can be decided, if so.
    async fn prepare_maintenance(
        &self,
        uploads: &[FileUploads],
        point: &'static Failpoint,
    ) -> Result<Result<(), String>, Error> {
        self.wait(|state| (state.unpublished() < UNPUBLISHED_MAX).then_some(())).await?;
        let stored = files_in_majority(uploads, self.shared.clouds.len()).await;
        Ok(stored.and_then(|()| failpoint::hit(point, "").map_err(|error| error.to_string())))
    }

    /// Decides maintenance that follows the chain and can be read back; of anything else nothing is proposed.
    async fn decide_maintenance(
        &mut self,
        decision: Result<Decision, String>,
        uploads: Vec<FileUploads>,
        point: &'static Failpoint,
    ) -> Result<CommitOutcome, Error> {
        let prepared = decision.and_then(|decision| {
            self.prepare(decision, uploads).map_err(|error| match error {
                // Of maintenance this is no broken invariant: it is left out.
                Error::Bug(what) => what,
                error => error.to_string(),
            })
        });
        match prepared {
            Ok(prepared) => self.decide(prepared).await?,
            Err(what) => return Ok(CommitOutcome::NotStored(what)),
        }
        match failpoint::hit(point, "") {
            Ok(()) => Ok(CommitOutcome::Committed { sequence: self.chain.sequence }),
            // Whoever asked finds out from the log.
            Err(error) => Ok(CommitOutcome::NotStored(error.to_string())),
        }
    }

    /// The record of `decision` and the chain after it. Nothing is proposed yet.
    fn prepare(&self, decision: Decision, uploads: Vec<FileUploads>) -> Result<Prepared, Error> {
        // Applied to a copy first: what we would read back must follow the chain before anyone can see it.
        let mut next = self.chain.clone();
        next.apply(&decision).map_err(Error::Bug)?;
        Ok(Prepared { slot: self.encode_next(Content::Entry(decision), uploads)?, next })
    }

    /// Proposes what was prepared and waits until it is decided.
    async fn decide(&mut self, Prepared { slot, next }: Prepared) -> Result<(), Error> {
        self.propose(slot).await?;
        self.chain = next;
        failpoint::hit(&failpoint::DECIDE_AFTER_MAJORITY, "").map_err(unanswered)
    }

    /// The next record, with its bytes.
    fn encode_next(&self, content: Content, uploads: Vec<FileUploads>) -> Result<Slot, Error> {
        let record = Record::new(self.shared.epoch, self.records(), content);
        let bytes = encode_to_store(&record, self.shared.clouds.len())?;
        Ok(Slot::new(record, bytes, uploads))
    }

    /// Proposes the next record and waits until it is decided.
    async fn propose(&self, slot: Slot) -> Result<(), Error> {
        let index = self.shared.update(|state| state.propose(slot));
        self.wait(|state| (state.quorum.decided() > index).then_some(())).await
    }

    /// Waits for `look`, or for the end of this epoch.
    async fn wait(&self, look: impl Fn(&State) -> Option<()>) -> Result<(), Error> {
        let epoch = self.shared.epoch;
        let found = self.shared.wait_for(|state| match look(state) {
            Some(()) => Some(Ok(())),
            None => match state.standing() {
                Standing::Able => None,
                Standing::Superseded => Some(Err(Error::Superseded { epoch })),
                Standing::Unable => Some(Err(self.describe_hindrances(state))),
            },
        });
        found.await.unwrap_or(Err(Error::Superseded { epoch }))
    }

    fn describe_hindrances(&self, state: &State) -> Error {
        let clouds = self.shared.clouds.iter().enumerate();
        let reasons = clouds.filter_map(|(index, cloud)| {
            state.hindrance(index).map(|hindrance| format!("{}: {hindrance}", cloud.name))
        });
        Error::no_majority("decide", state.quorum.majority(), self.shared.clouds.len(), reasons.collect())
    }

    /// Returns when fewer than a majority of clouds have answered for [`HEADER_PATIENCE`].
    async fn majority_gone(&self) -> Error {
        let wait = |is_at_hand: bool| {
            self.shared.wait_for(move |state| (state.has_majority_at_hand() == is_at_hand).then_some(()))
        };
        loop {
            wait(false).await;
            tokio::select! {
                biased;
                _ = wait(true) => {}
                () = self.shared.environment.sleep(HEADER_PATIENCE) => {
                    return self.shared.read(|state| self.describe_hindrances(state));
                }
            }
        }
    }

    /// Waits until every cloud that answers and still takes what this epoch decides has published everything, at most
    /// `patience`; then stops the lanes.
    pub async fn finish(self, patience: Duration) -> LeaderProgress {
        let all_published = self.shared.wait_for(|state| {
            let decided = state.quorum.decided();
            // What is sealed gets nothing more from this epoch, whoever comes next brings it there.
            let done = |cloud: usize| {
                let CloudState { published, sealed, .. } = *state.quorum.cloud(cloud);
                published == decided || sealed || state.away[cloud]
            };
            (0..self.shared.clouds.len()).all(done).then_some(())
        });
        let complete = tokio::select! {
            biased;
            _ = all_published => true,
            () = self.shared.environment.sleep(patience) => false,
        };
        let progress = self.watch().progress();
        for cloud in progress.clouds.iter().filter(|cloud| cloud.decisions_behind > 0) {
            let (cloud, behind) = (&cloud.cloud, cloud.decisions_behind);
            warn!(%cloud, behind, complete, "cloud is behind and will be filled by the next run");
        }
        self.end_lanes().await;
        progress
    }

    async fn end_lanes(mut self) {
        self.shared.shutdown.cancel();
        for lane in std::mem::take(&mut self.lanes) {
            lane.ended().await;
        }
    }

    /// Takes over from itself. An ordinary take-over, but commits wait for it: it asks no cloud that was away last or is
    /// behind, waits for none that it can do without, and reads nothing back that this process stored itself. The lanes of
    /// the other clouds go on in the new epoch.
    ///
    /// As long as fewer than a majority answer, it asks again: nothing that was decided is in doubt.
    ///
    /// # Errors
    /// [`Error::Superseded`] if another process has taken over; as [`start`](Self::start) otherwise, but for too few clouds.
    pub async fn renew(self, group: &Group) -> Result<Self, Error> {
        if self.watch().is_superseded() {
            return Err(Error::Superseded { epoch: self.epoch() });
        }
        let published = self.shared.wait_for(|state| (state.unpublished() == 0).then_some(()));
        tokio::select! {
            biased;
            _ = published => {}
            () = self.shared.environment.sleep(RENEWAL_PATIENCE) => {}
        }
        let (uploads, epoch) = (self.shared.uploads.clone(), self.epoch());
        let (needed, own_log) = self.shared.read(|state| (state.needed_to_renew(), state.own_log(epoch)));
        self.end_lanes().await;
        // The first attempt may claim the next epoch, and those after it no more.
        let with = |own_log: OwnLog| Group { own_log: Some(Arc::new(own_log)), ..group.clone() };
        let group = with(OwnLog { is_newest: false, ..own_log.clone() });
        let hurried = Group { patience: Patience::RENEWAL, ..with(own_log) };
        let mut renewed = Self::start_among(&hurried, &needed, uploads.clone()).await;
        // One more has left just now; another may be back. A commit would wait for them as well.
        while let Err(error @ Error::NoMajority { .. }) = renewed {
            warn!(error = %crate::chain_of(&error), "epoch not renewed, asking every cloud");
            if group.is_claimed_by_another(epoch).await {
                return Err(Error::Superseded { epoch });
            }
            group.environment.sleep(RENEWAL_PATIENCE).await;
            renewed = Self::start(&group, uploads.clone()).await;
        }
        renewed
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        self.shared.shutdown.cancel();
    }
}

/// `None` for a member that waits for the next decision.
fn outcome_of(verdict: Verdict, sequence: u64) -> Option<Result<CommitOutcome, Error>> {
    match verdict {
        Verdict::Decided => Some(Ok(CommitOutcome::Committed { sequence })),
        Verdict::Known { sequence } => Some(Ok(CommitOutcome::Committed { sequence })),
        Verdict::Refused(stale @ Refusal::Stale { .. }) => Some(Ok(CommitOutcome::Stale(stale))),
        Verdict::Refused(contradiction) => Some(Err(Error::Bug(contradiction.to_string()))),
        Verdict::Malformed(what) => Some(Err(Error::Bug(what))),
        Verdict::Later => None,
    }
}

/// Waits until every file is in a majority of `clouds`, so that no entry names a file that exists nowhere.
pub(crate) async fn files_in_majority(files: &[FileUploads], clouds: usize) -> Result<(), String> {
    for (path, handles) in files {
        let mut waiting: futures::stream::FuturesUnordered<_> =
            handles.iter().map(|handle| async move { (handle.cloud(), handle.settled().await) }).collect();
        let (mut done, mut reasons) = (0, Vec::new());
        while done < majority(clouds) {
            match futures::StreamExt::next(&mut waiting).await {
                Some((_, UploadStatus::Done)) => done += 1,
                Some((cloud, UploadStatus::Failed(reason))) => reasons.push(format!("{cloud}: {reason}")),
                Some((_, UploadStatus::Pending)) => {}
                None => return Err(format!("{path}: {}", reasons.join("; "))),
            }
        }
    }
    Ok(())
}
