//! Models that queries call with `predict('model', …)`.
//!
//! Each query has a function of its own. Planning notes which models it calls, and they are looked up and loaded before it
//! starts: what an alias means is the same for all rows of a query. Where no query calls one, ONNX Runtime is not asked for.

use std::sync::{Arc, Mutex, PoisonError};

use datafusion::error::DataFusionError;
use datafusion::execution::{FunctionRegistry, SessionState};
use isobar_connectors::clouds::Cloud;

use crate::error::Error;
use crate::inference::{Bindings, InferenceLimits, ModelStore, Predictors};
use crate::models::Registry;
use crate::spec::Topology;

/// The models of a topology's clouds; by default none.
#[derive(Debug, Clone, Default)]
pub(crate) struct CallableModels {
    store: Option<Arc<ModelStore>>,
    /// What the last query called stays loaded for the next one.
    kept: Arc<Mutex<Bindings>>,
}

impl CallableModels {
    /// Those of `topology`, from `clouds`.
    pub(crate) fn of(topology: &Topology, clouds: &[Cloud]) -> Self {
        let store = ModelStore::new(Registry::new(clouds.to_vec()), topology.models.clone());
        Self { store: Some(Arc::new(store)), kept: Arc::default() }
    }

    /// Where models come from.
    pub(crate) fn store(&self) -> Option<Arc<ModelStore>> {
        self.store.clone()
    }

    /// Adds the function to the session of one query, and says what notes its calls.
    pub(crate) fn offer(&self, state: &mut SessionState) -> Result<Arc<Predictors>, DataFusionError> {
        let limits = match &self.store {
            Some(store) => &store.spec().limits,
            None => &InferenceLimits::default(),
        };
        let called = Predictors::of_queries(limits);
        state.register_udf(called.function())?;
        Ok(called)
    }

    /// Loads the models that the query calls, as it was planned, and has each call computed once: DataFusion would move the
    /// fields of a struct to where it is made, and make it once for each.
    ///
    /// # Errors
    /// [`Error::Configuration`] if ONNX Runtime or a model is not there or cannot be used, and those of the registry.
    pub(crate) async fn bind(&self, called: &Predictors, state: &mut SessionState) -> Result<(), Error> {
        if called.is_empty() {
            return Ok(());
        }
        let Some(store) = &self.store else {
            return Err(Error::Configuration("there are no models here".to_owned()));
        };
        let bindings = called.bind(store).await?;
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = bindings.clone();
        called.turn(bindings);
        state.config_mut().options_mut().optimizer.enable_leaf_expression_pushdown = false;
        Ok(())
    }
}
