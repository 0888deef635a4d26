//! The pipeline: the whole life of a batch, from poll to acknowledgement.
//!
//! ```text
//! poll ─▶ chunk ─▶ decode ─▶ expectations + SQL ─▶ Parquet ─▶ stage ─▶ decide ─▶ acknowledge
//!                            (per dataset)          (to every cloud at once)
//! ```
//!
//! Reading never waits for a commit: while one batch is being decided the next one fills. A batch that could not be
//! committed is dropped whole and read again from the chain's positions; its files stay unreferenced.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use isobar_connectors::clouds::Cloud;
use isobar_connectors::failpoint::{self, Failpoint};
use isobar_connectors::source::{Source, SourceChunk, SourceEvent};
use isobar_connectors::upload::FanOut;
use isobar_schemas::{RecordChunk, RowCounts, TopicPartition};
use tokio::sync::{oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::commit::{CommitOutcome, Epoch, Group, Leader, LeaderProgress, LeaderWatch, Staged};
use crate::decoding::Decoding;
use crate::error::Error;
use crate::http::Readiness;
use crate::inference::ModelWatch;
use crate::letters::Letters;
use crate::limits::{Above, Rates};
use crate::maintain::Maintenance;
use crate::metrics::Metrics;
use crate::progress::{Committed, Progress};
use crate::span::{Bound, Ends};
use crate::spec::Topology;
use crate::stage::{DatasetPlan, DatasetStage};
use crate::standby::Pulse;
use crate::start::{self, Budget};
use crate::topics::{self, TopicWatch, Topics};
use crate::workers::wire::RedriveAnswer;
use crate::workers::{Committer, Desk, Own, Reads, WaitingRedrive};

/// How long a finished run waits for clouds that answer to publish everything.
pub(crate) const FINISH_PATIENCE: Duration = Duration::from_secs(60);
/// How long a stop waits for the last commit.
const STOP_PATIENCE: Duration = Duration::from_secs(30);
const ASSIGNED: &str = "only topics of a source are assigned";
/// Pause before a batch that could not be stored is read again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// How long a worker may be told of partitions that it does not see in Kafka itself.
const UNSEEN_PATIENCE: Duration = Duration::from_secs(120);
/// How often gauges are refreshed.
const GAUGES_INTERVAL: Duration = Duration::from_secs(1);

/// How a topology is run.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// Commit and return when every partition has reached the end it had at the start, or `to`.
    pub until_caught_up: bool,
    /// Where partitions begin that no dataset has a position in; `None`: where the specification says.
    pub from: Option<Bound>,
    /// Where the run ends that is to catch up.
    pub to: Option<Bound>,
    /// Opened clouds to use in place of the specification's, in its order (fault injection).
    pub clouds: Option<Vec<Cloud>>,
    /// How long a start waits while too few clouds answer.
    pub clouds_patience: Duration,
    /// Where progress is counted.
    pub progress: Arc<Progress>,
    /// Where metrics are kept.
    pub metrics: Metrics,
    /// Set once the topology leads and consumes.
    pub ready: Readiness,
    /// Beats while the topology leads; others may listen to it.
    pub pulse: Pulse,
    /// Where workers put down their commits while the topology leads; `None`: there are none.
    pub desk: Option<Desk>,
    /// Where others reach [`http`](crate::http) of this process, `host:port`, if they do.
    pub address: Option<String>,
    /// Shows whoever leads: the epoch's own watch, another one after each take-over from itself.
    pub leader: watch::Sender<Option<LeaderWatch>>,
    /// How often Kafka is asked whether the topics are still the same ones and have more partitions.
    pub topics_interval: Duration,
}

impl RunOptions {
    /// Runs until stopped, with progress and metrics nobody looks at.
    pub fn new(topology: &str) -> Self {
        Self {
            until_caught_up: false,
            from: None,
            to: None,
            clouds: None,
            clouds_patience: Duration::ZERO,
            progress: Arc::default(),
            metrics: Metrics::new(topology),
            ready: Readiness::default(),
            pulse: Pulse::default(),
            desk: None,
            address: None,
            leader: watch::Sender::new(None),
            topics_interval: topics::TOPICS_INTERVAL,
        }
    }
}

/// What a finished run did.
#[derive(Debug, Clone)]
pub struct Summary {
    /// Commits and rows of this run.
    pub committed: Committed,
    /// The clouds at the end.
    pub leader: LeaderProgress,
}

impl Summary {
    /// A run that was stopped before it led.
    pub(crate) fn nothing_done() -> Self {
        let leader = LeaderProgress { epoch: Epoch(0), clouds: Vec::new() };
        Self { committed: Committed::default(), leader }
    }
}

