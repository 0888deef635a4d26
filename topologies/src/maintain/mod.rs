//! Maintenance of the tables while the topology runs: small files become large ones, files that no version worth
//! keeping needs are deleted, and now and then a checkpoint saves readers the log before it.
//!
//! ```text
//! published versions ─▶ files of each table ─▶ plan (pure) ─▶ read, write, upload ─▶ pipeline: decide between batches
//!                       (kept and extended)                                                │
//!                                      delete in every cloud ◀── every cloud has published ┘   (VACUUM)
//! ```
//!
//! [`files`] follows the log of a table and knows its small files, [`plan`](files::TableFiles) says what to combine,
//! `compact` does it, `vacuum` deletes; `checkpoint` builds checkpoints and uploads them, `superseded` deletes old
//! ones. All of it runs on a task of its own, one piece of work at a time, beside the pipeline; only the decision
//! itself takes the leader, and only while no batch wants it. So a batch waits for one such decision at most, and never
//! for files to be read, written or deleted.
//!
//! Guarantees. Rows: a compaction is decided only if the rows removed are the rows added, and only if nothing else was
//! maintained since it was planned ([`Upkeep::after`]). Deletion: only files that a decided `remove` names, that a
//! decided VACUUM lets go, and only when every registered cloud has published both. Checkpoints: only of versions whose
//! bodies follow from a decided hash, and only to clouds that have published them; the newest two are kept. Failure:
//! what goes wrong is a warning and tried again later; files that were written and not decided stay unreferenced.
//! Whoever leads next finds in the log what is to be finished.

pub(crate) mod checkpoint;
mod compact;
mod files;
mod superseded;
mod vacuum;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use isobar_connectors::clouds::{Cloud, read_register};
use isobar_connectors::dataset::TableLayout;
use isobar_connectors::delta::sha256_hex;
use isobar_connectors::upload::{FanOut, UploadHandle, UploadStatus};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tracing::{debug, info, warn};

use self::files::{Plan, TableFiles};
use self::superseded::Superseded;
use crate::backoff::Backoff;
use crate::chain_of;
use crate::commit::format::{RECORD_BYTES_MAX, published_path};
use crate::commit::quorum::majority;
use crate::commit::{Chain, Change, CheckpointProposal, Leader, LeaderWatch, Upkeep, quarantine_of};
use crate::metrics::Metrics;
use crate::spec::{MaintenanceSpec, Topology};
use crate::stage::DatasetPlan;

/// How often the chain is looked at. A look at a chain that has not moved costs nothing.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// First and longest pause after maintenance of a table failed.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(600));

/// Why a piece of maintenance did not work, for people. It is tried again.
pub(crate) type Failure = String;

/// A table to be maintained: a dataset or its quarantine.
#[derive(Debug, Clone)]
struct Table {
    name: String,
    layout: Arc<TableLayout>,
    /// Fingerprint of the plan that makes its rows.
    plan: String,
    spec: MaintenanceSpec,
}

impl Table {
    /// Whether its files are combined or deleted.
    fn has_upkeep(&self) -> bool {
        self.spec.compact.is_some() || self.spec.keep_versions.is_some()
    }
}

/// The chain as the leader last had it.
#[derive(Debug, Clone)]
struct Seen {
    chain: Chain,
    watch: LeaderWatch,
}

/// What is to be decided.
#[derive(Debug)]
pub(crate) enum Work {
    /// A maintenance entry.
    Upkeep(Upkeep),
    /// A checkpoint.
    Checkpoint(CheckpointProposal),
}

/// A piece of maintenance that waits for its decision. Its files are in a majority of the clouds.
#[derive(Debug)]
pub(crate) struct Request {
    /// What to decide.
    pub(crate) work: Work,
    /// Its files: object path, and the upload to each cloud.
    pub(crate) uploads: Vec<(String, Vec<UploadHandle>)>,
    /// Told the number of its decision, or why there is none.
    pub(crate) answer: oneshot::Sender<Result<u64, String>>,
}

/// Maintenance as the pipeline sees it.
#[derive(Debug)]
pub(crate) struct Maintenance {
    seen: watch::Sender<Option<Seen>>,
    requests: mpsc::Receiver<Request>,
    /// Ends with the pipeline.
    tasks: JoinSet<()>,
}

