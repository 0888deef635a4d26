//! The PostgreSQL protocol of `isobar serve`: for psql, drivers of every language and BI tools.
//!
//! | file | what it is for |
//! |---|---|
//! | `opening.rs` | TLS, who asks, and what both sides tell each other before the first query |
//! | `conversation.rs` | one message after the other, until it ends; cancelling |
//! | `session.rs`, `session/` | what statements, portals and transactions mean |
//! | `statement.rs` | telling queries from statements about the session |
//! | `catalog/` | `pg_catalog` and `information_schema`, as far as clients need them |
//! | `encode.rs`, `parameters.rs`, `types.rs` | values, both ways |
//! | `frontend.rs`, `wire.rs` | messages out of bytes that nobody has checked, and back |
//!
//! Queries go to the [`Engine`] as they are, so that they mean the same as in every other protocol, and so that roles and limits
//! are its own. Only what asks about the server itself is answered here, from tables in memory that hold nothing the caller may
//! not see.
//!
//! **Transactions** read: between `BEGIN` and `COMMIT`, a table stays at the version at which it was first seen. Whatever would
//! write is refused.
//!
//! **Tokens** are passwords, sent as they are: the server knows only their digests, so that no exchange is possible that proves
//! a password without showing it (SCRAM). Without TLS they are asked for on loopback only.
//!
//! **Bounds.** Connections, messages before and after a client has said who it is, statements and portals of a connection are
//! bounded; rows are written as fast as the client reads them, and a client that has hung up ends its query.

mod catalog;
mod conversation;
mod encode;
mod failure;
mod frontend;
mod opening;
mod parameters;
mod rows;
mod session;
mod settings;
mod statement;
#[cfg(test)]
mod tests;
mod types;
mod wire;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_util::sync::CancellationToken;

use super::{Engine, Server, check_address, tls};
use crate::error::Error;
use crate::http::bind;
use crate::spec::Topology;

/// Most connections at a time.
const CONNECTIONS_MAX: usize = 500;
/// Further ones at a time, which cancel queries or are told that there are too many.
const FURTHER_MAX: usize = 100;
/// How long a client may say nothing. One that is gone without a word must not have a place for ever.
const IDLE_TIME_MAX: Duration = Duration::from_secs(60 * 60);
/// How long a client may take to say who it is.
const OPENING_TIME_MAX: Duration = Duration::from_secs(30);
/// How long to wait when the system has no more connections to give.
const ACCEPT_AGAIN: Duration = Duration::from_millis(200);
/// What TLS clients call this protocol.
const PROTOCOL_NAME: &[u8] = b"postgresql";

/// What all connections share.
struct Shared {
    engine: Engine,
    tls: Option<TlsAcceptor>,
    needs_tls: bool,
    idle_time_max: Duration,
    cancels: Arc<Cancels>,
    shutdown: CancellationToken,
}

impl Server {
    /// Serves the PostgreSQL protocol at `listen` as well, until the server is asked to stop; the system chooses the port when it
    /// is 0. Returns where it listens.
    ///
    /// # Errors
    /// [`Error::Configuration`] for an address that cannot be listened on or must not be without tokens, and for keys and
    /// certificates that cannot be read.
    pub async fn start_postgres(
        &mut self,
        topology: &Topology,
        listen: SocketAddr,
    ) -> Result<SocketAddr, Error> {
        let tls = tls::of(topology)?;
        check_address(&self.engine, listen, tls.is_some())?;
        let (listener, address) = bind("--postgres", listen).await?;
        let needs_tls = topology.serve.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
        let terms = Terms { tls, needs_tls, ..Terms::default() };
        let serving = serve(listener, self.engine.clone(), terms, self.shutdown.clone());
        self.listeners.push(tokio::spawn(serving));
        Ok(address)
    }
}

/// On which terms clients connect.
struct Terms {
    tls: Option<Arc<ServerConfig>>,
    /// Nobody connects without TLS: clients show a certificate.
    needs_tls: bool,
    /// How long a client may say nothing.
    idle_time_max: Duration,
}

impl Default for Terms {
    fn default() -> Self {
        Self { tls: None, needs_tls: false, idle_time_max: IDLE_TIME_MAX }
    }
}

/// Speaks the protocol on `listener` until `shutdown`, over TLS if there is a configuration for it, and then until what is being
/// answered has been.
async fn serve(listener: TcpListener, engine: Engine, terms: Terms, shutdown: CancellationToken) {
    let tls = terms.tls.map(|configuration| {
        let mut configuration = (*configuration).clone();
        // That of HTTP would make TLS fail for clients that name this one, as libpq 17 does.
        configuration.alpn_protocols = vec![PROTOCOL_NAME.to_vec()];
        TlsAcceptor::from(Arc::new(configuration))
    });
    let shared = Arc::new(Shared {
        engine,
        tls,
        needs_tls: terms.needs_tls,
        idle_time_max: terms.idle_time_max,
        cancels: Arc::default(),
        shutdown: shutdown.clone(),
    });
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let further = Arc::new(Semaphore::new(FURTHER_MAX));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let place = places.clone().try_acquire_owned();
                let has_place = place.is_ok();
                // Beyond all bounds, there is no answer either.
                let Ok(place) = place.or_else(|_| further.clone().try_acquire_owned()) else { continue };
                let shared = shared.clone();
                connections.spawn(async move {
                    opening::connected(stream, peer, &shared, has_place).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_AGAIN).await;
            }
        }
    }
    while connections.join_next().await.is_some() {}
}

/// The connections whose queries can be cancelled from another one.
#[derive(Default)]
struct Cancels {
    by_process: Mutex<HashMap<i32, Cancel>>,
    next: AtomicI32,
}

struct Cancel {
    key: Vec<u8>,
    running: CancellationToken,
}

/// A connection among those that can be cancelled, until it is dropped.
struct Cancelable {
    cancels: Arc<Cancels>,
    process: i32,
    key: Vec<u8>,
}

impl Cancels {
    /// One more connection. Its key has `key_bytes` bytes, 4 or 32.
    fn register(self: &Arc<Self>, key_bytes: usize) -> Cancelable {
        let key = rand::random::<[u8; 32]>()[..key_bytes].to_vec();
        let mut by_process = self.by_process.lock().unwrap_or_else(PoisonError::into_inner);
        let process = loop {
            let process = self.next.fetch_add(1, Ordering::Relaxed).wrapping_add(1) & i32::MAX;
            if process > 0 && !by_process.contains_key(&process) {
                break process;
            }
        };
        by_process.insert(process, Cancel { key: key.clone(), running: CancellationToken::new() });
        drop(by_process);
        Cancelable { cancels: self.clone(), process, key }
    }

    /// Ends what a connection is doing, if `key` is its own.
    fn cancel(&self, process: i32, key: &[u8]) {
        let by_process = self.by_process.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(cancel) = by_process.get(&process) else { return };
        if crate::is_shown(&cancel.key, key) {
            cancel.running.cancel();
        }
    }
}

impl Cancelable {
    /// What is cancelled if somebody asks for it from now on.
    fn begin(&self) -> CancellationToken {
        let token = CancellationToken::new();
        let mut by_process = self.cancels.by_process.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cancel) = by_process.get_mut(&self.process) {
            cancel.running = token.clone();
        }
        token
    }
}

impl Drop for Cancelable {
    fn drop(&mut self) {
        self.cancels.by_process.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.process);
    }
}