/// Runs `topology` until `shutdown`, until caught up if asked, or until an error stops it.
pub async fn run(
    topology: &Topology,
    options: RunOptions,
    shutdown: CancellationToken,
) -> Result<Summary, Error> {
    let mut pipeline = tokio::select! {
        started = Pipeline::start(topology, options) => started?,
        () = shutdown.cancelled() => return Ok(Summary::nothing_done()),
    };
    let result = pipeline.drive(&shutdown).await;
    pipeline.stop(result).await
}

/// One running topology.
pub(crate) struct Pipeline<'a> {
    pub(crate) topology: &'a Topology,
    pub(crate) options: RunOptions,
    pub(crate) budget: Budget,
    pub(crate) group: Group,
    pub(crate) uploads: Arc<FanOut>,
    pub(crate) source: Box<dyn Source>,
    /// Returns when a topic is no longer the one that is read, or the leader does not want this worker.
    pub(crate) guards: JoinSet<Error>,
    pub(crate) decoding: Decoding,
    pub(crate) plans: Vec<DatasetPlan>,
    /// Which models the plans call.
    pub(crate) models: ModelWatch,
    /// The topics as far as they are taken up: every partition has its first position.
    pub(crate) topics: Topics,
    /// Tells of more partitions.
    pub(crate) topic_watch: TopicWatch,
    /// Since when the leader gives this worker partitions that it does not see.
    pub(crate) unseen_since: Option<Instant>,
    /// The partitions that this process reads: all, or its share beside other workers.
    pub(crate) reads: BTreeSet<TopicPartition>,
    /// Per dataset, the next offset to take from each partition: the chain's, plus what was absorbed since.
    pub(crate) positions: Vec<BTreeMap<TopicPartition, i64>>,
    /// Partitions that have not reached the end they had at the start.
    pub(crate) behind: BTreeSet<TopicPartition>,
    /// Where that is not the end it had, but another place.
    pub(crate) ends: Option<Ends>,
    /// Who decides, while no commit is in flight.
    pub(crate) committer: Option<Committer>,
    /// The epoch that this process leads; `None` in a worker.
    pub(crate) watch: Option<LeaderWatch>,
    pub(crate) batch: Batch,
    /// By dataset, how many records may miss its rules.
    pub(crate) rates: BTreeMap<String, Rates>,
    pub(crate) commit: Option<JoinHandle<Landing>>,
    pub(crate) maintenance: Maintenance,
    pub(crate) letters: Letters,
    /// Whether the last decision was one of maintenance.
    pub(crate) maintained_last: bool,
    pub(crate) stopping: bool,
}

/// What has been read since the last batch was closed.
pub(crate) struct Batch {
    commit_id: String,
    stages: Vec<DatasetStage>,
    bytes: u64,
    opened: Instant,
}

/// A decision that came back: who decided, what was to be decided, and how it went; no outcome if the batch was empty
/// and only workers' commits were decided.
pub(crate) struct Landing {
    committer: Committer,
    cargo: Cargo,
    outcome: Result<Option<CommitOutcome>, Error>,
}

/// What a decision was about.
enum Cargo {
    Batch(ClosedBatch),
    /// The first positions of more partitions.
    Growth(Topics),
    Maintenance(oneshot::Sender<Result<u64, String>>),
    /// What was asked, and whether it was decided before and only the answer was lost.
    Redrive(Box<WaitingRedrive>, bool),
}

/// What a commit will have done, if it is decided.
struct ClosedBatch {
    rows: Vec<(String, RowCounts)>,
    files: Vec<(String, u64)>,
    positions: BTreeMap<TopicPartition, i64>,
    closed: Instant,
}

impl Batch {
    pub(crate) fn open(plans: &[DatasetPlan], uploads: &Arc<FanOut>) -> Result<Self, Error> {
        let commit_id = uuid::Uuid::new_v4().to_string();
        let stages = plans
            .iter()
            .map(|plan| DatasetStage::new(plan, &commit_id, uploads))
            .collect::<Result<_, _>>()?;
        Ok(Self { commit_id, stages, bytes: 0, opened: Instant::now() })
    }

    fn is_empty(&self) -> bool {
        self.stages.iter().all(DatasetStage::is_empty)
    }

    /// Encodes rows when more than `bytes_max` are held, down to half of that.
    fn shrink_to(&mut self, bytes_max: usize) -> Result<(), Error> {
        if self.buffered_bytes() <= bytes_max {
            return Ok(());
        }
        let share = bytes_max / 2 / self.stages.len().max(1);
        self.stages.iter_mut().try_for_each(|stage| stage.flush(share))
    }

    fn buffered_bytes(&self) -> usize {
        self.stages.iter().map(DatasetStage::buffered_bytes).sum()
    }
}

