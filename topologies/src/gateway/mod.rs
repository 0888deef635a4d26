//! `isobar gateway`: servers in several clouds behind one address, and the same for programs in Rust ([`Client`]).
//!
//! ```text
//! door (connections) ─▶ proxy (headers, who asks) ─▶ Client (attempts, hedges, retries) ─▶ pool ─▶ backend
//!                                                       │    ▲
//!                                                events ▼    │ choices
//!                                                    balance (pure) ◀─ probes, watch of the file
//! ```
//!
//! [`balance`] decides which backend gets a request, and whether it may be sent once more; everything else carries that out. A request
//! that is safe to repeat survives the loss of a backend by one retry; any other is sent once. As soon as an answer has begun, nothing is
//! sent again: an answer that breaks off breaks off for whoever asked as well. See `docs/gateway.md`.

mod balance;
mod client;
mod handed;
mod kind;
mod metrics;
mod outgoing;
mod pool;
mod probes;
mod proxy;
mod watch;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::warn;

pub use self::client::{Client, Failure};
pub(crate) use self::proxy::Proxy;
use crate::door::{self, Bounds, Door};
use crate::error::Error;
use crate::http::bind;
use crate::serve::{TlsListener, open_tls};
use crate::spec::GatewaySpec;

/// How a gateway is started.
#[derive(Debug, Clone)]
pub struct GatewayOptions {
    /// Where it listens; the system chooses the port when it is 0.
    pub listen: SocketAddr,
    /// How long requests may go on after it is asked to stop.
    pub grace: Duration,
    /// The file that it is made of, whose changes are taken up; `None`: nothing changes.
    pub file: Option<PathBuf>,
}

/// A gateway that runs.
#[derive(Debug)]
pub struct GatewayServer {
    /// Where it listens.
    pub address: SocketAddr,
    grace: Duration,
    shutdown: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

impl GatewayServer {
    /// Starts a gateway of `spec`, until `shutdown`.
    ///
    /// # Errors
    /// [`Error::Configuration`] for an address that cannot be listened on, and for keys and certificates that cannot be read.
    pub async fn start(
        spec: &GatewaySpec,
        options: GatewayOptions,
        shutdown: CancellationToken,
    ) -> Result<Self, Error> {
        let client = Client::open(spec)?;
        let tls = spec.tls.as_ref().map(|tls| open_tls(tls, "gateway.tls")).transpose()?;
        let (listener, address) = bind("--listen", options.listen).await?;
        if tls.is_none() && !address.ip().is_loopback() {
            warn!(%address, "tokens and rows are on the wire as they are: see `gateway.tls`, unless something in front has TLS");
        }
        let door = match tls {
            Some(tls) => Door::Tls(TlsListener::start(listener, address, tls, shutdown.clone())),
            None => Door::Plain(listener),
        };
        let proxy = Proxy::new(client.clone(), shutdown.clone());
        // What runs is still retried while the gateway stops, so that probes go on as long.
        let (stop, over) = (shutdown.clone(), CancellationToken::new());
        let probing = tokio::spawn(client.clone().probe(over.clone()));
        let serving = tokio::spawn(async move {
            let _over = over.drop_guard();
            door::serve(door, proxy, Bounds::default(), stop).await;
        });
        let mut tasks = vec![serving, probing];
        if let Some(file) = options.file {
            tasks.push(tokio::spawn(watch::follow(client, file, shutdown.clone())));
        }
        Ok(Self { address, grace: options.grace, shutdown, tasks })
    }

    /// Waits until it is asked to stop, and then until its requests have ended, or the time for that is over.
    pub async fn stopped(self) {
        self.shutdown.cancelled().await;
        let aborts: Vec<_> = self.tasks.iter().map(JoinHandle::abort_handle).collect();
        let ended = futures::future::join_all(self.tasks);
        if tokio::time::timeout(self.grace, ended).await.is_err() {
            warn!("requests are still running; they are abandoned");
            aborts.iter().for_each(tokio::task::AbortHandle::abort);
        }
    }
}
