//! The models that are asked for, loaded, and what an alias means now.
//!
//! Nothing waits for the registry but the first request for a version: what an alias means is believed for some time, then it is looked
//! up again while requests go to the version that was meant before. A version that cannot be found or loaded does not take the
//! place of one that answers; that is said once. As many stay loaded as the specification says.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prometheus::Histogram;
use tokio::sync::Semaphore;
use tracing::{info, warn};

use super::batches::Batches;
use crate::error::Error;
use crate::inference::{Bound, ModelStore, Reference};
use crate::models::{Manifest, Model};
use crate::serve::Refusal;
use crate::spec::serve::InferenceSpec;

/// How long somebody who asks for what is not there is told so without another look.
const FAILURE_TIME: Duration = Duration::from_secs(1);

/// Models that are loaded at the same time: each is read whole into memory.
const LOADS_MAX: usize = 2;

/// See the [module](self).
pub(super) struct Models {
    store: Arc<ModelStore>,
    spec: InferenceSpec,
    entries: Mutex<BTreeMap<Reference, Arc<Entry>>>,
    /// Places of requests, by model.
    places: Mutex<HashMap<String, Arc<Semaphore>>>,
    loads: Semaphore,
    counted: Histogram,
}

/// A version that answers.
#[derive(Debug)]
pub(super) struct Served {
    pub(super) bound: Arc<Bound>,
    /// What may be asked for: the numbers of all versions, and all aliases.
    pub(super) versions: Vec<String>,
    pub(super) batches: Arc<Batches>,
    /// For requests to the model, whatever its version.
    pub(super) places: Arc<Semaphore>,
}

/// What is known of a reference.
struct Entry {
    known: Mutex<Known>,
    /// Held by whoever looks.
    looking: tokio::sync::Mutex<()>,
}

struct Known {
    served: Option<Arc<Served>>,
    /// When `served` was last looked for.
    looked: Instant,
    /// Why there was none, and when.
    failed: Option<(Instant, Refusal)>,
    asked: Instant,
}

impl fmt::Debug for Models {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Models").field("store", &self.store).finish_non_exhaustive()
    }
}

impl Served {
    /// How long it is believed, where that is `refresh`: one that cannot answer any more is soon loaded again.
    fn time(&self, refresh: Duration) -> Duration {
        if self.bound.session.is_lost() { refresh.min(FAILURE_TIME) } else { refresh }
    }
}

