//! The simulated Google Cloud Storage of `wire` as a server of its own: the GCS of the test suite, which no packaged
//! emulator can be because none honours the preconditions that the client sends.

use std::collections::BTreeMap;

use chrono::Utc;

use crate::wire::{Protocol, Server, Simulator, service_account_key};

/// A running simulator; it ends when dropped.
#[derive(Debug)]
pub struct GcsSimulator {
    server: Server,
}

impl GcsSimulator {
    /// Serves empty `buckets` at `address`; port 0 takes a free one.
    ///
    /// # Errors
    /// If the address cannot be listened on.
    pub async fn start(address: &str, buckets: &[&str]) -> std::io::Result<Self> {
        let simulator = Simulator::starting_at(0, Utc::now(), buckets);
        Ok(Self { server: simulator.serve(Protocol::Gcs, address).await? })
    }

    /// Where it listens, `host:port`.
    pub fn address(&self) -> String {
        self.server.address()
    }

    /// The options of a `gs://` cloud whose requests go to `address` (`host:port`).
    pub fn options(address: &str) -> BTreeMap<String, String> {
        Protocol::Gcs.options(Some(address))
    }

    /// A service account that needs no token and names `address` as Google's.
    pub fn service_account_key(address: &str) -> String {
        service_account_key(Some(address))
    }

    /// Serves until the process ends.
    ///
    /// # Panics
    /// If the server does.
    pub async fn serve_for_ever(self) {
        self.server.serve_for_ever().await;
    }
}
