//! What one query may cost, and what it may show.
//!
//! Whoever asks is not trusted: a query of a few words can ask for a plan of a billion nodes, for a text of gigabytes, or for rows
//! without end. Each of these is refused at the first place where it can be seen, before anything of that size is made:
//!
//! | what | where |
//! |---|---|
//! | a text that the parser would try to read in too many ways | [`dialect`] |
//! | a text, a tree of expressions or a list that is too large; relations that multiply from one `WITH` to the next; statements that are no queries | [`survey`], on the syntax tree |
//! | expressions that double whenever they are put in the place of a column; settings; functions that tell about the machine | [`plan`], before the plan is optimised |
//! | functions that make much of little, patterns that take long to compile | [`functions`], at each call |
//! | operators that do not count the memory they hold, or do not come back for minutes | [`mod@watched`], between operators |
//! | time, memory, rows and bytes of the whole | here |
//!
//! Planning runs on a thread of its own, whose stack is large, and execution in a task of its own, on threads that nothing else runs
//! on: what takes too long is answered in time, whatever it is doing. Both end soon afterwards: planning because its size is
//! bounded, execution because every operator that can go on for long asks [`Watch`] whether it still may.

mod dialect;
mod functions;
mod patterns;
mod plan;
mod pool;
mod shown;
mod sizes;
mod survey;
#[cfg(test)]
mod tests;
mod watched;

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use datafusion::common::runtime::SpawnedTask;
use datafusion::dataframe::DataFrame;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::{SendableRecordBatchStream, SessionState, TaskContext};
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use datafusion::prelude::SessionContext;
use futures::{StreamExt, stream};
use tokio::runtime::{Builder, EnterGuard, Handle, Runtime};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

pub(crate) use self::dialect::BoundedDialect;
pub(super) use self::functions::unnamed as unnamed_functions;
pub(crate) use self::plan::check as check_plan;
pub(crate) use self::survey::check as check_statement;

pub(super) use self::pool::runtime_of;
use self::shown::without_files;
pub(crate) use self::sizes::batch_bytes;
pub(super) use self::watched::watched;
use crate::error::Error;

/// Stack of a thread that plans. Only what is used of it becomes memory.
const PLANNING_STACK_BYTES: usize = 128 << 20;
/// Bytes of rows that are handed on at a time, so that writing them as text needs little memory too.
const PIECE_BYTES_MAX: usize = 8 << 20;
/// What DataFusion says of temporary files that are too large.
const SPILLED_TOO_MUCH: &str = "used disk space during the spilling process";
/// Temporary files of a query that has no limit of its own.
const SPILL_BYTES_MAX: u64 = 32 << 30;

/// What one query may cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueryLimits {
    /// From the question to the last row; `None` is without end.
    pub time: Option<Duration>,
    /// Memory of its operators, as far as there is so much in what all queries share.
    pub memory_bytes_max: u64,
    /// Its temporary files, where what does not fit into memory is put.
    pub spill_bytes_max: u64,
    /// Rows of the answer.
    pub rows_max: u64,
    /// Bytes of the answer, as it lies in memory.
    pub bytes_max: u64,
    /// Bytes of a row, or of a constant, that a batch may have many copies of: beside the rows that it is joined with, or that come
    /// out of a list in it.
    pub copied_bytes_max: usize,
    /// Bytes of the question.
    pub sql_bytes_max: usize,
    /// Whether settings, versions of programs and paths of files are shown to whoever asks.
    pub reveals: bool,
}

impl Default for QueryLimits {
    /// Those of somebody who holds the topology: nothing is hidden, and time and rows are theirs.
    fn default() -> Self {
        Self {
            time: None,
            memory_bytes_max: u64::MAX,
            spill_bytes_max: SPILL_BYTES_MAX,
            rows_max: u64::MAX,
            bytes_max: u64::MAX,
            copied_bytes_max: 4 << 20,
            sql_bytes_max: 1 << 20,
            reveals: true,
        }
    }
}

impl QueryLimits {
    /// Those of somebody who asks over the network.
    pub fn served() -> Self {
        Self {
            time: Some(Duration::from_secs(60)),
            memory_bytes_max: 256 << 20,
            spill_bytes_max: 4 << 30,
            rows_max: 10_000_000,
            bytes_max: 1 << 30,
            // A batch has 8,192 rows.
            copied_bytes_max: 32 << 10,
            sql_bytes_max: 256 << 10,
            reveals: false,
        }
    }

    /// Refuses a text that is too long to be parsed.
    pub(super) fn check_text(&self, sql: &str) -> Result<()> {
        if sql.len() <= self.sql_bytes_max {
            return Ok(());
        }
        Err(exceeded("sql", format!("the query has {} bytes, more than {}", sql.len(), self.sql_bytes_max)))
    }
}

/// The refusal of a text that the parser was ended in.
pub(crate) fn too_nested() -> DataFusionError {
    exceeded(
        "depth",
        "too much is in one another in the query, or there is a mistake deep inside: the parser gave up"
            .to_owned(),
    )
}

/// A limit that a query met.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
struct Exceeded {
    limit: &'static str,
    message: String,
}

