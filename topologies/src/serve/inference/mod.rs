//! The Open Inference Protocol, version 2, of `isobar serve`: models of the registry for programs, by HTTP and gRPC.
//!
//! ```text
//! HTTP ─┐                                               missing features ─▶ online look-ups, by key
//! gRPC ─┴─▶ who asks ─▶ which version ─▶ given features ─┴─▶ all features ─▶ batch ─▶ session ─▶ tensors, and what they are of
//! ```
//!
//! [`Engine::infer`] is the life of a request; protocols only carry ([`http`], [`grpc`]). A request is bounded before it is read (its
//! bytes, how many there are), before it is run (rows, time, places of its model), and a shape that it claims makes nothing.
//! The answer says which version answered, its digest, and of which versions of datasets the features are. Whatever is wrong is an
//! error of this request. With `serve.inference.log`, what the model was given and what it answered is written to a topic of Kafka
//! ([`vectors`]). `docs/serve-inference.md` is for users.

mod batches;
mod features;
mod grpc;
pub(super) mod http;
mod json;
mod keys;
mod messages;
mod metrics;
mod models;
pub(super) mod openapi;
mod request;
mod tensor;
#[cfg(test)]
mod tests;
mod vectors;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use self::features::{Given, LookedUp};
use self::metrics::Metrics;
use self::models::{Models, Served};
use self::request::{InferAnswer, InferRequest, Parameter};
use self::tensor::{Tensor, shown};
use self::vectors::VectorLog;
use super::{Caller, Engine, Protocol, Question, Refusal};
use crate::commit::model::is_model_name;
use crate::error::Error;
use crate::inference::{Bound, Error as InferenceError, ModelStore, Reference, is_given};
use crate::models::Manifest;
use crate::online::LookupError;
use crate::query::TableVersion;
use crate::spec::Topology;
use crate::spec::serve::{InferenceSpec, ModelLimits};

/// What the protocol calls this server.
const NAME: &str = "isobar";
/// What the protocol calls the models of this server.
const PLATFORM: &str = "onnx_onnxv1";
/// What is understood beyond the protocol.
const EXTENSIONS: [&str; 1] = ["binary_tensor_data"];

/// How long a request may take to arrive.
const ARRIVAL_TIME_MAX: Duration = Duration::from_secs(10);

/// The models that answer, and what they may cost. Cheap to clone.
#[derive(Clone)]
pub(super) struct Inference(Arc<Inner>);

struct Inner {
    spec: InferenceSpec,
    /// `None` where there is no registry.
    models: Option<Arc<Models>>,
    /// Of requests, whatever they ask.
    places: Arc<Semaphore>,
    /// Where it is written what models were given.
    log: Option<Arc<VectorLog>>,
    metrics: Metrics,
}

impl fmt::Debug for Inference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inference").field("models", &self.0.models).finish_non_exhaustive()
    }
}

impl Inference {
    /// The models of `store`, for a server of `topology`. Nothing is asked or loaded yet.
    ///
    /// # Errors
    /// [`Error::Configuration`] for a log of served vectors that cannot be.
    pub(super) fn new(topology: &Topology, store: Option<Arc<ModelStore>>) -> Result<Self, Error> {
        let spec = topology.serve.inference.clone();
        let metrics = Metrics::new(&topology.name);
        let models =
            store.map(|store| Arc::new(Models::new(store, spec.clone(), metrics.run_requests.clone())));
        let places = Arc::new(Semaphore::new(spec.running));
        let log = spec.log.as_ref().map(|log| VectorLog::open(topology, log, metrics.log.clone()));
        let log = log.transpose()?.map(Arc::new);
        Ok(Self(Arc::new(Inner { spec, models, places, log, metrics })))
    }

    /// Waits until it is stored what models were given, no longer than `patience`.
    pub(super) async fn close(&self, patience: Duration) {
        if let Some(log) = &self.0.log {
            log.close(patience).await;
        }
    }

