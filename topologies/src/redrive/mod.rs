//! `isobar quarantine redrive`: quarantined records go through the topology as it is now, once.
//!
//! ```text
//! head of the quarantine (decided) ─▶ live files ─▶ round: select, judge, stage ─▶ decide: move the rows
//!        ▲                                                                          │ overtaken: plan again
//!        └──────────────────────── until no file holds a selected row ◀─────────────┘
//! ```
//!
//! `source` finds and reads the files, `round` gives rows their fate and writes them, `decider` has the round decided, by the
//! process that leads or by leading itself. Guarantee: each round is one decision that takes rows out of the quarantine and
//! puts the accepted ones into the dataset, and it is fenced ([`commit::redrive`](crate::commit::redrive)), so that no row
//! lands twice, whoever else redrives or compacts at the same time and wherever this process dies. Failure: nothing of a
//! round that is not decided is visible; running it again goes on with what is left. `docs/redrive.md` has the argument.

mod decider;
mod round;
pub(crate) mod source;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use isobar_connectors::clouds::Cloud;
use isobar_connectors::upload::FanOut;
use isobar_schemas::RowCounts;
use serde::Serialize;
use tracing::{info, warn};

use self::decider::{Decided, Decider};
use self::round::{Judge, Round};
use self::source::{LiveFile, Source};
use crate::commit::{Group, TableHead, quarantine_of};
use crate::decoding::Decoding;
use crate::error::Error;
use crate::evolve::{self, Comparison};
use crate::inference;
use crate::prove::ProveProgress;
use crate::quarantine;
use crate::spec::Topology;
use crate::start::{self, Budget};

/// Rounds in a row that may be refused before a person is told.
const REFUSALS_MAX: u32 = 10;
/// Pause before a round that was not decided is planned again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// What to redrive, and how.
#[derive(Debug, Clone, Default)]
pub struct RedriveOptions {
    /// The dataset whose quarantine it is.
    pub dataset: String,
    /// An SQL condition over the columns of the quarantine; all rows where it is left out.
    pub condition: Option<String>,
    /// Only say what would become of the rows.
    pub dry_run: bool,
    /// Lead although another process does that cannot be asked.
    pub take_over: bool,
    /// Opened clouds to use in place of the specification's, in its order (fault injection).
    pub clouds: Option<Vec<Cloud>>,
}

/// What became of the rows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Redriven {
    /// The dataset.
    pub dataset: String,
    /// Whether nothing was to be decided.
    pub dry_run: bool,
    /// Rows selected, and their fates.
    pub rows: RowCounts,
    /// Decisions that moved rows, by their place in the topology's history; none in a dry run.
    pub decisions: Vec<u64>,
}

/// Redrives the quarantine of one dataset of `topology`.
///
/// # Errors
/// [`Error::Configuration`] for a condition, dataset, topic or plan that does not fit, or a leader that cannot be asked;
/// [`Error::ExpectationFailed`] if a row meets an expectation with the action `fail`; otherwise whatever stopped it. What
/// earlier rounds moved stays moved.
pub async fn redrive(
    topology: &Topology,
    options: &RedriveOptions,
    progress: &dyn ProveProgress,
) -> Result<Redriven, Error> {
    let mut work = Work::prepare(topology, options)?;
    work.judge.decoding.recall(&work.source.clouds).await;
    inference::bind_once(topology, &work.judge.plan, &work.source.clouds).await?;
    if options.dry_run {
        progress.phase("reading the quarantine");
        work.rehearse(progress).await?;
        return Ok(work.done);
    }
    progress.phase("looking for the leader");
    let mut decider = Decider::find(topology, &work.group, &work.uploads, &work.judge.plan, options).await?;
    let outcome = work.run(&mut decider, progress).await;
    progress.phase("bringing the clouds up to date");
    decider.finish().await;
    outcome?;
    Ok(work.done)
}

/// A redrive under way.
struct Work {
    judge: Judge,
    source: Source,
    group: Group,
    uploads: Arc<FanOut>,
    /// Bytes of rows that wait to be encoded.
    rows_bytes: usize,
    /// Files of the quarantine that need not be looked at any more: without a selected row, or written by this redrive.
    finished: HashSet<String>,
    done: Redriven,
}

impl Work {
    /// Everything that can be wrong with what was asked is found here, before anything is read or written.
    fn prepare(topology: &Topology, options: &RedriveOptions) -> Result<Self, Error> {
        let dataset = options.dataset.strip_suffix(crate::commit::QUARANTINE_SUFFIX);
        let dataset = dataset.unwrap_or(&options.dataset).to_owned();
        let plan = start::compile(topology)?.into_iter().find(|plan| plan.name == dataset);
        let plan = plan.ok_or_else(|| quarantine::listing::unknown_dataset(topology, &dataset))?;
        let topics = topology.sources[plan.source].topics.clone();
        let decoding = Decoding::start(topology)?;
        let condition =
            options.condition.as_deref().map(|sql| quarantine::listing::condition(sql, plan.keeps_headers()));
        let condition = condition.transpose()?;
        let clouds = match &options.clouds {
            Some(clouds) => clouds.clone(),
            None => start::open_clouds(topology)?,
        };
        let budget = Budget::new(topology.memory_bytes_max);
        let mut group = Group::new(&topology.name, clouds.clone());
        group.fill_bytes_per_second = topology.fill_bytes_per_second;
        Ok(Self {
            uploads: start::start_uploads(&clouds, &budget),
            source: Source { clouds, table: quarantine_of(&dataset) },
            judge: Judge { plan, decoding, topics, condition },
            group,
            rows_bytes: budget.rows_bytes,
            finished: HashSet::new(),
            done: Redriven { dataset, dry_run: options.dry_run, ..Redriven::default() },
        })
    }

