//! Which cloud a query asks first, and which ones it leaves alone for a while.
//!
//! Clouds that work come before clouds that failed lately; among them the order is the one that was asked for: that of the
//! topology, how soon they answer, or what reading from them costs. A cloud that fails is left alone for a pause that doubles
//! with each failure, and is then tried by one request, while all others still go elsewhere. It is never given up: when no
//! other cloud has what is asked for, it is asked all the same.
//!
//! [`Watched`] is how this hears of requests: a store that reports what became of each.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use isobar_connectors::clouds::Cloud;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use tracing::{info, warn};

use crate::backoff::Backoff;
use crate::error::Error;
use crate::spec::{Prefer, QuerySpec};

/// How long a cloud that failed is left alone, at first and at most.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// How much of a new measurement goes into what is remembered of earlier ones.
const NEWEST_SHARE: f64 = 0.2;
/// What is priced to compare clouds: a request of this size.
const PRICED_BYTES: u64 = 1 << 20;

/// What is known of the clouds, and what is asked for.
#[derive(Debug)]
pub(super) struct Route {
    prefer: Prefer,
    /// The clouds' names.
    names: Vec<String>,
    /// Per cloud, what a request of [`PRICED_BYTES`] costs; all 0 unless the cheapest is asked for.
    costs: Vec<f64>,
    clouds: Mutex<Vec<Health>>,
}

/// How one cloud has been doing.
#[derive(Debug)]
struct Health {
    backoff: Backoff,
    is_failing: bool,
    /// Whether a request is on its way to find out if it works again.
    is_tried: bool,
    /// How often it went from working to failing and back, or failed again. What began before the last time says nothing new.
    changes: u64,
    /// Seconds until an answer begins, smoothed.
    latency: Option<f64>,
}

impl Health {
    /// Whether it is to be asked only after all others.
    fn is_avoided(&self) -> bool {
        self.is_failing && (self.is_tried || !self.backoff.is_over())
    }
}

