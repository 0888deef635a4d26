//! One model, loaded: checked when it comes, bounded while it runs.

use std::fmt;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{Field, Schema};
use ort::session::{RunOptions, Session as OrtSession, SessionOutputs};

use super::answers::{Answered, Answers};
use super::idle::{Idle, Missing};
use super::matrix::{Elements, Layout};
use super::outputs::{Collected, Output};
use super::watchdog::watch;
use super::{Error, InferenceLimits, Predictions, Runtime, claims};
use crate::models::Signature;

/// One model, ready to answer. Cheap to clone. [`run`](Self::run) may be called from many threads, and belongs on one that
/// may be blocked.
#[derive(Clone)]
pub struct Session(Arc<Loaded>);

struct Loaded {
    layout: Layout,
    answers: Answers,
    signature: Signature,
    limits: InferenceLimits,
    /// Those that nobody uses now: ONNX Runtime runs one thing at a time in each.
    idle: Idle<OrtSession>,
}

/// Takes what a graph says of so many rows.
type Take<'a> = &'a mut dyn FnMut(&SessionOutputs<'_>, usize) -> Result<(), String>;

/// Features as the model takes them, prepared by [`Session::prepare`].
#[derive(Debug, Clone)]
pub struct Prepared {
    elements: Vec<Elements>,
    rows: usize,
}

impl Prepared {
    /// The numbers that the model is given for a row, input after input.
    pub(crate) fn vector(&self, row: usize) -> Vec<f64> {
        self.elements.iter().flat_map(|elements| elements.row(row, self.rows)).collect()
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("layout", &self.0.layout).finish_non_exhaustive()
    }
}

impl Session {
    /// Loads `onnx`, whose inputs and outputs must be those of `signature`.
    ///
    /// # Errors
    /// [`Error::Model`] if the file is damaged, claims more than `limits` allow, or has other inputs and outputs.
    pub fn new(
        runtime: &Runtime,
        onnx: &[u8],
        signature: &Signature,
        limits: &InferenceLimits,
    ) -> Result<Self, Error> {
        claims::check(onnx, signature, limits.model_bytes_max).map_err(Error::Model)?;
        let layout = Layout::new(signature, limits.nulls, limits.nan_allowed).map_err(Error::Model)?;
        let answers = Answers::new(signature).map_err(Error::Model)?;
        let mut idle = Vec::new();
        for _ in 0..limits.sessions.max(1) {
            idle.push(load(runtime, onnx, limits)?);
        }
        let (signature, limits, idle) = (signature.clone(), limits.clone(), Idle::new(idle));
        Ok(Self(Arc::new(Loaded { layout, answers, signature, limits, idle })))
    }

    /// How many features it takes.
    pub fn features(&self) -> usize {
        self.0.layout.features()
    }

    /// Scores `features`: one column per feature, in the order of the manifest, one row per element.
    ///
    /// # Errors
    /// [`Error::Features`] for other columns, [`Error::Row`] for the first row that cannot be scored, [`Error::TimedOut`] and
    /// [`Error::Run`].
    pub fn run(&self, features: &RecordBatch) -> Result<Predictions, Error> {
        self.run_until(features, Instant::now() + self.0.limits.time_max)
    }

    /// As [`run`](Self::run), with a deadline that is shared with other runs.
    ///
    /// # Errors
    /// Those of [`run`](Self::run).
    pub fn run_until(&self, features: &RecordBatch, deadline: Instant) -> Result<Predictions, Error> {
        let mut answered = Answered::default();
        self.run_in_parts(features, deadline, &mut |outputs: &SessionOutputs<'_>, rows| {
            self.0.answers.add(outputs, rows, &mut answered)
        })?;
        Ok(answered.finish())
    }

    /// What the graph says of `features`, output by output, before `deadline`.
    ///
    /// # Errors
    /// Those of [`run`](Self::run).
    pub(crate) fn outputs(&self, features: &RecordBatch, deadline: Instant) -> Result<Vec<Output>, Error> {
        let mut collected = Collected::default();
        self.run_in_parts(features, deadline, &mut |outputs: &SessionOutputs<'_>, rows| {
            collected.add(&self.0.signature, outputs, rows)
        })?;
        Ok(collected.finish())
    }

    /// The value of each row, as [`run`](Self::run) says it, in `outputs` of this model.
    ///
    /// # Errors
    /// [`Error::Run`] if they are none of this model.
    pub(crate) fn values(&self, outputs: &[Output]) -> Result<Vec<f64>, Error> {
        self.0.answers.values(outputs).map_err(Error::Run)
    }

    /// `features` with columns of the types that the model takes, all rows of which can be scored as far as that is known before.
    /// Such batches have the same columns, so that they can be put together.
    ///
    /// # Errors
    /// [`Error::Features`] and [`Error::Row`].
    pub(crate) fn checked(&self, features: &RecordBatch) -> Result<RecordBatch, Error> {
        let columns = self.0.layout.columns(features)?;
        self.0.layout.elements(&columns, features, 0..features.num_rows())?;
        let schema = features.schema();
        let fields = schema.fields().iter().zip(&columns);
        let fields: Vec<Field> = fields
            .map(|(field, column)| Field::new(field.name(), column.data_type().clone(), true))
            .collect();
        RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
            .map_err(|error| Error::Features(error.to_string()))
    }

    /// How many runs there may be at the same time.
    pub(crate) fn runs_max(&self) -> usize {
        self.0.limits.sessions.max(1)
    }

    /// Whether nothing of it is left that could answer, so that it has to be loaded again.
    pub(crate) fn is_lost(&self) -> bool {
        self.0.idle.are_lost()
    }

    /// Scores all rows, some at a time, and hands over what the graph says of each part.
    fn run_in_parts(&self, features: &RecordBatch, deadline: Instant, take: Take<'_>) -> Result<(), Error> {
        let columns = self.0.layout.columns(features)?;
        let at_a_time = self.0.limits.rows_per_run.max(1);
        for start in (0..features.num_rows()).step_by(at_a_time) {
            let rows = start..features.num_rows().min(start + at_a_time);
            let prepared = self.prepare_rows(&columns, features, rows)?;
            self.answer(&prepared, deadline, take)?;
        }
        Ok(())
    }

    /// All rows of `features` as the model takes them, for measuring what ONNX Runtime does alone.
    ///
    /// # Errors
    /// [`Error::Features`] and [`Error::Row`].
    pub fn prepare(&self, features: &RecordBatch) -> Result<Prepared, Error> {
        let columns = self.0.layout.columns(features)?;
        self.prepare_rows(&columns, features, 0..features.num_rows())
    }

    /// Only what ONNX Runtime does: scores what [`prepare`](Self::prepare) made.
    ///
    /// # Errors
    /// [`Error::TimedOut`] and [`Error::Run`].
    pub fn run_prepared(&self, prepared: &Prepared) -> Result<Predictions, Error> {
        let mut answered = Answered::default();
        if prepared.rows > 0 {
            let deadline = Instant::now() + self.0.limits.time_max;
            self.answer(prepared, deadline, &mut |outputs: &SessionOutputs<'_>, rows| {
                self.0.answers.add(outputs, rows, &mut answered)
            })?;
        }
        Ok(answered.finish())
    }

    fn prepare_rows(
        &self,
        columns: &[ArrayRef],
        names: &RecordBatch,
        rows: Range<usize>,
    ) -> Result<Prepared, Error> {
        let count = rows.len();
        if count == 0 {
            return Ok(Prepared { elements: Vec::new(), rows: 0 });
        }
        Ok(Prepared { elements: self.0.layout.elements(columns, names, rows)?, rows: count })
    }

    fn answer(&self, prepared: &Prepared, deadline: Instant, take: Take<'_>) -> Result<(), Error> {
        let loaded = &*self.0;
        let mut session = loaded.borrow(deadline)?;
        let said = catch_unwind(AssertUnwindSafe(|| loaded.answer(&mut session, prepared, deadline, take)));
        match said {
            Ok(said) => {
                loaded.idle.give_back(session);
                said
            }
            // Whatever is left of it, nobody uses it again.
            Err(_) => {
                loaded.idle.lose();
                drop(session);
                Err(Error::Run("the binding of ONNX Runtime panicked".into()))
            }
        }
    }
}