impl Maintenance {
    /// Starts to maintain the tables of `plans`.
    pub(crate) fn start(
        topology: &Topology,
        plans: &[DatasetPlan],
        clouds: &[Cloud],
        uploads: &Arc<FanOut>,
        metrics: &Metrics,
    ) -> Self {
        let (seen, sees) = watch::channel(None);
        let (asks, requests) = mpsc::channel(1);
        let worker = Worker {
            // A file is read whole before it is believed.
            file_bytes_max: topology.memory_bytes_max / 8,
            clouds: clouds.to_vec(),
            uploads: uploads.clone(),
            metrics: metrics.clone(),
            asks,
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(worker.run(tables(topology, plans), sees));
        Self { seen, requests, tasks }
    }

    /// No maintenance at all.
    pub(crate) fn none() -> Self {
        let (_, requests) = mpsc::channel(1);
        Self { seen: watch::Sender::new(None), requests, tasks: JoinSet::new() }
    }

    /// Shows the chain to the task.
    pub(crate) fn observe(&self, leader: &Leader) {
        if self.tasks.is_empty() {
            return;
        }
        let (sequence, epoch) = (leader.chain().sequence, leader.epoch());
        let is_news = |seen: &Option<Seen>| {
            seen.as_ref()
                .is_none_or(|seen| seen.chain.sequence != sequence || seen.watch.progress().epoch != epoch)
        };
        self.seen.send_if_modified(|seen| {
            let news = is_news(seen);
            if news {
                *seen = Some(Seen { chain: leader.chain().clone(), watch: leader.watch() });
            }
            news
        });
    }

    /// What waits for its decision.
    pub(crate) fn next_request(&mut self) -> Option<Request> {
        self.requests.try_recv().ok()
    }

    /// Ends the task wherever it is.
    pub(crate) async fn stop(&mut self) {
        self.tasks.shutdown().await;
    }
}

fn tables(topology: &Topology, plans: &[DatasetPlan]) -> Vec<Table> {
    let tables = topology.datasets.iter().zip(plans).flat_map(|(dataset, plan)| {
        let table = |name: String, layout: &Arc<TableLayout>| Table {
            name,
            layout: layout.clone(),
            plan: plan.transform.fingerprint().to_owned(),
            spec: dataset.maintenance,
        };
        [
            table(plan.name.clone(), &plan.table_layout),
            table(quarantine_of(&plan.name), &plan.quarantine_layout),
        ]
    });
    tables.filter(|table| table.has_upkeep() || table.spec.checkpoint_every.is_some()).collect()
}

/// The decided bytes of a published version, by their hash, from the first cloud that has them.
pub(crate) async fn read_version(
    clouds: &[Cloud],
    table: &str,
    version: u64,
    sha256: &str,
) -> Result<Bytes, Failure> {
    let path = published_path(table, version);
    let mut last = format!("{path} is in no cloud");
    for cloud in clouds {
        match read_register(&*cloud.control, &path, RECORD_BYTES_MAX).await {
            Ok(Some(bytes)) if sha256_hex(&bytes) == sha256 => return Ok(bytes),
            Ok(_) => last = format!("{}: {path} is missing or differs; see `isobar scrub`", cloud.name),
            Err(error) => last = chain_of(&error),
        }
    }
    Err(last)
}

/// Waits until every one of `uploads` of the file `path`, one per cloud, is settled, so that the leader never waits for
/// one. Fails unless a majority is done.
async fn settle_in_majority(path: &str, uploads: &[UploadHandle]) -> Result<(), Failure> {
    let mut reasons = Vec::new();
    for upload in uploads {
        if let UploadStatus::Failed(reason) = upload.settled().await {
            reasons.push(format!("{}: {reason}", upload.cloud()));
        }
    }
    if uploads.len() - reasons.len() >= majority(uploads.len()) {
        return Ok(());
    }
    Err(format!("{path} did not reach a majority of clouds: {}", reasons.join("; ")))
}

/// Decoding and encoding leave the async threads.
async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work).await.map_err(|died| died.to_string())?
}

/// Does the work.
struct Worker {
    file_bytes_max: u64,
    clouds: Vec<Cloud>,
    uploads: Arc<FanOut>,
    metrics: Metrics,
    asks: mpsc::Sender<Request>,
}

