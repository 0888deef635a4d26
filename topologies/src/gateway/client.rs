//! What sends requests: to a backend that the balance chooses, to a second one when the first is slow, and to another when there is
//! no answer.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, Request, Response, StatusCode};
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use hyper::body::Incoming;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::balance::{Balance, Ended, Notice};
use super::handed::Handed;
use super::kind::Kind;
use super::metrics::{Metrics, Outcome};
use super::outgoing::{KEPT_KIB_MAX, Outgoing, leave_out, timeout_in};
use super::pool::{Connection, Pool, Unanswered};
use crate::error::Error;
use crate::serve::tls_connector;
use crate::spec::gateway::{BackendSpec, GatewaySpec};

/// The header that says which cloud an answer is from.
pub(super) const CLOUD: &str = "isobar-cloud";
/// Requests under way at the same time; further ones are refused.
const RUNNING_MAX: usize = 10_000;

/// Why a request has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// It was carried out by nobody, as far as that is known: try again later.
    #[error("no backend answers: {0}")]
    Unavailable(String),
    /// The connection broke off, and the request is not safe to be sent twice: it may have been carried out.
    #[error("{0}; the request may have been carried out, and is not repeated")]
    Broken(String),
    /// Its time is over: ask for less, or wait longer.
    #[error("no answer has begun in the time that the request has")]
    Late,
    /// The request itself is wrong: fix it.
    #[error("{0}")]
    Wrong(String),
}

/// Sends requests to the backends of a gateway. Cheap to clone; all clones share what they know of the backends.
///
/// ```no_run
/// use axum::body::Body;
/// use axum::http::Request;
/// use isobar_topologies::gateway::Client;
/// use isobar_topologies::spec::gateway;
/// use tokio_util::sync::CancellationToken;
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let client = Client::open(&gateway::load("gateway.yaml".as_ref())?)?;
/// let stop = CancellationToken::new();
/// let probing = tokio::spawn(client.clone().probe(stop.clone()));
/// let answer = client.send(Request::get("/v1/datasets").body(Body::empty())?).await?;
/// println!("{} from {:?}", answer.status(), answer.headers().get("isobar-cloud"));
/// stop.cancel();
/// probing.await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Client(pub(super) Arc<Inner>);

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) spec: GatewaySpec,
    balance: Mutex<Balance>,
    pub(super) places: Vec<Place>,
    pub(super) metrics: Metrics,
    started: Instant,
    /// KiB for bodies that are kept.
    room: Arc<Semaphore>,
    running: Arc<Semaphore>,
}

/// A backend and the connections to it.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) cloud: String,
    /// `host:port`.
    pub(super) address: String,
    pub(super) pool: Pool,
    /// What answers say of where they are from.
    label: HeaderValue,
    /// How often it stopped answering what it had under way.
    lost: watch::Sender<u64>,
    /// Something went wrong: it should be probed now.
    pub(super) suspected: Notify,
}

impl Client {
    /// To the backends of `spec`. Nobody is asked yet; see [`probe`](Self::probe).
    ///
    /// # Errors
    /// [`Error::Configuration`] for certificates that cannot be read.
    pub fn open(spec: &GatewaySpec) -> Result<Self, Error> {
        let connector = spec.ca.as_deref().map(|ca| tls_connector(ca, spec.identity.as_ref(), "gateway"));
        let connector = connector.transpose()?;
        let places: Result<Vec<Place>, Error> =
            spec.backends.iter().map(|backend| Place::open(backend, connector.as_ref())).collect();
        Ok(Self(Arc::new(Inner {
            spec: spec.clone(),
            balance: Mutex::new(Balance::new(spec)),
            places: places?,
            metrics: Metrics::new(),
            started: Instant::now(),
            room: Arc::new(Semaphore::new(KEPT_KIB_MAX)),
            running: Arc::new(Semaphore::new(RUNNING_MAX)),
        })))
    }

    /// Asks the backends again and again whether they are ready, until `shutdown`. Without that, one that has failed stays away.
    pub async fn probe(self, shutdown: CancellationToken) {
        super::probes::follow(&self.0, shutdown).await;
    }

    /// Whether there is a backend that works.
    pub fn is_ready(&self) -> bool {
        let (balance, now) = (self.0.balance(), self.0.now());
        (0..self.0.places.len()).any(|at| balance.is_up(at, now))
    }

