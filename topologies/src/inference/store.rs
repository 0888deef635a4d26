//! Models brought from the registry and loaded, each once for all who call it.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use isobar_connectors::delta::ScoredBy;
use tracing::warn;

use super::identity::Identity;
use super::reference::Reference;
use super::{Error as InferenceError, Runtime, Session};
use crate::error::Error;
use crate::models::{Feature, Manifest, Model, Registry};
use crate::spec::ModelsSpec;

/// A version of a model, loaded.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) session: Session,
    /// What is known of it.
    pub(crate) manifest: Manifest,
    /// Where its features are from; see [`feature_version`].
    pub(crate) features: Option<String>,
    pub(super) feature_names: Vec<String>,
    /// The same in each row.
    pub(super) identity: Identity,
    /// Whether somebody was told that it fails as a challenger.
    failed: AtomicBool,
}

/// The models that answer a call: the one that decides, and one in its shadow.
#[derive(Debug, Clone)]
pub(super) struct Binding {
    pub(super) champion: Arc<Bound>,
    pub(super) challenger: Option<Arc<Bound>>,
}

/// See the [module](self).
pub struct ModelStore {
    registry: Registry,
    spec: ModelsSpec,
    runtime: OnceLock<Runtime>,
    /// By digest and name, what is loaded and in use.
    loaded: Mutex<HashMap<(String, String, u64), Weak<Bound>>>,
}

impl fmt::Debug for ModelStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ModelStore").field("registry", &self.registry).finish_non_exhaustive()
    }
}

impl ModelStore {
    /// Models of `registry`, loaded as `spec` says. Nothing is asked or loaded yet.
    pub fn new(registry: Registry, spec: ModelsSpec) -> Self {
        Self { registry, spec, runtime: OnceLock::new(), loaded: Mutex::default() }
    }

    /// How models are loaded.
    pub fn spec(&self) -> &ModelsSpec {
        &self.spec
    }

    fn runtime(&self) -> Result<Runtime, Error> {
        if let Some(runtime) = self.runtime.get() {
            return Ok(runtime.clone());
        }
        let runtime = Runtime::load(self.spec.onnxruntime.as_deref())
            .map_err(|error| Error::Configuration(error.to_string()))?;
        Ok(self.runtime.get_or_init(|| runtime).clone())
    }

    /// What `reference` means now, for calls with so many features.
    ///
    /// # Errors
    /// [`Error::Configuration`] if ONNX Runtime, the model, the alias or the version is not there, the model cannot be used, or
    /// it has another number of features; those of the registry.
    pub(super) async fn bind(&self, reference: &Reference, features: usize) -> Result<Binding, Error> {
        let runtime = self.runtime()?;
        let model = self.registry.model(reference.model()).await?;
        let manifest = model.version(reference.which())?;
        let champion = self.load(&runtime, manifest, features).await?;
        let challenger = self.challenger(&runtime, reference, &model, manifest, features).await;
        Ok(Binding { champion, challenger })
    }

    /// The model in the shadow of `champion`, if one is to be there. One that cannot be used is none.
    async fn challenger(
        &self,
        runtime: &Runtime,
        reference: &Reference,
        model: &Model,
        champion: &Manifest,
        features: usize,
    ) -> Option<Arc<Bound>> {
        let alias = self.spec.shadow.as_ref().filter(|_| reference.is_champion())?;
        let version = *model.aliases.get(alias)?;
        let manifest =
            model.versions.get(&version).filter(|manifest| manifest.version != champion.version)?;
        match self.load(runtime, manifest, features).await {
            Ok(bound) => Some(bound),
            Err(error) => {
                let error = crate::chain_of(&error);
                warn!(model = model.name, version, %error, "the challenger cannot be used");
                None
            }
        }
    }

    /// Whether ONNX Runtime is there.
    ///
    /// # Errors
    /// [`Error::Configuration`] if not. It says where it was looked for.
    pub(crate) fn check_runtime(&self) -> Result<(), Error> {
        self.runtime().map(drop)
    }

    /// The model that `reference` names, as it is now.
    ///
    /// # Errors
    /// [`Error::Configuration`] if there is none; those of the registry.
    pub(crate) async fn find(&self, reference: &Reference) -> Result<(Model, Manifest), Error> {
        let model = self.registry.model(reference.model()).await?;
        let manifest = model.version(reference.which())?.clone();
        Ok((model, manifest))
    }

    /// The version that `manifest` describes, loaded, for those who give it tensors.
    ///
    /// # Errors
    /// [`Error::Configuration`] if ONNX Runtime is not there or the version cannot be used; those of the registry.
    pub(crate) async fn loaded(&self, manifest: &Manifest) -> Result<Arc<Bound>, Error> {
        let bound = self.bring(&self.runtime()?, manifest).await?;
        bound.check_features(bound.session.features()).map_err(|what| unusable(manifest, &what))?;
        Ok(bound)
    }

    async fn load(
        &self,
        runtime: &Runtime,
        manifest: &Manifest,
        features: usize,
    ) -> Result<Arc<Bound>, Error> {
        let bound = self.bring(runtime, manifest).await?;
        bound.check_features(features).map_err(|what| unusable(manifest, &what))?;
        Ok(bound)
    }

