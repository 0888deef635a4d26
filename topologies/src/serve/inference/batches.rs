//! Requests of one model that are answered in one run.
//!
//! ```text
//! request ─▶ waits until there are enough rows, or for so long ─▶ those that can be scored, together ─▶ each its own rows
//! ```
//!
//! Requests stand in a run in the order in which they came. What is wrong with one is found before they are put together; a run
//! that fails all the same is done again for each of them alone, so that the others have their answers.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use prometheus::Histogram;
use tokio::sync::{Semaphore, oneshot};

use crate::inference::{Bound, Error, Output};

/// What a model says of the rows of one request.
type Answer = Result<Vec<Output>, Error>;

/// The requests of one version of a model.
#[derive(Debug)]
pub(super) struct Batches {
    bound: Arc<Bound>,
    rows_max: usize,
    wait: Duration,
    /// As many as the model can do at the same time.
    runs: Semaphore,
    waiting: Mutex<Waiting>,
    /// Counts requests of a run.
    counted: Histogram,
}

#[derive(Debug, Default)]
struct Waiting {
    requests: Vec<Request>,
    rows: usize,
    /// Tells those that wait from those that waited before.
    round: u64,
}

#[derive(Debug)]
struct Request {
    features: RecordBatch,
    deadline: Instant,
    answer: oneshot::Sender<Answer>,
}

impl Waiting {
    fn take(&mut self) -> Vec<Request> {
        self.round += 1;
        self.rows = 0;
        std::mem::take(&mut self.requests)
    }
}

/// Returns when nobody waits for any of `requests`.
async fn all_gone(requests: &mut [Request]) {
    for request in requests {
        request.answer.closed().await;
    }
}

impl Batches {
    /// Those of `bound`, of at most `rows_max` rows unless one request has more, for which a request waits no longer than `wait`.
    pub(super) fn new(bound: Arc<Bound>, rows_max: usize, wait: Duration, counted: Histogram) -> Self {
        let runs = Semaphore::new(bound.session.runs_max());
        Self { bound, rows_max, wait, runs, waiting: Mutex::default(), counted }
    }

    /// What the model says of `features` before `deadline`.
    ///
    /// # Errors
    /// Those of a [session](crate::inference::Session), of this request alone.
    pub(super) async fn answer(self: &Arc<Self>, features: RecordBatch, deadline: Instant) -> Answer {
        let (answer, answered) = oneshot::channel();
        let request = Request { features, deadline, answer };
        match self.rows_max {
            0 | 1 => self.start(vec![request]),
            _ => self.join(request),
        }
        match tokio::time::timeout_at(deadline.into(), answered).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(Error::Run("the run was given up".to_owned())),
            Err(_) => Err(Error::TimedOut(Duration::ZERO)),
        }
    }

    /// Lets a request wait for others, and starts what is complete.
    fn join(self: &Arc<Self>, request: Request) {
        let rows = request.features.num_rows();
        let mut complete = Vec::new();
        let mut waiting = self.lock();
        if !waiting.requests.is_empty() && waiting.rows + rows > self.rows_max {
            complete.push(waiting.take());
        }
        waiting.rows += rows;
        waiting.requests.push(request);
        if waiting.rows >= self.rows_max {
            complete.push(waiting.take());
        } else if waiting.requests.len() == 1 {
            self.start_later(waiting.round);
        }
        drop(waiting);
        for requests in complete {
            self.start(requests);
        }
    }

    /// Starts what waits in `round` when its first request has waited long enough.
    fn start_later(self: &Arc<Self>, round: u64) {
        let this = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(this.wait).await;
            let requests = {
                let mut waiting = this.lock();
                if waiting.round == round { waiting.take() } else { Vec::new() }
            };
            if !requests.is_empty() {
                this.start(requests);
            }
        });
    }

    /// Answers `requests` in one run, as soon as the model can.
    fn start(self: &Arc<Self>, requests: Vec<Request>) {
        let this = self.clone();
        tokio::spawn(async move {
            let mut requests = requests;
            let _run = tokio::select! {
                run = this.runs.acquire() => run,
                // Nobody keeps what nobody waits for in memory.
                () = all_gone(&mut requests) => return,
            };
            let batches = this.clone();
            let ran = tokio::task::spawn_blocking(move || batches.run(requests)).await;
            if let Err(died) = ran {
                tracing::error!(%died, "a run of a model ended early");
            }
        });
    }

    /// Answers `requests`. Whoever does not wait any more is passed over.
    fn run(&self, requests: Vec<Request>) {
        let mut requests: Vec<Request> =
            requests.into_iter().filter(|request| !request.answer.is_closed()).collect();
        if requests.is_empty() {
            return;
        }
        self.counted.observe(requests.len() as f64);
        if requests.len() > 1 {
            requests = self.checked(requests);
            if let Some(answers) = self.together(&requests) {
                for (request, answer) in requests.into_iter().zip(answers) {
                    // Whoever has gone does not need it.
                    let _ = request.answer.send(Ok(answer));
                }
                return;
            }
        }
        for Request { features, deadline, answer } in requests {
            if !answer.is_closed() {
                let _ = answer.send(self.bound.session.outputs(&features, deadline));
            }
        }
    }

    /// The requests that can be scored, with columns of the same types. The others have their answers.
    fn checked(&self, requests: Vec<Request>) -> Vec<Request> {
        let mut checked = Vec::with_capacity(requests.len());
        for request in requests {
            match self.bound.session.checked(&request.features) {
                Ok(features) => checked.push(Request { features, ..request }),
                Err(error) => _ = request.answer.send(Err(error)),
            }
        }
        checked
    }

    /// The answers of all of them, from one run; `None` if it failed.
    fn together(&self, requests: &[Request]) -> Option<Vec<Vec<Output>>> {
        let schema = requests.first()?.features.schema();
        // Whoever has less time does not take it from the others, and does not wait longer either.
        let deadline = requests.iter().map(|request| request.deadline).max()?;
        let all = concat_batches(&schema, requests.iter().map(|request| &request.features)).ok()?;
        let outputs = self.bound.session.outputs(&all, deadline).ok()?;
        let mut first = 0;
        let answers = requests.iter().map(|request| {
            let rows = first..first + request.features.num_rows();
            first = rows.end;
            outputs.iter().map(|output| output.slice(rows.clone())).collect()
        });
        Some(answers.collect())
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