    /// The metrics as text.
    pub(super) fn metrics(&self) -> String {
        self.0.metrics.render()
    }

    /// Most bytes of a request.
    fn bytes_max(&self) -> usize {
        self.0.spec.bytes
    }

    /// A place among the requests that are read and answered.
    ///
    /// # Errors
    /// [`Refusal::TooMuch`] if there is none now.
    fn enter(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        self.0.places.clone().try_acquire_owned().map_err(|_| {
            let refusal = Refusal::TooMuch {
                limit: "running",
                message: format!("{} requests are being answered; try again later", self.0.spec.running),
            };
            self.0.metrics.refused(refusal.outcome());
            refusal
        })
    }

    fn models(&self) -> Result<&Arc<Models>, Refusal> {
        self.0.models.as_ref().ok_or_else(|| Refusal::NotFound("there are no models here".to_owned()))
    }
}

/// A shape as the protocol has it: -1 where a dimension is free.
fn dims(shape: &[Option<u64>]) -> impl Iterator<Item = i64> {
    shape.iter().map(|dim| dim.map_or(-1, |dim| i64::try_from(dim).unwrap_or(i64::MAX)))
}

/// The version that a request means.
fn reference(model: &str, version: &str) -> Result<Reference, Refusal> {
    let text = match version {
        "" => model.to_owned(),
        version => format!("{model}@{version}"),
    };
    let unknown = || Refusal::NotFound(format!("there is no model {}", shown(&text)));
    // What is said of limits and of roles is said of names: nothing else stands for one.
    if !is_model_name(model) {
        return Err(unknown());
    }
    text.parse().map_err(|_| unknown())
}

impl Engine {
    /// Whether models can be looked up and run.
    ///
    /// # Errors
    /// [`Refusal::Unavailable`] if no cloud answers or ONNX Runtime is not there.
    pub(super) async fn is_ready_to_infer(&self) -> Result<(), Refusal> {
        self.is_ready().await?;
        let models = self.inference().models()?.clone();
        let checked = tokio::task::spawn_blocking(move || models.store().check_runtime()).await;
        match checked {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => {
                let error = crate::chain_of(&error);
                tracing::debug!(error, "models cannot be run");
                Err(Refusal::Unavailable("models cannot be run: ONNX Runtime is not there".to_owned()))
            }
            Err(died) => Err(Refusal::Internal(died.to_string())),
        }
    }

    /// The version of a model that `caller` means, loaded.
    ///
    /// # Errors
    /// [`Refusal`], for every reason there is.
    async fn served(&self, caller: &Caller, model: &str, version: &str) -> Result<Arc<Served>, Refusal> {
        let reference = reference(model, version)?;
        if !caller.may_ask(reference.model()) {
            return Err(Refusal::NotFound(format!("there is no model {reference}")));
        }
        self.inference().models()?.served(&reference).await
    }

    /// Answers a request of `caller`.
    ///
    /// # Errors
    /// [`Refusal`], for every reason there is.
    async fn infer(&self, caller: &Caller, asked: InferRequest) -> Result<InferAnswer, Refusal> {
        let running = self.inference().0.metrics.begin();
        let (model, version) = (shown(&asked.model), shown(&asked.version));
        let version = if version.is_empty() { "champion".to_owned() } else { version };
        let question =
            Question { protocol: Protocol::Inference, ..Question::new(format!("INFER {model}@{version}")) };
        let mut entry = self.entry(caller, &question);
        if let Some(entry) = &mut entry
            && let Err(refusal) = entry.begun().await
        {
            entry.ended(refusal.outcome());
            running.ended(refusal.outcome(), 0);
            return Err(refusal);
        }
        let answered = self.answered(caller, asked).await;
        let (outcome, rows, read): (_, _, Vec<TableVersion>) = match &answered {
            Ok((_, rows, looked_up)) => ("ok", *rows, looked_up.iter().map(table_version).collect()),
            Err(refusal) => (refusal.outcome(), 0, Vec::new()),
        };
        if let Some(entry) = entry {
            let mut entry = entry.of_run(None, &read);
            entry.rows(rows as u64, 0);
            entry.ended(outcome);
        }
        running.ended(outcome, rows);
        answered.map(|(answer, ..)| answer)
    }