    async fn bring(&self, runtime: &Runtime, manifest: &Manifest) -> Result<Arc<Bound>, Error> {
        let (name, version) = (&manifest.model, manifest.version);
        let wrong = |what: String| unusable(manifest, &what);
        let key = (manifest.onnx.sha256.clone(), name.clone(), version);
        let known = self.lock().get(&key).and_then(Weak::upgrade);
        let bound = match known.filter(|bound| !bound.session.is_lost()) {
            Some(bound) => bound,
            None => {
                let bytes_max = self.spec.limits.model_bytes_max;
                if manifest.onnx.bytes > bytes_max {
                    let bytes = manifest.onnx.bytes;
                    return Err(wrong(format!(
                        "{bytes} bytes are more than `models: bytes` allows ({bytes_max})"
                    )));
                }
                let onnx = self.registry.artifact(name, version, &manifest.onnx).await?;
                let (runtime, signature, limits) =
                    (runtime.clone(), manifest.signature.clone(), self.spec.limits.clone());
                let loading =
                    tokio::task::spawn_blocking(move || Session::new(&runtime, &onnx, &signature, &limits));
                let session = match loading.await {
                    Ok(Ok(session)) => session,
                    Ok(Err(error)) => return Err(wrong(error.to_string())),
                    Err(died) => return Err(wrong(died.to_string())),
                };
                let bound = Arc::new(Bound::new(session, manifest));
                self.lock().retain(|_, bound| bound.strong_count() > 0);
                self.lock().insert(key, Arc::downgrade(&bound));
                bound
            }
        };
        Ok(bound)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(String, String, u64), Weak<Bound>>> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A version that cannot be used.
fn unusable(manifest: &Manifest, what: &str) -> Error {
    Error::Configuration(format!("model {} version {}: {what}", manifest.model, manifest.version))
}

impl Bound {
    /// `session`, which is what `manifest` says.
    pub(super) fn new(session: Session, manifest: &Manifest) -> Self {
        let features = feature_version(&manifest.features);
        let sha256 = &manifest.onnx.sha256;
        let identity = Identity::new(&manifest.model, manifest.version, sha256, features.as_deref());
        Self {
            session,
            manifest: manifest.clone(),
            features,
            feature_names: manifest.features.iter().map(|feature| feature.name.clone()).collect(),
            identity,
            failed: AtomicBool::new(false),
        }
    }

    /// Holds the number of features of a call against the model's.
    fn check_features(&self, given: usize) -> Result<(), String> {
        let expected = self.session.features();
        if !self.feature_names.is_empty() && self.feature_names.len() != expected {
            let named = self.feature_names.len();
            return Err(format!("the manifest names {named} features, the graph takes {expected}"));
        }
        if given == expected {
            return Ok(());
        }
        let names = match self.feature_names.is_empty() {
            true => String::new(),
            false => format!(" ({})", self.feature_names.join(", ")),
        };
        Err(format!("it takes {expected} features{names}, predict() is given {given}"))
    }

    /// What a commit says of it.
    pub(super) fn scored_by(&self, is_shadow: bool) -> ScoredBy {
        ScoredBy {
            model: self.manifest.model.clone(),
            version: self.manifest.version,
            sha256: self.manifest.onnx.sha256.clone(),
            features: self.features.clone(),
            shadow: is_shadow,
        }
    }

    /// Says that it failed beside a champion: loudly the first time.
    pub(super) fn complain(&self, error: &InferenceError) {
        let (model, version) = (&self.manifest.model, self.manifest.version);
        if self.failed.swap(true, Ordering::Relaxed) {
            tracing::debug!(model, version, %error, "the challenger has no answer");
        } else {
            warn!(model, version, %error, "the challenger has no answer; said once");
        }
    }
}

impl Binding {
    /// Whether one of its models cannot answer any more.
    pub(super) fn is_lost(&self) -> bool {
        std::iter::once(&self.champion).chain(&self.challenger).any(|bound| bound.session.is_lost())
    }

    /// The models of it, as a commit has them.
    pub(super) fn scored_by(&self) -> impl Iterator<Item = ScoredBy> {
        let challenger = self.challenger.iter().map(|bound| bound.scored_by(true));
        std::iter::once(self.champion.scored_by(false)).chain(challenger)
    }
}

/// The datasets that features are from, each with the version of its contract, in the order in which they come:
/// `flight_features@1.2.0, weather`.
fn feature_version(features: &[Feature]) -> Option<String> {
    let mut datasets: Vec<String> = Vec::new();
    for feature in features {
        let Some(dataset) = &feature.dataset else { continue };
        let text = match &feature.contract {
            Some(contract) => format!("{dataset}@{contract}"),
            None => dataset.clone(),
        };
        if !datasets.contains(&text) {
            datasets.push(text);
        }
    }
    (!datasets.is_empty()).then(|| datasets.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_features_names_each_dataset_once() {
        let feature = |dataset: Option<&str>, contract: Option<&str>| Feature {
            name: "f".into(),
            type_text: "double".into(),
            dataset: dataset.map(str::to_owned),
            column: None,
            contract: contract.map(str::to_owned),
        };
        let features = [
            feature(Some("flights"), Some("1.2.0")),
            feature(None, None),
            feature(Some("weather"), None),
            feature(Some("flights"), Some("1.2.0")),
        ];
        assert_eq!(feature_version(&features).as_deref(), Some("flights@1.2.0, weather"));
        assert_eq!(feature_version(&features[1..2]), None);
    }
}