impl Loaded {
    /// A session that nobody else uses.
    fn borrow(&self, deadline: Instant) -> Result<OrtSession, Error> {
        self.idle.take(deadline).map_err(|missing| match missing {
            Missing::InUse => Error::TimedOut(self.limits.time_max),
            Missing::Lost => Error::Run(
                "the binding of ONNX Runtime panicked each time: the model has to be loaded again".into(),
            ),
        })
    }

    fn answer(
        &self,
        session: &mut OrtSession,
        prepared: &Prepared,
        deadline: Instant,
        take: Take<'_>,
    ) -> Result<(), Error> {
        let failed = |error: ort::Error| Error::Run(format!("ONNX Runtime: {error}"));
        let inputs = self.layout.tensors(&prepared.elements, prepared.rows).map_err(failed)?;
        // Its own for every run: an end that comes too late ends nothing else.
        let options = Arc::new(RunOptions::new().map_err(failed)?);
        let watched = {
            let options = options.clone();
            watch(deadline, move || _ = options.terminate())
        };
        let ran = session.run_with_options(inputs, &*options);
        drop(watched);
        let outputs = ran.map_err(|error| match Instant::now() >= deadline {
            true => Error::TimedOut(self.limits.time_max),
            false => failed(error),
        })?;
        take(&outputs, prepared.rows).map_err(Error::Run)
    }
}

