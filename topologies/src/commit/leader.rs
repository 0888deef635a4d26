//! The leader: takes proposals, unites those that come together, has the lanes store the decision, and says when it stands.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::future;
use isobar_connectors::clouds::Cloud;
use isobar_connectors::delta;
use isobar_connectors::failpoint::{self, Failpoint};
use isobar_connectors::upload::{FanOut, UploadHandle, UploadStatus};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::ask::Patience;
use super::chain::{Chain, Proposal, Refusal};
use super::checkpoint::CheckpointProposal;
use super::environment::{Environment, Task};
use super::format::{Content, Decision, Keys, Record, encode};
use super::lane::Lane;
use super::merge::{Merged, Verdict, merge};
use super::quorum::{CloudState, Quorum, majority};
use super::rules::{self, CloudStanding, Standing};
use super::takeover::{Group, OwnLog};
use super::upkeep::Upkeep;
use super::{Epoch, UNPUBLISHED_MAX};
use crate::error::Error;
use crate::throttle::Throttle;

/// Records kept in memory for clouds that are a little behind; a cloud further behind reads from another cloud.
const SLOTS_KEPT: usize = 32;
/// How long fewer than a majority of clouds may answer before a leader that has no header yet gives up. It promised
/// nothing so far, and whoever takes over later may find other clouds.
const HEADER_PATIENCE: Duration = Duration::from_secs(30);
/// How long a leader that takes over from itself waits for a majority to publish what is decided: what is not published
/// then goes into the new header. And how long it pauses where too few clouds answer.
const RENEWAL_PATIENCE: Duration = Duration::from_secs(1);

/// A record of the epoch together with what is known about its files.
#[derive(Debug, Clone)]
pub(super) struct Slot {
    pub(super) record: Arc<Record>,
    pub(super) bytes: Bytes,
    uploads: Arc<Vec<FileUploads>>,
}

/// A staged file's object path and its upload per cloud, in the order of the group's clouds.
pub(crate) type FileUploads = (String, Vec<UploadHandle>);

impl Slot {
    pub(super) fn new(record: Arc<Record>, bytes: Bytes, uploads: Vec<FileUploads>) -> Self {
        Self { record, bytes, uploads: Arc::new(uploads) }
    }

    /// A slot that knows of no upload, so that every file is looked for.
    pub(super) fn without_uploads() -> Self {
        let seal = Record::new(Epoch(0), 0, Content::Seal { by: Epoch(0) });
        Self::new(Arc::new(seal), Bytes::new(), Vec::new())
    }

    /// Waits for the upload of `path` to `cloud`; false when there is none or it failed.
    pub(super) async fn uploaded(&self, path: &str, cloud: usize) -> bool {
        match self
            .uploads
            .iter()
            .find(|(uploaded, _)| uploaded == path)
            .and_then(|(_, handles)| handles.get(cloud))
        {
            Some(handle) => handle.settled().await == UploadStatus::Done,
            None => false,
        }
    }
}

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

/// What lanes and leader share about one epoch.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) epoch: Epoch,
    pub(super) keys: Keys,
    pub(super) group_id: String,
    pub(super) clouds: Vec<Cloud>,
    pub(super) base: Chain,
    /// The last decision that the header stands for; record `i` is the `i`-th one after it.
    header_sequence: u64,
    /// The clouds that were readmitted, as in the header.
    pub(super) readmitted: BTreeMap<String, u64>,
    pub(super) uploads: Arc<FanOut>,
    pub(super) environment: Arc<dyn Environment>,
    pub(super) shutdown: CancellationToken,
    state: Mutex<State>,
    changed: watch::Sender<()>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) quorum: Quorum,
    slots: VecDeque<Slot>,
    /// Index of the first slot kept.
    slots_start: u64,
    /// Every record proposed, so that a renewal need not read them; bounded like the epoch.
    records: Vec<Arc<Record>>,
    /// SHA-256 of every record proposed, hex.
    hashes: Vec<String>,
    /// Bytes of all entries proposed.
    entry_bytes: u64,
    away: Vec<bool>,
    /// Why each cloud is away, if it is.
    failures: Vec<String>,
    set_aside: Vec<Option<String>>,
    /// Decisions in the header's tail.
    tail: u64,
    /// A cloud was sealed by a process that has not taken over since.
    renewal_due: bool,
}

impl State {
    /// Notes that a cloud failed; true if that is news.
    pub(super) fn mark_away(&mut self, cloud: usize, why: String) -> bool {
        self.failures[cloud] = why;
        !std::mem::replace(&mut self.away[cloud], true)
    }