    /// Says what would become of the rows.
    async fn rehearse(&mut self, progress: &dyn ProveProgress) -> Result<(), Error> {
        let files = self.source.newest_files().await?;
        evolve::refuse_changed_quarantine(&self.group, &self.judge.plan).await?;
        progress.to_hash(files.iter().map(|file| file.size).sum());
        for file in &files {
            let mut round = Round::begin(&self.judge.plan, None)?;
            self.take_file(&mut round, file, progress).await?;
            self.done.rows.add(round.counts());
        }
        Ok(())
    }

    /// Round after round, until no file holds a selected row.
    async fn run(&mut self, decider: &mut Decider, progress: &dyn ProveProgress) -> Result<(), Error> {
        let described = decider.described(&self.judge.plan).await?;
        let comparison = Comparison::of(&self.group, &self.judge.plan, described.as_ref()).await?;
        comparison.refuse_change()?;
        evolve::refuse_changed_quarantine(&self.group, &self.judge.plan).await?;
        let mut refusals = 0;
        loop {
            let head = decider.head(&self.judge.plan).await?;
            let why = match self.next_round(&head, progress).await {
                Ok(None) => return Ok(()),
                Ok(Some(round)) => self.decide(decider, round, &head).await?,
                Err(error @ Error::NoMajority { .. }) => {
                    // Files that were compacted away since may be deleted by now.
                    if decider.head(&self.judge.plan).await?.maintained == head.maintained {
                        return Err(error);
                    }
                    Some(error.to_string())
                }
                Err(error) => return Err(error),
            };
            let Some(why) = why else {
                refusals = 0;
                continue;
            };
            refusals += 1;
            if refusals == REFUSALS_MAX {
                let what = format!(
                    "planned {refusals} times, and not decided: {why}. What was decided before stays; run it again"
                );
                return Err(Error::NotDecided(what));
            }
            warn!(dataset = self.done.dataset, why, "the redrive was not decided, planning it again");
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    /// The rows of as many files as one decision takes, `None` when there is no selected row left.
    async fn next_round(
        &mut self,
        head: &TableHead,
        progress: &dyn ProveProgress,
    ) -> Result<Option<Round>, Error> {
        let files = self.source.files_at(head).await?;
        let files: Vec<LiveFile> =
            files.into_iter().filter(|file| !self.finished.contains(&file.path)).collect();
        progress.phase("redriving");
        progress.to_hash(files.iter().map(|file| file.size).sum());
        let mut round = Round::begin(&self.judge.plan, Some(&self.uploads))?;
        for file in &files {
            if !round.has_room() {
                break;
            }
            if !self.take_file(&mut round, file, progress).await? {
                self.finished.insert(file.path.clone());
            }
        }
        Ok((!round.taken_from().is_empty()).then_some(round))
    }

    /// Takes the rows of one file, if any is selected; whether one is.
    async fn take_file(
        &mut self,
        round: &mut Round,
        file: &LiveFile,
        progress: &dyn ProveProgress,
    ) -> Result<bool, Error> {
        let fetched = self.source.fetch(file).await?;
        progress.hashed(file.size);
        let again = fetched.try_clone().map_err(|error| Error::damaged(&file.path, error.to_string()))?;
        if !tokio::task::block_in_place(|| self.judge.selects_any(again, &file.path))? {
            return Ok(false);
        }
        round.open(file);
        let batches = source::batches(fetched).map_err(|why| Error::damaged(&file.path, why))?;
        for batch in batches {
            self.uploads.ready().await;
            tokio::task::block_in_place(|| {
                let rows = round::read(batch, &file.path)?;
                round.take(&mut self.judge, &rows, self.rows_bytes)
            })?;
        }
        Ok(true)
    }

    /// Has a round decided that was planned on `head`. Why it was not, if so: then it is to be planned again.
    async fn decide(
        &mut self,
        decider: &mut Decider,
        round: Round,
        head: &TableHead,
    ) -> Result<Option<String>, Error> {
        if !round.changes() {
            // Rejected again, for the same reasons: the rows are where they belong.
            self.finished.extend(round.taken_from().iter().map(|file| file.path.clone()));
            self.done.rows.add(round.counts());
            return Ok(None);
        }
        let staged = tokio::task::block_in_place(|| round.close(&self.judge.plan, head.maintained))?;
        let redrive = staged.redrive;
        match decider.decide(&redrive, staged.uploads).await? {
            Decided::Committed { sequence } => {
                let (rows, accepted) = (redrive.rows.input, redrive.rows.output);
                info!(dataset = redrive.dataset, sequence, rows, accepted, "quarantined rows redriven");
                self.finished.extend(redrive.stays.into_iter().map(|file| file.digest.path));
                self.done.rows.add(&redrive.rows);
                self.done.decisions.push(sequence);
                Ok(None)
            }
            Decided::Not(why) => Ok(Some(why)),
        }
    }
}
