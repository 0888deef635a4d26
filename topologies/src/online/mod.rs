//! Online look-ups: the newest row of each entity of a dataset, by key, for those who cannot wait for a query.
//!
//! ```text
//! the dataset's log ─▶ follower ─▶ store on this machine ─▶ look-up ─▶ HTTP, or a program of this process
//! ```
//!
//! The `online` of a topology names the datasets ([`OnlineSpec`](crate::spec::OnlineSpec)). For each, [`follower`] keeps an embedded
//! key-value store ([`store`]) as new as the log, and [`lookup`] answers from it, at one version of the dataset, which the answer
//! states. What the store holds is a function of the rows of that version alone ([`layout`]): it is what
//!
//! ```sql
//! SELECT … FROM (SELECT …, row_number() OVER (PARTITION BY keys ORDER BY time DESC, …) AS n FROM dataset) WHERE n = 1
//! ```
//!
//! gives at that version, which [`verify`] checks with exactly this query.
//!
//! A store is a copy: deleted, it is built again. While the clouds are away look-ups go on, and say of which version they are.
//! `docs/online.md` is for users.

mod follower;
pub mod http;
mod layout;
mod lookup;
mod metrics;
mod reading;
pub mod standalone;
mod store;
#[cfg(test)]
mod tests;
pub mod verify;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use isobar_connectors::clouds::Cloud;
use serde::Serialize;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, info_span, warn};

pub use self::layout::Layout;
pub(crate) use self::layout::{not_a_feature, not_a_key, not_a_time};
pub use self::lookup::{Answer, Found, KEYS_MAX, LookupError, Options, key_column};
pub use self::store::{Applied, Reader};

use self::follower::Follower;
use self::metrics::Metrics;
use crate::backoff::Backoff;
use crate::spec::{OnlineSpec, Topology};

/// Pauses after a step that did not work: the first, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// Least memory for the cache of one store.
const CACHE_BYTES_MIN: u64 = 16 << 20;

/// The views of a topology. Cheap to clone.
#[derive(Debug, Clone)]
pub struct OnlineViews {
    views: Arc<[Arc<View>]>,
    metrics: Metrics,
}

/// The online view of one dataset: what look-ups share with what keeps it new.
#[derive(Debug)]
pub struct View {
    /// What it is.
    spec: OnlineSpec,
    metrics: Metrics,
    /// What is looked up in; `None` until the store is built.
    reader: RwLock<Option<Arc<Reader>>>,
    progress: Mutex<Progress>,
}

/// How far a view is.
#[derive(Debug, Default)]
struct Progress {
    /// The newest version that a cloud had when it was last asked.
    newest: u64,
    /// Bytes of the store.
    bytes: u64,
    /// Why the last step did not work, if it did not.
    failure: Option<String>,
}

/// A view as it is shown to people and to monitoring.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ViewStatus {
    /// The dataset.
    pub dataset: String,
    /// The columns of a key.
    pub keys: Vec<String>,
    /// The version that answers are of; `None` until the store is built.
    pub version: Option<u64>,
    /// The newest version that a cloud had when it was last asked.
    pub newest_version: u64,
    /// Seconds since `version` was committed.
    pub age_seconds: Option<f64>,
    /// How many entities have a row.
    pub entities: Option<u64>,
    /// Bytes of the store.
    pub bytes: u64,
    /// How old a row may be, in seconds.
    pub ttl_seconds: Option<u64>,
    /// Whether the last attempt to read what is new failed. The logs say why.
    pub failing: bool,
}

impl OnlineViews {
    /// The views of `topology`. They are empty until they are [followed](Self::follow).
    pub fn new(topology: &Topology) -> Self {
        let metrics = Metrics::new(&topology.name);
        let view = |spec: &OnlineSpec| Arc::new(View::new(spec, &metrics));
        Self { views: topology.online.iter().map(view).collect(), metrics }
    }

    /// The metrics as text.
    pub fn metrics(&self) -> String {
        self.metrics.render()
    }

    /// The view of `dataset`, if there is one.
    pub fn view(&self, dataset: &str) -> Option<Arc<View>> {
        self.views.iter().find(|view| view.spec.dataset == dataset).cloned()
    }

    /// All of them, in the order of the topology.
    pub fn all(&self) -> impl Iterator<Item = &Arc<View>> {
        self.views.iter()
    }