    /// Takes up weight, price and draining of the same backends.
    pub(super) fn adjust(&self, backends: &[BackendSpec]) {
        self.0.balance().adjust(backends);
    }

    /// The metrics, in Prometheus' text format.
    pub fn metrics(&self) -> String {
        let (balance, now) = (self.0.balance(), self.0.now());
        for (at, place) in self.0.places.iter().enumerate() {
            self.0.metrics.up(&place.cloud, &place.address, balance.is_up(at, now));
        }
        drop(balance);
        self.0.metrics.render()
    }

    /// Sends `request`, and more than once where that is needed and safe, until an answer begins. Its path says where; its host does
    /// not count. An answer that breaks off after that is an error of its body.
    ///
    /// # Errors
    /// [`Failure`] says whether to try again, to wait longer, or to change the request.
    pub async fn send(&self, request: Request<Body>) -> Result<Response<Body>, Failure> {
        let counted = self.0.metrics.begin(Kind::of(request.uri().path()));
        let sent = self.send_counted(request).await;
        counted.end(match &sent {
            Ok(_) => Outcome::Answered,
            Err(Failure::Unavailable(_)) => Outcome::Unavailable,
            Err(Failure::Broken(_)) => Outcome::Broken,
            Err(Failure::Late) => Outcome::Late,
            Err(Failure::Wrong(_)) => Outcome::Refused,
        });
        sent
    }

    async fn send_counted(&self, request: Request<Body>) -> Result<Response<Body>, Failure> {
        let inner = &self.0;
        let wanted = timeout_in(request.headers())?.unwrap_or(inner.spec.time);
        let deadline = Instant::now() + wanted.min(inner.spec.time);
        let Ok(place) = inner.running.clone().try_acquire_owned() else {
            return Err(Failure::Unavailable(format!("{RUNNING_MAX} requests are under way")));
        };
        let exchange = async {
            let (parts, body) = request.into_parts();
            let outgoing = Outgoing::read(parts, body, deadline, inner.spec.body_bytes, &inner.room).await?;
            inner.exchange(Arc::new(outgoing)).await
        };
        let answer = tokio::time::timeout_at(deadline, exchange).await.map_err(|_| Failure::Late)??;
        Ok(answer.hand_on(deadline, place))
    }
}

impl Place {
    fn open(spec: &BackendSpec, connector: Option<&TlsConnector>) -> Result<Self, Error> {
        let label = HeaderValue::try_from(spec.cloud.as_str());
        Ok(Self {
            cloud: spec.cloud.clone(),
            address: spec.address(),
            pool: Pool::open(spec, connector)?,
            label: label.map_err(|error| Error::Bug(format!("the name of a cloud: {error}")))?,
            lost: watch::Sender::new(0),
            suspected: Notify::new(),
        })
    }
}

impl Inner {
    /// The clock of the balance.
    pub(super) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    pub(super) fn balance(&self) -> MutexGuard<'_, Balance> {
        self.balance.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does what a change asks for.
    pub(super) fn note(&self, at: usize, notice: Option<Notice>) {
        let Some(notice) = notice else { return };
        let place = &self.places[at];
        let (cloud, backend) = (&place.cloud, &place.address);
        match notice {
            Notice::Up => info!(%cloud, %backend, "backend is up"),
            Notice::Down => warn!(%cloud, %backend, "backend is down, requests go to others"),
            Notice::Lost => {
                warn!(%cloud, %backend, "backend does not answer, its requests go to others");
                place.pool.forget();
                place.lost.send_modify(|times| *times += 1);
            }
            Notice::LeftAlone => {
                warn!(%cloud, %backend, "backend fails more than others, and is left alone for a while");
                place.suspected.notify_one();
            }
            Notice::Suspected => place.suspected.notify_one(),
        }
    }

    fn choose(&self, kind: Kind, tried: &[usize]) -> Option<usize> {
        self.balance().choose(kind, tried, self.now(), rand::random())
    }