impl Route {
    /// Nothing is known of the clouds yet.
    ///
    /// # Errors
    /// [`Error::Configuration`] if the cheapest cloud is asked for and one has no price.
    pub(super) fn new(clouds: &[Cloud], query: &QuerySpec) -> std::result::Result<Self, Error> {
        let cost = |cloud: &Cloud| match (query.prefer, query.cost(&cloud.name, PRICED_BYTES, 1)) {
            (Prefer::Order | Prefer::Nearest, _) => Ok(0.0),
            (Prefer::Cheapest, Some(cost)) => Ok(cost),
            (Prefer::Cheapest, None) => Err(Error::Configuration(format!(
                "the cheapest cloud cannot be told: {} has no price; add it under `query`, `prices`, or prefer order or nearest",
                cloud.name
            ))),
        };
        let costs = clouds.iter().map(cost).collect::<std::result::Result<_, Error>>()?;
        let health = |_| Health {
            backoff: Backoff::new(PAUSES),
            is_failing: false,
            is_tried: false,
            changes: 0,
            latency: None,
        };
        let health = clouds.iter().map(health).collect();
        let names = clouds.iter().map(|cloud| cloud.name.clone()).collect();
        Ok(Self { prefer: query.prefer, names, costs, clouds: Mutex::new(health) })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Health>> {
        self.clouds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether latencies decide.
    pub(super) fn is_by_latency(&self) -> bool {
        self.prefer == Prefer::Nearest
    }

    /// All clouds, by their places, in the order in which they are to be asked.
    pub(super) fn order(&self) -> Vec<usize> {
        let clouds = self.lock();
        let rank = |at: usize| match self.prefer {
            Prefer::Order => 0.0,
            Prefer::Nearest => clouds[at].latency.unwrap_or(f64::INFINITY),
            Prefer::Cheapest => self.costs[at],
        };
        let mut order: Vec<usize> = (0..clouds.len()).collect();
        // Stable: what is equal stays in the order of the topology.
        order.sort_by(|a, b| {
            let avoided = clouds[*a].is_avoided().cmp(&clouds[*b].is_avoided());
            avoided.then(rank(*a).total_cmp(&rank(*b)))
        });
        order
    }

    /// The same, but the cloud at `first` comes first if it works.
    pub(super) fn order_from(&self, first: Option<usize>) -> Vec<usize> {
        let mut order = self.order();
        if let Some(first) = first
            && self.lock().get(first).is_some_and(|health| !health.is_avoided())
        {
            order.retain(|at| *at != first);
            order.insert(0, first);
        }
        order
    }

    /// A request to the cloud at `cloud` begins.
    fn begin(self: &Arc<Self>, cloud: usize) -> Attempt {
        let mut clouds = self.lock();
        let health = &mut clouds[cloud];
        let is_trial = health.is_failing && !health.is_tried && health.backoff.is_over();
        health.is_tried |= is_trial;
        let changes = health.changes;
        drop(clouds);
        Attempt { route: self.clone(), cloud, changes, is_trial, begun: Instant::now() }
    }
}

/// A request to a cloud, of which nothing is known yet.
struct Attempt {
    route: Arc<Route>,
    cloud: usize,
    changes: u64,
    /// Whether the cloud is asked to find out if it works again.
    is_trial: bool,
    begun: Instant,
}

impl Attempt {
    /// An answer has begun.
    fn answered(&self) {
        let elapsed = self.begun.elapsed().as_secs_f64();
        let mut clouds = self.route.lock();
        let health = &mut clouds[self.cloud];
        let before = health.latency.unwrap_or(elapsed);
        health.latency = Some(before + NEWEST_SHARE * (elapsed - before));
        if health.changes == self.changes && health.is_failing {
            health.backoff.worked();
            health.is_failing = false;
            health.changes += 1;
            let cloud = &self.route.names[self.cloud];
            info!(%cloud, "cloud answers queries again");
        }
    }

    /// There is no answer, or it broke off.
    fn failed(&self, why: &object_store::Error) {
        let mut clouds = self.route.lock();
        let health = &mut clouds[self.cloud];
        if health.changes == self.changes {
            health.backoff.failed();
            health.changes += 1;
            if !std::mem::replace(&mut health.is_failing, true) {
                let (cloud, why) = (&self.route.names[self.cloud], crate::chain_of(why));
                warn!(%cloud, why, "cloud fails, queries ask it after the others");
            }
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        // Also of a query that was given up: another request may try.
        if self.is_trial {
            self.route.lock()[self.cloud].is_tried = false;
        }
    }
}

/// A store that tells its route how its requests fare. It only reads.
#[derive(Debug)]
pub(super) struct Watched {
    inner: Arc<dyn ObjectStore>,
    route: Arc<Route>,
    cloud: usize,
}

impl Watched {
    /// Puts `route` before `inner`, the store of the cloud at `cloud`.
    pub(super) fn new(inner: Arc<dyn ObjectStore>, route: Arc<Route>, cloud: usize) -> Self {
        Self { inner, route, cloud }
    }

    fn listed(
        &self,
        objects: BoxStream<'static, Result<ObjectMeta>>,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let attempt = self.route.begin(self.cloud);
        let note = move |error: &object_store::Error| {
            if !is_an_answer(error) {
                attempt.failed(error);
            }
        };
        objects.inspect_err(note).boxed()
    }
}

/// Whether a cloud that says so works.
fn is_an_answer(error: &object_store::Error) -> bool {
    matches!(error, object_store::Error::NotFound { .. })
}

impl fmt::Display for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

/// What a query never does.
pub(super) fn only_reads() -> object_store::Error {
    object_store::Error::NotSupported { source: "queries only read".into() }
}

#[async_trait]
impl ObjectStore for Watched {
    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let attempt = self.route.begin(self.cloud);
        let mut answer = match self.inner.get_opts(location, options).await {
            Ok(answer) => answer,
            Err(error) => {
                if is_an_answer(&error) {
                    attempt.answered()
                } else {
                    attempt.failed(&error)
                }
                return Err(error);
            }
        };
        attempt.answered();
        answer.payload = match answer.payload {
            GetResultPayload::Stream(body) => {
                // Another attempt, so that what the first one has changed is not held against this.
                let attempt = self.route.begin(self.cloud);
                GetResultPayload::Stream(body.inspect_err(move |error| attempt.failed(error)).boxed())
            }
            file => file,
        };
        Ok(answer)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.listed(self.inner.list(prefix))
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.listed(self.inner.list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn put_opts(&self, _at: &Path, _payload: PutPayload, _options: PutOptions) -> Result<PutResult> {
        Err(only_reads())
    }

    async fn put_multipart_opts(
        &self,
        _at: &Path,
        _options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        Err(only_reads())
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        locations.map(|_| Err(only_reads())).boxed()
    }

    async fn copy_opts(&self, _from: &Path, _to: &Path, _options: CopyOptions) -> Result<()> {
        Err(only_reads())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use object_store::memory::InMemory;

    use super::*;
    use crate::spec::PriceSpec;

    fn route(query: QuerySpec) -> Arc<Route> {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let clouds = ["a", "b", "c"].map(|name| Cloud::new(name, store.clone(), store.clone()));
        Arc::new(Route::new(&clouds, &query).unwrap())
    }

    fn price(egress_per_gib: f64, request_per_million: f64) -> PriceSpec {
        PriceSpec { egress_per_gib, request_per_million }
    }

    #[test]
    fn a_cloud_that_failed_comes_last_and_one_failure_counts_once() {
        let route = route(QuerySpec::default());
        assert_eq!(route.order(), [0, 1, 2]);
        // Ten requests under way when the cloud dies are one failure.
        let attempts: Vec<Attempt> = (0..10).map(|_| route.begin(0)).collect();
        attempts.iter().for_each(|attempt| attempt.failed(&only_reads()));
        assert_eq!(route.lock()[0].changes, 1);
        assert_eq!(route.order(), [1, 2, 0]);
        assert_eq!(route.order_from(Some(2)), [2, 1, 0]);
        assert_eq!(route.order_from(Some(0)), [1, 2, 0]);
        // What began before says nothing of what is now.
        attempts[0].answered();
        assert_eq!(route.order(), [1, 2, 0]);
    }

    #[test]
    fn one_request_finds_out_whether_a_cloud_works_again() {
        let route = route(QuerySpec::default());
        route.begin(0).failed(&only_reads());
        assert!(!route.begin(0).is_trial, "the pause is not over");
        // The pause is over.
        route.lock()[0].backoff = Backoff::new(PAUSES);
        assert_eq!(route.order(), [0, 1, 2]);
        let trial = route.begin(0);
        assert!(trial.is_trial);
        assert_eq!(route.order(), [1, 2, 0]);
        assert!(!route.begin(0).is_trial, "one is enough");
        // Given up without an answer.
        drop(trial);
        assert_eq!(route.order(), [0, 1, 2]);
        let trial = route.begin(0);
        trial.answered();
        drop(trial);
        assert!(!route.lock()[0].is_failing);
        assert_eq!(route.order(), [0, 1, 2]);
    }

    #[test]
    fn the_nearest_cloud_is_the_one_that_answers_soonest() {
        let route = route(QuerySpec { prefer: Prefer::Nearest, ..QuerySpec::default() });
        route.lock()[2].latency = Some(0.010);
        route.lock()[1].latency = Some(0.200);
        assert_eq!(route.order(), [2, 1, 0]);
        route.begin(2).failed(&only_reads());
        assert_eq!(route.order(), [1, 0, 2]);
    }

    #[test]
    fn the_cheapest_cloud_is_ones_own_unless_requests_are_dear() {
        let prices = || {
            BTreeMap::from([
                ("a".to_owned(), price(0.09, 0.40)),
                ("b".to_owned(), price(0.05, 0.40)),
                ("c".to_owned(), price(0.12, 0.40)),
            ])
        };
        let spec = QuerySpec { prefer: Prefer::Cheapest, prices: prices(), ..QuerySpec::default() };
        assert_eq!(route(spec.clone()).order(), [1, 0, 2]);
        let local = QuerySpec { local_to: Some("c".into()), ..spec.clone() };
        assert_eq!(route(local).order(), [2, 1, 0]);
        let mut dear = QuerySpec { local_to: Some("c".into()), ..spec };
        dear.prices.insert("c".into(), price(0.0, 1000.0));
        assert_eq!(route(dear).order(), [1, 0, 2]);
    }

    #[test]
    fn without_a_price_no_cloud_is_the_cheapest() {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let query = QuerySpec { prefer: Prefer::Cheapest, ..QuerySpec::default() };
        let error = Route::new(&[Cloud::new("a", store.clone(), store)], &query).unwrap_err();
        assert!(error.exit_code() == 2 && error.to_string().contains("a has no price"), "{error}");
    }
}