    /// Keeps every view as new as its dataset until `shutdown`, with stores in `folder`. The `clouds` are asked in this order,
    /// every `interval` once a view is caught up. All stores together cache at most a quarter of `memory_bytes_max`, but 16
    /// MiB each.
    ///
    /// What fails is logged, counted and tried again; look-ups go on meanwhile.
    pub async fn follow(
        &self,
        clouds: &[Cloud],
        folder: &Path,
        memory_bytes_max: u64,
        interval: Duration,
        shutdown: CancellationToken,
    ) {
        let share = memory_bytes_max / 4 / (self.views.len() as u64).max(1);
        let cache_bytes = usize::try_from(share.max(CACHE_BYTES_MIN)).unwrap_or(usize::MAX);
        let mut followers = JoinSet::new();
        for view in self.all() {
            let follower = Follower::new(view.clone(), clouds, folder, cache_bytes);
            let span = info_span!("online", dataset = view.spec.dataset);
            followers.spawn(keep_new(follower, view.clone(), interval, shutdown.clone()).instrument(span));
        }
        while let Some(ended) = followers.join_next().await {
            if let Err(died) = ended {
                warn!(%died, "an online view is not followed any more");
            }
        }
    }
}

/// Steps of `follower` until `shutdown`; then the store is closed, but for those who still read.
async fn keep_new(mut follower: Follower, view: Arc<View>, interval: Duration, shutdown: CancellationToken) {
    steps(&mut follower, &view, interval, &shutdown).await;
    follower.ended().await;
}

async fn steps(follower: &mut Follower, view: &View, interval: Duration, shutdown: &CancellationToken) {
    let mut backoff = Backoff::new(PAUSES);
    loop {
        let step = tokio::select! {
            () = shutdown.cancelled() => return,
            step = follower.step() => step,
        };
        let pause = match step {
            Ok(true) => {
                view.stepped(None);
                backoff.worked();
                continue;
            }
            Ok(false) => {
                view.stepped(None);
                backoff.worked();
                interval
            }
            Err(error) => {
                let why = crate::chain_of(&error);
                warn!(why, "the online view did not get newer, trying again");
                view.stepped(Some(why));
                backoff.failed()
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

impl View {
    fn new(spec: &OnlineSpec, metrics: &Metrics) -> Self {
        Self {
            spec: spec.clone(),
            metrics: metrics.clone(),
            reader: RwLock::default(),
            progress: Mutex::default(),
        }
    }

    /// What it is.
    pub fn spec(&self) -> &OnlineSpec {
        &self.spec
    }

    /// The rows as they are now. They stay what they are while they are held; the disk space of what is replaced meanwhile is
    /// not used again, so hold them for a request only.
    ///
    /// # Errors
    /// [`LookupError::NotReady`] until the store is built.
    pub fn reader(&self) -> Result<Arc<Reader>, LookupError> {
        let reader = self.reader.read().unwrap_or_else(PoisonError::into_inner);
        reader.clone().ok_or_else(|| LookupError::NotReady(self.spec.dataset.clone()))
    }

    /// Look-ups get these rows from here on.
    fn publish(&self, reader: Option<Reader>, bytes: u64) {
        let dataset = [self.spec.dataset.as_str()];
        if let Some(reader) = &reader {
            let Applied { version, committed_ms, .. } = reader.applied();
            self.metrics.version.with_label_values(&dataset).set(clamped(*version));
            self.metrics.commit_time.with_label_values(&dataset).set(*committed_ms as f64 / 1000.0);
            self.metrics.entities.with_label_values(&dataset).set(clamped(reader.keys()));
            self.looked(*version);
        }
        self.metrics.bytes.with_label_values(&dataset).set(clamped(bytes));
        self.progress().bytes = bytes;
        *self.reader.write().unwrap_or_else(PoisonError::into_inner) = reader.map(Arc::new);
    }

    /// A cloud has this version.
    fn looked(&self, version: u64) {
        let mut progress = self.progress();
        progress.newest = progress.newest.max(version);
        let newest = self.metrics.newest_version.with_label_values(&[self.spec.dataset.as_str()]);
        newest.set(clamped(progress.newest));
    }

    fn stepped(&self, failure: Option<String>) {
        if failure.is_some() {
            self.metrics.failures.with_label_values(&[self.spec.dataset.as_str()]).inc();
        }
        self.progress().failure = failure;
    }

    fn newest_version(&self) -> u64 {
        self.progress().newest
    }

    /// How far it is at the time `now_ms`, in milliseconds since the Unix epoch.
    pub fn status(&self, now_ms: i64) -> ViewStatus {
        let reader = self.reader().ok();
        let progress = self.progress();
        let age = |reader: &Arc<Reader>| now_ms.saturating_sub(reader.applied().committed_ms).max(0);
        ViewStatus {
            dataset: self.spec.dataset.clone(),
            keys: self.spec.keys.clone(),
            version: reader.as_ref().map(|reader| reader.applied().version),
            newest_version: progress.newest,
            age_seconds: reader.as_ref().map(|reader| age(reader) as f64 / 1000.0),
            entities: reader.as_ref().map(|reader| reader.keys()),
            bytes: progress.bytes,
            ttl_seconds: self.spec.ttl.map(|ttl| ttl.as_secs()),
            failing: progress.failure.is_some(),
        }
    }

    fn progress(&self) -> std::sync::MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn clamped(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
