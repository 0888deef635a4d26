//! What one query may use: a place among those that run, memory of the common budget, time, rows and bytes.
//!
//! Memory is what operators of the engine ask for before they hold it, such as hash tables and buffers of sorts. What they hold
//! without asking, a few batches each, is not counted; the number of queries that run bounds it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use arrow::array::{Array, RecordBatch};
use arrow::datatypes::SchemaRef;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::memory_pool::{
    GreedyMemoryPool, MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation,
};
use datafusion::execution::{RecordBatchStream, SendableRecordBatchStream};
use futures::Stream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};

use super::Refusal;
use super::metrics::Running;
use crate::query::LimitReached;
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

/// The memory of one query: a share of its own, and within what all of them have.
#[derive(Debug)]
pub(super) struct QueryPool {
    own: GreedyMemoryPool,
    common: Arc<dyn MemoryPool>,
    bytes_max: usize,
}

impl QueryPool {
    pub(super) fn new(bytes_max: u64, common: &Arc<dyn MemoryPool>) -> Self {
        let bytes_max = usize::try_from(bytes_max).unwrap_or(usize::MAX);
        Self { own: GreedyMemoryPool::new(bytes_max), common: common.clone(), bytes_max }
    }
}

impl std::fmt::Display for QueryPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the memory of one query")
    }
}

impl MemoryPool for QueryPool {
    fn name(&self) -> &str {
        "query"
    }

    fn register(&self, consumer: &MemoryConsumer) {
        self.common.register(consumer);
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        self.common.unregister(consumer);
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        self.own.grow(reservation, additional);
        self.common.grow(reservation, additional);
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        self.own.shrink(reservation, shrink);
        self.common.shrink(reservation, shrink);
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        self.own.try_grow(reservation, additional)?;
        self.common
            .try_grow(reservation, additional)
            .inspect_err(|_| self.own.shrink(reservation, additional))
    }

    fn reserved(&self) -> usize {
        self.own.reserved()
    }

    fn memory_limit(&self) -> MemoryLimit {
        MemoryLimit::Finite(self.bytes_max)
    }
}

/// The rows of a query within its limits. An error ends them.
pub(super) struct Limited {
    /// `None` after the end.
    rows: Option<SendableRecordBatchStream>,
    schema: SchemaRef,
    deadline: Pin<Box<Sleep>>,
    limits: LimitsOfQueries,
    rows_seen: u64,
    bytes_seen: u64,
    /// `None` after the end. Given back before anybody is told that the query has ended, so before what follows is dropped.
    place: Option<OwnedSemaphorePermit>,
    running: Running,
}

impl Limited {
    pub(super) fn new(
        rows: SendableRecordBatchStream,
        deadline: Instant,
        limits: LimitsOfQueries,
        running: Running,
        place: OwnedSemaphorePermit,
    ) -> Self {
        let schema = rows.schema();
        let deadline = Box::pin(tokio::time::sleep_until(deadline));
        Self {
            rows: Some(rows),
            schema,
            deadline,
            limits,
            rows_seen: 0,
            bytes_seen: 0,
            running,
            place: Some(place),
        }
    }

    /// Counts a batch, unless there are too many by now.
    fn count(&mut self, batch: &RecordBatch) -> Result<(), LimitReached> {
        self.rows_seen = self.rows_seen.saturating_add(batch.num_rows() as u64);
        self.bytes_seen = self.bytes_seen.saturating_add(bytes_of(batch));
        if self.rows_seen > self.limits.rows {
            let message = format!(
                "the answer has more than {} rows: add LIMIT or a condition, or aggregate",
                self.limits.rows
            );
            return Err(LimitReached { limit: "rows", message });
        }
        if self.bytes_seen > self.limits.bytes {
            let message = format!(
                "the answer has more than {} bytes: select fewer columns or rows, or aggregate",
                self.limits.bytes
            );
            return Err(LimitReached { limit: "bytes", message });
        }
        self.running.rows(batch.num_rows() as u64, bytes_of(batch));
        Ok(())
    }

    fn end(&mut self, outcome: &str) {
        self.rows = None;
        self.place = None;
        self.running.ended(outcome);
    }

    fn fail(&mut self, error: DataFusionError) -> Poll<Option<Result<RecordBatch>>> {
        self.end(super::refusal::outcome_of(&error));
        Poll::Ready(Some(Err(error)))
    }
}

/// The bytes of a batch's own rows, whatever its buffers hold beside them.
fn bytes_of(batch: &RecordBatch) -> u64 {
    let sizes = batch.columns().iter().map(|column| column.to_data().get_slice_memory_size());
    sizes.map(|size| size.unwrap_or_default() as u64).sum()
}

/// That a query took too long.
pub(super) fn too_long(time: Duration) -> LimitReached {
    let time = humantime::format_duration(time);
    let message = format!("the query took longer than {time}: ask for less, or aggregate");
    LimitReached { limit: "time", message }
}

impl Stream for Limited {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.rows.is_none() {
            return Poll::Ready(None);
        }
        let is_late = self.deadline.as_mut().poll(context).is_ready();
        // The timer is only to wake the reader up: it may be a moment late itself.
        if is_late || self.deadline.deadline() <= Instant::now() {
            let error = DataFusionError::External(Box::new(too_long(self.limits.time)));
            return self.fail(error);
        }
        let Some(rows) = self.rows.as_mut() else { return Poll::Ready(None) };
        match rows.as_mut().poll_next(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(None) => {
                self.end("ok");
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => self.fail(error),
            Poll::Ready(Some(Ok(batch))) => match self.count(&batch) {
                Ok(()) => Poll::Ready(Some(Ok(batch))),
                Err(reached) => self.fail(DataFusionError::External(Box::new(reached))),
            },
        }
    }
}

impl RecordBatchStream for Limited {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }
}

#[cfg(test)]
mod tests;
