//! The small HTTP side of a running topology: `/metrics`, `/healthz`, `/readyz`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::error::Error;
use crate::metrics::Metrics;

/// Whether the topology leads and consumes: set by the pipeline, read by `/readyz`.
pub type Readiness = Arc<AtomicBool>;

/// A bound, running server.
#[derive(Debug)]
pub struct MetricsServer {
    /// Where it listens; the port is chosen by the system when 0 was asked for.
    pub address: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

impl MetricsServer {
    /// Binds `address` and serves until `shutdown`.
    pub async fn start(
        address: SocketAddr,
        metrics: Metrics,
        ready: Readiness,
        shutdown: CancellationToken,
    ) -> Result<Self, Error> {
        let cannot =
            |error| Error::Configuration(format!("cannot listen on --metrics-addr {address}: {error}"));
        let listener = TcpListener::bind(address).await.map_err(cannot)?;
        let address = listener.local_addr().map_err(cannot)?;
        let app = router(metrics, ready);
        let task = tokio::spawn(async move {
            let served = axum::serve(listener, app).with_graceful_shutdown(shutdown.cancelled_owned()).await;
            if let Err(error) = served {
                tracing::error!(%error, "metrics server stopped");
            }
        });
        Ok(Self { address, task })
    }

    /// Waits until open requests are answered after the shutdown.
    pub async fn stopped(self) {
        let _ = self.task.await;
    }
}

fn router(metrics: Metrics, ready: Readiness) -> Router {
    let content_type = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    Router::new()
        .route("/metrics", get(move || async move { (content_type, metrics.render()).into_response() }))
        .route("/healthz", get(|| async { "ok\n" }))
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