impl Entry {
    fn new() -> Self {
        let now = Instant::now();
        let known = Known { served: None, looked: now, failed: None, asked: now };
        Self { known: Mutex::new(known), looking: tokio::sync::Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known, if it was looked for not long ago.
    fn fresh(&self, refresh: Duration) -> Option<Result<Arc<Served>, Refusal>> {
        let known = self.lock();
        match (&known.served, &known.failed) {
            (Some(served), _) if known.looked.elapsed() < served.time(refresh) => Some(Ok(served.clone())),
            (None, Some((when, refusal))) if when.elapsed() < FAILURE_TIME => Some(Err(refusal.clone())),
            _ => None,
        }
    }
}

impl Models {
    pub(super) fn new(store: Arc<ModelStore>, spec: InferenceSpec, counted: Histogram) -> Self {
        let loads = Semaphore::new(LOADS_MAX);
        Self { store, spec, entries: Mutex::default(), places: Mutex::default(), loads, counted }
    }

    /// Where they come from.
    pub(super) fn store(&self) -> &ModelStore {
        &self.store
    }

    /// The version that `reference` means, loaded.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] if there is none, [`Refusal::Internal`] for one that cannot be used, and [`Refusal::Unavailable`] if
    /// no cloud can say.
    pub(super) async fn served(self: &Arc<Self>, reference: &Reference) -> Result<Arc<Served>, Refusal> {
        let entry = self.entry(reference);
        if let Some(known) = entry.fresh(self.spec.refresh) {
            return known;
        }
        let looking = self.clone().look(reference.clone(), entry.clone());
        let before = entry.lock().served.clone();
        match before {
            Some(served) => {
                // One of those who ask looks.
                if entry.looking.try_lock().is_ok() {
                    tokio::spawn(looking);
                }
                Ok(served)
            }
            // Whoever does not wait any more leaves it to those who come after.
            None => tokio::spawn(looking)
                .await
                .unwrap_or_else(|_| Err(Refusal::Internal("a model was not loaded".to_owned()))),
        }
    }

    async fn look(self: Arc<Self>, reference: Reference, entry: Arc<Entry>) -> Result<Arc<Served>, Refusal> {
        let _looking = entry.looking.lock().await;
        if let Some(known) = entry.fresh(self.spec.refresh) {
            return known;
        }
        let before = entry.lock().served.clone();
        let found = self.found(&reference, before.as_ref()).await;
        if found.is_ok() && before.is_none() {
            self.make_room(&reference);
        }
        let mut known = entry.lock();
        known.looked = Instant::now();
        match found {
            Ok(served) => {
                let version = served.bound.manifest.version;
                if before.is_none_or(|before| before.bound.manifest.version != version) {
                    info!(model = reference.model(), version, "the model answers requests");
                }
                known.failed = None;
                known.served = Some(served.clone());
                Ok(served)
            }
            Err(refusal) => {
                let is_news = known.failed.as_ref().is_none_or(|(_, before)| *before != refusal);
                known.failed = Some((Instant::now(), refusal.clone()));
                match &known.served {
                    Some(served) => {
                        if is_news {
                            warn!(%reference, %refusal, "what a model means now cannot be told; the one before answers on");
                        }
                        Ok(served.clone())
                    }
                    None => Err(refusal),
                }
            }
        }
    }

    async fn found(
        &self,
        reference: &Reference,
        before: Option<&Arc<Served>>,
    ) -> Result<Arc<Served>, Refusal> {
        let (model, manifest) = self.find(reference).await?;
        let versions = versions_of(&model);
        let answers = |bound: &Bound| bound.manifest == manifest && !bound.session.is_lost();
        if let Some(before) = before.filter(|before| answers(&before.bound)) {
            let (bound, batches, places) =
                (before.bound.clone(), before.batches.clone(), before.places.clone());
            return Ok(Arc::new(Served { bound, versions, batches, places }));
        }
        let bound = {
            let _load = self.loads.acquire().await;
            self.store.loaded(&manifest).await.map_err(|error| unusable(&manifest, error))?
        };
        let limits = self.spec.limits_of(reference.model());
        let batches = Batches::new(bound.clone(), limits.batch, limits.wait, self.counted.clone());
        let places = self.places_of(reference.model(), limits.running);
        Ok(Arc::new(Served { bound, versions, batches: Arc::new(batches), places }))
    }

    async fn find(&self, reference: &Reference) -> Result<(Model, Manifest), Refusal> {
        self.store.find(reference).await.map_err(|error| match error {
            // There is the model, and whoever got here may ask it.
            Error::Configuration(why) if why.starts_with("the model ") => Refusal::NotFound(why),
            Error::Configuration(_) => Refusal::NotFound(format!("there is no model {reference}")),
            error => error.into(),
        })
    }

    fn places_of(&self, model: &str, count: usize) -> Arc<Semaphore> {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        places.entry(model.to_owned()).or_insert_with(|| Arc::new(Semaphore::new(count))).clone()
    }

    /// What is known of `reference`. Of those without a model as many are kept as of those with one, so that whoever asks for what is
    /// not there takes no model's place.
    fn entry(&self, reference: &Reference) -> Arc<Entry> {
        let mut entries = self.entries();
        if let Some(entry) = entries.get(reference) {
            entry.lock().asked = Instant::now();
            return entry.clone();
        }
        remove_unasked(&mut entries, self.spec.loaded, |_, known| known.served.is_none());
        let entry = Arc::new(Entry::new());
        entries.insert(reference.clone(), entry.clone());
        entry
    }

    /// Gives up the models that were not asked for longest, until there is room for that of `reference`.
    fn make_room(&self, reference: &Reference) {
        let is_another = |other: &Reference, known: &Known| other != reference && known.served.is_some();
        remove_unasked(&mut self.entries(), self.spec.loaded, is_another);
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<Reference, Arc<Entry>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Leaves fewer than `count` of the entries that `is_one` of a kind; those go that were not asked for longest.
fn remove_unasked(
    entries: &mut BTreeMap<Reference, Arc<Entry>>,
    count: usize,
    is_one: impl Fn(&Reference, &Known) -> bool,
) {
    loop {
        let known = entries.iter().filter_map(|(reference, entry)| {
            let known = entry.lock();
            is_one(reference, &known).then(|| (known.asked, reference.clone()))
        });
        let known: Vec<(Instant, Reference)> = known.collect();
        if known.len() < count {
            return;
        }
        let Some((_, last)) = known.into_iter().min() else { return };
        entries.remove(&last);
    }
}

/// What may be asked for of a model.
fn versions_of(model: &Model) -> Vec<String> {
    model.versions.keys().map(ToString::to_string).chain(model.aliases.keys().cloned()).collect()
}

/// Why a version that is there does not answer. Where things lie on this machine is for the log.
fn unusable(manifest: &Manifest, error: Error) -> Refusal {
    let (model, version) = (&manifest.model, manifest.version);
    match error {
        Error::Configuration(why) if why.starts_with("model ") => {
            warn!(why, "a model cannot be used");
            Refusal::Internal(why)
        }
        Error::Configuration(why) => {
            tracing::error!(why, model, version, "a model cannot be used");
            Refusal::Unavailable(format!(
                "model {model} version {version} cannot be loaded: ONNX Runtime is not there; the server's log says why"
            ))
        }
        error => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_go_that_were_not_asked_for_longest_and_of_their_kind_alone() {
        let start = Instant::now();
        let mut entries = BTreeMap::new();
        for (name, seconds) in [("a", 3), ("b", 1), ("c", 2), ("d@1", 0)] {
            let entry = Entry::new();
            entry.lock().asked = start + Duration::from_secs(seconds);
            entries.insert(name.parse::<Reference>().unwrap(), Arc::new(entry));
        }
        let is_one = |reference: &Reference, _: &Known| reference.model() != "d";
        let names = |entries: &BTreeMap<Reference, Arc<Entry>>| {
            entries.keys().map(ToString::to_string).collect::<Vec<String>>()
        };
        remove_unasked(&mut entries, 4, is_one);
        assert_eq!(names(&entries), ["a", "b", "c", "d@1"]);
        remove_unasked(&mut entries, 2, is_one);
        assert_eq!(names(&entries), ["a", "d@1"]);
    }
}
