//! The models that the calls of `predict(…)` in a query mean, and which of them answer now.
//!
//! A query is planned before any model is there: planning notes the calls. [`bind`](Predictors::bind) looks up what they mean,
//! and [`turn`](Predictors::turn) lets those models answer from then on. A stream turns only between two commits, so that all rows
//! of a commit are of the same models.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{Field, Schema};
use arrow::error::ArrowError;
use isobar_connectors::delta::ScoredBy;

use super::reference::Reference;
use super::store::{Binding, Bound, ModelStore};
use super::{Error as InferenceError, InferenceLimits, Predictions, Session};
use crate::error::Error;
use crate::models::Manifest;

/// See the [module](self).
#[derive(Debug)]
pub struct Predictors {
    is_stream: bool,
    time_max: Duration,
    /// The calls, each with its number of features.
    calls: Mutex<BTreeMap<Reference, usize>>,
    bindings: RwLock<Arc<Bindings>>,
    /// What is left of the time of a stream's batch.
    left: Mutex<TimeLeft>,
}

/// What calls mean.
#[derive(Debug, Clone, Default)]
pub struct Bindings(BTreeMap<Reference, Binding>);

#[derive(Debug, Clone, Copy)]
struct TimeLeft {
    champion: Duration,
    challenger: Duration,
}

#[derive(Debug, Clone, Copy)]
enum Role {
    Champion,
    Challenger,
}

impl TimeLeft {
    fn of(&mut self, role: Role) -> &mut Duration {
        match role {
            Role::Champion => &mut self.champion,
            Role::Challenger => &mut self.challenger,
        }
    }
}

/// What the models of a call answer.
pub(super) struct Answer {
    pub(super) champion: (Arc<Bound>, Predictions),
    pub(super) challenger: Option<(Arc<Bound>, Predictions)>,
}

impl Predictors {
    /// For a query of a stream, whose models change between commits only and whose batches share a time limit.
    pub fn of_stream(limits: &InferenceLimits) -> Arc<Self> {
        Arc::new(Self::new(true, limits))
    }

    /// For queries over tables.
    pub fn of_queries(limits: &InferenceLimits) -> Arc<Self> {
        Arc::new(Self::new(false, limits))
    }

    fn new(is_stream: bool, limits: &InferenceLimits) -> Self {
        let time_max = limits.time_max;
        let left = Mutex::new(TimeLeft { champion: time_max, challenger: time_max });
        Self { is_stream, time_max, calls: Mutex::default(), bindings: RwLock::default(), left }
    }

    pub(super) fn is_stream(&self) -> bool {
        self.is_stream
    }

    /// Whether no query calls a model.
    pub fn is_empty(&self) -> bool {
        locked(&self.calls).is_empty()
    }

    /// The names of the models that are called.
    pub(crate) fn models(&self) -> Vec<String> {
        locked(&self.calls).keys().map(|reference| reference.model().to_owned()).collect()
    }

    /// Notes a call while it is planned.
    pub(super) fn note(&self, reference: &Reference, features: usize) -> Result<(), String> {
        let known = *locked(&self.calls).entry(reference.clone()).or_insert(features);
        // A stream's calls stay the same; of queries the newest is right, or fails when it is bound.
        if known == features {
            return Ok(());
        }
        if self.is_stream {
            return Err(format!("`{reference}` is given {known} features here and {features} there"));
        }
        locked(&self.calls).insert(reference.clone(), features);
        Ok(())
    }

    /// Looks up what all calls mean.
    ///
    /// # Errors
    /// Those of the registry, and [`Error::Configuration`] for a model that is not there or cannot be used.
    pub async fn bind(&self, store: &ModelStore) -> Result<Bindings, Error> {
        let calls = locked(&self.calls).clone();
        let mut bindings = BTreeMap::new();
        for (reference, features) in calls {
            let binding = store.bind(&reference, features).await?;
            bindings.insert(reference, binding);
        }
        Ok(Bindings(bindings))
    }

    /// Whether `bindings` are other models than those that answer now, or these cannot answer any more.
    pub(super) fn differ(&self, bindings: &Bindings) -> bool {
        !bindings.is_like(&self.current())
    }

    /// Lets the models of `bindings` answer from now on; whether they are others than before.
    pub fn turn(&self, bindings: Bindings) -> bool {
        let mut current = self.bindings.write().unwrap_or_else(PoisonError::into_inner);
        let is_other = !bindings.is_like(&current);
        if is_other {
            *current = Arc::new(bindings);
        }
        is_other
    }