/// The error of a query that met `limit`.
pub(super) fn exceeded(limit: &'static str, message: String) -> DataFusionError {
    DataFusionError::External(Box::new(Exceeded { limit, message }))
}

/// Our error, if a limit is what stopped a query.
pub(crate) fn limit_of(error: &DataFusionError) -> Option<Error> {
    match error.find_root() {
        DataFusionError::External(inner) => {
            let Exceeded { limit, message } = inner.downcast_ref::<Exceeded>()?;
            Some(Error::Limit { limit, message: message.clone() })
        }
        DataFusionError::ResourcesExhausted(text) => Some(out_of_memory(text)),
        // What is spilled is written by others, who keep the text only.
        DataFusionError::ArrowError(arrow, _) => match arrow.as_ref() {
            ArrowError::IoError(text, _) if text.contains(SPILLED_TOO_MUCH) => Some(out_of_memory(text)),
            _ => None,
        },
        _ => None,
    }
}

fn out_of_memory(text: &str) -> Error {
    let why = text.lines().next().unwrap_or_default();
    let message = format!("the query needs more memory or temporary files than it may have: {why}");
    Error::Limit { limit: "memory", message }
}

/// Adds to a session what bounds its functions.
pub(crate) fn bound(session: &SessionContext) {
    functions::bound(session);
}

/// Whether a query may go on.
#[derive(Debug)]
pub(crate) struct Watch {
    time: Option<Duration>,
    deadline: Option<Instant>,
    is_dropped: AtomicBool,
}

impl Watch {
    /// The time begins now.
    pub(crate) fn start(limits: &QueryLimits) -> Arc<Self> {
        let deadline = limits.time.and_then(|time| Instant::now().checked_add(time));
        Arc::new(Self { time: limits.time, deadline, is_dropped: AtomicBool::new(false) })
    }

    /// The time that is left; `None` is without end.
    pub(super) fn left(&self) -> Option<Duration> {
        self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// Refuses to go on after the end of the time, or when nobody waits for the answer.
    pub(super) fn check(&self) -> Result<()> {
        if self.is_dropped.load(Ordering::Relaxed) {
            return Err(DataFusionError::Execution("the query was cancelled".to_owned()));
        }
        match self.deadline {
            Some(deadline) if Instant::now() >= deadline => Err(self.too_late()),
            _ => Ok(()),
        }
    }

    fn stop(&self) {
        self.is_dropped.store(true, Ordering::Relaxed);
    }

    /// Waits until the time is over, and says so.
    pub(crate) async fn over(&self) -> DataFusionError {
        match self.deadline {
            Some(deadline) => tokio::time::sleep_until(deadline).await,
            None => std::future::pending().await,
        }
        self.too_late()
    }

    fn too_late(&self) -> DataFusionError {
        let time = self.time.unwrap_or_default();
        exceeded("time", format!("the query took longer than {}", humantime::format_duration(time)))
    }

    /// Waits for `future` as long as there is time.
    pub(crate) async fn within<T>(&self, future: impl Future<Output = T>) -> Result<T> {
        match self.deadline {
            Some(deadline) => timeout_at(deadline, future).await.map_err(|_| self.too_late()),
            None => Ok(future.await),
        }
    }
}

/// Runs `work`, which plans, on a thread with a stack for it, and waits no longer than there is time.
pub(crate) async fn aside<T: Send + 'static>(
    watch: &Watch,
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    let (sender, receiver) = oneshot::channel();
    let runtime = Handle::current();
    let thread = std::thread::Builder::new().name("plan".to_owned()).stack_size(PLANNING_STACK_BYTES);
    let spawned = thread.spawn(move || {
        // Nobody waits any more if this is not taken.
        let _ = sender.send(runtime.block_on(work));
    });
    spawned.map_err(DataFusionError::IoError)?;
    let planned = watch.within(receiver).await?;
    planned.unwrap_or_else(|_| Err(DataFusionError::Internal("planning the query ended early".to_owned())))
}

/// The threads that queries run on. They are no others': an operator may not come back for seconds, and as many queries as there are
/// threads would keep everybody waiting, also who wants to cancel them.
fn workers() -> Result<&'static Handle> {
    static WORKERS: LazyLock<std::io::Result<Runtime>> =
        LazyLock::new(|| Builder::new_multi_thread().thread_name("query").enable_all().build());
    let workers = WORKERS.as_ref().map(Runtime::handle);
    workers.map_err(|error| DataFusionError::IoError(std::io::Error::new(error.kind(), error.to_string())))
}

/// Until this is dropped, what is spawned is spawned on the threads that queries run on.
pub(super) fn apart() -> Result<EnterGuard<'static>> {
    workers().map(Handle::enter)
}

/// Starts a plan within `limits`, whatever it reads: its rows, and how they are made.
pub(crate) async fn started(
    state: SessionState,
    plan: LogicalPlan,
    limits: &QueryLimits,
    watch: Arc<Watch>,
) -> Result<(SendableRecordBatchStream, Arc<dyn ExecutionPlan>)> {
    let runtime = runtime_of(state.runtime_env(), limits)?;
    let (rows, physical) = begun(state, plan.clone(), runtime, limits, &watch).await?;
    Ok((limited(rows, &plan, limits, watch)?, physical))
}