impl Pipeline<'_> {
    /// Poll, decode, transform, stage, commit, acknowledge, until there is a reason to stop.
    pub(crate) async fn drive(&mut self, shutdown: &CancellationToken) -> Result<(), Error> {
        let mut clock = tokio::time::interval(self.topology.commit_interval.min(GAUGES_INTERVAL));
        let mut stop_by = None;
        clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                event = next_event(&mut self.source, &self.uploads), if self.has_room() => match event {
                    Some(SourceEvent::Chunk(chunk)) => self.take(chunk)?,
                    Some(SourceEvent::EndOfPartition { topic_partition, next_offset }) => {
                        self.at_end(&topic_partition, next_offset);
                    }
                    Some(SourceEvent::Failed(error)) => return Err(Error::connector("consume", error)),
                    Some(_) => {}
                    None => return Err(Error::Bug("the source ended by itself".into())),
                },
                told = self.decoding.answered() => {
                    let chunk = told?;
                    self.absorb(&chunk)?;
                }
                landing = landed(&mut self.commit) => self.settle(landing, shutdown).await?,
                Some(gone) = self.guards.join_next() => return Err(gone.unwrap_or_else(|died| Error::Bug(died.to_string()))),
                _ = clock.tick() => self.look_around(shutdown).await?,
                () = shutdown.cancelled(), if !self.stopping => {
                    self.stopping = true;
                    stop_by = Some(tokio::time::Instant::now() + STOP_PATIENCE);
                }
                () = at(stop_by) => return Err(self.cannot_stop_well()),
            }
            if self.commit.is_none() {
                self.begin_next()?;
            }
            if self.is_done() {
                return Ok(());
            }
        }
    }

    /// What is due without any record: a leader that was superseded says so and ends, one that was half superseded
    /// takes a new epoch, and partitions that are new or a share that has changed are taken up.
    async fn look_around(&mut self, shutdown: &CancellationToken) -> Result<(), Error> {
        if let Some(watch) = self.watch.as_ref().filter(|watch| watch.is_superseded()) {
            return Err(Error::Superseded { epoch: watch.progress().epoch });
        }
        if self.committer.is_some() {
            self.renew_epoch(shutdown).await?;
            self.follow_topics()?;
            self.follow_share()?;
        }
        // Nothing was scored yet: this is as good as a commit's boundary.
        if self.batch.is_empty() && self.models.has_news() {
            self.batch = self.next_batch()?;
        }
        if let Some(watch) = &self.watch {
            self.options.pulse.beat(watch.progress().epoch);
        }
        if let Some(Committer::Own(own)) = &self.committer {
            self.maintenance.observe(&own.leader);
            self.letters.observe(&own.leader);
        }
        self.refresh_gauges();
        Ok(())
    }

    /// Takes up partitions that are new. Who leads has their first positions decided first, and only then are they read
    /// or given to a worker; a worker waits to be given them. A run that ends when all is caught up leaves them to the
    /// next one: they were not there at its start.
    fn follow_topics(&mut self) -> Result<(), Error> {
        if self.stopping || self.options.until_caught_up {
            return Ok(());
        }
        let Some(sighting) = self.topic_watch.news() else { return Ok(()) };
        let Some(Committer::Own(own)) = &self.committer else {
            self.topics = sighting.topics;
            return Ok(());
        };
        match start::growth(self.topology, own.leader.chain(), &self.plans, &sighting)? {
            Some(proposal) => {
                let staged = Some(Staged { proposal, uploads: Vec::new() });
                self.decide(Cargo::Growth(sighting.topics), |mut committer| async move {
                    let outcome = committer.commit(staged).await;
                    (committer, outcome)
                });
            }
            None => self.take_up(sighting.topics),
        }
        Ok(())
    }

    /// Every partition of `topics` has its first position: they can be read.
    fn take_up(&mut self, topics: Topics) {
        let added = topics.identities.len().saturating_sub(self.topics.identities.len());
        self.topics = topics;
        if let Some(committer) = &self.committer {
            committer.announce(&self.topics);
        }
        info!(added, partitions = self.topics.identities.len(), "more partitions are read");
    }

    /// Reads what is this process's share now. A share that only grew leaves what was read of it in the batch; otherwise
    /// what was read and not decided is dropped, because somebody else may read it now.
    fn follow_share(&mut self) -> Result<(), Error> {
        let Some(committer) = self.committer.as_mut().filter(|_| !self.stopping) else { return Ok(()) };
        committer.listen();
        let Reads { partitions, unseen } = committer.reads(&self.topics)?;
        self.wait_for_unseen(unseen.first())?;
        if partitions == self.reads {
            return Ok(());
        }
        if partitions.is_superset(&self.reads) {
            self.widen(partitions)?;
        } else {
            self.rewind()?;
            // What somebody else reads now is not behind here.
            self.options.metrics.consumer_lag.reset();
        }
        info!(partitions = self.reads.len(), of = self.topics.identities.len(), "reading another share");
        Ok(())
    }

    /// The leader may see a partition before this worker does; one that is never seen is in another cluster.
    fn wait_for_unseen(&mut self, unseen: Option<&TopicPartition>) -> Result<(), Error> {
        let Some(partition) = unseen else {
            self.unseen_since = None;
            return Ok(());
        };
        self.topic_watch.look_now();
        let waited = self.unseen_since.get_or_insert_with(Instant::now).elapsed();
        if waited > UNSEEN_PATIENCE {
            let waited_s = waited.as_secs();
            return Err(Error::Configuration(format!(
                "the leader has had this worker read {partition} for {waited_s} s, and the brokers do not show it here: point \
                 both to the same Kafka cluster"
            )));
        }
        Ok(())
    }

    /// Reads `share` from now on, which holds everything that is read already: that goes on where it is.
    fn widen(&mut self, share: BTreeSet<TopicPartition>) -> Result<(), Error> {
        let committer = self.committer.as_ref().expect("the committer is here while no commit is in flight");
        let added: BTreeSet<TopicPartition> = share.difference(&self.reads).cloned().collect();
        let first = start::positions(self.topology, committer, &self.plans, &self.topics, &added)?;
        for (positions, first) in self.positions.iter_mut().zip(first) {
            positions.extend(first);
        }
        self.behind.extend(added);
        self.reads = share;
        self.decoding.forget();
        // Chunks on their way are dropped and fetched again: the positions are those of the batch, not of the client.
        self.source.reassign(start::assignment(&self.positions));
        Ok(())
    }

    /// A partition has nothing more to read.
    fn at_end(&mut self, partition: &TopicPartition, next_offset: i64) {
        if self.ends.as_ref().is_none_or(|ends| ends.is_reached(partition, next_offset)) {
            self.behind.remove(partition);
        }
    }

    /// Ends reading a partition that is read as far as it is to be, though there is more.
    fn stop_at(&mut self, partition: &TopicPartition) {
        if self.behind.remove(partition) && !self.behind.is_empty() {
            let mut assignment = start::assignment(&self.positions);
            assignment.retain(|(partition, _)| self.behind.contains(partition));
            self.source.reassign(assignment);
        }
    }

    /// Takes a chunk in, as far as the run goes, unless the registry must be asked about it first.
    fn take(&mut self, mut chunk: SourceChunk) -> Result<(), Error> {
        if let Some(ends) = &self.ends {
            let partition = chunk.topic_partition().clone();
            chunk.truncate(ends.count(&partition, chunk.offsets()));
            if chunk.is_empty() {
                self.stop_at(&partition);
                return Ok(());
            }
        }
        let source = self.topics.source_of(&chunk.topic_partition().topic).expect(ASSIGNED);
        match self.decoding.take(source, chunk)? {
            Some(chunk) => self.absorb(&chunk),
            None => Ok(()),
        }
    }

    /// Decodes a chunk once and gives it to every dataset of its source.
    fn absorb(&mut self, chunk: &RecordChunk) -> Result<(), Error> {
        reach(&failpoint::CONSUME_BEFORE_ABSORB)?;
        tokio::task::block_in_place(|| {
            let source = self.topics.source_of(&chunk.topic_partition().topic).expect(ASSIGNED);
            let decoded = self.decoding.decode(source, chunk)?;
            let topic_id = &self.topics.identities[chunk.topic_partition()].topic_id;
            for (index, plan) in self.plans.iter_mut().enumerate().filter(|(_, plan)| plan.source == source) {
                let position = &mut self.positions[index].get_mut(chunk.topic_partition());
                let position =
                    position.as_mut().expect("every assigned partition has a position in every dataset");
                self.batch.stages[index].absorb(plan, topic_id, chunk, &decoded, **position)?;
                **position = chunk.offsets().last().map_or(**position, |last| (**position).max(last + 1));
            }
            self.account(chunk);
            self.stop_where_it_ends(chunk.topic_partition());
            self.batch.shrink_to(self.budget.rows_bytes)
        })?;
        reach(&failpoint::CONSUME_AFTER_ABSORB)
    }

    /// Ends reading `partition` if every dataset is as far as it is to be.
    fn stop_where_it_ends(&mut self, partition: &TopicPartition) {
        let Some(ends) = &self.ends else { return };
        let lowest = self.positions.iter().filter_map(|positions| positions.get(partition)).min();
        if lowest.is_some_and(|position| ends.is_reached(partition, *position)) {
            self.stop_at(partition);
        }
    }

    fn account(&mut self, chunk: &RecordChunk) {
        let (records, bytes) = (chunk.len() as u64, chunk.bytes() as u64);
        self.batch.bytes += bytes;
        self.options.progress.consumed(records, bytes);
        let topic: &str = &chunk.topic_partition().topic;
        self.options.metrics.records.with_label_values(&[topic]).inc_by(records);
        self.options.metrics.record_bytes.with_label_values(&[topic]).inc_by(bytes);
    }

    /// Too few clouds answer, or no leader, to commit what was read last. It was never acknowledged, so nothing is lost.
    fn cannot_stop_well(&self) -> Error {
        let again = "what was read since the last commit is read again by the next run";
        let Some(watch) = &self.watch else {
            return Error::LeaderSilent(format!("cannot commit before stopping: no leader answers; {again}"));
        };
        let progress = watch.progress();
        let away = progress.clouds.iter().filter(|cloud| cloud.away);
        let mut reasons: Vec<String> = away.map(|cloud| format!("{} is away", cloud.cloud)).collect();
        reasons.push(again.to_owned());
        let clouds = progress.clouds.len();
        Error::no_majority("commit before stopping", crate::commit::quorum::majority(clouds), clouds, reasons)
    }

    /// Whether another chunk may be taken: not while one waits for the registry, nor while a full batch waits for the
    /// commit before it.
    fn has_room(&self) -> bool {
        !self.stopping
            && !self.decoding.is_waiting()
            && (self.commit.is_none() || self.batch.bytes < self.topology.commit_bytes_max)
    }

    fn is_caught_up(&self) -> bool {
        self.options.until_caught_up && self.behind.is_empty()
    }

    fn is_due(&self) -> bool {
        let due = self.batch.bytes >= self.topology.commit_bytes_max
            || self.batch.opened.elapsed() >= self.topology.commit_interval
            || self.stopping
            || self.is_caught_up();
        due && (!self.batch.is_empty() || self.has_guests())
    }

    /// Whether workers wait for a decision. One that stops leaves them to the next leader.
    fn has_guests(&self) -> bool {
        !self.stopping && self.options.desk.as_ref().is_some_and(Desk::has_guests)
    }

    fn is_done(&self) -> bool {
        (self.stopping || self.is_caught_up()) && self.batch.is_empty() && self.commit.is_none()
    }

    /// An empty batch, whose rows are scored by the models that were found meanwhile.
    fn next_batch(&self) -> Result<Batch, Error> {
        self.models.turn();
        Batch::open(&self.plans, &self.uploads)
    }

    /// Closes the batch, opens the next one, and has the closed one decided in the background.
    fn begin_commit(&mut self) -> Result<(), Error> {
        self.maintained_last = false;
        reach(&failpoint::CONSUME_BEFORE_CLOSE)?;
        let next = self.next_batch()?;
        let batch = std::mem::replace(&mut self.batch, next);
        let (staged, closed) = tokio::task::block_in_place(|| self.close(batch))?;
        self.judge_rates(&closed)?;
        let staged = (!staged.proposal.tables.is_empty()).then_some(staged);
        self.decide(Cargo::Batch(closed), |mut committer| async move {
            let outcome = committer.commit(staged).await;
            (committer, outcome)
        });
        Ok(())
    }

    /// Has `cargo` decided in the background, by `ask`.
    fn decide<F>(&mut self, cargo: Cargo, ask: impl FnOnce(Committer) -> F)
    where
        F: Future<Output = (Committer, Result<Option<CommitOutcome>, Error>)> + Send + 'static,
    {
        let committer = self.committer.take().expect("the committer is here while no commit is in flight");
        let asked = ask(committer);
        self.commit = Some(tokio::spawn(async move {
            let (committer, outcome) = asked.await;
            Landing { committer, cargo, outcome }
        }));
    }

    /// Has what is next decided in the background: a redrive, for which a person waits; a batch that is due, or maintenance
    /// that waits. These two take turns.
    fn begin_next(&mut self) -> Result<(), Error> {
        if !self.stopping && self.begin_redrive() {
            return Ok(());
        }
        let is_due = self.is_due();
        if may_maintain(is_due, self.maintained_last, self.stopping) && self.begin_maintenance() {
            return Ok(());
        }
        if is_due { self.begin_commit() } else { Ok(()) }
    }

    /// Has a redrive decided, if one waits for it; whether it does.
    fn begin_redrive(&mut self) -> bool {
        let Some(waiting) = self.options.desk.as_ref().and_then(Desk::take_redrive) else { return false };
        let committer = self.committer.as_ref().expect("the committer is here while no commit is in flight");
        let is_known = committer.knows(&waiting.redrive.commit_id);
        let redrive = waiting.redrive.clone();
        self.decide(Cargo::Redrive(Box::new(waiting), is_known), |mut committer| async move {
            let outcome = committer.redrive(&redrive).await;
            (committer, outcome)
        });
        true
    }

    /// Has maintenance decided, if some waits for it; whether it does.
    fn begin_maintenance(&mut self) -> bool {
        let Some(request) = self.maintenance.next_request() else { return false };
        self.maintained_last = true;
        self.decide(Cargo::Maintenance(request.answer), |mut committer| async move {
            let outcome = committer.maintain(&request.work, request.uploads).await;
            (committer, outcome)
        });
        true
    }

    /// Stops before a batch of which more records missed a rule than may.
    fn judge_rates(&mut self, closed: &ClosedBatch) -> Result<(), Error> {
        for (dataset, rows) in &closed.rows {
            let Some(rates) = self.rates.get_mut(dataset) else { continue };
            let findings = rates.judge(rows);
            for Above { rule, missed, records, limit } in findings.warnings {
                warn!(%dataset, rule, missed, records, warn_above = %limit, "more records miss a rule than expected");
            }
            if let Some(Above { rule, missed, records, limit }) = findings.fatal {
                return Err(Error::RateAbove { dataset: dataset.clone(), rule, missed, records, limit });
            }
        }
        Ok(())
    }

    fn close(&self, batch: Batch) -> Result<(Staged, ClosedBatch), Error> {
        let mut closed = ClosedBatch {
            rows: Vec::new(),
            files: Vec::new(),
            positions: BTreeMap::new(),
            closed: Instant::now(),
        };
        let mut tables = Vec::new();
        let mut uploads = Vec::new();
        for (stage, plan) in batch.stages.into_iter().zip(&self.plans) {
            if stage.is_empty() {
                continue;
            }
            closed.positions.extend(stage.positions().map(|(partition, next)| (partition.clone(), next)));
            let staged = stage.close(plan, &self.topics.identities)?;
            closed.rows.push((plan.name.clone(), staged.tables[0].rows.clone()));
            for file in staged.files {
                uploads.push((file.object_path.to_string(), file.uploads));
                closed.files.push((plan.name.clone(), file.size));
            }
            tables.extend(staged.tables);
        }
        let proposal = crate::commit::Proposal { commit_id: batch.commit_id, tables };
        Ok((Staged { proposal, uploads }, closed))
    }

    /// A commit came back: acknowledge it, or read its rows again.
    async fn settle(&mut self, landing: Landing, shutdown: &CancellationToken) -> Result<(), Error> {
        let Landing { committer, cargo, outcome } = landing;
        self.committer = Some(committer);
        let outcome = outcome?;
        let closed = match cargo {
            Cargo::Batch(closed) => closed,
            Cargo::Growth(topics) => {
                match outcome {
                    Some(CommitOutcome::Committed { .. }) => self.take_up(topics),
                    // Only this process declares positions, it brings no files, and nothing was read there.
                    other => return Err(Error::Bug(format!("first positions were not decided: {other:?}"))),
                }
                self.follow_share()?;
                return self.renew_epoch(shutdown).await;
            }
            Cargo::Maintenance(answer) => {
                let answered = match outcome {
                    Some(CommitOutcome::Committed { sequence }) => Ok(sequence),
                    Some(CommitOutcome::Stale(refusal)) => Err(refusal.to_string()),
                    Some(CommitOutcome::NotStored(what)) => Err(what),
                    None => Err("another process leads".to_owned()),
                };
                // Nobody listens any more when the pipeline ends; the decision stands.
                let _ = answer.send(answered);
                return self.renew_epoch(shutdown).await;
            }
            Cargo::Redrive(waiting, is_known) => {
                self.answer_redrive(*waiting, is_known, outcome);
                return self.renew_epoch(shutdown).await;
            }
        };
        match outcome {
            None => self.renew_epoch(shutdown).await,
            Some(CommitOutcome::Committed { sequence }) => {
                reach(&failpoint::CONSUME_BEFORE_ACKNOWLEDGE)?;
                self.acknowledge(sequence, closed);
                reach(&failpoint::CONSUME_AFTER_ACKNOWLEDGE)?;
                self.renew_epoch(shutdown).await
            }
            Some(CommitOutcome::Stale(refusal)) => {
                warn!(%refusal, "batch is stale, reading again from the chain's positions");
                self.rewind()
            }
            Some(CommitOutcome::NotStored(what)) => {
                warn!(
                    what,
                    "files did not reach a majority of clouds, reading again from the chain's positions"
                );
                tokio::time::sleep(RETRY_PAUSE).await;
                self.rewind()
            }
        }
    }

    /// Counts a redrive that is decided, and tells whoever asked for it. `None`: another process leads, and is asked next.
    fn answer_redrive(&self, waiting: WaitingRedrive, is_known: bool, outcome: Option<CommitOutcome>) {
        let answer = match outcome {
            None => return,
            Some(CommitOutcome::Committed { sequence }) if is_known => RedriveAnswer::Committed { sequence },
            Some(CommitOutcome::Committed { sequence }) => {
                let redrive = &waiting.redrive;
                count_redrive(&self.options.metrics, &redrive.dataset, &redrive.rows);
                let (dataset, rows, accepted) = (&redrive.dataset, redrive.rows.input, redrive.rows.output);
                info!(%dataset, sequence, rows, accepted, "quarantined rows redriven");
                RedriveAnswer::Committed { sequence }
            }
            Some(CommitOutcome::Stale(refusal)) => RedriveAnswer::Refused { refusal },
            Some(CommitOutcome::NotStored(reason)) => RedriveAnswer::NotStored { reason },
        };
        waiting.answer(&answer);
    }

    fn acknowledge(&mut self, sequence: u64, closed: ClosedBatch) {
        let metrics = &self.options.metrics;
        let latency = closed.closed.elapsed();
        metrics.commits.inc();
        metrics.commit_latency.observe(latency.as_secs_f64());
        metrics.last_commit.set(now_ms() as f64 / 1000.0);
        for (dataset, size) in &closed.files {
            metrics.file_bytes.with_label_values(&[dataset]).inc_by(*size);
        }
        for (dataset, rows) in &closed.rows {
            count_rows(metrics, dataset, rows);
            if let Some(rates) = self.rates.get_mut(dataset) {
                rates.note(rows);
            }
        }
        debug!(sequence, latency_ms = latency.as_millis(), files = closed.files.len(), "committed");
        let progress: Vec<_> =
            closed.positions.iter().map(|(partition, next)| (partition.clone(), *next)).collect();
        self.source.report_progress(&progress);
        self.decoding.record(&self.group.clouds);
        self.options.progress.committed(|committed| {
            committed.sequence = sequence;
            committed.files += closed.files.len() as u64;
            committed.file_bytes += closed.files.iter().map(|(_, size)| size).sum::<u64>();
            for (dataset, rows) in &closed.rows {
                committed.rows.entry(dataset.clone()).or_default().add(rows);
            }
        });
        self.options.progress.moved_to(closed.positions);
    }

    /// Takes over from itself before the epoch's log grows long, or when a failed take-over closed it in some cloud. Ends
    /// in time when a stop is asked for: nothing is in flight.
    async fn renew_epoch(&mut self, shutdown: &CancellationToken) -> Result<(), Error> {
        let goes_on = |leader: &Leader| !leader.is_full() && !leader.renewal_due();
        let mut own = match self.committer.take() {
            Some(Committer::Own(own)) if !goes_on(&own.leader) => own,
            goes_on => {
                self.committer = goes_on;
                return Ok(());
            }
        };
        own.leader = tokio::select! {
            renewed = own.leader.renew(&self.group) => renewed?,
            () = stop_is_due(shutdown) => return Err(self.cannot_stop_well()),
        };
        self.watch = Some(own.leader.watch());
        self.options.leader.send_replace(Some(own.leader.watch()));
        if let Some(desk) = &own.desk {
            desk.moved(own.leader.epoch(), own.leader.chain());
        }
        self.committer = Some(Committer::Own(own));
        Ok(())
    }

    /// Drops everything read and not decided, and reads this process's share on from the chain's positions.
    fn rewind(&mut self) -> Result<(), Error> {
        self.options.metrics.batches_retried.inc();
        self.batch = self.next_batch()?;
        self.decoding.forget();
        let committer = self.committer.as_ref().expect("the committer is here while no commit is in flight");
        let reads = committer.reads(&self.topics)?.partitions;
        self.positions = start::positions(self.topology, committer, &self.plans, &self.topics, &reads)?;
        // Caught up is what has been committed: every partition must reach its end once more.
        let mut assignment = start::assignment(&self.positions);
        if let Some(ends) = &self.ends {
            assignment = ends.before(assignment);
        }
        self.behind = assignment.iter().map(|(partition, _)| partition.clone()).collect();
        self.reads = reads;
        self.source.reassign(assignment);
        Ok(())
    }

    fn refresh_gauges(&self) {
        let metrics = &self.options.metrics;
        if let Some(watch) = &self.watch {
            let progress = watch.progress();
            metrics.epoch.set(i64::try_from(progress.epoch.0).unwrap_or(i64::MAX));
            for cloud in &progress.clouds {
                let labels = [cloud.cloud.as_str()];
                metrics.cloud_up.with_label_values(&labels).set(i64::from(!cloud.away));
                let behind = i64::try_from(cloud.decisions_behind).unwrap_or(i64::MAX);
                metrics.replication_lag.with_label_values(&labels).set(behind);
            }
        }
        for uploads in self.uploads.counters() {
            let stored = i64::try_from(uploads.stored_bytes).unwrap_or(i64::MAX);
            metrics.cloud_bytes.with_label_values(&[&uploads.cloud]).set(stored);
        }
        for (partition, status) in self.source.status().partitions() {
            let labels = [&*partition.topic, &partition.partition.to_string()];
            let lag = status.log_end.map_or(0, |end| (end - status.next_offset).max(0));
            metrics.consumer_lag.with_label_values(&labels).set(lag);
        }
        let used = [
            ("budget", self.topology.memory_bytes_max as f64),
            ("rows", self.batch.buffered_bytes() as f64),
            ("uploads", self.uploads.held_bytes() as f64),
            ("source", self.source.status().bytes_in_flight() as f64),
        ];
        for (usage, bytes) in used {
            metrics.memory.with_label_values(&[usage]).set(bytes);
        }
        if let Some(resident) = resident_bytes() {
            metrics.memory.with_label_values(&["resident"]).set(resident as f64);
        }
    }

    /// Stops reading, waits for the clouds that answer, and hands back what was done.
    pub(crate) async fn stop(mut self, result: Result<(), Error>) -> Result<Summary, Error> {
        self.options.ready.store(false, Ordering::Relaxed);
        self.options.pulse.end();
        self.maintenance.stop().await;
        if result.is_err() || self.stopping || !self.options.until_caught_up {
            self.letters.stop().await;
        }
        if let Some(commit) = self.commit.take() {
            commit.abort();
        }
        self.source.close().await;
        self.decoding.finish().await;
        result?;
        let committer = self.committer.take().expect("a pipeline that ended well has no commit in flight");
        let leader = match committer {
            Committer::Own(own) => {
                let Own { leader, desk, .. } = *own;
                // Workers look for the next leader while this one brings its clouds up to date.
                drop(desk);
                self.letters.finish(&leader).await;
                leader.finish(FINISH_PATIENCE).await
            }
            Committer::Remote(remote) => {
                remote.leave().await;
                LeaderProgress { epoch: remote.epoch(), clouds: Vec::new() }
            }
        };
        let committed = self.options.progress.snapshot();
        info!(commits = committed.commits, sequence = committed.sequence, "stopped");
        Ok(Summary { committed, leader })
    }
}