    /// Lets `session` answer for `reference`, without a registry: it is what `manifest` says.
    pub fn answer_with(&self, reference: Reference, session: Session, manifest: &Manifest) {
        let binding = Binding { champion: Arc::new(Bound::new(session, manifest)), challenger: None };
        self.turn(Bindings(BTreeMap::from([(reference, binding)])));
    }

    /// The models that answer now, as a commit has them.
    pub fn in_use(&self) -> Vec<ScoredBy> {
        self.current().scored_by()
    }

    fn current(&self) -> Arc<Bindings> {
        self.bindings.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A batch of a stream begins: its rows have the whole time limit.
    pub fn begin_batch(&self) {
        *locked(&self.left) = TimeLeft { champion: self.time_max, challenger: self.time_max };
    }

    /// Asks the models that `reference` means about `rows` rows.
    pub(super) fn answer(
        &self,
        reference: &Reference,
        features: Vec<ArrayRef>,
        rows: usize,
    ) -> Result<Answer, InferenceError> {
        let bindings = self.current();
        let Some(Binding { champion, challenger }) = bindings.0.get(reference) else {
            return Err(InferenceError::Model("it is not loaded".to_owned()));
        };
        let features = &batch_of(features, rows, &champion.feature_names)
            .map_err(|error| InferenceError::Features(error.to_string()))?;
        let said = self.timed(Role::Champion, |deadline| champion.session.run_until(features, deadline))?;
        // Whatever becomes of the challenger, the row is the champion's.
        let challenger = challenger.as_ref().and_then(|bound| {
            let ran = |deadline| bound.session.run_until(features, deadline);
            match self.timed(Role::Challenger, ran) {
                Ok(said) => Some((bound.clone(), said)),
                Err(error) => {
                    bound.complain(&error);
                    None
                }
            }
        });
        Ok(Answer { champion: (champion.clone(), said), challenger })
    }

    /// Runs within what is left of the batch's time, or, for queries, within the limit.
    fn timed(
        &self,
        role: Role,
        run: impl FnOnce(Instant) -> Result<Predictions, InferenceError>,
    ) -> Result<Predictions, InferenceError> {
        let begun = Instant::now();
        if !self.is_stream {
            return run(begun + self.time_max);
        }
        let left = *locked(&self.left).of(role);
        let said = run(begun + left);
        let mut now = locked(&self.left);
        let left = now.of(role);
        *left = left.saturating_sub(begun.elapsed());
        if matches!(said, Err(InferenceError::TimedOut(_))) {
            // Parts of a batch that ran out of time are not tried again.
            *left = Duration::ZERO;
        }
        said
    }
}

impl Bindings {
    /// Whether `other` answers every call with the same files, and all of them still answer.
    fn is_like(&self, other: &Self) -> bool {
        let answers = |bindings: &Self| -> Vec<(Reference, Vec<ScoredBy>)> {
            let each = bindings.0.iter();
            each.map(|(reference, binding)| (reference.clone(), binding.scored_by().collect())).collect()
        };
        !other.0.values().any(Binding::is_lost) && answers(self) == answers(other)
    }

    fn scored_by(&self) -> Vec<ScoredBy> {
        let mut models: Vec<ScoredBy> = self.0.values().flat_map(Binding::scored_by).collect();
        models.sort();
        models.dedup();
        models
    }
}

/// The features as a batch. Names are for messages: those of the model, or their places.
fn batch_of(columns: Vec<ArrayRef>, rows: usize, names: &[String]) -> Result<RecordBatch, ArrowError> {
    let name = |index: usize| names.get(index).cloned().unwrap_or_else(|| (index + 1).to_string());
    let named = columns.iter().enumerate();
    let fields: Vec<Field> =
        named.map(|(index, column)| Field::new(name(index), column.data_type().clone(), true)).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options)
}

pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
impl Predictors {
    /// The models that answer now.
    pub(super) fn bindings(&self) -> Bindings {
        (*self.current()).clone()
    }

    /// Lets `champion` answer, and `challenger` beside it, without a registry.
    pub(super) fn bound(
        limits: &InferenceLimits,
        reference: &str,
        champion: Bound,
        challenger: Option<Bound>,
    ) -> Arc<Self> {
        let predictors = Self::of_stream(limits);
        let binding = Binding { champion: Arc::new(champion), challenger: challenger.map(Arc::new) };
        let reference = reference.parse().unwrap();
        predictors.turn(Bindings(BTreeMap::from([(reference, binding)])));
        predictors
    }
}
