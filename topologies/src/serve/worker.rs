//! `isobar serve --worker`: parts of other servers' queries, by gRPC.
//!
//! It answers those who show the secret of `serve.workers`, and nobody else; `GET /metrics` and `GET /healthz` are for everybody. What it runs
//! and reads is said in `query/distributed`. It knows no callers and no roles: who may see what is decided by whoever
//! divides a query, and is part of the plans that come from there.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Status};
use tracing::warn;

use super::{ServeOptions, grpc, tls};
use crate::error::Error;
use crate::http::{bind, shown_metrics};
use crate::query::{TaskMetrics, secret_of_workers, worker_of};
use crate::spec::Topology;
use crate::start::open_clouds;
use crate::workers::token::Token;

/// Bytes of a message that comes: a plan with the files that it reads.
const REQUEST_BYTES_MAX: usize = 64 << 20;
/// Parts of queries at the same time in one connection; further ones wait.
const STREAMS_PER_CONNECTION_MAX: u32 = 1000;
/// Bytes of the headers of a request.
const HEADER_BYTES_MAX: u32 = 32 << 10;
/// How long a connection may say nothing before it is asked whether it is still there.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// A worker that runs.
#[derive(Debug)]
pub struct WorkerServer {
    /// Where it listens.
    pub address: SocketAddr,
    grace: Duration,
    shutdown: CancellationToken,
    serving: JoinHandle<()>,
}

impl WorkerServer {
    /// Starts to run parts of queries over `topology` until `shutdown`. Nothing is served but that.
    ///
    /// # Errors
    /// [`Error::Configuration`] for an address that cannot be listened on, a topology without a secret for workers, and for
    /// secrets, keys and certificates that cannot be read.
    pub async fn start(
        topology: &Topology,
        options: ServeOptions,
        shutdown: CancellationToken,
    ) -> Result<Self, Error> {
        let clouds = match options.clouds {
            Some(clouds) => clouds,
            None => open_clouds(topology)?,
        };
        let metrics = TaskMetrics::new(&topology.name);
        let worker = worker_of(topology, &clouds, metrics.clone())?;
        let token = Token::of(&secret_of_workers(topology)?);
        let tls = tls::of(topology)?;
        let (listener, address) = bind("--listen", options.listen).await?;
        if !address.ip().is_loopback() && tls.is_none() {
            warn!(%address, "the secret, plans and rows are on the wire as they are: see `serve.tls`");
        }
        let service = worker.into_worker_server().max_decoding_message_size(REQUEST_BYTES_MAX);
        let service = InterceptedService::new(service, authorized(token, metrics.clone()));
        let routes = Routes::from(plain(metrics)).add_service(service);
        let server = tonic::transport::Server::builder()
            .accept_http1(true)
            .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
            .http2_max_header_list_size(HEADER_BYTES_MAX)
            .http2_keepalive_interval(Some(SILENCE_MAX))
            .add_routes(routes);
        let stop = shutdown.clone();
        let serving = tokio::spawn(async move {
            let stopped = stop.clone().cancelled_owned();
            let served = match tls {
                None => {
                    let connections = TcpIncoming::from(listener).with_nodelay(Some(true));
                    server.serve_with_incoming_shutdown(connections, stopped).await
                }
                Some(tls) => {
                    let connections = grpc::secured(listener, address, &tls, stop);
                    server.serve_with_incoming_shutdown(connections, stopped).await
                }
            };
            if let Err(error) = served {
                let error = crate::chain_of(&error);
                tracing::error!(error, "the worker stopped listening");
            }
        });
        Ok(Self { address, grace: options.grace, shutdown, serving })
    }

    /// Waits until it is asked to stop, and then until its parts of queries have ended, or the time for that is over.
    pub async fn stopped(self) {
        self.shutdown.cancelled().await;
        let abort = self.serving.abort_handle();
        if tokio::time::timeout(self.grace, self.serving).await.is_err() {
            warn!("parts of queries are still running; they are abandoned");
            abort.abort();
        }
    }
}

/// Lets those pass who show `token`.
fn authorized(
    token: Token,
    metrics: TaskMetrics,
) -> impl FnMut(Request<()>) -> Result<Request<()>, Status> + Clone {
    move |request| {
        if token.admits(request.metadata().get("authorization").map(|shown| shown.as_bytes())) {
            return Ok(request);
        }
        metrics.unauthenticated();
        Err(Status::unauthenticated("a worker answers those who show the secret of `serve.workers`"))
    }
}

/// What everybody may ask, by HTTP.
fn plain(metrics: TaskMetrics) -> Router {
    let shown = move || async move { shown_metrics(metrics.render()) };
    Router::new().route("/healthz", get(|| async { "ok\n" })).route("/metrics", get(shown))
}