    /// Whether the other clouds that serve this epoch are fewer than a majority.
    fn is_needed(&self, cloud: usize) -> bool {
        let serves = |other: usize| {
            let CloudState { stored, sealed, .. } = *self.quorum.cloud(other);
            stored > 0 && !sealed && !self.away[other] && self.set_aside[other].is_none()
        };
        let others = (0..self.away.len()).filter(|other| *other != cloud && serves(*other)).count();
        others < majority(self.away.len())
    }

    /// Notes that a cloud answered; true if that is news.
    pub(super) fn mark_back(&mut self, cloud: usize) -> bool {
        std::mem::replace(&mut self.away[cloud], false)
    }

    /// Whether a majority of clouds is not away.
    pub(super) fn has_majority_at_hand(&self) -> bool {
        self.at_hand().len() >= self.quorum.majority()
    }

    /// The clouds that are not away.
    fn at_hand(&self) -> Vec<usize> {
        (0..self.away.len()).filter(|cloud| !self.away[*cloud]).collect()
    }

    /// The clouds that a renewal needs: a majority that has published all, if there is one, else whoever answers.
    fn needed_to_renew(&self) -> Vec<usize> {
        let decided = self.quorum.decided();
        let at_hand = self.at_hand();
        let is_up_to_date = |cloud: &usize| self.quorum.cloud(*cloud).published == decided;
        let up_to_date: Vec<usize> = at_hand.iter().copied().filter(is_up_to_date).collect();
        if up_to_date.len() >= self.quorum.majority() { up_to_date } else { at_hand }
    }

    fn own_log(&self, epoch: Epoch) -> OwnLog {
        let stored = (0..self.away.len()).map(|cloud| self.quorum.cloud(cloud).stored).collect();
        OwnLog { epoch, records: self.records.clone(), stored }
    }

    /// What can still come of this epoch.
    fn standing(&self) -> Standing {
        let clouds = (0..self.away.len()).map(|cloud| CloudStanding {
            sealed: self.quorum.cloud(cloud).sealed,
            set_aside: self.set_aside[cloud].is_some(),
            away: self.away[cloud],
        });
        rules::judge_epoch(&clouds.collect::<Vec<_>>(), self.renewal_due)
    }

    /// Why nothing can be decided with a cloud, `None` if something can.
    fn hindrance(&self, cloud: usize) -> Option<String> {
        if let Some(what) = &self.set_aside[cloud] {
            return Some(what.clone());
        }
        if self.quorum.cloud(cloud).sealed {
            return Some("a later process closed this epoch there".to_owned());
        }
        self.away[cloud].then(|| format!("away, {}", self.failures[cloud]))
    }

    /// Decisions not yet published in a majority, those taken over in the header included.
    fn unpublished(&self) -> u64 {
        let published = self.quorum.published();
        let taken_over = if published == 0 { self.tail } else { 0 };
        self.quorum.decided() - published + taken_over
    }

    /// Notes that whoever sealed a cloud has left it at that.
    pub(super) fn record_renewal_due(&mut self) {
        self.renewal_due = true;
    }

    pub(super) fn set_aside(&mut self, cloud: usize, what: String) {
        self.away[cloud] = true;
        self.set_aside[cloud] = Some(what);
    }

    pub(super) fn record_published(&mut self, cloud: usize, index: u64) {
        self.quorum.record_published(cloud, index);
        while self.slots.len() > SLOTS_KEPT && self.slots_start < self.quorum.published() {
            self.slots.pop_front();
            self.slots_start += 1;
        }
    }
}

