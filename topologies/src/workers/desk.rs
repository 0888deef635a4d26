//! The desk: where requests of workers meet the pipeline that leads.
//!
//! HTTP handlers put commits down and wait; the pipeline takes up all that wait with its next commit and answers them.
//! Redrives are put down beside them, and taken up one by one between two batches. It outlives a leadership: while nobody
//! leads here it turns everybody away. Everything is bounded: workers, commits that wait and their bytes, redrives.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use axum::http::StatusCode;
use isobar_connectors::delta::actions::app_id;
use isobar_schemas::TopicPartition;
use tokio::sync::{Semaphore, oneshot};
use tracing::info;

use super::SILENCE_MAX;
use super::shares::share_of;
use super::token::Token;
use super::wire::{
    Answer, AskHead, Join, QuarantineHead, RedriveAnswer, Share, SharedPartition, StagedCommit,
    StagedRedrive, is_id,
};
use crate::commit::{Chain, CommitOutcome, Epoch, Proposal, Redrive, TableHead, quarantine_of};
use crate::error::Error;
use crate::metrics::Metrics;
use crate::spec::Secret;
use crate::stage::PartitionIdentity;
use crate::topics::Topics;

/// Workers of one leader.
const WORKERS_MAX: usize = 256;
/// Commits that may wait for the next decision.
const WAITING_MAX: usize = 64;
/// Bytes of the requests that may wait.
const WAITING_BYTES_MAX: usize = 64 << 20;
/// Redrives that may wait for their decision: people ask for them.
const REDRIVES_MAX: usize = 4;
/// Requests whose bodies are read at the same time.
const BODIES_MAX: usize = 4;

/// See the [module](self). Clones share it.
#[derive(Debug, Clone)]
pub struct Desk(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    token: Token,
    metrics: Metrics,
    bodies: Semaphore,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The newest epoch led here.
    epoch: Epoch,
    generation: u64,
    /// How often the desk was opened.
    openings: u64,
    /// While this process leads and takes workers.
    open: Option<Open>,
}

/// A desk of a process that leads: closed when this is dropped. Who waits is then told so.
#[derive(Debug)]
pub(crate) struct OpenDesk {
    desk: Desk,
    opening: u64,
}

impl Deref for OpenDesk {
    type Target = Desk;

    fn deref(&self) -> &Desk {
        &self.desk
    }
}

impl Drop for OpenDesk {
    fn drop(&mut self) {
        self.desk.close(self.opening);
    }
}

#[derive(Debug)]
struct Open {
    roster: Roster,
    /// The chain's tables.
    tables: BTreeMap<String, TableHead>,
    /// When each worker was heard last.
    workers: BTreeMap<String, Instant>,
    waiting: Vec<Guest>,
    redrives: VecDeque<WaitingRedrive>,
}

/// What a leader reads, altogether.
#[derive(Debug, Clone)]
pub(crate) struct Roster {
    /// The topology.
    pub(crate) topology: String,
    /// By dataset, the index of its source and the fingerprint of its plan.
    pub(crate) datasets: BTreeMap<String, (usize, String)>,
    /// All topics.
    pub(crate) topics: Topics,
}

/// A commit of a worker that waits for a decision.
#[derive(Debug)]
pub(crate) struct Guest {
    worker: String,
    pub(crate) proposal: Proposal,
    bytes: usize,
    /// Whoever asked; more than one when the worker asked again.
    answers: Vec<oneshot::Sender<Answer>>,
}

/// A redrive that waits for its decision.
#[derive(Debug)]
pub(crate) struct WaitingRedrive {
    pub(crate) redrive: Redrive,
    /// Whoever asked; more than one when it asked again.
    answers: Vec<oneshot::Sender<RedriveAnswer>>,
}

impl WaitingRedrive {
    /// Tells whoever asked what became of it.
    pub(crate) fn answer(self, answer: &RedriveAnswer) {
        for asked in self.answers {
            // Who has gone meanwhile asks again under the same commit id.
            let _ = asked.send(answer.clone());
        }
    }
}

/// Why a request is turned away.
#[derive(Debug)]
pub(super) struct Denied {
    pub(super) status: StatusCode,
    pub(super) why: String,
}

impl Denied {
    pub(super) fn new(status: StatusCode, why: impl Into<String>) -> Self {
        Self { status, why: why.into() }
    }

    fn not_leading() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "this process does not lead; the newest claim names the one that does",
        )
    }
}