/// Longest time to load a model, whatever its size.
const LOAD_TIME_MAX: Duration = Duration::from_secs(120);

/// Loads `onnx`.
fn load(runtime: &Runtime, onnx: &[u8], limits: &InferenceLimits) -> Result<OrtSession, Error> {
    let failed = |error: String| Error::Model(format!("ONNX Runtime cannot load it: {error}"));
    let loaded = catch_unwind(AssertUnwindSafe(|| -> Result<OrtSession, ort::Error> {
        let builder = OrtSession::builder(runtime.environment())?
            .with_intra_threads(limits.threads.max(1))?
            .with_inter_threads(1)?
            .with_intra_op_spinning(false)?
            .with_deterministic_compute(true)?;
        let mut builder = builder;
        let canceler = builder.canceler();
        let _watched = watch(Instant::now() + LOAD_TIME_MAX, move || _ = canceler.cancel());
        builder.commit_from_memory(onnx)
    }));
    match loaded {
        Ok(Ok(session)) => Ok(session),
        Ok(Err(error)) => Err(failed(error.to_string())),
        Err(_) => Err(failed("it has inputs or outputs of a kind that is not known".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{floats, loaded, runtime};
    use super::*;

    #[test]
    fn a_model_that_panicked_in_every_session_says_so_and_nobody_waits_for_it() {
        let test = "a_model_that_panicked_in_every_session_says_so_and_nobody_waits_for_it";
        let Some(runtime) = runtime(test) else { return };
        let (session, features) = (loaded(&runtime, "picky"), floats(&[1.0, 9.0]));
        assert!(session.run(&features).is_ok() && !session.is_lost());
        let deadline = Instant::now() + Duration::from_secs(60);
        let said = session
            .run_in_parts(&features, deadline, &mut |_: &SessionOutputs<'_>, _| panic!("as the binding may"));
        assert!(matches!(&said, Err(Error::Run(why)) if why.contains("panicked")), "{said:?}");
        assert!(session.is_lost());
        let said = session.run(&features);
        assert!(matches!(&said, Err(Error::Run(why)) if why.contains("loaded again")), "{said:?}");
    }
}