/// When a table is looked at again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Again {
    /// At the next look.
    Soon,
    /// When the chain has reached this decision: before, the same would be planned once more.
    From(u64),
}

/// When one kind of maintenance of a table is looked at again.
struct Pace {
    backoff: Backoff,
    again: Again,
}

impl Pace {
    fn new() -> Self {
        Self { backoff: Backoff::new(BACKOFF), again: Again::Soon }
    }

    fn is_due(&self, sequence: u64) -> bool {
        let is_too_early = matches!(self.again, Again::From(from) if sequence < from);
        !is_too_early && self.backoff.is_over()
    }
}

/// A table's files and old checkpoints, and when its maintenance is looked at again. The kinds do not wait for each
/// other's failures.
struct Progress {
    files: TableFiles,
    superseded: Superseded,
    upkeep: Pace,
    checkpoint: Pace,
    clean_up: Pace,
}

impl Worker {
    async fn run(self, tables: Vec<Table>, seen: watch::Receiver<Option<Seen>>) {
        let mut progress: BTreeMap<String, Progress> = BTreeMap::new();
        loop {
            tokio::time::sleep(LOOK_INTERVAL).await;
            let Some(now) = seen.borrow().clone() else { continue };
            // What is published in a majority can be read, and no later leader can take it back.
            if now.watch.is_superseded() || !now.watch.published_in_majority(now.chain.sequence).await {
                continue;
            }
            for table in &tables {
                let fresh = || Progress {
                    files: TableFiles::new(&table.name, self.small_bytes(table)),
                    superseded: Superseded::default(),
                    upkeep: Pace::new(),
                    checkpoint: Pace::new(),
                    clean_up: Pace::new(),
                };
                self.look_at(table, progress.entry(table.name.clone()).or_insert_with(fresh), &now).await;
            }
        }
    }

    async fn look_at(&self, table: &Table, progress: &mut Progress, now: &Seen) {
        if progress.checkpoint.is_due(now.chain.sequence) {
            let outcome = self.checkpoint(table, now).await;
            self.note(table, &mut progress.checkpoint, outcome);
        }
        if progress.clean_up.is_due(now.chain.sequence) {
            let outcome = self.clean_up(table, &mut progress.superseded, now).await;
            self.note(table, &mut progress.clean_up, outcome);
        }
        if table.has_upkeep() && progress.upkeep.is_due(now.chain.sequence) {
            let outcome = self.maintain(table, &mut progress.files, now).await;
            self.note(table, &mut progress.upkeep, outcome);
        }
    }

    fn note(&self, table: &Table, pace: &mut Pace, outcome: Result<Again, Failure>) {
        match outcome {
            Ok(again) => {
                pace.backoff.worked();
                pace.again = again;
            }
            Err(what) => {
                self.metrics.maintenance_failures.with_label_values(&[&table.name]).inc();
                warn!(table = %table.name, what, "maintenance did not work, trying again later");
                pace.backoff.failed();
            }
        }
    }

    /// Builds the checkpoint that is due, if one is, and has it decided; when to look again.
    async fn checkpoint(&self, table: &Table, now: &Seen) -> Result<Again, Failure> {
        let when_it_moves = Again::From(now.chain.sequence + 1);
        let Some(head) = now.chain.tables.get(&table.name) else { return Ok(when_it_moves) };
        let due = table.spec.checkpoint_every.and_then(|every| checkpoint::due(head, every));
        let Some(version) = due else { return Ok(when_it_moves) };
        let clouds = self.answering(&now.watch);
        let built = checkpoint::build(&clouds, &table.name, head, version).await?;
        let uploads = built.upload(&self.clouds, &now.watch.has_published(now.chain.sequence)).await?;
        let (actions, bytes) = (built.checkpoint.actions, built.checkpoint.size);
        let proposal = CheckpointProposal {
            commit_id: uuid::Uuid::new_v4().to_string(),
            dataset: table.name.clone(),
            checkpoint: built.checkpoint,
        };
        let sequence = self.decide(Work::Checkpoint(proposal), vec![uploads]).await?;
        self.metrics.checkpoints.with_label_values(&[&table.name]).inc();
        info!(table = %table.name, version, actions, bytes, "checkpoint decided");
        Ok(Again::From(sequence))
    }

