//! A query that is run on workers, and again when one of them is lost.

use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::SchemaRef;
use axum::http::HeaderMap;
use datafusion::dataframe::DataFrame;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::memory_pool::MemoryConsumer;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::{SendableRecordBatchStream, SessionState, SessionStateBuilder, TaskContext};
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::stream::RecordBatchReceiverStreamBuilder;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use datafusion_distributed::{DistributedExt, SessionStateBuilderExt, WorkerResolver};
use futures::StreamExt;
use tokio::sync::mpsc::Sender;
use tracing::{debug, warn};
use url::Url;

use super::Workers;
use super::metrics::Ran;
use super::stages::{Together, is_divided};
use super::tasks::TaskLimits;
use crate::query::is_the_callers;
use crate::query::limits::{
    QueryLimits, Watch, apart, aside, batch_bytes, begun, is_explained, limit_of, watched,
};

/// How often a query is tried on workers.
const ATTEMPTS_MAX: usize = 3;
/// Bytes of rows that are kept back: as long as there are no more, the query can be run again.
const KEPT_BYTES_MAX: usize = 16 << 20;

/// A query that was planned.
#[derive(Clone)]
pub(in crate::query) struct Query {
    pub(in crate::query) state: SessionState,
    pub(in crate::query) plan: LogicalPlan,
    /// What it runs in.
    pub(in crate::query) runtime: Arc<RuntimeEnv>,
    pub(in crate::query) limits: QueryLimits,
    pub(in crate::query) watch: Arc<Watch>,
}

/// One run of a query.
struct Attempt {
    rows: SendableRecordBatchStream,
    plan: Arc<dyn ExecutionPlan>,
    /// The workers that parts of it may run on; none: it runs here.
    urls: Vec<Url>,
}

/// How far an attempt came.
enum Handed {
    /// To its end, or until nobody takes rows any more.
    On,
    /// It failed before a row was handed on.
    Nothing(DataFusionError),
    /// It failed after some.
    Some(DataFusionError),
}

/// A worker was lost too late.
#[derive(Debug, thiserror::Error)]
#[error("a worker was lost after the first rows were handed on, ask again: {0}")]
struct Lost(String);

/// The workers of one attempt.
struct Fixed(Vec<Url>);

impl WorkerResolver for Fixed {
    fn get_urls(&self) -> Result<Vec<Url>> {
        Ok(self.0.clone())
    }
}

impl Query {
    /// Starts it: its rows, and the plan of the first attempt.
    pub(in crate::query) async fn start(self) -> Result<(SendableRecordBatchStream, Arc<dyn ExecutionPlan>)> {
        let workers = self.state.config().get_extension::<Workers>().filter(|_| !is_explained(&self.plan));
        let Some(workers) = workers else {
            let Attempt { rows, plan, .. } = self.here().await?;
            return Ok((rows, plan));
        };
        let urls = self.watch.within(workers.answering(false)).await?;
        let first = self.attempt(&workers, urls).await?;
        let plan = first.plan.clone();
        if first.urls.is_empty() {
            return Ok((first.rows, plan));
        }
        let mut rows = RecordBatchReceiverStreamBuilder::new(first.rows.schema(), 1);
        let sender = rows.tx();
        let _apart = apart()?;
        rows.spawn(async move { self.hand_on(&workers, first, sender).await });
        Ok((rows.build(), plan))
    }

    /// Hands on the rows of `attempt`, or of another one.
    async fn hand_on(
        self,
        workers: &Arc<Workers>,
        mut attempt: Attempt,
        sender: Sender<Result<RecordBatch>>,
    ) -> Result<()> {
        let schema = attempt.rows.schema();
        for number in 1.. {
            let handed = self.pass(&mut attempt, &schema, &sender).await;
            let is_here = attempt.urls.is_empty();
            let error = match handed {
                Handed::On => return Ok(()),
                Handed::Nothing(error) if !is_here => error,
                Handed::Some(error) if !is_here && limit_of(&error).is_none() && !is_the_callers(&error) => {
                    return Err(DataFusionError::External(Box::new(Lost(crate::chain_of(&error)))));
                }
                Handed::Nothing(error) | Handed::Some(error) => return Err(error),
            };
            self.watch.check()?;
            let answering = self.watch.within(workers.answering(true)).await?;
            let left: Vec<Url> = attempt.urls.iter().filter(|url| answering.contains(url)).cloned().collect();
            let is_lost = left.len() < attempt.urls.len();
            // With all of them there, it is not for want of a worker that the query fails.
            let urls = if is_lost && number < ATTEMPTS_MAX { left } else { Vec::new() };
            let why = crate::chain_of(&error);
            warn!(
                attempt = number,
                lost = is_lost,
                workers = urls.len(),
                why,
                "a query on workers failed and is run again"
            );
            workers.metrics.lost();
            // Gives back what it holds first.
            drop(attempt);
            attempt = self.attempt(workers, urls).await?;
        }
        Ok(())
    }