/// The same without limits of the rows.
pub(super) async fn begun(
    state: SessionState,
    plan: LogicalPlan,
    runtime: Arc<RuntimeEnv>,
    limits: &QueryLimits,
    watch: &Arc<Watch>,
) -> Result<(SendableRecordBatchStream, Arc<dyn ExecutionPlan>)> {
    let context = Arc::new(TaskContext::from(&state).with_runtime(runtime));
    let (checks, copied_bytes_max) = (watch.clone(), limits.copied_bytes_max);
    let planned = async move {
        let frame = DataFrame::new(state, plan);
        watched(frame.create_physical_plan().await?, &checks, copied_bytes_max)
    };
    let physical = aside(watch, planned).await?;
    let _apart = apart()?;
    let rows = execute_stream(physical.clone(), context)?;
    Ok((rows, physical))
}

/// The rows of a query within its limits. They are made in a task of their own, which ends when they are dropped.
pub(super) fn limited(
    rows: SendableRecordBatchStream,
    plan: &LogicalPlan,
    limits: &QueryLimits,
    watch: Arc<Watch>,
) -> Result<SendableRecordBatchStream> {
    let _apart = apart()?;
    let schema = rows.schema();
    let (sender, receiver) = mpsc::channel(1);
    let state = Limited {
        receiver,
        task: Some(SpawnedTask::spawn(pump(rows, sender))),
        watch,
        limits: limits.clone(),
        rows: 0,
        bytes: 0,
        is_redacted: is_explained(plan) && !limits.reveals,
        pieces: Vec::new(),
    };
    let limited = stream::unfold(Some(state), |state| async {
        let mut state = state?;
        match state.next().await {
            Ok(Some(batch)) => Some((Ok(batch), Some(state))),
            Ok(None) => None,
            // Nothing after an error.
            Err(error) => Some((Err(error), None)),
        }
    });
    // Whoever asks after the end is told so again.
    Ok(Box::pin(RecordBatchStreamAdapter::new(schema, limited.fuse())))
}

/// Whether what is asked for is the plan of a query.
pub(super) fn is_explained(plan: &LogicalPlan) -> bool {
    matches!(plan, LogicalPlan::Explain(_) | LogicalPlan::Analyze(_))
}

/// Sends batches until there are no more, or nobody takes them.
async fn pump(mut rows: SendableRecordBatchStream, sender: mpsc::Sender<Result<RecordBatch>>) {
    while let Some(batch) = rows.next().await {
        let is_last = batch.is_err();
        if sender.send(batch).await.is_err() || is_last {
            return;
        }
    }
}

struct Limited {
    receiver: mpsc::Receiver<Result<RecordBatch>>,
    task: Option<SpawnedTask<()>>,
    watch: Arc<Watch>,
    limits: QueryLimits,
    rows: u64,
    bytes: u64,
    is_redacted: bool,
    /// Of the batch before, last first.
    pieces: Vec<RecordBatch>,
}

impl Drop for Limited {
    fn drop(&mut self) {
        // Aborting the task does nothing before it yields.
        self.watch.stop();
    }
}

impl Limited {
    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        if let Some(piece) = self.pieces.pop() {
            return Ok(Some(piece));
        }
        let Some(batch) = self.watch.within(self.receiver.recv()).await? else {
            return match self.task.take() {
                Some(task) => {
                    let ended_early = |_| DataFusionError::Internal("the query ended early".to_owned());
                    task.join().await.map_err(ended_early).map(|()| None)
                }
                None => Ok(None),
            };
        };
        let batch = batch?;
        let bytes = batch_bytes(&batch);
        self.rows += batch.num_rows() as u64;
        self.bytes = self.bytes.saturating_add(bytes as u64);
        if self.rows > self.limits.rows_max {
            return Err(exceeded(
                "rows",
                format!("the answer has more than {} rows: add LIMIT", self.limits.rows_max),
            ));
        }
        if self.bytes > self.limits.bytes_max {
            return Err(exceeded(
                "bytes",
                format!("the answer has more than {} bytes: ask for less", self.limits.bytes_max),
            ));
        }
        let batch = if self.is_redacted { without_files(&batch)? } else { batch };
        self.pieces = pieces(&batch, bytes);
        Ok(self.pieces.pop())
    }
}

/// `batch` in pieces of bounded size, last first.
fn pieces(batch: &RecordBatch, bytes: usize) -> Vec<RecordBatch> {
    let count = bytes.div_ceil(PIECE_BYTES_MAX).max(1);
    let rows = batch.num_rows().div_ceil(count).max(1);
    let mut pieces = Vec::new();
    let mut begin = 0;
    while begin < batch.num_rows() || pieces.is_empty() {
        let length = rows.min(batch.num_rows() - begin);
        pieces.push(batch.slice(begin, length));
        begin += rows;
    }
    pieces.reverse();
    pieces
}