    /// Deletes the checkpoints that two newer ones have superseded, if every cloud has those; when to look again.
    async fn clean_up(
        &self,
        table: &Table,
        superseded: &mut Superseded,
        now: &Seen,
    ) -> Result<Again, Failure> {
        if let Some(head) = now.chain.tables.get(&table.name) {
            superseded.observe(head, now.chain.sequence);
        }
        let Some(due) = superseded.due() else { return Ok(Again::From(now.chain.sequence + 1)) };
        if !now.watch.is_published_everywhere(due.sequence) {
            return Ok(Again::Soon);
        }
        let deleted = superseded::delete(&self.clouds, &table.name, &due.versions).await?;
        superseded.finished(&due);
        if deleted > 0 {
            self.metrics.checkpoints_deleted.with_label_values(&[&table.name]).inc_by(deleted);
            info!(table = %table.name, checkpoints = deleted, "superseded checkpoints deleted in every cloud");
        }
        Ok(Again::From(now.chain.sequence + 1))
    }

    /// Files below this size are small.
    fn small_bytes(&self, table: &Table) -> u64 {
        table.spec.compact.map_or(0, |compact| (compact.target_bytes / 2).min(self.file_bytes_max))
    }

    /// Does what is due for one table, at most one decision; when to look again.
    async fn maintain(&self, table: &Table, files: &mut TableFiles, now: &Seen) -> Result<Again, Failure> {
        let when_it_moves = Again::From(now.chain.sequence + 1);
        let Some(head) = now.chain.tables.get(&table.name) else { return Ok(when_it_moves) };
        let clouds = self.answering(&now.watch);
        if !files.reach(&clouds, head).await? {
            return Ok(Again::Soon);
        }
        if let Some(vacuum) = files.vacuum()
            && now.watch.is_published_everywhere(vacuum.sequence)
        {
            let deleted = vacuum::delete(&self.clouds, &table.name, vacuum).await?;
            self.metrics.vacuumed_files.with_label_values(&[&table.name]).inc_by(deleted);
            info!(table = %table.name, files = deleted, "files of old versions deleted in every cloud");
            files.vacuum_finished();
        }
        match files.plan(head.version, &table.spec) {
            Some(Plan::Vacuum { through }) => {
                let upkeep = self.upkeep(table, files.maintained(), Change::Vacuum { through });
                return Ok(Again::From(self.decide(Work::Upkeep(upkeep), Vec::new()).await?));
            }
            Some(Plan::Compact(group)) => {
                let (sources, bytes) = (group.len() as u64, group.iter().map(|file| file.size).sum());
                let request = compact::compact(self, table, &clouds, files.maintained(), group).await?;
                let sequence = self.decide(Work::Upkeep(request.0), request.1).await?;
                self.metrics.compacted_files.with_label_values(&[&table.name]).inc_by(sources);
                self.metrics.compacted_bytes.with_label_values(&[&table.name]).inc_by(bytes);
                debug!(table = %table.name, files = sources, bytes, "small files were combined");
                return Ok(Again::From(sequence));
            }
            None => {}
        }
        // A decided VACUUM waits for the clouds, not for the chain.
        Ok(if files.vacuum().is_none() { when_it_moves } else { Again::Soon })
    }

    fn upkeep(&self, table: &Table, after: u64, change: Change) -> Upkeep {
        Upkeep {
            commit_id: uuid::Uuid::new_v4().to_string(),
            dataset: table.name.clone(),
            plan: table.plan.clone(),
            after,
            change,
        }
    }

    /// Clouds that are not away, in their order; all if all are.
    fn answering(&self, watch: &LeaderWatch) -> Vec<Cloud> {
        let progress = watch.progress();
        let here = self.clouds.iter().zip(&progress.clouds).filter(|(_, progress)| !progress.away);
        let here: Vec<Cloud> = here.map(|(cloud, _)| cloud.clone()).collect();
        if here.is_empty() { self.clouds.clone() } else { here }
    }

    /// Has the pipeline decide; the number of the decision.
    async fn decide(&self, work: Work, uploads: Vec<(String, Vec<UploadHandle>)>) -> Result<u64, Failure> {
        let (answer, answered) = oneshot::channel();
        let ended = "the pipeline ends";
        let request = Request { work, uploads, answer };
        self.asks.send(request).await.map_err(|_| ended.to_owned())?;
        answered.await.map_err(|_| ended.to_owned())?
    }
}
