//! `isobar serve`: the datasets of a topology for programs, by HTTP and other protocols.
//!
//! ```text
//! HTTP ────────┐
//! PostgreSQL ──┼─▶ Engine: authenticate ─▶ prepare (parse, pin, plan) ─▶ run ─▶ rows
//! Flight SQL ──┘                                │
//!                                               └── snapshots that are kept; guards of the caller's role
//! ```
//!
//! With `serve.audit`, whoever asks what is written to a topic of Kafka ([`audit`]).
//!
//! Protocols only carry: who may read what ([`access`]), which versions a question is pinned to and how it runs ([`engine`]) and when
//! ([`gate`]) is the same for all of them. Nothing can be written by any of them. A server keeps nothing but
//! what it has read, so that there may be as many as needed, in every cloud.

mod access;
mod audit;
mod certificate;
mod engine;
mod flight;
mod gate;
mod grpc;
mod http;
mod inference;
mod metrics;
mod online;
mod postgres;
mod record_log;
mod refusal;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod tls;
mod worker;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use axum::Router;
use isobar_connectors::clouds::Cloud;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

pub use self::access::Caller;
pub(crate) use self::certificate::PeerNames;
pub use self::engine::{Engine, Prepared, Protocol, Question, TableInfo};
pub(crate) use self::http::{NamedPath, PROBLEM_TYPE, Problem, body_of, is_for_this_machine, name_in};
pub use self::refusal::Refusal;
pub(crate) use self::tls::{TlsListener, connector as tls_connector, open as open_tls};
pub use self::worker::WorkerServer;
use crate::door::{self, Bounds, Door};
use crate::error::Error;
use crate::http::bind;
use crate::online::OnlineViews;
use crate::query::TableVersion;
use crate::spec::Topology;
use crate::start::open_clouds;

/// Views that are caught up look for newer versions no more often than that, however new queries want their tables.
const FOLLOW_INTERVAL_MIN: Duration = Duration::from_millis(100);

/// How long a server that stops waits for the log of its queries, at least.
const FLUSH_PATIENCE_MIN: Duration = Duration::from_secs(2);

/// How a server is started.
#[derive(Debug, Clone)]
pub struct ServeOptions {
    /// Where HTTP listens; the system chooses the port when it is 0.
    pub listen: SocketAddr,
    /// How long queries may go on after the server is asked to stop.
    pub grace: Duration,
    /// The clouds, where they are open already.
    pub clouds: Option<Vec<Cloud>>,
    /// The folder for the stores of look-ups; `None`: there are no look-ups.
    pub online: Option<PathBuf>,
}

impl ServeOptions {
    /// HTTP at `listen`; ten seconds of grace.
    pub fn new(listen: SocketAddr) -> Self {
        Self { listen, grace: Duration::from_secs(10), clouds: None, online: None }
    }
}

/// A server that runs.
#[derive(Debug)]
pub struct Server {
    /// Where HTTP listens.
    pub address: SocketAddr,
    /// What answers questions, for whoever asks in this process.
    pub engine: Engine,
    grace: Duration,
    shutdown: CancellationToken,
    listeners: Vec<JoinHandle<()>>,
}

impl Server {
    /// Starts to serve `topology` until `shutdown`.
    ///
    /// # Errors
    /// [`Error::Configuration`] for an address that cannot be listened on or must not be without tokens, for secrets, keys and
    /// certificates that cannot be read, and for roles that do not fit the tables.
    pub async fn start(
        topology: &Topology,
        options: ServeOptions,
        shutdown: CancellationToken,
    ) -> Result<Self, Error> {
        let clouds = match &options.clouds {
            Some(clouds) => clouds.clone(),
            None => open_clouds(topology)?,
        };
        let engine = Engine::open(topology, &clouds)?;
        let tls = tls::of(topology)?;
        check_address(&engine, options.listen, tls.is_some())?;
        engine.check_roles().await?;
        if engine.is_open() {
            info!("there are no tokens: everybody on this machine reads everything");
        }
        let (listener, address) = bind("--listen", options.listen).await?;
        let mut listeners = Vec::new();
        if let Some((views, folder)) = look_ups(topology, &options) {
            engine.look_up_in(views.clone());
            let (memory, interval) = (topology.memory_bytes_max, follow_interval(topology));
            let stop = shutdown.clone();
            listeners.push(tokio::spawn(async move {
                views.follow(&clouds, &folder, memory, interval, stop).await;
            }));
        }
        let app = app(&engine);
        // Further protocols listen here, on the same engine, with the same `tls`, and end with the same token.
        let door = match tls {
            Some(tls) => Door::Tls(TlsListener::start(listener, address, tls, shutdown.clone())),
            None => Door::Plain(listener),
        };
        listeners.push(tokio::spawn(door::serve(door, app, bounds(topology), shutdown.clone())));
        Ok(Self { address, engine, grace: options.grace, shutdown, listeners })
    }