    async fn answered(
        &self,
        caller: &Caller,
        asked: InferRequest,
    ) -> Result<(InferAnswer, usize, Vec<LookedUp>), Refusal> {
        let limits = *self.inference().0.spec.limits_of(&asked.model);
        let deadline = Instant::now() + limits.time;
        let finding = self.served(caller, &asked.model, &asked.version);
        let served =
            tokio::time::timeout_at(deadline.into(), finding).await.map_err(|_| too_late(&limits))??;
        let _place = place(&served, &limits)?;
        let manifest = &served.bound.manifest;
        check_outputs(&served.bound, &asked.outputs)?;
        let rows = asked.rows();
        if rows > limits.rows {
            let message = format!("{rows} rows; one request has at most {}", limits.rows);
            return Err(Refusal::TooMuch { limit: "rows", message });
        }
        let mut given = Given::of(manifest, &self.keys_of(manifest), &asked)?;
        // Of what is looked up, which the log says too.
        let served_at = Utc::now();
        let filling = self.fill(caller, manifest, &mut given, &limits, served_at);
        let looked_up =
            tokio::time::timeout_at(deadline.into(), filling).await.map_err(|_| too_late(&limits))??;
        let (keys, features) = (given.take_keys(), given.into_batch()?);
        let asked_room = Instant::now();
        let vectors = match &self.inference().0.log {
            Some(log) => log.begin(manifest, served_at, features.clone(), keys).await?,
            None => None,
        };
        // That the log has no room is not held against the model.
        let deadline = deadline + asked_room.elapsed();
        let said = served.batches.answer(features, deadline).await;
        let outputs = said.map_err(|error| refused(error, &served.bound, &limits))?;
        if let Some(vectors) = vectors {
            vectors.written(&served.bound, &outputs).await?;
        }
        let mut answer = InferAnswer {
            model: manifest.model.clone(),
            version: manifest.version,
            id: asked.id,
            parameters: parameters(&served.bound, &looked_up),
            outputs: outputs.into_iter().map(|output| Tensor::of_output(output, rows)).collect(),
        };
        pick(&mut answer.outputs, &asked.outputs);
        Ok((answer, rows, looked_up))
    }

    /// The columns of the keys by which features of a model can be looked up.
    fn keys_of(&self, manifest: &Manifest) -> BTreeSet<String> {
        let views = self.look_ups();
        let datasets: BTreeSet<&String> =
            manifest.features.iter().filter_map(|feature| feature.dataset.as_ref()).collect();
        let known = datasets.into_iter().filter_map(|dataset| views?.view(dataset));
        known.flat_map(|view| view.spec().keys.clone()).collect()
    }

    /// Looks up the features that a request does not give, as far as `caller` may read them.
    async fn fill(
        &self,
        caller: &Caller,
        manifest: &Manifest,
        given: &mut Given,
        limits: &ModelLimits,
        now: DateTime<Utc>,
    ) -> Result<Vec<LookedUp>, Refusal> {
        let views = self.look_ups();
        let mut looked_up = Vec::new();
        for (dataset, features) in given.missing(manifest)? {
            // First, so that who may not read learns nothing of the dataset.
            caller.may_read_all_of(&dataset)?;
            let view = views.and_then(|views| views.view(&dataset)).ok_or_else(|| {
                Refusal::Wrong(format!(
                    "feature `{}` is missing, and {}: send it",
                    given.names(&features),
                    LookupError::NotFound(dataset.clone())
                ))
            })?;
            let (mut taken, missing) = (std::mem::take(given), limits.missing);
            let looking = tokio::task::spawn_blocking(move || {
                let found = taken.look_up(&view, &features, missing, now.timestamp_millis());
                (taken, found)
            });
            let (filled, found) = looking.await.map_err(|died| Refusal::Internal(died.to_string()))?;
            *given = filled;
            looked_up.push(found?);
        }
        Ok(looked_up)
    }
}