    /// Sends `outgoing` until there is an answer, or nothing more can be tried.
    async fn exchange(self: &Arc<Self>, outgoing: Arc<Outgoing>) -> Result<Answer, Failure> {
        let kind = outgoing.kind;
        self.balance().asked(self.now());
        let attempts = FuturesUnordered::new();
        let mut round = Round { inner: self, outgoing: &outgoing, tried: Vec::new(), attempts };
        let first = self.choose(kind, &[]);
        round.begin(first.ok_or_else(|| Failure::Unavailable("all of them drain".to_owned()))?);
        let hedge_after = self.balance().hedge_after(kind).filter(|_| outgoing.is_repeatable);
        let mut is_hedge_due = hedge_after.is_some();
        let hedge = tokio::time::sleep(hedge_after.unwrap_or_default());
        tokio::pin!(hedge);
        let mut refusal = None;
        loop {
            tokio::select! {
                biased;
                Some(tried) = round.attempts.next() => {
                    let is_worked_on = match tried {
                        Tried::Answer(answer) if !(outgoing.is_repeatable && answer.may_be_better()) => return Ok(*answer),
                        // An answer that says what is wrong is worth more than none.
                        Tried::Answer(answer) => {
                            refusal = Some(Ok(*answer));
                            true
                        }
                        Tried::Nothing { fate, why } => {
                            if fate != Fate::Unwritten && !outgoing.is_repeatable {
                                return Err(Failure::Broken(why));
                            }
                            refusal.get_or_insert(Err(Failure::Unavailable(why)));
                            fate == Fate::Broken
                        }
                    };
                    // A hedge may still be answered.
                    if round.attempts.is_empty() && !round.retry(is_worked_on) {
                        break;
                    }
                }
                () = &mut hedge, if is_hedge_due => {
                    is_hedge_due = false;
                    round.hedge();
                }
                else => break,
            }
        }
        refusal.unwrap_or_else(|| Err(Failure::Unavailable("none could be asked".to_owned())))
    }

    /// Sends `outgoing` to the backend at `at` until its answer begins, or the backend is lost.
    async fn attempt(self: Arc<Self>, outgoing: Arc<Outgoing>, mut attempt: Attempt) -> Tried {
        let at = attempt.at;
        let place = &self.places[at];
        let mut lost = place.lost.subscribe();
        let Some(request) = outgoing.request(&place.pool.authority) else {
            return Tried::Nothing { fate: Fate::Broken, why: "the body of the request is gone".to_owned() };
        };
        let unanswered = tokio::select! {
            sent = place.pool.send(request) => match sent {
                Ok((response, connection)) => {
                    attempt.end(match response.status() {
                        StatusCode::TOO_MANY_REQUESTS => Ended::Full,
                        status if is_failure(status) => Ended::Failed,
                        _ => Ended::Answered(attempt.waited()),
                    });
                    return Tried::Answer(Box::new(Answer { response, connection, attempt }));
                }
                Err(unanswered) => unanswered,
            },
            // What cannot be asked elsewhere waits on: it may have an answer after all.
            _ = lost.changed(), if outgoing.is_repeatable && self.places.len() > 1 => {
                attempt.end(Ended::Abandoned(attempt.waited()));
                let why = format!("{} does not answer any more", place.cloud);
                return Tried::Nothing { fate: Fate::Lost, why };
            }
        };
        match unanswered {
            Unanswered::Unreachable { request, why } => {
                debug!(cloud = %place.cloud, backend = %place.address, why, "no connection");
                attempt.end(Ended::Unreachable);
                outgoing.take_back(*request);
                let why = format!("there is no connection to {}", place.cloud);
                Tried::Nothing { fate: Fate::Unwritten, why }
            }
            Unanswered::Broken { why } => {
                debug!(cloud = %place.cloud, backend = %place.address, why, "a connection broke off");
                attempt.end(Ended::Broken);
                let why = format!("the connection to {} broke off", place.cloud);
                Tried::Nothing { fate: Fate::Broken, why }
            }
            Unanswered::HalfSent => {
                attempt.end(Ended::Abandoned(attempt.waited()));
                let why = "the body of the request did not arrive whole".to_owned();
                Tried::Nothing { fate: Fate::Broken, why }
            }
        }
    }
}

/// Whether an answer says that the server failed.
fn is_failure(status: StatusCode) -> bool {
    status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED
}