impl Desk {
    /// A desk for workers that show `token`, closed.
    ///
    /// # Errors
    /// Those of [`Token::new`].
    pub fn new(token: &Secret, metrics: Metrics) -> Result<Self, Error> {
        let token = Token::new(token)?;
        let bodies = Semaphore::new(BODIES_MAX);
        Ok(Self(Arc::new(Inner { token, metrics, bodies, state: Mutex::default() })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is made as a whole, so the state is sound even if a holder of the lock has panicked.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn token(&self) -> &Token {
        &self.0.token
    }

    pub(super) fn bodies(&self) -> &Semaphore {
        &self.0.bodies
    }

    /// The newest epoch led here.
    pub(super) fn epoch(&self) -> Epoch {
        self.state().epoch
    }

    /// This process leads.
    pub(crate) fn open(&self, roster: Roster, epoch: Epoch, chain: &Chain) -> OpenDesk {
        let open = Open {
            roster,
            tables: chain.tables.clone(),
            workers: BTreeMap::new(),
            waiting: Vec::new(),
            redrives: VecDeque::new(),
        };
        let mut state = self.state();
        state.epoch = epoch;
        state.generation += 1;
        state.openings += 1;
        state.open = Some(open);
        OpenDesk { desk: self.clone(), opening: state.openings }
    }

    /// Ends the opening of this number, unless another one has followed.
    fn close(&self, opening: u64) {
        let mut state = self.state();
        if state.openings != opening {
            return;
        }
        let waiting = state.open.take().map_or(0, |open| open.waiting.len());
        self.0.metrics.workers.set(0);
        self.0.metrics.workers_waiting.set(0);
        self.count("superseded", waiting);
    }

    /// The chain is now there.
    pub(crate) fn moved(&self, epoch: Epoch, chain: &Chain) {
        let mut state = self.state();
        state.epoch = epoch;
        if let Some(open) = &mut state.open {
            open.tables.clone_from(&chain.tables);
        }
    }

    /// There are more partitions now. The chain has been [`moved`](Self::moved) to where each has its first position.
    pub(crate) fn grow(&self, topics: Topics) {
        let mut state = self.state();
        if let Some(open) = &mut state.open {
            open.roster.topics = topics;
            state.generation += 1;
        }
    }

    /// The partitions that the leader itself reads; `None` while the desk is closed: all.
    pub(crate) fn own_share(&self) -> Option<BTreeSet<TopicPartition>> {
        let mut state = self.state();
        self.sweep(&mut state);
        let open = state.open.as_ref()?;
        Some(open.share(None).into_iter().collect())
    }

    /// Whether commits wait.
    pub(crate) fn has_guests(&self) -> bool {
        self.state().open.as_ref().is_some_and(|open| !open.waiting.is_empty())
    }

    /// Takes up every commit that waits.
    pub(crate) fn take_guests(&self) -> Vec<Guest> {
        self.0.metrics.workers_waiting.set(0);
        self.state().open.as_mut().map(|open| std::mem::take(&mut open.waiting)).unwrap_or_default()
    }

    /// Tells the worker what became of its commit.
    pub(crate) fn answer(&self, guest: Guest, outcome: Result<CommitOutcome, Error>) {
        let mut state = self.state();
        let Some(share) = self.share(&mut state, &guest.worker) else { return };
        drop(state);
        let (label, answer) = match outcome {
            Ok(CommitOutcome::Committed { sequence }) => ("committed", Answer::Committed { sequence }),
            Ok(CommitOutcome::Stale(refusal)) => ("stale", Answer::Stale { refusal, share }),
            Ok(CommitOutcome::NotStored(reason)) => ("not_stored", Answer::NotStored { reason, share }),
            Err(error) => ("refused", Answer::Refused { reason: error.to_string() }),
        };
        self.count(label, 1);
        for asked in guest.answers {
            // Who has gone meanwhile asks again under the same commit id.
            let _ = asked.send(answer.clone());
        }
    }

    /// So many commits were decided together.
    pub(crate) fn grouped(&self, commits: usize) {
        self.0.metrics.group_size.observe(commits as f64);
    }

    pub(super) fn count(&self, outcome: &str, commits: usize) {
        self.0.metrics.worker_commits.with_label_values(&[outcome]).inc_by(commits as u64);
    }

    /// A worker is there, or leaves: its share.
    pub(super) fn join(&self, join: &Join) -> Result<Share, Denied> {
        let mut state = self.state();
        let open = state.open.as_mut().ok_or_else(Denied::not_leading)?;
        open.check(&join.topology, &join.worker)?;
        let plans = open.plans();
        if join.plans != plans {
            let differs = |dataset: &&String| join.plans.get(*dataset) != plans.get(*dataset);
            let dataset = plans.keys().chain(join.plans.keys()).find(differs).map_or("?", String::as_str);
            let why = format!(
                "dataset {dataset:.100} is made by another plan here: start leader and workers from the same specification \
                 and the same version of isobar, the leader first"
            );
            return Err(Denied::new(StatusCode::CONFLICT, why));
        }
        if join.leaving {
            let known = open.workers.remove(&join.worker).is_some();
            state.generation += u64::from(known);
        } else {
            state.hear(&join.worker)?;
        }
        self.share(&mut state, &join.worker).ok_or_else(Denied::not_leading)
    }

    /// Puts a commit down. The answer comes with the next decision; the sender is dropped when this process leads no longer.
    pub(super) fn receive(
        &self,
        commit: StagedCommit,
        bytes: usize,
    ) -> Result<oneshot::Receiver<Answer>, Denied> {
        let mut state = self.state();
        let open = state.open.as_mut().ok_or_else(Denied::not_leading)?;
        open.check(&commit.topology, &commit.worker)?;
        let worker = commit.worker.clone();
        let refuse = |what: String| Denied::new(StatusCode::UNPROCESSABLE_ENTITY, what);
        let proposal = commit.into_proposal(&open.plans()).map_err(refuse)?;
        state.hear(&worker)?;
        let open = state.open.as_mut().ok_or_else(Denied::not_leading)?;
        let (sender, receiver) = oneshot::channel();
        let same = |guest: &&mut Guest| guest.proposal.commit_id == proposal.commit_id;
        if let Some(guest) = open.waiting.iter_mut().find(same) {
            guest.answers.retain(|asked| !asked.is_closed());
            guest.answers.push(sender);
            return Ok(receiver);
        }
        let waiting_bytes: usize = open.waiting.iter().map(|guest| guest.bytes).sum();
        if open.waiting.len() >= WAITING_MAX || waiting_bytes + bytes > WAITING_BYTES_MAX {
            let why = "too many commits wait for the next decision; ask again";
            return Err(Denied::new(StatusCode::TOO_MANY_REQUESTS, why));
        }
        open.waiting.push(Guest { worker, proposal, bytes, answers: vec![sender] });
        self.0.metrics.workers_waiting.set(i64::try_from(open.waiting.len()).unwrap_or(i64::MAX));
        Ok(receiver)
    }

    /// What is decided about the quarantine of a dataset.
    pub(super) fn head(&self, ask: &AskHead) -> Result<QuarantineHead, Denied> {
        let state = self.state();
        let open = state.open.as_ref().ok_or_else(Denied::not_leading)?;
        open.check_topology(&ask.topology)?;
        open.check_plan(&ask.dataset, &ask.plan)?;
        let head = open.tables.get(&quarantine_of(&ask.dataset)).cloned();
        let head = head.ok_or_else(|| {
            Denied::new(StatusCode::CONFLICT, format!("nothing was committed to {:.100} yet", ask.dataset))
        })?;
        let described = open.tables.get(&ask.dataset).and_then(|table| table.described.clone());
        Ok(QuarantineHead { epoch: state.epoch, head, described })
    }

    /// Puts a redrive down. The answer comes with its decision; the sender is dropped when this process leads no longer.
    pub(super) fn receive_redrive(
        &self,
        staged: StagedRedrive,
    ) -> Result<oneshot::Receiver<RedriveAnswer>, Denied> {
        let mut state = self.state();
        let open = state.open.as_mut().ok_or_else(Denied::not_leading)?;
        open.check_topology(&staged.topology)?;
        open.check_plan(&staged.dataset, &staged.plan)?;
        let refuse = |what: String| Denied::new(StatusCode::UNPROCESSABLE_ENTITY, what);
        let redrive = staged.into_redrive().map_err(refuse)?;
        let (sender, receiver) = oneshot::channel();
        let same = |waiting: &&mut WaitingRedrive| waiting.redrive.commit_id == redrive.commit_id;
        if let Some(waiting) = open.redrives.iter_mut().find(same) {
            waiting.answers.retain(|asked| !asked.is_closed());
            waiting.answers.push(sender);
            return Ok(receiver);
        }
        if open.redrives.len() >= REDRIVES_MAX {
            let why = "too many redrives wait for their decision; ask again";
            return Err(Denied::new(StatusCode::TOO_MANY_REQUESTS, why));
        }
        open.redrives.push_back(WaitingRedrive { redrive, answers: vec![sender] });
        Ok(receiver)
    }

    /// Takes up the redrive that waits longest.
    pub(crate) fn take_redrive(&self) -> Option<WaitingRedrive> {
        self.state().open.as_mut()?.redrives.pop_front()
    }

    fn share(&self, state: &mut State, worker: &str) -> Option<Share> {
        self.sweep(state);
        let open = state.open.as_ref()?;
        let partitions = open.share(Some(worker)).into_iter().map(|partition| open.describe(&partition));
        Some(Share { epoch: state.epoch, generation: state.generation, partitions: partitions.collect() })
    }

    /// Forgets workers that are silent.
    fn sweep(&self, state: &mut State) {
        let Some(open) = &mut state.open else { return };
        let before = open.workers.len();
        open.workers.retain(|worker, heard| {
            let is_heard = heard.elapsed() <= SILENCE_MAX;
            if !is_heard {
                info!(worker, "worker is silent, its partitions are given to others");
            }
            is_heard
        });
        state.generation += u64::from(open.workers.len() < before);
        self.0.metrics.workers.set(i64::try_from(open.workers.len()).unwrap_or(i64::MAX));
    }
}

impl State {
    fn hear(&mut self, worker: &str) -> Result<(), Denied> {
        let open = self.open.as_mut().ok_or_else(Denied::not_leading)?;
        if !open.workers.contains_key(worker) {
            if open.workers.len() >= WORKERS_MAX {
                let why = format!("{WORKERS_MAX} workers are there already");
                return Err(Denied::new(StatusCode::TOO_MANY_REQUESTS, why));
            }
            self.generation += 1;
            info!(worker, generation = self.generation, "worker joins");
        }
        open.workers.insert(worker.to_owned(), Instant::now());
        Ok(())
    }
}

impl Open {
    fn check_topology(&self, topology: &str) -> Result<(), Denied> {
        if topology != self.roster.topology {
            let why = format!("topology {} is led here, not {topology:.100}", self.roster.topology);
            return Err(Denied::new(StatusCode::CONFLICT, why));
        }
        Ok(())
    }

    fn check_plan(&self, dataset: &str, plan: &str) -> Result<(), Denied> {
        let why = match self.roster.datasets.get(dataset) {
            Some((_, ours)) if ours == plan => return Ok(()),
            Some(_) => format!(
                "dataset {dataset} is made by another plan here: start the leader again with the specification that is to make \
                 these rows"
            ),
            None => format!("{dataset:.100?} is no dataset of the topology that is led here"),
        };
        Err(Denied::new(StatusCode::CONFLICT, why))
    }

    fn check(&self, topology: &str, worker: &str) -> Result<(), Denied> {
        self.check_topology(topology)?;
        if !is_id(worker) {
            let why = "the worker's id is not 1 to 64 letters, digits and `-`";
            return Err(Denied::new(StatusCode::UNPROCESSABLE_ENTITY, why));
        }
        Ok(())
    }

    fn plans(&self) -> BTreeMap<String, String> {
        let datasets = self.roster.datasets.iter();
        datasets.map(|(dataset, (_, plan))| (dataset.clone(), plan.clone())).collect()
    }

    /// The partitions of a worker, none if it is not there, or of the leader.
    fn share(&self, worker: Option<&str>) -> Vec<TopicPartition> {
        let partitions: Vec<&TopicPartition> = self.roster.topics.identities.keys().collect();
        let index = match worker {
            None => Some(0),
            Some(worker) => self.workers.keys().position(|known| known == worker).map(|place| place + 1),
        };
        let Some(index) = index else { return Vec::new() };
        share_of(&partitions, index, self.workers.len() + 1)
            .iter()
            .map(|partition| (*partition).clone())
            .collect()
    }

    fn describe(&self, partition: &TopicPartition) -> SharedPartition {
        let PartitionIdentity { cluster, topic_id } = self.roster.topics.identities[partition].clone();
        let id = app_id(&self.roster.topology, &cluster, &topic_id, partition.partition);
        let reader = self.roster.topics.source_of(&partition.topic);
        let of_topic = self.roster.datasets.iter().filter(|(_, (source, _))| Some(*source) == reader);
        let positions = of_topic
            .filter_map(|(dataset, _)| {
                Some((dataset.clone(), *self.tables.get(dataset)?.positions.get(&id)?))
            })
            .collect();
        let (topic, partition) = (partition.topic.to_string(), partition.partition);
        SharedPartition { cluster, topic, topic_id, partition, positions }
    }
}