    /// Waits until it is asked to stop, and then until its queries have ended, or the time for that is over.
    pub async fn stopped(self) {
        self.shutdown.cancelled().await;
        let until = tokio::time::Instant::now() + self.grace;
        let aborts: Vec<_> = self.listeners.iter().map(JoinHandle::abort_handle).collect();
        let ended = futures::future::join_all(self.listeners);
        if tokio::time::timeout_at(until, ended).await.is_err() {
            warn!("queries are still running; they are abandoned");
            aborts.iter().for_each(tokio::task::AbortHandle::abort);
        }
        let left = until.saturating_duration_since(tokio::time::Instant::now());
        self.engine.close(left.max(FLUSH_PATIENCE_MIN)).await;
    }
}

/// What clients by HTTP may take. Whoever reads slowly has the longest time that a query may have.
fn bounds(topology: &Topology) -> Bounds {
    let bounds = Bounds::default();
    let roles = topology.serve.roles.values().filter_map(|role| role.limits.as_ref());
    let times = roles.map(|limits| limits.time).chain([topology.serve.limits.time]);
    Bounds { unread: times.fold(bounds.unread, Duration::max), ..bounds }
}

/// How often views that are caught up look for newer versions. For a query `refresh: 0s` means a look for each; here it would
/// be one after the other.
fn follow_interval(topology: &Topology) -> Duration {
    topology.serve.refresh.max(FOLLOW_INTERVAL_MIN)
}

/// The look-ups of `topology`, and the folder of their stores.
fn look_ups(topology: &Topology, options: &ServeOptions) -> Option<(OnlineViews, PathBuf)> {
    if topology.online.is_empty() {
        return None;
    }
    let Some(folder) = &options.online else {
        info!("there are no look-ups: they need --online-directory, a folder that they keep rows in");
        return None;
    };
    Some((OnlineViews::new(topology), folder.clone()))
}

/// Everything that HTTP answers. Routers of further parts are merged here.
fn app(engine: &Engine) -> Router {
    let app = http::router(engine.clone()).merge(inference::http::router(engine));
    let app = match engine.look_ups() {
        Some(views) => app.merge(online::router(engine, views.clone())),
        None => app,
    };
    // After the merge: a layer is around the routes that are there already.
    app.layer(axum::middleware::from_fn(http::harmless))
}

/// Answers by `app` whoever connects to `listener`, until `shutdown`: what `isobar serve` does, for whatever is asked in the
/// same way.
pub fn serve_http(listener: TcpListener, app: Router, shutdown: CancellationToken) -> JoinHandle<()> {
    tokio::spawn(door::serve(Door::Plain(listener), app, Bounds::default(), shutdown))
}

/// The end of an answer must not wait until its beginning is acknowledged.
pub(crate) fn send_at_once(connection: &TcpStream) {
    if let Err(error) = connection.set_nodelay(true) {
        tracing::debug!(%error, "a connection keeps back small pieces");
    }
}

/// What answers say of the tables that they are of.
fn versions_json(read: &[TableVersion]) -> serde_json::Value {
    let table = |read: &TableVersion| serde_json::json!({ "table": read.table, "version": read.version, "cloud": read.cloud });
    read.iter().map(table).collect()
}

/// Without tokens everybody who reaches the server reads everything.
fn check_address(engine: &Engine, address: SocketAddr, has_tls: bool) -> Result<(), Error> {
    let is_loopback = address.ip().is_loopback();
    if engine.is_open() && !is_loopback {
        return Err(Error::Configuration(format!(
            "everybody who reaches {address} could read everything: add `serve: {{ callers: {{ dashboards: {{ token: \
             \"${{env:DASHBOARDS_TOKEN}}\" }} }} }}` or `serve.jwt` to the specification, or listen on 127.0.0.1"
        )));
    }
    if !is_loopback && !has_tls {
        warn!(%address, "tokens and rows are on the wire as they are: see `serve.tls`, unless something in front has TLS");
    }
    Ok(())
}