    /// Hands on the rows of `attempt`; if it runs on workers, none before there are many or all of them.
    async fn pass(
        &self,
        attempt: &mut Attempt,
        schema: &SchemaRef,
        sender: &Sender<Result<RecordBatch>>,
    ) -> Handed {
        let memory = MemoryConsumer::new("rows kept back").register(&self.runtime.memory_pool);
        let mut kept = Vec::new();
        let mut kept_bytes = 0;
        let mut is_begun = attempt.urls.is_empty();
        while let Some(batch) = attempt.rows.next().await {
            match batch.and_then(|batch| declared(batch, schema)) {
                Ok(batch) if is_begun => {
                    if sender.send(Ok(batch)).await.is_err() {
                        return Handed::On;
                    }
                }
                Ok(batch) => {
                    let bytes = batch_bytes(&batch);
                    kept_bytes += bytes;
                    kept.push(batch);
                    is_begun = kept_bytes > KEPT_BYTES_MAX || memory.try_grow(bytes).is_err();
                    if is_begun {
                        for batch in kept.drain(..) {
                            if sender.send(Ok(batch)).await.is_err() {
                                return Handed::On;
                            }
                        }
                        memory.free();
                    }
                }
                Err(error) if is_begun => return Handed::Some(error),
                Err(error) => return Handed::Nothing(error),
            }
        }
        for batch in kept {
            if sender.send(Ok(batch)).await.is_err() {
                break;
            }
        }
        Handed::On
    }

    /// Starts it on the workers at `urls`, or here where that cannot be.
    async fn attempt(&self, workers: &Arc<Workers>, urls: Vec<Url>) -> Result<Attempt> {
        if !urls.is_empty() {
            match self.on(workers, urls).await {
                Ok(Some(attempt)) => {
                    workers.metrics.ran(Ran::OnWorkers);
                    return Ok(attempt);
                }
                Ok(None) => {}
                // Whatever it is, it is said again where it is the query's.
                Err(error) => {
                    debug!(error = crate::chain_of(&error), "a query cannot be divided");
                }
            }
        }
        workers.metrics.ran(Ran::Here);
        self.here().await
    }

    /// Starts it in this process.
    async fn here(&self) -> Result<Attempt> {
        let (state, logical) = (self.state.clone(), self.plan.clone());
        let (rows, plan) = begun(state, logical, self.runtime.clone(), &self.limits, &self.watch).await?;
        Ok(Attempt { rows, plan, urls: Vec::new() })
    }

    /// Starts it on the workers at `urls`; `None` if no part of it is for them.
    async fn on(&self, workers: &Arc<Workers>, urls: Vec<Url>) -> Result<Option<Attempt>> {
        let state = self.divided(workers, urls.clone())?;
        let context = Arc::new(TaskContext::from(&state).with_runtime(self.runtime.clone()));
        let (logical, watch) = (self.plan.clone(), self.watch.clone());
        let copied_bytes_max = self.limits.copied_bytes_max;
        let planned = async move {
            let plan = DataFrame::new(state.clone(), logical).create_physical_plan().await?;
            match is_divided(&plan, &state)? {
                true => watched(plan, &watch, copied_bytes_max).map(Some),
                false => Ok(None),
            }
        };
        let Some(plan) = aside(&self.watch, planned).await? else { return Ok(None) };
        let _apart = apart()?;
        let rows = execute_stream(plan.clone(), context)?;
        Ok(Some(Attempt { rows, plan, urls }))
    }

    /// A session that divides plans among the workers at `urls`.
    fn divided(&self, workers: &Workers, urls: Vec<Url>) -> Result<SessionState> {
        // With one partition, nothing would say what may be divided.
        let partitions = self.state.config().target_partitions().max(2);
        let share = workers.share_bytes.div_ceil(partitions as u64);
        let limits = TaskLimits::of(&self.limits, &self.watch, self.state.config());
        let mut headers = HeaderMap::new();
        headers.insert(TaskLimits::HEADER, limits.written()?);
        let mut builder = SessionStateBuilder::new_from_existing(self.state.clone())
            .with_distributed_worker_resolver(Fixed(urls))
            .with_distributed_channel_resolver(workers.channels.clone())
            .with_distributed_desired_task_count_handler(Together)
            .with_distributed_passthrough_headers(headers)?
            .with_distributed_metrics_collection(false)?
            .with_distributed_file_scan_config_bytes_per_partition(
                usize::try_from(share).unwrap_or(usize::MAX),
            )?
            .with_distributed_planner();
        let config = builder.config().get_or_insert_default();
        config.options_mut().execution.target_partitions = partitions;
        Ok(builder.build())
    }
}

/// `batch` with the schema of the first attempt: another plan may know better what is never null.
fn declared(batch: RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    if batch.schema_ref() == schema {
        return Ok(batch);
    }
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(schema.clone(), batch.columns().to_vec(), &options)?)
}
