//! The small HTTP side of a running topology: `/metrics`, `/healthz`, `/readyz`, and `/v1/leader` for standbys, and the
//! endpoints of [`workers`](crate::workers).

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::door::{self, Bounds, Door};
use crate::error::Error;
use crate::metrics::Metrics;
use crate::pipeline::RunOptions;
use crate::standby::{Leading, Pulse};
use crate::workers::{self, Desk};

/// How long requests may go on after the end of the topology.
const GRACE: Duration = Duration::from_secs(10);

/// Whether the topology leads and consumes: set by the pipeline, read by `/readyz`.
pub type Readiness = Arc<AtomicBool>;

/// What is shown of a running topology.
#[derive(Debug, Clone)]
pub struct Side {
    /// Its name.
    pub topology: String,
    /// Its metrics.
    pub metrics: Metrics,
    /// Whether it leads and consumes.
    pub ready: Readiness,
    /// Beats while it leads.
    pub pulse: Pulse,
    /// Where workers put down their commits; `None`: there are no endpoints for them.
    pub desk: Option<Desk>,
}

impl Side {
    /// That of a run of `topology` with `options`.
    pub fn of(topology: &str, options: &RunOptions) -> Self {
        Self {
            topology: topology.to_owned(),
            metrics: options.metrics.clone(),
            ready: options.ready.clone(),
            pulse: options.pulse.clone(),
            desk: options.desk.clone(),
        }
    }
}

/// Listens at `address`, as `option` asks for, and says where that is: the system chooses the port when it is 0.
///
/// # Errors
/// [`Error::Configuration`] for an address that cannot be listened on.
pub(crate) async fn bind(option: &str, address: SocketAddr) -> Result<(TcpListener, SocketAddr), Error> {
    let cannot = |error| Error::Configuration(format!("cannot listen on {option} {address}: {error}"));
    let listener = TcpListener::bind(address).await.map_err(cannot)?;
    let address = listener.local_addr().map_err(cannot)?;
    Ok((listener, address))
}

/// A bound, running server.
#[derive(Debug)]
pub struct MetricsServer {
    /// Where it listens; the port is chosen by the system when 0 was asked for.
    pub address: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

impl MetricsServer {
    /// Binds `address` and serves until `shutdown`.
    pub async fn start(address: SocketAddr, side: Side, shutdown: CancellationToken) -> Result<Self, Error> {
        let (listener, address) = bind("--metrics-addr", address).await?;
        let app = router(side);
        let task = tokio::spawn(door::serve(Door::Plain(listener), app, Bounds::default(), shutdown));
        Ok(Self { address, task })
    }

    /// Waits until open requests are answered after the shutdown, or the time for that is over.
    pub async fn stopped(mut self) {
        if tokio::time::timeout(GRACE, &mut self.task).await.is_err() {
            self.task.abort();
        }
    }
}

/// The answer to `GET /metrics`: `text`, in Prometheus' format.
pub(crate) fn shown_metrics(text: String) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

fn router(Side { topology, metrics, ready, pulse, desk }: Side) -> Router {
    let for_workers = desk.map(workers::router).unwrap_or_default();
    Router::new()
        .merge(for_workers)
        .route("/metrics", get(move || async move { shown_metrics(metrics.render()) }))
        .route("/healthz", get(|| async { "ok\n" }))
        .route(
            "/v1/leader",
            get(move || async move {
                match pulse.epoch() {
                    Some(epoch) => axum::Json(Leading { topology, epoch }).into_response(),
                    None => (StatusCode::SERVICE_UNAVAILABLE, "not leading\n").into_response(),
                }
            }),
        )
        .route(
            "/readyz",
            get(move || async move {
                match ready.load(Ordering::Relaxed) {
                    true => (StatusCode::OK, "ready\n"),
                    false => (StatusCode::SERVICE_UNAVAILABLE, "not leading yet\n"),
                }
            }),
        )
}