impl Shared {
    /// Changes the state and wakes whoever waits for a change.
    pub(super) fn update<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.state.lock().expect("no code panics while it holds the state"));
        self.changed.send_replace(());
        result
    }

    /// The SHA-256 of the record at `index`, which must have been proposed.
    pub(super) fn sha256_of(&self, index: u64) -> String {
        let at = usize::try_from(index).expect("an epoch has fewer records than fit into memory");
        self.read(|state| state.hashes[at].clone())
    }

    /// Whether the first `records` records of the epoch stand for decision `sequence` and all before it.
    fn reaches(&self, records: u64, sequence: u64) -> bool {
        records.checked_sub(1).is_some_and(|last| self.header_sequence + last >= sequence)
    }

    /// Whether the cloud's last request failed.
    pub(super) fn is_away(&self, cloud: usize) -> bool {
        self.read(|state| state.away[cloud])
    }

    /// Whether record `index` is decided.
    pub(super) fn is_decided(&self, index: u64) -> bool {
        self.read(|state| index < state.quorum.decided())
    }

    /// Whether nothing can be decided without `cloud`.
    pub(super) fn is_needed(&self, cloud: usize) -> bool {
        self.read(|state| state.is_needed(cloud))
    }

    /// Waits until nothing can be decided without `cloud`. For ever at shutdown: whoever asks ends then.
    pub(super) async fn wait_until_needed(&self, cloud: usize) {
        if self.wait_for(|state| state.is_needed(cloud).then_some(())).await.is_none() {
            std::future::pending().await
        }
    }

    fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.state.lock().expect("no code panics while it holds the state"))
    }

    /// Waits until `look` finds something; `None` at shutdown.
    async fn wait_for<T>(&self, look: impl Fn(&State) -> Option<T>) -> Option<T> {
        let mut changes = self.changed.subscribe();
        loop {
            changes.mark_unchanged();
            if let Some(found) = self.read(&look) {
                return Some(found);
            }
            tokio::select! {
                biased;
                () = self.shutdown.cancelled() => return None,
                _ = changes.changed() => {}
            }
        }
    }

    /// The record at `index` once it is proposed; `Some(None)` when it is no longer kept; `None` at shutdown.
    pub(super) async fn slot(&self, index: u64) -> Option<Option<Slot>> {
        self.wait_for(|state| match index.checked_sub(state.slots_start) {
            None => Some(None),
            Some(at) => state.slots.get(usize::try_from(at).ok()?).cloned().map(Some),
        })
        .await
    }

    /// Waits until the record is decided, and stored in `cloud`: then its files are there as well.
    pub(super) async fn wait_until_publishable(&self, cloud: usize, index: u64) -> Option<()> {
        self.wait_for(|state| rules::is_publishable(&state.quorum, cloud, index).then_some(())).await
    }
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

/// How one cloud is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloudProgress {
    /// The cloud.
    pub cloud: String,
    /// Whether its last request failed.
    pub away: bool,
    /// Decisions not yet published there.
    pub decisions_behind: u64,
    /// Why a person must look at it, if so.
    pub set_aside: Option<String>,
}

/// How the epoch is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaderProgress {
    /// The epoch led.
    pub epoch: Epoch,
    /// Per cloud.
    pub clouds: Vec<CloudProgress>,
}

/// Leads one epoch of one topology until it is superseded or finished.
#[derive(Debug)]
pub struct Leader {
    topology: String,
    shared: Arc<Shared>,
    lanes: Vec<Task>,
    chain: Chain,
}

/// A read-only look at a running leader, for metrics and progress.
#[derive(Debug, Clone)]
pub struct LeaderWatch(Arc<Shared>);

impl LeaderWatch {
    /// The state right now.
    pub fn progress(&self) -> LeaderProgress {
        let clouds = self.0.read(|state| {
            let decided = state.quorum.decided();
            let describe = |(index, cloud): (usize, &Cloud)| CloudProgress {
                cloud: cloud.name.clone(),
                away: state.away[index],
                decisions_behind: decided - state.quorum.cloud(index).published.min(decided),
                set_aside: state.set_aside[index].clone(),
            };
            self.0.clouds.iter().enumerate().map(describe).collect()
        });
        LeaderProgress { epoch: self.0.epoch, clouds }
    }

    /// Whether a later leader has closed this epoch in so many clouds that nothing can be decided any more.
    pub fn is_superseded(&self) -> bool {
        self.0.read(|state| state.standing() == Standing::Superseded)
    }

    /// Whether every registered cloud has published decision `sequence` and all before it, and is neither away, nor set
    /// aside, nor sealed by a later leader.
    pub fn is_published_everywhere(&self, sequence: u64) -> bool {
        self.has_published(sequence).into_iter().all(|has| has)
    }

    /// Per cloud, in the order of the group, whether it has published decision `sequence` and all before it, and is
    /// neither away, nor set aside, nor sealed by a later leader.
    pub fn has_published(&self, sequence: u64) -> Vec<bool> {
        self.0.read(|state| {
            let has_published = |cloud: usize| {
                let CloudState { published, sealed, .. } = *state.quorum.cloud(cloud);
                !sealed
                    && !state.away[cloud]
                    && state.set_aside[cloud].is_none()
                    && self.0.reaches(published, sequence)
            };
            (0..self.0.clouds.len()).map(has_published).collect()
        })
    }

    /// Waits until a majority of the clouds has published decision `sequence` and all before it; false when the epoch
    /// ends before that.
    pub async fn published_in_majority(&self, sequence: u64) -> bool {
        let published =
            self.0.wait_for(|state| self.0.reaches(state.quorum.published(), sequence).then_some(()));
        published.await.is_some()
    }

