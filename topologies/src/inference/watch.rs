//! Which models answer in a running topology: looked up at its start, and again at every commit boundary.
//!
//! ```text
//! commit boundary ─▶ what was found answers from here on ─▶ look again, beside the pipeline ─▶ found: waits for the next boundary
//! ```
//!
//! A commit never waits for a model: what an alias means is read, brought and loaded beside it. A version that cannot be loaded
//! is said once, and the one before it goes on answering.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use isobar_connectors::clouds::Cloud;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tracing::{info, warn};

use super::predictors::{Bindings, Predictors, locked};
use super::store::ModelStore;
use crate::error::Error;
use crate::models::Registry;
use crate::spec::Topology;
use crate::stage::DatasetPlan;

/// How long what an alias means is believed while nothing is committed.
const LOOK_INTERVAL: Duration = Duration::from_secs(30);
/// The registry is asked no more often than this, however often is committed.
const LOOK_PAUSE: Duration = Duration::from_secs(1);
/// Pause before a registry that did not answer at the start is asked again.
const RETRY_PAUSE: Duration = Duration::from_secs(2);

/// See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct ModelWatch {
    predictors: Vec<Arc<Predictors>>,
    found: Arc<Found>,
    look: Arc<Notify>,
    /// Ends with this.
    _looking: JoinSet<()>,
}

/// What is to answer from the next boundary on, by predictors.
type Found = Mutex<Vec<Option<Bindings>>>;

impl ModelWatch {
    /// Looks up and loads the models that `plans` call, and watches what their aliases mean. While too few clouds answer it asks
    /// again, for `patience` at most.
    ///
    /// # Errors
    /// [`Error::Configuration`] if ONNX Runtime or a model is not there or cannot be used, and those of the registry.
    pub(crate) async fn start(
        topology: &Topology,
        plans: &[DatasetPlan],
        clouds: &[Cloud],
        patience: Duration,
    ) -> Result<Self, Error> {
        let calling = plans.iter().filter(|plan| !plan.models.is_empty());
        let predictors: Vec<Arc<Predictors>> = calling.map(|plan| plan.models.clone()).collect();
        if predictors.is_empty() {
            return Ok(Self::default());
        }
        let store = ModelStore::new(Registry::new(clouds.to_vec()), topology.models.clone());
        for models in &predictors {
            models.turn(first(models, &store, patience).await?);
            tell(models);
        }
        let (found, look) = (Arc::new(Mutex::new(vec![None; predictors.len()])), Arc::new(Notify::new()));
        let mut looking = JoinSet::new();
        looking.spawn(follow(store, predictors.clone(), found.clone(), look.clone()));
        Ok(Self { predictors, found, look, _looking: looking })
    }

    /// Whether other models wait for a boundary.
    pub(crate) fn has_news(&self) -> bool {
        locked(&self.found).iter().any(Option::is_some)
    }

    /// A boundary: what was found answers from here on, and what comes after it is looked for.
    pub(crate) fn turn(&self) {
        for (models, found) in self.predictors.iter().zip(locked(&self.found).iter_mut()) {
            if found.take().is_some_and(|bindings| models.turn(bindings)) {
                tell(models);
            }
        }
        self.look.notify_one();
    }
}

/// Looks up and loads the models that one dataset calls, for work that ends soon: they stay the same until then.
///
/// # Errors
/// Those of [`ModelWatch::start`].
pub(crate) async fn bind_once(
    topology: &Topology,
    plan: &DatasetPlan,
    clouds: &[Cloud],
) -> Result<(), Error> {
    if !plan.models.is_empty() {
        let store = ModelStore::new(Registry::new(clouds.to_vec()), topology.models.clone());
        plan.models.turn(plan.models.bind(&store).await?);
    }
    Ok(())
}

async fn first(models: &Predictors, store: &ModelStore, patience: Duration) -> Result<Bindings, Error> {
    let begun = Instant::now();
    loop {
        match models.bind(store).await {
            Err(error @ Error::NoMajority { .. }) if begun.elapsed() < patience => {
                warn!(%error, "too few clouds answer for models, asking again");
                tokio::time::sleep(RETRY_PAUSE).await;
            }
            outcome => return outcome,
        }
    }
}

/// Looks whenever it is asked to, and now and then.
async fn follow(store: ModelStore, predictors: Vec<Arc<Predictors>>, found: Arc<Found>, look: Arc<Notify>) {
    let mut told = vec![String::new(); predictors.len()];
    loop {
        // Whether it was asked for or is due: both are a reason to look.
        let _ = tokio::time::timeout(LOOK_INTERVAL, look.notified()).await;
        for (index, models) in predictors.iter().enumerate() {
            match models.bind(&store).await {
                Ok(bindings) => {
                    locked(&found)[index] = models.differ(&bindings).then_some(bindings);
                    told[index].clear();
                }
                Err(error) => {
                    let error = crate::chain_of(&error);
                    if told[index] != error {
                        warn!(error, "what models mean now cannot be told; those that answer go on");
                    }
                    told[index] = error;
                }
            }
        }
        tokio::time::sleep(LOOK_PAUSE).await;
    }
}

fn tell(models: &Predictors) {
    for model in models.in_use() {
        let (name, version, shadow) = (model.model, model.version, model.shadow);
        info!(model = name, version, sha256 = model.sha256, shadow, "the model answers from here on");
    }
}