fn reach(point: &'static Failpoint) -> Result<(), Error> {
    failpoint::hit(point, "").map_err(|error| Error::connector("run", error))
}

/// Ends when a stop has waited as long as it may.
async fn stop_is_due(shutdown: &CancellationToken) {
    shutdown.cancelled().await;
    tokio::time::sleep(STOP_PATIENCE).await;
}

async fn at(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// The next event, once the uploads have room for what may come of it. Dropping the future loses nothing.
async fn next_event(source: &mut Box<dyn Source>, uploads: &FanOut) -> Option<SourceEvent> {
    uploads.ready().await;
    source.next().await
}

/// The commit in flight, when it comes back; never while there is none.
async fn landed(commit: &mut Option<JoinHandle<Landing>>) -> Landing {
    let Some(task) = commit else { return std::future::pending().await };
    let landing = task.await.expect("the commit task neither panics nor is cancelled while it is awaited");
    *commit = None;
    landing
}

/// Whether maintenance may be decided before a batch. Under a backlog a batch is always due, and the many small files that
/// makes are what maintenance is for; but a batch that is due waits for one decision at most.
fn may_maintain(batch_is_due: bool, maintained_last: bool, is_stopping: bool) -> bool {
    let has_waited = batch_is_due && maintained_last;
    !(is_stopping || has_waited)
}

fn count_rows(metrics: &Metrics, dataset: &str, rows: &RowCounts) {
    let count = |outcome: &str, rule: &str, rows: u64| {
        metrics.rows.with_label_values(&[dataset, outcome, rule]).inc_by(rows);
    };
    count("accepted", "", rows.output);
    count("filtered", "", rows.filtered);
    count("late", "", rows.late);
    for (outcome, by_rule) in
        [("rejected", &rows.rejected), ("dropped", &rows.dropped), ("warned", &rows.warned)]
    {
        for (rule, rows) in by_rule {
            count(outcome, rule, *rows);
        }
    }
}

fn count_redrive(metrics: &Metrics, dataset: &str, rows: &RowCounts) {
    let outcomes = [
        ("accepted", rows.output),
        ("rejected", rows.rejected_total()),
        ("dropped", rows.dropped_total()),
        ("filtered", rows.filtered),
    ];
    for (outcome, rows) in outcomes {
        metrics.redriven_rows.with_label_values(&[dataset, outcome]).inc_by(rows);
    }
}

/// Milliseconds since the Unix epoch. Only a label: no decision depends on it.
pub(crate) fn now_ms() -> i64 {
    chrono::Utc::now().timestamp_millis()
}

/// Resident memory of this process, where the system tells.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backlog_does_not_starve_maintenance_and_maintenance_delays_a_batch_by_one_decision() {
        assert!(
            may_maintain(true, false, false),
            "the last decision was a batch: it is the turn of maintenance"
        );
        assert!(!may_maintain(true, true, false), "a batch is due and has waited for one decision");
        assert!(may_maintain(false, true, false), "no batch is due");
        assert!(!may_maintain(false, false, true), "a pipeline that stops leaves it to the next one");
    }
}