    /// Waits until the progress is such that `holds`; false when the epoch ends before that.
    pub async fn wait_until(&self, holds: impl Fn(&LeaderProgress) -> bool) -> bool {
        let mut changes = self.0.changed.subscribe();
        loop {
            changes.mark_unchanged();
            if holds(&self.progress()) {
                return true;
            }
            tokio::select! {
                _ = changes.changed() => {}
                () = self.0.shutdown.cancelled() => return false,
            }
        }
    }
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
        let clouds = group.clouds.len();
        let (changed, _) = watch::channel(());
        let shared = Arc::new(Shared {
            epoch: takeover.epoch,
            keys: group.keys(),
            group_id: takeover.group_id,
            clouds: group.clouds.clone(),
            base: takeover.header.base.clone(),
            header_sequence: chain.sequence,
            readmitted: takeover.header.readmitted.clone(),
            uploads,
            environment: group.environment.clone(),
            shutdown: CancellationToken::new(),
            state: Mutex::new(State {
                quorum: Quorum::new(clouds),
                slots: VecDeque::new(),
                slots_start: 0,
                records: Vec::new(),
                hashes: Vec::new(),
                entry_bytes: 0,
                failures: vec!["it took no part in the take-over".to_owned(); clouds],
                away: (0..clouds).map(|cloud| !takeover.reached.contains(&cloud)).collect(),
                set_aside: vec![None; clouds],
                tail: takeover.header.tail.len() as u64,
                renewal_due: false,
            }),
            changed,
        });
        let serve = |cloud| {
            let throttle = Throttle::new(group.fill_bytes_per_second);
            group.environment.spawn(Box::pin(Lane { shared: shared.clone(), cloud, throttle }.run()))
        };
        let lanes = (0..clouds).map(serve).collect();
        let leader = Self { topology: group.topology.clone(), shared, lanes, chain };
        tokio::select! {
            biased;
            decided = leader.store(Content::Header(takeover.header), Vec::new()) => decided?,
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
        self.shared.read(|state| rules::is_epoch_full(state.quorum.proposed(), state.entry_bytes))
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
                self.decide(decision, uploads).await?;
            }
            for (index, verdict) in waiting.into_iter().zip(verdicts) {
                outcomes[index] = outcome_of(verdict, self.chain.sequence);
            }
        }
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
        let follows = decision.and_then(|decision| {
            self.chain.clone().apply(&decision)?;
            // The index does not matter, as long as it is not that of a header.
            let record = Record::new(self.shared.epoch, 1, Content::Entry(decision.clone()));
            encode_to_store(&record, self.shared.clouds.len()).map_err(|error| error.to_string())?;
            Ok(decision)
        });
        match follows {
            Ok(decision) => self.decide(decision, uploads).await?,
            Err(what) => return Ok(CommitOutcome::NotStored(what)),
        }
        match failpoint::hit(point, "") {
            Ok(()) => Ok(CommitOutcome::Committed { sequence: self.chain.sequence }),
            // Whoever asked finds out from the log.
            Err(error) => Ok(CommitOutcome::NotStored(error.to_string())),
        }
    }

    /// Stores the decision that follows the chain and waits until it is decided.
    async fn decide(&mut self, decision: Decision, uploads: Vec<FileUploads>) -> Result<(), Error> {
        // Applied to a copy first: what we would read back must follow the chain before anyone can see it.
        let mut next = self.chain.clone();
        next.apply(&decision).map_err(Error::Bug)?;
        self.store(Content::Entry(decision), uploads).await?;
        self.chain = next;
        failpoint::hit(&failpoint::DECIDE_AFTER_MAJORITY, "").map_err(unanswered)
    }

    /// Proposes the next record and waits until it is decided.
    async fn store(&self, content: Content, uploads: Vec<FileUploads>) -> Result<(), Error> {
        let next = self.shared.read(|state| state.quorum.proposed());
        let record = Arc::new(Record::new(self.shared.epoch, next, content));
        let bytes = encode_to_store(&record, self.shared.clouds.len())?;
        let sha256 = delta::sha256_hex(&bytes);
        let index = self.shared.update(|state| {
            let index = state.quorum.propose();
            assert_eq!(index, next, "a leader proposes one record at a time");
            state.entry_bytes += if index == 0 { 0 } else { bytes.len() as u64 };
            state.hashes.push(sha256);
            state.records.push(record.clone());
            state.slots.push_back(Slot::new(record, bytes, uploads));
            index
        });
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
        let (needed, own_log) =
            self.shared.read(|state| (state.needed_to_renew(), Arc::new(state.own_log(epoch))));
        self.end_lanes().await;
        let group = Group { own_log: Some(own_log), ..group.clone() };
        let hurried = Group { patience: Patience::RENEWAL, ..group.clone() };
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