/// The attempts of one request.
struct Round<'a> {
    inner: &'a Arc<Inner>,
    outgoing: &'a Arc<Outgoing>,
    /// The backends that it was sent to.
    tried: Vec<usize>,
    attempts: FuturesUnordered<BoxFuture<'static, Tried>>,
}

impl Round<'_> {
    fn begin(&mut self, at: usize) {
        self.tried.push(at);
        let attempt = Attempt::begin(self.inner.clone(), at, self.outgoing.kind);
        let sent = self.inner.clone().attempt(self.outgoing.clone(), attempt);
        self.attempts.push(Box::pin(sent));
    }

    /// A backend that was not tried.
    fn another(&self) -> Option<usize> {
        let may_go_on = self.tried.len() < self.inner.spec.attempts;
        may_go_on.then(|| self.inner.choose(self.outgoing.kind, &self.tried)).flatten()
    }

    /// Sends the request to another backend, if there is one and the budget allows it. What no backend works on makes no more work.
    fn retry(&mut self, is_worked_on: bool) -> bool {
        let Some(at) = self.another() else { return false };
        let now = self.inner.now();
        let may_retry = match is_worked_on {
            true => self.inner.balance().may_retry(now),
            false => self.inner.balance().may_move(),
        };
        if may_retry {
            self.inner.metrics.retries.inc();
            self.begin(at);
        }
        may_retry
    }

    /// Sends the request to a second backend that is up, beside the first.
    fn hedge(&mut self) {
        let Some(at) = self.another() else { return };
        if self.inner.balance().may_hedge(at, self.inner.now()) {
            self.inner.metrics.hedges.inc();
            self.begin(at);
        }
    }
}

/// What became of an attempt.
enum Tried {
    Answer(Box<Answer>),
    Nothing { fate: Fate, why: String },
}

/// What became of a request without an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// Not a byte of it was written.
    Unwritten,
    /// It was taken from a backend that does not answer any more.
    Lost,
    /// It may have arrived, and have been what the backend broke off at.
    Broken,
}

/// An answer that has begun.
struct Answer {
    response: Response<Incoming>,
    connection: Connection,
    attempt: Attempt,
}

impl Answer {
    /// Whether another backend may have a better one.
    fn may_be_better(&self) -> bool {
        matches!(
            self.response.status(),
            StatusCode::TOO_MANY_REQUESTS
                | StatusCode::BAD_GATEWAY
                | StatusCode::SERVICE_UNAVAILABLE
                | StatusCode::GATEWAY_TIMEOUT
        )
    }

    /// The answer for whoever asked. `place` is one of those under way, until it has ended.
    fn hand_on(self, deadline: Instant, place: OwnedSemaphorePermit) -> Response<Body> {
        let Self { response, connection, attempt } = self;
        let (mut parts, incoming) = response.into_parts();
        leave_out(&mut parts.headers);
        parts.headers.insert(CLOUD, attempt.inner.places[attempt.at].label.clone());
        let body = Handed::new(incoming, connection, attempt, deadline, place);
        Response::from_parts(parts, Body::new(body))
    }
}

/// A request that a backend has under way. One that is dropped was given up.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) inner: Arc<Inner>,
    pub(super) at: usize,
    kind: Kind,
    begun: Instant,
    has_ended: bool,
}

impl Attempt {
    fn begin(inner: Arc<Inner>, at: usize, kind: Kind) -> Self {
        inner.balance().begun(at);
        Self { inner, at, kind, begun: Instant::now(), has_ended: false }
    }

    fn waited(&self) -> Duration {
        self.begun.elapsed()
    }

    /// There is an answer, or there will be none.
    fn end(&mut self, ended: Ended) {
        self.has_ended = true;
        let place = &self.inner.places[self.at];
        self.inner.metrics.attempt(&place.cloud, &place.address, ended);
        let notice = self.inner.balance().ended(self.at, self.kind, ended, self.inner.now());
        self.inner.note(self.at, notice);
    }

    /// The answer broke off.
    pub(super) fn broke_off(&self) {
        let place = &self.inner.places[self.at];
        self.inner.metrics.broken(&place.cloud, &place.address);
        let notice = self.inner.balance().broke_off(self.at, self.inner.now());
        self.inner.note(self.at, Some(notice));
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if !self.has_ended {
            self.end(Ended::Abandoned(self.waited()));
        }
        self.inner.balance().released(self.at);
    }
}