/// A place among the requests to a model.
fn place(served: &Served, limits: &ModelLimits) -> Result<OwnedSemaphorePermit, Refusal> {
    served.places.clone().try_acquire_owned().map_err(|_| Refusal::TooMuch {
        limit: "running",
        message: format!(
            "{} requests to {} are being answered; try again later",
            limits.running, served.bound.manifest.model
        ),
    })
}

/// Whether the outputs that are asked for can be given.
fn check_outputs(bound: &Bound, asked: &[String]) -> Result<(), Refusal> {
    let outputs = &bound.manifest.signature.outputs;
    for (place, name) in asked.iter().enumerate() {
        let found = outputs.iter().find(|output| output.name == *name);
        let is_twice = asked[..place].contains(name);
        let what = match found {
            Some(output) if is_given(&output.datatype) && !is_twice => continue,
            Some(_) if is_twice => "is asked for twice".to_owned(),
            Some(output) => format!("has elements of type {}, which are not served", output.datatype),
            None => {
                let names: Vec<&str> = outputs.iter().map(|output| output.name.as_str()).collect();
                format!("is none of the model's: there are {}", names.join(", "))
            }
        };
        return Err(Refusal::Wrong(format!("output `{}` {what}", shown(name))));
    }
    Ok(())
}

/// Leaves the outputs that are asked for, in their order; all if none is named.
fn pick(outputs: &mut Vec<Tensor>, asked: &[String]) {
    if asked.is_empty() {
        return;
    }
    outputs.retain(|output| asked.contains(&output.name));
    outputs.sort_by_key(|output| asked.iter().position(|name| *name == output.name));
}

/// What an answer is of.
fn parameters(bound: &Bound, looked_up: &[LookedUp]) -> Vec<(String, Parameter)> {
    let manifest = &bound.manifest;
    let mut parameters = vec![
        ("version".to_owned(), Parameter::count(manifest.version)),
        ("sha256".to_owned(), Parameter::Text(manifest.onnx.sha256.clone())),
    ];
    if let Some(features) = &bound.features {
        parameters.push(("features".to_owned(), Parameter::Text(features.clone())));
    }
    for LookedUp { dataset, version, age_ms, missing, .. } in looked_up {
        parameters.push((format!("{dataset}.version"), Parameter::count(*version)));
        parameters.push((format!("{dataset}.age_ms"), Parameter::count(*age_ms)));
        if *missing > 0 {
            parameters.push((format!("{dataset}.missing"), Parameter::count(*missing as u64)));
        }
    }
    parameters
}

/// What the log of queries says of features that were looked up: in the store of this server.
fn table_version(looked_up: &LookedUp) -> TableVersion {
    TableVersion {
        table: looked_up.dataset.clone(),
        version: looked_up.version,
        cloud: "online".to_owned(),
        committed_ms: looked_up.committed_ms,
        sha256: looked_up.sha256.clone(),
    }
}

fn too_late(limits: &ModelLimits) -> Refusal {
    Refusal::TooMuch { limit: "time", message: format!("there was no answer within {:?}", limits.time) }
}

/// Why a model has no answer.
fn refused(error: InferenceError, bound: &Bound, limits: &ModelLimits) -> Refusal {
    match error {
        InferenceError::TimedOut(_) => too_late(limits),
        InferenceError::Row { row, message } => Refusal::Wrong(format!("row {row}: {message}")),
        InferenceError::Features(what) => Refusal::Wrong(what),
        error => {
            let manifest = &bound.manifest;
            let (model, version) = (&manifest.model, manifest.version);
            tracing::warn!(model, version, %error, "a model has no answer");
            Refusal::Internal(format!("model {model} version {version} has no answer: {error}"))
        }
    }
}
