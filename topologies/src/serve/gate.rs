//! A place among the queries that run, and what is counted of those.
//!
//! What one of them may use is the matter of [`QueryLimits`](crate::query::QueryLimits). What its operators hold without asking for
//! memory, a few batches each, is not counted there; the number of queries that run bounds it.

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::common::runtime::SpawnedTask;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{RecordBatchStream, SendableRecordBatchStream};
use futures::Stream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::Refusal;
use super::metrics::Running;
use crate::query::batch_bytes;
use crate::spec::LimitsOfQueries;

/// Lets as many queries run as may, and as many wait.
#[derive(Debug)]
pub(super) struct Gate {
    running: Arc<Semaphore>,
    running_max: usize,
    waiting: AtomicUsize,
    waiting_max: usize,
}

/// One that waits; it no longer does when this is dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Gate {
    pub(super) fn new(limits: &LimitsOfQueries) -> Self {
        Self {
            running: Arc::new(Semaphore::new(limits.running)),
            running_max: limits.running,
            waiting: AtomicUsize::new(0),
            waiting_max: limits.waiting,
        }
    }

    /// A place among those that run. It is given back when it is dropped.
    ///
    /// # Errors
    /// [`Refusal::TooMuch`] if too many wait already, or `deadline` passes.
    pub(super) async fn enter(&self, deadline: Instant) -> Result<OwnedSemaphorePermit, Refusal> {
        if let Ok(place) = self.running.clone().try_acquire_owned() {
            return Ok(place);
        }
        let _waiting = self.wait()?;
        let place = tokio::time::timeout_at(deadline, self.running.clone().acquire_owned()).await;
        let late = |_| Refusal::TooMuch {
            limit: "running",
            message: format!(
                "{} queries are running, and none ended while this one could wait; try again later",
                self.running_max
            ),
        };
        place.map_err(late)?.map_err(|_| Refusal::Unavailable("the server is stopping".to_owned()))
    }

    fn wait(&self) -> Result<Waiting<'_>, Refusal> {
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        let waiting = Waiting(&self.waiting);
        if before < self.waiting_max {
            return Ok(waiting);
        }
        Err(Refusal::TooMuch {
            limit: "waiting",
            message: format!(
                "{} queries are running and {} wait already; try again later",
                self.running_max, self.waiting_max
            ),
        })
    }
}

/// The rows of a query that has a place among those that run, and is counted.
///
/// Place and memory are given back at the end of the rows, or when something else ends the query; that needs nobody who asks for
/// rows: a client that stops reading would keep others from theirs.
pub(super) struct Counted {
    held: Arc<Mutex<Held>>,
    schema: SchemaRef,
    /// Waits for what ends the query early. It ends with this.
    _until: SpawnedTask<()>,
}

/// What ends a query before its last row: one word for metrics, and the error.
pub(super) type Early = (&'static str, DataFusionError);

/// What a query has while it runs.
struct Held {
    /// `None` after the end.
    rows: Option<SendableRecordBatchStream>,
    /// `None` after the end. Given back before anybody is told that the query has ended, so before what follows is dropped.
    place: Option<OwnedSemaphorePermit>,
    running: Running,
    /// Why it ended early, until somebody was told.
    error: Option<DataFusionError>,
    /// Who waits for the next row.
    waker: Option<Waker>,
}

impl Counted {
    /// The query ends with the error of `early`, if that comes first.
    pub(super) fn new(
        rows: SendableRecordBatchStream,
        running: Running,
        place: OwnedSemaphorePermit,
        early: impl Future<Output = Early> + Send + 'static,
    ) -> Self {
        let schema = rows.schema();
        let held = Held { rows: Some(rows), place: Some(place), running, error: None, waker: None };
        let held = Arc::new(Mutex::new(held));
        let until = held.clone();
        let until = SpawnedTask::spawn(async move {
            let (outcome, error) = early.await;
            lock(&until).end_early(outcome, error);
        });
        Self { held, schema, _until: until }
    }
}

fn lock(held: &Mutex<Held>) -> MutexGuard<'_, Held> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Held {
    fn end(&mut self, outcome: &str) {
        self.rows = None;
        self.place = None;
        self.running.ended(outcome);
    }

    fn end_early(&mut self, outcome: &str, error: DataFusionError) {
        if self.rows.is_some() {
            self.end(outcome);
            self.error = Some(error);
        }
        // Nothing else does: what would have was dropped.
        self.waker.take().into_iter().for_each(Waker::wake);
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        lock(&self.held).end("cancelled");
    }
}

impl Stream for Counted {
    type Item = Result<RecordBatch>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut held = lock(&self.held);
        let Some(rows) = held.rows.as_mut() else { return Poll::Ready(held.error.take().map(Err)) };
        let Poll::Ready(next) = rows.as_mut().poll_next(context) else {
            held.waker = Some(context.waker().clone());
            return Poll::Pending;
        };
        match &next {
            None => held.end("ok"),
            Some(Err(error)) => held.end(super::refusal::outcome_of(error)),
            Some(Ok(batch)) => held.running.rows(batch.num_rows() as u64, batch_bytes(batch) as u64),
        }
        Poll::Ready(next)
    }
}

impl RecordBatchStream for Counted {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }
}

#[cfg(test)]
mod tests;
